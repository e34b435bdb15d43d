package rules_test

import (
	"math"
	"testing"
	"time"

	"linli/internal/telemetry"
)

const s = time.Second

// newPlay compiles rules for two meters in a building, a detector and a lane.
func newPlay(t testing.TB, rules ...string) *play {
	t.Helper()
	st := newSite()
	st.zone("b1", "building", "")
	st.zone("f1", "floor", "b1")
	st.zone("b2", "building", "")
	st.device("m1", "meter", "f1", "power_w", "voltage_v")
	st.device("m2", "meter", "b2", "power_w")
	st.device("sd1", "smoke_detector", "f1", "alarm")
	st.device("sd2", "smoke_detector", "b1", "alarm")
	all := ""
	for _, r := range rules {
		all += r
	}
	return &play{t: t, s: st, e: st.compile(t, pack(all))}
}

func TestForNeedsTheConditionKnownAllTheTime(t *testing.T) {
	rule := alert("A", "meter", "power_w > 10", ", for: 60s")
	t.Run("not a moment earlier", func(t *testing.T) {
		p := newPlay(t, rule)
		p.want(p.step(0, p.sample(0, "m1.power_w", 11.0)), "")
		p.want(p.step(59*s+999*time.Millisecond), "")
		if got := p.e.Next(); got != at(60*s) {
			t.Errorf("next timer at %v, want 60 s", time.Duration(got))
		}
		p.want(p.step(60*s), "raise A m1")
	})
	t.Run("false starts again", func(t *testing.T) {
		p := newPlay(t, rule)
		p.step(0, p.sample(0, "m1.power_w", 11.0))
		p.step(30*s, p.sample(30*s, "m1.power_w", 10.0))
		p.step(31*s, p.sample(31*s, "m1.power_w", 11.0))
		p.want(p.step(90*s), "")
		p.want(p.step(91*s), "raise A m1")
	})
	t.Run("unknown stands still", func(t *testing.T) {
		p := newPlay(t, rule)
		p.step(0, p.sample(0, "m1.power_w", 11.0))
		p.step(50*s, p.sample(50*s, "m1.power_w", telemetry.BadComm))
		p.want(p.step(100*s), "")
		if p.e.Next() != telemetry.Never {
			t.Errorf("a timer runs while the condition is unknown")
		}
		p.step(105*s, p.sample(105*s, "m1.power_w", 11.0))
		p.want(p.step(114*s), "")
		p.want(p.step(115*s), "raise A m1")
	})
	t.Run("unknown for longer than for starts again", func(t *testing.T) {
		p := newPlay(t, rule)
		p.step(0, p.sample(0, "m1.power_w", 11.0))
		p.step(50*s, p.sample(50*s, "m1.power_w", telemetry.BadComm))
		p.step(111*s, p.sample(111*s, "m1.power_w", 11.0))
		p.want(p.step(170*s), "")
		p.want(p.step(171*s), "raise A m1")
	})
	t.Run("over-range counts as far as it goes", func(t *testing.T) {
		p := newPlay(t, rule)
		over := p.sample(0, "m1.power_w", 12.0)
		over.Quality = telemetry.OverRange
		p.step(0, over)
		p.want(p.step(60*s), "raise A m1")
	})
}

func TestKeepFiringFor(t *testing.T) {
	p := newPlay(t, alert("A", "meter", "power_w > 10", ", keep_firing_for: 30s"))
	p.want(p.step(0, p.sample(0, "m1.power_w", 11.0)), "raise A m1")
	p.want(p.step(10*s, p.sample(10*s, "m1.power_w", 9.0)), "")
	p.want(p.step(30*s, p.sample(30*s, "m1.power_w", 11.0)), "")
	p.want(p.step(40*s, p.sample(40*s, "m1.power_w", 9.0)), "")
	p.want(p.step(60*s, p.sample(60*s, "m1.power_w", telemetry.BadSensor)), "unknown A m1")
	p.want(p.step(85*s), "")
	p.want(p.step(85*s, p.sample(85*s, "m1.power_w", 9.0)), "known A m1")
	p.want(p.step(94*s), "")
	p.want(p.step(95*s), "clear A m1")
}

