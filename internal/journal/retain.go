package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"

	"linli/internal/telemetry"
)

const (
	damagedSuffix = ".damaged"
	maxAside      = 8 // damaged files kept, each at most a segment long; the oldest go
)

// tell queues a tombstone for frames lost. Journal.mu is held.
func (j *Journal) tell(l loss) {
	j.told.add(l.FirstSeq, l.LastSeq)
	j.stats.SamplesLost += l.Count
	j.losses = append(j.losses, l)
}

// retain keeps the bounds of bytes and age, oldest segment first. Acknowledged ones go at once. For others a
// tombstone is queued, and they go when it has been written.
func (j *Journal) retain() error {
	now := j.clock.Now()
	var goes []*segment
	j.mu.Lock()
	// Room for the segment being begun, for the reserve and for one whose tombstone is being written.
	total, bound := j.bytes(), j.cfg.MaxBytes-3*j.cfg.SegmentBytes
	ages := j.ages(now)
	for i, s := range j.segs {
		old := ages[i] > j.cfg.MaxAge
		if s == j.w.seg || total <= bound && !old && !s.gone {
			break
		}
		total -= s.size
		if j.lose(s, old && total+s.size <= bound) {
			goes = append(goes, s)
		}
	}
	j.mu.Unlock()
	return j.remove(goes)
}

// lose makes sure that the unacknowledged frames of s are told as lost, and reports whether s may go now.
func (j *Journal) lose(s *segment, old bool) bool {
	if s.doomed || len(s.offs) == 0 || s.next() <= j.released {
		return s.gone || !s.doomed
	}
	reason := LossSpace
	if old {
		reason = LossAge
	}
	for _, r := range j.told.missing(max(s.first, j.released), s.next()-1) {
		l := loss{Loss: Loss{Reason: reason, FirstSeq: r.first, LastSeq: r.last}, boot: s.boot, timed: true, t0: telemetry.Mono(s.t0), t1: telemetry.Mono(s.t1)}
		for seq := r.first; seq <= r.last; seq++ {
			l.Count += uint64(s.counts[seq-s.first])
		}
		s.doomed = true
		j.tell(l)
	}
	return !s.doomed
}

// ages returns how old the latest sample of each segment is at least, by the time that the box was running since: the
// wall clock has no say in it, since one wrong reading would make everything old. Journal.mu is held.
func (j *Journal) ages(now telemetry.Now) []time.Duration {
	ages := make([]time.Duration, len(j.segs))
	since, boot, end := time.Duration(0), j.clock.Boot, int64(now.Mono)
	for i := len(j.segs) - 1; i >= 0; i-- {
		s := j.segs[i]
		if len(s.offs) == 0 {
			continue
		}
		if s.boot != boot {
			since += time.Duration(max(end, 0)) // the whole of the boot that followed
			boot, end = s.boot, s.t1
		}
		ages[i] = since + time.Duration(max(end-s.t1, 0))
	}
	return ages
}

// remove deletes segments. Each is hidden from readers before.
func (j *Journal) remove(segs []*segment) error {
	for _, s := range segs {
		j.mu.Lock()
		s.gone = true
		j.mu.Unlock()
		j.rmu.Lock()
		j.r.drop(s)
		j.rmu.Unlock()
		if err := j.fs.Remove(s.path); err != nil && !notExist(err) {
			return fmt.Errorf("delete old segment: %w", err)
		}
		j.forgetSegment(s)
		j.w.tried = 0 // There is space again.
		// Synced one by one: a hole that a power cut leaves between two would be told as damage.
		if err := j.fs.SyncDir(j.cfg.Dir); err != nil {
			return fmt.Errorf("delete old segment: %w", err)
		}
	}
	return nil
}

// giveWay deletes the oldest segment, because the disk is full: an acknowledged one, or, where lose is true, one that is told
// as lost before it goes.
func (j *Journal) giveWay(lose bool) error {
	var goes []*segment
	j.mu.Lock()
	if len(j.segs) > 1 {
		if s := j.segs[0]; s != j.w.seg && !s.doomed && (s.next() <= j.released || lose && j.lose(s, false)) {
			goes = j.segs[:1:1]
		}
	}
	j.mu.Unlock()
	return j.remove(goes)
}

const (
	reserveName = "reserve"
	// tombstoneRoom is what of a segment only tombstones may take while there is no reserve: about 600 of them.
	tombstoneRoom = 64 << 10
	// reserveEvery is how often a reserve that could not be made is tried again.
	reserveEvery = telemetry.Mono(10 * time.Second)
)

func (j *Journal) reservePath() string { return filepath.Join(j.cfg.Dir, reserveName) }

// tellEvery is how often losses are told while there is room for tombstones alone: each minute, and each hour once half
// of the room is used.
func (j *Journal) tellEvery() telemetry.Mono {
	if s := j.w.seg; s != nil && j.cfg.SegmentBytes-s.end < min(tombstoneRoom, j.cfg.SegmentBytes/8)/2 {
		return telemetry.Mono(time.Hour)
	}
	return telemetry.Mono(time.Minute)
}

