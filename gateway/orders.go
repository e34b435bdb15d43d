package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"linli/drivers"
	"linli/internal/audit"
	"linli/internal/live"
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
	// ordersAtOnce bounds the orders of one bus that are being carried out or wait; further ones are refused. Rules have
	// places of their own, for which they wait. Together they are less than what a drivers.Line takes, so that there is room
	// for those of the gateway's stop.
	ordersAtOnce, rulesAtOnce = 44, 4
	// stopGrace is how long orders that were begun before the gateway's stop may still take.
	stopGrace = 500 * time.Millisecond
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
	orderBegun     = audit.Begun // in the audit record alone: about to be sent
	orderDryRun    = "dry_run"   // in the audit record alone: a rule's, which the site file keeps from being sent
)

// Why an order is refused, besides the errors of package drivers.
var (
	errNoName    = errors.New("an order needs the name of who gives it")
	errReserved  = errors.New("this name is the gateway's own")
	errWrongKind = errors.New("not a value of the point's kind")
	errTooSoon   = errors.New("too many writes of this point")
	errStopping  = errors.New("the gateway is stopping")
	errOvertaken = errors.New("somebody has ordered otherwise meanwhile")
	errWaited    = errors.New("it had no turn")
	errUnread    = errors.New("the next reading decides")
	errLocked    = errors.New("another output must be off first")
)

// order asks for one point to be set.
type order struct {
	Point telemetry.PointID
	Value telemetry.Value
	By    string // who asks; never empty
	Note  string
	// City says that it came as a signed command of the city.
	City bool
	// Force sends it even where the same value was confirmed just now.
	Force bool
	// first makes it the order of the gateway at start, which anybody else's order of the point makes void.
	first bool
	// last makes it the order of the gateway at stop, beside which there is no other, and which no rate holds up.
	last bool
	// rule makes it the order of what follows from an alert. It waits for no record, and goes into it where something else
	// became of it than of the attempt before: what that was is in before, "" at the first. void says that it is not wanted
	// any more; it is asked when the order has its turn.
	rule     bool
	severity telemetry.Severity // of the alert that wants it
	before   string
	void     func() bool
	limit    time.Duration // 0 means orderLimit; what a rule waits for its turn does not count
	// number is Do's: it joins the lines of the audit record.
	number uint64
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
	// begun: it reached the bus, whose answer this is.
	begun bool
	at    telemetry.Mono // of that answer; of the one before with unchanged
}

// pointWriter is what orders need of a *drivers.Line.
type pointWriter interface {
	Write(ctx context.Context, point telemetry.PointID, v telemetry.Value) error
}

// orders is the one path of writes: whoever sets an output, a person, a tool, a rule or the gateway itself at start
// and stop, comes through Do. It asks for a name, checks kind and rate, sends nothing that was confirmed just now,
// lets one order of a point through at a time, and leaves a line in the audit record before it is sent and one after.
// The value's range and the reading back are the driver's. A bus that is dead or flooded holds up no other.
//
// It is safe for concurrent use.
type orders struct {
	inv   *telemetry.Inventory
	clock *telemetry.Clock
	audit *audit.Record
	log   *zap.Logger

	outputs map[telemetry.PointID]*output
	slots   []chan struct{} // of each bus
	rules   []*turns        // of each bus, for the orders of rules
	// reads returns what is known of a point, and by is told of every order of somebody else than rules and gateway that
	// was carried out or may have been (outcome orderUnknown), before another order of the point has its turn. Both may be nil.
	reads  func(telemetry.PointID) live.Entry
	by     func(or order, outcome string)
	number atomic.Uint64 // of the last order
	// ended is cancelled a little after stop: what was begun before must not follow an on_stop.
	ended  context.Context
	finish context.CancelFunc

	mu       sync.Mutex // an output's is never taken while it is held
	stopping bool       // guarded by mu
	lit      map[telemetry.PointID]litOutput
}

