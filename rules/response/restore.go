package response

import (
	"math"
	"time"

	"linli/internal/telemetry"
)

// Open is an alert that was open when the process last ran, as the alert book has it.
type Open struct {
	telemetry.Identity
	Severity     telemetry.Severity
	Active       bool // its condition holds, as far as anybody knows
	Acknowledged bool
	// Suppressed says that the last Suppression of it was On. Where nothing inhibits it now, nobody knows by whom, and By of
	// the Suppression that ends it is zero.
	Suppressed bool
	Tier       Tier
	// Age is for how long it has been raised, or announced again after an inhibition: its times count from then.
	Age time.Duration
	// Gone is for how long the condition has been gone, of one that is not Active.
	Gone time.Duration
	// Down is for how long nobody ran, up to now; 0: not known. An output whose `for` ended in that time is told to rest.
	Down time.Duration
	// Idle is for how much of Age nobody ran. The times of escalation stand still then: nobody could have been told, and
	// nothing has been read yet of what became of it. Those of outputs do not.
	Idle time.Duration
}

// ran returns for how much of Age somebody ran.
func (o *Open) ran() time.Duration { return max(o.Age-max(o.Idle, 0), 0) }

// Restore takes over the alerts that were open when the process last ran. It is called before the first Step. What their
// outputs ask for now is said at that Step, as if every point had been left alone; a `for` that has passed is not
// played again, and no step of escalation up to Open.Tier is repeated. Orders by hand from before are not known any
// more. Since when a severity has been what it is is not known either: its outputs are taken as begun with the alert.
func (m *Machine) Restore(now telemetry.Mono, open []Open) {
	m.at = max(m.at, now)
	for i := range open {
		o := &open[i]
		if m.alerts[o.Identity] != nil || !o.Active && o.Acknowledged {
			continue
		}
		a := m.track(o.Identity)
		a.said, a.tier, a.active, a.acknowledged = o.Severity, o.Tier, o.Active, o.Acknowledged
		a.suppressed, a.restored = o.Suppressed && o.Active, true
		a.since = before(m.at, o.Age)
		a.climb = before(m.at, o.ran())
		a.least = a.plan.taken(o)
		held := o.Age // how long the condition held
		if !o.Active {
			held = max(o.Age-max(o.Gone, 0), 0)
		}
		for k := range a.demands {
			m.catchUp(&a.demands[k], held)
			m.relieve(&a.demands[k], o)
		}
		m.touch(a)
	}
}

// taken returns the severity that the steps asked for which an alert has behind it: those to lower tiers, the first to its own,
// and others to its own that are due.
func (p *Plan) taken(o *Open) (least telemetry.Severity) {
	first := true
	for _, s := range p.Escalate {
		if s.To < o.Tier || s.To == o.Tier && (first || s.After <= o.ran()) {
			least = max(least, s.Severity)
		}
		first = first && s.To != o.Tier
	}
	return least
}

// catchUp sets a demand as if the machine had known of it since the alert was raised; the condition held for so long.
func (m *Machine) catchUp(d *demand, held time.Duration) {
	a := d.alert
	if a.suppressed || a.severity() < d.out.Severity {
		return
	}
	d.gate = true
	if a.active || a.plan.LifeSafety || d.out.After <= held {
		d.from = later(a.since, d.out.After)
	}
	if d.from <= m.at {
		m.begin(d)
	}
}

// relieve sends a point to rest whose time ended while nobody ran: it may still be driven.
func (m *Machine) relieve(d *demand, o *Open) {
	if d.running && d.end <= m.at && d.end > before(m.at, o.Down) && (o.Active || d.out.Until != UntilCleared) &&
		(!o.Acknowledged || d.out.Until != UntilAcknowledged) {
		p := d.point
		p.driven, p.value, p.rest, p.last, p.why = true, telemetry.Value{}, d.out.Rest, o.Identity, WhyPassed
		m.move(p)
	}
}

// replan gives every alert its new plan.
func (m *Machine) replan(plan func(telemetry.Identity) *Plan) {
	m.plan = plan
	for _, a := range m.alerts {
		next := plan(a.id)
		if next == a.plan || next == nil && a.plan == m.none {
			continue
		}
		m.touch(a) // What follows is said in the order of the alerts.
		a.next, a.replanned = next, true
	}
}

// adopt gives an alert the plan that a reload brought.
func (m *Machine) adopt(a *alert) {
	old := append([]demand(nil), a.demands...)
	m.forget(a, WhyReplanned)
	m.follow(a, a.next)
	a.next, a.replanned = nil, false
	for i := range a.demands {
		d := &a.demands[i]
		was := match(old, d.out)
		if was == nil {
			if a.active || a.plan.LifeSafety {
				m.catchUp(d, 0)
			} else {
				d.gate = true // of an alert that is gone nothing new begins
			}
			continue
		}
		d.gate, d.running, d.begun, d.number, d.from = was.gate, was.running, was.begun, was.number, was.from
		if d.from != telemetry.Never {
			d.from = later(before(was.from, was.out.After), d.out.After)
		}
		if d.running && d.out.For > 0 {
			d.end = later(was.begun, d.out.For)
		}
		was.out = nil
	}
}

// match finds the demand of the old plan that lives on in an output: the same one, else one for the same point.
func match(old []demand, o *Output) *demand {
	var found *demand
	for i := range old {
		was := old[i].out
		if was == nil || was.Point != o.Point {
			continue
		}
		if was.Value == o.Value && was.After == o.After && was.For == o.For && was.Until == o.Until && was.Severity == o.Severity {
			return &old[i]
		}
		if found == nil {
			found = &old[i]
		}
	}
	return found
}

// before returns t moved back by d.
func before(t telemetry.Mono, d time.Duration) telemetry.Mono {
	switch {
	case d <= 0:
		return t
	case t < math.MinInt64+telemetry.Mono(d):
		return math.MinInt64
	}
	return t.Add(-d)
}
