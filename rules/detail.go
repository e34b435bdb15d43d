package rules

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"linli/internal/telemetry"
	"linli/rules/expr"
)

// detail says in both languages what decided: the operands with their values, short enough to be read out.
func (e *Engine) detail(op telemetry.TransitionOp, i uint32, in *instance) telemetry.Text {
	return telemetry.Text{Zh: e.detailIn("zh", op, i, in), En: e.detailIn("en", op, i, in)}
}

func (e *Engine) detailIn(lang string, op telemetry.TransitionOp, i uint32, in *instance) string {
	x := &explainer{e: e, in: in, op: op, lang: lang, b: e.explains(i)}
	f := e.frameOf(i)
	want := in.cond(f)
	x.decided(in.prog.cond, want)
	var worse []string // what decided the severity
	if op == telemetry.Raise || op == telemetry.Changed {
		facts := x.facts
		x.facts = nil
		for k, s := range in.prog.sev {
			if s.severity == in.severity && in.sev[k](f) == expr.True {
				x.decided(s.cond, expr.True)
			}
		}
		worse, x.facts = x.facts, facts
		// What is told already is not told again, unless it had to hold for longer.
		if in.prog.sevFor <= in.prog.wait {
			worse = slices.DeleteFunc(worse, func(f string) bool { return slices.Contains(x.facts, f) })
		}
		// Of one value the limit that decided the severity is enough.
		for _, f := range worse {
			x.facts = slices.DeleteFunc(x.facts, func(s string) bool { return s == f })
			if i := strings.IndexAny(f, "（("); i > 0 {
				x.facts = slices.DeleteFunc(x.facts, func(s string) bool { return strings.HasPrefix(s, f[:i]) })
			}
		}
	}
	text := strings.Join(x.facts, " · ")
	if op == telemetry.Raise && in.prog.wait > 0 && text != "" {
		text += held(in.prog.wait, lang)
	}
	for _, f := range worse {
		text += " · " + f
	}
	if len(worse) > 0 && in.prog.sevFor > 0 {
		text += held(in.prog.sevFor, lang)
	}
	if text == "" && op == telemetry.Clear {
		if text = "condition gone"; lang == "zh" {
			text = "条件已解除"
		}
	}
	return strings.TrimPrefix(text, " · ")
}

// held says for how long a condition had been true.
func held(d time.Duration, lang string) string {
	if lang == "zh" {
		return "，已 " + formatDuration(d, lang)
	}
	return ", for " + formatDuration(d, lang)
}

// explainer walks a condition and collects what made it as it is.
type explainer struct {
	e     *Engine
	in    *instance
	op    telemetry.TransitionOp
	b     *instanceBinder
	lang  string
	facts []string
}

func (x *explainer) add(zh, en string) {
	s := en
	if x.lang == "zh" {
		s = zh
	}
	for i, f := range x.facts {
		switch {
		case f == s, s != "" && (strings.HasPrefix(f, s+"（") || strings.HasPrefix(f, s+" (")):
			return
		case strings.HasPrefix(s, f+"（") || strings.HasPrefix(s, f+" ("):
			x.facts[i] = s // A value with its limit says more than the value.
			return
		}
	}
	if s != "" && len(x.facts) < 6 {
		x.facts = append(x.facts, s)
	}
}

// decided adds why n is v.
func (x *explainer) decided(n *expr.Node, v expr.Tri) {
	switch {
	case n.Op == expr.OpNot:
		x.decided(n.Args[0], v.Not())
	case n.Op == expr.OpOr && v == expr.False:
		for _, a := range x.eligible(n) {
			x.decided(a, v)
		}
	case n.Op == expr.OpAnd || n.Op == expr.OpOr:
		for _, a := range n.Args {
			if x.b.tri(a, x.b.Self()) == v {
				x.decided(a, v)
			}
		}
	case v == expr.Unknown:
		x.unknown(n)
	case n.Op == expr.OpPoint:
		x.boolPoint(n, v)
	case n.Op.Comparison():
		x.comparison(n)
	case n.Op == expr.OpCall:
		x.call(n, v)
	}
}

// boolPoint names a point that a unit provides; a constant decides nothing that anybody wants to read.
func (x *explainer) boolPoint(n *expr.Node, v expr.Tri) {
	if _, _, provided := x.e.pointID(x.b.Self(), n.Text); provided && x.e.there(x.b.Self(), n.Text) {
		x.yesOrNo(n.Def, v)
	}
}

func (x *explainer) yesOrNo(def *telemetry.PointDef, v expr.Tri) {
	title := def.Title.In(x.lang)
	if v == expr.True {
		x.add(title, title)
	} else {
		x.add(title+"：否", title+": no")
	}
}

