package drivers

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"linli/internal/telemetry"
)

// writesWaiting bounds the writes that wait for one bus. A full queue refuses the newest (ErrBusy): whoever asked
// learns at once that nothing was sent, instead of a siren that starts minutes late.
const writesWaiting = 64

// Line is a Bus that takes writes from any goroutine. Give it to Supervise in place of the bus it wraps.
type Line struct {
	bus     Bus
	writes  chan *write
	refused atomic.Uint64

	mu     sync.Mutex // guards closed and sends on writes
	closed bool
}

// write is one write on its way. Its state is decided once: either the supervisor begins it, or the caller gives
// it up; never both, so that "not sent" is the truth when it is reported.
type write struct {
	ctx   context.Context
	point telemetry.PointID
	value telemetry.Value
	taken atomic.Bool
	done  chan error // buffered: the supervisor never waits for the caller
}

// NewLine returns a Line over bus.
func NewLine(bus Bus) *Line {
	return &Line{bus: bus, writes: make(chan *write, writesWaiting)}
}

// Step calls the bus.
func (l *Line) Step(ctx context.Context, now telemetry.Mono, dst []telemetry.Sample) ([]telemetry.Sample, telemetry.Mono) {
	return l.bus.Step(ctx, now, dst)
}

// Health returns the bus's health.
func (l *Line) Health() BusHealth { return l.bus.Health() }

// Close closes the bus. Writes that still wait fail with ErrClosed.
func (l *Line) Close() error {
	l.shut()
	return l.bus.Close()
}

// Refused returns how many writes were refused because too many were waiting.
func (l *Line) Refused() uint64 { return l.refused.Load() }

// Write sets a point to v and returns when the unit has confirmed it by reading back. It may be called from any
// goroutine. It waits for the transaction in flight, not for those that are due. Where ctx ends before the write
// was begun nothing is sent and ctx's error is returned; afterwards the answer may be an *OutcomeUnknownError.
func (l *Line) Write(ctx context.Context, point telemetry.PointID, v telemetry.Value) error {
	w := &write{ctx: ctx, point: point, value: v, done: make(chan error, 1)}
	if err := l.offer(w); err != nil {
		return err
	}
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		if w.taken.CompareAndSwap(false, true) {
			return fmt.Errorf("write was not begun: %w", ctx.Err())
		}
		return <-w.done // The bus ends it soon: it has the same ctx.
	}
}

func (l *Line) offer(w *write) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	select {
	case l.writes <- w:
		return nil
	default:
		l.refused.Add(1)
		return ErrBusy
	}
}

// serve carries out the writes that wait now. New ones that come meanwhile are served too, but not more than the
// queue holds: a flood of writes must not stop the reading.
func (l *Line) serve(ctx context.Context) {
	for range writesWaiting {
		select {
		case w := <-l.writes:
			l.do(ctx, w)
		default:
			return
		}
	}
}

// do carries out one write, ending it when either its own ctx or the supervisor's ends.
func (l *Line) do(ctx context.Context, w *write) {
	if !w.taken.CompareAndSwap(false, true) {
		return
	}
	if ctx.Err() != nil {
		w.done <- ErrClosed
		return
	}
	wr, ok := l.bus.(Writer)
	if !ok {
		w.done <- ErrNotWritable
		return
	}
	both, cancel := context.WithCancel(w.ctx)
	stop := context.AfterFunc(ctx, cancel)
	w.done <- wr.Write(both, w.point, w.value)
	stop()
	cancel()
}

// shut refuses further writes and fails those that wait.
func (l *Line) shut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for {
		select {
		case w := <-l.writes:
			if w.taken.CompareAndSwap(false, true) {
				w.done <- ErrClosed
			}
		default:
			return
		}
	}
}

// Ask asks a unit on behalf of a tool (see Host.Ask) between the bus's own transactions. share is the part of the
// line's time that such requests may take together, 0 for as soon as possible. Writes of outputs and reads that are
// due go first where share is not 0. ErrNotHost where the bus is none.
func (l *Line) Ask(ctx context.Context, unit byte, pdu []byte, timeout time.Duration, share float64) (Reply, error) {
	return Reply{}, ErrNotHost
}

// Hear listens on the line for d, at most 10 s (see Host.Hear).
func (l *Line) Hear(ctx context.Context, d time.Duration) ([]byte, error) { return nil, ErrNotHost }

// Suspend stops the bus's polling for d (see Host.Suspend).
func (l *Line) Suspend(ctx context.Context, d time.Duration, baud int, format string) error {
	return ErrNotHost
}
