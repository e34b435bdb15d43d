package main

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"linli/drivers"
	"linli/internal/live"
	"linli/internal/site"
	"linli/internal/telemetry"
)

// reading makes a rig's points readable: what set puts there is what the table has.
func (r *orderRig) reading() (set func(telemetry.PointID, telemetry.Value)) {
	table := live.New(len(r.inv.Points))
	r.orders.reads = table.Get
	return func(point telemetry.PointID, v telemetry.Value) {
		table.Apply([]telemetry.Sample{{Point: point, Value: v, Time: r.clock.Mono()}})
	}
}

// An output that was switched off stays off for its min_off, whoever asks; off is always allowed.
func TestMinOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newOrderRig(t, site.Output{Point: 0, MinOff: 10 * time.Second})
		time.Sleep(time.Minute)
		expect := func(v telemetry.Value, outcome string, wait time.Duration) {
			t.Helper()
			res := r.do(0, v)
			if res.Outcome != outcome || res.Retry != wait || (wait > 0) != errors.Is(res.Err, errTooSoon) {
				t.Errorf("%v: %+v, want %s, %v", v, res, outcome, wait)
			}
		}
		expect(onValue, orderDone, 0) // Nobody has switched it off.
		time.Sleep(time.Second)
		expect(offValue, orderDone, 0)
		time.Sleep(4 * time.Second)
		expect(onValue, orderRefused, 6*time.Second)
		expect(offValue, orderDone, 0) // Off once more does not begin the time anew.
		time.Sleep(6 * time.Second)
		expect(onValue, orderDone, 0)
		// Off, as far as anybody knows.
		r.bus.set(&drivers.OutcomeUnknownError{Err: errors.New("no answer")}, true)
		time.Sleep(time.Second)
		expect(offValue, orderUnknown, 0)
		r.bus.set(nil, true)
		time.Sleep(time.Second)
		expect(onValue, orderRefused, 9*time.Second)
		time.Sleep(9 * time.Second)
		// Refused by the unit: it was not switched on, and stays off since then.
		r.bus.set(errors.New("exception 2"), true)
		expect(onValue, orderRefused, 0)
		r.bus.set(nil, true)
		expect(onValue, orderDone, 0)
	})
}

// At start an output is set off that is off already: a siren does not have to wait for that.
func TestMinOffOfWhatIsOff(t *testing.T) {
	for read, wait := range map[bool]time.Duration{true: 9 * time.Second, false: 0} {
		synctest.Test(t, func(t *testing.T) {
			r := newOrderRig(t, site.Output{Point: 0, MinOff: 10 * time.Second})
			set := r.reading()
			time.Sleep(time.Minute)
			set(0, telemetry.BoolValue(read))
			r.Do(t.Context(), order{Point: 0, Value: offValue, By: byGateway, Note: "on_start", first: true})
			time.Sleep(time.Second)
			if res := r.do(0, onValue); res.Retry != wait {
				t.Errorf("it was %v before: %+v, want %v", read, res, wait)
			}
		})
	}
}

// TestInterlock: of two outputs one is on at most, whatever is known of them.
func TestInterlock(t *testing.T) {
	locked := func(t *testing.T) (*orderRig, func(telemetry.PointID, telemetry.Value)) {
		r := newOrderRig(t, site.Output{Point: 0, Interlock: []telemetry.PointID{3}}, site.Output{Point: 3, Interlock: []telemetry.PointID{0}})
		return r, r.reading()
	}
	gone := &drivers.OutcomeUnknownError{Err: errors.New("no answer")}
	for name, c := range map[string]struct {
		before func(r *orderRig, set func(telemetry.PointID, telemetry.Value))
		free   bool
	}{
		"nothing is known":                  {func(*orderRig, func(telemetry.PointID, telemetry.Value)) {}, false},
		"nothing is known, and ordered off": {func(r *orderRig, _ func(telemetry.PointID, telemetry.Value)) { r.do(0, offValue) }, true},
		"nothing is known, and ordered off in vain": {func(r *orderRig, _ func(telemetry.PointID, telemetry.Value)) {
			r.bus.set(gone, true)
			r.do(0, offValue)
		}, false},
		"ordered on":           {func(r *orderRig, _ func(telemetry.PointID, telemetry.Value)) { r.do(0, onValue) }, false},
		"ordered on, then off": {func(r *orderRig, _ func(telemetry.PointID, telemetry.Value)) { r.do(0, onValue); r.do(0, offValue) }, true},
		"read on":              {func(_ *orderRig, set func(telemetry.PointID, telemetry.Value)) { set(0, onValue) }, false},
		"read on, then ordered off": {func(r *orderRig, set func(telemetry.PointID, telemetry.Value)) {
			set(0, onValue)
			time.Sleep(time.Nanosecond)
			r.do(0, offValue)
		}, true},
		"ordered on, then read off": {func(r *orderRig, set func(telemetry.PointID, telemetry.Value)) {
			r.do(0, onValue)
			time.Sleep(time.Nanosecond)
			set(0, offValue)
		}, true},
		"ordered on by a tool": {func(r *orderRig, set func(telemetry.PointID, telemetry.Value)) {
			r.do(0, offValue)
			time.Sleep(time.Nanosecond)
			set(0, onValue)
		}, false},
		"off, and nobody knows": {func(r *orderRig, _ func(telemetry.PointID, telemetry.Value)) {
			r.do(0, onValue)
			r.bus.set(gone, true)
			r.do(0, offValue)
		}, false},
		"on, and nobody knows": {func(r *orderRig, _ func(telemetry.PointID, telemetry.Value)) { r.bus.set(gone, true); r.do(0, onValue) }, false},
		"on, not taken": {func(r *orderRig, _ func(telemetry.PointID, telemetry.Value)) {
			r.bus.set(&drivers.NotTakenError{Got: offValue}, true)
			r.do(0, onValue)
		}, true},
		"on, refused": {func(r *orderRig, _ func(telemetry.PointID, telemetry.Value)) {
			r.bus.set(errors.New("exception 2"), true)
			r.do(0, onValue)
		}, true},
		"on, refused while it was on": {func(r *orderRig, set func(telemetry.PointID, telemetry.Value)) {
			set(0, onValue)
			r.bus.set(errors.New("exception 2"), true)
			r.do(0, offValue)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, set := locked(t)
				time.Sleep(time.Minute)
				if !strings.HasPrefix(name, "nothing is known") {
					set(0, offValue)
					set(3, offValue)
					time.Sleep(time.Nanosecond)
				}
				c.before(r, set)
				r.bus.set(nil, true)
				time.Sleep(time.Minute)
				res := r.do(3, onValue)
				if c.free != (res.Outcome == orderDone) || !c.free && (!errors.Is(res.Err, errLocked) || !strings.Contains(res.Err.Error(), "siren_1.on")) {
					t.Errorf("%+v, want it free: %v", res, c.free)
				}
				if res := r.do(3, offValue); res.Outcome != orderDone {
					t.Errorf("off: %+v", res)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		r, set := locked(t)
		time.Sleep(time.Nanosecond)
		set(0, offValue)
		set(3, offValue)
		r.bus.takes = time.Second
		results := make(chan orderResult)
		for _, point := range []telemetry.PointID{0, 3} {
			go func() { results <- r.do(point, onValue) }()
		}
		a, b := <-results, <-results
		if (a.Outcome == orderDone) == (b.Outcome == orderDone) {
			t.Errorf("at the same time: %+v, %+v", a, b)
		}
	})
}
