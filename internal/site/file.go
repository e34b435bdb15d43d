package site

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	firmwareconfig "linli/firmware-config"
	"linli/internal/yamlfile"
	"linli/rules"
)

// The types below are the site file as it is written. The doc tags are the descriptions in the JSON schema; enum,
// pattern, min and max tags bound what editors accept. They hold data only: resolving is the resolver's job.

type siteFile struct {
	Pos       yamlfile.Pos                        `yaml:",pos"`
	Version   yamlfile.At[int]                    `yaml:"version,required" enum:"1" doc:"Format of this file. Always 1."`
	Site      yamlfile.At[string]                 `yaml:"site,required" pattern:"id" doc:"Id of the site (one community)."`
	Gateway   yamlfile.At[string]                 `yaml:"gateway" pattern:"id" doc:"Id of this gateway; default gw1. site.gateway is its name at the broker and in its certificate."`
	Title     yamlfile.Text                       `yaml:"title" doc:"Name of the community for people. Default: the site's id."`
	Place     place                               `yaml:"place" doc:"Where the community lies in the city's tree."`
	Timezone  yamlfile.At[string]                 `yaml:"timezone" doc:"IANA name of the local time of the site, as Asia/Shanghai (the default)."`
	Zones     []zone                              `yaml:"zones" doc:"Buildings, floors, lanes, bin stations. Zones nest."`
	Buses     []bus                               `yaml:"buses" doc:"Serial lines, Modbus TCP endpoints and GPIO chips, with the units or lines on each."`
	Devices   []device                            `yaml:"devices" doc:"What people name: a class in a zone, its points bound to channels of units."`
	Rules     []ruleUse                           `yaml:"rules" doc:"Rule packs in force, with their parameters."`
	Schedules yamlfile.Map[[]rules.ScheduleEntry] `yaml:"schedules" doc:"Times with names that rules ask for: those of the packs, overridden, or the site's own. An empty list is never."`
	Uplink    *uplink                             `yaml:"uplink" doc:"The city's MQTT broker. Without it the box works alone."`
	Console   console                             `yaml:"console" doc:"The web console."`
	Report    report                              `yaml:"report" doc:"When a reading that says nothing new is reported: to rules, journal and city."`
	Journal   journal                             `yaml:"journal" doc:"Bounds of what is kept on the box."`
	Config    config                              `yaml:"config" doc:"How the settings of units are watched over."`
	DryRun    yamlfile.At[bool]                   `yaml:"dry_run" doc:"For commissioning: what rules want of outputs is recorded, and not sent. Default false."`
	State     yamlfile.At[string]                 `yaml:"state" doc:"State directory, absolute or relative to this file. Default: the command line decides."`
}

type place struct {
	City     string `yaml:"city" doc:"City, as 沈阳市."`
	District string `yaml:"district" doc:"District, as 浑南区."`
	Street   string `yaml:"street" doc:"Street, as 五三街道."`
}

type zone struct {
	Pos   yamlfile.Pos        `yaml:",pos"`
	ID    yamlfile.At[string] `yaml:"id,required" pattern:"id" doc:"Id of the zone, unique among zones."`
	Kind  yamlfile.At[string] `yaml:"kind,required" enum:"building,floor,unit,lane,bin_station,garage,pump_room,gate,charging,area" doc:"What the zone is."`
	Title yamlfile.Text       `yaml:"title" doc:"Name for people. Default: the id."`
	Zones []zone              `yaml:"zones" doc:"Zones within this one."`
}

type bus struct {
	Pos        yamlfile.Pos               `yaml:",pos"`
	ID         yamlfile.At[string]        `yaml:"id,required" pattern:"id" doc:"Id of the bus, unique among buses."`
	RTU        serialLine                 `yaml:"modbus_rtu" doc:"A serial line (RS-485, RS-232)."`
	TCP        endpoint                   `yaml:"modbus_tcp" doc:"A Modbus TCP endpoint."`
	RTUOverTCP endpoint                   `yaml:"modbus_rtu_over_tcp" doc:"A transparent serial server or cellular converter: RTU frames, CRC included, over TCP."`
	GPIO       gpioChip                   `yaml:"gpio" doc:"A GPIO chip of this box: dry contacts, pulses, Wiegand readers, outputs."`
	Timeout    yamlfile.At[time.Duration] `yaml:"timeout" doc:"Longest wait for an answer, 20ms to 10s. Overrides the profiles'."`
	Units      []unit                     `yaml:"units" doc:"The units that answer on this bus."`
	Lines      []gpioLine                 `yaml:"lines" doc:"The lines of a GPIO chip that are used."`
}

