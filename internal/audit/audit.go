// Package audit keeps the record of what people and programs changed on the devices: one JSON object a line, for each
// order to write a point, each raw write of a tool, each suspension of a bus. What is about to be sent has a line of its
// own (outcome "begun") before the line that says what became of it, so that a process that is killed in between
// leaves a trace.
//
// # Guarantees
//
//   - Add never waits for a disk; Begin waits for the operating system to have the line, 50 ms at most. What is not
//     written yet is kept in memory, at most Config.Waiting entries; beyond that one is dropped and counted: folded ones
//     first, then those that were only begun, then the oldest, because the newest is what somebody will ask about.
//   - What changed nothing (Fold) cannot push out what did: the first is a line at once, the same within the next minute
//     are one line with their number.
//   - The file is bounded: at MaxBytes it becomes FILE.1 (whose predecessor goes), so that two files of that size are the
//     most there is. A line is at most 4 KiB: longer texts are cut.
//   - A disk that fails, is full or read-only costs nothing but the record on it: entries stay in memory, are tried
//     again every 10 s and with the next one, and Tail shows them meanwhile. Failures are counted, and logged when they begin and end.
//   - A line that a power cut tore is closed by the next start and skipped by Tail. Nothing is ever cleared.
//
// Entries are synced to the disk within about a second of Add.
//
// It does not decide who may do what, and it is no proof against somebody who can write the file.
//
// Add, Begin, BeginAtOnce, Fold, Tail and Stats may be called from any goroutine; Run is the one that writes. AppendAlone is for
// programs that work while no gateway runs.
package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"
)

const (
	defaultBytes   = 8 << 20
	defaultWaiting = 1024
	// lineMost bounds one line, its end included; textMost bounds each text in it, in bytes before JSON's escapes.
	lineMost = 4 << 10
	textMost = 600
	// TailMost is the most that Tail returns.
	TailMost = 1000
	// retryEvery is how long a failing disk is left alone.
	retryEvery = 10 * time.Second
	// beginWait bounds the wait of Begin.
	beginWait = 50 * time.Millisecond
	// foldFor is how long entries are folded into one line; foldsMost bounds the lines that are open at one time.
	foldFor   = time.Minute
	foldsMost = 64
)

// Entry is one thing that somebody changed, or tried to change.
type Entry struct {
	// Time is when it ended, in UTC; zero while the box's clock has never been set.
	Time time.Time `json:"time,omitzero"`
	// BootS is the time since the box booted, in seconds.
	BootS float64 `json:"boot_s"`
	// What is write (a point), raw (a request of a tool that changes a unit), suspend or resume (of a bus's polling),
	// reload_rules, or command (of the city, whatever it asks for).
	What string `json:"what"`
	By   string `json:"by"` // who asked; "gateway" for what the gateway does by itself, "rule ALERT SUBJECT" for what follows from an alert
	// Origin is the way it came: gateway (by itself), rule (what follows from an alert), api (the console's), tool (a
	// program beside a gateway that does not run), city (a signed command). A name anybody can give; this nobody can.
	Origin string `json:"origin,omitempty"`
	Note   string `json:"note,omitempty"`

	Device string `json:"device,omitempty"`
	Point  string `json:"point,omitempty"`
	Value  any    `json:"value,omitempty"` // asked for: a bool, a number or a text
	Read   any    `json:"read,omitempty"`  // read back, where it differs

	Bus  string `json:"bus,omitempty"`
	Unit *int   `json:"unit,omitempty"` // address, of a raw write
	PDU  string `json:"pdu,omitempty"`  // of a raw write, in hex

	// Verb and Command are of a command: what it asks for and its id. Reason is a word for why it is refused.
	Verb    string `json:"verb,omitempty"`
	Command string `json:"command,omitempty"`
	Reason  string `json:"reason,omitempty"`

	// Outcome is done, unchanged, unknown, refused or not_taken; begun is what is about to be sent, dry_run what is not
	// sent because the site is being commissioned.
	Outcome string  `json:"outcome"`
	Error   string  `json:"error,omitempty"`
	TookMS  float64 `json:"took_ms"`
	// Order is the same in what was begun and in what became of it. It counts from 1 with each start of the gateway.
	Order uint64 `json:"order,omitempty"`
	// Repeated is how many requests this line stands for, where there are more than one: the others of the minute
	// before Time. By names three of those who asked at most.
	Repeated uint64 `json:"repeated,omitempty"`
}

// Config says where the record is kept. Path is required.
type Config struct {
	Path     string
	MaxBytes int64 // of each of the two files; 0 means 8 MiB
	Waiting  int   // entries kept in memory; 0 means 1024
	Log      *zap.Logger
}

