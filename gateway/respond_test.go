package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"linli/drivers"
	"linli/internal/alert"
	"linli/internal/audit"
	"linli/internal/live"
	"linli/internal/telemetry"
	"linli/rules"
	"linli/rules/response"
)

// respondSite has a lane whose sensor is point lane_1.occupied, and two outputs.
const respondSite = `
version: 1
site: test
zones: [{id: lane_east, kind: lane, title: {zh: 东门, en: East gate}}]
buses:
  - id: rs485_1
    modbus_rtu: {device: /dev/ttyS1}
    units: [{id: io1, address: 1, profile: waveshare_io_8ch}]
devices:
  - {id: lane_1, class: fire_lane_sensor, zone: lane_east, points: {occupied: io1.di1}}
  - {id: lane_2, class: fire_lane_sensor, zone: lane_east, points: {occupied: io1.di2}}
  - {id: siren_1, class: siren, zone: lane_east, points: {on: {from: io1.do1, on_start: off, on_stop: off}}}
rules:
  - {pack: fire_lane, params: {dwell: 10s, clear_after: 1s}}
`

var (
	blocked1 = telemetry.Identity{Alert: "FireLaneBlocked", Subject: "lane_1"}
	blocked2 = telemetry.Identity{Alert: "FireLaneBlocked", Subject: "lane_2"}
)

// respondRig is a gateway from the fan-in to the outputs, without a bus, in a bubble.
type respondRig struct {
	t      *testing.T
	dir    string
	plans  map[telemetry.Identity]*response.Plan
	f      *fanIn
	st     *stores
	bus    *fakeOutputs
	record *audit.Record
	orders *orders
	p      *plan
	stop   func()
	lane   [2]telemetry.PointID
	siren  telemetry.PointID
	dry    bool // of the next start
}

// responding runs f with a gateway that has the given plans, in a bubble.
func responding(t *testing.T, plans map[telemetry.Identity]*response.Plan, f func(t *testing.T, r *respondRig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &respondRig{t: t, dir: t.TempDir(), plans: plans, bus: &fakeOutputs{online: true}}
		r.start()
		defer func() { r.stop() }()
		f(t, r)
	})
}

// start starts the gateway on what is in the state directory.
func (r *respondRig) start() {
	t := r.t
	p, err := resolvePlan("site.yaml", []byte(respondSite), nil)
	if err != nil {
		t.Fatal(err)
	}
	inv := p.site.Inventory
	point := func(device, name string) telemetry.PointID {
		d, _ := inv.DeviceByID(device)
		return inv.Devices[d].Points[inv.Devices[d].Class.Point(name)]
	}
	r.p, r.lane, r.siren = p, [2]telemetry.PointID{point("lane_1", "occupied"), point("lane_2", "occupied")}, point("siren_1", "on")
	for _, plan := range r.plans {
		for i := range plan.Outputs {
			plan.Outputs[i].Point = r.siren
		}
	}
	p.site.DryRun = r.dry
	clock := telemetry.NewClock("boot", 0, time.Time{})
	if r.st, err = openStores(r.dir, p.site, clock, zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	r.record = audit.New(audit.Config{Path: filepath.Join(r.dir, "audit.log")})
	r.orders = newOrders(p.site, []pointWriter{r.bus}, clock, r.record, zap.NewNop())
	d := newDrive(p.site, r.orders, r.dir, zap.NewNop())
	table := live.New(len(inv.Points))
	r.orders.reads, r.orders.by = table.Get, d.manual
	p.engine.Restore(r.st.book.Active())
	r.f = newFanIn(clock, table, p.engine, r.st.book, r.st.journal, d, newReporter(inv, p.site.Report.MaxInterval), zap.NewNop())
	r.use(r.plans)
	r.f.respond.restore(clock.Now(), clock.Boot, r.st.idle)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 3)
	for _, run := range []func(context.Context) error{r.st.book.Run, d.run, r.f.run} {
		go func() { done <- run(ctx) }()
	}
	r.stop = func() {
		cancel()
		err := errors.Join(<-done, <-done, <-done, r.st.book.Close(), r.st.journal.Close())
		r.st.unlock()
		if err != nil {
			t.Error(err)
		}
	}
	synctest.Wait()
}

// use has the machine follow plans instead of those of the packs.
func (r *respondRig) use(plans map[telemetry.Identity]*response.Plan) {
	r.f.respond.plan = func(id telemetry.Identity) *response.Plan { return plans[id] }
	r.f.respond.machine = response.New(r.f.respond.plan)
}

