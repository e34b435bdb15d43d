package rules

import (
	"math"
	"strconv"
	"strings"
	"time"

	"linli/internal/telemetry"
	"linli/rules/expr"
)

// Seconds is a duration that JSON has as a number of seconds.
type Seconds time.Duration

// MarshalJSON writes seconds, to the millisecond.
func (s Seconds) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, math.Round(time.Duration(s).Seconds()*1000)/1000, 'f', -1, 64), nil
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (s *Seconds) UnmarshalJSON(data []byte) error {
	v, err := strconv.ParseFloat(string(data), 64)
	if err != nil || math.Abs(v) > 1e9 {
		return errorString("not a number of seconds: " + string(data))
	}
	*s = Seconds(v * float64(time.Second))
	return nil
}

// Explanation is why an alert is as it is, or a derived point what it is: the rule with every operand's value at the
// moment of asking. It is plain data, made for `linli rules explain`.
type Explanation struct {
	Alert    string         `json:"alert,omitempty"` // Alert or Record is empty
	Record   string         `json:"record,omitempty"`
	Subject  string         `json:"subject"`
	Pack     string         `json:"pack"`
	At       string         `json:"at"` // the rule's place, file:line:col
	Title    telemetry.Text `json:"title"`
	Severity string         `json:"severity,omitempty"` // as it is, or as it would be raised; none of a derived point

	// State is inactive, pending (true, but not for long enough), active, or clearing (active and false, but not for
	// long enough); recorded for a derived point.
	State string `json:"state"`
	// Unknown says that the condition cannot be decided now.
	Unknown bool `json:"unknown"`
	// Held is how long the condition has been true while pending, or false while clearing; Needed how long it must be.
	Held   Seconds `json:"held_s"`
	Needed Seconds `json:"needed_s"`
	For    Seconds `json:"for_s"`
	Keep   Seconds `json:"keep_firing_for_s"`
	// Due is how long until the rule is looked at again although nothing changes; negative where it waits for a change.
	Due Seconds `json:"due_s"`
	// Condition is the expression, and SeverityWhen those of worse severities, the site's parameters put in.
	Condition    Operand           `json:"condition"`
	SeverityWhen []SeverityOperand `json:"severity_when,omitempty"`
}

// SeverityOperand is the condition of a worse severity.
type SeverityOperand struct {
	Severity  string  `json:"severity"`
	Held      Seconds `json:"held_s"`   // for which it has been true
	Needed    Seconds `json:"needed_s"` // severity_for
	Condition Operand `json:"condition"`
}

// Operand is a part of an expression with its value.
type Operand struct {
	Expr string `json:"expr"` // the part as text; within an aggregate with the member's id before it
	// Value is true, false, unknown, a number ("12.5", "at least 0.3", "2 to 5"), a duration, or a state or text in quotes.
	Value string `json:"value"`
	// Decides says that the whole is what it is because of this part.
	Decides bool `json:"decides"`
	// Point is set where the part is a point of a device.
	Point *PointState `json:"point,omitempty"`
	// Args are the parts beneath; of an aggregate, one for each device of the group.
	Args []Operand `json:"args,omitempty"`
}

// PointState is a point as an expression sees it.
type PointState struct {
	Device string `json:"device"`
	Point  string `json:"point"`
	// Source is provided (by a unit), derived (by a rule), constant, or missing (nothing provides it, and it has no constant).
	Source string `json:"source"`
	Unit   string `json:"unit,omitempty"`
	// Read says whether a sample has come since the engine started, Quality and Age of the latest one; see Engine.Confirms.
	Read    bool    `json:"read"`
	Quality string  `json:"quality,omitempty"`
	Age     Seconds `json:"age_s"`
}

// Explain returns why the alert, or the derived point, named name is as it is for subject now; false where there is no
// such rule or it has no such subject. now is not before the last Step. It changes nothing.
func (e *Engine) Explain(now telemetry.Now, name, subject string) (*Explanation, bool) {
	for i := range e.instances {
		in := &e.instances[i]
		if in.prog.Name() == name && e.subject(in) == subject {
			return e.explain(now, uint32(i), in), true
		}
	}
	return nil, false
}

