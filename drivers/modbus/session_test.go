package modbus_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

func openSession(t *testing.T, c modbus.Config) *modbus.Session {
	t.Helper()
	c.Name = "tool"
	s, err := modbus.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// A tool and a gateway never talk on one line at once, whoever they are.
func TestDeviceIsHeldByOne(t *testing.T) {
	_, slave := openPty(t)
	link := t.TempDir() + "/by-id"
	if err := os.Symlink(slave, link); err != nil {
		t.Fatal(err)
	}
	config := func(device string) modbus.Config {
		return modbus.Config{Name: "line", Transport: modbus.RTU, Device: device, Line: fast, Timeout: 20 * time.Millisecond,
			Units: []firmwareconfig.Unit{unitOf("a", 1, 0, u16("x", 0))}}
	}
	s := openSession(t, config(slave))
	if _, err := modbus.Open(t.Context(), config(link)); !errors.Is(err, modbus.ErrInUse) || !strings.Contains(err.Error(), link) {
		t.Errorf("a second session: %v", err)
	}
	bus, err := modbus.New(config(link))
	if err != nil {
		t.Fatal(err)
	}
	bus.Step(t.Context(), 0, nil)
	if h := bus.Health(); h.Up || !strings.Contains(h.LastError, "in use") {
		t.Errorf("a bus beside a session: %+v", h)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	bus.Step(t.Context(), telemetry.Mono(time.Minute), nil) // opens the device; nobody answers
	if _, err := modbus.Open(t.Context(), config(slave)); !errors.Is(err, modbus.ErrInUse) {
		t.Errorf("a session beside a bus: %v", err)
	}
	if err := bus.Close(); err != nil {
		t.Error(err)
	}
	if err := openSession(t, config(slave)).Close(); err != nil {
		t.Error(err)
	}
}

func TestOpenRefusesWhatCannotBe(t *testing.T) {
	for name, c := range map[string]modbus.Config{
		"no device": {Transport: modbus.RTU},
		"gone":      {Transport: modbus.RTU, Device: "/dev/serial/by-id/not-there"},
		"no tty":    {Transport: modbus.RTU, Device: "/dev/null"},
		"nobody":    {Transport: modbus.TCP, Address: freeAddress(t)},
	} {
		if s, err := modbus.Open(t.Context(), c); err == nil {
			_ = s.Close()
			t.Errorf("%s was opened", name)
		}
	}
}

func TestSessionAsksWhatABusDoesNot(t *testing.T) {
	master, slave := openPty(t)
	requests := make(chan []byte, 16)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 256)
		for {
			n, err := master.Read(buf)
			if err != nil {
				return
			}
			requests <- append([]byte(nil), buf[:n]...)
			switch buf[1] {
			case 0x2B:
				// In two pieces, of a length that nobody can know beforehand.
				f := modbus.AppendRTU(nil, buf[0], append([]byte{0x2B, 0x0E, 1, 1, 0, 0, 1, 0, 5}, "Linli"...))
				_, _ = master.Write(f[:6])
				time.Sleep(3 * time.Millisecond)
				_, _ = master.Write(f[6:])
			case 0x41:
				_, _ = master.Write(modbus.AppendRTU(nil, buf[0], []byte{0xC1, 1}))
			case 0x11:
				_, _ = master.Write(append([]byte{0xFF, 0xFF}, modbus.AppendRTU(nil, buf[0], []byte{0x11, 2, 0x42, 0xFF})...))
			}
		}
	}()
	s := openSession(t, modbus.Config{Transport: modbus.RTU, Device: slave, Line: fast, Timeout: 50 * time.Millisecond})
	for name, c := range map[string]struct {
		unit byte
		ask  []byte
		want string // of the PDU; "" for an error
	}{
		"device identification": {3, []byte{0x2B, 0x0E, 1, 0}, "\x2B\x0E\x01\x01\x00\x00\x01\x00\x05Linli"},
		"unknown function":      {3, []byte{0x41, 0, 0}, "\xC1\x01"},
		"server id":             {3, []byte{0x11}, "\x11\x02\x42\xFF"},
		"nobody answers":        {3, pdu(3, 0, 1), ""},
		"reading from all":      {0, pdu(3, 0, 1), ""},
		"nothing":               {3, nil, ""},
		"an exception":          {3, []byte{0x83, 2}, ""},
		"too long":              {3, make([]byte, 254), ""},
	} {
		got, err := s.Ask(t.Context(), c.unit, c.ask, 2*time.Second)
		if name == "nobody answers" {
			continue
		}
		if (err == nil) != (c.want != "") || string(got.PDU) != c.want {
			t.Errorf("%s: % x, %v", name, got.PDU, err)
		}
		if name == "server id" && !strings.HasPrefix(string(got.Heard), "\xFF\xFF\x03\x11") {
			t.Errorf("%s: heard % x", name, got.Heard)
		}
	}
	for len(requests) > 0 {
		<-requests
	}
	// A write to all is sent and not waited for.
	if got, err := s.Ask(t.Context(), 0, pdu(6, 1, 2), time.Second); err != nil || got.PDU != nil {
		t.Errorf("broadcast: % x, %v", got.PDU, err)
	}
	if r := <-requests; string(r) != string(modbus.AppendRTU(nil, 0, pdu(6, 1, 2))) {
		t.Errorf("broadcast was sent as % x", r)
	}
	// A tool that gives up does not spoil the next request.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := s.Ask(ctx, 3, pdu(3, 0, 1), time.Minute); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 2*time.Second {
		t.Errorf("cancelled after %v: %v", time.Since(start), err)
	}
	if got, err := s.Ask(t.Context(), 3, []byte{0x11}, 2*time.Second); err != nil || string(got.PDU) != "\x11\x02\x42\xFF" {
		t.Errorf("after a cancelled request: % x, %v", got.PDU, err)
	}
	_ = s.Close()
	_ = master.Close()
	<-done
}

