package expr

import (
	"math"
	"time"

	"linli/internal/telemetry"
)

// Cell is the present value of one point, as expressions read it.
type Cell struct {
	// Num is the value of a number, of an enum (its code) and of a bool (1 or 0); nothing while unknown.
	Num Num
	// Tri is the value of a bool.
	Tri  Tri
	Text string
	// Quality of the latest sample, and whether there was one.
	Quality telemetry.Quality
	Seen    bool
	// Events counts the good samples of an event point, each of which stands for itself; it wraps. Whoever sets the cell
	// counts.
	Events uint32
	Time   telemetry.Mono
}

// HasValue reports whether the point has a value now.
func (c *Cell) HasValue() bool { return c.Seen && !c.Quality.Bad() }

// NewCell returns the cell of a point that has not been read yet.
func NewCell() Cell { return Cell{Num: AnyNum(), Tri: Unknown} }

// Set takes a sample's value and quality. A value that the quality should have but does not (NaN, no value, a text
// for a number) is taken as a sensor's failure.
func (c *Cell) Set(kind telemetry.Kind, v telemetry.Value, q telemetry.Quality) (valueChanged, qualityChanged bool) {
	next := Cell{Num: AnyNum(), Tri: Unknown, Quality: q, Seen: true, Time: c.Time, Events: c.Events}
	if !q.Bad() {
		switch {
		case kind == telemetry.KindText && v.Kind() == telemetry.KindText:
			next.Text = v.Text()
		case kind != telemetry.KindText && v.Kind() != telemetry.KindText && v.Kind() != 0:
			next.Num = rangeOf(v.Float(), q)
			if kind == telemetry.Bool {
				next.Tri = TriOf(v.Bool())
			}
		}
		if kind == telemetry.KindText && v.Kind() != telemetry.KindText || kind != telemetry.KindText && next.Num.Nothing() {
			next.Quality, next.Tri, next.Text = telemetry.BadSensor, Unknown, ""
		}
	}
	qualityChanged = !c.Seen || c.Quality != next.Quality
	valueChanged = qualityChanged || c.Num != next.Num || c.Tri != next.Tri || c.Text != next.Text
	*c = next
	return valueChanged, qualityChanged
}

func rangeOf(v float64, q telemetry.Quality) Num {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return AnyNum()
	}
	switch q {
	case telemetry.OverRange:
		return AtLeast(v)
	case telemetry.UnderRange:
		return AtMost(v)
	}
	return Num{v, v}
}

// Present is the moment at which expressions are evaluated. Its owner sets it before each evaluation.
type Present struct {
	Mono telemetry.Mono
	// Local is the site's local time; the zero time while the clock is not set.
	Local time.Time
}

// Use says what an expression wants to know of a point, and so when it must be evaluated again.
type Use uint8

// The uses of a point.
const (
	UseValue   Use = iota + 1 // whenever value or quality changes
	UseQuality                // only when the quality changes
)

// Binder gives a checked expression its operands. Device numbers are indices in the inventory; Self is the
// subject's.
type Binder interface {
	// Self returns the subject's device, -1 where it is a zone or the site.
	Self() int
	// Cell returns the cell of a device's point, constant or derived points included, and notes the use.
	Cell(device int, point string, use Use) *Cell
	// HasValue reports whether a device's point is provided by a unit or has a constant value.
	HasValue(device int, point string) bool
	// LifeSafety reports whether a unit provides a life-safety point of the device.
	LifeSafety(device int) bool
	// Provided returns the cells of all points of a device that a unit provides, and notes that their quality is used.
	Provided(device int) []*Cell
	// Needed returns the cells of the points that a device is there for, and notes that their quality is used: those
	// that a unit provides and that protect life or, unless only those are asked for, that its class cannot do without;
	// where it can do without any, all that a unit provides.
	Needed(device int, lifeSafetyOnly bool) []*Cell
	// Fault returns the cell of a device's point `fault`, and notes the use; nil where no unit provides such a point
	// or it is not true or false.
	Fault(device int) *Cell
	// Class returns the class of a device.
	Class(device int) string
	// Group returns the devices of class in scope (zone, site, or the kind of an enclosing zone).
	Group(scope, class string) []int
	// Active returns the counter of active alerts named name, and notes the use.
	Active(name string) *int
	// ID returns the id of a device; empty for the subject itself.
	ID(device int) string
	// State returns the state of node n for device: s itself, kept from now on and updated at each evaluation, or the
	// one that is kept for the same already.
	State(n *Node, device int, s State) State
	// Coverage is how much of a window must be known, a share of its length.
	Coverage() float64
	// Schedule returns the schedule named name for the subject.
	Schedule(name string) Schedule
	// Within reports whether the subject lies in a zone of a kind, or is one.
	Within(kind string) bool
	// Undecided returns since when the alert of the subject that has not been decidable for longest is so, Never where
	// all are; and notes the use.
	Undecided() func() telemetry.Mono
	// Calendar notes that the expression depends on the calendar; next returns the first local time after its
	// argument at which that part may change.
	Calendar(next func(local time.Time) time.Time)
	// Present is the moment of evaluation.
	Present() *Present
}

