package expr

import (
	"fmt"
	"sort"
	"strings"
	"time"

	"linli/internal/telemetry"
	"linli/internal/yamlfile"
)

// Scope is what the names in an expression may mean.
type Scope struct {
	// Subject is the class whose points are named bare; nil where the subject has none of its own.
	Subject *telemetry.Class
	// Device says that the subject is a device, so that silent() has a meaning.
	Device bool
	// Classes is the catalogue, for groups.
	Classes map[string]*telemetry.Class
	// Derived returns the derived point name of a class, or nil. It may be nil itself.
	Derived func(class, name string) *telemetry.PointDef
	// DerivedNames are the names of the subject's derived points, for suggestions.
	DerivedNames []string
	// Kinds are the kinds of zones that a group may name.
	Kinds []string
	// Param returns the value of a parameter as written, and false for an unknown one.
	Param func(name string) (string, bool)
	// Params names the parameters, for suggestions.
	Params []string
	// Alert reports whether active(name) has a meaning, else what to say about it. It may be nil: every name does.
	Alert func(name string) (problem string)
	// Schedule reports whether schedule(name) has a meaning, else what to say about it. It may be nil: every name does.
	Schedule func(name string) (problem string)
}

// Windows over time are at least MinWindow and at most MaxWindow long.
const (
	MinWindow = time.Second
	MaxWindow = 32 * 24 * time.Hour
)

// Check resolves and types the tree n and returns a new one, which Bind needs. want is the type that the whole
// must have, 0 for any. All mistakes are returned, in the order of the text.
func Check(n *Node, scope *Scope, want Type) (*Node, []*Error) {
	c := &checker{scope: scope}
	out := c.check(n, context{})
	if want != 0 && out.Type != 0 && out.Type != want {
		c.failf(n.Pos, "the expression is %s, but must be %s", out.Type, want)
	}
	sort.SliceStable(c.errs, func(i, j int) bool { return c.errs[i].Offset < c.errs[j].Offset })
	return out, c.errs
}

// context is where in the expression a node stands.
type context struct {
	group  *group // the aggregate around it
	window string // the function over time around it
}

// group is the set of devices that an aggregate runs over.
type group struct {
	scope, class string
	set          bool
}

type checker struct {
	scope *Scope
	errs  []*Error
}

func (c *checker) failf(pos int, format string, args ...any) {
	c.errs = append(c.errs, errorf(pos, format, args...))
}

// check returns a checked copy of n. Its Type is 0 where a mistake has been reported, so that one mistake is told
// once.
func (c *checker) check(n *Node, ctx context) *Node {
	out := *n
	out.Args = nil
	switch n.Op {
	case OpNumber:
		out.Type = TypeNumber
	case OpDuration:
		out.Type = TypeDuration
	case OpBool:
		out.Type = TypeBool
	case OpString:
		out.Type = TypeText
		out.Text = c.substitute(n)
	case OpParam:
		return c.param(n)
	case OpPoint:
		c.point(&out)
	case OpGroup:
		c.groupPoint(&out, ctx)
	case OpCall:
		c.call(n, &out, ctx)
	default:
		for _, a := range n.Args {
			out.Args = append(out.Args, c.check(a, ctx))
		}
		c.operator(&out)
	}
	return &out
}

// param replaces a parameter by its value: a number, a duration, or else a text.
func (c *checker) param(n *Node) *Node {
	out := &Node{Pos: n.Pos}
	value, ok := c.lookup(n.Pos, n.Text)
	if !ok {
		return out
	}
	lit := Literal(value)
	lit.Pos = n.Pos
	return lit
}

func (c *checker) lookup(pos int, name string) (string, bool) {
	if c.scope.Param != nil {
		if v, ok := c.scope.Param(name); ok {
			return v, true
		}
	}
	c.failf(pos, "unknown parameter ${%s}%s", name, yamlfile.Suggest(name, c.scope.Params))
	return "", false
}

// Literal returns the literal that a parameter's value stands for: a number, a duration, true or false, or a text.
func Literal(value string) *Node {
	value = strings.TrimSpace(value)
	negative := strings.HasPrefix(value, "-")
	if n, err := Parse(strings.TrimPrefix(value, "-")); err == nil {
		switch n.Op {
		case OpNumber:
			if negative {
				n.Num = -n.Num
			}
			n.Type = TypeNumber
			return n
		case OpDuration:
			if !negative {
				n.Type = TypeDuration
				return n
			}
		case OpBool:
			if !negative {
				n.Type = TypeBool
				return n
			}
		}
	}
	return &Node{Op: OpString, Text: value, Type: TypeText}
}

