package gpio

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	periph "periph.io/x/conn/v3/gpio"
	"periph.io/x/conn/v3/physic"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// output is one output line. It is a periph.PinOut, and may be used from any goroutine.
type output struct {
	spec firmwareconfig.GPIOLine

	mu    sync.Mutex // guards everything below
	lines Lines      // nil while the line is not ours
	known bool       // level is what the line was set to, or was found at
	level periph.Level
	blind bool // the chip cannot read its outputs

	notify func() // called after somebody has set the level through Out
}

var _ periph.PinOut = (*output)(nil)

// errNotOurs: the line is not ours at present.
var errNotOurs = errors.New("the line is not ours")

// outputRequest is what is asked of the chip for an output.
func outputRequest(l *firmwareconfig.GPIOLine, initial periph.Level, keep bool) Request {
	return Request{
		Consumer: "linli " + l.ID, Lines: []string{l.Line}, ActiveLow: l.ActiveLow, Out: true, Initial: initial, Keep: keep,
	}
}

// request asks for the level the output last had, at first for what on_start says.
func (o *output) request() Request {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.known {
		return outputRequest(&o.spec, o.level, false)
	}
	return outputRequest(&o.spec, o.spec.OnStart == firmwareconfig.OutputOn, o.spec.OnStart == firmwareconfig.OutputHold)
}

// taken says that the line is ours, or with nil that it is not any more.
func (o *output) taken(lines Lines) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lines = lines
	if lines == nil {
		return
	}
	now := make([]periph.Level, 1)
	err := lines.Read(now)
	o.blind = err != nil && !errors.Is(err, ErrGone)
	if !o.known {
		o.known, o.level = true, now[0]
		if o.blind || o.spec.OnStart != firmwareconfig.OutputHold {
			o.level = o.spec.OnStart == firmwareconfig.OutputOn
		}
	}
}

// set sets the level and keeps it as what the line should have.
func (o *output) set(level periph.Level) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.lines == nil {
		return errNotOurs
	}
	if err := o.lines.Set(level); err != nil {
		return err
	}
	o.known, o.level = true, level
	return nil
}

// again sets the line once more to what it should have.
func (o *output) again() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.lines == nil {
		return errNotOurs
	}
	return o.lines.Set(o.level)
}

// get returns what the output was set to, and whether it is ours.
func (o *output) get() (level periph.Level, ours bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.level, o.lines != nil
}

// String implements conn.Resource.
func (o *output) String() string { return o.spec.ID + "(" + o.spec.Line + ")" }

// Halt implements conn.Resource: it does nothing. An output keeps its level until somebody sets another.
func (o *output) Halt() error { return nil }

// Name implements pin.Pin.
func (o *output) Name() string { return o.spec.Line }

// Number implements pin.Pin: the line's number on the chip where the site file gives that, otherwise -1.
func (o *output) Number() int {
	if n, err := strconv.Atoi(o.spec.Line); err == nil {
		return n
	}
	return -1
}

// Function implements pin.Pin.
func (o *output) Function() string { return "Out" }

// Out implements periph's PinOut. Like every level here, High is true: with active_low it is 0 V.
func (o *output) Out(level periph.Level) error {
	err := o.set(level)
	if err == nil {
		o.notify()
	}
	return err
}

// PWM implements periph's PinOut: the character device has none.
func (o *output) PWM(periph.Duty, physic.Frequency) error {
	return fmt.Errorf("output %s: no PWM on lines of the character device", o.spec.ID)
}

// Write implements drivers.Writer. The value is set even where the output has it already: that repairs a chip that has
// forgotten it. It blocks for at most half a second, and that only while a feedback contact does not follow.
func (b *Bus) Write(ctx context.Context, point telemetry.PointID, v telemetry.Value) error {
	t, ok := b.outs[point]
	if !ok {
		return fmt.Errorf("%w: point %d of bus %s", drivers.ErrNotWritable, point, b.name)
	}
	if b.closed {
		return drivers.ErrClosed
	}
	if v.Kind() != telemetry.Bool {
		return fmt.Errorf("%w: %v is no bool", drivers.ErrRange, v)
	}
	l := t.l
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("output %s was not set: %w", l.spec.ID, err)
	}
	if l.lines == nil {
		b.acquire(b.clock.Mono(), l) // It may be back.
		if l.lines == nil {
			return fmt.Errorf("output %s was not set: %w", l.spec.ID, l.err)
		}
	}
	defer b.signal() // Step tells the new state.
	want := periph.Level(t.p.level(v))
	if err := l.out.set(want); err != nil {
		l.queue.fail(err) // Step lets the line go.
		return &drivers.OutcomeUnknownError{Err: fmt.Errorf("output %s: %w", l.spec.ID, err)}
	}
	notTaken := &drivers.NotTakenError{Want: v, Got: t.p.bool(bool(!want))}
	if !l.out.blind {
		got := make([]periph.Level, 1)
		if err := l.lines.Read(got); err != nil {
			return &drivers.OutcomeUnknownError{Err: fmt.Errorf("output %s: %w", l.spec.ID, err)}
		}
		if got[0] != want {
			return notTaken
		}
		l.wrong = false
	}
	if l.feedback == nil {
		return nil
	}
	return b.followed(ctx, l, want, notTaken)
}

// followed waits until the feedback contact has followed the output.
func (b *Bus) followed(ctx context.Context, l *line, want periph.Level, notTaken error) error {
	unknown := func(err error) error {
		return &drivers.OutcomeUnknownError{Err: fmt.Errorf("output %s was set, but whether it followed: %w", l.spec.ID, err)}
	}
	if l.feedback.lines == nil {
		return unknown(l.feedback.err)
	}
	end := b.clock.Mono().Add(follow)
	got := make([]periph.Level, 1)
	tick := time.NewTicker(follow / 50)
	defer tick.Stop()
	for {
		if err := l.feedback.lines.Read(got); err != nil {
			return unknown(err)
		}
		if got[0] == want {
			return nil
		}
		if b.clock.Mono() >= end {
			return notTaken
		}
		select {
		case <-ctx.Done():
			return unknown(ctx.Err())
		case <-tick.C:
		}
	}
}
