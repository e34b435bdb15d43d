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
	w.num = func() Num { return *cur }
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
				w.Update(now)
				if other != w {
					other.Update(now.Add(by))
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
					rest, err := next.SetState(append(other.AppendState(nil), 7, 7), by2, now.Add(by+by2))
					if err != nil || len(rest) != 2 {
						t.Fatalf("%s, seed %d: %v, rest %v", fn, seed, err, rest)
					}
					cur = AnyNum()
					w.Update(now)
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

// FuzzSetState: whatever the bytes are, a state is either taken over whole or not at all, and goes on.
func FuzzSetState(f *testing.F) {
	for i, fn := range windowFunctions {
		cur := Exact(3)
		w := followed(fn, time.Minute, &cur)
		for k := range 40 {
			w.Update(telemetry.Mono(k) * telemetry.Mono(time.Second))
			cur = Exact(float64(k * 7 % 5))
		}
		b := w.AppendState(nil)
		f.Add(byte(i), b, int64(0), int64(40*time.Second))
		f.Add(byte(i), b[:len(b)/2], int64(time.Hour), int64(2*time.Hour))
		b[len(b)/2] ^= 0x80
		f.Add(byte(i), b, int64(-time.Hour), int64(1)<<62)
	}
	f.Fuzz(func(t *testing.T, which byte, b []byte, by, at int64) {
		fn := windowFunctions[int(which)%len(windowFunctions)]
		cur := Exact(1)
		w := followed(fn, time.Minute, &cur)
		before := w.AppendState(nil)
		rest, err := w.SetState(b, time.Duration(by), telemetry.Mono(at))
		if err != nil && (len(rest) != len(b) || string(w.AppendState(nil)) != string(before)) {
			t.Fatal("something was taken over beside an error")
		}
		now := telemetry.Mono(0)
		if err == nil {
			now = telemetry.Mono(at)
		}
		if got := w.Bytes(); got > w.MaxBytes() {
			t.Fatalf("%d bytes, at most %d were said", got, w.MaxBytes())
		}
		for i := range 100 {
			w.Update(now)
			if v := w.Value(); v.Lo > v.Hi || v.Lo != v.Lo || v.Hi != v.Hi {
				t.Fatalf("value %v", v)
			}
			if next := w.Next(now); next <= now {
				t.Fatalf("next %v, now %v", next, now)
			}
			cur = Exact(float64(i % 3))
			now = now.Add(time.Second)
		}
	})
}
