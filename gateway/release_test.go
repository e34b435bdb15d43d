package main

import (
	"os"
	"testing"
)

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
