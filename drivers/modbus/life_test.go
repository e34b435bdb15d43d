package modbus_test

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// worstGap returns the longest time between two good samples of a point.
func worstGap(all []telemetry.Sample, p telemetry.PointID) (worst time.Duration, n int) {
	last := telemetry.Never
	for _, s := range all {
		if s.Point == p && !s.Quality.Bad() {
			worst = max(worst, s.Time.Sub(last))
			last = s.Time
			n++
		}
	}
	return worst, n
}

// A silent unit with a long timeout, whether its profile or the bus asks for it, does not delay life-safety points.
func TestLongTimeoutsAreClippedBesideLifeSafety(t *testing.T) {
	for _, c := range []struct {
		name           string
		transport      string
		profile, bus   time.Duration
		life           bool
		answersAt      time.Duration // when the slow unit answers; 0 for never
		clipped, asked bool
	}{
		{name: "silent, rtu", transport: modbus.RTU, profile: 3 * time.Second, life: true, clipped: true},
		{name: "silent, tcp", transport: modbus.TCP, profile: 3 * time.Second, life: true, clipped: true},
		{name: "timeout of the bus", transport: modbus.RTU, bus: 2 * time.Second, life: true, clipped: true},
		{name: "default", transport: modbus.RTU, life: true},
		// Its probes learn that it takes 280 ms: twice that is too long as well.
		{name: "slow once", transport: modbus.RTU, profile: 3 * time.Second, life: true, answersAt: 270 * time.Millisecond, clipped: true},
		{name: "no life safety", transport: modbus.RTU, profile: 3 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				core, logs := observer.New(zapcore.DebugLevel)
				d := newTables()
				d.set(0, 7)
				x := u16("x", 0)
				x.Every = time.Second
				life := unitOf("a", 1, 0, x)
				life.Bindings[0].Def.LifeSafety = c.life
				slow := unitOf("b", 2, 10, x, u16("y", 1000))
				slow.Profile.Timing.Timeout = c.profile
				answered := 0
				p := &peer{handle: func(conn io.ReadWriteCloser, r request) bool {
					switch {
					case r.unit == 1:
						time.Sleep(20 * time.Millisecond)
					case c.answersAt == 0 || answered > 10:
						return true
					default:
						answered++
						time.Sleep(c.answersAt)
					}
					_, _ = conn.Write(r.frame(c.transport != modbus.TCP, d.answer(r.pdu)))
					return true
				}}
				r := newRig(t, modbus.Config{Transport: c.transport, Timeout: c.bus, Units: []firmwareconfig.Unit{life, slow}, Log: zap.New(core)}, p)
				longest := time.Duration(0)
				for end := r.clock.Mono().Add(5 * time.Minute); r.clock.Mono() < end; {
					if d := r.next.Sub(r.clock.Mono()); d > 0 {
						time.Sleep(d)
					}
					start := time.Now()
					r.step()
					longest = max(longest, time.Since(start))
				}
				worst, n := worstGap(r.all, 0)
				t.Logf("life-safety point due every 1 s: worst gap %v, %d samples; longest Step %v", worst, n, longest)
				if c.life && (worst > 1350*time.Millisecond || n < 298 || longest > 305*time.Millisecond) {
					t.Errorf("worst gap %v, %d samples of 300, longest Step %v", worst, n, longest)
				}
				if !c.life && longest < c.profile {
					t.Errorf("longest Step %v: the timeout of %v was clipped for nobody's sake", longest, c.profile)
				}
				told := logs.FilterMessageSnippet("timeout shortened").Len()
				want := 0
				if c.clipped {
					want = 1
					if c.bus > 0 {
						want = 2 // both units
					}
				}
				if told != want {
					t.Errorf("told %d times that a timeout was shortened, want %d: %v", told, want, logs.All())
				}
			})
		})
	}
}

