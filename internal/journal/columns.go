package journal

import (
	"encoding/binary"
	"errors"
	"math"
	"math/bits"

	"linli/internal/telemetry"
)

// Sections of a payload.
const (
	sectionAppended   = 1 // a dictionary without its place, as the first builds wrote it; read only
	sectionSamples    = 2
	sectionLoss       = 3
	sectionDictionary = 5
	sectionSteps      = 6
)

// The streams of a samples section, in their order.
const (
	colEntry = iota
	colTime
	colGroup
	colQuality
	colKind
	colBool
	colInt
	colForm
	colDecimal
	colF32
	colF64
	colText
	columns
)

// Forms of a float: how it is written without losing a bit.
const (
	formF64       = 0x00
	formF32       = 0x10
	formDecimal   = 0x20 // | exponent
	formDecimal32 = 0x30 // | exponent; the decimal rounded to float32, as meters send it
	maxExponent   = 6
)

var errCorrupt = errors.New("corrupt frame")

// entry is one entry of a segment's dictionary.
type entry struct {
	series *telemetry.Series // never nil, of kind 0 where nobody knows it; not to be changed; entries of one series may share it
	base   int64
	form   byte

	based   bool  // the encoder's: base and form come from a value
	renewed uint8 // the encoder's: how often the series has got a new entry in this segment
}

// tens are the powers of ten that a form can name, and what no form has.
var tens = [16]float64{1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e6, 1e6, 1e6, 1e6, 1e6, 1e6, 1e6, 1e6, 1e6}

// pow10 returns ten to the power of e, exactly.
func pow10(e byte) float64 { return tens[e&15] }

// decimal returns m so that form stands for exactly v, and false when it cannot.
func decimal(v float64, form byte) (int64, bool) {
	x := v * pow10(form&0x0f)
	var m int64
	switch {
	case math.Abs(x) < 1<<51: // Rounded without a call; where that errs, v is none.
		m = int64(x + math.Copysign(0.5, x))
	case math.Abs(x) < 1<<53:
		m = int64(math.Round(x))
		if m >= 1<<53 || m <= -1<<53 {
			return 0, false
		}
	default:
		return 0, false
	}
	return m, math.Float64bits(undecimal(m, form)) == math.Float64bits(v)
}

func undecimal(m int64, form byte) float64 {
	v := float64(m) / pow10(form&0x0f)
	if form&0xf0 == formDecimal32 {
		v = float64(float32(v))
	}
	return v
}

// floatForm returns the shortest form for v, the form like where that fits, and the number to write.
func floatForm(v float64, like byte) (form byte, m int64) {
	if like >= formDecimal {
		if m, ok := decimal(v, like); ok {
			return like, m
		}
	}
	narrow := math.Float64bits(float64(float32(v))) == math.Float64bits(v)
	if like == formF32 && narrow {
		return formF32, int64(math.Float32bits(float32(v)))
	}
	for e := byte(0); e <= maxExponent; e++ {
		if m, ok := decimal(v, formDecimal|e); ok {
			return formDecimal | e, m
		}
	}
	if !narrow {
		return formF64, int64(math.Float64bits(v))
	}
	for e := byte(1); e <= maxExponent; e++ {
		// With more digits a decimal would fit many a float32 by chance, and be no shorter than the bits.
		if m, ok := decimal(v, formDecimal32|e); ok && m > -200_000 && m < 200_000 {
			return formDecimal32 | e, m
		}
	}
	return formF32, int64(math.Float32bits(float32(v)))
}

// encoder writes payloads. It owns the dictionary of the segment being written.
type encoder struct {
	entries []entry
	inv     *telemetry.Inventory
	byPoint []int32 // entry + 1, of inv's points
	// names are the series of inv's points, where they were met: the next segment has the same ones, and so has who reads them.
	names []*telemetry.Series
	// known are the entries by their series, while there are some that byPoint does not know; else nil.
	known  map[telemetry.Series]int32
	told   int      // entries before this one are in a frame that has been written
	repeat bool     // the next frame holds all of them
	seen   []uint64 // a bit for each entry: the frame has a sample of it

	col   [columns][]byte
	f32   []uint32
	f64   []uint64
	times []uint64
	steps []byte
	raw   []byte
}

// reset starts a new segment's dictionary. The old one's memory now belongs to readers.
func (e *encoder) reset() {
	e.entries, e.told = nil, 0
	e.known = nil
	clear(e.byPoint)
}

// from is the first entry that the next frame writes down: the first new one, or all of them where they are repeated.
func (e *encoder) from() int {
	if e.repeat {
		return 0
	}
	return e.told
}

// forget takes back the entries that were added after told, with the frame that held them.
func (e *encoder) forget() {
	// The memory beyond told may be shared with no reader yet: readers see published entries only.
	e.entries = e.entries[:e.told:e.told]
	clear(e.byPoint)
	e.know()
}

