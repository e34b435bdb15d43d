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

// run starts r and returns what ends it.
func run(t *testing.T, r *audit.Record) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

// bys returns who the newest n entries are by, newest first.
func bys(t *testing.T, r *audit.Record, n int) []string {
	t.Helper()
	lines, err := r.Tail(n)
	if err != nil {
		t.Errorf("Tail: %v", err)
	}
	var out []string
	for _, line := range lines {
		var e audit.Entry
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatal(err)
		}
		out = append(out, e.By)
	}
	return out
}

func entry(i int) audit.Entry {
	return audit.Entry{What: "write", By: fmt.Sprint("p", i), Device: "siren_1", Point: "on", Value: true, Outcome: "done"}
}

func TestRecordOutlivesTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	r := audit.New(audit.Config{Path: path})
	stop := run(t, r)
	unit := 3
	r.Add(audit.Entry{Time: time.Unix(1790000000, 0).UTC(), BootS: 12.5, What: "raw", By: "li.wei", Note: "换地址", Bus: "rs485_1", Unit: &unit, PDU: "0600010002", Outcome: "unknown", Error: "no answer", TookMS: 300})
	r.Add(entry(1))
	stop()
	if s := r.Stats(); s.Written != 2 || s.Waiting != 0 || s.Error != "" {
		t.Errorf("Stats = %+v, want 2 written", s)
	}

	again := audit.New(audit.Config{Path: path})
	lines, err := again.Tail(10)
	if err != nil || len(lines) != 2 {
		t.Fatalf("Tail = %s, %v", lines, err)
	}
	want := `{"time":"2026-09-21T14:13:20Z","boot_s":12.5,"what":"raw","by":"li.wei","note":"换地址","bus":"rs485_1","unit":3,"pdu":"0600010002","outcome":"unknown","error":"no answer","took_ms":300}`
	var got, wanted any
	if json.Unmarshal(lines[1], &got) != nil || json.Unmarshal([]byte(want), &wanted) != nil || fmt.Sprint(got) != fmt.Sprint(wanted) {
		t.Errorf("the older entry is\n%s, want\n%s", lines[1], want)
	}
}

func TestTailSeesWhatIsNotWritten(t *testing.T) {
	r := audit.New(audit.Config{Path: filepath.Join(t.TempDir(), "audit.log")})
	for i := range 3 {
		r.Add(entry(i))
	}
	if got := fmt.Sprint(bys(t, r, 2)); got != "[p2 p1]" {
		t.Errorf("Tail(2) before anything is written: %s", got)
	}
}

func TestRecordIsBounded(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.log")
	r := audit.New(audit.Config{Path: path, MaxBytes: 2000})
	stop := run(t, r)
	for i := range 100 {
		r.Add(entry(i))
	}
	stop()
	total := int64(0)
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil || info.Size() > 2000 {
			t.Errorf("%s has %d bytes, %v", f.Name(), info.Size(), err)
		}
		total += info.Size()
	}
	if len(files) != 2 || total > 4000 {
		t.Errorf("%d files of %d bytes, want 2 of at most 4000", len(files), total)
	}
	got := bys(t, r, 100)
	if len(got) < 10 || got[0] != "p99" {
		t.Fatalf("Tail over both files: %v", got)
	}
	for i, by := range got {
		if by != fmt.Sprint("p", 99-i) {
			t.Fatalf("entry %d from the end is %s: %v", i, by, got)
		}
	}
}

func TestTornLineCostsItselfAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(path, []byte(`{"by":"whole"}`+"\n"+`{"by":"torn`), 0o600); err != nil {
		t.Fatal(err)
	}
	r := audit.New(audit.Config{Path: path})
	stop := run(t, r)
	r.Add(entry(1))
	stop()
	if got := fmt.Sprint(bys(t, r, 10)); got != "[p1 whole]" {
		t.Errorf("Tail = %s", got)
	}
}

func TestFailingDiskKeepsTheNewestAndRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "not-there")
		r := audit.New(audit.Config{Path: filepath.Join(dir, "audit.log"), Waiting: 4})
		stop := run(t, r)
		for i := range 10 {
			r.Add(entry(i))
			synctest.Wait()
		}
		if s := r.Stats(); s.Failures == 0 || s.Dropped != 6 || s.Waiting != 4 || s.Error == "" {
			t.Errorf("Stats on a failing disk = %+v", s)
		}
		if got := fmt.Sprint(bys(t, r, 10)); got != "[p9 p8 p7 p6]" {
			t.Errorf("Tail on a failing disk = %s", got)
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if s := r.Stats(); s.Written != 4 || s.Waiting != 0 || s.Error != "" {
			t.Errorf("Stats after the disk came back = %+v", s)
		}
		stop()
		if got := fmt.Sprint(bys(t, r, 10)); got != "[p9 p8 p7 p6]" {
			t.Errorf("Tail from the disk = %s", got)
		}
	})
}

func TestLinesAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	r := audit.New(audit.Config{Path: path})
	stop := run(t, r)
	long, wild := strings.Repeat("门", 5000), strings.Repeat("\x01", 5000)
	r.Add(audit.Entry{What: "write", By: long, Note: long, Value: long, Outcome: "done", Error: long})
	r.Add(audit.Entry{What: "write", By: "x", Note: wild, Value: wild, Outcome: "done", Error: wild})
	r.Add(audit.Entry{What: "write", By: "y", Value: func() {}, Outcome: "done"})
	stop()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(strings.TrimSuffix(string(data), "\n"), "\n")
	for _, line := range lines {
		if len(line) > 4096 || !json.Valid([]byte(line)) {
			t.Errorf("a line of %d bytes: %.80s", len(line), line)
		}
	}
	if got := bys(t, r, 10); len(lines) != 3 || len(got) != 3 || got[0] != "y" || got[1] != "x" {
		t.Errorf("%d lines, by %.60s", len(lines), got)
	}
}

// What was begun is known from both files; what was refused, is old or is no command is not.
func TestBegan(t *testing.T) {
	now := time.Now().UTC()
	c := audit.Config{Path: filepath.Join(t.TempDir(), "audit.log")}
	command := func(id, outcome string, at time.Time) audit.Entry {
		return audit.Entry{Time: at, What: "command", By: "city", Command: id, Outcome: outcome}
	}
	r := audit.New(c)
	stop := run(t, r)
	for _, e := range []audit.Entry{
		command("killed", "begun", now), command("done", "begun", now), command("done", "done", now),
		command("busy", "refused", now), command("old", "done", now.Add(-72*time.Hour)), {What: "write", By: "city", Command: "no", Outcome: "done", Time: now},
	} {
		r.Add(e)
	}
	stop()
	if err := os.Rename(c.Path, c.Path+".1"); err != nil {
		t.Fatal(err)
	}
	r = audit.New(c)
	stop = run(t, r)
	r.Add(command("clockless", "failed", time.Time{}))
	stop()
	began, err := audit.New(c).Began(now.Add(-48 * time.Hour))
	if err != nil || len(began) != 3 || !began[audit.CommandKey{By: "city", Command: "killed"}] ||
		!began[audit.CommandKey{By: "city", Command: "done"}] || !began[audit.CommandKey{By: "city", Command: "clockless"}] {
		t.Errorf("%v, %v", began, err)
	}
}
