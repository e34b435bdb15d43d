package journal_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"linli/internal/journal"
	"linli/internal/telemetry"
)

func isRollup(name string) bool {
	return strings.Contains(name, ".minutes") || strings.Contains(name, ".hours")
}

// without returns a copy of the file system without rollup files.
func (m *memFS) without() *memFS {
	out := newMemFS()
	for name, n := range m.cur {
		if isRollup(name) {
			continue
		}
		node := &inode{data: slices.Clone(n.data), durable: slices.Clone(n.data), dirty: map[int]bool{}}
		out.cur[name], out.durable[name] = node, node
	}
	return out
}

var everything = journal.Span{From: time.Unix(0, 0), To: time.Unix(1<<33, 0)}

// line prints an interval. What a mean loses each time that it is written is not shown.
func line(r *journal.Row) string {
	x := r.Rollup
	x.Mean = 0
	return fmt.Sprintf("%s.%s %v %v %.2f %+v", r.Series.Device, r.Series.Point, r.At, r.Until, r.Mean+0.0013, x) // the offset keeps what is written away from halves
}

// lines prints what Range says of everything, in the order of points.
func lines(t testing.TB, j *journal.Journal, res journal.Resolution) (out []string) {
	t.Helper()
	for _, r := range rows(t, j, everything, res) {
		out = append(out, line(&r))
	}
	slices.Sort(out)
	return out
}

// rollRun is the scripted run of the fault tests: two processes over hours and midnight, with a sample every five minutes, and
// rollups in between. It returns what went wrong in commits and in rollups.
func rollRun(t testing.TB, fs *memFS) (commits, rollups []error) {
	inv := newInventory(2)
	cfg := smallSegments
	cfg.MaxAge = 1 << 62
	clock := telemetry.NewClock("boot1", 0, longAgo)
	time.Sleep(time.Until(time.Date(2000, 1, 1, 21, 50, 0, 0, time.UTC)))
	n := 0
	for life := range 2 {
		j, err := journal.OpenFS(cfg, inv, clock, fs)
		if err != nil {
			commits = append(commits, err)
			if j, err = journal.OpenFS(cfg, inv, clock, fs); err != nil {
				return commits, rollups
			}
		}
		j.NoPause()
		for step := range 16 {
			now := clock.Now()
			j.Append(now, []telemetry.Sample{
				{Point: 0, Time: now.Mono - 1e9, Value: telemetry.FloatValue(float64(n*n%17) / 10)},
				{Point: 2, Time: now.Mono - 1e9, Value: telemetry.BoolValue(n%3 == 0)},
				{Point: telemetry.PointID(1 + 5*(n%2)), Quality: telemetry.Quality(n % 5), Time: now.Mono, Value: telemetry.IntValue(int64(n))},
			})
			n++
			if err := j.Commit(); err != nil {
				commits = append(commits, err)
			}
			if s := j.Stats().LastError; s != "" {
				commits = append(commits, errors.New(s))
			}
			time.Sleep(5 * time.Minute)
			if step%3 == 2 {
				if err := j.Rollup(context.Background()); err != nil {
					rollups = append(rollups, err)
				}
			}
		}
		if life == 0 {
			if err := j.Close(); err != nil {
				commits = append(commits, err)
			}
		}
	}
	return commits, rollups
}