// Stats counts since New.
type Stats struct {
	Written  uint64 // entries on the disk
	Failures uint64 // attempts to write that failed
	Dropped  uint64 // entries that never reached the disk
	Folded   uint64 // entries that share a line with another
	Waiting  int    // entries that are not on the disk yet
	Error    string // of the last attempt, empty where it worked
}

// worth says how little a line is missed.
type worth uint8

const (
	worthLittle worth = iota // folded: nothing changed
	worthBegun               // what became of it has a line of its own
	worthMost
)

// line is an entry on its way to the disk.
type line struct {
	text  []byte
	n     uint64 // counts from 1, since New
	worth worth
}

// fold is a line that is open for more of the same.
type fold struct {
	entry Entry  // the last of them, by the first of them
	more  uint64 // entries beyond the first, which has a line already
	names []string
	until time.Time
}

// Record is the record. New opens nothing.
type Record struct {
	cfg     Config
	wake    chan struct{}
	running atomic.Bool

	mu      sync.Mutex    // guards what follows; never held while the disk is used
	waiting []line        // not on the disk yet, oldest first
	added   uint64        // number of the newest line
	handed  uint64        // number of the newest line that the operating system has
	told    chan struct{} // closed when handed grows
	folds   map[string]*fold
	stats   Stats

	// file and size belong to Run.
	file *os.File
	size int64
}

// New returns a record in the file c.Path.
func New(c Config) *Record {
	if c.MaxBytes <= 0 {
		c.MaxBytes = defaultBytes
	}
	if c.Waiting <= 0 {
		c.Waiting = defaultWaiting
	}
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	return &Record{cfg: c, wake: make(chan struct{}, 1), told: make(chan struct{}), folds: map[string]*fold{}}
}

// Add takes an entry. It returns at once.
func (r *Record) Add(e Entry) {
	r.mu.Lock()
	r.add(e, worthMost)
	r.mu.Unlock()
	r.stir()
}

// Begin takes an entry about what is to be sent next, and waits until the operating system has it, so that it outlives
// the process whatever becomes of that. It waits 50 ms at most, and not at all while the disk fails: no order waits
// for a record.
func (r *Record) Begin(e Entry) {
	n, broken := r.begin(e)
	if broken || !r.running.Load() {
		return
	}
	limit := time.NewTimer(beginWait)
	defer limit.Stop()
	for {
		r.mu.Lock()
		handed, told := r.handed, r.told
		r.mu.Unlock()
		if handed >= n {
			return
		}
		select {
		case <-told:
		case <-limit.C:
			return
		}
	}
}

// BeginAtOnce is Begin without the wait, for what may save a life: a kill of the process in the next moments may cost the
// line.
func (r *Record) BeginAtOnce(e Entry) { r.begin(e) }

func (r *Record) begin(e Entry) (n uint64, broken bool) {
	e.Outcome = Begun
	r.mu.Lock()
	n = r.add(e, worthBegun)
	broken = r.stats.Error != ""
	r.mu.Unlock()
	r.stir()
	return n, broken
}

// Begun is the outcome of entries of Begin.
const Begun = "begun"

// Fold takes an entry about something that changed nothing. It returns at once. The same thing within the next minute
// (What, Device, Point, Bus, Verb, Reason and Outcome) is counted instead of written, and told in one line when the minute is over.
func (r *Record) Fold(e Entry) {
	key := strings.Join([]string{e.What, e.Device, e.Point, e.Bus, e.Verb, e.Reason, e.Outcome}, "\x00")
	r.mu.Lock()
	if r.folds[key] == nil && len(r.folds) >= foldsMost { // A flood over very many points: one line for all the others.
		e.Device, e.Point, e.Bus, e.Value, e.Read = "", "", "", nil, nil
		key = e.What + "\x00\x00" + e.Outcome
	}
	f := r.folds[key]
	if f == nil {
		f = &fold{entry: e, names: []string{e.By}, until: time.Now().Add(foldFor)}
		r.folds[key] = f
		r.add(e, worthLittle)
	} else {
		f.more++
		r.stats.Folded++
		f.entry = e
		if len(f.names) < 4 && !slices.Contains(f.names, e.By) {
			f.names = append(f.names, e.By)
		}
	}
	r.mu.Unlock()
	r.stir()
}

// unfold makes lines of the folds that are over, or of all, and returns when the next is.
func (r *Record) unfold(all bool) (next time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for key, f := range r.folds {
		if !all && now.Before(f.until) {
			if next.IsZero() || f.until.Before(next) {
				next = f.until
			}
			continue
		}
		delete(r.folds, key)
		if f.more > 0 {
			r.stats.Folded-- // It has a line after all, for itself and the others.
			r.add(f.line(), worthLittle)
		}
	}
	return next
}

