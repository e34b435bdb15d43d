package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
	"linli/internal/audit"
	"linli/internal/site"
	"linli/internal/telemetry"
)

// fakeOutputs is a bus as orders see it.
type fakeOutputs struct {
	mu     sync.Mutex
	wrote  []string
	err    error
	online bool
	hang   chan struct{} // writes wait for it where it is set
	takes  time.Duration
}

func (f *fakeOutputs) Write(ctx context.Context, point telemetry.PointID, v telemetry.Value) error {
	f.mu.Lock()
	f.wrote = append(f.wrote, fmt.Sprint(point, "=", v))
	err, hang, takes := f.err, f.hang, f.takes
	f.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
			return &drivers.OutcomeUnknownError{Err: ctx.Err()}
		}
	}
	if takes > 0 {
		time.Sleep(takes)
	}
	return err
}

func (f *fakeOutputs) set(err error, online bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err, f.online = err, online
}

func (f *fakeOutputs) writes() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.wrote, " ")
}

func (f *fakeOutputs) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.wrote)
}

func (f *fakeOutputs) health() drivers.BusHealth {
	f.mu.Lock()
	defer f.mu.Unlock()
	return drivers.BusHealth{Units: []drivers.UnitHealth{{Unit: "io1", Online: f.online}}}
}

// orderRig is a site with one bus: point 0 is a siren's relay, 1 a mode with named codes, 2 a sensor, 3 another relay.
type orderRig struct {
	*orders
	bus    *fakeOutputs
	site   *site.Site
	record *audit.Record
}

func newOrderRig(t *testing.T, outputs ...site.Output) *orderRig {
	t.Helper()
	class := &telemetry.Class{ID: "siren", Points: []telemetry.PointDef{
		{Name: "on", Kind: telemetry.Bool, Writable: true},
		{Name: "mode", Kind: telemetry.Enum, Writable: true, Enum: []telemetry.EnumName{{Code: 0, Name: "quiet"}, {Code: 2, Name: "loud"}}},
		{Name: "level", Kind: telemetry.Float},
		{Name: "lamp", Kind: telemetry.Bool, Writable: true},
	}}
	inv := &telemetry.Inventory{Site: "test", Gateway: "gw1"}
	zone := inv.AddZone(telemetry.Zone{ID: "z", Parent: -1})
	d := inv.AddDevice(telemetry.Device{ID: "siren_1", Class: class, Zone: zone})
	var binds []firmwareconfig.Binding
	for i := range class.Points {
		binds = append(binds, firmwareconfig.Binding{Point: inv.ProvidePoint(d, i)})
	}
	if outputs == nil {
		outputs = []site.Output{{Point: 0}, {Point: 1}, {Point: 3, Interval: 3 * time.Second}}
	}
	r := &orderRig{bus: &fakeOutputs{online: true}, record: audit.New(audit.Config{Path: filepath.Join(t.TempDir(), "audit.log")})}
	r.site = &site.Site{Inventory: inv, Outputs: outputs,
		Buses: []site.Bus{{ID: "rs485_1", Units: []firmwareconfig.Unit{{ID: "io1", Address: 1, Bindings: binds}}}}}
	r.orders = newOrders(r.site, []pointWriter{r.bus}, telemetry.NewClock("b", 0, time.Time{}), r.record, zap.NewNop())
	return r
}

// audited returns the record, oldest first, as "by device.point=value outcome", without what was only begun.
func (r *orderRig) audited(t *testing.T) string {
	t.Helper()
	lines, err := r.record.Tail(100)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for i := len(lines) - 1; i >= 0; i-- {
		var e audit.Entry
		if err := json.Unmarshal(lines[i], &e); err != nil {
			t.Fatal(err)
		}
		if e.Outcome == orderBegun {
			continue
		}
		out = append(out, fmt.Sprintf("%s %s.%s=%v %s", e.By, e.Device, e.Point, e.Value, e.Outcome))
	}
	return strings.Join(out, "; ")
}

func (r *orderRig) do(point telemetry.PointID, v telemetry.Value) orderResult {
	return r.Do(context.Background(), order{Point: point, Value: v, By: "li.wei"})
}

var onValue, offValue = telemetry.BoolValue(true), telemetry.BoolValue(false)

