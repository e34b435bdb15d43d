package rules

import (
	"slices"

	"linli/internal/telemetry"
	"linli/rules/expr"
)

// there reports whether a device's point is worth naming: a unit provides it, it has a constant value, or it is derived
// from such points. People cannot know of any other, and nothing that they do gives it a value.
func (e *Engine) there(device int, name string) bool {
	if device < 0 {
		return false
	}
	id, def, provided := e.pointID(device, name)
	switch {
	case def >= 0:
		return provided || !e.inv.Constant(device, def).IsZero()
	case !provided:
		return false
	}
	return e.fed(id)
}

// fed reports whether a point can have a value: a derived one only where something that it reads can, or where it needs
// nothing.
func (e *Engine) fed(id telemetry.PointID) bool {
	if int64(id) < int64(e.foreign) || e.cells[id].HasValue() {
		return true
	}
	record, _ := e.recordOf(uint32(id))
	return slices.ContainsFunc(e.opsOf(record), func(cell uint32) bool { return e.isPoint(cell) && e.fed(telemetry.PointID(cell)) })
}

// missing reports whether something in n is a point of the subject that nothing provides.
func (x *explainer) missing(n *expr.Node) bool {
	found := false
	n.Walk(func(n *expr.Node) {
		found = found || n.Op == expr.OpPoint && n.Def != nil && x.in.device >= 0 && !x.e.there(x.b.Self(), n.Text)
	})
	return found
}

// eligible returns the parts of an `or` that is false which could have made it true: not those for another class of
// zone, another time of day, a point that is not there. Where that leaves none, all of them.
func (x *explainer) eligible(n *expr.Node) []*expr.Node {
	all := parts(nil, n, expr.OpOr)
	var list []*expr.Node
	for _, p := range all {
		chain := parts(nil, p, expr.OpAnd)
		if len(chain) == 1 || !slices.ContainsFunc(chain, func(a *expr.Node) bool { return circumstance(a) && x.b.tri(a, x.b.Self()) == expr.False }) {
			list = append(list, p)
		}
	}
	if len(list) == 0 {
		return all
	}
	return list
}

// parts appends the operands of a row of one operator.
func parts(list []*expr.Node, n *expr.Node, op expr.Op) []*expr.Node {
	if n.Op != op {
		return append(list, n)
	}
	for _, a := range n.Args {
		list = parts(list, a, op)
	}
	return list
}

// circumstance reports whether a condition says under which circumstances another part of the rule counts: what the
// subject is and has, and the time. Measurements are none.
func circumstance(n *expr.Node) bool {
	switch n.Op {
	case expr.OpPoint:
		return n.Type == expr.TypeEnum || n.Type == expr.TypeText
	case expr.OpGroup:
		return false
	case expr.OpCall:
		switch n.Text {
		case "provided", "known", "is_a", "within", "life_safety", "schedule", "between", "hour", "weekday":
			return true
		case "duration_true":
		default:
			return false
		}
	}
	for _, a := range n.Args {
		if !circumstance(a) {
			return false
		}
	}
	return true
}
