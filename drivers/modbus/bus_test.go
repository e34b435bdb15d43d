package modbus_test

import (
	"context"
	"io"
	"net"
	"strings"
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

// A unit's pause is its own: others are asked meanwhile, unless it wants the line silent before it is asked after them.
func TestPausesAreKept(t *testing.T) {
	const pause = 200 * time.Millisecond
	for _, c := range []struct{ gap, switchGap time.Duration }{{pause, 0}, {0, pause}, {pause, pause}} {
		synctest.Test(t, func(t *testing.T) {
			u, d := countingBlocks("a", 1, 0)
			v, e := countingBlocks("b", 2, 10)
			u.Profile.Timing.Gap, u.Profile.Timing.SwitchGap = c.gap, c.switchGap
			var lastOfA, lastOfB time.Time
			meanwhile, n := 0, 0
			p := &peer{handle: func(conn io.ReadWriteCloser, r request) bool {
				switch r.unit {
				case 1:
					n++
					if g := time.Since(lastOfA); g < c.gap {
						t.Errorf("gap %v: request %d came %v after the last answer", c.gap, r.nth, g)
					}
					if g := time.Since(lastOfB); g < c.switchGap && lastOfB.After(lastOfA) {
						t.Errorf("switch_gap %v: request %d came %v after an answer of the other unit", c.switchGap, r.nth, g)
					}
				case 2:
					if time.Since(lastOfA) < pause {
						meanwhile++
					}
				}
				_, _ = conn.Write(r.frame(true, map[byte]*tables{1: d, 2: e}[r.unit].answer(r.pdu)))
				if r.unit == 1 {
					lastOfA = time.Now()
				} else {
					lastOfB = time.Now()
				}
				return true
			}}
			r := newRig(t, modbus.Config{Transport: modbus.RTU, Units: []firmwareconfig.Unit{u, v}}, p)
			r.run(20 * time.Second)
			checkCounting(t, r.all, 0, 1)
			checkCounting(t, r.all, 10, 2)
			t.Logf("gap %v, switch_gap %v: unit 1 asked %d times; unit 2 %d times within 200 ms of that", c.gap, c.switchGap, n, meanwhile)
			if n < 75 || c.switchGap == 0 && meanwhile < 30 {
				t.Errorf("gap %v, switch_gap %v: unit 1 asked %d times of 100; unit 2 %d times within 200 ms of that", c.gap, c.switchGap, n, meanwhile)
			}
		})
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

// The unit ignores what is asked often and answers what is asked rarely: it is alive, and what it answers stays good.
func TestUnansweredFastBlockBesideASlowOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTables()
		d.set(100, 5)
		x, y := u16("x", 100), u16("y", 2000)
		x.Every, y.Every = time.Minute, time.Second
		u := unitOf("a", 1, 0, x, y)
		u.Bindings[1].Def.LifeSafety = true
		u.Profile.Timing.Timeout = 3 * time.Second
		p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
			if r.pdu[1] == 0 {
				_, _ = c.Write(r.frame(true, d.answer(r.pdu)))
			}
			return true
		}}
		r := newRig(t, modbus.Config{Transport: modbus.RTU, Units: []firmwareconfig.Unit{u}}, p)
		r.run(10 * time.Minute)
		r.want(0, 5, telemetry.Good)
		r.want(1, 0, telemetry.BadComm)
		for _, s := range r.all {
			if s.Point == 0 && s.Quality.Bad() {
				t.Fatalf("the answered point went %v at %v", s.Quality, time.Duration(s.Time))
			}
		}
	})
}

func TestProbesKeepToTheirShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 40
		var units []firmwareconfig.Unit
		for i := range n {
			units = append(units, unitOf("u"+string(rune('a'+i%26))+string(rune('a'+i/26)), i+1, telemetry.PointID(i), u16("x", 0)))
		}
		var alive atomic.Int32
		d := newTables()
		p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
			if int32(r.unit) == alive.Load() {
				_, _ = c.Write(r.frame(true, d.answer(r.pdu)))
			}
			return true
		}}
		r := newRig(t, modbus.Config{Transport: modbus.RTU, Units: units}, p)
		r.run(10 * time.Minute)
		busy := r.bus.Health().Busy
		t.Logf("%d dead units use %.1f %% of the line", n, 100*busy)
		if busy > 0.11 {
			t.Errorf("probes use %.1f %% of the line, want at most 10", 100*busy)
		}
		// The promise about a returned unit: max(15 s, units x probe / share), with the mean probe: four of 50 ms and
		// one of 300 ms, each with the 16 ms that its frames take.
		promise := max(15*time.Second, n*116*time.Millisecond*10)
		worst := time.Duration(0)
		for i := int32(1); i <= n; i += 13 {
			alive.Store(i)
			back := r.clock.Mono()
			for r.last[telemetry.PointID(i-1)].Quality.Bad() {
				r.step()
			}
			worst = max(worst, r.clock.Mono().Sub(back))
		}
		t.Logf("a returned one is read after at most %v; promised %v", worst, promise)
		if worst > promise {
			t.Errorf("a returned unit was read after %v, promised %v", worst, promise)
		}
	})
}

// nothing is a port that says that it read nothing, without an error, for ever.
type nothing struct{ net.Conn }

