package firmwareconfig_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
	"linli/internal/yamlfile"
)

// fullProfile has every key that a profile can have beyond the ordinary ones.
const fullProfile = `version: 1
profile: full
vendor: ours
model: F
title: {zh: 全, en: Full}
status: partial
sources: [us]
timing: {switch_gap: 200ms}
channels:
  - {name: serial, table: holding, address: 0x10, type: string, count: 8}
  - {name: model, table: holding, address: 0x20, type: string, count: 4, chars: one_per_register, bytes: little}
  - {name: x, table: input, address: 1, type: u32, words: little, bytes: little}
  - {name: hi, table: holding, address: 4, type: u8, byte: high}
  - {name: lo, table: holding, address: 4, type: s8}
  - {name: n, table: holding, address: 7, type: bcd16}
  - {name: m, table: holding, address: 8, type: bcd32, words: little}
  - {name: level, table: holding, address: 4, type: s16, unit: m, scale_from: {table: holding, address: 3, decimals: true}}
  - {name: distance, table: input, address: 4, type: u16, unit: mm, scale_from: {table: input, address: 1, values: {1: 10, 2: 0.1, 0x03: 1}}}
  - {name: total, table: input, address: 60, type: u32, counter: true}
  - {name: out1, table: holding, address: 0, type: u16, bit: 0, width: 3, writable: true, write_values: {0: 128, 1: 0x180}}
  - {name: reset, table: holding, address: 0, type: u16, writable: true, write_values: {1: 234}, read_back: false}
config:
  - {name: address, role: address, table: holding, address: 0x0101, type: u16, min: 1, max: 247, effective: power_cycle, default: 1}
  - {name: baud, role: baud, table: holding, address: 0x0102, type: u16, values: {0: 9600, 1: 14400, 2: 19200}, effective: power_cycle}
  - {name: format, role: format, table: holding, address: 1, type: u16, values: {0: 8N1, 2: 8E1}}
  - {name: temperature_correction, table: holding, address: 0x0103, type: s16, scale: 0.1, unit: °C, min: -10, max: 10, default: 0}
  - {name: mode, table: holding, address: 9, type: u16, values: {0: off, 1: on}, function: 16, default: off}
  - {name: "delay{n}", table: holding, address: 20, type: u16, unit: s, min: 0, max: 60, repeat: 3, step: 5, title: {zh: "延时{n}", en: "Delay {n}"}}
  - {name: beep, table: coil, address: 3}
  - {name: fbaud, table: holding, address: 0x1C, type: f32, values: {0: 2400, 5: 1200}}
  - {name: threshold, table: holding, address: 0x30, type: f32, min: 0, max: 100}
  - {name: clock, table: holding, address: 0x40, type: bcd16, min: 0, max: 2359}
  - {name: code, table: holding, address: 0x41, type: u16, write_only: true}
  - {name: offset, table: holding, address: 0x42, type: s16_offset_10000, scale: 0.1, min: -10, max: 10}
  - {name: rate, table: holding, address: 0x43, type: u16, scale: 100, unit: ""}
unlock: [{table: coil, address: 1, value: 1}]
save: [{table: holding, address: 5, value: 0x5555}]
signature:
  - {table: holding, address: 0x0101, equals: address}
  - {table: input, address: 0, equals: 0x3343}
  - {table: input, address: 1, one_of: [1, 2, 3]}
  - {table: input, address: 1, between: [-400, 800]}
  - {table: holding, address: 0x0100, refused: true}
device_id: {vendor: Acme, product: X1}
look_alikes: [md02]
`

func loadFull(t *testing.T) *firmwareconfig.Profile {
	t.Helper()
	lib, err := firmwareconfig.Load(fstest.MapFS{"profiles/full.yaml": {Data: []byte(fullProfile)}})
	if err != nil {
		t.Fatal(err)
	}
	return lib.Profiles["full"]
}

