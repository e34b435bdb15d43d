package modbus

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	gomodbus "github.com/goburrow/modbus"
	"go.uber.org/zap"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

const (
	// retryAfter a first failure: long enough for a burst of noise to pass.
	retryAfter = time.Second
	// tellAgain is how often a point that stays bad is told.
	tellAgain = time.Minute
	// lifeRunMost life-safety transactions in a row, and one that is overdue by a whole interval has its turn: a
	// saturated line slows the others down but does not silence them.
	lifeRunMost = 3
)

// unit is one unit's state on the bus.
type unit struct {
	// What is looked at of every unit to find the blocks that are due stands together.
	blocks  []*block       // as planned, around what was learned about unreadable registers
	hold    telemetry.Mono // not asked before: its late answer may still come
	rested  telemetry.Mono // not asked before: its own pause
	check   *block         // asked before any other of the unit's: it tells whether the unit is there
	demoted bool

	cfg     firmwareconfig.Unit
	bus     *Bus
	index   int    // in Bus.units and health.Units
	limits  limits // of the protocol, the profile and the line
	timeout time.Duration
	delay   time.Duration
	groups  []*group
	points  []*point

	holes   []span  // what it refuses to read
	sizes   [2]size // how much it reads at once: registers, bits
	doubts  int     // refusals whose cause is not found yet
	changed bool    // something was learned that is not saved

	online    bool
	met       bool           // it has answered since the bus started
	appeared  telemetry.Mono // since when it has been online
	fails     int            // failed transactions in a row
	suspect   *block         // where the last failure was
	quiet     bool           // the last failure was silence, not something odd
	muted     int            // the round of silence (Bus.muteRound) in which it was counted
	probeAt   telemetry.Mono
	probeWait time.Duration
	probes    int
	probeFull bool
	heard     bool // something came of it since the last probe
	probeNext int
	probing   *block            // what it is probed with next; nil when that is to be chosen
	odd       span              // what was silent as a whole and could be read in parts: the next time it is its length
	passing   []span            // of holes: not kept across restarts
	wholeSick telemetry.Mono    // no block is cut for faults before: it was found sick as a whole
	probedAt  telemetry.Mono    // when it was given up, or last probed in vain
	roused    bool              // its next probe is outside the dead-time share
	trips     [32]time.Duration // recent turnarounds, without the time on the wire
	tripN     int
}

// free returns when the unit may be asked next, whatever the line was used for in between.
func (u *unit) free() telemetry.Mono { return max(u.hold, u.rested) }

// wait returns the longest that the line waits for the unit's answer to begin.
func (u *unit) wait() time.Duration {
	if u.bus.line.hold > 0 {
		return min(u.timeout, u.bus.line.hold)
	}
	return u.timeout
}

// Step carries out the most urgent transaction that is due at now, if any.
func (b *Bus) Step(ctx context.Context, now telemetry.Mono, dst []telemetry.Sample) ([]telemetry.Sample, telemetry.Mono) {
	b.stepNow, b.stepClock = now, b.clock.Mono()
	if !b.started {
		b.start(now)
	}
	if b.suspended(now) {
		return b.maintained(dst, now), min(b.guests.until, now.Add(tellAgain))
	}
	if b.guests.until > 0 {
		b.resume(now)
	}
	bl, next := b.pick(now)
	if bl == nil || ctx.Err() != nil {
		return dst, next
	}
	b.line.check(time.Second)
	if !b.line.connected() {
		if at := b.mayConnect(now); now < at {
			return dst, at
		}
		if err := b.connect(ctx); err != nil {
			if ctx.Err() == nil {
				dst = b.linkLost(dst, b.now(), err)
			}
			return dst, b.linkAt
		}
	}
	u := bl.unit
	probe := u.demoted || bl.deaf()
	if u.online && u.fails+bl.fails > 0 {
		b.again(u)
	}
	from := b.chosen(bl, now)
	asked := b.gather(bl, now)
	if window := b.fly(bl, asked, now); len(b.flights) > 0 {
		dst = b.together(ctx, window, from, dst)
		if ctx.Err() != nil {
			return dst, now
		}
		t := b.now()
		if next = b.later; next == 0 || len(b.round) > 0 || b.urged != nil {
			_, next = b.pick(t)
		}
		return dst, max(next, t)
	}
	data, err := b.read(ctx, u, &bl.reqs, asked, u.patience())
	t := b.now()
	if ctx.Err() != nil {
		return dst, now
	}
	b.busyAdd(from, t)
	b.left(u, t)
	if err == nil {
		dst = b.answered(u, asked, data, t, dst)
	} else {
		b.round = b.round[:0]
		dst = b.failed(u, bl, asked, probe, err, now, t, dst)
	}
	_, next = b.pick(t)
	return dst, max(next, t)
}

