package rules_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"linli/internal/telemetry"
	"linli/internal/yamlfile"
	"linli/rules"
	"linli/rules/response"
)

// actuators adds classes with outputs of every kind to the site's catalogue.
func (s *site) actuators() *site {
	w := func(name string, kind telemetry.Kind, enum ...telemetry.EnumName) telemetry.PointDef {
		return telemetry.PointDef{Name: name, Kind: kind, Enum: enum, Writable: true, Optional: true, Title: telemetry.Text{Zh: name, En: name}}
	}
	for _, c := range []*telemetry.Class{
		{ID: "siren", Points: []telemetry.PointDef{w("on", telemetry.Bool)}},
		{ID: "door", Points: []telemetry.PointDef{{Name: "open", Kind: telemetry.Bool}, w("release", telemetry.Bool)}},
		{ID: "panel", Points: []telemetry.PointDef{w("page", telemetry.Int), w("level_pct", telemetry.Float), w("text", telemetry.KindText),
			w("mode", telemetry.Enum, telemetry.EnumName{Code: 0, Name: "off"}, telemetry.EnumName{Code: 2, Name: "blink"}),
			w("sort", telemetry.Enum, telemetry.EnumName{Code: 1, Name: "a"})}},
		{ID: "bus_unit", Points: []telemetry.PointDef{{Name: "online", Kind: telemetry.Bool}}},
	} {
		s.classes[c.ID] = c
	}
	return s
}

// plan writes a plan for comparison: points and subjects by their names.
func (s *site) plan(e *rules.Engine, alert, subject string) string {
	p := e.Plan(telemetry.Identity{Alert: alert, Subject: subject})
	if p == nil {
		return "-"
	}
	var lines []string
	for _, o := range p.Outputs {
		series := s.Series(o.Point)
		line := fmt.Sprintf("%s.%s %v/%v", series.Device, series.Point, o.Value, o.Rest)
		if o.After > 0 {
			line += fmt.Sprintf(" after %v", o.After)
		}
		if o.For > 0 {
			line += fmt.Sprintf(" for %v", o.For)
		}
		if line += " " + o.Until.String(); o.Severity > 0 {
			line += " " + o.Severity.String()
		}
		for _, id := range o.Unless {
			line += " unless " + id.Alert + "/" + id.Subject
		}
		lines = append(lines, line)
	}
	for _, st := range p.Escalate {
		lines = append(lines, fmt.Sprintf("%v %s %v", st.After, st.To, st.Severity))
	}
	for _, id := range p.Inhibitors {
		lines = append(lines, "by "+id.Alert+"/"+id.Subject)
	}
	if p.LifeSafety {
		lines = append(lines, "life")
	}
	return strings.Join(lines, ", ")
}

