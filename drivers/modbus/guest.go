package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// askMost bounds the wait for the answer to a guest's request.
const askMost = 5 * time.Second

// guests is what a bus keeps about requests that are not its own.
type guests struct {
	until    telemetry.Mono      // the bus is suspended until this moment; 0 for not at all
	own, set firmwareconfig.Line // the settings for the bus's own units, and those that the line has
	serial   bool                // they can be changed
	hold     time.Duration       // the line's bound on one transaction while it is not suspended
	asked    map[byte]*unit      // the bus's own units by address
	stranger [256]telemetry.Mono // when a unit that is not ours may be asked again: its late answer may still come
}

// Ask sends a guest's request (see drivers.Host). On a line with life-safety points or outputs it waits for an answer at
// most as long as the bus's own requests do, unless the bus is suspended. Where the link is down it is tried once. A unit of
// the bus is left its pauses; one that was given up and answers is read at once.
func (b *Bus) Ask(ctx context.Context, unit byte, pdu []byte, timeout time.Duration) (drivers.Reply, error) {
	reply, err := b.ask(ctx, unit, pdu, timeout)
	if err != nil {
		err = fmt.Errorf("ask bus %s unit %d: %w", b.name, unit, err)
	}
	return reply, err
}

func (b *Bus) ask(ctx context.Context, unit byte, pdu []byte, timeout time.Duration) (drivers.Reply, error) {
	u := b.guests.asked[unit]
	switch {
	case timeout <= 0 && u != nil:
		timeout = u.timeout
	case timeout <= 0:
		timeout = defaultTimeout
	}
	timeout = min(timeout, askMost)
	timeout = min(timeout, b.mostFor(u))
	if err := b.reach(ctx); err != nil {
		return drivers.Reply{}, unsent(ctx, err)
	}
	free := b.Free(unit, b.now())
	if u != nil {
		free = max(free, b.hushed(u)) // Others are asked all the time: it comes only if the line is kept for it.
	}
	if err := pause(ctx, min(free.Sub(b.now()), askMost)); err != nil {
		return drivers.Reply{}, unsent(ctx, err)
	}
	began := b.now()
	reply, err := b.line.ask(ctx, unit, pdu, timeout)
	t := b.now()
	b.busyAdd(began, t)
	if b.lastUnit, b.lastEnd = int(unit), t; u != nil {
		b.left(u, t)
	}
	if err != nil {
		if b.line.rtu {
			if u != nil {
				u.hold = max(u.hold, t.Add(timeout))
			} else {
				b.guests.stranger[unit] = t.Add(timeout)
			}
		}
		switch {
		case errors.Is(err, errNotSent):
			err = unsent(ctx, err)
		case drivers.Changes(pdu):
			err = &drivers.OutcomeUnknownError{Err: err}
		}
		return reply, err
	}
	if u != nil {
		b.wokenBy(u, pdu)
	}
	return reply, nil
}

// unsent returns the error of what was never sent: where ctx has ended the bus is closing.
func unsent(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", drivers.ErrClosed, err)
	}
	return err
}

// mostFor returns the longest that a guest's request to u (nil for a unit that is not ours) may wait for its answer: an
// order, and the next life-safety read, stand behind it. A unit alone on its line takes what it needs anyway.
func (b *Bus) mostFor(u *unit) time.Duration {
	outputs := len(b.out) > 0 && b.guests.set == b.guests.own // With other settings nothing is written.
	switch {
	case b.line.hold > 0:
		return holdMax
	case outputs && u != nil && b.guests.hold == 0:
		return max(holdMax, u.timeout)
	case outputs:
		return holdMax
	}
	return askMost
}

// wokenBy takes in that a unit of the bus answered a guest: if it was given up it is probed at once, and what the guest
// may have written is read again.
func (b *Bus) wokenBy(u *unit, pdu []byte) {
	b.wake(u)
	if len(pdu) < 5 {
		return
	}
	table, count := firmwareconfig.HoldingRegister, 1
	switch pdu[0] {
	case 5:
		table = firmwareconfig.Coil
	case 15:
		table, count = firmwareconfig.Coil, int(binary.BigEndian.Uint16(pdu[3:]))
	case 16:
		count = int(binary.BigEndian.Uint16(pdu[3:]))
	case 6, 22:
	default:
		return
	}
	b.changed(u, table, int(binary.BigEndian.Uint16(pdu[1:])), count)
}

