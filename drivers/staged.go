package drivers

import (
	"context"
	"errors"
	"time"

	"linli/internal/telemetry"
)

// ErrSilent: the unit does not answer, also when it was asked just now. Nothing was sent.
var ErrSilent = errors.New("the unit does not answer; nothing was sent")

// Stager is implemented by writers for which one write is several transactions. Between them, and while the unit has to be
// left alone, others have their turn.
type Stager interface {
	// Stage begins a write, without a transaction. An error is the outcome.
	Stage(point telemetry.PointID, v telemetry.Value) (Staged, error)
}

// Staged is a write on its way. Like Step its methods belong to the bus's supervisor.
type Staged interface {
	// Unit tells writes to one unit from those to others: they do not overtake each other.
	Unit() int
	// Ready returns when the next transaction can go: a moment that may have passed.
	Ready(now telemetry.Mono) telemetry.Mono
	// Next carries out at most one transaction and reports whether that was the last. The error is the outcome of the
	// whole write. Where ctx has ended nothing more is sent, and it was the last.
	Next(ctx context.Context) (done bool, err error)
}

const (
	// writesOpen bounds the writes that were taken out of the queue and are not over.
	writesOpen = 16
	// writesSlow is the time of a transaction after which life-safety reads that are due have as much.
	writesSlow = 100 * time.Millisecond
)

// whole is a write that is one call.
type whole struct {
	w     Writer
	point telemetry.PointID
	value telemetry.Value
}

func (whole) Unit() int                           { return -1 }
func (whole) Ready(telemetry.Mono) telemetry.Mono { return 0 }
func (s whole) Next(ctx context.Context) (bool, error) {
	return true, s.w.Write(ctx, s.point, s.value)
}

// admit takes writes out of the queue that can be begun.
func (l *Line) admit() {
	for len(l.open) < writesOpen {
		select {
		case w := <-l.writes:
			l.take(w)
		default:
			return
		}
	}
}

// take adds w to the open writes, or ends it.
func (l *Line) take(w *write) {
	wr, ok := l.bus.(Writer)
	if !ok {
		w.end(ErrNotWritable)
		return
	}
	w.stages = whole{wr, w.point, w.value}
	if s, ok := l.bus.(Stager); ok {
		var err error
		if w.stages, err = s.Stage(w.point, w.value); err != nil {
			w.end(err)
			return
		}
	}
	l.open = append(l.open, w)
}

// end tells the outcome of a write that was not begun.
func (w *write) end(err error) {
	if w.taken.CompareAndSwap(false, true) {
		w.done <- err
	}
}

// writable returns the first open write whose next transaction may go, and otherwise when one may. Writes to one unit
// keep their order.
func (l *Line) writable(now telemetry.Mono) (int, telemetry.Mono) {
	next := telemetry.Never
	for i, w := range l.open {
		behind := false
		for _, o := range l.open[:i] {
			behind = behind || o.stages.Unit() == w.stages.Unit()
		}
		if behind {
			continue
		}
		at := w.stages.Ready(now)
		if at <= now || w.ctx.Err() != nil {
			return i, now
		}
		next = min(next, at)
	}
	return -1, next
}

// write carries out one transaction of an open write, if one may go.
func (l *Line) write(ctx context.Context, now telemetry.Mono) bool {
	l.admit()
	i, _ := l.writable(now)
	if i < 0 {
		return false
	}
	w := l.open[i]
	if !w.begun {
		if !w.taken.CompareAndSwap(false, true) { // Its caller has gone.
			l.drop(i)
			return true
		}
		w.begun = true
		if ctx.Err() != nil {
			w.done <- ErrClosed
			l.drop(i)
			return true
		}
	}
	both, cancel := context.WithCancel(w.ctx)
	stop := context.AfterFunc(ctx, cancel)
	done, err := w.stages.Next(both)
	stop()
	cancel()
	if done {
		w.done <- err
		l.drop(i)
	}
	return true
}

// drop forgets an open write.
func (l *Line) drop(i int) { l.open = append(l.open[:i], l.open[i+1:]...) }

// abandon ends the open writes: what was sent is unknown, the rest was not begun.
func (l *Line) abandon() {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for _, w := range l.open {
		if !w.begun {
			w.end(ErrClosed)
			continue
		}
		for done := false; !done; {
			var err error
			if done, err = w.stages.Next(ended); done {
				w.done <- err
			}
		}
	}
	l.open = nil
}
