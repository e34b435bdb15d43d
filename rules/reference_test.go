package rules_test

import (
	"fmt"
	"math"
	"sort"
	"time"

	"linli/internal/telemetry"
	"linli/rules/expr"
)

// The reference is a second engine, written from docs/rules.md to be obvious and not to be fast. It remembers all
// that ever happened and computes every condition anew, in every second. It shares with the engine the syntax tree
// and the inventory, and nothing else.
//
// Time is in whole seconds, so that whatever changes by itself changes at a moment at which it looks.

// truth is what is known of a condition. The order matters: "and" is the least, "or" the greatest.
type truth int8

const (
	no truth = iota
	dunno
	yes
)

func (t truth) not() truth { return yes - t }

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

// bounds is what is known of a number: it lies somewhere from lo to hi. One of which nothing is known lies between
// the infinities.
type bounds struct{ lo, hi float64 }

func exactly(v float64) bounds   { return bounds{v, v} }
func nothing() bounds            { return bounds{math.Inf(-1), math.Inf(1)} }
func (b bounds) known() bool     { return b != nothing() }
func (b bounds) exact() bool     { return b.lo == b.hi }
func (b bounds) lowEnd() bounds  { return bounds{b.lo, b.lo} }
func (b bounds) highEnd() bounds { return bounds{b.hi, b.hi} }

// slowRule is a rule as the generator made it.
type slowRule struct {
	name     string
	record   bool
	class    string   // for_each: a class, or else
	each     string   // device, zone or site
	kinds    []string // of zones
	cond     *expr.Node
	severity telemetry.Severity
	worse    []slowWorse
	wait     time.Duration
	keep     time.Duration
	worseFor time.Duration
	coverage float64
}

type slowWorse struct {
	severity telemetry.Severity
	cond     *expr.Node
}

// asksUndecided reports whether the rule asks for those that cannot be decided, and so is none of them.
func (r *slowRule) asksUndecided() bool {
	found := false
	for _, n := range r.conditions() {
		n.Walk(func(n *expr.Node) { found = found || n.Op == expr.OpCall && n.Text == "undecided" })
	}
	return found
}

func (r *slowRule) conditions() []*expr.Node {
	list := []*expr.Node{r.cond}
	for _, w := range r.worse {
		list = append(list, w.cond)
	}
	return list
}

// reading is one value of a point.
type reading struct {
	at      telemetry.Mono // when it was taken into account
	round   int
	quality telemetry.Quality
	num     bounds
	truth   truth
	text    string
	lost    bool // no reading: the process started anew
}

func (r *reading) has() bool { return !r.lost && !r.quality.Bad() }

// slowPoint is a point with everything that was ever read of it.
type slowPoint struct {
	def      *telemetry.PointDef
	provided bool // by a unit; otherwise history is its constant, if it has one
	derived  bool
	record   *slowInstance // of a derived point: what computes it
	history  []reading
	newest   telemetry.Mono // time of the newest sample
	fresh    []reading      // good ones of this round, of event points
	happened *reading       // while a condition is asked about one of those
}

// seen reports whether the point has been read since the process started.
func (p *slowPoint) seen() bool { return len(p.history) > 0 && !p.history[len(p.history)-1].lost }

// now returns the present reading, nil before the first.
func (p *slowPoint) now() *reading {
	if p.happened != nil {
		return p.happened
	}
	if !p.seen() {
		return nil
	}
	return &p.history[len(p.history)-1]
}

// reference is the slow engine.
type reference struct {
	site      *site
	rules     []*slowRule // each after those that it needs
	params    map[string]string
	schedules map[string][]slowPeriod
	byID      map[telemetry.PointID]*slowPoint
	points    []map[string]*slowPoint // by device: its points and what was derived for it
	others    map[string]*slowPoint   // derived for a zone or the site: rule and subject
	instances []*slowInstance

	began     bool
	anew      bool // nothing has been decided since a restart
	start, at telemetry.Mono
	now       telemetry.Now
	local     time.Time
	round     int

	late, foreign uint64 // samples, since the process started

	said  []telemetry.Transition
	noted map[string][]note // what was derived in this step, by rule and subject
	tally *tally
}

// note is the value of a derived point from a moment on.
type note struct {
	at      telemetry.Mono
	quality telemetry.Quality
	value   float64
}

