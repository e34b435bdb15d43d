// Package modbus reads and writes Modbus units: over TCP, over a serial line (RTU), and RTU framing over TCP.
//
// # What it does
//
// A Bus is one serial line or one TCP endpoint with its units. Each Step carries out one transaction at most, or over Modbus
// TCP, where nothing protects life, a run of those that are due together (ahead.go):
//
//   - The planner (plan.go) makes the fewest read requests out of the channels that are bound to points, within
//     the limits of the protocol and of the unit's profile, and around what the unit refuses (refuse.go). Points of
//     one request share their time.
//   - The scheduler (schedule.go) picks the request whose deadline is nearest, life-safety points first, and reads
//     along what falls due soon and costs no request of its own.
//   - The line (line.go) sends it, under one deadline for the whole exchange, and resynchronises after anything odd.
//   - The codec (codec.go) turns words into values of the point's kind, with quality.
//
// PDUs and the client are goburrow/modbus; its transports are not used (no context, no late-reply handling).
//
// # Guarantees
//
//   - One dead unit costs at most the dead-time share (10 %) of the line. After two failed transactions in a row all
//     its points are BadComm, and it is only probed: first after 1 s (sooner where its failures cost little, never
//     within 250 ms), then more and more rarely, at least every 15 s or units x probe / share, with a short timeout and
//     every fifth time with the full one. When it answers, everything of it is read at once. The first that answers when
//     all were silent has the others probed at once, for which there is another 5 %. Where three units fall silent one
//     after the other the rest are asked at once, once each and with a short timeout, also at the start: all points
//     behind a dead link are bad within seconds (250 units that never answered: 30 s).
//   - A unit's pauses are its own: while it rests (Timing.Gap) others are asked. Only where it wants silence before it is
//     asked after another unit (Timing.SwitchGap) does the line wait, and life-safety reads may break that.
//   - No register is read in vain twice: what a unit refuses is found alone, gaps and lengths that it refuses are learned,
//     and both are planned around, also after a restart (Memory). A register that it ignores, or for which it says that
//     it has failed (exception 4), is found in the same way, within the dead-time share, and not remembered (silent.go).
//   - Tools may ask, listen and suspend the bus between its own transactions (guest.go).
//   - A late, repeated, foreign or damaged frame is not taken for an answer: no request goes out whose answer could be one
//     that is still owed, and what may be an earlier answer once more is believed only when it stays alone (owed.go, which
//     says what no master can exclude, and twice.go).
//   - A write is sent once, and a unit that was given up is asked first: where it is silent, nothing is sent
//     (drivers.ErrSilent). Between its transactions, and while the unit rests, others are read. Where its outcome is
//     unknown, the register is read back, and if that does not tell, the error is a *drivers.OutcomeUnknownError.
//   - Step and Write end at once when their context does, and otherwise within the unit's timeout plus the time the
//     frames take; connecting is bounded by 1 s.
//   - Where several units share a bus with life-safety points, one transaction holds it for at most 300 ms: longer
//     timeouts are cut, and reads are planned so that a unit has at least half of that to begin its answer.
//   - A peer that refuses connections, or hangs up on whatever unit is asked, is a lost link: all points of the bus
//     are BadComm at once, and it is tried again after 250 ms, then more and more rarely, at least every 30 s. One
//     at which it hangs up only for some units has lost those alone. One that accepts and is silent has units that do
//     not answer; when the first of them answers again, all are asked at once.
//
// # Quality
//
//	BadComm     no valid answer twice in a row (also: gateway says its target is away, exceptions 10 and 11; no link)
//	BadSensor   invalid sentinel, NaN, validity bit not set; the unit refuses the register (exceptions 1, 2, 3; a
//	            request for several is bisected until the refused one stands alone); faults (exceptions 4 to 8) twice
//	OverRange   beyond Channel.Max, at the bound; UnderRange below Min (turned around where the point falls as the
//	            channel rises)
//	Uncertain   good, but within the profile's warm-up after the unit appeared
//	BadMaintenance   the bus is suspended
//
// A unit with a warm-up that has not answered since the start is not called silent before its warm-up has passed: it may
// have been switched on together with the gateway. Its points are unknown until then.
//
// Points that stay bad are told again at most once a minute.
//
// It does not scan, does not configure units, and does not speak Modbus ASCII.
//
// # Concurrency
//
// Step, Write, Ask, Hear, Suspend and Close belong to one goroutine (see drivers.Supervise). Health may be called from
// any.
package modbus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// The transports of a Config.
const (
	TCP        = "tcp"
	RTU        = "rtu"
	RTUOverTCP = "rtu_over_tcp"
)

