package rules_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"
	_ "time/tzdata" // the same everywhere

	"linli/internal/telemetry"
	"linli/rules/expr"
)

// scenario is one random test: a site, rules, and what arrives when. It is made before anything runs.
type scenario struct {
	seed     uint64
	zones    []telemetry.Zone
	devices  []telemetry.Device
	provides [][]string // by device
	rules    []scenarioRule
	order    []int // of the rules in the pack
	params   map[string]string
	periods  map[string][]slowPeriod
	location *time.Location
	shifts   bool // the clocks are put forward or back
	restored []telemetry.ActiveAlert
	steps    []scenarioStep
}

type scenarioRule struct {
	slowRule
	text string // YAML
}

type scenarioStep struct {
	now     telemetry.Now
	samples []telemetry.Sample
	close   []telemetry.Identity
	reload  bool          // the same rules are loaded anew
	restart bool          // the process ends and starts
	boot    time.Duration // and with it the box: by how much the monotonic line is moved
}

var scheduleNames = [...]string{"early", "mixed", "never", "days"}

// slowClasses are the two classes of the random sites.
func slowClasses() map[string]*telemetry.Class {
	def := func(name string, kind telemetry.Kind) telemetry.PointDef {
		return telemetry.PointDef{Name: name, Kind: kind, Title: telemetry.Text{Zh: name, En: name}}
	}
	optional := func(d telemetry.PointDef, v telemetry.Value) telemetry.PointDef {
		d.Optional, d.Default = true, v
		return d
	}
	states := func(d telemetry.PointDef) telemetry.PointDef {
		d.Enum = []telemetry.EnumName{{Code: 0, Name: "idle"}, {Code: 1, Name: "run"}, {Code: 7, Name: "trip"}}
		return d
	}
	event := func(d telemetry.PointDef) telemetry.PointDef {
		d.Event = true
		return d
	}
	vital := func(d telemetry.PointDef) telemetry.PointDef {
		d.LifeSafety = true
		return d
	}
	none := telemetry.Value{}
	return map[string]*telemetry.Class{
		"alpha": {ID: "alpha", Points: []telemetry.PointDef{
			def("level", telemetry.Float), optional(def("flow", telemetry.Float), none), optional(def("limit", telemetry.Float), telemetry.FloatValue(10.25)),
			def("gate", telemetry.Bool), vital(optional(def("alarm", telemetry.Bool), none)), optional(def("fault", telemetry.Bool), none),
			states(def("mode", telemetry.Enum)), optional(def("note", telemetry.KindText), telemetry.TextValue("a")),
			event(def("press", telemetry.Bool)), def("total", telemetry.Float),
		}},
		// Of this one everything is optional.
		"beta": {ID: "beta", Points: []telemetry.PointDef{
			optional(def("temp", telemetry.Float), none), optional(def("on", telemetry.Bool), telemetry.BoolValue(true)),
			optional(states(def("state", telemetry.Enum)), none), optional(event(def("card", telemetry.KindText)), none),
			optional(def("kwh", telemetry.Int), none),
		}},
	}
}

