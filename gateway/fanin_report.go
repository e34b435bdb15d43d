package main

import (
	"slices"
	"sync/atomic"
	"time"

	"linli/internal/telemetry"
)

// reporter decides which readings are reported: what it passes is the series that live table, rules, journal and city have,
// and every backtest. It is report-by-exception: a bool, an enum or a text that is as it was, and a number within its deadband,
// is passed once in the maximum interval. What is not passed still confirms the value (live.Table.Confirm) and is seen by those
// who watch outputs (drive.observe).
//
// Always passed: the first reading of each point after the start, after anew, and where quality or value are others; points
// that protect life; events; numbers without a deadband; what the gateway says of its own works, which has its own rhythm.
//
// The deadband counts from the value reported last, not from the one read last: what creeps is reported once it has crept so
// far. The maximum interval is a grid on monotonic time, each device with a phase of its own: the points of a device that
// do not change are passed together, as one row, and the devices of a site one after the other. So between two reports of a point lie
// at most the maximum interval and the time between two readings.
//
// take, and what it uses, belong to the fan-in's goroutine; anew and counted may be called from any.
type reporter struct {
	every   telemetry.Mono
	thinned []bool          // index = PointID: of the others, and those beyond, every reading is passed
	points  []reportedPoint // index = PointID
	round   atomic.Uint32   // that points must have been reported in; see anew

	read   [reasons]atomic.Uint64
	counts [reasons]uint64 // of the batch
	held   uint64          // readings of the last batch that were not passed
}

// reason is why a reading was reported, or was not.
type reason uint8

const (
	reportAlways   reason = iota // its point is not thinned out
	reportFirst                  // since the start, or since anew
	reportQuality                // its quality is another one
	reportChanged                // its value is another one, outside the deadband where there is one
	reportInterval               // the maximum interval has passed
	reportLate                   // it is older than the newest reading of its point
	heldUnchanged                // not reported: as the one reported last
	heldDeadband                 // not reported: within the deadband of the one reported last
	reasons
)

// reasonNames are those in /metrics.
var reasonNames = [reasons]string{"always", "first", "quality", "changed", "interval", "late", "unchanged", "deadband"}

// reported says whether what has the reason is passed.
func (r reason) reported() bool { return r < heldUnchanged }

// reportedPoint is what was reported and read of one point last.
type reportedPoint struct {
	value    telemetry.Value
	due      telemetry.Mono // the next reading from then on is passed in any case
	read     telemetry.Mono // when it was last read
	phase    telemetry.Mono
	deadband telemetry.Deadband
	round    uint32 // of the last report; 0: there was none
	quality  telemetry.Quality
	held     bool // the last reading was not passed
}

// newReporter returns the reporter for an inventory, with what is to be passed once in every at least.
func newReporter(inv *telemetry.Inventory, every time.Duration) *reporter {
	r := &reporter{every: telemetry.Mono(every), thinned: make([]bool, len(inv.Points)), points: make([]reportedPoint, len(inv.Points))}
	r.round.Store(1)
	for i := range inv.Points {
		p := &inv.Points[i]
		if p.Device < 0 || inv.Devices[p.Device].System || p.Def.LifeSafety || p.Def.Event {
			continue
		}
		number := p.Def.Kind == telemetry.Float || p.Def.Kind == telemetry.Int
		// Steps of the golden ratio spread any number of devices evenly.
		const golden = 0.6180339887498949
		at := float64(p.Device) * golden
		r.thinned[i] = !number || p.Deadband.On
		r.points[i] = reportedPoint{deadband: p.Deadband, phase: telemetry.Mono((at - float64(int(at))) * float64(every))}
	}
	return r
}

// anew has the next reading of each point passed, whatever it says: whoever begins to listen knows all of them at once.
func (r *reporter) anew() { r.round.Add(1) }

// counted returns how many readings there were for each reason, since the start.
func (r *reporter) counted(why reason) uint64 { return r.read[why].Load() }

// take returns what is reported of a batch: the batch itself where that is all of it as it is, or in the memory of *dst. now is the
// moment of the step: a sample from the future is passed as one of now. The batch stays as it is.
func (r *reporter) take(now telemetry.Mono, batch []telemetry.Sample, dst *[]telemetry.Sample) []telemetry.Sample {
	if !slices.ContainsFunc(batch, func(s telemetry.Sample) bool {
		return s.Time > now || int64(s.Point) < int64(len(r.thinned)) && r.thinned[s.Point]
	}) {
		r.held = 0
		r.read[reportAlways].Add(uint64(len(batch)))
		return batch
	}
	*dst = r.pass(now, batch, (*dst)[:0])
	return *dst
}

// pass appends what is reported of a batch to dst.
func (r *reporter) pass(now telemetry.Mono, batch, dst []telemetry.Sample) []telemetry.Sample {
	round := r.round.Load()
	clear(r.counts[:])
	for i := range batch {
		s := &batch[i]
		why := reportAlways
		if int64(s.Point) < int64(len(r.thinned)) && r.thinned[s.Point] {
			p := &r.points[s.Point]
			why = p.judge(s, min(s.Time, now), round)
			switch {
			case why == reportLate && p.held:
				// What came before it held until the last reading. Whoever reads the series must not take this one for newer.
				dst = append(dst, telemetry.Sample{Point: s.Point, Quality: p.quality, Time: p.read, Value: p.value})
				p.held = false
			case why == reportLate:
			case why.reported():
				p.value, p.quality, p.round, p.held = s.Value, s.Quality, round, false
				p.due = p.read + r.every - (p.read+r.every-p.phase)%r.every
			default:
				p.held = true
			}
		}
		r.counts[why]++
		if why.reported() {
			dst = append(dst, *s)
			last := &dst[len(dst)-1]
			last.Time = min(last.Time, now)
		}
	}
	for why, n := range r.counts {
		if n > 0 {
			r.read[why].Add(n)
		}
	}
	r.held = r.counts[heldUnchanged] + r.counts[heldDeadband]
	return dst
}

// judge says what becomes of a reading that was taken at a moment, and notes that it was read.
func (p *reportedPoint) judge(s *telemetry.Sample, at telemetry.Mono, round uint32) reason {
	if p.round != 0 && at < p.read {
		return reportLate
	}
	p.read = at
	switch {
	case p.round != round:
		return reportFirst
	case s.Quality != p.quality:
		return reportQuality
	case s.Value == p.value && at < p.due:
		return heldUnchanged
	case s.Value == p.value:
		return reportInterval
	case !p.deadband.On || p.deadband.Outside(s.Value.Float(), p.value.Float()):
		return reportChanged
	case at < p.due:
		return heldDeadband
	}
	return reportInterval
}
