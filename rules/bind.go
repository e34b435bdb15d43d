package rules

import (
	"slices"
	"time"

	"linli/internal/telemetry"
	"linli/rules/expr"
	"linli/rules/response"
)

// build makes the engine of checked rules: derived points first, so that every point has its cell before anything
// is bound to it.
func (c *compiler) build() *Engine {
	inv := c.cfg.Inventory
	e := &Engine{
		inv: inv, loc: inv.Location, byClass: map[string][]int{}, constants: map[expr.Cell]uint32{},
		askers: map[string][]uint32{}, active: map[string]*activeCount{}, derived: map[derivedKey]telemetry.PointID{}, alerts: c.alerts, plans: map[planKey]*response.Plan{},
		programs: c.programs, costs: make([]cost, len(c.programs)),
	}
	if e.loc == nil {
		e.loc = time.UTC
	}
	for i := range inv.Devices {
		id := inv.Devices[i].Class.ID
		e.byClass[id] = append(e.byClass[id], i)
	}
	e.foreign = len(inv.Points)
	for _, p := range c.programs {
		p.first = len(e.instances)
		unbound := &shape{prog: p}
		for _, s := range e.subjects(&p.forEach) {
			in := instance{shape: unbound, device: int32(s.device), zone: int32(s.zone), heapPos: -1, due: telemetry.Never}
			if p.Record != "" {
				in.point = inv.AddDerived(p.Record, s.id, s.zone, p.def)
				e.records = append(e.records, uint32(len(e.instances)))
				if s.device >= 0 {
					e.derived[derivedKey{s.device, p.Record}] = in.point
				}
			}
			e.instances = append(e.instances, in)
		}
		p.n = len(e.instances) - p.first
		if len(e.instances) > maxInstances {
			c.errs.Addf(p.Pos, "all rules together have more than %d subjects", maxInstances)
			return e
		}
	}
	const constants = 64 // there are few values that optional points have by default
	e.cells = make([]expr.Cell, len(inv.Points), len(inv.Points)+constants)
	for i := range e.cells {
		e.cells[i] = expr.NewCell()
	}
	if slices.ContainsFunc(inv.Points, func(p telemetry.Point) bool { return p.Def.Event }) {
		e.turns = make([]uint64, len(e.cells))
	}
	e.instances = slices.Clone(e.instances)
	c.bind(e)
	e.dirty = newBitmap(len(e.instances))
	e.timers.instances = e.instances
	e.timers.heap = make([]timerEntry, 0, len(e.instances))
	return e
}

func (c *compiler) bind(e *Engine) {
	limit := c.cfg.MaxWindowBytes
	if limit == 0 {
		limit = maxWindowBytes
	}
	d := &dependencies{values: make([][]uint32, e.foreign+len(e.records)), qualities: make([][]uint32, e.foreign+len(e.records))}
	shapes := map[string]*shape{}
	var last *program
	for i := range e.instances {
		in := &e.instances[i]
		p := in.prog
		if p != last {
			clear(shapes)
			last = p
		}
		b := &instanceBinder{e: e, index: uint32(i), notes: d}
		in.op, in.state, in.held = uint32(len(e.ops)), uint32(len(e.states)), uint32(len(e.helds))
		in.shape = b.bind(shapes)
		if p.sevFor > 0 {
			e.helds = append(e.helds, make([]hold, len(p.sev))...)
		}
		if e.stateBytes > limit {
			c.errs.Addf(p.Pos, "the windows over time of all rules together could take more than %d MiB: use them for fewer subjects", limit>>20)
			return
		}
		if !c.affordable(p, b.cost, b.wakes) {
			return
		}
	}
	e.valueDeps, e.qualityDeps = newLists(d.values), newLists(d.qualities)
	e.ops, e.states, e.helds = slices.Clone(e.ops), slices.Clone(e.states), slices.Clone(e.helds)
}

