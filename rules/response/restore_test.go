package response_test

import (
	"testing"
	"time"

	"linli/internal/telemetry"
	"linli/rules/response"
)

func open(name string, age float64, more ...func(*response.Open)) response.Open {
	o := response.Open{Identity: ident(name), Severity: telemetry.Warning, Active: true, Age: time.Duration(at(age))}
	for _, f := range more {
		f(&o)
	}
	return o
}

func acked(o *response.Open)      { o.Acknowledged = true }
func suppressed(o *response.Open) { o.Suppressed = true }
func gone(s float64) func(*response.Open) {
	return func(o *response.Open) { o.Active, o.Gone = false, time.Duration(at(s)) }
}
func down(s float64) func(*response.Open) {
	return func(o *response.Open) { o.Down = time.Duration(at(s)) }
}
func told(tier response.Tier) func(*response.Open) { return func(o *response.Open) { o.Tier = tier } }

func TestRestore(t *testing.T) {
	plans := map[string]*response.Plan{
		"A": inhibitedBy(outputs(
			out('c'),
			out('h', after(60*time.Second), lasting(20*time.Second), until(response.UntilAcknowledged)),
			out('k', from(telemetry.Critical), until(response.UntilClosed))), "X"),
		"L": {LifeSafety: true, Outputs: []response.Output{out('h', after(60*time.Second), until(response.UntilAcknowledged))}},
		"E": climbing(false, response.Step{After: 60 * time.Second, To: response.Community}, response.Step{After: 120 * time.Second, To: response.Street, Severity: telemetry.Critical},
			response.Step{After: 180 * time.Second, To: response.District}),
	}
	plans["T"] = climbing(false, response.Step{After: 60 * time.Second, To: response.Street}, response.Step{After: 120 * time.Second, To: response.Street, Severity: telemetry.Critical})
	plans["S"] = outputs(out('k', from(telemetry.Warning), after(75*time.Second)), out('g', from(telemetry.Warning), lasting(time.Minute)))
	plans["E"].Outputs = []response.Output{out('k', from(telemetry.Critical))}
	for name, c := range map[string]struct {
		open   []response.Open
		script string
	}{
		"before its time": {[]response.Open{open("A", 50)}, `
			1000 | c=true A (reasserted)
			1010 | h=true A (demanded)
			1030 | h=false A (time passed)`},
		"within its time": {[]response.Open{open("A", 65)}, `
			1000 | c=true A (reasserted), h=true A (reasserted)
			1015 | h=false A (time passed)`},
		"its time has passed": {[]response.Open{open("A", 80)}, `
			1000 | c=true A (reasserted)
			1100 |`},
		"its time has passed while nobody ran": {[]response.Open{open("A", 90, down(11))}, `
			1000 | h=false A (time passed), c=true A (reasserted)`},
		"gone, and its time has passed while nobody ran": {[]response.Open{open("A", 90, gone(5), down(11))}, `
			1000 | h=false A (time passed)`},
		"acknowledged, and its time has passed while nobody ran": {[]response.Open{open("A", 90, acked, down(11))}, `
			1000 | c=true A (reasserted)`},
		"its time had passed before that": {[]response.Open{open("A", 90, down(10))}, `
			1000 | c=true A (reasserted)`},
		"its time has passed, and another wants it": {[]response.Open{open("A", 90, down(30), acked), open("L", 90), open("A/2", 1)}, `
			1000 | c=true A (reasserted), h=true L (reasserted)`},
		"acknowledged": {[]response.Open{open("A", 65, acked)}, `
			1000 | c=true A (reasserted)
			1001 clear A | c=false A (cleared)
			1002 raise A | c=true A (demanded)
			1062 | h=true A (demanded)`},
		"gone while it sounded": {[]response.Open{open("A", 70, gone(5))}, `
			1000 | h=true A (reasserted)
			1010 | h=false A (time passed)`},
		"gone before it began": {[]response.Open{open("A", 70, gone(15))}, `
			1100 |`},
		"a call that is over": {[]response.Open{open("L", 50, gone(49))}, `
			1010 | h=true L (demanded)`},
		"gone and acknowledged is closed": {[]response.Open{open("L", 500, gone(49), acked)}, `
			1010 |`},
		"suppressed still": {[]response.Open{open("A", 65, suppressed), open("X", 70)}, `
			1001 |
			1002 clear X | unsuppress A by X, c=true A (demanded)`},
		"suppressed no more": {[]response.Open{open("A", 65, suppressed)}, `
			1000 | unsuppress A by X, c=true A (demanded)`},
		"suppressed since": {[]response.Open{open("A", 65), open("X", 1)}, `
			1000 | suppress A by X`},
		"told already": {[]response.Open{open("E", 130, told(response.Street))}, `
			1000 | k=true E (reasserted)
			1050 | escalate E district critical`},
		"not told while nobody ran": {[]response.Open{open("E", 500, told(response.Community))}, `
			1000 | escalate E district critical, k=true E (reasserted)`},
		"as severe as it takes": {[]response.Open{open("S", 65)}, `
			1000 |
			1010 | k=true S (demanded)`},
		"not as severe yet": {[]response.Open{open("T", 100, told(response.Street))}, `
			1019 |
			1020 | escalate T street critical`},
		"raised again since it was told": {[]response.Open{open("T", 1, told(response.Street))}, `
			1118 |
			1119 | escalate T street critical`},
		"twice": {[]response.Open{open("A", 65), open("A", 50)}, `
			1000 | c=true A (reasserted), h=true A (reasserted)
			1015 | h=false A (time passed)`},
		"older than the world": {[]response.Open{open("L", 9e9)}, `
			1000 | h=true L (reasserted)`},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, plans)
			s.m.Restore(at(1000), c.open)
			if next := s.m.Next(); len(c.open) > 0 && next > at(1000) && name != "gone and acknowledged is closed" {
				t.Errorf("Next is %v after Restore", next)
			}
			if name == "suppressed no more" {
				// Nobody knows by whom.
				if got := s.step(at(1000)); got != "unsuppress A by /, c=true A (demanded)" {
					t.Error(got)
				}
				return
			}
			s.play(c.script)
		})
	}
}

