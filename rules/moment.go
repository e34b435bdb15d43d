package rules

import "linli/internal/telemetry"

// moment applies the samples of one moment and decides. Several events of one point at one moment are decided on one
// after the other, once everything else is applied.
func (e *Engine) moment(samples []telemetry.Sample, out *Output) {
	e.later = e.later[:0]
	e.turn++
	for i := range samples {
		if e.another(&samples[i]) {
			e.later = append(e.later, int32(i))
			continue
		}
		e.apply(&samples[i])
	}
	e.decide(out)
	for k := 0; k < len(e.later); {
		e.turn++
		for k < len(e.later) && !e.another(&samples[e.later[k]]) {
			e.apply(&samples[e.later[k]])
			k++
		}
		e.decide(out)
	}
}

// another reports whether a sample is an event of a point that has had one in the present turn.
func (e *Engine) another(s *telemetry.Sample) bool {
	if int64(s.Point) >= int64(len(e.turns)) || !e.inv.Points[s.Point].Def.Event {
		return false
	}
	if e.turns[s.Point] == e.turn {
		return true
	}
	e.turns[s.Point] = e.turn
	return false
}
