package alert

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	"linli/internal/telemetry"
)

// MemDisk is a disk in memory: what was committed survives the book, and Fault decides what a commit does first.
type MemDisk struct {
	mu     sync.Mutex
	fault  func() error
	rows   map[string]*memRow
	outbox map[[2]string]memOut
	clean  bool
	log    []Alert // every alert of every commit, in order
}

type memRow struct {
	alert   Alert
	lines   map[int64]Entry
	closedN int64
}

type memOut struct {
	revision, seq int64
	what          string
}

// NewMemDisk returns an empty disk.
func NewMemDisk() *MemDisk {
	return &MemDisk{rows: map[string]*memRow{}, outbox: map[[2]string]memOut{}}
}

// SetFault makes every commit call f first and fail with its error. f may sleep. nil heals.
func (d *MemDisk) SetFault(f func() error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = f
}

// Log returns every alert of every commit, in order.
func (d *MemDisk) Log() []Alert {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.log)
}

// OpenOn opens a book on d.
func OpenOn(cfg Config, inv *telemetry.Inventory, d *MemDisk) (*Book, error) {
	return newBook(cfg.withDefaults(), inv, d)
}

// Said returns a with a severity that the engine gave it.
func Said(a Alert, s telemetry.Severity) Alert {
	a.said = s
	return a
}

// Hidden returns what decides about an alert and is not shown.
func Hidden(a Alert) (said, least telemetry.Severity, quiet bool) { return a.said, a.least, a.quiet }

// WrapCommit puts f around every commit of b, which must not be running yet.
func WrapCommit(b *Book, f func(commit func() error) error) { b.disk = wrapped{b.disk, f} }

type wrapped struct {
	disk
	f func(func() error) error
}

func (w wrapped) commit(t *batch) error { return w.f(func() error { return w.disk.commit(t) }) }

func (d *MemDisk) load(channels []string) (*loaded, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := &loaded{clean: d.clean}
	d.clean = false
	for _, id := range slices.Sorted(maps.Keys(d.rows)) {
		r := d.rows[id]
		l.closedN = max(l.closedN, r.closedN)
		if r.closedN == 0 {
			a, lines := r.read()
			l.open = append(l.open, stored{alert: a, lines: lines})
		}
	}
	for k, o := range d.outbox {
		if slices.Contains(channels, k[0]) {
			r := d.rows[k[1]]
			a, _ := r.read()
			l.outbox = append(l.outbox, outboxRow{channel: k[0], what: o.what, at: r.lines[o.revision].Time, alert: a})
			l.seq = max(l.seq, o.seq)
		}
	}
	slices.SortFunc(l.outbox, func(x, y outboxRow) int {
		return cmp.Compare(d.outbox[[2]string{x.channel, x.alert.ID}].seq, d.outbox[[2]string{y.channel, y.alert.ID}].seq)
	})
	return l, nil
}

func (r *memRow) read() (Alert, []Entry) {
	a := r.alert
	a.Durable = true
	var lines []Entry
	for _, n := range slices.Sorted(maps.Keys(r.lines)) {
		lines = append(lines, r.lines[n])
	}
	return a, lines
}

func (d *MemDisk) commit(w *batch) error {
	d.mu.Lock()
	fault := d.fault
	d.mu.Unlock()
	if fault != nil {
		if err := fault(); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range w.told {
		if k := [2]string{t.channel, t.alert}; d.outbox[k].revision <= t.revision {
			delete(d.outbox, k)
		}
	}
	for _, it := range w.items {
		d.log = append(d.log, it.alert)
		r := d.rows[it.alert.ID]
		if r == nil {
			r = &memRow{lines: map[int64]Entry{}}
			d.rows[it.alert.ID] = r
		}
		r.alert, r.closedN = it.alert, it.closedN
		for _, e := range it.lines {
			r.lines[e.Revision] = e
		}
		maps.DeleteFunc(r.lines, func(n int64, _ Entry) bool { return n > 1 && n <= it.alert.Revision-historyKept+1 })
		d.outbox[[2]string{"mqtt", it.alert.ID}] = memOut{
			revision: it.alert.Revision, seq: it.seq, what: it.lines[len(it.lines)-1].What,
		}
	}
	return nil
}

func (d *MemDisk) prune() error { return nil }

func (d *MemDisk) recent(n int) ([]Alert, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var closed []*memRow
	for _, r := range d.rows {
		if r.closedN != 0 {
			closed = append(closed, r)
		}
	}
	slices.SortFunc(closed, func(x, y *memRow) int { return cmp.Compare(y.closedN, x.closedN) })
	var alerts []Alert
	for _, r := range closed[:min(n, len(closed))] {
		a, _ := r.read()
		alerts = append(alerts, a)
	}
	return alerts, nil
}

func (d *MemDisk) get(id string) (Alert, []Entry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.rows[id]
	if r == nil {
		return Alert{}, nil, ErrNotFound
	}
	a, lines := r.read()
	return a, lines, nil
}

func (d *MemDisk) damaged() (string, error) { return "", nil }

func (d *MemDisk) close(clean bool) error {
	d.mu.Lock()
	fault := d.fault
	d.mu.Unlock()
	if clean && fault != nil { // Only the mark is written.
		if err := fault(); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clean = clean
	return nil
}
