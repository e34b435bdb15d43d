package modbus

import (
	"encoding/binary"
	"math"

	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// quick is what it takes to decode an item that is nothing but a scaled number for one point, in as much memory as a processor
// fetches at once. Whatever is unusual about a reading (beyond a bound, a sentinel, not finite) is left to the item itself.
type quick struct {
	item     *item
	scale    ratio
	offset   float64
	min, max float64
	point    telemetry.PointID
	addr     int32
	invalid  uint32 // with sentinel
	form     quickForm
	sentinel bool
}

// quickForm is how the number lies in the registers.
type quickForm uint8

const (
	quickNone quickForm = iota // the item is decoded in full
	quickU16
	quickS16
	quickU32
	quickS32
	quickF32
	quickLittle // added: the low word first
)

// quickly returns the short way for an item, of form quickNone where there is none.
func quickly(it *item) quick {
	q := quick{item: it, addr: int32(it.addr)}
	ch := it.codec.ch
	if it.keeps != nil || it.valid != nil || it.scale != nil || len(it.points) != 1 || ch.Table.Bits() || ch.Width > 0 || ch.LittleBytes ||
		ch.ScaleFrom != nil || it.codec.span > 0 || len(ch.Under) > 0 || len(ch.Over) > 0 || len(ch.Invalid) > 1 {
		return q
	}
	n := &it.points[0].binder
	if !n.direct || n.b.Def.Kind != telemetry.Float {
		return q
	}
	q.scale, q.offset, q.point = it.codec.scale, ch.Offset, it.points[0].id
	q.min, q.max = math.Inf(-1), math.Inf(1)
	if ch.Min != nil {
		q.min = *ch.Min
	}
	if ch.Max != nil {
		q.max = *ch.Max
	}
	if len(ch.Invalid) == 1 {
		if ch.Invalid[0] > math.MaxUint32 {
			return q
		}
		q.sentinel, q.invalid = true, uint32(ch.Invalid[0])
	}
	switch ch.Encoding {
	case firmwareconfig.EncU16:
		q.form = quickU16
	case firmwareconfig.EncS16:
		q.form = quickS16
	case firmwareconfig.EncU32:
		q.form = quickU32
	case firmwareconfig.EncS32:
		q.form = quickS32
	case firmwareconfig.EncF32:
		q.form = quickF32
	}
	if q.form >= quickU32 && ch.LittleWords {
		q.form += quickLittle
	}
	return q
}

// value decodes the item out of data, which begins with its first register; false where that is left to the item.
func (q *quick) value(data []byte) (telemetry.Value, bool) {
	var raw uint32
	form := q.form
	switch {
	case form <= quickS16:
		raw = uint32(binary.BigEndian.Uint16(data))
	case form < quickLittle:
		raw = binary.BigEndian.Uint32(data)
	default:
		raw = uint32(binary.BigEndian.Uint16(data[2:]))<<16 | uint32(binary.BigEndian.Uint16(data))
		form -= quickLittle
	}
	var f float64
	switch form {
	case quickU16, quickU32:
		f = float64(raw)
	case quickS16:
		f = float64(int16(raw))
	case quickS32:
		f = float64(int32(raw))
	case quickF32:
		f = float32Value(raw)
	default:
		return telemetry.Value{}, false
	}
	f = q.scale.mul(f) + q.offset
	if q.sentinel && raw == q.invalid || !(f >= q.min && f <= q.max) {
		return telemetry.Value{}, false
	}
	v := telemetry.FloatValue(f)
	return v, !v.IsZero()
}

// prepare makes the short ways of the block's items.
func (bl *block) prepare() {
	bl.quick = make([]quick, len(bl.items))
	for i, it := range bl.items {
		bl.quick[i] = quickly(it)
		bl.keeps = bl.keeps || it.keeps != nil
		for _, p := range it.points {
			bl.sours = p.sours
		}
	}
}

// clean reports whether of no point that has a short way it was told last that it is bad: a good value need not be noted
// then, since whatever is bad next is told.
func (bl *block) clean() bool {
	if bl.sours == nil || bl.cleanAt == *bl.sours {
		return true
	}
	for i := range bl.quick {
		if q := &bl.quick[i]; q.form != quickNone {
			if p := q.item.points[0]; p.told && p.quality.Bad() {
				return false
			}
		}
	}
	bl.cleanAt = *bl.sours
	return true
}
