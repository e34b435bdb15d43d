package gpio_test

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	periph "periph.io/x/conn/v3/gpio"

	"linli/drivers/gpio"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

const (
	input   = firmwareconfig.GPIOInput
	pair    = firmwareconfig.GPIOPair
	counter = firmwareconfig.GPIOCounter
	wiegand = firmwareconfig.GPIOWiegand
	outputs = firmwareconfig.GPIOOutput
)

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

// bubble runs a test with a chip in a synctest bubble.
func bubble(t *testing.T, lines []string, test func(t *testing.T, chip *fakeChip)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newFakeChip(newClock(), lines...)) })
}

// pause waits for d, and until all others have done what they had to.
func pause(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// after waits until d has passed since start.
func after(chip *fakeChip, start telemetry.Mono, d time.Duration) {
	pause(start.Add(d).Sub(chip.clock.Mono()))
}

func TestInput(t *testing.T) {
	bubble(t, []string{"A", "B"}, func(t *testing.T, chip *fakeChip) {
		chip.Set("B", true)
		start := chip.clock.Mono()
		r := newRig(t, config(
			firmwareconfig.GPIOLine{ID: "a", Line: "A", Kind: input, Bias: firmwareconfig.GPIOPullUp},
			firmwareconfig.GPIOLine{ID: "b", Line: "B", Kind: input, ActiveLow: true},
		), chip)
		after(chip, start, ms(100))
		chip.Set("A", true)
		chip.Set("B", false)
		after(chip, start, ms(200))
		chip.Set("A", false)
		chip.Set("A", true) // a pulse of no length at all
		after(chip, start, ms(300))
		if got := chip.requests[0]; got.Pull != periph.PullUp || got.Edge != periph.BothEdges || got.Consumer != "linli a" || got.Out {
			t.Errorf("asked for %+v", got)
		}
		expect(t, r.changes(0, start), "0s false", "100ms true", "200ms false", "200ms true")
		expect(t, r.changes(1, start), "0s false", "100ms true")
	})
}

// A level counts once it has held, and from when it began to.
func TestDebounce(t *testing.T) {
	for name, inKernel := range map[string]bool{"ours": false, "the kernel's": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, []string{"A"}, func(t *testing.T, chip *fakeChip) {
				chip.debounces = inKernel
				start := chip.clock.Mono()
				r := newRig(t, config(firmwareconfig.GPIOLine{ID: "a", Line: "A", Kind: input, Debounce: ms(30)}), chip)
				if inKernel {
					after(chip, start, ms(152)) // 30 ms after the last bounce
					chip.Set("A", true)
					after(chip, start, ms(500))
					expect(t, r.changes(0, start), "0s false", "122ms true")
					return
				}
				after(chip, start, ms(100))
				for i := range 23 { // closes with bounces, the last of them after 22 ms
					chip.Set("A", i%2 == 0)
					after(chip, start, ms(101+i))
				}
				after(chip, start, ms(130))
				chip.Set("A", false) // a gap shorter than the debounce
				after(chip, start, ms(131))
				chip.Set("A", true)
				after(chip, start, ms(160))
				if got := r.last(0); got.Value.Bool() {
					t.Errorf("counts after %v", got.Time.Sub(start))
				}
				after(chip, start, ms(300))
				chip.Set("A", false) // a disturbance
				after(chip, start, ms(310))
				chip.Set("A", true)
				after(chip, start, ms(600))
				expect(t, r.changes(0, start), "0s false", "131ms true")
			})
		})
	}
}

// A look in between neither settles nor postdates what is being seen.
func TestLongDebounce(t *testing.T) {
	bubble(t, []string{"A"}, func(t *testing.T, chip *fakeChip) {
		c := config(firmwareconfig.GPIOLine{ID: "a", Line: "A", Kind: input, Debounce: 3 * time.Second})
		c.Unit.Bindings[0].Def.LifeSafety = true
		start := chip.clock.Mono()
		r := newRig(t, c, chip)
		after(chip, start, ms(1500))
		chip.Set("A", true)
		after(chip, start, 6*time.Second)
		expect(t, r.changes(0, start), "0s false", "1.5s true")
	})
}

