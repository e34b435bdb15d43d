package rules_test

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"linli/internal/telemetry"
	"linli/rules/expr"
)

// Conditions and numbers at one moment, for the reference. member is the device whose points scope.class.point means:
// inside a function over a group that of which it is asked, else the subject.

// pointOf returns the point that n names.
func (r *reference) pointOf(n *expr.Node, in *slowInstance, member int) *slowPoint {
	device := in.device
	if n.Op == expr.OpGroup {
		device = member
	}
	if p := r.points[device][n.Text]; p != nil {
		return p
	}
	panic("no point " + n.Text)
}

// defOf returns what is known of the point that n names, without a device.
func (r *reference) defOf(n *expr.Node, in *slowInstance) *telemetry.PointDef {
	class := r.site.classes[n.Class]
	if n.Op == expr.OpPoint {
		class = r.site.Devices[in.device].Class
	}
	if i := class.Point(n.Text); i >= 0 {
		return &class.Points[i]
	}
	for _, rule := range r.rules {
		if rule.record && rule.name == n.Text && rule.class == class.ID {
			kind := telemetry.Float
			if r.isCondition(rule.cond, &slowInstance{rule: rule, device: r.anyOf(class.ID)}) {
				kind = telemetry.Bool
			}
			return &telemetry.PointDef{Name: n.Text, Kind: kind}
		}
	}
	panic("no point " + n.Text)
}

func (r *reference) anyOf(class string) int {
	for d := range r.site.Devices {
		if r.site.Devices[d].Class.ID == class {
			return d
		}
	}
	return -1
}

// isCondition reports whether n is true or false, rather than a number.
func (r *reference) isCondition(n *expr.Node, in *slowInstance) bool {
	switch n.Op {
	case expr.OpNumber, expr.OpDuration, expr.OpNeg, expr.OpAdd, expr.OpSub, expr.OpMul, expr.OpDiv, expr.OpParam:
		return false
	case expr.OpPoint, expr.OpGroup:
		return r.defOf(n, in).Kind == telemetry.Bool
	case expr.OpCall:
		switch n.Text {
		case "any", "all", "at_least", "active", "silent", "no_reading", "no_protection", "faulty", "is_a", "life_safety",
			"bad", "known", "provided", "between", "schedule", "sequence", "undecided", "within":
			return true
		}
		return false
	}
	return true
}

// members returns the devices that the function n over a group asks, and the condition or number that it asks for.
func (r *reference) members(n *expr.Node, in *slowInstance) (devices []int, inner *expr.Node) {
	inner = n.Args[len(n.Args)-1]
	var group *expr.Node
	inner.Walk(func(n *expr.Node) {
		if n.Op == expr.OpGroup {
			group = n
		}
	})
	zone := in.zone
	if group.Scope != "zone" && group.Scope != "site" { // the nearest zone of that kind around the subject
		for zone >= 0 && r.site.Zones[zone].Kind != group.Scope {
			zone = r.site.Zones[zone].Parent
		}
		if zone < 0 {
			return nil, inner
		}
	}
	for d := range r.site.Devices {
		dev := &r.site.Devices[d]
		if dev.Class.ID == group.Class && (group.Scope == "site" || r.lies(dev.Zone, zone)) {
			devices = append(devices, d)
		}
	}
	return devices, inner
}

// lies reports whether zone is z or is in it. What is of the whole site has no zone and holds all.
func (r *reference) lies(zone, z int) bool {
	if z < 0 {
		return true
	}
	for ; zone >= 0; zone = r.site.Zones[zone].Parent {
		if zone == z {
			return true
		}
	}
	return false
}

// truth evaluates a condition.
func (r *reference) truth(n *expr.Node, in *slowInstance, member int) truth {
	t := r.condition(n, in, member)
	r.tally.outcome(n, t)
	return t
}

