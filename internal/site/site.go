// Package site decodes the site file, validates everything in it, and resolves it into zones, devices, points,
// buses and units.
//
// # The file
//
// A site file is YAML, version 1. Every key, its bounds and its default stand in docs/site-file.md, and in
// schema.json for editors. In short:
//
//	version: 1
//	site: yangguang                     # ids: [a-z][a-z0-9_]{0,31}
//	zones:   [{id: east_gate, kind: lane}]
//	buses:   [{id: rs485_1, modbus_rtu: {device: /dev/ttyS1}, units: [{id: io1, address: 1, profile: waveshare_io_8ch}]},
//	          {id: box_io, gpio: {chip: pinctrl-bcm2835}, lines: [{id: siren, output: GPIO22, on_stop: off}]}]
//	devices: [{id: lane_1, class: fire_lane_sensor, zone: east_gate, points: {occupied: io1.di1}}]
//	rules:   [{pack: fire_lane, params: {dwell: 3m}}]
//
// A GPIO chip becomes a bus with one unit, whose profile has a channel for each line: points are bound to lines as they
// are to registers. Every bus, every Modbus unit and the gateway itself are devices too (Device.System), after those of the file.
//
// A device gets each point of its class from the first of these that has it: its own points (a channel, or a
// constant), the profile of the unit that it is, the class's default for an optional point. A mandatory point that
// no channel provides is a mistake.
//
// # Guarantees
//
// Load is strict and complete: without an error every reference is resolved and every value lies within its bounds;
// otherwise the error holds all mistakes at once, each with file:line:col. It never panics on any input, and gives
// the same answer for the same arguments: it opens no file, device or connection and asks no clock. Whether a serial
// device or a token file exists is found out by who opens it.
//
// One mistake is told once: what refers to an entry that is wrong itself (a zone, a unit, a class, a profile, a pack)
// is not called unknown. A wrong parameter of a pack is left out of Params, so that the rules' check does not meet it.
//
// It does not compile rules: it checks packs' parameters, and the caller compiles the packs against the Inventory.
//
// A Site belongs to its caller. It is plain data and safe to read from several goroutines as long as nobody
// changes it; the rule compiler adds derived points to its Inventory before anything runs.
package site

import (
	"time"

	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
	"linli/internal/yamlfile"
	"linli/rules"
)

// Site is a site file, resolved: everything the gateway needs to start. Settings that the file leaves out carry
// their defaults. Paths are absolute or start at the working directory: those that the file gives relative to
// itself are joined with its folder.
type Site struct {
	File      string // path the positions refer to
	Inventory *telemetry.Inventory
	Buses     []Bus
	Outputs   []Output
	Settings  []UnitSettings
	Verify    time.Duration                // how often the units' settings are held against Settings; 0 never, default 24 h
	Packs     []*rules.Pack                // in the order of the file, parameters not yet applied
	Params    map[string]map[string]string // pack -> parameter -> value as written
	Schedules map[string]rules.Schedule    // by name; they come before those of the packs
	Uplink    *Uplink                      // nil: works alone
	Console   Console
	DryRun    bool   // what rules want of outputs is recorded, and not sent
	State     string // state directory; "" means the command line decides
	Journal   Journal
	Report    Report
	Own       int // the device that the gateway itself is (class gateway), an index in Inventory.Devices; -1 for none
	// Constants lists the points that no unit provides, as "device.point = value", for `linli check`. Those that the
	// site file fixes end in "(set)", the others are the class's defaults.
	Constants []string
	// Warnings are what is allowed but probably not meant, sorted by place: a unit that nothing uses, a password that
	// would travel in the clear.
	Warnings yamlfile.Errors
}

// Bus is one serial line, one Modbus TCP endpoint or one GPIO chip.
type Bus struct {
	ID        string
	Pos       yamlfile.Pos        // of its entry in the file, for what is found out about it later
	Transport string              // modbus_tcp, modbus_rtu, modbus_rtu_over_tcp, gpio
	Address   string              // host:port of the TCP transports that we dial
	Device    string              // path of the serial device
	Line      firmwareconfig.Line // of a serial line, or of the one behind a modbus_rtu_over_tcp converter
	Timeout   time.Duration       // overrides the profiles' where not 0
	Units     []firmwareconfig.Unit
	// Listen is host:port where the converter dials in, "" where we dial Address; Registration is what it sends
	// first, nil where the port says enough.
	Listen       string
	Registration []byte
	IgnoreTID    bool
	AtOnce       int // requests that the server takes before it has answered the first; 0 and 1: one
	// Chip is the GPIO chip, by label or name, of transport gpio; Lines are parallel to the channels of Units[0].Profile.
	// That unit has the bus's id and stands for the chip. KeyFile holds the secret of Wiegand readers, "" where there
	// are none; who builds the driver reads it. KeyPos is where the site file names it.
	Chip    string
	Lines   []firmwareconfig.GPIOLine
	KeyFile string
	KeyPos  yamlfile.Pos
	// Health is the device that the bus itself is (class field_bus), UnitHealth those of its units (class bus_unit),
	// parallel to Units: indexes in Inventory.Devices. -1 stands for none: the unit of a GPIO bus is no device of its
	// own, and a library without these classes has none at all.
	Health     int
	UnitHealth []int
}

