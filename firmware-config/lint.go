package firmwareconfig

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"linli/internal/yamlfile"
)

// Lint returns what is allowed in the profiles named by ids and yet probably not meant, or not good enough for a
// site: sorted by place. What is wrong is told by Load.
func (lib *Library) Lint(ids ...string) yamlfile.Errors {
	n := linter{lib: lib}
	for _, id := range ids {
		if p := lib.Profiles[id]; p != nil {
			n.profile(p)
		}
	}
	var sorted yamlfile.Errors
	if err, ok := n.found.Err().(yamlfile.Errors); ok {
		sorted = err
	}
	return sorted
}

type linter struct {
	lib   *Library
	found yamlfile.Errors
}

func (n *linter) profile(p *Profile) {
	at := n.lib.places[p.ID]
	if len(p.Sources) == 0 || slices.ContainsFunc(p.Sources, func(s string) bool { return strings.TrimSpace(s) == "" }) {
		n.found.Addf(at, "%s: no source says where the register facts come from", p.ID)
	}
	if p.Address > 247 {
		n.found.Addf(at, "%s: the factory address %d lies outside 1 to 247; some gateways on the way refuse it", p.ID, p.Address)
	}
	if p.Status == "confirmed" && !slices.ContainsFunc(p.Golden, func(g Golden) bool { return g.Response != nil }) {
		n.found.Addf(at, "%s: confirmed, but no golden frame with its response shows it", p.ID)
	}
	if len(p.Signature) == 0 && p.DeviceID == nil {
		what := "a scan cannot tell the model"
		if len(p.Params) > 0 {
			what += ", and settings are written without being sure of it"
		}
		n.found.Addf(at, "%s: no signature: %s", p.ID, what)
	}
	n.lookAlikes(p)
	var untitled, unbounded []string
	for i := range p.Channels {
		ch := &p.Channels[i]
		if ch.Title.Zh == "" || ch.Title.En == "" {
			untitled = append(untitled, ch.Name)
		}
		if measures(ch) && (ch.Min == nil || ch.Max == nil) {
			unbounded = append(unbounded, ch.Name)
		}
		n.channel(p, ch)
	}
	if len(untitled) > 0 {
		n.found.Addf(n.lib.places[p.ID+"."+untitled[0]], "%s: no title for %s", p.ID, shorten(untitled))
	}
	if len(unbounded) > 0 {
		n.found.Addf(n.lib.places[p.ID+"."+unbounded[0]], "%s: no measuring range (min, max) for %s: nonsense is passed on as a value", p.ID, shorten(unbounded))
	}
	for i := range p.Params {
		n.param(p, &p.Params[i])
	}
}

// measures reports whether a channel is a measurement, of which a range is to be expected.
func measures(ch *Channel) bool {
	switch ch.Encoding {
	case EncBool, EncString:
		return false
	}
	return ch.Unit != "" && !ch.Counter && !ch.Writable
}

func (n *linter) lookAlikes(p *Profile) {
	at := n.lib.places[p.ID]
	for _, id := range p.LookAlikes {
		switch other := n.lib.Profiles[id]; {
		case other == nil && !n.lib.Faulty[id]:
			var known []string
			for k := range n.lib.Profiles {
				known = append(known, k)
			}
			slices.Sort(known)
			n.found.Addf(at, "%s: there is no look-alike %q%s", p.ID, id, yamlfile.Suggest(id, known))
		case other != nil && !slices.Contains(other.LookAlikes, p.ID):
			n.found.Addf(at, "%s: %s does not name it as a look-alike in its turn", p.ID, id)
		}
	}
	if len(p.LookAlikes) > 0 && len(p.Signature) == 0 && p.DeviceID == nil && len(p.Params) > 0 {
		n.found.Addf(at, "%s: without a signature nothing tells it from %s: its settings will never be written", p.ID, strings.Join(p.LookAlikes, ", "))
	}
}

func (n *linter) channel(p *Profile, ch *Channel) {
	at := n.lib.places[p.ID+"."+ch.Name]
	if ch.Counter && ch.Encoding == EncF32 {
		n.found.Addf(at, "%s.%s: a counter in an f32 loses single units above 16,777,216: do not take differences of it there", p.ID, ch.Name)
	}
	if ch.Min == nil || ch.Max == nil || ch.ScaleFrom != nil {
		return
	}
	as := Param{Channel: *ch}
	for _, raw := range ch.Invalid {
		if ch.Width > 0 && raw >= 1<<ch.Width {
			continue
		}
		x, ok := as.decode(raw)
		if !ok {
			continue
		}
		v, _ := x.Float64()
		v = v*ch.Scale + ch.Offset
		if v >= *ch.Min && v <= *ch.Max && !math.IsInf(v, 0) {
			n.found.Addf(at, "%s.%s: the invalid value 0x%X would be %v%s, which lies within the range: a real reading may be taken for a failure",
				p.ID, ch.Name, raw, v, unitSuffix(ch.Unit))
		}
	}
}

func (n *linter) param(p *Profile, m *Param) {
	at := n.lib.places[p.ID+":"+m.Name]
	if len(m.Values) == 0 && m.Encoding != EncBool && !m.WriteOnly && (m.Min == nil || m.Max == nil) {
		n.found.Addf(at, "%s: setting %s has neither a range nor values: whatever fits into its register would be written", p.ID, m.Name)
	}
}

// shorten joins names, the first five of them.
func shorten(names []string) string {
	if len(names) > 5 {
		return strings.Join(names[:4], ", ") + fmt.Sprintf(" and %d more", len(names)-4)
	}
	return strings.Join(names, ", ")
}
