package ledger_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"linli/internal/ledger"
)

const (
	second = int64(time.Second)
	minute = int64(time.Minute)
	hour   = int64(time.Hour)
	// day is the window of most tests: begin <= t < end.
	begin = 1_790_000_000 * second
	end   = begin + 24*hour
	later = end + 12*hour // now
	// farOff is after everything else.
	farOff = begin + 5000*hour
)

// brief writes a report down: the state, and each gap with times relative to the window's begin in minutes.
func brief(r ledger.Report) string {
	at := func(t int64) string {
		if t == 0 {
			return "?"
		}
		return fmt.Sprint((t - begin) / minute)
	}
	out := []string{r.State()}
	for _, g := range r.Gaps {
		told := ""
		if g.Told {
			told = fmt.Sprintf(" told %d", g.Count)
		}
		out = append(out, fmt.Sprintf("%x %d-%d %s%s %s..%s", g.Epoch, g.From, g.To, g.Reason, told, at(g.Begin), at(g.End)))
	}
	return strings.Join(out, "; ")
}

// row is a live message: frames from to to, sent at the minute m of the window.
func row(epoch, from, to uint64, m int64) ledger.Row {
	t := begin + m*minute
	return ledger.Row{Epoch: epoch, From: from, To: to, T0: t - second, T1: t, Settled: t}
}

func late(r ledger.Row) ledger.Row { r.Settled = 0; return r }

func uncertain(r ledger.Row) ledger.Row { r.Uncertain = true; return r }

// part is one of the parts in which the only frame of a message was sent.
func part(n, of int, r ledger.Row) ledger.Row { r.Part, r.Parts = n, of; return r }

// before is the newest row before the window.
type before struct {
	epoch, to uint64
	t         int64
}

