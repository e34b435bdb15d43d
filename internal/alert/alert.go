// Package alert owns the alerts: which exist, in what state, who did what to them, and what is still to be told to
// whom.
//
// # What it guarantees
//
//   - A transition and its outbox rows, one per channel, are one SQLite transaction (WAL, synchronous=FULL).
//   - It is committed before it is announced. Where the commit fails or takes longer than Config.CommitLimit, it is
//     announced all the same with Durable false; the commit is retried until it succeeds, and the alert is announced
//     again as durable. To announce means: OpenAlerts, Get and Recent show it, Pending lists it, Changed fires.
//   - Submit never waits for the disk and never drops an alert. What waits for the disk is kept per alert, as its
//     newest state and its history, so memory is bounded by the number of identities (rules times devices) and not by
//     how long the disk fails; see the bounds below.
//   - What was announced as durable is there after a crash at any instant, and is told to every channel at least once
//     in its newest state. After a crash every open alert is told again: a channel may have been told what then did
//     not reach the disk.
//
// # What it does not do
//
// It does not evaluate conditions (package rules), does not send (uplink, notify read Pending and answer Told), and does
// not judge whether a clock that is set is right: times are as given, at a resolution of a millisecond, in UTC.
//
// # States
//
//	          raise                acknowledge
//	(none) ----------> active     ------------> active
//	                   unack.     <------------ acknowledged
//	                    |   ^    worse severity    |
//	              clear |   | raise                | clear
//	                    v   | (raised_again)       v
//	                   returned  ------------->  closed
//	                   unack.     acknowledge
//
// CloseByHand leads to closed from everywhere, provided the condition is gone or cannot be decided; Remove does
// always. After closed, the next raise is a new alert with a new ULID. Beside the state, an active alert is marked
// Unknown while its condition cannot be decided: silence neither clears nor closes anything. It is marked Suppressed
// while another alert explains it, and it has a Tier, which says how far it has climbed because nobody acknowledged it;
// both are decided elsewhere (package rules/response) and told to Submit. Rules that are not obvious, each decided in
// decide.go:
//
//   - a second raise of an active alert changes nothing, except that it settles Unknown;
//   - known and changed for an identity without an open alert raise one where the condition is true: the engine had
//     not heard yet (TakeDoings) that the alert was closed by hand while its condition was unknown;
//   - changed to a worse severity takes an acknowledgement back: nobody has seen the alert that it now is;
//   - acknowledging a returned alert writes two lines of history, acknowledged and closed, and two revisions;
//   - an acknowledged or suppressed alert does not climb. The tier never goes down while the alert is open, and the
//     severity never below the one that a step of escalation asked for, whatever the engine says and whoever
//     acknowledges: those who were called were called for that;
//   - only an active alert is suppressed. When that ends, its state stays, and it is announced again (unsuppressed). When
//     the condition clears first, an alert that was suppressed in the moment of its raise closes by itself, with reason
//     suppressed: nobody had been told of it, so nobody needs to acknowledge. One that people had been told of returns
//     like any other.
//
// # Times
//
// What happens while the clock is not set is marked TimeUncertain and keeps the time since boot, counted from 1970.
// Once the clock has been set, the times of open alerts are put right and told again, as "corrected" by "clock". Where
// the box boots before that, nobody knows any more what those times were: they stay as they are, and marked.
//
// # Tables
//
//	alerts   one row per alert as it stands; states, severities and times as words (times UTC, milliseconds);
//	         closed_n numbers the closed ones in the order of closing, which no clock can disturb
//	history  (alert, revision): one line per transition; the boot whose clock was not set, where that is so; the severity
//	         that the engine gave, where it did
//	outbox   (channel, alert): the newest revision of that alert that was not yet told on channel
//	book     one row: whether the book was closed with everything on disk
//
// # Bounds
//
//	history of one alert     revision 1 and the newest 255; what is dropped before it reached the disk is counted
//	closed alerts on disk    Config.Keep; the first closed go first, except while still to be told
//	closed, not on disk      4,096 while the disk fails; the oldest that are announced are dropped and counted
//	outbox                   one row per alert and channel; of closed alerts 10,000 per channel, oldest dropped and counted
//	one transaction          256 alerts
//
// # Concurrency
//
// A Book is safe for concurrent use. One mutex guards its memory and is never held while the disk is used. Run owns the
// announcing and starts one goroutine that owns the writing. Only Recent, and Get of a closed alert, read the disk.
package alert

import (
	"errors"
	"fmt"
	"time"

	"linli/internal/telemetry"
)

// State is where an alert is in its life (ISA-18.2).
type State uint8

// The states. There is no "normal": an alert that does not exist is normal.
const (
	ActiveUnacknowledged State = iota + 1
	ActiveAcknowledged
	ReturnedUnacknowledged // condition gone, nobody acknowledged yet
	Closed
)

var stateNames = [...]string{"", "active_unacknowledged", "active_acknowledged", "returned_unacknowledged", "closed"}

// String returns the state as messages, the API and the store write it.
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// MarshalText writes the state as its name.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (s *State) UnmarshalText(text []byte) error {
	for i, name := range stateNames {
		if name == string(text) {
			*s = State(i)
			return nil
		}
	}
	return fmt.Errorf("unknown alert state %q", text)
}