type serialLine struct {
	Pos    yamlfile.Pos        `yaml:",pos"`
	Device yamlfile.At[string] `yaml:"device,required" doc:"Path of the serial device; one under /dev/serial/by-id survives replugging."`
	Baud   yamlfile.At[int]    `yaml:"baud" enum:"1200,2400,4800,9600,14400,19200,38400,57600,115200,230400" doc:"Bits a second. Default 9600."`
	Format yamlfile.At[string] `yaml:"format" enum:"8N1,8N2,8E1,8O1" doc:"Data bits, parity, stop bits. Default 8N1."`
}

type endpoint struct {
	Pos          yamlfile.Pos        `yaml:",pos"`
	Address      yamlfile.At[string] `yaml:"address" doc:"host:port that the gateway dials, as 192.168.1.20:502."`
	Listen       yamlfile.At[string] `yaml:"listen" doc:"host:port where the converter dials in, instead of address: 0.0.0.0:4001 is every interface."`
	Registration scalar              `yaml:"registration" doc:"What the converter sends first when it dials in: a text, or bytes as 0x59472D31. Needed where several converters share a port."`
	IgnoreTID    yamlfile.At[bool]   `yaml:"ignore_transaction_id" doc:"Only for Modbus TCP gateways that do not repeat the transaction id."`
	AtOnce       yamlfile.At[int]    `yaml:"requests_at_once" min:"1" max:"16" doc:"Requests that a modbus_tcp server takes before it has answered the first, and answers in order. Default 1."`
	Baud         yamlfile.At[int]    `yaml:"baud" enum:"1200,2400,4800,9600,14400,19200,38400,57600,115200,230400" doc:"Of the line behind a modbus_rtu_over_tcp converter, so that its time can be reckoned. Default 9600."`
	Format       yamlfile.At[string] `yaml:"format" enum:"8N1,8N2,8E1,8O1" doc:"Of the line behind a modbus_rtu_over_tcp converter. Default 8N1."`
}

type unit struct {
	Pos     yamlfile.Pos         `yaml:",pos"`
	ID      yamlfile.At[string]  `yaml:"id,required" pattern:"id" doc:"Id of the unit, unique in the site."`
	Address yamlfile.At[int]     `yaml:"address,required" min:"1" max:"255" doc:"Unit id on the bus, 1 to 247; beyond only where the device leaves the factory so."`
	Profile yamlfile.At[string]  `yaml:"profile,required" doc:"Device profile (linli profiles list)."`
	Config  yamlfile.Map[scalar] `yaml:"config" doc:"Settings that the unit is meant to have (linli profiles show, linli config plan)."`
}

type gpioChip struct {
	Pos     yamlfile.Pos        `yaml:",pos"`
	Chip    yamlfile.At[string] `yaml:"chip,required" doc:"Label or name of the chip (gpiodetect), as pinctrl-bcm2835."`
	KeyFile yamlfile.At[string] `yaml:"key_file" doc:"File with the site's secret, with which card numbers are hashed. Required for Wiegand readers."`
}

// given reports whether one of the ways to reach a bus, or of the sorts of a line, was written; what stands in it may be
// nothing, or wrong.
func given(pos yamlfile.Pos) bool { return pos.Line > 0 }