const (
	defaultTimeout = 300 * time.Millisecond
	defaultDelay   = 20 * time.Millisecond
	connectTimeout = time.Second
	// holdMax is the longest that one transaction may hold a line with life-safety points on it.
	holdMax = 300 * time.Millisecond
	// waitLeast is the part of holdMax that is left to a unit to begin its answer, however long the frames take.
	waitLeast = holdMax / 2
)

// Config describes one bus.
type Config struct {
	Name      string
	Transport string // TCP, RTU or RTUOverTCP
	Address   string // host:port, for TCP and RTUOverTCP
	Device    string // for RTU: the tty, preferably by a stable name (/dev/serial/by-id/...)
	// Line is the setting of the serial line; the zero value means 9600 8N1. RTUOverTCP uses it to know how long
	// frames take behind the converter.
	Line firmwareconfig.Line
	// Timeout is the longest wait for an answer. It overrides what the profiles state; 0 means the profile's, or else
	// 300 ms. Whoever states it, it is cut so that a transaction takes 300 ms at most where any point of the bus is
	// life-safety, unless the bus has a single unit: nobody else waits for that one. Each unit to which this happens
	// is logged by New.
	Timeout time.Duration
	Units   []firmwareconfig.Unit
	// Clock measures how long a transaction took, so that samples carry the moment their answer was complete. It is
	// the clock whose Monos Step is given; nil uses one of the bus's own, set by each Step.
	Clock *telemetry.Clock
	Log   *zap.Logger // nil logs nothing
	// Inbound is where the connections of a converter that dials in come from; nil dials Address.
	Inbound *Route
	// Memory keeps learned holes; nil forgets them.
	Memory Memory
	// IgnoreTID is for TCP gateways that do not repeat the transaction id, which is not looked at then. The connection is
	// closed after every timeout and when something came that was not asked for; that look costs 100 µs a request.
	IgnoreTID bool
	// AtOnce is how many requests may be on their way at once, over TCP, where no point of the bus is life-safety: 0 or 1 means
	// one, 16 is the most. The peer must answer in order.
	AtOnce int
}

// validate applies the defaults and collects everything wrong.
func (c *Config) validate() error {
	var errs []error
	wrong := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("bus %s: "+format, append([]any{c.Name}, args...)...))
	}
	if c.Line.Baud == 0 {
		c.Line.Baud = 9600
	}
	if c.Line.Format == "" {
		c.Line.Format = "8N1"
	}
	if c.Clock == nil {
		c.Clock = telemetry.NewClock("", 0, time.Time{})
	}
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	if err := checkLine(c.Line); err != nil {
		wrong("%w", err)
	}
	switch c.Transport {
	case TCP, RTUOverTCP:
		if _, _, err := net.SplitHostPort(c.Address); err != nil && c.Inbound == nil {
			wrong("address: %w", err)
		}
	case RTU:
		if c.Device == "" {
			wrong("no device")
		}
	default:
		wrong("unknown transport %q (tcp, rtu or rtu_over_tcp)", c.Transport)
	}
	switch {
	case c.AtOnce < 0 || c.AtOnce > aheadMost:
		wrong("%d requests at once (1 to %d)", c.AtOnce, aheadMost)
	case c.AtOnce > 1 && (c.Transport != TCP || c.IgnoreTID || c.Inbound != nil):
		wrong("several requests at once need Modbus TCP, dialled, with transaction ids")
	}
	seen := map[int]string{}
	for i := range c.Units {
		u := &c.Units[i]
		switch other := seen[u.Address]; {
		case u.Profile == nil:
			wrong("unit %s has no profile", u.ID)
		case u.Address < 0 || u.Address > 255:
			wrong("unit %s: address %d", u.ID, u.Address)
		case u.Address == 0 && c.Transport != TCP:
			wrong("unit %s: address 0 is broadcast, which nobody answers", u.ID)
		case other != "":
			wrong("units %s and %s share address %d", other, u.ID, u.Address)
		}
		seen[u.Address] = u.ID
	}
	return errors.Join(errs...)
}

