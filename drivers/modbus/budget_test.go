package modbus_test

import (
	"fmt"
	"io"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// community returns n units like those of a site: some life-safety, some with slower points beside and far from the
// faster ones.
func community(n int, life func(i int) bool) []firmwareconfig.Unit {
	var units []firmwareconfig.Unit
	for i := range n {
		fast, slow, far := u16("fast", 0), u16("slow", 5), u16("far", 400)
		fast.Every, slow.Every, far.Every = 2*time.Second, 10*time.Second, 6*time.Second
		far.Encoding = firmwareconfig.EncF64
		if life(i) {
			fast.Every = time.Second
		}
		u := unitOf(fmt.Sprintf("u%d", i), i+1, telemetry.PointID(10*i), fast, slow, far)
		u.Bindings[0].Def.LifeSafety = life(i)
		units = append(units, u)
	}
	return units
}

// lifelike returns a peer whose units answer as fast as the line and their turnaround allow.
func lifelike(c *modbus.Config, d *tables) *peer {
	rtu := c.Transport != modbus.TCP
	delay := map[byte]time.Duration{}
	for _, u := range c.Units {
		delay[byte(u.Address)] = u.Profile.Timing.ReadDelay
		if u.Profile.Timing.ReadDelay == 0 {
			delay[byte(u.Address)] = 20 * time.Millisecond
		}
	}
	char := time.Duration(0)
	if rtu {
		char = 10 * time.Second / time.Duration(c.Line.Baud)
	}
	return &peer{serial: rtu, handle: func(conn io.ReadWriteCloser, r request) bool {
		ans := d.answer(r.pdu)
		time.Sleep(delay[r.unit] + time.Duration(8+len(ans)+3)*char)
		_, _ = conn.Write(r.frame(rtu, ans))
		return true
	}}
}

// The budget is held against what the scheduler really does on a line that takes its time.
func TestBudgetIsWhatHappens(t *testing.T) {
	none := func(int) bool { return false }
	few := func(i int) bool { return i%5 == 0 }
	for _, c := range []struct {
		name  string
		n     int
		life  func(int) bool
		baud  int
		tcp   bool
		tweak func(*firmwareconfig.Profile)
		full  bool // the line is saturated
	}{
		{name: "9600", n: 12, life: none, baud: 9600},
		{name: "9600, full", n: 40, life: none, baud: 9600, full: true},
		{name: "4800, life safety", n: 10, life: few, baud: 4800},
		{name: "115200", n: 32, life: few, baud: 115200},
		{name: "tcp", n: 32, life: none, tcp: true},
		{name: "slow units", n: 10, life: none, baud: 19200, tweak: func(p *firmwareconfig.Profile) { p.Timing.ReadDelay = 80 * time.Millisecond }},
		{name: "pauses", n: 8, life: none, baud: 9600, tweak: func(p *firmwareconfig.Profile) { p.Timing.Gap = 300 * time.Millisecond }},
		{name: "pauses before units", n: 6, life: none, baud: 9600, tweak: func(p *firmwareconfig.Profile) { p.Timing.SwitchGap = 100 * time.Millisecond }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := modbus.Config{Name: "rs485_1", Transport: modbus.RTU, Device: "x", Address: "a:1", Line: firmwareconfig.Line{Baud: c.baud, Format: "8N1"}, Units: community(c.n, c.life)}
				if c.tcp {
					cfg.Transport, cfg.Line = modbus.TCP, firmwareconfig.Line{}
				}
				for i := range cfg.Units {
					if c.tweak != nil {
						c.tweak(cfg.Units[i].Profile)
					}
				}
				want, err := modbus.ComputeBudget(cfg)
				if err != nil {
					t.Fatal(err)
				}
				d := newTables()
				r := newRig(t, cfg, lifelike(&cfg, d))
				r.run(90 * time.Second)
				from, reads := len(r.all), d.reads
				r.run(120 * time.Second)
				busy := r.bus.Health().Busy
				requests := float64(d.reads-reads) / 120
				t.Logf("occupancy %.1f %%, really %.1f %%; %.1f requests/s; dead units return within %v; problems %q",
					100*want.Occupancy, 100*busy, requests, want.DeadReturn, want.Problems)
				if got := min(want.Occupancy, 1); math.Abs(got-busy) > 0.1*busy {
					t.Errorf("budget says %.1f %% of the line, it really is %.1f %%", 100*got, 100*busy)
				}
				if (want.Occupancy > 1) != c.full || c.full && len(want.Problems) == 0 {
					t.Errorf("occupancy %.2f, problems %q", want.Occupancy, want.Problems)
				}
				points := 0
				for _, g := range want.Groups {
					worst := time.Duration(0)
					for i, u := range cfg.Units {
						for _, b := range u.Bindings {
							every := u.Profile.Channels[b.Channel].Every
							if every == g.Every && b.Def.LifeSafety == g.LifeSafety {
								w := worstBetween(r.all[from:], telemetry.PointID(10*i+b.Channel))
								worst = max(worst, w)
							}
						}
					}
					points += g.Points
					t.Logf("life %v every %v: cycle %v, really %v; %d requests, %d points, %v", g.LifeSafety, g.Every, g.Cycle, worst, g.Requests, g.Points, g.Time)
					if diff := (g.Cycle - worst).Abs(); diff > worst/10 {
						t.Errorf("points every %v: budget says at most %v apart, they really are %v", g.Every, g.Cycle, worst)
					}
				}
				if points != 3*c.n {
					t.Errorf("%d points in the groups of %d", points, 3*c.n)
				}
			})
		})
	}
}

