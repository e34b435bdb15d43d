package rules_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
)

// Random rules, well typed, with limits near the values that the series have, so that conditions flip.

// features is what a rule may be about; each is the turn of some rule again and again.
var features = [...]string{
	"bool", "enum", "text", "number", "any", "all", "at_least", "count", "avg", "max", "min", "active", "silent", "no_reading",
	"no_protection", "faulty", "is_a", "life_safety", "bad", "known", "provided", "between", "hour", "weekday", "schedule", "within",
	"+", "-", "*", "/", "neg", "abs", "round", "greatest", "least", "absent_for", "undecided", "sequence", "duration_true", "avg_over_time",
	"max_over_time", "min_over_time", "changes", "delta", "integral", "count_over_time", "increase", "rate", "quantile_over_time",
	"leq", "number", "duration_true", "count_over_time", "sequence", "increase",
}

// seat is where an expression stands.
type seat struct {
	class  string // of the subject, whose points are named bare
	device bool   // the subject is a device
	group  string // "zone.beta" inside a function over a group
	window bool   // inside a function over time
	last   bool   // in a rule that nobody needs
}

// figure is a number as the generator writes it: its text, about what it is, and whether it is computed exactly.
type figure struct {
	text        string
	mid, spread float64
	exact       bool
	whole       bool // a count
	duration    bool
}

// made is a derived point that rules may read.
type made struct {
	class, name string
	condition   bool
	figure      figure
}

type ruleMaker struct {
	*rand.Rand
	alerts  []string
	records []made
	hour    int // at which the series begins
	day     int
	minute  int
	turn    int
}

func (g *ruleMaker) oneIn(n int) bool { return g.IntN(n) == 0 }

func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

// pointNames are the points of each class, by what they are.
var pointNames = map[string]map[string][]string{
	"alpha": {"bool": {"gate", "alarm", "fault"}, "number": {"level", "flow", "limit"}, "enum": {"mode"}, "text": {"note"},
		"event": {"press"}, "counter": {"total"}},
	"beta": {"bool": {"on"}, "number": {"temp"}, "enum": {"state"}, "event": {"card"}, "counter": {"kwh"}},
}

// point returns a point of the sort that may be named at s, "" where there is none.
func (g *ruleMaker) point(s seat, sort string) string {
	class, prefix := s.class, ""
	if s.group != "" && (class == "" || !g.oneIn(5)) {
		prefix = s.group + "."
		_, class, _ = strings.Cut(s.group, ".")
	}
	names := pointNames[class][sort]
	if len(names) == 0 {
		return ""
	}
	return prefix + pick(g.Rand, names...)
}

// derived returns a derived point that may be named at s.
func (g *ruleMaker) derived(s seat, condition bool) (string, figure) {
	class, prefix := s.class, ""
	if s.group != "" {
		prefix = s.group + "."
		_, class, _ = strings.Cut(s.group, ".")
	}
	for range 3 {
		if len(g.records) == 0 {
			break
		}
		if m := pick(g.Rand, g.records...); m.class == class && m.condition == condition {
			m.figure.text = prefix + m.name
			return m.figure.text, m.figure
		}
	}
	return "", figure{}
}

// anyPoint is for functions that ask whether there is a value.
func (g *ruleMaker) anyPoint(s seat) string {
	if name, _ := g.derived(s, g.oneIn(2)); name != "" && g.oneIn(3) {
		return name
	}
	for range 10 {
		if p := g.point(s, pick(g.Rand, "bool", "number", "enum", "text", "counter")); p != "" {
			return p
		}
	}
	return ""
}

// group opens a group for a function over devices.
func (g *ruleMaker) group(s seat) seat {
	s.group = pick(g.Rand, "zone", "zone", "site", "site", "building", "floor", "garage") + "." + pick(g.Rand, "alpha", "beta")
	return s
}

// window is a length of time and its seconds.
func (g *ruleMaker) window() (string, float64) {
	n := 2 + g.IntN(18)
	switch g.IntN(12) {
	case 0:
		n = 80 + g.IntN(200)
	case 1, 2, 3:
		n = 20 + g.IntN(60)
	case 4:
		return "${dwell}", 7
	}
	return strconv.Itoa(n) + "s", float64(n)
}

// condition returns a random condition.
func (g *ruleMaker) condition(s seat, depth int) string {
	if depth > 0 {
		switch g.IntN(6) {
		case 0:
			return "(" + g.condition(s, depth-1) + " and " + g.condition(s, depth-1) + ")"
		case 1:
			return "(" + g.condition(s, depth-1) + " or " + g.condition(s, depth-1) + ")"
		case 2:
			return "not (" + g.condition(s, depth-1) + ")"
		}
	}
	return g.about(s, pick(g.Rand, features[:]...))
}

// about returns a condition about a feature, or about something near it where s does not allow that. Something that is
// about the devices of a group names one of their points.
func (g *ruleMaker) about(s seat, feature string) string {
	for try := 0; ; try++ {
		text := ""
		if text = g.yesNo(s, feature); text == "" {
			if f, ok := g.figure(s, feature); ok {
				text = g.comparison(s, f)
			}
		}
		if text != "" && (s.group == "" || strings.Contains(text, s.group+".")) {
			return text
		}
		switch {
		case s.group == "" && s.class == "" && try > 2:
			feature = pick(g.Rand, "any", "all", "count", "max", "at_least")
		default:
			feature = pick(g.Rand, "bool", "number", "number", "known", "counter")
		}
	}
}