// checkLine checks the settings of a serial line.
func checkLine(l firmwareconfig.Line) error {
	if l.Baud < 50 || l.Baud > 4_000_000 {
		return fmt.Errorf("%d baud", l.Baud)
	}
	switch l.Format {
	case "8N1", "8N2", "8E1", "8E2", "8O1", "8O2":
		return nil
	}
	return fmt.Errorf("line format %q (8N1, 8N2, 8E1, 8E2, 8O1 or 8O2)", l.Format)
}

// Bus is one serial line or Modbus endpoint. It implements drivers.Bus, drivers.Writer and drivers.Host.
type Bus struct {
	name  string
	log   *zap.Logger
	clock *telemetry.Clock
	line  *line
	units []*unit
	out   map[telemetry.PointID]*output
	rand  *rand.Rand // jitter; seeded by the bus's name so that runs can be repeated

	deadFree  telemetry.Mono // when the dead-time share allows the next probe
	lastUnit  int            // the address that was asked last
	lastEnd   telemetry.Mono // when that was over
	hushFrom  telemetry.Mono // since when the line is kept silent for a unit
	party     []*block       // those that the request in flight reads
	mutes     int            // units in a row that fell silent
	muteRound int            // counts such rows; from 1
	memory    Memory
	inbound   *Route
	lifeRun   int            // life-safety transactions in a row
	linkAt    telemetry.Mono // no attempt to connect before
	linkWait  time.Duration  // the next backoff
	lostAt    telemetry.Mono // when the link was lost last
	spokeAt   telemetry.Mono // when a unit answered last
	rouseFree telemetry.Mono // all are not roused before
	doubtFree telemetry.Mono // all are not suspected before
	life      bool           // a life-safety point is read here; set in newBus only
	urged     *block         // to be read next, whatever is due: it tells whether the link works
	suspect   *unit          // where the peer hung up on a fresh connection; nothing has come over the link since
	linkTry   int            // the unit asked last after the link was lost
	busy      [60]time.Duration
	busySum   time.Duration // of busy
	busySlot  int64
	busyFirst telemetry.Mono
	started   bool
	bursts    bool           // requests come in bursts instead of evenly
	due       []*block       // memory for round
	round     []*block       // due when best looked last and not read yet, most urgent first
	roundEnd  telemetry.Mono // best looks again then
	later     telemetry.Mono // when something is due that is not in round; 0 where best has to look
	ahead     int            // requests on their way at once, at most
	aheadFree telemetry.Mono // one by one until then
	flights   []flight       // on their way
	stepNow   telemetry.Mono // what the last Step was told
	stepClock telemetry.Mono // what the clock said at that moment
	guests    guests

	mu     sync.Mutex // guards what Health reads: health of the bus and of each unit
	health drivers.BusHealth
}

// New returns a bus. It connects to nothing: that happens in Step.
func New(c Config) (*Bus, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	return newBus(c, c.opener())
}

