package uplink_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"linli/internal/journal"
	"linli/internal/uplink"
	"linli/internal/wire"
)

// seen is what a broker got in telemetry messages from the i-th on.
type seen struct {
	frames map[uint64]int // how often
	late   map[uint64]bool
	gone   []string // from-to of reason gone
}

func telemetryFrom(t *testing.T, h *hostile, i int) seen {
	t.Helper()
	s := seen{frames: map[uint64]int{}, late: map[uint64]bool{}}
	for _, m := range h.on("/telemetry")[i:] {
		head, _ := m.frames(t)
		for seq := head.From; seq <= head.To; seq++ {
			s.frames[seq]++
			s.late[seq] = head.Late
		}
		for rest := m.payload; len(rest) > 0; {
			var line []byte
			line, rest = wire.NextLine(rest)
			if !wire.IsLost(line) {
				continue
			}
			l, err := wire.ParseLost(line)
			if err != nil {
				t.Fatal(err)
			}
			if l.Reason != "gone" {
				continue
			}
			if head.To+1 != head.From || !head.Late || l.Count != 0 || l.T0 > l.T1 || l.T1 == 0 {
				t.Errorf("told in %+v: %+v", head, l)
			}
			s.gone = append(s.gone, fmt.Sprintf("%d-%d", l.From, l.To))
		}
	}
	return s
}

const fakeEpoch = "0000000000c0ffee"

func delivered(t *testing.T, u *running) {
	t.Helper()
	eventually(t, "all delivered", func() bool { s := u.Status(); return s.Connected && s.BacklogFrames == 0 })
}

// What the journal still has is sent again, late and once; what it has not is told as gone.
func TestResend(t *testing.T) {
	j := newJournal(40)
	h := startHostile(t, ackAll)
	u := start(t, uplink.Config{Brokers: []string{h.url}}, j, newBook())
	delivered(t, u)
	j.setSettled(100e9)
	j.drop(15)
	j.mu.Lock()
	j.broken[20] = journal.ErrNotFound
	j.mu.Unlock()
	before := len(h.on("/telemetry"))
	r, err := u.Resend(t.Context(), fakeEpoch, 10, 30)
	if err != nil || r.Frames != 16 || r.Gone != 5 || r.Waiting != 0 || r.NextSeq != 41 || r.Epoch != fakeEpoch {
		t.Fatalf("%+v, %v", r, err)
	}
	eventually(t, "sent again", func() bool {
		s := telemetryFrom(t, h, before)
		return len(s.frames) == 15 && len(s.gone) == 2
	})
	delivered(t, u)
	s := telemetryFrom(t, h, before)
	for seq, n := range s.frames {
		if n != 1 || !s.late[seq] || seq < 15 || seq > 30 || seq == 20 {
			t.Errorf("frame %d: %d times, late %v", seq, n, s.late[seq])
		}
	}
	if got := strings.Join(s.gone, " "); got != "10-14 20-20" {
		t.Errorf("gone: %s", got)
	}
	if got := u.Status(); got.Resent != 16 || got.BacklogFrames != 0 || got.SentAgain != 0 {
		t.Errorf("%+v", got)
	}
}

// Nothing is done for what makes no sense, however large.
func TestResendOfNonsense(t *testing.T) {
	j := newJournal(40)
	h := startHostile(t, ackAll)
	u := start(t, uplink.Config{Brokers: []string{h.url}}, j, newBook())
	delivered(t, u)
	before := len(h.on("/telemetry"))
	for _, test := range []struct {
		epoch    string
		from, to uint64
		reason   string
	}{
		{fakeEpoch, 20, 10, "malformed"},
		{fakeEpoch, 0, 0, "malformed"},
		{fakeEpoch, 41, 41, "not_there"},
		{fakeEpoch, 1 << 62, 1 << 63, "not_there"},
		{fakeEpoch, math.MaxUint64, math.MaxUint64, "not_there"},
		{"00000000deadbeef", 1, 10, "wrong_epoch"},
		{"", 1, 10, "wrong_epoch"},
		{strings.ToUpper(fakeEpoch), 1, 10, "wrong_epoch"},
	} {
		_, err := u.Resend(t.Context(), test.epoch, test.from, test.to)
		var refusal *wire.Refusal
		if !errors.As(err, &refusal) || refusal.Reason != test.reason {
			t.Errorf("%+v: %v", test, err)
		}
	}
	if n := len(h.on("/telemetry")); n != before || u.Status().Resent != 0 {
		t.Errorf("%d messages more, %+v", n-before, u.Status())
	}
	// All there is, said clumsily.
	r, err := u.Resend(t.Context(), fakeEpoch, 0, 1<<63)
	if err != nil || r.Frames != 40 || r.Gone != 0 || r.NextSeq != 41 {
		t.Errorf("%+v, %v", r, err)
	}
	delivered(t, u)
	if s := telemetryFrom(t, h, before); len(s.frames) != 40 || s.frames[1] != 1 {
		t.Errorf("%v", s.frames)
	}
}