// burstsPerInterval is how many bursts the requests of one interval come in over TCP.
const burstsPerInterval = 10

// start makes everything due at once, in order, and spreads the later readings of the groups evenly over each
// interval, so that units polled at one rate do not come in bursts. The blocks of one group stay together: a value
// and the register that says whether it counts should be of one moment. Over TCP the groups come in ten bursts to an
// interval: a request costs a process that has to be woken for it several times what it costs one that is at work.
func (b *Bus) start(now telemetry.Mono) {
	b.started = true
	b.busyFirst = now
	var groups [][]*block
	size := map[time.Duration]int{}
	for _, u := range b.units {
		for i, bl := range u.blocks {
			if i == 0 || bl.every != u.blocks[i-1].every || bl.life != u.blocks[i-1].life {
				groups = append(groups, nil)
				size[bl.every]++
			}
			g := &groups[len(groups)-1]
			*g = append(*g, bl)
		}
	}
	nth := map[time.Duration]int{}
	for _, g := range groups {
		every := g[0].every
		phase := every * time.Duration(nth[every]) / time.Duration(size[every])
		if b.bursts {
			phase = phase.Truncate(every / burstsPerInterval)
		}
		nth[every]++
		for _, bl := range g {
			bl.phase, bl.due, bl.first = now.Add(phase), now, true
		}
	}
}

// pick returns the block to read at now, or nil and the moment at which one is due. Earliest deadline first, among
// life-safety blocks before all others; ties go by order of units and blocks, so that runs can be repeated. Where the
// unit wants the line silent before it is asked after another one, everybody waits for that.
func (b *Bus) pick(now telemetry.Mono) (*block, telemetry.Mono) {
	bl, next := b.urged, telemetry.Never
	if bl == nil || bl.unit.hold > max(now, bl.unit.rested) {
		bl, next = b.best(now)
	} else if bl.unit.rested > now {
		return nil, bl.unit.rested
	}
	if bl == nil {
		return nil, next
	}
	if at := b.hushed(bl.unit); at > now {
		b.hushFrom = min(b.hushFrom, now)
		return nil, min(at, next)
	}
	return bl, now
}

// roundFor is how long the blocks that were due at one look are read, one after the other, before the next look.
const roundFor = 5 * time.Millisecond

// next returns the next block of the round that best began, nil where it is over: where nobody else can have come before.
// It is the one that best would find, but for what has fallen due since.
func (b *Bus) next(now telemetry.Mono) *block {
	for now < b.roundEnd && len(b.round) > 0 {
		bl := b.round[0]
		if u := bl.unit; u.demoted || u.check != nil || bl.deaf() || u.free() > now {
			break
		}
		if bl.due <= now {
			return bl
		}
		b.round = b.round[1:] // It was read along with another.
	}
	if len(b.round) > 0 { // What is left of it is due, and not in it any more.
		b.round, b.later = b.round[:0], 0
	}
	return nil
}

// best returns the most urgent block that is due, and when the next is that is not.
func (b *Bus) best(now telemetry.Mono) (*block, telemetry.Mono) {
	if bl := b.next(now); bl != nil {
		return bl, now
	}
	keep := b.bursts && !b.life
	b.due, b.later = b.due[:0], 0
	var life, other *block
	var lifeDead, otherDead telemetry.Mono
	overdue := false
	next := telemetry.Never
	consider := func(bl *block, ready, deadline telemetry.Mono, urgent bool) {
		if ready > now {
			next = min(next, ready)
			return
		}
		if urgent {
			if life == nil || deadline < lifeDead {
				life, lifeDead = bl, deadline
			}
			return
		}
		overdue = overdue || now > deadline
		if keep && !bl.unit.demoted {
			b.due = append(b.due, bl)
		}
		if other == nil || deadline < otherDead {
			other, otherDead = bl, deadline
		}
	}
	for _, u := range b.units {
		free := u.free()
		if u.demoted {
			if bl := u.probeBlock(); bl != nil {
				deadline := u.probeAt.Add(firstProbe)
				if u.probeFull {
					deadline = 0 // It seems to be there: no need to wait for a round of all that are dead.
				}
				consider(bl, max(u.probeAt, free, u.share()), deadline, false)
			}
			continue
		}
		for _, bl := range u.blocks {
			if u.check != nil && bl != u.check {
				continue
			}
			ready := max(bl.due, free)
			// A block that is not answered goes with the probes: it may not use more than their share.
			if bl.deaf() {
				ready = max(ready, b.deadFree)
			}
			consider(bl, ready, bl.due.Add(bl.every), bl.urgent())
		}
	}
	if life == nil || other != nil && overdue && b.lifeRun >= lifeRunMost {
		if len(b.due) > 1 {
			slices.SortStableFunc(b.due, func(x, y *block) int { return cmp.Compare(x.due.Add(x.every), y.due.Add(y.every)) })
			b.round, b.roundEnd, b.later = b.due, now.Add(roundFor), next
		}
		return other, next
	}
	return life, next
}