// A level that bounces for longer than anybody waits is still confirmed, and never in the wrong order.
func TestConfirm(t *testing.T) {
	bubble(t, []string{"A", "B", "C"}, func(t *testing.T, chip *fakeChip) {
		c := config(
			firmwareconfig.GPIOLine{ID: "a", Line: "A", Kind: input},
			firmwareconfig.GPIOLine{ID: "b", Line: "B", Kind: input},
			firmwareconfig.GPIOLine{ID: "c", Line: "C", Kind: input, Debounce: ms(200)},
		)
		c.Unit.Bindings[1].Def.LifeSafety = true
		start := chip.clock.Mono()
		r := newRig(t, c, chip)
		for i := range 1000 { // C never settles.
			after(chip, start, ms(30+i*30))
			chip.Set("C", i%2 == 0)
		}
		for id, most := range map[telemetry.PointID]time.Duration{0: 5 * time.Second, 1: time.Second, 2: 5 * time.Second} {
			got := r.of(id)
			last := start
			for _, s := range got {
				if d := s.Time.Sub(last); d > most || d < 0 {
					t.Errorf("point %d: %v between two samples", id, d)
				}
				last = s.Time
				if s.Quality != telemetry.Good || s.Value.Bool() {
					t.Errorf("point %d: %v %v", id, s.Quality, s.Value)
				}
			}
			if d := chip.clock.Mono().Sub(last); d > most {
				t.Errorf("point %d: not confirmed for %v", id, d)
			}
			if least := int(30*time.Second/most) - 1; len(got) < least || len(got) > 2*least {
				t.Errorf("point %d: %d samples in 30 s", id, len(got))
			}
		}
	})
}

// An edge that nobody told is found by looking.
func TestLostEdge(t *testing.T) {
	bubble(t, []string{"A", "NC", "NO"}, func(t *testing.T, chip *fakeChip) {
		chip.Set("NC", true)
		start := chip.clock.Mono()
		r := newRig(t, config(
			firmwareconfig.GPIOLine{ID: "a", Line: "A", Kind: input},
			firmwareconfig.GPIOLine{ID: "p", Line: "NC", Second: "NO", Kind: pair},
		), chip)
		after(chip, start, ms(100))
		chip.Silently("A", true)
		chip.Silently("NC", false)
		chip.Silently("NO", true)
		after(chip, start, 2*time.Second)
		if got := r.last(0); !got.Value.Bool() {
			t.Error("the input's level was not repaired")
		}
		if got := r.last(1); !got.Value.Bool() || got.Quality != telemetry.Good {
			t.Errorf("the pair's levels were not repaired: %v %v", got.Quality, got.Value)
		}
		if got := r.bus.Stats().Repaired; got != 2 {
			t.Errorf("%d repairs, want 2", got)
		}
		if got := r.bus.Health().Units[0].Retries; got != 2 {
			t.Errorf("health tells %d repairs, want 2", got)
		}
	})
}

func TestPair(t *testing.T) {
	bubble(t, []string{"NC", "NO"}, func(t *testing.T, chip *fakeChip) {
		chip.Set("NC", true)
		start := chip.clock.Mono()
		r := newRig(t, config(firmwareconfig.GPIOLine{ID: "p", Line: "NC", Second: "NO", Kind: pair, Debounce: ms(20)}), chip)
		at := func(n int, nc, no bool) {
			after(chip, start, ms(n))
			chip.Set("NC", nc)
			chip.Set("NO", no)
		}
		at(100, false, false) // under way for 12 ms
		at(112, false, true)
		at(300, false, false)
		at(345, true, false) // slowly back: 45 ms, longer than the debounce
		at(500, true, true)  // a short circuit
		at(800, true, false)
		at(900, false, false) // a cut wire
		at(1000, true, false) // and repaired
		after(chip, start, ms(1500))
		expect(t, r.changes(0, start), "0s false", "112ms true", "345ms false", "500ms bad_sensor", "800ms false",
			"900ms bad_sensor", "1s false")
	})
}

