// Package gpio drives the lines of one GPIO chip: inputs, supervised pairs of contacts, pulse counters, Wiegand readers
// and outputs. A Bus is one chip; a line of the site file is one channel of its single unit.
//
// # What it guarantees
//
// An input's change is told with the time of the edge, taken in the kernel's interrupt, not with the time at which we
// got to see it. A level counts once it has held for the line's debounce, and then dates from when it began to hold.
// Each line is looked at every 0.9 s as well: an edge that was lost is noticed there, counted, and the level repaired.
// Looks confirm the points of the line: those that protect life each time, others at least every 5 s. A line that
// cannot be had (in use, no permission, its chip unplugged) makes its own points BadComm and no others; it is tried
// again after 1 s, then ever less often up to every 5 s, for as long as it takes. A chip without interrupts is looked at
// every 20 ms instead, and cannot count or read cards.
//
// A supervised pair has a contact that is closed at rest (NC) and one that is open (NO). NC open and NO closed is true,
// the opposite false, both the same a fault of the wiring: BadSensor, once it has lasted longer than the debounce and
// than 50 ms, because contacts pass through it while they move.
//
// A counter counts the edges it is told to, exactly, also those that the kernel had to throw away: its sequence numbers
// tell how many they were. It counts since the start of the process and begins at 0 again then; who computes an increase
// takes a fall as a new start. Edges while the line was not ours are not counted. At most one sample per 100 ms.
//
// A Wiegand frame becomes one sample of a keyed hash (see cardHash); no card number is kept or logged. A frame of wrong
// length or parity is counted and gives no sample. Keys of a keypad are counted and otherwise ignored. The card point of
// a reader is an event: it is not confirmed and does not go bad. What tells that a reader cannot be read (its lines are
// somebody else's, the site's secret is missing) is a bool point bound to the same line: true while that is so.
//
// # Outputs
//
// An output is taken with its value in the same call of the kernel, so that it never shows another one. on_start off or
// on is that value. on_start hold keeps the level of a line that is an output already: it is taken as it is, read, and
// confirmed as an output of that level; neither step changes it. A line that is not an output yet has no level to be
// held and starts off. After its chip was away an output comes back with what it was last set to. Close sets what
// on_stop says. A feedback contact closes while the output is on; it pulls against the line's bias: with pull_up it is
// closed while low, otherwise while high. A write fails (drivers.NotTakenError) unless it follows within 500 ms; an
// output whose contact disagrees for that long later reads BadSensor.
//
// What a line does when the process ends without Close (crash, SIGKILL), and after Close or Safe as well, is up to the
// chip's driver. The kernel's library leaves direction and level alone when a line is let go, and most drivers do; some
// turn it into an input, and the board's pull or the relay's own input then decide. On a Raspberry Pi it is a setting:
// the kernel of Raspberry Pi OS keeps the level (pinctrl_bcm2835.persist_gpio_outputs=y), others do not unless told so.
// Safe sets every output to its on_stop state from another process, for the drivers that keep the level, where a siren
// would sound on; on the others nothing that a process sets outlives it. Choose relays whose undriven state is the safe
// one.
//
// A chip behind I2C or USB is as fast as its driver: each look waits for the bus, and the kernel has no way to give up on
// a driver that hangs. Step is not bounded then, and with it hang this chip's points, its outputs and its Close; other
// buses go on. Nothing that protects life, and no siren, belongs on such a chip.
//
// Two limits of the kernel are worth knowing: a bias that the chip does not have is ignored silently, and a pulse
// shorter than the interrupt takes to be served (some 10 to 100 µs) may show as two edges of the same level; inputs then
// see nothing, counters count one.
//
// # Concurrency
//
// A Bus belongs to one goroutine, its supervisor; Health, Stats, Wake, and the pins given by Pin may be used from any.
// Each line with edges has a goroutine that waits for them, from the Step that took the line until Close or until the
// line is lost. Queues between are bounded (queueMax edges each); what does not fit is counted, and the level read.
package gpio

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	periph "periph.io/x/conn/v3/gpio"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// Config is what a Bus needs to know.
type Config struct {
	Name string // the bus's id
	Chip string // label, name or path of the chip
	// Lines are parallel to the channels of Unit's profile: a Binding's channel is the index of its line.
	Lines []firmwareconfig.GPIOLine
	Unit  firmwareconfig.Unit
	// Key gives the site's secret for the Wiegand lines whose own Key is empty. It is asked when such a line is to be
	// taken, until it gives one: a reader without it is not opened and says why, and everything else runs. nil: every
	// such line has its own.
	Key   func() ([]byte, error)
	Clock *telemetry.Clock
	Log   *zap.Logger // nil: none
	Host  Host        // nil: the kernel's
}

