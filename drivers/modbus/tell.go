package modbus

import (
	"strings"

	"linli/internal/telemetry"
)

// decode appends the samples of a block out of data, which begins with the register (or bit) addr, all at time t. warm
// makes good values Uncertain.
func (bl *block) decode(dst []telemetry.Sample, data []byte, addr int, t telemetry.Mono, warm bool) []telemetry.Sample {
	if bl.quick == nil {
		bl.prepare()
	}
	bits := bl.table.Bits()
	var bit [1]byte
	at := func(it *item) []byte {
		off := it.addr - addr
		if bits {
			bit[0] = data[off/8] >> uint(off%8) & 1
			return bit[:]
		}
		return data[2*off:]
	}
	// Words may stand behind the values that depend on them.
	for i := range bl.items {
		if !bl.keeps {
			break
		}
		it := bl.items[i]
		if w := it.keeps; w != nil {
			d := at(it)
			w.read, w.fail, w.value = true, false, uint16(d[0])
			if !bits {
				w.value = w.value<<8 | uint16(d[1])
			}
		}
	}
	quickly := !warm && bl.clean()
	for i := range bl.quick {
		if q := &bl.quick[i]; quickly && q.form != quickNone {
			if v, ok := q.value(data[2*(int(q.addr)-addr):]); ok {
				dst = append(dst, telemetry.Sample{Point: q.point, Time: t, Value: v})
				continue
			}
		}
		it := bl.items[i]
		if it.keeps != nil {
			continue
		}
		known, fine := it.judged()
		if !known {
			continue // It will be within the same round.
		}
		if !fine {
			dst = it.bad(dst, t, telemetry.BadSensor)
			continue
		}
		r := it.codec.decode(at(it))
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

// judged reports whether the words are known on which the item depends, and whether they let its value count. The
// codec is told the scale.
func (it *item) judged() (known, fine bool) {
	fine = true
	if w := it.valid; w != nil {
		if !w.read && !w.fail {
			return false, false
		}
		fine = !w.fail && it.judge.Holds(w.value)
	}
	if w := it.scale; w != nil {
		switch {
		case w.fail:
			it.codec.loseScale()
		case !w.read:
			return false, false
		default:
			it.codec.setScale(w.value)
		}
	}
	return true, fine
}

// tell appends a sample of the point, unless it would only repeat that there is no value.
func (p *point) tell(dst []telemetry.Sample, t telemetry.Mono, q telemetry.Quality, v telemetry.Value) []telemetry.Sample {
	if q.Bad() && p.told && p.quality == q && t.Sub(p.at) < tellAgain {
		return dst
	}
	p.told, p.quality, p.at = true, q, t
	if q.Bad() {
		*p.sours++
	}
	return append(dst, telemetry.Sample{Point: p.id, Quality: q, Time: t, Value: v})
}

func (it *item) bad(dst []telemetry.Sample, t telemetry.Mono, q telemetry.Quality) []telemetry.Sample {
	for _, p := range it.points {
		dst = p.tell(dst, t, q, telemetry.Value{})
	}
	return dst
}

// allBad tells that a block has no values. A word that cannot be read makes what depends on it bad too.
func (bl *block) allBad(dst []telemetry.Sample, t telemetry.Mono, q telemetry.Quality) []telemetry.Sample {
	for _, it := range bl.items {
		if it.keeps != nil {
			it.keeps.fail = true
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
