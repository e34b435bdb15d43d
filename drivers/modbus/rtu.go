package modbus

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"
)

// This file is the part of the line's discipline that a line without transaction ids needs: what is read between the
// frames, and which of the frames that come is believed.

// dozeMost is the longest silence that is slept through in the kernel, where a context does not end it.
const dozeMost = 5 * time.Millisecond

// ready brings the line into the state in which a request to unit may be sent: quiet for t3.5, nothing left to read.
func (l *line) ready(ctx context.Context, unit byte) error {
	if !l.rtu {
		return l.emptied()
	}
	defer func() { l.counted = false }()
	_, serial := l.p.(flusher)
	l.foreigner = -1
	l.digest() // what came behind the last answer
	if l.dirty {
		if err := l.settle(ctx, serial); err != nil {
			return err
		}
		l.dirty = false
	}
	for end := time.Now().Add(babbleMax); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		// What comes during the silence starts it anew. Where it is over already a look costs less than a read.
		wait := time.Until(l.last.Add(l.quiet))
		if wait <= 0 {
			if w, ok := l.p.(interface{ waiting() (int, error) }); ok && l.foreigner < 0 {
				if n, err := w.waiting(); n == 0 || err != nil {
					return err
				}
			}
			wait = idleLook
		} else if d, ok := l.p.(interface{ doze(time.Duration) }); ok && wait <= dozeMost && l.foreigner < 0 {
			d.doze(wait) // what came meanwhile is looked at next
			continue
		}
		if l.foreigner >= 0 {
			wait = time.Until(end) // for the answer that the other master gets
		}
		was := l.last
		if err := l.drain(max(wait, idleLook)); err != nil {
			return err
		}
		over := !time.Now().Before(end)
		if over && l.foreigner == int(unit) {
			// With our request on the line too, the answer to the other master would be taken for ours.
			return fmt.Errorf("%w: another master asks unit %d", errGarbled, unit)
		}
		if over || l.last.Equal(was) && l.foreigner < 0 {
			break
		}
	}
	if f, ok := l.p.(flusher); ok {
		return f.Flush()
	}
	return nil
}

// settle reads until the line is silent, at most for babbleMax. A connection that talks on and on is closed.
func (l *line) settle(ctx context.Context, serial bool) error {
	quiet := l.quiet
	if !serial {
		quiet = max(quiet, streamQuiet)
	}
	end := time.Now().Add(babbleMax)
	for time.Now().Before(end) && ctx.Err() == nil {
		was := l.last
		if err := l.drain(quiet); err != nil {
			return err
		}
		if l.last.Equal(was) {
			return nil
		}
	}
	if !serial && ctx.Err() == nil {
		return errors.New("the peer talks without pause")
	}
	return ctx.Err()
}

// talkRTU reads until the answer is there.
func (l *line) talkRTU(m *memory, unit byte, req []byte, start time.Time) ([]byte, error) {
	var odd error // what came that was no answer; more telling than "no answer"
	// No answer can be complete before the request and itself have passed over the wire, less what baud rates differ.
	var earliest time.Time
	if w, ok := l.p.(interface{ paced() bool }); ok && w.paced() {
		earliest = start.Add(l.wire(len(req)+3+5) * 9 / 10)
	}
	for {
		if err := l.receive(); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				return nil, err
			}
			if odd != nil {
				return nil, odd
			}
			if l.skipRegister(); l.n > 0 {
				l.crc, l.counted = l.crc+1, true
				return nil, fmt.Errorf("%w: %d bytes that are no whole answer", errGarbled, l.n)
			}
			return nil, err
		}
		for {
			at, n, k := l.next(unit, req)
			if k == partial {
				break
			}
			if k == damaged {
				l.crc, l.counted = l.crc+1, true
				return nil, fmt.Errorf("%w: CRC does not match", errGarbled)
			}
			if at > 0 {
				l.stray()
			}
			frame := l.buf[at : at+n]
			early := l.last.Before(earliest.Add(l.wire(n-5) * 9 / 10))
			// Exceptions look alike. The owed one comes first.
			early = early || frame[1]&excFlag != 0 && m.owesFunction(req[0]) && !gatewayAway(frame[1:])
			if k == answer && !early {
				if at2, n2, k := nextRTU(l.buf[at+n:l.n], unit, req); k == answer && string(l.buf[at+n+at2:at+n+at2+n2]) != string(frame) {
					l.discard(frame)
					return nil, answeredTwice(unit)
				}
				return l.take(frame[1:n-2], at+n), nil
			}
			switch {
			case n == len(l.out) && string(frame) == string(l.out):
				// The adapter hears what it sends.
			case isRequest(frame):
				l.stray()
				if frame[0] == unit {
					return nil, fmt.Errorf("%w: another master asks unit %d", errGarbled, unit)
				}
				odd = fmt.Errorf("%w: another master asks unit %d", errGarbled, frame[0])
			case frame[0] == unit:
				odd = fmt.Errorf("%w: %d bytes of function %#02x", errGarbled, n, frame[1])
				l.discard(frame)
			default:
				odd = fmt.Errorf("%w: unit %d answered", errGarbled, frame[0])
				l.discard(frame)
			}
			l.drop(at + n)
		}
		if answerSize(req) == 0 && l.n > 0 {
			// The end of such an answer is where the line falls silent.
			if at, ok := endRTU(l.buf[:l.n], unit, req); ok && l.hushed() {
				return l.take(l.buf[at+1:l.n-2], l.n), nil
			}
		}
	}
}

