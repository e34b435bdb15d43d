package site

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
	"linli/internal/yamlfile"
	"linli/rules"
)

// maxZoneDepth bounds how deep zones nest: community, building, unit, floor, flat and some to spare.
const maxZoneDepth = 8

// resolver turns a decoded file into a Site and collects what is wrong with it. Each of its steps goes on after a
// mistake, with as little as possible said twice.
type resolver struct {
	lib   *firmwareconfig.Library
	packs map[string]*rules.Pack
	file  siteFile
	start yamlfile.Pos // of the file, for mistakes that have no place of their own

	site *Site
	inv  *telemetry.Inventory
	// units are those declared, by id, with what is needed to bind their channels.
	units    map[string]*unitRef
	zoneList []string // ids, for suggestions

	// locks is what the file says about outputs that are never on together, before all of them are known.
	locks []lock

	// deadbands are the site's own by class and point.
	deadbands map[string]map[string]telemetry.Deadband

	errs, warnings yamlfile.Errors
	refused        map[yamlfile.Pos]bool // places where the decoder found a mistake already
	strange        map[yamlfile.Pos]bool // of those, keys that it does not know
	tree           *yamlfile.Node        // the file as written, nil where it is no YAML
	// unread are the keys whose contents are missing because of a mistake that has been told: zones, buses, units.
	unread map[string]bool
	// faulty are ids that were declared with a mistake, by kind: they are known, and nothing more is said of them.
	faulty map[string]map[string]bool
}

func (r *resolver) decode(src []byte) {
	r.start = yamlfile.Pos{File: r.site.File, Line: 1, Col: 1}
	err := yamlfile.Decode(r.site.File, src, &r.file)
	r.errs.Append(r.start, err)
	r.tree, _ = yamlfile.Parse(r.site.File, src) // its mistakes are told already
	// A key that is missing because it is misspelt has been told as that.
	r.errs = slices.DeleteFunc(r.errs, func(missing *yamlfile.Error) bool {
		n := mappingAt(r.tree, missing.Pos)
		return n != nil && slices.ContainsFunc(r.errs, func(e *yamlfile.Error) bool {
			return e.Near != "" && missing.Msg == fmt.Sprintf("missing key %q", e.Near) &&
				slices.ContainsFunc(n.Entries(), func(x yamlfile.Entry[*yamlfile.Node]) bool { return x.Key.Pos == e.Pos })
		})
	})
	for _, e := range r.errs {
		r.refused[e.Pos] = true
		r.strange[e.Pos] = r.strange[e.Pos] || strings.HasPrefix(e.Msg, "unknown key ")
		if e.Near != "" {
			r.unread[e.Near] = true
		}
	}
	if r.tree == nil {
		return
	}
	r.unreadIn(r.tree)
	if r.file.Pos.Line > 0 {
		r.start = r.file.Pos
	}
}

// unreadIn notes the keys whose contents the decoder refused, wherever they stand.
func (r *resolver) unreadIn(n *yamlfile.Node) {
	for _, item := range n.Items() {
		r.unreadIn(item)
	}
	for _, e := range n.Entries() {
		if r.refused[e.Value.Pos] && (e.Value.IsScalar() || e.Value.IsList() || e.Value.IsMap()) {
			r.unread[e.Key.Value] = true
		}
		r.unreadIn(e.Value)
	}
}

// failf reports a mistake at pos.
func (r *resolver) failf(pos yamlfile.Pos, format string, args ...any) {
	if pos.Line == 0 {
		pos = r.start
	}
	r.errs.Addf(pos, format, args...)
}

func (r *resolver) warnf(pos yamlfile.Pos, format string, args ...any) {
	if pos.Line == 0 {
		pos = r.start
	}
	r.warnings.Addf(pos, format, args...)
}

// present reports whether a value was written, and was what the decoder expects. What is not has been reported.
func present[T any](r *resolver, v yamlfile.At[T]) bool { return v.Pos.Line > 0 && !r.refused[v.Pos] }

// id checks an id and reports whether it can be used. An absent one has been reported by the decoder.
func (r *resolver) id(v yamlfile.At[string]) bool {
	if !present(r, v) {
		return false
	}
	if !validID(v.Value) {
		r.failf(v.Pos, "%q is no id: ids are a small letter, then up to 31 small letters, digits and _", v.Value)
		return false
	}
	return true
}

