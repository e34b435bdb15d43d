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

// Memory that a gateway used once, at the start or in an hour's rollup, is given back after releaseFirst, then after twice as
// long, and so on, at last every releaseEvery: at the start much is used once.
const (
	releaseFirst = 15 * time.Second
	releaseEvery = 10 * time.Minute
)

// The heap may grow by a share of what is live before the next collection: by as much as makes collecting take collectShare
// of the processor time that the gateway takes at all, at least by leastGrowth percent and at most by mostGrowth. So a site
// that holds much and allocates little needs little more than what it holds, and none spends its time collecting, however
// large it is or slow the box.
const (
	collectShare  = 0.1
	heapLookEvery = 15 * time.Second
	leastGrowth   = 10
	mostGrowth    = 50
	// While it starts: a small box has more time than memory, and what stays would lie scattered in what does not.
	startGrowth = 20
)

// growth returns by how many percent the heap may grow where so many bytes were allocated and so much processor time was used
// in the same time, so many bytes are live, and one collection takes each.
func growth(allocated, live float64, used, each time.Duration) int {
	between := allocated * each.Seconds() / (collectShare * max(used.Seconds(), 1e-3)) // bytes from one collection to the next
	return int(min(max(100*between/max(live, 1), leastGrowth), mostGrowth))
}

// heapMetrics are what growth needs, counted since the start.
type heapMetrics struct {
	allocated, live, collections float64
	collecting                   time.Duration // of processors, otherwise idle ones too
	used                         time.Duration // of processors, by the whole process
}

func readHeap() heapMetrics {
	m := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}, {Name: "/gc/cycles/total:gc-cycles"},
		{Name: "/cpu/classes/gc/total:cpu-seconds"}}
	metrics.Read(m)
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u) // It cannot fail for the process itself.
	return heapMetrics{float64(m[0].Value.Uint64()), float64(m[1].Value.Uint64()), float64(m[2].Value.Uint64()),
		time.Duration(m[3].Value.Float64() * float64(time.Second)), time.Duration(u.Utime.Nano() + u.Stime.Nano())}
}

// releaseMemory keeps memory small until ctx ends. It has the collector let the heap grow no more than it must; and from
// time to time it gives back what the collector holds free, and the pages of the program itself that only the start needed
// (the parsers, tables, texts). Those that are needed again come back from the kernel's cache by themselves.
func releaseMemory(ctx context.Context) error {
	release, look := time.NewTimer(releaseFirst), time.NewTicker(heapLookEvery)
	defer release.Stop()
	defer look.Stop()
	before, percent, each, wait := readHeap(), 0, time.Duration(0), releaseFirst
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-release.C:
			debug.FreeOSMemory()
			releaseProgram()
			wait = min(2*wait, releaseEvery)
			release.Reset(wait)
		case <-look.C:
			now := readHeap()
			if n := now.collections - before.collections; n > 0 {
				each = time.Duration(float64(now.collecting-before.collecting) / n)
			}
			if next := growth(now.allocated-before.allocated, now.live, now.used-before.used, each); next != percent {
				percent = next
				debug.SetGCPercent(percent)
			}
			before = now
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