// slowInstance is a rule for one subject.
type slowInstance struct {
	rule         *slowRule
	subject      string
	device, zone int
	follows      []*follow // in the order of the expressions
	inputs       []*slowPoint
	read         telemetry.Mono // when all inputs had been read; Never before
	longest      time.Duration  // window
	into         *slowPoint     // of a derived point

	log      []logged // what the conditions were in every round
	from     int      // the round from which on the present state lasts
	given    int      // the round from which on the present severity was given
	active   bool
	restored bool
	unknown  bool
	severity telemetry.Severity
}

// logged is what the conditions of an instance were in one round.
type logged struct {
	at     telemetry.Mono
	cond   truth
	worse  []truth
	easing bool // a lesser severity would do
	stuck  bool // it cannot be decided, and not because the engine has just started
	gap    bool // the process was not there
}

func newReference(s *site, rules []*slowRule, params map[string]string, schedules map[string][]slowPeriod) *reference {
	r := &reference{site: s, rules: rules, params: params, schedules: schedules, byID: map[telemetry.PointID]*slowPoint{},
		others: map[string]*slowPoint{}, tally: newTally()}
	for d := range s.Devices {
		dev := &s.Devices[d]
		own := map[string]*slowPoint{}
		for i := range dev.Class.Points {
			p := &slowPoint{def: &dev.Class.Points[i]}
			if id := dev.Points[i]; id != telemetry.NoPoint {
				p.provided = true
				r.byID[id] = p
			} else if v := s.Constant(d, i); !v.IsZero() {
				p.history = []reading{readingOf(p.def.Kind, v, telemetry.Good)}
			}
			own[p.def.Name] = p
		}
		r.points = append(r.points, own)
	}
	for _, rule := range rules {
		r.addInstances(rule)
	}
	return r
}

func (r *reference) addInstances(rule *slowRule) {
	add := func(subject string, device, zone int) {
		in := &slowInstance{rule: rule, subject: subject, device: device, zone: zone, read: telemetry.Never}
		if rule.record {
			in.into = &slowPoint{derived: true, record: in, provided: true, def: &telemetry.PointDef{Name: rule.name, Kind: telemetry.Float}}
			if r.isCondition(rule.cond, in) {
				in.into.def.Kind = telemetry.Bool
			}
			r.others[rule.name+" "+subject] = in.into
			if device >= 0 {
				r.points[device][rule.name] = in.into
			}
		}
		for _, n := range rule.conditions() {
			r.prepare(n, in, device)
		}
		r.instances = append(r.instances, in)
	}
	switch {
	case rule.class != "":
		for d := range r.site.Devices {
			if r.site.Devices[d].Class.ID == rule.class {
				add(r.site.Devices[d].ID, d, r.site.Devices[d].Zone)
			}
		}
	case rule.each == "device":
		for d := range r.site.Devices {
			if !r.site.Devices[d].System {
				add(r.site.Devices[d].ID, d, r.site.Devices[d].Zone)
			}
		}
	case rule.each == "zone":
		for z := range r.site.Zones {
			if len(rule.kinds) == 0 || contains(rule.kinds, r.site.Zones[z].Kind) {
				add(r.site.Zones[z].ID, -1, z)
			}
		}
	default:
		add(r.site.Site, -1, -1)
	}
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}

// readingOf is what a sample of quality q with value v says about a point of a kind. A value that should be there and
// is not, or is no number, is a sensor's failure.
func readingOf(kind telemetry.Kind, v telemetry.Value, q telemetry.Quality) reading {
	rd := reading{quality: q, num: nothing(), truth: dunno}
	if q.Bad() {
		return rd
	}
	isText := v.Kind() == telemetry.KindText
	number := v.Float()
	switch {
	case v.IsZero(), isText != (kind == telemetry.KindText), !isText && (math.IsNaN(number) || math.IsInf(number, 0)):
		rd.quality = telemetry.BadSensor
	case isText:
		rd.text = v.Text()
	case q == telemetry.OverRange:
		rd.num = bounds{number, math.Inf(1)}
	case q == telemetry.UnderRange:
		rd.num = bounds{math.Inf(-1), number}
	default:
		rd.num = exactly(number)
	}
	if rd.has() && kind == telemetry.Bool {
		rd.truth = truthOf(number != 0)
	}
	return rd
}

// restore takes over alerts that were active before the process started.
func (r *reference) restore(active []telemetry.ActiveAlert) (gone int) {
	for _, a := range active {
		in := r.find(a.Identity)
		if in == nil {
			gone++
			continue
		}
		if in.active {
			continue
		}
		in.active, in.restored, in.unknown, in.severity = true, true, a.Unknown, a.Severity
	}
	return gone
}

