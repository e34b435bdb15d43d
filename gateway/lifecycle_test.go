package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestLifecycleStopsInTheOppositeOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		l := newLifecycle()
		l.onStop("file", time.Second, func() error { order = append(order, "file"); return nil })
		for _, name := range []string{"sink", "middle", "source"} {
			l.start(name, time.Second, func(ctx context.Context) error {
				<-ctx.Done()
				time.Sleep(100 * time.Millisecond) // Whoever is stopped too early would be seen before the others.
				order = append(order, name)
				return ctx.Err()
			})
		}
		if err := l.stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
		if want := []string{"source", "middle", "sink", "file"}; !slices.Equal(order, want) {
			t.Errorf("stopped in the order %v, want %v", order, want)
		}
		if err := l.stop(); err != nil {
			t.Errorf("a second stop: %v", err)
		}
	})
}

func TestLifecycleBoundsTheStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLifecycle()
		closed := false
		l.onStop("file", time.Second, func() error { closed = true; return nil })
		release := make(chan struct{})
		l.start("stuck", 3*time.Second, func(context.Context) error { <-release; return nil })
		started := time.Now()
		err := l.stop()
		if took := time.Since(started); took != 3*time.Second {
			t.Errorf("stop took %s, want 3s", took)
		}
		if err == nil || !strings.Contains(err.Error(), "stop stuck: not stopped after 3s") {
			t.Errorf("stop says %v", err)
		}
		if !closed {
			t.Error("what was started before the stuck part was not closed")
		}
		close(release)
		synctest.Wait()
	})
}

func TestLifecycleBoundsAClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLifecycle()
		held := make(chan struct{})
		l.onStop("disk", 2*time.Second, func() error { <-held; return nil })
		started := time.Now()
		err := l.stop()
		if took := time.Since(started); took != 2*time.Second || err == nil || !strings.Contains(err.Error(), "stop disk: not stopped after 2s") {
			t.Errorf("stop took %s and says %v", took, err)
		}
		close(held)
		synctest.Wait()
	})
}

func TestLifecycleEndsWithTheFirstFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		l := newLifecycle()
		l.start("good", time.Second, func(ctx context.Context) error { <-ctx.Done(); return nil })
		l.start("bad", time.Second, func(context.Context) error { time.Sleep(time.Minute); return broken })
		l.start("worse", time.Second, func(context.Context) error { time.Sleep(2 * time.Minute); return errors.New("later") })
		err := l.wait(t.Context())
		if !errors.Is(err, broken) || !strings.HasPrefix(err.Error(), "bad: ") {
			t.Errorf("wait returned %v, want bad: broken", err)
		}
		if err := l.stop(); err == nil || !strings.Contains(err.Error(), "worse") {
			t.Errorf("stop returned %v, want that worse did not stop in time", err)
		}
		time.Sleep(2 * time.Minute)
	})
}

func TestLogQueueNeverBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reader := &stuckWriter{release: make(chan struct{})}
		q := newLogQueue(reader, 2)
		_, _ = q.Write([]byte("line\n"))
		synctest.Wait() // The writer has it, and is stuck.
		for range 9 {
			if n, err := q.Write([]byte("line\n")); n != 5 || err != nil {
				t.Fatalf("write: %d, %v", n, err)
			}
		}
		close(reader.release)
		q.flush()
		// One is with the writer, two fit into the queue.
		if got := reader.got.String(); !strings.Contains(got, `"log lines dropped because the log was not read","count":7`) || strings.Count(got, "line\n") != 3 {
			t.Errorf("the log is\n%s", got)
		}
		close(q.lines) // Ends the writer, which lives as long as the process otherwise.
	})
}

type stuckWriter struct {
	release chan struct{}
	got     strings.Builder
}

func (w *stuckWriter) Write(p []byte) (int, error) {
	<-w.release
	return w.got.Write(p)
}
