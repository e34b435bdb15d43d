package wire

import (
	"bytes"
	"errors"
	"strconv"
)

// MaxLine is the longest data line accepted, in bytes.
const MaxLine = 64 << 10

// Line is what a check of a data line finds. The slices point into the line.
type Line struct {
	Measurement   []byte
	Site, Gateway []byte // tag values, as escaped in the line; nil where missing
	Time          int64  // nanoseconds since 1970
}

// The reasons why a line is refused.
var (
	ErrLine     = errors.New("not line protocol")
	ErrReserved = errors.New("measurement is reserved")
	ErrForeign  = errors.New("site or gateway differ from the topic")
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
// before a space, comma or equals sign; every field typed; a time in nanoseconds. Measurements that the city side
// itself writes are refused.
func CheckLine(line []byte) (Line, error) {
	var l Line
	if len(line) > MaxLine {
		return l, ErrLine
	}
	i := nameEnd(line, 0)
	l.Measurement = line[:i]
	if i == 0 {
		return l, ErrLine
	}
	for i < len(line) && line[i] == ',' {
		key := i + 1
		i = nameEnd(line, key)
		if i == key || i >= len(line) || line[i] != '=' {
			return l, ErrLine
		}
		value := i + 1
		end, ok := tagEnd(line, value)
		if !ok {
			return l, ErrLine
		}
		switch string(line[key:i]) {
		case "site":
			if l.Site != nil {
				return l, ErrLine
			}
			l.Site = line[value:end]
		case "gateway":
			if l.Gateway != nil {
				return l, ErrLine
			}
			l.Gateway = line[value:end]
		}
		i = end
	}
	for sep := byte(' '); ; sep = ',' {
		if i >= len(line) || line[i] != sep {
			if sep == ',' {
				break
			}
			return l, ErrLine
		}
		key := i + 1
		i = nameEnd(line, key)
		if i == key || i >= len(line) || line[i] != '=' {
			return l, ErrLine
		}
		end, ok := fieldEnd(line, i+1)
		if !ok {
			return l, ErrLine
		}
		i = end
	}
	if i >= len(line) || line[i] != ' ' || len(line)-i > 21 {
		return l, ErrLine
	}
	t, err := strconv.ParseInt(string(line[i+1:]), 10, 64)
	if err != nil || line[i+1] == '+' {
		return l, ErrLine
	}
	l.Time = t
	if Reserved(string(l.Measurement)) {
		return l, ErrReserved
	}
	return l, nil
}

// CheckOwn is CheckLine, and the line's site and gateway must be those of the node.
func CheckOwn(line []byte, site, gateway string) error {
	l, err := CheckLine(line)
	if err == nil && (string(l.Site) != site || string(l.Gateway) != gateway) {
		err = ErrForeign
	}
	return err
}

// Reserved reports whether a measurement is written by the city side alone. No class may have such a name.
func Reserved(measurement string) bool {
	switch measurement {
	case MeasurementAlert, MeasurementEvent, MeasurementLoss, MeasurementLedger:
		return true
	}
	return false
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

func fieldEnd(b []byte, i int) (int, bool) {
	start := i
	if i < len(b) && b[i] == '"' {
		for i++; i < len(b); i++ {
			switch b[i] {
			case '\\':
				// Only a quote or a backslash is escaped; a backslash before anything else is ambiguous.
				if i++; i >= len(b) || b[i] != '"' && b[i] != '\\' {
					return i, false
				}
			case '"':
				return i + 1, true
			case 0:
				return i, false
			}
		}
		return i, false
	}
	for i < len(b) && b[i] != ',' && b[i] != ' ' {
		i++
	}
	v := b[start:i]
	switch {
	case len(v) == 0 || len(v) > 40:
		return i, false
	case string(v) == "true" || string(v) == "false":
		return i, true
	case v[len(v)-1] == 'i':
		_, err := strconv.ParseInt(string(v[:len(v)-1]), 10, 64)
		return i, err == nil
	}
	return i, isFloat(v)
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
		if !digits() {
			return false
		}
	}
	return i == len(v)
}
