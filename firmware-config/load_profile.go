package firmwareconfig

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"linli/internal/telemetry"
	"linli/internal/yamlfile"
)

type profileFile struct {
	Version yamlfile.At[int]            `yaml:"version,required"`
	Profile yamlfile.At[string]         `yaml:"profile,required"`
	Vendor  string                      `yaml:"vendor,required"`
	Model   string                      `yaml:"model,required"`
	Title   yamlfile.At[telemetry.Text] `yaml:"title,required"`
	Status  yamlfile.At[string]         `yaml:"status,required"`
	Sources []string                    `yaml:"sources,required"`
	Line    struct {
		Baud   yamlfile.At[int]    `yaml:"baud"`
		Format yamlfile.At[string] `yaml:"format"`
	} `yaml:"line"`
	Address yamlfile.At[int] `yaml:"address"`
	Timing  struct {
		Timeout   yamlfile.At[time.Duration] `yaml:"timeout"`
		Gap       yamlfile.At[time.Duration] `yaml:"gap"`
		WarmUp    yamlfile.At[time.Duration] `yaml:"warm_up"`
		ReadDelay yamlfile.At[time.Duration] `yaml:"read_delay"`
		SwitchGap yamlfile.At[time.Duration] `yaml:"switch_gap"`
	} `yaml:"timing"`
	Limits struct {
		MaxRegisters yamlfile.At[int] `yaml:"max_registers"`
		MaxBits      yamlfile.At[int] `yaml:"max_bits"`
		MaxGap       yamlfile.At[int] `yaml:"max_gap"`
	} `yaml:"limits"`
	Channels   []channelFile         `yaml:"channels,required"`
	Device     *deviceFile           `yaml:"device"`
	Config     []paramFile           `yaml:"config"`
	Unlock     []rawWriteFile        `yaml:"unlock"`
	Save       []rawWriteFile        `yaml:"save"`
	Signature  []testFile            `yaml:"signature"`
	DeviceID   *deviceIDFile         `yaml:"device_id"`
	LookAlikes []yamlfile.At[string] `yaml:"look_alikes"`
	Golden     []goldenFile          `yaml:"golden"`
}

type deviceFile struct {
	Pos    yamlfile.Pos              `yaml:",pos"`
	Class  yamlfile.At[string]       `yaml:"class,required"`
	Points yamlfile.Map[bindingFile] `yaml:"points,required"`
}

// bindingFile is a channel's name, or a mapping that says more.
type bindingFile struct {
	From     yamlfile.At[string]      `yaml:"from,required"`
	Invert   bool                     `yaml:"invert"`
	Map      yamlfile.At[[][]float64] `yaml:"map"`
	Deadband *yamlfile.Node           `yaml:"deadband"`
}

// UnmarshalYAMLFile decodes either form.
func (b *bindingFile) UnmarshalYAMLFile(n *yamlfile.Node) error {
	if n.IsScalar() {
		return n.Decode(&b.From)
	}
	type plain bindingFile
	return n.Decode((*plain)(b))
}

func (l *loader) profile(file string, src []byte) {
	var f profileFile
	before := len(l.errs)
	l.errs.Append(yamlfile.Pos{File: file, Line: 1, Col: 1}, yamlfile.Decode(file, src, &f))
	usable := l.header(file, f.Version, f.Profile, "profile")
	l.checkTitle(f.Title)
	p := &Profile{
		ID: f.Profile.Value, Vendor: f.Vendor, Model: f.Model, Title: f.Title.Value, Status: f.Status.Value, Sources: f.Sources,
		Line:    Line{Baud: f.Line.Baud.Value, Format: f.Line.Format.Value},
		Address: f.Address.Value,
		Timing: Timing{Timeout: f.Timing.Timeout.Value, Gap: f.Timing.Gap.Value, WarmUp: f.Timing.WarmUp.Value,
			ReadDelay: f.Timing.ReadDelay.Value, SwitchGap: f.Timing.SwitchGap.Value},
		Limits: Limits{MaxRegisters: f.Limits.MaxRegisters.Value, MaxBits: f.Limits.MaxBits.Value, MaxGap: f.Limits.MaxGap.Value},
	}
	l.whole = len(l.errs) == before
	l.settings(&f)
	channelsBefore := len(l.errs)
	if f.Channels != nil && len(f.Channels) == 0 {
		l.errs.Addf(f.Profile.Pos, "profile %q has no channels", f.Profile.Value)
	}
	names := map[string]yamlfile.Pos{}
	for i := range f.Channels {
		l.channels(p, &f.Channels[i], names)
	}
	// Channels that could not be read are missing: nothing is said about who asks for them.
	l.whole = l.whole && len(l.errs) == channelsBefore
	if f.Device != nil {
		l.device(p, f.Device)
	}
	params := map[string]yamlfile.Pos{}
	for i := range f.Config {
		l.param(p, &f.Config[i], params)
	}
	p.Unlock, p.Save = l.rawWrites(f.Unlock, "unlock"), l.rawWrites(f.Save, "save")
	if len(f.Config) == 0 && len(f.Unlock)+len(f.Save) > 0 {
		l.errs.Addf(f.Profile.Pos, "unlock and save are written around settings, but profile %q has no config", f.Profile.Value)
	}
	l.signature(p, f.Signature)
	p.DeviceID = l.deviceID(f.DeviceID)
	l.lookAlikes(p, f.LookAlikes)
	for i := range f.Golden {
		l.golden(p, &f.Golden[i])
	}
	if usable {
		l.lib.places[p.ID] = f.Profile.Pos
		for name, pos := range names {
			l.lib.places[p.ID+"."+name] = pos
		}
		for name, pos := range params {
			l.lib.places[p.ID+":"+name] = pos
		}
		l.lib.Profiles[p.ID] = p
		if l.own {
			l.lib.own.profiles[p.ID] = true
		}
		l.lib.Faulty[p.ID] = len(l.errs) > before
	}
}

