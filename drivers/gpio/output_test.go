package gpio_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	periph "periph.io/x/conn/v3/gpio"

	"linli/drivers"
	"linli/drivers/gpio"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

var (
	yes = telemetry.BoolValue(true)
	no  = telemetry.BoolValue(false)
)

// An output never has another level than what it was told: not at the start, not at the stop.
func TestOutputStartAndStop(t *testing.T) {
	states := []firmwareconfig.OutputState{firmwareconfig.OutputHold, firmwareconfig.OutputOff, firmwareconfig.OutputOn}
	for _, start := range states {
		for _, stop := range states {
			for _, before := range []string{"input", "low", "high"} {
				for _, activeLow := range []bool{false, true} {
					bubble(t, []string{"A"}, func(t *testing.T, chip *fakeChip) {
						a := chip.lines["A"]
						a.out, a.driven = before != "input", before == "high"
						first := start == firmwareconfig.OutputOn
						if start == firmwareconfig.OutputHold && a.out {
							first = a.driven != activeLow
						}
						var want []bool
						if start != firmwareconfig.OutputHold || !a.out {
							want = append(want, first != activeLow)
						}
						r := newRig(t, config(firmwareconfig.GPIOLine{
							ID: "a", Line: "A", Kind: outputs, OnStart: start, OnStop: stop, ActiveLow: activeLow,
						}), chip)
						pause(time.Second)
						if got := r.last(0); got.Quality != telemetry.Good || got.Value.Bool() != first {
							t.Errorf("%v after %s: %v %v, want %v", start, before, got.Quality, got.Value, first)
						}
						r.close()
						if stop != firmwareconfig.OutputHold {
							want = append(want, (stop == firmwareconfig.OutputOn) != activeLow)
						}
						if !slices.Equal(a.history, want) {
							t.Errorf("%v after %s, %v, active low %v: the line went through %v, want %v", start, before, stop, activeLow, a.history, want)
						}
						if a.by != "" {
							t.Errorf("still in use by %s", a.by)
						}
					})
				}
			}
		}
	}
}

func TestWrite(t *testing.T) {
	bubble(t, []string{"A", "B", "C"}, func(t *testing.T, chip *fakeChip) {
		start := chip.clock.Mono()
		c := config(
			firmwareconfig.GPIOLine{ID: "a", Line: "A", Kind: outputs},
			firmwareconfig.GPIOLine{ID: "b", Line: "B", Kind: outputs},
			firmwareconfig.GPIOLine{ID: "c", Line: "C", Kind: input},
		)
		c.Unit.Bindings[1].Invert = true
		r := newRig(t, c, chip)
		after(chip, start, ms(100))
		for _, v := range []telemetry.Value{yes, yes, no} {
			if err := r.write(0, v); err != nil {
				t.Fatal(err)
			}
			if chip.Value("A") != v.Bool() {
				t.Errorf("line is not %v", v)
			}
			pause(ms(100))
		}
		if err := r.write(1, yes); err != nil || chip.Value("B") {
			t.Errorf("inverted: %v, line %v", err, chip.Value("B"))
		}
		expect(t, r.changes(0, start), "0s false", "100ms true", "300ms false")
		if got := r.last(1); !got.Value.Bool() {
			t.Errorf("inverted reads %v", got.Value)
		}
		if err := r.write(2, yes); !errors.Is(err, drivers.ErrNotWritable) {
			t.Errorf("input: %v", err)
		}
		if err := r.write(77, yes); !errors.Is(err, drivers.ErrNotWritable) {
			t.Errorf("unknown point: %v", err)
		}
		if err := r.write(0, telemetry.FloatValue(1)); !errors.Is(err, drivers.ErrRange) {
			t.Errorf("float: %v", err)
		}
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		done := make(chan error)
		r.writes <- func() { done <- r.bus.Write(cancelled, 0, yes) }
		if err := <-done; !errors.Is(err, context.Canceled) || chip.Value("A") {
			t.Errorf("cancelled: %v, line %v", err, chip.Value("A"))
		}
	})
}

