package journal_test

import (
	"errors"
	"testing"
	"time"

	"linli/internal/journal"
	"linli/internal/telemetry"
)

// readCounter counts the reads of a file system.
type readCounter struct {
	*memFS
	reads int
}

func (c *readCounter) Open(path string, write bool) (journal.File, error) {
	f, err := c.memFS.Open(path, write)
	return countedFile{f, c}, err
}

type countedFile struct {
	journal.File
	c *readCounter
}

func (f countedFile) ReadAt(b []byte, at int64) (int, error) {
	f.c.reads++
	return f.File.ReadAt(b, at)
}

func ofPoint(device, point string) func(*telemetry.Series) bool {
	return func(s *telemetry.Series) bool { return s.Device == device && s.Point == point }
}

// rows reads a span.
func rows(t testing.TB, j *journal.Journal, sp journal.Span, res journal.Resolution) (out []journal.Row) {
	t.Helper()
	err := j.Range(t.Context(), sp, res, func(r *journal.Row) error {
		row := *r
		if r.Series != nil {
			series := *r.Series
			row.Series = &series
		}
		out = append(out, row)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Of a point that is seldom read only the blocks of frames are read that have it; what is found is all there is of it, in
// the time asked for, with the gaps.
func TestRangeReadsOnlyWhatHasThePoint(t *testing.T) {
	fs := &readCounter{memFS: newMemFS()}
	inv := newInventory(4)
	cfg := journal.Config{Dir: "j", SegmentBytes: 256 << 10, MaxBytes: 64 << 20}
	begin := time.Unix(1_800_000_000, 0).UTC()
	n := 0
	var want []telemetry.Value
	for run := range 2 { // two processes in one boot
		j, err := journal.OpenFS(cfg, inv, newClock("boot1"), fs)
		if err != nil {
			t.Fatal(err)
		}
		for range 1000 {
			at := telemetry.Mono(n+600*run) * 1e9
			samples := mixed(inv, 30, at)
			for i := range samples {
				samples[i].Time = at
				if samples[i].Point == 1 {
					samples[i].Point = 6
				}
			}
			if n%400 == 7 {
				v := telemetry.IntValue(int64(n))
				samples = append(samples, telemetry.Sample{Point: 1, Time: at, Value: v})
				want = append(want, v)
			}
			j.Append(telemetry.Now{Mono: at + 1000, Wall: begin.Add(time.Duration(at))}, samples)
			// The wall clock of a frame is that of its commit.
			if err := j.Commit(); err != nil {
				t.Fatal(err)
			}
			n++
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	j, err := journal.OpenFS(cfg, inv, newClock("boot2"), fs)
	if err != nil {
		t.Fatal(err)
	}
	segs := j.Segments()
	if len(segs) < 2 || segs[0].From.IsZero() {
		t.Fatalf("segments %+v", segs)
	}
	all := journal.Span{Match: ofPoint("dev0", "energy_wh"), From: segs[0].From.Add(-time.Hour), To: segs[len(segs)-1].To.Add(time.Hour)}
	before := fs.reads
	got := rows(t, j, all, journal.Samples)
	var values []telemetry.Value
	var gap journal.Row
	for _, r := range got {
		if r.Series == nil {
			if gap.Gap != "" {
				t.Errorf("a second gap %+v", r)
			}
			gap = r
			continue
		}
		values = append(values, r.Value)
	}
	if len(values) != len(want) {
		t.Fatalf("%d samples, want %d", len(values), len(want))
	}
	for i := range want {
		if values[i] != want[i] {
			t.Errorf("sample %d is %v, want %v", i, values[i], want[i])
		}
	}
	// The clock of this test runs while the times are made up: the second run comes later by what the first has taken.
	if d := gap.Until.Sub(gap.At); gap.Gap != journal.GapStopped || d < 600*time.Second || d > 700*time.Second {
		t.Errorf("gap %+v of %v, want one of ten minutes", gap, d)
	}
	if reads := fs.reads - before; reads > 600 {
		t.Errorf("%d reads for %d samples in 2000 frames: the index is not used", reads, len(want))
	}
	one := all
	one.From, one.To = got[1].At, got[1].At.Add(1)
	if r := rows(t, j, one, journal.Samples); len(r) != 1 || r[0].Value != want[1] {
		t.Errorf("one moment has %+v, want %v", r, want[1])
	}
	stop := errors.New("enough")
	if err := j.Range(t.Context(), all, journal.Samples, func(*journal.Row) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("%v, want the caller's error", err)
	}
}
