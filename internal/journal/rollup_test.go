package journal_test

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"linli/internal/journal"
	"linli/internal/telemetry"
)

// reading is a sample as the reference has it.
type reading struct {
	at   time.Time
	q    telemetry.Quality
	v    telemetry.Value
	kind telemetry.Kind
}

// reference keeps what the points of a site measured, and until when each process wrote.
type reference struct {
	of   map[string][]reading // by device.point, of each run one after another
	runs []struct{ end time.Time }
	run  map[string][]int // the run of each reading
}

func (r *reference) add(name string, x reading) {
	if r.of == nil {
		r.of, r.run = map[string][]reading{}, map[string][]int{}
	}
	r.of[name] = append(r.of[name], x)
	r.run[name] = append(r.run[name], len(r.runs))
}

// interval is the slow way to a Rollup.
func (r *reference) interval(name string, from, to time.Time) (x journal.Rollup, some bool) {
	list := r.of[name]
	x.Mean = math.NaN()
	sum, held := 0.0, 0.0
	include := func(v telemetry.Value, kind telemetry.Kind) {
		if kind != telemetry.Enum {
			less := func(a, b telemetry.Value) bool {
				if kind == telemetry.Float {
					return a.Float() < b.Float()
				}
				return a.Int() < b.Int() // A float has not all digits.
			}
			if x.Min.IsZero() || less(v, x.Min) {
				x.Min = v
			}
			if x.Max.IsZero() || less(x.Max, v) {
				x.Max = v
			}
		}
		x.Last = v
	}
	for i, s := range list {
		end := r.runs[r.run[name][i]].end
		next := i+1 < len(list) && r.run[name][i+1] == r.run[name][i]
		if next {
			end = list[i+1].at
		}
		if !s.at.Before(from) && s.at.Before(to) && !s.q.Bad() {
			x.Count++
			if i > 0 && r.run[name][i-1] == r.run[name][i] && !list[i-1].q.Bad() && list[i-1].v != s.v && (s.kind == telemetry.Bool || s.kind == telemetry.Enum) {
				x.Changes++
			}
			include(s.v, s.kind)
		}
		a, z := s.at, end
		if a.Before(from) {
			a = from
		}
		if z.After(to) {
			z = to
		}
		if !z.After(a) {
			continue
		}
		switch d := z.Sub(a); {
		case s.q == telemetry.Good:
			x.Good += d
		case s.q.Bad():
			x.Bad += d
		default:
			x.Doubtful += d
		}
		if !s.q.Bad() {
			include(s.v, s.kind)
			sum += s.v.Float() * z.Sub(a).Seconds()
			held += z.Sub(a).Seconds()
		}
	}
	if held > 0 && !x.Min.IsZero() {
		x.Mean = sum / held
	} else if x.Count > 0 && !x.Min.IsZero() {
		x.Mean = x.Last.Float()
	}
	return x, !x.Last.IsZero() || x.Bad > 0
}

// site is a journal that takes samples in the time of a synctest bubble.
type rollSite struct {
	t     testing.TB
	fs    *memFS
	cfg   journal.Config
	inv   *telemetry.Inventory
	clock *telemetry.Clock
	j     *journal.Journal
	ref   reference
	r     *rand.Rand
	last  [64]telemetry.Value
	boot  string
}

func newRollSite(t testing.TB) *rollSite {
	return &rollSite{t: t, fs: newMemFS(), cfg: journal.Config{Dir: "j", SegmentBytes: 64 << 10, MaxBytes: 64 << 20, MaxAge: 1 << 62}, inv: newInventory(3), r: rand.New(rand.NewPCG(4, 2)), boot: "boot1"}
}

func (s *rollSite) open() {
	s.t.Helper()
	s.clock = telemetry.NewClock(s.boot, telemetry.Mono(time.Since(longAgo)), longAgo)
	s.reopen()
}

func (s *rollSite) reopen() {
	s.t.Helper()
	j, err := journal.OpenFS(s.cfg, s.inv, s.clock, s.fs)
	if err != nil {
		s.t.Fatal(err)
	}
	j.NoPause()
	s.j = j
}

// pass lets d pass, with a commit each 2 s; each second some points have a sample, most of them what they had before.
func (s *rollSite) pass(d time.Duration) {
	s.t.Helper()
	for begin := time.Now(); time.Since(begin) < d; {
		s.second()
		time.Sleep(time.Second)
		s.second()
		if err := s.j.Commit(); err != nil {
			s.t.Fatal(err)
		}
		time.Sleep(time.Second)
	}
}