// activeAlerts is what package alert would give a new process.
func (r *reference) activeAlerts() (list []telemetry.ActiveAlert) {
	for _, in := range r.instances {
		if in.active {
			list = append(list, telemetry.ActiveAlert{Identity: telemetry.Identity{Alert: in.rule.name, Subject: in.subject}, Severity: in.severity, Unknown: in.unknown})
		}
	}
	return list
}

func (r *reference) find(id telemetry.Identity) *slowInstance {
	for _, in := range r.instances {
		if in.rule.name == id.Alert && in.subject == id.Subject && !in.rule.record {
			return in
		}
	}
	return nil
}

// closed says that people closed an alert.
func (r *reference) closed(id telemetry.Identity) {
	if in := r.find(id); in != nil && in.active {
		in.active, in.restored, in.unknown = false, false, false
		in.from = len(in.log)
	}
}

// restart ends the process; the next step, which comes at then, is the first of a new one. What is active and what was
// gathered over time is known again, the values are not, and nobody knows what happens until then.
func (r *reference) restart(then telemetry.Mono) {
	lose := func(p *slowPoint) {
		if p.provided && p.seen() {
			p.history = append(p.history, reading{lost: true, at: then, round: r.round})
		}
	}
	for _, p := range r.byID {
		lose(p)
	}
	for _, in := range r.instances {
		if in.into != nil {
			lose(in.into)
		}
		for _, f := range in.follows {
			if n := len(f.pieces); n > 0 && f.pieces[n-1].v.known() {
				f.pieces = append(f.pieces, piece{r.at, nothing()})
			}
		}
		in.read, in.longest = telemetry.Never, 0 // its windows have what they had
		if in.rule.record {
			continue
		}
		if n := len(in.log); n > 0 {
			gap := logged{at: r.at, cond: dunno, gap: true, easing: in.log[n-1].easing, stuck: in.log[n-1].stuck}
			for range in.rule.worse {
				gap.worse = append(gap.worse, dunno)
			}
			in.log = append(in.log, gap)
		}
		in.restored = in.active
	}
	r.anew, r.late, r.foreign = true, 0, 0
}

const second = telemetry.Mono(time.Second)

// step takes a batch of samples up to now. Each is taken at its own moment, but not before what is decided already, not
// before the one that came before it, and not after now.
func (r *reference) step(now telemetry.Now, samples []telemetry.Sample) {
	r.said, r.noted = nil, map[string][]note{}
	if back := r.at.Sub(now.Mono); r.began && back > 0 { // the present does not go back
		now.Mono = r.at
		if !now.Wall.IsZero() {
			now.Wall = now.Wall.Add(back)
		}
	}
	r.now = now
	first := !r.began
	if r.anew {
		r.anew = false
		r.moment(now.Mono, samples)
		return
	}
	if first {
		r.began, r.at = true, now.Mono
		for i := range samples {
			r.at = min(r.at, samples[i].Time)
		}
		r.start = r.at
	}
	i := 0
	for t := r.at; t <= now.Mono; t += second {
		from := i
		for i < len(samples) && (samples[i].Time <= t || t == now.Mono) {
			i++
		}
		if t > r.at || t == now.Mono || first || i > from {
			r.moment(t, samples[from:i])
		}
	}
	r.at = now.Mono
}

// moment applies the samples of one moment and decides. Events do not replace each other: of several of one point at
// one moment each has its turn.
func (r *reference) moment(t telemetry.Mono, samples []telemetry.Sample) {
	for {
		r.round++
		for _, p := range r.byID {
			p.fresh = nil
		}
		var later []telemetry.Sample
		had := map[telemetry.PointID]bool{}
		for _, s := range samples {
			p := r.byID[s.Point]
			if p != nil && p.def.Event && had[s.Point] {
				later = append(later, s)
				continue
			}
			had[s.Point] = true
			r.apply(t, s)
		}
		r.decide(t)
		if samples = later; len(samples) == 0 {
			return
		}
	}
}

func (r *reference) apply(t telemetry.Mono, s telemetry.Sample) {
	p := r.byID[s.Point]
	if p == nil {
		r.foreign++ // of no point of ours
		return
	}
	taken := min(s.Time, r.now.Mono) // a sample from the future is one of now
	if p.seen() && taken < p.newest {
		r.late++
		return
	}
	p.newest = taken
	rd := readingOf(p.def.Kind, s.Value, s.Quality)
	rd.at, rd.round = t, r.round
	if n := len(p.history); n > 0 && p.history[n-1].round == r.round {
		p.history[n-1] = rd // what was replaced before anything was decided never was
	} else {
		p.history = append(p.history, rd)
	}
	if p.def.Event && rd.has() {
		p.fresh = append(p.fresh, rd)
	}
}