// makeReserve allocates the file of the next segment ahead, so that a disk that somebody else fills does not stop the journal.
// Where there is no space for it the oldest segment makes way once the active one is half full, and another at three
// quarters, because a sealed one may be a little shorter than a new one. Not more: others may take the space as soon as it
// is free, and that must not cost everything. That a full disk leaves no reserve is no failure of the commit.
func (j *Journal) makeReserve() error {
	w := &j.w
	j.mu.Lock()
	have := j.reserved
	j.mu.Unlock()
	now := j.clock.Mono()
	if have || w.seg == nil {
		return nil
	}
	if w.noReserve == nil || w.tried == 0 || now-w.tried >= reserveEvery {
		w.tried = now
		err := j.allocateReserve()
		switch {
		case err != nil && !w.warned:
			w.warned = true
			j.cfg.Log.Warn("no space can be reserved for the journal: the oldest makes way", zap.String("dir", j.cfg.Dir), zap.Error(err))
		case err == nil && w.warned && w.gave == 0: // and nothing had to make way for it
			w.warned = false
			j.cfg.Log.Info("space is reserved for the journal again", zap.String("dir", j.cfg.Dir))
		}
		w.noReserve = err
		if err == nil {
			j.mu.Lock()
			defer j.mu.Unlock()
			j.reserved = true
			return nil
		}
	}
	if !errors.Is(w.noReserve, syscall.ENOSPC) {
		return fmt.Errorf("reserve space: %w", w.noReserve)
	}
	if w.gave < 2 && w.seg.end >= j.cfg.SegmentBytes/4*int64(2+w.gave) {
		w.gave++
		return j.giveWay(true)
	}
	return nil
}

// allocateReserve makes the file of the reserve.
func (j *Journal) allocateReserve() error {
	f, err := j.newFile(j.reservePath())
	if err != nil {
		return err
	}
	if err = f.Allocate(j.cfg.SegmentBytes); err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = j.fs.SyncDir(j.cfg.Dir)
	}
	if err != nil && !j.fs.Gone(j.reservePath()) {
		err = errors.Join(err, j.fs.Remove(j.reservePath()))
	}
	return err
}

// tidy does what waits for a good commit: deletes segments whose loss has been told, seals segments that were left
// unsealed, and copies damaged ones aside.
func (j *Journal) tidy() error {
	w := &j.w
	var goes []*segment
	j.mu.Lock()
	for _, s := range j.segs {
		if s.doomed {
			goes = append(goes, s)
		}
	}
	aside := j.aside
	j.aside = nil
	j.mu.Unlock()

	err := j.remove(goes)
	for _, s := range aside {
		err = errors.Join(err, j.copyAside(s))
	}
	err = errors.Join(err, j.makeReserve())
	if len(w.unsealed) == 0 || w.seg == nil || len(w.seg.offs) == 0 {
		// Before the first commit of this process a torn tail has to stay: it keeps its numbers from being used.
		return err
	}
	s := w.unsealed[0]
	w.unsealed = w.unsealed[1:]
	if s.gone {
		return err
	}
	if len(s.offs) == 0 {
		return errors.Join(err, j.remove([]*segment{s}))
	}
	f, e := j.fs.Open(s.path, true)
	if e == nil {
		if e = j.seal(f, s); e != nil {
			f.Close()
		}
	}
	if e != nil && !notExist(e) { // What has been deleted needs no footer.
		w.unsealed = append(w.unsealed, s)
		err = errors.Join(err, fmt.Errorf("seal %s: %w", s.path, e))
	}
	return err
}

// copyAside keeps a copy of a damaged segment for people to look at.
func (j *Journal) copyAside(s *segment) error {
	b, err := readAll(j.fs, s.path)
	if err != nil {
		return fmt.Errorf("set damaged segment aside: %w", err)
	}
	f, err := j.fs.Create(s.path + damagedSuffix)
	if errors.Is(err, os.ErrExist) {
		return nil // An earlier life of the process did it.
	}
	if err != nil {
		return fmt.Errorf("set damaged segment aside: %w", err)
	}
	if _, err = f.WriteAt(b, 0); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("set damaged segment aside: %w", err)
	}
	return j.pruneAside()
}

// pruneAside keeps the files set aside within their bound.
func (j *Journal) pruneAside() error {
	names, err := j.fs.List(j.cfg.Dir)
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasSuffix(n, damagedSuffix) })
	slices.Sort(names)
	for ; len(names) > maxAside; names = names[1:] {
		if err := j.fs.Remove(filepath.Join(j.cfg.Dir, names[0])); err != nil && !notExist(err) {
			return err
		}
	}
	return j.fs.SyncDir(j.cfg.Dir)
}

// readAll returns the file's contents. Segments are at most maxSegmentBytes and a little; of anything larger only
// that much is read.
func readAll(fs fileSystem, path string) ([]byte, error) {
	f, err := fs.Open(path, false)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, min(size, 2*maxSegmentBytes))
	n, err := f.ReadAt(b, 0)
	if err == io.EOF {
		err = nil
	}
	return b[:n], err
}
