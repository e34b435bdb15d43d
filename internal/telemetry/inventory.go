package telemetry

import "time"

// Inventory is what is installed at one site, resolved from the site file: the zones, the devices and their
// points. It is built before anything runs and does not change afterwards; a new site file revision is a new
// Inventory.
type Inventory struct {
	Site     string // site id
	Gateway  string // gateway id; Site + "." + Gateway is the node, the gateway's name on the wire
	Title    Text
	Place    Place
	Location *time.Location // local time of the site, for calendars and people; storage is UTC
	Zones    []Zone
	Devices  []Device
	Points   []Point

	byDevice map[string]int
	byZone   map[string]int
}

// Place is the site's position in the city's tree. The community itself is Inventory.Title.
type Place struct {
	City, District, Street string
}

// Zone is a part of the site: a building, floor, lane or bin station. Zones nest.
type Zone struct {
	ID     string
	Parent int // index in Inventory.Zones, -1 at the top; always smaller than the zone's own index
	Kind   string
	Title  Text
}

// Device is something people name, in a zone; or a part of the gateway's own works (System).
type Device struct {
	ID    string
	Class *Class
	Zone  int // index in Inventory.Zones; -1 for the site itself, where only System devices are
	Title Text
	// System devices are the buses and their units, which have points of their own (is it up, how busy is it). Rules that
	// name their class, the journal and the city have them like any other; they are no part of what is installed for
	// people, so boards and `for_each: device` leave them out.
	System bool
	// Points is parallel to Class.Points: the point's id, or NoPoint where an optional point is its constant default.
	Points []PointID
	// Constants is parallel to Class.Points: what the site file fixes a point to that nothing provides. The zero
	// Value means the class's default; a nil slice means that for every point. See Inventory.Constant.
	Constants []Value
	// Through are the System devices (bus and unit) through which the device is reached, as indexes in Inventory.Devices.
	Through []int
}

// Point is one provided point of a device, or a derived point of a rule.
type Point struct {
	Device int       // index in Inventory.Devices; -1 for a derived point
	Def    *PointDef // never nil
	// Derived identifies a derived point (`record:` rules); nil for device points, which are most.
	Derived *DerivedPoint
	// Deadband of a device point that is a number: what of site file, profile and class holds for it.
	Deadband Deadband
}

// DerivedPoint is what a derived point is known by.
type DerivedPoint struct {
	// Rule is the rule's name; Subject the id of the device or zone that it was computed for, or the site's id.
	Rule, Subject string
	Zone          int // of the subject, -1 for the site
}

// Series names a point for files and messages, where PointID means nothing.
type Series struct {
	Class  string // measurement; "derived" for derived points
	Device string // device id; the subject for derived points
	Zone   string // zone id, "" for the site itself
	Point  string // field; the rule's name for derived points
	Kind   Kind
}

// Derived is the Series.Class of derived points.
const Derived = "derived"

// Node is the gateway's name on the wire and the common name of its certificate.
func (inv *Inventory) Node() string { return inv.Site + "." + inv.Gateway }

// AddZone appends a zone and returns its index.
func (inv *Inventory) AddZone(z Zone) int {
	if inv.byZone == nil {
		inv.byZone = map[string]int{}
	}
	inv.Zones = append(inv.Zones, z)
	inv.byZone[z.ID] = len(inv.Zones) - 1
	return len(inv.Zones) - 1
}

// AddDevice appends a device whose class points are all constants until ProvidePoint is called, and returns its
// index.
func (inv *Inventory) AddDevice(d Device) int {
	if inv.byDevice == nil {
		inv.byDevice = map[string]int{}
	}
	d.Points = make([]PointID, len(d.Class.Points))
	for i := range d.Points {
		d.Points[i] = NoPoint
	}
	inv.Devices = append(inv.Devices, d)
	inv.byDevice[d.ID] = len(inv.Devices) - 1
	return len(inv.Devices) - 1
}