// Schedule is a schedule as an expression asks for it.
type Schedule struct {
	// Open reports whether the schedule holds at a local time; nil where it always or never does, which Fixed says.
	Open  func(local time.Time) bool
	Fixed bool
	// Next returns the first local time after its argument at which Open may change.
	Next func(local time.Time) time.Time
}

// BindBool turns a checked expression of type bool into a closure.
func BindBool(n *Node, b Binder) func() Tri { return (&binder{b, b.Self()}).tri(n) }

// BindNum turns a checked expression that is a number, a duration (in seconds) or a state (its code) into a closure.
func BindNum(n *Node, b Binder) func() Num { return (&binder{b, b.Self()}).num(n) }

// BindMember binds an expression inside an aggregate for one device of the group.
func BindMember(n *Node, b Binder, device int) func() Tri { return (&binder{b, device}).tri(n) }

// BindMemberNum does the same for a number.
func BindMemberNum(n *Node, b Binder, device int) func() Num { return (&binder{b, device}).num(n) }

// binder binds for one member of a group; outside groups, member is the subject.
type binder struct {
	Binder
	member int
}

func (b *binder) cell(n *Node, use Use) *Cell {
	if n.Op == OpGroup {
		return b.Cell(b.member, n.Text, use)
	}
	return b.Cell(b.Self(), n.Text, use)
}

func (b *binder) tri(n *Node) func() Tri {
	if v, ok := b.fixed(n); ok {
		return func() Tri { return v }
	}
	switch n.Op {
	case OpPoint, OpGroup:
		c := b.cell(n, UseValue)
		return func() Tri { return c.Tri }
	case OpNot:
		x := b.tri(n.Args[0])
		return func() Tri { return x().Not() }
	case OpAnd:
		l, r := b.tri(n.Args[0]), b.tri(n.Args[1])
		return func() Tri {
			v := l()
			if v == False {
				return False
			}
			return min(v, r())
		}
	case OpOr:
		l, r := b.tri(n.Args[0]), b.tri(n.Args[1])
		return func() Tri {
			v := l()
			if v == True {
				return True
			}
			return max(v, r())
		}
	case OpCall:
		return b.triCall(n)
	}
	return b.compare(n)
}

// fixed returns what a condition is for ever, where what is installed decides it: a rule about a point that a device does
// not have then costs nothing, its windows least of all.
func (b *binder) fixed(n *Node) (v Tri, ok bool) {
	switch n.Op {
	case OpBool:
		return TriOf(n.Num != 0), true
	case OpNot:
		v, ok = b.fixed(n.Args[0])
		return v.Not(), ok
	case OpAnd, OpOr:
		settles := False // what settles it alone
		if n.Op == OpOr {
			settles = True
		}
		l, lok := b.fixed(n.Args[0])
		r, rok := b.fixed(n.Args[1])
		if lok && l == settles || rok && r == settles {
			return settles, true
		}
		return settles.Not(), lok && rok
	case OpCall:
		switch n.Text {
		case "is_a":
			return TriOf(b.Class(b.Self()) == n.Args[0].Text), true
		case "life_safety":
			return TriOf(b.LifeSafety(b.Self())), true
		case "within":
			return TriOf(b.Within(n.Args[0].Text)), true
		case "provided":
			device := b.Self()
			if n.Args[0].Op == OpGroup {
				device = b.member
			}
			return TriOf(b.HasValue(device, n.Args[0].Text)), true
		}
	}
	return False, false
}

