// Package ruletest runs unit tests of rule packs that are written in YAML, against the same loader and engine as the
// gateway. docs/rules.md describes the files to those who write them.
//
// A test file names packs, lays out a small site, and has tests: series of samples and what people do on the one hand, the
// transitions, outputs, escalations and suppressions that must follow on the other. What is not expected must not happen.
// Everything is deterministic: time is that of the series, counted from the start of the test. The response machine runs
// beside the engine exactly as in the gateway; what it commands does not come back as samples.
//
// A File is:
//
//	version: 1
//	packs: [fire_lane, ./my_pack.yaml]     # shipped packs by name, others by path from this file
//	params: {fire_lane: {dwell: 1m}}
//	schedules: {supervised: [{from: "06:30", to: "09:00"}]}   # as in a site file; of one test too
//	timezone: Asia/Shanghai                # default
//	zones: [{id: lane1, kind: lane, in: area1, title: {zh: 东门, en: East gate}}]
//	devices:
//	  - {id: s1, class: fire_lane_sensor, zone: lane1, title: ..., provides: [occupied], constants: {stream: kitchen},
//	     through: [rs485_1]}                 # buses and units through which it is reached
//	  - {id: rs485_1, class: field_bus, system: true}
//	tests:
//	  - name: raises after the dwell
//	    every: 10s                         # distance of the values in the series; default 10s
//	    start: 2026-05-04 21:55            # local time at 0s; default 2026-01-05 12:00 (a Monday); or unset
//	    restart: [5m]                      # the process is stopped and started at these moments
//	    crash: [6m]                        # as restart, but timers and windows are lost
//	    reload: [7m, {at: 8m, params: {fire_lane: {dwell: 1m}}}]  # the packs are loaded anew, with other parameters
//	    clock: [10m +1h, 12m unset, 13m 2026-05-04 21:55]         # the wall clock steps
//	    ack: [2m FireLaneBlocked s1]       # somebody acknowledges
//	    close: [9m FireLaneBlocked s1]     # somebody closes it by hand
//	    manual: [3m horn1.play false]      # somebody sets an output by hand
//	    until: 20m                         # default: one value past the last series, or the last expectation
//	    series:
//	      s1.occupied: false x3 true x30 _ x2 bad_comm false
//	    expect:
//	      - 3m30s raise FireLaneBlocked s1 warning
//	      - 6m clear FireLaneBlocked s1
//	      - 4m30s set horn1.play true
//	      - 13m30s escalate FireLaneBlocked s1 street critical
//	      - 5m suppress FireLaneBlocked s1 by LaneUnderMaintenance lane1
//	      - 6m unsuppress FireLaneBlocked s1
//	    values:
//	      - 6m lane_blocked_minutes_24h s1 5
//
// A device provides all points of its class that are not optional, and those that have a series, unless `provides`
// lists them. A value of a series is a number, true, false, the name of a state, a text in double quotes, `_` for no
// sample, a quality without value (bad_comm, bad_sensor, bad_maintenance), a quality with one (over:0.5, under:0,
// uncertain:3) or nan. `x5` after a value gives it five times in all. `true@-30s` is a sample that arrives now and
// was taken 30 s ago; `1&2` are two samples of one moment.
//
// In one moment the clock and the process come first, then the samples, then what people do, then what follows from all
// that. A severity and what inhibits may be left out of an expectation. Names of points in `set` and `manual` are
// device.point.
package ruletest

import (
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"strings"
	"time"

	"linli/internal/telemetry"
	"linli/internal/yamlfile"
	"linli/rules"
)

// File is a test file, read by the caller.
type File struct {
	Name string
	Src  []byte
}

// Options is what the tests run against.
type Options struct {
	Classes map[string]*telemetry.Class
	// Packs can be named in test files; nil means the shipped ones.
	Packs map[string]*rules.Pack
	// Read reads a pack that a test file names by path, as os.ReadFile. Nil: such packs are mistakes.
	Read func(name string) ([]byte, error)
	// Filter, where not empty, runs only the tests whose name contains it.
	Filter string
}

// Report is what came of the tests.
type Report struct {
	Results []Result
	// NotRun is how many tests could not be run because of mistakes in them, their file or its packs.
	NotRun int `json:",omitempty"`
}

// Result is one test.
type Result struct {
	File, Name string
	Pos        yamlfile.Pos
	Failures   []string // empty: passed
	// Trace is every transition, output, escalation and suppression that happened, one a line.
	Trace []string
}

// Failed returns how many tests failed.
func (r *Report) Failed() int {
	n := 0
	for _, res := range r.Results {
		if len(res.Failures) > 0 {
			n++
		}
	}
	return n
}