// occupy tells what lane i is.
func (r *respondRig) occupy(i int, v bool) { r.says(r.lane[i], telemetry.BoolValue(v)) }

func (r *respondRig) says(point telemetry.PointID, v telemetry.Value) {
	r.f.emit(r.t.Context())([]telemetry.Sample{{Point: point, Time: r.f.clock.Mono(), Value: v}})
	synctest.Wait()
}

// alert returns the open alert, or a zero one.
func (r *respondRig) alert(id telemetry.Identity) alert.Alert {
	for _, a := range r.st.book.OpenAlerts() {
		if a.Identity == id {
			return a
		}
	}
	return alert.Alert{}
}

// line fails the test where something else was sent than want.
func (r *respondRig) line(when, want string) {
	r.t.Helper()
	if got := strings.ReplaceAll(r.bus.writes(), fmt.Sprint(r.siren, "="), ""); got != want {
		r.t.Errorf("%s: on the line %q, want %q", when, got, want)
	}
}

// history returns what happened to an alert.
func (r *respondRig) history(id string) string {
	_, lines, err := r.st.book.Get(id)
	if err != nil {
		r.t.Fatal(err)
	}
	var s []string
	for _, e := range lines {
		s = append(s, e.What)
	}
	return strings.Join(s, " ")
}

// The life of an output: it begins after its time, and stops when somebody acknowledges, without any time passing.
func TestRespondUntilAcknowledged(t *testing.T) {
	plans := map[telemetry.Identity]*response.Plan{blocked1: {Outputs: []response.Output{
		{Value: onValue, Rest: offValue, After: time.Minute, For: 20 * time.Second, Until: response.UntilAcknowledged}}}}
	responding(t, plans, func(t *testing.T, r *respondRig) {
		r.occupy(0, true)
		settled(10 * time.Second)
		a := r.alert(blocked1)
		if a.ID == "" {
			t.Fatal("no alert")
		}
		settled(time.Minute - time.Millisecond)
		r.line("before its time", "")
		settled(time.Millisecond)
		r.line("after a minute", "true")
		settled(5 * time.Second)
		if _, err := r.st.book.Acknowledge(t.Context(), a.ID, "Wang", ""); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		r.line("acknowledged", "true false")
		settled(time.Hour)
		r.line("an hour later", "true false")
		if got := r.st.book.TakeDoings(nil); len(got) > 0 {
			t.Errorf("left: %v", got)
		}
	})
}

// Nobody acknowledges: the alert climbs, gets worse, and keeps both after a restart; then it goes on from where it was.
func TestRespondEscalates(t *testing.T) {
	plans := map[telemetry.Identity]*response.Plan{blocked1: {Escalate: []response.Step{
		{After: 10 * time.Minute, To: response.Street, Severity: telemetry.Critical}, {After: 20 * time.Minute, To: response.District}}}}
	responding(t, plans, func(t *testing.T, r *respondRig) {
		r.occupy(0, true)
		settled(10 * time.Second)
		settled(10*time.Minute + 300*time.Millisecond)
		a := r.alert(blocked1)
		if a.Tier != alert.Street || a.Severity != telemetry.Critical || a.State != alert.ActiveUnacknowledged {
			t.Errorf("after ten minutes: %+v", a)
		}
		r.stop()
		settled(time.Minute)
		r.start()
		settled(time.Second)
		if again := r.alert(blocked1); again.Tier != alert.Street || again.Severity != telemetry.Critical || again.ID != a.ID {
			t.Errorf("after the restart: %+v", again)
		}
		settled(9 * time.Minute)
		if got := r.alert(blocked1); got.Tier != alert.District || got.Severity != telemetry.Critical {
			t.Errorf("after twenty minutes: %+v", got)
		}
		if got, want := r.history(a.ID), "raised escalated escalated"; got != want {
			t.Errorf("history: %s, want %s", got, want)
		}
		if _, err := r.st.book.Acknowledge(t.Context(), a.ID, "Wang", ""); err != nil {
			t.Fatal(err)
		}
		if b := r.alert(blocked1); b.Tier != alert.District || b.State != alert.ActiveAcknowledged {
			t.Errorf("acknowledged: %+v", b)
		}
	})
}