// installed returns what a condition is for ever, and true, where what is installed decides it. What is beneath it is then
// not read.
func (r *reference) installed(n *expr.Node, in *slowInstance, member int) (truth, bool) {
	switch n.Op {
	case expr.OpBool:
		return truthOf(n.Num != 0), true
	case expr.OpNot:
		t, ok := r.installed(n.Args[0], in, member)
		return t.not(), ok
	case expr.OpAnd, expr.OpOr:
		enough := yes // one that is enough
		if n.Op == expr.OpAnd {
			enough = no
		}
		a, aIs := r.installed(n.Args[0], in, member)
		b, bIs := r.installed(n.Args[1], in, member)
		if aIs && a == enough || bIs && b == enough {
			return enough, true
		}
		return enough.not(), aIs && bIs
	case expr.OpCall:
		switch n.Text {
		case "is_a", "life_safety", "within", "provided":
			return r.answer(n, in, member), true
		}
	}
	return dunno, false
}

func (r *reference) condition(n *expr.Node, in *slowInstance, member int) truth {
	if t, ok := r.installed(n, in, member); ok {
		return t
	}
	switch n.Op {
	case expr.OpPoint, expr.OpGroup:
		if rd := r.pointOf(n, in, member).now(); rd != nil {
			return rd.truth
		}
		return dunno
	case expr.OpNot:
		return r.truth(n.Args[0], in, member).not()
	case expr.OpAnd, expr.OpOr:
		a, b := r.truth(n.Args[0], in, member), r.truth(n.Args[1], in, member)
		if n.Op == expr.OpAnd {
			return min(a, b)
		}
		return max(a, b)
	case expr.OpCall:
		return r.answer(n, in, member)
	}
	return r.compare(n, in, member)
}

func (r *reference) compare(n *expr.Node, in *slowInstance, member int) truth {
	left, right := n.Args[0], n.Args[1]
	if left.Op == expr.OpString {
		left, right = right, left
	}
	if right.Op == expr.OpString { // a text, or the name of a state
		p := r.pointOf(left, in, member)
		rd := p.now()
		if rd == nil || !rd.has() {
			return dunno
		}
		want := right.Text
		for name, value := range r.params {
			want = strings.ReplaceAll(want, "${"+name+"}", value)
		}
		is := rd.text == want
		if p.def.Kind == telemetry.Enum {
			if !rd.num.exact() {
				return dunno
			}
			is = false
			for _, e := range p.def.Enum {
				is = is || e.Name == right.Text && float64(e.Code) == rd.num.lo
			}
		}
		return truthOf(is == (n.Op == expr.OpEqual))
	}
	a, b := r.number(left, in, member), r.number(right, in, member)
	switch n.Op {
	case expr.OpLess:
		return less(a, b)
	case expr.OpGreater:
		return less(b, a)
	case expr.OpLessEqual:
		return less(b, a).not()
	case expr.OpGreaterEqual:
		return less(a, b).not()
	}
	same := dunno
	if a.exact() && b.exact() {
		same = truthOf(a.lo == b.lo)
	} else if a.hi < b.lo || b.hi < a.lo {
		same = no
	}
	if n.Op == expr.OpEqual {
		return same
	}
	return same.not()
}

// less is decided where it is the same for every pair of values that the two may have.
func less(a, b bounds) truth {
	always, never := a.hi < b.lo, a.lo >= b.hi
	switch {
	case always:
		return yes
	case never:
		return no
	}
	return dunno
}

// answer evaluates a function that is true or false.
func (r *reference) answer(n *expr.Node, in *slowInstance, member int) truth {
	switch n.Text {
	case "any", "all", "at_least":
		trues, falses, unknowns := r.poll(n, in)
		need := 1
		switch n.Text {
		case "all":
			need = trues + falses + unknowns
		case "at_least":
			need = int(r.number(n.Args[0], in, member).lo)
		}
		switch {
		case trues >= need:
			return yes
		case trues+unknowns < need:
			return no
		}
		return dunno
	case "active":
		for _, other := range r.instances {
			if other.rule.name == n.Args[0].Text && other.active {
				return yes
			}
		}
		return no
	case "is_a":
		return truthOf(r.site.Devices[in.device].Class.ID == n.Args[0].Text)
	case "bad", "known":
		rd := r.pointOf(n.Args[0], in, member).now()
		return truthOf(rd != nil && rd.has() == (n.Text == "known"))
	case "provided":
		p := r.pointOf(n.Args[0], in, member)
		return truthOf(p.provided || p.seen())
	case "between":
		return r.between(n)
	case "schedule":
		return r.scheduled(n, in)
	case "sequence":
		return r.sequence(n, in, member)
	case "undecided":
		return r.undecided(n, in)
	case "within":
		for z := in.zone; z >= 0; z = r.site.Zones[z].Parent {
			if r.site.Zones[z].Kind == n.Args[0].Text {
				return yes
			}
		}
		return no
	}
	return r.ofDevice(n.Text, in.device)
}