// unknown names the operands beneath n that have no value, with the reason.
func (x *explainer) unknown(n *expr.Node) {
	n.Walk(func(n *expr.Node) {
		switch n.Op {
		case expr.OpPoint:
			if n.Def == nil || x.in.device < 0 {
				return
			}
			c := x.b.cell(x.b.Self(), n.Text)
			switch {
			case c.Quality == telemetry.OverRange || c.Quality == telemetry.UnderRange:
				v := formatValue(c, n.Def, x.lang)
				x.add(n.Def.Title.In("zh")+" "+v+"（超出量程）", n.Def.Title.In("en")+" "+v+" (beyond the scale)")
			case n.Def.Event && !c.Seen: // nothing happened yet, which is known
			case !c.HasValue() && x.e.there(x.b.Self(), n.Text):
				zh, en := reason(c)
				x.add(n.Def.Title.In("zh")+"未知（"+zh+"）", n.Def.Title.In("en")+" unknown ("+en+")")
			}
		case expr.OpGroup:
			for _, d := range x.b.Group(n.Scope, n.Class) {
				if c := x.b.cell(d, n.Text); !c.HasValue() && x.e.there(d, n.Text) && (c.Seen || n.Def == nil || !n.Def.Event) {
					zh, en := reason(c)
					x.add(x.e.deviceTitle(d, "zh")+"未知（"+zh+"）", x.e.deviceTitle(d, "en")+" unknown ("+en+")")
				}
			}
		case expr.OpCall:
			if n.Text == "faulty" {
				if id, def := x.e.faultPoint(x.b.Self()); def != nil {
					zh, en := reason(&x.e.cells[id])
					x.add(def.Title.In("zh")+"未知（"+zh+"）", def.Title.In("en")+" unknown ("+en+")")
				}
			}
			if n.Text == "hour" || n.Text == "weekday" || n.Text == "between" || n.Text == "schedule" {
				x.add("时间未校准", "clock not set")
			}
		}
	})
	if len(x.facts) == 0 {
		x.add("数据不足", "not enough data yet")
	}
}

func reason(c *expr.Cell) (zh, en string) {
	switch {
	case !c.Seen:
		return "尚未读到", "not read yet"
	case c.Quality == telemetry.BadComm:
		return "无应答", "no answer"
	case c.Quality == telemetry.BadMaintenance:
		return "停用检修", "out of service"
	}
	return "无读数", "no reading"
}

func (x *explainer) comparison(n *expr.Node) {
	l, r := n.Args[0], n.Args[1]
	if l.Op == expr.OpCall && (l.Text == "hour" || l.Text == "weekday") {
		x.calendar(n)
		return
	}
	if l.Op == expr.OpNumber || l.Op == expr.OpDuration || l.Op == expr.OpString {
		l, r = r, l
	}
	if x.missing(l) && l.Op != expr.OpCall {
		if l.Op != expr.OpPoint {
			x.operands(l) // of a sum, those that are there
		}
		return
	}
	if l.Op == expr.OpPoint && (l.Type == expr.TypeEnum || l.Type == expr.TypeText) {
		c := x.b.cell(x.b.Self(), l.Text)
		x.add(l.Def.Title.In("zh")+"："+formatValue(c, l.Def, "zh"), l.Def.Title.In("en")+": "+formatValue(c, l.Def, "en"))
		return
	}
	if l.Op == expr.OpCall && (expr.OverTime(l.Text) || l.Text == "absent_for") && x.missing(l) {
		return
	}
	if l.Op == expr.OpCall && l.Text == "absent_for" {
		x.absence(l)
		return
	}
	zh, en, unit, ok := x.measure(l)
	if !ok {
		// Arithmetic and counts: name the points that went into it.
		x.operands(n)
		return
	}
	v := x.quantity(l, x.value(l), unit)
	for _, f := range x.facts {
		// Of a value between two limits the first limit is enough.
		if strings.HasPrefix(f, zh+" "+v+"（") || strings.HasPrefix(f, en+" "+v+" (") {
			return
		}
	}
	if n.Op == expr.OpEqual || n.Op == expr.OpNotEqual {
		x.add(zh+" "+v, en+" "+v)
		return
	}
	limit := x.quantity(l, x.value(r), "")
	if l.Type == expr.TypeDuration {
		limit = x.quantity(l, x.value(r), "s")
	}
	x.add(zh+" "+v+"（限 "+limit+"）", en+" "+v+" (limit "+limit+")")
}

