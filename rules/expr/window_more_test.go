package expr

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"linli/internal/telemetry"
)

// stepped is a window with its input and its clock.
type stepped struct {
	t   *testing.T
	w   *Window
	f   *Frame
	cur Num
}

func newStepped(t *testing.T, fn string, length time.Duration) *stepped {
	s := &stepped{t: t, cur: AnyNum()}
	s.w = newWindow(windowNode(fn, length), -1, "", Coverage)
	s.w.num = func(*Frame) Num { return s.cur }
	return s
}

// at sets the value from at on.
func (s *stepped) at(at time.Duration, v Num) {
	s.cur = v
	s.w.Update(telemetry.Mono(at), s.f)
}

func (s *stepped) want(at time.Duration, want Num) {
	s.t.Helper()
	s.w.Update(telemetry.Mono(at), s.f)
	if got := s.w.Value(); !near(got.Lo, want.Lo, 1e-9) || !near(got.Hi, want.Hi, 1e-9) {
		s.t.Errorf("at %v: %v, want %v", at, got, want)
	}
}

const sec = time.Second

func TestIntegral(t *testing.T) {
	s := newStepped(t, "integral", 100*sec)
	s.at(0, Exact(36))
	s.want(74*sec, AnyNum())
	s.want(75*sec, Exact(36*75)) // just covered
	s.at(75*sec, AnyNum())
	s.want(100*sec, Exact(36*75))
	s.want(100*sec+1, AnyNum())
	s.at(101*sec, AtLeast(10)) // beyond the scale
	s.want(170*sec, AnyNum())  // 5 s of 36, 69 s of 10 or more: not covered
	s.at(171*sec, Exact(10))
	s.want(176*sec, Num{10 * 75, math.Inf(1)})
	s.want(271*sec, Exact(10*100))
}

func TestIncrease(t *testing.T) {
	s := newStepped(t, "increase", 100*sec)
	s.at(0, Exact(1000))
	s.want(50*sec, AtLeast(0))
	s.at(50*sec, Exact(1003))
	s.want(80*sec, Exact(3))
	s.at(90*sec, Exact(2)) // began anew
	s.want(100*sec, Exact(5))
	s.want(149*sec, Exact(5))
	s.want(150*sec, Exact(2)) // the first rise is as old as the window is long
	s.want(190*sec, Exact(0))
	// Across a gap a rise belongs to the window for as long as the gap begins within it.
	s.at(200*sec, AnyNum())
	s.at(220*sec, Exact(9))
	s.want(220*sec, Exact(7))
	s.want(299*sec, Exact(7))
	s.want(300*sec, Exact(0))
	// A bound is no reading of a counter.
	s.at(310*sec, AtLeast(20))
	s.want(320*sec, Exact(0))
	s.want(336*sec, AtLeast(0)) // 26 of 100 s were not known exactly
	s.at(336*sec, Exact(25))
	s.want(336*sec, AtLeast(16))
	s.want(409*sec, AtLeast(16))
	s.want(411*sec, Exact(0))
}

func TestRate(t *testing.T) {
	s := newStepped(t, "rate", 100*sec)
	s.at(0, Exact(10))
	s.at(10*sec, Exact(20))
	s.want(80*sec, Exact(0.1))
	s.want(110*sec, Exact(0))
}

// What the logarithm adds to a level that stood alone decides no comparison.
func TestLevelsAreExact(t *testing.T) {
	for tenth := 300; tenth < 1000; tenth++ {
		v := float64(tenth) / 10
		s := newStepped(t, "leq", 100*sec)
		s.at(0, Exact(v))
		s.at(33*sec+1, Exact(v))
		s.at(80*sec, Exact(v))
		if got := s.w.Value(); got != Exact(v) {
			t.Fatalf("%v became %v", v, got)
		}
	}
}

// What is left of rises that have left the window is nothing, not rounding.
func TestRisesLeaveNothingBehind(t *testing.T) {
	s := newStepped(t, "increase", 60*sec)
	v := 0.0
	for i := range 200 {
		v += 0.1
		s.at(time.Duration(i)*3*sec, Exact(v))
	}
	s.want(700*sec, Exact(0))
}

