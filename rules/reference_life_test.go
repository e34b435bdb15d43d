package rules_test

import (
	"time"

	"linli/internal/telemetry"
)

// The life of an alert in the reference. Every time is counted anew from what the conditions were in every round.

// live moves one alert on.
func (r *reference) live(in *slowInstance) {
	c := r.truth(in.rule.cond, in, in.device)
	r.tally.decided(c != dunno)
	still := len(in.log) > 0 && in.log[len(in.log)-1].stuck
	l := logged{at: r.at, cond: c, stuck: c == dunno && (still || r.settled(in))}
	for _, w := range in.rule.worse {
		l.worse = append(l.worse, r.truth(w.cond, in, in.device))
	}
	in.log = append(in.log, l)
	if in.active {
		r.liveActive(in, c)
	} else if c == yes && r.held(in, yes) >= in.rule.wait {
		in.active, in.severity = true, 0
		in.severity = r.deserved(in)
		r.begin(in)
		r.say(telemetry.Raise, in, c)
	}
}

// begin says that from here on, times are counted anew.
func (r *reference) begin(in *slowInstance) { in.from, in.given = len(in.log)-1, len(in.log) }

func (r *reference) liveActive(in *slowInstance, c truth) {
	if c == no && r.held(in, no) >= in.rule.keep {
		in.active, in.unknown, in.restored = false, false, false
		r.begin(in)
		r.say(telemetry.Clear, in, c)
		return
	}
	if c == dunno && !in.unknown && !(in.restored && !r.settled(in)) {
		in.unknown, in.restored = true, false
		r.say(telemetry.Unknown, in, c)
	} else if c != dunno {
		was := in.unknown
		in.unknown, in.restored = false, false
		if was {
			r.say(telemetry.Known, in, c)
		}
	}

	s := r.deserved(in)
	leaving := c == no && in.rule.keep > 0
	in.log[len(in.log)-1].easing = s < in.severity && !leaving
	if s > in.severity || s < in.severity && !leaving && r.eased(in) >= in.rule.keep {
		in.severity = s
		in.given = len(in.log)
		r.say(telemetry.Changed, in, c)
	}
}

// span returns for how long the state of round i lasted.
func (r *reference) span(in *slowInstance, i int) time.Duration {
	if i+1 < len(in.log) {
		return in.log[i+1].at.Sub(in.log[i].at)
	}
	return r.at.Sub(in.log[i].at)
}

// held returns for how long the condition has been known to be what is wanted, since it was last known to be the
// opposite. Unknown time does not count; when more of it than the limit came in one piece, the count starts again.
func (r *reference) held(in *slowInstance, want truth) time.Duration {
	limit := in.rule.wait
	if want == no {
		limit = in.rule.keep
	}
	return r.count(in, in.from, want, limit, func(l *logged) truth { return l.cond })
}

func (r *reference) count(in *slowInstance, from int, want truth, limit time.Duration, of func(*logged) truth) time.Duration {
	var sum, gap time.Duration
	for i := from; i < len(in.log); i++ {
		switch of(&in.log[i]) {
		case want:
			if gap > limit {
				sum = 0
			}
			sum, gap = sum+r.span(in, i), 0
		case dunno:
			gap += r.span(in, i)
		default:
			sum, gap = 0, 0
		}
	}
	return sum
}

// deserved is the most severe of the severities whose conditions are true and have been for severity_for. What was
// given stays while its condition is true, and while it cannot be decided.
func (r *reference) deserved(in *slowInstance) telemetry.Severity {
	s := in.rule.severity
	for k, w := range in.rule.worse {
		of := func(l *logged) truth { return l.worse[k] }
		c := of(&in.log[len(in.log)-1])
		given := w.severity <= in.severity && c != no
		earned := c == yes && r.count(in, 0, yes, in.rule.worseFor, of) >= in.rule.worseFor
		if given || earned {
			s = max(s, w.severity)
		}
	}
	return s
}

// eased returns for how long a lesser severity would have done.
func (r *reference) eased(in *slowInstance) time.Duration {
	sum := time.Duration(0)
	for i := len(in.log) - 1; i >= in.given && in.log[i].easing; i-- {
		switch {
		case !in.log[i].gap:
			sum += r.span(in, i)
		case r.span(in, i) > in.rule.keep:
			return sum
		}
	}
	return sum
}

// stuckFor returns for how long the alert has been undecidable, and false while it is not.
func (r *reference) stuckFor(in *slowInstance) (time.Duration, bool) {
	sum, is := time.Duration(0), false
	for i := len(in.log) - 1; i >= 0 && in.log[i].stuck; i-- {
		sum, is = sum+r.span(in, i), true
	}
	return sum, is
}
