package expr

import (
	"unsafe"

	"linli/internal/telemetry"
)

// Spans is how many parts a window is kept in.
const Spans = 288

// ringSize is the most spans or extreme values that a window holds: those within it, the one leaving and the one
// begun, rounded up.
const ringSize = Spans + 8

// grown returns the next size of a ring that is full.
func grown(size int) int {
	if size < ringSize {
		return min(max(4, 2*size), ringSize)
	}
	return size + 8
}

// rows is a ring of spans of time, the oldest first: of each its start, and as many sums as the window's function
// needs. A span ends where the next one starts.
type rows struct {
	starts  []telemetry.Mono
	sums    []float64 // width for each of starts
	head, n int
	width   uint8
}

// slot returns where span number i is kept.
func (r *rows) slot(i int) int {
	if i += r.head; i >= len(r.starts) {
		i -= len(r.starts)
	}
	return i
}

func (r *rows) start(i int) telemetry.Mono { return r.starts[r.slot(i)] }

// row returns the sums of span number i.
func (r *rows) row(i int) []float64 { return r.at(r.slot(i)) }

func (r *rows) at(slot int) []float64 { return r.sums[slot*int(r.width) : (slot+1)*int(r.width)] }

// push adds a span that starts at t, its sums zero, and reports whether the slots of the others have moved.
func (r *rows) push(t telemetry.Mono) (moved bool) {
	if r.n == len(r.starts) {
		r.resize(grown(r.n))
		moved = true
	}
	r.n++
	s := r.slot(r.n - 1)
	r.starts[s] = t
	clear(r.at(s))
	return moved
}

// resize gives the ring room for size spans, the first one in slot 0.
func (r *rows) resize(size int) {
	starts, sums := make([]telemetry.Mono, size), make([]float64, size*int(r.width))
	for i := range r.n {
		starts[i] = r.start(i)
		copy(sums[i*int(r.width):], r.row(i))
	}
	r.starts, r.sums, r.head = starts, sums, 0
}

// pop forgets the oldest span.
func (r *rows) pop() {
	r.head = r.slot(1)
	r.n--
}

const monoSize = int(unsafe.Sizeof(telemetry.Mono(0)))

func (r *rows) bytes() int { return len(r.starts)*monoSize + len(r.sums)*8 }

func (r *rows) maxBytes() int { return ringSize * (monoSize + 8*int(r.width)) }

// extreme is the largest (or smallest) value of a window: a queue of those values that may yet become the largest,
// each with the moment until which it stood. Values that end within one step of each other share an entry.
type extreme struct {
	ring    []reach
	head, n int
}

type reach struct {
	until telemetry.Mono
	own   telemetry.Mono // until without what was folded into it
	value float64
}

func (e *extreme) at(i int) *reach { return &e.ring[(e.head+i)%len(e.ring)] }
func (e *extreme) front() float64  { return e.at(0).value }

func (e *extreme) push(v float64, now, step telemetry.Mono, smallest bool) {
	for e.n > 0 {
		if b := e.at(e.n - 1).value; smallest && b >= v || !smallest && b <= v {
			e.n--
			continue
		}
		break
	}
	// An entry that ended less than a step after the one before it is folded into that one: it then stands at
	// most a step too long.
	if e.n > 1 && e.at(e.n-1).until-e.at(e.n-2).own < step {
		e.at(e.n - 2).until = e.at(e.n - 1).until
		e.n--
	}
	if e.n == len(e.ring) {
		bigger := make([]reach, grown(len(e.ring)))
		for i := range e.n {
			bigger[i] = *e.at(i)
		}
		e.ring, e.head = bigger, 0
	}
	e.n++
	*e.at(e.n - 1) = reach{now, now, v}
}

// hold says that the newest value stood until now.
func (e *extreme) hold(now telemetry.Mono) {
	if e.n > 0 {
		e.at(e.n-1).until, e.at(e.n-1).own = now, now
	}
}

func (e *extreme) expire(cut telemetry.Mono) {
	for e.n > 0 && e.at(0).until <= cut {
		e.head = (e.head + 1) % len(e.ring)
		e.n--
	}
}

func (e *extreme) bytes() int { return cap(e.ring) * int(unsafe.Sizeof(reach{})) }

// sorted is the slots of rows in ascending order of one of their sums.
type sorted struct {
	slots []uint16
	col   int
}

// find returns the first place whose value is not below v.
func (s *sorted) find(r *rows, v float64) int {
	lo, hi := 0, len(s.slots)
	for lo < hi {
		m := (lo + hi) / 2
		if r.at(int(s.slots[m]))[s.col] < v {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo
}

func (s *sorted) insert(r *rows, slot int) {
	if s.slots == nil {
		s.slots = make([]uint16, 0, ringSize)
	}
	i := s.find(r, r.at(slot)[s.col])
	s.slots = append(s.slots, 0)
	copy(s.slots[i+1:], s.slots[i:])
	s.slots[i] = uint16(slot)
}

func (s *sorted) remove(slot int) {
	for i, have := range s.slots {
		if int(have) == slot {
			s.slots = append(s.slots[:i], s.slots[i+1:]...)
			return
		}
	}
}
