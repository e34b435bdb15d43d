package drivers

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"linli/internal/telemetry"
)

// writesWaiting bounds the writes that wait for one bus. A full queue refuses the newest (ErrBusy): whoever asked
// learns at once that nothing was sent, instead of a siren that starts minutes late.
const writesWaiting = 64

// Line is a Bus that takes writes, and requests of tools, from any goroutine. Give it to Supervise in place of the
// bus it wraps.
//
// Between two Steps the supervisor carries out all writes that can go, transaction by transaction, but lets a life-safety
// read have its turn that is overdue by its whole interval, and those that are due as much time as a slow write took
// (its unit does not answer); then at most one request of a tool.
type Line struct {
	bus     Bus
	writes  chan *write
	guests  chan *guest // as soon as possible
	sharers chan *guest // within their share of the line's time
	refused atomic.Uint64

	noGuests atomic.Bool
	ended    chan struct{} // holds one value: wakes the supervisor after EndGuests

	mu     sync.Mutex // guards closed and sends on the queues
	closed bool

	// What follows belongs to the supervisor's goroutine.
	open      []*write       // taken out of writes and not over, in order
	writeFree telemetry.Mono // no write goes before while a life-safety read is due
	turn      [2]*guest      // taken out of guests and sharers, not carried out yet
	shareFree telemetry.Mono // when the share allows the next of the sharers
}

// write is one write on its way. Its state is decided once: either the supervisor begins it, or the caller gives
// it up; never both, so that "not sent" is the truth when it is reported.
type write struct {
	ctx   context.Context
	point telemetry.PointID
	value telemetry.Value
	taken atomic.Bool
	done  chan error // buffered: the supervisor never waits for the caller

	// What follows belongs to the supervisor's goroutine.
	stages Staged
	begun  bool
}

// NewLine returns a Line over bus.
func NewLine(bus Bus) *Line {
	return &Line{bus: bus, writes: make(chan *write, writesWaiting), ended: make(chan struct{}, 1),
		guests: make(chan *guest, guestsWaiting), sharers: make(chan *guest, guestsWaiting)}
}

// Step calls the bus.
func (l *Line) Step(ctx context.Context, now telemetry.Mono, dst []telemetry.Sample) ([]telemetry.Sample, telemetry.Mono) {
	return l.bus.Step(ctx, now, dst)
}

// Health returns the bus's health.
func (l *Line) Health() BusHealth { return l.bus.Health() }

// HealthInto puts the bus's health into h, whose memory it uses again: for whoever looks at many units often.
func (l *Line) HealthInto(h *BusHealth) {
	if b, ok := l.bus.(interface{ HealthInto(*BusHealth) }); ok {
		b.HealthInto(h)
		return
	}
	*h = l.bus.Health()
}

// Close closes the bus. Writes and requests that still wait fail with ErrClosed.
func (l *Line) Close() error {
	l.shut()
	return l.bus.Close()
}

// Refused returns how many writes and requests of tools were refused because too many were waiting.
func (l *Line) Refused() uint64 { return l.refused.Load() }

// Write sets a point to v and returns when the unit has confirmed it by reading back. It may be called from any
// goroutine. It waits for what is in flight (a transaction, or over Modbus TCP a run of them: usually 20 ms at most), not for
// what else is due. Where ctx ends before the write was begun nothing is sent and ctx's error is returned; afterwards the
// answer may be an *OutcomeUnknownError.
func (l *Line) Write(ctx context.Context, point telemetry.PointID, v telemetry.Value) error {
	w := &write{ctx: ctx, point: point, value: v, done: make(chan error, 1)}
	if err := offer(l, l.writes, w); err != nil {
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

// offer puts x into one of the line's queues, or refuses it.
func offer[T any](l *Line, queue chan T, x T) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	select {
	case queue <- x:
		return nil
	default:
		l.refused.Add(1)
		return ErrBusy
	}
}

// serve carries out what waits now: writes, then at most one request of a tool. Writes that come meanwhile are
// served too, but not more than the queue holds, and none after the first transaction while a life-safety read is
// // overdue, or is due after a slow one: neither a flood of writes nor a unit that is silent must stop the reading.
func (l *Line) serve(ctx context.Context, clock *telemetry.Clock) {
	polling, _ := l.bus.(Polling)
	for i := range 4 * writesWaiting {
		now := clock.Mono()
		if polling != nil {
			due, overdue := polling.Urgent(now)
			if i > 0 && overdue <= now || due <= now && now < l.writeFree {
				return
			}
		}
		if !l.write(ctx, now) {
			l.host(ctx, clock)
			return
		}
		if end := clock.Mono(); end.Sub(now) >= writesSlow {
			l.writeFree = end.Add(end.Sub(now))
		}
	}
}

// shut refuses further writes and requests, and fails those that wait. Only the supervisor calls it while it runs.
func (l *Line) shut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.abandon()
	for i, g := range l.turn {
		if g != nil {
			g.fail(ErrClosed)
		}
		l.turn[i] = nil
	}
	for {
		select {
		case w := <-l.writes:
			if w.taken.CompareAndSwap(false, true) {
				w.done <- ErrClosed
			}
		case g := <-l.guests:
			g.fail(ErrClosed)
		case g := <-l.sharers:
			g.fail(ErrClosed)
		default:
			return
		}
	}
}
