package expr

import (
	"math/rand/v2"
	"testing"
	"time"

	"linli/internal/telemetry"
)

var windowFunctions = []string{"duration_true", "avg_over_time", "max_over_time", "min_over_time", "changes", "delta",
	"integral", "count_over_time", "increase", "rate", "quantile_over_time", "leq"}

// followed returns a window over the value in cur.
func followed(fn string, length time.Duration, cur *Num) *Window {
	w := newWindow(windowNode(fn, length), -1, "", Coverage)
	w.num = func(*Frame) Num { return *cur }
	return w
}

// A window that was written and read again, its times moved, goes on as one that saw nothing in between.
func TestWindowGoesOnFromItsState(t *testing.T) {
	for _, fn := range windowFunctions {
		for seed := range uint64(20) {
			r := rand.New(rand.NewPCG(seed, 5))
			cur := AnyNum()
			w := followed(fn, 10*time.Minute, &cur)
			other, by := w, time.Duration(0)
			now := telemetry.Mono(1e12)
			for i := range 400 {
				switch {
				case r.IntN(12) == 0:
					cur = AnyNum()
				case fn == "duration_true" || fn == "count_over_time":
					cur = Exact(float64(r.IntN(2)))
				case r.IntN(9) == 0:
					cur = AtLeast(float64(r.IntN(20)))
				default:
					cur = Exact(float64(r.IntN(20)))
				}
				w.Update(now, nil)
				if other != w {
					other.Update(now.Add(by), nil)
				}
				if a, b := w.Value(), other.Value(); !near(a.Lo, b.Lo, 1e-6) || !near(a.Hi, b.Hi, 1e-6) {
					t.Fatalf("%s, seed %d, step %d: %v, and from its state %v", fn, seed, i, a, b)
				}
				if a, b := w.Next(now), other.Next(now.Add(by)); (a == telemetry.Never) != (b == telemetry.Never) {
					t.Fatalf("%s, seed %d, step %d: next %v, and from its state %v", fn, seed, i, a, b)
				}
				now = now.Add(time.Duration(r.Int64N(int64(20 * time.Second))))
				if r.IntN(20) == 0 {
					by2 := time.Duration(r.IntN(3)-1) * time.Hour
					next := followed(fn, 10*time.Minute, &cur)
					rest, err := next.SetState(append(other.AppendState(nil), 7, 7), by2, now.Add(by+by2), nil)
					if err != nil || len(rest) != 2 {
						t.Fatalf("%s, seed %d: %v, rest %v", fn, seed, err, rest)
					}
					cur = AnyNum()
					w.Update(now, nil)
					other, by = next, by+by2
				}
			}
		}
	}
}

func TestKeyOfAState(t *testing.T) {
	n, err := Parse("avg_over_time(power_w, 10m)")
	if err != nil {
		t.Fatal(err)
	}
	if got := newWindow(n, 3, "", Coverage).Key(); got != "avg_over_time(power_w, 10m)" {
		t.Errorf("key %q", got)
	}
	if got := newWindow(n, 3, "m1", Coverage).Key(); got != "avg_over_time(power_w, 10m) @m1" {
		t.Errorf("key %q", got)
	}
}

// newRow returns a sequence of two conditions and an event between them, with what they follow.
func newRow() (row *Sequence, first, last *Tri, cell *Cell, f *Frame, happen func(time.Duration, bool)) {
	a, b, p := &Node{Op: OpPoint, Text: "a"}, &Node{Op: OpPoint, Text: "b"}, &Node{Op: OpPoint, Text: "p"}
	p.Event = p
	cell, f, happen = event()
	first, last = new(Tri), new(Tri)
	*first, *last = Unknown, Unknown
	row = &Sequence{length: telemetry.Mono(time.Minute), n: 3, node: &Node{Op: OpCall, Text: "sequence", Args: []*Node{a, p, b, {Op: OpDuration, Num: 60}}}, device: -1}
	row.conds[0], row.conds[2] = func(*Frame) Tri { return *first }, func(*Frame) Tri { return *last }
	for i := range row.n {
		row.began[i], row.before[i], row.last[i], row.same[i], row.events[i] = noRow, noRow, Unknown, -1, -1
	}
	row.events[1] = 0
	return row, first, last, cell, f, happen
}

