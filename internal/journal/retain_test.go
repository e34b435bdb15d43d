package journal_test

import (
	"errors"
	"math"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"linli/internal/journal"
	"linli/internal/telemetry"
)

func TestInvariantBytesStayWithinTheBound(t *testing.T) {
	cfg := journal.Config{Dir: t.TempDir(), SegmentBytes: 16 << 10, MaxBytes: 160 << 10}
	for name, release := range map[string]bool{"acknowledged": true, "not acknowledged": false} {
		t.Run(name, func(t *testing.T) {
			cfg := cfg
			cfg.Dir = t.TempDir()
			j := mustOpen(t, cfg, textInventory(), newClock("boot1"))
			if release {
				j.Release(math.MaxUint64)
			}
			h := newHistory(t)
			var most int64
			for range 150 {
				h.append(j, 40)
				h.commit(j)
				if b := j.Stats().Bytes + cfg.SegmentBytes; b > cfg.MaxBytes { // with the reserve
					t.Fatalf("%d bytes, want %d at most", b, cfg.MaxBytes)
				} else {
					most = max(most, b)
				}
			}
			if most < cfg.MaxBytes/2 {
				t.Errorf("never more than %d bytes of %d: the test does not fill it", most, cfg.MaxBytes)
			}
			// What is left is the newest, in one piece; what is gone was told, if anybody still wanted it.
			frames := readAll(t, j)
			first, next := j.Bounds()
			if uint64(len(frames)) != next-first || first == 1 {
				t.Errorf("%d frames from %d to %d", len(frames), first, next)
			}
			kept := len(records(frames))
			var told, seqs uint64
			for _, f := range frames {
				if f.Lost != nil {
					told += f.Lost.Count
					seqs = max(seqs, f.Lost.LastSeq)
					if f.Lost.Reason != journal.LossSpace {
						t.Errorf("reason %s", f.Lost.Reason)
					}
				}
			}
			if release {
				if told != 0 {
					t.Errorf("%d samples told as lost that had been acknowledged", told)
				}
			} else if s := j.Stats(); seqs != first-1 || s.SamplesLost != uint64(h.appended-kept) {
				t.Errorf("told up to %d of %d, %d samples of %d", seqs, first-1, s.SamplesLost, h.appended-kept)
			}
			closeJournal(t, j)
			j = mustOpen(t, cfg, textInventory(), newClock("boot1"))
			if f, n := j.Bounds(); f != first || n != next {
				t.Errorf("opened again: %d to %d, want %d to %d", f, n, first, next)
			}
			closeJournal(t, j)
		})
	}
}

func TestTooOldIsDeletedAndTold(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		cfg := journal.Config{Dir: dir, SegmentBytes: 16 << 10, MaxAge: 24 * time.Hour}
		clock := telemetry.NewClock("boot1", 0, longAgo)
		j := mustOpen(t, cfg, textInventory(), clock)
		for range 3 {
			for i := range 40 { // six hours of a slow site
				s := numbered(i)
				s.Time = clock.Mono()
				appendStep(j, []telemetry.Sample{s})
				commit(t, j)
				time.Sleep(9 * time.Minute)
			}
		}
		if n := len(readAll(t, j)); n != 120 {
			t.Errorf("%d frames, want 120 after 18 h", n)
		}
		j.Release(21)
		closeJournal(t, j)
		// Another boot, with another monotonic time.
		time.Sleep(20 * time.Hour)
		clock = telemetry.NewClock("boot2", 5, longAgo)
		j = mustOpen(t, cfg, textInventory(), clock)
		j.Release(21)
		commit(t, j)
		commit(t, j)
		if first, _ := j.Bounds(); first != 1 {
			t.Errorf("first frame %d: while the box was off nothing may have become old", first)
		}
		for range 20 {
			time.Sleep(time.Hour)
			commit(t, j)
		}
		var lost journal.Loss
		frames := readAll(t, j)
		for _, f := range frames {
			if f.Lost != nil {
				if lost.FirstSeq == 0 {
					lost.FirstSeq, lost.Reason = f.Lost.FirstSeq, f.Lost.Reason
				}
				lost.LastSeq = f.Lost.LastSeq
				lost.Count += f.Lost.Count
				wall, ok := f.Wall(f.T1)
				if age := time.Since(wall); !ok || age < 44*time.Hour || age > 60*time.Hour {
					t.Errorf("the loss ended %v ago (%v)", age, ok)
				}
			}
		}
		first, _ := j.Bounds()
		if lost.Reason != journal.LossAge || lost.FirstSeq != 21 || lost.LastSeq != first-1 || lost.Count != first-21 || first < 60 {
			t.Errorf("told %+v, first %d", lost, first)
		}
		closeJournal(t, j)
	})
}