// compareRollups opens what is on the disk, rolls up, and compares with rollups made anew from the frames there.
func compareRollups(t testing.TB, disk *memFS, boot, what string) {
	t.Helper()
	cfg := smallSegments
	cfg.MaxAge = 1 << 62
	open := func(fs *memFS) *journal.Journal {
		j, err := journal.OpenFS(cfg, newInventory(2), telemetry.NewClock(boot, 0, longAgo), fs)
		if err != nil {
			t.Fatal(what, err)
		}
		j.NoPause()
		return j
	}
	time.Sleep(26 * time.Hour) // whatever there is is over
	anew := disk.without()
	j, k := open(disk), open(anew)
	for _, x := range []*journal.Journal{j, k} {
		if err := x.Rollup(t.Context()); err != nil {
			t.Fatal(what, err)
		}
	}
	for _, res := range []journal.Resolution{journal.Minutes, journal.Hours} {
		got, want := lines(t, j, res), lines(t, k, res)
		if !slices.Equal(got, want) {
			t.Fatalf("%s: %d intervals of %v, want the %d that the frames say:\n%s\nwant\n%s", what, len(got), res, len(want), strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	// Never twice: as many readings as there are.
	var readings, counted uint64
	for _, r := range rows(t, j, everything, journal.Samples) {
		if r.Series != nil && !r.Quality.Bad() {
			readings++
		}
	}
	for _, r := range rows(t, j, everything, journal.Hours) {
		counted += r.Count
	}
	if readings != counted {
		t.Fatalf("%s: %d readings counted, there are %d", what, counted, readings)
	}
	if s := j.Stats().Rollups; s.Damaged != 0 || s.Waiting != 0 {
		t.Fatalf("%s: %+v", what, s)
	}
}

// TestRollupsPowerCutAfterEveryOperation: whatever the disk had got, rollups say afterwards what the frames say that survived.
func TestRollupsPowerCutAfterEveryOperation(t *testing.T) {
	for n := 0; ; n++ {
		done := false
		for seed := range uint64(2) {
			synctest.Test(t, func(t *testing.T) {
				fs := newMemFS()
				fs.crashAt = n
				rollRun(t, fs)
				done = fs.ops <= n
				disk := fs.powerCut(rand.New(rand.NewPCG(seed, uint64(n))))
				compareRollups(t, disk, "boot2", fmt.Sprintf("power cut after operation %d, seed %d", n, seed))
			})
		}
		if t.Failed() {
			return
		}
		if done {
			t.Logf("%d operations", n)
			return
		}
	}
}

// TestRollupsEveryOperationFailsOnce: no sample is lost or late because of rollups, and these come all the same.
func TestRollupsEveryOperationFailsOnce(t *testing.T) {
	told := 0
	for n := 0; ; n++ {
		done := false
		synctest.Test(t, func(t *testing.T) {
			fs := newMemFS()
			fs.failAt = n
			commits, rollups := rollRun(t, fs)
			done = !fs.failed
			if len(rollups) > 0 {
				told++
				if len(commits) > 0 {
					t.Errorf("operation %d (%s) of a rollup made a commit fail: %v", n, fs.lastOp, commits)
				}
			}
			compareRollups(t, fs.restart(), "boot2", fmt.Sprintf("operation %d (%s) failing", n, fs.lastOp))
		})
		if t.Failed() {
			return
		}
		if done {
			t.Logf("%d operations, %d of them failures of rollups that were told", n, told)
			if told < 20 {
				t.Errorf("only %d failures of rollups were told", told)
			}
			return
		}
	}
}

// rolled returns a journal with the rollups of the scripted run, closed, and what it says.
func rolled(t testing.TB) (fs *memFS, minutes, hours []string) {
	t.Helper()
	fs = newMemFS()
	rollRun(t, fs)
	time.Sleep(26 * time.Hour)
	j := reopened(t, fs, nil)
	if err := j.Rollup(t.Context()); err != nil {
		t.Fatal(err)
	}
	minutes, hours = lines(t, j, journal.Minutes), lines(t, j, journal.Hours)
	if len(minutes) < 100 || len(hours) < 8 {
		t.Fatalf("%d minutes, %d hours", len(minutes), len(hours))
	}
	j.Kill()
	return fs, minutes, hours
}

func reopened(t testing.TB, fs journal.FileSystem, log *zap.Logger) *journal.Journal {
	t.Helper()
	cfg := smallSegments
	cfg.MaxAge, cfg.Log = 1<<62, log
	j, err := journal.OpenFS(cfg, newInventory(2), telemetry.NewClock("boot2", 0, longAgo), fs)
	if err != nil {
		t.Fatal(err)
	}
	j.NoPause()
	return j
}

// TestDamagedRollupsAreMadeAnew flips bits all over the files, cuts them off and removes them: what is said stays the same,
// the file is set aside, counted and said once, and the next rollup replaces it.
func TestDamagedRollupsAreMadeAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs, minutes, hours := rolled(t)
		var names []string
		for name := range fs.cur {
			if isRollup(name) {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		if len(names) != 6 {
			t.Fatalf("files %v", names)
		}
		for _, name := range []string{names[0], names[2]} {
			good := slices.Clone(fs.cur[name].data)
			damage := map[string]func() bool{"missing": func() bool {
				delete(fs.cur, name)
				return false
			}}
			for at := 0; at < len(good); at += 1 + len(good)/97 {
				damage[fmt.Sprintf("bit of byte %d", at)] = func() bool {
					fs.cur[name].data[at] ^= 1 << (at % 8)
					return true
				}
			}
			for _, size := range []int{0, 1, 95, 96, 97, len(good) / 2, len(good) - 1} {
				damage[fmt.Sprintf("%d bytes", size)] = func() bool {
					fs.cur[name].data = fs.cur[name].data[:size]
					return true
				}
			}
			for what, do := range damage {
				fs.cur[name] = &inode{data: slices.Clone(good), dirty: map[int]bool{}}
				delete(fs.cur, name+".damaged")
				aside := do()
				core, logs := observer.New(zap.ErrorLevel)
				j := reopened(t, fs, zap.New(core))
				ask := func(res journal.Resolution) []string {
					var out []string
					err := j.Range(t.Context(), everything, res, func(r *journal.Row) error {
						out = append(out, line(r))
						return nil
					})
					slices.Sort(out)
					if err != nil && strings.Contains(err.Error(), "ask again") {
						return lines(t, j, res)
					} else if err != nil {
						t.Errorf("%s, %s: %v", name, what, err)
					}
					return out
				}
				if got := ask(journal.Hours); !slices.Equal(got, hours) {
					t.Errorf("%s, %s: hours\n%s\nwant\n%s", name, what, strings.Join(got, "\n"), strings.Join(hours, "\n"))
				}
				if got := ask(journal.Minutes); !slices.Equal(got, minutes) {
					t.Errorf("%s, %s: %d minutes, want %d", name, what, len(got), len(minutes))
					for i := range min(len(got), len(minutes)) {
						if got[i] != minutes[i] {
							t.Errorf("%s\nwant\n%s", got[i], minutes[i])
						}
					}
				}
				if err := j.Rollup(t.Context()); err != nil {
					t.Errorf("%s, %s: %v", name, what, err)
				}
				st := j.Stats().Rollups
				_, kept := fs.cur[name+".damaged"]
				if fs.cur[name] == nil || kept != aside || (st.Damaged == 1) != aside || logs.Len() != int(st.Damaged) {
					t.Errorf("%s, %s: made anew %v, set aside %v, %d log lines, %+v", name, what, fs.cur[name] != nil, kept, logs.Len(), st)
				}
				j.Kill()
				if t.Failed() {
					return
				}
			}
			compareRollups(t, fs, "boot2", name)
		}
	})
}

// TestVerifyNamesDamagedRollups damages each file.
func TestVerifyNamesDamagedRollups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs, _, _ := rolled(t)
		r, err := journal.VerifyFS("j", fs)
		if err != nil || r.Rollups != 6 || r.Wrong != 0 {
			t.Fatalf("%+v %v: want six good files", r, err)
		}
		for name, n := range fs.cur {
			if isRollup(name) {
				n.data[len(n.data)/2] ^= 1
			}
		}
		r, err = journal.VerifyFS("j", fs)
		if err != nil || r.Wrong != 6 || !strings.Contains(strings.Join(r.Problems, "\n"), ".minutes: ") {
			t.Errorf("%+v %v: want six damaged files", r, err)
		}
	})
}