func (s *rollSite) second() {
	now := s.clock.Now()
	var batch []telemetry.Sample
	for id := range s.inv.Points {
		kind := s.inv.Points[id].Def.Kind
		// One point is read every second, others now and then, some hardly ever.
		if id != 0 && s.r.IntN(1+id*id*8) != 0 {
			continue
		}
		q := telemetry.Good
		if s.r.IntN(12) == 0 {
			q = telemetry.Quality(s.r.IntN(7))
		}
		v := s.last[id]
		if v.IsZero() || s.r.IntN(3) == 0 {
			switch kind {
			case telemetry.Float:
				v = telemetry.FloatValue(math.Round(400*s.r.NormFloat64()) / 10)
				if id > 5 {
					v = telemetry.FloatValue(s.r.NormFloat64())
				}
			case telemetry.Int:
				v = telemetry.IntValue(1<<60 + s.r.Int64N(1000))
			case telemetry.Bool:
				v = telemetry.BoolValue(s.r.IntN(2) == 0)
			case telemetry.Enum:
				v = telemetry.EnumValue(s.r.Int64N(3))
			default:
				v = telemetry.TextValue(fmt.Sprint(s.r.IntN(9)))
			}
		}
		s.last[id] = v
		if q.Bad() {
			v = telemetry.Value{}
		}
		at := now.Mono - telemetry.Mono(s.r.IntN(int(900*time.Millisecond)))
		batch = append(batch, telemetry.Sample{Point: telemetry.PointID(id), Quality: q, Time: at, Value: v})
		if kind != telemetry.KindText {
			series := s.inv.Series(telemetry.PointID(id))
			wall, _ := now.WallAt(at)
			s.ref.add(series.Device+"."+series.Point, reading{wall, q, v, kind})
		}
	}
	s.j.Append(now, batch)
}

// stopped tells the reference that the process has ended: what was read last holds until the end of the last frame.
func (s *rollSite) stopped() {
	s.t.Helper()
	first, next := s.j.Bounds()
	for seq := next - 1; seq >= first; seq-- {
		var f journal.Frame
		if err := s.j.Read(seq, &f); err != nil || f.Lost != nil {
			continue
		}
		end, _ := f.Wall(f.T1)
		s.ref.runs = append(s.ref.runs, struct{ end time.Time }{end})
		return
	}
	s.t.Fatal("no frame")
}

// check compares what Range says with the reference, from the begin of the bubble's time until now.
func (s *rollSite) check(res journal.Resolution) (n int) {
	s.t.Helper()
	width := res.Width()
	from, to := longAgo.Add(10*365*24*time.Hour).Truncate(24*time.Hour), time.Now()
	seen := map[string]bool{}
	for _, row := range rows(s.t, s.j, journal.Span{From: from, To: to}, res) {
		name := row.Series.Device + "." + row.Series.Point
		key := name + row.At.String()
		if seen[key] {
			s.t.Errorf("%s twice at %v", name, row.At)
		}
		seen[key] = true
		if row.Until.Sub(row.At) != width {
			s.t.Fatalf("an interval of %v, want %v", row.Until.Sub(row.At), width)
		}
		want, some := s.ref.interval(name, row.At, row.Until)
		if !some {
			s.t.Errorf("%s at %v: %+v, want nothing", name, row.At, row.Rollup)
			continue
		}
		s.same(fmt.Sprintf("%s at %v", name, row.At), row.Rollup, want)
		n++
	}
	// Nothing that is known is left out.
	for name := range s.ref.of {
		for at := s.ref.of[name][0].at.Truncate(width); at.Before(to); at = at.Add(width) {
			if x, some := s.ref.interval(name, at, at.Add(width)); some && x.Good+x.Bad+x.Doubtful > time.Millisecond && !seen[name+at.UTC().String()] {
				s.t.Errorf("%s at %v is missing: %+v", name, at, x)
			}
		}
	}
	return n
}