// substitute replaces ${name} within a string.
func (c *checker) substitute(n *Node) string {
	out, missing := Substitute(n.Text, c.scope.Param)
	for _, name := range missing {
		c.lookup(n.Pos, name)
	}
	return out
}

// Substitute replaces each ${name} in s by its value and returns the names that have none.
func Substitute(s string, param func(string) (string, bool)) (out string, missing []string) {
	var b strings.Builder
	for {
		i := strings.Index(s, "${")
		if i < 0 {
			break
		}
		j := strings.IndexByte(s[i:], '}')
		if j < 0 {
			break
		}
		name := s[i+2 : i+j]
		b.WriteString(s[:i])
		v, ok := "", false
		if param != nil {
			v, ok = param(name)
		}
		if !ok {
			missing = append(missing, name)
		}
		b.WriteString(v)
		s = s[i+j+1:]
	}
	b.WriteString(s)
	return b.String(), missing
}

func typeOf(def *telemetry.PointDef) Type {
	switch def.Kind {
	case telemetry.Bool:
		return TypeBool
	case telemetry.Enum:
		return TypeEnum
	case telemetry.KindText:
		return TypeText
	}
	return TypeNumber
}

// find returns the definition of a class's own or derived point.
func (c *checker) find(class *telemetry.Class, name string) *telemetry.PointDef {
	if i := class.Point(name); i >= 0 {
		return &class.Points[i]
	}
	if c.scope.Derived != nil {
		return c.scope.Derived(class.ID, name)
	}
	return nil
}

func pointNames(class *telemetry.Class) []string {
	names := make([]string, len(class.Points))
	for i := range class.Points {
		names[i] = class.Points[i].Name
	}
	return names
}

func (c *checker) point(n *Node) {
	if c.scope.Subject == nil {
		c.failf(n.Pos, "unknown name %q: the subject of this rule has no points of its own; name a group, as site.smoke_detector.alarm", n.Text)
		return
	}
	n.Def = c.find(c.scope.Subject, n.Text)
	if n.Def == nil {
		for _, f := range functionNames {
			if f == n.Text {
				c.failf(n.Pos, "%s is a function: write %s(...)", f, f)
				return
			}
		}
		c.failf(n.Pos, "class %s has no point %q%s", c.scope.Subject.ID, n.Text, yamlfile.Suggest(n.Text, append(pointNames(c.scope.Subject), c.scope.DerivedNames...)))
		return
	}
	n.Type = typeOf(n.Def)
}

func (c *checker) groupPoint(n *Node, ctx context) {
	if n.Scope != "zone" && n.Scope != "site" && !contains(c.scope.Kinds, n.Scope) {
		known := append([]string{"zone", "site"}, c.scope.Kinds...)
		c.failf(n.Pos, "unknown scope %q%s; a group is zone, site, or the kind of an enclosing zone", n.Scope, yamlfile.Suggest(n.Scope, known))
		return
	}
	class := c.knownClass(n.Pos, n.Class)
	if class == nil {
		return
	}
	if n.Def = c.find(class, n.Text); n.Def == nil {
		c.failf(n.Pos, "class %s has no point %q%s", n.Class, n.Text, yamlfile.Suggest(n.Text, pointNames(class)))
		return
	}
	switch g := ctx.group; {
	case g == nil:
		c.failf(n.Pos, "%s.%s.%s is many values: say what to do with them, as any(%s.%s.%s)", n.Scope, n.Class, n.Text, n.Scope, n.Class, n.Text)
		return
	case !g.set:
		*g = group{n.Scope, n.Class, true}
	case g.scope != n.Scope || g.class != n.Class:
		c.failf(n.Pos, "one aggregate runs over one group: %s.%s here, %s.%s before", n.Scope, n.Class, g.scope, g.class)
		return
	}
	n.Type = typeOf(n.Def)
}

// knownClass returns a class of the catalogue; nil, with the mistake reported, where there is none of that name.
func (c *checker) knownClass(pos int, id string) *telemetry.Class {
	class := c.scope.Classes[id]
	if class == nil {
		names := make([]string, 0, len(c.scope.Classes))
		for id := range c.scope.Classes {
			names = append(names, id)
		}
		sort.Strings(names)
		c.failf(pos, "unknown class %q%s", id, yamlfile.Suggest(id, names))
	}
	return class
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}