// bind binds the expressions of the instance and returns their shape: one of shapes, where another subject has it.
func (b *instanceBinder) bind(shapes map[string]*shape) *shape {
	e, g, s := b.e, expr.Bind(b), &shape{prog: b.in().prog}
	if s.prog.Record != "" && s.prog.cond.Type == expr.TypeNumber {
		s.num = g.Num(s.prog.cond)
	} else {
		s.cond = g.Bool(s.prog.cond)
	}
	for _, worse := range s.prog.sev {
		s.sev = append(s.sev, g.Bool(worse.cond))
	}
	s.sample, s.calendar = b.states, b.calendar
	e.ops, e.states = append(e.ops, g.Ops...), append(e.states, b.states...)
	same := shapes[g.Shape()]
	if same == nil {
		shapes[g.Shape()] = s
		return s
	}
	for k, st := range b.states {
		expr.Share(st, same.sample[k])
	}
	return same
}

// dependencies is what binding finds out: by PointID, who wants to know of it.
type dependencies struct{ values, qualities [][]uint32 }

// affordable adds an instance to what all rules cost, and refuses what is too much, naming the rule that costs most.
//
// The cost of one evaluation is how many values it reads, those of the members of groups and what windows do included.
// Two sums of it are bounded: over all instances, what it takes to evaluate everything once (after a start, when the
// clock is set); and over all instances and the points that each wakes for, what it takes when every point of the site
// changes once.
func (c *compiler) affordable(p *program, cost, wakes int) bool {
	p.cost += cost
	p.round += cost * wakes
	c.cost += cost
	c.round += cost * wakes
	if c.cost <= maxCost && c.round <= maxRound {
		return true
	}
	for _, other := range c.programs {
		if c.cost > maxCost && other.cost > p.cost || c.cost <= maxCost && other.round > p.round {
			p = other
		}
	}
	const remedy = "use a smaller scope in its aggregates (zone or building instead of site), or for_each: zone or site"
	if c.cost > maxCost {
		c.errs.Addf(p.Pos, "the rules together read more than %d values when each is evaluated once, most of them rule %s: %s", maxCost, p.Name(), remedy)
	} else {
		c.errs.Addf(p.Pos, "the rules together would read more than %d values when every point changes once, most of them rule %s: %s", maxRound, p.Name(), remedy)
	}
	return false
}

type subject struct {
	id           string
	device, zone int
}

// subjects returns what a rule has an instance for, in the order of the inventory.
func (e *Engine) subjects(f *forEach) []subject {
	var list []subject
	switch f.kind {
	case "site":
		return []subject{{e.inv.Site, -1, -1}}
	case "zone":
		for i := range e.inv.Zones {
			z := &e.inv.Zones[i]
			if len(f.zoneKinds) == 0 || slices.Contains(f.zoneKinds, z.Kind) {
				list = append(list, subject{z.ID, -1, i})
			}
		}
	case "device":
		for i := range e.inv.Devices {
			if e.inv.Devices[i].System {
				continue // Buses and units have rules of their own.
			}
			list = append(list, subject{e.inv.Devices[i].ID, i, e.inv.Devices[i].Zone})
		}
	default:
		for _, i := range e.byClass[f.class] {
			list = append(list, subject{e.inv.Devices[i].ID, i, e.inv.Devices[i].Zone})
		}
	}
	return list
}

type derivedKey struct {
	device int
	name   string
}

// activeCount is how many alerts of one name are active, and who wants to know.
type activeCount struct {
	n    int
	deps []uint32
}

// instanceBinder gives the expressions of one instance their operands. When explaining, nothing is noted and the
// windows that the instance has are found again.
type instanceBinder struct {
	e     *Engine
	index uint32
	notes *dependencies // nil when explaining

	states      []expr.State // those of the instance; when explaining, and those that it does not have
	calendar    []func(time.Time) time.Time
	cost, wakes int // values that an evaluation reads; points that cause one
}

// explains returns a binder that explains an instance.
func (e *Engine) explains(i uint32) *instanceBinder {
	return &instanceBinder{e: e, index: i, states: slices.Clip(e.statesOf(i))}
}

// frame returns what an expression reads that was bound to explain.
func (b *instanceBinder) frame(g *expr.Binding) *expr.Frame {
	return &expr.Frame{Cells: b.e.cells, Ops: g.Ops, States: b.states}
}

// tri returns what a condition is for a device, which is the subject's own or a member's of a group.
func (b *instanceBinder) tri(n *expr.Node, device int) expr.Tri {
	g := expr.Bind(b)
	v := g.Member(n, device)
	return v(b.frame(g))
}

