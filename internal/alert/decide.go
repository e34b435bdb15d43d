package alert

import (
	"time"

	"linli/internal/telemetry"
)

// op is what can happen to an alert: what the engine says, what people do, what a new site file does.
type op uint8

const (
	opRaise op = iota + 1
	opClear
	opUnknown
	opKnown
	opChanged
	opAcknowledge
	opClose
	opRemove
	opClockSet // the times were put right
	opEscalate
	opSuppress
	opUnsuppress
)

// command is one thing that happens to an alert.
type command struct {
	op   op
	at   time.Time // UTC, milliseconds
	by   string
	note string
	boot string // on which this happens, for a time that the clock does not know
	// said holds, for what the engine says, the fields that are its to say: identity, severity, texts, place.
	said  Alert
	holds bool // what the engine says of the condition: it is true

	tier            Tier               // of opEscalate
	severity, least telemetry.Severity // of opEscalate: the severity from now on, and what it does not fall below

	inhibitor telemetry.Identity // of opSuppress
	because   telemetry.Text     // of opSuppress: the inhibitor's title
	fresh     bool               // of opSuppress: the alert was raised in the same moment
}

// decide returns the alert after c, and the lines of history that this makes: none where c changes nothing. State 0
// stands for "there is no open alert"; a closed alert stays as it is whatever happens. The revisions of the alert
// and of its lines are counted here; the id of a new alert is the caller's to give.
func decide(a Alert, c command) (Alert, []Entry, error) {
	switch c.op {
	case opRaise:
		switch a.State {
		case 0:
			a, entries := raise(c)
			return a, entries, nil
		case ReturnedUnacknowledged:
			a.State, a.ReturnedAt = ActiveUnacknowledged, time.Time{}
			a.say(c.said)
			return a, []Entry{line(&a, c, WhatRaisedAgain)}, nil
		case ActiveUnacknowledged, ActiveAcknowledged:
			// Raised already. But whoever raises has decided the condition.
			c.op = opKnown
			return decide(a, c)
		}

	case opClear:
		switch a.State {
		case ActiveUnacknowledged:
			if a.quiet {
				a.ReturnedAt = c.at
				entry := shut(&a, c, ReasonSuppressed)
				return a, []Entry{entry}, nil
			}
			a.State, a.Unknown, a.ReturnedAt = ReturnedUnacknowledged, false, c.at
			a.release()
			return a, []Entry{line(&a, c, WhatReturned)}, nil
		case ActiveAcknowledged:
			a.ReturnedAt = c.at
			entry := shut(&a, c, ReasonReturned)
			return a, []Entry{entry}, nil
		}

	case opUnknown:
		if a.State.Active() && !a.Unknown {
			a.Unknown = true
			return a, []Entry{line(&a, c, WhatUnknown)}, nil
		}

	case opKnown:
		if a.State == 0 {
			if !c.holds {
				return a, nil, nil
			}
			// Closed by hand while unknown, and it turns out to hold: silence was not safety.
			a, entries := raise(c)
			return a, entries, nil
		}
		if a.State.Active() && a.Unknown {
			a.Unknown = false
			return a, []Entry{line(&a, c, WhatKnown)}, nil
		}

	case opChanged:
		if a.State == 0 {
			if !c.holds {
				return a, nil, nil
			}
			a, entries := raise(c)
			return a, entries, nil
		}
		s := &c.said
		if !a.State.Active() || a.Severity == max(s.Severity, a.least) && a.Title == s.Title && a.Detail == s.Detail {
			break
		}
		if s.Severity > a.Severity && a.State == ActiveAcknowledged {
			a.State, a.AcknowledgedAt, a.AcknowledgedBy = ActiveUnacknowledged, time.Time{}, ""
		}
		a.say(c.said)
		return a, []Entry{line(&a, c, WhatChanged)}, nil

	case opAcknowledge:
		switch a.State {
		case 0:
			return a, nil, ErrNotFound
		case ActiveUnacknowledged:
			a.State, a.AcknowledgedAt, a.AcknowledgedBy = ActiveAcknowledged, c.at, c.by
			return a, []Entry{line(&a, c, WhatAcknowledged)}, nil
		case ReturnedUnacknowledged:
			a.AcknowledgedAt, a.AcknowledgedBy = c.at, c.by
			acknowledged := line(&a, c, WhatAcknowledged)
			c.note = ""
			closed := shut(&a, c, ReasonReturned)
			return a, []Entry{acknowledged, closed}, nil
		}

	case opClose:
		if a.State == 0 {
			return a, nil, ErrNotFound
		}
		if a.State.Active() && !a.Unknown {
			return a, nil, ErrStillActive
		}
		if a.State != Closed {
			if a.AcknowledgedAt.IsZero() { // Who closes it has seen it.
				a.AcknowledgedAt, a.AcknowledgedBy = c.at, c.by
			}
			entry := shut(&a, c, ReasonByHand)
			return a, []Entry{entry}, nil
		}

	case opRemove:
		if a.State != 0 && a.State != Closed {
			entry := shut(&a, c, ReasonRemoved)
			return a, []Entry{entry}, nil
		}

	case opClockSet:
		if a.State != 0 && a.State != Closed {
			entry := line(&a, c, WhatCorrected)
			entry.Detail = telemetry.Text{Zh: "时钟已校准，此前的时间已更正", En: "The clock was set; the times before that were corrected"}
			return a, []Entry{entry}, nil
		}

	case opEscalate:
		if a.State != ActiveUnacknowledged && a.State != ReturnedUnacknowledged || a.Suppressed {
			break
		}
		if c.severity > a.Severity {
			c.least = max(c.least, c.severity)
		}
		before := a
		a.Tier, a.least = max(a.Tier, c.tier), max(a.least, c.least)
		a.Severity = max(a.Severity, a.least)
		if a.Tier == before.Tier && a.Severity == before.Severity {
			return before, nil, nil
		}
		entry := line(&a, c, WhatEscalated)
		entry.Detail = a.Tier.text()
		return a, []Entry{entry}, nil

	case opSuppress:
		if !a.State.Active() || a.Suppressed && a.SuppressedBy == c.inhibitor {
			break
		}
		a.quiet = a.quiet || c.fresh
		a.Suppressed, a.SuppressedBy = true, c.inhibitor
		entry := line(&a, c, WhatSuppressed)
		entry.Detail = telemetry.Text{Zh: "被“" + c.because.In("zh") + "”抑制", En: "Suppressed by “" + c.because.In("en") + "”"}
		return a, []Entry{entry}, nil

	case opUnsuppress:
		if !a.Suppressed {
			break
		}
		a.release()
		return a, []Entry{line(&a, c, WhatUnsuppressed)}, nil
	}
	return a, nil, nil
}