// What is on its way is not sent twice, and all of it obeys the bound of the late lane.
func TestResendOfWhatIsOnItsWay(t *testing.T) {
	j := newJournal(0)
	j.records = 100
	j.append(300, "boot")
	h := startHostile(t, ackAll)
	u := start(t, uplink.Config{Brokers: []string{h.url}}, j, newBook())
	delivered(t, u)
	before := len(h.on("/telemetry"))
	h.set(func(p published) (bool, bool) { return !strings.HasSuffix(p.topic, "/telemetry"), false })
	if r, err := u.Resend(t.Context(), fakeEpoch, 1, 300); err != nil || r.Frames != 300 {
		t.Fatalf("%+v, %v", r, err)
	}
	eventually(t, "in flight", func() bool { return len(h.on("/telemetry")) > before })
	if r, err := u.Resend(t.Context(), fakeEpoch, 100, 300); err != nil || r.Frames != 0 || r.Waiting != 201 {
		t.Fatalf("%+v, %v", r, err)
	}
	j.append(1, "boot")
	eventually(t, "a live frame overtakes", func() bool { return telemetryFrom(t, h, before).frames[301] == 1 })
	bytes := 0
	for _, m := range h.on("/telemetry")[before:] {
		if head, _ := m.frames(t); head.Late {
			bytes += len(m.payload)
		}
	}
	if bytes == 0 || bytes > 32<<10 {
		t.Errorf("%d bytes of late data in flight", bytes)
	}
	h.set(ackAll)
	h.drop()
	delivered(t, u)
	many := 0
	s := telemetryFrom(t, h, before)
	for seq := uint64(1); seq <= 300; seq++ {
		if s.frames[seq] == 0 {
			t.Errorf("frame %d was not sent", seq)
		} else if s.frames[seq] > 1 {
			many++
		}
	}
	if many > 20 { // those in flight when the connection was lost
		t.Errorf("%d frames went out twice", many)
	}
}

// A restart forgets nothing of what was asked for.
func TestResendOutlivesTheProcess(t *testing.T) {
	j, dir := newJournal(40), t.TempDir()
	h := startHostile(t, ackAll)
	cfg := uplink.Config{Brokers: []string{h.url}, StateDir: dir}
	u := start(t, cfg, j, newBook())
	delivered(t, u)
	j.setSettled(100e9)
	j.drop(15)
	h.set(func(p published) (bool, bool) { return !strings.HasSuffix(p.topic, "/telemetry"), false })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if r, err := u.Resend(ctx, fakeEpoch, 10, 30); err != nil || r.Frames != 16 || r.Gone != 5 {
		t.Fatalf("%+v, %v", r, err)
	}
	// What the disk has now is what a kill leaves.
	killed := filepath.Join(t.TempDir(), "x")
	if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	u.stop()
	cfg.StateDir = killed
	j.drop(20) // and some more vanish meanwhile
	h.set(ackAll)
	before := len(h.on("/telemetry"))
	u = start(t, cfg, j, newBook())
	delivered(t, u)
	eventually(t, "what is gone is told", func() bool { return len(telemetryFrom(t, h, before).gone) > 0 })
	s := telemetryFrom(t, h, before)
	if got := strings.Join(s.gone, " "); got != "10-19" {
		t.Errorf("gone: %s", got)
	}
	for seq := uint64(20); seq <= 30; seq++ {
		if s.frames[seq] != 1 {
			t.Errorf("frame %d: %d times", seq, s.frames[seq])
		}
	}
}
