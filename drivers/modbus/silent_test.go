package modbus_test

import (
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// Registers that a unit ignores, or for which it says that it has failed, are bad alone: what stands in one block with
// them is read. When they can be read they are.
func TestOneUnreadableRegisterIsBadAlone(t *testing.T) {
	for _, c := range []struct {
		name    string
		bad     []int
		code    byte // 0 for silence
		far     bool // the unit has another block that is answered
		within  time.Duration
		quality telemetry.Quality
	}{
		{"ignored", []int{5}, 0, false, 40 * time.Second, telemetry.BadComm},
		{"ignored, beside a block that is answered", []int{5}, 0, true, 40 * time.Second, telemetry.BadComm},
		{"the first ignored", []int{0}, 0, false, 45 * time.Second, telemetry.BadComm},
		{"two ignored", []int{2, 9}, 0, false, 80 * time.Second, telemetry.BadComm},
		{"fault", []int{5}, 4, false, 15 * time.Second, telemetry.BadSensor},
		{"two faults", []int{2, 9}, 4, true, 20 * time.Second, telemetry.BadSensor},
	} {
		for _, transport := range []string{modbus.TCP, modbus.RTU} {
			t.Run(c.name+"/"+transport, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := newTables()
					var chs []firmwareconfig.Channel
					for a := range 12 {
						x := u16(fmt.Sprintf("c%d", a), a)
						x.Every = time.Second
						chs, d.regs[a] = append(chs, x), uint16(100+a)
					}
					if c.far {
						x := u16("far", 500)
						x.Every = time.Second
						chs = append(chs, x)
					}
					var fine atomic.Bool
					p := &peer{handle: func(conn io.ReadWriteCloser, r request) bool {
						ans := d.answer(r.pdu)
						addr, n := int(r.pdu[1])<<8|int(r.pdu[2]), int(r.pdu[4])
						if !fine.Load() && slices.ContainsFunc(c.bad, func(a int) bool { return addr <= a && a < addr+n }) {
							if c.code == 0 {
								return true
							}
							ans = []byte{r.pdu[0] | 0x80, c.code}
						}
						_, _ = conn.Write(r.frame(transport != modbus.TCP, ans))
						return true
					}}
					k := &keeps{}
					r := newRig(t, modbus.Config{Transport: transport, Units: []firmwareconfig.Unit{unitOf("a", 1, 0, chs...)}, Memory: k}, p)
					good := func() (n int) {
						for a := range 12 {
							if s, ok := r.last[telemetry.PointID(a)]; ok && !s.Quality.Bad() {
								n++
							}
						}
						return n
					}
					for r.clock.Mono() < telemetry.Mono(c.within) && good() < 12-len(c.bad) {
						r.step()
					}
					t.Logf("%d of 12 after %v: %s", good(), time.Duration(r.clock.Mono()), planOf(r.bus))
					r.run(time.Minute)
					from := len(r.all)
					r.run(5 * time.Minute)
					for a := range 12 {
						if slices.Contains(c.bad, a) {
							r.want(telemetry.PointID(a), 0, c.quality)
						} else {
							r.want(telemetry.PointID(a), float64(100+a), telemetry.Good)
						}
					}
					for _, s := range r.all[from:] {
						if !slices.Contains(c.bad, int(s.Point)) && s.Quality.Bad() {
							t.Fatalf("point %d went %v at %v", s.Point, s.Quality, time.Duration(s.Time))
						}
					}
					if len(k.holes) != 0 {
						t.Errorf("kept across restarts: %+v", k.holes)
					}
					fine.Store(true)
					r.run(11 * time.Minute)
					for _, a := range c.bad {
						r.want(telemetry.PointID(a), float64(100+a), telemetry.Good)
					}
					want := "3:0+12"
					if c.far {
						want += " 3:500+1"
					}
					if got := planOf(r.bus); got != want {
						t.Errorf("reads %s in the end, want %s", got, want)
					}
				})
			})
		}
	}
}

// A unit that says of everything that it has failed is asked seldom, and read soon when it has recovered.
func TestUnitThatIsSickAsAWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTables()
		var chs []firmwareconfig.Channel
		for a := range 12 {
			x := u16(fmt.Sprintf("c%d", a), a)
			x.Every = time.Second
			chs = append(chs, x)
		}
		var sick atomic.Bool
		sick.Store(true)
		asked := 0
		p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
			asked++
			ans := d.answer(r.pdu)
			if sick.Load() {
				ans = []byte{r.pdu[0] | 0x80, 4}
			}
			_, _ = c.Write(r.frame(true, ans))
			return true
		}}
		r := newRig(t, modbus.Config{Transport: modbus.RTU, Units: []firmwareconfig.Unit{unitOf("a", 1, 0, chs...)}}, p)
		r.run(5 * time.Minute)
		r.want(3, 0, telemetry.BadSensor)
		if asked > 80 {
			t.Errorf("asked %d times in five minutes", asked)
		}
		sick.Store(false)
		r.run(16 * time.Second)
		r.want(3, 0, telemetry.Good)
		r.want(11, 0, telemetry.Good)
	})
}
