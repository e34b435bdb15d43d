package main

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"go.uber.org/zap"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
	"linli/internal/console"
	"linli/internal/site"
	"linli/internal/telemetry"
	"linli/rules/response"
)

const (
	// driveFirst and driveLongest are the waits between attempts at an output that cannot be set.
	driveFirst, driveLongest = 100 * time.Millisecond, 10 * time.Second
	// driveLocked is the longest wait for an output that it is interlocked with.
	driveLocked = time.Second
	// driveUnread is the longest wait for the first reading of one.
	driveUnread = 200 * time.Millisecond
	// driveLimit bounds one attempt, so that what is wanted instead meanwhile does not wait for long.
	driveLimit = 5 * time.Second
	// driveBack is the shortest time between two attempts at an output whose unit answers again.
	driveBack = time.Second
	// driveCalm is how long an output must have stayed as it was set before the waits begin anew.
	driveCalm = 30 * time.Second
)

// drive carries out what follows from alerts: it keeps what rules want of each output now and has orders set it, again and
// again until it is done, and once more where the output is read as something else while it is wanted. Of what was wanted
// before nothing is left: only the newest counts. One goroutine serves one output, so none waits for another.
//
// What people order takes an output from it (manual).
//
// want, manual, observe, taken and inDemand may be called from any goroutine; run serves.
type drive struct {
	orders *orders
	inv    *telemetry.Inventory
	dry    bool // nothing is sent
	log    *zap.Logger

	keeper keeper
	// lefts are the outputs that stay as they were left until their rule is decided, at most until leftUntil. They belong to
	// the fan-in's goroutine.
	lefts     []*driven
	leftUntil telemetry.Mono
	points    []*driven
	byID      []*driven // index = PointID; nil where that is no output

	mu     sync.Mutex
	given  []handOver    // guarded by mu; one of a point at most
	handed chan struct{} // holds one: somebody has ordered by hand
}

// handOver says that a person or a tool ordered a point.
type handOver struct {
	point telemetry.PointID
	value telemetry.Value
	turn  uint64 // the driven's, after it
}

// driven is one output as rules see it.
type driven struct {
	point telemetry.PointID
	step  float64       // in which a number is read back; 0: not known
	stir  chan struct{} // holds one: look again

	mu    sync.Mutex // guards what follows
	turn  uint64     // counts what was wanted and taken over
	want  response.Command
	live  bool           // want is in force
	keep  bool           // it is to be kept so, not only set once
	ours  bool           // a rule has set it, or may have, and nobody has set it to rest since or taken it over
	left  bool           // it is as the last process left it, and want says for which alert; not live
	done  bool           // it has been set
	at    telemetry.Mono // when it was
	seen  telemetry.Sample
	hand  string // who wants it, of what somebody ordered of whom nobody knows whether the unit took it; "": a rule
	away  bool   // the last attempt had no answer, at the moment tried
	back  bool   // and there was one since
	tried telemetry.Mono
}

// newDrive returns what keeps the site's outputs as rules want them. It remembers in the state directory dir what rules have
// set; "" remembers nothing.
func newDrive(s *site.Site, o *orders, dir string, log *zap.Logger) *drive {
	d := &drive{keeper: newKeeper(dir, len(s.Outputs)), orders: o, inv: s.Inventory, dry: s.DryRun, log: log, handed: make(chan struct{}, 1)}
	for i := range s.Outputs {
		p := &driven{point: s.Outputs[i].Point, step: stepOf(&s.Buses[s.Outputs[i].Bus], s.Outputs[i].Point), stir: make(chan struct{}, 1)}
		d.points = append(d.points, p)
		d.byID = append(d.byID, make([]*driven, max(int(p.point)+1-len(d.byID), 0))...)
		d.byID[p.point] = p
	}
	return d
}

// of returns what is kept of an output, nil for a point that is none.
func (d *drive) of(point telemetry.PointID) *driven {
	if int(point) >= len(d.byID) {
		return nil
	}
	return d.byID[point]
}

// run serves every output until ctx ends.
func (d *drive) run(ctx context.Context) error {
	var group sync.WaitGroup
	for _, p := range d.points {
		group.Go(func() { d.serve(ctx, p) })
	}
	served, kept := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(kept)
		if d.keeper.file != nil && !d.dry { // A dry run leaves what was left to the next one.
			d.keepFile(served)
		}
	}()
	group.Wait()
	<-ctx.Done() // A site may have no outputs.
	close(served)
	<-kept
	return nil
}

