package ruletest

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"linli/internal/telemetry"
	"linli/internal/yamlfile"
	"linli/rules/expr"
)

// maxValues bounds one series after its repeats.
const maxValues = 1_000_000

// entry is one sample of a series.
type entry struct {
	step    int           // position in the series
	late    time.Duration // how long before its arrival it was taken
	value   telemetry.Value
	quality telemetry.Quality
}

// parseSeries parses the notation of the package comment for a point and returns the samples and the number of
// positions.
func parseSeries(s string, def *telemetry.PointDef) (entries []entry, steps int, err error) {
	fields, err := splitSeries(s)
	if err != nil {
		return nil, 0, err
	}
	for i := 0; i < len(fields); i++ {
		tok, times := fields[i], 1
		if i+1 < len(fields) {
			if n, ok := repeat(fields[i+1]); ok {
				times = n
				i++
			}
		}
		if _, ok := repeat(tok); ok {
			return nil, 0, fmt.Errorf("%q repeats nothing: it follows a value", tok)
		}
		if steps+times > maxValues {
			return nil, 0, fmt.Errorf("the series has more than %d values", maxValues)
		}
		var group []entry
		if tok != "_" {
			for _, one := range strings.Split(tok, "&") {
				e, err := parseValue(one, def)
				if err != nil {
					return nil, 0, err
				}
				group = append(group, e)
			}
		}
		for range times {
			for _, e := range group {
				e.step = steps
				entries = append(entries, e)
			}
			steps++
		}
	}
	return entries, steps, nil
}

// splitSeries splits at white space outside double quotes.
func splitSeries(s string) ([]string, error) {
	var fields []string
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimSpace(s) {
		n := strings.IndexAny(s, " \t\n\r")
		if s[0] == '"' {
			end := strings.IndexByte(s[1:], '"')
			if end < 0 {
				return nil, fmt.Errorf("a text is not closed")
			}
			n = end + 2
		}
		if n < 0 {
			n = len(s)
		}
		fields = append(fields, s[:n])
		s = s[n:]
	}
	return fields, nil
}

func repeat(tok string) (int, bool) {
	if !strings.HasPrefix(tok, "x") {
		return 0, false
	}
	n, err := strconv.Atoi(tok[1:])
	return n, err == nil && n > 0
}

func parseValue(tok string, def *telemetry.PointDef) (entry, error) {
	var e entry
	if v, ago, ok := strings.Cut(tok, "@-"); ok && !strings.HasPrefix(tok, `"`) {
		d, err := expr.ParseDuration(ago)
		if err != nil {
			return e, err
		}
		tok, e.late = v, d
	}
	for q := telemetry.BadComm; q <= telemetry.BadMaintenance; q++ {
		if tok == q.String() {
			e.quality = q
			return e, nil
		}
	}
	if prefix, v, ok := strings.Cut(tok, ":"); ok && !strings.HasPrefix(tok, `"`) {
		switch prefix {
		case "over":
			e.quality = telemetry.OverRange
		case "under":
			e.quality = telemetry.UnderRange
		case "uncertain":
			e.quality = telemetry.Uncertain
		default:
			return e, fmt.Errorf("%q: only over:, under: and uncertain: precede a value", tok)
		}
		tok = v
	}
	v, err := literal(tok, def)
	e.value = v
	return e, err
}

// literal parses a value of a point's kind.
func literal(tok string, def *telemetry.PointDef) (telemetry.Value, error) {
	switch def.Kind {
	case telemetry.Bool:
		if tok == "true" || tok == "false" {
			return telemetry.BoolValue(tok == "true"), nil
		}
		return telemetry.Value{}, fmt.Errorf("%q: %s is true or false", tok, def.Name)
	case telemetry.KindText:
		return telemetry.TextValue(strings.Trim(tok, `"`)), nil
	case telemetry.Enum:
		names := make([]string, len(def.Enum))
		for i, n := range def.Enum {
			if n.Name == tok {
				return telemetry.EnumValue(n.Code), nil
			}
			names[i] = n.Name
		}
		return telemetry.Value{}, fmt.Errorf("%s has no state %q%s", def.Name, tok, yamlfile.Suggest(tok, names))
	}
	if tok == "nan" {
		return telemetry.FloatValue(math.NaN()), nil
	}
	f, err := strconv.ParseFloat(tok, 64)
	if err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
		return telemetry.Value{}, fmt.Errorf("%q is not a value of %s", tok, def.Name)
	}
	if def.Kind == telemetry.Int {
		if f != math.Trunc(f) {
			return telemetry.Value{}, fmt.Errorf("%q: %s is a whole number", tok, def.Name)
		}
		return telemetry.IntValue(int64(f)), nil
	}
	return telemetry.FloatValue(f), nil
}
