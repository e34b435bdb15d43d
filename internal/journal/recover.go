package journal

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/klauspost/compress/zstd"

	"linli/internal/telemetry"
)

func notExist(err error) bool { return errors.Is(err, os.ErrNotExist) }

// recover reads the directory: which segments there are, what is in them, which number comes next, and what is
// missing. It runs before anybody else knows the journal, and changes as little as it can.
func (j *Journal) recover() error {
	if !j.cfg.ReadOnly {
		if err := j.fs.MkdirAll(j.cfg.Dir); err != nil {
			return err
		}
		lock, err := j.fs.Lock(filepath.Join(j.cfg.Dir, "lock"))
		if err != nil {
			return err
		}
		j.lock = lock
		if err := j.fs.SyncDir(j.cfg.Dir); err != nil {
			return err
		}
	}
	names, err := j.fs.List(j.cfg.Dir)
	if err != nil {
		return err
	}
	j.findRollups(names)
	if !j.cfg.ReadOnly && slices.Contains(names, reserveName) {
		if err := j.findReserve(); err != nil {
			return err
		}
	}
	segs := ours(names, j.cfg.Dir)
	if len(segs) == 0 {
		if err := j.newEpoch(); err != nil {
			return err
		}
		return nil
	}
	j.epoch, j.next = segs[0].epoch, segs[0].first
	dec, err := newDecoder(maxFooter)
	if err != nil {
		return err
	}
	defer dec.Close()

	// From the last to the first: where a segment ends depends on the one after it.
	limit := uint64(maxSeq)
	for i := len(segs) - 1; i >= 0; i-- {
		s := segs[i]
		keep, t, err := j.load(s, limit, dec)
		if err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(s.path), err)
		}
		j.next = max(j.next, s.first, s.next())
		if t.torn && s.next() <= t.last && limit == maxSeq {
			j.next = max(j.next, t.last+1)
		}
		if keep {
			j.segs = append(j.segs, s)
			limit = s.first
		}
	}
	slices.Reverse(j.segs)
	for _, s := range j.segs {
		if _, known := j.offsets[s.boot]; !known && s.hasWall {
			j.offsets[s.boot] = wallOffset{s.offset, s.uncertain}
		}
		for _, l := range s.losses {
			j.told.add(l.first, l.last)
		}
		if !s.sealed {
			j.w.unsealed = append(j.w.unsealed, s)
		}
	}
	j.tellHoles()
	for i := range j.losses {
		j.between(&j.losses[i])
	}
	return nil
}

// findReserve takes over the reserve of an earlier life, which has never been written to. One of another size is made anew.
func (j *Journal) findReserve() error {
	f, err := j.fs.Open(j.reservePath(), false)
	if err != nil {
		return nil // It will be made anew.
	}
	defer f.Close()
	size, err := f.Size()
	if err == nil && size == j.cfg.SegmentBytes {
		var head [headerBytes]byte
		_, err = f.ReadAt(head[:], 0)
		j.reserved = err == nil && head == [headerBytes]byte{}
	}
	if err == nil && !j.reserved {
		return j.fs.Remove(j.reservePath())
	}
	return nil
}

// newEpoch begins numbering anew, in a directory without segments.
func (j *Journal) newEpoch() error {
	var b [8]byte
	for j.epoch == 0 {
		if _, err := rand.Read(b[:]); err != nil {
			return err
		}
		j.epoch = binary.LittleEndian.Uint64(b[:])
	}
	j.next = 1
	return nil
}

// ours returns the segments among names, in order of seq. Where there are segments of several epochs (somebody
// copied files together), those of the epoch with the most count and the others are left alone.
func ours(names []string, dir string) []*segment {
	count := map[uint64]int{}
	var segs []*segment
	for _, name := range names {
		if epoch, first, ok := parseSegmentName(name); ok {
			count[epoch]++
			segs = append(segs, &segment{path: filepath.Join(dir, name), epoch: epoch, first: first, seed: seed(epoch, first)})
		}
	}
	slices.SortFunc(segs, func(a, b *segment) int {
		return cmp.Or(cmp.Compare(count[b.epoch], count[a.epoch]), cmp.Compare(a.epoch, b.epoch), cmp.Compare(a.first, b.first))
	})
	for i, s := range segs {
		if s.epoch != segs[0].epoch {
			return segs[:i]
		}
	}
	return segs
}

