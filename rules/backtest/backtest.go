// Package backtest gives a rules engine what another one was given, as the site's journal kept it, and says which alerts
// would appear, vanish or move compared with those that were recorded.
//
// # Guarantees
//
// With the rules that ran, from a start of the gateway on, and where nothing is missing, the comparison finds no
// difference, to the millisecond. Where one of these does not hold the report says so (Report.Notes): the replay then
// begins with windows and timers that are filled on the way, or goes on with what is left.
//
// # How
//
// An engine decides by its samples, by the moments of its steps, and by what was done to it in between, and by nothing
// else. Run takes all that in order (Item) and does what the gateway did: at a start a new engine takes over the alerts
// that are active in this replay and the snapshot that the gateway took over then, of which Run keeps its own copy; at a
// reload a new engine takes over from the old; alerts that people closed are closed in this engine too. What the engine
// says goes through the same narrow gate as in the gateway (package alert): saying what is known already is no news.
//
// Where the recorded alerts know of something that the journal has lost (the last second before a crash, a frame that
// cannot be read), that is not compared; at a start it is taken over.
//
// No I/O, no clock, no logging. Run belongs to one goroutine; memory is bounded by what is compared: Config.Recorded and
// at most maxHeard transitions of the replay.
package backtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"linli/internal/telemetry"
	"linli/rules"
)

// maxHeard bounds the transitions that are compared. Rules that say more are not worth comparing further.
const maxHeard = 500_000

// keptSnapshots is how many snapshots are kept: a gateway goes on with the last one that it could write.
const keptSnapshots = 3

// Item is one thing that the engine was given: a step, a mark, or that something is missing.
type Item struct {
	Boot string
	// Now is the moment of a step as the engine was given it.
	Now telemetry.Now
	// At is the moment on the wall clock by what has become known since; zero where nothing has.
	At time.Time
	// Samples of a step, of the points of the engine's inventory. They are used until the next item is asked for.
	Samples []telemetry.Sample
	// Guessed: the moment of the step is made up of its samples' times.
	Guessed bool
	Mark    *Mark
	Missing *Missing
}

// Mark is something that happened to the engine between two steps.
type Mark struct {
	Kind  MarkKind
	Rules string // of a start and a reload: the same text for the same rules, empty where it is not known
	// Resumed, of a start: the engine took over the snapshot of moment Snapshot in boot SnapshotBoot, with By added.
	Resumed      bool
	Snapshot     telemetry.Mono
	SnapshotBoot string
	By           time.Duration
	Closed       []telemetry.Identity
}

// MarkKind is what a Mark tells of.
type MarkKind uint8

// The kinds of marks.
const (
	Start    MarkKind = iota + 1 // a process began
	Reload                       // another engine took over
	Snapshot                     // the engine's timers and windows were written down
	Closed                       // people closed alerts
)

// Missing is a part of the journal that cannot be replayed.
type Missing struct {
	Frames, Samples uint64
	Reason          string
}

// Config is what a replay works on.
type Config struct {
	// Engine returns a new engine for the same inventory each time.
	Engine func() (*rules.Engine, error)
	// Next reads the next item; io.EOF at the end.
	Next func(*Item) error
	// Recorded is what was recorded since the first item or before, of alerts that were open then or later. Each
	// identity's lines are in order.
	Recorded []Line
	// Forgotten are the stretches of which the record of an alert has forgotten its lines.
	Forgotten map[telemetry.Identity][]Stretch
	// Begin is the first moment to be replayed, Since and Until bound what is compared.
	Begin, Since, Until time.Time
	// Subject reports whether there is such a subject at the site now; what was recorded of others is not compared.
	Subject func(id string) bool
	// Rules names the rules that the engine has, as Mark.Rules does; empty where they are meant to differ.
	Rules string
	// Progress, where not nil, is called now and then.
	Progress func(Progress)
}

// Progress is how far a replay has come.
type Progress struct {
	At      time.Time
	Samples uint64
}

// Stretch is a time from one moment to another.
type Stretch struct{ From, To time.Time }

