package modbus

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// Poll intervals of channels whose profile states none.
const (
	lifeSafetyEvery = time.Second
	ordinaryEvery   = 5 * time.Second
)

const (
	defaultMaxGap = 8
	// bitsPerGap: a gap of coils costs what a gap of registers costs when it is sixteen times as wide.
	bitsPerGap = 16
)

// item is something to be read: a channel, or a validity register of one.
type item struct {
	table  firmwareconfig.Table
	addr   int
	count  int // registers, or bits
	codec  codec
	points []*point
	valid  *validity // must be set for the value to count; nil for none
	marks  *validity // this item is a validity register and is kept there
	name   string
}

func (it *item) end() int { return it.addr + it.count }

// point is one point that an item provides, with what was said about it last.
type point struct {
	id      telemetry.PointID
	binder  binder
	told    bool
	quality telemetry.Quality
	at      telemetry.Mono
}

// validity is the last state of a validity register.
type validity struct {
	table      firmwareconfig.Table
	addr, bit  int
	read, fail bool
	set        bool
}

// block is one read request with the items it covers, in order of address.
type block struct {
	unit  *unit
	table firmwareconfig.Table
	addr  int
	count int
	items []*item

	every  time.Duration
	life   bool
	first  bool           // due since the start: not yet on its grid
	phase  telemetry.Mono // the grid of due times is phase + n*every
	due    telemetry.Mono
	fails  int  // failed transactions in a row
	out    bool // quarantined: the unit refuses it
	refuse int  // refusals since it was quarantined
}

// limits are the bounds of one request, already resolved.
type limits struct {
	registers, bits int
	gap             int // registers read in vain to join two blocks
}

// resolve applies the protocol's limits and the defaults.
func resolve(l firmwareconfig.Limits) limits {
	r := limits{registers: maxRegisters, bits: maxBits, gap: defaultMaxGap}
	if l.MaxRegisters > 0 {
		r.registers = min(r.registers, l.MaxRegisters)
	}
	if l.MaxBits > 0 {
		r.bits = min(r.bits, l.MaxBits)
	}
	if l.MaxGap > 0 {
		r.gap = l.MaxGap
	} else if l.MaxGap < 0 {
		r.gap = 0
	}
	return r
}

// most returns how much of table one request may read, and how wide a gap in it may be.
func (l limits) most(t firmwareconfig.Table) (count, gap int) {
	if t.Bits() {
		return l.bits, l.gap * bitsPerGap
	}
	return l.registers, l.gap
}

// cover returns the fewest blocks that cover items within lim. The items of one call share their poll interval.
// Going left to right and making each block as long as may be is optimal here. Addresses are ints throughout, so
// that nothing wraps at 65535.
func cover(items []*item, lim limits) []*block {
	sorted := slices.Clone(items)
	slices.SortStableFunc(sorted, func(a, b *item) int {
		return cmp.Or(cmp.Compare(a.table, b.table), cmp.Compare(a.addr, b.addr), cmp.Compare(a.count, b.count))
	})
	var blocks []*block
	var cur *block
	for _, it := range sorted {
		most, gap := lim.most(it.table)
		if cur != nil && cur.table == it.table && it.addr <= cur.addr+cur.count+gap &&
			max(it.end(), cur.addr+cur.count)-cur.addr <= most {
			cur.count = max(it.end(), cur.addr+cur.count) - cur.addr
			cur.items = append(cur.items, it)
			continue
		}
		cur = &block{table: it.table, addr: it.addr, count: it.count, items: []*item{it}}
		blocks = append(blocks, cur)
	}
	return blocks
}

