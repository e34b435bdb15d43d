package audit_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"linli/internal/audit"
)

// TestNothingsCannotPushOutWhatHappened: a script that asks for the same again and again costs two lines a minute.
func TestNothingsCannotPushOutWhatHappened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "audit.log")
		r := audit.New(audit.Config{Path: path, MaxBytes: 8000})
		stop := run(t, r)
		r.Add(entry(1))
		for i := range 31060 {
			r.Fold(audit.Entry{What: "write", By: fmt.Sprint("w", i%7), Device: "siren_1", Point: "on", Outcome: "refused", Error: fmt.Sprint(i)})
		}
		synctest.Wait()
		if got := bys(t, r, 10); len(got) != 3 || got[0] != "w0, w1, w2, …" || got[2] != "p1" {
			t.Errorf("Tail within the minute: %v", got)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		lines, err := r.Tail(10)
		if err != nil || len(lines) != 3 || !strings.Contains(string(lines[0]), `"error":"31059"`) || !strings.Contains(string(lines[0]), `"repeated":31059`) ||
			!strings.Contains(string(lines[1]), `"error":"0"`) || strings.Contains(string(lines[1]), "repeated") {
			t.Errorf("after the minute: %s, %v", lines, err)
		}
		if s := r.Stats(); s.Written != 3 || s.Folded != 31058 || s.Dropped != 0 {
			t.Errorf("Stats = %+v", s)
		}
		// Over very many points: one line for all beyond the bound.
		for i := range 5000 {
			r.Fold(audit.Entry{What: "write", By: "x", Device: fmt.Sprint("d", i), Point: "on", Outcome: "refused"})
		}
		stop()
		if s := r.Stats(); s.Written > 3+2*65 {
			t.Errorf("a flood over many points: %+v", s)
		}
		if data, err := os.ReadFile(path + ".1"); err == nil && !strings.Contains(string(data), `"by":"p1"`) {
			t.Errorf("what happened is gone: %s", data)
		}
	})
}

// TestWithoutADiskWhatHappenedStaysLongest: what is folded goes first, then what was only begun.
func TestWithoutADiskWhatHappenedStaysLongest(t *testing.T) {
	r := audit.New(audit.Config{Path: filepath.Join(t.TempDir(), "not-there", "audit.log"), Waiting: 4})
	r.Add(entry(1))
	r.Begin(entry(2))
	r.Fold(audit.Entry{What: "write", By: "f1", Point: "a", Outcome: "refused"})
	r.Add(entry(3))
	r.Fold(audit.Entry{What: "write", By: "f2", Point: "b", Outcome: "refused"})
	if got := fmt.Sprint(bys(t, r, 10)); got != "[f2 p3 p2 p1]" {
		t.Errorf("the older of two that changed nothing: %s", got)
	}
	r.Add(entry(4))
	r.Add(entry(5))
	if got := fmt.Sprint(bys(t, r, 10)); got != "[p5 p4 p3 p1]" {
		t.Errorf("then what was begun: %s", got)
	}
	r.Fold(audit.Entry{What: "write", By: "f3", Point: "c", Outcome: "refused"})
	r.Add(entry(6))
	if got := fmt.Sprint(bys(t, r, 10)); got != "[p6 p5 p4 p3]" {
		t.Errorf("then the oldest: %s", got)
	}
	if s := r.Stats(); s.Dropped != 5 || s.Waiting != 4 {
		t.Errorf("Stats = %+v", s)
	}
}

// TestBegunIsInTheFileBeforeItIsSent: Begin returns when the operating system has the line.
func TestBegunIsInTheFileBeforeItIsSent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	r := audit.New(audit.Config{Path: path})
	stop := run(t, r)
	defer stop()
	r.Add(entry(99))
	for deadline := time.Now().Add(10 * time.Second); r.Stats().Written == 0; <-time.After(time.Millisecond) { // Run has begun.
		if time.Now().After(deadline) {
			t.Fatal("nothing is written")
		}
	}
	for i := range 20 {
		r.Begin(entry(i))
		data, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(data), fmt.Sprintf(`"by":"p%d"`, i)) {
			t.Fatalf("after Begin %d the file has %s, %v", i, data, err)
		}
		if !strings.Contains(string(data), `"outcome":"begun"`) {
			t.Fatalf("the file has %s", data)
		}
	}
}

func TestBeginDoesNotWaitForABrokenDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := audit.New(audit.Config{Path: filepath.Join(t.TempDir(), "not-there", "audit.log")})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		synctest.Wait()
		began := time.Now()
		for i := range 10 {
			r.Begin(entry(i))
		}
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("ten lines took %s", took)
		}
		cancel()
		<-done
	})
}

func TestToolsWorkingAloneLeaveALine(t *testing.T) {
	dir := t.TempDir()
	if err := audit.AppendAlone(filepath.Join(dir, "none"), entry(1)); err != nil {
		t.Errorf("without a state directory: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "audit.log"), []byte(`{"by":"whole"}`+"\n"+`{"by":"torn`), 0o640); err != nil {
		t.Fatal(err)
	}
	e := entry(2)
	e.Note = "试鸣"
	for range 2 {
		if err := audit.AppendAlone(dir, e); err != nil {
			t.Fatal(err)
		}
	}
	r := audit.New(audit.Config{Path: filepath.Join(dir, "audit.log")})
	lines, err := r.Tail(1)
	var got audit.Entry
	if err != nil || json.Unmarshal(lines[0], &got) != nil || got.Origin != audit.OriginTool || got.Note != "试鸣" {
		t.Errorf("the newest: %s, %v", lines, err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "audit.log"))
	if err != nil || strings.Count(string(data), "p2") != 2 {
		t.Errorf("the file has %s, %v", data, err)
	}
	// A link in its place is not followed: who may write the directory does not get root to write elsewhere.
	other := filepath.Join(t.TempDir(), "audit.log")
	target := filepath.Join(t.TempDir(), "passwd")
	if err := os.Symlink(target, other); err != nil {
		t.Fatal(err)
	}
	if err := audit.AppendAlone(filepath.Dir(other), e); err == nil {
		t.Error("a symbolic link was followed")
	}
	if _, err := os.Lstat(target); err == nil {
		t.Error("the link's target was written")
	}
}
