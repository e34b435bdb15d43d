package expr

import (
	"strconv"
	"strings"

	"linli/internal/yamlfile"
)

// Parse parses one expression. The error is an *Error.
func Parse(src string) (*Node, error) {
	toks, lexErr := lex(src)
	if lexErr != nil {
		return nil, lexErr
	}
	p := &parser{toks: toks}
	n := p.expr()
	if p.err == nil && p.tok().kind != tokEnd {
		p.fail(p.tok().pos, "%s", p.unexpected())
	}
	if p.err != nil {
		return nil, p.err
	}
	return n, nil
}

type parser struct {
	toks  []token
	at    int
	depth int
	nodes int
	err   *Error // the first mistake; afterwards every method returns at once
}

func (p *parser) tok() token { return p.toks[p.at] }

func (p *parser) next() token {
	t := p.toks[p.at]
	if p.at < len(p.toks)-1 {
		p.at++
	}
	return t
}

func (p *parser) fail(pos int, format string, args ...any) *Node {
	if p.err == nil {
		p.err = errorf(pos, format, args...)
	}
	// The end token stops every loop; the tree returned is never used.
	p.at = len(p.toks) - 1
	return &Node{Op: OpBool, Pos: pos}
}

func (p *parser) isOp(text string) bool { t := p.tok(); return t.kind == tokOp && t.text == text }
func (p *parser) isWord(w string) bool  { t := p.tok(); return t.kind == tokName && t.text == w }

func (p *parser) node(op Op, pos int, args ...*Node) *Node {
	if p.nodes++; p.nodes > MaxNodes {
		return p.fail(pos, "the expression has more than %d parts: split it into several rules", MaxNodes)
	}
	return &Node{Op: op, Pos: pos, Args: args}
}

// deeper guards every recursion; the caller undoes it with p.depth--.
func (p *parser) deeper() bool {
	if p.depth++; p.depth > MaxDepth {
		p.fail(p.tok().pos, "the expression is nested more than %d deep", MaxDepth)
		return false
	}
	return p.err == nil
}

func (p *parser) expr() *Node {
	defer func() { p.depth-- }()
	if !p.deeper() {
		return &Node{Op: OpBool}
	}
	n := p.and()
	for links := 0; p.isWord("or"); links++ {
		pos := p.next().pos
		n = p.chain(links, OpOr, pos, n, p.and())
	}
	return n
}

// chain joins left-grouped operands, which nest as deep as the chain is long.
func (p *parser) chain(links int, op Op, pos int, l, r *Node) *Node {
	if links >= MaxDepth {
		return p.fail(pos, "more than %d operands in one chain: split it into several rules", MaxDepth)
	}
	return p.node(op, pos, l, r)
}

func (p *parser) and() *Node {
	n := p.not()
	for links := 0; p.isWord("and"); links++ {
		pos := p.next().pos
		n = p.chain(links, OpAnd, pos, n, p.not())
	}
	return n
}

func (p *parser) not() *Node {
	if !p.isWord("not") {
		return p.cmp()
	}
	defer func() { p.depth-- }()
	if !p.deeper() {
		return &Node{Op: OpBool}
	}
	pos := p.next().pos
	return p.node(OpNot, pos, p.not())
}

// comparison returns the comparing operator that t is, or 0.
func comparison(t token) Op {
	if t.kind != tokOp {
		return 0
	}
	for op := OpLess; op <= OpNotEqual; op++ {
		if text, _, _ := op.info(); text == t.text {
			return op
		}
	}
	return 0
}

func (p *parser) cmp() *Node {
	l := p.sum()
	t := p.tok()
	op := comparison(t)
	if op == 0 {
		return l
	}
	p.next()
	n := p.node(op, t.pos, l, p.sum())
	if t2 := p.tok(); comparison(t2) != 0 && p.err == nil {
		return p.fail(t2.pos, "comparisons do not chain: write `%s and %s %s ...`", n, n.Args[1], t2.text)
	}
	return n
}

func (p *parser) sum() *Node {
	n := p.product()
	for links := 0; p.isOp("+") || p.isOp("-"); links++ {
		t := p.next()
		op := OpAdd
		if t.text == "-" {
			op = OpSub
		}
		n = p.chain(links, op, t.pos, n, p.product())
	}
	return n
}

func (p *parser) product() *Node {
	n := p.unary()
	for links := 0; p.isOp("*") || p.isOp("/"); links++ {
		t := p.next()
		op := OpMul
		if t.text == "/" {
			op = OpDiv
		}
		n = p.chain(links, op, t.pos, n, p.unary())
	}
	return n
}

