package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"linli/internal/alert"
	"linli/internal/journal"
	"linli/internal/telemetry"
	"linli/internal/yamlfile"
	"linli/rules"
	"linli/rules/backtest"
	"linli/rules/expr"
)

func rulesBacktestCommand() *cobra.Command {
	var o backtestOptions
	cmd := &cobra.Command{
		Use:   "backtest -c FILE --since 7d",
		Short: "Say what the rules would have done with what the site has measured",
		Long: "Give the rules what the journal of this site has kept, and say which alerts would appear, vanish or move compared\n" +
			"with those that were recorded. With --pack a pack takes the place of the one with its id, or is added. Works beside\n" +
			"a running gateway and changes nothing. Exit code 0: no difference, 1: there are differences.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.file == "" {
				return &usageError{errors.New("backtest needs a site file: linli rules backtest -c FILE --since 7d")}
			}
			progress := newProgressLine(cmd.ErrOrStderr(), o.verbose)
			began := time.Now()
			o.progress = func(p backtest.Progress, begin, until time.Time) {
				done := float64(p.At.Sub(begin)) / max(float64(until.Sub(begin)), 1)
				rate := float64(p.Samples) / 1e6 / max(time.Since(began).Seconds(), 0.001)
				progress.show(fmt.Sprintf("%3.0f %% %s, %.1f million samples a second", 100*min(max(done, 0), 1), p.At.Format("2006-01-02 15:04"), rate))
			}
			report, loc, err := runBacktest(cmd.Context(), &o)
			progress.done()
			if err != nil {
				return err
			}
			if o.asJSON {
				err = json.NewEncoder(cmd.OutOrStdout()).Encode(report)
			} else {
				report.Print(cmd.OutOrStdout(), loc, o.rows)
			}
			if err == nil && report.Differs() {
				err = errAnswered
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.file, "config", "c", "", "site file")
	f.StringVar(&o.state, "state", "", "state directory (default: the site file's, or "+defaultState+")")
	o.period.flags(cmd, "7d", "compare ")
	f.StringVar(&o.warmUp, "warm-up", "", "how long before that to begin (default: as long as the rules look back)")
	f.StringArrayVar(&o.packs, "pack", nil, "rule pack to try, instead of the one with its id; may be given more than once")
	f.IntVar(&o.rows, "rows", 50, "list at most so many differences")
	f.BoolVar(&o.asJSON, "json", false, "print for programs, all differences")
	f.BoolVar(&o.verbose, "progress", false, "tell progress also where standard error is no terminal")
	return cmd
}

// backtestOptions are the command line of linli rules backtest.
type backtestOptions struct {
	period
	file, state, warmUp string
	packs               []string
	rows                int
	asJSON, verbose     bool
	progress            func(p backtest.Progress, begin, until time.Time) // may be nil
}

