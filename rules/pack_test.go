package rules_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"linli/internal/telemetry"
	"linli/internal/yamlfile"
	"linli/rules"
	"linli/rules/response"
)

// designExample is the pack in DESIGN section 6, word for word.
const designExample = `version: 1
pack: fire_lane
title: {zh: 消防通道, en: Fire lane}
params: {dwell: 3m, street_after: 10m}
rules:
  - alert: FireLaneBlocked
    for_each: fire_lane_sensor            # one instance per device of the class; or zone, or site
    expr: occupied and not authorised_vehicle
    for: "${dwell}"
    keep_firing_for: 30s
    severity: warning
    severity_when: {critical: "active(FireConfirmed)"}
    title: {zh: "{{zone}}消防通道被占用", en: "Fire lane blocked at {{zone}}"}
    outputs: [{device: zone.voice_horn, point: play, after: 1m, for: 20s, until: acknowledged}]
    escalate: [{after: "${street_after}", to: street, severity: critical}]
    inhibited_by: [LaneUnderMaintenance]
  - record: lane_blocked_minutes_24h      # derived points are points like any other
    for_each: fire_lane_sensor
    expr: duration_true(occupied, 24h) / 1m
`

func TestDesignExample(t *testing.T) {
	p, err := rules.ParsePack("fire_lane.yaml", []byte(designExample))
	if err != nil {
		t.Fatal(err)
	}
	if got := p.ParamNames(); len(got) != 2 || got["dwell"] != "3m" || got["street_after"] != "10m" {
		t.Errorf("parameters %v", got)
	}
	r := p.Rules[0]
	if r.Alert != "FireLaneBlocked" || r.Severity != telemetry.Warning || len(r.Outputs) != 1 || len(r.Escalate) != 1 || len(r.InhibitedBy) != 1 {
		t.Errorf("rule %+v", r)
	}
	if o := r.Outputs[0]; o.Scope != "zone" || o.Class != "voice_horn" || o.Point != "play" || o.Until != response.UntilAcknowledged {
		t.Errorf("output %+v", o)
	}
	if e := r.Escalate[0]; e.To != response.Street || e.Severity != telemetry.Critical {
		t.Errorf("escalation %+v", e)
	}
	s := newSite()
	s.zone("lane", "lane", "")
	s.device("fl1", "fire_lane_sensor", "lane", "occupied")
	e, err := rules.Compile(rules.Config{Packs: []*rules.Pack{p}, Inventory: s.Inventory, Classes: s.classes,
		Params: map[string]map[string]string{"fire_lane": {"dwell": "10s"}}})
	if err != nil {
		t.Fatal(err)
	}
	if e.Instances() != 2 || len(s.Points) != 2 {
		t.Errorf("%d instances and %d points, want 2 and 2", e.Instances(), len(s.Points))
	}
	if got := s.Series(1); got.Class != "derived" || got.Point != "lane_blocked_minutes_24h" || got.Device != "fl1" || got.Kind != telemetry.Float {
		t.Errorf("derived point %+v", got)
	}
	pl := &play{t: t, s: s, e: e}
	pl.want(pl.step(0, pl.sample(0, "fl1.occupied", true)), "")
	pl.want(pl.step(10*time.Second), "raise FireLaneBlocked fl1")
}