// output is one point that can be written.
type output struct {
	site.Output
	line pointWriter
	turn chan struct{} // holds one token: who has it may write

	mu        sync.Mutex // guards what follows
	tokens    float64    // of the rate; orderBurst at most
	filled    telemetry.Mono
	sent      telemetry.Value // last that was sent, or may have been; zero: none
	sentAt    telemetry.Mono
	confirmed telemetry.Value // last read back; zero: none, or something else happened since
	at        telemetry.Mono
	wiped     uint64 // how often a tool wrote past the points
	ordered   bool   // by somebody else than the gateway at start, and sent; or wanted by a rule
	off       bool   // switched off by us, since offAt
	offAt     telemetry.Mono
	attempt   string // what became of the last attempt at its on_start: repetitions are not told
}

// newOrders returns the path to the site's outputs. lines is parallel to s.Buses.
func newOrders(s *site.Site, lines []pointWriter, clock *telemetry.Clock, record *audit.Record, log *zap.Logger) *orders {
	o := &orders{inv: s.Inventory, clock: clock, audit: record, log: log, outputs: map[telemetry.PointID]*output{}, lit: map[telemetry.PointID]litOutput{}}
	o.ended, o.finish = context.WithCancel(context.Background())
	for i := range s.Buses {
		o.slots = append(o.slots, make(chan struct{}, ordersAtOnce))
		o.rules = append(o.rules, newTurns(&s.Buses[i], clock))
	}
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
	or.number = o.number.Add(1)
	result, tell := o.do(ctx, or)
	if or.rule {
		tell = or.tells(result)
	}
	if tell {
		o.record(or, result, o.clock.Mono().Sub(began))
	}
	return result
}

func refused(err error) orderResult { return orderResult{Outcome: orderRefused, Err: err} }

// do is Do without the record, and says whether there is something to record.
func (o *orders) do(ctx context.Context, or order) (orderResult, bool) {
	by := strings.TrimSpace(or.By)
	if by == "" {
		return refused(errNoName), true
	}
	if strings.EqualFold(by, byGateway) && !or.own() {
		return refused(errReserved), true
	}
	p := o.outputs[or.Point]
	if p == nil {
		return refused(drivers.ErrNotWritable), true
	}
	if err := checkValue(o.inv.Points[or.Point].Def, or.Value); err != nil {
		return refused(err), true
	}
	// Everything that is known beforehand is said at once: nobody waits behind a dead unit to hear that it was too soon.
	if r, final := o.admit(or, p); final {
		if r.Outcome == orderUnchanged {
			o.tellBy(or, r.Outcome)
		}
		return r, !or.first
	}
	if or.limit == 0 {
		or.limit = orderLimit
	}
	leave, err := o.slot(ctx, or, p.Bus)
	if err != nil {
		p.refund()
		return refused(err), true
	}
	defer leave()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), or.limit)
	defer cancel()
	if !or.last {
		defer context.AfterFunc(o.ended, cancel)()
	}
	select {
	case <-p.turn:
		defer func() { p.turn <- struct{}{} }()
	case <-ctx.Done():
		if o.isStopping() && !or.last {
			return refused(errStopping), true
		}
		return or.waited(fmt.Errorf("another order of the point takes too long: %w", ctx.Err())), true
	}
	r := o.carryOut(ctx, or, p)
	if !or.first {
		return r, true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.attempt
	p.attempt = r.Outcome
	return r, p.attempt != before && !errors.Is(r.Err, errOvertaken) && !errors.Is(r.Err, errStopping)
}

// own reports whether it is the gateway's by itself.
func (or *order) own() bool { return or.first || or.last }

// admit returns what can be said of an order before it takes its turn, and otherwise takes its share of the rate.
func (o *orders) admit(or order, p *output) (r orderResult, final bool) {
	if o.isStopping() && !or.last {
		return refused(errStopping), true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := o.clock.Mono()
	if p.known(or, now) {
		return orderResult{Outcome: orderUnchanged, Value: p.confirmed, at: p.at}, true
	}
	if wait := p.refill(now, or.Value); wait > 0 && !or.last {
		return tooSoon(wait), true
	}
	p.tokens--
	return orderResult{}, false
}

// known reports whether an order asks for what was confirmed just now. p.mu is held.
func (p *output) known(or order, now telemetry.Mono) bool {
	same := !or.Force && !or.last && or.Value == p.confirmed && now.Sub(p.at) < sameValueFor
	p.ordered = p.ordered || same && !or.first
	return same
}

// refund gives back what admit took of the rate, for an order of which nothing came.
func (p *output) refund() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tokens = min(p.tokens+1, orderBurst)
}

