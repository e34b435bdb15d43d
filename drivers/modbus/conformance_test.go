package modbus_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/simulate"
	"linli/internal/telemetry"
)

// One suite for everything that answers: our own simulated unit, pymodbus and libmodbus, each over TCP, RTU on ptys and
// RTU over TCP.

// pdu builds a request of 16-bit words behind a function code.
func pdu(function byte, words ...int) []byte {
	p := []byte{function}
	for _, w := range words {
		p = binary.BigEndian.AppendUint16(p, uint16(w))
	}
	return p
}

// registers and bits are what the conformance unit answers to a read.
func registers(function byte, base, addr, n int) []byte {
	p := []byte{function, byte(2 * n)}
	for a := range n {
		p = binary.BigEndian.AppendUint16(p, uint16(base+addr+a))
	}
	return p
}

func bits(function byte, every, addr, n int) []byte {
	p := make([]byte, 2+(n+7)/8)
	p[0], p[1] = function, byte((n+7)/8)
	for i := range n {
		if (addr+i)%every == 0 {
			p[2+i/8] |= 1 << (i % 8)
		}
	}
	return p
}

// write16 builds function 16 or 15 with the given data.
func writeMany(function byte, addr, n int, data []byte) []byte {
	return append(append(pdu(function, addr, n), byte(len(data))), data...)
}

func TestConformance(t *testing.T) {
	ones := func(n int) []byte { return []byte(strings.Repeat("\x5A", n)) }
	type step struct {
		name string
		ask  []byte
		want []byte // nil: any answer or exception of that function
	}
	read := func(n int) []byte { return append([]byte{3, byte(n)}, ones(n)...) }
	suite := []step{
		{"one register", pdu(3, 7, 1), registers(3, 0x1000, 7, 1)},
		{"125 registers", pdu(3, 0, 125), registers(3, 0x1000, 0, 125)},
		{"the last 125 registers", pdu(3, 75, 125), registers(3, 0x1000, 75, 125)},
		{"one input", pdu(4, 199, 1), registers(4, 0x2000, 199, 1)},
		{"125 inputs", pdu(4, 3, 125), registers(4, 0x2000, 3, 125)},
		{"one coil", pdu(1, 9, 1), bits(1, 3, 9, 1)},
		{"nine coils", pdu(1, 8, 9), bits(1, 3, 8, 9)},
		{"24 coils, as long as a request", pdu(1, 0, 24), bits(1, 3, 0, 24)},
		{"2000 coils", pdu(1, 100, 2000), bits(1, 3, 100, 2000)},
		{"one discrete input", pdu(2, 10, 1), bits(2, 5, 10, 1)},
		{"2000 discrete inputs", pdu(2, 0, 2000), bits(2, 5, 0, 2000)},

		{"126 registers", pdu(3, 0, 126), []byte{0x83, 3}},
		{"no registers", pdu(4, 0, 0), []byte{0x84, 3}},
		{"2001 coils", pdu(1, 0, 2001), []byte{0x81, 3}},
		{"beyond the last register", pdu(3, 199, 2), []byte{0x83, 2}},
		{"beyond the last input", pdu(4, 65535, 1), []byte{0x84, 2}},
		{"beyond the last coil", pdu(1, 2100, 1), []byte{0x81, 2}},
		{"beyond the last discrete input", pdu(2, 2099, 2), []byte{0x82, 2}},
		{"writing beyond the last register", pdu(6, 200, 1), []byte{0x86, 2}},
		{"writing beyond the last coil", pdu(5, 2100, 0xFF00), []byte{0x85, 2}},

		{"a coil on", pdu(5, 1, 0xFF00), pdu(5, 1, 0xFF00)},
		{"reads back", pdu(1, 1, 1), []byte{1, 1, 1}},
		{"a coil off", pdu(5, 1, 0), pdu(5, 1, 0)},
		{"reads back", pdu(1, 1, 1), []byte{1, 1, 0}},
		{"a register", pdu(6, 5, 0xBEEF), pdu(6, 5, 0xBEEF)},
		{"reads back", pdu(3, 5, 1), []byte{3, 2, 0xBE, 0xEF}},
		{"123 registers", writeMany(16, 0, 123, ones(246)), pdu(16, 0, 123)},
		{"read back", pdu(3, 0, 123), read(246)},
		{"1968 coils", writeMany(15, 0, 1968, ones(246)), pdu(15, 0, 1968)},
		{"read back", pdu(1, 0, 1968), append([]byte{1, 246}, ones(246)...)},

		// Functions that not all of them know; what comes must be theirs.
		{"mask write", pdu(22, 6, 0xF0F0, 0x0505), nil},
		{"report server id", []byte{17}, nil},
	}
	for _, s := range servers() {
		for _, transport := range transports {
			t.Run(s.name+"/"+transport, func(t *testing.T) {
				t.Parallel()
				session, err := modbus.Open(t.Context(), s.start(t, transport))
				if err != nil {
					t.Fatal(err)
				}
				defer session.Close()
				for _, c := range suite {
					wait := 3 * time.Second // a busy machine, not a slow device
					if c.want == nil && s.name == "simulate" {
						wait = 100 * time.Millisecond
					}
					got, err := session.Ask(t.Context(), conformanceUnit, c.ask, wait)
					switch {
					case c.want == nil && s.name == "simulate" && err != nil:
						// It does not know the function, nor how long such a request is.
					case err != nil:
						t.Errorf("%s: % x: %v", c.name, c.ask, err)
					case c.want == nil && got.PDU[0]&0x7F != c.ask[0], c.want != nil && string(got.PDU) != string(c.want):
						t.Errorf("%s: % x answered % x, want % x", c.name, c.ask, got.PDU, c.want)
					case len(got.Heard) < len(got.PDU):
						t.Errorf("%s: heard % x", c.name, got.Heard)
					}
				}
				if s.name == "libmodbus" {
					return // It answers for every unit over TCP, and on a line loses its place after another unit's request.
				}
				if got, err := session.Ask(t.Context(), 77, pdu(3, 0, 1), 100*time.Millisecond); err == nil {
					t.Errorf("unit 77, which is not there, answered % x", got.PDU)
				}
				if got, err := session.Ask(t.Context(), conformanceUnit, pdu(4, 0, 2), 3*time.Second); err != nil || string(got.PDU) != string(registers(4, 0x2000, 0, 2)) {
					t.Errorf("after a unit that is not there: % x, %v", got.PDU, err)
				}
			})
		}
	}
}

