package modbus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Sizes of the protocol, from the Modbus application protocol 1.1b3 section 4.1.
const (
	maxPDU       = 253
	maxRegisters = 125
	maxBits      = 2000
	mbapSize     = 7
	excFlag      = 0x80
)

// answerSize returns the length of the regular answer PDU to request PDU req, 0 where the function is unknown to us.
func answerSize(req []byte) int {
	if len(req) < 5 {
		return 0
	}
	n := int(binary.BigEndian.Uint16(req[3:]))
	switch req[0] {
	case 1, 2:
		return 2 + (n+7)/8
	case 3, 4:
		return 2 + 2*n
	case 5, 6, 15, 16:
		return 5
	}
	return 0
}

// checkAnswer is the one place where an answer PDU is held against its request: function, size, and what it must
// repeat. An exception counts as an answer only where its function is exactly the request's with the top bit set.
func checkAnswer(req, ans []byte) error {
	if len(req) == 0 || len(ans) == 0 {
		return errors.New("empty PDU")
	}
	want := answerSize(req)
	if want == 0 {
		return fmt.Errorf("function %#02x is not spoken", req[0])
	}
	if ans[0] == req[0]|excFlag {
		if len(ans) != 2 {
			return fmt.Errorf("exception of %d bytes", len(ans))
		}
		return nil
	}
	if ans[0] != req[0] {
		return fmt.Errorf("function %#02x answered %#02x", req[0], ans[0])
	}
	if len(ans) != want {
		return fmt.Errorf("answer of %d bytes, want %d", len(ans), want)
	}
	switch req[0] {
	case 1, 2, 3, 4:
		if int(ans[1]) != want-2 {
			return fmt.Errorf("answer says %d data bytes, want %d", ans[1], want-2)
		}
	default:
		if string(ans[1:5]) != string(req[1:5]) {
			return fmt.Errorf("answer repeats % x, want % x", ans[1:5], req[1:5])
		}
	}
	return nil
}

// checkAsked is checkAnswer for the requests of tools, which may be of functions that we do not speak.
func checkAsked(req, ans []byte) error {
	switch {
	case answerSize(req) > 0:
		return checkAnswer(req, ans)
	case len(req) == 0 || len(ans) == 0:
		return errors.New("empty PDU")
	case ans[0] == req[0]|excFlag && len(ans) == 2:
		return nil
	case ans[0] != req[0]:
		return fmt.Errorf("function %#02x answered %#02x", req[0], ans[0])
	case (req[0] == 22 || req[0] == 8 && len(req) > 2 && req[1] == 0 && req[2] == 0) && string(ans) != string(req):
		return fmt.Errorf("answer repeats % x, want % x", ans, req)
	}
	return nil
}

// crc16 is CRC-16/MODBUS: polynomial 0xA001 reflected, start 0xFFFF, sent low byte first.
func crc16(p []byte) uint16 {
	// Half-byte table: 32 bytes that stay in cache, and no table to build.
	table := [16]uint16{
		0x0000, 0xCC01, 0xD801, 0x1400, 0xF001, 0x3C00, 0x2800, 0xE401,
		0xA001, 0x6C00, 0x7800, 0xB401, 0x5000, 0x9C01, 0x8801, 0x4400,
	}
	crc := uint16(0xFFFF)
	for _, b := range p {
		crc = crc>>4 ^ table[(crc^uint16(b))&15]
		crc = crc>>4 ^ table[(crc^uint16(b>>4))&15]
	}
	return crc
}

// appendRTU appends the frame `unit | pdu | crc low, crc high`.
func appendRTU(dst []byte, unit byte, pdu []byte) []byte {
	start := len(dst)
	dst = append(append(dst, unit), pdu...)
	return binary.LittleEndian.AppendUint16(dst, crc16(dst[start:]))
}

// crcOK reports whether the frame's last two bytes are the CRC of those before.
func crcOK(frame []byte) bool {
	n := len(frame) - 2
	return n > 0 && crc16(frame[:n]) == binary.LittleEndian.Uint16(frame[n:])
}

// kind is what the bytes received so far amount to.
type kind uint8

const (
	partial kind = iota // nothing whole yet
	answer              // the answer to the request
	other               // a whole undamaged frame that is not it
	damaged             // what came was meant as the answer and is damaged
)

// nextRTU looks for the first whole frame in buf, so that noise before it does no harm: the answer of unit to req, or
// a frame that is somebody else's. at and n are its place. The bytes of one frame are never searched for another, so
// that what a long frame carries is not taken for one.
func nextRTU(buf []byte, unit byte, req []byte) (at, n int, k kind) {
	spoilt, open := false, false
	size := answerSize(req)
	for i := range buf {
		rest := buf[i:]
		if rest[0] == unit && len(rest) == 1 {
			open = true
			break
		}
		want := 0
		switch {
		case rest[0] != unit:
		case rest[1] == req[0]|excFlag:
			want = 5
		case rest[1] != req[0]:
		case size == 0:
			open = true // Its end is found by silence.
		case req[0] > 4 || len(rest) < 3 || int(rest[2]) == size-2:
			want = 1 + size + 2
		}
		switch {
		case want == 0:
		case want > len(rest):
			open = true
		case !crcOK(rest[:want]):
			spoilt = true
		case checkAsked(req, rest[1:want-2]) == nil:
			return i, want, answer
		}
		if m := frameRTU(rest); m > 0 {
			if size == 0 && rest[0] == unit && checkAsked(req, rest[1:m-2]) == nil {
				return i, m, answer
			}
			return i, m, other
		}
	}
	if spoilt && !open {
		return 0, 0, damaged
	}
	return 0, 0, partial
}