func TestQuantile(t *testing.T) {
	s := newStepped(t, "quantile_over_time", 100*sec)
	s.at(0, Exact(50))
	s.want(74*sec, AnyNum())
	s.at(80*sec, Exact(70))
	s.want(90*sec, Exact(70)) // 80 s of 90 are less than 0.9
	s.want(100*sec, Exact(70))
	s.at(100*sec, Exact(60))
	s.want(110*sec, Exact(70))
	s.at(110*sec, Exact(40))
	s.want(170*sec, Exact(70)) // 10 s of 50, 20 of 70, 10 of 60, 60 of 40
	s.want(189*sec, Exact(70)) // 11 of 100 s
	s.want(190*sec, Exact(60)) // 10 of 100: 60 or less for 0.9 of the time
	// Beyond the scale for less than a tenth changes nothing; for more, it is at least the bound.
	s.at(300*sec, AtLeast(90))
	s.want(309*sec, Exact(40))
	s.want(311*sec, AtLeast(90))
	// Unknown time does not count.
	s.at(320*sec, AnyNum())
	s.want(345*sec, AtLeast(90))
	s.want(346*sec, AnyNum())
}

func TestLeq(t *testing.T) {
	s := newStepped(t, "leq", 100*sec)
	s.at(0, Exact(63))
	for i := range 70 {
		s.want(time.Duration(i)*sec+sec/3, AnyNum())
	}
	s.want(80*sec, Exact(63))
	if got := s.w.Value(); got != Exact(63) {
		t.Errorf("a level that stood alone is %v, want 63 exactly", got)
	}
	s.at(100*sec, Exact(93))
	s.want(101*sec, Exact(math.Round(10*math.Log10((99*math.Pow(10, 6.3)+math.Pow(10, 9.3))/100)*1e9)/1e9))
	s.at(101*sec, Exact(63))
	s.want(201*sec, Exact(63))
	// Below the scale adds at most its bound.
	s.at(201*sec, AtMost(30))
	s.want(251*sec, Num{math.Round(10*math.Log10(math.Pow(10, 6.3)/2)*1e9) / 1e9, math.Round(10*math.Log10((math.Pow(10, 6.3)+math.Pow(10, 3))/2)*1e9) / 1e9})
	s.want(301*sec, AtMost(30))
	s.at(302*sec, AtLeast(120))
	s.want(312*sec, Num{math.Round(10*math.Log10(0.1*math.Pow(10, 12))*1e9) / 1e9, math.Inf(1)})
	// Nonsense of a sensor is no level, and leaves nothing behind.
	s.at(313*sec, Exact(3e38))
	s.at(314*sec, Exact(50))
	s.want(414*sec, Exact(50))
}

// One absurd reading is forgotten with its time.
func TestAnAbsurdReadingLeavesNothingBehind(t *testing.T) {
	for _, fn := range []string{"avg_over_time", "integral"} {
		s := newStepped(t, fn, 60*sec)
		s.at(0, Exact(3.4e38))
		s.at(sec, Exact(2.5))
		want := 2.5
		if fn == "integral" {
			want *= 60
		}
		s.want(62*sec, Exact(want))
	}
}

func TestCountOfConditions(t *testing.T) {
	s := newStepped(t, "count_over_time", 60*sec)
	s.at(0, Exact(1)) // the first known value has not become
	s.want(10*sec, AtLeast(0))
	s.at(10*sec, Exact(0))
	s.at(20*sec, Exact(1))
	s.want(30*sec, AtLeast(1))
	s.at(30*sec, AnyNum())
	s.at(31*sec, Exact(1)) // true before the gap
	s.want(50*sec, Exact(1))
	s.at(52*sec, Exact(0))
	s.at(53*sec, AnyNum())
	s.at(54*sec, Exact(1)) // false before the gap
	s.want(60*sec, Exact(2))
	s.want(79*sec, Exact(2))
	s.want(80*sec, Exact(1))
	if next := s.w.Next(telemetry.Mono(80 * sec)); next != telemetry.Mono(114*sec) {
		t.Errorf("looked at again at %v, want when the next one leaves, at 1m54s", time.Duration(next))
	}
	s.want(114*sec, Exact(0))
	if next := s.w.Next(telemetry.Mono(114 * sec)); next != telemetry.Never {
		t.Errorf("looked at again at %v, want never", time.Duration(next))
	}
}

// single returns a cell and the frame of which it is the only operand.
func single() (*Cell, *Frame) {
	f := &Frame{Cells: []Cell{NewCell()}, Ops: []uint32{0}}
	return &f.Cells[0], f
}

// event is a cell of an event point, the only operand of the frame.
func event() (*Cell, *Frame, func(at time.Duration, v bool)) {
	c, f := single()
	return c, f, func(at time.Duration, v bool) {
		c.Set(telemetry.Bool, telemetry.BoolValue(v), telemetry.Good)
		c.Time = telemetry.Mono(at)
		c.Events++
	}
}

