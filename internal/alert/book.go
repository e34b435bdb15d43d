package alert

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/oklog/ulid/v2"
	"go.uber.org/zap"

	"linli/internal/telemetry"
)

// Bounds; the package comment states the policy of each.
const (
	historyKept  = 256   // lines of history of one alert
	waitingKept  = 4096  // closed alerts that wait for the disk
	outboxKept   = 10000 // closed alerts still to be told on one channel
	nameLimit    = 64    // characters of a person's name
	noteLimit    = 500   // characters of a note
	textLimit    = 1000  // characters of a title or detail; longer ones are cut
	defaultKeep  = 100_000
	defaultLimit = 200 * time.Millisecond
	closeLimit   = 3 * time.Second
)

// Config says where the book is kept.
type Config struct {
	Path        string        // alerts.db
	CommitLimit time.Duration // a commit that takes longer is announced without it; 0 means 200 ms
	Keep        int           // closed alerts kept; 0 means 100,000
	Channels    []string      // on which every transition is to be told; nil means "mqtt" alone
	Log         *zap.Logger   // state changes of the store; nil means silence
	// Clock says what time it is and whether the clock has been set; nil: the process's clock is right.
	Clock *telemetry.Clock
}

// Book is the register of alerts. It is safe for concurrent use.
type Book struct {
	cfg  Config
	inv  *telemetry.Inventory
	disk disk
	wake chan struct{} // holds one: something was decided or told

	mu      sync.Mutex                     // guards what follows; never held while the disk is used
	open    map[telemetry.Identity]*record // by what was decided, announced or not
	byID    map[string]*record             // the open ones, and closed ones until committed and announced
	dirty   []*record                      // not on disk as they stand, longest waiting first
	outbox  []*channel                     // parallel to cfg.Channels
	changed chan struct{}
	ids     io.Reader
	seq     int64         // last of the outbox
	closedN int64         // last of the closed alerts
	doings  []Doing       // not taken yet
	done    chan struct{} // holds one: there are doings
	unset   bool          // an open alert has a time that waits for the clock of this boot
	running bool          // Run has begun and did not end with everything committed
	stats   Stats
}

// record is an alert in memory, from what was decided about it to what is known to be on disk.
type record struct {
	head      Alert  // as decided last
	shown     Alert  // as announced last; Revision 0 before
	lines     []mark // history: revision 1 and the newest
	committed int64  // revision on disk
	rewrite   int64  // with this revision, earlier lines changed as well
	closedN   int64  // place in the order of closing, 0 while open
	waiting   bool   // in Book.dirty
	writing   bool   // in the batch being committed
}

// mark is a line of history with the moment at which its time limit began to run.
type mark struct {
	Entry
	at time.Time
}

// last returns the newest line of history.
func (r *record) last() Entry {
	if len(r.lines) == 0 {
		return Entry{} // Somebody has been at the file.
	}
	return r.lines[len(r.lines)-1].Entry
}

// due returns when the oldest decision that is not announced must be, limit after it was made.
func (r *record) due(limit time.Duration) (time.Time, bool) {
	for i := range r.lines {
		if r.lines[i].Revision > r.shown.Revision {
			return r.lines[i].at.Add(limit), true
		}
	}
	return time.Time{}, false
}

// Open opens or creates the book and reads what is open and what is still to be told. A damaged file is set aside and
// reported by Damaged. inv names the devices and zones of transitions; it may be nil where none are submitted.
func Open(cfg Config, inv *telemetry.Inventory) (*Book, error) {
	cfg = cfg.withDefaults()
	d, err := openDisk(cfg)
	if err != nil {
		return nil, fmt.Errorf("open the alerts: %w", err)
	}
	if path, cause := d.damaged(); path != "" {
		cfg.Log.Error("the file of the alerts was damaged and has been set aside; open alerts are raised anew",
			zap.String("path", path), zap.Error(cause))
	}
	b, err := newBook(cfg, inv, d)
	if err != nil {
		_ = d.close(false) // The first error is the one that says something.
		return nil, fmt.Errorf("open the alerts: %w", err)
	}
	return b, nil
}

