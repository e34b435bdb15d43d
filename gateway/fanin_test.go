package main

import (
	"context"
	"fmt"
	"testing"
	"time"

	"go.uber.org/zap"

	"linli/internal/live"
	"linli/internal/telemetry"
)

// newTestFanIn returns a fan-in for the fire-lane site, whose point 0 is lane_1.occupied.
func newTestFanIn(t *testing.T) (*fanIn, *stores) {
	t.Helper()
	p, err := resolvePlan("site.yaml", fmt.Appendf(nil, fireLaneSite, 8080, "127.0.0.1:1883"), nil)
	if err != nil {
		t.Fatal(err)
	}
	clock := newClock()
	st, err := openStores(t.TempDir(), p.site, clock, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		st.journal.Close()
		st.book.Close()
		st.unlock()
	})
	return newFanIn(clock, live.New(len(p.site.Inventory.Points)), p.engine, st.book, st.journal, newDrive(p.site, nil, "", zap.NewNop()), newReporter(p.site.Inventory, p.site.Report.MaxInterval), zap.NewNop()), st
}

// TestFanInTakesEverythingBeforeItStops: the buses have stopped; what they handed over still reaches the live table, the
// engine and the journal.
func TestFanInTakesEverythingBeforeItStops(t *testing.T) {
	f, st := newTestFanIn(t)
	before := st.journal.Stats().Pending
	emit := f.emit(t.Context())
	buffer := make([]telemetry.Sample, 1)
	for i := range 100 {
		buffer[0] = telemetry.Sample{Point: 0, Time: f.clock.Mono(), Value: telemetry.BoolValue(i%2 == 1)}
		emit(buffer) // The bus uses its buffer again: the fan-in must have copied.
	}
	buffer[0].Value = telemetry.Value{}
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.run(stopped); err != nil {
		t.Fatal(err)
	}
	if got := f.samples.Load(); got != 100 {
		t.Errorf("%d samples were taken, want 100", got)
	}
	if got := st.journal.Stats().Pending - before; got < 100 {
		t.Errorf("%d samples wait in the journal, want at least 100", got)
	}
	if e := f.live.Get(0); !e.Known || !e.Value.Bool() {
		t.Errorf("the live table has %+v, want the last value, true", e)
	}
}

// TestFanInStepsTimersWithoutSamples: an alert that is only waiting for its time comes without a further sample.
func TestFanInStepsTimersWithoutSamples(t *testing.T) {
	f, st := newTestFanIn(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { done <- st.book.Run(ctx) }()
	go func() { done <- f.run(ctx) }()
	defer func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	}()
	f.emit(ctx)([]telemetry.Sample{{Point: 0, Time: f.clock.Mono(), Value: telemetry.BoolValue(true)}})
	waitFor(t, 10*time.Second, "FireLaneBlocked after its dwell of 1 s, from one sample", func() bool {
		for _, a := range st.book.OpenAlerts() {
			if a.Alert == "FireLaneBlocked" {
				return true
			}
		}
		return false
	})
}

// TestFanInDoesNotHoldABusThatStops: a bus that is being stopped gets out of a full queue.
func TestFanInDoesNotHoldABusThatStops(t *testing.T) {
	f, _ := newTestFanIn(t)
	ctx, cancel := context.WithCancel(t.Context())
	emit := f.emit(ctx)
	sample := []telemetry.Sample{{Point: 0, Time: f.clock.Mono(), Value: telemetry.BoolValue(true)}}
	for range fanInBatches {
		emit(sample)
	}
	stopped := make(chan struct{})
	go func() {
		emit(sample) // The queue is full and nobody takes.
		close(stopped)
	}()
	cancel()
	select {
	case <-stopped:
	case <-time.After(10 * time.Second):
		t.Error("the bus still waits")
	}
}

// TestFanInMoments: each step is later than the one before, in whole microseconds, and the wall clock stands still against
// monotonic time until it is off by more than a millisecond.
func TestFanInMoments(t *testing.T) {
	wall := time.Date(2026, 5, 4, 12, 0, 0, 123_456_789, time.UTC) // at mono 0
	var reading telemetry.Now
	f := &fanIn{read: func() telemetry.Now { return reading }}
	for i, c := range []struct {
		mono      telemetry.Mono
		off       time.Duration // of the wall clock
		uncertain bool
		want      telemetry.Mono
		wantOff   time.Duration // of the step's wall clock, against wall in whole microseconds
	}{
		{mono: 1_000_001, want: 1_001_000},
		{mono: 1_000_001, want: 1_002_000},                                                                                            // the clock has not moved on
		{mono: 1_500_000, off: 900 * time.Microsecond, want: 1_500_000},                                                               // it drifts
		{mono: 1_500_001, off: -900 * time.Microsecond, want: 1_501_000},                                                              //
		{mono: 2_000_000, off: 1100 * time.Microsecond, want: 2_000_000, wantOff: 1100 * time.Microsecond},                            // too far
		{mono: 3_000_000, off: 200 * time.Microsecond, want: 3_000_000, wantOff: 1100 * time.Microsecond},                             // stands again
		{mono: 4_000_000, off: -time.Hour, want: 4_000_000, wantOff: -time.Hour},                                                      // it was set
		{mono: 5_000_000, off: time.Microsecond - time.Hour, uncertain: true, want: 5_000_000, wantOff: time.Microsecond - time.Hour}, // nobody vouches for it any more
	} {
		reading = telemetry.Now{Mono: c.mono, Wall: wall.Add(time.Duration(c.mono) + c.off), Uncertain: c.uncertain}
		got := f.moment()
		wantWall := wall.Truncate(time.Microsecond).Add(c.wantOff + time.Duration(c.want))
		if got.Mono != c.want || !got.Wall.Equal(wantWall) || got.Uncertain != c.uncertain {
			t.Errorf("step %d: %+v, want %d, %v", i, got, c.want, wantWall)
		}
	}
	reading = telemetry.Now{Mono: 6_000_000}
	if got := f.moment(); got != (telemetry.Now{Mono: 6_000_000}) {
		t.Errorf("with an unset clock: %+v", got)
	}
}