// num does the same for a number.
func (b *instanceBinder) num(n *expr.Node, device int) expr.Num {
	g := expr.Bind(b)
	v := g.MemberNum(n, device)
	return v(b.frame(g))
}

// cell returns the cell of a device's point.
func (b *instanceBinder) cell(device int, name string) *expr.Cell {
	return &b.e.cells[b.Cell(device, name, expr.UseValue)]
}

func (b *instanceBinder) in() *instance { return &b.e.instances[b.index] }

// Self returns the subject's device.
func (b *instanceBinder) Self() int { return int(b.in().device) }

// Present returns the engine's present.
func (b *instanceBinder) Present() *expr.Present { return &b.e.present }

// pointID returns the point that provides a device's point, or false where it is a constant.
func (e *Engine) pointID(device int, name string) (telemetry.PointID, int, bool) {
	d := &e.inv.Devices[device]
	def := d.Class.Point(name)
	if def < 0 {
		id, ok := e.derived[derivedKey{device, name}]
		return id, -1, ok
	}
	return d.Points[def], def, d.Points[def] != telemetry.NoPoint
}

// Cell returns the cell of a device's point and notes the dependency.
func (b *instanceBinder) Cell(device int, name string, use expr.Use) uint32 {
	id, def, provided := b.e.pointID(device, name)
	if !provided {
		b.cost++
		return b.e.constant(device, def)
	}
	return b.depend(id, use)
}

func (b *instanceBinder) depend(id telemetry.PointID, use expr.Use) uint32 {
	b.cost++
	if b.notes == nil {
		return uint32(id)
	}
	deps := &b.notes.values[id]
	if use == expr.UseQuality {
		deps = &b.notes.qualities[id]
	}
	// Instances are bound one after the other, so a repetition is at the end.
	if n := len(*deps); n == 0 || (*deps)[n-1] != b.index {
		*deps = append(*deps, b.index)
		b.wakes++
	}
	return uint32(id)
}

// constant returns the cell of an optional point that nothing provides; one serves all that have the same value. A derived
// point that does not exist for a device is unknown for ever.
func (e *Engine) constant(device, def int) uint32 {
	c := expr.NewCell()
	if def >= 0 {
		// A point that must be provided and is not has no constant either: it stays unknown.
		if v := e.inv.Constant(device, def); !v.IsZero() {
			c.Set(e.inv.Devices[device].Class.Points[def].Kind, v, telemetry.Good)
		}
	}
	i, ok := e.constants[c]
	if !ok {
		i = uint32(len(e.cells))
		e.constants[c], e.cells = i, append(e.cells, c)
	}
	return i
}

// HasValue reports whether a device's point is provided or has a constant value.
func (b *instanceBinder) HasValue(device int, name string) bool {
	_, def, provided := b.e.pointID(device, name)
	return provided || def >= 0 && !b.e.inv.Constant(device, def).IsZero()
}

// LifeSafety reports whether a unit provides a life-safety point of the device.
func (b *instanceBinder) LifeSafety(device int) bool {
	d := &b.e.inv.Devices[device]
	for i, id := range d.Points {
		if id != telemetry.NoPoint && d.Class.Points[i].LifeSafety {
			return true
		}
	}
	return false
}

// Provided returns the cells of the points that units provide for a device.
func (b *instanceBinder) Provided(device int) []uint32 {
	var cells []uint32
	for _, id := range b.e.inv.Devices[device].Points {
		if id != telemetry.NoPoint {
			cells = append(cells, b.depend(id, expr.UseQuality))
		}
	}
	return cells
}

// needed returns the points of a device's class that expr.Binder.Needed speaks of.
func (e *Engine) needed(device int, lifeSafetyOnly bool) (defs []int) {
	d := &e.inv.Devices[device]
	var provided []int
	for i, id := range d.Points {
		if id == telemetry.NoPoint {
			continue
		}
		provided = append(provided, i)
		if def := &d.Class.Points[i]; def.LifeSafety || !def.Optional && !lifeSafetyOnly {
			defs = append(defs, i)
		}
	}
	if len(defs) == 0 && !lifeSafetyOnly {
		return provided
	}
	return defs
}

