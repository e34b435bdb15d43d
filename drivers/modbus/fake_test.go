package modbus_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// tables is a correct Modbus device: four tables, and addresses that it refuses.
type tables struct {
	mu      sync.Mutex
	regs    map[int]uint16 // holding and input alike
	bits    map[int]bool
	illegal map[int]bool
	reads   int
}

func newTables() *tables {
	return &tables{regs: map[int]uint16{}, bits: map[int]bool{}, illegal: map[int]bool{}}
}

func (d *tables) set(addr int, words ...uint16) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, w := range words {
		d.regs[addr+i] = w
	}
}

// answer returns the answer PDU.
func (d *tables) answer(req []byte) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	fc, addr, n := req[0], int(binary.BigEndian.Uint16(req[1:])), int(binary.BigEndian.Uint16(req[3:]))
	span := n
	if fc == 5 || fc == 6 {
		span = 1
	}
	for a := addr; a < addr+span; a++ {
		if d.illegal[a] {
			return []byte{fc | 0x80, 2}
		}
	}
	switch fc {
	case 1, 2:
		d.reads++
		out := make([]byte, 2+(n+7)/8)
		out[0], out[1] = fc, byte((n+7)/8)
		for i := range n {
			if d.bits[addr+i] {
				out[2+i/8] |= 1 << (i % 8)
			}
		}
		return out
	case 3, 4:
		d.reads++
		out := []byte{fc, byte(2 * n)}
		for i := range n {
			out = binary.BigEndian.AppendUint16(out, d.regs[addr+i])
		}
		return out
	case 5:
		d.bits[addr] = n == 0xFF00
		return req[:5]
	case 6:
		d.regs[addr] = uint16(n)
		return req[:5]
	case 16:
		for i := range n {
			d.regs[addr+i] = binary.BigEndian.Uint16(req[6+2*i:])
		}
		return req[:5]
	}
	return []byte{fc | 0x80, 1}
}

// request is one request as the peer got it.
type request struct {
	nth  int // from 1
	id   uint16
	unit byte
	pdu  []byte
}

// frame returns ans framed as an answer to r.
func (r request) frame(rtu bool, ans []byte) []byte {
	if rtu {
		return modbus.AppendRTU(nil, r.unit, ans)
	}
	return modbus.AppendTCP(nil, r.id, r.unit, ans)
}

// serve reads requests from c and gives each to handle, until the connection ends or handle returns false.
func serve(c io.ReadWriteCloser, rtu bool, first int, handle func(c io.ReadWriteCloser, r request) bool) int {
	defer c.Close()
	n := first
	for {
		r, err := readRequest(c, rtu)
		if err != nil {
			return n
		}
		n++
		r.nth = n
		if !handle(c, r) {
			return n
		}
	}
}

func readRequest(c io.Reader, rtu bool) (request, error) {
	var r request
	head := make([]byte, 7)
	if _, err := io.ReadFull(c, head); err != nil {
		return r, err
	}
	if !rtu {
		r.id, r.unit = binary.BigEndian.Uint16(head), head[6]
		r.pdu = make([]byte, binary.BigEndian.Uint16(head[4:])-1)
		_, err := io.ReadFull(c, r.pdu)
		return r, err
	}
	size := 8
	if head[1] == 15 || head[1] == 16 {
		size = 9 + int(head[6])
	}
	frame := make([]byte, size)
	copy(frame, head)
	if _, err := io.ReadFull(c, frame[7:]); err != nil {
		return r, err
	}
	r.unit, r.pdu = frame[0], frame[1:size-2]
	if binary.LittleEndian.Uint16(frame[size-2:]) != modbus.CRC16(frame[:size-2]) {
		return r, errors.New("bad request CRC")
	}
	return r, nil
}

// peer is a scripted device behind a bus, over net.Pipe, so that it works in a synctest bubble.
type peer struct {
	t      *testing.T
	rtu    bool
	handle func(c io.ReadWriteCloser, r request) bool
	refuse func() bool // refuse to connect

	serial bool // the bus gets a port that can be flushed

	wg    sync.WaitGroup
	mu    sync.Mutex
	dials int
	nth   int
	conns []net.Conn
}

func (p *peer) dial(context.Context) (net.Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dials++
	if p.refuse != nil && p.refuse() {
		return nil, errors.New("connection refused")
	}
	a, b := net.Pipe()
	p.conns = append(p.conns, a, b)
	p.wg.Go(func() {
		serve(b, p.rtu, 0, func(c io.ReadWriteCloser, r request) bool {
			p.mu.Lock()
			p.nth++
			r.nth = p.nth
			p.mu.Unlock()
			return p.handle(c, r)
		})
	})
	if p.serial {
		return flushing{a}, nil
	}
	return a, nil
}

func (p *peer) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
	p.mu.Lock()
}

