package firmwareconfig_test

import (
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	firmwareconfig "linli/firmware-config"
)

const judged = `version: 1
profile: judged
vendor: ours
model: J
title: {zh: 判, en: Judged}
status: partial
sources: [us]
channels:
  - CHANNEL
`

// What says whether a value counts, and raw values that mean that it lies beyond the range.
func TestJudgedChannels(t *testing.T) {
	load := func(channel string) (*firmwareconfig.Profile, string) {
		lib, err := firmwareconfig.Load(fstest.MapFS{"profiles/judged.yaml": {Data: []byte(strings.Replace(judged, "CHANNEL", channel, 1))}})
		if err != nil {
			return nil, err.Error()
		}
		return lib.Profiles["judged"], ""
	}
	zero := uint16(0)
	p, text := load("{name: a, table: input, address: 1, type: s16, min: -40, max: 80, under: [0xFE70], over: [0x7FFE], valid: {table: holding, address: 9, equals: 0}}")
	if text != "" {
		t.Fatal(text)
	}
	ch := p.Channels[0]
	if !reflect.DeepEqual(ch.Under, []uint64{0xFE70}) || !reflect.DeepEqual(ch.Over, []uint64{0x7FFE}) ||
		!reflect.DeepEqual(ch.Valid, &firmwareconfig.Validity{Table: firmwareconfig.HoldingRegister, Address: 9, Equals: &zero}) {
		t.Errorf("got %+v, valid %+v", ch, ch.Valid)
	}
	p, text = load("{name: a, table: input, address: 1, type: bool, nonzero: true, bit: 3, width: 2}")
	if text != "" || !p.Channels[0].NonZero || p.Channels[0].Width != 2 {
		t.Errorf("nonzero: %s %+v", text, p)
	}
	for channel, want := range map[string]string{
		"{name: a, table: input, address: 1, type: s16, under: [1]}":                                                                    "under needs min",
		"{name: a, table: input, address: 1, type: s16, min: 0, over: [1]}":                                                             "over needs max",
		"{name: a, table: input, address: 1, type: s16, min: 0, under: [0x10000]}":                                                      "0x10000 does not fit into the 16 bits",
		"{name: a, table: input, address: 1, type: bool, bit: 0, under: [1]}":                                                           "under is for numbers",
		"{name: a, table: input, address: 1, type: bool}":                                                                               "needs bit: 0 to 15, or nonzero: true",
		"{name: a, table: input, address: 1, type: u16, nonzero: true}":                                                                 "nonzero is for a bool in a register",
		"{name: a, table: discrete, address: 1, nonzero: true}":                                                                         "nonzero is for a bool in a register",
		"{name: a, table: holding, address: 1, type: bool, nonzero: true, writable: true}":                                              "a nonzero bool cannot be written",
		"{name: a, table: input, address: 1, type: u16, valid: {table: input, address: 2, bit: 1, equals: 0}}":                          "valid has either bit",
		"{name: a, table: input, address: 1, type: u16, valid: {table: discrete, address: 2, equals: 2}}":                               "equals must be between 0 and 1",
		"{name: a, table: input, address: 1, type: u16, valid: {table: holding, address: 2, equals: 65536}}":                            "equals must be between 0 and 65535",
		"{name: a, table: input, address: 1, type: u16}\nconfig:\n  - {name: b, table: holding, address: 1, type: bool, nonzero: true}": "nonzero is for what is read",
	} {
		if _, text := load(channel); !strings.Contains(text, want) {
			t.Errorf("%s:\n got %s\nwant %s", channel, text, want)
		}
	}
}