// want takes a command. It never waits.
func (d *drive) want(c response.Command) {
	p := d.of(c.Point)
	if p == nil {
		d.log.Error("a rule commands what is no output", zap.Uint32("point", uint32(c.Point)), zap.String("alert", c.For.Alert), zap.String("subject", c.For.Subject))
		return
	}
	if d.dry {
		o := ruleOrder(c)
		o.number = d.orders.number.Add(1)
		d.orders.record(o, orderResult{Outcome: orderDryRun}, 0)
		return
	}
	d.orders.claim(c.Point)
	p.mu.Lock()
	p.turn++
	p.want, p.live, p.done, p.left = c, true, false, false
	p.keep = c.Why == response.WhyDemanded || c.Why == response.WhyReasserted
	p.ours, p.hand = true, ""
	p.mu.Unlock()
	p.wake()
	d.orders.look(p.point)
	d.stirKeeper()
}

// ruleOrder returns the order that carries out a command.
func ruleOrder(c response.Command) order {
	return order{Point: c.Point, Value: c.Value, By: "rule " + c.For.Alert + " " + c.For.Subject, Note: c.Why.String(), rule: true, severity: c.Severity, limit: driveLimit}
}

// manual takes note that somebody ordered a point, and lets go of it where that is not what is wanted of it. Of what a rule
// has set it lets go only once the unit has it as it was ordered: until then that is what is wanted of it. It is called before
// any other order of the point has its turn.
func (d *drive) manual(or order, outcome string) {
	point, v := or.Point, or.Value
	p := d.of(point)
	if p == nil {
		return
	}
	p.mu.Lock()
	same := p.live && p.want.Value == v
	switch {
	case !same && outcome == orderUnknown && p.ours:
		p.turn++
		p.want.Value, p.want.Severity, p.hand = v, 0, or.By
		p.live, p.keep, p.done, p.left, p.tried = true, false, false, false, d.orders.clock.Mono()
		p.wake()
	case !same, p.hand != "" && outcome != orderUnknown:
		p.turn++
		p.live, p.ours, p.left, p.hand = false, false, false, ""
	}
	turn := p.turn
	p.mu.Unlock()
	if same {
		return
	}
	d.orders.look(point)
	d.stirKeeper()
	d.mu.Lock()
	for i := range d.given {
		if d.given[i].point == point {
			d.given = append(d.given[:i], d.given[i+1:]...)
			break
		}
	}
	d.given = append(d.given, handOver{point, v, turn})
	d.mu.Unlock()
	select {
	case d.handed <- struct{}{}:
	default:
	}
}

// taken returns what was ordered by hand since the last call, without what a rule has wanted otherwise since.
func (d *drive) taken() []handOver {
	d.mu.Lock()
	given := d.given
	d.given = nil
	d.mu.Unlock()
	kept := given[:0]
	for _, g := range given {
		p := d.of(g.point)
		p.mu.Lock()
		if p.turn == g.turn {
			kept = append(kept, g)
		}
		p.mu.Unlock()
	}
	return kept
}

// inDemand lists the outputs that rules want to be something else than at rest, or have left so, in the order of the site file.
func (d *drive) inDemand() (list []console.OutputStatus) {
	for _, p := range d.points {
		p.mu.Lock()
		c, on, done, left := p.want, p.live && p.keep, p.done, p.left
		p.mu.Unlock()
		if on || left {
			s := d.inv.Series(p.point)
			list = append(list, console.OutputStatus{Point: uint32(p.point), Device: s.Device, Name: s.Point, Value: c.Value.JSON(),
				Alert: c.For.Alert, Subject: c.For.Subject, Done: done || left, Left: left})
		}
	}
	return list
}

// observe looks at what was read: an output that is wanted and is something else is set again.
func (d *drive) observe(batch []telemetry.Sample) {
	for i := range batch {
		s := &batch[i]
		p := d.of(s.Point)
		if p == nil || s.Quality.Bad() {
			continue
		}
		p.mu.Lock()
		p.seen = *s
		stir := p.lost()
		if p.live && !p.done && s.Time > p.tried {
			if p.hand != "" && p.asWanted(s.Value) { // As it was ordered by hand.
				p.turn++
				p.live, p.ours, p.hand = false, false, ""
				d.stirKeeper()
			}
			stir = stir || p.away
			p.away, p.back = false, p.back || p.away
		}
		back := stir && p.back
		p.mu.Unlock()
		if back {
			d.orders.answers(s.Point, s.Time)
		}
		if stir {
			p.wake()
		}
	}
}

// lost reports whether an output that was set and is wanted so was read as something else since, which makes it due.
// p.mu is held.
func (p *driven) lost() bool {
	lost := p.live && p.keep && p.done && p.seen.Time > p.at && !p.asWanted(p.seen.Value)
	p.done = p.done && !lost
	return lost
}

// failed takes note of an attempt that came to nothing at a moment.
func (p *driven) failed(err error, at telemetry.Mono) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tried, p.away, p.back = at, !answered(err) && (errors.As(err, new(*drivers.OutcomeUnknownError)) || errors.Is(err, drivers.ErrSilent)), false
}

// isBack reports, once, whether there was an answer since the last attempt, which had none at the moment tried.
func (p *driven) isBack() (back bool, tried telemetry.Mono) {
	p.mu.Lock()
	defer p.mu.Unlock()
	back, p.back = p.back, false
	return back, p.tried
}

