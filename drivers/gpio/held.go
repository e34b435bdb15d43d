package gpio

import (
	"time"

	"linli/internal/telemetry"
)

// state is what a contact says: a level, or what two contacts say together.
type state int8

// The states. Both equal is a fault of a supervised pair.
const (
	unknown state = iota - 1
	off
	on
	fault
)

func stateOf(level bool) state {
	if level {
		return on
	}
	return off
}

// pairOf is what a supervised pair says, nc and no being true while closed.
func pairOf(nc, no bool) state {
	switch {
	case nc == no:
		return fault
	case no:
		return on
	}
	return off
}

// held turns a state that may bounce into one that counts: one that has held long enough. It dates from the moment in
// which it began to hold. The zero value is not usable; see newHeld.
type held struct {
	debounce time.Duration // for off and on
	fault    time.Duration // for fault; contacts pass through it while they move
	raw, out state
	since    telemetry.Mono // when raw began
}

func newHeld(debounce, fault time.Duration) held {
	return held{debounce: debounce, fault: fault, raw: unknown, out: unknown}
}

// put says that the state is s from t on. Call settle for t before.
func (h *held) put(s state, t telemetry.Mono) {
	if s == h.raw {
		return
	}
	h.raw, h.since = s, max(t, h.since)
}

// need is how long the present state must hold. The first one counts at once, unless it is a fault.
func (h *held) need() time.Duration {
	switch {
	case h.raw == fault:
		return h.fault
	case h.out == unknown:
		return 0
	}
	return h.debounce
}

// settle takes the raw state over where it has held long enough at now, and says so with the moment since which it has.
func (h *held) settle(now telemetry.Mono) (s state, since telemetry.Mono, changed bool) {
	if h.raw == h.out || now.Sub(h.since) < h.need() {
		return h.out, 0, false
	}
	h.out = h.raw
	return h.out, h.since, true
}

// due is when settle is worth calling again.
func (h *held) due() telemetry.Mono {
	if h.raw == h.out {
		return telemetry.Never
	}
	return h.since.Add(h.need())
}

// pending says that something else than the state that counts is being seen.
func (h *held) pending() bool { return h.raw != h.out }

// bucket bounds how often something is told: a burst, then a steady rate.
type bucket struct {
	left float64
	at   telemetry.Mono
}

// changesBurst and changesPerSecond bound the changes of one line that are told. A contact that a person or a machine
// moves stays far below; a line that floats in a storm of edges would fill journal and uplink. What is told last is
// right in any case.
const (
	changesBurst     = 100
	changesPerSecond = 20
)

// take says whether one more may be told at now.
func (b *bucket) take(now telemetry.Mono) bool {
	b.fill(now)
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

func (b *bucket) fill(now telemetry.Mono) {
	if now > b.at {
		b.left = min(changesBurst, b.left+now.Sub(b.at).Seconds()*changesPerSecond)
	}
	b.at = max(b.at, now)
}

// due is when the next one may be told.
func (b *bucket) due() telemetry.Mono {
	if b.left >= 1 {
		return b.at
	}
	return b.at.Add(time.Duration((1-b.left)*float64(time.Second)/changesPerSecond) + time.Millisecond)
}
