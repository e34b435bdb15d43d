package expr

import (
	"math"
	"time"

	"linli/internal/telemetry"
)

// Window follows one value over the last stretch of time, sample-and-hold and weighted by time: a value counts for
// as long as it stood, not for how often it was sampled.
//
// It keeps at most about Spans spans of time, each the sum over what happened within it; a value that stood alone
// in its span is exact. What changed faster than 1/Spans of the window shares a span, and such a span leaves the
// window evenly rather than as it happened: that is the whole error, at most 1/Spans of the window at its old end.
//
// A window is decided where it was known for at least Coverage of its length, over what was known. Below that,
// duration_true, changes, max and min still give the bound that is certain, and the others are unknown.
type Window struct {
	length telemetry.Mono
	step   telemetry.Mono // shortest span
	fn     string
	num    func() Num
	tri    func() Tri

	// Identity, by which a second place that asks for the same, and an explanation, find the window again.
	node   *Node
	device int
	id     string // of the device; empty for the subject itself

	ring    []span
	head, n int
	total   span // of all closed time in the ring
	pops    int  // since total was last summed afresh: differences of floats drift

	at     telemetry.Mono // everything before at is in the ring
	cur    Num            // value since at
	last   Num            // last known value, for changes
	began  bool
	seen   bool // last is set
	mixed  bool // the newest span holds more than one value
	lo, hi extreme
}

// Spans is how many parts a window is kept in, and Coverage how much of it must be known.
const (
	Spans    = 288
	Coverage = 0.75
)

// ringSize is the most spans or extreme values that a window holds: those within it, the one leaving and the one
// begun, rounded up.
const ringSize = Spans + 8

// WindowBytes is about the most memory that one window takes.
const WindowBytes = ringSize*(72+2*24) + 512

// span is a stretch of time and what happened in it. Times in nanoseconds, sums in value times nanoseconds.
type span struct {
	start      telemetry.Mono
	known      float64 // time during which the value had a bound
	noLo, noHi float64 // part of it without a lower, an upper bound (beyond the sensor's scale)
	lo, hi     float64 // sums of the bounds that there are
	changes    float64
	first      Num // value at start
}

func (s *span) addTime(v Num, d float64) {
	if v.Nothing() {
		return
	}
	s.known += d
	if math.IsInf(v.Lo, -1) {
		s.noLo += d
	} else {
		s.lo += v.Lo * d
	}
	if math.IsInf(v.Hi, 1) {
		s.noHi += d
	} else {
		s.hi += v.Hi * d
	}
}

func (s *span) plus(o *span, f float64) {
	s.known += f * o.known
	s.noLo += f * o.noLo
	s.noHi += f * o.noHi
	s.lo += f * o.lo
	s.hi += f * o.hi
	s.changes += f * o.changes
}

func newWindow(n *Node, device int, id string) *Window {
	w := &Window{length: telemetry.Mono(n.Window), fn: n.Text, node: n, device: device, id: id}
	w.step = max(w.length/Spans, 1)
	w.cur = AnyNum()
	return w
}

// grown returns the next size of a ring that is full.
func grown(size int) int {
	if size < ringSize {
		return min(max(4, 2*size), ringSize)
	}
	return size + 8
}

func (w *Window) span(i int) *span { return &w.ring[(w.head+i)%len(w.ring)] }

// open starts a new span at t, growing the ring until it has the size that this window needs.
func (w *Window) open(t telemetry.Mono, v Num) {
	if w.n == len(w.ring) {
		bigger := make([]span, grown(len(w.ring)))
		for i := range w.n {
			bigger[i] = *w.span(i)
		}
		w.ring, w.head = bigger, 0
	}
	w.n++
	*w.span(w.n - 1) = span{start: t, first: v}
	w.mixed = false
}

// Update takes the value that holds from now on. It is called at each evaluation, before the value is used.
func (w *Window) Update(now telemetry.Mono) {
	v := w.input()
	w.advance(now)
	w.set(now, v)
}

// set takes the value v from now on; everything before is booked.
func (w *Window) set(now telemetry.Mono, v Num) {
	switch {
	case !w.began:
		w.began = true
		w.open(now, v)
	case v == w.cur:
		return
	case now-w.span(w.n-1).start >= w.step:
		w.open(now, v)
	default:
		w.mixed = true
	}
	if !v.Nothing() {
		if w.seen && v != w.last {
			w.span(w.n-1).changes++
			w.total.changes++
		}
		w.last, w.seen = v, true
		if smallest := w.fn == "min_over_time"; smallest || w.fn == "max_over_time" {
			w.lo.push(v.Lo, now, w.step, smallest)
			w.hi.push(v.Hi, now, w.step, smallest)
		}
	}
	w.cur = v
}

