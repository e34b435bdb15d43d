package uplink_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

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
