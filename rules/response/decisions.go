package response

import "linli/internal/telemetry"

// Decisions is what one Step decided, each kind in the order of time. Its slices are reused: the caller empties them
// (Reset) before the next Step.
type Decisions struct {
	Commands     []Command
	Escalations  []Escalation
	Suppressions []Suppression
}

// Reset empties the decisions, keeping their memory.
func (d *Decisions) Reset() {
	d.Commands, d.Escalations, d.Suppressions = d.Commands[:0], d.Escalations[:0], d.Suppressions[:0]
}

// Empty reports whether nothing was decided.
func (d *Decisions) Empty() bool {
	return len(d.Commands) == 0 && len(d.Escalations) == 0 && len(d.Suppressions) == 0
}

// Command sets a point.
type Command struct {
	Point telemetry.PointID
	Value telemetry.Value
	For   telemetry.Identity // the alert that wants it, or that was the last to want it
	Why   Why
	Time  telemetry.Mono
	// Severity is that of the alert that wants it; 0 where none does any more.
	Severity telemetry.Severity
}

// Escalation tells that an alert was not acknowledged in time.
type Escalation struct {
	telemetry.Identity
	To       Tier
	Severity telemetry.Severity // of the alert from now on
	Time     telemetry.Mono
}

// Suppression tells that an active alert is silenced by another (On), or is not any more: then it is to be announced
// again.
type Suppression struct {
	telemetry.Identity
	By   telemetry.Identity
	On   bool
	Time telemetry.Mono
}

// Why is the reason of a Command.
type Why uint8

// The reasons. The first two drive a point; the others are why the last demand ended and the point goes to rest.
const (
	WhyDemanded     Why = iota + 1 // an alert asks for it
	WhyReasserted                  // an alert asked for it before the restart
	WhyCleared                     // the condition is gone
	WhyAcknowledged                // somebody acknowledged
	WhyClosed                      // the alert was closed by hand, or removed
	WhyPassed                      // its `for` has passed
	WhyEased                       // the severity fell
	WhyInhibited                   // another alert explains this one
	WhyUnless                      // an alert of its `unless` is active
	WhyReplanned                   // the rule asks for something else since a reload
)

var whyNames = [...]string{"", "demanded", "reasserted", "cleared", "acknowledged", "closed", "time passed", "eased", "inhibited", "unless", "replanned"}

// String returns the reason in a word, for records.
func (w Why) String() string {
	if int(w) < len(whyNames) {
		return whyNames[w]
	}
	return "why"
}
