package response_test

import (
	"strconv"
	"testing"
	"time"

	"linli/internal/telemetry"
	"linli/rules/response"
)

func inhibitedBy(p *response.Plan, names ...string) *response.Plan {
	p.Inhibitors = ids(names...)
	return p
}

func TestInhibition(t *testing.T) {
	plans := map[string]*response.Plan{"A": inhibitedBy(outputs(out('h', after(10*time.Second), until(response.UntilAcknowledged)), out('c')), "X/z", "Y", "A")}
	for name, script := range map[string]string{
		"raised while inhibited": `
			0 raise X/z |
			1 raise A | suppress A by X/z
			20 |
			30 clear X/z | unsuppress A by X/z, c=true A (demanded)
			40 | h=true A (demanded)`,
		"in one moment": `
			1 raise A, raise X/z | suppress A by X/z
			2 clear X/z, clear A |`,
		"while it is announced": `
			0 raise A | c=true A (demanded)
			10 | h=true A (demanded)
			20 raise X/z | suppress A by X/z, h=false A (inhibited), c=false A (inhibited)
			21 clear X/z | unsuppress A by X/z, c=true A (demanded)
			31 | h=true A (demanded)`,
		"two inhibitors": `
			0 raise A | c=true A (demanded)
			1 raise Y | suppress A by Y, c=false A (inhibited)
			2 raise X/z |
			3 clear Y |
			4 clear X/z | unsuppress A by Y, c=true A (demanded)`,
		"gone while suppressed": `
			0 raise X/z |
			1 raise A | suppress A by X/z
			2 clear A |
			3 clear X/z |
			4 raise A | c=true A (demanded)`,
		"raised again while suppressed": `
			0 raise X/z |
			1 raise A | suppress A by X/z
			2 clear A |
			3 raise A | suppress A by X/z
			4 close X/z | unsuppress A by X/z, c=true A (demanded)`,
		"acknowledged stays acknowledged": `
			0 raise A | c=true A (demanded)
			1 ack A |
			2 raise Y | suppress A by Y, c=false A (inhibited)
			3 clear Y | unsuppress A by Y, c=true A (demanded)
			20 |`,
		"what is gone is not inhibited": `
			0 raise A | c=true A (demanded)
			10 | h=true A (demanded)
			11 clear A | c=false A (cleared)
			12 raise Y |
			13 raise A | suppress A by Y, h=false A (inhibited)`,
		"an unknown inhibitor inhibits": `
			0 raise Y |
			1 unknown Y |
			2 raise A | suppress A by Y
			3 ack Y |
			4 known Y |
			5 clear Y | unsuppress A by Y, c=true A (demanded)`,
	} {
		t.Run(name, func(t *testing.T) { newStage(t, plans).play(script) })
	}
}

// An alert that is inhibited itself inhibits others: its condition holds all the same.
func TestInhibitedInhibits(t *testing.T) {
	newStage(t, map[string]*response.Plan{"B": inhibitedBy(outputs(), "A"), "C": inhibitedBy(outputs(), "B")}).play(`
		0 raise C |
		1 raise B | suppress C by B
		2 raise A | suppress B by A
		3 clear B | unsuppress C by B`)
}

func TestLifeSafetyIsNeverInhibited(t *testing.T) {
	p := inhibitedBy(outputs(out('h')), "X")
	p.LifeSafety = true
	newStage(t, map[string]*response.Plan{"A": p}).play(`
		0 raise X |
		1 raise A | h=true A (demanded)`)
}

func climbing(life bool, steps ...response.Step) *response.Plan {
	return &response.Plan{Escalate: steps, LifeSafety: life}
}

func TestEscalation(t *testing.T) {
	steps := []response.Step{{After: 60 * time.Second, To: response.Community}, {After: 120 * time.Second, To: response.Street, Severity: telemetry.Critical},
		{After: 180 * time.Second, To: response.District, Severity: telemetry.Warning}}
	plan := inhibitedBy(climbing(false, steps...), "X")
	plan.Outputs = []response.Output{out('k', from(telemetry.Critical), after(time.Second))}
	for name, script := range map[string]string{
		"nobody acknowledges": `
			0 raise A |
			60 | escalate A community warning
			120 | escalate A street critical
			121 | k=true A (demanded)
			180 | escalate A district critical
			999 clear A | k=false A (cleared)
			1000 raise A |
			1001 | k=true A (demanded)`,
		"acknowledged": `
			0 raise A |
			60 | escalate A community warning
			119 ack A |
			999 |`,
		"worse than it was acknowledged": `
			0 raise A notice |
			59 ack A |
			100 changed A warning |
			160 | escalate A community warning
			220 | escalate A street critical
			221 | k=true A (demanded)
			225 changed A notice |
			280 | escalate A district critical`,
		"the condition is gone": `
			0 raise A |
			59 clear A |
			100 raise A |
			160 | escalate A community warning
			161 clear A |
			400 raise A |
			520 | escalate A street critical
			521 | k=true A (demanded)`,
		"inhibited": `
			0 raise A |
			60 | escalate A community warning
			70 raise X | suppress A by X
			300 clear X | unsuppress A by X
			420 | escalate A street critical
			421 | k=true A (demanded)`,
	} {
		t.Run(name, func(t *testing.T) { newStage(t, map[string]*response.Plan{"A": plan}).play(script) })
	}
}

// A step asks for a severity also when the alert's own falls below it later, and says so then: what the alert book knows and
// what the outputs go by is the same.
func TestSeverityFallsBelowItsStep(t *testing.T) {
	p := climbing(false, response.Step{After: 60 * time.Second, To: response.Street}, response.Step{After: 120 * time.Second, To: response.Street, Severity: telemetry.Critical})
	newStage(t, map[string]*response.Plan{"A": p}).play(`
		0 raise A critical |
		60 | escalate A street critical
		120 |
		200 changed A warning | escalate A street critical
		210 changed A notice |
		220 ack A |
		230 clear A |`)
}

