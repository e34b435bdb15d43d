package main

import (
	"context"
	"fmt"
	"testing"
	"time"

	"go.uber.org/zap"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
	"linli/internal/simulate"
	"linli/internal/telemetry"
	"linli/internal/testservers"
)

// TestDriftOfARealUnit holds the settings of a simulated unit against the site file, over the line that polls it.
func TestDriftOfARealUnit(t *testing.T) {
	l := testservers.Listen(t)
	p, err := resolvePlan("site.yaml", []byte(fmt.Sprintf(yardHead+`buses:
  - id: tcp_1
    modbus_tcp: {address: "%s"}
    units: [{id: th1, address: 3, profile: xy_md02, config: {temperature_correction: -0.5, humidity_correction: 0}}]
devices: [{id: th_1, unit: th1, zone: yard, title: {zh: 温湿度, en: Temperature and humidity}}]
`, l.Addr())), nil)
	if err != nil {
		t.Fatal(err)
	}
	s := p.site
	s.Buses[0].Timeout = 30 * time.Millisecond // so that a silent unit costs the test little
	c := simulate.New(s.Inventory)
	c.AddBus("tcp_1", s.Buses[0].Units)
	if err := c.Set("th_1", "temperature_c", 21.5); err != nil {
		t.Fatal(err)
	}
	if err := c.Set("th_1", "humidity_pct", 55); err != nil {
		t.Fatal(err)
	}
	clock := newClock()
	buses, _, err := newBuses(s, clock, zap.NewNop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	line := drivers.NewLine(buses[0])
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- c.ServeTCP(ctx, "tcp_1", l) }()
	go func() {
		ended <- drivers.Supervise(ctx, clock, line, func([]telemetry.Sample) {}, zap.NewNop())
	}()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
	points := newBusPoints(s, []func(*drivers.BusHealth){line.HealthInto}, clock)
	d := &drift{site: s, lines: []*drivers.Line{line}, points: points, verify: firmwareconfig.Verify, log: zap.NewNop()}
	if len(s.Settings) != 1 || s.Verify <= 0 {
		t.Fatalf("the site file's settings: %+v, every %s", s.Settings, s.Verify)
	}
	// The simulated unit has no correction: one of the two settings differs.
	if r := d.look(ctx, 0, map[int]string{}); !r.known || r.differ != 1 {
		t.Errorf("look = %+v, want one setting that differs", r)
	}
	if _, n := points.figures(0, "th1"); n == nil || *n != 1 {
		t.Errorf("config_drift = %v, want 1", n)
	}
	if err := c.Misbehave("th1", simulate.Fault{Silent: true}); err != nil {
		t.Fatal(err)
	}
	if r := d.look(ctx, 0, map[int]string{}); r.known {
		t.Errorf("of a silent unit: %+v, want unknown", r)
	}
}
