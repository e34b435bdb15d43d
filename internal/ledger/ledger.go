// Package ledger decides from the rows that the city side keeps of one gateway (docs/wire.md: linli_ledger, linli_loss,
// linli_status) whether everything that it measured in a span of time has arrived, and names what has not.
//
// # The rule
//
// The journal of a gateway numbers its frames from 1 in each epoch without gaps. A message says which frames it holds, and
// by `settled` up to which moment everything that was measured is in frames up to its last one. So a window of time is
// complete when some row has settled past its end, and every frame up to that row's last has arrived or was told as lost.
// Where a row with a higher last frame has settled before the window's end, a clock was set back, and the first one's word
// is void.
//
// Frames are written in the order in which time passes. A frame that is missing therefore holds what was measured between
// its neighbours that arrived; it counts in the windows that this touches, with slack on both sides, and where a
// neighbour's time is not known in all of them on that side.
//
// # Guarantees
//
// Rows may be given in any order, any number of times, in parts and overlapping: the answer is the same. It errs to one
// side: what it calls complete is complete, as far as gateways tell the truth and their clocks are right where they say so.
// Rows whose time is uncertain prove that frames have arrived, and nothing about time. Memory is bounded: a node whose rows
// make more than maxSpans separate pieces has the rest counted as missing.
//
// Nothing here does I/O or reads a clock. A Window belongs to one goroutine.
package ledger

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"
)

// Row is a row of linli_ledger: one message that has been written. Times are nanoseconds since 1970.
type Row struct {
	Epoch       uint64
	From, To    uint64 // frames; To = From-1: none
	Part, Parts int    // 1 of 3; Parts 0 or 1: whole
	T0, T1      int64
	Settled     int64 // 0: not said
	Uncertain   bool  // the gateway's clock was not synchronised
}

// Loss is a row of linli_loss.
type Loss struct {
	Epoch    uint64
	From, To uint64 // both 0: never in a frame
	Count    uint64 // samples, 0: unknown
	Reason   string
	T0, T1   int64
}

// Status is what a row of linli_status says about frames.
type Status struct {
	At            int64
	State, Reason string
	Version       string
	Epoch         uint64 // 0: not said, as by a last will
	NextSeq       uint64 // frames up to NextSeq-1 exist
	Backlog       uint64 // frames that the broker has not acknowledged
}

// Offline reports whether the gateway was not connected.
func (s *Status) Offline() bool { return s.State == "offline" }

// Reason says why something is not there.
type Reason string

// The reasons that are not a gateway's. Losses that it has told have its own word (space, age, damage, ...).
const (
	Missing   Reason = "missing"   // the frames exist and did not arrive
	Backlog   Reason = "backlog"   // the same, and the gateway says that it still has so many to send
	Silent    Reason = "silent"    // nothing was heard of the gateway since
	Open      Reason = "open"      // it has not said yet that this was all
	Replaced  Reason = "replaced"  // another journal began (a new disk), and what the old one held last nobody knows
	Uncertain Reason = "uncertain" // it has said that this was all, but not by a clock that was right
)

// Gap is something that is not there.
type Gap struct {
	Reason   Reason
	Told     bool   // the gateway has told it as lost: it counts as settled, and nobody needs to look for it
	Epoch    uint64 // 0: unknown
	From, To uint64 // frames; both 0: none, or unknown which
	Count    uint64 // samples that were told as lost, 0: unknown
	// Begin and End are the moments between which it was measured, 0 where unknown.
	Begin, End int64
}

// Frames returns how many frames are not there.
func (g *Gap) Frames() uint64 {
	if g.From == 0 {
		return 0
	}
	return g.To - g.From + 1
}

// Report is the answer for one window.
type Report struct {
	From, To int64 // the window: From <= time < To
	// Complete: all of it has arrived or was told as lost.
	Complete bool
	Gaps     []Gap  // what has not, and the losses; by epoch and frame
	Frames   uint64 // arrived with times in the window
	Missing  uint64 // frames of the gaps that were not told
	Lost     uint64 // frames told as lost
	Samples  uint64 // samples told as lost, as far as known
	Heard    int64  // the last moment of which there is a row, 0: never
	Settled  int64  // everything until then is in frames that are known of; 0: never said
	Status   Status // the last
	// Whole is the epoch, where only one is known of, the window is settled in it, and not one frame up to there is missing or
	// told as lost, be it of another time; 0 otherwise. Then it can become incomplete only by what says so itself, see Seal.
	Whole uint64
}

