package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/klauspost/compress/zstd"

	"linli/internal/telemetry"
)

// openSegments is how many segment files are kept open for reading: one per reader (live, late, console, command
// line) is enough, since each goes forward.
const openSegments = 4

// keptFor is how long the dictionary of a sealed segment is kept after the last frame of it was read: it is a megabyte and
// more, and who reads new frames only needs none.
const keptFor = time.Minute

// readTries is how often reading a frame may fail before it counts as lost.
const readTries = 3

// reader is the scratch memory and the open files of whoever reads: one, guarded by Journal.rmu, for all callers of Read,
// and one for each range read and for the rollups, so that these keep nobody waiting.
type reader struct {
	dec  *zstd.Decoder
	open []openSegment // the most recently used first
	buf  []byte
	raw  []byte

	failing uint64 // seq whose last read failed
	tries   int
}

type openSegment struct {
	seg  *segment
	file file
	dict []entry // of a sealed segment
	// index of a sealed segment, read with the dictionary; not all have one.
	index frameIndex
	used  telemetry.Mono // when dict was last
}

func (r *reader) init() (err error) {
	r.dec, err = newDecoder(maxFooter)
	return err
}

func (r *reader) close() {
	for _, o := range r.open {
		o.file.Close()
	}
	r.open = nil
	r.dec.Close()
}

// drop closes the file of a segment that has been deleted, so that its space comes free.
func (r *reader) drop(s *segment) {
	for i := range r.open {
		if r.open[i].seg == s {
			r.open[i].file.Close()
			r.open = append(r.open[:i], r.open[i+1:]...)
			return
		}
	}
}

// use returns the open file of segment s.
func (j *Journal) use(r *reader, s *segment) (*openSegment, error) {
	for i := range r.open {
		if r.open[i].seg == s {
			o := r.open[i]
			copy(r.open[1:i+1], r.open[:i])
			r.open[0] = o
			return &r.open[0], nil
		}
	}
	f, err := j.fs.Open(s.path, false)
	if err != nil {
		return nil, err
	}
	if len(r.open) == openSegments {
		r.open[len(r.open)-1].file.Close()
		r.open = r.open[:len(r.open)-1]
	}
	r.open = append(r.open, openSegment{})
	copy(r.open[1:], r.open)
	r.open[0] = openSegment{seg: s, file: f}
	return &r.open[0], nil
}

// loadDict reads the dictionary from the segment's footer.
func (o *openSegment) loadDict(dec *zstd.Decoder) error {
	size, err := o.file.Size()
	if err != nil {
		return err
	}
	s := segment{seed: o.seg.seed}
	b, err := s.readFooter(o.file, size, dec)
	if err == nil {
		err = s.parseFooter(b, size, true)
	}
	if errors.Is(err, errCorrupt) { // The footer was good at start: the frames may be good still.
		b := make([]byte, size)
		if _, err := o.file.ReadAt(b, 0); err != nil && err != io.EOF {
			return err
		}
		s.first = o.seg.first
		s.scan(b, maxSeq, dec)
		s.index = nil
	} else if err != nil {
		return err
	}
	o.index = s.index
	if o.dict = s.dict; o.dict == nil {
		o.dict = []entry{}
	}
	return nil
}

// Read reads frame seq into f, reusing its memory. ErrNotFound: the frame is not (or no longer) there, also because
// it is damaged; the loss is then told by a tombstone. Other errors are the disk's and may pass; after a few of them
// the frame counts as damaged. What a Record points to stays valid when f is read into again.
func (j *Journal) Read(seq uint64, f *Frame) error {
	j.rmu.Lock()
	defer j.rmu.Unlock()
	return j.read(&j.r, seq, f)
}

// forgetRead gives the dictionaries back that Read no longer uses. It waits for nobody.
func (j *Journal) forgetRead() {
	if !j.rmu.TryLock() {
		return
	}
	defer j.rmu.Unlock()
	for i := range j.r.open {
		if o := &j.r.open[i]; o.dict != nil && j.clock.Mono().Sub(o.used) > keptFor {
			o.dict, o.index = nil, nil
		}
	}
}

// read is Read with the files and the memory of r.
func (j *Journal) read(r *reader, seq uint64, f *Frame) error {
	j.mu.Lock()
	s, at, length, dict := j.find(seq)
	if s != nil {
		f.Epoch, f.Boot = j.epoch, s.boot
	}
	j.mu.Unlock()
	if s == nil {
		return fmt.Errorf("journal frame %d: %w", seq, ErrNotFound)
	}

	err := j.readFrame(r, s, at, length, seq, dict, f)
	if err == nil {
		r.failing, r.tries = 0, 0
		j.mu.Lock()
		if !f.known {
			var o wallOffset
			o, f.known = j.offsetOf(f.Boot)
			f.offset, f.Uncertain = o.ns, o.uncertain
		}
		j.mu.Unlock()
		return nil
	}
	if errors.Is(err, os.ErrNotExist) { // deleted since, for space or age, or by hand
		err = errCorrupt
	}
	if !errors.Is(err, errCorrupt) {
		if r.failing != seq {
			r.failing, r.tries = seq, 0
		}
		if r.tries++; r.tries < readTries {
			r.drop(s) // The next try uses a new descriptor.
			return fmt.Errorf("read journal frame %d in %s: %w", seq, s.path, err)
		}
	}
	j.damaged(s, seq)
	return fmt.Errorf("journal frame %d in %s is damaged: %w", seq, s.path, ErrNotFound)
}