// release ends a suppression.
func (a *Alert) release() { a.Suppressed, a.SuppressedBy, a.quiet = false, telemetry.Identity{}, false }

// raise makes a new alert of what the engine said.
func raise(c command) (Alert, []Entry) {
	a := c.said
	a.State, a.RaisedAt, a.said = ActiveUnacknowledged, c.at, c.said.Severity
	return a, []Entry{line(&a, c, WhatRaised)}
}

// say takes over what is the engine's to say about an alert that exists. What escalation asked for stays.
func (a *Alert) say(s Alert) {
	a.said, a.Severity = s.Severity, max(s.Severity, a.least)
	a.LifeSafety, a.Title, a.Detail = s.LifeSafety, s.Title, s.Detail
	a.Device, a.Class, a.Zone, a.Place = s.Device, s.Class, s.Zone, s.Place
}

// shut closes a.
func shut(a *Alert, c command, reason string) Entry {
	a.State, a.Unknown, a.ClosedAt, a.CloseReason = Closed, false, c.at, reason
	a.release()
	return line(a, c, WhatClosed)
}

// line counts a transition of a and returns its line of history.
func line(a *Alert, c command, what string) Entry {
	a.Revision++
	a.Durable = false
	e := Entry{Revision: a.Revision, Time: c.at, What: what, By: c.by, Note: c.note}
	if unset(c.at) {
		a.TimeUncertain, e.TimeUncertain, e.boot = true, true, c.boot
	}
	if c.by == BySensor {
		e.Detail = c.said.Detail
		switch what {
		case WhatRaised, WhatRaisedAgain, WhatChanged:
			e.severity = c.said.Severity
		}
	}
	return e
}

// opOf returns the op of what the engine said, 0 for an operation that this package does not know.
func opOf(t telemetry.TransitionOp) op {
	switch t {
	case telemetry.Raise:
		return opRaise
	case telemetry.Clear:
		return opClear
	case telemetry.Unknown:
		return opUnknown
	case telemetry.Known:
		return opKnown
	case telemetry.Changed:
		return opChanged
	}
	return 0
}