func (w *Window) input() Num {
	if w.tri == nil {
		return w.num()
	}
	switch w.tri() {
	case True:
		return Num{1, 1}
	case False:
		return Num{0, 0}
	}
	return AnyNum()
}

// advance books the time up to now on the value that held, and forgets what has left the window.
func (w *Window) advance(now telemetry.Mono) {
	if !w.began || now <= w.at {
		w.at = max(w.at, now)
		return
	}
	newest := w.span(w.n - 1)
	d := float64(now - w.at)
	newest.addTime(w.cur, d)
	w.total.addTime(w.cur, d)
	w.at = now
	if !w.cur.Nothing() {
		w.lo.hold(now)
		w.hi.hold(now)
	}
	if w.mixed && now-newest.start >= w.step {
		w.open(now, w.cur)
	}
	cut := now - w.length
	for w.n > 1 && w.span(1).start <= cut {
		w.total.plus(w.span(0), -1)
		w.head = (w.head + 1) % len(w.ring)
		w.n--
		w.pops++
	}
	if w.pops >= Spans {
		w.pops = 0
		w.total = span{}
		for i := range w.n {
			w.total.plus(w.span(i), 1)
		}
	}
	w.lo.expire(cut)
	w.hi.expire(cut)
}

// sums returns what happened within the window that ends now.
func (w *Window) sums() span {
	s := w.total
	if w.n == 0 {
		return s
	}
	cut := w.at - w.length
	oldest := w.span(0)
	if oldest.start > cut {
		return s
	}
	s.changes -= oldest.changes // they happened at its start, or within a step of it
	end := w.at
	if w.n > 1 {
		end = w.span(1).start
	}
	if end > oldest.start {
		changes := s.changes
		s.plus(oldest, -float64(cut-oldest.start)/float64(end-oldest.start))
		s.changes = changes
	}
	return s
}

// Value returns the function's value for the window that ends at the last Update.
func (w *Window) Value() Num {
	s := w.sums()
	length := float64(w.length)
	covered := s.known >= Coverage*length
	switch w.fn {
	case "duration_true":
		lo := max(s.lo, 0) / float64(time.Second)
		if covered {
			return Exact(lo)
		}
		return Num{lo, lo + max(length-s.known, 0)/float64(time.Second)}
	case "avg_over_time":
		if !covered {
			return AnyNum()
		}
		v := Num{s.lo / s.known, s.hi / s.known}
		// A residue of rounding is not time without a bound.
		if s.noLo > float64(time.Millisecond) {
			v.Lo = math.Inf(-1)
		}
		if s.noHi > float64(time.Millisecond) {
			v.Hi = math.Inf(1)
		}
		if v.Lo > v.Hi {
			v.Hi = v.Lo
		}
		return v
	case "max_over_time", "min_over_time":
		return w.extreme(covered)
	case "changes":
		n := math.Round(s.changes)
		if covered {
			return Exact(n)
		}
		return AtLeast(n)
	case "delta":
		if w.n == 0 || w.span(0).start > w.at-w.length {
			return AnyNum()
		}
		return w.cur.sub(w.span(0).first)
	}
	return AnyNum()
}

func (w *Window) extreme(covered bool) Num {
	if w.lo.n == 0 {
		return AnyNum()
	}
	v := sane(w.lo.front(), w.hi.front())
	if covered {
		return v
	}
	if w.fn == "min_over_time" {
		return AtMost(v.Hi)
	}
	return AtLeast(v.Lo)
}

// Next returns when the value is to be looked at again although no input changed: each second for windows up to ten
// minutes, each 1/600 of longer ones, and never while nothing in the window can change.
func (w *Window) Next(now telemetry.Mono) telemetry.Mono {
	if w.n == 0 || w.n == 1 && !w.mixed && (w.cur.Nothing() || w.span(0).start <= now-w.length) {
		return telemetry.Never
	}
	// On a fixed grid of whole seconds, so that samples in between do not move the timer.
	step := max(w.length/600/telemetry.Mono(time.Second), 1) * telemetry.Mono(time.Second)
	return (now/step + 1) * step
}

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