// State returns one word for the report: complete, losses (complete but for what was told as lost), or the reason of its
// worst gap.
func (r *Report) State() string {
	order := [...]Reason{Missing, Replaced, Backlog, Silent, Uncertain, Open}
	if !r.Complete {
		for _, reason := range order {
			if slices.ContainsFunc(r.Gaps, func(g Gap) bool { return !g.Told && g.Reason == reason }) {
				return string(reason)
			}
		}
	}
	if len(r.Gaps) > 0 {
		return "losses"
	}
	return "complete"
}

const (
	// slack is how much later than it was taken a sample may be committed, and more: the uplink grants 10 s.
	slack = time.Minute
	// silentAfter is how long nothing may be heard of a node that says something every minute.
	silentAfter = 5 * time.Minute
	// inFlight is more frames than are on their way while all is well.
	inFlight = 16
	maxSpans = 1 << 17

	// Times that are not known: nothing bounds the gap on this side.
	never   = math.MinInt64
	forever = math.MaxInt64
)

// Window collects the rows of one node that say something about one span of time.
type Window struct {
	from, to int64
	epochs   map[uint64]*epoch
	stray    map[Loss]bool // losses that were in no frame
	status   Status
}

// epoch is what is known of one journal.
type epoch struct {
	id       uint64
	arrived  spans
	base     uint64 // frames up to here are of an earlier time, the last of them of baseTime
	baseTime int64
	lowest   uint64 // of the rows whose time is in the window or later; 0: none
	within   spans  // of these, rows whose time is in the window
	told     map[Loss]bool
	parts    map[partKey]*partSet
	marks    map[uint64]int64 // next frame at a moment: those before it exist since then
	top      uint64           // the highest frame that is known of
	closers  []uint64         // last frames of rows that have settled past the window's end
	open     uint64           // the highest last frame of a row that has settled before it
	doubtful bool             // a row of an uncertain clock is of a time past it
	begun    int64            // the first moment, forever: none
	heard    int64            // the last, never: none
	settled  int64
	final    *Status // the last, where it has an epoch
}

type partKey struct {
	from, to uint64
	parts    int
}

type partSet struct {
	seen        map[int]bool
	first, last int64
	inside      bool // one of them has its time in the window
}

// NewWindow returns an empty collection for the time from <= t < to, nanoseconds since 1970.
func NewWindow(from, to int64) *Window {
	return &Window{from: from, to: to, epochs: map[uint64]*epoch{}, stray: map[Loss]bool{}}
}

func (w *Window) epoch(id uint64) *epoch {
	e := w.epochs[id]
	if e == nil {
		e = &epoch{id: id, told: map[Loss]bool{}, parts: map[partKey]*partSet{}, marks: map[uint64]int64{}, begun: forever, heard: never}
		w.epochs[id] = e
	}
	return e
}

// Base says that the frames of epoch up to and including to, the last of them measured at t, are of an earlier time:
// whether they have arrived does not matter here. Where rows of the window say that some of them are not, they are not: a clock
// was set back.
func (w *Window) Base(epoch, to uint64, t int64) {
	if to == 0 {
		return
	}
	e := w.epoch(epoch)
	if to > e.base {
		e.base, e.baseTime = to, t
	}
	e.top = max(e.top, to)
	e.open = max(e.open, to) // what settles the window has higher frames than what was before it
	e.begun = min(e.begun, t)
	e.hear(t)
}

// withBase returns what has arrived, and what is of an earlier time.
func (e *epoch) withBase() spans {
	all := *e.arrived.clone()
	switch {
	case e.lowest == 0 || e.lowest > e.base:
		all.add(1, e.base+1, forever, e.baseTime-int64(slack))
	default:
		all.add(1, e.lowest, forever, never)
	}
	return all
}

func (e *epoch) hear(t int64) { e.heard = max(e.heard, t) }