// Print writes the report for people: failures in full, and a count of all.
func (r *Report) Print(w io.Writer) {
	for _, res := range r.Results {
		if len(res.Failures) == 0 {
			fmt.Fprintf(w, "ok    %s: %s\n", res.File, res.Name)
			continue
		}
		fmt.Fprintf(w, "FAIL  %s: %s\n", res.Pos, res.Name)
		for _, f := range res.Failures {
			fmt.Fprintf(w, "      %s\n", strings.ReplaceAll(f, "\n", "\n      "))
		}
	}
	if r.NotRun > 0 {
		fmt.Fprintf(w, "%d run, %d failed, %d not run\n", len(r.Results), r.Failed(), r.NotRun)
		return
	}
	tests := "tests"
	if len(r.Results) == 1 {
		tests = "test"
	}
	fmt.Fprintf(w, "%d %s, %d failed\n", len(r.Results), tests, r.Failed())
}

type testFile struct {
	Version   yamlfile.At[int]                                `yaml:"version,required"`
	Packs     []yamlfile.At[string]                           `yaml:"packs,required"`
	Params    yamlfile.Map[yamlfile.Map[yamlfile.At[scalar]]] `yaml:"params"`
	Schedules yamlfile.Map[[]rules.ScheduleEntry]             `yaml:"schedules"`
	Timezone  yamlfile.At[string]                             `yaml:"timezone"`
	Zones     []zoneFile                                      `yaml:"zones"`
	Devices   []deviceFile                                    `yaml:"devices"`
	Tests     []caseFile                                      `yaml:"tests,required"`
}

type zoneFile struct {
	ID    yamlfile.At[string] `yaml:"id,required"`
	Kind  string              `yaml:"kind"`
	In    yamlfile.At[string] `yaml:"in"`
	Title yamlfile.Text       `yaml:"title"`
}

type deviceFile struct {
	ID        yamlfile.At[string]               `yaml:"id,required"`
	Class     yamlfile.At[string]               `yaml:"class,required"`
	Zone      yamlfile.At[string]               `yaml:"zone"`    // required but for a system device
	System    bool                              `yaml:"system"`  // a bus or a unit, which lies in no zone
	Through   []yamlfile.At[string]             `yaml:"through"` // buses and units through which it is reached
	Title     yamlfile.Text                     `yaml:"title"`
	Provides  *[]yamlfile.At[string]            `yaml:"provides"`
	Constants yamlfile.Map[yamlfile.At[scalar]] `yaml:"constants"`
}

type caseFile struct {
	Pos       yamlfile.Pos                                    `yaml:",pos"`
	Name      string                                          `yaml:"name,required"`
	Every     yamlfile.At[string]                             `yaml:"every"`
	Start     yamlfile.At[string]                             `yaml:"start"`
	Restart   []yamlfile.At[string]                           `yaml:"restart"`
	Crash     []yamlfile.At[string]                           `yaml:"crash"`
	Reload    []reloadFile                                    `yaml:"reload"`
	Clock     []yamlfile.At[string]                           `yaml:"clock"`
	Ack       []yamlfile.At[string]                           `yaml:"ack"`
	Close     []yamlfile.At[string]                           `yaml:"close"`
	Manual    []yamlfile.At[string]                           `yaml:"manual"`
	Until     yamlfile.At[string]                             `yaml:"until"`
	Series    yamlfile.Map[yamlfile.At[scalar]]               `yaml:"series"`
	Expect    []yamlfile.At[string]                           `yaml:"expect"`
	Values    []yamlfile.At[string]                           `yaml:"values"`
	Params    yamlfile.Map[yamlfile.Map[yamlfile.At[scalar]]] `yaml:"params"`
	Schedules yamlfile.Map[[]rules.ScheduleEntry]             `yaml:"schedules"`
}

// scalar is a value as written, whatever it looks like.
type scalar string

// UnmarshalYAMLFile takes any scalar.
func (s *scalar) UnmarshalYAMLFile(n *yamlfile.Node) error {
	if !n.IsScalar() {
		return &yamlfile.Error{Pos: n.Pos, Msg: "expected one value, not a list or a mapping"}
	}
	*s = scalar(n.Scalar())
	return nil
}

// Run runs the tests of all files. A test that fails is in the report; the error, yamlfile.Errors, is of files or
// packs that are wrong themselves, and the tests of the other files are run all the same.
func Run(files []File, opts Options) (Report, error) {
	var report Report
	var errs yamlfile.Errors
	if opts.Packs == nil {
		shipped, err := rules.Shipped()
		if err != nil {
			return report, err
		}
		opts.Packs = shipped
	}
	for _, f := range files {
		results, notRun, err := runFile(f, opts)
		report.NotRun += notRun
		errs.Append(yamlfile.Pos{File: f.Name, Line: 1, Col: 1}, err)
		report.Results = append(report.Results, results...)
	}
	return report, errs.Err()
}