// plan returns the blocks of a unit: its bound channels with their validity registers, grouped by poll interval.
// Life-safety groups come first, then the faster ones.
func plan(u *firmwareconfig.Unit, lim limits) ([]*block, []*point, error) {
	type key struct {
		life  bool
		every time.Duration
	}
	byChannel := map[int]*item{}
	life := map[int]bool{}
	var order []int
	var points []*point
	for _, b := range u.Bindings {
		if b.Channel < 0 || b.Channel >= len(u.Profile.Channels) {
			return nil, nil, fmt.Errorf("unit %s: no channel number %d in profile %s", u.ID, b.Channel, u.Profile.ID)
		}
		ch := &u.Profile.Channels[b.Channel]
		it := byChannel[b.Channel]
		if it == nil {
			it = &item{table: ch.Table, addr: ch.Address, count: ch.Encoding.Registers(), codec: newCodec(ch), name: ch.Name}
			if err := fits(it, ch, lim); err != nil {
				return nil, nil, fmt.Errorf("unit %s: channel %s: %w", u.ID, ch.Name, err)
			}
			byChannel[b.Channel] = it
			order = append(order, b.Channel)
		}
		if b.Def == nil || b.Def.Kind == telemetry.KindText {
			return nil, nil, fmt.Errorf("unit %s: channel %s: no encoding gives text", u.ID, ch.Name)
		}
		p := &point{id: b.Point, binder: newBinder(b)}
		it.points = append(it.points, p)
		points = append(points, p)
		life[b.Channel] = life[b.Channel] || b.Def.LifeSafety
	}

	groups := map[key][]*item{}
	marks := map[key]map[firmwareconfig.Validity]*validity{}
	var keys []key
	for _, n := range order {
		it, ch := byChannel[n], &u.Profile.Channels[n]
		k := key{life[n], ch.Every}
		if k.every <= 0 {
			k.every = ordinaryEvery
			if k.life {
				k.every = lifeSafetyEvery
			}
		}
		if groups[k] == nil {
			keys = append(keys, k)
			marks[k] = map[firmwareconfig.Validity]*validity{}
		}
		if v := ch.Valid; v != nil {
			// A validity register is read with each group that needs it, so that it is as fresh as the value.
			m := marks[k][*v]
			if m == nil {
				m = &validity{table: v.Table, addr: v.Address, bit: v.Bit}
				marks[k][*v] = m
				vi := &item{table: v.Table, addr: v.Address, count: 1, marks: m, name: "validity of " + ch.Name}
				if v.Address < 0 || v.Address > 0xFFFF {
					return nil, nil, fmt.Errorf("unit %s: %s: address %d", u.ID, vi.name, v.Address)
				}
				groups[k] = append(groups[k], vi)
			}
			it.valid = m
		}
		groups[k] = append(groups[k], it)
	}
	slices.SortStableFunc(keys, func(a, b key) int {
		if a.life != b.life {
			if a.life {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.every, b.every)
	})
	var blocks []*block
	for _, k := range keys {
		g := cover(groups[k], lim)
		// Validity first, where it did not fit into its channel's block.
		slices.SortStableFunc(g, func(a, b *block) int { return cmp.Compare(b.marking(), a.marking()) })
		for _, b := range g {
			b.every, b.life = k.every, k.life
		}
		blocks = append(blocks, g...)
	}
	return blocks, points, nil
}

// marking returns 1 where the block holds a validity register, else 0.
func (b *block) marking() int {
	for _, it := range b.items {
		if it.marks != nil {
			return 1
		}
	}
	return 0
}

// fits checks that a channel can be read at all.
func fits(it *item, ch *firmwareconfig.Channel, lim limits) error {
	most, _ := lim.most(it.table)
	switch {
	case it.table < firmwareconfig.Coil || it.table > firmwareconfig.InputRegister:
		return fmt.Errorf("no table %d", it.table)
	case ch.Encoding < firmwareconfig.EncBool || ch.Encoding > firmwareconfig.EncS16Offset10000:
		return fmt.Errorf("no encoding %d", ch.Encoding)
	case it.table.Bits() && ch.Encoding != firmwareconfig.EncBool:
		return fmt.Errorf("table %d holds bits only", it.table)
	case it.addr < 0 || it.end() > 0x10000:
		return fmt.Errorf("addresses %d to %d lie outside 0 to 65535", it.addr, it.end()-1)
	case it.count > most:
		return fmt.Errorf("needs %d registers in one read; the unit allows %d", it.count, most)
	case ch.Bit < 0 || ch.Width < 0 || !it.table.Bits() && ch.Bit+max(ch.Width, 1) > 16*it.count:
		return fmt.Errorf("bits %d to %d lie outside the value", ch.Bit, ch.Bit+max(ch.Width, 1)-1)
	}
	return nil
}

// split divides a block that the unit refuses, at the widest gap between its items or else in the middle, and
// returns nil where it holds a single item (or items that overlap).
func (b *block) split() []*block {
	at, widest, end := 0, -1, 0
	for i, it := range b.items {
		if gap := it.addr - end; i > 0 && gap >= 0 {
			middle := func(n int) int { return -abs(2*n - len(b.items)) }
			if gap > widest || gap == widest && middle(i) > middle(at) {
				at, widest = i, gap
			}
		}
		end = max(end, it.end())
	}
	if widest < 0 {
		return nil
	}
	parts := [2][]*item{b.items[:at], b.items[at:]}
	var out []*block
	for _, items := range parts {
		n := *b
		n.items, n.addr, n.count, n.fails = slices.Clip(items), items[0].addr, 0, 0
		for _, it := range items {
			n.count = max(n.count, it.end()-n.addr)
		}
		out = append(out, &n)
	}
	return out
}

func abs(n int) int {
	if n < 0 {
		return -n
	}
	return n
}

// mend joins neighbouring blocks of one group without a gap between them: what bisecting cut apart on its way to
// the one unreadable register. Blocks are joined only where both are read; gaps are never joined again.
func mend(blocks []*block, lim limits) []*block {
	var out []*block
	for _, b := range blocks {
		if len(out) > 0 {
			p := out[len(out)-1]
			most, _ := lim.most(b.table)
			if !p.out && !b.out && p.table == b.table && p.every == b.every && p.life == b.life &&
				p.addr+p.count == b.addr && p.count+b.count <= most {
				n := *p
				n.items = append(slices.Clone(p.items), b.items...)
				n.count += b.count
				n.due = min(p.due, b.due)
				n.fails = 0
				out[len(out)-1] = &n
				continue
			}
		}
		out = append(out, b)
	}
	return out
}