// One that another explains is shown, drives nothing and does not climb. When the other goes, it is announced and begins.
func TestRespondSuppresses(t *testing.T) {
	plans := map[telemetry.Identity]*response.Plan{blocked1: {Inhibitors: []telemetry.Identity{blocked2},
		Outputs:  []response.Output{{Value: onValue, Rest: offValue, Until: response.UntilCleared}},
		Escalate: []response.Step{{After: time.Minute, To: response.Street}}}}
	responding(t, plans, func(t *testing.T, r *respondRig) {
		r.f.emit(t.Context())([]telemetry.Sample{{Point: r.lane[0], Time: r.f.clock.Mono(), Value: onValue}, {Point: r.lane[1], Time: r.f.clock.Mono(), Value: onValue}})
		settled(10 * time.Second)
		settled(time.Second)
		a := r.alert(blocked1)
		if !a.Suppressed || a.SuppressedBy != blocked2 || r.alert(blocked2).Suppressed {
			t.Errorf("both at once: %+v", a)
		}
		settled(10 * time.Minute)
		r.line("suppressed", "")
		if a := r.alert(blocked1); a.Tier != 0 {
			t.Errorf("suppressed, it climbs: %+v", a)
		}
		// A restart changes nothing about it.
		r.stop()
		r.start()
		settled(time.Minute)
		if a := r.alert(blocked1); !a.Suppressed || r.history(a.ID) != "raised suppressed" {
			t.Errorf("after the restart: %+v, %s", a, r.history(a.ID))
		}
		r.line("after the restart", "")
		r.occupy(0, true)
		r.occupy(1, false)
		settled(20 * time.Second) // A vehicle that has stood there for long may flicker.
		if a := r.alert(blocked1); a.Suppressed || a.State != alert.ActiveUnacknowledged || !strings.HasSuffix(r.history(a.ID), "unsuppressed") {
			t.Errorf("released: %+v, %s", a, r.history(a.ID))
		}
		r.line("released", "true")
		settled(time.Minute)
		if a := r.alert(blocked1); a.Tier != alert.Street {
			t.Errorf("a minute after the release: %+v", a)
		}
	})
}

// The inhibitor goes while nobody runs: the alert is announced at the start.
func TestRespondReleasesAtStart(t *testing.T) {
	plans := map[telemetry.Identity]*response.Plan{blocked1: {Inhibitors: []telemetry.Identity{blocked2}}}
	responding(t, plans, func(t *testing.T, r *respondRig) {
		r.occupy(0, true)
		r.occupy(1, true)
		settled(15 * time.Second)
		id := r.alert(blocked1).ID
		r.stop()
		delete(r.plans, blocked1)
		r.start()
		settled(time.Second)
		if a := r.alert(blocked1); a.ID != id || a.Suppressed {
			t.Errorf("nothing suppresses it any more: %+v", a)
		}
	})
}

