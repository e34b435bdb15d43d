package site_test

import (
	"fmt"
	"strings"
	"testing"

	firmwareconfig "linli/firmware-config"
	"linli/internal/site"
	"linli/internal/telemetry"
)

// systemSite loads src with a library that has the classes of what the gateway itself is made of.
func systemSite(t *testing.T, src string, change ...func(*firmwareconfig.Library)) *site.Site {
	t.Helper()
	lib := testLibrary()
	for _, f := range change {
		f(lib)
	}
	for _, c := range []*telemetry.Class{
		{ID: "field_bus", Title: telemetry.Text{Zh: "总线", En: "Bus"}, Points: []telemetry.PointDef{
			{Name: "up", Kind: telemetry.Bool}, {Name: "busy_pct", Kind: telemetry.Float, Unit: "%"}}},
		{ID: "bus_unit", Title: telemetry.Text{Zh: "从站", En: "Unit"}, Points: []telemetry.PointDef{
			{Name: "online", Kind: telemetry.Bool}, {Name: "config_drift", Kind: telemetry.Int, Optional: true},
			{Name: "model_ok", Kind: telemetry.Bool, Optional: true}, {Name: "swaps", Kind: telemetry.Int, Optional: true}}},
		{ID: "gateway", Title: telemetry.Text{Zh: "网关", En: "Gateway"}, Points: []telemetry.PointDef{
			{Name: "clock_set", Kind: telemetry.Bool}, {Name: "cpu_temp_c", Kind: telemetry.Float, Optional: true},
			{Name: "uplink_up", Kind: telemetry.Bool, Optional: true}, {Name: "backlog_frames", Kind: telemetry.Int, Optional: true}}},
	} {
		lib.Classes[c.ID] = c
	}
	s, err := site.Load("site.yaml", []byte(src), lib, testPacks(t))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// systemDevices renders the system devices of a site: id (class) titles: provided points.
func systemDevices(s *site.Site) string {
	var b strings.Builder
	for i, d := range s.Inventory.Devices {
		if !d.System {
			continue
		}
		var points []string
		for def, id := range d.Points {
			if id == telemetry.NoPoint {
				continue
			}
			if p := s.Inventory.Points[id]; p.Device != i || p.Def != &d.Class.Points[def] {
				points = append(points, "WRONG")
			}
			points = append(points, d.Class.Points[def].Name)
		}
		fmt.Fprintf(&b, "%s (%s) %s / %s, zone %d: %s\n", d.ID, d.Class.ID, d.Title.Zh, d.Title.En, d.Zone, strings.Join(points, " "))
	}
	return b.String()
}

func TestBusesAndUnitsAreDevices(t *testing.T) {
	s := systemSite(t, `version: 1
site: a
zones: [{id: hall, kind: area}]
buses:
  - id: rs485_1
    modbus_rtu: {device: /dev/ttyS1}
    units: [{id: io1, address: 1, profile: test_io8}, {id: th1, address: 2, profile: test_th}]
  - id: lane_1
    modbus_tcp: {address: "10.0.0.1:502"}
    units: [{id: bus_lane_1, address: 1, profile: test_th}]
  - id: a23456789012345678901234567890xy
    modbus_tcp: {address: "10.0.0.2:502"}
devices:
  - {id: lane_1, class: fire_lane_sensor, zone: hall, points: {occupied: io1.di1}}
  - {id: th1, unit: th1, zone: hall}
  - {id: unit_th1, unit: bus_lane_1, zone: hall}
  - {id: a23456789012345678901234567890xy, class: fire_lane_sensor, zone: hall, points: {occupied: io1.di1}}
  - {id: bus_a234567890123456789012345678, class: fire_lane_sensor, zone: hall, points: {occupied: io1.di1}}
`)
	want := `rs485_1 (field_bus) 总线 rs485_1 / Bus rs485_1, zone -1: up busy_pct
io1 (bus_unit) 从站 io1 / Unit io1, zone -1: online
unit_th1_2 (bus_unit) 从站 th1 / Unit th1, zone -1: online
bus_lane_1 (field_bus) 总线 lane_1 / Bus lane_1, zone -1: up busy_pct
unit_bus_lane_1 (bus_unit) 从站 bus_lane_1 / Unit bus_lane_1, zone -1: online
bus_a2345678901234567890123456_2 (field_bus) 总线 a23456789012345678901234567890xy / Bus a23456789012345678901234567890xy, zone -1: up busy_pct
gw1 (gateway) 网关 gw1 / Gateway gw1, zone -1: clock_set
`
	if got := systemDevices(s); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	for i, d := range s.Inventory.Devices {
		if d.System != (i >= 5) {
			t.Errorf("device %d (%s): System is %v; system devices come after those of the file", i, d.ID, d.System)
		}
	}
	for _, b := range s.Buses {
		if d := s.Inventory.Devices[b.Health]; !d.System || d.Class.ID != "field_bus" || !strings.HasSuffix(d.Title.En, " "+b.ID) {
			t.Errorf("bus %s is device %s", b.ID, d.ID)
		}
		if len(b.UnitHealth) != len(b.Units) {
			t.Fatalf("bus %s: %d units, %d devices for them", b.ID, len(b.Units), len(b.UnitHealth))
		}
		for i, u := range b.Units {
			if d := s.Inventory.Devices[b.UnitHealth[i]]; d.Class.ID != "bus_unit" || !strings.HasSuffix(d.Title.En, " "+u.ID) {
				t.Errorf("unit %s is device %s", u.ID, d.ID)
			}
		}
	}
}

func TestALibraryWithoutTheClassesHasNoSystemDevices(t *testing.T) {
	s := load(t, "testdata/community.yaml")
	if got := systemDevices(s); got != "" {
		t.Errorf("got\n%s", got)
	}
	for _, b := range s.Buses {
		if b.Health != -1 || len(b.UnitHealth) != len(b.Units) || b.UnitHealth[0] != -1 {
			t.Errorf("bus %s: device %d, its units' %v", b.ID, b.Health, b.UnitHealth)
		}
	}
}

func TestTheGatewayIsADevice(t *testing.T) {
	for _, c := range []struct{ head, rest, want string }{
		{"", "", "gw1 (gateway) 网关 gw1 / Gateway gw1, zone -1: clock_set"},
		{"gateway: box_7\n", "", "box_7 (gateway) 网关 box_7 / Gateway box_7, zone -1: clock_set"},
		{"", "uplink: {brokers: [\"tcp://127.0.0.1:1883\"]}\n", "gw1 (gateway) 网关 gw1 / Gateway gw1, zone -1: clock_set uplink_up backlog_frames"},
		{"gateway: th1\n", "", "gateway_th1 (gateway) 网关 th1 / Gateway th1, zone -1: clock_set"},
	} {
		s := systemSite(t, "version: 1\nsite: a\n"+c.head+`zones: [{id: hall, kind: area}]
buses: [{id: lane_1, modbus_tcp: {address: "10.0.0.1:502"}, units: [{id: th1, address: 1, profile: test_th}]}]
devices: [{id: th1, unit: th1, zone: hall}]
`+c.rest)
		got := systemDevices(s)
		if lines := strings.Split(strings.TrimSpace(got), "\n"); lines[len(lines)-1] != c.want || s.Own != len(s.Inventory.Devices)-1 {
			t.Errorf("%q: device %d of\n%swant the last one to be\n%s", c.head+c.rest, s.Own, got, c.want)
		}
	}
	if s := load(t, "testdata/community.yaml"); s.Own != -1 {
		t.Errorf("without the class the gateway is device %d", s.Own)
	}
}

func TestOfAGPIOChipOnlyTheBusIsADevice(t *testing.T) {
	s := systemSite(t, southbound)
	b := s.Buses[3]
	if s.Inventory.Devices[b.Health].ID != "box_io" || len(b.UnitHealth) != 1 || b.UnitHealth[0] != -1 {
		t.Errorf("device %s, its unit's %v", s.Inventory.Devices[b.Health].ID, b.UnitHealth)
	}
}

func TestDriftIsAPointWhereSettingsAreVerified(t *testing.T) {
	drift := func(src, unit string) bool {
		s := systemSite(t, src)
		for _, b := range s.Buses {
			for i, u := range b.Units {
				if u.ID == unit {
					d := s.Inventory.Devices[b.UnitHealth[i]]
					return d.Points[d.Class.Point("config_drift")] != telemetry.NoPoint
				}
			}
		}
		t.Fatalf("no unit %s", unit)
		return false
	}
	if !drift(southbound, "t1") || drift(southbound, "s1") || drift(strings.Replace(southbound, "verify: 12h", "verify: 0s", 1), "t1") {
		t.Error("config_drift is provided for units that have a config, unless verify is 0s")
	}
}

func TestIdentityIsAPointWhereAProfileTellsIt(t *testing.T) {
	const src = "version: 1\nsite: a\nbuses: [{id: b, modbus_tcp: {address: \"10.0.0.1:502\"}, units: [{id: th1, address: 1, profile: test_th}]}]\n"
	for _, c := range []struct {
		name, src, want string
		change          func(*firmwareconfig.Profile)
	}{
		{"nothing tells it", src, "online", func(*firmwareconfig.Profile) {}},
		{"a mark", src, "online model_ok", func(p *firmwareconfig.Profile) {
			p.Signature = []firmwareconfig.Test{{Table: firmwareconfig.HoldingRegister, EqualsAddress: true}}
		}},
		{"what it says of itself", src, "online model_ok", func(p *firmwareconfig.Profile) { p.DeviceID = &firmwareconfig.DeviceID{Vendor: "x"} }},
		{"its number", src, "online swaps", func(p *firmwareconfig.Profile) {
			p.Channels = append(p.Channels, firmwareconfig.Channel{Name: "serial", Table: firmwareconfig.HoldingRegister, Encoding: firmwareconfig.EncU32})
		}},
		{"nobody asks", src + "config: {verify: 0s}\n", "online", func(p *firmwareconfig.Profile) { p.DeviceID = &firmwareconfig.DeviceID{Vendor: "x"} }},
	} {
		s := systemSite(t, c.src, func(lib *firmwareconfig.Library) { c.change(lib.Profiles["test_th"]) })
		if want := "th1 (bus_unit) 从站 th1 / Unit th1, zone -1: " + c.want + "\n"; !strings.Contains(systemDevices(s), want) {
			t.Errorf("%s: got\n%swant %s", c.name, systemDevices(s), want)
		}
	}
}

// A device is reached through every bus and unit that it has a point on, and a unit through its bus.
func TestThrough(t *testing.T) {
	s := systemSite(t, `version: 1
site: a
zones: [{id: hall, kind: area}]
buses:
  - id: rs485_1
    modbus_rtu: {device: /dev/ttyS1}
    units: [{id: io1, address: 1, profile: test_io8}, {id: th1, address: 2, profile: test_th}]
  - id: tcp_1
    modbus_tcp: {address: "10.0.0.1:502"}
    units: [{id: io2, address: 1, profile: test_io8}]
  - id: box
    gpio: {chip: gpiochip0}
    lines: [{id: door, input: GPIO1}]
devices:
  - {id: lane_1, class: fire_lane_sensor, zone: hall, points: {occupied: io1.di1, battery_low: io1.di2}}
  - {id: lane_2, class: fire_lane_sensor, zone: hall, points: {occupied: io2.di1, battery_low: io1.di3}}
  - {id: lane_3, class: fire_lane_sensor, zone: hall, points: {occupied: box.door}}
  - {id: th_1, unit: th1, zone: hall}
`)
	got := ""
	for _, d := range s.Inventory.Devices {
		got += d.ID + ":"
		for _, i := range d.Through {
			if !s.Inventory.Devices[i].System {
				t.Errorf("%s is reached through %s", d.ID, s.Inventory.Devices[i].ID)
			}
			got += " " + s.Inventory.Devices[i].ID
		}
		got += "\n"
	}
	want := `lane_1: rs485_1 io1
lane_2: rs485_1 io1 tcp_1 io2
lane_3: box
th_1: rs485_1 th1
rs485_1:
io1: rs485_1
th1: rs485_1
tcp_1:
io2: tcp_1
box:
gw1:
`
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if s := load(t, "testdata/community.yaml"); len(s.Inventory.Devices[0].Through) != 0 {
		t.Error("without the classes there is nothing to be reached through")
	}
}
