package modbus

import (
	"slices"
	"time"

	gomodbus "github.com/goburrow/modbus"
	"go.uber.org/zap"

	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// What a unit refuses to read is cut in two until the parts are read or a single item stands alone, which is then
// quarantined: tried again after refusedFirst, then more rarely, since a unit that still boots refuses too. Where the
// parts can all be read, what was refused is what the cut left out (a hole) or else the length of the request. Both
// are kept, and the unit is planned again around them.
const (
	refusedFirst = time.Minute
	refusedMost  = 10 * time.Minute
)

// doubt is a refusal whose cause is not found yet. Its parts are read one by one.
type doubt struct {
	span             // what was refused
	gaps      []span // what the cut left out; empty where the parts touch
	open      int    // parts that have neither been read nor found to be the cause
	explained bool   // a part was the cause
	read      bool   // a part could be read
	silent    bool   // it was not answered (silent.go)
	sick      bool   // the unit said that it had failed (silent.go)
	parent    *doubt // the larger refusal of which this one was a part
}

// sizes is what was learned about how much one request may read.
type size struct {
	read    int // the longest that was read
	refused int // the shortest that was refused for its length; 0 for none
	learned int // the bound to plan with; 0 for none
}

// sizeOf returns what is known for tables of t's sort.
func (u *unit) sizeOf(t firmwareconfig.Table) *size {
	if t.Bits() {
		return &u.sizes[1]
	}
	return &u.sizes[0]
}

// bounds returns the unit's limits with what was learned.
func (u *unit) bounds() limits {
	l := u.limits
	if n := u.sizes[0].learned; n > 0 {
		l.registers = min(l.registers, n)
	}
	if n := u.sizes[1].learned; n > 0 {
		l.bits = min(l.bits, n)
	}
	return l
}

// arrange plans the unit's blocks anew, with all that was learned. What is quarantined stays so, and what was due
// remains due.
func (u *unit) arrange() {
	was := map[*item]*block{}
	for _, bl := range u.blocks {
		for _, it := range bl.items {
			was[it] = bl
		}
	}
	u.blocks = blocksOf(u.groups, u.bounds(), u.holes)
	for _, bl := range u.blocks {
		bl.unit = u
		for i, it := range bl.items {
			o := was[it]
			switch {
			case o == nil:
			case i == 0:
				bl.first, bl.phase, bl.due = o.first, o.phase, o.due
				if bl.hole {
					bl.out, bl.refuse, bl.fails = o.out, o.refuse, o.fails
				}
			default:
				bl.due = min(bl.due, o.due)
			}
		}
	}
	u.probeNext, u.probing, u.check = 0, nil, nil
}

// refused takes in an exception that the unit itself raised.
func (b *Bus) refused(u *unit, bl *block, asked span, exc *gomodbus.ModbusError, t telemetry.Mono, dst []telemetry.Sample) []telemetry.Sample {
	u.check = nil
	if bl.whole != nil {
		return dst // It answers: the block itself will be asked.
	}
	switch exc.ExceptionCode {
	case gomodbus.ExceptionCodeIllegalFunction, gomodbus.ExceptionCodeIllegalDataAddress, gomodbus.ExceptionCodeIllegalDataValue:
		if exc.ExceptionCode != gomodbus.ExceptionCodeIllegalFunction && !bl.out && u.cut(b.party, asked, exc, t) {
			return dst
		}
		for _, p := range b.party {
			dst = b.quarantine(u, p, exc, t, dst, true)
		}
		return dst
	}
	// A fault, or busy: worth asking again, not at once.
	bl.fails++
	bl.due = t.Add(min(bl.every, retryAfter))
	sick := exc.ExceptionCode == gomodbus.ExceptionCodeServerDeviceFailure
	if sick && (bl.fails >= giveUpAfter && !bl.out && u.cutSick(bl, t) || bl.doubt != nil && bl.doubt.sick && u.cutSick(bl, t)) {
		return bl.allBad(dst, t, telemetry.BadSensor)
	}
	if sick && bl.fails >= giveUpAfter && (bl.out || bl.doubt != nil) {
		return b.quarantine(u, bl, exc, t, dst, false)
	}
	if bl.fails >= giveUpAfter {
		bl.due = t.Add(max(bl.every, min(retryAfter<<min(bl.fails-giveUpAfter, 6), rarestProbe)))
		return bl.allBad(dst, t, telemetry.BadSensor)
	}
	return dst
}

// cut divides what was refused: into the blocks that rode along, or one block into halves. It returns false where
// there is nothing to divide.
func (u *unit) cut(party []*block, asked span, exc *gomodbus.ModbusError, t telemetry.Mono) bool {
	parts := party
	var bl *block
	if len(party) == 1 {
		bl = party[0]
		if parts = bl.split(); parts == nil {
			return false
		}
	}
	// Illegal value is what the standard says of a request that is too long.
	u.divide(bl, parts, &doubt{span: asked}, exc.ExceptionCode != gomodbus.ExceptionCodeIllegalDataValue, t)
	return true
}

// divide has the parts of what d is about read by themselves from t on; they take the place of bl, nil where they are
// blocks already. With gaps, what they leave out may be the cause.
func (u *unit) divide(bl *block, parts []*block, d *doubt, gaps bool, t telemetry.Mono) {
	if bl != nil {
		d.parent = bl.doubt
		i := slices.Index(u.blocks, bl)
		u.blocks = slices.Concat(u.blocks[:i], parts, u.blocks[i+1:])
	}
	if d.parent == nil {
		u.doubts++
	}
	d.open = len(parts)
	inOrder := slices.SortedFunc(slices.Values(parts), func(a, b *block) int { return a.addr - b.addr })
	end := d.addr
	for _, p := range inOrder {
		if gap := (span{d.table, end, p.addr - end}); gap.count > 0 && gaps {
			d.gaps = append(d.gaps, gap)
		}
		end = max(end, p.end())
		p.doubt, p.due = d, t
	}
}

// quarantine takes in that a block of one item is refused, which is kept across restarts or not.
func (b *Bus) quarantine(u *unit, bl *block, exc *gomodbus.ModbusError, t telemetry.Mono, dst []telemetry.Sample, keep bool) []telemetry.Sample {
	if !bl.out {
		b.log.Warn("register refused", zap.String("bus", b.name), zap.String("unit", u.cfg.ID),
			zap.String("channel", bl.names()), zap.Uint8("table", uint8(bl.table)),
			zap.Int("address", bl.addr), zap.Int("count", bl.count), zap.Error(exc))
		bl.out, bl.hole = true, true
		u.learn(bl.span, keep)
	}
	bl.due = t.Add(min(refusedFirst<<min(bl.refuse, 4), refusedMost))
	bl.refuse++
	dst = bl.allBad(dst, t, telemetry.BadSensor)
	b.resolved(u, bl, true)
	return dst
}

// resolved takes in that a block was read, or found to be unreadable (cause), and plans the unit anew when that
// answers why something was refused, or when what was thought unreadable is not.
func (b *Bus) resolved(u *unit, bl *block, cause bool) {
	d := bl.doubt
	bl.doubt = nil
	again := bl.hole && !cause
	if again {
		u.forget(bl.span)
	}
	var whole *doubt
	read := !cause
	for ; d != nil; d = d.parent {
		d.open--
		d.explained, d.read = d.explained || cause, d.read || read
		if d.open > 0 {
			break
		}
		read = d.read
		switch {
		case d.explained || d.sick:
		case d.silent && u.odd != d.span:
			u.odd = d.span // It may have been noise.
		default:
			b.explain(u, d)
		}
		cause = true // Whatever it was, it is why the larger request was refused.
		if d.parent == nil {
			u.doubts--
			again = true
			if !read && (d.silent || d.sick) {
				whole = d
			}
		}
	}
	if again && u.doubts == 0 {
		u.arrange()
		b.remember()
	}
	if whole != nil {
		u.wholly(whole, b.now())
	}
}

// explain takes in that all parts of a refused request can be read by themselves.
func (b *Bus) explain(u *unit, d *doubt) {
	for _, g := range d.gaps {
		b.log.Info("hole in the registers", zap.String("bus", b.name), zap.String("unit", u.cfg.ID),
			zap.Uint8("table", uint8(g.table)), zap.Int("address", g.addr), zap.Int("count", g.count))
		u.learn(g, !d.silent)
	}
	if len(d.gaps) > 0 {
		return
	}
	s := u.sizeOf(d.table)
	if s.refused == 0 || d.count < s.refused {
		s.refused = d.count
	}
	if s.read >= s.refused {
		s.read = s.refused - 1 // Another table, or it has changed: what is refused counts.
	}
	// Halfway between what is known to work and what is known not to: the next refusal halves the rest.
	s.learned = max(1, (s.read+s.refused)/2)
	u.changed = true
	b.log.Info("requests of this length refused", zap.String("bus", b.name), zap.String("unit", u.cfg.ID),
		zap.Int("count", d.count), zap.Int("most", s.learned))
}
