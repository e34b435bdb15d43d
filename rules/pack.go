package rules

import (
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"linli/internal/telemetry"
	"linli/internal/yamlfile"
	"linli/rules/expr"
	"linli/rules/packs"
)

// Pack is one parsed rule file. Its expressions are checked when it is compiled against an inventory. A Pack is
// read-only once parsed. One that has mistakes can be compiled too, to find those that parsing does not; it gives no
// engine.
type Pack struct {
	ID    string
	Title telemetry.Text
	File  string
	Rules []*Rule // in the order of the file
	// Schedules are the pack's own, by name. Those of a site file come before them.
	Schedules map[string]Schedule

	params yamlfile.Map[paramDef]
	// errs is what ParsePack found wrong. paramsUnread says that the parameters are not known for that reason, and
	// schedulesUnread the same of the schedules.
	shipped         bool // it comes with the binary
	errs            yamlfile.Errors
	paramsUnread    bool
	schedulesUnread bool
}

// Rule is one rule of a pack: an alert, or a derived point that it records.
type Rule struct {
	// Alert is the alert's name; Record, of a rule that records, the derived point's. One of them is empty.
	Alert, Record string
	Pos           yamlfile.Pos // where the rule stands
	Title         telemetry.Text
	Unit          string // of a derived point
	Severity      telemetry.Severity
	LifeSafety    bool

	// What follows from the alert; Engine.Plan has it resolved for one subject.
	Outputs     []OutputSpec
	Escalate    []Escalation
	InhibitedBy []string

	forEach      forEach
	expr         source
	wait         param // `for`
	keep         param // `keep_firing_for`
	severityFor  param // `severity_for`
	coverage     param // `coverage`
	severityWhen []severityWhen
	titleAt      yamlfile.Pos
	inhibitedAt  []yamlfile.Pos // of InhibitedBy
	broken       bool           // parts are missing after a mistake: its name is known, and nothing else is checked
}

// Name returns the name of the alert or of the derived point.
func (r *Rule) Name() string { return r.Alert + r.Record }

// forEach says which subjects a rule has.
type forEach struct {
	kind      string   // device, zone or site; class where class is set
	class     string   // of one class of devices
	zoneKinds []string // of zones, empty for every zone
	pos       yamlfile.Pos
}

// source is an expression, parsed, with its place.
type source struct {
	text yamlfile.At[string]
	tree *expr.Node
	file []byte
}

type severityWhen struct {
	severity telemetry.Severity
	source
}

// param is a scalar as written.
type param struct {
	Text string
	Pos  yamlfile.Pos
}

// UnmarshalYAMLFile takes any scalar.
func (p *param) UnmarshalYAMLFile(n *yamlfile.Node) error {
	if !n.IsScalar() {
		return &yamlfile.Error{Pos: n.Pos, Msg: "expected one value, not a list or a mapping"}
	}
	p.Text, p.Pos = n.Scalar(), n.Pos
	return nil
}

// UnmarshalYAMLFile takes `site`, `device`, `zone`, a class, or {zone: kind} and {zone: [kind, kind]}.
func (f *forEach) UnmarshalYAMLFile(n *yamlfile.Node) error {
	f.pos = n.Pos
	if n.IsScalar() {
		f.kind = n.Scalar()
		switch f.kind {
		case "site", "device", "zone":
		default:
			f.kind, f.class = "class", n.Scalar()
		}
		return nil
	}
	var m struct {
		Zone *yamlfile.Node `yaml:"zone,required"`
	}
	if err := n.Decode(&m); err != nil || m.Zone == nil {
		return err
	}
	f.kind = "zone"
	if m.Zone.IsScalar() {
		f.zoneKinds = []string{m.Zone.Scalar()}
		return nil
	}
	return m.Zone.Decode(&f.zoneKinds)
}

type packFile struct {
	Version yamlfile.At[int]       `yaml:"version,required"`
	Pack    yamlfile.At[string]    `yaml:"pack,required"`
	Title   yamlfile.Text          `yaml:"title,required"`
	Params  yamlfile.Map[paramDef] `yaml:"params"`
	Rules   []ruleFile             `yaml:"rules,required"`
	Pos     yamlfile.Pos           `yaml:",pos"`

	Schedules yamlfile.Map[[]ScheduleEntry] `yaml:"schedules"`
}

type ruleFile struct {
	Pos          yamlfile.Pos                      `yaml:",pos"`
	Alert        yamlfile.At[string]               `yaml:"alert"`
	Record       yamlfile.At[string]               `yaml:"record"`
	ForEach      forEach                           `yaml:"for_each,required"`
	Expr         yamlfile.At[string]               `yaml:"expr,required"`
	For          param                             `yaml:"for"`
	Keep         param                             `yaml:"keep_firing_for"`
	Severity     yamlfile.At[string]               `yaml:"severity"`
	SeverityWhen yamlfile.Map[yamlfile.At[string]] `yaml:"severity_when"`
	SeverityFor  param                             `yaml:"severity_for"`
	Coverage     param                             `yaml:"coverage"`
	LifeSafety   bool                              `yaml:"life_safety"`
	Title        yamlfile.At[yamlfile.Text]        `yaml:"title"`
	Unit         string                            `yaml:"unit"`
	Outputs      []outputFile                      `yaml:"outputs"`
	Escalate     []escalateFile                    `yaml:"escalate"`
	InhibitedBy  []yamlfile.At[string]             `yaml:"inhibited_by"`
}

