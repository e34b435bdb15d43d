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
	return int(unsafe.Sizeof(*w)) + w.rows.bytes() + w.lo.bytes() + w.hi.bytes() + 2*(cap(w.byLo.slots)+cap(w.byHi.slots))
}

// MaxBytes is about the most memory that the window can come to take, with what its operands are bound to.
func (w *Window) MaxBytes() int {
	n := int(unsafe.Sizeof(*w)) + w.rows.maxBytes() + 256
	switch w.fn {
	case maximum, minimum:
		n += 2 * ringSize * int(unsafe.Sizeof(reach{}))
	case quantile:
		n += 2 * ringSize * 2
	}
	return n
}

// Cost is about what keeping the window up takes at one evaluation.
func (w *Window) Cost() int {
	if w.fn == quantile {
		return Spans / 4
	}
	return 8
}

// AppendState appends the window's contents.
//
//	version 1
//	flags   began, seen, mixed
//	times   at, up to which everything is in the spans; lastAt
//	values  cur, since at; last: two floats each
//	spans   count, then of each its start and its columns, as many as the function has
//	lo, hi  of extremes: count, then of each until, own, value
func (w *Window) AppendState(b []byte) []byte {
	b = appendFlags(append(b, windowVersion), w.began, w.seen, w.mixed)
	b = appendNum(appendNum(appendMono(appendMono(b, w.at), w.lastAt), w.cur), w.last)
	b = binary.AppendUvarint(b, uint64(w.rows.n))
	for i := range w.rows.n {
		b = appendMono(b, w.rows.start(i))
		for _, f := range w.rows.row(i) {
			b = appendFloat(b, f)
		}
	}
	if w.fn != maximum && w.fn != minimum {
		return b
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
	next := *w
	next.rows, next.lo, next.hi, next.byLo.slots, next.byHi.slots = rows{width: w.rows.width}, extreme{}, extreme{}, nil, nil
	r.flags(&next.began, &next.seen, &next.mixed)
	next.at, next.lastAt, next.cur, next.last = r.mono(), r.mono(), r.num(), r.num()
	r.check(next.at <= at && next.lastAt <= at, "it is of after it was written")
	n := r.count(ringSize, 1+8*next.rows.width)
	r.check(n > 0 == next.began, "it has begun without anything in it")
	if r.err == nil && n > 0 {
		next.rows.resize(n)
	}
	for i := 0; i < n && r.err == nil; i++ {
		t := r.mono()
		r.check(t <= next.at && (i == 0 || next.rows.starts[i-1] < t), "its spans are out of order")
		next.rows.push(t)
		next.readRow(r, next.rows.row(i))
	}
	for i := 0; i < n && r.err == nil && w.fn != delta; i++ {
		end := next.at
		if i+1 < n {
			end = next.rows.starts[i+1]
		}
		r.check(next.rows.row(i)[colKnown] <= float64(end-next.rows.starts[i])*(1+1e-9)+1, "more of it was known than there is")
	}
	if w.fn == maximum || w.fn == minimum {
		next.lo.read(r, next.at)
		next.hi.read(r, next.at)
		r.check(next.lo.n > 0 == (next.hi.n > 0), "its extremes do not belong together")
	}
	if r.err != nil {
		return b, r.err
	}
	next.noLo, next.noHi, next.wide = 0, 0, 0
	next.resum()
	switch {
	case w.fn == quantile:
		next.sort()
	case w.fn.sums():
		for i := range n {
			for col, v := range next.rows.row(i) {
				if math.IsInf(v, -1) && col == colLo {
					next.noLo++
				} else if math.IsInf(v, 0) {
					next.noHi++
				}
			}
		}
	}
	next.sum = next.cur
	if w.fn == leq {
		next.sum = Num{energy(next.cur.Lo), energy(next.cur.Hi)}
	}
	if next.began {
		next.advance(at)
		next.set(at, AnyNum())
	}
	if w.event != nil {
		next.events = w.event.Events
	}
	*w = next
	return r.b, nil
}

// readRow reads the columns of a row.
func (w *Window) readRow(r *stateReader, row []float64) {
	for col := range row {
		f := r.float()
		finite := !math.IsInf(f, 0)
		switch {
		case w.fn == delta:
			r.check(f != math.Inf(1) || col == colHi, "a value has no range")
			r.check(f != math.Inf(-1) || col != colHi, "a value has no range")
		case col == colKnown || w.fn.counts():
			r.check(finite && f >= 0, "a sum is out of range")
		case col == colLo:
			r.check(finite || f < 0 && len(row) > colHi, "a sum is out of range")
		default:
			r.check(finite || f > 0, "a sum is out of range")
		}
		row[col] = f
	}
	r.check(len(row) <= colHi || w.fn.sums() || w.fn.counts() || row[colLo] <= row[colHi], "a value has no range")
}

func (e *extreme) read(r *stateReader, at telemetry.Mono) {
	n := r.count(ringSize, 10)
	if r.err != nil {
		return
	}
	e.n, e.ring = n, make([]reach, n)
	for i := 0; i < n && r.err == nil; i++ {
		e.ring[i] = reach{until: r.mono(), own: r.mono(), value: r.float()}
		r.check(e.ring[i].until <= at && e.ring[i].own <= at, "an extreme is of after it was written")
	}
}
