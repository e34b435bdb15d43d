package alert_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"linli/internal/alert"
	"linli/internal/telemetry"
)

var errDisk = errors.New("input/output error")

// onMem runs f in a bubble with a running book on a disk in memory.
func onMem(t *testing.T, f func(t *testing.T, b *alert.Book, d *alert.MemDisk)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d := alert.NewMemDisk()
		b, err := alert.OpenOn(alert.Config{}, inventory(), d)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.Run(ctx) }()
		f(t, b, d)
		d.SetFault(nil)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// shown describes what is announced: alert, state, revision and whether it is durable.
func shown(b *alert.Book) string {
	var s []string
	for _, a := range b.OpenAlerts() {
		d := "durable"
		if !a.Durable {
			d = "not durable"
		}
		s = append(s, fmt.Sprintf("%s %s %d %s", a.Alert, a.State, a.Revision, d))
	}
	return strings.Join(s, "; ")
}

func sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestCommitHangs(t *testing.T) {
	t.Parallel()
	onMem(t, func(t *testing.T, b *alert.Book, d *alert.MemDisk) {
		d.SetFault(func() error { time.Sleep(30 * time.Second); return nil })
		changed := b.Changed()
		b.Submit(at(0), []telemetry.Transition{smoke(telemetry.Raise, 0)})
		sleep(199 * time.Millisecond)
		if got := shown(b); got != "" {
			t.Errorf("announced before the limit: %s", got)
		}
		sleep(time.Millisecond)
		if got := shown(b); got != "SmokeDetected active_unacknowledged 1 not durable" {
			t.Errorf("at the limit: got %q", got)
		}
		select {
		case <-changed:
		default:
			t.Error("Changed did not fire")
		}
		first := b.Pending("mqtt", 10)
		if len(first) != 1 || first[0].Alert.Durable {
			t.Fatalf("pending: %+v", first)
		}
		b.Told("mqtt", first[0].Alert.ID, first[0].Seq)

		// What comes while the commit hangs is announced in time as well.
		sleep(time.Second)
		start := time.Now()
		a, err := b.Acknowledge(t.Context(), first[0].Alert.ID, "Wang", "")
		if err != nil || a.State != alert.ActiveAcknowledged || a.Durable || time.Since(start) != 200*time.Millisecond {
			t.Errorf("acknowledged while the disk hangs: %+v, %v, after %v", a, err, time.Since(start))
		}
		synctest.Wait()
		if got := shown(b); got != "SmokeDetected active_acknowledged 2 not durable" {
			t.Errorf("acknowledged: got %q", got)
		}

		// The first commit comes back with revision 1 and must not take the acknowledgement off the screen.
		sleep(29 * time.Second)
		if got := shown(b); got != "SmokeDetected active_acknowledged 2 not durable" {
			t.Errorf("after the first commit: got %q", got)
		}
		sleep(30 * time.Second)
		if got := shown(b); got != "SmokeDetected active_acknowledged 2 durable" {
			t.Errorf("after the second commit: got %q", got)
		}
		last := b.Pending("mqtt", 10)
		if len(last) != 1 || !last[0].Alert.Durable || last[0].What != "acknowledged" || last[0].Seq <= first[0].Seq {
			t.Errorf("announced again as durable: %+v", last)
		}
		if s := b.Stats(); s.SlowCommits != 2 || s.Commits != 2 || s.CommitFailures != 0 || s.Waiting != 0 {
			t.Errorf("stats: %+v", s)
		}
	})
}

