package ruletest

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"linli/internal/telemetry"
	"linli/internal/yamlfile"
	"linli/rules/expr"
	"linli/rules/response"
)

// expectation is something that must happen.
type expectation struct {
	at   time.Duration
	text string // as event.text
	more string // as event.more; empty: whatever it is
	pos  yamlfile.Pos
	met  bool
}

type valueWant struct {
	at            time.Duration
	name, subject string
	want          string
	pos           yamlfile.Pos
}

func (r *runner) expectations() {
	for _, at := range r.c.Expect {
		f := strings.Fields(at.Value)
		if len(f) < 4 {
			r.s.errs.Addf(at.Pos, "an expectation is written: 3m30s raise FireLaneBlocked s1 warning (the severity may be left out)")
			continue
		}
		d, err := expr.ParseDuration(f[0])
		if err != nil {
			r.s.errs.Addf(at.Pos, "%v", err)
			continue
		}
		w := expectation{at: d, pos: at.Pos}
		if problem := r.expectation(&w, f[1:]); problem != "" {
			r.s.errs.Addf(at.Pos, "%s", problem)
		}
		r.wants = append(r.wants, w)
		r.extend(d)
	}
	for _, at := range r.c.Values {
		f := strings.Fields(at.Value)
		if len(f) != 4 {
			r.s.errs.Addf(at.Pos, "a value is written: 10m lane_blocked_minutes_24h s1 5")
			continue
		}
		d, err := expr.ParseDuration(f[0])
		if err != nil {
			r.s.errs.Addf(at.Pos, "%v", err)
			continue
		}
		var known []string
		for _, p := range r.s.packs {
			for _, rule := range p.Rules {
				if rule.Record != "" {
					known = append(known, rule.Record)
				}
			}
		}
		if !slices.Contains(known, f[1]) {
			r.s.errs.Addf(at.Pos, "unknown derived point %q%s", f[1], yamlfile.Suggest(f[1], known))
		}
		r.values = append(r.values, valueWant{d, f[1], f[2], f[3], at.Pos})
		r.extend(d)
	}
}

// expectation reads what stands behind the time, at least three words.
func (r *runner) expectation(w *expectation, f []string) (problem string) {
	words := []string{"raise", "clear", "unknown", "known", "changed", "set", "escalate", "suppress", "unsuppress"}
	severity := func(f []string, form string) string {
		switch {
		case len(f) > 1:
			return "an expectation is written: " + form + " (the severity may be left out)"
		case len(f) == 1:
			if _, ok := telemetry.ParseSeverity(f[0]); !ok {
				return "unknown severity " + strconv.Quote(f[0]) + " (notice, warning, critical)"
			}
			w.more = f[0]
		}
		return ""
	}
	w.text = strings.Join(f[:3], " ")
	switch f[0] {
	case "set":
		if len(f) != 3 {
			return "an output is expected as: 4m set horn1.play true"
		}
		id, v, ok := r.output(f[1], f[2], w.pos)
		if ok {
			w.text = "set " + f[1] + " " + shown(r.inv.Points[id].Def, v)
		}
		return ""
	case "escalate":
		const form = "13m escalate FireLaneBlocked s1 street critical"
		if len(f) < 4 {
			return "an escalation is expected as: " + form
		}
		if _, ok := response.ParseTier(f[3]); !ok {
			return "unknown tier " + strconv.Quote(f[3]) + yamlfile.Suggest(f[3], []string{"community", "street", "district"}) + " (community, street, district)"
		}
		w.text = strings.Join(f[:4], " ")
		problem = severity(f[4:], form)
	case "suppress", "unsuppress":
		if len(f) != 3 && (len(f) != 6 || f[3] != "by") {
			return "a suppression is expected as: 5m suppress FireLaneBlocked s1 by LaneUnderMaintenance lane1 (what inhibits it may be left out)"
		}
		w.more = strings.Join(f[3:], " ")
	case "raise", "clear", "unknown", "known", "changed":
		problem = severity(f[3:], "3m30s raise FireLaneBlocked s1 warning")
	default:
		return "unknown transition " + strconv.Quote(f[0]) + yamlfile.Suggest(f[0], words) + " (" + strings.Join(words, ", ") + ")"
	}
	return problem
}