// operands names what went into arithmetic.
func (x *explainer) operands(n *expr.Node) {
	if n.Op == expr.OpCall && (n.Text == "count" || expr.Aggregate(n.Text) && n.Type == expr.TypeBool) {
		x.members(n)
		return
	}
	if n.Op == expr.OpPoint && x.missing(n) || n.Op == expr.OpCall && expr.OverTime(n.Text) && x.missing(n) {
		return
	}
	if zh, en, unit, ok := x.measure(n); ok {
		v := x.quantity(n, x.value(n), unit)
		x.add(zh+" "+v, en+" "+v)
		return
	}
	if n.Op == expr.OpCall && expr.Aggregate(n.Text) {
		// What is beneath is of many devices: only the whole has a value.
		v := n.String() + " " + x.quantity(n, x.value(n), "")
		x.add(v, v)
		return
	}
	for _, a := range n.Args {
		x.operands(a)
	}
}

func (x *explainer) value(n *expr.Node) expr.Num { return x.b.num(n, x.b.Self()) }

// quantity formats a value of n's type.
func (x *explainer) quantity(n *expr.Node, v expr.Num, unit string) string {
	if n.Type != expr.TypeDuration {
		return formatNum(v, unit, x.lang)
	}
	if math.IsInf(v.Lo, -1) {
		return "≤ " + formatDuration(time.Duration(v.Hi*float64(time.Second)), x.lang)
	}
	return formatDuration(time.Duration(v.Lo*float64(time.Second)), x.lang)
}

// measure names a number that a person can read a value of, and its unit.
func (x *explainer) measure(n *expr.Node) (zh, en, unit string, ok bool) {
	switch n.Op {
	case expr.OpPoint, expr.OpGroup:
		if n.Def == nil || n.Type != expr.TypeNumber {
			return "", "", "", false
		}
		return n.Def.Title.In("zh"), n.Def.Title.In("en"), n.Def.Unit, true
	case expr.OpCall:
		if expr.OverTime(n.Text) || n.Text == "absent_for" {
			return x.overTime(n)
		}
		word, wordEn := aggregateWord(n.Text)
		if word == "" {
			return "", "", "", false
		}
		zh, en, unit, ok := x.measure(n.Args[0])
		return word + zh, wordEn + lower(en), unit, ok
	}
	return "", "", "", false
}

func aggregateWord(f string) (zh, en string) {
	switch f {
	case "avg":
		return "平均", "average "
	case "max":
		return "最高", "highest "
	case "min":
		return "最低", "lowest "
	}
	return "", ""
}

// lower makes the first letter of a title small within a sentence, unless it begins with an abbreviation.
func lower(s string) string {
	if len(s) > 1 && s[0] >= 'A' && s[0] <= 'Z' && s[1] >= 'a' && s[1] <= 'z' {
		return string(s[0]+'a'-'A') + s[1:]
	}
	return s
}

func (x *explainer) call(n *expr.Node, v expr.Tri) {
	switch n.Text {
	case "silent":
		if v == expr.True {
			x.add("设备无应答", "device does not answer")
		} else {
			x.add("设备恢复应答", "device answers again")
		}
	case "no_reading", "no_protection":
		x.reading(n.Text == "no_protection", v)
	case "faulty":
		if _, def := x.e.faultPoint(x.b.Self()); def != nil {
			x.yesOrNo(def, v)
		}
	case "active":
		if v == expr.True {
			zh, en := x.alertTitle(n.Args[0].Text)
			x.add(zh, en)
		}
	case "any", "all", "at_least":
		x.members(n)
	case "between":
		x.between(n, v)
	case "sequence", "schedule", "undecided":
		x.overMoments(n, v)
	case "bad", "known":
		if a := n.Args[0]; a.Op == expr.OpPoint && x.e.there(x.b.Self(), a.Text) && (n.Text == "bad") == (v == expr.True) {
			zh, en := reason(x.b.cell(x.b.Self(), a.Text))
			if _, def, _ := x.e.pointID(x.b.Self(), a.Text); def < 0 { // nobody reads a derived point
				zh, en = "数据不足", "not enough data"
			}
			x.add(a.Def.Title.In("zh")+"："+zh, a.Def.Title.In("en")+": "+en)
		}
	}
}