func (nothing) Read([]byte) (int, error)    { return 0, nil }
func (nothing) Write(p []byte) (int, error) { return len(p), nil }
func (nothing) SetDeadline(time.Time) error { return nil }
func (nothing) Close() error                { return nil }

func TestM5EmptyReadsDoNotSpin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus, err := modbus.NewOver(modbus.Config{Name: "b", Transport: modbus.TCP, Units: []firmwareconfig.Unit{unitOf("a", 1, 0, u16("x", 0))}},
			func(context.Context) (net.Conn, error) { return nothing{}, nil })
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			bus.Step(t.Context(), 0, nil)
		}()
		select {
		case <-ended:
		case <-time.After(time.Minute):
			t.Fatal("Step spins")
		}
	})
}

func TestCheckAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		req, ans string
		ok       bool
	}{
		"registers":                {"03 00 00 00 02", "03 04 00 01 00 02", true},
		"short, count honest":      {"03 00 00 00 02", "03 02 00 01", false},
		"short, count of request":  {"03 00 00 00 02", "03 04 00 01", false},
		"long, count of request":   {"03 00 00 00 02", "03 04 00 01 00 02 00 03", false},
		"count wrong":              {"03 00 00 00 02", "03 06 00 01 00 02", false},
		"bits":                     {"01 00 00 00 09", "01 02 FF 01", true},
		"exception":                {"03 00 00 00 02", "83 02", true},
		"exception of three bytes": {"03 00 00 00 02", "83 02 00", false},
		"bare function":            {"03 00 00 00 02", "03", false},
		"coil repeated":            {"05 00 03 FF 00", "05 00 03 FF 00", true},
		"coil of another address":  {"05 00 03 FF 00", "05 00 04 FF 00", false},
		"coil of another value":    {"05 00 03 FF 00", "05 00 03 00 00", false},
		"empty":                    {"03 00 00 00 02", "", false},
	} {
		if err := modbus.CheckAnswer(unhex(c.req), unhex(c.ans)); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A unit whose other points are read rarely is still found dead soon.
func TestDeadUnitIsFoundSoonWhateverItsIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTables()
		x, y := u16("x", 100), u16("y", 2000)
		x.Every, y.Every = time.Hour, time.Second
		var dead atomic.Bool
		p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
			if !dead.Load() {
				_, _ = c.Write(r.frame(true, d.answer(r.pdu)))
			}
			return true
		}}
		r := newRig(t, modbus.Config{Transport: modbus.RTU, Units: []firmwareconfig.Unit{unitOf("a", 1, 0, x, y)}}, p)
		r.run(10 * time.Second)
		dead.Store(true)
		r.run(4 * time.Second)
		r.want(0, 0, telemetry.BadComm)
		r.want(1, 0, telemetry.BadComm)
	})
}

// On a slow line with life-safety points a read is kept short enough for the next one to have its turn in time.
func TestBlocksAreShortBesideLifeSafety(t *testing.T) {
	var chs []firmwareconfig.Channel
	for a := range 100 {
		chs = append(chs, u16("c"+string(rune('a'+a%26))+string(rune('a'+a/26)), a))
	}
	for _, life := range []bool{false, true} {
		smoke := unitOf("s", 2, 500, u16("x", 0))
		smoke.Bindings[0].Def.LifeSafety = life
		bus, err := modbus.New(modbus.Config{Name: "b", Transport: modbus.RTU, Device: "none", Line: firmwareconfig.Line{Baud: 4800, Format: "8N1"},
			Units: []firmwareconfig.Unit{unitOf("a", 1, 0, chs...), smoke}})
		if err != nil {
			t.Fatal(err)
		}
		most := 0
		for _, b := range bus.Blocks(0) {
			most = max(most, b.Count)
		}
		took := 20*time.Millisecond + 2*modbus.QuietTime(4800) + time.Duration(8+5+2*most)*10*time.Second/4800
		if life != (took <= 300*time.Millisecond) || !life && most != 100 {
			t.Errorf("life safety %v: reads of up to %d registers, %v on the line", life, most, took)
		}
	}
}

func TestLinkLossIsLoggedOnceForTheBus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.DebugLevel)
		u, d := countingBlocks("a", 1, 0)
		v, e := countingBlocks("b", 2, 10)
		var down atomic.Bool
		p := &peer{t: t, handle: func(c io.ReadWriteCloser, r request) bool {
			_, _ = c.Write(r.frame(false, map[byte]*tables{1: d, 2: e}[r.unit].answer(r.pdu)))
			return !down.Load()
		}}
		p.refuse = down.Load
		defer p.close()
		clock := telemetry.NewClock("test", 0, time.Time{})
		bus, err := modbus.NewOver(modbus.Config{Name: "b", Transport: modbus.TCP, Units: []firmwareconfig.Unit{u, v}, Clock: clock}, p.dial)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- drivers.Supervise(ctx, clock, bus, func([]telemetry.Sample) {}, zap.New(core)) }()
		time.Sleep(20 * time.Second)
		down.Store(true)
		time.Sleep(5 * time.Minute)
		down.Store(false)
		time.Sleep(time.Minute)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		var got []string
		for _, e := range logs.All() {
			got = append(got, e.Message)
		}
		if s := strings.Join(got, ", "); s != "bus down, bus up" {
			t.Errorf("logged %s; want bus down, bus up", s)
		}
	})
}
