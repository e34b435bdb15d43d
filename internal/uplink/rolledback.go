package uplink

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"linli/internal/wire"
)

const (
	// clockMoved is how far a clock may have been set back between a commit and a status without anybody taking the frame
	// for one that was written later.
	clockMoved = 10 * time.Second
	// maxAhead bounds by how much a status may be ahead: more than a gateway writes in its life. Whoever may write to our
	// status topic must not use up all numbers.
	maxAhead = 1 << 32
)

// earlierLife looks whether what the broker has kept of an earlier process of this journal fits to the state that we have. A
// whole state directory that was restored from an older copy does not know that it is older. The broker does: the last word
// or the last will that it has kept is of a process that the directory has never heard of, or it knows of frames that we do
// not have, or one of its frames has a number that ours was given only later.
//
// Then the journal goes on behind every number that the earlier process may have used, and what was measured between the end
// of our journal, or that status, and our start is told as lost: nobody knows how much of it arrived.
//
// It runs in Run's goroutine.
func (u *Uplink) earlierLife(s *wire.Status) {
	st := u.state
	if s.Epoch != fmt.Sprintf("%016x", st.epoch) {
		return
	}
	stranger := len(u.knew) > 0 && !slices.Contains(u.knew, s.Instance)
	switch {
	case s.Bare(): // A will. Once our status has taken its place, one that comes is that of a twin.
		if !stranger || u.statusTold && s != u.early {
			return
		}
	case !s.ClockSet || s.Time.Unix() <= 0 || s.NextSeq == 0:
		return
	}
	if !u.clockSet() {
		u.early = s // to be looked at again
		return
	}
	u.early = nil
	started := u.startedAt()
	if !s.Bare() && !s.Time.Before(started) || s.Instance == u.believed {
		return
	}
	_, next := u.journal.Bounds()
	if !stranger && s.NextSeq <= u.begin && !u.writtenAfter(s.NextSeq-1, s.Time) {
		return
	}
	if s.NextSeq > next+maxAhead {
		u.log.Error("the broker has kept a status of this gateway that cannot be true", zap.Uint64("next_seq", s.NextSeq), zap.Uint64("journal_next", next))
		return
	}
	u.believed = s.Instance
	from := s.Time
	if end, ok := u.endBefore(u.begin); ok && (s.Bare() || stranger && end.Before(from)) {
		from = end
	} else if s.Bare() {
		from = started
	}
	// Of a process without a last word nobody knows how far it came: two frames a second are more than it writes.
	to := max(s.NextSeq, next) + skipMargin
	if s.Bare() {
		to += 2 * uint64(max(0, started.Sub(from).Seconds()))
	}
	u.log.Error("the state directory is older than what the city has of this gateway: what was measured in between may be lost, and frame numbers go on behind those used",
		zap.Uint64("journal_next", next), zap.Uint64("city_next", s.NextSeq), zap.Uint64("goes_on_at", to),
		zap.Time("lost_from", from), zap.Time("lost_to", started))
	if err := u.journal.TellLost(from, started); err != nil {
		u.log.Error("the loss is not told", zap.Error(err))
	}
	at, err := u.journal.Skip(to)
	if err != nil {
		u.stateError(err)
		u.log.Error("frame numbers are used again", zap.Error(err))
		return
	}
	st.unacked = st.unacked.add(st.next, at)
	st.gone = st.gone.add(max(st.next, at), to).bounded(maxSpans)
	st.next, u.goneUntil = max(st.next, to), max(u.goneUntil, to+tombstoneLag)
	u.dirty = true
}

// rememberLife writes down that this process runs on the state directory, before any broker hears of it.
func (u *Uplink) rememberLife(ctx context.Context) {
	u.save(true)
	timeout := time.NewTimer(saveFor)
	defer timeout.Stop()
	select {
	case <-u.saved:
	case <-timeout.C: // A hanging disk does not hold up alerts.
	case <-ctx.Done():
	}
}

// endBefore returns the moment at which the last frame before number seq ended.
func (u *Uplink) endBefore(seq uint64) (time.Time, bool) {
	f := &u.frame
	for n := 0; seq > 1 && n < skipAtOnce; n++ {
		seq--
		if u.journal.Read(seq, f) == nil && f.Lost == nil {
			return u.frameWall(f, f.T1)
		}
	}
	return time.Time{}, false
}

// writtenAfter reports whether our frame of this number began later than t.
func (u *Uplink) writtenAfter(seq uint64, t time.Time) bool {
	f := &u.frame
	if seq == 0 || u.journal.Read(seq, f) != nil || f.Lost != nil || f.Uncertain {
		return false
	}
	began, ok := u.frameWall(f, f.T0)
	return ok && began.Sub(t) > clockMoved
}
