package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
	"linli/internal/site"
	"linli/internal/telemetry"
	"linli/rules/response"
)

// driveRig is an orderRig with what rules want of its outputs.
type driveRig struct {
	*orderRig
	d *drive
}

// driving runs f with a drive that serves a rig's outputs, in a bubble.
func driving(t *testing.T, f func(t *testing.T, r *driveRig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &driveRig{orderRig: newOrderRig(t)}
		r.d = newDrive(r.site, r.orders, "", zap.NewNop())
		r.orders.by = r.d.manual
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.d.run(ctx) }()
		f(t, r)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

var fire = telemetry.Identity{Alert: "FireConfirmed", Subject: "b1"}

// want has an alert want a value, or, at rest, no alert any more.
func (r *driveRig) want(point telemetry.PointID, v telemetry.Value) {
	why := response.WhyDemanded
	if !v.Bool() {
		why = response.WhyCleared
	}
	r.d.want(response.Command{Point: point, Value: v, For: fire, Why: why, Time: r.clock.Mono()})
}

// reads has the point read as v.
func (r *driveRig) reads(point telemetry.PointID, v telemetry.Value) {
	r.d.observe([]telemetry.Sample{{Point: point, Value: v, Time: r.clock.Mono()}})
}

func settled(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestDriveSetsWhatIsWanted(t *testing.T) {
	driving(t, func(t *testing.T, r *driveRig) {
		r.want(0, onValue)
		synctest.Wait() // At once, without any time passing.
		if got := r.bus.writes(); got != "0=true" {
			t.Errorf("on the line: %s", got)
		}
		r.want(0, offValue)
		settled(time.Millisecond)
		if got := r.bus.writes(); got != "0=true 0=false" {
			t.Errorf("on the line: %s", got)
		}
		// At rest it is anybody's.
		r.reads(0, onValue)
		settled(time.Minute)
		if got := r.bus.writes(); got != "0=true 0=false" {
			t.Errorf("nobody wants it, and it is set again: %s", got)
		}
		if got, want := r.audited(t), "rule FireConfirmed b1 siren_1.on=true done; rule FireConfirmed b1 siren_1.on=<nil> done"; strings.ReplaceAll(got, "=false", "=<nil>") != want {
			t.Errorf("the record: %s", got)
		}
		lines, err := r.record.Tail(10)
		if err != nil || len(lines) != 4 || !strings.Contains(string(lines[0]), `"origin":"rule"`) || !strings.Contains(string(lines[0]), `"note":"cleared"`) {
			t.Errorf("the record: %s, %v", lines, err)
		}
	})
}

// A unit that does not answer is tried again and again, more and more rarely; what is wanted by then is what it gets, at
// once. The record has the first failure and the success.
func TestDriveTriesAgain(t *testing.T) {
	driving(t, func(t *testing.T, r *driveRig) {
		r.bus.set(&drivers.OutcomeUnknownError{Err: errors.New("no answer")}, false)
		r.want(0, onValue)
		var at []int
		for i, n := 0, 0; i < 600; i++ {
			synctest.Wait()
			if c := r.bus.count(); c > n {
				n = c
				at = append(at, i)
			}
			settled(100 * time.Millisecond)
		}
		if got, want := fmt.Sprint(at), "[0 1 3 7 15 31 63 127 227 327 427 527]"; got != want {
			t.Errorf("tried after %s tenths of a second, want %s", got, want)
		}
		r.want(0, offValue)
		synctest.Wait()
		if got := r.bus.writes(); !strings.HasSuffix(got, "0=true 0=false") {
			t.Errorf("the newest waits for the one before: %s", got)
		}
		r.want(0, onValue)
		synctest.Wait()
		r.bus.set(nil, true)
		settled(200 * time.Millisecond)
		n := r.bus.count()
		if got := r.bus.writes(); !strings.HasSuffix(got, "0=true 0=true") {
			t.Errorf("on the line: %s", got)
		}
		settled(time.Minute)
		if r.bus.count() != n {
			t.Errorf("done, and sent again: %s", r.bus.writes())
		}
		want := "rule FireConfirmed b1 siren_1.on=true unknown; rule FireConfirmed b1 siren_1.on=false unknown; " +
			"rule FireConfirmed b1 siren_1.on=true unknown; rule FireConfirmed b1 siren_1.on=true done"
		if got := r.audited(t); got != want {
			t.Errorf("the record: %s\nwant %s", got, want)
		}
	})
}

// A burst and the site file's interval are waited out: nothing that is wanted is dropped.
func TestDriveWaitsForTheRate(t *testing.T) {
	driving(t, func(t *testing.T, r *driveRig) {
		r.want(3, onValue)
		synctest.Wait()
		r.want(3, offValue)
		settled(2900 * time.Millisecond)
		if got := r.bus.writes(); got != "3=true" {
			t.Errorf("before the interval is over: %s", got)
		}
		settled(200 * time.Millisecond)
		if got := r.bus.writes(); got != "3=true 3=false" {
			t.Errorf("after the interval: %s", got)
		}
		for i := range 7 {
			r.want(0, telemetry.BoolValue(i%2 == 0))
			synctest.Wait()
		}
		settled(2100 * time.Millisecond)
		if got := r.bus.writes(); !strings.HasSuffix(got, " 0=true") {
			t.Errorf("the last of a burst: %s", got)
		}
		if got := r.audited(t); strings.Contains(got, "refused") {
			t.Errorf("a wait is a refusal: %s", got)
		}
	})
}

// A unit that has lost its power is set again at once, one that does not keep it more and more rarely.
func TestDriveKeepsWhatIsWanted(t *testing.T) {
	driving(t, func(t *testing.T, r *driveRig) {
		r.want(0, onValue)
		settled(time.Millisecond)
		r.reads(0, onValue)
		settled(time.Hour)
		r.reads(0, offValue)
		synctest.Wait()
		if got := r.bus.writes(); got != "0=true 0=true" {
			t.Errorf("it went off, and on the line is: %s", got)
		}
		n := r.bus.count()
		for range 600 { // a minute in which it never stays on
			settled(100 * time.Millisecond)
			r.reads(0, offValue)
		}
		if more := r.bus.count() - n; more < 8 || more > 14 {
			t.Errorf("set again %d times in a minute", more)
		}
		if got := strings.Count(r.audited(t), "done"); got != 2 {
			t.Errorf("%d lines in the record: %s", got, r.audited(t))
		}
		// A reading from before the command says nothing.
		settled(time.Hour)
		r.reads(0, onValue)
		n = r.bus.count()
		r.d.observe([]telemetry.Sample{{Point: 0, Value: offValue, Time: r.clock.Mono().Add(-2 * time.Hour)}})
		r.d.observe([]telemetry.Sample{{Point: 0, Quality: telemetry.BadComm, Time: r.clock.Mono()}})
		settled(time.Minute)
		if r.bus.count() != n {
			t.Errorf("an old reading and a missing one: %s", r.bus.writes())
		}
	})
}

// Who orders by hand takes the output, until something is wanted anew; who orders what is wanted anyway does not.
func TestDriveLetsGoOfWhatPeopleOrder(t *testing.T) {
	driving(t, func(t *testing.T, r *driveRig) {
		r.want(0, onValue)
		settled(time.Second)
		if r.do(0, onValue); len(r.d.taken()) != 0 {
			t.Error("ordered what is wanted: that takes nothing over")
		}
		if r.do(0, offValue).Outcome != orderDone {
			t.Error("not done")
		}
		r.reads(0, offValue)
		settled(time.Minute)
		if got := r.bus.writes(); got != "0=true 0=true 0=false" && got != "0=true 0=false" {
			t.Errorf("on the line: %s", got)
		}
		got := r.d.taken()
		if len(got) != 1 || got[0].point != 0 || got[0].value != offValue || len(r.d.taken()) != 0 {
			t.Errorf("taken by hand: %+v", got)
		}
		select {
		case <-r.d.handed:
		default:
			t.Error("nobody was woken")
		}
		// Ordered by hand, and wanted anew before anybody heard of that: what is wanted now is not void.
		r.do(0, onValue)
		r.want(0, onValue)
		if got := r.d.taken(); len(got) != 0 {
			t.Errorf("void: %+v", got)
		}
		// One that was refused takes nothing.
		r.bus.set(errors.New("exception 2"), true)
		if r.do(0, offValue); len(r.d.taken()) != 0 {
			t.Error("a refused order takes the output over")
		}
	})
}

// An OFF by hand that the unit did not take is no takeover. One of which nobody knows what became of it is kept as the
// person wants it until it is confirmed, and what rules have lit goes to rest with the alerts in any case.
func TestDriveKeepsWhatNobodyCouldSwitchOff(t *testing.T) {
	driving(t, func(t *testing.T, r *driveRig) {
		r.want(0, onValue)
		settled(time.Second)
		r.bus.set(&drivers.NotTakenError{Want: offValue, Got: onValue}, true)
		if res := r.do(0, offValue); res.Outcome != orderNotTaken {
			t.Fatalf("%+v", res)
		}
		r.bus.set(nil, true)
		if got := r.d.taken(); len(got) != 0 || len(r.d.inDemand()) != 1 {
			t.Errorf("not taken, and taken over: %+v", got)
		}
		r.want(0, offValue)
		settled(2 * time.Second)
		if got := r.bus.writes(); got != "0=true 0=false 0=false" {
			t.Errorf("on the line: %s", got)
		}
	})
	driving(t, func(t *testing.T, r *driveRig) {
		r.want(0, onValue)
		settled(time.Second)
		r.bus.set(&drivers.OutcomeUnknownError{Err: errors.New("no answer")}, false)
		if res := r.do(0, offValue); res.Outcome != orderUnknown {
			t.Fatalf("%+v", res)
		}
		settled(time.Second)
		if got := r.d.taken(); len(got) != 1 {
			t.Errorf("taken over: %+v", got)
		}
		r.bus.set(nil, true)
		r.reads(0, onValue)
		settled(15 * time.Second)
		n := r.bus.count()
		if got := r.bus.writes(); !strings.HasPrefix(got, "0=true 0=false 0=false") || strings.HasSuffix(got, "true") {
			t.Errorf("on the line: %s", got)
		}
		settled(time.Minute)
		r.reads(0, onValue) // By somebody else: nobody's any more.
		settled(time.Minute)
		if r.bus.count() != n {
			t.Errorf("on the line: %s", r.bus.writes())
		}
	})
	driving(t, func(t *testing.T, r *driveRig) { // Read as it was ordered: done.
		r.want(0, onValue)
		settled(time.Second)
		r.bus.set(&drivers.OutcomeUnknownError{Err: errors.New("no answer")}, false)
		r.do(0, offValue)
		settled(10 * time.Second)
		r.bus.set(nil, true)
		r.reads(0, offValue)
		n := r.bus.count()
		settled(time.Minute)
		if r.bus.count() != n {
			t.Errorf("on the line: %s", r.bus.writes())
		}
	})
}

// A unit that is back is set within a second, however long it was away.
func TestDriveTriesAtOnceWhatIsBack(t *testing.T) {
	driving(t, func(t *testing.T, r *driveRig) {
		r.bus.set(drivers.ErrSilent, false)
		r.want(0, onValue)
		settled(55 * time.Second)
		r.bus.set(nil, true)
		n := r.bus.count()
		r.reads(0, offValue)
		settled(time.Second)
		if r.bus.count() != n+1 {
			t.Errorf("on the line: %s", r.bus.writes())
		}
		// One that is there and refuses is not tried with every reading.
		r.bus.set(errors.New("exception 2"), true)
		r.want(0, offValue)
		n = r.bus.count()
		for range 600 {
			r.reads(0, onValue)
			settled(100 * time.Millisecond)
		}
		if more := r.bus.count() - n; more > 14 {
			t.Errorf("tried %d times in a minute", more)
		}
	})
}

// The order of a person that comes while a rule's waits for its turn: the rule's is void.
func TestDriveDoesNotOvertakePeople(t *testing.T) {
	driving(t, func(t *testing.T, r *driveRig) {
		hang := make(chan struct{})
		r.bus.mu.Lock()
		r.bus.hang = hang
		r.bus.mu.Unlock()
		go r.do(0, offValue)
		synctest.Wait() // It is on the line.
		r.want(0, onValue)
		synctest.Wait() // And this one waits.
		r.bus.mu.Lock()
		r.bus.hang = nil
		r.bus.mu.Unlock()
		close(hang)
		settled(time.Minute)
		if got := r.bus.writes(); got != "0=false" {
			t.Errorf("on the line: %s", got)
		}
	})
}

// on_start does not win over what a rule wants, even where the unit comes back later than that.
func TestDriveOvertakesOnStart(t *testing.T) {
	driving(t, func(t *testing.T, r *driveRig) {
		r.bus.set(drivers.ErrSilent, false)
		r.want(0, onValue)
		synctest.Wait()
		res := r.Do(t.Context(), order{Point: 0, Value: offValue, By: byGateway, Note: "on_start", first: true})
		if !errors.Is(res.Err, errOvertaken) {
			t.Errorf("on_start: %+v", res)
		}
		// on_stop wins.
		r.bus.set(nil, true)
		r.stop()
		res = r.Do(t.Context(), order{Point: 0, Value: offValue, By: byGateway, Note: "on_stop", last: true})
		n := r.bus.count()
		r.want(0, onValue)
		settled(time.Minute)
		if res.Outcome != orderDone || r.bus.count() != n {
			t.Errorf("on_stop: %+v, then on the line: %s", res, r.bus.writes())
		}
	})
}

// In a dry run everything is in the record, and nothing on the line.
func TestDryRunSendsNothing(t *testing.T) {
	driving(t, func(t *testing.T, r *driveRig) {
		r.d.dry = true
		r.want(0, onValue)
		r.reads(0, offValue)
		r.want(0, offValue)
		settled(time.Minute)
		if got := r.bus.writes(); got != "" {
			t.Errorf("on the line: %s", got)
		}
		if got, want := r.audited(t), "rule FireConfirmed b1 siren_1.on=true dry_run; rule FireConfirmed b1 siren_1.on=false dry_run"; got != want {
			t.Errorf("the record: %s, want %s", got, want)
		}
		if res := r.Do(t.Context(), order{Point: 0, Value: offValue, By: byGateway, first: true}); res.Outcome != orderDone {
			t.Errorf("on_start: %+v", res)
		}
		if r.do(0, onValue).Outcome != orderDone {
			t.Error("people's orders are sent")
		}
	})
}

// After a restart nobody knows whether the output is on that must not be on beside it: what a rule wants waits for that, and
// no longer.
func TestDriveWaitsForTheFirstReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &driveRig{orderRig: newOrderRig(t, site.Output{Point: 0, Interlock: []telemetry.PointID{3}}, site.Output{Point: 3, Interlock: []telemetry.PointID{0}})}
		set := r.reading()
		r.d = newDrive(r.site, r.orders, "", zap.NewNop())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.d.run(ctx) }()
		r.want(0, onValue)
		settled(30 * time.Second)
		if got := r.bus.writes(); got != "" {
			t.Errorf("on the line: %s", got)
		}
		set(3, offValue)
		settled(300 * time.Millisecond)
		if got := r.bus.writes(); got != "0=true" {
			t.Errorf("on the line: %s", got)
		}
		if got := strings.Count(r.audited(t), "refused"); got != 1 {
			t.Errorf("the record: %s", r.audited(t))
		}
		cancel()
		<-done
	})
}