// gpioLine is one line or one pair of lines: exactly one of Input, Pair, Count, Wiegand and Output says which.
type gpioLine struct {
	Pos       yamlfile.Pos               `yaml:",pos"`
	ID        yamlfile.At[string]        `yaml:"id,required" pattern:"id" doc:"Id of the line, unique on its bus; points are bound to bus.line."`
	Title     yamlfile.Text              `yaml:"title" doc:"Name for people."`
	Input     scalar                     `yaml:"input" doc:"A contact: name or number of its line."`
	Pair      gpioPair                   `yaml:"pair" doc:"A supervised contact: one line closed at rest, one open. Both alike is a fault."`
	Count     scalar                     `yaml:"count" doc:"Pulses: name or number of the line."`
	Wiegand   gpioWiegand                `yaml:"wiegand" doc:"A card reader on two lines."`
	Output    scalar                     `yaml:"output" doc:"An output: name or number of its line."`
	Bias      yamlfile.At[string]        `yaml:"bias" enum:"pull_up,pull_down,none" doc:"Pull of an input, or of an output's feedback contact. Default: as the board has it."`
	ActiveLow yamlfile.At[bool]          `yaml:"active_low" doc:"Low is true, as for a contact to ground with a pull-up."`
	Debounce  yamlfile.At[time.Duration] `yaml:"debounce" doc:"A level counts once it has held this long, 1ms to 5s. Default none."`
	Edge      yamlfile.At[string]        `yaml:"edge" enum:"rising,falling,both" doc:"Edges that count. Default rising."`
	OnStart   yamlfile.At[string]        `yaml:"on_start" enum:"hold,off,on" doc:"What the output is set to when the gateway starts. Default hold: as it is."`
	OnStop    yamlfile.At[string]        `yaml:"on_stop" enum:"hold,off,on" doc:"What the output is set to when the gateway stops. Default hold: as it is."`
	Feedback  scalar                     `yaml:"feedback" doc:"Line of a contact that must follow the output. With bias pull_up it is closed while low, otherwise while high."`
}

type gpioPair struct {
	Pos yamlfile.Pos `yaml:",pos"`
	NC  scalar       `yaml:"nc,required" doc:"Line of the contact that is closed at rest."`
	NO  scalar       `yaml:"no,required" doc:"Line of the contact that is open at rest."`
}

type gpioWiegand struct {
	Pos  yamlfile.Pos       `yaml:",pos"`
	D0   scalar             `yaml:"d0,required" doc:"Line of DATA0 (green)."`
	D1   scalar             `yaml:"d1,required" doc:"Line of DATA1 (white)."`
	Bits []yamlfile.At[int] `yaml:"bits" enum:"26,34,37" doc:"Lengths of frame that the reader may send. Default all three."`
}

type device struct {
	Pos    yamlfile.Pos            `yaml:",pos"`
	ID     yamlfile.At[string]     `yaml:"id,required" pattern:"id" doc:"Id of the device, unique among devices."`
	Class  yamlfile.At[string]     `yaml:"class" doc:"Class of the device. With unit: it comes from the profile."`
	Zone   yamlfile.At[string]     `yaml:"zone,required" doc:"Id of the zone the device is in."`
	Title  yamlfile.Text           `yaml:"title" doc:"Name for people. Default: the class's title and the id."`
	Unit   yamlfile.At[string]     `yaml:"unit" doc:"A unit that is exactly this device: its profile binds every point."`
	Points yamlfile.Map[pointSpec] `yaml:"points" doc:"Where each point of the class comes from: unit.channel, or a mapping with from or value. With unit: overrides the profile's binding."`
}

