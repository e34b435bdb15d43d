package gpio

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"
	periph "periph.io/x/conn/v3/gpio"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// Step implements drivers.Bus: it takes what the lines have told, looks at those that are due, tries to take those that
// are not ours, and says when it wants to be called again unless Wake is signalled. It waits for nothing but the kernel:
// microseconds on a processor's own chip, milliseconds for each line of an expander on I2C or USB.
func (b *Bus) Step(ctx context.Context, now telemetry.Mono, dst []telemetry.Sample) ([]telemetry.Sample, telemetry.Mono) {
	if b.closed || ctx.Err() != nil {
		return dst, telemetry.Never
	}
	var due []*line
	for _, l := range b.lines {
		if l.lines == nil && now >= l.retryAt {
			due = append(due, l)
		}
	}
	b.acquire(now, due...)
	w := work{b: b, now: now, dst: dst}
	for _, l := range b.lines {
		w.line(l)
	}
	next := telemetry.Never
	for _, l := range b.lines {
		w.feedback(l)
		next = min(next, l.due())
	}
	b.publish(w.stats)
	return w.dst, next
}

// acquire tries to take lines.
func (b *Bus) acquire(now telemetry.Mono, lines ...*line) {
	if len(lines) == 0 {
		return
	}
	chip, err := b.host.Open(b.chip)
	b.chipErr = err
	for _, l := range lines {
		if chip != nil {
			err = l.take(chip, b.signal)
		}
		if err == nil {
			if l.logged {
				b.log.Info("line back", zap.String("bus", b.name), zap.String("line", l.spec.ID))
			}
			l.err, l.logged, l.readAt = nil, false, now
			continue
		}
		b.failed(l, now, err)
	}
	if chip != nil {
		chip.Close()
	}
}

// failed notes that a line cannot be had, and when to try again.
func (b *Bus) failed(l *line, now telemetry.Mono, err error) {
	// That the chip is missing is the bus's news, told once by its supervisor.
	if b.chipErr == nil && !l.logged {
		b.log.Warn("line not available", zap.String("bus", b.name), zap.String("line", l.spec.ID), zap.Error(err))
		l.logged = true
	}
	l.err = err
	l.retryAt = now.Add(l.backoff)
	l.backoff = min(2*l.backoff, retryMax)
	b.mu.Lock()
	b.stats.Failures++
	b.mu.Unlock()
}

// publish makes Health and Stats show what a Step found.
func (b *Bus) publish(s Stats) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stats.add(s)
	t := &b.stats
	u := drivers.UnitHealth{
		Unit: b.unit, Online: true, Answers: t.Reads + t.Edges, Errors: t.BadFrames + t.Failures, Late: t.Lost + t.Untold,
		Retries: t.Repaired,
	}
	ours := false
	for _, l := range b.lines {
		ours = ours || l.lines != nil
		if l.lines == nil && u.Online {
			u.Online = false
			if l.err != nil {
				u.LastError = l.spec.ID + ": " + l.err.Error()
			}
		}
	}
	b.health.Up, b.health.LastError = ours || b.chipErr == nil, ""
	if !b.health.Up {
		b.health.LastError = b.chipErr.Error()
	}
	b.health.Units[0] = u
}

func (s *Stats) add(o Stats) {
	s.Edges += o.Edges
	s.Lost += o.Lost
	s.Repaired += o.Repaired
	s.Untold += o.Untold
	s.Cards += o.Cards
	s.BadFrames += o.BadFrames
	s.Keys += o.Keys
	s.Reads += o.Reads
	s.Failures += o.Failures
}

// work is one Step under way.
type work struct {
	b     *Bus
	now   telemetry.Mono
	dst   []telemetry.Sample
	stats Stats
}

// line does what one line needs.
func (w *work) line(l *line) {
	if l.lines == nil {
		w.bad(l)
		return
	}
	fresh := l.held.out == unknown // just taken: its levels are not known yet
	if fresh && !w.read(l) {
		return
	}
	t := l.queue.take(l.spare)
	w.stats.Edges += t.told
	w.stats.Lost += t.lost
	if t.lost > 0 {
		l.readAt = w.now // The last level may be among what was lost.
	}
	if t.told > 0 {
		l.suspect = false
	}
	for i := range t.edges {
		w.edge(l, &t.edges[i])
	}
	l.spare = t.edges[:0]
	if t.count > 0 {
		l.count, l.edgeAt = l.count+t.count, min(t.last.Add(-l.shift), w.now)
	}
	if t.err != nil {
		w.lose(l, t.err)
		return
	}
	if w.now >= l.readAt && !fresh && !w.read(l) {
		return
	}
	w.settle(l, w.now)
	switch l.spec.Kind {
	case firmwareconfig.GPIOCounter:
		w.tellCount(l, fresh)
	case firmwareconfig.GPIOWiegand:
		w.endFrame(l)
		w.tellReader(l, false)
	case firmwareconfig.GPIOOutput:
	default:
		if l.untold && l.bucket.take(w.now) {
			w.tellState(l, w.now)
		}
	}
}

