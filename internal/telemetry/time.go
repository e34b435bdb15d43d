package telemetry

import "time"

// Mono is a point on the monotonic time line of one boot of the box: nanoseconds since that boot (Linux
// CLOCK_BOOTTIME). It never jumps, so timers, windows and ages are computed on it alone. Two Monos compare only
// within one boot.
type Mono int64

// Add returns m moved by d.
func (m Mono) Add(d time.Duration) Mono { return m + Mono(d) }

// Sub returns the duration from o to m.
func (m Mono) Sub(o Mono) time.Duration { return time.Duration(m - o) }

// Never is later than every moment: "nothing is due".
const Never = Mono(1<<63 - 1)

// Now is the present moment as logic gets it: always as an argument, never from a clock of its own.
type Now struct {
	Mono Mono
	// Wall is the same moment on the wall clock in UTC. It is the zero time while the clock has not been set
	// (no RTC, no NTP yet); calendar functions are unknown then.
	Wall time.Time
	// Uncertain says that nobody vouches for Wall: it reads plausibly, and was never set as far as the system knows.
	Uncertain bool
}

// Clock converts between the monotonic time line of this boot and the wall clock. It is built once per process
// (see NewClock) and safe for concurrent use: it has no state of its own that changes. In a synctest bubble it follows the
// bubble's time.
type Clock struct {
	// Boot identifies the boot of the box, so that stored Monos can be told apart (Linux boot_id).
	Boot string

	base   Mono      // Mono at start
	start  time.Time // reading with Go's monotonic part at the same moment
	oldest time.Time // a wall clock before this is taken as not set
	judge  func(mono Mono, stepped bool) Trust
	off    func() time.Duration // nil: nothing
}

// Trust says how far a wall clock can be believed that reads a plausible time.
type Trust uint8

// The degrees of trust.
const (
	ClockUnset     Trust = iota // as if it had never been set
	ClockUncertain              // better than no time, and marked
	ClockSet
)

// JudgedBy returns a clock that is set only as far as judge says, which gets the monotonic time and whether somebody
// has set the wall clock since the start of the process. judge must be safe for concurrent use.
func (c *Clock) JudgedBy(judge func(mono Mono, stepped bool) Trust) *Clock {
	d := *c
	d.judge = judge
	return &d
}

// OffBy returns a clock whose wall clock reads as much more as off says at each reading, as if somebody had set it. It is
// for tests: the time of a test cannot be set. off must be safe for concurrent use.
func (c *Clock) OffBy(off func() time.Duration) *Clock {
	d := *c
	d.off = off
	return &d
}

// NewClock returns a clock for the boot named boot, whose monotonic time is base at the moment of the call. Wall
// clocks that read earlier than oldest are taken as not set: a box without RTC boots in 1970.
func NewClock(boot string, base Mono, oldest time.Time) *Clock {
	return &Clock{Boot: boot, base: base, start: time.Now(), oldest: oldest}
}

// Now returns the present moment.
func (c *Clock) Now() Now {
	t := time.Now()
	n := Now{Mono: c.base.Add(t.Sub(c.start))}
	wall := t.Round(0).UTC() // Round(0) drops Go's monotonic part: from here on it is a wall clock value.
	if c.off != nil {
		wall = wall.Add(c.off())
	}
	if !wall.After(c.oldest) {
		return n
	}
	trust := ClockSet
	if c.judge != nil {
		step := wall.Sub(c.start.Round(0)) - t.Sub(c.start)
		trust = c.judge(n.Mono, step.Abs() > time.Second)
	}
	if trust != ClockUnset {
		n.Wall, n.Uncertain = wall, trust == ClockUncertain
	}
	return n
}

// Mono returns the present moment on the monotonic time line.
func (c *Clock) Mono() Mono { return c.base.Add(time.Since(c.start)) }

// Wall returns the wall clock time of m, using the clock's offset at now, and false while the clock is not set.
func (n Now) WallAt(m Mono) (time.Time, bool) {
	if n.Wall.IsZero() {
		return time.Time{}, false
	}
	return n.Wall.Add(m.Sub(n.Mono)), true
}
