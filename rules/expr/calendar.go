package expr

import "time"

func nextHour(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour()+1, 0, 0, 0, t.Location())
}

func nextDay(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day()+1, 0, 0, 0, 0, t.Location())
}

// between is true from the first time of day until just before the second, across midnight where the second is the
// earlier one.
func (b *binder) between(n *Node) func() Tri {
	p := b.Present()
	from, to := int(n.Args[0].Num), int(n.Args[1].Num)
	b.Calendar(func(t time.Time) time.Time { return earlier(NextTimeOfDay(t, from), NextTimeOfDay(t, to)) })
	return func() Tri {
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
func (b *binder) schedule(n *Node) func() Tri {
	p, s := b.Present(), b.Schedule(n.Args[0].Text)
	if s.Open == nil {
		v := TriOf(s.Fixed)
		return func() Tri { return v }
	}
	b.Calendar(s.Next)
	return func() Tri {
		if p.Local.IsZero() {
			return Unknown
		}
		return TriOf(s.Open(p.Local))
	}
}

// NextTimeOfDay returns the next local time after t at which it is minute minutes after midnight.
func NextTimeOfDay(t time.Time, minute int) time.Time {
	for day := 0; ; day++ {
		next := time.Date(t.Year(), t.Month(), t.Day()+day, 0, minute, 0, 0, t.Location())
		if next.After(t) || day > 2 {
			return next
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
