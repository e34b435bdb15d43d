package rules_test

import (
	"fmt"
	"sort"
	"strings"

	"linli/rules/expr"
)

// tally counts what a run of the reference test has shown: how much was decided, and which operators and functions were
// seen with both outcomes.
type tally struct {
	steps, known, unknown int
	outcomes              map[string]*[3]int
	transitions           map[string]int
	derived               int
	names                 map[*expr.Node][]*[3]int
}

func newTally() *tally {
	return &tally{outcomes: map[string]*[3]int{}, transitions: map[string]int{}, names: map[*expr.Node][]*[3]int{}}
}

func (t *tally) decided(is bool) {
	if is {
		t.known++
	} else {
		t.unknown++
	}
}

var operatorNames = map[expr.Op]string{
	expr.OpNot: "not", expr.OpNeg: "neg", expr.OpAnd: "and", expr.OpOr: "or", expr.OpAdd: "+", expr.OpSub: "-", expr.OpMul: "*",
	expr.OpDiv: "/", expr.OpLess: "<", expr.OpLessEqual: "<=", expr.OpGreater: ">", expr.OpGreaterEqual: ">=", expr.OpEqual: "==",
	expr.OpNotEqual: "!=", expr.OpPoint: "point", expr.OpGroup: "group point",
}

// outcome counts a condition for itself and for the numbers that it is about.
func (t *tally) outcome(n *expr.Node, v truth) {
	counters, ok := t.names[n]
	if !ok {
		for _, name := range namesIn(n, true) {
			if t.outcomes[name] == nil {
				t.outcomes[name] = &[3]int{}
			}
			counters = append(counters, t.outcomes[name])
		}
		t.names[n] = counters
	}
	for _, c := range counters {
		c[v]++
	}
}

func namesIn(n *expr.Node, top bool) (list []string) {
	switch name := operatorNames[n.Op]; {
	case n.Op == expr.OpCall:
		list = append(list, n.Text)
		switch n.Text {
		case "abs", "round", "greatest", "least":
			for _, a := range n.Args {
				list = append(list, namesIn(a, false)...)
			}
		}
		return list
	case name != "" && (top || len(n.Args) > 0):
		list = append(list, name)
	}
	if n.Op == expr.OpAnd || n.Op == expr.OpOr || n.Op == expr.OpNot {
		return list
	}
	for _, a := range n.Args {
		list = append(list, namesIn(a, false)...)
	}
	return list
}

func (t *tally) add(o *tally) {
	t.steps, t.known, t.unknown, t.derived = t.steps+o.steps, t.known+o.known, t.unknown+o.unknown, t.derived+o.derived
	for name, c := range o.outcomes {
		if t.outcomes[name] == nil {
			t.outcomes[name] = &[3]int{}
		}
		for i := range c {
			t.outcomes[name][i] += c[i]
		}
	}
	for op, n := range o.transitions {
		t.transitions[op] += n
	}
}

func (t *tally) share() float64 { return float64(t.known) / float64(max(t.known+t.unknown, 1)) }

// missing names what was not seen true, or not false.
func (t *tally) missing() (list []string) {
	want := map[string]bool{"point": true, "group point": true, "and": true, "or": true, "not": true,
		"<": true, "<=": true, ">": true, ">=": true, "==": true, "!=": true}
	for _, f := range features {
		switch f {
		case "bool", "enum", "text", "number":
		default:
			want[f] = true
		}
	}
	for name := range want {
		switch c := t.outcomes[name]; {
		case c == nil:
			list = append(list, name+" never stood in a rule that was evaluated")
		case c[yes] == 0:
			list = append(list, name+" was never in a true condition")
		case c[no] == 0:
			list = append(list, name+" was never in a false condition")
		}
	}
	for _, op := range []string{"raise", "clear", "unknown", "known", "changed"} {
		if t.transitions[op] == 0 {
			list = append(list, "no alert said "+op)
		}
	}
	sort.Strings(list)
	return list
}

func (t *tally) String() string {
	var names, said []string
	for name, c := range t.outcomes {
		names = append(names, fmt.Sprintf("%s %d/%d/%d", name, c[yes], c[no], c[dunno]))
	}
	for op, n := range t.transitions {
		said = append(said, fmt.Sprintf("%d %s", n, op))
	}
	sort.Strings(names)
	sort.Strings(said)
	return fmt.Sprintf("%d steps, %d conditions, %.1f %% decided, %s, %d derived values\ntrue/false/unknown: %s",
		t.steps, t.known+t.unknown, 100*t.share(), strings.Join(said, ", "), t.derived, strings.Join(names, ", "))
}
