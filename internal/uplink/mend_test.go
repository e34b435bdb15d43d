package uplink_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"linli/internal/alert"
	"linli/internal/journal"
	"linli/internal/telemetry"
	"linli/internal/testservers"
	"linli/internal/uplink"
	"linli/internal/wire"
)

// sent returns how often each frame with data is in messages, and the lost lines.
func sent(t *testing.T, messages []published) (frames map[uint64]int, lost []wire.Lost) {
	t.Helper()
	frames = map[uint64]int{}
	for _, m := range messages {
		h, _ := m.frames(t)
		for seq := h.From; seq <= h.To; seq++ {
			frames[seq]++
		}
		for rest := m.payload; len(rest) > 0; {
			var line []byte
			if line, rest = wire.NextLine(rest); wire.IsLost(line) {
				l, err := wire.ParseLost(line)
				if err != nil {
					t.Fatal(err)
				}
				lost = append(lost, l)
			}
		}
	}
	return frames, lost
}

// A journal that comes back shorter than what was sent of it: everything in it is sent again, no number is used twice,
// and what the city has already is not told as lost.
func TestJournalBehindItsState(t *testing.T) {
	dir := t.TempDir()
	h := startHostile(t, ackAll)
	j := newJournal(1000)
	u := start(t, uplink.Config{Brokers: []string{h.url}, StateDir: dir}, j, newBook())
	eventually(t, "delivered", func() bool { return j.Released() == 1001 })
	u.stop()
	before := len(h.on("/telemetry"))

	j = newJournal(10) // a restored copy
	u = start(t, uplink.Config{Brokers: []string{h.url}, StateDir: dir}, j, newBook())
	j.append(20, "boot")
	eventually(t, "delivered again", func() bool {
		_, next := j.Bounds()
		return u.Status().BacklogFrames == 0 && j.Released() == next && next > 2001
	})
	frames, lost := sent(t, h.on("/telemetry")[before:])
	for seq := range uint64(10) {
		if frames[seq+1] == 0 {
			t.Errorf("frame %d was not sent again", seq+1)
		}
	}
	fresh := 0
	for seq := range frames {
		if seq > 10 && seq < 2001 {
			t.Errorf("number %d, which may have been told, was used again", seq)
		} else if seq > 10 {
			fresh++
		}
	}
	if fresh != 21 {
		t.Errorf("%d new frames, want 20 and a tombstone", fresh)
	}
	if len(lost) != 1 || lost[0].From != 1001 || lost[0].To != 2000 || lost[0].Count != 0 {
		t.Errorf("lost %+v, want only what may have been told after the state was saved", lost)
	}
}

// A loss is told of what the city does not have, and of nothing else; also by a process that was not there when the
// frames vanished.
func TestOnlyWhatTheCityLacksIsLost(t *testing.T) {
	dir := t.TempDir()
	j := newJournal(10)
	j.broken[5] = errors.New("input/output error")
	h := startHostile(t, ackAll)
	u := start(t, uplink.Config{Brokers: []string{h.url}, StateDir: dir}, j, newBook())
	eventually(t, "frames before it delivered", func() bool { return u.Status().OldestUnsent == 5 && u.Status().BacklogFrames <= 6 })
	j.mu.Lock()
	j.broken[5] = journal.ErrNotFound
	j.mu.Unlock()
	eventually(t, "not waited for", func() bool { return u.Status().BacklogFrames == 0 })
	u.stop()
	j.mu.Lock()
	j.bury(1, 7)
	j.mu.Unlock()
	before := len(h.on("/telemetry"))
	u = start(t, uplink.Config{Brokers: []string{h.url}, StateDir: dir}, j, newBook())
	eventually(t, "tombstone told", func() bool { return u.Status().BacklogFrames == 0 && u.Status().Connected })
	_, lost := sent(t, h.on("/telemetry")[before:])
	if len(lost) != 1 || lost[0].From != 5 || lost[0].To != 5 || lost[0].Count != 0 || lost[0].Reason != journal.LossDamage {
		t.Errorf("lost %+v, want frame 5", lost)
	}
	j.mu.Lock()
	j.bury(5, 5) // told and acknowledged once is enough
	j.mu.Unlock()
	eventually(t, "delivered", func() bool { return j.Released() == 13 })
	if _, lost = sent(t, h.on("/telemetry")[before:]); len(lost) != 1 {
		t.Errorf("lost %+v, want one line", lost)
	}
}

// A whole loss keeps its count.
func TestLossKeepsItsCount(t *testing.T) {
	j := newJournal(0)
	j.first = 8
	j.mu.Lock()
	j.bury(1, 7)
	j.mu.Unlock()
	h := startHostile(t, ackAll)
	start(t, uplink.Config{Brokers: []string{h.url}}, j, newBook())
	eventually(t, "delivered", func() bool { return j.Released() == 9 })
	if _, lost := sent(t, h.on("/telemetry")); len(lost) != 1 || lost[0].From != 1 || lost[0].To != 7 || lost[0].Count != 77 {
		t.Errorf("lost %+v", lost)
	}
}

