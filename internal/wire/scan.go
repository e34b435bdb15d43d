package wire

import (
	"bytes"
	"errors"
	"strconv"

	"linli/internal/telemetry"
)

// MaxLine is the longest data line accepted, in bytes.
const MaxLine = 64 << 10

// FieldType is how a field's value is written, which is what a database fixes a field to. Its value is a letter.
type FieldType byte

// The types of fields.
const (
	FloatField FieldType = 'f'
	IntField   FieldType = 'i'
	BoolField  FieldType = 'b'
	TextField  FieldType = 's'
)

// TypeOf returns how values of a kind are written: codes of enumerations are integers. 0 for no kind.
func TypeOf(kind telemetry.Kind) FieldType {
	switch kind {
	case telemetry.Float:
		return FloatField
	case telemetry.Int, telemetry.Enum:
		return IntField
	case telemetry.Bool:
		return BoolField
	case telemetry.KindText:
		return TextField
	}
	return 0
}

// String returns the type's name.
func (t FieldType) String() string {
	switch t {
	case FloatField:
		return "a float"
	case IntField:
		return "an integer"
	case BoolField:
		return "a bool"
	case TextField:
		return "a text"
	}
	return "no type"
}

// Field is one field of a data line. The name points into the line.
type Field struct {
	Name []byte
	Type FieldType
}

// Line is what a check of a data line finds. The slices point into the line.
type Line struct {
	Measurement   []byte
	Site, Gateway []byte // tag values, as escaped in the line; nil where missing
	Time          int64  // nanoseconds since 1970
	// OtherTag is the first tag that no gateway writes in such a line, nil for none.
	OtherTag []byte
}

// The reasons why a line is refused.
var (
	ErrLine     = errors.New("not line protocol")
	ErrReserved = errors.New("measurement is reserved")
	ErrForeign  = errors.New("site or gateway differ from the topic")
	ErrQuality  = errors.New("no such quality")
)

// NextLine splits the first line, without its line end, off b. A line break within a quoted field belongs to its
// line. At the end both are empty.
func NextLine(b []byte) (line, rest []byte) {
	end := bytes.IndexByte(b, '\n')
	if end < 0 {
		return b, nil
	}
	if len(b) > 0 && b[0] == '#' || bytes.IndexByte(b[:end], '"') < 0 {
		return b[:end], b[end+1:]
	}
	quoted := false
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			quoted = !quoted
		case '\n':
			if !quoted {
				return b[:i], b[i+1:]
			}
		}
	}
	return b, nil
}

// CheckLine scans one data line without parsing it into values. It accepts a subset of line protocol that all
// parsers read alike: names of letters, digits, "_", "-" and "."; tag values without quotes, and backslashes only
// before a space, comma or equals sign; no tag twice; every field typed; a time in nanoseconds. Measurements that the
// city side itself writes are refused.
func CheckLine(line []byte) (Line, error) {
	l, _, err := ScanLine(line, nil)
	return l, err
}

// lastQuality is the digit of the last quality.
const lastQuality = '0' + byte(telemetry.BadMaintenance)

// The tags of data lines, as bits.
const (
	tagSite = 1 << iota
	tagGateway
	tagDevice
	tagZone
	tagRule
	tagSubject
	tagOther
)

func tagBit(key []byte) int {
	switch string(key) {
	case "site":
		return tagSite
	case "gateway":
		return tagGateway
	case "device":
		return tagDevice
	case "zone":
		return tagZone
	case "rule":
		return tagRule
	case "subject":
		return tagSubject
	}
	return tagOther
}

// ScanLine is CheckLine, and appends the line's fields to fields.
func ScanLine(line []byte, fields []Field) (Line, []Field, error) {
	var l Line
	if len(line) > MaxLine {
		return l, fields, ErrLine
	}
	i := nameEnd(line, 0)
	l.Measurement = line[:i]
	if i == 0 {
		return l, fields, ErrLine
	}
	ours := tagSite | tagGateway | tagDevice | tagZone
	if string(l.Measurement) == telemetry.Derived {
		ours = tagSite | tagGateway | tagRule | tagSubject | tagZone
	}
	seen := 0
	for i < len(line) && line[i] == ',' {
		key := i + 1
		i = nameEnd(line, key)
		if i == key || i >= len(line) || line[i] != '=' {
			return l, fields, ErrLine
		}
		value := i + 1
		end, ok := tagEnd(line, value)
		if !ok {
			return l, fields, ErrLine
		}
		bit := tagBit(line[key:i])
		switch bit {
		case tagSite:
			l.Site = line[value:end]
		case tagGateway:
			l.Gateway = line[value:end]
		}
		if seen&bit&^tagOther != 0 {
			return l, fields, ErrLine
		}
		seen |= bit
		if bit&ours == 0 && l.OtherTag == nil {
			l.OtherTag = line[key:i]
		}
		i = end
	}
	for sep := byte(' '); ; sep = ',' {
		if i >= len(line) || line[i] != sep {
			if sep == ',' {
				break
			}
			return l, fields, ErrLine
		}
		key := i + 1
		i = nameEnd(line, key)
		if i == key || i >= len(line) || line[i] != '=' {
			return l, fields, ErrLine
		}
		name := line[key:i]
		end, kind := fieldEnd(line, i+1)
		if kind == 0 {
			return l, fields, ErrLine
		}
		if kind == IntField && len(name) > 2 && string(name[len(name)-2:]) == "_q" && (end-i != 3 || line[i+1] < '0' || line[i+1] > lastQuality) {
			return l, fields, ErrQuality
		}
		fields = append(fields, Field{Name: name, Type: kind})
		i = end
	}
	if i >= len(line) || line[i] != ' ' || len(line)-i > 21 {
		return l, fields, ErrLine
	}
	var ok bool
	if l.Time, ok = stamp(line[i+1:]); !ok {
		return l, fields, ErrLine
	}
	if reserved(l.Measurement) {
		return l, fields, ErrReserved
	}
	return l, fields, nil
}

