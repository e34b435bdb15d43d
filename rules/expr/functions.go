package expr

import (
	"time"

	"linli/internal/yamlfile"
)

// functionNames is every function, for suggestions and for telling functions from points.
var functionNames = [...]string{
	"any", "all", "count", "avg", "max", "min", "at_least", "active", "silent", "no_reading", "no_protection",
	"faulty", "life_safety", "is_a", "bad", "known", "provided",
	"duration_true", "avg_over_time", "max_over_time", "min_over_time", "changes", "delta",
	"hour", "weekday", "between",
}

// Aggregate reports whether name is a function over a group of devices.
func Aggregate(name string) bool {
	switch name {
	case "any", "all", "count", "avg", "max", "min", "at_least":
		return true
	}
	return false
}

// OverTime reports whether name is a function over time.
func OverTime(name string) bool {
	switch name {
	case "duration_true", "avg_over_time", "max_over_time", "min_over_time", "changes", "delta":
		return true
	}
	return false
}

// call checks a function call: src as parsed, out its copy to be completed.
func (c *checker) call(src, out *Node, ctx context) {
	switch {
	case Aggregate(src.Text):
		c.aggregate(src, out, ctx)
		return
	case OverTime(src.Text):
		c.overTime(src, out, ctx)
		return
	}
	switch src.Text {
	case "active":
		out.Type = TypeBool
		if len(src.Args) != 1 || src.Args[0].Op != OpPoint {
			c.usage(src, "active(AlertName)")
			return
		}
		out.Args = []*Node{src.Args[0]}
		if c.scope.Alert != nil {
			if problem := c.scope.Alert(src.Args[0].Text); problem != "" {
				c.failf(src.Args[0].Pos, "%s", problem)
			}
		}
	case "silent", "no_reading", "no_protection", "faulty", "life_safety":
		out.Type = TypeBool
		if len(src.Args) != 0 {
			c.usage(src, src.Text+"()")
		} else {
			c.needsDevice(src)
		}
	case "is_a":
		c.isA(src, out, ctx)
	case "bad", "known", "provided":
		out.Type = TypeBool
		if len(src.Args) != 1 || src.Args[0].Op != OpPoint && src.Args[0].Op != OpGroup {
			c.usage(src, src.Text+"(point)")
			return
		}
		out.Args = []*Node{c.check(src.Args[0], ctx)}
	case "hour", "weekday":
		out.Type = TypeNumber
		if len(src.Args) != 0 {
			c.usage(src, src.Text+"()")
		}
	case "between":
		c.between(src, out, ctx)
	default:
		c.failf(src.Pos, "unknown function %q%s", src.Text, yamlfile.Suggest(src.Text, functionNames[:]))
	}
}

func (c *checker) needsDevice(src *Node) {
	if !c.scope.Device {
		c.failf(src.Pos, "%s() asks about a device, but the subject of this rule is a zone or the site", src.Text)
	}
}

// isA checks the question for the subject's class.
func (c *checker) isA(src, out *Node, ctx context) {
	out.Type = TypeBool
	if len(src.Args) != 1 {
		c.usage(src, `is_a("smoke_detector")`)
		return
	}
	class := c.check(src.Args[0], ctx)
	out.Args = []*Node{class}
	if class.Type == 0 {
		return
	}
	if class.Op != OpString {
		c.failf(class.Pos, `is_a takes a class in quotes, as is_a("smoke_detector")`)
		return
	}
	c.knownClass(class.Pos, class.Text)
	c.needsDevice(src)
}

func (c *checker) between(src, out *Node, ctx context) {
	out.Type = TypeBool
	if len(src.Args) != 2 {
		c.usage(src, `between("22:00", "06:00")`)
		return
	}
	for _, a := range src.Args {
		arg := c.check(a, ctx)
		out.Args = append(out.Args, arg)
		if arg.Type == 0 {
			continue
		}
		if arg.Op != OpString {
			c.failf(a.Pos, `between takes two times of day in quotes, as between("22:00", "06:00")`)
			return
		}
		m, err := clockTime(arg.Text)
		if err != nil {
			c.failf(a.Pos, "%v", err)
		}
		arg.Num = float64(m)
	}
}

// aggregate checks a function over a group. The group is that of the class points inside.
func (c *checker) aggregate(src, out *Node, ctx context) {
	out.Type = TypeBool
	form, args, want := src.Text+"(zone.class.point)", 1, TypeBool
	switch src.Text {
	case "count":
		out.Type = TypeNumber
	case "at_least":
		form, args = "at_least(2, zone.class.point)", 2
	case "avg", "max", "min":
		out.Type, want = TypeNumber, TypeNumber
	}
	if ctx.group != nil {
		c.failf(src.Pos, "an aggregate cannot stand inside another")
		out.Type = 0
		return
	}
	if len(src.Args) != args {
		c.usage(src, form)
		return
	}
	if args == 2 {
		n := c.check(src.Args[0], ctx)
		if n.Type != 0 && (n.Op != OpNumber || n.Num < 1 || n.Num != float64(int(n.Num))) {
			c.failf(n.Pos, "at_least needs a whole number first: %s", form)
		}
		out.Args = append(out.Args, n)
	}
	g := &group{}
	inner := c.check(src.Args[args-1], context{group: g, window: ctx.window})
	out.Args = append(out.Args, inner)
	if !g.set {
		if inner.Type != 0 {
			c.failf(src.Pos, "%s needs a group of devices inside: %s", src.Text, form)
		}
		return
	}
	out.Scope, out.Class = g.scope, g.class
	if inner.Type == 0 || inner.Type == want {
		return
	}
	if inner.Type == TypeDuration && want == TypeNumber {
		out.Type = TypeDuration
		return
	}
	c.failf(inner.Pos, "%s needs %s of each device, but `%s` is %s", src.Text, want, inner, inner.Type)
}

// overTime checks a function over time.
func (c *checker) overTime(src, out *Node, ctx context) {
	out.Type = TypeNumber
	what, want := "number", TypeNumber
	switch src.Text {
	case "duration_true":
		out.Type = TypeDuration
		what, want = "condition", TypeBool
	case "changes":
		what, want = "point", 0
	}
	if ctx.window != "" {
		c.failf(src.Pos, "%s cannot stand inside %s: record the inner one as a derived point first", src.Text, ctx.window)
		return
	}
	if len(src.Args) != 2 {
		c.usage(src, src.Text+"("+what+", 10m)")
		return
	}
	inner := c.check(src.Args[0], context{group: ctx.group, window: src.Text})
	window := c.check(src.Args[1], context{})
	out.Args = []*Node{inner, window}
	switch {
	case inner.Type == 0:
	case inner.Type == TypeText:
		c.failf(inner.Pos, "%s cannot follow a text", src.Text)
	case want != 0 && inner.Type != want && !(want == TypeNumber && inner.Type == TypeDuration):
		c.failf(inner.Pos, "%s needs %s, but `%s` is %s", src.Text, want, inner, inner.Type)
	}
	if window.Type == 0 {
		return
	}
	if window.Op != OpDuration {
		c.failf(window.Pos, "%s needs a length of time second, as %s(%s, 10m)", src.Text, src.Text, what)
		return
	}
	out.Window = time.Duration(window.Num * float64(time.Second))
	if out.Window < MinWindow || out.Window > MaxWindow {
		c.failf(window.Pos, "a window is between %s and %s long", FormatDuration(MinWindow), FormatDuration(MaxWindow))
	}
}
