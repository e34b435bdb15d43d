package backtest

import (
	"cmp"
	"slices"
	"time"

	"linli/internal/telemetry"
)

// Line is one recorded transition of an alert.
type Line struct {
	telemetry.Identity
	// Op is what the engine said; 0 says that the alert was closed for another reason, by people or by a new site file.
	Op telemetry.TransitionOp
	// Time is the moment, to the millisecond. Where Boot is not empty the clock was not set, and it is the time since that
	// boot, counted from 1970.
	Time     time.Time
	Boot     string
	Severity telemetry.Severity // of a raise or a change; 0 where nobody wrote it down
	Title    telemetry.Text
}

// line is a transition of the replay, or a recorded one on its way through the comparison.
type line struct {
	Line
	boot string
	mono telemetry.Mono
}

// book is which alerts the alert book of the gateway would have, as far as what the engine says depends on it. It follows
// package alert: saying what is known already is no news, and what turns out to be true of an alert that is not there
// raises it.
type book map[telemetry.Identity]*entry

type entry struct {
	active, unknown bool
	severity        telemetry.Severity
}

// say takes down what the engine says, and returns the line that this makes, if it makes one.
func (b book) say(t *telemetry.Transition) (line, bool) {
	e := b[t.Identity]
	if e == nil {
		e = &entry{}
		b[t.Identity] = e
	}
	op := t.Op
	switch holds := t.Condition == telemetry.ConditionTrue; {
	case op == telemetry.Raise && e.active:
		op = telemetry.Known // It says so of one that is there: whoever raises has decided the condition.
	case (op == telemetry.Known || op == telemetry.Changed) && !e.active && holds:
		op = telemetry.Raise
	}
	if op != telemetry.Raise && !e.active {
		return line{}, false
	}
	switch op {
	case telemetry.Raise:
		*e = entry{active: true, severity: t.Severity}
	case telemetry.Clear:
		*e = entry{}
	case telemetry.Unknown:
		if e.unknown {
			return line{}, false
		}
		e.unknown = true
	case telemetry.Known:
		if !e.unknown {
			return line{}, false
		}
		e.unknown = false
	case telemetry.Changed:
		e.severity = t.Severity
	}
	l := line{Line: Line{Identity: t.Identity, Op: op, Severity: e.severity, Title: t.Title}}
	if !t.Wall.IsZero() {
		l.Time = stamp(t.Wall)
	}
	return l, true
}

// apply takes recorded lines over as they are.
func (b book) apply(lines []Line) {
	for i := range lines {
		l := &lines[i]
		e := b[l.Identity]
		if e == nil {
			e = &entry{}
			b[l.Identity] = e
		}
		switch l.Op {
		case telemetry.Raise:
			*e = entry{active: true, severity: l.Severity}
		case telemetry.Clear, 0:
			*e = entry{}
		case telemetry.Unknown, telemetry.Known:
			e.unknown = e.active && l.Op == telemetry.Unknown
		case telemetry.Changed:
			e.severity = l.Severity
		}
	}
}

// recorded makes the book what it was at the moment of it.
func (b book) recorded(lines []Line, it *Item) {
	for i := range lines {
		l := &lines[i]
		later := l.Boot == "" && l.Time.After(it.At) || l.Boot == it.Boot && l.Time.After(time.Unix(0, int64(it.Now.Mono)))
		if !later {
			b.apply(lines[i : i+1])
		}
	}
}

func (b book) close(id telemetry.Identity) { delete(b, id) }

// active returns the alerts that an engine takes over, in the order in which the gateway gives them.
func (b book) active() (active []telemetry.ActiveAlert) {
	for id, e := range b {
		if e.active {
			active = append(active, telemetry.ActiveAlert{Identity: id, Severity: e.severity, Unknown: e.unknown})
		}
	}
	slices.SortFunc(active, func(x, y telemetry.ActiveAlert) int {
		return cmp.Or(cmp.Compare(x.Alert, y.Alert), cmp.Compare(x.Subject, y.Subject))
	})
	return active
}

// stamp returns t as it is recorded: UTC, milliseconds.
func stamp(t time.Time) time.Time { return t.Round(0).UTC().Truncate(time.Millisecond) }
