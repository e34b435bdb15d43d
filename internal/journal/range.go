package journal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"linli/internal/telemetry"
)

// SegmentInfo says what is known of one segment file.
type SegmentInfo struct {
	Name        string // of the file, in the journal's directory
	First, Next uint64 // its frames: First <= seq < Next
	Frames      int    // of these, how many are there
	Samples     uint64
	Bytes       int64 // of the file
	Boot        string
	// From and To are the times of the earliest and the latest sample, by what is known of the boot's clock; zero where
	// nothing is.
	From, To  time.Time
	Uncertain bool // these times are an estimate, or of a clock that nobody vouches for
	Sealed    bool // nothing will be written to it any more
}

// Segments returns what is known of the segments, the oldest first.
func (j *Journal) Segments() []SegmentInfo {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []SegmentInfo
	for _, s := range j.segs {
		if s.gone || len(s.offs) == 0 {
			continue
		}
		i := SegmentInfo{Name: filepath.Base(s.path), First: s.first, Next: s.next(), Samples: s.samples, Bytes: s.size, Boot: s.boot, Sealed: s.sealed}
		for _, o := range s.offs {
			if o != 0 {
				i.Frames++
			}
		}
		if o, ok := j.offsetOf(s.boot); ok {
			i.From, i.To, i.Uncertain = time.Unix(0, s.t0+o.ns).UTC(), time.Unix(0, s.t1+o.ns).UTC(), o.uncertain
		}
		out = append(out, i)
	}
	return out
}

// Told is a loss with the frame that tells it.
type Told struct {
	Loss
	Seq      uint64    // of the tombstone
	From, To time.Time // of the samples lost, as far as is known; zero where the clock is not
}

// Losses returns the losses that the journal tells of, in the order in which they were told. It reads the frames without
// samples, which tombstones are among. The error is the disk's, or ctx's.
func (j *Journal) Losses(ctx context.Context) ([]Told, error) {
	r, err := newReader()
	if err != nil {
		return nil, err
	}
	defer r.close()
	var out []Told
	var f Frame
	first, next := j.Bounds()
	for seq := first; seq < next; seq++ {
		j.mu.Lock()
		s, _, _, _ := j.find(seq)
		skip := s == nil || s.counts[seq-s.first] != 0
		j.mu.Unlock()
		if skip {
			continue
		}
		if err := ctx.Err(); err != nil {
			return out, err
		}
		if err := j.retry(r, seq, &f); errors.Is(err, ErrNotFound) {
			continue
		} else if err != nil {
			return out, err
		}
		if f.Lost == nil {
			continue
		}
		t := Told{Loss: *f.Lost, Seq: seq}
		t.From, _ = f.Wall(f.T0)
		t.To, _ = f.Wall(f.T1)
		out = append(out, t)
	}
	return out, nil
}

// newReader returns a reader of one's own.
func newReader() (*reader, error) {
	r := &reader{}
	if err := r.init(); err != nil {
		return nil, err
	}
	return r, nil
}

// retry reads a frame as read does, as often as it takes to know.
func (j *Journal) retry(r *reader, seq uint64, f *Frame) (err error) {
	for range readTries {
		if err = j.read(r, seq, f); err == nil || errors.Is(err, ErrNotFound) {
			break
		}
	}
	return err
}

// Resolution is how fine what Range reads is.
type Resolution uint8

// The resolutions.
const (
	Auto    Resolution = iota // the finest that is there and gives a picture, see Journal.Range
	Samples                   // as they were appended
	Minutes                   // rollups of a minute
	Hours                     // rollups of an hour
)

var resolutionNames = [...]string{"auto", "raw", "1m", "1h"}

// String returns the resolution's name as the command line has it.
func (r Resolution) String() string {
	if int(r) < len(resolutionNames) {
		return resolutionNames[r]
	}
	return fmt.Sprintf("resolution(%d)", uint8(r))
}

// ParseResolution is the inverse of Resolution.String.
func ParseResolution(s string) (Resolution, error) {
	for i, name := range resolutionNames {
		if name == s {
			return Resolution(i), nil
		}
	}
	return 0, fmt.Errorf("%q is no resolution (auto, raw, 1m, 1h)", s)
}

// Width returns the length of an interval, 0 for single samples.
func (r Resolution) Width() time.Duration {
	switch r {
	case Minutes:
		return time.Minute
	case Hours:
		return time.Hour
	}
	return 0
}

