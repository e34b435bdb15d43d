package response_test

import (
	"fmt"
	"slices"
	"strings"

	"linli/internal/telemetry"
	"linli/rules/response"
)

// model says the same as a Machine in the plainest way: it looks at everything once a second and counts seconds.
type model struct {
	plans  map[telemetry.Identity]*response.Plan
	alerts []*modelAlert                         // in the order of raising
	theirs map[telemetry.PointID]telemetry.Value // what we drive
	rests  map[telemetry.PointID]telemetry.Value
	begun  int
}

type modelAlert struct {
	id                      telemetry.Identity
	plan                    response.Plan
	said, least             telemetry.Severity
	tier                    response.Tier
	active, acked, silenced bool
	by                      telemetry.Identity
	climbing                int // seconds
	demands                 []modelDemand
}

type modelDemand struct {
	reached bool // severity
	wait    int  // seconds until it begins, -1 none
	left    int  // seconds to go, -1 not running
	void    bool
	number  int
}

const forever = 1 << 40

func newModel(plans map[telemetry.Identity]*response.Plan) *model {
	return &model{plans: plans, theirs: map[telemetry.PointID]telemetry.Value{}, rests: map[telemetry.PointID]telemetry.Value{}}
}

func (m *model) find(id telemetry.Identity) *modelAlert {
	for _, a := range m.alerts {
		if a.id == id {
			return a
		}
	}
	return nil
}

func (m *model) active(id telemetry.Identity) bool { a := m.find(id); return a != nil && a.active }

func (m *model) remove(id telemetry.Identity) {
	m.alerts = slices.DeleteFunc(m.alerts, func(a *modelAlert) bool { return a.id == id })
}

func (a *modelAlert) severity() telemetry.Severity { return max(a.said, a.least) }

func (a *modelAlert) raise(s telemetry.Severity) {
	a.active, a.acked, a.said = true, false, s
	if !a.plan.LifeSafety {
		a.climbing = 0
	}
	for i := range a.demands {
		if a.demands[i].reached {
			a.demands[i].wait = int(a.plan.Outputs[i].After.Seconds())
		}
	}
}

func (m *model) apply(e deed) {
	a := m.find(e.id)
	switch e.what {
	case "raise", "known", "changed":
		if a == nil && (e.what == "raise" || e.holds) {
			a = &modelAlert{id: e.id}
			if p := m.plans[e.id]; p != nil {
				a.plan = *p
			}
			a.demands = make([]modelDemand, len(a.plan.Outputs))
			for i := range a.demands {
				a.demands[i] = modelDemand{wait: -1, left: -1}
			}
			m.alerts = append(m.alerts, a)
			a.raise(e.severity)
		} else if a != nil && !a.active && e.what == "raise" {
			a.raise(e.severity)
		} else if a != nil && a.active && e.what == "changed" {
			before := a.severity()
			a.said = e.severity
			if a.acked && a.severity() > before {
				a.acked, a.climbing = false, 0
				for i := range a.demands {
					if a.plan.Outputs[i].Until == response.UntilAcknowledged {
						a.demands[i].reached = false
					}
				}
			}
		}
	case "clear":
		if a != nil && a.active {
			a.active, a.silenced = false, false
			if a.acked {
				m.remove(e.id)
			}
		}
	case "ack":
		if a != nil {
			a.acked = true
			if !a.active {
				m.remove(e.id)
			}
		}
	case "close":
		m.remove(e.id)
	case "manual":
		if v, ok := m.theirs[e.point]; ok && v == e.value {
			return
		}
		delete(m.theirs, e.point)
		for _, a := range m.alerts {
			for i := range a.demands {
				if a.plan.Outputs[i].Point == e.point {
					a.demands[i].void = true
				}
			}
		}
	}
}

