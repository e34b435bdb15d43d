package main

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"linli/internal/telemetry"
)

// The journal tells when no gateway ran, whether it was stopped in good order or not.
func TestStateIdleTimes(t *testing.T) {
	p := smallPlan(t)
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		run := func(mono telemetry.Mono, boot string, d time.Duration) []idleTime {
			clock := telemetry.NewClock(boot, mono, time.Unix(1, 0))
			st, err := openStores(dir, p.site, clock, zap.NewNop())
			if err != nil {
				t.Fatal(err)
			}
			idle := idleTimes(st.journal, clock.Now())
			beginRules(st, p, clock, zap.NewNop())
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- st.journal.Run(ctx) }()
			for range int(d / time.Second) {
				settled(time.Second)
				st.journal.Append(clock.Now(), nil)
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			st.journal.Close()
			st.book.Close()
			st.unlock()
			return idle
		}
		near := func(idle []idleTime, want ...time.Duration) {
			t.Helper()
			ok := len(idle) == len(want)
			for i := 0; ok && i < len(want); i++ {
				ok = (idle[i].to.Sub(idle[i].from) - want[i]).Abs() < 15*time.Second
			}
			if !ok {
				t.Errorf("idle: %v, want %v", idle, want)
			}
		}
		near(run(0, "a", time.Minute))
		time.Sleep(8 * time.Hour)
		near(run(0, "b", time.Minute), 8*time.Hour)
		time.Sleep(time.Hour)
		near(run(0, "c", time.Minute), 8*time.Hour, time.Hour)
	})
}