func TestOrderOutcomes(t *testing.T) {
	got := telemetry.BoolValue(false)
	for _, c := range []struct {
		name    string
		order   order
		err     error // of the bus
		outcome string
		why     error
		sent    bool
	}{
		{"done", order{Point: 0, Value: onValue, By: "li.wei"}, nil, orderDone, nil, true},
		{"nobody's", order{Point: 0, Value: onValue, By: " "}, nil, orderRefused, errNoName, false},
		{"no output", order{Point: 2, Value: telemetry.FloatValue(1), By: "li.wei"}, nil, orderRefused, drivers.ErrNotWritable, false},
		{"no point", order{Point: 99, Value: onValue, By: "li.wei"}, nil, orderRefused, drivers.ErrNotWritable, false},
		{"wrong kind", order{Point: 0, Value: telemetry.IntValue(1), By: "li.wei"}, nil, orderRefused, errWrongKind, false},
		{"no value", order{Point: 0, By: "li.wei"}, nil, orderRefused, errWrongKind, false},
		{"unknown code", order{Point: 1, Value: telemetry.EnumValue(1), By: "li.wei"}, nil, orderRefused, drivers.ErrRange, false},
		{"known code", order{Point: 1, Value: telemetry.EnumValue(2), By: "li.wei"}, nil, orderDone, nil, true},
		{"beyond the channel", order{Point: 0, Value: onValue, By: "li.wei"}, drivers.ErrRange, orderRefused, drivers.ErrRange, true},
		{"no answer", order{Point: 0, Value: onValue, By: "li.wei"}, &drivers.OutcomeUnknownError{Err: errors.New("no answer")}, orderUnknown, nil, true},
		{"not taken", order{Point: 0, Value: onValue, By: "li.wei"}, &drivers.NotTakenError{Want: onValue, Got: got}, orderNotTaken, nil, true},
		{"refused by the unit", order{Point: 0, Value: onValue, By: "li.wei"}, errors.New("exception 2"), orderRefused, nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newOrderRig(t)
			r.bus.set(c.err, true)
			res := r.Do(t.Context(), c.order)
			if res.Outcome != c.outcome || c.why != nil && !errors.Is(res.Err, c.why) || (res.Err == nil) != (c.outcome == orderDone) {
				t.Errorf("outcome %s (%v), want %s (%v)", res.Outcome, res.Err, c.outcome, c.why)
			}
			if sent := r.bus.writes() != ""; sent != c.sent {
				t.Errorf("sent: %t, want %t", sent, c.sent)
			}
			if lines, err := r.record.Tail(10); err != nil || !strings.Contains(string(lines[0]), `"outcome":"`+c.outcome+`"`) ||
				len(lines) != 1+int(oneIf(c.sent)) || c.sent && !strings.Contains(string(lines[1]), `"outcome":"begun"`) {
				t.Errorf("the record has %s, %v", lines, err)
			}
		})
	}
}

func TestConfirmedValueIsNotSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newOrderRig(t)
		steps := func(want string, outcomes ...string) {
			t.Helper()
			if got := r.bus.writes(); got != want {
				t.Errorf("on the line: %s, want %s", got, want)
			}
		}
		r.do(0, onValue)
		time.Sleep(900 * time.Millisecond)
		if res := r.do(0, onValue); res.Outcome != orderUnchanged || res.Value != onValue {
			t.Errorf("the same within a second: %+v", res)
		}
		steps("0=true")
		if res := r.Do(t.Context(), order{Point: 0, Value: onValue, By: "li.wei", Force: true}); res.Outcome != orderDone {
			t.Errorf("the same by force: %+v", res)
		}
		steps("0=true 0=true")
		r.do(0, offValue)
		r.do(0, onValue)
		steps("0=true 0=true 0=false 0=true")
		time.Sleep(time.Second)
		r.do(0, onValue)
		steps("0=true 0=true 0=false 0=true 0=true")

		time.Sleep(10 * time.Second)
		r.do(0, offValue)
		r.forget(0) // a tool wrote past the points
		r.do(0, offValue)
		steps("0=true 0=true 0=false 0=true 0=true 0=false 0=false")
		r.bus.set(&drivers.OutcomeUnknownError{Err: errors.New("no answer")}, true)
		r.do(0, onValue)
		r.bus.set(nil, true)
		time.Sleep(100 * time.Millisecond)
		if res := r.do(0, offValue); res.Outcome != orderDone {
			t.Errorf("after an unknown outcome nothing stands for itself: %+v", res)
		}
	})
}

func TestRateOfOrders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newOrderRig(t)
		for i := range 5 {
			if res := r.do(0, telemetry.BoolValue(i%2 == 0)); res.Outcome != orderDone {
				t.Fatalf("order %d of a burst: %+v", i, res)
			}
		}
		res := r.do(0, offValue)
		if !errors.Is(res.Err, errTooSoon) || res.Retry <= 0 || res.Retry > time.Second {
			t.Fatalf("the sixth order: %+v", res)
		}
		if other := r.do(1, telemetry.EnumValue(2)); other.Outcome != orderDone {
			t.Errorf("another point pays for it: %+v", other)
		}
		time.Sleep(res.Retry)
		if res := r.do(0, offValue); res.Outcome != orderDone {
			t.Errorf("after the wait that was named: %+v", res)
		}
		if res := r.do(0, onValue); !errors.Is(res.Err, errTooSoon) {
			t.Errorf("at once after it: %+v", res)
		}

		// The site file asks for 3 s between changes of this one.
		r.do(3, onValue)
		time.Sleep(2 * time.Second)
		if res := r.do(3, offValue); !errors.Is(res.Err, errTooSoon) || res.Retry != time.Second {
			t.Errorf("a change after 2 of 3 s: %+v", res)
		}
		if res := r.do(3, onValue); res.Outcome != orderDone {
			t.Errorf("the same value is no change: %+v", res)
		}
		time.Sleep(3 * time.Second)
		if res := r.do(3, offValue); res.Outcome != orderDone {
			t.Errorf("a change after 3 s: %+v", res)
		}
	})
}

