package site_test

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	firmwareconfig "linli/firmware-config"
	"linli/internal/site"
	"linli/internal/telemetry"
)

const southbound = `version: 1
site: a
zones: [{id: hall, kind: area}]
config: {verify: 12h}
buses:
  - id: dtu_1
    modbus_rtu_over_tcp: {listen: "0.0.0.0:4001", registration: "YG-0001", baud: 4800, format: 8E1}
    units: [{id: t1, address: 1, profile: test_params, config: {offset: -0.5, baud: 4800}}]
  - id: dtu_2
    modbus_tcp: {listen: "0.0.0.0:4001", registration: 0x59470002, ignore_transaction_id: true}
    units: [{id: s1, address: 1, profile: test_siren}]
  - id: tcp_2
    modbus_tcp: {address: "10.0.0.2:502", ignore_transaction_id: true}
    units: [{id: io1, address: 1, profile: test_io8}]
  - id: box_io
    gpio: {chip: pinctrl-bcm2835, key_file: keys/site.key}
    lines:
      - {id: door_a, input: GPIO17, bias: pull_up, active_low: true, debounce: 30ms, title: {zh: 门磁, en: Door contact}}
      - {id: loop_1, pair: {nc: GPIO5, no: 6}, debounce: 50ms, bias: none}
      - {id: water, count: GPIO13, edge: falling}
      - {id: reader, wiegand: {d0: GPIO24, d1: GPIO25, bits: [26, 34]}}
      - {id: reader_2, wiegand: {d0: GPIO26, d1: GPIO27}, bias: pull_up}
      - {id: siren, output: GPIO22, on_start: off, on_stop: on, feedback: GPIO23}
      - {id: siren_2, output: GPIO4, active_low: true, on_stop: off}
devices:
  - {id: th, class: climate, zone: hall, points: {temperature_c: t1.t, humidity_pct: {from: t1.t, map: [[0, 0], [1, 1]]}}}
  - {id: horn, unit: s1, zone: hall, points: {on: {on_start: off, on_stop: off, interval: 2s, watchdog: true}}}
  - {id: horn_2, class: siren, zone: hall, points: {on: {from: io1.do1, min_off: 10s, interlock: [lamp.on, horn_3.on]}}}
  - {id: horn_3, class: siren, zone: hall, points: {on: {from: io1.do2, on_start: on}}}
  - {id: door, class: fire_lane_sensor, zone: hall, points: {occupied: box_io.door_a, battery_low: {from: box_io.loop_1, invert: true}}}
  - {id: bin, class: smart_bin, zone: hall, points: {fill_pct: {from: box_io.water, map: [[0, 0], [10, 100]]}}}
  - {id: reader, class: card_reader, zone: hall, points: {card: box_io.reader}}
  - {id: reader_2, class: card_reader, zone: hall, points: {card: box_io.reader_2}}
  - {id: horn_4, class: siren, zone: hall, points: {on: {from: box_io.siren, interval: 500ms, interlock: [horn_2.on]}}}
  - {id: lamp, class: siren, zone: hall, points: {on: {from: box_io.siren_2, invert: true}}}
`

