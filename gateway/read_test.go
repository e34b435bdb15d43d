package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	firmwareconfig "linli/firmware-config"
	"linli/internal/simulate"
)

// toolSite is a site with one serial line of real profiles, served by the simulator: a transmitter and a relay module.
func toolSite(t *testing.T, listen string) (file string, community *simulate.Community) {
	t.Helper()
	pty, err := simulate.OpenPty()
	if err != nil {
		t.Fatal(err)
	}
	file = writeFile(t, "site.yaml", fmt.Sprintf(`version: 1
site: test
title: 测试
zones: [{id: lobby, kind: building}]
buses:
  - id: rs485_1
    modbus_rtu: {device: %s, baud: 9600, format: 8N1}
    timeout: 200ms
    units:
      - {id: th1, address: 3, profile: xy_md02}
      - {id: io1, address: 4, profile: waveshare_relay_8ch}
      - {id: th2, address: 7, profile: xy_md02}
devices:
  - {id: air_1, zone: lobby, unit: th1}
  - {id: air_2, zone: lobby, unit: th2}
  - {id: siren_1, class: siren, zone: lobby, points: {on: io1.relay1}}
console: {listen: %q}
`, pty.Path, listen))
	p, err := loadPlan(file)
	if err != nil {
		t.Fatal(err)
	}
	community = simulate.New(p.site.Inventory)
	var there []firmwareconfig.Unit
	for _, u := range p.site.Buses[0].Units {
		if u.ID != "th2" { // It is dead.
			there = append(there, u)
		}
	}
	community.AddBus("rs485_1", there)
	if err := community.Set("air_1", "temperature_c", 24.5); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- community.ServeRTU(ctx, "rs485_1", pty) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the simulated line: %v", err)
		}
	})
	return file, community
}

func TestReadPointsAlone(t *testing.T) {
	file, _ := toolSite(t, "127.0.0.1:1")
	code, stdout, stderr := linli(t, "read", "-c", file, "air_1.temperature_c", "air_1.humidity_pct", "siren_1.on")
	if code != exitGood || stderr != "" {
		t.Errorf("exit code %d, %s", code, stderr)
	}
	for _, want := range []string{"air_1.temperature_c  24.5 °C  good", "th1.temperature: input 1", "00F5", "siren_1.on           false"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in\n%s", want, stdout)
		}
	}
	code, stdout, _ = linli(t, "read", "-c", file, "air_1.temperature_c", "air_2.temperature_c", "--json")
	var entries []struct {
		Point, Quality, Raw, Unit string
		Value                     any
	}
	if err := json.Unmarshal([]byte(stdout), &entries); err != nil || code != exitNo || len(entries) != 2 ||
		entries[0].Value != 24.5 || entries[0].Raw != "00F5" || entries[0].Unit != "°C" || entries[1].Value != nil || entries[1].Quality == "good" {
		t.Errorf("--json with a dead unit: exit code %d, %v\n%s", code, err, stdout)
	}
	for name, says := range map[string]string{"air_9.x": `no device "air_9"`, "air_1.nothing": "it has temperature_c", "air_1": "DEVICE.POINT"} {
		if code, _, stderr := linli(t, "read", "-c", file, name); code == exitGood || !strings.Contains(stderr, says) {
			t.Errorf("%s: exit code %d, %s", name, code, stderr)
		}
	}
}

func TestReadRawAlone(t *testing.T) {
	file, community := toolSite(t, "127.0.0.1:1")
	_ = community
	p, err := loadPlan(file)
	if err != nil {
		t.Fatal(err)
	}
	device := p.site.Buses[0].Device
	code, stdout, stderr := linli(t, "read", device, "--unit", "3", "input", "1", "2")
	if code != exitGood {
		t.Fatalf("exit code %d, %s", code, stderr)
	}
	for _, want := range []string{"unit 3, input 1-2", "request:  03 04 00 01 00 02 21 E9\nresponse: 03 04 04 00 F5 00 00 C8 76\n", "1        00F5  245  245", "PAIR", "16056320"} { // 245 << 16
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in\n%s", want, stdout)
		}
	}
	code, stdout, _ = linli(t, "read", device, "--unit", "3", "input", "1", "2", "--json")
	var raw struct{ Request, Response string }
	if err := json.Unmarshal([]byte(stdout), &raw); err != nil || code != exitGood || raw.Request != "03 04 00 01 00 02 21 E9" || raw.Response != "03 04 04 00 F5 00 00 C8 76" {
		t.Errorf("--json: exit code %d, %v\n%s", code, err, stdout)
	}
	code, stdout, _ = linli(t, "read", "-c", file, "air_1.temperature_c")
	if code != exitGood || !strings.HasSuffix(stdout, "request:  03 04 00 01 00 01 61 E8\nresponse: 03 04 02 00 F5 00 B7\n") {
		t.Errorf("frames of a point: exit code %d\n%s", code, stdout)
	}
	code, stdout, _ = linli(t, "read", "-c", file, "--unit", "3", "--table", "input", "--address", "0x1", "--type", "s16", "--scale", "0.1")
	if code != exitGood || !strings.Contains(stdout, "24.5") {
		t.Errorf("with a type: exit code %d\n%s", code, stdout)
	}
	code, _, stderr = linli(t, "read", device, "--unit", "3", "input", "0x4000")
	if code != exitNo || !strings.Contains(stderr, "exception 2, it has no such register") {
		t.Errorf("a register that is not there: exit code %d, %s", code, stderr)
	}
	code, _, stderr = linli(t, "read", device, "--unit", "9", "input", "1", "--timeout", "50ms")
	if code != exitNo || !strings.Contains(stderr, "no answer") {
		t.Errorf("a unit that is not there: exit code %d, %s", code, stderr)
	}
}

