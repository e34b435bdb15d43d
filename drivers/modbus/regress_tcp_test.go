package modbus_test

import (
	"context"
	"errors"
	"io"
	"net"
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

func TestGatewayExceptionsConcernTheUnitAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, d := countingBlocks("a", 1, 0)
		v, _ := countingBlocks("b", 2, 10)
		var asked atomic.Int32
		p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
			ans := d.answer(r.pdu)
			if r.unit == 2 {
				asked.Add(1)
				ans = []byte{r.pdu[0] | 0x80, 11}
			}
			_, _ = c.Write(r.frame(false, ans))
			return true
		}}
		r := newRig(t, modbus.Config{Transport: modbus.TCP, Units: []firmwareconfig.Unit{u, v}}, p)
		r.run(time.Minute)
		if n := checkCounting(t, r.all, 0, 1); n < 290 {
			t.Errorf("%d values of the live unit, want 300", n)
		}
		r.want(10, 0, telemetry.BadComm)
		if asked.Load() > 12 || p.dials != 1 {
			t.Errorf("the absent unit was asked %d times over %d connections", asked.Load(), p.dials)
		}
	})
}

func TestFaultExceptionsAreRetriedWithBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTables()
		d.set(0, 5)
		var busy atomic.Bool
		var asked atomic.Int32
		p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
			ans := d.answer(r.pdu)
			if busy.Load() {
				asked.Add(1)
				ans = []byte{r.pdu[0] | 0x80, 6}
			}
			_, _ = c.Write(r.frame(false, ans))
			return true
		}}
		x := u16("x", 0)
		x.Every = time.Second
		r := newRig(t, modbus.Config{Transport: modbus.TCP, Units: []firmwareconfig.Unit{unitOf("a", 1, 0, x)}}, p)
		r.run(5 * time.Second)
		busy.Store(true)
		r.run(time.Minute)
		r.want(0, 0, telemetry.BadSensor)
		if asked.Load() > 12 || !r.unit(0).Online {
			t.Errorf("asked a busy unit %d times in a minute; online %v", asked.Load(), r.unit(0).Online)
		}
		busy.Store(false)
		r.run(16 * time.Second)
		r.want(0, 5, telemetry.Good)
	})
}

func TestIllegalAddressIsQuarantinedAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTables()
		var chs []firmwareconfig.Channel
		for a := range 40 {
			d.set(a, uint16(100+a))
			chs = append(chs, u16("c"+string(rune('a'+a%26))+string(rune('a'+a/26)), a))
		}
		d.illegal[17], d.illegal[31] = true, true
		p := &peer{handle: answering(false, map[byte]*tables{1: d})}
		r := newRig(t, modbus.Config{Transport: modbus.TCP, Units: []firmwareconfig.Unit{unitOf("a", 1, 0, chs...)}}, p)
		r.run(6 * time.Second)
		for a := range 40 {
			if a == 17 || a == 31 {
				r.want(telemetry.PointID(a), 0, telemetry.BadSensor)
			} else {
				r.want(telemetry.PointID(a), float64(100+a), telemetry.Good)
			}
		}
		if q := r.bus.Quarantined(0); len(q) != 2 {
			t.Errorf("quarantined %v, want the two refused registers", q)
		}
		if b := r.bus.Blocks(0); len(b) != 5 {
			t.Errorf("%d blocks after learning, want 3 readable and 2 refused: %+v", len(b), b)
		}
		exceptions := r.unit(0).Exceptions
		r.run(50 * time.Second)
		if n := r.unit(0).Exceptions - exceptions; n != 0 {
			t.Errorf("%d more refusals within a minute", n)
		}
		delete(d.illegal, 17) // it was only booting
		r.run(20 * time.Minute)
		r.want(17, 117, telemetry.Good)
		r.want(31, 0, telemetry.BadSensor)
	})
}

func TestIllegalGapIsLearned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTables()
		d.set(0, 1)
		d.set(5, 2)
		d.illegal[3] = true // between the two channels
		p := &peer{handle: answering(false, map[byte]*tables{1: d})}
		r := newRig(t, modbus.Config{Transport: modbus.TCP, Units: []firmwareconfig.Unit{unitOf("a", 1, 0, u16("x", 0), u16("y", 5))}}, p)
		r.run(time.Minute)
		r.want(0, 1, telemetry.Good)
		r.want(1, 2, telemetry.Good)
		if h := r.unit(0); h.Exceptions != 1 || len(r.bus.Quarantined(0)) != 0 {
			t.Errorf("health %+v, quarantined %v; want one refusal and nothing quarantined", h, r.bus.Quarantined(0))
		}
	})
}

func TestUnansweredBlockDoesNotKillItsUnit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, d := countingBlocks("a", 1, 0)
		p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
			if int(r.pdu[1])<<8|int(r.pdu[2]) == 3000 {
				return true // this register is ignored, not refused
			}
			_, _ = c.Write(r.frame(true, d.answer(r.pdu)))
			return true
		}}
		r := newRig(t, modbus.Config{Transport: modbus.RTU, Line: firmwareconfig.Line{Baud: 115200}, Units: []firmwareconfig.Unit{u}}, p)
		r.run(2 * time.Minute)
		r.want(2, 0, telemetry.BadComm)
		r.want(1, 2001, telemetry.Good)
		n := checkCounting(t, r.all, 0, 1)
		t.Logf("%d values of 480", n)
		if n < 440 || !r.unit(0).Online {
			t.Errorf("%d values of the other registers in two minutes, want nearly 480", n)
		}
		for _, s := range r.all {
			if s.Point != 2 && s.Quality.Bad() {
				t.Fatalf("point %d went %v", s.Point, s.Quality)
			}
		}
	})
}

