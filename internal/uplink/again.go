package uplink

import (
	"errors"
	"time"

	"go.uber.org/zap"

	"linli/internal/journal"
)

const (
	// forgottenFor is how long before the last acknowledgement a broker that has lost its sessions may have saved
	// them last: the broker we ship saves every 60 s, plus a wide margin.
	forgottenFor = 3 * time.Minute
	// staleFor is the same of a broker that comes back with its sessions: it may have been killed and have read them
	// from its last save, which is at most 60 s old, plus the time that saving takes.
	staleFor = 90 * time.Second
	// staleEvery bounds how often that is done, since a line that flaps looks the same.
	staleEvery = 5 * time.Minute
	// recentStep is how finely the time of acknowledgements is remembered.
	recentStep = 10 * time.Second
	// maxByTime bounds how many frames are looked at to find the last minutes by their times.
	maxByTime = 3600
)

// recent remembers which frames were acknowledged in the last minutes before the last acknowledgement.
type recent struct {
	steps []step
	last  time.Time // of the last acknowledgement
}

// step is what was acknowledged within recentStep from at on.
type step struct {
	at    time.Time
	acked spans
}

func (r *recent) add(now time.Time, from, end uint64) {
	r.last = now
	if n := len(r.steps); n == 0 || now.Sub(r.steps[n-1].at) >= recentStep {
		r.cut(now)
	}
	s := &r.steps[len(r.steps)-1]
	s.acked = s.acked.add(from, end)
}

// cut begins a step and drops those that are too old.
func (r *recent) cut(now time.Time) {
	for len(r.steps) > 0 && r.last.Sub(r.steps[0].at) > forgottenFor+recentStep {
		r.steps = r.steps[1:]
	}
	r.steps = append(r.steps, step{at: now})
}

// since returns what was acknowledged at t or later, and less than recentStep of what was before.
func (r *recent) since(t time.Time) (acked spans) {
	for i, s := range r.steps {
		if i+1 < len(r.steps) && !r.steps[i+1].at.After(t) {
			continue
		}
		acked = acked.union(s.acked)
	}
	return acked
}

// sendAgain decides at a new connection which acknowledged frames the broker may have forgotten, counts them as
// unacknowledged and returns them.
func (u *Uplink) sendAgain(present bool) spans {
	now := time.Now()
	unclean := u.unclean
	u.unclean = false
	st := u.state
	if st.next <= 1+st.unacked.count()+st.gone.count() {
		return nil // nothing was ever acknowledged
	}
	if present {
		if !unclean || !u.staleAt.IsZero() && now.Sub(u.staleAt) < staleEvery {
			return nil
		}
		u.staleAt = now
		return u.putBack(u.recent.since(u.recent.last.Add(-staleFor)), "the broker may have restarted from an old save")
	}
	acked := u.recent.since(u.recent.last.Add(-forgottenFor))
	if u.recent.last.Sub(u.started) < forgottenFor {
		acked = acked.union(u.lastByTime()) // acknowledged to an earlier process
	}
	// Others that had a session there have lost it too. What is acknowledged before they subscribe reaches nobody.
	u.recent.cut(now)
	u.againSince, u.againAt = now, now.Add(u.cfg.SendAgain)
	return u.putBack(acked, "the broker has lost our session")
}

// sendOnceMore returns, once and when it is due, what was acknowledged since the broker came back without sessions.
func (u *Uplink) sendOnceMore() spans {
	if u.againAt.IsZero() || time.Now().Before(u.againAt) {
		return nil
	}
	u.againAt = time.Time{}
	return u.putBack(u.recent.since(u.againSince), "others had to subscribe anew")
}

// putBack counts acknowledged frames as unacknowledged, as far as the journal still has them, and returns them.
func (u *Uplink) putBack(acked spans, why string) spans {
	first, next := u.journal.Bounds()
	acked = acked.within(first, next)
	for _, r := range u.state.unacked {
		acked = acked.remove(r.from, r.end) // on its way anyhow
	}
	if len(acked) == 0 {
		return nil
	}
	u.state.unacked = u.state.unacked.union(acked)
	u.dirty = true
	u.setStatus(func(s *Status) { s.SentAgain, s.SentAgainWhy = s.SentAgain+acked.count(), why })
	u.log.Warn("uplink sends acknowledged frames again", zap.Uint64("frames", acked.count()), zap.String("reason", why))
	return acked
}

// lastByTime returns the acknowledged frames of the last minutes before the newest acknowledged one, by their times.
func (u *Uplink) lastByTime() (acked spans) {
	first, _ := u.journal.Bounds()
	var newest journal.Frame
	f := &u.frame
	for seq, looked := u.state.next, 0; seq > first && looked < maxByTime; looked++ {
		seq--
		if len(u.state.unacked.within(seq, seq+1)) > 0 {
			// A whole range at once: the backlog may be long.
			for _, r := range u.state.unacked {
				if r.from <= seq && seq < r.end {
					seq = max(r.from, first)
				}
			}
			continue
		}
		if err := u.journal.Read(seq, f); errors.Is(err, journal.ErrNotFound) {
			continue
		} else if err != nil {
			u.setError(err)
			continue
		}
		if f.Lost == nil { // the times of a tombstone are those of what was lost
			if newest.Seq == 0 {
				newest = *f
			}
			if u.between(f, &newest) > forgottenFor {
				break
			}
		}
		acked = acked.add(seq, seq+1)
	}
	return acked
}

// between returns the time from one frame to a later one, 0 where it is not known.
func (u *Uplink) between(f, later *journal.Frame) time.Duration {
	if f.Boot == later.Boot {
		return time.Duration(later.T1 - f.T1)
	}
	t, ok := u.frameWall(f, f.T1)
	l, okLater := u.frameWall(later, later.T1)
	if !ok || !okLater {
		return 0
	}
	return l.Sub(t)
}
