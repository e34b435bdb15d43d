package yamlfile

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// excerptWidth is how many cells of a line are shown, what stands for the rest of it included.
const excerptWidth = 100

// Print writes each mistake on a line of its own, and beneath it the line of the file with a mark under the column. read
// reads the files again; of one that it cannot read, or that has changed, only the mistake is written.
func (es Errors) Print(w io.Writer, read func(file string) ([]byte, error)) {
	sources := map[string][]byte{}
	for _, e := range es {
		src, ok := sources[e.Pos.File]
		if !ok {
			var err error
			if src, err = read(e.Pos.File); err != nil {
				src = nil
			}
			sources[e.Pos.File] = src
		}
		fmt.Fprintf(w, "%v\n%s", e, Excerpt(src, e.Pos))
	}
}

// Excerpt returns the line of src at pos and a line with a caret under its column, each indented by four blanks and ended by
// a line feed; "" where there is no such line. Wide characters take two cells, as terminals show them, a tab stays one,
// so that both lines go equally far. Of a long line what is around the column is shown.
func Excerpt(src []byte, pos Pos) string {
	text := lineOf(src, pos.Line)
	if strings.TrimSpace(text) == "" || pos.Col < 1 {
		return ""
	}
	line := []rune(text)
	at := min(pos.Col-1, len(line))
	from, to := around(line, at)
	var shown, under strings.Builder
	if from > 0 {
		shown.WriteString("...")
		under.WriteString("   ")
	}
	for i := from; i < to; i++ {
		r := line[i]
		mark := "  "[:cells(r)]
		switch {
		case r == '\t':
			mark = "\t"
		case unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029':
			r, mark = '?', " " // nothing in a file may drive the terminal
		}
		shown.WriteRune(r)
		if i < at {
			under.WriteString(mark)
		}
	}
	if to < len(line) {
		shown.WriteString("...")
	}
	return "    " + shown.String() + "\n    " + under.String() + "^\n"
}

// lineOf returns a line of src without its end.
func lineOf(src []byte, n int) string {
	if n < 1 {
		return ""
	}
	src = bytes.TrimPrefix(src, []byte("\ufeff"))
	for ; n > 1; n-- {
		i := bytes.IndexByte(src, '\n')
		if i < 0 {
			return ""
		}
		src = src[i+1:]
	}
	if i := bytes.IndexByte(src, '\n'); i >= 0 {
		src = src[:i]
	}
	return strings.TrimRight(string(src), "\r \t")
}

// around returns which characters of a line to show so that the one at is among them.
func around(line []rune, at int) (from, to int) {
	whole := 0
	for _, r := range line {
		whole += cells(r)
	}
	if whole <= excerptWidth {
		return 0, len(line)
	}
	const dots, before = 3, 45
	from = at
	for n := 0; from > 0 && n+cells(line[from-1]) <= before; from-- { // as far back as that goes
		n += cells(line[from-1])
	}
	room := excerptWidth - dots
	if from > 0 {
		room -= dots
	}
	for to = from; to < len(line) && room >= cells(line[to]); to++ {
		room -= cells(line[to])
	}
	return from, to
}

// cells returns how many cells of a terminal a character takes.
func cells(r rune) int {
	switch {
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	case r >= 0x1100 && r <= 0x115f, // Hangul
		r >= 0x2e80 && r <= 0x303e, r >= 0x3041 && r <= 0xa4cf, // CJK, kana
		r >= 0xa960 && r <= 0xa97c, r >= 0xac00 && r <= 0xd7a3,
		r >= 0xf900 && r <= 0xfaff, r >= 0xfe10 && r <= 0xfe19, r >= 0xfe30 && r <= 0xfe6f,
		r >= 0xff01 && r <= 0xff60, r >= 0xffe0 && r <= 0xffe6,
		r >= 0x1f300 && r <= 0x1f64f, r >= 0x1f900 && r <= 0x1f9ff, r >= 0x20000 && r <= 0x3fffd:
		return 2
	}
	return 1
}
