package gpio_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"linli/drivers"
	"linli/drivers/gpio"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// With the supervisor of all buses: edges are told at once, writes pass, and the end sets outputs to their on_stop.
func TestSupervised(t *testing.T) {
	bubble(t, []string{"A", "B"}, func(t *testing.T, chip *fakeChip) {
		c := config(
			firmwareconfig.GPIOLine{ID: "a", Line: "A", Kind: input},
			firmwareconfig.GPIOLine{ID: "b", Line: "B", Kind: outputs, OnStart: firmwareconfig.OutputOff, OnStop: firmwareconfig.OutputOn},
		)
		c.Clock, c.Host = chip.clock, chip
		bus, err := gpio.New(c)
		if err != nil {
			t.Fatal(err)
		}
		line := drivers.NewLine(bus)
		var mu sync.Mutex
		var told []telemetry.Sample
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			ended <- drivers.Supervise(ctx, chip.clock, line, func(s []telemetry.Sample) {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, slices.Clone(s)...)
			}, nil)
		}()
		pause(ms(100))
		chip.Set("A", true)
		synctest.Wait()
		mu.Lock()
		if last := told[len(told)-1]; last.Point != 0 || !last.Value.Bool() || last.Time != chip.clock.Mono() {
			t.Errorf("told %+v, want the edge at %v", last, chip.clock.Mono())
		}
		mu.Unlock()
		if err := line.Write(t.Context(), 1, yes); err != nil || !chip.Value("B") {
			t.Errorf("write: %v, line %v", err, chip.Value("B"))
		}
		if err := line.Write(t.Context(), 1, no); err != nil || chip.Value("B") {
			t.Errorf("write: %v, line %v", err, chip.Value("B"))
		}
		synctest.Wait()
		mu.Lock()
		if last := told[len(told)-1]; last.Point != 1 || last.Value.Bool() {
			t.Errorf("told %+v, want the output off", last)
		}
		mu.Unlock()
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if !chip.Value("B") {
			t.Error("on_stop was not set")
		}
	})
}

// BenchmarkEdge is one edge from the kernel's queue to a Step that has dealt with it, on a chip of 64 lines, each edge
// alone. Its limit is one core kept busy by one line in a storm, of which the driver fetches 64 edges per 5 ms at most.
func BenchmarkEdge(b *testing.B) {
	const limit = 5 * time.Millisecond / 64
	var lines []firmwareconfig.GPIOLine
	var names []string
	for i := range 64 {
		name := "L" + string(rune('A'+i))
		names = append(names, name)
		lines = append(lines, firmwareconfig.GPIOLine{ID: name, Line: name, Kind: input})
	}
	chip := newFakeChip(newClock(), names...)
	c := config(lines...)
	c.Clock, c.Host = chip.clock, chip
	bus, err := gpio.New(c)
	if err != nil {
		b.Fatal(err)
	}
	defer bus.Close()
	samples, _ := bus.Step(b.Context(), chip.clock.Mono(), nil)
	b.ReportAllocs()
	level := false
	for i := 0; b.Loop(); i++ {
		if i%len(names) == 0 {
			level = !level
		}
		chip.Set(names[i%len(names)], level)
		<-bus.Wake()
		samples, _ = bus.Step(b.Context(), chip.clock.Mono(), samples[:0])
	}
	b.ReportMetric(float64(b.Elapsed())/float64(b.N)/float64(limit)*100, "%limit")
}
