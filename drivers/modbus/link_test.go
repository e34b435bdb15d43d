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

	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// What may happen to the link of sixteen units behind one TCP endpoint. The figures that the tests log and hold
// against a bound are those that a site can count on.

// sixteen returns units 1 to 16, each with one point (0 to 15) that reads 100 times the unit's address.
func sixteen() ([]firmwareconfig.Unit, map[byte]*tables) {
	var cfg []firmwareconfig.Unit
	units := map[byte]*tables{}
	for i := 1; i <= 16; i++ {
		d := newTables()
		d.set(0, uint16(100*i))
		units[byte(i)] = d
		cfg = append(cfg, unitOf(fmt.Sprintf("u%d", i), i, telemetry.PointID(i-1), u16("x", 0)))
	}
	return cfg, units
}

// until steps until each of points 0 to 15 is bad, or each is good, and returns when the first and the last became so.
func (r *rig) until(bad bool, limit time.Duration) (first, last time.Duration) {
	r.t.Helper()
	start := r.clock.Mono()
	for n := 0; n < 16; {
		if r.clock.Mono().Sub(start) > limit {
			r.t.Fatalf("after %v only %d of 16 points have bad=%v", limit, n, bad)
		}
		r.step()
		n = 0
		for p := range telemetry.PointID(16) {
			if s, ok := r.last[p]; ok && s.Quality.Bad() == bad {
				n++
			}
		}
		if n > 0 && first == 0 {
			first = r.clock.Mono().Sub(start)
		}
	}
	return first, r.clock.Mono().Sub(start)
}

// wantLink checks what the bus says about its link and how many units are online.
func (r *rig) wantLink(up bool, online int) {
	r.t.Helper()
	h := r.bus.Health()
	n := 0
	for _, u := range h.Units {
		if u.Online {
			n++
		}
	}
	if h.Up != up || (h.LastError == "") != up || n != online {
		r.t.Errorf("up %v (%q) with %d units online, want %v with %d", h.Up, h.LastError, n, up, online)
	}
}

func TestLinkTroubleOfSixteenUnits(t *testing.T) {
	const (
		fine int32 = iota
		hangsUp
		silent
		refuses
		halfOpen // the peer's packets no longer arrive: neither answers nor new connections
	)
	for _, c := range []struct {
		name       string
		trouble    int32
		bad, back  time.Duration // the most until all points are bad, and good again
		up         bool          // while it lasts
		connection int           // attempts in ten minutes, at most
		life       bool          // one of the points is life-safety
	}{
		{"hangs up", hangsUp, 2 * time.Second, 31 * time.Second, false, 60, false},
		{"accepts and never answers", silent, 4 * time.Second, 4 * time.Second, true, 2000, false},
		{"refuses", refuses, 2 * time.Second, 31 * time.Second, false, 60, false},
		{"half-open", halfOpen, 3 * time.Second, 32 * time.Second, false, 60, false},
		{"refuses, life safety", refuses, 2 * time.Second, 6 * time.Second, false, 260, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg, units := sixteen()
				cfg[3].Bindings[0].Def.LifeSafety = c.life
				var state atomic.Int32
				p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
					switch state.Load() {
					case fine:
						_, _ = c.Write(r.frame(false, units[r.unit].answer(r.pdu)))
					case hangsUp, refuses:
						return false
					}
					return true
				}}
				p.refuse = func() bool { return state.Load() == refuses }
				r := newRigOver(t, modbus.Config{Transport: modbus.TCP, Units: cfg}, p, func(ctx context.Context) (net.Conn, error) {
					if state.Load() == halfOpen {
						p.dials++
						<-ctx.Done()
						return nil, ctx.Err()
					}
					return p.dial(ctx)
				})
				r.run(5 * time.Second)
				r.wantLink(true, 16)
				state.Store(c.trouble)
				first, last := r.until(true, 10*time.Minute)
				t.Logf("first point bad after %v, all after %v", first, last)
				if last > c.bad {
					t.Errorf("all bad after %v, want at most %v", last, c.bad)
				}
				r.wantLink(c.up, 0)
				dials := p.dials
				r.run(10 * time.Minute)
				t.Logf("%d attempts to connect in ten minutes", p.dials-dials)
				if n := p.dials - dials; n > c.connection {
					t.Errorf("%d attempts to connect in ten minutes, want at most %d", n, c.connection)
				}
				r.wantLink(c.up, 0)
				var worst time.Duration
				for i := range 20 { // at another moment of the backoff or of the probes each time
					state.Store(fine)
					_, last = r.until(false, 10*time.Minute)
					worst = max(worst, last)
					r.wantLink(true, 16)
					state.Store(c.trouble)
					r.run(2*time.Minute + time.Duration(i)*1370*time.Millisecond)
				}
				t.Logf("all points good after at most %v", worst)
				if worst > c.back {
					t.Errorf("all good after %v, want at most %v", worst, c.back)
				}
			})
		})
	}
}

