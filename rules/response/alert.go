package response

import (
	"linli/internal/telemetry"
)

// alert is one open alert: active, or gone and not acknowledged yet.
type alert struct {
	id      telemetry.Identity
	number  uint64 // in the order in which alerts were raised
	plan    *Plan
	demands []demand // parallel to plan.Outputs

	said  telemetry.Severity // by the engine
	least telemetry.Severity // asked for by the escalations that were said
	tier  Tier
	by    telemetry.Identity // the inhibitor, while suppressed

	active       bool
	acknowledged bool
	suppressed   bool
	restored     bool // taken over, and not looked at since
	dirty        bool
	closed       bool
	replanned    bool // next is to take the place of plan
	next         *Plan

	since telemetry.Mono // when it was raised or released; times of outputs count from here
	climb telemetry.Mono // when the times of escalation began

	due telemetry.Mono // of the timers
	pos int            // in the timers' heap, -1 outside
}

// demand is one output of one open alert.
type demand struct {
	alert   *alert
	out     *Output
	point   *point
	gate    bool           // the severity of the output has been reached, and its times have been set for that
	running bool           // begun and not ended; void where the point was ordered by hand since
	from    telemetry.Mono // when it begins, or a new one takes its place; Never
	begun   telemetry.Mono // of the running one,
	end     telemetry.Mono // and its end; Never
	number  uint64         // in the order of the beginnings
	place   int            // in point.wants plus 1; 0: it does not drive the point
	why     Why            // it drives the point
}

func (a *alert) severity() telemetry.Severity { return max(a.said, a.least) }

// track begins a record for an alert that is not open.
func (m *Machine) track(id telemetry.Identity) *alert {
	a := &alert{id: id, number: m.number(), climb: m.at, due: telemetry.Never, pos: -1}
	m.alerts[id] = a
	m.follow(a, m.plan(id))
	return a
}

// follow gives an alert its plan, with demands for which nothing is set.
func (m *Machine) follow(a *alert, plan *Plan) {
	if plan == nil {
		plan = m.none
	}
	a.plan, a.demands = plan, nil
	if len(plan.Outputs) > 0 {
		a.demands = make([]demand, len(plan.Outputs))
	}
	for i := range a.demands {
		o := &plan.Outputs[i]
		a.demands[i] = demand{alert: a, out: o, point: m.point(o.Point), from: telemetry.Never, end: telemetry.Never}
	}
	m.each(plan, func(id telemetry.Identity) {
		if m.watch[id] == nil {
			m.watch[id] = map[*alert]struct{}{}
		}
		m.watch[id][a] = struct{}{}
	})
}

// forget takes an alert's demands from their points, and the alert from those that watch others.
func (m *Machine) forget(a *alert, why Why) {
	for i := range a.demands {
		m.stop(&a.demands[i], why)
	}
	m.each(a.plan, func(id telemetry.Identity) {
		delete(m.watch[id], a)
		if len(m.watch[id]) == 0 {
			delete(m.watch, id)
		}
	})
}

// each calls f for every alert that a plan depends on, some of them more than once.
func (m *Machine) each(plan *Plan, f func(telemetry.Identity)) {
	if !plan.LifeSafety {
		for _, id := range plan.Inhibitors {
			f(id)
		}
	}
	for i := range plan.Outputs {
		for _, id := range plan.Outputs[i].Unless {
			f(id)
		}
	}
}

// raise makes an alert active that was not.
func (m *Machine) raise(a *alert, severity telemetry.Severity) {
	a.active, a.acknowledged, a.said, a.since = true, false, severity, m.at
	if !a.plan.LifeSafety { // Theirs never stopped.
		a.climb = m.at
	}
	for i := range a.demands {
		if d := &a.demands[i]; d.gate {
			d.from = later(m.at, d.out.After)
		}
	}
	m.regraded(a)
	m.touch(a)
	m.wake(a.id)
}

// grade takes a new severity from the engine.
func (m *Machine) grade(a *alert, severity telemetry.Severity) {
	before := a.severity()
	a.said = severity
	if a.severity() > before && a.acknowledged {
		a.acknowledged, a.climb = false, m.at
		for i := range a.demands {
			if d := &a.demands[i]; d.out.Until == UntilAcknowledged {
				d.gate = false
			}
		}
	}
	m.regraded(a)
	m.touch(a)
}

// regraded has the points settled for which an alert's severity may decide between values.
func (m *Machine) regraded(a *alert) {
	for i := range a.demands {
		if d := &a.demands[i]; d.place > 0 {
			m.move(d.point)
		}
	}
}

// close ends an alert.
func (m *Machine) close(a *alert, why Why) {
	m.forget(a, why)
	m.timers.set(a, telemetry.Never)
	active := a.active
	a.closed, a.active = true, false
	delete(m.alerts, a.id)
	if active {
		m.wake(a.id)
	}
}

