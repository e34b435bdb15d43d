package alert

import (
	"cmp"
	"slices"
	"time"
)

// channel mirrors the outbox of one channel in memory: of each alert the newest transition not yet told. Book.mu
// guards it.
type channel struct {
	name   string
	items  map[string]Outgoing // by alert id
	closed int                 // how many of the items are closed alerts
	// told holds the revision up to which each alert was told and its row can be deleted. What the disk does not
	// know to be told is told again after a crash; it is never the other way round.
	told map[string]int64
	// again holds the alerts that have no row, and yet are to be told: what the channel heard last may be what a crash
	// took back. While there are such, the book is not clean.
	again map[string]bool
}

func newChannel(name string) *channel {
	return &channel{name: name, items: map[string]Outgoing{}, told: map[string]int64{}, again: map[string]bool{}}
}

// put makes o the newest of its alert and reports whether an older closed alert had to be dropped for it.
func (c *channel) put(o Outgoing) (dropped bool) {
	c.take(o.Alert.ID)
	c.items[o.Alert.ID] = o
	if o.Alert.State != Closed {
		return false
	}
	c.closed++
	if c.closed <= outboxKept {
		return false
	}
	oldest := o
	for _, it := range c.items {
		if it.Alert.State == Closed && it.Seq < oldest.Seq {
			oldest = it
		}
	}
	c.take(oldest.Alert.ID)
	c.told[oldest.Alert.ID] = oldest.Alert.Revision
	return true
}

func (c *channel) take(id string) {
	delete(c.again, id)
	if o, ok := c.items[id]; ok {
		delete(c.items, id)
		if o.Alert.State == Closed {
			c.closed--
		}
	}
}

// Pending returns up to n transitions not yet told on channel: those of life safety first, then oldest first; of one
// alert only the newest. It lists them until Told is called, so the caller remembers what it has in flight.
func (b *Book) Pending(channel string, n int) []Outgoing {
	b.mu.Lock()
	var out []Outgoing
	for _, c := range b.outbox {
		if c.name == channel {
			out = make([]Outgoing, 0, len(c.items))
			for _, o := range c.items {
				out = append(out, o)
			}
		}
	}
	b.mu.Unlock()
	slices.SortFunc(out, func(x, y Outgoing) int {
		return cmp.Or(-compareBool(x.Alert.LifeSafety, y.Alert.LifeSafety), cmp.Compare(x.Seq, y.Seq))
	})
	return out[:min(max(n, 0), len(out))]
}

// compareBool is cmp.Compare of bools: false before true.
func compareBool(x, y bool) int {
	switch {
	case x == y:
		return 0
	case y:
		return -1
	}
	return 1
}

// Told records that everything up to and including seq of that alert was told on channel. It reaches the disk within
// a second or two; until then a crash makes the alert be told again.
func (b *Book) Told(channel string, id string, seq int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.outbox {
		o, ok := c.items[id]
		if c.name != channel || !ok || o.Seq > seq {
			continue
		}
		c.take(id)
		// What was told before it was committed is told again after, and only then is its row deleted.
		if o.Alert.Durable {
			c.told[id] = o.Alert.Revision
			b.poke()
		}
	}
}

// announce makes a, about r, visible; last is what led to it. b.mu is held; the caller fires Changed.
func (b *Book) announce(r *record, a Alert, last Entry) {
	r.shown = a
	for _, c := range b.outbox {
		b.seq++
		if c.put(Outgoing{Seq: b.seq, Alert: a, What: last.What, At: last.Time}) {
			b.stats.OutboxDropped++
		}
	}
}

// Within returns the ids of the alerts that came into the state that was announced last from from until to, both
// included, oldest change first: those whose newest message was sent about then. An open alert whose time is uncertain is
// always among them. Of closed alerts it looks at the 10,000 that were closed last. It reads the disk.
func (b *Book) Within(from, to time.Time) (ids []string, err error) {
	from, to = stamp(from), stamp(to)
	within := func(t time.Time) bool { return !t.Before(from) && !t.After(to) }
	var closed []Alert
	for look := 64; ; look *= 4 {
		if closed, err = b.Recent(min(look, outboxKept)); err != nil {
			return nil, err
		}
		if len(closed) < look || closed[len(closed)-1].ClosedAt.Before(from) {
			break
		}
	}
	type change struct {
		id string
		at time.Time
	}
	var changes []change
	for i := len(closed) - 1; i >= 0; i-- {
		if a := &closed[i]; within(a.ClosedAt) {
			changes = append(changes, change{a.ID, a.ClosedAt})
		}
	}
	b.mu.Lock()
	for id, r := range b.byID {
		if r.shown.Revision == 0 || !r.shown.Open() {
			continue
		}
		var last time.Time
		for i := range r.lines {
			if r.lines[i].Revision <= r.shown.Revision {
				last = r.lines[i].Time
			}
		}
		if within(last) || unset(last) {
			changes = append(changes, change{id, last})
		}
	}
	b.mu.Unlock()
	slices.SortStableFunc(changes, func(x, y change) int { return cmp.Or(x.at.Compare(y.at), cmp.Compare(x.id, y.id)) })
	for _, c := range changes {
		ids = append(ids, c.id)
	}
	return slices.Compact(ids), nil
}
