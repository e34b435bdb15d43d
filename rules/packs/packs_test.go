package packs_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
	"linli/rules"
	"linli/rules/ruletest"
)

// library is read once: it is large.
var library = sync.OnceValues(func() (*firmwareconfig.Library, error) { return firmwareconfig.Load(firmwareconfig.Shipped()) })

func classes(t *testing.T) map[string]*telemetry.Class {
	t.Helper()
	lib, err := library()
	if err != nil {
		t.Fatal(err)
	}
	return lib.Classes
}

// Every shipped pack has a test file of its name, and passes it.
func TestEveryPack(t *testing.T) {
	shipped, err := rules.Shipped()
	if err != nil {
		t.Fatal(err)
	}
	if len(shipped) < 4 {
		t.Fatalf("only %d packs are shipped", len(shipped))
	}
	opts := ruletest.Options{Classes: classes(t), Read: os.ReadFile}
	for id := range shipped {
		t.Run(id, func(t *testing.T) {
			name := filepath.Join("tests", id+".yaml")
			src, err := os.ReadFile(name)
			if err != nil {
				t.Fatalf("pack %s has no test: %v", id, err)
			}
			report, err := ruletest.Run([]ruletest.File{{Name: name, Src: src}}, opts)
			if err != nil {
				t.Fatal(err)
			}
			if report.Failed() > 0 {
				var b strings.Builder
				report.Print(&b)
				t.Error(b.String())
			}
			if testing.Verbose() {
				for _, res := range report.Results {
					t.Logf("%s:\n  %s", res.Name, strings.Join(res.Trace, "\n  "))
				}
			}
			everyAlertRaised(t, shipped[id], report)
		})
	}
}

// everyAlertRaised fails for an alert of the pack that no test of its file raises.
func everyAlertRaised(t *testing.T, p *rules.Pack, report ruletest.Report) {
	t.Helper()
	var all strings.Builder
	for _, res := range report.Results {
		all.WriteString(strings.Join(res.Trace, "\n") + "\n")
	}
	for _, r := range p.Rules {
		if r.Alert != "" && !strings.Contains(all.String(), " raise "+r.Alert+" ") {
			t.Errorf("no test raises %s", r.Alert)
		}
	}
}

// All packs together, with every class of the catalogue installed once, give an engine.
func TestAllPacksTogether(t *testing.T) {
	shipped, err := rules.Shipped()
	if err != nil {
		t.Fatal(err)
	}
	inv := &telemetry.Inventory{Site: "s", Gateway: "g"}
	zone := inv.AddZone(telemetry.Zone{ID: "b1", Parent: -1, Kind: "building"})
	catalogue := classes(t)
	for id, c := range catalogue {
		d := inv.AddDevice(telemetry.Device{ID: id + "_1", Class: c, Zone: zone})
		for k := range c.Points {
			if !c.Points[k].Optional {
				inv.ProvidePoint(d, k)
			}
		}
	}
	var list []*rules.Pack
	for _, p := range shipped {
		list = append(list, p)
	}
	if _, err := rules.Compile(rules.Config{Packs: list, Inventory: inv, Classes: catalogue}); err != nil {
		t.Fatal(err)
	}
}

// device is one device under all shipped packs.
type device struct {
	t    *testing.T
	inv  *telemetry.Inventory
	life bool
	e    *rules.Engine
	now  telemetry.Mono
}

func newDevice(t *testing.T, class *telemetry.Class, provides func(*telemetry.PointDef) bool) *device {
	t.Helper()
	shipped, err := rules.Shipped()
	if err != nil {
		t.Fatal(err)
	}
	var list []*rules.Pack
	for _, p := range shipped {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b *rules.Pack) int { return strings.Compare(a.ID, b.ID) })
	d := &device{t: t, inv: &telemetry.Inventory{Site: "s", Gateway: "g"}}
	zone := d.inv.AddZone(telemetry.Zone{ID: "a1", Parent: -1, Kind: "area"})
	d.inv.AddDevice(telemetry.Device{ID: "d1", Class: class, Zone: zone, Title: telemetry.Text{Zh: "D1", En: "D1"}})
	for k := range class.Points {
		if provides(&class.Points[k]) {
			d.inv.ProvidePoint(0, k)
			d.life = d.life || class.Points[k].LifeSafety
		}
	}
	if d.e, err = rules.Compile(rules.Config{Packs: list, Inventory: d.inv, Classes: classes(t)}); err != nil {
		t.Fatal(err)
	}
	return d
}

// play gives every provided point what sample says, each 10 s for 5 min, and returns the alerts that were raised.
func (d *device) play(sample func(*telemetry.PointDef) (telemetry.Quality, telemetry.Value)) (raised []telemetry.Transition) {
	for range 30 {
		var batch []telemetry.Sample
		for k, id := range d.inv.Devices[0].Points {
			if id != telemetry.NoPoint {
				q, v := sample(&d.inv.Devices[0].Class.Points[k])
				batch = append(batch, telemetry.Sample{Point: id, Quality: q, Value: v, Time: d.now})
			}
		}
		var out rules.Output
		d.e.Step(telemetry.Now{Mono: d.now}, batch, &out)
		for _, t := range out.Transitions {
			if t.Op == telemetry.Raise {
				raised = append(raised, t)
			}
		}
		d.now = d.now.Add(10 * time.Second)
	}
	return raised
}

func (d *device) want(raised []telemetry.Transition, alert string, life bool) {
	d.t.Helper()
	severity := telemetry.Notice
	if life {
		severity = telemetry.Warning
	}
	if len(raised) != 1 || raised[0].Alert != alert || raised[0].Severity != severity {
		d.t.Errorf("raised %+v, want %s (%v) alone", raised, alert, severity)
	}
}