func TestWarmUpIsUncertain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTables()
		u := unitOf("a", 1, 0, u16("x", 0))
		u.Profile.Timing.WarmUp = time.Minute
		p := &peer{handle: answering(false, map[byte]*tables{1: d})}
		r := newRig(t, modbus.Config{Transport: modbus.TCP, Units: []firmwareconfig.Unit{u}}, p)
		r.run(50 * time.Second)
		r.want(0, 0, telemetry.Uncertain)
		r.run(20 * time.Second)
		r.want(0, 0, telemetry.Good)
	})
}

func TestValidityBit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, at := range []int{1, 900} { // in the same block, and in one of its own
			d := newTables()
			d.set(0, 42)
			x := u16("x", 0)
			x.Valid = &firmwareconfig.Validity{Table: firmwareconfig.HoldingRegister, Address: at, Bit: 15}
			p := &peer{handle: answering(false, map[byte]*tables{1: d})}
			r := newRig(t, modbus.Config{Name: "bus", Transport: modbus.TCP, Units: []firmwareconfig.Unit{unitOf("a", 1, 0, x)}}, p)
			r.run(time.Second)
			r.want(0, 0, telemetry.BadSensor)
			d.set(at, 0x8000)
			r.run(8 * time.Second)
			r.want(0, 42, telemetry.Good)
			d.mu.Lock()
			d.illegal[at] = true
			d.mu.Unlock()
			r.run(12 * time.Second)
			r.want(0, 0, telemetry.BadSensor)
		}
	})
}

func TestGapBetweenTransactionsIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, d := countingBlocks("a", 1, 0)
		v, e := countingBlocks("b", 2, 10)
		u.Profile.Timing.Gap = 200 * time.Millisecond
		var lastOfA time.Time
		p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
			if g := time.Since(lastOfA); g < 200*time.Millisecond {
				t.Errorf("request %d came %v after an answer of unit 1", r.nth, g)
			}
			_, _ = c.Write(r.frame(true, map[byte]*tables{1: d, 2: e}[r.unit].answer(r.pdu)))
			if r.unit == 1 {
				lastOfA = time.Now()
			}
			return true
		}}
		r := newRig(t, modbus.Config{Transport: modbus.RTU, Units: []firmwareconfig.Unit{u, v}}, p)
		r.run(20 * time.Second)
		checkCounting(t, r.all, 0, 1)
		checkCounting(t, r.all, 10, 2)
	})
}

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

// Converters and PLCs close a connection that lies idle; that is nobody's failure.
func TestIdleCloseCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTables()
		d.set(0, 5)
		x := u16("x", 0)
		x.Every, x.Writable = time.Minute, true
		p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
			_, _ = c.Write(r.frame(false, d.answer(r.pdu)))
			return r.pdu[0] != 3 // closes after each reading
		}}
		r := newRig(t, modbus.Config{Transport: modbus.TCP, Units: []firmwareconfig.Unit{unitOf("a", 1, 0, x)}}, p)
		r.run(10 * time.Minute)
		if err := r.bus.Write(t.Context(), 0, telemetry.FloatValue(9)); err != nil {
			t.Error(err)
		}
		if h := r.unit(0); h.Errors+h.Timeouts != 0 || h.Answers < 10 {
			t.Errorf("health %+v", h)
		}
	})
}

func TestPeerThatHangsUpOnEveryRequestIsNotHammered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, _ := countingBlocks("a", 1, 0)
		p := &peer{handle: func(io.ReadWriteCloser, request) bool { return false }}
		r := newRig(t, modbus.Config{Transport: modbus.TCP, Units: []firmwareconfig.Unit{u}}, p)
		r.run(10 * time.Minute)
		r.want(0, 0, telemetry.BadComm)
		if p.dials > 60 {
			t.Errorf("%d connections in ten minutes", p.dials)
		}
	})
}

// A line saturated by life-safety points slows the others down but does not silence them.
func TestSaturatedLineStillReadsOrdinaryPoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, d := countingBlocks("a", 1, 0)
		for i := range u.Bindings {
			u.Bindings[i].Def.LifeSafety = true
		}
		v, e := countingBlocks("b", 2, 10)
		p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
			time.Sleep(230 * time.Millisecond) // five life-safety requests a second need 1.15 s
			_, _ = c.Write(r.frame(true, map[byte]*tables{1: d, 2: e}[r.unit].answer(r.pdu)))
			return true
		}}
		r := newRig(t, modbus.Config{Transport: modbus.RTU, Units: []firmwareconfig.Unit{u, v}}, p)
		r.run(time.Minute)
		life, other := checkCounting(t, r.all, 0, 1), checkCounting(t, r.all, 10, 2)
		t.Logf("%d life-safety and %d ordinary readings in a minute", life, other)
		if life < 150 || other < 40 {
			t.Errorf("%d life-safety and %d ordinary readings in a minute", life, other)
		}
	})
}
