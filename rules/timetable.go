package rules

import (
	"slices"
	"strings"
	"time"

	"linli/internal/telemetry"
	"linli/internal/yamlfile"
	"linli/rules/expr"
)

// Bounds of schedules.
const (
	maxScheduleEntries = 64
	minutesOfDay       = 24 * 60
)

// Schedule is times with a name: times of day on days of the week, and single stretches of local time. Packs declare
// them with defaults, the site file overrides those and adds its own. A Schedule is read-only. The zero Schedule is
// never.
type Schedule struct {
	Pos     yamlfile.Pos // of its name
	periods []period
}

// ScheduleEntry is one entry of a schedule as files have it.
type ScheduleEntry struct {
	Pos   yamlfile.Pos          `yaml:",pos"`
	Days  []yamlfile.At[string] `yaml:"days" enum:"mon,tue,wed,thu,fri,sat,sun,workdays,weekends" doc:"Days of the week on which it begins; workdays are mon to fri, weekends sat and sun. Default: every day."`
	From  yamlfile.At[string]   `yaml:"from" doc:"Local time of day, as 06:30, or day and time, as 2026-05-04 08:00. Default: the whole day."`
	To    yamlfile.At[string]   `yaml:"to" doc:"Up to when, written as from; a time of day earlier than from is one of the next day, 24:00 is the end of the day."`
	Zones []yamlfile.At[string] `yaml:"zones" pattern:"id" doc:"Only for what lies in these zones. Default: everywhere."`
}

// period is a checked entry.
type period struct {
	days       uint8 // bit 0 is Monday
	from, to   int   // minutes of the day
	once       bool  // from begin to end instead
	begin, end time.Time
	zones      []yamlfile.At[string]
}

// everyDay is the set of all days.
const everyDay = 1<<7 - 1

var dayNames = [...]string{"mon", "tue", "wed", "thu", "fri", "sat", "sun", "workdays", "weekends"}

// NewSchedule checks the entries of the schedule whose name stands at pos. The error is yamlfile.Errors; beside it the
// Schedule holds the entries that are right. Zones are not checked: only who knows the inventory can.
func NewSchedule(pos yamlfile.Pos, entries []ScheduleEntry) (Schedule, error) {
	s := Schedule{Pos: pos}
	var errs yamlfile.Errors
	if len(entries) > maxScheduleEntries {
		errs.Addf(pos, "a schedule has at most %d entries, this one has %d", maxScheduleEntries, len(entries))
		entries = nil
	}
	for i := range entries {
		before := len(errs)
		p := entries[i].period(&errs)
		if len(errs) == before {
			s.periods = append(s.periods, p)
		}
	}
	return s, errs.Err()
}

func (f *ScheduleEntry) period(errs *yamlfile.Errors) period {
	p := period{days: everyDay, to: minutesOfDay, zones: f.Zones}
	if len(f.Days) > 0 {
		p.days = 0
	}
	for _, d := range f.Days {
		i := slices.Index(dayNames[:], d.Value)
		switch {
		case i < 0:
			errs.Addf(d.Pos, "unknown day %q%s (%s)", d.Value, yamlfile.Suggest(d.Value, dayNames[:]), strings.Join(dayNames[:], ", "))
		case i < 7:
			p.days |= 1 << i
		case d.Value == "workdays":
			p.days |= 1<<5 - 1
		default:
			p.days |= 1<<5 | 1<<6
		}
	}
	given := func(v yamlfile.At[string]) bool { return v.Pos.Line > 0 }
	switch from, to := given(f.From), given(f.To); {
	case !from && !to:
		return p
	case !from:
		errs.Addf(f.To.Pos, "`to` needs a `from`")
		return p
	case !to:
		errs.Addf(f.From.Pos, "`from` needs a `to`, as {from: \"06:30\", to: \"24:00\"}")
		return p
	}
	begin, onceFrom := date(f.From.Value)
	end, onceTo := date(f.To.Value)
	if onceFrom || onceTo {
		p.once, p.begin, p.end = true, begin, end
		switch {
		case onceFrom != onceTo:
			errs.Addf(f.Pos, "`from` and `to` are either both times of day, or both day and time, as \"2026-05-04 08:00\"")
		case !end.After(begin):
			errs.Addf(f.To.Pos, "it ends before it begins")
		case len(f.Days) > 0:
			errs.Addf(f.Days[0].Pos, "an entry with dates has no `days`")
		}
		return p
	}
	var ok1, ok2 bool
	p.from, ok1 = minuteOf(f.From.Value)
	p.to, ok2 = minuteOf(f.To.Value)
	const want = "%q is neither a time of day (\"06:30\") nor a day and time (\"2026-05-04 08:00\")"
	switch {
	case !ok1 || p.from == minutesOfDay:
		errs.Addf(f.From.Pos, want, f.From.Value)
	case !ok2:
		errs.Addf(f.To.Pos, want, f.To.Value)
	case p.from == p.to:
		errs.Addf(f.To.Pos, "`from` and `to` are the same: a whole day is from \"00:00\" to \"24:00\", or without both")
	}
	return p
}

