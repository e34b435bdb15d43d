package gpio_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"linli/drivers/gpio"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// send puts a frame on the lines, which are high at rest.
func send(chip *fakeChip, bits string, pulse, pause time.Duration) {
	for _, c := range bits {
		line := "D" + string(c)
		chip.Set(line, false)
		time.Sleep(pulse)
		chip.Set(line, true)
		time.Sleep(pause)
	}
}

func TestReader(t *testing.T) {
	bubble(t, []string{"D0", "D1"}, func(t *testing.T, chip *fakeChip) {
		chip.Set("D0", true)
		chip.Set("D1", true)
		start := chip.clock.Mono()
		r := newRig(t, config(firmwareconfig.GPIOLine{
			ID: "reader", Line: "D0", Second: "D1", Kind: wiegand, Bits: []int{26, 34}, Key: key,
		}), chip)
		after(chip, start, ms(100))
		card := framed("011101100000011001000011")
		send(chip, card, 50*time.Microsecond, ms(1))
		end := chip.clock.Mono()
		if after(chip, end, ms(40)); len(r.of(0)) > 0 {
			t.Errorf("told before the frame has ended: %v", r.of(0))
		}
		after(chip, end, ms(100))
		got := r.of(0)
		if len(got) != 1 || got[0].Quality != telemetry.Good || len(got[0].Value.Text()) != 16 {
			t.Fatalf("got %v", got)
		}
		if d := end.Sub(got[0].Time); d > 2*time.Millisecond {
			t.Errorf("the card is told %v before its end", d)
		}
		first := got[0].Value
		r.forget()

		// The same card again, from the slowest reader that the standard allows; nothing is told in between.
		after(chip, start, 20*time.Second)
		send(chip, card, 100*time.Microsecond, ms(20))
		pause(ms(100))
		if got := r.of(0); len(got) != 1 || got[0].Value != first {
			t.Errorf("again: %v", got)
		}
		r.forget()

		// Two cards right after each other; the second of the other length.
		send(chip, card, 50*time.Microsecond, ms(1))
		pause(ms(70))
		send(chip, framed(strings.Repeat("1001", 8)), 50*time.Microsecond, ms(1))
		pause(ms(100))
		if got := r.of(0); len(got) != 2 || got[0].Value != first || got[1].Value == first {
			t.Errorf("two cards: %v", got)
		}
		r.forget()

		bad := []byte(card)
		bad[5] ^= 1
		for _, bits := range []string{string(bad), card[:25], card + "0", framed(strings.Repeat("10110", 7)), "0101", "10100101"} {
			send(chip, bits, 50*time.Microsecond, ms(1))
			pause(ms(100))
		}
		if got := r.of(0); len(got) != 0 {
			t.Errorf("bad frames and keys: %v", got)
		}
		s := r.bus.Stats()
		if s.Cards != 4 || s.BadFrames != 4 || s.Keys != 2 {
			t.Errorf("stats: %+v", s)
		}
		if got := r.bus.Health().Units[0].Errors; got != 4 {
			t.Errorf("health tells %d errors, want 4", got)
		}
	})
}

// A frame is not torn because its second half was told late: what counts is when it happened.
func TestReaderLate(t *testing.T) {
	bubble(t, []string{"D0", "D1"}, func(t *testing.T, chip *fakeChip) {
		chip.Set("D0", true)
		chip.Set("D1", true)
		r := newRig(t, config(firmwareconfig.GPIOLine{ID: "reader", Line: "D0", Second: "D1", Kind: wiegand, Key: key}), chip)
		pause(ms(100))
		start := chip.clock.Mono()
		tell := func(bits string, first int) {
			for i, c := range bits {
				ago := chip.clock.Mono().Sub(start) - ms(first+i)
				chip.Edge("D"+string(c), false, ago)
			}
		}
		card := framed("011101100000011001000011")
		after(chip, start, ms(13))
		tell(card[:13], 0)
		after(chip, start, ms(12+50+5))
		tell(card[13:], 13)
		pause(ms(200))
		if s := r.bus.Stats(); len(r.of(0)) != 1 || s.Cards != 1 || s.BadFrames != 0 {
			t.Errorf("stats: %+v", s)
		}
	})
}

