// Package alert owns the alerts: which exist, in what state, who did what to them, and what is still to be told to
// whom. To be written: the package comment states guarantees and the table layout.
package alert

import (
	"context"
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

// Alert is one alert as it stands after a transition.
type Alert struct {
	ID string // ULID
	telemetry.Identity
	Severity   telemetry.Severity
	State      State
	Unknown    bool // active, but its condition cannot be decided just now
	LifeSafety bool
	Title      telemetry.Text
	Detail     telemetry.Text
	Device     string         // device id, empty where the subject is a zone or the site
	Class      string         // class of the device, empty likewise
	Zone       string         // zone id, empty for the site
	Place      telemetry.Text // the zone path for people, outermost first, joined by " · "

	RaisedAt       time.Time // UTC
	AcknowledgedAt time.Time // zero while not
	AcknowledgedBy string
	ReturnedAt     time.Time // when the condition cleared, zero while it holds
	ClosedAt       time.Time
	CloseReason    string // returned, by_hand, removed

	Revision int64 // grows by one with each transition of this alert
	// Durable is false while the last transition is announced but not yet committed to disk.
	Durable bool
	// TimeUncertain: the clock was not set when the alert was raised.
	TimeUncertain bool
}

// Open reports whether the alert is not closed.
func (a *Alert) Open() bool { return a.State != Closed }

// Entry is one line of an alert's history.
type Entry struct {
	Revision int64
	Time     time.Time
	What     string // raised, acknowledged, returned, unknown, known, changed, raised_again, closed
	By       string // who; "sensor" for the engine
	Note     string
}

// Outgoing is one transition still to be told on a channel.
type Outgoing struct {
	Seq   int64 // order of the outbox; unique while the process runs
	Alert Alert
	What  string // as Entry.What
}

// Book is the register of alerts. It is safe for concurrent use.
type Book struct{}

// Config says where the book is kept.
type Config struct {
	Path        string        // alerts.db
	CommitLimit time.Duration // a commit that takes longer is announced without it; 0 means 200 ms
	Keep        int           // closed alerts kept; 0 means 100,000
}

// Open opens or creates the book and reads what is open and what is still to be told.
func Open(cfg Config, inv *telemetry.Inventory) (*Book, error) { panic("to be written") }

// Active returns the alerts whose condition held when last heard of, for the engine to take over.
func (b *Book) Active() []telemetry.ActiveAlert { panic("to be written") }

// Run commits and announces until ctx ends; then it commits what is left.
func (b *Book) Run(ctx context.Context) error { panic("to be written") }

// Close closes the store. Run must have returned.
func (b *Book) Close() error { panic("to be written") }

// Submit takes what the engine said. It never blocks on the disk.
func (b *Book) Submit(now telemetry.Now, ts []telemetry.Transition) { panic("to be written") }

// Acknowledge acknowledges an open alert for by; acknowledging twice is not an error.
func (b *Book) Acknowledge(ctx context.Context, id, by, note string) (Alert, error) {
	panic("to be written")
}

// CloseByHand closes an open alert whose condition is gone or unknown.
func (b *Book) CloseByHand(ctx context.Context, id, by, note string) (Alert, error) {
	panic("to be written")
}

// OpenAlerts returns every open alert, worst first, then newest first.
func (b *Book) OpenAlerts() []Alert { panic("to be written") }

// Recent returns up to n closed alerts, newest first.
func (b *Book) Recent(n int) ([]Alert, error) { panic("to be written") }

// Get returns an alert and its history, oldest entry first.
func (b *Book) Get(id string) (Alert, []Entry, error) { panic("to be written") }

// Changed returns a channel that is closed at the next announcement: wait on it, then look again.
func (b *Book) Changed() <-chan struct{} { panic("to be written") }

// Pending returns up to n transitions not yet told on channel, oldest first; of one alert only the newest need be
// returned.
func (b *Book) Pending(channel string, n int) []Outgoing { panic("to be written") }

// Told records that everything up to and including seq of that alert was told on channel.
func (b *Book) Told(channel string, id string, seq int64) { panic("to be written") }