func (s Stretch) holds(t time.Time) bool { return !t.Before(s.From) && !t.After(s.To) }

// Run replays and compares. The error is that of Config.Engine or Config.Next, or that of ctx.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	r := &run{cfg: cfg, report: &Report{Since: cfg.Since, Until: cfg.Until}, offsets: map[string]time.Duration{}, model: book{}}
	for it := (Item{}); ; {
		err := cfg.Next(&it)
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = r.take(&it)
		}
		if errors.Is(err, errEnough) {
			break
		}
		if err != nil {
			return nil, err
		}
		if r.items++; r.items&0xfff == 0 {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if cfg.Progress != nil {
				cfg.Progress(Progress{At: r.last, Samples: r.report.Samples})
			}
		}
	}
	r.end()
	return r.report, nil
}

// errEnough ends a replay early.
var errEnough = errors.New("enough")

// run is one replay.
type run struct {
	cfg    Config
	report *Report
	engine *rules.Engine
	out    rules.Output
	model  book
	heard  []line // what the replay said, in order
	items  uint64

	boot    string
	begun   bool                     // the first item that counts has been
	last    time.Time                // At of the last item
	offsets map[string]time.Duration // of each boot: wall clock minus monotonic time, as known today
	gap     *Gap                     // something is missing since last
	kept    []snapshot
}

type snapshot struct {
	boot string
	mono telemetry.Mono
	data []byte
}

// take replays one item.
func (r *run) take(it *Item) error {
	if m := it.Missing; m != nil {
		if r.begun {
			r.miss(m.Reason, m.Frames, m.Samples)
		}
		return nil
	}
	if !it.At.IsZero() {
		if it.At.Before(r.cfg.Begin) && !r.begun {
			return nil
		}
		if it.At.After(r.cfg.Until) {
			return errEnough
		}
		r.offsets[it.Boot] = time.Duration(it.At.UnixNano() - int64(it.Now.Mono))
	}
	start := it.Mark != nil && it.Mark.Kind == Start
	switch {
	case !r.begun:
		r.begun = true
		r.report.Begun = it.At
		if !start || it.Mark.Resumed {
			r.report.note(MidRun, it.At, 1)
		}
		r.model.recorded(r.cfg.Recorded, it)
		if !start {
			if err := r.start(it, &Mark{}); err != nil {
				return err
			}
		}
	case it.Boot != r.boot && !start:
		// The journal does not say when the process began: it did at the latest here.
		r.report.note(NoStart, it.At, 1)
		if err := r.start(it, &Mark{}); err != nil {
			return err
		}
	}
	if r.gap != nil && !start {
		r.closeGap(it.At)
	}
	var err error
	if it.Mark != nil {
		err = r.mark(it)
	} else {
		err = r.step(it)
	}
	if r.boot = it.Boot; !it.At.IsZero() {
		r.last, r.report.Ended = it.At, it.At
	}
	return err
}

// miss notes that something is missing between the last item and the next.
func (r *run) miss(reason string, frames, samples uint64) {
	if r.gap == nil {
		r.gap = &Gap{Stretch: Stretch{From: r.last}}
	}
	r.gap.Reason = reason
	r.gap.Frames += frames
	r.gap.Samples += samples
}

// closeGap ends the gap at the moment at.
func (r *run) closeGap(at time.Time) {
	r.gap.To = at
	r.report.Gaps = append(r.report.Gaps, *r.gap)
	r.gap = nil
}

func (r *run) mark(it *Item) error {
	m := it.Mark
	switch m.Kind {
	case Start:
		r.report.Starts++
		r.otherRules(m.Rules, it.At)
		return r.start(it, m)
	case Reload:
		r.otherRules(m.Rules, it.At)
		if r.engine == nil {
			return nil
		}
		next, err := r.cfg.Engine()
		if err != nil {
			return err
		}
		removed, _ := next.Adopt(r.engine)
		r.engine = next
		for _, id := range removed {
			r.model.close(id)
		}
	case Snapshot:
		r.kept = append(r.kept, snapshot{boot: it.Boot, mono: it.Now.Mono, data: r.engine.Snapshot()})
		if len(r.kept) > keptSnapshots {
			r.kept = slices.Delete(r.kept, 0, 1)
		}
	case Closed:
		r.engine.Closed(m.Closed)
		for _, id := range m.Closed {
			r.model.close(id)
		}
	}
	return nil
}

