package backtest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"linli/internal/telemetry"
	"linli/rules"
	"linli/rules/backtest"
)

const pack = `version: 1
pack: p
title: {zh: 包, en: Pack}
rules:
  - alert: Blocked
    for_each: lane
    expr: occupied
    for: 1m
    severity: warning
    severity_when: {critical: level > 50}
    title: {zh: 占用, en: Blocked}
  - alert: High
    for_each: lane
    expr: avg_over_time(level, 10m) > 40
    severity: notice
    title: {zh: 高, en: High}
`

var (
	noon  = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	lanes = [...]string{"l1", "l2"}
)

// world is a site of two lanes whose engine ran, with what it was given and what it said.
type world struct {
	t      *testing.T
	inv    *telemetry.Inventory
	class  *telemetry.Class
	packs  string
	engine *rules.Engine
	boot   string
	offset time.Duration // wall clock minus monotonic time
	items  []backtest.Item
	lines  []backtest.Line

	unknown map[telemetry.Identity]bool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, packs: pack, boot: "a", unknown: map[telemetry.Identity]bool{}, offset: time.Duration(noon.UnixNano())}
	w.class = &telemetry.Class{ID: "lane", Points: []telemetry.PointDef{{Name: "occupied", Kind: telemetry.Bool}, {Name: "level", Kind: telemetry.Float}}}
	w.inv = &telemetry.Inventory{Site: "s", Location: time.UTC}
	z := w.inv.AddZone(telemetry.Zone{ID: "z", Parent: -1, Kind: "area"})
	for _, id := range lanes {
		d := w.inv.AddDevice(telemetry.Device{ID: id, Class: w.class, Zone: z})
		for k := range w.class.Points {
			w.inv.ProvidePoint(d, k)
		}
	}
	w.engine = w.compile(t)
	return w
}

