package main

import (
	"context"
	"testing"
	"time"

	"linli/internal/alert"
	"linli/internal/telemetry"
)

// TestFanInTellsTheEngineOfACloseByHand: closed by hand while the sensor is silent, the alert comes back as one that has
// to prove itself: the lane must be occupied for its dwell again.
func TestFanInTellsTheEngineOfACloseByHand(t *testing.T) {
	f, st := newTestFanIn(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { done <- st.book.Run(ctx) }()
	go func() { done <- f.run(ctx) }()
	defer func() {
		cancel()
		for range 2 {
			<-done
		}
	}()
	find := func(ok func(*alert.Alert) bool) func() bool {
		return func() bool {
			for _, a := range st.book.OpenAlerts() {
				if a.Alert == "FireLaneBlocked" && ok(&a) {
					return true
				}
			}
			return false
		}
	}
	occupied := func() {
		f.emit(ctx)([]telemetry.Sample{{Point: 0, Time: f.clock.Mono(), Value: telemetry.BoolValue(true)}})
	}
	var id string
	occupied()
	waitFor(t, 10*time.Second, "FireLaneBlocked", find(func(a *alert.Alert) bool { id = a.ID; return true }))
	f.emit(ctx)([]telemetry.Sample{{Point: 0, Time: f.clock.Mono(), Quality: telemetry.BadComm}})
	waitFor(t, 10*time.Second, "FireLaneBlocked is unknown", find(func(a *alert.Alert) bool { return a.Unknown }))
	if _, err := st.book.CloseByHand(ctx, id, "Wang", ""); err != nil {
		t.Fatal(err)
	}
	steps := f.stepped.Load()
	waitFor(t, 10*time.Second, "two more steps", func() bool { return f.stepped.Load() > steps+int64(1500*time.Millisecond) })
	if ids := st.book.TakeDoings(nil); ids != nil {
		t.Errorf("the fan-in left %v", ids)
	}
	again := f.clock.Mono()
	occupied()
	waitFor(t, 10*time.Second, "another FireLaneBlocked", find(func(a *alert.Alert) bool { return a.ID != id }))
	if took := f.clock.Mono().Sub(again); took < 900*time.Millisecond {
		t.Errorf("raised after %v, want the dwell of 1 s", took)
	}
}