// pointSpec says where a point comes from: the short form is the channel alone.
type pointSpec struct {
	Pos      yamlfile.Pos        `yaml:",pos"`
	From     yamlfile.At[string] `yaml:"from" doc:"unit.channel"`
	Invert   bool                `yaml:"invert" doc:"Turns a bool around, as for a contact that opens when something happens."`
	Map      *line               `yaml:"map" doc:"Straight line from channel values to point values, clamped at both ends: [[1200, 0], [300, 100]]."`
	Value    *yamlfile.Node      `yaml:"value" doc:"A constant instead of a channel: an enum's name, true or false, a number."`
	Deadband *yamlfile.Node      `yaml:"deadband" doc:"How far a number must move from what was reported last: in the point's unit, or as 2%; none for every reading."`
	// Of outputs:
	OnStart  yamlfile.At[string]        `yaml:"on_start" enum:"hold,off,on" doc:"What a Modbus output is set to when the gateway starts. Default hold: as it is."`
	OnStop   yamlfile.At[string]        `yaml:"on_stop" enum:"hold,off,on" doc:"What a Modbus output is set to when the gateway stops. Default hold: as it is."`
	Interval yamlfile.At[time.Duration] `yaml:"interval" doc:"Shortest time between two different commands, 100ms to 1h. Default 1s, after five at once."`
	MinOff   yamlfile.At[time.Duration] `yaml:"min_off" doc:"Shortest time off before it is on again, 100ms to 1h. Default none."`
	Locks    []yamlfile.At[string]      `yaml:"interlock" pattern:"^[a-z][a-z0-9_]{0,31}\\.[a-z][a-z0-9_]{0,31}$" doc:"Outputs, as device.point, with which it is never on at the same time."`
	Watchdog yamlfile.At[bool]          `yaml:"watchdog" doc:"The module itself goes to a safe state when nobody talks to it; set in the module."`
}

// forOutput returns the place of the first key that only outputs have, or the zero Pos.
func (p *pointSpec) forOutput() (key string, pos yamlfile.Pos) {
	switch {
	case p.OnStart.Pos.Line > 0:
		return "on_start", p.OnStart.Pos
	case p.OnStop.Pos.Line > 0:
		return "on_stop", p.OnStop.Pos
	case p.Interval.Pos.Line > 0:
		return "interval", p.Interval.Pos
	case p.MinOff.Pos.Line > 0:
		return "min_off", p.MinOff.Pos
	case len(p.Locks) > 0:
		return "interlock", p.Locks[0].Pos
	case p.Watchdog.Pos.Line > 0:
		return "watchdog", p.Watchdog.Pos
	}
	return "", yamlfile.Pos{}
}

type ruleUse struct {
	Pos    yamlfile.Pos         `yaml:",pos"`
	Pack   yamlfile.At[string]  `yaml:"pack,required" doc:"Id of the rule pack."`
	Params yamlfile.Map[scalar] `yaml:"params" doc:"Parameters that differ from the pack's defaults."`
}

type uplink struct {
	Pos          yamlfile.Pos               `yaml:",pos"`
	Brokers      []yamlfile.At[string]      `yaml:"brokers,required" pattern:"^(tcp|tls)://[^/@]+:[0-9]+$" doc:"Brokers in order of preference: tls://host:8883 or tcp://host:1883."`
	Username     yamlfile.At[string]        `yaml:"username" doc:"User name at the broker."`
	PasswordFile yamlfile.At[string]        `yaml:"password_file" doc:"File that holds the password."`
	CAFile       yamlfile.At[string]        `yaml:"ca_file" doc:"PEM file of the authorities that sign the broker's certificate. Default: the system's."`
	CertFile     yamlfile.At[string]        `yaml:"cert_file" doc:"PEM file of the gateway's certificate, common name site.gateway."`
	KeyFile      yamlfile.At[string]        `yaml:"key_file" doc:"PEM file of the key of cert_file."`
	Compression  yamlfile.At[string]        `yaml:"compression" enum:"none,gzip,zstd" doc:"Of telemetry messages. Default none."`
	Batch        yamlfile.At[time.Duration] `yaml:"batch" doc:"How much time of samples goes into one message, 100ms to 10s. Default 1s."`
	Commands     *commands                  `yaml:"commands" doc:"Commands of the city: whose are taken, and which."`
}

type console struct {
	Pos       yamlfile.Pos        `yaml:",pos"`
	Listen    yamlfile.At[string] `yaml:"listen" doc:"host:port. Default 127.0.0.1:8080, which only this box reaches."`
	TokenFile yamlfile.At[string] `yaml:"token_file" doc:"File that holds the access token. Required where listen is not loopback."`
}

type config struct {
	Verify yamlfile.At[time.Duration] `yaml:"verify" doc:"How often the settings of units are compared with config, 10m to 30d; 0s is never. Default 1d."`
}

