package journal

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"runtime"
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

// roller adds up samples over the intervals of one file, for some points.
type roller struct {
	id    rollID
	slots map[telemetry.Series]int32
	list  []telemetry.Series
	cells []cell // id.level.rows() for each of list
	holds []hold // of each of list, and what held at the end of the file
	ends  []hold
	ended []bool // ends is set

	segment uint64
	ids     []int32
	boot    string
	offset  int64
	end     int64 // monotonic: until when the frames of boot tell
	primed  bool  // holds are from the file before: they begin with this one
}

// reset makes the roller ready for the points of list, of which nothing is known before the file begins.
func (r *roller) reset(id rollID, list []telemetry.Series) {
	n := len(list)
	*r = roller{id: id, list: list, slots: r.slots, cells: r.cells, holds: r.holds, ends: r.ends, ended: r.ended, ids: r.ids[:0]}
	if r.slots == nil {
		r.slots = make(map[telemetry.Series]int32, n)
	}
	clear(r.slots)
	r.cells = zeroed(r.cells, n*id.level.rows())
	r.holds, r.ends, r.ended = zeroed(r.holds, n), zeroed(r.ends, n), zeroed(r.ended, n)
	for i, s := range list {
		r.slots[s] = int32(i)
	}
}

// zeroed returns n zero values, in the memory of s where that is enough.
func zeroed[T any](s []T, n int) []T {
	s = slices.Grow(s[:0], n)[:n]
	clear(s)
	return s
}

func (r *roller) match(s *telemetry.Series) bool {
	_, ok := r.slots[*s]
	return ok
}

// cell returns the interval of point k at wall, nil where that is in none.
func (r *roller) cell(k int32, wall int64) *cell {
	if wall < r.id.from() || wall >= r.id.to() {
		return nil
	}
	rows := r.id.level.rows()
	return &r.cells[int(k)*rows+int((wall-r.id.from())/int64(r.id.level.width()))]
}

// hold lets what point k holds go on until the monotonic time m.
func (r *roller) hold(k int32, m int64) {
	h := &r.holds[k]
	if m <= h.at {
		return
	}
	if h.state != 0 {
		kind := r.list[k].Kind
		width := int64(r.id.level.width())
		a, z := max(h.at+r.offset, r.id.from()), min(m+r.offset, r.id.to())
		for a < z {
			c := r.cell(k, a)
			next := min(z, a-(a-r.id.from())%width+width)
			us := uint32((next - a + 500) / 1000)
			into := &c.bad
			switch q := telemetry.Quality(h.state - 1); {
			case q == telemetry.Good:
				into = &c.good
			case !q.Bad():
				into = &c.doubt
			}
			if *into <= math.MaxUint32-us { // Where the clock was set back time passes twice.
				*into += us
				if h.has() {
					c.include(h.num)
					c.sum += figure(kind, h.num) * float64(us) / 1e6
				}
			}
			a = next
		}
	}
	h.at = m
}

// interrupt says that nothing is known from the end of the last frame on, until each point has its next sample.
func (r *roller) interrupt() {
	for k := range r.holds {
		if h := &r.holds[k]; h.state != 0 {
			if !r.primed {
				r.hold(int32(k), r.end)
			}
			r.settle(int32(k))
			h.state = 0
		}
	}
	r.primed = false
}

// settle notes what holds at the end of the file, if that is past.
func (r *roller) settle(k int32) {
	if h := &r.holds[k]; !r.ended[k] && h.at+r.offset >= r.id.to() {
		r.ends[k], r.ended[k] = *h, true
	}
}

// frame takes the samples of f.
func (r *roller) frame(f *Frame, segment uint64) {
	if f.start || f.Boot != r.boot && r.boot != "" {
		r.interrupt()
	}
	if f.Boot != r.boot {
		r.boot, r.end = f.Boot, math.MinInt64
	}
	r.offset = f.offset
	if r.primed {
		for k := range r.holds {
			r.holds[k].at = r.id.from() - r.offset
		}
		r.primed = false
	}
	if segment != r.segment {
		r.segment, r.ids = segment, r.ids[:0]
	}
	for i := range f.Records {
		rec := &f.Records[i]
		for int(rec.entry) >= len(r.ids) {
			r.ids = append(r.ids, -2)
		}
		k := r.ids[rec.entry]
		if k == -2 {
			var ok bool
			if k, ok = r.slots[*rec.Series]; !ok {
				k = -1
			}
			r.ids[rec.entry] = k
		}
		if k >= 0 {
			r.sample(k, rec)
		}
	}
	r.end = max(r.end, int64(f.T1))
}

