package modbus_test

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// The tests named M1 to M14 and S1 to S4 each hold one defect of the transports we do not use against ours.

// countingBlocks is a unit whose register n reads n, in blocks far apart, so that a shifted answer shows.
func countingBlocks(id string, addr int, first telemetry.PointID) (firmwareconfig.Unit, *tables) {
	d := newTables()
	var chs []firmwareconfig.Channel
	for i := range 5 {
		a := 1000 * (i + 1)
		d.set(a, uint16(a+addr))
		c := u16(string(rune('a'+i)), a)
		c.Every = time.Second
		chs = append(chs, c)
	}
	return unitOf(id, addr, first, chs...), d
}

// checkCounting fails on any value that belongs to another register.
func checkCounting(t *testing.T, all []telemetry.Sample, first telemetry.PointID, addr int) (good int) {
	t.Helper()
	for _, s := range all {
		if s.Point < first || s.Point >= first+5 || s.Quality.Bad() {
			continue
		}
		good++
		if want := float64(1000*int(s.Point-first+1) + addr); s.Value.Float() != want {
			t.Errorf("point %d = %v at %v, want %v", s.Point, s.Value, s.Time, want)
		}
	}
	return good
}

func TestM1LateAnswerDoesNotShiftTCP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, d := countingBlocks("a", 1, 0)
		p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
			if r.nth == 3 {
				time.Sleep(400 * time.Millisecond) // past the timeout of 300 ms
			}
			_, _ = c.Write(r.frame(false, d.answer(r.pdu)))
			return true
		}}
		r := newRig(t, modbus.Config{Transport: modbus.TCP, Units: []firmwareconfig.Unit{u}}, p)
		r.run(20 * time.Second)
		if n := checkCounting(t, r.all, 0, 1); n < 95 {
			t.Errorf("%d good values in 20 s, want all but one or two of 100", n)
		}
		if h := r.unit(0); h.Timeouts != 1 || !h.Online {
			t.Errorf("health %+v, want one timeout", h)
		}
	})
}

func TestM1StaleTransactionIsSkippedInsideTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, d := countingBlocks("a", 1, 0)
		p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
			ans := d.answer(r.pdu)
			if r.nth == 3 {
				stale := r
				stale.id--
				_, _ = c.Write(stale.frame(false, []byte{3, 2, 0xDE, 0xAD}))
				time.Sleep(100 * time.Millisecond)
			}
			_, _ = c.Write(r.frame(false, ans))
			if r.nth == 5 {
				go c.Write(r.frame(false, ans)) // answered twice: stale for the next request
			}
			return true
		}}
		r := newRig(t, modbus.Config{Transport: modbus.TCP, Units: []firmwareconfig.Unit{u}}, p)
		r.run(10 * time.Second)
		checkCounting(t, r.all, 0, 1)
		if h := r.unit(0); h.Late != 2 || h.Timeouts+h.Errors != 0 || p.dials != 1 {
			t.Errorf("health %+v, %d dials; want two late frames and nothing else", h, p.dials)
		}
	})
}

func TestM2ReconnectsAfterPeerCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, d := countingBlocks("a", 1, 0)
		p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
			_, _ = c.Write(r.frame(false, d.answer(r.pdu)))
			return r.nth%10 != 0 // every tenth answer is the last of its connection
		}}
		r := newRig(t, modbus.Config{Transport: modbus.TCP, Units: []firmwareconfig.Unit{u}}, p)
		r.run(20 * time.Second)
		if n := checkCounting(t, r.all, 0, 1); n < 90 {
			t.Errorf("%d good values of 100", n)
		}
		for _, s := range r.all {
			if s.Quality.Bad() {
				t.Fatalf("point %d went %v although the unit answered after each reconnect", s.Point, s.Quality)
			}
		}
	})
}

