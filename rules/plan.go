package rules

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"linli/internal/telemetry"
	"linli/internal/yamlfile"
	"linli/rules/expr"
	"linli/rules/response"
)

// maxOutputs bounds the points that all plans together drive. It is far beyond a site: a hundred sirens for each of a
// thousand alerts.
const maxOutputs = 100_000

// follow is what follows from a rule's alert, checked, with the site's parameters.
type follow struct {
	outputs  []outputOf
	escalate []response.Step
}

// outputOf is an output of a rule, for every subject.
type outputOf struct {
	*OutputSpec
	class          *telemetry.Class
	def            int // of the class's points
	value, rest    telemetry.Value
	after, lasting time.Duration
}

// Plan returns what follows from an alert: nil where nothing does, or no rule and subject give such an alert. The plan is
// the engine's own and read-only.
func (e *Engine) Plan(id telemetry.Identity) *response.Plan {
	i, ok := e.find(id)
	if !ok {
		return nil
	}
	in := &e.instances[i]
	key := in.prog.planKey(i, in)
	plan := e.plans[key]
	if plan == nil && in.prog.leads() {
		// Only now: most alerts are never raised, and the plans of all would be half a megabyte on a large site.
		plan = e.resolve(in, func(string, bool) {})
		e.plans[key] = plan
	}
	return plan
}

// follows checks what follows from an alert, with the site's parameters.
func (c *compiler) follows(p *program, lookup func(string) (string, bool)) {
	for i := range p.Outputs {
		if o, ok := c.output(p, &p.Outputs[i], lookup); ok {
			p.follow.outputs = append(p.follow.outputs, o)
		}
	}
	for i := range p.Escalate {
		e := &p.Escalate[i]
		s := response.Step{After: c.duration(p, e.after, lookup), To: e.To, Severity: e.Severity}
		if n := len(p.follow.escalate); n > 0 && s.After < p.follow.escalate[n-1].After {
			c.errs.Addf(e.after.Pos, "escalate: %s would be told after %s, before those of the step above (%s): put the steps in order", e.To,
				expr.FormatDuration(s.After), expr.FormatDuration(p.follow.escalate[n-1].After))
		}
		p.follow.escalate = append(p.follow.escalate, s)
	}
	for i, name := range p.InhibitedBy {
		// An alert that nobody has may come with a pack of the site. A near miss is a typing error.
		if c.alerts[name] != nil || c.isShipped(name) {
			continue
		}
		if near := yamlfile.Suggest(name, c.alertNames()); near != "" {
			c.errs.Addf(p.inhibitedAt[i], "inhibited_by: unknown alert %q%s", name, near)
		} else {
			c.warnings.Addf(p.inhibitedAt[i], "inhibited_by: there is no alert %q, neither in a pack that is in use nor in a shipped one", name)
		}
	}
	c.oneDetector(p)
}