// ParsePack parses a pack file strictly: structure, expressions' syntax, parameters. The error is yamlfile.Errors.
//
// The Pack is never nil. Beside an error it holds what could be read (of a file without a readable name, only that
// which the file's own name says), so that Compile can find the mistakes in the rest, and so that nobody calls
// the pack unknown.
func ParsePack(file string, src []byte) (*Pack, error) {
	var f packFile
	var errs yamlfile.Errors
	errs.Append(yamlfile.Pos{File: file, Line: 1, Col: 1}, yamlfile.Decode(file, src, &f))
	p := &Pack{ID: f.Pack.Value, Title: f.Title.Text, File: file, params: f.Params}
	unread := func(key string) bool {
		return f.Pos.Line == 0 || slices.ContainsFunc(errs, func(e *yamlfile.Error) bool { return e.Near == key })
	}
	p.paramsUnread, p.schedulesUnread = unread("params"), unread("schedules")
	if p.ID == "" {
		p.ID = strings.TrimSuffix(path.Base(filepath.ToSlash(file)), ".yaml")
	}
	if f.Version.Pos.Line > 0 && f.Version.Value != 1 {
		errs.Addf(f.Version.Pos, "version %d is not known: this program reads version 1", f.Version.Value)
	}
	if f.Pack.Pos.Line > 0 && !validID(f.Pack.Value) {
		errs.Addf(f.Pack.Pos, "%q is not a name for a pack: small letters, digits and _, at most 32", f.Pack.Value)
	}
	for _, e := range f.Params {
		if !validID(e.Key.Value) {
			errs.Addf(e.Key.Pos, "%q is not a name for a parameter: small letters, digits and _, at most 32", e.Key.Value)
		}
		if e.Value.Text == "" && len(errs) > 0 {
			p.paramsUnread = true
		}
		e.Value.check(&errs)
	}
	p.schedules(f.Schedules, &errs)
	b := &packParser{pack: p, src: src, errs: &errs}
	for i := range f.Rules {
		if r := b.rule(&f.Rules[i]); r != nil {
			p.Rules = append(p.Rules, r)
		}
	}
	yamlfile.ExplainWide(file, src, errs)
	err := errs.Err()
	p.errs = errs
	return p, err
}

type errorString string

func (e errorString) Error() string { return string(e) }

// Shipped returns the packs embedded in the binary, by id.
func Shipped() (map[string]*Pack, error) {
	names, err := fs.Glob(packs.Files, "*.yaml")
	if err != nil {
		return nil, err
	}
	all := make(map[string]*Pack, len(names))
	var errs yamlfile.Errors
	for _, name := range names {
		src, err := packs.Files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		p, err := ParsePack("packs/"+name, src)
		if err != nil {
			errs.Append(yamlfile.Pos{File: name}, err)
			continue
		}
		p.shipped = true
		all[p.ID] = p
	}
	return all, errs.Err()
}

func validID(s string) bool {
	if s == "" || len(s) > 32 || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_'
	}) < 0
}

// validAlert reports whether s is a name for an alert: FireLaneBlocked.
func validAlert(s string) bool {
	if s == "" || len(s) > 64 || s[0] < 'A' || s[0] > 'Z' {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9')
	}) < 0
}

// packParser turns decoded rules into Rules and collects the mistakes.
type packParser struct {
	pack *Pack
	src  []byte
	errs *yamlfile.Errors
}

func (b *packParser) rule(f *ruleFile) *Rule {
	r := &Rule{
		Alert: f.Alert.Value, Record: f.Record.Value, Pos: f.Pos, Title: f.Title.Value.Text, Unit: f.Unit,
		LifeSafety: f.LifeSafety, forEach: f.ForEach, wait: f.For, keep: f.Keep, severityFor: f.SeverityFor, titleAt: f.Title.Pos, coverage: f.Coverage,
	}
	switch {
	case (r.Alert == "") == (r.Record == ""):
		b.errs.Addf(f.Pos, "a rule has either `alert:` or `record:`")
		return nil
	case r.Alert != "" && !validAlert(r.Alert):
		b.errs.Addf(f.Alert.Pos, "%q is not a name for an alert: letters and digits, the first a capital, as FireLaneBlocked", r.Alert)
	case r.Record != "" && !validID(r.Record):
		b.errs.Addf(f.Record.Pos, "%q is not a name for a derived point: small letters, digits and _, at most 32", r.Record)
	}
	r.expr = b.source(f.Expr)
	r.broken = r.expr.tree == nil || f.ForEach.kind == ""
	if r.Alert != "" {
		b.alert(f, r)
	} else {
		b.record(f)
	}
	for _, p := range []*param{&r.wait, &r.keep, &r.severityFor} {
		if _, ok := b.duration(*p); !ok {
			*p = param{} // told once is enough
		}
	}
	if _, ok := b.share(r.coverage); !ok {
		r.coverage = param{}
	}
	for _, s := range r.severityWhen {
		r.broken = r.broken || s.tree == nil
	}
	return r
}