func runFile(f File, opts Options) (results []Result, notRun int, err error) {
	var tf testFile
	var errs yamlfile.Errors
	errs.Append(yamlfile.Pos{File: f.Name, Line: 1, Col: 1}, yamlfile.Decode(f.Name, f.Src, &tf))
	if tf.Version.Pos.Line > 0 && tf.Version.Value != 1 {
		errs.Addf(tf.Version.Pos, "version %d is not known: this program reads version 1", tf.Version.Value)
	}
	s := &setup{opts: opts, file: &tf, src: f.Src, errs: &errs}
	s.loadPacks(filepath.Dir(f.Name))
	s.loadZone()
	s.checkParams(tf.Params)
	s.checkSchedules(tf.Schedules)
	for i := range tf.Tests {
		s.checkParams(tf.Tests[i].Params)
		s.checkSchedules(tf.Tests[i].Schedules)
	}
	if len(errs) > 0 {
		// What is wrong in the packs' meaning is told in the same go.
		inv := &telemetry.Inventory{Site: "test", Gateway: "test"}
		_, err := rules.Compile(rules.Config{Packs: s.packs, Inventory: inv, Classes: opts.Classes})
		errs.Append(yamlfile.Pos{File: f.Name, Line: 1, Col: 1}, err)
		for i := range tf.Tests {
			if strings.Contains(tf.Tests[i].Name, opts.Filter) {
				notRun++
			}
		}
		return nil, notRun, errs.Err()
	}
	for i := range tf.Tests {
		if c := &tf.Tests[i]; strings.Contains(c.Name, opts.Filter) {
			if res, ok := s.runCase(c); ok {
				res.File = f.Name
				results = append(results, res)
			} else {
				notRun++
			}
		}
	}
	return results, notRun, errs.Err()
}

// setup is what the tests of one file share.
type setup struct {
	opts  Options
	file  *testFile
	src   []byte
	errs  *yamlfile.Errors
	packs []*rules.Pack
	loc   *time.Location
}

func (s *setup) loadPacks(dir string) {
	for _, name := range s.file.Packs {
		if p := s.opts.Packs[name.Value]; p != nil {
			s.packs = append(s.packs, p)
			continue
		}
		if !strings.HasSuffix(name.Value, ".yaml") && !strings.HasSuffix(name.Value, ".yml") {
			known := make([]string, 0, len(s.opts.Packs))
			for id := range s.opts.Packs {
				known = append(known, id)
			}
			s.errs.Addf(name.Pos, "unknown pack %q%s; packs of your own are named by path, as ./my_pack.yaml", name.Value, yamlfile.Suggest(name.Value, known))
			continue
		}
		if s.opts.Read == nil {
			s.errs.Addf(name.Pos, "packs cannot be read from files here")
			continue
		}
		path := name.Value
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		src, err := s.opts.Read(path)
		if err != nil {
			s.errs.Addf(name.Pos, "read pack: %v", err)
			continue
		}
		p, err := rules.ParsePack(path, src)
		if err != nil {
			s.errs.Append(name.Pos, err)
		}
		s.packs = append(s.packs, p)
	}
}

// checkParams reports parameters that a pack does not take, where they stand.
func (s *setup) checkParams(params yamlfile.Map[yamlfile.Map[yamlfile.At[scalar]]]) {
	for _, pack := range params {
		for _, p := range s.packs {
			if p.ID != pack.Key.Value {
				continue
			}
			for _, e := range pack.Value {
				if err := p.CheckParam(e.Key.Value, string(e.Value.Value)); err != nil {
					s.errs.Addf(e.Value.Pos, "%v", err)
				}
			}
		}
	}
}

func (s *setup) loadZone() {
	name := s.file.Timezone.Value
	if name == "" {
		name = "Asia/Shanghai"
	}
	loc, err := time.LoadLocation(name)
	if err != nil {
		s.errs.Addf(s.file.Timezone.Pos, "unknown time zone %q", name)
		loc = time.UTC
	}
	s.loc = loc
}

// checkSchedules reports what is wrong in schedules.
func (s *setup) checkSchedules(list yamlfile.Map[[]rules.ScheduleEntry]) {
	for _, e := range list {
		_, err := rules.NewSchedule(e.Key.Pos, e.Value)
		s.errs.Append(e.Key.Pos, err)
	}
}

// schedules joins the file's schedules with those of one test.
func (s *setup) schedules(c *caseFile) map[string]rules.Schedule {
	joined := map[string]rules.Schedule{}
	for _, list := range []yamlfile.Map[[]rules.ScheduleEntry]{s.file.Schedules, c.Schedules} {
		for _, e := range list {
			joined[e.Key.Value], _ = rules.NewSchedule(e.Key.Pos, e.Value) // checked before
		}
	}
	return joined
}

// params joins the file's parameters with those of one test.
func (s *setup) params(c *caseFile) map[string]map[string]string {
	all := paramsOf(s.file.Params)
	for pack, values := range paramsOf(c.Params) {
		if all[pack] == nil {
			all[pack] = map[string]string{}
		}
		maps.Copy(all[pack], values)
	}
	return all
}
