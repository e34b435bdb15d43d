package expr

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// durationUnits are the units of durations, largest first.
var durationUnits = [...]struct {
	name string
	d    time.Duration
}{
	{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}, {"ms", time.Millisecond},
}

// MaxDuration bounds every duration in a rule.
const MaxDuration = 366 * 24 * time.Hour

// ParseDuration parses a duration as rules write it: 500ms, 30s, 3m, 24h, 7d, 1h30m. It is never negative.
func ParseDuration(s string) (time.Duration, error) {
	var total time.Duration
	rest := s
	for rest != "" {
		n := 0
		for n < len(rest) && (rest[n] >= '0' && rest[n] <= '9' || rest[n] == '.') {
			n++
		}
		v, err := strconv.ParseFloat(rest[:n], 64)
		if err != nil {
			return 0, fmt.Errorf("%q is not a duration (30s, 3m, 24h, 7d)", s)
		}
		rest = rest[n:]
		u := 0
		for u < len(rest) && rest[u] >= 'a' && rest[u] <= 'z' {
			u++
		}
		unit := time.Duration(0)
		for _, du := range durationUnits {
			if du.name == rest[:u] {
				unit = du.d
			}
		}
		if unit == 0 {
			if m := meant(s); m != "" {
				return 0, fmt.Errorf("%q is not a duration: write %s", s, m)
			}
			if rest[:u] == "" {
				return 0, fmt.Errorf("%q is not a duration: a unit is missing (30s, 3m, 24h, 7d)", s)
			}
			return 0, fmt.Errorf("%q is not a duration: unknown unit %q (ms, s, m, h, d)", s, rest[:u])
		}
		rest = rest[u:]
		ns := v * float64(unit)
		if ns > float64(MaxDuration) || total+time.Duration(ns) > MaxDuration {
			return 0, fmt.Errorf("%q is too long (at most 366d)", s)
		}
		total += time.Duration(math.Round(ns))
	}
	if s == "" {
		return 0, fmt.Errorf("a duration is missing (30s, 3m, 24h, 7d)")
	}
	return total, nil
}

// unitNames are what people call the units.
var unitNames = [...]struct{ said, unit string }{
	{"msec", "ms"}, {"sec", "s"}, {"secs", "s"}, {"second", "s"}, {"seconds", "s"}, {"min", "m"}, {"mins", "m"}, {"minute", "m"}, {"minutes", "m"},
	{"hr", "h"}, {"hrs", "h"}, {"hour", "h"}, {"hours", "h"}, {"day", "d"}, {"days", "d"},
	{"毫秒", "ms"}, {"秒", "s"}, {"分", "m"}, {"分钟", "m"}, {"时", "h"}, {"小时", "h"}, {"天", "d"},
}

// spacedDuration returns how the duration is written whose number and unit somebody wrote apart; "" where unit is none.
func spacedDuration(number, unit string) string {
	unit = unitOf(unit)
	if unit == "" {
		return ""
	}
	return number + unit
}

// unitOf returns the unit that a word stands for, "" for other words.
func unitOf(word string) string {
	word = strings.ToLower(word)
	for _, u := range durationUnits {
		if u.name == word {
			return u.name
		}
	}
	for _, u := range unitNames {
		if u.said == word {
			return u.unit
		}
	}
	return ""
}

// meant returns how a duration is written that somebody wrote as "2 min" or "2min"; "" where that is not to be seen.
func meant(s string) string {
	s = strings.TrimSpace(s)
	n := len(s) - len(strings.TrimLeft(s, "0123456789."))
	if n == 0 {
		return ""
	}
	return spacedDuration(s[:n], strings.TrimSpace(s[n:]))
}

// FormatDuration writes a duration so that ParseDuration reads the same back, to the millisecond.
func FormatDuration(d time.Duration) string {
	if d < time.Millisecond {
		return "0s"
	}
	var b strings.Builder
	for _, u := range durationUnits {
		if n := d / u.d; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, u.name)
			d -= n * u.d
		}
	}
	return b.String()
}