func TestRefusedConnectionMakesAllUnitsBadAndBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, d := countingBlocks("a", 1, 0)
		v, e := countingBlocks("b", 2, 10)
		down := true
		p := &peer{handle: answering(false, map[byte]*tables{1: d, 2: e})}
		p.refuse = func() bool { return down }
		r := newRig(t, modbus.Config{Transport: modbus.TCP, Units: []firmwareconfig.Unit{u, v}}, p)
		r.step()
		for i := range telemetry.PointID(5) {
			r.want(i, 0, telemetry.BadComm)
			r.want(10+i, 0, telemetry.BadComm)
		}
		if h := r.bus.Health(); h.Up || h.LastError == "" {
			t.Errorf("health %+v, want down with a reason", h)
		}
		r.run(10 * time.Minute)
		if p.dials < 20 || p.dials > 60 {
			t.Errorf("%d attempts to connect in ten minutes, want about one in 15 to 30 s after the first", p.dials)
		}
		down = false
		r.run(31 * time.Second)
		r.want(0, 1001, telemetry.Good)
		r.want(10, 1002, telemetry.Good)
		if h := r.bus.Health(); !h.Up || h.LastError != "" {
			t.Errorf("health %+v, want up", h)
		}
	})
}

func TestOddFramesCloseTheConnection(t *testing.T) {
	for name, spoil := range map[string]func(c io.Writer, r request, ans []byte){
		"newer transaction": func(c io.Writer, r request, ans []byte) { r.id += 5; _, _ = c.Write(r.frame(false, ans)) },
		"other unit":        func(c io.Writer, r request, ans []byte) { r.unit = 9; _, _ = c.Write(r.frame(false, ans)) },
		"other function":    func(c io.Writer, r request, ans []byte) { ans[0] = 4; _, _ = c.Write(r.frame(false, ans)) },
		"protocol not 0": func(c io.Writer, r request, ans []byte) {
			f := r.frame(false, ans)
			f[3] = 1
			_, _ = c.Write(f)
		},
		"length 0":   func(c io.Writer, _ request, _ []byte) { _, _ = c.Write([]byte{0, 1, 0, 0, 0, 0, 1}) },
		"length 300": func(c io.Writer, _ request, _ []byte) { _, _ = c.Write([]byte{0, 1, 0, 0, 1, 44, 1}) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u, d := countingBlocks("a", 1, 0)
				p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
					ans := d.answer(r.pdu)
					if r.nth == 4 {
						spoil(c, r, ans)
						return true
					}
					_, _ = c.Write(r.frame(false, ans))
					return true
				}}
				r := newRig(t, modbus.Config{Transport: modbus.TCP, Units: []firmwareconfig.Unit{u}}, p)
				r.run(10 * time.Second)
				checkCounting(t, r.all, 0, 1)
				if h := r.unit(0); h.Errors != 1 || !h.Online || p.dials != 2 {
					t.Errorf("health %+v after %d connections; want one error and one reconnect", h, p.dials)
				}
			})
		})
	}
}

func TestM8ShortAnswerIsRefused(t *testing.T) {
	for _, transport := range []string{modbus.TCP, modbus.RTU} {
		t.Run(transport, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
					_, _ = c.Write(r.frame(transport != modbus.TCP, []byte{3, 2, 0, 7})) // asked for 20 bytes
					return true
				}}
				r := newRig(t, modbus.Config{Transport: transport, Units: []firmwareconfig.Unit{unitOf("a", 1, 0, u16("x", 0), u16("y", 9))}}, p)
				r.run(30 * time.Second)
				r.want(0, 0, telemetry.BadComm)
				r.want(1, 0, telemetry.BadComm)
				if h := r.unit(0); h.Errors < 2 || h.Answers != 0 {
					t.Errorf("health %+v, want errors only", h)
				}
			})
		})
	}
}

