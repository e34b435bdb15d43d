package drivers

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"linli/internal/telemetry"
)

const (
	// guestsWaiting bounds the requests of tools that wait for one bus, of each sort. A full queue refuses the newest
	// (ErrBusy).
	guestsWaiting = 64
	// hearMost bounds one Hear; hearPiece is how long it keeps the bus's own transactions waiting at a time.
	hearMost  = 10 * time.Second
	hearPiece = 250 * time.Millisecond
	// notBefore keeps a bus that says that something is due, and then does nothing, from being asked in a circle.
	notBefore = time.Millisecond
)

// Polling is implemented by hosts that read on their own: it is what their guests must respect. Its methods belong to
// the bus's supervisor.
type Polling interface {
	// Urgent returns when the next life-safety read can go and when one is overdue by its whole interval: moments that
	// may have passed, or Never.
	Urgent(now telemetry.Mono) (due, overdue telemetry.Mono)
	// Free returns when unit may be asked next: not within its own pause, nor while its late answer may still come.
	Free(unit byte, now telemetry.Mono) telemetry.Mono
}

// guest is one request of a tool on its way. As with a write, either the supervisor begins it or the caller gives it
// up. What was begun ends by its own bound, whether or not the caller still waits.
type guest struct {
	unit  int     // whom it asks; -1 for nobody
	share float64 // of the line's time; 0 for as soon as possible
	late  bool    // goes also after EndGuests: it gives the bus back
	run   func(ctx context.Context, h Host) error
	taken atomic.Bool
	done  chan error // buffered
}

func (g *guest) fail(err error) {
	if g.taken.CompareAndSwap(false, true) {
		g.done <- err
	}
}

// visit has g carried out by the supervisor's goroutine.
func (l *Line) visit(ctx context.Context, g *guest) error {
	if _, ok := l.bus.(Host); !ok {
		return ErrNotHost
	}
	if l.noGuests.Load() && !g.late {
		return ErrClosed
	}
	g.done = make(chan error, 1)
	queue := l.guests
	if g.share > 0 {
		queue = l.sharers
	}
	if err := offer(l, queue, g); err != nil {
		return err
	}
	select {
	case err := <-g.done:
		return err
	case <-ctx.Done():
		if g.taken.CompareAndSwap(false, true) {
			return fmt.Errorf("not begun: %w", ctx.Err())
		}
		// It is on the line, and ends within its timeout. To break it off would cost the bus its connection.
		return fmt.Errorf("%w: %w", errBegun, ctx.Err())
	}
}

// Ask asks a unit on behalf of a tool (see Host.Ask) between the bus's own transactions. share is the part of the
// line's time that such requests may take together (above 0, at most 1): after one that took d the next waits for
// d*(1/share-1), and goes only while no write waits and no life-safety read is due. With share 0 it goes as soon as
// possible: after the transaction in flight and the writes that wait. Where ctx ends first its error is returned, and
// what came, if it had been begun, is lost. ErrNotHost where the bus is none, ErrClosed where it was not begun before
// the bus ended or EndGuests. A request of a function that changes something and was begun, without a whole answer, is
// an *OutcomeUnknownError.
func (l *Line) Ask(ctx context.Context, unit byte, pdu []byte, timeout time.Duration, share float64) (Reply, error) {
	if !(share >= 0 && share <= 1) {
		return Reply{}, fmt.Errorf("share %v of the line: want 0 to 1", share)
	}
	var reply Reply
	pdu = append([]byte(nil), pdu...) // The caller may be gone by the time it is sent.
	got := make(chan Reply, 1)
	err := l.visit(ctx, &guest{unit: int(unit), share: share, run: func(ctx context.Context, h Host) error {
		r, err := h.Ask(ctx, unit, pdu, timeout)
		got <- r
		return err
	}})
	select {
	case reply = <-got:
	default:
		if err != nil && errors.Is(err, errBegun) && Changes(pdu) {
			err = &OutcomeUnknownError{Err: err}
		}
	}
	return reply, err
}

// errBegun says that what a caller gave up was on the line.
var errBegun = errors.New("given up while it was on its way")

