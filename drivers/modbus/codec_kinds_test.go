package modbus_test

import (
	"encoding/hex"
	"errors"
	"math"
	"strings"
	"testing"

	"linli/drivers"
	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

func octets(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The kinds of registers that devices in the field really have, beyond plain numbers.
func TestDecodeKinds(t *testing.T) {
	type ch = firmwareconfig.Channel
	f, i, text := telemetry.Float, telemetry.Int, telemetry.KindText
	fv, iv, tv := telemetry.FloatValue, telemetry.IntValue, telemetry.TextValue
	none := telemetry.Value{}
	const good, sensor = telemetry.Good, telemetry.BadSensor
	str := func(n int) ch { return ch{Encoding: firmwareconfig.EncString, Count: n} }
	for _, c := range []struct {
		name string
		ch   ch
		kind telemetry.Kind
		data string
		want telemetry.Value
		q    telemetry.Quality
	}{
		{"u32 ABCD", ch{Encoding: firmwareconfig.EncU32}, i, "01 02 03 04", iv(0x01020304), good},
		{"u32 CDAB", ch{Encoding: firmwareconfig.EncU32, LittleWords: true}, i, "03 04 01 02", iv(0x01020304), good},
		{"u32 BADC", ch{Encoding: firmwareconfig.EncU32, LittleBytes: true}, i, "02 01 04 03", iv(0x01020304), good},
		{"u32 DCBA", ch{Encoding: firmwareconfig.EncU32, LittleWords: true, LittleBytes: true}, i, "04 03 02 01", iv(0x01020304), good},
		{"f32 DCBA", ch{Encoding: firmwareconfig.EncF32, LittleWords: true, LittleBytes: true}, f, "00 80 66 43", fv(230.5), good},
		{"s64 DCBA", ch{Encoding: firmwareconfig.EncS64, LittleWords: true, LittleBytes: true}, i, "FE FF FF FF FF FF FF FF", iv(-2), good},
		{"s16 BA", ch{Encoding: firmwareconfig.EncS16, LittleBytes: true}, i, "FE FF", iv(-2), good},
		{"sentinel after the bytes are in order", ch{Encoding: firmwareconfig.EncU16, LittleBytes: true, Invalid: []uint64{0x7FFF}}, i, "FF 7F", none, sensor},
		{"bit after the bytes are in order", ch{Encoding: firmwareconfig.EncU16, LittleBytes: true, Bit: 8, Width: 8}, i, "11 22", iv(0x22), good},

		{"bcd16", ch{Encoding: firmwareconfig.EncBCD16}, i, "12 34", iv(1234), good},
		{"bcd16 scaled", ch{Encoding: firmwareconfig.EncBCD16, Scale: 0.1}, f, "12 34", fv(123.4), good},
		{"bcd16 all nines", ch{Encoding: firmwareconfig.EncBCD16}, i, "99 99", iv(9999), good},
		{"bcd16 with a letter", ch{Encoding: firmwareconfig.EncBCD16}, i, "12 3A", none, sensor},
		{"bcd16 of ones", ch{Encoding: firmwareconfig.EncBCD16}, i, "FF FF", none, sensor},
		{"bcd32 little words", ch{Encoding: firmwareconfig.EncBCD32, LittleWords: true}, i, "56 78 12 34", iv(12345678), good},
		{"one digit of bcd16", ch{Encoding: firmwareconfig.EncBCD16, Bit: 4, Width: 8}, i, "F2 3F", iv(23), good},

		{"u8 low", ch{Encoding: firmwareconfig.EncU16, Width: 8}, i, "12 FE", iv(0xFE), good},
		{"u8 high", ch{Encoding: firmwareconfig.EncU16, Bit: 8, Width: 8}, i, "FE 12", iv(0xFE), good},
		{"s8 low", ch{Encoding: firmwareconfig.EncS16, Width: 8}, i, "12 FE", iv(-2), good},
		{"sentinel of a byte", ch{Encoding: firmwareconfig.EncU16, Width: 8, Invalid: []uint64{0xFF}}, i, "12 FF", none, sensor},
		{"sentinel of the whole register", ch{Encoding: firmwareconfig.EncU16, Width: 8, Invalid: []uint64{0x7FFF}}, i, "7F FF", none, sensor},
		{"no sentinel of another byte", ch{Encoding: firmwareconfig.EncU16, Width: 8, Invalid: []uint64{0x7FFF}}, i, "12 FF", iv(255), good},

		{"text", str(4), text, "41 42 43 31 00 00 00 00", tv("ABC1"), good},
		{"text ends at NUL", str(4), text, "41 42 00 31 32 33 34 35", tv("AB"), good},
		{"spaces are taken off", str(4), text, "20 41 20 42 20 20 00 00", tv("A B"), good},
		{"swapped", ch{Encoding: firmwareconfig.EncString, Count: 2, LittleBytes: true}, text, "42 41 44 43", tv("ABCD"), good},
		{"one character a register", ch{Encoding: firmwareconfig.EncString, Count: 3, OneChar: true}, text, "00 50 00 4D 00 43", tv("PMC"), good},
		{"one character a register, high", ch{Encoding: firmwareconfig.EncString, Count: 3, OneChar: true, LittleBytes: true}, text, "50 00 4D 00 43 00", tv("PMC"), good},
		{"UTF-8", str(3), text, "E9 82 BB E9 87 8C", tv("邻里"), good},
		{"nothing in it", str(2), text, "00 00 00 00", tv(""), good},
		{"unwritten flash", str(2), text, "FF FF FF FF", none, sensor},
		{"control character", str(2), text, "41 07 42 00", none, sensor},
		{"half a character", str(2), text, "41 E9 82 00", none, sensor},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.ch.Table = firmwareconfig.HoldingRegister
			v, q := modbus.NewCodec(&c.ch, firmwareconfig.Binding{Def: def("p", c.kind)}).Decode(octets(t, c.data))
			if v != c.want || q != c.q {
				t.Errorf("got %v %v, want %v %v", v, q, c.want, c.q)
			}
		})
	}
}

