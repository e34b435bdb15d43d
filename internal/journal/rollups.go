package journal

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
	"go.uber.org/zap"

	"linli/internal/telemetry"
)

const (
	// rollEvery is how often the journal looks for what is to be rolled up.
	rollEvery = time.Minute
	// rollFirst is how long after its start it does so first: a process that never lives for a minute gets on as well.
	rollFirst = 10 * time.Second
	// rollGrace is how long after the end of an hour or a day its file is written: what was read at its end is committed then.
	// What comes later still makes the file be written anew, with the next one.
	rollGrace = 2 * time.Minute
	// rollPoints is how many points are added up at once: 256 points with 60 minutes of 64 bytes take 1 MiB. The samples of a
	// site with more are read as often as it takes.
	rollPoints = 256
	// rollRetry is how long a failure is left alone.
	rollRetry = 10 * time.Minute

	latestRollup = 7258118400 // the year 2200, in seconds since 1970

	keepMinutes = 14 * 24 // files: hours in which the box ran
	keepHours   = 730     // files: days in which it did
)

// rollups is what the journal knows of its rollup files.
type rollups struct {
	building sync.Mutex // one at a time; guards due and failed
	due      time.Time  // not before, after a failure
	failed   bool

	looking sync.Mutex // one at a time; guards loaded and seen
	loaded  bool       // the headers have been read
	seen    uint64     // frames before it have been looked at

	mu      sync.Mutex // never held during I/O
	files   map[rollID]*rollFile
	touched map[int64]touch // hours that are not built, or not with all, by their begin in seconds
	again   bool            // all frames are to be looked at once more
	remake  map[rollID]bool // set aside
	stats   RollupStats

	pause func() // between pieces of work, so that nobody waits; nil: not at all
}

// rollFile is a rollup file that is there.
type rollFile struct {
	head rollHead
	size int64 // 0: not looked at yet
}

// touch says which frames have samples of an hour.
type touch struct {
	first, last uint64
	uncertain   bool
}

// RollupStats are the journal's figures about rollups.
type RollupStats struct {
	Minutes, Hours int       // files of an hour with its minutes, and of a day with its hours
	Bytes          int64     // of these; 0 until they have been looked at
	From           time.Time // when the earliest begins, zero where there is none
	Built          uint64
	Failures       uint64
	Damaged        uint64 // files set aside, or that could not be read
	Waiting        int    // hours to be rolled up, the present one included
	LastError      string // of the last failure, empty after a success
}

// findRollups takes the names of the rollup files among names. What is in them is read later, not at start.
func (j *Journal) findRollups(names []string) {
	j.roll.files, j.roll.touched = map[rollID]*rollFile{}, map[int64]touch{}
	for _, n := range names {
		if id, ok := parseRollName(n); ok {
			j.roll.files[id] = &rollFile{}
		} else if strings.HasSuffix(n, suffixMinutes+suffixPart) || strings.HasSuffix(n, suffixHours+suffixPart) {
			if !j.cfg.ReadOnly {
				_ = j.fs.Remove(filepath.Join(j.cfg.Dir, n)) // What was being written when the process ended; the next attempt would meet it.
			}
		}
	}
}