// line returns the entry that stands for all but the first.
func (f *fold) line() Entry {
	e := f.entry
	e.By = strings.Join(f.names[:min(len(f.names), 3)], ", ")
	if len(f.names) > 3 {
		e.By += ", …"
	}
	if f.more > 1 {
		e.Repeated = f.more
	}
	return e
}

// add appends an entry to those that wait and returns its number. r.mu is held.
func (r *Record) add(e Entry, w worth) uint64 {
	if len(r.waiting) >= r.cfg.Waiting {
		drop := 0
		for i := range r.waiting {
			if r.waiting[i].worth < r.waiting[drop].worth {
				drop = i
			}
		}
		if w >= r.waiting[drop].worth {
			r.waiting = slices.Delete(r.waiting, drop, drop+1)
			r.stats.Dropped++
		} else {
			r.stats.Dropped++
			return r.added
		}
	}
	r.added++
	r.waiting = append(r.waiting, line{text: encode(e), n: r.added, worth: w})
	return r.added
}

func (r *Record) stir() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// encode returns the entry's line.
func encode(e Entry) []byte {
	for _, s := range []*string{&e.What, &e.By, &e.Origin, &e.Note, &e.Device, &e.Point, &e.Bus, &e.PDU, &e.Verb, &e.Command, &e.Reason, &e.Outcome, &e.Error} {
		*s = clip(*s)
	}
	for _, v := range []*any{&e.Value, &e.Read} {
		if s, ok := (*v).(string); ok {
			*v = clip(s)
		}
	}
	line, err := json.Marshal(e)
	if err == nil && len(line) >= lineMost { // Texts of nothing but control characters grow sixfold.
		e.Note, e.Error, e.Value, e.Read = "", "too long to be kept", nil, nil
		line, err = json.Marshal(e)
	}
	if err != nil { // A value that is no number: the rest must not be lost for it.
		e.Value, e.Read, e.Error = nil, nil, clip(e.Error+" ("+err.Error()+")")
		line, _ = json.Marshal(e)
	}
	return append(line, '\n')
}

// clip cuts s to textMost bytes of valid UTF-8.
func clip(s string) string {
	if len(s) <= textMost {
		return s
	}
	cut := textMost
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}

// Stats returns the counters.
func (r *Record) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.stats
	s.Waiting = len(r.waiting)
	return s
}

// Run writes what is added until ctx ends, then what is left, and returns nil.
func (r *Record) Run(ctx context.Context) error {
	r.running.Store(true)
	defer r.running.Store(false)
	retry, folds := time.NewTimer(time.Hour), time.NewTimer(time.Hour)
	defer retry.Stop()
	defer folds.Stop()
	for {
		if next := r.unfold(false); !next.IsZero() {
			folds.Reset(time.Until(next))
		}
		if !r.flush() {
			retry.Reset(retryEvery)
		}
		select {
		case <-r.wake:
		case <-retry.C:
		case <-folds.C:
		case <-ctx.Done():
			r.unfold(true)
			r.flush()
			if r.file != nil {
				return r.file.Close()
			}
			return nil
		}
	}
}

// flush writes what waits and reports whether nothing is left that failed.
func (r *Record) flush() bool {
	r.mu.Lock()
	lines := slices.Clone(r.waiting)
	r.mu.Unlock()
	if len(lines) == 0 {
		return true
	}
	n, err := r.write(lines)
	r.mu.Lock()
	if n > 0 {
		last := lines[n-1].n
		kept := slices.IndexFunc(r.waiting, func(l line) bool { return l.n > last })
		if kept < 0 {
			kept = len(r.waiting)
		}
		r.waiting = slices.Delete(r.waiting, 0, kept)
		r.stats.Dropped -= uint64(n - kept) // Dropped meanwhile, and yet written.
	}
	r.stats.Written += uint64(n)
	before := r.stats.Error
	r.stats.Error = ""
	if err != nil {
		r.stats.Failures++
		r.stats.Error = err.Error()
	}
	waiting := len(r.waiting)
	r.mu.Unlock()
	switch {
	case err != nil && before == "":
		r.cfg.Log.Error("the audit record cannot be written; it is kept in memory", zap.String("path", r.cfg.Path), zap.Error(err))
	case err == nil && before != "":
		r.cfg.Log.Info("the audit record is written again", zap.String("path", r.cfg.Path), zap.Int("waiting", waiting))
	}
	return err == nil
}

