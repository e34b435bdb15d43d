package uplink_test

import (
	"strings"
	"testing"

	"linli/internal/uplink"
)

// What is committed just before the stop is sent, and only then the last word is said.
func TestLastWordComesAfterTheLastFrame(t *testing.T) {
	h := startHostile(t, ackAll)
	j := newJournal(3)
	u := start(t, uplink.Config{Brokers: []string{h.url}}, j, newBook())
	eventually(t, "everything acknowledged", func() bool { s := u.Status(); return s.Connected && s.Hears && s.BacklogFrames == 0 })
	for range 5 {
		j.append(1, "boot")
	}
	u.stop()
	if s := lastStatus(t, h); s.State != "offline" || s.Reason != "stopped" || s.NextSeq != 9 || s.BacklogFrames != 0 {
		t.Errorf("the last word is %s %s, next %d, backlog %d", s.State, s.Reason, s.NextSeq, s.BacklogFrames)
	}
	if frames, _ := sent(t, h.on("/telemetry")); frames[8] == 0 {
		t.Errorf("frame 8 was not sent: %v", frames)
	}
}

// What nobody acknowledges, and what the disk did not take, is in the last word.
func TestLastWordTellsWhatIsLeft(t *testing.T) {
	h := startHostile(t, ackAll)
	j := newJournal(3)
	u := start(t, uplink.Config{Brokers: []string{h.url}}, j, newBook())
	eventually(t, "everything acknowledged", func() bool { s := u.Status(); return s.Connected && s.Hears && s.BacklogFrames == 0 })
	h.set(func(p published) (bool, bool) { return !strings.HasSuffix(p.topic, "/telemetry"), false })
	j.append(2, "boot")
	j.mu.Lock()
	j.stats.Pending = 40
	j.mu.Unlock()
	u.stop()
	if s := lastStatus(t, h); s.Reason != "stopped" || s.NextSeq != 6 || s.BacklogFrames != 3 {
		t.Errorf("the last word is %s, next %d, backlog %d", s.Reason, s.NextSeq, s.BacklogFrames)
	}
}
