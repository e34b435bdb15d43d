package uplink

import (
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"linli/internal/journal"
	"linli/internal/telemetry"
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
	// alertMargin is how much earlier and later than frames that are sent again an alert may have changed that was lost
	// with them.
	alertMargin = time.Minute
	// repeatEvery is the time between alerts that are sent again. Nobody waits for them, and who lost them may have little
	// room for more.
	repeatEvery = 50 * time.Millisecond
	// maxDue bounds the alerts that wait to go out once more.
	maxDue = 1024
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
// unacknowledged and returns them. What it was told of alerts it may have forgotten since the moment since, zero for never.
func (u *Uplink) sendAgain(present bool) (again spans, since time.Time) {
	now := time.Now()
	unclean := u.unclean
	u.unclean = false
	st := u.state
	if st.next <= 1+st.unacked.count()+st.gone.count() {
		return nil, since // nothing was ever acknowledged
	}
	if present {
		if !unclean || !u.staleAt.IsZero() && now.Sub(u.staleAt) < staleEvery {
			return nil, since
		}
		u.staleAt = now
		return u.putBack(u.recent.since(u.recent.last.Add(-staleFor)), "the broker may have restarted from an old save"), u.lastHeard(staleFor)
	}
	acked := u.recent.since(u.recent.last.Add(-forgottenFor))
	if u.recent.last.Sub(u.started) < forgottenFor {
		acked = acked.union(u.lastByTime()) // acknowledged to an earlier process
	}
	// Others that had a session there have lost it too. What is acknowledged before they subscribe reaches nobody.
	u.recent.cut(now)
	u.againSince, u.againAt = now, now.Add(u.cfg.SendAgain)
	return u.putBack(acked, "the broker has lost our session"), u.lastHeard(forgottenFor)
}

// sendOnceMore returns, once and when it is due, what was acknowledged since the broker came back without sessions, and
// since when it was told of alerts what nobody heard; zero for never.
func (u *Uplink) sendOnceMore() (again spans, since time.Time) {
	if u.againAt.IsZero() || time.Now().Before(u.againAt) {
		return nil, since
	}
	u.againAt = time.Time{}
	return u.putBack(u.recent.since(u.againSince), "others had to subscribe anew"), u.againSince.Add(-alertMargin)
}

// lastHeard returns the moment so long, and a margin for alerts, before the last acknowledgement: an earlier process had
// its last one about when the journal ended.
func (u *Uplink) lastHeard(before time.Duration) time.Time {
	last := u.recent.last
	if last.IsZero() {
		last = u.measured
	}
	if last.IsZero() {
		last = u.started
	}
	return last.Add(-before - alertMargin)
}

// alertsSince has those alerts sent again that changed since then; none where it is zero.
func (u *Uplink) alertsSince(since time.Time) {
	if !since.IsZero() {
		u.lookups.Go(func() { u.alertsOf(since, time.Now().Add(alertMargin)) })
	}
}

// alertsOf is alertsAgain where nobody waits for an answer.
func (u *Uplink) alertsOf(from, to time.Time) {
	if _, err := u.alertsAgain(from, to); err != nil {
		u.log.Warn("alerts are not sent again", zap.Error(err))
	}
}

// alertsAgain has those alerts sent again that changed between the moments, and returns how many. It reads the disk: not for Run's
// goroutine.
func (u *Uplink) alertsAgain(from, to time.Time) (int, error) {
	ids, err := u.book.Within(from, to)
	if err != nil {
		return 0, err
	}
	if len(ids) > 0 {
		u.mu.Lock()
		u.found = append(u.found, ids...)
		u.mu.Unlock()
		u.log.Info("alerts are sent again", zap.Int("alerts", len(ids)), zap.Time("from", from), zap.Time("to", to))
	}
	return len(ids), nil
}

// dueAlert is an alert that goes out once more.
type dueAlert struct {
	id string
	at time.Time
}

// onceMore has the alert that was just told sent a second time, a while later, in the state that it has then. A broker may
// have dropped it where a reader's queue was full, and no numbers show the city that an alert is missing, as they do of frames.
func (u *Uplink) onceMore(id string) {
	u.due = slices.DeleteFunc(u.due, func(d dueAlert) bool { return d.id == id })
	if len(u.due) == maxDue {
		u.due = slices.Delete(u.due, 0, 1)
	}
	u.due = append(u.due, dueAlert{id, time.Now().Add(u.cfg.SendAgain)})
}

// takeFound has what alertsAgain found sent again, and what is due.
func (u *Uplink) takeFound() {
	var ids []string
	for len(u.due) > 0 && !time.Now().Before(u.due[0].at) {
		ids = append(ids, u.due[0].id)
		u.due = u.due[1:]
	}
	u.mu.Lock()
	ids = append(ids, u.found...)
	u.found = nil
	u.mu.Unlock()
	for _, id := range ids {
		if !slices.Contains(u.repeat, id) {
			u.repeat = append(u.repeat, id)
		}
	}
}

// during returns the moments between which an alert must have changed to be lost together with the frames of r; zero
// where nobody knows since when, now where nobody knows until when.
func (u *Uplink) during(r span) (from, to time.Time) {
	at := func(seq uint64, moment func(*journal.Frame) telemetry.Mono) (time.Time, bool) {
		f := &u.frame
		if seq == 0 || u.journal.Read(seq, f) != nil || f.Lost != nil {
			return time.Time{}, false
		}
		return u.frameWall(f, moment(f))
	}
	first, last := func(f *journal.Frame) telemetry.Mono { return f.T0 }, func(f *journal.Frame) telemetry.Mono { return f.T1 }
	from, ok := at(r.from-1, last)
	if !ok {
		if from, ok = at(r.from, first); !ok {
			from = time.Time{}
		}
	}
	if to, ok = at(r.end, first); !ok {
		to = u.now()
	}
	if !from.IsZero() {
		from = from.Add(-alertMargin)
	}
	return from, to.Add(alertMargin)
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
