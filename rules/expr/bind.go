package expr

import (
	"encoding/binary"
	"math"
	"time"

	"linli/internal/telemetry"
)

// Cell is the present value of one point, as expressions read it.
type Cell struct {
	// Num is the value of a number, of an enum (its code) and of a bool (1 or 0); nothing while unknown.
	Num  Num
	Text string
	Time telemetry.Mono
	// Events counts the good samples of an event point, each of which stands for itself; it wraps. Whoever sets the cell
	// counts.
	Events uint32
	// Tri is the value of a bool.
	Tri Tri
	// Quality of the latest sample, and whether there was one.
	Quality telemetry.Quality
	Seen    bool
}

// HasValue reports whether the point has a value now.
func (c *Cell) HasValue() bool { return c.Seen && !c.Quality.Bad() }

// NewCell returns the cell of a point that has not been read yet.
func NewCell() Cell { return Cell{Num: AnyNum(), Tri: Unknown} }

// Set takes a sample's value and quality. A value that the quality should have but does not (NaN, no value, a text
// for a number) is taken as a sensor's failure.
func (c *Cell) Set(kind telemetry.Kind, v telemetry.Value, q telemetry.Quality) (valueChanged, qualityChanged bool) {
	if q == telemetry.Good && c.Seen && c.Quality == q && kind == telemetry.Float && v.Kind() == kind {
		// A number after a number, as nearly always.
		if f := v.Float(); f-f == 0 {
			changed := c.Num != Num{f, f}
			c.Num = Num{f, f}
			return changed, false
		}
	}
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
	// Cell returns which of Frame.Cells a device's point is, constant or derived points included, and notes the use.
	Cell(device int, point string, use Use) uint32
	// HasValue reports whether a device's point is provided by a unit or has a constant value.
	HasValue(device int, point string) bool
	// LifeSafety reports whether a unit provides a life-safety point of the device.
	LifeSafety(device int) bool
	// Provided returns the cells of all points of a device that a unit provides, and notes that their quality is used.
	Provided(device int) []uint32
	// Needed returns the cells of the points that a device is there for, and notes that their quality is used: those
	// that a unit provides and that protect life or, unless only those are asked for, that its class cannot do without;
	// where it can do without any, all that a unit provides.
	Needed(device int, lifeSafetyOnly bool) []uint32
	// Fault returns the cell of a device's point `fault`, and notes the use; false where no unit provides such a point
	// or it is not true or false.
	Fault(device int) (uint32, bool)
	// Class returns the class of a device.
	Class(device int) string
	// Group returns the devices of class in scope (zone, site, or the kind of an enclosing zone).
	Group(scope, class string) []int
	// Active returns the counter of active alerts named name, and notes the use.
	Active(name string) *int
	// ID returns the id of a device; empty for the subject itself.
	ID(device int) string
	// State returns which of the subject's states, counted from 0, is that of node n for device: s itself, kept from now on
	// and updated at each evaluation, or the one that is kept for the same already.
	State(n *Node, device int, s State) int
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
	// Zone is the subject's, -1 for the site: a schedule may be another one elsewhere.
	Zone int
	// Next returns the first local time after its argument at which Open may change.
	Next func(local time.Time) time.Time
}

// Frame is what the expressions of one subject read. Whoever evaluates them sets it before; they keep nothing of it.
type Frame struct {
	Cells  []Cell   // of all points
	Ops    []uint32 // which of Cells the subject's expressions read: Binding.Ops
	States []State  // what they remember, as Binder.State has numbered them
}

func (f *Frame) cell(op int) *Cell { return &f.Cells[f.Ops[op]] }

// Binding turns the checked expressions of one subject into closures. The closures name operands by their number only:
// they serve every subject of the same shape, each with its own operands.
type Binding struct {
	// Ops are the operands of everything that was bound so far.
	Ops   []uint32
	shape []byte
	b     Binder
}

// Bind returns a binding with nothing bound yet.
func Bind(b Binder) *Binding { return &Binding{b: b} }

// Shape is the same for two bindings that have bound the same expressions, in the same order, to the same closures.
func (g *Binding) Shape() string { return string(g.shape) }

