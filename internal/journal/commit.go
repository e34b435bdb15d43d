package journal

import (
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"
	"go.uber.org/zap"

	"linli/internal/telemetry"
)

// batchSamples is how many samples one write takes at most.
const batchSamples = 1 << 16

// idleCommit is how often what tells only that time has passed is committed: a site where nothing happens need not
// write each second.
const idleCommit = telemetry.Mono(10 * time.Second)

// repeatFrames is how many frames lie at least between two that hold the whole dictionary of their segment.
const repeatFrames = 64

// writer is the committer's own state. Journal.cmu guards it.
type writer struct {
	enc  encoder
	zstd *zstd.Encoder

	file  file // the active segment, nil when there is none
	seg   *segment
	since telemetry.Mono // when it was begun

	wrote telemetry.Mono // when frames were written last

	losses  []loss             // taken from the queue, not yet written
	samples []telemetry.Sample // memory of pending.batch
	buf     []byte             // frames to be written
	frames  []frameHeader
	told    []seqRange // by the tombstones in buf
	packed  []byte
	// since the dictionary was written as a whole: frames, and bytes of them
	sinceFrames, sinceBytes int

	unsealed   []*segment     // to be sealed once a commit has succeeded
	failed     bool           // the last commit
	tight      bool           // there was no space for another segment: the active one takes tombstones
	gave       int            // unacknowledged segments that have made way since the active one was begun
	toldAt     telemetry.Mono // when a tombstone was written last
	hasReserve bool           // for assemble
	tried      telemetry.Mono // when the reserve was to be made last
	noReserve  error          // why it could not
	warned     bool           // that there is none
	began      bool           // this process has written a frame
	index      frameIndex     // of the active segment
}

func (w *writer) init() (err error) {
	w.enc.reset()
	// The fastest level: on columns of a kilobyte the slower ones save no byte and cost up to 5 MB of tables.
	w.zstd, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(64<<10), zstd.WithEncoderLevel(zstd.SpeedFastest))
	return err
}

// Commit writes what is pending, syncs it and makes it visible. Run calls it; others may, to have something visible
// at once. After an error everything not written is still pending.
func (j *Journal) Commit() error { return j.commitPending(true) }