// edge takes one edge into account.
func (w *work) edge(l *line, e *Edge) {
	t := e.Time.Add(-l.shift)
	if t.Sub(w.now) > time.Second {
		t = w.now // The kernel's clock is not ours: a container with a time namespace.
	}
	if l.spec.Kind == firmwareconfig.GPIOWiegand {
		if !l.frame.empty() && t.Sub(l.frame.last) > frameSilence {
			w.judge(l)
		}
		l.quiet = 0
		l.frame.add(bit{at: t, one: e.Line == 1})
		return
	}
	w.settle(l, t)
	if e.Line < len(l.levels) {
		l.levels[e.Line] = e.Level
	}
	l.held.put(l.state(), t)
}

// settle tells a state that has held long enough at t.
func (w *work) settle(l *line, t telemetry.Mono) {
	before := l.held.out
	s, since, changed := l.held.settle(t)
	if !changed {
		return
	}
	switch l.spec.Kind {
	case firmwareconfig.GPIOCounter:
		if !l.counts && before != unknown && l.counted(s == on) {
			l.count++
			l.edgeAt = since
		}
	case firmwareconfig.GPIOInput, firmwareconfig.GPIOPair:
		if len(l.points) == 0 {
			return
		}
		if l.untold = !l.bucket.take(since); l.untold {
			w.stats.Untold++
			return
		}
		w.tellState(l, since)
	}
}

// tellState tells the state that counts, where that is news.
func (w *work) tellState(l *line, t telemetry.Mono) {
	l.untold = false
	for _, p := range l.points {
		q, v := l.reading(p)
		if !p.same(q, v) {
			w.dst = p.tell(w.dst, t, q, v)
		}
	}
}

// reading is what a point of the line reads now.
func (l *line) reading(p *point) (telemetry.Quality, telemetry.Value) {
	switch l.spec.Kind {
	case firmwareconfig.GPIOCounter:
		return telemetry.Good, p.count(l.count)
	case firmwareconfig.GPIOOutput:
		level, _ := l.out.get()
		switch {
		case l.wrong, l.disagrees != 0 && l.overdue:
			return telemetry.BadSensor, telemetry.Value{}
		case l.feedback != nil && l.feedback.lines == nil:
			return telemetry.Uncertain, p.bool(bool(level))
		}
		return telemetry.Good, p.bool(bool(level))
	}
	if l.held.out == fault {
		return telemetry.BadSensor, telemetry.Value{}
	}
	return telemetry.Good, p.bool(l.held.out == on)
}

// confirm tells again what was told, after a look has shown that the line is alive.
func (w *work) confirm(l *line) {
	switch {
	case l.held.out == unknown, l.untold, l.spec.Kind == firmwareconfig.GPIOWiegand:
		return
	case l.spec.Kind == firmwareconfig.GPIOCounter && l.count != l.told:
		return // It is about to be told.
	}
	t := w.now
	if l.held.pending() && l.out == nil && l.spec.Kind != firmwareconfig.GPIOCounter {
		t = l.held.since - 1 // From then on it may turn out to have been another.
	}
	for _, p := range l.points {
		if q, v := l.reading(p); p.told && p.stale(w.now) {
			w.dst = p.tell(w.dst, t, q, v)
		}
	}
}

// read looks at the levels, and reports whether the line is still ours.
func (w *work) read(l *line) bool {
	l.readAt = w.now.Add(readEvery)
	if l.polled {
		l.readAt = w.now.Add(pollEvery)
	}
	var now [2]periph.Level
	if l.out == nil || !l.out.blind {
		if err := l.lines.Read(now[:l.width()]); err != nil {
			w.lose(l, err)
			return false
		}
	}
	w.stats.Reads++
	first := l.held.raw == unknown
	if !first {
		l.backoff = retryFirst // Not before: one that is lost at once again is not to be tried without end.
	}
	if l.out != nil {
		w.readBack(l, now[0])
		return true
	}
	switch {
	case first, l.polled:
		w.settle(l, w.now)
		l.levels = now
		l.held.put(l.state(), w.now)
	case now == l.levels, l.spec.Kind == firmwareconfig.GPIOWiegand, l.counts:
		l.suspect = false
	case !l.suspect:
		l.suspect, l.readAt = true, w.now.Add(suspectFor)
		return true
	default:
		w.stats.Repaired++
		l.suspect = false
		w.settle(l, w.now)
		l.levels = now
		l.held.put(l.state(), w.now)
	}
	w.settle(l, w.now)
	if !first {
		w.confirm(l)
	}
	return true
}