func TestGPIOLines(t *testing.T) {
	s := southboundSite(t)
	b := s.Buses[3]
	if b.Transport != site.GPIO || b.Chip != "pinctrl-bcm2835" || b.KeyFile != "/etc/linli/keys/site.key" {
		t.Errorf("transport %s, chip %s, key file %s", b.Transport, b.Chip, b.KeyFile)
	}
	want := []firmwareconfig.GPIOLine{
		{ID: "door_a", Kind: firmwareconfig.GPIOInput, Line: "GPIO17", Bias: firmwareconfig.GPIOPullUp, ActiveLow: true, Debounce: 30 * time.Millisecond},
		{ID: "loop_1", Kind: firmwareconfig.GPIOPair, Line: "GPIO5", Second: "6", Bias: firmwareconfig.GPIOBiasOff, Debounce: 50 * time.Millisecond},
		{ID: "water", Kind: firmwareconfig.GPIOCounter, Line: "GPIO13", Edge: firmwareconfig.GPIOFalling},
		{ID: "reader", Kind: firmwareconfig.GPIOWiegand, Line: "GPIO24", Second: "GPIO25", Bits: []int{26, 34}},
		{ID: "reader_2", Kind: firmwareconfig.GPIOWiegand, Line: "GPIO26", Second: "GPIO27", Bias: firmwareconfig.GPIOPullUp, Bits: []int{26, 34, 37}},
		{ID: "siren", Kind: firmwareconfig.GPIOOutput, Line: "GPIO22", OnStart: firmwareconfig.OutputOff, OnStop: firmwareconfig.OutputOn, Feedback: "GPIO23"},
		{ID: "siren_2", Kind: firmwareconfig.GPIOOutput, Line: "GPIO4", ActiveLow: true, OnStop: firmwareconfig.OutputOff},
	}
	if !reflect.DeepEqual(b.Lines, want) {
		t.Errorf("lines\n%+v\nwant\n%+v", b.Lines, want)
	}
	if len(b.Units) != 1 || b.Units[0].ID != "box_io" || b.Units[0].Address != 0 {
		t.Fatalf("units %+v", b.Units)
	}
	channels := ""
	for i, ch := range b.Units[0].Profile.Channels {
		channels += fmt.Sprintf("%s %s %s %d %v\n", ch.Name, ch.Table, ch.Encoding, ch.Address, ch.Writable)
		if ch.Name != b.Lines[i].ID {
			t.Errorf("channel %d is %s, its line %s", i, ch.Name, b.Lines[i].ID)
		}
	}
	if want := `door_a discrete bool 0 false
loop_1 discrete bool 1 false
water input u64 2 false
reader input string 3 false
reader_2 input string 4 false
siren coil bool 5 true
siren_2 coil bool 6 true
`; channels != want {
		t.Errorf("channels\n%swant\n%s", channels, want)
	}
	if got := b.Units[0].Profile.Channels[0].Title; got.Zh != "门磁" {
		t.Errorf("title %v", got)
	}
	if got, want := bindings(&site.Site{Buses: s.Buses[3:], Inventory: s.Inventory}), `box_io/box_io.door_a -> door.occupied
box_io/box_io.loop_1 -> door.battery_low inverted
box_io/box_io.water -> bin.fill_pct map {0 0 10 100}
box_io/box_io.reader -> reader.card
box_io/box_io.reader_2 -> reader_2.card
box_io/box_io.siren -> horn_4.on
box_io/box_io.siren_2 -> lamp.on inverted
`; got != want {
		t.Errorf("bindings\n%swant\n%s", got, want)
	}
}