// Output is a point that can be written, with what happens to it when the gateway starts and stops. Those of GPIO lines
// are listed too; the driver itself sets them as their GPIOLine says, which is the same.
type Output struct {
	Point           telemetry.PointID
	Bus, Unit       int // indexes in Site.Buses and its Units
	Channel         int // index in the channels of the unit's profile
	OnStart, OnStop firmwareconfig.OutputState
	// Interval is the shortest time between two writes of different values; 0 means the default of 1 s for bursts
	// of more than five.
	Interval time.Duration
	// MinOff is the shortest time that it is off before it is on again; 0 means none.
	MinOff time.Duration
	// Interlock are the other outputs with which it is never on at the same time, in the order of their ids; those that
	// name this one are among them. They and it are bool.
	Interlock []telemetry.PointID
	// Watchdog: the module itself returns to a safe state when nobody talks to it, as the site file claims.
	Watchdog bool
}

// UnitSettings are the settings that the site file wants a unit to have.
type UnitSettings struct {
	Bus, Unit int // indexes in Site.Buses and its Units
	// Want is parameter name -> value as written.
	Want map[string]string
}

// The transports of a Bus, as its key in the site file.
const (
	ModbusRTU        = "modbus_rtu"
	ModbusTCP        = "modbus_tcp"
	ModbusRTUOverTCP = "modbus_rtu_over_tcp"
	GPIO             = "gpio"
)

// Uplink says how to reach the city's broker.
type Uplink struct {
	Brokers      []string // tcp://host:port or tls://host:port, in order of preference
	Username     string
	PasswordFile string
	CAFile       string
	CertFile     string
	KeyFile      string
	Compression  string        // none, gzip, zstd
	Batch        time.Duration // how much time of frames goes into one message, at most 10 s
	Commands     *Commands     // of the city; nil: none are taken
}

// Console says where people look.
type Console struct {
	Listen    string // host:port; Load fills in 127.0.0.1:8080
	TokenFile string // holds the access token; required where Listen is not loopback
}

// Journal bounds what is kept on the box.
type Journal struct {
	MaxBytes    int64         // bytes of samples on the disk; default 1 GiB
	MaxAge      time.Duration // of what the city has acknowledged; default 7 days
	CommitEvery time.Duration // between syncs, 1 s to 10 s; default 1 s
}

// Report says when a reading that says nothing new is reported all the same. Deadbands are in Inventory.Points.
type Report struct {
	MaxInterval time.Duration // default 60 s
	Set         bool          // the file says something of it
}

// Load reads and resolves the site file src named file. lib is the class and profile library, packs the rule packs
// that can be named (shipped, then site-local). The error is yamlfile.Errors with every mistake found.
//
// The Site is never nil. Beside an error it holds what could be resolved, so that further checks (the rules') can
// tell their mistakes in the same go; it is not fit to run.
func Load(file string, src []byte, lib *firmwareconfig.Library, packs map[string]*rules.Pack) (*Site, error) {
	r := &resolver{
		lib: lib, packs: packs,
		site: &Site{
			File:      file,
			Inventory: &telemetry.Inventory{},
			Params:    map[string]map[string]string{},
			Schedules: map[string]rules.Schedule{},
		},
		units:   map[string]*unitRef{},
		refused: map[yamlfile.Pos]bool{},
		strange: map[yamlfile.Pos]bool{},
		unread:  map[string]bool{},
		faulty:  map[string]map[string]bool{},
	}
	r.inv = r.site.Inventory
	r.decode(src)
	r.head()
	r.verify()
	r.zones()
	r.buses()
	r.report()
	r.devices()
	r.interlocks()
	r.timing()
	r.unproven()
	r.system()
	r.rules()
	r.schedules()
	r.uplink()
	r.own()
	r.console()
	r.journal()
	yamlfile.ExplainWide(file, src, r.errs)
	err := r.errs.Err()
	if err == nil {
		r.missing()
	}
	_ = r.warnings.Err() // sorts them
	r.site.Warnings = r.warnings
	return r.site, err
}
