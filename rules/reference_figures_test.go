package rules_test

import (
	"fmt"
	"math"
	"strings"
)

// Random numbers for the rules of the reference test.

// figure returns a number that is about a feature, and false where there is none at s.
func (g *ruleMaker) figure(s seat, feature string) (figure, bool) {
	switch feature {
	case "number":
		if _, f := g.derived(s, false); f.text != "" && g.oneIn(2) {
			return f, true
		}
		return g.plain(s, "number", 10, 1.5)
	case "counter":
		return g.plain(s, "counter", 14, 10)
	case "+", "-", "*", "/":
		return g.arithmetic(s, feature)
	case "neg":
		f, ok := g.plain(s, "number", 10, 1.5)
		return figure{text: "-" + f.text, mid: -f.mid, spread: f.spread, exact: f.exact}, ok
	case "abs":
		f, ok := g.plain(s, "number", 10, 1.5)
		if g.oneIn(2) {
			f.text = "-" + f.text // below nought
			return figure{text: "abs(" + f.text + ")", mid: f.mid, spread: f.spread, exact: f.exact}, ok
		}
		return figure{text: "abs(" + f.text + " - 10)", mid: 1, spread: 1, exact: f.exact}, ok
	case "round":
		f, ok := g.plain(s, "number", 10, 1.5) // readings are quarters, so that rounding meets halves
		if g.oneIn(2) {
			f.text, f.mid = "-"+f.text, -f.mid
		}
		return figure{text: "round(" + f.text + ")", mid: f.mid, spread: f.spread, exact: f.exact}, ok
	case "greatest", "least":
		return g.extremes(s, feature)
	case "count":
		if s.group != "" {
			return figure{}, false
		}
		return figure{text: "count(" + g.inGroup(s) + ")", mid: 1, spread: 1.4, exact: true, whole: true}, true
	case "avg", "max", "min":
		return g.ofGroup(s, feature)
	case "hour":
		return figure{text: "hour()", mid: float64(g.hour), spread: 0.9, exact: true, whole: true}, true
	case "weekday":
		return figure{text: "weekday()", mid: float64(g.day), spread: 0.9, exact: true, whole: true}, true
	case "absent_for":
		p := g.anyPoint(s)
		return figure{text: "absent_for(" + p + ")", mid: 4, spread: 4, exact: true, duration: true}, p != ""
	}
	return g.overTime(s, feature)
}

func (g *ruleMaker) plain(s seat, sort string, mid, spread float64) (figure, bool) {
	p := g.point(s, sort)
	return figure{text: p, mid: mid, spread: spread, exact: true}, p != ""
}

func (g *ruleMaker) arithmetic(s seat, op string) (figure, bool) {
	a, ok := g.figure(s, pick(g.Rand, "number", "number", "number", "avg_over_time", "count", "abs"))
	if !ok || a.duration || strings.Contains(a.text, "/") {
		return figure{}, false
	}
	b, ok := g.figure(s, "number")
	if !ok || g.oneIn(3) {
		b = figure{text: pick(g.Rand, "2", "0.5", "4", "-2"), exact: true}
		_, _ = fmt.Sscan(b.text, &b.mid)
	}
	if op == "/" && math.Abs(b.mid) < 0.25 {
		return figure{}, false
	}
	f := figure{text: "(" + a.text + " " + op + " " + b.text + ")", spread: a.spread + b.spread, exact: a.exact && b.exact}
	switch op {
	case "+":
		f.mid = a.mid + b.mid
	case "-":
		f.mid = a.mid - b.mid
	case "*":
		f.mid, f.spread = a.mid*b.mid, 3+math.Abs(a.mid*b.mid)/6
	case "/":
		f.mid, f.spread, f.exact = a.mid/b.mid, 0.2+math.Abs(a.mid/b.mid)/6, false
		if b.exact && g.oneIn(4) { // a divisor that may be nought
			f.text, f.mid, f.spread = "("+a.text+" / ("+b.text+" - "+fmt.Sprint(b.mid)+"))", 0, 15
		}
	}
	return f, true
}