// Row takes a row of the ledger.
func (w *Window) Row(r Row) {
	if r.From == 0 || r.To+1 < r.From || r.To >= math.MaxInt64 || r.Parts > 1 && (r.Part < 1 || r.Part > r.Parts) {
		return // cannot be: ingest refuses such headers
	}
	e := w.epoch(r.Epoch)
	empty := r.To+1 == r.From
	// What is in later frames was measured after last; what is in earlier ones was written before first.
	first, last := max(r.T1, r.Settled), r.T1-int64(slack)
	if r.Uncertain {
		first, last = forever, never
		e.doubtful = e.doubtful || r.T1 >= w.to
	} else {
		e.hear(first)
		e.begun = min(e.begun, r.T0)
		if r.Settled != 0 {
			last = max(last, r.Settled)
			e.settle(&r, w.to)
		}
	}
	e.top = max(e.top, r.To)
	if empty {
		e.mark(r.From, first)
		return
	}
	if !r.Uncertain && r.T1 >= w.from && (e.lowest == 0 || r.From < e.lowest) {
		e.lowest = r.From
	}
	inside := r.T1 >= w.from && r.T1 < w.to
	if r.Parts > 1 {
		e.mark(r.To+1, first)
		p := e.part(&r, first, last, inside)
		if p == nil {
			return
		}
		first, last, inside = p.first, p.last, p.inside
	}
	e.arrived.add(r.From, r.To+1, first, last)
	if inside {
		e.within.add(r.From, r.To+1, 0, 0)
	}
}

// settle notes what a row says of the time until which everything is in frames.
func (e *epoch) settle(r *Row, to int64) {
	e.settled = max(e.settled, r.Settled)
	if r.Settled < to {
		e.open = max(e.open, r.To)
		return
	}
	if len(e.closers) >= maxSpans {
		slices.Sort(e.closers) // those of higher frames ask for more
		e.closers = slices.Delete(e.closers, 0, len(e.closers)/2)
	}
	e.closers = append(e.closers, r.To)
}

// closed returns the frame up to which everything must have arrived, false where the window is not settled.
func (e *epoch) closed() (to uint64, ok bool) {
	for _, c := range e.closers {
		if c >= e.open && (!ok || c < to) {
			to, ok = c, true
		}
	}
	return to, ok
}

// mark notes that the frames before next existed at t.
func (e *epoch) mark(next uint64, t int64) {
	if old, ok := e.marks[next]; ok {
		t = min(t, old)
	} else if len(e.marks) >= maxSpans {
		return
	}
	e.marks[next] = t
}

// part notes one part of a frame and returns the frame when all of them are there.
func (e *epoch) part(r *Row, first, last int64, inside bool) *partSet {
	key := partKey{r.From, r.To, r.Parts}
	p := e.parts[key]
	if p == nil {
		if len(e.parts) >= maxSpans {
			return nil
		}
		p = &partSet{seen: map[int]bool{}, first: forever, last: never}
		e.parts[key] = p
	}
	p.seen[r.Part] = true
	p.first, p.last, p.inside = min(p.first, first), max(p.last, last), p.inside || inside
	if len(p.seen) < r.Parts {
		return nil
	}
	return p
}

// Loss takes a row of a loss.
func (w *Window) Loss(l Loss) {
	if l.From == 0 {
		if l.T0 < w.to && l.T1 >= w.from && len(w.stray) < maxSpans {
			w.stray[l] = true
		}
		return
	}
	if l.From > l.To || l.To >= math.MaxInt64 {
		return
	}
	if e := w.epoch(l.Epoch); len(e.told) < maxSpans {
		e.told[l] = true
		e.top = max(e.top, l.To)
	}
}

// Status takes a row of a status.
func (w *Window) Status(s Status) {
	if s.At >= w.status.At {
		epoch, next, version := w.status.Epoch, w.status.NextSeq, w.status.Version
		w.status = s
		if s.Epoch == 0 { // a will says nothing but that
			w.status.Epoch, w.status.NextSeq, w.status.Version = epoch, next, version
		}
	}
	if s.Epoch == 0 || s.NextSeq == 0 {
		return
	}
	e := w.epoch(s.Epoch)
	e.hear(s.At)
	e.mark(s.NextSeq, s.At)
	e.top = max(e.top, s.NextSeq-1)
	if e.final == nil || s.At >= e.final.At {
		e.final = &s
	}
}

