package site

import (
	"strings"

	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
	"linli/internal/yamlfile"
)

// source is what a device says about one point of its class.
type source struct {
	pos      yamlfile.Pos
	spec     *pointSpec // nil where the profile alone binds the point
	unit     *unitRef   // nil where the point is a constant, or the binding is wrong and has been reported
	channel  string
	invert   bool
	linear   *firmwareconfig.Linear
	constant telemetry.Value
	deadband *telemetry.Deadband // the profile's, nil where it has none
	// profiles: the point is bound as the unit's profile says; the file says only what an output does at start and stop, or the
	// deadband.
	profiles bool
	// reader: the point tells whether the card reader of that channel can be read, not what it reads.
	reader bool
}

func (r *resolver) devices() {
	seen := map[string]yamlfile.Pos{}
	for i := range r.file.Devices {
		r.device(&r.file.Devices[i], seen)
	}
}

func (r *resolver) device(d *device, seen map[string]yamlfile.Pos) {
	usable := r.newID("device", d.ID, seen)
	zone := -1
	if present(r, d.Zone) {
		var ok bool
		if zone, ok = r.inv.ZoneByID(d.Zone.Value); !ok {
			r.unknown("zone", d.Zone, r.zoneList, "zones")
		}
	}
	whole := r.wholeUnit(d)
	class := r.class(d, whole)
	if class == nil || r.lib.Faulty[class.ID] {
		r.useUnits(d)
		return
	}

	sources := make([]*source, len(class.Points))
	for _, e := range d.Points {
		def := class.Point(e.Key.Value)
		if def < 0 {
			r.failf(e.Key.Pos, "class %s has no point %q%s", class.ID, e.Key.Value, orList(e.Key.Value, pointNames(class)))
			r.source(&e.Value, nil)
			continue
		}
		spec := &e.Value
		if key, pos := spec.forOutput(); key != "" && !class.Points[def].Writable {
			r.failf(pos, "%s is for outputs, and %s is only read", key, class.Points[def].Name)
		} else if (key != "" || spec.Deadband != nil) && spec.From.Pos.Line == 0 && spec.Value == nil && whole != nil {
			sources[def] = &source{pos: spec.Pos, spec: spec, profiles: true}
			if whole.profile != nil && whole.profile.Device.Points[class.Points[def].Name].Channel == "" {
				r.failf(spec.Pos, "profile %s does not bind %s: write from: %s.channel", whole.profile.ID, class.Points[def].Name, whole.id)
			}
			continue
		}
		sources[def] = r.source(spec, &class.Points[def])
	}
	if whole != nil && whole.profile != nil {
		for def := range class.Points {
			b, ok := whole.profile.Device.Points[class.Points[def].Name]
			switch {
			case !ok:
			case sources[def] == nil:
				sources[def] = &source{pos: d.Unit.Pos, unit: whole, channel: b.Channel, invert: b.Invert, linear: b.Map, deadband: ownDeadband(&b)}
			case sources[def].profiles:
				*sources[def] = source{pos: d.Unit.Pos, spec: sources[def].spec, unit: whole, channel: b.Channel, invert: b.Invert, linear: b.Map, deadband: ownDeadband(&b)}
			}
		}
	}
	r.readerFault(class, sources)
	r.complete(d, class, sources, whole != nil && whole.profile == nil)

	out := telemetry.Device{ID: d.ID.Value, Class: class, Zone: zone, Title: deviceTitle(d, class)}
	for def, s := range sources {
		if s != nil && !s.constant.IsZero() {
			if out.Constants == nil {
				out.Constants = make([]telemetry.Value, len(class.Points))
			}
			out.Constants[def] = s.constant
		}
	}
	if zone < 0 {
		usable = false
	}
	index := -1
	if usable {
		index = r.inv.AddDevice(out)
	}
	for def, s := range sources {
		switch {
		case s != nil && s.unit != nil:
			r.bind(s, d.ID.Value, index, &class.Points[def], def)
			r.deadband(s, index, class, def)
		case usable:
			if text := constantText(&class.Points[def], s); text != "" {
				r.site.Constants = append(r.site.Constants, d.ID.Value+"."+text)
			}
		}
	}
}

// wholeUnit returns the unit that the device is, or nil where it names none.
func (r *resolver) wholeUnit(d *device) *unitRef {
	if !present(r, d.Unit) {
		return nil
	}
	ref := r.unit(d.Unit)
	if ref == nil {
		return &unitRef{} // reported; what it would have provided is not reported as missing
	}
	ref.used = true
	if ref.profile == nil {
		return ref
	}
	if ref.profile.Device == nil && (ref.twice || r.lib.Faulty[ref.profile.ID]) {
		return &unitRef{}
	}
	if ref.profile.Device == nil {
		r.failf(d.Unit.Pos, "unit %s (%s) is not one device: name a class, and bind its points to channels (points: {...: %s.%s})",
			ref.id, ref.profile.ID, ref.id, firstChannel(ref.profile))
		return &unitRef{}
	}
	if ref.device != "" {
		r.failf(d.Unit.Pos, "unit %s is %s already", ref.id, ref.device)
		return ref
	}
	ref.device = d.name()
	return ref
}