// newID checks an id that must be the first of its kind, and enters it in seen.
func (r *resolver) newID(what string, v yamlfile.At[string], seen map[string]yamlfile.Pos) bool {
	if !r.id(v) {
		r.faultyID(what, v)
		return false
	}
	if first, ok := seen[v.Value]; ok {
		r.failf(v.Pos, "%s %s exists already, in line %d", what, v.Value, first.Line)
		return false
	}
	seen[v.Value] = v.Pos
	return true
}

// troubled reports whether the decoder found a mistake within the mapping that stands at pos: what seems to be missing
// there may be what it could not read. That keys are missing is no such mistake.
func (r *resolver) troubled(pos yamlfile.Pos) bool {
	n := mappingAt(r.tree, pos)
	return n != nil && r.troubledIn(n)
}

func (r *resolver) troubledIn(n *yamlfile.Node) bool {
	for _, e := range n.Entries() {
		if r.strange[e.Key.Pos] || r.refused[e.Value.Pos] || r.troubledIn(e.Value) {
			return true
		}
	}
	return slices.ContainsFunc(n.Items(), func(item *yamlfile.Node) bool { return r.refused[item.Pos] || r.troubledIn(item) })
}

// strangeIn reports whether the mapping at pos itself has a key that the decoder does not know.
func (r *resolver) strangeIn(pos yamlfile.Pos) bool {
	n := mappingAt(r.tree, pos)
	return n != nil && slices.ContainsFunc(n.Entries(), func(e yamlfile.Entry[*yamlfile.Node]) bool { return r.strange[e.Key.Pos] })
}

// mappingAt returns the mapping that stands at pos, nil where there is none.
func mappingAt(n *yamlfile.Node, pos yamlfile.Pos) *yamlfile.Node {
	if n == nil || n.IsMap() && n.Pos == pos {
		return n
	}
	for _, item := range n.Items() {
		if found := mappingAt(item, pos); found != nil {
			return found
		}
	}
	for _, e := range n.Entries() {
		if found := mappingAt(e.Value, pos); found != nil {
			return found
		}
	}
	return nil
}

// faultyID notes an id that was declared but cannot be used.
func (r *resolver) faultyID(what string, v yamlfile.At[string]) {
	if r.faulty[what] == nil {
		r.faulty[what] = map[string]bool{}
	}
	r.faulty[what][v.Value] = true
}

// unknown reports a name that nothing declares, unless its declaration is what is wrong.
func (r *resolver) unknown(what string, v yamlfile.At[string], known []string, keys ...string) {
	for _, key := range keys {
		if r.unread[key] {
			return
		}
	}
	if !r.faulty[what][v.Value] {
		r.failf(v.Pos, "unknown %s %q%s", what, v.Value, orList(v.Value, known))
	}
}

func validID(s string) bool {
	if len(s) == 0 || len(s) > 32 || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return true
}

// choice checks a value against a short list. An absent one is fine.
func (r *resolver) choice(what string, v yamlfile.At[string], list []string) bool {
	if !present(r, v) {
		return false
	}
	if !slices.Contains(list, v.Value) {
		r.failf(v.Pos, "unknown %s %q%s (%s)", what, v.Value, yamlfile.Suggest(v.Value, list), strings.Join(list, ", "))
		return false
	}
	return true
}

// among checks a time against its bounds, and returns def where it is absent or wrong.
func (r *resolver) among(what string, v yamlfile.At[time.Duration], def, least, most time.Duration) time.Duration {
	if !present(r, v) {
		return def
	}
	if v.Value < least || v.Value > most {
		r.failf(v.Pos, "%s is %s to %s, not %s", what, durationText(least), durationText(most), durationText(v.Value))
		return def
	}
	return v.Value
}

// path returns a path of the file as the gateway opens it: relative ones start at the file's folder.
func (r *resolver) path(v yamlfile.At[string]) string {
	if !present(r, v) {
		return ""
	}
	if v.Value == "" || strings.ContainsRune(v.Value, 0) {
		r.failf(v.Pos, "%q is no path", v.Value)
		return ""
	}
	if filepath.IsAbs(v.Value) {
		return filepath.Clean(v.Value)
	}
	return filepath.Join(filepath.Dir(r.site.File), v.Value)
}

