package journal_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"linli/internal/journal"
	"linli/internal/telemetry"
)

const (
	killDir  = "LINLI_JOURNAL_KILL_DIR"
	killRoll = "LINLI_JOURNAL_KILL_ROLL"
)

// TestMain runs the writer of TestKill instead of the tests when it is told to.
func TestMain(m *testing.M) {
	if dir := os.Getenv(killDir); dir != "" {
		run := appendForever
		if os.Getenv(killRoll) != "" {
			run = rollForever
		}
		if err := run(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// appendForever appends numbered samples and prints the first number that is not committed, after each commit.
func appendForever(dir string) error {
	inv := textInventory()
	j, err := journal.Open(journal.Config{Dir: dir, SegmentBytes: 16 << 10, MaxBytes: 1 << 30}, inv, newClock("boot1"))
	if err != nil {
		return err
	}
	// Go on after the last one there is.
	n := 0
	first, next := j.Bounds()
	var f journal.Frame
	for seq := first; seq < next; seq++ {
		if err := j.Read(seq, &f); err != nil {
			return err
		}
		for _, r := range f.Records {
			if _, err := fmt.Sscanf(r.Value.Text(), "%d", &n); err != nil {
				return err
			}
			n++
		}
	}
	for step := 0; ; step++ {
		for range 1 + step%20 {
			s := numbered(n)
			n++
			appendStep(j, []telemetry.Sample{s})
		}
		if err := j.Commit(); err != nil {
			return err
		}
		fmt.Println(n)
	}
}

// TestKill kills a writing process with SIGKILL again and again: everything it said was committed can be read,
// once, in order.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	committed := killAgainAndAgain(t, dir, 60, killDir+"="+dir)
	j := mustOpen(t, journal.Config{Dir: dir, SegmentBytes: 16 << 10}, textInventory(), newClock("boot1"))
	defer j.Close()
	h := newHistory(t)
	h.committed, h.appended = committed, committed
	h.check(j)
	numbers, losses := h.read(j)
	t.Logf("%d samples, %d of them for certain, %d segments", len(numbers), committed, j.Stats().Segments)
	if len(losses) != 0 || j.Stats().DamagedFrames != 0 || !slices.Equal(numbers, upTo(len(numbers))) {
		t.Errorf("losses %v, %+v", losses, j.Stats())
	}
}

// killAgainAndAgain starts this program with env and kills it some time after it has said up to most lines, and returns the
// last number that it said.
func killAgainAndAgain(t *testing.T, dir string, most int, env ...string) (committed int) {
	t.Helper()
	r := rand.New(rand.NewPCG(3, 4))
	for round := range 15 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), env...)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines, kill := 0, 1+r.IntN(most)
		for in := bufio.NewScanner(out); in.Scan(); {
			if _, err := fmt.Sscan(in.Text(), &committed); err != nil {
				t.Fatalf("the writer said %q", in.Text())
			}
			if lines++; lines == kill {
				timer := time.AfterFunc(time.Duration(r.IntN(2000))*time.Microsecond, func() { cmd.Process.Kill() })
				defer timer.Stop()
			}
		}
		cmd.Wait() // It was killed: that is no news.
		if lines < kill {
			t.Fatalf("round %d: the writer ended by itself: %s", round, stderr.String())
		}
	}
	return committed
}