// record refuses what only alerts have.
func (b *packParser) record(f *ruleFile) {
	only := map[string]bool{
		"for": f.For.Text != "", "keep_firing_for": f.Keep.Text != "", "severity": f.Severity.Value != "",
		"severity_when": len(f.SeverityWhen) > 0, "severity_for": f.SeverityFor.Text != "", "outputs": len(f.Outputs) > 0, "escalate": len(f.Escalate) > 0,
		"inhibited_by": len(f.InhibitedBy) > 0, "life_safety": f.LifeSafety,
	}
	names := make([]string, 0, len(only))
	for name, set := range only {
		if set {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		b.errs.Addf(f.Pos, "a derived point has no `%s`: that is for alerts", name)
	}
}

func (b *packParser) alert(f *ruleFile, r *Rule) {
	if f.Severity.Value == "" {
		b.errs.Addf(f.Pos, "alert %s needs a `severity` (notice, warning, critical)", r.Alert)
	} else {
		r.Severity = b.severity(f.Severity)
	}
	if r.Title.IsZero() {
		b.errs.Addf(f.Pos, "alert %s needs a `title` in both languages", r.Alert)
	} else if r.Title.Zh == "" || r.Title.En == "" {
		b.errs.Addf(f.Title.Pos, "the title of %s is missing in one language", r.Alert)
	}
	if r.Unit != "" {
		b.errs.Addf(f.Pos, "an alert has no `unit`: that is for derived points")
	}
	for _, e := range f.SeverityWhen {
		s := b.severity(e.Key)
		r.severityWhen = append(r.severityWhen, severityWhen{s, b.source(e.Value)})
	}
	b.follows(f, r)
}

func (b *packParser) severity(s yamlfile.At[string]) telemetry.Severity {
	v, ok := telemetry.ParseSeverity(s.Value)
	if !ok {
		b.errs.Addf(s.Pos, "unknown severity %q%s (notice, warning, critical)", s.Value,
			yamlfile.Suggest(s.Value, []string{"notice", "warning", "critical"}))
	}
	return v
}

func (b *packParser) source(text yamlfile.At[string]) source {
	s := source{text: text, file: b.src}
	if text.Pos.Line == 0 {
		return s // its absence is already a mistake
	}
	tree, err := expr.Parse(text.Value)
	if e, ok := err.(*expr.Error); ok {
		b.errs.Addf(s.at(e.Offset), "%s", e.Msg)
		return s
	}
	s.tree = tree
	return s
}

// duration evaluates a duration with the pack's defaults, to find mistakes, and reports whether it is right; the
// engine evaluates it again with the site's parameters.
func (b *packParser) duration(p param) (time.Duration, bool) {
	if p.Text == "" {
		return 0, true
	}
	d, err := resolveDuration(p.Text, func(name string) (string, bool) {
		v, ok := b.pack.params.Get(name)
		return v.Text, ok
	}, b.pack.paramList())
	if err != nil && !b.pack.paramsUnread {
		b.errs.Addf(p.Pos, "%v", err)
	}
	return d, err == nil
}

// share evaluates a coverage with the pack's defaults, as duration does.
func (b *packParser) share(p param) (float64, bool) {
	if p.Text == "" {
		return 0, true
	}
	v, err := resolveShare(p.Text, func(name string) (string, bool) {
		v, ok := b.pack.params.Get(name)
		return v.Text, ok
	}, b.pack.paramList())
	if err != nil && !b.pack.paramsUnread {
		b.errs.Addf(p.Pos, "%v", err)
	}
	return v, err == nil
}

func (p *Pack) paramList() []string {
	names := make([]string, len(p.params))
	for i, e := range p.params {
		names[i] = e.Key.Value
	}
	return names
}

func resolveDuration(text string, lookup func(string) (string, bool), names []string) (time.Duration, error) {
	s, missing := expr.Substitute(text, lookup)
	for _, name := range missing {
		return 0, errorString("unknown parameter ${" + name + "}" + yamlfile.Suggest(name, names))
	}
	if s == "0" {
		return 0, nil
	}
	d, err := expr.ParseDuration(s)
	if err != nil && strings.HasPrefix(text, "${") && strings.Index(text, "}") == len(text)-1 {
		return 0, errorString("parameter " + text[2:len(text)-1] + " stands for a duration here: " + err.Error())
	}
	return d, err
}

// resolveShare evaluates a coverage.
func resolveShare(text string, lookup func(string) (string, bool), names []string) (float64, error) {
	s, missing := expr.Substitute(text, lookup)
	for _, name := range missing {
		return 0, errorString("unknown parameter ${" + name + "}" + yamlfile.Suggest(name, names))
	}
	v := expr.Literal(s)
	if v.Op != expr.OpNumber || v.Num < 0.01 || v.Num > 1 {
		return 0, errorString("coverage is a share of a window, from 0.01 to 1, not " + s)
	}
	return v.Num, nil
}
