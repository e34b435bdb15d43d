package simulate

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"

	firmwareconfig "linli/firmware-config"
)

// encode turns an engineering value into the channel's words, scale being what another register makes of it (1 where
// none does). A bit field is returned alone, not shifted. It is deliberately not the driver's code: two
// implementations that must agree.
func encode(ch *firmwareconfig.Channel, v, scale float64) ([]uint16, error) {
	if ch.Encoding == firmwareconfig.EncBool {
		if (v != 0) != ch.Invert {
			return []uint16{1}, nil
		}
		return []uint16{0}, nil
	}
	if ch.Encoding == firmwareconfig.EncString {
		return nil, fmt.Errorf("%s is text, not a number", ch.Name)
	}
	raw := v - ch.Offset
	if ch.Scale != 0 {
		raw /= ch.Scale
	}
	raw /= scale
	n := ch.Encoding.Registers()
	size := 16 * n
	if ch.Width > 0 {
		size = ch.Width
	}
	big := make([]byte, 8) // the raw value, most significant byte first, at the end
	fits := func(lo, hi float64) error {
		if r := math.Round(raw); r < lo || r > hi || size == 64 && r == hi && hi > 1<<60 {
			return fmt.Errorf("%g does not fit: raw value %g outside %g..%g", v, r, lo, hi)
		}
		return nil
	}
	switch ch.Encoding {
	case firmwareconfig.EncF32:
		binary.BigEndian.PutUint32(big[4:], math.Float32bits(float32(raw)))
	case firmwareconfig.EncF64:
		binary.BigEndian.PutUint64(big, math.Float64bits(raw))
	case firmwareconfig.EncS16Offset10000:
		if err := fits(-9999, 9999); err != nil {
			return nil, err
		}
		whole := int(math.Round(raw))
		if whole < 0 {
			whole = 10000 + -whole
		}
		binary.BigEndian.PutUint64(big, uint64(whole))
	case firmwareconfig.EncBCD16, firmwareconfig.EncBCD32:
		if err := fits(0, math.Pow10(size/4)-1); err != nil {
			return nil, err
		}
		digits := fmt.Sprintf("%016.0f", math.Round(raw))
		for i := range big {
			big[i] = digits[2*i]&15<<4 | digits[2*i+1]&15
		}
	case firmwareconfig.EncS16, firmwareconfig.EncS32, firmwareconfig.EncS64:
		half := math.Ldexp(1, size-1)
		top := half - 1
		if size == 64 {
			top = half
		}
		if err := fits(-half, top); err != nil {
			return nil, err
		}
		binary.BigEndian.PutUint64(big, uint64(int64(math.Round(raw))))
	default:
		top := math.Ldexp(1, size) - 1
		if err := fits(0, top); err != nil {
			return nil, err
		}
		binary.BigEndian.PutUint64(big, uint64(math.Round(raw)))
	}
	words := arrange(big[8-2*n:], ch)
	if ch.Width > 0 {
		words[0] = arrange(big[6:], &firmwareconfig.Channel{})[0] & (1<<ch.Width - 1)
	}
	return words, nil
}

// arrange puts the bytes of a value, most significant first, into registers in the channel's order.
func arrange(value []byte, ch *firmwareconfig.Channel) []uint16 {
	n := len(value) / 2
	words := make([]uint16, n)
	for i, b := range value {
		word, shift := i/2, 8*(1-i%2)
		if ch.LittleWords {
			word = n - 1 - word
		}
		if ch.LittleBytes {
			shift = 8 - shift
		}
		words[word] |= uint16(b) << shift
	}
	return words
}

// encodeText turns text into the channel's words, filled up with NUL.
func encodeText(ch *firmwareconfig.Channel, text string) ([]uint16, error) {
	room := 2 * ch.Count
	if ch.OneChar {
		room = ch.Count
	}
	if ch.Encoding != firmwareconfig.EncString || len(text) > room {
		return nil, fmt.Errorf("%q does not fit into channel %s", text, ch.Name)
	}
	words := make([]uint16, ch.Count)
	for i, b := range []byte(text) {
		at, high := i/2, i%2 == 0
		if ch.OneChar {
			at, high = i, false
		}
		if high != ch.LittleBytes {
			words[at] |= uint16(b) << 8
		} else {
			words[at] |= uint16(b)
		}
	}
	return words, nil
}

// split cuts the low 16*n bits of raw (in the order of the words and bytes that a person would write) into the
// channel's registers.
func split(raw uint64, ch *firmwareconfig.Channel) []uint16 {
	return arrange(binary.BigEndian.AppendUint64(nil, raw)[8-2*ch.Encoding.Registers():], ch)
}

// factor returns what the content of a scale register makes of a value, and false where it means nothing.
func factor(s *firmwareconfig.ScaleFrom, code uint16) (float64, bool) {
	if s.Decimals {
		f, err := strconv.ParseFloat("1e-"+strconv.Itoa(int(code)), 64)
		return f, err == nil && code < 10
	}
	for _, v := range s.Values {
		if v.Code == code {
			return v.Scale, true
		}
	}
	return 0, false
}

// paramWords returns a setting's words for a value as a site file writes it.
func paramWords(m *firmwareconfig.Param, text string) ([]uint16, error) {
	for _, v := range m.Values {
		if v.Name == text {
			text = strconv.FormatUint(v.Code, 10)
			break
		}
	}
	switch strings.ToLower(text) {
	case "true", "on":
		text = "1"
	case "false", "off":
		text = "0"
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return nil, fmt.Errorf("setting %s cannot be %q", m.Name, text)
	}
	return encode(&m.Channel, v, 1)
}

// paramNumber returns the number in a setting's words: its code where it has values, otherwise in its unit.
func paramNumber(m *firmwareconfig.Param, words []uint16) float64 {
	n := len(words)
	var bits uint64
	for i := range 2 * n {
		word, shift := i/2, 8*(1-i%2)
		if m.LittleWords {
			word = n - 1 - word
		}
		if m.LittleBytes {
			shift = 8 - shift
		}
		bits = bits<<8 | uint64(words[word]>>shift&0xFF)
	}
	if w := fieldWidth(&m.Channel); w > 0 && !m.Table.Bits() {
		bits = bits >> m.Bit % (1 << w)
	}
	var raw float64
	switch m.Encoding {
	case firmwareconfig.EncF32:
		raw = float64(math.Float32frombits(uint32(bits)))
	case firmwareconfig.EncF64:
		raw = math.Float64frombits(bits)
	case firmwareconfig.EncS16:
		raw = float64(int16(bits))
	case firmwareconfig.EncS32:
		raw = float64(int32(bits))
	default:
		raw = float64(bits)
	}
	if m.Scale != 0 {
		raw *= m.Scale
	}
	return raw + m.Offset
}

// paramText returns what a setting's words say, for the settings that say how the unit is reached.
func paramText(m *firmwareconfig.Param, words []uint16) string {
	v := paramNumber(m, words)
	for _, e := range m.Values {
		if float64(e.Code) == v {
			return e.Name
		}
	}
	return strconv.FormatFloat(v, 'f', -1, 64)
}

// fieldWidth is how many bits of a register a channel takes, 0 for all of it.
func fieldWidth(ch *firmwareconfig.Channel) int {
	switch {
	case ch.Encoding != firmwareconfig.EncBool || ch.Width > 0:
	case ch.NonZero:
		return 16
	default:
		return 1
	}
	return ch.Width
}
