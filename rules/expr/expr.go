// Package expr is the language of rules: lexer, parser, printer, type checker, and the closures that checked
// expressions become.
//
// Job and guarantees. Parse turns text into a tree and never panics; a tree is at most MaxDepth deep and MaxNodes
// large, so that hostile input costs little. Check resolves every name against the classes of a site, gives every
// node its type and reports every mistake with its offset in the text. Binding turns a checked tree into closures that
// read the operands of one subject from a Frame; subjects of one shape share them, and calling them allocates nothing.
// It does no I/O and has no clock: the present moment is a value that the caller sets (Present).
//
// Logic is three-valued (Tri, after Kleene): true, false, unknown. Numbers are intervals (Num): a reading that is
// known is an interval of one value, an unknown one reaches from minus to plus infinity, and a reading beyond the
// scale of its sensor reaches from the bound to infinity. A comparison is decided when it is the same for every
// value that the intervals allow, and unknown otherwise.
//
// The grammar, loosest binding first; docs/rules.md explains it to those who write rules:
//
//	expr    = and { "or" and }
//	and     = not { "and" not }
//	not     = "not" not | cmp
//	cmp     = sum [ ( "<" | "<=" | ">" | ">=" | "==" | "!=" ) sum ]
//	sum     = product { ( "+" | "-" ) product }
//	product = unary { ( "*" | "/" ) unary }
//	unary   = "-" unary | primary
//	primary = number | duration | string | "true" | "false" | "${" name "}"
//	        | name [ "." name "." name ] | name "(" [ expr { "," expr } ] ")" | "(" expr ")"
//	number  = digits [ "." digits ]          duration = { number ( "ms" | "s" | "m" | "h" | "d" ) }
//
// Trees are read-only once parsed or checked and may be shared, and so may bound closures; what is in a Frame
// belongs to one goroutine.
package expr

import "fmt"

// Limits of one expression. They are far above what a person writes and far below what costs anything.
const (
	MaxSource = 4096 // bytes of text
	MaxDepth  = 48   // nesting of the tree
	MaxNodes  = 512  // size of the tree
)

// Error is one mistake in an expression.
type Error struct {
	Offset int // in bytes from the start of the text
	Msg    string
}

// Error returns the message with its offset.
func (e *Error) Error() string { return fmt.Sprintf("at %d: %s", e.Offset, e.Msg) }

func errorf(offset int, format string, args ...any) *Error {
	return &Error{Offset: offset, Msg: fmt.Sprintf(format, args...)}
}
