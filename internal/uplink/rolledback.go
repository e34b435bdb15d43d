package uplink

import (
	"fmt"
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

// earlierLife looks whether a status of an earlier process of this journal fits to the journal that we have. A whole state
// directory that was restored from an older copy does not know that it is older; the status that the broker has kept does:
// either it knows of frames that we do not have, or one of its frames has a number that ours was given only later.
//
// Then the journal goes on behind every number that the earlier process may have used, and what was measured between the
// status and our start is told as lost: nobody knows how much of it arrived.
//
// It runs in Run's goroutine.
func (u *Uplink) earlierLife(s *wire.Status) {
	st := u.state
	if s.Epoch != fmt.Sprintf("%016x", st.epoch) || !s.ClockSet || s.Time.Unix() <= 0 || s.NextSeq == 0 {
		return
	}
	if !u.clockSet() {
		u.early = s // to be looked at again
		return
	}
	u.early = nil
	if started := u.startedAt(); !s.Time.Before(started) || s.Instance == u.believed {
		return
	}
	_, next := u.journal.Bounds()
	if s.NextSeq <= u.begin && !u.writtenAfter(s.NextSeq-1, s.Time) {
		return
	}
	if s.NextSeq > next+maxAhead {
		u.log.Error("the broker has kept a status of this gateway that cannot be true", zap.Uint64("next_seq", s.NextSeq), zap.Uint64("journal_next", next))
		return
	}
	u.believed = s.Instance
	to := max(s.NextSeq, next) + skipMargin
	u.log.Error("the state directory is older than what the city has of this gateway: what was measured in between may be lost, and frame numbers go on behind those used",
		zap.Uint64("journal_next", next), zap.Uint64("city_next", s.NextSeq), zap.Uint64("goes_on_at", to),
		zap.Time("lost_from", s.Time), zap.Time("lost_to", u.startedAt()))
	if err := u.journal.TellLost(s.Time, u.startedAt()); err != nil {
		u.log.Error("the loss is not told", zap.Error(err))
	}
	from, err := u.journal.Skip(to)
	if err != nil {
		u.stateError(err)
		u.log.Error("frame numbers are used again", zap.Error(err))
		return
	}
	st.unacked = st.unacked.add(st.next, from)
	st.gone = st.gone.add(max(st.next, from), to).bounded(maxSpans)
	st.next, u.goneUntil = max(st.next, to), max(u.goneUntil, to+tombstoneLag)
	u.dirty = true
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
