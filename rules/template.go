package rules

import (
	"strings"
	"unicode/utf8"

	"linli/internal/telemetry"
	"linli/internal/yamlfile"
	"linli/rules/expr"
)

// template is a title with places to be filled in: {{zone}}, {{place}}, {{device}}, {{site}} and {{point}} for any
// point of the subject, also for a derived one that the rule reads.
type template []templatePart

type templatePart struct {
	literal string
	name    string // of a place to be filled in; empty for a literal
}

func parseTemplate(s string, scope *expr.Scope) (template, error) {
	var t template
	for {
		i := strings.Index(s, "{{")
		if i < 0 {
			break
		}
		j := strings.Index(s[i:], "}}")
		if j < 0 {
			return nil, errorString("`{{` is not closed by `}}`")
		}
		name := strings.TrimSpace(s[i+2 : i+j])
		known := []string{"zone", "place", "site"}
		if scope.Device {
			known = append(known, "device")
		}
		if scope.Subject != nil {
			known = append(known, scope.DerivedNames...)
			for _, p := range scope.Subject.Points {
				known = append(known, p.Name)
			}
		}
		ok := scope.Subject != nil && scope.Derived != nil && scope.Derived(scope.Subject.ID, name) != nil
		for _, k := range known {
			ok = ok || k == name
		}
		if !ok {
			return nil, errorString("unknown {{" + name + "}}" + yamlfile.Suggest(name, known))
		}
		t = append(t, templatePart{literal: s[:i]}, templatePart{name: name})
		s = s[i+j+2:]
	}
	return append(t, templatePart{literal: s}), nil
}

// title renders an instance's title in both languages.
func (e *Engine) title(in *instance) telemetry.Text {
	return telemetry.Text{Zh: e.fill(in, in.prog.title[0], "zh"), En: e.fill(in, in.prog.title[1], "en")}
}

func (e *Engine) fill(in *instance, t template, lang string) string {
	out := ""
	for i, p := range t {
		if p.name == "" {
			if i > 0 && lang == "zh" {
				// A zone is often named after what it is: 东门消防通道 followed by 消防通道被占用 says it once.
				out = joinOverlap(out, p.literal)
			} else {
				out += p.literal
			}
			continue
		}
		if text := e.placeholder(in, p.name, lang); lang == "zh" && p.name == "device" {
			out = joinOverlap(out, text) // so is a device after where it is: 1号楼 followed by 1号楼单元门
		} else {
			out += text
		}
	}
	return strings.TrimSpace(out)
}

func (e *Engine) placeholder(in *instance, name, lang string) string {
	switch name {
	case "site":
		return e.inv.Title.In(lang)
	case "zone":
		if in.zone < 0 {
			return e.inv.Title.In(lang)
		}
		return e.inv.Zones[in.zone].Title.In(lang)
	case "place":
		if in.zone < 0 {
			return e.inv.Title.In(lang)
		}
		sep := ""
		if lang == "en" {
			sep = ", "
		}
		return strings.Join(e.inv.ZonePath(int(in.zone), lang), sep)
	case "device":
		return e.deviceTitle(int(in.device), lang)
	}
	b := e.explains(e.indexOf(in))
	class := e.inv.Devices[in.device].Class
	id, index, provided := e.pointID(b.Self(), name)
	var def *telemetry.PointDef
	switch {
	case index >= 0:
		def = &class.Points[index]
	case provided:
		def = e.inv.Points[id].Def
	default: // A derived point without a rule for this device.
		return formatValue(&expr.Cell{}, nil, lang)
	}
	return formatValue(b.cell(b.Self(), name), def, lang)
}

func (e *Engine) deviceTitle(device int, lang string) string {
	d := &e.inv.Devices[device]
	if d.Title.IsZero() {
		return d.ID
	}
	return d.Title.In(lang)
}

func (e *Engine) indexOf(in *instance) uint32 {
	i, _ := e.ofSubject(in.prog, e.subject(in))
	return i
}

// joinOverlap joins a and b; what a ends with and b begins with, at least two characters of it, is written once.
func joinOverlap(a, b string) string {
	for n := len(b); n > 0; n-- {
		head := b[:n]
		if !utf8.ValidString(head) {
			continue
		}
		if utf8.RuneCountInString(head) < 2 {
			break
		}
		if strings.HasSuffix(a, head) {
			return a + b[len(head):]
		}
	}
	return a + b
}
