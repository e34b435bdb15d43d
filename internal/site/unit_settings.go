package site

import (
	"fmt"
	"strconv"
	"time"

	firmwareconfig "linli/firmware-config"
	"linli/internal/yamlfile"
)

// verify reads how often units' settings are compared.
func (r *resolver) verify() {
	v := r.file.Config.Verify
	r.site.Verify = day
	if present(r, v) && v.Value == 0 {
		r.site.Verify = 0
		return
	}
	r.site.Verify = r.among("verify (0s is never)", v, day, 10*time.Minute, 30*day)
}

// settings resolves what the file wants a unit to be set to, and warns where its factory setting does not fit the line.
// It is called before the unit is added to the bus.
func (r *resolver) settings(b *bus, u *unit, profile *firmwareconfig.Profile, out *Bus) {
	if profile == nil {
		return
	}
	want := map[string]string{}
	roles := map[firmwareconfig.ParamRole]bool{}
	for _, e := range u.Config {
		if r.refused[e.Value.pos] || r.lib.Faulty[profile.ID] {
			continue
		}
		name, text := e.Key.Value, e.Value.text
		param := profile.Param(name)
		if _, err := profile.ParamValue(name, text); err != nil {
			pos := e.Value.pos
			if param == nil {
				pos = e.Key.Pos
			}
			r.failf(pos, "%v", err)
			continue
		}
		roles[param.Role] = true
		if !r.reachable(e.Value.pos, param, text, u, b, out) {
			continue
		}
		want[name] = text
	}
	if len(want) > 0 {
		r.site.Settings = append(r.site.Settings, UnitSettings{Bus: len(r.site.Buses), Unit: len(out.Units), Want: want})
	}
	r.factory(b, u, profile, out.Line, roles)
}

// reachable refuses a setting with which the gateway itself would not reach the unit any more.
func (r *resolver) reachable(pos yamlfile.Pos, p *firmwareconfig.Param, text string, u *unit, b *bus, out *Bus) bool {
	is := text
	switch {
	case p.Role == firmwareconfig.ParamAddress:
		if n, err := strconv.ParseInt(text, 0, 32); err == nil && int(n) != u.Address.Value && present(r, u.Address) {
			r.failf(pos, "%s is to be %s, but the file looks for this unit at address %d: both must say the same", p.Name, text, u.Address.Value)
			return false
		}
	case p.Role == firmwareconfig.ParamBaud && lineKnown(b):
		is = strconv.Itoa(out.Line.Baud)
	case p.Role == firmwareconfig.ParamFormat && lineKnown(b):
		is = out.Line.Format
	}
	if is != text {
		r.failf(pos, "%s is to be %s, but this bus runs at %d %s: the unit would not be heard any more. Both must say the same", p.Name, text, out.Line.Baud, out.Line.Format)
	}
	return is == text
}

// lineKnown reports whether the file says how the serial line of a bus is set.
func lineKnown(b *bus) bool {
	return given(b.RTU.Pos) || given(b.RTUOverTCP.Pos) && (b.RTUOverTCP.Baud.Pos.Line > 0 || b.RTUOverTCP.Format.Pos.Line > 0)
}

// factory warns of a model that leaves the factory with another line setting than its bus has, unless config says that
// it is to be changed.
func (r *resolver) factory(b *bus, u *unit, p *firmwareconfig.Profile, line firmwareconfig.Line, wanted map[firmwareconfig.ParamRole]bool) {
	baud := p.Line.Baud != 0 && p.Line.Baud != line.Baud && !wanted[firmwareconfig.ParamBaud]
	format := p.Line.Format != "" && p.Line.Format != line.Format && !wanted[firmwareconfig.ParamFormat]
	if !lineKnown(b) || !baud && !format {
		return
	}
	how := "set it first, with its maker's means (its registers for that are not known here)"
	for i := range p.Params {
		param := &p.Params[i]
		switch {
		case param.Role == firmwareconfig.ParamBaud && baud:
			how = fmt.Sprintf("set it first (config: {%s: %d} here, then linli config apply)", param.Name, line.Baud)
		case param.Role == firmwareconfig.ParamFormat && format && !baud:
			how = fmt.Sprintf("set it first (config: {%s: %s} here, then linli config apply)", param.Name, line.Format)
		}
	}
	r.warnf(u.Pos, "%s leaves the factory at %s, and this bus runs at %d %s: %s, or put it on a bus of its own",
		p.ID, factoryText(p.Line), line.Baud, line.Format, how)
}

func factoryText(l firmwareconfig.Line) string {
	switch {
	case l.Baud == 0:
		return l.Format
	case l.Format == "":
		return strconv.Itoa(l.Baud) + " baud"
	}
	return fmt.Sprintf("%d %s", l.Baud, l.Format)
}

// unitPos returns the place of a unit of a bus.
func (r *resolver) unitPos(b *bus, id string) yamlfile.Pos {
	for i := range b.Units {
		if b.Units[i].ID.Value == id {
			return b.Units[i].Pos
		}
	}
	return b.Pos
}