// keyMin is the least length in bytes of the key that card numbers are hashed with. There are only 2^24 card numbers in
// a 26 bit frame: a key that can be guessed gives all of them away.
const keyMin = 16

// Validate returns every mistake in the Config.
func (c *Config) Validate() error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Chip == "" {
		add("no chip: name one by its label or name")
	}
	if c.Clock == nil {
		add("no clock")
	}
	if c.Unit.Profile == nil || len(c.Unit.Profile.Channels) != len(c.Lines) {
		add("%d lines need as many channels", len(c.Lines))
	} else {
		for _, b := range c.Unit.Bindings {
			if b.Channel < 0 || b.Channel >= len(c.Lines) {
				add("a point is bound to line number %d of %d", b.Channel, len(c.Lines))
			}
		}
	}
	used := map[string]string{}
	use := func(id, line string) {
		if line == "" {
			return
		}
		if other, ok := used[line]; ok {
			add("line %s: %s is in use by line %s", id, line, other)
		}
		used[line] = id
	}
	for i := range c.Lines {
		l := &c.Lines[i]
		use(l.ID, l.Line)
		use(l.ID, l.Second)
		use(l.ID, l.Feedback)
		two := l.Kind == firmwareconfig.GPIOPair || l.Kind == firmwareconfig.GPIOWiegand
		switch {
		case l.Kind < firmwareconfig.GPIOInput || l.Kind > firmwareconfig.GPIOOutput:
			add("line %s: no such kind of line: %d", l.ID, l.Kind)
		case l.Line == "":
			add("line %s: no GPIO line named", l.ID)
		case two != (l.Second != ""):
			add("line %s: pairs and Wiegand readers have two GPIO lines, others one", l.ID)
		case l.Feedback != "" && l.Kind != firmwareconfig.GPIOOutput:
			add("line %s: only an output has a feedback contact", l.ID)
		case l.Debounce < 0 || l.Debounce > time.Minute:
			add("line %s: debounce of %v: at most 1m", l.ID, l.Debounce)
		}
		if l.Kind == firmwareconfig.GPIOWiegand {
			if len(l.Key) < keyMin && (len(l.Key) > 0 || c.Key == nil) {
				add("line %s: a Wiegand reader needs a key of at least %d bytes to hash card numbers with", l.ID, keyMin)
			}
			for _, n := range l.Bits {
				if n != 26 && n != 34 && n != 37 {
					add("line %s: frames of %d bits: a Wiegand reader sends 26, 34 or 37", l.ID, n)
				}
			}
		}
	}
	return errors.Join(errs...)
}

// Bus is one GPIO chip. See the package comment for who may call what.
type Bus struct {
	name, chip string
	unit       string
	host       Host
	clock      *telemetry.Clock
	log        *zap.Logger
	lines      []*line // those of the Config, then feedback contacts
	outs       map[telemetry.PointID]target
	wake       chan struct{}
	closed     bool
	chipErr    error // why the chip cannot be had, nil while it can

	mu     sync.Mutex // guards what follows, for Health and Stats
	health drivers.BusHealth
	stats  Stats
}

// target is the output that a point writes.
type target struct {
	l *line
	p *point
}

// Stats counts what happened on a chip since start.
type Stats struct {
	Edges     uint64 // told by the kernel
	Lost      uint64 // edges that were not fetched in time; counters have counted them all the same
	Repaired  uint64 // levels that were found to differ from what the edges had said
	Untold    uint64 // changes that were not told one by one because there were too many
	Cards     uint64 // good Wiegand frames
	BadFrames uint64 // of wrong length or parity
	Keys      uint64 // bursts of a keypad
	Reads     uint64 // looks at the levels
	Failures  uint64 // attempts to take a line, and looks, that failed
}

// New returns the Bus. It opens nothing before the first Step.
func New(c Config) (*Bus, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("gpio bus %s: %w", c.Name, err)
	}
	b := &Bus{
		name: c.Name, chip: c.Chip, unit: c.Unit.ID, host: c.Host, clock: c.Clock, log: c.Log,
		outs: map[telemetry.PointID]target{}, wake: make(chan struct{}, 1),
	}
	if b.host == nil {
		b.host = kernelHost(c.Clock)
	}
	if b.log == nil {
		b.log = zap.NewNop()
	}
	for i := range c.Lines {
		spec := c.Lines[i]
		spec.Bits = slices.Clone(spec.Bits)
		if spec.Kind == firmwareconfig.GPIOWiegand && len(spec.Bits) == 0 {
			spec.Bits = []int{26, 34, 37}
		}
		l := newLine(spec)
		l.key = c.Key
		b.lines = append(b.lines, l)
	}
	for _, l := range slices.Clone(b.lines) {
		if l.spec.Feedback != "" {
			l.feedback = newLine(firmwareconfig.GPIOLine{
				ID: l.spec.ID + " feedback", Line: l.spec.Feedback, Kind: firmwareconfig.GPIOInput, Bias: l.spec.Bias,
				ActiveLow: l.spec.Bias == firmwareconfig.GPIOPullUp, Debounce: l.spec.Debounce,
			})
			b.lines = append(b.lines, l.feedback)
		}
	}
	for _, bind := range c.Unit.Bindings {
		l := b.lines[bind.Channel]
		p := newPoint(&c.Unit.Profile.Channels[bind.Channel], bind)
		l.points = append(l.points, p)
		if l.out != nil {
			b.outs[p.id] = target{l, p}
		}
	}
	for _, l := range b.lines {
		if l.out != nil {
			l.out.notify = b.signal
		}
	}
	b.health = drivers.BusHealth{Bus: b.name, Units: []drivers.UnitHealth{{Unit: b.unit}}}
	return b, nil
}