func TestUnknownNeitherRaisesNorClears(t *testing.T) {
	p := newPlay(t, alert("A", "meter", "power_w > 10", ""))
	p.want(p.step(0), "") // nothing read yet
	p.want(p.step(1*s, p.sample(1*s, "m1.power_w", telemetry.BadComm)), "")
	p.want(p.step(2*s, p.sample(2*s, "m1.power_w", 11.0)), "raise A m1")
	p.want(p.step(3*s, p.sample(3*s, "m1.power_w", telemetry.BadComm)), "unknown A m1")
	p.want(p.step(4*s, p.sample(4*s, "m1.power_w", telemetry.BadSensor)), "")
	p.want(p.step(5*s, p.sample(5*s, "m1.power_w", math.NaN())), "")
	p.want(p.step(6*s, p.sample(6*s, "m1.power_w", 12.0)), "known A m1")
	p.want(p.step(7*s, p.sample(7*s, "m1.power_w", telemetry.BadComm)), "unknown A m1")
	p.want(p.step(8*s, p.sample(8*s, "m1.power_w", 3.0)), "clear A m1")
}

func TestSeverity(t *testing.T) {
	p := newPlay(t, alert("A", "meter", "power_w > 10", ", severity_when: {critical: voltage_v > 250}"))
	p.want(p.step(0, p.sample(0, "m1.power_w", 11.0)), "raise A m1")
	if got := p.out.Transitions[0].Severity; got != telemetry.Warning {
		t.Errorf("severity %v while the condition for critical is unknown, want warning", got)
	}
	p.want(p.step(1*s, p.sample(1*s, "m1.voltage_v", 260.0)), "changed A m1")
	if got := p.out.Transitions[0]; got.Severity != telemetry.Critical || got.Detail.Zh != "power_w 11 W（限 10） · voltage_v 260 V（限 250）" {
		t.Errorf("severity %v, detail %q", got.Severity, got.Detail.Zh)
	}
	p.want(p.step(2*s, p.sample(2*s, "m1.voltage_v", telemetry.BadComm)), "") // kept while unknown
	p.want(p.step(3*s, p.sample(3*s, "m1.voltage_v", 240.0)), "changed A m1")
}

// One alert wakes another within the same step, in the order in which they need each other, not of the file.
func TestActiveWithinOneStep(t *testing.T) {
	p := newPlay(t,
		alert("Second", "meter", "power_w > 10 and active(First)", ""),
		alert("First", "{zone: building}", "any(zone.smoke_detector.alarm)", ""))
	p.want(p.step(0, p.sample(0, "m1.power_w", 11.0), p.sample(0, "sd1.alarm", false), p.sample(0, "sd2.alarm", false)), "")
	p.want(p.step(1*s, p.sample(1*s, "sd1.alarm", true)), "raise First b1, raise Second m1")
	p.want(p.step(2*s, p.sample(2*s, "sd1.alarm", false)), "clear First b1, clear Second m1")
}

func TestDerivedPointsFeedOtherRules(t *testing.T) {
	p := newPlay(t,
		alert("A", "meter", "kilowatts > 1", ""),
		alert("B", "site", "max(site.meter.kilowatts) > 2", ""),
		"  - {record: kilowatts, for_each: meter, expr: power_w / 1000, unit: kW}\n")
	p.want(p.step(0, p.sample(0, "m1.power_w", 1500.0)), "raise A m1")
	if len(p.out.Derived) != 1 || p.out.Derived[0].Value.Float() != 1.5 || p.s.Series(p.out.Derived[0].Point).Point != "kilowatts" {
		t.Errorf("derived %+v", p.out.Derived)
	}
	p.want(p.step(1*s, p.sample(1*s, "m2.power_w", 2500.0)), "raise A m2, raise B s1")
	p.want(p.step(2*s, p.sample(2*s, "m1.power_w", telemetry.BadComm)), "unknown A m1")
	if d := p.out.Derived; len(d) != 1 || d[0].Quality != telemetry.BadSensor || !d[0].Value.IsZero() {
		t.Errorf("derived of a bad sample %+v", d)
	}
	// A sample for a derived point from outside is refused.
	foreign := telemetry.Sample{Point: telemetry.PointID(len(p.s.Points) - 1), Time: at(3 * s), Value: telemetry.FloatValue(9e9)}
	p.want(p.step(3*s, foreign, telemetry.Sample{Point: telemetry.NoPoint, Time: at(3 * s)}), "")
	if got := p.e.Stats().Foreign; got != 2 {
		t.Errorf("%d foreign samples counted, want 2", got)
	}
}

