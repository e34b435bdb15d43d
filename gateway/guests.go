package main

import (
	"context"
	byteorder "encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
	"linli/internal/audit"
	"linli/internal/console"
	"linli/internal/site"
	"linli/internal/telemetry"
)

// guestLimit bounds one request of a tool, the wait for its share of the line included. It is less than what the console
// gives an answer.
const guestLimit = 25 * time.Second

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

	suspended suspensions
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
			Up: h.Up, Suspended: h.Suspended, SuspendedBy: g.suspended.by(i), Busy: h.Busy, Late: h.Late, Foreign: h.Foreign, Error: h.LastError, Units: []console.UnitDetail{},
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
	if err := checkRequest(q.PDU); err != nil {
		return console.Answer{}, err
	}
	write := isWrite(q.PDU[0])
	switch {
	case write && (!q.Write || q.By == ""):
		return console.Answer{}, fmt.Errorf(`%w: "write": true and "by"`, console.ErrUndeclared)
	case q.Unit == 0 && !g.mayAskZero(i, write):
		return console.Answer{}, fmt.Errorf("%w: unit 0 is every unit of the line at once", console.ErrBadRequest)
	case g.orders.isStopping():
		return console.Answer{}, console.ErrStopping
	}
	if err := g.suspended.allowed(i, q.Lease); err != nil {
		return console.Answer{}, err
	}
	e := g.entry(i, "raw", q.By, q.Note)
	if write {
		unit := int(q.Unit)
		e.Unit, e.PDU = &unit, hex.EncodeToString(q.PDU)
		ctx = context.WithoutCancel(ctx) // What may have been sent must be recorded with what came back.
		g.audit.Begin(e)
	}
	ctx, cancel := context.WithTimeout(ctx, guestLimit)
	defer cancel()
	began := g.clock.Mono()
	reply, err := g.lines[i].Ask(ctx, q.Unit, q.PDU, q.Timeout, q.Share)
	never := notBegun(err, ctx.Err())
	if write {
		e.TookMS = milliseconds(g.clock.Mono().Sub(began))
		g.recordRaw(i, e, &q, reply, err, never)
	}
	if never != nil {
		return console.Answer{}, said(never, err)
	}
	a := console.Answer{PDU: reply.PDU, Heard: reply.Heard, Took: reply.Took}
	if err != nil {
		a.PDU, a.Error = nil, inOneLine(err)
		if write {
			a.Error = "outcome unknown: " + strings.TrimPrefix(a.Error, "outcome unknown: ")
		}
	}
	return a, nil
}

// mayAskZero reports whether a request to unit 0 goes to one unit alone: a Modbus TCP endpoint that is itself the unit.
// Behind a converter, and on a serial line, it is a broadcast.
func (g *guests) mayAskZero(bus int, write bool) bool {
	b := &g.site.Buses[bus]
	return b.Transport == site.ModbusTCP && (!write || slices.ContainsFunc(b.Units, func(u firmwareconfig.Unit) bool { return u.Address == 0 }))
}

// checkRequest says what is wrong with a request of a tool. Allowed are reads, report server id, device identification,
// and the writes that name what they change; each with the length that it has to have.
func checkRequest(pdu []byte) error {
	want := 5
	switch pdu[0] {
	case 1, 2, 3, 4, 5, 6:
	case 15, 16:
		want = 6
		if len(pdu) > 6 {
			n := int(byteorder.BigEndian.Uint16(pdu[3:]))
			bytes := 2 * n
			if pdu[0] == 15 {
				bytes = (n + 7) / 8
			}
			if n == 0 || int(pdu[5]) != bytes {
				return fmt.Errorf("%w: %d values are %d bytes, the request says %d", console.ErrBadRequest, n, bytes, pdu[5])
			}
			want += bytes
		} else {
			want++
		}
	case 17:
		want = 1
	case 22:
		want = 7
	case 0x2B:
		want = 4
		if len(pdu) > 1 && pdu[1] != 0x0E {
			return fmt.Errorf("%w: 43 with type %d (14, device identification, is)", console.ErrFunction, pdu[1])
		}
	default:
		return fmt.Errorf("%w: %d (1 to 6, 15 to 17, 22 and 43 are)", console.ErrFunction, pdu[0])
	}
	if len(pdu) != want {
		return fmt.Errorf("%w: a request of function %d has %d bytes here, this one %d", console.ErrBadRequest, pdu[0], want, len(pdu))
	}
	return nil
}

