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