// Report answers for the window, by what is known now (nanoseconds since 1970).
func (w *Window) Report(now int64) Report {
	r := Report{From: w.from, To: w.to, Status: w.status, Complete: true}
	r.Heard = w.status.At
	order := make([]*epoch, 0, len(w.epochs))
	for _, e := range w.epochs {
		if e.heard != never {
			r.Heard = max(r.Heard, e.heard)
		}
		r.Settled = max(r.Settled, e.settled)
		order = append(order, e)
	}
	slices.SortFunc(order, func(a, b *epoch) int { return cmp.Or(cmp.Compare(a.heard, b.heard), cmp.Compare(a.id, b.id)) })
	for i, e := range order {
		own := e.arrived
		e.arrived = e.withBase()
		defer func() { e.arrived = own }()
		var next *epoch
		if i+1 < len(order) {
			next = order[i+1]
		}
		w.frames(&r, e)
		w.tail(&r, e, next, now)
	}
	if len(order) == 1 && len(w.stray) == 0 {
		e := order[0]
		if to, ok := e.closed(); ok && len(e.arrived.holes(1, to)) == 0 {
			r.Whole = e.id
		}
	}
	if len(order) == 0 {
		r.Gaps = append(r.Gaps, Gap{Reason: Silent, Begin: r.Heard, End: w.to})
	}
	for l := range w.stray {
		r.Gaps = append(r.Gaps, Gap{Reason: Reason(l.Reason), Told: true, Epoch: l.Epoch, Count: l.Count, Begin: l.T0, End: l.T1})
	}
	rank := map[uint64]int{}
	for i, e := range order {
		rank[e.id] = i
	}
	slices.SortStableFunc(r.Gaps, func(a, b Gap) int {
		return cmp.Or(cmp.Compare(rank[a.Epoch], rank[b.Epoch]), cmp.Compare(a.From, b.From), cmp.Compare(a.Begin, b.Begin),
			cmp.Compare(a.End, b.End), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Count, b.Count))
	})
	for _, g := range r.Gaps {
		if g.Told {
			r.Lost += g.Frames()
			r.Samples += g.Count
		} else {
			r.Missing += g.Frames()
			r.Complete = false
		}
	}
	return r
}

// Add puts the report of a later part of a span of time into that of the parts before it: a gap that both name counts once.
// Tails that follow on each other (silent, open, ...) become one.
func (r *Report) Add(part Report) {
	r.Complete = r.Complete && part.Complete
	r.Frames += part.Frames
	r.Heard, r.Settled = max(r.Heard, part.Heard), max(r.Settled, part.Settled)
	if part.Status.At >= r.Status.At {
		r.Status = part.Status
	}
	r.Whole = 0
	for _, g := range part.Gaps {
		if i := slices.IndexFunc(r.Gaps, func(o Gap) bool { return o.continues(&g) }); i >= 0 {
			if g.From == 0 && !g.Told {
				r.Gaps[i].End = max(r.Gaps[i].End, g.End)
			}
			continue
		}
		r.Gaps = append(r.Gaps, g)
		if g.Told {
			r.Lost += g.Frames()
			r.Samples += g.Count
		} else {
			r.Missing += g.Frames()
		}
	}
}

// continues reports whether later is the same gap, as the next part of a span of time sees it.
func (g *Gap) continues(later *Gap) bool {
	if g.Epoch != later.Epoch || g.Reason != later.Reason || g.Told != later.Told || g.From != later.From || g.To != later.To {
		return false
	}
	if g.From != 0 || !g.Told {
		return g.From != 0 || g.End >= later.Begin
	}
	return *g == *later
}

