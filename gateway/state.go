package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"linli/internal/alert"
	"linli/internal/journal"
	"linli/internal/site"
	"linli/internal/telemetry"
)

// memoryJournal bounds the journal of a gateway that works in memory, in bytes.
const memoryJournal = 32 << 20

// stores are what must survive: the alert book and the journal, in one state directory.
type stores struct {
	dir     string
	book    *alert.Book
	journal *journal.Journal
	// trouble says why dir is not the state directory but one in memory that a restart empties; nil where all is well.
	trouble error
	// idle is when no gateway ran; nil where nothing is open, for then nobody asks.
	idle   []idleTime
	unlock func()
}

// openStores opens the stores in dir. Where the disk is full, read-only or failing, it opens them in memory instead: a
// disk must never silence the guard room. Every other failure (no permission, another gateway there, a newer file) is
// for a person to mend, and an error.
func openStores(dir string, s *site.Site, clock *telemetry.Clock, log *zap.Logger) (*stores, error) {
	memory := memoryDir(dir)
	st, err := openStoresIn(dir, memory, s, clock, log)
	if err == nil {
		return st, nil
	}
	trouble := diskTrouble(dir, err)
	if errors.Is(trouble, unix.ENOSPC) && releaseReserve(dir, log) {
		if st, err = openStoresIn(dir, memory, s, clock, log); err == nil {
			return st, nil
		}
		trouble = diskTrouble(dir, err)
	}
	if trouble == nil {
		return nil, err
	}
	if copyErr := copyState(dir, memory); copyErr != nil {
		log.Error("not all of the alerts and of what is on can be read from the disk; beginning without", zap.Error(copyErr))
	}
	limited := *s
	limited.Journal.MaxBytes = min(s.Journal.MaxBytes, memoryJournal)
	st, memoryErr := openStoresIn(memory, "", &limited, clock, log)
	if memoryErr != nil {
		return nil, errors.Join(err, fmt.Errorf("work in memory instead: %w", memoryErr))
	}
	log.Error("the state directory cannot be used; working in memory: what happens from now on does not survive a power cut",
		zap.String("state", dir), zap.String("memory", memory), zap.Error(err))
	st.trouble = fmt.Errorf("%s: %w; working in memory", dir, trouble)
	return st, nil
}

// openStoresIn opens the stores in dir, with what is in the directory memory, which has stood in for it; "" for none.
func openStoresIn(dir, memory string, s *site.Site, clock *telemetry.Clock, log *zap.Logger) (*stores, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("make the state directory (--state names another): %w", err)
	}
	unlock, err := lockState(dir)
	if err != nil {
		return nil, err
	}
	st := &stores{dir: dir, unlock: unlock}
	if memory != "" {
		err := takeBack(dir, memory, log)
		if err != nil && diskTrouble(dir, err) != nil {
			unlock()
			return nil, err
		}
		if err != nil { // What cannot be read costs no start.
			aside := memory + time.Now().UTC().Format("-20060102T150405Z")
			log.Error("what the last run has kept in memory cannot be used; it is left there", zap.String("memory", aside), zap.Error(errors.Join(err, os.Rename(memory, aside))))
		}
	}
	if st.book, err = alert.Open(alert.Config{Path: filepath.Join(dir, bookName), Clock: clock, Log: log.Named("alert")}, s.Inventory); err != nil {
		unlock()
		return nil, fmt.Errorf("open the alert book: %w", err)
	}
	rollups := int64(0) // as much as the journal takes by itself
	if memory == "" {
		rollups = -1 // This is memory; they are made of the samples when somebody asks.
	}
	st.journal, err = journal.Open(journal.Config{
		Dir: filepath.Join(dir, "journal"), MaxBytes: s.Journal.MaxBytes, RollupBytes: rollups, MaxAge: s.Journal.MaxAge, CommitEvery: s.Journal.CommitEvery,
		Log: log.Named("journal"),
	}, s.Inventory, clock)
	if err != nil {
		st.book.Close()
		unlock()
		return nil, fmt.Errorf("open the journal: %w", err)
	}
	if len(st.book.OpenAlerts()) > 0 {
		st.idle = idleTimes(st.journal, clock.Now())
	}
	if s.Uplink == nil {
		st.journal.Release(math.MaxUint64) // Nobody waits for the frames: what ages out is no loss.
	}
	return st, nil
}

// diskTrouble returns what is wrong with the disk under dir, nil where the disk is not to blame for err. SQLite hides
// the kernel's word behind codes of its own, so the disk is asked again.
func diskTrouble(dir string, err error) error {
	for _, trouble := range []error{unix.ENOSPC, unix.EROFS, unix.EIO, unix.EDQUOT} {
		if errors.Is(err, trouble) {
			return trouble
		}
	}
	f, probe := os.CreateTemp(dir, "probe-")
	if probe == nil {
		_, probe = f.Write(make([]byte, 64<<10))
		probe = errors.Join(probe, f.Sync(), f.Close(), os.Remove(f.Name()))
	}
	for _, trouble := range []error{unix.ENOSPC, unix.EROFS, unix.EIO, unix.EDQUOT} {
		if errors.Is(probe, trouble) {
			return trouble
		}
	}
	return nil
}

// lockState makes sure that no second gateway works in the same state directory. The kernel drops the lock when the
// process ends, however it ends.
func lockState(dir string) (unlock func(), err error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o640)
	if err != nil {
		return nil, fmt.Errorf("lock the state directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another gateway is running in the state directory %s", dir)
		}
		return nil, fmt.Errorf("lock the state directory: %w", err)
	}
	return func() { f.Close() }, nil
}