// newScenario makes the scenario of a seed with so many steps.
func newScenario(seed uint64, steps int) *scenario {
	r := rand.New(rand.NewPCG(seed, 0x5eed))
	sc := &scenario{seed: seed, location: time.FixedZone("CST", 8*3600),
		params:  map[string]string{"limit": "10.1373", "dwell": "7s", "word": "b", "share": "0.2507"},
		periods: map[string][]slowPeriod{}}
	if r.IntN(4) == 0 {
		sc.location = time.FixedZone("", -(3*3600 + 1800))
	}
	// The series begins shortly before an hour, often at midnight.
	begin := time.Date(2026, 3, 1+r.IntN(28), r.IntN(24), 0, 0, 0, sc.location)
	if r.IntN(2) == 0 {
		begin = time.Date(2026, 3, 1+r.IntN(28), 0, 0, 0, 0, sc.location)
	}
	if r.IntN(8) == 0 { // where the clocks are put forward or back, in one case at midnight
		sc.location, sc.shifts = mustLoad(pick(r, "Europe/Berlin", "Australia/Lord_Howe", "America/Havana")), true
		begin = pick(r, time.Date(2026, 3, 29, 1, 0, 0, 0, time.UTC), time.Date(2026, 10, 25, 1, 0, 0, 0, time.UTC),
			time.Date(2026, 4, 4, 15, 0, 0, 0, time.UTC), time.Date(2026, 10, 3, 15, 30, 0, 0, time.UTC),
			time.Date(2026, 3, 8, 5, 0, 0, 0, time.UTC), time.Date(2026, 11, 1, 5, 0, 0, 0, time.UTC)).In(sc.location)
	}
	begin = begin.Add(-time.Duration(r.IntN(240)) * time.Second)
	sc.makeSite(r)
	day := (int(begin.Weekday())+6)%7 + 1
	g := &ruleMaker{Rand: r, hour: begin.Hour(), day: day, minute: begin.Minute(), turn: r.IntN(len(features))}
	sc.makeSchedules(g, begin)
	rules := 8
	if r.IntN(12) == 0 {
		rules = 24 // more instances than fit into one word of a set of them
	}
	for i := range rules {
		sc.makeRule(g, i, i >= rules-2)
	}
	sc.order = r.Perm(len(sc.rules))
	sc.makeSteps(r, begin, steps)
	return sc
}

func (sc *scenario) makeSite(r *rand.Rand) {
	for _, z := range []struct {
		id, kind string
		parent   int
	}{{"b1", "building", -1}, {"f1", "floor", 0}, {"f2", "floor", 0}, {"g1", "garage", -1}, {"b2", "building", -1}} {
		sc.zones = append(sc.zones, telemetry.Zone{ID: z.id, Kind: z.kind, Parent: z.parent, Title: telemetry.Text{Zh: z.id, En: z.id}})
	}
	classes := slowClasses()
	for i := range 2 + r.IntN(5) {
		class := classes[pick(r, "alpha", "alpha", "beta")]
		if i < 2 {
			class = classes[[]string{"alpha", "beta"}[i]]
		}
		id := fmt.Sprintf("%s%d", class.ID, i)
		d := telemetry.Device{ID: id, Class: class, Zone: r.IntN(4), Title: telemetry.Text{Zh: id, En: id}}
		if r.IntN(12) == 0 {
			d.Zone, d.System = -1, true
		}
		var provides []string
		d.Constants = make([]telemetry.Value, len(class.Points))
		for k := range class.Points {
			def := &class.Points[k]
			switch {
			case !def.Optional && r.IntN(20) > 0, def.Optional && r.IntN(10) < 7:
				provides = append(provides, def.Name)
			case def.Optional && def.Kind == telemetry.Float && r.IntN(2) == 0:
				d.Constants[k] = telemetry.FloatValue(9.75)
			}
		}
		if r.IntN(20) == 0 {
			provides = nil // all that it has are constants
		}
		sc.devices, sc.provides = append(sc.devices, d), append(sc.provides, provides)
	}
}

// build makes the inventory, to which compiling rules adds.
func (sc *scenario) build() *site {
	s := &site{&telemetry.Inventory{Site: "s1", Gateway: "g1", Location: sc.location}, slowClasses()}
	for _, z := range sc.zones {
		s.AddZone(z)
	}
	for i, d := range sc.devices {
		d.Class = s.classes[d.Class.ID]
		k := s.AddDevice(d)
		for _, p := range sc.provides[i] {
			s.ProvidePoint(k, d.Class.Point(p))
		}
	}
	return s
}