// CheckOwn is CheckLine, and the line's site and gateway must be those of the node.
func CheckOwn(line []byte, site, gateway string) error {
	l, err := CheckLine(line)
	if err == nil && (string(l.Site) != site || string(l.Gateway) != gateway) {
		err = ErrForeign
	}
	return err
}

// Reserved reports whether a measurement is not a gateway's to write: those that the city side writes, all that begin
// with linli_, and those that begin with _, which databases keep for themselves. No class may have such a name.
func Reserved(measurement string) bool { return reserved([]byte(measurement)) }

func reserved(m []byte) bool {
	if len(m) == 0 {
		return false
	}
	switch string(m) {
	case MeasurementAlert, MeasurementEvent:
		return true
	}
	return m[0] == '_' || bytes.HasPrefix(m, []byte(reservedPrefix))
}

// stamp parses a time. The usual length needs no check for overflow.
func stamp(b []byte) (int64, bool) {
	if len(b) != 19 || b[0] > '8' {
		t, err := strconv.ParseInt(string(b), 10, 64)
		return t, err == nil && b[0] != '+'
	}
	t := int64(0)
	for _, c := range b {
		if c < '0' || c > '9' {
			t, err := strconv.ParseInt(string(b), 10, 64)
			return t, err == nil && b[0] != '+'
		}
		t = t*10 + int64(c-'0')
	}
	return t, true
}

func nameEnd(b []byte, i int) int {
	for i < len(b) && nameByte(b[i]) {
		i++
	}
	return i
}

func tagEnd(b []byte, i int) (int, bool) {
	start := i
	for ; i < len(b); i++ {
		switch c := b[i]; {
		case nameBytes[c]:
		case c == '\\':
			i++
			if i >= len(b) || b[i] != ' ' && b[i] != ',' && b[i] != '=' {
				return i, false
			}
		case c == ',' || c == ' ':
			return i, i > start
		case c < 0x20 || c == '=' || c == '"' || c == 0x7f:
			return i, false
		}
	}
	return i, false
}

// fieldEnd returns where a field's value ends and its type, 0 for none.
func fieldEnd(b []byte, i int) (int, FieldType) {
	start := i
	if i < len(b) && b[i] == '"' {
		for i++; i < len(b); i++ {
			switch b[i] {
			case '\\':
				// Only a quote or a backslash is escaped; a backslash before anything else is ambiguous.
				if i++; i >= len(b) || b[i] != '"' && b[i] != '\\' {
					return i, 0
				}
			case '"':
				return i + 1, TextField
			case 0:
				return i, 0
			}
		}
		return i, 0
	}
	for i < len(b) && b[i] != ',' && b[i] != ' ' {
		i++
	}
	v := b[start:i]
	switch {
	case len(v) == 0 || len(v) > 40:
		return i, 0
	case string(v) == "true" || string(v) == "false":
		return i, BoolField
	case v[len(v)-1] == 'i':
		if _, err := strconv.ParseInt(string(v[:len(v)-1]), 10, 64); err != nil {
			return i, 0
		}
		return i, IntField
	case !isFloat(v):
		return i, 0
	}
	return i, FloatField
}

// isFloat accepts [-]digits[.digits][e[+-]digits]: no hexadecimal, no infinity, no underscore.
func isFloat(v []byte) bool {
	i := 0
	digits := func() bool {
		start := i
		for i < len(v) && v[i] >= '0' && v[i] <= '9' {
			i++
		}
		return i > start
	}
	if v[0] == '-' {
		i++
	}
	if !digits() {
		return false
	}
	if i < len(v) && v[i] == '.' {
		i++
		if !digits() {
			return false
		}
	}
	if i < len(v) && (v[i] == 'e' || v[i] == 'E') {
		i++
		if i < len(v) && (v[i] == '+' || v[i] == '-') {
			i++
		}
		if !digits() || i != len(v) {
			return false
		}
		_, err := strconv.ParseFloat(string(v), 64) // 1e999 is an infinity
		return err == nil
	}
	return i == len(v)
}