// commitPending is Commit; where all is false, steps without samples may wait for others.
func (j *Journal) commitPending(all bool) error {
	if j.cfg.ReadOnly {
		return nil
	}
	j.cmu.Lock()
	defer j.cmu.Unlock()
	begin := j.clock.Mono()
	err := j.commit(all, begin-j.w.wrote >= idleCommit)
	j.amu.Lock()
	j.pend.writing, j.pend.failing = false, err != nil
	j.amu.Unlock()
	failed := err != nil
	if !failed {
		// What is left to do concerns old segments: it does not make the commit a failure.
		err = j.tidy()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if failed {
		j.stats.CommitFailures++
	} else {
		j.settled = begin
	}
	if failed != j.w.failed {
		j.w.failed = failed
		if failed {
			j.cfg.Log.Error("journal not written, samples wait in memory", zap.String("dir", j.cfg.Dir), zap.Error(err))
		} else {
			j.cfg.Log.Info("journal written again", zap.String("dir", j.cfg.Dir), zap.Uint64("failures", j.stats.CommitFailures))
		}
	}
	j.stats.LastError = ""
	if err != nil {
		j.stats.LastError = err.Error()
	}
	if !failed {
		return nil
	}
	return fmt.Errorf("commit journal %s: %w", j.cfg.Dir, err)
}

// commit writes what is pending. Steps without samples alone are written where all is true, or due is.
func (j *Journal) commit(all, due bool) error {
	if err := j.checkThere(); err != nil {
		return err
	}
	for ; ; due = false {
		if err := j.retain(); err != nil {
			return err
		}
		if !j.takeWork(all || due) {
			return nil
		}
		if err := j.write(); err != nil {
			return err
		}
	}
}

// checkThere notices that the active segment's file has been deleted: writes to it would go on to work, and be lost.
// The commit that notices fails; the next one begins a new segment, in a new directory where it has to.
func (j *Journal) checkThere() error {
	w := &j.w
	if w.seg == nil {
		return nil
	}
	if !j.fs.Gone(w.seg.path) {
		return nil
	}
	path := w.seg.path
	j.abandon()
	return fmt.Errorf("somebody has deleted %s", path)
}

// makeDir makes the directory again, with its lock, after somebody has removed it.
func (j *Journal) makeDir() error {
	if err := j.fs.MkdirAll(j.cfg.Dir); err != nil {
		return err
	}
	lock, err := j.fs.Lock(filepath.Join(j.cfg.Dir, "lock"))
	if err != nil {
		return err
	}
	if j.lock != nil {
		_ = j.lock.Close() // of a file that is gone
	}
	j.lock = lock
	return nil
}

// takeWork takes losses and samples to be written, and reports whether there is anything.
func (j *Journal) takeWork(all bool) bool {
	w := &j.w
	// While there is room for tombstones alone they must do for long.
	hold := w.tight && w.toldAt != 0 && j.clock.Mono()-w.toldAt < j.tellEvery()
	var losses []loss
	j.mu.Lock()
	if !hold {
		losses = j.losses
		j.losses = nil
	}
	j.mu.Unlock()
	j.amu.Lock()
	defer j.amu.Unlock()
	p := &j.pend
	if !hold {
		losses = append(losses, p.dropped...)
		p.dropped = nil
	}
	for _, l := range losses {
		w.addLoss(l, j.clock.Boot)
	}
	if len(p.batch.samples) == 0 && (all || !p.idle()) {
		p.take(w.samples, batchSamples)
		w.samples = p.batch.samples
	}
	p.writing = true
	return len(w.losses) > 0 || len(p.batch.samples) > 0
}

// addLoss queues a tombstone, joined to one that it continues, so that a long failure does not fill the memory.
func (w *writer) addLoss(l loss, boot string) {
	if l.boot == "" {
		l.boot = boot
	}
	for i := range w.losses {
		o := &w.losses[i]
		if o.Reason != l.Reason || o.boot != l.boot || o.timed != l.timed || o.after != l.after || o.before != l.before || (o.FirstSeq == 0) != (l.FirstSeq == 0) {
			continue
		}
		if l.FirstSeq != 0 && o.LastSeq+1 != l.FirstSeq {
			continue
		}
		if (o.Count == 0) != (l.Count == 0) {
			continue // 0 means unknown: a sum would hide that.
		}
		o.Count += l.Count
		o.LastSeq = l.LastSeq
		o.t0, o.t1 = min(o.t0, l.t0), max(o.t1, l.t1)
		return
	}
	w.losses = append(w.losses, l)
}

// write writes the taken losses and the batch, over as many segments as it takes. What has been written and synced
// is gone from them, also when it returns an error.
func (j *Journal) write() error {
	w, p := &j.w, &j.pend
	for {
		// Only this goroutine changes the batch while pending.writing is set.
		batch := p.batch.samples
		if len(w.losses) == 0 && len(batch) == 0 {
			return nil
		}
		now := j.clock.Now()
		if w.seg != nil && now.Mono.Sub(w.since) > j.cfg.MaxAge/8 && len(w.seg.offs) > 0 {
			if err := j.rotate(now); err != nil {
				return j.noSpace(err)
			}
		}
		if w.seg == nil {
			if err := j.create(now); err != nil {
				return j.noSpace(err)
			}
		}
		losses, samples, full := j.assemble(now, batch)
		if len(w.frames) > 0 {
			if err := j.flush(); err != nil {
				return err
			}
			w.wrote = now.Mono
			if losses > 0 {
				w.toldAt = now.Mono
			}
			w.losses = w.losses[losses:]
			j.amu.Lock()
			p.batch.samples = batch[samples:]
			j.amu.Unlock()
		}
		if full {
			if err := j.rotate(now); err != nil {
				return j.noSpace(err)
			}
		}
	}
}

// noSpace makes space where that is what err is about.
func (j *Journal) noSpace(err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		err = errors.Join(err, j.giveWay(false))
	}
	return err
}

// assemble fills w.buf with the frames that the active segment has room for. It returns how many losses and items of the
// batch they hold, and whether the segment is full.
func (j *Journal) assemble(now telemetry.Now, batch []telemetry.Sample) (losses, items int, full bool) {
	w := &j.w
	w.buf, w.frames, w.told = w.buf[:0], w.frames[:0], w.told[:0]
	j.mu.Lock()
	w.hasReserve = j.reserved
	j.mu.Unlock()
	h := frameHeader{}
	if !now.Wall.IsZero() {
		h.flags, h.offset = flagClockSet, now.Wall.UnixNano()-int64(now.Mono)
		if now.Uncertain {
			h.flags |= flagUncertain
		}
	}
	for losses < len(w.losses) || items < len(batch) {
		size := len(w.buf)
		n := 0
		tombstone := losses < len(w.losses)
		if tombstone {
			l := &w.losses[losses]
			f := h
			f.flags |= flagTombstone
			t0, t1 := j.lossTime(l, now, h)
			f.t0, f.t1 = int64(t0), int64(t1)
			j.appendFrame(f, appendLoss(nil, &l.Loss))
		} else {
			w.enc.repeat = w.repeatDue()
			f := h
			f.t0, f.t1 = int64(now.Mono), int64(now.Mono)
			var raw []byte
			raw, n = w.enc.frame(j.pend.batch.inv, batch[items:], int(j.cfg.SegmentBytes/4), &f)
			if len(w.enc.entries) > w.enc.from() {
				f.flags |= flagDictionary
			}
			j.appendFrame(f, raw)
			w.sinceFrames++
			w.sinceBytes += int(w.frames[len(w.frames)-1].payload)
			if w.enc.repeat {
				w.sinceFrames, w.sinceBytes = 0, 0
			}
		}
		room := j.cfg.SegmentBytes
		if !tombstone && !w.hasReserve {
			room -= min(tombstoneRoom, room/8)
		}
		if w.seg.end+int64(len(w.buf)) > room && (len(w.seg.offs) > 0 || len(w.frames) > 1) {
			w.buf, w.frames = w.buf[:size], w.frames[:len(w.frames)-1]
			w.enc.forget()
			return losses, items, true
		}
		w.enc.told = len(w.enc.entries)
		if !tombstone {
			w.index.add(len(w.seg.offs)+len(w.frames)-1, w.enc.seen)
		}
		if tombstone {
			if l := &w.losses[losses]; l.FirstSeq != 0 {
				w.told = append(w.told, seqRange{l.FirstSeq, l.LastSeq})
			}
			losses++
		}
		items += n
	}
	return losses, items, false
}