// T0 and T1 are the bounds of everything in the message, whatever order the frames' times have.
func TestHeaderCoversItsFrames(t *testing.T) {
	j := newJournal(3)
	for i, at := range []telemetry.Mono{5e9, 2e9, 7e9} {
		f := &j.frames[i]
		f.T0, f.T1, f.Records[0].Time = at, at, at
	}
	h := startHostile(t, ackAll)
	start(t, uplink.Config{Brokers: []string{h.url}}, j, newBook())
	eventually(t, "delivered", func() bool { return j.Released() == 4 })
	if head, text := h.on("/telemetry")[0].frames(t); head.T0 != base+2e9 || head.T1 != base+7e9 || head.Count != 3 {
		t.Errorf("%+v\n%s", head, text)
	}
}

// Frames whose time is an estimate say so, in messages of their own.
func TestUncertainTimesAreMarked(t *testing.T) {
	j := newJournal(4)
	j.frames[1].Uncertain, j.frames[2].Uncertain = true, true
	h := startHostile(t, ackAll)
	start(t, uplink.Config{Brokers: []string{h.url}}, j, newBook())
	eventually(t, "delivered", func() bool { return j.Released() == 5 })
	var got []string
	for _, m := range h.on("/telemetry") {
		head, text := m.frames(t)
		line, _, _ := strings.Cut(text, "\n")
		got = append(got, fmt.Sprintf("%d-%d %v", head.From, head.To, strings.HasSuffix(line, " time=uncertain")))
	}
	if s := strings.Join(got, ", "); s != "1-1 false, 2-3 true, 4-4 false" {
		t.Error(s)
	}
}

// After a gap every series tells its quality again.
func TestQualityIsToldAfterAGap(t *testing.T) {
	j := newJournal(6)
	j.broken[4] = journal.ErrNotFound
	h := startHostile(t, ackAll)
	start(t, uplink.Config{Brokers: []string{h.url}}, j, newBook())
	eventually(t, "delivered", func() bool { return j.Released() == 7 })
	told := map[uint64]bool{}
	for _, m := range h.on("/telemetry") {
		for _, line := range bytes.Split(m.payload, []byte("\n")) {
			var n uint64
			if i := bytes.Index(line, []byte(" n=")); i >= 0 {
				fmt.Sscanf(string(line[i:]), " n=%di", &n)
				told[n] = bytes.Contains(line, []byte("n_q=0i"))
			}
		}
	}
	if !told[1] || told[2] || told[3] || !told[5] || told[6] || len(told) != 5 {
		t.Errorf("quality told with %v, want with 1 and 5", told)
	}
}

// However many late frames there are and however large the window: 32 KiB of them are in flight.
func TestLateBound(t *testing.T) {
	j := newJournal(0)
	j.records = 20
	j.append(400, "boot")
	h := startHostile(t, func(p published) (bool, bool) { return !strings.HasSuffix(p.topic, "/telemetry"), false })
	u := start(t, uplink.Config{Brokers: []string{h.url}, Window: 64}, j, newBook())
	eventually(t, "late data in flight", func() bool { return len(h.on("/telemetry")) >= 2 })
	// Three more live frames, each after the one before has arrived: the late lane has had its turns.
	for i := range 3 {
		j.append(1, "boot")
		eventually(t, "live frame", func() bool {
			for _, m := range h.on("/telemetry") {
				if head, _ := m.frames(t); head.To == uint64(401+i) {
					return true
				}
			}
			return false
		})
	}
	late := 0
	for _, m := range h.on("/telemetry") {
		if head, _ := m.frames(t); head.Late {
			late += len(m.payload)
		}
	}
	if late == 0 || late > 32<<10 {
		t.Errorf("%d bytes of late data in flight", late)
	}
	u.stop()
}

// A broker that lost its memory gets every open alert again, however many there are.
func TestManyOpenAlertsAreRepeated(t *testing.T) {
	h := startHostile(t, ackAll)
	h.forget(true)
	b := newBook()
	for i := range 150 {
		b.say(fmt.Sprintf("01A%03d", i), alert.ActiveUnacknowledged, "raised", 1)
	}
	u := start(t, uplink.Config{Brokers: []string{h.url}, Window: 16}, newJournal(1), b)
	eventually(t, "told", func() bool { return b.toldCount() == 150 })
	u.stop()
	h.mu.Lock()
	h.got = nil
	h.mu.Unlock()
	start(t, uplink.Config{Brokers: []string{h.url}, Window: 16}, newJournal(1), b)
	eventually(t, "all of them again", func() bool {
		ids := map[string]bool{}
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, p := range h.got {
			if strings.Contains(p.topic, "/alert/") && p.retain && len(p.payload) > 0 {
				ids[p.topic] = true
			}
		}
		return len(ids) == 150
	})
}

