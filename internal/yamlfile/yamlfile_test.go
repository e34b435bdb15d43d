package yamlfile_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"linli/internal/telemetry"
	"linli/internal/yamlfile"
)

// point has a short form, as bindings in the site file do.
type point struct {
	From   yamlfile.At[string] `yaml:"from,required"`
	Invert bool                `yaml:"invert"`
}

func (p *point) UnmarshalYAMLFile(n *yamlfile.Node) error {
	if n.IsScalar() {
		return n.Decode(&p.From)
	}
	type plain point
	return n.Decode((*plain)(p))
}

type sample struct {
	Pos    yamlfile.Pos `yaml:",pos"`
	Common struct {
		Title telemetry.Text `yaml:"title"`
	} `yaml:",inline"`
	ID      yamlfile.At[string]            `yaml:"id,required"`
	Count   int                            `yaml:"count"`
	Small   uint16                         `yaml:"small"`
	Scale   *float64                       `yaml:"scale"`
	On      bool                           `yaml:"on"`
	Every   time.Duration                  `yaml:"every"`
	Tags    []string                       `yaml:"tags"`
	Names   []yamlfile.At[string]          `yaml:"names"`
	Params  map[string]yamlfile.At[string] `yaml:"params"`
	Points  yamlfile.Map[point]            `yaml:"points"`
	Label   yamlfile.Text                  `yaml:"label"`
	Options *yamlfile.Node                 `yaml:"options"`
	Zones   []zone                         `yaml:"zones"`
	Ignored string
}

type zone struct {
	Pos   yamlfile.Pos `yaml:",pos"`
	ID    string       `yaml:"id,required"`
	Title string       `yaml:"title"`
}

func TestDecode(t *testing.T) {
	src := "\ufeff" + `# 邻里
id: gate
title: {zh: 大门, en: Gate}
count: 0x7FFF
small: 65_535
scale: -2.5e3
on: true
every: 1d12h
tags: [a, "5", 7, 消防]
names:
  - 东门
  - west
params:
  dwell: 3m
  level: 80
points:
  open: io1.di3
  tamper: {from: io1.di4, invert: true}
label: 东门
options: {a: 1}
zones:
  - id: b1
    title: |
      two
      lines
  - {title: "x", id: b2}
`
	for _, nl := range []string{"\n", "\r\n"} {
		var got sample
		if err := yamlfile.Decode("f.yaml", []byte(strings.ReplaceAll(src, "\n", nl)), &got); err != nil {
			t.Fatal(err)
		}
		at := func(line, col int) yamlfile.Pos { return yamlfile.Pos{File: "f.yaml", Line: line, Col: col} }
		str := func(v string, line, col int) yamlfile.At[string] {
			return yamlfile.At[string]{Value: v, Pos: at(line, col)}
		}
		scale := -2500.0
		want := sample{
			Pos:    at(2, 1),
			ID:     str("gate", 2, 5),
			Count:  0x7FFF,
			Small:  65535,
			Scale:  &scale,
			On:     true,
			Every:  36 * time.Hour,
			Tags:   []string{"a", "5", "7", "消防"},
			Names:  []yamlfile.At[string]{str("东门", 11, 5), str("west", 12, 5)},
			Params: map[string]yamlfile.At[string]{"dwell": str("3m", 14, 10), "level": str("80", 15, 10)},
			Points: yamlfile.Map[point]{
				{Key: str("open", 17, 3), Value: point{From: str("io1.di3", 17, 9)}},
				{Key: str("tamper", 18, 3), Value: point{From: str("io1.di4", 18, 18), Invert: true}},
			},
			Label: yamlfile.Text{Text: telemetry.Text{Zh: "东门", En: "东门"}},
			Zones: []zone{{at(22, 5), "b1", "two\nlines\n"}, {at(26, 5), "b2", "x"}},
		}
		want.Common.Title = telemetry.Text{Zh: "大门", En: "Gate"}
		if got.Options == nil || !got.Options.IsMap() || got.Options.Pos != at(20, 10) {
			t.Errorf("options: got %+v", got.Options)
		}
		got.Options = nil
		if !reflect.DeepEqual(got, want) {
			t.Errorf("line ends %q:\ngot  %+v\nwant %+v", nl, got, want)
		}
		if p, ok := got.Points.Get("tamper"); !ok || !p.Invert {
			t.Errorf("Get(tamper) = %v, %v", p, ok)
		}
	}
}

