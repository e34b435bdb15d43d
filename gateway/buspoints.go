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
	health []func(*drivers.BusHealth) // parallel to the site's buses; their memory is used again
	state  []drivers.BusHealth        // as it was at the last look
	told   []subjectPoints            // in the order of the site file: each bus, then its units

	mu    sync.Mutex
	units map[unitKey]*unitFigures // the map does not change; what it holds is guarded by mu
}

// unitFigures is what the gateway knows of a unit and its driver does not.
type unitFigures struct {
	failed   float64 // percent
	drift    driftResult
	looked   bool // drift says something
	identity unitIdentity
}

type unitKey struct {
	bus  int
	unit string
}

// unitIdentity is whether a unit is what the site file says.
type unitIdentity struct {
	known   bool // it could be found out whether it is the model
	modelOK bool
	swaps   int64 // how often another unit of the model answered, since the gateway started
}

// driftResult is how many settings of a unit differ.
type driftResult struct {
	differ int64
	known  bool // it could be found out
}

// subjectPoints is one device of the gateway's own works.
type subjectPoints struct {
	watched
	bus     int
	unit    string // "" for the bus itself
	figures *unitFigures
	at      int // where the bus's health has the unit, as it seems
	window  failedShare
	lives   int // devices on the bus that protect life
	devices int // devices that have points on the unit
}

// watched are the points of one device, with what was told of them last and when the next telling is due.
type watched struct {
	class  *telemetry.Class
	points []watchedPoint
	next   telemetry.Mono // when figures are told
	repeat telemetry.Mono // when everything is told
}

// watchedPoint is one point and what was told of it last.
type watchedPoint struct {
	id      telemetry.PointID
	def     uint16 // which of the class's points it is
	now     bool   // a change is told at once
	told    bool
	quality telemetry.Quality
	value   telemetry.Value
}

// watch returns the provided points of a device, -1 for none. Changes of those that atOnce names are told at once.
func watch(inv *telemetry.Inventory, device int, atOnce func(name string) bool) watched {
	w := watched{next: -1 << 62, repeat: -1 << 62}
	if device < 0 {
		return w
	}
	d := &inv.Devices[device]
	w.class, w.points = d.Class, make([]watchedPoint, 0, len(d.Points))
	for i, id := range d.Points {
		if id != telemetry.NoPoint {
			w.points = append(w.points, watchedPoint{id: id, def: uint16(i), now: atOnce(d.Class.Points[i].Name)})
		}
	}
	return w
}

// tell appends the samples that are due at now. value returns what a point is, and false where there is nothing to
// tell.
func (w *watched) tell(now telemetry.Mono, value func(name string) (telemetry.Value, telemetry.Quality, bool), dst []telemetry.Sample) []telemetry.Sample {
	figures, everything := now >= w.next, now >= w.repeat
	for j := range w.points {
		p := &w.points[j]
		if !figures && !everything && !p.now && p.told {
			continue
		}
		v, q, ok := value(w.class.Points[p.def].Name)
		if !ok {
			continue
		}
		changed := !p.told || v != p.value || q != p.quality
		if !everything && !changed {
			continue
		}
		p.value, p.quality, p.told = v, q, true
		dst = append(dst, telemetry.Sample{Point: p.id, Quality: q, Time: now, Value: v})
	}
	if figures {
		w.next = now.Add(busTellEvery)
	}
	if everything {
		w.repeat = now.Add(busRepeat)
	}
	return dst
}

