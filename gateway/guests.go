package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"linli/drivers"
	"linli/internal/audit"
	"linli/internal/console"
	"linli/internal/site"
	"linli/internal/telemetry"
)

// guestLimit bounds one request of a tool, the wait for its share of the line included. It is less than what the console
// gives an answer.
const guestLimit = 25 * time.Second

// guestFunctions are the Modbus functions that tools may use on a running bus: reads, report server id, device
// identification, and the writes that name what they change.
func guestFunction(code byte) bool {
	switch code {
	case 1, 2, 3, 4, 5, 6, 15, 16, 17, 22, 0x2B:
		return true
	}
	return false
}

// guests lets people and tools reach the buses: it is the console's Control. Every request that changes something is
// in the audit record.
type guests struct {
	site   *site.Site
	lines  []*drivers.Line // parallel to site.Buses
	orders *orders
	audit  *audit.Record
	points *busPoints
	clock  *telemetry.Clock
	log    *zap.Logger
}

// bus returns the index of the bus named id.
func (g *guests) bus(id string) (int, error) {
	i := slices.IndexFunc(g.site.Buses, func(b site.Bus) bool { return b.ID == id })
	if i < 0 {
		return 0, fmt.Errorf("%w: %q", console.ErrNoBus, id)
	}
	return i, nil
}

// Buses returns what is known of every bus.
func (g *guests) Buses() []console.BusDetail {
	list := make([]console.BusDetail, 0, len(g.lines))
	for i := range g.site.Buses {
		b, h := &g.site.Buses[i], g.lines[i].Health()
		d := console.BusDetail{
			ID: b.ID, Subject: g.deviceID(b.Health), Transport: b.Transport, Address: b.Address, Device: b.Device,
			Baud: b.Line.Baud, Format: b.Line.Format,
			Up: h.Up, Suspended: h.Suspended, Busy: h.Busy, Late: h.Late, Foreign: h.Foreign, Error: h.LastError, Units: []console.UnitDetail{},
		}
		if b.Listen != "" {
			d.Address = b.Listen
		}
		if b.Transport == site.GPIO {
			d.Device = b.Chip
		}
		for _, u := range h.Units {
			d.Units = append(d.Units, g.unit(i, &u))
		}
		list = append(list, d)
	}
	return list
}

func (g *guests) deviceID(index int) string {
	if index < 0 || index >= len(g.site.Inventory.Devices) {
		return ""
	}
	return g.site.Inventory.Devices[index].ID
}

func (g *guests) unit(bus int, u *drivers.UnitHealth) console.UnitDetail {
	d := console.UnitDetail{
		ID: u.Unit, Address: u.Address, Online: u.Online, Answers: u.Answers, Timeouts: u.Timeouts, Errors: u.Errors, CRCErrors: u.CRC,
		Exceptions: u.Exceptions, Retries: u.Retries, Late: u.Late, Error: u.LastError,
	}
	if u.RoundTrip > 0 {
		ms := milliseconds(u.RoundTrip)
		d.RoundTripMS = &ms
	}
	b := &g.site.Buses[bus]
	for j := range b.Units {
		if b.Units[j].ID != u.Unit {
			continue
		}
		d.Profile = b.Units[j].Profile.ID
		if j < len(b.UnitHealth) {
			d.Subject = g.deviceID(b.UnitHealth[j])
		}
	}
	d.FailedPct, d.ConfigDrift = g.points.figures(bus, u.Unit)
	return d
}

// Ask asks a unit on behalf of a tool.
func (g *guests) Ask(ctx context.Context, bus string, q console.Question) (console.Answer, error) {
	i, err := g.bus(bus)
	if err != nil {
		return console.Answer{}, err
	}
	write := isWrite(q.PDU[0])
	switch {
	case !guestFunction(q.PDU[0]):
		return console.Answer{}, fmt.Errorf("%w: %d (1 to 6, 15 to 17, 22 and 43 are)", console.ErrFunction, q.PDU[0])
	case write && (!q.Write || q.By == ""):
		return console.Answer{}, fmt.Errorf(`%w: "write": true and "by"`, console.ErrUndeclared)
	}
	if write {
		if g.orders.isStopping() {
			return console.Answer{}, console.ErrStopping
		}
		ctx = context.WithoutCancel(ctx) // What may have been sent must be recorded with what came back.
	}
	ctx, cancel := context.WithTimeout(ctx, guestLimit)
	defer cancel()
	began := g.clock.Mono()
	reply, err := g.lines[i].Ask(ctx, q.Unit, q.PDU, q.Timeout, q.Share)
	if write {
		g.recordRaw(i, &q, reply, err, ctx.Err(), g.clock.Mono().Sub(began))
	}
	if err != nil {
		if sentinel := notBegun(err, ctx.Err()); sentinel != nil {
			return console.Answer{}, said(sentinel, err)
		}
	}
	a := console.Answer{PDU: reply.PDU, Heard: reply.Heard, Took: reply.Took}
	if err != nil {
		a.PDU, a.Error = nil, err.Error()
	}
	return a, nil
}

// notBegun returns the console's error for a request that never was on the line, nil for any other. over is the error of
// the request's own context.
func notBegun(err, over error) error {
	switch {
	case errors.Is(err, drivers.ErrNotHost):
		return console.ErrNotHost
	case errors.Is(err, drivers.ErrBusy):
		return console.ErrBusBusy
	case errors.Is(err, drivers.ErrClosed):
		return console.ErrStopping
	case errors.Is(err, drivers.ErrSuspended):
		return console.ErrSuspended
	case over != nil && errors.Is(err, over):
		return console.ErrBusBusy
	}
	return nil
}

