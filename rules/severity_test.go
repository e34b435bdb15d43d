package rules_test

import (
	"testing"
	"time"

	"linli/internal/telemetry"
)

// A lowest value leaves the window at the moment at which it stood that long ago, and the rule is looked at then.
func TestMinOverTimeIsExact(t *testing.T) {
	p := newPlay(t, alert("A", "meter", "min_over_time(power_w, 60s) >= 90", ""))
	p.step(0, p.sample(0, "m1.power_w", 80.0))
	p.want(p.step(60*s, p.sample(60*s, "m1.power_w", 95.0)), "")
	p.want(p.step(119*s), "")
	p.want(p.step(10*time.Minute), "raise A m1")
	if got := p.out.Transitions[0].Time; got != at(120*s) {
		t.Errorf("raised at %v, want 2 min", time.Duration(got))
	}
}

// A worse severity comes at once and goes only after keep_firing_for, so that a value at the limit does not ask for
// attention again and again.
func TestSeverityFallsAfterKeepFiringFor(t *testing.T) {
	p := newPlay(t, alert("A", "meter", "power_w > 10", ", for: 5s, keep_firing_for: 30s, severity_when: {critical: power_w > 20}"))
	p.step(0, p.sample(0, "m1.power_w", 25.0))
	p.want(p.step(5*s), "raise A m1")
	if got := p.out.Transitions[0].Detail; got.Zh != "power_w 25 W（限 20）" || got.En != "power_w 25 W (limit 20)" {
		t.Errorf("detail %q: of one value the limit that decided the severity is enough", got)
	}
	p.want(p.step(10*s, p.sample(10*s, "m1.power_w", 15.0)), "")
	p.want(p.step(30*s, p.sample(30*s, "m1.power_w", 25.0)), "")
	p.want(p.step(40*s, p.sample(40*s, "m1.power_w", 15.0)), "")
	p.want(p.step(69*s), "")
	p.want(p.step(100*s), "changed A m1")
	if got := p.out.Transitions[0]; got.Time != at(70*s) || got.Detail.Zh != "power_w 15 W（限 10）" {
		t.Errorf("changed at %v, detail %q", time.Duration(got.Time), got.Detail.Zh)
	}
	p.want(p.step(101*s, p.sample(101*s, "m1.power_w", 25.0)), "changed A m1")
	p.want(p.step(102*s, p.sample(102*s, "m1.power_w", 5.0)), "")
	p.want(p.step(140*s), "clear A m1")
	if got := p.out.Transitions[0].Detail; got.Zh != "power_w 5 W（限 10）" {
		t.Errorf("detail %q, want what ended it", got.Zh)
	}
}

// With severity_for a worse severity needs its time, which begins before the alert is raised; a gap does not end it.
func TestSeverityFor(t *testing.T) {
	rule := alert("A", "meter", "power_w > 10", ", for: 60s, keep_firing_for: 60s, severity_for: 60s, severity_when: {critical: power_w > 20}")
	p := newPlay(t, rule)
	p.step(0, p.sample(0, "m1.power_w", 15.0))
	p.step(30*s, p.sample(30*s, "m1.power_w", 25.0))
	p.want(p.step(60*s), "raise A m1")
	p.want(p.step(89*s), "")
	p.want(p.step(120*s), "changed A m1")
	if got := p.out.Transitions[0]; got.Time != at(90*s) || got.Detail.Zh != "power_w 25 W（限 20），已 1 分钟" || got.Detail.En != "power_w 25 W (limit 20), for 1 min" {
		t.Errorf("changed at %v, detail %q", time.Duration(got.Time), got.Detail)
	}
	p.want(p.step(130*s, p.sample(130*s, "m1.power_w", 12.0)), "")
	p.want(p.step(180*s, p.sample(180*s, "m1.power_w", 25.0)), "")
	p.want(p.step(600*s), "")

	p = newPlay(t, rule)
	p.step(0, p.sample(0, "m1.power_w", 25.0))
	p.want(p.step(60*s), "raise A m1")
	if got := p.out.Transitions[0]; got.Severity.String() != "critical" {
		t.Errorf("raised as %v, want critical", got.Severity)
	}
	// After a restart what was given stays.
	p = newPlay(t, rule)
	p.e.Restore(restoredAs("A", "m1", telemetry.Critical))
	p.want(p.step(0, p.sample(0, "m1.power_w", 25.0)), "")
	p.want(p.step(600*s), "")
}

func restoredAs(alert, subject string, severity telemetry.Severity) []telemetry.ActiveAlert {
	return []telemetry.ActiveAlert{{Identity: telemetry.Identity{Alert: alert, Subject: subject}, Severity: severity}}
}