// asWanted reports whether v is what is wanted: a number as near as the register tells, or as a thousandth where it has no
// steps. p.mu is held.
func (p *driven) asWanted(v telemetry.Value) bool {
	w := p.want.Value
	if v == w || v.Kind() != telemetry.Float || w.Kind() != telemetry.Float {
		return v == w
	}
	near := p.step
	if near == 0 {
		near = math.Abs(w.Float()) / 1000
	}
	return math.Abs(v.Float()-w.Float()) <= near*(1+1e-9)
}

// stepOf returns the step in which a bus has a number, 0 where it has none or it is not known.
func stepOf(b *site.Bus, point telemetry.PointID) float64 {
	for i := range b.Units {
		u := &b.Units[i]
		for _, bind := range u.Bindings {
			if bind.Point != point || u.Profile == nil || bind.Channel >= len(u.Profile.Channels) {
				continue
			}
			ch := &u.Profile.Channels[bind.Channel]
			if ch.Encoding == firmwareconfig.EncF32 || ch.Encoding == firmwareconfig.EncF64 || ch.ScaleFrom != nil {
				return 0
			}
			step := math.Abs(ch.Scale * bind.UnitFactor)
			if m := bind.Map; m != nil {
				step *= math.Abs((m.Y1 - m.Y0) / (m.X1 - m.X0))
			}
			return step
		}
	}
	return 0
}

func (p *driven) wake() {
	select {
	case p.stir <- struct{}{}:
	default: // It looks already.
	}
}

// due returns what is to be set, and whether there is something.
// hand says who wants it where that is no rule.
func (p *driven) due() (c response.Command, hand string, turn uint64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.want, p.hand, p.turn, p.live && !p.done
}

// void returns whether something else is wanted by now.
func (p *driven) void(turn uint64) func() bool {
	return func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.turn != turn
	}
}

// settle takes note that what was wanted at turn was set at a moment, and reports whether that is already not so any more.
func (p *driven) settle(turn uint64, at telemetry.Mono) (lost bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.turn != turn {
		return false // Whoever wanted otherwise has woken it.
	}
	p.done, p.at, p.live, p.ours, p.hand = true, at, p.keep, p.keep, "" // What is at rest is anybody's.
	return p.lost()
}

// serve sets one output whenever that is due, until ctx ends.
func (d *drive) serve(ctx context.Context, p *driven) {
	var (
		retry  = time.NewTimer(time.Hour)
		wait   time.Duration  // before the next attempt, after a failure
		until  telemetry.Mono // no attempt at the same before this
		turn   uint64         // of the last attempt
		before string         // what became of it
		again  bool           // it was set once, at calm, and has been lost
		calm   telemetry.Mono
	)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.stir:
		case <-retry.C:
		}
		c, hand, n, ok := p.due()
		if !ok {
			continue
		}
		now := d.orders.clock.Mono()
		if n != turn {
			turn, before, wait, until, again = n, "", 0, 0, false
		}
		if again && now.Sub(calm) >= driveCalm {
			before, wait, until = "", 0, 0
		}
		if back, tried := p.isBack(); back { // Not with every reading where it answers these alone.
			wait, until = 0, min(until, tried.Add(driveBack))
		}
		if now < until {
			retry.Reset(until.Sub(now))
			continue
		}
		o := ruleOrder(c)
		o.before, o.void, o.Force = before, p.void(n), again
		if again {
			o.Note = "set again"
		}
		if hand != "" {
			o.By, o.Note = hand, "ordered before, and nobody knew whether it was done"
		}
		r := d.orders.Do(ctx, o)
		now = d.orders.clock.Mono()
		switch {
		case r.Outcome == orderDone || r.Outcome == orderUnchanged:
			if before = ""; again { // Where it is lost again soon, the next attempt waits, and is not told.
				before, wait = orderDone, min(max(2*wait, driveFirst), driveLongest)
			}
			again, calm, until = true, now, now.Add(wait)
			if p.settle(n, r.at) {
				p.wake()
			}
			d.stirKeeper()
			continue
		case errors.Is(r.Err, errStopping):
			<-ctx.Done() // Nothing follows an on_stop.
			return
		case errors.Is(r.Err, errOvertaken):
			p.wake()
			continue
		case r.Retry > 0:
			until = now.Add(r.Retry)
		default:
			before = r.Outcome
			p.failed(r.Err, now)
			wait = min(max(2*wait, driveFirst), driveLongest)
			if errors.Is(r.Err, errLocked) {
				wait = min(wait, driveLocked) // That ends without anybody telling.
				if errors.Is(r.Err, errUnread) {
					wait = min(wait, driveUnread)
				}
			}
			until = now.Add(wait)
		}
		retry.Reset(until.Sub(now))
	}
}