func TestMistakes(t *testing.T) {
	deep := strings.Repeat("[", 100_000)
	tests := map[string]struct{ src, want string }{
		"several at once, in order": {
			"id: [x]\ncuont: 1\nevery: 5\non: yes\n",
			`f.yaml:1:5: expected a text, got a list
f.yaml:2:1: unknown key "cuont", did you mean "count"?
f.yaml:3:8: expected a duration such as 30s or 5m, got 5: the unit is missing
f.yaml:4:5: expected true or false, got yes`},
		"columns count characters": {
			"title: {zh: 消防通道, en: Lane, zhh: 通道}\nid: a\n",
			`f.yaml:1:29: unknown key "zhh", did you mean "zh"?`},
		"unknown key far from all known ones": {
			"id: a\nzones: [{id: z, wallpaper: 1}]\n",
			`f.yaml:2:17: unknown key "wallpaper" (known here: id, title)`},
		"missing key":              {"count: 1\nzones:\n  - title: x\n", "f.yaml:1:1: missing key \"id\"\nf.yaml:3:5: missing key \"id\""},
		"empty":                    {"", `f.yaml:1:1: missing key "id"`},
		"only a comment":           {"# nothing\n", `f.yaml:1:1: missing key "id"`},
		"duplicate key":            {"id: a\ncount: 1\nid: b\n", `f.yaml:3:1: duplicate key "id", first in line 1`},
		"duplicate key in a map":   {"id: a\nparams: {x: 1, x: 2}\n", `f.yaml:2:16: duplicate key "x", first in line 2`},
		"duplicate key in a Map":   {"id: a\npoints:\n  p: x\n  p: y\n", `f.yaml:4:3: duplicate key "p", first in line 3`},
		"error below Unmarshaler":  {"id: a\npoints:\n  p: {form: x}\n", "f.yaml:3:6: missing key \"from\"\nf.yaml:3:7: unknown key \"form\", did you mean \"from\"?"},
		"nothing behind a scalar":  {"id:\n", `f.yaml:1:1: expected a text, got nothing`},
		"nothing behind a point":   {"id: a\npoints:\n  p:\n", `f.yaml:3:3: a value is missing here`},
		"out of range":             {"id: a\nsmall: 65536\n", `f.yaml:2:8: 65536 is out of range (0 to 65535)`},
		"negative":                 {"id: a\nsmall: -1\n", `f.yaml:2:8: -1 is out of range (0 to 65535)`},
		"not whole":                {"id: a\ncount: 1.5\n", `f.yaml:2:8: expected a whole number, got 1.5`},
		"quoted number":            {"id: a\ncount: \"5\"\n", `f.yaml:2:8: expected a whole number, got the text "5": write it without quotes`},
		"leading zero":             {"id: a\ncount: 010\n", `f.yaml:2:8: 010: a leading zero is ambiguous, leave it out (octal is written 0o17)`},
		"not a number":             {"id: a\nscale: .nan\n", `f.yaml:2:8: expected a number, got .nan`},
		"infinite":                 {"id: a\nscale: inf\n", `f.yaml:2:8: expected a number, got inf`},
		"too large":                {"id: a\nscale: 1e999\n", `f.yaml:2:8: 1e999 is out of range (too large to be held)`},
		"list for mapping":         {"id: a\npoints: [x]\n", `f.yaml:2:9: expected a mapping, got a list`},
		"mapping for list":         {"id: a\ntags: {a: 1}\n", `f.yaml:2:7: expected a list, got a mapping`},
		"scalar for list":          {"id: a\ntags: a\n", `f.yaml:2:7: expected a list, got a`},
		"label":                    {"id: a\nlabel: [a]\n", `f.yaml:2:8: expected a text or {zh: ..., en: ...}, got a list`},
		"top level list":           {"- id: a\n", `f.yaml:1:1: expected a mapping, got a list`},
		"no space after the colon": {"id:a\n", `f.yaml:1:1: expected a mapping, got id:a: is a space missing after "id:"?`},
		"duration in words":        {"id: a\nevery: five minutes\n", `f.yaml:2:8: expected a duration such as 30s or 5m, got "five minutes"`},

		"tab":                     {"id: a\ntitle:\n\tzh: x\n", `f.yaml:3:1: a tab cannot be used for indentation: use spaces`},
		"indented deeper":         {"id: a\n  count: 1\n", `f.yaml:2:3: this line is indented deeper than the one above it, which already has its value`},
		"indented between levels": {"title:\n    zh: x\n  en: y\n", `f.yaml:3:3: this does not belong here: check the indentation, which must match the lines above`},
		"two colons":              {"id: a: b\n", `f.yaml:1:5: a second ": " on one line: put the value in quotes if it is a text`},
		"two colons in braces":    {"title: {zh: a, en: a: b}\nid: x\n", `f.yaml:1:20: a second ": " in one value: put the value in quotes if it is a text`},
		"full-width comma":        {"title: {zh: 单元门，en: Entrance door}\nid: x\n", `f.yaml:1:13: the next key has run into this value, because ， is a full-width comma: write , (or put the value in quotes if it is a text)`},
		"both full-width":         {"title: {zh: 单元门，en：Entrance}\nid: x\n", `f.yaml:1:13: the next key has run into this value, because ， is a full-width comma: write , (or put the value in quotes if it is a text)`},
		"full-width colon":        {"id: a\ncount：1\nevery: 5s\n", `f.yaml:2:1: expected key: value here, as in the lines above (here stands ：, a full-width character: write :)`},
		"full-width colon, alone": {"id：a\n", `f.yaml:1:1: expected a mapping, got id：a (here stands ：, a full-width character: write :)`},
		"full-width space":        {"id: a\n\u3000count: 1\n", `f.yaml:2:1: unknown key "\u3000count", did you mean "count"? (here stands a full-width space, U+3000: write an ordinary one)`},
		"no-break space":          {"id: a\ncount:\u00a01\n", `f.yaml:2:1: expected key: value here, as in the lines above (here stands a no-break space, U+00A0: write an ordinary one)`},
		"full-width number sign":  {"id: a\ncount: 1 ＃ 注\n", `f.yaml:2:8: expected a whole number, got 1 ＃ 注 (here stands ＃, a full-width character: write #)`},
		"full-width brackets":     {"id: a\ntags: 【a】\n", `f.yaml:2:7: expected a list, got 【a】 (here stands 【, a full-width character: write [)`},
		"full-width braces":       {"id: a\nzones: ［｛id: b｝］\n", `f.yaml:2:8: a second ": " on one line: put the value in quotes if it is a text (here stands ［, a full-width character: write [)`},
		"typographic quotes":      {"id: a\nevery: “5s”\n", `f.yaml:2:8: expected a duration such as 30s or 5m, got "“5s”" (here stands “, a typographic quotation mark: write ")`},
		"full-width digits":       {"id: a\ncount: １５\n", `f.yaml:2:8: expected a whole number, got １５ (here stands １, a full-width character: write 1)`},
		"elsewhere in the line":   {"id: a\nzones: [{id: b, title: 东门，北侧, kind: x}]\n", `f.yaml:2:31: unknown key "kind" (known here: id, title)`},
		"in quotes, in a comment": {"id: a\nlabel: {zh: \"东门，北侧\", xy: 1} # 东门，北侧\n", `f.yaml:2:22: unknown key "xy" (known here: zh, en)`},
		"a language's other name": {"id: a\ntitle: {cn: 门, en: Door}\n", `f.yaml:2:9: unknown key "cn", did you mean "zh"?`},
		"open quote":              {"id: \"a\ncount: 1\n", `f.yaml:1:5: this quoted text has no closing quote`},
		"open bracket":            {"tags: [a, b\nid: c\n", `f.yaml:2:1: a , or ] is missing before this`},
		"open brace":              {"title: {zh: a\n", `f.yaml:1:8: this { has no closing }`},
		"stray bracket":           {"id: ]\n", `f.yaml:1:5: there is no '[' character corresponding to ']'`},
		"reserved character":      {"id: @home\n", `f.yaml:1:5: a value cannot begin with @: put it in quotes`},
		"percent":                 {"id: %x\n", `f.yaml:1:5: a value cannot begin with %: put it in quotes`},
		"list among keys":         {"id: a\n- b\n", `f.yaml:2:1: a list item (-) cannot stand here, between keys`},
		"no key":                  {"id: a\nword\ncount: 1\n", `f.yaml:2:1: expected key: value here, as in the lines above`},
		"alias":                   {"id: *x\n", `f.yaml:1:5: YAML anchors and aliases (& and *) are not used here: write the value out, or put it in quotes if it is a text`},
		"anchor":                  {"id: &x a\n", `f.yaml:1:5: YAML anchors and aliases (& and *) are not used here: write the value out, or put it in quotes if it is a text`},
		"merge":                   {"<<: a\n", `f.yaml:1:1: YAML merge keys (<<) are not used here: write the keys out`},
		"tag":                     {"id: !!str 5\n", `f.yaml:1:5: YAML tags (!) are not used here: put the value in quotes if it is a text`},
		"directive":               {"%YAML 1.2\n---\nid: a\n", `f.yaml:1:1: YAML directives (%) are not used here`},
		"question mark":           {"? id\n: a\n", `f.yaml:1:1: YAML keys with ? are not used here: write key: value`},
		"second document":         {"id: a\n---\nid: b\n", `f.yaml:2:1: a second document begins here: one file holds one document`},
		"not UTF-8":               {"id: a\ncount: \"\xb5\"\n", `f.yaml:2:9: not valid UTF-8: save the file as UTF-8`},
		"binary":                  {"id: a\x00\n", `f.yaml:1:6: a zero byte: this is not a text file`},
		"deep flow":               {"id: " + deep, `f.yaml:1:68: nested too deeply (more than 64 levels)`},
		"deep block":              {strings.Repeat("- ", 100_000), `f.yaml:1:129: nested too deeply (more than 64 levels)`},
		"too many keys, lists":    {strings.Repeat("k:\n- v\n", 10_001), `f.yaml:20001:2: more than 10000 keys in one mapping`},
		"too many keys":           {strings.Repeat("k: v\n", 10_001), `f.yaml:10001:2: more than 10000 keys in one mapping`},
		"too large file":          {strings.Repeat("#", yamlfile.MaxSize+1), `f.yaml:1:1: the file is too large: 4194305 bytes, at most 4194304`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var v sample
			err := yamlfile.Decode("f.yaml", []byte(test.src), &v)
			if err == nil {
				t.Fatalf("no error, want\n%s", test.want)
			}
			if got := err.Error(); got != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
			var es yamlfile.Errors
			if !errors.As(err, &es) {
				t.Errorf("error is %T, want Errors", err)
			}
		})
	}
}

