package modbus

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"linli/internal/telemetry"
)

// Budget is what a bus will cost, computed before it runs from baud, gaps, turnarounds and the plan.
type Budget struct {
	Bus string
	// Occupancy is the share of the line's time that the plan takes, pauses that the whole line keeps for a unit
	// included: 1 is all of it. Writes, tools and the dead-time share come on top.
	Occupancy float64
	Groups    []GroupBudget // life safety first, then by interval
	// DeadReturn is the longest time until a unit that was dead is read again, with half of the units dead.
	DeadReturn time.Duration
	Units      []UnitBudget // most expensive first
	// Problems are what cannot be met, each with its arithmetic. Such a bus is read as often as can be.
	Problems []string
}

// GroupBudget is one class of points that are read at one interval.
type GroupBudget struct {
	LifeSafety bool
	Every      time.Duration // as asked for
	Cycle      time.Duration // as it will be: the longest time between two readings
	Requests   int           // in one round; fewer than asked for by themselves where points are read along with others
	Points     int
	Time       time.Duration // line time of one round of the group by itself
}

// UnitBudget is one unit's part.
type UnitBudget struct {
	Unit     string
	Share    float64 // of the line's time
	Requests int     // in one round of all its groups
}

const (
	// rehearsed bounds the time that a rehearsal covers, rehearsedLeast is the least.
	rehearsed      = 10 * time.Minute
	rehearsedLeast = 30 * time.Second
	// saturated is the occupancy of a line on which always somebody waits.
	saturated = 0.98
)

// ComputeBudget returns the budget of a bus: it rehearses the scheduler itself on a line whose units all answer after
// their usual turnaround, which takes some milliseconds. Over TCP only turnarounds and pauses cost time.
func ComputeBudget(c Config) (Budget, error) {
	c.Log, c.Clock = nil, telemetry.NewClock("", 0, time.Time{})
	if err := c.validate(); err != nil {
		return Budget{}, err
	}
	b, err := newBus(c, nil)
	if err != nil {
		return Budget{}, err
	}
	r := b.rehearse()
	demand := 0.0
	for _, u := range b.units {
		demand += u.demand()
	}
	out := Budget{Bus: b.name, Occupancy: r.busy, DeadReturn: b.deadReturn()}
	if r.busy > saturated {
		out.Occupancy = max(r.busy, demand)
	}
	for _, u := range b.units {
		out.Units = append(out.Units, UnitBudget{Unit: u.cfg.ID, Share: r.shares[u.index], Requests: len(u.blocks)})
	}
	slices.SortStableFunc(out.Units, func(a, b UnitBudget) int { return cmp.Compare(b.Share, a.Share) })
	out.Groups = b.groupBudgets(r)
	for _, g := range out.Groups {
		if p := b.lifeProblem(g); p != "" {
			out.Problems = append(out.Problems, p)
		}
	}
	if out.Occupancy > 1 {
		out.Problems = append(out.Problems, b.overload(&out))
	}
	return out, nil
}

// cost is the line time of one read, or of several.
type cost struct {
	n                                    int
	request, turnaround, answer, silence time.Duration
	same                                 bool // all alike
}

func (c cost) total() time.Duration { return c.request + c.turnaround + c.answer + c.silence }

func (c cost) plus(o cost) cost {
	if c.n == 0 {
		return o
	}
	same := c.same && o.same && c.request*time.Duration(o.n) == o.request*time.Duration(c.n) && c.total()*time.Duration(o.n) == o.total()*time.Duration(c.n)
	return cost{c.n + o.n, c.request + o.request, c.turnaround + o.turnaround, c.answer + o.answer, c.silence + o.silence, same}
}

func (c cost) String() string {
	if c.n > 1 && c.same {
		n := time.Duration(c.n)
		return fmt.Sprintf("%d requests x (%s request + %s turnaround + %s answer + %s silence)",
			c.n, ms(c.request/n), ms(c.turnaround/n), ms(c.answer/n), ms(c.silence/n))
	}
	return fmt.Sprintf("%s (%s of requests + %s turnaround + %s of answers + %s silence)",
		requestsOf(c.n), ms(c.request), ms(c.turnaround), ms(c.answer), ms(c.silence))
}

func requestsOf(n int) string {
	if n == 1 {
		return "1 request"
	}
	return fmt.Sprintf("%d requests", n)
}

// ms writes a duration of milliseconds with the digits that matter.
func ms(d time.Duration) string {
	switch f := float64(d) / float64(time.Millisecond); {
	case f >= 999.5:
		return fmt.Sprintf("%.3gs", d.Seconds())
	case f >= 10 || f == float64(int(f)):
		return fmt.Sprintf("%.0f ms", f)
	default:
		return fmt.Sprintf("%.1f ms", f)
	}
}