// TestReadWatch reads again and again until it is interrupted.
func TestReadWatch(t *testing.T) {
	file, community := toolSite(t, "127.0.0.1:1")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, errs lockedBuffer
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"read", "-c", file, "air_1.temperature_c", "--watch", "200ms"}, &out, &errs)
	}()
	waitFor(t, 10*time.Second, "the first value", func() bool { return strings.Contains(out.String(), "24.5") })
	if err := community.Set("air_1", "temperature_c", 31); err != nil {
		t.Fatal(err)
	}
	waitFor(t, 10*time.Second, "the new value", func() bool { return strings.Contains(out.String(), "31 °C") })
	cancel()
	if c := <-code; c != exitGood {
		t.Errorf("exit code %d after Ctrl-C, %s", c, errs.String())
	}
}

func TestReadUsage(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"nothing":   {[]string{"read"}, "say where"},
		"no unit":   {[]string{"read", "/dev/x", "input", "1"}, "--unit"},
		"table":     {[]string{"read", "/dev/x", "--unit", "1", "registers", "1"}, "coil, discrete, holding or input"},
		"address":   {[]string{"read", "/dev/x", "--unit", "1", "input", "70000"}, "0 to 65535"},
		"count":     {[]string{"read", "/dev/x", "--unit", "1", "input", "1", "126"}, "1 to 125"},
		"type":      {[]string{"read", "/dev/x", "--unit", "1", "input", "1", "--type", "float"}, "f32"},
		"odd count": {[]string{"read", "/dev/x", "--unit", "1", "input", "1", "3", "--type", "f32"}, "multiple"},
		"timeout":   {[]string{"read", "/dev/x", "--unit", "1", "input", "1", "--timeout", "-1s"}, "from 1ms to 1m"},
		"long":      {[]string{"read", "/dev/x", "--unit", "1", "input", "1", "--timeout", "100h"}, "from 1ms to 1m"},
		"baud":      {[]string{"read", "/dev/x", "--unit", "1", "input", "1", "--baud", "0"}, "no usual rate"},
		"odd baud":  {[]string{"read", "/dev/x", "--unit", "1", "input", "1", "--baud", "9601"}, "no usual rate"},
		"format":    {[]string{"read", "/dev/x", "--unit", "1", "input", "1", "--format", "9N1"}, "8N1"},
		"scale":     {[]string{"read", "/dev/x", "--unit", "1", "input", "1", "--type", "u16", "--scale", "NaN"}, "are numbers"},
		"watch":     {[]string{"read", "/dev/x", "--unit", "1", "input", "1", "--watch", "-1s"}, "how often"},
		"no points": {[]string{"read", "-c", "x.yaml"}, "say which points"},
	} {
		t.Run(name, func(t *testing.T) {
			if code, _, stderr := linli(t, c.args...); code != exitUsage || !strings.Contains(stderr, c.says) {
				t.Errorf("exit code %d, want 2 and %q in\n%s", code, c.says, stderr)
			}
		})
	}
}

func TestValueTypes(t *testing.T) {
	words := []uint16{0xC1B2, 0x0000} // -22.25 as f32
	for _, c := range []struct {
		as    valueType
		words []uint16
		want  float64
	}{
		{valueType{"f32", false, 1, 0}, words, -22.25},
		{valueType{"f32", true, 1, 0}, []uint16{0x0000, 0xC1B2}, -22.25},
		{valueType{"s32", false, 1, 0}, []uint16{0xFFFF, 0xFFFE}, -2},
		{valueType{"u32", true, 1, 0}, []uint16{1, 2}, 2<<16 | 1},
		{valueType{"s16", false, 0.1, 5}, []uint16{0xFFF6}, 4},
		{valueType{"s64", false, 1, 0}, []uint16{0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF}, -1},
		{valueType{"f64", false, 1, 0}, []uint16{0x3FF8, 0, 0, 0}, 1.5},
	} {
		if got := c.as.value(c.words); c.as.registers() != len(c.words) || got != c.want {
			t.Errorf("%+v of %04X: %v (%d registers), want %v", c.as, c.words, got, c.as.registers(), c.want)
		}
	}
}

// TestReadThroughTheGateway: points are decoded by their profile from what the gateway was asked for.
func TestReadThroughTheGateway(t *testing.T) {
	g := newFakeGateway(t, "test.gw1")
	g.ask = func(unit int, pdu string) (string, string) {
		switch {
		case unit == 3 && pdu == "0400010001":
			return "040200fa", ""
		case unit == 3 && pdu == "0400010002":
			return "040400fa01f4", ""
		}
		return "", "no answer"
	}
	file := reachSite(t, "/dev/ttyNowhere", g.Listener.Addr().String())
	code, stdout, stderr := linli(t, "read", "-c", file, "air_1.temperature_c")
	if code != exitGood || !strings.Contains(stdout, "25 °C") {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
	for _, call := range g.asked() {
		if !strings.Contains(call, `"share":0.2`) {
			t.Errorf("polling is disturbed: %s", call)
		}
	}
}
