package journal

import (
	"errors"
	"io"
	"time"

	"linli/internal/telemetry"
)

// Replay reads what the rules engine was given, in order: its steps with their moments and samples, and the marks
// between them. Another engine that gets the same decides the same.
//
// Of the steps without samples those are left out that change nothing: an engine lets each timer run at its own moment,
// however late it is stepped. One is kept where the next step has a sample that was taken no later (the engine takes such
// a sample at the moment of the step), before and after a mark, where the clock changed, and at the end.
//
// A Replay belongs to one goroutine. The journal may be written and read meanwhile.
type Replay struct {
	j        *Journal
	seq, end uint64
	resolve  func(telemetry.Series) telemetry.PointID
	skipped  uint64

	f       Frame
	ids     []telemetry.PointID // of the dictionary of the segment
	segment uint64
	at      int // entries of f given
	used    int // records of f given

	open    Item // a step whose samples may go on in the next frame, where isOpen
	isOpen  bool
	samples []telemetry.Sample
	whole   bool // nothing is missing between the last frame and the next
	gap     Missing

	// The wall clock minus monotonic time of the last step that had one, and its boot.
	wall     time.Duration
	wallBoot string
}

// Item is a step, a mark, or that something is missing.
type Item struct {
	// Boot is that of the moment.
	Boot string
	// Now is the moment of a step as the engine was given it. Of a mark only Now.Mono is set.
	Now telemetry.Now
	// At is the same moment on the wall clock by what has become known since, the zero time where nothing has. Of a
	// step with the clock set it is Now.Wall.
	At time.Time
	// Samples are those of a step, without what the engine computed itself; valid until the next call of Next.
	Samples []telemetry.Sample
	// Guessed: nobody wrote down when the step was; it is made up of the times of its samples.
	Guessed bool
	Mark    *Mark    // of a mark, otherwise nil
	Missing *Missing // set where something is missing before the next item; Now and At are not then
}

// Missing says what of the journal cannot be replayed.
type Missing struct {
	Frames  uint64 // that are not there or cannot be read
	Samples uint64 // that never were in a frame
	Reason  string // one of the Loss constants, of the last of them
}

// The points of the entries of a dictionary, beside those that the site has.
const (
	notResolved = telemetry.NoPoint - 1
	derived     = telemetry.NoPoint - 2
)

// Replay returns a reader of the frames from first up to, but not including, next. resolve returns the point of a series,
// NoPoint for one that is to be left out; it is called once for each series of a segment.
func (j *Journal) Replay(first, next uint64, resolve func(telemetry.Series) telemetry.PointID) *Replay {
	r := &Replay{j: j, seq: first, end: next, resolve: resolve}
	r.f.steps = &frameSteps{}
	return r
}

// Seq returns the number of the next frame to be read.
func (r *Replay) Seq() uint64 { return r.seq }

// Skipped returns how many samples were left out so far because resolve knows no point for them.
func (r *Replay) Skipped() uint64 { return r.skipped }

// Next reads the next item. The error is io.EOF at the end; others are the disk's, and asking again may help.
func (r *Replay) Next(it *Item) error {
	for {
		st := r.f.steps
		if r.at == len(st.entries) && r.seq < r.end {
			if err := r.load(); err != nil {
				return err
			}
			continue
		}
		switch {
		case r.isOpen:
			r.isOpen = false
			*it = r.open
			it.Samples = r.samples
			return nil
		case r.gap != Missing{}:
			gap := r.gap
			r.gap = Missing{}
			*it = Item{Missing: &gap}
			return nil
		case r.at == len(st.entries):
			return io.EOF
		}
		e := &st.entries[r.at]
		r.at++
		if e.mark == 0 {
			r.begin(e)
			continue
		}
		var m Mark
		if e.mark > MarkClosed || !m.mark(e.mark, e.body) {
			continue // written by a newer version
		}
		*it = Item{Boot: r.f.Boot, Now: telemetry.Now{Mono: e.at}, Mark: &m}
		if it.At, _ = r.f.Wall(e.at); r.wallBoot == r.f.Boot && m.Kind != MarkStart {
			it.At = time.Unix(0, int64(e.at)).UTC().Add(r.wall)
		}
		return nil
	}
}

