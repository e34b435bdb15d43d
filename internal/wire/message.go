package wire

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// Header is the first line of a telemetry message.
type Header struct {
	Epoch    uint64 // which journal
	From, To uint64 // frames, both included; From = To+1: no data, only what Settled says
	Count    int    // data lines in this message
	Late     bool   // newer data was sent before this
	// Part and Parts are set where a frame is too large for one message: 1 of 3. Both 0 otherwise.
	Part, Parts int
	T0, T1      int64 // first and last moment covered, nanoseconds since 1970
	// Uncertain: the gateway's clock was not synchronised, or was set back; the times are its best guess.
	Uncertain bool
	// Settled: what was measured before this moment (nanoseconds since 1970) is in frames up to To, or is told as lost.
	// 0: not said.
	Settled int64
}

// Lost stands for samples that could not be kept.
type Lost struct {
	Epoch    uint64
	From, To uint64 // frames lost, both 0 where the samples never were in a frame
	Count    uint64 // samples lost, as far as known
	Reason   string // pending_full, disk_error, space, age, damage, torn, gone
	T0, T1   int64  // when, nanoseconds since 1970
}

// ErrHeader is wrapped by the errors of ParseHeader and ParseLost.
var ErrHeader = errors.New("bad linli header")

const (
	headerMark = "# linli "
	lostMark   = "# linli lost "
)

// AppendHeader appends the header line.
func AppendHeader(dst []byte, h *Header) []byte {
	dst = append(dst, headerMark...)
	dst = appendEpochSeq(dst, h.Epoch, h.From, h.To)
	dst = strconv.AppendInt(append(dst, " count="...), int64(h.Count), 10)
	if h.Late {
		dst = append(dst, " late=1"...)
	} else {
		dst = append(dst, " late=0"...)
	}
	if h.Parts > 1 {
		dst = strconv.AppendInt(append(dst, " part="...), int64(h.Part), 10)
		dst = strconv.AppendInt(append(dst, '/'), int64(h.Parts), 10)
	}
	dst = appendTimes(dst, h.T0, h.T1)
	if h.Uncertain {
		dst = append(dst, " time=uncertain"...)
	}
	if h.Settled != 0 {
		dst = strconv.AppendInt(append(dst, " settled="...), h.Settled, 10)
	}
	return append(dst, '\n')
}

// AppendLost appends a lost line.
func AppendLost(dst []byte, l *Lost) []byte {
	dst = append(dst, lostMark...)
	dst = appendEpochSeq(dst, l.Epoch, l.From, l.To)
	dst = strconv.AppendUint(append(dst, " count="...), l.Count, 10)
	dst = appendName(append(dst, " reason="...), l.Reason)
	return append(appendTimes(dst, l.T0, l.T1), '\n')
}

func appendEpochSeq(dst []byte, epoch, from, to uint64) []byte {
	dst = appendEpoch(append(dst, "epoch="...), epoch)
	dst = strconv.AppendUint(append(dst, " seq="...), from, 10)
	return strconv.AppendUint(append(dst, '-'), to, 10)
}

func appendEpoch(dst []byte, epoch uint64) []byte {
	const hex = "0123456789abcdef"
	for shift := 60; shift >= 0; shift -= 4 {
		dst = append(dst, hex[epoch>>shift&15])
	}
	return dst
}

func appendTimes(dst []byte, t0, t1 int64) []byte {
	dst = strconv.AppendInt(append(dst, " t0="...), t0, 10)
	return strconv.AppendInt(append(dst, " t1="...), t1, 10)
}

