package main

import (
	"slices"
	"testing"

	"github.com/VictoriaMetrics/metrics"
	"go.uber.org/zap"

	"linli/internal/site"
	"linli/internal/telemetry"
)

// Connections that were turned away where converters dial in are counted for each address.
func TestTurnedAwayConvertersAreMetrics(t *testing.T) {
	s := &site.Site{}
	for _, id := range []string{"YG-1", "YG-2"} {
		s.Buses = append(s.Buses, site.Bus{ID: id, Transport: site.ModbusRTUOverTCP, Listen: "127.0.0.1:7000", Registration: []byte(id)})
	}
	_, runners, err := newBuses(s, newClock(), zap.NewNop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	set := metrics.NewSet()
	h := &health{inv: &telemetry.Inventory{}, dialIns: append(runners, namedRunner{name: "something else"})}
	h.register(set)
	names := set.ListMetricNames()
	for _, want := range []string{`linli_listener_strangers_total{address="127.0.0.1:7000"}`, `linli_listener_refused_total{address="127.0.0.1:7000"}`} {
		if !slices.Contains(names, want) {
			t.Errorf("no metric %s", want)
		}
	}
}
