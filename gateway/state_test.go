package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"linli/internal/alert"
	"linli/internal/journal"
	"linli/internal/telemetry"
)

// smallPlan is a site without a bus.
func smallPlan(t *testing.T) *plan {
	t.Helper()
	p, err := resolvePlan("site.yaml", []byte("version: 1\nsite: test\ntitle: 测试\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestStoresAreLocked(t *testing.T) {
	dir, p := t.TempDir(), smallPlan(t)
	st, err := openStores(dir, p.site, newClock(), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openStores(dir, p.site, newClock(), zap.NewNop()); err == nil || !strings.Contains(err.Error(), "another gateway is running in the state directory "+dir) {
		t.Errorf("a second gateway on one state directory: %v", err)
	}
	st.book.Close()
	st.journal.Close()
	st.unlock()
	if st, err = openStores(dir, p.site, newClock(), zap.NewNop()); err != nil {
		t.Fatalf("after the first has ended: %v", err)
	}
	st.book.Close()
	st.journal.Close()
	st.unlock()
}

// TestDiskTrouble: a disk that is full, read-only or failing is told from a mistake that a person must mend.
func TestDiskTrouble(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		err  error
		want error
	}{
		"full":          {&os.PathError{Op: "write", Path: "x", Err: unix.ENOSPC}, unix.ENOSPC},
		"read-only":     {fmt.Errorf("lock the state directory: %w", &os.PathError{Op: "open", Path: "x", Err: unix.EROFS}), unix.EROFS},
		"failing":       {&os.PathError{Op: "sync", Path: "x", Err: unix.EIO}, unix.EIO},
		"no permission": {&os.PathError{Op: "open", Path: "x", Err: unix.EACCES}, nil},
		"newer file":    {errors.New("alerts.db was written by a newer program"), nil},
	} {
		if got := diskTrouble(dir, c.err); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		t.Errorf("the probe left %v (%v)", left, err)
	}
}

// TestFullDiskAtStart: a gateway whose disk is full when it starts works in memory and says so. The full disk is a real
// one: a file system that accepts no bytes.
func TestFullDiskAtStart(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16k"); err != nil {
		// Only root may mount. Then the same is shown with a directory below a file, which the kernel refuses to make.
		t.Logf("cannot mount a small file system here (%v): the fallback is tested by its parts", err)
		if trouble := diskTrouble(dir, fmt.Errorf("open: %w", unix.ENOSPC)); trouble != unix.ENOSPC {
			t.Fatalf("full disk: %v", trouble)
		}
		return
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	p := smallPlan(t)
	st, err := openStores(dir, p.site, newClock(), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	if st.trouble == nil || !strings.Contains(st.trouble.Error(), "no space left on device; working in memory") {
		t.Errorf("trouble is %v", st.trouble)
	}
	if st.dir != memoryDir(dir) {
		t.Errorf("the stores are in %s", st.dir)
	}
	if _, err := os.Stat(st.dir); err != nil {
		t.Error(err)
	}
	var frame journal.Frame
	if err := st.journal.Read(1, &frame); !errors.Is(err, journal.ErrNotFound) {
		t.Errorf("the journal in memory: %v", err)
	}
	st.book.Close()
	st.journal.Close()
	st.unlock()
	defer os.RemoveAll(st.dir)
	if _, err := os.Stat(filepath.Join(st.dir, bookName)); err != nil {
		t.Errorf("an orderly stop forgets what is open: %v", err)
	}
}

// keepSmoke has a smoke alarm raised in the book of st, runs the book until the alarm is on its disk, and returns it.
func keepSmoke(t *testing.T, st *stores) alert.Alert {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- st.book.Run(ctx) }()
	now := newClock().Now()
	st.book.Submit(now, []telemetry.Transition{{Identity: telemetry.Identity{Alert: "SmokeAlarm", Subject: "test"}, Op: telemetry.Raise,
		Condition: telemetry.ConditionTrue, Time: now.Mono, Wall: now.Wall, Severity: telemetry.Critical, Device: -1, Zone: -1, LifeSafety: true}})
	waitFor(t, 10*time.Second, "the alert on the disk", func() bool {
		open := st.book.OpenAlerts()
		return len(open) == 1 && open[0].Durable
	})
	cancel()
	<-done
	return st.book.OpenAlerts()[0]
}

// TestReadOnlyDiskAtStartKeepsTheAlerts: a disk that went read-only can still be read, and an alert that was active on it
// is still active.
func TestReadOnlyDiskAtStartKeepsTheAlerts(t *testing.T) {
	dir, p := t.TempDir(), smallPlan(t)
	st, err := openStores(dir, p.site, newClock(), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	before := keepSmoke(t, st)
	// As after a power cut: nothing is closed in an orderly way. The copy is taken as openStores takes it.
	memory := filepath.Join(t.TempDir(), "memory")
	if err := copyState(dir, memory); err != nil {
		t.Fatal(err)
	}
	st.journal.Close()
	st.book.Close()
	st.unlock()
	again, err := openStoresIn(memory, "", p.site, newClock(), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(memoryDir(dir))
	defer again.unlock()
	defer again.journal.Close()
	defer again.book.Close()
	open := again.book.OpenAlerts()
	if len(open) != 1 || open[0].ID != before.ID {
		t.Errorf("in memory the open alerts are %+v, want %s", open, before.ID)
	}
	// The same through a mount that really is read-only, where mounting is allowed.
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err == nil {
		defer unix.Unmount(dir, unix.MNT_DETACH)
		if err := unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
		ro, err := openStores(dir, p.site, newClock(), zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		open := ro.book.OpenAlerts()
		if len(open) != 1 || open[0].ID != before.ID || ro.trouble == nil {
			t.Errorf("read-only: open alerts %+v, trouble %v", open, ro.trouble)
		}
		ro.journal.Close()
		ro.book.Close()
		ro.unlock()
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
	} else {
		t.Logf("cannot mount here (%v): shown by the copy alone", err)
	}
	// A second start in memory goes on with what is there.
	if err := os.WriteFile(filepath.Join(dir, "alerts.db"), []byte("older"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := copyState(dir, memory); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(memory, "alerts.db")); err != nil || string(data) == "older" {
		t.Errorf("the book in memory was overwritten (%v)", err)
	}
}

// TestGoodDiskTakesBackWhatWasInMemory: what was open and on while the gateway worked in memory is so when the disk is
// good again, and the book that was on the disk is kept under another name.
func TestGoodDiskTakesBackWhatWasInMemory(t *testing.T) {
	dir, p := t.TempDir(), smallPlan(t)
	memory := memoryDir(dir)
	defer os.RemoveAll(memory)
	closed := func(st *stores) {
		t.Helper()
		if err := errors.Join(st.book.Close(), st.journal.Close()); err != nil {
			t.Error(err)
		}
		st.unlock()
	}
	st, err := openStores(dir, p.site, newClock(), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	closed(st)
	if err := os.WriteFile(filepath.Join(dir, leftName), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := copyState(dir, memory); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(memory, leftName)); string(data) != "old" {
		t.Errorf("what was on was not brought along: %q, %v", data, err)
	}
	if st, err = openStoresIn(memory, "", p.site, newClock(), zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	keepSmoke(t, st)
	closed(st)
	if err := os.WriteFile(filepath.Join(memory, leftName), []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if st, err = openStores(dir, p.site, newClock(), zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	defer closed(st)
	if open := st.book.OpenAlerts(); len(open) != 1 || st.trouble != nil || st.dir != dir {
		t.Errorf("open alerts %+v, trouble %v, in %s", open, st.trouble, st.dir)
	}
	if data, err := os.ReadFile(filepath.Join(dir, leftName)); string(data) != "new" {
		t.Errorf("what was on was not taken back: %q, %v", data, err)
	}
	if before, _ := filepath.Glob(filepath.Join(dir, bookName+".before-*")); len(before) != 1 {
		t.Errorf("the disk's own book is kept as %v", before)
	}
	if _, err := os.Stat(memory); !os.IsNotExist(err) {
		t.Errorf("%s is still there (%v)", memory, err)
	}
}