func (c *compiler) output(p *program, o *OutputSpec, lookup func(string) (string, bool)) (outputOf, bool) {
	r := outputOf{OutputSpec: o, after: c.duration(p, o.after, lookup), lasting: c.duration(p, o.lasting, lookup)}
	if o.lasting.Text != "" && r.lasting == 0 {
		c.errs.Addf(o.lasting.Pos, "outputs: `for` is 0s here, which is over before it begins: leave `for` out where there is no limit")
	}
	if worst := p.worst(); p.Severity > 0 && o.Severity > worst {
		c.errs.Addf(o.severityAt, "outputs: %s is never %s, so that this is never driven (its worst is %s: see severity_when and escalate)", p.Alert, o.Severity, worst)
	}
	for i, name := range o.Unless {
		if problem := c.alertProblem(name); problem != "" {
			c.errs.Addf(o.unlessAt[i], "unless: %s", problem)
		}
	}
	id := o.Class
	switch {
	case o.Scope == self:
		if id = p.forEach.class; id == "" {
			c.errs.Addf(o.deviceAt, "outputs: `self` is the subject's own device, and %s is for each %s: name a class, as zone.siren", p.Alert, p.forEach.kind)
			return r, false
		}
	case o.Scope != "zone" && o.Scope != "site" && !slices.Contains(c.kinds, o.Scope):
		c.errs.Addf(o.deviceAt, "outputs: unknown scope %q%s (zone, site, or a kind of zone)", o.Scope, yamlfile.Suggest(o.Scope, append([]string{"zone", "site"}, c.kinds...)))
	}
	if r.class = c.cfg.Classes[id]; r.class == nil {
		c.errs.Addf(o.deviceAt, "outputs: unknown class %q%s", id, yamlfile.Suggest(id, c.classNames()))
		return r, false
	}
	if r.def = r.class.Point(o.Point); r.def < 0 {
		c.errs.Addf(o.pointAt, "outputs: class %s has no point %q%s", id, o.Point, yamlfile.Suggest(o.Point, writable(r.class)))
		return r, false
	}
	def := &r.class.Points[r.def]
	if !def.Writable {
		problem := " (class " + id + " has no outputs)"
		if can := writable(r.class); len(can) > 0 {
			problem = " (of class " + id + " one can write " + strings.Join(can, ", ") + ")"
		}
		c.errs.Addf(o.pointAt, "outputs: %s.%s cannot be written%s", id, o.Point, problem)
		return r, false
	}
	var problem string
	if r.value, r.rest, problem = drive(def, o.value.Text); problem != "" {
		pos := o.value.Pos
		if o.value.Text == "" {
			pos = o.pointAt
		}
		c.errs.Addf(pos, "outputs: %s", problem)
		return r, false
	}
	return r, true
}

// writable returns the names of a class's outputs.
func writable(class *telemetry.Class) (names []string) {
	for i := range class.Points {
		if class.Points[i].Writable {
			names = append(names, class.Points[i].Name)
		}
	}
	return names
}

// drive returns what an output of the given definition is driven to, as written (empty: on), and what it goes back to.
func drive(def *telemetry.PointDef, text string) (value, rest telemetry.Value, problem string) {
	rest = telemetry.ValueFromBits(def.Kind, 0)
	switch def.Kind {
	case telemetry.Bool:
		if text != "" && text != "true" && text != "false" {
			problem = def.Name + " is true or false, not " + strconv.Quote(text)
		}
		return telemetry.BoolValue(text != "false"), rest, problem
	case telemetry.Enum:
		names := make([]string, len(def.Enum))
		problem = def.Name + " has no state " + strconv.Quote(text)
		ends := false
		for i := range def.Enum {
			names[i] = def.Enum[i].Name
			if ends = ends || def.Enum[i].Code == 0; names[i] == text {
				value, problem = telemetry.EnumValue(def.Enum[i].Code), ""
			}
		}
		switch {
		case !ends:
			problem = def.Name + " has no state with code 0 to go back to, so that no rule can drive it"
		case text == "":
			problem = def.Name + " needs a `value`: " + strings.Join(names, ", ")
		case problem != "":
			problem += yamlfile.Suggest(text, names) + " (" + strings.Join(names, ", ") + ")"
		}
		return value, rest, problem
	case telemetry.Int, telemetry.Float:
		if text == "" {
			text = "1"
		}
		f, err := strconv.ParseFloat(text, 64)
		switch {
		case err != nil || math.IsInf(f, 0) || math.IsNaN(f):
			problem = def.Name + " is a number, not " + strconv.Quote(text)
		case def.Kind == telemetry.Float:
			value, rest = telemetry.FloatValue(f), telemetry.FloatValue(0)
		case f != math.Trunc(f) || math.Abs(f) > 1<<53:
			problem = def.Name + " is a whole number, not " + text
		default:
			value = telemetry.IntValue(int64(f))
		}
		return value, rest, problem
	}
	return value, rest, def.Name + " is " + def.Kind.String() + ", which no rule can drive"
}