func TestSituations(t *testing.T) {
	base := before{1, 100, begin - 10*second}
	for name, c := range map[string]struct {
		rows []any // in the order they come: before, ledger.Row, ledger.Loss, ledger.Status
		want string
	}{
		"nothing at all": {nil, "silent; 0 0-0 silent ?..1440"},
		"complete": {[]any{base,
			row(1, 101, 200, 700),
			row(1, 201, 300, 1440),
		}, "complete"},
		"one missing": {[]any{base,
			row(1, 101, 200, 700),
			row(1, 202, 300, 1440),
		}, "missing; 1 201-201 missing 700..1440"},
		"resent": {[]any{base,
			row(1, 101, 200, 700),
			row(1, 202, 300, 1440),
			late(row(1, 190, 205, 701)),
		}, "complete"},
		"what is missing was measured after the window": {[]any{base,
			row(1, 101, 300, 1441),
			row(1, 305, 400, 1500),
		}, "complete"},
		"what is missing was measured before the window": {[]any{
			before{1, 100, begin - 3*hour},
			row(1, 103, 105, -10),
			row(1, 106, 300, 1441),
		}, "complete"},
		"an idle gateway": {[]any{base,
			ledger.Row{Epoch: 1, From: 101, To: 100, T0: end, T1: end, Settled: end},
		}, "complete"},
		"an idle gateway whose last frames are missing": {[]any{base,
			ledger.Row{Epoch: 1, From: 104, To: 103, T0: begin + hour, T1: begin + hour},
			ledger.Row{Epoch: 1, From: 104, To: 103, T0: end, T1: end, Settled: end},
		}, "missing; 1 101-103 missing -1..60"},
		"told as lost": {[]any{base,
			ledger.Loss{Epoch: 1, From: 101, To: 110, Count: 77, Reason: "space", T0: begin, T1: begin + hour},
			row(1, 111, 300, 1440),
		}, "losses; 1 101-110 space told 77 0..60"},
		"told as gone, at another time": {[]any{base,
			row(1, 111, 300, 1440),
			ledger.Loss{Epoch: 1, From: 101, To: 110, Reason: "gone", T0: later, T1: later},
		}, "losses; 1 101-110 gone told 0 -1..1440"},
		"told twice, and a part has arrived": {[]any{base,
			ledger.Loss{Epoch: 1, From: 101, To: 110, Count: 77, Reason: "space", T0: begin, T1: begin + hour},
			ledger.Loss{Epoch: 1, From: 101, To: 108, Count: 60, Reason: "damage", T0: begin, T1: begin + hour},
			late(row(1, 103, 104, 3)),
			row(1, 111, 300, 1440),
		}, "losses; 1 101-102 space told 77 0..60; 1 105-110 space told 0 0..60"},
		"lost without a frame": {[]any{base,
			ledger.Loss{Epoch: 1, Count: 5, Reason: "pending_full", T0: begin + hour, T1: begin + hour},
			ledger.Loss{Epoch: 1, Count: 5, Reason: "pending_full", T0: end, T1: end + hour},
			row(1, 101, 300, 1440),
		}, "losses; 1 0-0 pending_full told 5 60..60"},
		"parts": {[]any{base,
			part(1, 3, row(1, 101, 101, 1440)),
			part(3, 3, row(1, 101, 101, 1440)),
			part(3, 3, row(1, 101, 101, 1440)),
		}, "missing; 1 101-101 missing -1..1440"},
		"all parts": {[]any{base,
			part(3, 3, row(1, 101, 101, 1440)),
			part(1, 3, row(1, 101, 101, 1440)),
			part(3, 3, row(1, 101, 101, 1440)),
			part(2, 3, row(1, 101, 101, 1440)),
		}, "complete"},
		"parts of another cut": {[]any{base,
			part(1, 2, row(1, 101, 101, 1440)),
			part(2, 3, row(1, 101, 101, 1440)),
		}, "missing; 1 101-101 missing -1..1440"},
		"off over midnight, and back": {[]any{base,
			row(1, 101, 200, 1300),
			ledger.Status{At: begin + 1301*minute, State: "offline", Reason: "stopped", Epoch: 1, NextSeq: 201},
			row(1, 201, 202, 1900),
		}, "complete"},
		"off over midnight, and not back": {[]any{base,
			row(1, 101, 200, 1300),
			ledger.Status{At: begin + 1301*minute, State: "offline", Reason: "stopped", Epoch: 1, NextSeq: 201},
		}, "silent; 1 0-0 silent 1300..1440"},
		"gone without a word": {[]any{base,
			row(1, 101, 200, 1300),
			ledger.Status{At: begin + 1302*minute, State: "offline", Reason: "lost"},
		}, "silent; 1 0-0 silent 1300..1440"},
		"silent the whole day": {[]any{base}, "silent; 1 0-0 silent 0..1440"},
		"heard and not settled": {[]any{base,
			row(1, 101, 200, 1300),
			ledger.Status{At: later, State: "online", Epoch: 1, NextSeq: 201},
		}, "open; 1 0-0 open 1300..1440"},
		"did not exist yet": {[]any{
			row(1, 1, 20, 1500),
		}, "complete"},
		"began in the middle": {[]any{
			row(1, 1, 20, 700),
			row(1, 21, 30, 1440),
		}, "complete"},
		"began in the middle, and the first did not arrive": {[]any{
			row(1, 3, 20, 700),
			row(1, 21, 30, 1440),
		}, "missing; 1 1-2 missing ?..700"},
		"a new disk": {[]any{base,
			row(1, 101, 200, 600),
			row(9, 1, 5, 660),
			row(9, 6, 500, 1441),
		}, "replaced; 1 0-0 replaced 600..659"},
		"a new disk in an orderly way": {[]any{base,
			row(1, 101, 200, 600),
			ledger.Status{At: begin + 601*minute, State: "offline", Reason: "stopped", Epoch: 1, NextSeq: 201},
			row(9, 1, 5, 660),
			row(9, 6, 500, 1441),
		}, "complete"},
		"a new disk, and of the old one something is missing": {[]any{base,
			row(1, 103, 200, 600),
			row(9, 2, 500, 1441),
		}, "missing; 1 0-0 replaced 600..1440; 1 101-102 missing -1..600; 9 1-1 missing ?..1441"},
		"a new disk days ago": {[]any{
			before{1, 100, begin - 50*hour},
			before{9, 100, begin - 10*second},
			row(9, 101, 500, 1441),
		}, "complete"},
		"an uncertain clock": {[]any{base,
			uncertain(late(row(1, 101, 200, 1441))),
			ledger.Status{At: later, State: "online", Epoch: 1, NextSeq: 201},
		}, "uncertain; 1 0-0 uncertain 0..1440"},
		"an uncertain clock for a while": {[]any{base,
			uncertain(row(1, 101, 200, 9000)),
			row(1, 201, 300, 1441),
		}, "complete"},
		"missing beside an uncertain clock": {[]any{base,
			uncertain(row(1, 102, 200, 9000)),
			row(1, 202, 300, 1441),
		}, "missing; 1 101-101 missing -1..1441; 1 201-201 missing -1..1441"},
		"a backlog": {[]any{base,
			row(1, 200, 300, 1441),
			ledger.Status{At: begin + 1441*minute, State: "online", Epoch: 1, NextSeq: 301, Backlog: 99},
		}, "backlog; 1 101-199 backlog -1..1441"},
		"more than the backlog": {[]any{base,
			row(1, 200, 300, 1441),
			ledger.Status{At: begin + 1441*minute, State: "online", Epoch: 1, NextSeq: 301, Backlog: 98},
		}, "missing; 1 101-199 missing -1..1441"},
		"a clock that was ahead and settled the day, and was set back": {[]any{base,
			row(1, 101, 200, 1500),
			late(uncertain(row(1, 201, 300, 100))),
			row(1, 301, 400, 101),
			ledger.Status{At: later, State: "online", Epoch: 1, NextSeq: 401},
		}, "open; 1 0-0 open 1440..1440"},
		"a clock set back to before the window hides nothing": {[]any{
			before{1, 900, begin - hour}, // it is the last row before the window, and its frames are the newest
			row(1, 101, 200, 900),
			row(1, 205, 300, 1441),
		}, "missing; 1 0-0 silent 1440..1440; 1 201-204 missing 900..1441; 1 301-900 missing ?..?"},
		"and is over": {[]any{
			before{1, 900, begin - hour},
			row(1, 101, 200, 900),
			row(1, 205, 300, 1441),
			late(row(1, 301, 900, -60)), // looked for by its numbers
			row(1, 901, 950, 1442),
		}, "missing; 1 201-204 missing 900..1441"},
		"a clock set back": {[]any{base,
			row(1, 101, 200, 900),
			row(1, 205, 300, 100),
			row(1, 301, 400, 1441),
		}, "missing; 1 201-204 missing ?..?"},
	} {
		w := ledger.NewWindow(begin, end)
		for _, r := range c.rows {
			switch r := r.(type) {
			case before:
				w.Base(r.epoch, r.to, r.t)
			case ledger.Row:
				w.Row(r)
			case ledger.Loss:
				w.Loss(r)
			case ledger.Status:
				w.Status(r)
			default:
				t.Fatalf("%s: a %T", name, r)
			}
		}
		if got := brief(w.Report(later)); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, c.want)
		}
	}
}

