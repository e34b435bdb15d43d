// Package firmwareconfig holds what is known about devices as data: classes (classes/*.yaml) and device profiles
// (profiles/*.yaml), with their loader and their linter; and it compares and writes the settings of real units that
// profiles describe (Configurer, Verify).
//
// A class promises canonical points; a profile describes one model of device as its Modbus registers. A new model
// needs a file here, no Go. Loading reads files from the file systems it is given and does nothing else: no devices, no
// clock, no logging. It has no state; a Library is read-only once loaded and may be shared.
//
// Settings are read and written through an Asker that the caller gives; the package opens no line. Verify and
// Configurer.Plan write nothing. Configurer.Apply writes nothing to a unit that its signature does not tell from its
// look-alikes, nothing that is right already and nothing twice, reads back what it wrote, and stops at the first
// surprise. It keeps no state between calls: planning anew goes on from what the units have. A Configurer belongs to one
// goroutine; Verify may be called from several, where its Asker may.
//
// Both kinds of file are read by yamlfile: unknown keys are mistakes, and all mistakes are reported together with
// their places. A file is named after the id it defines. Ids, point and channel names are [a-z][a-z0-9_]{0,31}.
//
// # Class files
//
//	version: 1
//	class: smoke_detector
//	title: {zh: 烟感, en: Smoke detector}
//	points:
//	  alarm:
//	    kind: bool                # float, int, bool, enum, text; never changes once published
//	    title: {zh: 火警, en: Smoke}
//	    life_safety: true         # polled first, never thinned out
//	    alarm_when: true          # the state of a bool that deserves colour
//	  obscuration_dbm: {kind: float, unit: dB/m, optional: true, title: {zh: 减光率, en: Obscuration}}
//	  mounted: {kind: bool, optional: true, default: true, alarm_when: false, title: {zh: 在位, en: Mounted}}
//
// An optional point that no unit provides is its default, or simply absent where there is no default. Points may
// be `writable` (outputs), or an `event: true`: each of its samples is something that happened (a card was presented).
// An enum point lists `enum: [{code: 1, name: recyclable, title: {...}}, ...]`; its default is a name.
//
// # Profile files
//
//	version: 1
//	profile: xy_md02
//	vendor: generic
//	model: XY-MD02
//	title: {zh: 温湿度变送器, en: Temperature and humidity transmitter}
//	status: confirmed             # confirmed, partial or unverified: how far the register facts are known
//	sources: [where the facts come from]
//	line: {baud: 9600, format: 8N1}   # factory settings, where they are known
//	address: 1                        # factory unit id, 1 to 255
//	timing: {timeout: 300ms, gap: 0s, warm_up: 0s, read_delay: 20ms, switch_gap: 0s}  # see Timing
//	limits: {max_registers: 125, max_bits: 2000, max_gap: 8}          # see Limits; max_gap -1 never reads through
//	channels:
//	  - name: temperature
//	    title: {zh: 温度, en: Temperature}  # optional
//	    table: input              # coil, discrete, holding, input
//	    address: 0x0001           # zero-based, as in the PDU
//	    type: s16                 # bool u8 s8 u16 s16 u32 s32 u64 s64 f32 f64 bcd16 bcd32 s16_offset_10000 string;
//	                              # coils and inputs are bool
//	    words: little             # low word first; without it the high word comes first
//	    bytes: little             # low byte of each register first; without it the high byte
//	    scale: 0.1                # value = raw*scale + offset, in unit
//	    offset: 0
//	    unit: °C
//	    invalid: [0x7FFF]         # raw values that mean "no reading"
//	    min: -40                  # measuring range in unit
//	    max: 80
//	    every: 5s                 # how often it is worth reading
//	  - {name: alarm, table: holding, address: 0x00C9, type: bool, bit: 0,      # one bit of a register
//	     valid: {table: holding, address: 0x00C8, bit: 0}}                      # counts only while that bit is set
//	  - {name: state, table: input, address: 34, type: u16, bit: 0, width: 4}   # a field of four bits
//	  - {name: "di{n}", table: discrete, address: 0, repeat: 8, invert: true}   # di1 to di8 at 0 to 7
//	  - {name: "do{n}", table: coil, address: 0, repeat: 8, writable: true}     # outputs
//	  - {name: fan, table: holding, address: 4, type: u8, byte: high}           # half a register: high or low (default)
//	  - {name: serial, table: holding, address: 16, type: string, count: 8}     # chars: one_per_register, bytes: little
//	  - {name: total, table: input, address: 60, type: u32, counter: true}      # goes on counting when it wraps
//	  - name: distance                                                          # another register says the scale:
//	    table: input
//	    address: 4
//	    type: u16
//	    scale_from: {table: input, address: 1, values: {1: 10, 2: 0.1}}         # by code, or decimals: true for 10^-n
//	  - name: out1                                                              # commands that read back otherwise
//	    table: holding
//	    address: 0
//	    type: u16
//	    width: 3
//	    writable: true
//	    write_values: {0: 128, 1: 384}                                          # value as read: register as written
//	    read_back: false                                                        # where it cannot be read at all
//	device:                       # only where the unit is exactly one device
//	  class: temp_humidity
//	  points:
//	    temperature_c: temperature
//	    humidity_pct: {from: humidity}   # also invert: true, map: [[1200, 0], [300, 100]]
//	config:                       # settings, as linli config writes and compares them
//	  - {name: address, role: address, table: holding, address: 0x101, type: u16, min: 1, max: 247, effective: power_cycle}
//	  - {name: baud, role: baud, table: holding, address: 0x102, type: u16, values: {0: 9600, 1: 19200}, default: 9600}
//	  - {name: correction, table: holding, address: 0x103, type: s16, scale: 0.1, unit: °C, min: -10, max: 10, function: 16}
//	unlock: [{table: coil, address: 1, value: 1}]       # written before any setting
//	save: [{table: holding, address: 5, value: 1}]      # written after the last
//	signature:                    # what tells the model apart: all must hold, of raw registers
//	  - {table: holding, address: 0x101, equals: address}   # or equals: 17, one_of: [1, 2], between: [-400, 800],
//	  - {table: holding, address: 0x100, refused: true}     # or the address is refused as illegal
//	device_id: {vendor: Acme}     # parts of what it answers to function 0x2B: vendor, product, model
//	look_alikes: [md02]           # models with the same registers and another meaning
//	golden:                       # frames known to be right, checked by the driver's tests
//	  - name: 53.6 dB             # request and response with CRC; the response may be missing
//	    request: 01 03 00 00 00 01 84 0A
//	    response: 01 03 02 02 18 B9 2E
//	    values: {noise: 53.6}     # a number, true or false, a text, or none for "no reading"
//
// `repeat: N` makes channels for n from 1 to N: {n} is replaced in name and title, and the address (that of `valid`
// too, not that of `scale_from`) moves by `step` each time, which is the size of the value unless set. Settings take
// `repeat` as channels do.
//
// A map leads through two pairs of channel value and point value and is clamped between them; the channel's value
// is taken in the channel's own unit then. Without a map, a channel in another unit of the same quantity is
// converted (kW to W).
package firmwareconfig