// While nobody calls Step, edges wait up to a bound; what does not fit is counted, and the level is right all the same.
func TestQueueIsBounded(t *testing.T) {
	bubble(t, []string{"A"}, func(t *testing.T, chip *fakeChip) {
		c := config(firmwareconfig.GPIOLine{ID: "a", Line: "A", Kind: input})
		c.Clock, c.Host = chip.clock, chip
		bus, err := gpio.New(c)
		if err != nil {
			t.Fatal(err)
		}
		samples, _ := bus.Step(t.Context(), chip.clock.Mono(), nil)
		for i := range 20_001 {
			chip.Set("A", i%2 == 0)
			pause(ms(2))
		}
		for range 5 { // one to empty the queue and look, one to look again
			var next telemetry.Mono
			samples, next = bus.Step(t.Context(), chip.clock.Mono(), samples)
			pause(next.Sub(chip.clock.Mono()))
		}
		if s := bus.Stats(); s.Edges != 20_001 || s.Lost != 20_001-1024 {
			t.Errorf("stats: %+v", s)
		}
		if last := samples[len(samples)-1]; !last.Value.Bool() {
			t.Errorf("ends at %v", last.Value)
		}
		if err := bus.Close(); err != nil {
			t.Error(err)
		}
	})
}

// What a pair says first may be a fault, which counts no sooner than any other.
func TestPairStartsFaulty(t *testing.T) {
	bubble(t, []string{"NC", "NO"}, func(t *testing.T, chip *fakeChip) {
		start := chip.clock.Mono()
		r := newRig(t, config(firmwareconfig.GPIOLine{ID: "p", Line: "NC", Second: "NO", Kind: pair}), chip)
		after(chip, start, ms(49))
		if got := r.of(0); len(got) > 0 {
			t.Errorf("says %v at once", got)
		}
		after(chip, start, ms(60))
		expect(t, r.changes(0, start), "0s bad_sensor")
	})
}

func TestCounter(t *testing.T) {
	bubble(t, []string{"A", "B", "C", "D"}, func(t *testing.T, chip *fakeChip) {
		start := chip.clock.Mono()
		r := newRig(t, config(
			firmwareconfig.GPIOLine{ID: "rising", Line: "A", Kind: counter},
			firmwareconfig.GPIOLine{ID: "falling", Line: "B", Kind: counter, Edge: firmwareconfig.GPIOFalling},
			firmwareconfig.GPIOLine{ID: "both", Line: "C", Kind: counter, Edge: firmwareconfig.GPIOBoth},
			firmwareconfig.GPIOLine{ID: "bouncing", Line: "D", Kind: counter, Debounce: ms(3)}, // ours: the chip has none
		), chip)
		after(chip, start, ms(10))
		for range 1000 { // 100 pulses/s, with a bounce on D
			for _, level := range []bool{true, false} {
				for _, l := range []string{"A", "B", "C", "D"} {
					chip.Set(l, level)
				}
				chip.Set("D", !level)
				chip.Set("D", level)
				time.Sleep(ms(5))
			}
		}
		chip.Set("A", true)
		after(chip, start, 12*time.Second)
		for id, want := range map[telemetry.PointID]int64{0: 1001, 1: 1000, 2: 2000, 3: 1000} {
			if got := r.last(id).Value.Int(); got != want {
				t.Errorf("point %d counts %d, want %d", id, got, want)
			}
			n := 0
			var last telemetry.Sample
			for _, s := range r.of(id) {
				if s.Value.Int() < last.Value.Int() || n > 0 && s.Time < last.Time {
					t.Errorf("point %d goes back: %v after %v", id, s, last)
				}
				last = s
				n++
			}
			if n < 100 || n > 105 {
				t.Errorf("point %d: %d samples in 10 s of counting and 2 s of rest", id, n)
			}
		}
		if got := r.bus.Stats().Lost; got != 0 {
			t.Errorf("%d edges lost", got)
		}
	})
}