func (w *world) compile(t *testing.T) *rules.Engine {
	t.Helper()
	p, err := rules.ParsePack("p.yaml", []byte(w.packs))
	if err != nil {
		t.Fatal(err)
	}
	e, err := rules.Compile(rules.Config{Packs: []*rules.Pack{p}, Inventory: w.inv, Classes: map[string]*telemetry.Class{"lane": w.class}})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (w *world) item(at time.Duration) backtest.Item {
	return backtest.Item{Boot: w.boot, Now: telemetry.Now{Mono: telemetry.Mono(at), Wall: time.Unix(0, int64(at+w.offset)).UTC()}, At: time.Unix(0, int64(at+w.offset)).UTC()}
}

// step gives the engine samples at a moment; what it says is recorded unless it is lost.
func (w *world) step(at time.Duration, samples ...telemetry.Sample) {
	it := w.item(at)
	it.Samples = samples
	w.items = append(w.items, it)
	w.record(&it)
}

func (w *world) record(it *backtest.Item) {
	var out rules.Output
	w.engine.Step(it.Now, it.Samples, &out)
	for _, tr := range out.Transitions {
		if tr.Op == telemetry.Known && !w.unknown[tr.Identity] {
			continue // The book knows: it is no news.
		}
		w.unknown[tr.Identity] = tr.Op == telemetry.Unknown
		w.lines = append(w.lines, backtest.Line{Identity: tr.Identity, Op: tr.Op, Time: tr.Wall.Truncate(time.Millisecond), Severity: tr.Severity, Title: tr.Title})
	}
}

func (w *world) mark(at time.Duration, m backtest.Mark) {
	it := w.item(at)
	it.Now.Wall, it.Mark = time.Time{}, &m
	w.items = append(w.items, it)
}

func occupied(lane int, at time.Duration, v bool) telemetry.Sample {
	return telemetry.Sample{Point: telemetry.PointID(2 * lane), Time: telemetry.Mono(at), Value: telemetry.BoolValue(v)}
}

func level(lane int, at time.Duration, v float64) telemetry.Sample {
	return telemetry.Sample{Point: telemetry.PointID(2*lane + 1), Time: telemetry.Mono(at), Value: telemetry.FloatValue(v)}
}

func (w *world) config() backtest.Config {
	items := w.items
	return backtest.Config{
		Engine: func() (*rules.Engine, error) { return w.compile(w.t), nil },
		Next: func(it *backtest.Item) error {
			if len(items) == 0 {
				return io.EOF
			}
			*it = items[0]
			items = items[1:]
			return nil
		},
		Recorded: slices.Clone(w.lines), Begin: noon.Add(-24 * time.Hour), Since: noon.Add(-24 * time.Hour), Until: noon.Add(24 * time.Hour),
		Subject: func(id string) bool { return slices.Contains(lanes[:], id) },
	}
}

func (w *world) run(change ...func(*backtest.Config)) *backtest.Report {
	w.t.Helper()
	cfg := w.config()
	for _, f := range change {
		f(&cfg)
	}
	r, err := backtest.Run(context.Background(), cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// rows writes the differences of a report, and its notes.
func rows(r *backtest.Report) string {
	var s []string
	for _, d := range r.Rows {
		line := fmt.Sprintf("%s %s %s %s", d.Kind, d.Alert, d.Subject, d.Op)
		if d.Kind == backtest.Moved {
			line += " " + d.Now.Sub(d.Recorded).String()
		}
		s = append(s, line)
	}
	for _, n := range r.Notes {
		s = append(s, fmt.Sprintf("note %s %d", n.Kind, n.Count))
	}
	return strings.Join(s, "; ")
}

func (w *world) want(r *backtest.Report, want string, same int) {
	w.t.Helper()
	if got := rows(r); got != want || r.Same != same {
		w.t.Errorf("%q and %d the same, want %q and %d", got, r.Same, want, same)
	}
}

// morning has lane 1 blocked for 10 min and lane 2 for 90 s, and a level that makes lane 1's alert critical.
func (w *world) morning() {
	w.mark(0, backtest.Mark{Kind: backtest.Start, Rules: "r"})
	for at := time.Duration(0); at <= 30*time.Minute; at += 10 * time.Second {
		v := 20.0
		if at >= 5*time.Minute && at < 9*time.Minute {
			v = 80
		}
		w.step(at+20*time.Millisecond, occupied(0, at, at >= time.Minute && at < 11*time.Minute), occupied(1, at, at >= 2*time.Minute && at < 210*time.Second), level(0, at, v), level(1, at, 20))
	}
}

func TestTheSameRulesAreTheSame(t *testing.T) {
	w := newWorld(t)
	w.morning()
	if len(w.lines) != 8 {
		t.Fatalf("%d transitions: %+v", len(w.lines), w.lines)
	}
	r := w.run()
	w.want(r, "", 8)
	if r.Differs() || r.Starts != 1 || r.Steps != 181 || r.Samples != 4*181 || !r.Begun.Equal(noon) || !r.Until.Equal(noon.Add(30*time.Minute+20*time.Millisecond)) {
		t.Errorf("%+v", r)
	}
}

func TestAnotherThresholdIsADifference(t *testing.T) {
	for name, c := range map[string]struct {
		old, new, want string
		same           int
	}{
		"longer":    {"for: 1m", "for: 2m", "moved Blocked l1 raise 1m0s; vanishes Blocked l2 raise; vanishes Blocked l2 clear", 5},
		"too long":  {"for: 1m", "for: 20m", "vanishes Blocked l1 raise; vanishes Blocked l2 raise; vanishes Blocked l2 clear; vanishes Blocked l1 changed; vanishes Blocked l1 changed; vanishes Blocked l1 clear", 2},
		"severity":  {"severity: notice", "severity: warning", "severity High l1 raise", 7},
		"another":   {"alert: High", "alert: Higher", "vanishes High l1 raise; appears Higher l1 raise; vanishes High l1 clear; appears Higher l1 clear", 6},
		"no window": {"avg_over_time(level, 10m)", "level", "moved High l1 raise -2m31s; moved High l1 clear -6m40s", 6},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.morning()
			w.t, w.packs = t, strings.Replace(pack, c.old, c.new, 1)
			w.want(w.run(), c.want, c.same)
		})
	}
}

func TestOnlyWhatLiesBetweenIsCompared(t *testing.T) {
	w := newWorld(t)
	w.morning()
	w.packs = strings.Replace(pack, "for: 1m", "for: 2m", 1)
	w.want(w.run(func(c *backtest.Config) { c.Since, c.Until = noon.Add(195*time.Second), noon.Add(10*time.Minute) }), "vanishes Blocked l2 clear", 3)
	// What was recorded before the journal begins is not missed.
	w.lines = append([]backtest.Line{{Identity: w.lines[0].Identity, Op: telemetry.Raise, Time: noon.Add(-time.Hour)}, {Identity: w.lines[0].Identity, Op: telemetry.Clear, Time: noon.Add(-time.Minute)}}, w.lines...)
	w.packs = pack
	w.want(w.run(), "", 8)
	// The replay may begin later than the journal: then in the middle, with windows that fill on the way.
	w.want(w.run(func(c *backtest.Config) { c.Begin, c.Since = noon.Add(6*time.Minute), noon.Add(8*time.Minute) }), "moved High l1 raise 5m59s; moved High l1 clear -40s; note mid_run 1", 2)
}

func TestRestarts(t *testing.T) {
	w := newWorld(t)
	w.morning()
	w.mark(31*time.Minute, backtest.Mark{Kind: backtest.Snapshot})
	snapshot := w.engine.Snapshot()
	restart := func(at time.Duration, resumed bool, by time.Duration) {
		w.t.Helper()
		w.engine = w.compile(t)
		// What the gateway would give it: the alerts that are active by the record.
		active := map[telemetry.Identity]telemetry.Severity{}
		for _, l := range w.lines {
			if active[l.Identity] = l.Severity; l.Op == telemetry.Clear {
				delete(active, l.Identity)
			}
		}
		for id, s := range active {
			w.engine.Restore([]telemetry.ActiveAlert{{Identity: id, Severity: s}})
		}
		m := backtest.Mark{Kind: backtest.Start, Rules: "r"}
		if resumed {
			m.Resumed, m.Snapshot, m.SnapshotBoot, m.By = true, telemetry.Mono(31*time.Minute), "a", by
			if _, err := w.engine.Resume(snapshot, by); err != nil {
				t.Fatal(err)
			}
		}
		w.mark(at, m)
	}
	// In the same boot, with the windows that were written down. A high level raises late, because of what was before.
	restart(32*time.Minute, true, 0)
	for at := 32 * time.Minute; at < 50*time.Minute; at += 10 * time.Second {
		w.step(at+time.Second, level(0, at, 60), occupied(0, at, true), occupied(1, at, false), level(1, at, 1))
	}
	n := len(w.lines)
	w.want(w.run(), "", n)

	// After a boot, monotonic time begins anew.
	w.boot, w.offset = "b", time.Duration(noon.UnixNano())+55*time.Minute
	restart(10*time.Second, true, -55*time.Minute)
	for at := 10 * time.Second; at < 10*time.Minute; at += 10 * time.Second {
		w.step(at+time.Second, level(0, at, 60), occupied(0, at, at < 5*time.Minute), occupied(1, at, false), level(1, at, 1))
	}
	if len(w.lines) == n {
		t.Fatal("nothing happened after the boot")
	}
	w.want(w.run(), "", len(w.lines))

	// Where the journal does not have the snapshot or the start, that is said.
	whole := w.items
	w.items = slices.DeleteFunc(slices.Clone(whole), func(it backtest.Item) bool { return it.Mark != nil && it.Mark.Kind == backtest.Snapshot })
	if r := w.run(); !strings.Contains(rows(r), "no_snapshot") {
		t.Errorf("without the snapshot: %s", rows(r))
	}
	w.items = slices.DeleteFunc(slices.Clone(whole), func(it backtest.Item) bool {
		return it.Mark != nil && it.Mark.Kind == backtest.Start && it.Boot == "b"
	})
	if r := w.run(); !strings.Contains(rows(r), "no_start 1") || r.Starts != 2 {
		t.Errorf("without a start: %s", rows(r))
	}
	// Rules that ran under another name are told.
	w.items = whole
	if r := w.run(func(c *backtest.Config) { c.Rules = "other" }); !strings.Contains(rows(r), "other_rules 3") {
		t.Errorf("with other rules: %s", rows(r))
	}
	if r := w.run(func(c *backtest.Config) { c.Rules = "r" }); rows(r) != "" {
		t.Errorf("with the same rules: %s", rows(r))
	}
}

// TestCrash: what was recorded in the last moments, and is not in the journal, is taken over and not compared.
func TestCrash(t *testing.T) {
	w := newWorld(t)
	w.morning()
	kept := len(w.items)
	w.step(31*time.Minute, occupied(1, 31*time.Minute, true))
	w.step(33*time.Minute, occupied(1, 33*time.Minute, true))
	if n := len(w.lines); w.lines[n-1].Op != telemetry.Raise || w.lines[n-1].Subject != "l2" {
		t.Fatalf("%+v", w.lines[n-1])
	}
	w.items = w.items[:kept]
	n := len(w.lines)
	w.engine = w.compile(t)
	w.engine.Restore([]telemetry.ActiveAlert{{Identity: w.lines[n-1].Identity, Severity: telemetry.Warning}})
	w.mark(34*time.Minute, backtest.Mark{Kind: backtest.Start})
	w.step(35*time.Minute, occupied(0, 35*time.Minute, false), occupied(1, 35*time.Minute, true), level(0, 35*time.Minute, 1), level(1, 35*time.Minute, 1))
	w.step(36*time.Minute, occupied(1, 36*time.Minute, false))
	r := w.run()
	w.want(r, "", len(w.lines)-1)
	if len(r.Gaps) != 1 || r.Gaps[0].Reason != backtest.Killed || r.NotCompared != 1 || !r.Gaps[0].To.Equal(noon.Add(34*time.Minute)) {
		t.Errorf("gaps %+v, %d not compared", r.Gaps, r.NotCompared)
	}
}

// TestMissingIsTold: what lies in a gap is not compared.
func TestMissingIsTold(t *testing.T) {
	w := newWorld(t)
	w.morning()
	// From 30 s to 8 min: the raises of Blocked are gone.
	w.items = slices.Concat(w.items[:5], []backtest.Item{{Missing: &backtest.Missing{Frames: 2, Reason: "damage"}}, {Missing: &backtest.Missing{Samples: 7, Reason: "pending_full"}}}, w.items[50:])
	r := w.run()
	if len(r.Gaps) != 1 || r.Gaps[0].Frames != 2 || r.Gaps[0].Samples != 7 || r.Gaps[0].Reason != "pending_full" ||
		!r.Gaps[0].From.Equal(noon.Add(30*time.Second+20*time.Millisecond)) || !r.Gaps[0].To.Equal(noon.Add(8*time.Minute+10*time.Second+20*time.Millisecond)) {
		t.Errorf("gaps %+v", r.Gaps)
	}
	if r.NotCompared == 0 {
		t.Error("nothing was left out")
	}
	for _, row := range r.Rows {
		if at := row.Recorded.Sub(noon); row.Kind == backtest.Vanishes && at < 8*time.Minute {
			t.Errorf("%+v lies in the gap", row)
		}
	}
}

func TestClosedByHandAndReload(t *testing.T) {
	w := newWorld(t)
	w.mark(0, backtest.Mark{Kind: backtest.Start})
	w.step(time.Second, occupied(0, 0, true))
	w.step(2*time.Minute, occupied(0, 2*time.Minute, true))
	silent := occupied(0, 3*time.Minute, true)
	silent.Quality, silent.Value = telemetry.BadComm, telemetry.Value{}
	w.step(3*time.Minute, silent)
	id := telemetry.Identity{Alert: "Blocked", Subject: "l1"}
	w.engine.Closed([]telemetry.Identity{id})
	w.lines = append(w.lines, backtest.Line{Identity: id, Time: noon.Add(200 * time.Second)})
	w.mark(4*time.Minute, backtest.Mark{Kind: backtest.Closed, Closed: []telemetry.Identity{id}})
	w.step(4*time.Minute, occupied(0, 4*time.Minute, true))
	w.mark(4*time.Minute, backtest.Mark{Kind: backtest.Reload})
	next := w.compile(t)
	next.Adopt(w.engine)
	w.engine = next
	w.step(4*time.Minute + time.Millisecond)
	w.step(6*time.Minute, occupied(0, 6*time.Minute, true))
	w.want(w.run(), "", 3)
	// Without the mark the alert would still be there.
	w.items = slices.DeleteFunc(w.items, func(it backtest.Item) bool { return it.Mark != nil && it.Mark.Kind == backtest.Closed })
	w.want(w.run(), "appears Blocked l1 known; vanishes Blocked l1 raise", 2)
}

// TestWhatCannotBeCompared: subjects that are gone, times that nobody knows, records that have forgotten.
func TestWhatCannotBeCompared(t *testing.T) {
	w := newWorld(t)
	w.morning()
	w.lines = append(w.lines,
		backtest.Line{Identity: telemetry.Identity{Alert: "Blocked", Subject: "gone"}, Op: telemetry.Raise, Time: noon.Add(time.Minute)},
		backtest.Line{Identity: telemetry.Identity{Alert: "Blocked", Subject: "l1"}, Op: telemetry.Raise, Time: time.Unix(60, 0), Boot: "nobody knows"},
		backtest.Line{Identity: telemetry.Identity{Alert: "Blocked", Subject: "l1"}, Time: time.Unix(70, 0), Boot: "nobody knows"})
	r := w.run()
	if rows(r) != "" || !slices.Equal(r.GoneSubjects, []string{"gone"}) || r.NotPlaced != 1 {
		t.Errorf("%s, gone %v, %d not placed", rows(r), r.GoneSubjects, r.NotPlaced)
	}
	// Of a long history the middle is forgotten.
	id := w.lines[0].Identity
	w.lines = slices.DeleteFunc(w.lines[:8], func(l backtest.Line) bool { return l.Identity == id && l.Op == telemetry.Changed })
	r = w.run(func(c *backtest.Config) {
		c.Forgotten = map[telemetry.Identity][]backtest.Stretch{id: {{From: noon.Add(2 * time.Minute), To: noon.Add(11 * time.Minute)}}}
	})
	if rows(r) != "" || r.NotCompared != 2 {
		t.Errorf("%s, %d not compared, want the two changes", rows(r), r.NotCompared)
	}
}

// TestUnsetClock: transitions from before the clock was set are compared by the time that became known.
func TestUnsetClock(t *testing.T) {
	w := newWorld(t)
	w.morning()
	for i := range w.items {
		if w.items[i].Now.Mono < telemetry.Mono(4*time.Minute) {
			w.items[i].Now.Wall = time.Time{}
		}
	}
	for i := range w.lines {
		if l := &w.lines[i]; l.Time.Before(noon.Add(4 * time.Minute)) {
			if i%2 == 0 { // was never put right
				l.Time, l.Boot = time.Unix(0, 0).Add(l.Time.Sub(noon)), "a"
			} else {
				l.Time = l.Time.Add(time.Millisecond) // was put right with a reading of the clock of its own
			}
		}
	}
	w.want(w.run(), "", 8)
}

func TestGuessedSteps(t *testing.T) {
	w := newWorld(t)
	w.morning()
	for i := range w.items {
		w.items[i].Guessed = w.items[i].Mark == nil
	}
	w.want(w.run(), "note guessed_steps 181", 8)
}

func TestErrorsAndProgress(t *testing.T) {
	w := newWorld(t)
	w.morning()
	broken := errors.New("broken")
	cfg := w.config()
	cfg.Engine = func() (*rules.Engine, error) { return nil, broken }
	if _, err := backtest.Run(t.Context(), cfg); !errors.Is(err, broken) {
		t.Errorf("engine: %v", err)
	}
	cfg = w.config()
	cfg.Next = func(*backtest.Item) error { return broken }
	if _, err := backtest.Run(t.Context(), cfg); !errors.Is(err, broken) {
		t.Errorf("items: %v", err)
	}
	for at := 31 * time.Minute; len(w.items) < 20_000; at += 10 * time.Second {
		w.step(at, level(0, at, 1))
	}
	calls := 0
	w.run(func(c *backtest.Config) {
		c.Until = noon.Add(1000 * time.Hour)
		c.Progress = func(p backtest.Progress) {
			calls++
			if p.At.Before(noon) || p.Samples == 0 {
				t.Errorf("%+v", p)
			}
		}
	})
	if calls != 4 {
		t.Errorf("%d calls", calls)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	cfg = w.config()
	cfg.Until = noon.Add(1000 * time.Hour)
	if _, err := backtest.Run(ctx, cfg); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	// Nothing at all.
	w.items = nil
	if r := w.run(); r.Steps != 0 || r.Same != 0 {
		t.Errorf("%+v", r)
	}
}

func TestPrintAndJSON(t *testing.T) {
	w := newWorld(t)
	w.morning()
	w.lines = append(w.lines, backtest.Line{Identity: telemetry.Identity{Alert: "Blocked", Subject: "gone"}, Op: telemetry.Raise, Time: noon.Add(time.Minute)})
	w.packs = strings.Replace(pack, "for: 1m", "for: 2m", 1)
	r := w.run(func(c *backtest.Config) { c.Rules = "other" })
	var b bytes.Buffer
	r.Print(&b, time.FixedZone("CST", 8*3600), 2)
	for _, want := range []string{
		"compared 2026-05-04 20:00:00 to 2026-05-04 20:30:00, replayed from 2026-05-04 20:00:00: 724 samples in 181 steps, starts of the gateway: 1\n",
		"the journal has nothing from before 2026-05-04 20:00:00\n",
		"note: other rules, or another version of this program, ran from 2026-05-04 20:00:00 on",
		"not compared: alerts of 1 subjects that are no longer at the site (gone ...)",
		"alert      raised       now      same    appear    vanish     moved  severity\n",
		"Blocked         2         1         3         0         2         1         0\n",
		"alerts without a difference: 1\n",
		"moved     2026-05-04 20:02:00.000  raise    Blocked l1  +1m  占用 · Blocked\n",
		"vanishes  2026-05-04 20:03:00.000  raise    Blocked l2  占用 · Blocked\n",
		"... and 1 more (--rows, --json)\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("lacks %q:\n%s", want, b.String())
		}
	}
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Differs bool
		Same    int
		Rows    []struct {
			Kind, Alert, Subject, What string
			Recorded, Now              *time.Time
			MovedBy                    float64        `json:"moved_by_s"`
			Title                      telemetry.Text `json:"title"`
		}
		Alerts []backtest.Group
	}
	if err := json.Unmarshal(data, &got); err != nil || !got.Differs || got.Same != 5 || len(got.Rows) != 3 || len(got.Alerts) != 2 ||
		got.Rows[0].MovedBy != 60 || got.Rows[1].Now != nil || got.Rows[1].What != "raise" || got.Alerts[0].WouldRaise != 1 {
		t.Errorf("%v\n%s", err, data)
	}

	w.packs = pack
	b.Reset()
	w.run().Print(&b, time.UTC, 2)
	if !strings.Contains(b.String(), "no difference: 8 transitions are the same, to the millisecond\n") {
		t.Error(b.String())
	}
}
