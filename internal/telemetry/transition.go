package telemetry

import "time"

// Identity is what an alert is about: two raises with one identity are one alert.
type Identity struct {
	Alert   string // the rule's alert name, as `FireLaneBlocked`
	Subject string // device id, zone id, or the site's id
}

// Transition is what the rules engine says about one alert: that its condition holds, that it holds no longer, or
// that it cannot be decided any more (and, later, that it can again). The engine says it once, at the change.
type Transition struct {
	Identity
	Op TransitionOp
	// Condition is what the alert's condition is at this moment. A Known is not always of a true one: one that is
	// false but must be so for a while before the alert clears is known as well.
	Condition Condition
	Time      Mono
	// Wall is the same moment on the wall clock, zero while that is not set.
	Wall time.Time

	Severity Severity
	Title    Text // rendered for the subject
	Device   int  // index in Inventory.Devices, -1 where the subject is a zone or the site
	Zone     int  // index in Inventory.Zones, -1 for the site
	// LifeSafety alerts are not shelvable by ordinary staff and are delivered before others.
	LifeSafety bool
	// Detail says what decided, for people: the operands with their values at the moment.
	Detail Text
}

// Condition is whether a condition holds.
type Condition uint8

// The conditions. The zero value claims nothing.
const (
	ConditionUnknown Condition = iota
	ConditionFalse
	ConditionTrue
)

// TransitionOp is what happened to an alert's condition.
type TransitionOp uint8

// The transitions. Unknown and Known concern an alert that is active: its condition cannot be decided (its
// detector went silent), or can be again. Changed says that severity, title or detail of an active alert changed.
const (
	Raise TransitionOp = iota + 1
	Clear
	Unknown
	Known
	Changed
)

var opNames = [...]string{"", "raise", "clear", "unknown", "known", "changed"}

// String returns the operation's name.
func (op TransitionOp) String() string {
	if int(op) < len(opNames) {
		return opNames[op]
	}
	return "transition"
}

// ActiveAlert is an alert that was active when the process last ran; the engine takes these over at start.
type ActiveAlert struct {
	Identity
	Severity Severity
	Since    time.Time
	Unknown  bool // the last thing said is that it cannot be decided
}