func (cfg Config) withDefaults() Config {
	if cfg.CommitLimit <= 0 {
		cfg.CommitLimit = defaultLimit
	}
	if cfg.Keep <= 0 {
		cfg.Keep = defaultKeep
	}
	if cfg.Channels == nil {
		cfg.Channels = []string{"mqtt"}
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	return cfg
}

// newBook fills a book from d.
func newBook(cfg Config, inv *telemetry.Inventory, d disk) (*Book, error) {
	b := &Book{
		cfg: cfg, inv: inv, disk: d, wake: make(chan struct{}, 1),
		open: map[telemetry.Identity]*record{}, byID: map[string]*record{},
		changed: make(chan struct{}),
		done:    make(chan struct{}, 1),
		ids:     ulid.Monotonic(rand.Reader, 0),
	}
	for _, name := range cfg.Channels {
		b.outbox = append(b.outbox, newChannel(name))
	}
	was, err := d.load(cfg.Channels)
	if err != nil {
		return nil, err
	}
	b.seq, b.closedN = was.seq, was.closedN
	for _, s := range was.open {
		r := &record{head: s.alert, shown: s.alert, committed: s.alert.Revision}
		for _, e := range s.lines {
			r.lines = append(r.lines, mark{Entry: e})
		}
		b.byID[r.head.ID] = r
		b.open[r.head.Identity] = r
		b.unset = b.unset || r.ofBoot(b.boot())
	}
	if !was.clean {
		// After a crash, a channel may have been told of a transition that never reached the disk: it would go on
		// believing, say, that an alert is closed. So what is open is told again, oldest first.
		for _, s := range was.open {
			for _, ch := range b.outbox {
				b.seq++
				last := b.byID[s.alert.ID].last()
				ch.put(Outgoing{Seq: b.seq, Alert: s.alert, What: last.What, At: last.Time})
				ch.again[s.alert.ID] = true
			}
		}
	}
	for _, row := range was.outbox {
		for _, ch := range b.outbox {
			if ch.name == row.channel {
				b.seq++
				ch.put(Outgoing{Seq: b.seq, Alert: row.alert, What: row.what, At: row.at})
			}
		}
	}
	return b, nil
}

// Damaged returns where Open put a damaged file, and what was wrong with it; "" and nil where it was sound.
func (b *Book) Damaged() (path string, cause error) { return b.disk.damaged() }

// Close closes the store. Run must have returned. Where the disk hangs, Close gives up after three seconds and leaves
// it to the end of the process. The next start tells open alerts again unless everything was committed and closed, and
// what an earlier crash had left to be told again has been told.
func (b *Book) Close() error {
	b.mu.Lock()
	clean := !b.running && len(b.dirty) == 0 &&
		!slices.ContainsFunc(b.outbox, func(c *channel) bool { return len(c.again) > 0 })
	b.mu.Unlock()
	done := make(chan error, 1)
	go func() { done <- b.disk.close(clean) }()
	limit := time.NewTimer(closeLimit)
	defer limit.Stop()
	select {
	case err := <-done:
		return err
	case <-limit.C:
		return fmt.Errorf("alerts: not closed after %v: the disk hangs", closeLimit)
	}
}

// Active returns the alerts whose condition held when last heard of, for the engine to take over: with the severity that
// the engine gave them, whatever escalation made of it.
func (b *Book) Active() []telemetry.ActiveAlert {
	b.mu.Lock()
	defer b.mu.Unlock()
	var active []telemetry.ActiveAlert
	for id, r := range b.open {
		if r.head.State.Active() {
			active = append(active, telemetry.ActiveAlert{Identity: id, Severity: r.head.said, Since: r.head.RaisedAt, Unknown: r.head.Unknown})
		}
	}
	slices.SortFunc(active, func(x, y telemetry.ActiveAlert) int {
		return cmp.Or(cmp.Compare(x.Alert, y.Alert), cmp.Compare(x.Subject, y.Subject))
	})
	return active
}

// Submit takes what the engine said, and then what follows from it. It never blocks on the disk. What is submitted
// together is announced together, as far as the disk goes along.
func (b *Book) Submit(now telemetry.Now, ts []telemetry.Transition, decided ...Decision) {
	if len(ts) == 0 && len(decided) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var fresh map[telemetry.Identity]bool // raised here
	for i := range ts {
		t := &ts[i]
		c := command{op: opOf(t.Op), by: BySensor, said: b.said(t), holds: t.Condition == telemetry.ConditionTrue}
		if c.at = stamp(t.Wall); t.Wall.IsZero() {
			c.at = moment(now, t.Time)
		}
		r := b.open[t.Identity]
		// The engine is not told: what it says about an alert that is not open is answered by decide.
		if a, _ := b.apply(r, c); r == nil && a.Revision > 0 && len(decided) > 0 {
			if fresh == nil {
				fresh = map[telemetry.Identity]bool{}
			}
			fresh[t.Identity] = true
		}
	}
	for i := range decided {
		d := &decided[i]
		r := b.open[d.Identity]
		if r == nil {
			continue // Closed by somebody in this moment.
		}
		c := command{op: d.op(), by: ByGateway, at: moment(now, d.Time), fresh: fresh[d.Identity],
			tier: d.Tier, severity: d.Severity, least: d.Least, inhibitor: d.Inhibitor}
		if c.because = (telemetry.Text{Zh: d.Inhibitor.Alert, En: d.Inhibitor.Alert}); b.open[d.Inhibitor] != nil {
			c.because = b.open[d.Inhibitor].head.Title
		}
		_, _ = b.apply(r, c) // It has no errors: what does not fit any more changes nothing.
	}
	b.poke()
}

// Remove closes the open alerts of these identities with reason "removed": their device, zone or rule is no longer
// there. Identities without an open alert are ignored.
func (b *Book) Remove(now telemetry.Now, ids []telemetry.Identity) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, id := range ids {
		_, _ = b.apply(b.open[id], command{op: opRemove, at: moment(now, now.Mono), by: BySite}) // Removing has no errors.
	}
	b.poke()
}

