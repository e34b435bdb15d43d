package ruletest_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"linli/internal/telemetry"
	"linli/internal/yamlfile"
	"linli/rules"
	"linli/rules/ruletest"
)

const packFile = `version: 1
pack: mine
title: {zh: 我的, en: Mine}
params: {limit: 10}
rules:
  - alert: High
    for_each: meter
    expr: power_w > ${limit}
    for: 20s
    severity: notice
    title: {zh: 高, en: High}
  - record: kilowatts
    for_each: meter
    expr: power_w / 1000
`

const site = `version: 1
packs: [./mine.yaml]
zones: [{id: z1, kind: area}, {id: z2, kind: area, in: z1}]
devices: [{id: m1, class: meter, zone: z2}]
tests:
`

func options() ruletest.Options {
	return ruletest.Options{
		Classes: map[string]*telemetry.Class{"meter": {ID: "meter", Points: []telemetry.PointDef{
			{Name: "power_w", Kind: telemetry.Float, Unit: "W", Title: telemetry.Text{Zh: "功率", En: "Power"}},
			{Name: "mode", Kind: telemetry.Enum, Optional: true, Enum: []telemetry.EnumName{{Code: 1, Name: "eco"}}},
			{Name: "label", Kind: telemetry.KindText, Optional: true},
			{Name: "pulses", Kind: telemetry.Int, Optional: true},
		}}},
		Read: func(name string) ([]byte, error) {
			if name != "dir/mine.yaml" {
				return nil, fs.ErrNotExist
			}
			return []byte(packFile), nil
		},
	}
}

func run(t *testing.T, tests string) (ruletest.Report, error) {
	t.Helper()
	return ruletest.Run([]ruletest.File{{Name: "dir/test.yaml", Src: []byte(site + tests)}}, options())
}

func TestPasses(t *testing.T) {
	report, err := run(t, `
  - name: all notations
    series:
      m1.power_w: 5 x3 over:11 x2 uncertain:12 _ x2 bad_sensor 11@-3s&12 nan 3 x2
      m1.mode: eco x5
      m1.label: '"hall 1" x2 "hall 2"'
      m1.pulses: 1 2 3
    expect:
      - 50s raise High m1 notice
      - 1m20s unknown High m1
      - 1m27s known High m1
      - 1m40s unknown High m1
      - 1m50s clear High m1
    values:
      - 1m30s kilowatts m1 0.012
      - 1m40s kilowatts m1 bad_sensor
  - name: parameter of one test
    params: {mine: {limit: 100}}
    series: {m1.power_w: 50 x10}
    expect: []
`)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	report.Print(&b)
	if report.Failed() != 0 || !strings.Contains(b.String(), "2 tests, 0 failed") {
		t.Error(b.String())
	}
}

// A failure says what happened around the moment.
func TestFailures(t *testing.T) {
	report, err := run(t, `
  - name: wrong time
    series: {m1.power_w: 5 x3 11 x5}
    expect: [40s raise High m1 notice]
  - name: wrong severity
    series: {m1.power_w: 11 x5}
    expect: [20s raise High m1 critical]
  - name: nothing expected
    series: {m1.power_w: 11 x5}
  - name: wrong value
    series: {m1.power_w: 5 x3}
    values: [10s kilowatts m1 5, 10s kilowatts m2 1]
`)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	report.Print(&b)
	for _, want := range []string{
		"FAIL  dir/test.yaml:7:5: wrong time",
		"did not happen: 40s raise High m1 notice",
		"not expected: 50s raise High m1 notice",
		"30s  m1.power_w = 11",
		"did not happen: 20s raise High m1 critical",
		"not expected: 20s raise High m1 notice",
		"at 10s kilowatts of m1 is 0.005, expected 5",
		"kilowatts of m2 has no value",
		"4 tests, 4 failed",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, b.String())
		}
	}
}

