package rules

import (
	"strings"

	"linli/internal/yamlfile"
	"linli/rules/expr"
)

// paramDef is a parameter of a pack: its default, and within what a site may set it.
type paramDef struct {
	param          // the default
	Min, Max param // empty: no bound
}

// UnmarshalYAMLFile takes the default alone, or {default: 90, min: 1, max: 100}.
func (p *paramDef) UnmarshalYAMLFile(n *yamlfile.Node) error {
	if n.IsScalar() {
		return p.param.UnmarshalYAMLFile(n)
	}
	var m struct {
		Default param `yaml:"default,required"`
		Min     param `yaml:"min"`
		Max     param `yaml:"max"`
	}
	err := n.Decode(&m)
	p.param, p.Min, p.Max = m.Default, m.Min, m.Max
	if p.Pos.Line == 0 {
		p.Pos = n.Pos
	}
	return err
}

// ParamNames returns the names of the pack's parameters with their defaults as written.
func (p *Pack) ParamNames() map[string]string {
	m := make(map[string]string, len(p.params))
	for _, e := range p.params {
		m[e.Key.Value] = e.Value.Text
	}
	return m
}

// CheckParam reports whether value may be given to the pack's parameter name: the parameter must exist, and the
// value must be of the sort of the default (a number, a duration, or a text) and within the bounds that the pack
// sets.
func (p *Pack) CheckParam(name, value string) error {
	def, ok := p.params.Get(name)
	if !ok {
		if p.paramsUnread {
			return nil
		}
		names := make([]string, len(p.params))
		for i, e := range p.params {
			names[i] = e.Key.Value
		}
		return errorString("pack " + p.ID + " has no parameter " + name + yamlfile.Suggest(name, names))
	}
	want, got := expr.Literal(def.Text), expr.Literal(value)
	if want.Type != got.Type {
		said := "parameter " + name + " of pack " + p.ID + " is " + want.Type.String() + " (default " + def.Text + "), but "
		if strings.HasPrefix(value, "-") && expr.Literal(value[1:]).Type == want.Type {
			return errorString(said + value + " is negative")
		}
		if want.Type == expr.TypeDuration && got.Type == expr.TypeText {
			if _, err := expr.ParseDuration(value); err != nil {
				return errorString(said + err.Error())
			}
		}
		return errorString(said + value + " is " + got.Type.String())
	}
	if low, high := def.beyond(value); low || high {
		return errorString("parameter " + name + " of pack " + p.ID + " is " + def.bounds() + ", not " + value)
	}
	return nil
}

// beyond reports whether value, of the sort of the default, is below or above what is allowed.
func (p *paramDef) beyond(value string) (low, high bool) {
	v := expr.Literal(value).Num
	return p.Min.Text != "" && v < expr.Literal(p.Min.Text).Num, p.Max.Text != "" && v > expr.Literal(p.Max.Text).Num
}

// bounds says in words what is allowed.
func (p *paramDef) bounds() string {
	switch {
	case p.Max.Text == "":
		return "at least " + p.Min.Text
	case p.Min.Text == "":
		return "at most " + p.Max.Text
	}
	return p.Min.Text + " to " + p.Max.Text
}

// check finds bounds that are of another sort than the default, or exclude it.
func (p *paramDef) check(errs *yamlfile.Errors) {
	sort := expr.Literal(p.Text).Type
	for _, b := range []*param{&p.Min, &p.Max} {
		switch {
		case b.Text == "":
			continue
		case p.Text == "":
		case sort != expr.TypeNumber && sort != expr.TypeDuration:
			errs.Addf(b.Pos, "only numbers and durations have bounds, the default is %s", sort)
		case expr.Literal(b.Text).Type != sort:
			errs.Addf(b.Pos, "the default %s is %s, but %s is %s", p.Text, sort, b.Text, expr.Literal(b.Text).Type)
		default:
			continue
		}
		*b = param{}
	}
	if low, high := p.beyond(p.Text); low || high {
		errs.Addf(p.Pos, "the default %s is not within its own bounds: %s", p.Text, p.bounds())
	}
}
