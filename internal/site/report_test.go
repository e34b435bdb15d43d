package site_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"linli/internal/site"
	"linli/internal/telemetry"
)

// TestDeadbandsOfThePoints: what the file says of a point goes before what it says of the class, that before the profile, and
// that before the class itself.
func TestDeadbandsOfThePoints(t *testing.T) {
	lib := testLibrary()
	climate := lib.Classes["climate"]
	climate.Points[climate.Point("humidity_pct")].Deadband = telemetry.Deadband{On: true, Width: 3}
	climate.Points[climate.Point("temperature_c")].Deadband = telemetry.Deadband{On: true, Width: 5}
	own := lib.Profiles["test_th"].Device.Points["temperature_c"]
	own.OwnDeadband, own.Deadband = true, telemetry.Deadband{On: true, Percent: true, Width: 1}
	lib.Profiles["test_th"].Device.Points["temperature_c"] = own
	file := func(report, a, b string) string {
		return fmt.Sprintf(`version: 1
site: a
zones: [{id: hall, kind: area}]
report: %s
buses:
  - id: one
    modbus_rtu: {device: /dev/ttyS1}
    units: [{id: th1, address: 1, profile: test_th}, {id: th2, address: 2, profile: test_th}]
devices:
  - {id: a, unit: th1, zone: hall, points: %s}
  - {id: b, class: climate, zone: hall, points: %s}
`, report, a, b)
	}
	const b = "{temperature_c: th2.temperature, humidity_pct: th2.humidity}"
	for name, c := range map[string]struct{ file, want string }{
		"class and profile": {file("{}", "{}", b), "a.temperature_c 1%, a.humidity_pct 3, b.temperature_c 5, b.humidity_pct 3"},
		"the site's class":  {file("{deadbands: {climate: {temperature_c: 0.5}}}", "{}", b), "a.temperature_c 0.5, a.humidity_pct 3, b.temperature_c 0.5, b.humidity_pct 3"},
		"none": {file("{deadbands: {climate: {humidity_pct: none}}}", "{temperature_c: {deadband: none}}", b),
			"a.temperature_c none, a.humidity_pct none, b.temperature_c 5, b.humidity_pct none"},
		"a point": {file("{deadbands: {climate: {temperature_c: 0.5}}}", "{temperature_c: {deadband: 0}}", "{temperature_c: {from: th2.temperature, deadband: 2 %}, humidity_pct: th2.humidity}"),
			"a.temperature_c 0, a.humidity_pct 3, b.temperature_c 2%, b.humidity_pct 3"},
		"another channel is not the profile's": {file("{}", "{temperature_c: th2.temperature}", b), "a.temperature_c 5, a.humidity_pct 3, b.temperature_c 5, b.humidity_pct 3"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := site.Load("site.yaml", []byte(c.file), lib, testPacks(t))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range s.Inventory.Points {
				if d := s.Inventory.Devices[p.Device]; !d.System {
					got = append(got, fmt.Sprintf("%s.%s %s", d.ID, p.Def.Name, p.Deadband))
				}
			}
			if strings.Join(got, ", ") != c.want {
				t.Errorf("got  %s\nwant %s", strings.Join(got, ", "), c.want)
			}
			if s.Report.MaxInterval != time.Minute {
				t.Errorf("the interval is %v", s.Report.MaxInterval)
			}
		})
	}
}
