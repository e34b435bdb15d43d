package modbus

import (
	"slices"
	"time"

	"linli/internal/telemetry"
)

// Some units do not refuse a register that they cannot read: they say nothing, or that they have failed (exception 4), and
// everything that is asked for together with it is lost. Such a block is cut like one that is refused, until the register
// stands alone. Where the whole unit is silent, every other probe asks for a single item: when that is answered and the
// block is not, it is the block. What is found that way is not kept across restarts, since it may pass; and a block of
// which no part can be read is put together again.

// wholeFor is how long a block that was found sick, or silent, as a whole is not cut again.
const wholeFor = 10 * time.Minute

// probeBlock returns what to probe a demoted unit with: a single item of a block, then the block, then those of the next.
// The unit may ignore one of them.
func (u *unit) probeBlock() *block {
	if u.probing == nil {
		bl := u.someBlock(u.probeNext / 2)
		if bl == nil || !u.quiet || u.probeNext%2 == 1 || len(bl.items) == 1 {
			u.probing = bl
		} else {
			it := bl.items[u.probeNext/2/len(u.blocks)%len(bl.items)]
			u.probing = bl.of([]*item{it})
			u.probing.whole, u.probing.doubt = bl, nil
		}
	}
	return u.probing
}

// someBlock returns the n-th block of those that are not quarantined, or else of all; nil where there is none.
func (u *unit) someBlock(n int) *block {
	for i := range u.blocks {
		if bl := u.blocks[(n+i)%len(u.blocks)]; !bl.out {
			return bl
		}
	}
	if len(u.blocks) > 0 {
		return u.blocks[n%len(u.blocks)]
	}
	return nil
}

// witnessed takes in that bl was answered. Where it is a part of a block, that block is suspect should it be silent again.
func (u *unit) witnessed(bl *block) {
	bl.answers = true
	if bl.whole != nil {
		bl.whole.part = bl.items[0]
	}
	if bl.span == u.odd {
		u.odd = span{}
	}
}

// cutSilent divides a block that the unit does not answer, though it answers others, or an item of it.
func (u *unit) cutSilent(bl *block, t telemetry.Mono) bool {
	if t < u.wholeSick {
		return false
	}
	parts := bl.split()
	if i := slices.Index(bl.items, bl.part); i >= 0 && len(bl.items) > 1 {
		parts = nil
		for _, items := range [][]*item{bl.items[:i], bl.items[i : i+1], bl.items[i+1:]} {
			if len(items) > 0 {
				p := bl.of(items)
				p.answers = items[0] == bl.part
				parts = append(parts, p)
			}
		}
	}
	if parts == nil {
		return false
	}
	u.divide(bl, parts, &doubt{span: bl.span, silent: true}, true, t)
	return true
}

// cutSick divides a block for which the unit says that it has failed.
func (u *unit) cutSick(bl *block, t telemetry.Mono) bool {
	parts := bl.split()
	if parts == nil || t < u.wholeSick {
		return false
	}
	// Not all at once: it may be the unit as a whole.
	u.divide(bl, parts, &doubt{span: bl.span, sick: true}, true, t.Add(min(bl.every, retryAfter)))
	return true
}

// deafened takes in that a single item, cut out of a block, is not answered.
func (b *Bus) deafened(u *unit, bl *block) {
	if bl.doubt == nil {
		return
	}
	bl.hole = true
	u.learn(bl.span, false)
	b.resolved(u, bl, true)
}

// wholly takes in that no part of what d was about can be read: it is one block again, tried as seldom as a probe.
func (u *unit) wholly(d *doubt, t telemetry.Mono) {
	u.holes = slices.DeleteFunc(u.holes, func(h span) bool { return h.meets(d.span) && slices.Contains(u.passing, h) })
	u.passing = slices.DeleteFunc(u.passing, d.meets)
	u.wholeSick = t.Add(wholeFor)
	u.arrange()
	for _, bl := range u.blocks {
		if bl.meets(d.span) {
			bl.fails, bl.due = giveUpAfter, t.Add(rarestProbe)
		}
	}
}