// Every mistake is reported with its place; the places within expressions are those of the file.
func TestMistakes(t *testing.T) {
	head := "version: 1\npack: p\ntitle: {zh: 测试, en: Test}\nparams: {limit: 90, dwell: 3m}\nrules:\n"
	cases := []struct{ name, src, want string }{
		{"version", strings.Replace(head, "version: 1", "version: 2", 1) + alert("A", "meter", "power_w > 1", ""), "p.yaml:1:10: version 2 is not known"},
		{"name of the pack", strings.Replace(head, "pack: p", "pack: Fire-Lane", 1) + alert("A", "meter", "power_w > 1", ""), `p.yaml:2:7: "Fire-Lane" is not a name`},
		{"unknown key", head + alert("A", "meter", "power_w > 1", ", fro: 3m"), `"for"`},
		{"neither", head + "  - {for_each: meter, expr: power_w > 1}\n", "p.yaml:6:5: a rule has either `alert:` or `record:`"},
		{"name of the alert", head + alert("fireLane", "meter", "power_w > 1", ""), `"fireLane" is not a name for an alert`},
		{"severity", head + strings.Replace(alert("A", "meter", "power_w > 1", ""), "warning", "warnig", 1), `unknown severity "warnig", did you mean "warning"?`},
		{"duration", head + alert("A", "meter", "power_w > 1", ", for: 3 minutes"), "is not a duration"},
		{"parameter in a duration", head + alert("A", "meter", "power_w > 1", `, for: "${dwel}"`), `unknown parameter ${dwel}, did you mean "dwell"?`},
		{"severity of a record", head + "  - {record: x, for_each: meter, expr: power_w, severity: warning}\n", "a derived point has no `severity`"},
		{"tier", head + alert("A", "meter", "power_w > 1", ", escalate: [{after: 1m, to: stret}]"), `unknown tier "stret", did you mean "street"?`},
		{"until", head + alert("A", "meter", "power_w > 1", ", outputs: [{device: zone.voice_horn, point: play, until: ack}]"), "until is acknowledged, cleared or closed"},
		{"missing language", head + strings.Replace(alert("A", "meter", "power_w > 1", ""), "{zh: a, en: a}", "{zh: a}", 1), "missing in one language"},
		{"syntax, plain", head + "  - alert: A\n    for_each: meter\n    expr: power_w > 1 && voltage_v > 2\n    severity: notice\n    title: {zh: a, en: a}\n", "p.yaml:8:23: `&&` is not an operator: write `and`"},
		{"syntax, quoted", head + "  - alert: A\n    for_each: meter\n    expr: \"power_w > 1 && voltage_v > 2\"\n    severity: notice\n    title: {zh: a, en: a}\n", "p.yaml:8:24: `&&`"},
		{"syntax, folded block", head + "  - alert: A\n    for_each: meter\n    expr: >-\n      power_w > 1\n      and voltage_v => 2\n    severity: notice\n    title: {zh: a, en: a}\n", "p.yaml:10:21: `=>`"},
		{"syntax, after Chinese", head + "  - {alert: A, title: {zh: 甲乙丙, en: a}, for_each: meter, expr: power_w ! 1, severity: notice}\n", "p.yaml:6:72: `!`"},
		{"point", head + "  - alert: A\n    for_each: meter\n    expr: >-\n      power_w > 1\n      and voltage > 2\n    severity: notice\n    title: {zh: a, en: a}\n", `p.yaml:10:11: class meter has no point "voltage", did you mean "voltage_v"?`},
		{"severity_when", head + alert("A", "meter", "power_w > 1", `, severity_when: {critical: powr_w > 3}`), `class meter has no point "powr_w"`},
		{"class", head + alert("A", "metre", "power_w > 1", ""), `unknown class "metre", did you mean "meter"?`},
		{"kind of zone", head + alert("A", "{zone: bilding}", "any(zone.smoke_detector.alarm)", ""), `unknown kind of zone "bilding", did you mean "building"?`},
		{"active", head + alert("FireLane", "meter", "active(FirelLane2)", ""), "unknown alert FirelLane2"},
		{"twice", head + alert("A", "meter", "power_w > 1", "") + alert("A", "meter", "power_w > 2", ""), "alert A exists already, at p.yaml:6:5"},
		{"derived point misspelt", head + "  - {record: total_w, for_each: meter, expr: power_w}\n" + alert("A", "meter", "totl_w > 1", ""), `has no point "totl_w", did you mean "total_w"?`},
		{"derived point in a title", head + "  - {record: total_w, for_each: meter, expr: power_w}\n" + strings.Replace(alert("A", "meter", "power_w > 1", ""), "zh: a", `zh: "{{totl_w}}"`, 1), `unknown {{totl_w}}, did you mean "total_w"?`},
		{"parameter of the wrong sort", head + alert("A", "meter", "power_w > 1", `, for: "${limit}"`), `parameter limit stands for a duration here: "90" is not a duration`},
		{"a duration with a space", head + alert("A", "meter", "power_w > 1", `, for: 2 min`), `"2 min" is not a duration: write 2m`},
		{"full width", head + "  - {alert: A, for_each: meter, expr: （power_w > 1）, severity: notice, title: a}\n", "p.yaml:6:39: `（` is a full-width character: write `(`"},
		{"cycle", head + alert("A", "meter", "active(B)", "") + alert("B", "meter", "active(A)", ""), "A needs B needs A"},
		{"itself", head + alert("A", "meter", "active(A)", ""), "A needs A"},
		{"record of a duration", head + "  - {record: x, for_each: meter, expr: 'duration_true(power_w > 1, 1h)'}\n", "divide by the unit it shall have, as / 1m"},
		{"record named as a point", head + "  - {record: power_w, for_each: meter, expr: voltage_v}\n", "class meter has a point power_w of its own"},
		{"title", head + strings.Replace(alert("A", "meter", "power_w > 1", ""), "zh: a", `zh: "{{zon}}"`, 1), `unknown {{zon}}, did you mean "zone"?`},
		{"output class", head + alert("A", "meter", "power_w > 1", ", outputs: [{device: zone.vioce_horn, point: play}]"), `unknown class "vioce_horn", did you mean "voice_horn"?`},
		{"output point", head + alert("A", "meter", "power_w > 1", ", outputs: [{device: zone.meter, point: power_w}]"), "meter.power_w cannot be written"},
		{"inhibited_by", head + alert("LaneBlocked", "meter", "power_w > 1", "") + alert("B", "meter", "power_w > 1", ", inhibited_by: [LaneBlockd]"), `unknown alert "LaneBlockd", did you mean "LaneBlocked"?`},
		{"place in inhibited_by", head + "  - alert: SmokeX\n    for_each: meter\n    expr: power_w > 1\n    severity: notice\n    title: {zh: a, en: a}\n    inhibited_by: [A, SmokeAlrm]\n" + alert("A", "meter", "power_w > 1", ""), `p.yaml:11:23: inhibited_by: unknown alert "SmokeAlrm", did you mean "SmokeAlarm"?`},
		{"params misspelt", strings.Replace(head, "params", "parms", 1) + alert("A", "meter", "power_w > ${limit}", `, for: "${dwell}"`), `unknown key "parms", did you mean "params"?`},
		{"reads a derived point that is wrong", head + "  - {record: x, for_each: meter, expr: 'power_w >> 1'}\n" + alert("A", "meter", "x and power_w > 1", ""), "p.yaml:6:50:"},
		{"asks for an alert that is wrong", head + alert("A", "meter", "power_w >> 1", "") + alert("B", "meter", "active(A)", ", inhibited_by: [A]"), "p.yaml:6:49:"},
		{"default of two kinds", strings.Replace(head, "dwell: 3m", "dwell: {default: 3m, min: 1}", 1) + alert("A", "meter", "power_w > 1", `, for: "${dwell}"`), "p.yaml:4:47: the default 3m is a duration, but 1 is a number"},
		{"default out of bounds", strings.Replace(head, "limit: 90", "limit: {default: 90, max: 80}", 1) + alert("A", "meter", "power_w > ${limit}", ""), "p.yaml:4:27: the default 90 is not within its own bounds: at most 80"},
		{"bounds of a text", strings.Replace(head, "limit: 90", `from: {default: "22:00", min: 1}`, 1) + alert("A", "meter", "power_w > 1", ""), "only numbers and durations have bounds"},
		{"default missing", strings.Replace(head, "limit: 90", "limit: {min: 1}", 1) + alert("A", "meter", "power_w > ${limit}", ""), `p.yaml:4:17: missing key "default"`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p, _ := rules.ParsePack("p.yaml", []byte(c.src))
			s := newSite()
			// Compile says again what ParsePack said, and nothing more about it.
			_, err := rules.Compile(rules.Config{Packs: []*rules.Pack{p}, Inventory: s.Inventory, Classes: s.classes})
			var all yamlfile.Errors
			if !errors.As(err, &all) {
				t.Fatalf("error %v, want yamlfile.Errors with %q", err, c.want)
			}
			if !strings.Contains(all.Error(), c.want) {
				t.Errorf("got:\n%v\nwant ...%s...", all, c.want)
			}
			if len(all) != 1 {
				t.Errorf("%d mistakes for one:\n%v", len(all), all)
			}
		})
	}
}