// Span is a part of the past of some points.
type Span struct {
	// Device and Point name a point, or with Device alone all points of a device. "" is any. To name a point is much faster
	// than to match it.
	Device, Point string
	// Match says which points are wanted of these; nil: all. It is called again and again for the same series, and must be
	// cheap.
	Match func(*telemetry.Series) bool
	// From and To bound the time of a sample, or the beginning of an interval: From <= t < To.
	From, To time.Time

	first, last string // bounds of keys, for the rollups' own reading
}

// wants reports whether a series is wanted.
func (sp *Span) wants(s *telemetry.Series) bool {
	return (sp.Device == "" || s.Device == sp.Device) && (sp.Point == "" || s.Point == sp.Point) && (sp.Match == nil || sp.Match(s))
}

// keys bounds the keys of the points that are wanted, see rollKey; "" is no bound.
func (sp *Span) keys() (first, last string) {
	switch {
	case sp.Device == "":
		return sp.first, sp.last
	case sp.Point == "":
		return sp.Device + "\x00", sp.Device + "\x01"
	}
	return sp.Device + "\x00" + sp.Point + "\x00", sp.Device + "\x00" + sp.Point + "\x01"
}

// Row is one sample of a point, what is known of it over an interval, or a gap.
type Row struct {
	Series *telemetry.Series // not to be changed; nil in a gap
	At     time.Time         // of the sample; the beginning of the interval, or of the gap
	Until  time.Time         // the end of the interval, or of the gap; zero for a sample
	// Uncertain: the times are an estimate, or of a clock that nobody vouches for.
	Uncertain bool

	// Of a sample.
	Quality telemetry.Quality
	Value   telemetry.Value

	Gap string // why nothing is known between At and Until: a Loss constant, or GapStopped

	Rollup // of an interval
}

// GapStopped is why nothing is known of a time in which no process wrote the journal.
const GapStopped = "stopped"

// eachSample calls yield for every sample of sp, in the order of the journal, and for each gap between them. Where from is
// not 0 it begins with that frame.
func (j *Journal) eachSample(ctx context.Context, sp Span, yield func(*Row) error) error {
	r, err := newReader()
	if err != nil {
		return err
	}
	defer r.close()
	var row Row
	f := Frame{only: &wanted{match: sp.wants}}
	from, to := sp.From.UnixNano(), sp.To.UnixNano()
	var last time.Time // until when the journal has told of
	missing := ""
	var begun bool
	passed := uint64(0) // the last frame, where it was not read
	for seq, next := j.spanned(sp); seq < next; seq++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		if missing == "" && begun {
			if to := min(j.pass(r, seq, f.only), next); to > seq {
				passed, seq = to-1, to-1
				continue
			}
		}
		err := j.retry(r, seq, &f)
		if passed != 0 && (err != nil || f.Lost != nil || f.start) {
			var before Frame
			before.only = &wanted{match: func(*telemetry.Series) bool { return false }}
			if j.retry(r, passed, &before) == nil {
				if end, ok := before.Wall(before.T1); ok && end.After(last) {
					last = end
				}
			}
		}
		passed = 0
		if errors.Is(err, ErrNotFound) {
			missing = LossDamage
			continue
		} else if err != nil {
			return err
		}
		if f.Lost != nil {
			if f.Lost.FirstSeq == 0 {
				missing = f.Lost.Reason
			} else if f.start && begun && missing == "" {
				missing = GapStopped
			}
			continue
		}
		if f.start && begun && missing == "" {
			missing = GapStopped
		}
		begun = true
		begin, ok := f.Wall(f.T0)
		if !ok {
			continue // nobody knows yet when that was
		}
		end, _ := f.Wall(f.T1)
		if missing != "" && begin.After(last) {
			if !last.IsZero() && last.Before(sp.To) && begin.After(sp.From) {
				row = Row{At: last, Until: begin, Gap: missing, Uncertain: f.Uncertain}
				if err := yield(&row); err != nil {
					return err
				}
			}
			missing = ""
		}
		if end.After(last) {
			last = end
		}
		for i := range f.Records {
			rec := &f.Records[i]
			if t := int64(rec.Time) + f.offset; t < from || t >= to || !f.only.entries[rec.entry] {
				continue
			}
			at, _ := f.Wall(rec.Time)
			row = Row{Series: rec.Series, At: at, Quality: rec.Quality, Value: rec.Value, Uncertain: f.Uncertain}
			if err := yield(&row); err != nil {
				return err
			}
		}
	}
	return nil
}