// runBacktest replays the journal of the site. It returns the site's local time with the report.
func runBacktest(ctx context.Context, o *backtestOptions) (*backtest.Report, *time.Location, error) {
	p, err := loadPlan(o.file)
	if err != nil {
		return nil, nil, err
	}
	loc := p.site.Inventory.Location
	since, until, err := o.times(time.Now(), loc)
	if err != nil {
		return nil, nil, err
	}
	warmUp := time.Duration(-1) // as long as the rules look back
	if o.warmUp != "" {
		if warmUp, err = expr.ParseDuration(o.warmUp); err != nil {
			return nil, nil, &usageError{fmt.Errorf("--warm-up: %w", err)}
		}
	}
	fresh, err := backtestEngines(p, o.packs)
	if err != nil {
		return nil, nil, err
	}
	engine, err := fresh()
	if err != nil {
		return nil, nil, err
	}
	if warmUp < 0 {
		// What does not change is there once in the maximum interval only: as long again until everything is known.
		warmUp = max(engine.Horizon(), p.engine.Horizon()) + 2*p.site.Report.MaxInterval
	}

	dir := stateDir(o.state, p.site)
	j, err := openPast(dir)
	if err != nil {
		return nil, nil, err
	}
	defer j.Close()
	seq, begin, err := beginning(j, since, since.Add(-warmUp))
	if err != nil {
		return nil, nil, err
	}
	cfg := backtest.Config{Engine: fresh, Begin: begin, Since: since, Until: until, Subject: subjectOf(p.site.Inventory)}
	if cfg.Recorded, cfg.Forgotten, err = recordedAlerts(ctx, filepath.Join(dir, "alerts.db"), begin, until); err != nil {
		return nil, nil, err
	}
	cfg.Rules = rulesName(p.engine) // Also with other packs: what is recorded is compared with what runs.
	if o.progress != nil {
		cfg.Progress = func(q backtest.Progress) { o.progress(q, begin, until) }
	}
	_, next := j.Bounds()
	replay := j.Replay(seq, next, pointOf(p.site.Inventory))
	cfg.Next = (&past{replay: replay}).next
	report, err := backtest.Run(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	if report.Skipped = replay.Skipped(); report.Steps == 0 {
		err = fmt.Errorf("the journal in %s has nothing from %s to %s", dir, begin.In(loc).Format(time.DateTime), until.In(loc).Format(time.DateTime))
	}
	return report, loc, err
}

// openPast opens the journal in a state directory to look at it. A directory without one is an error.
func openPast(dir string) (*journal.Journal, error) {
	path := filepath.Join(dir, "journal")
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("there is no journal to replay (--state names the state directory): %w", err)
	}
	return journal.Open(journal.Config{Dir: path, ReadOnly: true}, nil, nil)
}

// beginning returns where to begin, so that what is decided since is decided as it was: at the last start of the gateway
// with windows and timers that were empty, or else at earliest.
func beginning(j *journal.Journal, since, earliest time.Time) (seq uint64, begin time.Time, err error) {
	starts, err := j.Starts()
	if err != nil {
		return 0, earliest, fmt.Errorf("look for the starts of the gateway: %w", err)
	}
	for _, s := range slices.Backward(starts) {
		if !s.Mark.Resumed && !s.At.IsZero() && !s.At.After(since) && s.At.After(earliest) {
			return s.Seq, s.At, nil
		}
	}
	return j.Since(earliest), earliest, nil
}

// backtestEngines returns a function that compiles the plan's rules, with the packs in files instead of those of their
// ids, into a new engine each time. Mistakes in the packs are its error.
func backtestEngines(p *plan, files []string) (func() (*rules.Engine, error), error) {
	cfg := p.rulesConfig()
	cfg.Packs = slices.Clone(cfg.Packs)
	var mistakes yamlfile.Errors
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read the pack: %w", err)
		}
		pack, err := rules.ParsePack(file, src)
		mistakes.Append(yamlfile.Pos{File: file, Line: 1, Col: 1}, err)
		if pack == nil || err != nil {
			continue
		}
		if i := slices.IndexFunc(cfg.Packs, func(old *rules.Pack) bool { return old.ID == pack.ID }); i >= 0 {
			cfg.Packs[i] = pack
		} else {
			cfg.Packs = append(cfg.Packs, pack)
		}
	}
	if err := mistakes.Err(); err != nil {
		return nil, err
	}
	// Each engine adds its derived points to the inventory that it is compiled for.
	inv := *cfg.Inventory
	installed := slices.IndexFunc(inv.Points, func(pt telemetry.Point) bool { return pt.Device < 0 })
	if installed < 0 {
		installed = len(inv.Points)
	}
	return func() (*rules.Engine, error) {
		own := inv
		own.Points = slices.Clone(inv.Points[:installed])
		cfg := cfg
		cfg.Inventory = &own
		return rules.Compile(cfg)
	}, nil
}

// pointOf finds points by what does not change when a device is moved to another zone.
func pointOf(inv *telemetry.Inventory) func(telemetry.Series) telemetry.PointID {
	ids := map[telemetry.Series]telemetry.PointID{}
	for i := range inv.Points {
		if inv.Points[i].Device >= 0 {
			s := inv.Series(telemetry.PointID(i))
			s.Zone = ""
			ids[s] = telemetry.PointID(i)
		}
	}
	return func(s telemetry.Series) telemetry.PointID {
		s.Zone = ""
		if id, ok := ids[s]; ok {
			return id
		}
		return telemetry.NoPoint
	}
}