// Groups: the subject's zone with what lies in it, an enclosing zone by kind, the site.
func TestGroups(t *testing.T) {
	p := newPlay(t,
		alert("Zone", "meter", "any(zone.smoke_detector.alarm)", ""),
		alert("Building", "meter", "any(building.smoke_detector.alarm)", ""),
		alert("Site", "meter", "any(site.smoke_detector.alarm)", ""))
	p.want(p.step(0, p.sample(0, "sd1.alarm", false), p.sample(0, "sd2.alarm", false)), "")
	p.want(p.step(1*s, p.sample(1*s, "sd2.alarm", true)), "raise Building m1, raise Site m1, raise Site m2")
	p.want(p.step(2*s, p.sample(2*s, "sd1.alarm", true)), "raise Zone m1")
}

func TestAggregatesWithUnknownMembers(t *testing.T) {
	p := newPlay(t,
		alert("Any", "site", "any(site.smoke_detector.alarm)", ""),
		alert("All", "site", "all(site.smoke_detector.alarm)", ""),
		alert("Two", "site", "at_least(2, site.smoke_detector.alarm)", ""),
		alert("Max", "site", "max(site.meter.power_w) > 10", ""),
		alert("Avg", "site", "avg(site.meter.power_w) > 10", ""))
	p.want(p.step(0, p.sample(0, "sd1.alarm", true), p.sample(0, "m1.power_w", 50.0)), "raise Any s1, raise Max s1")
	p.want(p.step(1*s, p.sample(1*s, "sd2.alarm", true), p.sample(1*s, "m2.power_w", 0.0)), "raise All s1, raise Two s1, raise Avg s1")
	p.want(p.step(2*s, p.sample(2*s, "sd1.alarm", telemetry.BadComm), p.sample(2*s, "m2.power_w", telemetry.BadComm)),
		"unknown All s1, unknown Two s1, unknown Avg s1")
	p.want(p.step(3*s, p.sample(3*s, "sd2.alarm", false), p.sample(3*s, "m1.power_w", 1.0)),
		"unknown Any s1, clear All s1, clear Two s1, unknown Max s1")
}

func TestLateDuplicateAndFutureSamples(t *testing.T) {
	p := newPlay(t, alert("A", "meter", "power_w > 10", ", for: 10s"))
	p.step(100*s, p.sample(100*s, "m1.power_w", 11.0))
	p.want(p.step(105*s, p.sample(99*s, "m1.power_w", 1.0)), "") // late: ignored
	p.want(p.step(106*s, p.sample(106*s, "m1.power_w", 11.0), p.sample(106*s, "m1.power_w", 11.0)), "")
	p.want(p.step(110*s), "raise A m1")
	if got := p.e.Stats().Late; got != 1 {
		t.Errorf("%d late samples counted, want 1", got)
	}
	// From the future: taken as now.
	p.want(p.step(111*s, p.sample(500*s, "m1.power_w", 1.0)), "clear A m1")
	if got := p.out.Transitions[0].Time; got != at(111*s) {
		t.Errorf("cleared at %v, want 111 s", time.Duration(got))
	}
	// Now going back: taken as before.
	p.want(p.step(50*s), "")
}