func TestSessionHears(t *testing.T) {
	master, slave := openPty(t)
	s := openSession(t, modbus.Config{Transport: modbus.RTU, Device: slave, Line: fast})
	if _, err := master.WriteString("R0123\r\n"); err != nil {
		t.Fatal(err)
	}
	heard, err := s.Hear(t.Context(), 100*time.Millisecond)
	if err != nil || string(heard) != "R0123\r\n" {
		t.Errorf("heard %q, %v", heard, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := s.Hear(ctx, time.Minute); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("cancelled: %v", err)
	}
	_ = master.Close()
	if _, err := s.Hear(t.Context(), 5*time.Second); err == nil {
		t.Error("the hang-up was not told")
	}
}

func TestSessionSetsTheLine(t *testing.T) {
	_, slave := openPty(t)
	s := openSession(t, modbus.Config{Transport: modbus.RTU, Device: slave, Line: fast})
	if err := s.Set(t.Context(), firmwareconfig.Line{Baud: 4800, Format: "8N2"}); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(slave, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tio, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS2)
	if err != nil || tio.Ospeed != 4800 || tio.Cflag&unix.CSTOPB == 0 {
		t.Errorf("termios %+v, %v", tio, err)
	}
	if err := s.Set(t.Context(), firmwareconfig.Line{Baud: 4800, Format: "7E1"}); err == nil {
		t.Error("7 data bits were accepted")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tcp := openSession(t, modbus.Config{Transport: modbus.RTUOverTCP, Address: l.Addr().String()})
	if err := tcp.Set(t.Context(), firmwareconfig.Line{Baud: 4800, Format: "8N1"}); err == nil {
		t.Error("the settings of a connection were changed")
	}
}

// An answer that is there before it can have passed over the wire is one to an earlier request.
func TestImplausiblyEarlyAnswersAreStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, d := countingBlocks("a", 1, 0)
		p := &peer{serial: true, handle: func(c io.ReadWriteCloser, r request) bool {
			if r.nth%3 == 0 {
				// What this master never asked, of the right shape.
				_, _ = c.Write(r.frame(true, []byte{3, 2, 0xDE, 0xAD}))
			}
			time.Sleep(20 * time.Millisecond) // 15 characters take 16 ms
			_, _ = c.Write(r.frame(true, d.answer(r.pdu)))
			return true
		}}
		r := newRigOver(t, modbus.Config{Transport: modbus.RTU, Units: []firmwareconfig.Unit{u}}, p, func(ctx context.Context) (net.Conn, error) {
			c, err := p.dial(ctx)
			return modbus.Paced(c), err
		})
		r.run(20 * time.Second)
		n := checkCounting(t, r.all, 0, 1)
		if h := r.unit(0); n < 95 || h.Late+r.bus.Health().Foreign < 30 {
			t.Errorf("%d values, health %+v", n, h)
		}
	})
}

