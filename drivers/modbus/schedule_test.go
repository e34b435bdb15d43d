package modbus_test

import (
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

func TestReadsEverythingAtOnceAndThenAtItsInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTables()
		d.set(0, 11, 22)
		life := unitOf("a", 1, 0, u16("x", 0), u16("y", 1))
		slow := unitOf("b", 2, 10, u16("x", 0))
		life.Bindings[0].Def.LifeSafety = true
		p := &peer{handle: answering(false, map[byte]*tables{1: d, 2: d})}
		r := newRig(t, modbus.Config{Transport: modbus.TCP, Units: []firmwareconfig.Unit{slow, life}}, p)
		r.step()
		r.want(0, 11, telemetry.Good) // life safety first, although its unit comes second
		r.run(20 * time.Second)
		r.want(1, 22, telemetry.Good)
		r.want(10, 11, telemetry.Good)
		n := map[telemetry.PointID]int{}
		for _, s := range r.all {
			n[s.Point]++
		}
		if n[0] < 20 || n[0] > 22 || n[1] < 4 || n[1] > 6 || n[10] < 4 || n[10] > 6 {
			t.Errorf("samples per point in 20 s: %v", n)
		}
	})
}

// The figures of this test are those of the report: ten dead units of thirty-two at 9600 baud.
func TestDeadUnitsDoNotSlowTheOthers(t *testing.T) {
	rates := map[bool]int{}
	for _, dead := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			units := map[byte]*tables{}
			var cfg []firmwareconfig.Unit
			for i := range 32 {
				d := newTables()
				d.set(0, uint16(i))
				units[byte(i+1)] = d
				var chs []firmwareconfig.Channel
				for a := range 10 {
					c := u16(string(rune('a'+a)), a)
					c.Every = 1950 * time.Millisecond // 32 x 56 ms: the line is over 90 % busy
					chs = append(chs, c)
				}
				cfg = append(cfg, unitOf("u"+string(rune('a'+i%26))+string(rune('a'+i/26)), i+1, telemetry.PointID(100*i), chs...))
			}
			isDead := func(u byte) bool { return dead && u%3 == 0 } // 10 of 32
			p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
				if isDead(r.unit) {
					return true
				}
				ans := units[r.unit].answer(r.pdu)
				// Both frames at 9600 baud and 20 ms of turnaround.
				time.Sleep(20*time.Millisecond + time.Duration(8+len(ans)+3)*10*time.Second/9600)
				_, _ = c.Write(r.frame(true, ans))
				return true
			}}
			r := newRig(t, modbus.Config{Transport: modbus.RTU, Units: cfg}, p)
			r.run(time.Minute)
			before := map[int]uint64{}
			for i := range 32 {
				before[i] = r.unit(i).Answers
			}
			r.run(5 * time.Minute)
			got := 0
			for i := range 32 {
				if !isDead(byte(i + 1)) {
					if i%3 != 2 {
						got += int(r.unit(i).Answers - before[i])
					}
				} else if s := r.last[telemetry.PointID(100*i)]; s.Quality != telemetry.BadComm {
					t.Errorf("unit %d is dead but its point is %v", i, s.Quality)
				}
			}
			rates[dead] = got
			t.Logf("dead=%v: %d reads of the 22 live units in 5 min, line busy %.0f %%", dead, got, 100*r.bus.Health().Busy)
		})
	}
	if rates[true] < rates[false]*9/10 {
		t.Errorf("live units: %d reads beside ten dead ones, %d without", rates[true], rates[false])
	}
}

func TestReturnedUnitIsReadAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTables()
		d.set(0, 7)
		d.set(100, 8)
		var alive atomic.Bool
		alive.Store(true)
		far := u16("far", 100)
		p := &peer{handle: func(c io.ReadWriteCloser, r request) bool {
			if alive.Load() {
				_, _ = c.Write(r.frame(true, d.answer(r.pdu)))
			}
			return true
		}}
		r := newRig(t, modbus.Config{Transport: modbus.RTU, Units: []firmwareconfig.Unit{unitOf("a", 1, 0, u16("near", 0), far)}}, p)
		r.run(10 * time.Second)
		r.want(0, 7, telemetry.Good)
		alive.Store(false)
		gone := r.clock.Mono()
		for r.last[0].Quality != telemetry.BadComm {
			r.step()
		}
		if d := r.clock.Mono().Sub(gone); d > 8*time.Second {
			t.Errorf("silence told after %v", d)
		}
		r.want(1, 0, telemetry.BadComm)
		if a, b := r.last[0].Time, r.last[1].Time; a != b {
			t.Errorf("the unit's points went bad at different times: %v, %v", a, b)
		}
		bad := len(r.all)
		r.run(3 * time.Minute)
		if n := len(r.all) - bad; n < 4 || n > 8 {
			t.Errorf("%d samples of two points in three minutes of silence; want each about once a minute", n)
		}
		if r.unit(0).Online {
			t.Error("unit is online though silent")
		}
		alive.Store(true)
		back := r.clock.Mono()
		for r.last[0].Quality.Bad() || r.last[1].Quality.Bad() {
			r.step()
		}
		d2 := r.clock.Mono().Sub(back)
		t.Logf("read %v after its return", d2)
		if d2 > 16*time.Second {
			t.Errorf("read %v after its return", d2)
		}
		r.want(0, 7, telemetry.Good)
		r.want(1, 8, telemetry.Good)
	})
}

// A register that says the scale is read with each group that needs it, beside the values or apart from them; where it
// cannot be read, or says nothing known, there is no value.
func TestScaleAndTextThroughTheBus(t *testing.T) {
	for _, at := range []int{1, 900} {
		synctest.Test(t, func(t *testing.T) {
			d := newTables()
			level, name := u16("level", 0), u16("name", 10)
			level.ScaleFrom = &firmwareconfig.ScaleFrom{Table: firmwareconfig.HoldingRegister, Address: at, Decimals: true}
			name.Encoding, name.Count = firmwareconfig.EncString, 3
			u := unitOf("a", 1, 0, level, name)
			u.Bindings[1].Def.Kind = telemetry.KindText
			d.set(0, 1234)
			d.set(at, 2)
			d.set(10, 'A'<<8|'B', 'C'<<8|'1', 0)
			p := &peer{handle: answering(false, map[byte]*tables{1: d})}
			r := newRig(t, modbus.Config{Transport: modbus.TCP, Units: []firmwareconfig.Unit{u}}, p)
			r.run(time.Second)
			r.want(0, 12.34, telemetry.Good)
			if s := r.last[1]; s.Value.Text() != "ABC1" || s.Quality != telemetry.Good {
				t.Errorf("text %v %v", s.Value, s.Quality)
			}
			d.set(at, 1)
			r.run(7 * time.Second)
			r.want(0, 123.4, telemetry.Good)
			d.set(at, 77)
			r.run(7 * time.Second)
			r.want(0, 0, telemetry.BadSensor)
			d.set(at, 0)
			r.run(7 * time.Second)
			r.want(0, 1234, telemetry.Good)
			d.mu.Lock()
			d.illegal[at] = true
			d.mu.Unlock()
			r.run(12 * time.Second)
			r.want(0, 0, telemetry.BadSensor)
			u.Bindings[1].Def.Kind = telemetry.Float
			if _, err := modbus.Plan(&u); err == nil {
				t.Error("a number out of a string was planned")
			}
		})
	}
}
