package modbus_test

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	gomodbus "github.com/goburrow/modbus"

	"linli/drivers"
	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

func TestWrite(t *testing.T) {
	coil := firmwareconfig.Channel{Name: "relay", Table: firmwareconfig.Coil, Address: 3, Encoding: firmwareconfig.EncBool, Writable: true}
	reg := u16("level", 10)
	reg.Writable, reg.Scale, reg.Max = true, 0.1, ptr(100)
	wide := firmwareconfig.Channel{Name: "wide", Table: firmwareconfig.HoldingRegister, Address: 20, Encoding: firmwareconfig.EncF32, Writable: true, LittleWords: true}
	bit := firmwareconfig.Channel{Name: "bit", Table: firmwareconfig.HoldingRegister, Address: 30, Encoding: firmwareconfig.EncBool, Bit: 4, Writable: true}
	ro := u16("ro", 40)
	cfg := func() modbus.Config {
		return modbus.Config{Transport: modbus.TCP, Units: []firmwareconfig.Unit{unitOf("a", 1, 0, coil, reg, wide, bit, ro)}}
	}
	synctest.Test(t, func(t *testing.T) {
		d := newTables()
		d.set(30, 0xF00F)
		p := &peer{handle: answering(false, map[byte]*tables{1: d})}
		r := newRig(t, cfg(), p)
		r.step()
		write := func(id telemetry.PointID, v telemetry.Value) {
			t.Helper()
			if err := r.bus.Write(t.Context(), id, v); err != nil {
				t.Error(err)
			}
		}
		write(0, telemetry.BoolValue(true))
		write(1, telemetry.FloatValue(22.5))
		write(2, telemetry.FloatValue(230.5))
		write(3, telemetry.BoolValue(true))
		if !d.bits[3] || d.regs[10] != 225 || d.regs[20] != 0x8000 || d.regs[21] != 0x4366 || d.regs[30] != 0xF01F {
			t.Errorf("coil %v, registers %v", d.bits, d.regs)
		}
		r.next = 0
		r.run(100 * time.Millisecond)
		r.want(0, 1, telemetry.Good) // shown at once, not after 5 s
		if err := r.bus.Write(t.Context(), 1, telemetry.FloatValue(100.1)); !errors.Is(err, drivers.ErrRange) {
			t.Errorf("out of range: %v", err)
		}
		if err := r.bus.Write(t.Context(), 4, telemetry.FloatValue(1)); !errors.Is(err, drivers.ErrNotWritable) {
			t.Errorf("not writable: %v", err)
		}
		d.illegal[10] = true
		var exc *gomodbus.ModbusError
		if err := r.bus.Write(t.Context(), 1, telemetry.FloatValue(1)); !errors.As(err, &exc) || exc.ExceptionCode != 2 {
			t.Errorf("refused: %v", err)
		}
	})
}