func TestMistakesInTestFiles(t *testing.T) {
	for name, c := range map[string]struct{ tests, want string }{
		"unknown point": {"  - {name: a, series: {m1.powr_w: 1}}", `unknown point "m1.powr_w", did you mean "m1.power_w"?`},
		"bad value":     {"  - {name: a, series: {m1.power_w: 1 two}}", `:38: m1.power_w: "two" is not a value of power_w`},
		"bad state":     {"  - {name: a, series: {m1.mode: ecco}}", `mode has no state "ecco", did you mean "eco"?`},
		"repeat first":  {"  - {name: a, series: {m1.power_w: x3}}", "repeats nothing"},
		"fraction":      {"  - {name: a, series: {m1.pulses: 1.5}}", "is a whole number"},
		"too many":      {"  - {name: a, series: {m1.power_w: 1 x2000000}}", "more than 1000000 values"},
		"prefix":        {"  - {name: a, series: {m1.power_w: '1 up:3'}}", `:39: m1.power_w: "up:3": only over:, under: and uncertain:`},
		"expectation":   {"  - {name: a, expect: [20s raise High]}", "an expectation is written"},
		"transition":    {"  - {name: a, expect: [20s raises High m1]}", `unknown transition "raises", did you mean "raise"?`},
		"time":          {"  - {name: a, expect: [20 raise High m1]}", "a unit is missing"},
		"start":         {"  - {name: a, start: tomorrow}", `"tomorrow" is not a time`},
		"unknown param": {"  - {name: a, params: {mine: {limt: 3}}}", "has no parameter limt"},
		"unknown key":   {"  - {name: a, sereis: {}}", `"series"`},
		"unknown value": {"  - {name: a, values: [10s kilowats m1 5]}", `unknown derived point "kilowats", did you mean "kilowatts"?`},
		"open text":     {"  - {name: a, series: {m1.label: '\"a'}}", "a text is not closed"},
	} {
		t.Run(name, func(t *testing.T) {
			report, err := run(t, c.tests+"\n")
			var out strings.Builder
			if report.Print(&out); out.String() != "0 run, 0 failed, 1 not run\n" {
				t.Errorf("printed %q", out.String())
			}
			var all yamlfile.Errors
			if !errors.As(err, &all) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want ...%s...", err, c.want)
			}
		})
	}
	for name, c := range map[string]struct{ from, to, want string }{
		"pack":  {"./mine.yaml", "nothing", "unknown pack"},
		"file":  {"./mine.yaml", "./other.yaml", "read pack"},
		"class": {"class: meter", "class: metre", `unknown class "metre", did you mean "meter"?`},
		"zone":  {"zone: z2", "zone: z9", `unknown zone "z9"`},
		"order": {"in: z1", "in: z3", "must stand before"},
	} {
		t.Run(name, func(t *testing.T) {
			src := strings.Replace(site, c.from, c.to, 1) + "  - {name: a}\n"
			_, err := ruletest.Run([]ruletest.File{{Name: "dir/test.yaml", Src: []byte(src)}}, options())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want ...%s...", err, c.want)
			}
		})
	}
}

func FuzzRun(f *testing.F) {
	f.Add(site + "  - {name: a, series: {m1.power_w: 5 x3 over:11 x2}, expect: [20s raise High m1]}\n")
	opts := options()
	opts.Packs = map[string]*rules.Pack{} // the shipped ones are slow to parse
	f.Fuzz(func(t *testing.T, src string) {
		if len(src) > 2000 || strings.Contains(src, "until") || strings.Contains(src, "x") && len(src) > 600 {
			return // long runs are not what is looked for
		}
		_, _ = ruletest.Run([]ruletest.File{{Name: "dir/test.yaml", Src: []byte(src)}}, opts)
	})
}

// A wrong parameter is told where it stands, and together with what is wrong in a pack.
func TestParamsAndPacksAtOnce(t *testing.T) {
	read := func(string) ([]byte, error) {
		return []byte("version: 1\npack: mine\ntitle: x\nparams: {limit: 5}\nrules:\n" +
			"  - {alert: A, for_each: door, expr: open ==, severity: notice, title: x}\n" +
			"  - {alert: B, for_each: nothing, expr: open, severity: notice, title: x}\n"), nil
	}
	src := "version: 1\npacks: [./mine.yaml]\nparams: {mine: {limit: 5s}}\ntests: [{name: n, params: {mine: {limt: 1}}}]\n"
	_, err := ruletest.Run([]ruletest.File{{Name: "t.yaml", Src: []byte(src)}}, ruletest.Options{Classes: map[string]*telemetry.Class{"door": {ID: "door"}}, Read: read})
	if err == nil {
		t.Fatal("no error")
	}
	var places []string
	for _, line := range strings.Split(err.Error(), "\n") {
		place, _, _ := strings.Cut(line, ": ")
		places = append(places, place)
	}
	if got := strings.Join(places, " "); got != "mine.yaml:6:45 mine.yaml:7:26 t.yaml:3:24 t.yaml:4:41" {
		t.Errorf("got:\n%v", err)
	}
}

// Schedules of a test file are those of a site: of the file, and of one test.
func TestSchedulesOfASite(t *testing.T) {
	o := options()
	o.Read = func(string) ([]byte, error) {
		return []byte("version: 1\npack: mine\ntitle: x\nschedules: {night: []}\nrules:\n  - {alert: Night, for_each: meter, expr: 'schedule(\"night\")', severity: notice, title: {zh: a, en: a}}\n"), nil
	}
	src := `version: 1
packs: [./mine.yaml]
schedules: {night: [{from: "22:00", to: "06:00", zones: [z1]}]}
zones: [{id: z1, kind: area}, {id: z2, kind: area, in: z1}]
devices: [{id: m1, class: meter, zone: z2}]
tests:
  - {name: the file's, start: 2026-05-04 21:59, until: 2m, series: {m1.power_w: 1}, expect: [1m raise Night m1 notice]}
  - {name: its own, start: 2026-05-04 21:59, until: 2m, series: {m1.power_w: 1}, schedules: {night: [{zones: [nowhere]}]}}
`
	report, err := ruletest.Run([]ruletest.File{{Name: "dir/test.yaml", Src: []byte(src)}}, o)
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Results) != 2 || report.Failed() > 0 {
		var b strings.Builder
		report.Print(&b)
		t.Error(b.String())
	}
	_, err = ruletest.Run([]ruletest.File{{Name: "dir/test.yaml", Src: []byte(strings.Replace(src, "22:00", "22.00", 1))}}, o)
	if err == nil || !strings.Contains(err.Error(), `dir/test.yaml:3:28: "22.00" is neither a time of day`) {
		t.Errorf("error %v", err)
	}
}
