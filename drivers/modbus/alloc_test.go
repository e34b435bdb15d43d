package modbus_test

import (
	"testing"

	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// What surrounds an exchange allocates nothing: choosing, gathering, counting, decoding, telling.
func TestReadingDoesNotAllocate(t *testing.T) {
	u, d := sixty()
	slow := u16("slow", 61)
	u.Profile.Channels = append(u.Profile.Channels, slow)
	u.Bindings = append(u.Bindings, firmwareconfig.Binding{Channel: len(u.Profile.Channels) - 1, Point: 99, Def: def("slow", telemetry.Float), UnitFactor: 1})
	next, err := modbus.NewReader(u, d.answer([]byte{3, 0, 0, 0, 62})[2:])
	if err != nil {
		t.Fatal(err)
	}
	s := make([]telemetry.Sample, 0, 100)
	n := 0
	allocs := testing.AllocsPerRun(1000, func() { s = next(s[:0]); n += len(s) })
	if allocs != 0 || n < 40_000 {
		t.Errorf("%v allocations a read, %d values", allocs, n)
	}
}
