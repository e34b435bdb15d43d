package journal

import (
	"encoding/binary"
	"math"
	"time"

	"linli/internal/telemetry"
)

// The streams of a block, in their order.
const (
	rollNames = iota
	rollGood
	rollDoubt
	rollBad
	rollCount
	rollMin
	rollRange
	rollLast
	rollMean
	rollChanges
	rollCarry
	rollStreams
)

// rollForm returns the shortest form that all values of the cells have.
func rollForm(kind telemetry.Kind, cells []cell) byte {
	if kind != telemetry.Float {
		return formF64
	}
	fits := func(form byte) bool {
		for i := range cells {
			c := &cells[i]
			if !c.some {
				continue
			}
			for _, num := range [...]int64{c.min, c.max, c.last} {
				if _, ok := toForm(num, form); !ok {
					return false
				}
			}
		}
		return true
	}
	for e := byte(0); e <= maxExponent; e++ {
		if fits(formDecimal | e) {
			return formDecimal | e
		}
	}
	for e := byte(1); e <= maxExponent; e++ {
		if fits(formDecimal32 | e) {
			return formDecimal32 | e
		}
	}
	if fits(formF32) {
		return formF32
	}
	return formF64
}

// toForm returns the number to be written for a float; numbers of one form compare as the floats do.
func toForm(num int64, form byte) (int64, bool) {
	v := math.Float64frombits(uint64(order(num)))
	switch {
	case form == formF64:
		return num, true
	case form == formF32:
		f := float32(v)
		return int64(order32(int32(math.Float32bits(f)))), math.Float64bits(float64(f)) == math.Float64bits(v)
	}
	m, ok := decimal(v, form)
	if form&0xf0 == formDecimal32 && (m <= -200_000 || m >= 200_000) {
		return m, false
	}
	return m, ok
}

// fromForm is the inverse of toForm.
func fromForm(m int64, form byte) int64 {
	switch {
	case form == formF64:
		return m
	case form == formF32:
		return order(int64(math.Float64bits(float64(math.Float32frombits(uint32(order32(int32(m))))))))
	}
	return order(int64(math.Float64bits(undecimal(m, form))))
}

// longRuns writes a run-length column of numbers.
type longRuns struct {
	b    []byte
	v, n uint64
}

func (r *longRuns) add(v uint64) {
	if v != r.v {
		r.flush()
	}
	r.v = v
	r.n++
}

func (r *longRuns) flush() {
	if r.n > 0 {
		r.b = binary.AppendUvarint(binary.AppendUvarint(r.b, r.v), r.n)
	}
	r.n = 0
}

// blockScratch is memory for appendBlock.
type blockScratch struct {
	s     [rollStreams][]byte
	means []uint32
}

// appendBlock appends the points, unpacked, to b.
func appendBlock(b []byte, level rollLevel, points []rollPoint, mem *blockScratch) []byte {
	s := &mem.s
	for i := range s {
		s[i] = s[i][:0]
	}
	good, doubt, bad := longRuns{b: s[rollGood]}, longRuns{b: s[rollDoubt]}, longRuns{b: s[rollBad]}
	means := mem.means[:0]
	for i := range points {
		p := &points[i]
		kind := p.series.Kind
		form := rollForm(kind, p.cells)
		for _, name := range [...]string{p.series.Class, p.series.Device, p.series.Zone, p.series.Point} {
			s[rollNames] = appendString(s[rollNames], name[:min(len(name), maxRollName)])
		}
		s[rollNames] = append(s[rollNames], byte(kind), form)
		s[rollCarry] = append(s[rollCarry], p.carry)
		put := func(num int64) int64 {
			if kind == telemetry.Float {
				num, _ = toForm(num, form)
			}
			return num
		}
		var before int64
		for k := range p.cells {
			c := &p.cells[k]
			g, d, x := c.rounded(level.width())
			good.add(g)
			doubt.add(d)
			bad.add(x)
			n := uint64(c.count) << 1
			if c.some {
				n |= 1
			}
			s[rollCount] = binary.AppendUvarint(s[rollCount], n)
			if !c.some {
				continue
			}
			lo, hi := put(c.min), put(c.max)
			s[rollMin] = binary.AppendVarint(s[rollMin], lo-before)
			before = lo
			s[rollRange] = binary.AppendUvarint(s[rollRange], uint64(hi)-uint64(lo))
			if hi != lo {
				s[rollLast] = binary.AppendUvarint(s[rollLast], uint64(put(c.last))-uint64(lo))
				if kind != telemetry.Enum {
					a, z := figure(kind, c.min), figure(kind, c.max)
					means = append(means, uint32(math.Round(65535*fraction(c.mean(kind), a, z))))
				}
			}
			if kind == telemetry.Bool || kind == telemetry.Enum {
				s[rollChanges] = binary.AppendUvarint(s[rollChanges], uint64(c.changes))
			}
		}
	}
	good.flush()
	doubt.flush()
	bad.flush()
	s[rollGood], s[rollDoubt], s[rollBad] = good.b, doubt.b, bad.b
	s[rollMean] = appendPlanes(s[rollMean], means, 2)
	mem.means = means
	b = binary.AppendUvarint(b, uint64(len(points)))
	for i := range s {
		b = appendString(b, s[i])
	}
	return b
}