func TestScaleFromAnotherRegister(t *testing.T) {
	decimals := firmwareconfig.Channel{Table: firmwareconfig.HoldingRegister, Address: 4, Encoding: firmwareconfig.EncS16, Scale: 1, Offset: 1,
		ScaleFrom: &firmwareconfig.ScaleFrom{Table: firmwareconfig.HoldingRegister, Address: 3, Decimals: true}}
	codes := decimals
	codes.Offset, codes.Scale = 0, 2
	codes.ScaleFrom = &firmwareconfig.ScaleFrom{Values: []firmwareconfig.ScaleValue{{Code: 1, Scale: 10}, {Code: 2, Scale: 0.1}}}
	data := []byte{0xFF, 0x85} // -123
	for _, c := range []struct {
		name string
		ch   *firmwareconfig.Channel
		code uint16
		want float64
		q    telemetry.Quality
	}{
		{"no decimals", &decimals, 0, -122, telemetry.Good},
		{"two decimals", &decimals, 2, -0.23, telemetry.Good},
		{"nine decimals", &decimals, 9, 1 - 123e-9, telemetry.Good},
		{"ten decimals are nonsense", &decimals, 10, 0, telemetry.BadSensor},
		{"code 1", &codes, 1, -2460, telemetry.Good},
		{"code 2", &codes, 2, -24.6, telemetry.Good},
		{"unknown code", &codes, 3, 0, telemetry.BadSensor},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := modbus.NewCodec(c.ch, firmwareconfig.Binding{Def: def("p", telemetry.Float)})
			if _, q := k.Decode(data); q != telemetry.BadSensor {
				t.Errorf("before the scale is known: %v", q)
			}
			k.SetScale(c.code)
			v, q := k.Decode(data)
			if q != c.q || q == telemetry.Good && math.Abs(v.Float()-c.want) > 1e-12 {
				t.Errorf("got %v %v, want %v %v", v, q, c.want, c.q)
			}
			k.LoseScale()
			if _, q := k.Decode(data); q != telemetry.BadSensor {
				t.Errorf("after the scale was lost: %v", q)
			}
		})
	}
}

