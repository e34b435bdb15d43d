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

func TestADeviceOfTheSiteHasNoZone(t *testing.T) {
	class := &telemetry.Class{ID: "field_bus", Points: []telemetry.PointDef{{Name: "up", Kind: telemetry.Bool}}}
	inv := &telemetry.Inventory{}
	hall := inv.AddZone(telemetry.Zone{ID: "hall", Parent: -1, Title: telemetry.Text{Zh: "大厅", En: "Hall"}})
	bus := inv.AddDevice(telemetry.Device{ID: "rs485_1", Class: class, Zone: -1, System: true})
	door := inv.AddDevice(telemetry.Device{ID: "door", Class: class, Zone: hall})

	want := telemetry.Series{Class: "field_bus", Device: "rs485_1", Point: "up", Kind: telemetry.Bool}
	if got := inv.Series(inv.ProvidePoint(bus, 0)); got != want {
		t.Errorf("Series = %+v, want %+v", got, want)
	}
	want.Device, want.Zone = "door", "hall"
	if got := inv.Series(inv.ProvidePoint(door, 0)); got != want {
		t.Errorf("Series = %+v, want %+v", got, want)
	}
	derived := inv.AddDerived("r", "a", -1, &class.Points[0])
	if got := inv.Series(derived).Zone; got != "" {
		t.Errorf("a derived point of the site lies in zone %q", got)
	}
	if devices, points := inv.Installed(); devices != 1 || points != 1 {
		t.Errorf("installed are %d devices with %d points, want one with one", devices, points)
	}
	if got := inv.ZonePath(-1, "en"); got != nil {
		t.Errorf("ZonePath(-1) = %v", got)
	}
	if inv.InZone(-1, hall) || !inv.InZone(hall, -1) || !inv.InZone(-1, -1) {
		t.Error("the site lies in no zone, and every zone lies in the site")
	}
}
