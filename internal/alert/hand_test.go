package alert_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"linli/internal/alert"
	"linli/internal/telemetry"
)

// The disk hangs when the book is to be closed: Close gives up, and the next start does not count on the mark.
func TestCloseIsBounded(t *testing.T) {
	t.Parallel()
	for name, early := range map[string]bool{"after Run gave up": true, "after Run ended well": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := alert.NewMemDisk()
				b, err := alert.OpenOn(alert.Config{}, inventory(), d)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- b.Run(ctx) }()
				b.Submit(at(0), []telemetry.Transition{smoke(telemetry.Raise, 0)})
				synctest.Wait()
				hang := func() error { time.Sleep(time.Minute); return errDisk }
				if early {
					d.SetFault(hang)
					o := b.Pending("mqtt", 1)[0]
					b.Told("mqtt", o.Alert.ID, o.Seq)
					sleep(1500 * time.Millisecond) // The transaction that deletes its row hangs.
				}
				cancel()
				if err := <-done; (err != nil) != early {
					t.Fatalf("Run: %v", err)
				}
				d.SetFault(hang)
				start := time.Now()
				if err := b.Close(); (err == nil) != early {
					t.Errorf("Close: %v", err)
				}
				if took := time.Since(start); took > 5*time.Second {
					t.Errorf("Close took %v", took)
				}
				sleep(2 * time.Minute)
				d.SetFault(nil)
				again, err := alert.OpenOn(alert.Config{}, inventory(), d)
				if err != nil {
					t.Fatal(err)
				}
				if got := again.Pending("mqtt", 10); len(got) != 1 || got[0].What != "raised" {
					t.Errorf("to be told after that: %+v", got)
				}
			})
		})
	}
}

// with gives a transition its condition.
func with(tr telemetry.Transition, c telemetry.Condition) telemetry.Transition {
	tr.Condition = c
	return tr
}

// Closed by hand while silent: only a condition that is true raises a new alert.
func TestClosedByHandThenHeardOf(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tr   telemetry.Transition
		want string
	}{
		"known, false":       {with(smoke(telemetry.Known, time.Minute), telemetry.ConditionFalse), ""},
		"known, unknown":     {smoke(telemetry.Known, time.Minute), ""},
		"changed, unknown":   {with(smoke(telemetry.Changed, time.Minute), telemetry.ConditionUnknown), ""},
		"changed, false":     {with(smoke(telemetry.Changed, time.Minute), telemetry.ConditionFalse), ""},
		"unknown":            {smoke(telemetry.Unknown, time.Minute), ""},
		"clear":              {with(smoke(telemetry.Clear, time.Minute), telemetry.ConditionFalse), ""},
		"known, true":        {with(smoke(telemetry.Known, time.Minute), telemetry.ConditionTrue), "SmokeDetected active_unacknowledged 1 durable"},
		"changed, true":      {with(smoke(telemetry.Changed, time.Minute), telemetry.ConditionTrue), "SmokeDetected active_unacknowledged 1 durable"},
		"raised in the race": {with(smoke(telemetry.Raise, time.Minute), telemetry.ConditionTrue), "SmokeDetected active_unacknowledged 1 durable"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onMem(t, func(t *testing.T, b *alert.Book, _ *alert.MemDisk) {
				b.Submit(at(0), []telemetry.Transition{smoke(telemetry.Raise, 0), smoke(telemetry.Unknown, 0)})
				synctest.Wait()
				if ids := b.TakeClosedByHand(); ids != nil {
					t.Errorf("closed by hand before anything was: %v", ids)
				}
				if _, err := b.CloseByHand(t.Context(), b.OpenAlerts()[0].ID, "Wang", ""); err != nil {
					t.Fatal(err)
				}
				b.Submit(at(time.Minute), []telemetry.Transition{c.tr})
				synctest.Wait()
				if got := shown(b); got != c.want {
					t.Errorf("got %q, want %q", got, c.want)
				}
				// The engine must agree with the book: it hears of the close unless there is a new alert.
				if ids := b.TakeClosedByHand(); (len(ids) == 1 && ids[0] == smokeAlarm) != (c.want == "") {
					t.Errorf("closed by hand: %v", ids)
				}
				if ids := b.TakeClosedByHand(); ids != nil {
					t.Errorf("taken twice: %v", ids)
				}
			})
		})
	}
}

// The engine knows that an alert has returned, so closing that is no news to it.
func TestClosingAReturnedAlertIsNoNews(t *testing.T) {
	t.Parallel()
	onMem(t, func(t *testing.T, b *alert.Book, _ *alert.MemDisk) {
		b.Submit(at(0), []telemetry.Transition{smoke(telemetry.Raise, 0), lane(telemetry.Raise, 0), smoke(telemetry.Clear, 0)})
		synctest.Wait()
		for _, a := range b.OpenAlerts() {
			if _, err := b.CloseByHand(t.Context(), a.ID, "Wang", ""); err != nil && !errors.Is(err, alert.ErrStillActive) {
				t.Fatal(err)
			}
		}
		if ids := b.TakeClosedByHand(); ids != nil {
			t.Errorf("got %v", ids)
		}
	})
}
