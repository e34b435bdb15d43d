package rules

// usedName is a name that a rule of a pack uses.
type usedName struct {
	pack     *Pack
	name     string
	schedule bool // of a schedule; otherwise of a parameter
}

// unused warns of what is written and has no effect: whoever changes it would wonder.
func (c *compiler) unused() {
	for _, p := range c.cfg.Packs {
		for i := range p.params {
			if key := &p.params[i].Key; !c.used[usedName{p, key.Value, false}] {
				c.warnings.Addf(key.Pos, "no rule of pack %s uses parameter %s", p.ID, key.Value)
			}
		}
		for _, name := range sortedNames(p.Schedules) {
			if !c.used[usedName{p, name, true}] {
				c.warnings.Addf(p.Schedules[name].Pos, "no rule of pack %s asks for schedule %s", p.ID, name)
			}
		}
	}
	for _, p := range c.programs {
		window := longestWindow(p.cond)
		for _, s := range p.sev {
			window = max(window, longestWindow(s.cond))
		}
		if text := p.Rule.coverage; text.Text != "" && window == 0 {
			c.warnings.Addf(text.Pos, "coverage has no effect: %s has no window over time", p.Name())
		}
		if text := p.Rule.severityFor; text.Text != "" && len(p.sev) == 0 {
			c.warnings.Addf(text.Pos, "severity_for has no effect: %s has no severity_when", p.Name())
		}
	}
}