// sample takes a sample of point k.
func (r *roller) sample(k int32, rec *Record) {
	kind := r.list[k].Kind
	h := &r.holds[k]
	t := int64(rec.Time)
	wall := t + r.offset
	if wall >= r.id.to() && !r.ended[k] {
		r.hold(k, r.id.to()-r.offset)
		r.ends[k], r.ended[k] = *h, true
	}
	late := h.state != 0 && t < h.at
	if !late {
		if h.state == 0 {
			h.at = t
		}
		r.hold(k, t)
		if wall < r.id.to() {
			r.ended[k] = false // The clock was set back.
		}
	}
	now := hold{at: max(t, h.at), state: 1 + byte(rec.Quality)}
	num, ok := number(kind, rec.Value)
	if now.num = num; now.has() && !ok {
		now.state = 1 + byte(telemetry.BadSensor) // It says that it is good, and has nothing that the point can have.
	}
	if c := r.cell(k, wall); c != nil && now.has() {
		c.count++
		if late {
			last := c.last
			had := c.some
			if c.include(num); had {
				c.last = last
			}
		} else {
			if (kind == telemetry.Bool || kind == telemetry.Enum) && h.has() && h.num != num {
				c.changes++
			}
			c.include(num)
		}
	}
	if !late {
		*h = now
	}
}

// finish ends the last hold.
func (r *roller) finish() {
	for k := range r.holds {
		r.hold(int32(k), r.end)
		if !r.ended[k] {
			if r.holds[k].at+r.offset >= r.id.to() || r.end+r.offset >= r.id.to() {
				r.ends[k] = r.holds[k]
			} else {
				r.ends[k] = hold{}
			}
		}
	}
}

// point returns what was added up of point k.
func (r *roller) point(k int) rollPoint {
	rows := r.id.level.rows()
	p := rollPoint{series: r.list[k], carry: r.ends[k].state, cells: r.cells[k*rows : (k+1)*rows]}
	if h := &r.ends[k]; h.has() { // What holds on is what the last interval says that held last.
		if c := &p.cells[rows-1]; !c.some || c.last != h.num {
			p.carry = 0
		}
	}
	return p
}

// run takes the frames from first to last, and the one behind them, which says whether what holds goes on.
func (j *Journal) run(ctx context.Context, rd *reader, r *roller, first, last uint64, pause func()) error {
	var f Frame
	f.only = &wanted{match: r.match}
	for seq := first; seq <= last+1; seq++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		j.mu.Lock()
		s, _, _, _ := j.find(seq)
		next := j.next
		j.mu.Unlock()
		if seq >= next {
			break
		}
		if s == nil {
			r.interrupt()
			continue
		}
		segment := s.first
		switch err := j.retry(rd, seq, &f); {
		case errors.Is(err, ErrNotFound):
			r.interrupt()
		case err != nil:
			return err
		case f.Lost != nil:
			if f.Lost.FirstSeq == 0 || f.start {
				r.interrupt()
			}
		case f.known:
			r.frame(&f, segment)
		}
		if seq%16 == 0 && pause != nil {
			pause()
		}
	}
	r.finish()
	return nil
}

