package rules_test

import (
	"strings"
	"testing"
	"time"

	"linli/internal/telemetry"
	"linli/rules"
)

// catalogue is a small set of classes, enough for every form of rule.
func catalogue() map[string]*telemetry.Class {
	b := func(name, zh, en string) telemetry.PointDef {
		return telemetry.PointDef{Name: name, Kind: telemetry.Bool, Title: telemetry.Text{Zh: zh, En: en}}
	}
	optional := func(d telemetry.PointDef, v telemetry.Value) telemetry.PointDef {
		d.Optional, d.Default = true, v
		return d
	}
	event := func(d telemetry.PointDef) telemetry.PointDef {
		d.Event = true
		return d
	}
	f := func(name, unit string) telemetry.PointDef {
		return telemetry.PointDef{Name: name, Kind: telemetry.Float, Unit: unit, Title: telemetry.Text{Zh: name, En: name}}
	}
	horn := b("play", "播放", "Playing")
	horn.Writable = true
	list := []*telemetry.Class{
		{ID: "fire_lane_sensor", Points: []telemetry.PointDef{
			b("occupied", "占用", "Occupied"), optional(b("authorised_vehicle", "允许", "Authorised"), telemetry.BoolValue(false))}},
		{ID: "smoke_detector", Points: []telemetry.PointDef{
			b("alarm", "烟雾报警", "Smoke alarm"), optional(f("obscuration_dbm", "dB/m"), telemetry.Value{})}},
		{ID: "meter", Points: []telemetry.PointDef{f("power_w", "W"), f("voltage_v", "V")}},
		{ID: "voice_horn", Points: []telemetry.PointDef{horn}},
		// What happens rather than is: a button's presses, with how hard; cards at a door.
		{ID: "button", Points: []telemetry.PointDef{event(b("press", "按下", "Pressed")), event(f("force_n", "N")), b("armed", "启用", "Armed")}},
		{ID: "reader", Points: []telemetry.PointDef{
			event(telemetry.PointDef{Name: "card", Kind: telemetry.KindText, Title: telemetry.Text{Zh: "刷卡", En: "Card"}}),
			optional(b("open", "门开", "Door open"), telemetry.Value{})}},
	}
	m := map[string]*telemetry.Class{}
	for _, c := range list {
		m[c.ID] = c
	}
	return m
}

// site is an inventory under construction.
type site struct {
	*telemetry.Inventory
	classes map[string]*telemetry.Class
}

func newSite() *site {
	inv := &telemetry.Inventory{Site: "s1", Gateway: "g1", Title: telemetry.Text{Zh: "小区", En: "Community"}, Location: time.FixedZone("CST", 8*3600)}
	return &site{inv, catalogue()}
}

func (s *site) zone(id, kind, parent string) {
	p := -1
	if parent != "" {
		p, _ = s.ZoneByID(parent)
	}
	s.AddZone(telemetry.Zone{ID: id, Kind: kind, Parent: p, Title: telemetry.Text{Zh: id, En: id}})
}

// device adds a device that provides the named points.
func (s *site) device(id, class, zone string, points ...string) {
	z, _ := s.ZoneByID(zone)
	d := s.AddDevice(telemetry.Device{ID: id, Class: s.classes[class], Zone: z, Title: telemetry.Text{Zh: id, En: id}})
	for _, p := range points {
		s.ProvidePoint(d, s.classes[class].Point(p))
	}
}

func (s *site) point(t testing.TB, device, name string) telemetry.PointID {
	t.Helper()
	d, ok := s.DeviceByID(device)
	if !ok {
		t.Fatalf("no device %s", device)
	}
	return s.Devices[d].Points[s.Devices[d].Class.Point(name)]
}

func (s *site) compile(t testing.TB, packs ...string) *rules.Engine {
	t.Helper()
	var list []*rules.Pack
	for _, src := range packs {
		p, err := rules.ParsePack("pack.yaml", []byte(src))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	e, err := rules.Compile(rules.Config{Packs: list, Inventory: s.Inventory, Classes: s.classes, MaxWindowBytes: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// pack wraps rules into a pack file; each rule is indented by two blanks already.
func pack(rules string) string {
	return "version: 1\npack: p\ntitle: {zh: 测试, en: Test}\nrules:\n" + rules
}

// alert is a rule in one line of YAML.
func alert(name, forEach, expr, more string) string {
	return "  - {alert: " + name + ", for_each: " + forEach + ", expr: '" + expr + "', severity: warning, title: {zh: a, en: a}" + more + "}\n"
}

// play is an engine with its clock.
type play struct {
	t   testing.TB
	s   *site
	e   *rules.Engine
	out rules.Output
}

func at(d time.Duration) telemetry.Mono { return telemetry.Mono(d) }

// sample makes a sample of "device.point" taken at d.
func (p *play) sample(d time.Duration, name string, v any) telemetry.Sample {
	p.t.Helper()
	device, point, _ := strings.Cut(name, ".")
	s := telemetry.Sample{Point: p.s.point(p.t, device, point), Time: at(d)}
	switch v := v.(type) {
	case bool:
		s.Value = telemetry.BoolValue(v)
	case float64:
		s.Value = telemetry.FloatValue(v)
	case string:
		s.Value = telemetry.TextValue(v)
	case telemetry.Quality:
		s.Quality = v
	}
	return s
}

// step runs the engine at d and returns what it said, as "raise A dev1" lines.
func (p *play) step(d time.Duration, samples ...telemetry.Sample) string {
	p.out.Reset()
	p.e.Step(telemetry.Now{Mono: at(d)}, samples, &p.out)
	return said(&p.out)
}

func said(out *rules.Output) string {
	var lines []string
	for _, t := range out.Transitions {
		lines = append(lines, t.Op.String()+" "+t.Alert+" "+t.Subject)
	}
	return strings.Join(lines, ", ")
}

func (p *play) want(got, want string) {
	p.t.Helper()
	if got != want {
		p.t.Errorf("got %q, want %q", got, want)
	}
}
