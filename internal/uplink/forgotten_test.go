package uplink_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"linli/internal/journal"
	"linli/internal/telemetry"
	"linli/internal/testservers"
	"linli/internal/uplink"
	"linli/internal/wire"
)

// late returns how often each frame was sent on connection n, and fails where that was not late.
func late(t *testing.T, h *hostile, n int) map[uint64]int {
	t.Helper()
	var messages []published
	for _, m := range h.on("/telemetry") {
		if m.conn != n {
			continue
		}
		if head, _ := m.frames(t); !head.Late && head.From <= head.To {
			t.Errorf("%d-%d sent again as if it were new", head.From, head.To)
		}
		messages = append(messages, m)
	}
	frames, _ := sent(t, messages)
	return frames
}

// connected waits for connection n and until everything is acknowledged on it.
func connected(t *testing.T, u *running, n uint64) {
	t.Helper()
	eventually(t, fmt.Sprintf("connection %d", n), func() bool {
		s := u.Status()
		return s.Connects == n && s.Connected && s.BacklogFrames == 0
	})
}

// A broker that has lost our session gets once more what it acknowledged lately, and again when others have subscribed.
func TestBrokerWithoutOurSessionGetsTheLastMinutesAgain(t *testing.T) {
	h := startHostile(t, ackAll)
	h.forget(true)
	j := newJournal(300)
	u := start(t, uplink.Config{Brokers: []string{h.url}, SendAgain: 500 * time.Millisecond}, j, newBook())
	connected(t, u, 1)
	if n := u.Status().SentAgain; n != 0 {
		t.Fatalf("%d frames sent again to a broker that never had one", n)
	}
	h.drop()
	connected(t, u, 2)
	eventually(t, "twice", func() bool {
		s := u.Status()
		return s.SentAgain == 600 && s.SentAgainWhy != "" && s.BacklogFrames == 0
	})
	// The status says first that they are sent again, and only then that they wait.
	eventually(t, "each frame twice", func() bool {
		frames := late(t, h, 2)
		for seq := uint64(1); seq <= 300; seq++ {
			if frames[seq] != 2 {
				return false
			}
		}
		return true
	})
	if n := j.Released(); n != 301 {
		t.Errorf("released up to %d, want 301", n)
	}
}

// What the journal has no more is not sent again, and nothing is released before it is acknowledged once more.
func TestSentAgainIsWhatTheJournalHas(t *testing.T) {
	h := startHostile(t, ackAll)
	j := newJournal(100)
	u := start(t, uplink.Config{Brokers: []string{h.url}}, j, newBook())
	connected(t, u, 1)
	h.set(func(published) (bool, bool) { return false, false })
	h.forget(true)
	j.drop(41)
	h.drop()
	eventually(t, "put back", func() bool { s := u.Status(); return s.BacklogFrames == 60 && s.OldestUnsent == 41 })
	j.append(10, "boot")
	eventually(t, "new frames", func() bool { return u.Status().BacklogFrames == 70 })
	if n := j.Released(); n != 101 {
		t.Errorf("released up to %d beside frames that are not acknowledged any more, want what it was", n)
	}
	h.set(ackAll)
	h.forget(false)
	h.drop()
	eventually(t, "acknowledged", func() bool { return j.Released() == 111 })
}

// A broker that knows our session may have it from an old save: once in a while the last frames go out again, but not
// at every loss of a line that flaps.
func TestBrokerWithOurSessionGetsTheLastFramesAgainOnce(t *testing.T) {
	h := startHostile(t, ackAll)
	j := newJournal(50)
	u := start(t, uplink.Config{Brokers: []string{h.url}}, j, newBook())
	connected(t, u, 1)
	h.drop()
	connected(t, u, 2)
	if n := u.Status().SentAgain; n != 50 {
		t.Errorf("%d frames sent again, want 50", n)
	}
	var told wire.Status
	all := h.on("/status")
	if err := json.Unmarshal(all[len(all)-1].payload, &told); err != nil || told.SentAgainFrames != 50 || told.SentAgainReason == "" {
		t.Errorf("status %s, %v", all[len(all)-1].payload, err)
	}
	if frames := late(t, h, 2); len(frames) != 50 {
		t.Errorf("%d frames arrived again, want 50", len(frames))
	}
	for n := uint64(3); n < 6; n++ {
		h.drop()
		connected(t, u, n)
	}
	if n := u.Status().SentAgain; n != 50 {
		t.Errorf("%d frames sent again over a line that flaps, want 50", n)
	}
}