func TestPlan(t *testing.T) {
	s := newSite().actuators()
	s.zone("b1", "building", "")
	s.zone("f1", "floor", "b1")
	s.zone("f2", "floor", "b1")
	s.zone("yard", "area", "")
	s.device("m1", "meter", "f1", "power_w")
	s.device("m2", "meter", "yard", "power_w")
	s.device("siren1", "siren", "f1", "on")
	s.device("siren2", "siren", "f2", "on")
	s.device("siren3", "siren", "yard", "on")
	s.device("siren4", "siren", "yard") // nothing provides it
	s.device("p1", "panel", "f1", "page", "mode", "level_pct")
	unit := s.AddDevice(telemetry.Device{ID: "io1", Class: s.classes["bus_unit"], Zone: -1, System: true})
	s.ProvidePoint(unit, 0)
	m1, _ := s.DeviceByID("m1")
	s.Devices[m1].Through = []int{unit}

	src := "version: 1\npack: p\ntitle: {zh: 测试, en: Test}\nparams: {wait: 1m, up: {default: 5m, min: 1s}}\nrules:\n" + `
  - alert: A
    for_each: meter
    expr: power_w > 1
    severity: warning
    severity_when: {critical: power_w > 2}
    title: {zh: a, en: a}
    outputs:
      - {device: zone.siren, point: 'on', after: "${wait}", for: 20s, until: acknowledged, severity: critical, unless: [Down, Quiet, Shut]}
      - {device: building.siren, point: 'on', until: closed}
      - {device: site.panel, point: page, value: 7}
      - {device: site.panel, point: level_pct, value: 2.5}
      - {device: site.panel, point: mode, value: blink}
      - {device: site.panel, point: page}
    escalate: [{after: 1s, to: community}, {after: "${up}", to: district, severity: critical}]
    inhibited_by: [Quiet, Down, Shut, SmokeAlarm]
  - {alert: Down, for_each: bus_unit, expr: not online, severity: warning, title: {zh: a, en: a}}
  - {alert: Quiet, for_each: site, expr: hour() == 3, severity: warning, title: {zh: a, en: a}}
  - {alert: Shut, for_each: zone, expr: hour() == 3, severity: warning, title: {zh: a, en: a}}
  - {alert: Own, for_each: siren, expr: on, severity: notice, title: {zh: a, en: a}, outputs: [{device: self, point: 'on', value: false}], life_safety: true}
`
	p, err := rules.ParsePack("p.yaml", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	e, err := rules.Compile(rules.Config{Packs: []*rules.Pack{p}, Inventory: s.Inventory, Classes: s.classes,
		Params: map[string]map[string]string{"p": {"wait": "90s", "up": "10m"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ alert, subject, want string }{
		{"A", "m1", "siren1.on true/false after 1m30s for 20s acknowledged critical unless Down/io1 unless Quiet/s1 unless Shut/f1 unless Shut/b1, " +
			"siren1.on true/false closed, siren2.on true/false closed, p1.page 7/0 cleared, p1.level_pct 2.5/0 cleared, p1.mode 2/0 cleared, p1.page 1/0 cleared, " +
			"1s community severity, 10m0s district critical, by Quiet/s1, by Down/io1, by Shut/f1, by Shut/b1"},
		{"A", "m2", "siren3.on true/false after 1m30s for 20s acknowledged critical unless Quiet/s1 unless Shut/yard, " +
			"p1.page 7/0 cleared, p1.level_pct 2.5/0 cleared, p1.mode 2/0 cleared, p1.page 1/0 cleared, " +
			"1s community severity, 10m0s district critical, by Quiet/s1, by Shut/yard"},
		{"Own", "siren1", "siren1.on false/false cleared, life"},
		{"Own", "siren4", "life"},
		{"Down", "io1", "-"}, {"Nobody", "m1", "-"}, {"A", "siren1", "-"},
	} {
		want := strings.ReplaceAll(c.want, "community severity", "community "+telemetry.Severity(0).String())
		if got := s.plan(e, c.alert, c.subject); got != want {
			t.Errorf("%s %s\n got  %s\n want %s", c.alert, c.subject, got, want)
		}
	}
	if w := e.Warnings(); len(w) > 0 {
		t.Errorf("warnings: %v", w)
	}
}

// followsRule is a rule in lines of YAML, of which more begins at line 6 (the head has 5).
func followsRule(forEach, more string) string {
	return "version: 1\npack: p\ntitle: {zh: 测试, en: Test}\nparams: {none: 0s, wait: 5m}\nrules:\n" +
		"  - {alert: Quiet, for_each: site, expr: hour() == 3, severity: warning, title: {zh: a, en: a}}\n" +
		"  - alert: A\n    for_each: " + forEach + "\n    expr: hour() == 4\n    severity: warning\n    title: {zh: a, en: a}\n" + more
}

func TestMistakesInWhatFollows(t *testing.T) {
	output := func(s string) string { return "    outputs:\n      - {" + s + "}\n" }
	for name, c := range map[string]struct{ forEach, more, want string }{
		"no scope":             {"meter", output("device: siren, point: 'on'"), `p.yaml:13:18: "siren": an output is`},
		"two scopes":           {"meter", output("device: zone.siren.on, point: 'on'"), "an output is `self`, or the devices of a class"},
		"no class":             {"meter", output("device: zone., point: 'on'"), "an output is `self`"},
		"scope":                {"meter", output("device: bilding.siren, point: 'on'"), `p.yaml:13:18: outputs: unknown scope "bilding", did you mean "building"?`},
		"class":                {"meter", output("device: zone.sirn, point: 'on'"), `p.yaml:13:18: outputs: unknown class "sirn", did you mean "siren"?`},
		"point":                {"meter", output("device: zone.door, point: relese"), `p.yaml:13:36: outputs: class door has no point "relese", did you mean "release"?`},
		"not writable":         {"meter", output("device: zone.door, point: open"), "p.yaml:13:36: outputs: door.open cannot be written (of class door one can write release)"},
		"nothing writable":     {"meter", output("device: zone.meter, point: power_w"), "cannot be written (class meter has no outputs)"},
		"self of a zone":       {"zone", output("device: self, point: 'on'"), "p.yaml:13:18: outputs: `self` is the subject's own device, and A is for each zone"},
		"self of any device":   {"device", output("device: self, point: 'on'"), "A is for each device: name a class"},
		"self without":         {"door", output("device: self, point: 'on'"), `p.yaml:13:31: outputs: class door has no point "on"`},
		"bool":                 {"meter", output("device: zone.siren, point: 'on', value: 5"), `p.yaml:13:50: outputs: on is true or false, not "5"`},
		"enum":                 {"meter", output("device: site.panel, point: mode, value: blnk"), `p.yaml:13:50: outputs: mode has no state "blnk", did you mean "blink"? (off, blink)`},
		"enum without a value": {"meter", output("device: site.panel, point: mode"), "p.yaml:13:37: outputs: mode needs a `value`: off, blink"},
		"enum without rest":    {"meter", output("device: site.panel, point: sort, value: a"), "has no state with code 0 to go back to"},
		"int":                  {"meter", output("device: site.panel, point: page, value: 1.5"), "page is a whole number, not 1.5"},
		"number":               {"meter", output("device: site.panel, point: page, value: first"), `page is a number, not "first"`},
		"not finite":           {"meter", output("device: site.panel, point: level_pct, value: inf"), `level_pct is a number, not "inf"`},
		"text":                 {"meter", output("device: site.panel, point: text, value: fire"), "text is text, which no rule can drive"},
		"until":                {"meter", output("device: zone.siren, point: 'on', until: closd"), `until is acknowledged, cleared or closed, not "closd", did you mean "closed"?`},
		"for 0s":               {"meter", output("device: zone.siren, point: 'on', for: 0s"), "p.yaml:13:48: `for: 0s` is over before it begins"},
		"for a parameter of 0": {"meter", output("device: zone.siren, point: 'on', for: '${none}'"), "is over before it begins"},
		"for nonsense":         {"meter", output("device: zone.siren, point: 'on', for: 5"), "p.yaml:13:48: \"5\" is not a duration"},
		"after nonsense":       {"meter", output("device: zone.siren, point: 'on', after: '${wiat}'"), `p.yaml:13:50: unknown parameter ${wiat}, did you mean "wait"?`},
		"severity":             {"meter", output("device: zone.siren, point: 'on', severity: criticl"), `unknown severity "criticl", did you mean "critical"?`},
		"never so severe":      {"meter", output("device: zone.siren, point: 'on', severity: critical"), "p.yaml:13:53: outputs: A is never critical, so that this is never driven (its worst is warning"},
		"unless":               {"meter", output("device: zone.siren, point: 'on', unless: [Quiet, Quite]"), `p.yaml:13:59: unless: unknown alert Quite, did you mean "Quiet"?`},
		"unless is no name":    {"meter", output("device: zone.siren, point: 'on', unless: [quiet]"), `p.yaml:13:52: unless: "quiet" is not the name of an alert`},
		"unknown key":          {"meter", output("device: zone.siren, point: 'on', afer: 5s"), `did you mean "after"?`},
		"tier":                 {"meter", "    escalate: [{after: 5m, to: stret}]\n", `unknown tier "stret", did you mean "street"?`},
		"tier again":           {"meter", "    escalate: [{after: 5m, to: street}, {after: 6m, to: street}]\n", "p.yaml:12:57: street has been told already"},
		"tier down":            {"meter", "    escalate: [{after: 5m, to: street}, {after: 6m, to: community, severity: critical}]\n", "community has been told already"},
		"steps out of order":   {"meter", "    escalate: [{after: 5m, to: community}, {after: 4m, to: street}]\n", "p.yaml:12:52: escalate: street would be told after 4m, before those of the step above (5m)"},
		"life safety":          {"meter", "    life_safety: true\n    inhibited_by: [Quiet]\n", "p.yaml:13:20: A protects life: nothing inhibits it"},
		"by itself":            {"meter", "    inhibited_by: [Quiet, A]\n", "p.yaml:12:27: A cannot be inhibited by itself"},
		"by each other": {"meter", "    inhibited_by: [B]\n  - {alert: B, for_each: meter, expr: hour() == 5, severity: notice, title: {zh: a, en: a}, inhibited_by: [A]}\n",
			"p.yaml:13:108: alerts that inhibit each other would silence each other: A by B by A"},
	} {
		t.Run(name, func(t *testing.T) {
			p, _ := rules.ParsePack("p.yaml", []byte(followsRule(c.forEach, c.more)))
			s := newSite().actuators()
			_, err := rules.Compile(rules.Config{Packs: []*rules.Pack{p}, Inventory: s.Inventory, Classes: s.classes})
			var all yamlfile.Errors
			if !errors.As(err, &all) || len(all) != 1 || !strings.Contains(all.Error(), c.want) {
				t.Errorf("got:\n%v\nwant ...%s...", err, c.want)
			}
		})
	}
	// A wrong value of the site's.
	p, err := rules.ParsePack("p.yaml", []byte(followsRule("meter", output("device: zone.siren, point: 'on', for: '${wait}'"))))
	if err != nil {
		t.Fatal(err)
	}
	s := newSite().actuators()
	_, err = rules.Compile(rules.Config{Packs: []*rules.Pack{p}, Inventory: s.Inventory, Classes: s.classes, Params: map[string]map[string]string{"p": {"wait": "0s"}}})
	if err == nil || !strings.Contains(err.Error(), "p.yaml:13:48: outputs: `for` is 0s here") {
		t.Errorf("error %v, want `for` refused", err)
	}
}

func TestWarningsOfWhatFollows(t *testing.T) {
	siren := "    outputs: [{device: zone.siren, point: 'on'}, {device: zone.siren, point: 'on', after: 1m}, {device: zone.door, point: release}]\n"
	for name, c := range map[string]struct {
		forEach, expr, more string
		lay                 func(*site)
		want                string
	}{
		"nobody has one": {"meter", "power_w > 1", siren, func(s *site) { s.device("d", "door", "z1", "release") },
			"A shall drive zone.siren.on, and in reach of its subjects there is none"},
		"nobody has any": {"meter", "power_w > 1", siren, func(s *site) { s.device("s", "siren", "z2", "on") },
			"A shall drive zone.siren.on and zone.door.release, and in reach"},
		"nothing provides it": {"meter", "power_w > 1", siren, func(s *site) { s.device("s", "siren", "z1"); s.device("d", "door", "z1", "release") },
			"A shall drive zone.siren.on, and"},
		"one of them has": {"meter", "power_w > 1", siren, func(s *site) {
			s.device("s", "siren", "z1", "on")
			s.device("d", "door", "z1", "release")
			s.device("m9", "meter", "z2", "power_w")
		}, ""},
		"no subjects":        {"button", "armed", siren, func(*site) {}, ""},
		"one detector":       {"smoke_detector", "alarm", "    outputs: [{device: site.siren, point: 'on'}]\n", func(s *site) { s.device("s", "siren", "z2", "on") }, "A drives site.siren.on on the word of one detector"},
		"one detector horn":  {"smoke_detector", "alarm", "    outputs: [{device: site.voice_horn, point: play}]\n", func(s *site) { s.device("s", "voice_horn", "z2", "play") }, ""},
		"two detectors":      {"smoke_detector", "alarm and at_least(2, zone.smoke_detector.alarm)", "    outputs: [{device: site.siren, point: 'on'}]\n", func(s *site) { s.device("s", "siren", "z2", "on") }, ""},
		"over nothing":       {"meter", "power_w > 1", "    inhibited_by: [Far]\n", func(s *site) { s.device("b", "button", "z1", "armed") }, "inhibited_by: no Far is about a subject of A"},
		"unless over none":   {"meter", "power_w > 1", "    outputs: [{device: site.siren, point: 'on', unless: [Far]}]\n", func(s *site) { s.device("b", "button", "z1", "armed"); s.device("s", "siren", "z2", "on") }, "unless: no Far is about a subject of A"},
		"nobody can be over": {"meter", "power_w > 1", "    inhibited_by: [Far]\n", func(*site) {}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite().actuators()
			s.zone("z1", "lane", "")
			s.zone("z2", "area", "")
			s.device("m1", "meter", "z1", "power_w")
			s.device("sd1", "smoke_detector", "z1", "alarm")
			c.lay(s)
			e := s.compile(t, pack("  - alert: A\n    for_each: "+c.forEach+"\n    expr: "+c.expr+"\n    severity: warning\n    title: {zh: a, en: a}\n"+c.more+
				alert("Far", "button", "armed", "")))
			w := e.Warnings()
			if c.want == "" && len(w) > 0 || c.want != "" && (len(w) != 1 || !strings.Contains(w.Error(), c.want)) {
				t.Errorf("warnings %v, want %q alone", w, c.want)
			}
		})
	}
}

// A mistaken scope must not fill the memory.
func TestOutputsAreBounded(t *testing.T) {
	s := newSite().actuators()
	s.zone("z", "area", "")
	for i := range 400 {
		s.device(fmt.Sprintf("m%d", i), "meter", "z", "power_w")
		s.device(fmt.Sprintf("s%d", i), "siren", "z", "on")
	}
	rule := func(more string) string {
		return pack(alert("A", "meter", "power_w > 1", ", outputs: [{device: site.siren, point: \"on\""+more+"}]") + alert("Q", "site", "hour() == 3", ""))
	}
	e := s.compile(t, rule("")) // All in one zone: they share what follows.
	if a, b := e.Plan(telemetry.Identity{Alert: "A", Subject: "m1"}), e.Plan(telemetry.Identity{Alert: "A", Subject: "m399"}); a != b || len(a.Outputs) != 400 {
		t.Errorf("plans %p and %p", a, b)
	}
	p, err := rules.ParsePack("p.yaml", []byte(rule(", unless: [Q]")))
	if err != nil {
		t.Fatal(err)
	}
	_, err = rules.Compile(rules.Config{Packs: []*rules.Pack{p}, Inventory: s.Inventory, Classes: s.classes})
	if err == nil || !strings.Contains(err.Error(), "drive more than 100000 points") {
		t.Errorf("error %v, want it refused", err)
	}
}

// What Compile resolved drives a machine.
func TestPlanDrivesAMachine(t *testing.T) {
	s := newSite().actuators()
	s.zone("z", "area", "")
	s.device("m1", "meter", "z", "power_w")
	s.device("s1x", "siren", "z", "on")
	p := &play{t: t, s: s, e: s.compile(t, pack(alert("A", "meter", "power_w > 1", ", outputs: [{device: zone.siren, point: \"on\", after: 5s}]")))}
	m := response.New(p.e.Plan)
	var d response.Decisions
	for sec := range 10 {
		p.step(time.Duration(sec)*time.Second, p.sample(time.Duration(sec)*time.Second, "m1.power_w", float64(sec)))
		m.Transitions(p.out.Transitions)
		m.Step(at(time.Duration(sec)*time.Second), &d)
	}
	if len(d.Commands) != 1 || d.Commands[0].Point != s.point(t, "s1x", "on") || d.Commands[0].Time != at(7*time.Second) || !d.Commands[0].Value.Bool() {
		t.Errorf("commands %+v", d.Commands)
	}
}
