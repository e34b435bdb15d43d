package modbus_test

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// keeps is a Memory.
type keeps struct {
	holes []modbus.Hole
	saved int
}

func (k *keeps) Load() []modbus.Hole      { return k.holes }
func (k *keeps) Save(holes []modbus.Hole) { k.holes, k.saved = slices.Clone(holes), k.saved+1 }

// planOf writes the reads of a unit as table:address+count.
func planOf(b *modbus.Bus) string {
	var out []string
	for _, bl := range b.Blocks(0) {
		out = append(out, fmt.Sprintf("%d:%d+%d", bl.Table, bl.Addr, bl.Count))
	}
	return strings.Join(out, " ")
}

func TestHolesAreLearnedAndOutliveARestart(t *testing.T) {
	chs := func(addrs ...int) []firmwareconfig.Channel {
		var out []firmwareconfig.Channel
		for _, a := range addrs {
			out = append(out, u16(fmt.Sprintf("c%d", a), a))
		}
		return out
	}
	for _, c := range []struct {
		name     string
		channels []firmwareconfig.Channel
		illegal  []int
		most     int // registers that the unit reads at once; 0 for any
		code     byte
		plan     string
		refused  int // at most, the first time
		again    int // at most, after a restart
	}{
		{name: "a gap", channels: chs(0, 1, 6, 7, 12), illegal: []int{4}, plan: "3:0+2 3:6+7", refused: 2},
		{name: "two gaps", channels: chs(0, 4, 8), illegal: []int{2, 6}, plan: "3:0+1 3:4+1 3:8+1", refused: 3},
		{name: "a register", channels: chs(0, 1, 2, 3, 4, 5, 6), illegal: []int{5}, plan: "3:0+5 3:5+1 3:6+1", refused: 4, again: 1},
		{name: "a register and a gap", channels: chs(0, 1, 2, 3, 9, 10), illegal: []int{1, 6}, plan: "3:0+1 3:1+1 3:2+2 3:9+2", refused: 5, again: 1},
		{name: "long requests", channels: chs(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), most: 4, code: 3, plan: "3:0+4 3:4+4 3:8+4 3:12+4", refused: 12},
		{name: "long requests, illegal address", channels: chs(0, 1, 2, 3, 4, 5, 6, 7), most: 4, code: 2, plan: "3:0+4 3:4+4", refused: 6},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newTables()
				for _, ch := range c.channels {
					d.set(ch.Address, uint16(100+ch.Address))
				}
				for _, a := range c.illegal {
					d.illegal[a] = true
				}
				k := &keeps{}
				run := func(profile string) (refused int) {
					p := &peer{handle: func(conn io.ReadWriteCloser, r request) bool {
						ans := d.answer(r.pdu)
						if c.most > 0 && int(r.pdu[4]) > c.most {
							ans = []byte{r.pdu[0] | 0x80, c.code}
						}
						if ans[0]&0x80 != 0 {
							refused++
						}
						_, _ = conn.Write(r.frame(false, ans))
						return true
					}}
					u := unitOf("a", 1, 0, c.channels...)
					u.Profile.ID = profile
					r := newRig(t, modbus.Config{Transport: modbus.TCP, Units: []firmwareconfig.Unit{u}, Memory: k}, p)
					r.run(58 * time.Second)
					for i, ch := range c.channels {
						if slices.Contains(c.illegal, ch.Address) {
							r.want(telemetry.PointID(i), 0, telemetry.BadSensor)
						} else {
							r.want(telemetry.PointID(i), float64(100+ch.Address), telemetry.Good)
						}
					}
					if got := planOf(r.bus); got != c.plan {
						t.Errorf("profile %s: reads %s, want %s", profile, got, c.plan)
					}
					_ = r.bus.Close()
					p.close()
					return refused
				}
				first := run("p1")
				saved := k.saved
				if first == 0 || first > c.refused || saved == 0 {
					t.Errorf("%d refusals, want 1 to %d; saved %d times: %+v", first, c.refused, saved, k.holes)
				}
				if n := run("p1"); n > c.again || k.saved != saved {
					t.Errorf("%d refusals after a restart, want at most %d; saved %d times more", n, c.again, k.saved-saved)
				}
				if n := run("p2"); n != first {
					t.Errorf("%d refusals with another profile, want %d as with the first", n, first)
				}
				if slices.ContainsFunc(k.holes, func(h modbus.Hole) bool { return h.Profile != "p2" }) {
					t.Errorf("what counted for the old profile is kept: %+v", k.holes)
				}
			})
		})
	}
}

