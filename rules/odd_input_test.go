package rules_test

import (
	"math"
	"runtime"
	"strings"
	"testing"
	"time"

	"linli/internal/telemetry"
	"linli/rules"
)

// What docs/rules.md says under "Odd input".

// float makes a sample of a number that telemetry.FloatValue would refuse.
func (p *play) float(d time.Duration, name string, v float64) telemetry.Sample {
	p.t.Helper()
	s := p.sample(d, name, 0.0)
	s.Value = telemetry.ValueFromBits(telemetry.Float, math.Float64bits(v))
	return s
}

func TestNotANumberIsAFailedReading(t *testing.T) {
	p := newPlay(t, alert("High", "meter", "power_w > 10", ", keep_firing_for: 5s"), alert("Low", "meter", "not (power_w > 10)", ""),
		alert("Mean", "meter", "avg_over_time(power_w, 10s) > 10", ""), alert("Bad", "meter", "bad(power_w)", ""))
	p.want(p.step(0, p.sample(0, "m1.power_w", 20.0)), "raise High m1")
	p.want(p.step(8*s), "raise Mean m1")
	p.want(p.step(10*s, p.float(10*s, "m1.power_w", math.NaN())), "unknown High m1, raise Bad m1")
	// The window is not spoilt by it: it goes on with what it knows.
	p.want(p.step(12*s), "")
	p.want(p.step(13*s, p.sample(13*s, "m1.power_w", 20.0)), "known High m1, unknown Mean m1, clear Bad m1")
	p.want(p.step(21*s), "known Mean m1")
	p.want(p.step(30*s, p.sample(30*s, "m1.power_w", telemetry.Good)), "unknown High m1, raise Bad m1") // good, and without a value
}

func TestInfinitiesAreFailedReadings(t *testing.T) {
	p := newPlay(t, alert("High", "meter", "power_w > 10", ""), alert("Low", "meter", "power_w < 10", ""),
		alert("Sum", "meter", "power_w + voltage_v > 10", ""), alert("Product", "meter", "power_w * voltage_v > 10", ""))
	for i, inf := range []float64{math.Inf(1), math.Inf(-1)} {
		for k, q := range []telemetry.Quality{telemetry.Good, telemetry.Uncertain, telemetry.OverRange, telemetry.UnderRange} {
			d := time.Duration(10*i+k) * s
			sample := p.float(d, "m1.power_w", inf)
			sample.Quality = q
			p.want(p.step(d, sample), "")
		}
	}
	// Arithmetic that leaves the range of numbers gives nothing known either.
	p.want(p.step(30*s, p.sample(30*s, "m1.power_w", 1.7e308), p.sample(30*s, "m1.voltage_v", 1.7e308)), "raise High m1")
}

func TestStepsOfTheWallClockMoveNoTimer(t *testing.T) {
	for name, jump := range map[string]time.Duration{"forward": 400 * 24 * time.Hour, "back": -400 * 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			p := newPlay(t, alert("Wait", "meter", "power_w > 10", ", for: 60s, keep_firing_for: 60s"),
				alert("Sum", "meter", "duration_true(power_w > 10, 60s) >= 50s", ""))
			wall := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
			step := func(d time.Duration, samples ...telemetry.Sample) string {
				p.out.Reset()
				p.e.Step(telemetry.Now{Mono: at(d), Wall: wall.Add(d)}, samples, &p.out)
				return said(&p.out)
			}
			p.want(step(0, p.sample(0, "m1.power_w", 20.0)), "")
			wall = wall.Add(jump)
			p.want(step(30*s), "")
			p.want(step(59*s), "raise Sum m1")
			p.want(step(60*s), "raise Wait m1")
			if got, want := p.out.Transitions[0].Wall, wall.Add(60*s); !got.Equal(want) {
				t.Errorf("raised at %v on the wall clock, want what it shows now, %v", got, want)
			}
			p.want(step(70*s, p.sample(70*s, "m1.power_w", 1.0)), "")
			wall = wall.Add(-jump)
			p.want(step(129*s), "clear Sum m1")
			p.want(step(130*s), "clear Wait m1")
		})
	}
}

