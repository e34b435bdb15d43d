package uplink_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"linli/internal/journal"
	"linli/internal/telemetry"
	"linli/internal/uplink"
)

// The disk forgets the journal's tail: what is left and what comes after goes out under numbers that mean nothing else,
// and what the city has already is not told as lost.
func TestTailOfTheRealJournalIsLost(t *testing.T) {
	cfg := journal.Config{Dir: filepath.Join(t.TempDir(), "journal")}
	inv := &telemetry.Inventory{Site: "riverside", Gateway: "gw1"}
	class := &telemetry.Class{ID: "counter", Points: []telemetry.PointDef{{Name: "n", Kind: telemetry.Int}}}
	point := inv.ProvidePoint(inv.AddDevice(telemetry.Device{ID: "c1", Class: class, Zone: inv.AddZone(telemetry.Zone{ID: "z", Parent: -1})}), 0)
	clock := telemetry.NewClock("boot", 0, time.Unix(0, 0))
	h := startHostile(t, ackAll)
	run := func() (*journal.Journal, *uplink.Uplink) {
		j, err := journal.Open(cfg, inv, clock)
		if err != nil {
			t.Fatal(err)
		}
		u, err := uplink.New(uplink.Config{Site: "riverside", Gateway: "gw1", Brokers: []string{h.url}, StateDir: filepath.Dir(cfg.Dir), Clock: clock}, j, newBook(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return j, u
	}
	add := func(j *journal.Journal, n int) {
		for i := range n {
			j.Append(clock.Now(), []telemetry.Sample{{Point: point, Time: clock.Mono(), Value: telemetry.IntValue(int64(i))}})
			if err := j.Commit(); err != nil {
				t.Fatal(err)
			}
		}
	}
	j, u := run()
	stop := runUntilStopped(t, u)
	add(j, 40)
	eventually(t, "delivered", func() bool { return j.Stats().Released == 41 })
	stop()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	names, _ := filepath.Glob(filepath.Join(cfg.Dir, "*.seg"))
	info, err := os.Stat(names[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(names[0], info.Size()/2); err != nil {
		t.Fatal(err)
	}
	before := len(h.on("/telemetry"))
	j, u = run()
	defer j.Close()
	add(j, 5)
	stop = runUntilStopped(t, u)
	eventually(t, "delivered again", func() bool {
		s := j.Stats()
		return u.Status().BacklogFrames == 0 && s.Released == s.Next && s.Next > 1041
	})
	stop()
	frames, lost := sent(t, h.on("/telemetry")[before:])
	fresh := 0
	for seq := range frames {
		if seq > 1040 {
			fresh++
		} else if seq > 40 {
			t.Errorf("number %d may have been told before", seq)
		}
	}
	if frames[1] == 0 || fresh < 6 {
		t.Errorf("frames %v", frames)
	}
	for _, l := range lost {
		// The frame that was cut in two is told: whether it was sent under that number is not known any more.
		if l.From <= 40 && (l.Reason != journal.LossTorn || l.From != l.To) {
			t.Errorf("told as lost although the city has it: %+v", l)
		}
	}
}
