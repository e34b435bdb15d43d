package response_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"linli/internal/telemetry"
	"linli/rules/response"
)

// stage is a machine with its plans, played by hand. Points are letters; an alert is written `Alert/subject`.
type stage struct {
	t     testing.TB
	plans map[telemetry.Identity]*response.Plan
	m     *response.Machine
	out   response.Decisions
}

func newStage(t testing.TB, plans map[string]*response.Plan) *stage {
	s := &stage{t: t, plans: map[telemetry.Identity]*response.Plan{}}
	for name, p := range plans {
		s.plans[ident(name)] = p
	}
	s.m = response.New(s.plan)
	return s
}

func (s *stage) plan(id telemetry.Identity) *response.Plan { return s.plans[id] }

func ident(s string) telemetry.Identity {
	alert, subject, ok := strings.Cut(s, "/")
	if !ok {
		subject = "s"
	}
	return telemetry.Identity{Alert: alert, Subject: subject}
}

func ids(names ...string) (list []telemetry.Identity) {
	for _, n := range names {
		list = append(list, ident(n))
	}
	return list
}

func name(id telemetry.Identity) string {
	if id.Subject == "s" {
		return id.Alert
	}
	return id.Alert + "/" + id.Subject
}

func at(s float64) telemetry.Mono { return telemetry.Mono(s * float64(time.Second)) }

// out is an output that is on while its alert is active; more changes it.
func out(point rune, more ...func(*response.Output)) response.Output {
	o := response.Output{Point: telemetry.PointID(point), Value: telemetry.BoolValue(true), Rest: telemetry.BoolValue(false)}
	for _, f := range more {
		f(&o)
	}
	return o
}

func after(d time.Duration) func(*response.Output) { return func(o *response.Output) { o.After = d } }
func lasting(d time.Duration) func(*response.Output) {
	return func(o *response.Output) { o.For = d }
}
func until(u response.Until) func(*response.Output) {
	return func(o *response.Output) { o.Until = u }
}
func from(s telemetry.Severity) func(*response.Output) {
	return func(o *response.Output) { o.Severity = s }
}
func unless(names ...string) func(*response.Output) {
	return func(o *response.Output) { o.Unless = ids(names...) }
}
func value(v telemetry.Value) func(*response.Output) {
	return func(o *response.Output) { o.Value, o.Rest = v, telemetry.ValueFromBits(v.Kind(), 0) }
}

func outputs(list ...response.Output) *response.Plan { return &response.Plan{Outputs: list} }

// tell gives the machine what a line says, as `raise A critical`, `clear A`, `ack A`, `close A`, `h false` (a manual
// order), or nothing.
func (s *stage) tell(t telemetry.Mono, line string) {
	s.t.Helper()
	for _, part := range strings.Split(line, ", ") {
		f := strings.Fields(part)
		if len(f) == 0 {
			continue
		}
		tr := telemetry.Transition{Time: t, Severity: telemetry.Warning, Condition: telemetry.ConditionTrue}
		if len(f) > 1 {
			tr.Identity = ident(f[1])
		}
		if len(f) > 2 {
			tr.Severity, _ = telemetry.ParseSeverity(f[2])
		}
		for _, op := range []telemetry.TransitionOp{telemetry.Raise, telemetry.Clear, telemetry.Unknown, telemetry.Known, telemetry.Changed} {
			if f[0] == op.String() {
				tr.Op = op
			}
		}
		switch {
		case tr.Op != 0:
			s.m.Transitions([]telemetry.Transition{tr})
		case f[0] == "ack":
			s.m.Acknowledge(t, tr.Identity)
		case f[0] == "close":
			s.m.Close(t, tr.Identity)
		case len(f[0]) == 1:
			v := telemetry.Value{}
			if f[1] != "?" {
				v = telemetry.BoolValue(f[1] == "true")
			}
			s.m.Manual(t, telemetry.PointID(f[0][0]), v)
		default:
			s.t.Fatalf("what is %q?", part)
		}
	}
}