// The status tells how the journal is, and at once when it begins to fail.
func TestStatusTellsOfTheJournal(t *testing.T) {
	j := newJournal(1)
	h := startHostile(t, ackAll)
	start(t, uplink.Config{Brokers: []string{h.url}}, j, newBook())
	last := func() (s wire.Status) {
		if all := h.on("/status"); len(all) > 0 {
			if err := json.Unmarshal(all[len(all)-1].payload, &s); err != nil {
				t.Fatal(err)
			}
		}
		return s
	}
	eventually(t, "status", func() bool { s := last(); return s.Journal != nil && s.Journal.Error == "" })
	j.mu.Lock()
	j.stats = journal.Stats{Bytes: 5, CommitFailures: 14, SamplesLost: 3, DamagedFrames: 2, LastError: "no space left on device"}
	j.mu.Unlock()
	eventually(t, "failure", func() bool {
		s := last()
		return s.Journal != nil && *s.Journal == wire.JournalStatus{Bytes: 5, CommitFailures: 14, SamplesLost: 3, DamagedFrames: 2, Error: "no space left on device"}
	})
}

// Stopping ends in time although the broker reads nothing and its socket is full.
func TestStopBesideABrokerThatReadsNothing(t *testing.T) {
	l := testservers.Listen(t)
	done := make(chan struct{})
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_ = c.(*net.TCPConn).SetReadBuffer(4096)
		_, _ = packets.ReadPacket(c)
		_ = packets.NewControlPacket(packets.Connack).Write(c)
		<-done
	}()
	defer func() { close(done); l.Close(); <-accepted }()
	j := newJournal(0)
	j.records = 3000
	j.append(60, "boot")
	u := start(t, uplink.Config{Brokers: []string{"tcp://" + l.Addr().String()}}, j, newBook())
	stuck := time.Time{}
	eventually(t, "writer stuck", func() bool {
		s := u.Status().Sent
		j.append(1, "boot")
		if s != u.Status().Sent || stuck.IsZero() {
			stuck = time.Now()
		}
		return u.Status().Connected && time.Since(stuck) > 500*time.Millisecond
	})
	at := time.Now()
	u.stop()
	if d := time.Since(at); d > 6*time.Second {
		t.Errorf("stopping took %v", d)
	}
}

// Frames of a boot that ended before its clock was set go out, marked, once the next boot's clock is set; they hold up
// nothing for longer.
func TestBootWithoutClockIsNotWaitedForForever(t *testing.T) {
	cfg := journal.Config{Dir: filepath.Join(t.TempDir(), "journal")}
	inv := &telemetry.Inventory{Site: "riverside", Gateway: "gw1"}
	class := &telemetry.Class{ID: "counter", Points: []telemetry.PointDef{{Name: "n", Kind: telemetry.Int}}}
	point := inv.ProvidePoint(inv.AddDevice(telemetry.Device{ID: "c1", Class: class, Zone: inv.AddZone(telemetry.Zone{ID: "z", Parent: -1})}), 0)
	run := func(clock *telemetry.Clock) *journal.Journal {
		j, err := journal.Open(cfg, inv, clock)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			j.Append(clock.Now(), []telemetry.Sample{{Point: point, Time: clock.Mono(), Value: telemetry.IntValue(int64(i))}})
			if err := j.Commit(); err != nil {
				t.Fatal(err)
			}
		}
		return j
	}
	if err := run(telemetry.NewClock("boot1", 1e9, time.Now().Add(time.Hour))).Close(); err != nil {
		t.Fatal(err)
	}
	clock := telemetry.NewClock("boot2", 0, time.Unix(0, 0))
	j := run(clock)
	defer j.Close()
	h := startHostile(t, ackAll)
	u, err := uplink.New(uplink.Config{Site: "riverside", Gateway: "gw1", Brokers: []string{h.url}, StateDir: filepath.Dir(cfg.Dir), Clock: clock}, j, newBook(), nil)
	if err != nil {
		t.Fatal(err)
	}
	stop := runUntilStopped(t, u)
	eventually(t, "all delivered", func() bool { return u.Status().BacklogFrames == 0 && j.Stats().Released == 7 })
	stop()
	frames, _ := sent(t, h.on("/telemetry"))
	if len(frames) != 6 {
		t.Errorf("frames %v", frames)
	}
	if first, text := h.on("/telemetry")[0].frames(t); first.From != 1 || first.To != 3 || !strings.Contains(text, " time=uncertain\n") ||
		time.Since(time.Unix(0, first.T0)).Abs() > time.Minute {
		t.Errorf("%+v\n%s", first, text)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(cfg.Dir), "uplink.state")); err != nil {
		t.Error(err)
	}
}
