package expr

import (
	"strconv"
	"strings"
	"time"

	"linli/internal/telemetry"
)

// Op says what a node is.
type Op uint8

// The nodes of a tree.
const (
	OpNumber   Op = iota + 1 // Num
	OpDuration               // Num, in seconds
	OpString                 // Text
	OpBool                   // Num 0 or 1
	OpParam                  // Text: the parameter's name; gone after Check
	OpPoint                  // Text: point of the subject
	OpGroup                  // Scope, Class, Text: point of each device of a group
	OpCall                   // Text: the function's name
	OpNot
	OpNeg
	OpAnd
	OpOr
	OpAdd
	OpSub
	OpMul
	OpDiv
	OpLess
	OpLessEqual
	OpGreater
	OpGreaterEqual
	OpEqual
	OpNotEqual
)

// info returns an operator's text and binding strength, and false for what is not an operator.
func (op Op) info() (text string, prec int, ok bool) {
	switch op {
	case OpOr:
		return "or", 1, true
	case OpAnd:
		return "and", 2, true
	case OpNot:
		return "not", 3, true
	case OpLess:
		return "<", 4, true
	case OpLessEqual:
		return "<=", 4, true
	case OpGreater:
		return ">", 4, true
	case OpGreaterEqual:
		return ">=", 4, true
	case OpEqual:
		return "==", 4, true
	case OpNotEqual:
		return "!=", 4, true
	case OpAdd:
		return "+", 5, true
	case OpSub:
		return "-", 5, true
	case OpMul:
		return "*", 6, true
	case OpDiv:
		return "/", 6, true
	case OpNeg:
		return "-", 7, true
	}
	return "", 0, false
}

// Comparison reports whether the node compares two operands.
func (op Op) Comparison() bool { return op >= OpLess && op <= OpNotEqual }

// Type is the type of a node's value.
type Type uint8

// The types. Durations are numbers of seconds that mix only with durations.
const (
	TypeBool Type = iota + 1
	TypeNumber
	TypeDuration
	TypeText
	TypeEnum
)

// String returns the type as error messages name it.
func (t Type) String() string {
	switch t {
	case TypeBool:
		return "true or false"
	case TypeNumber:
		return "a number"
	case TypeDuration:
		return "a duration"
	case TypeText:
		return "a text"
	case TypeEnum:
		return "one of several states"
	}
	return "nothing"
}

// Node is one node of a tree. The fields below the line are set by Check.
type Node struct {
	Op    Op
	Pos   int     // byte offset of the node's own text
	Num   float64 // value of a number, of a duration in seconds, of a bool
	Text  string  // value of a string; name of a point, a function, a parameter
	Scope string  // of OpGroup: zone, site, or the kind of an enclosing zone
	Class string  // of OpGroup
	Args  []*Node

	Type   Type
	Def    *telemetry.PointDef // of OpPoint and OpGroup
	Window time.Duration       // of functions over time
	Event  *Node               // of what count_over_time and sequence follow: the event point in it, or itself
}

// followed returns what a function over time follows, nil where that is missing.
func (n *Node) followed() *Node {
	i := 0
	if n.Text == "quantile_over_time" {
		i = 1
	}
	if i >= len(n.Args) {
		return nil
	}
	return n.Args[i]
}

// String writes the expression so that Parse reads the same tree back.
func (n *Node) String() string {
	var b strings.Builder
	n.print(&b, 0)
	return b.String()
}

func (n *Node) print(b *strings.Builder, outer int) {
	text, prec, isOp := n.Op.info()
	switch {
	case isOp && len(n.Args) == 1:
		if prec < outer {
			b.WriteByte('(')
			defer b.WriteByte(')')
		}
		b.WriteString(text)
		if n.Op == OpNot {
			b.WriteByte(' ')
		}
		n.Args[0].print(b, prec)
	case isOp:
		if prec < outer {
			b.WriteByte('(')
			defer b.WriteByte(')')
		}
		// Operators of one strength group to the left, so the right side needs brackets at equal strength;
		// comparisons do not chain, so both sides do.
		left := prec
		if n.Op.Comparison() {
			left++
		}
		n.Args[0].print(b, left)
		b.WriteString(" " + text + " ")
		n.Args[1].print(b, prec+1)
	default:
		n.printPrimary(b)
	}
}

func (n *Node) printPrimary(b *strings.Builder) {
	switch n.Op {
	case OpNumber:
		b.WriteString(strconv.FormatFloat(n.Num, 'f', -1, 64))
	case OpDuration:
		b.WriteString(FormatDuration(seconds(n.Num)))
	case OpString:
		quote := "\""
		if strings.Contains(n.Text, quote) {
			quote = "'"
		}
		b.WriteString(quote + n.Text + quote)
	case OpBool:
		b.WriteString(strconv.FormatBool(n.Num != 0))
	case OpParam:
		b.WriteString("${" + n.Text + "}")
	case OpPoint:
		b.WriteString(n.Text)
	case OpGroup:
		b.WriteString(n.Scope + "." + n.Class + "." + n.Text)
	case OpCall:
		b.WriteString(n.Text + "(")
		for i, a := range n.Args {
			if i > 0 {
				b.WriteString(", ")
			}
			a.print(b, 0)
		}
		b.WriteByte(')')
	}
}

// seconds turns a number of seconds into a duration, to the millisecond that the language can write.
func seconds(s float64) time.Duration {
	return time.Duration(s*1000+0.5) * time.Millisecond
}

// Same reports whether two trees are the same, wherever they stand in their texts.
func Same(a, b *Node) bool {
	if a.Op != b.Op || a.Num != b.Num || a.Text != b.Text || a.Scope != b.Scope || a.Class != b.Class || len(a.Args) != len(b.Args) {
		return false
	}
	for i := range a.Args {
		if !Same(a.Args[i], b.Args[i]) {
			return false
		}
	}
	return true
}

// Walk calls f for n and all beneath it, outermost first.
func (n *Node) Walk(f func(*Node)) {
	f(n)
	for _, a := range n.Args {
		a.Walk(f)
	}
}
