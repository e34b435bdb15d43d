package gpio

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"math/bits"
	"strconv"
	"time"

	"linli/internal/telemetry"
)

// The timing of a Wiegand reader. SIA AC-01-1996.10 gives it: a pulse of 20 to 100 µs for each bit, and 200 µs to 20 ms
// from one to the next.
const (
	// frameSilence ends a frame: more than twice the longest pause within one, so that a slow reader's frame is not
	// torn, and far less than a person needs between two cards.
	frameSilence = 50 * time.Millisecond
	// frameGrace is how long edges may be on their way to us after they happened, before a frame is taken as ended.
	frameGrace = 10 * time.Millisecond
	// glitch is what is too soon after another edge to be a bit: ringing of a long cable, a disturbance on both lines.
	glitch = 20 * time.Microsecond
	// frameMax is the most edges that are kept of one frame; it leaves room for glitches.
	frameMax = 128
)

// verdict is what a burst of bits was.
type verdict uint8

const (
	frameNone      verdict = iota // no bit
	frameGood                     // a card
	frameKey                      // a key of a keypad: four or eight bits
	frameBadLength                // a length that the reader should not send
	frameBadParity
)

// bit is one edge of a reader: on D0 (a zero) or D1 (a one).
type bit struct {
	at  telemetry.Mono
	one bool
}

// frame collects the bits of one burst. The two lines are told by different interrupts, so bits are sorted by time.
type frame struct {
	bits [frameMax]bit
	n    int
	over bool           // more bits than fit came
	last telemetry.Mono // time of the latest bit
}

// add takes one bit, in any order.
func (f *frame) add(b bit) {
	if f.n == 0 || b.at > f.last {
		f.last = b.at
	}
	if f.n == frameMax {
		f.over = true
		return
	}
	i := f.n
	for i > 0 && f.bits[i-1].at > b.at {
		f.bits[i] = f.bits[i-1]
		i--
	}
	f.bits[i] = b
	f.n++
}

// empty reports whether no bit has come since the last end.
func (f *frame) empty() bool { return f.n == 0 }

// reset forgets the bits.
func (f *frame) reset() { *f = frame{} }

// decode judges the burst. lengths are those that the reader may send. code is the frame's bits, the first one the most
// significant, of a good frame only.
func (f *frame) decode(lengths []int) (code uint64, n int, v verdict) {
	var last telemetry.Mono
	for _, b := range f.bits[:f.n] {
		if n > 0 && b.at.Sub(last) < glitch {
			continue
		}
		last = b.at
		n++
		if n <= 64 {
			code <<= 1
			if b.one {
				code |= 1
			}
		}
	}
	switch {
	case n == 0:
		return 0, 0, frameNone
	case f.over:
		return 0, n, frameBadLength
	}
	for _, l := range lengths {
		if l == n {
			if !parity(code, n) {
				return 0, n, frameBadParity
			}
			return code, n, frameGood
		}
	}
	if n == 4 || n == 8 {
		return 0, n, frameKey
	}
	return 0, n, frameBadLength
}

// parity checks a frame of 26, 34 or 37 bits: even over its first half, odd over its second; in 37 bits both halves
// have the middle bit (the formats in ESPHome's Wiegand component).
func parity(code uint64, n int) bool {
	half := (n + 1) / 2
	first := code >> (n - half)
	second := code & (1<<half - 1)
	return bits.OnesCount64(first)%2 == 0 && bits.OnesCount64(second)%2 == 1
}

// cardHash is what stands for a card: a keyed hash of the frame, so that who reads the record cannot find the card's
// number by trying all of them. The number itself is not kept and not logged.
func cardHash(key []byte, code uint64, n int) string {
	text := strconv.AppendInt(nil, int64(n), 10)
	text = append(text, ':')
	for i := n - 1; i >= 0; i-- {
		text = append(text, '0'+byte(code>>i&1))
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(text)
	return hex.EncodeToString(mac.Sum(nil)[:8])
}