// Acknowledge acknowledges an open alert for by; acknowledging twice is not an error, nor is acknowledging an alert
// that has been closed. It returns when that is committed, or after the commit limit with Durable false. Name and note
// are at most 64 and 500 characters; the name is required (ErrBadInput). An unknown id is ErrNotFound. When ctx ends
// first its error is returned, and the acknowledgement holds all the same.
func (b *Book) Acknowledge(ctx context.Context, id, by, note string) (Alert, error) {
	return b.command(ctx, id, command{op: opAcknowledge, by: by, note: note})
}

// CloseByHand closes an open alert whose condition is gone or unknown; ErrStillActive while it holds. Closing twice is
// not an error. Otherwise it is as Acknowledge.
func (b *Book) CloseByHand(ctx context.Context, id, by, note string) (Alert, error) {
	return b.command(ctx, id, command{op: opClose, by: by, note: note})
}

func (b *Book) command(ctx context.Context, id string, c command) (Alert, error) {
	c.by, c.note = strings.TrimSpace(c.by), strings.TrimSpace(c.note)
	if err := checkText("name", c.by, nameLimit); err != nil {
		return Alert{}, err
	}
	if c.by == "" {
		return Alert{}, fmt.Errorf("%w: a name is required", ErrBadInput)
	}
	if err := checkText("note", c.note, noteLimit); err != nil {
		return Alert{}, err
	}
	now := b.now()
	c.at = moment(now, now.Mono)
	b.mu.Lock()
	r := b.byID[id]
	if r == nil || r.shown.Revision == 0 {
		b.mu.Unlock()
		a, _, err := b.disk.get(id) // Closed already, or unknown.
		return a, err
	}
	a, err := b.apply(r, c)
	b.poke()
	b.mu.Unlock()
	if err != nil {
		return a, err
	}
	return b.settled(ctx, r, a)
}