// A call for help is short; what follows from it is not.
func TestLifeSafetyGoesOnWhenGone(t *testing.T) {
	p := climbing(true, response.Step{After: 60 * time.Second, To: response.Community}, response.Step{After: 90 * time.Second, To: response.Street})
	p.Outputs = []response.Output{out('h', after(30*time.Second), until(response.UntilAcknowledged)), out('c', after(30*time.Second))}
	newStage(t, map[string]*response.Plan{"A": p}).play(`
		0 raise A |
		1 clear A |
		30 | h=true A (demanded)
		50 raise A |
		60 | escalate A community warning
		61 clear A |
		90 | escalate A street warning
		91 ack A | h=false A (acknowledged)
		999 |`)
}

// Steps of one moment are one escalation, whatever their order in the plan; a lower tier is no step.
func TestStepsAtOnce(t *testing.T) {
	p := climbing(false, response.Step{After: time.Minute, To: response.District}, response.Step{After: time.Minute, To: response.Street, Severity: telemetry.Critical},
		response.Step{After: 2 * time.Minute, To: response.Street}, response.Step{To: response.Community})
	newStage(t, map[string]*response.Plan{"A": p}).play(`
		0 raise A | escalate A community warning
		60 | escalate A district critical
		120 |`)
}

// The machine follows the book: known and changed of an alert that nobody has open raise it where the condition is true.
func TestKnownRaisesWhatWasClosedByHand(t *testing.T) {
	newStage(t, map[string]*response.Plan{"A": outputs(out('h'))}).play(`
		0 raise A | h=true A (demanded)
		1 unknown A |
		2 close A | h=false A (closed)
		3 known A | h=true A (demanded)
		4 raise A critical |
		5 clear A | h=false A (cleared)
		6 known A |
		7 close A |
		8 unknown A |
		9 clear A |
		10 changed A critical | h=true A (demanded)`)
}

// Next tells of what was told since the last step, and of nothing that has ended.
func TestNext(t *testing.T) {
	s := newStage(t, map[string]*response.Plan{"A": outputs(out('h', after(time.Minute)), out('g', after(time.Hour)))})
	want := func(want telemetry.Mono) {
		t.Helper()
		if got := s.m.Next(); got != want {
			t.Errorf("Next is %v, want %v", time.Duration(got), time.Duration(want))
		}
	}
	want(telemetry.Never)
	s.tell(at(5), "raise A")
	want(at(5))
	s.step(at(5))
	want(at(65))
	s.tell(at(3), "unknown A")
	want(at(5)) // what is late is taken as that of the last step
	s.step(at(6))
	want(at(65))
	s.step(at(65))
	want(at(3605))
	s.tell(at(70), "close A")
	s.tell(at(69), "raise B")
	want(at(69))
	s.step(at(70))
	want(telemetry.Never)
}

// Steps in which nothing happens allocate nothing and look at nobody, however many alerts are open; nor does taking what
// the engine says of an alert of which nothing follows from it.
func TestManyOpenAlerts(t *testing.T) {
	const n = 10_000
	p := outputs(out('h', after(time.Hour)))
	p.Escalate = []response.Step{{After: 2 * time.Hour, To: response.Street}}
	m := response.New(func(telemetry.Identity) *response.Plan { return inhibitedBy(p, "Site") })
	raise := make([]telemetry.Transition, n)
	for i := range raise {
		raise[i] = telemetry.Transition{Identity: telemetry.Identity{Alert: "A", Subject: strconv.Itoa(i)}, Op: telemetry.Raise, Severity: telemetry.Notice}
	}
	var out response.Decisions
	m.Transitions(raise)
	m.Step(0, &out)
	now := telemetry.Mono(0)
	unknown := []telemetry.Transition{{Identity: raise[77].Identity, Op: telemetry.Unknown}}
	if n := testing.AllocsPerRun(1000, func() {
		now = now.Add(time.Millisecond)
		m.Step(now, &out)
		now = now.Add(time.Millisecond)
		m.Transitions(unknown)
		m.Step(now, &out)
	}); n != 0 {
		t.Errorf("%v allocations a step", n)
	}
	if !out.Empty() {
		t.Errorf("decided: %s", said(&out))
	}
}

func BenchmarkStepWithTenThousandOpen(b *testing.B) {
	m := response.New(func(telemetry.Identity) *response.Plan { return outputs(out('h', after(time.Hour))) })
	var out response.Decisions
	for i := range 10_000 {
		m.Transitions([]telemetry.Transition{{Identity: telemetry.Identity{Alert: "A", Subject: strconv.Itoa(i)}, Op: telemetry.Raise}})
	}
	m.Step(0, &out)
	now := telemetry.Mono(0)
	for b.Loop() {
		now++
		m.Step(now, &out)
	}
}

// A storm: ten thousand alerts of one plan, raised and cleared one step each.
func BenchmarkStorm(b *testing.B) {
	p := inhibitedBy(outputs(out('h')), "Site")
	for b.Loop() {
		m := response.New(func(telemetry.Identity) *response.Plan { return p })
		var out response.Decisions
		for _, op := range []telemetry.TransitionOp{telemetry.Raise, telemetry.Clear} {
			for i := range 10_000 {
				m.Transitions([]telemetry.Transition{{Identity: telemetry.Identity{Alert: "A", Subject: strconv.Itoa(i)}, Op: op, Severity: telemetry.Notice}})
				m.Step(0, &out)
			}
		}
		if len(out.Commands) != 2 {
			b.Fatal(len(out.Commands))
		}
	}
}
