package journal

import (
	"slices"
	"unicode/utf8"

	"linli/internal/telemetry"
)

const (
	chunkSamples = 1024
	sparesMost   = 16
	maxText      = 1024 // bytes of a text value
)

// pending holds what waits for a commit, oldest first, and what had to be dropped of it. It is bounded: beyond max the
// oldest samples that are not being written right now are dropped and counted. Steps and marks stand between the samples
// as samples of points that no inventory has (see stepItem and markItem), so that what holds for samples holds for them:
// order, bound, being written again after a failure. Journal.amu guards it.
type pending struct {
	max int
	inv *telemetry.Inventory // of the samples to come

	chunks []chunk
	n      int                  // items in chunks
	spare  [][]telemetry.Sample // memory for chunks, as many as were taken at once last, and sparesMost

	step   telemetry.Sample  // the last step queued; of point 0 before the first
	free   bool              // that step has no samples, and may give way to one that follows it; see addStep
	marked bool              // the last item queued is a mark
	start  *telemetry.Sample // a MarkStart that had to be dropped: it is written before everything else

	// batch is what the committer has taken. While writing is true it may only be read; otherwise it is what a
	// failed commit left, and the first to be dropped.
	batch   chunk
	writing bool
	failing bool // the last commit failed: drops are the disk's fault

	dropped   []loss // not told yet, one per reason
	lostTotal uint64
}

// chunk is a piece of the queue whose samples refer to one inventory.
type chunk struct {
	inv     *telemetry.Inventory
	samples []telemetry.Sample
}

// loss is a tombstone to be written. t0 and t1 are on the time line of boot.
type loss struct {
	Loss
	t0, t1 telemetry.Mono
	boot   string
	timed  bool // t0 and t1 are known

	// Of frames that are not there: the end of the one before them, and the beginning of the one after. See Journal.between.
	after, before moment
}

// moment is a time on the time line of boot; the zero one is unknown.
type moment struct {
	at     telemetry.Mono
	boot   string
	known  bool
	offset int64 // of the wall clock when it was written
	set    bool  // offset is known
}

func (p *pending) len() int { return p.n + len(p.batch.samples) }

func (p *pending) add(now telemetry.Now, samples []telemetry.Sample) {
	p.addStep(stepItem(now), samples)
	for i := range samples {
		s := &samples[i]
		if int64(s.Point) >= int64(len(p.inv.Points)) {
			p.lostTotal++
			continue
		}
		t := p.place()
		*t = *s
		if s.Value.Kind() == telemetry.KindText && len(s.Value.Text()) > maxText {
			t.Value = telemetry.TextValue(cutText(s.Value.Text()))
		}
		p.free = false
	}
}

// addStep queues a step whose samples are to follow.
//
// A step without samples says only until when timers have run. It is not kept where nothing depends on it, because a
// gateway makes hundreds a second: the next step takes its place where that has no samples either, or only samples
// taken after it. One that follows a mark, or a change of the clock, stays: what those changed was decided at its moment.
func (p *pending) addStep(s telemetry.Sample, samples []telemetry.Sample) {
	if s == p.step && !p.marked {
		return // more samples of the same step
	}
	same := s.Value == p.step.Value && s.Quality == p.step.Quality && p.step.Point == pointStep
	if tail := p.tail(); p.free && same && tail != nil && *tail == p.step && !slices.ContainsFunc(samples, func(o telemetry.Sample) bool { return o.Time <= p.step.Time }) {
		*tail = s
	} else {
		p.free = same && !p.marked
		p.push(s)
	}
	p.step, p.marked = s, false
}

// addMark queues a mark.
func (p *pending) addMark(s telemetry.Sample) {
	p.push(s)
	p.marked, p.free = true, false
}

// tail returns the last item queued, nil where that is being written, or has been.
func (p *pending) tail() *telemetry.Sample {
	if len(p.chunks) == 0 {
		return nil
	}
	c := p.chunks[len(p.chunks)-1].samples
	return &c[len(c)-1]
}

func (p *pending) push(s telemetry.Sample) { *p.place() = s }

// place returns where the next item of the queue goes.
func (p *pending) place() *telemetry.Sample {
	if p.len() >= p.max {
		p.dropOldest()
	}
	k := len(p.chunks) - 1
	if k < 0 || p.chunks[k].inv != p.inv || len(p.chunks[k].samples) == cap(p.chunks[k].samples) {
		var memory []telemetry.Sample
		if n := len(p.spare) - 1; n >= 0 {
			memory, p.spare[n] = p.spare[n], nil
			p.spare = p.spare[:n]
		} else {
			memory = make([]telemetry.Sample, 0, chunkSamples)
		}
		p.chunks = append(p.chunks, chunk{p.inv, memory})
		k++
	}
	c := &p.chunks[k]
	c.samples = c.samples[:len(c.samples)+1]
	p.n++
	return &c.samples[len(c.samples)-1]
}

// idle reports whether nothing is queued but steps without samples.
func (p *pending) idle() bool {
	for i := range p.chunks {
		for k := range p.chunks[i].samples {
			if p.chunks[i].samples[k].Point != pointStep {
				return false
			}
		}
	}
	return len(p.batch.samples) == 0
}

// dropOldest drops one sample, with the steps and marks before it: of the batch unless that is being written, otherwise
// of the queue.
func (p *pending) dropOldest() {
	var t telemetry.Mono
	for {
		c := &p.batch
		if p.writing || len(c.samples) == 0 {
			if p.n == 0 {
				return
			}
			c = &p.chunks[0]
			p.n--
		}
		s := c.samples[0]
		c.samples = c.samples[1:]
		if c != &p.batch && len(c.samples) == 0 {
			p.shift()
		}
		if t = s.Time; s.Point < pointMark {
			break
		}
		if isStart(&s) {
			p.start = &s
		}
	}
	reason := LossPendingFull
	if p.failing {
		reason = LossDiskError
	}
	p.lostTotal++
	for i := range p.dropped {
		if d := &p.dropped[i]; d.Reason == reason {
			d.Count++
			d.t0, d.t1 = min(d.t0, t), max(d.t1, t)
			return
		}
	}
	p.dropped = append(p.dropped, loss{Loss: Loss{Count: 1, Reason: reason}, t0: t, t1: t, timed: true})
}

func (p *pending) shift() {
	copy(p.chunks, p.chunks[1:])
	p.chunks[len(p.chunks)-1] = chunk{}
	p.chunks = p.chunks[:len(p.chunks)-1]
}

// take moves up to most items of one inventory into an empty batch, using buf's memory.
func (p *pending) take(buf []telemetry.Sample, most int) {
	buf = buf[:0]
	if len(p.chunks) > 0 {
		clear(p.spare)
		p.spare = p.spare[:0]
	}
	if p.start != nil && len(p.chunks) > 0 {
		buf, p.batch.inv = append(buf, *p.start), p.chunks[0].inv
		p.start = nil
	}
	for len(p.chunks) > 0 {
		c := &p.chunks[0]
		if len(buf) > 0 && (c.inv != p.batch.inv || len(buf)+len(c.samples) > most) {
			break
		}
		p.batch.inv = c.inv
		buf = append(buf, c.samples...)
		p.n -= len(c.samples)
		if cap(c.samples) == chunkSamples && len(p.spare) < sparesMost {
			p.spare = append(p.spare, c.samples[:0])
		}
		p.shift()
	}
	p.batch.samples = buf
}

// cutText shortens s to maxText bytes without cutting a character in two.
func cutText(s string) string {
	n := maxText
	for n > maxText-utf8.UTFMax && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
