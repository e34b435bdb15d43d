package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Memory that a gateway used once, at the start or in an hour's rollup, is given back after the first of these times, and
// then at every other.
const (
	releaseFirst = time.Minute
	releaseEvery = time.Hour
)

// releaseMemory gives memory back from time to time, until ctx ends: what the collector holds free, and the pages of the
// program itself that only the start needed (the parsers, tables, texts). Those that are needed again come back from the
// kernel's cache by themselves.
func releaseMemory(ctx context.Context) error {
	for timer := time.NewTimer(releaseFirst); ; timer.Reset(releaseEvery) {
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
			debug.FreeOSMemory()
			releaseProgram()
		}
	}
}

// releaseProgram takes the program's file out of this process's memory. A mapping of which a page is not as in the file
// stays as it is; so does everything where the kernel does not tell.
func releaseProgram() {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer f.Close()
	var from, to uintptr // of the mapping that the lines are about; to is 0 where it must stay
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		var begin, end uintptr
		var perms string
		if n, _ := fmt.Sscanf(line, "%x-%x %4s", &begin, &end, &perms); n == 3 {
			from, to = begin, 0
			if strings.HasSuffix(line, " "+program) && (perms == "r-xp" || perms == "r--p") {
				to = end
			}
		}
		if changed, ok := strings.CutPrefix(line, "Anonymous:"); ok && to != 0 && strings.TrimSpace(changed) == "0 kB" {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED) // It is advice: that it is not taken harms nobody.
		}
	}
}
