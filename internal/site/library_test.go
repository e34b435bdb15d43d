package site_test

import (
	"testing"
	"time"
	_ "time/tzdata" // The binary embeds it in package main.

	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
	"linli/rules"
)

// testLibrary is a small library of classes and profiles with one of everything that a binding can meet, so that
// these tests do not change with the shipped files.
func testLibrary() *firmwareconfig.Library {
	boolPoint := func(name string) telemetry.PointDef { return telemetry.PointDef{Name: name, Kind: telemetry.Bool} }
	optional := func(d telemetry.PointDef, v telemetry.Value) telemetry.PointDef {
		d.Optional, d.Default = true, v
		return d
	}
	classes := []*telemetry.Class{
		{ID: "fire_lane_sensor", Title: telemetry.Text{Zh: "地磁", En: "Lane sensor"}, Points: []telemetry.PointDef{
			boolPoint("occupied"),
			optional(boolPoint("battery_low"), telemetry.BoolValue(false)),
		}},
		{ID: "smart_bin", Points: []telemetry.PointDef{
			{Name: "fill_pct", Kind: telemetry.Float, Unit: "%"},
			optional(telemetry.PointDef{Name: "stream", Kind: telemetry.Enum, Enum: []telemetry.EnumName{
				{Code: 0, Name: "other"}, {Code: 1, Name: "recyclable"}, {Code: 2, Name: "kitchen"},
			}}, telemetry.EnumValue(0)),
			optional(telemetry.PointDef{Name: "label", Kind: telemetry.KindText}, telemetry.Value{}),
		}},
		{ID: "climate", Title: telemetry.Text{Zh: "温湿度", En: "Climate"}, Points: []telemetry.PointDef{
			{Name: "temperature_c", Kind: telemetry.Float, Unit: "°C"},
			{Name: "humidity_pct", Kind: telemetry.Float, Unit: "%"},
			optional(telemetry.PointDef{Name: "floor", Kind: telemetry.Int}, telemetry.IntValue(1)),
			optional(telemetry.PointDef{Name: "offset_c", Kind: telemetry.Float, Unit: "°C"}, telemetry.FloatValue(0)),
		}},
		{ID: "energy", Points: []telemetry.PointDef{{Name: "power_w", Kind: telemetry.Float, Unit: "W"}}},
		{ID: "siren", Points: []telemetry.PointDef{{Name: "on", Kind: telemetry.Bool, Writable: true},
			{Name: "aux", Kind: telemetry.Bool, Writable: true, Optional: true}}},
		{ID: "smoke", Points: []telemetry.PointDef{{Name: "alarm", Kind: telemetry.Bool, LifeSafety: true}}},
		{ID: "card_reader", Points: []telemetry.PointDef{{Name: "card", Kind: telemetry.KindText, Event: true}}},
		{ID: "dimmer", Points: []telemetry.PointDef{{Name: "level", Kind: telemetry.Float, Writable: true},
			{Name: "mode", Kind: telemetry.Enum, Writable: true, Enum: []telemetry.EnumName{{Code: 1, Name: "day"}}},
			{Name: "speed", Kind: telemetry.Int, Writable: true, Optional: true}}},
	}

	io8 := &firmwareconfig.Profile{ID: "test_io8"}
	for i := range 8 {
		n := string(rune('1' + i))
		io8.Channels = append(io8.Channels,
			firmwareconfig.Channel{Name: "di" + n, Table: firmwareconfig.DiscreteInput, Address: i, Encoding: firmwareconfig.EncBool, Scale: 1},
			firmwareconfig.Channel{Name: "do" + n, Table: firmwareconfig.Coil, Address: i, Encoding: firmwareconfig.EncBool, Scale: 1, Writable: true})
	}
	register := func(name string, enc firmwareconfig.Encoding, scale float64, unit string) firmwareconfig.Channel {
		return firmwareconfig.Channel{Name: name, Table: firmwareconfig.HoldingRegister, Encoding: enc, Scale: scale, Unit: unit}
	}
	writable := func(c firmwareconfig.Channel) firmwareconfig.Channel { c.Writable = true; return c }
	every := func(d time.Duration, c firmwareconfig.Channel) firmwareconfig.Channel { c.Every = d; return c }
	bounded := func(c firmwareconfig.Channel, least, most float64) firmwareconfig.Channel {
		c.Min, c.Max = &least, &most
		return c
	}
	profiles := []*firmwareconfig.Profile{
		io8,
		{ID: "test_distance", Channels: []firmwareconfig.Channel{register("distance", firmwareconfig.EncU16, 1, "mm"),
			writable(register("level", firmwareconfig.EncU16, 1, "")), writable(register("mode", firmwareconfig.EncU16, 1, "")), writable(register("speed", firmwareconfig.EncU16, 1, ""))}},
		{ID: "test_smoke", Channels: []firmwareconfig.Channel{{Name: "alarm", Table: firmwareconfig.DiscreteInput, Encoding: firmwareconfig.EncBool, Scale: 1}},
			Device: &firmwareconfig.DeviceBinding{Class: "smoke", Points: map[string]firmwareconfig.PointBinding{"alarm": {Channel: "alarm"}}}},
		{ID: "test_unproven", Status: "partial", Channels: []firmwareconfig.Channel{{Name: "alarm", Table: firmwareconfig.DiscreteInput, Encoding: firmwareconfig.EncBool, Scale: 1}, {Name: "guess", Status: "unverified", Table: firmwareconfig.DiscreteInput, Address: 1, Encoding: firmwareconfig.EncBool, Scale: 1}, {Name: "sure", Status: "confirmed", Table: firmwareconfig.DiscreteInput, Address: 2, Encoding: firmwareconfig.EncBool, Scale: 1}}},
		{ID: "test_siren", Line: firmwareconfig.Line{Baud: 19200}, Channels: []firmwareconfig.Channel{{Name: "on", Table: firmwareconfig.Coil, Encoding: firmwareconfig.EncBool, Scale: 1, Writable: true}},
			Device: &firmwareconfig.DeviceBinding{Class: "siren", Points: map[string]firmwareconfig.PointBinding{"on": {Channel: "on"}}}},
		{ID: "test_slow", Timing: firmwareconfig.Timing{Timeout: 2 * time.Second}, Channels: []firmwareconfig.Channel{every(time.Second, register("x", firmwareconfig.EncU16, 1, ""))}},
		{ID: "test_params", Line: firmwareconfig.Line{Baud: 4800, Format: "8E1"}, Channels: []firmwareconfig.Channel{register("t", firmwareconfig.EncS16, 0.1, "°C")},
			Params: []firmwareconfig.Param{
				{Channel: bounded(register("offset", firmwareconfig.EncS16, 0.1, "°C"), -10, 10)},
				{Channel: register("address", firmwareconfig.EncU16, 1, ""), Role: firmwareconfig.ParamAddress},
				{Channel: register("baud", firmwareconfig.EncU16, 1, ""), Role: firmwareconfig.ParamBaud, Values: []firmwareconfig.ParamValue{{Code: 0, Name: "4800"}, {Code: 1, Name: "9600"}}},
				{Channel: register("format", firmwareconfig.EncU16, 1, ""), Role: firmwareconfig.ParamFormat, Values: []firmwareconfig.ParamValue{{Code: 0, Name: "8N1"}, {Code: 1, Name: "8E1"}}},
				{Channel: register("password", firmwareconfig.EncU16, 1, ""), WriteOnly: true},
			}},
		{ID: "test_th", Channels: []firmwareconfig.Channel{
			register("temperature", firmwareconfig.EncS16, 0.1, "°C"),
			register("humidity", firmwareconfig.EncU16, 0.1, "%"),
		}, Device: &firmwareconfig.DeviceBinding{Class: "climate", Points: map[string]firmwareconfig.PointBinding{
			"temperature_c": {Channel: "temperature"},
			"humidity_pct":  {Channel: "humidity"},
		}}},
		{ID: "test_text", Channels: []firmwareconfig.Channel{{Name: "text", Table: firmwareconfig.HoldingRegister, Encoding: firmwareconfig.EncString, Count: 4, Scale: 1}}},
		{ID: "test_meter", Channels: []firmwareconfig.Channel{register("power", firmwareconfig.EncF32, 1, "kW")}},
		{ID: "test_odd", Address: 254, Channels: []firmwareconfig.Channel{register("x", firmwareconfig.EncU16, 1, "")}},
		{ID: "test_half"}, // its channels could not be read
		{ID: "test_local", Channels: []firmwareconfig.Channel{register("x", firmwareconfig.EncU16, 1, "")},
			Device: &firmwareconfig.DeviceBinding{Class: "energy", Points: map[string]firmwareconfig.PointBinding{"power_w": {Channel: "y"}}}},
	}
	lib := &firmwareconfig.Library{Faulty: map[string]bool{"test_torn": true, "test_half": true, "torn_class": true}, Classes: map[string]*telemetry.Class{}, Profiles: map[string]*firmwareconfig.Profile{}}
	for _, c := range classes {
		lib.Classes[c.ID] = c
	}
	for _, p := range profiles {
		lib.Profiles[p.ID] = p
	}
	return lib
}

