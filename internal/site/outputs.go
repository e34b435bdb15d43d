package site

import (
	"slices"
	"strings"
	"time"

	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
	"linli/internal/yamlfile"
)

// hasState reports whether an output of the given definition can be set to a state: everything holds; off is false, the
// number 0 or the code 0; on is for bool outputs only.
func hasState(def *telemetry.PointDef, state firmwareconfig.OutputState) bool {
	switch {
	case state == firmwareconfig.OutputHold || def.Kind == telemetry.Bool:
		return true
	case state == firmwareconfig.OutputOn:
		return false
	case def.Kind == telemetry.Enum:
		return slices.ContainsFunc(def.Enum, func(e telemetry.EnumName) bool { return e.Code == 0 })
	}
	return def.Kind == telemetry.Int || def.Kind == telemetry.Float
}

// output lists a point that commands a channel. p is what the file says about it, nil where the profile alone binds it.
func (r *resolver) output(p *pointSpec, s *source, def *telemetry.PointDef, b firmwareconfig.Binding) {
	if p == nil {
		p = &pointSpec{}
	}
	out := Output{Point: b.Point, Bus: s.unit.bus, Unit: s.unit.index, Channel: b.Channel, Watchdog: p.Watchdog.Value}
	out.Interval = r.among("interval", p.Interval, 0, 100*time.Millisecond, time.Hour)
	out.MinOff = r.among("min_off", p.MinOff, 0, 100*time.Millisecond, time.Hour)
	if def.Kind != telemetry.Bool && out.MinOff > 0 {
		r.failf(p.MinOff.Pos, "%s is %s: only what is on or off has a min_off", def.Name, def.Kind)
	}
	for _, name := range p.Locks {
		if def.Kind != telemetry.Bool {
			r.failf(name.Pos, "%s is %s: only what is on or off can be locked against something", def.Name, def.Kind)
			break
		}
		r.locks = append(r.locks, lock{output: len(r.site.Outputs), name: name})
	}
	states := []struct {
		key   string
		at    yamlfile.At[string]
		line  func(*firmwareconfig.GPIOLine) firmwareconfig.OutputState
		state *firmwareconfig.OutputState
	}{
		{"on_start", p.OnStart, func(l *firmwareconfig.GPIOLine) firmwareconfig.OutputState { return l.OnStart }, &out.OnStart},
		{"on_stop", p.OnStop, func(l *firmwareconfig.GPIOLine) firmwareconfig.OutputState { return l.OnStop }, &out.OnStop},
	}
	for _, x := range states {
		if s.unit.gpio != nil {
			*x.state = x.line(&r.site.Buses[s.unit.bus].Lines[b.Channel])
			if b.Invert {
				*x.state = opposite(*x.state)
			}
			if x.at.Pos.Line > 0 {
				r.failf(x.at.Pos, "%s of a GPIO output stands at its line (%s.%s), so that it holds however the line is used", x.key, s.unit.id, s.channel)
			}
			continue
		}
		*x.state = r.outputState(x.key, x.at)
		if !hasState(def, *x.state) {
			r.failf(x.at.Pos, "%s is %s, which has no state %q", def.Name, def.Kind, x.state)
		}
	}
	if s.unit.gpio != nil && p.Watchdog.Pos.Line > 0 {
		r.failf(p.Watchdog.Pos, "a GPIO line has no watchdog of its own: after a crash linli outputs safe sets it to its on_stop")
	}
	r.site.Outputs = append(r.site.Outputs, out)
}

// opposite turns a state around, as an inverted binding does.
func opposite(s firmwareconfig.OutputState) firmwareconfig.OutputState {
	switch s {
	case firmwareconfig.OutputOff:
		return firmwareconfig.OutputOn
	case firmwareconfig.OutputOn:
		return firmwareconfig.OutputOff
	}
	return s
}

// lock says that an output is never on together with another one.
type lock struct {
	output int // index in Site.Outputs
	name   yamlfile.At[string]
}

// interlocks resolves the outputs that are never on together, in both directions.
func (r *resolver) interlocks() {
	byName, names := map[string]int{}, []string{}
	for i := range r.site.Outputs {
		s := r.inv.Series(r.site.Outputs[i].Point)
		byName[s.Device+"."+s.Point] = i
		names = append(names, s.Device+"."+s.Point)
	}
	for _, l := range r.locks {
		if !present(r, l.name) {
			continue
		}
		i, ok := byName[l.name.Value]
		a := &r.site.Outputs[l.output]
		switch {
		case !ok:
			r.noOutput(l.name, names)
			continue
		case i == l.output:
			r.failf(l.name.Pos, "an output cannot be locked against itself")
			continue
		case r.inv.Points[r.site.Outputs[i].Point].Def.Kind != telemetry.Bool:
			r.failf(l.name.Pos, "%s is %s: only what is on or off can be locked against something", l.name.Value, r.inv.Points[r.site.Outputs[i].Point].Def.Kind)
			continue
		}
		b := &r.site.Outputs[i]
		for _, x := range []struct {
			key  string
			a, b firmwareconfig.OutputState
		}{{"on_start", a.OnStart, b.OnStart}, {"on_stop", a.OnStop, b.OnStop}} {
			if x.a == firmwareconfig.OutputOn && x.b == firmwareconfig.OutputOn {
				r.failf(l.name.Pos, "both are on by %s, and are never to be on together", x.key)
			}
		}
		a.Interlock, b.Interlock = with(a.Interlock, b.Point), with(b.Interlock, a.Point)
	}
}

// noOutput says what is wrong with the name of an output that is none.
func (r *resolver) noOutput(name yamlfile.At[string], known []string) {
	id, point, ok := strings.Cut(name.Value, ".")
	if !ok || id == "" || point == "" {
		r.failf(name.Pos, "%q is no output: write device.point, as siren_1.on", name.Value)
		return
	}
	if d, ok := r.inv.DeviceByID(id); ok && r.inv.Devices[d].Class.Point(point) >= 0 {
		r.failf(name.Pos, "%s is no output: nothing commands it", name.Value)
		return
	}
	if r.faulty["device"][id] {
		return
	}
	r.unknown("output", name, known, "devices")
}

// with returns the set of points with one more, in their order.
func with(points []telemetry.PointID, p telemetry.PointID) []telemetry.PointID {
	at, there := slices.BinarySearch(points, p)
	if there {
		return points
	}
	return slices.Insert(points, at, p)
}
