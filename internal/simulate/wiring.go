package simulate

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	firmwareconfig "linli/firmware-config"
)

// Wiring is one serial line as installers sometimes leave it: units with settings of their own, two at one address, a
// unit that talks by itself, a second master. Whoever opens the line hears and is heard only at the setting of the
// unit: at another, bytes are noise to both sides. Two units that answer at once garble each other. The zero Wiring is
// a line with nobody on it.
//
// The fields are set before Serve and not changed after.
type Wiring struct {
	Units  []WiredUnit
	Talker *TextTalker
	Master *SecondMaster
	// Echo: the adapter hears what it sends.
	Echo bool
	// Asked is told every whole frame that was sent on the line by the tool, at whatever setting; nil for nobody. It is
	// called from one goroutine.
	Asked func(frame []byte)
}

// WiredUnit is a unit on a Wiring.
type WiredUnit struct {
	Address int
	Line    firmwareconfig.Line
	// Registers are its tables; a table that is nil is refused as an unknown function, an address that is missing as an
	// illegal one.
	Registers map[firmwareconfig.Table]map[int]uint16
	// Identity is what it says to read device identification, by object; nil refuses.
	Identity map[byte]string
	// Delay and Jitter are how long it takes to begin an answer: Delay and up to Jitter more, by chance.
	Delay, Jitter time.Duration
	// Mumbles: it answers what it cannot understand with noise instead of silence.
	Mumbles bool
}

// TextTalker sends a text by itself.
type TextTalker struct {
	Line  firmwareconfig.Line
	Text  string
	Every time.Duration
}

// SecondMaster polls a unit of the line.
type SecondMaster struct {
	Line  firmwareconfig.Line
	Unit  byte
	PDU   []byte
	Every time.Duration
}

// burst is bytes that begin to come a while after a request.
type burst struct {
	after time.Duration
	bytes []byte
}

// Serve keeps the line on p until ctx ends, and closes p.
func (w *Wiring) Serve(ctx context.Context, p *Pty) error {
	stop := context.AfterFunc(ctx, func() { p.Close() })
	defer stop()
	s := &wired{Wiring: w, pty: p, rand: rand.New(rand.NewPCG(1, 2))}
	var wg sync.WaitGroup
	defer wg.Wait()
	if t := w.Talker; t != nil {
		wg.Go(func() { s.every(ctx, t.Every, func() { s.send(t.Line, []byte(t.Text)) }) })
	}
	if m := w.Master; m != nil {
		wg.Go(func() { s.every(ctx, m.Every, func() { s.poll(ctx, m) }) })
	}
	var frame []byte
	buf := make([]byte, 512)
	last := time.Now()
	for {
		n, err := p.Port.Read(buf)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("serve the line: %w", err)
		}
		if now := time.Now(); now.Sub(last) > 50*time.Millisecond {
			frame = frame[:0]
			last = now
		} else {
			last = now
		}
		frame = append(frame, buf[:n]...)
		if len(frame) < 4 || crc(frame) != 0 {
			continue // The rest of it is still to come.
		}
		if w.Asked != nil {
			w.Asked(slices.Clone(frame))
		}
		line, err := p.setting()
		if err != nil {
			return fmt.Errorf("read the setting of the line: %w", err)
		}
		if w.Echo {
			s.send(line, frame)
		}
		s.play(ctx, line, s.answers(line, frame))
		frame = frame[:0]
	}
}

// wired is a Wiring that is being served.
type wired struct {
	*Wiring
	pty *Pty

	mu   sync.Mutex // guards the writing side of the port and rand
	rand *rand.Rand
}

func (s *wired) every(ctx context.Context, d time.Duration, do func()) {
	for wait(ctx, d) {
		do()
	}
}

// send puts bytes on the line that were sent at a setting: noise for who has another.
func (s *wired) send(at firmwareconfig.Line, b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	has, err := s.pty.setting()
	if err != nil {
		return // The line is being closed.
	}
	if !sameOnTheWire(at, has) {
		b = distorted(b)
	}
	_, _ = s.pty.Port.Write(b) // The same.
}

// poll is one round of the second master: its request, and the answer of the unit if it is there.
func (s *wired) poll(ctx context.Context, m *SecondMaster) {
	frame := withCRC(append([]byte{m.Unit}, m.PDU...))
	s.send(m.Line, frame)
	if wait(ctx, 10*time.Millisecond) {
		s.play(ctx, m.Line, s.answers(m.Line, frame))
	}
}

// answers is what the units of the line send after a request.
func (s *wired) answers(line firmwareconfig.Line, frame []byte) []burst {
	var all []burst
	for i := range s.Units {
		u := &s.Units[i]
		if !sameOnTheWire(u.Line, line) {
			if u.Mumbles {
				all = append(all, burst{u.Delay, []byte{0xF8, 0x80, 0xFE}})
			}
			continue
		}
		if u.Address != int(frame[0]) {
			continue
		}
		d := u.Delay
		if u.Jitter > 0 {
			s.mu.Lock()
			d += time.Duration(s.rand.Int64N(int64(u.Jitter)))
			s.mu.Unlock()
		}
		all = append(all, burst{d, withCRC(append([]byte{frame[0]}, u.answer(frame[1:len(frame)-2])...))})
	}
	slices.SortStableFunc(all, func(a, b burst) int { return int(a.after - b.after) })
	char := 11 * time.Second / time.Duration(line.Baud)
	return collide(all, char)
}

