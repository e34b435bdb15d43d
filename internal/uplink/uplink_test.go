package uplink_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"linli/internal/alert"
	"linli/internal/testservers"
	"linli/internal/uplink"
	"linli/internal/wire"
)

// A publish or subscription that the end of its connection interrupted ends with the library's write timeout, 10 s or
// 30 s later.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/eclipse/paho%2emqtt%2egolang.(*client).Publish"),
		goleak.IgnoreAnyFunction("github.com/eclipse/paho%2emqtt%2egolang.(*client).Subscribe"))
}

type running struct {
	*uplink.Uplink
	stop func()
}

func start(t *testing.T, cfg uplink.Config, j *fakeJournal, b *fakeBook) *running {
	t.Helper()
	cfg.Site, cfg.Gateway = "riverside", "gw1"
	if cfg.StateDir == "" {
		cfg.StateDir = t.TempDir()
	}
	cfg.MinBackoff = 20 * time.Millisecond
	if cfg.Batch == 0 {
		cfg.Batch = 10 * time.Millisecond
	}
	u, err := uplink.New(cfg, j, b, zaptest.NewLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	u.SetWall(j.wall)
	return &running{Uplink: u, stop: runUntilStopped(t, u)}
}

// runUntilStopped has the uplink run until what it returns is called, or the test ends.
func runUntilStopped(t *testing.T, u *uplink.Uplink) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- u.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	testservers.Eventually(t, 15*time.Second, what, cond)
}

// P1, P3, P14: what was sent and not acknowledged when the connection broke is sent again, and counts as delivered
// only then.
func TestUnacknowledgedIsSentAgain(t *testing.T) {
	j, b := newJournal(3), newBook()
	h := startHostile(t, func(p published) (bool, bool) {
		telemetry := strings.HasSuffix(p.topic, "/telemetry")
		return !telemetry, telemetry // swallow it and hang up
	})
	u := start(t, uplink.Config{Brokers: []string{h.url}}, j, b)
	eventually(t, "three connections with telemetry", func() bool { return len(h.on("/telemetry")) >= 3 })
	if s := u.Status(); s.BacklogFrames != 3 || j.Released() > 1 || s.OldestUnsent != 1 {
		t.Fatalf("delivered without acknowledgement: %+v, released %d", s, j.Released())
	}
	h.set(ackAll)
	eventually(t, "all acknowledged", func() bool { return u.Status().BacklogFrames == 0 })
	eventually(t, "released", func() bool { return j.Released() == 4 })
	all := h.on("/telemetry")
	if head, text := all[len(all)-1].frames(t); head.From != 1 || head.To != 3 || head.Late || head.Count != 3 || head.Epoch != 0xc0ffee ||
		strings.Count(text, "counter,device=c0,gateway=gw1,site=riverside,zone=z n=") != 3 || !strings.Contains(text, "n=2i 1790000002000000000\n") {
		t.Errorf("last message %+v\n%s", head, text)
	}
}

// A broker that takes everything, answers pings, and acknowledges nothing.
func TestSilentBrokerIsLeft(t *testing.T) {
	j := newJournal(1)
	h := startHostile(t, func(published) (bool, bool) { return false, false })
	var told atomic.Int64 // of connections
	u := start(t, uplink.Config{Brokers: []string{h.url}, AckTimeout: 200 * time.Millisecond, OnConnect: func() { told.Add(1) }}, j, newBook())
	eventually(t, "second connection", func() bool { return u.Status().Connects >= 2 })
	h.set(ackAll)
	eventually(t, "delivered", func() bool { return u.Status().BacklogFrames == 0 })
	if got, want := told.Load(), int64(u.Status().Connects); got != want {
		t.Errorf("told of %d connections, there were %d", got, want)
	}
}

