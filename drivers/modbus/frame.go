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

// verdict is what the bytes received so far amount to.
type verdict uint8

const (
	more  verdict = iota // an answer may still come
	found                // an answer is complete
	bad                  // what came was meant as the answer and is damaged
)

// findRTU looks for the answer of unit to req anywhere in buf, so that noise and other units' frames before it do
// no harm. With found, pdu is the answer within buf and skipped the number of bytes before its frame.
func findRTU(buf []byte, unit byte, req []byte) (pdu []byte, skipped int, v verdict) {
	damaged, open := false, false
	size := answerSize(req)
	for i := 0; i < len(buf); i++ {
		if buf[i] != unit {
			continue
		}
		if i+1 == len(buf) {
			open = true
			break
		}
		var n int
		switch buf[i+1] {
		case req[0]:
			n = 1 + size + 2
			if size == 0 || req[0] <= 4 && i+2 < len(buf) && int(buf[i+2]) != size-2 {
				continue
			}
		case req[0] | excFlag:
			n = 5
		default:
			continue
		}
		if i+n > len(buf) {
			open = true
			continue
		}
		frame := buf[i : i+n]
		if !crcOK(frame) {
			damaged = true
			continue
		}
		if checkAnswer(req, frame[1:n-2]) == nil {
			return frame[1 : n-2], i, found
		}
	}
	if damaged && !open {
		return nil, 0, bad
	}
	return nil, 0, more
}

// foreignRTU reports whether buf begins with a whole undamaged frame of any unit, and its length: a late answer, or
// another master's traffic.
func foreignRTU(buf []byte) (unit byte, n int, ok bool) {
	if len(buf) < 5 {
		return 0, 0, false
	}
	sizes := [2]int{8, 0}
	switch fc := buf[1]; {
	case fc&excFlag != 0:
		sizes = [2]int{5, 0}
	case fc >= 1 && fc <= 4:
		sizes = [2]int{5 + int(buf[2]), 8} // an answer, or a request of another master
	}
	for _, n := range sizes {
		if n >= 5 && n <= len(buf) && crcOK(buf[:n]) {
			return buf[0], n, true
		}
	}
	return 0, 0, false
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
func findTCP(buf []byte, want uint16, unit byte, req []byte) (pdu []byte, used, stale int, err error) {
	for {
		id, u, p, n, err := cutTCP(buf[used:])
		if err != nil || n == 0 {
			return nil, used, stale, err
		}
		used += n
		// The difference is taken modulo 2^16, so that it survives the wrap of the counter.
		switch d := int16(id - want); {
		case d < 0:
			stale++
			continue
		case d > 0:
			return nil, used, stale, fmt.Errorf("%w: transaction %d, want %d", errOdd, id, want)
		case u != unit:
			return nil, used, stale, fmt.Errorf("%w: unit %d answered for unit %d", errOdd, u, unit)
		}
		return p, used, stale, checkAnswer(req, p)
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
