package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"linli/drivers"
	"linli/internal/audit"
	"linli/internal/site"
	"linli/internal/telemetry"
)

const (
	// orderBurst is how many writes a point takes one after the other; then one each Interval of the site file, or each
	// orderInterval.
	orderBurst    = 5
	orderInterval = time.Second
	// sameValueFor is how long a confirmed value stands for itself: to order it again sends nothing.
	sameValueFor = time.Second
	// orderLimit bounds one order, the wait for the bus included.
	orderLimit = 10 * time.Second
	// ordersAtOnce bounds the orders that are being carried out or wait; further ones are refused.
	ordersAtOnce = 64
	// byGateway is who asks for what the gateway does by itself.
	byGateway = "gateway"
)

// The outcomes of an order, as the API and the audit record say them.
const (
	orderDone      = "done"      // written and read back
	orderUnchanged = "unchanged" // confirmed just now; nothing was sent
	orderUnknown   = "unknown"   // sent, or may have been, and nobody knows whether it took effect
	orderRefused   = "refused"   // nothing changed
	orderNotTaken  = "not_taken" // the unit accepted it and reads back another value
)

// Why an order is refused, besides the errors of package drivers.
var (
	errNoName    = errors.New("an order needs the name of who gives it")
	errWrongKind = errors.New("not a value of the point's kind")
	errTooSoon   = errors.New("too many writes of this point")
	errStopping  = errors.New("the gateway is stopping")
	errOvertaken = errors.New("somebody has ordered otherwise meanwhile")
)

// order asks for one point to be set.
type order struct {
	Point telemetry.PointID
	Value telemetry.Value
	By    string // who asks; never empty
	Note  string
	// Force sends it even where the same value was confirmed just now.
	Force bool
	// first makes it the order of the gateway at start, which anybody else's order of the point makes void.
	first bool
	// last makes it the order of the gateway at stop, beside which there is no other, and which no rate holds up.
	last  bool
	limit time.Duration // 0 means orderLimit
}

// orderResult is what became of an order.
type orderResult struct {
	Outcome string
	// Value is what the point is known to be now; the zero Value where that is not known.
	Value telemetry.Value
	// Retry is how long to wait where the rate refused it.
	Retry time.Duration
	// Err says why it is not done, nil with done and unchanged.
	Err error
}

// pointWriter is what orders need of a *drivers.Line.
type pointWriter interface {
	Write(ctx context.Context, point telemetry.PointID, v telemetry.Value) error
}

// orders is the one path of writes: whoever sets an output, a person, a tool, a rule or the gateway itself at start
// and stop, comes through Do. It asks for a name, checks kind and rate, sends nothing that was confirmed just now,
// lets one order of a point through at a time, and leaves a line in the audit record for each. The value's range and
// the reading back are the driver's.
//
// It is safe for concurrent use.
type orders struct {
	inv   *telemetry.Inventory
	clock *telemetry.Clock
	audit *audit.Record
	log   *zap.Logger

	outputs map[telemetry.PointID]*output
	slots   chan struct{}

	mu       sync.Mutex
	stopping bool // guarded by mu
}

// output is one point that can be written.
type output struct {
	site.Output
	line pointWriter
	turn chan struct{} // holds one token: who has it owns what follows

	tokens    float64 // of the rate; orderBurst at most
	filled    telemetry.Mono
	sent      telemetry.Value // last, whatever became of it; zero: none
	sentAt    telemetry.Mono
	confirmed telemetry.Value // last read back; zero: none, or something else happened since
	at        telemetry.Mono
	ordered   bool   // by somebody else than the gateway at start
	attempt   string // what became of the last attempt at its on_start: repetitions are not told
}

// newOrders returns the path to the site's outputs. lines is parallel to s.Buses.
func newOrders(s *site.Site, lines []pointWriter, clock *telemetry.Clock, record *audit.Record, log *zap.Logger) *orders {
	o := &orders{inv: s.Inventory, clock: clock, audit: record, log: log, outputs: map[telemetry.PointID]*output{}, slots: make(chan struct{}, ordersAtOnce)}
	for _, out := range s.Outputs {
		p := &output{Output: out, line: lines[out.Bus], turn: make(chan struct{}, 1), tokens: orderBurst, filled: clock.Mono()}
		p.turn <- struct{}{}
		o.outputs[out.Point] = p
	}
	return o
}

// Do carries out an order and returns what became of it. It takes 10 s at most. An order that was begun is carried
// out even where ctx ends meanwhile: half a write helps nobody.
func (o *orders) Do(ctx context.Context, or order) orderResult {
	began := o.clock.Mono()
	result, tell := o.do(ctx, or)
	if tell {
		o.record(or, result, o.clock.Mono().Sub(began))
	}
	return result
}

func refused(err error) orderResult { return orderResult{Outcome: orderRefused, Err: err} }

// do is Do without the record, and says whether there is something to record.
func (o *orders) do(ctx context.Context, or order) (orderResult, bool) {
	if strings.TrimSpace(or.By) == "" {
		return refused(errNoName), true
	}
	p := o.outputs[or.Point]
	if p == nil {
		return refused(drivers.ErrNotWritable), true
	}
	if err := checkValue(o.inv.Points[or.Point].Def, or.Value); err != nil {
		return refused(err), true
	}
	if !or.last {
		select {
		case o.slots <- struct{}{}:
			defer func() { <-o.slots }()
		default:
			return refused(drivers.ErrBusy), true
		}
	}
	if or.limit == 0 {
		or.limit = orderLimit
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), or.limit)
	defer cancel()
	select {
	case <-p.turn:
		defer func() { p.turn <- struct{}{} }()
	case <-ctx.Done():
		return refused(fmt.Errorf("another order of the point takes too long: %w", ctx.Err())), true
	}
	r := o.carryOut(ctx, or, p)
	if !or.first {
		return r, true
	}
	before := p.attempt
	p.attempt = r.Outcome
	return r, p.attempt != before && !errors.Is(r.Err, errOvertaken) && !errors.Is(r.Err, errStopping)
}

