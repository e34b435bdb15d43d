package modbus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	firmwareconfig "linli/firmware-config"
)

// Radio bridges, repeaters and some converters deliver an answer twice. Where frames have no ids the second one may come
// when the next request of the same shape has gone out, and be taken for its answer. So the line remembers the latest
// answers of each unit. One that is byte for byte what the unit has just answered to another request is believed only
// once the time has passed in which the unit's own answer would have come, and only when nothing else came: two
// registers may well have the same value, which then costs that wait and nothing more.

const (
	// saidMost answers of a unit are remembered, for repeatFor each: the longest that a frame is held to linger.
	saidMost  = 8
	repeatFor = 2 * time.Second
	// soonerBy, or half, an answer must be here before the quickest to be suspicious.
	soonerBy = 2 * time.Millisecond
)

// said is an answer that was believed.
type said struct {
	sum  uint64 // of its PDU
	req  [5]byte
	size int
	at   time.Time
}

// begins returns the beginning of a request, which tells reads apart.
func begins(req []byte) (b [5]byte) {
	copy(b[:], req)
	return b
}

// sumOf is FNV-1a. Where two different answers should have one sum, the second is waited for in vain.
func sumOf(pdu []byte) uint64 {
	sum := uint64(14695981039346656037)
	for _, b := range pdu {
		sum = (sum ^ uint64(b)) * 1099511628211
	}
	return sum
}

// repeats reports whether an answer may be an earlier one that has come once more: it is the same as the answer to
// another request, or as that to this one and here sooner than the unit answers.
func (m *memory) repeats(req, ans []byte, turn time.Duration, now time.Time) bool {
	sum, r := sumOf(ans), begins(req)
	for i := range m.said {
		s := &m.said[i]
		if s.sum == sum && s.size == len(ans) && now.Sub(s.at) < repeatFor && (s.req != r || turn < m.least-max(soonerBy, m.least/2)) {
			return true
		}
	}
	return false
}

// says notes an answer that is believed; repeated, that it may be an earlier one all the same.
func (m *memory) says(req, ans []byte, turn time.Duration, repeated bool, now time.Time) {
	if m.saidN == 0 {
		m.least = turn
	}
	m.least = min(turn, m.least+(turn-m.least)/16)
	m.said[m.saidN%saidMost] = said{sum: sumOf(ans), req: begins(req), size: len(ans), at: now}
	m.saidN++
	m.proof = repeated
}

// heardBefore reports whether a frame is one of the latest answers.
func (m *memory) heardBefore(pdu []byte, now time.Time) bool {
	sum := sumOf(pdu)
	for i := range m.said {
		if s := &m.said[i]; s.sum == sum && s.size == len(pdu) && now.Sub(s.at) < repeatFor {
			return true
		}
	}
	return false
}

// doubt returns until when a second answer must not come for ans to be believed; zero for an answer without doubt. turn
// is how long it took to begin. One that is only watched is so until the unit's own answer would have come: half as long
// again as it has needed lately, and 10 ms more (two t3.5 on a serial device).
func (l *line) doubt(m *memory, ans []byte, came time.Time, turn time.Duration, doubtful, watched bool) time.Time {
	slack := streamQuiet
	if _, serial := l.p.(flusher); serial {
		slack = 2 * l.quiet
	}
	var until time.Time
	if watched {
		until = came.Add(max(0, m.turn+m.turn/2-turn) + slack)
	}
	if l.rtu || l.anyID {
		if !doubtful && !(l.rtu && likeRequest(ans)) && !(l.anyID && l.n > 0) {
			return until
		}
		alone := came.Add(min(secondMost, max(streamQuiet, 2*m.turn+l.wire(len(ans)+3)+l.quiet)))
		if alone.After(until) {
			until = alone
		}
		return until
	}
	// Behind ids a gateway may still put the id of this request on what is late of another unit.
	if l.lost {
		return came.Add(streamQuiet)
	}
	return until
}

// answeredTwice is the failure of an exchange that brought two different answers.
func answeredTwice(unit byte) error {
	return fmt.Errorf("%w: unit %d answered twice, and differently (a repeater, a missing termination, or two units with this address?)",
		errGarbled, unit)
}