// collide joins bursts that are on the line at the same time. RS-485 drivers fight then; what a receiver sees of it is
// modelled as both bytes' common ones.
func collide(all []burst, char time.Duration) []burst {
	var out []burst
	for _, b := range all {
		n := len(out) - 1
		if n < 0 {
			out = append(out, b)
			continue
		}
		shift := int((b.after - out[n].after) / char)
		if shift > len(out[n].bytes)+1 {
			out = append(out, b)
			continue
		}
		mixed := slices.Clone(out[n].bytes)
		for i, x := range b.bytes {
			switch k := shift + i; {
			case k < len(mixed):
				mixed[k] &= x
			default:
				mixed = append(mixed, x)
			}
		}
		out[n].bytes = mixed
	}
	return out
}

// play sends bursts when their time has come. Meanwhile nothing else is read: a line is half duplex.
func (s *wired) play(ctx context.Context, line firmwareconfig.Line, all []burst) {
	began := time.Now()
	for _, b := range all {
		if !wait(ctx, time.Until(began.Add(b.after))) && ctx.Err() != nil {
			return
		}
		s.send(line, b.bytes)
	}
}

// answer returns the response PDU of the unit.
func (u *WiredUnit) answer(pdu []byte) []byte {
	exception := func(code byte) []byte { return []byte{pdu[0] | 0x80, code} }
	if pdu[0] == 0x2B && len(pdu) == 4 && pdu[1] == 0x0E && u.Identity != nil {
		out := []byte{0x2B, 0x0E, pdu[2], 0x02, 0, 0, 0}
		for id := range byte(7) {
			if text, ok := u.Identity[id]; ok && (pdu[2] > 1 || id < 3) {
				out = append(append(out, id, byte(len(text))), text...)
				out[6]++
			}
		}
		return out
	}
	table := firmwareconfig.Table(pdu[0])
	if pdu[0] < 1 || pdu[0] > 4 || u.Registers[table] == nil {
		return exception(1)
	}
	if len(pdu) != 5 {
		return exception(3)
	}
	address, n := int(binary.BigEndian.Uint16(pdu[1:])), int(binary.BigEndian.Uint16(pdu[3:]))
	if n < 1 || !table.Bits() && n > 125 || n > 2000 {
		return exception(3)
	}
	out := []byte{pdu[0], byte(2 * n)}
	if table.Bits() {
		out = make([]byte, 2+(n+7)/8)
		out[0], out[1] = pdu[0], byte(len(out)-2)
	}
	for i := range n {
		v, ok := u.Registers[table][address+i]
		switch {
		case !ok:
			return exception(2)
		case table.Bits():
			out[2+i/8] |= byte(v&1) << (i % 8)
		default:
			out = binary.BigEndian.AppendUint16(out, v)
		}
	}
	return out
}

// withCRC returns frame with its CRC.
func withCRC(frame []byte) []byte { return binary.LittleEndian.AppendUint16(frame, crc(frame)) }

// sameOnTheWire reports whether bytes sent at a are received at b: a second stop bit is silence to a receiver.
func sameOnTheWire(a, b firmwareconfig.Line) bool {
	return a.Baud == b.Baud && len(a.Format) == 3 && len(b.Format) == 3 && a.Format[:2] == b.Format[:2]
}

// distorted is what b looks like at another speed or parity: bytes without meaning, none of them printable.
func distorted(b []byte) []byte {
	out := make([]byte, len(b))
	for i, x := range b {
		out[i] = x<<1 ^ x>>3 | 0x80
	}
	return out
}

// setting returns the setting that the other end of the pair has given the line. A pty keeps no parity bit, but it
// keeps that parity is to be checked.
func (p *Pty) setting() (firmwareconfig.Line, error) {
	return settingOf(p.Port)
}

func settingOf(f *os.File) (firmwareconfig.Line, error) {
	c, err := f.SyscallConn()
	if err != nil {
		return firmwareconfig.Line{}, err
	}
	var t *unix.Termios
	var inner error
	if err := c.Control(func(fd uintptr) { t, inner = unix.IoctlGetTermios(int(fd), unix.TCGETS2) }); err != nil {
		return firmwareconfig.Line{}, err
	}
	if inner != nil {
		return firmwareconfig.Line{}, inner
	}
	format := []byte("8N1")
	if t.Iflag&unix.INPCK != 0 || t.Cflag&unix.PARENB != 0 {
		format[1] = 'E'
		if t.Cflag&unix.PARODD != 0 {
			format[1] = 'O'
		}
	}
	if t.Cflag&unix.CSTOPB != 0 {
		format[2] = '2'
	}
	return firmwareconfig.Line{Baud: int(t.Ospeed), Format: string(format)}, nil
}