// rollPause is what the builder does between pieces of work: with one core, others must not wait for it.
func rollPause() {
	runtime.Gosched()
	time.Sleep(time.Millisecond)
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
		from, to, ok := j.extent(s)
		if !ok {
			if o, known := j.offsetOf(s.boot); known {
				from, to = s.t0+o.ns, s.t1+o.ns
			} else {
				continue
			}
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

// buildHour writes the file of an hour. next is the number of the first frame that was not looked at.
func (j *Journal) buildHour(ctx context.Context, rd *reader, enc *zstd.Encoder, start int64, next uint64) error {
	ro := &j.roll
	id := rollID{levelMinutes, start}
	ro.mu.Lock()
	t, remake := ro.touched[start], ro.remake[id]
	ro.mu.Unlock()
	first, _ := j.Bounds()
	head := rollHead{epoch: j.epoch, first: t.first, last: min(t.last, next-1), next: next, uncertain: t.uncertain}
	before := ro.have(id)
	if before != nil && before.head.epoch == j.epoch {
		if before.head.first < first { // Too late: what it was made of has gone.
			ro.forget(start, next)
			return nil
		}
		head.first, head.last = min(head.first, before.head.first), max(head.last, before.head.last)
		head.uncertain = head.uncertain || before.head.uncertain
	} else if oldest, n := ro.oldest(levelMinutes); before == nil && !remake && n > 0 && start < oldest.start && ro.have(day(start)) != nil {
		ro.forget(start, next) // It was there, and has been deleted for its age.
		return nil
	}
	head.resume = next
	ro.mu.Lock()
	for s, o := range ro.touched {
		if s != start {
			head.resume = min(head.resume, o.first)
		}
	}
	ro.mu.Unlock()
	if err := j.boundRollups(1); err != nil {
		return err
	}
	list, err := j.seriesOf(rd, id, head.first, head.last, Span{})
	if err != nil {
		return err
	}
	err = j.writeRoll(&rollWriter{fs: j.fs, dir: j.cfg.Dir, id: id, enc: enc, head: head}, list, func(r *roller, part []telemetry.Series) error {
		if err := j.prime(r, id, part, head.first); err != nil {
			return err
		}
		return j.run(ctx, rd, r, head.first, head.last, ro.pause)
	})
	if err != nil {
		return fmt.Errorf("%s: %w", id.name(), err)
	}
	ro.forget(start, next)
	return nil
}

// forget notes that what frames before next have of an hour is settled.
func (ro *rollups) forget(start int64, next uint64) {
	ro.mu.Lock()
	defer ro.mu.Unlock()
	t := ro.touched[start]
	if t.last < next {
		delete(ro.touched, start)
		return
	}
	t.first = next // looked at since, by somebody who reads
	ro.touched[start] = t
}

// writeRoll writes a file with the points of list, which are in its order, and takes it into the list of files. fill adds up
// some of them. After an error the list is as it was.
func (j *Journal) writeRoll(w *rollWriter, list []telemetry.Series, fill func(*roller, []telemetry.Series) error) (err error) {
	defer func() {
		if err != nil {
			w.abandon()
		}
	}()
	w.begin()
	var r roller
	for part := range slices.Chunk(list, rollPoints) {
		if err := fill(&r, part); err != nil {
			return err
		}
		for k := range part {
			p := r.point(k)
			if err := w.add(&p); err != nil {
				return err
			}
		}
	}
	size, err := w.finish()
	if err != nil {
		return err
	}
	ro := &j.roll
	ro.mu.Lock()
	defer ro.mu.Unlock()
	ro.files[w.id] = &rollFile{w.head, size}
	delete(ro.remake, w.id)
	ro.stats.Built++
	return nil
}

// heldBefore calls yield for what of sp held at the begin of id, where the file before says so and the frames go on from there
// without interruption to first.
func (j *Journal) heldBefore(id rollID, first uint64, sp Span, yield func(*telemetry.Series, hold)) error {
	prev := rollID{id.level, id.start - int64(id.level.length()/time.Second)}
	f := j.roll.have(prev)
	if f == nil || f.head.epoch != j.epoch || first <= f.head.first && first != f.head.last || first > f.head.last+1 {
		return nil
	}
	err := j.readRoll(prev, sp, func(p *rollPoint) error {
		if h := p.held(); h.state != 0 {
			yield(&p.series, h)
		}
		return nil
	})
	if errors.Is(err, errCorrupt) || notExist(err) {
		return nil
	}
	return err
}

// prime makes r ready for the points of part, which are neighbours in the order of a file, with what held when id begins.
func (j *Journal) prime(r *roller, id rollID, part []telemetry.Series, first uint64) error {
	r.reset(id, part)
	sp := Span{Match: r.match, first: rollKey(&part[0]), last: rollKey(&part[len(part)-1])}
	return j.heldBefore(id, first, sp, func(s *telemetry.Series, h hold) {
		r.holds[r.slots[*s]] = h
		r.primed = true
	})
}

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

// seriesOf returns the series of sp that frames first to last may have samples of, and those that held before id, in the order
// of a file.
func (j *Journal) seriesOf(rd *reader, id rollID, first, last uint64, sp Span) ([]telemetry.Series, error) {
	var list []telemetry.Series
	j.mu.Lock()
	var segs []*segment
	for _, s := range j.segs {
		if !s.gone && len(s.offs) > 0 && s.first <= last && s.next() > first {
			segs = append(segs, s)
		}
	}
	j.mu.Unlock()
	for _, s := range segs {
		dict, err := j.dictOf(rd, s)
		if notExist(err) {
			continue
		} else if err != nil {
			return nil, err
		}
		for i := range dict {
			if s := dict[i].series; s.Kind != 0 && s.Kind != telemetry.KindText && sp.wants(s) {
				list = append(list, *s)
			}
		}
		list = sortSeries(list)
	}
	known := len(list)
	err := j.heldBefore(id, first, sp, func(s *telemetry.Series, _ hold) {
		if _, ok := slices.BinarySearchFunc(list[:known], *s, compareSeries); !ok {
			list = append(list, *s)
		}
	})
	return sortSeries(list), err
}

// sortSeries returns the series in the order of a file, each once.
func sortSeries(list []telemetry.Series) []telemetry.Series {
	slices.SortFunc(list, compareSeries)
	return slices.Compact(list)
}

// dictOf returns the dictionary of s, not to be changed.
func (j *Journal) dictOf(rd *reader, s *segment) ([]entry, error) {
	j.mu.Lock()
	dict := s.dict
	j.mu.Unlock()
	if dict != nil {
		return dict, nil
	}
	o, err := j.use(rd, s)
	if err != nil {
		return nil, err
	}
	if o.dict == nil {
		if err := o.loadDict(rd.dec); err != nil {
			return nil, err
		}
	}
	return o.dict, nil
}

// buildDays writes the files of days that are over and that the files of their hours know more of than they say.
func (j *Journal) buildDays(ctx context.Context, enc *zstd.Encoder, wall time.Time) error {
	ro := &j.roll
	days := map[rollID]bool{}
	ro.mu.Lock()
	for id := range ro.files {
		if id.level == levelMinutes && over(day(id.start), wall) {
			days[day(id.start)] = true
		}
	}
	for start := range ro.touched { // An hour of it is still to come.
		delete(days, day(start))
	}
	ro.mu.Unlock()
	list := slices.Collect(maps.Keys(days))
	slices.SortFunc(list, func(a, b rollID) int { return int(a.start - b.start) })
	for _, id := range list {
		if err := j.buildDay(ctx, enc, id); err != nil {
			return fmt.Errorf("%s: %w", id.name(), err)
		}
	}
	return nil
}

// buildDay writes the file of a day, where that is not made of the files of its hours as they are. Hours whose files have
// been deleted are taken from the file as it was.
func (j *Journal) buildDay(ctx context.Context, enc *zstd.Encoder, id rollID) error {
	ro := &j.roll
	dec, err := newDecoder(maxRollBlock)
	if err != nil {
		return err
	}
	defer dec.Close()
	rows := id.level.rows()
	sources := make([]uint64, rows)
	old := false
	if ro.have(id) != nil {
		r, _, err := openRoll(j.fs, j.cfg.Dir, id, dec, true)
		switch {
		case err == nil:
			old = len(r.sources) == rows
			copy(sources, r.sources)
			r.close()
		case errors.Is(err, errCorrupt):
			j.setRollupAside(id)
		case !notExist(err):
			return err
		}
	}
	head := rollHead{epoch: j.epoch}
	changed := !old
	fromOld := make([]bool, rows)
	for i := range rows {
		f := ro.have(rollID{levelMinutes, id.start + int64(i)*3600})
		if f == nil {
			fromOld[i] = old
			continue
		}
		changed = changed || sources[i] != f.head.next
		sources[i] = f.head.next
		if head.first == 0 || f.head.first < head.first {
			head.first = f.head.first
		}
		head.last, head.next = max(head.last, f.head.last), max(head.next, f.head.next)
		head.uncertain = head.uncertain || f.head.uncertain
	}
	if !changed {
		return nil
	}
	if err := j.boundRollups(1); err != nil {
		return err
	}
	// What there is to be added up, as the files say.
	each := func(sp Span, yield func(row int, p *rollPoint) error) error {
		for i := range rows {
			if err := ctx.Err(); err != nil {
				return err
			}
			hour := rollID{levelMinutes, id.start + int64(i)*3600}
			if ro.have(hour) == nil {
				continue
			}
			err := j.readRollWith(dec, hour, sp, func(p *rollPoint) error { return yield(i, p) })
			if errors.Is(err, errCorrupt) || notExist(err) {
				return fmt.Errorf("%s cannot be read, and is made again first", hour.name())
			} else if err != nil {
				return err
			}
			if ro.pause != nil {
				ro.pause()
			}
		}
		if !old {
			return nil
		}
		return j.readRollWith(dec, id, sp, func(p *rollPoint) error { return yield(-1, p) })
	}
	all := map[telemetry.Series]struct{}{}
	if err := each(Span{}, func(_ int, p *rollPoint) error {
		all[p.series] = struct{}{}
		return nil
	}); err != nil {
		return err
	}
	list := slices.SortedFunc(maps.Keys(all), compareSeries)
	w := &rollWriter{fs: j.fs, dir: j.cfg.Dir, id: id, enc: enc, head: head, sources: sources}
	return j.writeRoll(w, list, func(r *roller, part []telemetry.Series) error {
		r.reset(id, part)
		return each(Span{Match: r.match}, func(row int, p *rollPoint) error {
			k := int(r.slots[p.series])
			if row < 0 {
				for i := range p.cells {
					if fromOld[i] {
						r.cells[k*rows+i].add(&p.cells[i])
					}
				}
				return nil
			}
			for i := range p.cells {
				r.cells[k*rows+row].add(&p.cells[i])
			}
			return nil
		})
	})
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
