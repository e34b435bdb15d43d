package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
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
	"linli/rules/response"
)

// modules is a serial line with units of eight relays each: point 8k+c is relay c of unit k. A write to a dead one takes a
// second.
type modules struct {
	*drive
	line  chan struct{}
	start telemetry.Mono
	units int

	mu    sync.Mutex
	dead  map[int]bool
	known bool // the health tells which are dead
	wrote map[telemetry.PointID][]time.Duration
}

func (m *modules) Write(ctx context.Context, point telemetry.PointID, v telemetry.Value) error {
	m.line <- struct{}{}
	defer func() { <-m.line }()
	m.mu.Lock()
	m.wrote[point] = append(m.wrote[point], m.orders.clock.Mono().Sub(m.start))
	dead := m.dead[int(point)/8]
	m.mu.Unlock()
	if dead {
		time.Sleep(time.Second)
		return &drivers.OutcomeUnknownError{Err: errors.New("no answer")}
	}
	time.Sleep(10 * time.Millisecond)
	return nil
}

func (m *modules) health() (h drivers.BusHealth) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k := range m.units {
		h.Units = append(h.Units, drivers.UnitHealth{Unit: fmt.Sprint("m", k), Online: !m.dead[k] || !m.known})
	}
	return h
}

func (m *modules) first(point telemetry.PointID) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.wrote[point]) == 0 {
		return time.Hour
	}
	return m.wrote[point][0]
}

func (m *modules) sets(point telemetry.PointID, s telemetry.Severity) {
	m.want(response.Command{Point: point, Value: onValue, For: fire, Why: response.WhyDemanded, Severity: s, Time: m.orders.clock.Mono()})
}

// onModules runs f with n units, of which those from `from` on are dead.
func onModules(t *testing.T, n, from int, f func(t *testing.T, m *modules)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := &modules{line: make(chan struct{}, 1), units: n, dead: map[int]bool{}, wrote: map[telemetry.PointID][]time.Duration{}}
		class := &telemetry.Class{ID: "relays"}
		for c := range 8 {
			class.Points = append(class.Points, telemetry.PointDef{Name: fmt.Sprint("r", c), Kind: telemetry.Bool, Writable: true})
		}
		inv := &telemetry.Inventory{Site: "test", Gateway: "gw1"}
		zone := inv.AddZone(telemetry.Zone{ID: "z", Parent: -1})
		s := &site.Site{Inventory: inv, Buses: []site.Bus{{ID: "rs485_1"}}}
		for k := range n {
			m.dead[k] = k >= from
			d := inv.AddDevice(telemetry.Device{ID: fmt.Sprint("d", k), Class: class, Zone: zone})
			u := firmwareconfig.Unit{ID: fmt.Sprint("m", k), Address: k + 1}
			for c := range 8 {
				p := inv.ProvidePoint(d, c)
				u.Bindings = append(u.Bindings, firmwareconfig.Binding{Point: p})
				s.Outputs = append(s.Outputs, site.Output{Point: p})
			}
			s.Buses[0].Units = append(s.Buses[0].Units, u)
		}
		clock := telemetry.NewClock("b", 0, time.Time{})
		o := newOrders(s, []pointWriter{m}, clock, audit.New(audit.Config{Path: filepath.Join(t.TempDir(), "audit.log")}), zap.NewNop())
		o.rules[0].health = m.health
		m.drive = newDrive(s, o, "", zap.NewNop())
		m.start = clock.Mono()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.run(ctx) }()
		f(t, m)
		cancel()
		<-done
	})
}

// A siren on a module that answers waits for one transaction of those that are dead, however many.
func TestDeadModulesDoNotHoldUpASiren(t *testing.T) {
	onModules(t, 6, 1, func(t *testing.T, m *modules) {
		m.known = true
		for p := telemetry.PointID(8); p < 48; p++ {
			m.sets(p, telemetry.Critical)
		}
		settled(500 * time.Millisecond) // One of them is on the line.
		m.sets(0, telemetry.Warning)
		settled(2 * time.Second)
		if at := m.first(0); at > 1100*time.Millisecond {
			t.Errorf("ordered after %v", at)
		}
		settled(time.Minute)
		m.start = m.orders.clock.Mono()
		m.mu.Lock()
		clear(m.wrote)
		m.mu.Unlock()
		m.sets(1, telemetry.Warning)
		settled(2 * time.Second)
		if at := m.first(1); at > 1100*time.Millisecond {
			t.Errorf("a minute later: ordered after %v", at)
		}
		// The dead ones are tried on.
		if settled(20 * time.Second); len(m.wrote) < 5 {
			t.Errorf("tried: %v", m.wrote)
		}
	})
}

// Of modules that have died just now each costs one transaction, not one for each of its outputs.
func TestModulesThatDiedCostOneTransactionEach(t *testing.T) {
	onModules(t, 4, 1, func(t *testing.T, m *modules) {
		for p := telemetry.PointID(31); p < 32; p-- {
			m.sets(p, telemetry.Critical)
		}
		settled(10 * time.Second)
		for p := range telemetry.PointID(8) {
			if at := m.first(p); at > 3200*time.Millisecond {
				t.Errorf("relay %d ordered after %v", p, at)
			}
		}
	})
}

// Where all answer, or none, the most severe alert's goes first; waiting is no failure.
func TestTheMostSevereGoesFirst(t *testing.T) {
	onModules(t, 6, 0, func(t *testing.T, m *modules) {
		m.known = true
		for p := telemetry.PointID(0); p < 40; p += 8 {
			m.sets(p, telemetry.Warning)
		}
		settled(100 * time.Millisecond)
		m.sets(40, telemetry.Critical)
		settled(5 * time.Second)
		if at := m.first(40); at > 1200*time.Millisecond {
			t.Errorf("ordered after %v", at)
		}
	})
	onModules(t, 1, 1, func(t *testing.T, m *modules) {
		for p := range telemetry.PointID(8) {
			m.sets(p, telemetry.Warning)
		}
		settled(time.Second)
		lines, _ := m.orders.audit.Tail(100)
		if len(lines) != 16 { // begun and done
			t.Errorf("the record: %s", lines)
		}
	})
}