// Another master asks the same unit while we wait: its answer is not ours, though it fits.
func TestAnotherMastersAnswersAreNoValues(t *testing.T) {
	var chs []firmwareconfig.Channel
	for a := range 20 {
		chs = append(chs, firmwareconfig.Channel{Name: "c" + string(rune('a'+a)), Table: firmwareconfig.Coil, Address: a, Encoding: firmwareconfig.EncBool})
	}
	bits := unitOf("bits", 1, 100, chs...)
	words, d := countingBlocks("a", 1, 0)
	for name, c := range map[string]struct {
		unit    firmwareconfig.Unit
		foreign []byte // the other master's request
		answer  []byte // the unit's answer to it
	}{
		"registers": {words, pdu(3, 5, 1), []byte{3, 2, 0xDE, 0xAD}},
		// 20 bits make an answer of the very length of a request to read; this one is for coils at 0x0300.
		"bits": {bits, pdu(1, 0x03FF, 2), []byte{1, 1, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked atomic.Int32
				p := &peer{serial: true, handle: func(w io.ReadWriteCloser, r request) bool {
					if asked.Add(1)%4 != 0 {
						_, _ = w.Write(r.frame(true, own(name, d, r)))
						return true
					}
					// The other master was a moment earlier: the unit heard only it, and answers it.
					_, _ = w.Write(modbus.AppendRTU(nil, 1, c.foreign))
					time.Sleep(5 * time.Millisecond)
					_, _ = w.Write(modbus.AppendRTU(nil, 1, c.answer))
					return true
				}}
				r := newRig(t, modbus.Config{Transport: modbus.RTU, Line: fast, Units: []firmwareconfig.Unit{c.unit}}, p)
				r.run(60 * time.Second)
				good := 0
				for _, s := range r.all {
					switch {
					case s.Quality.Bad():
						continue
					case s.Point >= 100 && s.Value.Bool() != (int(s.Point)%3 == 0):
						t.Errorf("bit %d = %v", s.Point-100, s.Value)
					}
					good++
				}
				checkCounting(t, r.all, 0, 1)
				h := r.bus.Health()
				t.Logf("%d values, %+v", good, h)
				if good < 100 || h.Late+h.Foreign == 0 {
					t.Errorf("%d values, health %+v", good, h)
				}
			})
		})
	}
}

func own(name string, d *tables, r request) []byte {
	if name == "registers" || r.pdu[0] > 2 {
		return d.answer(r.pdu)
	}
	n := int(r.pdu[4])
	out := make([]byte, 2+(n+7)/8)
	out[0], out[1] = r.pdu[0], byte(len(out)-2)
	for i := range n {
		if (100+int(r.pdu[2])+i)%3 == 0 {
			out[2+i/8] |= 1 << (i % 8)
		}
	}
	return out
}
