// Package live holds the latest value of every point.
//
// It keeps apart when a value was last confirmed (every good read) and when it last changed. The Table is safe for
// concurrent use: one writer (the fan-in), any number of readers.
package live

import (
	"sync"

	"linli/internal/telemetry"
)

// Entry is the latest that is known of one point.
type Entry struct {
	// Sample is the latest sample; its Value is empty while the quality is bad.
	telemetry.Sample
	// Known is false until the first sample: nothing is known, which is not the same as a bad sample.
	Known bool
	// Last is the last value of a quality that had one, and Confirmed when that was read last.
	Last      telemetry.Value
	Confirmed telemetry.Mono
	// Changed is when value or quality last changed.
	Changed telemetry.Mono
	// Version is the table's version at the last change of value or quality.
	Version uint64
}

// Table is the current value table.
type Table struct {
	mu      sync.RWMutex
	entries []Entry // guarded by mu; index = PointID
	version uint64  // guarded by mu; grows with each batch that changed something
}

// New returns a table for points 0..points-1, none of them known.
func New(points int) *Table { return &Table{entries: make([]Entry, points)} }

// Apply takes a batch of samples. Samples of unknown points are ignored.
func (t *Table) Apply(batch []telemetry.Sample) {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := t.version + 1
	for _, s := range batch {
		if int(s.Point) >= len(t.entries) {
			continue
		}
		e := &t.entries[s.Point]
		if !e.Known || e.Quality != s.Quality || e.Value != s.Value {
			e.Changed, e.Version, t.version = s.Time, next, next
		}
		e.Sample, e.Known = s, true
		if !s.Quality.Bad() {
			e.Last, e.Confirmed = s.Value, s.Time
		}
	}
}

// Get returns the entry of a point; the zero Entry for a point that does not exist.
func (t *Table) Get(id telemetry.PointID) Entry {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if int(id) >= len(t.entries) {
		return Entry{}
	}
	return t.entries[id]
}

// Snapshot appends all entries in order of PointID to dst and returns it with the table's version.
func (t *Table) Snapshot(dst []Entry) ([]Entry, uint64) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return append(dst, t.entries...), t.version
}
