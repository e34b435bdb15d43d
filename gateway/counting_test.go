package main

import (
	be "encoding/binary"
	"fmt"
	"io"
	"math"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"linli/internal/testservers"
)

// countingBus is a Modbus TCP endpoint that is none of the product's code. What it serves is up to answer; every good read
// is written down when it is answered.
type countingBus struct {
	port   int
	answer func(unit, address, count int) []uint16 // called under mu

	mu     sync.Mutex
	reads  []servedWords
	inputs map[int]bool // unit<<16 | address
	coils  map[int]bool // likewise
	wrote  []coilWrite
}

// servedWords is one read as it was answered.
type servedWords struct {
	at            time.Time
	unit, address int
	words         []uint16
}

// coilWrite is one write of a coil.
type coilWrite struct {
	at            time.Time
	unit, address int
	on            bool
}

// servedValue is a value of a counter and when it was served.
type servedValue struct {
	n  int
	at time.Time
}

// counted returns what was served of the counter that soak and whole runs have: the two registers from 0 on of unit 1.
func (b *countingBus) counted() (all []servedValue) {
	for _, r := range b.served() {
		if r.unit == 1 && r.address == 0 && len(r.words) >= 2 { // Now and then another register is read alone.
			all = append(all, servedValue{int(r.words[0])<<16 | int(r.words[1]), r.at})
		}
	}
	return all
}

// floatWords returns the registers of a 64-bit value, the highest first.
func floatWords(v float64) []uint16 {
	bits := math.Float64bits(v)
	return []uint16{uint16(bits >> 48), uint16(bits >> 32), uint16(bits >> 16), uint16(bits)}
}

// serveCounting serves until the test ends.
func serveCounting(t *testing.T, answer func(unit, address, count int) []uint16) *countingBus {
	t.Helper()
	l := testservers.Listen(t)
	b := &countingBus{port: l.Addr().(*net.TCPAddr).Port, answer: answer, inputs: map[int]bool{}, coils: map[int]bool{}}
	testservers.Serve(t, l, b.serve)
	return b
}

// serve answers one connection.
func (b *countingBus) serve(conn net.Conn) {
	head := make([]byte, 7)
	for {
		if _, err := io.ReadFull(conn, head); err != nil {
			return
		}
		n := int(be.BigEndian.Uint16(head[4:])) - 1
		if n < 2 || n > 256 {
			return
		}
		pdu := make([]byte, n)
		if _, err := io.ReadFull(conn, pdu); err != nil {
			return
		}
		reply := b.reply(int(head[6]), pdu)
		out := append([]byte(nil), head...)
		be.BigEndian.PutUint16(out[4:], uint16(len(reply)+1))
		if _, err := conn.Write(append(out, reply...)); err != nil {
			return
		}
	}
}

func (b *countingBus) reply(unit int, pdu []byte) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	refuse := func(code byte) []byte { return []byte{pdu[0] | 0x80, code} }
	if len(pdu) < 5 {
		return refuse(3)
	}
	address, count := int(be.BigEndian.Uint16(pdu[1:])), int(be.BigEndian.Uint16(pdu[3:]))
	switch pdu[0] {
	case 1, 2:
		bits := b.coils
		if pdu[0] == 2 {
			bits = b.inputs
		}
		out := append([]byte{pdu[0], byte((count + 7) / 8)}, make([]byte, (count+7)/8)...)
		for i := range count {
			if bits[unit<<16|(address+i)] {
				out[2+i/8] |= 1 << (i % 8)
			}
		}
		return out
	case 3, 4:
		words := b.answer(unit, address, count)
		if len(words) != count {
			return refuse(2)
		}
		b.reads = append(b.reads, servedWords{time.Now(), unit, address, words})
		out := []byte{pdu[0], byte(2 * count)}
		for _, w := range words {
			out = be.BigEndian.AppendUint16(out, w)
		}
		return out
	case 5:
		on := count == 0xFF00
		b.coils[unit<<16|address] = on
		b.wrote = append(b.wrote, coilWrite{time.Now(), unit, address, on})
		return pdu[:5]
	case 15:
		for i := range count {
			on := len(pdu) > 6+i/8 && pdu[6+i/8]>>(i%8)&1 != 0
			b.coils[unit<<16|(address+i)] = on
			b.wrote = append(b.wrote, coilWrite{time.Now(), unit, address + i, on})
		}
		return pdu[:5]
	}
	return refuse(1)
}

// set makes an input what a device would show.
func (b *countingBus) set(unit, address int, on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inputs[unit<<16|address] = on
}

// coil returns what a coil is.
func (b *countingBus) coil(unit, address int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.coils[unit<<16|address]
}

// writesSince returns the writes of coils from a moment on.
func (b *countingBus) writesSince(at time.Time) (writes []coilWrite) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, w := range b.wrote {
		if !w.at.Before(at) {
			writes = append(writes, w)
		}
	}
	return writes
}

// served returns the reads so far.
func (b *countingBus) served() []servedWords {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.reads[:len(b.reads):len(b.reads)]
}

// communitySite is a site of meters that are read once a second, seven values each.
func communitySite(meters, port int, broker string, console int, more string) string {
	var units, devices strings.Builder
	for i := range meters {
		fmt.Fprintf(&units, "      - {id: u%d, address: %d, profile: quick_meter}\n", i, i+1)
		fmt.Fprintf(&devices, "  - {id: meter_%d, unit: u%d, zone: yard, title: {zh: 电表, en: Meter}}\n", i, i)
	}
	return fmt.Sprintf(yardHead+`buses:
  - id: tcp_1
    modbus_tcp: {address: "127.0.0.1:%d"}
    units:
%sdevices:
%srules:
  - {pack: gateway}
uplink: {brokers: ["tcp://%s"], batch: 1s}
console: {listen: "127.0.0.1:%d"}
%s`, port, units.String(), devices.String(), broker, console, more)
}

const quickMeter = "version: 1\nprofile: quick_meter" + profileHead + `  - {name: voltage, table: input, address: 0, type: u16, scale: 0.1, unit: V, every: 1s}
  - {name: current, table: input, address: 1, type: u16, scale: 0.01, unit: A, every: 1s}
  - {name: power, table: input, address: 2, type: u16, scale: 0.1, unit: W, every: 1s}
  - {name: energy, table: input, address: 3, type: u32, unit: Wh, every: 1s}
  - {name: frequency, table: input, address: 5, type: u16, scale: 0.01, unit: Hz, every: 1s}
  - {name: power_factor, table: input, address: 6, type: u16, scale: 0.01, every: 1s}
  - {name: overload, table: input, address: 7, type: bool, bit: 0, every: 1s}
device:
  class: energy_meter
  points: {voltage_v: voltage, current_a: current, active_power_w: power, energy_kwh: energy, frequency_hz: frequency, power_factor: power_factor, overload: overload}
`
