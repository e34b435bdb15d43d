package uplink

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"linli/internal/wire"
)

// Why a resend is refused, as the reply says it.
const (
	reasonWrongEpoch = "wrong_epoch"
	reasonNotThere   = "not_there"
)

// lossGone is the reason told for frames that were asked for again and are not on the box any more.
const lossGone = "gone"

// Resend sends frames from to to, both included, of the journal epoch again: those that the journal has go into the late
// lane, those that it does not have any more are told as lost at once. Alerts that changed at the time are told again, in
// their newest state. Neither is forgotten by a restart. A *wire.Refusal
// says that nothing is done. It may be called from any goroutine while Run runs.
func (u *Uplink) Resend(ctx context.Context, epoch string, from, to uint64) (result wire.ResendResult, err error) {
	if from > to || to == 0 {
		return result, &wire.Refusal{Reason: wire.ReasonMalformed, Detail: fmt.Sprintf("from (%d) must be at least 1, and to (%d) not less", from, to)}
	}
	var saved <-chan struct{}
	var begin, end time.Time
	if errRun := u.inRun(ctx, func() {
		if result, err = u.resend(epoch, max(from, 1), to); err == nil {
			u.save(true)
			saved = u.saved
			begin, end = u.during(span{max(from, 1), min(to, result.NextSeq-1) + 1})
		}
	}); errRun != nil || err != nil {
		return result, errors.Join(errRun, err)
	}
	u.alertsOf(begin, end)
	// What the answer says must outlive the process. A disk that hangs keeps nobody from sending.
	if saved != nil {
		timeout := time.NewTimer(saveFor)
		defer timeout.Stop()
		select {
		case <-saved:
		case <-timeout.C:
		case <-ctx.Done():
		}
	}
	return result, nil
}

// ResendAlerts tells the alerts again that have changed since then, each in its newest state. It may be called from any
// goroutine while Run runs. A process that is killed before they are sent forgets them: whoever asked does not find them, and
// asks again.
func (u *Uplink) ResendAlerts(since time.Time) (wire.AlertsResult, error) {
	n, err := u.alertsAgain(since, time.Now().Add(alertMargin))
	return wire.AlertsResult{Alerts: n}, err
}

// resend runs in Run's goroutine.
func (u *Uplink) resend(epoch string, from, to uint64) (wire.ResendResult, error) {
	u.update()
	st := u.state
	first, next := u.journal.Bounds()
	next = min(next, st.next)
	result := wire.ResendResult{Epoch: fmt.Sprintf("%016x", st.epoch), NextSeq: next}
	if epoch != result.Epoch {
		return result, &wire.Refusal{Reason: reasonWrongEpoch, Detail: "the journal here is " + result.Epoch}
	}
	if from >= next {
		return result, &wire.Refusal{Reason: reasonNotThere, Detail: fmt.Sprintf("the next frame here is %d", next)}
	}
	end := min(to, next-1) + 1
	gone := spans(nil).add(from, min(end, first))
	tell := st.tell.union(gone)
	if len(tell) > maxSpans {
		return result, &wire.Refusal{Reason: reasonBusy, Detail: "the line does not take what is to be told"}
	}
	have := spans(nil).add(max(from, first), end)
	waiting := st.unacked.within(max(from, first), end)
	for _, r := range waiting {
		have = have.remove(r.from, r.end)
	}
	// A frame that turns out to be damaged is told as gone as well; see vanished.
	st.unacked, st.asked, st.tell = st.unacked.union(have), st.asked.union(have).bounded(maxSpans), tell
	u.asking = u.asking.union(have)
	u.dirty = true
	result.Frames, result.Waiting, result.Gone = have.count(), waiting.count(), gone.count()
	u.setStatus(func(s *Status) { s.Resent += result.Frames })
	u.log.Info("the city asks for frames again", zap.Uint64("from", from), zap.Uint64("to", end-1),
		zap.Uint64("frames", result.Frames), zap.Uint64("waiting", result.Waiting), zap.Uint64("gone", result.Gone))
	return result, nil
}

// sendGone tells the city which of the frames that it asked for are not there any more.
func (c *connection) sendGone() {
	u := c.u
	u.tellRest()
	if len(u.state.tell) == 0 || c.gone || !c.room(true) {
		return
	}
	if !u.clockSet() {
		return // not before the clock is set: the message has a time
	}
	now := time.Now().UnixNano()
	if u.cfg.Clock != nil {
		now = u.cfg.Clock.Now().Wall.UnixNano()
	}
	tell := u.state.tell
	next := u.state.next
	t0, t1 := now, now
	var lines []byte
	for _, r := range tell {
		l := wire.Lost{Epoch: u.state.epoch, From: r.from, To: r.end - 1, Reason: lossGone}
		l.T0, l.T1 = u.around(r, now)
		t0, t1 = min(t0, l.T0), max(t1, l.T1)
		lines = wire.AppendLost(lines, &l)
	}
	// No frames are in it; and it does not say, as a live one would, that there are no newer ones.
	payload := append(wire.AppendHeader(nil, &wire.Header{Epoch: u.state.epoch, From: next, To: next - 1, Late: true, T0: t0, T1: t1}), lines...)
	if u.compression != wire.Plain {
		payload = c.late.pack.Pack(payload)
	}
	c.gone = true
	c.late.inFlight += len(payload)
	c.sendTelemetryMessage(payload, func() {
		for _, r := range tell {
			u.state.tell = u.state.tell.remove(r.from, r.end)
		}
		u.dirty = true
	}, func() {
		c.gone = false
		c.late.inFlight -= len(payload)
	})
}

// tellRest has the frames told that vanished in a long outage together with the tombstones that told of them: all that the
// journal had to say of them has been said, and they are still not told.
func (u *Uplink) tellRest() {
	st := u.state
	if len(st.gone) == 0 || st.next <= u.goneUntil || len(st.unacked.within(0, u.goneUntil)) > 0 {
		return
	}
	st.gone, st.tell = nil, st.tell.union(st.gone).bounded(maxSpans)
	u.dirty = true
}

// around returns the moments between which the frames of r were, as far as their neighbours on the box say so: the same
// moment twice where there is only the one behind, otherwise where there is none.
func (u *Uplink) around(r span, otherwise int64) (t0, t1 int64) {
	first, _ := u.journal.Bounds()
	at := func(seq uint64, end bool) (int64, bool) {
		f := &u.frame
		if seq == 0 || u.journal.Read(seq, f) != nil || f.Lost != nil {
			return 0, false
		}
		m := f.T0
		if end {
			m = f.T1
		}
		t, ok := u.frameWall(f, m)
		return t.UnixNano(), ok && t.Before(time.Unix(0, otherwise))
	}
	t1, ok := at(max(r.end, first), false)
	if !ok {
		t1 = otherwise
	}
	if t0, ok = at(r.from-1, true); !ok || t0 > t1 {
		t0 = t1
	}
	return t0, t1
}
