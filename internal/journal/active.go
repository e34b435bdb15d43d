package journal

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"syscall"

	"linli/internal/telemetry"
)

// create begins a new segment, where there is none that is written to.
func (j *Journal) create(now telemetry.Now) error {
	f, s, err := j.prepare()
	if err == nil {
		j.begin(f, s, now)
	}
	return err
}

// rotate begins a new segment and then seals the active one: where there is no space for the new one, the active one goes on
// to take tombstones.
func (j *Journal) rotate(now telemetry.Now) error {
	f, s, err := j.prepare()
	if err != nil {
		j.w.tight = true
		return err
	}
	err = j.sealActive()
	j.begin(f, s, now)
	if errors.Is(err, syscall.ENOSPC) {
		return nil // It is sealed later; nothing in it is missing.
	}
	return err
}

// prepare makes the file of the next segment: of the reserve, or a new one.
func (j *Journal) prepare() (file, *segment, error) {
	w := &j.w
	s := &segment{
		path:  filepath.Join(j.cfg.Dir, segmentName(j.epoch, j.next)),
		epoch: j.epoch, first: j.next, seed: seed(j.epoch, j.next),
		boot: j.clock.Boot, end: headerBytes, size: j.cfg.SegmentBytes, start: !w.began,
	}
	j.mu.Lock()
	var o wallOffset
	o, s.hasWall = j.offsets[s.boot]
	s.offset, s.uncertain = o.ns, o.uncertain
	reserved := j.reserved
	j.reserved = false
	j.mu.Unlock()

	var f file
	var err error
	if reserved {
		// What a failed attempt may have left under that name is replaced: no frame from next on has ever been visible.
		if err = j.fs.Rename(j.reservePath(), s.path); err == nil {
			f, err = j.fs.Open(s.path, true)
		}
	}
	if !reserved || notExist(err) { // Somebody may have deleted it.
		if f, err = j.newFile(s.path); err == nil {
			if err = f.Allocate(j.cfg.SegmentBytes); err != nil {
				f.Close()
			}
		}
	}
	if err == nil {
		if _, err = f.WriteAt(s.putHeader(), 0); err == nil {
			err = f.Sync()
		}
		if err == nil {
			err = j.fs.SyncDir(j.cfg.Dir)
		}
		if err != nil {
			f.Close()
		}
	}
	if err != nil {
		err = fmt.Errorf("new segment: %w", err)
		if !j.fs.Gone(s.path) {
			err = errors.Join(err, j.fs.Remove(s.path))
		}
		return nil, nil, err
	}
	return f, s, nil
}

// newFile makes a new, empty file, in place of what a failed attempt has left.
func (j *Journal) newFile(path string) (file, error) {
	f, err := j.fs.Create(path)
	if errors.Is(err, syscall.EEXIST) {
		if err = j.fs.Remove(path); err == nil {
			f, err = j.fs.Create(path)
		}
	}
	if notExist(err) {
		if err = j.makeDir(); err == nil {
			f, err = j.fs.Create(path)
		}
	}
	return f, err
}

// begin makes s the active segment.
func (j *Journal) begin(f file, s *segment, now telemetry.Now) {
	w := &j.w
	w.file, w.seg, w.since = f, s, now.Mono
	w.enc.reset()
	w.sinceFrames, w.sinceBytes = 0, 0
	w.index, w.tight, w.gave = nil, false, 0
	j.mu.Lock()
	defer j.mu.Unlock()
	j.segs = append(j.segs, s)
}

// abandon leaves the active segment as it is.
func (j *Journal) abandon() {
	w := &j.w
	w.file.Close() // The segment is given up already; there is nothing more to learn.
	s := w.seg
	w.file, w.seg = nil, nil
	if len(s.offs) == 0 {
		j.forgetSegment(s)
		_ = j.fs.Remove(s.path) // If that fails, create meets the file again.
		return
	}
	w.unsealed = append(w.unsealed, s)
}

// forgetSegment takes s out of the list.
func (j *Journal) forgetSegment(s *segment) {
	j.rmu.Lock()
	j.r.drop(s)
	j.rmu.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	s.gone = true
	if i := slices.Index(j.segs, s); i >= 0 {
		j.segs = slices.Delete(j.segs, i, i+1)
	}
}

// sealActive writes the footer of the active segment, gives back the space it did not need and closes it.
func (j *Journal) sealActive() error {
	w := &j.w
	if w.seg == nil {
		return nil
	}
	if len(w.seg.offs) == 0 {
		j.abandon()
		return nil
	}
	s := w.seg
	s.index = w.index
	err := j.seal(w.file, s)
	s.index, w.index = nil, nil
	if err != nil {
		j.abandon()
		return fmt.Errorf("seal %s: %w", s.path, err)
	}
	w.file, w.seg = nil, nil
	return nil
}

// seal writes the footer of s through f, and closes f when that has worked.
func (j *Journal) seal(f file, s *segment) error {
	footer := s.putFooter(j.w.zstd, s.dict)
	err := f.Truncate(s.end)
	if err == nil {
		_, err = f.WriteAt(footer, s.end)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return err
	}
	err = f.Close()
	j.rmu.Lock()
	j.r.drop(s) // Its dictionary comes from the footer from now on.
	j.rmu.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	s.sealed, s.dict = true, nil
	s.size = s.end + int64(len(footer))
	return err
}
