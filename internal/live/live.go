// Package live holds the latest value of every point.
//
// It keeps apart when a value was last confirmed (every good read, reported or not, see Confirm) and when it last changed. Of points whose samples
// are events (a card was presented) it also keeps the newest samples one by one, so that none that came between two looks
// at the table is missed, nor one that repeats the last. The Table is safe for concurrent use: one writer (the
// fan-in), any number of readers.
package live

import (
	"iter"
	"sync"

	"linli/internal/telemetry"
)

// Entry is the latest that is known of one point.
type Entry struct {
	// Sample is the latest sample; its Value is empty while the quality is bad.
	telemetry.Sample
	// Known is false until the first sample: nothing is known, which is not the same as a bad sample.
	Known bool
	// Last is the last reported value of a quality that had one, and Confirmed when it was last read to be so: as it is, or
	// within the point's deadband of it.
	Last      telemetry.Value
	Confirmed telemetry.Mono
	// Changed is when value or quality last changed.
	Changed telemetry.Mono
	// Version is the table's version at the last change of value or quality.
	Version uint64
}

// kept is what the table has of one point: an Entry without what follows from the rest.
type kept struct {
	last                     telemetry.Value
	time, confirmed, changed telemetry.Mono
	version                  uint64
	quality                  telemetry.Quality
	known                    bool
}

// value is that of the latest sample: what it last was, where the quality has one.
func (k *kept) value() telemetry.Value {
	if k.quality.Bad() {
		return telemetry.Value{}
	}
	return k.last
}

func (k *kept) entry(id telemetry.PointID) Entry {
	e := Entry{Known: k.known, Last: k.last, Confirmed: k.confirmed, Changed: k.changed, Version: k.version}
	if k.known {
		e.Sample = telemetry.Sample{Point: id, Quality: k.quality, Time: k.time, Value: k.value()}
	}
	return e
}

// eventsKept bounds the events that are kept; the oldest go. Whoever looks every second misses none below a thousand
// cards a second.
const eventsKept = 1024

// Table is the current value table.
type Table struct {
	event []bool // index = PointID: its samples are events; shorter where the rest are not

	mu      sync.RWMutex
	entries []kept             // guarded by mu; index = PointID
	version uint64             // guarded by mu; grows with each batch that changed something
	events  []telemetry.Sample // guarded by mu; event n is at n modulo eventsKept
	next    uint64             // guarded by mu; number of the next event
}

// New returns a table for points 0..points-1, none of them known. The samples of the points in events are events.
func New(points int, events ...telemetry.PointID) *Table {
	t := &Table{entries: make([]kept, points)}
	for _, id := range events {
		if int(id) < points {
			t.event = append(t.event, make([]bool, max(0, int(id)+1-len(t.event)))...)
			t.event[id] = true
		}
	}
	return t
}

// Resize makes the table one of points 0..points-1: entries beyond go, new ones are not known. What is known of the others
// stays.
func (t *Table) Resize(points int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.version++
	for i := len(t.entries); i < points; i++ {
		t.entries = append(t.entries, kept{})
	}
	t.entries = t.entries[:points]
}

// Apply takes a batch of samples, none of them from the future. Samples of unknown points are ignored, and, of points whose
// samples are no events, those that are older than the newest: what is known of a point never goes back.
func (t *Table) Apply(batch []telemetry.Sample) {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := t.version + 1
	for i := range batch {
		s := &batch[i]
		if int64(s.Point) >= int64(len(t.entries)) {
			continue
		}
		e := &t.entries[s.Point]
		happened := int(s.Point) < len(t.event) && t.event[s.Point] && !s.Quality.Bad()
		if happened {
			t.keep(*s)
		} else if e.known && s.Time < e.time {
			e.confirm(s)
			continue
		}
		if !e.known || happened || e.quality != s.Quality || !s.Quality.Bad() && e.last != s.Value {
			e.changed, e.version, t.version = s.Time, next, next
		}
		e.quality, e.time, e.known = s.Quality, s.Time, true
		if !s.Quality.Bad() {
			e.last, e.confirmed = s.Value, s.Time
		}
	}
}

// confirm takes in that the last value was read to be so.
func (e *kept) confirm(s *telemetry.Sample) {
	if s.Time > e.confirmed && !s.Quality.Bad() && !e.last.IsZero() {
		e.confirmed = s.Time
	}
}

// Confirm takes what was read, also what is not reported because it says nothing new: nothing changes but Entry.Confirmed.
// It follows Apply of what is reported of the same readings; where that is all of them it has nothing to add.
func (t *Table) Confirm(read []telemetry.Sample) {
	if len(read) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range read {
		if s := &read[i]; int64(s.Point) < int64(len(t.entries)) {
			t.entries[s.Point].confirm(s)
		}
	}
}

// keep appends an event. t.mu is held.
func (t *Table) keep(s telemetry.Sample) {
	if len(t.events) < eventsKept {
		t.events = append(t.events, s)
	} else {
		t.events[t.next%eventsKept] = s
	}
	t.next++
}

// Events appends the events from number since on to dst, oldest first, and returns it with the number of the next. Those
// that are no longer kept are left out.
func (t *Table) Events(dst []telemetry.Sample, since uint64) ([]telemetry.Sample, uint64) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for n := max(since, t.next-min(t.next, uint64(len(t.events)))); n < t.next; n++ {
		dst = append(dst, t.events[n%eventsKept])
	}
	return dst, t.next
}

// Get returns the entry of a point; the zero Entry for a point that does not exist.
func (t *Table) Get(id telemetry.PointID) Entry {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if int(id) >= len(t.entries) {
		return Entry{}
	}
	return t.entries[id].entry(id)
}

// partOf is how many entries All copies at a time.
const partOf = 64

// All yields a copy of each entry, in order of PointID; the entry is good until the next one. The table goes on changing
// meanwhile: what changes after a call of Version that came before has a later version than that returned.
func (t *Table) All() iter.Seq2[telemetry.PointID, *Entry] {
	return func(yield func(telemetry.PointID, *Entry) bool) {
		part, e := make([]kept, 0, partOf), Entry{}
		for from := 0; ; from += partOf {
			t.mu.RLock()
			part = append(part[:0], t.entries[min(from, len(t.entries)):min(from+partOf, len(t.entries))]...)
			t.mu.RUnlock()
			for i := range part {
				id := telemetry.PointID(from + i)
				e = part[i].entry(id)
				if !yield(id, &e) {
					return
				}
			}
			if len(part) < partOf {
				return
			}
		}
	}
}

// Version returns the table's version. It grows with each batch that changes something.
func (t *Table) Version() uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.version
}

// Snapshot appends all entries in order of PointID to dst and returns it with the table's version.
func (t *Table) Snapshot(dst []Entry) ([]Entry, uint64) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for i := range t.entries {
		dst = append(dst, t.entries[i].entry(telemetry.PointID(i)))
	}
	return dst, t.version
}
