package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
)

// gatewayConn is a bus that the running gateway polls, asked through its API.
//
// A suspension of the polling is a lease of leaseTime that is renewed in the background for as long as it is wanted. It
// ends with Set of the zero Line or Close; without them, because the tool was killed, when the lease is over.
type gatewayConn struct {
	api  *gatewayAPI
	bus  string
	opts reachOptions

	until time.Time // when the suspension that Set began is over for good; zero without one
	stop  func()    // ends the renewing and waits for its end; nil where nothing is renewed

	mu    sync.Mutex          // held while a suspension is asked for, so that a renewal and a Set do not overtake each other
	line  firmwareconfig.Line // guarded by mu: what the lease is for
	lease string              // guarded by mu; "" also with a gateway that knows no leases
	ended error               // guarded by mu: why the gateway no longer renews
}

// Ask is busConn's Ask.
func (c *gatewayConn) Ask(ctx context.Context, unit byte, pdu []byte, timeout time.Duration) (drivers.Reply, error) {
	if len(pdu) == 0 {
		return drivers.Reply{}, errors.New("empty request")
	}
	lease, err := c.held()
	if err != nil {
		return drivers.Reply{}, err
	}
	in := struct {
		Unit    int     `json:"unit"`
		PDU     string  `json:"pdu"`
		Timeout int64   `json:"timeout_ms"`
		Share   float64 `json:"share"`
		By      string  `json:"by,omitempty"`
		Write   bool    `json:"write,omitempty"`
		Note    string  `json:"note,omitempty"`
		Lease   string  `json:"lease,omitempty"`
	}{Unit: int(unit), PDU: hex.EncodeToString(pdu), Timeout: (timeout + time.Millisecond - 1).Milliseconds(), Share: c.opts.share, By: c.opts.by, Lease: lease}
	if in.Write = isWrite(pdu[0]); in.Write {
		in.Note = c.opts.note
	}
	var out struct {
		PDU   string  `json:"pdu"`
		Heard string  `json:"heard"`
		Took  float64 `json:"took_ms"`
		Error string  `json:"error"`
	}
	if err := c.post(ctx, timeout+askWait, "ask", in, &out); err != nil {
		return drivers.Reply{}, err
	}
	r := drivers.Reply{Took: time.Duration(out.Took * float64(time.Millisecond))}
	if r.Heard, err = hex.DecodeString(out.Heard); err != nil {
		return drivers.Reply{}, &lostError{fmt.Errorf("the gateway answers what is no hex: %w", err)}
	}
	if out.Error != "" {
		return r, errors.New(out.Error)
	}
	if r.PDU, err = hex.DecodeString(out.PDU); err != nil || len(r.PDU) == 0 {
		return drivers.Reply{}, &lostError{fmt.Errorf("the gateway answers %q, which is no PDU", out.PDU)}
	}
	return r, nil
}

// isWrite reports whether a function code changes the unit.
func isWrite(function byte) bool {
	switch function {
	case 5, 6, 15, 16, 22, 23:
		return true
	}
	return false
}

// Hear is busConn's Hear.
func (c *gatewayConn) Hear(ctx context.Context, d time.Duration) ([]byte, error) {
	var all []byte
	for d > 0 {
		piece := min(d, hearMost)
		d -= piece
		lease, err := c.held()
		if err != nil {
			return all, err
		}
		in := struct {
			MS    int64  `json:"ms"`
			Lease string `json:"lease,omitempty"`
		}{max(1, piece.Milliseconds()), lease}
		var out struct {
			Heard string `json:"heard"`
		}
		if err := c.post(ctx, piece+askWait, "hear", in, &out); err != nil {
			return all, err
		}
		heard, err := hex.DecodeString(out.Heard)
		if err != nil {
			return all, &lostError{fmt.Errorf("the gateway answers what is no hex: %w", err)}
		}
		all = append(all, heard...)
	}
	return all, nil
}