// rollForever appends a sample of each point a minute, an hour in a few ms, while the hours that are over are rolled up. It says
// how many commits there were.
func rollForever(dir string) error {
	inv := newInventory(3)
	j, err := journal.Open(journal.Config{Dir: dir, SegmentBytes: 16 << 10, MaxBytes: 1 << 30, MaxAge: 1 << 62}, inv, newClock("boot1"))
	if err != nil {
		return err
	}
	at := telemetry.Mono(0)
	var f journal.Frame
	for first, seq := j.Bounds(); seq > first; seq-- {
		if err := j.Read(seq-1, &f); err == nil && f.Lost == nil {
			at = f.T1
			break
		}
	}
	var wall atomic.Int64
	failed := make(chan error, 1)
	go func() {
		for {
			if err := j.RollupAt(context.Background(), time.Unix(0, wall.Load())); err != nil {
				failed <- err
				return
			}
		}
	}()
	for n := 0; ; n++ {
		at += telemetry.Mono(time.Minute)
		appendStep(j, mixed(inv, 15, at))
		if err := j.Commit(); err != nil {
			return err
		}
		_, next := j.Bounds()
		if err := j.Read(next-1, &f); err != nil {
			return err
		}
		end, _ := f.Wall(at)
		wall.Store(end.UnixNano())
		fmt.Println(next)
		select {
		case err := <-failed:
			return err
		default:
		}
	}
}

// TestKillWhileRolling kills a process that rolls up, again and again: afterwards the rollups say what those say that are made
// anew from the frames.
func TestKillWhileRolling(t *testing.T) {
	dir, anew := t.TempDir(), t.TempDir()
	killAgainAndAgain(t, dir, 150, killDir+"="+dir, killRoll+"=1")
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	for _, e := range names {
		if isRollup(e.Name()) {
			files++
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err == nil {
			err = os.WriteFile(filepath.Join(anew, e.Name()), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	said := map[string][][]string{}
	for _, d := range []string{dir, anew} {
		j := mustOpen(t, journal.Config{Dir: d, SegmentBytes: 16 << 10, MaxBytes: 1 << 30, MaxAge: 1 << 62}, newInventory(3), newClock("boot1"))
		segs := j.Segments()
		if err := j.RollupAt(t.Context(), segs[len(segs)-1].To.Add(48*time.Hour)); err != nil {
			t.Fatal(err)
		}
		if st := j.Stats().Rollups; st.Damaged != 0 || st.Waiting != 0 {
			t.Errorf("%+v", st)
		}
		said[d] = [][]string{lines(t, j, journal.Minutes), lines(t, j, journal.Hours)}
		closeJournal(t, j)
	}
	for i, got := range said[dir] {
		want := said[anew][i]
		if !slices.Equal(got, want) || len(want) < 100 {
			t.Errorf("%d intervals, want the %d that the frames say", len(got), len(want))
		}
	}
	t.Logf("%d files were there, %d minutes", files, len(said[dir][0]))
	if files < 10 {
		t.Errorf("only %d files: the processes did not roll up", files)
	}
}

func upTo(n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = i
	}
	return s
}

// TestConcurrently appends from several goroutines while others commit, read, release and ask.
func TestConcurrently(t *testing.T) {
	cfg := journal.Config{Dir: t.TempDir(), SegmentBytes: 16 << 10, MaxBytes: 1 << 20}
	j := mustOpen(t, cfg, newInventory(4), newClock("boot1"))
	var writers, others sync.WaitGroup
	stop := make(chan struct{})
	for w := range 3 {
		writers.Go(func() {
			for i := range 200 {
				appendStep(j, mixed(newInventory(4), 30, numbered(1000*w+i).Time))
			}
		})
	}
	others.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if err := j.Commit(); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for range 2 {
		others.Go(func() {
			var f journal.Frame
			seq := uint64(1)
			for {
				changed := j.Changed()
				first, next := j.Bounds()
				for seq = max(seq, first); seq < next; seq++ {
					if err := j.Read(seq, &f); err != nil {
						// It may have been deleted for space since the bounds were asked.
						if first, _ := j.Bounds(); seq >= first {
							t.Error(err)
						}
						continue
					}
					for _, r := range f.Records {
						_ = r.Series.Point + r.Value.String()
					}
					j.Release(seq)
					j.Stats()
				}
				select {
				case <-stop:
					return
				case <-changed:
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	others.Wait()
	commit(t, j)
	if s := j.Stats(); s.SamplesWritten != 3*200*30 || s.DamagedFrames != 0 {
		t.Errorf("%+v: want %d samples written", s, 3*200*30)
	}
	closeJournal(t, j)
}
