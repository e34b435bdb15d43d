package site

import (
	"time"

	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// defaultReport is in which time what does not change is reported once: every minute of a rollup has a reading then, and
// the city's tables need to look back no further for the value that holds.
const defaultReport = time.Minute

// report resolves the maximum interval and the site's own deadbands of classes. It comes before the devices.
func (r *resolver) report() {
	f := &r.file.Report
	out := Report{MaxInterval: r.among("max_interval", f.MaxInterval, defaultReport, 5*time.Second, time.Hour)}
	out.Set = f.MaxInterval.Pos.Line > 0 || len(f.Deadbands) > 0
	r.deadbands = map[string]map[string]telemetry.Deadband{}
	used := map[string]bool{}
	for i := range r.file.Devices {
		if d := &r.file.Devices[i]; present(r, d.Class) {
			used[d.Class.Value] = true
		} else if u := r.units[d.Unit.Value]; u != nil && u.profile != nil && u.profile.Device != nil {
			used[u.profile.Device.Class] = true
		}
	}
	for _, c := range f.Deadbands {
		class := r.lib.Classes[c.Key.Value]
		switch {
		case class == nil && r.lib.Faulty[c.Key.Value]:
			continue
		case class == nil:
			r.failf(c.Key.Pos, "unknown class %q%s", c.Key.Value, orList(c.Key.Value, sortedKeys(r.lib.Classes)))
			continue
		case r.isOwn(class.ID):
			r.failf(c.Key.Pos, "%s is of the gateway's own works, which report in a rhythm of their own", class.ID)
			continue
		case !used[class.ID]:
			r.warnf(c.Key.Pos, "there is no device of class %s", class.ID)
		}
		points := map[string]telemetry.Deadband{}
		for k := range c.Value {
			e := &c.Value[k]
			def := class.Point(e.Key.Value)
			if def < 0 {
				r.failf(e.Key.Pos, "class %s has no point %q%s", class.ID, e.Key.Value, orList(e.Key.Value, pointNames(class)))
				continue
			}
			d, err := firmwareconfig.DecodeDeadband(&e.Value, &class.Points[def])
			r.errs.Append(e.Value.Pos, err)
			points[e.Key.Value] = d
		}
		r.deadbands[class.ID] = points
	}
	r.site.Report = out
}

// isOwn reports whether a class is one of the gateway's own works.
func (r *resolver) isOwn(class string) bool {
	return class == classBus || class == classUnit || class == classOwn
}

// deadband finds what holds for a point that a channel provides: what the file says of it, or else of its class, or else
// the profile, or else the class itself. device is -1 where the device cannot be added: then only what is written is checked.
func (r *resolver) deadband(s *source, device int, class *telemetry.Class, def int) {
	d, own := telemetry.Deadband{}, s.spec != nil && s.spec.Deadband != nil
	if own {
		var err error
		d, err = firmwareconfig.DecodeDeadband(s.spec.Deadband, &class.Points[def])
		r.errs.Append(s.spec.Deadband.Pos, err)
	}
	if device < 0 || r.inv.Devices[device].Points[def] == telemetry.NoPoint {
		return
	}
	p := &r.inv.Points[r.inv.Devices[device].Points[def]]
	sites, named := r.deadbands[class.ID][class.Points[def].Name]
	switch {
	case own:
		p.Deadband = d
	case named:
		p.Deadband = sites
	case s.deadband != nil:
		p.Deadband = *s.deadband
	}
}

// ownDeadband returns the deadband that a profile has for a point, nil where it has none.
func ownDeadband(b *firmwareconfig.PointBinding) *telemetry.Deadband {
	if !b.OwnDeadband {
		return nil
	}
	return &b.Deadband
}
