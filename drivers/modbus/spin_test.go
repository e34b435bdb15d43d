package modbus_test

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// What a unit does with one request.
const (
	doesAnswer = iota
	doesNothing
	doesRaise2
	doesRaise4
	doesRaise11
	doesMislead // wrong length
	doesHangUp
	doesForeign // answers as another unit
	doings
)

// moody is a peer whose units do with each request what does says, each after 50 µs, and counts.
type moody struct {
	*peer
	mu  sync.Mutex // guards n, did and what does uses
	n   int
	did [doings]int
}

func (m *moody) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.n
}

func newMoody(d *tables, rtu bool, does func(r request) int) *moody {
	m := &moody{}
	m.peer = &peer{handle: func(c io.ReadWriteCloser, r request) bool {
		time.Sleep(50 * time.Microsecond)
		m.mu.Lock()
		m.n++
		what := does(r)
		m.did[what]++
		m.mu.Unlock()
		ans := d.answer(r.pdu)
		switch what {
		case doesNothing:
			return true
		case doesRaise2, doesRaise4, doesRaise11:
			ans = []byte{r.pdu[0] | 0x80, byte(map[int]int{doesRaise2: 2, doesRaise4: 4, doesRaise11: 11}[what])}
		case doesMislead:
			ans = []byte{r.pdu[0], 14, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}
		case doesHangUp:
			return false
		case doesForeign:
			r.unit += 100
		}
		_, _ = c.Write(r.frame(rtu, ans))
		return true
	}}
	return m
}

// blockUnits returns n units of four blocks each, read every 200 ms, with points from 10 times the index.
func blockUnits(n int) []firmwareconfig.Unit {
	var units []firmwareconfig.Unit
	for i := range n {
		var chs []firmwareconfig.Channel
		for k := range 4 {
			c := u16(fmt.Sprintf("c%d", k), 100*k)
			c.Every = 200 * time.Millisecond
			chs = append(chs, c)
		}
		units = append(units, unitOf(fmt.Sprintf("u%d", i), i+1, telemetry.PointID(10*i), chs...))
		units[i].Profile.Timing.Timeout = 100 * time.Millisecond
	}
	return units
}

// Units that answer some requests and fail others at once take turns in waking each other: the line must not race.
func TestUnitsThatFailAtOnceDoNotSpin(t *testing.T) {
	for _, what := range []int{doesRaise11, doesMislead, doesHangUp, doesForeign} {
		for _, bad := range []string{"02", "01", "012"} {
			t.Run(fmt.Sprint(what, " ", bad), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := newTables()
					n := 0
					m := newMoody(d, false, func(request) int {
						if n++; strings.Contains(bad, fmt.Sprint(n%5)) {
							return what
						}
						return doesAnswer
					})
					r := newRig(t, modbus.Config{Transport: modbus.TCP, Units: blockUnits(2)}, m.peer)
					end := r.clock.Mono().Add(10 * time.Second)
					for r.clock.Mono() < end && m.count() < 1000 {
						r.step()
					}
					good := 0
					for _, s := range r.all {
						if !s.Quality.Bad() {
							good++
						}
					}
					t.Logf("%d requests over %d connections, %d good values, in %v", m.n, m.dials, good, time.Duration(r.clock.Mono()))
					if m.n > 700 { // 40 a second are wanted
						t.Errorf("%d requests in %v", m.n, time.Duration(r.clock.Mono()))
					}
					if good < 20 { // A pattern that fails twice in a row over and over is the worst there is.
						t.Errorf("%d good values of 400", good)
					}
				})
			})
		}
	}
}

// Whatever units do, the line is asked no more than a few times as often as wanted, and what brings nothing takes no
// more than its share of it.
func TestNothingThatUnitsDoSpins(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 6).Draw(rt, "units")
		rtu := rapid.Bool().Draw(rt, "rtu")
		// What each unit does, by weights that change every few seconds.
		moods := make([][][]int, n)
		for i := range moods {
			moods[i] = rapid.SliceOfN(rapid.SliceOfN(rapid.IntRange(0, doings-1), 1, 4), 1, 4).Draw(rt, "moods")
		}
		seq := rapid.SliceOfN(rapid.IntRange(0, 1<<20), 7, 31).Draw(rt, "order")
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			k := 0
			d := newTables()
			m := newMoody(d, rtu, func(r request) int {
				if int(r.unit) > n || r.unit == 0 {
					return doesNothing
				}
				k++
				mood := moods[r.unit-1][int(time.Since(start)/(7*time.Second))%len(moods[r.unit-1])]
				return mood[seq[k%len(seq)]%len(mood)]
			})
			c := modbus.Config{Transport: modbus.TCP, Units: blockUnits(n)}
			if rtu {
				c.Transport, c.Line.Baud = modbus.RTU, 115200
			}
			r := newRig(t, c, m.peer)
			most := 20*n*4 + 60 // a second: five a block are wanted
			for range 90 {
				from := m.count()
				end := r.clock.Mono().Add(time.Second)
				for r.clock.Mono() < end && m.count()-from <= 20*most {
					r.step()
				}
				if got := m.count() - from; got > most {
					rt.Fatalf("%d requests of %d units in a second", got, n)
				}
			}
			_ = r.bus.Close()
			m.close()
		})
	})
}

// Units that come and go do not have those that are dead probed beyond their share.
func TestDeadUnitsKeepTheirShareBesideThoseThatComeAndGo(t *testing.T) {
	for _, what := range []int{doesRaise11, doesMislead, doesHangUp} {
		for _, every := range []int{2, 5, 40} {
			synctest.Test(t, func(t *testing.T) {
				n := 0
				m := newMoody(newTables(), false, func(r request) int {
					if r.unit > 2 {
						return doesNothing
					}
					if n++; n/every%2 == 0 {
						return what
					}
					return doesAnswer
				})
				r := newRig(t, modbus.Config{Transport: modbus.TCP, Units: blockUnits(22)}, m.peer)
				r.run(30 * time.Second) // the dead are found
				for range 5 {
					var dead time.Duration
					for end := r.clock.Mono().Add(time.Minute); r.clock.Mono() < end; {
						if d := r.next.Sub(r.clock.Mono()); d > 0 {
							time.Sleep(d)
						}
						from := time.Now()
						r.step()
						if d := time.Since(from); d > 20*time.Millisecond {
							dead += d
						}
					}
					if share := dead.Seconds() / 60; share > 0.16 {
						t.Errorf("%d in turns of %d: %.1f %% of a minute went to dead units", what, every, 100*share)
					}
				}
			})
		}
	}
}
