package journal_test

import (
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
