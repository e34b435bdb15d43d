package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	firmwareconfig "linli/firmware-config"
	"linli/internal/alert"
	"linli/internal/journal"
	"linli/internal/live"
	"linli/internal/site"
	"linli/internal/telemetry"
	"linli/internal/uplink"
)

// ownRig is a gateway with every point that there is, on a box made of files.
type ownRig struct {
	*gatewayPoints
	inv *telemetry.Inventory
	now telemetry.Now
	j   journal.Stats
	a   alert.Stats
	u   uplink.Status
}

func newOwnRig(t *testing.T) *ownRig {
	t.Helper()
	library, err := firmwareconfig.Load(firmwareconfig.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	r := &ownRig{inv: &telemetry.Inventory{Site: "test", Gateway: "gw1"}, now: telemetry.Now{Wall: time.Unix(1790000000, 0)}}
	class := library.Classes["gateway"]
	device := r.inv.AddDevice(telemetry.Device{ID: "gw1", Class: class, Zone: -1, System: true})
	for i := range class.Points {
		r.inv.ProvidePoint(device, i)
	}
	r.gatewayPoints = &gatewayPoints{watched: watch(r.inv, device, ownAtOnce), box: box{state: root, root: root},
		journal: func() journal.Stats { return r.j }, alerts: func() alert.Stats { return r.a }, uplink: func() uplink.Status { return r.u }}
	r.file(t, "proc/self/statm", "9000 4096 300 0 0 0 0")
	r.file(t, "sys/class/thermal/thermal_zone0/temp", "48200\n")
	r.file(t, "sys/class/thermal/thermal_zone1/temp", "61950\n")
	r.file(t, "sys/class/thermal/thermal_zone2/temp", "-274000\n") // a dummy
	return r
}

func (r *ownRig) file(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(r.box.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// at looks at a moment and returns what is told, sorted, the free disk without its figure.
func (r *ownRig) at(seconds float64) string {
	var out []string
	r.now.Mono = telemetry.Mono(seconds * float64(time.Second))
	for _, s := range r.look(r.now, nil) {
		text := fmt.Sprintf("%s=%v", r.inv.Series(s.Point).Point, s.Value)
		if s.Quality != telemetry.Good {
			text += " " + s.Quality.String()
		} else if name, _, _ := strings.Cut(text, "="); name == "disk_free_pct" {
			if pct := s.Value.Float(); pct < 0 || pct > 100 {
				text += " is no share"
			} else {
				text = name
			}
		}
		out = append(out, text)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// TestTheGatewayTellsOfItself: each point of the class is told, what people wait for at the next look, the rest every
// ten seconds where it changed, and everything once a minute.
func TestTheGatewayTellsOfItself(t *testing.T) {
	r := newOwnRig(t)
	all := "alerts_closed=0, alerts_dropped=0, alerts_durable=true, alerts_raised=0, backlog_frames=0, clock_set=true, cpu_temp_c=62, disk_free_pct, journal_ok=true, memory_mib=16, samples_lost=0, uplink_up=false"
	if os.Getpagesize() != 4096 {
		t.Skip("the figure of the memory is for pages of 4 KiB")
	}
	if got := r.at(0); got != all {
		t.Fatalf("at first %q, want %q", got, all)
	}
	if n := strings.Count(all, ",") + 1; n != len(r.inv.Points) {
		t.Errorf("%d points, the class has %d: one is never told", n, len(r.inv.Points))
	}
	for _, x := range []struct {
		at     float64
		change func()
		want   string
	}{
		{1, func() {}, ""},
		{2, func() { r.u = uplink.Status{Connected: true, BacklogFrames: 12} }, "uplink_up=true"},
		{3, func() { r.now.Uncertain = true }, "clock_set=false"},
		{4, func() { r.j = journal.Stats{LastError: "no space", SamplesLost: 7} }, "journal_ok=false, samples_lost=7"},
		{5, func() { r.j.LastError = "" }, "journal_ok=true"},
		{6, func() { r.a.Waiting = 1 }, ""},
		{7, func() {}, "alerts_durable=false"},
		{8, func() { r.a = alert.Stats{OutboxDropped: 1, HistoryDropped: 2, WaitingDropped: 3} }, "alerts_dropped=6, alerts_durable=true"},
		{8.5, func() { r.a.Raised, r.a.Closed = 3, 1 }, "alerts_closed=1, alerts_raised=3"},
		{9, func() { r.file(t, "sys/class/thermal/thermal_zone1/temp", "70000") }, ""},
		{10, func() {}, "backlog_frames=12, cpu_temp_c=70"},
		{11, func() { os.RemoveAll(filepath.Join(r.box.root, "proc")) }, ""},
		{12, func() { r.trouble = errors.New("read-only") }, "alerts_durable=false, journal_ok=false"},
		{20, func() {}, "memory_mib=- bad_sensor"},
	} {
		x.change()
		if got := r.at(x.at); got != x.want {
			t.Errorf("at %g s: %q, want %q", x.at, got, x.want)
		}
	}
	r.at(59.5)
	if got := strings.Count(r.at(60), ",") + 1; got != len(r.inv.Points) {
		t.Errorf("after a minute %d of %d points are told again", got, len(r.inv.Points))
	}
}

// TestOnlyBoxesThatMeasureHaveATemperature: a box without a sensor has no such point, rather than one that is unknown
// for ever.
func TestOnlyBoxesThatMeasureHaveATemperature(t *testing.T) {
	class := &telemetry.Class{ID: "gateway", Points: []telemetry.PointDef{{Name: "clock_set"}, {Name: "cpu_temp_c", Optional: true}}}
	for _, measures := range []bool{true, false} {
		inv := &telemetry.Inventory{}
		s := &site.Site{Inventory: inv, Own: inv.AddDevice(telemetry.Device{ID: "gw1", Class: class, Zone: -1, System: true})}
		r := &ownRig{gatewayPoints: &gatewayPoints{box: box{root: t.TempDir()}}}
		if measures {
			r.file(t, "sys/class/thermal/thermal_zone0/temp", "40000")
		}
		provideTemperature(s, r.box)
		if got := inv.Devices[0].Points[1] != telemetry.NoPoint; got != measures {
			t.Errorf("a box that measures %v: the point is provided %v", measures, got)
		}
	}
	provideTemperature(&site.Site{Own: -1}, box{})
}

// TestARunningGatewayIsADevice: the points reach the live table of a real gateway.
func TestARunningGatewayIsADevice(t *testing.T) {
	p, err := resolvePlan("site.yaml", []byte("version: 1\nsite: a\ngateway: box7\nzones: [{id: yard, kind: area}]\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	d := p.site.Inventory.Devices[p.site.Own]
	if !d.System || d.ID != "box7" || d.Title.Zh != "网关 box7" || d.Points[d.Class.Point("uplink_up")] != telemetry.NoPoint {
		t.Fatalf("the gateway's device is %+v", d)
	}
	st, err := openStores(t.TempDir(), p.site, newClock(), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer st.unlock()
	defer st.journal.Close()
	defer st.book.Close()
	table := live.New(len(p.site.Inventory.Points))
	own := newGatewayPoints(p.site, st, st.dir, nil, newClock())
	ctx, cancel := context.WithCancel(t.Context())
	err = own.run(ctx, func(samples []telemetry.Sample) {
		table.Apply(samples)
		cancel()
	})
	if err != nil {
		t.Error(err)
	}
	entries, _ := table.Snapshot(nil)
	for def, id := range d.Points {
		if id != telemetry.NoPoint && (!entries[id].Known || entries[id].Quality != telemetry.Good) {
			t.Errorf("%s is %+v", d.Class.Points[def].Name, entries[id])
		}
	}
}
