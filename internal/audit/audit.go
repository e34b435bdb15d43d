// Package audit keeps the record of what people and programs changed on the devices: one JSON object a line, for each
// order to write a point, each raw write of a tool, each suspension of a bus.
//
// # Guarantees
//
//   - Add never waits for a disk. What is not written yet is kept in memory, at most Config.Waiting entries; beyond
//     that the oldest of them is dropped and counted, because the newest is what somebody will ask about.
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
// Add, Tail and Stats may be called from any goroutine; Run is the one that writes.
package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
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
)

// Entry is one thing that somebody changed, or tried to change.
type Entry struct {
	// Time is when it ended, in UTC; zero while the box's clock has never been set.
	Time time.Time `json:"time,omitzero"`
	// BootS is the time since the box booted, in seconds.
	BootS float64 `json:"boot_s"`
	// What is write (a point), raw (a request of a tool that changes a unit), suspend or resume (of a bus's polling).
	What string `json:"what"`
	By   string `json:"by"` // who asked; "gateway" for what the gateway does by itself
	Note string `json:"note,omitempty"`

	Device string `json:"device,omitempty"`
	Point  string `json:"point,omitempty"`
	Value  any    `json:"value,omitempty"` // asked for: a bool, a number or a text
	Read   any    `json:"read,omitempty"`  // read back, where it differs

	Bus  string `json:"bus,omitempty"`
	Unit *int   `json:"unit,omitempty"` // address, of a raw write
	PDU  string `json:"pdu,omitempty"`  // of a raw write, in hex

	// Outcome is done, unchanged, unknown, refused or not_taken.
	Outcome string  `json:"outcome"`
	Error   string  `json:"error,omitempty"`
	TookMS  float64 `json:"took_ms"`
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
	Waiting  int    // entries that are not on the disk yet
	Error    string // of the last attempt, empty where it worked
}

// Record is the record. New opens nothing.
type Record struct {
	cfg  Config
	wake chan struct{}

	mu      sync.Mutex // guards what follows; never held while the disk is used
	waiting [][]byte   // lines not on the disk yet, oldest first
	first   uint64     // number of waiting[0] among all lines since New
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
	return &Record{cfg: c, wake: make(chan struct{}, 1)}
}

// Add takes an entry. It returns at once.
func (r *Record) Add(e Entry) {
	line := encode(e)
	r.mu.Lock()
	if len(r.waiting) >= r.cfg.Waiting {
		r.waiting[0] = nil
		r.waiting = r.waiting[1:]
		r.first++
		r.stats.Dropped++
	}
	r.waiting = append(r.waiting, line)
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// encode returns the entry's line.
func encode(e Entry) []byte {
	for _, s := range []*string{&e.What, &e.By, &e.Note, &e.Device, &e.Point, &e.Bus, &e.PDU, &e.Outcome, &e.Error} {
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
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	for {
		if !r.flush() {
			retry.Reset(retryEvery)
		}
		select {
		case <-r.wake:
		case <-retry.C:
		case <-ctx.Done():
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
	lines, first := append([][]byte(nil), r.waiting...), r.first
	r.mu.Unlock()
	if len(lines) == 0 {
		return true
	}
	n, err := r.write(lines)
	r.mu.Lock()
	// Meanwhile the oldest may have been dropped; what was written does not count as lost.
	gone := int(r.first - first)
	if n > gone {
		r.waiting = r.waiting[n-gone:]
		r.first += uint64(n - gone)
	}
	r.stats.Dropped -= uint64(min(n, gone))
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
func (r *Record) write(lines [][]byte) (n int, err error) {
	if err := r.open(); err != nil {
		return 0, err
	}
	begun, safe := r.size, 0 // size and lines at the last moment at which all was on the disk
	for _, line := range lines {
		if r.size > 0 && r.size+int64(len(line)) > r.cfg.MaxBytes {
			if err := r.rotate(); err != nil {
				return safe, err
			}
			begun, safe = 0, n
		}
		if _, err := r.file.Write(line); err != nil {
			_ = r.file.Truncate(begun) // Best effort: a torn line is closed by the next open.
			r.shut()
			return safe, fmt.Errorf("write the audit record: %w", err)
		}
		r.size += int64(len(line))
		n++
	}
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
	f, err := os.OpenFile(r.cfg.Path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o640)
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
	waiting := append([][]byte(nil), r.waiting...)
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
		add(waiting[i])
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
