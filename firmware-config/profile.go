package firmwareconfig

import (
	"time"

	"linli/internal/telemetry"
	"linli/internal/yamlfile"
)

// Profile describes one model of device as its Modbus registers: which channels it has, how they are encoded and
// how the unit wants to be treated on the line. Profiles are data (profiles/*.yaml); the YAML form is specified
// in the package comment.
type Profile struct {
	ID     string
	Vendor string
	Model  string
	Title  telemetry.Text
	// Status is how far the register facts are known: confirmed, partial or unverified.
	Status  string
	Sources []string

	Line    Line // factory settings of the serial line
	Address int  // factory unit id, 0 when not stated
	Timing  Timing
	Limits  Limits

	Channels []Channel
	// Device is set where the unit is exactly one device: the class it is, and which channel provides which point.
	Device *DeviceBinding
	// Params are the settings that can be read and written (`config:` in the file); Unlock is written before any of
	// them, Save after all of them.
	Params       []Param
	Unlock, Save []RawWrite
	// Signature tells the model apart from others on the bus: every Test must hold. Empty: it cannot be told.
	Signature []Test
	// DeviceID is what it says of itself, nil where it does not.
	DeviceID *DeviceID
	// LookAlikes are ids of profiles that answer the same registers with another meaning: nothing is written to a unit
	// before its Signature has told it apart from them.
	LookAlikes []string
	// Golden frames were seen on the wire or printed in a manual; the driver must build and decode exactly these.
	Golden []Golden
}

// Golden is one transaction with known contents, as RTU frames with their CRC.
type Golden struct {
	Name     string
	Request  []byte // unit, function 1 to 4, address, count, CRC
	Response []byte // nil where only the request is known
	Values   []GoldenValue
}

// GoldenValue is what one channel must read as in a Golden's response.
type GoldenValue struct {
	Channel int // index in Profile.Channels
	// Value is a bool, a text, or a float in the channel's unit; zero where Quality is not Good.
	Value telemetry.Value
	// Quality is Good, or BadSensor for "no reading", UnderRange, OverRange.
	Quality telemetry.Quality
	Pos     yamlfile.Pos // where the file says so
}

// Channel returns the index of the channel named name, or -1.
func (p *Profile) Channel(name string) int {
	for i := range p.Channels {
		if p.Channels[i].Name == name {
			return i
		}
	}
	return -1
}

// StatusOf returns how far a channel or setting of the profile is known: its own status, else the profile's.
func (p *Profile) StatusOf(ch *Channel) string {
	if ch.Status != "" {
		return ch.Status
	}
	return p.Status
}

// Line is the setting of a serial line.
type Line struct {
	Baud   int    // bit/s
	Format string // data bits, parity, stop bits: 8N1, 8E1, 8O1, 8N2
}

// Timing is how a unit wants to be treated. Zero values mean the default in the comment.
type Timing struct {
	Timeout   time.Duration // longest wait for the first byte of an answer; default 300 ms
	Gap       time.Duration // the unit's own pause between two transactions with it; others are asked meanwhile; default none
	WarmUp    time.Duration // values are Uncertain for this long after the unit (re)appears; default none
	ReadDelay time.Duration // typical turnaround of the unit, for the bus budget; default 20 ms
	SwitchGap time.Duration // silence of the whole line before this unit is asked after another one; default t3.5
}

// Limits bound the planner's blocks. Zero values mean the protocol's limits.
type Limits struct {
	MaxRegisters int // registers in one read (protocol: 125)
	MaxBits      int // bits in one read (protocol: 2000)
	MaxGap       int // registers that may be read and thrown away to join two blocks; default 8; -1 never
}

// Table is one of the four Modbus tables.
type Table uint8

// The Modbus tables, with the function code that reads each.
const (
	Coil            Table = 1 // FC 1, writable by 5 and 15
	DiscreteInput   Table = 2 // FC 2
	HoldingRegister Table = 3 // FC 3, writable by 6 and 16
	InputRegister   Table = 4 // FC 4
)

// Bits reports whether the table holds single bits rather than registers.
func (t Table) Bits() bool { return t == Coil || t == DiscreteInput }

// Encoding is how a channel's raw value lies in its registers.
type Encoding uint8

// The encodings. EncBool is for coils and discrete inputs, or a bit of a register (Channel.Bit). EncS16Offset10000
// is the sign by offset that KinCony uses: raw >= 10000 means -(raw-10000).
const (
	EncBool Encoding = iota + 1
	EncU16
	EncS16
	EncU32
	EncS32
	EncU64
	EncS64
	EncF32
	EncF64
	EncS16Offset10000
	EncBCD16  // four decimal digits; a nibble above 9 is no reading
	EncBCD32  // eight decimal digits
	EncString // text in Channel.Count registers
)

// Registers returns how many registers (or bits, for EncBool) a value takes. For EncString ask the Channel.
func (e Encoding) Registers() int {
	switch e {
	case EncU32, EncS32, EncF32, EncBCD32:
		return 2
	case EncU64, EncS64, EncF64:
		return 4
	}
	return 1
}