func (b *binder) compare(n *Node) func() Tri {
	if n.Args[0].Type == TypeText {
		l, r := b.text(n.Args[0]), b.text(n.Args[1])
		equal := n.Op == OpEqual
		return func() Tri {
			x, ok := l()
			y, ok2 := r()
			if !ok || !ok2 {
				return Unknown
			}
			return TriOf((x == y) == equal)
		}
	}
	l, r := b.num(n.Args[0]), b.num(n.Args[1])
	switch n.Op {
	case OpLess:
		return func() Tri { return l().less(r()) }
	case OpLessEqual:
		return func() Tri { return l().lessEqual(r()) }
	case OpGreater:
		return func() Tri { return r().less(l()) }
	case OpGreaterEqual:
		return func() Tri { return r().lessEqual(l()) }
	case OpEqual:
		return func() Tri { return l().equal(r()) }
	default:
		return func() Tri { return l().equal(r()).Not() }
	}
}

func (b *binder) text(n *Node) func() (string, bool) {
	if n.Op == OpString {
		return func() (string, bool) { return n.Text, true }
	}
	c := b.cell(n, UseValue)
	return func() (string, bool) { return c.Text, c.Seen && !c.Quality.Bad() }
}

func (b *binder) num(n *Node) func() Num {
	switch n.Op {
	case OpNumber, OpDuration:
		v := Exact(n.Num)
		return func() Num { return v }
	case OpPoint, OpGroup:
		c := b.cell(n, UseValue)
		return func() Num { return c.Num }
	case OpNeg:
		x := b.num(n.Args[0])
		return func() Num { return x().neg() }
	case OpCall:
		return b.numCall(n)
	}
	l, r := b.num(n.Args[0]), b.num(n.Args[1])
	switch n.Op {
	case OpAdd:
		return func() Num { return l().add(r()) }
	case OpSub:
		return func() Num { return l().sub(r()) }
	case OpMul:
		return func() Num { return l().mul(r()) }
	default:
		return func() Num { return l().div(r()) }
	}
}

// overTime binds a window to what it follows: a number, a condition as 1 or 0, or the events of a point.
func (b *binder) overTime(n *Node) func() Num {
	w := newWindow(n, b.member, b.ID(b.member), b.Coverage())
	followed := n.followed()
	switch event := followed.Event; {
	case event != nil:
		w.event = b.cell(event, UseValue)
		if event != followed {
			w.tri = b.tri(followed)
		}
	case followed.Type == TypeBool:
		w.tri = b.tri(followed)
	default:
		w.num = b.num(followed)
	}
	return b.State(n, b.member, w).(*Window).Value
}

// ofNumbers binds the absolute value, the whole number, the greatest and the least of numbers.
func (b *binder) ofNumbers(n *Node) func() Num {
	args := make([]func() Num, len(n.Args))
	for i, a := range n.Args {
		args[i] = b.num(a)
	}
	switch n.Text {
	case "abs":
		return func() Num { return args[0]().abs() }
	case "round":
		return func() Num { return args[0]().round() }
	case "greatest":
		return func() Num { return greatest(args) }
	}
	return func() Num { return least(args) }
}

// greatest is the largest of some numbers: at least the largest lower bound, at most the largest upper one.
func greatest(list []func() Num) Num {
	v := list[0]()
	for _, f := range list[1:] {
		x := f()
		v = Num{max(v.Lo, x.Lo), max(v.Hi, x.Hi)}
	}
	return v
}

func least(list []func() Num) Num {
	v := list[0]()
	for _, f := range list[1:] {
		x := f()
		v = Num{min(v.Lo, x.Lo), min(v.Hi, x.Hi)}
	}
	return v
}

func (b *binder) triCall(n *Node) func() Tri {
	switch n.Text {
	case "any", "all", "at_least":
		return b.triAggregate(n)
	case "active":
		count := b.Active(n.Args[0].Text)
		return func() Tri { return TriOf(*count > 0) }
	case "silent":
		cells := b.Provided(b.Self())
		return func() Tri { return silent(cells) }
	case "no_reading", "no_protection":
		all, needed := b.Provided(b.Self()), b.Needed(b.Self(), n.Text == "no_protection")
		return func() Tri { return min(silent(all).Not(), noReading(needed)) }
	case "faulty":
		c := b.Fault(b.Self())
		if c == nil {
			return func() Tri { return False }
		}
		return func() Tri { return c.Tri }
	case "bad":
		c := b.cell(n.Args[0], UseQuality)
		return func() Tri { return TriOf(c.Seen && c.Quality.Bad()) }
	case "known":
		c := b.cell(n.Args[0], UseQuality)
		return func() Tri { return TriOf(c.Seen && !c.Quality.Bad()) }
	}
	return b.triTime(n)
}

