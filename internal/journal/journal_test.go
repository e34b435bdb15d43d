package journal_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"linli/internal/journal"
	"linli/internal/telemetry"
)

var longAgo = time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC)

// newClock returns a clock of the named boot, in which ten minutes have passed and the wall clock is set.
func newClock(boot string) *telemetry.Clock {
	return telemetry.NewClock(boot, telemetry.Mono(10*time.Minute), longAgo)
}

// newInventory returns an inventory of devices with one point of each kind: point 5*d+k of device d is of kind k+1.
func newInventory(devices int) *telemetry.Inventory {
	inv := &telemetry.Inventory{Site: "s1", Gateway: "g1", Location: time.UTC}
	z := inv.AddZone(telemetry.Zone{ID: "b1", Parent: -1})
	class := &telemetry.Class{ID: "everything", Points: []telemetry.PointDef{
		{Name: "temperature_c", Kind: telemetry.Float}, {Name: "energy_wh", Kind: telemetry.Int},
		{Name: "occupied", Kind: telemetry.Bool}, {Name: "mode", Kind: telemetry.Enum}, {Name: "card", Kind: telemetry.KindText},
	}}
	for i := range devices {
		d := inv.AddDevice(telemetry.Device{ID: fmt.Sprintf("dev%d", i), Class: class, Zone: z})
		for k := range class.Points {
			inv.ProvidePoint(d, k)
		}
	}
	return inv
}

// appendStep appends samples as a step that begins a little after the latest of them was taken.
func appendStep(j *journal.Journal, samples []telemetry.Sample) {
	now := telemetry.Now{}
	for i := range samples {
		now.Mono = max(now.Mono, samples[i].Time)
	}
	now.Mono += telemetry.Mono(700 * time.Microsecond)
	now.Wall = time.Unix(1_800_000_000, int64(now.Mono))
	j.Append(now, samples)
}

func mustOpen(t *testing.T, cfg journal.Config, inv *telemetry.Inventory, clock *telemetry.Clock) *journal.Journal {
	t.Helper()
	j, err := journal.Open(cfg, inv, clock)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func commit(t *testing.T, j *journal.Journal) {
	t.Helper()
	if err := j.Commit(); err != nil {
		t.Fatal(err)
	}
}

func closeJournal(t *testing.T, j *journal.Journal) {
	t.Helper()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// readAll returns every frame between the bounds that can be read.
func readAll(t *testing.T, j *journal.Journal) (frames []journal.Frame) {
	t.Helper()
	first, next := j.Bounds()
	for seq := first; seq < next; seq++ {
		var f journal.Frame
		if err := j.Read(seq, &f); errors.Is(err, journal.ErrNotFound) {
			continue
		} else if err != nil {
			t.Fatalf("frame %d: %v", seq, err)
		}
		if f.Seq != seq || f.Epoch != j.Epoch() {
			t.Fatalf("frame %d says it is %d of epoch %x, want %x", seq, f.Seq, f.Epoch, j.Epoch())
		}
		frames = append(frames, f)
	}
	return frames
}

func records(frames []journal.Frame) (r []journal.Record) {
	for _, f := range frames {
		r = append(r, f.Records...)
	}
	return r
}

// checkSamples compares what was read with what was appended, bit by bit.
func checkSamples(t *testing.T, inv *telemetry.Inventory, got []journal.Record, want []telemetry.Sample) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("read %d samples, want %d", len(got), len(want))
	}
	for i, w := range want {
		g := got[i]
		if *g.Series != inv.Series(w.Point) || g.Time != w.Time || g.Quality != w.Quality || g.Value != w.Value {
			t.Fatalf("sample %d: got %v %d %v %v, want %v %d %v %v", i, *g.Series, g.Time, g.Quality, g.Value,
				inv.Series(w.Point), w.Time, w.Quality, w.Value)
		}
	}
}

// mixed returns samples of every kind and quality, with values that are hard to write.
func mixed(inv *telemetry.Inventory, n int, at telemetry.Mono) []telemetry.Sample {
	floats := []float64{21.5, 21.53, 0, math.Copysign(0, -1), 1e-300, math.MaxFloat64, -math.SmallestNonzeroFloat64,
		float64(float32(230.12)), float64(float32(math.Pi)), math.Pi, 1e15 + 0.5, -40, 0.1 + 0.2, 123456.789}
	ints := []int64{0, 1, -1, math.MaxInt64, math.MinInt64, 1 << 40, 42}
	out := make([]telemetry.Sample, n)
	for i := range out {
		s := telemetry.Sample{Point: telemetry.PointID((i*7 + i/11) % len(inv.Points)), Time: at.Add(time.Duration(i/3) * 1_234_567)}
		s.Quality = telemetry.Quality(i % 7 * (i % 2))
		if i%29 == 0 {
			s.Time -= 5e9
		}
		switch kind := inv.Points[s.Point].Def.Kind; {
		case s.Quality.Bad() && i%3 != 0: // most bad samples have no value; the journal keeps those that do
		case i%31 == 0:
			s.Value = telemetry.FloatValue(0.25) // a kind that the point does not have
		case kind == telemetry.Float:
			s.Value = telemetry.FloatValue(floats[i%len(floats)])
		case kind == telemetry.Bool:
			s.Value = telemetry.BoolValue(i%5 < 2)
		case kind == telemetry.Int:
			s.Value = telemetry.IntValue(ints[i%len(ints)])
		case kind == telemetry.Enum:
			s.Value = telemetry.EnumValue(ints[i%len(ints)])
		case kind == telemetry.KindText:
			s.Value = telemetry.TextValue(fmt.Sprintf("卡 %d", i))
		}
		out[i] = s
	}
	return out
}