// What is told of a node's numbers.
func TestFigures(t *testing.T) {
	w := ledger.NewWindow(begin, end)
	w.Base(1, 100, begin-hour)
	w.Row(row(1, 101, 110, -5))
	w.Row(row(1, 111, 120, 5))
	w.Row(late(row(1, 115, 120, 5)))
	w.Loss(ledger.Loss{Epoch: 1, From: 121, To: 130, Count: 9, Reason: "age", T0: begin + hour, T1: begin + hour})
	w.Row(row(1, 133, 140, 200))
	w.Row(row(1, 141, 150, 1441))
	w.Status(ledger.Status{At: end, State: "online", Version: "1.2", Epoch: 1, NextSeq: 151, Backlog: 3})
	w.Status(ledger.Status{At: end + hour, State: "offline", Reason: "lost"})
	r := w.Report(later)
	if r.Frames != 18 || r.Lost != 10 || r.Samples != 9 || r.Missing != 2 || r.Complete || r.Heard != end+hour || r.Settled != begin+1441*minute {
		t.Errorf("%+v", r)
	}
	if s := r.Status; !s.Offline() || s.Version != "1.2" || s.NextSeq != 151 {
		t.Errorf("status %+v", s)
	}
}

// rowsOf draws rows of a few frames, with everything that may happen to them.
func rowsOf(t *rapid.T) (rows []ledger.Row, losses []ledger.Loss) {
	for range rapid.IntRange(0, 14).Draw(t, "rows") {
		from := uint64(rapid.IntRange(1, 25).Draw(t, "from"))
		r := ledger.Row{Epoch: 1, From: from, To: from + uint64(rapid.IntRange(0, 5).Draw(t, "n")) - 1}
		r.T1 = begin + int64(rapid.IntRange(-100, 1440).Draw(t, "t"))*minute
		far := rapid.IntRange(0, 3).Draw(t, "far") == 0
		if far {
			r.T1 = farOff + int64(rapid.IntRange(0, 3).Draw(t, "later"))*minute
		}
		r.T0 = r.T1 - int64(rapid.IntRange(0, 10).Draw(t, "span"))*second
		if far || rapid.Bool().Draw(t, "live") {
			r.Settled = r.T1 + int64(rapid.IntRange(-2, 2).Draw(t, "settled"))*second
		}
		r.Uncertain = rapid.IntRange(0, 5).Draw(t, "uncertain") == 0
		if rapid.IntRange(0, 3).Draw(t, "parts") == 0 && r.To >= r.From {
			r.Parts = rapid.IntRange(2, 3).Draw(t, "of")
			r.Part = rapid.IntRange(1, r.Parts).Draw(t, "part")
		}
		rows = append(rows, r)
	}
	for range rapid.IntRange(0, 3).Draw(t, "losses") {
		from := uint64(rapid.IntRange(1, 25).Draw(t, "from"))
		losses = append(losses, ledger.Loss{Epoch: 1, From: from, To: from + uint64(rapid.IntRange(0, 6).Draw(t, "n")), Count: uint64(rapid.IntRange(0, 9).Draw(t, "count")),
			Reason: "space", T0: begin, T1: begin + hour})
	}
	return rows, losses
}

