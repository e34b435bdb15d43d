package journal_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"linli/internal/journal"
	"linli/internal/telemetry"
)

// A wall clock that reads a far future makes nothing old, whatever boot it is of.
func TestFarFutureMakesNothingOld(t *testing.T) {
	cfg := journal.Config{Dir: t.TempDir(), SegmentBytes: 16 << 10}
	// A bubble's clock begins in the year 2000: the present is a quarter of a century later.
	synctest.Test(t, func(t *testing.T) {
		clock := telemetry.NewClock("boot1", 0, time.Unix(0, 0))
		j := mustOpen(t, cfg, textInventory(), clock)
		s := numbered(1)
		s.Time = clock.Mono()
		appendStep(j, []telemetry.Sample{s})
		commit(t, j)
		closeJournal(t, j)
	})
	j := mustOpen(t, cfg, textInventory(), telemetry.NewClock("boot2", 0, time.Unix(0, 0)))
	s := numbered(2)
	appendStep(j, []telemetry.Sample{s})
	commit(t, j)
	commit(t, j)
	if first, next := j.Bounds(); first != 1 || next != 3 {
		t.Errorf("frames %d to %d", first, next)
	}
	closeJournal(t, j)
}

// A frame of an unsealed segment that is damaged takes at most the names with it that nobody has repeated.
func TestDictionaryIsRepeated(t *testing.T) {
	cfg := journal.Config{Dir: t.TempDir()}
	inv := newInventory(3)
	clock := newClock("boot1")
	j := mustOpen(t, cfg, inv, clock)
	n := 0
	for i := range 200 {
		s := mixed(inv, 20, telemetry.Mono(i)*1e9)
		n += len(s)
		appendStep(j, s)
		commit(t, j)
	}
	before := readAll(t, j)
	j.Kill()
	names, _ := filepath.Glob(filepath.Join(cfg.Dir, "*.seg"))
	b, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	b[128+70] ^= 1 // in the first frame's payload
	if err := os.WriteFile(names[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	j = mustOpen(t, cfg, inv, clock)
	defer closeJournal(t, j)
	for _, want := range before[1:] {
		var f journal.Frame
		if err := j.Read(want.Seq, &f); err != nil {
			t.Fatalf("frame %d: %v", want.Seq, err)
		}
		for i := range f.Records {
			if g, w := f.Records[i], want.Records[i]; *g.Series != *w.Series || g.Value != w.Value || g.Time != w.Time {
				t.Fatalf("frame %d: %+v %+v, want %+v", want.Seq, *g.Series, g, *w.Series)
			}
		}
	}
}

// After a lost frame with names the names that come later must not slip into the places of those.
func TestNamesDoNotMoveUp(t *testing.T) {
	cfg := journal.Config{Dir: t.TempDir()}
	inv := newInventory(30)
	clock := newClock("boot1")
	j := mustOpen(t, cfg, inv, clock)
	for i := range 6 {
		var s []telemetry.Sample
		for k := range 5 { // each frame has points that the ones before had not
			s = append(s, telemetry.Sample{Point: telemetry.PointID(5*(5*i+k) + 2), Time: telemetry.Mono(i) * 1e9, Value: telemetry.BoolValue(k%2 == 0)})
		}
		appendStep(j, s)
		commit(t, j)
		appendStep(j, s)
		commit(t, j)
	}
	before := readAll(t, j)
	j.Kill()
	names, _ := filepath.Glob(filepath.Join(cfg.Dir, "*.seg"))
	b, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	b[128+70] ^= 1
	if err := os.WriteFile(names[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	j = mustOpen(t, cfg, inv, clock)
	defer closeJournal(t, j)
	readable := 0
	for _, want := range before {
		var f journal.Frame
		if j.Read(want.Seq, &f) != nil {
			continue // told as damaged
		}
		if want.Seq > 2 {
			readable++
		}
		for i := range f.Records {
			if g, w := f.Records[i], want.Records[i]; *g.Series != *w.Series || g.Value != w.Value {
				t.Fatalf("frame %d: %+v for %+v", want.Seq, *g.Series, *w.Series)
			}
		}
	}
	if readable != 10 {
		t.Errorf("%d frames of 10 that have their names can be read", readable)
	}
}

// A journal that came back shorter goes on behind the numbers that were told, also after another restart.
func TestSkip(t *testing.T) {
	cfg := journal.Config{Dir: t.TempDir()}
	j := mustOpen(t, cfg, textInventory(), newClock("boot1"))
	h := newHistory(t)
	h.append(j, 10)
	h.commit(j)
	if from, err := j.Skip(1001); err != nil || from != 2 {
		t.Fatal(from, err)
	}
	if _, err := j.Skip(5); err != nil {
		t.Fatal(err)
	}
	h.append(j, 10)
	h.commit(j)
	check := func(j *journal.Journal) {
		t.Helper()
		frames := readAll(t, j)
		if len(frames) != 3 || frames[0].Seq != 1 || frames[1].Seq != 1001 || frames[2].Seq != 1002 {
			t.Fatalf("%d frames", len(frames))
		}
		if l := frames[1].Lost; l == nil || l.FirstSeq != 2 || l.LastSeq != 1000 {
			t.Errorf("told %+v", l)
		}
	}
	check(j)
	closeJournal(t, j)
	j = mustOpen(t, cfg, textInventory(), newClock("boot1"))
	commit(t, j)
	check(j)
	closeJournal(t, j)
}

// A loss that somebody else knows of is told with its own times, also of before this boot.
func TestTellLost(t *testing.T) {
	cfg := journal.Config{Dir: t.TempDir()}
	j := mustOpen(t, cfg, textInventory(), newClock("boot1"))
	h := newHistory(t)
	h.append(j, 10)
	h.commit(j)
	from := time.Now().Add(-48 * time.Hour)
	to := from.Add(time.Hour)
	if err := j.TellLost(from, to); err != nil {
		t.Fatal(err)
	}
	if err := j.TellLost(to, from); err == nil {
		t.Error("a loss that ends before it begins is told")
	}
	h.commit(j)
	check := func(j *journal.Journal) {
		t.Helper()
		frames := readAll(t, j)
		if len(frames) != 2 || frames[1].Lost == nil {
			t.Fatalf("%d frames", len(frames))
		}
		f := &frames[1]
		if l := f.Lost; l.FirstSeq != 0 || l.LastSeq != 0 || l.Count != 0 || l.Reason != journal.LossDamage {
			t.Errorf("told %+v", l)
		}
		a, _ := f.Wall(f.T0)
		z, _ := f.Wall(f.T1)
		if a.Sub(from).Abs() > time.Second || z.Sub(to).Abs() > time.Second {
			t.Errorf("told from %v to %v, want %v to %v", a, z, from, to)
		}
	}
	check(j)
	closeJournal(t, j)
	j = mustOpen(t, cfg, textInventory(), newClock("boot1"))
	check(j)
	closeJournal(t, j)
}

// Somebody removes the state directory while the gateway runs: it is said once, made again, and nothing that still was
// in memory is lost.
func TestDirectoryRemoved(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	cfg := journal.Config{Dir: filepath.Join(t.TempDir(), "state", "journal"), Log: zap.New(core)}
	j := mustOpen(t, cfg, textInventory(), newClock("boot1"))
	h := newHistory(t)
	h.append(j, 10)
	h.commit(j)
	if err := os.RemoveAll(filepath.Dir(cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	h.append(j, 10)
	if err := j.Commit(); err == nil {
		t.Error("a commit into a deleted file succeeded")
	}
	if s := j.Stats(); s.CommitFailures != 1 || !strings.Contains(s.LastError, "deleted") {
		t.Errorf("%+v", s)
	}
	h.append(j, 10)
	commit(t, j)
	if s := j.Stats(); s.LastError != "" || s.Pending != 0 {
		t.Errorf("%+v", s)
	}
	var said []string
	for _, e := range logs.All() {
		said = append(said, e.Level.String()+" "+e.Message)
	}
	if want := []string{"error journal not written, samples wait in memory", "info journal written again"}; !slices.Equal(said, want) {
		t.Errorf("logged %q, want %q", said, want)
	}
	if frames := readAll(t, j); len(records(frames)) != 20 {
		t.Errorf("%d samples, want the 20 after the removal", len(records(frames)))
	}
	if _, err := journal.Open(cfg, textInventory(), newClock("boot1")); err == nil {
		t.Error("the new directory is not locked")
	}
	closeJournal(t, j)
}

// While the disk fails there is one line, not one per attempt; Settled stands still.
func TestFailureIsLoggedOnce(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	fs := newMemFS()
	clock := newClock("boot1")
	j, err := journal.OpenFS(journal.Config{Dir: "j", SegmentBytes: 16 << 10, Log: zap.New(core)}, textInventory(), clock, fs)
	if err != nil {
		t.Fatal(err)
	}
	h := newHistory(t)
	h.append(j, 10)
	h.commit(j)
	settled := j.Settled()
	if settled <= 0 || settled > clock.Mono() {
		t.Errorf("settled at %v", settled)
	}
	fs.syncErr = true
	for range 14 {
		h.append(j, 10)
		if j.Commit() == nil {
			t.Fatal("committed on a failing disk")
		}
	}
	if n := logs.Len(); n != 1 {
		t.Errorf("%d log lines", n)
	}
	if j.Settled() != settled {
		t.Error("settled while the disk fails")
	}
	fs.syncErr = false
	h.commit(j)
	if n := logs.Len(); n != 2 || j.Settled() <= settled {
		t.Errorf("%d log lines, settled %v", n, j.Settled())
	}
	closeJournal(t, j)
}
