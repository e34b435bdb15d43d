package read

import (
	"context"
	"maps"
	"slices"
	"time"

	"linli/internal/ledger"
	"linli/internal/wire"
)

const (
	// counterEvery is how long at most there is no sample of the counters of a gateway that runs: they are told every minute.
	counterEvery = 90 * time.Second
	// timeless is a moment before which no alert was raised by a clock that was right.
	timeless = 946684800e9 // the year 2000
)

// counter is what a gateway says of its alerts at two moments.
type counter struct {
	since, first, until, last int64
	based, ended              bool
}

// Alerts counts the alerts of a node ("": of each) in the time from <= t < to, see ledger.Alerts. Of nodes that do not count them, or
// said nothing then, there is nothing. There are few questions, however many nodes.
func (r *Reader) Alerts(ctx context.Context, node string, from, to, now int64) (map[string]*ledger.Alerts, error) {
	raised, err := r.counters(ctx, node, "alerts_raised", from, to)
	if err != nil || len(raised) == 0 {
		return nil, err
	}
	closed, err := r.counters(ctx, node, "alerts_closed", from, to)
	if err != nil {
		return nil, err
	}
	all := map[string]*ledger.Alerts{}
	for name, c := range raised {
		all[name] = &ledger.Alerts{Raised: c.last - c.first}
	}
	for name, c := range closed {
		if a := all[name]; a != nil {
			a.Closed = c.last - c.first
		}
	}
	type figure struct {
		field string
		of    map[string]counter
		into  func(*ledger.Alerts) *int64
	}
	figures := []figure{
		{"raised_at", raised, func(a *ledger.Alerts) *int64 { return &a.RaisedHere }},
		{"closed_at", closed, func(a *ledger.Alerts) *int64 { return &a.ClosedHere }},
	}
	slack := int64(ledger.AlertSlack)
	for _, f := range figures {
		if err := r.countAlerts(ctx, node, f.field, from-slack, to+slack, from, now, all, f.into); err != nil {
			return nil, err
		}
	}
	// Of whom some seem to be missing it is made sure.
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if all[name].Missing() == 0 {
			continue
		}
		for _, f := range figures {
			spans := [][2]int64{{0, timeless}} // Where the clock was not set, the row's time is that of its arrival.
			since := from
			if c, ok := f.of[name]; ok && c.since < from-int64(counterEvery) { // It was silent when the window began.
				since = c.since
				spans = append(spans, [2]int64{since - slack, from - slack - 1})
			}
			for _, span := range spans {
				if err := r.countAlerts(ctx, name, f.field, span[0], span[1], since, now, all, f.into); err != nil {
					return nil, err
				}
			}
		}
	}
	return all, nil
}

// counters returns what the counter said about the ends of the window.
func (r *Reader) counters(ctx context.Context, node, field string, from, to int64) (map[string]counter, error) {
	all := map[string]counter{}
	for _, end := range []struct {
		from, to int64
		pick     string
		take     func(c *counter, at, n int64)
	}{
		{from, to, "last", func(c *counter, at, n int64) { c.until, c.last, c.ended = at, n, true }},
		{from - int64(24*time.Hour), from, "last", func(c *counter, at, n int64) { c.since, c.first, c.based = at, n, true }},
		{from, to, "first", func(c *counter, at, n int64) {
			if !c.based {
				c.since, c.first, c.based = at, n, true
			}
		}},
	} {
		s := selection{measurement: "gateway", tags: []string{"gateway", "site"}, fields: []string{field}, node: node, from: end.from, to: end.to, pick: end.pick}
		if err := r.each(ctx, &s, func(rec *record) {
			name := rec.tags[1] + "." + rec.tags[0]
			if _, _, ok := wire.SplitNode(name); ok {
				c := all[name]
				end.take(&c, rec.time, rec.int(0))
				all[name] = c
			}
		}); err != nil {
			return nil, err
		}
	}
	maps.DeleteFunc(all, func(_ string, c counter) bool { return !c.ended })
	return all, nil
}

// countAlerts adds up the alerts whose field is from <= t <= to, told since a moment: the message that says it may be a later one.
func (r *Reader) countAlerts(ctx context.Context, node, field string, from, to, since, now int64, all map[string]*ledger.Alerts, into func(*ledger.Alerts) *int64) error {
	s := selection{measurement: wire.MeasurementAlert, tags: []string{"gateway", "site"}, fields: []string{"id"}, node: node,
		from: since - int64(ledger.AlertSlack), to: now + int64(24*time.Hour), conditions: []condition{{field, ">=", from}, {field, "<=", to}}, pick: "distinct"}
	return r.each(ctx, &s, func(rec *record) {
		if a := all[rec.tags[1]+"."+rec.tags[0]]; a != nil {
			*into(a) += rec.int(0)
		}
	})
}
