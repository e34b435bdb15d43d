package main

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
	"linli/internal/site"
)

const (
	// driftFirst is when the units' settings are looked at first after the start: not while everything is being read
	// for the first time.
	driftFirst = 10 * time.Minute
	// driftShare is the part of a line's time that looking may take.
	driftShare = 0.05
	// driftRetry is when a unit that did not answer is asked again, where Site.Verify is longer.
	driftRetry = time.Hour
	// driftWhileSuspended is when a bus that was suspended is looked at again.
	driftWhileSuspended = time.Minute
	// driftLimit bounds the look at one unit.
	driftLimit = 5 * time.Minute
)

// asker asks the units of a bus; it is a firmwareconfig.Asker.
type asker func(ctx context.Context, unit byte, pdu []byte) ([]byte, error)

// Ask sends one request.
func (a asker) Ask(ctx context.Context, unit byte, pdu []byte) ([]byte, error) {
	return a(ctx, unit, pdu)
}

// drift looks on a schedule whether the units still have the settings that the site file wants, and tells the unit's
// point config_drift. It changes nothing. A unit that does not answer is unknown, and asked again after an hour.
type drift struct {
	site   *site.Site
	lines  []*drivers.Line
	points *busPoints
	log    *zap.Logger
	// verify is firmwareconfig.Verify.
	verify func(context.Context, firmwareconfig.Asker, firmwareconfig.Unit, map[string]string) ([]firmwareconfig.Drift, error)
}

// run looks until ctx ends, one unit at a time.
func (d *drift) run(ctx context.Context) error {
	if d.site.Verify <= 0 || len(d.site.Settings) == 0 {
		<-ctx.Done()
		return nil
	}
	last := map[int]string{} // by index in site.Settings: what was told in the log
	next := make([]time.Duration, len(d.site.Settings))
	began := time.Now()
	for i := range next {
		next[i] = min(driftFirst, d.site.Verify)
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		soonest := next[0]
		for _, at := range next {
			soonest = min(soonest, at)
		}
		timer.Reset(max(time.Until(began.Add(soonest)), 0))
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		for i := range next {
			if time.Since(began) < next[i] {
				continue
			}
			if line := d.lines[d.site.Settings[i].Bus]; line != nil && line.Health().Suspended {
				next[i] = time.Since(began) + driftWhileSuspended // Somebody works on it, perhaps at other settings.
				continue
			}
			r := d.look(ctx, i, last)
			if ctx.Err() != nil {
				return nil
			}
			wait := d.site.Verify
			if !r.known {
				wait = min(wait, driftRetry)
			}
			next[i] = time.Since(began) + wait
		}
	}
}

// look holds the settings of one unit against those wanted.
func (d *drift) look(ctx context.Context, index int, last map[int]string) driftResult {
	s := &d.site.Settings[index]
	bus := &d.site.Buses[s.Bus]
	unit, line := &bus.Units[s.Unit], d.lines[s.Bus]
	bound, cancel := context.WithTimeout(ctx, driftLimit)
	defer cancel()
	found, err := d.verify(bound, asker(func(ctx context.Context, address byte, pdu []byte) ([]byte, error) {
		r, err := line.Ask(ctx, address, pdu, 0, driftShare)
		return r.PDU, err
	}), *unit, s.Want)
	if ctx.Err() != nil {
		return driftResult{}
	}
	r := driftResult{differ: int64(len(found)), known: err == nil}
	d.points.drifted(s.Bus, unit.ID, r)
	var differ []string
	for _, f := range found {
		differ = append(differ, fmt.Sprintf("%s: %s, want %s", f.Param, f.Got, f.Want))
	}
	told := fmt.Sprint(differ, err)
	if last[index] == told {
		return r
	}
	last[index] = told
	where := []zap.Field{zap.String("bus", bus.ID), zap.String("unit", unit.ID)}
	switch {
	case err != nil:
		d.log.Warn("the unit's settings cannot be read", append(where, zap.Error(err))...)
	case len(found) > 0:
		d.log.Warn("the unit's settings are not those of the site file", append(where, zap.Strings("differ", differ))...)
	default:
		d.log.Info("the unit's settings are those of the site file", where...)
	}
	return r
}
