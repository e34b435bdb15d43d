package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Memory that a gateway used once, at the start or in an hour's rollup, is given back after the first of these times, and
// then at every other.
const (
	releaseFirst = time.Minute
	releaseEvery = 10 * time.Minute
)

// The heap may grow by a share of what is live before the next collection: by as much as collections need to be collectEvery
// apart, at least by leastGrowth percent and at most by mostGrowth. So a site where little happens needs little more than
// what it holds, and one where much happens does not spend its time collecting.
const (
	collectEvery  = 4 * time.Second
	heapLookEvery = 15 * time.Second
	leastGrowth   = 10
	// While it starts: a small box has more time than memory, and what stays would lie scattered in what does not.
	startGrowth = 20
	mostGrowth  = 50
)

// growth returns by how many percent the heap may grow where so many bytes were allocated in some time, and so many are live.
func growth(allocated uint64, in time.Duration, live uint64) int {
	share := 100 * float64(allocated) * collectEvery.Seconds() / max(in.Seconds(), 1) / float64(max(live, 1))
	return int(min(max(share, leastGrowth), mostGrowth))
}

// releaseMemory keeps memory small until ctx ends. It has the collector let the heap grow no more than it must; and from
// time to time it gives back what the collector holds free, and the pages of the program itself that only the start needed
// (the parsers, tables, texts). Those that are needed again come back from the kernel's cache by themselves.
func releaseMemory(ctx context.Context) error {
	release, look := time.NewTimer(releaseFirst), time.NewTicker(heapLookEvery)
	defer release.Stop()
	defer look.Stop()
	heap := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(heap)
	for allocated, percent := heap[0].Value.Uint64(), 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-release.C:
			debug.FreeOSMemory()
			releaseProgram()
			release.Reset(releaseEvery)
		case <-look.C:
			metrics.Read(heap)
			if next := growth(heap[0].Value.Uint64()-allocated, heapLookEvery, heap[1].Value.Uint64()); next != percent {
				percent = next
				debug.SetGCPercent(percent)
			}
			allocated = heap[0].Value.Uint64()
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
