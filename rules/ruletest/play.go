package ruletest

import (
	"fmt"
	"sort"
	"time"

	"linli/internal/telemetry"
	"linli/rules/expr"
	"linli/rules/response"
)

func (r *runner) now(at time.Duration) telemetry.Now {
	n := telemetry.Now{Mono: base.Add(at)}
	if !r.wall.IsZero() {
		n.Wall = r.wall.Add(at).UTC()
	}
	return n
}

// play runs the samples, the acts and the timers in order. In one moment the clock and the process come first, then the
// engine with its samples, and then people.
func (r *runner) play() {
	moments := append([]time.Duration(nil), r.times...)
	for _, a := range r.acts {
		moments = append(moments, a.at)
	}
	for _, v := range r.values {
		moments = append(moments, v.at)
	}
	moments = append(moments, r.until)
	sort.Slice(moments, func(i, j int) bool { return moments[i] < moments[j] })
	for k, at := range moments {
		if at > r.until || k > 0 && at == moments[k-1] {
			continue
		}
		// Timers in between fire at their own moments, as the gateway's loop would have it.
		for next := r.next(); next < base.Add(at); next = r.next() {
			r.step(r.now(next.Sub(base)), nil, nil)
		}
		var people []act
		for _, a := range r.acts {
			if a.at != at {
				continue
			}
			if r.note(a); a.person() {
				people = append(people, a)
			} else if !r.happens(a) {
				return
			}
		}
		r.step(r.now(at), r.samples[at], people)
		for _, v := range r.values {
			if v.at == at {
				r.checkValue(v)
			}
		}
	}
}

func (r *runner) next() telemetry.Mono { return min(r.engine.Next(), r.machine.Next()) }

// happens plays what happens to the process and its clock; false where that cannot be.
func (r *runner) happens(a act) bool {
	switch a.what {
	case actClock:
		switch {
		case a.unset:
			r.wall = time.Time{}
		case a.wall.IsZero():
			if r.wall.IsZero() {
				r.failed = append(r.failed, fmt.Sprintf("%s: the clock is not set at %s: it cannot be moved by %s", a.pos, expr.FormatDuration(a.at), a.text))
				return true
			}
			r.wall = r.wall.Add(a.by)
		default:
			r.wall = a.wall.Add(-a.at)
		}
	case actReload:
		return r.reload(a)
	case actRestart, actCrash:
		return r.restart(a)
	}
	return true
}

// restart ends the process and starts it again. A clean stop decides everything up to its moment; after a crash what the
// engine had gathered is lost.
func (r *runner) restart(a act) bool {
	var snapshot []byte
	if a.what == actRestart {
		r.step(r.now(a.at), nil, nil)
		snapshot = r.engine.Snapshot()
	}
	e, ok := r.compile()
	if !ok {
		return false
	}
	for _, gone := range e.Restore(r.book.active()) {
		r.book.remove(gone.Identity)
	}
	if snapshot != nil {
		if _, err := e.Resume(snapshot, 0); err != nil {
			r.failed = append(r.failed, fmt.Sprintf("%s: the engine does not take its own snapshot: %v", a.pos, err))
		}
	}
	now := base.Add(a.at)
	r.engine, r.machine = e, response.New(e.Plan)
	r.machine.Restore(now, r.book.restore(now))
	return true
}

// reload replaces the rules while the process runs.
func (r *runner) reload(a act) bool {
	for pack, values := range a.params {
		if r.params[pack] == nil {
			r.params[pack] = map[string]string{}
		}
		for name, v := range values {
			r.params[pack][name] = v
		}
	}
	e, ok := r.compile()
	if !ok {
		return false
	}
	now := base.Add(a.at)
	removed, _ := e.Adopt(r.engine)
	r.engine = e
	r.machine.Replan(now, e.Plan)
	for _, id := range removed {
		r.machine.Close(now, id)
		r.book.remove(id)
	}
	return true
}

