package modbus

import (
	"encoding/binary"
	"math"
	"strings"
	"unicode"
	"unicode/utf8"

	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// ratio is a factor kept so that decimal scales give the nearest float: 2257 at scale 0.1 is 2257/10 = 225.7, where
// 2257*0.1 would be 225.70000000000002.
type ratio struct {
	f       float64
	inverse bool // divide by f instead
}

// ratioOf returns the ratio of factor f; 0 counts as 1.
func ratioOf(f float64) ratio {
	if f == 0 {
		return ratio{f: 1}
	}
	if a := math.Abs(f); a < 1 {
		if r := math.Round(1 / f); math.Abs(1/f-r) < 1e-9*math.Abs(r) {
			return ratio{f: r, inverse: true}
		}
	}
	return ratio{f: f}
}

func (r ratio) mul(x float64) float64 {
	if r.inverse {
		return x / r.f
	}
	return x * r.f
}

func (r ratio) div(x float64) float64 {
	if r.inverse {
		return x * r.f
	}
	return x / r.f
}

// one reports whether the ratio changes nothing.
func (r ratio) one() bool { return r.f == 1 }

// codec turns one channel's words into a reading. What a counter has counted over its wraps, the scale that another
// register says and the last text are kept in it: a codec belongs to one unit, and to the bus's goroutine.
type codec struct {
	ch    *firmwareconfig.Channel
	scale ratio
	// exact: an integer that nothing scales; it keeps all of its 64 bits.
	exact bool
	// factor is what the register of ScaleFrom says, where scaled: it was read, and its content is known.
	factor ratio
	scaled bool
	// A counter's range begins at low and holds span numbers; span 0: it does not wrap. last is where in the range it
	// was read last, with begun; added is what its wraps so far come to.
	low, added int64
	span, last uint64
	begun      bool
	text       string // of the last reading of a string
}

func newCodec(ch *firmwareconfig.Channel) codec {
	c := codec{ch: ch, scale: ratioOf(ch.Scale)}
	floating := ch.Encoding == firmwareconfig.EncF32 || ch.Encoding == firmwareconfig.EncF64
	c.exact = c.scale.one() && ch.Offset == 0 && !floating && ch.ScaleFrom == nil
	if bits := c.size(); ch.Counter && bits <= 32 {
		switch ch.Encoding {
		case firmwareconfig.EncU16, firmwareconfig.EncU32:
			c.span = 1 << bits
		case firmwareconfig.EncS16, firmwareconfig.EncS32:
			c.span, c.low = 1<<bits, -1<<(bits-1)
		case firmwareconfig.EncBCD16, firmwareconfig.EncBCD32:
			c.span = uint64(math.Pow10(int(bits / 4)))
		}
	}
	return c
}

// size returns how many bits the raw value has.
func (c *codec) size() uint {
	switch ch := c.ch; {
	case ch.Encoding == firmwareconfig.EncBool:
		return 1
	case ch.Width > 0:
		return uint(ch.Width)
	default:
		return 16 * uint(ch.Encoding.Registers())
	}
}

// reading is a channel's value in the channel's unit. It is passed in registers: the compiler takes structs of at most
// four fields and four words apart, and copies larger ones through memory, which took most of the time of decoding.
type reading struct {
	f    float64
	i    int64   // with exact
	text *string // of a string, else nil; valid until the next reading of the same codec
	marks
}

// marks say what a reading is worth.
type marks struct {
	exact   bool
	quality telemetry.Quality // Good, OverRange, UnderRange or BadSensor
}

// noReading is what a sensor without a value gives.
func noReading() reading { return reading{marks: marks{quality: telemetry.BadSensor}} }

// setScale takes the content of the register that ScaleFrom names.
func (c *codec) setScale(code uint16) {
	s := c.ch.ScaleFrom
	c.scaled = false
	switch {
	case s == nil:
	case s.Decimals:
		if code <= 9 {
			c.factor, c.scaled = ratio{f: math.Pow10(int(code)), inverse: true}, true
		}
	default:
		for _, v := range s.Values {
			if v.Code == code {
				c.factor, c.scaled = ratioOf(v.Scale), true
			}
		}
	}
}

// loseScale forgets what setScale was told: the register could not be read.
func (c *codec) loseScale() { c.scaled = false }

// decode decodes the channel's registers, or its bit where the channel is one: the lowest of data's first byte. data
// holds at least the channel's registers. It allocates nothing but the text of a string that has changed.
func (c *codec) decode(data []byte) reading {
	switch {
	case c.ch.Table.Bits():
		return c.decodeRaw(uint64(data[0] & 1))
	case c.ch.Encoding == firmwareconfig.EncString:
		return c.decodeText(data[:2*c.ch.Count])
	}
	return c.decodeRaw(c.rawBits(data))
}

// rawBits joins the words of a value, most significant first. data holds at least the channel's registers.
func (c *codec) rawBits(data []byte) uint64 {
	n := c.ch.Encoding.Registers()
	var raw uint64
	for i := range n {
		w := i
		if c.ch.LittleWords {
			w = n - 1 - i
		}
		word := binary.BigEndian.Uint16(data[2*w:])
		if c.ch.LittleBytes {
			word = word<<8 | word>>8
		}
		raw = raw<<16 | uint64(word)
	}
	return raw
}

// part picks the channel's bits out of its joined words.
func (c *codec) part(raw uint64) uint64 {
	if c.ch.Table.Bits() {
		return raw & 1
	}
	if c.ch.Width == 0 && c.ch.Encoding != firmwareconfig.EncBool {
		return raw
	}
	if c.ch.NonZero {
		field := uint(16)
		if c.ch.Width > 0 {
			field = uint(c.ch.Width)
		}
		if raw>>uint(c.ch.Bit)&(1<<field-1) != 0 {
			return 1
		}
		return 0
	}
	return raw >> uint(c.ch.Bit) & (1<<c.size() - 1)
}

// among reports whether the joined words, or the field in them, are one of the channel's sentinels.
func (c *codec) among(sentinels []uint64, raw, part uint64) bool {
	for _, s := range sentinels {
		if raw == s || part == s && c.ch.Width > 0 {
			return true
		}
	}
	return false
}

// decodeRaw decodes joined words. A counter counts on.
func (c *codec) decodeRaw(raw uint64) reading {
	ch := c.ch
	part := c.part(raw)
	if len(ch.Invalid) > 0 && c.among(ch.Invalid, raw, part) || ch.ScaleFrom != nil && !c.scaled {
		return noReading()
	}
	switch {
	case len(ch.Under) > 0 && ch.Min != nil && c.among(ch.Under, raw, part):
		return reading{f: *ch.Min, marks: marks{quality: telemetry.UnderRange}}
	case len(ch.Over) > 0 && ch.Max != nil && c.among(ch.Over, raw, part):
		return reading{f: *ch.Max, marks: marks{quality: telemetry.OverRange}}
	}
	r := reading{marks: marks{quality: telemetry.Good, exact: c.exact}}
	switch ch.Encoding {
	case firmwareconfig.EncBool:
		if part != 0 != ch.Invert {
			r.i, r.f = 1, 1
		}
		r.exact = true
		return r
	case firmwareconfig.EncF32:
		r.f = float32Value(uint32(part))
	case firmwareconfig.EncF64:
		r.f = math.Float64frombits(part)
	case firmwareconfig.EncBCD16, firmwareconfig.EncBCD32:
		n, ok := fromBCD(part)
		if !ok {
			return noReading()
		}
		r.i, r.f = n, float64(n)
	default:
		r.i = c.integer(part)
		r.f = float64(r.i)
		if ch.Encoding == firmwareconfig.EncU64 && part > math.MaxInt64 {
			r.exact, r.f = false, float64(part) // An int point cannot hold it; a float point can, nearly.
		}
	}
	if c.span > 0 {
		r.i += c.count(uint64(r.i - c.low))
		r.f = float64(r.i)
	}
	if ch.ScaleFrom != nil {
		r.f = c.factor.mul(r.f)
	}
	r.f = c.scale.mul(r.f) + ch.Offset
	switch {
	case math.IsNaN(r.f) || math.IsInf(r.f, 0):
		return noReading()
	case ch.Max != nil && r.f > *ch.Max:
		return reading{f: *ch.Max, marks: marks{quality: telemetry.OverRange}}
	case ch.Min != nil && r.f < *ch.Min:
		return reading{f: *ch.Min, marks: marks{quality: telemetry.UnderRange}}
	}
	return r
}

// integer returns the number that the bits of an integer encoding (not BCD) stand for.
func (c *codec) integer(part uint64) int64 {
	switch c.ch.Encoding {
	case firmwareconfig.EncS16, firmwareconfig.EncS32, firmwareconfig.EncS64:
		up := 64 - c.size()
		return int64(part<<up) >> up
	case firmwareconfig.EncS16Offset10000:
		if part >= 10000 {
			return 10000 - int64(part)
		}
	}
	return int64(part)
}

// count takes a counter's place in its range and returns what is to be added for its wraps. A fall from the top
// eighth of the range into the bottom eighth is a wrap; any other one is a reset of the device, from which the
// registers are right again.
func (c *codec) count(at uint64) int64 {
	if c.begun && at < c.last {
		if eighth := c.span / 8; c.last >= c.span-eighth && at < eighth {
			c.added += int64(c.span)
		} else {
			c.added = 0
		}
	}
	c.last, c.begun = at, true
	return c.added
}

// decodeText decodes a string: up to the first NUL, without spaces around it. What is no text is no reading.
func (c *codec) decodeText(data []byte) reading {
	var buf [2 * maxRegisters]byte
	text := buf[:0]
	for i := 0; i+1 < len(data); i += 2 {
		first, second := data[i], data[i+1]
		if c.ch.LittleBytes {
			first, second = second, first
		}
		if !c.ch.OneChar {
			text = append(text, first)
		}
		text = append(text, second)
	}
	for i, b := range text {
		if b == 0 {
			text = text[:i]
			break
		}
	}
	for len(text) > 0 && text[0] == ' ' {
		text = text[1:]
	}
	for len(text) > 0 && text[len(text)-1] == ' ' {
		text = text[:len(text)-1]
	}
	if c.text != string(text) { // Compared without an allocation.
		c.text = string(text)
	}
	if !utf8.ValidString(c.text) || strings.ContainsFunc(c.text, unicode.IsControl) {
		return noReading()
	}
	return reading{text: &c.text, marks: marks{quality: telemetry.Good}}
}

// fromBCD returns the number whose decimal digits are raw's nibbles.
func fromBCD(raw uint64) (int64, bool) {
	var n int64
	for shift := 60; shift >= 0; shift -= 4 {
		digit := raw >> uint(shift) & 15
		if digit > 9 {
			return 0, false
		}
		n = 10*n + int64(digit)
	}
	return n, true
}

// toBCD is the inverse of fromBCD, for numbers that are not negative and have at most 16 digits.
func toBCD(n int64) uint64 {
	var raw uint64
	for shift := 0; n > 0; shift += 4 {
		raw |= uint64(n%10) << uint(shift)
		n /= 10
	}
	return raw
}

// float32Value returns the float64 nearest to what a device that computes in 32 bits meant. The bits are kept
// exactly: 225.7 as f32 is 225.6999969482422, and that is what was served.
func float32Value(bits uint32) float64 { return float64(math.Float32frombits(bits)) }

// command returns the register to write where the channel has magic numbers of its own (WriteValues): the one that
// makes it read back as part, the channel's bits. ok is false where it has none for that, or where the bits are
// written as they are (then len(WriteValues) is 0).
func (c *codec) command(part uint64) (register uint16, ok bool) {
	v := c.integer(part)
	switch {
	case c.ch.Encoding == firmwareconfig.EncBool && c.ch.Invert:
		v = 1 - v
	case c.ch.Encoding == firmwareconfig.EncBCD16:
		v, _ = fromBCD(part)
	}
	for _, w := range c.ch.WriteValues {
		if w.Value == v {
			return w.Raw, true
		}
	}
	return 0, false
}

// words lays raw out in the channel's registers.
func (c *codec) words(raw uint64) []byte {
	n := c.ch.Encoding.Registers()
	out := make([]byte, 2*n)
	for i := range n {
		w := n - 1 - i
		if c.ch.LittleWords {
			w = i
		}
		word := uint16(raw >> (16 * uint(i)))
		if c.ch.LittleBytes {
			word = word<<8 | word>>8
		}
		binary.BigEndian.PutUint16(out[2*w:], word)
	}
	return out
}
