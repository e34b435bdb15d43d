package firmwareconfig_test

import (
	"strings"
	"testing"
	"testing/fstest"

	firmwareconfig "linli/firmware-config"
)

const poorProfile = `version: 1
profile: poor
vendor: ours
model: P
title: {zh: 差, en: Poor}
status: confirmed
sources: [""]
address: 250
channels:
  - {name: a, table: input, address: 0, type: s16, scale: 0.1, unit: °C, min: -40, max: 80, invalid: [0xFFFF, 0x7FFF]}
  - {name: b, table: input, address: 2, type: f32, unit: kWh, counter: true, title: {zh: 一, en: one}}
  - {name: c, table: input, address: 4, type: u16, unit: V, title: {zh: 一, en: one}}
config:
  - {name: d, table: holding, address: 0, type: u16}
look_alikes: [md2, rich]
`

const richProfile = `version: 1
profile: rich
vendor: ours
model: R
title: {zh: 好, en: Rich}
status: partial
sources: [us]
address: 1
channels:
  - {name: a, table: input, address: 0, type: s16, scale: 0.1, unit: °C, min: -40, max: 80, invalid: [0x7FFF], title: {zh: 一, en: one}}
config:
  - {name: d, table: holding, address: 0, type: u16, min: 0, max: 5}
signature: [{table: holding, address: 0, between: [0, 5]}]
`

func TestLint(t *testing.T) {
	lib, err := firmwareconfig.Load(fstest.MapFS{"profiles/poor.yaml": {Data: []byte(poorProfile)}, "profiles/rich.yaml": {Data: []byte(richProfile)}})
	if err != nil {
		t.Fatal(err)
	}
	want := `2:10: poor: no source says where the register facts come from
2:10: poor: the factory address 250 lies outside 1 to 247; some gateways on the way refuse it
2:10: poor: confirmed, but no golden frame with its response shows it
2:10: poor: no signature: a scan cannot tell the model, and settings are written without being sure of it
2:10: poor: there is no look-alike "md2"
2:10: poor: rich does not name it as a look-alike in its turn
2:10: poor: without a signature nothing tells it from md2, rich: its settings will never be written
10:12: poor.a: the invalid value 0xFFFF would be -0.1 °C, which lies within the range: a real reading may be taken for a failure
10:12: poor: no title for a
11:12: poor.b: a counter in an f32 loses single units above 16,777,216: do not take differences of it there
12:12: poor: no measuring range (min, max) for c: nonsense is passed on as a value
14:12: poor: setting d has neither a range nor values: whatever fits into its register would be written`
	got := strings.ReplaceAll(lib.Lint("poor", "rich", "nobody").Error(), "profiles/poor.yaml:", "")
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if found := lib.Lint("rich"); len(found) != 0 {
		t.Errorf("got %v", found)
	}
}
