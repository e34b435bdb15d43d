package journal_test

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"linli/internal/journal"
	"linli/internal/telemetry"
)

const killDir = "LINLI_JOURNAL_KILL_DIR"

// TestMain runs the writer of TestKill instead of the tests when it is told to.
func TestMain(m *testing.M) {
	if dir := os.Getenv(killDir); dir != "" {
		if err := appendForever(dir); err != nil {
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
	r := rand.New(rand.NewPCG(3, 4))
	committed := 0
	for round := range 15 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), killDir+"="+dir)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines, kill := 0, 1+r.IntN(60)
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