// repeatDue says whether the next frame writes the whole dictionary again, so that one damaged frame does not take with
// it what the rest of the segment says. It costs a few hundredths of the file at most.
func (w *writer) repeatDue() bool {
	return w.sinceFrames >= repeatFrames && w.sinceBytes >= 4*24*len(w.enc.entries)
}

// lossTime returns the time of a loss on the time line of this boot.
func (j *Journal) lossTime(l *loss, now telemetry.Now, h frameHeader) (t0, t1 telemetry.Mono) {
	from, to := l.after, l.before
	if l.timed {
		from, to = moment{at: l.t0, boot: l.boot, known: true}, moment{at: l.t1, boot: l.boot, known: true}
	}
	t0, ok0 := j.here(from, h)
	t1, ok1 := j.here(to, h)
	switch {
	case !ok0 && !ok1:
		return now.Mono, now.Mono
	case !ok0:
		t0 = t1
	case !ok1:
		t1 = t0
	}
	return min(t0, t1), max(t0, t1) // A clock may have been set back.
}

// here returns m on the time line of this boot, of which h has the wall clock.
func (j *Journal) here(m moment, h frameHeader) (telemetry.Mono, bool) {
	if !m.known || m.boot == j.clock.Boot {
		return m.at, m.known
	}
	if !m.set {
		j.mu.Lock()
		o, ok := j.offsetOf(m.boot)
		j.mu.Unlock()
		m.offset, m.set = o.ns, ok
	}
	return m.at + telemetry.Mono(m.offset-h.offset), m.set && h.flags&flagClockSet != 0
}

// appendFrame appends one frame to w.buf and w.frames, packed when that is shorter.
func (j *Journal) appendFrame(h frameHeader, raw []byte) {
	w := &j.w
	payload := raw
	w.packed = w.zstd.EncodeAll(raw, w.packed[:0])
	if len(w.packed) < len(raw) {
		payload = w.packed
		h.flags |= flagZstd
	}
	h.payload, h.raw = uint32(len(payload)), uint32(len(raw))
	h.seq = j.next + uint64(len(w.frames)) // Only the committer changes next.
	at := len(w.buf)
	w.buf = append(w.buf, make([]byte, frameHeaderBytes)...)
	w.buf = append(w.buf, payload...)
	h.put(w.buf[at:], w.seg.seed)
	w.frames = append(w.frames, h)
}

// flush writes and syncs w.buf and makes its frames visible. When that fails the segment is left for good: the
// kernel may have dropped what it could not write, and a second sync would say yes.
func (j *Journal) flush() error {
	w := &j.w
	_, err := w.file.WriteAt(w.buf, w.seg.end)
	if err == nil {
		err = w.file.Sync()
	}
	if err != nil {
		j.abandon()
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	s := w.seg
	pos := s.end
	for i := range w.frames {
		h := &w.frames[i]
		s.add(h, uint32(pos))
		pos += int64(h.length())
		j.stats.SamplesWritten += uint64(h.count)
		if _, known := j.offsets[s.boot]; !known && h.flags&flagClockSet != 0 {
			j.offsets[s.boot] = wallOffset{h.offset, h.flags&flagUncertain != 0}
		}
	}
	w.began = true
	s.size = max(s.size, s.end)
	s.dict = w.enc.entries[:w.enc.told:w.enc.told]
	for _, l := range w.told {
		s.losses = append(s.losses, l)
		j.told.add(l.first, l.last)
	}
	j.next += uint64(len(w.frames))
	j.stats.Commits++
	close(j.changed)
	j.changed = make(chan struct{})
	return nil
}