// Hear listens (see drivers.Host).
func (b *Bus) Hear(ctx context.Context, d time.Duration) ([]byte, error) {
	err := b.reach(ctx)
	var heard []byte
	if err == nil {
		began := b.now()
		heard, err = b.line.hear(ctx, d)
		b.busyAdd(began, b.now())
	}
	if err != nil {
		err = fmt.Errorf("hear bus %s: %w", b.name, err)
	}
	return heard, err
}

// Suspend stops the polling (see drivers.Host). While the line has other settings than the bus's own, writes are
// refused with drivers.ErrSuspended. When the time is over, which needs nobody, the line has its own settings again
// and everything is read at once.
func (b *Bus) Suspend(_ context.Context, d time.Duration, baud int, format string) error {
	want := b.guests.own
	if baud != 0 {
		want.Baud = baud
	}
	if format != "" {
		want.Format = format
	}
	now := b.now()
	if d <= 0 {
		if b.guests.until > 0 {
			b.resume(now)
		}
		return nil
	}
	wrong := func(err error) error { return fmt.Errorf("suspend bus %s: %w", b.name, err) }
	if d > drivers.MaxSuspend {
		return wrong(fmt.Errorf("for %v: %v is the most", d, drivers.MaxSuspend))
	}
	if err := checkLine(want); err != nil {
		return wrong(err)
	}
	if want != b.guests.own && !b.guests.serial {
		return wrong(errors.New("only the settings of a serial line can be changed"))
	}
	if err := b.setLine(want); err != nil {
		_ = b.setLine(b.guests.own)
		return wrong(err)
	}
	b.guests.until = now.Add(d)
	b.line.hold = 0 // Nobody waits for a turn.
	b.mu.Lock()
	b.health.Suspended = true
	b.mu.Unlock()
	return nil
}

// setLine changes the settings of the line where they differ.
func (b *Bus) setLine(want firmwareconfig.Line) error {
	if want == b.guests.set {
		return nil
	}
	if err := b.line.setLine(want.Baud, want.Format); err != nil {
		_ = b.line.close()
		return err
	}
	b.guests.set = want
	return nil
}

// suspended reports whether the bus is not polled at now.
func (b *Bus) suspended(now telemetry.Mono) bool { return now < b.guests.until }

// maintained tells that nothing is measured while the bus is suspended.
func (b *Bus) maintained(dst []telemetry.Sample, t telemetry.Mono) []telemetry.Sample {
	for _, u := range b.units {
		for _, p := range u.points {
			dst = p.tell(dst, t, telemetry.BadMaintenance, telemetry.Value{})
		}
	}
	return dst
}

// resume ends a suspension.
func (b *Bus) resume(now telemetry.Mono) {
	b.guests.until, b.later = 0, 0
	b.line.hold = b.guests.hold
	if b.setLine(b.guests.own) != nil {
		// The device is gone; it is opened with the bus's own settings when it is there again.
		b.guests.set = b.guests.own
	}
	b.mu.Lock()
	b.health.Suspended = false
	b.mu.Unlock()
	for _, u := range b.units {
		u.hold = 0
		u.probeAt, u.probeWait = min(u.probeAt, now), firstProbe
		for _, bl := range u.blocks {
			bl.due, bl.first = min(bl.due, now), true
		}
	}
}

// reach connects where the link is not up.
func (b *Bus) reach(ctx context.Context) error {
	b.line.check(0)
	if b.line.connected() {
		return nil
	}
	return b.connect(ctx)
}

// Free returns when a unit may be asked next (see drivers.Polling).
func (b *Bus) Free(unit byte, _ telemetry.Mono) telemetry.Mono {
	if u := b.guests.asked[unit]; u != nil {
		return u.free()
	}
	return b.guests.stranger[unit]
}

// Urgent returns when life-safety reads are due and overdue (see drivers.Polling).
func (b *Bus) Urgent(now telemetry.Mono) (due, overdue telemetry.Mono) {
	due, overdue = telemetry.Never, telemetry.Never
	if !b.life || !b.started || b.guests.until > 0 {
		return due, overdue
	}
	var from telemetry.Mono
	if !b.line.connected() {
		from = b.linkAt
	}
	for _, u := range b.units {
		if u.demoted {
			continue
		}
		for _, bl := range u.blocks {
			if bl.urgent() {
				ready := max(from, bl.due, u.free())
				due = min(due, ready)
				overdue = min(overdue, max(ready, bl.due.Add(bl.every)))
			}
		}
	}
	return due, overdue
}

var _ interface {
	drivers.Host
	drivers.Polling
} = (*Bus)(nil)