// Confirms has Explain ask when a point was last read to be as the engine knows it: an unchanged value is not given to it with
// each reading.
func (e *Engine) Confirms(confirmed func(telemetry.PointID) telemetry.Mono) { e.confirmed = confirmed }

// Subjects returns the subjects that the rule named name has, in the order of the inventory; nil where there is no such rule.
func (e *Engine) Subjects(name string) []string {
	var list []string
	for i := range e.instances {
		if e.instances[i].prog.Name() == name {
			list = append(list, e.subject(&e.instances[i]))
		}
	}
	return list
}

// Names returns the names of all rules, in the order of evaluation.
func (e *Engine) Names() []string {
	names := make([]string, len(e.programs))
	for i, p := range e.programs {
		names[i] = p.Name()
	}
	return names
}

func (e *Engine) explain(now telemetry.Now, i uint32, in *instance) *Explanation {
	p := in.prog
	x := &Explanation{
		Alert: p.Alert, Record: p.Record, Subject: e.subject(in), Pack: p.pack.ID, At: p.Pos.String(),
		Title: p.Title, For: Seconds(p.wait), Keep: Seconds(p.keep), Due: -1, State: "recorded",
	}
	if in.due != telemetry.Never {
		x.Due = Seconds(max(in.due.Sub(now.Mono), 0))
	}
	w := &operands{e: e, b: e.explains(i), now: now.Mono}
	x.Condition = w.operand(p.cond, w.b.Self())
	x.Condition.Decides = true
	if p.Alert == "" {
		x.Unknown = x.Condition.Value == expr.Unknown.String()
		return x
	}
	w.decide(&x.Condition, p.cond, w.b.Self())
	x.Title, x.Severity = e.title(in), in.severity.String()
	f, helds := e.frameOf(i), e.heldsOf(in)
	c := in.cond(f)
	x.Unknown = c == expr.Unknown
	switch {
	case in.active && (c == expr.False || in.clearing.on()):
		x.State, x.Held, x.Needed = "clearing", Seconds(in.clearing.elapsed(now.Mono)), Seconds(p.keep)
	case in.active:
		x.State = "active"
	case in.pending.on():
		x.State, x.Held, x.Needed = "pending", Seconds(in.pending.elapsed(now.Mono)), Seconds(p.wait)
	default:
		x.State = "inactive"
	}
	if !in.active {
		x.Severity = e.severityNow(in, f, now.Mono).String()
	}
	for k, s := range p.sev {
		so := SeverityOperand{Severity: s.severity.String(), Needed: Seconds(p.sevFor), Condition: w.operand(s.cond, w.b.Self())}
		if helds != nil {
			so.Held = Seconds(helds[k].elapsed(now.Mono))
		}
		so.Condition.Decides = in.sev[k](f) == expr.True
		w.decide(&so.Condition, s.cond, w.b.Self())
		x.SeverityWhen = append(x.SeverityWhen, so)
	}
	return x
}

// operands walks an expression and takes down what each part is.
type operands struct {
	e   *Engine
	b   *instanceBinder
	now telemetry.Mono
}

// operand returns n with its value, bound for device, which is the subject's or a member's of a group.
func (w *operands) operand(n *expr.Node, device int) Operand {
	o := Operand{Expr: n.String(), Value: w.value(n, device)}
	switch n.Op {
	case expr.OpPoint:
		o.Point = w.point(w.b.Self(), n)
	case expr.OpGroup:
		o.Point = w.point(device, n)
	case expr.OpCall:
		if expr.Aggregate(n.Text) {
			inner := n.Args[len(n.Args)-1]
			for _, d := range w.b.Group(n.Scope, n.Class) {
				m := w.operand(inner, d)
				m.Expr = w.e.inv.Devices[d].ID + ": " + m.Expr
				o.Args = append(o.Args, m)
			}
			return o
		}
		if n.Text == "active" {
			return o
		}
	}
	for _, a := range n.Args {
		if !literal(a) {
			o.Args = append(o.Args, w.operand(a, device))
		}
	}
	return o
}

func literal(n *expr.Node) bool {
	switch n.Op {
	case expr.OpNumber, expr.OpDuration, expr.OpString, expr.OpBool:
		return true
	}
	return false
}