// Active reports whether the condition holds, or held when last it could be decided.
func (s State) Active() bool { return s == ActiveUnacknowledged || s == ActiveAcknowledged }

// Alert is one alert as it stands after a transition. Its JSON form is the same in the API and on the wire, see
// MarshalJSON; note that a struct that embeds an Alert inherits that method and with it loses its other fields.
type Alert struct {
	ID string // ULID
	telemetry.Identity
	Severity   telemetry.Severity
	State      State
	Unknown    bool // active, but its condition cannot be decided just now
	LifeSafety bool
	// Tier is how far the alert has climbed because nobody acknowledged it; zero while it has not.
	Tier Tier
	// Suppressed: active, but SuppressedBy, which is active as well, explains it. Such an alert is shown, and nobody is
	// called for it.
	Suppressed   bool
	SuppressedBy telemetry.Identity // zero while not

	Title  telemetry.Text
	Detail telemetry.Text
	Device string         // device id, empty where the subject is a zone or the site
	Class  string         // class of the device, empty likewise
	Zone   string         // zone id, empty for the site
	Place  telemetry.Text // the zone path for people, outermost first, joined by " · "

	RaisedAt       time.Time // UTC
	AcknowledgedAt time.Time // zero while not
	AcknowledgedBy string
	ReturnedAt     time.Time // when the condition cleared, zero while it holds
	ClosedAt       time.Time
	CloseReason    string // returned, by_hand, removed, suppressed

	Revision int64 // grows by one with each transition of this alert
	// Durable is false while the last transition is announced but not yet committed to disk.
	Durable bool
	// TimeUncertain: the clock was not set at one of these times, or at a transition, and has not been since. Such a
	// time is in 1970.
	TimeUncertain bool

	said  telemetry.Severity // by the engine; Severity is the worse of the two
	least telemetry.Severity // that escalation asked for; 0 while it asked for none
	quiet bool               // suppressed since the moment of its raise: nobody has been told
}

// Open reports whether the alert is not closed.
func (a *Alert) Open() bool { return a.State != Closed }

// The words of Alert.CloseReason.
const (
	ReasonReturned = "returned" // the condition cleared and somebody acknowledged
	ReasonByHand   = "by_hand"
	ReasonRemoved  = "removed" // its device, zone or rule is no longer there
	// ReasonSuppressed: the condition cleared while the alert was suppressed, as it had been from its first moment.
	ReasonSuppressed = "suppressed"
)

// The words of Entry.What.
const (
	WhatRaised       = "raised"
	WhatAcknowledged = "acknowledged"
	WhatReturned     = "returned"
	WhatUnknown      = "unknown"
	WhatKnown        = "known"
	WhatChanged      = "changed"
	WhatRaisedAgain  = "raised_again"
	WhatClosed       = "closed"
	WhatCorrected    = "corrected"    // the clock was set: times before that are right now
	WhatEscalated    = "escalated"    // nobody acknowledged: the tier is higher, or the severity worse
	WhatSuppressed   = "suppressed"   // another alert explains it
	WhatUnsuppressed = "unsuppressed" // no longer: it asks for attention
)

// The names in Entry.By of what is not a person.
const (
	BySensor  = "sensor"  // the rules engine
	BySite    = "site"    // a new revision of the site file
	ByClock   = "clock"   // the clock was set, and the times before that were put right
	ByGateway = "gateway" // what follows from an alert: escalation and suppression
)

// Entry is one line of an alert's history.
type Entry struct {
	Revision int64     `json:"revision"`
	Time     time.Time `json:"time"`
	What     string    `json:"what"` // one of the words above
	By       string    `json:"by"`   // who: a person's name, or one of the words above
	Note     string    `json:"note,omitempty"`
	// Detail is what decided, for lines by the engine and by the gateway.
	Detail telemetry.Text `json:"detail,omitzero"`
	// TimeUncertain: the clock was not set, and Time is the time since boot, counted from 1970.
	TimeUncertain bool `json:"time_uncertain,omitempty"`

	boot     string // whose Time that is
	severity telemetry.Severity
}

// Boot returns the boot of the box that an uncertain Time was counted in, as telemetry.Clock names it; "" otherwise.
func (e Entry) Boot() string { return e.boot }

// Severity returns what the engine gave the alert, in a line by which it was raised or changed; 0 in others, and in lines
// of before it was written down.
func (e Entry) Severity() telemetry.Severity { return e.severity }

// Outgoing is one transition still to be told on a channel.
type Outgoing struct {
	Seq   int64 // order of the outbox; unique while the process runs
	Alert Alert
	What  string    // as Entry.What
	At    time.Time // of the transition, as Entry.Time
}

// The errors that callers decide on.
var (
	// ErrNotFound: no alert has this id.
	ErrNotFound = errors.New("no such alert")
	// ErrStillActive: an alert cannot be closed by hand while its condition holds.
	ErrStillActive = errors.New("the condition of the alert still holds")
	// ErrBadInput: a name or note is missing, too long or not text.
	ErrBadInput = errors.New("bad input")
)
