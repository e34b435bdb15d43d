package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"linli/internal/alert"
)

const ordersSite = laneHead + `buses:
  - id: rs485_1
    modbus_rtu: {device: /dev/PTY, baud: 9600, format: 8N1}
    units:
      - {id: io1, address: 1, profile: waveshare_io_8ch}
      - {id: th1, address: 2, profile: xy_md02}
devices:
  - {id: lane_1, class: fire_lane_sensor, zone: lane_east, title: {zh: 地磁, en: Vehicle sensor}, points: {occupied: io1.di1}}
  - id: siren_1
    class: siren
    zone: lane_east
    title: {zh: 警笛, en: Siren}
    points: {on: {from: io1.do1, on_start: off, on_stop: off}}
  - {id: th_1, unit: th1, zone: lane_east, title: {zh: 温湿度, en: Temperature and humidity}}
rules:
  - {pack: gateway}
console: {listen: "127.0.0.1:%d"}
`

// busAnswer is what /api/v1/buses says, as far as the tests look.
type busAnswer struct {
	Buses []struct {
		ID        string `json:"id"`
		Subject   string `json:"subject"`
		Transport string `json:"transport"`
		Up        bool   `json:"up"`
		Suspended bool   `json:"suspended"`
		Units     []struct {
			ID      string `json:"id"`
			Profile string `json:"profile"`
			Online  bool   `json:"online"`
			Answers uint64 `json:"answers"`
		} `json:"units"`
	} `json:"buses"`
}

// qualityOf returns the quality of a device's point as the console shows it: "" good, "-" where there is no value at all.
func (a api) qualityOf(device, point string) string {
	var site struct {
		Classes []struct {
			ID     string `json:"id"`
			Points []struct {
				Name string `json:"name"`
			} `json:"points"`
		} `json:"classes"`
		Devices []struct {
			ID     string `json:"id"`
			Class  string `json:"class"`
			Points []*int `json:"points"`
		} `json:"devices"`
	}
	var state struct {
		Values []struct {
			ID      int    `json:"id"`
			Quality string `json:"quality"`
		} `json:"values"`
	}
	if !a.get("/api/v1/site", &site) || !a.get("/api/v1/state", &state) {
		return "-"
	}
	for _, d := range site.Devices {
		for _, c := range site.Classes {
			if d.ID != device || c.ID != d.Class {
				continue
			}
			for i, p := range c.Points {
				for _, v := range state.Values {
					if p.Name == point && d.Points[i] != nil && *d.Points[i] == v.ID {
						return v.Quality
					}
				}
			}
		}
	}
	return "-"
}

// postTo sends body and decodes a good answer into v; it fails the test at any other status.
func (a api) postTo(path string, body, v any) {
	a.t.Helper()
	status, answer := a.post(path, body)
	if status/100 != 2 {
		a.t.Fatalf("POST %s %v: %d %s", path, body, status, answer)
	}
	if v != nil {
		if err := json.Unmarshal([]byte(answer), v); err != nil {
			a.t.Fatalf("POST %s: %v in %s", path, err, answer)
		}
	}
}

// coil returns what the siren's relay is in the simulated unit.
func (c *town) coil(t *testing.T) bool {
	t.Helper()
	raw, err := c.Raw("siren_1", "on")
	if err != nil {
		t.Fatal(err)
	}
	return raw[0] != 0
}