// carryOut is do for who has the output's turn.
func (o *orders) carryOut(ctx context.Context, or order, p *output) orderResult {
	now := o.clock.Mono()
	switch {
	case o.isStopping() && !or.last:
		return refused(errStopping)
	case or.first && p.ordered:
		return refused(errOvertaken)
	case !or.Force && !or.last && or.Value == p.confirmed && now.Sub(p.at) < sameValueFor:
		p.ordered = p.ordered || !or.first
		return orderResult{Outcome: orderUnchanged, Value: p.confirmed}
	}
	if wait := p.admit(now, or.Value); wait > 0 && !or.last {
		return orderResult{Outcome: orderRefused, Retry: wait,
			Err: fmt.Errorf("%w: wait for another %s", errTooSoon, wait.Round(100*time.Millisecond))}
	}
	p.ordered = p.ordered || !or.first
	p.tokens--
	p.sent, p.sentAt = or.Value, now
	p.confirmed = telemetry.Value{}
	err := p.line.Write(ctx, or.Point, or.Value)

	var unknown *drivers.OutcomeUnknownError
	var notTaken *drivers.NotTakenError
	switch {
	case err == nil:
		p.confirmed, p.at = or.Value, o.clock.Mono()
		return orderResult{Outcome: orderDone, Value: or.Value}
	case errors.As(err, &unknown):
		return orderResult{Outcome: orderUnknown, Err: err}
	case errors.As(err, &notTaken):
		return orderResult{Outcome: orderNotTaken, Value: notTaken.Got, Err: err}
	}
	return refused(err)
}

// admit returns how long the rate makes a write of v wait; 0 lets it through.
func (p *output) admit(now telemetry.Mono, v telemetry.Value) time.Duration {
	every := p.Interval
	if every <= 0 {
		every = orderInterval
	}
	p.tokens = min(p.tokens+float64(now.Sub(p.filled))/float64(every), orderBurst)
	p.filled = now
	if p.tokens < 1 {
		return max(time.Duration((1-p.tokens)*float64(every)), time.Millisecond)
	}
	if p.Interval > 0 && !p.sent.IsZero() && v != p.sent {
		return max(p.Interval-now.Sub(p.sentAt), 0) // What the site file says spares the hardware from the first change on.
	}
	return 0
}

// checkValue says what is wrong with v as a value of def.
func checkValue(def *telemetry.PointDef, v telemetry.Value) error {
	if v.Kind() != def.Kind {
		return fmt.Errorf("%w: %s is %s, the value is %s", errWrongKind, def.Name, def.Kind, v.Kind())
	}
	if def.Kind == telemetry.Float && (math.IsNaN(v.Float()) || math.IsInf(v.Float(), 0)) {
		return fmt.Errorf("%w: not a number", errWrongKind)
	}
	if def.Kind == telemetry.Enum && len(def.Enum) > 0 {
		names := make([]string, 0, len(def.Enum))
		for _, e := range def.Enum {
			if e.Code == v.Int() {
				return nil
			}
			names = append(names, fmt.Sprintf("%d (%s)", e.Code, e.Name))
		}
		return fmt.Errorf("%w: %s is one of %s", drivers.ErrRange, def.Name, strings.Join(names, ", "))
	}
	return nil
}

// forget drops what is known of the outputs of a bus: a tool wrote to it past the points.
func (o *orders) forget(bus int) {
	for _, p := range o.outputs {
		if p.Bus != bus {
			continue
		}
		select {
		case <-p.turn:
			p.confirmed = telemetry.Value{}
			p.turn <- struct{}{}
		default: // An order is being carried out just now: what it confirms is newer.
		}
	}
}

// stop refuses every further order but those of the gateway's stop.
func (o *orders) stop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stopping = true
}

func (o *orders) isStopping() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.stopping
}

// record leaves the order in the audit record and tells it in the log.
func (o *orders) record(or order, r orderResult, took time.Duration) {
	e := audit.Entry{What: "write", By: or.By, Note: or.Note, Value: auditValue(or.Value), Outcome: r.Outcome, TookMS: milliseconds(took)}
	if int(or.Point) < len(o.inv.Points) {
		s := o.inv.Series(or.Point)
		e.Device, e.Point = s.Device, s.Point
	}
	if r.Err != nil {
		e.Error = r.Err.Error()
	}
	if !r.Value.IsZero() && r.Value != or.Value {
		e.Read = auditValue(r.Value)
	}
	addAudit(o.audit, o.clock, e)
	o.log.Info("order "+r.Outcome, zap.String("device", e.Device), zap.String("point", e.Point), zap.Stringer("value", or.Value),
		zap.String("by", or.By), zap.Error(r.Err))
}

// addAudit gives e its time and adds it.
func addAudit(record *audit.Record, clock *telemetry.Clock, e audit.Entry) {
	now := clock.Now()
	e.Time, e.BootS = now.Wall, time.Duration(now.Mono).Round(time.Millisecond).Seconds()
	record.Add(e)
}

// auditValue returns v as JSON has it; nil for no value.
func auditValue(v telemetry.Value) any {
	switch v.Kind() {
	case telemetry.Float:
		return v.Float()
	case telemetry.Int, telemetry.Enum:
		return v.Int()
	case telemetry.Bool:
		return v.Bool()
	case telemetry.KindText:
		return v.Text()
	}
	return nil
}

func milliseconds(d time.Duration) float64 { return math.Round(float64(d)/1e5) / 10 }
