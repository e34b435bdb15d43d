package main

import (
	"context"
	"errors"
	"fmt"

	"linli/drivers"
	"linli/internal/telemetry"
)

// litOutput is what orders know of an output that others are locked against.
type litOutput struct {
	sending bool           // on, now
	known   bool           // it was confirmed once since the start: what went before nobody knows
	on      bool           // or may be
	at      telemetry.Mono // since when that is so; what is read later says more
}

// slot takes one of the places of a bus's orders and returns what gives it back. Rules wait for their turn.
func (o *orders) slot(ctx context.Context, or order, bus int) (leave func(), err error) {
	switch {
	case or.last:
		return func() {}, nil
	case or.rule:
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(o.ended, cancel)()
		if err := o.rules[bus].enter(ctx, or); err != nil {
			return nil, err
		}
		return func() { o.rules[bus].leave(or.Point) }, nil
	}
	select {
	case o.slots[bus] <- struct{}{}:
		return func() { <-o.slots[bus] }, nil
	default:
		return nil, drivers.ErrBusy
	}
}

// tells reports whether what became of a rule's order is worth a line: something else than of the attempt before, and no
// mere wait.
func (or *order) tells(r orderResult) bool {
	return r.Outcome != or.before && !errors.Is(r.Err, errTooSoon) && !errors.Is(r.Err, errWaited) && !errors.Is(r.Err, errOvertaken) && !errors.Is(r.Err, errStopping)
}

// tellBy tells who keeps what rules want that somebody else has ordered the point. What the unit has not taken is no change.
func (o *orders) tellBy(or order, outcome string) {
	if o.by != nil && !or.rule && !or.own() && outcome != orderNotTaken {
		o.by(or, outcome)
	}
}

// look has a rule's order of a point that is void by now leave those that wait.
func (o *orders) look(point telemetry.PointID) {
	if p := o.outputs[point]; p != nil {
		o.rules[p.Bus].look()
	}
}

// answers takes note that a point's unit answered at a moment.
func (o *orders) answers(point telemetry.PointID, at telemetry.Mono) {
	if p := o.outputs[point]; p != nil {
		o.rules[p.Bus].answers(point, at)
	}
}

// claim takes note that a rule wants something of a point: its on_start is void.
func (o *orders) claim(point telemetry.PointID) {
	if p := o.outputs[point]; p != nil {
		p.mu.Lock()
		p.ordered = true
		p.mu.Unlock()
	}
}

// light marks an output as one that is being switched on; false where one that is locked against it is on, or may be. Of
// two that are ordered at the same time the first wins.
func (o *orders) light(or order, p *output) bool {
	if len(p.Interlock) == 0 || !or.Value.Bool() {
		return true
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, other := range p.Interlock {
		if o.isLit(other) {
			return false
		}
	}
	l := o.lit[p.Point]
	l.sending = true
	o.lit[p.Point] = l
	return true
}

// lightIs takes what became of an order of p, which ended at now.
func (o *orders) lightIs(or order, p *output, r orderResult, now telemetry.Mono) {
	if len(p.Interlock) == 0 {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	l := o.lit[p.Point]
	switch {
	case r.Outcome == orderRefused: // Nothing changed.
	case r.Outcome == orderUnknown:
		l.on, l.at = or.Value.Bool() || o.isLit(p.Point), now
	default:
		l.on, l.at, l.known = r.Value.Bool(), now, true // as it was read back
	}
	l.sending = false
	o.lit[p.Point] = l
}

// isLit reports whether an output is on, or may be: also where nothing was read or confirmed of it since the start.
// o.mu is held.
func (o *orders) isLit(point telemetry.PointID) bool {
	lit, _ := o.litKnown(point)
	return lit
}

// litKnown is isLit, and says whether anything is known of the output. o.mu is held.
func (o *orders) litKnown(point telemetry.PointID) (lit, known bool) {
	l := o.lit[point]
	if l.sending {
		return true, true
	}
	if on, read := o.readSince(point, l.at); read {
		return on, true
	}
	return l.on || !l.known, l.on || l.known
}

// readSince returns what was read of a bool point last, if that was after since.
func (o *orders) readSince(point telemetry.PointID, since telemetry.Mono) (on, known bool) {
	if o.reads == nil {
		return false, false
	}
	e := o.reads(point)
	return e.Last.Bool(), !e.Last.IsZero() && e.Confirmed > since
}

// inTheWay says which output keeps p from being on.
func (o *orders) inTheWay(p *output) orderResult {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, other := range p.Interlock {
		lit, known := o.litKnown(other)
		s := o.inv.Series(other)
		switch {
		case lit && !known:
			return refused(fmt.Errorf("%w (interlock): whether %s.%s is on is not known, it was not read since the start: %w", errLocked, s.Device, s.Point, errUnread))
		case lit:
			return refused(fmt.Errorf("%w (interlock): %s.%s is on, or was ordered on", errLocked, s.Device, s.Point))
		}
	}
	return refused(errLocked) // It has gone off in this moment.
}

// switched takes that the order of v ended at now, for min_off. wasOff says that it was known to be off before. p.mu is held.
func (p *output) switched(v telemetry.Value, r orderResult, now telemetry.Mono, wasOff bool) {
	if v.Bool() && r.Outcome != orderNotTaken {
		p.off = false
		return
	}
	if p.off || v.IsZero() || r.Outcome == orderNotTaken && !v.Bool() {
		return
	}
	if p.off, p.offAt = true, now; wasOff {
		p.offAt = now.Add(-p.MinOff)
	}
}

// knownOff reports whether p is known to have been off since before this moment: it was read so after everything that was
// sent.
func (o *orders) knownOff(p *output) bool {
	p.mu.Lock()
	since := p.sentAt
	p.mu.Unlock()
	on, known := o.readSince(p.Point, since)
	return known && !on
}