// decide evaluates everything at t.
func (r *reference) decide(t telemetry.Mono) {
	r.at, r.local = t, time.Time{}
	if !r.now.Wall.IsZero() {
		r.local = r.now.Wall.Add(t.Sub(r.now.Mono)).In(r.site.Location)
	}
	for _, in := range r.instances {
		for _, f := range in.follows {
			r.note(f, in)
		}
		if in.read == telemetry.Never && in.allRead() {
			in.read = t
		}
		if in.rule.record {
			r.derive(in)
		} else {
			r.live(in)
		}
	}
}

// allRead reports whether every point that the rule reads has been read. Of event points nothing need ever come.
func (in *slowInstance) allRead() bool {
	for _, p := range in.inputs {
		if p.provided && !p.seen() && !p.def.Event {
			return false
		}
	}
	return true
}

// settled reports whether what is unknown now is so in earnest, and not because the engine has just started.
func (r *reference) settled(in *slowInstance) bool {
	return r.at >= in.settledAt()
}

// settledAt returns the moment from which on that is so: everything has been read and the windows have had their length,
// those of the derived points that the rule reads too.
func (in *slowInstance) settledAt() telemetry.Mono {
	if in.read == telemetry.Never {
		return telemetry.Never
	}
	at := in.read.Add(in.longest)
	for _, p := range in.inputs {
		if p.record != nil {
			at = max(at, p.record.settledAt())
		}
	}
	return at
}

// derive computes a derived point.
func (r *reference) derive(in *slowInstance) {
	rd := reading{at: r.at, round: r.round, num: nothing(), truth: dunno, quality: telemetry.BadSensor}
	value := math.NaN()
	if in.into.def.Kind == telemetry.Bool {
		if rd.truth = r.truth(in.rule.cond, in, in.device); rd.truth != dunno {
			value, rd.quality = float64(rd.truth/yes), telemetry.Good
			rd.num = exactly(value)
		}
	} else {
		rd.num = r.number(in.rule.cond, in, in.device)
		low, high := !math.IsInf(rd.num.lo, -1), !math.IsInf(rd.num.hi, 1)
		switch {
		case low && high && rd.num.exact():
			value, rd.quality = rd.num.lo, telemetry.Good
		case low && high:
			value, rd.quality = rd.num.lo, telemetry.Uncertain
		case low:
			value, rd.quality = rd.num.lo, telemetry.OverRange
		case high:
			value, rd.quality = rd.num.hi, telemetry.UnderRange
		}
	}
	r.tally.decided(rd.num.exact())
	p := in.into
	if !p.seen() && !rd.has() && !r.settled(in) {
		return // not known yet is not news
	}
	news := p.seen() || rd.has()
	p.history = append(p.history, rd)
	if news {
		key := in.rule.name + " " + in.subject
		r.noted[key] = append(r.noted[key], note{r.at, rd.quality, value})
	}
}

// say notes a transition.
func (r *reference) say(op telemetry.TransitionOp, in *slowInstance, c truth) {
	var wall time.Time
	if !r.now.Wall.IsZero() {
		wall = r.now.Wall.Add(r.at.Sub(r.now.Mono))
	}
	condition := [...]telemetry.Condition{no: telemetry.ConditionFalse, dunno: telemetry.ConditionUnknown, yes: telemetry.ConditionTrue}[c]
	r.said = append(r.said, telemetry.Transition{
		Identity: telemetry.Identity{Alert: in.rule.name, Subject: in.subject},
		Op:       op, Condition: condition, Time: r.at, Wall: wall, Severity: in.severity, Device: in.device, Zone: in.zone,
	})
}

// lines writes transitions for comparison, in the order of time, and at one moment by name.
func lines(list []telemetry.Transition) []string {
	list = append([]telemetry.Transition(nil), list...)
	sort.SliceStable(list, func(i, j int) bool {
		a, b := &list[i], &list[j]
		if a.Time != b.Time {
			return a.Time < b.Time
		}
		return a.Alert+" "+a.Subject < b.Alert+" "+b.Subject
	})
	out := make([]string, len(list))
	for i, t := range list {
		wall := "unset"
		if !t.Wall.IsZero() {
			wall = t.Wall.Format(time.RFC3339)
		}
		out[i] = fmt.Sprintf("%gs (%s) %v %s %s %v condition %d zone %d device %d", time.Duration(t.Time).Seconds(), wall, t.Op, t.Alert,
			t.Subject, t.Severity, t.Condition, t.Zone, t.Device)
	}
	return out
}
