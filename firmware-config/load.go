package firmwareconfig

import (
	"io/fs"
	"path"
	"slices"
	"strings"

	"linli/internal/telemetry"
	"linli/internal/yamlfile"
)

// loader collects classes, profiles and mistakes.
type loader struct {
	lib  *Library
	errs yamlfile.Errors
	// whole says that every channel of the profile being read could be read.
	whole bool
	seen  map[string]yamlfile.Pos // ids of the layer and folder being read
	own   bool                    // it is not the first layer
}

// eachFile calls read for every YAML file in dir of every layer, in order of names.
func (l *loader) eachFile(layers []fs.FS, dir string, read func(name string, src []byte)) {
	for i, layer := range layers {
		l.own = i > 0
		l.seen = map[string]yamlfile.Pos{}
		names, err := fs.Glob(layer, dir+"/*.yaml")
		more, _ := fs.Glob(layer, dir+"/*.yml") // The pattern is constant: only the first can fail.
		if err != nil {
			l.errs.Addf(yamlfile.Pos{File: dir, Line: 1, Col: 1}, "%v", err)
		}
		for _, name := range more {
			l.errs.Addf(yamlfile.Pos{File: name, Line: 1, Col: 1}, "the file name must end in .yaml")
		}
		slices.Sort(names)
		for _, name := range names {
			src, err := fs.ReadFile(layer, name)
			if err != nil {
				l.errs.Addf(yamlfile.Pos{File: name, Line: 1, Col: 1}, "%v", err)
				continue
			}
			before := len(l.errs)
			read(name, src)
			if len(l.errs) > before {
				l.lib.Faulty[strings.TrimSuffix(path.Base(name), ".yaml")] = true
			}
		}
	}
}

// header checks what both kinds of file begin with, and reports whether the id can be used.
func (l *loader) header(file string, version yamlfile.At[int], id yamlfile.At[string], what string) bool {
	if version.Value != 1 && version.Pos.Line > 0 {
		l.errs.Addf(version.Pos, "version %d is not known here, write version: 1", version.Value)
	}
	if id.Pos.Line == 0 || !l.checkID(id, what) {
		return false
	}
	if want := id.Value + ".yaml"; path.Base(file) != want {
		l.errs.Addf(id.Pos, "%s %q must stand in a file named %s", what, id.Value, want)
	}
	if first, twice := l.seen[id.Value]; twice {
		l.errs.Addf(id.Pos, "%s %q is defined twice, first in %s", what, id.Value, first)
		return false
	}
	l.seen[id.Value] = id.Pos
	return true
}

// checkID reports whether id is a proper id, and adds a mistake where it is not.
func (l *loader) checkID(id yamlfile.At[string], what string) bool {
	if isID(id.Value) {
		return true
	}
	l.errs.Addf(id.Pos, "%s %q: a name is made of a-z, 0-9 and _, begins with a letter and has at most 32 characters", what, id.Value)
	return false
}

func isID(s string) bool {
	if s == "" || len(s) > 32 || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return true
}

type classFile struct {
	Version yamlfile.At[int]             `yaml:"version,required"`
	Class   yamlfile.At[string]          `yaml:"class,required"`
	Title   yamlfile.At[telemetry.Text]  `yaml:"title,required"`
	Points  yamlfile.Map[classPointFile] `yaml:"points,required"`
}

type classPointFile struct {
	Pos        yamlfile.Pos                `yaml:",pos"`
	Kind       yamlfile.At[string]         `yaml:"kind,required"`
	Title      yamlfile.At[telemetry.Text] `yaml:"title,required"`
	Unit       yamlfile.At[string]         `yaml:"unit"`
	Optional   bool                        `yaml:"optional"`
	Default    *yamlfile.Node              `yaml:"default"`
	Enum       yamlfile.At[[]enumFile]     `yaml:"enum"`
	LifeSafety bool                        `yaml:"life_safety"`
	Writable   bool                        `yaml:"writable"`
	Event      yamlfile.At[bool]           `yaml:"event"`
	AlarmWhen  *yamlfile.At[bool]          `yaml:"alarm_when"`
	Deadband   *yamlfile.Node              `yaml:"deadband"`
}

type enumFile struct {
	Code  yamlfile.At[int64]          `yaml:"code,required"`
	Name  yamlfile.At[string]         `yaml:"name,required"`
	Title yamlfile.At[telemetry.Text] `yaml:"title,required"`
}

func (l *loader) class(file string, src []byte) {
	var f classFile
	before := len(l.errs)
	l.errs.Append(yamlfile.Pos{File: file, Line: 1, Col: 1}, yamlfile.Decode(file, src, &f))
	usable := l.header(file, f.Version, f.Class, "class")
	l.checkTitle(f.Title)
	c := &telemetry.Class{ID: f.Class.Value, Title: f.Title.Value}
	if f.Points != nil && len(f.Points) == 0 {
		l.errs.Addf(f.Class.Pos, "class %q has no points", f.Class.Value)
	}
	for i := range f.Points {
		if l.checkID(f.Points[i].Key, "point") {
			c.Points = append(c.Points, l.classPoint(f.Points[i].Key.Value, &f.Points[i].Value))
		}
	}
	if usable {
		l.lib.Classes[c.ID] = c
		if l.own {
			l.lib.own.classes[c.ID] = true
		}
		l.lib.Faulty[c.ID] = len(l.errs) > before
	}
}