// A register that was refused before a restart and can be read now is an ordinary register again.
func TestRememberedHoleThatCanBeReadIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTables()
		k := &keeps{holes: []modbus.Hole{
			{Unit: "a", Profile: "test_a", Table: firmwareconfig.HoldingRegister, Address: 1, Count: 1},
			{Unit: "other", Profile: "test_a", Table: firmwareconfig.HoldingRegister, Address: 0, Count: 9},
			{Unit: "a", Profile: "test_a", Table: 9, Address: -5, Count: 1 << 40},
			{Unit: "a", Profile: "test_a", Table: firmwareconfig.InputRegister, Address: 65535, Count: 9},
		}}
		p := &peer{handle: answering(false, map[byte]*tables{1: d})}
		r := newRig(t, modbus.Config{Transport: modbus.TCP, Units: []firmwareconfig.Unit{unitOf("a", 1, 0, u16("x", 0), u16("y", 1), u16("z", 2))}, Memory: k}, p)
		if got := planOf(r.bus); got != "3:0+1 3:1+1 3:2+1" {
			t.Errorf("planned %s around what is remembered", got)
		}
		r.run(time.Second)
		if got := planOf(r.bus); got != "3:0+3" || len(k.holes) != 0 {
			t.Errorf("reads %s, remembers %+v", got, k.holes)
		}
	})
}

// What falls due soon is read along: the slower groups of a unit cost no requests of their own, and none of their
// points is read more rarely than asked for.
func TestSlowerGroupsAreReadAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTables()
		fast, slow, near, far, odd := u16("fast", 0), u16("slow", 4), u16("near", 10), u16("far", 500), u16("odd", 2)
		fast.Every, slow.Every, near.Every, far.Every, odd.Every = time.Second, 10*time.Second, 60*time.Second, 10*time.Second, 2500*time.Millisecond
		wide := u16("wide", 1)
		wide.Every = time.Second
		reads := map[string]int{}
		p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
			reads[fmt.Sprintf("%d+%d", int(r.pdu[1])<<8|int(r.pdu[2]), r.pdu[4])]++
			_, _ = c.Write(r.frame(true, d.answer(r.pdu)))
			return true
		}}
		r := newRig(t, modbus.Config{Transport: modbus.RTU, Units: []firmwareconfig.Unit{unitOf("a", 1, 0, fast, slow, near, far, odd, wide)}}, p)
		r.run(10 * time.Minute)
		t.Logf("%v", reads)
		n := 0
		for what, k := range reads {
			if !strings.HasPrefix(what, "500") {
				n += k
			}
		}
		if n < 590 || n > 610 || reads["500+1"] < 59 || reads["500+1"] > 62 {
			t.Errorf("%d requests for what lies together, want one a second; far ones %d, want one in 10 s", n, reads["500+1"])
		}
		for i, every := range []time.Duration{time.Second, 10 * time.Second, 60 * time.Second, 10 * time.Second, 2500 * time.Millisecond} {
			worst := worstBetween(r.all, telemetry.PointID(i))
			if worst > every+100*time.Millisecond || worst < every*3/5 {
				t.Errorf("point %d wanted every %v: at most %v apart", i, every, worst)
			}
		}
	})
}

// A refusal of a request with others along is the others' only until it is known whose it is.
func TestRefusedTogetherIsReadApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTables()
		d.illegal[3] = true
		fast, slow := u16("fast", 0), u16("slow", 6)
		fast.Every, slow.Every = time.Second, 10*time.Second
		p := &peer{handle: answering(true, map[byte]*tables{1: d})}
		r := newRig(t, modbus.Config{Transport: modbus.RTU, Units: []firmwareconfig.Unit{unitOf("a", 1, 0, fast, slow)}}, p)
		r.run(5 * time.Minute)
		r.want(0, 0, telemetry.Good)
		r.want(1, 0, telemetry.Good)
		if n := r.unit(0).Exceptions; n != 1 {
			t.Errorf("%d refusals, want one", n)
		}
		for _, s := range r.all {
			if s.Quality.Bad() {
				t.Fatalf("point %d went %v", s.Point, s.Quality)
			}
		}
		if w := worstBetween(r.all, 0); w > 1100*time.Millisecond {
			t.Errorf("the fast point was read after %v", w)
		}
	})
}

// A unit that needs to warm up after power-on and does not answer yet is no fault while it may still be doing so.
func TestNothingIsSaidOfAUnitThatWarmsUp(t *testing.T) {
	for _, comes := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			d := newTables()
			var up atomic.Bool
			p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
				if up.Load() {
					_, _ = c.Write(r.frame(true, d.answer(r.pdu)))
				}
				return true
			}}
			u := unitOf("a", 1, 0, u16("x", 0))
			u.Profile.Timing.WarmUp = 30 * time.Second
			r := newRig(t, modbus.Config{Transport: modbus.RTU, Units: []firmwareconfig.Unit{u}}, p)
			r.run(10 * time.Second)
			if len(r.all) != 0 {
				t.Errorf("said %v", r.all)
			}
			if up.Store(comes); comes {
				r.run(16 * time.Second)
				r.want(0, 0, telemetry.Uncertain)
				r.run(40 * time.Second)
				r.want(0, 0, telemetry.Good)
				up.Store(false)
				r.run(8 * time.Second)
				r.want(0, 0, telemetry.BadComm) // It has been there: now its silence is news.
			} else {
				r.run(36 * time.Second)
				r.want(0, 0, telemetry.BadComm)
			}
		})
	}
}
