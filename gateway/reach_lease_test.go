package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	firmwareconfig "linli/firmware-config"
)

// leases is a gateway's side of the suspensions of one bus, behind any transport.
type leases struct {
	mu     sync.Mutex
	n      int
	held   string // the lease in force
	until  time.Time
	line   string
	before func() // called when a request to suspend has arrived, before it is answered
	log    []string
}

// last returns the last request.
func (l *leases) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.log[len(l.log)-1]
}

func (l *leases) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if r.Method == http.MethodGet {
		fmt.Fprint(w, `{"node": "test.gw1", "buses": [{"id": "rs485_1", "suspended": true}]}`)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var in struct {
		suspendRequest
		PDU string `json:"pdu"`
	}
	_ = json.Unmarshal(body, &in)
	verb := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	l.log = append(l.log, verb+" "+string(body))
	if l.held != "" && !time.Now().Before(l.until) {
		l.held = ""
	}
	if l.held != "" && in.Lease != l.held && !in.Force {
		w.WriteHeader(http.StatusConflict)
		fmt.Fprint(w, `{"error": {"code": "suspended_by", "message": {"en": "Somebody else works on this bus; wait, or end it with linli resume."}, "detail": "by wang until 10:00:20"}}`)
		return
	}
	switch {
	case verb == "ask":
		fmt.Fprint(w, `{"pdu": "04020001", "took_ms": 1}`)
	case verb == "hear":
		fmt.Fprint(w, `{}`)
	case in.For == 0:
		l.held, l.line = "", ""
		w.WriteHeader(http.StatusNoContent)
	default:
		if l.held == "" {
			l.n++
			l.held = fmt.Sprintf("lease-%d", l.n)
		}
		l.until, l.line = time.Now().Add(time.Duration(in.For)*time.Second), fmt.Sprintf("%d/%s", in.Baud, in.Format)
		if l.before != nil {
			l.before()
		}
		fmt.Fprintf(w, `{"lease": %q, "until": %q}`, l.held, l.until.Format(time.RFC3339))
	}
}

func (l *leases) suspended() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held != "" && time.Now().Before(l.until)
}

// RoundTrip carries requests to l without a network, so that a bubble's time passes.
func (l *leases) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	w := &recorded{header: http.Header{}, status: http.StatusOK}
	l.ServeHTTP(w, r)
	if err := r.Context().Err(); err != nil {
		return nil, err // It arrived; the answer is not waited for.
	}
	return &http.Response{StatusCode: w.status, Header: w.header, Body: io.NopCloser(strings.NewReader(w.body.String())), Request: r}, nil
}

type recorded struct {
	header http.Header
	status int
	body   strings.Builder
}

func (r *recorded) Header() http.Header         { return r.header }
func (r *recorded) WriteHeader(status int)      { r.status = status }
func (r *recorded) Write(b []byte) (int, error) { return r.body.Write(b) }

func (l *leases) conn(by string, suspend time.Duration) *gatewayConn {
	return &gatewayConn{api: &gatewayAPI{base: "http://gateway", client: &http.Client{Transport: l}}, bus: "rs485_1", opts: reachOptions{by: by, suspend: suspend}}
}

var slow = firmwareconfig.Line{Baud: 4800, Format: "8E1"}

// TestAnInterruptionGivesTheBusBack: Ctrl-C after the first write, and Ctrl-C while the suspension is being asked for.
func TestAnInterruptionGivesTheBusBack(t *testing.T) {
	for name, during := range map[string]bool{"after a write": false, "while it is suspended": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &leases{}
				conn := l.conn("li", time.Minute)
				ctx, cancel := context.WithCancel(t.Context())
				if during {
					l.before = cancel
				}
				if err := conn.Set(ctx, slow); during != (err != nil) {
					t.Errorf("set: %v", err)
				}
				if !during {
					if _, err := conn.Ask(ctx, 3, []byte{6, 0, 1, 0, 2}, 0); err != nil {
						t.Error(err)
					}
				}
				cancel()
				if err := conn.Set(ctx, firmwareconfig.Line{}); err != nil {
					t.Errorf("back to the bus's own settings: %v", err)
				}
				if err := conn.Close(); err != nil {
					t.Error(err)
				}
				if l.suspended() {
					t.Errorf("the bus is left suspended at %s:\n%s", l.line, strings.Join(l.log, "\n"))
				}
			})
		})
	}
}