// step steps the machine and returns what it decided.
func (s *stage) step(t telemetry.Mono) string {
	s.t.Helper()
	s.out.Reset()
	s.m.Step(t, &s.out)
	if next := s.m.Next(); next <= t {
		s.t.Fatalf("after the step at %v Next is %v", time.Duration(t), time.Duration(next))
	}
	return said(&s.out)
}

// said writes decisions in a line: suppressions, escalations, commands.
func said(d *response.Decisions) string {
	var lines []string
	for _, s := range d.Suppressions {
		word := "unsuppress"
		if s.On {
			word = "suppress"
		}
		lines = append(lines, fmt.Sprintf("%s %s by %s", word, name(s.Identity), name(s.By)))
	}
	for _, e := range d.Escalations {
		lines = append(lines, fmt.Sprintf("escalate %s %s %s", name(e.Identity), e.To, e.Severity))
	}
	for _, c := range d.Commands {
		lines = append(lines, fmt.Sprintf("%c=%v %s (%s)", rune(c.Point), c.Value, name(c.For), c.Why))
	}
	return strings.Join(lines, ", ")
}

// play tells and steps line by line, `TIME what | what follows`, the time in seconds, and lets timers in between fire
// at their moments.
func (s *stage) play(script string) {
	s.t.Helper()
	for _, line := range strings.Split(strings.TrimSpace(script), "\n") {
		told, want, _ := strings.Cut(line, "|")
		told, want = strings.TrimSpace(told), strings.TrimSpace(want)
		var sec float64
		if _, err := fmt.Sscan(told, &sec); err != nil {
			s.t.Fatalf("%q: %v", line, err)
		}
		_, what, _ := strings.Cut(told, " ")
		for s.m.Next() < at(sec) {
			next := s.m.Next()
			if got := s.step(next); got != "" {
				s.t.Errorf("at %v, before %q: %s", time.Duration(next), told, got)
			}
		}
		s.tell(at(sec), strings.TrimSpace(what))
		if got := s.step(at(sec)); got != want {
			s.t.Errorf("%s\n got  %q\n want %q", told, got, want)
		}
	}
}

func TestOneDemandOverTime(t *testing.T) {
	horn := out('h', after(time.Minute), lasting(20*time.Second), until(response.UntilAcknowledged))
	for name, script := range map[string]string{
		"its whole time": `
			0 raise A |
			60 | h=true A (demanded)
			80 | h=false A (time passed)
			500 |`,
		"acknowledged while it sounds": `
			0 raise A |
			60 | h=true A (demanded)
			61 ack A | h=false A (acknowledged)
			500 |`,
		"acknowledged before": `
			0 raise A |
			59 ack A |
			500 |`,
		"acknowledged in the second in which it is due": `
			0 raise A |
			60 ack A |
			500 |`,
		"gone before it began": `
			0 raise A |
			59 clear A |
			500 |`,
		"gone while it sounds": `
			0 raise A |
			60 | h=true A (demanded)
			61 clear A |
			62 ack A | h=false A (acknowledged)`,
		"gone while it sounds, and its time passes": `
			0 raise A |
			60 | h=true A (demanded)
			61 clear A |
			80 | h=false A (time passed)`,
		"raised again is a new demand": `
			0 raise A |
			60 | h=true A (demanded)
			80 | h=false A (time passed)
			90 clear A |
			100 raise A |
			160 | h=true A (demanded)
			180 | h=false A (time passed)`,
		"raised again while it sounds": `
			0 raise A |
			60 | h=true A (demanded)
			65 clear A |
			70 raise A |
			80 | h=false A (time passed)
			130 | h=true A (demanded)
			150 | h=false A (time passed)`,
		"silence ends nothing": `
			0 raise A |
			10 unknown A |
			60 | h=true A (demanded)
			70 known A |
			80 | h=false A (time passed)`,
		"closed by hand": `
			0 raise A |
			60 | h=true A (demanded)
			70 close A | h=false A (closed)
			100 raise A |
			160 | h=true A (demanded)
			161 close A, raise A | h=false A (closed)
			221 | h=true A (demanded)`,
	} {
		t.Run(name, func(t *testing.T) {
			newStage(t, map[string]*response.Plan{"A": outputs(horn)}).play(script)
		})
	}
}
