package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
	"linli/internal/site"
	"linli/internal/telemetry"
)

const (
	// busLookEvery is how often the buses are looked at: what people are waiting for (up, online, suspended) is told at
	// the next look.
	busLookEvery = 250 * time.Millisecond
	// busTellEvery is how often figures that change are told, busRepeat how often everything.
	busTellEvery, busRepeat = 10 * time.Second, time.Minute
	// failedWindow is what the share of failed requests is of, in failedSteps steps; below failedLeast requests it is 0.
	failedWindow = 5 * time.Minute
	failedSteps  = 10
	failedLeast  = 10
)

// busPoints turns what the drivers know of their buses and units into samples of the devices that these are (classes
// field_bus and bus_unit), so that rules, journal and city see them like any other device.
//
// run and look belong to one goroutine; the other methods may be called from any.
type busPoints struct {
	clock  *telemetry.Clock
	health []func() drivers.BusHealth // parallel to the site's buses
	told   []subjectPoints            // in the order of the site file: each bus, then its units

	mu     sync.Mutex
	failed map[unitKey]float64     // guarded by mu; percent
	drift  map[unitKey]driftResult // guarded by mu
}

type unitKey struct {
	bus  int
	unit string
}

// driftResult is how many settings of a unit differ.
type driftResult struct {
	differ int64
	known  bool // it could be found out
}

// subjectPoints is one device of the gateway's own works.
type subjectPoints struct {
	bus    int
	unit   string // "" for the bus itself
	points []watchedPoint
	next   telemetry.Mono // when figures are told
	repeat telemetry.Mono // when everything is told
	window failedShare
	lives  int // devices on the bus that protect life
}

// watchedPoint is one point and what was told of it last.
type watchedPoint struct {
	id   telemetry.PointID
	name string
	last telemetry.Sample
	told bool
}

// newBusPoints returns the points of the site's own works. health is parallel to s.Buses.
func newBusPoints(s *site.Site, health []func() drivers.BusHealth, clock *telemetry.Clock) *busPoints {
	b := &busPoints{clock: clock, health: health, failed: map[unitKey]float64{}, drift: map[unitKey]driftResult{}}
	add := func(bus, device int, unit string) {
		subject := subjectPoints{bus: bus, unit: unit, next: -1 << 62, repeat: -1 << 62}
		if device >= 0 {
			d := &s.Inventory.Devices[device]
			for i, id := range d.Points {
				if id != telemetry.NoPoint {
					subject.points = append(subject.points, watchedPoint{id: id, name: d.Class.Points[i].Name})
				}
			}
		}
		b.told = append(b.told, subject)
	}
	for i := range s.Buses {
		add(i, s.Buses[i].Health, "")
		b.told[len(b.told)-1].lives = lifeSafetyDevices(s, i)
		for j, device := range s.Buses[i].UnitHealth {
			add(i, device, s.Buses[i].Units[j].ID)
		}
	}
	return b
}

// lifeSafetyDevices counts the devices that have a point on a bus that protects life.
func lifeSafetyDevices(s *site.Site, bus int) int {
	devices := map[int]bool{}
	for i := range s.Buses[bus].Units {
		for _, bind := range s.Buses[bus].Units[i].Bindings {
			if p := &s.Inventory.Points[bind.Point]; p.Def.LifeSafety && p.Device >= 0 {
				devices[p.Device] = true
			}
		}
	}
	return len(devices)
}

// zonesNamed is how many zones stand in the name of a bus or a unit.
const zonesNamed = 3

// nameWorks puts into the names of the buses and units where their devices are: who reads an alert about "box_io" must
// know where to go. It is called before anything runs.
func nameWorks(s *site.Site) {
	for i := range s.Buses {
		b := &s.Buses[i]
		var all []firmwareconfig.Binding
		for j := range b.Units {
			all = append(all, b.Units[j].Bindings...)
			if j < len(b.UnitHealth) {
				nameWork(s, b.UnitHealth[j], b.Units[j].Bindings)
			}
		}
		nameWork(s, b.Health, all)
	}
}

// nameWork adds to the name of one device of the gateway's own works the zones of the devices that have these bindings.
func nameWork(s *site.Site, device int, bindings []firmwareconfig.Binding) {
	if device < 0 {
		return
	}
	inv, zones := s.Inventory, []int{}
	for _, bind := range bindings {
		if d := inv.Points[bind.Point].Device; d >= 0 && inv.Devices[d].Zone >= 0 && !slices.Contains(zones, inv.Devices[d].Zone) {
			zones = append(zones, inv.Devices[d].Zone)
		}
	}
	if len(zones) == 0 {
		return
	}
	where := func(lang, within, between, more string) string {
		var names []string
		for _, z := range zones[:min(len(zones), zonesNamed)] {
			names = append(names, strings.Join(inv.ZonePath(z, lang), within))
		}
		text := strings.Join(names, between)
		if n := len(zones) - zonesNamed; n > 0 {
			text += fmt.Sprintf(more, len(zones))
		}
		return text
	}
	title := &inv.Devices[device].Title
	title.Zh += "（" + where("zh", "", "、", "等 %d 处") + "）"
	title.En += " (" + where("en", ", ", "; ", "; %d places in all") + ")"
}