// endRTU looks for the answer to a request whose answers have no known length, once the line is silent: it ends where
// the bytes end.
func endRTU(buf []byte, unit byte, req []byte) (at int, ok bool) {
	for i := 0; i+5 <= len(buf); i++ {
		if rest := buf[i:]; rest[0] == unit && crcOK(rest) && checkAsked(req, rest[1:len(rest)-2]) == nil {
			return i, true
		}
	}
	return 0, false
}

// frameRTU returns the length of the whole undamaged frame of any unit with which buf begins, 0 if it does not: an
// answer, or a request of another master.
func frameRTU(buf []byte) int {
	if len(buf) < 5 {
		return 0
	}
	var sizes [2]int
	switch fc := buf[1]; {
	case fc&excFlag != 0:
		sizes[0] = 5
	case fc >= 1 && fc <= 4:
		sizes = [2]int{5 + int(buf[2]), 8}
	case fc == 7:
		sizes[0] = 5
	case fc == 5 || fc == 6 || fc == 8:
		sizes[0] = 8
	case fc == 15 || fc == 16:
		sizes[0] = 8
		if len(buf) > 6 {
			sizes[1] = 9 + int(buf[6])
		}
	case fc == 17:
		sizes[0] = 5 + int(buf[2])
	case fc == 22:
		sizes[0] = 10
	}
	for _, n := range sizes {
		if n >= 5 && n <= len(buf) && crcOK(buf[:n]) {
			return n
		}
	}
	return 0
}

// isRequest reports whether a whole frame can only be, or is most likely, the request of a master.
func isRequest(frame []byte) bool {
	switch fc := frame[1]; {
	case fc >= 1 && fc <= 4:
		return len(frame) == 8 && (int(frame[2]) != 3 || readsRequest(frame))
	case fc == 15 || fc == 16:
		return len(frame) > 8
	}
	return false
}

// readsRequest reports whether a frame of 8 bytes may be a request to read, whatever else it may be: 17 to 24 bits
// make an answer of that length.
func readsRequest(frame []byte) bool {
	if len(frame) != 8 {
		return false
	}
	n := int(binary.BigEndian.Uint16(frame[4:]))
	return frame[1] <= 2 && n >= 1 && n <= maxBits || (frame[1] == 3 || frame[1] == 4) && n >= 1 && n <= maxRegisters
}

// appendTCP appends the frame `transaction id | 0 0 | length | unit | pdu`.
func appendTCP(dst []byte, id uint16, unit byte, pdu []byte) []byte {
	dst = binary.BigEndian.AppendUint16(dst, id)
	dst = binary.BigEndian.AppendUint16(dst, 0)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(pdu)+1))
	return append(append(dst, unit), pdu...)
}

// errOdd marks a TCP stream that can no longer be trusted to be at a frame boundary.
var errOdd = errors.New("not a Modbus TCP frame")

// cutTCP takes the first frame of buf: n is 0 while it is incomplete.
func cutTCP(buf []byte) (id uint16, unit byte, pdu []byte, n int, err error) {
	if len(buf) < mbapSize {
		return 0, 0, nil, 0, nil
	}
	length := int(binary.BigEndian.Uint16(buf[4:]))
	if proto := binary.BigEndian.Uint16(buf[2:]); proto != 0 || length < 3 || length > maxPDU+1 {
		return 0, 0, nil, 0, fmt.Errorf("%w: protocol %d, length %d", errOdd, proto, length)
	}
	n = 6 + length
	if len(buf) < n {
		return 0, 0, nil, 0, nil
	}
	return binary.BigEndian.Uint16(buf), buf[6], buf[mbapSize:n], n, nil
}

// findTCP looks for the answer with transaction id want in buf. Older answers are skipped and counted; anything else
// that is not the answer is an error, after which the connection must be closed. used is the number of bytes done with.
//
// With anyID the ids are not looked at, for gateways that do not repeat them. Between the frames a converter may say
// register.
func findTCP(buf []byte, want uint16, unit byte, req []byte, anyID bool, register []byte) (pdu []byte, used, stale int, err error) {
	for {
		alive, open := signOfLife(buf[used:], register)
		if used += alive; open {
			return nil, used, stale, nil
		}
		id, u, p, n, err := cutTCP(buf[used:])
		if err != nil || n == 0 {
			return nil, used, stale, err
		}
		used += n
		// The difference is taken modulo 2^16, so that it survives the wrap of the counter.
		d := int16(id - want)
		if anyID {
			d = 0
		}
		switch {
		case d < 0:
			stale++
			continue
		case d > 0:
			return nil, used, stale, fmt.Errorf("%w: transaction %d, want %d", errOdd, id, want)
		case u != unit:
			return nil, used, stale, fmt.Errorf("%w: unit %d answered for unit %d", errOdd, u, unit)
		}
		return p, used, stale, checkAsked(req, p)
	}
}

// quietTime returns the silence that ends an RTU frame at baud: 3.5 characters of 11 bits, fixed at 1.75 ms above
// 19200 (Modbus over serial line 1.02, section 2.5.1.1).
func quietTime(baud int) time.Duration {
	if baud > 19200 {
		return 1750 * time.Microsecond
	}
	return time.Duration(3.5 * 11 / float64(baud) * float64(time.Second))
}

// charTime returns how long one character takes on the wire: start, 8 data bits, parity and stop bits.
func charTime(baud int, format string) time.Duration {
	bits := 10
	if len(format) == 3 {
		if format[1] != 'N' {
			bits++
		}
		if format[2] == '2' {
			bits++
		}
	}
	return time.Duration(bits) * time.Second / time.Duration(baud)
}