// conformanceUnitOf is a unit with points in all tables, blocks of the full length among them, and outputs.
func conformanceUnitOf() (u firmwareconfig.Unit, want map[telemetry.PointID]float64) {
	want = map[telemetry.PointID]float64{}
	var chs []firmwareconfig.Channel
	add := func(table firmwareconfig.Table, addr int, v float64, writable bool) {
		c := firmwareconfig.Channel{Name: fmt.Sprintf("c%d", len(chs)), Table: table, Address: addr, Encoding: firmwareconfig.EncU16, Scale: 1, Writable: writable}
		if table.Bits() {
			c.Encoding, c.Scale = firmwareconfig.EncBool, 0
		}
		want[telemetry.PointID(len(chs))] = v
		chs = append(chs, c)
	}
	for a := range 125 {
		add(firmwareconfig.HoldingRegister, a, float64(0x1000+a), a == 4)
		add(firmwareconfig.InputRegister, 50+a, float64(0x2000+50+a), false)
	}
	flag := func(addr, every int) float64 {
		if addr%every == 0 {
			return 1
		}
		return 0
	}
	for a := 0; a < 2000; a += 13 {
		add(firmwareconfig.Coil, a, flag(a, 3), a == 13)
		add(firmwareconfig.DiscreteInput, 99+a, flag(99+a, 5), false)
	}
	u = unitOf("u", conformanceUnit, 0, chs...)
	u.Profile.Timing.Timeout = 3 * time.Second // a busy machine, not a slow device
	return u, want
}

func number(v telemetry.Value) float64 {
	if v.Kind() == telemetry.Bool {
		if v.Bool() {
			return 1
		}
		return 0
	}
	return v.Float()
}

// The same servers through a bus: every table, full blocks, writes with reading back.
func TestConformanceOfABus(t *testing.T) {
	for _, s := range servers() {
		for _, transport := range transports {
			t.Run(s.name+"/"+transport, func(t *testing.T) {
				t.Parallel()
				u, want := conformanceUnitOf()
				c := s.start(t, transport)
				c.Units = []firmwareconfig.Unit{u}
				r := openRig(t, c)
				got := r.readAll(len(want))
				for id, w := range want {
					if g := got[id]; g.Quality != telemetry.Good || number(g.Value) != w {
						t.Errorf("point %d = %v %v, want %v", id, g.Value, g.Quality, w)
					}
				}
				for id, ch := range u.Profile.Channels {
					if !ch.Writable {
						continue
					}
					v := telemetry.FloatValue(4711)
					if ch.Table.Bits() {
						v = telemetry.BoolValue(want[telemetry.PointID(id)] == 0)
					}
					if err := r.bus.Write(t.Context(), telemetry.PointID(id), v); err != nil {
						t.Errorf("write %s: %v", ch.Name, err)
					}
					clear(r.last)
					if g := r.readAll(len(want))[telemetry.PointID(id)]; g.Value != v {
						t.Errorf("after writing %v, %s reads %v %v", v, ch.Name, g.Value, g.Quality)
					}
				}
			})
		}
	}
}

