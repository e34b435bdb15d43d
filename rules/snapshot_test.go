package rules_test

import (
	"testing"
	"time"

	"linli/internal/telemetry"
)

// resumed is a play whose engine goes on from p's snapshot, by later on its own line.
func resumed(t *testing.T, p *play, by time.Duration, list ...string) *play {
	t.Helper()
	q := newPlay(t, list...)
	if _, err := q.e.Resume(p.e.Snapshot(), by); err != nil {
		t.Fatal(err)
	}
	return q
}

func TestPendingGoesOnAfterAShortRestart(t *testing.T) {
	r := alert("Hot", "meter", "power_w > 100", ", for: 60s")
	p := newPlay(t, r)
	p.step(0, p.sample(0, "m1.power_w", 150.0), p.sample(0, "m2.power_w", 1.0))
	p.want(p.step(50*s), "")
	// 30 s without a process: unknown for less than `for`, so that the 50 s stand.
	q := resumed(t, p, 0, r)
	q.want(q.step(80*s, q.sample(80*s, "m1.power_w", 150.0)), "")
	q.want(q.step(89*s), "")
	q.want(q.step(90*s), "raise Hot m1")
}

func TestPendingStartsAgainAfterALongRestart(t *testing.T) {
	r := alert("Hot", "meter", "power_w > 100", ", for: 60s")
	p := newPlay(t, r)
	p.step(0, p.sample(0, "m1.power_w", 150.0))
	p.want(p.step(50*s), "")
	q := resumed(t, p, 0, r)
	q.want(q.step(111*s, q.sample(111*s, "m1.power_w", 150.0)), "")
	q.want(q.step(170*s), "")
	q.want(q.step(171*s), "raise Hot m1")
}

// After a boot the monotonic line begins anew: times of the snapshot come to lie before it.
func TestPendingGoesOnAfterABoot(t *testing.T) {
	r := alert("Hot", "meter", "power_w > 100", ", for: 60s")
	p := newPlay(t, r)
	p.step(1000*s, p.sample(1000*s, "m1.power_w", 150.0))
	p.want(p.step(1050*s), "")
	q := resumed(t, p, -1070*s, r) // 20 s off, then a boot; now is 0
	q.want(q.step(5*s, q.sample(5*s, "m1.power_w", 150.0)), "")
	q.want(q.step(14*s), "")
	q.want(q.step(15*s), "raise Hot m1")
}

func TestWindowsGoOnAfterARestart(t *testing.T) {
	r := alert("Hot", "meter", "avg_over_time(power_w, 100s) > 100", "")
	p := newPlay(t, r)
	p.step(0, p.sample(0, "m1.power_w", 150.0))
	p.want(p.step(70*s), "")
	q := resumed(t, p, 0, r)
	// 70 s known, 5 s not, and 5 s known again make 75 % of the window.
	q.want(q.step(75*s, q.sample(75*s, "m1.power_w", 150.0)), "")
	q.want(q.step(79*s), "")
	q.want(q.step(80*s), "raise Hot m1")
}

func TestAChangedConditionStartsAgain(t *testing.T) {
	p := newPlay(t, alert("Hot", "meter", "power_w > 100", ", for: 60s"))
	p.step(0, p.sample(0, "m1.power_w", 150.0))
	p.step(50 * s)
	q := resumed(t, p, 0, alert("Hot", "meter", "power_w > 90", ", for: 60s"))
	q.want(q.step(51*s, q.sample(51*s, "m1.power_w", 150.0)), "")
	q.want(q.step(110*s), "")
	q.want(q.step(111*s), "raise Hot m1")
}

func TestClearingGoesOnAfterARestart(t *testing.T) {
	r := alert("Hot", "meter", "power_w > 100", ", keep_firing_for: 60s")
	p := newPlay(t, r)
	p.want(p.step(0, p.sample(0, "m1.power_w", 150.0)), "raise Hot m1")
	p.step(10*s, p.sample(10*s, "m1.power_w", 50.0))
	p.step(50 * s)
	q := newPlay(t, r)
	q.e.Restore([]telemetry.ActiveAlert{{Identity: telemetry.Identity{Alert: "Hot", Subject: "m1"}, Severity: telemetry.Warning}})
	if kept, err := q.e.Resume(p.e.Snapshot(), 0); err != nil || kept != 1 {
		t.Fatalf("kept %d, %v", kept, err)
	}
	q.want(q.step(60*s, q.sample(60*s, "m1.power_w", 50.0)), "")
	q.want(q.step(79*s), "")
	q.want(q.step(80*s), "clear Hot m1")
}

// adopted replaces the engine of p.
func adopted(t *testing.T, p *play, list ...string) (removed []telemetry.Identity) {
	t.Helper()
	q := newPlay(t, list...)
	removed, _ = q.e.Adopt(p.e)
	p.e, p.s = q.e, q.s
	return removed
}