func TestCounter(t *testing.T) {
	type ch = firmwareconfig.Channel
	const none = -1 << 62
	u16 := ch{Encoding: firmwareconfig.EncU16, Counter: true}
	for _, c := range []struct {
		name string
		ch   ch
		raw  []uint32
		want []int64
	}{
		{"rises", u16, []uint32{5, 7, 7, 900}, []int64{5, 7, 7, 900}},
		{"wraps", u16, []uint32{65530, 3, 65529, 2}, []int64{65530, 65539, 131065, 131074}},
		{"starts high", u16, []uint32{40000, 100}, []int64{40000, 100}},
		{"last of the top eighth", u16, []uint32{57344, 8191}, []int64{57344, 73727}},
		{"just below the top eighth", u16, []uint32{57343, 8191}, []int64{57343, 8191}},
		{"just above the bottom eighth", u16, []uint32{57344, 8192}, []int64{57344, 8192}},
		{"a reset forgets the wraps", u16, []uint32{65530, 3, 1, 2}, []int64{65530, 65539, 1, 2}},
		{"a small step back is passed on", u16, []uint32{500, 499, 501}, []int64{500, 499, 501}},
		{"a sentinel is no fall", ch{Encoding: firmwareconfig.EncU16, Counter: true, Invalid: []uint64{0}}, []uint32{65530, 0, 4}, []int64{65530, none, 65540}},
		{"u32", ch{Encoding: firmwareconfig.EncU32, Counter: true}, []uint32{0xFFFFFFF0, 0x10}, []int64{0xFFFFFFF0, 0x100000010}},
		{"s32", ch{Encoding: firmwareconfig.EncS32, Counter: true}, []uint32{0x7FFFFFFF, 0x80000001}, []int64{0x7FFFFFFF, 0x80000001}},
		{"bcd16", ch{Encoding: firmwareconfig.EncBCD16, Counter: true}, []uint32{0x9999, 0x0002}, []int64{9999, 10002}},
		{"u8", ch{Encoding: firmwareconfig.EncU16, Width: 8, Counter: true}, []uint32{0x12FE, 0x5601}, []int64{254, 257}},
		{"f32 has no end", ch{Encoding: firmwareconfig.EncF32, Counter: true}, []uint32{0x4B800000, 0}, []int64{1 << 24, 0}},
		{"u16 that is none", ch{Encoding: firmwareconfig.EncU16}, []uint32{65530, 3}, []int64{65530, 3}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.ch.Table = firmwareconfig.InputRegister
			k := modbus.NewCodec(&c.ch, firmwareconfig.Binding{Def: def("p", telemetry.Int)})
			for i, raw := range c.raw {
				data := []byte{byte(raw >> 24), byte(raw >> 16), byte(raw >> 8), byte(raw)}
				if c.ch.Encoding.Registers() == 1 {
					data = data[2:]
				}
				v, q := k.Decode(data)
				if c.want[i] == none {
					if q != telemetry.BadSensor {
						t.Errorf("step %d: got %v %v, want no reading", i, v, q)
					}
				} else if v != telemetry.IntValue(c.want[i]) || q != telemetry.Good {
					t.Errorf("step %d: got %v %v, want %d", i, v, q, c.want[i])
				}
			}
		})
	}
}

func TestCommands(t *testing.T) {
	type ch = firmwareconfig.Channel
	values := []firmwareconfig.WriteValue{{Value: 0, Raw: 128}, {Value: 1, Raw: 384}}
	for _, c := range []struct {
		name string
		ch   ch
		v    telemetry.Value
		want uint16
		fail bool
	}{
		{"on", ch{Encoding: firmwareconfig.EncU16, Width: 3, WriteValues: values}, telemetry.IntValue(1), 384, false},
		{"off", ch{Encoding: firmwareconfig.EncU16, Width: 3, WriteValues: values}, telemetry.IntValue(0), 128, false},
		{"unlisted", ch{Encoding: firmwareconfig.EncU16, Width: 3, WriteValues: values}, telemetry.IntValue(2), 0, true},
		{"bool", ch{Encoding: firmwareconfig.EncBool, Bit: 2, Width: 1, WriteValues: values}, telemetry.BoolValue(true), 384, false},
		{"bool that reads inverted", ch{Encoding: firmwareconfig.EncBool, Invert: true, Bit: 2, Width: 1, WriteValues: values}, telemetry.BoolValue(true), 384, false},
		{"signed", ch{Encoding: firmwareconfig.EncS16, WriteValues: []firmwareconfig.WriteValue{{Value: -1, Raw: 7}}}, telemetry.IntValue(-1), 7, false},
		{"bcd", ch{Encoding: firmwareconfig.EncBCD16, WriteValues: []firmwareconfig.WriteValue{{Value: 12, Raw: 7}}}, telemetry.IntValue(12), 7, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.ch.Table = firmwareconfig.HoldingRegister
			got, err := modbus.NewCodec(&c.ch, firmwareconfig.Binding{Def: def("p", c.v.Kind())}).Command(c.v)
			if c.fail {
				if !errors.Is(err, drivers.ErrRange) {
					t.Errorf("got %d, %v; want ErrRange", got, err)
				}
			} else if got != c.want || err != nil {
				t.Errorf("got %d, %v; want %d", got, err, c.want)
			}
		})
	}
	text := firmwareconfig.Channel{Table: firmwareconfig.HoldingRegister, Encoding: firmwareconfig.EncString, Count: 2}
	if _, err := modbus.NewCodec(&text, firmwareconfig.Binding{Def: def("p", telemetry.KindText)}).Command(telemetry.TextValue("x")); !errors.Is(err, drivers.ErrNotWritable) {
		t.Errorf("a string was written: %v", err)
	}
}