// Changes reports whether a Modbus request PDU may change something at the unit: every function that is not known only
// to read.
func Changes(pdu []byte) bool {
	if len(pdu) == 0 {
		return false
	}
	switch pdu[0] {
	case 1, 2, 3, 4, 7, 11, 12, 17, 20, 24, 43:
		return false
	case 8: // Sub-function 0 only returns what was sent.
		return len(pdu) < 3 || pdu[1] != 0 || pdu[2] != 0
	}
	return true
}

// EndGuests ends the time of tools: their requests that wait, and all further ones, fail with ErrClosed, but a Suspend
// that resumes is let through. Writes of outputs go on. One that is on its way ends before any write that is asked for
// afterwards. It may be called from any goroutine, and more than once.
func (l *Line) EndGuests() {
	l.noGuests.Store(true)
	select {
	case l.ended <- struct{}{}:
	default:
	}
}

// Hear listens on the line for d, at most 10 s (see Host.Hear). The bus's own transactions go on: it listens between
// them, and what it returns is what came meanwhile.
func (l *Line) Hear(ctx context.Context, d time.Duration) ([]byte, error) {
	var all []byte
	for d = min(d, hearMost); d > 0; d -= hearPiece {
		piece := min(d, hearPiece)
		got := make(chan []byte, 1)
		err := l.visit(ctx, &guest{unit: -1, run: func(ctx context.Context, h Host) error {
			heard, err := h.Hear(ctx, piece)
			got <- heard
			return err
		}})
		select {
		case heard := <-got:
			all = append(all, heard...)
		default:
		}
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

// Suspend stops the bus's polling for d (see Host.Suspend).
func (l *Line) Suspend(ctx context.Context, d time.Duration, baud int, format string) error {
	return l.visit(ctx, &guest{unit: -1, late: d <= 0, run: func(ctx context.Context, h Host) error {
		return h.Suspend(ctx, d, baud, format)
	}})
}

// waiting returns when the first of the guests may go, Never where none waits. Those whose caller gave up are
// forgotten.
func (l *Line) waiting(now telemetry.Mono) telemetry.Mono {
	next := telemetry.Never
	for i, queue := range [2]chan *guest{l.guests, l.sharers} {
		for {
			if g := l.turn[i]; g != nil && l.noGuests.Load() && !g.late {
				g.fail(ErrClosed)
			}
			if g := l.turn[i]; g != nil && !g.taken.Load() {
				break
			}
			l.turn[i] = nil
			select {
			case l.turn[i] = <-queue:
				continue
			default:
			}
			break
		}
		if g := l.turn[i]; g != nil {
			next = min(next, l.ready(g, now))
		}
	}
	return next
}

// ready returns when g may go.
func (l *Line) ready(g *guest, now telemetry.Mono) telemetry.Mono {
	at := now
	polling, _ := l.bus.(Polling)
	if g.share > 0 {
		at = max(at, l.shareFree)
	}
	if polling == nil {
		return at
	}
	if g.unit >= 0 {
		at = max(at, polling.Free(byte(g.unit), now))
	}
	if g.share > 0 && at <= now {
		if due, _ := polling.Urgent(now); due <= now {
			return now.Add(notBefore)
		}
	}
	return at
}

// host carries out at most one guest that may go now.
func (l *Line) host(ctx context.Context, clock *telemetry.Clock) {
	now := clock.Mono()
	if l.waiting(now) > now {
		return
	}
	for i, g := range l.turn {
		if g == nil || l.ready(g, now) > now {
			continue
		}
		l.turn[i] = nil
		if !g.taken.CompareAndSwap(false, true) {
			continue
		}
		h, ok := l.bus.(Host)
		switch {
		case ctx.Err() != nil:
			g.done <- ErrClosed
		case !ok:
			g.done <- ErrNotHost
		default:
			err := g.run(ctx, h)
			if g.share > 0 {
				end := clock.Mono()
				l.shareFree = end.Add(time.Duration(float64(end.Sub(now)) * (1/g.share - 1)))
			}
			g.done <- err
		}
		return
	}
}