import (
	"embed"
	"io/fs"

	"linli/internal/telemetry"
	"linli/internal/yamlfile"
)

// Library is every class and profile known, by id. It is read-only once loaded.
type Library struct {
	Classes  map[string]*telemetry.Class
	Profiles map[string]*Profile
	// Faulty holds the ids of those classes and profiles whose files have mistakes, as Load reports: what follows from
	// that (a class or channel that is not there) is no mistake of its own. Where the file does not say its id, it is
	// the file's name.
	Faulty map[string]bool
	// places are where profiles (by id), their channels (id.name) and settings (id:name) stand, for the linter.
	places map[string]yamlfile.Pos
	// own are the classes and profiles of other layers than the first.
	own struct{ classes, profiles map[string]bool }
}

// Own returns what does not come from the first layer, the shipped one: all that may have become another while the program is
// the same. Places are left out.
func (l *Library) Own() *Library {
	own := &Library{Classes: map[string]*telemetry.Class{}, Profiles: map[string]*Profile{}}
	for id := range l.own.classes {
		own.Classes[id] = l.Classes[id]
	}
	for id := range l.own.profiles {
		own.Profiles[id] = l.Profiles[id]
	}
	own.own = l.own
	return own
}

//go:embed classes/*.yaml profiles/*.yaml
var shipped embed.FS

// Shipped returns the classes and profiles embedded in the binary.
func Shipped() fs.FS { return shipped }

// Load reads classes/*.yaml and profiles/*.yaml from each layer; an entry of a later layer replaces the one of the
// same id in an earlier one (site-local files over the shipped ones). All mistakes are reported together, as
// yamlfile.Errors; the Library holds what could be read, so that later checks can go on.
func Load(layers ...fs.FS) (*Library, error) {
	l := &loader{lib: &Library{Classes: map[string]*telemetry.Class{}, Profiles: map[string]*Profile{}, Faulty: map[string]bool{}, places: map[string]yamlfile.Pos{}}}
	l.lib.own.classes, l.lib.own.profiles = map[string]bool{}, map[string]bool{}
	l.eachFile(layers, "classes", l.class)
	l.eachFile(layers, "profiles", l.profile)
	return l.lib, l.errs.Err()
}