// missing is the slow reference: which frames are missing, and of which nobody can rule out that they are of the window.
func missing(rows []ledger.Row, losses []ledger.Loss) (out []uint64, closed bool) {
	arrived, told := map[uint64]bool{}, map[uint64]bool{}
	top, closeTo := uint64(0), uint64(0)
	for _, r := range rows {
		// Its word counts unless one with a higher frame says otherwise.
		void := r.Uncertain || slices.ContainsFunc(rows, func(o ledger.Row) bool {
			return !o.Uncertain && o.Settled != 0 && o.Settled < farOff-minute && o.To > r.To
		})
		if r.Settled >= farOff-minute && !void && (!closed || r.To < closeTo) {
			closed, closeTo = true, r.To
		}
		settled := r.Settled
		top = max(top, r.To)
		if r.To < r.From {
			continue
		}
		for part := 1; part <= r.Parts; part++ {
			if !slices.ContainsFunc(rows, func(o ledger.Row) bool {
				return o.From == r.From && o.To == r.To && o.Parts == r.Parts && o.Part == part
			}) {
				settled = -1
			}
		}
		if settled == -1 {
			continue
		}
		for seq := r.From; seq <= r.To; seq++ {
			arrived[seq] = true
		}
	}
	for _, l := range losses {
		top = max(top, l.To)
		for seq := l.From; seq <= l.To; seq++ {
			told[seq] = true
		}
	}
	if closed {
		top = closeTo
	}
	for seq := uint64(1); seq <= top; seq++ {
		if arrived[seq] || told[seq] {
			continue
		}
		out = append(out, seq)
	}
	return out, closed
}

func TestAgainstTheSetOfFrames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows, losses := rowsOf(t)
		fill := func(w *ledger.Window) ledger.Report {
			for _, r := range rows {
				w.Row(r)
			}
			for _, l := range losses {
				w.Loss(l)
			}
			return w.Report(later)
		}
		// The window of all time: every frame counts, and what is missing is exactly the set.
		all := fill(ledger.NewWindow(begin-1000*hour, farOff-minute))
		want, closed := missing(rows, losses)
		got := []uint64{}
		for _, g := range all.Gaps {
			for seq := g.From; !g.Told && g.From > 0 && seq <= g.To; seq++ {
				got = append(got, seq)
			}
		}
		if !slices.Equal(got, want) && len(got)+len(want) > 0 {
			t.Fatalf("missing %v, want %v; %s", got, want, brief(all))
		}
		if all.Complete != (closed && len(want) == 0) {
			t.Fatalf("complete %v, closed %v, missing %v; %s", all.Complete, closed, want, brief(all))
		}
		// The order does not matter, nor how often a row comes.
		day := fill(ledger.NewWindow(begin, end))
		rng := rand.New(rand.NewPCG(1, rapid.Uint64().Draw(t, "seed")))
		rows = append(rows, rows...)
		rng.Shuffle(len(rows), func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
		slices.Reverse(losses)
		if again := fill(ledger.NewWindow(begin, end)); brief(again) != brief(day) || again.Frames != day.Frames {
			t.Fatalf("in another order\n%s, was\n%s", brief(again), brief(day))
		}
	})
}

// box is a simulated gateway and the way to the city, for the claim itself: what is called complete is complete.
type box struct {
	rng     *rand.Rand
	now     int64
	epoch   uint64
	next    uint64
	samples map[uint64][]int64 // of the frames of this epoch that are not gone
	all     map[[2]uint64][]int64
	w       *ledger.Window
	arrived map[[2]uint64]bool
	told    map[[2]uint64]bool
	drop    float64
}