// poll asks each device of a group.
func (r *reference) poll(n *expr.Node, in *slowInstance) (trues, falses, unknowns int) {
	devices, inner := r.members(n, in)
	for _, d := range devices {
		switch r.truth(inner, in, d) {
		case yes:
			trues++
		case no:
			falses++
		default:
			unknowns++
		}
	}
	return trues, falses, unknowns
}

// providedBy returns the points that units provide for a device.
func (r *reference) providedBy(device int) (list []*slowPoint) {
	dev := &r.site.Devices[device]
	for i := range dev.Class.Points {
		if p := r.points[device][dev.Class.Points[i].Name]; p.provided {
			list = append(list, p)
		}
	}
	return list
}

// ofDevice answers the questions about the subject's device.
func (r *reference) ofDevice(question string, device int) truth {
	all := r.providedBy(device)
	var vital, needed []*slowPoint
	for _, p := range all {
		if p.def.LifeSafety {
			vital = append(vital, p)
		}
		if p.def.LifeSafety || !p.def.Optional {
			needed = append(needed, p)
		}
	}
	if len(needed) == 0 {
		needed = all
	}
	switch question {
	case "life_safety":
		return truthOf(len(vital) > 0)
	case "silent":
		return silent(all)
	case "no_reading":
		return min(silent(all).not(), failing(needed))
	case "no_protection":
		return min(silent(all).not(), failing(vital))
	case "faulty":
		for _, p := range all {
			if p.def.Name == "fault" && p.def.Kind == telemetry.Bool {
				if rd := p.now(); rd != nil {
					return rd.truth
				}
				return dunno
			}
		}
		return no
	}
	panic("no function " + question)
}

// silent: every point is reported as not answered. One that answers is enough to know that it is not so; without points
// there is nobody to be silent.
func silent(points []*slowPoint) truth {
	answers, unread := len(points) == 0, false
	for _, p := range points {
		if !p.seen() {
			unread = true
		} else if p.now().quality != telemetry.BadComm {
			answers = true
		}
	}
	switch {
	case answers:
		return no
	case unread:
		return dunno
	}
	return yes
}

// failing: one of the points has no value, and not because it was taken out of service.
func failing(points []*slowPoint) truth {
	t := no
	for _, p := range points {
		switch {
		case !p.seen():
			t = max(t, dunno)
		case !p.now().has() && p.now().quality != telemetry.BadMaintenance:
			return yes
		}
	}
	return t
}

// undecided: some other alert of the same subject cannot be decided for that long.
func (r *reference) undecided(n *expr.Node, in *slowInstance) truth {
	for _, other := range r.instances {
		if other == in || other.rule.record || other.subject != in.subject || other.rule.asksUndecided() {
			continue
		}
		if d, stuck := r.stuckFor(other); stuck && d >= r.duration(n.Args[0]) {
			return yes
		}
	}
	return no
}

// number evaluates a number, a duration in seconds, or a state's code.
func (r *reference) number(n *expr.Node, in *slowInstance, member int) bounds {
	switch n.Op {
	case expr.OpNumber, expr.OpDuration:
		return exactly(n.Num)
	case expr.OpParam:
		return exactly(r.literal(n))
	case expr.OpPoint, expr.OpGroup:
		if rd := r.pointOf(n, in, member).now(); rd != nil {
			return rd.num
		}
		return nothing()
	case expr.OpNeg:
		x := r.number(n.Args[0], in, member)
		return bounds{-x.hi, -x.lo}
	case expr.OpCall:
		return r.figure(n, in, member)
	}
	a, b := r.number(n.Args[0], in, member), r.number(n.Args[1], in, member)
	switch n.Op {
	case expr.OpAdd:
		return bounds{a.lo + b.lo, a.hi + b.hi}
	case expr.OpSub:
		return bounds{a.lo - b.hi, a.hi - b.lo}
	case expr.OpMul:
		return hull(product(a.lo, b.lo), product(a.lo, b.hi), product(a.hi, b.lo), product(a.hi, b.hi))
	case expr.OpDiv:
		if b.lo <= 0 && b.hi >= 0 {
			return nothing()
		}
		return hull(quotient(a.lo, b.lo), quotient(a.lo, b.hi), quotient(a.hi, b.lo), quotient(a.hi, b.hi))
	}
	panic(fmt.Sprintf("no number: %s", n))
}

