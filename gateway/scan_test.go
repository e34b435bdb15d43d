package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"linli/drivers/modbus/scan"
	firmwareconfig "linli/firmware-config"
	"linli/internal/simulate"
)

// wiredLine serves a badly wired line on a pty until the test ends.
func wiredLine(t *testing.T, w *simulate.Wiring) (device string) {
	t.Helper()
	pty, err := simulate.OpenPty()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Serve(ctx, pty) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the simulated line: %v", err)
		}
	})
	return pty.Path
}

// scanProfiles is a directory with one profile that has a signature.
func scanProfiles(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "profiles"), 0o750); err != nil {
		t.Fatal(err)
	}
	profile := `version: 1
profile: scan_test_th
vendor: Acme
model: TH-9
title: {zh: 温湿度, en: Temperature and humidity}
status: confirmed
sources: [this test]
line: {baud: 9600, format: 8N1}
channels:
  - {name: temperature, table: input, address: 1, type: s16, scale: 0.1, unit: °C, title: {zh: 温度, en: Temperature}}
  - {name: humidity, table: input, address: 2, type: u16, scale: 0.1, unit: "%RH", title: {zh: 湿度, en: Humidity}}
signature:
  - {table: holding, address: 0x0101, equals: address}
  - {table: holding, address: 0x0777, equals: 0x7788}
device:
  class: temp_humidity
  points: {temperature_c: temperature, humidity_pct: humidity}
`
	if err := os.WriteFile(filepath.Join(dir, "profiles", "scan_test_th.yaml"), []byte(profile), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func thUnit(address int, line firmwareconfig.Line) simulate.WiredUnit {
	return simulate.WiredUnit{Address: address, Line: line, Delay: 5 * time.Millisecond, Registers: map[firmwareconfig.Table]map[int]uint16{
		firmwareconfig.InputRegister:   {1: 245, 2: 600},
		firmwareconfig.HoldingRegister: {0x0101: uint16(address), 0x0777: 0x7788},
	}}
}

// TestScanCommand: the table, the JSON and the site-file fragment of one line with a unit at another parity.
func TestScanCommand(t *testing.T) {
	n81, e81 := firmwareconfig.Line{Baud: 9600, Format: "8N1"}, firmwareconfig.Line{Baud: 9600, Format: "8E1"}
	device := wiredLine(t, &simulate.Wiring{Units: []simulate.WiredUnit{thUnit(2, n81), thUnit(3, n81), thUnit(4, e81)}})
	dir := scanProfiles(t)
	args := []string{"scan", device, "--units", "1-4", "--baud", "9600", "--format", "8N1,8E1", "--timeout", "60ms", "--dir", dir}

	code, stdout, stderr := linli(t, args...)
	if code != exitNo || stderr != "" { // One is at another parity: not all is well.
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	for _, want := range []string{"Plan: units 1-4 at 9600 8N1, 9600 8E1: 8 requests", "scan_test_th (Acme TH-9)", "another parity", "3 addresses found", "1 problem"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("the table does not say %q", want)
		}
	}

	code, asJSON, _ := linli(t, append(args, "--json")...)
	var result struct {
		Complete bool
		Units    []struct {
			Address    int
			Format     string
			Sure       string
			Candidates []struct{ Profile string }
		}
		Faults []struct{ Kind string }
	}
	if err := json.Unmarshal([]byte(asJSON), &result); err != nil || code != exitNo || !result.Complete || len(result.Units) != 3 ||
		result.Units[2].Format != "8E1" || result.Units[0].Candidates[0].Profile != "scan_test_th" || result.Units[0].Sure != "likely" ||
		len(result.Faults) != 1 || result.Faults[0].Kind != "other_setting" {
		t.Errorf("--json: exit code %d, %v\n%s", code, err, asJSON)
	}

	_, fragment, _ := linli(t, append(args, "--yaml")...)
	// Completed as the installer does: a head, a zone, and the devices that the fragment suggests.
	whole := "version: 1\nsite: test\ntitle: 测试\nzones: [{id: ZONE, kind: building}]\n" + fragment
	whole = strings.ReplaceAll(whole, "# devices:", "devices:")
	whole = strings.ReplaceAll(whole, "#   - {id: temp", "  - {id: temp")
	whole = strings.ReplaceAll(whole, "ZONE", "lobby")
	file := filepath.Join(dir, "site.yaml")
	if err := os.WriteFile(file, []byte(whole), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr = linli(t, "check", "-c", file)
	if code != exitGood || !strings.Contains(stdout, "2 units") {
		t.Errorf("check of the fragment: exit code %d\n%s%s\n%s", code, stdout, stderr, whole)
	}
	if !strings.Contains(fragment, "# - {id: unit_4, address: 4, profile: scan_test_th}  # answers at 9600 8E1: set it to 9600 8N1 first") {
		t.Errorf("the unit at another parity is not a comment:\n%s", fragment)
	}
}

// TestScanIsInterruptedCleanly: Ctrl-C prints what was found so far.
func TestScanIsInterruptedCleanly(t *testing.T) {
	device := wiredLine(t, &simulate.Wiring{Units: []simulate.WiredUnit{thUnit(1, firmwareconfig.Line{Baud: 9600, Format: "8N1"})}})
	ctx, cancel := context.WithCancel(t.Context())
	var out, errs lockedBuffer
	code := make(chan int, 1)
	go func() { code <- run(ctx, []string{"scan", device, "--full", "--progress"}, &out, &errs) }()
	waitFor(t, 20*time.Second, "the first unit", func() bool { return strings.Contains(errs.String(), "1 found") })
	cancel()
	select {
	case c := <-code:
		if c != exitNo || !strings.Contains(errs.String(), "Interrupted") || !strings.Contains(out.String(), "1 address found") {
			t.Errorf("exit code %d\n%s\n%s", c, out.String(), errs.String())
		}
	case <-time.After(5 * time.Second):
		t.Fatal("still scanning 5 s after the interruption")
	}
	if !strings.Contains(out.String(), "Plan: units 1-247 at") {
		t.Errorf("no plan with its estimate:\n%s", out.String())
	}
}

// TestScanThroughTheGateway: on a bus that is polled only its own setting is asked, at a fifth of the line's time; other
// settings need a suspension, which ends with the scan.
func TestScanThroughTheGateway(t *testing.T) {
	g := newFakeGateway(t, "test.gw1")
	g.ask = func(unit int, pdu string) (string, string) {
		if unit != 3 {
			return "", "no answer"
		}
		fc := "0123456789abcdef"[8+int(pdu[0]-'0')]
		return string(fc) + pdu[1:2] + "02", "" // exception 2
	}
	file := reachSite(t, "/dev/ttyNowhere", g.Listener.Addr().String())
	code, stdout, stderr := linli(t, "scan", "-c", file, "--units", "2-4")
	if code != exitNo || !strings.Contains(stdout, "th1 of the site file") || !strings.Contains(stdout, "refuses every register") {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
	for _, call := range g.asked() {
		if strings.Contains(call, "suspend") || strings.Contains(call, "/ask") && !strings.Contains(call, `"share":0.2`) {
			t.Errorf("a scan of a running bus: %s", call)
		}
	}
	if code, _, stderr := linli(t, "scan", "-c", file, "--baud", "4800"); code != exitUsage || !strings.Contains(stderr, "--suspend") {
		t.Errorf("other settings without a suspension: exit code %d, %s", code, stderr)
	}
	linli(t, "scan", "-c", file, "--units", "2-4", "--baud", "9600", "--format", "8N1,8E1", "--suspend", "30s", "--by", "li")
	var suspensions []string
	for _, call := range g.asked() {
		if strings.Contains(call, "suspend") {
			suspensions = append(suspensions, call)
		}
	}
	if len(suspensions) < 3 || !strings.Contains(suspensions[0], `"for_s":20,"baud":9600,"format":"8N1","by":"li"`) || !strings.Contains(suspensions[len(suspensions)-1], `"for_s":0`) {
		t.Errorf("suspensions: %q", suspensions)
	}
}

// TestASuspensionThatIsTooShort: it is refused before anything is suspended.
func TestASuspensionThatIsTooShort(t *testing.T) {
	g := newFakeGateway(t, "test.gw1")
	file := reachSite(t, "/dev/ttyNowhere", g.Listener.Addr().String())
	if code, _, stderr := linli(t, "scan", "-c", file, "--suspend", "10s"); code != exitUsage || !strings.Contains(stderr, "10s is too short: asking 32 addresses at 8 settings takes up to 27 s") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
	if got := g.asked(); len(got) > 0 {
		t.Errorf("the gateway was asked %q", got)
	}
}

// TestWhatFitsSeveralIsLeftToPeople: where no profile fits better than the others, the site file gets none of them, and
// all are offered.
func TestWhatFitsSeveralIsLeftToPeople(t *testing.T) {
	several := []scan.Candidate{
		{Profile: "eastron_sdm630", Model: "Eastron SDM630", Sure: scan.Possible, Why: "its registers are there"},
		{Profile: "eastron_sdm120", Model: "Eastron SDM120", Sure: scan.Possible, Why: "its registers are there"},
	}
	n81 := firmwareconfig.Line{Baud: 9600, Format: "8N1"}
	r := &scan.Report{NotAsked: []int{9}, Units: []scan.Unit{
		{Address: 7, Line: n81, Sure: scan.Possible, Candidates: several}, {Address: 9, Line: n81, Sure: scan.Unknown},
	}}
	var b strings.Builder
	printScanYAML(&b, &scanTarget{kind: scan.Serial, library: &firmwareconfig.Library{}}, r)
	for _, want := range []string{
		"# - {id: unit_7, address: 7, profile: eastron_sdm630}  # Eastron SDM630: its registers are there\n",
		"# - {id: unit_7, address: 7, profile: eastron_sdm120}  # Eastron SDM120: its registers are there\n",
		"# Unit 7 is one of these 2; its label says which.\n", "time was up: 9. Go on with --who", "# not asked who it is\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the fragment lacks %q:\n%s", want, b.String())
		}
	}
	for line := range strings.Lines(b.String()) {
		if strings.Contains(line, "profile:") && !strings.HasPrefix(strings.TrimSpace(line), "#") {
			t.Errorf("a unit that is not sure: %s", line)
		}
	}
	b.Reset()
	printScan(&b, &scan.Report{NotAsked: []int{3, 4, 5, 9}, Units: r.Units})
	if !strings.Contains(b.String(), "--who 3-5,9 ") {
		t.Errorf("the table does not say how to go on:\n%s", b.String())
	}
}

func TestScanUsage(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"nothing":        {[]string{"scan"}, exitUsage, "say what to scan"},
		"no device":      {[]string{"scan", "ttyUSB0"}, exitUsage, "neither a device"},
		"scheme":         {[]string{"scan", "udp://h:1"}, exitUsage, "rtu+tcp://"},
		"no port":        {[]string{"scan", "rtu+tcp://h"}, exitUsage, "no HOST:PORT"},
		"not there":      {[]string{"scan", "/dev/ttyNowhere"}, exitNo, "is the adapter plugged in"},
		"refused":        {[]string{"scan", "tcp://127.0.0.1:1"}, exitNo, "nobody listens"},
		"bus alone":      {[]string{"scan", "--bus", "rs485_1", "/dev/x"}, exitUsage, "-c FILE"},
		"two outputs":    {[]string{"scan", "/dev/x", "--json", "--yaml"}, exitUsage, "either"},
		"file not there": {[]string{"scan", "-c", "/no/such/site.yaml"}, exitNo, "/no/such/site.yaml"},
		"both":           {[]string{"scan", "-c", "x", "/dev/x"}, exitUsage, "either a site file"},
		"numbers":        {[]string{"scan", "tcp://127.0.0.1:1", "--units", "x"}, exitNo, ""},
		"no suspension":  {[]string{"scan", "-c", "x", "--suspend", "0s"}, exitUsage, "--suspend 0s"},
		"suspended ever": {[]string{"scan", "-c", "x", "--suspend", "11m"}, exitUsage, "10m0s at most"},
		"back in time":   {[]string{"scan", "/dev/x", "--timeout", "-5s"}, exitUsage, "--timeout -5s"},
		"twice the time": {[]string{"scan", "-c", "x", "--share", "2"}, exitUsage, "--share 2"},
		"none of it":     {[]string{"scan", "-c", "x", "--share", "0"}, exitUsage, "--share 0"},
		"who and which":  {[]string{"scan", "/dev/x", "--who", "3", "--units", "3"}, exitUsage, "leave out --units"},
		"a file":         {[]string{"scan", "/etc/passwd"}, exitNo, "/etc/passwd is no serial port"},
		"a device":       {[]string{"scan", "/dev/null"}, exitNo, "/dev/null is no serial port"},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errs bytes.Buffer
			code := run(t.Context(), c.args, &out, &errs)
			if code != c.code || !strings.Contains(errs.String(), c.says) || out.Len() > 0 {
				t.Errorf("exit code %d, want %d, %q in\n%s", code, c.code, c.says, errs.String())
			}
		})
	}
	if got, err := parseNumbers("1-3, 9"); err != nil || len(got) != 4 || got[3] != 9 {
		t.Errorf("parseNumbers: %v, %v", got, err)
	}
	for _, bad := range []string{"3-1", "x", "-1", "1-99999"} {
		if _, err := parseNumbers(bad); err == nil {
			t.Errorf("parseNumbers takes %q", bad)
		}
	}
}
