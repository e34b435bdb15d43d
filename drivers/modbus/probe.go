package modbus

import (
	"slices"
	"time"

	"linli/internal/telemetry"
)

// A unit that does not answer is given up after two failed transactions in a row, and then only probed, more and more
// rarely and within the dead-time share. Where units that were never given up fall silent one after the other without
// an answer in between, it is the link or the power that is gone: the rest are asked once more each, with a probe's
// short timeout, instead of costing two full ones.
const (
	// deadShare is the part of the line's time that may go to units and registers that do not answer.
	deadShare = 0.10
	// giveUpAfter failed transactions in a row a unit (or a block of one that answers otherwise) is demoted.
	giveUpAfter = 2
	minProbe    = 50 * time.Millisecond
	fullEvery   = 5 // every fifth probe waits the unit's full timeout
	firstProbe  = time.Second
	rarestProbe = 15 * time.Second
	// mutesMost units in a row that fall silent make the others suspect.
	mutesMost = 3
	// strangerProbe is the wait for a unit that never answered, where it should be short: it may stand behind a gateway.
	strangerProbe = 100 * time.Millisecond
	// soonest is the least time between two probes of a unit, whatever speaks for it: failures may cost no time at all.
	soonest = 250 * time.Millisecond
	// rouseShare is the part of the line's time that may go to rousing, beside deadShare.
	rouseShare = 0.05
)

// worst returns the longest of the recent turnarounds, 0 when none is known.
func (u *unit) worst() time.Duration { return slices.Max(u.trips[:]) }

// patience returns how long to wait for the unit's next answer.
func (u *unit) patience() time.Duration {
	w := u.worst()
	switch {
	case u.demoted && (u.probeFull || u.probes%fullEvery == fullEvery-1):
		return u.timeout
	case !u.demoted && !u.bus.muted():
		return u.timeout
	case w == 0 && (!u.demoted || u.roused):
		return min(u.timeout, max(strangerProbe, 2*u.delay))
	case w == 0:
		w = u.delay
	}
	return min(u.timeout, max(minProbe, 2*w))
}

// muted reports whether so many units fell silent in a row that the others are suspect.
func (b *Bus) muted() bool { return b.mutes >= mutesMost }

// mute takes in that a unit gave no answer that was not known to be dead. When that makes the others suspect they are
// asked at once: it may be a link that is gone, and nobody should have to wait for the next interval to be told.
func (b *Bus) mute(u *unit, t telemetry.Mono) {
	if u.muted == b.muteRound {
		return
	}
	u.muted = b.muteRound
	if b.mutes++; b.mutes != mutesMost || t < b.doubtFree {
		return
	}
	b.doubtFree = t.Add(rarestProbe)
	for _, o := range b.units {
		if o.muted != b.muteRound && !o.demoted && len(o.blocks) > 0 && !o.blocks[0].out {
			o.blocks[0].due = min(o.blocks[0].due, t)
		}
	}
}

// unmute takes in that somebody answered.
func (b *Bus) unmute() {
	if b.mutes > 0 {
		b.mutes = 0
		b.muteRound++
	}
}

// hear notes that a unit answered somebody else's question, or late: it is alive.
func (b *Bus) hear(address byte) {
	if u := b.guests.asked[address]; u != nil {
		b.wake(u)
	}
}

// wake has a unit probed at once that was given up and seems to be alive.
func (b *Bus) wake(u *unit) {
	if u.demoted {
		u.heard, u.probeFull = true, true
		u.probeAt = min(u.probeAt, max(b.now(), u.probedAt.Add(soonest)))
	}
}

// probed takes in that a probe was not answered. Where something else came of the unit it is there.
func (u *unit) probed(t telemetry.Mono) {
	u.probes++
	u.probedAt, u.roused = t, false
	if u.heard {
		u.heard, u.probeFull, u.probeAt, u.probeWait = false, true, t.Add(soonest), firstProbe
		return
	}
	if u.probing != nil && u.probing.whole == nil && u.probeNext%2 == 0 {
		u.probeNext++ // It was the whole block already.
	}
	u.probeFull, u.probing = false, nil
	u.probeNext++
	u.probeWait = min(2*u.probeWait, rarestProbe)
	u.probeAt = t.Add(u.probeWait)
}

// giveUp makes the unit one that is only probed: the sooner, the less its last failure cost.
func (b *Bus) giveUp(u *unit, t telemetry.Mono, cost time.Duration) {
	u.online, u.demoted = false, true
	// Not all at once: a round in which every probe is a full one would take several times the mean.
	u.probes, u.probeNext, u.probeWait = u.index%fullEvery, 0, min(max(time.Duration(float64(cost)*(1/deadShare-1)), soonest), firstProbe)
	u.probeAt, u.probedAt, u.roused, u.probing, u.check = t.Add(u.probeWait), t, false, nil, nil
	b.mu.Lock()
	b.health.Units[u.index].Online = false
	b.mu.Unlock()
}

// appear takes in that a unit answered: with a reading, or with an exception of its own.
func (b *Bus) appear(u *unit, t telemetry.Mono) {
	b.unmute()
	u.fails, u.probeFull, u.heard, u.hold, u.roused = 0, false, false, 0, false
	b.linkWait = min(b.linkWait, linkAgain)
	silent := t.Sub(b.spokeAt)
	b.spokeAt = t
	if u.online {
		return
	}
	was := u.demoted
	u.online, u.demoted, u.met, u.appeared = true, false, true, t
	u.probing, u.check = nil, nil
	if was && silent >= firstProbe {
		b.rouse(t) // All were silent: what brought this one back (power, a cable) may have brought back others.
	}
	for _, bl := range u.blocks {
		// What was refused is tried again too: another unit may have been put in its place.
		bl.due, bl.fails, bl.refuse = t, 0, 0
	}
	b.mu.Lock()
	b.health.Units[u.index].Online, b.health.Units[u.index].LastError = true, ""
	b.mu.Unlock()
}

// rouse has all units that were given up probed at once, outside the dead-time share. What it costs has its own share, so
// that units and links that come and go do not have the others probed all the time.
func (b *Bus) rouse(t telemetry.Mono) {
	if t < b.rouseFree {
		return
	}
	var cost time.Duration
	for _, o := range b.units {
		if o.demoted {
			o.probeAt, o.probeWait, o.roused = min(o.probeAt, max(t, o.probedAt.Add(soonest))), firstProbe, true
			cost += o.patience()
		}
	}
	b.rouseFree = t.Add(max(rarestProbe, time.Duration(float64(cost)/rouseShare)))
}

// share returns when the dead-time share lets the unit be probed.
func (u *unit) share() telemetry.Mono {
	if u.roused {
		return 0
	}
	return u.bus.deadFree
}

// silence tells that the unit cannot be reached: all its points at once. A unit that needs to warm up and has not
// answered since the bus started may only be switched on with the gateway: until its warm-up has passed nothing is
// said, and its points stay unknown.
func (u *unit) silence(dst []telemetry.Sample, t telemetry.Mono) []telemetry.Sample {
	if u.warming(t) {
		return dst
	}
	return u.allBad(dst, t)
}

// warming reports whether the unit may only have been switched on with the gateway.
func (u *unit) warming(t telemetry.Mono) bool {
	return !u.met && t.Sub(u.bus.busyFirst) < u.cfg.Profile.Timing.WarmUp
}
