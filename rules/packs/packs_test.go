package packs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
	"linli/rules"
	"linli/rules/ruletest"
)

// What is shipped, read once: parsing it for each of a hundred small engines would be most of the work.
var (
	library = sync.OnceValues(func() (*firmwareconfig.Library, error) { return firmwareconfig.Load(firmwareconfig.Shipped()) })
	shipped = sync.OnceValues(rules.Shipped)
)

func classes(t *testing.T) map[string]*telemetry.Class {
	t.Helper()
	lib, err := library()
	if err != nil {
		t.Fatal(err)
	}
	return lib.Classes
}

// shippedPacks returns all packs, by id.
func shippedPacks(t *testing.T) map[string]*rules.Pack {
	t.Helper()
	packs, err := shipped()
	if err != nil {
		t.Fatal(err)
	}
	return packs
}

// Every shipped pack has a test file of its name, and passes it.
func TestEveryPack(t *testing.T) {
	shipped := shippedPacks(t)
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
			everyKind(t, shipped[id], src, report)
			everyName(t, shipped[id])
		})
	}
}

// kinds is what every alert of every pack is tested for. The name of a test begins with the kinds that it is and the
// alerts that it is about: "fires, recovers: FireLaneBlocked, a parked vehicle". Other tests are named as they like.
var kinds = []string{
	"fires",    // the condition is met
	"below",    // just not: a lower value, a shorter time
	"unknown",  // an operand has no value
	"recovers", // the condition goes away
	"restart",  // while the time of `for` runs or a window fills; where nothing is pending, while it is active
	"optional", // the device lacks the points that its class does not demand
}

// senseless lists the kinds that an alert cannot have, and why.
var senseless = map[string]string{
	"ManualCallPoint below":      "a button is pressed or not",
	"ResidualCurrentAlarm below": "the monitor decides",
}

// everyKind fails for an alert that has no test of one of the kinds, and for a test that is not of the kind it claims.
func everyKind(t *testing.T, p *rules.Pack, src []byte, report ruletest.Report) {
	t.Helper()
	var file struct {
		Tests []struct {
			Name    string
			Restart []string
			Crash   []string
		}
	}
	if err := yaml.Unmarshal(src, &file); err != nil {
		t.Fatal(err)
	}
	alerts := map[string]bool{}
	for _, r := range p.Rules {
		if r.Alert != "" {
			alerts[r.Alert] = true
		}
	}
	tested := map[string]bool{}
	for i, res := range report.Results {
		head, about, ok := strings.Cut(res.Name, ": ")
		if !ok {
			continue
		}
		trace := strings.Join(res.Trace, "\n")
		for _, kind := range strings.Split(head, ", ") {
			if !slices.Contains(kinds, kind) {
				t.Errorf("%s: %q is not a kind of test: %v", res.Pos, kind, kinds)
			}
			n := 0
			for _, alert := range strings.Split(about, ", ") {
				if !alerts[alert] {
					break
				}
				n++
				tested[alert+" "+kind] = true
				raised := strings.Contains(trace, " raise "+alert+" ")
				switch {
				case kind == "fires" && !raised, kind == "below" && raised,
					kind == "recovers" && !strings.Contains(trace, " clear "+alert+" "),
					kind == "restart" && (!raised || len(file.Tests[i].Restart)+len(file.Tests[i].Crash) == 0):
					t.Errorf("%s: %s does not do what %q promises", res.Pos, alert, kind)
				}
			}
			if n == 0 {
				t.Errorf("%s: %q is about no alert of the pack", res.Pos, res.Name)
			}
		}
	}
	for alert := range alerts {
		for _, kind := range kinds {
			if key := alert + " " + kind; !tested[key] && senseless[key] == "" {
				t.Errorf("no test is named %q", kind+": "+alert)
			}
		}
	}
}

// everyName fails where the pack's page does not tell of an alert or a parameter, in both languages.
func everyName(t *testing.T, p *rules.Pack) {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "packs", p.ID+".md"))
	if err != nil {
		t.Errorf("pack %s has no page: %v", p.ID, err)
		return
	}
	zh, en, ok := strings.Cut(string(page), "\n## English\n")
	if !ok || !strings.Contains(zh, "\n## 中文\n") {
		t.Errorf("docs/packs/%s.md has not the sections `## 中文` and `## English`, in this order", p.ID)
	}
	for _, name := range namesOf(p) {
		if !strings.Contains(zh, "`"+name+"`") || !strings.Contains(en, "`"+name+"`") {
			t.Errorf("docs/packs/%s.md does not tell of `%s` in both languages", p.ID, name)
		}
	}
}

