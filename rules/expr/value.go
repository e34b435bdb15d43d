package expr

import "math"

// Tri is a truth value: false, unknown or true, in this order, so that "and" is the lesser and "or" the greater.
type Tri uint8

// The truth values.
const (
	False Tri = iota
	Unknown
	True
)

// String returns the value's name.
func (t Tri) String() string {
	switch t {
	case False:
		return "false"
	case True:
		return "true"
	}
	return "unknown"
}

// Not returns the opposite; unknown stays unknown.
func (t Tri) Not() Tri { return True - t }

// TriOf returns True or False.
func TriOf(b bool) Tri {
	if b {
		return True
	}
	return False
}

// Num is what is known of a number: that it lies between Lo and Hi, both included. Lo == Hi is a known number.
type Num struct{ Lo, Hi float64 }

// Exact returns the known number v; NaN is no number and gives the unknown one.
func Exact(v float64) Num {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return AnyNum()
	}
	return Num{v, v}
}

// AnyNum returns the number of which nothing is known.
func AnyNum() Num { return Num{math.Inf(-1), math.Inf(1)} }

// AtLeast returns a number known to be v or more.
func AtLeast(v float64) Num { return Num{v, math.Inf(1)} }

// AtMost returns a number known to be v or less.
func AtMost(v float64) Num { return Num{math.Inf(-1), v} }

// Known reports whether the number is one value.
func (n Num) Known() bool { return n.Lo == n.Hi }

// Nothing reports whether nothing at all is known of the number.
func (n Num) Nothing() bool { return math.IsInf(n.Lo, -1) && math.IsInf(n.Hi, 1) }

// sane maps results beyond the range of float64, which no sensor has, to unknown.
func sane(lo, hi float64) Num {
	if lo > hi || math.IsNaN(lo) || math.IsNaN(hi) || math.IsInf(lo, 1) || math.IsInf(hi, -1) {
		return AnyNum()
	}
	return Num{lo, hi}
}

func (n Num) add(o Num) Num { return sane(n.Lo+o.Lo, n.Hi+o.Hi) }
func (n Num) sub(o Num) Num { return sane(n.Lo-o.Hi, n.Hi-o.Lo) }
func (n Num) neg() Num      { return Num{-n.Hi, -n.Lo} }

func (n Num) abs() Num {
	switch {
	case n.Lo >= 0:
		return n
	case n.Hi <= 0:
		return n.neg()
	}
	return Num{0, max(-n.Lo, n.Hi)}
}

// round is the nearest whole number, a half away from zero. It never falls where n rises, so it is that of both bounds.
func (n Num) round() Num { return Num{math.Round(n.Lo), math.Round(n.Hi)} }

// times is a product of bounds: nothing times any bound, even an infinite one, is nothing.
func times(a, b float64) float64 {
	if a == 0 || b == 0 {
		return 0
	}
	return a * b
}

func (n Num) mul(o Num) Num {
	if n.Lo == n.Hi && o.Lo == o.Hi {
		return Exact(n.Lo * o.Lo)
	}
	a, b, c, d := times(n.Lo, o.Lo), times(n.Lo, o.Hi), times(n.Hi, o.Lo), times(n.Hi, o.Hi)
	return sane(min(a, b, c, d), max(a, b, c, d))
}

// div is unknown where the divisor may be zero.
func (n Num) div(o Num) Num {
	if o.Lo <= 0 && o.Hi >= 0 {
		return AnyNum()
	}
	if n.Lo == n.Hi && o.Lo == o.Hi {
		return Exact(n.Lo / o.Lo)
	}
	// An infinite divisor gives 0, which is the right bound: the reciprocal of a bounded-away interval is bounded.
	return n.mul(Num{1 / o.Hi, 1 / o.Lo})
}

func (n Num) less(o Num) Tri {
	switch {
	case n.Hi < o.Lo:
		return True
	case n.Lo >= o.Hi:
		return False
	}
	return Unknown
}

func (n Num) lessEqual(o Num) Tri {
	switch {
	case n.Hi <= o.Lo:
		return True
	case n.Lo > o.Hi:
		return False
	}
	return Unknown
}

func (n Num) equal(o Num) Tri {
	switch {
	case n.Lo == n.Hi && o.Lo == o.Hi && n.Lo == o.Lo:
		return True
	case n.Hi < o.Lo || n.Lo > o.Hi:
		return False
	}
	return Unknown
}
