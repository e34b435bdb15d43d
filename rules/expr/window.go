package expr

import (
	"math"

	"linli/internal/telemetry"
)

// Window follows one value over the last stretch of time, sample-and-hold and weighted by time: a value counts for
// as long as it stood, not for how often it was sampled. What happens at one moment belongs to the window until that
// moment is as long ago as the window is long, and not any more then.
//
// It keeps at most about Spans spans of time, each the sum over what happened within it; a value that stood alone
// in its span is exact. What changed faster than 1/Spans of the window shares a span, and such a span leaves the
// window evenly rather than as it happened (what is counted leaves at once): that is the whole error, at most 1/Spans
// of the window at its old end.
//
// A window is decided where it was known for at least its coverage, a share of its length, over what was known. Below
// that, duration_true, the counts, max and min still give the bound that is certain, and the others are unknown.
type Window struct {
	*target
	id     string // of the device; empty for the subject itself
	device int32  // with node what a second place that asks for the same, and an explanation, find the window by

	noLo  int32 // rows with time without a lower, an upper bound: their sums are infinite
	noHi  int32
	pops  int32      // since total was last summed afresh: differences of floats drift
	total [3]float64 // of all closed time in the rows, less what has no bound
	rows  rows

	at     telemetry.Mono // everything before at is in the rows
	cur    Num            // value since at
	sum    Num            // what cur adds to the sums in each nanosecond
	last   Num            // last known value, of those that count changes; of counters, the last exact one
	lastAt telemetry.Mono // of counters: until when last stood
	events uint32         // of event points: how many of them have been counted
	began  bool
	seen   bool      // last is set
	mixed  bool      // the newest span holds more than one value
	most   *extremes // of max_over_time and min_over_time
	order  *order    // of quantile_over_time
}

// target is what a window follows and how: the same for all subjects of one shape.
type target struct {
	fn       function
	length   telemetry.Mono
	step     telemetry.Mono // shortest span
	coverage float64
	quantile float64 // of quantile_over_time
	num      func(*Frame) Num
	tri      func(*Frame) Tri
	event    int // of count_over_time of events: the operand that is the event point, else -1
	node     *Node
}

// extremes are those of both bounds.
type extremes struct{ lo, hi extreme }

// order is the rows that were known, by the means of their bounds.
type order struct {
	byLo sorted
	byHi sorted // used while wide is not 0
	wide int    // rows whose means have bounds that differ
}

// Coverage is how much of a window must be known where its rule says nothing else.
const Coverage = 0.75

// function is a function over time.
type function uint8

// The functions over time that a Window computes.
const (
	durationTrue function = iota + 1
	average
	integral
	leq
	quantile
	maximum
	minimum
	changes
	count
	increase
	rate
	delta
)

func functionOf(name string) function {
	switch name {
	case "duration_true":
		return durationTrue
	case "avg_over_time":
		return average
	case "integral":
		return integral
	case "leq":
		return leq
	case "quantile_over_time":
		return quantile
	case "max_over_time":
		return maximum
	case "min_over_time":
		return minimum
	case "changes":
		return changes
	case "count_over_time":
		return count
	case "increase":
		return increase
	case "rate":
		return rate
	}
	return delta
}

// The columns of a row. Each row has the time for which something was known, in nanoseconds; what else is said here.
const (
	colKnown = 0
	colLo    = 1 // sums of the bounds, value times nanoseconds; of quantiles, their means; of delta, the first value
	colHi    = 2
	colCount = 1 // how often something happened, or how far a counter rose
	colMaybe = 2 // of events: how often it may have happened besides
)

// width is how many columns a row of the function's windows has.
func (f function) width(conditional bool) int {
	switch f {
	case maximum, minimum:
		return 1
	case durationTrue, changes, increase, rate:
		return 2
	case count:
		if !conditional {
			return 2
		}
	}
	return 3
}

// sums reports whether the window adds values up over time.
func (f function) sums() bool { return f >= durationTrue && f <= leq }

// counts reports whether the window adds up what happened at moments.
func (f function) counts() bool { return f >= changes && f <= rate }

func newWindow(n *Node, device int, id string, coverage float64) *Window {
	w := &Window{device: int32(device), id: id, target: &target{fn: functionOf(n.Text), length: telemetry.Mono(n.Window), node: n, coverage: coverage, event: -1}}
	w.step = max(w.length/Spans, 1)
	conditional := false
	switch w.fn {
	case quantile:
		w.order = newOrder()
		if len(n.Args) > 0 {
			w.quantile = n.Args[0].Num
		}
	case maximum, minimum:
		w.most = &extremes{}
	}
	if c := n.followed(); c != nil && w.fn == count {
		conditional = c.Event != nil && c.Event != c
	}
	w.rows.width = uint8(w.fn.width(conditional))
	w.cur, w.sum = AnyNum(), AnyNum()
	return w
}

