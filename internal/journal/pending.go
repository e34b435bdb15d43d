package journal

import (
	"unicode/utf8"

	"linli/internal/telemetry"
)

const (
	chunkSamples = 1024
	maxText      = 1024 // bytes of a text value
)

// pending holds the samples that wait for a commit, oldest first, and what had to be dropped of them. It is bounded:
// beyond max the oldest samples that are not being written right now are dropped and counted. Journal.amu guards it.
type pending struct {
	max int
	inv *telemetry.Inventory // of the samples to come

	chunks []chunk
	n      int // samples in chunks
	spare  []telemetry.Sample

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
}

func (p *pending) len() int { return p.n + len(p.batch.samples) }

func (p *pending) add(samples []telemetry.Sample) {
	for i := range samples {
		s := samples[i]
		if int64(s.Point) >= int64(len(p.inv.Points)) {
			p.lostTotal++
			continue
		}
		if s.Value.Kind() == telemetry.KindText && len(s.Value.Text()) > maxText {
			s.Value = telemetry.TextValue(cutText(s.Value.Text()))
		}
		if p.len() >= p.max {
			p.dropOldest()
		}
		k := len(p.chunks) - 1
		if k < 0 || p.chunks[k].inv != p.inv || len(p.chunks[k].samples) == cap(p.chunks[k].samples) {
			if p.spare == nil {
				p.spare = make([]telemetry.Sample, 0, chunkSamples)
			}
			p.chunks = append(p.chunks, chunk{p.inv, p.spare})
			p.spare = nil
			k++
		}
		p.chunks[k].samples = append(p.chunks[k].samples, s)
		p.n++
	}
}

// dropOldest drops one sample: of the batch unless that is being written, otherwise of the queue.
func (p *pending) dropOldest() {
	c := &p.batch
	if p.writing || len(c.samples) == 0 {
		if p.n == 0 {
			return
		}
		c = &p.chunks[0]
		p.n--
	}
	t := c.samples[0].Time
	c.samples = c.samples[1:]
	if c != &p.batch && len(c.samples) == 0 {
		p.shift()
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

// take moves up to most samples of one inventory into an empty batch, using buf's memory.
func (p *pending) take(buf []telemetry.Sample, most int) {
	buf = buf[:0]
	for len(p.chunks) > 0 {
		c := &p.chunks[0]
		if len(buf) > 0 && (c.inv != p.batch.inv || len(buf)+len(c.samples) > most) {
			break
		}
		p.batch.inv = c.inv
		buf = append(buf, c.samples...)
		p.n -= len(c.samples)
		if cap(c.samples) == chunkSamples {
			p.spare = c.samples[:0]
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
