package rules

import (
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"linli/internal/telemetry"
	"linli/internal/yamlfile"
	"linli/rules/expr"
)

// Bounds of one engine. They are far beyond a site and keep a mistaken rule from taking the box down.
const (
	maxInstances   = 200_000
	maxCost        = 4_000_000 // see compiler.affordable
	maxRound       = 1_000_000_000
	maxWindowBytes = 64 << 20
)

// zoneKinds are the kinds of zones that a site file may name.
var zoneKinds = [...]string{"building", "floor", "unit", "lane", "bin_station", "garage", "pump_room", "gate", "charging", "area"}

// program is a checked rule with the site's parameters applied.
type program struct {
	*Rule
	pack  *Pack
	index int // in the order of evaluation
	cond  *expr.Node
	sev   []checkedSeverity
	wait  time.Duration
	keep  time.Duration
	// sevFor is how long a worse severity's condition must have been true.
	sevFor      time.Duration
	schedules   map[string]Schedule // that it may ask for
	cost, round int                 // of all its instances, see compiler.affordable
	first, n    int                 // its instances
	coverage    float64             // how much of a window must be known
	def         *telemetry.PointDef // of a derived point
	title       [2]template         // zh, en
	follow      follow              // what follows from the alert
	// asks says that the rule asks what others cannot decide, or reads one that does: it is not among those asked.
	asks bool
	// text is all its conditions as text, the site's parameters put in: whether it is still the same rule.
	text string
	// unsure says that the rule, or a derived point that it reads, could not be read: its types are not known.
	unsure bool
}

type checkedSeverity struct {
	severity telemetry.Severity
	cond     *expr.Node
}

type compiler struct {
	cfg      Config
	params   map[string]map[string]string // those of cfg.Params that are right
	errs     yamlfile.Errors
	warnings yamlfile.Errors
	programs []*program
	kinds    []string
	alerts   map[string]*program
	shipped  map[string]bool                // alerts of shipped packs that are not in use
	records  map[string]map[string]*program // class -> name
	wanted   map[string]bool                // schedules that some rule asks for
	used     map[usedName]bool              // parameters and schedules that a rule of their pack names

	cost, round int // of all rules, see affordable
}

// Compile checks every rule against the inventory and returns the engine. The error is yamlfile.Errors with every
// mistake of every pack, those that ParsePack found included.
func Compile(cfg Config) (*Engine, error) {
	c := &compiler{cfg: cfg, alerts: map[string]*program{}, records: map[string]map[string]*program{},
		params: map[string]map[string]string{}, wanted: map[string]bool{}, used: map[usedName]bool{}}
	c.kinds = append(c.kinds, zoneKinds[:]...)
	for _, z := range cfg.Inventory.Zones {
		if z.Kind != "" && !slices.Contains(c.kinds, z.Kind) {
			c.kinds = append(c.kinds, z.Kind)
		}
	}
	c.checkParams()
	c.collect()
	c.order()
	for _, p := range c.programs {
		c.check(p)
	}
	c.checkSchedules()
	c.checkInhibition()
	if len(c.errs) > 0 {
		return nil, c.errs.Err()
	}
	e := c.build()
	if err := c.errs.Err(); err != nil {
		return nil, err
	}
	c.plan(e)
	if err := c.errs.Err(); err != nil {
		return nil, err
	}
	c.unused()
	_ = c.warnings.Err() // sorts them
	e.warnings = c.warnings
	for _, p := range c.programs {
		p.strip()
	}
	return e, nil
}

// strip lets go of what only compiling needs: the parsed files, which would stay as long as the engine.
func (p *program) strip() {
	rule, pack := *p.Rule, &Pack{ID: p.pack.ID}
	rule.expr, rule.severityWhen = source{}, nil
	p.Rule, p.pack = &rule, pack
}