// TestRollupsOnAFullDisk: rollups wait, samples do not, and one line says so.
func TestRollupsOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs, minutes, _ := rolled(t)
		for name := range fs.cur {
			if isRollup(name) {
				delete(fs.cur, name)
			}
		}
		core, logs := observer.New(zap.InfoLevel)
		j := reopened(t, fs, zap.New(core))
		fs.full = true
		for range 5 {
			err := j.Rollup(t.Context())
			if !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%v, want a full disk", err)
			}
			time.Sleep(11 * time.Minute)
		}
		st := j.Stats()
		if st.Rollups.Failures != 5 || st.Rollups.LastError == "" || st.LastError != "" || st.Rollups.Waiting == 0 || logs.Len() != 1 {
			t.Errorf("%+v, %d log lines", st, logs.Len())
		}
		if got := lines(t, j, journal.Minutes); len(got) == 0 {
			t.Error("nothing is known while the disk is full")
		}
		fs.full = false
		if err := j.Rollup(t.Context()); err != nil {
			t.Error(err)
		}
		if st := j.Stats().Rollups; st.LastError != "" || logs.Len() != 2 {
			t.Errorf("%+v, %d log lines", st, logs.Len())
		}
		if got := lines(t, j, journal.Minutes); !slices.Equal(got, minutes) {
			t.Errorf("%d minutes, want %d", len(got), len(minutes))
		}
	})
}

