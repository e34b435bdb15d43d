package alert

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"linli/internal/telemetry"
)

// clockEvery is how often Run looks whether the clock has been set, where a time waits for that.
const clockEvery = time.Second

// moment returns the time of m. While the clock is not set that is the time since boot, counted from 1970, which
// unset recognises and putRight can put right.
func moment(now telemetry.Now, m telemetry.Mono) time.Time {
	at, ok := now.WallAt(m)
	if !ok {
		at = time.Unix(0, int64(m))
	}
	return stamp(at)
}

// unset reports whether t was taken while the clock was not set.
func unset(t time.Time) bool { return !t.IsZero() && t.Year() < 2000 }

// now returns the present moment.
func (b *Book) now() telemetry.Now {
	if b.cfg.Clock == nil {
		return telemetry.Now{Wall: time.Now()}
	}
	return b.cfg.Clock.Now()
}

// boot identifies this boot of the box; "" where that is not known.
func (b *Book) boot() string {
	if b.cfg.Clock == nil {
		return ""
	}
	return b.cfg.Clock.Boot
}

// putRight gives every open alert the right times once the clock has been set, where this boot took them before, and
// says so as a transition. It reports whether there is something to wait for.
func (b *Book) putRight() (waiting bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.unset {
		return false
	}
	now := b.now()
	if now.Wall.IsZero() {
		return true
	}
	b.unset = false
	for _, r := range slices.SortedFunc(maps.Values(b.open), func(x, y *record) int { return cmp.Compare(x.head.ID, y.head.ID) }) {
		if r.putRight(now, b.boot()) {
			_, _ = b.apply(r, command{op: opClockSet, at: stamp(now.Wall), by: ByClock}) // It has no errors.
			r.rewrite = r.head.Revision
		}
	}
	return false
}

// ofBoot reports whether a line of r waits for the clock of that boot.
func (r *record) ofBoot(boot string) bool {
	return boot != "" && slices.ContainsFunc(r.lines, func(m mark) bool { return m.TimeUncertain && m.boot == boot })
}

// putRight puts the times of r right that boot took, and reports whether there were any. Those of other boots stay.
func (r *record) putRight(now telemetry.Now, boot string) bool {
	if !r.ofBoot(boot) {
		return false
	}
	lost := map[time.Time]bool{}
	for i := range r.lines {
		switch e := &r.lines[i].Entry; {
		case !e.TimeUncertain:
		case e.boot != boot:
			lost[e.Time] = true
		default:
			e.Time, e.TimeUncertain, e.boot = moment(now, telemetry.Mono(e.Time.UnixNano())), false, ""
		}
	}
	a := &r.head
	a.TimeUncertain = len(lost) > 0
	for _, t := range []*time.Time{&a.RaisedAt, &a.AcknowledgedAt, &a.ReturnedAt, &a.ClosedAt} {
		if unset(*t) && !lost[*t] {
			*t = moment(now, telemetry.Mono(t.UnixNano()))
		}
	}
	return true
}
