package ruletest

import (
	"slices"
	"sort"
	"strings"
	"time"

	"linli/internal/telemetry"
	"linli/internal/yamlfile"
	"linli/rules/expr"
)

// act is what somebody does, or what happens to the process or its clock.
type act struct {
	at   time.Duration
	what actKind
	text string // as written, without the time
	pos  yamlfile.Pos

	id     telemetry.Identity
	point  telemetry.PointID
	value  telemetry.Value
	by     time.Duration // the clock steps
	wall   time.Time     // the clock is set to
	unset  bool
	params map[string]map[string]string
}

type actKind uint8

// The order is that of things that happen in one moment.
const (
	actClock actKind = iota
	actCrash
	actRestart
	actReload
	actAcknowledge
	actClose
	actManual
)

var actNames = [...]string{"clock", "crash", "restart", "reload", "ack", "close", "manual"}

// String returns the key of test files.
func (k actKind) String() string { return actNames[k] }

// person reports whether it is a person who acts, and sees what happened in that moment.
func (a *act) person() bool { return a.what >= actAcknowledge }

// readActs reads everything that has a time and is no sample, and sorts it.
func (r *runner) readActs() {
	for _, list := range []struct {
		what actKind
		at   []yamlfile.At[string]
	}{
		{actClock, r.c.Clock}, {actCrash, r.c.Crash}, {actRestart, r.c.Restart},
		{actAcknowledge, r.c.Ack}, {actClose, r.c.Close}, {actManual, r.c.Manual},
	} {
		for _, at := range list.at {
			r.readAct(list.what, at)
		}
	}
	for i := range r.c.Reload {
		f := &r.c.Reload[i]
		d, err := expr.ParseDuration(f.At.Value)
		if err != nil {
			r.s.errs.Addf(f.At.Pos, "%v", err)
			continue
		}
		r.s.checkParams(f.Params)
		r.acts = append(r.acts, act{at: d, what: actReload, pos: f.At.Pos, params: paramsOf(f.Params)})
		r.extend(d)
	}
	sort.SliceStable(r.acts, func(i, j int) bool {
		a, b := &r.acts[i], &r.acts[j]
		return a.at < b.at || a.at == b.at && a.what < b.what
	})
}

// readAct reads one act, as `2m FireLaneBlocked s1`.
func (r *runner) readAct(what actKind, at yamlfile.At[string]) {
	errs := r.s.errs
	f := strings.Fields(at.Value)
	if len(f) == 0 {
		errs.Addf(at.Pos, "a time is missing")
		return
	}
	d, err := expr.ParseDuration(f[0])
	if err != nil {
		errs.Addf(at.Pos, "%v", err)
		return
	}
	a := act{at: d, what: what, text: strings.Join(f[1:], " "), pos: at.Pos}
	switch what {
	case actAcknowledge, actClose:
		if len(f) != 3 {
			errs.Addf(at.Pos, "%s: written as 2m FireLaneBlocked s1", what)
			return
		}
		a.id = telemetry.Identity{Alert: f[1], Subject: f[2]}
		if problem := r.alertProblem(a.id); problem != "" {
			errs.Addf(at.Pos, "%s", problem)
		}
	case actManual:
		var ok bool
		if len(f) != 3 {
			errs.Addf(at.Pos, "manual: written as 3m horn1.play false")
			return
		}
		if a.point, a.value, ok = r.output(f[1], f[2], at.Pos); !ok {
			return
		}
	case actClock:
		if !r.readClock(&a, f[1:]) {
			errs.Addf(at.Pos, "clock: %q is neither a step as +1h or -30s, nor `unset`, nor a local time as 2026-05-04 21:55", a.text)
			return
		}
	default:
		if len(f) != 1 {
			errs.Addf(at.Pos, "%s: only the time is written, as 5m", what)
			return
		}
	}
	r.acts = append(r.acts, a)
	r.extend(d)
}

