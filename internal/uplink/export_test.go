package uplink

import (
	"time"

	"linli/internal/journal"
	"linli/internal/telemetry"
)

// SetWall replaces Frame.Wall: a frame made by a test has no clock.
func (u *Uplink) SetWall(f func(*journal.Frame, telemetry.Mono) (time.Time, bool)) { u.frameWall = f }

// JudgedBy is the time by which certificates are judged.
func (u *Uplink) JudgedBy() time.Time { return u.judgedBy() }

// Save writes the state file now, SaveWhenDue when Run would. Without Run nobody else writes it.
func (u *Uplink) Save()        { u.save(true); u.written() }
func (u *Uplink) SaveWhenDue() { u.save(false); u.written() }

func (u *Uplink) written() {
	if text := u.file.next; text != nil {
		u.file.next = nil
		if err := u.file.file.Write(text); err != nil {
			panic(err)
		}
	}
}

// Lanes gives a test the lanes without a connection, as serve uses them.
type Lanes struct {
	u          *Uplink
	live, late *lane
	known      uint64
}

// NewLanes begins as a new connection does: what there is already goes late.
func (u *Uplink) NewLanes() (*Lanes, error) {
	live, err := newLane(u, false)
	if err != nil {
		return nil, err
	}
	late, err := newLane(u, true)
	u.update()
	late.queue = u.state.unacked.union(nil)
	for _, set := range u.waiting {
		for _, r := range set {
			late.queue = late.queue.remove(r.from, r.end)
		}
	}
	return &Lanes{u, live, late, u.state.next}, err
}

// Update is what Run does each time it wakes.
func (l *Lanes) Update() {
	l.u.update()
	for _, r := range l.u.timed() {
		l.late.queue = l.late.queue.add(r.from, r.end)
	}
	l.live.queue = l.live.queue.add(l.known, l.u.state.next)
	l.known = l.u.state.next
}

// Overtake makes all but the newest live frame late.
func (l *Lanes) Overtake() {
	if n := l.live.queue.count(); n > 1 && l.live.held == nil {
		for _, r := range l.live.queue.remove(l.known-1, l.known) {
			l.late.queue = l.late.queue.add(r.from, r.end)
		}
		l.live.queue = spans(nil).add(l.known-1, l.known)
	}
}

// Next returns the payloads of the next message of a lane.
func (l *Lanes) Next(late bool, limit int) (payloads [][]byte) {
	lane := l.live
	if late {
		lane = l.late
	}
	lane.stalled = false
	for _, m := range lane.next(limit) {
		payloads = append(payloads, m.payload)
		l.u.acknowledged(m.of)
	}
	return payloads
}

// Idle returns the message of an idle lane, nil where there is something to send.
func (l *Lanes) Idle() []byte {
	if l.live.queue.count() > 0 || l.live.held != nil {
		return nil
	}
	return l.live.idle(l.u.state.next)
}

// Hear gives the uplink a status message after one of its own has been acknowledged, and returns whom it takes for a twin.
func (u *Uplink) Hear(started time.Time, payload []byte) *Twin {
	u.started, u.statusTold = started, true
	u.heardStatus(payload)
	return u.Status().Twin
}

// Over gives back a payload of the late lane, as an acknowledgement does.
func (l *Lanes) Over(payload []byte) { l.late.over(payload) }