// load reads the next frame. What is missing goes to gap.
func (r *Replay) load() error {
	st := r.f.steps
	st.entries, r.at, r.used = st.entries[:0], 0, 0
	err := r.j.Read(r.seq, &r.f)
	for try := 1; err != nil && !errors.Is(err, ErrNotFound) && try < readTries; try++ {
		err = r.j.Read(r.seq, &r.f)
	}
	switch {
	case errors.Is(err, ErrNotFound):
		r.seq++
		r.gap.Frames, r.gap.Reason, r.whole = r.gap.Frames+1, LossDamage, false
		return nil
	case err != nil:
		return err
	}
	r.seq++
	if l := r.f.Lost; l != nil {
		// That numbers are missing is met at these numbers.
		if l.FirstSeq == 0 {
			r.gap.Samples, r.gap.Reason, r.whole = r.gap.Samples+l.Count, l.Reason, false
		}
		return nil
	}
	if st.segment != r.segment {
		r.segment, r.ids = st.segment, r.ids[:0]
	}
	switch {
	case !st.told:
		st.entries = r.guess(r.f.Records, st.entries[:0])
	case st.leading > 0 && r.isOpen && r.whole:
		r.take(st.leading)
	case st.leading > 0:
		st.entries = append(r.guess(r.f.Records[:st.leading], nil), st.entries...)
	}
	r.whole = true
	return nil
}

// guess appends a step for each run of records with one time.
func (r *Replay) guess(records []Record, dst []stepEntry) []stepEntry {
	for i := 0; i < len(records); {
		e := stepEntry{at: records[i].Time, guess: true}
		if r.f.ClockSet {
			e.clock, e.wall = clockSet, r.f.offset
			if r.f.Uncertain {
				e.clock |= clockDim
			}
		}
		for ; i < len(records) && records[i].Time == e.at; i++ {
			e.n++
		}
		dst = append(dst, e)
	}
	return dst
}

// begin opens a step.
func (r *Replay) begin(e *stepEntry) {
	r.open = Item{Boot: r.f.Boot, Now: e.now(), Guessed: e.guess}
	if r.open.At = r.open.Now.Wall; r.open.At.IsZero() {
		r.open.At, _ = r.f.Wall(e.at)
	} else {
		r.wall, r.wallBoot = time.Duration(r.open.At.UnixNano()-int64(e.at)), r.f.Boot
	}
	r.isOpen, r.samples = true, r.samples[:0]
	r.take(e.n)
}

// take gives the next n records to the step that is open.
func (r *Replay) take(n int) {
	for i := range r.f.Records[r.used : r.used+n] {
		rec := &r.f.Records[r.used+i]
		for int(rec.entry) >= len(r.ids) {
			r.ids = append(r.ids, notResolved)
		}
		id := r.ids[rec.entry]
		if id >= derived {
			if id == notResolved {
				if id = derived; rec.Series.Class != telemetry.Derived {
					id = r.resolve(*rec.Series)
				}
				r.ids[rec.entry] = id
			}
			if id == telemetry.NoPoint {
				r.skipped++
			}
			if id >= derived {
				continue
			}
		}
		r.samples = append(r.samples, telemetry.Sample{Point: id, Quality: rec.Quality, Time: rec.Time, Value: rec.Value})
	}
	r.used += n
}

// Since returns the number of the first frame of the earliest segment that reaches to t or beyond; the number after the
// last frame where none does.
func (j *Journal) Since(t time.Time) uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.segs {
		if len(s.offs) == 0 || s.gone {
			continue
		}
		if o, ok := j.offsetOf(s.boot); !ok || !time.Unix(0, s.t1+o.ns).Before(t) {
			return s.first
		}
	}
	return j.next
}

// Start is where a process began to write.
type Start struct {
	Seq  uint64    // of the frame that holds the mark
	At   time.Time // zero where the clock of that boot is not known
	Mark Mark
}

// Starts returns the starts of processes that the journal tells of, the oldest first. Those of before marks were written
// are not among them. The error is the disk's.
func (j *Journal) Starts() (starts []Start, err error) {
	j.mu.Lock()
	var firsts []uint64
	for _, s := range j.segs {
		if len(s.offs) > 0 && !s.gone {
			firsts = append(firsts, s.first)
		}
	}
	j.mu.Unlock()
	for _, first := range firsts {
		// It is in the first frame that is no tombstone, and of these there are few.
		r := j.Replay(first, first+8, func(telemetry.Series) telemetry.PointID { return telemetry.NoPoint })
		for r.seq < r.end && len(r.f.steps.entries) == 0 && len(r.f.Records) == 0 {
			if err := r.load(); err != nil {
				return starts, err
			}
		}
		var m Mark
		for _, e := range r.f.steps.entries {
			if e.mark == MarkStart && m.mark(e.mark, e.body) {
				at, _ := r.f.Wall(e.at)
				starts = append(starts, Start{Seq: r.f.Seq, At: at, Mark: m})
			}
		}
	}
	return starts, nil
}
