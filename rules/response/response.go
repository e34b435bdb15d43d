// Package response decides what follows from alerts on the box itself: which outputs are driven and for how long, who
// is told when nobody acknowledges, and which alerts are silenced by another that explains them. It is a pure state
// machine: transitions of alerts, what people do, and the present moment go in; commands, escalations and suppressions
// come out. No I/O, no clock, no logging. It imports the nouns (internal/telemetry) and nothing else.
//
// # One demand over time
//
// A Plan, resolved by package rules, says what one alert about one subject asks for. Each of its Outputs gives a demand:
//
//	raise          after           for           rest
//	  |<------------>|<------------->|
//	--+--------------#################------------------>   until: cleared, acknowledged or closed ends it at any time
//	  severity of the output reached? its `after` counts from then; falls below: at rest at once
//	  inhibitor begins: at rest, and nothing climbs. It ends: everything starts anew from that moment
//	  an alert of `unless` is active: at rest meanwhile; `after` and `for` go on counting
//
// # Guarantees
//
//   - The same calls give the same decisions, in the same order. Decisions carry their own moments, and these do not
//     depend on how often Step is called: what fell due between two Steps is decided at its own moment.
//   - A command is said only when what a point shall be changes: on when the first alert wants it, its rest when the last
//     one does not any more. Where alerts want different values the most severe, then the first, wins.
//   - No demand lasts longer than its `for`; without any demand a point is at rest.
//   - Silence is not safety: Unknown and Known end no demand and start none.
//   - After Step, Next is later than the moment of that Step. Step allocates nothing when nothing changes, and looks only
//     at alerts that something happened to or whose timer is due: many open alerts cost nothing.
//
// # What is not obvious
//
//   - Raised again after the condition was gone (and before the alert was closed): new demands, with times of their own. One that still runs
//     from before (until: acknowledged) goes on until its own end or until the new one takes its place. Escalation starts
//     anew too, except of life_safety rules, whose escalation never stopped.
//   - What has not begun when the condition goes does not begin any more, except of life_safety rules: a call for help
//     is short.
//   - A worse severity takes an acknowledgement back (as the alert book does): demands until acknowledged and
//     escalation start anew at that moment.
//   - Inhibited: only active alerts are. Acknowledged or not, unknown or itself inhibited, an active alert inhibits. An
//     alert whose inhibitor is raised in the same moment is never announced. One that clears while it is suppressed gets
//     no Suppression{On: false}: there is nothing to announce.
//   - A point that a person ordered to be something else than what is wanted now is the person's: the demands that run are
//     void for good, and nothing is commanded when they end. A demand that begins later (a new alert, a raise
//     again, an `after` that passes later) drives the point again. Ordering what is wanted anyway changes nothing.
//   - The tier never goes down while an alert is open, and with it stays the severity that its step asked for.
//   - Events of one moment are taken together, in the order of the calls, before anything is decided, and before the timers
//     of that moment: who acknowledges in the second in which the horn is due hears no horn.
//   - Moments before the last Step are taken as that of the last Step, moments after the present one as the present.
//
// # Bounds
//
// One record for each open alert (rules times subjects at most) with one demand for each output of its plan, and one for
// each point that a plan names. What was told between two Steps is kept until the next Step.
//
// A Machine belongs to one goroutine. Plans are shared and read-only.
package response

import (
	"slices"
	"time"

	"linli/internal/telemetry"
)

// Plan is what follows from one alert about one subject, resolved to points and identities. It is read-only once given
// to a Machine.
type Plan struct {
	Outputs  []Output
	Escalate []Step
	// Inhibitors silence the alert while one of them is active. Those of LifeSafety plans are ignored.
	Inhibitors []telemetry.Identity
	LifeSafety bool
}

// Output is one point that is driven while the alert asks for it.
type Output struct {
	Point telemetry.PointID
	Value telemetry.Value // what it is driven to
	Rest  telemetry.Value // what it goes back to when nobody wants it any more
	After time.Duration   // since the alert was raised or released, or reached Severity
	For   time.Duration   // the longest time; 0: no limit
	Until Until
	// Severity is the least severity at which it is driven; 0: any.
	Severity telemetry.Severity
	// Unless are alerts; while one is active the point is not driven for this output.
	Unless []telemetry.Identity
}

// Step says who is told when nobody has acknowledged.
type Step struct {
	After    time.Duration // since the alert was raised or released
	To       Tier
	Severity telemetry.Severity // the least severity from then on; 0: unchanged
}

// Until says when a demand ends at the latest, beside its For.
type Until uint8

// The ends of a demand.
const (
	UntilCleared      Until = iota // the condition is gone
	UntilAcknowledged              // somebody acknowledged
	UntilClosed                    // both
)

var untilNames = [...]string{"cleared", "acknowledged", "closed"}

// String returns the word of rule files.
func (u Until) String() string {
	if int(u) < len(untilNames) {
		return untilNames[u]
	}
	return "until"
}

// ParseUntil returns the end named s, and false for any other word.
func ParseUntil(s string) (Until, bool) {
	i := slices.Index(untilNames[:], s)
	return Until(max(i, 0)), i >= 0
}

// Tier is who has been told of an alert. The zero Tier is nobody beyond those who watch anyway.
type Tier uint8

// The tiers, nearest first.
const (
	Community Tier = iota + 1
	Street
	District
)

var tierNames = [...]string{"", "community", "street", "district"}

// String returns the tier as rule files and messages write it; the zero Tier is empty.
func (t Tier) String() string {
	if int(t) < len(tierNames) {
		return tierNames[t]
	}
	return "tier"
}

// ParseTier returns the tier named s, and false for any other word.
func ParseTier(s string) (Tier, bool) {
	i := slices.Index(tierNames[:], s)
	return Tier(max(i, 0)), i > 0
}
