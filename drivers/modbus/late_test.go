package modbus_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// lateness is how a peer is late. All blocks of its units have one size, and each value tells its address and the
// request that it answers, so that no swap of answers goes unnoticed.
type lateness struct {
	every     int  // every so many requests the answer is held back until the next request
	by        int  // for so many further requests
	behind    bool // what was held back comes behind the next answer instead of before it
	lost      bool // it never comes
	twice     bool // it comes in time, and once more with the next request
	onlyShape bool // nothing but reads of two registers is answered
}

// lateUnit is a unit of a late peer.
type lateUnit struct {
	mu   sync.Mutex
	how  lateness
	seq  uint32 // requests so far
	held []heldAnswer
	hit  int // requests that were not answered in time
}

type heldAnswer struct {
	frame []byte
	left  int
}

const lateBlocks = 8

// lateSite is a unit with blocks of two registers far apart. Register pair 100k reads k<<24 | number of the request.
func lateSite(timeout time.Duration) firmwareconfig.Unit {
	var chs []firmwareconfig.Channel
	for k := range lateBlocks {
		c := u16(fmt.Sprintf("c%d", k), 100*k)
		c.Encoding, c.Every = firmwareconfig.EncU32, time.Second
		chs = append(chs, c)
	}
	u := unitOf("a", 1, 0, chs...)
	u.Profile.Timing.Timeout = timeout
	return u
}

// answers handles one request and returns the frames to send, in order.
func (l *lateUnit) answers(rtu bool, r request) (out [][]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	fc, addr, n := r.pdu[0], int(binary.BigEndian.Uint16(r.pdu[1:])), int(binary.BigEndian.Uint16(r.pdu[3:]))
	ans := []byte{fc, byte(2 * n)}
	switch {
	case fc != 3 && l.how.onlyShape, fc == 3 && n != 2 && l.how.onlyShape:
		return nil
	case fc != 3:
		ans = []byte{fc | 0x80, 1}
	case addr%100+n > 2:
		ans = []byte{fc | 0x80, 2}
	default:
		v := binary.BigEndian.AppendUint32(nil, uint32(addr/100)<<24|l.seq)
		ans = append(ans, v[2*(addr%100):2*(addr%100+n)]...)
	}
	var due [][]byte
	rest := l.held[:0]
	for _, h := range l.held {
		if h.left--; h.left <= 0 {
			due = append(due, h.frame)
		} else {
			rest = append(rest, h)
		}
	}
	l.held = rest
	own := r.frame(rtu, ans)
	if l.how.every > 0 && int(l.seq)%l.how.every == 0 {
		if l.how.twice {
			due, l.held = append(due, own), append(l.held, heldAnswer{own, 1})
			return due
		}
		l.hit++
		if !l.how.lost {
			l.held = append(l.held, heldAnswer{own, max(1, l.how.by)})
		}
		return due
	}
	if l.how.behind {
		return append([][]byte{own}, due...)
	}
	return append(due, own)
}

// check holds the samples of one Step against what the unit served meanwhile: each good value is of its own register
// and of a request of this Step.
func (l *lateUnit) check(t testing.TB, samples []telemetry.Sample, since uint32) (good int) {
	t.Helper()
	for _, s := range samples {
		if s.Quality.Bad() {
			continue
		}
		good++
		v := uint32(s.Value.Float())
		if k, seq := int(v>>24), v&0xFFFFFF; k != int(s.Point) || seq <= since {
			t.Errorf("point %d has the value of block %d from request %d, which came before request %d", s.Point, k, seq, since+1)
		}
	}
	return good
}

func (l *lateUnit) now() uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seq
}

// drive steps until the unit has had n requests, or all points are bad for good, and returns how many Steps asked
// something and how many gave a value.
func (l *lateUnit) drive(t testing.TB, n int, step func() []telemetry.Sample) (asked, good int) {
	for idle := 0; int(l.now()) < n && idle < 1000 && !t.Failed(); {
		since := l.now()
		g := l.check(t, step(), since)
		good += g
		if l.now() > since {
			asked++
			idle = 0
		} else {
			idle++
		}
	}
	return asked, good
}

