package site

import (
	"cmp"
	"slices"
	"strings"
	"time"

	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// What the Modbus driver does where nothing else is said; see its Config.Timeout and the profiles' Channel.Every.
const (
	defaultTimeout = 300 * time.Millisecond
	everyLife      = time.Second
	everyOther     = 5 * time.Second
	// holdMost is the longest that one transaction may hold a bus that life-safety points share with other units.
	holdMost = 300 * time.Millisecond
)

// timing warns of times that do not go together: a timeout that is cut short, or longer than what it delays.
func (r *resolver) timing() {
	for i := range r.site.Buses {
		if b := &r.site.Buses[i]; b.Transport != GPIO && i < len(r.file.Buses) {
			r.busTiming(b, &r.file.Buses[i])
		}
	}
}

func (r *resolver) busTiming(b *Bus, f *bus) {
	life := false
	for i := range b.Units {
		for _, bind := range b.Units[i].Bindings {
			life = life || bind.Def.LifeSafety
		}
	}
	cut := life && len(b.Units) > 1
	if cut && b.Timeout > holdMost {
		r.warnf(f.Timeout.Pos, "a timeout of %s is cut to %s: life-safety points share this bus with other units, and no transaction may hold it longer. Give slow units a bus of their own",
			durationText(b.Timeout), durationText(holdMost))
	}
	if cut && b.Timeout == 0 {
		for i := range b.Units {
			u := &b.Units[i]
			if u.Profile == nil || len(u.Bindings) == 0 || u.Profile.Timing.Timeout <= holdMost {
				continue
			}
			r.warnf(r.unitPos(f, u.ID), "%s may take %s to answer, and is given %s here: life-safety points share this bus, and no transaction may hold it longer. Where it needs the time it will not be read: put it on a bus of its own",
				u.Profile.ID, durationText(u.Profile.Timing.Timeout), durationText(holdMost))
		}
	}
	for i := range b.Units {
		u := &b.Units[i]
		if u.Profile == nil || len(u.Bindings) == 0 {
			continue
		}
		timeout := cmp.Or(b.Timeout, u.Profile.Timing.Timeout, defaultTimeout)
		if cut {
			timeout = min(timeout, holdMost)
		}
		channel, every := shortest(u)
		if timeout <= every {
			continue
		}
		pos := f.Timeout.Pos
		if b.Timeout == 0 {
			pos = r.unitPos(f, u.ID)
		}
		r.warnf(pos, "a timeout of %s is longer than the interval of %s.%s (%s): one answer that stays away makes the next readings late",
			durationText(timeout), u.ID, channel, durationText(every))
		return
	}
}

// unproven warns, once a unit, of points that rest on registers which nobody has seen right on a unit: of all that are
// unverified, and of life-safety points also where they are known in part.
func (r *resolver) unproven() {
	for i := range r.site.Buses {
		b := &r.site.Buses[i]
		if b.Transport == GPIO || i >= len(r.file.Buses) {
			continue
		}
		for j := range b.Units {
			u := &b.Units[j]
			var channels []string
			for _, bind := range u.Bindings {
				ch := &u.Profile.Channels[bind.Channel]
				status := cmp.Or(ch.Status, u.Profile.Status)
				if (status == "unverified" || status == "partial" && bind.Def.LifeSafety) && !slices.Contains(channels, ch.Name) {
					channels = append(channels, ch.Name)
				}
			}
			if len(channels) > 0 {
				r.warnf(r.unitPos(&r.file.Buses[i], u.ID), "not proven on a real %s yet: %s. Compare with a second instrument, or trigger it, before anybody relies on it",
					u.Profile.ID, strings.Join(channels, ", "))
			}
		}
	}
}

// shortest returns the channel of a unit that is read most often, and its interval.
func shortest(u *firmwareconfig.Unit) (channel string, every time.Duration) {
	for _, bind := range u.Bindings {
		ch := &u.Profile.Channels[bind.Channel]
		e := cmp.Or(ch.Every, everyOf(bind.Def))
		if every == 0 || e < every {
			channel, every = ch.Name, e
		}
	}
	return channel, every
}

func everyOf(def *telemetry.PointDef) time.Duration {
	if def.LifeSafety {
		return everyLife
	}
	return everyOther
}