// loadRollups reads the headers of the files, and where the building has to go on.
func (j *Journal) loadRollups(ctx context.Context) error {
	ro := &j.roll
	if ro.loaded {
		return nil
	}
	dec, err := newDecoder(maxRollBlock)
	if err != nil {
		return err
	}
	defer dec.Close()
	ro.mu.Lock()
	ids := slices.Collect(maps.Keys(ro.files))
	ro.mu.Unlock()
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return err
		}
		r, size, err := openRoll(j.fs, j.cfg.Dir, id, dec, false)
		switch {
		case errors.Is(err, errCorrupt):
			j.setRollupAside(id)
			continue
		case errors.Is(err, errNewer):
			ro.mu.Lock()
			delete(ro.files, id) // Not ours to touch; it is written over by its name only.
			ro.mu.Unlock()
			continue
		case err != nil:
			return err
		}
		r.close()
		ro.mu.Lock()
		ro.files[id] = &rollFile{r.head, size}
		ro.mu.Unlock()
	}
	first, next := j.Bounds()
	ro.seen = first
	best := uint64(0)
	ro.mu.Lock()
	for id, f := range ro.files {
		if id.level == levelMinutes && f.head.epoch == j.epoch && f.head.next <= next && f.head.next >= best {
			if f.head.next > best {
				ro.seen = first
			}
			best = f.head.next
			ro.seen = max(ro.seen, min(f.head.resume, next))
		}
	}
	ro.mu.Unlock()
	ro.seen = min(ro.seen, j.firstHole())
	ro.loaded = true
	return nil
}

// firstHole returns the first frame of the earliest segment with an hour whose file is missing between others: somebody has
// removed it. Where there is none it is beyond all.
func (j *Journal) firstHole() uint64 {
	ro := &j.roll
	ro.mu.Lock()
	starts := map[int64]bool{}
	var oldest, newest int64
	for id := range ro.files {
		if id.level != levelMinutes {
			continue
		}
		if len(starts) == 0 || id.start < oldest {
			oldest = id.start
		}
		newest = max(newest, id.start)
		starts[id.start] = true
	}
	ro.mu.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.segs {
		if len(s.offs) == 0 || s.gone {
			continue
		}
		from, to, ok := j.extent(s, 0)
		if !ok {
			continue
		}
		for start := from / int64(time.Hour) * 3600; start <= to/int64(time.Second); start += 3600 {
			if start > oldest && start < newest && !starts[start] {
				return s.first
			}
		}
	}
	return maxSeq
}

// setRollupAside renames a file that cannot be used, so that another can take its place while the frames are there.
func (j *Journal) setRollupAside(id rollID) {
	j.roll.mu.Lock()
	j.roll.stats.Damaged++
	delete(j.roll.files, id)
	j.roll.again = true
	if j.roll.remake == nil {
		j.roll.remake = map[rollID]bool{}
	}
	j.roll.remake[id] = true
	j.roll.mu.Unlock()
	if j.cfg.ReadOnly {
		return
	}
	j.cfg.Log.Error("a rollup file is damaged and set aside; it is made anew from the samples where they are still there", zap.String("file", id.name()))
	path := filepath.Join(j.cfg.Dir, id.name())
	if err := j.fs.Rename(path, path+damagedSuffix); err == nil {
		_ = j.pruneAside() // It is tried again with the next one.
	}
}

// look notes which hours the frames that are new have samples of, up to the first whose time is not known yet.
func (j *Journal) look(ctx context.Context, rd *reader) error {
	ro := &j.roll
	ro.looking.Lock()
	defer ro.looking.Unlock()
	if err := j.loadRollups(ctx); err != nil {
		return err
	}
	first, next := j.Bounds()
	ro.mu.Lock()
	if ro.again {
		ro.again, ro.seen = false, first
	}
	ro.mu.Unlock()
	ro.seen = max(ro.seen, first)
	f := Frame{only: &wanted{match: func(*telemetry.Series) bool { return false }}}
	for ; ro.seen < next; ro.seen++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		switch err := j.retry(rd, ro.seen, &f); {
		case errors.Is(err, ErrNotFound):
			continue
		case err != nil:
			return err
		case f.Lost != nil:
			continue
		case !f.known:
			return nil // What follows waits as well, so that the files are written in order.
		}
		if ro.seen%64 == 0 && ro.pause != nil {
			ro.pause()
		}
		const hour = int64(time.Hour)
		a, z := int64(f.T0)+f.offset, int64(f.T1)+f.offset
		if a < 0 || z-a > 24*hour { // Nobody measures for a day before he tells.
			a = max(z-24*hour, 0)
		}
		if z >= latestRollup*int64(time.Second) {
			continue // No clock is so far ahead.
		}
		for h := a / hour; h <= z/hour; h++ {
			ro.touch(h*3600, ro.seen, j.epoch, f.Uncertain)
		}
	}
	return nil
}

