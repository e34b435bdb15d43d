package telemetry

import (
	"fmt"
	"math"
	"strconv"
	"unique"
)

// Kind is the type of a point's value. It is fixed by the point's class for ever: a time-series database refuses
// a field whose type changes.
type Kind uint8

// The kinds of a point. Enum is an integer whose codes have names (PointDef.Enum).
const (
	Float Kind = iota + 1
	Int
	Bool
	Enum
	KindText
)

var kindNames = [...]string{"", "float", "int", "bool", "enum", "text"}

// String returns the kind as it is written in class files.
func (k Kind) String() string {
	if int(k) < len(kindNames) && k != 0 {
		return kindNames[k]
	}
	return "kind(" + strconv.Itoa(int(k)) + ")"
}

// ParseKind returns the kind named s.
func ParseKind(s string) (Kind, error) {
	for i, name := range kindNames {
		if i > 0 && name == s {
			return Kind(i), nil
		}
	}
	return 0, fmt.Errorf("unknown kind %q (float, int, bool, enum or text)", s)
}

// Value is one value of any kind, without allocation except for text. The zero Value is "no value" (kind 0): what
// a sample of bad quality carries.
type Value struct {
	kind Kind
	bits uint64
	text unique.Handle[string] // of a text that is not empty: there are many values and few texts
}

// FloatValue returns a float value. NaN and infinities are no values: they become the zero Value.
func FloatValue(f float64) Value {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return Value{}
	}
	return Value{kind: Float, bits: math.Float64bits(f)}
}

// IntValue returns an int value.
func IntValue(i int64) Value { return Value{kind: Int, bits: uint64(i)} }

// EnumValue returns an enum value by its code.
func EnumValue(code int64) Value { return Value{kind: Enum, bits: uint64(code)} }

// BoolValue returns a bool value.
func BoolValue(b bool) Value {
	if b {
		return Value{kind: Bool, bits: 1}
	}
	return Value{kind: Bool}
}

// TextValue returns a text value.
func TextValue(s string) Value {
	v := Value{kind: KindText}
	if s != "" {
		v.text = unique.Make(s)
	}
	return v
}

// Kind returns the value's kind, 0 for no value.
func (v Value) Kind() Kind { return v.kind }

// IsZero reports whether there is no value.
func (v Value) IsZero() bool { return v.kind == 0 }

// Float returns the value as a number: bools are 0 or 1, enums their code; text and no value are NaN.
func (v Value) Float() float64 {
	switch v.kind {
	case Float:
		return math.Float64frombits(v.bits)
	case Int, Enum, Bool:
		return float64(int64(v.bits))
	}
	return math.NaN()
}

// Int returns an int, enum or bool value as an integer; a float is truncated; text and no value are 0.
func (v Value) Int() int64 {
	if v.kind == Float {
		return int64(math.Float64frombits(v.bits))
	}
	return int64(v.bits)
}

// Bool reports whether a bool value is true; numbers are true when not zero.
func (v Value) Bool() bool {
	if v.kind == Float {
		return math.Float64frombits(v.bits) != 0
	}
	return v.bits != 0
}

// Text returns a text value's string.
func (v Value) Text() string {
	if v.text == (unique.Handle[string]{}) {
		return ""
	}
	return v.text.Value()
}

// Bits returns the value's fixed-size payload: the IEEE 754 bits of a float, otherwise the integer. With
// ValueFromBits it lets files hold values exactly.
func (v Value) Bits() uint64 { return v.bits }

// ValueFromBits is the inverse of Bits for every kind except text.
func ValueFromBits(k Kind, bits uint64) Value { return Value{kind: k, bits: bits} }

// JSON returns the value as encoding/json takes it: a number (an enum's is its code), true or false, a string, or nil for no
// value.
func (v Value) JSON() any {
	switch v.kind {
	case Float:
		return v.Float()
	case Int, Enum:
		return v.Int()
	case Bool:
		return v.Bool()
	case KindText:
		return v.Text()
	}
	return nil
}

// String returns the value for logs and tables; no value is "-".
func (v Value) String() string {
	switch v.kind {
	case Float:
		return strconv.FormatFloat(v.Float(), 'g', -1, 64)
	case Int, Enum:
		return strconv.FormatInt(int64(v.bits), 10)
	case Bool:
		return strconv.FormatBool(v.bits != 0)
	case KindText:
		return strconv.Quote(v.Text())
	}
	return "-"
}