// recordRaw leaves a request that may have changed a unit in the audit record.
func (g *guests) recordRaw(bus int, q *console.Question, reply drivers.Reply, err, over error, took time.Duration) {
	g.orders.forget(bus)
	unit := int(q.Unit)
	e := audit.Entry{What: "raw", By: q.By, Note: q.Note, Bus: g.site.Buses[bus].ID, Unit: &unit, PDU: hex.EncodeToString(q.PDU),
		Outcome: orderDone, TookMS: milliseconds(took)}
	switch {
	case err != nil && err != over && notBegun(err, over) != nil: // The bare error of the context: it was on the line.
		e.Outcome, e.Error = orderRefused, err.Error()
	case err != nil:
		e.Outcome, e.Error = orderUnknown, err.Error()
	case len(reply.PDU) == 2 && reply.PDU[0] == q.PDU[0]|0x80:
		e.Outcome, e.Error = orderRefused, fmt.Sprintf("the unit answers exception %d", reply.PDU[1])
	}
	addAudit(g.audit, g.clock, e)
	g.log.Info("raw write "+e.Outcome, zap.String("bus", e.Bus), zap.Int("unit", unit), zap.String("pdu", e.PDU), zap.String("by", q.By), zap.Error(err))
}

// Hear listens on a bus.
func (g *guests) Hear(ctx context.Context, bus string, d time.Duration) ([]byte, error) {
	i, err := g.bus(bus)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, guestLimit)
	defer cancel()
	heard, err := g.lines[i].Hear(ctx, d)
	if err != nil {
		if sentinel := notBegun(err, ctx.Err()); sentinel != nil {
			err = said(sentinel, err)
		}
		return nil, err
	}
	return heard, nil
}

// Suspend stops the polling of a bus for a while, or resumes it.
func (g *guests) Suspend(ctx context.Context, bus string, s console.Suspension) error {
	i, err := g.bus(bus)
	if err != nil {
		return err
	}
	if err := checkLine(g.site.Buses[i].Transport, s.Baud, s.Format); err != nil {
		return said(console.ErrBadRequest, err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), guestLimit)
	defer cancel()
	began := g.clock.Mono()
	err = g.lines[i].Suspend(ctx, s.For, s.Baud, s.Format)
	e := audit.Entry{What: "suspend", By: s.By, Note: s.Note, Bus: bus, Outcome: orderDone, TookMS: milliseconds(g.clock.Mono().Sub(began))}
	e.Value = s.For.String()
	if s.Baud != 0 || s.Format != "" {
		e.Value = fmt.Sprintf("%s at %d %s", s.For, s.Baud, s.Format)
	}
	if s.For == 0 {
		e.What, e.Value = "resume", nil
	}
	if err != nil {
		e.Outcome, e.Error = orderRefused, err.Error()
		if sentinel := notBegun(err, ctx.Err()); sentinel != nil {
			err = said(sentinel, err)
		}
	}
	addAudit(g.audit, g.clock, e)
	g.log.Info("bus "+e.What, zap.String("bus", bus), zap.Duration("for", s.For), zap.String("by", s.By), zap.Error(err))
	return err
}

// saidError is an error with the console's word for it, which has texts of its own: only the reason is told.
type saidError struct{ word, reason error }

func said(word, reason error) error { return &saidError{word, reason} }

// Error returns the reason.
func (e *saidError) Error() string { return e.reason.Error() }

// Unwrap returns both.
func (e *saidError) Unwrap() []error { return []error{e.word, e.reason} }

// checkLine says what is wrong with other settings for a bus's line.
func checkLine(transport string, baud int, format string) error {
	if (baud != 0 || format != "") && transport != site.ModbusRTU {
		return errors.New("only serial lines have settings")
	}
	if baud != 0 && (baud < 300 || baud > 4_000_000) {
		return fmt.Errorf("baud %d: 300 to 4000000", baud)
	}
	switch format {
	case "", "8N1", "8N2", "8E1", "8E2", "8O1", "8O2":
		return nil
	}
	return fmt.Errorf("format %q: 8N1, 8N2, 8E1, 8E2, 8O1 or 8O2", format)
}

// Write sets an output.
func (g *guests) Write(ctx context.Context, o console.Order) console.OrderResult {
	r := g.orders.Do(ctx, order{Point: o.ID, Value: o.Value, By: o.By, Note: o.Note, Force: o.Force})
	return console.OrderResult{Outcome: r.Outcome, Value: r.Value, Retry: r.Retry, Err: orderError(r.Outcome, r.Err)}
}

// orderError wraps the error of an order in the console's word for it.
func orderError(outcome string, err error) error {
	if err == nil {
		return nil
	}
	switch outcome {
	case orderUnknown:
		return said(console.ErrNoAnswer, err)
	case orderNotTaken:
		return said(console.ErrNotTaken, err)
	}
	for _, e := range [...]struct{ ours, console error }{
		{drivers.ErrNotWritable, console.ErrNotWritable}, {drivers.ErrRange, console.ErrValue}, {errWrongKind, console.ErrValue},
		{errTooSoon, console.ErrTooSoon}, {errStopping, console.ErrStopping}, {drivers.ErrClosed, console.ErrStopping},
		{drivers.ErrBusy, console.ErrBusBusy}, {drivers.ErrSuspended, console.ErrSuspended},
	} {
		if errors.Is(err, e.ours) {
			return said(e.console, err)
		}
	}
	return err
}

// Audit returns the newest entries of the audit record.
func (g *guests) Audit(n int) ([]json.RawMessage, error) { return g.audit.Tail(n) }