func (s *rollSite) same(what string, got, want journal.Rollup) {
	s.t.Helper()
	near := func(a, b time.Duration) bool { return (a - b).Abs() <= 40*time.Millisecond }
	bad := got.Count != want.Count || got.Changes != want.Changes || got.Min != want.Min || got.Max != want.Max || got.Last != want.Last ||
		!near(got.Good, want.Good) || !near(got.Bad, want.Bad) || !near(got.Doubtful, want.Doubtful) || math.IsNaN(got.Mean) != math.IsNaN(want.Mean)
	if span := want.Max.Float() - want.Min.Float(); !bad && !math.IsNaN(want.Mean) {
		if held := (want.Good + want.Doubtful).Seconds(); held > 0.1 {
			bad = math.Abs(got.Mean-want.Mean) > span*(0.002/held+0.0001)+1e-12*math.Abs(want.Mean)
		}
	}
	if bad {
		s.t.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

func (s *rollSite) files(suffix string) (names []string) {
	for name := range s.fs.cur {
		if strings.HasSuffix(name, suffix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// TestRollupsAreWhatTheSamplesSay compares rollups, from files and added up on the fly, with a slow second way to them, over
// restarts of the process and of the box.
func TestRollupsAreWhatTheSamplesSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newRollSite(t)
		s.open()
		s.pass(40 * time.Minute)
		s.stopped()
		s.j.Kill()
		time.Sleep(7 * time.Minute)
		s.reopen()
		s.pass(95 * time.Minute)
		if n := len(s.files(".minutes")); n != 0 {
			t.Errorf("%d files before anybody asked for them", n)
		}
		for range 2 {
			if err := s.j.Rollup(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if n := s.j.Stats().Rollups; n.Minutes != 3 || n.Hours != 1 || n.Built != 4 { // The first sample was read in the last second of 1999.
			t.Errorf("%+v, want the files of the three hours that are over, each written once", n)
		}
		s.stopped()
		if n := s.check(journal.Minutes); n < 1000 {
			t.Errorf("%d intervals", n)
		}
		s.check(journal.Hours)
		if err := s.j.Close(); err != nil {
			t.Fatal(err)
		}
		s.boot = "boot2"
		time.Sleep(18 * time.Hour)
		s.open()
		s.pass(4 * time.Hour)
		s.stopped()
		if err := s.j.Rollup(t.Context()); err != nil {
			t.Fatal(err)
		}
		st := s.j.Stats().Rollups
		if st.Minutes != 8 || st.Hours != 2 || st.Damaged != 0 || st.Failures != 0 || st.Bytes == 0 {
			t.Errorf("%+v", st)
		}
		t.Logf("%+v", st)
		s.check(journal.Minutes)
		s.check(journal.Hours)
	})
}

// TestRollupsStayWithinTheirBound: what is too much goes, the oldest minutes first, and is not made again at the next start.
func TestRollupsStayWithinTheirBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := newMemFS()
		inv := newInventory(40)
		cfg := journal.Config{Dir: "j", SegmentBytes: 64 << 10, MaxBytes: 64 << 20, MaxAge: 1 << 62, RollupBytes: 220 << 10}
		clock := telemetry.NewClock("boot1", 0, longAgo)
		j, err := journal.OpenFS(cfg, inv, clock, fs)
		if err != nil {
			t.Fatal(err)
		}
		j.NoPause()
		r := rand.New(rand.NewPCG(1, 1))
		built := uint64(0)
		for h := range 60 {
			for range 10 {
				now := clock.Now()
				var batch []telemetry.Sample
				for p := 0; p < len(inv.Points); p += 5 {
					batch = append(batch, telemetry.Sample{Point: telemetry.PointID(p), Time: now.Mono, Value: telemetry.FloatValue(r.NormFloat64())})
				}
				j.Append(now, batch)
				if err := j.Commit(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(6 * time.Minute)
			}
			time.Sleep(3 * time.Minute)
			if err := j.Rollup(t.Context()); err != nil {
				t.Fatal(err)
			}
			st := j.Stats().Rollups
			if st.Bytes > cfg.RollupBytes {
				t.Fatalf("hour %d: %d bytes, want %d at most", h, st.Bytes, cfg.RollupBytes)
			}
			if st.Minutes < min(h, 24) && st.Minutes < 24 && st.Bytes < cfg.RollupBytes/2 {
				t.Fatalf("hour %d: only %d files of %d bytes", h, st.Minutes, st.Bytes)
			}
			built = st.Built
		}
		st := j.Stats().Rollups
		if st.Hours < 2 || st.Minutes > 50 || built < 60 {
			t.Errorf("%+v", st)
		}
		all := len(lines(t, j, journal.Hours))
		j.Kill()
		if j, err = journal.OpenFS(cfg, inv, clock, fs); err != nil {
			t.Fatal(err)
		}
		j.NoPause()
		if err := j.Rollup(t.Context()); err != nil {
			t.Fatal(err)
		}
		if again := j.Stats().Rollups; again.Built != 0 || again.Minutes != st.Minutes || len(lines(t, j, journal.Hours)) != all {
			t.Errorf("after a restart %+v, before %+v", again, st)
		}
	})
}

// TestLateSamplesComeIntoTheirHour: a file is made anew where samples come after it was written, with the next one.
func TestLateSamplesComeIntoTheirHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := newMemFS()
		cfg := smallSegments
		cfg.MaxAge = 1 << 62
		clock := telemetry.NewClock("boot1", 0, longAgo)
		j, err := journal.OpenFS(cfg, newInventory(2), clock, fs)
		if err != nil {
			t.Fatal(err)
		}
		j.NoPause()
		add := func(point int, ago time.Duration) {
			now := clock.Now()
			j.Append(now, []telemetry.Sample{{Point: telemetry.PointID(point), Time: now.Mono.Add(-ago), Value: telemetry.FloatValue(float64(point))}})
			if err := j.Commit(); err != nil {
				t.Fatal(err)
			}
		}
		for range 13 {
			add(0, 0)
			time.Sleep(5 * time.Minute)
		}
		if err := j.Rollup(t.Context()); err != nil {
			t.Fatal(err)
		}
		before := lines(t, j, journal.Minutes)
		add(5, 50*time.Minute)
		add(5, 0)
		if err := j.Rollup(t.Context()); err != nil {
			t.Fatal(err)
		}
		if st := j.Stats().Rollups; st.Built != 1 {
			t.Errorf("%+v: written anew at once", st)
		}
		j.Kill() // What is late is not forgotten.
		if j, err = journal.OpenFS(cfg, newInventory(2), clock, fs); err != nil {
			t.Fatal(err)
		}
		j.NoPause()
		for range 12 {
			time.Sleep(5 * time.Minute)
			add(0, 0)
		}
		if err := j.Rollup(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := lines(t, j, journal.Minutes)
		if st := j.Stats().Rollups; st.Built != 2 {
			t.Errorf("%+v: want the hour before anew, and the next", st)
		}
		late := 0
		for _, l := range got {
			if strings.HasPrefix(l, "dev1.temperature_c 2000-01-01 00:") {
				late++
			}
		}
		if late < 40 {
			t.Errorf("%d minutes of the point that came late, of %d", late, len(got))
		}
		for _, l := range before[:55] {
			if !slices.Contains(got, l) {
				t.Errorf("%s is no longer said", l)
			}
		}
		var counted uint64
		for _, r := range rows(t, j, everything, journal.Minutes) {
			counted += r.Count
		}
		if counted != 13+2+12 {
			t.Errorf("%d readings counted, want 27", counted)
		}
	})
}

