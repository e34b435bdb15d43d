package rules

import (
	"time"

	"linli/internal/telemetry"
	"linli/rules/expr"
)

// Undecided returns since when that alert of the subject is undecidable that has been so for longest.
func (b *instanceBinder) Undecided() func() telemetry.Mono {
	e, subject := b.e, b.e.subject(b.in())
	asked := e.askable(subject)
	if b.notes != nil {
		for _, i := range asked {
			e.instances[i].asked = true
		}
		e.askers[subject] = append(e.askers[subject], b.index)
		b.cost += len(asked)
	}
	return func() telemetry.Mono {
		since := telemetry.Never
		for _, i := range asked {
			since = min(since, e.instances[i].stuck.began())
		}
		return since
	}
}

// maxSettling is how long a rule that protects life may be undecidable after a start before that counts, whatever it
// waits for.
const maxSettling = 2 * time.Hour

// settlesForAskers is settles for those that ask.
func (e *Engine) settlesForAskers(i uint32, in *instance) telemetry.Mono {
	s := e.settles(i, in)
	if in.prog.LifeSafety {
		s = min(s, e.began.Add(maxSettling))
	}
	return s
}

// askable returns the alerts of a subject that undecided() asks.
func (e *Engine) askable(subject string) []uint32 {
	if e.alertsOf == nil {
		e.alertsOf = map[string][]uint32{}
		for i := range e.instances {
			if in := &e.instances[i]; in.prog.Alert != "" && !in.prog.asks {
				s := e.subject(in)
				e.alertsOf[s] = append(e.alertsOf[s], uint32(i))
			}
		}
	}
	return e.alertsOf[subject]
}

// stick notes since when an alert has been undecidable, for those that ask, and returns when that may begin.
func (e *Engine) stick(i uint32, in *instance, c expr.Tri) telemetry.Mono {
	before, settles := in.stuck.on(), e.settlesForAskers(i, in) // asked from the start: it counts from when everything had been read
	switch {
	case c != expr.Unknown:
		in.stuck = hold{}
	case before:
	case e.at < settles:
		return settles
	default:
		in.stuck = newHold(e.at, 0, true)
	}
	if before != in.stuck.on() {
		e.wake(e.askers[e.subject(in)])
	}
	return telemetry.Never
}

// began returns since when a watch has been running without a stop, or would have been: what was taken over from
// before a restart counts as one stretch. Never where it is not on.
func (h *hold) began() telemetry.Mono {
	if !h.on() {
		return telemetry.Never
	}
	return h.since.Add(-h.sum())
}