// waited returns what became of an order that waited in vain. A rule's tries again soon: that is no failure of the output.
func (or *order) waited(err error) orderResult {
	r := refused(err)
	if or.rule {
		r.Retry, r.Err = driveFirst, fmt.Errorf("%w: %w", errWaited, err)
	}
	return r
}

func tooSoon(wait time.Duration) orderResult {
	return orderResult{Outcome: orderRefused, Retry: wait,
		Err: fmt.Errorf("%w: wait for another %s", errTooSoon, wait.Round(100*time.Millisecond))}
}

// carryOut is do for who has the output's turn.
func (o *orders) carryOut(ctx context.Context, or order, p *output) orderResult {
	r, wiped, final := o.ready(or, p)
	if !final && !o.light(or, p) {
		if or.rule {
			p.refund() // It asks again soon.
		}
		return o.inTheWay(p)
	}
	if final {
		if r.Outcome == orderUnchanged {
			o.tellBy(or, r.Outcome)
		}
		return r
	}
	if or.before == "" && (!or.first || p.attempt == "") { // Of one that is tried again and again once is enough.
		e := o.entry(or)
		stamp(o.clock, &e)
		if or.rule {
			o.audit.BeginAtOnce(e)
		} else {
			o.audit.Begin(e)
		}
	}
	wasOff := p.MinOff > 0 && o.knownOff(p)
	err := p.line.Write(ctx, or.Point, or.Value)
	now := o.clock.Mono()
	r = orderResult{Outcome: orderDone, Value: or.Value, begun: true}
	var unknown *drivers.OutcomeUnknownError
	var notTaken *drivers.NotTakenError
	switch {
	case err == nil:
	case errors.As(err, &unknown):
		r = orderResult{Outcome: orderUnknown, Err: err, begun: true}
	case errors.As(err, &notTaken):
		r = orderResult{Outcome: orderNotTaken, Value: notTaken.Got, Err: err, begun: true}
	case errors.Is(err, context.DeadlineExceeded): // The line had no time for it.
		r = or.waited(err)
		r.begun = true
	case errors.Is(err, context.Canceled) && o.isStopping():
		r = orderResult{Outcome: orderRefused, Err: fmt.Errorf("%w: %w", errStopping, err), begun: true}
	default: // Nothing changed: it neither holds up the next one nor stands in the way of on_start.
		r = orderResult{Outcome: orderRefused, Err: err, begun: true}
	}
	r.at = now
	o.lightIs(or, p, r, now)
	o.rules[p.Bus].heard(or.Point, err, now)
	if r.Outcome == orderRefused {
		return r
	}
	o.tellBy(or, r.Outcome)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ordered = p.ordered || !or.first
	p.sent, p.sentAt = or.Value, now
	p.switched(or.Value, r, now, wasOff)
	if err == nil && p.wiped == wiped {
		p.confirmed, p.at = or.Value, now
	}
	return r
}

// ready looks at what may have changed while an order waited for its turn.
func (o *orders) ready(or order, p *output) (r orderResult, wiped uint64, final bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := o.clock.Mono()
	switch {
	case o.isStopping() && !or.last:
		return refused(errStopping), 0, true
	case or.first && p.ordered, or.void != nil && or.void():
		return refused(errOvertaken), 0, true
	case p.known(or, now):
		p.tokens = min(p.tokens+1, orderBurst) // Many people who want the same are one write.
		return orderResult{Outcome: orderUnchanged, Value: p.confirmed, at: p.at}, 0, true
	}
	if wait := p.apart(now, or.Value); wait > 0 && !or.last {
		return tooSoon(wait), 0, true
	}
	p.confirmed = telemetry.Value{}
	return orderResult{}, p.wiped, false
}

// refill returns how long the rate makes a write of v wait; 0 lets it through. p.mu is held.
func (p *output) refill(now telemetry.Mono, v telemetry.Value) time.Duration {
	every := p.Interval
	if every <= 0 {
		every = orderInterval
	}
	p.tokens = min(p.tokens+float64(now.Sub(p.filled))/float64(every), orderBurst)
	p.filled = now
	if p.tokens < 1 {
		return max(time.Duration((1-p.tokens)*float64(every)), time.Millisecond)
	}
	return p.apart(now, v)
}

