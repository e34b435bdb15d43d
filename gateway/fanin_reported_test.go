package main

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"linli/internal/telemetry"
	"linli/rules"
	"linli/rules/response"
)

// TestWhatIsReportedDecidesAsWhatIsRead: the shipped packs over the demo's community say the same, at the same moments, of
// all that is read and of what the reporter passes of it. Readings come late, again and of other qualities, and rules are reloaded.
func TestWhatIsReportedDecidesAsWhatIsRead(t *testing.T) {
	c := newCommunity(t)
	plans := make([]*plan, 4) // two engines, and two that take over from them
	for i := range plans {
		var err error
		if plans[i], err = loadPlan(c.file); err != nil {
			t.Fatal(err)
		}
	}
	c.plan = plans[0]
	inv := plans[0].site.Inventory
	report := newReporter(inv, plans[0].site.Report.MaxInterval)
	all, few := plans[0].engine, plans[1].engine
	sources := c.sources(func(telemetry.Series) bool { return false })
	r := rand.New(rand.NewPCG(5, 5))
	begin := time.Date(2026, 5, 4, 5, 0, 0, 0, time.UTC)
	var one, two rules.Output
	var passed, late []telemetry.Sample
	read, given, said, derived := 0, 0, 0, 0
	for second := range 3 * 3600 {
		now := telemetry.Now{Mono: telemetry.Mono(second+1) * 1e9}
		now.Wall = begin.Add(time.Duration(now.Mono))
		if second == 2*3600 {
			plans[2].engine.Adopt(all)
			plans[3].engine.Adopt(few)
			all, few = plans[2].engine, plans[3].engine
			report.anew()
		}
		src := sources[second%len(sources)]
		batch := late
		late = nil
		for _, id := range src.points {
			if r.IntN(3) == 0 {
				continue
			}
			s := telemetry.Sample{Point: id, Time: now.Mono - telemetry.Mono(r.IntN(1000))*1e6, Value: src.value(id)}
			switch r.IntN(400) {
			case 0:
				s.Quality, s.Value = telemetry.BadComm, telemetry.Value{}
			case 1:
				s.Quality = telemetry.Uncertain
			}
			if r.IntN(50) == 0 { // It is on its way until others of its point have come.
				late = append(late, s)
				s.Time, s.Value = now.Mono, src.value(id)
			}
			batch = append(batch, s)
		}
		slices.SortStableFunc(batch, func(a, b telemetry.Sample) int { return int(a.Time - b.Time) })
		passed = report.pass(now.Mono, batch, passed[:0])
		one.Reset()
		two.Reset()
		all.Step(now, batch, &one)
		few.Step(now, passed, &two)
		if !slices.Equal(one.Transitions, two.Transitions) || !slices.Equal(one.Derived, two.Derived) {
			t.Fatalf("second %d: of what is read %v %v, of what is reported %v %v", second, one.Transitions, one.Derived, two.Transitions, two.Derived)
		}
		read, given, said, derived = read+len(batch), given+len(passed), said+len(one.Transitions), derived+len(one.Derived)
	}
	t.Logf("%d read, %d reported, %d transitions, %d derived", read, given, said, derived)
	if read-given < 40_000 || said < 100 || derived < 100 || report.counted(reportLate) == 0 {
		t.Error("the test shows little")
	}
}

// TestAnUnchangedReadingConfirms: a lane that is free for 50 s is told of once or twice, and is not old; the explanation of a
// rule knows that too. With the next round it is told again.
func TestAnUnchangedReadingConfirms(t *testing.T) {
	responding(t, nil, func(t *testing.T, r *respondRig) {
		began := r.f.clock.Mono()
		for range 50 {
			r.occupy(0, false)
			settled(time.Second)
		}
		now := r.f.clock.Mono()
		e := r.f.live.Get(r.lane[0])
		if age := now.Sub(e.Confirmed); age > time.Second || e.Changed != began {
			t.Errorf("read %v ago, changed at %v, want 1 s and %v", age, e.Changed, began)
		}
		if told := r.f.samples.Load() - r.f.report.counted(heldUnchanged); told < 1 || told > 2 {
			t.Errorf("it was told of %d times", told)
		}
		running := &runningRules{in: r.f, table: r.f.live, clock: r.f.clock}
		x, err := running.Explain(t.Context(), "lane_taken", "lane_1")
		if err != nil {
			t.Fatal(err)
		}
		found := false
		var look func(o rules.Operand)
		look = func(o rules.Operand) {
			if o.Point != nil && o.Point.Point == "occupied" {
				found = true
				if age := time.Duration(o.Point.Age); age > time.Second {
					t.Errorf("the rule's explanation says that it was read %v ago", age)
				}
			}
			for _, a := range o.Args {
				look(a)
			}
		}
		look(x.Condition)
		if !found {
			t.Errorf("the explanation has no such point: %+v", x)
		}
		r.f.report.anew()
		first := r.f.report.counted(reportFirst)
		r.occupy(0, false)
		if r.f.report.counted(reportFirst) != first+1 {
			t.Error("after a connection to the broker it is not told again")
		}
		// It does not answer, as is read again and again: that is told, and nothing is confirmed.
		for range 3 {
			r.f.emit(t.Context())([]telemetry.Sample{{Point: r.lane[0], Time: r.f.clock.Mono(), Quality: telemetry.BadComm}})
			settled(time.Second)
		}
		if e := r.f.live.Get(r.lane[0]); e.Quality != telemetry.BadComm || r.f.clock.Mono().Sub(e.Confirmed) < 3*time.Second {
			t.Errorf("a silent lane: %+v", e)
		}
	})
}

// TestALateReadingIsNotShown: a reading that arrives after newer ones, which were no news, is not what the pages show.
func TestALateReadingIsNotShown(t *testing.T) {
	responding(t, nil, func(t *testing.T, r *respondRig) {
		began := r.f.clock.Mono()
		for range 5 {
			r.occupy(0, false)
			settled(time.Second)
		}
		r.f.emit(t.Context())([]telemetry.Sample{{Point: r.lane[0], Time: began.Add(1500 * time.Millisecond), Value: onValue}})
		settled(time.Second)
		if e := r.f.live.Get(r.lane[0]); e.Value.Bool() {
			t.Errorf("shown: %+v", e)
		}
		if r.f.late.Load() != 1 {
			t.Errorf("%d samples were late, want 1", r.f.late.Load())
		}
	})
}

// TestOutputsAreWatchedByEveryReading: an output that is wanted on and goes on to be read as off is set again, although
// that it is off is no news.
func TestOutputsAreWatchedByEveryReading(t *testing.T) {
	plans := map[telemetry.Identity]*response.Plan{blocked1: {Outputs: []response.Output{{Value: onValue, Rest: offValue}}}}
	responding(t, plans, func(t *testing.T, r *respondRig) {
		r.says(r.siren, offValue)
		r.occupy(0, true)
		settled(11 * time.Second)
		r.line("after the dwell", "true")
		held := r.f.report.counted(heldUnchanged)
		r.says(r.siren, offValue)
		settled(time.Second)
		if r.f.report.counted(heldUnchanged) != held+1 {
			t.Error("the reading was news: the test shows nothing")
		}
		r.line("read as off", "true true")
	})
}