type report struct {
	MaxInterval yamlfile.At[time.Duration]                `yaml:"max_interval" doc:"What does not change is reported once in this time, 5s to 1h. Default 60s."`
	Deadbands   yamlfile.Map[yamlfile.Map[yamlfile.Node]] `yaml:"deadbands" doc:"Deadbands of all devices of a class, as energy_meter: {voltage_v: 0.5, active_power_w: 2%}."`
}

type journal struct {
	Pos         yamlfile.Pos               `yaml:",pos"`
	MaxBytes    yamlfile.At[size]          `yaml:"max_bytes" doc:"Space for samples on the disk, as 1GiB (the default); at least 1MiB."`
	MaxAge      yamlfile.At[time.Duration] `yaml:"max_age" doc:"How long sent samples are kept, as 7d (the default); 1h to 3650d."`
	CommitEvery yamlfile.At[time.Duration] `yaml:"commit_every" doc:"How often samples are made safe on the disk: what a power cut may cost. 1s to 10s, default 1s."`
}

// UnmarshalYAMLFile accepts the short form (a channel) or a mapping.
func (p *pointSpec) UnmarshalYAMLFile(n *yamlfile.Node) error {
	if n.IsScalar() {
		*p = pointSpec{Pos: n.Pos, From: yamlfile.At[string]{Value: n.Scalar(), Pos: n.Pos}}
		return nil
	}
	type mapping pointSpec // without this method
	err := n.Decode((*mapping)(p))
	p.Pos = n.Pos
	return err
}

// scalar is any single value as it is written, with its place.
type scalar struct {
	text string
	pos  yamlfile.Pos
}

// UnmarshalYAMLFile accepts any scalar.
func (s *scalar) UnmarshalYAMLFile(n *yamlfile.Node) error {
	s.pos = n.Pos
	if !n.IsScalar() {
		return mistake(n, "want a single value (a name, true or false, a number)")
	}
	s.text = n.Scalar()
	return nil
}

// line is a firmwareconfig.Linear written as two pairs.
type line firmwareconfig.Linear

// UnmarshalYAMLFile accepts [[x0, y0], [x1, y1]].
func (l *line) UnmarshalYAMLFile(n *yamlfile.Node) error {
	var pairs [][]float64
	if err := n.Decode(&pairs); err != nil {
		return err
	}
	linear, err := firmwareconfig.LinearFrom(pairs)
	if err != nil {
		return err
	}
	if linear.Y0 == linear.Y1 {
		return mistake(n, "both pairs of the map have the point value %v: that is a constant", linear.Y0)
	}
	*l = line(*linear)
	return nil
}

// durationText renders d as people write it in files, without the zero parts of Duration.String.
func durationText(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// size is a number of bytes written with its unit.
type size int64

// UnmarshalYAMLFile accepts a whole number with KiB, MiB, GiB or TiB.
func (b *size) UnmarshalYAMLFile(n *yamlfile.Node) error {
	if !n.IsScalar() {
		return mistake(n, "want a size with its unit, as 64MiB or 1GiB")
	}
	v, ok := parseSize(n.Scalar())
	if !ok {
		return mistake(n, "want a size with its unit, as 64MiB or 1GiB, got %q", n.Scalar())
	}
	*b = size(v)
	return nil
}

// parseSize parses a whole number of KiB, MiB, GiB or TiB.
func parseSize(s string) (int64, bool) {
	for shift, suffix := range map[int]string{10: "KiB", 20: "MiB", 30: "GiB", 40: "TiB"} {
		if digits, ok := strings.CutSuffix(s, suffix); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 63-shift)
			return int64(n << shift), err == nil
		}
	}
	return 0, false
}

// sizeText renders n in the largest unit that divides it.
func sizeText(n int64) string {
	for _, u := range []struct {
		shift  int
		suffix string
	}{{40, "TiB"}, {30, "GiB"}, {20, "MiB"}, {10, "KiB"}} {
		if n>>u.shift<<u.shift == n && n != 0 {
			return fmt.Sprintf("%d%s", n>>u.shift, u.suffix)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}

func mistake(n *yamlfile.Node, format string, args ...any) error {
	return &yamlfile.Error{Pos: n.Pos, Msg: fmt.Sprintf(format, args...)}
}
