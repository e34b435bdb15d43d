package console

import (
	"encoding/json"
	"sync"
	"time"

	"linli/internal/live"
	"linli/internal/telemetry"
)

const (
	// valuesEvery is how often changed values are sent. People cannot read faster, and a batch costs the same for
	// one value as for a hundred.
	valuesEvery = time.Second
	// confirmEvery is how often it is said again that an unchanged value was read.
	confirmEvery = 5 * time.Second
	// feedKept is how many batches are kept for clients that are a little behind; one that is further behind gets
	// a snapshot.
	feedKept = 16
)

// feed turns the live table into batches of changes, each made and encoded once for all clients. It has no goroutine:
// the client that asks first after an interval makes the next batch.
type feed struct {
	live *live.Table
	inv  *telemetry.Inventory

	mu        sync.Mutex
	confirmed []telemetry.Mono   // guarded by mu: what clients were last told about each point
	seen      uint64             // guarded by mu: number of the next event of the table
	happened  []telemetry.Sample // guarded by mu: memory for events
	version   uint64             // guarded by mu: the table's when the last batch was begun: what changed while it was made comes again
	last      telemetry.Mono     // guarded by mu: when the last batch was made
	next      uint64             // guarded by mu: number of the next batch
	batches   [feedKept][]byte   // guarded by mu: batch n is at n modulo feedKept; empty where nothing changed
}

// valuesJSON is one batch of changes.
type valuesJSON struct {
	MonoMS int64       `json:"mono_ms"`
	Values []valueJSON `json:"values"`
	// Confirmed says of unchanged points that they were read again: when, and which.
	Confirmed []confirmedJSON `json:"confirmed,omitempty"`
	// Events are all samples of points that tell what happened (a card was presented), oldest first, also those that
	// repeat one another.
	Events []eventJSON `json:"events,omitempty"`
}

type eventJSON struct {
	ID    uint32 `json:"id"`
	MS    int64  `json:"ms"`
	Value any    `json:"value"`
}

type confirmedJSON struct {
	MS     int64    `json:"ms"`
	Points []uint32 `json:"points"`
}

func newFeed(table *live.Table, inv *telemetry.Inventory) *feed {
	return &feed{live: table, inv: inv, last: -1 << 62}
}

// shown reports whether pages have a point: not those of the gateway's own works.
func (f *feed) shown(id telemetry.PointID) bool { return !f.inv.IsSystem(id) }

// advance makes a batch when the last one is old enough. The caller holds mu.
func (f *feed) advance(now telemetry.Mono) {
	if now.Sub(f.last) < valuesEvery {
		return
	}
	f.last = now
	version := f.live.Version()
	batch := valuesJSON{MonoMS: millis(now)}
	groups := map[telemetry.Mono]int{}
	for i, e := range f.live.All() {
		if int(i) == len(f.confirmed) {
			f.confirmed = append(f.confirmed, 0)
		}
		switch {
		case !e.Known || !f.shown(i):
		case e.Version > f.version:
			batch.Values = append(batch.Values, encodeEntry(e))
			f.confirmed[i] = e.Confirmed
		case e.Confirmed.Sub(f.confirmed[i]) >= confirmEvery:
			f.confirmed[i] = e.Confirmed
			g, ok := groups[e.Confirmed]
			if !ok {
				g = len(batch.Confirmed)
				groups[e.Confirmed] = g
				batch.Confirmed = append(batch.Confirmed, confirmedJSON{MS: millis(e.Confirmed)})
			}
			batch.Confirmed[g].Points = append(batch.Confirmed[g].Points, uint32(i))
		}
	}
	f.version = version
	f.happened, f.seen = f.live.Events(f.happened[:0], f.seen)
	for i := range f.happened {
		if e := &f.happened[i]; f.shown(e.Point) {
			batch.Events = append(batch.Events, eventJSON{ID: uint32(e.Point), MS: millis(e.Time), Value: e.Value.JSON()})
		}
	}
	if len(batch.Values) == 0 && len(batch.Confirmed) == 0 && len(batch.Events) == 0 {
		return // Nothing to say: clients stay where they are.
	}
	if batch.Values == nil {
		batch.Values = []valueJSON{}
	}
	// Values are finite numbers, booleans and strings: encoding them cannot fail.
	f.batches[f.next%feedKept], _ = json.Marshal(batch)
	f.next++
}

// snapshot returns all values, and the number of the batch that follows them.
func (f *feed) snapshot(now telemetry.Mono) ([]valueJSON, uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.advance(now)
	return f.values(), f.next
}

// values returns what is known of the points that pages have.
func (f *feed) values() []valueJSON {
	values := []valueJSON{}
	for i, e := range f.live.All() {
		if e.Known && f.shown(i) {
			values = append(values, encodeEntry(e))
		}
	}
	return values
}

// since returns the batches from number next on, with the number after them, and false where some of them are no
// longer kept.
func (f *feed) since(now telemetry.Mono, next uint64) ([][]byte, uint64, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.advance(now)
	if f.next-next > feedKept {
		return nil, f.next, false
	}
	var batches [][]byte
	for ; next < f.next; next++ {
		batches = append(batches, f.batches[next%feedKept])
	}
	return batches, next, true
}