// namesOf returns what a page must tell of: alerts, derived points, parameters.
func namesOf(p *rules.Pack) (names []string) {
	for _, r := range p.Rules {
		names = append(names, r.Name())
	}
	for name := range p.ParamNames() {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Ordinary staff cannot shelve these, and they go before all others.
func TestLifeSafetyAlerts(t *testing.T) {
	want := map[string]bool{
		"SmokeAlarm": true, "HeatAlarm": true, "ManualCallPoint": true, "GasAlarm": true, "COAlarm": true, "FireConfirmed": true,
		"BinFire": true, "EmergencyCall": true, "EmergencyCallAgain": true, "DoorNotReleased": true,
	}
	for _, p := range shippedPacks(t) {
		for _, r := range p.Rules {
			if r.Alert != "" && r.LifeSafety != want[r.Alert] {
				t.Errorf("life_safety of %s is %v", r.Alert, r.LifeSafety)
			}
			if want[r.Alert] && r.Severity != telemetry.Critical {
				t.Errorf("%s is %v", r.Alert, r.Severity)
			}
		}
	}
}

// All packs together, with every class of the catalogue installed once, give an engine.
func TestAllPacksTogether(t *testing.T) {
	shipped := shippedPacks(t)
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
	e, err := rules.Compile(rules.Config{Packs: list, Inventory: inv, Classes: catalogue})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range e.Warnings() {
		if strings.Contains(w.Msg, "no rule of pack") || strings.Contains(w.Msg, "no effect") {
			t.Error(w)
		}
	}
}

// device is one device under all shipped packs.
type device struct {
	t    *testing.T
	inv  *telemetry.Inventory
	life bool
	e    *rules.Engine
	now  telemetry.Mono
	said []telemetry.Transition // everything
}

func newDevice(t *testing.T, class *telemetry.Class, provides func(*telemetry.PointDef) bool) *device {
	t.Helper()
	shipped := shippedPacks(t)
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
	var err error
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
		d.said = append(d.said, out.Transitions...)
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

// The detail never names a point that nothing provides, and none twice: people would look for a sensor that is not there.
func TestDetailsNameWhatIsThere(t *testing.T) {
	good := func(f float64) func(*telemetry.PointDef) (telemetry.Quality, telemetry.Value) {
		return func(def *telemetry.PointDef) (telemetry.Quality, telemetry.Value) {
			switch def.Kind {
			case telemetry.Bool:
				return telemetry.Good, telemetry.BoolValue(f > 0)
			case telemetry.KindText:
				return telemetry.Good, telemetry.TextValue("7f")
			case telemetry.Enum:
				return telemetry.Good, telemetry.EnumValue(def.Enum[len(def.Enum)-1].Code)
			case telemetry.Int:
				return telemetry.Good, telemetry.IntValue(int64(f))
			}
			return telemetry.Good, telemetry.FloatValue(f)
		}
	}
	silent := func(*telemetry.PointDef) (telemetry.Quality, telemetry.Value) {
		return telemetry.BadComm, telemetry.Value{}
	}
	said := 0
	for id, class := range classes(t) {
		for _, with := range append([]string{""}, optionalPoints(class)...) {
			d := newDevice(t, class, func(def *telemetry.PointDef) bool { return !def.Optional || def.Name == with })
			var names []string // titles of points that are not there
			for k := range class.Points {
				def := &class.Points[k]
				if d.inv.Devices[0].Points[k] == telemetry.NoPoint && d.inv.Constant(0, k).IsZero() {
					names = append(names, def.Title.Zh)
				}
			}
			if with == "" && id == "fire_lane_sensor" {
				names = append(names, "第二探测占用")
			}
			for _, f := range []float64{100000, 0, 1, 300} {
				for _, sample := range []func(*telemetry.PointDef) (telemetry.Quality, telemetry.Value){good(0), good(f), silent, good(f), good(0)} {
					d.play(sample)
				}
			}
			for _, tr := range d.said {
				said++
				seen := map[string]bool{}
				for _, fact := range strings.Split(tr.Detail.Zh, " · ") {
					fact, _, _ = strings.Cut(fact, "，已 ")
					name := factName.ReplaceAllString(fact, "")
					if name != "" && seen[name] {
						t.Errorf("%s+%s %s %s: %q names %q twice", id, with, tr.Op, tr.Alert, tr.Detail.Zh, name)
					}
					seen[name] = true
					if slices.Contains(names, name) || strings.HasSuffix(fact, "?") || strings.Contains(fact, "尚未读到") {
						t.Errorf("%s+%s %s %s: %q names what nothing provides: %q", id, with, tr.Op, tr.Alert, tr.Detail.Zh, fact)
					}
				}
				if strings.Contains(tr.Detail.En, "not read yet") {
					t.Errorf("%s+%s %s %s: %q", id, with, tr.Op, tr.Alert, tr.Detail.En)
				}
			}
		}
	}
	if said < 500 {
		t.Errorf("only %d transitions were looked at", said)
	}
}

// factName is all of a fact but its name.
var factName = regexp.MustCompile(`(未知)?（.*$|：.*$| [≥≤]? ?-?[0-9.?]+( [^ （]+)?(（.*)?$`)

// optionalPoints returns the names of the points that a class does not demand.
func optionalPoints(class *telemetry.Class) (names []string) {
	for k := range class.Points {
		if class.Points[k].Optional {
			names = append(names, class.Points[k].Name)
		}
	}
	return names
}
