package journal_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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