// settled waits until a, decided about r, is announced, but no longer than the commit limit.
func (b *Book) settled(ctx context.Context, r *record, a Alert) (Alert, error) {
	limit := time.NewTimer(b.cfg.CommitLimit)
	defer limit.Stop()
	for {
		b.mu.Lock()
		shown, committed, changed := r.shown, r.committed, b.changed
		b.mu.Unlock()
		switch {
		case shown.Revision > a.Revision:
			// Overtaken by a later decision, which is what the caller will see next: answer with that.
			return shown, nil
		case shown.Revision == a.Revision:
			return shown, nil
		case committed >= a.Revision:
			a.Durable = true
			return a, nil
		}
		select {
		case <-changed:
		case <-limit.C:
			return a, nil
		case <-ctx.Done():
			return a, ctx.Err()
		}
	}
}

// apply decides c about r, which is nil where no alert is open, and takes down the outcome. b.mu is held.
func (b *Book) apply(r *record, c command) (Alert, error) {
	var before Alert
	if r != nil {
		before = r.head
	}
	c.boot = b.boot()
	after, entries, err := decide(before, c)
	if err != nil || len(entries) == 0 {
		return before, err
	}
	if r == nil {
		after.ID = b.newID(c.at)
		r = &record{}
		b.byID[after.ID] = r
		b.open[after.Identity] = r
	}
	b.tellOf(before, after, c)
	if unset(c.at) && b.cfg.Clock != nil {
		b.unset = true
	}
	r.head = after
	now := time.Now()
	for _, e := range entries {
		r.lines = append(r.lines, mark{Entry: e, at: now})
		if len(r.lines) > historyKept {
			if r.lines[1].Revision > r.committed {
				b.stats.HistoryDropped++
			}
			r.lines = slices.Delete(r.lines, 1, 2)
		}
	}
	if after.State == Closed {
		delete(b.open, after.Identity)
		b.closedN++
		r.closedN = b.closedN
	}
	if !r.waiting {
		r.waiting = true
		b.dirty = append(b.dirty, r)
	}
	b.boundWaiting()
	return after, nil
}

// boundWaiting drops the longest waiting alert that is closed and announced when too many wait for the disk.
func (b *Book) boundWaiting() {
	if len(b.dirty)-len(b.open) <= waitingKept {
		return
	}
	for i, r := range b.dirty {
		if r.shown.State == Closed && !r.writing {
			b.dirty = slices.Delete(b.dirty, i, i+1)
			delete(b.byID, r.head.ID)
			b.stats.WaitingDropped++
			return
		}
	}
}

// poke wakes Run.
func (b *Book) poke() {
	select {
	case b.wake <- struct{}{}:
	default: // It is awake already.
	}
}

// OpenAlerts returns every open alert, worst first, then newest first. Those whose time is uncertain come before
// those of the same severity whose time is known.
func (b *Book) OpenAlerts() []Alert {
	b.mu.Lock()
	alerts := make([]Alert, 0, len(b.byID))
	for _, r := range b.byID {
		if r.shown.Revision > 0 && r.shown.Open() {
			alerts = append(alerts, r.shown)
		}
	}
	b.mu.Unlock()
	slices.SortFunc(alerts, func(x, y Alert) int {
		return cmp.Or(cmp.Compare(y.Severity, x.Severity), -compareBool(unset(x.RaisedAt), unset(y.RaisedAt)), y.RaisedAt.Compare(x.RaisedAt), cmp.Compare(y.ID, x.ID))
	})
	return alerts
}