// fraction returns where between lo and hi m lies, 0 to 1; halves, because hi - lo may be more than a float can say.
func fraction(m, lo, hi float64) float64 {
	return min(max((m/2-lo/2)/(hi/2-lo/2), 0), 1)
}

// longRunReader reads a run-length column of numbers.
type longRunReader struct {
	c    cursor
	v, n uint64
}

func (r *longRunReader) next() uint64 {
	if r.n == 0 {
		if r.v, r.n = r.c.uvarint(), r.c.uvarint(); r.n == 0 {
			r.c.bad = true
			return 0
		}
	}
	r.n--
	return r.v
}

// decodeBlock calls yield for each point of the unpacked block b, whose cells are valid during the call. match says which
// points are wanted.
func decodeBlock(b []byte, level rollLevel, match func(*telemetry.Series) bool, yield func(*rollPoint) error) error {
	c := cursor{b: b}
	n := c.count()
	var s [rollStreams]cursor
	for i := range s {
		s[i].b = c.bytes()
	}
	rows := level.rows()
	if c.bad || len(s[rollCarry].b) != n || len(s[rollCount].b) < n*rows || len(s[rollMean].b)%2 != 0 {
		return errCorrupt
	}
	good, doubt, bad := longRunReader{c: s[rollGood]}, longRunReader{c: s[rollDoubt]}, longRunReader{c: s[rollBad]}
	means, nmeans, imean := s[rollMean].b, len(s[rollMean].b)/2, 0
	p := rollPoint{cells: make([]cell, rows)}
	most := uint64(level.width() / time.Millisecond)
	for range n {
		names := &s[rollNames]
		p.series = telemetry.Series{Class: names.string(), Device: names.string(), Zone: names.string(), Point: names.string()}
		p.series.Kind = telemetry.Kind(names.byte())
		form := names.byte()
		p.carry = s[rollCarry].byte()
		kind := p.series.Kind
		if names.bad || kind == 0 || kind >= telemetry.KindText || !validForm(form) || kind != telemetry.Float && form != formF64 {
			return errCorrupt
		}
		get := func(m int64) int64 {
			if kind == telemetry.Float {
				return fromForm(m, form)
			}
			return m
		}
		var before int64
		for k := range p.cells {
			g, d, x := good.next(), doubt.next(), bad.next()
			v := s[rollCount].uvarint()
			if g > most || d > most || x > most || g+d+x > most || v>>1 > math.MaxUint32 {
				return errCorrupt
			}
			q := cell{good: uint32(g * 1000), doubt: uint32(d * 1000), bad: uint32(x * 1000), count: uint32(v >> 1), some: v&1 != 0}
			if q.some {
				lo := before + s[rollMin].varint()
				before = lo
				span := s[rollRange].uvarint()
				q.min, q.max = get(lo), get(int64(uint64(lo)+span))
				q.last = q.min
				mean := figure(kind, q.min)
				if span != 0 {
					off := s[rollLast].uvarint()
					if q.last = get(int64(uint64(lo) + off)); off > span {
						return errCorrupt
					}
					if kind != telemetry.Enum {
						if imean >= nmeans {
							return errCorrupt
						}
						f := float64(uint(means[imean])|uint(means[nmeans+imean])<<8) / 65535
						imean++
						mean = figure(kind, q.min)*(1-f) + figure(kind, q.max)*f
					}
				}
				q.sum = mean * float64(g+d) / 1e3
				if kind == telemetry.Bool || kind == telemetry.Enum {
					q.changes = uint32(min(s[rollChanges].uvarint(), math.MaxUint32))
				}
			}
			p.cells[k] = q
		}
		for i := range s {
			if s[i].bad {
				return errCorrupt
			}
		}
		if good.c.bad || doubt.c.bad || bad.c.bad {
			return errCorrupt
		}
		if match == nil || match(&p.series) {
			if err := yield(&p); err != nil {
				return err
			}
		}
	}
	return nil
}