// settings checks everything of a profile but its channels.
func (l *loader) settings(f *profileFile) {
	oneOf(l, f.Status, "status", "confirmed", "partial", "unverified")
	oneOf(l, f.Line.Format, "line format", lineFormats()...)
	within(l, f.Line.Baud, "baud", 300, 4_000_000)
	within(l, f.Address, "address", 1, 255)
	within(l, f.Limits.MaxRegisters, "max_registers", 1, 125)
	within(l, f.Limits.MaxBits, "max_bits", 1, 2000)
	within(l, f.Limits.MaxGap, "max_gap", -1, 124)
	within(l, f.Timing.Timeout, "timeout", time.Millisecond, time.Minute)
	within(l, f.Timing.Gap, "gap", 0, time.Minute)
	within(l, f.Timing.WarmUp, "warm_up", 0, time.Hour)
	within(l, f.Timing.ReadDelay, "read_delay", 0, time.Minute)
	within(l, f.Timing.SwitchGap, "switch_gap", 0, time.Second)
}

// oneOf reports a word that is set but none of words.
func oneOf(l *loader, v yamlfile.At[string], what string, words ...string) {
	if v.Pos.Line > 0 && v.Value != "" && !slices.Contains(words, v.Value) {
		l.errs.Addf(v.Pos, "%s is one of %s, got %q", what, strings.Join(words, ", "), v.Value)
	}
}

// within reports a number that is set but not between lo and hi.
func within[T int | int64 | time.Duration](l *loader, v yamlfile.At[T], what string, lo, hi T) {
	if v.Pos.Line > 0 && (v.Value < lo || v.Value > hi) {
		l.errs.Addf(v.Pos, "%s must be between %v and %v, got %v", what, lo, hi, v.Value)
	}
}

func (l *loader) device(p *Profile, f *deviceFile) {
	class, ok := l.lib.Classes[f.Class.Value]
	if !ok {
		if f.Class.Value != "" && !l.lib.Faulty[f.Class.Value] {
			l.errs.Addf(f.Class.Pos, "unknown class %q%s", f.Class.Value,
				yamlfile.Suggest(f.Class.Value, slices.Sorted(maps.Keys(l.lib.Classes))))
		}
		return
	}
	d := &DeviceBinding{Class: class.ID, Points: map[string]PointBinding{}}
	for _, e := range f.Points {
		b := PointBinding{Channel: e.Value.From.Value, Invert: e.Value.Invert}
		if e.Value.Map.Pos.Line > 0 {
			m, err := LinearFrom(e.Value.Map.Value)
			if err != nil {
				l.errs.Append(e.Value.Map.Pos, err)
				continue
			}
			b.Map = m
		}
		i := class.Point(e.Key.Value)
		if i < 0 && l.lib.Faulty[class.ID] {
			continue
		}
		if i < 0 {
			names := make([]string, len(class.Points))
			for k := range class.Points {
				names[k] = class.Points[k].Name
			}
			l.errs.Addf(e.Key.Pos, "class %s has no point %q%s", class.ID, e.Key.Value, yamlfile.Suggest(e.Key.Value, names))
			continue
		}
		if b.Channel != "" && (l.whole || p.Channel(b.Channel) >= 0) {
			_, err := p.Bind(&class.Points[i], b)
			l.errs.Append(e.Value.From.Pos, err)
		}
		if e.Value.Deadband != nil {
			var err error
			if b.Deadband, err = DecodeDeadband(e.Value.Deadband, &class.Points[i]); err != nil {
				l.errs.Append(e.Value.Deadband.Pos, err)
			}
			b.OwnDeadband = true
		}
		d.Points[e.Key.Value] = b
	}
	for i := range class.Points {
		if _, bound := f.Points.Get(class.Points[i].Name); !bound && !class.Points[i].Optional {
			l.errs.Addf(f.Pos, "class %s needs the point %q", class.ID, class.Points[i].Name)
		}
	}
	p.Device = d
}

