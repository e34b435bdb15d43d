package firmwareconfig_test

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
	"linli/internal/yamlfile"
)

// Every file in the two folders is embedded and loads, so a new device needs no test code.
func TestShippedLoad(t *testing.T) {
	lib, err := firmwareconfig.Load(firmwareconfig.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	for dir, loaded := range map[string]int{"classes": len(lib.Classes), "profiles": len(lib.Profiles)} {
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(files) != loaded || loaded == 0 {
			t.Errorf("%s: %d files, %d loaded", dir, len(files), loaded)
		}
		for _, f := range files {
			if b, err := fs.ReadFile(firmwareconfig.Shipped(), dir+"/"+f.Name()); err != nil || !strings.HasPrefix(string(b), "version: 1\n") {
				t.Errorf("%s/%s: not embedded, or does not begin with its version (%v)", dir, f.Name(), err)
			}
		}
	}
	for _, p := range lib.Profiles {
		for i := range p.Channels {
			ch := &p.Channels[i]
			if ch.Scale == 0 || ch.Title.IsZero() || ch.Encoding == 0 || p.Channel(ch.Name) != i {
				t.Errorf("%s.%s: got %+v", p.ID, ch.Name, ch)
			}
		}
	}
}

// What the rules, the simulator and the wire count on.
func TestShippedPromises(t *testing.T) {
	lib, err := firmwareconfig.Load(firmwareconfig.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []struct {
		class, point string
		kind         telemetry.Kind
		unit         string
		lifeSafety   bool
		optional     bool
		writable     bool
	}{
		{"smoke_detector", "alarm", telemetry.Bool, "", true, false, false},
		{"manual_call_point", "alarm", telemetry.Bool, "", true, false, false},
		{"call_button", "pressed", telemetry.Bool, "", true, false, false},
		{"residual_current_monitor", "residual_ma", telemetry.Float, "mA", true, false, false},
		{"residual_current_monitor", "cable_temperature_c", telemetry.Float, "°C", true, true, false},
		{"fire_lane_sensor", "occupied", telemetry.Bool, "", false, false, false},
		{"fire_lane_sensor", "authorised_vehicle", telemetry.Bool, "", false, true, false},
		{"smart_bin", "fill_pct", telemetry.Float, "%", false, false, false},
		{"smart_bin", "stream", telemetry.Enum, "", false, true, false},
		{"door", "open", telemetry.Bool, "", false, false, false},
		{"siren", "on", telemetry.Bool, "", false, false, true},
		{"voice_horn", "play", telemetry.Bool, "", false, false, true},
		{"relay", "on", telemetry.Bool, "", false, false, true},
		{"energy_meter", "active_power_w", telemetry.Float, "W", false, false, false},
	} {
		c := lib.Classes[p.class]
		if c == nil || c.Point(p.point) < 0 {
			t.Errorf("no point %s of %s", p.point, p.class)
			continue
		}
		d := c.Points[c.Point(p.point)]
		if d.Kind != p.kind || d.Unit != p.unit || d.LifeSafety != p.lifeSafety || d.Optional != p.optional || d.Writable != p.writable {
			t.Errorf("%s.%s: got %+v", p.class, p.point, d)
		}
	}
	lane := lib.Classes["fire_lane_sensor"]
	if d := lane.Points[lane.Point("authorised_vehicle")].Default; d != telemetry.BoolValue(false) {
		t.Errorf("authorised_vehicle defaults to %v, want false", d)
	}
	bin := lib.Classes["smart_bin"]
	if d := bin.Points[bin.Point("stream")].Default; d != telemetry.EnumValue(0) {
		t.Errorf("stream defaults to %v", d)
	}
}

// One profile of each kind, compared in full with what its maker's documents say.
func TestProfileResolved(t *testing.T) {
	lib, err := firmwareconfig.Load(firmwareconfig.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	pzem := lib.Profiles["pzem_016"]
	got := pzem.Channels[pzem.Channel("current")]
	want := firmwareconfig.Channel{Name: "current", Title: telemetry.Text{Zh: "电流", En: "Current"}, Table: firmwareconfig.InputRegister,
		Address: 1, Encoding: firmwareconfig.EncU32, LittleWords: true, Scale: 0.001, Unit: "A"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if len(pzem.Golden) != 1 || len(pzem.Golden[0].Response) != 25 || len(pzem.Golden[0].Values) != 7 {
		t.Errorf("golden: got %+v", pzem.Golden)
	}

	io8 := lib.Profiles["waveshare_io_8ch"]
	if len(io8.Channels) != 16 {
		t.Fatalf("got %d channels, want 16", len(io8.Channels))
	}
	di8, do1 := io8.Channels[7], io8.Channels[8]
	if di8.Name != "di8" || di8.Address != 7 || di8.Table != firmwareconfig.DiscreteInput || di8.Title.Zh != "输入8" || di8.Writable {
		t.Errorf("di8: got %+v", di8)
	}
	if do1.Name != "do1" || do1.Address != 0 || do1.Table != firmwareconfig.Coil || !do1.Writable {
		t.Errorf("do1: got %+v", do1)
	}

	mcm8 := lib.Profiles["wb_mcm8"]
	if got := mcm8.Channels[mcm8.Channel("count8")].Address; got != 74 {
		t.Errorf("count8 is at %d, want 74: a u32 takes two registers", got)
	}
	rielta := lib.Profiles["rielta_brshs_rk"]
	if ch := rielta.Channels[rielta.Channel("det32_tamper")]; ch.Address != 32 || ch.Bit != 6 || ch.Width != 1 {
		t.Errorf("det32_tamper: got %+v", ch)
	}
	rhu := lib.Profiles["schneider_vigirex_rhu"]
	if ch := rhu.Channels[rhu.Channel("alarm")]; ch.Valid == nil || *ch.Valid != (firmwareconfig.Validity{Table: firmwareconfig.HoldingRegister, Address: 0xC8}) {
		t.Errorf("alarm: got %+v", ch)
	}
	if b := rhu.Device.Points["fault"]; b != (firmwareconfig.PointBinding{Channel: "toroid_connected", Invert: true}) {
		t.Errorf("fault: got %+v", b)
	}
	urm := lib.Profiles["dfrobot_urm15"]
	if ch := urm.Channels[urm.Channel("distance")]; *ch.Min != 300 || *ch.Max != 5000 || !reflect.DeepEqual(ch.Invalid, []uint64{0xFFFF}) {
		t.Errorf("distance: got %+v", ch)
	}
}

func TestBind(t *testing.T) {
	lib, err := firmwareconfig.Load(firmwareconfig.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	meter, ddsu := lib.Classes["energy_meter"], lib.Profiles["chint_ddsu666"]
	b, err := ddsu.Bind(&meter.Points[meter.Point("active_power_w")], firmwareconfig.PointBinding{Channel: "active_power"})
	if err != nil || b.UnitFactor != 1000 || b.UnitOffset != 0 || ddsu.Channels[b.Channel].Name != "active_power" {
		t.Errorf("kW to W: got %+v, %v", b, err)
	}
	bin, urm := lib.Classes["smart_bin"], lib.Profiles["dfrobot_urm15"]
	line := &firmwareconfig.Linear{X0: 1200, Y0: 0, X1: 300, Y1: 100}
	b, err = urm.Bind(&bin.Points[bin.Point("fill_pct")], firmwareconfig.PointBinding{Channel: "distance", Map: line})
	if err != nil || b.UnitFactor != 1 || b.Map.At(750) != 50 || b.Map.At(100) != 100 {
		t.Errorf("distance to fill: got %+v, %v", b, err)
	}
	siren, io8 := lib.Classes["siren"], lib.Profiles["waveshare_io_8ch"]
	for _, c := range []struct {
		profile *firmwareconfig.Profile
		class   *telemetry.Class
		point   string
		binding firmwareconfig.PointBinding
		want    string
	}{
		{io8, siren, "on", firmwareconfig.PointBinding{Channel: "di1"}, "point on is an output, but channel di1 cannot be written"},
		{io8, siren, "on", firmwareconfig.PointBinding{Channel: "do9"}, `profile waveshare_io_8ch has no channel "do9", did you mean "do1"?`},
		{io8, bin, "fill_pct", firmwareconfig.PointBinding{Channel: "di1"}, "point fill_pct is float, but channel di1 is bool"},
		{urm, siren, "fault", firmwareconfig.PointBinding{Channel: "distance"}, "point fault is bool, but channel distance is a number (u16)"},
		{urm, bin, "fill_pct", firmwareconfig.PointBinding{Channel: "distance"}, `channel distance is in "mm", which cannot be converted to "%" (point fill_pct)`},
		{urm, bin, "stream", firmwareconfig.PointBinding{Channel: "temperature"}, "point stream is enum, which needs a plain integer channel"},
	} {
		_, err := c.profile.Bind(&c.class.Points[c.class.Point(c.point)], c.binding)
		if err == nil || err.Error() != c.want {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}

func TestConvertUnit(t *testing.T) {
	for _, c := range []struct {
		from, to       string
		factor, offset float64
		ok             bool
	}{
		{"kW", "W", 1000, 0, true},
		{"W", "kW", 0.001, 0, true},
		{"Wh", "kWh", 0.001, 0, true},
		{"mA", "A", 0.001, 0, true},
		{"A", "mA", 1000, 0, true},
		{"cm", "mm", 10, 0, true},
		{"m", "mm", 1000, 0, true},
		{"degC", "°C", 1, 0, true},
		{"%RH", "%", 1, 0, true},
		{"ug/m3", "µg/m³", 1, 0, true},
		{"K", "°C", 1, -273.15, true},
		{"°C", "K", 1, 273.15, true},
		{"", "", 1, 0, true},
		{"W", "VA", 0, 0, false},
		{"mm", "%", 0, 0, false},
		{"", "%", 0, 0, false},
		{"furlong", "mm", 0, 0, false},
	} {
		factor, offset, ok := firmwareconfig.ConvertUnit(c.from, c.to)
		if factor != c.factor || offset != c.offset || ok != c.ok {
			t.Errorf("%s to %s: got %v, %v, %v; want %v, %v, %v", c.from, c.to, factor, offset, ok, c.factor, c.offset, c.ok)
		}
	}
	factor, offset, _ := firmwareconfig.ConvertUnit("°F", "°C")
	if got := 212*factor + offset; math.Abs(got-100) > 1e-9 {
		t.Errorf("212 °F: got %v °C", got)
	}
}

// A site's own files stand above the shipped ones, entry by entry.
func TestOverlay(t *testing.T) {
	own := fstest.MapFS{
		"profiles/xy_md02.yaml": {Data: []byte(strings.Replace(goodProfile, "thing", "xy_md02", 1))},
		"profiles/thing.yaml":   {Data: []byte(goodProfile)},
	}
	lib, err := firmwareconfig.Load(firmwareconfig.Shipped(), own)
	if err != nil {
		t.Fatal(err)
	}
	if got := lib.Profiles["xy_md02"].Vendor; got != "ours" {
		t.Errorf("xy_md02 is by %q, want ours", got)
	}
	if lib.Profiles["thing"] == nil || lib.Profiles["pzem_016"] == nil {
		t.Error("the layers are not joined")
	}
}

const goodProfile = `version: 1
profile: thing
vendor: ours
model: T
title: {zh: 物, en: Thing}
status: confirmed
sources: [us]
channels:
  - {name: temperature, table: input, address: 1, type: s16, scale: 0.1, unit: °C}
  - {name: wet, table: discrete, address: 0}
`

const goodClass = `version: 1
class: thing
title: {zh: 物, en: Thing}
points:
  on: {kind: bool, title: {zh: 开, en: On}}
  temperature_c: {kind: float, unit: °C, title: {zh: 温度, en: Temperature}, optional: true}
`

func TestMistakes(t *testing.T) {
	profile := func(channel string) string {
		return strings.Replace(goodProfile, "  - {name: wet, table: discrete, address: 0}\n", channel, 1)
	}
	device := func(device string) string { return goodProfile + device }
	const p, c = "profiles/thing.yaml", "classes/thing.yaml"
	tests := map[string]struct{ file, src, want string }{
		"file name":      {"profiles/other.yaml", goodProfile, `2:10: profile "thing" must stand in a file named thing.yaml`},
		"version":        {p, strings.Replace(goodProfile, "version: 1", "version: 2", 1), `1:10: version 2 is not known here, write version: 1`},
		"empty":          {p, "", "1:1: missing key \"version\"\n1:1: missing key \"profile\"\n1:1: missing key \"vendor\"\n1:1: missing key \"model\"\n1:1: missing key \"title\"\n1:1: missing key \"status\"\n1:1: missing key \"sources\"\n1:1: missing key \"channels\""},
		"id":             {p, strings.Replace(goodProfile, "profile: thing", "profile: Thing-1", 1), `2:10: profile "Thing-1": a name is made of a-z, 0-9 and _, begins with a letter and has at most 32 characters`},
		"status":         {p, strings.Replace(goodProfile, "confirmed", "sure", 1), `6:9: status is one of confirmed, partial, unverified, got "sure"`},
		"one language":   {p, strings.Replace(goodProfile, "zh: 物, ", "", 1), `5:8: a title needs both languages: {zh: ..., en: ...}`},
		"line":           {p, device("line: {baud: 96, format: 8X1}\n"), "11:14: baud must be between 300 and 4000000, got 96\n11:26: line format is one of 8N1, 8E1, 8O1, 8N2, 8E2, 8O2, got \"8X1\""},
		"address":        {p, device("address: 256\n"), `11:10: address must be between 1 and 255, got 256`},
		"limits":         {p, device("limits: {max_registers: 126, max_bits: 0, max_gap: -2}\n"), "11:25: max_registers must be between 1 and 125, got 126\n11:40: max_bits must be between 1 and 2000, got 0\n11:52: max_gap must be between -1 and 124, got -2"},
		"timing":         {p, device("timing: {timeout: 2h, gap: 5}\n"), "11:19: timeout must be between 1ms and 1m0s, got 2h0m0s\n11:28: expected a duration such as 30s or 5m, got 5: the unit is missing"},
		"unknown key":    {p, profile("  - {name: a, tabel: coil, address: 0}\n"), "10:5: missing key \"table\"\n10:15: unknown key \"tabel\", did you mean \"table\"?"},
		"table":          {p, profile("  - {name: a, table: inputs, address: 0}\n"), `10:22: table is one of coil, discrete, holding, input, got "inputs"`},
		"type":           {p, profile("  - {name: a, table: input, address: 0, type: u24}\n"), `10:47: type is one of bool, u16, s16, u32, s32, u64, s64, f32, f64, s16_offset_10000, bcd16, bcd32, string, u8, s8, got "u24"`},
		"no type":        {p, profile("  - {name: a, table: input, address: 0}\n"), `10:5: missing key "type"`},
		"bit table":      {p, profile("  - {name: a, table: coil, address: 0, type: u16}\n"), `10:46: a coil holds a single bit, so its type is bool`},
		"past the end":   {p, profile("  - {name: a, table: input, address: 65535, type: u32}\n"), `10:38: the addresses run to 65536, past the last one (65535)`},
		"address range":  {p, profile("  - {name: a, table: input, address: 0x10000, type: u16}\n"), `10:38: address must be between 0 and 65535, got 65536`},
		"repeat end":     {p, profile("  - {name: \"a{n}\", table: input, address: 65530, type: u16, repeat: 8}\n"), `10:43: the addresses run to 65537, past the last one (65535)`},
		"repeat name":    {p, profile("  - {name: a, table: coil, address: 0, repeat: 8}\n"), `10:12: a repeated channel needs {n} in its name, such as "a{n}"`},
		"name twice":     {p, profile("  - {name: temperature, table: coil, address: 0}\n"), `10:12: channel "temperature" exists already, from line 9`},
		"bit 16":         {p, profile("  - {name: a, table: input, address: 0, type: bool, bit: 16}\n"), `10:58: a register has bits 0 to 15, this field would take 16 to 16`},
		"wide field":     {p, profile("  - {name: a, table: input, address: 0, type: u16, bit: 14, width: 3}\n"), `10:68: a register has bits 0 to 15, this field would take 14 to 16`},
		"bit of u32":     {p, profile("  - {name: a, table: input, address: 0, type: u32, bit: 1}\n"), `10:57: bits can be picked out of one register, type u32 takes 2`},
		"bool register":  {p, profile("  - {name: a, table: input, address: 0, type: bool}\n"), `10:47: a bool in a register needs bit: 0 to 15, or nonzero: true`},
		"writable input": {p, profile("  - {name: a, table: discrete, address: 0, writable: true}\n"), `10:54: only coils and holding registers can be written, the table here is discrete`},
		"writable bit":   {p, profile("  - {name: a, table: holding, address: 0, type: bool, bit: 3, writable: true}\n"), `10:73: a part of a register cannot be written without disturbing the rest; where whole registers are commands, say so with write_values`},
		"wide sentinel":  {p, profile("  - {name: a, table: input, address: 0, type: s16, invalid: [0xFFFF, 0x1FFFF]}\n"), `10:70: 0x1FFFF does not fit into the 16 bits of type s16`},
		"scale 0":        {p, profile("  - {name: a, table: input, address: 0, type: s16, scale: 0}\n"), `10:59: scale 0 would make every value the same`},
		"unit":           {p, profile("  - {name: a, table: input, address: 0, type: s16, unit: kwh}\n"), `10:58: unknown unit "kwh", did you mean "kWh"?`},
		"min and max":    {p, profile("  - {name: a, table: input, address: 0, type: s16, min: 5, max: 5}\n"), `10:65: max must be greater than min (5)`},
		"scaled bool":    {p, profile("  - {name: a, table: coil, address: 0, scale: 10, unit: W}\n"), "10:47: scale is for numbers, this channel is bool\n10:57: unit is for numbers, this channel is bool"},
		"inverted":       {p, profile("  - {name: a, table: input, address: 0, type: s16, invert: true}\n"), `10:60: invert is for bool channels, this one is s16`},
		"words":          {p, profile("  - {name: a, table: input, address: 0, type: s16, words: little}\n"), `10:59: type s16 is a single register, it has no order of words`},
		"too long":       {p, profile("  - {name: a, table: input, address: 0, type: f32}\nlimits: {max_registers: 1}\n"), `10:47: type f32 takes 2 registers, but max_registers is 1`},
		"validity":       {p, profile("  - {name: a, table: coil, address: 0, valid: {table: discrete, address: 1, bit: 2}}\n"), `10:82: a discrete holds a single bit`},
		"class":          {p, device("device: {class: smoke_detecter, points: {}}\n"), `11:17: unknown class "smoke_detecter", did you mean "smoke_detector"?`},
		"point":          {p, device("device: {class: smoke_detector, points: {alarm: wet, falt: wet}}\n"), `11:54: class smoke_detector has no point "falt", did you mean "fault"?`},
		"missing point":  {p, device("device:\n  class: temp_humidity\n  points: {temperature_c: temperature}\n"), `12:3: class temp_humidity needs the point "humidity_pct"`},
		"channel":        {p, device("device: {class: smoke_detector, points: {alarm: wett}}\n"), `11:49: profile thing has no channel "wett", did you mean "wet"?`},
		"kind":           {p, device("device: {class: smoke_detector, points: {alarm: temperature}}\n"), `11:49: point alarm is bool, but channel temperature is a number (s16)`},
		"conversion":     {p, device("device: {class: noise_meter, points: {noise_dba: temperature}}\n"), `11:50: channel temperature is in "°C", which cannot be converted to "dBA" (point noise_dba)`},
		"map":            {p, device("device: {class: noise_meter, points: {noise_dba: {from: temperature, map: [[1, 2]]}}}\n"), `11:75: a map is two pairs of channel value and point value, such as [[1200, 0], [300, 100]]`},
		"deadband":       {p, device("device: {class: noise_meter, points: {noise_dba: {from: temperature, deadband: much}}}\n"), "11:57: channel temperature is in \"°C\", which cannot be converted to \"dBA\" (point noise_dba)\n" + `11:80: a deadband is a number in dBA, as 0.5, or a share of the value reported last, as 2%, or none, not "much"`},
		"flat map":       {p, device("device: {class: noise_meter, points: {noise_dba: {from: temperature, map: [[1, 2], [1, 3]]}}}\n"), `11:75: both pairs of the map have the channel value 1`},
		"golden CRC":     {p, device("golden: [{name: x, request: 01 04 00 01 00 02 20 0C}]\n"), `11:29: the CRC is wrong: the frame should end in 20 0B`},
		"golden hex":     {p, device("golden: [{name: x, request: 01 0x}]\n"), `11:29: not a frame in hex: encoding/hex: invalid byte: U+0078 'x'`},
		"golden length":  {p, device("golden: [{name: x, request: 01 04 00 01 00 02 20 0B, response: 01 03 02 02 18 B9 2E}]\n"), `11:64: the response does not answer the request: 4 bytes of data expected`},
		"golden channel": {p, device("golden: [{name: x, request: 01 04 00 01 00 01 60 0A, values: {wet: true}}]\n"), `11:63: the request does not read channel wet`},

		"class file":           {"classes/other.yaml", goodClass, `2:8: class "thing" must stand in a file named thing.yaml`},
		"kind word":            {c, strings.Replace(goodClass, "bool", "boolean", 1), `5:14: unknown kind "boolean" (float, int, bool, enum or text)`},
		"class unit":           {c, strings.Replace(goodClass, "unit: °C", "unit: C°", 1), `6:38: unknown unit "C°", did you mean "°C"?`},
		"default":              {c, strings.Replace(goodClass, "kind: bool,", "kind: bool, default: false,", 1), `5:29: only an optional point has a default`},
		"default's kind":       {c, strings.Replace(goodClass, "kind: bool,", "kind: bool, optional: true, default: 1,", 1), `5:45: expected true or false, got 1`},
		"alarm_when":           {c, strings.Replace(goodClass, "unit: °C,", "alarm_when: true,", 1), `6:44: alarm_when is for bool points, this one is float`},
		"deadband of a bool":   {c, strings.Replace(goodClass, "kind: bool,", "kind: bool, deadband: 1,", 1), `5:30: a deadband is for numbers, on is bool: unchanged, it is reported once in the maximum interval as it is`},
		"deadband with a unit": {c, strings.Replace(goodClass, "unit: °C,", "unit: °C, deadband: 0.5°C,", 1), `6:52: a deadband is a number in °C, as 0.5, or a share of the value reported last, as 2%, or none, not "0.5°C": write the number alone, it is in °C`},
		"deadband and life":    {c, strings.Replace(goodClass, "unit: °C,", "unit: °C, life_safety: true, deadband: 1,", 1), `6:71: temperature_c protects life: each of its readings is reported, whatever the deadband`},
		"event default":        {c, strings.Replace(goodClass, "kind: bool,", "kind: bool, event: true, optional: true, default: false,", 1), `5:27: an event is something that happened: it has no default and is no output`},
		"no enum":              {c, strings.Replace(goodClass, "kind: bool", "kind: enum", 1), `5:14: a point of kind enum needs enum: [{code: 1, name: ..., title: ...}]`},
		"enum twice":           {c, strings.Replace(goodClass, "kind: bool", "kind: enum, enum: [{code: 1, name: a, title: {zh: 一, en: one}}, {code: 1, name: a, title: {zh: 一, en: one}}]", 1), "5:79: code 1 is used twice, by a and a\n5:88: the enum name \"a\" is used twice"},
		"enum default":         {c, strings.Replace(goodClass, "kind: bool", "kind: enum, optional: true, default: kitchn, enum: [{code: 1, name: kitchen, title: {zh: 一, en: one}}]", 1), `5:45: on has no value named "kitchn", did you mean "kitchen"?`},
		"wrong file ending":    {"classes/thing.yml", goodClass, `1:1: the file name must end in .yaml`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := firmwareconfig.Load(firmwareconfig.Shipped(), fstest.MapFS{test.file: {Data: []byte(test.src)}})
			var es yamlfile.Errors
			if !errors.As(err, &es) {
				t.Fatalf("got %v, want\n%s", err, test.want)
			}
			var got []string
			for _, e := range es {
				got = append(got, strings.TrimPrefix(e.Error(), test.file+":"))
			}
			if g := strings.Join(got, "\n"); g != test.want {
				t.Errorf("got\n%s\nwant\n%s", g, test.want)
			}
		})
	}
}

// Channels that could not be read are not reported a second time by who asks for them, and the library says which
// entries are faulty.
func TestNoFollowUps(t *testing.T) {
	lib, err := firmwareconfig.Load(firmwareconfig.Shipped(), fstest.MapFS{
		"profiles/thing.yaml": {Data: []byte(strings.Replace(goodProfile, "table: discrete", "table: discreet", 1) +
			"device: {class: smoke_detector, points: {alarm: wet}}\n")},
		"profiles/torn.yaml": {Data: []byte("version: 1\nprofile: [\n")},
		"classes/door.yaml":  {Data: []byte("version: 1\nclass: [\n")},
	})
	var es yamlfile.Errors
	if !errors.As(err, &es) || len(es) != 3 {
		t.Errorf("got %d mistakes, want 3:\n%v", len(es), err)
	}
	for _, id := range []string{"thing", "torn", "door"} {
		if !lib.Faulty[id] {
			t.Errorf("%s is not called faulty", id)
		}
	}
	if lib.Faulty["smoke_detector"] || lib.Faulty["xy_md02"] {
		t.Errorf("faulty: %v", lib.Faulty)
	}
}

// A contact can be anything, an alarm too: the inputs of modules are read every second.
func TestContactsAreReadEverySecond(t *testing.T) {
	lib, err := firmwareconfig.Load(firmwareconfig.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	for profile, channel := range map[string]string{"waveshare_io_8ch": "di8", "wellpro_wp8028": "di1", "novabo_sqr2": "alarm", "wb_mcm8": "di3"} {
		p := lib.Profiles[profile]
		if got := p.Channels[p.Channel(channel)].Every; got != time.Second {
			t.Errorf("%s.%s is read every %v", profile, channel, got)
		}
	}
}

// The two good files of this test are good, so that each mistake above is the only one.
func TestGoodFiles(t *testing.T) {
	_, err := firmwareconfig.Load(firmwareconfig.Shipped(), fstest.MapFS{
		"profiles/thing.yaml": {Data: []byte(goodProfile)}, "classes/thing.yaml": {Data: []byte(goodClass)}})
	if err != nil {
		t.Error(err)
	}
}

func FuzzLoad(f *testing.F) {
	for _, dir := range []string{"classes", "profiles"} {
		files, err := os.ReadDir(dir)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			b, err := os.ReadFile(dir + "/" + file.Name())
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		lib, err := firmwareconfig.Load(fstest.MapFS{"classes/thing.yaml": {Data: []byte(goodClass)}, "profiles/thing.yaml": {Data: src}})
		if err != nil {
			return
		}
		for i := range lib.Profiles["thing"].Channels {
			ch := &lib.Profiles["thing"].Channels[i]
			if ch.Address < 0 || ch.Address+ch.Encoding.Registers() > 65536 || ch.Bit+ch.Width > 16 || ch.Scale == 0 {
				t.Errorf("accepted %+v", ch)
			}
		}
	})
}

// The examples of docs/profiles.md are files that load.
func TestDocumentation(t *testing.T) {
	page, err := os.ReadFile("../docs/profiles.md")
	if err != nil {
		t.Fatal(err)
	}
	files := fstest.MapFS{}
	for _, block := range strings.Split(string(page), "```yaml\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		key, id, _ := strings.Cut(strings.Split(block, "\n")[1], ": ")
		folder := map[string]string{"class": "classes", "profile": "profiles"}[key]
		files[folder+"/"+id+".yaml"] = &fstest.MapFile{Data: []byte(block)}
	}
	lib, err := firmwareconfig.Load(files)
	if err != nil {
		t.Fatal(err)
	}
	if len(lib.Classes) != 1 || len(lib.Profiles) != 2 {
		t.Errorf("got %d classes and %d profiles from the page", len(lib.Classes), len(lib.Profiles))
	}
}
