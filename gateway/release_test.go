package main

import (
	"os"
	"testing"
	"time"
)

func TestGrowthOfTheHeap(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		allocated, live float64
		used, each      time.Duration
		want            int
	}{
		{0, 20 * mib, time.Second, 20 * time.Millisecond, leastGrowth},
		{10 * mib, 20 * mib, time.Second, 10 * time.Millisecond, leastGrowth}, // it would be 5
		{10 * mib, 20 * mib, time.Second, 50 * time.Millisecond, 25},          // two collections a second of work
		{100 * mib, 200 * mib, 10 * time.Second, 500 * time.Millisecond, 25},  // ten times as large
		{10 * mib, 20 * mib, 10 * time.Second, 500 * time.Millisecond, 25},    // a box ten times as slow
		{100 * mib, 20 * mib, time.Second, 20 * time.Millisecond, mostGrowth}, // much is allocated
		{1 << 40, 0, 0, time.Second, mostGrowth},
	} {
		if got := growth(c.allocated, c.live, c.used, c.each); got != c.want {
			t.Errorf("%.0f bytes allocated in %v of work, %.0f live, %v a collection: %d %%, want %d", c.allocated, c.used, c.live, c.each, got, c.want)
		}
	}
	if m := readHeap(); m.allocated == 0 || m.live < 0 || m.collections < 0 || m.collecting < 0 || m.used == 0 {
		t.Errorf("the runtime counts %+v", m)
	}
}

// TestReleaseProgram gives the test's own program back, which must go on all the same.
func TestReleaseProgram(t *testing.T) {
	before := memory(t, os.Getpid(), "RssFile")
	releaseProgram()
	after := memory(t, os.Getpid(), "RssFile")
	t.Logf("%.1f MiB of files resident, then %.1f", before, after)
	if after > before/2 {
		t.Errorf("%.1f MiB of files are resident, of %.1f before", after, before)
	}
}
