package ruletest

import (
	"errors"
	"sort"
	"time"

	"linli/internal/telemetry"
	"linli/internal/yamlfile"
	"linli/rules"
	"linli/rules/expr"
	"linli/rules/response"
)

// runner plays one test.
type runner struct {
	s    *setup
	c    *caseFile
	inv  *telemetry.Inventory
	defs map[string]pointRef // "device.point"

	every   time.Duration
	until   time.Duration
	samples map[time.Duration][]telemetry.Sample
	times   []time.Duration
	acts    []act // what people do and what happens to the process, in the order of time
	wants   []expectation
	values  []valueWant

	params map[string]map[string]string
	wall   time.Time // the wall clock at 0s; zero: not set
	engine *rules.Engine
	// machine runs beside the engine exactly as in the gateway.
	machine   *response.Machine
	out       rules.Output
	decisions response.Decisions
	book      book
	events    []event
	done      []event // acts, for people who look for a failure
	derived   map[telemetry.Series]telemetry.Sample
	failed    []string
}

type pointRef struct{ device, def int }

// event is one thing that happened, as it is compared and printed.
type event struct {
	at   time.Duration
	text string // "raise FireLaneBlocked s1", "set horn1.play true"
	more string // the severity, what inhibits
	full string // for the trace
}

// base is the monotonic time at which tests begin: not zero, because no box starts at zero.
const base = telemetry.Mono(1000 * time.Second)

// runCase runs one test; false where the test itself is wrong, which is in s.errs.
func (s *setup) runCase(c *caseFile) (Result, bool) {
	r := &runner{s: s, c: c, samples: map[time.Duration][]telemetry.Sample{}, derived: map[telemetry.Series]telemetry.Sample{},
		params: s.params(c)}
	before := len(*s.errs)
	r.inventory()
	r.settings()
	r.series()
	r.readActs()
	r.expectations()
	if len(*s.errs) > before {
		return Result{}, false
	}
	e, ok := r.compile()
	if !ok {
		return Result{}, false
	}
	r.engine, r.machine = e, response.New(e.Plan)
	r.play()
	r.compare()
	if len(*s.errs) > before { // A reload can be wrong in itself.
		return Result{}, false
	}
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
	switch r.c.Start.Value {
	case "unset":
	case "":
		r.wall = time.Date(2026, 1, 5, 12, 0, 0, 0, r.s.loc)
	default:
		t, err := time.ParseInLocation(wallLayout, r.c.Start.Value, r.s.loc)
		if err != nil {
			errs.Addf(r.c.Start.Pos, "%q is not a time as 2026-05-04 21:55, nor `unset`", r.c.Start.Value)
		}
		r.wall = t
	}
}

// wallLayout is how local times are written.
const wallLayout = "2006-01-02 15:04"

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
			pos := e.Value.Pos
			var at *seriesError
			if errors.As(err, &at) {
				pos = yamlfile.Place(r.s.src, pos, string(e.Value.Value), at.offset)
			}
			r.s.errs.Addf(pos, "%s: %v", e.Key.Value, err)
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

// extend makes the test last beyond its last expectation, unless it says how long.
func (r *runner) extend(d time.Duration) {
	if r.c.Until.Value == "" {
		r.until = max(r.until, d+r.every)
	}
}

// compile builds an engine over a copy of the inventory, with the derived points that the one before it added taken out.
func (r *runner) compile() (*rules.Engine, bool) {
	inv := *r.inv
	n := 0
	for n < len(inv.Points) && inv.Points[n].Device >= 0 {
		n++
	}
	inv.Points = append([]telemetry.Point(nil), inv.Points[:n]...)
	e, err := rules.Compile(rules.Config{Packs: r.s.packs, Params: r.params, Schedules: r.s.schedules(r.c), Inventory: &inv, Classes: r.s.opts.Classes})
	if err != nil {
		r.s.errs.Append(r.c.Pos, err)
		return nil, false
	}
	r.inv = &inv
	return e, true
}
