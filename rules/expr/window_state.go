package expr

import (
	"encoding/binary"
	"math"
	"time"
	"unsafe"

	"linli/internal/telemetry"
)

// windowVersion is the first byte of a window's state.
const windowVersion = 1

// Key says what the window follows, and of which device.
func (w *Window) Key() string { return stateKey(w.node, w.id) }

// Is reports whether w is what node n asks for of device.
func (w *Window) Is(n *Node, device int) bool {
	return w.device == device && (w.node == n || Same(w.node, n))
}

// Bytes is about how much memory the window takes at present.
func (w *Window) Bytes() int {
	return int(unsafe.Sizeof(*w)) + cap(w.ring)*int(unsafe.Sizeof(span{})) +
		(cap(w.lo.ring)+cap(w.hi.ring))*int(unsafe.Sizeof(reach{}))
}

// MaxBytes is about the most memory that the window can come to take.
func (w *Window) MaxBytes() int { return WindowBytes }

// AppendState appends the window's contents.
//
//	version 1
//	flags   1: began, seen, mixed
//	at      moment up to which everything is in the spans
//	cur     the value since, two floats; last likewise
//	spans   count, then of each: start, known, noLo, noHi, lo, hi, changes, first (two floats)
//	lo, hi  count, then of each extreme: until, own, value
func (w *Window) AppendState(b []byte) []byte {
	b = appendFlags(append(b, windowVersion), w.began, w.seen, w.mixed)
	b = appendNum(appendNum(appendMono(b, w.at), w.cur), w.last)
	b = binary.AppendUvarint(b, uint64(w.n))
	for i := range w.n {
		s := w.span(i)
		b = appendMono(b, s.start)
		for _, f := range [...]float64{s.known, s.noLo, s.noHi, s.lo, s.hi, s.changes} {
			b = appendFloat(b, f)
		}
		b = appendNum(b, s.first)
	}
	for _, e := range [...]*extreme{&w.lo, &w.hi} {
		b = binary.AppendUvarint(b, uint64(e.n))
		for i := range e.n {
			r := e.at(i)
			b = appendFloat(appendMono(appendMono(b, r.until), r.own), r.value)
		}
	}
	return b
}

// SetState takes over a window's contents.
func (w *Window) SetState(b []byte, by time.Duration, at telemetry.Mono) ([]byte, error) {
	r := newStateReader(b, by, at)
	r.version(windowVersion)
	next := Window{length: w.length, step: w.step, fn: w.fn, num: w.num, tri: w.tri, node: w.node, device: w.device, id: w.id}
	r.flags(&next.began, &next.seen, &next.mixed)
	next.at, next.cur, next.last = r.mono(), r.num(), r.num()
	r.check(next.at <= at, "it is of after it was written")
	n := r.count(ringSize, 65)
	r.check(n > 0 == next.began, "it has begun without anything in it")
	if r.err == nil {
		next.ring = make([]span, n)
	}
	for i := 0; i < n && r.err == nil; i++ {
		s := &next.ring[i]
		s.start, s.known, s.noLo, s.noHi = r.mono(), r.share(), r.share(), r.share()
		s.lo, s.hi, s.changes, s.first = r.float(), r.float(), r.share(), r.num()
		r.check(!math.IsInf(s.lo, 0) && !math.IsInf(s.hi, 0), "a sum is out of range")
		r.check(s.start <= next.at && (i == 0 || next.ring[i-1].start < s.start), "its spans are out of order")
		next.total.plus(s, 1)
	}
	next.n = n
	for _, e := range [...]*extreme{&next.lo, &next.hi} {
		e.n = r.count(ringSize, 10)
		if r.err == nil {
			e.ring = make([]reach, e.n)
		}
		for i := 0; i < e.n && r.err == nil; i++ {
			e.ring[i] = reach{until: r.mono(), own: r.mono(), value: r.float()}
			r.check(e.ring[i].until <= next.at && e.ring[i].own <= next.at, "an extreme is of after it was written")
		}
	}
	r.check(next.lo.n > 0 == (next.hi.n > 0), "its extremes do not belong together")
	if r.err != nil {
		return b, r.err
	}
	if next.began {
		next.advance(at)
		next.set(at, AnyNum())
	}
	*w = next
	return r.b, nil
}
