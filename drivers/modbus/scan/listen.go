package scan

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	firmwareconfig "linli/firmware-config"
)

// A line that a gateway polls is listened to in pieces, so that the polling goes on.
const (
	pieces   = 8
	piece    = 250 * time.Millisecond
	pieceGap = time.Second
)

// heardMost bounds what is kept of one setting's traffic, so that a babbling line costs no memory.
const heardMost = 32 << 10

// frame is a whole RTU frame that was heard: its CRC is right.
type frame struct {
	unit    byte
	pdu     []byte
	request bool // by its form, and by what came before it
}

// traffic is what was heard at one setting without being an answer to us.
type traffic struct {
	listened time.Duration // without asking
	frames   []frame
	inSpan   int    // of frames: those heard while listening; they tell a period
	text     []byte // printable runs, line ends included
	rest     int    // bytes that are neither
	bytes    int
	probes   int // requests sent at this setting in the search
	garbled  int // of probes: bytes came back that were no frame
}

// explained reports whether what was heard makes sense at this setting.
func (t *traffic) explained() bool { return t.bytes == 0 || t.rest*5 <= t.bytes }

// noisy reports whether so many requests met bytes that were no frame that the line, not a unit, is at fault.
func (t *traffic) noisy() bool { return t.probes >= 8 && t.garbled*3 > t.probes }

// add sorts heard into the traffic. listened is how long it took without our asking, 0 where it came while we did.
func (t *traffic) add(heard []byte, listened time.Duration) {
	t.listened += listened
	if room := heardMost - t.bytes; len(heard) > room {
		heard = heard[:max(room, 0)]
	}
	if len(heard) == 0 {
		return
	}
	t.bytes += len(heard)
	frames, text, rest := sift(heard)
	t.frames = append(t.frames, frames...)
	if listened > 0 {
		t.inSpan += len(frames)
	}
	t.text = append(t.text, text...)
	t.rest += rest
}

// sift takes whole RTU frames and runs of text out of heard, and counts the bytes that are neither.
func sift(heard []byte) (frames []frame, text []byte, rest int) {
	start := 0 // of the bytes that belong to no frame
	flush := func(end int) {
		t, r := sortText(heard[start:end])
		text, rest = append(text, t...), rest+r
	}
	for i := 0; i < len(heard); {
		n := frameAt(heard[i:])
		if n == 0 {
			i++
			continue
		}
		flush(i)
		f := frame{unit: heard[i], pdu: slices.Clone(heard[i+1 : i+n-2])}
		var before *frame
		if len(frames) > 0 {
			before = &frames[len(frames)-1]
		}
		f.request = isRequest(f, before)
		frames = append(frames, f)
		i += n
		start = i
	}
	flush(len(heard))
	return frames, text, rest
}

// frameAt returns the length of the RTU frame that b begins with, 0 for none.
func frameAt(b []byte) int {
	if len(b) < 5 || b[0] > 247 {
		return 0
	}
	sizes := [3]int{}
	switch fc := b[1]; {
	case fc&0x80 != 0:
		sizes[0] = 5
	case fc >= 1 && fc <= 4:
		sizes[0], sizes[1] = 5+int(b[2]), 8
	case fc == 5 || fc == 6:
		sizes[0] = 8
	case fc == 15 || fc == 16:
		sizes[0] = 8
		if len(b) > 6 {
			sizes[1] = 9 + int(b[6])
		}
	case fc == 0x2B: // Its answer has no length: any that the CRC confirms.
		for n := 7; n <= min(len(b), 256); n++ {
			if crcRight(b[:n]) {
				return n
			}
		}
	}
	for _, n := range sizes {
		if n >= 5 && n <= len(b) && crcRight(b[:n]) {
			return n
		}
	}
	return 0
}

// isRequest reports whether a frame is a master's: by its form, or where both have the same form by not following
// its own request.
func isRequest(f frame, before *frame) bool {
	after := before != nil && before.request && before.unit == f.unit && before.pdu[0] == f.pdu[0]
	switch fc := f.pdu[0]; {
	case fc&0x80 != 0:
		return false
	case fc >= 1 && fc <= 4:
		if len(f.pdu) != 5 {
			return false
		}
		// A request of five bytes, or an answer with three bytes of data, which registers never have.
		return f.pdu[1] != 3 || fc >= 3 || !after
	case fc == 5 || fc == 6:
		return !after
	case fc == 15 || fc == 16:
		return len(f.pdu) > 5
	case fc == 0x2B:
		return len(f.pdu) == 4
	}
	return false
}

// sortText returns the runs of text in b, and how many bytes are none.
func sortText(b []byte) (text []byte, rest int) {
	good := 0
	for _, c := range b {
		if c >= 0x20 && c < 0x7F || c == '\r' || c == '\n' || c == '\t' {
			good++
		}
	}
	if len(b) >= 4 && good*10 >= len(b)*9 {
		return append(slices.Clone(b), '\n'), 0
	}
	return nil, len(b)
}