func (c *compiler) checkParams() {
	packs := make([]string, 0, len(c.cfg.Params))
	for id := range c.cfg.Params {
		packs = append(packs, id)
	}
	sort.Strings(packs)
	for _, id := range packs {
		i := slices.IndexFunc(c.cfg.Packs, func(p *Pack) bool { return p.ID == id })
		if i < 0 {
			names := make([]string, len(c.cfg.Packs))
			for i, p := range c.cfg.Packs {
				names[i] = p.ID
			}
			c.errs.Addf(yamlfile.Pos{File: "parameters", Line: 1, Col: 1}, "no pack %q is in use%s", id, yamlfile.Suggest(id, names))
			continue
		}
		p := c.cfg.Packs[i]
		names := make([]string, 0, len(c.cfg.Params[id]))
		for name := range c.cfg.Params[id] {
			names = append(names, name)
		}
		sort.Strings(names)
		for _, name := range names {
			if err := p.CheckParam(name, c.cfg.Params[id][name]); err != nil {
				c.errs.Addf(yamlfile.Pos{File: p.File, Line: 1, Col: 1}, "%v", err)
				continue // the default stands in, so that nothing is said about what follows from the wrong value
			}
			if c.params[id] == nil {
				c.params[id] = map[string]string{}
			}
			c.params[id][name] = c.cfg.Params[id][name]
		}
	}
}

// lookup returns a pack's parameters with the site's values.
func (c *compiler) lookup(p *Pack) func(string) (string, bool) {
	return func(name string) (string, bool) {
		c.used[usedName{p, name, false}] = true
		def, ok := p.params.Get(name)
		if v, set := c.params[p.ID][name]; set && ok {
			return v, true
		}
		return def.Text, ok
	}
}

// collect gathers the rules and finds names given twice.
func (c *compiler) collect() {
	seen := map[string]bool{}
	for _, p := range c.cfg.Packs {
		if seen[p.ID] {
			c.errs.Addf(yamlfile.Pos{File: p.File, Line: 1, Col: 1}, "pack %s is in use twice", p.ID)
			continue
		}
		seen[p.ID] = true
		c.errs = append(c.errs, p.errs...)
		schedules := maps.Clone(p.Schedules)
		maps.Copy(schedules, c.cfg.Schedules)
		for _, r := range p.Rules {
			prog := &program{Rule: r, pack: p, schedules: schedules}
			if r.Alert != "" {
				if other := c.alerts[r.Alert]; other != nil {
					pos, where := exists(prog, other)
					c.errs.Addf(pos, "alert %s exists already, %s: an alert's name is its identity", r.Alert, where)
					continue
				}
				c.alerts[r.Alert] = prog
			} else if !c.addRecord(prog) {
				continue
			}
			c.programs = append(c.programs, prog)
		}
	}
}

// exists says where to complain of two rules of one name, and where the other is: people can mend their own file only.
func exists(p, other *program) (pos yamlfile.Pos, where string) {
	if p.pack.shipped && !other.pack.shipped {
		p, other = other, p
	}
	if other.pack.shipped {
		return p.Pos, "in the shipped pack " + other.pack.ID
	}
	return p.Pos, "at " + other.Pos.String()
}

// isShipped reports whether name is an alert of a shipped pack. Such an alert may be asked for although its pack is
// not in use: it is then never active.
func (c *compiler) isShipped(name string) bool {
	if c.shipped == nil {
		c.shipped = map[string]bool{}
		packs, err := Shipped()
		if err != nil {
			return false
		}
		for _, p := range packs {
			for _, r := range p.Rules {
				c.shipped[r.Alert] = r.Alert != ""
			}
		}
	}
	return c.shipped[name]
}

func (c *compiler) addRecord(p *program) bool {
	key := p.forEach.class
	if key == "" {
		key = "." + p.forEach.kind // not a class: nothing can name these
	}
	if c.records[key] == nil {
		c.records[key] = map[string]*program{}
	}
	if other := c.records[key][p.Record]; other != nil {
		pos, where := exists(p, other)
		c.errs.Addf(pos, "derived point %s exists already, %s", p.Record, where)
		return false
	}
	if class := c.cfg.Classes[p.forEach.class]; class != nil && class.Point(p.Record) >= 0 {
		c.errs.Addf(p.Pos, "class %s has a point %s of its own", class.ID, p.Record)
		return false
	}
	c.records[key][p.Record] = p
	return true
}

// needs returns the rules whose result p reads.
func (c *compiler) needs(p *program) []*program {
	var list []*program
	visit := func(n *expr.Node) {
		switch {
		case n.Op == expr.OpCall && n.Text == "active" && len(n.Args) == 1:
			if other := c.alerts[n.Args[0].Text]; other != nil {
				list = append(list, other)
			}
		case n.Op == expr.OpPoint && p.forEach.class != "":
			if other := c.records[p.forEach.class][n.Text]; other != nil {
				list = append(list, other)
			}
		case n.Op == expr.OpGroup:
			if other := c.records[n.Class][n.Text]; other != nil {
				list = append(list, other)
			}
		}
	}
	if p.broken {
		return nil
	}
	p.expr.tree.Walk(visit)
	for _, s := range p.severityWhen {
		s.tree.Walk(visit)
	}
	return list
}

