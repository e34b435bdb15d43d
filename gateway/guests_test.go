package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
	"linli/internal/audit"
	"linli/internal/console"
	"linli/internal/site"
	"linli/internal/telemetry"
)

func TestRequestsOfToolsAreWhole(t *testing.T) {
	for _, x := range []struct {
		pdu  string
		want error
	}{
		{"0300010002", nil}, {"03000100", console.ErrBadRequest}, {"030001000200", console.ErrBadRequest}, {"01", console.ErrBadRequest},
		{"050000ff00", nil}, {"05", console.ErrBadRequest}, {"050000ff", console.ErrBadRequest},
		{"0600010002", nil}, {"06000100", console.ErrBadRequest},
		{"0f0000000a02ff03", nil}, {"0f0000000a01ff", console.ErrBadRequest}, {"0f0000000a02ff", console.ErrBadRequest}, {"0f0000000000", console.ErrBadRequest},
		{"0f000000000000", console.ErrBadRequest}, {"10000100020400010002", nil}, {"1000010002040001", console.ErrBadRequest}, {"1000010002020001", console.ErrBadRequest},
		{"10", console.ErrBadRequest}, {"11", nil}, {"1100", console.ErrBadRequest}, {"1600010000ffff", nil}, {"1600010000", console.ErrBadRequest},
		{"2b0e0100", nil}, {"2b0e01", console.ErrBadRequest}, {"2b0d0100", console.ErrFunction}, {"2b", console.ErrBadRequest},
		{"17" + strings.Repeat("00", 11), console.ErrFunction}, {"08000000", console.ErrFunction}, {"00", console.ErrFunction}, {"ff", console.ErrFunction},
	} {
		pdu, err := hex.DecodeString(x.pdu)
		if err != nil {
			t.Fatal(err)
		}
		if err := checkRequest(pdu); !errors.Is(err, x.want) || (err == nil) != (x.want == nil) {
			t.Errorf("%s: %v, want %v", x.pdu, err, x.want)
		}
	}
}

// hostBus is a bus that answers tools after a while, or not.
type hostBus struct {
	asked []string
	takes time.Duration
	err   error

	mu        sync.Mutex
	suspended bool
	refuse    error // of Suspend
}

func (h *hostBus) Step(_ context.Context, now telemetry.Mono, dst []telemetry.Sample) ([]telemetry.Sample, telemetry.Mono) {
	return dst, now.Add(time.Hour)
}
func (h *hostBus) Health() drivers.BusHealth {
	h.mu.Lock()
	defer h.mu.Unlock()
	return drivers.BusHealth{Up: true, Suspended: h.suspended}
}
func (h *hostBus) Close() error { return nil }
func (h *hostBus) Ask(ctx context.Context, unit byte, pdu []byte, _ time.Duration) (drivers.Reply, error) {
	h.asked = append(h.asked, fmt.Sprintf("%d %x", unit, pdu))
	select {
	case <-time.After(h.takes):
		return drivers.Reply{PDU: pdu}, h.err
	case <-ctx.Done():
		return drivers.Reply{}, &drivers.OutcomeUnknownError{Err: ctx.Err()}
	}
}
func (h *hostBus) Hear(context.Context, time.Duration) ([]byte, error) { return nil, nil }
func (h *hostBus) Suspend(_ context.Context, d time.Duration, _ int, _ string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.suspended = d > 0
	return h.refuse
}
func (h *hostBus) Write(context.Context, telemetry.PointID, telemetry.Value) error { return nil }

// newGuestRig returns the requests of tools to one bus, which runs until the test ends or stop is called.
func newGuestRig(t *testing.T) (*guests, *hostBus, *orderRig, func()) {
	t.Helper()
	r := newOrderRig(t)
	r.site.Buses[0].Transport = site.ModbusTCP
	bus := &hostBus{}
	line := drivers.NewLine(bus)
	g := &guests{site: r.site, lines: []*drivers.Line{line}, orders: r.orders, audit: r.record, clock: r.orders.clock, log: zap.NewNop()}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		_ = drivers.Supervise(ctx, g.clock, line, func([]telemetry.Sample) {}, zap.NewNop())
		close(done)
	}()
	return g, bus, r, func() { cancel(); <-done }
}

func raws(t *testing.T, r *audit.Record) string {
	t.Helper()
	lines, err := r.Tail(100)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for i := len(lines) - 1; i >= 0; i-- {
		var e audit.Entry
		if err := json.Unmarshal(lines[i], &e); err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%s %d %s", e.What, e.Order, e.Outcome))
	}
	return strings.Join(out, "; ")
}

var coilOn = []byte{5, 0, 0, 0xFF, 0}

func TestWhatWasSentIsNotToldAsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, bus, r, stop := newGuestRig(t)
		bus.takes = time.Hour
		a, err := g.Ask(t.Context(), "rs485_1", console.Question{Unit: 1, PDU: coilOn, By: "li", Write: true})
		if err != nil || !strings.HasPrefix(a.Error, "outcome unknown") {
			t.Errorf("a write on the line that nobody waits for any more: %+v, %v", a, err)
		}
		if got := raws(t, r.record); got != "raw 1 begun; raw 1 unknown" {
			t.Errorf("the record has %s", got)
		}
		stop()
	})
}

func TestRequestsThatWaitAtStopAreToldSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, bus, r, stop := newGuestRig(t)
		bus.takes = 300 * time.Millisecond
		errs := make(chan error, 20)
		for range 20 {
			go func() {
				_, err := g.Ask(t.Context(), "rs485_1", console.Question{Unit: 1, PDU: coilOn, By: "li", Write: true})
				errs <- err
			}()
		}
		time.Sleep(100 * time.Millisecond)
		s := &standing{site: r.site, orders: r.orders, health: []func() drivers.BusHealth{bus.Health}, endGuests: []func(){g.lines[0].EndGuests}}
		if err := s.stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
		time.Sleep(time.Second)
		stopping := 0
		for range 20 {
			if errors.Is(<-errs, console.ErrStopping) {
				stopping++
			}
		}
		if stopping != 19 || len(bus.asked) != 1 {
			t.Errorf("%d were told that the gateway stops, want 19; on the line %v", stopping, bus.asked)
		}
		if _, err := g.Ask(t.Context(), "rs485_1", console.Question{Unit: 1, PDU: []byte{3, 0, 0, 0, 1}}); !errors.Is(err, console.ErrStopping) {
			t.Errorf("a question after on_stop: %v", err)
		}
		if _, err := g.Suspend(t.Context(), "rs485_1", console.Suspension{For: time.Second, By: "li"}); !errors.Is(err, console.ErrStopping) {
			t.Errorf("a suspension after on_stop: %v", err)
		}
		stop()
	})
}

func TestUnitZeroIsEverybody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, bus, r, stop := newGuestRig(t)
		defer stop()
		ask := func(pdu []byte) error {
			_, err := g.Ask(t.Context(), "rs485_1", console.Question{Unit: 0, PDU: pdu, By: "li", Write: true})
			return err
		}
		if err := ask(coilOn); !errors.Is(err, console.ErrBadRequest) {
			t.Errorf("a write to unit 0: %v", err)
		}
		if err := ask([]byte{3, 0, 0, 0, 1}); err != nil {
			t.Errorf("a question to unit 0 of a Modbus TCP endpoint: %v", err)
		}
		r.site.Buses[0].Units = append(r.site.Buses[0].Units, firmwareconfig.Unit{ID: "self", Address: 0})
		if err := ask(coilOn); err != nil {
			t.Errorf("a write to the endpoint's own unit 0: %v", err)
		}
		r.site.Buses[0].Transport = site.ModbusRTUOverTCP
		for _, pdu := range [][]byte{coilOn, {3, 0, 0, 0, 1}} {
			if err := ask(pdu); !errors.Is(err, console.ErrBadRequest) {
				t.Errorf("unit 0 behind a converter: %v", err)
			}
		}
		if len(bus.asked) != 2 {
			t.Errorf("on the line: %v", bus.asked)
		}
	})
}

func TestASuspensionHasAnOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, bus, r, stop := newGuestRig(t)
		defer stop()
		suspend := func(d time.Duration, by, lease string, force bool) (string, error) {
			l, err := g.Suspend(t.Context(), "rs485_1", console.Suspension{For: d, By: by, Lease: lease, Force: force})
			return l.ID, err
		}
		read := func(lease string) error {
			_, err := g.Ask(t.Context(), "rs485_1", console.Question{Unit: 1, PDU: []byte{3, 0, 0, 0, 1}, Lease: lease})
			_, herr := g.Hear(t.Context(), "rs485_1", time.Millisecond, lease)
			if (err == nil) != (herr == nil) {
				t.Errorf("asking: %v, hearing: %v", err, herr)
			}
			return err
		}
		denied := func(what string, err error) {
			t.Helper()
			if !errors.Is(err, console.ErrSuspendedBy) || !strings.Contains(err.Error(), "wang until 2000-01-01T00:0") {
				t.Errorf("%s: %v", what, err)
			}
		}
		lease, err := suspend(20*time.Second, "wang", "", false)
		if err != nil || len(lease) < 16 {
			t.Fatalf("the first: %q, %v", lease, err)
		}
		_, err = suspend(time.Minute, "li", "", false)
		denied("another's suspension", err)
		_, err = suspend(0, "li", "guess", false)
		denied("another's resumption", err)
		denied("another's question", read(""))
		if err := read(lease); err != nil {
			t.Errorf("the owner's question: %v", err)
		}
		for range 4 { // renewed
			time.Sleep(5 * time.Second)
			if again, err := suspend(20*time.Second, "wang", lease, false); err != nil || again != lease {
				t.Errorf("renewed: %q, %v", again, err)
			}
		}
		time.Sleep(19 * time.Second)
		denied("19 s after the last renewal", read(""))
		time.Sleep(time.Second)
		if err := read(""); err != nil {
			t.Errorf("after the lease: %v", err)
		}

		if _, err := suspend(time.Minute, "wang", "", false); err != nil {
			t.Fatal(err)
		}
		if g.Buses()[0].SuspendedBy != "wang" {
			t.Errorf("buses: %+v", g.Buses())
		}
		if _, err := suspend(0, "li", "", true); err != nil || read("") != nil {
			t.Errorf("ended by force: %v", err)
		}

		// A bus that refuses to be suspended belongs to nobody.
		bus.refuse = errors.New("no")
		if _, err := suspend(time.Minute, "wang", "", false); err == nil || read("") != nil {
			t.Errorf("a suspension that failed: %v", err)
		}
		if got := raws(t, r.record); strings.Count(got, "suspend") > 5 {
			t.Errorf("renewals fill the record: %s", got)
		}
	})
}
