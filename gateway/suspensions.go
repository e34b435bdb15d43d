package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"linli/internal/audit"
	"linli/internal/console"
	"linli/internal/telemetry"
)

// suspensions knows for whom each bus is suspended. Who suspends a bus gets a lease: only with it the suspension is
// renewed, changed and ended before its time, and the bus asked meanwhile; anybody may end it by force. A lease ends by
// itself when it is not renewed. It is safe for concurrent use.
type suspensions struct {
	mu sync.Mutex
	of map[int]*suspension // by bus; guarded by mu
}

// suspension is one lease. Its fields are guarded by the mutex of suspensions.
type suspension struct {
	id    string
	by    string
	until time.Time
}

// held returns the lease in force on a bus, nil without one. s.mu is held.
func (s *suspensions) held(bus int) *suspension {
	l := s.of[bus]
	if l != nil && !time.Now().Before(l.until) {
		delete(s.of, bus)
		return nil
	}
	return l
}

// allowed returns an error where bus is suspended for somebody else than who has lease.
func (s *suspensions) allowed(bus int, lease string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.held(bus); l != nil && l.id != lease {
		return l.denied()
	}
	return nil
}

func (l *suspension) denied() error {
	return fmt.Errorf("%w %s until %s", console.ErrSuspendedBy, l.by, l.until.UTC().Format(time.RFC3339))
}

// take returns the lease for a request to suspend: the one that is held, or a new one, which then keeps everybody else
// away while the bus is asked to follow.
func (s *suspensions) take(bus int, q console.Suspension) (l *suspension, fresh bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch l = s.held(bus); {
	case l != nil && l.id != q.Lease:
		return nil, false, l.denied()
	case l != nil:
		return l, false, nil
	}
	l = &suspension{id: rand.Text(), by: q.By, until: time.Now().Add(guestLimit + q.For)}
	if s.of == nil {
		s.of = map[int]*suspension{}
	}
	s.of[bus] = l
	return l, true, nil
}

// settle takes in how a request to suspend has ended, and reports whether the lease is still there: it may have been
// ended by force meanwhile.
func (s *suspensions) settle(bus int, l *suspension, fresh bool, d time.Duration, err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of[bus] != l {
		return false
	}
	switch {
	case err == nil:
		l.until = time.Now().Add(d)
	case fresh:
		delete(s.of, bus)
	}
	return true
}

// end takes the lease of a bus away, from who has it or by force.
func (s *suspensions) end(bus int, q console.Suspension) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.held(bus); l != nil && l.id != q.Lease && !q.Force {
		return l.denied()
	}
	delete(s.of, bus)
	return nil
}

// by returns for whom a bus is suspended, "" for nobody.
func (s *suspensions) by(bus int) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.held(bus); l != nil {
		return l.by
	}
	return ""
}

// Suspend stops the polling of a bus for a while, or resumes it.
func (g *guests) Suspend(ctx context.Context, bus string, q console.Suspension) (console.Lease, error) {
	i, err := g.bus(bus)
	if err != nil {
		return console.Lease{}, err
	}
	if err := checkLine(g.site.Buses[i].Transport, q.Baud, q.Format); err != nil {
		return console.Lease{}, said(console.ErrBadRequest, err)
	}
	if g.orders.isStopping() {
		return console.Lease{}, console.ErrStopping
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), guestLimit)
	defer cancel()
	if q.For == 0 {
		return console.Lease{}, g.resume(ctx, i, q)
	}
	l, fresh, err := g.suspended.take(i, q)
	if err != nil {
		return console.Lease{}, err
	}
	began := g.clock.Mono()
	err = g.lines[i].Suspend(ctx, q.For, q.Baud, q.Format)
	if !g.suspended.settle(i, l, fresh, q.For, err) && err == nil {
		err = fmt.Errorf("%w: ended by force", console.ErrSuspendedBy)
		_ = g.lines[i].Suspend(ctx, 0, 0, "") // It came after what ended it. Otherwise it is over with its time.
	}
	e := g.entry(i, "suspend", q.By, q.Note)
	e.Value = q.For.String()
	if q.Baud != 0 || q.Format != "" {
		e.Value = fmt.Sprintf("%s at %d %s", q.For, q.Baud, q.Format)
	}
	if err = g.recordLine(ctx, e, began, err, fresh); err != nil {
		return console.Lease{}, err
	}
	return console.Lease{ID: l.id, Until: time.Now().Add(q.For).UTC()}, nil
}

// resume ends the suspension of a bus.
func (g *guests) resume(ctx context.Context, bus int, q console.Suspension) error {
	if err := g.suspended.end(bus, q); err != nil {
		return err
	}
	was := g.lines[bus].Health().Suspended
	began := g.clock.Mono()
	err := g.lines[bus].Suspend(ctx, 0, 0, "")
	e := g.entry(bus, "resume", q.By, q.Note)
	if !was && err == nil {
		e.Outcome = orderUnchanged
	}
	return g.recordLine(ctx, e, began, err, was)
}

// recordLine leaves in the record what became of a suspension or its end, and returns err with the console's word for it.
// What is no news (a renewal, a resumption of what was not suspended) shares a line.
func (g *guests) recordLine(ctx context.Context, e audit.Entry, began telemetry.Mono, err error, news bool) error {
	e.TookMS = milliseconds(g.clock.Mono().Sub(began))
	if e.Outcome == "" {
		e.Outcome = orderDone
	}
	if err != nil {
		e.Outcome, e.Error, news = orderRefused, inOneLine(err), false
		if sentinel := notBegun(err, ctx.Err()); sentinel != nil {
			err = said(sentinel, err)
		}
	}
	stamp(g.clock, &e)
	if !news {
		g.audit.Fold(e)
		return err
	}
	g.audit.Add(e)
	g.log.Info("bus "+e.What, zap.String("bus", e.Bus), zap.Any("for", e.Value), zap.String("by", e.By))
	return nil
}
