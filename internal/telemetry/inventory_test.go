package telemetry_test

import (
	"testing"

	"linli/internal/telemetry"
)

func TestConstantPrefersTheSiteFileOverTheClass(t *testing.T) {
	class := &telemetry.Class{ID: "smart_bin", Points: []telemetry.PointDef{
		{Name: "fill_pct", Kind: telemetry.Float},
		{Name: "stream", Kind: telemetry.Enum, Optional: true, Default: telemetry.EnumValue(0)},
	}}
	inv := &telemetry.Inventory{}
	zone := inv.AddZone(telemetry.Zone{ID: "z", Parent: -1})
	plain := inv.AddDevice(telemetry.Device{ID: "a", Class: class, Zone: zone})
	fixed := inv.AddDevice(telemetry.Device{ID: "b", Class: class, Zone: zone,
		Constants: []telemetry.Value{{}, telemetry.EnumValue(3)}})

	for _, c := range []struct {
		name        string
		device, def int
		want        telemetry.Value
	}{
		{"class default", plain, 1, telemetry.EnumValue(0)},
		{"fixed by the site file", fixed, 1, telemetry.EnumValue(3)},
		{"neither", fixed, 0, telemetry.Value{}},
	} {
		if got := inv.Constant(c.device, c.def); got != c.want {
			t.Errorf("%s: Constant = %v, want %v", c.name, got, c.want)
		}
	}
}
