package telemetry

// Class promises what every device of one sort offers, whatever its maker: canonical points with fixed names,
// kinds and units. Classes are data (firmware-config/classes).
type Class struct {
	ID     string // also the measurement name on the wire
	Title  Text
	Points []PointDef
}

// Point returns the index of the class's point named name, or -1.
func (c *Class) Point(name string) int {
	for i := range c.Points {
		if c.Points[i].Name == name {
			return i
		}
	}
	return -1
}

// PointDef defines one canonical point of a class.
type PointDef struct {
	Name  string // carries its unit as the ecosystem writes it: temperature_c, pm25_ugm3, occupied
	Title Text
	Kind  Kind
	// Unit of the value as people write it ("°C", "mA"); empty for bool, enum, text and pure numbers.
	Unit string
	// Optional points need not be provided by any unit. Where none does, the point is the constant Default; only
	// a provided but failing point is unknown.
	Optional bool
	Default  Value
	// Enum names the codes of an enum point.
	Enum []EnumName
	// LifeSafety points are polled first and are exempt from report-by-exception.
	LifeSafety bool
	// Writable points are outputs: they can be commanded.
	Writable bool
	// Event points tell what happened, not what is: each sample stands for itself (a card was presented), also where it
	// repeats the last one. They are never thinned out, and nothing is to be read from how old the last one is.
	Event bool
	// Deadband, of a number, is what holds for the devices of the class unless profile or site file say otherwise.
	Deadband Deadband
	// AlarmWhen, for a bool point, is the state worth colour on a screen ("smoke": true). 0 none, 1 true, 2 false.
	AlarmWhen AlarmWhen
}

// AlarmWhen says which state of a bool point is abnormal.
type AlarmWhen uint8

// The states of a bool point that may be abnormal.
const (
	AlarmNever AlarmWhen = iota
	AlarmTrue
	AlarmFalse
)

// EnumName names one code of an enum point.
type EnumName struct {
	Code  int64
	Name  string
	Title Text
}

// Severity of an alert, least first.
type Severity uint8

// The severities: shown green, yellow, red.
const (
	Notice Severity = iota + 1
	Warning
	Critical
)

var severityNames = [...]string{"", "notice", "warning", "critical"}

// String returns the severity as rule files and messages write it.
func (s Severity) String() string {
	if int(s) < len(severityNames) {
		return severityNames[s]
	}
	return "severity"
}

// ParseSeverity returns the severity named s, and false for any other word.
func ParseSeverity(s string) (Severity, bool) {
	for i, name := range severityNames {
		if i > 0 && name == s {
			return Severity(i), true
		}
	}
	return 0, false
}