// What is right is decoded although something else is wrong, so that later checks find their mistakes too.
func TestDecodeGoesOn(t *testing.T) {
	var v sample
	err := yamlfile.Decode("f.yaml", []byte("id: a\ncount: x\nzones: [{id: b, no: 1}, {id: c}]\n"), &v)
	if err == nil || v.ID.Value != "a" || len(v.Zones) != 2 || v.Zones[1].ID != "c" {
		t.Errorf("got %+v, %v", v, err)
	}
}

// A value that has swallowed a key does not hide the mistakes in the rest of the file.
func TestSwallowedKeyIsNotTheEnd(t *testing.T) {
	var v sample
	err := yamlfile.Decode("f", []byte("id: a\ntitle: {zh: 门，en: Door}\ncount: x\n"), &v)
	var es yamlfile.Errors
	if !errors.As(err, &es) || len(es) != 2 || es[0].Pos.Line != 2 || es[1].Pos.Line != 3 || v.ID.Value != "a" {
		t.Errorf("got %v", err)
	}
}

// The places after texts over several lines, comments and blank lines are where an editor shows them.
func TestPositions(t *testing.T) {
	src := `a: "x
  y"
b: 'it''s'   # 注释
c: >-
  folded
  text

d: plain
  goes on
e:   中文 值
f: [一, 二,
  三]
g:
- 1
-   2
"引 号": 3
last: here
`
	var v map[string]yamlfile.At[*yamlfile.Node]
	if err := yamlfile.Decode("f", []byte(src), &v); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"a": "f:1:4", "b": "f:3:4", "c": "f:4:4", "d": "f:8:4", "e": "f:10:6", "f": "f:11:4", "g": "f:14:1", "引 号": "f:16:8", "last": "f:17:7"}
	for k, w := range want {
		if got := v[k].Pos.String(); got != w {
			t.Errorf("%s: got %s, want %s", k, got, w)
		}
	}
	if got := v["f"].Value.Items()[2].Pos.String(); got != "f:12:3" {
		t.Errorf("third item: got %s", got)
	}
	if got := v["g"].Value.Items()[1].Pos.String(); got != "f:15:5" {
		t.Errorf("second item: got %s", got)
	}
	if got := v["b"].Value.Scalar(); got != "it's" {
		t.Errorf("b: got %q", got)
	}
	if !v["c"].Value.Quoted() || v["c"].Value.Scalar() != "folded text" {
		t.Errorf("c: got %q", v["c"].Value.Scalar())
	}
}

func TestParseDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"30s": 30 * time.Second, "300ms": 300 * time.Millisecond, "1h30m": 90 * time.Minute, "0": 0, "0s": 0,
		"1d": 24 * time.Hour, "1d12h": 36 * time.Hour, "0.5d": 12 * time.Hour, "14d": 14 * 24 * time.Hour,
		"-5s": -5 * time.Second, "-1d12h": -36 * time.Hour,
	} {
		if got, err := yamlfile.ParseDuration(in); err != nil || got != want {
			t.Errorf("%s: got %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "5", "d", "5 s", "xd", "nand", "1e9d", "99999999h", "99999d2000000h", "5m1d", "五分钟"} {
		if got, err := yamlfile.ParseDuration(in); err == nil {
			t.Errorf("%q: got %v, want an error", in, got)
		}
	}
}

func TestSuggest(t *testing.T) {
	known := []string{"smoke_detector", "heat_detector", "door", "call_button", "poll"}
	for name, want := range map[string]string{
		"smoke_detecter": `, did you mean "smoke_detector"?`,
		"smokedetector":  `, did you mean "smoke_detector"?`,
		"dor":            `, did you mean "door"?`,
		"dooor":          `, did you mean "door"?`,
		"opll":           `, did you mean "poll"?`,
		"POLL":           `, did you mean "poll"?`,
		"heat_smoke":     "",
		"window":         "",
		"":               "",
		"x":              "",
	} {
		if got := yamlfile.Suggest(name, known); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

// Of two equally near names both are told; of more, the first of the list.
func TestSuggestTies(t *testing.T) {
	for name, want := range map[string]string{
		"d1":  `, did you mean "di1" or "do1"?`,
		"di9": `, did you mean "di1"?`,
		"do2": `, did you mean "di2" or "do1"?`,
	} {
		if got := yamlfile.Suggest(name, []string{"di1", "di2", "di3", "do1"}); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

// The key that was probably meant is told to the program too, so that nothing is said about what is missing without it.
func TestNear(t *testing.T) {
	var v sample
	var es yamlfile.Errors
	if !errors.As(yamlfile.Decode("f", []byte("id: a\nzonez: []\nwallpaper: 1\n"), &v), &es) || len(es) != 2 || es[0].Near != "zones" || es[1].Near != "" {
		t.Errorf("got %v", es)
	}
}

// A mistake that two checks found is told once.
func TestErrOnce(t *testing.T) {
	var es yamlfile.Errors
	for range 2 {
		es.Addf(yamlfile.Pos{File: "f", Line: 2, Col: 1}, "b")
		es.Addf(yamlfile.Pos{File: "f", Line: 1, Col: 1}, "a")
	}
	if got := es.Err().Error(); got != "f:1:1: a\nf:2:1: b" {
		t.Errorf("got %q", got)
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		"id: a\nzones:\n  - {id: b}\n", "a: |\n  x\n", "a: [", "\t", "? a", "a: \"\\u00", "- - - a", "{a: {b: [c]}}", "a: >+2\n x", "---\n...\n---",
		"a: &x\n *x", "!!a", "%", "'", "\r", "a:\r b", ": :", "- : -", "[,]", "{:}", "消: 防", "title: {zh: 大门}", "points:\n  p: {from: x}\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		var v sample
		err := yamlfile.Decode("f", src, &v)
		if err == nil {
			return
		}
		var es yamlfile.Errors
		if !errors.As(err, &es) {
			t.Fatalf("error is %T", err)
		}
		for _, e := range es {
			if e.Pos.Line < 1 || e.Pos.Col < 1 || e.Msg == "" {
				t.Errorf("bad mistake: %v", e)
			}
		}
	})
}
