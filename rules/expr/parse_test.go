package expr_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"linli/rules/expr"
)

// seeds are expressions of every form, for the tests below and the fuzzer.
func seeds() []string {
	return []string{
		"occupied and not authorised_vehicle",
		"fill_pct >= 90 or fill_pct < 3.5",
		"any(zone.smoke_detector.alarm)",
		"at_least(2, building.smoke_detector.alarm) and not active(FireConfirmed)",
		"duration_true(occupied, 24h) / 1m",
		"avg_over_time(noise_dba, 10m) > ${limit} and between(\"22:00\", '06:00')",
		"count(site.door.open) + 1 * 2 - 3 / 4 != -5",
		"a - (b - c) - d", "a / (b / c) / d", "-(a + b) * -c", "- -a",
		"not (a and b) or not not c", "(a or b) and c", "not a == b", "(a < b) == (c < d)",
		"1h30m + 500ms > 7d", "state == \"open\"", "true or false", "max(zone.x.y) >= 0.000001",
		"((((((a))))))", "hour() >= 8 and weekday() <= 5", "silent()",
		"count_over_time(card == \"refused\", 1m) >= 5 and not schedule(\"deposit_hours\")",
		"sequence(press, not press, ${gap}) or sequence(zone.x.a, b > 1, c, 30s)",
		"quantile_over_time(0.9, leq_dba, 10m) - leq(x, 1h) > abs(-3) * greatest(1, 2, least(a, b))",
		"integral(w, 1h) / 3600 + increase(kwh, 1d) + rate(n, 5m) >= 0.5",
		"max(absent_for(zone.smoke_detector.alarm)) > 10m or undecided(15m) and within(\"charging\")",
	}
}

func TestPrintedIsTheSameTree(t *testing.T) {
	for _, src := range seeds() {
		n, err := expr.Parse(src)
		if err != nil {
			t.Errorf("Parse(%q): %v", src, err)
			continue
		}
		printed := n.String()
		again, err := expr.Parse(printed)
		if err != nil {
			t.Errorf("Parse(%q), printed from %q: %v", printed, src, err)
			continue
		}
		if !expr.Same(n, again) {
			t.Errorf("%q prints as %q, which is another tree", src, printed)
		}
	}
}

func TestBinding(t *testing.T) {
	for src, want := range map[string]string{
		"a or b and c":          "a or b and c",
		"(a or b) and c":        "(a or b) and c",
		"not a and b":           "not a and b",
		"not (a and b)":         "not (a and b)",
		"not (a > 1)":           "not a > 1",
		"a - (b - c)":           "a - (b - c)",
		"(a - b) - c":           "a - b - c",
		"a*(b+c)":               "a * (b + c)",
		"(a < b)":               "a < b",
		"any( zone.x.y ,1)":     "any(zone.x.y, 1)",
		"90s":                   "1m30s",
		"'it is \"so\"' == x":   "'it is \"so\"' == x",
		"( 1 + 2 ) * 3 == nine": "(1 + 2) * 3 == nine",
	} {
		n, err := expr.Parse(src)
		if err != nil {
			t.Errorf("Parse(%q): %v", src, err)
		} else if n.String() != want {
			t.Errorf("Parse(%q) prints %q, want %q", src, n, want)
		}
	}
}

