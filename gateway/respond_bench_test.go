package main

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"testing/fstest"
	"time"

	"go.uber.org/zap"

	"linli/internal/audit"
	"linli/internal/live"
	"linli/internal/telemetry"
)

// benchPack drives the siren while a lane is occupied, at once.
const benchPack = `
version: 1
pack: at_once
title: {zh: 即刻, en: At once}
rules:
  - alert: Occupied
    for_each: fire_lane_sensor
    expr: occupied
    severity: critical
    life_safety: true
    title: {zh: 占用, en: Occupied}
    outputs: [{device: zone.siren, point: on, until: cleared}]
`

// timedOutputs says when it was written.
type timedOutputs chan time.Time

func (w timedOutputs) Write(context.Context, telemetry.PointID, telemetry.Value) error {
	w <- time.Now()
	return nil
}

// BenchmarkSampleToCommand measures the time from a sample that a bus hands over to the write that the bus is asked for, with
// alert book, journal and audit record on a real disk. The budget is 5 ms at the 99th percentile.
func BenchmarkSampleToCommand(b *testing.B) {
	site := `version: 1
site: test
zones: [{id: lane_east, kind: lane}]
buses:
  - id: rs485_1
    modbus_rtu: {device: /dev/ttyS1}
    units: [{id: io1, address: 1, profile: waveshare_io_8ch}]
devices:
  - {id: lane_1, class: fire_lane_sensor, zone: lane_east, points: {occupied: io1.di1}}
  - {id: siren_1, class: siren, zone: lane_east, points: {on: io1.do1}}
rules: [{pack: at_once}]
`
	p, err := resolvePlan("site.yaml", []byte(site), fstest.MapFS{"packs/at_once.yaml": {Data: []byte(benchPack)}})
	if err != nil {
		b.Fatal(err)
	}
	clock, dir := newClock(), b.TempDir()
	st, err := openStores(dir, p.site, clock, zap.NewNop())
	if err != nil {
		b.Fatal(err)
	}
	record := audit.New(audit.Config{Path: filepath.Join(dir, "audit.log")})
	bus := make(timedOutputs, 1)
	orders := newOrders(p.site, []pointWriter{bus}, clock, record, zap.NewNop())
	for _, out := range orders.outputs {
		out.Interval, out.tokens = time.Nanosecond, 1e12 // What is measured is not the rate.
	}
	d := newDrive(p.site, orders, dir, zap.NewNop())
	table := live.New(len(p.site.Inventory.Points))
	orders.reads, orders.by = table.Get, d.manual
	f := newFanIn(clock, table, p.engine, st.book, st.journal, d, newReporter(p.site.Inventory, p.site.Report.MaxInterval), zap.NewNop())
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 5)
	parts := []func(context.Context) error{st.book.Run, st.journal.Run, record.Run, d.run, f.run}
	for _, run := range parts {
		go func() { done <- run(ctx) }()
	}
	defer func() {
		cancel()
		for range parts {
			<-done
		}
		if err := errors.Join(st.book.Close(), st.journal.Close()); err != nil {
			b.Error(err)
		}
		st.unlock()
	}()
	emit := f.emit(ctx)
	var took []time.Duration
	on := false
	for b.Loop() {
		on = !on
		began := time.Now()
		emit([]telemetry.Sample{{Point: 0, Time: clock.Mono(), Value: telemetry.BoolValue(on)}})
		took = append(took, (<-bus).Sub(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
	b.ReportMetric(float64(took[len(took)-1].Microseconds()), "max-us")
}