// oneDetector warns where a single detector sounds the alarm or opens doors.
func (c *compiler) oneDetector(p *program) {
	switch p.forEach.class {
	case "smoke_detector", "heat_detector", "gas_detector":
	default:
		return
	}
	second := false
	p.expr.tree.Walk(func(n *expr.Node) {
		second = second || n.Op == expr.OpGroup || n.Op == expr.OpCall && n.Text == "active"
	})
	for _, o := range p.Outputs {
		if !second && (o.Class == "siren" || o.Class == "door") {
			c.warnings.Addf(o.deviceAt, "%s drives %s.%s on the word of one detector: one tells, and two independent ones, or a detector and a manual call point, "+
				"confirm and drive outputs (GB 50116-2013 4.1.6)", p.Alert, o.device(), o.Point)
			return
		}
	}
}

// checkInhibition finds alerts that would silence each other, so that nobody would be told of either.
func (c *compiler) checkInhibition() {
	state := map[*program]int{} // 1 being visited, 2 done
	var visit func(p *program, path []string)
	visit = func(p *program, path []string) {
		state[p] = 1
		for i, name := range p.InhibitedBy {
			other := c.alerts[name]
			switch {
			case other == nil:
			case state[other] == 1:
				from := max(slices.Index(path, name), 0)
				c.errs.Addf(p.inhibitedAt[i], "alerts that inhibit each other would silence each other: %s", strings.Join(append(path[from:], name), " by "))
			case state[other] == 0:
				visit(other, append(path, name))
			}
		}
		state[p] = 2
	}
	for _, p := range c.programs {
		if state[p] == 0 && p.Alert != "" {
			visit(p, []string{p.Alert})
		}
	}
}

// planner looks at the plans of all subjects.
type planner struct {
	*compiler
	e     *Engine
	reach map[*program]map[string]reached // what a rule names, and whether any subject had it
}

// planKey is by what a plan is known: the rule and the subject's zone, or the instance, -1 where all of the zone have the same.
type planKey struct {
	prog *program
	zone int32
	of   int64
}

// leads reports whether anything follows from a rule's alert.
func (p *program) leads() bool {
	return len(p.follow.outputs) > 0 || len(p.follow.escalate) > 0 || len(p.InhibitedBy) > 0
}

// planKey returns by what the plan of an instance is known.
func (p *program) planKey(i uint32, in *instance) planKey {
	if len(p.InhibitedBy) > 0 || slices.ContainsFunc(p.follow.outputs, func(o outputOf) bool { return o.Scope == self || len(o.Unless) > 0 }) {
		return planKey{p, in.zone, int64(i)}
	}
	return planKey{p, in.zone, -1}
}

// reached is what came of something that a rule names, over all its subjects.
type reached struct{ asked, found bool }

// plan resolves what follows from every alert, to bound it and to warn of what a rule names and nothing is there for.
func (c *compiler) plan(e *Engine) {
	b := &planner{compiler: c, e: e}
	seen, drives := map[planKey]bool{}, 0 // points that all plans drive
	for i := range e.instances {
		in := &e.instances[i]
		p := in.prog
		key := p.planKey(uint32(i), in)
		if !p.leads() || seen[key] {
			continue
		}
		seen[key] = true
		drives += len(e.resolve(in, func(name string, found bool) { b.note(p, name, found) }).Outputs)
		if drives > maxOutputs {
			c.errs.Addf(p.Pos, "the outputs of all rules together drive more than %d points: use a smaller scope, or for_each: zone or site", maxOutputs)
			return
		}
	}
	b.warn()
}

