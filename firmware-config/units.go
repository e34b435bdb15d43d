package firmwareconfig

import (
	"math"

	"linli/internal/yamlfile"
)

// unit is one way to write a unit: value in the quantity's base = value*factor + offset.
type unit struct {
	name, quantity string
	factor, offset float64
}

// units lists every spelling known. The first of each quantity is its base.
func units() []unit {
	return []unit{
		{"°C", "temperature", 1, 0}, {"degC", "temperature", 1, 0}, {"℃", "temperature", 1, 0},
		{"°F", "temperature", 5.0 / 9, -160.0 / 9}, {"K", "temperature", 1, -273.15},
		{"%", "ratio", 1, 0}, {"%RH", "ratio", 1, 0}, {"‰", "ratio", 0.1, 0},
		{"mm", "length", 1, 0}, {"cm", "length", 10, 0}, {"m", "length", 1000, 0},
		{"V", "voltage", 1, 0}, {"mV", "voltage", 0.001, 0}, {"kV", "voltage", 1000, 0},
		{"A", "current", 1, 0}, {"mA", "current", 0.001, 0},
		{"W", "active power", 1, 0}, {"kW", "active power", 1000, 0}, {"MW", "active power", 1e6, 0},
		{"var", "reactive power", 1, 0}, {"kvar", "reactive power", 1000, 0},
		{"VA", "apparent power", 1, 0}, {"kVA", "apparent power", 1000, 0},
		{"kWh", "energy", 1, 0}, {"Wh", "energy", 0.001, 0}, {"MWh", "energy", 1000, 0},
		{"kvarh", "reactive energy", 1, 0},
		{"Hz", "frequency", 1, 0},
		{"dBA", "sound level", 1, 0}, {"dB(A)", "sound level", 1, 0}, {"dB", "sound level", 1, 0},
		{"ppm", "volume share", 1, 0}, {"ppb", "volume share", 0.001, 0},
		{"µg/m³", "concentration", 1, 0}, {"ug/m3", "concentration", 1, 0}, {"μg/m³", "concentration", 1, 0},
		{"mg/m³", "concentration", 1000, 0}, {"mg/m3", "concentration", 1000, 0},
		{"%LEL", "explosion limit", 1, 0},
		{"dB/m", "obscuration", 1, 0}, {"%/m", "obscuration in per cent", 1, 0},
		{"kg", "mass", 1, 0}, {"g", "mass", 0.001, 0}, {"t", "mass", 1000, 0},
		{"lx", "illuminance", 1, 0},
		{"Pa", "pressure", 1, 0}, {"hPa", "pressure", 100, 0}, {"kPa", "pressure", 1000, 0},
		{"m/s", "speed", 1, 0}, {"deg", "angle", 1, 0}, {"°", "angle", 1, 0},
		{"s", "time", 1, 0}, {"ms", "time", 0.001, 0}, {"min", "time", 60, 0}, {"h", "time", 3600, 0},
		{"rpm", "turning speed", 1, 0},
		{"MiB", "memory", 1, 0},
	}
}

func findUnit(name string) (unit, bool) {
	for _, u := range units() {
		if u.name == name {
			return u, true
		}
	}
	return unit{}, false
}

// ConvertUnit returns the factor and offset that turn a value in unit from into unit to, and false where they are
// not the same quantity: value in to = value in from * factor + offset. No unit ("") is a quantity of its own.
func ConvertUnit(from, to string) (factor, offset float64, ok bool) {
	if from == to {
		return 1, 0, true
	}
	f, ok1 := findUnit(from)
	t, ok2 := findUnit(to)
	if !ok1 || !ok2 || f.quantity != t.quantity {
		return 0, 0, false
	}
	return tidy(f.factor / t.factor), tidy((f.offset - t.offset) / t.factor), true
}

// tidy removes the last-digit noise of a division, so that mA to A is 0.001 and back is 1000.
func tidy(f float64) float64 {
	if r := math.Round(f); r != 0 && math.Abs(f-r) < 1e-12*math.Abs(r) {
		return r
	}
	return f
}

// checkUnit reports a unit that is not known.
func checkUnit(name yamlfile.At[string], errs *yamlfile.Errors) {
	if name.Value == "" {
		return
	}
	if _, ok := findUnit(name.Value); ok {
		return
	}
	var known []string
	for _, u := range units() {
		known = append(known, u.name)
	}
	errs.Addf(name.Pos, "unknown unit %q%s", name.Value, yamlfile.Suggest(name.Value, known))
}