func TestInvariantAppendNeverWaitsAndDropsTheOldest(t *testing.T) {
	fs := newMemFS()
	cfg := journal.Config{Dir: "j", SegmentBytes: 16 << 10, MaxBytes: 4 << 20, MaxPending: 2000} // each sample here is a step of its own
	j, err := journal.OpenFS(cfg, textInventory(), newClock("boot1"), fs)
	if err != nil {
		t.Fatal(err)
	}
	h := newHistory(t)
	h.append(j, 100)
	h.commit(j)
	fs.full, fs.syncErr = true, true
	for range 50 {
		h.append(j, 100)
		if err := j.Commit(); err == nil {
			t.Fatal("committed on a failing disk")
		}
	}
	s := j.Stats()
	if s.Pending != 2000 || s.SamplesLost != 4000 || s.CommitFailures != 50 || s.LastError == "" {
		t.Errorf("%+v: want 1000 samples and their steps pending, 4000 lost, 50 failures", s)
	}
	if n, _ := h.read(j); len(n) != 100 {
		t.Errorf("%d samples readable, want 100", len(n))
	}
	fs.full, fs.syncErr = false, false
	commit(t, j)
	numbers, losses := h.read(j)
	if len(numbers) != 1100 || numbers[100] != 4100 || !slices.IsSorted(numbers) {
		t.Errorf("%d samples, the first after the gap %d, want 1100 and 4100", len(numbers), numbers[100])
	}
	if len(losses) != 1 || losses[0] != (journal.Loss{Count: 4000, Reason: journal.LossDiskError}) {
		t.Errorf("losses %+v", losses)
	}
	for seq := uint64(1); ; seq++ {
		var f journal.Frame
		if err := j.Read(seq, &f); err != nil {
			t.Fatal(err)
		}
		if f.Lost != nil {
			if f.T0 != numbered(100).Time || f.T1 != numbered(4099).Time {
				t.Errorf("lost from %d to %d", f.T0, f.T1)
			}
			break
		}
	}
	if s := j.Stats(); s.LastError != "" || s.Pending != 0 {
		t.Errorf("after recovery: %+v", s)
	}
	// Too fast for a healthy disk.
	h.append(j, 1500)
	commit(t, j)
	if _, losses = h.read(j); len(losses) != 2 || losses[1] != (journal.Loss{Count: 500, Reason: journal.LossPendingFull}) {
		t.Errorf("losses %+v", losses)
	}
	j = h.reopen(fs.restart(), "boot1")
	h.committed = 0 // they are not contiguous; that none changed is checked
	h.check(j)
}

// TestBlockedSync appends while a sync hangs: it is Run that hangs, and nobody else.
func TestBlockedSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := &slowFS{memFS: newMemFS(), slow: 30 * time.Second}
		j, err := journal.OpenFS(journal.Config{Dir: "j", MaxPending: 500}, textInventory(), newClock("boot1"), fs)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		h := newHistory(t)
		start := time.Now()
		h.append(j, 10)
		go func() { done <- j.Commit() }()
		for range 20 {
			time.Sleep(time.Second)
			h.append(j, 100)
			j.Stats()
			j.Bounds()
		}
		if d := time.Since(start); d != 20*time.Second {
			t.Errorf("20 s of appending took %v", d)
		}
		if s := j.Stats(); s.Pending > 500 || s.SamplesLost < 1400 {
			t.Errorf("%+v: want 500 pending at most", s)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		commit(t, j)
		numbers, losses := h.read(j)
		var lost uint64
		for _, l := range losses {
			lost += l.Count
		}
		if int(lost)+len(numbers) != h.appended {
			t.Errorf("%d samples and %d told as lost of %d", len(numbers), lost, h.appended)
		}
	})
}

