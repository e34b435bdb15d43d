package uplink

import (
	"testing"
	"time"
)

// The pace finds what a line can carry, whatever the line is and becomes: an alert never waits long behind telemetry, and
// the line is used. The lines are arithmetic: a message leaves when those before it have, and is acknowledged a round trip
// later.
func TestPace(t *testing.T) {
	type line struct {
		rate int // bytes a second
		rtt  time.Duration
	}
	for _, c := range []struct {
		name   string
		lines  []line
		queued time.Duration // at most, once the pace has had its time
		used   float64       // of the line, at least, live and late together
	}{
		{"1 Mbit/s", []line{{125_000, 50 * time.Millisecond}}, 200 * time.Millisecond, .7},
		{"office", []line{{12_500_000, 2 * time.Millisecond}}, 100 * time.Millisecond, .5},
		{"2G", []line{{4_000, 600 * time.Millisecond}}, 2500 * time.Millisecond, .7},
		{"satellite", []line{{250_000, 600 * time.Millisecond}}, 200 * time.Millisecond, .1},
		{"becomes slow", []line{{1_250_000, 20 * time.Millisecond}, {30_000, 20 * time.Millisecond}}, 400 * time.Millisecond, .7},
		{"becomes long", []line{{125_000, 30 * time.Millisecond}, {125_000, 500 * time.Millisecond}}, 300 * time.Millisecond, .1},
		{"becomes fast", []line{{8_000, 50 * time.Millisecond}, {1_250_000, 50 * time.Millisecond}}, 200 * time.Millisecond, .2},
	} {
		t.Run(c.name, func(t *testing.T) {
			type message struct {
				sent, acked time.Time
				n, ahead    int
				late        bool
			}
			p := newPace(1 << 20)
			now := time.Unix(0, 0)
			p.took(now.Add(-c.lines[0].rtt), now, 0)
			var on []message
			inFlight := map[bool]int{}
			var free time.Time // when the line has sent everything
			var most time.Duration
			carried := 0
			for phase, l := range c.lines {
				began := now
				for now.Sub(began) < 60*time.Second {
					for _, late := range []bool{false, true} {
						for n := min(p.limit(), 16<<10); p.room(late, inFlight[late], n); {
							if free.Before(now) {
								free = now
							}
							free = free.Add(time.Duration(n) * time.Second / time.Duration(l.rate))
							inFlight[late] += n
							p.inFlight += n
							on = append(on, message{now, free.Add(l.rtt), n, p.inFlight, late})
							if last := phase == len(c.lines)-1 && now.Sub(began) > 40*time.Second; last {
								most = max(most, free.Sub(now))
								carried += n
							}
						}
					}
					m := on[0]
					on = on[1:]
					now = m.acked
					p.took(m.sent, now, m.ahead)
					inFlight[m.late] -= m.n
					p.inFlight -= m.n
				}
			}
			used := float64(carried) / 20 / float64(c.lines[len(c.lines)-1].rate)
			t.Logf("window %d, base %v: an alert waits %v at most, %.0f %% of the line used", p.window, p.base, most.Round(time.Millisecond), used*100)
			if most > c.queued || used < c.used {
				t.Errorf("want at most %v and at least %.0f %%", c.queued, c.used*100)
			}
		})
	}
}
