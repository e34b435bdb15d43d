package modbus

import (
	"net"
	"time"
)

// More names for what tests look at from outside.
var (
	NextRTU    = nextRTU
	FrameRTU   = frameRTU
	EndRTU     = endRTU
	CheckAsked = checkAsked
)

// The verdicts of NextRTU.
const (
	Partial = partial
	Answer  = answer
	Other   = other
	Damaged = damaged
)

// Found is FindRTU's verdict on a whole answer.
const Found = answer

// FindRTU returns the answer within buf, and how many bytes stand before its frame.
func FindRTU(buf []byte, unit byte, req []byte) (pdu []byte, skipped int, k kind) {
	at, n, k := nextRTU(buf, unit, req)
	if k != answer {
		return nil, 0, k
	}
	return buf[at+1 : at+n-2], at, k
}

// Hurry shortens the time that a converter has to register.
func Hurry(l *Listener, d time.Duration) { l.within = d }

// Match is how a listener tells converters apart: the registration that buf begins with, and what follows it.
func Match(l *Listener, buf []byte) (reg, rest []byte, found, open bool) {
	r, rest, open := l.match(buf)
	if r == nil {
		return nil, nil, false, open
	}
	return r.reg, rest, true, open
}

type pacedConn struct{ net.Conn }

func (pacedConn) paced() bool { return true }

// Paced makes a connection one on which characters take their time on the wire.
func Paced(c net.Conn) net.Conn { return pacedConn{c} }