// triTime binds the conditions that have to do with time.
func (b *binder) triTime(n *Node) func() Tri {
	switch n.Text {
	case "sequence":
		return b.sequence(n)
	case "schedule":
		return b.schedule(n)
	case "undecided":
		u := &Undecided{since: b.Undecided(), limit: telemetry.Mono(seconds(n.Args[0].Num)), node: n}
		return b.State(n, b.Self(), u).(*Undecided).Value
	}
	return b.between(n)
}

// silent is true when every provided point is known not to be answered, false as soon as one is; a device that
// provides nothing cannot be silent.
func silent(cells []*Cell) Tri {
	if len(cells) == 0 {
		return False
	}
	v := True
	for _, c := range cells {
		switch {
		case !c.Seen:
			v = Unknown
		case c.Quality != telemetry.BadComm:
			return False
		}
	}
	return v
}

// noReading is true as soon as one point has no value, except where people took it out of service; unknown where that
// depends on points not read yet.
func noReading(cells []*Cell) Tri {
	v := False
	for _, c := range cells {
		switch {
		case !c.Seen:
			v = Unknown
		case c.Quality.Bad() && c.Quality != telemetry.BadMaintenance:
			return True
		}
	}
	return v
}

func (b *binder) triAggregate(n *Node) func() Tri {
	inner := n.Args[len(n.Args)-1]
	members := b.members(n, inner)
	switch n.Text {
	case "any":
		return func() Tri {
			v := False
			for _, m := range members {
				if v = max(v, m()); v == True {
					break
				}
			}
			return v
		}
	case "all":
		return func() Tri {
			v := True
			for _, m := range members {
				if v = min(v, m()); v == False {
					break
				}
			}
			return v
		}
	}
	need := int(n.Args[0].Num)
	return func() Tri {
		sure, possible := tally(members)
		switch {
		case sure >= need:
			return True
		case possible < need:
			return False
		}
		return Unknown
	}
}

func (b *binder) members(n, inner *Node) []func() Tri {
	devices := b.Group(n.Scope, n.Class)
	members := make([]func() Tri, len(devices))
	for i, d := range devices {
		members[i] = (&binder{b.Binder, d}).tri(inner)
	}
	return members
}

// tally counts the members that are true, and those that may be.
func tally(members []func() Tri) (sure, possible int) {
	for _, m := range members {
		switch m() {
		case True:
			sure++
			possible++
		case Unknown:
			possible++
		}
	}
	return sure, possible
}

func (b *binder) numCall(n *Node) func() Num {
	p := b.Present()
	switch n.Text {
	case "count":
		members := b.members(n, n.Args[0])
		return func() Num {
			sure, possible := tally(members)
			return Num{float64(sure), float64(possible)}
		}
	case "avg", "max", "min":
		return b.numAggregate(n)
	case "abs", "round", "greatest", "least":
		return b.ofNumbers(n)
	case "absent_for":
		a := &Absence{cell: b.cell(n.Args[0], UseQuality), node: n, device: b.member, id: b.ID(b.member)}
		return b.State(n, b.member, a).(*Absence).Value
	case "hour":
		b.Calendar(nextHour)
		return func() Num {
			if p.Local.IsZero() {
				return AnyNum()
			}
			return Exact(float64(p.Local.Hour()))
		}
	case "weekday":
		b.Calendar(nextDay)
		return func() Num {
			if p.Local.IsZero() {
				return AnyNum()
			}
			return Exact(float64((p.Local.Weekday()+6)%7 + 1))
		}
	}
	return b.overTime(n)
}

func (b *binder) numAggregate(n *Node) func() Num {
	devices := b.Group(n.Scope, n.Class)
	members := make([]func() Num, len(devices))
	for i, d := range devices {
		members[i] = (&binder{b.Binder, d}).num(n.Args[0])
	}
	if len(members) == 0 {
		return AnyNum
	}
	switch n.Text {
	case "max":
		return func() Num { return greatest(members) }
	case "min":
		return func() Num { return least(members) }
	}
	scale := Exact(float64(len(members)))
	return func() Num {
		v := members[0]()
		for _, m := range members[1:] {
			v = v.add(m())
		}
		return v.div(scale)
	}
}
