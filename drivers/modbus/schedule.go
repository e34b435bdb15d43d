package modbus

import (
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
	// deadShare is the part of the line's time that may go to units and registers that do not answer.
	deadShare = 0.10
	// giveUpAfter failed transactions in a row a unit (or a block of one that answers otherwise) is demoted.
	giveUpAfter = 2
	minProbe    = 50 * time.Millisecond
	fullEvery   = 5 // every fifth probe waits the unit's full timeout
	firstProbe  = time.Second
	rarestProbe = 15 * time.Second
	// retryAfter a first failure: long enough for a burst of noise to pass.
	retryAfter = time.Second
	// tellAgain is how often a point that stays bad is told.
	tellAgain = time.Minute
	// A quarantined block is tried again after refusedFirst, then more rarely: a unit that still boots refuses too.
	refusedFirst = time.Minute
	refusedMost  = 10 * time.Minute
	// lifeRunMost life-safety transactions in a row, and one that is overdue by a whole interval has its turn: a
	// saturated line slows the others down but does not silence them.
	lifeRunMost = 3
	linkFirst   = 250 * time.Millisecond
	linkMost    = 30 * time.Second
	// linkMostLife bounds it on a bus with life-safety points: a detector that can be reached again is read soon.
	linkMostLife = 5 * time.Second
)

// unit is one unit's state on the bus.
type unit struct {
	cfg     firmwareconfig.Unit
	bus     *Bus
	index   int // in Bus.units and health.Units
	limits  limits
	timeout time.Duration
	delay   time.Duration
	blocks  []*block // as planned, less what was learned about unreadable registers
	points  []*point

	online    bool
	appeared  telemetry.Mono // since when it has been online
	fails     int            // failed transactions in a row
	suspect   *block         // where the last failure was
	demoted   bool
	hold      telemetry.Mono // not asked before: its late answer may still come
	probeAt   telemetry.Mono
	probeWait time.Duration
	probes    int
	probeFull bool
	probeNext int
	trips     [32]time.Duration // recent turnarounds, without the time on the wire
	tripN     int
}

// worst returns the longest of the recent turnarounds, 0 when none is known.
func (u *unit) worst() time.Duration { return slices.Max(u.trips[:]) }

// probeTimeout returns how long to wait for the next probe's answer.
func (u *unit) probeTimeout() time.Duration {
	if u.probeFull || u.probes%fullEvery == fullEvery-1 {
		return u.timeout
	}
	w := u.worst()
	if w == 0 {
		w = u.delay
	}
	return min(u.timeout, max(minProbe, 2*w))
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
		if now < b.linkAt {
			return dst, b.linkAt
		}
		if err := b.connect(ctx); err != nil {
			if ctx.Err() == nil {
				dst = b.linkLost(dst, b.now(), err)
			}
			return dst, b.linkAt
		}
	}
	b.urged = nil
	u := bl.unit
	probe := u.demoted || bl.fails >= giveUpAfter
	timeout := u.timeout
	if u.demoted {
		timeout = u.probeTimeout()
	}
	if bl.urgent() && !u.demoted {
		b.lifeRun++
	} else {
		b.lifeRun = 0
	}
	data, err := b.read(ctx, u, bl.table, bl.addr, bl.count, timeout)
	t := b.now()
	if ctx.Err() != nil {
		return dst, now
	}
	b.busyAdd(now, t)
	b.gapUntil = t.Add(u.cfg.Profile.Timing.Gap)
	if err == nil {
		dst = b.answered(u, bl, data, t, dst)
	} else {
		dst = b.failed(u, bl, probe, err, now, t, dst)
	}
	_, next = b.pick(t)
	return dst, max(next, t)
}