func TestCountOfEvents(t *testing.T) {
	p := &Node{Op: OpPoint, Text: "press"}
	p.Event = p
	n := &Node{Op: OpCall, Text: "count_over_time", Window: 60 * sec, Args: []*Node{p}}
	w := newWindow(n, -1, "", Coverage)
	cell, f, happen := event()
	w.event = 0
	s := &stepped{t: t, w: w, f: f}
	happen(0, true)
	s.want(0, AtLeast(1)) // at the very first moment
	s.want(45*sec, Exact(1))
	happen(46*sec, true)
	s.want(46*sec, Exact(2))
	happen(46*sec, false) // every sample is one, whatever its value
	s.want(46*sec, Exact(3))
	s.want(59*sec, Exact(3))
	s.want(60*sec, Exact(2))
	if next := w.Next(telemetry.Mono(60 * sec)); next != telemetry.Mono(106*sec) {
		t.Errorf("looked at again at %v, want 1m46s", time.Duration(next))
	}
	cell.Set(telemetry.Bool, telemetry.Value{}, telemetry.BadComm)
	s.want(70*sec, Exact(2))
	s.want(85*sec, Exact(2))
	s.want(86*sec, AtLeast(2))
	happen(90*sec, true)
	s.want(90*sec, AtLeast(3))
	s.want(134*sec, AtLeast(1)) // 74 s to 90 s were not known
	s.want(135*sec, Exact(1))
	s.want(150*sec, Exact(0))
}

// A window over an event point that begins later does not count what happened before.
func TestEventsBeforeTheWindow(t *testing.T) {
	p := &Node{Op: OpPoint, Text: "press"}
	p.Event = p
	w := newWindow(&Node{Op: OpCall, Text: "count_over_time", Window: 60 * sec, Args: []*Node{p}}, -1, "", Coverage)
	_, f, happen := event()
	w.event = 0
	happen(10*sec, true)
	s := &stepped{t: t, w: w, f: f}
	s.want(20*sec, AtLeast(0))
	happen(30*sec, true)
	s.want(30*sec, AtLeast(1))
}

func TestCountOfEventsUnderACondition(t *testing.T) {
	p := &Node{Op: OpPoint, Text: "press"}
	and := &Node{Op: OpAnd, Event: p, Args: []*Node{p, {Op: OpPoint, Text: "x"}}}
	w := newWindow(&Node{Op: OpCall, Text: "count_over_time", Window: 60 * sec, Args: []*Node{and}}, -1, "", Coverage)
	cell, f, happen := event()
	is := True
	w.event, w.tri = 0, func(*Frame) Tri { return min(cell.Tri, is) }
	s := &stepped{t: t, w: w, f: f}
	s.want(0, AtLeast(0))
	happen(sec, true)
	s.want(sec, AtLeast(1))
	happen(2*sec, false)
	s.want(2*sec, AtLeast(1))
	is = Unknown
	happen(3*sec, true) // perhaps it was one
	s.want(3*sec, AtLeast(1))
	s.want(50*sec, Num{1, 2})
	is = False
	happen(51*sec, true)
	s.want(51*sec, Num{1, 2})
	s.want(61*sec, Num{0, 1})
	s.want(63*sec, Exact(0))
}

// The orders by which quantiles are found are those of the rows, whatever comes.
func TestOrderOfQuantiles(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	s := newStepped(t, "quantile_over_time", 30*time.Minute)
	now := time.Duration(0)
	wide, full := 0, 0
	for i := range 20_000 {
		switch v := float64(r.IntN(1000)); {
		case i%3000 < 40:
			s.at(now, AnyNum())
		case i%2000 < 100 && r.IntN(2) == 0:
			s.at(now, [...]Num{AtLeast(v), AtMost(v), {v, v + 10}}[r.IntN(3)])
		default:
			s.at(now, Exact(v))
		}
		now += time.Duration(r.Int64N(int64(8 * sec)))
		if i%2500 > 2000 {
			now += time.Duration(r.Int64N(int64(time.Minute)))
		}
		rows := &s.w.rows
		check := func(o *sorted) {
			var want []int
			for i := range rows.n {
				if rows.row(i)[colKnown] > 0 {
					want = append(want, rows.slot(i))
				}
			}
			got := make([]int, len(o.slots))
			for k, slot := range o.slots {
				got[k] = int(slot)
				if k > 0 && rows.at(got[k-1])[o.col] > rows.at(got[k])[o.col] {
					t.Fatalf("step %d: out of order at %d", i, k)
				}
			}
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Fatalf("step %d: %v in order, want %v", i, got, want)
			}
		}
		check(&s.w.order.byLo)
		if s.w.order.wide > 0 {
			check(&s.w.order.byHi)
			wide++
		}
		if rows.n > 200 {
			full++
		}
		if v := s.w.Value(); v.Lo > v.Hi || math.IsNaN(v.Lo) {
			t.Fatalf("step %d: %v", i, v)
		}
	}
	if wide < 1000 || full < 1000 {
		t.Errorf("%d steps with bounds and %d with many spans: the test shows little", wide, full)
	}
	if got := s.w.Bytes(); got > s.w.MaxBytes() {
		t.Errorf("%d bytes, at most %d were said", got, s.w.MaxBytes())
	}
}

