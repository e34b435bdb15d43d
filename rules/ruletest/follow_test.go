package ruletest_test

import (
	"strings"
	"testing"

	"linli/internal/telemetry"
	"linli/rules/ruletest"
)

// stage has a pack with everything that follows from alerts.
const stagePack = `version: 1
pack: mine
title: {zh: 我的, en: Mine}
params: {limit: 10, wait: 1m}
rules:
  - alert: High
    for_each: meter
    expr: power_w > ${limit}
    severity: warning
    severity_when: {critical: power_w > 100}
    title: {zh: 高, en: High}
    outputs:
      - {device: zone.horn, point: play, after: "${wait}", for: 20s, until: acknowledged}
      - {device: self, point: mode, value: eco, until: closed}
      - {device: zone.horn, point: level, value: 3, severity: critical}
    escalate: [{after: 2m, to: community}, {after: 3m, to: street, severity: critical}]
    inhibited_by: [Down]
  - {alert: Down, for_each: bus, expr: down, severity: notice, title: {zh: a, en: a}}
  - alert: Evening
    for_each: site
    expr: hour() >= 22
    severity: notice
    title: {zh: 晚, en: Evening}
`

const stageSite = `version: 1
packs: [./mine.yaml]
zones: [{id: z1, kind: area}]
devices:
  - {id: m1, class: meter, zone: z1, through: [b1], provides: [power_w, mode]}
  - {id: m2, class: meter, zone: z1, provides: [power_w, mode]}
  - {id: h1, class: horn, zone: z1}
  - {id: b1, class: bus, system: true}
tests:
`

func stage(t *testing.T, pack, tests string) (ruletest.Report, error) {
	t.Helper()
	w := func(name string, kind telemetry.Kind, enum ...telemetry.EnumName) telemetry.PointDef {
		return telemetry.PointDef{Name: name, Kind: kind, Writable: true, Enum: enum, Title: telemetry.Text{Zh: name, En: name}}
	}
	mode := w("mode", telemetry.Enum, telemetry.EnumName{Code: 0, Name: "normal"}, telemetry.EnumName{Code: 1, Name: "eco"})
	lamp := w("lamp", telemetry.Bool)
	lamp.Optional = true
	return ruletest.Run([]ruletest.File{{Name: "dir/test.yaml", Src: []byte(stageSite + tests)}}, ruletest.Options{
		Classes: map[string]*telemetry.Class{
			"meter": {ID: "meter", Points: []telemetry.PointDef{{Name: "power_w", Kind: telemetry.Float}, mode, lamp}},
			"horn":  {ID: "horn", Points: []telemetry.PointDef{w("play", telemetry.Bool), w("level", telemetry.Int)}},
			"bus":   {ID: "bus", Points: []telemetry.PointDef{{Name: "down", Kind: telemetry.Bool}}},
		},
		Read: func(string) ([]byte, error) { return []byte(pack), nil },
	})
}

