package rules_test

import (
	"math"
	"sort"
	"time"

	"linli/internal/telemetry"
	"linli/rules/expr"
)

// Functions over time and the calendar, for the reference.

// follow is what a function over time follows, of one device: the whole history of an expression.
type follow struct {
	node   *expr.Node
	device int
	is     bool // a condition: 1 or 0
	pieces []piece

	event    *slowPoint       // that the condition reads; nil where it reads none
	happened []telemetry.Mono // when that gave a true condition
	doubtful []telemetry.Mono // when it may have
}

// piece is a value that stood from a moment on.
type piece struct {
	from telemetry.Mono
	v    bounds
}

// followed returns the arguments of n that it follows over time, and the length of time; none of other functions.
func followed(n *expr.Node) (list []*expr.Node, length *expr.Node) {
	if n.Op != expr.OpCall {
		return nil, nil
	}
	last := len(n.Args) - 1
	switch n.Text {
	case "quantile_over_time":
		return n.Args[1:2], n.Args[2]
	case "duration_true", "avg_over_time", "max_over_time", "min_over_time", "changes", "delta", "integral",
		"count_over_time", "increase", "rate", "leq", "sequence":
		return n.Args[:last], n.Args[last]
	}
	return nil, nil
}

// prepare finds what the expression n follows and which points it reads.
func (r *reference) prepare(n *expr.Node, in *slowInstance, member int) {
	if _, ok := r.installed(n, in, member); ok {
		return
	}
	if n.Op == expr.OpPoint || n.Op == expr.OpGroup {
		in.inputs = append(in.inputs, r.pointOf(n, in, member))
		return
	}
	if n.Op == expr.OpCall {
		switch n.Text {
		case "active", "is_a", "within", "schedule", "between", "provided":
			return
		case "silent", "no_reading", "no_protection":
			in.inputs = append(in.inputs, r.providedBy(in.device)...)
		case "faulty":
			for _, p := range r.providedBy(in.device) {
				if p.def.Name == "fault" {
					in.inputs = append(in.inputs, p)
				}
			}
		case "any", "all", "count", "avg", "max", "min", "at_least":
			devices, inner := r.members(n, in)
			for _, d := range devices {
				r.prepare(inner, in, d)
			}
			return
		}
	}
	list, length := followed(n)
	for _, a := range list {
		in.longest = max(in.longest, r.duration(length))
		f := &follow{node: a, device: member, is: r.isCondition(a, in)}
		f.event = r.eventIn(a, in, member)
		in.follows = append(in.follows, f)
	}
	for _, a := range n.Args {
		r.prepare(a, in, member)
	}
}

// eventIn returns the event point that a condition reads itself, nil where there is none.
func (r *reference) eventIn(n *expr.Node, in *slowInstance, member int) *slowPoint {
	switch {
	case n.Op == expr.OpPoint || n.Op == expr.OpGroup:
		if p := r.pointOf(n, in, member); p.def.Event {
			return p
		}
	case n.Op != expr.OpCall:
		for _, a := range n.Args {
			if p := r.eventIn(a, in, member); p != nil {
				return p
			}
		}
	}
	return nil
}

func (in *slowInstance) followOf(n *expr.Node, device int) *follow {
	for _, f := range in.follows {
		if f.node == n && f.device == device {
			return f
		}
	}
	panic("not followed: " + n.String())
}

// note writes down what the followed expression is in this round.
func (r *reference) note(f *follow, in *slowInstance) {
	v := exactly(0)
	switch {
	case f.event != nil:
		// Each good sample counts for which the condition is true. Without a sample nothing has happened, and that is
		// known; only a bad quality leaves open whether something did.
		for k := range f.event.fresh {
			f.event.happened = &f.event.fresh[k]
			bare := f.node.Op == expr.OpPoint || f.node.Op == expr.OpGroup
			t := yes
			if !bare {
				t = r.truth(f.node, in, f.device)
			}
			switch t {
			case yes:
				f.happened = append(f.happened, r.at)
			case dunno:
				f.doubtful = append(f.doubtful, r.at)
			}
			f.event.happened = nil
		}
		if f.event.seen() && !f.event.now().has() {
			v = nothing()
		}
	case f.is:
		switch r.truth(f.node, in, f.device) {
		case yes:
			v = exactly(1)
		case dunno:
			v = nothing()
		}
	default:
		v = r.number(f.node, in, f.device)
	}
	if n := len(f.pieces); n == 0 || f.pieces[n-1].v != v {
		f.pieces = append(f.pieces, piece{r.at, v})
	}
}

// until returns when piece i ended, the present for the one that stands.
func (f *follow) until(i int, now telemetry.Mono) telemetry.Mono {
	if i+1 < len(f.pieces) {
		return f.pieces[i+1].from
	}
	return now
}

