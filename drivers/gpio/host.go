package gpio

import (
	"context"
	"errors"
	"time"

	periph "periph.io/x/conn/v3/gpio"

	"linli/internal/telemetry"
)

// Host finds GPIO chips. The kernel's is used where Config.Host is nil; tests and demonstrations bring their own.
type Host interface {
	// Open finds the chip by name (gpiochip0), path or label. An error says what there is instead. More than one chip of
	// that label is an error.
	Open(chip string) (Chip, error)
}

// Chip is an open GPIO chip. It is used by one goroutine at a time.
type Chip interface {
	// Request takes lines for this process alone. The error names who has them, if somebody else does. ErrNoEdges and
	// ErrNoDebounce say that the same request without that could do.
	Request(r Request) (Lines, error)
	// Close lets the chip go. Lines that were taken stay.
	Close() error
}

// Request says which lines are wanted, and as what. Levels are those after ActiveLow everywhere in this package: High
// is true.
type Request struct {
	Consumer  string   // who asks, for others that find the line in use
	Lines     []string // one or two, by name, or by number on the chip
	ActiveLow bool

	Pull     periph.Pull   // of inputs
	Edge     periph.Edge   // the edges to be told; NoEdge none
	Debounce time.Duration // 0 none

	Out     bool         // an output; one line
	Initial periph.Level // what an output starts with: set in the same moment in which it becomes one
	// Keep: a line that is an output already keeps its level. One that is not starts with Initial.
	Keep bool
}

// Lines are lines that are ours. Their methods may be called from several goroutines.
type Lines interface {
	// Wait returns as many edges as have come and fit, and blocks until there is one. It ends with ctx's error, or with
	// the reason why the lines are lost. One goroutine calls it at a time.
	Wait(ctx context.Context, edges []Edge) (int, error)
	// Read reads the present level of each line, of outputs too; debounced where the lines are.
	Read(levels []periph.Level) error
	// Set sets the level of an output.
	Set(level periph.Level) error
	Close() error
}

// Edge is one change of level.
type Edge struct {
	Line  int          // index in Request.Lines
	Level periph.Level // the level after it
	Time  telemetry.Mono
	// Lost is how many edges of this line were lost right before this one because nobody fetched them.
	Lost uint32
}

// Errors that decide what is tried next. Find them with errors.Is.
var (
	// ErrNoEdges: the chip has no interrupts, its lines can only be looked at.
	ErrNoEdges = errors.New("the chip does not report edges")
	// ErrGone: the chip was unplugged, or its driver unloaded. Of Lines.
	ErrGone = errors.New("the chip is gone")
	// ErrNoDebounce: neither chip nor kernel can debounce this line.
	ErrNoDebounce = errors.New("the chip does not debounce")
)
