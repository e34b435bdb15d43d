package journal

import (
	"encoding/binary"
	"math"
	"slices"

	"linli/internal/telemetry"
)

// cursor reads a byte slice. After the first thing that is not there, bad is set and everything read is zero.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) uvarint() uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 {
		c.bad, c.b = true, nil
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *cursor) varint() int64 {
	v, n := binary.Varint(c.b)
	if n <= 0 {
		c.bad, c.b = true, nil
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *cursor) byte() byte {
	if len(c.b) == 0 {
		c.bad = true
		return 0
	}
	v := c.b[0]
	c.b = c.b[1:]
	return v
}

// bytes reads uvarint length | bytes, without copying.
func (c *cursor) bytes() []byte {
	n := c.uvarint()
	if n > uint64(len(c.b)) {
		c.bad, c.b = true, nil
		return nil
	}
	v := c.b[:n]
	c.b = c.b[n:]
	return v
}

// count reads a number of things that take at least one byte each, so that it cannot be absurd.
func (c *cursor) count() int {
	n := c.uvarint()
	if n > uint64(len(c.b)) {
		c.bad, c.b = true, nil
		return 0
	}
	return int(n)
}

func (c *cursor) string() string { return string(c.bytes()) }

// stringAs is string, which costs no memory where it is the same as other.
func (c *cursor) stringAs(other string) string {
	if b := c.bytes(); string(b) != other {
		return string(b)
	}
	return other
}

// minEntryBytes is what an entry of a dictionary takes at least: four lengths, kind, form and base.
const minEntryBytes = 7

// entries reads what appendEntries wrote, onto dst.
func (c *cursor) entries(dst []entry) []entry {
	n := c.count()
	dst = slices.Grow(dst, min(n, len(c.b)/minEntryBytes+1))
	last := new(telemetry.Series)
	for range n {
		s := &telemetry.Series{Class: c.stringAs(last.Class), Device: c.stringAs(last.Device), Zone: c.stringAs(last.Zone), Point: c.string()}
		s.Kind = telemetry.Kind(c.byte())
		x := entry{series: s}
		last = s
		x.form = c.byte()
		x.base = c.varint()
		if c.bad || x.series.Kind > telemetry.KindText || !validForm(x.form) {
			c.bad = true
			return dst
		}
		dst = append(dst, x)
	}
	return dst
}

// skipEntries passes over what entries reads.
func (c *cursor) skipEntries() {
	for range c.count() {
		for range 4 {
			c.bytes()
		}
		c.byte()
		c.byte()
		c.varint()
		if c.bad {
			return
		}
	}
}

// dictionary puts what a frame says of the dictionary into dst. Where entries before are missing, because the frame
// that held them is, their places stay empty (kind 0) until the dictionary is repeated.
func dictionary(raw []byte, dst []entry) ([]entry, bool) {
	if c, ok := section(raw, sectionAppended); ok {
		dst = c.entries(dst)
		return dst, !c.bad
	}
	c, ok := section(raw, sectionDictionary)
	from := c.uvarint()
	if !ok || c.bad || from > maxEntries {
		return dst, false
	}
	added := c.entries(nil)
	if c.bad {
		return dst, false
	}
	for uint64(len(dst)) < from {
		dst = append(dst, entry{series: new(telemetry.Series)})
	}
	// A copy: what readers have must not change.
	return append(dst[:from:from], append(added, dst[min(len(dst), int(from)+len(added)):]...)...), true
}

func validForm(f byte) bool {
	switch f & 0xf0 {
	case formF64, formF32:
		return f&0x0f == 0
	case formDecimal, formDecimal32:
		return f&0x0f <= maxExponent
	}
	return false
}

// section returns the contents of the first section with tag, and false when there is none.
func section(raw []byte, tag byte) (cursor, bool) {
	c := cursor{b: raw}
	for len(c.b) > 0 {
		t, body := c.byte(), c.bytes()
		if c.bad {
			break
		}
		if t == tag {
			return cursor{b: body}, true
		}
	}
	return cursor{}, false
}

// runReader reads a run-length column.
type runReader struct {
	c cursor
	v byte
	n uint64
}

func (r *runReader) next() byte {
	if r.n == 0 {
		return r.more()
	}
	r.n--
	return r.v
}

// more begins the next run and returns its first value.
func (r *runReader) more() byte {
	if r.v, r.n = r.c.byte(), r.c.uvarint(); r.n == 0 {
		r.c.bad = true
		return 0
	}
	r.n--
	return r.v
}

// decodeSamples appends the samples section of raw to dst. Names point into dict. only says which entries of it are wanted;
// nil: all.
func decodeSamples(raw []byte, h *frameHeader, dict []entry, only []bool, dst []Record) ([]Record, error) {
	c, ok := section(raw, sectionSamples)
	if !ok {
		if h.count != 0 {
			return dst, errCorrupt
		}
		return dst, nil
	}
	n := c.count()
	var col [columns]cursor
	for i := range col {
		col[i].b = c.bytes()
	}
	// Each sample takes a byte of the first column at least, so n is bounded by what was read from the disk.
	if c.bad || n != int(h.count) || n > len(col[colEntry].b) {
		return dst, errCorrupt
	}
	quality, kind, form := runReader{c: col[colQuality]}, runReader{c: col[colKind]}, runReader{c: col[colForm]}
	f32, f64 := col[colF32].b, col[colF64].b
	n32, n64 := len(f32)/4, len(f64)/8
	width := int(col[colTime].byte())
	times, ntimes, itime := col[colTime].b, 0, 0
	if width > 8 || width > 0 && len(times)%width != 0 || width == 0 && len(times) > 0 {
		return dst, errCorrupt
	} else if width > 0 {
		ntimes = len(times) / width
	}
	i32, i64 := 0, 0
	var nbool, group uint64
	t := h.t0
	k := int64(-1)
	entries := &col[colEntry]
	if only == nil {
		dst = slices.Grow(dst, n)
	}
	for range n {
		if k++; len(entries.b) > 0 && entries.b[0] == 0 { // The one after the last, as nearly always.
			entries.b = entries.b[1:]
		} else {
			k += entries.varint()
		}
		if k < 0 || k >= int64(len(dict)) || dict[k].series.Kind == 0 {
			return dst, errCorrupt // The frame that held the entry is lost.
		}
		x := &dict[k]
		if group == 0 {
			if width > 0 {
				if itime >= ntimes {
					return dst, errCorrupt
				}
				var u uint64
				for p := range width {
					u |= uint64(times[p*ntimes+itime]) << (8 * p)
				}
				itime++
				t += unzigzag(u)
			}
			if group = col[colGroup].uvarint(); group == 0 {
				return dst, errCorrupt
			}
		}
		group--
		q := telemetry.Quality(quality.next())
		vk := telemetry.Kind(kind.next()) ^ expectedKind(x, q)
		var v telemetry.Value
		switch vk {
		case 0:
		case telemetry.Bool:
			b := col[colBool].b
			if nbool/8 >= uint64(len(b)) {
				return dst, errCorrupt
			}
			v = telemetry.BoolValue(b[nbool/8]>>(nbool%8)&1 != 0)
			nbool++
		case telemetry.Int, telemetry.Enum:
			m := col[colInt].varint()
			if vk == x.series.Kind {
				m += x.base
			}
			v = telemetry.ValueFromBits(vk, uint64(m))
		case telemetry.Float:
			f := form.next() ^ x.form
			var base int64
			if f == x.form && vk == x.series.Kind {
				base = x.base
			}
			switch {
			case f != x.form && !validForm(f): // Those of the dictionary are.
				return dst, errCorrupt
			case f == formF32:
				if i32 >= n32 {
					return dst, errCorrupt
				}
				u := uint32(f32[i32]) | uint32(f32[n32+i32])<<8 | uint32(f32[2*n32+i32])<<16 | uint32(f32[3*n32+i32])<<24
				i32++
				u = uint32(unzigzag32(u)) + uint32(base)
				v = telemetry.ValueFromBits(vk, math.Float64bits(float64(math.Float32frombits(u))))
			case f == formF64:
				if i64 >= n64 {
					return dst, errCorrupt
				}
				var u uint64
				for p := range 8 {
					u |= uint64(f64[p*n64+i64]) << (8 * p)
				}
				i64++
				v = telemetry.ValueFromBits(vk, uint64(unzigzag(u)+base))
			default:
				v = telemetry.ValueFromBits(vk, math.Float64bits(undecimal(col[colDecimal].varint()+base, f)))
			}
		case telemetry.KindText:
			text := col[colText].bytes()
			if only == nil || only[k] {
				v = telemetry.TextValue(string(text))
			}
		default:
			return dst, errCorrupt
		}
		if only != nil && !only[k] {
			continue
		}
		dst = append(dst, Record{Series: x.series, Time: telemetry.Mono(t), Quality: q, entry: int32(k), Value: v})
	}
	bad := quality.c.bad || kind.c.bad || form.c.bad
	for i := range col {
		bad = bad || col[i].bad
	}
	if bad {
		return dst, errCorrupt
	}
	return dst, nil
}

// decodeLoss reads the loss section of a tombstone.
func decodeLoss(raw []byte) (*Loss, error) {
	c, ok := section(raw, sectionLoss)
	l := &Loss{Count: c.uvarint(), FirstSeq: c.uvarint(), LastSeq: c.uvarint(), Reason: c.string()}
	if !ok || c.bad || l.LastSeq < l.FirstSeq || l.LastSeq > maxSeq || (l.FirstSeq == 0) != (l.LastSeq == 0) {
		return nil, errCorrupt
	}
	return l, nil
}
