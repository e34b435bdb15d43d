package rules

import (
	"math"
	"strconv"
	"strings"
	"time"

	"linli/internal/telemetry"
	"linli/rules/expr"
)

// overTime names a function over time, and the unit of its value.
func (x *explainer) overTime(n *expr.Node) (zh, en, unit string, ok bool) {
	inner := n.Args[0]
	if n.Text == "quantile_over_time" {
		inner = n.Args[1]
	}
	izh, ien, iunit, ok := x.followed(inner)
	if !ok {
		return "", "", "", false
	}
	wzh, wen := formatDuration(n.Window, "zh"), formatDuration(n.Window, "en")
	low := lower(ien)
	switch n.Text {
	case "avg_over_time":
		return wzh + "平均" + izh, wen + " average " + low, iunit, true
	case "max_over_time":
		return wzh + "内最高" + izh, "highest " + low + " in " + wen, iunit, true
	case "min_over_time":
		return wzh + "内最低" + izh, "lowest " + low + " in " + wen, iunit, true
	case "quantile_over_time":
		q := strconv.FormatFloat(math.Round(n.Args[0].Num*1e4)/100, 'f', -1, 64)
		return wzh + "内" + izh + " " + q + "% 分位", q + " % quantile of " + low + " in " + wen, iunit, true
	case "leq":
		return wzh + "等效声级", "equivalent level over " + wen, iunit, true
	case "integral":
		return wzh + "内" + izh + "累计", "total of " + low + " in " + wen, per(iunit, "·s"), true
	case "increase":
		return wzh + "内" + izh + "增加", "rise of " + low + " in " + wen, iunit, true
	case "rate":
		return wzh + "内" + izh + "增速", "rate of " + low + " over " + wen, per(iunit, "/s"), true
	case "duration_true":
		return wzh + "内" + izh, ien + " in " + wen, "", true
	case "changes":
		return wzh + "内" + izh + "变化次数", "changes of " + low + " in " + wen, "", true
	case "count_over_time":
		if izh != "" && izh[len(izh)-1] < 0x80 {
			izh += " " // after a unit or a number
		}
		return wzh + "内" + izh + "次数", "times " + low + " in " + wen, "", true
	case "absent_for":
		return izh + "无读数", low + " without a reading", "", true
	}
	return wzh + "内" + izh + "变化", "change of " + low + " in " + wen, iunit, true
}

func per(unit, suffix string) string {
	if unit == "" {
		return ""
	}
	return unit + suffix
}

// followed names what a function over time follows: a point, or a condition by what it says of one.
func (x *explainer) followed(n *expr.Node) (zh, en, unit string, ok bool) {
	switch {
	case n.Def != nil:
		return n.Def.Title.In("zh"), n.Def.Title.In("en"), n.Def.Unit, true
	case n.Type == expr.TypeNumber || n.Type == expr.TypeDuration:
		return x.measure(n)
	case n.Op == expr.OpAnd:
		// The event, or else the first of what must hold together, is what people know it by.
		for _, a := range n.Args {
			if n.Event != nil && reads(a, n.Event) {
				return x.followed(a)
			}
		}
		return x.followed(n.Args[0])
	case n.Op == expr.OpOr || n.Op == expr.OpNot:
		zh, en, unit, ok = x.followed(n.Args[0])
		if n.Op == expr.OpNot {
			return "非" + zh, "not " + lower(en), unit, ok
		}
		return zh, en, unit, ok
	case n.Op.Comparison():
		return x.compared(n)
	}
	return "", "", "", false
}

// reads reports whether point occurs in n.
func reads(n, point *expr.Node) bool {
	found := false
	n.Walk(func(m *expr.Node) { found = found || expr.Same(m, point) })
	return found
}

// compared names a comparison of a point with something written down.
func (x *explainer) compared(n *expr.Node) (zh, en, unit string, ok bool) {
	l, r := n.Args[0], n.Args[1]
	if l.Def == nil {
		l, r = r, l
	}
	if l.Def == nil {
		return "", "", "", false
	}
	zh, en = l.Def.Title.In("zh"), l.Def.Title.In("en")
	switch {
	case r.Type == expr.TypeEnum:
		for _, name := range l.Def.Enum {
			if float64(name.Code) == r.Num && !name.Title.IsZero() {
				return zh + "“" + name.Title.In("zh") + "”", en + " “" + name.Title.In("en") + "”", "", true
			}
		}
	case r.Op == expr.OpNumber && l == n.Args[0]:
		limit := formatNum(expr.Exact(r.Num), l.Def.Unit, x.lang)
		op := map[expr.Op]string{expr.OpLess: "<", expr.OpLessEqual: "≤", expr.OpGreater: ">", expr.OpGreaterEqual: "≥", expr.OpEqual: "=", expr.OpNotEqual: "≠"}[n.Op]
		return zh + " " + op + " " + limit, en + " " + op + " " + limit, "", true
	}
	return zh, en, "", true
}