// urgent reports whether the block goes before ordinary ones: it has life-safety points, and they can be read.
func (bl *block) urgent() bool { return bl.life && !bl.out && !bl.deaf() }

// deaf reports whether the block's next reading will probably bring nothing: it goes within the dead-time share.
func (bl *block) deaf() bool {
	return bl.fails >= giveUpAfter || bl.fails > 0 && bl.hole || bl.doubt != nil && bl.doubt.silent && !bl.answers
}

// hushed returns when the line has been silent for as long as u wants before it is asked after another unit.
func (b *Bus) hushed(u *unit) telemetry.Mono {
	if pause := u.cfg.Profile.Timing.SwitchGap; pause > 0 && b.lastUnit >= 0 && b.lastUnit != u.cfg.Address {
		return b.lastEnd.Add(pause)
	}
	return 0
}

// chosen takes in that a block has its turn, and returns since when the line is kept for it.
func (b *Bus) chosen(bl *block, now telemetry.Mono) telemetry.Mono {
	from := min(b.hushFrom, now)
	b.hushFrom = telemetry.Never
	b.urged = nil
	if len(b.round) > 0 {
		if b.round[0] == bl {
			b.round = b.round[1:]
		} else {
			b.round, b.later = b.round[:0], 0
		}
	}
	if bl.urgent() && !bl.unit.demoted {
		b.lifeRun++
	} else {
		b.lifeRun = 0
	}
	return from
}

// left takes in that an exchange with a unit of the bus ended at t.
func (b *Bus) left(u *unit, t telemetry.Mono) {
	b.later = 0
	u.rested = t.Add(u.cfg.Profile.Timing.Gap)
	b.lastUnit, b.lastEnd = u.cfg.Address, t
}

// gather returns what to ask for in order to read bl. Blocks of the same unit that fall due before bl is read again
// are read along where that needs no request of its own: they lie within what is read, or so near that reading over
// the gap costs less. b.party lists who is read.
func (b *Bus) gather(bl *block, now telemetry.Mono) span {
	b.party = append(b.party[:0], bl)
	all := bl.span
	u := bl.unit
	if u.demoted || u.doubts > 0 || !bl.sociable() { // Reading over what is in doubt would bring nothing.
		return all
	}
	lim, again := u.bounds(), true
	for again {
		again = false
		for _, o := range u.blocks {
			if o.table != all.table || o.leans || !o.sociable() || o.due > now.Add(bl.every) || slices.Contains(b.party, o) {
				continue
			}
			if joined, ok := lim.join(all, o.span, u.holes); ok {
				again = again || joined != all // It may reach further now.
				all = joined
				b.party = append(b.party, o)
			}
		}
	}
	return all
}

// sociable reports whether the block may be read in one request with others: nothing about it is in doubt.
func (bl *block) sociable() bool { return !bl.out && !bl.hole && bl.fails == 0 && bl.doubt == nil }

// read carries out one read.
func (b *Bus) read(ctx context.Context, u *unit, reqs *requests, what span, timeout time.Duration) ([]byte, error) {
	ans, err := b.line.exchange(ctx, byte(u.cfg.Address), reqs.pdu(what), timeout)
	return b.taken(u, what, ans, err)
}

// taken counts a read, and returns its data, or the exception that the unit answered with as an error.
func (b *Bus) taken(u *unit, what span, ans []byte, err error) ([]byte, error) {
	var data []byte
	switch {
	case err != nil:
	case ans[0]&excFlag != 0:
		err = &gomodbus.ModbusError{FunctionCode: ans[0], ExceptionCode: ans[1]}
	default:
		data = ans[2:]
		if s := u.sizeOf(what.table); what.count > s.read {
			s.read = what.count
		}
	}
	b.count(u, err, what.count, what.table.Bits())
	return data, err
}