// readClock reads what becomes of the wall clock.
func (r *runner) readClock(a *act, f []string) bool {
	switch {
	case len(f) == 1 && f[0] == "unset":
		a.unset = true
		return true
	case len(f) == 1 && len(f[0]) > 1 && (f[0][0] == '+' || f[0][0] == '-'):
		d, err := expr.ParseDuration(f[0][1:])
		if a.by = d; f[0][0] == '-' {
			a.by = -d
		}
		return err == nil
	case len(f) == 2:
		t, err := time.ParseInLocation(wallLayout, a.text, r.s.loc)
		a.wall = t
		return err == nil
	}
	return false
}

// output finds an output and reads a value of it.
func (r *runner) output(name, value string, pos yamlfile.Pos) (telemetry.PointID, telemetry.Value, bool) {
	errs := r.s.errs
	ref, ok := r.defs[name]
	if !ok {
		var known []string
		for name, ref := range r.defs {
			if r.inv.Devices[ref.device].Class.Points[ref.def].Writable {
				known = append(known, name)
			}
		}
		errs.Addf(pos, "unknown output %q%s; an output is named device.point", name, yamlfile.Suggest(name, known))
		return 0, telemetry.Value{}, false
	}
	dev := &r.inv.Devices[ref.device]
	def, id := &dev.Class.Points[ref.def], dev.Points[ref.def]
	switch {
	case !def.Writable:
		errs.Addf(pos, "%s is no output: it cannot be written", name)
		return 0, telemetry.Value{}, false
	case id == telemetry.NoPoint:
		errs.Addf(pos, "%s is optional, and nothing provides it here: list it in the device's `provides`", name)
		return 0, telemetry.Value{}, false
	}
	v, err := literal(value, def)
	if err != nil {
		errs.Addf(pos, "%v", err)
		return 0, telemetry.Value{}, false
	}
	return id, v, true
}

// alertProblem says what is wrong with the name of an alert in a test.
func (r *runner) alertProblem(id telemetry.Identity) string {
	var known []string
	for _, p := range r.s.packs {
		for _, rule := range p.Rules {
			if rule.Alert != "" {
				known = append(known, rule.Alert)
			}
		}
	}
	if !slices.Contains(known, id.Alert) {
		return "unknown alert " + id.Alert + yamlfile.Suggest(id.Alert, known)
	}
	if _, ok := r.inv.DeviceByID(id.Subject); ok {
		return ""
	}
	if _, ok := r.inv.ZoneByID(id.Subject); ok || id.Subject == r.inv.Site {
		return ""
	}
	return "there is no device or zone " + id.Subject + " (the site is called " + r.inv.Site + ")"
}

// reloadFile is a time, or {at: 5m, params: {fire_lane: {dwell: 1m}}}.
type reloadFile struct {
	At     yamlfile.At[string]
	Params yamlfile.Map[yamlfile.Map[yamlfile.At[scalar]]]
}

// UnmarshalYAMLFile takes both forms.
func (f *reloadFile) UnmarshalYAMLFile(n *yamlfile.Node) error {
	if n.IsScalar() {
		f.At = yamlfile.At[string]{Value: n.Scalar(), Pos: n.Pos}
		return nil
	}
	var m struct {
		At     yamlfile.At[string]                             `yaml:"at,required"`
		Params yamlfile.Map[yamlfile.Map[yamlfile.At[scalar]]] `yaml:"params"`
	}
	err := n.Decode(&m)
	if f.At, f.Params = m.At, m.Params; f.At.Pos.Line == 0 {
		f.At.Pos = n.Pos
	}
	return err
}

// paramsOf returns parameters by pack and name.
func paramsOf(params yamlfile.Map[yamlfile.Map[yamlfile.At[scalar]]]) map[string]map[string]string {
	all := map[string]map[string]string{}
	for _, pack := range params {
		all[pack.Key.Value] = map[string]string{}
		for _, p := range pack.Value {
			all[pack.Key.Value][p.Key.Value] = string(p.Value.Value)
		}
	}
	return all
}