// touch notes that frame seq has samples of the hour that begins at start.
func (ro *rollups) touch(start int64, seq, epoch uint64, uncertain bool) {
	ro.mu.Lock()
	defer ro.mu.Unlock()
	if have := ro.files[rollID{levelMinutes, start}]; have != nil && have.head.epoch == epoch && have.head.next > seq {
		return // It is in there.
	}
	t, ok := ro.touched[start]
	if !ok {
		t.first = seq
	}
	t.first, t.last, t.uncertain = min(t.first, seq), max(t.last, seq), t.uncertain || uncertain
	ro.touched[start] = t
}

// Rollup writes the rollup files that are due: of hours and days that are over by the wall clock. It is safe to be ended at any moment, and concerns nothing but rollups. The error is also in Stats.
func (j *Journal) Rollup(ctx context.Context) error {
	if j.cfg.ReadOnly || j.cfg.RollupBytes < 0 {
		return nil
	}
	ro := &j.roll
	ro.building.Lock()
	defer ro.building.Unlock()
	now := j.clock.Now()
	if now.Wall.IsZero() || now.Wall.Before(ro.due) && ro.due.Sub(now.Wall) <= rollRetry {
		return nil
	}
	err := j.rollup(ctx, now.Wall)
	if ctx.Err() != nil {
		return nil
	}
	ro.mu.Lock()
	defer ro.mu.Unlock()
	ro.stats.LastError = ""
	if err != nil {
		ro.stats.Failures++
		ro.stats.LastError = err.Error()
		ro.due = now.Wall.Add(rollRetry)
	}
	if failed := err != nil; failed != ro.failed {
		ro.failed = failed
		if failed {
			j.cfg.Log.Error("rollups not written; they are made later from the samples", zap.String("dir", j.cfg.Dir), zap.Error(err))
		} else {
			j.cfg.Log.Info("rollups written again", zap.String("dir", j.cfg.Dir), zap.Uint64("failures", ro.stats.Failures))
		}
	}
	if err != nil {
		err = fmt.Errorf("rollups of journal %s: %w", j.cfg.Dir, err)
	}
	return err
}

// RunRollups calls Rollup soon, and then each minute, until ctx ends. It is apart from Run, so that samples never wait for it; a failing
// disk does not end it.
func (j *Journal) RunRollups(ctx context.Context) error {
	t := time.NewTimer(rollFirst)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			t.Reset(rollEvery)
			_ = j.Rollup(ctx) // logged and counted
		}
	}
}

// over says whether what begins at start and is this long is over, with grace.
func over(id rollID, wall time.Time) bool {
	return wall.UnixNano() >= id.to()+int64(rollGrace)
}

func (j *Journal) rollup(ctx context.Context, wall time.Time) error {
	ro := &j.roll
	rd, err := newReader()
	if err != nil {
		return err
	}
	defer rd.close()
	if err := j.look(ctx, rd); err != nil {
		return err
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false),
		zstd.WithWindowSize(256<<10), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return err
	}
	defer enc.Close()
	fresh := false // an hour is to be built that was not before: those that are to be built anew go with it
	var due []int64
	ro.looking.Lock()
	next := ro.seen
	ro.looking.Unlock()
	ro.mu.Lock()
	for start, t := range ro.touched {
		if id := (rollID{levelMinutes, start}); over(id, wall) && t.first < next {
			due = append(due, start)
			fresh = fresh || ro.files[id] == nil
		}
	}
	ro.mu.Unlock()
	slices.Sort(due)
	if fresh || len(due) > 0 && ro.failed {
		for _, start := range due {
			if err := j.buildHour(ctx, rd, enc, start, next); err != nil {
				return err
			}
		}
	}
	if err := j.buildDays(ctx, enc, wall); err != nil {
		return err
	}
	return j.boundRollups(0)
}

