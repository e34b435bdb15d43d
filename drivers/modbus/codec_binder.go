package modbus

import (
	"fmt"
	"math"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

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
	if text := n.b.Def.Kind == telemetry.KindText; text || r.text != nil {
		if text && r.text != nil {
			return telemetry.TextValue(*r.text), q
		}
		return telemetry.Value{}, telemetry.BadSensor
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
// they are the field alone, not shifted. Where the channel has WriteValues, codec.command tells what to write for them;
// a value that is not among them is out of range.
func (n *binder) raw(c *codec, v telemetry.Value) (uint64, error) {
	raw, err := n.bits(c, v)
	if err != nil || len(c.ch.WriteValues) == 0 {
		return raw, err
	}
	if _, ok := c.command(raw); !ok {
		return 0, fmt.Errorf("%w: %v is none of the commands of %s", drivers.ErrRange, v, c.ch.Name)
	}
	return raw, nil
}

func (n *binder) bits(c *codec, v telemetry.Value) (uint64, error) {
	ch := c.ch
	if v.Kind() != n.b.Def.Kind {
		return 0, fmt.Errorf("%w: %v is no %v", drivers.ErrRange, v, n.b.Def.Kind)
	}
	if ch.Encoding == firmwareconfig.EncString || ch.ScaleFrom != nil {
		return 0, drivers.ErrNotWritable
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
	bits := int(c.size())
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
	case firmwareconfig.EncBCD16, firmwareconfig.EncBCD32:
		hi = math.Pow10(bits/4) - 1
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
	switch {
	case ch.Encoding == firmwareconfig.EncS16Offset10000 && i < 0:
		i = 10000 - i
	case ch.Encoding == firmwareconfig.EncBCD16 || ch.Encoding == firmwareconfig.EncBCD32:
		return toBCD(i), nil
	}
	return uint64(i) & (1<<uint(bits) - 1), nil
}
