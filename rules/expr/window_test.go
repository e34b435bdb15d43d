package expr

import (
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"linli/internal/telemetry"
)

// piece is one value of a history, for the reference.
type piece struct {
	from telemetry.Mono
	v    Num
}

// windowNode is a call of a function over time; a quantile is the 0.9 one.
func windowNode(fn string, length time.Duration) *Node {
	n := &Node{Op: OpCall, Text: fn, Window: length, Args: []*Node{{Op: OpPoint, Text: "x"}, {Op: OpDuration, Num: length.Seconds()}}}
	if fn == "quantile_over_time" {
		n.Args = append([]*Node{{Op: OpNumber, Num: 0.9}}, n.Args...)
	}
	return n
}

// reference computes a function over time the slow way, from the whole history.
func reference(fn string, history []piece, length, now telemetry.Mono, coverage float64) Num {
	cut := now - length
	stood := map[float64]float64{} // how long each value stood
	var becoming, rises, energy float64
	until := telemetry.Mono(0) // when the last known value ended
	var known, sum, changes float64
	most, least := math.Inf(-1), math.Inf(1)
	var last Num
	seen := false
	at := AnyNum()
	for i, p := range history {
		to := now
		if i+1 < len(history) {
			to = history[i+1].from
		}
		if p.from <= cut {
			at = p.v
		}
		if !p.v.Nothing() {
			if seen && p.v != last && p.from > cut {
				changes++
			}
			if seen && p.v == Exact(1) && last == Exact(0) && p.from > cut {
				becoming++
			}
			if seen && until > cut {
				if rises += p.v.Lo - last.Lo; p.v.Lo < last.Lo {
					rises += last.Lo
				}
			}
			last, seen, until = p.v, true, to
		}
		from := max(p.from, cut)
		if to < cut || p.v.Nothing() || to <= from && i+1 < len(history) {
			continue
		}
		known += float64(to - from)
		sum += p.v.Lo * float64(to-from)
		energy += math.Pow(10, p.v.Lo/10) * float64(to-from)
		stood[p.v.Lo] += float64(to - from)
		most, least = max(most, p.v.Lo), min(least, p.v.Lo)
	}
	covered := known >= coverage*float64(length)
	atLeast := func(n float64) Num {
		if covered {
			return Exact(n)
		}
		return AtLeast(n)
	}
	switch fn {
	case "integral":
		if covered {
			return Exact(sum / 1e9)
		}
	case "leq":
		if covered {
			return Exact(10 * math.Log10(energy/known))
		}
	case "quantile_over_time":
		if !covered {
			break
		}
		values := slices.Sorted(maps.Keys(stood))
		sofar := 0.0
		for _, v := range values {
			if sofar += stood[v]; sofar >= 0.9*known*(1-1e-12) {
				return Exact(v)
			}
		}
	case "count_over_time":
		return atLeast(becoming)
	case "increase":
		return atLeast(rises)
	case "rate":
		return atLeast(rises / time.Duration(length).Seconds())
	case "duration_true":
		if covered {
			return Exact(sum / 1e9)
		}
		return Num{sum / 1e9, (sum + float64(length) - known) / 1e9}
	case "avg_over_time":
		if covered {
			return Exact(sum / known)
		}
	case "max_over_time":
		switch {
		case math.IsInf(most, -1):
		case covered:
			return Exact(most)
		default:
			return AtLeast(most)
		}
	case "min_over_time":
		switch {
		case math.IsInf(least, 1):
		case covered:
			return Exact(least)
		default:
			return AtMost(least)
		}
	case "changes":
		return atLeast(changes)
	case "delta":
		if len(history) > 0 && history[0].from <= cut {
			return history[len(history)-1].v.sub(at)
		}
	}
	return AnyNum()
}

func near(a, b, tolerance float64) bool {
	return a == b || math.Abs(a-b) <= tolerance
}

// Values that change slower than the window's step are exact; the windows agree with the reference over random series
// with gaps.
func TestWindowAgainstReference(t *testing.T) {
	for _, fn := range windowFunctions {
		t.Run(fn, func(t *testing.T) {
			decided, steps := 0, 0
			for seed := range uint64(24) {
				r := rand.New(rand.NewPCG(seed, 7))
				length, coverage := 10*time.Minute, [...]float64{0.75, 0.5, 1, 0.01}[seed%4]
				w := newWindow(windowNode(fn, length), -1, "", coverage)
				cur := AnyNum()
				w.num = func(*Frame) Num { return cur }
				var history []piece
				now := telemetry.Mono(1e12)
				gaps := 12
				if coverage == 1 {
					gaps = 60
				}
				for range 500 {
					switch {
					case r.IntN(gaps) == 0:
						cur = AnyNum()
					case fn == "duration_true" || fn == "count_over_time":
						cur = Exact(float64(r.IntN(2)))
					default:
						cur = Exact(float64(r.IntN(20)))
					}
					history = append(history, piece{now, cur})
					w.Update(now, nil)
					steps++
					got, want := w.Value(), reference(fn, history, telemetry.Mono(length), now, coverage)
					if !near(got.Lo, want.Lo, 1e-6) || !near(got.Hi, want.Hi, 1e-6) {
						t.Fatalf("seed %d at %v: %s = %v, want %v", seed, now, fn, got, want)
					}
					if got.Known() {
						decided++
					}
					now = now.Add(3*time.Second + time.Duration(r.Int64N(int64(time.Minute))))
				}
			}
			if decided*10 < steps*3 {
				t.Errorf("only %d of %d values were decided", decided, steps)
			}
		})
	}
}

