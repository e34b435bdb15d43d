// Package drivers says what the gateway needs from any driver, and supervises buses: one goroutine for each.
package drivers

import (
	"context"
	"time"

	"linli/internal/telemetry"
)

// Bus is one serial line, one Modbus TCP endpoint or one GPIO chip. It is used by one goroutine at a time: its
// supervisor.
type Bus interface {
	// Step performs at most one transaction that is due at now, appends the samples it yields to dst, and returns
	// when to call again. A failed transaction is not an error of Step: it yields samples of bad quality.
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

// BusHealth is what a bus knows about itself. Counters count since start.
type BusHealth struct {
	Bus       string
	Up        bool    // the port is open or the endpoint connected
	LastError string  // empty while Up
	Busy      float64 // share of the last minute in which the line was in use, 0..1
	Units     []UnitHealth
}

// UnitHealth is what a bus knows about one unit.
type UnitHealth struct {
	Unit       string
	Address    int
	Online     bool // the last transaction got a valid answer; false until the first
	Answers    uint64
	Timeouts   uint64
	Errors     uint64 // CRC, wrong length, wrong unit, wrong function
	Exceptions uint64
	Late       uint64        // frames discarded because they were late or foreign
	RoundTrip  time.Duration // of the last answer
	LastError  string
}