// slowFS takes its time to sync.
type slowFS struct {
	*memFS
	slow time.Duration
}

func (s *slowFS) SyncDir(dir string) error {
	time.Sleep(s.slow)
	return s.memFS.SyncDir(dir)
}

func TestFullDiskGivesHistoryWay(t *testing.T) {
	fs := newMemFS()
	fs.capacity = 80 << 10 // five segments, although MaxBytes says 256
	j, err := journal.OpenFS(smallSegments, textInventory(), newClock("boot1"), fs)
	if err != nil {
		t.Fatal(err)
	}
	h := newHistory(t)
	failures := 0
	for range 100 {
		j.Release(math.MaxUint64)
		h.append(j, 40)
		if j.Commit() != nil {
			failures++
		}
	}
	commit(t, j)
	numbers, losses := h.read(j)
	if failures > 0 || len(losses) > 0 || numbers[len(numbers)-1] != h.appended-1 {
		t.Errorf("%d failures, losses %v, last sample %d of %d", failures, losses, numbers[len(numbers)-1], h.appended)
	}
}

func TestInvariantTimesNeverChange(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		inv := textInventory()
		cfg := journal.Config{Dir: dir, SegmentBytes: 16 << 10, MaxAge: 1 << 62}
		// The box boots without a clock, restarts the program in the same boot, gets the time, and restarts again.
		setAt := time.Now().Add(time.Hour)
		boot := func() *telemetry.Clock {
			return telemetry.NewClock("boot1", telemetry.Mono(time.Since(longAgo)), setAt)
		}
		at := map[uint64]time.Time{}
		var ended telemetry.Mono // of the first boot: its last sample
		read := func(j *journal.Journal, wantUnset int) {
			t.Helper()
			unset := 0
			first, next := j.Bounds()
			for seq := first; seq < next; seq++ {
				var f journal.Frame
				if err := j.Read(seq, &f); err != nil {
					t.Fatal(err)
				}
				for _, r := range f.Records {
					wall, ok := f.Wall(r.Time)
					if !ok {
						unset++
						continue
					}
					// The bubble's clock does not drift: the true time of a Mono is known. The boot that never got the
					// time ended when the next began, as far as anybody can know.
					want := longAgo.Add(time.Duration(r.Time))
					if f.Boot == "boot0" {
						want = longAgo.Add(time.Duration(r.Time - ended))
					}
					if f.Uncertain != (f.Boot == "boot0") {
						t.Errorf("frame %d of %s: uncertain %v", seq, f.Boot, f.Uncertain)
					}
					if !wall.Equal(want) {
						t.Errorf("frame %d at %v, want %v", seq, wall, want)
					}
					if old, ok := at[seq]; ok && old != wall {
						t.Errorf("frame %d was at %v and is at %v", seq, old, wall)
					}
					at[seq] = wall
				}
			}
			if unset != wantUnset {
				t.Errorf("%d samples without a time, want %d", unset, wantUnset)
			}
		}
		add := func(j *journal.Journal, clock *telemetry.Clock, n int) {
			for range n {
				s := numbered(1)
				s.Time = clock.Mono()
				appendStep(j, []telemetry.Sample{s})
				commit(t, j)
				time.Sleep(time.Second)
			}
		}
		old := telemetry.NewClock("boot0", 77, setAt.Add(1000*time.Hour)) // a boot that never got the time
		j := mustOpen(t, cfg, inv, old)
		add(j, old, 3)
		ended = old.Mono().Add(-time.Second)
		closeJournal(t, j)

		clock := boot()
		j = mustOpen(t, cfg, inv, clock)
		add(j, clock, 200)
		read(j, 203)
		j.Kill()

		clock = boot()
		j = mustOpen(t, cfg, inv, clock)
		add(j, clock, 3)
		read(j, 206)
		time.Sleep(time.Hour)
		read(j, 206) // The clock is set, and no frame says so yet.
		add(j, clock, 200)
		read(j, 0)
		closeJournal(t, j)

		for range 2 {
			j = mustOpen(t, cfg, inv, newClock("boot2"))
			read(j, 0)
			closeJournal(t, j)
		}
	})
}