func TestSequenceGoesOnFromItsState(t *testing.T) {
	said := map[Tri]int{}
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 6))
		row, first, last, cell, f, happen := newRow()
		other, by := row, time.Duration(0)
		now := telemetry.Mono(1e12)
		for i := range 300 {
			switch r.IntN(8) {
			case 0, 1:
				*first = Tri(2 * r.IntN(2))
			case 2, 3:
				*last = Tri(2 * r.IntN(2))
			case 4, 5:
				happen(time.Duration(now), true)
			case 6:
				if r.IntN(10) == 0 {
					*[]*Tri{first, last}[r.IntN(2)] = Unknown
				}
			}
			row.Update(now, f)
			if other != row {
				other.Update(now.Add(by), f)
			}
			if a, b := row.Value(), other.Value(); a != b {
				t.Fatalf("seed %d, step %d: %v, and from its state %v", seed, i, a, b)
			}
			said[row.Value()]++
			if a, b := row.Next(now), other.Next(now.Add(by)); a != b && a.Add(by) != b {
				t.Fatalf("seed %d, step %d: next %v, and from its state %v", seed, i, a, b)
			}
			now = now.Add(1 + time.Duration(r.Int64N(int64(8*time.Second))))
			if r.IntN(40) > 0 {
				continue
			}
			next, _, _, _, _, _ := newRow()
			next.conds, next.events = row.conds, row.events
			moved := time.Duration(r.IntN(3)-1) * time.Hour
			if rest, err := next.SetState(append(other.AppendState(nil), 5), moved, now.Add(by+moved), f); err != nil || len(rest) != 1 {
				t.Fatalf("seed %d: %v, rest %v", seed, err, rest)
			}
			// The other one sees nothing for a moment.
			a, b, q := *first, *last, cell.Quality
			*first, *last, cell.Quality = Unknown, Unknown, telemetry.BadComm
			row.Update(now, f)
			*first, *last, cell.Quality = a, b, q
			other, by = next, by+moved
		}
	}
	for _, v := range []Tri{False, Unknown, True} {
		if said[v] < 500 {
			t.Errorf("%v only %d times: the test shows little", v, said[v])
		}
	}
}

// hostile returns one of the states there are with what it reads, and a function that changes what it follows.
func hostile(which byte) (State, *Frame, func(i int), func() Num) {
	switch n := len(windowFunctions); int(which) % (n + 3) {
	case n:
		row, first, last, _, f, happen := newRow()
		return row, f, func(i int) {
			*first, *last = Tri(i%3), Tri(i/3%3)
			happen(0, true)
		}, func() Num { return Exact(float64(row.Value())) }
	case n + 1:
		cell, f := single()
		a := &Absence{node: &Node{Op: OpCall, Text: "absent_for"}, device: -1}
		return a, f, func(i int) { cell.Seen = i%3 == 0 }, a.Value
	case n + 2:
		p := &Node{Op: OpPoint, Text: "p"}
		p.Event = p
		w := newWindow(&Node{Op: OpCall, Text: "count_over_time", Window: time.Minute, Args: []*Node{{Op: OpAnd, Event: p}}}, -1, "", Coverage)
		cell, f, happen := event()
		w.event, w.tri = 0, func(*Frame) Tri { return Tri(cell.Events % 3) }
		return w, f, func(i int) { happen(0, true) }, w.Value
	}
	cur := Exact(1)
	w := followed(windowFunctions[int(which)%(len(windowFunctions)+3)], time.Minute, &cur)
	return w, nil, func(i int) { cur = Exact(float64(i * 7 % 5)) }, w.Value
}

// FuzzSetState: whatever the bytes are, a state is either taken over whole or not at all, and goes on.
func FuzzSetState(f *testing.F) {
	for which := range byte(len(windowFunctions) + 3) {
		w, frame, change, _ := hostile(which)
		for k := range 40 {
			w.Update(telemetry.Mono(k)*telemetry.Mono(time.Second), frame)
			change(k)
		}
		b := w.AppendState(nil)
		f.Add(which, b, int64(0), int64(40*time.Second))
		f.Add(which, b[:len(b)/2], int64(time.Hour), int64(2*time.Hour))
		b[len(b)/2] ^= 0x80
		f.Add(which, b, int64(-time.Hour), int64(1)<<62)
	}
	f.Fuzz(func(t *testing.T, which byte, b []byte, by, at int64) {
		w, frame, change, value := hostile(which)
		before := w.AppendState(nil)
		rest, err := w.SetState(b, time.Duration(by), telemetry.Mono(at), frame)
		if err != nil && (len(rest) != len(b) || string(w.AppendState(nil)) != string(before)) {
			t.Fatal("something was taken over beside an error")
		}
		now := telemetry.Mono(0)
		if err == nil {
			now = telemetry.Mono(at)
		}
		for i := range 100 {
			w.Update(now, frame)
			if v := value(); v.Lo > v.Hi || v.Lo != v.Lo || v.Hi != v.Hi {
				t.Fatalf("value %v", v)
			}
			if next := w.Next(now); next <= now {
				t.Fatalf("next %v, now %v", next, now)
			}
			if got := w.Bytes(); got > w.MaxBytes() {
				t.Fatalf("%d bytes, at most %d were said", got, w.MaxBytes())
			}
			change(i)
			now = now.Add(time.Second)
		}
	})
}