// notBegun returns the console's error for a request that never was on the line, nil for any other. over is the error of
// the request's own context: bare it means that the request was on the line.
func notBegun(err, over error) error {
	var unknown *drivers.OutcomeUnknownError
	switch {
	case err == nil || err == over || errors.As(err, &unknown):
	case errors.Is(err, drivers.ErrNotHost):
		return console.ErrNotHost
	case errors.Is(err, drivers.ErrBusy):
		return console.ErrBusBusy
	case errors.Is(err, drivers.ErrClosed):
		return console.ErrStopping
	case errors.Is(err, drivers.ErrSuspended):
		return console.ErrSuspended
	case over == context.Canceled && errors.Is(err, over): // Only a question, of a client that has gone or at the end.
		return console.ErrStopping
	case over != nil && errors.Is(err, over):
		return console.ErrBusBusy
	}
	return nil
}

// entry begins an entry of the record about a bus.
func (g *guests) entry(bus int, what, by, note string) audit.Entry {
	e := audit.Entry{What: what, By: by, Origin: audit.OriginAPI, Note: note, Bus: g.site.Buses[bus].ID, Order: g.orders.number.Add(1)}
	stamp(g.clock, &e)
	return e
}

// recordRaw leaves what became of a request that may have changed a unit in the audit record.
func (g *guests) recordRaw(bus int, e audit.Entry, q *console.Question, reply drivers.Reply, err, never error) {
	g.orders.forget(bus)
	e.Outcome, e.Error = orderDone, inOneLine(err)
	switch {
	case never != nil:
		e.Outcome = orderRefused
	case err != nil:
		e.Outcome = orderUnknown
	case len(reply.PDU) == 2 && reply.PDU[0] == q.PDU[0]|0x80:
		e.Outcome, e.Error = orderRefused, fmt.Sprintf("the unit answers exception %d", reply.PDU[1])
	}
	stamp(g.clock, &e)
	g.audit.Add(e)
	g.log.Info("raw write "+e.Outcome, zap.String("bus", e.Bus), zap.Int("unit", *e.Unit), zap.String("pdu", e.PDU), zap.String("by", q.By), zap.Error(err))
}

// Hear listens on a bus.
func (g *guests) Hear(ctx context.Context, bus string, d time.Duration, lease string) ([]byte, error) {
	i, err := g.bus(bus)
	if err != nil {
		return nil, err
	}
	if err := g.suspended.allowed(i, lease); err != nil {
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

// saidError is an error with the console's word for it, which has texts of its own: only the reason is told.
type saidError struct{ word, reason error }

func said(word, reason error) error { return &saidError{word, reason} }

// Error returns the reason, in one line.
func (e *saidError) Error() string { return inOneLine(e.reason) }

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
		{errTooSoon, console.ErrTooSoon}, {errLocked, console.ErrLocked}, {errStopping, console.ErrStopping}, {drivers.ErrClosed, console.ErrStopping},
		{drivers.ErrBusy, console.ErrBusBusy}, {drivers.ErrSuspended, console.ErrSuspended},
		{drivers.ErrSilent, console.ErrSilent},
		{context.DeadlineExceeded, console.ErrBusBusy}, {errReserved, console.ErrReserved}, {errNoName, console.ErrBadRequest},
	} {
		if errors.Is(err, e.ours) {
			return said(e.console, err)
		}
	}
	return err
}

// Audit returns the newest entries of the audit record.
func (g *guests) Audit(n int) ([]json.RawMessage, error) { return g.audit.Tail(n) }