// otherRules notes that other rules ran from here on than those of this replay.
func (r *run) otherRules(name string, at time.Time) {
	if r.cfg.Rules != "" && name != "" && name != r.cfg.Rules {
		r.report.note(OtherRules, at, 1)
	}
}

// start does what a process does when it begins.
func (r *run) start(it *Item, m *Mark) error {
	if r.last.IsZero() || it.At.IsZero() {
		r.gap = nil
	} else {
		// What the last moments before the end did is in the record, not in the journal, where the process was killed.
		lost := Gap{Stretch: Stretch{From: r.last, To: it.At}, Reason: Killed}
		if r.gap != nil {
			lost.Reason, lost.Frames, lost.Samples = r.gap.Reason, r.gap.Frames, r.gap.Samples
		}
		r.gap = nil
		some := lost.Frames+lost.Samples > 0
		for i := range r.cfg.Recorded {
			if l := &r.cfg.Recorded[i]; l.Boot == "" && lost.lacks(l.Time) {
				r.model.apply(r.cfg.Recorded[i : i+1])
				some = some || l.Time.After(lost.From)
			}
		}
		if some {
			r.report.Gaps = append(r.report.Gaps, lost)
		}
	}
	next, err := r.cfg.Engine()
	if err != nil {
		return err
	}
	for _, a := range next.Restore(r.model.active()) {
		r.model.close(a.Identity)
	}
	if m.Resumed {
		s, exact := r.snapshotOf(m)
		if s != nil {
			if _, err := next.Resume(s, m.By); err != nil {
				return fmt.Errorf("take over the timers of the rules at %v: %w", it.At, err)
			}
		}
		if !exact && r.engine != nil {
			r.report.note(NoSnapshot, it.At, 1)
		}
	}
	r.engine = next
	return nil
}

// snapshotOf returns the snapshot that a start took over. Where that is from before this replay, one of the present
// engine comes nearest.
func (r *run) snapshotOf(m *Mark) (data []byte, exact bool) {
	for i := range r.kept {
		if s := &r.kept[i]; s.boot == m.SnapshotBoot && s.mono == m.Snapshot {
			return s.data, true
		}
	}
	if r.engine == nil || r.boot != m.SnapshotBoot {
		return nil, false
	}
	return r.engine.Snapshot(), false
}

func (r *run) step(it *Item) error {
	if it.Guessed {
		r.report.Guessed++
	}
	r.report.Steps++
	r.report.Samples += uint64(len(it.Samples))
	r.out.Reset()
	r.engine.Step(it.Now, it.Samples, &r.out)
	for i := range r.out.Transitions {
		t := &r.out.Transitions[i]
		said, ok := r.model.say(t)
		if !ok {
			continue
		}
		if len(r.heard) == maxHeard {
			r.report.note(TooMany, it.At, 1)
			r.report.Until = it.At
			return errEnough
		}
		said.boot, said.mono = it.Boot, t.Time
		r.heard = append(r.heard, said)
	}
	return nil
}

// end compares.
func (r *run) end() {
	rep := r.report
	if r.gap != nil {
		r.closeGap(rep.Ended)
	}
	if rep.Guessed > 0 {
		rep.note(GuessedSteps, rep.Begun, rep.Guessed)
	}
	if rep.Begun.After(rep.Since) {
		rep.Since, rep.Short = rep.Begun, true
	}
	if rep.Ended.Before(rep.Until) {
		rep.Until = rep.Ended
	}
	c := comparison{report: rep, cfg: &r.cfg, offsets: r.offsets, engine: r.engine}
	c.compare(r.heard)
}
