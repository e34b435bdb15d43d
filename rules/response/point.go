package response

import "linli/internal/telemetry"

// point is an output with the demands that drive it.
type point struct {
	id     telemetry.PointID
	wants  []*demand
	values []wanted // how many of wants want which value
	moved  bool

	driven      bool // by us: it is to go to rest when nobody wants it any more
	value, rest telemetry.Value
	last        telemetry.Identity // the alert that was the last to stop wanting it,
	why         Why                // and why
	manual      uint64             // the number of the last order by hand: demands before it are void
}

type wanted struct {
	value telemetry.Value
	n     int
}

// take adds a demand.
func (p *point) take(d *demand) {
	p.wants = append(p.wants, d)
	d.place = len(p.wants)
	for i := range p.values {
		if p.values[i].value == d.out.Value {
			p.values[i].n++
			return
		}
	}
	p.values = append(p.values, wanted{d.out.Value, 1})
}

// drop takes a demand out.
func (p *point) drop(d *demand) {
	last := len(p.wants) - 1
	p.wants[d.place-1] = p.wants[last]
	p.wants[d.place-1].place = d.place
	p.wants[last] = nil
	p.wants, d.place = p.wants[:last], 0
	for i := range p.values {
		if p.values[i].value != d.out.Value {
			continue
		}
		if p.values[i].n--; p.values[i].n == 0 {
			p.values[i] = p.values[len(p.values)-1]
			p.values = p.values[:len(p.values)-1]
		}
		return
	}
}

// settle says what the point is to be, if that has changed.
func (p *point) settle(now telemetry.Mono, out *Decisions) {
	if len(p.wants) == 0 {
		if p.driven && p.value != p.rest {
			out.Commands = append(out.Commands, Command{Point: p.id, Value: p.rest, For: p.last, Why: p.why, Time: now})
		}
		p.driven = false
		return
	}
	// That all want the same is the rule; then nobody needs to be found, however many there are.
	if p.driven && len(p.values) == 1 && p.values[0].value == p.value {
		return
	}
	d := p.winner()
	p.rest = d.out.Rest
	if p.driven && p.value == d.out.Value {
		return
	}
	p.driven, p.value = true, d.out.Value
	out.Commands = append(out.Commands, Command{Point: p.id, Value: p.value, For: d.alert.id, Why: d.why, Time: now, Severity: d.alert.severity()})
}

// winner is the demand of the most severe alert, the first of those.
func (p *point) winner() *demand {
	best := p.wants[0]
	for _, d := range p.wants[1:] {
		s, than := d.alert.severity(), best.alert.severity()
		if s > than || s == than && d.number < best.number {
			best = d
		}
	}
	return best
}
