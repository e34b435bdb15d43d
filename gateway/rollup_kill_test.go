package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"linli/internal/journal"
	"linli/internal/telemetry"
)

var rollupKills = flag.Int("rollups", 2, "how often TestKilledWhileRollingUp kills the gateway; make soak says 40")

const (
	oldHours  = 150              // of samples that are to be rolled up; less than the week that a journal keeps
	oldEvery  = 20 * time.Second // one is taken
	oldMinute = int(time.Minute / oldEvery)
	killsEach = 5 // of one state directory, so that there is always something left to do
)

// TestKilledWhileRollingUp kills the gateway with SIGKILL while it writes rollups: of a box that was off, or could not write them,
// there are many hours to do. In the end they are all there, once, and say what was measured.
func TestKilledWhileRollingUp(t *testing.T) {
	t.Parallel()
	made := filepath.Join(t.TempDir(), "made")
	began := keepOldHours(t, filepath.Join(made, "journal"))
	hits := map[string]int{}
	for left := *rollupKills; left > 0; left -= killsEach {
		state := filepath.Join(t.TempDir(), "state")
		if err := os.CopyFS(state, os.DirFS(made)); err != nil {
			t.Fatal(err)
		}
		killWhileRolling(t, state, min(left, killsEach), hits)
		checkOldHours(t, state, began)
	}
	met := 0
	for file, n := range hits {
		if strings.Contains(file, ".minutes") || strings.Contains(file, ".hours") {
			met += n
		}
	}
	t.Logf("%d kills, by the file that was written or synced just before: %v", *rollupKills, hits)
	if met == 0 && *rollupKills >= 2*killsEach { // Of two kills both may come between the files.
		t.Error("no kill hit a rollup: the test shows too little")
	}
}

// killWhileRolling starts the gateway and kills it, and lets it finish at last.
func killWhileRolling(t *testing.T, state string, kills int, hits map[string]int) {
	console := freePort(t)
	site := writeSite(t, fmt.Sprintf(yardHead+`buses:
  - id: tcp_1
    modbus_tcp: {address: "127.0.0.1:%d"}
    units: [{id: c, address: 1, profile: soak_counter}]
devices:
  - {id: counter, unit: c, zone: yard, title: {zh: 计数, en: Counter}}
console: {listen: "127.0.0.1:%d"}
`, freePort(t), console), map[string]string{"profiles/soak_counter.yaml": soakCounter})
	s := &soak{t: t, site: site, state: state}
	for range kills {
		s.start()
		hit := s.phaseSeen("rollup", time.Minute)
		for range rand.N(10) { // Not always the first.
			if more := s.phaseSeen("rollup", time.Second); more != "" {
				hit = more
			}
		}
		hits[or(hit, "none")]++
		s.kill()
	}
	s.start()
	minutes := func() int {
		names, err := filepath.Glob(filepath.Join(state, "journal", "*.minutes"))
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	waitFor(t, time.Minute, "all hours rolled up", func() bool { return minutes() >= oldHours })
	waitFor(t, time.Minute, "their days too", func() bool {
		names, _ := filepath.Glob(filepath.Join(state, "journal", "*.hours"))
		return len(names) >= oldHours/24
	})
	s.gateway.stop(15 * time.Second)
	for _, pattern := range []string{"*.part", "*.damaged"} {
		if names, _ := filepath.Glob(filepath.Join(state, "journal", pattern)); len(names) > 0 {
			t.Errorf("left over: %v", names)
		}
	}
}

// phaseSeen waits until the gateway is in the phase and returns the kind of call and file, "" where it was not within limit.
func (s *soak) phaseSeen(want string, limit time.Duration) string {
	w := s.watch()
	defer w.close()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		if what, name := w.changing(want); phaseOf(what, name) == want {
			return what + " *" + strings.TrimPrefix(filepath.Base(name), strings.SplitN(filepath.Base(name), ".", 2)[0])
		}
	}
	return ""
}