// start makes everything due at once, in order, and spreads the later readings of the groups evenly over each
// interval, so that units polled at one rate do not come in bursts. The blocks of one group stay together: a value
// and the register that says whether it counts should be of one moment.
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
		phase := now.Add(every * time.Duration(nth[every]) / time.Duration(size[every]))
		nth[every]++
		for _, bl := range g {
			bl.phase, bl.due, bl.first = phase, now, true
		}
	}
}

// pick returns the block to read at now, or nil and the moment at which one is due. Earliest deadline first, among
// life-safety blocks before all others; ties go by order of units and blocks, so that runs can be repeated.
func (b *Bus) pick(now telemetry.Mono) (*block, telemetry.Mono) {
	if bl := b.urged; bl != nil && bl.unit.hold <= max(now, b.gapUntil) {
		if b.gapUntil > now {
			return nil, b.gapUntil
		}
		return bl, now
	}
	var life, other *block
	var lifeDead, otherDead telemetry.Mono
	overdue := false
	next := telemetry.Never
	consider := func(bl *block, ready, deadline telemetry.Mono, urgent bool) {
		ready = max(ready, b.gapUntil)
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
		if other == nil || deadline < otherDead {
			other, otherDead = bl, deadline
		}
	}
	for _, u := range b.units {
		if u.demoted {
			if bl := u.probeBlock(); bl != nil {
				consider(bl, max(u.probeAt, u.hold, b.deadFree), u.probeAt.Add(firstProbe), false)
			}
			continue
		}
		for _, bl := range u.blocks {
			ready := max(bl.due, u.hold)
			// A block that is not answered goes with the probes: it may not use more than their share.
			dead := bl.fails >= giveUpAfter
			if dead {
				ready = max(ready, b.deadFree)
			}
			consider(bl, ready, bl.due.Add(bl.every), bl.urgent())
		}
	}
	switch {
	case life == nil && other == nil:
		return nil, next
	case life == nil || other != nil && overdue && b.lifeRun >= lifeRunMost:
		return other, now
	}
	return life, now
}

// urgent reports whether the block goes before ordinary ones: it has life-safety points, and they can be read.
func (bl *block) urgent() bool { return bl.life && !bl.out && bl.fails < giveUpAfter }

// probeBlock returns the block to probe a demoted unit with. They take turns: the unit may ignore one of them.
func (u *unit) probeBlock() *block {
	for i := range u.blocks {
		if bl := u.blocks[(u.probeNext+i)%len(u.blocks)]; !bl.out {
			return bl
		}
	}
	if len(u.blocks) > 0 {
		return u.blocks[u.probeNext%len(u.blocks)]
	}
	return nil
}

// read carries out one read through goburrow's client.
func (b *Bus) read(ctx context.Context, u *unit, table firmwareconfig.Table, addr, count int, timeout time.Duration) ([]byte, error) {
	c := b.line.client(ctx, byte(u.cfg.Address), timeout)
	var data []byte
	var err error
	switch table {
	case firmwareconfig.Coil:
		data, err = c.ReadCoils(uint16(addr), uint16(count))
	case firmwareconfig.DiscreteInput:
		data, err = c.ReadDiscreteInputs(uint16(addr), uint16(count))
	case firmwareconfig.HoldingRegister:
		data, err = c.ReadHoldingRegisters(uint16(addr), uint16(count))
	default:
		data, err = c.ReadInputRegisters(uint16(addr), uint16(count))
	}
	b.count(u, err, count, table.Bits())
	return data, err
}

// count keeps the unit's counters.
func (b *Bus) count(u *unit, err error, quantity int, bits bool) {
	var exc *gomodbus.ModbusError
	if !errors.Is(err, errLinkDown) && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		b.linkWorks()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	h := &b.health.Units[u.index]
	h.Late += uint64(b.line.late)
	b.countLate()
	switch {
	case err == nil:
		h.Answers++
		h.RoundTrip = b.line.answered
		h.LastError = ""
		wire := b.line.wire(8 + 5 + 2*quantity)
		if bits {
			wire = b.line.wire(8 + 5 + quantity/8)
		}
		u.trips[u.tripN%len(u.trips)] = max(b.line.answered-wire, time.Microsecond)
		u.tripN++
		return
	case errors.As(err, &exc):
		h.Exceptions++
	case errors.Is(err, errTimeout):
		h.Timeouts++
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return
	default:
		h.Errors++
	}
	h.LastError = err.Error()
}

