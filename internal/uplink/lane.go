package uplink

import (
	"errors"
	"slices"
	"time"

	"linli/internal/journal"
	"linli/internal/wire"
)

// maxSpanTime bounds how much time one message covers.
const maxSpanTime = 10 * time.Second

// payloadsKept bounds the payloads that wait to be used again.
const payloadsKept = 4

// rememberFor is how long the late lane keeps what it knows of the series of its last frame: there may be no other for
// years, and it would be as much memory as live needs.
const rememberFor = time.Minute

// skipAtOnce bounds how many frames that cannot be sent are passed over between two looks at everything else.
const skipAtOnce = 256

// lane turns frames into messages, in the order of their numbers. There are two: live, and late for what live has
// overtaken. A lane lives as long as a connection and belongs to its goroutine.
type lane struct {
	u    *Uplink
	late bool
	// queue is what is still to be sent. Live takes from its front; so does late.
	queue spans
	enc   *wire.Encoder
	after uint64    // the frame that would follow the last one encoded; anything else resets the encoder
	used  time.Time // when that was

	held     *encoded  // a frame that was encoded and did not fit into the last message
	spare    []byte    // memory for the text of the next frame
	parts    []message // built and not yet sent
	inFlight int       // bytes sent and not acknowledged
	body     []byte    // reused
	plain    []byte    // of messages that are packed; reused
	payloads [][]byte  // of messages that were acknowledged, to be used again
	pack     *wire.Compressor
	// packing is what became of a byte in the last message of some size: 1 without compression.
	packing float64
	// stalled: the journal could not be read, or a search was cut short; go on at the next tick.
	stalled bool
}

// encoded is one frame as lines.
type encoded struct {
	seq       uint64
	text      []byte
	lines     int
	t0, t1    int64
	uncertain bool
	earlier   bool  // a tombstone of earlier frames
	lost      spans // told as lost in it
}

// delivery is a range of frames on its way in one message or several.
type delivery struct {
	from, end uint64
	left      int   // messages not yet acknowledged
	lost      spans // frames told as lost
}

// message is one telemetry message.
type message struct {
	payload []byte
	of      *delivery
}

func newLane(u *Uplink, late bool) (*lane, error) {
	pack, err := wire.NewCompressor(u.compression)
	return &lane{u: u, late: late, enc: wire.NewEncoder(u.cfg.Site, u.cfg.Gateway), pack: pack, packing: 1}, err
}

// next builds the messages of the next frames: one, or the parts of a frame that is larger than limit bytes in
// plain. None: nothing can be sent now.
func (l *lane) next(limit int) []message {
	l.body = l.body[:0]
	var lost spans
	h := wire.Header{Epoch: l.u.state.epoch, Late: l.late}
	for {
		f := l.held
		l.held = nil
		if f == nil {
			if f = l.encode(h.To + 1); f == nil {
				break
			}
		}
		if !f.earlier && l.u.settling.contradicts(f.seq, f.t0) {
			f.uncertain = true
		}
		if h.From != 0 && (f.seq != h.To+1 || len(l.body)+len(f.text) > limit || f.uncertain != h.Uncertain ||
			max(h.T1, f.t1)-min(h.T0, f.t0) > int64(maxSpanTime)) {
			l.held = f
			break
		}
		if h.From == 0 {
			h.From, h.T0, h.T1, h.Uncertain = f.seq, f.t0, f.t1, f.uncertain
		}
		// Frames need not be in order of time: tombstones tell of earlier ones, and the clock may have been set back.
		h.To, h.T0, h.T1 = f.seq, min(h.T0, f.t0), max(h.T1, f.t1)
		lost = lost.union(f.lost)
		h.Count += f.lines
		l.body = append(l.body, f.text...)
		l.spare = f.text[:0]
		if len(l.body) >= limit {
			break
		}
	}
	if h.From == 0 {
		if l.late && len(l.queue) == 0 && time.Since(l.used) > rememberFor {
			l.enc.Forget()
			l.body, l.plain, l.payloads = nil, nil, nil
		}
		return nil
	}
	of := &delivery{from: h.From, end: h.To + 1, lost: lost}
	parts := split(l.body, limit)
	messages := make([]message, 0, len(parts))
	of.left = len(parts)
	for i, part := range parts {
		h.Count = part.lines
		if len(parts) > 1 {
			h.Part, h.Parts = i+1, len(parts)
		}
		if !l.late && i == len(parts)-1 {
			h.Settled = l.u.settling.say(h.To)
		}
		var payload []byte
		if l.u.compression == wire.Plain {
			payload = append(wire.AppendHeader(l.memory(len(part.text)+headerRoom), &h), part.text...)
		} else {
			l.plain = append(wire.AppendHeader(l.plain[:0], &h), part.text...)
			payload = l.pack.Pack(l.plain)
			if size := len(l.plain); size >= 1024 {
				l.packing = min(1, max(float64(len(payload))/float64(size), 1.0/16))
			}
		}
		messages = append(messages, message{payload: payload, of: of})
	}
	return messages
}

