package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
	"linli/internal/site"
	"linli/internal/telemetry"
)

// healthRig is a site with one bus and two units, of which the first has settings to be watched.
type healthRig struct {
	*busPoints
	site *site.Site
	h    drivers.BusHealth
}

func newHealthRig(t *testing.T) *healthRig {
	t.Helper()
	library, err := firmwareconfig.Load(firmwareconfig.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	inv := &telemetry.Inventory{Site: "test", Gateway: "gw1"}
	add := func(id, class string, drift bool) int {
		d := inv.AddDevice(telemetry.Device{ID: id, Class: library.Classes[class], Zone: -1, System: true})
		for i, def := range library.Classes[class].Points {
			if !def.Optional || drift {
				inv.ProvidePoint(d, i)
			}
		}
		return d
	}
	r := &healthRig{h: drivers.BusHealth{Bus: "b1", Units: []drivers.UnitHealth{{Unit: "u1"}, {Unit: "u2"}}}}
	r.site = &site.Site{Inventory: inv, Buses: []site.Bus{{ID: "b1", Health: add("b1", "field_bus", false),
		Units:      []firmwareconfig.Unit{{ID: "u1", Address: 1}, {ID: "u2", Address: 2}},
		UnitHealth: []int{add("u1", "bus_unit", true), add("u2", "bus_unit", false)}}}}
	r.busPoints = newBusPoints(r.site, []func(*drivers.BusHealth){func(h *drivers.BusHealth) { *h = r.h }}, telemetry.NewClock("b", 0, time.Time{}))
	return r
}

// at looks at a moment and returns what is told, sorted: "device.point=value", with the quality where it is not good.
func (r *healthRig) at(seconds float64) string {
	var out []string
	now := telemetry.Mono(seconds * float64(time.Second))
	for _, s := range r.look(now, nil) {
		name := r.site.Inventory.Series(s.Point)
		text := fmt.Sprintf("%s.%s=%v", name.Device, name.Point, s.Value)
		if s.Quality != telemetry.Good {
			text += " " + s.Quality.String()
		}
		if s.Time != now {
			text += " at another time"
		}
		out = append(out, text)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// TestEveryPointOfTheOwnWorksIsTold holds the class files against what is told: a point that nobody fills in would stay
// unknown for ever.
func TestEveryPointOfTheOwnWorksIsTold(t *testing.T) {
	r := newHealthRig(t)
	r.drifted(0, "u1", driftResult{differ: 2, known: true})
	r.identified(0, "u1", unitIdentity{known: true, modelOK: true})
	if got := strings.Count(r.at(1), "="); got != len(r.site.Inventory.Points) {
		t.Errorf("%d of %d points are told at the first look: %s", got, len(r.site.Inventory.Points), r.at(100))
	}
}

func TestWhatPeopleWaitForIsToldAtOnce(t *testing.T) {
	r := newHealthRig(t)
	r.at(0)
	for _, x := range []struct {
		at     float64
		change func()
		want   string
	}{
		{0.25, func() {}, ""},
		{0.5, func() { r.h.Up = true }, "b1.up=true"},
		{1, func() { r.h.Units[0].Online, r.h.Units[0].RoundTrip = true, 12340*time.Microsecond }, "u1.online=true"},
		{2, func() { r.h.Suspended = true }, "b1.suspended=true"},
		{3, func() { r.h.Busy, r.h.Foreign, r.h.Units[1].Timeouts = 0.1234, 7, 5 }, ""},
		{10, func() {}, "b1.busy_pct=12.3, b1.foreign_frames=7, u1.round_trip_ms=12.3, u2.timeouts=5"},
		{12, func() { r.h.Units[1].Timeouts = 6 }, ""},
		{20, func() {}, "u2.timeouts=6"},
		{30, func() {}, ""},
		{31, func() { r.drifted(0, "u1", driftResult{differ: 1, known: true}) }, "u1.config_drift=1"},
		{32, func() { r.drifted(0, "u1", driftResult{}) }, "u1.config_drift=- bad_comm"},
		{33, func() { r.identified(0, "u1", unitIdentity{known: true, modelOK: true}) }, "u1.model_ok=true"},
		{34, func() { r.identified(0, "u1", unitIdentity{known: true, modelOK: true, swaps: 1}) }, "u1.swaps=1"},
	} {
		x.change()
		if got := r.at(x.at); got != x.want {
			t.Errorf("at %g s: %q, want %q", x.at, got, x.want)
		}
	}
	if got := strings.Count(r.at(60), "="); got != len(r.site.Inventory.Points) {
		t.Errorf("after a minute %d of %d points are told again", got, len(r.site.Inventory.Points))
	}
}

func TestShareOfFailedRequests(t *testing.T) {
	r := newHealthRig(t)
	u := &r.h.Units[0]
	share := func(want float64) {
		t.Helper()
		if got, _ := r.figures(0, "u1"); got != want {
			t.Errorf("failed %g %%, want %g", got, want)
		}
	}
	now := 0.0
	run := func(minutes int, answers, timeouts, crc, exceptions uint64) { // per half a minute
		for range 2 * minutes {
			u.Answers += answers
			u.Timeouts += timeouts
			u.Errors += crc
			u.Exceptions += exceptions
			now += 30
			r.at(now)
		}
	}
	u.Timeouts = 1000 // of before the first look
	r.at(0)
	share(0)
	run(1, 3, 1, 0, 0)
	share(0) // eight requests say nothing
	run(9, 80, 10, 10, 0)
	share(20)
	run(10, 80, 0, 0, 20)
	share(0) // refusals are answers
	run(1, 0, 100, 0, 0)
	share(20)
	run(9, 0, 100, 0, 0)
	share(100)
}

func TestDriftIsLookedForOnSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newHealthRig(t)
		r.site.Verify = 24 * time.Hour
		r.site.Settings = []site.UnitSettings{{Bus: 0, Unit: 0, Want: map[string]string{"baud": "9600"}}}
		began := time.Now()
		var looked []time.Duration
		var mu sync.Mutex // guards looked, differ and failing
		differ, failing := 0, error(nil)
		now := func(n int, err error) {
			mu.Lock()
			defer mu.Unlock()
			differ, failing = n, err
		}
		d := &drift{site: r.site, lines: []*drivers.Line{nil}, points: r.busPoints, log: zap.NewNop(),
			verify: func(_ context.Context, _ firmwareconfig.Asker, unit firmwareconfig.Unit, want map[string]string) ([]firmwareconfig.Drift, error) {
				if unit.ID != "u1" || want["baud"] != "9600" {
					t.Errorf("looked at %s for %v", unit.ID, want)
				}
				mu.Lock()
				defer mu.Unlock()
				looked = append(looked, time.Since(began))
				return make([]firmwareconfig.Drift, differ), failing
			}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- d.run(ctx) }()
		drifts := func(want string) {
			t.Helper()
			synctest.Wait()
			_, n := r.figures(0, "u1")
			got := "unknown"
			if n != nil {
				got = fmt.Sprint(*n)
			}
			if got != want {
				t.Errorf("after %v: %s settings differ, want %s", looked, got, want)
			}
		}
		drifts("unknown")
		time.Sleep(10 * time.Minute)
		drifts("0")
		now(3, nil)
		time.Sleep(24 * time.Hour)
		drifts("3")
		now(3, errors.New("no answer"))
		time.Sleep(24 * time.Hour)
		drifts("unknown")
		now(0, nil)
		time.Sleep(time.Hour)
		drifts("0")
		want := []time.Duration{10 * time.Minute, 24*time.Hour + 10*time.Minute, 48*time.Hour + 10*time.Minute, 49*time.Hour + 10*time.Minute}
		if !slices.Equal(looked, want) {
			t.Errorf("looked after %v, want %v", looked, want)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestNamesOfTheOwnWorksSayWhereToGo: an alert about "box_io" names the zones of its devices, in both languages.
func TestNamesOfTheOwnWorksSayWhereToGo(t *testing.T) {
	text := func(zh, en string) telemetry.Text { return telemetry.Text{Zh: zh, En: en} }
	class := &telemetry.Class{ID: "smoke_detector", Points: []telemetry.PointDef{{Name: "alarm", Kind: telemetry.Bool, LifeSafety: true}, {Name: "fault", Kind: telemetry.Bool}}}
	own := &telemetry.Class{ID: "field_bus"}
	inv := &telemetry.Inventory{Site: "test", Gateway: "gw1"}
	b1 := inv.AddZone(telemetry.Zone{ID: "b1", Parent: -1, Title: text("1号楼", "Building 1")})
	zones := []int{inv.AddZone(telemetry.Zone{ID: "b1_f1", Parent: b1, Title: text("1层", "floor 1")})}
	for i := range 3 {
		zones = append(zones, inv.AddZone(telemetry.Zone{ID: fmt.Sprint("z", i), Parent: -1, Title: text(fmt.Sprintf("%d门", i), fmt.Sprintf("Gate %d", i))}))
	}
	var binds []firmwareconfig.Binding
	for i, z := range zones {
		d := inv.AddDevice(telemetry.Device{ID: fmt.Sprint("d", i), Class: class, Zone: z})
		binds = append(binds, firmwareconfig.Binding{Point: inv.ProvidePoint(d, 1)})
		if i < 2 {
			binds = append(binds, firmwareconfig.Binding{Point: inv.ProvidePoint(d, 0)})
		}
	}
	work := func(id string) int {
		return inv.AddDevice(telemetry.Device{ID: id, Class: own, Zone: -1, System: true, Title: text("总线 "+id, "Bus "+id)})
	}
	s := &site.Site{Inventory: inv, Buses: []site.Bus{
		{ID: "box_io", Health: work("box_io"), UnitHealth: []int{work("u1"), work("u2")}, Units: []firmwareconfig.Unit{{ID: "u1", Bindings: binds[:4]}, {ID: "u2", Bindings: binds[4:]}}},
		{ID: "empty", Health: work("empty")}, {ID: "none", Health: -1},
	}}
	nameWorks(s)
	for id, want := range map[string][2]string{
		"box_io": {"总线 box_io（1号楼1层、0门、1门等 4 处）", "Bus box_io (Building 1, floor 1; Gate 0; Gate 1; 4 places in all)"},
		"u1":     {"总线 u1（1号楼1层、0门）", "Bus u1 (Building 1, floor 1; Gate 0)"},
		"u2":     {"总线 u2（1门、2门）", "Bus u2 (Gate 1; Gate 2)"},
		"empty":  {"总线 empty", "Bus empty"},
	} {
		i, _ := inv.DeviceByID(id)
		if got := inv.Devices[i].Title; got.Zh != want[0] || got.En != want[1] {
			t.Errorf("%s is %q, %q; want %q", id, got.Zh, got.En, want)
		}
	}
	all, life := devicesOf(s, s.Buses[0].Units...)
	second, none := devicesOf(s, s.Buses[0].Units[1])
	if got := fmt.Sprint(all, life, second, none); got != "4 2 2 0" {
		t.Errorf("devices on the bus, of these with points that protect life, and of the second unit: %s, want 4 2 2 0", got)
	}
}
