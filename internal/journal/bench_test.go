package journal_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"linli/internal/journal"
	"linli/internal/telemetry"
)

// series is a synthetic but plausible site: 440 points, each read once a second.
type series struct {
	name string
	// perRead is how many points one bus transaction brings: they share their time.
	perRead int
	kind    func(i int) telemetry.Kind
	value   func(r *rand.Rand, i, second int, state *float64) telemetry.Value
}

func slowFloat(decimals float64, step float64) func(r *rand.Rand, i, second int, state *float64) telemetry.Value {
	return func(r *rand.Rand, i, second int, state *float64) telemetry.Value {
		if second == 0 {
			*state = 10 + 30*r.Float64()
		}
		*state += step * r.NormFloat64()
		p := math.Pow(10, decimals)
		return telemetry.FloatValue(math.Round(*state*p) / p)
	}
}

func counter(r *rand.Rand, i, second int, state *float64) telemetry.Value {
	if second == 0 {
		*state = math.Floor(1e7 * r.Float64())
	}
	*state += float64(r.IntN(20))
	return telemetry.IntValue(int64(*state))
}

func contact(r *rand.Rand, i, second int, state *float64) telemetry.Value {
	if r.IntN(600) == 0 {
		*state = 1 - *state
	}
	return telemetry.BoolValue(*state != 0)
}

func kindOf(k telemetry.Kind) func(int) telemetry.Kind { return func(int) telemetry.Kind { return k } }

var allSeries = []series{
	{name: "floats1", perRead: 8, kind: kindOf(telemetry.Float), value: slowFloat(1, 0.03)},
	{name: "floats2", perRead: 8, kind: kindOf(telemetry.Float), value: slowFloat(2, 0.05)},
	{name: "float32noise", perRead: 8, kind: kindOf(telemetry.Float), value: func(r *rand.Rand, i, second int, state *float64) telemetry.Value {
		return telemetry.FloatValue(float64(float32(230 + 0.5*r.NormFloat64())))
	}},
	{name: "counters", perRead: 8, kind: kindOf(telemetry.Int), value: counter},
	{name: "bools", perRead: 8, kind: kindOf(telemetry.Bool), value: contact},
	{name: "mixed", perRead: 8, kind: func(i int) telemetry.Kind {
		return []telemetry.Kind{telemetry.Float, telemetry.Float, telemetry.Int, telemetry.Bool}[i/8%4]
	}, value: func(r *rand.Rand, i, second int, state *float64) telemetry.Value {
		switch i / 8 % 4 {
		case 0:
			return slowFloat(1, 0.03)(r, i, second, state)
		case 1:
			return slowFloat(2, 0.05)(r, i, second, state)
		case 2:
			return counter(r, i, second, state)
		}
		return contact(r, i, second, state)
	}},
	{name: "mixed-own-times", perRead: 1, kind: func(i int) telemetry.Kind {
		return []telemetry.Kind{telemetry.Float, telemetry.Float, telemetry.Int, telemetry.Bool}[i/8%4]
	}, value: func(r *rand.Rand, i, second int, state *float64) telemetry.Value {
		switch i / 8 % 4 {
		case 0:
			return slowFloat(1, 0.03)(r, i, second, state)
		case 1:
			return slowFloat(2, 0.05)(r, i, second, state)
		case 2:
			return counter(r, i, second, state)
		}
		return contact(r, i, second, state)
	}},
}

const benchPoints = 440

// generator makes the samples of one second after another.
type generator struct {
	s      series
	r      *rand.Rand
	state  [benchPoints]float64
	second int
	out    [benchPoints]telemetry.Sample
}

func (s series) inventory() *telemetry.Inventory {
	inv := &telemetry.Inventory{Site: "s1", Gateway: "g1", Location: time.UTC}
	z := inv.AddZone(telemetry.Zone{ID: "building_1", Parent: -1})
	for i := 0; i < benchPoints; i += 4 {
		class := &telemetry.Class{ID: "device_class"}
		for k := range 4 {
			class.Points = append(class.Points, telemetry.PointDef{Name: fmt.Sprintf("point_%d", k), Kind: s.kind(i + k)})
		}
		d := inv.AddDevice(telemetry.Device{ID: fmt.Sprintf("device_%03d", i/4), Class: class, Zone: z})
		for k := range 4 {
			inv.ProvidePoint(d, k)
		}
	}
	return inv
}

func (g *generator) next() []telemetry.Sample {
	if g.r == nil {
		g.r = rand.New(rand.NewPCG(1, 2))
	}
	at := telemetry.Mono(time.Duration(g.second) * time.Second)
	for i := range g.out {
		if i%g.s.perRead == 0 {
			at += telemetry.Mono(g.r.IntN(2 * int(time.Second) * g.s.perRead / benchPoints))
		}
		g.out[i] = telemetry.Sample{Point: telemetry.PointID(i), Time: at, Value: g.s.value(g.r, i, g.second, &g.state[i])}
	}
	g.second++
	return g.out[:]
}