// busyAdd notes that the line was in use from one moment to another.
func (b *Bus) busyAdd(from, to telemetry.Mono) {
	slot := int64(to) / int64(time.Second)
	n := int64(len(b.busy))
	for i := max(b.busySlot+1, slot-n+1); i <= slot; i++ {
		b.busy[i%n] = 0
	}
	b.busySlot = slot
	b.busy[slot%n] += to.Sub(from)
	var sum time.Duration
	for _, d := range b.busy {
		sum += d
	}
	window := min(max(to.Sub(b.busyFirst), time.Second), time.Minute)
	b.mu.Lock()
	b.health.Busy = min(1, float64(sum)/float64(window))
	b.mu.Unlock()
}

// countLate takes over what the line discarded. Over a serial line a frame of one of our units was late, all else is
// foreign; over Modbus TCP the transaction id says that an answer is late. b.mu is held.
func (b *Bus) countLate() {
	all := uint64(b.line.late)
	late := all
	if b.line.rtu {
		late = min(b.lateOurs, all)
	}
	b.health.Late += late
	b.health.Foreign += all - late
	b.line.late, b.lateOurs = 0, 0
}

// hear notes that a unit answered somebody else's question, or late: it is alive.
func (b *Bus) hear(address byte) {
	u := b.guests.asked[address]
	if u == nil {
		return
	}
	b.lateOurs++
	b.wake(u)
}

// wake has a unit probed at once that was given up and seems to be alive.
func (b *Bus) wake(u *unit) {
	if u.demoted {
		u.probeFull, u.probeAt = true, min(u.probeAt, b.gapUntil)
	}
}

// connect opens the port.
func (b *Bus) connect(ctx context.Context) error {
	cctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	return b.line.connect(cctx)
}

// linkWorks takes in that a request was not met by a hang-up. That the peer accepted a connection says less: a
// serial server that has one too many accepts, and closes it.
func (b *Bus) linkWorks() {
	b.suspect = nil
	b.mu.Lock()
	wasUp := b.health.Up
	b.health.Up, b.health.LastError = true, ""
	if !wasUp {
		// What was said about the units was about the link.
		for i := range b.health.Units {
			b.health.Units[i].LastError = ""
		}
	}
	b.mu.Unlock()
	if !wasUp {
		now := b.now()
		for _, u := range b.units {
			if u.demoted {
				u.probeAt, u.probeWait = now, firstProbe
				continue
			}
			for _, bl := range u.blocks {
				bl.due = min(bl.due, now)
			}
		}
	}
}

// linkLost takes in that the port cannot be opened, or is closed by the peer whoever is asked: no unit can be reached.
func (b *Bus) linkLost(dst []telemetry.Sample, t telemetry.Mono, err error) []telemetry.Sample {
	b.backOff(t)
	b.busyAdd(t, t)
	b.mu.Lock()
	b.health.Up, b.health.LastError = false, err.Error()
	for i := range b.health.Units {
		b.health.Units[i].Online, b.health.Units[i].LastError = false, err.Error()
	}
	b.mu.Unlock()
	for _, u := range b.units {
		u.online = false
		dst = u.allBad(dst, t)
	}
	// The next attempt asks another unit: it may be for this one that the peer hangs up.
	for range b.units {
		b.linkTry = (b.linkTry + 1) % len(b.units)
		if b.urged = b.units[b.linkTry].probeBlock(); b.urged != nil {
			break
		}
	}
	return dst
}

