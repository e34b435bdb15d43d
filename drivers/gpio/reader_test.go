package gpio_test

import (
	"strings"
	"testing"
	"time"

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