// Numbers of every encoding are decoded without an allocation, and a string that stays the same too.
func TestEveryEncodingIsDecodedWithoutAllocating(t *testing.T) {
	var codecs []*modbus.Codec
	for e := firmwareconfig.EncBool; e <= firmwareconfig.EncString; e++ {
		ch := &firmwareconfig.Channel{Table: firmwareconfig.HoldingRegister, Encoding: e, Count: 4, Counter: true, LittleBytes: e%2 == 0, Invalid: []uint64{7}}
		kind := telemetry.Float
		switch e {
		case firmwareconfig.EncBool:
			kind = telemetry.Bool
		case firmwareconfig.EncString:
			kind = telemetry.KindText
		default:
			ch.ScaleFrom = &firmwareconfig.ScaleFrom{Values: []firmwareconfig.ScaleValue{{Code: 1, Scale: 0.1}}}
		}
		codecs = append(codecs, modbus.NewCodec(ch, firmwareconfig.Binding{Def: def("p", kind)}))
	}
	data := []byte("12345678")
	if n := testing.AllocsPerRun(100, func() {
		for _, c := range codecs {
			c.SetScale(1)
			c.Decode(data)
		}
	}); n != 0 {
		t.Errorf("%v allocations for %d values", n, len(codecs))
	}
}

// Whatever is in the registers: no panic, and nothing that is no number or no text is called good.
func FuzzCodec(f *testing.F) {
	f.Add(uint8(1), uint8(0), uint8(0), uint8(0), uint16(2), []byte{0x12, 0x34, 0x56, 0x78, 1, 2, 3, 4})
	f.Add(uint8(13), uint8(3), uint8(4), uint8(8), uint16(9), []byte("text\x00with"))
	f.Fuzz(func(t *testing.T, enc, flags, bit, width uint8, code uint16, data []byte) {
		ch := &firmwareconfig.Channel{Table: firmwareconfig.HoldingRegister, Encoding: firmwareconfig.Encoding(enc%13 + 1), Scale: 0.1,
			LittleWords: flags&1 != 0, LittleBytes: flags&2 != 0, OneChar: flags&4 != 0, Counter: flags&8 != 0, Count: int(flags>>4) + 1}
		if ch.Encoding.Registers() == 1 && ch.Encoding != firmwareconfig.EncString {
			ch.Bit, ch.Width = int(bit%16), int(width%17)
			ch.Width = min(ch.Width, 16-ch.Bit)
		}
		kind := telemetry.Float
		switch ch.Encoding {
		case firmwareconfig.EncBool:
			kind = telemetry.Bool
		case firmwareconfig.EncString:
			kind = telemetry.KindText
		default:
			if flags&32 != 0 {
				ch.ScaleFrom = &firmwareconfig.ScaleFrom{Decimals: true}
			}
		}
		if len(data) < 2*ch.Registers() {
			return
		}
		c := modbus.NewCodec(ch, firmwareconfig.Binding{Def: def("p", kind)})
		c.SetScale(code)
		for range 2 {
			if v, q := c.Decode(data); q == telemetry.Good && v.Kind() != kind || q.Bad() && !v.IsZero() {
				t.Errorf("%v: got %v %v", ch.Encoding, v, q)
			}
		}
	})
}
