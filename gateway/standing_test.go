package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
	"linli/internal/site"
	"linli/internal/telemetry"
)

func TestOnStartWaitsForTheUnit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newOrderRig(t, site.Output{Point: 0, OnStart: firmwareconfig.OutputOff}, site.Output{Point: 3, OnStart: firmwareconfig.OutputOn},
			site.Output{Point: 1, OnStart: firmwareconfig.OutputHold})
		r.bus.set(&drivers.OutcomeUnknownError{Err: errors.New("no answer")}, false)
		s := &standing{site: r.site, orders: r.orders, health: []func() drivers.BusHealth{r.bus.health}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.run(ctx) }()
		time.Sleep(10 * time.Minute)
		if n := r.bus.count(); n < 10 || n > 40 {
			t.Errorf("%d attempts in ten minutes at a unit that is away", n)
		}
		if got, want := r.audited(t), "gateway siren_1.on=false unknown; gateway siren_1.lamp=true unknown"; got != want {
			t.Errorf("repetitions are not told: %s, want %s", got, want)
		}
		r.bus.set(nil, true)
		time.Sleep(2 * time.Minute)
		if got := r.audited(t); !strings.HasSuffix(got, "gateway siren_1.on=false done; gateway siren_1.lamp=true done") {
			t.Errorf("after the unit came: %s", got)
		}
		n := r.bus.count()
		time.Sleep(time.Hour)
		if r.bus.count() != n {
			t.Error("an on_start was carried out twice")
		}
		cancel()
		<-done
	})
}

func TestOnStartIsServedAtOnceWhenTheUnitAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newOrderRig(t, site.Output{Point: 0, OnStart: firmwareconfig.OutputOff})
		r.bus.set(nil, false)
		s := &standing{site: r.site, orders: r.orders, health: []func() drivers.BusHealth{r.bus.health}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.run(ctx) }()
		time.Sleep(time.Second)
		if got := r.bus.writes(); got != "" {
			t.Errorf("before the unit answers: %s", got)
		}
		r.bus.set(nil, true)
		time.Sleep(lookEvery)
		synctest.Wait()
		if got := r.bus.writes(); got != "0=false" {
			t.Errorf("once it answers: %s", got)
		}
		cancel()
		<-done
	})
}

func TestSomebodysOrderSupersedesOnStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newOrderRig(t, site.Output{Point: 0, OnStart: firmwareconfig.OutputOff})
		r.bus.set(nil, false)
		s := &standing{site: r.site, orders: r.orders, health: []func() drivers.BusHealth{r.bus.health}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.run(ctx) }()
		time.Sleep(time.Second)
		r.do(0, onValue)
		r.bus.set(nil, true)
		time.Sleep(time.Hour)
		if got := r.bus.writes(); got != "0=true" {
			t.Errorf("on the line: %s, want what the person ordered alone", got)
		}
		cancel()
		<-done
	})
}

// TestAFailedOrderDoesNotVoidOnStart: only what was sent, or may have been, comes before the site file.
func TestAFailedOrderDoesNotVoidOnStart(t *testing.T) {
	for _, x := range []struct {
		err  error
		void bool
	}{
		{drivers.ErrSuspended, false}, {drivers.ErrBusy, false}, {drivers.ErrRange, false}, {errors.New("exception 4"), false},
		{fmt.Errorf("not begun: %w", context.DeadlineExceeded), false},
		{&drivers.OutcomeUnknownError{Err: errors.New("no answer")}, true}, {&drivers.NotTakenError{Want: onValue, Got: offValue}, true}, {nil, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newOrderRig(t, site.Output{Point: 0, OnStart: firmwareconfig.OutputOff})
			r.bus.set(x.err, false)
			s := &standing{site: r.site, orders: r.orders, health: []func() drivers.BusHealth{r.bus.health}}
			r.do(0, onValue)
			r.bus.set(nil, true)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- s.run(ctx) }()
			time.Sleep(time.Minute)
			if got := r.bus.writes() == "0=true"; got != x.void {
				t.Errorf("after an order with %v: on the line %s", x.err, r.bus.writes())
			}
			cancel()
			<-done
		})
	}
}

