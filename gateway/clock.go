package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"linli/internal/telemetry"
)

// clockNotBefore: a wall clock that reads earlier than this (Unix seconds, the start of 2026) was never set. This
// program was written after it; a box without a real-time clock boots in 1970 or at its image's date.
const clockNotBefore = 1767225600

// uncertainAfter is how long after the boot a plausible clock that nobody vouches for is used all the same, marked.
const uncertainAfter = 24 * time.Hour

// newClock returns the clock of this boot of the box. Where the kernel does not tell the boot apart (not Linux), each
// process counts as a boot of its own.
func newClock() *telemetry.Clock {
	var ts unix.Timespec
	base := telemetry.Mono(0)
	boot := ""
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err == nil {
		base = telemetry.Mono(ts.Nano())
		if id, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
			boot = strings.TrimSpace(string(id))
		}
	}
	if boot == "" {
		boot, base = "process-"+time.Now().UTC().Format("20060102T150405.000000000"), 0
	}
	judge := newClockJudge("/", runtime.GOARCH, synchronised)
	return telemetry.NewClock(boot, base, time.Unix(clockNotBefore, 0)).JudgedBy(judge)
}

// newClockJudge returns the rule by which a wall clock that reads a plausible time is believed. A plausible time is not
// enough: a board without a hardware clock boots with the time that it saved when it went down (systemd-timesyncd,
// fake-hwclock), hours or months ago. The clock is set when
//
//   - a hardware clock that runs reads a plausible time itself (one without a battery starts in 1970 or 2000), or
//   - it is a machine of a kind that always has one, and shows none: a container or a virtual machine gets its time from
//     its host, a PC from its firmware, or
//   - the kernel was told by a time service (NTP, PTP, GPS) that it is synchronised, once in this process, or cannot be
//     asked, or
//   - somebody has set the clock since this process started, by more than a second.
//
// Otherwise it counts as not set until 24 hours after the boot, and as uncertain from then on. root is where /sys is,
// arch is GOARCH, synchronised asks the kernel.
func newClockJudge(root, arch string, synchronised func() bool) func(telemetry.Mono, bool) telemetry.Trust {
	trusted := &atomic.Bool{}
	trusted.Store(hasHardwareClock(root, arch))
	asked := &atomic.Int64{} // when the kernel was asked last
	asked.Store(int64(-time.Second))
	return func(mono telemetry.Mono, stepped bool) telemetry.Trust {
		if trusted.Load() {
			return telemetry.ClockSet
		}
		ask := false
		if last := asked.Load(); mono.Sub(telemetry.Mono(last)) >= time.Second {
			ask = asked.CompareAndSwap(last, int64(mono))
		}
		switch {
		case stepped, ask && synchronised():
			trusted.Store(true)
			return telemetry.ClockSet
		case mono >= telemetry.Mono(uncertainAfter):
			return telemetry.ClockUncertain
		}
		return telemetry.ClockUnset
	}
}

// hasHardwareClock says whether the wall clock was right from the start.
func hasHardwareClock(root, arch string) bool {
	clocks, _ := filepath.Glob(filepath.Join(root, "sys/class/rtc/rtc*/since_epoch")) // the pattern is good
	for _, name := range clocks {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // it has no time, says the kernel
		}
		if s, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && s >= clockNotBefore {
			return true
		}
	}
	return len(clocks) == 0 && (arch == "amd64" || arch == "386")
}

// synchronised says whether a time service has told the kernel that its clock is right. A kernel that does not answer
// (a container may not be allowed to ask) is believed: silence must not hold back what was measured.
func synchronised() bool {
	var tx unix.Timex
	state, err := unix.Adjtimex(&tx)
	return err != nil || state != unix.TIME_ERROR && tx.Status&unix.STA_UNSYNC == 0
}
