package rules_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"linli/internal/telemetry"
	"linli/rules"
)

// tree writes an operand and those beneath it: `*` stands before what decides.
func tree(b *strings.Builder, o *rules.Operand, depth int) {
	mark := " "
	if o.Decides {
		mark = "*"
	}
	fmt.Fprintf(b, "%s%s%s = %s", strings.Repeat("  ", depth), mark, o.Expr, o.Value)
	if p := o.Point; p != nil {
		fmt.Fprintf(b, " (%s.%s %s", p.Device, p.Point, p.Source)
		if p.Read && p.Source != "constant" {
			fmt.Fprintf(b, " %s %s", p.Quality, time.Duration(p.Age))
		}
		b.WriteString(")")
	}
	b.WriteString("\n")
	for i := range o.Args {
		tree(b, &o.Args[i], depth+1)
	}
}

func TestExplain(t *testing.T) {
	p := newPlay(t,
		alert("Hot", "meter", "power_w > 100 and (voltage_v < 200 or avg_over_time(power_w, 10s) > 50)", ", for: 20s"),
		alert("Many", "site", "at_least(1, site.meter.power_w > 100)", ""))
	p.step(0, p.sample(0, "m1.power_w", 150.0), p.sample(0, "m1.voltage_v", 230.0), p.sample(0, "m2.power_w", 1.0))
	p.step(8*s, p.sample(8*s, "m1.power_w", 150.0))
	x, ok := p.e.Explain(telemetry.Now{Mono: at(12 * s)}, "Hot", "m1")
	if !ok {
		t.Fatal("no explanation")
	}
	// Nobody has stepped the engine since 8 s, so the window is as it was then: 80 % of it is known.
	if x.State != "pending" || x.Held < rules.Seconds(3*time.Second) || x.Needed != rules.Seconds(20*time.Second) || x.Unknown {
		t.Errorf("state %s, held %s of %s, unknown %v", x.State, time.Duration(x.Held), time.Duration(x.Needed), x.Unknown)
	}
	var b strings.Builder
	tree(&b, &x.Condition, 0)
	want := `*power_w > 100 and (voltage_v < 200 or avg_over_time(power_w, 10s) > 50) = true
  *power_w > 100 = true
    *power_w = 150 (m1.power_w provided good 4s)
   *voltage_v < 200 or avg_over_time(power_w, 10s) > 50 = true
     voltage_v < 200 = false
       voltage_v = 230 (m1.voltage_v provided good 12s)
    *avg_over_time(power_w, 10s) > 50 = true
      *avg_over_time(power_w, 10s) = 150
         power_w = 150 (m1.power_w provided good 4s)
`
	want = strings.ReplaceAll(want, "\n   *voltage", "\n  *voltage")
	if got := b.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}

	x, _ = p.e.Explain(telemetry.Now{Mono: at(12 * s)}, "Many", "s1")
	b.Reset()
	tree(&b, &x.Condition, 0)
	if got := b.String(); !strings.Contains(got, "*m1: site.meter.power_w > 100 = true") || !strings.Contains(got, " m2: site.meter.power_w > 100 = false") {
		t.Errorf("the members are not told apart:\n%s", got)
	}
	if x.State != "active" || x.Severity != "warning" {
		t.Errorf("state %s, severity %s", x.State, x.Severity)
	}
	if _, ok := p.e.Explain(telemetry.Now{}, "Hot", "m9"); ok {
		t.Error("an explanation of a subject that there is not")
	}
}

func TestExplainTellsUnknownOperands(t *testing.T) {
	p := newPlay(t, alert("Hot", "meter", "power_w > 100 and voltage_v > 1", ""))
	p.step(0, p.sample(0, "m1.power_w", 99.9999), p.sample(0, "m2.power_w", 150.0))
	x, _ := p.e.Explain(telemetry.Now{Mono: at(s)}, "Hot", "m1")
	if x.State != "inactive" || x.Unknown || x.Condition.Args[0].Args[0].Value != "99.9999" {
		t.Errorf("%s, unknown %v, value %q", x.State, x.Unknown, x.Condition.Args[0].Args[0].Value)
	}
	x, _ = p.e.Explain(telemetry.Now{Mono: at(s)}, "Hot", "m2")
	var b strings.Builder
	tree(&b, &x.Condition, 0)
	if got := b.String(); !x.Unknown || !strings.Contains(got, "*voltage_v = unknown (m2.voltage_v missing)") {
		t.Errorf("unknown %v:\n%s", x.Unknown, got)
	}
}

func TestCosts(t *testing.T) {
	p := newPlay(t, alert("A", "meter", "avg_over_time(power_w, 1m) > 100", ""), alert("B", "site", "active(A)", ""))
	clock := int64(0)
	p.e.Meter(func() int64 { clock += 1000; return clock })
	for i := range 2000 {
		d := time.Duration(i) * s
		p.step(d, p.sample(d, "m1.power_w", float64(i%7)), p.sample(d, "m2.power_w", 1.0))
	}
	costs := p.e.Costs()
	if len(costs) != 2 || costs[0].Rule != "A" || costs[0].Instances != 2 || costs[1].Instances != 1 {
		t.Fatalf("%+v", costs)
	}
	if costs[0].Evaluations < 2000 || costs[1].Evaluations != 1 || costs[0].Bytes < 1000 || costs[1].Bytes != 0 {
		t.Errorf("%+v", costs)
	}
	// Each evaluation takes 1 µs by this clock.
	want := time.Duration(costs[0].Evaluations) * time.Microsecond
	if got := costs[0].Time; got < want/2 || got > 2*want {
		t.Errorf("%s for %d evaluations of 1 µs", got, costs[0].Evaluations)
	}
}

// A rule about a point that a device does not have keeps no window for it.
func TestWhatIsNotInstalledCostsNothing(t *testing.T) {
	p := newPlay(t,
		alert("A", "meter", "provided(voltage_v) and avg_over_time(voltage_v, 1m) > 250", ""),
		alert("B", "meter", `not provided(voltage_v) or not is_a("smoke_detector") and max_over_time(voltage_v, 1m) > 250`, ""),
		alert("C", "meter", `provided(voltage_v) and not is_a("meter") or within("garage") and min_over_time(power_w, 1m) > 7`, ""))
	for i := range 90 {
		d := time.Duration(i) * s
		got := p.step(d, p.sample(d, "m1.voltage_v", 260.0), p.sample(d, "m1.power_w", 9.0), p.sample(d, "m2.power_w", 9.0))
		switch want := map[int]string{0: "raise B m1, raise B m2", 45: "raise A m1"}[i]; {
		case got != want:
			t.Errorf("at %s %q, want %q", d, got, want)
		}
	}
	costs := p.e.Costs() // m1 keeps one window of A and one of B, m2 none
	if costs[0].Bytes == 0 || costs[1].Bytes == 0 || costs[2].Bytes != 0 {
		t.Errorf("%+v", costs)
	}
	x, _ := p.e.Explain(telemetry.Now{Mono: at(90 * s)}, "A", "m2")
	var b strings.Builder
	tree(&b, &x.Condition, 0)
	if x.Unknown || !strings.Contains(b.String(), "*provided(voltage_v) = false") {
		t.Errorf("unknown %v:\n%s", x.Unknown, b.String())
	}
}