// stuckFS does not come back from writing rollups.
type stuckFS struct {
	*memFS
	stuck chan struct{}
}

func (s *stuckFS) Create(path string) (journal.File, error) {
	if isRollup(path) {
		<-s.stuck
	}
	return s.memFS.Create(path)
}

// TestStuckRollupKeepsNobodyWaiting: a disk that hangs while rollups are written does not hold up samples, readers or the end.
func TestStuckRollupKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem, _, _ := rolled(t)
		for name := range mem.cur {
			if isRollup(name) {
				delete(mem.cur, name)
			}
		}
		fs := &stuckFS{mem, make(chan struct{})}
		j := reopened(t, fs, nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 2)
		go func() { done <- j.RunRollups(ctx) }()
		go func() { done <- j.Run(ctx) }()
		time.Sleep(3 * time.Minute) // It hangs now.
		begin := time.Now()
		_, before := j.Bounds()
		for i := range 30 {
			j.Append(telemetry.Now{Mono: telemetry.Mono(time.Duration(i) * time.Second), Wall: time.Now()}, []telemetry.Sample{{Time: telemetry.Mono(i) * 1e9, Value: telemetry.FloatValue(1)}})
			time.Sleep(time.Second)
		}
		if _, next := j.Bounds(); next < before+20 {
			t.Errorf("%d commits in %v", next-before, time.Since(begin))
		}
		if got := lines(t, j, journal.Hours); len(got) == 0 {
			t.Error("readers get nothing")
		}
		cancel()
		if err := <-done; err != nil { // Run has ended, with its last commit
			t.Error(err)
		}
		if err := j.Close(); err != nil {
			t.Error(err)
		}
		close(fs.stuck)
		if err := <-done; err != nil {
			t.Error(err)
		}
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

// FuzzRollup reads arbitrary bytes as a rollup file, with its checksums made right. Nothing may panic or ask for absurd memory.
func FuzzRollup(f *testing.F) {
	fs := newMemFS()
	j, err := journal.OpenFS(smallSegments, newInventory(2), newClock("boot1"), fs)
	if err != nil {
		f.Fatal(err)
	}
	blocks := journal.RollBlocks()
	for _, b := range blocks {
		f.Add(b.File, b.Raw)
	}
	f.Add([]byte("LINLIROL"), []byte{1})
	path := filepath.Join("j", "2026-05-04T10.minutes")
	span := everything
	f.Fuzz(func(t *testing.T, file, raw []byte) {
		if len(file) > 1<<16 || len(raw) > 1<<16 {
			return
		}
		if n := journal.DecodeRollBlock(raw); n > len(raw) {
			t.Errorf("%d intervals in %d bytes", n, len(raw))
		}
		fs.cur[path] = &inode{data: journal.FixRollChecksums(file, "2026-05-04T10.minutes"), dirty: map[int]bool{}}
		fs.cur[filepath.Join("j", "x")] = nil
		delete(fs.cur, filepath.Join("j", "x"))
		delete(fs.cur, path+".damaged")
		if _, err := journal.VerifyFS("j", fs); err != nil {
			t.Fatal(err)
		}
		k, err := journal.OpenFS(smallSegments, newInventory(2), newClock("boot1"), fs)
		if err != nil {
			t.Fatal(err)
		}
		k.NoPause()
		for _, res := range []journal.Resolution{journal.Minutes, journal.Hours} {
			_ = k.Range(t.Context(), span, res, func(r *journal.Row) error { return nil })
		}
		k.Kill()
	})
	j.Kill()
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