// pass returns the number of the first frame from seq on that may have a sample that is wanted, or that tells something else
// (a loss, the start of a process), within its segment. It is seq where that is not known.
func (j *Journal) pass(r *reader, seq uint64, w *wanted) uint64 {
	j.mu.Lock()
	s, _, _, _ := j.find(seq)
	sealed := s != nil && s.sealed
	j.mu.Unlock()
	if !sealed || seq == s.first {
		return seq
	}
	o, err := j.use(r, s)
	if err != nil {
		return seq
	}
	if o.dict == nil && o.loadDict(r.dec) != nil {
		return seq
	}
	w.look(s.first, o.dict)
	j.mu.Lock()
	defer j.mu.Unlock()
	for ; seq < s.next(); seq++ {
		i := seq - s.first
		if s.offs[i] == 0 || s.counts[i] == 0 || w.inBlock(o.index, i) {
			break
		}
	}
	return seq
}

// spanned returns frames first <= seq < next that hold all that the journal has of sp.
func (j *Journal) spanned(sp Span) (first, next uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	first, next = j.next, 0
	// The clock of a boot may have been set while it ran: then its later frames say otherwise than its first.
	const slack = 24 * time.Hour
	for _, s := range j.segs {
		if len(s.offs) == 0 || s.gone {
			continue
		}
		from, to, ok := j.extent(s, int64(slack))
		if !ok {
			continue
		}
		if to < sp.From.UnixNano() || from >= sp.To.UnixNano() {
			continue
		}
		first, next = min(first, s.first), max(next, s.next())
	}
	return first, next
}

// extent returns the wall clock times of the earliest and the latest sample of s, false where nothing is known of them. Where
// they are known only by the boot's clock, slack (ns) is allowed on both sides. Journal.mu is held.
func (j *Journal) extent(s *segment, slack int64) (from, to int64, ok bool) {
	if s.hasExtent {
		return s.wall0, s.wall1, true
	}
	o, ok := j.offsetOf(s.boot)
	return s.t0 + o.ns - slack, s.t1 + o.ns + slack, ok
}

// Lengths up to which Auto takes samples, and minutes.
const (
	autoSamples = 2 * time.Hour
	autoMinutes = 8 * 24 * time.Hour
)

// Resolve says in which resolution Range reads sp where it may choose: samples up to two hours, minutes up to eight days,
// hours beyond. Where those do not reach back to the begin of sp it is the next coarser one that reaches further.
func (j *Journal) Resolve(sp Span, want Resolution) Resolution {
	if want != Auto {
		return want
	}
	res := Hours
	switch length := sp.To.Sub(sp.From); {
	case length <= autoSamples:
		res = Samples
	case length <= autoMinutes:
		res = Minutes
	}
	// When what there is begins.
	begin := [...]time.Time{Samples: sp.To, Minutes: sp.To, Hours: sp.To}
	if segs := j.Segments(); len(segs) > 0 && !segs[0].From.IsZero() {
		begin[Samples], begin[Minutes], begin[Hours] = segs[0].From, segs[0].From, segs[0].From
	}
	for res, level := range map[Resolution]rollLevel{Minutes: levelMinutes, Hours: levelHours} {
		if id, n := j.roll.oldest(level); n > 0 && id.from() < begin[res].UnixNano() {
			begin[res] = time.Unix(id.start, 0)
		}
	}
	if begin[Minutes].Before(begin[Hours]) {
		begin[Hours] = begin[Minutes]
	}
	for res < Hours && begin[res].After(sp.From) && begin[res+1].Add(res.Width()+time.Minute).Before(begin[res]) {
		res++
	}
	return res
}

// Range reads what the journal knows of sp in a resolution and calls yield for each Row, which is valid during the call.
// An error of yield ends it and is returned; others are the disk's or ctx's.
//
// Samples come in the order of the journal, with a Row for each gap between them: where samples were lost, or no process
// ran. Intervals come in the order of time, of several points hour by hour or day by day; those of which nothing is known
// are left out. What has no rollup file yet is added up from its samples. Rollups that are damaged are set aside and made of
// the samples where these are there.
func (j *Journal) Range(ctx context.Context, sp Span, want Resolution, yield func(*Row) error) error {
	switch j.Resolve(sp, want) {
	case Minutes:
		return j.eachInterval(ctx, sp, levelMinutes, yield)
	case Hours:
		return j.eachInterval(ctx, sp, levelHours, yield)
	}
	return j.eachSample(ctx, sp, yield)
}

