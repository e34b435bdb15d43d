package expr

import (
	"math"
	"math/rand/v2"
	"testing"

	"linli/internal/telemetry"
)

// A result over intervals must hold for every pair of values within them, and be decided whenever all pairs agree on
// it at the ends.
func TestIntervalsAreSound(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	pick := func() Num {
		a, b := float64(r.IntN(9)-4), float64(r.IntN(9)-4)
		switch r.IntN(5) {
		case 0:
			return AnyNum()
		case 1:
			return AtLeast(a)
		case 2:
			return AtMost(a)
		case 3:
			return Exact(a)
		}
		return Num{min(a, b), max(a, b)}
	}
	inside := func(n Num) float64 {
		lo, hi := max(n.Lo, -1e3), min(n.Hi, 1e3)
		switch r.IntN(3) {
		case 0:
			return lo
		case 1:
			return hi
		}
		return lo + (hi-lo)*r.Float64()
	}
	decided := 0
	for range 200_000 {
		a, b := pick(), pick()
		x, y := inside(a), inside(b)
		for name, c := range map[string]struct {
			n Num
			v float64
		}{"+": {a.add(b), x + y}, "-": {a.sub(b), x - y}, "*": {a.mul(b), x * y}, "/": {a.div(b), x / y}, "neg": {a.neg(), -x}} {
			if name == "/" && y == 0 {
				continue
			}
			if c.v < c.n.Lo-1e-9 || c.v > c.n.Hi+1e-9 {
				t.Fatalf("%v %s %v = %v, which misses %v (%v, %v)", a, name, b, c.n, c.v, x, y)
			}
		}
		for name, c := range map[string]struct {
			tri Tri
			v   bool
		}{"<": {a.less(b), x < y}, "<=": {a.lessEqual(b), x <= y}, "==": {a.equal(b), x == y}} {
			if c.tri != Unknown {
				decided++
				if c.tri != TriOf(c.v) {
					t.Fatalf("%v %s %v is %v, but %v %s %v is %v", a, name, b, c.tri, x, name, y, c.v)
				}
			}
		}
	}
	if decided < 150_000 {
		t.Errorf("only %d comparisons were decided", decided)
	}
}

func TestOverRangeDecidesWhatPointsItsWay(t *testing.T) {
	dense := AtLeast(0.3) // a smoke detector past its scale
	limit := Exact(0.15)
	if got := limit.less(dense); got != True {
		t.Errorf("0.3 and more > 0.15 is %v", got)
	}
	if got := dense.less(limit); got != False {
		t.Errorf("0.3 and more < 0.15 is %v", got)
	}
	if got := Exact(0.5).less(dense); got != Unknown {
		t.Errorf("0.3 and more > 0.5 is %v", got)
	}
	if got := Exact(0.3).lessEqual(dense); got != True {
		t.Errorf("0.3 and more >= 0.3 is %v", got)
	}
}

func TestCellsTakeNoNonsense(t *testing.T) {
	for name, c := range map[string]struct {
		kind telemetry.Kind
		v    telemetry.Value
		q    telemetry.Quality
		want telemetry.Quality
	}{
		"nan":             {telemetry.Float, telemetry.FloatValue(math.NaN()), telemetry.Good, telemetry.BadSensor},
		"infinity":        {telemetry.Float, telemetry.FloatValue(math.Inf(1)), telemetry.OverRange, telemetry.BadSensor},
		"nothing":         {telemetry.Bool, telemetry.Value{}, telemetry.Good, telemetry.BadSensor},
		"text for number": {telemetry.Float, telemetry.TextValue("7"), telemetry.Good, telemetry.BadSensor},
		"number for text": {telemetry.KindText, telemetry.FloatValue(7), telemetry.Good, telemetry.BadSensor},
		"int for float":   {telemetry.Float, telemetry.IntValue(7), telemetry.Good, telemetry.Good},
		"bad with value":  {telemetry.Float, telemetry.FloatValue(7), telemetry.BadComm, telemetry.BadComm},
	} {
		cell := NewCell()
		cell.Set(c.kind, c.v, c.q)
		if cell.Quality != c.want {
			t.Errorf("%s: quality %v, want %v", name, cell.Quality, c.want)
		}
		if cell.Quality.Bad() != (cell.Num.Nothing() && cell.Text == "") {
			t.Errorf("%s: quality %v with value %v %q", name, cell.Quality, cell.Num, cell.Text)
		}
	}
}