// Whatever is unknown of a device is told, once: silent, without a reading, or both in part; out of service is not.
func TestUnknownIsTold(t *testing.T) {
	mandatory := func(def *telemetry.PointDef) bool { return !def.Optional }
	everything := func(*telemetry.PointDef) bool { return true }
	for id, class := range classes(t) {
		for name, provides := range map[string]func(*telemetry.PointDef) bool{"mandatory": mandatory, "everything": everything} {
			if d := newDevice(t, class, provides); len(d.inv.Points) == 0 || d.inv.Points[0].Device < 0 {
				continue // provides nothing
			}
			t.Run(id+"/"+name, func(t *testing.T) {
				all := func(q telemetry.Quality) func(*telemetry.PointDef) (telemetry.Quality, telemetry.Value) {
					return func(*telemetry.PointDef) (telemetry.Quality, telemetry.Value) { return q, telemetry.Value{} }
				}
				d := newDevice(t, class, provides)
				silent, reading := "DeviceSilent", "NoReading"
				if d.life {
					silent, reading = "LifeSafetyDeviceSilent", "LifeSafetyNoReading"
				}
				d.want(d.play(all(telemetry.BadComm)), silent, d.life)
				d.want(d.play(all(telemetry.BadSensor)), reading, d.life)
				if raised := newDevice(t, class, provides).play(all(telemetry.BadMaintenance)); len(raised) != 0 {
					t.Errorf("out of service: raised %+v", raised)
				}
			})
		}
	}
}

// Every class with a point `fault` has one alert for it.
func TestEveryFaultIsTold(t *testing.T) {
	n := 0
	for id, class := range classes(t) {
		if class.Point("fault") < 0 {
			continue
		}
		n++
		t.Run(id, func(t *testing.T) {
			d := newDevice(t, class, func(def *telemetry.PointDef) bool { return !def.Optional || def.Name == "fault" })
			raised := d.play(func(def *telemetry.PointDef) (telemetry.Quality, telemetry.Value) {
				switch {
				case def.Name == "fault":
					return telemetry.Good, telemetry.BoolValue(true)
				case def.Kind == telemetry.Bool:
					return telemetry.Good, telemetry.BoolValue(false)
				case def.Kind == telemetry.KindText:
					return telemetry.Good, telemetry.TextValue("7f")
				}
				return telemetry.Good, telemetry.FloatValue(0)
			})
			alert := "DeviceFault"
			if id == "smoke_detector" {
				alert = "DetectorFault"
			}
			d.want(raised, alert, d.life)
			if len(raised) == 1 && raised[0].Detail.Zh != class.Points[class.Point("fault")].Title.Zh+"，已 1 分钟" {
				t.Errorf("detail %q", raised[0].Detail.Zh)
			}
		})
	}
	if n < 10 {
		t.Errorf("only %d classes have a fault point: the test looks at the wrong thing", n)
	}
}

// The detail says which point has no value and why, and how that ended.
func TestDetailOfNoReading(t *testing.T) {
	class := classes(t)["smoke_detector"]
	run := func(qualities ...telemetry.Quality) (last telemetry.Transition) {
		d := newDevice(t, class, func(def *telemetry.PointDef) bool { return def.Name == "alarm" || def.Name == "fault" })
		for i, q := range qualities {
			batch := make([]telemetry.Sample, 0, 2)
			for k := range d.inv.Devices[0].Points {
				if id := d.inv.Devices[0].Points[k]; id != telemetry.NoPoint {
					s := telemetry.Sample{Point: id, Quality: q, Time: d.now}
					if class.Points[k].Name == "fault" && q == telemetry.BadComm && i == 0 {
						s.Quality = telemetry.Good
					}
					if !s.Quality.Bad() {
						s.Value = telemetry.BoolValue(false)
					}
					batch = append(batch, s)
				}
			}
			var out rules.Output
			d.e.Step(telemetry.Now{Mono: d.now}, batch, &out)
			d.now = d.now.Add(time.Minute)
			d.e.Step(telemetry.Now{Mono: d.now}, nil, &out)
			for _, t := range out.Transitions {
				if t.Alert == "LifeSafetyNoReading" {
					last = t
				}
			}
		}
		return last
	}
	for _, c := range []struct {
		qualities []telemetry.Quality
		zh, en    string
	}{
		{[]telemetry.Quality{telemetry.BadSensor}, "烟雾报警：无读数，已 1 分钟", "Smoke alarm: no reading, for 1 min"},
		{[]telemetry.Quality{telemetry.BadComm}, "烟雾报警：无应答，已 1 分钟", "Smoke alarm: no answer, for 1 min"},
		{[]telemetry.Quality{telemetry.BadSensor, telemetry.Good}, "已恢复读数", "readings are back"},
		{[]telemetry.Quality{telemetry.BadSensor, telemetry.BadComm}, "设备无应答", "device does not answer"},
		{[]telemetry.Quality{telemetry.BadSensor, telemetry.BadMaintenance}, "烟雾报警：停用检修", "Smoke alarm: out of service"},
	} {
		if got := run(c.qualities...); got.Detail.Zh != c.zh || got.Detail.En != c.en || got.Title.Zh != "D1没有读数，该处暂无保护" {
			t.Errorf("%v: %q, %q, title %q", c.qualities, got.Detail.Zh, got.Detail.En, got.Title.Zh)
		}
	}
}
