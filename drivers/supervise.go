package drivers

import (
	"context"
	"time"

	"go.uber.org/zap"

	"linli/internal/telemetry"
)

// healthEvery is how often, at most, the supervisor looks for units that changed their state.
const healthEvery = time.Second

// Waker is implemented by buses to which something happens: Supervise calls Step soon after each value from the
// channel, whatever moment the last Step asked for. The channel should hold one value, so that nothing is missed.
type Waker interface {
	Wake() <-chan struct{}
}

// Supervise drives bus until ctx ends, then closes it and returns nil. It calls Step, gives the samples to emit,
// and sleeps until the moment Step asked for. Where bus is a *Line, writes and requests waiting there are carried out
// first.
//
// emit must copy what it keeps: the slice is used again. emit may block; the bus waits meanwhile. After ctx ends
// Supervise returns as soon as the transaction in flight does, which a Bus ends on cancel.
func Supervise(ctx context.Context, clock *telemetry.Clock, bus Bus, emit func([]telemetry.Sample), log *zap.Logger) error {
	line, _ := bus.(*Line)
	if line == nil {
		line = NewLine(bus)
	}
	defer line.shut()
	watch := newWatch(line, log)
	var wake <-chan struct{}
	if w, ok := line.bus.(Waker); ok {
		wake = w.Wake()
	}

	var samples []telemetry.Sample
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		line.serve(ctx, clock)
		if ctx.Err() != nil {
			break
		}
		var next telemetry.Mono
		samples, next = bus.Step(ctx, clock.Mono(), samples[:0])
		if len(samples) > 0 {
			emit(samples)
		}
		now := clock.Mono()
		_, write := line.writable(now)
		next = min(next, line.waiting(now), write)
		wait := time.Duration(0)
		if next > now {
			wait = next.Sub(now)
		}
		// Before a longer sleep the look must not be put off: what changed in this Step would be told late.
		if wait > healthEvery || now.Sub(watch.last) >= healthEvery {
			watch.look(now)
		}
		if wait == 0 {
			continue
		}
		timer.Reset(wait)
		// A guest that has its turn already keeps the others of its queue waiting there.
		guests, sharers, writes := line.guests, line.sharers, line.writes
		if len(line.open) >= writesOpen {
			writes = nil
		}
		if line.turn[0] != nil {
			guests = nil
		}
		if line.turn[1] != nil {
			sharers = nil
		}
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-wake:
		case <-line.ended:
		case w := <-writes:
			line.take(w)
		case line.turn[0] = <-guests:
		case line.turn[1] = <-sharers:
		}
	}
	watch.look(clock.Mono())
	return bus.Close()
}

// watch turns the health of a bus into log lines at changes.
type watch struct {
	bus   *Line
	state BusHealth // as it was at the last look
	log   *zap.Logger
	last  telemetry.Mono
	up    seen
	since telemetry.Mono
	units map[string]*unitWatch
}

// seen is what was logged last; the zero value is "nothing yet".
type seen uint8

const (
	seenUp seen = iota + 1
	seenDown
)

type unitWatch struct {
	state  seen
	since  telemetry.Mono
	failed uint64 // failed transactions when the unit was last seen answering
}

func newWatch(bus *Line, log *zap.Logger) *watch {
	if log == nil {
		log = zap.NewNop()
	}
	return &watch{bus: bus, log: log, units: map[string]*unitWatch{}}
}

func (w *watch) look(now telemetry.Mono) {
	w.last = now
	w.bus.HealthInto(&w.state)
	h := &w.state
	name := zap.String("bus", h.Bus)
	switch {
	case h.Up && w.up == seenDown:
		w.log.Info("bus up", name, zap.Duration("after", now.Sub(w.since)))
		w.up = seenUp
	case h.Up:
		w.up = seenUp
	case h.LastError != "" && w.up != seenDown:
		w.log.Warn("bus down", name, zap.String("err", h.LastError))
		w.up, w.since = seenDown, now
	}
	for i := range h.Units {
		u := &h.Units[i]
		s := w.units[u.Unit]
		if s == nil {
			s = &unitWatch{}
			w.units[u.Unit] = s
		}
		failed := u.Timeouts + u.Errors + u.Exceptions
		switch {
		case u.Online && s.state == seenDown:
			w.log.Info("unit online", name, zap.String("unit", u.Unit),
				zap.Uint64("attempts", failed-s.failed), zap.Duration("after", now.Sub(s.since)))
			s.state = seenUp
		case u.Online:
			s.state = seenUp
		case u.LastError != "" && s.state != seenDown && w.up != seenDown:
			// While the whole bus is down its one line says enough.
			w.log.Warn("unit offline", name, zap.String("unit", u.Unit), zap.Int("address", u.Address),
				zap.String("err", u.LastError))
			s.state, s.since = seenDown, now
		}
		if u.Online {
			s.failed = failed
		}
	}
}
