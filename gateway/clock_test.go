package main

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"linli/internal/telemetry"
)

func TestClockIsBelievedForAReason(t *testing.T) {
	const hour = telemetry.Mono(time.Hour)
	tests := map[string]struct {
		arch    string
		rtc     []string // what hardware clocks read
		synced  bool
		stepped bool
		mono    telemetry.Mono
		want    telemetry.Trust
	}{
		"hardware clock":                         {"arm64", []string{"1790000000\n"}, false, false, hour, telemetry.ClockSet},
		"second hardware clock has the battery":  {"arm64", []string{"3600\n", "1790000000\n"}, false, false, hour, telemetry.ClockSet},
		"hardware clock without battery":         {"arm64", []string{"946684800\n"}, false, false, hour, telemetry.ClockUnset},
		"PC with an empty battery":               {"amd64", []string{"946684800\n"}, false, false, hour, telemetry.ClockUnset},
		"container or virtual machine":           {"amd64", nil, false, false, hour, telemetry.ClockSet},
		"board with a saved time":                {"arm64", nil, false, false, hour, telemetry.ClockUnset},
		"board with a saved time, synchronised":  {"arm64", nil, true, false, hour, telemetry.ClockSet},
		"board with a saved time, set by hand":   {"riscv64", nil, false, true, hour, telemetry.ClockSet},
		"board with a saved time, after a day":   {"arm", nil, false, false, 24 * hour, telemetry.ClockUncertain},
		"hardware clock that says nothing":       {"arm64", []string{"what?"}, false, false, hour, telemetry.ClockUnset},
		"synchronised right after the boot":      {"arm64", nil, true, false, 0, telemetry.ClockSet},
		"synchronised only after more than days": {"arm64", nil, true, false, 100 * hour, telemetry.ClockSet},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for i, text := range tt.rtc {
				dir := filepath.Join(root, "sys/class/rtc", "rtc"+string(rune('0'+i)))
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, "since_epoch"), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			judge := newClockJudge(root, tt.arch, func() bool { return tt.synced })
			if got := judge(tt.mono, tt.stepped); got != tt.want {
				t.Errorf("trust %d, want %d", got, tt.want)
			}
		})
	}
}

// Once synchronised is enough, although the time service may be gone later; the kernel is asked once a second at most.
func TestClockStaysSet(t *testing.T) {
	asked, synced := 0, false
	judge := newClockJudge(t.TempDir(), "arm64", func() bool { asked++; return synced })
	synctest.Test(t, func(t *testing.T) {
		clock := telemetry.NewClock("boot", 0, time.Unix(0, 0)).JudgedBy(judge)
		for range 1000 {
			if now := clock.Now(); !now.Wall.IsZero() {
				t.Fatalf("%+v before the first synchronisation", now)
			}
		}
		if asked != 1 {
			t.Errorf("the kernel was asked %d times in no time", asked)
		}
		synced = true
		time.Sleep(time.Second)
		if now := clock.Now(); now.Wall.IsZero() || now.Uncertain {
			t.Errorf("%+v when synchronised", now)
		}
		synced = false
		time.Sleep(48 * time.Hour)
		if now := clock.Now(); now.Wall.IsZero() || now.Uncertain {
			t.Errorf("%+v later", now)
		}
	})
}

func TestClockIsUncertainAfterADay(t *testing.T) {
	judge := newClockJudge(t.TempDir(), "arm64", func() bool { return false })
	synctest.Test(t, func(t *testing.T) {
		clock := telemetry.NewClock("boot", 0, time.Unix(0, 0)).JudgedBy(judge)
		time.Sleep(24*time.Hour - 1)
		if now := clock.Now(); !now.Wall.IsZero() || now.Uncertain {
			t.Errorf("%+v before a day is over", now)
		}
		time.Sleep(time.Nanosecond)
		if now := clock.Now(); now.Wall.IsZero() || !now.Uncertain {
			t.Errorf("%+v after a day", now)
		}
	})
}