func TestReplan(t *testing.T) {
	horn := func(more ...func(*response.Output)) response.Output {
		return out('h', append([]func(*response.Output){after(60 * time.Second), lasting(20 * time.Second), until(response.UntilAcknowledged)}, more...)...)
	}
	for name, c := range map[string]struct {
		first, then *response.Plan
		script      string // in which 1000 is the moment of the reload
	}{
		"the same": {outputs(horn()), outputs(horn()), `
			930 raise A |
			990 | h=true A (demanded)
			1000 |
			1010 | h=false A (time passed)`},
		"waits longer": {outputs(horn()), outputs(horn(after(90 * time.Second))), `
			970 raise A |
			1000 |
			1060 | h=true A (demanded)`},
		"waits less, and is due": {outputs(horn()), outputs(horn(after(0))), `
			990 raise A |
			1000 | h=true A (demanded)
			1010 | h=false A (time passed)`},
		"sounds longer": {outputs(horn()), outputs(horn(lasting(0))), `
			930 raise A |
			990 | h=true A (demanded)
			1000 |
			1099 ack A | h=false A (acknowledged)`},
		"sounds shorter": {outputs(horn()), outputs(horn(lasting(5 * time.Second))), `
			930 raise A |
			990 | h=true A (demanded)
			1000 | h=false A (replanned)`},
		"has passed and is not played again": {outputs(horn()), outputs(horn(lasting(time.Hour))), `
			900 raise A |
			960 | h=true A (demanded)
			980 | h=false A (time passed)
			1000 |
			2000 |`},
		"goes": {outputs(horn(), out('c')), outputs(out('c')), `
			930 raise A | c=true A (demanded)
			990 | h=true A (demanded)
			1000 | h=false A (replanned)
			1010 clear A | c=false A (cleared)`},
		"the rule goes": {outputs(out('c')), nil, `
			930 raise A | c=true A (demanded)
			1000 | c=false A (replanned)
			1010 close A |`},
		"the rule comes": {nil, inhibitedBy(outputs(out('c'), horn()), "X"), `
			930 raise A |
			990 ack A |
			1000 | c=true A (demanded)
			1001 raise X | suppress A by X, c=false A (inhibited)`},
		"what comes would run": {nil, outputs(horn()), `
			930 raise A |
			1000 | h=true A (demanded)
			1010 | h=false A (time passed)`},
		"what comes would have passed": {nil, outputs(horn(lasting(5 * time.Second))), `
			930 raise A |
			1000 |
			2000 |`},
		"is inhibited no more": {inhibitedBy(outputs(out('c')), "X"), outputs(out('c')), `
			930 raise X |
			931 raise A | suppress A by X
			1000 | unsuppress A by X, c=true A (demanded)
			1001 clear X |`},
		"another value": {outputs(out('c')), outputs(out('c', value(telemetry.IntValue(3)))), `
			930 raise A | c=true A (demanded)
			1000 | c=3 A (demanded)
			1001 clear A | c=0 A (cleared)`},
		"void stays void": {outputs(out('c')), outputs(out('d'), out('c')), `
			930 raise A | c=true A (demanded)
			931 c false |
			1000 | d=true A (demanded)
			1001 clear A | d=false A (cleared)`},
		"steps that are due": {climbing(false, response.Step{After: 60 * time.Second, To: response.Community}), climbing(false,
			response.Step{After: 60 * time.Second, To: response.Community}, response.Step{After: 65 * time.Second, To: response.Street}), `
			930 raise A |
			990 | escalate A community warning
			1000 | escalate A street warning`},
		"of what is gone nothing begins": {outputs(horn()), outputs(out('x', until(response.UntilAcknowledged))), `
			930 raise A |
			990 | h=true A (demanded)
			995 clear A |
			1000 | h=false A (replanned)`},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, map[string]*response.Plan{"A": c.first})
			before, after, ok := cutLine(c.script, "1000 ")
			if !ok {
				t.Fatal("no moment of the reload")
			}
			s.play(before)
			s.m.Replan(at(1000), func(id telemetry.Identity) *response.Plan {
				if id.Alert != "A" {
					return nil
				}
				return c.then
			})
			s.play(after)
		})
	}
}

