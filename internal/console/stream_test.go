package console_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"linli/internal/alert"
	"linli/internal/console"
	"linli/internal/telemetry"
)

// pipeWriter is a ResponseWriter whose reader is a client: it blocks while that does not read, as a connection does.
type pipeWriter struct {
	*io.PipeWriter
	header   http.Header
	status   int
	deadline time.Time
}

func (w *pipeWriter) Header() http.Header { return w.header }
func (w *pipeWriter) WriteHeader(s int)   { w.status = s }
func (w *pipeWriter) Flush()              {}
func (w *pipeWriter) SetWriteDeadline(at time.Time) error {
	w.deadline = at
	return nil
}

// Write fails at the deadline, as a connection does.
func (w *pipeWriter) Write(p []byte) (int, error) {
	timer := time.AfterFunc(time.Until(w.deadline), func() { w.CloseWithError(errors.New("deadline")) })
	defer timer.Stop()
	return w.PipeWriter.Write(p)
}

// stream starts a stream inside a synctest bubble.
func stream(t *testing.T, ctx context.Context, c *community) (*io.PipeReader, <-chan struct{}) {
	t.Helper()
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		req := httptest.NewRequest("GET", "http://127.0.0.1/api/v1/stream", nil).WithContext(ctx)
		c.server.ServeHTTP(&pipeWriter{PipeWriter: w, header: http.Header{}}, req)
		w.Close()
	}()
	return r, done
}

func TestStreamTellsChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCommunity(t, console.Config{}, true)
		c.readAll()
		ctx, cancel := context.WithCancel(t.Context())
		events := make(chan event, 64)
		r, done := stream(t, ctx, c)
		go read(r, events)

		first := <-events
		if first.name != "snapshot" || len(dig(t, first.data, "values").([]any)) != len(c.inv.Points) {
			t.Fatalf("first event = %s with %v values", first.name, len(dig(t, first.data, "values").([]any)))
		}

		// An alert comes at once: no time passes.
		began := time.Now()
		lane := c.raiseLane(t)
		e := <-events
		if e.name != "alerts" || dig(t, e.data, "alerts", 0, "id") != lane.ID || time.Since(began) != 0 {
			t.Fatalf("after raise: %s %v, after %v", e.name, e.data, time.Since(began))
		}

		// Values come within a second, in one batch. raiseLane changed one already.
		e = <-events
		if e.name != "values" || time.Since(began) > time.Second {
			t.Fatalf("after a change: %s, after %v", e.name, time.Since(began))
		}
		if got := dig(t, e.data, "values", 0, "value"); got != true {
			t.Errorf("value = %v", got)
		}

		// Unchanged values that are read again, reported or not, are told of after 5 s, all in one group; heartbeats come between.
		for range 6 {
			time.Sleep(time.Second)
			c.live.Confirm([]telemetry.Sample{{Point: c.point(t, "lane_e1", "occupied"), Time: c.clock.Mono(), Value: telemetry.BoolValue(true)}})
		}
		beats, confirmed := 0, 0
		synctest.Wait()
		for len(events) > 0 {
			switch e := <-events; e.name {
			case "heartbeat":
				beats++
				if dig(t, e.data, "status", "journal", "frames") != 5321.0 {
					t.Errorf("heartbeat without status: %v", e.data)
				}
			case "values":
				if len(dig(t, e.data, "values").([]any)) != 0 {
					t.Errorf("an unchanged value was sent as changed: %v", e.data)
				}
				confirmed += len(dig(t, e.data, "confirmed").([]any))
			}
		}
		if beats != 1 || confirmed != 1 {
			t.Errorf("in 6 s: %d heartbeats and %d confirmations, want one each", beats, confirmed)
		}

		// A closed alert is told of as closed.
		lane.State, lane.ClosedAt, lane.CloseReason = alert.Closed, time.Now(), alert.ReasonReturned
		c.book.put(lane, alert.WhatClosed, alert.BySensor, "")
		e = <-events
		if e.name != "alerts" || dig(t, e.data, "alerts", 0, "state") != "closed" {
			t.Errorf("after closing: %s %v", e.name, e.data)
		}

		cancel()
		<-done
		r.Close()
	})
}

// TestSlowClientIsDropped: one that does not read costs nothing but its connection.
func TestSlowClientIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCommunity(t, console.Config{}, true)
		began := time.Now()
		r, done := stream(t, t.Context(), c) // Nobody reads.
		<-done
		if took := time.Since(began); took > 11*time.Second {
			t.Errorf("dropped after %v", took)
		}
		r.Close()
		if body := do(c, "GET", "/metrics", "").Body.String(); !contains(body, "linli_console_streams_dropped_total 1\n", "linli_console_streams 0\n") {
			t.Errorf("not counted:\n%s", body)
		}
	})
}

// TestStreamsAreBounded: the pages beyond the bound are told so, and a place is free again when one closes.
func TestStreamsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCommunity(t, console.Config{MaxStreams: 2}, false)
		var stops []func()
		for range 2 {
			ctx, cancel := context.WithCancel(t.Context())
			r, done := stream(t, ctx, c)
			go io.Copy(io.Discard, r)
			stops = append(stops, func() { cancel(); <-done; r.Close() })
		}
		synctest.Wait()
		w := do(c, "GET", "/api/v1/stream", "")
		if w.Code != http.StatusServiceUnavailable || dig(t, decode(t, w), "error", "code") != "too_many_streams" {
			t.Errorf("third stream: %d %s", w.Code, w.Body)
		}
		stops[0]()
		ctx, cancel := context.WithCancel(t.Context())
		events := make(chan event, 8)
		r, done := stream(t, ctx, c)
		go read(r, events)
		if e := <-events; e.name != "snapshot" {
			t.Errorf("after one closed: %s", e.name)
		}
		cancel()
		<-done
		r.Close()
		stops[1]()
	})
}

func contains(s string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}