// TestOnStartOfALineWaitsForNoOther: a GPIO chip with one line that somebody else has is no dead unit.
func TestOnStartOfALineWaitsForNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newOrderRig(t, site.Output{Point: 0, OnStart: firmwareconfig.OutputOff})
		r.site.Buses[0].Transport = site.GPIO
		r.bus.set(nil, false)
		s := &standing{site: r.site, orders: r.orders, health: []func() drivers.BusHealth{r.bus.health}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.run(ctx) }()
		synctest.Wait()
		if got := r.bus.writes(); got != "0=false" {
			t.Errorf("at once: %q", got)
		}
		cancel()
		<-done
	})
}

// TestOnStopDoesNotWaitForDeadUnits: five dead units, listed first, each cost their timeout; the siren behind them is set.
func TestOnStopDoesNotWaitForDeadUnits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newOrderRig(t)
		class := r.site.Inventory.Devices[0].Class
		var outputs []site.Output
		var units []firmwareconfig.Unit
		h := drivers.BusHealth{}
		dead := map[telemetry.PointID]bool{}
		for i := range 6 {
			unit := fmt.Sprint("u", i)
			d := r.site.Inventory.AddDevice(telemetry.Device{ID: fmt.Sprint("siren_", i+10), Class: class, Zone: 0})
			a, b := r.site.Inventory.ProvidePoint(d, 0), r.site.Inventory.ProvidePoint(d, 3)
			outputs = append(outputs, site.Output{Point: a, OnStop: firmwareconfig.OutputOff}, site.Output{Point: b, OnStop: firmwareconfig.OutputOff})
			units = append(units, firmwareconfig.Unit{ID: unit, Bindings: []firmwareconfig.Binding{{Point: a}, {Point: b}}})
			dead[a], dead[b] = i < 5, i < 5
			h.Units = append(h.Units, drivers.UnitHealth{Unit: unit, Online: i == 5})
		}
		r.site.Outputs, r.site.Buses[0].Units = outputs, units
		bus := writerFunc(func(_ context.Context, p telemetry.PointID, v telemetry.Value) error {
			err := r.bus.Write(t.Context(), p, v)
			if dead[p] {
				time.Sleep(700 * time.Millisecond)
				return &drivers.OutcomeUnknownError{Err: errors.New("no answer")}
			}
			return err
		})
		r.orders = newOrders(r.site, []pointWriter{bus}, telemetry.NewClock("b", 0, time.Time{}), r.record, zap.NewNop())
		s := &standing{site: r.site, orders: r.orders, health: []func() drivers.BusHealth{func() drivers.BusHealth { return h }}}
		err := s.stop()
		got := strings.Fields(r.bus.writes())
		if len(got) < 2 || got[0] != fmt.Sprint(outputs[10].Point, "=false") || got[1] != fmt.Sprint(outputs[11].Point, "=false") {
			t.Errorf("on the line: %s; want the unit that answers first", got)
		}
		if len(got) > 2+5 {
			t.Errorf("more than one try per dead unit: %s", got)
		}
		for i := range 5 {
			for _, point := range []string{"on", "lamp"} {
				name := fmt.Sprintf("siren_%d.%s", i+10, point)
				if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(r.audited(t), name) {
					t.Errorf("%s is not told: %v", name, err)
				}
			}
		}
		if err != nil && strings.Contains(err.Error(), "siren_15") {
			t.Errorf("an error for what was set: %v", err)
		}
	})
}

// writerFunc is a pointWriter.
type writerFunc func(ctx context.Context, point telemetry.PointID, v telemetry.Value) error

func (f writerFunc) Write(ctx context.Context, point telemetry.PointID, v telemetry.Value) error {
	return f(ctx, point, v)
}

