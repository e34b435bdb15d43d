package modbus

import (
	"context"
	"errors"
	"fmt"

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
// is done when the unit confirms. Nothing is ever sent twice.
//
// The errors wrap drivers.ErrNotWritable or drivers.ErrRange (nothing was sent), are a *gomodbus.ModbusError (the
// unit refused), a *drivers.NotTakenError (it reads back otherwise) or a *drivers.OutcomeUnknownError.
func (b *Bus) Write(ctx context.Context, id telemetry.PointID, v telemetry.Value) error {
	o := b.out[id]
	if o == nil {
		return drivers.ErrNotWritable
	}
	if err := b.write(ctx, o, v); err != nil {
		return fmt.Errorf("write bus %s unit %s %s: %w", b.name, o.unit.cfg.ID, o.codec.ch.Name, err)
	}
	return nil
}

func (b *Bus) write(ctx context.Context, o *output, v telemetry.Value) error {
	ch := o.codec.ch
	part, err := o.binder.raw(&o.codec, v)
	if err != nil {
		return err
	}
	if b.suspended(b.now()) && b.guests.set != b.guests.own {
		return drivers.ErrSuspended
	}
	if err := b.reach(ctx); err != nil {
		return err
	}
	raw := part
	if register, ok := o.codec.command(part); ok {
		raw = uint64(register)
	} else if ch.Table == firmwareconfig.HoldingRegister && (ch.Encoding == firmwareconfig.EncBool || ch.Width > 0) {
		now, err := b.readBack(ctx, o)
		if err != nil {
			return err
		}
		mask := uint64(1)<<o.codec.size() - 1
		raw = now&^(mask<<uint(ch.Bit)) | part&mask<<uint(ch.Bit)
	}
	err = b.send(ctx, o, raw)
	if errors.Is(err, errNotSent) {
		return err
	}
	var exc *gomodbus.ModbusError
	if errors.As(err, &exc) {
		switch exc.ExceptionCode {
		case gomodbus.ExceptionCodeAcknowledge:
			err = nil // Accepted, and takes its time: the reading back tells.
		case gomodbus.ExceptionCodeGatewayTargetDeviceFailedToRespond:
			// It went out on the far side of the gateway; the exception is only the gateway's.
		default:
			return err
		}
	}
	switch {
	case ch.NoReadBack && err == nil:
		return nil
	case ch.NoReadBack || err != nil && ctx.Err() != nil:
		return &drivers.OutcomeUnknownError{Err: err}
	}
	if !b.line.connected() {
		if cerr := b.connect(ctx); cerr != nil {
			return &drivers.OutcomeUnknownError{Err: errors.Join(err, cerr)}
		}
	}
	got, rerr := b.readBack(ctx, o)
	switch {
	case rerr != nil:
		return &drivers.OutcomeUnknownError{Err: errors.Join(err, rerr)}
	case o.codec.part(got) == part:
		return nil
	}
	is, _ := o.binder.value(o.codec.decodeRaw(got))
	mismatch := &drivers.NotTakenError{Want: v, Got: is}
	if err != nil {
		// Not taken so far; the unit may still be at it.
		return &drivers.OutcomeUnknownError{Err: errors.Join(err, mismatch)}
	}
	return mismatch
}

// send writes the output's registers, once, through goburrow's client.
func (b *Bus) send(ctx context.Context, o *output, raw uint64) error {
	ch, u := o.codec.ch, o.unit
	addr := uint16(ch.Address)
	b.rest(ctx, u)
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
	b.wrote(u, ch)
	return err
}

// readBack reads the output's raw words.
func (b *Bus) readBack(ctx context.Context, o *output) (uint64, error) {
	ch, u := o.codec.ch, o.unit
	b.rest(ctx, u)
	what := span{ch.Table, ch.Address, ch.Registers()}
	data, err := b.read(ctx, u, &o.back, what, u.timeout)
	b.left(u, b.now())
	if err != nil {
		if !errors.As(err, new(*gomodbus.ModbusError)) && b.line.rtu {
			u.hold = b.now().Add(u.timeout)
		}
		return 0, err
	}
	if ch.Table.Bits() {
		return uint64(data[0] & 1), nil
	}
	return o.codec.rawBits(data), nil
}

// rest waits until the unit may be asked: its own pause, the silence that it wants before it, and the late answer
// that may still come.
func (b *Bus) rest(ctx context.Context, u *unit) {
	if d := max(u.free(), b.hushed(u)).Sub(b.now()); d > 0 {
		most := u.timeout + u.cfg.Profile.Timing.Gap + u.cfg.Profile.Timing.SwitchGap
		_ = pause(ctx, min(d, most)) // ctx is looked at by the exchange.
	}
}

// wrote takes in that a channel was written: what shows the value is due at once.
func (b *Bus) wrote(u *unit, ch *firmwareconfig.Channel) {
	now := b.now()
	b.left(u, now)
	u.probeAt, u.probeFull = min(u.probeAt, now), true // where it was given up: a write that works ends that
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