func firstChannel(p *firmwareconfig.Profile) string {
	if len(p.Channels) == 0 {
		return "channel"
	}
	return p.Channels[0].Name
}

// class returns the device's class, or nil where it cannot be told.
func (r *resolver) class(d *device, whole *unitRef) *telemetry.Class {
	fromProfile := whole != nil && whole.profile != nil
	switch {
	case present(r, d.Class):
		class := r.lib.Classes[d.Class.Value]
		if class == nil {
			if !r.lib.Faulty[d.Class.Value] {
				r.unknown("class", d.Class, sortedKeys(r.lib.Classes))
			}
			return nil
		}
		if fromProfile && whole.profile.Device.Class != class.ID {
			r.failf(d.Class.Pos, "the class of unit %s (%s) is %s, not %s: leave class out, or bind points instead of unit",
				whole.id, whole.profile.ID, whole.profile.Device.Class, class.ID)
			return nil
		}
		return class
	case d.Class.Pos.Line > 0: // refused by the decoder
		return nil
	case fromProfile:
		class := r.lib.Classes[whole.profile.Device.Class]
		if class == nil && !r.lib.Faulty[whole.profile.Device.Class] && !r.lib.Faulty[whole.profile.ID] {
			r.failf(d.Unit.Pos, "profile %s names the unknown class %q", whole.profile.ID, whole.profile.Device.Class)
		}
		return class
	case whole == nil && d.Unit.Pos.Line == 0:
		r.failf(d.Pos, "%s needs a class (with points), or a unit that is exactly this device", d.name())
	}
	return nil
}

// unit returns the unit named, or nil after saying that there is none.
func (r *resolver) unit(id yamlfile.At[string]) *unitRef {
	ref := r.units[id.Value]
	if ref == nil {
		r.unknown("unit", id, sortedKeys(r.units), "buses", "units")
	}
	return ref
}

// useUnits finds mistakes in the bindings of a device whose class is not known.
func (r *resolver) useUnits(d *device) {
	for i := range d.Points {
		r.source(&d.Points[i].Value, nil)
	}
}

// source resolves what the file says about one point. def is nil where the class has no such point: then only the
// rest is checked. It never returns nil, so that what was said wrongly is not reported as missing too.
func (r *resolver) source(p *pointSpec, def *telemetry.PointDef) *source {
	s := &source{pos: p.From.Pos, spec: p, invert: p.Invert, linear: (*firmwareconfig.Linear)(p.Map)}
	switch {
	case r.refused[p.Pos]:
		return s
	case p.Value != nil && p.Deadband != nil:
		r.failf(p.Deadband.Pos, "a constant does not move: it has no deadband")
		return s
	case p.Value != nil && (p.From.Pos.Line > 0 || p.Map != nil || p.Invert):
		r.failf(p.Pos, "a point is either a constant (value) or comes from a channel (from, with invert or map)")
		return s
	case p.Value != nil:
		if def != nil {
			s.constant = r.constant(p.Value, def)
		}
		return s
	case p.From.Pos.Line == 0:
		r.failf(p.Pos, "write where the point comes from: unit.channel, {from: unit.channel} or {value: constant}")
		return s
	case !present(r, p.From):
		return s
	}
	id, channel, ok := strings.Cut(p.From.Value, ".")
	if !ok || id == "" || channel == "" {
		r.failf(p.From.Pos, "%q is no channel: write unit.channel, as io1.di1 (a constant is {value: ...})", p.From.Value)
		return s
	}
	ref := r.unit(yamlfile.At[string]{Value: id, Pos: p.From.Pos})
	if ref == nil {
		return s
	}
	ref.used = true
	if ref.profile == nil {
		return s
	}
	i := ref.profile.Channel(channel)
	if i < 0 {
		switch {
		case ref.twice:
		case ref.gpio != nil:
			r.unknown("line of "+ref.id, yamlfile.At[string]{Value: channel, Pos: p.From.Pos}, channels(ref.profile, def, s.linear), "lines")
		case !r.lib.Faulty[ref.profile.ID]:
			r.failf(p.From.Pos, "%s (%s) has no channel %q%s", ref.id, ref.profile.ID, channel, orList(channel, channels(ref.profile, def, s.linear)))
		}
		return s
	}
	if def != nil && !def.Writable && ref.profile.Channels[i].Table == firmwareconfig.Coil && ref.profile.Channels[i].Writable {
		hint := ""
		if inputs := channels(ref.profile, def, s.linear); len(inputs) > 0 && inputs[0] != channel {
			hint = ", as " + ref.id + "." + inputs[len(inputs)-1]
		}
		owner := ref.profile.ID
		if ref.gpio != nil {
			owner = ref.id
		}
		r.warnf(p.From.Pos, "%s is read from %s.%s, which is an output of %s: it tells what was commanded, not what happens outside. Probably an input is meant%s",
			def.Name, ref.id, channel, owner, hint)
	}
	s.unit, s.channel = ref, channel
	return s
}