func TestReadOfWhatIsNotThere(t *testing.T) {
	j := mustOpen(t, journal.Config{Dir: t.TempDir()}, textInventory(), newClock("boot1"))
	defer j.Close()
	h := newHistory(t)
	h.append(j, 1)
	h.commit(j)
	for _, seq := range []uint64{0, 2, 3, math.MaxUint64} {
		if err := j.Read(seq, &journal.Frame{}); !errors.Is(err, journal.ErrNotFound) {
			t.Errorf("frame %d: %v, want ErrNotFound", seq, err)
		}
	}
}

// TestEveryLossIsToldOnAFullDisk: somebody else fills the disk and takes whatever comes free. The journal goes on with what it
// has, then drops; each loss is told on the full disk already, and all of them once there is space again. A restart in between
// changes nothing.
func TestEveryLossIsToldOnAFullDisk(t *testing.T) {
	for name, grabs := range map[string]bool{"others take what comes free": true, "others leave what comes free": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fs := newMemFS()
				cfg := smallSegments
				cfg.MaxPending = 400
				core, logs := observer.New(zap.InfoLevel)
				cfg.Log = zap.New(core)
				open := func(boot string) *journal.Journal {
					j, err := journal.OpenFS(cfg, textInventory(), telemetry.NewClock(boot, telemetry.Mono(time.Minute), longAgo), fs)
					if err != nil {
						t.Fatal(err)
					}
					return j
				}
				j := open("boot1")
				h := newHistory(t)
				step := func() error {
					h.append(j, 10)
					err := j.Commit()
					if fs.capacity > 0 && grabs {
						fs.capacity = fs.used()
					}
					time.Sleep(time.Second)
					return err
				}
				for range 150 {
					if err := step(); err != nil {
						t.Fatal(err)
					}
				}
				if st := j.Stats(); !st.Reserved || st.Segments < 8 {
					t.Fatalf("%+v: want a reserve", st)
				}
				fs.capacity = fs.used()
				failed := -1
				for i := range 400 {
					if err := step(); err != nil && failed < 0 {
						failed = i
						if !errors.Is(err, syscall.ENOSPC) {
							t.Errorf("%v, want a full disk", err)
						}
					}
				}
				st := j.Stats()
				var told uint64
				_, losses := h.read(j)
				for _, l := range losses {
					told += l.Count
				}
				if grabs {
					// A segment of 16 KiB takes about 90 of these samples, and two of them are left.
					if failed < 4 || st.CommitFailures == 0 || st.SamplesLost == 0 || st.Reserved || told < st.SamplesLost*3/4 {
						t.Errorf("failed first at step %d, %+v, told %d on the full disk", failed, st, told)
					}
				} else if failed >= 0 || st.CommitFailures > 0 {
					t.Errorf("failed at step %d, %+v, although history could make way", failed, st)
				}
				if n := logs.Len(); n > 6 {
					t.Errorf("%d log lines: %v", n, logs.All())
				}
				// A clean stop and a start, still on the full disk.
				lost := j.Stats().SamplesLost
				_ = j.Close()
				pending := j.Stats().Pending
				j = open("boot1")
				h.append(j, 40)
				_ = j.Commit()
				fs.capacity = 0
				for range 3 {
					if err := step(); err != nil {
						t.Fatal(err)
					}
					time.Sleep(2 * time.Hour)
				}
				if err := step(); err != nil {
					t.Fatal(err)
				}
				numbers, losses := h.read(j)
				told = 0
				for _, l := range losses {
					told += l.Count
				}
				kept := len(numbers)
				// What was waiting in memory when the process ended was nobody's yet, and what had been dropped since the last
				// tombstone. Where the oldest makes way the tombstones of before go with it.
				if !grabs {
					told = lost + j.Stats().SamplesLost
				}
				gone := h.appended - kept - int(told)
				if gone < 0 || grabs && gone > pending/2+1+10*60 || !grabs && gone != 0 {
					t.Errorf("%d samples of %d kept, %d told as lost (%d in the first life), %d waited in memory at its end: %d are unaccounted for", kept, h.appended, told, lost, pending, gone)
				}
				if st := j.Stats(); !st.Reserved || st.LastError != "" {
					t.Errorf("%+v", st)
				}
			})
		})
	}
}
