package drivers_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"linli/drivers"
	"linli/internal/telemetry"
)

// hostBus is a fakeBus that takes guests. With lifeEvery it has nothing but a life-safety read at that interval.
type hostBus struct {
	*fakeBus
	asks      []telemetry.Mono
	heard     []time.Duration
	suspended time.Duration
	askTakes  time.Duration
	free      telemetry.Mono // no unit may be asked before
	clock     *telemetry.Clock
	lifeDue   telemetry.Mono
	lifeEvery time.Duration
	lifeReads []telemetry.Mono
	wake      chan struct{}
}

func (b *hostBus) Step(ctx context.Context, now telemetry.Mono, dst []telemetry.Sample) ([]telemetry.Sample, telemetry.Mono) {
	if b.lifeEvery == 0 {
		return b.fakeBus.Step(ctx, now, dst)
	}
	if b.lifeDue <= now {
		b.lifeReads = append(b.lifeReads, now)
		b.lifeDue = now.Add(b.lifeEvery)
		dst, _ = b.fakeBus.Step(ctx, now, dst)
	}
	return dst, b.lifeDue
}

func (b *hostBus) Ask(ctx context.Context, unit byte, pdu []byte, timeout time.Duration) (drivers.Reply, error) {
	b.enter()
	defer b.leave()
	b.asks = append(b.asks, b.clock.Mono())
	select {
	case <-time.After(b.askTakes):
	case <-ctx.Done():
		return drivers.Reply{}, ctx.Err()
	}
	if unit == 99 {
		return drivers.Reply{Heard: []byte{1}}, errors.New("no answer")
	}
	return drivers.Reply{PDU: append([]byte{unit}, pdu...), Took: b.askTakes}, nil
}

func (b *hostBus) Hear(_ context.Context, d time.Duration) ([]byte, error) {
	b.enter()
	defer b.leave()
	b.heard = append(b.heard, d)
	time.Sleep(d)
	return []byte{byte(len(b.heard))}, nil
}

func (b *hostBus) Suspend(_ context.Context, d time.Duration, baud int, format string) error {
	b.suspended = d
	return nil
}

func (b *hostBus) Urgent(telemetry.Mono) (due, overdue telemetry.Mono) {
	if b.lifeEvery == 0 {
		return telemetry.Never, telemetry.Never
	}
	return b.lifeDue, b.lifeDue.Add(b.lifeEvery)
}

func (b *hostBus) Free(byte, telemetry.Mono) telemetry.Mono { return b.free }

func (b *hostBus) Wake() <-chan struct{} { return b.wake }

// host runs a bus under Supervise and returns the clock both use.
func host(t *testing.T, b *hostBus) (line *drivers.Line, end func()) {
	b.clock = telemetry.NewClock("test", 0, time.Time{})
	line = drivers.NewLine(b)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := drivers.Supervise(ctx, b.clock, line, func([]telemetry.Sample) {}, nil); err != nil {
			t.Error(err)
		}
	}()
	return line, func() { cancel(); <-done }
}

func TestAskGetsItsShareOfABusyLine(t *testing.T) {
	for _, c := range []struct {
		share float64
		want  time.Duration // between the beginnings of two
	}{
		// Requests of 40 ms; the bus's own transactions of 100 ms stand between.
		{0, 140 * time.Millisecond},
		{1, 140 * time.Millisecond},
		{0.2, 240 * time.Millisecond}, // 40 ms and 160 ms of others, up to the end of the transaction in flight
		{0.05, 840 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := &hostBus{fakeBus: &fakeBus{takes: 100 * time.Millisecond}, askTakes: 40 * time.Millisecond}
			line, end := host(t, b)
			for range 20 {
				r, err := line.Ask(t.Context(), 7, []byte{3}, 0, c.share)
				if err != nil || string(r.PDU) != "\x07\x03" {
					t.Fatalf("answer % x, %v", r.PDU, err)
				}
			}
			end()
			if b.overlap {
				t.Error("a request went beside another transaction")
			}
			for i := range b.asks[1:] {
				if d := b.asks[i+1].Sub(b.asks[i]); d != c.want {
					t.Fatalf("share %v: request %d came %v after the one before, want %v", c.share, i+1, d, c.want)
				}
			}
		})
	}
}

func TestAskWithAShareWaitsForLifeSafety(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Life-safety reads take nearly all of the line: one of 100 ms each 110 ms.
		b := &hostBus{fakeBus: &fakeBus{takes: 100 * time.Millisecond, every: time.Hour}, askTakes: 5 * time.Millisecond, lifeEvery: 110 * time.Millisecond}
		line, end := host(t, b)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		n := 0
		for ctx.Err() == nil {
			if _, err := line.Ask(ctx, 7, []byte{3}, 0, 0.5); err == nil {
				n++
			}
		}
		end()
		worst := time.Duration(0)
		for i := range b.lifeReads[1:] {
			worst = max(worst, b.lifeReads[i+1].Sub(b.lifeReads[i]))
		}
		if n == 0 || worst > 115*time.Millisecond {
			t.Errorf("%d requests; worst gap between life-safety reads %v", n, worst)
		}
	})
}