func TestCommitFails(t *testing.T) {
	t.Parallel()
	onMem(t, func(t *testing.T, b *alert.Book, d *alert.MemDisk) {
		d.SetFault(func() error { return errDisk })
		b.Submit(at(0), []telemetry.Transition{smoke(telemetry.Raise, 0)})
		synctest.Wait()
		if got := shown(b); got != "SmokeDetected active_unacknowledged 1 not durable" {
			t.Errorf("a failed commit is announced at once: got %q", got)
		}
		sleep(time.Second)
		b.Submit(at(time.Second), []telemetry.Transition{lane(telemetry.Raise, time.Second), smoke(telemetry.Unknown, time.Second)})
		sleep(200 * time.Millisecond)
		if got := shown(b); got != "SmokeDetected active_unacknowledged 2 not durable; FireLaneBlocked active_unacknowledged 1 not durable" {
			t.Errorf("while the disk fails: got %q", got)
		}
		if s := b.Stats(); s.Waiting != 2 || s.CommitFailures < 3 {
			t.Errorf("stats while the disk fails: %+v", s)
		}
		failures := b.Stats().CommitFailures
		sleep(10 * time.Minute)
		if n := b.Stats().CommitFailures - failures; n < 100 || n > 140 {
			t.Errorf("%d attempts in ten minutes, want one in five seconds", n)
		}
		d.SetFault(nil)
		sleep(5 * time.Second)
		if got := shown(b); got != "SmokeDetected active_unacknowledged 2 durable; FireLaneBlocked active_unacknowledged 1 durable" {
			t.Errorf("after the disk healed: got %q", got)
		}
		// In order: what was decided first is on the disk first.
		var order []string
		for _, a := range d.Log() {
			order = append(order, fmt.Sprint(a.Alert, a.Revision))
		}
		if want := []string{"SmokeDetected2", "FireLaneBlocked1"}; !slices.Equal(order, want) {
			t.Errorf("committed %v, want %v", order, want)
		}
		_, entries, err := b.Get(b.OpenAlerts()[0].ID)
		if err != nil || whats(entries) != "raised unknown" {
			t.Errorf("history: %+v, %v", entries, err)
		}
		if s := b.Stats(); s.Waiting != 0 {
			t.Errorf("stats after: %+v", s)
		}
	})
}

// Raise to close of one alert while nobody can be told ends in one message, the final one, and leaves nothing behind.
func TestWholeLifeDuringAnOutage(t *testing.T) {
	t.Parallel()
	onMem(t, func(t *testing.T, b *alert.Book, d *alert.MemDisk) {
		b.Submit(at(0), []telemetry.Transition{lane(telemetry.Raise, 0)})
		synctest.Wait()
		early := b.Pending("mqtt", 1)[0]
		id := early.Alert.ID
		b.Submit(at(time.Second), []telemetry.Transition{lane(telemetry.Clear, time.Second)})
		synctest.Wait()
		if _, err := b.Acknowledge(t.Context(), id, "Wang", ""); err != nil {
			t.Fatal(err)
		}
		b.Told("mqtt", id, early.Seq) // The first publication arrives late: it says nothing about the newer ones.
		sleep(time.Minute)
		got := b.Pending("mqtt", 10)
		if len(got) != 1 || got[0].What != "closed" || got[0].Alert.State != alert.Closed || got[0].Alert.Revision != 4 {
			t.Fatalf("pending: %+v", got)
		}
		b.Told("mqtt", id, got[0].Seq)
		sleep(2 * time.Second)
		again, err := alert.OpenOn(alert.Config{}, inventory(), d)
		if err != nil {
			t.Fatal(err)
		}
		if got := again.Pending("mqtt", 10); len(got) != 0 {
			t.Errorf("told, yet listed after a restart: %+v", got)
		}
		if got, err := again.Recent(1); err != nil || len(got) != 1 || got[0].ID != id {
			t.Errorf("recent after a restart: %+v, %v", got, err)
		}
	})
}