// schedule sets the block's next regular reading: the first moment on its grid after t. Where it was read along with
// another block before it was due, its grid moves there, so that from then on both are due together.
func (bl *block) schedule(t telemetry.Mono, along bool) {
	if along && bl.due > t {
		bl.phase, bl.first = t, false
	}
	if bl.first {
		bl.first = false
		t = t.Add(bl.every / 2) // It was read a moment ago.
	}
	passed := t.Sub(bl.phase)
	bl.due = bl.phase
	if passed >= 0 {
		bl.due = bl.phase.Add((passed/bl.every + 1) * bl.every)
	}
}

// answered takes in the data of the blocks that were read.
func (b *Bus) answered(u *unit, asked span, data []byte, t telemetry.Mono, dst []telemetry.Sample) []telemetry.Sample {
	b.appear(u, t)
	u.check = nil
	for _, bl := range b.party {
		u.witnessed(bl)
	}
	warm := t.Sub(u.appeared) < u.cfg.Profile.Timing.WarmUp
	for i, bl := range b.party {
		bl.fails, bl.part = 0, nil
		bl.schedule(t, i > 0)
		if bl.out {
			bl.out, bl.refuse = false, 0
			b.log.Info("register readable again", zap.String("bus", b.name), zap.String("unit", u.cfg.ID),
				zap.Int("address", bl.addr), zap.Int("count", bl.count))
		}
		dst = bl.decode(dst, data, asked.addr, t, warm)
		if bl.hole || bl.doubt != nil {
			b.resolved(u, bl, false)
		}
	}
	return dst
}

// failed takes in that a transaction brought no data.
func (b *Bus) failed(u *unit, bl *block, asked span, probe bool, err error, began, t telemetry.Mono, dst []telemetry.Sample) []telemetry.Sample {
	var exc *gomodbus.ModbusError
	if errors.As(err, &exc) && exc.ExceptionCode != gomodbus.ExceptionCodeGatewayPathUnavailable &&
		exc.ExceptionCode != gomodbus.ExceptionCodeGatewayTargetDeviceFailedToRespond {
		b.appear(u, t)
		return b.refused(u, bl, asked, exc, t, dst)
	}
	if errors.Is(err, errLinkDown) {
		var blame bool
		if dst, blame = b.hungUp(dst, u, bl, t, err); !blame {
			return dst
		}
	}
	if probe && !u.roused {
		b.deadFree = t.Add(time.Duration(float64(t.Sub(began)) * (1/deadShare - 1)))
	}
	if exc == nil && b.line.rtu {
		u.hold = t.Add(u.wait())
	}
	u.fails++
	bl.fails++
	u.check, u.quiet = nil, errors.Is(err, errTimeout)
	if u.demoted {
		u.probed(t)
		return u.silence(dst, t)
	}
	silent := errors.Is(err, errTimeout)
	if silent && bl.part != nil && u.cutSilent(bl, t) { // A part of it was answered.
		u.check, u.suspect = u.another(bl), bl
		return dst
	}
	// One block that is never answered does not make the unit dead: another one is asked before it is given up.
	other := u.another(bl)
	suspect := b.muted() && !probe
	if !probe {
		b.mute(u, t)
	}
	if suspect || u.fails >= giveUpAfter && (other == nil || bl != u.suspect) {
		b.giveUp(u, t, t.Sub(began))
		return u.silence(dst, t)
	}
	u.suspect, u.check = bl, other
	if other != nil {
		other.due = t
	}
	bl.due = t.Add(min(bl.every, retryAfter))
	if bl.fails >= giveUpAfter || bl.doubt != nil && bl.doubt.silent {
		// The unit answers, but not this: it must not look alive for ever.
		bl.due = t.Add(min(retryAfter<<min(max(bl.fails-giveUpAfter, 0), 6), rarestProbe))
		if silent && other != nil {
			dst = bl.allBad(dst, t, telemetry.BadComm)
			if !u.cutSilent(bl, t) && bl.fails >= giveUpAfter {
				b.deafened(u, bl)
			}
			return dst
		}
		return bl.allBad(dst, t, telemetry.BadComm)
	}
	return dst
}

// another returns a block of the unit other than bl that has not failed, best one that has been answered, or nil.
func (u *unit) another(bl *block) *block {
	var other *block
	for _, o := range u.blocks {
		if o != bl && !o.out && o.fails == 0 && (other == nil || o.answers && !other.answers) {
			other = o
		}
	}
	return other
}

var _ interface {
	drivers.Bus
	drivers.Writer
} = (*Bus)(nil)
