package modbus

import (
	"cmp"
	"errors"
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

// span is a range of registers or bits in one table.
type span struct {
	table firmwareconfig.Table
	addr  int
	count int
}

func (s span) end() int { return s.addr + s.count }

// meets reports whether the two have a register in common.
func (s span) meets(o span) bool {
	return s.table == o.table && s.addr < o.end() && o.addr < s.end()
}

// between returns the registers that lie between two spans of one table; its count is not above 0 where there are none.
func between(a, b span) span {
	if a.addr > b.addr {
		a, b = b, a
	}
	return span{a.table, a.end(), b.addr - a.end()}
}

// item is something to be read: a channel, or a register that judges or scales channels.
type item struct {
	span
	codec  codec
	points []*point
	valid  *word // that decides by judge whether the value counts; nil for none
	scale  *word // decides the scale; nil for none
	keeps  *word // this item is such a register and is kept there
	name   string

	judge *firmwareconfig.Validity
}

// point is one point that an item provides, with what was said about it last.
type point struct {
	id      telemetry.PointID
	binder  binder
	told    bool
	quality telemetry.Quality
	at      telemetry.Mono
	sours   *uint32 // counts how often a point of the unit was told to be bad; never nil
}

// word is a register on which values of others depend, as it was read last.
type word struct {
	value      uint16
	read, fail bool
}

// group is what is read at one interval.
type group struct {
	life  bool
	every time.Duration
	items []*item
}

// block is one read request with the items it covers, in order of address.
type block struct {
	// What is looked at of every block to find those that are due stands together.
	due     telemetry.Mono
	every   time.Duration
	fails   int    // failed transactions in a row
	doubt   *doubt // it is read alone to find out why a larger request was refused
	life    bool
	out     bool // quarantined: the unit refuses it
	hole    bool // lies in a hole: it was refused once, perhaps before the last restart
	answers bool // it was answered since it was planned
	leans   bool // on a word that another block reads just before
	first   bool // due since the start: not yet on its grid
	keeps   bool // some of items are words that others depend on; known once quick is made

	span
	unit  *unit
	items []*item
	quick []quick // parallel to items, made with the first reading

	sours   *uint32
	cleanAt uint32         // what sours said when the block was found to be clean
	phase   telemetry.Mono // the grid of due times is phase + n*every
	refuse  int            // refusals since it was quarantined
	part    *item          // was answered while the block was not
	whole   *block         // where it is only to probe with: the block of which it is a part
	reqs    requests
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

// join returns the span of both, and whether one request may read it: within the limits, and over no hole.
func (l limits) join(a, b span, holes []span) (span, bool) {
	all := span{a.table, min(a.addr, b.addr), 0}
	all.count = max(a.end(), b.end()) - all.addr
	most, wide := l.most(a.table)
	gap := between(a, b)
	if a.table != b.table || all.count > most || gap.count > wide {
		return all, false
	}
	for _, h := range holes {
		if gap.count > 0 && gap.meets(h) {
			return all, false
		}
	}
	return all, true
}

// cover returns the fewest blocks that cover items within lim. The items of one call share their poll interval.
// Holes are not read over; what lies in one is read by itself, so that nothing else shares its refusal. Going left to
// right and making each block as long as may be is optimal here. Addresses are ints throughout, so that nothing wraps
// at 65535.
func cover(items []*item, lim limits, holes []span) []*block {
	sorted := slices.Clone(items)
	slices.SortStableFunc(sorted, func(a, b *item) int {
		return cmp.Or(cmp.Compare(a.table, b.table), cmp.Compare(a.addr, b.addr), cmp.Compare(a.count, b.count))
	})
	var blocks []*block
	var cur *block
	for _, it := range sorted {
		hole := slices.ContainsFunc(holes, it.meets)
		together := func(h span) bool { return h.meets(it.span) && h.meets(cur.span) }
		if cur != nil && cur.hole == hole && (!hole || slices.ContainsFunc(holes, together)) {
			if all, ok := lim.join(cur.span, it.span, holes); ok {
				cur.span, cur.items = all, append(cur.items, it)
				continue
			}
		}
		cur = &block{span: it.span, items: []*item{it}, hole: hole}
		blocks = append(blocks, cur)
	}
	return blocks
}

// plan returns what is to be read of a unit: its bound channels with the registers that judge and scale them, grouped
// by poll interval. Life-safety groups come first, then the faster ones.
func plan(u *firmwareconfig.Unit, lim limits) ([]*group, []*point, error) {
	byChannel := map[int]*item{}
	life := map[int]bool{}
	var order []int
	var points []*point
	sours := new(uint32)
	for _, b := range u.Bindings {
		if b.Channel < 0 || b.Channel >= len(u.Profile.Channels) {
			return nil, nil, fmt.Errorf("unit %s: no channel number %d in profile %s", u.ID, b.Channel, u.Profile.ID)
		}
		ch := &u.Profile.Channels[b.Channel]
		it := byChannel[b.Channel]
		if it == nil {
			it = &item{span: span{ch.Table, ch.Address, ch.Registers()}, codec: newCodec(ch), name: ch.Name}
			if err := fits(it, ch, lim); err != nil {
				return nil, nil, fmt.Errorf("unit %s: channel %s: %w", u.ID, ch.Name, err)
			}
			byChannel[b.Channel] = it
			order = append(order, b.Channel)
		}
		if b.Def == nil || (b.Def.Kind == telemetry.KindText) != (ch.Encoding == firmwareconfig.EncString) {
			return nil, nil, fmt.Errorf("unit %s: channel %s: text, and nothing else, comes from a string", u.ID, ch.Name)
		}
		p := &point{id: b.Point, binder: newBinder(b), sours: sours}
		it.points = append(it.points, p)
		points = append(points, p)
		life[b.Channel] = life[b.Channel] || b.Def.LifeSafety
	}

	var groups []*group
	type place struct {
		g  *group
		at span
	}
	words := map[place]*word{}
	// A word is read with each group that needs it, so that it is as fresh as the value.
	dependOn := func(g *group, table firmwareconfig.Table, addr int, name string) (*word, error) {
		at := span{table, addr, 1}
		w := words[place{g, at}]
		if w != nil {
			return w, nil
		}
		w = &word{}
		words[place{g, at}] = w
		if addr < 0 || addr > 0xFFFF || table < firmwareconfig.Coil || table > firmwareconfig.InputRegister {
			return nil, fmt.Errorf("unit %s: %s: table %d address %d", u.ID, name, table, addr)
		}
		g.items = append(g.items, &item{span: at, keeps: w, name: name})
		return w, nil
	}
	for _, n := range order {
		it, ch := byChannel[n], &u.Profile.Channels[n]
		every := ch.Every
		if every <= 0 {
			every = ordinaryEvery
			if life[n] {
				every = lifeSafetyEvery
			}
		}
		i := slices.IndexFunc(groups, func(g *group) bool { return g.life == life[n] && g.every == every })
		if i < 0 {
			i = len(groups)
			groups = append(groups, &group{life: life[n], every: every})
		}
		g := groups[i]
		var err error
		if v := ch.Valid; v != nil {
			if it.valid, err = dependOn(g, v.Table, v.Address, "validity of "+ch.Name); err != nil {
				return nil, nil, err
			}
			it.judge = v
		}
		if f := ch.ScaleFrom; f != nil {
			if it.scale, err = dependOn(g, f.Table, f.Address, "scale of "+ch.Name); err != nil {
				return nil, nil, err
			}
		}
		g.items = append(g.items, it)
	}
	slices.SortStableFunc(groups, func(a, b *group) int {
		if a.life != b.life {
			if a.life {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.every, b.every)
	})
	return groups, points, nil
}

// blocksOf covers the groups. Within each, blocks with words come first: what depends on them is read after.
func blocksOf(groups []*group, lim limits, holes []span) []*block {
	var blocks []*block
	for _, g := range groups {
		c := cover(g.items, lim, holes)
		slices.SortStableFunc(c, func(a, b *block) int { return cmp.Compare(b.keeping(), a.keeping()) })
		for _, bl := range c {
			bl.every, bl.life, bl.leans = g.every, g.life, leans(bl)
		}
		blocks = append(blocks, c...)
	}
	return blocks
}

// leans reports whether values of bl depend on words in other blocks.
func leans(bl *block) bool {
	own := map[*word]bool{nil: true}
	for _, it := range bl.items {
		own[it.keeps] = true
	}
	return slices.ContainsFunc(bl.items, func(it *item) bool { return !own[it.valid] || !own[it.scale] })
}

// keeping returns 1 where the block holds a word, else 0.
func (bl *block) keeping() int {
	for _, it := range bl.items {
		if it.keeps != nil {
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
	case ch.Encoding < firmwareconfig.EncBool || ch.Encoding > firmwareconfig.EncString:
		return fmt.Errorf("no encoding %d", ch.Encoding)
	case it.table.Bits() && ch.Encoding != firmwareconfig.EncBool:
		return fmt.Errorf("table %d holds bits only", it.table)
	case it.count < 1:
		return errors.New("it takes no register")
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
func (bl *block) split() []*block {
	at, widest, end := 0, -1, 0
	for i, it := range bl.items {
		if gap := it.addr - end; i > 0 && gap >= 0 {
			middle := func(n int) int { return -abs(2*n - len(bl.items)) }
			if gap > widest || gap == widest && middle(i) > middle(at) {
				at, widest = i, gap
			}
		}
		end = max(end, it.end())
	}
	if widest < 0 {
		return nil
	}
	parts := [2][]*item{bl.items[:at], bl.items[at:]}
	var out []*block
	for _, items := range parts {
		out = append(out, bl.of(items))
	}
	return out
}

// of returns a block like bl with a part of its items.
func (bl *block) of(items []*item) *block {
	n := *bl
	n.items, n.addr, n.count, n.fails = slices.Clip(items), items[0].addr, 0, 0
	n.reqs, n.part, n.answers, n.whole, n.quick, n.keeps = requests{}, nil, false, nil, nil, false
	for _, it := range items {
		n.count = max(n.count, it.end()-n.addr)
	}
	return &n
}

func abs(n int) int {
	if n < 0 {
		return -n
	}
	return n
}
