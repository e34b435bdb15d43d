package journal

import (
	"context"
	"errors"
	"math"
	"runtime"
	"slices"
	"time"

	"linli/internal/telemetry"
)

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