// occurrences returns when the followed condition became true, or when the event happened: true now, where the last
// that was known of it was false.
func (f *follow) occurrences() []telemetry.Mono {
	if f.event != nil {
		return f.happened
	}
	var list []telemetry.Mono
	last := nothing()
	for _, p := range f.pieces {
		if p.v == exactly(1) && last == exactly(0) {
			list = append(list, p.from)
		}
		if p.v.known() {
			last = p.v
		}
	}
	return list
}

// stretch is a value and for how many seconds of a window it stood.
type stretch struct {
	v bounds
	d float64
}

// within returns what was known within a window that began at cut, in the order of time. What stands now counts,
// however short a time.
func (f *follow) within(cut, now telemetry.Mono) (list []stretch) {
	for i, p := range f.pieces {
		to := f.until(i, now)
		if to > cut && p.v.known() {
			list = append(list, stretch{p.v, to.Sub(max(p.from, cut)).Seconds()})
		}
	}
	return list
}

func (r *reference) overTime(n *expr.Node, in *slowInstance, member int) bounds {
	what, lengthNode := followed(n)
	f := in.followOf(what[0], member)
	length := r.duration(lengthNode)
	cut := r.at.Add(-length)
	stretches := f.within(cut, r.at)
	known, sum := 0.0, bounds{}
	for _, s := range stretches {
		known += s.d
		if s.d > 0 {
			sum = bounds{sum.lo + s.v.lo*s.d, sum.hi + s.v.hi*s.d}
		}
	}
	if n.Text == "increase" || n.Text == "rate" { // for which a reading beyond the scale says nothing
		known = 0
		for _, s := range stretches {
			if s.v.exact() {
				known += s.d
			}
		}
	}
	covered := known >= in.rule.coverage*length.Seconds()
	switch n.Text {
	case "duration_true":
		if covered {
			return sum
		}
		return bounds{sum.lo, sum.lo + length.Seconds() - known}
	case "max_over_time", "min_over_time":
		return extreme(n.Text, stretches, covered)
	case "changes":
		return atLeast(f.changes(cut), covered)
	case "count_over_time":
		b := atLeast(after(f.occurrences(), cut), covered)
		b.hi += after(f.doubtful, cut)
		return b
	case "increase":
		return atLeast(f.increase(cut), covered)
	case "rate":
		return atLeast(f.increase(cut)/length.Seconds(), covered)
	case "delta":
		return f.delta(cut)
	}
	if !covered {
		return nothing()
	}
	switch n.Text {
	case "integral":
		return sum
	case "avg_over_time":
		return bounds{sum.lo / known, sum.hi / known}
	case "leq":
		return energyMean(stretches, known)
	case "quantile_over_time":
		q := r.literal(n.Args[0])
		lo := quantile(stretches, q*known, bounds.lowEnd)
		hi := quantile(stretches, q*known, bounds.highEnd)
		return bounds{lo, hi}
	}
	panic("no function " + n.Text)
}

// atLeast is a count that is certain as far as it goes, and exact where enough is known.
func atLeast(v float64, covered bool) bounds {
	if covered {
		return exactly(v)
	}
	return bounds{v, math.Inf(1)}
}

func extreme(fn string, stretches []stretch, covered bool) bounds {
	if len(stretches) == 0 {
		return nothing()
	}
	b := stretches[0].v
	for _, s := range stretches {
		if fn == "max_over_time" {
			b = bounds{max(b.lo, s.v.lo), max(b.hi, s.v.hi)}
		} else {
			b = bounds{min(b.lo, s.v.lo), min(b.hi, s.v.hi)}
		}
	}
	switch {
	case covered:
		return b
	case fn == "max_over_time":
		return bounds{b.lo, math.Inf(1)} // what is not known may have been more
	}
	return bounds{math.Inf(-1), b.hi}
}

// after counts the moments after cut.
func after(list []telemetry.Mono, cut telemetry.Mono) float64 {
	n := 0
	for _, t := range list {
		if t > cut {
			n++
		}
	}
	return float64(n)
}

// changes counts how often the known value became another.
func (f *follow) changes(cut telemetry.Mono) float64 {
	n, last, seen := 0.0, bounds{}, false
	for _, p := range f.pieces {
		if !p.v.known() {
			continue
		}
		if seen && p.v != last && p.from > cut {
			n++
		}
		last, seen = p.v, true
	}
	return n
}

// delta is the value now less the value then.
func (f *follow) delta(cut telemetry.Mono) bounds {
	then := nothing()
	for _, p := range f.pieces {
		if p.from <= cut {
			then = p.v
		}
	}
	now := f.pieces[len(f.pieces)-1].v
	if !then.known() || !now.known() {
		return nothing()
	}
	return bounds{now.lo - then.hi, now.hi - then.lo}
}