func handleLate(l *lateUnit, rtu bool) func(c io.ReadWriteCloser, r request) bool {
	return func(c io.ReadWriteCloser, r request) bool {
		out := l.answers(rtu, r)
		if len(out) > 1 && (!rtu || r.nth%2 == 0) {
			out = [][]byte{bytes.Join(out, nil)} // in one piece
		}
		for _, f := range out {
			if _, err := c.Write(f); err != nil {
				return false
			}
		}
		return true
	}
}

// lateInVirtualTime runs n requests over a transport.
func lateInVirtualTime(t *testing.T, transport string, how lateness, n int) (l *lateUnit, asked, good int, r *rig) {
	l = &lateUnit{how: how}
	p := &peer{serial: transport == modbus.RTU, handle: handleLate(l, transport != modbus.TCP)}
	r = newRig(t, modbus.Config{Transport: transport, Line: fast, Units: []firmwareconfig.Unit{lateSite(0)}}, p)
	asked, good = l.drive(t, n, r.step)
	return l, asked, good, r
}

var transports = [...]string{modbus.TCP, modbus.RTU, modbus.RTUOverTCP}

// No answer of a late unit becomes a value of another register or of an earlier moment, and what was not late is read.
func TestLateAnswersNeverBecomeValues(t *testing.T) {
	for _, c := range []struct {
		name  string
		how   lateness
		least float64 // part of the reads that were answered in time and gave values
	}{
		{"in time", lateness{}, 1},
		{"every 2nd", lateness{every: 2}, 0},
		{"every 3rd", lateness{every: 3}, 0},
		{"every 7th", lateness{every: 7}, 0.99},
		{"every 50th", lateness{every: 50}, 0.99},
		{"every 7th, behind the next answer", lateness{every: 7, behind: true}, 0.99},
		{"every 7th by two", lateness{every: 7, by: 2}, 0.7}, // which costs two reads each
		{"every 20th by three", lateness{every: 20, by: 3}, 0.9},
		{"every 7th lost", lateness{every: 7, lost: true}, 0.99},
		{"always", lateness{every: 1}, 0},
		{"always by two", lateness{every: 1, by: 2}, 0},
		{"always by three", lateness{every: 1, by: 3}, 0},
		{"every 9th, nothing else is answered", lateness{every: 9, onlyShape: true}, 0.5},
	} {
		for _, transport := range transports {
			t.Run(c.name+"/"+transport, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l, asked, good, r := lateInVirtualTime(t, transport, c.how, 3000)
					unaffected := asked - l.hit
					t.Logf("%d requests, %d Steps, %d answers late, %d values; %+v %q", l.seq, asked, l.hit, good, r.unit(0), r.bus.Health().Units[0].LastError)
					if float64(good) < c.least*float64(unaffected) {
						t.Errorf("%d values of %d reads that were answered in time", good, unaffected)
					}
					if c.how.every == 1 && good > 0 {
						t.Errorf("%d values of a unit that is always late", good)
					}
				})
			})
		}
	}
}

// The requirement: 100,000 requests, every 50th answered one poll late.
func TestLateAnswersOfHundredThousand(t *testing.T) {
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, asked, good, _ := lateInVirtualTime(t, transport, lateness{every: 50}, 100_000)
				t.Logf("%d requests, %d reads, %d answers late, %d values", l.seq, asked, l.hit, good)
				if float64(good) < 0.99*float64(asked-l.hit) || l.hit < 2000 {
					t.Errorf("%d values of %d reads that were answered in time", good, asked-l.hit)
				}
			})
		})
	}
}