// newBusPoints returns the points of the site's own works. health is parallel to s.Buses.
func newBusPoints(s *site.Site, health []func(*drivers.BusHealth), clock *telemetry.Clock) *busPoints {
	b := &busPoints{clock: clock, health: health, state: make([]drivers.BusHealth, len(health)), units: map[unitKey]*unitFigures{}}
	add := func(bus, device int, unit string) {
		f := &unitFigures{}
		if unit != "" {
			b.units[unitKey{bus, unit}] = f
		}
		b.told = append(b.told, subjectPoints{bus: bus, unit: unit, figures: f, watched: watch(s.Inventory, device, atOnce)})
	}
	for i := range s.Buses {
		add(i, s.Buses[i].Health, "")
		_, b.told[len(b.told)-1].lives = devicesOf(s, s.Buses[i].Units...)
		for j, device := range s.Buses[i].UnitHealth {
			add(i, device, s.Buses[i].Units[j].ID)
			b.told[len(b.told)-1].at = j
			b.told[len(b.told)-1].devices, _ = devicesOf(s, s.Buses[i].Units[j])
		}
	}
	return b
}

// devicesOf counts the devices that have a point on one of the units, and those that have one there that protects life.
func devicesOf(s *site.Site, units ...firmwareconfig.Unit) (all, lifeSafety int) {
	devices := map[int]bool{}
	for i := range units {
		for _, bind := range units[i].Bindings {
			if p := &s.Inventory.Points[bind.Point]; p.Device >= 0 {
				devices[p.Device] = devices[p.Device] || p.Def.LifeSafety
			}
		}
	}
	for _, life := range devices {
		if life {
			lifeSafety++
		}
	}
	return len(devices), lifeSafety
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
	for i, read := range b.health {
		read(&b.state[i])
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.told {
		s := &b.told[i]
		h := &b.state[s.bus]
		var u *drivers.UnitHealth
		if s.unit != "" {
			// Drivers tell of the units in the order of the site file; looking for each would be a look at all of them for each.
			if s.at < len(h.Units) && h.Units[s.at].Unit == s.unit {
				u = &h.Units[s.at]
			} else if u = unitHealth(h, s.unit); u == nil {
				continue
			}
			s.figures.failed = s.window.at(now, u)
		}
		dst = s.tell(now, func(name string) (telemetry.Value, telemetry.Quality, bool) { return s.value(name, h, u) }, dst)
	}
	return dst
}

// atOnce names the points whose change is told at once.
func atOnce(name string) bool {
	switch name {
	case "up", "online", "suspended", "config_drift", "model_ok", "swaps":
		return true
	}
	return false
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
// busPoints.mu is held.
func (s *subjectPoints) value(name string, h *drivers.BusHealth, u *drivers.UnitHealth) (telemetry.Value, telemetry.Quality, bool) {
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
	case "devices":
		return count(uint64(s.devices))
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
		return good(telemetry.FloatValue(s.figures.failed))
	case "config_drift":
		if s.figures.looked && !s.figures.drift.known {
			return telemetry.Value{}, telemetry.BadComm, true
		}
		v, q, _ := good(telemetry.IntValue(s.figures.drift.differ))
		return v, q, s.figures.looked
	case "model_ok":
		v, q, _ := good(telemetry.BoolValue(s.figures.identity.modelOK))
		return v, q, s.figures.identity.known
	case "swaps":
		return good(telemetry.IntValue(s.figures.identity.swaps))
	}
	return telemetry.Value{}, 0, false
}

// figures returns what this package computes of a unit: the share of its requests of the last five minutes that
// failed, in percent, and how many of its settings differ (nil where unknown).
func (b *busPoints) figures(bus int, unit string) (failedPct float64, drift *int64) {
	f := b.units[unitKey{bus, unit}]
	if f == nil {
		return 0, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if f.drift.known {
		differ := f.drift.differ
		drift = &differ
	}
	return f.failed, drift
}

// drifted takes how many settings of a unit differ from the site file, or that it could not be found out.
func (b *busPoints) drifted(bus int, unit string, d driftResult) {
	if f := b.units[unitKey{bus, unit}]; f != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		f.drift, f.looked = d, true
	}
}

// identified takes what was found out about a unit.
func (b *busPoints) identified(bus int, unit string, id unitIdentity) {
	if f := b.units[unitKey{bus, unit}]; f != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		f.identity = id
	}
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
