package main

import (
	"bytes"
	"testing"
)

// TestCheckListsWhatIsReported: linli check says what of a site's report is set, and nothing where nothing is.
func TestCheckListsWhatIsReported(t *testing.T) {
	const site = `version: 1
site: a
zones: [{id: hall, kind: area}]
REPORT
buses:
  - id: rs485_1
    modbus_rtu: {device: /dev/ttyS1}
    units: [{id: th1, address: 1, profile: xy_md02}, {id: th2, address: 2, profile: xy_md02}, {id: th3, address: 3, profile: xy_md02}]
devices:
  - {id: a, unit: th1, zone: hall}
  - {id: b, unit: th2, zone: hall}
  - {id: c, unit: th3, zone: hall, points: {temperature_c: {deadband: 0}, humidity_pct: {deadband: none}}}
`
	for _, c := range []struct{ report, want string }{
		{"", "what does not change is reported every 1m\nnumbers that are reported when they have moved by their deadband:\n  c: temperature_c any change\n"},
		{"report: {max_interval: 90s, deadbands: {temp_humidity: {temperature_c: 2%, humidity_pct: 1.5}}}",
			"what does not change is reported every 1m30s\nnumbers that are reported when they have moved by their deadband:\n" +
				"  a, b: temperature_c 2%, humidity_pct 1.5 %\n  c: temperature_c any change\n"},
	} {
		p, err := resolvePlan("site.yaml", bytes.Replace([]byte(site), []byte("REPORT"), []byte(c.report), 1), nil)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		printReport(&out, p.site)
		if out.String() != c.want {
			t.Errorf("with %q\n%s\nwant\n%s", c.report, out.String(), c.want)
		}
	}
	p, err := resolvePlan("site.yaml", []byte("version: 1\nsite: a\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if printReport(&out, p.site); out.Len() > 0 {
		t.Errorf("of a site that says nothing of it: %s", out.String())
	}
}
