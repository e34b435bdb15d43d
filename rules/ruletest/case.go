package ruletest

import (
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"
	"time"

	"linli/internal/telemetry"
	"linli/internal/yamlfile"
	"linli/rules"
	"linli/rules/expr"
)

// runner plays one test.
type runner struct {
	s    *setup
	c    *caseFile
	inv  *telemetry.Inventory
	defs map[string]pointRef // "device.point"

	every   time.Duration
	until   time.Duration
	start   time.Time // zero: the clock is not set
	samples map[time.Duration][]telemetry.Sample
	times   []time.Duration
	restart []time.Duration

	engine  *rules.Engine
	out     rules.Output
	open    map[telemetry.Identity]telemetry.ActiveAlert
	events  []event
	derived map[telemetry.Series]telemetry.Sample
	failed  []string
	wants   []expectation
	values  []valueWant
}

type pointRef struct{ device, def int }

// event is one transition, as it is compared and printed.
type event struct {
	at   time.Duration
	text string // "raise FireLaneBlocked s1"
	sev  string
	full string // with title and detail
}

type expectation struct {
	at        time.Duration
	text, sev string
	pos       yamlfile.Pos
	met       bool
}

type valueWant struct {
	at            time.Duration
	name, subject string
	want          string
	pos           yamlfile.Pos
}

// base is the monotonic time at which tests begin: not zero, because no box starts at zero.
const base = telemetry.Mono(1000 * time.Second)

// runCase runs one test; false where the test itself is wrong, which is in s.errs.
func (s *setup) runCase(c *caseFile) (Result, bool) {
	r := &runner{s: s, c: c, samples: map[time.Duration][]telemetry.Sample{}, open: map[telemetry.Identity]telemetry.ActiveAlert{},
		derived: map[telemetry.Series]telemetry.Sample{}}
	before := len(*s.errs)
	r.inventory()
	r.settings()
	r.series()
	r.expectations()
	if len(*s.errs) > before {
		return Result{}, false
	}
	if !r.compile() {
		return Result{}, false
	}
	r.play()
	r.compare()
	res := Result{Name: c.Name, Pos: c.Pos, Failures: r.failed}
	for _, e := range r.events {
		res.Trace = append(res.Trace, e.full)
	}
	return res, true
}

func (r *runner) settings() {
	errs := r.s.errs
	r.every = 10 * time.Second
	duration := func(at yamlfile.At[string], into *time.Duration) {
		if at.Value == "" {
			return
		}
		d, err := expr.ParseDuration(at.Value)
		if err != nil {
			errs.Addf(at.Pos, "%v", err)
			return
		}
		*into = d
	}
	duration(r.c.Every, &r.every)
	duration(r.c.Until, &r.until)
	if r.every <= 0 {
		errs.Addf(r.c.Every.Pos, "every must be more than 0s")
		r.every = time.Second
	}
	for _, at := range r.c.Restart {
		d := time.Duration(-1)
		duration(at, &d)
		r.restart = append(r.restart, d)
	}
	switch r.c.Start.Value {
	case "unset":
	case "":
		r.start = time.Date(2026, 1, 5, 12, 0, 0, 0, r.s.loc)
	default:
		t, err := time.ParseInLocation("2006-01-02 15:04", r.c.Start.Value, r.s.loc)
		if err != nil {
			errs.Addf(r.c.Start.Pos, "%q is not a time as 2026-05-04 21:55, nor `unset`", r.c.Start.Value)
		}
		r.start = t
	}
}

// inventory lays out the small site of the file, with the points that this test's series need.
func (r *runner) inventory() {
	errs, f := r.s.errs, r.s.file
	inv := &telemetry.Inventory{Site: "test", Gateway: "gw", Title: telemetry.Text{Zh: "测试小区", En: "Test community"}, Location: r.s.loc}
	for _, z := range f.Zones {
		parent := -1
		if z.In.Value != "" {
			i, ok := inv.ZoneByID(z.In.Value)
			if !ok {
				errs.Addf(z.In.Pos, "zone %q must stand before the zones in it", z.In.Value)
			} else {
				parent = i
			}
		}
		title := z.Title.Text
		if title.IsZero() {
			title = telemetry.Text{Zh: z.ID.Value, En: z.ID.Value}
		}
		inv.AddZone(telemetry.Zone{ID: z.ID.Value, Parent: parent, Kind: z.Kind, Title: title})
	}
	r.inv, r.defs = inv, map[string]pointRef{}
	for i := range f.Devices {
		r.device(&f.Devices[i])
	}
	for _, e := range r.c.Series {
		if ref, ok := r.defs[e.Key.Value]; ok {
			inv.ProvidePoint(ref.device, ref.def)
		}
	}
}

