package journal

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"

	"linli/internal/telemetry"
)

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
