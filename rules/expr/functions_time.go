package expr

import (
	"time"
)

// MaxSequence is how many conditions a sequence may have.
const MaxSequence = 4

// form is how a function over time is written.
func form(name string) string {
	switch name {
	case "duration_true", "count_over_time":
		return name + "(condition, 10m)"
	case "changes", "increase", "rate":
		return name + "(point, 10m)"
	case "quantile_over_time":
		return name + "(0.9, number, 10m)"
	}
	return name + "(number, 10m)"
}

// overTime checks a function over time.
func (c *checker) overTime(src, out *Node, ctx context) {
	out.Type = TypeNumber
	if src.Text == "duration_true" {
		out.Type = TypeDuration
	}
	if !c.outermost(src, ctx) {
		return
	}
	args := 2
	if src.Text == "quantile_over_time" {
		args = 3
	}
	if len(src.Args) != args {
		c.usage(src, form(src.Text))
		return
	}
	if args == 3 {
		q := c.check(src.Args[0], context{})
		out.Args = append(out.Args, q)
		if q.Type != 0 && (q.Op != OpNumber || q.Num < 0 || q.Num > 1) {
			c.failf(q.Pos, "%s needs a share from 0 to 1 first: %s", src.Text, form(src.Text))
		}
	}
	inner := c.check(src.Args[args-2], context{group: ctx.group, window: src.Text})
	window := c.check(src.Args[args-1], context{})
	out.Args = append(out.Args, inner, window)
	c.followable(src.Text, inner, out)
	out.Window = c.length(window, src.Text, form(src.Text))
}

// outermost refuses a function over time within another.
func (c *checker) outermost(src *Node, ctx context) bool {
	if ctx.window != "" {
		c.failf(src.Pos, "%s cannot stand inside %s: record the inner one as a derived point first", src.Text, ctx.window)
		return false
	}
	return true
}

// followable checks what a function over time follows.
func (c *checker) followable(name string, inner, out *Node) {
	if inner.Type == 0 {
		return
	}
	switch name {
	case "count_over_time":
		c.happens(name, inner)
		return
	case "changes":
		if inner.Type == TypeText {
			c.failf(inner.Pos, "%s cannot follow a text", name)
		}
		return
	case "duration_true":
		if inner.Type != TypeBool {
			c.failf(inner.Pos, "%s needs %s, but `%s` is %s", name, TypeBool, inner, inner.Type)
		}
		return
	case "avg_over_time", "max_over_time", "min_over_time", "quantile_over_time", "delta":
		if inner.Type == TypeDuration {
			out.Type = TypeDuration
			return
		}
	}
	if inner.Type == TypeText {
		c.failf(inner.Pos, "%s cannot follow a text", name)
	} else if inner.Type != TypeNumber {
		c.failf(inner.Pos, "%s needs %s, but `%s` is %s", name, TypeNumber, inner, inner.Type)
	}
}

// happens checks something that happens: a condition that becomes true, an event point, or a condition on its events.
func (c *checker) happens(name string, n *Node) {
	if !c.findEvent(name, n, n, false) {
		return
	}
	if n.Event != n && n.Type != TypeBool {
		c.failf(n.Pos, "%s needs %s or an event point, but `%s` is %s", name, TypeBool, n, n.Type)
	}
}

// findEvent notes in root the event point that is read in n, of which there may be one, outside aggregates. It reports
// whether all is right.
func (c *checker) findEvent(name string, root, n *Node, aggregated bool) bool {
	switch n.Op {
	case OpPoint, OpGroup:
		switch {
		case n.Def == nil || !n.Def.Event:
			return true
		case aggregated:
			c.failf(n.Pos, "%s counts the events of one device: write any(%s(...)) instead of %s(any(...))", name, name, name)
			return false
		case root.Event != nil && !Same(root.Event, n):
			c.failf(n.Pos, "%s follows one event point, %s: ask for `%s` in a %s of its own", name, root.Event, n, name)
			return false
		}
		root.Event = n
		return true
	case OpCall:
		if n.Text == "provided" {
			return true
		}
	}
	for _, a := range n.Args {
		if !c.findEvent(name, root, a, aggregated || n.Op == OpCall && Aggregate(n.Text)) {
			return false
		}
	}
	return true
}

// length checks the length of time that a function was given.
func (c *checker) length(n *Node, name, form string) time.Duration {
	if n.Type == 0 {
		return 0
	}
	if n.Op != OpDuration {
		hint := ""
		if n.Op == OpNumber {
			hint = "; lengths of time have a unit (30s, 10m, 24h)"
		}
		c.failf(n.Pos, "%s needs a length of time at the end, as %s%s", name, form, hint)
		return 0
	}
	d := time.Duration(n.Num * float64(time.Second))
	if d < MinWindow || d > MaxWindow {
		c.failf(n.Pos, "a window is between %s and %s long", FormatDuration(MinWindow), FormatDuration(MaxWindow))
	}
	return d
}

// sequence checks conditions that follow each other.
func (c *checker) sequence(src, out *Node, ctx context) {
	const form = "sequence(first, second, 30s)"
	out.Type = TypeBool
	if !c.outermost(src, ctx) {
		return
	}
	n := len(src.Args) - 1
	if n < 2 || n > MaxSequence {
		c.failf(src.Pos, "sequence takes two to %d conditions and a length of time: %s", MaxSequence, form)
		return
	}
	for _, a := range src.Args[:n] {
		inner := c.check(a, context{group: ctx.group, window: src.Text})
		out.Args = append(out.Args, inner)
		if inner.Type != 0 {
			c.happens(src.Text, inner)
		}
	}
	window := c.check(src.Args[n], context{})
	out.Args = append(out.Args, window)
	out.Window = c.length(window, src.Text, form)
}

// absentFor checks the question how long a point has had no value.
func (c *checker) absentFor(src, out *Node, ctx context) {
	out.Type = TypeDuration
	if len(src.Args) != 1 || src.Args[0].Op != OpPoint && src.Args[0].Op != OpGroup {
		c.usage(src, "absent_for(point)")
		return
	}
	p := c.check(src.Args[0], ctx)
	out.Args = []*Node{p}
	if p.Def != nil && p.Def.Event {
		c.failf(p.Pos, "absent_for cannot follow %s: its samples are events, and nothing is to be read from how old the last one is", p)
	}
}