// TestRollupsWaitForTheClock: what was measured before the clock was set gets its rollups once that is known.
func TestRollupsWaitForTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := newMemFS()
		cfg := smallSegments
		cfg.MaxAge = 1 << 62
		set := time.Now().Add(90 * time.Minute)
		clock := telemetry.NewClock("boot1", 0, set)
		j, err := journal.OpenFS(cfg, newInventory(1), clock, fs)
		if err != nil {
			t.Fatal(err)
		}
		j.NoPause()
		for k := range 26 {
			now := clock.Now()
			j.Append(now, []telemetry.Sample{{Time: now.Mono, Value: telemetry.FloatValue(float64(k))}})
			if err := j.Commit(); err != nil {
				t.Fatal(err)
			}
			if err := j.Rollup(t.Context()); err != nil {
				t.Fatal(err)
			}
			if st := j.Stats().Rollups; (st.Built > 0) != (k >= 19) {
				t.Fatalf("sample %d: %+v", k, st)
			}
			time.Sleep(5 * time.Minute)
		}
		r := rows(t, j, everything, journal.Minutes)
		if len(r) < 120 || !r[0].At.Equal(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)) || r[0].Min.Float() != 0 || math.Abs(r[7].Mean-1) > 1e-9 {
			t.Errorf("%d minutes, the first %+v", len(r), r[0])
		}
	})
}

// TestNothingHoldsAcrossARestart, also where the first thing that the next process writes is a tombstone.
func TestNothingHoldsAcrossARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := newMemFS()
		for life := range 2 {
			clock := telemetry.NewClock("boot1", telemetry.Mono(life*25)*telemetry.Mono(time.Minute), longAgo)
			j, err := journal.OpenFS(smallSegments, newInventory(1), clock, fs)
			if err != nil {
				t.Fatal(err)
			}
			if life == 1 { // A damaged frame is met, and told before anything else is written.
				for _, n := range fs.cur {
					if len(n.data) > 200 {
						n.data[128+60] ^= 1
					}
				}
				if err := j.Read(1, &journal.Frame{}); !errors.Is(err, journal.ErrNotFound) {
					t.Fatal(err)
				}
			}
			for i := range 3 {
				now := clock.Now()
				batch := []telemetry.Sample{{Point: 1, Time: now.Mono, Value: telemetry.IntValue(7)}}
				if life == 0 && i == 1 {
					batch = append(batch, telemetry.Sample{Point: 0, Time: now.Mono, Value: telemetry.FloatValue(1)})
				}
				j.Append(now, batch)
				if err := j.Commit(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(5 * time.Minute)
			}
			if life == 1 {
				held := time.Duration(0)
				for _, r := range rows(t, j, everything, journal.Minutes) {
					if r.Series.Point == "temperature_c" {
						held += r.Good
					}
				}
				gaps := 0
				for _, r := range rows(t, j, everything, journal.Samples) {
					if r.Series == nil {
						gaps++
					}
				}
				if held != 5*time.Minute || gaps != 1 {
					t.Errorf("held for %v with %d gaps, want the 5 minutes of its process, and the gap behind", held, gaps)
				}
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Minute)
		}
	})
}
