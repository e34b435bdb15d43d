package response

import (
	"cmp"
	"math"
	"slices"
	"time"

	"linli/internal/telemetry"
)

// Machine decides what follows from alerts. See the package comment.
type Machine struct {
	plan   func(telemetry.Identity) *Plan
	none   *Plan          // of alerts from which nothing follows
	at     telemetry.Mono // everything up to here is decided
	events []event        // told since the last Step

	alerts map[telemetry.Identity]*alert
	watch  map[telemetry.Identity]map[*alert]struct{} // alerts that must be looked at when this one begins or ends
	points map[telemetry.PointID]*point
	timers timers
	dirty  []*alert // to be looked at in this moment
	moved  []*point // whose demands changed in this moment

	count uint64 // numbers alerts, demands and manual orders in the order in which they came
}

// event is something told to the machine.
type event struct {
	at   telemetry.Mono
	what what
	id   telemetry.Identity
	// of a transition
	op        telemetry.TransitionOp
	condition telemetry.Condition
	severity  telemetry.Severity
	// of a manual order
	point telemetry.PointID
	value telemetry.Value
	// of a reload
	plan func(telemetry.Identity) *Plan
}

type what uint8

const (
	transition what = iota
	acknowledge
	closeAlert
	manual
	replan
)

// New returns a machine without alerts. plan returns what follows from an alert; nil means that nothing does, and then
// the alert is still known, for it may inhibit others. plan is called when an alert is first heard of.
func New(plan func(telemetry.Identity) *Plan) *Machine {
	return &Machine{
		plan: plan, none: &Plan{}, at: math.MinInt64, alerts: map[telemetry.Identity]*alert{},
		watch: map[telemetry.Identity]map[*alert]struct{}{}, points: map[telemetry.PointID]*point{},
	}
}

// Transitions tells what the engine said, each with its moment. Nothing is decided before the next Step.
func (m *Machine) Transitions(ts []telemetry.Transition) {
	for i := range ts {
		t := &ts[i]
		m.events = append(m.events, event{at: t.Time, what: transition, id: t.Identity, op: t.Op, condition: t.Condition, severity: t.Severity})
	}
}

// Acknowledge tells that somebody acknowledged an alert. Alerts that are not open are ignored.
func (m *Machine) Acknowledge(at telemetry.Mono, id telemetry.Identity) {
	m.events = append(m.events, event{at: at, what: acknowledge, id: id})
}

// Close tells that an alert was closed by hand, or removed.
func (m *Machine) Close(at telemetry.Mono, id telemetry.Identity) {
	m.events = append(m.events, event{at: at, what: closeAlert, id: id})
}

// Manual tells that somebody ordered point p to be v by hand. Where that is what the machine drives it to, nothing
// changes; otherwise the demands that run are void. The zero Value stands for an order of which nobody knows the value.
func (m *Machine) Manual(at telemetry.Mono, p telemetry.PointID, v telemetry.Value) {
	m.events = append(m.events, event{at: at, what: manual, point: p, value: v})
}

// Replan tells that the rules were loaded anew, for the same inventory: from now on plan says what follows. Alerts keep
// their times. An output of the old plan lives on in one of the new plan for the same point, with the new times; demands
// that have none there go to rest.
func (m *Machine) Replan(now telemetry.Mono, plan func(telemetry.Identity) *Plan) {
	m.events = append(m.events, event{at: now, what: replan, plan: plan})
}

// Next returns the moment at which Step must be called at the latest: that of the earliest timer, or of what was told
// since the last Step. telemetry.Never where nothing is to come.
func (m *Machine) Next() telemetry.Mono {
	next := m.timers.next()
	if len(m.dirty) > 0 {
		next = min(next, m.at)
	}
	for i := range m.events {
		next = min(next, max(m.events[i].at, m.at))
	}
	return next
}