func (r *runner) device(d *deviceFile) {
	errs := r.s.errs
	class := r.s.opts.Classes[d.Class.Value]
	if class == nil {
		known := make([]string, 0, len(r.s.opts.Classes))
		for id := range r.s.opts.Classes {
			known = append(known, id)
		}
		errs.Addf(d.Class.Pos, "unknown class %q%s", d.Class.Value, yamlfile.Suggest(d.Class.Value, known))
		return
	}
	zone, ok := r.inv.ZoneByID(d.Zone.Value)
	switch {
	case d.System && d.Zone.Value != "":
		errs.Addf(d.Zone.Pos, "a system device lies in no zone")
		return
	case d.System:
		zone = -1
	case d.Zone.Value == "":
		errs.Addf(d.ID.Pos, "device %s needs a zone", d.ID.Value)
		return
	case !ok:
		errs.Addf(d.Zone.Pos, "unknown zone %q", d.Zone.Value)
		return
	}
	title := d.Title.Text
	if title.IsZero() {
		title = telemetry.Text{Zh: d.ID.Value, En: d.ID.Value}
	}
	dev := telemetry.Device{ID: d.ID.Value, Class: class, Zone: zone, System: d.System, Title: title, Constants: make([]telemetry.Value, len(class.Points))}
	names := make([]string, len(class.Points))
	for k := range class.Points {
		names[k] = class.Points[k].Name
	}
	for _, c := range d.Constants {
		k := class.Point(c.Key.Value)
		if k < 0 {
			errs.Addf(c.Key.Pos, "class %s has no point %q%s", class.ID, c.Key.Value, yamlfile.Suggest(c.Key.Value, names))
			continue
		}
		v, err := literal(string(c.Value.Value), &class.Points[k])
		if err != nil {
			errs.Addf(c.Value.Pos, "%v", err)
		}
		dev.Constants[k] = v
	}
	i := r.inv.AddDevice(dev)
	for k := range class.Points {
		r.defs[d.ID.Value+"."+class.Points[k].Name] = pointRef{i, k}
		if d.Provides == nil && !class.Points[k].Optional {
			r.inv.ProvidePoint(i, k)
		}
	}
	if d.Provides == nil {
		return
	}
	for _, p := range *d.Provides {
		if k := class.Point(p.Value); k >= 0 {
			r.inv.ProvidePoint(i, k)
		} else {
			errs.Addf(p.Pos, "class %s has no point %q%s", class.ID, p.Value, yamlfile.Suggest(p.Value, names))
		}
	}
}

func (r *runner) series() {
	for _, e := range r.c.Series {
		ref, ok := r.defs[e.Key.Value]
		if !ok {
			known := make([]string, 0, len(r.defs))
			for name := range r.defs {
				known = append(known, name)
			}
			r.s.errs.Addf(e.Key.Pos, "unknown point %q%s; a series is named device.point", e.Key.Value, yamlfile.Suggest(e.Key.Value, known))
			continue
		}
		dev := &r.inv.Devices[ref.device]
		entries, steps, err := parseSeries(string(e.Value.Value), &dev.Class.Points[ref.def])
		if err != nil {
			r.s.errs.Addf(e.Value.Pos, "%v", err)
			continue
		}
		for _, en := range entries {
			at := time.Duration(en.step) * r.every
			r.samples[at] = append(r.samples[at], telemetry.Sample{
				Point: dev.Points[ref.def], Quality: en.quality, Value: en.value, Time: base.Add(at - en.late)})
		}
		if r.c.Until.Value == "" {
			r.until = max(r.until, time.Duration(steps)*r.every)
		}
	}
	for at := range r.samples {
		r.times = append(r.times, at)
	}
	sort.Slice(r.times, func(i, j int) bool { return r.times[i] < r.times[j] })
}