// decide marks the parts of a condition because of which it is what it is.
func (w *operands) decide(o *Operand, n *expr.Node, device int) {
	switch {
	case n.Op == expr.OpNot:
		if len(o.Args) == 1 {
			o.Args[0].Decides = true
			w.decide(&o.Args[0], n.Args[0], device)
		}
	case n.Op == expr.OpAnd || n.Op == expr.OpOr:
		want := w.b.tri(n, device)
		k := 0
		for _, a := range n.Args {
			if literal(a) {
				continue
			}
			if w.b.tri(a, device) == want {
				o.Args[k].Decides = true
				w.decide(&o.Args[k], a, device)
			}
			k++
		}
	case n.Op.Comparison():
		for k := range o.Args {
			o.Args[k].Decides = true
		}
	case n.Op == expr.OpCall && (n.Text == "any" || n.Text == "all" || n.Text == "at_least"):
		w.decideGroup(o, n)
	}
}

// decideGroup marks the members of a group that make an aggregate what it is.
func (w *operands) decideGroup(o *Operand, n *expr.Node) {
	inner := n.Args[len(n.Args)-1]
	whole := w.b.tri(n, w.b.Self())
	for k, d := range w.b.Group(n.Scope, n.Class) {
		if k < len(o.Args) && w.b.tri(inner, d) == whole {
			o.Args[k].Decides = true
			w.decide(&o.Args[k], inner, d)
		}
	}
}

func (w *operands) point(device int, n *expr.Node) *PointState {
	if device < 0 {
		return nil
	}
	inv := w.e.inv
	s := &PointState{Device: inv.Devices[device].ID, Point: n.Text, Source: "provided"}
	if n.Def != nil {
		s.Unit = n.Def.Unit
	}
	id, def, provided := w.e.pointID(device, n.Text)
	switch {
	case !provided && def >= 0 && !inv.Constant(device, def).IsZero():
		s.Source, s.Read = "constant", true
		return s
	case !provided:
		s.Source = "missing"
		return s
	case def < 0:
		s.Source = "derived"
	}
	c := &w.e.cells[id]
	if s.Read = c.Seen; c.Seen {
		s.Quality = c.Quality.String()
		at := c.Time
		if w.e.confirmed != nil {
			at = max(at, w.e.confirmed(id))
		}
		s.Age = Seconds(max(w.now.Sub(at), 0))
	}
	return s
}

// value writes what n is for device.
func (w *operands) value(n *expr.Node, device int) string {
	switch n.Type {
	case expr.TypeBool:
		return w.b.tri(n, device).String()
	case expr.TypeNumber:
		return numText(w.b.num(n, device), plain)
	case expr.TypeDuration:
		return numText(w.b.num(n, device), func(v float64) string {
			return expr.FormatDuration(time.Duration(v * float64(time.Second)))
		})
	}
	if n.Op == expr.OpNumber { // the name of a state, as its code
		return plain(n.Num)
	}
	if n.Op == expr.OpString || n.Def == nil {
		return `"` + n.Text + `"`
	}
	if n.Op == expr.OpPoint {
		device = w.b.Self()
	}
	c := w.b.cell(device, n.Text)
	if !c.Seen || c.Quality.Bad() {
		return expr.Unknown.String()
	}
	if n.Type == expr.TypeText {
		return `"` + c.Text + `"`
	}
	for _, name := range n.Def.Enum {
		if float64(name.Code) == c.Num.Lo {
			return `"` + name.Name + `"`
		}
	}
	return plain(c.Num.Lo)
}

func numText(v expr.Num, write func(float64) string) string {
	low, high := math.IsInf(v.Lo, -1), math.IsInf(v.Hi, 1)
	switch {
	case low && high:
		return expr.Unknown.String()
	case high:
		return "at least " + write(v.Lo)
	case low:
		return "at most " + write(v.Hi)
	case v.Lo != v.Hi:
		return write(v.Lo) + " to " + write(v.Hi)
	}
	return write(v.Lo)
}

// plain writes a number to six figures, so that what lies just beside a limit does not look like it.
func plain(v float64) string {
	if v == math.Trunc(v) && math.Abs(v) < 1e15 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	digits := 5 - int(math.Floor(math.Log10(math.Abs(v))))
	s := strconv.FormatFloat(v, 'f', min(max(digits, 0), 12), 64)
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}
