package site

import (
	"slices"
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