// apart returns how long the site file's interval and min_off make a change to v wait. They spare the hardware from the
// first change on. p.mu is held.
func (p *output) apart(now telemetry.Mono, v telemetry.Value) (wait time.Duration) {
	if p.Interval > 0 && !p.sent.IsZero() && v != p.sent {
		wait = p.Interval - now.Sub(p.sentAt)
	}
	if p.MinOff > 0 && p.off && v.Bool() {
		wait = max(wait, p.MinOff-now.Sub(p.offAt))
	}
	return max(wait, 0)
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
		if p.Bus == bus {
			p.mu.Lock()
			p.confirmed = telemetry.Value{}
			p.wiped++
			p.mu.Unlock()
		}
	}
}

// stop refuses every further order but those of the gateway's stop, and ends those that were begun before it once
// stopGrace has passed.
func (o *orders) stop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.stopping {
		o.stopping = true
		time.AfterFunc(stopGrace, o.finish)
	}
}

func (o *orders) isStopping() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.stopping
}

// entry returns what the audit record says of an order before it is known what becomes of it.
func (o *orders) entry(or order) audit.Entry {
	e := audit.Entry{What: "write", By: or.By, Origin: audit.OriginAPI, Note: or.Note, Value: or.Value.JSON(), Order: or.number}
	switch {
	case or.own():
		e.Origin = audit.OriginGateway
	case or.rule:
		e.Origin = audit.OriginRule
	case or.City:
		e.Origin = audit.OriginCity
	}
	if int(or.Point) < len(o.inv.Points) {
		s := o.inv.Series(or.Point)
		e.Device, e.Point = s.Device, s.Point
	}
	return e
}

// record leaves what became of an order in the audit record and tells it in the log.
func (o *orders) record(or order, r orderResult, took time.Duration) {
	e := o.entry(or)
	e.Outcome, e.TookMS, e.Error = r.Outcome, milliseconds(took), inOneLine(r.Err)
	if !r.Value.IsZero() && r.Value != or.Value {
		e.Read = r.Value.JSON()
	}
	stamp(o.clock, &e)
	// What changed nothing comes in floods where a script runs wild: neither record nor log fill with it.
	if !r.begun && !or.own() && !or.rule {
		o.audit.Fold(e)
		o.log.Debug("order "+r.Outcome, zap.String("device", e.Device), zap.String("point", e.Point), zap.String("by", or.By), zap.Error(r.Err))
		return
	}
	o.audit.Add(e)
	o.log.Info("order "+r.Outcome, zap.String("device", e.Device), zap.String("point", e.Point), zap.Stringer("value", or.Value),
		zap.String("by", or.By), zap.Error(r.Err))
}

// stamp gives e its time.
func stamp(clock *telemetry.Clock, e *audit.Entry) {
	now := clock.Now()
	e.Time, e.BootS = now.Wall, time.Duration(now.Mono).Round(time.Millisecond).Seconds()
}

// recordAlone leaves what a tool did while no gateway runs in the record of the site's gateway, as far as there is one
// here, and says on stderr where that failed.
func recordAlone(stderr io.Writer, s *site.Site, e audit.Entry) {
	dir := defaultState
	if s != nil {
		dir = stateDir("", s)
	}
	stamp(newClock(), &e)
	if err := audit.AppendAlone(dir, e); err != nil {
		fmt.Fprintln(stderr, "not in the gateway's record:", err)
	}
}

// siteOf returns the site of a file for recordAlone, nil where there is none to be read.
func siteOf(file string) *site.Site {
	if p, err := loadPlan(file); file != "" && err == nil {
		return p.site
	}
	return nil
}

// inOneLine writes an error for people and records: what was joined stands in one line, and nothing in it twice.
func inOneLine(err error) string {
	if err == nil {
		return ""
	}
	var parts []string
	for line := range strings.Lines(err.Error()) {
		line = strings.TrimSpace(line)
		if line != "" && !slices.ContainsFunc(parts, func(p string) bool { return strings.HasSuffix(p, line) }) {
			parts = append(parts, line)
		}
	}
	return strings.Join(parts, "; ")
}

func milliseconds(d time.Duration) float64 { return math.Round(float64(d)/1e5) / 10 }
