package alert_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"linli/internal/alert"
	"linli/internal/telemetry"
)

const pathVar = "LINLI_ALERT_TEST_PATH" // makes the test binary a gateway that lives until it is killed

func TestMain(m *testing.M) {
	if path := os.Getenv(pathVar); path != "" {
		fmt.Fprintln(os.Stderr, liveUntilKilled(path))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// liveUntilKilled raises, clears, acknowledges and tells, and prints what it saw announced as durable ("durable id
// revision") and what it is about to call told ("told id revision").
func liveUntilKilled(path string) error {
	b, err := alert.Open(alert.Config{Path: path}, inventory())
	if err != nil {
		return err
	}
	go func() { _ = b.Run(context.Background()) }()
	go func() {
		for i := 0; ; i++ {
			ops := []telemetry.TransitionOp{telemetry.Raise, telemetry.Clear, telemetry.Unknown, telemetry.Known}
			tr := lane(ops[rand.IntN(len(ops))], time.Duration(i)*time.Second)
			tr.Subject = fmt.Sprint("lane", rand.IntN(20))
			b.Submit(at(time.Duration(i)*time.Second), []telemetry.Transition{tr})
			if open := b.OpenAlerts(); len(open) > 0 && i%3 == 0 {
				if a, err := b.Acknowledge(context.Background(), open[rand.IntN(len(open))].ID, "Wang", ""); err == nil && a.Durable {
					fmt.Println("durable", a.ID, a.Revision)
				}
			}
		}
	}()
	for {
		changed := b.Changed()
		for _, o := range b.Pending("mqtt", 3) {
			if o.Alert.Durable {
				fmt.Println("durable", o.Alert.ID, o.Alert.Revision)
			}
			fmt.Println("told", o.Alert.ID, o.Alert.Revision)
			b.Told("mqtt", o.Alert.ID, o.Seq)
		}
		for _, a := range b.OpenAlerts() {
			if a.Durable {
				fmt.Println("durable", a.ID, a.Revision)
			}
		}
		<-changed
	}
}

// SIGKILL at any instant: every alert announced as durable is there, at that revision or a later one, with a whole
// history, and is either told or still to be told.
func TestKilledWhileCommitting(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "alerts.db")
	durable, told := map[string]int64{}, map[string]int64{}
	for round := range 8 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), pathVar+"="+path)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(out)
		for left := 200 + 331*round; ; left-- {
			line, err := lines.ReadString('\n')
			if errors.Is(err, io.EOF) {
				break
			}
			var what, id string
			var revision int64
			if n, _ := fmt.Sscan(line, &what, &id, &revision); n == 3 && len(id) == 26 && line[len(line)-1] == '\n' {
				if what == "durable" {
					durable[id] = max(durable[id], revision)
				} else {
					told[id] = max(told[id], revision)
				}
			}
			if left == 0 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // It was killed.

		b, err := alert.Open(alert.Config{Path: path}, inventory())
		if err != nil {
			t.Fatal(err)
		}
		if where, cause := b.Damaged(); where != "" {
			t.Fatalf("set aside: %v", cause)
		}
		pending := map[string]bool{}
		for _, o := range b.Pending("mqtt", 1<<20) {
			pending[o.Alert.ID] = true
		}
		for id, revision := range durable {
			a, entries, err := b.Get(id)
			if err != nil || a.Revision < revision {
				t.Fatalf("round %d: %s was announced as durable at revision %d, found %d, %v", round, id, revision, a.Revision, err)
			}
			if n := int64(len(entries)); n != min(a.Revision, 256) || entries[n-1].Revision != a.Revision {
				t.Fatalf("round %d: %s at revision %d has %d lines of history", round, id, a.Revision, n)
			}
			if told[id] < a.Revision && !pending[id] {
				t.Fatalf("round %d: revision %d of %s was neither told nor is it to be told", round, a.Revision, id)
			}
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(durable) < 20 || len(told) < 20 {
		t.Errorf("only %d alerts were announced and %d told: this showed nothing", len(durable), len(told))
	}
}

// Everybody at once, over a real file whose commits fail now and then.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "alerts.db")
	b, err := alert.Open(alert.Config{Path: path}, inventory())
	if err != nil {
		t.Fatal(err)
	}
	var n int // Commits come from one goroutine.
	alert.WrapCommit(b, func(commit func() error) error {
		n++
		switch n % 7 {
		case 3:
			return errDisk
		case 5: // It succeeds and says it did not, as a disk may.
			return errors.Join(commit(), errDisk)
		}
		return commit()
	})
	stop := run(t, b)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 200 {
				tr := lane(telemetry.TransitionOp(1+(i+w)%5), time.Duration(i)*time.Second)
				tr.Subject = fmt.Sprint("lane", w)
				b.Submit(at(time.Duration(i)*time.Second), []telemetry.Transition{tr})
				for _, a := range b.OpenAlerts() {
					if _, _, err := b.Get(a.ID); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	for range 3 {
		wg.Go(func() {
			for range 20 {
				for _, a := range b.OpenAlerts() {
					if _, err := b.Acknowledge(t.Context(), a.ID, "Wang", ""); err != nil {
						t.Error(err)
					}
					if _, err := b.CloseByHand(t.Context(), a.ID, "Wang", ""); err != nil && !errors.Is(err, alert.ErrStillActive) {
						t.Error(err)
					}
				}
				for _, o := range b.Pending("mqtt", 5) {
					b.Told("mqtt", o.Alert.ID, o.Seq)
				}
				if _, err := b.Recent(10); err != nil {
					t.Error(err)
				}
				b.Active()
				b.Stats()
			}
		})
	}
	wg.Wait()
	until(t, b, "everything is on disk", func() bool { return b.Stats().Waiting == 0 })
	open := b.OpenAlerts()
	closed, err := b.Recent(1000)
	if err != nil {
		t.Fatal(err)
	}
	stop()

	again, err := alert.Open(alert.Config{Path: path}, inventory())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got := again.OpenAlerts(); fmt.Sprint(got) != fmt.Sprint(open) {
		t.Errorf("open after reopening:\ngot  %+v\nwant %+v", got, open)
	}
	if got, err := again.Recent(1000); err != nil || fmt.Sprint(got) != fmt.Sprint(closed) {
		t.Errorf("closed after reopening: got %d, %v, want %d", len(got), err, len(closed))
	}
}

// A damaged file silences nobody.
func TestDamagedFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "alerts.db")
	if err := os.WriteFile(path, []byte("this was a database once, a long time ago"), 0o600); err != nil {
		t.Fatal(err)
	}
	b, _ := running(t, alert.Config{Path: path})
	where, cause := b.Damaged()
	if where == "" || cause == nil {
		t.Error("the damage was not reported")
	}
	if _, err := os.Stat(where); err != nil {
		t.Error(err)
	}
	b.Submit(at(0), []telemetry.Transition{smoke(telemetry.Raise, 0)})
	until(t, b, "raised", func() bool { return len(b.OpenAlerts()) == 1 && b.OpenAlerts()[0].Durable })
}

// Told about one revision while the next is being committed: the next is still to be told, also after a restart.
func TestToldDuringTheNextCommit(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "alerts.db")
	b, err := alert.Open(alert.Config{Path: path}, inventory())
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	alert.WrapCommit(b, func(commit func() error) error {
		if n++; n == 2 {
			for _, o := range b.Pending("mqtt", 10) {
				b.Told("mqtt", o.Alert.ID, o.Seq)
			}
		}
		return commit()
	})
	stop := run(t, b)
	b.Submit(at(0), []telemetry.Transition{lane(telemetry.Raise, 0)})
	until(t, b, "raised", func() bool { return len(b.OpenAlerts()) == 1 })
	if _, err := b.Acknowledge(t.Context(), b.OpenAlerts()[0].ID, "Wang", ""); err != nil {
		t.Fatal(err)
	}
	stop()
	b, _ = running(t, alert.Config{Path: path})
	if got := b.Pending("mqtt", 10); len(got) != 1 || got[0].What != "acknowledged" {
		t.Errorf("after the restart: %+v", got)
	}
}
