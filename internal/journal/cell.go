package journal

import (
	"math"
	"time"

	"linli/internal/telemetry"
)

// cell is what is known of a point over one interval, while it is added up. Numbers of a float are its bits in an order
// that is the numbers' (see order), of others the number itself.
type cell struct {
	sum              float64 // value times seconds
	min, max, last   int64
	good, doubt, bad uint32 // µs
	count, changes   uint32
	some             bool // min, max and last are set
}

// hold is what a point's last reading says.
type hold struct {
	num   int64
	at    int64 // monotonic: until then it is in the cells
	state byte  // 0: nothing is known, otherwise 1 + its quality
}

// has reports whether there is a value.
func (h *hold) has() bool { return h.state != 0 && !telemetry.Quality(h.state-1).Bad() }

// order returns bits of a float so that they compare as the floats do. It is its own inverse.
func order(b int64) int64 { return b ^ int64(uint64(b>>63)>>1) }

func order32(b int32) int32 { return b ^ int32(uint32(b>>31)>>1) }

// number returns v as cells have it, of a point of kind; false where it has none.
func number(kind telemetry.Kind, v telemetry.Value) (int64, bool) {
	switch v.Kind() {
	case 0, telemetry.KindText:
		return 0, false
	}
	if kind == telemetry.Float {
		return order(int64(math.Float64bits(v.Float()))), true
	}
	return v.Int(), true
}

// value is the inverse of number.
func value(kind telemetry.Kind, num int64) telemetry.Value {
	switch kind {
	case telemetry.Float:
		return telemetry.FloatValue(math.Float64frombits(uint64(order(num))))
	case telemetry.Bool:
		return telemetry.BoolValue(num != 0)
	}
	return telemetry.ValueFromBits(kind, uint64(num))
}

// figure returns a number of a point of kind to reckon with.
func figure(kind telemetry.Kind, num int64) float64 {
	if kind == telemetry.Float {
		return math.Float64frombits(uint64(order(num)))
	}
	return float64(num)
}

// include lets num have held in the interval.
func (c *cell) include(num int64) {
	if !c.some {
		c.min, c.max, c.some = num, num, true
	}
	c.min, c.max, c.last = min(c.min, num), max(c.max, num), num
}

// add adds the interval o, which is a later part of c.
func (c *cell) add(o *cell) {
	if o.some {
		c.include(o.min)
		c.include(o.max)
		c.last = o.last
	}
	c.sum += o.sum
	c.good, c.doubt, c.bad = c.good+o.good, c.doubt+o.doubt, c.bad+o.bad
	c.count, c.changes = c.count+o.count, c.changes+o.changes
}

// mean returns the mean over the time with a value.
func (c *cell) mean(kind telemetry.Kind) float64 {
	if !c.some {
		return math.NaN()
	}
	lo, hi := figure(kind, c.min), figure(kind, c.max)
	m := figure(kind, c.last)
	if t := float64(c.good) + float64(c.doubt); t > 0 {
		m = c.sum / (t / 1e6)
	}
	return min(max(m, lo), hi)
}

// rollup returns the interval as readers get it.
func (c *cell) rollup(kind telemetry.Kind) Rollup {
	r := Rollup{Count: uint64(c.count), Changes: uint64(c.changes), Mean: math.NaN(),
		Good: time.Duration(c.good) * time.Microsecond, Doubtful: time.Duration(c.doubt) * time.Microsecond, Bad: time.Duration(c.bad) * time.Microsecond}
	if c.some {
		r.Last = value(kind, c.last)
		if kind != telemetry.Enum {
			r.Min, r.Max, r.Mean = value(kind, c.min), value(kind, c.max), c.mean(kind)
		}
	}
	return r
}

// rounded returns the times of the interval in ms, together no longer than width.
func (c *cell) rounded(width time.Duration) (good, doubt, bad uint64) {
	left := uint64(width / time.Millisecond)
	take := func(us uint32) uint64 {
		ms := min((uint64(us)+500)/1000, left)
		left -= ms
		return ms
	}
	return take(c.good), take(c.doubt), take(c.bad)
}
