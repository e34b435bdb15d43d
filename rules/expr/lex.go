package expr

import (
	"strings"
	"unicode/utf8"
)

type tokenKind uint8

const (
	tokEnd tokenKind = iota
	tokNumber
	tokDuration
	tokString
	tokName
	tokParam
	tokOp // one of the operators and brackets, in text
)

type token struct {
	kind tokenKind
	text string // as written; of a string and a parameter, its contents
	pos  int
	end  int
}

// wrongOps are what people coming from other languages write, with what to write here: there is one way only.
var wrongOps = [...]struct{ op, hint string }{
	{"&&", "write `and`"},
	{"||", "write `or`"},
	{"<>", "write `!=`"},
	{"=>", "write `>=`"},
	{"=<", "write `<=`"},
	{"&", "write `and`"},
	{"|", "write `or`"},
	{"!", "write `not`"},
	{"！", "write `not`"},
	{"=", "write `==` to compare"},
	{"≥", "write `>=`"},
	{"≤", "write `<=`"},
	{"≠", "write `!=`"},
	{"?", "there is no `?:`; write two rules, or use `and` and `or`"},
	{"%", "percent signs are not written; the point's name carries the unit"},
}

// halfWidth returns what was meant by a character that Chinese input methods put in the place of an ASCII one.
func halfWidth(r rune) string {
	switch r {
	case '“', '”', '「', '」', '『', '』', '《', '》':
		return "\""
	case '‘', '’':
		return "'"
	case '。':
		return "."
	case '、':
		return ","
	case '【':
		return "("
	case '】':
		return ")"
	case '\u3000', '\u00a0':
		return " "
	}
	if r > '！' && r <= '～' { // ！ is told as the operator that it is taken for
		return string(r - '！' + '!')
	}
	return ""
}

var goodOps = [...]string{"<=", ">=", "==", "!=", "<", ">", "+", "-", "*", "/", "(", ")", ",", "."}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
func isAlpha(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' }

// lex splits src into tokens, the last of which is tokEnd.
func lex(src string) ([]token, *Error) {
	if len(src) > MaxSource {
		return nil, errorf(MaxSource, "the expression is longer than %d bytes", MaxSource)
	}
	var toks []token
	for i := 0; ; {
		for i < len(src) && (src[i] == ' ' || src[i] == '\t' || src[i] == '\n' || src[i] == '\r') {
			i++
		}
		if i == len(src) {
			return append(toks, token{kind: tokEnd, pos: i, end: i}), nil
		}
		tok, err := lexOne(src, i)
		if err != nil {
			return nil, err
		}
		toks = append(toks, tok)
		i = tok.end
	}
}

func lexOne(src string, i int) (token, *Error) {
	rest := src[i:]
	switch c := rest[0]; {
	case isDigit(c):
		return lexNumber(src, i)
	case isAlpha(c):
		n := 1
		for n < len(rest) && (isAlpha(rest[n]) || isDigit(rest[n])) {
			n++
		}
		return token{tokName, rest[:n], i, i + n}, nil
	case c == '"' || c == '\'':
		n := strings.IndexByte(rest[1:], c)
		if n < 0 {
			return token{}, errorf(i, "the text that starts here has no closing %c", c)
		}
		text := rest[1 : 1+n]
		if !utf8.ValidString(text) || strings.ContainsAny(text, "\\\n\r") {
			return token{}, errorf(i, "texts are plain: no backslash, no line break")
		}
		return token{tokString, text, i, i + n + 2}, nil
	case strings.HasPrefix(rest, "${"):
		n := strings.IndexByte(rest, '}')
		if n < 0 {
			return token{}, errorf(i, "`${` has no closing `}`")
		}
		name := rest[2:n]
		if !validName(name) {
			return token{}, errorf(i, "%q is not a parameter's name", name)
		}
		return token{tokParam, name, i, i + n + 1}, nil
	}
	for _, op := range goodOps {
		if strings.HasPrefix(rest, op) && !strings.HasPrefix(rest, "<>") {
			return token{tokOp, op, i, i + len(op)}, nil
		}
	}
	for _, w := range wrongOps {
		if strings.HasPrefix(rest, w.op) {
			return token{}, errorf(i, "`%s` is not an operator: %s", w.op, w.hint)
		}
	}
	r, _ := utf8.DecodeRuneInString(rest)
	if ascii := halfWidth(r); ascii != "" {
		return token{}, errorf(i, "`%c` is a full-width character: write `%s`", r, ascii)
	}
	return token{}, errorf(i, "unexpected character %q", r)
}

func validName(s string) bool {
	if s == "" || !isAlpha(s[0]) {
		return false
	}
	for i := range len(s) {
		if !isAlpha(s[i]) && !isDigit(s[i]) {
			return false
		}
	}
	return true
}

// lexNumber reads a number, or a duration where letters follow.
func lexNumber(src string, i int) (token, *Error) {
	n := i
	for n < len(src) && (isDigit(src[n]) || src[n] == '.') {
		n++
	}
	if n == len(src) || !isAlpha(src[n]) {
		text := src[i:n]
		if strings.Count(text, ".") > 1 || strings.HasSuffix(text, ".") {
			return token{}, errorf(i, "%q is not a number", text)
		}
		return token{tokNumber, text, i, n}, nil
	}
	for n < len(src) && (isDigit(src[n]) || isAlpha(src[n]) || src[n] == '.') {
		n++
	}
	text := src[i:n]
	if _, err := ParseDuration(text); err != nil {
		return token{}, errorf(i, "%v; numbers carry no other unit: the point's name does", err)
	}
	return token{tokDuration, text, i, n}, nil
}
