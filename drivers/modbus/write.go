package modbus

import (
	"context"
	"errors"
	"fmt"
	"time"

	gomodbus "github.com/goburrow/modbus"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// output is a point that can be written.
type output struct {
	unit   *unit
	codec  codec
	binder binder
	back   requests // to read it back
}

// Write sets a point to v and reads it back. Bits of a register are set by reading the register and writing it
// back with only those bits changed; a channel with commands of its own gets the command; one that cannot be read back
// is done when the unit confirms. A unit that was given up is probed first. Nothing is ever sent twice.
//
// The errors wrap drivers.ErrNotWritable, drivers.ErrRange or drivers.ErrSilent (nothing was sent), are a
// *gomodbus.ModbusError (the unit refused), a *drivers.NotTakenError (it reads back otherwise) or a
// *drivers.OutcomeUnknownError.
func (b *Bus) Write(ctx context.Context, id telemetry.PointID, v telemetry.Value) error {
	w, err := b.Stage(id, v)
	for done := false; err == nil && !done; {
		_ = pause(ctx, w.Ready(b.now()).Sub(b.now())) // ctx is looked at by Next.
		done, err = w.Next(ctx)
	}
	return err
}

// writing is a write on its way (see drivers.Staged).
type writing struct {
	b     *Bus
	o     *output
	value telemetry.Value
	part  uint64
	stage stage
	err   error // what became of the sending: the reading back may tell more
}

// stage says what is next.
type stage uint8

const (
	toBegin stage = iota
	toMix         // the other bits of the register are to be read
	toSend
	toReadBack
)

// Stage begins a write (see drivers.Stager).
func (b *Bus) Stage(id telemetry.PointID, v telemetry.Value) (drivers.Staged, error) {
	o := b.out[id]
	if o == nil {
		return nil, drivers.ErrNotWritable
	}
	w := &writing{b: b, o: o, value: v}
	var err error
	if w.part, err = o.binder.raw(&o.codec, v); err != nil {
		return nil, w.wrap(err)
	}
	return w, nil
}

func (w *writing) wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("write bus %s unit %s %s: %w", w.b.name, w.o.unit.cfg.ID, w.o.codec.ch.Name, err)
}

// Unit returns the unit's address.
func (w *writing) Unit() int { return w.o.unit.cfg.Address }

// Ready returns when the unit's pause is over, and the wait for an answer that may still come.
func (w *writing) Ready(telemetry.Mono) telemetry.Mono { return w.o.unit.free() }

// Next carries out the next transaction.
func (w *writing) Next(ctx context.Context) (bool, error) {
	done, err := w.next(ctx)
	return done, w.wrap(err)
}

func (w *writing) next(ctx context.Context) (bool, error) {
	b, o := w.b, w.o
	ch := o.codec.ch
	if w.stage == toReadBack {
		return true, w.readBack(ctx)
	}
	if b.suspended(b.now()) && b.guests.set != b.guests.own {
		return true, drivers.ErrSuspended
	}
	if err := b.reach(ctx); err != nil {
		return true, err
	}
	register, command := o.codec.command(w.part)
	if w.stage == toBegin {
		w.stage = toSend
		if !command && ch.Table == firmwareconfig.HoldingRegister && (ch.Encoding == firmwareconfig.EncBool || ch.Width > 0) {
			w.stage = toMix
		}
		if o.unit.demoted {
			err := b.knock(ctx, o.unit)
			return err != nil, err
		}
	}
	raw := w.part
	if command {
		raw = uint64(register)
	}
	if w.stage == toMix {
		// The two go without anything between: what the other bits are may change.
		now, err := b.readBack(ctx, o)
		if err != nil {
			return true, err
		}
		mask := uint64(1)<<o.codec.size() - 1
		raw = now&^(mask<<uint(ch.Bit)) | w.part&mask<<uint(ch.Bit)
		_ = pause(ctx, min(o.unit.free().Sub(b.now()), o.unit.cfg.Profile.Timing.Gap))
	}
	err := b.send(ctx, o, raw)
	var exc *gomodbus.ModbusError
	switch {
	case errors.Is(err, errNotSent):
		return true, err
	case errors.As(err, &exc):
		switch exc.ExceptionCode {
		case gomodbus.ExceptionCodeAcknowledge:
			err = nil // Accepted, and takes its time: the reading back tells.
		case gomodbus.ExceptionCodeGatewayTargetDeviceFailedToRespond:
			// It went out on the far side of the gateway; the exception is only the gateway's.
		default:
			return true, err
		}
	}
	switch {
	case ch.NoReadBack && err == nil:
		return true, nil
	case ch.NoReadBack || err != nil && ctx.Err() != nil:
		return true, &drivers.OutcomeUnknownError{Err: err}
	}
	w.stage, w.err = toReadBack, err
	if err != nil && b.line.rtu {
		o.unit.hold = b.now().Add(o.unit.wait())
	}
	return false, nil
}

