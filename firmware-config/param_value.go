package firmwareconfig

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"

	"linli/internal/yamlfile"
)

// Param returns the setting named name, or nil.
func (p *Profile) Param(name string) *Param {
	for i := range p.Params {
		if p.Params[i].Name == name {
			return &p.Params[i]
		}
	}
	return nil
}

// ParamValue returns the raw bits that the setting named name has when it stands at what text says: a number in the
// setting's unit, true or false, or the name of one of its values. The bits are those of the field where the setting
// is a part of a register (not shifted), otherwise those of its registers, high word and high byte first. The error
// says in words what cannot be: no such setting, a value beyond the range, one between two steps.
func (p *Profile) ParamValue(name, text string) (raw uint64, err error) {
	m := p.Param(name)
	if m == nil {
		names := make([]string, len(p.Params))
		for i := range p.Params {
			names[i] = p.Params[i].Name
		}
		hint := yamlfile.Suggest(name, names)
		switch {
		case len(names) == 0:
			hint = ": none of its registers is known as one"
		case hint == "" && len(names) <= 16:
			hint = " (it has " + strings.Join(names, ", ") + ")"
		}
		return 0, fmt.Errorf("profile %s has no setting %q%s", p.ID, name, hint)
	}
	if m.WriteOnly {
		return 0, fmt.Errorf("setting %s of profile %s can only be written, not read: what the unit has cannot be compared, so it is not set from a file", name, p.ID)
	}
	raw, err = m.encode(text)
	if err != nil {
		return 0, fmt.Errorf("setting %s: %w", name, err)
	}
	return raw, nil
}

// ParamText returns what raw bits of the setting named name mean, as a site file would write it: the inverse of
// ParamValue. A code that the profile does not name is "code N".
func (p *Profile) ParamText(name string, raw uint64) string {
	m := p.Param(name)
	if m == nil {
		return strconv.FormatUint(raw, 10)
	}
	return m.text(raw)
}

// bits is how many bits the setting's raw value has.
func (m *Param) bits() int {
	switch {
	case m.Encoding == EncBool:
		return 1
	case m.Width > 0:
		return m.Width
	}
	return 16 * m.Encoding.Registers()
}

// encode turns text into raw bits.
func (m *Param) encode(text string) (uint64, error) {
	if len(m.Values) > 0 {
		for _, v := range m.Values {
			if v.Name == text || m.Role != ParamFormat && sameNumber(v.Name, text) {
				return m.number(new(big.Rat).SetUint64(v.Code), text)
			}
		}
		names := make([]string, len(m.Values))
		for i, v := range m.Values {
			names[i] = v.Name
		}
		hint := ""
		if _, number := parseNumber(text); !number || m.Role == ParamFormat { // Of numbers the next in spelling is seldom the one that was meant.
			hint = yamlfile.Suggest(text, names)
		}
		return 0, fmt.Errorf("%q is none of its values: %s%s", text, strings.Join(names, ", "), hint)
	}
	if m.Encoding == EncBool {
		switch text {
		case "true", "on", "1":
			return 1, nil
		case "false", "off", "0":
			return 0, nil
		}
		return 0, fmt.Errorf("true or false expected, got %q", text)
	}
	x, ok := parseNumber(text)
	if !ok {
		return 0, fmt.Errorf("a number expected%s, got %q", m.inUnit(), text)
	}
	f, _ := x.Float64()
	if m.Min != nil && f < *m.Min || m.Max != nil && f > *m.Max {
		return 0, fmt.Errorf("%s lies outside its range, %s", text, m.rangeText())
	}
	// Rational numbers: 0.1 is meant as a tenth, not as the nearest binary fraction.
	if m.Offset != 0 {
		x.Sub(x, decimal(m.Offset))
	}
	if m.Scale != 0 && m.Scale != 1 {
		x.Quo(x, decimal(m.Scale))
	}
	return m.number(x, text)
}

// number lays an unscaled number out in the setting's encoding.
func (m *Param) number(x *big.Rat, text string) (uint64, error) {
	switch m.Encoding {
	case EncF32:
		f, _ := x.Float32()
		return uint64(math.Float32bits(f)), nil
	case EncF64:
		f, _ := x.Float64()
		return math.Float64bits(f), nil
	}
	if !x.IsInt() {
		step := m.Scale
		if step == 0 {
			step = 1
		}
		return 0, fmt.Errorf("%s lies between two steps: it is set in steps of %v", text, math.Abs(step))
	}
	n, bits := x.Num(), m.bits()
	lo, hi := new(big.Int), new(big.Int).Lsh(big.NewInt(1), uint(bits))
	switch m.Encoding {
	case EncS16, EncS32, EncS64:
		hi.Rsh(hi, 1)
		lo.Neg(hi)
	case EncS16Offset10000:
		lo, hi = big.NewInt(10000-65535), big.NewInt(10000)
	case EncBCD16, EncBCD32:
		hi.Exp(big.NewInt(10), big.NewInt(int64(bits/4)), nil)
	}
	if n.Cmp(lo) < 0 || n.Cmp(hi) >= 0 {
		return 0, fmt.Errorf("%s does not fit into its register", text)
	}
	switch m.Encoding {
	case EncS16Offset10000:
		if n.Sign() < 0 {
			return uint64(10000 - n.Int64()), nil
		}
	case EncBCD16, EncBCD32:
		raw, err := strconv.ParseUint(n.String(), 16, 64)
		if err != nil {
			return 0, fmt.Errorf("%s does not fit into its register", text)
		}
		return raw, nil
	}
	if n.Sign() < 0 {
		return uint64(n.Int64()) & (1<<uint(bits) - 1), nil // bits may be 64: the shift gives 0, minus 1 is all ones.
	}
	return n.Uint64(), nil
}