// hungUp takes in that the peer hung up on block bl, and reports whether that is the unit's failure (or else nobody's
// so far, or the link's).
//
// Where answers had come over the connection, the peer may simply have closed it after the last one (converters do):
// the same request goes out at once on a fresh connection. When the peer hangs up on that too, it is either for this
// unit, which some gateways do when it is silent, or for all: another unit, best one that answers, is asked at once.
// If the peer hangs up on that as well the link is lost. A unit that is alone is its own witness.
func (b *Bus) hungUp(dst []telemetry.Sample, u *unit, bl *block, t telemetry.Mono, err error) ([]telemetry.Sample, bool) {
	switch {
	case b.suspect != nil:
		return b.linkLost(dst, t, err), false
	case b.line.used:
		b.urged = bl
		return dst, false
	}
	b.suspect = u
	var witness *unit
	for _, w := range b.units {
		if w != u && !w.demoted && len(w.blocks) > 0 && (witness == nil || w.online && !witness.online) {
			witness = w
		}
	}
	if witness == nil {
		b.urged = bl
		return dst, false
	}
	b.urged = witness.probeBlock()
	return dst, true
}

// backOff sets when to connect next: soon at first, then doubling to at most 30 s (5 s beside life-safety points), jittered so that a street of
// gateways does not come back in step.
func (b *Bus) backOff(t telemetry.Mono) {
	most := linkMost
	if b.life {
		most = linkMostLife
	}
	b.linkWait = min(max(2*b.linkWait, linkFirst), most)
	b.linkAt = t.Add(b.linkWait/2 + time.Duration(b.rand.Int64N(int64(b.linkWait/2)+1)))
}

