package journal

import (
	"time"

	"linli/internal/telemetry"
)

// Rollup is what is known of a point over an interval. A reading holds until the next one, the end of the process that
// took it, or a frame that is lost; so time, and not the number of readings, is what figures are weighted by.
type Rollup struct {
	Count   uint64 // readings with a value
	Changes uint64 // of a bool or an enum: readings with another value than the one before
	// Mean over the time with a value; of a bool the share of that time in which it was true. NaN where there is none, and
	// for an enum. Its error is 1/131070 of the distance from Min to Max.
	Mean float64
	// Min and Max of what held in the interval, and what held last: zero where nothing did. An enum has no Min and Max.
	Min, Max, Last telemetry.Value
	// Good, Doubtful (uncertain, over_range, under_range) and Bad are how long the point was of such quality. Of the rest of
	// the interval nothing is known.
	Good, Doubtful, Bad time.Duration
}

// Unknown returns how long nothing is known of the interval.
func (r *Row) Unknown() time.Duration {
	return max(r.Until.Sub(r.At)-r.Good-r.Doubtful-r.Bad, 0)
}
