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
		each            time.Duration
		want            int
	}{
		{0, 20 * mib, 20 * time.Millisecond, leastGrowth},
		{mib, 20 * mib, 20 * time.Millisecond, leastGrowth}, // it would be 5: a collection a second, 2 % of a processor
		{mib, 20 * mib, 100 * time.Millisecond, 25},         // a slow box: each 5 s
		{10 * mib, 20 * mib, 20 * time.Millisecond, 50},     // much happens
		{10 * mib, 200 * mib, 400 * time.Millisecond, 50},   // a large site
		{20 * mib, 2000 * mib, 800 * time.Millisecond, 40},  // a large site that does little
		{1 << 40, 0, time.Second, mostGrowth},
	} {
		if got := growth(c.allocated, c.live, c.each); got != c.want {
			t.Errorf("%.0f bytes allocated a second, %.0f live, %v a collection: %d %%, want %d", c.allocated, c.live, c.each, got, c.want)
		}
	}
	if m := readHeap(); m.allocated == 0 || m.live < 0 || m.collections < 0 || m.collecting < 0 {
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
