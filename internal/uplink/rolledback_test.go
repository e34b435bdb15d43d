package uplink_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"linli/internal/testservers"
	"linli/internal/uplink"
	"linli/internal/wire"
)

// A state directory restored from an older copy is noticed by the status that the broker has kept: no number is used
// again, and what was measured in between is told as lost.
func TestOlderStateDirectoryIsNoticed(t *testing.T) {
	began := time.Now()
	for name, c := range map[string]struct {
		kept       wire.Status // of frames of which n is at 1,790,000,000 s + n s
		rolledBack bool
	}{
		"knows of more frames":           {wire.Status{State: "online", NextSeq: 500, Time: began.Add(-time.Minute)}, true},
		"had the number earlier":         {wire.Status{State: "online", NextSeq: 9, Time: time.Unix(1_790_000_000-60, 0)}, true},
		"stopped in order":               {wire.Status{State: "offline", Reason: "stopped", NextSeq: 500, Time: began.Add(-time.Minute)}, true},
		"an ordinary restart":            {wire.Status{State: "offline", Reason: "stopped", NextSeq: 11, Time: time.Unix(1_790_000_012, 0)}, false},
		"an older broker's":              {wire.Status{State: "online", NextSeq: 5, Time: time.Unix(1_790_000_004, 0)}, false},
		"another journal":                {wire.Status{State: "online", NextSeq: 500, Time: began.Add(-time.Minute), Epoch: "00000000decade00"}, false},
		"a clock that was not set":       {wire.Status{State: "online", NextSeq: 500, Time: time.Unix(300, 0), Version: "unset"}, false},
		"a twin that is online now":      {wire.Status{State: "online", NextSeq: 500, Time: began.Add(time.Hour)}, false},
		"more than any gateway can have": {wire.Status{State: "online", NextSeq: 1 << 50, Time: began.Add(-time.Minute)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := startHostile(t, ackAll)
			j := newJournal(10)
			u := start(t, uplink.Config{Brokers: []string{h.url}}, j, newBook())
			eventually(t, "connected", func() bool { s := u.Status(); return s.Connected && s.Hears && s.BacklogFrames == 0 })
			s := c.kept
			s.Instance, s.ClockSet = "earlier", s.Version != "unset"
			if s.Epoch == "" {
				s.Epoch = fmt.Sprintf("%016x", j.epoch)
			}
			b, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			h.deliver("linli/v1/riverside.gw1/status", b)
			h.deliver("linli/v1/riverside.gw1/status", b)
			// What comes after it has been heard; a status that is not believed leaves no other trace.
			heard, _ := json.Marshal(wire.Status{State: "online", Instance: "twin", Time: time.Now().Add(time.Hour), ClockSet: true})
			eventually(t, "both heard", func() bool {
				h.deliver("linli/v1/riverside.gw1/status", heard)
				tw := u.Status().Twin
				return tw != nil && tw.Instance == "twin"
			})
			j.append(1, "boot")
			eventually(t, "all sent", func() bool {
				_, next := j.Bounds()
				return u.Status().BacklogFrames == 0 && j.Released() == next
			})
			frames, lost := sent(t, h.on("/telemetry"))
			if !c.rolledBack {
				if _, next := j.Bounds(); next != 12 || len(lost) > 0 || frames[11] == 0 {
					t.Errorf("the journal goes on at %d, lost %+v", next, lost)
				}
				return
			}
			to := max(s.NextSeq, 11) + 1000
			for seq := range frames {
				if seq > 12 && seq < to {
					t.Errorf("number %d is used again", seq)
				}
			}
			told := map[uint64]wire.Lost{}
			for _, l := range lost {
				told[l.From] = l
			}
			l, ok := told[0]
			if !ok || l.To != 0 || l.Count != 0 || l.Reason != "damage" || l.T0 != s.Time.UnixNano() || time.Unix(0, l.T1).Sub(began).Abs() > time.Minute {
				t.Errorf("lost %+v, want the time from %v to the start", lost, s.Time)
			}
			if len(lost) != 2 || lost[1].To != to-1 && lost[0].To != to-1 {
				t.Errorf("lost %+v, want the time and the numbers passed over, once", lost)
			}
		})
	}
}

// The same by the last will, which is all that a broker keeps of a process that was killed: one that the state directory
// has never heard of. A process that was killed on this very directory is no stranger.
func TestOlderStateDirectoryIsNoticedByAWill(t *testing.T) {
	for _, restored := range []bool{true, false} {
		t.Run(fmt.Sprintf("restored=%v", restored), func(t *testing.T) {
			broker := testservers.StartMosquitto(t)
			j, dir, copied := newJournal(10), t.TempDir(), t.TempDir()
			j.later = time.Since(time.Unix(1_790_000_000, 0)).Nanoseconds() - time.Minute.Nanoseconds()
			delivered := func(u *running) {
				t.Helper()
				eventually(t, "delivered", func() bool { s := u.Status(); return s.Connected && s.Hears && s.BacklogFrames == 0 })
			}
			// A life that the copy knows.
			u := start(t, uplink.Config{Brokers: []string{broker.URL}, StateDir: dir}, j, newBook())
			delivered(u)
			u.stop()
			if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			// One that it does not know, whose line is cut.
			line, cut := cutLine(t, broker.URL)
			u = start(t, uplink.Config{Brokers: []string{line}, StateDir: dir}, j, newBook())
			delivered(u)
			cut()
			u.stop()
			city := subscribe(t, broker.URL, "will", "linli/v1/+/status")
			eventually(t, "the will", func() bool {
				m := city.messages()
				return len(m) > 0 && strings.Contains(string(m[len(m)-1].Payload()), `"lost"`)
			})

			if restored {
				dir = copied
			}
			h := subscribe(t, broker.URL, "city", "linli/v1/+/telemetry")
			u = start(t, uplink.Config{Brokers: []string{broker.URL}, StateDir: dir}, j, newBook())
			delivered(u)
			j.append(1, "boot")
			eventually(t, "sent", func() bool {
				_, next := j.Bounds()
				return u.Status().BacklogFrames == 0 && j.Released() == next && len(h.frames(t)) > 0
			})
			if _, next := j.Bounds(); (next > 1000) != restored {
				t.Errorf("the journal goes on at %d", next)
			}
		})
	}
}

// cutLine returns the address of a line to the broker, and what cuts it for good.
func cutLine(t *testing.T, broker string) (address string, cut func()) {
	t.Helper()
	l := testservers.Listen(t)
	var mu sync.Mutex
	var conns []net.Conn
	testservers.Serve(t, l, func(c net.Conn) {
		far, err := net.Dial("tcp", strings.TrimPrefix(broker, "tcp://"))
		if err != nil {
			return
		}
		mu.Lock()
		conns = append(conns, c, far)
		mu.Unlock()
		var both sync.WaitGroup
		both.Go(func() { _, _ = io.Copy(far, c); far.Close() })
		both.Go(func() { _, _ = io.Copy(c, far); c.Close() })
		both.Wait()
	})
	cut = func() {
		l.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			c.Close()
		}
	}
	t.Cleanup(cut)
	return "tcp://" + l.Addr().String(), cut
}