// Step decides everything up to now and appends it to out.
func (m *Machine) Step(now telemetry.Mono, out *Decisions) {
	now = max(now, m.at)
	for i := range m.events {
		m.events[i].at = min(max(m.events[i].at, m.at), now)
	}
	if !slices.IsSortedFunc(m.events, earlier) {
		slices.SortStableFunc(m.events, earlier)
	}
	for told := 0; ; {
		t := m.timers.next()
		if told < len(m.events) {
			t = min(t, m.events[told].at)
		}
		if len(m.dirty) > 0 {
			t = m.at
		}
		if t > now {
			break
		}
		m.at = max(m.at, t)
		for ; told < len(m.events) && m.events[told].at <= m.at; told++ {
			m.apply(&m.events[told])
		}
		for m.timers.next() <= m.at {
			a := m.timers.first()
			m.timers.set(a, telemetry.Never)
			m.touch(a)
		}
		m.decide(out)
	}
	clear(m.events) // what they point to may go
	m.events, m.at = m.events[:0], now
}

func earlier(a, b event) int { return cmp.Compare(a.at, b.at) }

// decide looks at every alert that something happened to, and then says what became of the points.
func (m *Machine) decide(out *Decisions) {
	slices.SortFunc(m.dirty, func(a, b *alert) int { return cmp.Compare(a.number, b.number) })
	for _, a := range m.dirty {
		if a.dirty = false; !a.closed {
			m.look(a, out)
		}
	}
	clear(m.dirty)
	m.dirty = m.dirty[:0]
	for _, p := range m.moved {
		p.moved = false
		p.settle(m.at, out)
	}
	m.moved = m.moved[:0]
}

// touch has an alert looked at in this moment.
func (m *Machine) touch(a *alert) {
	if !a.dirty {
		a.dirty = true
		m.dirty = append(m.dirty, a)
	}
}

func (m *Machine) number() uint64 { m.count++; return m.count }

// apply takes one event at m.at.
func (m *Machine) apply(e *event) {
	a := m.alerts[e.id]
	switch e.what {
	case transition:
		m.say(a, e)
	case acknowledge:
		if a == nil || a.acknowledged {
			return
		}
		a.acknowledged = true
		if a.active {
			m.touch(a)
		} else {
			m.close(a, WhyAcknowledged)
		}
	case closeAlert:
		if a != nil {
			m.close(a, WhyClosed)
		}
	case manual:
		m.order(e.point, e.value)
	case replan:
		m.replan(e.plan)
	}
}

// say takes what the engine said. It follows the alert book: a second raise of an active alert is none, and known and
// changed of an alert that is not open raise it where the condition is true.
func (m *Machine) say(a *alert, e *event) {
	if a == nil {
		holds := e.condition == telemetry.ConditionTrue && (e.op == telemetry.Known || e.op == telemetry.Changed)
		if e.op == telemetry.Raise || holds {
			m.raise(m.track(e.id), e.severity)
		}
		return
	}
	switch e.op {
	case telemetry.Raise:
		if !a.active {
			m.raise(a, e.severity)
		}
	case telemetry.Clear:
		if !a.active {
			return
		}
		if a.acknowledged {
			m.close(a, WhyCleared)
			return
		}
		a.active, a.suppressed = false, false
		m.touch(a)
		m.wake(a.id)
	case telemetry.Changed:
		if a.active {
			m.grade(a, e.severity)
		}
	}
}

// order takes a manual order of a point.
func (m *Machine) order(id telemetry.PointID, v telemetry.Value) {
	p := m.points[id]
	if p == nil || p.driven && p.value == v && !v.IsZero() {
		return // no demand of ours was ever here, or it is what is wanted
	}
	p.manual = m.number()
	for len(p.wants) > 0 {
		p.drop(p.wants[len(p.wants)-1])
	}
	p.driven = false
}

// wake has every alert looked at that depends on whether the given one is active.
func (m *Machine) wake(id telemetry.Identity) {
	for a := range m.watch[id] {
		m.touch(a)
	}
}

// active reports whether an alert is.
func (m *Machine) active(id telemetry.Identity) bool {
	a := m.alerts[id]
	return a != nil && a.active
}

// point returns the record of a point.
func (m *Machine) point(id telemetry.PointID) *point {
	p := m.points[id]
	if p == nil {
		p = &point{id: id}
		m.points[id] = p
	}
	return p
}

// move has a point settled in this moment.
func (m *Machine) move(p *point) {
	if !p.moved {
		p.moved = true
		m.moved = append(m.moved, p)
	}
}

// later returns t moved by d, at most to Never.
func later(t telemetry.Mono, d time.Duration) telemetry.Mono {
	if d <= 0 {
		return t
	}
	if t > telemetry.Never-telemetry.Mono(d) {
		return telemetry.Never
	}
	return t.Add(d)
}