// testPacks is one pack with two parameters and one without any.
func testPacks(t testing.TB) map[string]*rules.Pack {
	t.Helper()
	packs := map[string]*rules.Pack{}
	for id, src := range map[string]string{
		"fire_lane": "version: 1\npack: fire_lane\ntitle: x\nparams: {dwell: 3m, street_after: 10m}\nrules:\n  - {alert: A, for_each: fire_lane_sensor, expr: occupied, severity: warning, title: x}\n",
		"bounds":    "version: 1\npack: bounds\ntitle: x\nparams: {dwell: {default: 3m, min: 1s}, share: {default: 50, min: 1, max: 100}, level: 3m}\nrules:\n  - {alert: C, for_each: fire_lane_sensor, expr: occupied, severity: warning, title: x}\n",
		"plain":     "version: 1\npack: plain\ntitle: x\nrules:\n  - {alert: B, for_each: fire_lane_sensor, expr: occupied, severity: warning, title: x}\n",
	} {
		p, err := rules.ParsePack(id+".yaml", []byte(src))
		if err != nil {
			t.Fatal(err)
		}
		packs[id] = p
	}
	packs["broken"], _ = rules.ParsePack("packs/broken.yaml", []byte("version: 1\npack: [\n"))
	return packs
}

// shipped returns the classes, profiles and packs that the binary carries.
func shipped(t testing.TB) (*firmwareconfig.Library, map[string]*rules.Pack) {
	t.Helper()
	lib, err := firmwareconfig.Load(firmwareconfig.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	packs, err := rules.Shipped()
	if err != nil {
		t.Fatal(err)
	}
	return lib, packs
}
