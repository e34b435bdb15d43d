package yamlfile

import "unicode/utf8"

// Place returns where in the file src byte offset of a scalar's text stands that begins at pos. The text differs from the
// file in white space, quotes and escapes only, so the two are followed side by side over what is neither.
func Place(src []byte, pos Pos, text string, offset int) Pos {
	line, col := pos.Line, pos.Col
	src = skipTo(src, line, col)
	offset = min(offset, len(text))
	if len(src) > 0 && (src[0] == '|' || src[0] == '>') {
		// A block begins on the next line.
		for len(src) > 0 && src[0] != '\n' {
			src = src[1:]
		}
	}
	last := Pos{File: pos.File, Line: line, Col: col}
	for i := 0; i <= offset; {
		for i < offset && isSpace(text[i]) {
			i++
		}
		if i == len(text) {
			break
		}
		r, size := utf8.DecodeRuneInString(text[i:])
		for len(src) > 0 {
			f, n := utf8.DecodeRune(src)
			if f == r {
				break
			}
			if f == '\n' {
				line, col = line+1, 0
			}
			col++
			src = src[n:]
		}
		last.Line, last.Col = line, col
		if i >= offset || len(src) == 0 {
			return last
		}
		_, n := utf8.DecodeRune(src)
		src, col, i = src[n:], col+1, i+size
	}
	last.Line, last.Col = line, col
	return last
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// skipTo returns the part of src that begins at line and column, both counted from 1, columns in characters.
func skipTo(src []byte, line, col int) []byte {
	for ; line > 1 && len(src) > 0; line-- {
		i := 0
		for i < len(src) && src[i] != '\n' {
			i++
		}
		src = src[min(i+1, len(src)):]
	}
	for ; col > 1 && len(src) > 0 && src[0] != '\n'; col-- {
		_, n := utf8.DecodeRune(src)
		src = src[n:]
	}
	return src
}