// A Step that comes late decides as if it had come in time: each timer at its own moment, between the samples.
func TestLateStep(t *testing.T) {
	p := newPlay(t, alert("A", "meter", "power_w > 10", ", for: 10s"))
	p.step(0, p.sample(0, "m1.power_w", 11.0), p.sample(0, "m2.power_w", 11.0))
	p.want(p.step(60*s, p.sample(5*s, "m2.power_w", 1.0), p.sample(30*s, "m1.power_w", 1.0), p.sample(31*s, "m2.power_w", 11.0)),
		"raise A m1, clear A m1, raise A m2")
	var times []time.Duration
	for _, tr := range p.out.Transitions {
		times = append(times, time.Duration(tr.Time))
	}
	if times[0] != 10*s || times[1] != 30*s || times[2] != 41*s {
		t.Errorf("transitions at %v, want 10 s, 30 s, 41 s", times)
	}
}

func TestRestore(t *testing.T) {
	p := newPlay(t, alert("A", "meter", "power_w > 10", ", for: 60s"))
	id := func(alert, subject string) telemetry.ActiveAlert {
		return telemetry.ActiveAlert{Identity: telemetry.Identity{Alert: alert, Subject: subject}, Severity: telemetry.Warning}
	}
	m1 := id("A", "m1")
	m1.Unknown = true
	removed := p.e.Restore([]telemetry.ActiveAlert{m1, id("A", "m2"), id("A", "gone"), id("Gone", "m1")})
	if len(removed) != 2 || removed[0].Subject != "gone" || removed[1].Alert != "Gone" {
		t.Errorf("removed %+v", removed)
	}
	p.want(p.step(0), "") // not read yet is not worth a word
	p.want(p.step(1*s, p.sample(1*s, "m1.power_w", 11.0)), "known A m1")
	p.want(p.step(2*s, p.sample(2*s, "m2.power_w", 11.0)), "") // nobody was told that it was unknown
	p.want(p.step(2*s, p.sample(2*s, "m2.power_w", telemetry.BadComm)), "unknown A m2")
	p.want(p.step(3*s, p.sample(3*s, "m2.power_w", 1.0), p.sample(3*s, "m1.power_w", 1.0)), "clear A m1, clear A m2")
}

func TestCalendar(t *testing.T) {
	p := newPlay(t, alert("Night", "meter", `between("22:00", "06:00") and power_w > 10`, ""),
		alert("Noon", "site", "hour() == 12 and weekday() == 1", ""))
	run := func(mono time.Duration, wall string, samples ...telemetry.Sample) string {
		now := telemetry.Now{Mono: at(mono)}
		if wall != "" {
			w, err := time.ParseInLocation(time.DateTime, wall, p.s.Location)
			if err != nil {
				t.Fatal(err)
			}
			now.Wall = w.UTC()
		}
		p.out.Reset()
		p.e.Step(now, samples, &p.out)
		return said(&p.out)
	}
	p.want(run(0, "", p.sample(0, "m1.power_w", 11.0), p.sample(0, "m2.power_w", 1.0)), "")
	p.want(run(1*s, "2026-05-04 11:59:50"), "") // a Monday; the clock is set now
	p.want(run(11*s, "2026-05-04 12:00:00"), "raise Noon s1")
	if p.out.Transitions[0].Wall.IsZero() {
		t.Error("no wall clock time on the transition")
	}
	p.want(run(12*s, "2026-05-04 22:30:00"), "raise Night m1, clear Noon s1") // stepped forward
	p.want(run(13*s, "2026-05-04 21:30:00"), "clear Night m1")                // and back
	p.want(run(13*s+30*time.Minute, "2026-05-04 22:00:00"), "raise Night m1")
	p.want(run(14*s+30*time.Minute, ""), "unknown Night m1")
}

func TestSameInputSameOutput(t *testing.T) {
	var first string
	for range 5 {
		p := newPlay(t, alert("A", "meter", "power_w > 10", ", for: 2s"), alert("B", "site", "active(A) and count(site.meter.power_w > 5) >= 2", ""))
		all := ""
		for i := range 200 {
			d := time.Duration(i) * s
			all += p.step(d, p.sample(d, "m1.power_w", float64(i%14)), p.sample(d, "m2.power_w", float64(i%13))) + ";"
		}
		if first == "" {
			first = all
		}
		if all != first || len(all) < 300 {
			t.Fatalf("another run said something else")
		}
	}
}

