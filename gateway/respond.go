package main

import (
	"cmp"
	"slices"
	"time"

	"go.uber.org/zap"

	"linli/internal/alert"
	"linli/internal/telemetry"
	"linli/rules"
	"linli/rules/response"
)

// responder carries what follows from alerts from the rules to the outputs and to the alert book. It belongs to the
// fan-in's goroutine: it asks for nothing that could wait. In each step come first the outputs, then the book.
type responder struct {
	machine *response.Machine
	plan    func(telemetry.Identity) *response.Plan
	drive   *drive
	book    *alert.Book
	log     *zap.Logger

	out     response.Decisions
	doings  []alert.Doing
	closed  []telemetry.Identity
	decided []alert.Decision
}

func newResponder(engine *rules.Engine, d *drive, book *alert.Book, log *zap.Logger) *responder {
	return &responder{machine: response.New(engine.Plan), plan: engine.Plan, drive: d, book: book, log: log}
}

// restore takes over what was open when the gateway last ran, and has the outputs that it wants set: before any on_start.
// What rules had set and nobody wants any more is set to rest. It is called before the fan-in runs.
func (r *responder) restore(now telemetry.Now, boot string, idle []idleTime) {
	var open []response.Open
	alerts := r.book.OpenAlerts()
	// In the order of raising, which is that of the ids: of equals the first one decides what an output is.
	slices.SortFunc(alerts, func(x, y alert.Alert) int { return cmp.Compare(x.ID, y.ID) })
	for _, a := range alerts {
		_, lines, err := r.book.Get(a.ID)
		if err != nil {
			continue // It was closed just now.
		}
		open = append(open, openAs(now, &a, lines, boot, idle))
	}
	r.machine.Restore(now.Mono, open)
	r.decide(now, nil)
	r.drive.relieve(knownIn(r.book, r.log))
	r.tell(now, nil)
}

// openAs returns what the response machine needs to know of an open alert. Its times count from when it was raised, raised
// again or released last; where nobody knows when that was, because the clock was not set, they begin anew. Those of escalation
// stand still while no gateway ran: a box that was off for a night does not call the district before it has read anything.
func openAs(now telemetry.Now, a *alert.Alert, lines []alert.Entry, boot string, idle []idleTime) response.Open {
	o := response.Open{Identity: a.Identity, Severity: a.Severity, Active: a.State.Active(), Suppressed: a.Suppressed,
		Acknowledged: !a.AcknowledgedAt.IsZero(), Tier: response.Tier(a.Tier)}
	for i := range lines {
		switch lines[i].What {
		case alert.WhatRaised, alert.WhatRaisedAgain, alert.WhatUnsuppressed:
			o.Age = ageOf(now, &lines[i], boot)
			o.Idle = idleWithin(idle, now, o.Age)
		case alert.WhatReturned:
			o.Gone = ageOf(now, &lines[i], boot)
		}
	}
	return o
}

// ageOf returns how long ago a line of history was written, 0 where nobody knows.
func ageOf(now telemetry.Now, e *alert.Entry, boot string) time.Duration {
	switch {
	case e.TimeUncertain && (boot == "" || e.Boot() != boot):
		return 0
	case e.TimeUncertain:
		return max(now.Mono.Sub(telemetry.Mono(e.Time.UnixNano())), 0)
	case now.Wall.IsZero():
		return 0
	}
	return max(now.Wall.Sub(e.Time), 0)
}

// heard takes what people did since the last step, and returns which alerts the engine must know to be closed. It is valid
// until the next call.
func (r *responder) heard(now telemetry.Mono) (closed []telemetry.Identity) {
	r.closed, r.doings = r.closed[:0], r.book.TakeDoings(r.doings[:0])
	for i := range r.doings {
		switch d := &r.doings[i]; d.Kind {
		case alert.Acknowledged:
			r.machine.Acknowledge(now, d.Identity)
		case alert.ClosedAlert:
			r.machine.Close(now, d.Identity)
			r.closed = append(r.closed, d.Identity)
		case alert.RaisedAnew:
			r.machine.Close(now, d.Identity)
			r.machine.Transitions([]telemetry.Transition{{Identity: d.Identity, Op: telemetry.Raise, Severity: d.Severity, Time: now}})
		}
	}
	for _, g := range r.drive.taken() {
		r.machine.Manual(now, g.point, g.value)
	}
	return r.closed
}

// decide finds out what follows at now from what people did and the engine said, and has the outputs set.
func (r *responder) decide(now telemetry.Now, ts []telemetry.Transition) {
	r.machine.Transitions(ts)
	r.out.Reset()
	r.machine.Step(now.Mono, &r.out)
	for i := range r.out.Commands {
		r.drive.want(r.out.Commands[i])
	}
}

// tell has the alert book take what the engine said and what follows from it.
func (r *responder) tell(now telemetry.Now, ts []telemetry.Transition) {
	r.decided = r.decided[:0]
	for i := range r.out.Escalations {
		e := &r.out.Escalations[i]
		d := alert.Decision{Identity: e.Identity, Kind: alert.Escalate, Time: e.Time, Tier: alert.Tier(e.To), Severity: e.Severity, Least: r.least(e)}
		r.decided = append(r.decided, d)
		r.log.Warn("nobody acknowledged", zap.String("alert", e.Alert), zap.String("subject", e.Subject),
			zap.Stringer("tier", e.To), zap.Stringer("severity", e.Severity))
	}
	for i := range r.out.Suppressions {
		s := &r.out.Suppressions[i]
		d := alert.Decision{Identity: s.Identity, Kind: alert.Unsuppress, Time: s.Time}
		if s.On {
			d.Kind, d.Inhibitor = alert.Suppress, s.By
		}
		r.decided = append(r.decided, d)
		r.log.Info("alert "+map[bool]string{true: "suppressed", false: "no longer suppressed"}[s.On],
			zap.String("alert", s.Alert), zap.String("subject", s.Subject), zap.String("by", s.By.Alert), zap.String("of", s.By.Subject))
	}
	r.book.Submit(now, ts, r.decided...)
}

// least returns the severity that the steps of escalation up to a tier ask for, at most what the alert has by now: it does
// not fall below that any more, whatever the engine says.
func (r *responder) least(e *response.Escalation) (s telemetry.Severity) {
	p := r.plan(e.Identity)
	if p == nil {
		return 0
	}
	for i := range p.Escalate {
		if p.Escalate[i].To <= e.To {
			s = max(s, min(p.Escalate[i].Severity, e.Severity))
		}
	}
	return s
}

// replan takes over the rules of another engine.
func (r *responder) replan(now telemetry.Mono, engine *rules.Engine) {
	r.plan = engine.Plan
	r.machine.Replan(now, engine.Plan)
}