// A counter counts what the kernel had to throw away.
func TestCounterOverflow(t *testing.T) {
	bubble(t, []string{"A"}, func(t *testing.T, chip *fakeChip) {
		start := chip.clock.Mono()
		r := newRig(t, config(firmwareconfig.GPIOLine{ID: "a", Line: "A", Kind: counter}), chip)
		after(chip, start, ms(10))
		for range 50_000 { // before anybody is given the processor
			chip.Set("A", true)
			chip.Set("A", false)
		}
		after(chip, start, ms(500))
		if got := r.last(0).Value.Int(); got != 50_000 {
			t.Errorf("counts %d, want 50000", got)
		}
		if got := r.bus.Stats(); got.Lost == 0 {
			t.Error("nothing was lost, so this tests nothing")
		}
	})
}

// A floating input costs bounded memory and few samples, and is right in the end.
func TestStorm(t *testing.T) {
	bubble(t, []string{"A", "B"}, func(t *testing.T, chip *fakeChip) {
		start := chip.clock.Mono()
		r := newRig(t, config(
			firmwareconfig.GPIOLine{ID: "a", Line: "A", Kind: input},
			firmwareconfig.GPIOLine{ID: "b", Line: "B", Kind: input, Debounce: ms(30)},
		), chip)
		after(chip, start, ms(100))
		level := false
		for range 20_000 { // 100,000 edges/s for a second, five at a time
			for range 5 {
				level = !level
				chip.Set("A", level)
				chip.Set("B", level)
			}
			time.Sleep(50 * time.Microsecond)
		}
		chip.Set("A", true)
		chip.Set("B", true)
		at := chip.clock.Mono()
		after(chip, at, 2*time.Second)
		for id := range telemetry.PointID(2) {
			if got := r.last(id); !got.Value.Bool() || got.Quality != telemetry.Good {
				t.Errorf("point %d ends %v %v", id, got.Quality, got.Value)
			}
		}
		n := len(r.of(0))
		if n < 50 || n > 200 {
			t.Errorf("%d samples of 100,000 edges in a second", n)
		}
		s := r.bus.Stats()
		if s.Edges+s.Lost < 199_000 || s.Untold == 0 {
			t.Errorf("stats: %+v", s)
		}
		if got := r.bus.Health().Units[0].Late; got != s.Lost+s.Untold {
			t.Errorf("health tells %d late, want %d", got, s.Lost+s.Untold)
		}
		if n := r.calls(); n > 1000 {
			t.Errorf("%d Steps", n)
		}
	})
}

// Without interrupts lines are looked at, and what needs edges says why it does not work.
func TestNoEdges(t *testing.T) {
	bubble(t, []string{"A", "B", "D0", "D1"}, func(t *testing.T, chip *fakeChip) {
		chip.noEdges = true
		start := chip.clock.Mono()
		c := config(
			firmwareconfig.GPIOLine{ID: "a", Line: "A", Kind: input, Debounce: ms(50)},
			firmwareconfig.GPIOLine{ID: "water", Line: "B", Kind: counter},
			firmwareconfig.GPIOLine{ID: "reader", Line: "D0", Second: "D1", Kind: wiegand, Key: key},
		)
		c.Unit.Bindings[0].Def.LifeSafety = true
		r := newRig(t, c, chip)
		after(chip, start, ms(105))
		chip.Set("A", true)
		after(chip, start, ms(125))
		chip.Set("A", false)
		after(chip, start, ms(205))
		chip.Set("A", true)
		after(chip, start, 3*time.Second)
		if n := len(r.of(0)); n > 7 {
			t.Errorf("%d samples in 3 s", n)
		}
		expect(t, r.changes(0, start), "0s false", "220ms true")
		expect(t, r.changes(1, start), "0s bad_comm")
		if got := r.of(2); len(got) > 0 {
			t.Errorf("a reader that cannot be read tells cards: %v", got)
		}
		u := r.bus.Health().Units[0]
		if u.Online || !strings.Contains(u.LastError, "water: the chip does not report edges") {
			t.Errorf("health: %+v", u)
		}
	})
}

