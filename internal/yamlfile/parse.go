package yamlfile

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Parse reads the one YAML document in src. An empty document is an empty mapping. The error is Errors. The Node is
// nil beside an error, unless all that is wrong is values that have swallowed the key after them.
func Parse(file string, src []byte) (*Node, error) {
	n, err := parse(file, src)
	if es, ok := err.(Errors); ok {
		explainWide(file, src, es, false)
	}
	return n, err
}

func parse(file string, src []byte) (n *Node, err error) {
	p := &treeBuilder{file: file}
	top := Pos{File: file, Line: 1, Col: 1}
	if len(src) > MaxSize {
		p.errs.Addf(top, "the file is too large: %d bytes, at most %d", len(src), MaxSize)
		return nil, p.errs
	}
	text := strings.TrimPrefix(string(src), "\ufeff")
	text = strings.ReplaceAll(text, "\r\n", "\n")
	if i := invalidAt(text); i >= 0 {
		pos := placeOf(file, text[:i])
		if text[i] == 0 {
			p.errs.Addf(pos, "a zero byte: this is not a text file")
		} else {
			p.errs.Addf(pos, "not valid UTF-8: save the file as UTF-8")
		}
		return nil, p.errs
	}

	// The YAML library is not ours; whatever it stumbles over is a mistake in the file, never a crash.
	defer func() {
		if r := recover(); r != nil {
			p.errs.Addf(top, "the file cannot be understood as YAML (%v)", r)
			n, err = nil, p.errs
		}
	}()
	tokens := lexer.Tokenize(text)
	if tk := tokens.InvalidToken(); tk != nil {
		p.syntaxError(tk, tk.Error)
		return nil, p.errs
	}
	p.refuse(tokens)
	if len(p.errs) > 0 {
		return nil, p.errs.Err()
	}
	f, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		var at interface {
			GetMessage() string
			GetToken() *token.Token
		}
		if !errors.As(err, &at) {
			p.errs.Addf(top, "the file cannot be understood as YAML: %v", err)
		} else {
			p.syntaxError(at.GetToken(), at.GetMessage())
		}
		return nil, p.errs
	}

	n = &Node{Pos: top, kind: mapNode}
	found := false
	for _, doc := range f.Docs {
		switch {
		case doc.Body == nil:
		case !found:
			found = true
			n = p.build(doc.Body, top, 0)
		default:
			p.errs.Addf(p.pos(doc.Start, top), "a second document begins here: one file holds one document")
		}
	}
	if len(p.errs) > 0 {
		return nil, append(p.errs, p.soft...).Err()
	}
	return n, p.soft.Err()
}

// invalidAt returns the index of the first byte that cannot be in a text file, or -1.
func invalidAt(text string) int {
	for i, r := range text {
		if r == 0 {
			return i
		}
		if r == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(text[i:]); size == 1 {
				return i
			}
		}
	}
	return -1
}

// placeOf returns the place just behind before, the beginning of a file.
func placeOf(file, before string) Pos {
	line := strings.Count(before, "\n") + 1
	before = before[strings.LastIndexByte(before, '\n')+1:]
	return Pos{File: file, Line: line, Col: utf8.RuneCountInString(before) + 1}
}

// treeBuilder turns the library's tree into Nodes.
type treeBuilder struct {
	file string
	errs Errors
	soft Errors // mistakes in values, beside which the tree stands
}

func (p *treeBuilder) pos(tk *token.Token, fallback Pos) Pos {
	if tk == nil || tk.Position == nil {
		return fallback
	}
	return Pos{File: p.file, Line: max(1, tk.Position.Line), Col: max(1, tk.Position.Column)}
}

// refuse reports the parts of YAML that are not accepted, and nesting too deep for the recursive parser.
func (p *treeBuilder) refuse(tokens token.Tokens) {
	flow := 0
	type level struct{ col, keys int }
	var levels []level // the open block levels
	for _, tk := range tokens {
		pos := p.pos(tk, Pos{File: p.file, Line: 1, Col: 1})
		switch tk.Type {
		case token.AnchorType, token.AliasType:
			p.errs.Addf(pos, "YAML anchors and aliases (& and *) are not used here: write the value out, or put it in quotes if it is a text")
			return
		case token.MergeKeyType:
			p.errs.Addf(pos, "YAML merge keys (<<) are not used here: write the keys out")
			return
		case token.TagType:
			p.errs.Addf(pos, "YAML tags (!) are not used here: put the value in quotes if it is a text")
			return
		case token.DirectiveType:
			if pos.Col > 1 {
				p.errs.Addf(pos, "a value cannot begin with %%: put it in quotes")
			} else {
				p.errs.Addf(pos, "YAML directives (%%) are not used here")
			}
			return
		case token.MappingKeyType:
			p.errs.Addf(pos, "YAML keys with ? are not used here: write key: value")
			return
		case token.SequenceStartType, token.MappingStartType:
			flow++
		case token.SequenceEndType, token.MappingEndType:
			flow--
		case token.SequenceEntryType, token.MappingValueType:
			col := pos.Col
			if tk.Type == token.MappingValueType && tk.Prev != nil && tk.Prev.Position != nil {
				col = tk.Prev.Position.Column
			}
			if flow > 0 {
				break
			}
			for len(levels) > 0 && levels[len(levels)-1].col > col {
				levels = levels[:len(levels)-1]
			}
			if len(levels) == 0 || levels[len(levels)-1].col < col {
				levels = append(levels, level{col: col})
			}
			top := &levels[len(levels)-1]
			switch {
			case tk.Type == token.SequenceEntryType:
			case top.keys == maxKeys:
				p.errs.Addf(pos, "more than %d keys in one mapping", maxKeys)
				return
			default:
				top.keys++
			}
		}
		if flow+len(levels) > maxDepth {
			p.errs.Addf(pos, "nested too deeply (more than %d levels)", maxDepth)
			return
		}
	}
}

