package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"linli/drivers"
	"linli/internal/site"
	"linli/internal/telemetry"
)

// silentFor is how long the other outputs of a unit that gave no answer are not tried: each would cost the line the same
// wait.
const silentFor = time.Second

// turns gives the orders of rules on one bus their turn: one of each unit at a time, those of units that answer first, and of
// those the ones of the most severe alerts. An order to a unit that does not answer is on its way only while there is no other. So a module that is
// dead costs a siren on another one transaction at most. Waiting is no failure and has no end of its own.
//
// It is safe for concurrent use.
type turns struct {
	bus    *site.Bus
	health func() drivers.BusHealth // nil: every unit answers, as far as its orders tell
	clock  *telemetry.Clock

	mu      sync.Mutex // guards what follows; an output's, and a driven's, may be taken while it is held
	busy    int
	units   map[string]*turnUnit
	waiting []*turnWaiter // in the order of coming
}

// turnUnit is what the orders of a unit tell of it.
type turnUnit struct {
	busy   bool
	silent bool // its last order had no answer, at the moment at, and was of point by
	at     telemetry.Mono
	by     telemetry.PointID
}

type turnWaiter struct {
	order order
	unit  string
	told  chan error // holds one: nil for a turn
}

func newTurns(bus *site.Bus, clock *telemetry.Clock) *turns {
	return &turns{bus: bus, clock: clock, units: map[string]*turnUnit{}}
}

// enter waits for an order's turn. The caller calls leave afterwards, where there is no error.
func (q *turns) enter(ctx context.Context, or order) error {
	w := &turnWaiter{order: or, unit: unitOf(q.bus, or.Point), told: make(chan error, 1)}
	q.mu.Lock()
	q.waiting = append(q.waiting, w)
	q.next()
	q.mu.Unlock()
	select {
	case err := <-w.told:
		return err
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range q.waiting {
		if q.waiting[i] == w {
			q.drop(i)
			return errStopping
		}
	}
	return <-w.told // It was given in this moment.
}

// leave gives an order's turn back.
func (q *turns) leave(point telemetry.PointID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.busy--
	q.unit(unitOf(q.bus, point)).busy = false
	q.next()
}

// look has orders that are void leave, and others have their turn.
func (q *turns) look() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.next()
}

// heard takes what became of anybody's order.
func (q *turns) heard(point telemetry.PointID, err error, now telemetry.Mono) {
	q.mu.Lock()
	defer q.mu.Unlock()
	u := q.unit(unitOf(q.bus, point))
	switch {
	case err == nil || answered(err):
		u.silent = false
	case errors.As(err, new(*drivers.OutcomeUnknownError)) || errors.Is(err, drivers.ErrSilent):
		u.silent, u.at, u.by = true, now, point
	}
}

// answers takes note that a unit answered at a moment.
func (q *turns) answers(point telemetry.PointID, at telemetry.Mono) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if u := q.unit(unitOf(q.bus, point)); u.silent && at > u.at {
		u.silent = false
		q.next()
	}
}

// unit returns the record of a unit. q.mu is held. Outputs without a unit, the lines of a chip, do not share one.
func (q *turns) unit(id string) *turnUnit {
	u := q.units[id]
	if u == nil {
		u = &turnUnit{}
		q.units[id] = u
	}
	return u
}

// next gives turns to as many as may have one. q.mu is held.
func (q *turns) next() {
	if len(q.waiting) == 0 {
		return
	}
	var h drivers.BusHealth
	if q.health != nil {
		h = q.health()
	}
	away := func(w *turnWaiter) bool {
		if q.unit(w.unit).silent {
			return true
		}
		if q.health == nil || q.bus.Transport == site.GPIO {
			return false
		}
		if u := unitHealth(&h, w.unit); u != nil {
			return !u.Online
		}
		return len(h.Units) == 0 && !h.Up // A driver without units of its own.
	}
	now := q.clock.Mono()
	for {
		best, bestAway := -1, false
		for i := 0; i < len(q.waiting); i++ {
			w := q.waiting[i]
			u := q.unit(w.unit)
			var err error
			switch {
			case w.order.void != nil && w.order.void():
				err = errOvertaken
			case u.silent && u.by != w.order.Point && now.Sub(u.at) < silentFor:
				err = drivers.ErrSilent
			}
			if err != nil {
				w.told <- err
				q.drop(i)
				i--
				continue
			}
			gone := away(w)
			if q.busy >= rulesAtOnce || u.busy && w.unit != "" || gone && q.busy > 0 {
				continue
			}
			if best < 0 || bestAway && !gone || bestAway == gone && w.order.severity > q.waiting[best].order.severity {
				best, bestAway = i, gone
			}
		}
		if best < 0 {
			return
		}
		w := q.waiting[best]
		q.drop(best)
		q.unit(w.unit).busy = true
		q.busy++
		w.told <- nil
	}
}

// drop takes one out of those that wait. q.mu is held.
func (q *turns) drop(i int) { q.waiting = append(q.waiting[:i], q.waiting[i+1:]...) }