// readerConfig is a contact and a reader, with points 0 and 1; point 2 tells whether the reader cannot be read.
func readerConfig(readerKey []byte) gpio.Config {
	c := config(firmwareconfig.GPIOLine{ID: "door", Line: "A", Kind: input},
		firmwareconfig.GPIOLine{ID: "reader", Line: "D0", Second: "D1", Kind: wiegand, Key: readerKey})
	c.Unit.Bindings = append(c.Unit.Bindings, firmwareconfig.Binding{Channel: 1, Point: 2, Def: &telemetry.PointDef{Name: "fault", Kind: telemetry.Bool}, UnitFactor: 1})
	return c
}

// A reader whose line somebody else has says so in a point of its own: its cards are events, which cannot go bad.
func TestReaderInUse(t *testing.T) {
	bubble(t, []string{"A", "D0", "D1"}, func(t *testing.T, chip *fakeChip) {
		chip.Set("D0", true)
		chip.Set("D1", true)
		start := chip.clock.Mono()
		chip.with(func() { chip.lines["D1"].by = "bad-daemon" })
		r := newRig(t, readerConfig(key), chip)
		after(chip, start, 10*time.Second)
		if n := len(r.of(2)); n < 2 || n > 4 {
			t.Errorf("told %d times in 10 s that the reader is at fault, want it confirmed every 5 s", n)
		}
		if u := r.bus.Health().Units[0]; u.Online || !strings.Contains(u.LastError, "reader: ") || !strings.Contains(u.LastError, "bad-daemon") || !r.bus.Health().Up {
			t.Errorf("health: %+v", r.bus.Health())
		}
		chip.with(func() { chip.lines["D1"].by = "" })
		after(chip, start, 20*time.Second)
		send(chip, framed("011101100000011001000011"), 50*time.Microsecond, ms(1))
		pause(ms(200))
		if n := len(r.of(1)); n != 1 {
			t.Errorf("%d cards, want one", n)
		}
		if n := len(r.of(2)); n < 4 {
			t.Errorf("told %d times, want that all is well confirmed too", n)
		}
		chip.Unplug()
		after(chip, start, 30*time.Second)
		got := r.changes(2, start)
		if len(got) != 3 || got[0] != "0s true" || got[1] != "12s false" || !strings.HasPrefix(got[2], "20.") || !strings.HasSuffix(got[2], " true") {
			t.Errorf("got %q, want the fault at once, its end once the line is free, and again when the chip is gone", got)
		}
	})
}

// A reader without the site's secret is not opened; the rest of its chip runs, and it follows once there is one.
func TestReaderWithoutKey(t *testing.T) {
	bubble(t, []string{"A", "D0", "D1"}, func(t *testing.T, chip *fakeChip) {
		chip.Set("D0", true)
		chip.Set("D1", true)
		start := chip.clock.Mono()
		secret, problem := []byte(nil), errors.New("no such file: site.key")
		c := readerConfig(nil)
		c.Key = func() ([]byte, error) {
			chip.mu.Lock()
			defer chip.mu.Unlock()
			return secret, problem
		}
		r := newRig(t, c, chip)
		after(chip, start, ms(100))
		chip.Set("A", true)
		after(chip, start, time.Second)
		expect(t, r.changes(0, start), "0s false", "100ms true")
		if h := r.bus.Health(); !h.Up || h.Units[0].Online || h.Units[0].LastError != "reader: no such file: site.key" {
			t.Errorf("health: %+v", h)
		}
		if chip.lines["D0"].by != "" {
			t.Error("the line was taken")
		}
		chip.with(func() { secret, problem = key[:8], nil })
		after(chip, start, 10*time.Second)
		if h := r.bus.Health(); !strings.Contains(h.Units[0].LastError, "shorter than 16") {
			t.Errorf("with a short key: %+v", h)
		}
		chip.with(func() { secret = key })
		after(chip, start, 20*time.Second)
		send(chip, framed("011101100000011001000011"), 50*time.Microsecond, ms(1))
		pause(ms(100))
		if h := r.bus.Health(); !h.Units[0].Online || len(r.of(1)) != 1 || r.last(2).Value.Bool() {
			t.Errorf("with the key: %+v, %d cards, fault %v", h, len(r.of(1)), r.last(2))
		}
	})
}