// Bool binds an expression of type bool.
func (g *Binding) Bool(n *Node) func(*Frame) Tri { return (&binder{g.b, g, g.b.Self()}).tri(n) }

// Num binds an expression that is a number, a duration (in seconds) or a state (its code).
func (g *Binding) Num(n *Node) func(*Frame) Num { return (&binder{g.b, g, g.b.Self()}).num(n) }

// Member binds an expression inside an aggregate for one device of the group.
func (g *Binding) Member(n *Node, device int) func(*Frame) Tri {
	return (&binder{g.b, g, device}).tri(n)
}

// MemberNum does the same for a number.
func (g *Binding) MemberNum(n *Node, device int) func(*Frame) Num {
	return (&binder{g.b, g, device}).num(n)
}

// note takes down something on which the closures depend besides the expression.
func (g *Binding) note(v int) { g.shape = binary.AppendVarint(g.shape, int64(v)) }

// operands takes cells as the next operands.
func (g *Binding) operands(cells ...uint32) (first int) {
	first = len(g.Ops)
	g.Ops = append(g.Ops, cells...)
	return first
}

// binder binds for one member of a group; outside groups, member is the subject.
type binder struct {
	Binder
	g      *Binding
	member int
}

// cell returns the number of the operand that a point is.
func (b *binder) cell(n *Node, use Use) int {
	device := b.Self()
	if n.Op == OpGroup {
		device = b.member
	}
	return b.g.operands(b.Cell(device, n.Text, use))
}

// state returns the number of the state of node n: s, or one that is kept for the same.
func (b *binder) state(n *Node, s State) int {
	i := b.State(n, b.member, s)
	b.g.note(i)
	return i
}

