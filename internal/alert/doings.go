package alert

import (
	"slices"

	"linli/internal/telemetry"
)

// DecisionKind says what a Decision decides.
type DecisionKind uint8

// The kinds of decisions.
const (
	Escalate   DecisionKind = iota + 1 // it climbs to Tier and Severity
	Suppress                           // Inhibitor explains it
	Unsuppress                         // nothing does any more
)

// Decision is what follows from alerts and is not a condition's to say: that nobody acknowledged one in time, or that
// another one explains it.
type Decision struct {
	telemetry.Identity
	Kind DecisionKind
	Time telemetry.Mono

	Tier     Tier               // of Escalate
	Severity telemetry.Severity // of Escalate: what it is from now on, where it is worse
	// Least is, of Escalate, the severity below which the alert does not fall any more while it is open; 0 for none.
	// Where Severity makes the alert worse, it is Severity.
	Least telemetry.Severity

	Inhibitor telemetry.Identity // of Suppress
}

func (d *Decision) op() op {
	switch d.Kind {
	case Escalate:
		return opEscalate
	case Suppress:
		return opSuppress
	case Unsuppress:
		return opUnsuppress
	}
	return 0
}

// DoingKind says what a Doing is.
type DoingKind uint8

// The kinds of doings.
const (
	// Acknowledged: somebody acknowledged the alert.
	Acknowledged DoingKind = iota + 1
	// ClosedAlert: it is closed, and not because the condition cleared and somebody acknowledged: by hand, or because
	// it was removed, or had been suppressed all the time. The engine may still believe in it.
	ClosedAlert
	// RaisedAnew: it was closed by hand, and before anybody heard of that the engine said that it holds. So it is a new
	// alert, which nobody has acknowledged.
	RaisedAnew
)

// Doing is something that happened to an alert other than by Submit, or not as Submit was told.
type Doing struct {
	telemetry.Identity
	Kind     DoingKind
	Severity telemetry.Severity // of RaisedAnew
}

// TakeDoings appends what was done since the last call to dst, in the order in which it was done, and returns it. It is
// called by the goroutine that calls Submit, before each step of the engine. What a Submit in between has overtaken is not
// among it: where somebody acknowledges an alert and it becomes worse in the same moment, nobody has acknowledged it.
// There are never more than three of one identity.
func (b *Book) TakeDoings(dst []Doing) []Doing {
	b.mu.Lock()
	defer b.mu.Unlock()
	dst = append(dst, b.doings...)
	b.doings = b.doings[:0]
	return dst
}

// Done returns a channel on which something arrives when there are doings to take.
func (b *Book) Done() <-chan struct{} { return b.done }

// tellOf keeps what c did as a doing, and drops those that it makes void. b.mu is held.
func (b *Book) tellOf(before, after Alert, c command) {
	var kind DoingKind
	switch {
	case before.State == 0:
		b.forget(after.Identity, 0) // They were of an earlier alert.
		if c.op != opRaise {
			kind = RaisedAnew
		}
	case before.State == ActiveAcknowledged && after.State == ActiveUnacknowledged:
		b.forget(after.Identity, Acknowledged)
	case c.op == opAcknowledge:
		kind = Acknowledged
	case after.State == Closed && after.CloseReason != ReasonReturned:
		kind = ClosedAlert
	}
	if kind == 0 {
		return
	}
	b.forget(after.Identity, kind)
	b.doings = append(b.doings, Doing{Identity: after.Identity, Kind: kind, Severity: after.Severity})
	select {
	case b.done <- struct{}{}:
	default: // Whoever waits is told already.
	}
}

// forget drops the doings of an identity of one kind, or all of them with 0. b.mu is held.
func (b *Book) forget(id telemetry.Identity, kind DoingKind) {
	b.doings = slices.DeleteFunc(b.doings, func(d Doing) bool { return d.Identity == id && (kind == 0 || d.Kind == kind) })
}