// Some gateways hang up when a unit behind them does not answer. That is the unit's failure: the others go on.
func TestUnitsForWhichThePeerHangsUpAreDeadAlone(t *testing.T) {
	for _, from := range []time.Duration{0, 10 * time.Second} { // dead at the start, or later
		t.Run(from.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg, units := sixteen()
				var dead atomic.Bool
				p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
					if dead.Load() && r.unit <= 3 {
						return false
					}
					_, _ = c.Write(r.frame(false, units[r.unit].answer(r.pdu)))
					return true
				}}
				r := newRig(t, modbus.Config{Transport: modbus.TCP, Units: cfg}, p)
				r.run(from)
				dead.Store(true)
				r.run(20 * time.Second)
				r.wantLink(true, 13)
				from, dials := len(r.all), p.dials
				r.run(5 * time.Minute)
				r.wantLink(true, 13)
				good := 0
				for _, s := range r.all[from:] {
					switch {
					case s.Point >= 3 && s.Quality.Bad():
						t.Fatalf("point %d went %v at %v", s.Point, s.Quality, time.Duration(s.Time))
					case s.Point >= 3:
						good++
					}
				}
				for i := range telemetry.PointID(3) {
					r.want(i, 0, telemetry.BadComm)
				}
				t.Logf("%d values of 780, %d connections", good, p.dials-dials)
				if good < 770 || p.dials-dials > 150 {
					t.Errorf("%d values of 780 over %d connections", good, p.dials-dials)
				}
				dead.Store(false)
				if _, last := r.until(false, time.Minute); last > 16*time.Second {
					t.Errorf("all good after %v", last)
				}
			})
		})
	}
}

// Some converters close the connection after each answer. Nobody is to blame, however many units there are.
func TestPeerThatClosesAfterEachAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, units := sixteen()
		p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
			_, _ = c.Write(r.frame(false, units[r.unit].answer(r.pdu)))
			return false
		}}
		r := newRig(t, modbus.Config{Transport: modbus.TCP, Units: cfg}, p)
		r.run(time.Minute)
		for _, s := range r.all {
			if s.Quality.Bad() {
				t.Fatalf("point %d went %v at %v", s.Point, s.Quality, time.Duration(s.Time))
			}
		}
		if len(r.all) < 190 {
			t.Errorf("%d values of 192", len(r.all))
		}
		r.wantLink(true, 16)
	})
}

// A single unit at which the peer hangs up now and then costs nothing; one at which it always does is given up at once.
func TestSecondHangUpInARowIsALostLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTables()
		d.set(0, 7)
		var hang atomic.Int32
		p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
			if hang.Add(-1) >= 0 {
				return false
			}
			_, _ = c.Write(r.frame(false, d.answer(r.pdu)))
			return true
		}}
		r := newRig(t, modbus.Config{Transport: modbus.TCP, Units: []firmwareconfig.Unit{unitOf("a", 1, 0, u16("x", 0))}}, p)
		r.run(7 * time.Second)
		hang.Store(1)
		r.run(5 * time.Second)
		for _, s := range r.all {
			if s.Quality.Bad() {
				t.Fatalf("one hang-up made the point %v", s.Quality)
			}
		}
		if hang.Load() >= 0 {
			t.Fatal("the peer did not hang up: the test shows nothing")
		}
		hang.Store(1 << 20)
		start := r.clock.Mono()
		for !r.last[0].Quality.Bad() {
			r.step()
		}
		if d := r.clock.Mono().Sub(start); d > 5100*time.Millisecond {
			t.Errorf("the point went bad after %v", d)
		}
		r.wantLink(false, 0)
		dials := p.dials
		r.run(time.Minute)
		if n := p.dials - dials; n < 5 || n > 12 {
			t.Errorf("%d connections in the first minute, want a few, backing off", n)
		}
	})
}

// The pause that a unit wants after a transaction is kept before the request is repeated on a new connection.
func TestPauseIsKeptAfterAHangUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := unitOf("a", 1, 0, u16("x", 0))
		u.Profile.Timing.Gap = 200 * time.Millisecond
		var last time.Time
		p := &peer{handle: func(_ io.ReadWriteCloser, r request) bool {
			if g := time.Since(last); r.nth > 1 && g < 200*time.Millisecond {
				t.Errorf("request %d came %v after the hang-up", r.nth, g)
			}
			last = time.Now()
			return false
		}}
		r := newRig(t, modbus.Config{Transport: modbus.TCP, Units: []firmwareconfig.Unit{u}}, p)
		r.run(10 * time.Second)
	})
}