func TestRefusedConnectionIsReportedAndTheNextBrokerTried(t *testing.T) {
	bad, good := startHostile(t, ackAll), startHostile(t, ackAll)
	bad.code = 5
	u := start(t, uplink.Config{Brokers: []string{bad.url, good.url}}, newJournal(1), newBook())
	eventually(t, "delivered to the second broker", func() bool {
		s := u.Status()
		return s.Connected && s.Broker == good.url && s.BacklogFrames == 0
	})
	if s := u.Status(); s.Failures != 1 || s.LastError != "" {
		t.Errorf("status %+v", s)
	}
}

func TestAlertsGoFirstAndHaveRoom(t *testing.T) {
	j, b := newJournal(500), newBook()
	j.records = 200
	j.append(50, "boot")
	h := startHostile(t, func(p published) (bool, bool) { return !strings.HasSuffix(p.topic, "/telemetry"), false })
	u := start(t, uplink.Config{Brokers: []string{h.url}, MaxMessage: 4096, Window: 16}, j, b)
	eventually(t, "telemetry in flight", func() bool { return len(h.on("/telemetry")) > 2 })
	for range 100 {
		j.append(1, "boot")
	}
	b.say("01A", alert.ActiveUnacknowledged, "raised", 1)
	eventually(t, "alert told although no telemetry is acknowledged", func() bool { return b.toldCount() == 1 })
	b.say("01A", alert.ActiveAcknowledged, "acknowledged", 2)
	b.say("01A", alert.Closed, "closed", 3)
	eventually(t, "later transitions told", func() bool { return b.toldCount() == 3 })

	messages := h.on("/alert/01A")
	var got []string
	for _, m := range messages {
		e, err := wire.ParseAlert(m.payload)
		switch {
		case len(m.payload) == 0 && m.retain:
			got = append(got, "cleared")
		case err != nil:
			t.Fatal(err)
		case m.retain:
			got = append(got, e.ID+" retained")
		default:
			got = append(got, e.ID)
		}
	}
	if want := "01A/1 retained, 01A/2 retained, 01A/3, cleared"; strings.Join(got, ", ") != want {
		t.Errorf("alert messages %v, want %s", got, want)
	}
	lists := h.on("/alerts/open")
	var list wire.OpenList
	if err := json.Unmarshal(lists[len(lists)-1].payload, &list); err != nil || len(list.Open) != 0 || list.Open == nil || !lists[0].retain {
		t.Errorf("last list %s, %v", lists[len(lists)-1].payload, err)
	}
	late := 0
	live := false
	for _, m := range h.on("/telemetry") {
		if head, _ := m.frames(t); head.Late {
			late += len(m.payload)
		} else {
			live = true
		}
	}
	if late == 0 || late > 32<<10 || !live {
		t.Errorf("%d bytes of late data in flight, live sent %v", late, live)
	}
	if s := u.Status(); s.InFlight > 12 {
		t.Errorf("%d in flight: telemetry took slots reserved for alerts", s.InFlight)
	}
}

// A long backlog: newest first, then the rest in order, each frame exactly once on one good connection.
func TestLiveOvertakesBacklogAndOrderHolds(t *testing.T) {
	j := newJournal(300)
	h := startHostile(t, ackAll)
	start(t, uplink.Config{Brokers: []string{h.url}}, j, newBook())
	eventually(t, "newest frame", func() bool { return len(h.on("/telemetry")) > 0 })
	j.append(1, "boot")
	eventually(t, "all delivered", func() bool { return j.Released() == 302 })
	seen := map[uint64]bool{}
	var lastLive, lastLate uint64
	for i, m := range h.on("/telemetry") {
		head, _ := m.frames(t)
		if i == 0 && (head.Late || head.From != 300) {
			t.Errorf("first message %+v, want frame 300 live", head)
		}
		last := &lastLive
		if head.Late {
			last = &lastLate
		}
		if head.From <= *last {
			t.Errorf("%+v after frame %d", head, *last)
		}
		*last = head.To
		for seq := head.From; seq <= head.To; seq++ {
			if seen[seq] {
				t.Errorf("frame %d twice", seq)
			}
			seen[seq] = true
		}
	}
	if len(seen) != 301 || lastLive != 301 || lastLate != 299 {
		t.Errorf("%d frames, live up to %d, late up to %d", len(seen), lastLive, lastLate)
	}
}

