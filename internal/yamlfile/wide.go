package yamlfile

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
)

// wideKey finds a key behind a full-width comma: 单元门，en: Entrance door.
var wideKey = regexp.MustCompile(`，\s*[A-Za-z_][A-Za-z0-9_]*(: |：)`)

// asciiFor returns what was meant by a character that Chinese input methods, word processors and web pages put in the place
// of an ASCII one, "" for any other character.
func asciiFor(r rune) string {
	switch r {
	case '：':
		return ":"
	case '，':
		return ","
	case '｛':
		return "{"
	case '｝':
		return "}"
	case '［', '【':
		return "["
	case '］', '】':
		return "]"
	case '＃':
		return "#"
	case '“', '”':
		return "\""
	case '‘', '’':
		return "'"
	case '\u3000', '\u00a0':
		return " "
	}
	return ""
}

// ExplainWide adds to each mistake at whose place in src, the file named file, a full-width or typographic character
// stands that it does: people see no difference, and YAML knows only the ASCII one. Decode has done so already; it
// is for mistakes that are found in values afterwards.
func ExplainWide(file string, src []byte, errs Errors) { explainWide(file, src, errs, true) }

func explainWide(file string, src []byte, errs Errors, one bool) {
	for _, e := range errs {
		if e.Pos.File != file || strings.Contains(e.Msg, hintMark) || strings.Contains(e.Msg, "full-width") {
			continue
		}
		col := e.Pos.Col
		if !one {
			col = 1 // where the library gave up is not always where the character stands
		}
		e.Msg += wideHint(src, e.Pos.Line, col, one)
	}
}

// hintMark begins every hint.
const hintMark = " (here stands "

// wideHint looks for such a character in a line of src from column col on, outside of quotes and comments; with one
// only as far as the key or value goes that begins there. It returns "" where there is none.
func wideHint(src []byte, line, col int, one bool) string {
	for ; line > 1; line-- {
		i := bytes.IndexByte(src, '\n')
		if i < 0 {
			return ""
		}
		src = src[i+1:]
	}
	if i := bytes.IndexByte(src, '\n'); i >= 0 {
		src = src[:i]
	}
	text := []rune(strings.TrimPrefix(string(src), "\ufeff"))
	quote, first := rune(0), min(max(col-1, 0), len(text))
	for i, r := range text {
		switch {
		case quote != 0:
			if r == quote {
				quote = 0
			}
			continue
		case i > 0 && r == '#' && text[i-1] == ' ':
			return ""
		case (r == '"' || r == '\'') && (i == 0 || strings.ContainsRune(" [{,:", text[i-1])):
			if one && i == first {
				return "" // the value is quoted: what it holds is meant
			}
			quote = r
			continue
		case i < first:
			continue
		case one && strings.ContainsRune(",[]{}", r) && i > first:
			return ""
		}
		switch ascii := asciiFor(r); {
		case r == '\u3000':
			return hintMark + "a full-width space, U+3000: write an ordinary one)"
		case r == '\u00a0':
			return hintMark + "a no-break space, U+00A0: write an ordinary one)"
		case ascii == "\"" || ascii == "'":
			return fmt.Sprintf("%s%c, a typographic quotation mark: write %s)", hintMark, r, ascii)
		case ascii != "":
			return fmt.Sprintf("%s%c, a full-width character: write %s)", hintMark, r, ascii)
		case r >= '０' && r <= '９', one && r >= '！' && r <= '～': // elsewhere in the line they may well be meant
			return fmt.Sprintf("%s%c, a full-width character: write %c)", hintMark, r, r-'！'+'!')
		case one && (r == '−' || r == '–' || r == '—'):
			return fmt.Sprintf("%s%c, a typographic dash: write -)", hintMark, r)
		}
	}
	return ""
}
