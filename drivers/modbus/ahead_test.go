package modbus_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// eager takes requests before it has answered those before, looks after a millisecond which it has, and answers them as it likes.
type eager struct {
	answer func(c net.Conn, waiting []request)

	wg    sync.WaitGroup
	mu    sync.Mutex
	most  int // requests that waited at once
	dials int
	total int
}

func (s *eager) dial(context.Context) (net.Conn, error) {
	a, b := net.Pipe()
	s.mu.Lock()
	s.dials++
	s.mu.Unlock()
	queue := make(chan request, 64)
	s.wg.Go(func() {
		defer close(queue)
		for {
			r, err := readRequest(b, false)
			if err != nil {
				return
			}
			queue <- r
		}
	})
	s.wg.Go(func() {
		defer b.Close()
		for r := range queue {
			time.Sleep(time.Millisecond)
			waiting := []request{r}
			for len(queue) > 0 {
				waiting = append(waiting, <-queue)
			}
			s.mu.Lock()
			s.most = max(s.most, len(waiting))
			s.total += len(waiting)
			s.mu.Unlock()
			s.answer(b, waiting)
		}
	})
	return a, nil
}

// hundred is a bus with 100 units, whose only register reads the unit's address, and a server that takes so many requests.
func hundred(t *testing.T, s *eager, atOnce int) *rig {
	var units []firmwareconfig.Unit
	for a := 1; a <= 100; a++ {
		c := u16("a", 7)
		c.Every = time.Second
		units = append(units, unitOf(fmt.Sprint("u", a), a, telemetry.PointID(a), c))
	}
	r := newRigOver(t, modbus.Config{Transport: modbus.TCP, AtOnce: atOnce, Units: units}, &peer{}, s.dial)
	t.Cleanup(func() { _ = r.bus.Close(); s.wg.Wait() })
	return r
}

// own is the answer of a unit that has one register.
func (r request) own() []byte {
	if r.pdu[0] != 3 || r.pdu[4] != 1 {
		return r.frame(false, []byte{r.pdu[0] | 0x80, 2})
	}
	return r.frame(false, []byte{3, 2, 0, r.unit})
}

// checkOwn fails on any value that belongs to another unit, and returns how many good ones there are.
func checkOwn(t *testing.T, all []telemetry.Sample) (good int) {
	t.Helper()
	for _, s := range all {
		if s.Quality.Bad() {
			continue
		}
		good++
		if s.Value.Float() != float64(s.Point) {
			t.Errorf("unit %d = %v at %v", s.Point, s.Value, s.Time)
		}
	}
	return good
}

func TestRequestsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &eager{answer: func(c net.Conn, waiting []request) {
			for _, r := range waiting {
				_, _ = c.Write(r.own())
			}
		}}
		r := hundred(t, s, 8)
		r.run(20 * time.Second)
		if n := checkOwn(t, r.all); n < 1990 || len(r.all) != n {
			t.Errorf("%d good values of %d samples in 20 s, want 2000", n, len(r.all))
		}
		if s.most != 8 {
			t.Errorf("%d requests at once, want 8", s.most)
		}
	})
}

// TestRequestsAtOnceOneSilent: a unit that falls silent among others costs those nothing but a new connection, and requests
// go one by one then.
func TestRequestsAtOnceOneSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		s := &eager{}
		s.answer = func(c net.Conn, waiting []request) {
			for _, r := range waiting {
				if r.unit != 55 || time.Since(began) < 5*time.Second {
					_, _ = c.Write(r.own())
				}
			}
		}
		r := hundred(t, s, 8)
		r.run(5 * time.Second)
		s.most = 0
		r.run(20 * time.Second)
		checkOwn(t, r.all)
		r.want(55, 0, telemetry.BadComm)
		for u := range 100 {
			if h := r.unit(u); u+1 != 55 && (!h.Online || h.Timeouts+h.Errors > 0 || h.Answers < 24) {
				t.Errorf("unit %d: %+v", u+1, h)
			}
		}
		if s.dials > 5 {
			t.Errorf("%d connections", s.dials)
		}
		s.most = 0
		r.run(time.Second)
		if s.most > 1 {
			t.Errorf("%d requests at once right after one was not answered", s.most)
		}
	})
}

// TestRequestsAtOnceOutOfOrder: a server that answers in another order, against what the site file says of it, is asked one
// by one.
func TestRequestsAtOnceOutOfOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &eager{answer: func(c net.Conn, waiting []request) {
			for _, r := range slices.Backward(waiting) {
				_, _ = c.Write(r.own())
			}
		}}
		r := hundred(t, s, 8)
		r.run(20 * time.Second)
		if n := checkOwn(t, r.all); n < 1980 || len(r.all) != n {
			t.Errorf("%d good values of %d samples in 20 s, want nearly 2000, and none bad", n, len(r.all))
		}
	})
}