func (g *ruleMaker) yesNo(s seat, feature string) string {
	switch feature {
	case "bool":
		if name, _ := g.derived(s, true); name != "" && g.oneIn(3) {
			return name
		}
		if g.oneIn(40) && s.group == "" {
			return pick(g.Rand, "true", "false")
		}
		return g.point(s, "bool")
	case "enum":
		if p := g.point(s, "enum"); p != "" {
			return p + pick(g.Rand, " == ", " != ") + pick(g.Rand, `"idle"`, `"run"`, `"trip"`)
		}
	case "text":
		if p := g.point(s, "text"); p != "" {
			if g.oneIn(2) {
				return pick(g.Rand, `"a"`, `"b"`) + pick(g.Rand, " == ", " != ") + p
			}
			return p + pick(g.Rand, " == ", " != ") + pick(g.Rand, `"a"`, `"b"`, `"${word}"`)
		}
	case "any", "all", "at_least":
		if s.group != "" {
			return ""
		}
		inner := g.inGroup(s)
		if feature == "at_least" {
			return "at_least(" + pick(g.Rand, "1", "2", "2", "3") + ", " + inner + ")"
		}
		return feature + "(" + inner + ")"
	case "active":
		if len(g.alerts) > 0 {
			return "active(" + pick(g.Rand, g.alerts...) + ")"
		}
	case "silent", "no_reading", "no_protection", "faulty", "life_safety":
		if s.device {
			return feature + "()"
		}
	case "is_a":
		if s.device {
			return `is_a("` + pick(g.Rand, "alpha", "beta") + `")`
		}
	case "bad", "known", "provided":
		if p := g.anyPoint(s); p != "" {
			return feature + "(" + p + ")"
		}
	case "between":
		return fmt.Sprintf("between(%q, %q)", g.clock(), g.clock())
	case "schedule":
		return `schedule("` + pick(g.Rand, scheduleNames[:]...) + `")`
	case "within":
		return `within("` + pick(g.Rand, "building", "floor", "garage") + `")`
	case "undecided":
		if s.last && !s.window && s.group == "" {
			return fmt.Sprintf("undecided(%ds)", 1+g.IntN(20))
		}
	case "sequence":
		return g.sequence(s)
	}
	return ""
}

func (g *ruleMaker) sequence(s seat) string {
	if s.window {
		return ""
	}
	s.window = true
	parts := []string{}
	for range 2 + g.IntN(3) {
		parts = append(parts, g.occasion(s))
	}
	if g.oneIn(4) {
		parts[len(parts)-1] = parts[len(parts)-2]
	}
	return fmt.Sprintf("sequence(%s, %ds)", strings.Join(parts, ", "), 5+g.IntN(60))
}

// occasion is a condition that becomes true often, or an event.
func (g *ruleMaker) occasion(s seat) string {
	if p := g.point(s, "event"); p != "" && g.oneIn(2) {
		switch {
		case g.oneIn(3):
			return p
		case strings.HasSuffix(p, "card"):
			return p + pick(g.Rand, " == ", " != ") + pick(g.Rand, `"in"`, `"out"`)
		case g.oneIn(2):
			return "not " + p
		}
		if other := g.point(s, "bool"); other != "" {
			return "(" + p + " and " + other + ")"
		}
		return p
	}
	if g.oneIn(3) {
		return g.condition(s, 1)
	}
	return g.about(s, pick(g.Rand, "bool", "number", "number", "enum", "any", "count"))
}

func (g *ruleMaker) inGroup(s seat) string {
	s = g.group(s)
	if g.oneIn(3) {
		return g.condition(s, 1)
	}
	return g.about(s, pick(g.Rand, "bool", "number", "number", "enum", "known", "max_over_time", "duration_true"))
}

// clock is a time of day within some minutes of the beginning.
func (g *ruleMaker) clock() string {
	m := (g.hour*60 + g.minute + g.IntN(11) - 3 + 1440) % 1440
	return fmt.Sprintf("%02d:%02d", m/60, m%60)
}

// comparison compares a figure with a limit near what it is.
func (g *ruleMaker) comparison(s seat, f figure) string {
	ops := []string{"<", "<=", ">", ">="}
	if f.exact {
		ops = append(ops, "==", "!=")
	}
	op := pick(g.Rand, ops...)
	if f.exact && !f.whole && !f.duration && g.oneIn(4) {
		if other, ok := g.figure(s, "number"); ok && other.exact && math.Abs(other.mid-f.mid) < 3 {
			return f.text + " " + op + " " + other.text
		}
	}
	limit := f.mid + (2*g.Float64()-1)*f.spread
	text := ""
	switch {
	case f.duration && f.exact:
		text = strconv.Itoa(int(max(math.Round(limit), 0))) + "s"
	case f.duration:
		text = strconv.Itoa(int(max(limit, 0))*1000+371) + "ms"
	case f.whole:
		text = strconv.Itoa(int(max(math.Round(limit), 0)))
	case f.exact:
		text = strconv.FormatFloat(math.Round(limit*4)/4, 'f', -1, 64)
	default:
		text = strconv.FormatFloat(math.Floor(limit*4)/4+0.1373, 'f', 4, 64)
	}
	if f.mid == 10 && !f.exact && !f.duration && g.oneIn(6) {
		text = "${limit}"
	}
	if g.oneIn(4) {
		return text + " " + op + " " + f.text
	}
	return f.text + " " + op + " " + text
}