func TestAReloadKeepsWhatStays(t *testing.T) {
	hot := alert("Hot", "meter", "power_w > 100", ", for: 60s")
	mean := alert("Mean", "meter", "avg_over_time(power_w, 100s) > 100", "")
	p := newPlay(t, hot, mean, alert("Gone", "meter", "power_w > 1", ""))
	p.want(p.step(0, p.sample(0, "m1.power_w", 150.0)), "raise Gone m1")
	p.step(50 * s)
	removed := adopted(t, p, mean, alert("Hot", "meter", "power_w > 100", ", for: 70s"), alert("New", "meter", "power_w > 120", ""))
	if len(removed) != 1 || removed[0].Alert != "Gone" {
		t.Errorf("removed %v", removed)
	}
	// No sample is needed: the values came along.
	p.want(p.step(50*s), "raise New m1")
	p.want(p.step(69*s), "")
	p.want(p.step(70*s), "raise Hot m1") // since 0 s, for the new 70 s
	p.want(p.step(76*s), "raise Mean m1")
}

func TestAReloadKeepsAnActiveAlertThatIsUnknown(t *testing.T) {
	hot := alert("Hot", "meter", "power_w > 100", "")
	p := newPlay(t, hot)
	p.want(p.step(0, p.sample(0, "m1.power_w", 150.0)), "raise Hot m1")
	p.want(p.step(1*s, p.sample(1*s, "m1.power_w", telemetry.BadComm)), "unknown Hot m1")
	adopted(t, p, hot, alert("Other", "meter", "power_w > 700", ""))
	p.want(p.step(2*s), "")
	p.want(p.step(3*s, p.sample(3*s, "m1.power_w", 50.0)), "clear Hot m1")
}

// Nothing goes unseen at a reload, so it moves nothing: no wait becomes longer, and what was in order stays in order.
func TestAReloadLeavesNoGap(t *testing.T) {
	list := []string{alert("Hot", "meter", "power_w > 100", ", for: 10s"), alert("Sum", "meter", "integral(power_w, 10s) >= 1500", ""),
		alert("Rise", "meter", "delta(power_w, 10s) > 20", ""), alert("NoRow", "meter", "not sequence(power_w > 180, voltage_v > 100, 20s)", ""),
		alert("Gone", "meter", "absent_for(voltage_v) >= 30s", ""), alert("Stuck", "meter", "undecided(15s)", "")}
	p, q := newPlay(t, list...), newPlay(t, list...)
	for i := range 60 {
		d := time.Duration(i) * s
		var a, b []telemetry.Sample
		switch i {
		case 0:
			a, b = append(a, p.sample(d, "m1.power_w", 150.0)), append(b, q.sample(d, "m1.power_w", 150.0))
		case 25:
			a, b = append(a, p.sample(d, "m1.power_w", 190.0)), append(b, q.sample(d, "m1.power_w", 190.0))
		case 38:
			a, b = append(a, p.sample(d, "m1.voltage_v", 90.0)), append(b, q.sample(d, "m1.voltage_v", 90.0))
		}
		if i > 0 {
			adopted(t, q, list...)
		}
		if got, want := q.step(d, b...), p.step(d, a...); got != want {
			t.Errorf("at %v %q with reloads, %q without", d, got, want)
		}
	}
}

func TestSnapshotChangesNothing(t *testing.T) {
	r := []string{alert("Hot", "meter", "power_w > 100", ", for: 3s"), alert("Mean", "meter", "avg_over_time(power_w, 10s) > 60", ""),
		alert("Most", "meter", "max_over_time(power_w, 10s) > 120", "")}
	p, q := newPlay(t, r...), newPlay(t, r...)
	said := 0
	for i := range 500 {
		d := time.Duration(i) * s
		v := float64((i*37)%140) + 0.5
		a := p.step(d, p.sample(d, "m1.power_w", v))
		b := q.step(d, q.sample(d, "m1.power_w", v))
		if a != b {
			t.Fatalf("at %s %q and, with snapshots, %q", d, a, b)
		}
		if a != "" {
			said++
		}
		q.e.Snapshot()
	}
	if said < 50 {
		t.Errorf("only %d steps said anything: the test shows little", said)
	}
}

func FuzzResume(f *testing.F) {
	r := []string{alert("Hot", "meter", "power_w > 100", ", for: 3s, severity_when: {critical: power_w > 200}, severity_for: 10s"),
		alert("Mean", "meter", "avg_over_time(power_w, 10s) > 60 or max_over_time(power_w, 10s) > 120 or changes(power_w, 1m) > 3", ""),
		alert("More", "meter", "increase(power_w, 1m) > 3 or quantile_over_time(0.9, power_w, 10s) > 100 or leq(power_w, 10s) > 100", ""),
		alert("Row", "meter", "sequence(power_w > 100, power_w < 50, 10s) or absent_for(voltage_v) > 1m", ""),
		alert("Stuck", "meter", "undecided(10s)", "")}
	p := newPlay(f, r...)
	for i := range 20 {
		d := time.Duration(i) * s
		p.step(d, p.sample(d, "m1.power_w", float64(i*53%240)))
	}
	good := p.e.Snapshot()
	f.Add(good, int64(0))
	f.Add(good[:len(good)/2], int64(-5*s))
	f.Add([]byte{1, 0, 200, 200, 200, 1}, int64(1)<<62)
	f.Fuzz(func(t *testing.T, b []byte, by int64) {
		q := newPlay(t, r...)
		_, _ = q.e.Resume(b, time.Duration(by))
		for i := range 5 {
			d := 20*s + time.Duration(i)*s
			q.step(d, q.sample(d, "m1.power_w", float64(i*100)))
		}
		if next := q.e.Next(); next <= at(24*s) {
			t.Fatalf("a timer at %d, after a step at %d", next, at(24*s))
		}
	})
}