// Wake is signalled when edges, or something else that Step should see to, are waiting.
func (b *Bus) Wake() <-chan struct{} { return b.wake }

func (b *Bus) signal() {
	select {
	case b.wake <- struct{}{}:
	default: // Step is going to look anyway.
	}
}

// Health returns the state of the chip: one unit for all its lines. The unit is online while every line is ours; its
// LastError is that of the first that is not. Answers counts looks and edges, Errors bad Wiegand frames and failed
// looks, Late edges that were lost and changes that were not told, Retries levels that had to be repaired.
func (b *Bus) Health() drivers.BusHealth {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := b.health
	h.Units = slices.Clone(h.Units)
	return h
}

// Stats returns what happened since start.
func (b *Bus) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stats
}

// Pin returns the output with that id (GPIOLine.ID) as periph's drivers want it, or false. It fails while the line is
// not ours. What is set through it is told as the point's value.
func (b *Bus) Pin(id string) (periph.PinOut, bool) {
	for _, l := range b.lines {
		if l.out != nil && l.spec.ID == id {
			return l.out, true
		}
	}
	return nil, false
}

// Close sets every output to its on_stop state and lets the lines go.
func (b *Bus) Close() error {
	if b.closed {
		return nil
	}
	b.closed = true
	var errs []error
	for _, l := range b.lines {
		if l.out != nil && l.lines != nil && l.spec.OnStop != firmwareconfig.OutputHold {
			if err := l.out.set(l.spec.OnStop == firmwareconfig.OutputOn); err != nil {
				errs = append(errs, fmt.Errorf("output %s to its on_stop state: %w", l.spec.ID, err))
			}
		}
	}
	for _, l := range b.lines {
		if l.lines != nil {
			errs = append(errs, l.release())
		}
	}
	return errors.Join(errs...)
}

// Safe sets every output of the chip to its on_stop state, leaving those that hold alone, and lets the lines go. It is
// for the time when no Bus runs: after a crash. One output that cannot be set does not keep it from the others, nor does
// a mistake in what the Config says of lines that are no outputs.
func Safe(ctx context.Context, c Config) error {
	host := c.Host
	if host == nil {
		clock := c.Clock
		if clock == nil {
			clock = telemetry.NewClock("", 0, time.Time{}) // No edge is told: no time is needed.
		}
		host = kernelHost(clock)
	}
	var chip Chip
	var errs []error
	for i := range c.Lines {
		l := &c.Lines[i]
		if l.Kind != firmwareconfig.GPIOOutput || l.OnStop == firmwareconfig.OutputHold {
			continue
		}
		if err := ctx.Err(); err != nil {
			errs = append(errs, fmt.Errorf("output %s was not set: %w", l.ID, err))
			continue
		}
		if chip == nil {
			var err error
			if chip, err = host.Open(c.Chip); err != nil {
				return fmt.Errorf("gpio bus %s: no output was set: %w", c.Name, err)
			}
			defer chip.Close()
		}
		if err := safe(chip, l); err != nil {
			errs = append(errs, fmt.Errorf("output %s: %w", l.ID, err))
		}
	}
	return errors.Join(errs...)
}

func safe(chip Chip, l *firmwareconfig.GPIOLine) error {
	want := periph.Level(l.OnStop == firmwareconfig.OutputOn)
	lines, err := chip.Request(outputRequest(l, want, false))
	if err != nil {
		return err
	}
	defer lines.Close()
	got := make([]periph.Level, 1)
	if lines.Read(got) == nil && got[0] != want { // A chip that cannot read its outputs says so, and is believed.
		return &drivers.NotTakenError{Want: telemetry.BoolValue(bool(want)), Got: telemetry.BoolValue(bool(got[0]))}
	}
	return nil
}
