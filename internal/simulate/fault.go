package simulate

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"time"
)

// Fault is how a unit misbehaves. The zero Fault is a healthy unit.
type Fault struct {
	Silent    bool          // does not answer at all
	Garbage   bool          // answers with bytes that are no frame
	Exception byte          // answers every request with this exception code, where not 0
	Delay     time.Duration // answers this much later
	// Late: an answer is sent only with this many requests later, before the answer to that one.
	Late int
	// Frame is what is wrong with the frames of its answers.
	Frame FrameFault
	// Every: of what is wrong only every so many requests suffer; 0 and 1 mean all.
	Every int
}

// FrameFault is a way to spoil an answer's frame. Checksums and lengths fit the spoilt content, where the fault is not
// just that they do not.
type FrameFault uint8

// The ways to spoil a frame.
const (
	WrongUnit     FrameFault = iota + 1 // another unit's number
	WrongFunction                       // another function
	WrongCount                          // the byte count is 2 less than the data
	ShortData                           // less data than was asked for, with the byte count to match
	LongData                            // more data than was asked for, with the byte count to match
	Truncated                           // the last bytes are missing
	Oversized                           // 300 bytes too many
	BadCheck                            // RTU: the checksum is wrong; TCP: the protocol number is
	Endless                             // bytes without end, for 1 s at least
	Trickle                             // a byte every 20 ms
	NoiseBefore                         // bytes that are no frame come first
	NoiseAfter                          // bytes that are no frame come at the end
	HangUp                              // the connection is closed instead (on a pty: nothing comes)
	lastFrameFault
)

// FrameFaults returns all of them.
func FrameFaults() []FrameFault {
	var all []FrameFault
	for f := FrameFault(1); f < lastFrameFault; f++ {
		all = append(all, f)
	}
	return all
}

// String returns the fault's name.
func (f FrameFault) String() string {
	names := [...]string{"none", "wrong unit", "wrong function", "wrong count", "short data", "long data", "truncated", "oversized",
		"bad check", "endless", "trickle", "noise before", "noise after", "hang-up"}
	if int(f) < len(names) {
		return names[f]
	}
	return "unknown"
}

// mishaps is what is kept about the faults of one unit.
type mishaps struct {
	mu       sync.Mutex
	requests int
	held     []heldFrame
}

type heldFrame struct {
	frame []byte
	after int // requests
}

// now counts a request and returns the fault that it suffers, and the late answers that are due with it.
func (m *mishaps) now(f Fault) (Fault, []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.requests++
	var due []byte
	for len(m.held) > 0 && m.held[0].after <= m.requests {
		due = append(due, m.held[0].frame...)
		m.held = m.held[1:]
	}
	if f.Every > 1 && m.requests%f.Every != 0 {
		return Fault{}, due
	}
	return f, due
}

// hold keeps an answer for later.
func (m *mishaps) hold(frame []byte, late int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.held) < 16 { // Whoever does not ask on gets no more of them.
		m.held = append(m.held, heldFrame{frame, m.requests + late})
	}
}

var errHungUp = errors.New("the unit hangs up")

// reply gives the unit's answer to a request, spoilt as its fault says. frame builds the frame of a unit and PDU.
func (s *unit) reply(ctx context.Context, w io.Writer, m *mishaps, address byte, pdu []byte, frame func(unit byte, pdu []byte) []byte, rtu bool) error {
	f, due := m.now(s.currentFault())
	if len(due) > 0 {
		if _, err := w.Write(due); err != nil {
			return err
		}
	}
	if f.Silent || !wait(ctx, f.Delay) {
		return nil
	}
	if f.Garbage {
		_, err := w.Write([]byte{0xDE, 0xAD, 0xBE, 0xEF, 0x00, 0x01, 0xFF, 0x42})
		return err
	}
	ans := s.answer(pdu)
	if f.Exception != 0 {
		ans = []byte{pdu[0] | 0x80, f.Exception}
	}
	if f.Late > 0 {
		m.hold(frame(address, ans), f.Late)
		return nil
	}
	return f.Frame.send(ctx, w, address, ans, frame, rtu)
}

// send sends an answer, spoilt.
func (f FrameFault) send(ctx context.Context, w io.Writer, address byte, ans []byte, frame func(unit byte, pdu []byte) []byte, rtu bool) error {
	data := ans[0] <= 4 && len(ans) > 3
	switch {
	case f == WrongUnit:
		address++
	case f == WrongFunction:
		ans = append([]byte{ans[0] ^ 7}, ans[1:]...)
	case f == WrongCount && data:
		ans = append([]byte{ans[0], ans[1] - 2}, ans[2:]...)
	case f == ShortData && data:
		ans = append([]byte{ans[0], ans[1] - 1}, ans[2:len(ans)-1]...)
	case f == LongData && data && len(ans) < 250:
		ans = append(append([]byte{ans[0], ans[1] + 2}, ans[2:]...), 0xAB, 0xCD)
	}
	out := frame(address, ans)
	noise := []byte{0x00, 0xFF, 0x37, 0x01}
	switch f {
	case HangUp:
		return errHungUp
	case Truncated:
		out = out[:len(out)-2]
	case Oversized:
		out = append(out, make([]byte, 300)...)
	case BadCheck:
		if rtu {
			out[len(out)-1] ^= 0x55
		} else {
			out[3] = 7
		}
	case NoiseBefore:
		out = append(noise, out...)
	case NoiseAfter:
		out = append(out, noise...)
	case Trickle:
		for i := range out {
			if _, err := w.Write(out[i : i+1]); err != nil || !wait(ctx, 20*time.Millisecond) {
				return err
			}
		}
		return nil
	case Endless:
		for range 100 {
			if _, err := w.Write([]byte{0x11, 0x22, 0x33, address, 0x03, 0x44, 0x55, 0x66}); err != nil || !wait(ctx, 10*time.Millisecond) {
				return err
			}
		}
		return nil
	}
	_, err := w.Write(out)
	return err
}

// rtuFrame builds a frame of Modbus RTU.
func rtuFrame(unit byte, pdu []byte) []byte {
	out := append([]byte{unit}, pdu...)
	return binary.LittleEndian.AppendUint16(out, crc(out))
}