// look decides everything about one alert at m.at and sets its timer.
func (m *Machine) look(a *alert, out *Decisions) {
	if a.replanned {
		m.adopt(a)
	}
	m.suppress(a, out)
	due := m.escalate(a, out)
	for i := range a.demands {
		d := &a.demands[i]
		m.advance(d)
		due = min(due, d.from)
		if d.running {
			due = min(due, d.end)
		}
	}
	a.restored = false
	m.timers.set(a, due)
}

// suppress finds out whether another alert explains this one.
func (m *Machine) suppress(a *alert, out *Decisions) {
	by, on := m.inhibitor(a)
	if on && (a.restored || !a.suppressed) {
		a.by = by
	}
	if on == a.suppressed {
		return
	}
	if a.suppressed = on; !on {
		a.since, a.climb, a.restored = m.at, m.at, false
	}
	out.Suppressions = append(out.Suppressions, Suppression{Identity: a.id, By: a.by, On: on, Time: m.at})
}

// inhibitor returns the first active alert that silences a.
func (m *Machine) inhibitor(a *alert) (telemetry.Identity, bool) {
	if a.active && !a.plan.LifeSafety {
		for _, id := range a.plan.Inhibitors {
			if id != a.id && m.active(id) {
				return id, true
			}
		}
	}
	return telemetry.Identity{}, false
}

// escalate takes the steps that are due and returns when the next one is.
func (m *Machine) escalate(a *alert, out *Decisions) telemetry.Mono {
	due := telemetry.Never
	if a.suppressed || a.acknowledged || !a.active && !a.plan.LifeSafety {
		return due
	}
	tier, least := a.tier, a.least
	for i := range a.plan.Escalate {
		s := &a.plan.Escalate[i]
		if t := later(a.climb, s.After); t > m.at {
			due = min(due, t)
			continue
		}
		tier, least = max(tier, s.To), max(least, s.Severity)
	}
	// What is not said is not taken over, so that whoever listens knows as much as we do.
	worse := least > a.severity()
	if tier > a.tier || worse {
		a.tier, a.least = tier, least
		out.Escalations = append(out.Escalations, Escalation{Identity: a.id, To: tier, Severity: a.severity(), Time: m.at})
	}
	if worse {
		m.regraded(a)
	}
	return due
}

// advance moves one demand to m.at.
func (m *Machine) advance(d *demand) {
	a, o := d.alert, d.out
	switch {
	case a.suppressed:
		d.gate = false
		m.stop(d, WhyInhibited)
		return
	case a.severity() < o.Severity:
		d.gate = false
		m.stop(d, WhyEased)
		return
	}
	if begins := a.active || a.plan.LifeSafety; !d.gate && begins {
		d.gate, d.from = true, later(m.at, o.After)
	} else if !begins {
		d.from = telemetry.Never
	}
	switch {
	case o.Until == UntilCleared && !a.active:
		m.stop(d, WhyCleared)
	case o.Until == UntilAcknowledged && a.acknowledged:
		m.stop(d, WhyAcknowledged)
	}
	if d.from <= m.at {
		m.begin(d)
	}
	if d.running && d.end <= m.at {
		d.running = false
		m.rest(d, WhyPassed)
	}
	switch drives := d.running && d.number > d.point.manual; {
	case drives && m.held(o):
		m.rest(d, WhyUnless)
	case drives && d.place == 0:
		if d.why = WhyDemanded; a.restored {
			d.why = WhyReasserted
		}
		d.point.take(d)
		m.move(d.point)
	}
}

// held reports whether an alert is active that keeps the output from being driven.
func (m *Machine) held(o *Output) bool {
	for _, id := range o.Unless {
		if m.active(id) {
			return true
		}
	}
	return false
}

// begin starts a demand at the moment for which it was set. One that runs already is renewed.
func (m *Machine) begin(d *demand) {
	d.running, d.begun, d.end, d.number = true, d.from, telemetry.Never, m.number()
	if d.out.For > 0 {
		d.end = later(d.from, d.out.For)
	}
	d.from = telemetry.Never
	if d.place > 0 {
		m.move(d.point) // Its turn among those that want another value is a new one.
	}
}

// stop ends a demand, and what was still to come of it.
func (m *Machine) stop(d *demand, why Why) {
	d.running, d.from = false, telemetry.Never
	m.rest(d, why)
}

// rest takes a demand from its point.
func (m *Machine) rest(d *demand, why Why) {
	if d.place > 0 {
		d.point.drop(d)
		d.point.last, d.point.why = d.alert.id, why
		m.move(d.point)
	}
}