func cutLine(s, prefix string) (before, from string, ok bool) {
	for i := range s {
		if s[i:min(i+len(prefix)+1, len(s))] == "\t"+prefix {
			return s[:i], s[i:], true
		}
	}
	return s, "", false
}

// While nobody ran the times of escalation stand still.
func TestRestoreDoesNotClimbThroughIdleTime(t *testing.T) {
	plan := &response.Plan{Escalate: []response.Step{{After: 10 * time.Minute, To: response.Street}, {After: 30 * time.Minute, To: response.District}}}
	m := response.New(func(telemetry.Identity) *response.Plan { return plan })
	m.Restore(0, []response.Open{{Identity: ident("A"), Severity: telemetry.Warning, Active: true, Age: 8 * time.Hour, Idle: 8*time.Hour - 4*time.Minute}})
	var out response.Decisions
	for minute, want := range map[int]int{0: 0, 5: 0} {
		if m.Step(telemetry.Mono(time.Duration(minute)*time.Minute), &out); len(out.Escalations) != want {
			t.Errorf("after %d minutes: %+v", minute, out.Escalations)
		}
	}
	if m.Step(telemetry.Mono(6*time.Minute), &out); len(out.Escalations) != 1 || out.Escalations[0].To != response.Street {
		t.Errorf("after 10 minutes in which somebody ran: %+v", out.Escalations)
	}
}