func TestEveryKey(t *testing.T) {
	p := loadFull(t)
	u16 := func(v uint16) *uint16 { return &v }
	at := func(name string) firmwareconfig.Channel {
		c := p.Channels[p.Channel(name)]
		c.Name = ""
		return c
	}
	const holding, input = firmwareconfig.HoldingRegister, firmwareconfig.InputRegister
	for name, want := range map[string]firmwareconfig.Channel{
		"serial": {Table: holding, Address: 0x10, Encoding: firmwareconfig.EncString, Scale: 1, Count: 8},
		"model":  {Table: holding, Address: 0x20, Encoding: firmwareconfig.EncString, Scale: 1, Count: 4, OneChar: true, LittleBytes: true},
		"x":      {Table: input, Address: 1, Encoding: firmwareconfig.EncU32, Scale: 1, LittleWords: true, LittleBytes: true},
		"hi":     {Table: holding, Address: 4, Encoding: firmwareconfig.EncU16, Scale: 1, Bit: 8, Width: 8},
		"lo":     {Table: holding, Address: 4, Encoding: firmwareconfig.EncS16, Scale: 1, Width: 8},
		"n":      {Table: holding, Address: 7, Encoding: firmwareconfig.EncBCD16, Scale: 1},
		"m":      {Table: holding, Address: 8, Encoding: firmwareconfig.EncBCD32, Scale: 1, LittleWords: true},
		"level": {Table: holding, Address: 4, Encoding: firmwareconfig.EncS16, Scale: 1, Unit: "m",
			ScaleFrom: &firmwareconfig.ScaleFrom{Table: holding, Address: 3, Decimals: true}},
		"distance": {Table: input, Address: 4, Encoding: firmwareconfig.EncU16, Scale: 1, Unit: "mm", ScaleFrom: &firmwareconfig.ScaleFrom{
			Table: input, Address: 1, Values: []firmwareconfig.ScaleValue{{Code: 1, Scale: 10}, {Code: 2, Scale: 0.1}, {Code: 3, Scale: 1}}}},
		"total": {Table: input, Address: 60, Encoding: firmwareconfig.EncU32, Scale: 1, Counter: true},
		"out1": {Table: holding, Encoding: firmwareconfig.EncU16, Scale: 1, Width: 3, Writable: true,
			WriteValues: []firmwareconfig.WriteValue{{Value: 0, Raw: 128}, {Value: 1, Raw: 384}}},
		"reset": {Table: holding, Encoding: firmwareconfig.EncU16, Scale: 1, Writable: true, NoReadBack: true,
			WriteValues: []firmwareconfig.WriteValue{{Value: 1, Raw: 234}}},
	} {
		if got := at(name); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got\n%+v, want\n%+v", name, got, want)
		}
	}
	if p.Timing.SwitchGap != 200*time.Millisecond {
		t.Errorf("switch gap %v", p.Timing.SwitchGap)
	}
	if m := p.Param("delay3"); m == nil || m.Address != 30 || m.Title.En != "Delay 3" || *m.Max != 60 {
		t.Errorf("delay3: got %+v", m)
	}
	if m := p.Param("address"); m.Role != firmwareconfig.ParamAddress || !m.AfterPowerCycle || m.Default != "1" {
		t.Errorf("address: got %+v", m)
	}
	if m := p.Param("mode"); m.Function != 16 || m.AfterPowerCycle || m.Default != "off" ||
		!reflect.DeepEqual(m.Values, []firmwareconfig.ParamValue{{Code: 0, Name: "off"}, {Code: 1, Name: "on"}}) {
		t.Errorf("mode: got %+v", m)
	}
	if !p.Param("code").WriteOnly || p.Param("nothing") != nil {
		t.Error("write-only, or a setting that is not there")
	}
	if want := []firmwareconfig.RawWrite{{Table: firmwareconfig.Coil, Address: 1, Value: 1}}; !reflect.DeepEqual(p.Unlock, want) {
		t.Errorf("unlock: got %+v", p.Unlock)
	}
	if want := []firmwareconfig.RawWrite{{Table: holding, Address: 5, Value: 0x5555}}; !reflect.DeepEqual(p.Save, want) {
		t.Errorf("save: got %+v", p.Save)
	}
	want := []firmwareconfig.Test{
		{Table: holding, Address: 0x101, EqualsAddress: true},
		{Table: input, Equals: u16(0x3343)},
		{Table: input, Address: 1, OneOf: []uint16{1, 2, 3}},
		{Table: input, Address: 1, Between: &[2]float64{-400, 800}},
		{Table: holding, Address: 0x100, Refused: true},
	}
	if !reflect.DeepEqual(p.Signature, want) {
		t.Errorf("signature: got %+v", p.Signature)
	}
	if *p.DeviceID != (firmwareconfig.DeviceID{Vendor: "Acme", Product: "X1"}) || !reflect.DeepEqual(p.LookAlikes, []string{"md02"}) {
		t.Errorf("got %+v, %v", p.DeviceID, p.LookAlikes)
	}
	if p.Channels[p.Channel("m")].Registers() != 2 || p.Channels[p.Channel("serial")].Registers() != 8 {
		t.Error("sizes are wrong")
	}
}