func TestWriteIsSentOnceAndReadBack(t *testing.T) {
	coil := firmwareconfig.Channel{Name: "relay", Table: firmwareconfig.Coil, Address: 3, Encoding: firmwareconfig.EncBool, Writable: true}
	for name, c := range map[string]struct {
		takes, answers, reads bool // the write takes effect; is answered; reading back is answered
		unknown, ok           bool
	}{
		"answered":                   {takes: true, answers: true, reads: true, ok: true},
		"answer lost, read back":     {takes: true, reads: true, ok: true},
		"lost altogether":            {reads: true, unknown: true},
		"silent":                     {takes: true, unknown: true},
		"answered but not read back": {takes: true, answers: true, unknown: true},
		"answered but does not take": {answers: true, reads: true},
	} {
		for _, transport := range []string{modbus.TCP, modbus.RTU} {
			t.Run(name+"/"+transport, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := newTables()
					var writes atomic.Int32
					p := &peer{handle: func(cn io.ReadWriteCloser, r request) bool {
						answer := c.reads
						var ans []byte
						if r.pdu[0] == 5 {
							writes.Add(1)
							ans, answer = r.pdu[:5], c.answers
							if c.takes {
								d.answer(r.pdu)
							}
						} else {
							ans = d.answer(r.pdu)
						}
						if answer {
							_, _ = cn.Write(r.frame(transport != modbus.TCP, ans))
						}
						return true
					}}
					r := newRig(t, modbus.Config{Transport: transport, Units: []firmwareconfig.Unit{unitOf("a", 1, 0, coil)}}, p)
					err := r.bus.Write(t.Context(), 0, telemetry.BoolValue(true))
					if writes.Load() != 1 {
						t.Errorf("the write was sent %d times", writes.Load())
					}
					var unknown *drivers.OutcomeUnknownError
					var not *drivers.NotTakenError
					switch {
					case c.ok && err != nil, !c.ok && err == nil, c.unknown != errors.As(err, &unknown),
						!c.ok && !c.unknown && !errors.As(err, &not):
						t.Errorf("got %v", err)
					}
				})
			})
		}
	}
}

// A channel with commands of its own is written with them, and what cannot be read back is not.
func TestCommandsAreWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTables()
		var wrote, read []uint16
		silent := false
		p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
			addr, v := uint16(r.pdu[1])<<8|uint16(r.pdu[2]), uint16(r.pdu[3])<<8|uint16(r.pdu[4])
			switch r.pdu[0] {
			case 6:
				wrote = append(wrote, addr, v)
				if silent {
					return true
				}
				ans := append([]byte(nil), r.pdu[:5]...)
				if addr == 0 {
					d.set(0, map[uint16]uint16{128: 0x80, 384: 0x81}[v]) // it shows its state among other bits
				}
				_, _ = c.Write(r.frame(true, ans))
				return true
			case 3:
				read = append(read, addr)
			}
			_, _ = c.Write(r.frame(true, d.answer(r.pdu)))
			return true
		}}
		out, reset := u16("out", 0), u16("reset", 100)
		out.Width, out.Writable, out.Every = 3, true, time.Hour
		out.WriteValues = []firmwareconfig.WriteValue{{Value: 0, Raw: 128}, {Value: 1, Raw: 384}}
		reset.Writable, reset.NoReadBack, reset.Every = true, true, time.Hour
		reset.WriteValues = []firmwareconfig.WriteValue{{Value: 1, Raw: 234}}
		r := newRig(t, modbus.Config{Transport: modbus.RTU, Units: []firmwareconfig.Unit{unitOf("a", 1, 0, out, reset)}}, p)
		r.run(time.Second)
		synctest.Wait()
		read = nil
		if err := r.bus.Write(t.Context(), 0, telemetry.FloatValue(1)); err != nil {
			t.Error(err)
		}
		if synctest.Wait(); fmt.Sprint(wrote, read) != "[0 384] [0]" {
			t.Errorf("wrote %v, read back %v; want the command 384 and one reading", wrote, read)
		}
		if err := r.bus.Write(t.Context(), 0, telemetry.FloatValue(2)); !errors.Is(err, drivers.ErrRange) {
			t.Errorf("a value without a command: %v", err)
		}
		wrote, read = nil, nil
		err := r.bus.Write(t.Context(), 1, telemetry.FloatValue(1))
		if synctest.Wait(); err != nil || fmt.Sprint(wrote, read) != "[100 234] []" {
			t.Errorf("%v: wrote %v, read back %v; want the command alone", err, wrote, read)
		}
		silent, wrote = true, nil
		var unknown *drivers.OutcomeUnknownError
		err = r.bus.Write(t.Context(), 1, telemetry.FloatValue(1))
		if synctest.Wait(); !errors.As(err, &unknown) || len(wrote) != 2 {
			t.Errorf("without a confirmation: %v, wrote %v", err, wrote)
		}
	})
}