func (b *binder) tri(n *Node) func(*Frame) Tri {
	v, ok := b.fixed(n)
	if ok {
		b.g.note(1 + int(v))
		return func(*Frame) Tri { return v }
	}
	b.g.note(0)
	switch n.Op {
	case OpPoint, OpGroup:
		c := b.cell(n, UseValue)
		return func(f *Frame) Tri { return f.cell(c).Tri }
	case OpNot:
		x := b.tri(n.Args[0])
		return func(f *Frame) Tri { return x(f).Not() }
	case OpAnd:
		l, r := b.tri(n.Args[0]), b.tri(n.Args[1])
		return func(f *Frame) Tri {
			v := l(f)
			if v == False {
				return False
			}
			return min(v, r(f))
		}
	case OpOr:
		l, r := b.tri(n.Args[0]), b.tri(n.Args[1])
		return func(f *Frame) Tri {
			v := l(f)
			if v == True {
				return True
			}
			return max(v, r(f))
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

func (b *binder) compare(n *Node) func(*Frame) Tri {
	if n.Args[0].Type == TypeText {
		l, r := b.text(n.Args[0]), b.text(n.Args[1])
		equal := n.Op == OpEqual
		return func(f *Frame) Tri {
			x, ok := l(f)
			y, ok2 := r(f)
			if !ok || !ok2 {
				return Unknown
			}
			return TriOf((x == y) == equal)
		}
	}
	l, r := b.num(n.Args[0]), b.num(n.Args[1])
	switch n.Op {
	case OpLess:
		return func(f *Frame) Tri { return l(f).less(r(f)) }
	case OpLessEqual:
		return func(f *Frame) Tri { return l(f).lessEqual(r(f)) }
	case OpGreater:
		return func(f *Frame) Tri { return r(f).less(l(f)) }
	case OpGreaterEqual:
		return func(f *Frame) Tri { return r(f).lessEqual(l(f)) }
	case OpEqual:
		return func(f *Frame) Tri { return l(f).equal(r(f)) }
	default:
		return func(f *Frame) Tri { return l(f).equal(r(f)).Not() }
	}
}

func (b *binder) text(n *Node) func(*Frame) (string, bool) {
	if n.Op == OpString {
		return func(*Frame) (string, bool) { return n.Text, true }
	}
	c := b.cell(n, UseValue)
	return func(f *Frame) (string, bool) {
		c := f.cell(c)
		return c.Text, c.HasValue()
	}
}

func (b *binder) num(n *Node) func(*Frame) Num {
	switch n.Op {
	case OpNumber, OpDuration:
		v := Exact(n.Num)
		return func(*Frame) Num { return v }
	case OpPoint, OpGroup:
		c := b.cell(n, UseValue)
		return func(f *Frame) Num { return f.cell(c).Num }
	case OpNeg:
		x := b.num(n.Args[0])
		return func(f *Frame) Num { return x(f).neg() }
	case OpCall:
		return b.numCall(n)
	}
	l, r := b.num(n.Args[0]), b.num(n.Args[1])
	switch n.Op {
	case OpAdd:
		return func(f *Frame) Num { return l(f).add(r(f)) }
	case OpSub:
		return func(f *Frame) Num { return l(f).sub(r(f)) }
	case OpMul:
		return func(f *Frame) Num { return l(f).mul(r(f)) }
	default:
		return func(f *Frame) Num { return l(f).div(r(f)) }
	}
}

// overTime binds a window to what it follows: a number, a condition as 1 or 0, or the events of a point.
func (b *binder) overTime(n *Node) func(*Frame) Num {
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
	i := b.state(n, w)
	return func(f *Frame) Num { return f.States[i].(*Window).Value() }
}

// ofNumbers binds the absolute value, the whole number, the greatest and the least of numbers.
func (b *binder) ofNumbers(n *Node) func(*Frame) Num {
	args := make([]func(*Frame) Num, len(n.Args))
	for i, a := range n.Args {
		args[i] = b.num(a)
	}
	switch n.Text {
	case "abs":
		return func(f *Frame) Num { return args[0](f).abs() }
	case "round":
		return func(f *Frame) Num { return args[0](f).round() }
	case "greatest":
		return func(f *Frame) Num { return greatest(f, args) }
	}
	return func(f *Frame) Num { return least(f, args) }
}

// greatest is the largest of some numbers: at least the largest lower bound, at most the largest upper one.
func greatest(f *Frame, list []func(*Frame) Num) Num {
	v := list[0](f)
	for _, next := range list[1:] {
		x := next(f)
		v = Num{max(v.Lo, x.Lo), max(v.Hi, x.Hi)}
	}
	return v
}

func least(f *Frame, list []func(*Frame) Num) Num {
	v := list[0](f)
	for _, next := range list[1:] {
		x := next(f)
		v = Num{min(v.Lo, x.Lo), min(v.Hi, x.Hi)}
	}
	return v
}

func (b *binder) triCall(n *Node) func(*Frame) Tri {
	switch n.Text {
	case "any", "all", "at_least":
		return b.triAggregate(n)
	case "active":
		count := b.Active(n.Args[0].Text)
		return func(*Frame) Tri { return TriOf(*count > 0) }
	case "silent":
		all := b.cells(b.Provided(b.Self()))
		return func(f *Frame) Tri { return silent(f, all) }
	case "no_reading", "no_protection":
		all, needed := b.cells(b.Provided(b.Self())), b.cells(b.Needed(b.Self(), n.Text == "no_protection"))
		return func(f *Frame) Tri { return min(silent(f, all).Not(), noReading(f, needed)) }
	case "faulty":
		cell, ok := b.Fault(b.Self())
		if !ok {
			b.g.note(0)
			return func(*Frame) Tri { return False }
		}
		b.g.note(1)
		c := b.g.operands(cell)
		return func(f *Frame) Tri { return f.cell(c).Tri }
	case "bad":
		c := b.cell(n.Args[0], UseQuality)
		return func(f *Frame) Tri {
			c := f.cell(c)
			return TriOf(c.Seen && c.Quality.Bad())
		}
	case "known":
		c := b.cell(n.Args[0], UseQuality)
		return func(f *Frame) Tri { return TriOf(f.cell(c).HasValue()) }
	}
	return b.triTime(n)
}

// triTime binds the conditions that have to do with time.
func (b *binder) triTime(n *Node) func(*Frame) Tri {
	switch n.Text {
	case "sequence":
		return b.sequence(n)
	case "schedule":
		return b.schedule(n)
	case "undecided":
		u := &Undecided{since: b.Undecided(), limit: telemetry.Mono(seconds(n.Args[0].Num)), node: n}
		i := b.state(n, u)
		return func(f *Frame) Tri { return f.States[i].(*Undecided).Value() }
	}
	return b.between(n)
}

// row is some operands that follow each other.
type row struct{ first, n int }

// cells takes cells as operands.
func (b *binder) cells(cells []uint32) row {
	b.g.note(len(cells))
	return row{b.g.operands(cells...), len(cells)}
}

// silent is true when every provided point is known not to be answered, false as soon as one is; a device that
// provides nothing cannot be silent.
func silent(f *Frame, all row) Tri {
	if all.n == 0 {
		return False
	}
	v := True
	for i := range all.n {
		c := f.cell(all.first + i)
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
func noReading(f *Frame, needed row) Tri {
	v := False
	for i := range needed.n {
		c := f.cell(needed.first + i)
		switch {
		case !c.Seen:
			v = Unknown
		case c.Quality.Bad() && c.Quality != telemetry.BadMaintenance:
			return True
		}
	}
	return v
}

func (b *binder) triAggregate(n *Node) func(*Frame) Tri {
	inner := n.Args[len(n.Args)-1]
	members := b.members(n, inner)
	switch n.Text {
	case "any":
		return func(f *Frame) Tri {
			v := False
			for _, m := range members {
				if v = max(v, m(f)); v == True {
					break
				}
			}
			return v
		}
	case "all":
		return func(f *Frame) Tri {
			v := True
			for _, m := range members {
				if v = min(v, m(f)); v == False {
					break
				}
			}
			return v
		}
	}
	need := int(n.Args[0].Num)
	return func(f *Frame) Tri {
		sure, possible := tally(f, members)
		switch {
		case sure >= need:
			return True
		case possible < need:
			return False
		}
		return Unknown
	}
}

func (b *binder) members(n, inner *Node) []func(f *Frame) Tri {
	devices := b.Group(n.Scope, n.Class)
	b.g.note(len(devices))
	members := make([]func(*Frame) Tri, len(devices))
	for i, d := range devices {
		members[i] = (&binder{b.Binder, b.g, d}).tri(inner)
	}
	return members
}

// tally counts the members that are true, and those that may be.
func tally(f *Frame, members []func(*Frame) Tri) (sure, possible int) {
	for _, m := range members {
		switch m(f) {
		case True:
			sure++
			possible++
		case Unknown:
			possible++
		}
	}
	return sure, possible
}

func (b *binder) numCall(n *Node) func(*Frame) Num {
	p := b.Present()
	switch n.Text {
	case "count":
		members := b.members(n, n.Args[0])
		return func(f *Frame) Num {
			sure, possible := tally(f, members)
			return Num{float64(sure), float64(possible)}
		}
	case "avg", "max", "min":
		return b.numAggregate(n)
	case "abs", "round", "greatest", "least":
		return b.ofNumbers(n)
	case "absent_for":
		i := b.state(n, &Absence{op: b.cell(n.Args[0], UseQuality), node: n, device: b.member, id: b.ID(b.member)})
		return func(f *Frame) Num { return f.States[i].(*Absence).Value() }
	case "hour":
		b.Calendar(nextHour)
		return func(f *Frame) Num {
			if p.Local.IsZero() {
				return AnyNum()
			}
			return Exact(float64(p.Local.Hour()))
		}
	case "weekday":
		b.Calendar(nextDay)
		return func(f *Frame) Num {
			if p.Local.IsZero() {
				return AnyNum()
			}
			return Exact(float64((p.Local.Weekday()+6)%7 + 1))
		}
	}
	return b.overTime(n)
}

func (b *binder) numAggregate(n *Node) func(*Frame) Num {
	devices := b.Group(n.Scope, n.Class)
	b.g.note(len(devices))
	members := make([]func(*Frame) Num, len(devices))
	for i, d := range devices {
		members[i] = (&binder{b.Binder, b.g, d}).num(n.Args[0])
	}
	if len(members) == 0 {
		return func(*Frame) Num { return AnyNum() }
	}
	switch n.Text {
	case "max":
		return func(f *Frame) Num { return greatest(f, members) }
	case "min":
		return func(f *Frame) Num { return least(f, members) }
	}
	scale := Exact(float64(len(members)))
	return func(f *Frame) Num {
		v := members[0](f)
		for _, m := range members[1:] {
			v = v.add(m(f))
		}
		return v.div(scale)
	}
}