// wallOffset is a boot's wall clock minus its monotonic time.
type wallOffset struct {
	ns        int64
	uncertain bool
}

// offsetOf returns the offset of a boot. Of one that ended before its clock was set it is estimated, as soon as a later
// boot's is known: as if that one had begun when the earlier one wrote its last sample. Journal.mu is held.
func (j *Journal) offsetOf(boot string) (o wallOffset, ok bool) {
	if o, ok = j.offsets[boot]; ok || boot == j.clock.Boot {
		return o, ok
	}
	// From the newest segment backwards: begin is when what follows the present boot began.
	o, ok = j.offsets[j.clock.Boot]
	begin, later := o.ns, j.clock.Boot
	for i := len(j.segs) - 1; i >= 0; i-- {
		s := j.segs[i]
		if s.boot == later || len(s.offs) == 0 {
			continue
		}
		later = s.boot
		if known, is := j.offsets[s.boot]; is {
			begin, ok = known.ns, true
		} else if ok {
			begin -= s.t1
		}
		if s.boot == boot {
			return wallOffset{begin, true}, ok
		}
	}
	return wallOffset{}, false
}

// find returns where frame seq is. The length is that of the frame, or a little more.
func (j *Journal) find(seq uint64) (s *segment, at int64, length int, dict []entry) {
	lo, hi := 0, len(j.segs)
	for lo < hi {
		if m := (lo + hi) / 2; j.segs[m].first <= seq {
			lo = m + 1
		} else {
			hi = m
		}
	}
	if lo == 0 || seq >= j.next {
		return nil, 0, 0, nil
	}
	s = j.segs[lo-1]
	i := seq - s.first
	if s.gone || i >= uint64(len(s.offs)) || s.offs[i] == 0 {
		return nil, 0, 0, nil
	}
	end := s.end
	for _, o := range s.offs[i+1:] {
		if o != 0 {
			end = int64(o)
			break
		}
	}
	return s, int64(s.offs[i]), int(end - int64(s.offs[i])), s.dict
}

func (j *Journal) readFrame(r *reader, s *segment, at int64, length int, seq uint64, dict []entry, f *Frame) error {
	o, err := j.use(r, s)
	if err != nil {
		return err
	}
	if cap(r.buf) < length {
		r.buf = make([]byte, length+length/4)
	}
	r.buf = r.buf[:length]
	if n, err := o.file.ReadAt(r.buf, at); err != nil && n < length {
		if err == io.EOF {
			return errCorrupt
		}
		return err
	}
	h, payload, ok := parseFrame(r.buf, s.seed)
	if !ok || h.seq != seq {
		return errCorrupt
	}
	if dict == nil && h.flags&flagTombstone == 0 {
		if o.dict == nil {
			if err := o.loadDict(r.dec); err != nil {
				return err
			}
		}
		dict, o.used = o.dict, j.clock.Mono()
	}
	raw, err := unpack(&h, payload, r.raw, r.dec)
	if err != nil {
		return err
	}
	if h.flags&flagZstd != 0 {
		r.raw = raw
	}
	f.Seq = seq
	f.T0, f.T1 = telemetry.Mono(h.t0), telemetry.Mono(h.t1)
	f.ClockSet = h.flags&flagClockSet != 0
	f.offset, f.known = h.offset, f.ClockSet
	f.Uncertain = h.flags&flagUncertain != 0
	f.Lost, f.start = nil, s.start && seq == s.first
	f.Records = f.Records[:0]
	if f.steps != nil {
		f.steps.leading, f.steps.entries, f.steps.told = 0, f.steps.entries[:0], false
	}
	if h.flags&flagTombstone != 0 {
		f.Lost, err = decodeLoss(raw)
		return err
	}
	var only []bool
	if f.only != nil {
		if !f.only.in(raw, s.first, dict) {
			return nil
		}
		only = f.only.entries
	}
	f.Records, err = decodeSamples(raw, &h, dict, only, f.Records)
	if st := f.steps; st != nil && err == nil {
		st.segment = s.first
		st.leading, st.entries, st.told = decodeSteps(raw, &h, f.Records, st.entries[:0])
	}
	return err
}

// damaged notes that frame seq of s cannot be read.
func (j *Journal) damaged(s *segment, seq uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	i := seq - s.first
	if s.gone || i >= uint64(len(s.offs)) || s.offs[i] == 0 {
		return
	}
	count := uint64(s.counts[i])
	s.offs[i] = 0
	j.stats.DamagedFrames++
	if !s.noted {
		s.noted = true
		j.aside = append(j.aside, s)
	}
	if len(j.told.missing(seq, seq)) == 0 {
		return // An earlier life of the process met it already.
	}
	j.tell(loss{Loss: Loss{Count: count, Reason: LossDamage, FirstSeq: seq, LastSeq: seq}, t0: telemetry.Mono(s.t0), t1: telemetry.Mono(s.t1), boot: s.boot, timed: true})
}
