package rules_test

import (
	"testing"

	"linli/internal/telemetry"
)

// TestRulesForEveryDeviceLeaveOutTheGatewaysOwnWorks: buses and units have rules of their own.
func TestRulesForEveryDeviceLeaveOutTheGatewaysOwnWorks(t *testing.T) {
	s := newSite()
	s.zone("b1", "building", "")
	s.device("m1", "meter", "b1", "power_w", "voltage_v")
	s.classes["field_bus"] = &telemetry.Class{ID: "field_bus", Points: []telemetry.PointDef{{Name: "up", Kind: telemetry.Bool}}}
	bus := s.AddDevice(telemetry.Device{ID: "rs485_1", Class: s.classes["field_bus"], Zone: -1, System: true})
	s.ProvidePoint(bus, 0)
	e := s.compile(t, pack(alert("Silent", "device", "silent()", "")+alert("Down", "field_bus", "not up", "")))
	for identity, want := range map[telemetry.Identity]bool{
		{Alert: "Silent", Subject: "m1"}:      true,
		{Alert: "Silent", Subject: "rs485_1"}: false,
		{Alert: "Down", Subject: "rs485_1"}:   true,
		{Alert: "Down", Subject: "m1"}:        false,
	} {
		// What no rule stands for any more is given back by Restore.
		gone := e.Restore([]telemetry.ActiveAlert{{Identity: identity}})
		if got := len(gone) == 0; got != want {
			t.Errorf("%v: there is a rule for it: %v, want %v", identity, got, want)
		}
	}
}
