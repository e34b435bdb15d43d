package rules

import (
	"slices"
	"strings"

	"linli/internal/telemetry"
	"linli/internal/yamlfile"
	"linli/rules/response"
)

// OutputSpec is an output to be driven while the alert is active, as the pack says it.
type OutputSpec struct {
	// Scope is zone, site, or the kind of an enclosing zone, and Class that of the devices in it. Scope self stands for
	// the subject's own device; Class is empty then.
	Scope, Class string
	Point        string
	Until        response.Until
	Severity     telemetry.Severity // 0: any
	Unless       []string           // alerts

	value, after, lasting param // as written: value, after, for
	deviceAt, pointAt     yamlfile.Pos
	severityAt            yamlfile.Pos
	unlessAt              []yamlfile.Pos
}

// self is the scope of the subject's own device.
const self = "self"

// device returns the key as written.
func (o *OutputSpec) device() string { return strings.TrimSuffix(o.Scope+"."+o.Class, ".") }

// Escalation says who is told when nobody has acknowledged.
type Escalation struct {
	To       response.Tier
	Severity telemetry.Severity // 0: unchanged

	after param
}

type outputFile struct {
	Device   yamlfile.At[string]   `yaml:"device,required"`
	Point    yamlfile.At[string]   `yaml:"point,required"`
	Value    param                 `yaml:"value"`
	After    param                 `yaml:"after"`
	For      param                 `yaml:"for"`
	Until    yamlfile.At[string]   `yaml:"until"`
	Severity yamlfile.At[string]   `yaml:"severity"`
	Unless   []yamlfile.At[string] `yaml:"unless"`
}

type escalateFile struct {
	After    param               `yaml:"after,required"`
	To       yamlfile.At[string] `yaml:"to,required"`
	Severity yamlfile.At[string] `yaml:"severity"`
}

// follows reads what follows from an alert.
func (b *packParser) follows(f *ruleFile, r *Rule) {
	for i := range f.Outputs {
		if o, ok := b.output(&f.Outputs[i]); ok {
			r.Outputs = append(r.Outputs, o)
		}
	}
	b.escalate(f, r)
	for _, name := range f.InhibitedBy {
		switch {
		case !validAlert(name.Value):
			b.errs.Addf(name.Pos, "%q is not the name of an alert", name.Value)
			continue
		case name.Value == r.Alert:
			b.errs.Addf(name.Pos, "%s cannot be inhibited by itself", r.Alert)
			continue
		case slices.Contains(r.InhibitedBy, name.Value):
			continue
		}
		r.InhibitedBy = append(r.InhibitedBy, name.Value)
		r.inhibitedAt = append(r.inhibitedAt, name.Pos)
	}
	if r.LifeSafety && len(f.InhibitedBy) > 0 {
		b.errs.Addf(f.InhibitedBy[0].Pos, "%s protects life: nothing inhibits it, so take inhibited_by or life_safety out", r.Alert)
		r.InhibitedBy, r.inhibitedAt = nil, nil
	}
}

func (b *packParser) output(f *outputFile) (OutputSpec, bool) {
	o := OutputSpec{
		Point: f.Point.Value, value: f.Value, after: f.After, lasting: f.For,
		deviceAt: f.Device.Pos, pointAt: f.Point.Pos, severityAt: f.Severity.Pos,
	}
	if _, ok := b.duration(o.after); !ok {
		o.after = param{} // told once is enough
	}
	if d, ok := b.duration(o.lasting); !ok {
		o.lasting = param{}
	} else if o.lasting.Text != "" && d == 0 {
		b.errs.Addf(o.lasting.Pos, "`for: %s` is over before it begins: leave `for` out where there is no limit", o.lasting.Text)
		o.lasting = param{}
	}
	if f.Until.Value != "" {
		var ok bool
		if o.Until, ok = response.ParseUntil(f.Until.Value); !ok {
			words := []string{"acknowledged", "cleared", "closed"}
			b.errs.Addf(f.Until.Pos, "until is acknowledged, cleared or closed, not %q%s", f.Until.Value, yamlfile.Suggest(f.Until.Value, words))
		}
	}
	if f.Severity.Value != "" {
		o.Severity = b.severity(f.Severity)
	}
	for _, name := range f.Unless {
		if !validAlert(name.Value) {
			b.errs.Addf(name.Pos, "unless: %q is not the name of an alert", name.Value)
			continue
		}
		o.Unless, o.unlessAt = append(o.Unless, name.Value), append(o.unlessAt, name.Pos)
	}
	if f.Device.Pos.Line == 0 || f.Point.Pos.Line == 0 {
		return o, false // its absence is a mistake already
	}
	if f.Device.Value == self {
		o.Scope = self
		return o, true
	}
	var ok bool
	o.Scope, o.Class, ok = strings.Cut(f.Device.Value, ".")
	if !ok || o.Scope == "" || o.Class == "" || strings.Contains(o.Class, ".") {
		b.errs.Addf(f.Device.Pos, "%q: an output is `self`, or the devices of a class, as zone.siren or site.door", f.Device.Value)
		return o, false
	}
	return o, true
}

// escalate reads the steps, each of which must go further than the one before it.
func (b *packParser) escalate(f *ruleFile, r *Rule) {
	for i := range f.Escalate {
		e := &f.Escalate[i]
		esc := Escalation{after: e.After}
		if _, ok := b.duration(esc.after); !ok {
			esc.after = param{}
		}
		if e.Severity.Value != "" {
			esc.Severity = b.severity(e.Severity)
		}
		if e.To.Pos.Line == 0 {
			continue
		}
		var ok bool
		if esc.To, ok = response.ParseTier(e.To.Value); !ok {
			to := []string{"community", "street", "district"}
			b.errs.Addf(e.To.Pos, "unknown tier %q%s (community, street, district)", e.To.Value, yamlfile.Suggest(e.To.Value, to))
			continue
		}
		if n := len(r.Escalate); n > 0 {
			last := &r.Escalate[n-1]
			if esc.To < last.To || esc.To == last.To && esc.Severity <= last.Severity {
				b.errs.Addf(e.To.Pos, "%s has been told already: each step goes further than the one before it", esc.To)
				continue
			}
		}
		r.Escalate = append(r.Escalate, esc)
	}
}

// worst is the worst severity that an alert of the rule can have.
func (r *Rule) worst() telemetry.Severity {
	worst := r.Severity
	for _, s := range r.severityWhen {
		worst = max(worst, s.severity)
	}
	for _, e := range r.Escalate {
		worst = max(worst, e.Severity)
	}
	return worst
}
