package main

import (
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"linli/internal/telemetry"
)

// clockNotBefore: a wall clock that reads earlier than this (Unix seconds, the start of 2026) was never set. This
// program was written after it; a box without a real-time clock boots in 1970 or at its image's date.
const clockNotBefore = 1767225600

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
	return telemetry.NewClock(boot, base, time.Unix(clockNotBefore, 0))
}