func TestOrdersOfOnePointTakeTurnsAndAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newOrderRig(t)
		r.bus.hang = make(chan struct{})
		results := make(chan orderResult, 100)
		for range 70 {
			go func() { results <- r.do(0, onValue) }()
		}
		synctest.Wait()
		if got := r.bus.writes(); got != "0=true" {
			t.Errorf("on the line at one time: %s", got)
		}
		soon := 0
		for range len(results) {
			if res := <-results; errors.Is(res.Err, errTooSoon) {
				soon++
			}
		}
		if soon != 70-orderBurst {
			t.Errorf("%d orders were refused without waiting, want %d", soon, 70-orderBurst)
		}
		close(r.bus.hang)
		time.Sleep(time.Second / 2)
		synctest.Wait()
		for range len(results) {
			if res := <-results; res.Err != nil {
				t.Errorf("an order that waited its turn: %+v", res)
			}
		}
		if got := r.bus.writes(); got != "0=true" {
			t.Errorf("the same value from many people is one write, got %s", got)
		}
		if got := r.audited(t); strings.Count(got, ";") > 4 {
			t.Errorf("what changed nothing fills the record: %s", got)
		}
	})
}

// TestADeadBusHoldsUpNoOther: the orders that wait are bounded for each bus, and those beyond are refused at once.
func TestADeadBusHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newOrderRig(t)
		dead := &fakeOutputs{hang: make(chan struct{})}
		r.site.Buses = append(r.site.Buses, site.Bus{ID: "dead"})
		class := r.site.Inventory.Devices[0].Class
		var far []telemetry.PointID
		for i := range ordersAtOnce + 6 {
			d := r.site.Inventory.AddDevice(telemetry.Device{ID: fmt.Sprint("far_", i), Class: class, Zone: 0})
			far = append(far, r.site.Inventory.ProvidePoint(d, 0))
			r.site.Outputs = append(r.site.Outputs, site.Output{Point: far[i], Bus: 1})
		}
		r.orders = newOrders(r.site, []pointWriter{r.bus, dead}, telemetry.NewClock("b", 0, time.Time{}), r.record, zap.NewNop())
		results := make(chan orderResult, 100)
		for _, p := range far {
			go func() { results <- r.do(p, onValue) }()
		}
		synctest.Wait()
		busy := 0
		for range len(results) {
			if res := <-results; errors.Is(res.Err, drivers.ErrBusy) {
				busy++
			}
		}
		if busy != 6 {
			t.Errorf("%d orders beyond the bound were refused, want 6", busy)
		}
		if res := r.do(0, onValue); res.Outcome != orderDone {
			t.Errorf("an order on the other bus: %+v", res)
		}
		time.Sleep(orderLimit)
	})
}

func TestNobodyElseIsTheGateway(t *testing.T) {
	r := newOrderRig(t)
	for _, by := range []string{"gateway", " Gateway "} {
		if res := r.Do(t.Context(), order{Point: 0, Value: onValue, By: by, Note: "on_stop"}); !errors.Is(res.Err, errReserved) {
			t.Errorf("by %q: %+v", by, res)
		}
	}
	r.Do(t.Context(), order{Point: 0, Value: onValue, By: byGateway, last: true})
	r.Do(t.Context(), order{Point: 3, Value: onValue, By: "li.wei"})
	lines, err := r.record.Tail(10)
	if err != nil || len(lines) != 6 || !strings.Contains(string(lines[1]), `"origin":"api"`) || !strings.Contains(string(lines[3]), `"origin":"gateway"`) ||
		!strings.Contains(string(lines[5]), `"origin":"api"`) {
		t.Errorf("the record has %s, %v", lines, err)
	}
}

func TestOrderIsBoundedAndOutlivesItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newOrderRig(t)
		r.bus.hang = make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		began := time.Now()
		go cancel()
		res := r.Do(ctx, order{Point: 0, Value: onValue, By: "li.wei"})
		if took := time.Since(began); res.Outcome != orderUnknown || took != orderLimit {
			t.Errorf("an order that hangs: %+v after %s, want unknown after %s", res, took, orderLimit)
		}
	})
}

func TestErrorsStandInOneLine(t *testing.T) {
	for _, x := range []struct {
		err  error
		want string
	}{
		{nil, ""}, {errors.New("plain"), "plain"},
		{&drivers.OutcomeUnknownError{Err: errors.Join(errors.New("no answer"), errors.New("no answer"))}, "outcome unknown: no answer"},
		{errors.Join(errors.New("a"), errors.New("b")), "a; b"},
	} {
		if got := inOneLine(x.err); got != x.want {
			t.Errorf("%v: %q, want %q", x.err, got, x.want)
		}
	}
}