// Channel is one value of a unit.
type Channel struct {
	Name  string
	Title telemetry.Text
	// Status is how far this one is known where that differs from the profile's, and Source where it is from; "" for
	// as the profile says.
	Status, Source string

	Table    Table
	Address  int // zero-based, as it travels in the PDU
	Encoding Encoding
	// LittleWords: the low word comes first (CDAB).
	LittleWords bool
	// Bit and Width pick a bit field out of a register: Width bits from Bit (0 = least significant). Width 0 means
	// the whole value. A field of width 1 is a bool when Encoding is EncBool; one of width 8 is a u8 or s8.
	Bit, Width int
	// NonZero: a bool that is true where its register, or the field of it, is anything but 0.
	NonZero bool
	// Engineering value = raw*Scale + Offset, in Unit. Scale 0 in the file means 1 here.
	Scale, Offset float64
	Unit          string
	// Invalid raw values mean "no reading". They are compared with the raw words (in order, high word and high byte
	// first) before any conversion, so that a sentinel of 0xFFFF is found in an s16 as well. Of a bit field, one that
	// fits into the field is compared with the field, a larger one with the whole register.
	Invalid []uint64
	// Under and Over are raw values, compared like Invalid, that mean "below what I can measure" and "above": the value
	// is Min or Max then, UnderRange or OverRange.
	Under, Over []uint64
	// Min and Max are the measuring range in Unit: a value beyond becomes OverRange or UnderRange at the bound.
	// Nil means no bound.
	Min, Max *float64
	// Invert turns a bool around (a closed-loop contact whose 1 means healthy).
	Invert bool
	// Valid says where it stands whether the value counts; where it does not, it is BadSensor. Nil: it always counts.
	Valid *Validity
	// Every is how often the channel is worth reading; 0 means the bus default of 1 s for life safety, 5 s else.
	Every time.Duration
	// LittleBytes: the low byte of each register comes first (BADC, with LittleWords DCBA).
	LittleBytes bool
	// Count is how many registers a string takes; 0 for every other encoding.
	Count int
	// OneChar: a string has one character in the low byte of each register instead of two.
	OneChar bool
	// ScaleFrom is the register that decides the scale; nil where Scale is fixed. Both apply.
	ScaleFrom *ScaleFrom
	// Counter: the value only rises and starts again when its range is used up. The driver goes on counting over
	// that: a fall from the top eighth of the range into the bottom eighth adds the size of the range. Any other fall
	// is a reset of the device and passed on as it is. What was added is kept by the running driver only: after a
	// restart the value is what the registers say. 64-bit and floating numbers have no end to wrap at.
	Counter bool
	// WriteValues are the raw registers that are written for each value of the channel as it is read back, where the
	// two differ (a command register with magic numbers). Values that are not listed cannot be written. The register is
	// written as a whole, also where the channel is a part of it.
	WriteValues []WriteValue
	// NoReadBack: what is written cannot be read there (a command). A write ends with the unit's confirmation.
	NoReadBack bool
	// Writable channels are outputs (coils and holding registers only).
	Writable bool
}

// Registers returns how many registers (or bits) the channel takes.
func (c *Channel) Registers() int {
	if c.Encoding == EncString {
		return c.Count
	}
	return c.Encoding.Registers()
}

// ScaleFrom is a register of the same unit that says how a channel is scaled.
type ScaleFrom struct {
	Table   Table
	Address int
	// Decimals: the value is raw * 10^-n, n being the register (0 to 9). Otherwise Values names the factor for each
	// code. Any other content makes the value BadSensor.
	Decimals bool
	Values   []ScaleValue
}

// ScaleValue is the factor for one code of a ScaleFrom.
type ScaleValue struct {
	Code  uint16
	Scale float64
}

// WriteValue is the raw register to write for a value as it is read back.
type WriteValue struct {
	Value int64
	Raw   uint16
}

// Validity is a register (or bit) of the same unit that says whether a channel's value counts: where its Bit is set, or
// with Equals where it holds exactly that (a status that must be 0).
type Validity struct {
	Table   Table
	Address int
	Bit     int
	Equals  *uint16 // nil: Bit counts
}

// Holds reports whether the value counts, with what the register holds.
func (v *Validity) Holds(word uint16) bool {
	switch {
	case v.Equals != nil:
		return word == *v.Equals
	case v.Table.Bits():
		return word&1 != 0
	}
	return word>>uint(v.Bit)&1 != 0
}

// DeviceBinding says that a unit is exactly one device.
type DeviceBinding struct {
	Class string
	// Points maps a point of the class to the channel that provides it.
	Points map[string]PointBinding
}

// PointBinding says where a point comes from: a channel of a unit, possibly inverted or mapped.
type PointBinding struct {
	Channel string
	Invert  bool
	// Map is a straight line through two (channel value, point value) pairs, clamped between them: a distance of
	// 1200 mm is 0 %, 300 mm is 100 %. Nil for none.
	Map *Linear
	// Deadband of the point on devices of this model, where OwnDeadband says that the profile has one. It may be none.
	OwnDeadband bool
	Deadband    telemetry.Deadband
}

// Linear is the straight line through (X0, Y0) and (X1, Y1), clamped at both ends.
type Linear struct{ X0, Y0, X1, Y1 float64 }

// At returns the line's value at x, clamped to the range between Y0 and Y1.
func (l *Linear) At(x float64) float64 {
	t := (x - l.X0) / (l.X1 - l.X0)
	t = min(max(t, 0), 1)
	return l.Y0 + t*(l.Y1-l.Y0)
}

// Unit is one bus address with its profile and what its channels provide: the resolved form that the site file
// becomes, and all that a driver or a simulator needs to know.
type Unit struct {
	ID       string // unique in the site
	Address  int    // unit id on the bus, 1..247 (0 and 248..255 only where the profile says so)
	Profile  *Profile
	Bindings []Binding
}

// Binding ties one channel of a unit to one point.
type Binding struct {
	Channel int // index in Profile.Channels
	Point   telemetry.PointID
	Def     *telemetry.PointDef
	// UnitFactor and UnitOffset turn the channel's unit into the point's (kW to W): point = channel*UnitFactor +
	// UnitOffset. Applied before Map. UnitFactor is never 0.
	UnitFactor, UnitOffset float64
	Map                    *Linear
	Invert                 bool // in addition to the channel's own
}
