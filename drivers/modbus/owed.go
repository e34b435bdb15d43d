package modbus

import (
	"encoding/binary"
	"slices"
	"time"
)

// A serial line has no transaction ids: whether an answer belongs to the request just sent is seen from its unit,
// function and length alone (its shape), and for writes from what it repeats. So a unit, or a converter, that answers
// one request late would give the values of another register wherever two requests have one shape.
//
// The line therefore remembers what a unit still owes: requests that were sent and not answered. While an answer is
// owed, no request of the same shape goes to that unit. Another one goes first, whose answer has a shape that nothing
// owed has (a fence). Units answer in order; so once the fence is answered, what was owed has come, and was recognised
// by its shape, or will never come. The same is done over TCP, where gateways put fresh transaction ids on late answers
// of the line behind them.
//
// What a unit owes it owes on the next connection too, where frames have no ids: a converter sends what comes late to
// whoever is connected then. An answer that comes twice is known by its bytes (twice.go).
//
// What remains impossible: a unit that answers nothing but requests of one single shape, ignores all others, and is
// late every time; one that is late by more than missedMost requests, or by several while it answers those between in
// time and the overtaken one instead of the next; an answer that is repeated after more than repeatFor or saidMost
// further ones, or while the true one is lost, or comes later than half as long again as the unit has needed lately; and
// another master's exchange with a unit whose request we did not hear. Where the true answer comes after all, before the
// next request, what was told is read again at once (line.redo).

const (
	// owedMost bounds what is remembered for a unit. That many fences have different shapes.
	owedMost = 6
	// missedMost later requests that are not answered either show that an answer will not come any more with the next
	// request: the unit was away.
	missedMost = 3
	// lookedMost further requests are answered before an unanswered one that a later one has overtaken is forgotten:
	// a peer that does not keep the order may still answer it.
	lookedMost = 3
	// deafAfter fences in a row that a unit ignores, each right after it has answered something else, show that it
	// answers no such requests. It is asked without them, and tried again after deafFor.
	deafAfter = 2
	deafFor   = time.Hour
	// waryFor is how long a unit's answers are watched more closely after it answered what nobody asked.
	waryFor = time.Minute
)

// shape is what tells the answers to two requests apart.
type shape struct {
	function byte
	size     int // of the answer's PDU; 0 where it is unknown
	echo     [4]byte
}

// shapeOf returns the shape of the answer to req, which is not empty.
func shapeOf(req []byte) shape {
	s := shape{function: req[0], size: answerSize(req)}
	switch req[0] {
	case 5, 6, 8, 15, 16, 22:
		copy(s.echo[:], req[1:])
	}
	return s
}

// fits reports whether an answer PDU may be one of shape s.
func (s shape) fits(pdu []byte) bool {
	if pdu[0]&^excFlag != s.function {
		return false
	}
	if pdu[0]&excFlag != 0 {
		return len(pdu) == 2
	}
	return (s.size == 0 || s.size == len(pdu)) && (s.echo == [4]byte{} || len(pdu) >= 5 && s.echo == [4]byte(pdu[1:5]))
}

// debt is a request that was not answered.
type debt struct {
	shape  shape
	req    [5]byte // its beginning
	until  time.Time
	passed bool // a later request was answered, so that only a peer that does not keep the order can still answer this
	missed int  // later requests that were not answered either
	fence  bool
	looked int // requests answered since it passed
}

// memory is what the line knows of one unit. It outlives the connection: what a unit owes it owes on the next one too.
type memory struct {
	owed  []debt
	known [3][5]byte // reads of different shapes that were answered, the latest first; function 0 for none
	deaf  int        // fences in a row that it ignored although it is there
	heard time.Time  // when deaf was counted last
	trial bool       // it ignored a fence and answered afterwards: the next request goes behind a fence, to see
	there bool       // the last request was answered
	mute  bool       // fences were ignored since the last answer
	wary  time.Time
	turn  time.Duration // how long it takes to begin an answer: the longest, slowly forgotten
	nonce uint16

	least time.Duration // how long it takes to begin an answer: the shortest, slowly forgotten; below 0 where the line is faster than it is told to be
	said  [saidMost]said
	saidN int  // answers so far
	proof bool // the last answer might have been a repetition; so the next must come alone
}

// owes reports whether an answer of this shape may still come with the next request.
func (m *memory) owes(s shape) bool {
	return slices.ContainsFunc(m.owed, func(d debt) bool { return !d.passed && d.shape == s })
}

// owesFunction reports whether an exception of this function may still come.
func (m *memory) owesFunction(f byte) bool {
	return slices.ContainsFunc(m.owed, func(d debt) bool { return !d.passed && d.shape.function == f })
}

// doubtful reports whether an answer of this shape should be believed only when no second one follows.
func (m *memory) doubtful(s shape) bool {
	return !m.wary.IsZero() || slices.ContainsFunc(m.owed, func(d debt) bool { return d.shape == s })
}