func (g *ruleMaker) extremes(s seat, fn string) (figure, bool) {
	out := figure{exact: true}
	parts := []string{}
	for range 2 + g.IntN(2) {
		f, ok := g.figure(s, pick(g.Rand, "number", "number", "avg_over_time"))
		if !ok || f.duration {
			return figure{}, false
		}
		if !f.exact { // so that rounding does not decide between two that are the same
			f.text = "(" + f.text + " + 0.0137)"
		}
		parts = append(parts, f.text)
		out.exact = out.exact && f.exact
		out.mid, out.spread = f.mid, f.spread
	}
	out.text = fn + "(" + strings.Join(parts, ", ") + ")"
	return out, true
}

func (g *ruleMaker) ofGroup(s seat, fn string) (figure, bool) {
	if s.group != "" {
		return figure{}, false
	}
	inside := g.group(s)
	for range 8 {
		f, ok := g.figure(inside, pick(g.Rand, "number", "number", "counter", "avg_over_time", "+", "duration_true"))
		if ok && strings.Contains(f.text, inside.group+".") {
			f.text, f.exact = fn+"("+f.text+")", f.exact && fn != "avg"
			return f, true
		}
	}
	return figure{}, false
}

// overTime returns a number over time.
func (g *ruleMaker) overTime(s seat, fn string) (figure, bool) {
	if s.window {
		return figure{}, false
	}
	s.window = true
	text, length := g.window()
	switch fn {
	case "duration_true":
		f := figure{mid: length / 2, spread: length / 2, duration: true}
		f.text = fmt.Sprintf("duration_true(%s, %s)", g.followable(s), text)
		if g.oneIn(4) {
			f.text, f.duration = "("+f.text+" / 1s)", false
		}
		return f, true
	case "count_over_time":
		f := figure{text: fmt.Sprintf("count_over_time(%s, %s)", g.occasion(s), text), mid: length / 8, spread: 1.5 + length/10}
		f.exact, f.whole = true, true
		return f, true
	case "changes":
		p := g.point(s, pick(g.Rand, "number", "bool", "enum", "counter"))
		f := figure{text: fmt.Sprintf("changes(%s, %s)", p, text), mid: length / 4, spread: 1.5 + length/6, exact: true, whole: true}
		return f, p != ""
	case "increase", "rate":
		p := g.point(s, "counter")
		f := figure{text: fmt.Sprintf("%s(%s, %s)", fn, p, text), mid: length / 2, spread: length / 2}
		if fn == "rate" {
			f.mid, f.spread = 0.5, 0.5
		}
		return f, p != ""
	}
	x, ok := g.figure(s, pick(g.Rand, "number", "number", "number", "counter", "max", "+"))
	if !ok || x.duration {
		return figure{}, false
	}
	f := figure{text: fmt.Sprintf("%s(%s, %s)", fn, x.text, text), mid: x.mid, spread: x.spread}
	switch fn {
	case "max_over_time":
		f.mid, f.exact = x.mid+x.spread/2, x.exact
	case "min_over_time":
		f.mid, f.exact = x.mid-x.spread/2, x.exact
	case "avg_over_time":
		f.spread /= 2
	case "leq":
		if math.Abs(x.mid) > 100 {
			return figure{}, false // beyond any level
		}
	case "delta":
		f.mid = 0
	case "integral":
		f.mid, f.spread = x.mid*length, x.spread*length/2
	case "quantile_over_time":
		// No share that a number of seconds could hit exactly.
		f.text = fmt.Sprintf("quantile_over_time(%s, %s, %s)", pick(g.Rand, "0.1371", "0.5037", "0.9131", "${share}", "1"), x.text, text)
		f.exact = x.exact
	default:
		return figure{}, false
	}
	return f, true
}

// followable is a condition to be followed over time.
func (g *ruleMaker) followable(s seat) string {
	if s.group == "" && g.oneIn(4) {
		return g.condition(s, 1)
	}
	return g.about(s, pick(g.Rand, "bool", "bool", "number", "number", "enum", "any", "active"))
}