// schedule sets the block's next regular reading: the first moment on its grid after t.
func (bl *block) schedule(t telemetry.Mono) {
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

// appear takes in that a unit answered: with a reading, or with an exception of its own.
func (b *Bus) appear(u *unit, t telemetry.Mono) {
	u.fails, u.probes, u.probeFull, u.hold = 0, 0, false, 0
	b.linkWait = 0
	if u.online {
		return
	}
	if u.demoted && !slices.ContainsFunc(b.units, func(o *unit) bool { return o.online }) {
		// All were silent: what brought this one back (power, a cable) may have brought back others.
		for _, o := range b.units {
			o.probeAt, o.probeWait = min(o.probeAt, t), firstProbe
		}
		b.deadFree = t
	}
	u.online, u.demoted, u.appeared = true, false, t
	for _, bl := range u.blocks {
		// What was refused is tried again too: another unit may have been put in its place.
		bl.due, bl.fails, bl.refuse = t, 0, 0
	}
	b.mu.Lock()
	b.health.Units[u.index].Online, b.health.Units[u.index].LastError = true, ""
	b.mu.Unlock()
}

// answered takes in a block's data.
func (b *Bus) answered(u *unit, bl *block, data []byte, t telemetry.Mono, dst []telemetry.Sample) []telemetry.Sample {
	b.appear(u, t)
	bl.fails = 0
	bl.schedule(t)
	if bl.out {
		bl.out, bl.refuse = false, 0
		b.log.Info("register readable again", zap.String("bus", b.name), zap.String("unit", u.cfg.ID),
			zap.Int("address", bl.addr), zap.Int("count", bl.count))
	}
	warm := t.Sub(u.appeared) < u.cfg.Profile.Timing.WarmUp
	return bl.decode(dst, data, t, warm)
}

// failed takes in that a transaction brought no data.
func (b *Bus) failed(u *unit, bl *block, probe bool, err error, began, t telemetry.Mono, dst []telemetry.Sample) []telemetry.Sample {
	var exc *gomodbus.ModbusError
	if errors.As(err, &exc) && exc.ExceptionCode != gomodbus.ExceptionCodeGatewayPathUnavailable &&
		exc.ExceptionCode != gomodbus.ExceptionCodeGatewayTargetDeviceFailedToRespond {
		b.appear(u, t)
		return b.refused(u, bl, exc, t, dst)
	}
	if errors.Is(err, errLinkDown) {
		var blame bool
		if dst, blame = b.hungUp(dst, u, bl, t, err); !blame {
			return dst
		}
	}
	if probe {
		b.deadFree = t.Add(time.Duration(float64(t.Sub(began)) * (1/deadShare - 1)))
	}
	if exc == nil && b.line.rtu {
		u.hold = t.Add(u.timeout)
	}
	u.fails++
	bl.fails++
	if u.demoted {
		u.probes++
		u.probeFull = false
		u.probeNext++
		u.probeWait = min(2*u.probeWait, rarestProbe)
		u.probeAt = t.Add(u.probeWait)
		return u.allBad(dst, t)
	}
	// One block that is never answered does not make the unit dead: another one is asked before it is given up.
	other := u.another(bl)
	if u.fails >= giveUpAfter && (other == nil || bl != u.suspect) {
		u.online, u.demoted = false, true
		u.probes, u.probeNext, u.probeWait = 0, 0, firstProbe
		u.probeAt = t.Add(firstProbe)
		b.mu.Lock()
		b.health.Units[u.index].Online = false
		b.mu.Unlock()
		return u.allBad(dst, t)
	}
	u.suspect = bl
	if other != nil {
		other.due = t
	}
	bl.due = t.Add(min(bl.every, retryAfter))
	if bl.fails >= giveUpAfter {
		// The unit answers, but not this: it must not look alive for ever.
		bl.due = t.Add(min(retryAfter<<min(bl.fails-giveUpAfter, 6), rarestProbe))
		return bl.allBad(dst, t, telemetry.BadComm)
	}
	return dst
}

// another returns a block of the unit other than bl that has been answered so far, or nil.
func (u *unit) another(bl *block) *block {
	for _, o := range u.blocks {
		if o != bl && !o.out && o.fails == 0 {
			return o
		}
	}
	return nil
}

// refused takes in an exception that the unit itself raised.
func (b *Bus) refused(u *unit, bl *block, exc *gomodbus.ModbusError, t telemetry.Mono, dst []telemetry.Sample) []telemetry.Sample {
	switch exc.ExceptionCode {
	case gomodbus.ExceptionCodeIllegalFunction, gomodbus.ExceptionCodeIllegalDataAddress, gomodbus.ExceptionCodeIllegalDataValue:
		if exc.ExceptionCode != gomodbus.ExceptionCodeIllegalFunction && !bl.out {
			if parts := bl.split(); parts != nil {
				for _, p := range parts {
					p.due = t
				}
				i := slices.Index(u.blocks, bl)
				u.blocks = slices.Concat(u.blocks[:i], parts, u.blocks[i+1:])
				return dst
			}
		}
		if !bl.out {
			b.log.Warn("register refused", zap.String("bus", b.name), zap.String("unit", u.cfg.ID),
				zap.String("channel", bl.names()), zap.Uint8("table", uint8(bl.table)),
				zap.Int("address", bl.addr), zap.Int("count", bl.count), zap.Error(exc))
			bl.out = true
			u.blocks = mend(u.blocks, u.limits)
		}
		bl.due = t.Add(min(refusedFirst<<min(bl.refuse, 4), refusedMost))
		bl.refuse++
		return bl.allBad(dst, t, telemetry.BadSensor)
	}
	// A fault, or busy: worth asking again, not at once.
	bl.fails++
	bl.due = t.Add(min(bl.every, retryAfter))
	if bl.fails >= giveUpAfter {
		bl.due = t.Add(max(bl.every, min(retryAfter<<min(bl.fails-giveUpAfter, 6), rarestProbe)))
		return bl.allBad(dst, t, telemetry.BadSensor)
	}
	return dst
}

var _ interface {
	drivers.Bus
	drivers.Writer
} = (*Bus)(nil)
