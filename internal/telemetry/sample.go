package telemetry

import "strconv"

// Quality says how far a sample's value may be trusted. The numbers go over the wire as `<point>_q`; they are
// part of the contract and never change.
type Quality uint8

// The qualities. OverRange and UnderRange carry the bound that was passed as their value and decide comparisons
// that point that way (dense smoke must alarm although the detector is past its scale).
const (
	Good           Quality = 0
	Uncertain      Quality = 1 // a value, but doubtful: warming up, out of calibration
	OverRange      Quality = 2 // the true value is at or above the value carried
	UnderRange     Quality = 3 // the true value is at or below the value carried
	BadComm        Quality = 4 // no value: the unit did not answer, or answered nonsense
	BadSensor      Quality = 5 // no value: the unit answered that it has none (sentinel, validity word, fault)
	BadMaintenance Quality = 6 // no value: deliberately out of service
)

var qualityNames = [...]string{"good", "uncertain", "over_range", "under_range", "bad_comm", "bad_sensor", "bad_maintenance"}

// String returns the quality's name as it is shown to programs.
func (q Quality) String() string {
	if int(q) < len(qualityNames) {
		return qualityNames[q]
	}
	return "quality(" + strconv.Itoa(int(q)) + ")"
}

// Bad reports whether a sample of this quality has no value.
func (q Quality) Bad() bool { return q >= BadComm }

// PointID is a point's index in its Inventory. It is dense, and stable only while the process runs: files and
// messages name points by Series.
type PointID uint32

// NoPoint stands for "no such point": a class's optional point that nothing provides.
const NoPoint = PointID(1<<32 - 1)

// Sample is one acquisition of one point. Samples read in one transaction share their time exactly, so that they
// become one row in the database.
type Sample struct {
	Point   PointID
	Quality Quality
	Time    Mono
	Value   Value // the zero Value when Quality.Bad()
}

// Event is something that happened once (card presented, button pressed), with attributes.
type Event struct {
	Device int // index in Inventory.Devices
	Name   string
	Time   Mono
	Attrs  []Attr
}

// Attr is one attribute of an event.
type Attr struct{ Key, Value string }