// Between its samples a window that is looked at when Next says so says what it would say at any moment, if it counts,
// and otherwise what it would have said a second ago.
func TestNextMissesNothing(t *testing.T) {
	for _, fn := range []string{"changes", "count_over_time", "increase", "rate"} {
		missed, steps := 0, 0
		for seed := range uint64(10) {
			r := rand.New(rand.NewPCG(seed, 8))
			length := 2 * time.Minute
			w := newWindow(windowNode(fn, length), -1, "", 0.75)
			cur := AnyNum()
			w.num = func(*Frame) Num { return cur }
			now, due, last := telemetry.Mono(0), telemetry.Mono(0), AnyNum()
			for range 5000 {
				sample := r.IntN(40) == 0
				if sample {
					cur = Exact(float64(r.IntN(2)))
					if r.IntN(5) == 0 {
						cur = AnyNum()
					}
				}
				w.Update(now, nil)
				got := w.Value()
				if !sample && now < due && got != last {
					// Coverage is looked at on whole seconds.
					if now.Sub(now/telemetry.Mono(time.Second)*telemetry.Mono(time.Second)) == 0 || got.Lo != last.Lo {
						missed++
						t.Errorf("%s, seed %d: %v became %v at %v, before the next moment %v", fn, seed, last, got, now, due)
					}
				}
				if sample || now >= due {
					last, due = got, w.Next(now)
				}
				steps++
				now = now.Add(250 * time.Millisecond)
				if missed > 3 {
					return
				}
			}
		}
	}
}

// Values that change much faster stay within the stated error, and within the stated memory.
func TestFastValuesKeepTheStatedError(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	length := time.Hour
	w := newWindow(&Node{Op: OpCall, Text: "avg_over_time", Window: length}, -1, "", Coverage)
	x := newWindow(&Node{Op: OpCall, Text: "max_over_time", Window: length}, -1, "", Coverage)
	cur := Exact(0)
	w.num = func(*Frame) Num { return cur }
	x.num = w.num
	var history []piece
	now := telemetry.Mono(0)
	worst := 0.0
	for i := range 40_000 {
		cur = Exact(r.Float64() * 100)
		history = append(history, piece{now, cur})
		w.Update(now, nil)
		x.Update(now, nil)
		if len(history) > 10_000 {
			history = history[2_000:]
		}
		if i%500 == 499 && now > telemetry.Mono(2*length) {
			want := reference("avg_over_time", history, telemetry.Mono(length), now, Coverage)
			worst = max(worst, math.Abs(w.Value().Lo-want.Lo))
			early := reference("max_over_time", history, telemetry.Mono(length), now, Coverage)
			late := reference("max_over_time", history, telemetry.Mono(length)+2*x.step, now, Coverage)
			if got := x.Value().Lo; got < early.Lo || got > late.Lo {
				t.Fatalf("max_over_time = %v, want %v to %v", got, early.Lo, late.Lo)
			}
		}
		now = now.Add(time.Duration(r.Int64N(int64(2 * time.Second))))
	}
	if limit := 100.0 / Spans; worst == 0 || worst > limit {
		t.Errorf("worst error of the mean %v, want at most %v and not 0", worst, limit)
	}
	if len(w.rows.starts) > ringSize || len(x.most.lo.ring) > ringSize {
		t.Errorf("rings of %d and %d entries, want at most %d", len(w.rows.starts), len(x.most.lo.ring), ringSize)
	}
}

func TestWindowOfOverRangeValues(t *testing.T) {
	w := newWindow(&Node{Op: OpCall, Text: "avg_over_time", Window: time.Minute}, -1, "", Coverage)
	cur := Exact(10)
	w.num = func(*Frame) Num { return cur }
	w.Update(0, nil)
	w.Update(telemetry.Mono(50*time.Second), nil)
	cur = AtLeast(70)
	w.Update(telemetry.Mono(50*time.Second), nil)
	w.Update(telemetry.Mono(60*time.Second), nil)
	if got := w.Value(); !near(got.Lo, 20, 1e-9) || !math.IsInf(got.Hi, 1) {
		t.Errorf("mean of 50 s of 10 and 10 s of 70 or more = %v, want 20 or more", got)
	}
	cur = Exact(10)
	w.Update(telemetry.Mono(60*time.Second), nil)
	w.Update(telemetry.Mono(130*time.Second), nil)
	if got := w.Value(); !near(got.Lo, 10, 1e-9) || !near(got.Hi, 10, 1e-9) {
		t.Errorf("a minute after = %v, want 10", got)
	}
}

func TestWindowDoesNotDrift(t *testing.T) {
	w := newWindow(&Node{Op: OpCall, Text: "avg_over_time", Window: time.Minute}, -1, "", Coverage)
	cur := Exact(0)
	w.num = func(*Frame) Num { return cur }
	r := rand.New(rand.NewPCG(9, 9))
	now := telemetry.Mono(0)
	for range 300_000 {
		cur = Exact(r.Float64() * 1e9)
		w.Update(now, nil)
		now = now.Add(time.Second)
	}
	cur = Exact(1)
	w.Update(now, nil)
	w.Update(now.Add(2*time.Minute), nil)
	if got := w.Value(); !near(got.Lo, 1, 1e-6) {
		t.Errorf("after a minute of 1 the mean is %v", got)
	}
	if w.Next(now.Add(2*time.Minute)) != telemetry.Never {
		t.Errorf("a constant window is still looked at")
	}
}
