package scan_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
)

// fakeLine is a line in the bubble's time: what it costs is what a real one of its speed would cost.
type fakeLine struct {
	tcp   bool
	units map[firmwareconfig.Line][]*fakeUnit
	line  firmwareconfig.Line // present setting
	// talk is what somebody sends by himself: text or frames, at his setting, in a second.
	talk map[firmwareconfig.Line]map[time.Duration][]byte // interval -> bytes
	echo bool
	// hum is noise that comes with every request.
	hum []byte
	err error // of every Ask from now on
	// mix is how many bytes later the second of two units begins, by turns; what both send is then on the line as
	// their common zeros, and may be whole by chance. Empty: two at once are never understood.
	mix []int
	n   int // of answers that were mixed
	// extra is what each request costs beyond the wire.
	extra time.Duration

	began  time.Time
	asked  []question // everything that was sent
	sets   []firmwareconfig.Line
	heards []time.Duration
}

type question struct {
	line firmwareconfig.Line
	unit int
	pdu  []byte
}

type fakeUnit struct {
	address int
	delay   time.Duration
	answer  func(pdu []byte) []byte // the response PDU; nil stays silent
	after   []byte                  // a second frame that follows each answer
	garbled bool
}

func newFakeLine(at firmwareconfig.Line) *fakeLine {
	return &fakeLine{line: at, units: map[firmwareconfig.Line][]*fakeUnit{}, talk: map[firmwareconfig.Line]map[time.Duration][]byte{}, began: time.Now()}
}

func (f *fakeLine) add(at firmwareconfig.Line, u *fakeUnit) *fakeLine {
	f.units[at] = append(f.units[at], u)
	return f
}

// registers is a unit with tables.
func registers(address int, tables map[firmwareconfig.Table]map[int]uint16) *fakeUnit {
	return &fakeUnit{address: address, delay: 20 * time.Millisecond, answer: func(pdu []byte) []byte {
		t := firmwareconfig.Table(pdu[0])
		if pdu[0] > 4 || tables[t] == nil {
			return []byte{pdu[0] | 0x80, 1}
		}
		first, n := int(binary.BigEndian.Uint16(pdu[1:])), int(binary.BigEndian.Uint16(pdu[3:]))
		out := []byte{pdu[0], byte(2 * n)}
		if t.Bits() {
			out = append([]byte{pdu[0], byte((n + 7) / 8)}, make([]byte, (n+7)/8)...)
		}
		for i := range n {
			v, ok := tables[t][first+i]
			switch {
			case !ok:
				return []byte{pdu[0] | 0x80, 2}
			case t.Bits():
				out[2+i/8] |= byte(v) << (i % 8)
			default:
				out = binary.BigEndian.AppendUint16(out, v)
			}
		}
		return out
	}}
}

// always answers everything with one exception.
func always(address int, code byte) *fakeUnit {
	return &fakeUnit{address: address, delay: 20 * time.Millisecond, answer: func(pdu []byte) []byte { return []byte{pdu[0] | 0x80, code} }}
}

func rtu(unit byte, pdu []byte) []byte {
	b := append([]byte{unit}, pdu...)
	c := uint16(0xFFFF)
	for _, x := range b {
		c ^= uint16(x)
		for range 8 {
			if c&1 != 0 {
				c = c>>1 ^ 0xA001
			} else {
				c >>= 1
			}
		}
	}
	return binary.LittleEndian.AppendUint16(b, c)
}

func (f *fakeLine) chars(n int) time.Duration {
	if f.tcp {
		return 0
	}
	return time.Duration(n) * 11 * time.Second / time.Duration(f.line.Baud)
}

var errSilent = errors.New("no answer")

func (f *fakeLine) Ask(ctx context.Context, unit byte, pdu []byte, timeout time.Duration) (drivers.Reply, error) {
	if f.err != nil {
		return drivers.Reply{}, f.err
	}
	began := time.Now()
	f.asked = append(f.asked, question{f.line, int(unit), slices.Clone(pdu)})
	wait := func(d time.Duration) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := wait(f.extra + f.chars(4+3+len(pdu))); err != nil { // silence and request
		return drivers.Reply{}, err
	}
	var heard []byte
	if f.echo {
		heard = append(heard, rtu(unit, pdu)...)
	}
	heard = append(heard, f.hum...)
	var ans []byte
	n, delay := 0, time.Duration(0)
	var mixed []byte
	for _, u := range f.units[f.line] {
		if u.address != int(unit) && u.address != -1 || u.delay > timeout {
			continue
		}
		a := u.answer(pdu)
		if a == nil {
			continue
		}
		n++
		delay = max(delay, u.delay)
		ans = a
		if u.garbled {
			n = 2
		}
		if len(f.mix) > 0 {
			b := rtu(unit, a)
			if n > 1 {
				b = slices.Concat(slices.Repeat([]byte{0xFF}, f.mix[f.n%len(f.mix)]), b)
				f.n++
			}
			for i, x := range b {
				if i < len(mixed) {
					mixed[i] &= x
				} else {
					mixed = append(mixed, x)
				}
			}
			continue
		}
		heard = append(append(heard, rtu(unit, a)...), u.after...)
	}
	if len(f.mix) > 0 && n > 0 {
		if err := wait(delay + f.chars(len(mixed))); err != nil {
			return drivers.Reply{}, err
		}
		r := drivers.Reply{Heard: mixed, Took: time.Since(began)}
		if k := len(mixed); k > 3 && bytes.Equal(rtu(mixed[0], mixed[1:k-2]), mixed) {
			r.PDU = mixed[1 : k-2]
			return r, nil
		}
		return r, errSilent
	}
	switch n {
	case 0:
		if err := wait(timeout + f.chars(8)); err != nil {
			return drivers.Reply{}, err
		}
		return drivers.Reply{Heard: heard, Took: time.Since(began)}, errSilent
	case 1:
		if err := wait(delay + f.chars(3+len(ans))); err != nil {
			return drivers.Reply{}, err
		}
		return drivers.Reply{PDU: ans, Heard: heard, Took: time.Since(began)}, nil
	}
	if err := wait(delay); err != nil {
		return drivers.Reply{}, err
	}
	return drivers.Reply{Heard: []byte{0x81, 0x80, 0x00, 0x91, 0x22}, Took: delay}, errSilent // two at once
}

// Hear hears what is sent in the time, at a setting that is the listener's; at others it is noise.
func (f *fakeLine) Hear(ctx context.Context, d time.Duration) ([]byte, error) {
	from := time.Since(f.began)
	f.heards = append(f.heards, d)
	select {
	case <-time.After(d):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	to := time.Since(f.began)
	var out []byte
	for at := from.Truncate(50 * time.Millisecond); at < to; at += 50 * time.Millisecond {
		for line, talks := range f.talk {
			for every, b := range talks {
				if at < from || at == 0 || at%every != 0 {
					continue
				}
				if line == f.line {
					out = append(out, b...)
					continue
				}
				for _, x := range b {
					out = append(out, x<<1^x>>3|0x80)
				}
			}
		}
	}
	return out, nil
}

func (f *fakeLine) Set(_ context.Context, line firmwareconfig.Line) error {
	f.sets = append(f.sets, line)
	if line == (firmwareconfig.Line{}) {
		line = n81
	}
	f.line = line
	return nil
}