// build converts one node. Where the library gives no place, that of the parent is used.
func (p *treeBuilder) build(node ast.Node, parent Pos, depth int) *Node {
	n := &Node{Pos: parent}
	if node == nil {
		return n
	}
	n.Pos = p.pos(node.GetToken(), parent)
	if depth > maxDepth+8 {
		p.errs.Addf(n.Pos, "nested too deeply (more than %d levels)", maxDepth)
		return n
	}
	switch node := node.(type) {
	case *ast.NullNode:
		if node.Token.Type == token.ImplicitNullType {
			n.Pos = parent
		}
	case *ast.MappingNode:
		n.kind = mapNode
		if node.IsFlowStyle {
			n.Pos = p.pos(node.Start, parent)
		} else if len(node.Values) > 0 {
			n.Pos = p.pos(node.Values[0].Key.GetToken(), parent)
		}
		for _, v := range node.Values {
			p.entry(n, v, depth)
		}
	case *ast.MappingValueNode:
		n.kind = mapNode
		n.Pos = p.pos(node.Key.GetToken(), parent)
		p.entry(n, node, depth)
	case *ast.SequenceNode:
		n.kind = listNode
		n.Pos = p.pos(node.Start, parent)
		for _, v := range node.Values {
			n.items = append(n.items, p.build(v, n.Pos, depth+1))
		}
	case *ast.StringNode:
		n.kind, n.text = scalarNode, node.Value
		n.quoted = node.Token.Type == token.SingleQuoteType || node.Token.Type == token.DoubleQuoteType
		if !n.quoted {
			p.swallowed(n)
		}
	case *ast.LiteralNode:
		n.kind, n.quoted = scalarNode, true
		n.Pos = p.pos(node.Start, parent)
		if node.Value != nil {
			n.text = node.Value.Value
		}
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		n.kind, n.text = scalarNode, node.GetToken().Value
	default:
		p.errs.Addf(n.Pos, "this form of YAML is not used here")
	}
	return n
}

// swallowed refuses a plain value that holds what looks like the next key. In braces the library takes it as text.
func (p *treeBuilder) swallowed(n *Node) {
	switch {
	case wideKey.MatchString(n.text):
		p.soft.Addf(n.Pos, "the next key has run into this value, because ， is a full-width comma: write , (or put the value in quotes if it is a text)")
	case strings.Contains(n.text, ": "):
		p.soft.Addf(n.Pos, "a second \": \" in one value: put the value in quotes if it is a text")
	}
}

// entry adds one key with its value to the mapping n.
func (p *treeBuilder) entry(n *Node, v *ast.MappingValueNode, depth int) {
	key := p.build(v.Key, n.Pos, depth+1)
	if !key.IsScalar() && !key.IsNull() {
		p.errs.Addf(key.Pos, "a key must be a single word")
		return
	}
	n.keys = append(n.keys, At[string]{Value: key.text, Pos: key.Pos})
	n.items = append(n.items, p.build(v.Value, key.Pos, depth+1))
}

// syntaxError reports in plain words why the library stopped at tk.
func (p *treeBuilder) syntaxError(tk *token.Token, msg string) {
	pos := p.pos(tk, Pos{File: p.file, Line: 1, Col: 1})
	has := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(msg, part) })
	}
	switch {
	case has("found character '\t'", "tab character"):
		msg = "a tab cannot be used for indentation: use spaces"
	case has("mapping value is not allowed in this context") && tk != nil && strings.Contains(strings.TrimRight(tk.Origin, " \n"), "\n"):
		// The library took the following line as more of this value; the mistake is in that line.
		more := strings.TrimRight(tk.Origin, " \n")
		last := more[strings.LastIndexByte(more, '\n')+1:]
		pos.Line += strings.Count(strings.TrimLeft(more, " \n"), "\n")
		pos.Col = len(last) - len(strings.TrimLeft(last, " ")) + 1
		msg = "this line is indented deeper than the one above it, which already has its value"
	case has("mapping value is not allowed in this context"):
		msg = "a second \": \" on one line: put the value in quotes if it is a text"
	case has("could not find end character of"):
		msg = "this quoted text has no closing quote"
	case has("could not find flow mapping end", "flow map end"):
		msg = "this { has no closing }"
	case has("could not find flow sequence end", "sequence end token"):
		msg = "this [ has no closing ]"
	case has("',' or ']' must be specified"):
		msg = "a , or ] is missing before this"
	case has("',' or '}' must be specified"):
		msg = "a , or } is missing before this"
	case has("is a reserved character"):
		msg = fmt.Sprintf("a value cannot begin with %s: put it in quotes", strings.TrimSpace(tk.Value))
	case has("unexpected key name"):
		msg = "expected key: value here"
	case has("non-map value is specified"):
		msg = "expected key: value here, as in the lines above"
		if tk != nil && tk.Type == token.SequenceEntryType {
			msg = "a list item (-) cannot stand here, between keys"
		}
	case has("value is not allowed in this context"):
		msg = "this does not belong here: check the indentation, which must match the lines above"
	case has("could not find '"):
		msg = strings.Replace(msg, "could not find", "there is no", 1)
	}
	p.errs.Addf(pos, "%s", msg)
}