func TestAbsence(t *testing.T) {
	cell, f := single()
	a := &Absence{node: &Node{Op: OpCall, Text: "absent_for"}, device: -1}
	want := func(at, want time.Duration, next time.Duration) {
		t.Helper()
		a.Update(telemetry.Mono(at), f)
		if got := a.Value(); got != Exact(want.Seconds()) {
			t.Errorf("at %v: %v, want %v", at, got, want)
		}
		due := telemetry.Mono(next)
		if next < 0 {
			due = telemetry.Never
		}
		if got := a.Next(telemetry.Mono(at)); got != due {
			t.Errorf("at %v: looked at again at %v, want %v", at, time.Duration(got), next)
		}
	}
	want(5*sec/2, 0, 3*sec) // never read: since the start
	want(10*sec, 15*sec/2, 11*sec)
	cell.Set(telemetry.Float, telemetry.FloatValue(1), telemetry.Uncertain)
	want(11*sec, 0, -1)
	want(20*sec, 0, -1)
	cell.Set(telemetry.Float, telemetry.Value{}, telemetry.BadSensor)
	want(20*sec, 0, 21*sec)
	want(20*sec+10*time.Minute, 10*time.Minute, 630*sec)
	want(20*sec+2*time.Hour, 2*time.Hour, 2*time.Hour+time.Minute)
	cell.Set(telemetry.Float, telemetry.Value{}, telemetry.BadComm)
	want(30*sec+2*time.Hour, 2*time.Hour+10*sec, 2*time.Hour+time.Minute)

	// It goes on over a restart; a point that had a value and is not read yet is without one from the start on.
	b := a.AppendState(nil)
	*cell = NewCell()
	again := &Absence{node: a.node, device: -1}
	if _, err := again.SetState(b, -time.Hour, telemetry.Mono(time.Hour+30*sec), f); err != nil {
		t.Fatal(err)
	}
	a = again
	want(time.Hour+40*sec, 2*time.Hour+20*sec, time.Hour+time.Minute)
	cell.Set(telemetry.Float, telemetry.FloatValue(1), telemetry.Good)
	want(2*time.Hour, 0, -1)
	b = a.AppendState(nil)
	*cell = NewCell()
	a = &Absence{node: a.node, device: -1}
	if _, err := a.SetState(b, 0, telemetry.Mono(2*time.Hour), f); err != nil {
		t.Fatal(err)
	}
	want(3*time.Hour, 0, 3*time.Hour+sec)
	want(3*time.Hour+5*sec, 5*sec, 3*time.Hour+6*sec)
}

// What stood for no time at all is not the value that a delta begins with.
func TestDeltaOfTwoValuesAtOneMoment(t *testing.T) {
	s := newStepped(t, "delta", 10*sec)
	s.at(0, Exact(1))
	s.at(5*sec, Exact(100))
	s.at(5*sec, Exact(2))
	s.want(15*sec, Exact(0))
	s.at(20*sec, AnyNum())
	s.at(20*sec, Exact(3))
	s.want(30*sec, Exact(0))
}

// Rounding is no doubt: once what lay between two bounds has left the window, the mean is one value again.
func TestAMeanIsOneValueAgain(t *testing.T) {
	s := newStepped(t, "avg_over_time", 10*sec)
	for i := range 400 {
		v := Exact(float64(i%7)/3 + 0.1)
		if i%13 == 5 {
			v = Num{v.Lo, v.Lo + 0.7}
		}
		s.at(time.Duration(i)*sec, v)
		if i%13 == 4 && i > 13 && !s.w.Value().Known() || i%13 == 7 && s.w.Value().Known() {
			t.Errorf("at %d s: %v", i, s.w.Value())
		}
	}
	s.at(400*sec, AtMost(3)) // what has no bound is another matter
	s.w.Update(telemetry.Mono(401*sec), s.f)
	if v := s.w.Value(); !math.IsInf(v.Lo, -1) {
		t.Errorf("with a reading below the scale: %v", v)
	}
}

// Of a value that stood alone what has left the window is taken off exactly, so that a limit may be met exactly.
func TestAnIntegralIsExactWhileOneValueStands(t *testing.T) {
	s := newStepped(t, "integral", 10*sec)
	s.at(0, Exact(150))
	for i := range 60 {
		s.w.Update(telemetry.Mono(10*sec)+telemetry.Mono(i)*telemetry.Mono(sec), s.f)
		if v := s.w.Value(); v != Exact(1500) {
			t.Fatalf("at %d s: %v", 10+i, v)
		}
	}
}
