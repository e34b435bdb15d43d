package response_test

import (
	"strings"
	"testing"
	"time"

	"linli/internal/telemetry"
	"linli/rules/response"
)

func TestUntil(t *testing.T) {
	plans := map[string]*response.Plan{"A": outputs(
		out('c'), out('a', until(response.UntilAcknowledged)), out('z', until(response.UntilClosed)))}
	newStage(t, plans).play(`
		0 raise A | c=true A (demanded), a=true A (demanded), z=true A (demanded)
		1 ack A | a=false A (acknowledged)
		2 clear A | c=false A (cleared), z=false A (cleared)
		9 raise A | c=true A (demanded), a=true A (demanded), z=true A (demanded)
		10 clear A | c=false A (cleared)
		11 raise A | c=true A (demanded)
		12 clear A | c=false A (cleared)
		13 ack A | a=false A (acknowledged), z=false A (acknowledged)
		14 ack A, clear A, close A |`)
}

// A worse severity begins what waits for it, with times from then, and takes an acknowledgement back.
func TestSeverity(t *testing.T) {
	newStage(t, map[string]*response.Plan{"A": outputs(out('k', from(telemetry.Critical), after(10*time.Second), lasting(5*time.Second)),
		out('h', until(response.UntilAcknowledged), after(2*time.Second)))}).play(`
		0 raise A |
		2 | h=true A (demanded)
		3 ack A | h=false A (acknowledged)
		100 changed A critical |
		102 | h=true A (demanded)
		105 changed A warning |
		106 changed A critical |
		116 | k=true A (demanded)
		118 changed A warning | k=false A (eased)
		119 changed A critical |
		129 | k=true A (demanded)
		134 | k=false A (time passed)
		140 changed A notice |
		150 ack A | h=false A (acknowledged)`)
}

func TestTwoAlertsOnOnePoint(t *testing.T) {
	five := out('p', value(telemetry.IntValue(5)), lasting(20*time.Second))
	nine := out('p', value(telemetry.IntValue(9)))
	newStage(t, map[string]*response.Plan{"A": outputs(out('h')), "B": outputs(out('h'), five), "C": outputs(nine)}).play(`
		0 raise A | h=true A (demanded)
		1 raise B | p=5 B (demanded)
		2 clear A |
		3 raise C |
		4 changed C critical | p=9 C (demanded)
		5 changed C notice | p=5 B (demanded)
		21 | p=9 C (demanded)
		22 clear B | h=false B (cleared)
		23 clear C | p=0 C (cleared)`)
}

// An alert whose every output drives its rest says so at the beginning, and nothing at the end.
func TestDrivingToRest(t *testing.T) {
	shut := out('v', value(telemetry.BoolValue(false)))
	newStage(t, map[string]*response.Plan{"A": outputs(shut)}).play(`
		0 raise A | v=false A (demanded)
		1 clear A |
		2 raise A | v=false A (demanded)`)
}

func TestManual(t *testing.T) {
	plans := map[string]*response.Plan{"A": outputs(out('h')), "B": outputs(out('h')), "L": outputs(out('h', after(time.Minute))),
		"U": outputs(out('h', unless("A"))), "F": outputs(out('h', lasting(10*time.Second), until(response.UntilAcknowledged)))}
	for name, script := range map[string]string{
		"switched off it stays off for the demands that run": `
			0 raise A | h=true A (demanded)
			1 raise B |
			2 h false |
			3 changed A critical |
			4 clear A |
			5 clear B |`,
		"a new alert drives it again": `
			0 raise A | h=true A (demanded)
			2 h false |
			3 raise B | h=true B (demanded)
			4 clear A |
			5 clear B | h=false B (cleared)`,
		"so does a raise again": `
			0 raise A | h=true A (demanded)
			2 h false |
			3 clear A |
			4 raise A | h=true A (demanded)
			5 clear A | h=false A (cleared)`,
		"and an after that passes later": `
			0 raise L |
			2 h false |
			60 | h=true L (demanded)
			61 h false |
			62 clear L |`,
		"switched on while it is on is no order": `
			0 raise A | h=true A (demanded)
			2 h true |
			3 clear A | h=false A (cleared)`,
		"switched on while nobody wants it is theirs": `
			0 h true |
			1 raise A | h=true A (demanded)
			2 clear A | h=false A (cleared)
			3 h true |
			4 raise A | h=true A (demanded)
			5 h ? |
			6 clear A |`,
		"void is what is held back meanwhile": `
			0 raise U | h=true U (demanded)
			1 raise A |
			2 h false |
			3 clear A |
			9 clear U |`,
		"in the moment of the raise the raise counts": `
			0 raise A | h=true A (demanded)
			2 raise B, h false | h=true B (demanded)`,
		"a renewed demand is a new one": `
			0 raise F | h=true F (demanded)
			1 h false |
			2 clear F |
			3 raise F | h=true F (demanded)
			13 | h=false F (time passed)`,
	} {
		t.Run(name, func(t *testing.T) { newStage(t, plans).play(script) })
	}
}

func TestUnless(t *testing.T) {
	plans := map[string]*response.Plan{"A": outputs(out('h', unless("Fire", "Quiet"), after(10*time.Second), lasting(20*time.Second), until(response.UntilAcknowledged)))}
	newStage(t, plans).play(`
		0 raise Fire |
		1 raise A |
		15 clear Fire | h=true A (demanded)
		20 raise Quiet | h=false A (unless)
		21 raise Fire |
		25 clear Fire |
		26 close Quiet | h=true A (demanded)
		27 raise Quiet | h=false A (unless)
		40 clear Quiet |
		100 ack A |`)
}

// Which of several values wins is looked at anew whenever the order of the demands may have changed.
func TestWhoseValueWins(t *testing.T) {
	plans := map[string]*response.Plan{
		"A": outputs(out('p', value(telemetry.IntValue(5)), until(response.UntilAcknowledged))),
		"B": outputs(out('p', value(telemetry.IntValue(9)))),
		"E": {Outputs: []response.Output{out('p', value(telemetry.IntValue(7)))}, Escalate: []response.Step{{After: 5 * time.Second, To: response.Street, Severity: telemetry.Critical}}},
	}
	for name, script := range map[string]string{
		"raised again it is the last": `
			0 raise A | p=5 A (demanded)
			1 raise B |
			2 clear A |
			3 raise A | p=9 B (demanded)`,
		"raised again it is worse": `
			0 raise B | p=9 B (demanded)
			1 raise A |
			2 clear A |
			3 raise A critical | p=5 A (demanded)`,
		"an escalation makes it worse": `
			0 raise B | p=9 B (demanded)
			1 raise E |
			6 | p=7 E (demanded)`,
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, plans)
			for _, line := range strings.Split(strings.TrimSpace(script), "\n") {
				s.t = t
				if strings.Contains(line, "6 |") {
					s.out.Reset()
					if s.m.Step(at(6), &s.out); len(s.out.Commands) != 1 || s.out.Commands[0].For != ident("E") {
						t.Errorf("got %s", said(&s.out))
					}
					continue
				}
				s.play(line)
			}
		})
	}
}
