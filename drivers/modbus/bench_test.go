package modbus_test

import (
	"net"
	"testing"
	"time"

	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// sixty returns a unit of sixty registers in one block: u16, s16, u32 in both orders and f32.
func sixty() (firmwareconfig.Unit, *tables) {
	d := newTables()
	var chs []firmwareconfig.Channel
	encs := []firmwareconfig.Encoding{firmwareconfig.EncU16, firmwareconfig.EncS16, firmwareconfig.EncU32, firmwareconfig.EncF32}
	for a, i := 0, 0; a < 60; i++ {
		c := u16("c"+string(rune('a'+i%26))+string(rune('a'+i/26)), a)
		c.Encoding, c.Scale, c.LittleWords, c.Invalid = encs[i%4], 0.1, i%8 == 2, []uint64{0x7FFF}
		if a+c.Encoding.Registers() > 60 {
			c.Encoding = firmwareconfig.EncU16
		}
		c.Every = time.Second
		chs = append(chs, c)
		a += c.Encoding.Registers()
	}
	for a := range 60 {
		d.set(a, uint16(a))
	}
	return unitOf("a", 1, 0, chs...), d
}

// BenchmarkStepTCP is one read of sixty registers over TCP on loopback, from the choice of the block to the samples.
// The server in the same process allocates for each answer too.
func BenchmarkStepTCP(b *testing.B) {
	u, d := sixty()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		ans := d.answer([]byte{3, 0, 0, 0, 60})
		buf, out := make([]byte, 64), make([]byte, 0, 256)
		for {
			if n, err := c.Read(buf); err != nil || n < 12 {
				return
			}
			out = modbus.AppendTCP(out[:0], uint16(buf[0])<<8|uint16(buf[1]), buf[6], ans)
			if _, err := c.Write(out); err != nil {
				return
			}
		}
	}()
	bus, err := modbus.New(modbus.Config{Name: "b", Transport: modbus.TCP, Address: l.Addr().String(), Timeout: 5 * time.Second, Units: []firmwareconfig.Unit{u}})
	if err != nil {
		b.Fatal(err)
	}
	defer bus.Close()
	var s []telemetry.Sample
	var now telemetry.Mono
	values := 0
	b.ReportAllocs()
	for b.Loop() {
		s, now = bus.Step(b.Context(), now, s[:0])
		values += len(s)
	}
	if values != b.N*len(u.Bindings) {
		b.Fatalf("%d values of %d", values, b.N*len(u.Bindings))
	}
	b.ReportMetric(float64(values)/b.Elapsed().Seconds(), "values/s")
}

// BenchmarkDecode is the decoding of those sixty registers alone.
func BenchmarkDecode(b *testing.B) {
	u, d := sixty()
	dec, err := modbus.NewDecoder(&u)
	if err != nil {
		b.Fatal(err)
	}
	data := d.answer([]byte{3, 0, 0, 0, 60})[2:]
	var s []telemetry.Sample
	values := 0
	b.ReportAllocs()
	for b.Loop() {
		s = dec(s[:0], data, telemetry.Mono(values))
		values += len(s)
	}
	b.ReportMetric(float64(values)/b.Elapsed().Seconds(), "values/s")
}

func TestDecodeDoesNotAllocate(t *testing.T) {
	u, d := sixty()
	dec, err := modbus.NewDecoder(&u)
	if err != nil {
		t.Fatal(err)
	}
	data := d.answer([]byte{3, 0, 0, 0, 60})[2:]
	s := make([]telemetry.Sample, 0, 100)
	if n := testing.AllocsPerRun(100, func() { s = dec(s[:0], data, 1) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkPick is the choice of the next transaction among 250 units with ten requests each: the largest bus.
func BenchmarkPick(b *testing.B) {
	var units []firmwareconfig.Unit
	for i := range 250 {
		var chs []firmwareconfig.Channel
		for a := range 10 {
			chs = append(chs, u16("c"+string(rune('a'+a)), 100*a))
		}
		units = append(units, unitOf("u"+string(rune('a'+i%26))+string(rune('a'+i/26)), i+1, telemetry.PointID(10*i), chs...))
	}
	bus, err := modbus.New(modbus.Config{Name: "b", Transport: modbus.TCP, Address: "127.0.0.1:1", Units: units})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		bus.Pick()
	}
}

// BenchmarkReadSixty is what surrounds the exchange of a read of sixty registers.
func BenchmarkReadSixty(b *testing.B) {
	u, d := sixty()
	next, err := modbus.NewReader(u, d.answer([]byte{3, 0, 0, 0, 60})[2:])
	if err != nil {
		b.Fatal(err)
	}
	s := make([]telemetry.Sample, 0, 100)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		s = next(s[:0])
		n += len(s)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/value")
}
