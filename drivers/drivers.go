// Package drivers says what the gateway needs from any driver, and supervises buses: one goroutine for each.
//
// A Bus is driven by Supervise, which calls Step whenever something is due and hands the samples on. Writes come
// from other goroutines through a Line: they overtake reads, and are carried out by the supervisor's goroutine
// between two Steps, so that a bus never sees two callers at once. So are the requests of tools (guests), which take
// a stated share of the line.
//
// Supervise logs changes of state only (a unit fell silent, a unit is back), never repetitions. It has no opinion
// about what a bus does within a Step; pacing, demotion of dead units and reconnecting belong to the bus.
package drivers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"linli/internal/telemetry"
)

// Bus is one serial line, one Modbus TCP endpoint or one GPIO chip. It is used by one goroutine at a time: its
// supervisor.
type Bus interface {
	// Step performs one transaction that is due at now, a few that usually take 20 ms together, or none, appends the samples
	// that these yield to dst, and returns when to call again. A failed transaction is not an error of Step: it yields samples
	// of bad quality.
	Step(ctx context.Context, now telemetry.Mono, dst []telemetry.Sample) (samples []telemetry.Sample, next telemetry.Mono)
	// Health returns the state of the bus and its units, for screens and metrics. It may be called from any goroutine.
	Health() BusHealth
	Close() error
}

// Writer is implemented by buses that have outputs.
type Writer interface {
	// Write sets a point to v and reads it back. It never repeats a write whose outcome is unknown.
	Write(ctx context.Context, point telemetry.PointID, v telemetry.Value) error
}

// Host is implemented by buses that let others ask units between their own transactions: commissioning tools.
// Like Step its methods belong to the bus's supervisor; callers use a Line.
type Host interface {
	// Ask sends one request PDU (function code first) to a unit and waits at most timeout (0: the bus's usual one) for
	// the answer to begin. Exceptions are answers. It never repeats anything. Where pdu Changes something and was sent,
	// but got no whole answer, the error is an *OutcomeUnknownError; where ctx ended before it was sent, ErrClosed.
	Ask(ctx context.Context, unit byte, pdu []byte, timeout time.Duration) (Reply, error)
	// Hear listens for d without asking.
	Hear(ctx context.Context, d time.Duration) ([]byte, error)
	// Suspend stops the polling until now+d, at most MaxSuspend, and sets the line to the given settings (the zero
	// values keep the bus's own); the points read bad (maintenance). A later Suspend replaces an earlier one; d = 0
	// resumes at once. Only serial lines can change settings.
	Suspend(ctx context.Context, d time.Duration, baud int, format string) error
}

// MaxSuspend bounds one suspension of a bus's polling.
const MaxSuspend = 10 * time.Minute

// Reply is what came back to a request.
type Reply struct {
	PDU   []byte        // the answer, function code first; nil with an error
	Heard []byte        // every byte that came while waiting, answer included; also with an error
	Took  time.Duration // from sending to the end of the answer, or to giving up
}

// Errors of writes. Decide on them with errors.Is.
var (
	// ErrNotWritable: the point is no output of this bus.
	ErrNotWritable = errors.New("not an output")
	// ErrRange: the value lies outside what the output accepts. Nothing was sent.
	ErrRange = errors.New("value out of range")
	// ErrClosed: the bus is no longer supervised. Nothing was sent.
	ErrClosed = errors.New("bus closed")
	// ErrNotHost: the bus cannot be asked for what none of its points is.
	ErrNotHost = errors.New("not a bus that can be asked")
	// ErrBusy: too many writes or requests are waiting for the bus. Nothing was sent.
	ErrBusy = errors.New("too many requests waiting")
	// ErrSuspended: the line has other settings for a while, which the unit would not understand. Nothing was sent.
	ErrSuspended = errors.New("the bus is suspended with other line settings")
)

// OutcomeUnknownError says that a write was sent, or may have been, and that nobody knows whether it took effect.
// The write is not repeated. Found with errors.As.
type OutcomeUnknownError struct {
	Err error // why: usually that no answer came
}

// Error returns the reason.
func (e *OutcomeUnknownError) Error() string { return "outcome unknown: " + e.Err.Error() }

// Unwrap returns the reason.
func (e *OutcomeUnknownError) Unwrap() error { return e.Err }

// NotTakenError says that the unit accepted a write but reads back another value.
type NotTakenError struct {
	Want, Got telemetry.Value
}

// Error tells both values.
func (e *NotTakenError) Error() string {
	return fmt.Sprintf("wrote %v but it reads back as %v", e.Want, e.Got)
}

// BusHealth is what a bus knows about itself. Counters count since start.
type BusHealth struct {
	Bus       string
	Up        bool    // the port is open or the endpoint connected
	LastError string  // empty while Up
	Busy      float64 // share of the last minute in which the line was in use, 0..1
	Suspended bool    // not polled: somebody uses the line with other settings
	Late      uint64  // frames discarded because they came too late
	Foreign   uint64  // frames discarded because they were of units or masters that are not ours, or noise
	Units     []UnitHealth
}

// UnitHealth is what a bus knows about one unit.
type UnitHealth struct {
	Unit       string
	Address    int
	Online     bool // the unit answers: false until its first answer, and again once the bus has given it up as silent
	Answers    uint64
	Timeouts   uint64
	Errors     uint64 // CRC, wrong length, wrong unit, wrong function
	CRC        uint64 // of Errors: the checksum did not match
	Retries    uint64 // requests repeated after a failure while the unit counted as online; not where an idle connection was closed
	Exceptions uint64
	Late       uint64        // frames discarded because they came too late
	RoundTrip  time.Duration // of the last answer
	LastError  string
}