// held returns the lease of the suspension, "" without one. The error says that the suspension that was wanted is over:
// what is asked now would meet other settings than it was meant for.
func (c *gatewayConn) held() (string, error) {
	if c.until.IsZero() {
		return "", nil
	}
	if !time.Now().Before(c.until) {
		return "", &lostError{fmt.Errorf("the suspension of %s is over", c.opts.suspend)}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended != nil {
		return "", &lostError{fmt.Errorf("the bus is no longer ours: %w", c.ended)}
	}
	return c.lease, nil
}

// Set is busConn's Set.
func (c *gatewayConn) Set(ctx context.Context, line firmwareconfig.Line) error {
	if line == (firmwareconfig.Line{}) {
		return c.resume(ctx)
	}
	if c.opts.suspend <= 0 {
		return errors.New("the gateway polls this bus: other settings need it suspended, as with --suspend 60s")
	}
	if _, err := c.held(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	first := c.until.IsZero()
	if first {
		// From now on, whatever comes of it: where the answer is lost the bus may be suspended all the same.
		c.until = time.Now().Add(min(c.opts.suspend, drivers.MaxSuspend))
	}
	c.mu.Lock()
	before := c.line
	c.line = line
	// An interruption does not tear off a request that may have been carried out: it has its lease in the answer.
	patient, cancel := afterwards(ctx, resumeWait)
	err := c.take(patient, c.until)
	cancel()
	if err != nil {
		c.line = before
	}
	c.mu.Unlock()
	var refused *apiProblem
	if first && errors.As(err, &refused) {
		c.until = time.Time{} // It said no.
	}
	if err == nil && c.stop == nil {
		c.renew()
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// afterwards returns a context that outlives ctx by grace.
func afterwards(ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(grace, cancel) })
	return out, func() { stop(); cancel() }
}

// take asks for the line, or for more time with it. It is called with mu held; the settings go along, because a gateway
// that knows no leases begins anew each time.
func (c *gatewayConn) take(ctx context.Context, until time.Time) error {
	in := suspendRequest{
		For:  int64(min(leaseTime, max(time.Until(until).Round(time.Second), time.Second)) / time.Second), // The gateway counts in whole seconds.
		Baud: c.line.Baud, Format: c.line.Format, By: c.opts.by, Lease: c.lease,
	}
	var out struct {
		Lease string `json:"lease"`
	}
	if err := c.post(ctx, askWait, "suspend", in, &out); err != nil {
		return err
	}
	if c.lease != "" && out.Lease != c.lease {
		// Ours had been ended, and this is a new one: whoever ended it wants the bus polled.
		_ = c.post(ctx, resumeWait, "suspend", suspendRequest{By: c.opts.by, Lease: out.Lease}, nil) // Not renewed, it ends by itself.
		c.ended = errEnded
		return &lostError{errEnded}
	}
	c.lease = out.Lease
	return nil
}

// errEnded is a suspension that somebody ended before its time.
var errEnded = errors.New("somebody has ended the suspension, as linli resume does")

// suspendRequest is the body of a request to suspend a bus, or, with For 0, to resume it.
type suspendRequest struct {
	For    int64  `json:"for_s"`
	Baud   int    `json:"baud,omitempty"`
	Format string `json:"format,omitempty"`
	By     string `json:"by,omitempty"`
	Lease  string `json:"lease,omitempty"`
	Force  bool   `json:"force,omitempty"` // with For 0: end anybody's suspension
}

// renew keeps the lease until stop is called, or the suspension is over.
func (c *gatewayConn) renew() {
	ctx, cancel := context.WithDeadline(context.Background(), c.until)
	until, done := c.until, make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(leaseRenew)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			c.mu.Lock()
			// A renewal is never torn off: it would overtake the resumption.
			patient, done := context.WithTimeout(context.WithoutCancel(ctx), resumeWait)
			err := c.take(patient, until)
			done()
			var refused *apiProblem
			if errors.As(err, &refused) { // A gateway that only does not answer is asked again: the lease lasts a while.
				c.ended = err
			}
			over := c.ended != nil
			c.mu.Unlock()
			if over {
				return
			}
		}
	}()
	c.stop = func() { cancel(); <-done }
}

// resume ends the suspension that Set began. What the gateway has not confirmed is tried again by the next call.
func (c *gatewayConn) resume(ctx context.Context) error {
	if c.stop != nil {
		c.stop()
		c.stop = nil
	}
	if c.until.IsZero() {
		return nil
	}
	fresh, cancel := context.WithTimeout(context.WithoutCancel(ctx), resumeWait)
	defer cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.post(fresh, resumeWait, "suspend", suspendRequest{By: c.opts.by, Lease: c.lease}, nil)
	var refused *apiProblem
	if errors.As(err, &refused) && (refused.status == http.StatusConflict || refused.status == http.StatusGone) {
		err = nil // Ours is over already, and somebody else has the line.
	}
	if err != nil {
		return fmt.Errorf("end the suspension: %w", err)
	}
	c.until, c.line, c.lease, c.ended = time.Time{}, firmwareconfig.Line{}, "", nil
	return nil
}

// post carries out one request about the bus. A queue that is full just now is waited for.
func (c *gatewayConn) post(ctx context.Context, limit time.Duration, verb string, in, out any) error {
	for try := 0; ; try++ {
		wait, cancel := context.WithTimeout(ctx, limit)
		err := c.api.call(wait, http.MethodPost, busPath(c.bus, verb), in, out)
		cancel()
		var p *apiProblem
		if try >= busyTries || !errors.As(err, &p) || p.code != "bus_busy" {
			return c.failed(ctx, err)
		}
		select {
		case <-time.After(busyPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func busPath(bus, verb string) string { return "/api/v1/buses/" + url.PathEscape(bus) + "/" + verb }

// failed marks what makes the bus unusable; the end of ctx stays what it is.
func (c *gatewayConn) failed(ctx context.Context, err error) error {
	var p *apiProblem
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &p) && p.code == "suspended_by":
		return &lostError{fmt.Errorf("bus %s is not free: %w", c.bus, p)} // It says for whom, until when, and what to do.
	case errors.As(err, &p):
		return &lostError{err}
	}
	return &lostError{fmt.Errorf("the gateway at %s no longer answers: %w", c.api.base, err)}
}

// Close is busConn's Close. A suspension that Set began ends, also where the tool was interrupted.
func (c *gatewayConn) Close() error {
	defer c.api.client.CloseIdleConnections()
	return c.resume(context.Background())
}