func TestM9FunctionMismatchIsNoException(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
			_, _ = c.Write(r.frame(false, []byte{0x84, 2})) // an exception, but of function 4
			return true
		}}
		r := newRig(t, modbus.Config{Transport: modbus.TCP, Units: []firmwareconfig.Unit{unitOf("a", 1, 0, u16("x", 0))}}, p)
		r.run(5 * time.Second)
		if h := r.unit(0); h.Exceptions != 0 || h.Errors == 0 {
			t.Errorf("health %+v, want errors and no exception", h)
		}
		r.want(0, 0, telemetry.BadComm)
	})
}

func TestM10UnspokenFunctionsAreRefused(t *testing.T) {
	if err := modbus.CheckAnswer([]byte{24, 0, 0, 0, 1}, []byte{24, 0, 4, 0, 1, 0, 2}); err == nil {
		t.Error("an answer to function 24 was accepted")
	}
}

func TestM11CancelEndsTheExchangeAtOnce(t *testing.T) {
	for _, transport := range []string{modbus.TCP, modbus.RTU, modbus.RTUOverTCP} {
		t.Run(transport, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &peer{t: t, rtu: transport != modbus.TCP, handle: func(io.ReadWriteCloser, request) bool { return true }}
				defer p.close()
				bus, err := modbus.NewOver(modbus.Config{Name: "b", Transport: transport, Timeout: time.Hour,
					Units: []firmwareconfig.Unit{unitOf("a", 1, 0, u16("x", 0))}}, p.dial)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Second, cancel)
				start := time.Now()
				s, _ := bus.Step(ctx, 0, nil)
				if d := time.Since(start); d != time.Second {
					t.Errorf("Step returned %v after the cancel", d-time.Second)
				}
				if len(s) != 0 {
					t.Errorf("cancel told %d samples; it says nothing about the unit", len(s))
				}
				if h := bus.Health().Units[0]; h.Timeouts+h.Errors != 0 {
					t.Errorf("health %+v: a cancel is no failure of the unit", h)
				}
				if err := bus.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestM11CancelEndsDialling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus, err := modbus.NewOver(modbus.Config{Name: "b", Transport: modbus.TCP, Units: []firmwareconfig.Unit{unitOf("a", 1, 0, u16("x", 0))}},
			func(ctx context.Context) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		bus.Step(t.Context(), 0, nil)
		if d := time.Since(start); d != time.Second {
			t.Errorf("connecting held Step for %v, want 1 s", d)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Millisecond, cancel)
		start = time.Now()
		bus.Step(ctx, telemetry.Mono(time.Minute), nil)
		if d := time.Since(start); d != 10*time.Millisecond {
			t.Errorf("cancel took %v", d)
		}
	})
}

func TestM12UnitsShareALineWithoutSharingState(t *testing.T) {
	for _, transport := range []string{modbus.TCP, modbus.RTU} {
		t.Run(transport, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				units, cfg := map[byte]*tables{}, []firmwareconfig.Unit(nil)
				for i := 1; i <= 5; i++ {
					u, d := countingBlocks("u"+string(rune('0'+i)), i, telemetry.PointID(10*i))
					cfg, units[byte(i)] = append(cfg, u), d
				}
				p := &peer{handle: answering(transport != modbus.TCP, units)}
				r := newRig(t, modbus.Config{Transport: transport, Line: firmwareconfig.Line{Baud: 115200}, Units: cfg}, p)
				r.run(10 * time.Second)
				for i := 1; i <= 5; i++ {
					if n := checkCounting(t, r.all, telemetry.PointID(10*i), i); n < 45 {
						t.Errorf("unit %d: %d values", i, n)
					}
				}
			})
		})
	}
}

func TestM14BroadcastIsNeverPolled(t *testing.T) {
	for _, transport := range []string{modbus.RTU, modbus.RTUOverTCP} {
		_, err := modbus.New(modbus.Config{Name: "b", Transport: transport, Address: "h:1", Device: "d",
			Units: []firmwareconfig.Unit{unitOf("a", 0, 0, u16("x", 0))}})
		if err == nil {
			t.Errorf("%s: a unit at address 0 was accepted", transport)
		}
	}
}
