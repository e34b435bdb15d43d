package ruletest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"linli/internal/telemetry"
)

var (
	cardDef  = &telemetry.PointDef{Name: "card", Kind: telemetry.KindText}
	powerDef = &telemetry.PointDef{Name: "power_w", Kind: telemetry.Float}
)

func TestSeries(t *testing.T) {
	for _, c := range []struct {
		text string
		def  *telemetry.PointDef
		want string
	}{
		{`"a" "b" "a"&"a"`, cardDef, "0 a, 1 b, 2 a, 2 a; 3"},
		{`"a&a" "a b" x2`, cardDef, "0 a&a, 1 a b, 2 a b; 3"},
		{`"a"@-30s _ ""`, cardDef, "0 a 30s ago, 2 ; 3"},
		{"1&2 x2\n\t3@-5s", powerDef, "0 1, 0 2, 1 1, 1 2, 2 3 5s ago; 3"},
	} {
		entries, steps, err := parseSeries(c.text, c.def)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		var got []string
		for _, e := range entries {
			v := e.value.Text()
			if c.def == powerDef {
				v = fmt.Sprint(e.value.Float())
			}
			if e.late > 0 {
				v += " " + e.late.Round(time.Second).String() + " ago"
			}
			got = append(got, fmt.Sprintf("%d %s", e.step, v))
		}
		if s := fmt.Sprintf("%s; %d", strings.Join(got, ", "), steps); s != c.want {
			t.Errorf("%s: got %q, want %q", c.text, s, c.want)
		}
	}
}

func TestMistakesInASeries(t *testing.T) {
	for _, c := range []struct {
		text   string
		def    *telemetry.PointDef
		offset int
		want   string
	}{
		{"1 x 4", powerDef, 2, "write x4, without a space"},
		{"1 - 2", powerDef, 2, "write _ where there is no sample"},
		{"1 bad x3", powerDef, 2, "write bad_comm"},
		{"1 bad_com", powerDef, 2, `did you mean "bad_comm"?`},
		{"x4 1", powerDef, 0, "repeats nothing"},
		{"1 x2 x2", powerDef, 5, "repeats nothing"},
		{"1 2& 3", powerDef, 2, "a value stands on both sides"},
		{"1 2&&3", powerDef, 2, "a value stands on both sides"},
		{"1 2&no", powerDef, 4, `"no" is not a value of power_w`},
		{`"a" "b`, cardDef, 4, "not closed"},
		{`"a" "b""c"`, cardDef, 4, "not one text"},
	} {
		_, _, err := parseSeries(c.text, c.def)
		var at *seriesError
		if !errors.As(err, &at) || at.offset != c.offset || !strings.Contains(at.msg, c.want) {
			t.Errorf("%s: got %+v, want %q at %d", c.text, err, c.want, c.offset)
		}
	}
}

func FuzzSeries(f *testing.F) {
	f.Add(`1 "a"&2@-3s x4 _`)
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 200 || strings.Contains(s, "x") {
			return
		}
		for _, def := range []*telemetry.PointDef{cardDef, powerDef} {
			_, _, err := parseSeries(s, def)
			var at *seriesError
			if err != nil && (!errors.As(err, &at) || at.offset < 0 || at.offset > len(s)) {
				t.Errorf("%q: %v", s, err)
			}
		}
	})
}