// increase sums the rises of a counter, which begins anew where it falls.
func (f *follow) increase(cut telemetry.Mono) float64 {
	sum, last := 0.0, math.NaN()
	for i, p := range f.pieces {
		if !p.v.exact() || i+1 < len(f.pieces) && f.pieces[i+1].from <= cut {
			continue // not one value, or gone before the window began
		}
		switch v := p.v.lo; {
		case math.IsNaN(last):
		case v >= last:
			sum += v - last
		default:
			sum += v
		}
		last = p.v.lo
	}
	return sum
}

// energyMean is the mean of levels in dB.
func energyMean(stretches []stretch, known float64) bounds {
	var e bounds
	for _, s := range stretches {
		if s.d > 0 {
			e.lo += math.Pow(10, s.v.lo/10) * s.d
			e.hi += math.Pow(10, s.v.hi/10) * s.d
		}
	}
	return bounds{10 * math.Log10(e.lo/known), 10 * math.Log10(e.hi/known)}
}

// quantile is the smallest of the values for which at least that much time was at it or below.
func quantile(stretches []stretch, least float64, end func(bounds) bounds) float64 {
	list := append([]stretch(nil), stretches...)
	sort.Slice(list, func(i, j int) bool { return end(list[i].v).lo < end(list[j].v).lo })
	sum, v := 0.0, math.NaN()
	for _, s := range list {
		if s.d == 0 {
			continue
		}
		if sum += s.d; math.IsNaN(v) && sum >= least {
			v = end(s.v).lo
		}
	}
	return v
}

// sequence is true where each condition became true after the one before it, the first of them not longer ago than the
// length. One moment may serve two conditions, but not one condition twice.
func (r *reference) sequence(n *expr.Node, in *slowInstance, member int) truth {
	conditions, lengthNode := followed(n)
	cut := r.at.Add(-r.duration(lengthNode))
	at, complete, open := cut, true, false
	used := map[string]telemetry.Mono{}
	for _, c := range conditions {
		f := in.followOf(c, member)
		next := telemetry.Never
		last, again := used[c.String()]
		for _, t := range f.occurrences() {
			if next == telemetry.Never && t > cut && t >= at && !(again && t <= last) {
				next = t
			}
		}
		if next == telemetry.Never {
			complete = false
		} else {
			at = next
			used[c.String()] = next
		}
		open = open || f.pieces[0].from > cut
		for _, t := range f.doubtful {
			open = open || t > cut
		}
		for i, p := range f.pieces {
			open = open || !p.v.known() && (f.until(i, r.at) > cut || i == len(f.pieces)-1)
		}
		if !complete {
			at = telemetry.Never - 1 // nothing comes after what has not come
		}
	}
	switch {
	case complete:
		return yes
	case open:
		return dunno
	}
	return no
}

func (r *reference) between(n *expr.Node) truth {
	if r.local.IsZero() {
		return dunno
	}
	from, to, now := n.Args[0].Text, n.Args[1].Text, r.local.Format("15:04")
	if from <= to {
		return truthOf(from <= now && now < to)
	}
	return truthOf(from <= now || now < to)
}

// slowPeriod is one entry of a schedule.
type slowPeriod struct {
	days     []string // mon to sun, workdays, weekends; none: all
	from, to string   // times of day, or local dates and times
	zones    []string
}

func (r *reference) scheduled(n *expr.Node, in *slowInstance) truth {
	t := no // where there is no entry it is never, whatever the clock says
	for _, p := range r.schedules[n.Args[0].Text] {
		here := len(p.zones) == 0
		for _, id := range p.zones {
			z, _ := r.site.ZoneByID(id)
			here = here || in.zone >= 0 && r.lies(in.zone, z)
		}
		always := len(p.days) == 0 && p.from == "00:00" && p.to == "24:00"
		switch {
		case !here:
		case always:
			return yes
		case r.local.IsZero():
			t = dunno
		case p.open(r.local):
			return yes
		}
	}
	return t
}

func (p slowPeriod) open(now time.Time) bool {
	if len(p.from) > len("15:04") {
		at := now.Format("2006-01-02 15:04")
		return p.from <= at && at < p.to
	}
	clock := now.Format("15:04")
	today, yesterday := p.on(now.Weekday()), p.on((now.Weekday()+6)%7)
	if p.from <= p.to {
		return today && p.from <= clock && clock < p.to
	}
	return today && p.from <= clock || yesterday && clock < p.to
}

// on reports whether the period begins on that day.
func (p slowPeriod) on(day time.Weekday) bool {
	name := [...]string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}[day]
	weekend := day == time.Saturday || day == time.Sunday
	if len(p.days) == 0 {
		return true
	}
	return contains(p.days, name) || contains(p.days, "weekends") && weekend || contains(p.days, "workdays") && !weekend
}
