package journal_test

import (
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"linli/internal/journal"
	"linli/internal/telemetry"
)

// given is one thing that the rules engine was given: a step or a mark.
type given struct {
	now     telemetry.Now
	samples []telemetry.Sample
	mark    *journal.Mark
}

// idOf returns the points of inv by series.
func idOf(inv *telemetry.Inventory) func(telemetry.Series) telemetry.PointID {
	ids := map[telemetry.Series]telemetry.PointID{}
	for i := range inv.Points {
		ids[inv.Series(telemetry.PointID(i))] = telemetry.PointID(i)
	}
	return func(s telemetry.Series) telemetry.PointID {
		if id, ok := ids[s]; ok {
			return id
		}
		return telemetry.NoPoint
	}
}

// replay reads all of j.
func replay(t *testing.T, j *journal.Journal, inv *telemetry.Inventory) (items []journal.Item) {
	t.Helper()
	first, next := j.Bounds()
	r := j.Replay(first, next, idOf(inv))
	for {
		var it journal.Item
		if err := r.Next(&it); err == io.EOF {
			return items
		} else if err != nil {
			t.Fatal(err)
		}
		it.Samples = slices.Clone(it.Samples)
		items = append(items, it)
	}
}

// checkReplay holds what a replay says against what was given: everything, in order, but for steps without samples that
// make no difference. It returns how many of those were left out.
func checkReplay(t *testing.T, items []journal.Item, want []given) (left int) {
	t.Helper()
	k := 0
	for i, w := range want {
		if k < len(items) && same(&items[k], &w) {
			k++
			continue
		}
		free := w.mark == nil && len(w.samples) == 0 && i > 0 && i+1 < len(want) && want[i-1].mark == nil && want[i+1].mark == nil &&
			w.now.Uncertain == want[i-1].now.Uncertain && w.now.Wall.IsZero() == want[i-1].now.Wall.IsZero() &&
			(w.now.Wall.IsZero() || w.now.Wall.Sub(want[i-1].now.Wall) == w.now.Mono.Sub(want[i-1].now.Mono))
		for _, s := range want[min(i+1, len(want)-1)].samples {
			free = free && s.Time > w.now.Mono
		}
		if !free {
			t.Fatalf("item %d of %d is %+v, want number %d: %+v", k, len(items), items[min(k, len(items)-1)], i, w)
		}
		left++
	}
	if k != len(items) {
		t.Fatalf("%d items more than were given: %+v", len(items)-k, items[k])
	}
	return left
}

func same(it *journal.Item, w *given) bool {
	if it.Missing != nil || it.Guessed || it.Now.Mono != w.now.Mono || (it.Mark != nil) != (w.mark != nil) {
		return false
	}
	if w.mark != nil {
		return reflect.DeepEqual(it.Mark, w.mark)
	}
	return it.Now.Wall.Equal(w.now.Wall) && it.Now.Uncertain == w.now.Uncertain && slices.Equal(it.Samples, w.samples)
}

// TestInvariantReplayIsWhatWasGiven gives a journal steps and marks of every sort, commits at any place, and reads the
// same back: while it is being written, from beside, and after a clean and an unclean end.
func TestInvariantReplayIsWhatWasGiven(t *testing.T) {
	inv := newInventory(20)
	left := 0
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		cfg := journal.Config{Dir: t.TempDir(), SegmentBytes: 32 << 10, MaxBytes: 64 << 20}
		j := mustOpen(t, cfg, inv, newClock("boot1"))
		unit := []telemetry.Mono{1, 1000}[seed%2]
		now := telemetry.Now{Mono: 5_000_000_000}
		var want []given
		for range 300 {
			d := unit * telemetry.Mono(1+r.Int64N(int64(time.Second)/int64(unit)))
			now.Mono += d
			switch r.IntN(12) {
			case 0:
				now.Wall, now.Uncertain = time.Time{}, false
			case 1:
				now.Wall, now.Uncertain = time.Unix(1_800_000_000+r.Int64N(1000), r.Int64N(1e9)).UTC(), r.IntN(2) == 0
			default:
				if !now.Wall.IsZero() { // it goes on
					now.Wall = now.Wall.Add(time.Duration(d))
				}
			}
			g := given{now: now}
			switch r.IntN(8) {
			case 0:
				marks := []journal.Mark{
					{Kind: journal.MarkStart, Rules: "r1"}, {Kind: journal.MarkReload, Rules: strings.Repeat("x", 64)}, {Kind: journal.MarkSnapshot},
					{Kind: journal.MarkStart, Rules: "r2", Resumed: true, Snapshot: -5, SnapshotBoot: "b", By: -time.Hour},
					{Kind: journal.MarkClosed, Closed: []telemetry.Identity{{Alert: "A", Subject: "dev1"}, {Alert: "B", Subject: ""}}},
				}
				g.mark = &marks[r.IntN(len(marks))]
				j.Mark(now.Mono, *g.mark)
			case 1, 2, 3:
				j.Append(now, nil)
			default:
				// Taken just before the step and, now and then, before the step before.
				g.samples = mixed(inv, 1+r.IntN(60), now.Mono-telemetry.Mono(r.Int64N(int64(300*time.Millisecond))))
				k := 1 + r.IntN(2*len(g.samples))
				if k < len(g.samples) { // handed over in two parts
					j.Append(now, g.samples[:k])
					j.Append(now, g.samples[k:])
				} else {
					j.Append(now, g.samples)
				}
			}
			want = append(want, g)
			if r.IntN(10) == 0 {
				commit(t, j)
			}
		}
		commit(t, j)
		left += checkReplay(t, replay(t, j, inv), want)
		beside := cfg
		beside.ReadOnly = true
		look := mustOpen(t, beside, nil, nil)
		checkReplay(t, replay(t, look, inv), want)
		closeJournal(t, look)
		if seed%2 == 0 {
			closeJournal(t, j)
		} else {
			j.Kill()
		}
		j = mustOpen(t, cfg, inv, newClock("boot2"))
		checkReplay(t, replay(t, j, inv), want)
		closeJournal(t, j)
	}
	if left == 0 {
		t.Error("no step was left out: the test does not reach that")
	}
}

