package alert_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"linli/internal/alert"
	"linli/internal/store"
	"linli/internal/telemetry"
)

// told writes a reader's answer as text: each alert with what happened to it.
func told(records []alert.Record) string {
	var s []string
	for _, r := range records {
		line := r.Alert.Alert + ":"
		for _, e := range r.Lines {
			line += fmt.Sprintf(" %s@%s", e.What, e.Time.Sub(noon.Truncate(time.Millisecond)))
		}
		s = append(s, line)
	}
	return strings.Join(s, "; ")
}

// A reader sees what a running book has on disk, and afterwards what a closed one has, and changes neither.
func TestReader(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "alerts.db")
	b, stop := running(t, alert.Config{Path: path})
	b.Submit(at(0), []telemetry.Transition{lane(telemetry.Raise, 0)})
	b.Submit(at(time.Hour), []telemetry.Transition{smoke(telemetry.Raise, time.Hour)})
	b.Submit(at(2*time.Hour), []telemetry.Transition{lane(telemetry.Clear, 2*time.Hour), lane(telemetry.Raise, 2*time.Hour+time.Minute)})
	durable(t, b, 2)

	r, err := alert.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	const both = "FireLaneBlocked: raised@0s returned@2h0m0s raised_again@2h1m0s; SmokeDetected: raised@1h0m0s"
	for _, c := range []struct {
		from, to time.Duration
		want     string
	}{
		{0, 3 * time.Hour, both},
		{90 * time.Minute, 100 * time.Minute, both}, // both were open
		{-time.Hour, time.Hour, strings.Split(both, "; ")[0]},
		{-time.Hour, 0, ""},
	} {
		records, err := r.History(t.Context(), noon.Add(c.from), noon.Add(c.to))
		if got := told(records); err != nil || got != c.want {
			t.Errorf("from %v to %v: got %q, %v, want %q", c.from, c.to, got, err, c.want)
		}
	}
	records, err := r.History(t.Context(), noon, noon.Add(3*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	for _, rec := range records {
		a, lines, err := b.Get(rec.Alert.ID)
		if err != nil || a != rec.Alert || len(lines) != len(rec.Lines) || lines[0] != rec.Lines[0] || lines[0].Severity() != a.Severity {
			t.Errorf("the book says\n%+v %+v, %v, the reader\n%+v", a, lines, err, rec)
		}
	}

	// The book goes on beside its reader, and can be closed under it.
	b.Submit(at(4*time.Hour), []telemetry.Transition{smoke(telemetry.Clear, 4*time.Hour)})
	for _, a := range b.OpenAlerts() {
		if _, err := b.Acknowledge(t.Context(), a.ID, "Wang", ""); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	records, err = r.History(t.Context(), noon, noon.Add(10000*time.Hour))
	if err != nil || len(records) != 2 || records[1].Alert.State != alert.Closed || records[0].Alert.State != alert.ActiveAcknowledged {
		t.Errorf("after the end of the book: %s, %v", told(records), err)
	}
	closed := records[1].Alert.ClosedAt
	if records, err := r.History(t.Context(), closed.Add(time.Millisecond), closed.Add(time.Hour)); err != nil || len(records) != 1 {
		t.Errorf("after it was closed an alert is still there: %s, %v", told(records), err)
	}
	again, err := alert.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if records, err := again.History(t.Context(), noon, noon.Add(time.Hour)); err != nil || len(records) != 1 {
		t.Errorf("opened anew: %s, %v", told(records), err)
	}
}

// durable waits until n open alerts are on disk as they stand.
func durable(t *testing.T, b *alert.Book, n int) {
	t.Helper()
	limit := time.After(10 * time.Second)
	for {
		changed, on := b.Changed(), 0
		for _, a := range b.OpenAlerts() {
			if a.Durable {
				on++
			}
		}
		if on == n && b.Stats().Waiting == 0 {
			return
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("on disk: %+v", b.OpenAlerts())
		}
	}
}

func TestReaderOfNoFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "alerts.db")
	if _, err := alert.OpenReader(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the reader has made a file")
	}
	for _, version := range []int{1, 1000} {
		path := filepath.Join(t.TempDir(), "alerts.db")
		db, err := store.Open(path, make([]string, version))
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		_, err = alert.OpenReader(path)
		_, older := errors.AsType[*store.OlderError](err)
		_, newer := errors.AsType[*store.NewerError](err)
		if !older && !newer {
			t.Errorf("version %d: %v", version, err)
		}
	}
}