// An alert flapping for a day on a dead disk takes no more memory than its newest history.
func TestDeadDiskIsBounded(t *testing.T) {
	t.Parallel()
	onMem(t, func(t *testing.T, b *alert.Book, d *alert.MemDisk) {
		d.SetFault(func() error { return errDisk })
		for i := range 1000 {
			n := time.Duration(i) * time.Second
			b.Submit(at(n), []telemetry.Transition{lane(telemetry.Raise, n), lane(telemetry.Clear, n)})
		}
		sleep(time.Second)
		id := b.OpenAlerts()[0].ID
		_, entries, err := b.Get(id)
		if err != nil || len(entries) != 256 || entries[0].Revision != 1 || entries[1].Revision != 2000-254 || entries[255].Revision != 2000 {
			t.Errorf("history: %d lines, %v", len(entries), err)
		}
		if s := b.Stats(); s.HistoryDropped != 2000-256 || s.Waiting != 1 || s.Outbox["mqtt"] != 1 {
			t.Errorf("stats: %+v", s)
		}

		// Closed alerts that never reached the disk, each of another identity, give way after 4,096.
		for i := range 6000 {
			tr := smoke(telemetry.Raise, 0)
			tr.Subject = fmt.Sprint(i)
			b.Submit(at(0), []telemetry.Transition{tr})
			b.Remove(at(0), []telemetry.Identity{tr.Identity})
			if i%500 == 0 {
				sleep(time.Second)
			}
		}
		sleep(time.Second)
		if s := b.Stats(); s.Waiting > 4096+600 || s.WaitingDropped == 0 || s.Waiting+int(s.WaitingDropped) != 6001 {
			t.Errorf("stats: %+v", s)
		}
		if got := shown(b); got != "FireLaneBlocked returned_unacknowledged 2000 not durable" {
			t.Errorf("the open alert gave way to closed ones: %q", got)
		}
		d.SetFault(nil)
		sleep(time.Minute)
		if s := b.Stats(); s.Waiting != 0 {
			t.Errorf("stats after the disk healed: %+v", s)
		}
	})
}

func TestOutboxIsBounded(t *testing.T) {
	t.Parallel()
	onMem(t, func(t *testing.T, b *alert.Book, _ *alert.MemDisk) {
		b.Submit(at(0), []telemetry.Transition{lane(telemetry.Raise, 0)})
		for i := range 10_020 {
			tr := smoke(telemetry.Raise, 0)
			tr.Subject = fmt.Sprint(i)
			b.Submit(at(0), []telemetry.Transition{tr})
			b.Remove(at(0), []telemetry.Identity{tr.Identity})
			if i%1000 == 0 {
				synctest.Wait()
			}
		}
		sleep(time.Second)
		if s := b.Stats(); s.OutboxDropped != 20 || s.Outbox["mqtt"] != 10_001 {
			t.Errorf("stats: %+v", s)
		}
	})
}

func TestStopping(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault func() error
		want  error
		takes time.Duration
	}{
		"sound":        {nil, nil, 0},
		"slow":         {func() error { time.Sleep(3 * time.Second); return nil }, nil, 3 * time.Second},
		"fails":        {func() error { return errDisk }, errDisk, 4 * time.Second},
		"hangs":        {func() error { time.Sleep(time.Minute); return nil }, errors.New("hangs"), 4 * time.Second},
		"fails at 1st": {failTimes(1), nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := alert.NewMemDisk()
				b, err := alert.OpenOn(alert.Config{}, inventory(), d)
				if err != nil {
					t.Fatal(err)
				}
				d.SetFault(c.fault)
				b.Submit(at(0), []telemetry.Transition{lane(telemetry.Raise, 0)})
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				start := time.Now()
				err = b.Run(ctx)
				if (err == nil) != (c.want == nil) || err != nil && !strings.Contains(err.Error(), c.want.Error()) {
					t.Errorf("got %v, want %v", err, c.want)
				}
				if took := time.Since(start); took < c.takes || took > c.takes+time.Second {
					t.Errorf("took %v, want %v", took, c.takes)
				}
				defer sleep(time.Minute) // Let the hanging commit come back.
				if got := len(d.Log()); (got == 1) != (c.want == nil) {
					t.Errorf("%d alerts on disk", got)
				}
			})
		})
	}
}

