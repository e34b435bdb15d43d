package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/site"
)

// fakeGateway is the API of a running gateway as tools see it. Answers to asks come from ask.
type fakeGateway struct {
	*httptest.Server
	node        string
	heard, hear string // hex: what is heard beside an answer, and what a Hear hears
	ask         func(unit int, pdu string) (answer, problem string)

	mu    sync.Mutex
	calls []string // path and body of each request that changes or asks something, in order
	// suspend answers a request to suspend or resume; nil is a gateway that knows no leases.
	suspend http.HandlerFunc
}

func newFakeGateway(t *testing.T, node string) *fakeGateway {
	t.Helper()
	g := &fakeGateway{node: node, ask: func(int, string) (string, string) { return "", "no answer" }}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/site", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"node": %q}`, g.node)
	})
	mux.HandleFunc("GET /api/v1/buses", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"buses": []}`)
	})
	mux.HandleFunc("POST /api/v1/", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		g.mu.Lock()
		g.calls = append(g.calls, strings.TrimPrefix(r.URL.Path, "/api/v1/")+" "+string(body))
		g.mu.Unlock()
		switch {
		case strings.HasSuffix(r.URL.Path, "/ask"):
			var in struct {
				Unit int
				PDU  string
			}
			if err := json.Unmarshal(body, &in); err != nil {
				t.Errorf("ask: %v in %s", err, body)
			}
			answer, problem := g.ask(in.Unit, in.PDU)
			json.NewEncoder(w).Encode(map[string]any{"pdu": answer, "heard": g.heard, "took_ms": 12.5, "error": problem})
		case strings.HasSuffix(r.URL.Path, "/hear"):
			fmt.Fprintf(w, `{"heard": %q}`, g.hear)
		case strings.HasSuffix(r.URL.Path, "/suspend"):
			if g.suspend != nil {
				g.suspend(w, r)
				return
			}
			w.WriteHeader(http.StatusNoContent)
		default:
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"error": {"code": "refused", "message": {"zh": "不行", "en": "That is not allowed."}, "detail": "function 8"}}`)
		}
	})
	g.Server = httptest.NewServer(mux)
	t.Cleanup(g.Close)
	return g
}

func (g *fakeGateway) asked() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]string(nil), g.calls...)
}

// reachSite is a site file with one serial bus whose console is at listen.
func reachSite(t *testing.T, device, listen string) string {
	t.Helper()
	return writeFile(t, "site.yaml", fmt.Sprintf(`version: 1
site: test
title: 测试
zones: [{id: lobby, kind: building}]
buses:
  - id: rs485_1
    modbus_rtu: {device: %s, baud: 9600, format: 8N1}
    units: [{id: th1, address: 3, profile: xy_md02}]
devices: [{id: air_1, zone: lobby, unit: th1}]
console: {listen: %q}
`, device, listen))
}