// second lets a second pass (but for the first), takes what happened, and returns what follows, one a line, sorted.
func (m *model) second(first bool, deeds []deed) string {
	var lines []string
	if !first {
		for _, a := range m.alerts {
			a.climbing++
			for i := range a.demands {
				d := &a.demands[i]
				if d.wait > 0 {
					d.wait--
				}
				if d.left > 0 {
					d.left--
				}
			}
		}
	}
	for _, e := range deeds {
		m.apply(e)
	}
	type want struct {
		a *modelAlert
		d *modelDemand
		o *response.Output
	}
	wants := map[telemetry.PointID][]want{}
	for _, a := range m.alerts {
		p := &a.plan
		silenced := false
		for _, id := range p.Inhibitors {
			if !silenced && a.active && !p.LifeSafety && id != a.id && m.active(id) {
				silenced = true
				if !a.silenced {
					a.by = id
				}
			}
		}
		if silenced != a.silenced {
			a.silenced = silenced
			lines = append(lines, fmt.Sprintf("suppress %v %s by %s", silenced, name(a.id), name(a.by)))
			if !silenced {
				a.climbing = 0
			}
		}
		lives := a.active || p.LifeSafety
		if lives && !a.acked && !a.silenced {
			tier, least := a.tier, a.least
			for _, s := range p.Escalate {
				if a.climbing >= int(s.After.Seconds()) {
					tier, least = max(tier, s.To), max(least, s.Severity)
				}
			}
			if tier > a.tier || least > a.severity() {
				a.tier, a.least = tier, least
				lines = append(lines, fmt.Sprintf("escalate %s %s %s", name(a.id), a.tier, a.severity()))
			}
		}
		for i := range a.demands {
			d, o := &a.demands[i], &p.Outputs[i]
			over := o.Until == response.UntilCleared && !a.active || o.Until == response.UntilAcknowledged && a.acked
			if a.silenced || a.severity() < o.Severity {
				*d = modelDemand{wait: -1, left: -1}
				continue
			}
			if lives && !d.reached {
				d.reached, d.wait = true, int(o.After.Seconds())
			}
			if !lives {
				d.wait = -1
			}
			if over {
				d.wait, d.left = -1, -1
				continue
			}
			if d.wait == 0 {
				m.begun++
				*d = modelDemand{reached: true, wait: -1, left: forever, number: m.begun}
				if o.For > 0 {
					d.left = int(o.For.Seconds())
				}
			}
			if d.left == 0 {
				d.left = -1
			}
			if d.left > 0 && !d.void && !slices.ContainsFunc(o.Unless, m.active) {
				wants[o.Point] = append(wants[o.Point], want{a, d, o})
			}
		}
	}
	for p, list := range wants {
		best := slices.MinFunc(list, func(x, y want) int {
			if x.a.severity() != y.a.severity() {
				return int(y.a.severity()) - int(x.a.severity())
			}
			return x.d.number - y.d.number
		})
		if v, ok := m.theirs[p]; !ok || v != best.o.Value {
			lines = append(lines, fmt.Sprintf("%d=%v", p, best.o.Value))
		}
		m.theirs[p], m.rests[p] = best.o.Value, best.o.Rest
	}
	for p := range m.theirs {
		if wants[p] == nil {
			if m.theirs[p] != m.rests[p] {
				lines = append(lines, fmt.Sprintf("%d=%v", p, m.rests[p]))
			}
			delete(m.theirs, p)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// asModel writes a machine's decisions as the model does.
func asModel(d *response.Decisions) string {
	var lines []string
	for _, s := range d.Suppressions {
		lines = append(lines, fmt.Sprintf("suppress %v %s by %s", s.On, name(s.Identity), name(s.By)))
	}
	for _, e := range d.Escalations {
		lines = append(lines, fmt.Sprintf("escalate %s %s %s", name(e.Identity), e.To, e.Severity))
	}
	for _, c := range d.Commands {
		lines = append(lines, fmt.Sprintf("%d=%v", c.Point, c.Value))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
