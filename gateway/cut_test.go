package main

import (
	"flag"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"linli/internal/testservers"
)

var powerCuts = flag.Int("cuts", 3, "how often TestPowerCutOfTheBox cuts the power; make soak says 30")

// TestPowerCutOfTheBox cuts the power of the whole box at random moments: a gateway goes on with what the block device held at
// that moment, after ext4 has repaired itself. Each time the same holds as after a kill, and the file system is sound.
func TestPowerCutOfTheBox(t *testing.T) {
	t.Parallel()
	disk := testservers.StartCutDisk(t, 48)
	s := startSoak(t, filepath.Join(disk.Dir, "state"))
	stop := make(chan struct{})
	var fidgeting sync.WaitGroup
	s.running()
	fidgeting.Go(func() { s.fidget(stop) })
	for range *powerCuts {
		pause(2*time.Second + time.Duration(rand.N(3*time.Second)))
		s.kills = append(s.kills, time.Now())
		disk.Cut(func() { _ = s.gateway.cmd.Process.Kill() }, func() { <-s.gateway.done })
		s.downs = append(s.downs, time.Now())
		announced := s.announced()
		s.start()
		s.checkOpen(announced)
	}
	close(stop)
	fidgeting.Wait()
	s.checkAll(60)
	s.gateway.stop(15 * time.Second)
	s.checkBook(s.announced())
}