// next is nextRTU on what was received, signs of life of the converter left out.
func (l *line) next(unit byte, req []byte) (at, n int, k kind) {
	l.skipRegister()
	at, n, k = nextRTU(l.buf[:l.n], unit, req)
	if k == answer || l.register == nil {
		return at, n, k
	}
	// A sign of life may have come in the middle of a frame. The checksum tells.
	i := bytes.Index(l.buf[:l.n], l.register)
	if i < 0 {
		return at, n, k
	}
	var whole [len(l.buf)]byte
	w := append(append(whole[:0], l.buf[:i]...), l.buf[i+len(l.register):l.n]...)
	if wat, wn, wk := nextRTU(w, unit, req); wk == answer {
		l.n = copy(l.buf[:], w)
		return wat, wn, wk
	}
	if k == damaged {
		return 0, 0, partial // The rest may follow; the deadline bounds the wait.
	}
	return at, n, k
}

// skipRegister drops signs of life at the beginning of the buffer.
func (l *line) skipRegister() {
	if n, _ := signOfLife(l.buf[:l.n], l.register); n > 0 {
		l.drop(n)
	}
}

// signOfLife returns how many bytes at the beginning of buf are signs of life of a converter, with their line ends, and
// whether what follows may become one. Only whole line ends are taken: 10 and 13 by themselves begin frames of units 10
// and 13, while 13 and 10 in a row begin none (there is no function 10).
func signOfLife(buf, register []byte) (n int, open bool) {
	if len(register) == 0 {
		return 0, false
	}
	for {
		b := buf[n:]
		for bytes.HasPrefix(b, []byte("\r\n")) {
			b = b[2:]
		}
		if !bytes.HasPrefix(b, register) {
			return n, len(b) > 0 && bytes.HasPrefix(register, b)
		}
		b = b[len(register):]
		for bytes.HasPrefix(b, []byte("\r\n")) {
			b = b[2:]
		}
		n = len(buf) - len(b)
	}
}

// discard counts a whole frame that is not the answer waited for.
func (l *line) discard(frame []byte) {
	u := frame[0]
	if isRequest(frame) {
		l.stray()
		return
	}
	if m := l.units[u]; m != nil {
		l.late++
		l.unasked(u, m, frame[1:len(frame)-2])
	} else {
		l.stray()
	}
	l.heard(u)
}

// stray counts what is of no unit that was asked.
func (l *line) stray() { l.late, l.foreign = l.late+1, l.foreign+1 }

// hushed reports whether nothing follows what was received.
func (l *line) hushed() bool {
	had := l.n
	if l.p.SetDeadline(time.Now().Add(max(l.quiet, streamQuiet))) != nil {
		return false
	}
	return errors.Is(l.receive(), os.ErrDeadlineExceeded) && l.n == had
}

// likeRequest reports whether an answer has the bytes of a request to read: 17 to 24 bits make an answer that long.
func likeRequest(ans []byte) bool {
	if len(ans) != 5 || ans[0] > 2 {
		return false
	}
	n := int(binary.BigEndian.Uint16(ans[3:]))
	return n >= 1 && n <= maxBits
}

// digest counts what was received without being asked for, and forgets it.
func (l *line) digest() {
	noise := false
	for l.skipRegister(); l.n > 0; l.skipRegister() {
		n := frameRTU(l.buf[:l.n])
		if n == 0 {
			noise = true
			l.drop(1)
			continue
		}
		l.foreigner = -1
		if isRequest(l.buf[:n]) {
			l.foreigner = int(l.buf[0])
		}
		l.discard(l.buf[:n])
		l.drop(n)
	}
	if noise && !l.counted {
		l.stray()
	}
}