func TestParamValue(t *testing.T) {
	p := loadFull(t)
	for _, c := range []struct {
		name, text string
		raw        uint64
		back       string // how it reads back, where not as text
		err        string
	}{
		{"address", "17", 17, "", ""},
		{"address", "0x11", 17, "17", ""},
		{"address", "0", 0, "", "setting address: 0 lies outside its range, 1 to 247"},
		{"address", "x", 0, "", `setting address: a number expected, got "x"`},
		{"address", "1.5", 0, "", "setting address: 1.5 lies between two steps: it is set in steps of 1"},
		{"baud", "19200", 2, "", ""},
		{"baud", "115200", 0, "", `setting baud: "115200" is none of its values: 9600, 14400, 19200`},
		{"format", "8E1", 2, "", ""},
		{"format", "8e1", 0, "", `setting format: "8e1" is none of its values: 8N1, 8E1, did you mean "8E1"?`},
		{"temperature_correction", "-0.5", 0xFFFB, "", ""},
		{"temperature_correction", "0.3", 3, "", ""},
		{"temperature_correction", "-0.55", 0, "", "setting temperature_correction: -0.55 lies between two steps: it is set in steps of 0.1"},
		{"temperature_correction", "11", 0, "", "setting temperature_correction: 11 lies outside its range, -10 to 10 °C"},
		{"temperature_correction", "warm", 0, "", `setting temperature_correction: a number expected (°C), got "warm"`},
		{"mode", "on", 1, "", ""},
		{"mode", "1", 0, "", `setting mode: "1" is none of its values: off, on`},
		{"beep", "true", 1, "", ""},
		{"beep", "off", 0, "false", ""},
		{"beep", "2", 0, "", `setting beep: true or false expected, got "2"`},
		{"fbaud", "1200", 0x40A00000, "", ""},
		{"threshold", "0.1", 0x3DCCCCCD, "", ""},
		{"clock", "2359", 0x2359, "", ""},
		{"code", "1", 0, "", "setting code of profile full can only be written, not read: what the unit has cannot be compared, so it is not set from a file"},
		{"offset", "-1.5", 10015, "", ""},
		{"rate", "9600", 96, "", ""},
		{"rate", "1e999999", 0, "", `setting rate: a number expected, got "1e999999"`},
		{"rate", "6553600", 0, "", "setting rate: 6553600 does not fit into its register"},
		{"delay4", "1", 0, "", `profile full has no setting "delay4", did you mean "delay1"?`},
	} {
		raw, err := p.ParamValue(c.name, c.text)
		if c.err != "" {
			if err == nil || err.Error() != c.err {
				t.Errorf("%s=%s: got %v, want %s", c.name, c.text, err, c.err)
			}
			continue
		}
		want := c.back
		if want == "" {
			want = c.text
		}
		if err != nil || raw != c.raw || p.ParamText(c.name, raw) != want {
			t.Errorf("%s=%s: got %#x %v, back %s; want %#x, %s", c.name, c.text, raw, err, p.ParamText(c.name, raw), c.raw, want)
		}
	}
	for name, want := range map[string]string{"baud": "code 7", "mode": "code 7", "clock": "7"} {
		if got := p.ParamText(name, 7); got != want {
			t.Errorf("%s = 7 is told as %q, want %q", name, got, want)
		}
	}
	if got := p.ParamText("clock", 0xA0); got != "no number (0xA0)" {
		t.Errorf("a nibble above 9 is told as %q", got)
	}
}