// run gives the samples to emit until ctx ends.
func (b *busPoints) run(ctx context.Context, emit func([]telemetry.Sample)) error {
	tick := time.NewTicker(busLookEvery)
	defer tick.Stop()
	var samples []telemetry.Sample
	for {
		if samples = b.look(b.clock.Mono(), samples[:0]); len(samples) > 0 {
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
func (b *busPoints) look(now telemetry.Mono, dst []telemetry.Sample) []telemetry.Sample {
	health := make([]drivers.BusHealth, len(b.health))
	for i, h := range b.health {
		health[i] = h()
	}
	for i := range b.told {
		s := &b.told[i]
		h := &health[s.bus]
		var u *drivers.UnitHealth
		if s.unit != "" {
			if u = unitHealth(h, s.unit); u == nil {
				continue
			}
			share := s.window.at(now, u)
			b.mu.Lock()
			b.failed[unitKey{s.bus, s.unit}] = share
			b.mu.Unlock()
		}
		figures, everything := now >= s.next, now >= s.repeat
		for j := range s.points {
			p := &s.points[j]
			v, q, ok := b.value(p.name, s, h, u)
			if !ok {
				continue
			}
			changed := !p.told || v != p.last.Value || q != p.last.Quality
			if !everything && !(changed && (figures || !p.told || atOnce(p.name))) {
				continue
			}
			p.last, p.told = telemetry.Sample{Point: p.id, Quality: q, Time: now, Value: v}, true
			dst = append(dst, p.last)
		}
		if figures {
			s.next = now.Add(busTellEvery)
		}
		if everything {
			s.repeat = now.Add(busRepeat)
		}
	}
	return dst
}

// atOnce names the points whose change is told at once.
func atOnce(name string) bool {
	return name == "up" || name == "online" || name == "suspended" || name == "config_drift"
}

func unitHealth(h *drivers.BusHealth, unit string) *drivers.UnitHealth {
	for i := range h.Units {
		if h.Units[i].Unit == unit {
			return &h.Units[i]
		}
	}
	return nil
}

// value returns the present value of a point, and false where there is nothing to tell. u is nil for the bus itself.
func (b *busPoints) value(name string, s *subjectPoints, h *drivers.BusHealth, u *drivers.UnitHealth) (telemetry.Value, telemetry.Quality, bool) {
	good := func(v telemetry.Value) (telemetry.Value, telemetry.Quality, bool) { return v, telemetry.Good, true }
	count := func(n uint64) (telemetry.Value, telemetry.Quality, bool) { return good(telemetry.IntValue(int64(n))) }
	if u == nil {
		switch name {
		case "up":
			v, q, _ := good(telemetry.BoolValue(h.Up))
			return v, q, h.Up || len(h.Units) > 0 // Nobody connects where there is nothing to read: that is no fault.
		case "suspended":
			return good(telemetry.BoolValue(h.Suspended))
		case "life_safety_devices":
			return count(uint64(s.lives))
		case "busy_pct":
			return good(telemetry.FloatValue(tenth(100 * h.Busy)))
		case "late_frames":
			return count(h.Late)
		case "foreign_frames":
			return count(h.Foreign)
		}
		return telemetry.Value{}, 0, false
	}
	switch name {
	case "online":
		return good(telemetry.BoolValue(u.Online))
	case "round_trip_ms":
		if !u.Online {
			return telemetry.Value{}, telemetry.BadComm, true
		}
		return good(telemetry.FloatValue(milliseconds(u.RoundTrip)))
	case "timeouts":
		return count(u.Timeouts)
	case "errors":
		return count(u.Errors)
	case "crc_errors":
		return count(u.CRC)
	case "exceptions":
		return count(u.Exceptions)
	case "retries":
		return count(u.Retries)
	case "late_frames":
		return count(u.Late)
	case "failed_pct":
		share, _ := b.figures(s.bus, s.unit)
		return good(telemetry.FloatValue(share))
	case "config_drift":
		b.mu.Lock()
		d, looked := b.drift[unitKey{s.bus, s.unit}]
		b.mu.Unlock()
		if looked && !d.known {
			return telemetry.Value{}, telemetry.BadComm, true
		}
		v, q, _ := good(telemetry.IntValue(d.differ))
		return v, q, looked
	}
	return telemetry.Value{}, 0, false
}

// figures returns what this package computes of a unit: the share of its requests of the last five minutes that
// failed, in percent, and how many of its settings differ (nil where unknown).
func (b *busPoints) figures(bus int, unit string) (failedPct float64, drift *int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := unitKey{bus, unit}
	if d := b.drift[key]; d.known {
		drift = &d.differ
	}
	return b.failed[key], drift
}

// drifted takes how many settings of a unit differ from the site file, or that it could not be found out.
func (b *busPoints) drifted(bus int, unit string, d driftResult) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drift[unitKey{bus, unit}] = d
}

// failedShare computes the share of requests that failed (no answer, or a damaged one; exceptions are answers) within
// a sliding window.
type failedShare struct {
	steps [failedSteps + 1]struct{ asked, failed uint64 } // the counters at the beginning of each step, oldest first
	n     int
	next  telemetry.Mono
}

// at takes the counters at now and returns the share in percent.
func (f *failedShare) at(now telemetry.Mono, u *drivers.UnitHealth) float64 {
	failed := u.Timeouts + u.Errors
	asked := failed + u.Answers + u.Exceptions
	if f.n == 0 || now >= f.next {
		if f.n == len(f.steps) {
			copy(f.steps[:], f.steps[1:])
			f.n--
		}
		f.steps[f.n].asked, f.steps[f.n].failed = asked, failed
		f.n++
		f.next = now.Add(failedWindow / failedSteps)
	}
	asked -= f.steps[0].asked
	failed -= f.steps[0].failed
	if asked < failedLeast {
		return 0
	}
	return tenth(100 * float64(failed) / float64(asked))
}

// tenth rounds to one digit, so that a figure that trembles is not told as a change.
func tenth(v float64) float64 { return math.Round(10*v) / 10 }
