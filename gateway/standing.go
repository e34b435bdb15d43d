package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
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

// Why an output was left as it is at stop.
var (
	errStopLate   = errors.New("no time was left for it")
	errUnitSilent = errors.New("its unit does not answer")
)

// standing sets the outputs to what the site file wants of them when the gateway starts (on_start) and stops
// (on_stop). Both are orders like any other, by "gateway".
type standing struct {
	site   *site.Site
	orders *orders
	health []func() drivers.BusHealth // parallel to site.Buses
	// resume ends a bus's suspension and endGuests the requests of tools on it, both parallel to site.Buses; nil where
	// there are none to end.
	resume    []func(context.Context) error
	endGuests []func()
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
// and those only for one timeout, more and more rarely. The lines of a GPIO chip are set without waiting: each is there
// or not for itself. It returns when ctx ends.
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
		for _, p := range list {
			switch {
			case s.site.Buses[bus].Transport == site.GPIO:
				online[p.unit] = true
			case len(h.Units) == 0:
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

// stop refuses everybody else's orders and requests from now on, ends those of tools that wait, and carries out every
// on_stop, within 2.5 s in all: the buses side by side, of each bus first the units that answer, and of a unit that does
// not answer one output, since the others would cost the same wait. The error names what stays as it is; with it the
// process ends badly, so that systemd has "linli outputs safe" try once more.
func (s *standing) stop() error {
	s.orders.stop()
	deadline := time.Now().Add(stopLimit)
	lists := map[int][]order{}
	for _, o := range s.site.Outputs {
		if v, ok := stateValue(s.site.Inventory.Points[o.Point].Def, o.OnStop); ok {
			lists[o.Bus] = append(lists[o.Bus], order{Point: o.Point, Value: v, By: byGateway, Note: "on_stop", last: true})
		}
	}
	var group sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for bus := range s.site.Buses {
		group.Go(func() {
			if s.endGuests != nil {
				s.endGuests[bus]()
			}
			s.end(bus, deadline)
			err := s.stopBus(bus, lists[bus], deadline)
			mu.Lock()
			errs = append(errs, err...)
			mu.Unlock()
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// stopBus carries out the on_stop of one bus, and returns an error for each output that could not be set. What a unit
// that was there did not take is tried a second time: noise must not leave a siren on.
func (s *standing) stopBus(bus int, list []order, deadline time.Time) (errs []error) {
	b := &s.site.Buses[bus]
	silent := func(order) bool { return false }
	if b.Transport != site.GPIO && s.health != nil {
		h := s.health[bus]()
		silent = func(o order) bool {
			u := unitHealth(&h, unitOf(b, o.Point))
			return u != nil && !u.Online
		}
	}
	slices.SortStableFunc(list, func(x, y order) int { return cmp.Compare(oneIf(silent(x)), oneIf(silent(y))) })
	again := list
	for round := 1; round <= 2 && len(again) > 0; round++ {
		gone := map[string]bool{} // units that gave no answer in this round
		rest := again
		again = nil
		for _, o := range rest {
			unit := unitOf(b, o.Point)
			var err error
			switch o.limit = time.Until(deadline); {
			case gone[unit]:
				err = errUnitSilent
			case o.limit <= 0:
				err = errStopLate
			}
			if err != nil {
				s.orders.record(o, refused(err), 0)
			} else if err = s.orders.Do(context.Background(), o).Err; err != nil {
				gone[unit] = b.Transport != site.GPIO && !answered(err)
			}
			switch {
			case err == nil:
			case round == 1 && !silent(o) && time.Now().Before(deadline):
				again = append(again, o)
			default:
				name := s.site.Inventory.Series(o.Point)
				errs = append(errs, fmt.Errorf("%s.%s was not set to its on_stop: %s", name.Device, name.Point, inOneLine(err)))
			}
		}
	}
	return errs
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