// only returns ans unless another answer follows it until then: nobody can tell which is which. The same once more does
// no harm, and where ans is not repeated from before it ends the wait.
func (l *line) only(m *memory, unit byte, req, ans []byte, doubtful, repeated bool, until time.Time) ([]byte, error) {
	ans = l.kept[:copy(l.kept[:], ans)]
	strict := !repeated || doubtful || l.rtu && likeRequest(ans)
	_ = l.p.SetDeadline(until) // That it is closed shows when it is read.
	for {
		for l.n > 0 {
			pdu, used, err := l.second(unit, req)
			if err != nil {
				return nil, err
			}
			if used == 0 {
				break
			}
			same := pdu != nil && string(pdu) == string(ans)
			if !l.rtu && pdu != nil {
				l.late++
				if l.anyID {
					l.unasked(unit, m, pdu)
				}
			}
			l.drop(used)
			switch {
			case same && !repeated:
				return ans, nil
			case pdu != nil && !same && (strict || shapeOf(req).fits(pdu)):
				return nil, answeredTwice(unit)
			}
		}
		if err := l.receive(); errors.Is(err, os.ErrDeadlineExceeded) {
			return ans, nil
		} else if err != nil {
			_ = l.close() // Nothing can follow any more: some peers close after each answer.
			return ans, nil
		}
	}
}

// second takes the next whole frame of the buffer: its PDU if it is of the unit. used is 0 where there is none.
func (l *line) second(unit byte, req []byte) (pdu []byte, used int, err error) {
	if l.rtu {
		at, n, k := l.next(unit, req)
		if k == partial || k == damaged {
			return nil, 0, nil
		}
		frame := l.buf[at : at+n]
		l.discard(frame)
		if frame[0] == unit && !isRequest(frame) {
			pdu = frame[1 : n-2]
		}
		return pdu, at + n, nil
	}
	alive, open := signOfLife(l.buf[:l.n], l.register)
	if alive > 0 || open {
		return nil, alive, nil
	}
	id, u, pdu, n, err := cutTCP(l.buf[:l.n])
	switch {
	case err != nil:
		return nil, 0, fmt.Errorf("%w: %w", errGarbled, err)
	case n > 0 && !l.anyID && int16(id-l.id) < 0:
		l.late++
		return nil, n, nil
	case n > 0 && (u != unit || !l.anyID && id != l.id):
		return nil, 0, fmt.Errorf("%w: %w: unit %d answered, unit %d was asked", errGarbled, errOdd, u, unit)
	}
	return pdu, n, nil
}

// unasked takes in a frame of a unit that was not the answer waited for. Where it may have been the answer to the
// request before, something else has been believed instead, and that is read again.
func (l *line) unasked(unit byte, m *memory, pdu []byte) {
	now := time.Now()
	calm, known := m.wary.IsZero(), m.heardBefore(pdu, now)
	if m.came(pdu, now) || !calm || known || l.redo == nil || m.saidN == 0 {
		return
	}
	last := &m.said[(m.saidN-1)%saidMost]
	if now.Sub(last.at) < repeatFor && shapeOf(last.req[:]).fits(pdu) {
		l.redo(unit, last.req[:])
	}
}

// emptied is ready where frames have no ids that count: what is there to read before anything was asked would be taken
// for the answer.
func (l *line) emptied() error {
	if !l.anyID {
		return nil
	}
	if !l.looked || l.n > 0 {
		if err := l.drain(idleLook); err != nil {
			return err
		}
	}
	l.looked = false
	if l.surplus() {
		return fmt.Errorf("%w: more came than was asked for", errGarbled)
	}
	return nil
}

// surplus counts what is in the buffer as late, and reports whether there is anything.
func (l *line) surplus() bool {
	if n, _ := signOfLife(l.buf[:l.n], l.register); n > 0 {
		l.drop(n)
	}
	if l.n == 0 {
		return false
	}
	l.late++
	if _, u, pdu, n, err := cutTCP(l.buf[:l.n]); err == nil && n > 0 && l.units[u] != nil {
		l.unasked(u, l.units[u], pdu)
	}
	return true
}

// redo has what a request read read again at once: what was told as its answer is in doubt.
func (b *Bus) redo(address byte, req []byte) {
	u := b.guests.asked[address]
	if u == nil || len(req) < 5 || req[0] < 1 || req[0] > 4 {
		return
	}
	tables := [...]firmwareconfig.Table{1: firmwareconfig.Coil, 2: firmwareconfig.DiscreteInput, 3: firmwareconfig.HoldingRegister, 4: firmwareconfig.InputRegister}
	what := span{tables[req[0]], int(binary.BigEndian.Uint16(req[1:])), int(binary.BigEndian.Uint16(req[3:]))}
	now := b.now()
	for _, bl := range u.blocks {
		if what.meets(bl.span) {
			bl.due = min(bl.due, now)
			b.urged = bl
		}
	}
}