// ProvidePoint makes point number def of the device's class a provided one and returns its id.
func (inv *Inventory) ProvidePoint(device, def int) PointID {
	d := &inv.Devices[device]
	if d.Points[def] == NoPoint {
		d.Points[def] = PointID(len(inv.Points))
		inv.Points = append(inv.Points, Point{Device: device, Def: &d.Class.Points[def], Deadband: d.Class.Points[def].Deadband})
	}
	return d.Points[def]
}

// Constant returns the value that point number def of the device's class has while nothing provides it: what the
// site file fixes it to, otherwise the class's default. It is the zero Value where there is neither.
func (inv *Inventory) Constant(device, def int) Value {
	d := &inv.Devices[device]
	if def < len(d.Constants) && !d.Constants[def].IsZero() {
		return d.Constants[def]
	}
	return d.Class.Points[def].Default
}

// AddDerived adds the derived point of rule for subject (a device id, a zone id or the site's id) in zone (-1 for
// the site) and returns its id. It is called while rules are compiled, before anything runs.
func (inv *Inventory) AddDerived(rule, subject string, zone int, def *PointDef) PointID {
	inv.Points = append(inv.Points, Point{Device: -1, Def: def, Derived: &DerivedPoint{Rule: rule, Subject: subject, Zone: zone}})
	return PointID(len(inv.Points) - 1)
}

// Installed returns how many devices and points of theirs there are for people: without System devices, and without
// derived points.
func (inv *Inventory) Installed() (devices, points int) {
	for i := range inv.Devices {
		if !inv.Devices[i].System {
			devices++
		}
	}
	for i := range inv.Points {
		if inv.IsInstalled(PointID(i)) {
			points++
		}
	}
	return devices, points
}

// IsInstalled reports whether a point is of a device that is there for people: neither derived nor a System device's, nor
// one that does not exist.
func (inv *Inventory) IsInstalled(id PointID) bool {
	if int64(id) >= int64(len(inv.Points)) {
		return false
	}
	d := inv.Points[id].Device
	return d >= 0 && !inv.Devices[d].System
}

// IsSystem reports whether a point is of a part of the gateway's own works.
func (inv *Inventory) IsSystem(id PointID) bool {
	if int64(id) >= int64(len(inv.Points)) {
		return false
	}
	d := inv.Points[id].Device
	return d >= 0 && inv.Devices[d].System
}

// DeviceByID returns the device's index, or false.
func (inv *Inventory) DeviceByID(id string) (int, bool) { i, ok := inv.byDevice[id]; return i, ok }

// ZoneByID returns the zone's index, or false.
func (inv *Inventory) ZoneByID(id string) (int, bool) { i, ok := inv.byZone[id]; return i, ok }

// ZoneID returns the id of a zone, "" for -1 (the site).
func (inv *Inventory) ZoneID(zone int) string {
	if zone < 0 {
		return ""
	}
	return inv.Zones[zone].ID
}

// InZone reports whether zone is z or lies within it. Zone -1 (the site) contains every zone.
func (inv *Inventory) InZone(zone, z int) bool {
	for zone != z && zone >= 0 {
		zone = inv.Zones[zone].Parent
	}
	return zone == z
}

// ZonePath returns the titles from the outermost zone to zone in lang, outermost first.
func (inv *Inventory) ZonePath(zone int, lang string) []string {
	var path []string
	for ; zone >= 0; zone = inv.Zones[zone].Parent {
		path = append(path, inv.Zones[zone].Title.In(lang))
	}
	for i, j := 0, len(path)-1; i < j; i, j = i+1, j-1 {
		path[i], path[j] = path[j], path[i]
	}
	return path
}

// Series returns the lasting name of a point.
func (inv *Inventory) Series(id PointID) Series {
	p := &inv.Points[id]
	if p.Device < 0 {
		return Series{Class: Derived, Device: p.Derived.Subject, Zone: inv.ZoneID(p.Derived.Zone), Point: p.Derived.Rule, Kind: p.Def.Kind}
	}
	d := &inv.Devices[p.Device]
	return Series{Class: d.Class.ID, Device: d.ID, Zone: inv.ZoneID(d.Zone), Point: p.Def.Name, Kind: p.Def.Kind}
}