// text is the inverse of encode.
func (m *Param) text(raw uint64) string {
	if m.Encoding == EncBool && len(m.Values) == 0 {
		return strconv.FormatBool(raw != 0)
	}
	x, ok := m.decode(raw)
	if !ok {
		return fmt.Sprintf("no number (0x%X)", raw)
	}
	if len(m.Values) > 0 {
		for _, v := range m.Values {
			if x.Cmp(new(big.Rat).SetUint64(v.Code)) == 0 {
				return v.Name
			}
		}
		return "code " + ratText(x)
	}
	if m.Scale != 0 && m.Scale != 1 {
		x.Mul(x, decimal(m.Scale))
	}
	if m.Offset != 0 {
		x.Add(x, decimal(m.Offset))
	}
	if m.Encoding == EncF32 || m.Encoding == EncF64 {
		size := 64
		f, _ := x.Float64()
		if m.Encoding == EncF32 {
			size = 32
		}
		return strconv.FormatFloat(f, 'f', -1, size)
	}
	return ratText(x)
}

// decode returns the unscaled number, and false where the bits are none.
func (m *Param) decode(raw uint64) (*big.Rat, bool) {
	bits := uint(m.bits())
	switch m.Encoding {
	case EncF32, EncF64:
		f := math.Float64frombits(raw)
		if m.Encoding == EncF32 {
			f = float64(math.Float32frombits(uint32(raw)))
		}
		x := new(big.Rat)
		return x, x.SetFloat64(f) != nil
	case EncS16, EncS32, EncS64:
		return new(big.Rat).SetInt64(int64(raw<<(64-bits)) >> (64 - bits)), true
	case EncS16Offset10000:
		if raw >= 10000 {
			return new(big.Rat).SetInt64(10000 - int64(raw)), true
		}
	case EncBCD16, EncBCD32:
		n, err := strconv.ParseUint(strconv.FormatUint(raw, 16), 10, 64)
		return new(big.Rat).SetUint64(n), err == nil
	}
	return new(big.Rat).SetUint64(raw), true
}

func (m *Param) inUnit() string {
	if m.Unit == "" {
		return ""
	}
	return " (" + m.Unit + ")"
}

func (m *Param) rangeText() string {
	switch {
	case m.Min == nil:
		return fmt.Sprintf("at most %v%s", *m.Max, unitSuffix(m.Unit))
	case m.Max == nil:
		return fmt.Sprintf("at least %v%s", *m.Min, unitSuffix(m.Unit))
	}
	return fmt.Sprintf("%v to %v%s", *m.Min, *m.Max, unitSuffix(m.Unit))
}

func unitSuffix(unit string) string {
	if unit == "" {
		return ""
	}
	return " " + unit
}

// parseNumber reads a number as files write it: 12, -0.5, 1e3, 0x7FFF. Its size is bounded, because an exponent of a
// million would fill the memory.
func parseNumber(text string) (*big.Rat, bool) {
	if n, err := strconv.ParseInt(text, 0, 64); err == nil {
		return new(big.Rat).SetInt64(n), true
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsInf(f, 0) || math.IsNaN(f) || len(text) > 40 || f != 0 && (math.Abs(f) > 1e30 || math.Abs(f) < 1e-30) {
		return nil, false
	}
	return new(big.Rat).SetString(text)
}

// decimal returns the decimal number that f was written as.
func decimal(f float64) *big.Rat {
	x, ok := new(big.Rat).SetString(strconv.FormatFloat(f, 'g', -1, 64))
	if !ok { // Not a number: profiles have none.
		return new(big.Rat)
	}
	return x
}

func ratText(x *big.Rat) string {
	if x.IsInt() {
		return x.Num().String()
	}
	f, _ := x.Float64()
	return strconv.FormatFloat(f, 'f', -1, 64)
}

func sameNumber(a, b string) bool {
	x, err := strconv.ParseInt(a, 10, 64)
	y, err2 := strconv.ParseInt(b, 0, 64)
	return err == nil && err2 == nil && x == y
}
