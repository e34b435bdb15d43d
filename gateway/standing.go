package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
	"linli/internal/site"
	"linli/internal/telemetry"
)

const (
	// lookEvery is how often a unit that is to get its on_start is looked at.
	lookEvery = 250 * time.Millisecond
	// The first attempt at a unit that has not answered by itself, and the longest time between two.
	startFirst, startLongest = 5 * time.Second, time.Minute
	// stopLimit bounds what all outputs together may take when the gateway stops.
	stopLimit = 2500 * time.Millisecond
)

// errStopLate says that the outputs left over stay as they are.
var errStopLate = errors.New("not every output could be set to its on_stop in time")

// standing sets the outputs to what the site file wants of them when the gateway starts (on_start) and stops
// (on_stop). Both are orders like any other, by "gateway".
type standing struct {
	site   *site.Site
	orders *orders
	health []func() drivers.BusHealth // parallel to site.Buses
	// resume ends a bus's suspension, parallel to site.Buses; nil where there is none to end.
	resume []func(context.Context) error
}

// pending is an on_start that has not been carried out.
type pending struct {
	point telemetry.PointID
	value telemetry.Value
	unit  string
	next  telemetry.Mono // when to try even where the unit has not answered
	wait  time.Duration
}

// run carries out every on_start, as long as it takes until the unit answers, unless somebody orders the point
// otherwise meanwhile. Each bus has its own goroutine: a unit that is away holds up nobody but its neighbours on the line,
// and those only for one timeout, more and more rarely. It returns when ctx ends.
func (s *standing) run(ctx context.Context) error {
	var group sync.WaitGroup
	for bus, list := range s.starts() {
		group.Go(func() { s.start(ctx, bus, list) })
	}
	group.Wait()
	<-ctx.Done()
	return nil
}

// starts returns the outputs with an on_start, by bus.
func (s *standing) starts() map[int][]*pending {
	lists := map[int][]*pending{}
	now := s.orders.clock.Mono()
	for _, o := range s.site.Outputs {
		if v, ok := stateValue(s.site.Inventory.Points[o.Point].Def, o.OnStart); ok {
			lists[o.Bus] = append(lists[o.Bus], &pending{point: o.Point, value: v, unit: unitOf(&s.site.Buses[o.Bus], o.Point),
				next: now.Add(startFirst), wait: startFirst})
		}
	}
	return lists
}

// start carries out the on_start of one bus.
func (s *standing) start(ctx context.Context, bus int, list []*pending) {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for len(list) > 0 {
		online := map[string]bool{}
		h := s.health[bus]()
		for _, u := range h.Units {
			online[u.Unit] = u.Online
		}
		if len(h.Units) == 0 {
			for _, p := range list {
				online[p.unit] = h.Up // A driver without units of its own.
			}
		}
		rest := list[:0]
		for _, p := range list {
			now := s.orders.clock.Mono()
			due := now >= p.next
			// A unit that has answered is served at once, but not again and again where it then refuses.
			if !due && !(online[p.unit] && p.wait == startFirst) {
				rest = append(rest, p)
				continue
			}
			r := s.orders.Do(ctx, order{Point: p.point, Value: p.value, By: byGateway, Note: "on_start", first: true})
			if r.Outcome == orderDone || r.Outcome == orderUnchanged || errors.Is(r.Err, errOvertaken) {
				continue
			}
			p.wait = min(2*p.wait, startLongest)
			p.next = s.orders.clock.Mono().Add(p.wait)
			rest = append(rest, p)
		}
		list = rest
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
	}
}

// stop carries out every on_stop, the buses side by side, within 2.5 s in all, and refuses everybody else's orders
// from then on.
func (s *standing) stop() error {
	s.orders.stop()
	lists := map[int][]order{}
	for _, o := range s.site.Outputs {
		if v, ok := stateValue(s.site.Inventory.Points[o.Point].Def, o.OnStop); ok {
			lists[o.Bus] = append(lists[o.Bus], order{Point: o.Point, Value: v, By: byGateway, Note: "on_stop", last: true})
		}
	}
	var group sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	deadline := time.Now().Add(stopLimit)
	for bus, list := range lists {
		group.Go(func() {
			s.end(bus, deadline)
			for _, o := range list {
				err := errStopLate
				if o.limit = time.Until(deadline); o.limit > 0 {
					err = s.orders.Do(context.Background(), o).Err
				}
				if err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
				if errors.Is(err, errStopLate) {
					return
				}
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// end ends a suspension of a bus, whose other settings its units would not understand.
func (s *standing) end(bus int, deadline time.Time) {
	if s.resume == nil || !s.health[bus]().Suspended {
		return
	}
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	if err := s.resume[bus](ctx); err != nil {
		s.orders.log.Warn("the bus stays suspended while outputs are set to their on_stop", zap.String("bus", s.site.Buses[bus].ID), zap.Error(err))
	}
}

// stateValue returns what an output of kind def is set to for a state, false for hold.
func stateValue(def *telemetry.PointDef, s firmwareconfig.OutputState) (telemetry.Value, bool) {
	on := int64(0)
	switch s {
	case firmwareconfig.OutputOn:
		on = 1
	case firmwareconfig.OutputOff:
	default:
		return telemetry.Value{}, false
	}
	switch def.Kind {
	case telemetry.Bool:
		return telemetry.BoolValue(on == 1), true
	case telemetry.Int:
		return telemetry.IntValue(on), true
	case telemetry.Enum:
		return telemetry.EnumValue(on), true
	case telemetry.Float:
		return telemetry.FloatValue(float64(on)), true
	}
	return telemetry.Value{}, false
}

// unitOf returns the unit of b that provides the point.
func unitOf(b *site.Bus, point telemetry.PointID) string {
	for i := range b.Units {
		for _, bind := range b.Units[i].Bindings {
			if bind.Point == point {
				return b.Units[i].ID
			}
		}
	}
	return ""
}