// resolve makes the plan of one subject. note gets what the rule names, and whether it is there.
func (e *Engine) resolve(in *instance, note func(name string, found bool)) *response.Plan {
	p := in.prog
	plan := &response.Plan{Escalate: p.follow.escalate, LifeSafety: p.LifeSafety}
	for _, name := range p.InhibitedBy {
		plan.Inhibitors = e.over(plan.Inhibitors, in, name, note)
	}
	for i := range p.follow.outputs {
		o := &p.follow.outputs[i]
		devices := []int{int(in.device)}
		if o.Scope != self {
			devices = e.group(int(in.zone), o.Scope, o.Class)
		}
		var unless []telemetry.Identity
		for _, name := range o.Unless {
			unless = e.over(unless, in, name, note)
		}
		found := false
		for _, d := range devices {
			id := e.inv.Devices[d].Points[o.def]
			if id == telemetry.NoPoint {
				continue
			}
			found = true
			plan.Outputs = append(plan.Outputs, response.Output{Point: id, Value: o.value, Rest: o.rest, After: o.after, For: o.lasting,
				Until: o.Until, Severity: o.Severity, Unless: unless})
		}
		note(o.device()+"."+o.Point, found)
	}
	return plan
}

// over appends the alerts of a name whose subject is that of an instance, a bus or unit through which it is reached, a
// zone around it, or the site.
func (e *Engine) over(list []telemetry.Identity, in *instance, name string, note func(string, bool)) []telemetry.Identity {
	if e.alerts[name] == nil {
		return list
	}
	inv, found := e.inv, false
	add := func(subject string) {
		id := telemetry.Identity{Alert: name, Subject: subject}
		if _, ok := e.find(id); ok && !slices.Contains(list, id) {
			list, found = append(list, id), true
		}
	}
	add(e.subject(in))
	if in.device >= 0 {
		for _, d := range inv.Devices[in.device].Through {
			add(inv.Devices[d].ID)
		}
	}
	for z := int(in.zone); z >= 0; z = inv.Zones[z].Parent {
		add(inv.Zones[z].ID)
	}
	add(inv.Site)
	note(name, found)
	return list
}

// note keeps whether what a rule names was there for one of its subjects.
func (b *planner) note(p *program, name string, found bool) {
	if b.reach == nil {
		b.reach = map[*program]map[string]reached{}
	}
	if b.reach[p] == nil {
		b.reach[p] = map[string]reached{}
	}
	r := b.reach[p][name]
	b.reach[p][name] = reached{asked: true, found: r.found || found}
}

// missing reports whether something that a rule names was there for none of its subjects.
func (b *planner) missing(p *program, name string) bool {
	r := b.reach[p][name]
	return r.asked && !r.found
}

// warn tells of outputs that no subject of a rule has, so that nobody trusts a siren that is not there, and of alerts
// that can never be over a subject.
func (b *planner) warn() {
	has := map[string]bool{} // alerts that have subjects
	for i := range b.e.instances {
		has[b.e.instances[i].prog.Alert] = true
	}
	for _, p := range b.programs {
		var gone []string
		var at yamlfile.Pos
		for i := range p.follow.outputs {
			o := &p.follow.outputs[i]
			if name := o.device() + "." + o.Point; b.missing(p, name) && !slices.Contains(gone, name) {
				if gone = append(gone, name); len(gone) == 1 {
					at = o.deviceAt
				}
			}
		}
		if len(gone) > 0 {
			b.warnings.Addf(at, "%s shall drive %s, and in reach of its subjects there is none: nothing will happen there", p.Alert, strings.Join(gone, " and "))
		}
		for i, name := range p.InhibitedBy {
			if has[name] && b.missing(p, name) {
				b.warnings.Addf(p.inhibitedAt[i], "inhibited_by: no %s is about a subject of %s, a zone around one, or what one is reached through", name, p.Alert)
			}
		}
		for i := range p.follow.outputs {
			for k, name := range p.follow.outputs[i].Unless {
				if has[name] && b.missing(p, name) && !slices.Contains(p.InhibitedBy, name) {
					b.warnings.Addf(p.follow.outputs[i].unlessAt[k], "unless: no %s is about a subject of %s, a zone around one, or what one is reached through", name, p.Alert)
				}
			}
		}
	}
}