// A line in use makes its own point bad and no other, is tried again, and each change is logged once.
func TestBusyLine(t *testing.T) {
	bubble(t, []string{"A", "B"}, func(t *testing.T, chip *fakeChip) {
		core, logs := observer.New(zap.InfoLevel)
		chip.lines["A"].by = "bad-daemon"
		start := chip.clock.Mono()
		c := config(
			firmwareconfig.GPIOLine{ID: "a", Line: "A", Kind: input},
			firmwareconfig.GPIOLine{ID: "b", Line: "B", Kind: input},
			firmwareconfig.GPIOLine{ID: "c", Line: "missing", Kind: input},
		)
		c.Log = zap.New(core)
		r := newRig(t, c, chip)
		after(chip, start, ms(100))
		chip.Set("B", true)
		after(chip, start, 20*time.Second)
		h := r.bus.Health()
		if u := h.Units[0]; !h.Up || u.Online || u.LastError != `a: line A: in use by "bad-daemon"` {
			t.Errorf("health: %+v", h)
		}
		if n := len(chip.requests); n < 10 || n > 20 {
			t.Errorf("%d requests in 20 s", n)
		}
		chip.with(func() { chip.lines["A"].by = "" })
		after(chip, start, 30*time.Second)
		got := r.changes(0, start)
		if len(got) != 2 || got[0] != "0s bad_comm" || !strings.HasSuffix(got[1], " false") {
			t.Errorf("got %q", got)
		}
		expect(t, r.changes(1, start), "0s false", "100ms true")
		var lines []string
		for _, l := range logs.All() {
			lines = append(lines, l.Message+" "+l.ContextMap()["line"].(string))
		}
		expect(t, lines, "line not available a", "line not available c", "line back a")
	})
}

// A chip that is unplugged and comes back. Its output returns to what it was last set to, not to how it started.
func TestUnplug(t *testing.T) {
	bubble(t, []string{"A", "B", "C"}, func(t *testing.T, chip *fakeChip) {
		core, logs := observer.New(zap.InfoLevel)
		start := chip.clock.Mono()
		c := config(
			firmwareconfig.GPIOLine{ID: "a", Line: "A", Kind: input},
			firmwareconfig.GPIOLine{ID: "siren", Line: "B", Kind: outputs, OnStart: firmwareconfig.OutputOff},
			firmwareconfig.GPIOLine{ID: "water", Line: "C", Kind: counter},
		)
		c.Log = zap.New(core)
		r := newRig(t, c, chip)
		after(chip, start, ms(100))
		if err := r.write(1, telemetry.BoolValue(true)); err != nil {
			t.Fatal(err)
		}
		chip.Set("C", true)
		chip.Set("C", false)
		after(chip, start, time.Second)
		chip.Unplug()
		after(chip, start, 2*time.Second) // The output has no edges: its end shows at the next look.
		for id := range telemetry.PointID(3) {
			if got := r.last(id); got.Quality != telemetry.BadComm {
				t.Errorf("point %d: %v", id, got.Quality)
			}
		}
		if h := r.bus.Health(); h.Up || h.LastError == "" {
			t.Errorf("health: %+v", h)
		}
		if err := r.write(1, telemetry.BoolValue(false)); err == nil || !strings.Contains(err.Error(), "siren was not set") {
			t.Errorf("write: %v", err)
		}
		after(chip, start, time.Minute)
		if n := chip.openErrors; n < 10 || n > 30 {
			t.Errorf("looked for the chip %d times in a minute", n)
		}
		chip.Set("A", true)
		chip.Plug()
		after(chip, start, 66*time.Second)
		if !chip.Value("B") {
			t.Error("the siren has stopped")
		}
		if got := chip.lines["B"].history; len(got) != 1 {
			t.Errorf("the output went through %v", got)
		}
		if got := r.last(0); got.Quality != telemetry.Good || !got.Value.Bool() {
			t.Errorf("the input: %v %v", got.Quality, got.Value)
		}
		if got := r.last(2); got.Quality != telemetry.Good || got.Value.Int() != 1 {
			t.Errorf("the counter: %v %v", got.Quality, got.Value)
		}
		if h := r.bus.Health(); !h.Up || !h.Units[0].Online || h.Units[0].LastError != "" {
			t.Errorf("health: %+v", h)
		}
		for _, l := range logs.All() {
			t.Errorf("logged what the supervisor tells: %s", l.Message)
		}
	})
}

