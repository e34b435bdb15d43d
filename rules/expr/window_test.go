package expr

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"linli/internal/telemetry"
)

// piece is one value of a history, for the reference.
type piece struct {
	from telemetry.Mono
	v    Num
}

// reference computes a function over time the slow way, from the whole history.
func reference(fn string, history []piece, length, now telemetry.Mono) Num {
	cut := now - length
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
			last, seen = p.v, true
		}
		from := max(p.from, cut)
		if to < cut || p.v.Nothing() || to <= from && i+1 < len(history) {
			continue
		}
		known += float64(to - from)
		sum += p.v.Lo * float64(to-from)
		most, least = max(most, p.v.Lo), min(least, p.v.Lo)
	}
	covered := known >= Coverage*float64(length)
	switch fn {
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
		if covered {
			return Exact(changes)
		}
		return AtLeast(changes)
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
	for _, fn := range []string{"duration_true", "avg_over_time", "max_over_time", "min_over_time", "changes", "delta"} {
		t.Run(fn, func(t *testing.T) {
			decided, steps := 0, 0
			for seed := range uint64(20) {
				r := rand.New(rand.NewPCG(seed, 7))
				length := 10 * time.Minute
				w := newWindow(&Node{Op: OpCall, Text: fn, Window: length}, -1, "", Coverage)
				cur := AnyNum()
				w.num = func() Num { return cur }
				var history []piece
				now := telemetry.Mono(1e12)
				for range 500 {
					switch {
					case r.IntN(12) == 0:
						cur = AnyNum()
					case fn == "duration_true":
						cur = Exact(float64(r.IntN(2)))
					default:
						cur = Exact(float64(r.IntN(20)))
					}
					history = append(history, piece{now, cur})
					w.Update(now)
					steps++
					got, want := w.Value(), reference(fn, history, telemetry.Mono(length), now)
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

// Values that change much faster stay within the stated error, and within the stated memory.
func TestFastValuesKeepTheStatedError(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	length := time.Hour
	w := newWindow(&Node{Op: OpCall, Text: "avg_over_time", Window: length}, -1, "", Coverage)
	x := newWindow(&Node{Op: OpCall, Text: "max_over_time", Window: length}, -1, "", Coverage)
	cur := Exact(0)
	w.num = func() Num { return cur }
	x.num = w.num
	var history []piece
	now := telemetry.Mono(0)
	worst := 0.0
	for i := range 40_000 {
		cur = Exact(r.Float64() * 100)
		history = append(history, piece{now, cur})
		w.Update(now)
		x.Update(now)
		if len(history) > 10_000 {
			history = history[2_000:]
		}
		if i%500 == 499 && now > telemetry.Mono(2*length) {
			want := reference("avg_over_time", history, telemetry.Mono(length), now)
			worst = max(worst, math.Abs(w.Value().Lo-want.Lo))
			early := reference("max_over_time", history, telemetry.Mono(length), now)
			late := reference("max_over_time", history, telemetry.Mono(length)+2*x.step, now)
			if got := x.Value().Lo; got < early.Lo || got > late.Lo {
				t.Fatalf("max_over_time = %v, want %v to %v", got, early.Lo, late.Lo)
			}
		}
		now = now.Add(time.Duration(r.Int64N(int64(2 * time.Second))))
	}
	if limit := 100.0 / Spans; worst == 0 || worst > limit {
		t.Errorf("worst error of the mean %v, want at most %v and not 0", worst, limit)
	}
	if len(w.rows.starts) > ringSize || len(x.lo.ring) > ringSize {
		t.Errorf("rings of %d and %d entries, want at most %d", len(w.rows.starts), len(x.lo.ring), ringSize)
	}
}

func TestWindowOfOverRangeValues(t *testing.T) {
	w := newWindow(&Node{Op: OpCall, Text: "avg_over_time", Window: time.Minute}, -1, "", Coverage)
	cur := Exact(10)
	w.num = func() Num { return cur }
	w.Update(0)
	w.Update(telemetry.Mono(50 * time.Second))
	cur = AtLeast(70)
	w.Update(telemetry.Mono(50 * time.Second))
	w.Update(telemetry.Mono(60 * time.Second))
	if got := w.Value(); !near(got.Lo, 20, 1e-9) || !math.IsInf(got.Hi, 1) {
		t.Errorf("mean of 50 s of 10 and 10 s of 70 or more = %v, want 20 or more", got)
	}
	cur = Exact(10)
	w.Update(telemetry.Mono(60 * time.Second))
	w.Update(telemetry.Mono(130 * time.Second))
	if got := w.Value(); !near(got.Lo, 10, 1e-9) || !near(got.Hi, 10, 1e-9) {
		t.Errorf("a minute after = %v, want 10", got)
	}
}

func TestWindowDoesNotDrift(t *testing.T) {
	w := newWindow(&Node{Op: OpCall, Text: "avg_over_time", Window: time.Minute}, -1, "", Coverage)
	cur := Exact(0)
	w.num = func() Num { return cur }
	r := rand.New(rand.NewPCG(9, 9))
	now := telemetry.Mono(0)
	for range 300_000 {
		cur = Exact(r.Float64() * 1e9)
		w.Update(now)
		now = now.Add(time.Second)
	}
	cur = Exact(1)
	w.Update(now)
	w.Update(now.Add(2 * time.Minute))
	if got := w.Value(); !near(got.Lo, 1, 1e-6) {
		t.Errorf("after a minute of 1 the mean is %v", got)
	}
	if w.Next(now.Add(2*time.Minute)) != telemetry.Never {
		t.Errorf("a constant window is still looked at")
	}
}