// flushing is a connection that can be flushed as a serial device can.
type flushing struct{ net.Conn }

func (f flushing) Flush() error {
	buf := make([]byte, 256)
	for {
		_ = f.SetDeadline(time.Now().Add(time.Microsecond))
		if _, err := f.Read(buf); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return nil
			}
			return err
		}
	}
}

// Set takes the settings of a line that does not care.
func (f flushing) Set(int, string) error { return nil }

// answering returns a handler that lets every unit of units answer at once.
func answering(rtu bool, units map[byte]*tables) func(io.ReadWriteCloser, request) bool {
	return func(c io.ReadWriteCloser, r request) bool {
		if d := units[r.unit]; d != nil {
			_, _ = c.Write(r.frame(rtu, d.answer(r.pdu)))
		}
		return true
	}
}

func def(name string, kind telemetry.Kind) *telemetry.PointDef {
	return &telemetry.PointDef{Name: name, Kind: kind}
}

func u16(name string, addr int) firmwareconfig.Channel {
	return firmwareconfig.Channel{Name: name, Table: firmwareconfig.HoldingRegister, Address: addr, Encoding: firmwareconfig.EncU16, Scale: 1}
}

// unitOf returns a unit whose channels are bound to float points numbered from firstPoint.
func unitOf(id string, addr int, firstPoint telemetry.PointID, channels ...firmwareconfig.Channel) firmwareconfig.Unit {
	u := firmwareconfig.Unit{ID: id, Address: addr, Profile: &firmwareconfig.Profile{ID: "test_" + id, Channels: channels}}
	for i := range channels {
		kind := telemetry.Float
		if channels[i].Encoding == firmwareconfig.EncBool {
			kind = telemetry.Bool
		}
		d := def(channels[i].Name, kind)
		d.Writable = channels[i].Writable
		u.Bindings = append(u.Bindings, firmwareconfig.Binding{Channel: i, Point: firstPoint + telemetry.PointID(i), Def: d, UnitFactor: 1})
	}
	return u
}

// rig drives a bus in virtual or real time, keeping the last sample of each point.
type rig struct {
	t     *testing.T
	bus   *modbus.Bus
	clock *telemetry.Clock
	last  map[telemetry.PointID]telemetry.Sample
	all   []telemetry.Sample
	next  telemetry.Mono
}

func newRig(t *testing.T, c modbus.Config, p *peer) *rig {
	t.Helper()
	return newRigOver(t, c, p, p.dial)
}

// newRigOver is newRig with another way to connect.
func newRigOver(t *testing.T, c modbus.Config, p *peer, dial func(context.Context) (net.Conn, error)) *rig {
	t.Helper()
	p.t, p.rtu = t, c.Transport != modbus.TCP
	r := &rig{t: t, clock: telemetry.NewClock("test", 0, time.Time{}), last: map[telemetry.PointID]telemetry.Sample{}}
	c.Clock = r.clock
	if c.Name == "" {
		c.Name = "bus"
	}
	bus, err := modbus.NewOver(c, dial)
	if err != nil {
		t.Fatal(err)
	}
	r.bus = bus
	t.Cleanup(func() { _ = bus.Close(); p.close() })
	return r
}

// step calls Step once, waiting for the moment it asked for.
func (r *rig) step() []telemetry.Sample {
	if d := r.next.Sub(r.clock.Mono()); d > 0 {
		time.Sleep(d) // only in synctest bubbles is there anything to wait for
	}
	s, next := r.bus.Step(r.t.Context(), r.clock.Mono(), nil)
	r.next = next
	for _, x := range s {
		r.last[x.Point] = x
	}
	r.all = append(r.all, s...)
	return s
}

// run steps for d.
func (r *rig) run(d time.Duration) {
	end := r.clock.Mono().Add(d)
	for {
		if r.next > end {
			if d := end.Sub(r.clock.Mono()); d > 0 {
				time.Sleep(d)
			}
			return
		}
		r.step()
		if r.clock.Mono() >= end {
			return
		}
	}
}

func (r *rig) want(p telemetry.PointID, v float64, q telemetry.Quality) {
	r.t.Helper()
	got, ok := r.last[p]
	switch {
	case !ok:
		r.t.Errorf("point %d: no sample, want %v %v", p, v, q)
	case got.Quality != q || !q.Bad() && got.Value.Float() != v:
		r.t.Errorf("point %d = %v %v, want %v %v", p, got.Value, got.Quality, v, q)
	}
}

func (r *rig) unit(i int) (h struct {
	Online                                      bool
	Answers, Timeouts, Errors, Exceptions, Late uint64
}) {
	u := r.bus.Health().Units[i]
	h.Online, h.Answers, h.Timeouts, h.Errors, h.Exceptions, h.Late = u.Online, u.Answers, u.Timeouts, u.Errors, u.Exceptions, u.Late
	return h
}