// A guest leaves a unit its pauses without keeping the line waiting for it.
func TestAskWaitsUntilTheUnitIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &hostBus{fakeBus: &fakeBus{takes: 10 * time.Millisecond}, free: telemetry.Mono(time.Second)}
		line, end := host(t, b)
		if _, err := line.Ask(t.Context(), 7, []byte{3}, 0, 0); err != nil {
			t.Error(err)
		}
		end()
		if at := b.asks[0]; at < telemetry.Mono(time.Second) || at > telemetry.Mono(1020*time.Millisecond) || len(b.steps) < 95 {
			t.Errorf("asked after %v, with %d steps meanwhile; want after 1 s with 100", time.Duration(at), len(b.steps))
		}
	})
}

func TestGuestsOfASleepingBus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &hostBus{fakeBus: &fakeBus{every: time.Hour}, askTakes: 10 * time.Millisecond, wake: make(chan struct{}, 1)}
		line, end := host(t, b)
		time.Sleep(time.Minute)
		start := time.Now()
		for range 3 { // 10 ms, then twice 90 ms of pause and 10 ms
			if _, err := line.Ask(t.Context(), 7, []byte{3}, 0, 0.1); err != nil {
				t.Error(err)
			}
		}
		if d := time.Since(start); d != 210*time.Millisecond {
			t.Errorf("three requests took %v, want 210 ms", d)
		}
		heard, err := line.Hear(t.Context(), 600*time.Millisecond)
		if string(heard) != "\x01\x02\x03" || err != nil {
			t.Errorf("heard % x, %v; want the three pieces in order", heard, err)
		}
		if err := line.Suspend(t.Context(), time.Minute, 0, ""); err != nil || b.suspended != time.Minute {
			t.Errorf("suspended for %v, %v", b.suspended, err)
		}
		if r, err := line.Ask(t.Context(), 99, []byte{3}, 0, 0); err == nil || len(r.Heard) != 1 {
			t.Errorf("silent unit: %v, heard % x; want what was heard with the error", err, r.Heard)
		}
		synctest.Wait()
		steps := len(b.steps)
		b.wake <- struct{}{}
		synctest.Wait()
		if n := len(b.steps) - steps; n != 1 {
			t.Errorf("%d steps after the bus woke its supervisor", n)
		}
		end()
	})
}

func TestGuestErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plain := drivers.NewLine(&fakeBus{})
		if _, err := plain.Ask(t.Context(), 1, nil, 0, 0); !errors.Is(err, drivers.ErrNotHost) {
			t.Errorf("a bus that is no host: %v", err)
		}
		if _, err := plain.Hear(t.Context(), time.Second); !errors.Is(err, drivers.ErrNotHost) {
			t.Errorf("a bus that is no host: %v", err)
		}
		b := &hostBus{fakeBus: &fakeBus{takes: time.Second}, askTakes: time.Minute}
		line, end := host(t, b)
		if _, err := line.Ask(t.Context(), 1, nil, 0, 1.5); err == nil {
			t.Error("one and a half lines were shared")
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := line.Ask(ctx, 1, nil, 0, 0)
		if synctest.Wait(); !errors.Is(err, context.DeadlineExceeded) || len(b.asks) != 0 {
			t.Errorf("given up before it was begun: %v, %d asked", err, len(b.asks))
		}
		time.Sleep(2 * time.Second)
		ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start := time.Now()
		_, err = line.Ask(ctx, 1, nil, 0, 0)
		if synctest.Wait(); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 10*time.Second || len(b.asks) != 1 {
			t.Errorf("given up in the middle: %v after %v, %d asked", err, time.Since(start), len(b.asks))
		}
		// The first is on the line; 64 wait, the rest are refused.
		errs := make(chan error, 100)
		for range 100 {
			go func() { _, err := line.Ask(t.Context(), 1, nil, 0, 0); errs <- err }()
		}
		synctest.Wait()
		if n := line.Refused(); n != 36 {
			t.Errorf("%d refused of 100, want 36", n)
		}
		end()
		closed, busy := 0, 0
		for range 100 {
			switch err := <-errs; {
			case errors.Is(err, drivers.ErrClosed):
				closed++
			case errors.Is(err, drivers.ErrBusy):
				busy++
			default:
				t.Error(err)
			}
		}
		if closed != 64 || busy != 36 {
			t.Errorf("%d closed, %d busy", closed, busy)
		}
		if _, err := line.Ask(t.Context(), 1, nil, 0, 0); !errors.Is(err, drivers.ErrClosed) {
			t.Errorf("after the end: %v", err)
		}
	})
}

