package backtest

import (
	"cmp"
	"slices"
	"time"

	"linli/internal/telemetry"
	"linli/rules"
)

const (
	// leastTolerance is how far apart two transitions may be at least to count as one that has moved.
	leastTolerance = 10 * time.Minute
	// unsetTolerance is how exactly the time of a transition is known that happened while the clock was not set.
	unsetTolerance = 2 * time.Millisecond
)

// comparison holds the replay against the record.
type comparison struct {
	report  *Report
	cfg     *Config
	offsets map[string]time.Duration
	engine  *rules.Engine // nil where nothing was replayed
}

// key is what two transitions must have in common to be one.
type key struct {
	telemetry.Identity
	op telemetry.TransitionOp
}

func (c *comparison) compare(heard []line) {
	recorded := make(map[key][]line, len(c.cfg.Recorded))
	var keys []key
	add := func(m map[key][]line, l line) {
		k := key{l.Identity, l.Op}
		if m[k] == nil {
			keys = append(keys, k)
		}
		m[k] = append(m[k], l)
	}
	gone := map[string]bool{}
	for _, l := range c.cfg.Recorded {
		switch at, ok := c.place(&l); {
		case l.Op == 0:
		case !ok:
			c.report.NotPlaced++
		case !c.cfg.Subject(l.Subject):
			if c.within(at) && !gone[l.Subject] {
				gone[l.Subject] = true
				c.report.GoneSubjects = append(c.report.GoneSubjects, l.Subject)
			}
		default:
			unset := l.Boot != ""
			l.Time, l.Boot = at, ""
			r := line{Line: l}
			if unset {
				r.boot = "?"
			}
			add(recorded, r)
		}
	}
	said := map[key][]line{}
	for _, l := range heard {
		if l.Time.IsZero() {
			offset, ok := c.offsets[l.boot]
			if !ok {
				c.report.NotPlaced++
				continue
			}
			l.Time = stamp(time.Unix(0, int64(l.mono)).Add(offset))
			l.boot = "?"
		} else {
			l.boot = ""
		}
		add(said, l)
	}
	slices.Sort(c.report.GoneSubjects)
	slices.SortFunc(keys, func(x, y key) int {
		return cmp.Or(cmp.Compare(x.Alert, y.Alert), cmp.Compare(x.Subject, y.Subject), cmp.Compare(x.op, y.op))
	})
	for _, k := range slices.Compact(keys) {
		c.pair(k, recorded[k], said[k])
	}
	c.report.finish()
}

// place returns the time of a recorded line on the wall clock, false where nobody knows it.
func (c *comparison) place(l *Line) (time.Time, bool) {
	if l.Boot == "" {
		return l.Time, true
	}
	offset, ok := c.offsets[l.Boot]
	return stamp(l.Time.Add(offset)), ok
}

func (c *comparison) within(t time.Time) bool {
	return !t.Before(c.report.Since) && !t.After(c.report.Until)
}

// pair finds out what has become of each transition of one sort.
func (c *comparison) pair(k key, recorded, said []line) {
	byTime := func(x, y line) int { return x.Time.Compare(y.Time) }
	slices.SortStableFunc(recorded, byTime)
	slices.SortStableFunc(said, byTime)
	// First those that are the same, so that one that is gone does not move all that follow.
	i, j := 0, 0
	var r, s []line
	for i < len(recorded) && j < len(said) {
		d := said[j].Time.Sub(recorded[i].Time)
		switch exact := recorded[i].boot == "" && said[j].boot == ""; {
		case d == 0 || !exact && d.Abs() <= unsetTolerance:
			c.same(&recorded[i], &said[j])
			i, j = i+1, j+1
		case d > 0:
			r, i = append(r, recorded[i]), i+1
		default:
			s, j = append(s, said[j]), j+1
		}
	}
	r, s = append(r, recorded[i:]...), append(s, said[j:]...)
	tolerance := leastTolerance
	if c.engine != nil {
		tolerance = max(tolerance, 2*c.engine.Wait(k.Alert))
	}
	i, j = 0, 0
	for i < len(r) || j < len(s) {
		switch {
		case i < len(r) && j < len(s) && s[j].Time.Sub(r[i].Time).Abs() <= tolerance:
			c.row(Moved, &r[i], &s[j])
			i, j = i+1, j+1
		case j == len(s) || i < len(r) && r[i].Time.Before(s[j].Time):
			c.row(Vanishes, &r[i], nil)
			i++
		default:
			c.row(Appears, nil, &s[j])
			j++
		}
	}
}

// same counts a transition that is in both at the same moment.
func (c *comparison) same(r, s *line) {
	graded := r.Op == telemetry.Raise || r.Op == telemetry.Changed
	if graded && r.Severity != 0 && r.Severity != s.Severity {
		c.row(Regraded, r, s)
		return
	}
	if c.within(r.Time) {
		c.report.Same++
		c.report.group(r.Alert).count(r.Op, true, true).Same++
	}
}

// row takes down a difference. r is the recorded transition, s the replay's; one of them may be nil.
func (c *comparison) row(kind RowKind, r, s *line) {
	row := Row{Kind: kind}
	inside, excused := false, false
	for _, l := range []*line{r, s} {
		if l == nil {
			continue
		}
		inside = inside || c.within(l.Time)
		excused = excused || c.excused(l)
		row.Identity, row.Op, row.Title = l.Identity, l.Op, l.Title
	}
	if !inside {
		return
	}
	if excused {
		c.report.NotCompared++
		return
	}
	if r != nil {
		row.Recorded, row.RecordedSeverity = r.Time, r.Severity
		if !r.Title.IsZero() {
			row.Title = r.Title
		}
	}
	if s != nil {
		row.Now, row.NowSeverity = s.Time, s.Severity
	}
	c.report.Rows = append(c.report.Rows, row)
	g := c.report.group(row.Alert).count(row.Op, r != nil, s != nil)
	switch kind {
	case Moved:
		g.Moved++
	case Vanishes:
		g.Vanish++
	case Appears:
		g.Appear++
	case Regraded:
		g.Regraded++
	}
}

// excused reports whether a transition cannot be compared: the journal lacks what led to it, or the record what was said.
func (c *comparison) excused(l *line) bool {
	for i := range c.report.Gaps {
		if c.report.Gaps[i].lacks(l.Time) {
			return true
		}
	}
	for _, s := range c.cfg.Forgotten[l.Identity] {
		if s.holds(l.Time) {
			return true
		}
	}
	return false
}
