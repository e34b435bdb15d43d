package ruletest

import (
	"linli/internal/telemetry"
	"linli/internal/yamlfile"
)

// inventory lays out the small site of the file, with the points that this test's series need.
func (r *runner) inventory() {
	errs, f := r.s.errs, r.s.file
	inv := &telemetry.Inventory{Site: "test", Gateway: "gw", Title: telemetry.Text{Zh: "测试小区", En: "Test community"}, Location: r.s.loc}
	for _, z := range f.Zones {
		parent := -1
		if z.In.Value != "" {
			i, ok := inv.ZoneByID(z.In.Value)
			if !ok {
				errs.Addf(z.In.Pos, "zone %q must stand before the zones in it", z.In.Value)
			} else {
				parent = i
			}
		}
		title := z.Title.Text
		if title.IsZero() {
			title = telemetry.Text{Zh: z.ID.Value, En: z.ID.Value}
		}
		inv.AddZone(telemetry.Zone{ID: z.ID.Value, Parent: parent, Kind: z.Kind, Title: title})
	}
	r.inv, r.defs = inv, map[string]pointRef{}
	for i := range f.Devices {
		r.device(&f.Devices[i])
	}
	for i := range f.Devices {
		r.through(&f.Devices[i])
	}
	for _, e := range r.c.Series {
		if ref, ok := r.defs[e.Key.Value]; ok {
			inv.ProvidePoint(ref.device, ref.def)
		}
	}
}

func (r *runner) device(d *deviceFile) {
	errs := r.s.errs
	class := r.s.opts.Classes[d.Class.Value]
	if class == nil {
		known := make([]string, 0, len(r.s.opts.Classes))
		for id := range r.s.opts.Classes {
			known = append(known, id)
		}
		errs.Addf(d.Class.Pos, "unknown class %q%s", d.Class.Value, yamlfile.Suggest(d.Class.Value, known))
		return
	}
	zone, ok := r.inv.ZoneByID(d.Zone.Value)
	switch {
	case d.System && d.Zone.Value != "":
		errs.Addf(d.Zone.Pos, "a system device lies in no zone")
		return
	case d.System:
		zone = -1
	case d.Zone.Value == "":
		errs.Addf(d.ID.Pos, "device %s needs a zone", d.ID.Value)
		return
	case !ok:
		errs.Addf(d.Zone.Pos, "unknown zone %q", d.Zone.Value)
		return
	}
	title := d.Title.Text
	if title.IsZero() {
		title = telemetry.Text{Zh: d.ID.Value, En: d.ID.Value}
	}
	dev := telemetry.Device{ID: d.ID.Value, Class: class, Zone: zone, System: d.System, Title: title, Constants: make([]telemetry.Value, len(class.Points))}
	names := make([]string, len(class.Points))
	for k := range class.Points {
		names[k] = class.Points[k].Name
	}
	for _, c := range d.Constants {
		k := class.Point(c.Key.Value)
		if k < 0 {
			errs.Addf(c.Key.Pos, "class %s has no point %q%s", class.ID, c.Key.Value, yamlfile.Suggest(c.Key.Value, names))
			continue
		}
		v, err := literal(string(c.Value.Value), &class.Points[k])
		if err != nil {
			errs.Addf(c.Value.Pos, "%v", err)
		}
		dev.Constants[k] = v
	}
	i := r.inv.AddDevice(dev)
	for k := range class.Points {
		r.defs[d.ID.Value+"."+class.Points[k].Name] = pointRef{i, k}
		if d.Provides == nil && !class.Points[k].Optional {
			r.inv.ProvidePoint(i, k)
		}
	}
	if d.Provides == nil {
		return
	}
	for _, p := range *d.Provides {
		if k := class.Point(p.Value); k >= 0 {
			r.inv.ProvidePoint(i, k)
		} else {
			errs.Addf(p.Pos, "class %s has no point %q%s", class.ID, p.Value, yamlfile.Suggest(p.Value, names))
		}
	}
}

// through notes the buses and units through which a device is reached.
func (r *runner) through(d *deviceFile) {
	i, ok := r.inv.DeviceByID(d.ID.Value)
	if !ok {
		return
	}
	for _, t := range d.Through {
		k, ok := r.inv.DeviceByID(t.Value)
		if !ok || !r.inv.Devices[k].System {
			r.s.errs.Addf(t.Pos, "%q is no bus or unit of this file (`system: true`)", t.Value)
			continue
		}
		r.inv.Devices[i].Through = append(r.inv.Devices[i].Through, k)
	}
}
