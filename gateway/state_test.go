package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"linli/internal/journal"
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
	if st.dir == dir || filepath.Dir(st.dir) != memoryDir() {
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
	if _, err := os.Stat(st.dir); !os.IsNotExist(err) {
		t.Errorf("%s was left behind", st.dir)
	}
}