func TestTheSameSampleAgainChangesNothing(t *testing.T) {
	p := newPlay(t, alert("High", "meter", "power_w > 10", ", for: 10s"), alert("Often", "meter", "changes(power_w, 60s) >= 1", ""),
		alert("Rise", "meter", "increase(power_w, 60s) > 0", ""))
	first := p.sample(0, "m1.power_w", 20.0)
	p.want(p.step(0, first, first), "")
	p.want(p.step(1*s, first), "") // older than the engine: taken now, and the same
	for d := 2 * s; d <= 9*s; d += s {
		p.want(p.step(d, p.sample(d, "m1.power_w", 20.0), p.sample(d, "m1.power_w", 20.0)), "")
	}
	p.want(p.step(10*s), "raise High m1")
	if late := p.e.Stats().Late; late != 0 {
		t.Errorf("%d taken as late; a repetition is not older than what it repeats", late)
	}
}

func TestALateSampleDoesNotReplaceANewerOne(t *testing.T) {
	p := newPlay(t, alert("High", "meter", "power_w > 10", ""), alert("Most", "meter", "max_over_time(power_w, 60s) > 30", ""),
		alert("Volts", "meter", "voltage_v > 10", ", for: 10s"))
	p.want(p.step(100*s, p.sample(100*s, "m1.power_w", 20.0)), "raise High m1")
	p.want(p.step(109*s, p.sample(99*s, "m1.power_w", 50.0), p.sample(90*s, "m1.voltage_v", 20.0)), "")
	if late := p.e.Stats().Late; late != 1 {
		t.Errorf("%d taken as late, want 1: of the other point it was the newest", late)
	}
	// What was late but the newest of its point counts from when the engine was, at 100 s.
	p.want(p.step(111*s), "raise Volts m1")
	if got := p.out.Transitions[0].Time; got != at(110*s) {
		t.Errorf("raised at %v, want 110 s", time.Duration(got))
	}
}

// A sample that claims to be from the future counts as one of now. Those that follow are not late because of it.
func TestASampleFromTheFutureIsOneOfNow(t *testing.T) {
	p := newPlay(t, alert("High", "meter", "power_w > 10", ""))
	p.want(p.step(1*s, p.sample(time.Hour, "m1.power_w", 20.0)), "raise High m1")
	p.want(p.step(2*s, p.sample(2*s, "m1.power_w", 1.0)), "clear High m1")
	never := p.sample(0, "m1.power_w", 20.0)
	never.Time = telemetry.Never
	p.want(p.step(3*s, never), "raise High m1")
	p.want(p.step(4*s, p.sample(4*s, "m1.power_w", 1.0)), "clear High m1")
}

// The first samples may be old, but not from before all time.
func TestTheFirstSampleMayBeOfAnyTime(t *testing.T) {
	for _, first := range []telemetry.Mono{math.MinInt64, -1 << 62, 0, telemetry.Never} {
		p := newPlay(t, alert("Mean", "meter", "avg_over_time(power_w, 10s) > 10", ", for: 5s"))
		sample := p.sample(0, "m1.power_w", 20.0)
		sample.Time = first
		p.step(20*time.Hour, sample)
		p.step(20*time.Hour+20*s, p.sample(20*time.Hour+20*s, "m1.power_w", 20.0))
		if n := p.e.Stats().Evaluations; n > 10_000 {
			t.Errorf("first sample at %d: %d evaluations", first, n)
		}
	}
}

// The moment never goes back: a caller that mixes two up undoes nothing.
func TestThePresentDoesNotGoBack(t *testing.T) {
	p := newPlay(t, alert("High", "meter", "power_w > 10", ", for: 10s"))
	p.step(0, p.sample(0, "m1.power_w", 20.0))
	p.want(p.step(9*s), "")
	p.want(p.step(3*s), "")
	p.want(p.step(4*s, p.sample(4*s, "m1.power_w", 30.0)), "")
	p.want(p.step(10*s), "raise High m1")
}

