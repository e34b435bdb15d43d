package response_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"linli/internal/telemetry"
	"linli/rules/response"
)

// deed is one thing told to a machine.
type deed struct {
	what     string
	id       telemetry.Identity
	severity telemetry.Severity
	holds    bool
	point    telemetry.PointID
	value    telemetry.Value
}

var (
	everyone = [...]telemetry.Identity{{Alert: "A", Subject: "x"}, {Alert: "A", Subject: "y"}, {Alert: "B", Subject: "x"}, {Alert: "C", Subject: "x"}}
	deeds    = [...]string{"raise", "raise", "clear", "clear", "ack", "changed", "unknown", "known", "close", "manual"}
)

func tell(m *response.Machine, t telemetry.Mono, list []deed) {
	for _, e := range list {
		tr := telemetry.Transition{Identity: e.id, Time: t, Severity: e.severity, Condition: telemetry.ConditionFalse}
		if e.holds {
			tr.Condition = telemetry.ConditionTrue
		}
		switch e.what {
		case "ack":
			m.Acknowledge(t, e.id)
		case "close":
			m.Close(t, e.id)
		case "manual":
			m.Manual(t, e.point, e.value)
		default:
			for op := telemetry.Raise; op <= telemetry.Changed; op++ {
				if op.String() == e.what {
					tr.Op = op
				}
			}
			m.Transitions([]telemetry.Transition{tr})
		}
	}
}

func seconds(most int) *rapid.Generator[time.Duration] {
	return rapid.Map(rapid.IntRange(0, most), func(n int) time.Duration { return time.Duration(n) * time.Second })
}

// drawPlans draws what follows from the alerts; points 1 and 2 are switches, 3 is a number.
func drawPlans(t *rapid.T) map[telemetry.Identity]*response.Plan {
	some := rapid.SliceOfN(rapid.SampledFrom(everyone[:]), 0, 2)
	output := rapid.Custom(func(t *rapid.T) response.Output {
		o := response.Output{
			Point: telemetry.PointID(rapid.IntRange(1, 3).Draw(t, "point")), Value: telemetry.BoolValue(true), Rest: telemetry.BoolValue(false),
			After: seconds(9).Draw(t, "after"), For: seconds(9).Draw(t, "for"), Until: response.Until(rapid.IntRange(0, 2).Draw(t, "until")),
			Severity: telemetry.Severity(rapid.IntRange(0, 3).Draw(t, "least")),
		}
		if o.Point == 3 {
			o.Value, o.Rest = telemetry.IntValue(int64(rapid.IntRange(1, 3).Draw(t, "value"))), telemetry.IntValue(0)
		}
		if rapid.IntRange(0, 3).Draw(t, "has unless") == 0 {
			o.Unless = some.Draw(t, "unless")
		}
		return o
	})
	step := rapid.Custom(func(t *rapid.T) response.Step {
		return response.Step{After: seconds(19).Draw(t, "after"), To: response.Tier(rapid.IntRange(1, 3).Draw(t, "to")),
			Severity: telemetry.Severity(rapid.IntRange(0, 3).Draw(t, "severity"))}
	})
	plans := map[telemetry.Identity]*response.Plan{}
	for _, id := range everyone {
		if rapid.IntRange(0, 5).Draw(t, "has a plan") == 0 {
			continue
		}
		plans[id] = &response.Plan{
			Outputs: rapid.SliceOfN(output, 0, 3).Draw(t, "outputs"), Escalate: rapid.SliceOfN(step, 0, 3).Draw(t, "escalate"),
			LifeSafety: rapid.Bool().Draw(t, "life safety"),
		}
		if rapid.Bool().Draw(t, "is inhibited") {
			plans[id].Inhibitors = some.Draw(t, "inhibitors")
		}
	}
	return plans
}

func drawDeed(t *rapid.T) deed {
	e := deed{what: rapid.SampledFrom(deeds[:]).Draw(t, "what"), id: rapid.SampledFrom(everyone[:]).Draw(t, "who"),
		severity: telemetry.Severity(rapid.IntRange(1, 3).Draw(t, "severity")), holds: rapid.Bool().Draw(t, "holds")}
	if e.what == "manual" {
		e.point = telemetry.PointID(rapid.IntRange(1, 3).Draw(t, "point"))
		e.value = telemetry.BoolValue(rapid.Bool().Draw(t, "value"))
		if e.point == 3 {
			e.value = telemetry.IntValue(int64(rapid.IntRange(0, 3).Draw(t, "number")))
		}
	}
	return e
}

