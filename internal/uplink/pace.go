package uplink

import "time"

const (
	// queueFor is how much longer than on an empty line a message may take because of ours before it. An alert waits
	// behind as much at most.
	queueFor = 75 * time.Millisecond
	// minPace and firstPace are bytes of telemetry in flight: at least, and at first.
	minPace   = 4 << 10
	firstPace = 16 << 10
	// relearnAfter is how long the least pace lasts before the line is taken for a longer one than it was.
	relearnAfter = 10 * time.Second
)

// pace bounds the bytes of telemetry on their way, so that what lies in the socket and on the line ahead of an alert is
// sent in queueFor: on a slow line few, on a fast one many. It goes by the time that acknowledgements take. What was in
// flight when a message was sent, and how long it took, say how fast the line is.
type pace struct {
	window   int // bytes that may be in flight
	most     int
	inFlight int
	base     time.Duration // the shortest time seen, 0 at first
	cutAt    time.Time     // what was sent before says nothing about the present window
	leastAt  time.Time     // since when the window is the least; zero: it is not
}

func newPace(most int) *pace { return &pace{window: min(firstPace, most), most: most} }

// room reports whether a message of n bytes may be sent where already bytes of its lane are in flight. The lanes do not
// wait for each other: live has half of the window, late three quarters.
func (p *pace) room(late bool, already, n int) bool {
	most := p.window / 2
	if late {
		most = min(p.window*3/4, lateBytes)
	}
	return already == 0 || already+n <= most
}

// limit is the largest message to be made, in bytes on the line: an alert should get between two of them.
func (p *pace) limit() int { return p.window / 4 }

// took notes that a message of any kind was acknowledged, and how long that took. ahead is what was in flight when it was
// sent, itself included: 0 for what is no telemetry.
func (p *pace) took(sent, now time.Time, ahead int) {
	d := max(now.Sub(sent), time.Microsecond)
	if p.base == 0 || d < p.base {
		p.base = d
	}
	if ahead == 0 {
		return
	}
	queued := max(d-p.base, time.Millisecond)
	fits := int(float64(ahead) * float64(queueFor) / float64(queued))
	switch {
	case queued > queueFor:
		if sent.Before(p.cutAt) {
			return
		}
		p.window = max(min(fits, p.window), p.window*3/4, minPace)
		p.cutAt = now
	case fits > p.window: // as fast as that, or faster
		more := ahead // doubles with each round trip, until the line has been found to be full once
		if !p.cutAt.IsZero() {
			more /= 8
		}
		p.window = min(fits, p.window+more, p.most)
	}
	switch {
	case p.window > minPace:
		p.leastAt = time.Time{}
	case p.leastAt.IsZero():
		p.leastAt = now
	case now.Sub(p.leastAt) >= relearnAfter:
		p.base, p.leastAt = 0, time.Time{}
	}
}