// The whole of a transaction counts, its frames on a slow line too, and bits as well as registers.
func TestNoTransactionHoldsTheLineTooLong(t *testing.T) {
	for _, baud := range []int{4800, 9600, 19200, 115200} {
		synctest.Test(t, func(t *testing.T) {
			var chs []firmwareconfig.Channel
			for i := range 120 {
				chs = append(chs, u16("r"+string(rune('a'+i%26))+string(rune('a'+i/26)), i))
			}
			for i := range 125 {
				c := u16("b"+string(rune('a'+i%26))+string(rune('a'+i/26)), 16*i)
				c.Table, c.Encoding = firmwareconfig.Coil, firmwareconfig.EncBool
				chs = append(chs, c)
			}
			life := unitOf("a", 1, 500, u16("x", 0))
			life.Bindings[0].Def.LifeSafety = true
			p := &peer{handle: func(io.ReadWriteCloser, request) bool { return true }}
			r := newRig(t, modbus.Config{Transport: modbus.RTU, Line: firmwareconfig.Line{Baud: baud},
				Units: []firmwareconfig.Unit{life, unitOf("b", 2, 0, chs...)}}, p)
			longest := time.Duration(0)
			for range 100 {
				if d := r.next.Sub(r.clock.Mono()); d > 0 {
					time.Sleep(d)
				}
				start := time.Now()
				r.step()
				longest = max(longest, time.Since(start))
			}
			t.Logf("%d baud: longest Step %v", baud, longest)
			if longest > 300*time.Millisecond+2*modbus.QuietTime(baud) {
				t.Errorf("%d baud: a transaction held the line for %v", baud, longest)
			}
		})
	}
}

// The bus's timeout is the site's word and goes before the profile's, up and down. A unit alone on its bus keeps what
// it needs even where its points are life-safety: nobody else waits for it.
func TestTimeoutOfTheBusOverridesTheProfile(t *testing.T) {
	for _, c := range []struct{ bus, profile, want time.Duration }{
		{0, 0, 300 * time.Millisecond},
		{0, 3 * time.Second, 3 * time.Second},
		{100 * time.Millisecond, 0, 100 * time.Millisecond},
		{100 * time.Millisecond, 3 * time.Second, 100 * time.Millisecond},
		{3 * time.Second, 100 * time.Millisecond, 3 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			u := unitOf("a", 1, 0, u16("x", 0))
			u.Profile.Timing.Timeout = c.profile
			u.Bindings[0].Def.LifeSafety = true
			p := &peer{handle: func(io.ReadWriteCloser, request) bool { return true }}
			r := newRig(t, modbus.Config{Transport: modbus.TCP, Timeout: c.bus, Units: []firmwareconfig.Unit{u}}, p)
			start := time.Now()
			r.step()
			if d := time.Since(start); d != c.want {
				t.Errorf("bus %v, profile %v: waited %v for an answer, want %v", c.bus, c.profile, d, c.want)
			}
		})
	}
}

// Life-safety blocks that are never answered, or refused, give way to one that can be read: they have nothing to say.
func TestUnreadableLifeSafetyBlocksAreNotUrgent(t *testing.T) {
	for _, refused := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			d := newTables()
			channel := func(addr int, every time.Duration) firmwareconfig.Channel {
				c := u16("c"+string(rune('a'+addr/1000)), addr)
				c.Every = every
				return c
			}
			good := unitOf("good", 1, 0, channel(0, 700*time.Millisecond))
			good.Bindings[0].Def.LifeSafety = true
			busy := unitOf("busy", 2, 1, channel(0, 813*time.Millisecond), channel(1000, 814*time.Millisecond), channel(2000, 815*time.Millisecond))
			units := []firmwareconfig.Unit{good, busy}
			for i := range 16 { // each is alive, but has a life-safety block that cannot be read
				u := unitOf("u"+string(rune('a'+i)), 3+i, telemetry.PointID(10+2*i), channel(0, 20*time.Second), channel(3000, 700*time.Millisecond))
				u.Bindings[1].Def.LifeSafety = true
				units = append(units, u)
			}
			p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
				ans := d.answer(r.pdu)
				unreadable := int(r.pdu[1])<<8|int(r.pdu[2]) == 3000
				switch {
				case unreadable && !refused:
					return true
				case unreadable:
					ans = []byte{r.pdu[0] | 0x80, 2}
				}
				if r.unit == 2 || unreadable {
					time.Sleep(250 * time.Millisecond) // keeps the line busy, so that all wait for it
				}
				_, _ = c.Write(r.frame(true, ans))
				return true
			}}
			r := newRig(t, modbus.Config{Transport: modbus.RTU, Line: firmwareconfig.Line{Baud: 115200}, Units: units}, p)
			r.run(59 * time.Second) // they are found out
			from := len(r.all)
			r.run(10 * time.Minute)
			worst, n := worstGap(r.all[from:], 0)
			t.Logf("refused %v: worst gap %v, %d samples", refused, worst, n)
			r.want(11, 0, map[bool]telemetry.Quality{true: telemetry.BadSensor, false: telemetry.BadComm}[refused])
			// It waits for the one transaction in flight, and for nothing that cannot be read.
			if worst > 700*time.Millisecond+310*time.Millisecond || n < 840 {
				t.Errorf("refused %v: worst gap %v, %d samples of 857", refused, worst, n)
			}
		})
	}
}