// Recent returns up to n closed alerts, the last closed first. It reads the disk.
func (b *Book) Recent(n int) ([]Alert, error) {
	if n <= 0 {
		return nil, nil
	}
	stored, err := b.disk.recent(n)
	if err != nil {
		return nil, fmt.Errorf("read closed alerts: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	// What memory holds is newer than what the disk said: closed but not on disk, or on disk but not announced.
	var closed []*record
	for _, r := range b.byID {
		if r.shown.State == Closed {
			closed = append(closed, r)
		}
	}
	slices.SortFunc(closed, func(x, y *record) int { return cmp.Compare(y.closedN, x.closedN) })
	var alerts []Alert
	for _, r := range closed {
		alerts = append(alerts, r.shown)
	}
	for _, a := range stored {
		if b.byID[a.ID] == nil {
			alerts = append(alerts, a)
		}
	}
	return alerts[:min(n, len(alerts))], nil
}

// Get returns an alert and its history, oldest entry first. It reads the disk only for an alert that is closed.
func (b *Book) Get(id string) (Alert, []Entry, error) {
	b.mu.Lock()
	r := b.byID[id]
	if r == nil {
		b.mu.Unlock()
		return b.disk.get(id)
	}
	defer b.mu.Unlock()
	if r.shown.Revision == 0 {
		return Alert{}, nil, ErrNotFound
	}
	var entries []Entry
	for i := range r.lines {
		if r.lines[i].Revision <= r.shown.Revision {
			entries = append(entries, r.lines[i].Entry)
		}
	}
	return r.shown, entries, nil
}

// Changed returns a channel that is closed at the next announcement. To miss none, fetch it, look, then wait on it.
func (b *Book) Changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}

// said returns what t says, with its indexes resolved into names.
func (b *Book) said(t *telemetry.Transition) Alert {
	a := Alert{
		Identity: t.Identity, Severity: t.Severity, LifeSafety: t.LifeSafety,
		Title: clipText(t.Title), Detail: clipText(t.Detail),
	}
	if b.inv == nil {
		return a
	}
	if t.Device >= 0 && t.Device < len(b.inv.Devices) {
		d := &b.inv.Devices[t.Device]
		a.Device = d.ID
		if d.Class != nil {
			a.Class = d.Class.ID
		}
	}
	a.Place = b.inv.Title
	if t.Zone >= 0 && t.Zone < len(b.inv.Zones) {
		a.Zone = b.inv.Zones[t.Zone].ID
		a.Place = telemetry.Text{
			Zh: strings.Join(b.inv.ZonePath(t.Zone, "zh"), " · "),
			En: strings.Join(b.inv.ZonePath(t.Zone, "en"), " · "),
		}
	}
	return a
}

// stamp returns t as this package keeps times: UTC, milliseconds, so that memory and disk agree.
func stamp(t time.Time) time.Time { return t.Round(0).UTC().Truncate(time.Millisecond) }

// newID returns a ULID. Ids made within one millisecond ascend. b.mu is held.
func (b *Book) newID(at time.Time) string {
	ms := uint64(max(at.UnixMilli(), 0))
	id, err := ulid.New(min(ms, ulid.MaxTime()), b.ids)
	if err != nil {
		// The random part cannot ascend any further within this millisecond; begin again at random.
		b.ids = ulid.Monotonic(rand.Reader, 0)
		id = ulid.MustNew(min(ms, ulid.MaxTime()), rand.Reader)
	}
	return id.String()
}

func checkText(name, s string, limit int) error {
	if utf8.RuneCountInString(s) > limit {
		return fmt.Errorf("%w: the %s is longer than %d characters", ErrBadInput, name, limit)
	}
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) && r != '\n' }) {
		return fmt.Errorf("%w: the %s contains what is not text", ErrBadInput, name)
	}
	return nil
}

func clipText(t telemetry.Text) telemetry.Text {
	return telemetry.Text{Zh: clip(t.Zh), En: clip(t.En)}
}

// clip cuts s to textLimit characters and replaces what is not UTF-8, which JSON could not carry.
func clip(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	n := 0
	for i := range s {
		if n == textLimit {
			return s[:i] + "…"
		}
		n++
	}
	return s
}