// An answer that is given twice, the second time after the next request, is known by its bytes, and not believed.
func TestAnswersGivenTwice(t *testing.T) {
	for _, transport := range transports {
		synctest.Test(t, func(t *testing.T) {
			l := &lateUnit{how: lateness{every: 9, twice: true}}
			p := &peer{serial: transport == modbus.RTU, handle: handleLate(l, transport != modbus.TCP)}
			r := newRig(t, modbus.Config{Transport: transport, Line: fast, Units: []firmwareconfig.Unit{lateSite(0)}}, p)
			wrong, good := 0, 0
			for l.now() < 3000 {
				since := l.now()
				for _, s := range r.step() {
					switch v := uint32(s.Value.Float()); {
					case s.Quality.Bad():
					case int(v>>24) != int(s.Point) || v&0xFFFFFF <= since:
						wrong++
					default:
						good++
					}
				}
			}
			t.Logf("%s: %d wrong and %d right values", transport, wrong, good)
			if wrong > 0 || good < 2000 {
				t.Errorf("%s: %d wrong and %d right values", transport, wrong, good)
			}
		})
	}
}

// startLate serves a late unit over a real socket or pty and returns the bus's configuration.
func startLate(t testing.TB, transport string, l *lateUnit) modbus.Config {
	t.Helper()
	c := modbus.Config{Name: "late", Transport: transport, Line: fast}
	rtu := transport != modbus.TCP
	var wg sync.WaitGroup
	if transport == modbus.RTU {
		master, slave := openPty(t)
		c.Device = slave
		wg.Go(func() { serve(master, true, 0, handleLate(l, true)) })
		t.Cleanup(func() { _ = master.Close(); wg.Wait() })
		return c
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.Address = ln.Addr().String()
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serve(conn, rtu, 0, handleLate(l, rtu)) })
		}
	})
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	return c
}

// lateForReal runs n requests over real sockets and ptys. Time is told by hand, so that only timeouts are waited for.
func lateForReal(t testing.TB, transport string, n, every int) {
	t.Helper()
	l := &lateUnit{how: lateness{every: every}}
	c := startLate(t, transport, l)
	c.Units = []firmwareconfig.Unit{lateSite(25 * time.Millisecond)}
	bus, err := modbus.New(c)
	if err != nil {
		t.Fatal(err)
	}
	var now, next telemetry.Mono
	asked, good := l.drive(t, n, func() (s []telemetry.Sample) {
		s, next = bus.Step(t.Context(), now, nil)
		now = max(next, now.Add(time.Microsecond))
		return s
	})
	if err := bus.Close(); err != nil {
		t.Error(err)
	}
	h := bus.Health().Units[0]
	t.Logf("%d requests, %d Steps, %d answers late, %d values; %d timeouts, %d errors, %d late", l.seq, asked, l.hit, good, h.Timeouts, h.Errors, h.Late)
	// A busy machine makes answers late of its own; those are counted as timeouts.
	if affected := max(l.hit, int(h.Timeouts+h.Errors)); float64(good) < 0.99*float64(asked-affected) || l.hit < n/every/2 {
		t.Errorf("%d values of %d reads that were answered in time", good, asked-affected)
	}
}

func TestLateAnswersForReal(t *testing.T) {
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			lateForReal(t, transport, 3000, 61)
		})
	}
}

// A gateway that does not repeat transaction ids is read where that is allowed, over a new connection after each timeout,
// and its late answers are no values either.
func TestGatewayWithoutTransactionIDs(t *testing.T) {
	for _, ignore := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			l := &lateUnit{how: lateness{every: 10, lost: true}}
			p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
				r.id = 0
				return handleLate(l, false)(c, r)
			}}
			r := newRig(t, modbus.Config{Transport: modbus.TCP, IgnoreTID: ignore, Units: []firmwareconfig.Unit{lateSite(0)}}, p)
			asked, good := l.drive(t, 1000, r.step)
			t.Logf("ignoring ids %v: %d reads, %d values, %d connections", ignore, asked, good, p.dials)
			if ignore && (good < asked-l.hit || p.dials < l.hit) || !ignore && good > 0 {
				t.Errorf("ignoring ids %v: %d values of %d reads over %d connections", ignore, good, asked, p.dials)
			}
		})
	}
}

// BenchmarkLateAnswers is the same at full length: 100,000 requests on each transport, every 50th answer late.
func BenchmarkLateAnswers(b *testing.B) {
	for _, transport := range transports {
		b.Run(transport, func(b *testing.B) {
			for range b.N {
				lateForReal(b, transport, 100_000, 50)
			}
		})
	}
}