// A line that does not take the level, and a chip that cannot tell.
func TestReadBack(t *testing.T) {
	bubble(t, []string{"A", "B"}, func(t *testing.T, chip *fakeChip) {
		chip.lines["B"].blind = true
		r := newRig(t, config(
			firmwareconfig.GPIOLine{ID: "a", Line: "A", Kind: outputs},
			firmwareconfig.GPIOLine{ID: "b", Line: "B", Kind: outputs},
		), chip)
		pause(ms(100))
		if err := r.write(1, yes); err != nil {
			t.Errorf("blind: %v", err)
		}
		pause(10 * time.Second)
		if got := r.last(1); got.Quality != telemetry.Good || !got.Value.Bool() {
			t.Errorf("blind: %v %v", got.Quality, got.Value)
		}
		chip.with(func() { chip.lines["A"].stuck = true })
		err := r.write(0, yes)
		var notTaken *drivers.NotTakenError
		if !errors.As(err, &notTaken) || notTaken.Want != yes || notTaken.Got != no {
			t.Fatalf("stuck: %v", err)
		}
		pause(2 * time.Second)
		if got := r.last(0); got.Quality != telemetry.BadSensor {
			t.Errorf("stuck: %v %v", got.Quality, got.Value)
		}
		// Once it can, it is set again by itself.
		chip.with(func() { chip.lines["A"].stuck = false })
		pause(3 * time.Second)
		if got := r.last(0); got.Quality != telemetry.Good || !got.Value.Bool() || !chip.Value("A") {
			t.Errorf("free again: %v %v, line %v", got.Quality, got.Value, chip.Value("A"))
		}
		// An expander that was without power for a moment.
		chip.with(func() { chip.lines["A"].driven = false })
		pause(3 * time.Second)
		if got := r.last(0); !chip.Value("A") || got.Quality != telemetry.Good {
			t.Errorf("forgotten: %v %v, line %v", got.Quality, got.Value, chip.Value("A"))
		}
	})
}

func TestFeedback(t *testing.T) {
	line := firmwareconfig.GPIOLine{ID: "a", Line: "A", Kind: outputs, Feedback: "F", Bias: firmwareconfig.GPIOPullUp}
	bubble(t, []string{"A", "F"}, func(t *testing.T, chip *fakeChip) {
		chip.Set("F", true) // open: pulled up
		r := newRig(t, config(line), chip)
		pause(ms(100))
		start := chip.clock.Mono()

		follow := time.AfterFunc(ms(80), func() { chip.Set("F", false) })
		if err := r.write(0, yes); err != nil {
			t.Errorf("a contactor of 80 ms: %v", err)
		}
		if d := chip.clock.Mono().Sub(start); d < ms(80) || d > ms(100) {
			t.Errorf("took %v", d)
		}
		follow.Stop()
		pause(ms(500))

		// It does not fall off again.
		var notTaken *drivers.NotTakenError
		begin := chip.clock.Mono()
		if err := r.write(0, no); !errors.As(err, &notTaken) || notTaken.Want != no || notTaken.Got != yes {
			t.Errorf("welded contact: %v", err)
		}
		if d := chip.clock.Mono().Sub(begin); d < ms(500) || d > ms(520) {
			t.Errorf("took %v", d)
		}
		pause(ms(600))
		if got := r.last(0); got.Quality != telemetry.BadSensor {
			t.Errorf("welded contact: %v %v", got.Quality, got.Value)
		}
		chip.Set("F", true)
		pause(ms(100))
		if got := r.last(0); got.Quality != telemetry.Good || got.Value.Bool() {
			t.Errorf("fallen off at last: %v %v", got.Quality, got.Value)
		}
	})
}

// The disagreement of a feedback contact counts after half a second, not before.
func TestFeedbackLater(t *testing.T) {
	line := firmwareconfig.GPIOLine{ID: "a", Line: "A", Kind: outputs, Feedback: "F"}
	bubble(t, []string{"A", "F"}, func(t *testing.T, chip *fakeChip) {
		r := newRig(t, config(line), chip)
		start := chip.clock.Mono()
		after(chip, start, ms(100))
		chip.Set("F", true)
		after(chip, start, ms(550))
		chip.Set("F", false)
		after(chip, start, ms(1000))
		chip.Set("F", true)
		after(chip, start, ms(3000))
		expect(t, r.changes(0, start), "0s false", "1.5s bad_sensor")
	})
}