// TestRequestsAtOnceHangUp: a server that hangs up on the second request is asked one by one, and no unit is lost.
func TestRequestsAtOnceHangUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &eager{answer: func(c net.Conn, waiting []request) {
			_, _ = c.Write(waiting[0].own())
			if len(waiting) > 1 {
				_ = c.Close()
			}
		}}
		r := hundred(t, s, 8)
		r.run(20 * time.Second)
		if n := checkOwn(t, r.all); n < 1980 || len(r.all) != n {
			t.Errorf("%d good values of %d samples in 20 s, want nearly 2000, and none bad", n, len(r.all))
		}
	})
}

// TestRequestsInARun: without requests_at_once no request goes out before the one before was answered, and still what is due
// together is read in one Step.
func TestRequestsInARun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &eager{answer: func(c net.Conn, waiting []request) {
			for _, r := range waiting {
				_, _ = c.Write(r.own())
			}
		}}
		r := hundred(t, s, 0)
		r.run(5 * time.Second)
		many := 0
		for end := r.clock.Mono().Add(10 * time.Second); r.clock.Mono() < end; {
			if len(r.step()) >= 5 {
				many++
			}
		}
		if n := checkOwn(t, r.all); n < 1490 || len(r.all) != n {
			t.Errorf("%d good values of %d samples in 15 s, want 1500", n, len(r.all))
		}
		if s.most != 1 {
			t.Errorf("%d requests at once, want 1", s.most)
		}
		if many < 90 {
			t.Errorf("%d steps of several requests in 100 bursts of ten", many)
		}
	})
}

// TestOneOfARunIsSilent: a unit that falls silent in a run costs the others nothing, not even the connection, and one that
// refuses costs them nothing either.
func TestOneOfARunIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		s := &eager{}
		s.answer = func(c net.Conn, waiting []request) {
			for _, r := range waiting {
				switch late := time.Since(began) >= 5*time.Second; {
				case late && r.unit == 55:
				case late && r.unit == 66:
					_, _ = c.Write(r.frame(false, []byte{r.pdu[0] | 0x80, 11}))
				default:
					_, _ = c.Write(r.own())
				}
			}
		}
		r := hundred(t, s, 0)
		r.run(25 * time.Second)
		checkOwn(t, r.all)
		r.want(55, 0, telemetry.BadComm)
		r.want(66, 0, telemetry.BadComm)
		for u := range 100 {
			if h := r.unit(u); u+1 != 55 && u+1 != 66 && (!h.Online || h.Timeouts+h.Errors > 0 || h.Answers < 24) {
				t.Errorf("unit %d: %+v", u+1, h)
			}
		}
		if s.most != 1 || s.dials > 1 {
			t.Errorf("%d requests at once over %d connections, want one over one", s.most, s.dials)
		}
	})
}

// TestNextIsDue: after a run Step says when the next block is due without looking at all of them, and never too late.
func TestNextIsDue(t *testing.T) {
	for _, c := range []struct{ units, atOnce int }{{60, 0}, {60, 8}, {2, 0}} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			s := &eager{answer: func(c net.Conn, waiting []request) {
				for _, r := range waiting {
					if since := time.Since(began); r.unit == 7 && since > 3*time.Second && since < 9*time.Second {
						continue
					}
					_, _ = c.Write(r.own())
				}
			}}
			var units []firmwareconfig.Unit
			for a := 1; a <= c.units; a++ {
				fast, slow := u16("a", 7), u16("b", 7)
				fast.Every, slow.Every = time.Duration(1+a%3)*200*time.Millisecond, 3*time.Second
				u := unitOf(fmt.Sprint("u", a), a, telemetry.PointID(2*a), fast, slow)
				if c.units > 2 {
					u.Profile.Timing.Gap = time.Duration(a%4) * 100 * time.Millisecond
				}
				units = append(units, u)
			}
			r := newRigOver(t, modbus.Config{Transport: modbus.TCP, AtOnce: c.atOnce, Units: units}, &peer{}, s.dial)
			t.Cleanup(func() { _ = r.bus.Close(); s.wg.Wait() })
			runs, early := 0, 0
			for end := r.clock.Mono().Add(20 * time.Second); r.clock.Mono() < end; {
				if len(r.step()) > 1 {
					runs++
				}
				now := r.clock.Mono()
				switch want := max(now, r.bus.Due(now)); {
				case r.next > want:
					t.Fatalf("at %v the next step is said to be due at %v, and is at %v", now, r.next, want)
				case r.next < want:
					early++ // what was due then was read along
				}
			}
			if runs < 15 || early > runs/4 {
				t.Errorf("%d runs, after which the next step was said to be due too early %d times", runs, early)
			}
		})
	}
}