// Of two alerts of one name the one in the user's own file is the mistake, whatever the order of the packs.
func TestANameOfAShippedAlert(t *testing.T) {
	shipped, err := rules.Shipped()
	if err != nil {
		t.Fatal(err)
	}
	mine, err := rules.ParsePack("mine.yaml", []byte(pack(alert("SmokeAlarm", "meter", "power_w > 1", ""))))
	if err != nil {
		t.Fatal(err)
	}
	for _, packs := range [][]*rules.Pack{{mine, shipped["fire"]}, {shipped["fire"], mine}} {
		s := newSite()
		_, err = rules.Compile(rules.Config{Packs: packs, Inventory: s.Inventory, Classes: s.classes})
		if err == nil || !strings.Contains(err.Error(), "mine.yaml:5:5: alert SmokeAlarm exists already, in the shipped pack fire:") {
			t.Errorf("got %v", err)
		}
	}
}

func TestEveryMistakeOfEveryPackAtOnce(t *testing.T) {
	s := newSite()
	p1, err := rules.ParsePack("p1.yaml", []byte(pack(alert("A", "meter", "pwr > 1 and volts > 2", "")+alert("B", "nothing", "x", ""))))
	if err != nil {
		t.Fatal(err)
	}
	p2, err := rules.ParsePack("p2.yaml", []byte(strings.Replace(pack(alert("C", "meter", "power_w", "")), "pack: p", "pack: q", 1)))
	if err != nil {
		t.Fatal(err)
	}
	_, err = rules.Compile(rules.Config{Packs: []*rules.Pack{p1, p2}, Inventory: s.Inventory, Classes: s.classes,
		Params: map[string]map[string]string{"p": {"x": "1"}, "r": {}}})
	var all yamlfile.Errors
	if !errors.As(err, &all) || len(all) != 6 {
		t.Errorf("got %d mistakes, want 6:\n%v", len(all), err)
	}
}