func (l *loader) checkTitle(t yamlfile.At[telemetry.Text]) {
	if t.Pos.Line > 0 && (t.Value.Zh == "" || t.Value.En == "") {
		l.errs.Addf(t.Pos, "a title needs both languages: {zh: ..., en: ...}")
	}
}

func (l *loader) classPoint(name string, f *classPointFile) telemetry.PointDef {
	def := telemetry.PointDef{Name: name, Title: f.Title.Value, Unit: f.Unit.Value, Optional: f.Optional,
		LifeSafety: f.LifeSafety, Writable: f.Writable, Event: f.Event.Value}
	l.checkTitle(f.Title)
	checkUnit(f.Unit, &l.errs)
	kind, err := telemetry.ParseKind(f.Kind.Value)
	if err != nil {
		if f.Kind.Value != "" {
			l.errs.Append(f.Kind.Pos, err)
		}
		return def
	}
	def.Kind = kind
	if def.Unit != "" && kind != telemetry.Float && kind != telemetry.Int {
		l.errs.Addf(f.Unit.Pos, "a point of kind %s has no unit", kind)
	}
	l.enum(f, &def)
	if f.AlarmWhen != nil {
		if kind != telemetry.Bool {
			l.errs.Addf(f.AlarmWhen.Pos, "alarm_when is for bool points, this one is %s", kind)
		}
		def.AlarmWhen = telemetry.AlarmFalse
		if f.AlarmWhen.Value {
			def.AlarmWhen = telemetry.AlarmTrue
		}
	}
	if f.Deadband != nil {
		d, err := DecodeDeadband(f.Deadband, &def)
		l.errs.Append(f.Deadband.Pos, err)
		def.Deadband = d
	}
	if f.Event.Value && (f.Default != nil || f.Writable) {
		l.errs.Addf(f.Event.Pos, "an event is something that happened: it has no default and is no output")
	}
	if f.Default != nil && !f.Optional {
		l.errs.Addf(f.Default.Pos, "only an optional point has a default")
	}
	if f.Default != nil {
		v, err := DecodeValue(f.Default, &def)
		l.errs.Append(f.Default.Pos, err)
		def.Default = v
	}
	return def
}

func (l *loader) enum(f *classPointFile, def *telemetry.PointDef) {
	if def.Kind != telemetry.Enum {
		if f.Enum.Pos.Line > 0 {
			l.errs.Addf(f.Enum.Pos, "enum is for points of kind enum, this one is %s", def.Kind)
		}
		return
	}
	if len(f.Enum.Value) == 0 {
		l.errs.Addf(f.Kind.Pos, "a point of kind enum needs enum: [{code: 1, name: ..., title: ...}]")
	}
	for _, e := range f.Enum.Value {
		l.checkTitle(e.Title)
		if e.Name.Pos.Line > 0 && !l.checkID(e.Name, "enum name") {
			continue
		}
		for _, other := range def.Enum {
			if other.Code == e.Code.Value {
				l.errs.Addf(e.Code.Pos, "code %d is used twice, by %s and %s", other.Code, other.Name, e.Name.Value)
			}
			if other.Name == e.Name.Value {
				l.errs.Addf(e.Name.Pos, "the enum name %q is used twice", other.Name)
			}
		}
		def.Enum = append(def.Enum, telemetry.EnumName{Code: e.Code.Value, Name: e.Name.Value, Title: e.Title.Value})
	}
}

// DecodeValue reads a value of the point's kind as files write it: a number, true or false, a text, or the name of
// an enum's code.
func DecodeValue(n *yamlfile.Node, def *telemetry.PointDef) (telemetry.Value, error) {
	switch def.Kind {
	case telemetry.Bool:
		var b bool
		err := n.Decode(&b)
		return telemetry.BoolValue(b), err
	case telemetry.Float:
		var f float64
		err := n.Decode(&f)
		return telemetry.FloatValue(f), err
	case telemetry.Int:
		var i int64
		err := n.Decode(&i)
		return telemetry.IntValue(i), err
	}
	var s string
	if err := n.Decode(&s); err != nil {
		return telemetry.Value{}, err
	}
	if def.Kind == telemetry.KindText {
		return telemetry.TextValue(s), nil
	}
	names := make([]string, len(def.Enum))
	for i, e := range def.Enum {
		if e.Name == s {
			return telemetry.EnumValue(e.Code), nil
		}
		names[i] = e.Name
	}
	var errs yamlfile.Errors
	hint := yamlfile.Suggest(s, names)
	if hint == "" {
		hint = " (" + strings.Join(names, ", ") + ")"
	}
	errs.Addf(n.Pos, "%s has no value named %q%s", def.Name, s, hint)
	return telemetry.Value{}, errs
}