// openRig opens a bus for real and drives it with its own time.
func openRig(t *testing.T, c modbus.Config) *ptyRig {
	t.Helper()
	r := &rig{t: t, clock: telemetry.NewClock("test", 0, time.Time{}), last: map[telemetry.PointID]telemetry.Sample{}}
	c.Clock = r.clock
	bus, err := modbus.New(c)
	if err != nil {
		t.Fatal(err)
	}
	r.bus = bus
	t.Cleanup(func() { _ = bus.Close() })
	return &ptyRig{rig: r}
}

// readAll steps until n points have been told since the last clear.
func (r *ptyRig) readAll(n int) map[telemetry.PointID]telemetry.Sample {
	r.t.Helper()
	for range 500 {
		if r.steps(1); len(r.last) >= n {
			return r.last
		}
	}
	r.t.Fatalf("only %d of %d points were told; %+v", len(r.last), n, r.bus.Health())
	return nil
}

// Whatever a unit does to its frames, no value is wrong, the other units of the bus are read, and the unit is back once
// it behaves.
func TestConformanceOfSpoiltFrames(t *testing.T) {
	for _, transport := range transports {
		for _, every := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s/every %d", transport, every), func(t *testing.T) {
				t.Parallel()
				c, community := startSimulated(t, transport)
				// Reads of one length, so that nothing but the rules of the line keeps them apart.
				var chs []firmwareconfig.Channel
				for k := range 6 {
					ch := u16(fmt.Sprintf("c%d", k), 30*k)
					ch.Every = time.Second
					chs = append(chs, ch)
				}
				u := unitOf("u", conformanceUnit, 0, chs...)
				u.Profile.Timing.Timeout = 20 * time.Millisecond
				c.Units = []firmwareconfig.Unit{u}
				r := openRig(t, c)
				check := func(what string) (good, bad int) {
					t.Helper()
					for _, s := range r.all {
						switch want := float64(0x1000 + 30*int(s.Point)); {
						case s.Quality.Bad():
							bad++
						case s.Value.Float() != want:
							t.Errorf("%s: point %d = %v %v, want %v", what, s.Point, s.Value, s.Quality, want)
						default:
							good++
						}
					}
					r.all = nil
					return good, bad
				}
				recover := func(what string) {
					t.Helper()
					if err := community.Misbehave("u", simulate.Fault{}); err != nil {
						t.Fatal(err)
					}
					for range 400 {
						r.steps(1)
						n := 0
						for _, s := range r.last {
							if !s.Quality.Bad() {
								n++
							}
						}
						if n == len(chs) {
							check(what)
							return
						}
					}
					t.Fatalf("%s: the unit did not come back: %+v", what, r.bus.Health())
				}
				recover("at the start")
				faults := []simulate.Fault{{Garbage: true}, {Silent: true}, {Late: 1}, {Late: 2}}
				if every == 1 {
					faults = append(faults, simulate.Fault{Late: 3}) // in order; every third by three would not be
				}
				for _, f := range simulate.FrameFaults() {
					faults = append(faults, simulate.Fault{Frame: f})
				}
				for _, f := range faults {
					f.Every = every
					what := fmt.Sprintf("%+v", f)
					if err := community.Misbehave("u", f); err != nil {
						t.Fatal(err)
					}
					r.steps(10)
					good, bad := check(what)
					harmless := f.Frame == simulate.NoiseAfter || f.Frame == simulate.Oversized || f.Frame == simulate.NoiseBefore || f.Frame == simulate.LongData || f.Frame == simulate.Trickle
					if every == 1 && good > 0 && !harmless {
						t.Errorf("%s: %d good values", what, good)
					}
					t.Logf("%s: %d good, %d bad, %v", what, good, bad, r.bus.Health().Units[0].LastError)
					clear(r.last)
					recover(what)
				}
			})
		}
	}
}

// Every exception code, with what becomes of the points.
func TestConformanceOfExceptions(t *testing.T) {
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			for code := byte(1); code <= 11; code++ {
				c, community := startSimulated(t, transport)
				u := unitOf("u", conformanceUnit, 0, u16("a", 1), u16("b", 100))
				u.Profile.Timing.Timeout = time.Second
				c.Units = []firmwareconfig.Unit{u}
				r := openRig(t, c)
				if err := community.Misbehave("u", simulate.Fault{Exception: code}); err != nil {
					t.Fatal(err)
				}
				r.steps(30)
				want := telemetry.BadSensor
				if code >= 10 {
					want = telemetry.BadComm // the gateway says so, not the unit
				}
				r.want(0, 0, want)
				r.want(1, 0, want)
				if h := r.bus.Health().Units[0]; h.Exceptions == 0 || h.Timeouts+h.Errors > 0 {
					t.Errorf("exception %d: %+v", code, h)
				}
				if err := r.bus.Close(); err != nil && !errors.Is(err, io.EOF) {
					t.Error(err)
				}
			}
		})
	}
}