// crcRight reports whether the last two bytes are the CRC-16/MODBUS of those before (polynomial 0xA001, start 0xFFFF).
func crcRight(b []byte) bool {
	c := uint16(0xFFFF)
	for _, x := range b[:len(b)-2] {
		c ^= uint16(x)
		for range 8 {
			if c&1 != 0 {
				c = c>>1 ^ 0xA001
			} else {
				c >>= 1
			}
		}
	}
	return c == binary.LittleEndian.Uint16(b[len(b)-2:])
}

// listen hears the line before anything is asked. Where what is heard makes no sense at the first setting, the others
// are tried: somebody talks at one of them.
func (s *scanner) listen(ctx context.Context) error {
	if s.Plan.Listen <= 0 || len(s.Plan.Stages) == 0 {
		return nil
	}
	for i, st := range s.Plan.Stages {
		if i > 0 && (s.Plan.Fixed || s.stopsOnly(i)) {
			continue
		}
		if err := s.setLine(ctx, st.Line); err != nil {
			return err
		}
		s.tell("listening", 0)
		d := s.Plan.Listen
		if i > 0 {
			d = elsewhere
		}
		if err := s.hearFor(ctx, d); err != nil {
			return err
		}
		if i == 0 && s.trafficAt(s.line).explained() {
			return nil // Silence, or all of it is understood. Whoever talks at another setting would be noise here.
		}
	}
	return nil
}

// stopsOnly reports whether stage i differs from an earlier one in its stop bits alone: it hears the same.
func (s *scanner) stopsOnly(i int) bool {
	for _, st := range s.Plan.Stages[:i] {
		if sameFrames(st.Line, s.Plan.Stages[i].Line) {
			return true
		}
	}
	return false
}

// sameFrames reports whether receivers of two settings understand each other: a second stop bit looks like silence.
func sameFrames(a, b firmwareconfig.Line) bool {
	return a.Baud == b.Baud && len(a.Format) == 3 && len(b.Format) == 3 && a.Format[:2] == b.Format[:2]
}

func (s *scanner) trafficAt(l firmwareconfig.Line) *traffic {
	t := s.traffic[l]
	if t == nil {
		t = &traffic{}
		s.traffic[l] = t
	}
	return t
}

// hearFor listens for d at the present setting; on a line that is polled, in pieces.
func (s *scanner) hearFor(ctx context.Context, d time.Duration) error {
	n, each, gap := 1, d, time.Duration(0)
	if s.Plan.Running {
		n, each, gap = pieces, piece, pieceGap
	}
	for i := range n {
		if i > 0 {
			if err := pause(ctx, gap); err != nil {
				return err
			}
		}
		heard, err := s.Conn.Hear(ctx, each)
		s.trafficAt(s.line).add(heard, each)
		if err := s.lost(ctx, err); err != nil {
			return err
		}
	}
	return nil
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// poll is one request that another master repeats.
type poll struct {
	unit, function byte
	address, count int
	n              int
}

// polls returns the requests in frames, most frequent first, with how often each was heard.
func polls(frames []frame) []poll {
	var out []poll
	for _, f := range frames {
		if !f.request || len(f.pdu) < 5 {
			continue
		}
		p := poll{unit: f.unit, function: f.pdu[0], address: int(binary.BigEndian.Uint16(f.pdu[1:])), count: int(binary.BigEndian.Uint16(f.pdu[3:])), n: 1}
		if p.function == 5 || p.function == 6 {
			p.count = 1
		}
		i := slices.IndexFunc(out, func(q poll) bool {
			return q.unit == p.unit && q.function == p.function && q.address == p.address && q.count == p.count
		})
		if i >= 0 {
			out[i].n++
		} else if len(out) < 256 {
			out = append(out, p)
		}
	}
	slices.SortStableFunc(out, func(a, b poll) int { return b.n - a.n })
	return out
}

// String returns the request for people.
func (p poll) String() string {
	what := [...]string{1: "coil", 2: "discrete input", 3: "holding register", 4: "input register"}
	switch {
	case p.function >= 1 && p.function <= 4 && p.count == 1:
		return fmt.Sprintf("%s %d", what[p.function], p.address)
	case p.function >= 1 && p.function <= 4:
		return fmt.Sprintf("%ss %d-%d", what[p.function], p.address, p.address+p.count-1)
	case p.function == 5 || p.function == 15:
		return fmt.Sprintf("writes coil %d", p.address)
	case p.function == 6 || p.function == 16:
		return fmt.Sprintf("writes holding register %d", p.address)
	}
	return fmt.Sprintf("function %d", p.function)
}

// textLines returns the distinct lines of text, in the order in which they came, with how many there were.
func textLines(text []byte) (distinct []string, n int) {
	for _, l := range strings.FieldsFunc(string(text), func(r rune) bool { return r == '\n' || r == '\r' }) {
		l = strings.TrimSpace(l)
		if l == "" {
			continue
		}
		n++
		if !slices.Contains(distinct, l) && len(distinct) < 8 {
			distinct = append(distinct, l)
		}
	}
	return distinct, n
}
