package uplink

import (
	"time"

	"linli/internal/telemetry"
)

const (
	// settleLag is how much later than its time a sample leaves its bus, at most.
	settleLag = 10 * time.Second
	// lookEvery and maxLooks bound how much settling remembers: more than 10 s, so that a slow commit still finds the look
	// before it.
	lookEvery = 200 * time.Millisecond
	maxLooks  = 64
)

// settling finds out up to which moment everything that was measured is in frames up to which number. That is what the
// city needs to call an hour complete.
//
// A look says that what had left its bus and was not in the journal yet was no older than a moment, and what the wall
// clock made of that moment. A commit that began after the look holds all the rest, and later frames take their times
// from later readings of the clock. So only two things can escape a claim made of both: what comes more than settleLag
// after its own time, and what a clock that is set back afterwards dates before it. Such a frame is noticed before it is
// sent; its message says time=uncertain, and the next claim takes the place of this one.
//
// Frames that wait for the clock, and those that live has overtaken, take nothing from a claim: it says in which frames
// things are, not that these have arrived.
type settling struct {
	looks  []look
	claims []claim // ascending
	// What was said for the highest number: everything before `said` (nanoseconds since 1970) is in frames before saidNext.
	said     int64
	saidNext uint64
}

// look is what was found at the moment at: nothing older than low was on its way. wall is low in nanoseconds since 1970,
// less settleLag; 0 where nobody vouches for the clock.
type look struct {
	at, low telemetry.Mono
	wall    int64
}

// claim says that what the look saw is in frames before next.
type claim struct {
	look
	next uint64
}

// look notes what is on its way now.
func (s *settling) look(clock *telemetry.Clock, onTheWay func() telemetry.Mono) {
	now := clock.Now()
	if n := len(s.looks); n > 0 && now.Mono.Sub(s.looks[n-1].at) < lookEvery {
		return
	}
	if len(s.looks) == maxLooks {
		s.looks = append(s.looks[:0], s.looks[1:]...)
	}
	l := look{low: now.Mono}
	if onTheWay != nil {
		l.low = min(l.low, onTheWay())
	}
	if t, ok := now.WallAt(l.low.Add(-settleLag)); ok && !now.Uncertain && t.Unix() > 0 {
		l.wall = t.UnixNano()
	}
	// The moment comes last: what has left the way by now was appended before any commit that begins later.
	l.at = clock.Mono()
	s.looks = append(s.looks, l)
}

// committed notes that what was appended before the moment settled is in frames before next.
func (s *settling) committed(settled telemetry.Mono, next uint64) {
	n := 0
	for n < len(s.looks) && s.looks[n].at <= settled {
		n++
	}
	if n == 0 {
		return
	}
	c := claim{s.looks[n-1], next}
	s.looks = append(s.looks[:0], s.looks[n-1:]...)
	k := len(s.claims)
	switch {
	case k > 0 && s.claims[k-1].low > c.low: // something old was on its way: nothing new to say
	case k > 0 && s.claims[k-1].next == next:
		s.claims[k-1] = c
	case k == maxLooks:
		s.claims = append(append(s.claims[:0], s.claims[1:]...), c)
	default:
		s.claims = append(s.claims, c)
	}
}

// say returns the moment before which everything is in frames up to last, and remembers that it was said; 0 where nothing
// can be said.
func (s *settling) say(last uint64) int64 {
	for i := len(s.claims) - 1; i >= 0; i-- {
		c := &s.claims[i]
		if c.next > last+1 {
			continue
		}
		switch {
		case c.wall == 0:
		case last+1 > s.saidNext:
			s.said, s.saidNext = c.wall, last+1
		case last+1 == s.saidNext:
			s.said = max(s.said, c.wall)
		}
		return c.wall
	}
	return 0
}

// contradicts reports whether a frame of samples from t0 on holds what was said to be in earlier frames.
func (s *settling) contradicts(seq uint64, t0 int64) bool { return seq >= s.saidNext && t0 < s.said }

// lookAround brings settling up to date.
func (u *Uplink) lookAround() {
	if u.cfg.Clock == nil {
		return // nothing is ever said
	}
	settled := u.journal.Settled() // before next: it may only be older
	_, next := u.journal.Bounds()
	if settled != 0 {
		u.settling.committed(settled, next)
	}
	u.settling.look(u.cfg.Clock, u.cfg.OnTheWay)
}