func (sc *scenario) makeSchedules(g *ruleMaker, begin time.Time) {
	sc.periods["never"] = nil
	days := pick(g.Rand, []string{"workdays"}, []string{"weekends"}, []string{"mon", "thu", "sun"}, []string{"tue", "wed", "fri", "sat"})
	sc.periods["early"] = []slowPeriod{{from: g.clock(), to: g.clock(), days: pick(g.Rand, nil, days)}}
	if p := &sc.periods["early"][0]; p.from == p.to {
		p.to = "24:00"
	}
	date := begin.Add(time.Duration(g.IntN(300)-60) * time.Second)
	const layout = "2006-01-02 15:04"
	if sc.shifts { // where a moment of local time may come twice, or never
		date = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	sc.periods["days"] = []slowPeriod{{from: "00:00", to: "24:00", days: pick(g.Rand, nil, days, days)}}
	sc.periods["mixed"] = []slowPeriod{
		{days: days, from: g.clock(), to: "24:00", zones: []string{pick(g.Rand, "b1", "f1", "g1")}},
		{from: date.Format(layout), to: date.Add(2 * time.Minute).Format(layout), zones: pick(g.Rand, nil, []string{"b1"})},
	}
}

func (p slowPeriod) yaml() string {
	var parts []string
	if p.from != "00:00" || p.to != "24:00" { // else it is the whole day
		parts = append(parts, fmt.Sprintf("from: %q, to: %q", p.from, p.to))
	}
	if len(p.days) > 0 {
		parts = append(parts, "days: ["+strings.Join(p.days, ", ")+"]")
	}
	if len(p.zones) > 0 {
		parts = append(parts, "zones: ["+strings.Join(p.zones, ", ")+"]")
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// makeRule makes one rule, which may read those made before it. The last ones are needed by nobody: they may ask what
// cannot be decided.
func (sc *scenario) makeRule(g *ruleMaker, i int, last bool) {
	feature := features[g.turn%len(features)]
	g.turn++
	rule := slowRule{coverage: 0.75, record: i < 3 && g.oneIn(2)}
	s := seat{last: last}
	switch g.IntN(8) {
	case 0, 1, 2:
		rule.class = "alpha"
	case 3, 4:
		rule.class = "beta"
	case 5:
		rule.each = "device"
	case 6:
		rule.each = "zone"
		rule.kinds = pick(g.Rand, nil, []string{"building"}, []string{"building", "floor"})
	default:
		rule.each = "site"
	}
	s.class, s.device = rule.class, rule.class != "" || rule.each == "device"
	var text strings.Builder
	source := ""
	if rule.record {
		rule.name = fmt.Sprintf("derived_%d", i)
		source = sc.recordSource(g, &rule, s, feature)
		fmt.Fprintf(&text, "  - {record: %s, for_each: %s, expr: '%s'", rule.name, forEach(&rule), source)
	} else {
		rule.name = fmt.Sprintf("A%d", i)
		if source = g.about(s, feature); g.oneIn(2) {
			source = pick(g.Rand, "not (%s)", "(%s) and ("+g.condition(s, 1)+")", "(%s) or ("+g.condition(s, 1)+")")
			source = strings.Replace(source, "%s", g.about(s, feature), 1)
		}
		fmt.Fprintf(&text, "  - {alert: %s, for_each: %s, expr: '%s', title: {zh: a, en: a}", rule.name, forEach(&rule), source)
		sc.makeLife(g, &rule, s, &text)
		if !strings.Contains(text.String(), "undecided") {
			g.alerts = append(g.alerts, rule.name)
		}
	}
	switch g.IntN(6) {
	case 0:
		rule.coverage = 0.3
		text.WriteString(", coverage: 0.3")
	case 1:
		rule.coverage = 0.2507
		text.WriteString(`, coverage: "${share}"`)
	}
	text.WriteString("}\n")
	rule.cond = mustParse(source)
	sc.rules = append(sc.rules, scenarioRule{rule, text.String()})
}

func (sc *scenario) recordSource(g *ruleMaker, rule *slowRule, s seat, feature string) string {
	m := made{class: rule.class, name: rule.name}
	defer func() {
		if rule.class != "" {
			g.records = append(g.records, m)
		}
	}()
	for range 5 {
		if f, ok := g.figure(s, feature); ok && g.oneIn(2) {
			if f.duration {
				f.text, f.duration, f.exact = "("+f.text+" / 1s)", false, false
			}
			m.figure = f
			return f.text
		}
		feature = pick(g.Rand, features[:]...)
	}
	m.condition = true
	return g.about(s, feature)
}

// makeLife gives an alert its times and severities.
func (sc *scenario) makeLife(g *ruleMaker, rule *slowRule, s seat, text *strings.Builder) {
	times := func(key string, d *time.Duration) {
		if g.oneIn(2) {
			*d = time.Duration(1+g.IntN(12)) * time.Second
			fmt.Fprintf(text, ", %s: %s", key, *d)
		}
	}
	times("for", &rule.wait)
	times("keep_firing_for", &rule.keep)
	rule.severity = pick(g.Rand, telemetry.Notice, telemetry.Warning)
	fmt.Fprintf(text, ", severity: %v", rule.severity)
	if g.oneIn(2) {
		return
	}
	times("severity_for", &rule.worseFor)
	var parts []string
	for sev := rule.severity; sev <= telemetry.Critical; sev++ {
		if g.oneIn(3) {
			continue
		}
		source := g.condition(s, 0)
		rule.worse = append(rule.worse, slowWorse{sev, mustParse(source)})
		parts = append(parts, fmt.Sprintf("%v: '%s'", sev, source))
	}
	if len(parts) > 0 {
		fmt.Fprintf(text, ", severity_when: {%s}", strings.Join(parts, ", "))
	}
}

func mustLoad(name string) *time.Location {
	l, err := time.LoadLocation(name)
	if err != nil {
		panic(err)
	}
	return l
}

func forEach(r *slowRule) string {
	switch {
	case r.class != "":
		return r.class
	case len(r.kinds) > 0:
		return "{zone: [" + strings.Join(r.kinds, ", ") + "]}"
	}
	return r.each
}

func mustParse(source string) *expr.Node {
	n, err := expr.Parse(source)
	if err != nil {
		panic(source + ": " + err.Error())
	}
	return n
}

// pack writes the rules as a pack.
func (sc *scenario) pack() string {
	var b strings.Builder
	b.WriteString("version: 1\npack: p\ntitle: {zh: 测试, en: Test}\n")
	b.WriteString("params: {limit: 10.1373, dwell: 3s, word: b, share: 0.2507}\nschedules:\n")
	for _, name := range scheduleNames {
		var list []string
		for _, p := range sc.periods[name] {
			list = append(list, p.yaml())
		}
		fmt.Fprintf(&b, "  %s: [%s]\n", name, strings.Join(list, ", "))
	}
	b.WriteString("rules:\n")
	for _, i := range sc.order {
		b.WriteString(sc.rules[i].text)
	}
	return b.String()
}

// makeSteps makes the samples and moments.
func (sc *scenario) makeSteps(r *rand.Rand, begin time.Time, count int) {
	s := sc.build()
	m := &seriesMaker{Rand: r, site: s, states: make([]seriesState, len(s.Points)), mono: telemetry.Mono(1000+r.IntN(5000)) * second}
	m.offset = begin.Sub(time.Unix(0, int64(m.mono)))
	for i := range m.states {
		m.states[i] = seriesState{number: math.Round((8.5+3*r.Float64())*4) / 4, busy: pick(r, 2, 3, 5, 9, 30)}
	}
	m.set = r.IntN(8) > 0
	for _, rule := range sc.rules {
		if !rule.record && r.IntN(4) == 0 {
			for _, subject := range append(sc.subjects(), "s1") {
				id := telemetry.Identity{Alert: rule.name, Subject: subject}
				for r.IntN(2) == 0 { // perhaps told twice
					sc.restored = append(sc.restored, telemetry.ActiveAlert{Identity: id, Unknown: r.IntN(2) == 0,
						Severity: pick(r, telemetry.Notice, telemetry.Warning, telemetry.Critical)})
				}
			}
		}
	}
	// Ten minutes at most: what lasts longer than that is looked at less often than each second.
	for end := m.mono + 550*second; len(sc.steps) < count && m.mono < end; {
		sc.steps = append(sc.steps, m.step(sc))
	}
}

func (sc *scenario) subjects() (list []string) {
	for i := range sc.devices {
		list = append(list, sc.devices[i].ID)
	}
	for i := range sc.zones {
		list = append(list, sc.zones[i].ID)
	}
	return list
}