// readBack holds the level of an output against what it was set to. Twice wrong is a fault: a short circuit, or a chip
// that was without power and has forgotten. Setting it again may repair the latter.
func (w *work) readBack(l *line, now periph.Level) {
	level, _ := l.out.get()
	switch {
	case l.out.blind || now == level:
		l.suspect, l.wrong = false, false
	case !l.suspect:
		l.suspect, l.readAt = true, w.now.Add(suspectFor)
		return
	default:
		l.wrong = true
		if l.out.again() == nil {
			w.stats.Repaired++
		}
	}
	l.held.raw, l.held.out = stateOf(bool(level)), stateOf(bool(level))
	w.confirm(l)
}

// lose lets a line go that has failed. It is tried again soon.
func (w *work) lose(l *line, err error) {
	if e := l.release(); e != nil {
		err = errors.Join(err, e)
	}
	if errors.Is(err, ErrGone) {
		w.b.chipErr = err
	}
	w.b.failed(l, w.now, err)
	w.bad(l)
}

// bad tells that the line's points cannot be had.
func (w *work) bad(l *line) {
	if l.spec.Kind == firmwareconfig.GPIOWiegand {
		w.tellReader(l, true)
		return
	}
	for _, p := range l.points {
		w.dst = p.bad(w.dst, w.now, telemetry.BadComm)
	}
}

// tellReader tells whether a reader cannot be read: its card point is an event, which has no bad quality to tell it by.
func (w *work) tellReader(l *line, fault bool) {
	for _, p := range l.points {
		if v := p.bool(fault); !p.event() && (!p.same(telemetry.Good, v) || p.stale(w.now)) {
			w.dst = p.tell(w.dst, w.now, telemetry.Good, v)
		}
	}
}

// tellCount tells a counter's value, not too often.
func (w *work) tellCount(l *line, fresh bool) {
	if fresh {
		l.edgeAt = w.now
	} else if l.count == l.told || w.now.Sub(l.toldAt) < countEvery {
		return
	}
	l.told, l.toldAt = l.count, w.now
	for _, p := range l.points {
		w.dst = p.tell(w.dst, l.edgeAt, telemetry.Good, p.count(l.count))
	}
}

// endFrame judges a reader's bits once none has come for long enough.
func (w *work) endFrame(l *line) {
	switch {
	case l.frame.empty() || w.now.Sub(l.frame.last) <= frameSilence:
		l.quiet = 0
	case l.quiet == 0:
		l.quiet = w.now // Bits that were sent meanwhile may be on their way: look once more.
	case w.now.Sub(l.quiet) >= frameGrace:
		w.judge(l)
	}
}

func (w *work) judge(l *line) {
	code, n, v := l.frame.decode(l.spec.Bits)
	at := l.frame.last
	l.frame.reset()
	l.quiet = 0
	switch v {
	case frameGood:
		w.stats.Cards++
		hash := telemetry.TextValue(cardHash(l.spec.Key, code, n))
		for _, p := range l.points {
			if p.event() {
				w.dst = p.tell(w.dst, at, telemetry.Good, hash)
			}
		}
	case frameKey:
		w.stats.Keys++
	case frameBadLength, frameBadParity:
		w.stats.BadFrames++
	}
}

// feedback holds an output's contact against its level, after all lines have been seen to, and tells the output's state.
func (w *work) feedback(l *line) {
	if l.out == nil || l.lines == nil {
		return
	}
	level, _ := l.out.get()
	l.held.raw, l.held.out = stateOf(bool(level)), stateOf(bool(level))
	f := l.feedback
	switch {
	case f == nil || f.lines == nil || f.held.out == stateOf(bool(level)):
		l.disagrees, l.overdue = 0, false
	case l.disagrees == 0:
		l.disagrees = w.now
	}
	l.overdue = l.disagrees != 0 && w.now.Sub(l.disagrees) >= follow
	w.tellState(l, w.now)
}

// due is when Step has something to do for the line.
func (l *line) due() telemetry.Mono {
	if l.lines == nil {
		return l.retryAt
	}
	next := min(l.readAt, l.held.due())
	if l.untold {
		next = min(next, l.bucket.due())
	}
	if l.spec.Kind == firmwareconfig.GPIOCounter && l.count != l.told {
		next = min(next, l.toldAt.Add(countEvery))
	}
	switch {
	case l.quiet != 0:
		next = min(next, l.quiet.Add(frameGrace))
	case !l.frame.empty():
		next = min(next, l.frame.last.Add(frameSilence+1))
	}
	if l.disagrees != 0 && !l.overdue {
		next = min(next, l.disagrees.Add(follow))
	}
	return next
}