// eachInterval calls yield for the intervals of sp.
func (j *Journal) eachInterval(ctx context.Context, sp Span, level rollLevel, yield func(*Row) error) error {
	rd, err := newReader()
	if err != nil {
		return err
	}
	defer rd.close()
	dec, err := newDecoder(maxRollBlock)
	if err != nil {
		return err
	}
	defer dec.Close()
	if err := j.look(ctx, rd); err != nil {
		return err
	}
	ro := &j.roll
	from, to := sp.From.UnixNano(), sp.To.UnixNano()
	var ids []rollID
	ro.mu.Lock()
	add := func(id rollID) {
		if id.from() < to && id.to() > from {
			ids = append(ids, id)
		}
	}
	for id := range ro.files {
		if id.level == level {
			add(id)
		} else if id.level == levelMinutes && ro.files[day(id.start)] == nil {
			add(id)
		}
	}
	for start := range ro.touched {
		if ro.files[rollID{levelMinutes, start}] == nil && (level == levelMinutes || ro.files[day(start)] == nil) {
			add(rollID{levelMinutes, start})
		}
	}
	ro.mu.Unlock()
	slices.SortFunc(ids, func(a, b rollID) int { return cmp.Compare(a.start, b.start) })
	var row Row
	emit := func(id rollID, uncertain bool, p *rollPoint) error {
		cells, width := p.cells, id.level.width()
		if id.level != level { // the minutes of an hour that the file of its day has not yet
			var sum cell
			for i := range p.cells {
				sum.add(&p.cells[i])
			}
			cells, width = []cell{sum}, time.Hour
		}
		for i := range cells {
			c := &cells[i]
			at := id.from() + int64(i)*int64(width)
			if at < from || at >= to || !c.some && c.bad == 0 {
				continue
			}
			row = Row{Series: &p.series, At: time.Unix(0, at).UTC(), Until: time.Unix(0, at+int64(width)).UTC(), Uncertain: uncertain, Rollup: c.rollup(p.series.Kind)}
			if err := yield(&row); err != nil {
				return err
			}
		}
		return nil
	}
	for i := 0; i < len(ids); i++ {
		id := ids[i]
		if err := ctx.Err(); err != nil {
			return err
		}
		if f := ro.have(id); f != nil {
			told := false
			err := j.readRollWith(dec, id, sp, func(p *rollPoint) error {
				told = true
				return emit(id, f.head.uncertain, p)
			})
			if err == nil {
				continue
			}
			if !errors.Is(err, errCorrupt) && !notExist(err) {
				return err
			}
			if told {
				return fmt.Errorf("rollups %s are damaged and set aside: ask again", id.name())
			}
			if err := j.look(ctx, rd); err != nil {
				return err
			}
		}
		if id.level != levelMinutes { // What it was made of may still be there.
			for h := range 24 {
				ids = slices.Insert(ids, i+1+h, rollID{levelMinutes, id.start + int64(h)*3600})
			}
			continue
		}
		ro.mu.Lock()
		t, ok := ro.touched[id.start]
		ro.mu.Unlock()
		if !ok {
			continue
		}
		if err := j.addUp(ctx, rd, id, t, sp, func(p *rollPoint) error { return emit(id, t.uncertain, p) }); err != nil {
			return err
		}
	}
	return nil
}

// addUp makes the intervals of an hour that has no file.
func (j *Journal) addUp(ctx context.Context, rd *reader, id rollID, t touch, sp Span, yield func(*rollPoint) error) error {
	list, err := j.seriesOf(rd, id, t.first, t.last, sp)
	if err != nil {
		return err
	}
	var r roller
	for part := range slices.Chunk(list, rollPoints) {
		if err := j.prime(&r, id, part, t.first); err != nil {
			return err
		}
		if err := j.run(ctx, rd, &r, t.first, t.last, nil); err != nil {
			return err
		}
		for k := range part {
			if p := r.point(k); !p.empty() {
				if err := yield(&p); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