// step gives the engine its samples, lets people do what they do in this moment, and asks the machine what follows.
func (r *runner) step(now telemetry.Now, samples []telemetry.Sample, people []act) {
	r.engineStep(now, samples)
	again := false
	for _, a := range people {
		again = r.person(now.Mono, a) || again
	}
	if again {
		r.engineStep(now, nil) // What was closed by hand may be true still.
	}
	r.decisions.Reset()
	r.machine.Step(now.Mono, &r.decisions)
	r.decided()
}

func (r *runner) engineStep(now telemetry.Now, samples []telemetry.Sample) {
	r.out.Reset()
	r.engine.Step(now, samples, &r.out)
	r.machine.Transitions(r.out.Transitions)
	for i := range r.out.Transitions {
		t := &r.out.Transitions[i]
		r.book.say(t)
		e := event{at: t.Time.Sub(base), text: fmt.Sprintf("%s %s %s", t.Op, t.Alert, t.Subject), more: t.Severity.String()}
		e.full = fmt.Sprintf("%s %s %s | %s | %s | %s | %s", expr.FormatDuration(e.at), e.text, e.more, t.Title.Zh, t.Detail.Zh, t.Title.En, t.Detail.En)
		r.events = append(r.events, e)
	}
	for _, s := range r.out.Derived {
		r.derived[r.inv.Series(s.Point)] = s
	}
}

// person plays what somebody does, and reports whether the engine must look again.
func (r *runner) person(now telemetry.Mono, a act) bool {
	problem := ""
	switch a.what {
	case actAcknowledge:
		if problem = r.book.acknowledge(a.id); problem == "" {
			r.machine.Acknowledge(now, a.id)
		}
	case actClose:
		if problem = r.book.close(a.id); problem == "" {
			r.engine.Closed([]telemetry.Identity{a.id})
			r.machine.Close(now, a.id)
			return true
		}
	case actManual:
		r.machine.Manual(now, a.point, a.value)
	}
	if problem != "" {
		r.failed = append(r.failed, fmt.Sprintf("%s: at %s %s %s%s", a.pos, expr.FormatDuration(a.at), a.text, problem, r.around(a.at)))
	}
	return false
}

// decided notes what the machine said.
func (r *runner) decided() {
	for _, s := range r.decisions.Suppressions {
		word := "unsuppress"
		if s.On {
			word = "suppress"
		}
		r.book.suppress(s)
		r.happened(s.Time, fmt.Sprintf("%s %s %s", word, s.Alert, s.Subject), "by "+s.By.Alert+" "+s.By.Subject, "")
	}
	for _, e := range r.decisions.Escalations {
		r.book.escalate(e)
		r.happened(e.Time, fmt.Sprintf("escalate %s %s %s", e.Alert, e.Subject, e.To), e.Severity.String(), "")
	}
	for _, c := range r.decisions.Commands {
		series := r.inv.Series(c.Point)
		r.happened(c.Time, fmt.Sprintf("set %s.%s %s", series.Device, series.Point, shown(r.inv.Points[c.Point].Def, c.Value)), "",
			fmt.Sprintf(" | %s %s %s", c.For.Alert, c.For.Subject, c.Why))
	}
}

func (r *runner) happened(t telemetry.Mono, text, more, why string) {
	e := event{at: t.Sub(base), text: text, more: more}
	e.full = expr.FormatDuration(e.at) + " " + text
	if more != "" {
		e.full += " " + more
	}
	e.full += why
	r.events = append(r.events, e)
}

// shown writes a value as series do.
func shown(def *telemetry.PointDef, v telemetry.Value) string {
	if def.Kind == telemetry.Enum {
		for _, n := range def.Enum {
			if n.Code == v.Int() {
				return n.Name
			}
		}
	}
	return v.String()
}

// note keeps an act for people who look for a failure.
func (r *runner) note(a act) {
	r.done = append(r.done, event{at: a.at, text: a.what.String() + " " + a.text})
}