// write appends the lines, syncs, and returns how many of them are on the disk.
func (r *Record) write(lines []line) (n int, err error) {
	if err := r.open(); err != nil {
		return 0, err
	}
	begun, safe := r.size, 0 // size and lines at the last moment at which all was on the disk
	for _, l := range lines {
		if r.size > 0 && r.size+int64(len(l.text)) > r.cfg.MaxBytes {
			if err := r.rotate(); err != nil {
				return safe, err
			}
			begun, safe = 0, n
		}
		if _, err := r.file.Write(l.text); err != nil {
			_ = r.file.Truncate(begun) // Best effort: a torn line is closed by the next open.
			r.shut()
			return safe, fmt.Errorf("write the audit record: %w", err)
		}
		r.size += int64(len(l.text))
		n++
	}
	r.mu.Lock()
	r.handed = lines[len(lines)-1].n
	close(r.told)
	r.told = make(chan struct{})
	r.mu.Unlock()
	if err := r.file.Sync(); err != nil {
		_ = r.file.Truncate(begun)
		r.shut()
		return safe, fmt.Errorf("sync the audit record: %w", err)
	}
	return n, nil
}

// open opens the file where it is not, and closes a line that was torn.
func (r *Record) open() error {
	if r.file != nil {
		return nil
	}
	f, err := openOwned(r.cfg.Path, os.O_RDWR|os.O_APPEND)
	if err != nil {
		return fmt.Errorf("open the audit record: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("open the audit record: %w", err)
	}
	r.file, r.size = f, info.Size()
	last := []byte{'\n'}
	if r.size > 0 {
		_, err = f.ReadAt(last, r.size-1)
	}
	if err == nil && last[0] != '\n' {
		_, err = f.Write([]byte{'\n'})
		r.size++
	}
	if err != nil {
		r.shut()
		return fmt.Errorf("open the audit record: %w", err)
	}
	return nil
}

func (r *Record) shut() {
	r.file.Close()
	r.file, r.size = nil, 0
}

// rotate makes the full file the old one and begins a new one.
func (r *Record) rotate() error {
	err := r.file.Sync()
	if err == nil {
		err = os.Rename(r.cfg.Path, r.cfg.Path+".1")
	}
	r.shut()
	if err != nil {
		return fmt.Errorf("set the full audit record aside: %w", err)
	}
	return r.open()
}

// Tail returns the newest n entries, at most TailMost, newest first, each as it stands in the file. Those that are not
// on the disk yet are among them. Beside an error it returns what could be read.
func (r *Record) Tail(n int) ([]json.RawMessage, error) {
	n = min(n, TailMost)
	if n <= 0 {
		return []json.RawMessage{}, nil
	}
	r.mu.Lock()
	waiting := slices.Clone(r.waiting)
	for _, f := range r.folds {
		if f.more > 0 {
			waiting = append(waiting, line{text: encode(f.line())}) // So far: the file will have it with its last count.
		}
	}
	r.mu.Unlock()

	out := make([]json.RawMessage, 0, n)
	told := map[string]bool{}
	add := func(line []byte) {
		// A line may be met twice: it was waiting and is written by now, or its file has become the old one.
		if line = bytes.TrimSpace(line); len(out) < n && len(line) > 0 && !told[string(line)] && json.Valid(line) {
			told[string(line)] = true
			out = append(out, json.RawMessage(line))
		}
	}
	for i := len(waiting) - 1; i >= 0; i-- {
		add(waiting[i].text)
	}
	var errs []error
	for _, path := range []string{r.cfg.Path, r.cfg.Path + ".1"} {
		if len(out) == n {
			break
		}
		data, err := tailOf(path, int64(n)*lineMost)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		lines := bytes.Split(data, []byte{'\n'})
		for i := len(lines) - 1; i >= 0; i-- {
			add(lines[i])
		}
	}
	return out, errors.Join(errs...)
}

// CommandKey is the key of a command in what Began returns.
type CommandKey struct{ By, Command string }

// Began returns the commands of the city that stand in the files as begun, or with what became of them, since then.
// Those of unknown time are among them, those that were refused are not. Beside an error it returns what could be read.
func (r *Record) Began(since time.Time) (map[CommandKey]bool, error) {
	began := map[CommandKey]bool{}
	var errs []error
	for _, path := range []string{r.cfg.Path, r.cfg.Path + ".1"} {
		data, err := tailOf(path, 2*r.cfg.MaxBytes)
		if err != nil {
			errs = append(errs, err)
		}
		for l := range bytes.Lines(data) {
			var e Entry
			if !bytes.Contains(l, []byte(`"command":`)) || json.Unmarshal(l, &e) != nil {
				continue
			}
			if e.What == "command" && e.Outcome != "refused" && (e.Time.IsZero() || e.Time.After(since)) {
				began[CommandKey{e.By, e.Command}] = true
			}
		}
	}
	return began, errors.Join(errs...)
}

// tailOf returns the last most bytes of a file; nothing of a file that does not exist.
func tailOf(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the audit record: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read the audit record: %w", err)
	}
	data, err := io.ReadAll(io.NewSectionReader(f, max(0, info.Size()-most), most))
	if err != nil {
		return nil, fmt.Errorf("read the audit record: %w", err)
	}
	return data, nil
}