func newOrder() *order { return &order{byLo: sorted{col: colLo}, byHi: sorted{col: colHi}} }

// open starts a new span at t.
func (w *Window) open(t telemetry.Mono, v Num) {
	if w.rows.push(t) && w.fn == quantile {
		w.sort()
	}
	w.mixed = false
	w.first(v)
}

// first notes with what value the newest span begins, for those that ask.
func (w *Window) first(v Num) {
	if w.fn == delta {
		row := w.newest()
		row[colLo], row[colHi] = v.Lo, v.Hi
	}
}

// newest returns the row that the present belongs to.
func (w *Window) newest() []float64 { return w.rows.row(w.rows.n - 1) }

// Update takes the value that holds from now on. It is called at each evaluation, before the value is used.
func (w *Window) Update(now telemetry.Mono, f *Frame) {
	w.advance(now)
	if w.event >= 0 {
		w.happen(now, f)
		return
	}
	w.set(now, w.input(f))
}

func (w *Window) input(f *Frame) Num {
	if w.tri == nil {
		v := w.num(f)
		if (w.fn == increase || w.fn == rate) && !v.Known() {
			return AnyNum() // a counter that is not known exactly is not known
		}
		return v
	}
	switch w.tri(f) {
	case True:
		return Num{1, 1}
	case False:
		return Num{0, 0}
	}
	return AnyNum()
}

// set takes the value v from now on; everything before is booked.
func (w *Window) set(now telemetry.Mono, v Num) {
	if w.began && v == w.cur {
		return
	}
	// Those that add nothing up over time need to tell only what is known from what is not.
	same := !w.fn.sums() && w.fn != quantile && w.fn != delta && w.cur.Nothing() == v.Nothing()
	switch {
	case !w.began:
		w.began = true
		w.open(now, v)
	case same:
	case now-w.rows.start(w.rows.n-1) >= w.step:
		w.open(now, v)
	default:
		w.mixed = true
		if now == w.rows.start(w.rows.n-1) {
			w.first(v) // what stood for no time at all is no beginning
		}
	}
	if (w.fn == increase || w.fn == rate) && !w.cur.Nothing() {
		w.lastAt = now
	}
	if !v.Nothing() {
		w.moment(now, v)
	}
	w.cur, w.sum = v, v
	if w.fn == leq {
		w.sum = Num{energy(v.Lo), energy(v.Hi)}
	}
}

// energy is what a level in decibels stands for.
func energy(db float64) float64 { return math.Pow(10, db/10) }

// moment takes what happens because the value becomes v.
func (w *Window) moment(now telemetry.Mono, v Num) {
	switch w.fn {
	case changes:
		if w.seen && v != w.last {
			w.add(now, 1, 0)
		}
	case count:
		if w.seen && w.last.Lo == 0 && v.Lo == 1 {
			w.add(now, 1, 0)
		}
	case increase, rate:
		w.rise(v.Lo)
	case maximum, minimum:
		w.most.lo.push(v.Lo, now, w.step, w.fn == minimum)
		w.most.hi.push(v.Hi, now, w.step, w.fn == minimum)
		return
	default:
		return
	}
	w.last, w.seen = v, true
}

// add counts what happened now.
func (w *Window) add(now telemetry.Mono, n, maybe float64) {
	if now-w.rows.start(w.rows.n-1) >= w.step {
		w.open(now, w.cur)
	}
	row := w.newest()
	row[colCount] += n
	w.total[colCount] += n
	if maybe > 0 {
		row[colMaybe] += maybe
		w.total[colMaybe] += maybe
	}
}

// rise adds how far a counter rose that is v now, at the moment until which its last value stood: a rise across a gap
// belongs to the window for as long as the gap begins within it.
func (w *Window) rise(v float64) {
	d := v - w.last.Lo
	if d < 0 {
		d = max(v, 0) // it began anew
	}
	if !w.seen || d == 0 || math.IsInf(d, 0) {
		return
	}
	if w.lastAt == w.at {
		w.add(w.at, d, 0)
		return
	}
	for i := w.rows.n - 1; i >= 0; i-- {
		if w.rows.start(i) <= w.lastAt {
			w.rows.row(i)[colCount] += d
			w.total[colCount] += d
			return
		}
	}
}

