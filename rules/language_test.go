package rules_test

import (
	"strings"
	"testing"
	"time"

	"linli/internal/telemetry"
	"linli/rules"
)

// newDoors compiles rules for buttons b1 in hall h (a building) and b2 in garage g, readers r1 and r2 in h.
func newDoors(t testing.TB, list ...string) *play {
	t.Helper()
	return doorsWith(t, "", nil, list...)
}

// doorsWith is newDoors with keys of the pack, and with schedules of the site.
func doorsWith(t testing.TB, head string, schedules map[string]rules.Schedule, list ...string) *play {
	t.Helper()
	st := newSite()
	st.zone("h", "building", "")
	st.zone("f", "floor", "h")
	st.zone("g", "garage", "")
	st.device("b1", "button", "f", "press", "force_n", "armed")
	st.device("b2", "button", "g", "press", "force_n", "armed")
	st.device("r1", "reader", "h", "card", "open")
	st.device("r2", "reader", "h", "card")
	p, err := rules.ParsePack("pack.yaml", []byte(strings.Replace(pack(strings.Join(list, "")), "rules:\n", head+"rules:\n", 1)))
	if err != nil {
		t.Fatal(err)
	}
	e, err := rules.Compile(rules.Config{Packs: []*rules.Pack{p}, Inventory: st.Inventory, Classes: st.classes, Schedules: schedules})
	if err != nil {
		t.Fatal(err)
	}
	return &play{t: t, s: st, e: e}
}

func TestEventsAreCountedOneByOne(t *testing.T) {
	rule := alert("Refused", "reader", `count_over_time(card == "no", 60s) >= 3`, "")
	t.Run("the same value again", func(t *testing.T) {
		p := newDoors(t, rule)
		p.step(0)
		p.want(p.step(1*s, p.sample(1*s, "r1.card", "no")), "")
		p.want(p.step(2*s, p.sample(2*s, "r1.card", "yes"), p.sample(2*s, "r2.card", "no")), "")
		p.want(p.step(3*s, p.sample(3*s, "r1.card", "no")), "")
		p.want(p.step(60*s, p.sample(60*s, "r1.card", "no")), "raise Refused r1")
		p.want(p.step(60*s+999*time.Millisecond), "")
		if got := p.e.Next(); got != at(61*s) {
			t.Errorf("next at %v, want 1m1s, when the first one leaves", time.Duration(got))
		}
		p.want(p.step(61*s), "clear Refused r1")
	})
	t.Run("several in one step, and at one moment", func(t *testing.T) {
		p := newDoors(t, rule, alert("Yes", "reader", `card == "yes"`, ""))
		p.step(0)
		// The last of the moment is another one: each is looked at by itself.
		p.want(p.step(5*s, p.sample(4*s, "r1.card", "no"), p.sample(5*s, "r1.card", "no"), p.sample(5*s, "r2.card", "no"),
			p.sample(5*s, "r1.card", "yes"), p.sample(5*s, "r1.card", "no"), p.sample(5*s, "r1.card", "x")),
			"raise Yes r1, raise Refused r1, clear Yes r1")
		if got := p.e.Stats().Samples; got != 6 {
			t.Errorf("%d samples taken, want 6", got)
		}
	})
	t.Run("late ones are none", func(t *testing.T) {
		p := newDoors(t, rule)
		p.step(0)
		p.want(p.step(9*s, p.sample(5*s, "r1.card", "no"), p.sample(6*s, "r1.card", "no")), "")
		p.want(p.step(10*s, p.sample(3*s, "r1.card", "no")), "")
	})
	t.Run("a bad quality is no event, and time not known", func(t *testing.T) {
		p := newDoors(t, alert("None", "reader", "count_over_time(card, 60s) < 1", ""))
		p.want(p.step(0), "")
		p.want(p.step(44*s), "")
		p.want(p.step(45*s), "raise None r1, raise None r2")
		p.want(p.step(50*s, p.sample(50*s, "r1.card", telemetry.BadComm)), "")
		p.want(p.step(65*s), "")
		p.want(p.step(66*s), "unknown None r1")
		p.want(p.step(70*s, p.sample(70*s, "r1.card", "a")), "clear None r1")
		p.want(p.step(130*s), "raise None r1")
	})
	t.Run("of each device of a group", func(t *testing.T) {
		p := newDoors(t, alert("Some", "site", "any(count_over_time(site.reader.card, 60s) >= 2)", ""))
		p.step(0)
		p.want(p.step(1*s, p.sample(1*s, "r1.card", "a"), p.sample(1*s, "r2.card", "a")), "")
		p.want(p.step(2*s, p.sample(2*s, "r2.card", "a")), "raise Some s1")
	})
	t.Run("of the very first step", func(t *testing.T) {
		p := newDoors(t, alert("Press", "button", "count_over_time(press, 60s) >= 2", ""))
		p.want(p.step(5*s, p.sample(4*s, "b1.press", true), p.sample(5*s, "b1.press", true)), "raise Press b1")
	})
	t.Run("with what else holds at that moment", func(t *testing.T) {
		p := newDoors(t, alert("Press", "button", "count_over_time(press and armed, 60s) >= 2", ""))
		p.step(0, p.sample(0, "b1.armed", false))
		p.want(p.step(1*s, p.sample(1*s, "b1.press", true), p.sample(1*s, "b1.armed", true)), "") // armed at the same moment
		p.want(p.step(2*s, p.sample(2*s, "b1.armed", false), p.sample(2*s, "b1.press", true)), "")
		p.want(p.step(3*s, p.sample(3*s, "b1.armed", true)), "")
		p.want(p.step(4*s, p.sample(4*s, "b1.press", true)), "raise Press b1")
	})
}

