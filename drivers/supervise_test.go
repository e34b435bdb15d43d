package drivers_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"linli/drivers"
	"linli/internal/telemetry"
)

// fakeBus takes a while over each transaction and asks to be called every second.
type fakeBus struct {
	mu     sync.Mutex
	health drivers.BusHealth

	takes   time.Duration
	every   time.Duration
	running int // calls at the moment: never more than one
	overlap bool
	steps   []telemetry.Mono
	writes  []telemetry.Value
	closed  int
	write   func(ctx context.Context) error
}

func (b *fakeBus) enter() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.running++
	b.overlap = b.overlap || b.running > 1
}

func (b *fakeBus) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.running--
}

func (b *fakeBus) Step(ctx context.Context, now telemetry.Mono, dst []telemetry.Sample) ([]telemetry.Sample, telemetry.Mono) {
	b.enter()
	defer b.leave()
	b.steps = append(b.steps, now)
	select {
	case <-time.After(b.takes):
	case <-ctx.Done():
		return dst, telemetry.Never
	}
	return append(dst, telemetry.Sample{Point: telemetry.PointID(len(b.steps)), Time: now}), now.Add(b.every)
}

func (b *fakeBus) Health() drivers.BusHealth {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.health
}

func (b *fakeBus) Close() error { b.closed++; return nil }

func (b *fakeBus) Write(ctx context.Context, _ telemetry.PointID, v telemetry.Value) error {
	b.enter()
	defer b.leave()
	b.writes = append(b.writes, v)
	if b.write != nil {
		return b.write(ctx)
	}
	return nil
}

func (b *fakeBus) set(f func(h *drivers.BusHealth)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(&b.health)
}

// readOnly hides Write.
type readOnly struct{ drivers.Bus }

func supervised(t *testing.T, bus drivers.Bus, log *zap.Logger) (emitted func() int, end func()) {
	ctx, cancel := context.WithCancel(t.Context())
	clock := telemetry.NewClock("test", 0, time.Time{})
	var n int
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := drivers.Supervise(ctx, clock, bus, func(s []telemetry.Sample) { n += len(s) }, log); err != nil {
			t.Error(err)
		}
	}()
	return func() int { synctest.Wait(); return n }, func() { cancel(); <-done }
}

func TestSuperviseStepsWhenDueAndEndsOnCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &fakeBus{takes: 100 * time.Millisecond, every: time.Second}
		emitted, end := supervised(t, b, nil)
		time.Sleep(10*time.Second + 50*time.Millisecond) // in the middle of a transaction
		if n := emitted(); n != 10 {
			t.Errorf("%d samples in 10 s, want 10", n)
		}
		start := time.Now()
		end()
		if d := time.Since(start); d != 0 {
			t.Errorf("cancel took %v", d)
		}
		if b.closed != 1 {
			t.Errorf("bus closed %d times", b.closed)
		}
	})
}

func TestWriteOvertakesReadsAndNeverOverlaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &fakeBus{takes: 100 * time.Millisecond, every: 0} // always busy
		line := drivers.NewLine(b)
		_, end := supervised(t, line, nil)
		time.Sleep(20 * time.Millisecond)
		start := time.Now()
		if err := line.Write(t.Context(), 1, telemetry.BoolValue(true)); err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d != 80*time.Millisecond {
			t.Errorf("write done after %v, want right after the transaction in flight (80 ms)", d)
		}
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				if err := line.Write(t.Context(), 1, telemetry.IntValue(int64(i))); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		end()
		if b.overlap || len(b.writes) != 21 {
			t.Errorf("overlap %v, %d writes", b.overlap, len(b.writes))
		}
	})
}

func TestWriteWakesASleepingBus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &fakeBus{every: time.Hour}
		line := drivers.NewLine(b)
		_, end := supervised(t, line, nil)
		time.Sleep(time.Minute)
		start := time.Now()
		if err := line.Write(t.Context(), 1, telemetry.BoolValue(true)); err != nil || time.Since(start) != 0 {
			t.Errorf("write took %v, %v", time.Since(start), err)
		}
		synctest.Wait() // The step after it may still be to come.
		end()
		if len(b.steps) != 2 {
			t.Errorf("%d steps, want one before the write and one after", len(b.steps))
		}
	})
}

func TestWriteErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &fakeBus{takes: time.Second}
		line := drivers.NewLine(b)
		_, end := supervised(t, line, nil)
		synctest.Wait()

		// Given up before it was begun: nothing is sent.
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if err := line.Write(ctx, 1, telemetry.BoolValue(true)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		cancel()

		// Given up in the middle: the bus's word counts.
		b.write = func(ctx context.Context) error {
			<-ctx.Done()
			return &drivers.OutcomeUnknownError{Err: ctx.Err()}
		}
		ctx, cancel = context.WithTimeout(t.Context(), 5*time.Second)
		var unknown *drivers.OutcomeUnknownError
		if err := line.Write(ctx, 2, telemetry.BoolValue(true)); !errors.As(err, &unknown) {
			t.Errorf("got %v", err)
		}
		cancel()
		if len(b.writes) != 1 {
			t.Errorf("%d writes reached the bus, want the second alone", len(b.writes))
		}

		// More than the queue holds: refused, counted, not waited for.
		b.write = nil
		synctest.Wait()
		errs := make(chan error, 200)
		for range 200 {
			go func() { errs <- line.Write(t.Context(), 3, telemetry.BoolValue(true)) }()
		}
		refused := 0
		for range 200 {
			if err := <-errs; errors.Is(err, drivers.ErrBusy) {
				refused++
			} else if err != nil {
				t.Error(err)
			}
		}
		if refused == 0 || uint64(refused) != line.Refused() || len(b.writes)+refused != 201 {
			t.Errorf("%d refused, %d counted, %d written", refused, line.Refused(), len(b.writes))
		}
		end()
		if err := line.Write(t.Context(), 1, telemetry.BoolValue(true)); !errors.Is(err, drivers.ErrClosed) {
			t.Errorf("after the end: %v", err)
		}

		ro := drivers.NewLine(readOnly{&fakeBus{every: time.Second}})
		_, end = supervised(t, ro, nil)
		if err := ro.Write(t.Context(), 1, telemetry.BoolValue(true)); !errors.Is(err, drivers.ErrNotWritable) {
			t.Errorf("read-only bus: %v", err)
		}
		end()
	})
}

func TestWaitingWritesFailWhenTheBusEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &fakeBus{takes: time.Hour}
		line := drivers.NewLine(b)
		_, end := supervised(t, line, nil)
		synctest.Wait()
		errs := make(chan error, 1)
		go func() { errs <- line.Write(context.WithoutCancel(t.Context()), 1, telemetry.BoolValue(true)) }()
		synctest.Wait()
		end()
		if err := <-errs; !errors.Is(err, drivers.ErrClosed) {
			t.Errorf("got %v", err)
		}
		if len(b.writes) != 0 {
			t.Error("the write was carried out after the end")
		}
	})
}

func TestLogsChangesOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.DebugLevel)
		b := &fakeBus{every: 100 * time.Millisecond, health: drivers.BusHealth{Bus: "b", Up: true, Units: []drivers.UnitHealth{{Unit: "u", Address: 7}}}}
		_, end := supervised(t, b, zap.New(core))
		unit := func(f func(u *drivers.UnitHealth)) {
			b.set(func(h *drivers.BusHealth) { h.Units = []drivers.UnitHealth{h.Units[0]}; f(&h.Units[0]) })
		}
		time.Sleep(5 * time.Second)
		unit(func(u *drivers.UnitHealth) { u.Online, u.Answers = true, 1 })
		time.Sleep(5 * time.Second)
		if n := logs.Len(); n != 0 {
			t.Fatalf("%d lines though nothing happened: %v", n, logs.All())
		}
		unit(func(u *drivers.UnitHealth) { u.Online, u.Timeouts, u.LastError = false, 2, "no answer" })
		time.Sleep(5 * time.Second)
		unit(func(u *drivers.UnitHealth) { u.Timeouts = 9 })
		time.Sleep(55 * time.Second)
		unit(func(u *drivers.UnitHealth) { u.Online, u.LastError = true, "" })
		time.Sleep(5 * time.Second)
		b.set(func(h *drivers.BusHealth) { h.Up, h.LastError = false, "gone" })
		unit(func(u *drivers.UnitHealth) { u.Online, u.LastError = false, "gone" })
		time.Sleep(5 * time.Second)
		b.set(func(h *drivers.BusHealth) { h.Up, h.LastError = true, "" })
		unit(func(u *drivers.UnitHealth) { u.Online, u.LastError = true, "" })
		time.Sleep(5 * time.Second)
		end()
		var got []string
		for _, e := range logs.All() {
			got = append(got, e.Message)
			if e.Message == "unit online" {
				m := e.ContextMap()
				if m["attempts"] != uint64(9) || m["after"].(time.Duration) < 59*time.Second {
					t.Errorf("unit online says %v", m)
				}
			}
		}
		want := []string{"unit offline", "unit online", "bus down", "bus up"}
		if len(got) != len(want) {
			t.Fatalf("logged %q, want %q", got, want)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("logged %q, want %q", got, want)
			}
		}
	})
}