// line is when what is told.
type line struct {
	at    int // seconds
	deeds []deed
}

func drawScript(t *rapid.T) (script []line, end int) {
	for range rapid.IntRange(1, 25).Draw(t, "moments") {
		end += rapid.IntRange(1, 8).Draw(t, "gap")
		script = append(script, line{end, rapid.SliceOfN(rapid.Custom(drawDeed), 1, 3).Draw(t, "deeds")})
	}
	return script, end + 40
}

func planOf(plans map[telemetry.Identity]*response.Plan) func(telemetry.Identity) *response.Plan {
	return func(id telemetry.Identity) *response.Plan { return plans[id] }
}

const startAt = telemetry.Mono(1000 * time.Second)

// check is rapid.Check with some thousands of tries.
func check(t *testing.T, f func(*rapid.T)) {
	t.Helper()
	t.Parallel()
	for range 50 {
		rapid.Check(t, f)
	}
}

// A machine says what the model says, second by second.
func TestMachineAgainstModel(t *testing.T) {
	check(t, func(t *rapid.T) {
		plans := drawPlans(t)
		script, end := drawScript(t)
		m, want := response.New(planOf(plans)), newModel(plans)
		var out response.Decisions
		for s := 0; s <= end; s++ {
			var now []deed
			for _, l := range script {
				if l.at == s {
					now = l.deeds
				}
			}
			moment := startAt.Add(time.Duration(s) * time.Second)
			tell(m, moment, now)
			out.Reset()
			m.Step(moment, &out)
			if got, want := asModel(&out), want.second(s == 0, now); got != want {
				t.Fatalf("at %d s, told %+v\ngot:\n%s\nwant:\n%s", s, now, got, want)
			}
		}
	})
}

// flat is every decision with its moment, in order.
func flat(all *response.Decisions) string {
	return fmt.Sprintf("%v\n%v\n%v", all.Suppressions, all.Escalations, all.Commands)
}

// How often a machine is stepped makes no difference: at every second, only when Next says so, or much too late.
func TestStepsMakeNoDifference(t *testing.T) {
	check(t, func(t *rapid.T) {
		plans, later := drawPlans(t), drawPlans(t)
		script, end := drawScript(t)
		reload := rapid.IntRange(0, end).Draw(t, "reload")
		play := func(step func(m *response.Machine, from, to telemetry.Mono, out *response.Decisions)) string {
			m := response.New(planOf(plans))
			var out response.Decisions
			var open []response.Open
			for i, id := range everyone {
				open = append(open, response.Open{Identity: id, Severity: telemetry.Warning, Active: i != 1, Age: time.Duration(i) * 7 * time.Second})
			}
			m.Restore(startAt, open)
			m.Step(startAt, &out)
			at := 0
			for _, l := range append(script, line{at: end}) {
				step(m, startAt.Add(time.Duration(at)*time.Second), startAt.Add(time.Duration(l.at)*time.Second), &out)
				if at <= reload && reload < l.at {
					m.Replan(startAt.Add(time.Duration(l.at)*time.Second), planOf(later))
				}
				tell(m, startAt.Add(time.Duration(l.at)*time.Second), l.deeds)
				at = l.at
			}
			m.Step(startAt.Add(time.Duration(end)*time.Second), &out)
			return flat(&out)
		}
		lazy := play(func(*response.Machine, telemetry.Mono, telemetry.Mono, *response.Decisions) {})
		eager := play(func(m *response.Machine, from, to telemetry.Mono, out *response.Decisions) {
			for t := from; t < to; t = t.Add(time.Second) {
				m.Step(t, out)
			}
		})
		prompt := play(func(m *response.Machine, _, to telemetry.Mono, out *response.Decisions) {
			for m.Next() < to {
				next := m.Next()
				m.Step(next, out)
				if m.Next() <= next {
					t.Fatalf("after the step at %v Next is %v", next, m.Next())
				}
			}
		})
		if eager != prompt || lazy != prompt {
			t.Fatalf("every second:\n%s\nat Next:\n%s\nlate:\n%s", eager, prompt, lazy)
		}
	})
}

