package modbus

import (
	"encoding/binary"
	"fmt"
	"math"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// ratio is a factor kept so that decimal scales give the nearest float: 2257 at scale 0.1 is 2257/10 = 225.7, where
// 2257*0.1 would be 225.70000000000002.
type ratio struct {
	f       float64
	inverse bool // divide by f instead
}

// ratioOf returns the ratio of factor f; 0 counts as 1.
func ratioOf(f float64) ratio {
	if f == 0 {
		return ratio{f: 1}
	}
	if a := math.Abs(f); a < 1 {
		if r := math.Round(1 / f); math.Abs(1/f-r) < 1e-9*math.Abs(r) {
			return ratio{f: r, inverse: true}
		}
	}
	return ratio{f: f}
}

func (r ratio) mul(x float64) float64 {
	if r.inverse {
		return x / r.f
	}
	return x * r.f
}

func (r ratio) div(x float64) float64 {
	if r.inverse {
		return x * r.f
	}
	return x / r.f
}

// one reports whether the ratio changes nothing.
func (r ratio) one() bool { return r.f == 1 }

// codec turns one channel's words into numbers and back.
type codec struct {
	ch    *firmwareconfig.Channel
	scale ratio
	// exact: an integer that nothing scales; it keeps all of its 64 bits.
	exact bool
}

func newCodec(ch *firmwareconfig.Channel) codec {
	c := codec{ch: ch, scale: ratioOf(ch.Scale)}
	floating := ch.Encoding == firmwareconfig.EncF32 || ch.Encoding == firmwareconfig.EncF64
	c.exact = c.scale.one() && ch.Offset == 0 && !floating
	return c
}

// reading is a channel's value in the channel's unit.
type reading struct {
	f       float64
	i       int64 // with exact
	exact   bool
	quality telemetry.Quality // Good, OverRange, UnderRange or BadSensor
}

// rawBits joins the words of a value, most significant first. data holds at least the channel's registers.
func (c *codec) rawBits(data []byte) uint64 {
	n := c.ch.Encoding.Registers()
	var raw uint64
	for i := range n {
		w := i
		if c.ch.LittleWords {
			w = n - 1 - i
		}
		raw = raw<<16 | uint64(binary.BigEndian.Uint16(data[2*w:]))
	}
	return raw
}

// decodeRaw decodes joined raw words.
func (c *codec) decodeRaw(raw uint64) reading {
	ch := c.ch
	for _, inv := range ch.Invalid {
		if raw == inv {
			return reading{quality: telemetry.BadSensor}
		}
	}
	r := reading{quality: telemetry.Good, exact: c.exact}
	size := 16 * ch.Encoding.Registers()
	if ch.Encoding == firmwareconfig.EncBool {
		if !ch.Table.Bits() {
			raw >>= uint(ch.Bit)
		}
		if raw&1 != 0 != ch.Invert {
			r.i, r.f = 1, 1
		}
		r.exact = true
		return r
	}
	if ch.Width > 0 {
		raw = raw >> uint(ch.Bit) & (1<<uint(ch.Width) - 1)
		size = ch.Width
	}
	switch ch.Encoding {
	case firmwareconfig.EncS16, firmwareconfig.EncS32, firmwareconfig.EncS64:
		up := uint(64 - size)
		r.i = int64(raw<<up) >> up
		r.f = float64(r.i)
	case firmwareconfig.EncS16Offset10000:
		r.i = int64(raw)
		if r.i >= 10000 {
			r.i = 10000 - r.i
		}
		r.f = float64(r.i)
	case firmwareconfig.EncF32:
		r.f = float32Value(uint32(raw))
	case firmwareconfig.EncF64:
		r.f = math.Float64frombits(raw)
	default:
		r.i, r.f = int64(raw), float64(raw)
		if raw > math.MaxInt64 {
			r.exact = false // An int point cannot hold it; a float point can, nearly.
		}
	}
	r.f = c.scale.mul(r.f) + ch.Offset
	switch {
	case math.IsNaN(r.f) || math.IsInf(r.f, 0):
		return reading{quality: telemetry.BadSensor}
	case ch.Max != nil && r.f > *ch.Max:
		r = reading{f: *ch.Max, quality: telemetry.OverRange}
	case ch.Min != nil && r.f < *ch.Min:
		r = reading{f: *ch.Min, quality: telemetry.UnderRange}
	}
	return r
}

// float32Value returns the float64 nearest to what a device that computes in 32 bits meant. The bits are kept
// exactly: 225.7 as f32 is 225.6999969482422, and that is what was served.
func float32Value(bits uint32) float64 { return float64(math.Float32frombits(bits)) }

// binder turns a channel's reading into a point's value and back.
type binder struct {
	b      firmwareconfig.Binding
	factor ratio
	direct bool // neither unit nor line between channel and point
	falls  bool // a larger channel value is a smaller point value
}

func newBinder(b firmwareconfig.Binding) binder {
	n := binder{b: b, factor: ratioOf(b.UnitFactor)}
	n.direct = n.factor.one() && b.UnitOffset == 0 && b.Map == nil
	n.falls = n.factor.f < 0
	if m := b.Map; m != nil && (m.X1 > m.X0) != (m.Y1 > m.Y0) {
		n.falls = !n.falls
	}
	return n
}

// value returns the point's value and quality.
func (n *binder) value(r reading) (telemetry.Value, telemetry.Quality) {
	q := r.quality
	if q.Bad() {
		return telemetry.Value{}, q
	}
	f := r.f
	if !n.direct {
		f = n.factor.mul(f) + n.b.UnitOffset
		if n.b.Map != nil {
			f = n.b.Map.At(f)
		}
		if n.falls {
			switch q {
			case telemetry.OverRange:
				q = telemetry.UnderRange
			case telemetry.UnderRange:
				q = telemetry.OverRange
			}
		}
	}
	var v telemetry.Value
	switch n.b.Def.Kind {
	case telemetry.Float:
		v = telemetry.FloatValue(f)
	case telemetry.Bool:
		return telemetry.BoolValue((f != 0) != n.b.Invert), q
	case telemetry.Int, telemetry.Enum:
		i := r.i
		if !n.direct || !r.exact {
			f = math.Round(f)
			if !(f >= -1<<63 && f < 1<<63) {
				return telemetry.Value{}, telemetry.BadSensor
			}
			i = int64(f)
		}
		if n.b.Def.Kind == telemetry.Enum {
			return telemetry.EnumValue(i), q
		}
		return telemetry.IntValue(i), q
	}
	if v.IsZero() {
		return v, telemetry.BadSensor
	}
	return v, q
}

// raw is the inverse of decoding: the raw bits that make the channel read as the point's value v. For a bit field
// they are the field alone, not shifted.
func (n *binder) raw(c *codec, v telemetry.Value) (uint64, error) {
	ch := c.ch
	if v.Kind() != n.b.Def.Kind {
		return 0, fmt.Errorf("%w: %v is no %v", drivers.ErrRange, v, n.b.Def.Kind)
	}
	if v.Kind() == telemetry.Bool || ch.Encoding == firmwareconfig.EncBool {
		on := v.Bool()
		if v.Kind() == telemetry.Bool {
			on = on != n.b.Invert
		}
		if ch.Encoding == firmwareconfig.EncBool {
			on = on != ch.Invert
		}
		if on {
			return 1, nil
		}
		return 0, nil
	}
	outOfRange := func() (uint64, error) { return 0, fmt.Errorf("%w: %v", drivers.ErrRange, v) }
	f := v.Float()
	if m := n.b.Map; m != nil {
		if m.Y0 == m.Y1 || f < min(m.Y0, m.Y1) || f > max(m.Y0, m.Y1) {
			return outOfRange()
		}
		f = m.X0 + (f-m.Y0)/(m.Y1-m.Y0)*(m.X1-m.X0)
	}
	f = n.factor.div(f - n.b.UnitOffset)
	if math.IsNaN(f) || math.IsInf(f, 0) || ch.Max != nil && f > *ch.Max || ch.Min != nil && f < *ch.Min {
		return outOfRange()
	}
	f = c.scale.div(f - ch.Offset)
	bits := 16 * ch.Encoding.Registers()
	if ch.Width > 0 {
		bits = ch.Width
	}
	lo, hi := 0.0, math.Ldexp(1, bits)-1
	switch ch.Encoding {
	case firmwareconfig.EncF32:
		if math.Abs(f) > math.MaxFloat32 {
			return outOfRange()
		}
		return uint64(math.Float32bits(float32(f))), nil
	case firmwareconfig.EncF64:
		return math.Float64bits(f), nil
	case firmwareconfig.EncS16, firmwareconfig.EncS32, firmwareconfig.EncS64:
		lo, hi = -math.Ldexp(1, bits-1), math.Ldexp(1, bits-1)-1
	case firmwareconfig.EncS16Offset10000:
		lo, hi = 10000-65535, 9999
	}
	if n.direct && c.exact && v.Kind() != telemetry.Float {
		if i := v.Int(); bits == 64 { // Past 2^53 a float would not hold it.
			if lo == 0 && i < 0 {
				return outOfRange()
			}
			return uint64(i), nil
		}
	}
	f = math.Round(f)
	if f < lo || f > hi || bits == 64 && f >= math.Ldexp(1, 63) {
		return outOfRange()
	}
	i := int64(f)
	if ch.Encoding == firmwareconfig.EncS16Offset10000 && i < 0 {
		i = 10000 - i
	}
	return uint64(i) & (1<<uint(bits) - 1), nil
}

// words lays raw out in the channel's registers.
func (c *codec) words(raw uint64) []byte {
	n := c.ch.Encoding.Registers()
	out := make([]byte, 2*n)
	for i := range n {
		w := n - 1 - i
		if c.ch.LittleWords {
			w = i
		}
		binary.BigEndian.PutUint16(out[2*w:], uint16(raw>>(16*uint(i))))
	}
	return out
}
