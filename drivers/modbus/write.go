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
}

// Write sets a point to v and reads it back. Bits of a register are set by reading the register and writing it
// back with only those bits changed. Nothing is ever sent twice.
//
// The errors wrap drivers.ErrNotWritable or drivers.ErrRange (nothing was sent), are a *gomodbus.ModbusError (the
// unit refused), a *drivers.NotTakenError (it reads back otherwise) or a *drivers.OutcomeUnknownError.
func (b *Bus) Write(ctx context.Context, id telemetry.PointID, v telemetry.Value) error {
	o, ok := b.out[id]
	if !ok {
		return drivers.ErrNotWritable
	}
	if err := b.write(ctx, &o, v); err != nil {
		return fmt.Errorf("write bus %s unit %s %s: %w", b.name, o.unit.cfg.ID, o.codec.ch.Name, err)
	}
	return nil
}

func (b *Bus) write(ctx context.Context, o *output, v telemetry.Value) error {
	ch, u := o.codec.ch, o.unit
	raw, err := o.binder.raw(&o.codec, v)
	if err != nil {
		return err
	}
	if b.suspended(b.now()) && b.guests.set != b.guests.own {
		return drivers.ErrSuspended
	}
	if err := b.reach(ctx); err != nil {
		return err
	}
	if field := ch.Table == firmwareconfig.HoldingRegister && (ch.Encoding == firmwareconfig.EncBool || ch.Width > 0); field {
		now, err := b.readBack(ctx, o)
		if err != nil {
			return err
		}
		mask := uint64(1)<<uint(max(ch.Width, 1)) - 1
		raw = now&^(mask<<uint(ch.Bit)) | raw&mask<<uint(ch.Bit)
	}
	addr := uint16(ch.Address)
	b.rest(ctx, u)
	c := b.line.client(ctx, byte(u.cfg.Address), u.timeout)
	switch n := ch.Encoding.Registers(); {
	case ch.Table == firmwareconfig.Coil:
		var on uint16
		if raw != 0 {
			on = 0xFF00
		}
		_, err = c.WriteSingleCoil(addr, on)
	case n == 1:
		_, err = c.WriteSingleRegister(addr, uint16(raw))
	default:
		_, err = c.WriteMultipleRegisters(addr, uint16(n), o.codec.words(raw))
	}
	b.count(u, err, 1, true)
	b.wrote(u, ch)
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
	if err != nil && ctx.Err() != nil {
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
	case got == raw:
		return nil
	}
	want, _ := o.binder.value(o.codec.decodeRaw(raw))
	is, _ := o.binder.value(o.codec.decodeRaw(got))
	mismatch := &drivers.NotTakenError{Want: want, Got: is}
	if err != nil {
		// Not taken so far; the unit may still be at it.
		return &drivers.OutcomeUnknownError{Err: errors.Join(err, mismatch)}
	}
	return mismatch
}

// readBack reads the output's raw words.
func (b *Bus) readBack(ctx context.Context, o *output) (uint64, error) {
	ch, u := o.codec.ch, o.unit
	b.rest(ctx, u)
	data, err := b.read(ctx, u, ch.Table, ch.Address, ch.Encoding.Registers(), u.timeout)
	if err != nil {
		if !errors.As(err, new(*gomodbus.ModbusError)) && b.line.rtu {
			u.hold = b.now().Add(u.timeout)
		}
		return 0, err
	}
	b.gapUntil = b.now().Add(u.cfg.Profile.Timing.Gap)
	if ch.Table.Bits() {
		return uint64(data[0] & 1), nil
	}
	return o.codec.rawBits(data), nil
}

// rest waits until the unit may be asked again: its own pause, and the late answer that may still come.
func (b *Bus) rest(ctx context.Context, u *unit) {
	if d := max(b.gapUntil, u.hold).Sub(b.now()); d > 0 {
		_ = pause(ctx, min(d, u.timeout+u.cfg.Profile.Timing.Gap+time.Second)) // ctx is looked at by the exchange.
	}
}

// wrote takes in that a channel was written: what shows the value is due at once.
func (b *Bus) wrote(u *unit, ch *firmwareconfig.Channel) {
	now := b.now()
	b.gapUntil = now.Add(u.cfg.Profile.Timing.Gap)
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
