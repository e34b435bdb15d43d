package console

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"go.uber.org/zap"

	"linli/internal/alert"
)

const (
	// heartbeatEvery is how often a stream says that it is alive: the page says "lost" after two and a half.
	heartbeatEvery = 5 * time.Second
	// writeLimit is how long a client may take to read what it is sent; one that takes longer is dropped.
	writeLimit = 10 * time.Second
	// alertsAtOnce bounds the alerts in one event.
	alertsAtOnce = 200
)

// heartbeatJSON is the data of a heartbeat.
type heartbeatJSON struct {
	Server serverJSON `json:"server"`
	Now    momentJSON `json:"now"`
	Status Status     `json:"status"`
}

// changedJSON is the data of an alerts event: each alert as it stands now. Gone are ids that nothing is known of any
// more.
type changedJSON struct {
	Now    momentJSON  `json:"now"`
	Alerts []openAlert `json:"alerts"` // those that have closed just now too
	Gone   []string    `json:"gone,omitempty"`
}

// stream serves server-sent events: a snapshot first, then alerts as they change, values in batches, heartbeats.
func (s *Server) stream(w http.ResponseWriter, r *http.Request) {
	if s.counters.streams.Add(1) > int64(s.cfg.MaxStreams) {
		s.counters.streams.Add(-1)
		s.counters.streamsRefused.Add(1)
		w.Header().Set("Retry-After", "15")
		writeError(w, http.StatusServiceUnavailable, errManyStreams)
		return
	}
	defer s.counters.streams.Add(-1)
	s.counters.streamsTotal.Add(1)

	c := &client{s: s, w: w, control: http.NewResponseController(w)}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	if err := c.run(r); err != nil && r.Context().Err() == nil {
		s.counters.streamsDropped.Add(1)
		s.log.Debug("console stream dropped", zap.String("remote", r.RemoteAddr), zap.Error(err))
	}
}

// client is one stream. It is used by the goroutine of its request alone, and queues nothing.
type client struct {
	s       *Server
	w       http.ResponseWriter
	control *http.ResponseController
	buf     bytes.Buffer
	id      uint64
	next    uint64                 // the next batch of values
	sent    map[string]alert.Alert // open alerts as this client has them
	view    *view                  // in which next is counted
}

// run sends until the request ends or the client fails to read.
func (c *client) run(r *http.Request) error {
	// The channel is taken before the alerts are read, so that no change falls between the two.
	changed := c.s.src.Alerts.Changed()
	if err := c.snapshot(); err != nil {
		return err
	}
	values, heartbeat := time.NewTicker(valuesEvery), time.NewTicker(heartbeatEvery)
	defer values.Stop()
	defer heartbeat.Stop()
	for {
		var err error
		select {
		case <-r.Context().Done():
			return nil
		case <-c.view.ended:
			err = c.snapshot()
		case <-changed:
			changed = c.s.src.Alerts.Changed()
			err = c.alerts()
		case <-values.C:
			err = c.values()
		case <-heartbeat.C:
			err = c.send("heartbeat", heartbeatJSON{Server: c.s.server(c.view), Now: c.s.now(), Status: c.s.status()})
		}
		if err != nil {
			return err
		}
	}
}

func (c *client) snapshot() error {
	c.view = c.s.view.Load()
	values, next := c.view.feed.snapshot(c.s.src.Clock.Mono())
	state := c.s.state(c.view, values)
	c.next, c.sent = next, map[string]alert.Alert{}
	for _, a := range state.Alerts.Open {
		c.sent[a.ID] = a.Alert
	}
	return c.send("snapshot", state)
}

// alerts sends the alerts that are not as this client has them.
func (c *client) alerts() error {
	out := changedJSON{Now: c.s.now(), Alerts: []openAlert{}}
	open := map[string]bool{}
	for _, a := range c.s.src.Alerts.OpenAlerts() {
		open[a.ID] = true
		if c.sent[a.ID] != a {
			c.sent[a.ID] = a
			out.Alerts = append(out.Alerts, c.s.opened(a))
		}
	}
	for id := range c.sent {
		if open[id] {
			continue
		}
		delete(c.sent, id)
		if a, _, err := c.s.src.Alerts.Get(id); err == nil && !a.Open() {
			out.Alerts = append(out.Alerts, openAlert{Alert: a})
		} else {
			out.Gone = append(out.Gone, id)
		}
	}
	if len(out.Alerts) > alertsAtOnce {
		return c.snapshot()
	}
	if len(out.Alerts) == 0 && len(out.Gone) == 0 {
		return nil
	}
	return c.send("alerts", out)
}

// values sends the batches this client has not had.
func (c *client) values() error {
	batches, next, kept := c.view.feed.since(c.s.src.Clock.Mono(), c.next)
	if !kept {
		return c.snapshot()
	}
	for _, b := range batches {
		if err := c.write("values", b); err != nil {
			return err
		}
	}
	c.next = next
	return nil
}

func (c *client) send(event string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", event, err)
	}
	return c.write(event, data)
}

// write sends one event. JSON has no line ends, so that the data is one line.
func (c *client) write(event string, data []byte) error {
	c.id++
	c.buf.Reset()
	fmt.Fprintf(&c.buf, "id: %d\nevent: %s\ndata: ", c.id, event)
	c.buf.Write(data)
	c.buf.WriteString("\n\n")
	// A recorder in a test has no deadline to set; a real connection always has.
	_ = c.control.SetWriteDeadline(time.Now().Add(writeLimit))
	if _, err := c.w.Write(c.buf.Bytes()); err != nil {
		return err
	}
	if c.buf.Cap() > 1<<17 {
		c.buf = bytes.Buffer{} // A large snapshot's memory is not kept for the life of the page.
	}
	return c.control.Flush()
}