// hull is what lies between the corners of two bounds.
func hull(corners ...float64) bounds {
	b := exactly(corners[0])
	for _, c := range corners {
		b = bounds{min(b.lo, c), max(b.hi, c)}
	}
	return b
}

func product(a, b float64) float64 {
	if a == 0 || b == 0 { // nought times anything, however large
		return 0
	}
	return a * b
}

func quotient(a, b float64) float64 {
	if math.IsInf(b, 0) { // of something finite, or as large as one likes by something that grows faster
		return 0
	}
	return a / b
}

// literal is the value of a parameter, or of a literal.
func (r *reference) literal(n *expr.Node) float64 {
	if n.Op != expr.OpParam {
		return n.Num
	}
	text := r.params[n.Text]
	if v, err := strconv.ParseFloat(text, 64); err == nil {
		return v
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		panic(err)
	}
	return d.Seconds()
}

func (r *reference) duration(n *expr.Node) time.Duration {
	return time.Duration(r.literal(n) * float64(time.Second))
}

// figure evaluates a function that gives a number.
func (r *reference) figure(n *expr.Node, in *slowInstance, member int) bounds {
	switch n.Text {
	case "count":
		trues, _, unknowns := r.poll(n, in)
		return bounds{float64(trues), float64(trues + unknowns)}
	case "avg", "max", "min":
		return r.ofGroup(n, in)
	case "hour", "weekday":
		if r.local.IsZero() {
			return nothing()
		}
		if n.Text == "hour" {
			return exactly(float64(r.local.Hour()))
		}
		day := r.local.Weekday()
		if day == time.Sunday {
			day = 7
		}
		return exactly(float64(day))
	case "abs":
		x := r.number(n.Args[0], in, member)
		if x.lo <= 0 && x.hi >= 0 {
			return bounds{0, max(-x.lo, x.hi)}
		}
		return hull(math.Abs(x.lo), math.Abs(x.hi))
	case "round": // halves away from nought
		whole := func(v float64) float64 { return math.Copysign(math.Floor(math.Abs(v)+0.5), v) }
		x := r.number(n.Args[0], in, member)
		return bounds{whole(x.lo), whole(x.hi)}
	case "greatest", "least":
		x := r.number(n.Args[0], in, member)
		for _, a := range n.Args[1:] {
			y := r.number(a, in, member)
			if n.Text == "greatest" {
				x = bounds{max(x.lo, y.lo), max(x.hi, y.hi)}
			} else {
				x = bounds{min(x.lo, y.lo), min(x.hi, y.hi)}
			}
		}
		return x
	case "absent_for":
		return exactly(r.absent(r.pointOf(n.Args[0], in, member)).Seconds())
	}
	return r.overTime(n, in, member)
}

func (r *reference) ofGroup(n *expr.Node, in *slowInstance) bounds {
	devices, inner := r.members(n, in)
	if len(devices) == 0 {
		return nothing()
	}
	var all bounds
	for i, d := range devices {
		x := r.number(inner, in, d)
		switch {
		case i == 0:
			all = x
		case n.Text == "max":
			all = bounds{max(all.lo, x.lo), max(all.hi, x.hi)}
		case n.Text == "min":
			all = bounds{min(all.lo, x.lo), min(all.hi, x.hi)}
		default:
			all = bounds{all.lo + x.lo, all.hi + x.hi}
		}
	}
	if n.Text == "avg" {
		count := float64(len(devices))
		return bounds{all.lo / count, all.hi / count}
	}
	return all
}

// absent returns for how long a point has had no value.
func (r *reference) absent(p *slowPoint) time.Duration {
	since := r.at
	for i := len(p.history) - 1; i >= 0; i-- {
		rd := &p.history[i]
		if rd.has() {
			return r.at.Sub(since)
		}
		since = rd.at
	}
	return r.at.Sub(r.start) // it never had one
}
