package modbus_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
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

// deadWriters is five life-safety units read every second, and three units with an output each and long timeouts, under
// a supervisor. Those in silent answer nothing.
type deadWriters struct {
	line   *drivers.Line
	clock  *telemetry.Clock
	silent [9]atomic.Bool
	writes [9]atomic.Int32
	asked  [9]atomic.Int32
	mu     sync.Mutex
	life   map[telemetry.PointID][]telemetry.Mono // when life-safety values came
	end    func()
}

func newDeadWriters(t *testing.T) *deadWriters {
	var units []firmwareconfig.Unit
	for a := 1; a <= 5; a++ {
		x := u16("x", 0)
		x.Every = time.Second
		u := unitOf(fmt.Sprintf("life%d", a), a, telemetry.PointID(a), x)
		u.Bindings[0].Def.LifeSafety = true
		units = append(units, u)
	}
	for a := 6; a <= 8; a++ {
		x := u16("out", 50)
		x.Writable, x.Every = true, 2*time.Second
		u := unitOf(fmt.Sprintf("out%d", a), a, telemetry.PointID(a), x)
		u.Profile.Timing.Timeout = time.Second
		units = append(units, u)
	}
	w := &deadWriters{life: map[telemetry.PointID][]telemetry.Mono{}, clock: telemetry.NewClock("test", 0, time.Time{})}
	d := newTables()
	p := &peer{rtu: true, serial: true, handle: func(c io.ReadWriteCloser, r request) bool {
		w.asked[r.unit].Add(1)
		if r.pdu[0] == 6 {
			w.writes[r.unit].Add(1)
		}
		if !w.silent[r.unit].Load() {
			time.Sleep(30 * time.Millisecond)
			_, _ = c.Write(r.frame(true, d.answer(r.pdu)))
		}
		return true
	}}
	bus, err := modbus.NewOver(modbus.Config{Name: "b", Transport: modbus.RTU, Units: units, Clock: w.clock}, p.dial)
	if err != nil {
		t.Fatal(err)
	}
	w.line = drivers.NewLine(bus)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- drivers.Supervise(ctx, w.clock, w.line, func(s []telemetry.Sample) {
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, x := range s {
				if x.Point <= 5 && !x.Quality.Bad() {
					w.life[x.Point] = append(w.life[x.Point], x.Time)
				}
			}
		}, nil)
	}()
	w.end = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		p.close()
	}
	time.Sleep(5 * time.Second)
	return w
}

// gap returns the longest time between two values of a life-safety point since from.
func (w *deadWriters) gap(from telemetry.Mono) (worst time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, at := range w.life {
		for i := range at {
			if i > 0 && at[i] >= from {
				worst = max(worst, at[i].Sub(at[i-1]))
			}
		}
	}
	return worst
}

// A write to a unit that is known to be silent is answered at once, and nothing is sent that it might get; a unit that
// has just fallen silent gets its write once, and what became of it is unknown. Neither delays life-safety reads.
func TestWritesToASilentUnitDelayNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newDeadWriters(t)
		defer w.end()
		if err := w.line.Write(t.Context(), 6, telemetry.FloatValue(1)); err != nil {
			t.Error(err)
		}
		w.silent[6].Store(true)
		from, start := w.clock.Mono(), time.Now()
		err := w.line.Write(t.Context(), 6, telemetry.FloatValue(2))
		if took := time.Since(start); !errors.As(err, new(*drivers.OutcomeUnknownError)) || w.writes[6].Load() != 2 || took > 1500*time.Millisecond {
			t.Errorf("just silent: %v after %v, sent %d times", err, took, w.writes[6].Load())
		}
		time.Sleep(5 * time.Second)
		for range 5 {
			time.Sleep(1700 * time.Millisecond)
			start = time.Now()
			err = w.line.Write(t.Context(), 6, telemetry.FloatValue(3))
			if took := time.Since(start); !errors.Is(err, drivers.ErrSilent) || errors.As(err, new(*drivers.OutcomeUnknownError)) || took > 700*time.Millisecond {
				t.Errorf("known to be silent: %v after %v", err, took)
			}
		}
		if n := w.writes[6].Load(); n != 2 {
			t.Errorf("%d writes were sent, want none while it was silent", n-2)
		}
		if g := w.gap(from); g > 1700*time.Millisecond {
			t.Errorf("%v without a life-safety value", g)
		}
		// It is back: the write finds out.
		w.silent[6].Store(false)
		time.Sleep(1100 * time.Millisecond)
		if err := w.line.Write(t.Context(), 6, telemetry.FloatValue(4)); err != nil || w.writes[6].Load() != 3 {
			t.Errorf("back again: %v, sent %d times", err, w.writes[6].Load()-2)
		}
	})
}

// Writes to dead units, over and over and from several, leave the line to others, and writes to others go on.
func TestFloodOfWritesToSilentUnits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newDeadWriters(t)
		defer w.end()
		w.silent[6].Store(true)
		w.silent[7].Store(true)
		from := w.clock.Mono()
		var wg sync.WaitGroup
		for _, p := range []telemetry.PointID{6, 7, 6, 7} {
			wg.Go(func() {
				for range 60 {
					if err := w.line.Write(t.Context(), p, telemetry.FloatValue(1)); err == nil {
						t.Error("a silent unit confirmed")
					}
					time.Sleep(time.Second)
				}
			})
		}
		worst := time.Duration(0)
		for range 60 {
			start := time.Now()
			if err := w.line.Write(t.Context(), 8, telemetry.FloatValue(1)); err != nil {
				t.Error(err)
			}
			worst = max(worst, time.Since(start))
			time.Sleep(970 * time.Millisecond)
		}
		wg.Wait()
		g := w.gap(from)
		t.Logf("life-safety values at most %v apart; a write to a live unit took %v at most; the silent ones were asked %d and %d times, writes sent %d and %d",
			g, worst, w.asked[6].Load(), w.asked[7].Load(), w.writes[6].Load(), w.writes[7].Load())
		if g > 1800*time.Millisecond || worst > 2*time.Second || w.writes[6].Load() > 4 {
			t.Errorf("life-safety values %v apart, a write took %v", g, worst)
		}
	})
}