// A mistake in one rule does not hide those of the others, nor of other kinds in the same rule.
func TestMistakesOfAllStagesAtOnce(t *testing.T) {
	src := `version: 1
pack: p
title: {zh: 测试, en: Test}
rules:
  - {alert: A, for_each: meter, expr: power_w && 1, severity: warning, title: {zh: a, en: a}}
  - {alert: B, for_each: meter, expr: powr_w > 1, severity: warnig, title: {zh: "{{zon}}", en: a}, for: 5}
  - {alert: C, for_each: metre, expr: power_w > 1, severity: warning, title: {zh: a, en: a}}
  - {alert: D, for_each: meter, expr: power_w, severity: warning, title: {zh: a, en: a}}
`
	p, err := rules.ParsePack("p.yaml", []byte(src))
	if err == nil || p == nil || p.ID != "p" {
		t.Fatalf("pack %+v, error %v", p, err)
	}
	s := newSite()
	e, err := rules.Compile(rules.Config{Packs: []*rules.Pack{p}, Inventory: s.Inventory, Classes: s.classes})
	if e != nil || err == nil {
		t.Fatal("a wrong pack gave an engine")
	}
	lines := strings.Split(err.Error(), "\n")
	for i, want := range []string{"p.yaml:5:47: `&&`", `p.yaml:6:39: class meter has no point "powr_w"`, `p.yaml:6:61: unknown severity "warnig"`,
		"p.yaml:6:76: title of B: unknown {{zon}}", `p.yaml:6:105: "5" is not a duration`, `p.yaml:7:26: unknown class "metre"`, "p.yaml:8:39: "} {
		if i >= len(lines) || !strings.HasPrefix(lines[i], want) {
			t.Errorf("want %s... as mistake %d", want, i)
		}
	}
	if len(lines) != 7 || t.Failed() {
		t.Errorf("got:\n%v", err)
	}
}