// oldValue is the value of sample i, so that each is another one.
func oldValue(i int) float64 { return float64(i%997) + float64(i)/1e6 }

// keepOldHours makes a journal of samples of the first hours of the year 2000 and returns when they begin.
func keepOldHours(t *testing.T, dir string) (began time.Time) {
	synctest.Test(t, func(t *testing.T) { // Its clock begins there.
		inv := &telemetry.Inventory{Site: "test", Gateway: "gw1"}
		class := &telemetry.Class{ID: "energy_meter", Points: []telemetry.PointDef{{Name: "power", Unit: "W", Kind: telemetry.Float}}}
		point := inv.ProvidePoint(inv.AddDevice(telemetry.Device{ID: "old", Class: class, Zone: inv.AddZone(telemetry.Zone{ID: "yard", Parent: -1})}), 0)
		clock := telemetry.NewClock("an earlier boot", 0, time.Unix(0, 0))
		if err := os.MkdirAll(filepath.Dir(dir), 0o750); err != nil {
			t.Fatal(err)
		}
		j, err := journal.Open(journal.Config{Dir: dir, RollupBytes: -1}, inv, clock)
		if err != nil {
			t.Fatal(err)
		}
		began = time.Now().Truncate(time.Hour).Add(time.Hour)
		time.Sleep(time.Until(began))
		for i := range oldHours*60*oldMinute + 1 { // The last one says how long the one before it held.
			j.Append(clock.Now(), []telemetry.Sample{{Point: point, Time: clock.Mono(), Value: telemetry.FloatValue(oldValue(i))}})
			time.Sleep(oldEvery)
			if (i+1)%(60*oldMinute) == 0 {
				if err := j.Commit(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := errors.Join(j.Commit(), j.Close()); err != nil {
			t.Fatal(err)
		}
	})
	return began
}

// checkOldHours compares the minutes with what keepOldHours wrote, by the product's own eyes and by arithmetic.
func checkOldHours(t *testing.T, state string, began time.Time) {
	t.Helper()
	if out, err := exec.Command(binary(t), "journal", "verify", "--state", state).CombinedOutput(); err != nil || !bytes.HasPrefix(out, []byte("good.")) {
		t.Errorf("journal verify: %v\n%s", err, out)
	}
	j, err := journal.Open(journal.Config{Dir: filepath.Join(state, "journal"), ReadOnly: true}, &telemetry.Inventory{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	n := 0
	err = j.Range(t.Context(), journal.Span{Device: "old", Point: "power", From: began, To: began.Add(oldHours * time.Hour)}, journal.Minutes, func(r *journal.Row) error {
		if r.Gap != "" {
			return nil
		}
		if at := began.Add(time.Duration(n) * time.Minute); !r.At.Equal(at) {
			return fmt.Errorf("row %d is the minute %s, want %s", n, r.At, at)
		}
		least, most, sum := oldValue(n*oldMinute), 0.0, 0.0
		for i := n * oldMinute; i < (n+1)*oldMinute; i++ {
			v := oldValue(i)
			least, most, sum = min(least, v), max(most, v), sum+v
		}
		mean := sum / float64(oldMinute)
		if r.Count != uint64(oldMinute) || r.Min.Float() != least || r.Max.Float() != most || r.Last.Float() != oldValue((n+1)*oldMinute-1) ||
			math.Abs(r.Mean-mean) > (most-least)/131000 {
			t.Errorf("minute %d: %+v, want %d readings from %v to %v, mean %v", n, r.Rollup, oldMinute, least, most, mean)
		}
		n++
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if n != oldHours*60 {
		t.Errorf("%d minutes, want %d", n, oldHours*60)
	}
	if st := j.Stats().Rollups; st.Damaged != 0 || st.Minutes < oldHours {
		t.Errorf("rollups %+v", st)
	}
}
