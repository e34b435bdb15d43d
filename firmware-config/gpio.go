package firmwareconfig

import "time"

// GPIOLine is one channel of a GPIO chip: an input, a supervised pair of inputs, a pulse counter, a Wiegand reader or
// an output. The site file's lines become these, in the order of the channels of the synthetic profile that site makes
// of them, so that points are bound to lines as they are bound to a unit's channels.
type GPIOLine struct {
	ID string // the channel's name
	// Line is the line's name, or its number on the chip written as a decimal number. For a pair it is the contact
	// that is closed at rest (NC), for a Wiegand reader D0.
	Line string
	// Second is the contact that is open at rest (NO) of a supervised pair, or D1 of a Wiegand reader; else "".
	Second string
	Kind   GPIOKind
	Bias   GPIOBias
	// ActiveLow turns the level around: low is true.
	ActiveLow bool
	Debounce  time.Duration // a level counts once it has held this long; 0 none
	// Edge is which edges a counter counts.
	Edge GPIOEdge
	// OnStart and OnStop are what an output is set to when the gateway starts and stops.
	OnStart, OnStop OutputState
	Feedback        string // line that must follow the output, "" for none
	// Bits are the frame lengths that a Wiegand reader may send (26, 34, 37).
	Bits []int
	// Key is the site's secret with which card numbers are hashed (HMAC-SHA256). Never logged.
	Key []byte
}

// GPIOKind is what a GPIOLine is.
type GPIOKind uint8

// The kinds of a GPIOLine, with the encoding of the channel that site makes for each.
const (
	GPIOInput   GPIOKind = iota + 1 // EncBool
	GPIOPair                        // EncBool: true when the NC contact is open and the NO contact closed; both equal is a fault
	GPIOCounter                     // EncU64
	GPIOWiegand                     // EncString: the card's hash
	GPIOOutput                      // EncBool, writable
)

// GPIOBias is the pull of an input.
type GPIOBias uint8

// The biases. GPIOBiasDefault leaves the line as the board has it.
const (
	GPIOBiasDefault GPIOBias = iota
	GPIOPullUp
	GPIOPullDown
	GPIOBiasOff
)

// GPIOEdge is a change of level, as seen after ActiveLow.
type GPIOEdge uint8

// The edges that a counter counts.
const (
	GPIORising GPIOEdge = iota
	GPIOFalling
	GPIOBoth
)

// OutputState is what an output is set to at start or stop.
type OutputState uint8

// The states. OutputHold leaves the output as it is.
const (
	OutputHold OutputState = iota
	OutputOff
	OutputOn
)

// String returns the state as site files write it.
func (s OutputState) String() string {
	switch s {
	case OutputOff:
		return "off"
	case OutputOn:
		return "on"
	}
	return "hold"
}