// TestStepOverSeveralFrames: the parts of a step that is larger than a frame are one step again.
func TestStepOverSeveralFrames(t *testing.T) {
	inv := newInventory(200)
	j := mustOpen(t, journal.Config{Dir: t.TempDir(), SegmentBytes: 128 << 10}, inv, newClock("boot1"))
	defer j.Close()
	var want []given
	for i := range 3 {
		g := given{now: telemetry.Now{Mono: telemetry.Mono(i+1) * 1e12}, samples: mixed(inv, 40_000, telemetry.Mono(i+1)*1e12-1e11)}
		j.Append(g.now, g.samples)
		want = append(want, g)
	}
	commit(t, j)
	if n := len(readAll(t, j)); n < 20 {
		t.Fatalf("%d frames: the steps are not split", n)
	}
	checkReplay(t, replay(t, j, inv), want)
	// So they are when the rest of a step comes after a commit.
	g := given{now: telemetry.Now{Mono: 9e12}, samples: mixed(inv, 100, 8e12)}
	j.Append(g.now, g.samples[:50])
	commit(t, j)
	j.Append(g.now, g.samples[50:])
	commit(t, j)
	checkReplay(t, replay(t, j, inv), append(want, g))
}

// TestReplayLeavesOutWhatIsNotOfTheSite: derived points without a word, series that the site does not have counted.
func TestReplayLeavesOutWhatIsNotOfTheSite(t *testing.T) {
	inv := newInventory(2)
	record := inv.AddDerived("r", "dev0", 0, &telemetry.PointDef{Name: "r", Kind: telemetry.Float})
	j := mustOpen(t, journal.Config{Dir: t.TempDir()}, inv, newClock("boot1"))
	defer j.Close()
	known := telemetry.Sample{Point: 2, Time: 10, Value: telemetry.BoolValue(true)}
	j.Append(telemetry.Now{Mono: 20}, []telemetry.Sample{
		{Point: 7, Time: 9, Value: telemetry.BoolValue(true)}, known, {Point: record, Time: 20, Value: telemetry.FloatValue(1)}, {Point: 7, Time: 11, Value: telemetry.BoolValue(false)}})
	commit(t, j)
	first, next := j.Bounds()
	r := j.Replay(first, next, idOf(newInventory(1)))
	var it journal.Item
	if err := r.Next(&it); err != nil || it.Now.Mono != 20 || !slices.Equal(it.Samples, []telemetry.Sample{known}) {
		t.Errorf("%+v, %v: want the one sample", it, err)
	}
	if err := r.Next(&it); err != io.EOF || r.Skipped() != 2 {
		t.Errorf("%v, %d samples left out, want the end and 2", err, r.Skipped())
	}
}