// know fills known, for byPoint is empty.
func (e *encoder) know() {
	e.known = nil
	if len(e.entries) == 0 {
		return
	}
	e.known = make(map[telemetry.Series]int32, len(e.entries))
	for i := range e.entries {
		e.known[*e.entries[i].series] = int32(i)
	}
}

func (e *encoder) setInventory(inv *telemetry.Inventory) {
	if inv == e.inv && len(e.byPoint) >= len(inv.Points) {
		return
	}
	e.inv = inv
	e.byPoint, e.names = make([]int32, len(inv.Points)), make([]*telemetry.Series, len(inv.Points))
	e.know()
}

// entry returns the index of the dictionary entry for s, adding one where there is none or the one there is does not
// fit the value well, and of a float its form and the number to write.
func (e *encoder) entry(s *telemetry.Sample) (k int32, form byte, m int64) {
	k = e.byPoint[s.Point] - 1
	if k < 0 {
		k = e.meet(s.Point)
	}
	x := &e.entries[k]
	kind := s.Value.Kind()
	if kind == telemetry.Float {
		form, m = floatForm(s.Value.Float(), x.form)
	}
	if kind != x.series.Kind || x.renewed > 3 {
		return k, form, m
	}
	n := entry{series: x.series, renewed: x.renewed + 1, based: true}
	switch kind {
	case telemetry.Float:
		if x.based && (form == x.form || form < formDecimal && (form != formF32 || x.form < formDecimal32)) {
			return k, form, m
		}
		n.form, n.base = form, m
	case telemetry.Int, telemetry.Enum:
		if x.based {
			return k, form, m
		}
		n.base = s.Value.Int()
	default:
		return k, form, m
	}
	if int(k) >= e.told && !x.based {
		*x = n // It was added by this very frame, and nothing used its base.
		x.renewed--
		return k, form, m
	}
	k = e.add(n)
	e.byPoint[s.Point] = k + 1
	return k, form, m
}

// meet returns the entry of a point that byPoint does not know.
func (e *encoder) meet(p telemetry.PointID) int32 {
	series := e.names[p]
	if series == nil {
		s := e.inv.Series(p)
		series = &s
		e.names[p] = series
	}
	k, ok := e.known[*series]
	if !ok {
		k = e.add(entry{series: series})
	}
	e.byPoint[p] = k + 1
	return k
}

func (e *encoder) add(x entry) int32 {
	e.entries = append(e.entries, x)
	k := int32(len(e.entries) - 1)
	if e.known != nil {
		e.known[*x.series] = k
	}
	return k
}

// frame encodes as many of items as fit into limit bytes, at least one, and returns the payload and how many they are.
// It sets count of h, and t0 and t1 where there are samples. The payload is valid until the next call.
func (e *encoder) frame(inv *telemetry.Inventory, items []telemetry.Sample, limit int, h *frameHeader) (raw []byte, n int) {
	e.setInventory(inv)
	// First the extent, since times are written relative to the earliest.
	size, count := 0, 0
	for n < len(items) && n < maxFrameSamples {
		s := &items[n]
		size += 32 + len(s.Value.Text())
		if s.Point < pointMark && e.byPoint[s.Point] == 0 {
			size += 192
		}
		if n > 0 && size > limit {
			break
		}
		if s.Point < pointMark {
			if count == 0 {
				h.t0, h.t1 = int64(s.Time), int64(s.Time)
			}
			h.t0, h.t1 = min(h.t0, int64(s.Time)), max(h.t1, int64(s.Time))
			count++
		}
		n++
	}
	h.count = uint32(count)
	e.raw, e.seen = e.raw[:0], e.seen[:0]
	if count > 0 {
		e.columns(items[:n], telemetry.Mono(h.t0))
	}
	if from := e.from(); len(e.entries) > from {
		body := appendEntries(binary.AppendUvarint(nil, uint64(from)), e.entries[from:])
		e.raw = appendString(append(e.raw, sectionDictionary), body)
	}
	if count > 0 {
		e.appendSamples(count)
	}
	e.appendSteps(items[:n], h)
	return e.raw, n
}

