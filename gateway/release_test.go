package main

import (
	"os"
	"testing"
	"time"
)

func TestGrowthOfTheHeap(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		allocated, live uint64
		want            int
	}{
		{0, 20 * mib, leastGrowth},
		{15 * mib, 20 * mib, 20}, // 1 MiB/s: 4 MiB in 4 s
		{150 * mib, 20 * mib, mostGrowth},
		{150 * mib, 200 * mib, 20}, // a large site gets no smaller share for what it holds
		{1 << 40, 0, mostGrowth},
	} {
		if got := growth(c.allocated, 15*time.Second, c.live); got != c.want {
			t.Errorf("%d bytes allocated in 15 s, %d live: %d %%, want %d", c.allocated, c.live, got, c.want)
		}
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
