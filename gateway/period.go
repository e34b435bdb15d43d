package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"linli/rules/expr"
)

// period is a span of time as people ask for it.
type period struct{ since, until string }

// flags adds --since, with its default, and --until; what is done with that time stands before their descriptions.
func (p *period) flags(cmd *cobra.Command, since, what string) {
	f := cmd.Flags()
	f.StringVar(&p.since, "since", since, what+"from then on: how long ago (12h, 7d), or local time (2026-05-04, \"2026-05-04 08:00\")")
	f.StringVar(&p.until, "until", "", what+"until then (default: now)")
}

// times reads both. An error is the usage's.
func (p *period) times(now time.Time, loc *time.Location) (since, until time.Time, err error) {
	until = now
	if since, err = moment(p.since, now, loc); err != nil {
		return since, until, &usageError{fmt.Errorf("--since: %w", err)}
	}
	if p.until != "" {
		if until, err = moment(p.until, now, loc); err != nil {
			return since, until, &usageError{fmt.Errorf("--until: %w", err)}
		}
	}
	if !since.Before(until) {
		return since, until, &usageError{fmt.Errorf("nothing lies between %s and %s", since.Format(time.DateTime), until.Format(time.DateTime))}
	}
	return since, until, nil
}

// moment reads a time as people write it: how long ago, or local time, or one with its zone.
func moment(s string, now time.Time, loc *time.Location) (time.Time, error) {
	if ago, err := expr.ParseDuration(s); err == nil {
		return now.Add(-ago), nil
	}
	for _, layout := range [...]string{time.RFC3339, time.DateOnly, "2006-01-02 15:04", time.DateTime, "2006-01-02T15:04", "2006-01-02T15:04:05"} {
		if t, err := time.ParseInLocation(layout, s, loc); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is neither how long ago (12h, 7d) nor a time (2026-05-04, \"2026-05-04 08:00\")", s)
}