func (r *runner) checkValue(v valueWant) {
	for series, s := range r.derived {
		if series.Point != v.name || series.Device != v.subject {
			continue
		}
		got := s.Value.String()
		if s.Quality.Bad() {
			got = s.Quality.String()
		}
		want, err := strconv.ParseFloat(v.want, 64)
		if got == v.want || err == nil && !s.Quality.Bad() && math.Abs(s.Value.Float()-want) <= 0.005*math.Max(1, math.Abs(want)) {
			return
		}
		switch s.Quality {
		case telemetry.OverRange:
			got = "at least " + got
		case telemetry.UnderRange:
			got = "at most " + got
		case telemetry.Uncertain:
			got += " (uncertain)"
		}
		r.failed = append(r.failed, fmt.Sprintf("%s: at %s %s of %s is %s, expected %s", v.pos, expr.FormatDuration(v.at), v.name, v.subject, got, v.want))
		return
	}
	if v.want != "unknown" {
		r.failed = append(r.failed, fmt.Sprintf("%s: at %s %s of %s has no value, expected %s", v.pos, expr.FormatDuration(v.at), v.name, v.subject, v.want))
	}
}

// compare holds what happened against what was expected.
func (r *runner) compare() {
	// Engine and machine speak one after the other; in the order of time they are easier to read.
	sort.SliceStable(r.events, func(i, j int) bool { return r.events[i].at < r.events[j].at })
	used := make([]bool, len(r.events))
	for i := range r.wants {
		w := &r.wants[i]
		for k, e := range r.events {
			if !used[k] && e.at == w.at && e.text == w.text && (w.more == "" || w.more == e.more) {
				used[k], w.met = true, true
				break
			}
		}
	}
	said := func(at time.Duration, text, more string) string {
		return strings.TrimSpace(expr.FormatDuration(at) + " " + text + " " + more)
	}
	for _, w := range r.wants {
		if !w.met {
			r.failed = append(r.failed, fmt.Sprintf("%s: did not happen: %s%s", w.pos, said(w.at, w.text, w.more), r.around(w.at)))
		}
	}
	for k, e := range r.events {
		if !used[k] {
			r.failed = append(r.failed, fmt.Sprintf("%s: not expected: %s%s", r.c.Pos, said(e.at, e.text, e.more), r.around(e.at)))
		}
	}
}

// around tells what happened near a moment: the samples before and at it, what people did, the transitions and what
// followed from them, in the order of time.
func (r *runner) around(at time.Duration) string {
	type line struct {
		at   time.Duration
		text string
	}
	var lines []line
	from, to := at-3*r.every, at+r.every
	for _, t := range r.times {
		if t < from || t > to {
			continue
		}
		for _, s := range r.samples[t] {
			series := r.inv.Series(s.Point)
			v := s.Value.String()
			if s.Quality != telemetry.Good {
				v = strings.TrimSuffix(s.Quality.String()+":"+v, ":-")
			}
			lines = append(lines, line{t, series.Device + "." + series.Point + " = " + v})
		}
	}
	for _, list := range [][]event{r.done, r.events} {
		for _, e := range list {
			if e.at >= from && e.at <= to {
				lines = append(lines, line{e.at, strings.TrimSpace(e.text + " " + e.more)})
			}
		}
	}
	slices.SortStableFunc(lines, func(a, b line) int {
		switch {
		case a.at < b.at:
			return -1
		case a.at > b.at:
			return 1
		}
		return 0
	})
	var b strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&b, "\n  %8s  %s", expr.FormatDuration(l.at), l.text)
	}
	return b.String()
}