// A number is read back in steps of the register: one that is as near as that is kept, another is set again.
func TestDriveKeepsANumberWithinOneStep(t *testing.T) {
	for _, c := range []struct {
		step, read float64
		again      bool
	}{{0, 21.37, false}, {0, 21.38, false}, {0, 21.5, true}, {0.5, 21.5, false}, {0.5, 22, true}} {
		p := driven{live: true, keep: true, done: true, step: c.step, want: response.Command{Value: telemetry.FloatValue(21.37)},
			seen: telemetry.Sample{Value: telemetry.FloatValue(c.read), Time: 1}}
		if p.lost() != c.again {
			t.Errorf("step %v, read %v: set again %v", c.step, c.read, !c.again)
		}
	}
	u := &firmwareconfig.Unit{ID: "m", Profile: &firmwareconfig.Profile{Channels: []firmwareconfig.Channel{
		{Encoding: firmwareconfig.EncS16, Scale: 0.1}, {Encoding: firmwareconfig.EncF32, Scale: 1}}},
		Bindings: []firmwareconfig.Binding{{Point: 3, UnitFactor: 1000}, {Point: 4, Channel: 1, UnitFactor: 1}}}
	b := &site.Bus{Units: []firmwareconfig.Unit{*u}}
	if got, none := stepOf(b, 3), stepOf(b, 4)+stepOf(b, 5); math.Abs(got-100) > 1e-9 || none != 0 {
		t.Errorf("steps %v, %v", got, none)
	}
}