// frames names the frames of an epoch that did not arrive, and adds up those that did.
func (w *Window) frames(r *Report, e *epoch) {
	r.Frames += e.within.count()
	top := e.top
	if to, ok := e.closed(); ok {
		top = to // what is in later frames was measured after the window
	}
	marks := slices.Sorted(maps.Keys(e.marks))
	known := e.arrived.clone()
	for _, l := range e.losses() {
		for i, h := range known.holes(l.From, min(l.To, top)) {
			g := e.gap(h, marks)
			g.Reason, g.Told = Reason(l.Reason), true
			if i == 0 {
				g.Count = l.Count // once
			}
			margin := int64(slack)
			if l.Reason != "gone" { // who told of what was gone did not know its time
				g.Begin, g.End, margin = l.T0, l.T1, 0
			}
			if w.touches(e, &g, margin) {
				r.Gaps = append(r.Gaps, g)
			}
		}
		known.add(l.From, l.To+1, forever, never)
	}
	n := len(r.Gaps)
	missing := uint64(0)
	for _, h := range known.holes(1, top) {
		g := e.gap(h, marks)
		g.Reason = Missing
		missing += g.Frames()
		if w.touches(e, &g, int64(slack)) {
			r.Gaps = append(r.Gaps, g)
		}
	}
	if s := e.final; s != nil && s.Backlog > inFlight && s.Backlog >= missing {
		for i := range r.Gaps[n:] {
			r.Gaps[n+i].Reason = Backlog
		}
	}
}

// losses returns what was told, in an order that does not depend on that of the rows.
func (e *epoch) losses() []Loss {
	return slices.SortedFunc(maps.Keys(e.told), func(a, b Loss) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(b.To, a.To), cmp.Compare(b.Count, a.Count), cmp.Compare(a.Reason, b.Reason),
			cmp.Compare(a.T0, b.T0), cmp.Compare(a.T1, b.T1))
	})
}

// gap returns the frames of the hole with the times of its nearest neighbours.
func (e *epoch) gap(h hole, marks []uint64) Gap {
	g := Gap{Epoch: e.id, From: h.from, To: h.end - 1}
	if t := e.arrived.before(h.from); t != never {
		g.Begin = t
	}
	t := e.arrived.after(h.end)
	i, _ := slices.BinarySearch(marks, h.end)
	for ; i < len(marks); i++ {
		if m := e.marks[marks[i]]; m != forever {
			t = min(t, m)
			break
		}
	}
	if t != forever {
		g.End = t
	}
	if g.End != 0 && g.End < g.Begin { // a clock was set back: nobody knows
		g.Begin, g.End = 0, 0
	}
	return g
}

// touches reports whether what is in the gap may be of the window.
func (w *Window) touches(e *epoch, g *Gap, margin int64) bool {
	if g.Begin >= w.to && g.From != 0 && slices.ContainsFunc(e.closers, func(c uint64) bool { return c < e.open }) {
		g.Begin, g.End = 0, 0 // the clock was set back from after the window's end: that it was later proves nothing
	}
	return (g.Begin == 0 || g.Begin < w.to) && (g.End == 0 || g.End+margin >= w.from)
}

// tail says why an epoch has not settled past the window's end, if that matters.
func (w *Window) tail(r *Report, e, next *epoch, now int64) {
	if _, ok := e.closed(); ok {
		return
	}
	g := Gap{Epoch: e.id, Begin: e.settled, End: w.to}
	if g.Begin == 0 {
		g.Begin = e.begun
		if e.begun == forever {
			g.Begin = 0
		}
	}
	g.Begin = min(max(g.Begin, w.from), w.to)
	if next != nil {
		if s := e.final; s != nil && s.At >= e.heard && s.Offline() && s.Reason == "stopped" && s.Backlog == 0 {
			return // it ended in order and everything was sent
		}
		if next.begun != forever {
			g.End = min(g.End, next.begun)
		}
		if e.heard != never && e.heard+int64(slack) < w.from && next.begun <= w.from || g.End <= g.Begin {
			return // it ended before
		}
		g.Reason = Replaced
		r.Gaps = append(r.Gaps, g)
		return
	}
	switch {
	case e.doubtful:
		g.Reason = Uncertain
	case now-r.Heard > int64(silentAfter):
		g.Reason = Silent
	default:
		g.Reason = Open
	}
	r.Gaps = append(r.Gaps, g)
}
