package scan

import (
	"fmt"
	"math"
	"slices"
	"strings"

	firmwareconfig "linli/firmware-config"
)

// Answer is what a unit says to a read of one register or bit.
type Answer struct {
	Word    uint16
	Refused bool // it answered with exception 1, 2 or 3: it has no such register
	OK      bool // Word or Refused holds; otherwise there was no answer that tells anything
}

// Verdict is whether a unit is of a model.
type Verdict uint8

// The verdicts. Untold: the profile has no signature, or the unit did not answer all of it.
const (
	Untold Verdict = iota
	No
	Yes
)

// Match holds a unit at address against the signature of a profile: every test must hold. read asks the unit; it is
// called in the order of the tests, and no more after the first that fails.
func Match(p *firmwareconfig.Profile, address int, read func(t firmwareconfig.Table, address int) Answer) Verdict {
	if len(p.Signature) == 0 {
		return Untold
	}
	told := true
	for i := range p.Signature {
		t := &p.Signature[i]
		a := read(t.Table, t.Address)
		switch {
		case !a.OK:
			told = false
		case !holds(t, address, a):
			return No
		}
	}
	if !told {
		return Untold
	}
	return Yes
}

// holds reports whether one test of a signature is met.
func holds(t *firmwareconfig.Test, address int, a Answer) bool {
	if a.Refused || t.Refused {
		return a.Refused && t.Refused
	}
	switch {
	case t.Equals != nil:
		return a.Word == *t.Equals
	case t.EqualsAddress:
		return int(a.Word) == address
	case len(t.OneOf) > 0:
		return slices.Contains(t.OneOf, a.Word)
	case t.Between != nil:
		v := float64(int16(a.Word))
		return v >= t.Between[0] && v <= t.Between[1]
	}
	return true // A test of nothing: the register is there.
}

// weight is how much a signature tells: a constant is worth more than a range.
func weight(p *firmwareconfig.Profile) int {
	n := 0
	for i := range p.Signature {
		switch t := &p.Signature[i]; {
		case t.Equals != nil && *t.Equals > 1:
			n += 6
		case t.EqualsAddress:
			n += 4
		case t.Equals != nil, len(t.OneOf) > 0:
			n += 3
		default:
			n++
		}
	}
	return n
}

// Identity is what a unit says of itself (read device identification).
type Identity struct {
	Vendor, Product, Revision, Model string
}

// String returns the parts that are there.
func (id *Identity) String() string {
	var parts []string
	for _, p := range []string{id.Vendor, id.Product, id.Model, id.Revision} {
		if p != "" && !slices.Contains(parts, p) {
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, " ")
}

// says reports whether an identity contains every part that a profile names.
func (id *Identity) says(want *firmwareconfig.DeviceID) bool {
	if id == nil || want == nil || *want == (firmwareconfig.DeviceID{}) {
		return false
	}
	has := func(s, part string) bool {
		return part == "" || strings.Contains(strings.ToLower(s), strings.ToLower(part))
	}
	return has(id.Vendor, want.Vendor) && has(id.Product, want.Product) && has(id.Model, want.Model)
}

// parseIdentity adds the objects of an answer to 0x2B/0x0E to id and returns the conformity level, and the object to
// go on from, 0 for none. ok is false where the answer is none.
func parseIdentity(pdu []byte, id *Identity) (level byte, next byte, ok bool) {
	if len(pdu) < 7 || pdu[0] != 0x2B || pdu[1] != 0x0E {
		return 0, 0, false
	}
	level, next = pdu[3]&0x7F, pdu[5]
	if pdu[4] == 0 {
		next = 0
	}
	rest := pdu[7:]
	for range pdu[6] {
		if len(rest) < 2 || len(rest) < 2+int(rest[1]) {
			return level, 0, true // Cut short; what came before counts.
		}
		text := clean(rest[2 : 2+int(rest[1])])
		switch rest[0] {
		case 0:
			id.Vendor = text
		case 1:
			id.Product = text
		case 2:
			id.Revision = text
		case 5:
			id.Model = text
		}
		rest = rest[2+int(rest[1]):]
	}
	return level, next, true
}

// clean makes text of what a device sent: printable, in one line, of bounded length.
func clean(b []byte) string {
	out := strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7F || r == '\uFFFD' {
			return -1
		}
		return r
	}, string(b[:min(len(b), 64)]))
	return strings.TrimSpace(out)
}

// span is registers that can be read in one request.
type span struct {
	table          firmwareconfig.Table
	address, count int
	channels       []int // indexes in the profile
}

// spansMost bounds what is read to see whether a profile without a signature fits.
const spansMost = 4

// spans returns the registers of a profile's channels, those that touch joined, at most spansMost of them.
func spans(p *firmwareconfig.Profile) []span {
	most := 125
	if p.Limits.MaxRegisters > 0 {
		most = min(most, p.Limits.MaxRegisters)
	}
	order := make([]int, len(p.Channels))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int {
		a, b := &p.Channels[i], &p.Channels[j]
		if a.Table != b.Table {
			return int(a.Table) - int(b.Table)
		}
		return a.Address - b.Address
	})
	var out []span
	for _, i := range order {
		ch := &p.Channels[i]
		if ch.NoReadBack {
			continue
		}
		end := ch.Address + ch.Registers()
		if n := len(out) - 1; n >= 0 && out[n].table == ch.Table && ch.Address <= out[n].address+out[n].count && end-out[n].address <= most {
			out[n].count = max(out[n].count, end-out[n].address)
			out[n].channels = append(out[n].channels, i)
			continue
		}
		if len(out) == spansMost {
			break
		}
		out = append(out, span{ch.Table, ch.Address, ch.Registers(), []int{i}})
	}
	return out
}

// plausible reports whether the words of a channel may be a value of its unit: a humidity of 3000 % is none. What it
// cannot judge it takes.
func plausible(ch *firmwareconfig.Channel, words []uint16) bool {
	if ch.Width > 0 || ch.ScaleFrom != nil || len(words) < ch.Registers() {
		return true
	}
	hi, lo := 0, 1
	if ch.LittleWords {
		hi, lo = 1, 0
	}
	var raw uint64
	var v float64
	switch ch.Encoding {
	case firmwareconfig.EncU16:
		raw = uint64(words[0])
		v = float64(words[0])
	case firmwareconfig.EncS16:
		raw = uint64(words[0])
		v = float64(int16(words[0]))
	case firmwareconfig.EncF32:
		bits := uint32(words[hi])<<16 | uint32(words[lo])
		raw = uint64(bits)
		v = float64(math.Float32frombits(bits))
	default:
		return true
	}
	if slices.Contains(ch.Invalid, raw) {
		return true
	}
	if math.IsNaN(v) || math.IsInf(v, 0) || math.Abs(v) > 1e12 {
		return false
	}
	if ch.Scale != 0 {
		v *= ch.Scale
	}
	v += ch.Offset
	switch ch.Unit {
	case "°C", "degC", "℃":
		return v >= -60 && v <= 300
	case "%", "%RH":
		return v >= -0.5 && v <= 101
	case "Hz":
		return v == 0 || v >= 40 && v <= 70
	case "V":
		return v >= -1 && v <= 1000
	case "dBA", "dB(A)":
		return v >= 0 && v <= 160
	}
	return true
}

// model returns maker and model for people.
func model(p *firmwareconfig.Profile) string {
	return strings.TrimSpace(fmt.Sprintf("%s %s", p.Vendor, p.Model))
}
