package modbus_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"linli/drivers"
	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// listen runs a listener with a route for each registration, and returns its address.
func listen(t *testing.T, log *zap.Logger, registrations ...[]byte) (*modbus.Listener, []*modbus.Route, string) {
	t.Helper()
	return listenFor(t, 300*time.Millisecond, log, registrations...)
}

// listenFor is listen with the time that a converter has to register.
func listenFor(t *testing.T, within time.Duration, log *zap.Logger, registrations ...[]byte) (*modbus.Listener, []*modbus.Route, string) {
	t.Helper()
	l := modbus.NewListener("127.0.0.1:0", log)
	modbus.Hurry(l, within)
	var routes []*modbus.Route
	for _, r := range registrations {
		routes = append(routes, l.Route(r))
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	waitFor(t, func() bool { return l.Addr() != nil })
	return l, routes, l.Addr().String()
}

// dialIn connects as a converter: it says each of the pieces in a segment of its own.
func dialIn(t *testing.T, address string, pieces ...string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	for i, p := range pieces {
		if i > 0 {
			// What was sent before shall have been read by itself.
			time.Sleep(20 * time.Millisecond)
		}
		if _, err := io.WriteString(c, p); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// closed waits until the other end has closed c.
func closed(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	var ne net.Error
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.As(err, &ne) && ne.Timeout() {
		t.Errorf("the connection is still open: %v", err)
	}
}

func accept(t *testing.T, r *modbus.Route) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	c, err := r.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestConvertersAreToldApartByRegistration(t *testing.T) {
	for name, c := range map[string]struct {
		says  []string
		route int
	}{
		"as it is":            {[]string{"YG-0001"}, 0},
		"line end after":      {[]string{"YG-0001\r\n"}, 0},
		"line end before":     {[]string{"\r\nYG-0001"}, 0},
		"in pieces":           {[]string{"YG", "-00", "01", "\r\n"}, 0},
		"prefix of another":   {[]string{"YG-00"}, 1},
		"bytes":               {[]string{"\x00\x01\xFE"}, 2},
		"begins with newline": {[]string{"\n\nX"}, 3},
		"with data behind":    {[]string{"YG-0001\x01\x03"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, routes, address := listen(t, nil, []byte("YG-0001"), []byte("YG-00"), []byte{0, 1, 0xFE}, []byte("\nX"))
			conn := dialIn(t, address, c.says...)
			in := accept(t, routes[c.route])
			if _, err := conn.Write([]byte("!")); err != nil {
				t.Fatal(err)
			}
			var got []byte
			for !bytes.HasSuffix(got, []byte("!")) {
				buf := make([]byte, 8)
				n, err := in.Read(buf)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, buf[:n]...)
			}
			if want := map[bool]string{true: "\x01\x03!", false: "!"}[name == "with data behind"]; string(bytes.TrimLeft(got, "\r\n")) != want {
				t.Errorf("what came behind the registration: %q, want %q", got, want)
			}
		})
	}
}

func TestStrangersAreTurnedAway(t *testing.T) {
	core, logs := observer.New(zapcore.WarnLevel)
	l, routes, address := listen(t, zap.New(core), []byte("YG-0001"))
	for range 3 {
		closed(t, dialIn(t, address, "GET / HTTP/1.1\r\n\r\n"))
	}
	closed(t, dialIn(t, address))        // says nothing
	closed(t, dialIn(t, address, "YG-")) // and no more
	waitFor(t, func() bool { return l.Strangers() == 5 })
	if n := logs.Len(); n != 3 {
		t.Errorf("%d lines in the log, want one for each kind of stranger: %v", n, logs.All())
	}
	if routes[0].Waiting() {
		t.Error("a stranger was taken for the converter")
	}
	dialIn(t, address, "YG-0001")
	accept(t, routes[0])
}

func TestTooManyThatDoNotRegister(t *testing.T) {
	l, routes, address := listenFor(t, 5*time.Second, nil, []byte("YG-0001"))
	for range 300 {
		dialIn(t, address)
	}
	waitFor(t, func() bool { return l.Refused() == 300-256 })
	if routes[0].Waiting() {
		t.Error("one of them was taken for the converter")
	}
}

func TestNewestConnectionOfAConverterCounts(t *testing.T) {
	for _, registration := range []string{"YG-0001", ""} {
		_, routes, address := listen(t, nil, []byte(registration))
		first := dialIn(t, address, registration)
		a := accept(t, routes[0])
		second := dialIn(t, address, registration)
		waitFor(t, routes[0].Waiting)
		third := dialIn(t, address, registration) // before the second was used
		closed(t, first)
		closed(t, second)
		if _, err := a.Read(make([]byte, 1)); err == nil {
			t.Error("the replaced connection can still be read")
		}
		b := accept(t, routes[0])
		if _, err := b.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		_ = third.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := third.Read(make([]byte, 1)); err != nil {
			t.Errorf("the newest connection does not work: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if _, err := routes[0].Accept(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a connection was given twice: %v", err)
		}
		cancel()
	}
}

func TestMistakesInRoutes(t *testing.T) {
	for name, regs := range map[string][][]byte{
		"two without registration": {nil, nil},
		"one without":              {[]byte("a"), nil},
		"twice the same":           {[]byte("a"), []byte("a")},
		"too long":                 {bytes.Repeat([]byte("a"), 1000)},
	} {
		l := modbus.NewListener("127.0.0.1:0", nil)
		for _, r := range regs {
			l.Route(r)
		}
		if err := l.Run(t.Context()); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// Signs of life between the frames, and in the middle of one where there is a checksum, disturb nothing.
func TestSignsOfLifeDisturbNothing(t *testing.T) {
	const registration = "YG-0001"
	for _, transport := range []string{modbus.RTUOverTCP, modbus.TCP} {
		t.Run(transport, func(t *testing.T) {
			rtu := transport != modbus.TCP
			_, routes, address := listen(t, nil, []byte(registration))
			u, d := countingBlocks("a", 1, 0)
			u.Profile.Timing.Timeout = time.Second
			conn := dialIn(t, address, registration)
			done := make(chan struct{})
			go func() {
				defer close(done)
				serve(conn, rtu, 0, func(c io.ReadWriteCloser, r request) bool {
					f := r.frame(rtu, d.answer(r.pdu))
					switch r.nth % 5 {
					case 0:
						f = append([]byte(registration), f...)
					case 1:
						f = append(f, "\r\n"+registration+"\r\n"...)
					case 2:
						f = append([]byte(registration+"\r\n"+registration), f...)
					case 3:
						if rtu {
							f = append(append(append([]byte(nil), f[:3]...), registration...), f[3:]...)
						}
					}
					_, err := c.Write(f)
					return err == nil
				})
			}()
			waitFor(t, routes[0].Waiting)
			r := openRig(t, modbus.Config{Name: "dtu", Transport: transport, Line: fast, Inbound: routes[0], Units: []firmwareconfig.Unit{u}})
			r.steps(60)
			if n := checkCounting(t, r.all, 0, 1); n != 60 {
				t.Errorf("%d values of 60", n)
			}
			if h := r.bus.Health(); h.Units[0].Timeouts+h.Units[0].Errors+h.Late+h.Foreign != 0 {
				t.Errorf("health %+v", h)
			}
			_ = conn.Close()
			<-done
		})
	}
}

// While no converter is connected the bus is down and its points are bad; when it dials in it is polled at once, and
// again on a new connection.
func TestBusOfAConverterThatDialsIn(t *testing.T) {
	_, routes, address := listen(t, nil, []byte("YG-0001"))
	u, d := countingBlocks("a", 1, 0)
	u.Profile.Timing.Timeout = time.Second
	clock := telemetry.NewClock("test", 0, time.Time{})
	bus, err := modbus.New(modbus.Config{Name: "dtu", Transport: modbus.RTUOverTCP, Line: fast, Inbound: routes[0],
		Units: []firmwareconfig.Unit{u}, Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	good, bad := 0, 0
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- drivers.Supervise(ctx, clock, bus, func(all []telemetry.Sample) {
			mu.Lock()
			defer mu.Unlock()
			for _, s := range all {
				if s.Quality.Bad() {
					bad++
				} else {
					good++
				}
			}
		}, nil)
	}()
	seen := func(g, b int) func() bool {
		return func() bool { mu.Lock(); defer mu.Unlock(); return good >= g && bad >= b }
	}
	waitFor(t, seen(0, 5))
	if h := bus.Health(); h.Up || h.LastError == "" {
		t.Errorf("health %+v while no converter is there", h)
	}
	var wg sync.WaitGroup
	for i := range 3 {
		mu.Lock()
		want := good + 5
		mu.Unlock()
		start := time.Now()
		conn := dialIn(t, address, "YG-0001\r\n")
		wg.Go(func() { serve(conn, true, 0, answering(true, map[byte]*tables{1: d})) })
		waitFor(t, seen(want, 0))
		t.Logf("connection %d: all points after %v", i+1, time.Since(start))
		if d := time.Since(start); d > 3*time.Second {
			t.Errorf("connection %d was polled after %v", i+1, d)
		}
		if i == 1 {
			_ = conn.Close() // the modem loses its network, and says so
			waitFor(t, func() bool { return !bus.Health().Up })
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	wg.Wait()
}

// FuzzRegistration: whatever a converter says, what is taken for its registration stands at the beginning.
func FuzzRegistration(f *testing.F) {
	f.Add([]byte("\r\nYG-0001\r\n\x01\x03"), []byte("YG-0001"), []byte("YG-00"))
	f.Add([]byte("\n\n"), []byte("\n"), []byte("\nX"))
	f.Add([]byte(""), []byte("a"), []byte("b"))
	f.Fuzz(func(t *testing.T, said, a, b []byte) {
		if len(a) == 0 || len(b) == 0 || bytes.Equal(a, b) {
			return
		}
		l := modbus.NewListener("x", nil)
		l.Route(a)
		l.Route(b)
		reg, rest, found, open := modbus.Match(l, said)
		if !found {
			if !open && len(bytes.TrimLeft(said, "\r\n")) == 0 {
				t.Fatalf("%q was given up although the registration may still come", said)
			}
			return
		}
		if !bytes.HasSuffix(said, append(append([]byte(nil), reg...), rest...)) {
			t.Fatalf("%q was taken for %q and %q", said, reg, rest)
		}
		if before := said[:len(said)-len(reg)-len(rest)]; len(bytes.TrimLeft(before, "\r\n")) != 0 {
			t.Fatalf("%q stands before %q", before, reg)
		}
	})
}

// Two converters with one registration end each other's connections: the bus says so, for as long as they do. One that
// dials in again after its connection was closed is no such case.
func TestRivalConvertersAreNamed(t *testing.T) {
	l, routes, address := listen(t, nil, []byte("YG-01"), []byte("YG-02"))
	u := unitOf("a", 1, 0, u16("x", 0))
	bus, err := modbus.New(modbus.Config{Name: "b", Transport: modbus.RTUOverTCP, Inbound: routes[0], Units: []firmwareconfig.Unit{u}})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		dialIn(t, address, "YG-02")
		_ = accept(t, routes[1]).Close() // as a bus does that heard nothing over it
	}
	dialIn(t, address, "YG-02")
	waitFor(t, routes[1].Waiting)
	if err := routes[1].Rivals(); err != nil {
		t.Errorf("a converter that dials in again: %v", err)
	}
	for range 4 {
		if e := bus.Health().LastError; e != "" {
			t.Errorf("too soon: %q", e)
		}
		dialIn(t, address, "YG-01")
		waitFor(t, routes[0].Waiting)
		accept(t, routes[0])
	}
	if e := bus.Health().LastError; !strings.Contains(e, `two converters register as "YG-01"`) {
		t.Errorf("the bus says %q", e)
	}
	if l.Address() != "127.0.0.1:0" {
		t.Errorf("address %s", l.Address())
	}
}