// ParseHeader parses a header line, with or without its line end. Keys it does not know are ignored.
func ParseHeader(line []byte) (Header, error) {
	var h Header
	rest, ok := bytes.CutPrefix(line, []byte(headerMark))
	if !ok || bytes.HasPrefix(line, []byte(lostMark)) {
		return h, fmt.Errorf("%w: the first line must begin with %q", ErrHeader, headerMark)
	}
	seen, err := parseKeys(rest, func(key string, v []byte) (bool, bool) {
		switch key {
		case "epoch":
			return true, parseEpoch(v, &h.Epoch)
		case "seq":
			return true, parsePair(v, '-', &h.From, &h.To) && h.From >= 1 && h.From <= h.To+1 && h.To < 1<<63
		case "count":
			n, ok := parseUint(v)
			h.Count = int(n)
			return true, ok && n <= 1<<30
		case "late":
			h.Late = string(v) == "1"
			return true, h.Late || string(v) == "0"
		case "part":
			var p, n uint64
			ok := parsePair(v, '/', &p, &n) && p >= 1 && p <= n && n <= 1<<20
			h.Part, h.Parts = int(p), int(n)
			return true, ok
		case "t0":
			return true, parseTime(v, &h.T0)
		case "t1":
			return true, parseTime(v, &h.T1)
		case "time":
			h.Uncertain = string(v) == "uncertain"
			return true, true
		case "settled":
			return true, parseTime(v, &h.Settled) && h.Settled > 0
		}
		return false, true
	})
	if err != nil {
		return Header{}, err
	}
	for _, key := range [...]string{"epoch", "seq", "count", "late", "t0", "t1"} {
		if !seen[key] {
			return Header{}, fmt.Errorf("%w: %s= is missing", ErrHeader, key)
		}
	}
	return h, nil
}

// IsLost reports whether a comment line is a lost line.
func IsLost(line []byte) bool { return bytes.HasPrefix(line, []byte(lostMark)) }

// ParseLost parses a lost line, with or without its line end.
func ParseLost(line []byte) (Lost, error) {
	var l Lost
	rest, ok := bytes.CutPrefix(line, []byte(lostMark))
	if !ok {
		return l, fmt.Errorf("%w: not a lost line", ErrHeader)
	}
	seen, err := parseKeys(rest, func(key string, v []byte) (bool, bool) {
		switch key {
		case "epoch":
			return true, parseEpoch(v, &l.Epoch)
		case "seq":
			return true, parsePair(v, '-', &l.From, &l.To) && l.From <= l.To && l.To < 1<<63
		case "count":
			n, ok := parseUint(v)
			l.Count = n
			return true, ok
		case "reason":
			l.Reason = string(v)
			return true, len(v) > 0 && len(v) <= 32 && string(appendName(nil, l.Reason)) == l.Reason
		case "t0":
			return true, parseTime(v, &l.T0)
		case "t1":
			return true, parseTime(v, &l.T1)
		}
		return false, true
	})
	if err != nil {
		return Lost{}, err
	}
	for _, key := range [...]string{"epoch", "seq", "count", "reason", "t0", "t1"} {
		if !seen[key] {
			return Lost{}, fmt.Errorf("%w: %s= is missing", ErrHeader, key)
		}
	}
	return l, nil
}

// parseKeys calls set for every key=value; set says whether it knows the key and whether the value is right.
func parseKeys(rest []byte, set func(key string, v []byte) (known, ok bool)) (map[string]bool, error) {
	seen := map[string]bool{}
	if len(rest) > 1024 {
		return nil, fmt.Errorf("%w: longer than 1 KiB", ErrHeader)
	}
	for word := range bytes.FieldsSeq(rest) {
		key, value, ok := bytes.Cut(word, []byte("="))
		if !ok {
			continue
		}
		name := string(key)
		if seen[name] {
			return nil, fmt.Errorf("%w: %.32s= is there twice", ErrHeader, name)
		}
		known, ok := set(name, value)
		if !ok {
			return nil, fmt.Errorf("%w: %.32s=%.32q", ErrHeader, name, value)
		}
		if known {
			seen[name] = true
		}
	}
	return seen, nil
}

func parseEpoch(v []byte, epoch *uint64) bool {
	n, err := strconv.ParseUint(string(v), 16, 64)
	*epoch = n
	return err == nil && len(v) == 16
}

func parseUint(v []byte) (uint64, bool) {
	n, err := strconv.ParseUint(string(v), 10, 64)
	return n, err == nil
}

func parsePair(v []byte, sep byte, a, b *uint64) bool {
	x, y, ok := bytes.Cut(v, []byte{sep})
	var okA, okB bool
	*a, okA = parseUint(x)
	*b, okB = parseUint(y)
	return ok && okA && okB
}

func parseTime(v []byte, t *int64) bool {
	n, err := strconv.ParseInt(string(v), 10, 64)
	*t = n
	return err == nil
}