// Needed returns the cells of the points that a device is there for.
func (b *instanceBinder) Needed(device int, lifeSafetyOnly bool) []uint32 {
	var cells []uint32
	for _, i := range b.e.needed(device, lifeSafetyOnly) {
		cells = append(cells, b.depend(b.e.inv.Devices[device].Points[i], expr.UseQuality))
	}
	return cells
}

// faultPoint is the point by which a device says that something is wrong with it; nil where no unit provides one.
func (e *Engine) faultPoint(device int) (telemetry.PointID, *telemetry.PointDef) {
	d := &e.inv.Devices[device]
	i := d.Class.Point("fault")
	if i < 0 || d.Points[i] == telemetry.NoPoint || d.Class.Points[i].Kind != telemetry.Bool {
		return telemetry.NoPoint, nil
	}
	return d.Points[i], &d.Class.Points[i]
}

// Fault returns the cell of the point by which a device says that something is wrong with it.
func (b *instanceBinder) Fault(device int) (cell uint32, ok bool) {
	id, def := b.e.faultPoint(device)
	if def == nil {
		return 0, false
	}
	return b.depend(id, expr.UseValue), true
}

// Class returns the class of a device.
func (b *instanceBinder) Class(device int) string { return b.e.inv.Devices[device].Class.ID }

// Group returns the devices of a class within a scope.
func (b *instanceBinder) Group(scope, class string) []int {
	return b.e.group(int(b.in().zone), scope, class)
}

// group returns the devices of a class within a scope around zone.
func (e *Engine) group(zone int, scope, class string) []int {
	switch scope {
	case "site":
		zone = -1
	case "zone":
	default:
		for zone >= 0 && e.inv.Zones[zone].Kind != scope {
			zone = e.inv.Zones[zone].Parent
		}
		if zone < 0 {
			return nil // the subject lies in no zone of that kind
		}
	}
	var list []int
	for _, i := range e.byClass[class] {
		if e.inv.InZone(e.inv.Devices[i].Zone, zone) {
			list = append(list, i)
		}
	}
	return list
}

// Active returns the counter of active alerts of a name.
func (b *instanceBinder) Active(name string) *int {
	a := b.e.activeOf(name)
	if b.notes != nil {
		a.deps = append(a.deps, b.index)
	}
	return &a.n
}

func (e *Engine) activeOf(name string) *activeCount {
	a := e.active[name]
	if a == nil {
		a = &activeCount{}
		e.active[name] = a
	}
	return a
}

// ID returns a device's id, empty for the subject itself.
func (b *instanceBinder) ID(device int) string {
	if device < 0 || device == b.Self() {
		return ""
	}
	return b.e.inv.Devices[device].ID
}

// State keeps a new state, or finds the one that was kept.
func (b *instanceBinder) State(n *expr.Node, device int, s expr.State) int {
	// One serves every place where an expression asks for the same.
	for i, kept := range b.states {
		if kept.Is(n, device) {
			return i
		}
	}
	b.states = append(b.states, s)
	if b.notes != nil {
		b.cost += s.Cost()
		b.e.stateBytes += s.MaxBytes()
	}
	return len(b.states) - 1
}

// Coverage is how much of a window must be known.
func (b *instanceBinder) Coverage() float64 { return b.in().prog.coverage }

// Schedule returns a schedule for the subject's zone.
func (b *instanceBinder) Schedule(name string) expr.Schedule {
	s := b.in().prog.schedules[name].bind(b.e.inv, int(b.in().zone), b.e.loc)
	s.Zone = int(b.in().zone)
	return s
}

// Within reports whether the subject lies in a zone of a kind, or is one.
func (b *instanceBinder) Within(kind string) bool {
	zones := b.e.inv.Zones
	for z := int(b.in().zone); z >= 0; z = zones[z].Parent {
		if zones[z].Kind == kind {
			return true
		}
	}
	return false
}

// Calendar notes that the instance depends on the calendar.
func (b *instanceBinder) Calendar(next func(time.Time) time.Time) {
	if b.notes == nil {
		return
	}
	if len(b.calendar) == 0 {
		b.e.calendars = append(b.e.calendars, b.index)
	}
	b.calendar = append(b.calendar, next)
}