// operator types an operator whose operands are checked.
func (c *checker) operator(n *Node) {
	l := n.Args[0]
	r := l
	if len(n.Args) == 2 {
		r = n.Args[1]
	}
	if l.Type == 0 || r.Type == 0 {
		// The mistake beneath is reported; a guess at the type keeps the rest checkable.
		switch n.Op {
		case OpNot, OpAnd, OpOr:
			n.Type = TypeBool
		default:
			if n.Op.Comparison() {
				n.Type = TypeBool
			}
		}
		return
	}
	text, _, _ := n.Op.info()
	switch n.Op {
	case OpNot, OpAnd, OpOr:
		n.Type = TypeBool
		for _, a := range n.Args {
			if a.Type != TypeBool {
				c.failf(a.Pos, "`%s` needs true or false, but `%s` is %s", text, a, a.Type)
			}
		}
	case OpNeg:
		if l.Type != TypeNumber {
			c.failf(n.Pos, "`-` needs a number, but `%s` is %s", l, l.Type)
			return
		}
		n.Type = TypeNumber
	case OpAdd, OpSub, OpMul, OpDiv:
		n.Type = arithmetic(n.Op, l.Type, r.Type)
		if n.Type == 0 {
			c.failf(n.Pos, "`%s` cannot be applied to %s and %s%s", text, l.Type, r.Type, durationHint(l, r))
		}
	default:
		n.Type = TypeBool
		c.comparison(n, l, r, text)
	}
}

func arithmetic(op Op, l, r Type) Type {
	switch {
	case l == TypeNumber && r == TypeNumber:
		return TypeNumber
	case l == TypeDuration && r == TypeDuration && (op == OpAdd || op == OpSub):
		return TypeDuration
	case l == TypeDuration && r == TypeDuration && op == OpDiv:
		return TypeNumber
	case l == TypeDuration && r == TypeNumber && (op == OpMul || op == OpDiv):
		return TypeDuration
	case l == TypeNumber && r == TypeDuration && op == OpMul:
		return TypeDuration
	}
	return 0
}

func durationHint(l, r *Node) string {
	if l.Type == TypeDuration && r.Type == TypeNumber || l.Type == TypeNumber && r.Type == TypeDuration {
		return ": write durations with their unit (30s, 3m), or divide by one (/ 1m)"
	}
	return ""
}

// comparison checks the operands of a comparison and turns the name of a state into its code.
func (c *checker) comparison(n, l, r *Node, text string) {
	equality := n.Op == OpEqual || n.Op == OpNotEqual
	switch {
	case l.Type == TypeBool || r.Type == TypeBool:
		c.failf(n.Pos, "`%s` compares numbers, durations, texts and states; of something true or false write `x` or `not x`", text)
	case l.Type == TypeEnum && r.Op == OpString, r.Type == TypeEnum && l.Op == OpString:
		if !equality {
			c.failf(n.Pos, "states have no order: only `==` and `!=`")
			return
		}
		state, name := l, r
		if r.Type == TypeEnum {
			state, name = r, l
		}
		names := make([]string, len(state.Def.Enum))
		for i, e := range state.Def.Enum {
			names[i] = e.Name
			if e.Name == name.Text {
				name.Op, name.Type, name.Num = OpNumber, TypeEnum, float64(e.Code)
				return
			}
		}
		c.failf(name.Pos, "%s has no state %q%s (%s)", state, name.Text, yamlfile.Suggest(name.Text, names), strings.Join(names, ", "))
	case l.Type == TypeEnum && r.Type == TypeEnum && l.Op != OpNumber && r.Op != OpNumber:
		c.failf(n.Pos, "two states cannot be compared with each other: compare each with a name in quotes")
	case l.Type == TypeEnum || r.Type == TypeEnum:
		c.failf(n.Pos, "a state is compared with its name in quotes, as state == \"open\"")
	case l.Type != r.Type:
		c.failf(n.Pos, "`%s` cannot compare %s with %s%s", text, l.Type, r.Type, durationHint(l, r))
	case l.Type == TypeText && !equality:
		c.failf(n.Pos, "texts have no order: only `==` and `!=`")
	}
}

// usage says how a wrong call is written.
func (c *checker) usage(n *Node, form string) {
	c.failf(n.Pos, "%s is written %s", n.Text, form)
}

// clockTime parses "22:00" into minutes after midnight.
func clockTime(s string) (int, error) {
	t, err := time.Parse("15:04", s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a time of day (\"06:00\", \"22:30\")", s)
	}
	return t.Hour()*60 + t.Minute(), nil
}