// unanswered notes that req was sent and no answer came within timeout.
func (m *memory) unanswered(req []byte, now time.Time, timeout time.Duration) {
	m.prune(now)
	m.there = false
	for i := range m.owed {
		d := &m.owed[i]
		if req[0] == 8 {
			break // A unit that does not know the function may not have taken it for a request at all.
		}
		if d.missed++; d.missed >= missedMost && !d.passed {
			d.passed, d.until = true, now.Add(timeout)
		}
	}
	d := debt{shape: shapeOf(req), until: now.Add(timeout)}
	copy(d.req[:], req)
	if len(m.owed) == owedMost {
		m.owed = slices.Delete(m.owed, 0, 1)
	}
	m.owed = append(m.owed, d)
}

// answered notes a whole answer to req that took so long to begin.
func (m *memory) answered(req, ans []byte, now time.Time, turn time.Duration) {
	for i := range m.owed {
		if m.owed[i].passed {
			m.owed[i].looked++
		}
		m.owed[i].passed = true
	}
	m.prune(now)
	m.there = true
	if m.mute {
		m.mute, m.trial = false, true
	}
	m.turn = max(turn, m.turn-m.turn/16)
	if req[0] < 1 || req[0] > 4 || ans[0] != req[0] || len(req) < 5 {
		return
	}
	if m.known[0] == [5]byte(req) {
		return
	}
	s := shapeOf(req)
	at := len(m.known) - 1
	for i, k := range m.known {
		if k[0] == 0 || shapeOf(k[:]) == s {
			at = i
			break
		}
	}
	copy(m.known[1:at+1], m.known[:at])
	m.known[0] = [5]byte(req)
}

// came notes a frame of the unit that was not the answer waited for, and reports whether it was owed.
func (m *memory) came(pdu []byte, now time.Time) bool {
	for i := range m.owed {
		if m.owed[i].shape.fits(pdu) {
			// Whatever was asked before this will not be answered any more: units keep the order.
			for j := range i {
				m.owed[j].passed = true
			}
			if m.owed[i].fence {
				m.deaf, m.mute = 0, false // It does answer fences, only late.
			}
			m.owed = slices.Delete(m.owed, i, i+1)
			return true
		}
	}
	m.wary = now.Add(waryFor)
	return false
}

// prune forgets what can no longer come.
func (m *memory) prune(now time.Time) {
	m.owed = slices.DeleteFunc(m.owed, func(d debt) bool { return d.passed && d.looked >= lookedMost && now.After(d.until) })
	if now.After(m.wary) {
		m.wary = time.Time{}
	}
}

// fenceFor returns a harmless request whose answer has a shape that nothing owed has, best one that the unit is known to
// answer; nil for a unit that ignores such requests.
func (m *memory) fenceFor(req []byte, now time.Time) []byte {
	if m.deaf >= deafAfter {
		if now.Sub(m.heard) < deafFor {
			return nil
		}
		m.deaf--
	}
	own := shapeOf(req)
	free := func(r [5]byte) bool {
		s := shapeOf(r[:])
		return s != own && !slices.ContainsFunc(m.owed, func(d debt) bool { return d.shape == s })
	}
	for _, k := range m.known {
		if k[0] != 0 && free(k) {
			return k[:]
		}
	}
	if len(req) >= 5 && req[0] >= 1 && req[0] <= 4 {
		n, addr := int(binary.BigEndian.Uint16(req[3:])), int(binary.BigEndian.Uint16(req[1:]))
		step, most := 1, maxRegisters
		if req[0] <= 2 {
			step, most = 8, maxBits // the length of an answer counts in bytes
		}
		// Fewer can be read. The other table of the same width, and more, may meet an exception, which is an answer too.
		for _, try := range [...]struct{ less, other int }{{1, 0}, {0, 1}, {1, 1}, {-1, 1}, {2, 0}, {-1, 0}, {-2, 0}} {
			c := n - try.less*step
			if c < 1 || c > most || addr+c > 1<<16 {
				continue
			}
			r := [5]byte{req[0], req[1], req[2]}
			if try.other != 0 {
				r[0] = (req[0] - 1) ^ 1 + 1 // 1 and 2, 3 and 4
			}
			binary.BigEndian.PutUint16(r[3:], uint16(c))
			if free(r) {
				return r[:]
			}
		}
	}
	// Function 8, sub-function 0: the unit repeats what it is sent.
	m.nonce++
	return []byte{8, 0, 0, 0xA5 ^ byte(m.nonce>>8), byte(m.nonce)}
}

// fenced notes how a fence ended. trial tells that nothing was owed and the unit had just answered.
func (m *memory) fenced(answered, trial bool, now time.Time) {
	switch {
	case answered:
		m.deaf, m.mute, m.trial = 0, false, false
		return
	case trial:
		m.deaf++
		m.heard = now
	}
	m.mute, m.trial = true, false
	if n := len(m.owed); n > 0 {
		m.owed[n-1].fence = true
	}
}

// tries reports whether a fence should go before the next request although nothing is owed: to learn whether the unit
// ignores fences, or was just away when it ignored one.
func (m *memory) tries() bool { return m.trial && m.there && m.deaf < deafAfter }