// append gives the journal a second's samples as the fan-in does: one step for each read, some time after it, and one
// without samples each second.
func (g *generator) append(j *journal.Journal, second []telemetry.Sample) {
	for i := 0; i < len(second); i += g.s.perRead {
		batch := second[i : i+g.s.perRead]
		late := time.Duration(100+g.r.IntN(2000)) * time.Microsecond
		now := batch[0].Time.Add(late) / 1000 * 1000
		j.Append(telemetry.Now{Mono: now, Wall: time.Unix(1_800_000_000, int64(now))}, batch)
	}
	now := telemetry.Mono(time.Duration(g.second)*time.Second + 300*time.Microsecond)
	j.Append(telemetry.Now{Mono: now, Wall: time.Unix(1_800_000_000, int64(now))}, nil)
}

// fill commits an hour of s at 1 s.
func fill(tb testing.TB, s series, seconds int, cfg journal.Config) (j *journal.Journal, bytesPerSample float64) {
	tb.Helper()
	j, err := journal.OpenFS(cfg, s.inventory(), newClock("boot1"), noSync{})
	if err != nil {
		tb.Fatal(err)
	}
	g := generator{s: s}
	for range seconds {
		g.append(j, g.next())
		if err := j.Commit(); err != nil {
			tb.Fatal(err)
		}
	}
	if err := j.Close(); err != nil { // seals: what counts is the files, with their footers
		tb.Fatal(err)
	}
	st := j.Stats()
	return j, float64(st.Bytes) / float64(st.SamplesWritten)
}

// noSync is the real file system without waiting for the disk, to fill a journal quickly.
type noSync struct{ journal.OSFS }

func (fs noSync) Create(path string) (journal.File, error) {
	f, err := fs.OSFS.Create(path)
	return noSyncFile{f}, err
}

type noSyncFile struct{ journal.File }

func (noSyncFile) Sync() error { return nil }

// TestBytesPerSample holds the budget of 4 bytes a sample at 440 samples/s with 1 s commits, headers, dictionary and
// footers included.
func TestBytesPerSample(t *testing.T) {
	for _, s := range allSeries {
		t.Run(s.name, func(t *testing.T) {
			_, b := fill(t, s, 600, journal.Config{Dir: t.TempDir()})
			t.Logf("%.2f bytes a sample", b)
			if b > 4 && s.name != "mixed-own-times" { // 440 times of their own a second cost 3 bytes each, kept to the nanosecond
				t.Errorf("%.2f bytes a sample, want 4 at most", b)
			}
		})
	}
}

func BenchmarkBytesPerSample(b *testing.B) {
	for _, s := range allSeries {
		b.Run(s.name, func(b *testing.B) {
			var per float64
			for b.Loop() {
				_, per = fill(b, s, 3600, journal.Config{Dir: b.TempDir()})
			}
			b.ReportMetric(per, "B/sample")
		})
	}
}

// BenchmarkCommit measures one group commit of 440 samples, with its sync.
func BenchmarkCommit(b *testing.B) {
	s := allSeries[5]
	j, err := journal.Open(journal.Config{Dir: b.TempDir()}, s.inventory(), newClock("boot1"))
	if err != nil {
		b.Fatal(err)
	}
	g := generator{s: s}
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		batch := g.next()
		b.StartTimer()
		g.append(j, batch)
		if err := j.Commit(); err != nil {
			b.Fatal(err)
		}
	}
	j.Close()
}

// BenchmarkDrain reads an hour of frames in order.
func BenchmarkDrain(b *testing.B) {
	dir := b.TempDir()
	s := allSeries[5]
	fill(b, s, 3600, journal.Config{Dir: dir})
	j, err := journal.Open(journal.Config{Dir: dir}, s.inventory(), newClock("boot2"))
	if err != nil {
		b.Fatal(err)
	}
	defer j.Close()
	var f journal.Frame
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		first, next := j.Bounds()
		for seq := first; seq < next; seq++ {
			if err := j.Read(seq, &f); err != nil {
				b.Fatal(err)
			}
			n += len(f.Records)
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "samples/s")
}

// weekJournal returns the directory of a journal with seven days of 440 samples/s, and what to open it with. LINLI_BENCH_DIR
// keeps it between runs.
func weekJournal(b *testing.B) journal.Config {
	b.Helper()
	cfg := journal.Config{Dir: os.Getenv("LINLI_BENCH_DIR"), MaxBytes: 4 << 30, MaxAge: 1000 * time.Hour}
	if cfg.Dir == "" {
		cfg.Dir = b.TempDir()
	}
	j, err := journal.Open(cfg, allSeries[5].inventory(), newClock("boot1"))
	if err != nil {
		b.Fatal(err)
	}
	_, next := j.Bounds()
	j.Close()
	if next == 1 {
		fill(b, allSeries[5], 7*24*3600, cfg)
	}
	return cfg
}