// cost returns what reading s of a unit takes, without the pauses that it wants.
func (u *unit) cost(s span) cost {
	l := u.bus.line
	request := l.wire(requestSize)
	return cost{n: 1, request: request, turnaround: u.delay, answer: l.frames(s.count, s.table.Bits()) - request, silence: l.quiet, same: true}
}

// demand returns the share of the line that the unit asks for, also where there is no such share.
func (u *unit) demand() float64 {
	blocks := slices.Clone(u.blocks)
	slices.SortStableFunc(blocks, func(a, b *block) int { return cmp.Compare(a.every, b.every) })
	share, lim := 0.0, u.bounds()
	for i, bl := range blocks {
		own := u.cost(bl.span).total()
		for _, o := range blocks[:i] {
			if both, ok := lim.join(o.span, bl.span, u.holes); ok && !bl.leans && !bl.hole && !o.hole {
				own = u.cost(both).total() - u.cost(o.span).total()
				break
			}
		}
		if i == 0 || bl.every != blocks[i-1].every {
			own += u.cfg.Profile.Timing.SwitchGap
		}
		share += float64(own) / float64(bl.every)
	}
	return share
}

// rehearsal is how a bus runs when every unit answers.
type rehearsal struct {
	busy   float64
	shares []float64                // of the line's time, by unit
	cycles map[*block]time.Duration // the longest time between two readings
	reads  map[*block]int
	own    map[*block]int // of reads: not along with another block
}

// rehearse runs the scheduler in virtual time. The bus is of no use afterwards.
func (b *Bus) rehearse() rehearsal {
	var longest, round time.Duration
	r := rehearsal{shares: make([]float64, len(b.units)), cycles: map[*block]time.Duration{}, reads: map[*block]int{}, own: map[*block]int{}}
	for _, u := range b.units {
		u.online, u.met = true, true
		for _, bl := range u.blocks {
			longest = max(longest, bl.every)
			round += u.cost(bl.span).total()
		}
	}
	// On a line that is asked too much of, a few rounds of everything take longer than any interval.
	from := telemetry.Mono(min(max(longest, 3*round, rehearsedLeast), rehearsed))
	window := time.Duration(from)
	end := from.Add(window)
	last := map[*block]telemetry.Mono{}
	settled := map[*block]bool{} // it has left the round at the start for its grid
	var now telemetry.Mono
	var busy time.Duration
	b.start(now)
	for now < end {
		bl, next := b.pick(now)
		if bl == nil {
			now = next // At the latest when something is due; Never ends the rehearsal.
			continue
		}
		u := bl.unit
		began := b.chosen(bl, now)
		c := u.cost(b.gather(bl, now))
		if idle := now.Sub(b.lastEnd); b.lastUnit >= 0 {
			c.silence = max(0, c.silence-idle) // It has passed while nobody was asked.
		}
		now = now.Add(c.total())
		b.left(u, now)
		if began >= from {
			took := min(now, end).Sub(began)
			busy += took
			r.shares[u.index] += float64(took) / float64(window)
			r.own[bl]++
		}
		for i, p := range b.party {
			if at, ok := last[p]; ok {
				if settled[p] && now >= from {
					r.cycles[p] = max(r.cycles[p], now.Sub(at))
				}
				settled[p] = true
			}
			if last[p] = now; began >= from {
				r.reads[p]++
			}
			p.schedule(now, i > 0)
		}
	}
	r.busy = float64(busy) / float64(window)
	for _, u := range b.units {
		for _, bl := range u.blocks {
			if r.reads[bl] == 0 { // Too rare to be seen.
				share := float64(u.cost(bl.span).total()) / float64(bl.every)
				r.busy += share
				r.shares[u.index] += share
				r.reads[bl], r.own[bl] = 1, 1
			}
		}
	}
	return r
}