// subjectOf reports whether alerts can be about something at the site.
func subjectOf(inv *telemetry.Inventory) func(string) bool {
	return func(id string) bool {
		_, device := inv.DeviceByID(id)
		_, zone := inv.ZoneByID(id)
		return device || zone || id == inv.Site
	}
}

// past gives a backtest what the journal has kept.
type past struct {
	replay *journal.Replay
	item   journal.Item
}

func (p *past) next(it *backtest.Item) error {
	if err := p.replay.Next(&p.item); err != nil {
		if !errors.Is(err, io.EOF) {
			err = fmt.Errorf("replay the journal: %w", err)
		}
		return err
	}
	from := &p.item
	*it = backtest.Item{Boot: from.Boot, Now: from.Now, At: from.At, Samples: from.Samples, Guessed: from.Guessed}
	if m := from.Missing; m != nil {
		it.Missing = &backtest.Missing{Frames: m.Frames, Samples: m.Samples, Reason: m.Reason}
	}
	if m := from.Mark; m != nil {
		it.Mark = &backtest.Mark{Kind: markKinds[m.Kind], Rules: m.Rules, Resumed: m.Resumed, Snapshot: m.Snapshot,
			SnapshotBoot: m.SnapshotBoot, By: m.By, Closed: m.Closed}
	}
	return nil
}

var markKinds = [...]backtest.MarkKind{
	journal.MarkStart: backtest.Start, journal.MarkReload: backtest.Reload, journal.MarkSnapshot: backtest.Snapshot, journal.MarkClosed: backtest.Closed,
}

// recordedAlerts reads what was recorded of alerts that were open from begin on.
func recordedAlerts(ctx context.Context, path string, begin, until time.Time) ([]backtest.Line, map[telemetry.Identity][]backtest.Stretch, error) {
	r, err := alert.OpenReader(path)
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	records, err := r.History(ctx, begin.Add(-time.Minute), until.Add(time.Minute))
	if err != nil {
		return nil, nil, err
	}
	// Those of which nobody knew the time when they were closed: it stands in the years from 1970.
	unset, err := r.History(ctx, time.Unix(0, 0), time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC))
	if err != nil {
		return nil, nil, err
	}
	known := map[string]bool{}
	for i := range records {
		known[records[i].Alert.ID] = true
	}
	unset = slices.DeleteFunc(unset, func(r alert.Record) bool { return known[r.Alert.ID] || !r.Alert.TimeUncertain })
	records = append(unset, records...)
	var lines []backtest.Line
	forgotten := map[telemetry.Identity][]backtest.Stretch{}
	for i := range records {
		a := &records[i].Alert
		for k := range records[i].Lines {
			e := &records[i].Lines[k]
			if k > 0 {
				if last := &records[i].Lines[k-1]; e.Revision != last.Revision+1 {
					forgotten[a.Identity] = append(forgotten[a.Identity], backtest.Stretch{From: last.Time, To: e.Time})
				}
			}
			op, ok := saidBy(e)
			if !ok {
				continue
			}
			l := backtest.Line{Identity: a.Identity, Op: op, Time: e.Time, Severity: e.Severity(), Title: a.Title}
			if e.TimeUncertain {
				l.Boot = cmp.Or(e.Boot(), "?")
			}
			lines = append(lines, l)
		}
	}
	return lines, forgotten, nil
}

// saidBy returns what the engine said for a line of history to be written, 0 for an end that others made, and false for a
// line that changes nothing for the engine.
func saidBy(e *alert.Entry) (telemetry.TransitionOp, bool) {
	switch e.What {
	case alert.WhatRaised, alert.WhatRaisedAgain:
		return telemetry.Raise, true
	case alert.WhatReturned:
		return telemetry.Clear, true
	case alert.WhatClosed:
		if e.By == alert.BySensor {
			return telemetry.Clear, true
		}
		return 0, true
	case alert.WhatUnknown:
		return telemetry.Unknown, true
	case alert.WhatKnown:
		return telemetry.Known, true
	case alert.WhatChanged:
		return telemetry.Changed, true
	}
	return 0, false
}
