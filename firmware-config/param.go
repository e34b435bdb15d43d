package firmwareconfig

// Param is a setting of a unit that can be read and written: a threshold, an offset, a delay, its address, its baud
// rate. The Channel says how it lies in the unit's registers (holding registers, or a coil); Min and Max are the
// range that may be written.
type Param struct {
	Channel
	Role ParamRole
	// Values name the codes of a setting that is no plain number: code 2 is 9600 (baud), code 1 is 8E1. Empty where the
	// decoded number itself is the value.
	Values []ParamValue
	// Function is the function code that writes it: 5, 6, 15 or 16; 0 means the usual one for its size.
	Function int
	// AfterPowerCycle: the unit takes the new value over when it is switched on again; otherwise at once.
	AfterPowerCycle bool
	// WriteOnly: it cannot be read back. It is never part of a plan; it exists so that people know its register.
	WriteOnly bool
	// Default is the factory's value as the site file would write it, "" when not stated.
	Default string
}

// ParamValue is one code of a Param and what it stands for: "9600", "8E1", "on".
type ParamValue struct {
	Code uint64
	Name string
}

// ParamRole says which parameters change how a unit is reached.
type ParamRole uint8

// The roles of a Param.
const (
	ParamPlain   ParamRole = iota
	ParamAddress           // the unit's address on the bus
	ParamBaud              // its baud rate
	ParamFormat            // parity and stop bits, as 8N1
)

// RawWrite is a register or coil that is written before any configuration (unlock) or after it (save).
type RawWrite struct {
	Table   Table
	Address int
	Value   uint16
}

// Test is one check of a unit's registers that a profile's signature is made of. All tests of a signature must hold.
// A Test looks at raw words; it writes nothing.
type Test struct {
	Table   Table
	Address int
	// Exactly one of the following is set.
	Equals        *uint16
	EqualsAddress bool // the register holds the unit's own address
	OneOf         []uint16
	Between       *[2]float64 // the signed 16-bit value, both ends included
	Refused       bool        // the unit answers illegal address
}

// DeviceID is what a unit answers to "read device identification" (function 0x2B, MEI 0x0E) where it knows that:
// parts of the vendor name, product code and model name that must be contained, case ignored.
type DeviceID struct {
	Vendor, Product, Model string
}