// large is a site in which each sample wakes at least three instances: a threshold, a window and an aggregate.
func large(t testing.TB, meters int) (*play, []telemetry.Sample) {
	st := newSite()
	for i := range (meters + 7) / 8 {
		st.zone("z"+itoa(i), "building", "")
	}
	for i := range meters {
		st.device("m"+itoa(i), "meter", "z"+itoa(i/8), "power_w")
	}
	e := st.compile(t, pack(alert("A", "meter", "power_w > 1000", ", for: 60s")+
		alert("B", "meter", "avg_over_time(power_w, 10m) > 1000", "")+
		alert("C", "zone", "avg(zone.meter.power_w) > 1000", "")+
		alert("D", "meter", "silent()", ", for: 60s")))
	p := &play{t: t, s: st, e: e}
	batch := make([]telemetry.Sample, meters)
	for i := range batch {
		batch[i].Point = st.point(t, "m"+itoa(i), "power_w")
	}
	return p, batch
}

func itoa(i int) string {
	const digits = "0123456789"
	if i < 10 {
		return digits[i : i+1]
	}
	return itoa(i/10) + digits[i%10:i%10+1]
}

// fill gives each sample of the batch a new value, some below and some above 500.
func fill(batch []telemetry.Sample, round int, now telemetry.Mono) {
	for i := range batch {
		batch[i].Time = now
		batch[i].Value = telemetry.FloatValue(float64((round*7+i*13)%900) + 0.5)
	}
}

func TestNoAllocationInTheSteadyState(t *testing.T) {
	p, batch := large(t, 64)
	now, round := telemetry.Mono(0), 0
	step := func() {
		now, round = now.Add(s), round+1
		fill(batch, round, now)
		p.out.Reset()
		p.e.Step(telemetry.Now{Mono: now}, batch, &p.out)
	}
	for range 1300 { // the windows fill up
		step()
	}
	before := p.e.Stats()
	if n := testing.AllocsPerRun(200, step); n != 0 {
		t.Errorf("%v allocations a step", n)
	}
	after := p.e.Stats()
	if per := float64(after.Evaluations-before.Evaluations) / float64(after.Samples-before.Samples); per < 2 {
		t.Errorf("only %.1f evaluations a sample: the test measures nothing", per)
	}
}

// BenchmarkEngine prints samples a second with 10,000 meters' worth of instances, each sample waking a threshold, a
// window and an aggregate.
func BenchmarkEngine(b *testing.B) {
	p, batch := large(b, 3200) // 3,200 each of A, B and D, and 400 of C
	b.ReportAllocs()
	now, round := telemetry.Mono(0), 0
	chunk := batch
	// Fill the rings of the windows, so that the growth of memory is not measured.
	for range 700 {
		now, round = now.Add(s), round+1
		fill(batch, round, now)
		p.out.Reset()
		p.e.Step(telemetry.Now{Mono: now}, batch, &p.out)
	}
	start := p.e.Stats()
	b.ResetTimer()
	for i := 0; i < b.N; {
		now, round = now.Add(s), round+1
		fill(batch, round, now)
		// One message of eight samples at a time, as a bus delivers them.
		for len(chunk) > 0 && i < b.N {
			n := min(8, len(chunk), b.N-i)
			p.out.Reset()
			p.e.Step(telemetry.Now{Mono: now}, chunk[:n], &p.out)
			chunk, i = chunk[n:], i+n
		}
		chunk = batch
	}
	b.StopTimer()
	end := p.e.Stats()
	b.ReportMetric(float64(end.Samples-start.Samples)/b.Elapsed().Seconds(), "samples/s")
	b.ReportMetric(float64(end.Evaluations-start.Evaluations)/float64(end.Samples-start.Samples), "evals/sample")
	b.ReportMetric(float64(p.e.Instances()), "instances")
}