// reading names the points that a device gives no reading of; of what has ended, why: it is silent now, out of service,
// or has its readings again.
func (x *explainer) reading(lifeSafetyOnly bool, v expr.Tri) {
	if v != expr.True && x.op != telemetry.Clear {
		return
	}
	d := &x.e.inv.Devices[x.in.device]
	readings, silent := true, true
	for _, id := range d.Points {
		silent = silent && (id == telemetry.NoPoint || x.e.cells[id].Quality == telemetry.BadComm)
	}
	if v != expr.True && silent {
		x.add("设备无应答", "device does not answer")
		return
	}
	for _, i := range x.e.needed(x.b.Self(), lifeSafetyOnly) {
		if c := &x.e.cells[d.Points[i]]; c.Seen && c.Quality.Bad() {
			readings = false
			zh, en := reason(c)
			def := &d.Class.Points[i]
			x.add(def.Title.In("zh")+"："+zh, def.Title.In("en")+": "+en)
		}
	}
	if readings {
		x.add("已恢复读数", "readings are back")
	}
}

// alertTitle is an alert's title without what stands for its subject.
func (x *explainer) alertTitle(name string) (zh, en string) {
	for i := range x.e.instances {
		p := x.e.instances[i].prog
		if p.Alert != name {
			continue
		}
		var texts [2]string
		for k, t := range p.title {
			for _, part := range t {
				texts[k] += part.literal
			}
			texts[k] = strings.Trim(texts[k], " ：:，,·")
			texts[k] = strings.TrimSuffix(strings.TrimSuffix(texts[k], " at"), " in")
		}
		return texts[0], texts[1]
	}
	return name, name
}

// members names the devices of a group for which the condition inside the aggregate is true.
func (x *explainer) members(n *expr.Node) {
	inner := n.Args[len(n.Args)-1]
	if inner.Type != expr.TypeBool {
		return
	}
	var names []string
	for _, d := range x.b.Group(n.Scope, n.Class) {
		if x.b.tri(inner, d) == expr.True {
			names = append(names, x.e.deviceTitle(d, x.lang))
		}
	}
	if len(names) == 0 {
		return
	}
	const most = 3
	sep, rest := "、", ""
	if x.lang == "en" {
		sep = ", "
	}
	if len(names) > most {
		if rest = fmt.Sprintf("等 %d 个", len(names)); x.lang == "en" {
			rest = fmt.Sprintf(" and %d more", len(names)-most)
		}
		names = names[:most]
	}
	s := strings.Join(names, sep) + rest
	x.add(s, s)
}

// formatValue writes a point's value with its unit, as people read it.
func formatValue(c *expr.Cell, def *telemetry.PointDef, lang string) string {
	if !c.Seen || c.Quality.Bad() {
		if lang == "zh" {
			return "未知"
		}
		return "unknown"
	}
	switch def.Kind {
	case telemetry.KindText:
		return c.Text
	case telemetry.Bool:
		yes := c.Tri == expr.True
		switch {
		case lang == "zh" && yes:
			return "是"
		case lang == "zh":
			return "否"
		case yes:
			return "yes"
		}
		return "no"
	case telemetry.Enum:
		for _, name := range def.Enum {
			if float64(name.Code) == c.Num.Lo {
				if name.Title.IsZero() {
					return name.Name
				}
				return name.Title.In(lang)
			}
		}
	}
	return formatNum(c.Num, def.Unit, lang)
}

// formatNum writes a number to about three figures; of a bound it says so.
func formatNum(v expr.Num, unit, lang string) string {
	mark, f := "", v.Lo
	switch {
	case v.Nothing() && lang == "zh":
		return "未知"
	case v.Nothing():
		return "unknown"
	case math.IsInf(v.Hi, 1):
		mark = "≥ "
	case math.IsInf(v.Lo, -1):
		mark, f = "≤ ", v.Hi
	}
	s := trimmed(f)
	if unit != "" {
		s += " " + unit
	}
	return mark + s
}

// trimmed writes a number to about three figures.
func trimmed(f float64) string {
	digits := 2
	switch a := math.Abs(f); {
	case a >= 100:
		digits = 0
	case a >= 10:
		digits = 1
	}
	s := strconv.FormatFloat(f, 'f', digits, 64)
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}

// formatDuration writes a duration as people say it: to the two largest units.
func formatDuration(d time.Duration, lang string) string {
	units := [...]struct {
		d      time.Duration
		zh, en string
	}{{24 * time.Hour, "天", "d"}, {time.Hour, "小时", "h"}, {time.Minute, "分钟", "min"}, {time.Second, "秒", "s"}}
	d = d.Round(time.Second)
	var parts []string
	for _, u := range units {
		n := d / u.d
		if n == 0 || len(parts) == 2 {
			continue
		}
		d -= n * u.d
		name := u.en
		if lang == "zh" {
			name = u.zh
		}
		parts = append(parts, fmt.Sprintf("%d %s", n, name))
	}
	if len(parts) == 0 {
		if lang == "zh" {
			return "0 秒"
		}
		return "0 s"
	}
	return strings.Join(parts, " ")
}