// What holds of the commands whatever happens: none is repeated without a change, none lasts beyond its time, and
// without an alert every point is at rest.
func TestCommands(t *testing.T) {
	check(t, func(t *rapid.T) {
		plans := drawPlans(t)
		limited := map[telemetry.PointID]bool{1: true, 2: true, 3: true} // points whose every output has a `for`
		for _, p := range plans {
			for _, o := range p.Outputs {
				limited[o.Point] = limited[o.Point] && o.For > 0
			}
		}
		script, end := drawScript(t)
		m := response.New(planOf(plans))
		ours := map[telemetry.PointID]telemetry.Value{}
		look := func(out *response.Decisions) {
			for _, c := range out.Commands {
				last, ok := ours[c.Point]
				if resting := c.Value.Int() == 0; !ok && resting || ok && last == c.Value {
					t.Fatalf("repeated without a change: %+v", c)
				} else if resting {
					delete(ours, c.Point)
				} else {
					ours[c.Point] = c.Value
				}
			}
		}
		for _, l := range script {
			at := startAt.Add(time.Duration(l.at) * time.Second)
			for m.Next() < at {
				var out response.Decisions
				m.Step(m.Next(), &out)
				look(&out)
			}
			for _, e := range l.deeds {
				if e.what == "manual" && ours[e.point] != e.value {
					delete(ours, e.point)
				}
			}
			tell(m, at, l.deeds)
			var out response.Decisions
			m.Step(at, &out)
			look(&out)
		}
		// An escalation after 19 s may begin a demand that waits 9 s and lasts 9 s.
		var out response.Decisions
		quiet := startAt.Add(time.Duration(end) * time.Second)
		m.Step(quiet, &out)
		look(&out)
		for p, v := range ours {
			if limited[p] {
				t.Fatalf("point %d is %v for ever", p, v)
			}
		}
		for _, id := range everyone {
			m.Close(quiet, id)
		}
		out.Reset()
		m.Step(quiet, &out)
		look(&out)
		if len(ours) > 0 || m.Next() != telemetry.Never {
			t.Fatalf("without any alert: %v, Next %v", ours, m.Next())
		}
	})
}

// FuzzMachine tells a machine anything at any moment, backwards and at the ends of time as well.
func FuzzMachine(f *testing.F) {
	f.Add(uint64(1), []byte{0, 1, 2, 3, 40, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16})
	f.Add(uint64(99), []byte{0, 0, 0, 0, 255, 9, 0, 3, 128, 1, 1, 1, 7, 2, 3, 4})
	f.Fuzz(func(t *testing.T, seed uint64, data []byte) {
		plans := rapid.Custom(drawPlans).Example(int(seed % 1000))
		demands := 0
		for _, p := range plans {
			demands += len(p.Outputs)
		}
		m := response.New(planOf(plans))
		var out response.Decisions
		now, told := telemetry.Mono(0), 0
		for ; len(data) >= 4; data = data[4:] {
			switch jump := int8(data[0]); jump {
			case 127:
				now = telemetry.Never - 1
			case -128:
				now = math.MinInt64
			default:
				now += telemetry.Mono(jump) * telemetry.Mono(300*time.Millisecond)
			}
			e := deed{what: deeds[int(data[1])%len(deeds)], id: everyone[int(data[2])%len(everyone)], severity: telemetry.Severity(data[3] % 4), holds: data[3]&8 != 0,
				point: telemetry.PointID(data[3] >> 4 % 4), value: telemetry.BoolValue(data[3]&16 != 0)}
			switch data[1] {
			case 250:
				m.Replan(now, planOf(map[telemetry.Identity]*response.Plan{}))
			case 251:
				m.Replan(now, planOf(plans))
			case 252:
				m.Restore(now, []response.Open{{Identity: e.id, Severity: e.severity, Active: e.holds, Suppressed: data[3]&32 != 0, Acknowledged: data[3]&64 != 0,
					Tier: response.Tier(data[3] % 4), Age: time.Duration(now) * time.Duration(int8(data[3])), Gone: time.Duration(now), Down: time.Duration(now)}})
			default:
				tell(m, now, []deed{e})
			}
			told++
			if data[0]%3 == 0 {
				continue // stepped later
			}
			out.Reset()
			m.Step(now, &out)
			if next := m.Next(); next <= now && now != telemetry.Never {
				t.Fatalf("after the step at %v Next is %v", now, next)
			}
			// A deed begins, renews or ends every demand once; each of these ends once more by itself, and an escalation may
			// begin it again.
			if most := (told + 1) * 4 * (demands + 1); len(out.Commands) > most {
				t.Fatalf("%d commands after %d deeds", len(out.Commands), told)
			}
			told = 0
		}
	})
}