// TestOrdersAndGuestsOfARunningGateway goes the whole way with the real binary on a pseudo-terminal: outputs at start,
// by a person and at stop, a tool's requests between the polling, a suspension, and the record of it all.
func TestOrdersAndGuestsOfARunningGateway(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	state := t.TempDir()
	c := newTown(t, fmt.Sprintf(ordersSite, port)+"state: "+state+"\n")
	c.set(t, "siren_1", "on", 1) // somebody left it sounding
	c.set(t, "th_1", "temperature_c", 21.5)
	a := api{t, fmt.Sprintf("http://127.0.0.1:%d", port)}
	gateway := start(t, "run", "-c", c.site)

	// At start: off, as the site file wants it.
	waitFor(t, 15*time.Second, "on_start of the siren", func() bool { return !c.coil(t) })
	waitFor(t, 15*time.Second, "good values", func() bool {
		return a.qualityOf("th_1", "temperature_c") == "" && a.qualityOf("lane_1", "occupied") == ""
	})

	// A person.
	type orderAnswer struct {
		Outcome string `json:"outcome"`
		Value   any    `json:"value"`
		Error   struct {
			Code string `json:"code"`
		} `json:"error"`
	}
	var done orderAnswer
	write := "/api/v1/points/siren_1/on/write"
	a.postTo(write, map[string]any{"value": true, "by": "李伟", "note": "试鸣"}, &done)
	if done.Outcome != "done" || done.Value != true || !c.coil(t) {
		t.Errorf("the order: %+v, the coil is %t", done, c.coil(t))
	}
	a.postTo(write, map[string]any{"value": true, "by": "李伟"}, &done)
	if done.Outcome != "unchanged" {
		t.Errorf("the same order again: %+v", done)
	}
	if status, answer := a.post(write, map[string]any{"value": true}); status != http.StatusBadRequest {
		t.Errorf("an order of nobody: %d %s", status, answer)
	}
	if status, answer := a.post(write, map[string]any{"value": true, "by": "Gateway", "note": "on_stop"}); status != http.StatusBadRequest {
		t.Errorf("an order in the gateway's name: %d %s", status, answer)
	}
	a.postTo("/api/v1/points/th_1/temperature_c/write", map[string]any{"value": 5, "by": "李伟"}, &done)
	if done.Outcome != "refused" || done.Error.Code != "not_writable" {
		t.Errorf("an order to a sensor: %+v", done)
	}

	// A tool, while the polling goes on.
	var before, after busAnswer
	a.get("/api/v1/buses", &before)
	if len(before.Buses) != 1 || before.Buses[0].Subject != "rs485_1" || !before.Buses[0].Up || len(before.Buses[0].Units) != 2 ||
		before.Buses[0].Units[1].Profile != "xy_md02" || !before.Buses[0].Units[0].Online {
		t.Errorf("buses: %+v", before)
	}
	var reply struct {
		PDU   string `json:"pdu"`
		Heard string `json:"heard"`
		Error string `json:"error"`
	}
	for range 5 {
		a.postTo("/api/v1/buses/rs485_1/ask", map[string]any{"unit": 2, "pdu": "0400010001", "share": 0.2, "by": "scan"}, &reply)
		if reply.PDU != "040200d7" || reply.Error != "" || !strings.Contains(reply.Heard, reply.PDU) {
			t.Errorf("asked for the temperature: %+v", reply)
		}
	}
	a.postTo("/api/v1/buses/rs485_1/ask", map[string]any{"unit": 9, "pdu": "0400010001"}, &reply)
	if reply.Error == "" {
		t.Errorf("asked a unit that is not there: %+v", reply)
	}
	if status, answer := a.post("/api/v1/buses/rs485_1/ask", map[string]any{"unit": 1, "pdu": "050001ff00"}); status != http.StatusForbidden {
		t.Errorf("a write that is not declared: %d %s", status, answer)
	}
	a.postTo("/api/v1/buses/rs485_1/ask", map[string]any{"unit": 1, "pdu": "0500000000", "by": "王工", "write": true}, &reply)
	if reply.PDU != "0500000000" || c.coil(t) {
		t.Errorf("a declared write: %+v, the coil is %t", reply, c.coil(t))
	}
	waitFor(t, 10*time.Second, "polling that goes on", func() bool {
		return a.get("/api/v1/buses", &after) && after.Buses[0].Units[0].Answers > before.Buses[0].Units[0].Answers
	})
	a.postTo(write, map[string]any{"value": true, "by": "李伟"}, &done)
	if done.Outcome != "done" || !c.coil(t) {
		t.Errorf("an order after a tool wrote past the point: %+v", done)
	}

	// A suspension shows everywhere, and ends.
	var lease struct {
		Lease string `json:"lease"`
	}
	a.postTo("/api/v1/buses/rs485_1/suspend", map[string]any{"for_s": 60, "by": "王工"}, &lease)
	if status, answer := a.post("/api/v1/buses/rs485_1/suspend", map[string]any{"for_s": 60, "by": "李伟"}); status != http.StatusConflict || !strings.Contains(answer, "王工") {
		t.Errorf("a second suspension: %d %s", status, answer)
	}
	a.alertOf("BusSuspended", "rs485_1", "raised", func(al alert.Alert) bool { return al.State.Active() })
	waitFor(t, 10*time.Second, "points out of service", func() bool {
		return a.qualityOf("th_1", "temperature_c") == "bad_maintenance" && a.qualityOf("lane_1", "occupied") == "bad_maintenance"
	})
	a.postTo("/api/v1/buses/rs485_1/suspend", map[string]any{"for_s": 0, "by": "王工", "lease": lease.Lease}, nil)
	waitFor(t, 10*time.Second, "good values again", func() bool {
		return a.qualityOf("th_1", "temperature_c") == "" && a.qualityOf("lane_1", "occupied") == ""
	})
	waitFor(t, 10*time.Second, "the end of BusSuspended", func() bool {
		return !slices.ContainsFunc(a.openAlerts(), func(al alert.Alert) bool { return al.Alert == "BusSuspended" && al.State.Active() })
	})
	if q := a.qualityOf("rs485_1", "up"); q != "-" {
		t.Errorf("people's board has the bus itself as a device (%q)", q)
	}

	// At stop: off again, also while the line has other settings just now; and the record has it all.
	if !c.coil(t) {
		t.Error("the siren no longer sounds")
	}
	a.postTo("/api/v1/buses/rs485_1/suspend", map[string]any{"for_s": 60, "baud": 4800, "by": "王工"}, nil)
	a.postTo(write, map[string]any{"value": false, "by": "李伟"}, &done)
	if done.Outcome != "refused" || done.Error.Code != "bus_suspended" {
		t.Errorf("an order to a bus with other settings: %+v", done)
	}
	gateway.stop(10 * time.Second)
	if c.coil(t) {
		t.Error("the siren still sounds after the gateway has stopped")
	}

	// Tools that work alone while no gateway runs leave their lines in the same record.
	for _, args := range [][]string{
		{"write", "-c", c.site, "siren_1.on", "on", "--by", "王工", "--note", "试鸣"},
		{"write", "-c", c.site, "--bus", "rs485_1", "--unit", "1", "coil", "0", "off", "--yes", "--by", "王工", "--note", "关"},
		{"outputs", "safe", "-c", c.site},
	} {
		if out, err := exec.Command(binary(t), args...).CombinedOutput(); err != nil {
			t.Errorf("linli %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	data, err := os.ReadFile(filepath.Join(state, "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	begun := 0
	for line := range strings.Lines(string(data)) {
		var e struct{ What, By, Origin, Note, Device, Point, Bus, PDU, Outcome string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		if e.Outcome == orderBegun { // What became of it follows.
			begun++
			continue
		}
		switch {
		case e.Origin == "tool" && e.Note == "outputs safe":
			e.By = "tool" // whoever runs the tests
		case e.Origin == "tool":
			e.By += "*"
		case e.Origin != "api" && (e.Origin != "gateway" || e.By != "gateway"):
			t.Errorf("origin of %s", line)
		}
		got = append(got, strings.Join(strings.Fields(strings.Join([]string{e.What, e.By, e.Note, e.Device, e.Point, e.Bus, e.PDU, e.Outcome}, " ")), " "))
	}
	want := []string{
		"write gateway on_start siren_1 on done",
		"write 李伟 试鸣 siren_1 on done",
		"write 李伟 siren_1 on unchanged",
		"write 李伟 th_1 temperature_c refused",
		"raw 王工 rs485_1 0500000000 done",
		"write 李伟 siren_1 on done",
		"suspend 王工 rs485_1 done",
		"resume 王工 rs485_1 done",
		"suspend 王工 rs485_1 done",
		"write 李伟 siren_1 on refused",
		"write gateway on_stop siren_1 on done",
		"write 王工* 试鸣 siren_1 on done",
		"raw 王工* 关 rs485_1 0500000000 done",
		"write tool outputs safe siren_1 on done",
	}
	if !slices.Equal(got, want) || begun != 6 {
		t.Errorf("the record has %d begun, want 6, and\n%s\nwant\n%s", begun, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