func TestTelemetryWaitsForTheClockAndAlertsDoNot(t *testing.T) {
	j, b := newJournal(0), newBook()
	j.append(5, "unset")
	h := startHostile(t, ackAll)
	u := start(t, uplink.Config{Brokers: []string{h.url}}, j, b)
	b.say("01A", alert.ActiveUnacknowledged, "raised", 1)
	eventually(t, "alert told", func() bool { return b.toldCount() == 1 })
	eventually(t, "frames set aside", func() bool { return u.Status().WaitingFrames == 5 })
	if n := len(h.on("/telemetry")); n != 0 {
		t.Fatalf("%d messages before the clock was set", n)
	}
	j.append(2, "boot") // a boot whose clock is set is not held up by one whose clock is not
	eventually(t, "other boot delivered", func() bool { return u.Status().BacklogFrames == 5 })
	j.setClock()
	eventually(t, "all delivered", func() bool { return u.Status().BacklogFrames == 0 })
}

func TestFramesThatAreGoneAreNotWaitedFor(t *testing.T) {
	j := newJournal(10)
	j.drop(4)
	j.broken[6] = errors.New("input/output error")
	h := startHostile(t, ackAll)
	u := start(t, uplink.Config{Brokers: []string{h.url}}, j, newBook())
	eventually(t, "all but the unreadable frame", func() bool { return u.Status().OldestUnsent == 6 && len(h.on("/telemetry")) > 0 })
	j.mu.Lock()
	delete(j.broken, 6)
	j.mu.Unlock()
	eventually(t, "all delivered", func() bool { return u.Status().BacklogFrames == 0 })
}

func TestLargeFrameGoesInParts(t *testing.T) {
	j := newJournal(0)
	j.records = 100
	j.append(1, "boot")
	h := startHostile(t, ackAll)
	u := start(t, uplink.Config{Brokers: []string{h.url}, MaxMessage: 2048}, j, newBook())
	eventually(t, "delivered", func() bool { return j.Released() == 2 && u.Status().BacklogFrames == 0 })
	lines := 0
	all := h.on("/telemetry")
	for i, m := range all {
		head, text := m.frames(t)
		if head.Part != i+1 || head.Parts != len(all) || len(text) > 2048+200 || head.Count != strings.Count(text, "\n")-1 {
			t.Errorf("part %d of %d: %+v, %d bytes", i+1, len(all), head, len(text))
		}
		lines += head.Count
	}
	if lines != 100 || len(all) < 3 {
		t.Errorf("%d lines in %d parts", lines, len(all))
	}
}

func TestStateSurvivesAndDamageMeansSendingAgain(t *testing.T) {
	dir := t.TempDir()
	j := newJournal(3)
	h := startHostile(t, ackAll)
	deliver := func() int {
		before := len(h.on("/telemetry"))
		u := start(t, uplink.Config{Brokers: []string{h.url}, StateDir: dir}, j, newBook())
		eventually(t, "delivered", func() bool { return u.Status().BacklogFrames == 0 && u.Status().Connected })
		u.stop()
		return len(h.on("/telemetry")) - before
	}
	if n := deliver(); n != 1 {
		t.Fatalf("%d messages first", n)
	}
	status := h.on("/status")
	var last wire.Status
	if err := json.Unmarshal(status[len(status)-1].payload, &last); err != nil || last.State != "offline" || last.Reason != "stopped" || !status[0].retain {
		t.Errorf("last status %+v, %v", last, err)
	}
	if n := deliver(); n != 0 {
		t.Errorf("%d messages after an orderly restart, want none", n)
	}
	file := filepath.Join(dir, "uplink.state")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[30] ^= 1 // in each of the two halves
	b[len(b)/2+30] ^= 1
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if n := deliver(); n != 1 {
		t.Errorf("%d messages after damage, want everything again", n)
	}
	j.epoch++
	if n := deliver(); n != 1 {
		t.Errorf("%d messages with another journal, want everything", n)
	}
}