// newBus builds a bus over the given way to open its port. c is validated.
func newBus(c Config, open func(context.Context) (port, error)) (*Bus, error) {
	b := &Bus{
		name: c.Name, log: c.Log, clock: c.Clock,
		line:   &line{open: open, rtu: c.Transport != TCP, anyID: c.IgnoreTID},
		bursts: c.Transport == TCP, ahead: c.AtOnce,
		out:    map[telemetry.PointID]*output{},
		rand:   rand.New(rand.NewPCG(seed(c.Name), 1)),
		health: drivers.BusHealth{Bus: c.Name},
		memory: c.Memory, inbound: c.Inbound, muteRound: 1, lastUnit: -1, hushFrom: telemetry.Never,
	}
	b.guests = guests{own: c.Line, set: c.Line, serial: c.Transport == RTU, asked: map[byte]*unit{}}
	b.stepNow = c.Clock.Mono()
	b.stepClock = b.stepNow
	b.line.heard, b.line.redo = b.hear, b.redo
	if b.line.rtu {
		b.line.char = charTime(c.Line.Baud, c.Line.Format)
		b.line.quiet = quietTime(c.Line.Baud)
	}
	for i := range c.Units {
		for _, bind := range c.Units[i].Bindings {
			b.life = b.life || bind.Def != nil && bind.Def.LifeSafety
		}
	}
	if b.life && len(c.Units) > 1 {
		b.line.hold, b.guests.hold = holdMax, holdMax
	}
	var known []Hole
	if c.Memory != nil {
		known = c.Memory.Load()
	}
	var errs []error
	for i := range c.Units {
		t := c.Units[i].Profile.Timing
		u := &unit{cfg: c.Units[i], bus: b, limits: resolve(c.Units[i].Profile.Limits), index: i}
		u.timeout = cmp.Or(max(c.Timeout, 0), max(t.Timeout, 0), defaultTimeout)
		if b.line.hold > 0 && u.timeout > holdMax {
			b.log.Warn("timeout shortened: other units of the bus wait, and it has life-safety points",
				zap.String("bus", b.name), zap.String("unit", u.cfg.ID), zap.Duration("wanted", u.timeout), zap.Duration("most", holdMax))
		}
		u.delay = t.ReadDelay
		if u.delay <= 0 {
			u.delay = defaultDelay
		}
		if b.life && b.line.rtu {
			n := b.registersWithin(holdMax, max(u.delay, waitLeast))
			u.limits.registers, u.limits.bits = min(u.limits.registers, n), min(u.limits.bits, 16*n)
		}
		var err error
		if u.groups, u.points, err = plan(&u.cfg, u.limits); err != nil {
			errs = append(errs, fmt.Errorf("bus %s: %w", c.Name, err))
			continue
		}
		u.recall(known)
		u.arrange()
		for j := range u.cfg.Bindings {
			bind := u.cfg.Bindings[j]
			if ch := &u.cfg.Profile.Channels[bind.Channel]; ch.Writable && bind.Def.Writable {
				b.out[bind.Point] = &output{unit: u, codec: newCodec(ch), binder: newBinder(bind)}
			}
		}
		b.units = append(b.units, u)
		b.guests.asked[byte(u.cfg.Address)] = u
		b.health.Units = append(b.health.Units, drivers.UnitHealth{Unit: u.cfg.ID, Address: u.cfg.Address})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return b, nil
}

// now returns the present moment on the time line that Step is given.
func (b *Bus) now() telemetry.Mono { return b.stepNow.Add(b.clock.Mono().Sub(b.stepClock)) }

// registersWithin returns how many registers one read may have so that it holds the line no longer than d. Four are
// always allowed: the widest value.
func (b *Bus) registersWithin(d, delay time.Duration) int {
	rest := d - delay - 2*b.line.quiet - b.line.wire(requestSize+answerOver)
	return max(4, int(rest/b.line.wire(2)))
}

// seed makes a number of a name (FNV-1a).
func seed(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// Close closes the port. A later Step would open it again.
func (b *Bus) Close() error {
	b.mu.Lock()
	b.health.Up = false
	b.mu.Unlock()
	return b.line.close()
}
