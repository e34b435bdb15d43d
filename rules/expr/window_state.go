package expr

import (
	"encoding/binary"
	"math"
	"slices"
	"time"
	"unsafe"

	"linli/internal/telemetry"
)

// windowVersion is the first byte of a window's state.
const windowVersion = 2

// Key says what the window follows, and of which device.
func (w *Window) Key() string { return stateKey(w.node, w.id) }

// Is reports whether w is what node n asks for of device.
func (w *Window) Is(n *Node, device int) bool {
	return int(w.device) == device && (w.node == n || Same(w.node, n))
}

// Length is the window's.
func (w *Window) Length() time.Duration { return time.Duration(w.length) }

// Bytes is about how much memory the window takes at present.
func (w *Window) Bytes() int {
	n := int(unsafe.Sizeof(*w)) + w.rows.bytes()
	if w.most != nil {
		n += int(unsafe.Sizeof(*w.most)) + w.most.lo.bytes() + w.most.hi.bytes()
	}
	if w.order != nil {
		n += int(unsafe.Sizeof(*w.order)) + 2*(cap(w.order.byLo.slots)+cap(w.order.byHi.slots))
	}
	return n
}

// MaxBytes is about the most memory that the window can come to take, with what its operands are bound to.
func (w *Window) MaxBytes() int {
	n := int(unsafe.Sizeof(*w)) + w.rows.maxBytes() + 256
	switch w.fn {
	case maximum, minimum:
		n += int(unsafe.Sizeof(extremes{})) + 2*ringSize*int(unsafe.Sizeof(reach{}))
	case quantile:
		n += int(unsafe.Sizeof(order{})) + 2*ringSize*2
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
//	version 2
//	flags   began, seen, mixed
//	times   at, up to which everything is in the spans; lastAt
//	values  cur, since at; last: two floats each
//	spans   count, the start of the first, then of each its length, how its columns are written (1 byte), and those
//	        that do not follow from that
//	lo, hi  of extremes: count, then of each until (from the one before), how long before that own is, and value;
//	        a flag says that hi is the same as lo
func (w *Window) AppendState(b []byte) []byte {
	b = appendFlags(append(b, windowVersion), w.began, w.seen, w.mixed)
	b = appendNum(appendNum(appendMono(appendMono(b, w.at), w.lastAt), w.cur), w.last)
	b = binary.AppendUvarint(b, uint64(w.rows.n))
	for i := range w.rows.n {
		start, end := w.rows.start(i), w.at
		if i == 0 {
			b = appendMono(b, start)
		}
		if i+1 < w.rows.n {
			end = w.rows.start(i + 1)
		}
		b = appendRow(appendMono(b, end-start), w.rows.row(i), float64(end-start))
	}
	if w.most == nil {
		return b
	}
	same := w.most.lo.same(&w.most.hi)
	if b = w.most.lo.append(appendFlags(b, same)); !same {
		b = w.most.hi.append(b)
	}
	return b
}

// How a column of a row is written, two bits each, the first column in the lowest: most are one of the first three.
const (
	columnZero  = iota // nothing
	columnWhole        // as much as the row is long: nothing
	columnSame         // as the one before: nothing
	columnFloat        // eight bytes
)

func appendRow(b []byte, row []float64, length float64) []byte {
	at := len(b)
	b = append(b, 0)
	for col, f := range row {
		how := columnFloat
		switch {
		case f == 0:
			how = columnZero
		case f == length:
			how = columnWhole
		case col > 0 && f == row[col-1]:
			how = columnSame
		default:
			b = appendFloat(b, f)
		}
		b[at] |= byte(how) << (2 * col)
	}
	return b
}

func (r *stateReader) row(row []float64, length float64) {
	hows := r.byte()
	for col := range row {
		switch hows >> (2 * col) & 3 {
		case columnWhole:
			row[col] = length
		case columnSame:
			r.check(col > 0, "a column has none before it")
			row[col] = row[max(col-1, 0)]
		case columnFloat:
			row[col] = r.float()
		}
	}
	r.check(int(hows)>>(2*len(row)) == 0, "there are more columns than there can be")
}

// SetState takes over a window's contents.
func (w *Window) SetState(b []byte, by time.Duration, at telemetry.Mono, f *Frame) ([]byte, error) {
	r := newStateReader(b, by, at)
	r.version(windowVersion)
	next := *w
	next.rows = rows{width: w.rows.width}
	if w.order != nil {
		next.order = newOrder()
	}
	r.flags(&next.began, &next.seen, &next.mixed)
	next.at, next.lastAt, next.cur, next.last = r.mono(), r.mono(), r.num(), r.num()
	r.check(next.at <= at && next.lastAt <= at, "it is of after it was written")
	n := r.count(ringSize, 2)
	r.check(n > 0 == next.began, "it has begun without anything in it")
	t := telemetry.Mono(0)
	if r.err == nil && n > 0 {
		next.rows.resize(n)
		t = r.mono()
	}
	for i := 0; i < n && r.err == nil; i++ {
		d := r.length()
		r.check(d > 0 || d == 0 && i == n-1, "its spans are out of order")
		next.rows.push(t)
		row := next.rows.row(i)
		r.row(row, float64(d))
		next.checkRow(r, row, float64(d))
		t += d
		r.check(t <= next.at, "its spans do not end where it does")
	}
	r.check(n == 0 || t == next.at, "its spans do not end where it does")
	if w.most != nil {
		same, most := false, &extremes{}
		r.flags(&same)
		if most.lo.read(r, next.at); !same {
			most.hi.read(r, next.at)
		} else {
			most.hi = extreme{ring: slices.Clone(most.lo.ring), n: most.lo.n}
		}
		r.check(most.lo.n > 0 == (most.hi.n > 0), "its extremes do not belong together")
		next.most = most
	}
	if r.err != nil {
		return b, r.err
	}
	next.noLo, next.noHi = 0, 0
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
	if w.event >= 0 {
		next.events = f.cell(w.event).Events
	}
	*w = next
	return r.b, nil
}

// Continue takes over another window's contents.
func (w *Window) Continue(from State) bool {
	o, ok := from.(*Window)
	if !ok || o.fn != w.fn || o.length != w.length || o.rows.width != w.rows.width {
		return false
	}
	next := *o
	next.target, next.device, next.id = w.target, w.device, w.id
	*w = next
	return true
}

// checkRow refuses columns that the function's windows cannot have.
func (w *Window) checkRow(r *stateReader, row []float64, length float64) {
	for col, f := range row {
		finite := !math.IsInf(f, 0)
		switch {
		case w.fn == delta:
			r.check(f != math.Inf(1) || col == colHi, "a value has no range")
			r.check(f != math.Inf(-1) || col != colHi, "a value has no range")
		case col == colKnown:
			// The length is exact; the sum of its parts is not quite, after months of one value.
			r.check(f >= 0 && f <= length*(1+1e-9)+1, "more of it was known than there is")
		case w.fn.counts():
			r.check(finite && f >= 0, "a sum is out of range")
		case col == colLo:
			r.check(finite || f < 0 && len(row) > colHi, "a sum is out of range")
		default:
			r.check(finite || f > 0, "a sum is out of range")
		}
	}
	r.check(len(row) <= colHi || w.fn.sums() || w.fn.counts() || row[colLo] <= row[colHi], "a value has no range")
}

// same reports whether two queues hold the same.
func (e *extreme) same(o *extreme) bool {
	if e.n != o.n {
		return false
	}
	for i := range e.n {
		if *e.at(i) != *o.at(i) {
			return false
		}
	}
	return true
}

func (e *extreme) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(e.n))
	for i := range e.n {
		r := e.at(i)
		if i == 0 {
			b = appendMono(b, r.until)
		} else {
			b = appendMono(b, r.until-e.at(i-1).until)
		}
		b = appendFloat(appendMono(b, r.until-r.own), r.value)
	}
	return b
}

func (e *extreme) read(r *stateReader, at telemetry.Mono) {
	n := r.count(ringSize, 10)
	if r.err != nil {
		return
	}
	e.n, e.ring = n, make([]reach, n)
	for i := 0; i < n && r.err == nil; i++ {
		x := &e.ring[i]
		if i == 0 {
			x.until = r.mono()
		} else {
			d := r.length()
			r.check(d >= 0, "its extremes are out of order")
			x.until = e.ring[i-1].until + d
		}
		d := r.length()
		x.own, x.value = x.until-d, r.float()
		r.check(d >= 0 && x.until <= at, "an extreme is of after it was written")
	}
}