// LinearFrom makes a map of the form [[1200, 0], [300, 100]].
func LinearFrom(pairs [][]float64) (*Linear, error) {
	if len(pairs) != 2 || len(pairs[0]) != 2 || len(pairs[1]) != 2 {
		return nil, fmt.Errorf("a map is two pairs of channel value and point value, such as [[1200, 0], [300, 100]]")
	}
	m := &Linear{X0: pairs[0][0], Y0: pairs[0][1], X1: pairs[1][0], Y1: pairs[1][1]}
	if m.X0 == m.X1 {
		return nil, fmt.Errorf("both pairs of the map have the channel value %v", m.X0)
	}
	return m, nil
}

// Bind resolves a binding of one of the profile's channels to a point of a class: the Binding lacks only its
// Point. The error says in words what does not fit: no such channel, kinds that differ, a unit that cannot be
// converted, an output bound to a channel that cannot be written.
func (p *Profile) Bind(def *telemetry.PointDef, b PointBinding) (Binding, error) {
	i := p.Channel(b.Channel)
	if i < 0 {
		names := make([]string, len(p.Channels))
		for k := range p.Channels {
			names[k] = p.Channels[k].Name
		}
		hint := yamlfile.Suggest(b.Channel, names)
		if hint == "" && len(names) <= 16 {
			hint = " (it has " + strings.Join(names, ", ") + ")"
		}
		return Binding{}, fmt.Errorf("profile %s has no channel %q%s", p.ID, b.Channel, hint)
	}
	ch := &p.Channels[i]
	out := Binding{Channel: i, Def: def, UnitFactor: 1, Map: b.Map, Invert: b.Invert}
	isBool, isText := ch.Encoding == EncBool, ch.Encoding == EncString
	switch {
	case def.Kind == telemetry.KindText && !isText:
		return out, fmt.Errorf("point %s is text, but channel %s is %s", def.Name, ch.Name, ch.Encoding)
	case def.Kind != telemetry.KindText && isText:
		return out, fmt.Errorf("point %s is %s, but channel %s is text", def.Name, def.Kind, ch.Name)
	case isText && (b.Map != nil || b.Invert):
		return out, fmt.Errorf("text is taken as it is: neither map nor invert can be applied to %s", def.Name)
	case def.Kind == telemetry.Bool && !isBool:
		return out, fmt.Errorf("point %s is bool, but channel %s is a number (%s)", def.Name, ch.Name, ch.Encoding)
	case def.Kind != telemetry.Bool && isBool:
		return out, fmt.Errorf("point %s is %s, but channel %s is bool", def.Name, def.Kind, ch.Name)
	case b.Invert && !isBool:
		return out, fmt.Errorf("invert is for bool points, %s is %s", def.Name, def.Kind)
	case b.Map != nil && isBool:
		return out, fmt.Errorf("a map is for numbers, %s is bool", def.Name)
	case def.Kind == telemetry.Enum && (ch.Encoding == EncF32 || ch.Encoding == EncF64 || ch.Scale != 1 || ch.Offset != 0 || ch.ScaleFrom != nil):
		return out, fmt.Errorf("point %s is enum, which needs a plain integer channel", def.Name)
	case def.Writable && !ch.Writable:
		return out, fmt.Errorf("point %s is an output, but channel %s cannot be written", def.Name, ch.Name)
	}
	if isBool || isText || b.Map != nil {
		return out, nil
	}
	factor, offset, ok := ConvertUnit(ch.Unit, def.Unit)
	if !ok {
		return out, fmt.Errorf("channel %s is in %s, which cannot be converted to %s (point %s)", ch.Name, unitName(ch.Unit), unitName(def.Unit), def.Name)
	}
	out.UnitFactor, out.UnitOffset = factor, offset
	return out, nil
}

func unitName(u string) string {
	if u == "" {
		return "no unit"
	}
	return strconv.Quote(u)
}
