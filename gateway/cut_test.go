package main

import (
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"linli/internal/testservers"
)

var powerCuts = flag.Int("cuts", 3, "how often TestPowerCutOfTheBox cuts the power; make soak says 30")

// TestPowerCutOfTheBox cuts the power of the whole box at random moments: a gateway goes on with what the block device held at
// that moment, after ext4 has repaired itself. Each time the same holds as after a kill, and the file system is sound.
//
// The device keeps every write that it has finished, whether it was flushed or not. What a device with a cache of its own forgets
// is shown for the journal in its own tests (memFS); for the book it rests on SQLite, and on that it syncs each commit, which is
// seen here. A device that forgets would be qemu's blklogwrites under a kernel with ext4, or dm-log-writes, replayed up to a
// flush: the test machine's kernel has no disks.
func TestPowerCutOfTheBox(t *testing.T) {
	t.Parallel()
	disk := testservers.StartCutDisk(t, 48)
	s := startSoak(t, filepath.Join(disk.Dir, "state"))
	stop := make(chan struct{})
	var fidgeting sync.WaitGroup
	s.running()
	fidgeting.Go(func() { s.fidget(stop) })
	s.checkBookSyncs()
	for range *powerCuts {
		pause(2*time.Second + time.Duration(rand.N(3*time.Second)))
		s.killed.by(func() { disk.Cut(func() { _ = s.gateway.cmd.Process.Kill() }, func() { <-s.gateway.done }) })
		announced := s.sub.announced()
		s.start()
		s.checkOpen(announced)
	}
	close(stop)
	fidgeting.Wait()
	s.checkAll(20 * *powerCuts)
	s.gateway.stop(15 * time.Second)
	s.checkBook(s.sub.announced())
}

// checkBookSyncs sees the gateway sync what it commits to the alert book. SQLite in WAL mode does so with synchronous=FULL; with
// less it syncs the log only before it copies it into the database, once it has 1000 pages.
func (s *soak) checkBookSyncs() {
	s.t.Helper()
	const want, header = 5, 32
	w := s.watch()
	defer w.close()
	log := bookName + "-wal"
	syncs, within := 0, false
	for deadline := time.Now().Add(time.Minute); syncs < want && time.Now().Before(deadline); {
		what, name := w.changing("alerts")
		now := what == "sync" && name == log
		if now && !within {
			syncs++
		}
		within = now
	}
	info, err := os.Stat(filepath.Join(s.state, log))
	if err != nil {
		s.t.Fatal(err)
	}
	if pages := (info.Size() - header) / (4096 + 24); syncs < want || pages >= 1000 {
		s.t.Errorf("the log of the alert book was seen synced %d times in its first %d pages, want %d", syncs, pages, want)
	}
}