// orList returns a suggestion for name, or the list of what is known where that is short.
func orList(name string, known []string) string {
	if s := yamlfile.Suggest(name, known); s != "" || len(known) == 0 || len(known) > 16 {
		return s
	}
	return " (known: " + strings.Join(known, ", ") + ")"
}

func sortedKeys[T any](m map[string]T) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (r *resolver) head() {
	f := &r.file
	if present(r, f.Version) && f.Version.Value != 1 {
		r.failf(f.Version.Pos, "version %d is not known: this program reads version 1", f.Version.Value)
	}
	r.id(f.Site)
	r.inv.Site, r.inv.Gateway = f.Site.Value, "gw1"
	if r.id(f.Gateway) {
		r.inv.Gateway = f.Gateway.Value
	}
	r.inv.Title = textOr(f.Title, telemetry.Text{Zh: f.Site.Value, En: f.Site.Value})
	r.inv.Place = telemetry.Place(f.Place)
	r.inv.Location = r.location()
	r.site.State = r.path(f.State)
	if present(r, f.DryRun) && f.DryRun.Value {
		r.site.DryRun = true
		r.warnf(f.DryRun.Pos, "dry_run: no rule commands an output, sirens and door releases included; what they want is only recorded")
	}
}

// location returns the site's time zone. Go's names "" and "Local" mean whatever the box happens to be set to, so
// they are no answer here.
func (r *resolver) location() *time.Location {
	name := "Asia/Shanghai"
	if v := r.file.Timezone; present(r, v) {
		name = v.Value
	}
	loc, err := time.LoadLocation(name)
	if err != nil || name == "" || name == "Local" {
		r.failf(r.file.Timezone.Pos, "unknown time zone %q: write its IANA name, as Asia/Shanghai", name)
		return time.UTC
	}
	return loc
}

// zones adds zones and what lies in them, parents first. A zone that cannot be added does not hide its own zones.
func (r *resolver) zones() {
	seen := map[string]yamlfile.Pos{}
	var walk func(list []zone, parent, depth int)
	walk = func(list []zone, parent, depth int) {
		for i := range list {
			z := &list[i]
			if depth > maxZoneDepth {
				r.failf(z.Pos, "zones nest at most %d deep", maxZoneDepth)
				r.unread["zones"] = true
				return
			}
			r.choice("kind of zone", z.Kind, choices[zone]("kind"))
			index := parent
			if r.newID("zone", z.ID, seen) {
				index = r.inv.AddZone(telemetry.Zone{
					ID: z.ID.Value, Parent: parent, Kind: z.Kind.Value,
					Title: textOr(z.Title, telemetry.Text{Zh: z.ID.Value, En: z.ID.Value}),
				})
				r.zoneList = append(r.zoneList, z.ID.Value)
			}
			walk(z.Zones, index, depth+1)
		}
	}
	walk(r.file.Zones, -1, 1)
}

// textOr returns t, or def where it is empty in both languages.
func textOr(t yamlfile.Text, def telemetry.Text) telemetry.Text {
	if t.IsZero() {
		return def
	}
	return t.Text
}

// missing warns of what a complete file has and this one does not.
func (r *resolver) missing() {
	for i := range r.file.Buses {
		for j := range r.file.Buses[i].Units {
			u := &r.file.Buses[i].Units[j]
			if ref := r.units[u.ID.Value]; ref != nil && !ref.used {
				r.warnf(u.Pos, "nothing uses unit %s: it is read by nobody", ref.id)
			}
		}
		b := &r.file.Buses[i]
		if ref := r.units[b.ID.Value]; given(b.GPIO.Pos) && ref != nil {
			for channel, l := range ref.gpio {
				if !ref.bound[channel] {
					r.warnf(l.Pos, "nothing uses line %s.%s", ref.id, l.ID.Value)
				}
			}
		}
		switch {
		case given(b.GPIO.Pos) && len(b.Lines) == 0:
			r.warnf(b.Pos, "bus %s has no lines", b.ID.Value)
		case !given(b.GPIO.Pos) && len(b.Units) == 0:
			r.warnf(b.Pos, "bus %s has no units", b.ID.Value)
		}
	}
	if len(r.file.Devices) == 0 {
		r.warnf(r.start, "the site has no devices")
	}
	if len(r.site.Packs) == 0 {
		r.warnf(r.start, "no rule packs are named: this box raises no alert")
	}
}