// between says whether it is the time of day that is asked for.
func (x *explainer) between(n *expr.Node, v expr.Tri) {
	from, to := n.Args[0].Text, n.Args[1].Text
	if v == expr.True {
		x.add(from+"–"+to+" 时段", "between "+from+" and "+to)
	} else {
		x.add("不在 "+from+"–"+to+" 时段", "not between "+from+" and "+to)
	}
}

// calendar says which hour or day it is.
func (x *explainer) calendar(n *expr.Node) {
	l, r := n.Args[0], n.Args[1]
	now := x.value(l)
	if now.Lo != now.Hi {
		return
	}
	if day := int(now.Lo); l.Text == "weekday" {
		x.add("周"+[]string{"日", "一", "二", "三", "四", "五", "六"}[day%7], time.Weekday(day%7).String())
		return
	}
	zh, en := trimmed(now.Lo)+" 时", "hour "+trimmed(now.Lo)
	if limit := x.value(r); n.Op != expr.OpEqual && n.Op != expr.OpNotEqual && limit.Lo == limit.Hi {
		zh, en = zh+"（限 "+trimmed(limit.Lo)+" 时）", en+" (limit "+trimmed(limit.Lo)+")"
	}
	x.add(zh, en)
}

// absence says how long a point has had no value.
func (x *explainer) absence(n *expr.Node) {
	def, d := n.Args[0].Def, x.value(n)
	if def == nil {
		return
	}
	if d.Lo == 0 {
		x.add(def.Title.In("zh")+"已有读数", def.Title.In("en")+" has a reading")
		return
	}
	v := formatDuration(time.Duration(d.Lo*float64(time.Second)), x.lang)
	x.add(def.Title.In("zh")+"无读数已 "+v, def.Title.In("en")+": no reading for "+v)
}

// overMoments says what happened in turn, whether it is time, or what cannot be decided.
func (x *explainer) overMoments(n *expr.Node, v expr.Tri) {
	switch n.Text {
	case "schedule":
		name := n.Args[0].Text
		if v == expr.True {
			x.add("在时段内（"+name+"）", "within "+name)
		} else {
			x.add("不在时段内（"+name+"）", "outside "+name)
		}
	case "sequence":
		if v != expr.True {
			return
		}
		var zh, en []string
		for _, a := range n.Args[:len(n.Args)-1] {
			if z, e, _, ok := x.followed(a); ok {
				zh, en = append(zh, strings.TrimSpace(z)), append(en, e)
			}
		}
		x.add(formatDuration(n.Window, "zh")+"内先后："+strings.Join(zh, "、"), strings.Join(en, ", then ")+" within "+formatDuration(n.Window, "en"))
	case "undecided":
		x.undecided(n, v)
	}
}

// undecided names the alerts that cannot be decided.
func (x *explainer) undecided(n *expr.Node, v expr.Tri) {
	if v != expr.True {
		x.add("已可判断", "can be decided again")
		return
	}
	const most = 3
	var zh, en []string
	more, limit := 0, time.Duration(n.Args[0].Num*float64(time.Second))
	for _, i := range x.e.askable(x.e.subject(x.in)) {
		in := &x.e.instances[i]
		if began := in.stuck.began(); began == telemetry.Never || x.e.at.Sub(began) < limit {
			continue
		}
		if len(zh) == most {
			more++
			continue
		}
		z, e := x.alertTitle(in.prog.Alert)
		zh, en = append(zh, z), append(en, e)
	}
	restZh, restEn := "", ""
	if more > 0 {
		restZh, restEn = "等 "+strconv.Itoa(most+more)+" 项", " and "+strconv.Itoa(more)+" more"
	}
	x.add("无法判断："+strings.Join(zh, "、")+restZh+"，已 "+formatDuration(limit, "zh"),
		"cannot be decided: "+strings.Join(en, ", ")+restEn+", for "+formatDuration(limit, "en"))
}
