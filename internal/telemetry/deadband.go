package telemetry

import (
	"math"
	"strconv"
)

// Deadband says how far a number must have moved from what was reported last before a reading is reported again. The
// zero Deadband is none: every reading is reported.
type Deadband struct {
	// On says that there is one. With a Width of 0 it is any change.
	On bool
	// Percent says that Width is a share, in percent, of the value that was reported last, without its sign. Otherwise Width
	// is in the point's unit. Neither negative nor infinite.
	Percent bool
	Width   float64
}

// Outside reports whether value has moved by the deadband, or further, from what was reported last. A value that is
// the same to the last bit never has, one that is no number always.
func (d Deadband) Outside(value, reported float64) bool {
	if value == reported {
		return false
	}
	width := d.Width
	if d.Percent {
		width *= math.Abs(reported) / 100
	}
	// 20.4 - 20.1 is a little less than 0.3 in binary: a sensor's step of exactly the deadband is outside all the same.
	within := math.Abs(value-reported) < width-1e-12*max(math.Abs(value), math.Abs(reported))
	return !within
}

// String returns the deadband as files write it: 0.2, 2%, or none.
func (d Deadband) String() string {
	if !d.On {
		return "none"
	}
	s := strconv.FormatFloat(d.Width, 'g', -1, 64)
	if d.Percent {
		s += "%"
	}
	return s
}
