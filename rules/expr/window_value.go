package expr

import (
	"math"
	"time"

	"linli/internal/telemetry"
)

// Value returns the function's value for the window that ends at the last Update.
func (w *Window) Value() Num {
	switch w.fn {
	case delta:
		if w.rows.n == 0 || w.rows.start(0) > w.at-w.length {
			return AnyNum()
		}
		row := w.rows.row(0)
		return w.cur.sub(Num{row[colLo], row[colHi]})
	case quantile:
		return w.quantileValue()
	}
	s := w.within()
	length := float64(w.length)
	known := s[colKnown]
	covered := known >= w.coverage*length
	switch w.fn {
	case durationTrue:
		lo := max(s[colLo], 0) / float64(time.Second)
		if covered {
			return Exact(lo)
		}
		return Num{lo, lo + max(length-known, 0)/float64(time.Second)}
	case average, integral, leq:
		if covered {
			return w.sumValue(s)
		}
	case maximum, minimum:
		return w.extreme(covered)
	case changes, count:
		return counted(math.Round(s[colCount]), math.Round(s[colMaybe]), covered)
	case increase:
		return counted(max(s[colCount], 0), 0, covered)
	case rate:
		return counted(max(s[colCount], 0)/(length/float64(time.Second)), 0, covered)
	}
	return AnyNum()
}

// counted is n and up to maybe more, where everything was seen, otherwise at least n.
func counted(n, maybe float64, covered bool) Num {
	if covered {
		return sane(n, n+maybe)
	}
	return sane(n, math.Inf(1))
}

// sumValue returns what follows from the sums of a window that is covered.
func (w *Window) sumValue(s [3]float64) Num {
	by := s[colKnown]
	if w.fn == integral {
		by = float64(time.Second)
	}
	v := Num{s[colLo] / by, s[colHi] / by}
	if w.fn == leq {
		v = Num{level(v.Lo), level(v.Hi)}
	}
	if w.noLo > 0 {
		v.Lo = math.Inf(-1)
	}
	if w.noHi > 0 {
		v.Hi = math.Inf(1)
	}
	if v.Lo > v.Hi || !math.IsInf(v.Lo, 0) && v.Hi-v.Lo <= 1e-9*math.Abs(v.Lo) {
		v.Hi = v.Lo // what is between them is rounding
	}
	return sane(v.Lo, v.Hi)
}

// level is the level in decibels of an energy, to a billionth: what the logarithm adds to a level that stood alone is
// not to decide a comparison.
func level(energy float64) float64 {
	if energy <= 0 {
		return math.Inf(-1)
	}
	return math.Round(10*math.Log10(energy)*1e9) / 1e9
}

func (w *Window) extreme(covered bool) Num {
	if w.most.lo.n == 0 {
		return AnyNum()
	}
	v := sane(w.most.lo.front(), w.most.hi.front())
	switch {
	case covered:
		return v
	case w.fn == minimum:
		return AtMost(v.Hi)
	}
	return AtLeast(v.Lo)
}

// Next returns when the value is to be looked at again although no input changed: when what was counted leaves the
// window; otherwise each second for windows up to ten minutes, each 1/600 of longer ones, and never while nothing in
// the window can change.
func (w *Window) Next(now telemetry.Mono) telemetry.Mono {
	lo, hi := 0, 0
	if w.most != nil {
		lo, hi = w.most.lo.n, w.most.hi.n
	}
	switch {
	case w.rows.n == 0:
		return telemetry.Never
	case w.fn.counts():
		return w.nextCount(now)
	case w.rows.n > 1 || w.mixed:
	case w.cur.Nothing() && lo == 0 || !w.cur.Nothing() && lo <= 1 && hi <= 1 && w.rows.start(0) <= now-w.length:
		return telemetry.Never
	}
	return w.grid(now)
}

// grid returns the next moment of the window's grid after now. It is fixed, on whole seconds, so that samples in
// between do not move the timer.
func (w *Window) grid(now telemetry.Mono) telemetry.Mono {
	step := max(w.length/600/telemetry.Mono(time.Second), 1) * telemetry.Mono(time.Second)
	return (now/step + 1) * step
}

// nextCount returns when the oldest thing counted leaves the window, or when so much of it may have become known, or
// unknown, that the count is decided, or is not any more.
func (w *Window) nextCount(now telemetry.Mono) telemetry.Mono {
	due := telemetry.Never
	for i := range w.rows.n {
		row := w.rows.row(i)
		if leaves := w.rows.start(i) + w.length; leaves > now && (row[colCount] > 0 || len(row) > colMaybe && row[colMaybe] > 0) {
			due = leaves
			break
		}
	}
	missing := w.coverage*float64(w.length) - w.within()[colKnown]
	if (missing > 0) == w.cur.Nothing() {
		return due // what is known now does not change that
	}
	return min(due, w.grid(now.Add(time.Duration(max(math.Abs(missing)-1, 0)))))
}
