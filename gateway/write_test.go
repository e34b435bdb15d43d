package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestWritePointAlone(t *testing.T) {
	file, community := toolSite(t, "127.0.0.1:1")
	code, stdout, stderr := linli(t, "write", "-c", file, "siren_1.on", "on")
	if code != exitGood || !strings.Contains(stdout, "siren_1.on: done; reads back true") {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
	if words, err := community.Raw("siren_1", "on"); err != nil || words[0] != 1 {
		t.Errorf("the relay is %v, %v", words, err)
	}
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"siren_1.on", "loud"}, exitUsage, "on or off"},
		{[]string{"air_1.temperature_c", "5"}, exitNo, "no output"},
		{[]string{"siren_1.on"}, exitUsage, "siren_1.on true"},
	} {
		if code, _, stderr := linli(t, append([]string{"write", "-c", file}, c.args...)...); code != c.code || !strings.Contains(stderr, c.says) {
			t.Errorf("%v: exit code %d, %s", c.args, code, stderr)
		}
	}
}

// TestWritePointThroughTheGateway: each outcome of the gateway's orders, with its exit code.
func TestWritePointThroughTheGateway(t *testing.T) {
	for outcome, c := range map[string]struct {
		answer string
		code   int
		says   string
	}{
		"done":      {`{"outcome": "done", "value": true}`, exitGood, "done; reads back true"},
		"unchanged": {`{"outcome": "unchanged", "value": true}`, exitGood, "had that value already"},
		"not taken": {`{"outcome": "not_taken", "value": false}`, exitNo, "not taken: it was accepted; reads back false"},
		"unknown":   {`{"outcome": "unknown", "value": null, "error": {"code": "outcome_unknown", "message": {"en": "No answer came."}}}`, exitNo, "nobody knows"},
		"refused":   {`{"outcome": "refused", "value": null, "error": {"code": "too_soon", "message": {"en": "Too often."}}}`, exitNo, "refused (Too often.)"},
	} {
		t.Run(outcome, func(t *testing.T) {
			var body bytes.Buffer
			mux := http.NewServeMux()
			mux.HandleFunc("GET /api/v1/site", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`{"node": "test.gw1"}`)) })
			mux.HandleFunc("POST /api/v1/points/siren_1/on/write", func(w http.ResponseWriter, r *http.Request) {
				body.ReadFrom(r.Body)
				w.Write([]byte(c.answer))
			})
			s := httptest.NewServer(mux)
			defer s.Close()
			file, _ := toolSite(t, s.Listener.Addr().String())
			code, stdout, stderr := linli(t, "write", "-c", file, "siren_1.on", "true", "--by", "li", "--note", "test")
			if code != c.code || !strings.Contains(stdout, c.says) {
				t.Errorf("exit code %d, want %d and %q in\n%s%s", code, c.code, c.says, stdout, stderr)
			}
			if got := body.String(); got != `{"value":true,"by":"li","note":"test"}` {
				t.Errorf("the gateway was sent %s", got)
			}
		})
	}
}

func TestWriteRawAlone(t *testing.T) {
	file, community := toolSite(t, "127.0.0.1:1")
	p, err := loadPlan(file)
	if err != nil {
		t.Fatal(err)
	}
	device := p.site.Buses[0].Device
	if code, _, stderr := linli(t, "write", device, "--unit", "4", "coil", "0", "on"); code != exitUsage || !strings.Contains(stderr, "add --yes") || !strings.Contains(stderr, "coil 0 is 0. Write 1?") {
		t.Errorf("nobody to ask: exit code %d, %s", code, stderr)
	}
	if words, _ := community.Raw("siren_1", "on"); words[0] != 0 {
		t.Error("it was written without being asked about")
	}
	code, stdout, stderr := linli(t, "write", device, "--unit", "4", "coil", "0", "on", "--yes")
	if code != exitGood || !strings.Contains(stdout, "unit 4 coil 0: done; reads back 1") {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
	code, stdout, stderr = linli(t, "write", device, "--unit", "4", "coil", "0", "off", "on", "--yes", "--json")
	if code != exitGood || !strings.Contains(stdout, `"outcome":"done","value":"0 1"`) {
		t.Errorf("two coils: exit code %d\n%s%s", code, stdout, stderr)
	}
	code, stdout, _ = linli(t, "write", device, "--unit", "4", "holding", "0x7000", "5", "--yes")
	if code != exitNo || !strings.Contains(stdout, "refused (the unit refuses: exception 2") {
		t.Errorf("a register that is not there: exit code %d\n%s", code, stdout)
	}
	code, stdout, _ = linli(t, "write", device, "--unit", "9", "coil", "0", "on", "--yes", "--timeout", "50ms")
	if code != exitNo || !strings.Contains(stdout, "unknown: nobody knows") {
		t.Errorf("a unit that is not there: exit code %d\n%s", code, stdout)
	}
}

// TestWriteRawThroughTheGateway: a raw write is declared as one, with a name, and what is not taken over is said.
func TestWriteRawThroughTheGateway(t *testing.T) {
	g := newFakeGateway(t, "test.gw1")
	g.ask = func(_ int, pdu string) (string, string) {
		switch pdu {
		case "0301030001":
			return "03020007", "" // before and after
		case "0601030005":
			return "0601030005", ""
		}
		return "", "no answer"
	}
	file := reachSite(t, "/dev/ttyNowhere", g.Listener.Addr().String())
	code, stdout, stderr := linli(t, "write", "-c", file, "--unit", "3", "--table", "holding", "--address", "0x0103", "5", "--yes", "--by", "li")
	if code != exitNo || !strings.Contains(stdout, "not taken: it was accepted; reads back 7") {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
	if calls := g.asked(); len(calls) != 3 || !strings.Contains(calls[1], `"pdu":"0601030005"`) || !strings.Contains(calls[1], `"by":"li","write":true`) {
		t.Errorf("asked %q", calls)
	}
}

func TestWriteUsage(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"nothing":        {[]string{"write"}, "say where"},
		"input":          {[]string{"write", "/dev/x", "--unit", "1", "input", "1", "5"}, "cannot be written"},
		"no value":       {[]string{"write", "/dev/x", "--unit", "1", "holding", "1"}, "say what to write"},
		"value":          {[]string{"write", "/dev/x", "--unit", "1", "holding", "1", "70000"}, "-32768 to 65535"},
		"coil":           {[]string{"write", "/dev/x", "--unit", "1", "coil", "1", "5"}, "on or off"},
		"function":       {[]string{"write", "/dev/x", "--unit", "1", "holding", "1", "5", "--function", "5"}, "function 6 or 16"},
		"two by one":     {[]string{"write", "/dev/x", "--unit", "1", "holding", "1", "5", "6", "--function", "6"}, "writes one value"},
		"beyond the end": {[]string{"write", "/dev/x", "--unit", "1", "holding", "65535", "5", "6"}, "65535"},
	} {
		t.Run(name, func(t *testing.T) {
			if code, _, stderr := linli(t, c.args...); code != exitUsage || !strings.Contains(stderr, c.says) {
				t.Errorf("exit code %d, want 2 and %q in\n%s", code, c.says, stderr)
			}
		})
	}
}
