package uplink

import (
	"errors"
	"time"

	"go.uber.org/zap"

	"linli/internal/journal"
)

// acknowledged takes frames out of what is still to be delivered.
func (u *Uplink) acknowledged(d *delivery) {
	u.state.unacked = u.state.unacked.remove(d.from, d.end)
	u.state.asked = u.state.asked.remove(d.from, d.end)
	u.recent.add(time.Now(), d.from, d.end)
	for _, r := range d.lost {
		u.state.gone = u.state.gone.remove(r.from, r.end)
	}
	u.dirty = true
}

// vanished notes frames that are not in the journal any more.
func (u *Uplink) vanished(from, end uint64) {
	st := u.state
	lost := st.unacked.within(from, end)
	for _, r := range st.asked.within(from, end) {
		// The journal may have told it before, or take it for delivered: no tombstone follows.
		if tell := st.tell.add(r.from, r.end); len(tell) <= maxSpans {
			st.tell = tell // beyond it the city asks again
		}
		lost = lost.remove(r.from, r.end)
	}
	st.gone = st.gone.union(lost).bounded(maxSpans)
	st.unacked, st.asked = st.unacked.remove(from, end), st.asked.remove(from, end)
	u.goneUntil = max(u.goneUntil, st.next+tombstoneLag)
	u.dirty = true
}

// lostParts returns what of a tombstone's frames the city does not have, and whether that is all of them. The journal
// does not know which single frames were acknowledged.
func (u *Uplink) lostParts(l *journal.Loss) (parts spans, all bool) {
	from, end := l.FirstSeq, l.LastSeq+1
	parts = u.state.gone.union(u.state.unacked).within(from, end)
	return parts, len(parts) == 1 && parts[0] == span{from, end}
}

// overtake deals with a journal that ends before what the state knows of: a restored copy, or a tail that the disk
// forgot. Nothing that can be read counts as acknowledged, since it may not be what was sent under these numbers, and
// the journal goes on behind every number that may have been sent.
func (u *Uplink) overtake() {
	st := u.state
	first, next := u.journal.Bounds()
	if st.next <= next {
		return
	}
	to := st.next + skipMargin
	u.log.Warn("the journal is older than what was sent from it: sending everything again",
		zap.Uint64("journal_next", next), zap.Uint64("sent_before", st.next))
	st.gone = st.gone.union(st.unacked.within(next, st.next)).add(st.next, to).bounded(maxSpans)
	st.unacked, st.next = spans(nil).add(first, next), to
	if from, err := u.journal.Skip(to); err != nil {
		u.stateError(err)
		u.log.Error("frame numbers are used again", zap.Error(err))
		st.gone, st.next = st.gone.remove(next, to), next
	} else {
		// What was committed meanwhile is to be sent as well.
		st.unacked, st.gone = st.unacked.add(first, from), st.gone.remove(next, from)
	}
	u.dirty = true
}

// update takes new and vanished frames of the journal into account and tells the journal what is history.
func (u *Uplink) update() {
	u.lookAround()
	first, next := u.journal.Bounds()
	st := u.state
	if next > st.next {
		st.unacked = st.unacked.add(st.next, next)
		st.next = next
		u.dirty = true
	}
	if from, ok := st.unacked.first(); ok && from < first {
		// Gone for space or age; the journal's tombstones tell the city.
		u.vanished(0, first)
	}
	release := st.next
	oldest, ok := st.unacked.first()
	if ok {
		release = oldest
	}
	if release > max(first, u.released) {
		u.released = release
		u.journal.Release(release)
	}
	var waiting uint64
	for _, s := range u.waiting {
		waiting += s.count()
	}
	u.setStatus(func(s *Status) {
		s.BacklogFrames, s.OldestUnsent, s.WaitingFrames = st.unacked.count(), oldest, waiting
	})
}

// setAside keeps a frame whose wall clock time is not known.
func (u *Uplink) setAside(boot string, seq uint64) {
	u.waiting[boot] = u.waiting[boot].add(seq, seq+1)
}

// timed returns the frames set aside whose time is known now. One frame answers for its boot.
func (u *Uplink) timed() spans {
	var known spans
	for boot, set := range u.waiting {
		first, _ := u.journal.Bounds()
		set = set.remove(0, first)
		seq, ok := set.first()
		if !ok {
			delete(u.waiting, boot)
			continue
		}
		u.waiting[boot] = set
		if err := u.journal.Read(seq, &u.frame); err == nil {
			if _, ok := u.frameWall(&u.frame, u.frame.T0); !ok {
				continue
			}
		} else if !errors.Is(err, journal.ErrNotFound) {
			continue
		}
		for _, r := range set {
			known = known.add(r.from, r.end)
		}
		delete(u.waiting, boot)
	}
	return known
}