// A pack that is no YAML is known by the name of its file.
func TestUnreadablePackHasAName(t *testing.T) {
	p, err := rules.ParsePack("/etc/linli/packs/mine.yaml", []byte("version: 1\npack: [\n"))
	if err == nil || p == nil || p.ID != "mine" || p.CheckParam("x", "5") != nil {
		t.Errorf("got %+v, %v", p, err)
	}
}

// A wrong parameter is one mistake; what follows from it is none.
func TestWrongParamHasNoFollowUps(t *testing.T) {
	p, err := rules.ParsePack("p.yaml", []byte(strings.Replace(pack(alert("A", "meter", "power_w > 1", `, for: "${dwell}"`)), "rules:", "params: {dwell: 3m}\nrules:", 1)))
	if err != nil {
		t.Fatal(err)
	}
	s := newSite()
	_, err = rules.Compile(rules.Config{Packs: []*rules.Pack{p}, Inventory: s.Inventory, Classes: s.classes, Params: map[string]map[string]string{"p": {"dwell": "5"}}})
	var all yamlfile.Errors
	if !errors.As(err, &all) || len(all) != 1 {
		t.Errorf("got:\n%v", err)
	}
}

// An alert that nobody has may come with a pack of the site: it is no mistake, but told.
// What has no effect is told.
func TestWarningsOfWhatHasNoEffect(t *testing.T) {
	s := newSite()
	s.zone("z", "area", "")
	s.device("m1", "meter", "z", "power_w", "voltage_v")
	e := s.compile(t, `version: 1
pack: p
title: {zh: 包, en: Pack}
params: {limit: 5, dwell: 3m, never: 7, name: reader}
schedules: {night: [], day: []}
rules:
  - alert: A
    for_each: meter
    expr: power_w > ${limit} and not schedule("night") and not is_a("${name}")
    for: "${dwell}"
    coverage: 0.5
    severity_for: 1m
    severity: notice
    title: {zh: 甲, en: A}
  - {record: r, for_each: meter, expr: "avg_over_time(power_w, 1m)", coverage: 0.5}
`)
	const want = "pack.yaml:4:31: no rule of pack p uses parameter never\n" +
		"pack.yaml:5:24: no rule of pack p asks for schedule day\n" +
		"pack.yaml:11:15: coverage has no effect: A has no window over time\n" +
		"pack.yaml:12:19: severity_for has no effect: A has no severity_when"
	if got := e.Warnings().Error(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestWarnings(t *testing.T) {
	s := newSite()
	e := s.compile(t, pack(alert("A", "meter", "power_w > 1", ", inhibited_by: [NobodyKnowsThis, SmokeAlarm]")))
	if got := e.Warnings().Error(); got != `pack.yaml:5:111: inhibited_by: there is no alert "NobodyKnowsThis", neither in a pack that is in use nor in a shipped one` {
		t.Errorf("warnings %q", got)
	}
}

func TestCheckParam(t *testing.T) {
	p, err := rules.ParsePack("p.yaml", []byte(strings.Replace(pack(alert("A", "meter", "power_w > ${limit}", `, for: "${dwell}"`)), "rules:", "params: {limit: 90, dwell: {default: 3m, min: 1s}, share: {default: 50, min: 1, max: 100}, from: \"22:00\"}\nrules:", 1)))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, value, want string }{
		{"limit", "80.5", ""}, {"limit", "-5", ""}, {"dwell", "90s", ""}, {"from", "21:00", ""},
		{"limit", "3m", "is a number (default 90), but 3m is a duration"},
		{"limit", "viel", "is a number"},
		{"dwell", "180", "is a duration (default 3m), but 180 is a number"},
		{"dwell", "-3m", "is a duration (default 3m), but -3m is negative"},
		{"dwell", "400d", `is a duration (default 3m), but "400d" is too long (at most 366d)`},
		{"dwell", "0s", "parameter dwell of pack p is at least 1s, not 0s"},
		{"share", "900", "parameter share of pack p is 1 to 100, not 900"},
		{"share", "0.5", "is 1 to 100, not 0.5"}, {"share", "100", ""}, {"share", "1", ""},
		{"limits", "80", `has no parameter limits, did you mean "limit"?`},
	} {
		err := p.CheckParam(c.name, c.value)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("CheckParam(%s, %s) = %v, want %q", c.name, c.value, err, c.want)
		}
	}
}

