package modbus

import (
	"strings"

	"linli/internal/telemetry"
)

// decode appends the samples of a block's data, all at time t. warm makes good values Uncertain.
func (bl *block) decode(dst []telemetry.Sample, data []byte, t telemetry.Mono, warm bool) []telemetry.Sample {
	bits := bl.table.Bits()
	raw := func(it *item) uint64 {
		off := it.addr - bl.addr
		if bits {
			return uint64(data[off/8] >> uint(off%8) & 1)
		}
		if it.marks != nil {
			return uint64(data[2*off])<<8 | uint64(data[2*off+1])
		}
		return it.codec.rawBits(data[2*off:])
	}
	// Validity registers may stand behind the values they judge.
	for _, it := range bl.items {
		if m := it.marks; m != nil {
			bit := uint(m.bit)
			if bits {
				bit = 0
			}
			m.read, m.fail, m.set = true, false, raw(it)>>bit&1 != 0
		}
	}
	for _, it := range bl.items {
		if it.marks != nil {
			continue
		}
		if v := it.valid; v != nil {
			if !v.read && !v.fail {
				continue // Its validity is not known yet; it will be within the same round.
			}
			if !v.set || v.fail {
				dst = it.bad(dst, t, telemetry.BadSensor)
				continue
			}
		}
		r := it.codec.decodeRaw(raw(it))
		for _, p := range it.points {
			v, q := p.binder.value(r)
			if q == telemetry.Good && warm {
				q = telemetry.Uncertain
			}
			dst = p.tell(dst, t, q, v)
		}
	}
	return dst
}

// tell appends a sample of the point, unless it would only repeat that there is no value.
func (p *point) tell(dst []telemetry.Sample, t telemetry.Mono, q telemetry.Quality, v telemetry.Value) []telemetry.Sample {
	if q.Bad() && p.told && p.quality == q && t.Sub(p.at) < tellAgain {
		return dst
	}
	p.told, p.quality, p.at = true, q, t
	return append(dst, telemetry.Sample{Point: p.id, Quality: q, Time: t, Value: v})
}

func (it *item) bad(dst []telemetry.Sample, t telemetry.Mono, q telemetry.Quality) []telemetry.Sample {
	for _, p := range it.points {
		dst = p.tell(dst, t, q, telemetry.Value{})
	}
	return dst
}

// allBad tells that a block has no values. A validity register that cannot be read makes what it judges bad too.
func (bl *block) allBad(dst []telemetry.Sample, t telemetry.Mono, q telemetry.Quality) []telemetry.Sample {
	for _, it := range bl.items {
		if it.marks != nil {
			it.marks.fail = true
			continue
		}
		dst = it.bad(dst, t, q)
	}
	return dst
}

// allBad tells that the unit cannot be reached: all its points at once.
func (u *unit) allBad(dst []telemetry.Sample, t telemetry.Mono) []telemetry.Sample {
	for _, p := range u.points {
		dst = p.tell(dst, t, telemetry.BadComm, telemetry.Value{})
	}
	return dst
}

// names lists the block's channels for the log.
func (bl *block) names() string {
	var names []string
	for _, it := range bl.items {
		names = append(names, it.name)
	}
	return strings.Join(names, ", ")
}
