package modbus_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"linli/drivers"
	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

func TestHealthCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTables()
		var trouble atomic.Int32
		p := &peer{serial: true, handle: func(c io.ReadWriteCloser, r request) bool {
			time.Sleep(30 * time.Millisecond)
			frame := r.frame(true, d.answer(r.pdu))
			switch trouble.Swap(0) {
			case 1: // damaged
				frame[len(frame)-1] ^= 1
			case 2: // an answer of a unit that is not ours comes first
				_, _ = c.Write(modbus.AppendRTU(nil, 77, []byte{3, 2, 0, 9}))
				time.Sleep(10 * time.Millisecond)
			case 3: // nothing
				return true
			case 4:
				frame = r.frame(true, []byte{r.pdu[0] | 0x80, 6})
			}
			_, _ = c.Write(frame)
			return true
		}}
		u := unitOf("a", 1, 0, u16("x", 0))
		u.Profile.Channels[0].Every = time.Second
		r := newRig(t, modbus.Config{Transport: modbus.RTU, Units: []firmwareconfig.Unit{u}}, p)
		r.run(5 * time.Second)
		for kind := int32(1); kind <= 4; kind++ {
			trouble.Store(kind)
			r.run(5 * time.Second)
		}
		h := r.bus.Health()
		got := h.Units[0]
		t.Logf("%+v", h)
		if got.CRC != 1 || got.Errors != 1 || got.Timeouts != 1 || got.Exceptions != 1 || h.Foreign == 0 {
			t.Errorf("%+v, foreign %d; want one each of CRC, errors, timeouts and exceptions, and a foreign frame", got, h.Foreign)
		}
		if got.Retries < 2 || got.Retries > 3 || got.RoundTrip < 30*time.Millisecond || got.RoundTrip > 60*time.Millisecond || got.Answers < 20 {
			t.Errorf("%+v; want a retry after each failure, about 40 ms and 20 answers", got)
		}
		if h.Busy < 0.03 || h.Busy > 0.1 {
			t.Errorf("line busy %.1f %%; 46 ms a second are used, and some more were", 100*h.Busy)
		}
	})
}

// A converter that dials in is asked at once, however long the bus has been waiting for it.
func TestConverterThatDialsInWakesItsBus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTables()
		route := modbus.NewListener("127.0.0.1:0", nil).Route(nil)
		ctx, cancel := context.WithCancel(t.Context())
		clock := telemetry.NewClock("test", 0, time.Time{})
		bus, err := modbus.New(modbus.Config{Name: "dtu", Transport: modbus.RTUOverTCP, Inbound: route, Clock: clock, Units: []firmwareconfig.Unit{unitOf("a", 1, 0, u16("x", 0))}})
		if err != nil {
			t.Fatal(err)
		}
		good := telemetry.Never
		ended := make(chan error)
		go func() {
			ended <- drivers.Supervise(ctx, clock, bus, func(s []telemetry.Sample) {
				for _, x := range s {
					if !x.Quality.Bad() {
						good = min(good, x.Time)
					}
				}
			}, nil)
		}()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if h := bus.Health(); h.Up || h.LastError == "" {
			t.Errorf("without a converter: up %v, %q", h.Up, h.LastError)
		}
		a, b := net.Pipe()
		at := clock.Mono()
		served := make(chan int)
		go func() {
			served <- serve(b, true, 0, func(c io.ReadWriteCloser, r request) bool {
				_, _ = c.Write(r.frame(true, d.answer(r.pdu)))
				return true
			})
		}()
		modbus.Offer(route, a)
		time.Sleep(time.Second)
		synctest.Wait()
		if good == telemetry.Never || good.Sub(at) > 300*time.Millisecond {
			t.Errorf("the first value came at %v, the converter at %v", time.Duration(good), time.Duration(at))
		}
		cancel()
		<-ended
		<-served
	})
}

// Noise and frames of others are no unit's, and a converter that closes an idle connection is nobody's failure.
func TestWhatIsNoUnitsFaultIsNotCountedForIt(t *testing.T) {
	for _, closes := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			d := newTables()
			p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
				if !closes {
					_, _ = c.Write([]byte{0xFF, 0x00, 0x01, 0x37})
				}
				_, _ = c.Write(r.frame(true, d.answer(r.pdu)))
				return !closes
			}}
			r := newRig(t, modbus.Config{Transport: modbus.RTUOverTCP, Line: firmwareconfig.Line{Baud: 115200}, Units: blockUnits(1)}, p)
			r.run(10 * time.Second)
			h := r.bus.Health()
			t.Logf("closes %v: %+v", closes, h)
			if u := h.Units[0]; u.Late+u.Errors+u.Retries+h.Late > 0 || u.Answers < 150 || !closes && h.Foreign < 150 {
				t.Errorf("closes %v: %+v", closes, h)
			}
		})
	}
}

// A unit that may still be warming up is not called offline either.
func TestWarmingUnitIsNotLoggedAsOffline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.DebugLevel)
		u := unitOf("a", 1, 0, u16("x", 0))
		u.Profile.Timing.WarmUp = 30 * time.Second
		p := &peer{handle: func(io.ReadWriteCloser, request) bool { return true }}
		clock := telemetry.NewClock("test", 0, time.Time{})
		bus, err := modbus.NewOver(modbus.Config{Name: "b", Transport: modbus.TCP, Units: []firmwareconfig.Unit{u}, Clock: clock}, p.dial)
		if err != nil {
			t.Fatal(err)
		}
		defer p.close()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- drivers.Supervise(ctx, clock, bus, func([]telemetry.Sample) {}, zap.New(core)) }()
		time.Sleep(29 * time.Second)
		if n := logs.FilterMessage("unit offline").Len(); n != 0 {
			t.Errorf("told within its warm-up: %v", logs.All())
		}
		time.Sleep(20 * time.Second)
		if n := logs.FilterMessage("unit offline").Len(); n != 1 {
			t.Errorf("told %d times after its warm-up", n)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// Behind an endpoint that is dead from the start nobody waits for the full timeout of each unit.
func TestDeadAtTheStartIsToldSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var units []firmwareconfig.Unit
		for i := range 240 {
			units = append(units, unitOf(fmt.Sprintf("u%d", i), i+1, telemetry.PointID(i), u16("x", 0)))
		}
		p := &peer{handle: func(io.ReadWriteCloser, request) bool { return true }}
		r := newRig(t, modbus.Config{Transport: modbus.TCP, Units: units}, p)
		for len(r.last) < len(units) {
			r.step()
		}
		t.Logf("all of %d told after %v", len(units), time.Duration(r.clock.Mono()))
		if r.clock.Mono() > telemetry.Mono(30*time.Second) {
			t.Errorf("all told after %v", time.Duration(r.clock.Mono()))
		}
	})
}