// load fills s from its file. keep is false when there is nothing in it for readers.
func (j *Journal) load(s *segment, limit uint64, dec *zstd.Decoder) (keep bool, t tail, err error) {
	for range readTries {
		var c contents
		if c, err = j.examine(s, limit, dec); err == nil {
			return j.judge(s, limit, c)
		}
		if errors.Is(err, errNewer) || errors.Is(err, errSync) {
			return false, t, err
		}
	}
	// It cannot be read today. The file stays where it is; its frames are told as lost, as many as there can be
	// where no later segment says how many.
	last := limit - 1
	if limit == maxSeq {
		last = s.first + uint64(max(s.size, j.cfg.SegmentBytes))/frameHeaderBytes
	}
	j.stats.LastError = err.Error()
	j.lostSegment(s, last, 0)
	return false, t, nil
}

// lostSegment tells that the frames of s up to last are lost.
func (j *Journal) lostSegment(s *segment, last, samples uint64) {
	j.stats.DamagedFrames += max(1, uint64(len(s.offs)))
	j.next = max(j.next, last+1)
	for _, r := range j.told.missing(s.first, last) {
		j.tell(loss{Loss: Loss{Count: samples, Reason: LossDamage, FirstSeq: r.first, LastSeq: r.last}})
	}
	s.offs, s.counts = nil, nil
}

// contents is what a segment file was found to hold.
type contents struct {
	sealed  bool // a good footer told everything
	header  bool // the header is good
	mended  bool // now: a bit of it was not
	empty   bool // nothing but zeros after the header
	missing uint64
	tail    tail
}

// errSync is returned where it is not certain that the disk has what would be shown.
var errSync = errors.New("write and sync again")

// examine reads the file of s and fills s. Its errors are the disk's.
func (j *Journal) examine(s *segment, limit uint64, dec *zstd.Decoder) (c contents, err error) {
	f, err := j.fs.Open(s.path, false)
	if err != nil {
		return c, err
	}
	defer f.Close()
	if s.size, err = f.Size(); err != nil {
		return c, err
	}
	var head [headerBytes]byte
	if n, err := f.ReadAt(head[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return c, err
	} else if n == headerBytes {
		switch c.mended, err = s.parseHeader(head[:]); {
		case errors.Is(err, errNewer):
			return c, err
		case err == nil:
			c.header = true
		}
	}
	b, err := s.readFooter(f, s.size, dec)
	if err == nil {
		if err = s.parseFooter(b, s.size, false); err == nil && s.next() <= limit {
			c.sealed = true
			return c, nil
		}
	} else if !errors.Is(err, errCorrupt) {
		return c, err
	}

	// No footer: it was being written when the process ended, or a write failed.
	if b, err = readAll(j.fs, s.path); err != nil {
		return c, err
	}
	c.empty = len(b) <= headerBytes || len(bytes.TrimLeft(b[headerBytes:], "\x00")) == 0
	c.missing, c.tail = s.scan(b, limit, dec)
	if len(s.offs) > 0 && !j.cfg.ReadOnly {
		if c.mended {
			copy(b, head[:])
		}
		err = j.writeAgain(s.path, b[:s.end])
	}
	return c, err
}

// writeAgain makes sure that the disk has what the kernel shows. After a failed sync the kernel may show what the
// disk never got, and a second sync would say yes; only what is written again is synced for certain. It happens
// after a crash only, once for each segment that was not sealed.
func (j *Journal) writeAgain(path string, b []byte) error {
	f, err := j.fs.Open(path, true)
	if err != nil {
		return fmt.Errorf("%w: %w", errSync, err)
	}
	defer f.Close()
	if _, err = f.WriteAt(b, 0); err == nil {
		err = f.Sync()
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errSync, err)
	}
	return nil
}