// Whether an output follows is unknown while its contact cannot be read.
func TestFeedbackMissing(t *testing.T) {
	line := firmwareconfig.GPIOLine{ID: "a", Line: "A", Kind: outputs, Feedback: "F"}
	bubble(t, []string{"A", "F"}, func(t *testing.T, chip *fakeChip) {
		chip.lines["F"].by = "somebody"
		r := newRig(t, config(line), chip)
		pause(ms(100))
		var outcome *drivers.OutcomeUnknownError
		if err := r.write(0, yes); !errors.As(err, &outcome) || !strings.Contains(err.Error(), "somebody") {
			t.Errorf("write: %v", err)
		}
		if !chip.Value("A") {
			t.Error("the output was not set")
		}
		pause(ms(100))
		if got := r.last(0); got.Quality != telemetry.Uncertain || !got.Value.Bool() {
			t.Errorf("reads %v %v", got.Quality, got.Value)
		}
	})
}

// periph's device code can drive an output.
func TestPin(t *testing.T) {
	bubble(t, []string{"7", "B"}, func(t *testing.T, chip *fakeChip) {
		r := newRig(t, config(
			firmwareconfig.GPIOLine{ID: "a", Line: "7", Kind: outputs, ActiveLow: true},
			firmwareconfig.GPIOLine{ID: "b", Line: "B", Kind: input},
		), chip)
		pin, ok := r.bus.Pin("a")
		if !ok {
			t.Fatal("no pin")
		}
		if _, ok := r.bus.Pin("b"); ok {
			t.Error("an input is a pin to drive")
		}
		pause(ms(100))
		if err := pin.Out(periph.High); err != nil {
			t.Fatal(err)
		}
		pause(ms(100))
		if chip.Value("7") {
			t.Error("the line is high, it is active low")
		}
		if got := r.last(0); !got.Value.Bool() {
			t.Errorf("the point reads %v", got.Value)
		}
		if pin.Name() != "7" || pin.Number() != 7 || pin.String() != "a(7)" || pin.Halt() != nil || pin.PWM(periph.DutyHalf, 0) == nil {
			t.Errorf("%s: number %d", pin, pin.Number())
		}
		r.close()
		if err := pin.Out(periph.Low); err == nil {
			t.Error("drives a line that is not ours")
		}
	})
}

func TestSafe(t *testing.T) {
	lines := []firmwareconfig.GPIOLine{
		{ID: "siren", Line: "A", Kind: outputs, OnStart: firmwareconfig.OutputOn, OnStop: firmwareconfig.OutputOff},
		{ID: "door", Line: "B", Kind: outputs, OnStop: firmwareconfig.OutputOn, ActiveLow: true},
		{ID: "lamp", Line: "C", Kind: outputs, OnStop: firmwareconfig.OutputHold},
		{ID: "in", Line: "D", Kind: input},
		{ID: "reader", Kind: wiegand}, // mistakes elsewhere do not matter
		{ID: "horn", Line: "E", Kind: outputs, OnStop: firmwareconfig.OutputOff},
	}
	bubble(t, []string{"A", "B", "C", "D", "E"}, func(t *testing.T, chip *fakeChip) {
		for _, l := range chip.lines {
			l.out, l.driven = true, true
		}
		c := config(lines...)
		c.Clock, c.Host = chip.clock, chip
		chip.lines["A"].by = "linli siren"
		err := gpio.Safe(t.Context(), c)
		if err == nil || err.Error() != `output siren: line A: in use by "linli siren"` {
			t.Errorf("while the gateway runs: %v", err)
		}
		chip.lines["A"].by = ""
		if err := gpio.Safe(t.Context(), c); err != nil {
			t.Error(err)
		}
		for name, want := range map[string]bool{"A": false, "B": false, "C": true, "E": false} {
			if chip.Value(name) != want {
				t.Errorf("%s is %v", name, !want)
			}
		}
		if len(chip.lines["C"].history) > 0 || !chip.lines["D"].out {
			t.Error("touched what it should leave alone")
		}
		chip.lines["E"].driven, chip.lines["E"].stuck = true, true
		if err := gpio.Safe(t.Context(), c); err == nil || !strings.Contains(err.Error(), "output horn: wrote false") {
			t.Errorf("stuck: %v", err)
		}
		chip.Unplug()
		if err := gpio.Safe(t.Context(), c); err == nil || !strings.Contains(err.Error(), "no output was set: no GPIO chip") {
			t.Errorf("unplugged: %v", err)
		}
	})
}