func southboundSite(t *testing.T) *site.Site {
	t.Helper()
	s, err := site.Load("/etc/linli/site.yaml", []byte(southbound), testLibrary(), testPacks(t))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConvertersThatDialIn(t *testing.T) {
	s := southboundSite(t)
	for i, want := range []site.Bus{
		{ID: "dtu_1", Transport: site.ModbusRTUOverTCP, Listen: "0.0.0.0:4001", Registration: []byte("YG-0001"), Line: firmwareconfig.Line{Baud: 4800, Format: "8E1"}},
		{ID: "dtu_2", Transport: site.ModbusTCP, Listen: "0.0.0.0:4001", Registration: []byte{0x59, 0x47, 0, 2}, IgnoreTID: true},
		{ID: "tcp_2", Transport: site.ModbusTCP, Address: "10.0.0.2:502", IgnoreTID: true},
	} {
		got := s.Buses[i]
		if got.Pos.Line == 0 || got.Pos.File != "/etc/linli/site.yaml" {
			t.Errorf("bus %s stands at %v", got.ID, got.Pos)
		}
		want.Pos, want.Units, want.Health, want.UnitHealth = got.Pos, got.Units, got.Health, got.UnitHealth
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	}
}

func TestOutputs(t *testing.T) {
	s := southboundSite(t)
	got := ""
	for _, o := range s.Outputs {
		u := s.Buses[o.Bus].Units[o.Unit]
		got += fmt.Sprintf("%s from %s.%s: %s, %s, %s, %s, %v, not with", s.Inventory.Series(o.Point).Device, u.ID, u.Profile.Channels[o.Channel].Name, o.OnStart, o.OnStop, o.Interval, o.MinOff, o.Watchdog)
		for _, other := range o.Interlock {
			got += " " + s.Inventory.Series(other).Device
		}
		got += "\n"
	}
	want := `horn from s1.on: off, off, 2s, 0s, true, not with
horn_2 from io1.do1: hold, hold, 0s, 10s, false, not with horn_3 horn_4 lamp
horn_3 from io1.do2: on, hold, 0s, 0s, false, not with horn_2
horn_4 from box_io.siren: off, on, 500ms, 0s, false, not with horn_2
lamp from box_io.siren_2: hold, on, 0s, 0s, false, not with horn_2
`
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestDryRun(t *testing.T) {
	src, err := os.ReadFile("testdata/minimal.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]bool{"true": true, "false": false} {
		s, err := site.Load("site.yaml", append(src, "\ndry_run: "+value+"\n"...), testLibrary(), testPacks(t))
		if err != nil {
			t.Fatal(err)
		}
		if warned := strings.Contains(s.Warnings.Error(), "dry_run: no rule commands an output"); s.DryRun != want || warned != want {
			t.Errorf("dry_run: %s gives %v and warns %v", value, s.DryRun, s.Warnings)
		}
	}
}

func TestSettings(t *testing.T) {
	s := southboundSite(t)
	want := []site.UnitSettings{{Bus: 0, Unit: 0, Want: map[string]string{"offset": "-0.5", "baud": "4800"}}}
	if !reflect.DeepEqual(s.Settings, want) || s.Verify != 12*time.Hour {
		t.Errorf("settings %+v, verified each %v", s.Settings, s.Verify)
	}
	if s := load(t, "testdata/minimal.yaml"); s.Verify != 24*time.Hour || len(s.Settings) > 0 {
		t.Errorf("by default: settings %+v, verified each %v", s.Settings, s.Verify)
	}
}

// TestAReadersFaultComesFromItsDriver: cards are events, so that a reader needs another point to go bad; unless the file
// has bound that point to something else.
func TestAReadersFaultComesFromItsDriver(t *testing.T) {
	lib := testLibrary()
	lib.Classes["card_reader"] = &telemetry.Class{ID: "card_reader", Points: []telemetry.PointDef{
		{Name: "card", Kind: telemetry.KindText, Event: true},
		{Name: "fault", Kind: telemetry.Bool, Optional: true, Default: telemetry.BoolValue(false)},
	}}
	for points, want := range map[string]string{
		"card: box_io.reader":                       "box_io/box_io.reader -> reader.card\nbox_io/box_io.reader -> reader.fault\n",
		"card: box_io.reader, fault: box_io.door_a": "box_io/box_io.reader -> reader.card\nbox_io/box_io.door_a -> reader.fault\n",
	} {
		src := strings.Replace(southbound, "points: {card: box_io.reader}", "points: {"+points+"}", 1)
		s, err := site.Load("/etc/linli/site.yaml", []byte(src), lib, testPacks(t))
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, line := range strings.SplitAfter(bindings(&site.Site{Buses: s.Buses[3:], Inventory: s.Inventory}), "\n") {
			if strings.Contains(line, " reader.") {
				got += line
			}
		}
		if got != want {
			t.Errorf("%s\ngot\n%swant\n%s", points, got, want)
		}
	}
}