// calls reports whether one of the rule's expressions calls the function name.
func (p *program) calls(name string) bool {
	found := false
	visit := func(n *expr.Node) { found = found || n.Op == expr.OpCall && n.Text == name }
	p.expr.tree.Walk(visit)
	for _, s := range p.severityWhen {
		s.tree.Walk(visit)
	}
	return found
}

// order sorts the rules so that each comes after those that it reads, otherwise in the order of the packs. Rules that
// need each other cannot be evaluated and are mistakes.
func (c *compiler) order() {
	var sorted []*program
	state := map[*program]int{} // 1 being visited, 2 done
	var visit func(p *program, path []string)
	visit = func(p *program, path []string) {
		switch state[p] {
		case 1:
			c.errs.Addf(p.Pos, "rules that need each other cannot be decided: %s", strings.Join(append(path, p.Name()), " needs "))
			return
		case 2:
			return
		}
		state[p] = 1
		p.unsure = p.broken
		p.asks = !p.broken && p.calls("undecided")
		for _, other := range c.needs(p) {
			visit(other, append(path, p.Name()))
			p.unsure = p.unsure || other.unsure && other.Record != ""
			p.asks = p.asks || other.asks
		}
		state[p] = 2
		sorted = append(sorted, p)
	}
	for _, p := range c.programs {
		visit(p, nil)
	}
	// Those that ask what others cannot decide come after all others.
	slices.SortStableFunc(sorted, func(a, b *program) int {
		switch {
		case a.asks == b.asks:
			return 0
		case b.asks:
			return -1
		}
		return 1
	})
	c.programs = sorted
	for i, p := range sorted {
		p.index = i
	}
}

// check types a rule's expressions and resolves its parameters.
func (c *compiler) check(p *program) {
	if p.unsure || p.pack.paramsUnread {
		return
	}
	lookup := c.lookup(p.pack)
	scope := &expr.Scope{
		Classes: c.cfg.Classes, Kinds: c.kinds, Param: lookup, Params: p.pack.paramList(), Alert: c.alertProblem,
		Schedule: func(name string) string { return c.scheduleProblem(p, name) },
		Device:   p.forEach.class != "" || p.forEach.kind == "device",
		Derived: func(class, name string) *telemetry.PointDef {
			if r := c.records[class][name]; r != nil {
				return r.def
			}
			return nil
		},
	}
	if id := p.forEach.class; id != "" {
		scope.DerivedNames = sortedNames(c.records[id])
		if scope.Subject = c.cfg.Classes[id]; scope.Subject == nil {
			c.errs.Addf(p.forEach.pos, "unknown class %q%s (or site, zone, device)", id, yamlfile.Suggest(id, c.classNames()))
			return
		}
	}
	for _, k := range p.forEach.zoneKinds {
		if !slices.Contains(c.kinds, k) {
			c.errs.Addf(p.forEach.pos, "unknown kind of zone %q%s", k, yamlfile.Suggest(k, c.kinds))
		}
	}
	want := expr.TypeBool
	if p.Record != "" {
		want = 0
	}
	p.cond = c.expression(&p.expr, scope, want)
	p.text = p.cond.String()
	p.coverage = expr.Coverage
	if text := p.Rule.coverage; text.Text != "" {
		v, err := resolveShare(text.Text, lookup, p.pack.paramList())
		if err != nil {
			c.errs.Addf(text.Pos, "%v", err)
		}
		p.coverage = v
	}
	if p.Record != "" {
		c.derived(p)
		return
	}
	for i := range p.severityWhen {
		s := &p.severityWhen[i]
		p.sev = append(p.sev, checkedSeverity{s.severity, c.expression(&s.source, scope, expr.TypeBool)})
		p.text += "\n" + p.sev[i].cond.String()
	}
	p.wait = c.duration(p, p.Rule.wait, lookup)
	p.keep = c.duration(p, p.Rule.keep, lookup)
	p.sevFor = c.duration(p, p.Rule.severityFor, lookup)
	for i, text := range []string{p.Title.Zh, p.Title.En} {
		t, err := parseTemplate(text, scope)
		if err != nil {
			c.errs.Addf(p.titleAt, "title of %s: %v", p.Alert, err)
		}
		p.title[i] = t
	}
	c.follows(p, lookup)
}