// worstBetween is worstGap without the time before the first sample.
func worstBetween(all []telemetry.Sample, p telemetry.PointID) (worst time.Duration) {
	last := telemetry.Never
	for _, s := range all {
		if s.Point == p {
			if last != telemetry.Never {
				worst = max(worst, s.Time.Sub(last))
			}
			last = s.Time
		}
	}
	return worst
}

func TestBudgetRefusesWhatCannotBeMet(t *testing.T) {
	all := func(int) bool { return true }
	few := func(i int) bool { return i < 4 }
	for _, c := range []struct {
		name  string
		units []firmwareconfig.Unit
		tweak func(*modbus.Config)
		want  []string // parts of the first problem, or none

		overload bool // the line is full, but life safety has its time
	}{
		{name: "fine", units: community(8, few)},
		{name: "too many", units: community(30, all)[:30], want: []string{
			"bus rs485_1: life-safety points are wanted every 1s, but one round takes", "30 requests x (8.3 ms request + 20 ms turnaround + 7.3 ms answer + 4.0 ms silence)",
			"the longest other request"}},
		{name: "just so", units: community(23, all), overload: true},
		{name: "a write", units: func() []firmwareconfig.Unit {
			u := community(23, all)
			u[3].Profile.Channels[2].Writable, u[3].Bindings[2].Def.Writable = true, true
			return u
		}(), want: []string{"a write that is read back"}},
		{name: "pauses of the unit itself", units: community(8, few), tweak: func(c *modbus.Config) {
			c.Units[0].Profile.Timing.Gap = 1200 * time.Millisecond
		}, want: []string{"life-safety points of unit u0", "pause of 1.2s"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := modbus.Config{Name: "rs485_1", Transport: modbus.RTU, Device: "x", Units: c.units}
			if c.tweak != nil {
				c.tweak(&cfg)
			}
			b, err := modbus.ComputeBudget(cfg)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%.0f %%: %s", 100*b.Occupancy, strings.Join(b.Problems, "\n"))
			if c.overload {
				c.want = []string{"the points want"}
			}
			if len(b.Problems) == 0 != (len(c.want) == 0) {
				t.Fatalf("problems %q", b.Problems)
			}
			for _, w := range c.want {
				if !strings.Contains(b.Problems[0], w) {
					t.Errorf("%q does not say %q", b.Problems[0], w)
				}
			}
		})
	}
	if _, err := modbus.ComputeBudget(modbus.Config{Name: "b", Transport: "x"}); err == nil {
		t.Error("a budget of no bus")
	}
	if b, err := modbus.ComputeBudget(modbus.Config{Name: "b", Transport: modbus.TCP, Address: "a:1"}); err != nil || b.Occupancy != 0 || len(b.Problems) != 0 {
		t.Errorf("a bus without units: %+v, %v", b, err)
	}
}

// The promise about a returned unit is kept with half of the units dead.
func TestBudgetsReturnOfADeadUnit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := modbus.Config{Name: "rs485_1", Transport: modbus.RTU, Device: "x", Line: firmwareconfig.Line{Baud: 9600}, Units: community(24, func(int) bool { return false })}
		want, err := modbus.ComputeBudget(cfg)
		if err != nil {
			t.Fatal(err)
		}
		d := newTables()
		p := lifelike(&cfg, d)
		answer := p.handle
		var alive atomic.Int32
		p.handle = func(c io.ReadWriteCloser, r request) bool {
			if r.unit > 12 || int32(r.unit) == alive.Load() {
				return answer(c, r)
			}
			return true
		}
		r := newRig(t, cfg, p)
		r.run(5 * time.Minute)
		worst := time.Duration(0)
		for u := int32(1); u <= 12; u += 3 {
			alive.Store(u)
			back := r.clock.Mono()
			for r.last[telemetry.PointID(10*(int(u)-1))].Quality.Bad() {
				r.step()
			}
			worst = max(worst, r.clock.Mono().Sub(back))
			alive.Store(0)
			r.run(2 * time.Minute)
		}
		t.Logf("read %v after its return at most, the budget says %v", worst, want.DeadReturn)
		if worst > want.DeadReturn {
			t.Errorf("read %v after its return, the budget says %v", worst, want.DeadReturn)
		}
	})
}

// On a line that is asked too much of, all that is wanted counts: the silence before units too, and each character.
func TestOverloadCountsAllThatIsWanted(t *testing.T) {
	for _, c := range []struct {
		switchGap time.Duration
		want      float64
	}{
		// 40 units, one register each second: 8 and 7 characters of 10 bits, 20 ms, 3.5 characters of 11 bits.
		{0, 40 * (15*10.0/9600 + 0.020 + 3.5*11/9600)},
		{100 * time.Millisecond, 40 * (15*10.0/9600 + 0.020 + 3.5*11/9600 + 0.100)},
	} {
		var units []firmwareconfig.Unit
		for i := range 40 {
			x := u16("x", 0)
			x.Every = time.Second
			units = append(units, unitOf(fmt.Sprintf("u%d", i), i+1, telemetry.PointID(i), x))
			units[i].Profile.Timing.SwitchGap = c.switchGap
		}
		b, err := modbus.ComputeBudget(modbus.Config{Name: "b", Transport: modbus.RTU, Device: "x", Units: units})
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(b.Occupancy-c.want) > 0.005*c.want {
			t.Errorf("switch_gap %v: the points want %.4f of the line, computed by hand %.4f", c.switchGap, b.Occupancy, c.want)
		}
	}
}
