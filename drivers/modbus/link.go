package modbus

// A peer that hangs up is either a lost link or a gateway's way to say that one unit behind it is silent. How the two
// are told apart, and when a lost link is tried again, stands here.

import (
	"context"
	"time"

	"linli/internal/telemetry"
)

const (
	linkFirst = 250 * time.Millisecond
	linkMost  = 30 * time.Second
	// linkAgain bounds the backoff after a link that worked for a while, but not for long (linkLong).
	linkAgain = 500 * time.Millisecond
	linkLong  = 15 * time.Second
	// linkMostLife bounds it on a bus with life-safety points: a detector that can be reached again is read soon.
	linkMostLife = 5 * time.Second
)

// connect opens the port. A converter that dials in is not waited for.
func (b *Bus) connect(ctx context.Context) error {
	wait := connectTimeout
	if b.inbound != nil && !b.inbound.Waiting() {
		wait = time.Nanosecond
	}
	cctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return b.line.connect(cctx)
}

// mayConnect returns when the link is tried next: at once where a converter has dialled in.
func (b *Bus) mayConnect(now telemetry.Mono) telemetry.Mono {
	if b.inbound != nil && b.inbound.Waiting() {
		return now
	}
	return b.linkAt
}

// Wake tells that a converter has dialled in (see drivers.Waker).
func (b *Bus) Wake() <-chan struct{} {
	if b.inbound == nil {
		return nil
	}
	return b.inbound.Wake()
}

// linkWorks takes in that a request was not met by a hang-up. That the peer accepted a connection says less: a
// serial server that has one too many accepts, and closes it.
func (b *Bus) linkWorks() {
	b.suspect = nil
	b.mu.Lock()
	wasUp := b.health.Up
	b.health.Up, b.health.LastError = true, ""
	if !wasUp {
		// What was said about the units was about the link.
		for i := range b.health.Units {
			b.health.Units[i].LastError = ""
		}
	}
	b.mu.Unlock()
	if !wasUp {
		now := b.now()
		b.rouse(now)
		for _, u := range b.units {
			if u.demoted {
				continue
			}
			for _, bl := range u.blocks {
				bl.due = min(bl.due, now)
			}
		}
	}
}

// linkLost takes in that the port cannot be opened, or is closed by the peer whoever is asked: no unit can be reached.
func (b *Bus) linkLost(dst []telemetry.Sample, t telemetry.Mono, err error) []telemetry.Sample {
	if t.Sub(b.lostAt) > linkLong && b.spokeAt > b.lostAt {
		b.linkWait = 0
	}
	b.lostAt = t
	b.backOff(t)
	b.busyAdd(t, t)
	b.mu.Lock()
	b.health.Up, b.health.LastError = false, err.Error()
	for i := range b.health.Units {
		b.health.Units[i].Online, b.health.Units[i].LastError = false, err.Error()
	}
	b.mu.Unlock()
	for _, u := range b.units {
		u.online = false
		dst = u.allBad(dst, t)
	}
	// The next attempt asks another unit: it may be for this one that the peer hangs up.
	for range b.units {
		b.linkTry = (b.linkTry + 1) % len(b.units)
		if b.urged = b.units[b.linkTry].someBlock(0); b.urged != nil {
			break
		}
	}
	return dst
}

// hungUp takes in that the peer hung up on block bl, and reports whether that is the unit's failure (or else nobody's
// so far, or the link's).
//
// Where answers had come over the connection, the peer may simply have closed it after the last one (converters do):
// the same request goes out at once on a fresh connection. When the peer hangs up on that too, it is either for this
// unit, which some gateways do when it is silent, or for all: another unit, best one that answers, is asked at once.
// If the peer hangs up on that as well the link is lost. A unit that is alone is its own witness.
func (b *Bus) hungUp(dst []telemetry.Sample, u *unit, bl *block, t telemetry.Mono, err error) ([]telemetry.Sample, bool) {
	switch {
	case b.suspect != nil:
		return b.linkLost(dst, t, err), false
	case b.line.used:
		b.urged = bl
		return dst, false
	}
	b.suspect = u
	var witness *unit
	for _, w := range b.units {
		if w != u && !w.demoted && len(w.blocks) > 0 && (witness == nil || w.online && !witness.online) {
			witness = w
		}
	}
	if witness == nil {
		b.urged = bl
		return dst, false
	}
	b.urged = witness.someBlock(0)
	return dst, true
}

// backOff sets when to connect next: soon at first, then doubling to at most 30 s (5 s beside life-safety points), jittered so that a street of
// gateways does not come back in step.
func (b *Bus) backOff(t telemetry.Mono) {
	most := linkMost
	if b.life {
		most = linkMostLife
	}
	b.linkWait = min(max(2*b.linkWait, linkFirst), most)
	b.linkAt = t.Add(b.linkWait/2 + time.Duration(b.rand.Int64N(int64(b.linkWait/2)+1)))
}