// TestASuspensionIsALease: it is renewed while it is wanted, is over soon after a tool was killed, and never outlasts
// what was allowed.
func TestASuspensionIsALease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &leases{}
		conn := l.conn("li", time.Minute)
		if err := conn.Set(t.Context(), slow); err != nil {
			t.Fatal(err)
		}
		time.Sleep(45 * time.Second)
		if !l.suspended() {
			t.Error("the lease was not renewed")
		}
		if _, err := conn.Ask(t.Context(), 3, []byte{4, 0, 1, 0, 1}, 0); err != nil {
			t.Error(err)
		}
		if last := l.last(); !strings.Contains(last, `"lease":"lease-1"`) {
			t.Errorf("a request without its lease: %s", last)
		}
		time.Sleep(15 * time.Second)
		if l.suspended() {
			t.Error("suspended for longer than was allowed")
		}
		var away *lostError
		if _, err := conn.Ask(t.Context(), 3, []byte{4, 0, 1, 0, 1}, 0); !errors.As(err, &away) || !strings.Contains(err.Error(), "suspension of 1m0s is over") {
			t.Errorf("a request after the end: %v", err)
		}
		if err := conn.Set(t.Context(), slow); err == nil {
			t.Error("suspended once more after the end")
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		l := &leases{}
		conn := l.conn("li", 10*time.Minute)
		if err := conn.Set(t.Context(), slow); err != nil {
			t.Fatal(err)
		}
		conn.stop() // As kill -9 does: nothing is renewed, and nothing is given back.
		time.Sleep(leaseTime)
		if l.suspended() {
			t.Errorf("suspended %s after the tool was killed", leaseTime)
		}
	})
}

// TestTwoToolsAtOnce: the second is told who has the line, and leaves it alone.
func TestTwoToolsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &leases{}
		first, second := l.conn("wang", time.Minute), l.conn("li", time.Minute)
		if err := first.Set(t.Context(), slow); err != nil {
			t.Fatal(err)
		}
		for what, do := range map[string]func() error{
			"set":  func() error { return second.Set(t.Context(), firmwareconfig.Line{Baud: 9600, Format: "8N1"}) },
			"ask":  func() error { _, err := second.Ask(t.Context(), 3, []byte{4, 0, 1, 0, 1}, 0); return err },
			"hear": func() error { _, err := second.Hear(t.Context(), time.Second); return err },
		} {
			err := do()
			var away *lostError
			if !errors.As(err, &away) || !strings.Contains(err.Error(), "wang until 10:00:20") || !strings.Contains(err.Error(), "linli resume") {
				t.Errorf("%s: %v", what, err)
			}
		}
		if err := second.Close(); err != nil {
			t.Error(err)
		}
		if !l.suspended() || l.line != "4800/8E1" {
			t.Errorf("the first one's suspension: %v at %s", l.suspended(), l.line)
		}
		// Somebody ends it by force: the first one learns it, and does not go on at the polled bus's settings.
		force := &suspendRequest{By: "li", Force: true}
		if err := second.api.call(t.Context(), http.MethodPost, busPath("rs485_1", "suspend"), force, nil); err != nil {
			t.Error(err)
		}
		if err := second.Set(t.Context(), firmwareconfig.Line{Baud: 9600, Format: "8N1"}); err != nil {
			t.Error(err)
		}
		time.Sleep(leaseRenew + time.Second)
		if _, err := first.Ask(t.Context(), 3, []byte{4, 0, 1, 0, 1}, 0); err == nil || !strings.Contains(err.Error(), "no longer ours") {
			t.Errorf("the first one goes on: %v", err)
		}
		if err := first.Close(); err != nil {
			t.Error(err)
		}
		if err := second.Close(); err != nil || l.suspended() {
			t.Errorf("%v, suspended %v", err, l.suspended())
		}
	})
}

// TestAResumedBusStaysResumed: the tool whose suspension somebody ended does not take the bus again.
func TestAResumedBusStaysResumed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &leases{}
		tool, other := l.conn("wang", 10*time.Minute), l.conn("li", 0)
		if err := tool.Set(t.Context(), slow); err != nil {
			t.Fatal(err)
		}
		if err := other.api.call(t.Context(), http.MethodPost, busPath("rs485_1", "suspend"), suspendRequest{By: "li", Force: true}, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2*leaseRenew + time.Second)
		if l.suspended() {
			t.Error("suspended again")
		}
		if _, err := tool.Ask(t.Context(), 3, []byte{4, 0, 1, 0, 1}, 0); err == nil || !strings.Contains(err.Error(), "linli resume") {
			t.Errorf("the tool goes on: %v", err)
		}
		if err := tool.Close(); err != nil || l.suspended() {
			t.Errorf("%v, suspended %v", err, l.suspended())
		}
	})
}

func TestResumeCommand(t *testing.T) {
	g := newFakeGateway(t, "test.gw1")
	file := reachSite(t, "/dev/ttyNowhere", g.Listener.Addr().String())
	code, stdout, stderr := linli(t, "resume", "-c", file, "--bus", "rs485_1", "--by", "li")
	if code != exitGood || !strings.Contains(stdout, "rs485_1 was not suspended") {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
	if got := g.asked(); len(got) != 1 || got[0] != `buses/rs485_1/suspend {"for_s":0,"by":"li","force":true}` {
		t.Errorf("the gateway was asked %q", got)
	}
	g.Server.Close()
	if code, _, stderr := linli(t, "resume", "-c", file); code != exitNo || !strings.Contains(stderr, "no gateway runs") {
		t.Errorf("without a gateway: exit code %d, %s", code, stderr)
	}
	if code, _, stderr := linli(t, "resume"); code != exitUsage || !strings.Contains(stderr, "-c FILE") {
		t.Errorf("without a file: exit code %d, %s", code, stderr)
	}
}
