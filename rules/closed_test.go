package rules_test

import (
	"testing"
	"time"

	"linli/internal/telemetry"
)

func restored(alert, subject string) []telemetry.ActiveAlert {
	return []telemetry.ActiveAlert{{Identity: telemetry.Identity{Alert: alert, Subject: subject}, Severity: telemetry.Warning}}
}

// A derived point whose source is silent from the start is as known as it gets, and so is what depends on it.
func TestRestoredAlertOnASilentDerivedPoint(t *testing.T) {
	p := newPlay(t, "  - {record: total_w, for_each: meter, expr: power_w * 2, unit: W}\n", alert("High", "meter", "total_w > 10", ""))
	p.e.Restore(restored("High", "m1"))
	p.want(p.step(0), "")
	p.want(p.step(1*s, p.sample(1*s, "m1.power_w", telemetry.BadComm)), "unknown High m1")
	if len(p.out.Derived) != 0 {
		t.Errorf("what was never known was recorded: %+v", p.out.Derived)
	}
	p.want(p.step(2*s, p.sample(2*s, "m1.power_w", 20.0)), "known High m1")
	p.want(p.step(3*s, p.sample(3*s, "m1.power_w", 1.0)), "clear High m1")
}

// A window that a restart emptied is not a failure: it is given its length before the alert is called unknown.
func TestRestoredAlertOverAWindow(t *testing.T) {
	run := func(p *play, quality telemetry.Quality) (lines []string) {
		p.e.Restore(restored("Avg", "m1"))
		for d := time.Duration(0); d <= 15*time.Minute; d += 30 * s {
			sample := p.sample(d, "m1.power_w", 20.0)
			sample.Quality = quality
			if got := p.step(d, sample); got != "" {
				lines = append(lines, d.String()+" "+got)
			}
		}
		return lines
	}
	direct := alert("Avg", "meter", "avg_over_time(power_w, 10m) > 10", "")
	if got := run(newPlay(t, direct), telemetry.Good); len(got) != 0 {
		t.Errorf("read from the start: %q", got)
	}
	if got := run(newPlay(t, direct), telemetry.BadComm); len(got) != 1 || got[0] != "10m0s unknown Avg m1" {
		t.Errorf("silent from the start: %q", got)
	}
	record := "  - {record: mean_w, for_each: meter, expr: 'avg_over_time(power_w, 10m)', unit: W}\n"
	derived := alert("Avg", "meter", "mean_w > 10", "")
	if got := run(newPlay(t, record, derived), telemetry.Good); len(got) != 0 {
		t.Errorf("derived, read from the start: %q", got)
	}
	if got := run(newPlay(t, record, derived), telemetry.BadComm); len(got) != 1 || got[0] != "10m0s unknown Avg m1" {
		t.Errorf("derived, silent from the start: %q", got)
	}
	// Without a sample to wake it, a timer does.
	p := newPlay(t, direct)
	p.e.Restore(restored("Avg", "m1"))
	p.want(p.step(0, p.sample(0, "m1.power_w", telemetry.BadComm)), "")
	if got := p.e.Next(); got > at(10*time.Minute) {
		t.Errorf("next timer at %v, want 10 min at the latest", time.Duration(got))
	}
	p.want(p.step(time.Hour), "unknown Avg m1")
	if got := p.out.Transitions[0].Time; got != at(10*time.Minute) {
		t.Errorf("unknown at %v, want 10 min", time.Duration(got))
	}
}

// A sample from the future is one of now, and those after it are not late.
func TestASampleFromTheFuture(t *testing.T) {
	p := newPlay(t, alert("Hot", "meter", "power_w > 10", ""))
	p.want(p.step(10*s, p.sample(time.Hour, "m1.power_w", 20.0)), "raise Hot m1")
	if got := p.out.Transitions[0].Time; got != at(10*s) {
		t.Errorf("raised at %v", time.Duration(got))
	}
	p.want(p.step(20*s, p.sample(20*s, "m1.power_w", 5.0)), "clear Hot m1")
}

// An alert closed by hand is not active any more, and is raised anew only when its condition is true.
func TestClosedByHand(t *testing.T) {
	p := newPlay(t, alert("Smoke", "smoke_detector", "alarm", ", keep_firing_for: 10s"),
		alert("Confirmed", "site", "active(Smoke)", ""))
	id := []telemetry.Identity{{Alert: "Smoke", Subject: "sd1"}, {Alert: "Smoke", Subject: "sd2"}, {Alert: "Nothing", Subject: "x"}}
	p.want(p.step(0, p.sample(0, "sd1.alarm", true)), "raise Smoke sd1, raise Confirmed s1")
	p.want(p.step(10*s, p.sample(10*s, "sd1.alarm", telemetry.BadComm)), "unknown Smoke sd1")
	p.e.Closed(id)
	p.e.Closed(id) // once more does no harm
	p.want(p.step(11*s), "clear Confirmed s1")
	p.want(p.step(20*s, p.sample(20*s, "sd1.alarm", false)), "")
	p.want(p.step(40*s), "")
	p.want(p.step(50*s, p.sample(50*s, "sd1.alarm", true)), "raise Smoke sd1, raise Confirmed s1")

	p.step(60*s, p.sample(60*s, "sd1.alarm", telemetry.BadComm))
	p.e.Closed(id)
	p.want(p.step(61*s, p.sample(61*s, "sd1.alarm", true)), "raise Smoke sd1") // true at once: nothing cleared
}

func TestTransitionsCarryTheCondition(t *testing.T) {
	p := newPlay(t, alert("A", "meter", "power_w > 10", ", keep_firing_for: 30s, severity_when: {critical: voltage_v > 250}"))
	for i, c := range []struct {
		point string
		value any
		said  string
		want  telemetry.Condition
	}{
		{"m1.power_w", 11.0, "raise A m1", telemetry.ConditionTrue},
		{"m1.power_w", telemetry.BadComm, "unknown A m1", telemetry.ConditionUnknown},
		{"m1.voltage_v", 260.0, "changed A m1", telemetry.ConditionUnknown},
		{"m1.power_w", 9.0, "known A m1", telemetry.ConditionFalse},
		{"m1.voltage_v", 230.0, "", telemetry.ConditionFalse}, // on its way out the severity stays
		{"m1.power_w", telemetry.BadComm, "unknown A m1", telemetry.ConditionUnknown},
		{"m1.power_w", 12.0, "known A m1", telemetry.ConditionTrue},
	} {
		d := time.Duration(i) * s
		p.want(p.step(d, p.sample(d, c.point, c.value)), c.said)
		if len(p.out.Transitions) == 1 && p.out.Transitions[0].Condition != c.want {
			t.Errorf("%s: condition %d, want %d", c.said, p.out.Transitions[0].Condition, c.want)
		}
	}
	p.step(7*s, p.sample(7*s, "m1.power_w", 9.0))
	p.want(p.step(37*s), "clear A m1")
	if got := p.out.Transitions[0].Condition; got != telemetry.ConditionFalse {
		t.Errorf("cleared with condition %d", got)
	}
}