// constant reads a value of the point's kind. The zero Value means that it was wrong.
func (r *resolver) constant(n *yamlfile.Node, def *telemetry.PointDef) telemetry.Value {
	switch {
	case def.Writable:
		r.failf(n.Pos, "%s is an output: a constant cannot be commanded", def.Name)
		return telemetry.Value{}
	case !def.Optional:
		r.failf(n.Pos, "%s is what such a device is there to tell: it comes from a channel, not from a constant", def.Name)
		return telemetry.Value{}
	}
	v, err := firmwareconfig.DecodeValue(n, def)
	if err != nil {
		r.errs.Append(n.Pos, err)
		return telemetry.Value{}
	}
	return v
}

// complete reports the mandatory points that nothing provides. excused says that the device's unit is unknown.
func (r *resolver) complete(d *device, class *telemetry.Class, sources []*source, excused bool) {
	var lacking []string
	for i, s := range sources {
		if s == nil && !class.Points[i].Optional {
			lacking = append(lacking, class.Points[i].Name)
		}
	}
	if len(lacking) > 0 && !excused {
		r.failf(d.Pos, "%s (%s) lacks %s: bind it to a channel (points: {%s: unit.channel})",
			d.name(), class.ID, strings.Join(lacking, ", "), lacking[0])
	}
}

// bind makes a point provided by a channel, after checking that the two fit. device is -1 where the device cannot be
// added: then only the fit is checked.
func (r *resolver) bind(s *source, deviceID string, device int, def *telemetry.PointDef, defIndex int) {
	from := s.unit.id + "." + s.channel
	if s.linear != nil && def.Kind == telemetry.Enum {
		r.failf(s.pos, "%s: a map is for numbers, %s is enum", from, def.Name)
		return
	}
	if s.reader {
		if device >= 0 {
			u := &r.site.Buses[s.unit.bus].Units[s.unit.index]
			u.Bindings = append(u.Bindings, firmwareconfig.Binding{
				Channel: s.unit.profile.Channel(s.channel), Point: r.inv.ProvidePoint(device, defIndex), Def: def, UnitFactor: 1,
			})
		}
		return
	}
	b, err := s.unit.profile.Bind(def, firmwareconfig.PointBinding{Channel: s.channel, Invert: s.invert, Map: s.linear})
	if err != nil {
		r.failf(s.pos, "%s: %v", from, err)
		return
	}
	if !r.bindGPIO(s, def, b.Channel) {
		return
	}
	if def.Writable {
		if first, taken := s.unit.writers[b.Channel]; taken {
			r.failf(s.pos, "%s is commanded by %s already: two outputs on one channel would fight", from, first)
			return
		}
		s.unit.writers[b.Channel] = deviceID + "." + def.Name
	}
	if device < 0 {
		return
	}
	b.Point = r.inv.ProvidePoint(device, defIndex)
	u := &r.site.Buses[s.unit.bus].Units[s.unit.index]
	u.Bindings = append(u.Bindings, b)
	if def.Writable {
		r.output(s.spec, s, def, b)
	}
}

func pointNames(class *telemetry.Class) []string {
	names := make([]string, len(class.Points))
	for i := range class.Points {
		names[i] = class.Points[i].Name
	}
	return names
}

// name says in messages which device it is, with or without an id.
func (d *device) name() string {
	if d.ID.Value == "" {
		return "the device"
	}
	return "device " + d.ID.Value
}

// deviceTitle returns the device's title, or one that says what it is and which.
func deviceTitle(d *device, class *telemetry.Class) telemetry.Text {
	return textOr(d.Title, telemetry.Text{
		Zh: strings.TrimSpace(class.Title.In("zh") + " " + d.ID.Value),
		En: strings.TrimSpace(class.Title.In("en") + " " + d.ID.Value),
	})
}

// constantText renders the constant that a point is, for Site.Constants, or "" where it has none: an optional point
// without default does not exist unless a unit provides it.
func constantText(def *telemetry.PointDef, s *source) string {
	v, mark := def.Default, ""
	if s != nil && !s.constant.IsZero() {
		v, mark = s.constant, " (set)"
	}
	if v.IsZero() {
		return ""
	}
	text := v.String()
	if def.Kind == telemetry.Enum {
		for _, e := range def.Enum {
			if e.Code == v.Int() {
				text = e.Name
			}
		}
	} else if def.Unit != "" {
		text += " " + def.Unit
	}
	return def.Name + " = " + text + mark
}