// readBack tells what became of what was sent.
func (w *writing) readBack(ctx context.Context) error {
	b, o := w.b, w.o
	if err := b.reach(ctx); err != nil {
		return &drivers.OutcomeUnknownError{Err: errors.Join(w.err, err)}
	}
	got, err := b.readBack(ctx, o)
	switch {
	case err != nil:
		return &drivers.OutcomeUnknownError{Err: errors.Join(w.err, err)}
	case o.codec.part(got) == w.part:
		return nil
	}
	is, _ := o.binder.value(o.codec.decodeRaw(got))
	mismatch := &drivers.NotTakenError{Want: w.value, Got: is}
	if w.err != nil {
		// Not taken so far; the unit may still be at it.
		return &drivers.OutcomeUnknownError{Err: errors.Join(w.err, mismatch)}
	}
	return mismatch
}

// knock asks a unit that was given up whether it is there, before something is sent to it that it might or might not
// get. One that was asked in vain less than a second ago is not asked again: writes to it must not take the line.
func (b *Bus) knock(ctx context.Context, u *unit) error {
	bl := u.probeBlock()
	if bl == nil || b.now().Sub(u.probedAt) < firstProbe && !u.heard {
		return drivers.ErrSilent
	}
	b.settle(ctx, u)
	began := b.now()
	_, err := b.read(ctx, u, &bl.reqs, bl.span, u.timeout)
	t := b.now()
	b.left(u, t)
	b.busyAdd(began, t)
	if away := gatewayAnswers(err); err != nil && (away || !errors.As(err, new(*gomodbus.ModbusError))) {
		if ctx.Err() != nil {
			return err
		}
		if b.line.rtu && !away {
			u.hold = t.Add(u.wait())
		}
		b.deadFree = max(b.deadFree, t.Add(time.Duration(float64(t.Sub(began))*(1/deadShare-1))))
		u.probed(t)
		return fmt.Errorf("%w: %w", drivers.ErrSilent, err)
	}
	b.appear(u, t)
	if err == nil {
		u.witnessed(bl)
	}
	return nil
}

// gatewayAnswers reports whether err is a gateway's exception about a unit behind it: 10 or 11.
func gatewayAnswers(err error) bool {
	var exc *gomodbus.ModbusError
	return errors.As(err, &exc) && (exc.ExceptionCode == gomodbus.ExceptionCodeGatewayPathUnavailable ||
		exc.ExceptionCode == gomodbus.ExceptionCodeGatewayTargetDeviceFailedToRespond)
}

// send writes the output's registers, once, through goburrow's client.
func (b *Bus) send(ctx context.Context, o *output, raw uint64) error {
	ch, u := o.codec.ch, o.unit
	addr := uint16(ch.Address)
	b.settle(ctx, u)
	began := b.now()
	c := b.line.client(ctx, byte(u.cfg.Address), u.timeout)
	var err error
	switch n := ch.Registers(); {
	case ch.Table == firmwareconfig.Coil:
		var on uint16
		if raw != 0 {
			on = 0xFF00
		}
		_, err = c.WriteSingleCoil(addr, on)
	case n == 1:
		// A command is the register itself; a value is laid out as the unit wants it.
		if len(ch.WriteValues) == 0 {
			words := o.codec.words(raw)
			raw = uint64(words[0])<<8 | uint64(words[1])
		}
		_, err = c.WriteSingleRegister(addr, uint16(raw))
	default:
		_, err = c.WriteMultipleRegisters(addr, uint16(n), o.codec.words(raw))
	}
	b.count(u, err, 1, true)
	b.busyAdd(began, b.now())
	b.wrote(u, ch)
	return err
}

// readBack reads the output's raw words.
func (b *Bus) readBack(ctx context.Context, o *output) (uint64, error) {
	ch, u := o.codec.ch, o.unit
	b.settle(ctx, u)
	what := span{ch.Table, ch.Address, ch.Registers()}
	data, err := b.read(ctx, u, &o.back, what, u.timeout)
	b.left(u, b.now())
	if err != nil {
		if !errors.As(err, new(*gomodbus.ModbusError)) && b.line.rtu {
			u.hold = b.now().Add(u.wait())
		}
		return 0, err
	}
	if ch.Table.Bits() {
		return uint64(data[0] & 1), nil
	}
	return o.codec.rawBits(data), nil
}

// settle keeps the line silent for as long as the unit wants before it is asked after another one.
func (b *Bus) settle(ctx context.Context, u *unit) {
	_ = pause(ctx, min(b.hushed(u).Sub(b.now()), u.cfg.Profile.Timing.SwitchGap)) // ctx is looked at by the exchange.
}

// wrote takes in that a channel was written: what shows the value is due at once.
func (b *Bus) wrote(u *unit, ch *firmwareconfig.Channel) {
	now := b.now()
	b.left(u, now)
	b.changed(u, ch.Table, ch.Address, ch.Registers())
}

// changed makes the blocks due at once that show what was written.
func (b *Bus) changed(u *unit, table firmwareconfig.Table, addr, count int) {
	now := b.now()
	for _, bl := range u.blocks {
		if bl.table == table && bl.addr < addr+count && addr < bl.addr+bl.count && !bl.out {
			bl.due = min(bl.due, now)
		}
	}
}

var _ drivers.Stager = (*Bus)(nil)