// happen counts the samples of an event point since the last evaluation.
func (w *Window) happen(now telemetry.Mono, f *Frame) {
	c := f.cell(w.event)
	v := Num{0, 0}
	if c.Seen && c.Quality.Bad() {
		v = AnyNum()
	}
	n := float64(c.Events - w.events)
	if w.events = c.Events; !w.began && c.Time < now {
		n = 0 // it happened before this window began
	}
	w.set(now, v)
	if n == 0 {
		return
	}
	is := True
	if w.tri != nil {
		is = w.tri(f)
	}
	switch is {
	case True:
		w.add(now, n, 0)
	case Unknown:
		w.add(now, 0, n)
	}
}

// advance books the time up to now on the value that held, and forgets what has left the window.
func (w *Window) advance(now telemetry.Mono) {
	if !w.began || now <= w.at {
		w.at = max(w.at, now)
		return
	}
	if !w.cur.Nothing() {
		w.book(float64(now - w.at))
		if w.most != nil {
			w.most.lo.hold(now)
			w.most.hi.hold(now)
		}
	}
	w.at = now
	if w.mixed && now-w.rows.start(w.rows.n-1) >= w.step {
		w.open(now, w.cur)
	}
	cut := now - w.length
	for w.rows.n > 1 && w.rows.start(1) <= cut {
		w.pop()
	}
	if w.pops >= Spans {
		w.resum()
	}
	if w.most != nil {
		w.most.lo.expire(cut)
		w.most.hi.expire(cut)
	}
}

// book adds d nanoseconds of the present value to the newest row.
func (w *Window) book(d float64) {
	if w.fn == delta {
		return
	}
	row := w.newest()
	row[colKnown] += d
	w.total[colKnown] += d
	switch {
	case w.fn == quantile:
		w.remember(row, d)
	case w.fn.sums():
		w.sumUp(row, colLo, w.sum.Lo*d, math.Inf(-1), &w.noLo)
		if len(row) > colHi {
			w.sumUp(row, colHi, w.sum.Hi*d, math.Inf(1), &w.noHi)
		}
	}
}

// sumUp adds v to a sum of a row and to the total; a sum without a bound becomes none, in either.
func (w *Window) sumUp(row []float64, col int, v, none float64, without *int32) {
	if row[col] == none {
		return
	}
	if s := row[col] + v; !math.IsInf(s, 0) {
		row[col] = s
		w.total[col] += v
		return
	}
	w.total[col] -= row[col]
	row[col] = none
	*without++
}

// pop forgets the oldest row.
func (w *Window) pop() {
	row := w.rows.row(0)
	again := false
	switch {
	case w.fn == delta:
	case w.fn == quantile:
		w.total[colKnown] -= row[colKnown]
		if row[colKnown] > 0 {
			w.forget(w.rows.slot(0))
		}
	default:
		for col, v := range row {
			switch {
			case !math.IsInf(v, 0):
				w.total[col] -= v
				// What remains of a far larger sum, or of rises, is rounding.
				again = again || col > colKnown && (w.fn.sums() && math.Abs(v) > 1e6*math.Abs(w.total[col]) ||
					(w.fn == increase || w.fn == rate) && v > 0)
			case col == colLo:
				w.noLo--
			default:
				w.noHi--
			}
		}
	}
	w.rows.pop()
	if w.pops++; again {
		w.resum()
	}
}

// resum sums the rows afresh.
func (w *Window) resum() {
	w.pops, w.total = 0, [3]float64{}
	if w.fn == delta {
		return
	}
	for i := range w.rows.n {
		for col, v := range w.rows.row(i) {
			if !math.IsInf(v, 0) && (w.fn != quantile || col == colKnown) {
				w.total[col] += v
			}
		}
	}
}

// within returns what happened within the window that ends at the last Update.
func (w *Window) within() [3]float64 {
	s := w.total
	cut := w.at - w.length
	if w.rows.n == 0 || w.rows.start(0) > cut {
		return s
	}
	start, end := w.rows.start(0), w.at
	if w.rows.n > 1 {
		end = w.rows.start(1)
	}
	if end <= start {
		return s
	}
	gone, whole := float64(cut-start), float64(end-start)
	for col, v := range w.rows.row(0) {
		switch {
		case col > colKnown && w.fn.counts():
			s[col] -= v // it happened at the start, or within a step of it
		case v == whole:
			s[col] -= gone // exactly
		case !math.IsInf(v, 0):
			s[col] -= v / whole * gone // in this order exact where one value stood alone
		}
	}
	return s
}