func TestSyntaxMistakes(t *testing.T) {
	cases := []struct {
		src    string
		offset int
		msg    string
	}{
		{"", 0, "the expression is empty"},
		{"a and", 5, "ends too early"},
		{"a && b", 2, "write `and`"},
		{"a || b", 2, "write `or`"},
		{"!a", 0, "write `not`"},
		{"a = 1", 2, "write `==`"},
		{"a ? b", 2, "no `?:`"},
		{"a > 90%", 6, "percent"},
		{"a ＞ 3", 2, "`＞` is a full-width character: write `>`"},
		{"（a）", 0, "`（` is a full-width character: write `(`"},
		{"a == 「b」", 5, "`「` is a full-width character: write `\"`"},
		{"！a", 0, "write `not`"},
		{"a AND b", 2, "`AND` is not an operator: write `and`"},
		{"a Or b", 2, "`Or` is not an operator: write `or`"},
		{"NOT a", 0, "`NOT` is not an operator: write `not`"},
		{"a > 2 min", 6, "write 2m, without a space"},
		{"a > 2 h", 6, "write 2h, without a space"},
		{"f(a, 30 seconds)", 8, "write 30s, without a space"},
		{"0 < a < 9", 6, "comparisons do not chain: write `0 < a and a <"},
		{"(a and b", 8, "not closed"},
		{"any(a", 5, "`any(` is not closed"},
		{"a b", 2, "unexpected \"b\""},
		{"a add b", 2, "unexpected \"add\", did you mean \"and\"?"},
		{"a > 3min", 4, "write 3m"},
		{"a > 3foo", 4, "unknown unit \"foo\""},
		{"a > 300mA", 4, "numbers carry no other unit"},
		{"a > 1.2.3", 4, "is not a number"},
		{"zone.smoke", 0, "scope.class.point"},
		{"zone.a.b.c", 0, "scope.class.point"},
		{"a == \"open", 5, "no closing"},
		{"${dwell", 0, "no closing `}`"},
		{"${a-b}", 0, "not a parameter's name"},
		{"a # b", 2, "unexpected character '#'"},
		{strings.Repeat("(", 100) + "a", 48, "nested more than"},
		{strings.Repeat("not ", 100) + "a", 188, "nested more than"},
		{"a" + strings.Repeat(" and a", 60), 290, "more than 48 operands"},
		{strings.Repeat(" ", 5000), expr.MaxSource, "longer than"},
	}
	for _, c := range cases {
		_, err := expr.Parse(c.src)
		var e *expr.Error
		if !errors.As(err, &e) {
			t.Errorf("Parse(%.40q) = %v, want an error with %q", c.src, err, c.msg)
			continue
		}
		if !strings.Contains(e.Msg, c.msg) || e.Offset != c.offset {
			t.Errorf("Parse(%.40q) = %d: %s, want %d: ...%s...", c.src, e.Offset, e.Msg, c.offset, c.msg)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range seeds() {
		f.Add(s)
	}
	f.Add(strings.Repeat("-", 300))
	f.Add("a.b(c.d.e)")
	f.Fuzz(func(t *testing.T, src string) {
		n, err := expr.Parse(src)
		if err != nil {
			var e *expr.Error
			if !errors.As(err, &e) || e.Offset < 0 || e.Offset > len(src) {
				t.Fatalf("Parse(%q): %v without a place in the text", src, err)
			}
			return
		}
		if len(n.String()) > expr.MaxSource {
			return // blanks around operators may carry a text over the limit
		}
		again, err := expr.Parse(n.String())
		if err != nil || !expr.Same(n, again) {
			t.Fatalf("%q prints as %q, which reads as %v, %v", src, n, again, err)
		}
		// Whatever parses can be checked against an empty site.
		expr.Check(n, &expr.Scope{}, expr.TypeBool)
	})
}

func TestDurations(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"30s": 30 * time.Second, "3m": 3 * time.Minute, "24h": 24 * time.Hour, "7d": 7 * 24 * time.Hour,
		"1h30m": 90 * time.Minute, "1.5h": 90 * time.Minute, "250ms": 250 * time.Millisecond, "0s": 0,
	} {
		got, err := expr.ParseDuration(s)
		if err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %v, %v, want %v", s, got, err, want)
		}
		if back, err := expr.ParseDuration(expr.FormatDuration(want)); err != nil || back != want {
			t.Errorf("FormatDuration(%v) = %q, which reads as %v, %v", want, expr.FormatDuration(want), back, err)
		}
	}
	for _, s := range []string{"", "3", "m", "3 m", "-3m", "3x", "400d", "1e9s", "99999999999999999999s", "3m5"} {
		if d, err := expr.ParseDuration(s); err == nil {
			t.Errorf("ParseDuration(%q) = %v, want an error", s, d)
		}
	}
}