// columns fills e.col with the samples among items. t0 is the time of the earliest.
func (e *encoder) columns(items []telemetry.Sample, t0 telemetry.Mono) {
	for i := range e.col {
		e.col[i] = e.col[i][:0]
	}
	e.f32, e.f64, e.times = e.f32[:0], e.f64[:0], e.times[:0]
	quality, kind, form := runs{col: &e.col[colQuality]}, runs{col: &e.col[colKind]}, runs{col: &e.col[colForm]}
	var prev int32 = -1
	last, group := t0, uint64(0)
	var octet, nbits byte
	for i := range items {
		s := &items[i]
		if s.Point >= pointMark {
			continue
		}
		k, f, m := e.entry(s)
		x := &e.entries[k]
		for len(e.seen) <= int(k)/64 {
			e.seen = append(e.seen, 0)
		}
		e.seen[k/64] |= 1 << (k % 64)
		e.put(colEntry, int64(k)-int64(prev)-1)
		prev = k
		if group == 0 || s.Time != last {
			if group > 0 {
				e.col[colGroup] = binary.AppendUvarint(e.col[colGroup], group)
			}
			e.times = append(e.times, zigzag(int64(s.Time-last)))
			last, group = s.Time, 0
		}
		group++
		quality.add(byte(s.Quality))
		vk := s.Value.Kind()
		kind.add(byte(vk) ^ byte(expectedKind(x, s.Quality)))
		same := vk == x.series.Kind
		switch vk {
		case telemetry.Bool:
			octet |= byte(s.Value.Int()&1) << nbits
			if nbits++; nbits == 8 {
				e.col[colBool] = append(e.col[colBool], octet)
				octet, nbits = 0, 0
			}
		case telemetry.Int, telemetry.Enum:
			v := s.Value.Int()
			if same {
				v -= x.base
			}
			e.put(colInt, v)
		case telemetry.Float:
			form.add(f ^ x.form)
			var base int64
			if same && f == x.form {
				base = x.base
			}
			switch f {
			case formF32:
				e.f32 = append(e.f32, zigzag32(int32(m-base)))
			case formF64:
				e.f64 = append(e.f64, zigzag(m-base))
			default:
				e.put(colDecimal, m-base)
			}
		case telemetry.KindText:
			e.col[colText] = appendString(e.col[colText], s.Value.Text())
		}
	}
	e.col[colGroup] = binary.AppendUvarint(e.col[colGroup], group)
	quality.flush()
	kind.flush()
	form.flush()
	if nbits > 0 {
		e.col[colBool] = append(e.col[colBool], octet)
	}
	var widest uint64
	for _, t := range e.times {
		widest |= t
	}
	width := (bits.Len64(widest) + 7) / 8
	e.col[colTime] = appendPlanes(append(e.col[colTime], byte(width)), e.times, width)
	e.col[colF32] = appendPlanes(e.col[colF32], e.f32, 4)
	e.col[colF64] = appendPlanes(e.col[colF64], e.f64, 8)
}

// appendSamples appends the section of what columns has prepared, which are count samples, to e.raw.
func (e *encoder) appendSamples(count int) {
	body := 0
	for i := range e.col {
		body += uvarintLen(uint64(len(e.col[i]))) + len(e.col[i])
	}
	e.raw = append(e.raw, sectionSamples)
	e.raw = binary.AppendUvarint(e.raw, uint64(body+uvarintLen(uint64(count))))
	e.raw = binary.AppendUvarint(e.raw, uint64(count))
	for i := range e.col {
		e.raw = appendString(e.raw, e.col[i])
	}
}

func (e *encoder) put(col int, v int64) {
	if v >= -64 && v < 64 { // as nearly always
		e.col[col] = append(e.col[col], byte(zigzag(v)))
		return
	}
	e.col[col] = binary.AppendVarint(e.col[col], v)
}

// expectedKind is the kind a value of entry x has when nothing is unusual.
func expectedKind(x *entry, q telemetry.Quality) telemetry.Kind {
	if q.Bad() {
		return 0
	}
	return x.series.Kind
}

// runs writes a run-length column.
type runs struct {
	col *[]byte
	v   byte
	n   uint64
}

func (r *runs) add(v byte) {
	if v != r.v && r.n > 0 {
		r.flush()
	}
	r.v = v
	r.n++
}

func (r *runs) flush() {
	if r.n > 0 {
		*r.col = binary.AppendUvarint(append(*r.col, r.v), r.n)
	}
	r.n = 0
}

func appendPlanes[T uint32 | uint64](b []byte, v []T, width int) []byte {
	for p := range width {
		for _, x := range v {
			b = append(b, byte(x>>(8*p)))
		}
	}
	return b
}

func appendString[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendEntries(b []byte, entries []entry) []byte {
	b = binary.AppendUvarint(b, uint64(len(entries)))
	for i := range entries {
		x := &entries[i]
		for _, s := range [...]string{x.series.Class, x.series.Device, x.series.Zone, x.series.Point} {
			b = appendString(b, s)
		}
		b = append(b, byte(x.series.Kind), x.form)
		b = binary.AppendVarint(b, x.base)
	}
	return b
}

func appendLoss(b []byte, l *Loss) []byte {
	var c []byte
	c = binary.AppendUvarint(c, l.Count)
	c = binary.AppendUvarint(c, l.FirstSeq)
	c = binary.AppendUvarint(c, l.LastSeq)
	c = appendString(c, l.Reason)
	return appendString(append(b, sectionLoss), c)
}

func zigzag(v int64) uint64     { return uint64(v)<<1 ^ uint64(v>>63) }
func zigzag32(v int32) uint32   { return uint32(v)<<1 ^ uint32(v>>31) }
func unzigzag(u uint64) int64   { return int64(u>>1) ^ -int64(u&1) }
func unzigzag32(u uint32) int32 { return int32(u>>1) ^ -int32(u&1) }

func uvarintLen(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}