// A flood of writes does not stop life-safety reads for longer than one of their intervals and one write.
func TestLifeSafetyReadsHaveTheirTurnBetweenWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &hostBus{fakeBus: &fakeBus{takes: 20 * time.Millisecond, every: time.Hour}, lifeEvery: time.Second}
		b.write = func(context.Context) error { time.Sleep(100 * time.Millisecond); return nil }
		line, end := host(t, b)
		var wg sync.WaitGroup
		for range 60 {
			wg.Go(func() {
				for range 3 {
					if err := line.Write(t.Context(), 1, telemetry.BoolValue(true)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		end()
		worst := time.Duration(0)
		for i := range b.lifeReads[1:] {
			worst = max(worst, b.lifeReads[i+1].Sub(b.lifeReads[i]))
		}
		t.Logf("180 writes of 100 ms: %d life-safety reads, at most %v apart", len(b.lifeReads), worst)
		if worst > 2200*time.Millisecond || len(b.lifeReads) < 9 {
			t.Errorf("%d life-safety reads, at most %v apart", len(b.lifeReads), worst)
		}
	})
}

// When the time of tools is over what they asked for does not run after the outputs were set for the stop.
func TestEndGuests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &hostBus{fakeBus: &fakeBus{takes: 100 * time.Millisecond}, askTakes: time.Second}
		line, end := host(t, b)
		begun := make(chan error, 1)
		go func() { _, err := line.Ask(t.Context(), 1, []byte{6, 0, 0, 0, 1}, 0, 0); begun <- err }()
		time.Sleep(500 * time.Millisecond)
		errs := make(chan error, 20)
		for i := range 20 {
			go func() {
				if i == 19 {
					_, err := line.Hear(t.Context(), time.Second)
					errs <- err
					return
				}
				_, err := line.Ask(t.Context(), 1, []byte{6, 0, 0, 0, 1}, 0, float64(i%2)/2)
				errs <- err
			}()
		}
		synctest.Wait()
		line.EndGuests()
		if err := line.Write(t.Context(), 1, telemetry.BoolValue(false)); err != nil {
			t.Errorf("a write after the tools: %v", err)
		}
		if err := <-begun; err != nil {
			t.Errorf("the request on its way: %v", err)
		}
		for range 20 {
			if err := <-errs; !errors.Is(err, drivers.ErrClosed) {
				t.Errorf("a request that waited: %v", err)
			}
		}
		if _, err := line.Ask(t.Context(), 1, []byte{3}, 0, 0); !errors.Is(err, drivers.ErrClosed) {
			t.Errorf("a later request: %v", err)
		}
		if err := line.Suspend(t.Context(), time.Minute, 0, ""); !errors.Is(err, drivers.ErrClosed) || b.suspended != 0 {
			t.Errorf("a later suspension: %v", err)
		}
		b.suspended = time.Minute
		if err := line.Suspend(t.Context(), 0, 0, ""); err != nil || b.suspended != 0 {
			t.Errorf("resuming: %v", err)
		}
		end()
		if len(b.asks) != 1 {
			t.Errorf("%d requests were carried out, want one", len(b.asks))
		}
	})
}

// Guests that wait for a unit's pause hear of the end at once, not after the pause.
func TestEndGuestsWakesASleepingBus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &hostBus{fakeBus: &fakeBus{every: time.Hour}, free: telemetry.Mono(time.Hour)}
		line, end := host(t, b)
		got := make(chan error, 1)
		go func() { _, err := line.Ask(t.Context(), 1, []byte{3}, 0, 0); got <- err }()
		time.Sleep(time.Second)
		start := time.Now()
		line.EndGuests()
		if err := <-got; !errors.Is(err, drivers.ErrClosed) || time.Since(start) > 0 {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		end()
	})
}

// Who gives up a request that is on the line, or loses the bus under it, does not know what became of it.
func TestAskThatChangesIsUnknownOnceBegun(t *testing.T) {
	for _, c := range []struct {
		pdu     []byte
		unknown bool
	}{
		{[]byte{6, 0, 0, 0, 1}, true}, {[]byte{5, 0, 0, 0xFF, 0}, true}, {[]byte{0x41}, true}, {[]byte{8, 0, 1, 0, 0}, true},
		{[]byte{3, 0, 0, 0, 1}, false}, {[]byte{8, 0, 0, 1, 2}, false}, {[]byte{43, 14, 1, 0}, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := &hostBus{fakeBus: &fakeBus{takes: 10 * time.Millisecond}, askTakes: time.Minute}
			line, end := host(t, b)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := line.Ask(ctx, 1, c.pdu, 0, 0)
			if got := errors.As(err, new(*drivers.OutcomeUnknownError)); got != c.unknown || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("% x given up: %v", c.pdu, err)
			}
			end()
		})
	}
}