func (c *compiler) duration(p *program, text param, lookup func(string) (string, bool)) time.Duration {
	if text.Text == "" {
		return 0
	}
	d, err := resolveDuration(text.Text, lookup, p.pack.paramList())
	if err != nil {
		c.errs.Addf(text.Pos, "%v", err)
	}
	return d
}

func (c *compiler) expression(s *source, scope *expr.Scope, want expr.Type) *expr.Node {
	n, errs := expr.Check(s.tree, scope, want)
	for _, e := range errs {
		c.errs.Addf(s.at(e.Offset), "%s", e.Msg)
	}
	return n
}

// derived gives a derived point its definition, by the type of its expression.
func (c *compiler) derived(p *program) {
	def := &telemetry.PointDef{Name: p.Record, Title: p.Title, Unit: p.Unit, Kind: telemetry.Float}
	if def.Title.IsZero() {
		def.Title = telemetry.Text{Zh: p.Record, En: p.Record}
	}
	switch p.cond.Type {
	case 0, expr.TypeNumber:
	case expr.TypeDuration:
		c.errs.Addf(p.expr.text.Pos, "a derived point is a number or true/false, not a duration: divide by the unit it shall have, as / 1m")
	case expr.TypeBool:
		def.Kind = telemetry.Bool
	default:
		c.errs.Addf(p.expr.text.Pos, "a derived point is a number or true/false, not %s", p.cond.Type)
	}
	p.def = def
}

func (c *compiler) alertProblem(name string) string {
	if c.alerts[name] != nil || c.isShipped(name) {
		return ""
	}
	return "unknown alert " + name + yamlfile.Suggest(name, c.alertNames())
}

func (c *compiler) scheduleProblem(prog *program, name string) string {
	c.wanted[name] = true
	p := prog.pack
	c.used[usedName{p, name, true}] = true
	if _, ok := prog.schedules[name]; ok || p.schedulesUnread {
		return ""
	}
	own, site := sortedNames(p.Schedules), sortedNames(c.cfg.Schedules)
	problem := "unknown schedule " + strconv.Quote(name) + yamlfile.Suggest(name, append(slices.Clone(own), site...))
	list := func(names []string) string {
		if len(names) == 0 {
			return "none"
		}
		return strings.Join(names, ", ")
	}
	return problem + "; pack " + p.ID + " has " + list(own) + ", the site file " + list(site)
}

func sortedNames[T any](m map[string]T) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// checkSchedules finds zones in the packs' schedules that are not there, and schedules of the site that nobody asks
// for, which may be misspelt.
func (c *compiler) checkSchedules() {
	for _, p := range c.cfg.Packs {
		for _, name := range sortedNames(p.Schedules) {
			s := p.Schedules[name]
			s.Zones(func(z yamlfile.At[string]) {
				if _, ok := c.cfg.Inventory.ZoneByID(z.Value); !ok {
					ids := make([]string, len(c.cfg.Inventory.Zones))
					for i := range ids {
						ids[i] = c.cfg.Inventory.Zones[i].ID
					}
					c.errs.Addf(z.Pos, "schedule %s: unknown zone %q%s", name, z.Value, yamlfile.Suggest(z.Value, ids))
				}
			})
		}
	}
	var known []string
	for _, p := range c.cfg.Packs {
		known = append(known, sortedNames(p.Schedules)...)
	}
	for _, name := range sortedNames(c.cfg.Schedules) {
		if !c.wanted[name] {
			c.warnings.Addf(c.cfg.Schedules[name].Pos, "no rule that is in use asks for schedule %s%s", name, yamlfile.Suggest(name, known))
		}
	}
}

func (c *compiler) alertNames() []string {
	names := make([]string, 0, len(c.alerts)+len(c.shipped))
	for name := range c.alerts {
		names = append(names, name)
	}
	for name, alert := range c.shipped {
		if alert && c.alerts[name] == nil {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names
}

func (c *compiler) classNames() []string {
	names := make([]string, 0, len(c.cfg.Classes))
	for id := range c.cfg.Classes {
		names = append(names, id)
	}
	sort.Strings(names)
	return names
}