// headerRoom is what the header of a message takes at most, and a little more.
const headerRoom = 210

// memory returns empty memory for a payload of some size.
func (l *lane) memory(size int) []byte {
	for n := len(l.payloads) - 1; n >= 0; n-- {
		if b := l.payloads[n]; cap(b) >= size && cap(b) <= 2*size+4096 {
			l.payloads = slices.Delete(l.payloads, n, n+1)
			return b[:0]
		}
	}
	return make([]byte, 0, size+size/8) // The next one will be of nearly the same size.
}

// over gives back the payload of a message that was acknowledged: whoever carried it needs it no more.
func (l *lane) over(payload []byte) {
	if l.u.compression != wire.Plain {
		return
	}
	if len(l.payloads) == payloadsKept {
		l.payloads = slices.Delete(l.payloads, 0, 1)
	}
	l.payloads = append(l.payloads, payload)
}

// encode takes the next frame off the queue that can be sent. Where joins is not 1, only the frame with that number
// is of use; another stays queued.
func (l *lane) encode(joins uint64) *encoded {
	for skipped := 0; len(l.queue) > 0; skipped++ {
		if skipped == skipAtOnce {
			l.stalled = true // alerts must not wait for a long search
			return nil
		}
		seq := l.queue[0].from
		if joins > 1 && seq != joins {
			return nil
		}
		l.queue = l.queue.remove(seq, seq+1)
		f := &l.u.frame
		if err := l.u.journal.Read(seq, f); errors.Is(err, journal.ErrNotFound) {
			// Deleted for space or age, or damaged: a tombstone further on tells how much is gone.
			l.u.vanished(seq, seq+1)
			continue
		} else if err != nil {
			// The disk's trouble, which may pass.
			l.queue = l.queue.add(seq, seq+1)
			l.stalled = true
			l.u.setError(err)
			return nil
		}
		t0, ok0 := l.u.frameWall(f, f.T0)
		t1, ok1 := l.u.frameWall(f, f.T1)
		if !ok0 || !ok1 {
			l.u.setAside(f.Boot, seq)
			continue
		}
		if seq != l.after {
			l.enc.Reset()
		}
		l.after, l.used = seq+1, time.Now()
		out := &encoded{seq: seq, text: l.spare, t0: t0.UnixNano(), t1: t1.UnixNano(), uncertain: f.Uncertain}
		l.spare = nil
		out.earlier = f.Lost != nil && f.Lost.FirstSeq != 0
		if f.Lost != nil {
			l.tellLost(out, f.Lost)
		}
		offset := out.t0 - int64(f.T0) // of this frame
		for i := range f.Records {
			r := &f.Records[i]
			l.enc.Add(r.Series, int64(r.Time)+offset, r.Quality, r.Value)
		}
		out.text, out.lines = l.enc.Flush(out.text)
		return out
	}
	return nil
}

// tellLost writes down what of a tombstone the city has to know.
func (l *lane) tellLost(out *encoded, loss *journal.Loss) {
	lost := wire.Lost{Epoch: l.u.state.epoch, From: loss.FirstSeq, To: loss.LastSeq, Count: loss.Count, Reason: loss.Reason, T0: out.t0, T1: out.t1}
	if loss.FirstSeq == 0 {
		out.text = wire.AppendLost(out.text, &lost)
		return
	}
	parts, all := l.u.lostParts(loss)
	for _, r := range parts {
		if lost.From, lost.To = r.from, r.end-1; !all {
			lost.Count = 0 // how many of the samples were in these frames nobody knows any more
		}
		out.text = wire.AppendLost(out.text, &lost)
	}
	out.lost = parts
}

// idle builds the message that says what is in the frames before next, where there are no newer ones.
func (l *lane) idle(next uint64) []byte {
	h := wire.Header{Epoch: l.u.state.epoch, From: next, To: next - 1, Settled: l.u.settling.say(next - 1)}
	h.T0 = h.Settled
	if h.Settled == 0 {
		h.T0 = time.Now().Add(-settleLag).UnixNano()
		h.Uncertain = l.u.cfg.Clock != nil && l.u.cfg.Clock.Now().Uncertain
	}
	h.T1 = h.T0
	b := wire.AppendHeader(nil, &h)
	if l.u.compression != wire.Plain {
		return l.pack.Pack(b)
	}
	return b
}

type part struct {
	text  []byte
	lines int
}

// split cuts lines into parts of at most limit bytes (a longer line stays whole).
func split(b []byte, limit int) []part {
	var parts []part
	start, lines := b, 0
	size := 0
	for rest := b; len(rest) > 0; {
		line, after := wire.NextLine(rest)
		n := len(rest) - len(after)
		if size > 0 && size+n > limit {
			parts = append(parts, part{start[:size], lines})
			start, size, lines = start[size:], 0, 0
		}
		size += n
		if len(line) > 0 && line[0] != '#' {
			lines++
		}
		rest = after
	}
	return append(parts, part{start[:size], lines})
}