func TestBoundsOfAnEngine(t *testing.T) {
	s := newSite()
	s.zone("z", "building", "")
	for i := range 160 {
		s.device("m"+string(rune('a'+i%26))+string(rune('a'+i/26)), "meter", "z", "power_w", "voltage_v")
	}
	p, err := rules.ParsePack("p.yaml", []byte(pack(alert("A", "meter", "avg_over_time(power_w, 1h) > 1", ""))))
	if err != nil {
		t.Fatal(err)
	}
	_, err = rules.Compile(rules.Config{Packs: []*rules.Pack{p}, Inventory: s.Inventory, Classes: s.classes, MaxWindowBytes: 1 << 20})
	if err == nil || !strings.Contains(err.Error(), "more than 1 MiB") {
		t.Errorf("error %v, want the memory of windows refused", err)
	}
}

func FuzzParsePack(f *testing.F) {
	f.Add([]byte(designExample))
	f.Add([]byte(pack(alert("A", "{zone: [building]}", "any(zone.smoke_detector.alarm)", ""))))
	f.Add([]byte("version: 1\npack: p\nrules: [{alert: A, expr: |\n a and\n  b}]"))
	f.Add([]byte(strings.Replace(pack(alert("A", "button", `count_over_time(press and armed, 1m) > 2 and not schedule("x")`, ", coverage: 0.5")+
		alert("B", "{zone: [area]}", "any(sequence(zone.reader.card, zone.reader.open, 1m)) or max(absent_for(zone.meter.power_w)) > 1m", ", severity_when: {critical: undecided(1m)}")+
		alert("C", "meter", "integral(power_w, 1h) > greatest(rate(voltage_v, 1m), leq(power_w, 1m), quantile_over_time(0.5, power_w, 1m))", "")),
		"rules:\n", "schedules:\n  x: [{days: [mon, weekends], from: \"22:00\", to: \"06:00\"}, {from: \"2026-05-04 08:00\", to: \"2026-05-04 18:00\", zones: []}]\nrules:\n", 1)))
	classes := catalogue()
	f.Fuzz(func(t *testing.T, src []byte) {
		p, wrong := rules.ParsePack("p.yaml", src)
		inv := &telemetry.Inventory{Site: "s", Gateway: "g"}
		if e, err := rules.Compile(rules.Config{Packs: []*rules.Pack{p}, Inventory: inv, Classes: classes}); err == nil {
			if wrong != nil {
				t.Errorf("a wrong pack gave an engine: %v", wrong)
			}
			var out rules.Output
			e.Step(telemetry.Now{Mono: 1}, nil, &out)
		}
	})
}