func TestConnectBusGoesThroughTheRunningGateway(t *testing.T) {
	g := newFakeGateway(t, "test.gw1")
	g.heard, g.hear = "0102", "4142"
	g.ask = func(unit int, pdu string) (string, string) {
		if unit == 3 && pdu == "0400010002" {
			return "040400fa01f4", ""
		}
		return "", "no answer"
	}
	file := reachSite(t, "/dev/ttyNowhere", g.Listener.Addr().String())
	conn, err := connectBus(t.Context(), file, "", reachOptions{by: "li", share: 0.2, suspend: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	r, err := conn.Ask(t.Context(), 3, []byte{4, 0, 1, 0, 2}, 100*time.Millisecond)
	if err != nil || string(r.PDU) != "\x04\x04\x00\xfa\x01\xf4" || string(r.Heard) != "\x01\x02" || r.Took != 12500*time.Microsecond {
		t.Errorf("ask: %x, heard %x, took %s, %v", r.PDU, r.Heard, r.Took, err)
	}
	var away *lostError
	if r, err := conn.Ask(t.Context(), 4, []byte{4, 0, 1, 0, 2}, 0); err == nil || errors.As(err, &away) || r.PDU != nil || len(r.Heard) != 2 {
		t.Errorf("a silent unit: %+v, %v; want an error that is not of the line, and what was heard", r, err)
	}
	if heard, err := conn.Hear(t.Context(), 300*time.Millisecond); err != nil || string(heard) != "AB" {
		t.Errorf("hear: %q, %v", heard, err)
	}
	if err := conn.Set(t.Context(), firmwareconfig.Line{Baud: 4800, Format: "8E1"}); err != nil {
		t.Error(err)
	}
	if _, err := conn.Ask(t.Context(), 3, []byte{6, 0, 1, 0, 2}, 0); err == nil {
		t.Error("the write was answered")
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	want := []string{
		`buses/rs485_1/ask {"unit":3,"pdu":"0400010002","timeout_ms":100,"share":0.2,"by":"li"}`,
		`buses/rs485_1/ask {"unit":4,"pdu":"0400010002","timeout_ms":0,"share":0.2,"by":"li"}`,
		`buses/rs485_1/hear {"ms":300}`,
		`buses/rs485_1/suspend {"for_s":20,"baud":4800,"format":"8E1","by":"li"}`,
		`buses/rs485_1/ask {"unit":3,"pdu":"0600010002","timeout_ms":0,"share":0.2,"by":"li","write":true}`,
		`buses/rs485_1/suspend {"for_s":0,"by":"li"}`, // Close gives the bus back.
	}
	if got := g.asked(); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("the gateway was asked\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestAGatewayThatStopsIsALostLine(t *testing.T) {
	g := newFakeGateway(t, "test.gw1")
	conn, err := connectBus(t.Context(), reachSite(t, "/dev/ttyNowhere", g.Listener.Addr().String()), "rs485_1", reachOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Set(t.Context(), firmwareconfig.Line{Baud: 4800, Format: "8E1"}); err == nil || !strings.Contains(err.Error(), "--suspend") {
		t.Errorf("other settings without a suspension: %v", err)
	}
	g.Server.Close()
	var away *lostError
	if _, err := conn.Ask(t.Context(), 3, []byte{4, 0, 1, 0, 2}, 0); !errors.As(err, &away) {
		t.Errorf("after the gateway has stopped: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := conn.Ask(ctx, 3, []byte{4, 0, 1, 0, 2}, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("after an interruption: %v", err)
	}
}

// TestAForeignConsoleIsNotOurs: what answers at the console's address counts only if it says our node.
func TestAForeignConsoleIsNotOurs(t *testing.T) {
	dir := t.TempDir()
	device := filepath.Join(dir, "no-tty")
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		says    string // in the error
	}{
		"another gateway":   {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"node": "other.gw1"}`) }, device},
		"no gateway at all": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `hello`) }, device},
		"a closed door":     {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }, "access token"},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(c.handler)
			defer s.Close()
			_, err := connectBus(t.Context(), reachSite(t, device, s.Listener.Addr().String()), "", reachOptions{})
			if err == nil || !strings.Contains(err.Error(), c.says) && !strings.Contains(err.Error(), "not built yet") {
				t.Errorf("%v, want an error about %s", err, c.says)
			}
		})
	}
}

func TestConnectBusNamesTheBuses(t *testing.T) {
	file := writeFile(t, "site.yaml", `version: 1
site: test
title: 测试
buses:
  - {id: tcp_1, modbus_tcp: {address: "10.0.0.2:502"}}
  - {id: tcp_2, modbus_tcp: {address: "10.0.0.3:502"}}
console: {listen: "127.0.0.1:1"}
`)
	for bus, says := range map[string]string{"": "--bus tcp_1 or --bus tcp_2", "tcp_9": `no bus "tcp_9"; it has tcp_1, tcp_2`} {
		if _, err := connectBus(t.Context(), file, bus, reachOptions{}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("bus %q: %v, want %q", bus, err, says)
		}
	}
}

func TestExplainOpenSaysWhatToDo(t *testing.T) {
	c := modbus.Config{Device: "/dev/ttyUSB0", Address: "10.0.0.2:502"}
	for says, err := range map[string]error{
		"dialout":           &fs.PathError{Op: "open", Path: c.Device, Err: syscall.EACCES},
		"-c SITE-FILE":      fmt.Errorf("open: %w", modbus.ErrInUse),
		"/dev/serial/by-id": &fs.PathError{Op: "open", Path: c.Device, Err: syscall.ENOENT},
		"is no serial port": fmt.Errorf("/dev/ttyUSB0: %w", syscall.ENOTTY),
		"server mode":       &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED},
	} {
		if got := explainOpen(c, err); !strings.Contains(got.Error(), says) || !errors.Is(got, err) {
			t.Errorf("%v: %q does not say %q", err, got, says)
		}
	}
}

func TestLocalAddress(t *testing.T) {
	for in, want := range map[string]string{
		"0.0.0.0:8080": "127.0.0.1:8080", "[::]:9000": "127.0.0.1:9000", ":8080": "127.0.0.1:8080",
		"192.168.1.2:80": "192.168.1.2:80", "": defaultConsole, "localhost:8081": "localhost:8081",
	} {
		if got := localAddress(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

// TestAMissingTokenIsSaidToBeMissing: not that the gateway does not take what is in it.
func TestAMissingTokenIsSaidToBeMissing(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }))
	defer s.Close()
	missing := filepath.Join(t.TempDir(), "tok")
	_, err := findGateway(t.Context(), &site.Site{Console: site.Console{Listen: s.Listener.Addr().String(), TokenFile: missing}})
	if err == nil || !strings.Contains(err.Error(), "there is no "+missing) {
		t.Errorf("%v", err)
	}
}

// TestTheReasonOfARawWriteIsRecorded: --note goes along with the write, and with nothing else.
func TestTheReasonOfARawWriteIsRecorded(t *testing.T) {
	g := newFakeGateway(t, "test.gw1")
	g.ask = func(_ int, pdu string) (string, string) {
		if pdu[:2] == "03" {
			return "03020005", ""
		}
		return pdu, ""
	}
	file := reachSite(t, "/dev/ttyNowhere", g.Listener.Addr().String())
	code, stdout, stderr := linli(t, "write", "-c", file, "--bus", "rs485_1", "--unit", "3", "holding", "9", "5", "--yes", "--by", "li", "--note", "calibration")
	if code != exitGood {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
	for _, call := range g.asked() {
		if strings.Contains(call, `"write":true,"note":"calibration"`) != strings.Contains(call, `"pdu":"06`) {
			t.Errorf("%s", call)
		}
	}
}