// A line that can be taken but not read is not tried without pause.
func TestFlappingLine(t *testing.T) {
	bubble(t, []string{"A"}, func(t *testing.T, chip *fakeChip) {
		chip.lines["A"].dead = true
		r := newRig(t, config(firmwareconfig.GPIOLine{ID: "a", Line: "A", Kind: input}), chip)
		pause(30 * time.Second)
		if n := len(chip.requests); n < 5 || n > 10 {
			t.Errorf("%d requests in 30 s", n)
		}
		if got := r.last(0).Quality; got != telemetry.BadComm {
			t.Errorf("quality %v", got)
		}
	})
}

func TestForbidden(t *testing.T) {
	bubble(t, nil, func(t *testing.T, chip *fakeChip) {
		chip.forbidden = errors.New("permission denied: /dev/gpiochip0 belongs to group gpio")
		r := newRig(t, config(firmwareconfig.GPIOLine{ID: "a", Line: "A", Kind: input}), chip)
		pause(time.Second)
		if h := r.bus.Health(); h.Up || h.LastError != chip.forbidden.Error() || !strings.Contains(h.Units[0].LastError, "group gpio") {
			t.Errorf("health: %+v", h)
		}
		if got := r.last(0).Quality; got != telemetry.BadComm {
			t.Errorf("quality %v", got)
		}
	})
}

// Whatever the edges, lost or told, with whatever delay: a point ends at the level that the line has.
func TestEndsRight(t *testing.T) {
	for seed := range uint64(20) {
		bubble(t, []string{"A", "B", "NC", "NO"}, func(t *testing.T, chip *fakeChip) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			r := newRig(t, config(
				firmwareconfig.GPIOLine{ID: "a", Line: "A", Kind: input},
				firmwareconfig.GPIOLine{ID: "b", Line: "B", Kind: input, Debounce: ms(20), ActiveLow: true},
				firmwareconfig.GPIOLine{ID: "p", Line: "NC", Second: "NO", Kind: pair, Debounce: ms(20)},
			), chip)
			names := []string{"A", "B", "NC", "NO"}
			for range 300 {
				name, level := names[rnd.IntN(4)], rnd.IntN(2) == 0
				switch rnd.IntN(10) {
				case 0:
					chip.Silently(name, level)
				case 1:
					chip.Edge(name, level, time.Duration(rnd.IntN(5000))*time.Microsecond)
				default:
					chip.Set(name, level)
				}
				time.Sleep(time.Duration(rnd.IntN(100)) * time.Millisecond / time.Duration(1+rnd.IntN(50)))
			}
			pause(7 * time.Second)
			if got := r.last(0); got.Value.Bool() != chip.Value("A") {
				t.Errorf("seed %d: a is %v", seed, got)
			}
			if got := r.last(1); got.Value.Bool() == chip.Value("B") {
				t.Errorf("seed %d: b is %v", seed, got)
			}
			nc, no := chip.Value("NC"), chip.Value("NO")
			if got := r.last(2); (nc == no) != (got.Quality == telemetry.BadSensor) || nc != no && got.Value.Bool() != no {
				t.Errorf("seed %d: p is %v, the contacts are %v and %v", seed, got, nc, no)
			}
			last := map[telemetry.PointID]telemetry.Mono{}
			for _, s := range r.all() {
				if s.Time < last[s.Point] {
					t.Errorf("seed %d: point %d goes back in time", seed, s.Point)
				}
				last[s.Point] = s.Time
			}
		})
	}
}