// cpu returns the processor time that this process has used.
func cpu(tb testing.TB) time.Duration {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkWeek opens seven days of 440 samples/s, rolls them up, and draws one point over the week: by the hour, by the
// minute, and from the samples.
func BenchmarkWeek(b *testing.B) {
	cfg := weekJournal(b)
	b.Run("Open", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			j, err := journal.Open(cfg, allSeries[5].inventory(), newClock("boot2"))
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(j.Stats().Bytes)/1e6, "MB")
			j.Close()
		}
	})
	open := func(b *testing.B) (*journal.Journal, journal.Span) {
		cfg.ReadOnly = true
		j, err := journal.Open(cfg, nil, nil)
		if err != nil {
			b.Fatal(err)
		}
		segs := j.Segments()
		return j, journal.Span{Device: "device_007", Point: "point_1", From: segs[0].From.Add(-time.Hour), To: segs[len(segs)-1].To.Add(time.Hour)}
	}
	b.Run("Rollup", func(b *testing.B) {
		names, _ := filepath.Glob(filepath.Join(cfg.Dir, "*.[mh]*"))
		for _, name := range names {
			if err := os.Remove(name); err != nil {
				b.Fatal(err)
			}
		}
		j, err := journal.Open(cfg, allSeries[5].inventory(), newClock("boot2"))
		if err != nil {
			b.Fatal(err)
		}
		defer j.Close()
		segs := j.Segments()
		samples := uint64(0)
		for _, s := range segs {
			samples += s.Samples
		}
		began := cpu(b)
		for b.Loop() {
			if err := j.RollupAt(b.Context(), segs[len(segs)-1].To.Add(48*time.Hour)); err != nil {
				b.Fatal(err)
			}
		}
		st := j.Stats().Rollups
		b.ReportMetric(float64((cpu(b)-began).Milliseconds())/(7*24), "CPU-ms/hour")
		b.ReportMetric(float64(st.Bytes)/1e6/7, "MB/day")
		b.ReportMetric(float64(st.Bytes)/float64(samples), "B/sample")
	})
	for _, res := range []journal.Resolution{journal.Hours, journal.Minutes, journal.Samples} {
		b.Run("Draw/"+res.String(), func(b *testing.B) {
			n := 0
			b.ReportAllocs()
			for b.Loop() {
				j, sp := open(b) // as the command line does
				n = 0
				if err := j.Range(b.Context(), sp, res, func(*journal.Row) error {
					n++
					return nil
				}); err != nil {
					b.Fatal(err)
				}
				j.Close()
			}
			b.ReportMetric(float64(n), "rows")
		})
	}
}

// BenchmarkRollupHour rolls up one hour of 5,000 points of which 440 are read each second, and says how much memory that
// takes beyond what was in use before.
func BenchmarkRollupHour(b *testing.B) {
	s := allSeries[5]
	inv := &telemetry.Inventory{Site: "s1", Gateway: "g1", Location: time.UTC}
	z := inv.AddZone(telemetry.Zone{ID: "building_1", Parent: -1})
	const points = 5000
	state := make([]float64, points)
	for i := 0; i < points; i += 4 {
		class := &telemetry.Class{ID: "device_class"}
		for k := range 4 {
			class.Points = append(class.Points, telemetry.PointDef{Name: fmt.Sprintf("point_%d", k), Kind: s.kind(i + k)})
		}
		d := inv.AddDevice(telemetry.Device{ID: fmt.Sprintf("device_%04d", i/4), Class: class, Zone: z})
		for k := range 4 {
			inv.ProvidePoint(d, k)
		}
	}
	cfg := journal.Config{Dir: b.TempDir()}
	j, err := journal.OpenFS(cfg, inv, newClock("boot1"), noSync{})
	if err != nil {
		b.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	next := 0
	for second := range 2*3600 + 600 {
		at := telemetry.Mono(second) * 1e9
		batch := make([]telemetry.Sample, 0, 440)
		for range 440 {
			i := next % points
			batch = append(batch, telemetry.Sample{Point: telemetry.PointID(i), Time: at, Value: s.value(r, i, next/points, &state[i])})
			next++
		}
		j.Append(telemetry.Now{Mono: at + 1000, Wall: time.Unix(1_800_000_000, int64(at))}, batch)
		if err := j.Commit(); err != nil {
			b.Fatal(err)
		}
	}
	segs := j.Segments()
	end := segs[len(segs)-1].To
	var before, m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	defer debug.SetGCPercent(debug.SetGCPercent(50)) // as the gateway has it
	var most uint64
	n := 0
	begin := cpu(b)
	for b.Loop() {
		if err := j.WhileRolling(b.Context(), end, func() {
			if n++; n%50 == 0 {
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapInuse)
			}
		}); err != nil {
			b.Fatal(err)
		}
	}
	st := j.Stats().Rollups
	if st.Built == 0 {
		b.Fatal("nothing was due")
	}
	b.ReportMetric(float64((cpu(b)-begin).Milliseconds())/float64(st.Minutes), "CPU-ms/hour")
	b.ReportMetric(float64(most-before.HeapInuse)/(1<<20), "MiB")
	b.ReportMetric(float64(st.Bytes)/float64(st.Built)/1024, "KiB/file")
	j.Close()
}