// LookAtRollups reads the headers of the rollup files, and what of the frames they do not have yet, so that Stats can tell.
func (j *Journal) LookAtRollups(ctx context.Context) error {
	rd, err := newReader()
	if err != nil {
		return err
	}
	defer rd.close()
	return j.look(ctx, rd)
}

// figures returns the figures.
func (ro *rollups) figures() RollupStats {
	ro.mu.Lock()
	defer ro.mu.Unlock()
	s := ro.stats
	s.Bytes = 0
	for id, f := range ro.files {
		s.Bytes += f.size
		if from := time.Unix(id.start, 0).UTC(); s.From.IsZero() || from.Before(s.From) {
			s.From = from
		}
		if id.level == levelMinutes {
			s.Minutes++
		} else {
			s.Hours++
		}
	}
	s.Waiting = len(ro.touched)
	return s
}

// oldest returns the earliest file of a level, and how many there are.
func (ro *rollups) oldest(level rollLevel) (id rollID, n int) {
	ro.mu.Lock()
	defer ro.mu.Unlock()
	for x := range ro.files {
		if x.level == level {
			if n++; n == 1 || x.start < id.start {
				id = x
			}
		}
	}
	return id, n
}

// have returns what is known of a file, nil where it is not there.
func (ro *rollups) have(id rollID) *rollFile {
	ro.mu.Lock()
	defer ro.mu.Unlock()
	return ro.files[id]
}

// day returns the file of hours that the hour belongs to.
func day(start int64) rollID { return rollID{levelHours, start - start%86400} }

// readRoll calls yield for the points of sp in the file id. A file that is damaged is set aside.
func (j *Journal) readRoll(id rollID, sp Span, yield func(*rollPoint) error) error {
	dec, err := newDecoder(maxRollBlock)
	if err != nil {
		return err
	}
	defer dec.Close()
	return j.readRollWith(dec, id, sp, yield)
}

func (j *Journal) readRollWith(dec *zstd.Decoder, id rollID, sp Span, yield func(*rollPoint) error) (err error) {
	for range readTries {
		var r *rollReader
		if r, _, err = openRoll(j.fs, j.cfg.Dir, id, dec, true); err != nil {
			if errors.Is(err, errCorrupt) || errors.Is(err, errNewer) || notExist(err) {
				break
			}
			continue
		}
		first, last := sp.keys()
		err = r.points(first, last, sp.wants, yield)
		r.close()
		break
	}
	if errors.Is(err, errCorrupt) {
		j.setRollupAside(id)
	}
	return err
}

// boundRollups deletes what is too much, with room for more files. First the oldest minutes, down to those of a day, then
// the oldest hours, then the rest.
func (j *Journal) boundRollups(more int) error {
	ro := &j.roll
	for {
		ro.mu.Lock()
		total, largest := int64(0), int64(0)
		for _, f := range ro.files {
			total += f.size
			largest = max(largest, f.size)
		}
		ro.mu.Unlock()
		full := total+int64(more)*largest > j.cfg.RollupBytes
		minutes, nm := ro.oldest(levelMinutes)
		hours, nh := ro.oldest(levelHours)
		var goes rollID
		switch {
		case nm+more > keepMinutes, full && nm > 24:
			goes = minutes
		case nh+more > keepHours, full && nh > 0:
			goes = hours
		case full && nm > 0:
			goes = minutes
		default:
			return nil
		}
		if err := j.fs.Remove(filepath.Join(j.cfg.Dir, goes.name())); err != nil && !notExist(err) {
			return fmt.Errorf("delete old rollups: %w", err)
		}
		ro.mu.Lock()
		delete(ro.files, goes)
		ro.mu.Unlock()
		if err := j.fs.SyncDir(j.cfg.Dir); err != nil {
			return fmt.Errorf("delete old rollups: %w", err)
		}
	}
}