func TestInvariantExactlyAsAppended(t *testing.T) {
	inv := newInventory(20)
	cfg := journal.Config{Dir: t.TempDir(), SegmentBytes: 32 << 10, MaxBytes: 64 << 20}
	j := mustOpen(t, cfg, inv, newClock("boot1"))
	var want []telemetry.Sample
	for i := range 200 {
		batch := mixed(inv, 1+i*7%400, telemetry.Mono(i)*1e9)
		appendStep(j, batch)
		want = append(want, batch...)
		commit(t, j)
	}
	checkSamples(t, inv, records(readAll(t, j)), want)
	epoch := j.Epoch()
	_, next := j.Bounds()
	if s := j.Stats(); s.Segments < 3 || s.SamplesWritten != uint64(len(want)) || s.DamagedFrames != 0 {
		t.Errorf("stats %+v: want several segments and %d samples", s, len(want))
	}
	closeJournal(t, j)

	// Twice: the second time every segment has a footer.
	for round := range 3 {
		j = mustOpen(t, cfg, inv, newClock("boot2"))
		if _, n := j.Bounds(); j.Epoch() != epoch || n != next {
			t.Fatalf("round %d: reopened at epoch %x next %d, want %x %d", round, j.Epoch(), n, epoch, next)
		}
		checkSamples(t, inv, records(readAll(t, j)), want)
		if s := j.Stats(); s.DamagedFrames != 0 || s.SamplesLost != 0 {
			t.Errorf("round %d: %+v: want no damage", round, s)
		}
		closeJournal(t, j)
	}
}

func TestRunCommitsAtTheIntervalAndAtTheEnd(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		inv := newInventory(1)
		j := mustOpen(t, journal.Config{Dir: dir}, inv, newClock("boot1"))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- j.Run(ctx) }()

		batch := mixed(inv, 10, 0)
		changed := j.Changed()
		start := time.Now()
		appendStep(j, batch)
		if _, next := j.Bounds(); next != 1 {
			t.Errorf("visible before the commit: next %d", next)
		}
		<-changed
		if d := time.Since(start); d > time.Second {
			t.Errorf("committed after %v, want 1 s at most", d)
		}
		appendStep(j, batch)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		checkSamples(t, inv, records(readAll(t, j)), append(batch, batch...))
		closeJournal(t, j)
	})
}

// The dictionaries of sealed segments are given back once nobody has read there for a while, and read again when needed.
func TestDictionariesAreGivenBack(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		inv := newInventory(20)
		j := mustOpen(t, journal.Config{Dir: dir, SegmentBytes: 32 << 10}, inv, newClock("boot1"))
		var want []telemetry.Sample
		for i := range 100 {
			batch := mixed(inv, 300, telemetry.Mono(i)*1e9)
			appendStep(j, batch)
			want = append(want, batch...)
			commit(t, j)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- j.Run(ctx) }()
		for range 2 {
			checkSamples(t, inv, records(readAll(t, j)), want)
			time.Sleep(50 * time.Second)
			if n := j.KeptDictionaries(); n < 2 {
				t.Errorf("after 50 s %d dictionaries are kept, want those that were read last", n)
			}
			time.Sleep(15 * time.Second)
			if n := j.KeptDictionaries(); n != 0 {
				t.Errorf("after 65 s %d dictionaries are kept", n)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		closeJournal(t, j)
	})
}

func TestSetInventory(t *testing.T) {
	old, inv := newInventory(3), newInventory(9)
	j := mustOpen(t, journal.Config{Dir: t.TempDir()}, old, newClock("boot1"))
	defer j.Close()
	inv.Devices[0].ID = "renamed" // point 0 is another series now
	a, b := mixed(old, 100, 0), mixed(inv, 100, 1e9)
	appendStep(j, a)
	j.SetInventory(inv) // before the commit: each sample is of the inventory it was appended under
	appendStep(j, b)
	appendStep(j, []telemetry.Sample{{Point: telemetry.NoPoint}, {Point: 45}})
	commit(t, j)
	got := records(readAll(t, j))
	if len(got) != 200 {
		t.Fatalf("%d samples, want 200", len(got))
	}
	checkSamples(t, old, got[:100], a)
	checkSamples(t, inv, got[100:], b)
	if s := j.Stats(); s.SamplesLost != 2 {
		t.Errorf("%d samples lost, want the 2 of points that do not exist", s.SamplesLost)
	}
}

// TestBacklog writes what an outage of the disk has left in memory: many frames over several segments in one commit.
func TestBacklog(t *testing.T) {
	inv := newInventory(200)
	cfg := journal.Config{Dir: t.TempDir(), SegmentBytes: 128 << 10}
	j := mustOpen(t, cfg, inv, newClock("boot1"))
	want := mixed(inv, 150_000, 0)
	appendStep(j, want)
	commit(t, j)
	if s := j.Stats(); s.Segments < 3 || s.Pending != 0 {
		t.Errorf("%+v: want several segments", s)
	}
	checkSamples(t, inv, records(readAll(t, j)), want)
	closeJournal(t, j)
	j = mustOpen(t, cfg, inv, newClock("boot1"))
	defer j.Close()
	checkSamples(t, inv, records(readAll(t, j)), want)
}
