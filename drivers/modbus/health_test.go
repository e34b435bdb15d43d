package modbus_test

import (
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

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