// judge decides what becomes of a segment that has been read.
func (j *Journal) judge(s *segment, limit uint64, c contents) (keep bool, t tail, err error) {
	switch {
	case c.sealed:
		return true, t, nil
	case c.empty: // The header is synced before the first frame is written, so none was.
		return false, t, j.discard(s)
	case c.header:
		j.stats.DamagedFrames += c.missing
		if c.missing > 0 {
			s.noted = true
			j.aside = append(j.aside, s)
		}
		return true, c.tail, nil
	}
	// Without its header the frames' times mean nothing.
	j.lostSegment(s, min(max(c.tail.last, s.next()-1, s.first), limit-1), s.samples)
	if j.cfg.ReadOnly {
		return false, t, nil
	}
	if err := j.fs.Rename(s.path, s.path+damagedSuffix); err != nil {
		return false, t, err
	}
	return false, t, j.pruneAside()
}

// discard removes a segment that was begun and never written to.
func (j *Journal) discard(s *segment) error {
	if j.cfg.ReadOnly {
		return nil
	}
	if err := j.fs.Remove(s.path); err != nil {
		return err
	}
	return j.fs.SyncDir(j.cfg.Dir)
}

// tellHoles queues tombstones for the numbers that no frame has and no tombstone has told.
func (j *Journal) tellHoles() {
	hole := func(first, last uint64, reason string) {
		if first > last {
			return
		}
		for _, r := range j.told.missing(first, last) {
			j.tell(loss{Loss: Loss{Reason: reason, FirstSeq: r.first, LastSeq: r.last}})
		}
	}
	if len(j.segs) == 0 {
		return
	}
	want := j.segs[0].first
	for _, s := range j.segs {
		hole(want, s.first-1, LossDamage)
		from := uint64(0)
		for i, o := range s.offs {
			seq := s.first + uint64(i)
			if o == 0 && from == 0 {
				from = seq
			}
			if o != 0 && from != 0 {
				hole(from, seq-1, LossDamage)
				from = 0
			}
		}
		want = s.next()
	}
	hole(want, j.next-1, LossTorn)
}

// between notes between which moments the frames of l were written: those beside them say it, and before the present
// is known of all. Nobody else may change the segments meanwhile.
func (j *Journal) between(l *loss) {
	for i := len(j.segs) - 1; i >= 0 && !l.after.known; i-- {
		s := j.segs[i]
		for k := min(int64(len(s.offs)), int64(l.FirstSeq)-int64(s.first)) - 1; k >= 0 && !l.after.known; k-- {
			_, l.after = j.frameEnds(s, int(k))
		}
	}
	for _, s := range j.segs {
		for k := max(0, int64(l.LastSeq)+1-int64(s.first)); k < int64(len(s.offs)) && !l.before.known; k++ {
			l.before, _ = j.frameEnds(s, int(k))
		}
	}
	if !l.before.known {
		l.before = moment{at: j.clock.Mono(), boot: j.clock.Boot, known: true}
	}
}

// frameEnds returns the earliest and the latest moment of the frame that is number i of s; they are unknown where it cannot be read, and of
// a tombstone, which tells of other times than that at which it was written.
func (j *Journal) frameEnds(s *segment, i int) (first, last moment) {
	if s.offs[i] == 0 {
		return first, last
	}
	f, err := j.fs.Open(s.path, false)
	if err != nil {
		return first, last
	}
	defer f.Close()
	end := s.end
	for _, o := range s.offs[i+1:] {
		if o != 0 {
			end = int64(o)
			break
		}
	}
	b := make([]byte, end-int64(s.offs[i]))
	n, _ := f.ReadAt(b, int64(s.offs[i])) // The CRC tells whether it is all.
	h, _, ok := parseFrame(b[:n], s.seed)
	if !ok || h.flags&flagTombstone != 0 {
		return first, last
	}
	m := moment{boot: s.boot, known: true, offset: h.offset, set: h.flags&flagClockSet != 0}
	first, last = m, m
	first.at, last.at = telemetry.Mono(h.t0), telemetry.Mono(h.t1)
	return first, last
}