func TestBindText(t *testing.T) {
	p := loadFull(t)
	text := telemetry.PointDef{Name: "serial", Kind: telemetry.KindText}
	if b, err := p.Bind(&text, firmwareconfig.PointBinding{Channel: "serial"}); err != nil || p.Channels[b.Channel].Name != "serial" {
		t.Errorf("got %+v, %v", b, err)
	}
	number := telemetry.PointDef{Name: "v", Kind: telemetry.Int}
	for _, c := range []struct {
		def  *telemetry.PointDef
		b    firmwareconfig.PointBinding
		want string
	}{
		{&text, firmwareconfig.PointBinding{Channel: "x"}, "point serial is text, but channel x is u32"},
		{&number, firmwareconfig.PointBinding{Channel: "serial"}, "point v is int, but channel serial is text"},
		{&text, firmwareconfig.PointBinding{Channel: "serial", Invert: true}, "text is taken as it is: neither map nor invert can be applied to serial"},
	} {
		if _, err := p.Bind(c.def, c.b); err == nil || err.Error() != c.want {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}

func TestMistakesOfNewKeys(t *testing.T) {
	channel := func(keys string) string {
		return strings.Replace(goodProfile, "  - {name: wet, table: discrete, address: 0}\n", "  - {name: a, "+keys+"}\n", 1)
	}
	config := func(keys string) string { return goodProfile + "config: [{name: a, " + keys + "}]\n" }
	test := func(keys string) string {
		return goodProfile + "signature: [{table: holding, address: 1" + keys + "}]\n"
	}
	const in = "table: input, address: 0, "
	const ho = "table: holding, address: 0, "
	for name, c := range map[string]struct{ src, want string }{
		"switch gap":         {goodProfile + "timing: {switch_gap: 2s}\n", `11:22: switch_gap must be between 0s and 1s, got 2s`},
		"string count":       {channel(in + "type: string"), `10:5: a string needs count: how many registers it takes, 1 to 125`},
		"long string":        {channel(in + "type: string, count: 126"), `10:62: count must be between 1 and 125, got 126`},
		"count of number":    {channel(in + "type: u16, count: 2"), `10:59: count is for strings, this channel is u16`},
		"chars":              {channel(in + "type: string, count: 2, chars: one"), `10:72: chars is one of two_per_register, one_per_register, got "one"`},
		"scaled string":      {channel(in + "type: string, count: 2, scale: 2, unit: V"), "10:72: scale is for numbers, this channel is a string\n10:81: unit is for numbers, this channel is a string"},
		"written string":     {channel(ho + "type: string, count: 2, writable: true"), `10:77: a string cannot be written`},
		"words of string":    {channel(in + "type: string, count: 2, words: little"), `10:72: a string has no order of words; bytes: little swaps its characters`},
		"bytes of coil":      {channel("table: coil, address: 0, bytes: little"), `10:47: a coil holds a single bit, it has no order of bytes`},
		"bytes":              {channel(in + "type: u16, bytes: lttle"), `10:59: bytes is one of big, little, got "lttle"`},
		"byte of u16":        {channel(in + "type: u16, byte: high"), `10:58: byte is for types u8 and s8; bit and width pick a part out of a u16`},
		"bit of u8":          {channel(in + "type: u8, bit: 3"), `10:56: type u8 is a byte of a register: say byte: high or low`},
		"byte":               {channel(in + "type: u8, byte: upper"), `10:57: byte is one of low, high, got "upper"`},
		"digit":              {channel(in + "type: bcd16, bit: 2, width: 4"), `10:69: a decimal digit takes four bits: bit and width of a bcd16 are multiples of 4`},
		"scale_from neither": {channel(in + "type: u16, scale_from: {table: input, address: 1}"), `10:64: scale_from needs either decimals: true or values: {code: factor, ...}`},
		"scale_from both":    {channel(in + "type: u16, scale_from: {table: input, address: 1, decimals: true, values: {1: 1}}"), `10:64: scale_from needs either decimals: true or values: {code: factor, ...}`},
		"scale_from bit":     {channel(in + "type: u16, scale_from: {table: coil, address: 1, decimals: true}"), `10:72: a coil holds a single bit, which cannot say a scale`},
		"scale_from zero":    {channel(in + "type: u16, scale_from: {table: input, address: 1, values: {1: 0, x: 1}}"), "10:103: a factor of 0 would make every value the same\n10:106: expected a whole number from 0 to 65535, got \"x\""},
		"scale_from twice":   {channel(in + "type: u16, scale_from: {table: input, address: 1, values: {1: 2, 0x1: 3}}"), "10:106: code 1 is used twice"},
		"scale_from bool":    {channel(in + "type: bool, bit: 1, scale_from: {table: input, address: 1, decimals: true}"), `10:73: scale_from is for numbers, this channel is bool`},
		"scale_from output":  {channel(ho + "type: u16, writable: true, scale_from: {table: input, address: 1, decimals: true}"), `10:82: a channel whose scale is known only when it is read cannot be written`},
		"counter output":     {channel(ho + "type: u16, writable: true, counter: true"), `10:79: what can be written is no counter`},
		"write_values input": {channel(ho + "type: u16, write_values: {1: 2}"), `10:69: write_values is for channels that are writable: true`},
		"read_back input":    {channel(ho + "type: u16, read_back: false"), `10:65: read_back is for channels that are writable: true`},
		"write_values coil":  {channel("table: coil, address: 0, writable: true, write_values: {1: 2}"), `10:71: write_values is for holding registers, the table here is coil`},
		"write_values u32":   {channel(ho + "type: u32, writable: true, write_values: {1: 2}"), `10:85: write_values is for one register, type u32 takes 2`},
		"write_values scale": {channel(ho + "type: u16, scale: 2, writable: true, write_values: {1: 2}"), `10:95: write_values is for plain numbers, without scale and offset`},
		"write_values raw":   {channel(ho + "type: u16, writable: true, write_values: {1: 70000, b: 1, 0x1: 1}"), "10:88: what is written must be between 0 and 65535, got 70000\n10:95: expected a whole number from -32768 to 65535, got \"b\"\n10:101: value 1 is used twice"},
		"write_values bool":  {channel(ho + "type: bool, bit: 0, writable: true, write_values: {2: 2}"), `10:94: a bool is read back as 0 or 1, not as 2`},

		"config input":      {config(in + "type: u16"), `11:27: only coils and holding registers can be written, the table here is input`},
		"config string":     {config(ho + "type: string"), `11:54: a setting is a number, a bool or one of its values; text is not supported`},
		"config key":        {config(ho + "type: u16, invalid: [1]"), `11:59: unknown key "invalid"`},
		"config twice":      {config(ho+"type: u16") + "", ""},
		"role":              {config(ho + "type: u16, role: adress"), `11:65: role is one of address, baud, format, got "adress"`},
		"address range":     {config(ho + "type: u16, role: address"), `11:65: role address needs min: 1 and max: 247, or values: what else is written could lose the unit`},
		"address 0":         {config(ho + "type: u16, role: address, min: 0, max: 247"), `11:65: role address: the range lies within 1 to 255, this one is 0 to 247`},
		"baud bare":         {config(ho + "type: u16, role: baud"), `11:65: role baud needs the range of rates (min, max), or values: what else is written could lose the unit`},
		"baud names":        {config(ho + "type: u16, role: baud, values: {0: fast}"), `11:83: baud: bits per second expected, got "fast"`},
		"format bare":       {config(ho + "type: u16, role: format, min: 0, max: 2"), `11:65: role format needs values: {0: 8N1, ...}`},
		"format names":      {config(ho + "type: u16, role: format, values: {0: 8X1}"), `11:85: format: 8N1, 8E1, 8O1, 8N2, 8E2 or 8O2 expected, got "8X1"`},
		"bool role":         {config("table: coil, address: 0, role: baud, min: 300, max: 600"), "11:51: role baud: a bool cannot be that; pick a field of the register with type u16, bit and width\n11:62: min is for numbers, this channel is bool\n11:72: max is for numbers, this channel is bool"},
		"values and scale":  {config(ho + "type: u16, scale: 2, values: {0: a}"), `11:78: values name the codes in the register: scale and offset have no meaning beside them`},
		"values and range":  {config(ho + "type: u16, min: 2, values: {0: a}"), `11:76: values and a range exclude each other: only what is listed can be set`},
		"values twice":      {config(ho + "type: u16, values: {0: a, 0x0: b, 1: a}"), "11:74: code 0 is used twice, by a and b\n11:85: a is named twice, by codes 0 and 1"},
		"values too large":  {config(ho + "type: u16, bit: 0, width: 2, values: {4: a}"), `11:86: expected a whole number from 0 to 3, got "4"`},
		"values empty":      {config(ho + "type: u16, values: {0: ''}"), `11:71: code 0 stands for nothing`},
		"function":          {config(ho + "type: u16, function: 5"), `11:69: function 5 does not write a holding of 1: it is 6 or 16`},
		"function of u32":   {config(ho + "type: u32, function: 6"), `11:69: function 6 does not write a holding of 2: it is 16`},
		"effective":         {config(ho + "type: u16, effective: later"), `11:70: effective is one of at_once, power_cycle, got "later"`},
		"default":           {config(ho + "type: u16, min: 1, max: 5, default: 6"), `11:84: the default cannot be: 6 lies outside its range, 1 to 5`},
		"default list":      {config(ho + "type: u16, default: [6]"), `11:68: the default is one value, as the site file would write it`},
		"unlock input":      {config(ho+"type: u16") + "unlock: [{table: input, address: 1, value: 1}]\n", `12:18: unlock writes: only coils and holding registers can be written, the table here is input`},
		"unlock coil":       {config(ho+"type: u16") + "unlock: [{table: coil, address: 1, value: 2}]\n", `12:43: the value of a coil must be between 0 and 1, got 2`},
		"save alone":        {goodProfile + "save: [{table: coil, address: 1, value: 1}]\n", `2:10: unlock and save are written around settings, but profile "thing" has no config`},
		"save range":        {config(ho+"type: u16") + "save: [{table: holding, address: 65536, value: 65536}]\n", "12:34: address must be between 0 and 65535, got 65536\n12:48: value must be between 0 and 65535, got 65536"},
		"test without test": {test(""), `11:13: a test has exactly one of equals, one_of, between and refused, this one has none`},
		"test with two":     {test(", equals: 1, one_of: [2]"), `11:13: a test has exactly one of equals, one_of, between and refused, this one has two`},
		"equals":            {test(", equals: adress"), `11:50: equals is a raw value from 0 to 65535, or address for the unit's own address; got "adress"`},
		"equals negative":   {test(", equals: -1"), `11:50: equals is a raw value from 0 to 65535, or address for the unit's own address; got "-1"`},
		"one_of":            {test(", one_of: [1, 1, 65536]"), "11:54: 1 is listed twice\n11:57: a raw value must be between 0 and 65535, got 65536"},
		"between one":       {test(", between: [1]"), `11:51: between is two numbers, both included: [-400, 800]`},
		"between turned":    {test(", between: [2, 1]"), `11:51: between is about the register as a signed number: two numbers from -32768 to 32767, the lower first`},
		"refused false":     {test(", refused: false"), `11:51: refused is true, or left out; between: [-32768, 32767] tests that an address can be read`},
		"device_id":         {goodProfile + "device_id: {}\n", `11:12: device_id needs at least one of vendor, product and model`},
		"look-alikes":       {goodProfile + "look_alikes: [thing, md02, md02, X]\n", "11:15: a profile is not its own look-alike\n11:28: md02 is listed twice\n11:34: profile \"X\": a name is made of a-z, 0-9 and _, begins with a letter and has at most 32 characters"},
		"golden scale": {channel(in+"type: u16, scale_from: {table: holding, address: 1, decimals: true}") +
			"golden: [{name: x, request: 01 04 00 00 00 01 31 CA, values: {a: 1}}]\n", `11:63: the request does not read the register that says the scale of channel a`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := firmwareconfig.Load(firmwareconfig.Shipped(), fstest.MapFS{"profiles/thing.yaml": {Data: []byte(c.src)}})
			var es yamlfile.Errors
			if err != nil && !errors.As(err, &es) {
				t.Fatal(err)
			}
			var got []string
			for _, e := range es {
				got = append(got, strings.TrimPrefix(e.Error(), "profiles/thing.yaml:"))
			}
			if g := strings.Join(got, "\n"); g != c.want {
				t.Errorf("got\n%s\nwant\n%s", g, c.want)
			}
		})
	}
}
