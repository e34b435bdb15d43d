package main

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"linli/internal/alert"
	"linli/internal/journal"
	"linli/internal/site"
	"linli/internal/telemetry"
	"linli/internal/uplink"
)

// ownLookEvery is how often the gateway looks at itself: what people are waiting for is told at the next look, the
// rest every busTellEvery.
const ownLookEvery = time.Second

// gatewayPoints turns what the gateway knows of itself into samples of the device that it is (class gateway), so that
// rules, journal and city see it like any other device.
//
// run and look belong to one goroutine.
type gatewayPoints struct {
	watched
	clock   *telemetry.Clock
	journal func() journal.Stats
	alerts  func() alert.Stats
	uplink  func() uplink.Status // nil for a box that works alone
	trouble error                // why the stores are in memory, nil where they are on the disk
	box     box

	waited bool // alerts were waiting for the disk at the last look already
}

// box is where the state of the box itself is read.
type box struct {
	state string // the state directory that the site file names
	root  string // where /proc and /sys are
}

// newGatewayPoints returns the points of the gateway itself; nothing is told where the site has no such device.
func newGatewayPoints(s *site.Site, st *stores, state string, up *uplink.Uplink, clock *telemetry.Clock) *gatewayPoints {
	g := &gatewayPoints{watched: watch(s.Inventory, s.Own, ownAtOnce), clock: clock, journal: st.journal.Stats, alerts: st.book.Stats, trouble: st.trouble,
		box: box{state: state, root: "/"}}
	if up != nil {
		g.uplink = up.Status
	}
	return g
}

// run gives the samples to emit until ctx ends.
func (g *gatewayPoints) run(ctx context.Context, emit func([]telemetry.Sample)) error {
	tick := time.NewTicker(ownLookEvery)
	defer tick.Stop()
	var samples []telemetry.Sample
	for {
		if samples = g.look(g.clock.Now(), samples[:0]); len(samples) > 0 {
			emit(samples)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look appends the samples that are due at now.
func (g *gatewayPoints) look(now telemetry.Now, dst []telemetry.Sample) []telemetry.Sample {
	if len(g.points) == 0 {
		return dst
	}
	j, a := g.journal(), g.alerts()
	var u uplink.Status
	if g.uplink != nil {
		u = g.uplink()
	}
	// Every change waits for a moment; two looks in a row are trouble.
	waiting := a.Waiting > 0
	durable := g.trouble == nil && !(waiting && g.waited)
	g.waited = waiting
	good := func(v telemetry.Value) (telemetry.Value, telemetry.Quality, bool) { return v, telemetry.Good, true }
	figure := func(v float64, ok bool) (telemetry.Value, telemetry.Quality, bool) {
		if !ok {
			return telemetry.Value{}, telemetry.BadSensor, true
		}
		return good(telemetry.FloatValue(tenth(v)))
	}
	return g.tell(now.Mono, func(name string) (telemetry.Value, telemetry.Quality, bool) {
		switch name {
		case "clock_set":
			return good(telemetry.BoolValue(!now.Wall.IsZero() && !now.Uncertain))
		case "journal_ok":
			return good(telemetry.BoolValue(g.trouble == nil && j.LastError == ""))
		case "alerts_durable":
			return good(telemetry.BoolValue(durable))
		case "samples_lost":
			return good(telemetry.IntValue(int64(j.SamplesLost)))
		case "alerts_dropped":
			return good(telemetry.IntValue(a.WaitingDropped + a.OutboxDropped + a.HistoryDropped))
		case "alerts_raised":
			return good(telemetry.IntValue(a.Raised))
		case "alerts_closed":
			return good(telemetry.IntValue(a.Closed))
		case "uplink_up":
			return good(telemetry.BoolValue(u.Connected))
		case "backlog_frames":
			return good(telemetry.IntValue(int64(u.BacklogFrames)))
		}
		if now.Mono < min(g.next, g.repeat) { // What follows asks the kernel, and is told every busTellEvery at most.
			return telemetry.Value{}, 0, false
		}
		switch name {
		case "disk_free_pct":
			return figure(g.box.diskFree())
		case "memory_mib":
			return figure(g.box.memory())
		case "cpu_temp_c":
			return figure(g.box.temperature())
		}
		return telemetry.Value{}, 0, false
	}, dst)
}

// ownAtOnce names the points whose change is told at once.
func ownAtOnce(name string) bool {
	switch name {
	case "clock_set", "journal_ok", "alerts_durable", "uplink_up", "samples_lost", "alerts_dropped", "alerts_raised", "alerts_closed":
		return true
	}
	return false
}

// diskFree returns how much of the file system that holds the state directory is free for the gateway, in percent.
func (b box) diskFree() (pct float64, ok bool) {
	var fs unix.Statfs_t
	if err := unix.Statfs(b.state, &fs); err != nil || fs.Blocks == 0 {
		return 0, false
	}
	return 100 * float64(fs.Bavail) / float64(fs.Blocks), true
}

// memory returns the resident memory of the process in MiB.
func (b box) memory() (mib float64, ok bool) {
	data, err := os.ReadFile(filepath.Join(b.root, "proc/self/statm"))
	fields := strings.Fields(string(data))
	if err != nil || len(fields) < 2 {
		return 0, false
	}
	pages, err := strconv.ParseFloat(fields[1], 64)
	return pages * float64(os.Getpagesize()) / (1 << 20), err == nil
}

// temperature returns the highest temperature that the kernel tells of the processor, in °C; false on a box that
// measures none.
func (b box) temperature() (highest float64, ok bool) {
	zones, _ := filepath.Glob(filepath.Join(b.root, "sys/class/thermal/thermal_zone*/temp")) // the pattern is good
	for _, name := range zones {
		data, err := os.ReadFile(name)
		if err != nil {
			continue // switched off
		}
		milli, err := strconv.ParseFloat(strings.TrimSpace(string(data)), 64)
		if c := milli / 1000; err == nil && c > -40 && c < 150 && (!ok || c > highest) { // Some zones are dummies: -274 °C.
			highest, ok = c, true
		}
	}
	return highest, ok
}

// provideTemperature makes the processor's temperature a point of the gateway where its box measures it.
func provideTemperature(s *site.Site, b box) {
	if s.Own < 0 || s.Own >= len(s.Inventory.Devices) {
		return
	}
	def := s.Inventory.Devices[s.Own].Class.Point("cpu_temp_c")
	if _, ok := b.temperature(); ok && def >= 0 {
		s.Inventory.ProvidePoint(s.Own, def)
	}
}