func TestSequence(t *testing.T) {
	type moment struct {
		at      time.Duration
		samples string // "b1.press b1.armed=false r1.card=x"
		want    string
	}
	const twoPresses = "sequence(press, press, 30s)"
	for _, c := range []struct {
		name, class, expr string
		moments           []moment
	}{
		{"in order", "button", "sequence(armed, press, 30s)", []moment{
			{0, "b1.armed=false", ""}, {40 * s, "b1.armed=true", ""}, {50 * s, "b1.press", "raise A b1"}, {69 * s, "", ""}, {70 * s, "", "clear A b1"}}},
		{"not the other way round", "button", "sequence(armed, press, 30s)", []moment{
			{0, "b1.armed=false", ""}, {40 * s, "b1.press", ""}, {50 * s, "b1.armed=true", ""}}},
		{"at one moment, whichever comes first", "button", "sequence(armed, press, 30s)", []moment{
			{0, "b1.armed=false", ""}, {40 * s, "b1.press b1.armed=true", "raise A b1"}}},
		{"events of one moment, whichever comes first", "button", "sequence(force_n > 5, press, 30s)", []moment{
			{0, "", ""}, {40 * s, "b1.press", ""}, {40 * s, "b1.force_n=9", "raise A b1"}}},
		{"true all along is no becoming", "button", "sequence(armed, press, 30s)", []moment{
			{0, "b1.armed=true", ""}, {40 * s, "b1.press", ""}}},
		{"too far apart", "button", twoPresses, []moment{{0, "", ""}, {40 * s, "b1.press", ""}, {70 * s, "b1.press", ""}, {99 * s, "b1.press", "raise A b1"}}},
		{"the latest beginning counts", "button", twoPresses, []moment{
			{0, "", ""}, {40 * s, "b1.press", ""}, {60 * s, "b1.press", "raise A b1"}, {69 * s, "", ""}, {70 * s, "b1.press", ""}, {89 * s, "", ""}, {90 * s, "", "clear A b1"}}},
		{"one press at one moment is not two", "button", twoPresses, []moment{{0, "", ""}, {40 * s, "b1.press b1.press", ""}, {41 * s, "b1.press", "raise A b1"}}},
		{"there and back", "button", "sequence(armed, press, armed, 1m)", []moment{
			{0, "b1.armed=false", ""}, {70 * s, "b1.armed=true b1.press", ""}, {80 * s, "b1.armed=false", ""}, {81 * s, "b1.armed=true", "raise A b1"}}},
		{"four", "reader", `sequence(card == "1", card == "2", card == "3", card == "4", 10s)`, []moment{
			{0, "", ""}, {20 * s, "r1.card=1 r1.card=2 r1.card=4", ""}, {21 * s, "r1.card=3", ""}, {22 * s, "r1.card=4", "raise A r1"}, {29 * s, "", ""}, {30 * s, "", "clear A r1"}}},
		{"unknown where it may have been", "button", "sequence(armed, press, 30s) and true", []moment{
			{0, "b1.armed=false", ""}, {40 * s, "b1.armed=true", ""}, {50 * s, "b1.press", "raise A b1"},
			{60 * s, "b1.armed=bad", ""}, {70 * s, "", "unknown A b1"}, {80 * s, "b1.armed=true", ""}, {109 * s, "", ""}, {110 * s, "", "clear A b1"}}},
		{"false before a gap", "button", "sequence(armed, press, 30s)", []moment{
			{0, "b1.armed=false", ""}, {40 * s, "b1.armed=bad", ""}, {50 * s, "b1.armed=true b1.press", "raise A b1"}}},
		{"an event that may have been the one", "button", "sequence(press and armed, force_n > 5, 30s) or armed", []moment{
			{0, "b1.armed=true", "raise A b1"}, {40 * s, "b1.armed=false", "clear A b1"}, {41 * s, "b1.armed=true", "raise A b1"}, {42 * s, "b1.armed=bad", "unknown A b1"},
			{50 * s, "b1.press", ""}, {51 * s, "b1.armed=false", ""}, {79 * s, "", ""}, {80 * s, "", "clear A b1"}}},
		{"of a group", "site", "any(sequence(site.button.armed, site.button.press, 30s))", []moment{
			{0, "b1.armed=false b2.armed=false", ""}, {40 * s, "b1.armed=true b2.press", ""}, {45 * s, "b1.press", "raise A s1"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newDoors(t, alert("A", c.class, c.expr, ""))
			for _, m := range c.moments {
				var list []telemetry.Sample
				for _, f := range strings.Fields(m.samples) {
					name, v, _ := strings.Cut(f, "=")
					list = append(list, p.sample(m.at, name, map[string]any{"": true, "true": true, "false": false, "bad": telemetry.BadComm, "9": 9.0,
						"1": "1", "2": "2", "3": "3", "4": "4"}[v]))
				}
				p.want(p.step(m.at, list...), m.want)
			}
		})
	}
}

func TestAbsentFor(t *testing.T) {
	p := newDoors(t, alert("A", "button", "absent_for(armed) > 2m", ""), alert("All", "site", "max(absent_for(site.button.armed)) >= 3m", ""))
	p.want(p.step(0, p.sample(0, "b1.armed", true)), "") // b2 is never read
	p.want(p.step(120*s), "")
	p.want(p.step(121*s), "raise A b2")
	p.want(p.step(150*s, p.sample(150*s, "b1.armed", telemetry.BadComm)), "")
	p.want(p.step(179*s), "")
	p.want(p.step(180*s), "raise All s1")
	p.want(p.step(200*s, p.sample(200*s, "b2.armed", false)), "clear A b2, clear All s1")
	p.want(p.step(271*s), "raise A b1")
}

func TestWithinAndNumbers(t *testing.T) {
	p := newDoors(t, alert("Garage", "button", `within("garage") and armed`, ""), alert("House", "{zone: [building, floor]}", `within("building")`, ""),
		alert("Abs", "button", "abs(force_n - 10) > 5", ""), alert("Most", "button", "greatest(force_n, 3, 4 - 2) - least(force_n, 8) >= 1", ""))
	p.want(p.step(0, p.sample(0, "b1.armed", true), p.sample(0, "b2.armed", true)), "raise Garage b2, raise House h, raise House f")
	p.want(p.step(1*s, p.sample(1*s, "b1.force_n", 4.0)), "raise Abs b1")
	p.want(p.step(2*s, p.sample(2*s, "b1.force_n", 2.0)), "raise Most b1")
	p.want(p.step(3*s, p.sample(3*s, "b1.force_n", 12.0)), "clear Abs b1")
	p.want(p.step(4*s, p.sample(4*s, "b1.force_n", 7.0)), "clear Most b1")
	over := p.sample(5*s, "b1.force_n", 100.0)
	over.Quality = telemetry.OverRange
	p.want(p.step(5*s, over), "raise Abs b1, raise Most b1")
}

// The nearest whole number, of both bounds.
func TestRound(t *testing.T) {
	p := newDoors(t, alert("Half", "button", "round(force_n) == 3", ""), alert("Below", "button", "round(0 - force_n) <= -3", ""))
	p.want(p.step(0, p.sample(0, "b1.force_n", 2.4)), "")
	p.want(p.step(1*s, p.sample(1*s, "b1.force_n", 2.5)), "raise Half b1, raise Below b1")
	p.want(p.step(2*s, p.sample(2*s, "b1.force_n", 3.5)), "clear Half b1")
	over := p.sample(3*s, "b1.force_n", 2.6)
	over.Quality = telemetry.OverRange // it may be 3 or more, which is 3 at least
	p.want(p.step(3*s, over), "")
	p.want(p.step(4*s, p.sample(4*s, "b1.force_n", 2.0)), "clear Below b1")
}

func TestCoverageOfARule(t *testing.T) {
	p := newPlay(t, alert("A", "meter", "avg_over_time(power_w, 100s) > 10", ", coverage: 0.5"), alert("B", "meter", "avg_over_time(power_w, 100s) > 10", ""),
		"  - {record: mean, for_each: meter, expr: 'avg_over_time(power_w, 100s)', coverage: 1}\n", alert("C", "meter", "mean > 10", ""))
	p.step(0, p.sample(0, "m1.power_w", 11.0))
	p.want(p.step(49*s), "")
	p.want(p.step(50*s), "raise A m1")
	p.want(p.step(74*s), "")
	p.want(p.step(75*s), "raise B m1")
	p.want(p.step(99*s), "")
	p.want(p.step(100*s), "raise C m1")
}

func TestUndecided(t *testing.T) {
	p := newPlay(t,
		alert("Stuck", "meter", "undecided(10m)", ""),
		strings.ReplaceAll(alert("Power", "meter", "power_w > 10", ""), ": a", ": Power"),
		alert("Mean", "meter", "provided(voltage_v) and avg_over_time(voltage_v, 2m) > 250", ""),
		alert("Asked", "meter", "active(Stuck) and power_w > 0", ""),
		alert("Fire", "{zone: building}", "any(zone.smoke_detector.alarm)", ""))
	p.step(0, p.sample(0, "m1.power_w", 1.0), p.sample(0, "m1.voltage_v", 230.0), p.sample(0, "m2.power_w", 1.0))
	p.want(p.step(9*time.Minute), "")
	p.step(10*time.Minute, p.sample(10*time.Minute, "m2.power_w", telemetry.BadComm))
	p.want(p.step(20*time.Minute-1), "")
	if got := p.e.Next(); got != at(20*time.Minute) {
		t.Errorf("next at %v, want 20 min", time.Duration(got))
	}
	p.want(p.step(20*time.Minute), "raise Stuck m2, raise Asked m1")
	if got := p.out.Transitions[0].Detail; got.Zh != "无法判断：Power，已 10 分钟" || got.En != "cannot be decided: Power, for 10 min" {
		t.Errorf("detail %q, %q", got.Zh, got.En)
	}
	// A restart of the time: known for a moment.
	p.want(p.step(25*time.Minute, p.sample(25*time.Minute, "m2.power_w", 1.0)), "clear Stuck m2, clear Asked m1")
	p.step(26*time.Minute, p.sample(26*time.Minute, "m2.power_w", telemetry.BadComm))
	p.want(p.step(36*time.Minute-1), "")
	p.want(p.step(36*time.Minute), "raise Stuck m2, raise Asked m1")
	// Of a window the gap must last longer than what it forgives.
	p.step(40*time.Minute, p.sample(40*time.Minute, "m1.voltage_v", telemetry.BadSensor))
	p.want(p.step(50*time.Minute+30*s), "")
	p.want(p.step(50*time.Minute+32*s), "raise Stuck m1")
}

// At the start nothing is undecidable yet: windows must have had their length first. Who asks is not asked itself.
func TestUndecidedAtTheStart(t *testing.T) {
	p := newPlay(t, alert("Mean", "meter", "avg_over_time(power_w, 20m) > 250", ""), alert("Stuck", "meter", "undecided(5m)", ""),
		alert("Self", "meter", "undecided(30m) or power_w > 1000", ""))
	bad := func(d time.Duration) string {
		return p.step(d, p.sample(d, "m1.power_w", telemetry.BadComm), p.sample(d, "m2.power_w", 1.0))
	}
	p.want(bad(0), "")
	p.want(bad(24*time.Minute), "")
	p.want(p.step(25*time.Minute-1), "")
	p.want(p.step(25*time.Minute), "raise Stuck m1")
	p.want(bad(30*time.Minute), "") // of which Self was unknown all the time
	p.want(p.step(50*time.Minute), "raise Self m1")
}

// The windows of derived points count too, also where only a bound of the derived point is known.
func TestUndecidedOfADerivedPoint(t *testing.T) {
	p := newPlay(t, alert("Mean", "meter", "long_min > 90 and known(long_min)", ""), alert("Stuck", "meter", "undecided(15m)", ""),
		"  - {record: hot_min, for_each: meter, title: {zh: a, en: a}, expr: 'duration_true(power_w > 10, 2h) / 1m'}\n"+
			"  - {record: long_min, for_each: meter, title: {zh: a, en: a}, expr: 'hot_min + 0'}\n")
	bad := func(d time.Duration) string {
		return p.step(d, p.sample(d, "m1.power_w", telemetry.BadComm), p.sample(d, "m2.power_w", 1.0))
	}
	p.want(bad(0), "")
	p.want(p.step(2*time.Hour+15*time.Minute-1), "")
	p.want(p.step(2*time.Hour+15*time.Minute), "raise Stuck m1")
}

// What was decided by something else than the window has had its start all the same: the window does not begin anew when
// the alert becomes unknown.
func TestUndecidedLongAfterTheStart(t *testing.T) {
	p := newPlay(t, alert("Mean", "meter", "power_w > 100 and avg_over_time(power_w, 7d) > 50 and power_w > 100", ""), alert("Stuck", "meter", "undecided(15m)", ""))
	p.step(0, p.sample(0, "m1.power_w", 60.0), p.sample(0, "m2.power_w", 1.0))
	week := 8 * 24 * time.Hour
	p.want(p.step(week, p.sample(week, "m1.power_w", telemetry.BadComm)), "")
	p.want(p.step(week+15*time.Minute), "raise Stuck m1")
}

// A rule that protects life is not excused for longer than two hours, whatever it has not read and however long its
// windows are.
func TestUndecidedOfLifeSafety(t *testing.T) {
	p := newPlay(t, alert("Mean", "meter", "power_w > 100 and avg_over_time(power_w, 7d) > 50 or voltage_v > 300", ", life_safety: true"), alert("Stuck", "meter", "undecided(15m)", ""))
	p.step(0, p.sample(0, "m1.power_w", telemetry.BadComm), p.sample(0, "m1.voltage_v", 1.0), p.sample(0, "m2.power_w", 1.0))
	p.want(p.step(2*time.Hour+15*time.Minute-1), "")
	p.want(p.step(2*time.Hour+15*time.Minute), "raise Stuck m1, raise Stuck m2") // the voltage of m2 was never read
}

// Of an event nothing need ever come: it does not keep an alert from saying that it cannot be decided.
func TestAnEventThatNeverCameSettles(t *testing.T) {
	p := newDoors(t, alert("A", "button", "count_over_time(press, 60s) >= 1 or armed", ""))
	p.e.Restore([]telemetry.ActiveAlert{{Identity: telemetry.Identity{Alert: "A", Subject: "b1"}, Severity: telemetry.Warning}})
	p.want(p.step(0, p.sample(0, "b1.armed", telemetry.BadComm)), "")
	p.want(p.step(60*s), "unknown A b1")
}

// clocked steps the engine with a wall clock; "" is one that is not set.
func (p *play) clocked(mono time.Duration, wall string, samples ...telemetry.Sample) string {
	p.t.Helper()
	now := telemetry.Now{Mono: at(mono)}
	if wall != "" {
		w, err := time.ParseInLocation(time.DateTime, wall, p.s.Location)
		if err != nil {
			p.t.Fatal(err)
		}
		now.Wall = w.UTC()
	}
	p.out.Reset()
	p.e.Step(now, samples, &p.out)
	return said(&p.out)
}

func TestSchedules(t *testing.T) {
	const head = `schedules:
  supervised: [{days: [mon, tue, wed, thu, fri], from: "06:30", to: "09:00"}, {days: [weekends], from: "07:00", to: "10:00"}]
  night: [{days: [fri], from: "22:00", to: "06:00"}]
  works: [{from: "2026-05-05 08:00", to: "2026-05-05 18:00", zones: [h]}]
  never: []
  all_day: [{days: [sun]}]
  always: [{from: "00:00", to: "24:00"}]
  evening: [{from: "18:00", to: "24:00"}]
`
	one := func(name string) string { return alert("A", "button", `schedule("`+name+`")`, "") }
	for _, c := range []struct {
		name     string
		expr     string
		clock    []string // "wall" steps a second apart
		want     []string
		untilAll string
	}{
		{"times of day", "supervised", []string{"2026-05-04 06:29:59", "2026-05-04 06:30:00", "2026-05-04 08:59:59", "2026-05-04 09:00:00"},
			[]string{"", "raise A b1, raise A b2", "", "clear A b1, clear A b2"}, ""},
		{"days", "supervised", []string{"2026-05-09 06:45:00", "2026-05-09 07:00:00", "2026-05-09 10:00:00", "2026-05-11 06:45:00"},
			[]string{"", "raise A b1, raise A b2", "clear A b1, clear A b2", "raise A b1, raise A b2"}, ""},
		{"across midnight, from the day on which it began", "night", []string{"2026-05-08 05:00:00", "2026-05-08 22:00:00", "2026-05-09 05:59:59", "2026-05-09 06:00:00", "2026-05-09 23:00:00"},
			[]string{"", "raise A b1, raise A b2", "", "clear A b1, clear A b2", ""}, ""},
		{"once, in some zones", "works", []string{"2026-05-05 07:59:59", "2026-05-05 08:00:00", "2026-05-05 18:00:00"},
			[]string{"", "raise A b1", "clear A b1"}, ""},
		{"never", "never", []string{"2026-05-05 08:00:00", ""}, []string{"", ""}, ""},
		{"a whole day", "all_day", []string{"2026-05-09 23:59:59", "2026-05-10 00:00:00", "2026-05-10 23:59:59", "2026-05-11 00:00:00"},
			[]string{"", "raise A b1, raise A b2", "", "clear A b1, clear A b2"}, ""},
		{"always, whatever the clock", "always", []string{""}, []string{"raise A b1, raise A b2"}, ""},
		{"to the end of the day", "evening", []string{"2026-05-09 23:59:59", "2026-05-10 00:00:00"}, []string{"raise A b1, raise A b2", "clear A b1, clear A b2"}, ""},
		{"unknown while the clock is not set", "evening", []string{"", "2026-05-09 19:00:00", "", "2026-05-09 17:00:00"},
			[]string{"", "raise A b1, raise A b2", "unknown A b1, unknown A b2", "clear A b1, clear A b2"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := doorsWith(t, head, nil, one(c.expr))
			for i, wall := range c.clock {
				p.want(p.clocked(time.Duration(i)*s, wall), c.want[i])
			}
		})
	}
	t.Run("each boundary is a moment of its own", func(t *testing.T) {
		p := doorsWith(t, head, nil, one("supervised"))
		p.clocked(0, "2026-05-04 06:00:00")
		if got := p.e.Next(); got != at(30*time.Minute) {
			t.Errorf("next at %v, want 30 min", time.Duration(got))
		}
		// One late step says everything at its own moment.
		p.want(p.clocked(48*time.Hour, "2026-05-06 06:00:00"), "raise A b1, raise A b2, clear A b1, clear A b2, raise A b1, raise A b2, clear A b1, clear A b2")
		if got := p.out.Transitions[0].Time; got != at(30*time.Minute) {
			t.Errorf("raised at %v, want 30 min", time.Duration(got))
		}
	})
	t.Run("the site's comes before the pack's", func(t *testing.T) {
		p := doorsWith(t, head, map[string]rules.Schedule{"supervised": {}}, one("supervised"))
		p.want(p.clocked(0, "2026-05-04 07:00:00"), "")
	})
}

func TestMistakesOfTheLanguage(t *testing.T) {
	head := "schedules: {deposit_hours: [{from: \"06:30\", to: \"09:30\"}]}\n"
	for _, c := range []struct{ head, rule, want string }{
		{head, alert("A", "meter", `schedule("deposit_hour")`, ""), `unknown schedule "deposit_hour", did you mean "deposit_hours"?; pack p has deposit_hours, the site file works`},
		{head, alert("A", "meter", `schedule(deposit_hours)`, ""), "class meter has no point \"deposit_hours\""},
		{head, alert("A", "meter", `within("garag")`, ""), `unknown kind of zone "garag", did you mean "garage"?`},
		{head, alert("A", "meter", "avg_over_time(power_w, 1m) > 1", ", coverage: 75"), "coverage is a share of a window, from 0.01 to 1, not 75"},
		{head, alert("A", "meter", "avg_over_time(power_w, 1m) > 1", `, coverage: "${limt}"`), "unknown parameter ${limt}"},
		{"schedules: {x: [{days: [mo]}]}\n", alert("A", "meter", `schedule("x")`, ""), `unknown day "mo"`},
		{"schedules: {x: [{from: \"6\", to: \"07:00\"}]}\n", alert("A", "meter", `schedule("x")`, ""), `"6" is neither a time of day`},
		{"schedules: {x: [{from: \"24:00\", to: \"07:00\"}]}\n", alert("A", "meter", `schedule("x")`, ""), `"24:00" is neither a time of day`},
		{"schedules: {x: [{from: \"06:00\"}]}\n", alert("A", "meter", `schedule("x")`, ""), "`from` needs a `to`"},
		{"schedules: {x: [{to: \"06:00\"}]}\n", alert("A", "meter", `schedule("x")`, ""), "`to` needs a `from`"},
		{"schedules: {x: [{from: \"06:00\", to: \"06:00\"}]}\n", alert("A", "meter", `schedule("x")`, ""), "`from` and `to` are the same"},
		{"schedules: {x: [{from: \"2026-05-04 08:00\", to: \"18:00\"}]}\n", alert("A", "meter", `schedule("x")`, ""), "either both times of day, or both day and time"},
		{"schedules: {x: [{from: \"2026-05-04 08:00\", to: \"2026-05-03 08:00\"}]}\n", alert("A", "meter", `schedule("x")`, ""), "it ends before it begins"},
		{"schedules: {x: [{from: \"2026-05-04 08:00\", to: \"2026-05-05 08:00\", days: [mon]}]}\n", alert("A", "meter", `schedule("x")`, ""), "an entry with dates has no `days`"},
		{"schedules: {x: [{zones: [nowhere]}]}\n", alert("A", "meter", `schedule("x")`, ""), `schedule x: unknown zone "nowhere"`},
		{"schedules: {X: []}\n", alert("A", "meter", `power_w > 1`, ""), `"X" is not a name for a schedule`},
		{"schedule: {x: []}\n", alert("A", "meter", `schedule("x")`, ""), `did you mean "schedules"?`},
		{"", "  - {record: x, for_each: meter, expr: power_w, coverage: 2}\n", "coverage is a share"},
	} {
		p, _ := rules.ParsePack("p.yaml", []byte(strings.Replace(pack(c.rule), "rules:\n", c.head+"rules:\n", 1)))
		st := newSite()
		_, err := rules.Compile(rules.Config{Packs: []*rules.Pack{p}, Inventory: st.Inventory, Classes: st.classes, Schedules: map[string]rules.Schedule{"works": {}}})
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Count(err.Error(), "\n") > 0 {
			t.Errorf("%s%sgives\n%v\nwant ...%s... and nothing else", c.head, c.rule, err, c.want)
		}
	}
}

func TestAScheduleThatNobodyAsksFor(t *testing.T) {
	p, err := rules.ParsePack("p.yaml", []byte(strings.Replace(pack(alert("A", "meter", `schedule("supervised")`, "")), "rules:\n", "schedules: {supervised: []}\nrules:\n", 1)))
	if err != nil {
		t.Fatal(err)
	}
	st := newSite()
	e, err := rules.Compile(rules.Config{Packs: []*rules.Pack{p}, Inventory: st.Inventory, Classes: st.classes, Schedules: map[string]rules.Schedule{"supervisd": {}}})
	if err != nil {
		t.Fatal(err)
	}
	if got := e.Warnings().Error(); !strings.Contains(got, `no rule that is in use asks for schedule supervisd, did you mean "supervised"?`) {
		t.Errorf("warnings %q", got)
	}
}

// Rules that would keep the box busy are refused, and the one that costs most is named.
func TestCostIsBounded(t *testing.T) {
	st := newSite()
	st.zone("z", "building", "")
	for i := range 1100 {
		st.device("m"+itoa(i), "meter", "z", "power_w", "voltage_v")
	}
	p, err := rules.ParsePack("p.yaml", []byte(pack(alert("Cheap", "meter", "power_w > 1", "")+alert("Dear", "meter", "power_w > avg(site.meter.power_w)", ""))))
	if err != nil {
		t.Fatal(err)
	}
	_, err = rules.Compile(rules.Config{Packs: []*rules.Pack{p}, Inventory: st.Inventory, Classes: st.classes})
	if err == nil || !strings.Contains(err.Error(), "when every point changes once, most of them rule Dear: use a smaller scope") {
		t.Errorf("error %v, want the cost refused", err)
	}
	st = newSite()
	st.zone("z", "building", "")
	for i := range 900 {
		st.device("m"+itoa(i), "meter", "z", "power_w")
	}
	// The one that costs most is named, not the one with which it became too much.
	p, _ = rules.ParsePack("p.yaml", []byte(pack(alert("Dear", "meter", "power_w > avg(site.meter.power_w)", "")+alert("Last", "meter", "any(site.meter.power_w > 1)", ""))))
	_, err = rules.Compile(rules.Config{Packs: []*rules.Pack{p}, Inventory: st.Inventory, Classes: st.classes})
	if err == nil || !strings.Contains(err.Error(), "when every point changes once, most of them rule Dear: use a smaller scope") {
		t.Errorf("error %v, want the cost refused", err)
	}
	st = newSite()
	st.zone("z", "building", "")
	for i := range 1100 {
		st.device("m"+itoa(i), "meter", "z", "power_w", "voltage_v")
	}
	p, _ = rules.ParsePack("p.yaml", []byte(pack(alert("Cheap", "meter", "power_w > 1", "")+alert("Dear", "meter", "any(bad(site.meter.power_w)) and any(bad(site.meter.voltage_v)) and any(provided(site.meter.power_w)) and any(site.meter.power_w > site.meter.voltage_v)", ""))))
	_, err = rules.Compile(rules.Config{Packs: []*rules.Pack{p}, Inventory: st.Inventory, Classes: st.classes})
	if err == nil || !strings.Contains(err.Error(), "most of them rule Dear: use a smaller scope") {
		t.Errorf("error %v, want the cost refused", err)
	}
}

// Whatever the functions remember, an evaluation of them takes no memory.
func TestNoAllocationOfAnyFunction(t *testing.T) {
	st := newSite()
	st.zone("z", "building", "")
	st.device("m1", "meter", "z", "power_w", "voltage_v")
	st.device("b1", "button", "z", "press", "force_n", "armed")
	exprs := map[string]string{
		"integral": "integral(power_w, 10m) > 1e9", "increase": "increase(power_w, 10m) > 1", "rate": "rate(power_w, 10m) > 1",
		"quantile": "quantile_over_time(0.9, power_w, 10m) > 1", "leq": "leq(power_w, 10m) > 1", "count": "count_over_time(power_w > 400, 10m) > 1",
		"absent": "absent_for(voltage_v) > 1000h", "sequence": "sequence(power_w > 400, voltage_v > 1, power_w < 300, 1m)",
		"numbers": "abs(power_w) + round(voltage_v) + greatest(power_w, voltage_v, 3) - least(power_w, voltage_v) < -1", "undecided": "undecided(700h)",
		"schedule": `schedule("x") and power_w > 1`, "within": `within("garage") and power_w > 1`,
	}
	list := ""
	for name, x := range exprs {
		list += alert(strings.ToUpper(name[:1])+name[1:], "meter", strings.ReplaceAll(x, "1e9", "1000000000"), "")
	}
	list += alert("Presses", "button", "count_over_time(press, 10m) > 1000000", "") + alert("Hard", "button", "count_over_time(force_n > 3, 10m) > 1000000", "") +
		alert("Twice", "button", "sequence(press, force_n > 10, 10s) and false", "")
	pk, err := rules.ParsePack("p.yaml", []byte(strings.Replace(pack(list), "rules:\n", "schedules: {x: [{from: \"06:00\", to: \"07:00\"}]}\nrules:\n", 1)))
	if err != nil {
		t.Fatal(err)
	}
	e, err := rules.Compile(rules.Config{Packs: []*rules.Pack{pk}, Inventory: st.Inventory, Classes: st.classes})
	if err != nil {
		t.Fatal(err)
	}
	p := &play{t: t, s: st, e: e}
	batch := []telemetry.Sample{p.sample(0, "m1.power_w", 1.0), p.sample(0, "m1.voltage_v", 1.0), p.sample(0, "b1.press", true), p.sample(0, "b1.press", true),
		p.sample(0, "b1.force_n", 1.0), p.sample(0, "b1.armed", true)}
	wall := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	round := 0
	step := func() {
		round++
		now := at(time.Duration(round) * s)
		fill(batch, round, now)
		for i := range batch {
			// Some bounds, and some of unknown quality.
			if batch[i].Quality = telemetry.Good; (round+i)%50 == 0 {
				batch[i].Quality = telemetry.OverRange
			} else if (round+i)%70 == 0 {
				batch[i].Quality, batch[i].Value = telemetry.BadComm, telemetry.Value{}
			}
		}
		for i := 2; i < 4; i++ {
			batch[i].Quality, batch[i].Value = telemetry.Good, telemetry.BoolValue(true)
		}
		p.out.Reset()
		p.e.Step(telemetry.Now{Mono: now, Wall: wall.Add(time.Duration(round) * s)}, batch, &p.out)
	}
	for range 3000 {
		step()
	}
	said := 0
	n := testing.AllocsPerRun(500, func() {
		step()
		said += len(p.out.Transitions)
	})
	// A transition allocates its texts; steps that say something are not what is measured.
	if said > 0 {
		t.Fatalf("%d transitions: the test measures texts", said)
	}
	if n != 0 {
		t.Errorf("%v allocations a step", n)
	}
}

// meterWith compiles rules of a pack that has a schedule x, which is never.
func meterWith(t testing.TB, st *site, list ...string) *play {
	t.Helper()
	return &play{t: t, s: st, e: st.compile(t, strings.Replace(pack(strings.Join(list, "")), "rules:\n", "schedules: {x: []}\nrules:\n", 1))}
}

// What happened before a restart still counts; what happened meanwhile is not known.
func TestTheLanguageOverARestart(t *testing.T) {
	list := []string{
		alert("Presses", "button", "count_over_time(press, 60s) >= 3", ""),
		alert("Row", "button", "sequence(armed, press, 60s)", ""),
		alert("Rise", "button", "increase(force_n, 60s) >= 10", ""),
		alert("Gone", "button", "absent_for(armed) >= 2m", ""),
		alert("Stuck", "button", "undecided(60s)", ""),
		alert("Known", "button", "not known(armed) and armed", ""),
	}
	begin := func(p *play) string {
		p.step(0, p.sample(0, "b1.armed", false), p.sample(0, "b1.force_n", 1.0), p.sample(0, "b2.armed", telemetry.BadComm))
		p.step(30*s, p.sample(30*s, "b1.press", true))
		p.want(p.step(31*s, p.sample(31*s, "b1.press", true)), "")
		return p.step(32*s, p.sample(32*s, "b1.armed", true))
	}
	again := func(p *play, by time.Duration) {
		t.Helper()
		b2 := func(d time.Duration) telemetry.Sample { return p.sample(d, "b2.armed", telemetry.BadComm) }
		p.want(p.step(by+35*s, p.sample(by+35*s, "b1.armed", true), b2(by+35*s)), "")
		p.want(p.step(by+36*s, p.sample(by+36*s, "b1.press", true), p.sample(by+36*s, "b1.force_n", 12.0)), "raise Presses b1, raise Row b1, raise Rise b1")
		p.want(p.step(by+59*s), "")
		p.want(p.step(by+60*s), "raise Stuck b2")
		p.want(p.step(by+119*s), "clear Presses b1, unknown Row b1, clear Rise b1, clear Row b1")
		p.want(p.step(by+120*s), "raise Gone b2")
	}
	for _, by := range []time.Duration{0, -20 * s, time.Hour} {
		p := newDoors(t, list...)
		p.want(begin(p), "")
		q := newDoors(t, list...)
		if kept, err := q.e.Resume(p.e.Snapshot(), by); err != nil || kept != 11 {
			t.Fatalf("kept %d, %v", kept, err)
		}
		again(q, by)
	}
	t.Run("replaced while running", func(t *testing.T) {
		p := newDoors(t, list...)
		p.want(begin(p), "")
		q := newDoors(t, append(list, alert("New", "button", "count_over_time(press, 60s) >= 1", ""), alert("NewRow", "button", "sequence(press, armed, 60s)", ""))...)
		q.e.Adopt(p.e)
		// A new rule has not seen the presses from before it.
		q.want(q.step(32*s), "")
		q.want(q.step(35*s), "")
		q.want(q.step(36*s, q.sample(36*s, "b1.press", true), q.sample(36*s, "b1.force_n", 12.0)), "raise Presses b1, raise Row b1, raise Rise b1, raise New b1")
		q.want(q.step(60*s), "raise Stuck b2")
	})
}