func (b *box) send(from, to uint64, live bool) {
	r := ledger.Row{Epoch: b.epoch, From: from, To: to, T0: b.now, T1: b.now}
	first := true
	for seq := from; seq <= to; seq++ {
		for _, t := range b.samples[seq] {
			if first {
				r.T0, r.T1, first = t, t, false
			}
			r.T0, r.T1 = min(r.T0, t), max(r.T1, t)
		}
	}
	if live && to == b.next-1 {
		r.Settled = b.now - 10*second
	}
	if b.rng.Float64() < b.drop {
		return
	}
	if from == to && b.rng.IntN(8) == 0 {
		r.Parts = 2
		for r.Part = 1; r.Part <= 2; r.Part++ {
			b.w.Row(r)
		}
	} else {
		b.w.Row(r)
	}
	for seq := from; seq <= to; seq++ {
		b.arrived[[2]uint64{b.epoch, seq}] = true
	}
}

func TestWhatIsCompleteIsComplete(t *testing.T) {
	complete, incomplete, harmless := 0, 0, 0
	for seed := range uint64(3000) {
		rng := rand.New(rand.NewPCG(7, seed))
		from := begin + int64(rng.IntN(20))*minute
		to := from + int64(1+rng.IntN(10))*minute
		b := &box{rng: rng, now: begin, epoch: 5, next: 1, samples: map[uint64][]int64{}, all: map[[2]uint64][]int64{}, w: ledger.NewWindow(from, to),
			arrived: map[[2]uint64]bool{}, told: map[[2]uint64]bool{}, drop: []float64{0, 0, 0.002, 0.02}[rng.IntN(4)]}
		sent := uint64(1)
		for b.now < to+20*minute {
			switch rng.IntN(120) {
			case 0: // off for a while
				b.now += int64(rng.IntN(8)) * minute
			case 1: // a backlog: sent late, the newest first
				for range 3 + rng.IntN(20) {
					b.commit()
				}
			case 2: // resend of anything
				if b.next > 2 {
					first := 1 + uint64(rng.IntN(int(b.next-1)))
					b.send(first, min(b.next-1, first+uint64(rng.IntN(20))), false)
				}
			case 3: // something is lost on the box, and told
				if rng.IntN(4) == 0 && b.next > 2 {
					seq := 1 + uint64(rng.IntN(int(b.next-1)))
					b.told[[2]uint64{b.epoch, seq}] = true
					b.w.Loss(ledger.Loss{Epoch: b.epoch, From: seq, To: seq, Reason: []string{"space", "gone"}[rng.IntN(2)], T0: b.now, T1: b.now})
				}
			case 4: // a new disk
				if rng.IntN(10) == 0 {
					b.epoch, b.next, sent, b.samples = b.epoch+1, 1, 1, map[uint64][]int64{}
					b.now += int64(rng.IntN(60)) * second
				}
			}
			b.commit()
			if rng.IntN(3) > 0 {
				if b.next-sent > 3 {
					b.send(b.next-1, b.next-1, true)
					b.send(sent, b.next-2, false)
				} else {
					b.send(sent, b.next-1, true)
				}
				sent = b.next
			}
			b.now += second * int64(1+rng.IntN(3))
		}
		r := b.w.Report(b.now)
		lost := 0
		for id, times := range b.all {
			for _, at := range times {
				if at >= from && at < to && !b.arrived[id] && !b.told[id] {
					lost++
				}
			}
		}
		switch {
		case r.Complete && lost > 0:
			t.Fatalf("seed %d: called complete, and %d samples are not there: %s", seed, lost, brief(r))
		case r.Complete:
			complete++
		case lost > 0:
			incomplete++
		default:
			harmless++ // what is missing is of another time, but that cannot be known
			if b.drop == 0 && b.epoch == 5 {
				t.Fatalf("seed %d: nothing was lost, and it is not called complete: %s", seed, brief(r))
			}
		}
	}
	if complete < 500 || incomplete < 100 {
		t.Errorf("%d complete, %d not, %d not known: the test shows little", complete, incomplete, harmless)
	}
	t.Logf("%d complete, %d not, %d not known", complete, incomplete, harmless)
}

// commit writes a frame with what was measured lately.
func (b *box) commit() {
	var times []int64
	for range 1 + b.rng.IntN(4) {
		times = append(times, b.now-int64(b.rng.IntN(10))*second)
	}
	b.samples[b.next] = times
	b.all[[2]uint64{b.epoch, b.next}] = times
	b.next++
	b.now += second
}

func BenchmarkDay(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		w := ledger.NewWindow(begin, end)
		for i := range int64(86400) {
			t := begin + i*second
			w.Row(ledger.Row{Epoch: 1, From: uint64(i + 1), To: uint64(i + 1), T0: t, T1: t, Settled: t})
		}
		w.Report(later)
	}
}
