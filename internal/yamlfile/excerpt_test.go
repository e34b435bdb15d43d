package yamlfile

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestExcerpt(t *testing.T) {
	long := strings.Repeat("a", 200) + "X" + strings.Repeat("b", 200)
	for name, c := range map[string]struct {
		src       string
		line, col int
		want      string
	}{
		"ascii":            {"a: 1\nexpr: fil_pct > 3\n", 2, 7, "    expr: fil_pct > 3\n          ^\n"},
		"wide":             {"title: 消防通道 x\n", 1, 13, "    title: 消防通道 x\n                    ^\n"},
		"on a wide one":    {"消，防\n", 1, 2, "    消，防\n      ^\n"},
		"tabs":             {"\ta:\tb\n", 1, 5, "    \ta:\tb\n    \t  \t^\n"},
		"crlf, and a mark": {"\ufeffa: 1\r\nb: 2\r\n", 1, 4, "    a: 1\n       ^\n"},
		"past the end":     {"a:\n", 1, 9, "    a:\n      ^\n"},
		"combining":        {"e\u0301x: 1", 1, 3, "    e\u0301x: 1\n     ^\n"},
		"controls":         {"a\x1b[31mb: 1", 1, 7, "    a?[31mb: 1\n          ^\n"},
		"blank":            {"\n\n", 2, 1, ""},
		"no such line":     {"a: 1\n", 7, 1, ""},
		"no place":         {"a: 1\n", 0, 0, ""},
		"after the end":    {"a: 1\n", 2, 1, ""},
		"cut at both ends": {long, 1, 201, "    ..." + strings.Repeat("a", 45) + "X" + strings.Repeat("b", 48) + "...\n" + strings.Repeat(" ", 4+3+45) + "^\n"},
		"cut at the end":   {long, 1, 2, "    " + strings.Repeat("a", 97) + "...\n     ^\n"},
	} {
		t.Run(name, func(t *testing.T) {
			got := Excerpt([]byte(c.src), Pos{File: "f", Line: c.line, Col: c.col})
			if got != c.want {
				t.Errorf("got\n%q\nwant\n%q", got, c.want)
			}
		})
	}
	wide := strings.Repeat("消", 300)
	got := strings.Split(Excerpt([]byte(wide), Pos{Line: 1, Col: 150}), "\n")
	if w := width(got[0]); w > 104 || width(got[1][:len(got[1])-1])%2 != 1 {
		t.Errorf("%d cells: %q", w, got)
	}
}

func width(s string) (n int) {
	for _, r := range s {
		n += cells(r)
	}
	return n
}

func TestPrintErrors(t *testing.T) {
	es := Errors{{Pos: Pos{"a.yaml", 1, 4}, Msg: "wrong"}, {Pos: Pos{"gone.yaml", 3, 1}, Msg: "gone"}, {Pos: Pos{"a.yaml", 2, 1}, Msg: "too"}}
	reads := 0
	var out bytes.Buffer
	es.Print(&out, func(file string) ([]byte, error) {
		reads++
		if file != "a.yaml" {
			return nil, errors.New("no")
		}
		return []byte("a: 1\nb: 2\n"), nil
	})
	const want = "a.yaml:1:4: wrong\n    a: 1\n       ^\ngone.yaml:3:1: gone\na.yaml:2:1: too\n    b: 2\n    ^\n"
	if out.String() != want || reads != 2 {
		t.Errorf("%d reads, got\n%s", reads, out.String())
	}
}

func FuzzExcerpt(f *testing.F) {
	f.Add("a: \t消e\u0301\n", 1, 3)
	f.Fuzz(func(t *testing.T, src string, line, col int) {
		got := Excerpt([]byte(src), Pos{Line: line, Col: col})
		if got != "" && strings.Count(got, "\n") != 2 {
			t.Errorf("%q", got)
		}
	})
}