func (r *runner) expectations() {
	for _, at := range r.c.Expect {
		f := strings.Fields(at.Value)
		if len(f) < 4 || len(f) > 5 {
			r.s.errs.Addf(at.Pos, "an expectation is written: 3m30s raise FireLaneBlocked s1 warning (the severity may be left out)")
			continue
		}
		d, err := expr.ParseDuration(f[0])
		if err != nil {
			r.s.errs.Addf(at.Pos, "%v", err)
			continue
		}
		ops := []string{"raise", "clear", "unknown", "known", "changed"}
		if !contains(ops, f[1]) {
			r.s.errs.Addf(at.Pos, "unknown transition %q%s (%s)", f[1], yamlfile.Suggest(f[1], ops), strings.Join(ops, ", "))
		}
		w := expectation{at: d, text: strings.Join(f[1:4], " "), pos: at.Pos}
		if len(f) == 5 {
			if _, ok := telemetry.ParseSeverity(f[4]); !ok {
				r.s.errs.Addf(at.Pos, "unknown severity %q (notice, warning, critical)", f[4])
			}
			w.sev = f[4]
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
		r.values = append(r.values, valueWant{d, f[1], f[2], f[3], at.Pos})
		r.extend(d)
	}
}

// extend makes the test last beyond its last expectation, unless it says how long.
func (r *runner) extend(d time.Duration) {
	if r.c.Until.Value == "" {
		r.until = max(r.until, d+r.every)
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

// compile builds a fresh engine, with the derived points that the one before it added taken out again.
func (r *runner) compile() bool {
	n := 0
	for n < len(r.inv.Points) && r.inv.Points[n].Device >= 0 {
		n++
	}
	r.inv.Points = r.inv.Points[:n]
	e, err := rules.Compile(rules.Config{Packs: r.s.packs, Params: r.s.params(r.c), Schedules: r.s.schedules(r.c), Inventory: r.inv, Classes: r.s.opts.Classes})
	if err != nil {
		r.s.errs.Append(r.c.Pos, err)
		return false
	}
	r.engine = e
	return true
}

func (r *runner) now(at time.Duration) telemetry.Now {
	n := telemetry.Now{Mono: base.Add(at)}
	if !r.start.IsZero() {
		n.Wall = r.start.Add(at).UTC()
	}
	return n
}

// play runs the samples, the restarts and the timers in order.
func (r *runner) play() {
	moments := append([]time.Duration(nil), r.times...)
	moments = append(moments, r.restart...)
	for _, v := range r.values {
		moments = append(moments, v.at)
	}
	moments = append(moments, r.until)
	sort.Slice(moments, func(i, j int) bool { return moments[i] < moments[j] })
	for k, at := range moments {
		if at > r.until || k > 0 && at == moments[k-1] {
			continue
		}
		// Timers in between fire at their own moments, as the gateway's loop would have it.
		for r.engine.Next() < base.Add(at) {
			r.step(r.now(r.engine.Next().Sub(base)), nil)
		}
		for _, d := range r.restart {
			if d == at {
				r.restartNow()
			}
		}
		r.step(r.now(at), r.samples[at])
		for _, v := range r.values {
			if v.at == at {
				r.checkValue(v)
			}
		}
	}
}

func (r *runner) restartNow() {
	if !r.compile() {
		return
	}
	active := make([]telemetry.ActiveAlert, 0, len(r.open))
	for _, a := range r.open {
		active = append(active, a)
	}
	sort.Slice(active, func(i, j int) bool {
		if active[i].Alert != active[j].Alert {
			return active[i].Alert < active[j].Alert
		}
		return active[i].Subject < active[j].Subject
	})
	for _, a := range r.engine.Restore(active) {
		delete(r.open, a.Identity)
	}
}

func (r *runner) step(now telemetry.Now, samples []telemetry.Sample) {
	r.out.Reset()
	r.engine.Step(now, samples, &r.out)
	for _, t := range r.out.Transitions {
		switch t.Op {
		case telemetry.Raise:
			r.open[t.Identity] = telemetry.ActiveAlert{Identity: t.Identity, Severity: t.Severity, Since: t.Wall}
		case telemetry.Clear:
			delete(r.open, t.Identity)
		default:
			a := r.open[t.Identity]
			a.Identity, a.Severity = t.Identity, t.Severity
			r.open[t.Identity] = a
		}
		e := event{at: t.Time.Sub(base), text: fmt.Sprintf("%s %s %s", t.Op, t.Alert, t.Subject), sev: t.Severity.String()}
		e.full = fmt.Sprintf("%s %s %s | %s | %s | %s | %s", expr.FormatDuration(e.at), e.text, e.sev, t.Title.Zh, t.Detail.Zh, t.Title.En, t.Detail.En)
		r.events = append(r.events, e)
	}
	for _, s := range r.out.Derived {
		r.derived[r.inv.Series(s.Point)] = s
	}
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
		r.failed = append(r.failed, fmt.Sprintf("%s: at %s %s of %s is %s (%s), expected %s", v.pos, expr.FormatDuration(v.at), v.name, v.subject, got, s.Quality, v.want))
		return
	}
	if v.want != "unknown" {
		r.failed = append(r.failed, fmt.Sprintf("%s: at %s %s of %s has no value, expected %s", v.pos, expr.FormatDuration(v.at), v.name, v.subject, v.want))
	}
}

// compare holds what happened against what was expected.
func (r *runner) compare() {
	used := make([]bool, len(r.events))
	for i := range r.wants {
		w := &r.wants[i]
		for k, e := range r.events {
			if !used[k] && e.at == w.at && e.text == w.text && (w.sev == "" || w.sev == e.sev) {
				used[k], w.met = true, true
				break
			}
		}
	}
	for _, w := range r.wants {
		if !w.met {
			r.failed = append(r.failed, fmt.Sprintf("%s: did not happen: %s %s %s%s", w.pos, expr.FormatDuration(w.at), w.text, w.sev, r.around(w.at)))
		}
	}
	for k, e := range r.events {
		if !used[k] {
			r.failed = append(r.failed, fmt.Sprintf("%s: not expected: %s %s %s%s", r.c.Pos, expr.FormatDuration(e.at), e.text, e.sev, r.around(e.at)))
		}
	}
}

// around tells what happened near a moment: the samples before and at it, and the transitions.
func (r *runner) around(at time.Duration) string {
	var b strings.Builder
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
			fmt.Fprintf(&b, "\n  %8s  %s.%s = %s", expr.FormatDuration(t), series.Device, series.Point, v)
		}
	}
	for _, e := range r.events {
		if e.at >= from && e.at <= to {
			fmt.Fprintf(&b, "\n  %8s  %s %s", expr.FormatDuration(e.at), e.text, e.sev)
		}
	}
	return b.String()
}