func TestTenThousandInstancesOfOneRule(t *testing.T) {
	const n = 10_000
	meters := func(t *testing.T, list string) (*play, error) {
		st := newSite()
		for i := range n / 8 {
			st.zone("z"+itoa(i), "building", "")
		}
		for i := range n {
			st.device("m"+itoa(i), "meter", "z"+itoa(i/8), "power_w")
		}
		pk, err := rules.ParsePack("p.yaml", []byte(pack(list)))
		if err != nil {
			t.Fatal(err)
		}
		e, err := rules.Compile(rules.Config{Packs: []*rules.Pack{pk}, Inventory: st.Inventory, Classes: st.classes})
		return &play{t: t, s: st, e: e}, err
	}
	memory := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := memory()
	p, err := meters(t, alert("High", "meter", "power_w > 10", ", for: 10s")+
		alert("Site", "site", "count(site.meter.power_w > 10) > 5000 and avg(site.meter.power_w) > 10", ""))
	if err != nil {
		t.Fatal(err)
	}
	if per := (memory() - before) / n; per > 2000 {
		t.Errorf("%d bytes for each instance, its device and point", per)
	}
	all := make([]telemetry.Sample, n)
	for i := range all {
		all[i] = telemetry.Sample{Point: telemetry.PointID(i), Time: at(1 * s), Value: telemetry.FloatValue(20)}
	}
	p.want(p.step(1*s, all...), "raise Site s1")
	if got := p.e.Stats().Evaluations; got != n+1 {
		t.Errorf("%d evaluations for %d samples of one moment, want one for each instance", got, n)
	}
	one := p.e.Stats().Evaluations
	p.step(2*s, p.sample(2*s, "m77.power_w", 30.0))
	if got := p.e.Stats().Evaluations - one; got != 2 {
		t.Errorf("%d evaluations for one sample, want its own and the site's", got)
	}
	p.step(11 * s)
	if got := len(p.out.Transitions); got != n {
		t.Errorf("%d raised, want all %d", got, n)
	}

	// What would not fit is refused before anything runs, and the message says what to do.
	if _, err := meters(t, alert("Mean", "meter", "avg_over_time(power_w, 1h) > 10", "")); err == nil || !strings.Contains(err.Error(), "MiB") {
		t.Errorf("10,000 windows: %v, want the memory refused", err)
	}
	if _, err := meters(t, alert("Mean", "meter", "avg(site.meter.power_w) > 10", "")); err == nil {
		t.Error("10,000 averages over 10,000 meters are not refused")
	}
}

func TestADeviceRemovedWhileItFires(t *testing.T) {
	high := alert("High", "meter", "power_w > 10", ", for: 10s, keep_firing_for: 10s")
	p := newPlay(t, high, alert("Any", "site", "active(High)", ""))
	p.step(0, p.sample(0, "m1.power_w", 20.0), p.sample(0, "m2.power_w", 20.0))
	p.want(p.step(10*s), "raise High m1, raise High m2, raise Any s1")
	active := []telemetry.ActiveAlert{
		{Identity: telemetry.Identity{Alert: "High", Subject: "m1"}, Severity: telemetry.Warning},
		{Identity: telemetry.Identity{Alert: "High", Subject: "m2"}, Severity: telemetry.Warning},
		{Identity: telemetry.Identity{Alert: "Any", Subject: "s1"}, Severity: telemetry.Warning},
	}
	// The site file of the next process has no m2.
	st := newSite()
	st.zone("b1", "building", "")
	st.device("m1", "meter", "b1", "power_w", "voltage_v")
	q := &play{t: t, s: st, e: st.compile(t, pack(high+alert("Any", "site", "active(High)", "")))}
	removed := q.e.Restore(active)
	if len(removed) != 1 || removed[0].Subject != "m2" {
		t.Errorf("taken as removed: %v, want High of m2", removed)
	}
	if _, err := q.e.Resume(p.e.Snapshot(), 0); err != nil {
		t.Errorf("the state of the device that is gone: %v", err)
	}
	q.want(q.step(20*s, q.sample(20*s, "m1.power_w", 1.0)), "")
	q.want(q.step(30*s), "clear High m1, clear Any s1") // it does not hang on the one that is gone
}
