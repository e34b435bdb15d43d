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

// seriesError is a mistake in a series, at a byte offset of its text.
type seriesError struct {
	offset int
	msg    string
}

func (e *seriesError) Error() string { return e.msg }

// word is a part of a series between white space.
type word struct {
	offset int
	text   string
}

// parseSeries parses the notation of the package comment for a point and returns the samples and the number of
// positions. The error is a *seriesError.
func parseSeries(s string, def *telemetry.PointDef) (entries []entry, steps int, err error) {
	words, err := split(s, 0, isSpace)
	if err != nil {
		return nil, 0, err
	}
	for i := 0; i < len(words); i++ {
		w, times := words[i], 1
		fail := func(format string, args ...any) ([]entry, int, error) {
			return nil, 0, &seriesError{w.offset, fmt.Sprintf(format, args...)}
		}
		if _, ok := repeat(w.text); ok {
			return fail("%q repeats nothing: it follows a value", w.text)
		}
		if w.text == "x" && i+1 < len(words) {
			if _, ok := repeat("x" + words[i+1].text); ok {
				return fail("write x%s, without a space", words[i+1].text)
			}
		}
		if i+1 < len(words) {
			if n, ok := repeat(words[i+1].text); ok {
				times = n
				i++
			}
		}
		if steps+times > maxValues {
			return fail("the series has more than %d values", maxValues)
		}
		var group []entry
		if w.text != "_" {
			values, err := split(w.text, w.offset, func(c byte) bool { return c == '&' })
			if err != nil {
				return nil, 0, err
			}
			for _, one := range values {
				e, err := parseValue(one.text, def)
				if err != nil {
					return nil, 0, &seriesError{one.offset, err.Error()}
				}
				group = append(group, e)
			}
			size := len(values) - 1 // what stands between them
			for _, one := range values {
				size += len(one.text)
			}
			if size != len(w.text) {
				return fail("%q: a value stands on both sides of each &", w.text)
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

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// split splits s, which stands at offset, at bytes that sep names, outside double quotes. There are no empty parts.
func split(s string, offset int, sep func(byte) bool) (words []word, err error) {
	begin, quoted := -1, -1
	for i := 0; i <= len(s); i++ {
		switch end := i == len(s); {
		case end && quoted >= 0:
			return nil, &seriesError{offset + quoted, "a text is not closed"}
		case end || quoted < 0 && sep(s[i]):
			if begin >= 0 {
				words = append(words, word{offset + begin, s[begin:i]})
			}
			begin = -1
			continue
		case s[i] == '"' && quoted >= 0:
			quoted = -1
		case s[i] == '"':
			quoted = i
		}
		if begin < 0 {
			begin = i
		}
	}
	return words, nil
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
	text := strings.LastIndexByte(tok, '"') + 1 // of a text, what follows it
	if v, ago, ok := strings.Cut(tok[text:], "@-"); ok {
		d, err := expr.ParseDuration(ago)
		if err != nil {
			return e, err
		}
		tok, e.late = tok[:text]+v, d
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
	switch {
	case tok == "-" || tok == "~" || tok == "null" || tok == "none":
		return e, fmt.Errorf("%q: write _ where there is no sample", tok)
	case def.Kind != telemetry.KindText && (tok == "bad" || tok == "silent" || tok == "offline"):
		return e, fmt.Errorf("%q: write bad_comm for no answer, bad_sensor for an answer without a reading", tok)
	case strings.HasPrefix(tok, "bad_"):
		return e, fmt.Errorf("unknown quality %q%s", tok, yamlfile.Suggest(tok, []string{"bad_comm", "bad_sensor", "bad_maintenance"}))
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
		if strings.Contains(strings.TrimSuffix(strings.TrimPrefix(tok, `"`), `"`), `"`) {
			return telemetry.Value{}, fmt.Errorf("%s is not one text: put a blank between two", tok)
		}
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