func TestWhatFollows(t *testing.T) {
	report, err := stage(t, stagePack, `
  - name: nobody does anything
    series: {m1.power_w: 5 20 x30 5 x3}
    expect:
      - 10s raise High m1 warning
      - 10s set m1.mode eco
      - 1m10s set h1.play true
      - 1m30s set h1.play false
      - 2m10s escalate High m1 community warning
      - 3m10s escalate High m1 street critical
      - 3m10s set h1.level 3
      - 5m10s clear High m1
      - 5m10s set h1.level 0
  - name: somebody does
    ack: [1m20s High m1]
    series: {m1.power_w: 5 20 x30 5 x3}
    expect:
      - 10s raise High m1 warning
      - 10s set m1.mode eco
      - 1m10s set h1.play true
      - 1m20s set h1.play false
      - 5m10s clear High m1
      - 5m10s set m1.mode normal
  - name: in the moment of the raise, and afterwards
    ack: [10s High m1]
    series: {m1.power_w: 5 20 x9 5 x3 20 5 x9}
    expect:
      - 10s raise High m1
      - 10s set m1.mode eco
      - 1m40s clear High m1
      - 1m40s set m1.mode normal
      - 2m10s raise High m1
      - 2m10s set m1.mode eco
      - 2m20s clear High m1
    until: 2m30s
  - name: acknowledged when it is gone
    ack: [1m High m1]
    series: {m1.power_w: 20 x2 5 x9}
    expect:
      - 0s raise High m1
      - 0s set m1.mode eco
      - 20s clear High m1
      - 1m set m1.mode normal
  - name: by hand
    manual: [1m15s h1.play false, 30s m1.mode normal]
    series: {m1.power_w: 20 x10 5 x3}
    expect:
      - 0s raise High m1
      - 0s set m1.mode eco
      - 1m set h1.play true
      - 1m40s clear High m1
  - name: closed by hand, and true again
    close: [50s High m1]
    series: {m1.power_w: 20 x3 bad_comm x5 20 x3}
    expect:
      - 0s raise High m1
      - 0s set m1.mode eco
      - 30s unknown High m1
      - 50s set m1.mode normal
      - 1m20s raise High m1
      - 1m20s set m1.mode eco
  - name: through a bus that is down
    series:
      b1.down: false x2 true x3 false x9
      m1.power_w: 20 x14
      m2.power_w: 20 5 x12
    expect:
      - 0s raise High m1
      - 0s raise High m2
      - 0s set m1.mode eco
      - 0s set m2.mode eco
      - 10s clear High m2
      - 20s raise Down b1
      - 20s suppress High m1 by Down b1
      - 20s set m1.mode normal
      - 50s clear Down b1
      - 50s unsuppress High m1
      - 50s set m1.mode eco
      - 1m50s set h1.play true
      - 2m10s set h1.play false
  - name: a restart in the middle
    restart: [1m10s]
    series: {m1.power_w: 20 x10}
    expect:
      - 0s raise High m1
      - 0s set m1.mode eco
      - 1m set h1.play true
      - 1m10s set h1.play true # once more
      - 1m10s set m1.mode eco
      - 1m20s set h1.play false
  - name: a restart while it climbs
    crash: [2m30s]
    series: {m1.power_w: 20 x20}
    expect:
      - 0s raise High m1
      - 0s set m1.mode eco
      - 1m set h1.play true
      - 1m20s set h1.play false
      - 2m escalate High m1 community
      - 2m30s set m1.mode eco
      - 3m escalate High m1 street critical
      - 3m set h1.level 3
  - name: other values of the parameters
    reload: [20s, {at: 50s, params: {mine: {limit: 50, wait: 2m}}}, {at: 1m30s, params: {mine: {limit: 15}}}]
    series: {m1.power_w: 20 x30}
    expect:
      - 0s raise High m1
      - 0s set m1.mode eco
      - 50s clear High m1
      - 1m30s raise High m1 # eco it still is
      - 3m30s set h1.play true
      - 3m30s escalate High m1 community
      - 3m50s set h1.play false
      - 4m30s escalate High m1 street
      - 4m30s set h1.level 3
  - name: the clock
    start: 2026-05-04 21:30
    clock: [10m +1h, 12m unset, 13m 2026-05-04 21:55, 14m -10m]
    until: 30m
    series: {m1.power_w: 5}
    expect:
      - 10m raise Evening test notice
      - 12m unknown Evening test
      - 13m clear Evening test
      - 28m raise Evening test
`)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if report.Print(&b); report.Failed() > 0 || len(report.Results) != 11 {
		t.Error(b.String())
	}
}

// What is not expected fails, and the failure tells what people did and what followed.
func TestFailuresOfWhatFollows(t *testing.T) {
	report, err := stage(t, stagePack, `
  - name: a horn that nobody expects
    ack: [1m10s High m1]
    series: {m1.power_w: 20 x10}
    expect:
      - 0s raise High m1
      - 0s set m1.mode eco
      - 1m set h1.play true
      - 1m escalate High m1 street
      - 1m10s suppress High m1 by Down b1
  - name: nothing to do
    ack: [5s High m1]
    close: [20s High m1, 6s High m2]
    start: unset
    clock: [7s +1h]
    series: {m1.power_w: 5 20 x2}
    expect: [10s raise High m1, 10s set m1.mode eco]
`)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	report.Print(&b)
	for _, want := range []string{
		"dir/test.yaml:18:9: did not happen: 1m escalate High m1 street\n",
		"dir/test.yaml:19:9: did not happen: 1m10s suppress High m1 by Down b1\n",
		"not expected: 1m10s set h1.play false\n",
		"1m10s  m1.power_w = 20\n           1m10s  ack High m1\n           1m10s  set h1.play false",
		"1m  set h1.play true",
		"dir/test.yaml:21:11: at 5s High m1 is not open: there is nothing to acknowledge",
		"dir/test.yaml:22:26: at 6s High m2 is not open: there is nothing to close",
		"dir/test.yaml:22:13: at 20s High m1 cannot be closed by hand: its condition holds",
		"dir/test.yaml:24:13: the clock is not set at 7s: it cannot be moved by +1h",
		"2 tests, 2 failed",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, b.String())
		}
	}
}