func (p *parser) unary() *Node {
	if !p.isOp("-") {
		return p.primary()
	}
	defer func() { p.depth-- }()
	if !p.deeper() {
		return &Node{Op: OpBool}
	}
	pos := p.next().pos
	return p.node(OpNeg, pos, p.unary())
}

func (p *parser) primary() *Node {
	t := p.tok()
	switch t.kind {
	case tokNumber:
		p.next()
		n := p.node(OpNumber, t.pos)
		v, err := strconv.ParseFloat(t.text, 64)
		if err != nil {
			return p.fail(t.pos, "%q is not a number", t.text)
		}
		n.Num = v
		return n
	case tokDuration:
		p.next()
		n := p.node(OpDuration, t.pos)
		d, _ := ParseDuration(t.text) // the lexer has parsed it once
		n.Num = seconds(d.Seconds()).Seconds()
		return n
	case tokString, tokParam:
		p.next()
		op := OpString
		if t.kind == tokParam {
			op = OpParam
		}
		n := p.node(op, t.pos)
		n.Text = t.text
		return n
	case tokName:
		return p.name()
	}
	if !p.isOp("(") {
		return p.fail(t.pos, "%s", p.unexpected())
	}
	p.next()
	n := p.expr()
	if p.err == nil && !p.isOp(")") {
		return p.fail(p.tok().pos, "%s; the bracket opened at column %d is not closed", p.unexpected(), t.pos+1)
	}
	p.next()
	return n
}

var reserved = [...]string{"and", "or", "not"}

func (p *parser) name() *Node {
	t := p.next()
	for _, w := range reserved {
		if t.text == w {
			p.at--
			return p.fail(t.pos, "%s", p.unexpected())
		}
		if strings.EqualFold(t.text, w) {
			return p.fail(t.pos, "`%s` is not an operator: write `%s`", t.text, w)
		}
	}
	switch {
	case t.text == "true" || t.text == "false":
		n := p.node(OpBool, t.pos)
		if t.text == "true" {
			n.Num = 1
		}
		return n
	case p.isOp("("):
		return p.call(t)
	case p.isOp("."):
		parts := []string{t.text}
		for p.isOp(".") {
			p.next()
			if p.tok().kind != tokName {
				return p.fail(p.tok().pos, "a name must follow the dot")
			}
			parts = append(parts, p.next().text)
		}
		if len(parts) != 3 {
			return p.fail(t.pos, "%q: devices of a group are written scope.class.point, as zone.smoke_detector.alarm", strings.Join(parts, "."))
		}
		n := p.node(OpGroup, t.pos)
		n.Scope, n.Class, n.Text = parts[0], parts[1], parts[2]
		return n
	}
	n := p.node(OpPoint, t.pos)
	n.Text = t.text
	return n
}

func (p *parser) call(name token) *Node {
	n := p.node(OpCall, name.pos)
	n.Text = name.text
	p.next()
	for !p.isOp(")") && p.err == nil {
		if len(n.Args) > 0 {
			if !p.isOp(",") {
				return p.fail(p.tok().pos, "%s; `%s(` is not closed", p.unexpected(), name.text)
			}
			p.next()
		}
		n.Args = append(n.Args, p.expr())
	}
	p.next()
	return n
}

// unexpected says what stands at the present token and should not.
func (p *parser) unexpected() string {
	t := p.tok()
	if t.kind == tokEnd {
		if len(p.toks) == 1 {
			return "the expression is empty"
		}
		return "the expression ends too early"
	}
	for _, w := range reserved {
		if t.kind == tokName && t.text != w && strings.EqualFold(t.text, w) {
			return "`" + t.text + "` is not an operator: write `" + w + "`"
		}
	}
	if t.kind == tokName && p.at > 0 && p.toks[p.at-1].kind == tokNumber {
		if d := spacedDuration(p.toks[p.at-1].text, t.text); d != "" {
			return "a duration is one word: write " + d + ", without a space"
		}
	}
	if t.kind == tokName && p.at > 0 && p.toks[p.at-1].kind == tokName {
		return "unexpected \"" + t.text + "\"" + yamlfile.Suggest(t.text, reserved[:])
	}
	switch t.kind {
	case tokString:
		return "unexpected text " + strconv.Quote(t.text)
	case tokParam:
		return "unexpected ${" + t.text + "}"
	}
	return "unexpected `" + t.text + "`"
}