// TestReplayOfTheFirstBuilds: where nobody wrote down the steps, each time is one.
func TestReplayOfTheFirstBuilds(t *testing.T) {
	cfg := journal.Config{Dir: t.TempDir()}
	inv := newInventory(20)
	j := mustOpen(t, cfg, inv, newClock("boot1"))
	for i := range 3 {
		appendStep(j, mixed(inv, 40, telemetry.Mono(i+1)*1e9))
		commit(t, j)
	}
	closeJournal(t, j)
	names, _ := filepath.Glob(filepath.Join(cfg.Dir, "*.seg"))
	b, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(names[0], journal.WithoutSteps(b, names[0]), 0o600); err != nil {
		t.Fatal(err)
	}
	j = mustOpen(t, cfg, inv, newClock("boot1"))
	defer j.Close()
	items := replay(t, j, inv)
	n := 0
	for _, it := range items {
		n += len(it.Samples)
		if !it.Guessed || it.Mark != nil || it.Missing != nil || it.Now.Wall.IsZero() || !it.At.Equal(it.Now.Wall) {
			t.Fatalf("%+v: want a guessed step with a wall clock", it)
		}
		for _, s := range it.Samples {
			if s.Time != it.Now.Mono {
				t.Fatalf("a sample of %d in the step of %d", s.Time, it.Now.Mono)
			}
		}
	}
	if n != 120 || len(items) < 30 {
		t.Errorf("%d steps with %d samples, want more than 30 with 120", len(items), n)
	}
}

// TestReplayTellsWhatIsMissing: frames that are damaged, and samples that never became a frame, each at its place.
func TestReplayTellsWhatIsMissing(t *testing.T) {
	cfg := journal.Config{Dir: t.TempDir()}
	path, at := tenFrames(t, cfg, true)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []int{3, 4, 7} {
		b[at[k]+70] ^= 1
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	j := mustOpen(t, cfg, textInventory(), newClock("boot1"))
	var got []any
	for _, it := range replay(t, j, textInventory()) {
		if it.Missing != nil {
			got = append(got, *it.Missing)
		} else if n := len(got); n > 0 && reflect.TypeOf(got[n-1]).Kind() == reflect.Int {
			got[n-1] = got[n-1].(int) + 1
		} else {
			got = append(got, 1)
		}
	}
	want := []any{30, journal.Missing{Frames: 2, Reason: journal.LossDamage}, 20, journal.Missing{Frames: 1, Reason: journal.LossDamage}, 20}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("steps and gaps %v, want %v", got, want)
	}
	closeJournal(t, j)

	// The disk fails for longer than memory lasts: the start of the process is not forgotten with what is dropped.
	fs := newMemFS()
	small := smallSegments
	small.MaxPending = 100
	if j, err = journal.OpenFS(small, textInventory(), newClock("boot1"), fs); err != nil {
		t.Fatal(err)
	}
	fs.full, fs.syncErr = true, true
	j.Mark(1, journal.Mark{Kind: journal.MarkStart, Rules: "r"})
	newHistory(t).append(j, 500)
	if j.Commit() == nil {
		t.Fatal("committed on a full disk")
	}
	fs.full, fs.syncErr = false, false
	commit(t, j)
	items := replay(t, j, textInventory())
	if len(items) < 40 || items[0].Missing == nil || items[0].Missing.Samples != 450 || items[0].Missing.Reason != journal.LossPendingFull ||
		items[1].Mark == nil || items[1].Mark.Kind != journal.MarkStart || items[2].Guessed {
		t.Errorf("%d items, the first ones %+v after %+v, want a gap of 450 samples, the start, and steps", len(items), items[1:3], items[0].Missing)
	}
	closeJournal(t, j)
}