func TestMistakesInWhatFollows(t *testing.T) {
	for name, c := range map[string]struct{ test, want string }{
		"ack":             {"ack: [2m High]", "ack: written as 2m FireLaneBlocked s1"},
		"ack time":        {"ack: [2 High m1]", "a unit is missing"},
		"ack alert":       {"ack: [2m Hihg m1]", `unknown alert Hihg, did you mean "High"?`},
		"ack subject":     {"ack: [2m High m7]", "there is no device or zone m7 (the site is called test)"},
		"close":           {"close: [High]", `"High" is not a duration`},
		"empty":           {"close: ['']", "a time is missing"},
		"manual":          {"manual: [3m h1.play]", "manual: written as 3m horn1.play false"},
		"manual output":   {"manual: [3m h1.plya true]", `unknown output "h1.plya", did you mean "h1.play"?`},
		"manual input":    {"manual: [3m m1.power_w 5]", "m1.power_w is no output"},
		"manual optional": {"manual: [3m m1.lamp true]", "nothing provides it here: list it in the device's `provides`"},
		"manual value":    {"manual: [3m m1.mode ecco]", `mode has no state "ecco", did you mean "eco"?`},
		"clock":           {"clock: [3m tomorrow]", `clock: "tomorrow" is neither a step`},
		"clock step":      {"clock: [3m +1]", "is neither a step"},
		"restart":         {"restart: [3m now]", "restart: only the time is written, as 5m"},
		"reload":          {"reload: [{params: {}}]", `missing key "at"`},
		"reload time":     {"reload: [soon]", `"soon" is not a duration`},
		"reload param":    {"reload: [{at: 3m, params: {mine: {limt: 1}}}]", `has no parameter limt, did you mean "limit"?`},
		"set":             {"expect: [3m set h1.play true false]", "an output is expected as: 4m set horn1.play true"},
		"set output":      {"expect: [3m set h1.ply true]", `unknown output "h1.ply"`},
		"set value":       {"expect: [3m set h1.level high]", `"high" is not a value of level`},
		"escalate":        {"expect: [3m escalate High m1]", "an escalation is expected as"},
		"escalate tier":   {"expect: [3m escalate High m1 stret]", `unknown tier "stret", did you mean "street"?`},
		"escalate grade":  {"expect: [3m escalate High m1 street high]", `unknown severity "high"`},
		"suppress":        {"expect: [3m suppress High m1 Down]", "a suppression is expected as"},
		"word":            {"expect: [3m supress High m1]", `unknown transition "supress", did you mean "suppress"?`},
		"raise":           {"expect: [3m raise High m1 warning again]", "an expectation is written"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := stage(t, stagePack, "  - {name: a, "+c.test+"}\n")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want ...%s...", err, c.want)
			}
		})
	}
	_, err := ruletest.Run([]ruletest.File{{Name: "dir/test.yaml", Src: []byte(strings.Replace(stageSite, "[b1]", "[m2]", 1) + "  - {name: a}\n")}}, ruletest.Options{
		Classes: map[string]*telemetry.Class{"meter": {ID: "meter", Points: []telemetry.PointDef{{Name: "power_w"}, {Name: "mode"}}}, "horn": {ID: "horn"}, "bus": {ID: "bus"}},
		Read:    func(string) ([]byte, error) { return []byte("version: 1\npack: mine\ntitle: a\nrules: []\n"), nil }})
	if err == nil || !strings.Contains(err.Error(), "\"m2\" is no bus or unit of this file (`system: true`)") {
		t.Errorf("error %v", err)
	}
}