func failTimes(n int) func() error {
	return func() error {
		if n--; n >= 0 {
			return errDisk
		}
		return nil
	}
}

// A request that is given up does not wait, and its acknowledgement holds.
func TestAcknowledgeGivenUp(t *testing.T) {
	t.Parallel()
	onMem(t, func(t *testing.T, b *alert.Book, d *alert.MemDisk) {
		b.Submit(at(0), []telemetry.Transition{lane(telemetry.Raise, 0)})
		synctest.Wait()
		d.SetFault(func() error { time.Sleep(time.Minute); return nil })
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := b.Acknowledge(ctx, b.OpenAlerts()[0].ID, "Wang", ""); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the context's error", err)
		}
		sleep(time.Second)
		if got := shown(b); got != "FireLaneBlocked active_acknowledged 2 not durable" {
			t.Errorf("got %q", got)
		}
		sleep(time.Minute)
		if got := shown(b); got != "FireLaneBlocked active_acknowledged 2 durable" {
			t.Errorf("got %q", got)
		}
	})
}

// Closed by hand while silent: when the condition can be decided again and holds, there is a new alert.
func TestClosedByHandWhileUnknown(t *testing.T) {
	t.Parallel()
	onMem(t, func(t *testing.T, b *alert.Book, _ *alert.MemDisk) {
		b.Submit(at(0), []telemetry.Transition{smoke(telemetry.Raise, 0), smoke(telemetry.Unknown, 0)})
		synctest.Wait()
		first := b.OpenAlerts()[0]
		if !first.Unknown || first.State != alert.ActiveUnacknowledged {
			t.Fatalf("a silent detector: %+v", first)
		}
		a, err := b.CloseByHand(t.Context(), first.ID, "Wang", "探测器已拆下检修")
		if err != nil || a.State != alert.Closed || a.CloseReason != "by_hand" || !a.Durable {
			t.Fatalf("got %+v, %v", a, err)
		}
		if again, err := b.CloseByHand(t.Context(), first.ID, "Li", ""); err != nil || again != a {
			t.Errorf("closed twice: %+v, %v", again, err)
		}
		b.Submit(at(time.Minute), []telemetry.Transition{with(smoke(telemetry.Known, time.Minute), telemetry.ConditionTrue)})
		synctest.Wait()
		if got := shown(b); got != "SmokeDetected active_unacknowledged 1 durable" || b.OpenAlerts()[0].ID == first.ID {
			t.Errorf("got %q", got)
		}
	})
}

// The city was told, while the disk failed, that an alert is closed; then the box lost power. What the box then knows
// must be told again, or the two disagree for ever.
func TestToldButLostInACrash(t *testing.T) {
	t.Parallel()
	onMem(t, func(t *testing.T, b *alert.Book, d *alert.MemDisk) {
		tell := func() {
			for _, o := range b.Pending("mqtt", 10) {
				b.Told("mqtt", o.Alert.ID, o.Seq)
			}
		}
		b.Submit(at(0), []telemetry.Transition{lane(telemetry.Raise, 0), smoke(telemetry.Raise, 0), lane(telemetry.Clear, 0)})
		synctest.Wait()
		tell()
		sleep(2 * time.Second)
		d.SetFault(func() error { return errDisk })
		b.Submit(at(0), []telemetry.Transition{lane(telemetry.Raise, 0)})
		sleep(time.Second)
		tell()
		after, err := alert.OpenOn(alert.Config{}, inventory(), d)
		if err != nil {
			t.Fatal(err)
		}
		if got := shown(after); got != "SmokeDetected active_unacknowledged 1 durable; FireLaneBlocked returned_unacknowledged 2 durable" {
			t.Errorf("after the crash: %s", got)
		}
		got := after.Pending("mqtt", 10)
		if len(got) != 2 || got[1].What != "returned" || got[1].Alert.Revision != 2 || got[0].What != "raised" {
			t.Errorf("to be told after the crash: %+v", got)
		}
	})
}