// TestPartOfAStepAfterAGapIsGuessed: the rest of a step whose beginning is lost belongs to no other step.
func TestPartOfAStepAfterAGapIsGuessed(t *testing.T) {
	inv := newInventory(20)
	cfg := journal.Config{Dir: t.TempDir()}
	j := mustOpen(t, cfg, inv, newClock("boot1"))
	one, two := mixed(inv, 10, 1e9), mixed(inv, 10, 2e9)
	j.Append(telemetry.Now{Mono: 3e9}, one)
	commit(t, j)
	j.Append(telemetry.Now{Mono: 4e9}, two[:5])
	commit(t, j)
	j.Append(telemetry.Now{Mono: 4e9}, two[5:])
	commit(t, j)
	closeJournal(t, j)
	names, _ := filepath.Glob(filepath.Join(cfg.Dir, "*.seg"))
	b, _ := os.ReadFile(names[0])
	second := strings.Index(string(b), "LJF1")
	second += 4 + strings.Index(string(b[second+4:]), "LJF1")
	b[second+60] ^= 1
	if err := os.WriteFile(names[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	j = mustOpen(t, cfg, inv, newClock("boot1"))
	defer j.Close()
	items := replay(t, j, inv)
	if len(items) < 3 || len(items[0].Samples) != 10 || items[0].Guessed || items[1].Missing == nil || !items[2].Guessed || items[2].Now.Mono != two[5].Time {
		t.Errorf("%+v: want the first step, a gap, and guessed steps", items)
	}
}

// TestIdleSiteIsNotWrittenEachSecond: steps without samples wait for company, ten seconds at most.
func TestIdleSiteIsNotWrittenEachSecond(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		inv := newInventory(1)
		clock := newClock("boot1")
		j := mustOpen(t, journal.Config{Dir: dir}, inv, clock)
		done := make(chan error)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { done <- j.Run(ctx) }()
		appendStep(j, mixed(inv, 10, clock.Mono()))
		var last telemetry.Mono
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			last = clock.Mono()
			j.Append(telemetry.Now{Mono: last}, nil)
		}
		if n := len(readAll(t, j)); n < 5 || n > 7 {
			t.Errorf("%d frames in a minute, want one each ten seconds", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		items := replay(t, j, inv)
		if it := items[len(items)-1]; it.Now.Mono != last || len(items) > 12 {
			t.Errorf("%d items, the last at %d, want the last step at %d", len(items), it.Now.Mono, last)
		}
		for _, f := range readAll(t, j)[1:] {
			if len(f.Records) != 0 || f.T0 != f.T1 || f.T0 < last.Add(-time.Hour) {
				t.Errorf("frame %+v", f)
			}
		}
		closeJournal(t, j)
	})
}

// TestSinceAndStarts finds a moment of the past and the starts of processes.
func TestSinceAndStarts(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		inv := newInventory(2)
		cfg := journal.Config{Dir: dir}
		for life, rules := range []string{"a", "b", "c"} {
			clock := newClock("boot" + rules)
			j := mustOpen(t, cfg, inv, clock)
			j.Mark(clock.Mono(), journal.Mark{Kind: journal.MarkStart, Rules: rules, Resumed: life > 0, Snapshot: 5, SnapshotBoot: "boota"})
			for range 10 {
				appendStep(j, mixed(inv, 5, clock.Mono()))
				commit(t, j)
				time.Sleep(time.Minute)
			}
			closeJournal(t, j)
		}
		cfg.ReadOnly = true
		j := mustOpen(t, cfg, nil, nil)
		starts, err := j.Starts()
		if err != nil || len(starts) != 3 {
			t.Fatalf("%+v, %v: want three starts", starts, err)
		}
		for i, s := range starts {
			want := begin.Add(time.Duration(i) * 10 * time.Minute)
			if d := s.At.Sub(want).Abs(); d > time.Second || s.Mark.Rules != string(rune('a'+i)) || s.Mark.Resumed != (i > 0) || s.Seq != uint64(10*i+1) {
				t.Errorf("start %d: %+v, want one at %v", i, s, want)
			}
		}
		for after, want := range map[time.Duration]uint64{-time.Hour: 1, 5 * time.Minute: 1, 10*time.Minute + 3*time.Second: 11, 25 * time.Minute: 21, time.Hour: 31} {
			if got := j.Since(begin.Add(after)); got != want {
				t.Errorf("frames since %v: from %d, want %d", after, got, want)
			}
		}
		closeJournal(t, j)
	})
}

// TestMarkIsBounded: however many alerts are closed at once, each part fits into a frame.
func TestMarkIsBounded(t *testing.T) {
	j := mustOpen(t, journal.Config{Dir: t.TempDir(), SegmentBytes: 16 << 10}, newInventory(1), newClock("boot1"))
	defer j.Close()
	var closed []telemetry.Identity
	for i := range 5000 {
		closed = append(closed, telemetry.Identity{Alert: "Alert", Subject: strings.Repeat("x", 1+i%32)})
	}
	j.Mark(7, journal.Mark{Kind: journal.MarkClosed, Closed: append([]telemetry.Identity{{Alert: strings.Repeat("y", 513)}}, closed...)})
	j.Mark(8, journal.Mark{Kind: journal.MarkStart, Rules: strings.Repeat("z", 1000)})
	commit(t, j)
	var got []telemetry.Identity
	items := replay(t, j, newInventory(1))
	for _, it := range items[:len(items)-1] {
		got = append(got, it.Mark.Closed...)
	}
	if !slices.Equal(got, closed) || len(items) < 50 {
		t.Errorf("%d closed in %d marks, want %d", len(got), len(items), len(closed))
	}
	if m := items[len(items)-1].Mark; m.Kind != journal.MarkStart || len(m.Rules) != 64 {
		t.Errorf("%+v", m)
	}
}

// BenchmarkReplay reads an hour of steps in order.
func BenchmarkReplay(b *testing.B) {
	dir := b.TempDir()
	s := allSeries[5]
	fill(b, s, 3600, journal.Config{Dir: dir})
	j, err := journal.Open(journal.Config{Dir: dir, ReadOnly: true}, nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer j.Close()
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		first, next := j.Bounds()
		r := j.Replay(first, next, idOf(s.inventory()))
		var it journal.Item
		for {
			if err := r.Next(&it); err == io.EOF {
				break
			} else if err != nil {
				b.Fatal(err)
			}
			n += len(it.Samples)
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "samples/s")
}
