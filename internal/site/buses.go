package site

import (
	"path/filepath"
	"slices"
	"strings"
	"time"

	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
	"linli/internal/yamlfile"
)

// unitRef is a declared unit as bindings see it.
type unitRef struct {
	id      string
	profile *firmwareconfig.Profile // nil where the file names an unknown one
	bus     int                     // index in Site.Buses
	index   int                     // index in the bus's Units
	used    bool                    // some point comes from it
	twice   bool                    // something else has this id too, which has been reported: nobody knows which of them is meant
	device  string                  // what names the unit with unit: already
	// writers says which point commands each channel, as device.point.
	writers map[int]string
	// gpio is the declared lines of a GPIO bus, parallel to the profile's channels; nil for a Modbus unit.
	gpio []*gpioLine
	// bound are the channels of a GPIO bus that some point comes from.
	bound map[int]bool
}

func (r *resolver) buses() {
	seen, unitSeen := map[string]yamlfile.Pos{}, map[string]yamlfile.Pos{}
	taken := newEndpoints()
	for i := range r.file.Buses {
		b := &r.file.Buses[i]
		unique := r.newID("bus", b.ID, seen)
		out := Bus{ID: b.ID.Value, Pos: b.Pos, Health: noDevice}
		r.transport(b, &out, taken)
		out.Timeout = r.among("timeout", b.Timeout, 0, 20*time.Millisecond, 10*time.Second)
		if out.Transport == GPIO {
			r.gpio(b, &out, taken, unitSeen, unique)
		} else {
			r.unitsOf(b, &out, unitSeen)
		}
		r.site.Buses = append(r.site.Buses, out)
	}
	r.listeners(taken)
}

// unitsOf adds the units of a Modbus bus.
func (r *resolver) unitsOf(b *bus, out *Bus, seen map[string]yamlfile.Pos) {
	if len(b.Lines) > 0 {
		r.failf(b.Lines[0].Pos, "lines belong to a GPIO chip (gpio: {chip: ...}); what answers on a Modbus bus is units")
	}
	addresses := map[int]*unit{}
	for j := range b.Units {
		u := &b.Units[j]
		profile := r.profile(u.Profile)
		r.address(u, profile, addresses)
		if other := r.units[u.ID.Value]; other != nil {
			other.twice = true
			if other.gpio != nil && r.id(u.ID) {
				r.failf(u.ID.Pos, "points are bound to the lines of the GPIO chip %s, in line %d, as %s.line: give this unit another id", other.id, seen[other.id].Line, other.id)
				continue
			}
		}
		if !r.newID("unit", u.ID, seen) {
			continue
		}
		r.units[u.ID.Value] = &unitRef{
			id: u.ID.Value, profile: profile, bus: len(r.site.Buses), index: len(out.Units), writers: map[int]string{},
		}
		r.settings(b, u, profile, out)
		out.Units = append(out.Units, firmwareconfig.Unit{ID: u.ID.Value, Address: u.Address.Value, Profile: profile})
	}
}

// transport resolves how a bus is reached and finds two buses on one line.
func (r *resolver) transport(b *bus, out *Bus, taken *endpoints) {
	ways := 0
	if given(b.RTU.Pos) {
		ways++
		out.Transport = ModbusRTU
		r.serial(b, out, taken)
	}
	if given(b.TCP.Pos) {
		ways++
		out.Transport = ModbusTCP
		r.tcp(b, &b.TCP, out, taken)
	}
	if given(b.RTUOverTCP.Pos) {
		ways++
		out.Transport = ModbusRTUOverTCP
		r.tcp(b, &b.RTUOverTCP, out, taken)
	}
	if given(b.GPIO.Pos) {
		ways++
		out.Transport = GPIO
	}
	if ways > 1 || ways == 0 && !r.strangeIn(b.Pos) {
		r.failf(b.Pos, "bus %s needs exactly one of %s, %s, %s and %s", b.ID.Value, ModbusRTU, ModbusTCP, ModbusRTUOverTCP, GPIO)
	}
}

func (r *resolver) serial(b *bus, out *Bus, taken *endpoints) {
	s := &b.RTU
	out.Line = r.line(s.Baud, s.Format)
	if !present(r, s.Device) {
		return
	}
	if !filepath.IsAbs(s.Device.Value) || strings.ContainsRune(s.Device.Value, 0) {
		r.failf(s.Device.Pos, "%q is no device: write its whole path, as /dev/serial/by-id/...", s.Device.Value)
		return
	}
	out.Device = filepath.Clean(s.Device.Value)
	if other, ok := taken.device[out.Device]; ok {
		r.failf(s.Device.Pos, "bus %s has this device already: put all units of one line on one bus", other)
		return
	}
	taken.device[out.Device] = b.ID.Value
}

// line returns the setting of a serial line.
func (r *resolver) line(baud yamlfile.At[int], format yamlfile.At[string]) firmwareconfig.Line {
	l := firmwareconfig.Line{Baud: 9600, Format: "8N1"}
	if present(r, baud) {
		l.Baud = baud.Value
		if !known[serialLine]("baud", baud.Value) {
			r.failf(baud.Pos, "%d is no usual baud rate (%s)", baud.Value, strings.Join(choices[serialLine]("baud"), ", "))
		}
	}
	if r.choice("line format", format, choices[serialLine]("format")) {
		l.Format = format.Value
	}
	return l
}

// profile returns the profile named, or nil.
func (r *resolver) profile(v yamlfile.At[string]) *firmwareconfig.Profile {
	if !present(r, v) {
		return nil
	}
	p := r.lib.Profiles[v.Value]
	if p == nil {
		if !r.lib.Faulty[v.Value] {
			r.unknown("profile", v, sortedKeys(r.lib.Profiles))
		}
	}
	return p
}

// address checks a unit's address on its bus.
func (r *resolver) address(u *unit, profile *firmwareconfig.Profile, taken map[int]*unit) {
	if !present(r, u.Address) {
		return
	}
	n, most := u.Address.Value, 247
	if profile != nil && profile.Address > most {
		most = 255 // A few devices leave the factory with an address that the standard reserves.
	}
	if n < 1 || n > most {
		r.failf(u.Address.Pos, "unit address %d: addresses are 1 to %d", n, most)
		return
	}
	if first, ok := taken[n]; ok {
		r.failf(u.Address.Pos, "address %d is unit %s already, in line %d: two units on one address answer at once", n, first.ID.Value, first.Address.Pos.Line)
		return
	}
	taken[n] = u
}

// channels returns the names of those channels of a profile that a point can be bound to, inputs for what is read and
// outputs for what is written; of all where none fits, or def is nil. They come last first, so that of several equally
// near ones the highest is suggested: for di9 on an eight-input module, di8.
func channels(p *firmwareconfig.Profile, def *telemetry.PointDef, linear *firmwareconfig.Linear) []string {
	var all, fitting []string
	for i := range p.Channels {
		c := &p.Channels[i]
		all = append(all, c.Name)
		if def == nil || !def.Writable && c.Writable {
			continue
		}
		if _, err := p.Bind(def, firmwareconfig.PointBinding{Channel: c.Name, Map: linear}); err == nil {
			fitting = append(fitting, c.Name)
		}
	}
	if len(fitting) == 0 {
		fitting = all
	}
	slices.Reverse(fitting)
	return fitting
}
