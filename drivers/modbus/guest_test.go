package modbus_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"linli/drivers"
	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

func TestAskBetweenTheBussOwnRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, d := countingBlocks("a", 1, 0)
		u.Profile.Timing.Gap = 100 * time.Millisecond
		stranger := newTables()
		stranger.set(7, 42)
		var lastOfA, lastOf9 time.Time
		p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
			if r.unit == 1 {
				if g := time.Since(lastOfA); g < 100*time.Millisecond {
					t.Errorf("unit 1 was asked %v after its answer", g)
				}
				_, _ = c.Write(r.frame(true, d.answer(r.pdu)))
				lastOfA = time.Now()
			}
			if r.unit == 9 {
				if g := time.Since(lastOf9); g < 200*time.Millisecond {
					t.Errorf("unit 9 was asked again after %v: its late answer may still come", g)
				}
				lastOf9 = time.Now()
				if r.nth > 40 {
					_, _ = c.Write(r.frame(true, stranger.answer(r.pdu)))
					lastOf9 = time.Time{}
				}
			}
			return true
		}}
		r := newRig(t, modbus.Config{Transport: modbus.RTU, Line: firmwareconfig.Line{Baud: 115200}, Units: []firmwareconfig.Unit{u}}, p)
		r.run(3 * time.Second)
		read := []byte{3, 0, 7, 0, 1}
		if _, err := r.bus.Ask(t.Context(), 9, read, 100*time.Millisecond); err == nil || !strings.Contains(err.Error(), "unit 9") {
			t.Errorf("silent unit: %v", err)
		}
		if _, err := r.bus.Ask(t.Context(), 9, read, 100*time.Millisecond); err == nil {
			t.Error("silent unit gave an answer")
		}
		if _, err := r.bus.Ask(t.Context(), 1, []byte{3, 0, 0, 0, 1}, 0); err != nil {
			t.Error(err)
		}
		r.run(10 * time.Second)
		got, err := r.bus.Ask(t.Context(), 9, read, 100*time.Millisecond)
		if err != nil || string(got.PDU) != "\x03\x02\x00\x2a" || got.Took > 100*time.Millisecond {
			t.Errorf("got % x after %v, %v", got.PDU, got.Took, err)
		}
		checkCounting(t, r.all, 0, 1)
	})
}

func TestAskDoesNotHoldALifeSafetyLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTables()
		life := unitOf("a", 1, 0, u16("x", 0))
		life.Bindings[0].Def.LifeSafety = true
		p := &peer{handle: answering(true, map[byte]*tables{1: d})}
		r := newRig(t, modbus.Config{Transport: modbus.RTU, Units: []firmwareconfig.Unit{life, unitOf("b", 2, 5, u16("x", 0))}}, p)
		r.run(3 * time.Second)
		ask := func() time.Duration {
			start := time.Now()
			_, _ = r.bus.Ask(t.Context(), 9, []byte{3, 0, 0, 0, 1}, 3*time.Second)
			return time.Since(start)
		}
		if d := ask(); d > 310*time.Millisecond {
			t.Errorf("a request held the line for %v", d)
		}
		r.run(time.Second)
		if err := r.bus.Suspend(t.Context(), time.Minute, 0, ""); err != nil {
			t.Fatal(err)
		}
		if d := ask(); d < 3*time.Second {
			t.Errorf("while the bus is suspended the tool waits only %v", d)
		}
	})
}

func TestSuspension(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTables()
		d.set(0, 7)
		x, y := u16("x", 0), u16("y", 0)
		x.Writable, y.Every = true, time.Hour
		var dead atomic.Bool
		p := &peer{serial: true, handle: func(c io.ReadWriteCloser, r request) bool {
			if r.unit == 1 || !dead.Load() {
				_, _ = c.Write(r.frame(true, d.answer(r.pdu)))
			}
			return true
		}}
		r := newRig(t, modbus.Config{Transport: modbus.RTU, Units: []firmwareconfig.Unit{unitOf("a", 1, 0, x), unitOf("b", 2, 5, y), unitOf("c", 3, 8, u16("x", 0))}}, p)
		r.run(4 * time.Second)
		dead.Store(true) // units 2 and 3; 2 will not be asked within the test
		r.run(20 * time.Second)
		r.want(8, 0, telemetry.BadComm)
		health := func() drivers.BusHealth { return r.bus.Health() }
		if health().Suspended {
			t.Error("suspended at the start")
		}
		if err := r.bus.Suspend(t.Context(), time.Minute, 4800, "8E1"); err != nil {
			t.Fatal(err)
		}
		r.next = 0
		r.step()
		for _, point := range []telemetry.PointID{0, 5, 8} {
			r.want(point, 0, telemetry.BadMaintenance)
		}
		if !health().Suspended {
			t.Error("health does not say that the bus is suspended")
		}
		reads := d.reads
		r.run(30 * time.Second)
		if d.reads != reads {
			t.Errorf("%d reads while suspended", d.reads-reads)
		}
		if err := r.bus.Write(t.Context(), 0, telemetry.FloatValue(9)); !errors.Is(err, drivers.ErrSuspended) {
			t.Errorf("write with other settings: %v", err)
		}
		// Another suspension replaces it, here with the bus's own settings: writes pass.
		if err := r.bus.Suspend(t.Context(), time.Minute, 0, ""); err != nil {
			t.Fatal(err)
		}
		if err := r.bus.Write(t.Context(), 0, telemetry.FloatValue(9)); err != nil {
			t.Errorf("write with the bus's own settings: %v", err)
		}
		r.next = 0
		r.run(59 * time.Second)
		r.want(0, 0, telemetry.BadMaintenance)
		dead.Store(false)
		r.run(3 * time.Second) // it has ended by itself
		for point, v := range map[telemetry.PointID]float64{0: 9, 5: 9, 8: 9} {
			r.want(point, v, telemetry.Good)
		}
		if health().Suspended {
			t.Error("still suspended")
		}
		// And by request.
		if err := r.bus.Suspend(t.Context(), time.Minute, 0, ""); err != nil {
			t.Fatal(err)
		}
		r.next = 0
		r.run(time.Second)
		r.want(0, 0, telemetry.BadMaintenance)
		if err := r.bus.Suspend(t.Context(), 0, 0, ""); err != nil {
			t.Fatal(err)
		}
		r.next = 0
		r.run(time.Second)
		r.want(0, 9, telemetry.Good)

		for _, c := range []struct {
			d      time.Duration
			baud   int
			format string
			want   string
		}{
			{time.Hour, 0, "", "10m0s is the most"},
			{time.Minute, 3, "", "3 baud"},
			{time.Minute, 0, "9Q1", "line format"},
		} {
			if err := r.bus.Suspend(t.Context(), c.d, c.baud, c.format); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("suspend for %v with %d %s: %v, want %q", c.d, c.baud, c.format, err, c.want)
			}
		}
	})
}

func TestOnlySerialLinesChangeTheirSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &peer{handle: answering(false, map[byte]*tables{1: newTables()})}
		r := newRig(t, modbus.Config{Transport: modbus.TCP, Units: []firmwareconfig.Unit{unitOf("a", 1, 0, u16("x", 0))}}, p)
		if err := r.bus.Suspend(t.Context(), time.Minute, 4800, ""); err == nil || !strings.Contains(err.Error(), "serial line") {
			t.Errorf("got %v", err)
		}
		if err := r.bus.Suspend(t.Context(), time.Minute, 0, ""); err != nil {
			t.Errorf("without settings: %v", err)
		}
		r.run(time.Second)
		r.want(0, 0, telemetry.BadMaintenance)
	})
}

// On a busy line a unit that wants silence before it is asked gets it for a guest too.
func TestGuestOfAUnitThatWantsSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTables()
		busy, shy := unitOf("a", 1, 0, u16("x", 0)), unitOf("b", 2, 5, u16("x", 0))
		busy.Profile.Channels[0].Every, shy.Profile.Channels[0].Every = 50*time.Millisecond, time.Hour
		shy.Profile.Timing.SwitchGap = 200 * time.Millisecond
		var last time.Time
		p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
			if g := time.Since(last); r.unit == 2 && g < 200*time.Millisecond && !last.IsZero() {
				t.Errorf("asked after %v of silence", g)
			}
			time.Sleep(45 * time.Millisecond)
			_, _ = c.Write(r.frame(true, d.answer(r.pdu)))
			last = time.Now()
			return true
		}}
		clock := telemetry.NewClock("test", 0, time.Time{})
		p.rtu = true
		bus, err := modbus.NewOver(modbus.Config{Name: "b", Transport: modbus.RTU, Clock: clock, Units: []firmwareconfig.Unit{shy, busy}}, p.dial)
		if err != nil {
			t.Fatal(err)
		}
		line := drivers.NewLine(bus)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- drivers.Supervise(ctx, clock, line, func([]telemetry.Sample) {}, nil) }()
		time.Sleep(5 * time.Second)
		for _, share := range []float64{0, 0.2} {
			start := time.Now()
			if _, err := line.Ask(t.Context(), 2, []byte{3, 0, 0, 0, 1}, 0, share); err != nil || time.Since(start) > 2*time.Second {
				t.Errorf("share %v: %v after %v", share, err, time.Since(start))
			}
		}
		cancel()
		<-ended
		p.close()
	})
}

// An order does not stand behind a tool's patience; and what a tool wrote without hearing of it is not called undone.
func TestAskOnALineWithOutputs(t *testing.T) {
	for _, outputs := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			d := newTables()
			x := u16("x", 0)
			x.Writable = outputs
			p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
				if r.unit == 1 {
					_, _ = c.Write(r.frame(true, d.answer(r.pdu)))
				}
				return true
			}}
			r := newRig(t, modbus.Config{Transport: modbus.RTU, Units: []firmwareconfig.Unit{unitOf("a", 1, 0, x)}}, p)
			r.step()
			start := time.Now()
			_, err := r.bus.Ask(t.Context(), 9, []byte{3, 0, 0, 0, 1}, 4*time.Second)
			if took := time.Since(start); err == nil || errors.As(err, new(*drivers.OutcomeUnknownError)) || outputs != (took < 350*time.Millisecond) {
				t.Errorf("outputs %v: %v after %v", outputs, err, took)
			}
			if _, err := r.bus.Ask(t.Context(), 9, []byte{6, 0, 0, 0, 1}, 100*time.Millisecond); !errors.As(err, new(*drivers.OutcomeUnknownError)) {
				t.Errorf("a write without an answer: %v", err)
			}
			if _, err := r.bus.Ask(t.Context(), 9, nil, 100*time.Millisecond); errors.As(err, new(*drivers.OutcomeUnknownError)) {
				t.Errorf("what was never sent: %v", err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := r.bus.Ask(ctx, 9, []byte{6, 0, 0, 0, 1}, 100*time.Millisecond); !errors.Is(err, drivers.ErrClosed) {
				t.Errorf("closing before it was sent: %v", err)
			}
		})
	}
}
