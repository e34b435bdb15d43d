package expr

import "time"

// nextHour returns the next local time after t at which another hour begins.
func nextHour(t time.Time) time.Time {
	return NextTimeOfDay(t, (t.Hour()+1)*60%(24*60))
}

func nextDay(t time.Time) time.Time { return NextTimeOfDay(t, 0) }

// between is true from the first time of day until just before the second, across midnight where the second is the
// earlier one.
func (b *binder) between(n *Node) func(*Frame) Tri {
	p := b.Present()
	from, to := int(n.Args[0].Num), int(n.Args[1].Num)
	b.Calendar(func(t time.Time) time.Time { return earlier(NextTimeOfDay(t, from), NextTimeOfDay(t, to)) })
	return func(*Frame) Tri {
		if p.Local.IsZero() {
			return Unknown
		}
		m := p.Local.Hour()*60 + p.Local.Minute()
		if from <= to {
			return TriOf(from <= m && m < to)
		}
		return TriOf(m >= from || m < to)
	}
}

// schedule is unknown while the clock is not set, unless it holds always or never.
func (b *binder) schedule(n *Node) func(*Frame) Tri {
	p, s := b.Present(), b.Schedule(n.Args[0].Text)
	b.g.note(s.Zone)
	if s.Open == nil {
		v := TriOf(s.Fixed)
		return func(*Frame) Tri { return v }
	}
	b.Calendar(s.Next)
	return func(*Frame) Tri {
		if p.Local.IsZero() {
			return Unknown
		}
		return TriOf(s.Open(p.Local))
	}
}

// NextTimeOfDay returns when it is minute minutes after midnight next after t, as far as the clocks are not put forward or
// back until then: whoever waits for it looks again when they are.
func NextTimeOfDay(t time.Time, minute int) time.Time {
	const day = 24 * time.Hour
	h, m, s := t.Clock()
	of := time.Duration(h)*time.Hour + time.Duration(m)*time.Minute + time.Duration(s)*time.Second + time.Duration(t.Nanosecond())
	wait := (time.Duration(minute)*time.Minute - of + day) % day
	if wait == 0 {
		wait = day
	}
	return t.Add(wait)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