// groupBudgets sums up what was rehearsed by what the points want.
func (b *Bus) groupBudgets(r rehearsal) []GroupBudget {
	var out []GroupBudget
	var own, reads, blocks []int
	for _, u := range b.units {
		for _, bl := range u.blocks {
			i := slices.IndexFunc(out, func(g GroupBudget) bool { return g.LifeSafety == bl.life && g.Every == bl.every })
			if i < 0 {
				i = len(out)
				out = append(out, GroupBudget{LifeSafety: bl.life, Every: bl.every, Cycle: bl.every})
				own, reads, blocks = append(own, 0), append(reads, 0), append(blocks, 0)
			}
			g := &out[i]
			g.Time += u.cost(bl.span).total()
			g.Cycle = max(g.Cycle, r.cycles[bl])
			for _, it := range bl.items {
				g.Points += len(it.points)
			}
			own[i], reads[i], blocks[i] = own[i]+r.own[bl], reads[i]+r.reads[bl], blocks[i]+1
		}
	}
	for i := range out {
		// Of all readings, the part that took a request of its own.
		out[i].Requests = (own[i]*blocks[i] + reads[i]/2) / reads[i]
	}
	slices.SortStableFunc(out, func(a, b GroupBudget) int {
		if a.LifeSafety != b.LifeSafety {
			if a.LifeSafety {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.Every, b.Every)
	})
	return out
}

// lifeProblem says why a life-safety group cannot keep its interval even with the worst that may come between: the
// longest other request that is answered, and one write. A unit that falls silent adds its timeout twice, and is not
// counted: while it does, its own points are the news.
func (b *Bus) lifeProblem(g GroupBudget) string {
	if !g.LifeSafety {
		return ""
	}
	var round cost
	var other, write, pause time.Duration
	slow := ""
	for _, u := range b.units {
		var own cost
		for _, bl := range u.blocks {
			c := u.cost(bl.span)
			if !bl.life {
				other = max(other, c.total()+u.cfg.Profile.Timing.SwitchGap)
				continue
			}
			for range max(1, int((g.Every+bl.every-1)/bl.every)) {
				own = own.plus(c)
			}
		}
		if own.n == 0 {
			continue
		}
		round = round.plus(own)
		round.silence += u.cfg.Profile.Timing.SwitchGap
		round.same = round.same && u.cfg.Profile.Timing.SwitchGap == 0
		if alone := own.total() + time.Duration(own.n)*u.cfg.Profile.Timing.Gap; alone > max(g.Every, pause) {
			pause = alone
			slow = fmt.Sprintf("bus %s: life-safety points of unit %s are wanted every %v, but its %s with the pause of %v after each take %s",
				b.name, u.cfg.ID, g.Every, requestsOf(own.n), u.cfg.Profile.Timing.Gap, ms(alone))
		}
	}
	for _, o := range b.out {
		l := b.line
		sent := l.wire(requestSize+requestSize) + o.unit.delay + l.quiet
		back := o.unit.cost(span{o.codec.ch.Table, o.codec.ch.Address, o.codec.ch.Registers()}).total()
		write = max(write, sent+back+o.unit.cfg.Profile.Timing.SwitchGap)
	}
	worst := round.total() + other + write
	if worst <= g.Every {
		return slow
	}
	var text strings.Builder
	fmt.Fprintf(&text, "bus %s: life-safety points are wanted every %v, but one round takes %s", b.name, g.Every, ms(worst))
	fmt.Fprintf(&text, ": %v = %s", round, ms(round.total()))
	if other > 0 {
		fmt.Fprintf(&text, ", the longest other request %s", ms(other))
	}
	if write > 0 {
		fmt.Fprintf(&text, ", a write that is read back %s", ms(write))
	}
	return text.String()
}

// overload says that the line has not the time for what is wanted of it.
func (b *Bus) overload(o *Budget) string {
	var all cost
	for _, u := range b.units {
		for _, bl := range u.blocks {
			all = all.plus(u.cost(bl.span))
		}
	}
	var most []string
	for _, u := range o.Units[:min(3, len(o.Units))] {
		most = append(most, fmt.Sprintf("%s %.0f %%", u.Unit, 100*u.Share))
	}
	return fmt.Sprintf("bus %s: the points want %.0f %% of the line: one reading of each takes %s, %v; most of it: %s; poll more rarely, use a higher baud rate or another bus",
		b.name, 100*o.Occupancy, ms(all.total()), all, strings.Join(most, ", "))
}

// deadReturn returns the longest time until a unit that was dead is read again, with half of the units dead: one round
// of probes within the dead-time share.
func (b *Bus) deadReturn() time.Duration {
	var sum, longest time.Duration
	for _, u := range b.units {
		frames := b.line.frames(1, false) + b.line.quiet
		short := min(u.timeout, max(minProbe, 2*u.delay)) + frames
		full := u.timeout + frames
		if b.line.hold > 0 {
			full = min(full, holdMax)
		}
		sum += ((fullEvery-1)*short + full) / fullEvery
		longest = max(longest, full)
	}
	if len(b.units) == 0 {
		return 0
	}
	mean := sum / time.Duration(len(b.units))
	dead := time.Duration((len(b.units) + 1) / 2)
	// When it is due the share may just have been used for another one.
	return max(rarestProbe, time.Duration(float64(dead*mean)/deadShare)) + time.Duration(float64(longest)/deadShare)
}
