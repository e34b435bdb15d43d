package expr

import "linli/internal/yamlfile"

// functionNames is every function, for suggestions and for telling functions from points.
var functionNames = [...]string{
	"any", "all", "count", "avg", "max", "min", "at_least", "active", "silent", "no_reading", "no_protection",
	"faulty", "life_safety", "is_a", "bad", "known", "provided",
	"duration_true", "avg_over_time", "max_over_time", "min_over_time", "changes", "delta",
	"integral", "count_over_time", "increase", "rate", "quantile_over_time", "leq",
	"absent_for", "sequence", "undecided", "within", "abs", "round", "greatest", "least",
	"hour", "weekday", "between", "schedule",
}

// Functions returns the names of all functions.
func Functions() []string { return append([]string(nil), functionNames[:]...) }

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
	case "duration_true", "avg_over_time", "max_over_time", "min_over_time", "changes", "delta",
		"integral", "count_over_time", "increase", "rate", "quantile_over_time", "leq":
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
	case "schedule", "within":
		c.named(src, out, ctx)
	case "undecided":
		out.Type = TypeBool
		if len(src.Args) != 1 {
			c.usage(src, "undecided(15m)")
			return
		}
		limit := c.check(src.Args[0], context{})
		out.Args = []*Node{limit}
		c.length(limit, src.Text, "undecided(15m)")
	case "absent_for":
		c.absentFor(src, out, ctx)
	case "sequence":
		c.sequence(src, out, ctx)
	case "abs", "round", "greatest", "least":
		c.ofNumbers(src, out, ctx)
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

// named checks a question whose answer hangs on a name in quotes: a schedule, a kind of zone.
func (c *checker) named(src, out *Node, ctx context) {
	out.Type = TypeBool
	form := `schedule("deposit_hours")`
	if src.Text == "within" {
		form = `within("garage")`
	}
	if len(src.Args) != 1 {
		c.usage(src, form)
		return
	}
	name := c.check(src.Args[0], ctx)
	out.Args = []*Node{name}
	switch {
	case name.Type == 0:
	case name.Op != OpString:
		c.failf(name.Pos, "%s takes a name in quotes, as %s", src.Text, form)
	case src.Text == "within":
		if !contains(c.scope.Kinds, name.Text) {
			c.failf(name.Pos, "unknown kind of zone %q%s", name.Text, yamlfile.Suggest(name.Text, c.scope.Kinds))
		}
	case c.scope.Schedule != nil:
		if problem := c.scope.Schedule(name.Text); problem != "" {
			c.failf(name.Pos, "%s", problem)
		}
	}
}

// ofNumbers checks a function of one or of several numbers, or of durations.
func (c *checker) ofNumbers(src, out *Node, ctx context) {
	least, form := 2, src.Text+"(x, y)"
	single := src.Text == "abs" || src.Text == "round"
	if single {
		least, form = 1, src.Text+"(x)"
	}
	for _, a := range src.Args {
		out.Args = append(out.Args, c.check(a, ctx))
	}
	if len(src.Args) < least || single && len(src.Args) > 1 {
		c.usage(src, form)
		return
	}
	for _, a := range out.Args {
		switch {
		case a.Type == 0:
			out.Type = 0
			return
		case src.Text == "round" && a.Type != TypeNumber:
			c.failf(a.Pos, "round needs a number, but `%s` is %s%s", a, a.Type, roundHint(a))
			out.Type = 0
			return
		case a.Type != TypeNumber && a.Type != TypeDuration:
			c.failf(a.Pos, "%s needs numbers or durations, but `%s` is %s", src.Text, a, a.Type)
			out.Type = 0
			return
		case out.Type != 0 && a.Type != out.Type:
			c.failf(a.Pos, "%s cannot compare %s with %s%s", src.Text, out.Type, a.Type, durationHint(out.Args[0], a))
			out.Type = 0
			return
		}
		out.Type = a.Type
	}
}

// roundHint says how a duration is made a number.
func roundHint(a *Node) string {
	if a.Type != TypeDuration {
		return ""
	}
	return ": divide it by the unit that you mean, as in round(x / 1h)"
}