// A new process does not know when its predecessor's frames were acknowledged and goes by their times.
func TestNewProcessSendsTheLastMinutesAgain(t *testing.T) {
	dir := t.TempDir()
	h := startHostile(t, ackAll)
	h.forget(true)
	j := newJournal(500) // one a second
	u := start(t, uplink.Config{Brokers: []string{h.url}, StateDir: dir}, j, newBook())
	connected(t, u, 1)
	u.stop()
	u = start(t, uplink.Config{Brokers: []string{h.url}, StateDir: dir}, j, newBook())
	connected(t, u, 1)
	if n := u.Status().SentAgain; n != 181 {
		t.Errorf("%d frames sent again, want those of three minutes", n)
	}
	frames := late(t, h, 2)
	for seq := uint64(320); seq <= 500; seq++ {
		if frames[seq] == 0 {
			t.Fatalf("frame %d was not sent again", seq)
		}
	}
}

// A real broker is killed with messages that it had acknowledged and nobody had taken. Its reader comes after us, with
// a new session: every sample arrives.
func TestKilledBrokerHasForgotten(t *testing.T) {
	inv := &telemetry.Inventory{Site: "riverside", Gateway: "gw1"}
	class := &telemetry.Class{ID: "counter", Points: []telemetry.PointDef{{Name: "n", Kind: telemetry.Int}}}
	zone := inv.AddZone(telemetry.Zone{ID: "z", Parent: -1})
	point := inv.ProvidePoint(inv.AddDevice(telemetry.Device{ID: "c1", Class: class, Zone: zone}), 0)
	clock := telemetry.NewClock("boot", 0, time.Unix(0, 0))
	j, err := journal.Open(journal.Config{Dir: t.TempDir()}, inv, clock)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := j.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer func() {
		cancel()
		running.Wait()
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	}()
	broker := testservers.StartMosquitto(t, "autosave_on_changes false", "autosave_interval 1800")
	subscribe(t, broker.URL, "city", "linli/v1/+/telemetry").s.Close(50 * time.Millisecond)
	u, err := uplink.New(uplink.Config{Site: "riverside", Gateway: "gw1", Brokers: []string{broker.URL}, StateDir: t.TempDir(),
		Batch: 10 * time.Millisecond, MinBackoff: 10 * time.Millisecond, SendAgain: 4 * time.Second, Clock: clock}, j, newBook(), zaptest.NewLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	running.Go(func() {
		if err := u.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	written := 0
	samples := func(n int) {
		t.Helper()
		for range n {
			j.Append(clock.Now(), []telemetry.Sample{{Point: point, Time: clock.Mono(), Value: telemetry.IntValue(int64(written))}})
			if err := j.Commit(); err != nil {
				t.Fatal(err)
			}
			written++
		}
		eventually(t, "acknowledged", func() bool { s := u.Status(); return s.Connected && s.BacklogFrames == 0 })
	}
	samples(100)
	broker.Kill()
	eventually(t, "loss noticed", func() bool { return !u.Status().Connected })
	broker.Start()
	samples(20) // to nobody, like what is sent again at once
	city := subscribe(t, broker.URL, "city", "linli/v1/+/telemetry")
	if city.s.Present {
		t.Fatal("the broker has forgotten nothing")
	}
	samples(5)
	eventually(t, "every sample", func() bool {
		got := map[string]bool{}
		for _, m := range city.messages() {
			values(t, m.Payload(), got)
		}
		return len(got) == written
	})
}
