package ruletest

import (
	"sort"

	"linli/internal/telemetry"
	"linli/rules/response"
)

// book is what the alert book would know, as far as the rules ask it again: at a start, and when people act.
type book struct {
	open map[telemetry.Identity]*record
}

// record is one open alert.
type record struct {
	active, acknowledged, unknown, suppressed bool
	severity, least                           telemetry.Severity // least: escalation asked for it
	tier                                      response.Tier
	since, gone                               telemetry.Mono // raised or released; the condition ended
}

// say takes what the engine said, as internal/alert does.
func (b *book) say(t *telemetry.Transition) {
	e := b.open[t.Identity]
	if e == nil {
		holds := t.Condition == telemetry.ConditionTrue && (t.Op == telemetry.Known || t.Op == telemetry.Changed)
		if t.Op != telemetry.Raise && !holds {
			return
		}
		if b.open == nil {
			b.open = map[telemetry.Identity]*record{}
		}
		e = &record{}
		b.open[t.Identity] = e
	}
	switch t.Op {
	case telemetry.Clear:
		if e.acknowledged {
			delete(b.open, t.Identity)
		}
		e.active, e.unknown, e.suppressed, e.gone = false, false, false, t.Time
		return
	case telemetry.Unknown:
		e.unknown = true
		return
	}
	if !e.active {
		e.since, e.acknowledged = t.Time, false
	}
	if s := max(t.Severity, e.least); s > e.severity {
		e.acknowledged = false
	}
	e.active, e.unknown, e.severity = true, e.unknown && t.Op == telemetry.Changed, max(t.Severity, e.least)
}

// acknowledge and close return why they are not possible.
func (b *book) acknowledge(id telemetry.Identity) (problem string) {
	e := b.open[id]
	if e == nil {
		return "is not open: there is nothing to acknowledge"
	}
	if e.acknowledged = true; !e.active {
		delete(b.open, id)
	}
	return ""
}

func (b *book) close(id telemetry.Identity) (problem string) {
	e := b.open[id]
	switch {
	case e == nil:
		return "is not open: there is nothing to close"
	case e.active && !e.unknown:
		return "cannot be closed by hand: its condition holds"
	}
	delete(b.open, id)
	return ""
}

func (b *book) remove(id telemetry.Identity) { delete(b.open, id) }

func (b *book) suppress(s response.Suppression) {
	if e := b.open[s.Identity]; e != nil {
		if e.suppressed = s.On; !s.On {
			e.since = s.Time
		}
	}
}

func (b *book) escalate(s response.Escalation) {
	if e := b.open[s.Identity]; e != nil {
		if s.Severity > e.severity {
			e.least = s.Severity
		}
		e.tier, e.severity = s.To, s.Severity
	}
}

// ids returns the open alerts in order.
func (b *book) ids() []telemetry.Identity {
	ids := make([]telemetry.Identity, 0, len(b.open))
	for id := range b.open {
		ids = append(ids, id)
	}
	sort.Slice(ids, func(i, j int) bool {
		if ids[i].Alert != ids[j].Alert {
			return ids[i].Alert < ids[j].Alert
		}
		return ids[i].Subject < ids[j].Subject
	})
	return ids
}

// active returns what the engine takes over at a start.
func (b *book) active() (list []telemetry.ActiveAlert) {
	for _, id := range b.ids() {
		if e := b.open[id]; e.active {
			list = append(list, telemetry.ActiveAlert{Identity: id, Severity: e.severity, Unknown: e.unknown})
		}
	}
	return list
}

// restore returns what the machine takes over at a start.
func (b *book) restore(now telemetry.Mono) (list []response.Open) {
	for _, id := range b.ids() {
		e := b.open[id]
		o := response.Open{Identity: id, Severity: e.severity, Active: e.active, Acknowledged: e.acknowledged, Suppressed: e.suppressed,
			Tier: e.tier, Age: now.Sub(e.since)}
		if !e.active {
			o.Gone = now.Sub(e.gone)
		}
		list = append(list, o)
	}
	return list
}