// TestOnStopTriesNoiseTwice: a unit that was there and does not take it is tried again, and the tools are ended before.
func TestOnStopTriesNoiseTwice(t *testing.T) {
	r := newOrderRig(t, site.Output{Point: 0, OnStop: firmwareconfig.OutputOff})
	first := true
	bus := writerFunc(func(ctx context.Context, p telemetry.PointID, v telemetry.Value) error {
		err := r.bus.Write(ctx, p, v)
		if first {
			first, err = false, &drivers.OutcomeUnknownError{Err: errors.New("checksum")}
		}
		return err
	})
	r.orders = newOrders(r.site, []pointWriter{bus}, telemetry.NewClock("b", 0, time.Time{}), r.record, zap.NewNop())
	ended := ""
	s := &standing{site: r.site, orders: r.orders, health: []func() drivers.BusHealth{r.bus.health}, endGuests: []func(){func() { ended = "ended, before: " + r.bus.writes() }}}
	if err := s.stop(); err != nil || r.bus.writes() != "0=false 0=false" || ended != "ended, before: " {
		t.Errorf("%v; on the line %s; tools %q", err, r.bus.writes(), ended)
	}
}

// TestAnOrderThatHangsDoesNotKeepOnStopWaiting: what was begun before the stop is ended after half a second.
func TestAnOrderThatHangsDoesNotKeepOnStopWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newOrderRig(t, site.Output{Point: 0, OnStop: firmwareconfig.OutputOff})
		r.bus.hang = make(chan struct{})
		results := make(chan orderResult, 2)
		for range 2 {
			go func() { results <- r.do(0, onValue) }()
		}
		synctest.Wait()
		s := &standing{site: r.site, orders: r.orders, health: []func() drivers.BusHealth{r.bus.health}}
		done := make(chan error, 1)
		go func() { done <- s.stop() }()
		time.Sleep(stopGrace + time.Millisecond)
		close(r.bus.hang)
		if err := <-done; err != nil {
			t.Errorf("stop: %v", err)
		}
		if got := r.bus.writes(); got != "0=true 0=false" {
			t.Errorf("on the line: %s", got)
		}
		outcomes := []string{(<-results).Outcome, (<-results).Outcome}
		slices.Sort(outcomes)
		if !slices.Equal(outcomes, []string{orderRefused, orderUnknown}) {
			t.Errorf("what became of them: %v", outcomes)
		}
	})
}

func TestOnStopIsBoundedAndTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newOrderRig(t, site.Output{Point: 0, OnStop: firmwareconfig.OutputOff}, site.Output{Point: 3, OnStop: firmwareconfig.OutputOff, Interval: time.Hour},
			site.Output{Point: 1})
		s := &standing{site: r.site, orders: r.orders, health: []func() drivers.BusHealth{r.bus.health}}
		r.do(3, onValue)
		if err := s.stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
		if got := r.bus.writes(); got != "3=true 0=false 3=false" {
			t.Errorf("on the line: %s", got)
		}
		if res := r.do(0, onValue); !errors.Is(res.Err, errStopping) {
			t.Errorf("an order after on_stop: %+v", res)
		}
		if got, want := r.audited(t), "gateway siren_1.on=false done; gateway siren_1.lamp=false done"; !strings.Contains(got, want) {
			t.Errorf("the record has %s, want %s in it", got, want)
		}

		// A suspended bus is given its own settings back first.
		busy := newOrderRig(t, site.Output{Point: 0, OnStop: firmwareconfig.OutputOff})
		busy.bus.set(drivers.ErrSuspended, true)
		s = &standing{site: busy.site, orders: busy.orders,
			health: []func() drivers.BusHealth{func() drivers.BusHealth { return drivers.BusHealth{Suspended: true} }},
			resume: []func(context.Context) error{func(context.Context) error { busy.bus.set(nil, true); return nil }}}
		if err := s.stop(); err != nil {
			t.Errorf("stop while the bus is suspended: %v", err)
		}

		hung := newOrderRig(t, site.Output{Point: 0, OnStop: firmwareconfig.OutputOff}, site.Output{Point: 3, OnStop: firmwareconfig.OutputOff})
		hung.bus.hang = make(chan struct{})
		s = &standing{site: hung.site, orders: hung.orders}
		began := time.Now()
		if err := s.stop(); err == nil {
			t.Error("outputs that could not be set are no error")
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("stop took %s", took)
		}
	})
}