// After a restart what is still wanted is set at once, before any sample, and no on_start undoes it.
func TestRespondReasserts(t *testing.T) {
	plans := map[telemetry.Identity]*response.Plan{blocked1: {Outputs: []response.Output{{Value: onValue, Rest: offValue, Until: response.UntilCleared}}}}
	responding(t, plans, func(t *testing.T, r *respondRig) {
		r.occupy(0, true)
		settled(10 * time.Second)
		r.line("raised", "true")
		r.stop()
		r.start() // No time passes.
		r.line("started again", "true true")
		s := &standing{site: r.p.site, orders: r.orders, health: []func() drivers.BusHealth{r.bus.health}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := s.run(ctx); err != nil {
			t.Error(err)
		}
		r.line("on_start", "true true")
		r.occupy(0, false)
		settled(20 * time.Second) // A vehicle that has stood there for long may flicker.
		r.line("cleared", "true true false")
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	})
}

// Its time ended while nobody ran: the output may still be on, and is set to rest.
func TestRespondRelievesAtStart(t *testing.T) {
	plans := map[telemetry.Identity]*response.Plan{blocked1: {Outputs: []response.Output{{Value: onValue, Rest: offValue, For: 20 * time.Second}}}}
	responding(t, plans, func(t *testing.T, r *respondRig) {
		r.occupy(0, true)
		settled(11 * time.Second)
		r.line("raised", "true")
		r.stop()
		settled(time.Minute)
		r.start()
		r.line("started again", "true false")
	})
}

// Acknowledged while the unit did not answer, and then the gateway died: the output is set to rest by the next one, and by
// that alone.
func TestRespondRestsWhatWasLeft(t *testing.T) {
	plans := map[telemetry.Identity]*response.Plan{blocked1: {Outputs: []response.Output{{Value: onValue, Rest: offValue, Until: response.UntilAcknowledged}}}}
	responding(t, plans, func(t *testing.T, r *respondRig) {
		r.occupy(0, true)
		settled(11 * time.Second)
		r.line("raised", "true")
		r.bus.set(drivers.ErrSilent, false)
		if _, err := r.st.book.Acknowledge(t.Context(), r.alert(blocked1).ID, "Wang", ""); err != nil {
			t.Fatal(err)
		}
		settled(time.Second)
		r.stop()
		r.bus = &fakeOutputs{online: true}
		r.start()
		r.line("started again", "false")
		settled(time.Second)
		r.stop()
		r.start()
		settled(time.Second)
		r.line("and again", "false")
	})
}

// The book is lost in a fire: what is on stays on until the rule says that it is over, or nobody can tell for a minute.
func TestRespondLeavesOnWhatNobodyKnowsOf(t *testing.T) {
	plans := map[telemetry.Identity]*response.Plan{blocked1: {Outputs: []response.Output{{Value: onValue, Rest: offValue}}}}
	for name, c := range map[string]struct {
		then func(r *respondRig)
		want []string // at once, after a while, after a minute
	}{
		"it is over":   {func(r *respondRig) { r.occupy(0, false) }, []string{"", "false", "false"}},
		"it holds":     {func(r *respondRig) { r.occupy(0, true) }, []string{"", "true", "true"}},
		"nobody knows": {func(r *respondRig) {}, []string{"", "", "false"}},
		"taken over by hand": {func(r *respondRig) {
			r.orders.Do(r.t.Context(), order{Point: r.siren, Value: onValue, By: "Wang"})
		}, []string{"", "true", "true"}},
	} {
		t.Run(name, func(t *testing.T) {
			responding(t, plans, func(t *testing.T, r *respondRig) {
				r.occupy(0, true)
				settled(11 * time.Second)
				r.line("raised", "true")
				r.stop()
				for _, file := range []string{bookName, bookName + "-wal", bookName + "-shm"} {
					os.Remove(filepath.Join(r.dir, file))
				}
				r.bus = &fakeOutputs{online: true}
				r.start()
				settled(time.Second)
				r.line("started again", c.want[0])
				if list := r.f.respond.drive.inDemand(); len(list) != 1 || !list[0].Left {
					t.Errorf("shown: %+v", list)
				}
				if res := r.orders.Do(t.Context(), order{Point: r.siren, Value: offValue, By: byGateway, first: true}); !errors.Is(res.Err, errOvertaken) {
					t.Errorf("on_start: %+v", res)
				}
				c.then(r)
				settled(15 * time.Second)
				r.line("when it is decided", c.want[1])
				settled(time.Minute)
				r.line("a minute later", c.want[2])
			})
		})
	}
}

// Who orders by hand ends what alerts want of the output until then.
func TestRespondToManualOrders(t *testing.T) {
	plans := map[telemetry.Identity]*response.Plan{
		blocked1: {Outputs: []response.Output{{Value: onValue, Rest: offValue, Until: response.UntilClosed}}},
		blocked2: {Outputs: []response.Output{{Value: onValue, Rest: offValue, Until: response.UntilClosed}}},
	}
	responding(t, plans, func(t *testing.T, r *respondRig) {
		r.occupy(0, true)
		settled(11 * time.Second)
		r.line("raised", "true")
		if res := r.orders.Do(t.Context(), order{Point: r.siren, Value: offValue, By: "Wang"}); res.Outcome != orderDone {
			t.Fatalf("%+v", res)
		}
		settled(time.Second)
		r.says(r.siren, offValue)
		settled(time.Minute)
		r.line("silenced by hand", "true false")
		r.occupy(1, true)
		settled(11 * time.Second)
		r.line("a new alert", "true false true")
	})
}

// Closed by hand while it cannot be decided, and true after all in the same moment: the new alert is nobody's yet.
func TestRespondToAnAlertRaisedAnew(t *testing.T) {
	plans := map[telemetry.Identity]*response.Plan{blocked1: {
		Outputs: []response.Output{{Value: onValue, Rest: offValue, Until: response.UntilAcknowledged}}}}
	responding(t, plans, func(t *testing.T, r *respondRig) {
		r.occupy(0, true)
		settled(11 * time.Second)
		id := r.alert(blocked1).ID
		if _, err := r.st.book.Acknowledge(t.Context(), id, "Wang", ""); err != nil {
			t.Fatal(err)
		}
		settled(time.Second)
		r.line("acknowledged", "true false")
		now := r.f.clock.Now()
		err := r.f.ask(t.Context(), func(*rules.Engine) { // Between two steps, so that nothing is heard in between.
			said := telemetry.Transition{Identity: blocked1, Device: -1, Zone: -1, Severity: telemetry.Warning, Time: now.Mono}
			unknown, known := said, said
			unknown.Op, known.Op, known.Condition = telemetry.Unknown, telemetry.Known, telemetry.ConditionTrue
			r.st.book.Submit(now, []telemetry.Transition{unknown})
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := r.st.book.CloseByHand(ctx, id, "Wang", ""); err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			r.st.book.Submit(now, []telemetry.Transition{known})
		})
		if err != nil {
			t.Fatal(err)
		}
		settled(time.Second)
		if a := r.alert(blocked1); a.ID == id || a.State != alert.ActiveUnacknowledged {
			t.Fatalf("%+v", a)
		}
		r.line("a new alert, that nobody has acknowledged", "true false true")
	})
}

// The tiers of the book and of the rules are the same words.
func TestTiersAgree(t *testing.T) {
	t.Parallel()
	for tier := range response.District + 2 {
		if a := alert.Tier(tier); tier <= response.District && a.String() != tier.String() || tier > response.District && a <= alert.District {
			t.Errorf("%d: %s and %s", tier, a, tier)
		}
	}
}

// openAs reckons the times of an alert, whatever the clock was.
func TestTimesOfRestoredAlerts(t *testing.T) {
	t.Parallel()
	wall := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	now := telemetry.Now{Mono: telemetry.Mono(time.Hour), Wall: wall}
	line := func(what string, at time.Time) alert.Entry { return alert.Entry{What: what, Time: at} }
	for name, c := range map[string]struct {
		now       telemetry.Now
		lines     []alert.Entry
		age, gone time.Duration
	}{
		"raised":                     {now, []alert.Entry{line("raised", wall.Add(-time.Minute)), line("changed", wall)}, time.Minute, 0},
		"raised again":               {now, []alert.Entry{line("raised", wall.Add(-time.Hour)), line("returned", wall.Add(-time.Minute)), line("raised_again", wall.Add(-time.Second))}, time.Second, time.Minute},
		"released":                   {now, []alert.Entry{line("raised", wall.Add(-time.Hour)), line("suppressed", wall.Add(-time.Hour)), line("unsuppressed", wall.Add(-time.Minute))}, time.Minute, 0},
		"in the future":              {now, []alert.Entry{line("raised", wall.Add(time.Minute))}, 0, 0},
		"clock unset":                {telemetry.Now{Mono: now.Mono}, []alert.Entry{line("raised", wall.Add(-time.Minute))}, 0, 0},
		"uncertain, of another boot": {now, []alert.Entry{{What: "raised", Time: time.Unix(60, 0).UTC(), TimeUncertain: true}}, 0, 0},
	} {
		a := alert.Alert{Identity: blocked1, State: alert.ActiveAcknowledged, Tier: alert.Street, AcknowledgedAt: wall}
		if o := openAs(c.now, &a, c.lines, "boot", nil); o.Age != c.age || o.Gone != c.gone || o.Tier != response.Street || !o.Acknowledged || !o.Active {
			t.Errorf("%s: %+v", name, o)
		}
	}
	if o := openAs(now, &alert.Alert{State: alert.ReturnedUnacknowledged}, nil, "", nil); o.Tier != 0 || o.Active || o.Acknowledged {
		t.Errorf("%+v", o)
	}
}

// What no gateway ran through is no part of the times of escalation.
func TestRespondIdleTimes(t *testing.T) {
	t.Parallel()
	wall := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return wall.Add(-d) }
	idle := []idleTime{{ago(10 * time.Hour), ago(9 * time.Hour)}, {ago(3 * time.Hour), ago(2 * time.Hour)}, {ago(time.Minute), wall}}
	for age, want := range map[time.Duration]time.Duration{
		0: 0, time.Second: time.Second, time.Hour: time.Minute, 150 * time.Minute: 31 * time.Minute, 24 * time.Hour: 2*time.Hour + time.Minute,
	} {
		if got := idleWithin(idle, telemetry.Now{Wall: wall}, age); got != want {
			t.Errorf("of %s: %s, want %s", age, got, want)
		}
	}
	if got := idleWithin(idle, telemetry.Now{}, time.Hour); got != 0 {
		t.Errorf("with the clock unset: %s", got)
	}
}