// date parses a local date and time; the result is in UTC and stands for local time.
func date(s string) (time.Time, bool) {
	t, err := time.Parse("2006-01-02 15:04", s)
	return t, err == nil
}

// minuteOf parses a time of day, 24:00 included.
func minuteOf(s string) (int, bool) {
	if s == "24:00" {
		return minutesOfDay, true
	}
	t, err := time.Parse("15:04", s)
	return t.Hour()*60 + t.Minute(), err == nil
}

// open reports whether a period of every week holds at a local time.
func (p *period) open(t time.Time) bool {
	day := uint(t.Weekday()+6) % 7
	minute := t.Hour()*60 + t.Minute()
	today := p.days>>day&1 != 0
	if p.from < p.to {
		return today && p.from <= minute && minute < p.to
	}
	yesterday := p.days>>((day+6)%7)&1 != 0
	return today && minute >= p.from || yesterday && minute < p.to
}

// always reports whether a period never ends.
func (p *period) always() bool {
	return !p.once && p.days == everyDay && p.from == 0 && p.to == minutesOfDay
}

// bind prepares the schedule for what lies in zone.
func (s Schedule) bind(inv *telemetry.Inventory, zone int, loc *time.Location) expr.Schedule {
	var list []period
	for _, p := range s.periods {
		here := len(p.zones) == 0 || slices.ContainsFunc(p.zones, func(id yamlfile.At[string]) bool {
			z, ok := inv.ZoneByID(id.Value)
			return ok && inv.InZone(zone, z)
		})
		switch {
		case !here:
			continue
		case p.always():
			return expr.Schedule{Fixed: true}
		case p.once:
			p.begin, p.end = inPlace(p.begin, loc), inPlace(p.end, loc)
		}
		list = append(list, p)
	}
	if len(list) == 0 {
		return expr.Schedule{}
	}
	return expr.Schedule{
		Open: func(t time.Time) bool {
			for i := range list {
				if p := &list[i]; p.once && !t.Before(p.begin) && t.Before(p.end) || !p.once && p.open(t) {
					return true
				}
			}
			return false
		},
		Next: func(t time.Time) time.Time {
			next := t.AddDate(1, 0, 0) // long after everything else
			sooner := func(at time.Time) {
				if at.After(t) && at.Before(next) {
					next = at
				}
			}
			for i := range list {
				if p := &list[i]; p.once {
					sooner(p.begin)
					sooner(p.end)
				} else {
					sooner(expr.NextTimeOfDay(t, p.from))
					sooner(expr.NextTimeOfDay(t, p.to))
				}
			}
			return next
		},
	}
}

// inPlace returns the moment at which local clocks in loc show what t shows.
func inPlace(t time.Time, loc *time.Location) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), 0, 0, loc)
}

// Zones calls f for every zone that the schedule names.
func (s Schedule) Zones(f func(zone yamlfile.At[string])) {
	for _, p := range s.periods {
		for _, z := range p.zones {
			f(z)
		}
	}
}

// schedules checks the pack's schedules. One with mistakes is known by its name.
func (p *Pack) schedules(list yamlfile.Map[[]ScheduleEntry], errs *yamlfile.Errors) {
	p.Schedules = make(map[string]Schedule, len(list))
	for _, e := range list {
		if !validID(e.Key.Value) {
			errs.Addf(e.Key.Pos, "%q is not a name for a schedule: small letters, digits and _, at most 32", e.Key.Value)
		}
		s, err := NewSchedule(e.Key.Pos, e.Value)
		errs.Append(e.Key.Pos, err)
		p.Schedules[e.Key.Value] = s
	}
}
