package modbus_test

import (
	"errors"
	"math"
	"testing"

	"linli/drivers"
	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

func ptr(f float64) *float64 { return &f }

func TestDecode(t *testing.T) {
	f, i, b, e := telemetry.Float, telemetry.Int, telemetry.Bool, telemetry.Enum
	fv, iv, bv := telemetry.FloatValue, telemetry.IntValue, telemetry.BoolValue
	none := telemetry.Value{}
	type ch = firmwareconfig.Channel
	type bind = firmwareconfig.Binding
	for _, c := range []struct {
		name string
		ch   ch
		b    bind
		kind telemetry.Kind
		data []byte
		want telemetry.Value
		q    telemetry.Quality
	}{
		{"u16 scaled is the nearest decimal", ch{Encoding: firmwareconfig.EncU16, Scale: 0.1}, bind{}, f, []byte{0x08, 0xD1}, fv(225.7), telemetry.Good},
		{"scale 0 is 1", ch{Encoding: firmwareconfig.EncU16}, bind{}, f, []byte{0, 7}, fv(7), telemetry.Good},
		{"offset", ch{Encoding: firmwareconfig.EncU16, Scale: 0.1, Offset: -40}, bind{}, f, []byte{0x02, 0x58}, fv(20), telemetry.Good},
		{"s16 negative", ch{Encoding: firmwareconfig.EncS16, Scale: 0.1}, bind{}, f, []byte{0xFF, 0x9B}, fv(-10.1), telemetry.Good},
		{"offset 10000 positive", ch{Encoding: firmwareconfig.EncS16Offset10000, Scale: 0.1}, bind{}, f, []byte{0x00, 0xFB}, fv(25.1), telemetry.Good},
		{"offset 10000 negative", ch{Encoding: firmwareconfig.EncS16Offset10000, Scale: 0.1}, bind{}, f, []byte{0x27, 0x75}, fv(-10.1), telemetry.Good},
		{"u32 big words", ch{Encoding: firmwareconfig.EncU32}, bind{}, i, []byte{0, 1, 0, 2}, iv(65538), telemetry.Good},
		{"u32 little words", ch{Encoding: firmwareconfig.EncU32, LittleWords: true, Scale: 0.001}, bind{}, f, []byte{0, 0x6C, 0, 0}, fv(0.108), telemetry.Good},
		{"s32 little words", ch{Encoding: firmwareconfig.EncS32, LittleWords: true}, bind{}, i, []byte{0xFF, 0xFE, 0xFF, 0xFF}, iv(-2), telemetry.Good},
		{"u64 past 2^53 stays exact", ch{Encoding: firmwareconfig.EncU64}, bind{}, i, []byte{0, 0x20, 0, 0, 0, 0, 0, 1}, iv(1<<53 + 1), telemetry.Good},
		{"u64 past int64 has no int", ch{Encoding: firmwareconfig.EncU64}, bind{}, i, []byte{255, 255, 255, 255, 255, 255, 255, 254}, none, telemetry.BadSensor},
		{"s64", ch{Encoding: firmwareconfig.EncS64}, bind{}, i, []byte{255, 255, 255, 255, 255, 255, 255, 254}, iv(-2), telemetry.Good},
		{"f32", ch{Encoding: firmwareconfig.EncF32}, bind{}, f, []byte{0x43, 0x66, 0x80, 0x00}, fv(230.5), telemetry.Good},
		{"f32 little words", ch{Encoding: firmwareconfig.EncF32, LittleWords: true}, bind{}, f, []byte{0x80, 0x00, 0x43, 0x66}, fv(230.5), telemetry.Good},
		{"f32 NaN", ch{Encoding: firmwareconfig.EncF32}, bind{}, f, []byte{0x7F, 0xC0, 0, 0}, none, telemetry.BadSensor},
		{"f32 infinity", ch{Encoding: firmwareconfig.EncF32, Max: ptr(10)}, bind{}, f, []byte{0x7F, 0x80, 0, 0}, none, telemetry.BadSensor},
		{"f64", ch{Encoding: firmwareconfig.EncF64}, bind{}, f, []byte{0x40, 0x09, 0x21, 0xFB, 0x54, 0x44, 0x2D, 0x18}, fv(math.Pi), telemetry.Good},
		{"sentinel in s16 is found raw", ch{Encoding: firmwareconfig.EncS16, Scale: 0.1, Invalid: []uint64{0xFFFF}}, bind{}, f, []byte{255, 255}, none, telemetry.BadSensor},
		{"-1 without sentinel", ch{Encoding: firmwareconfig.EncS16}, bind{}, i, []byte{255, 255}, iv(-1), telemetry.Good},
		{"32-bit sentinel", ch{Encoding: firmwareconfig.EncU32, Invalid: []uint64{0xFFFFFFFF}}, bind{}, f, []byte{255, 255, 255, 255}, none, telemetry.BadSensor},
		{"bit of a register", ch{Encoding: firmwareconfig.EncBool, Bit: 9}, bind{}, b, []byte{2, 0}, bv(true), telemetry.Good},
		{"any bit of a register", ch{Encoding: firmwareconfig.EncBool, NonZero: true}, bind{}, b, []byte{0x80, 0}, bv(true), telemetry.Good},
		{"no bit of a register", ch{Encoding: firmwareconfig.EncBool, NonZero: true}, bind{}, b, []byte{0, 0}, bv(false), telemetry.Good},
		{"no bit of a register, inverted", ch{Encoding: firmwareconfig.EncBool, NonZero: true, Invert: true}, bind{}, b, []byte{0, 0}, bv(true), telemetry.Good},
		{"any bit of a field", ch{Encoding: firmwareconfig.EncBool, NonZero: true, Bit: 3, Width: 2}, bind{}, b, []byte{0, 0x10}, bv(true), telemetry.Good},
		{"bits beside a field", ch{Encoding: firmwareconfig.EncBool, NonZero: true, Bit: 3, Width: 2}, bind{}, b, []byte{0xFF, 0xE7}, bv(false), telemetry.Good},
		{"sentinel for under range", ch{Encoding: firmwareconfig.EncS16, Scale: 0.1, Min: ptr(-40), Under: []uint64{0xFE70}}, bind{}, f, []byte{0xFE, 0x70}, fv(-40), telemetry.UnderRange},
		{"beside the sentinel", ch{Encoding: firmwareconfig.EncS16, Scale: 0.1, Min: ptr(-40), Under: []uint64{0xFE70}}, bind{}, f, []byte{0xFE, 0x71}, fv(-39.9), telemetry.Good},
		{"sentinel for over range", ch{Encoding: firmwareconfig.EncU16, Max: ptr(100), Over: []uint64{9}}, bind{}, f, []byte{0, 9}, fv(100), telemetry.OverRange},
		{"bit inverted by channel", ch{Encoding: firmwareconfig.EncBool, Bit: 9, Invert: true}, bind{}, b, []byte{2, 0}, bv(false), telemetry.Good},
		{"bit inverted twice", ch{Encoding: firmwareconfig.EncBool, Invert: true}, bind{Invert: true}, b, []byte{0, 1}, bv(true), telemetry.Good},
		{"coil ignores the bit number", ch{Table: firmwareconfig.Coil, Encoding: firmwareconfig.EncBool, Bit: 3}, bind{}, b, []byte{1}, bv(true), telemetry.Good},
		{"bit field", ch{Encoding: firmwareconfig.EncU16, Bit: 4, Width: 3}, bind{}, e, []byte{0, 0x5F}, telemetry.EnumValue(5), telemetry.Good},
		{"signed byte in the high half", ch{Encoding: firmwareconfig.EncS16, Bit: 8, Width: 8}, bind{}, i, []byte{0xFE, 0x11}, iv(-2), telemetry.Good},
		{"number as bool", ch{Encoding: firmwareconfig.EncU16}, bind{}, b, []byte{255, 255}, bv(true), telemetry.Good},
		{"over range at its bound", ch{Encoding: firmwareconfig.EncU16, Max: ptr(500)}, bind{}, f, []byte{2, 88}, fv(500), telemetry.OverRange},
		{"at the bound is good", ch{Encoding: firmwareconfig.EncU16, Max: ptr(500)}, bind{}, f, []byte{1, 244}, fv(500), telemetry.Good},
		{"under range at its bound", ch{Encoding: firmwareconfig.EncS16, Min: ptr(-40)}, bind{}, i, []byte{255, 0}, iv(-40), telemetry.UnderRange},
		{"unit converted", ch{Encoding: firmwareconfig.EncF32}, bind{UnitFactor: 1000}, f, []byte{0x3F, 0xC0, 0, 0}, fv(1500), telemetry.Good},
		{"unit converted down", ch{Encoding: firmwareconfig.EncU16}, bind{UnitFactor: 0.001}, f, []byte{0x08, 0xD1}, fv(2.257), telemetry.Good},
		{"unit with offset", ch{Encoding: firmwareconfig.EncU16}, bind{UnitFactor: 1, UnitOffset: 273.15}, f, []byte{0, 20}, fv(293.15), telemetry.Good},
		{"distance to fill", ch{Encoding: firmwareconfig.EncU16}, bind{Map: &firmwareconfig.Linear{X0: 1200, Y0: 0, X1: 300, Y1: 100}}, f, []byte{0x02, 0xEE}, fv(50), telemetry.Good},
		{"map clamps", ch{Encoding: firmwareconfig.EncU16}, bind{Map: &firmwareconfig.Linear{X0: 1200, Y0: 0, X1: 300, Y1: 100}}, f, []byte{0, 100}, fv(100), telemetry.Good},
		{"a falling line turns the range around", ch{Encoding: firmwareconfig.EncU16, Max: ptr(1200)}, bind{Map: &firmwareconfig.Linear{X0: 1200, Y0: 0, X1: 300, Y1: 100}}, f, []byte{0x08, 0}, fv(0), telemetry.UnderRange},
		{"float rounded for int", ch{Encoding: firmwareconfig.EncF32}, bind{}, i, []byte{0x40, 0x20, 0, 0}, iv(3), telemetry.Good},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.b.Def = def("p", c.kind)
			if c.ch.Table == 0 {
				c.ch.Table = firmwareconfig.HoldingRegister
			}
			v, q := modbus.Decode(&c.ch, c.b, c.data)
			if v != c.want || q != c.q {
				t.Errorf("got %v %v, want %v %v", v, q, c.want, c.q)
			}
		})
	}
}

func TestEncodeIsTheInverse(t *testing.T) {
	type ch = firmwareconfig.Channel
	type bind = firmwareconfig.Binding
	for _, c := range []struct {
		name string
		ch   ch
		b    bind
		v    telemetry.Value
		fail bool
	}{
		{"u16 scaled", ch{Encoding: firmwareconfig.EncU16, Scale: 0.1}, bind{}, telemetry.FloatValue(225.7), false},
		{"s16 negative", ch{Encoding: firmwareconfig.EncS16, Scale: 0.1, Offset: 5}, bind{}, telemetry.FloatValue(-10.1), false},
		{"offset 10000", ch{Encoding: firmwareconfig.EncS16Offset10000, Scale: 0.1}, bind{}, telemetry.FloatValue(-10.1), false},
		{"u32 little", ch{Encoding: firmwareconfig.EncU32, LittleWords: true}, bind{}, telemetry.IntValue(65538), false},
		{"s64", ch{Encoding: firmwareconfig.EncS64}, bind{}, telemetry.IntValue(-1<<53 - 1), false},
		{"u64", ch{Encoding: firmwareconfig.EncU64}, bind{}, telemetry.IntValue(1<<53 + 1), false},
		{"f32", ch{Encoding: firmwareconfig.EncF32}, bind{UnitFactor: 1000}, telemetry.FloatValue(1500), false},
		{"f64", ch{Encoding: firmwareconfig.EncF64}, bind{}, telemetry.FloatValue(math.Pi), false},
		{"bool inverted", ch{Encoding: firmwareconfig.EncBool, Invert: true}, bind{}, telemetry.BoolValue(true), false},
		{"map", ch{Encoding: firmwareconfig.EncU16}, bind{Map: &firmwareconfig.Linear{X0: 0, Y0: 0, X1: 1000, Y1: 100}}, telemetry.FloatValue(25), false},
		{"too large", ch{Encoding: firmwareconfig.EncU16}, bind{}, telemetry.IntValue(65536), true},
		{"negative into unsigned", ch{Encoding: firmwareconfig.EncU16}, bind{}, telemetry.IntValue(-1), true},
		{"negative into u64", ch{Encoding: firmwareconfig.EncU64}, bind{}, telemetry.IntValue(-1), true},
		{"above Max", ch{Encoding: firmwareconfig.EncU16, Max: ptr(100)}, bind{}, telemetry.IntValue(101), true},
		{"outside the map", ch{Encoding: firmwareconfig.EncU16}, bind{Map: &firmwareconfig.Linear{X0: 0, Y0: 0, X1: 1000, Y1: 100}}, telemetry.FloatValue(101), true},
		{"no value", ch{Encoding: firmwareconfig.EncU16}, bind{}, telemetry.FloatValue(math.NaN()), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			kind := c.v.Kind()
			if kind == 0 {
				kind = telemetry.Float
			}
			c.b.Def, c.ch.Table = def("p", kind), firmwareconfig.HoldingRegister
			data, err := modbus.Encode(&c.ch, c.b, c.v)
			if c.fail {
				if !errors.Is(err, drivers.ErrRange) {
					t.Fatalf("got % x, %v; want ErrRange", data, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if v, q := modbus.Decode(&c.ch, c.b, data); v != c.v || q != telemetry.Good {
				t.Errorf("% x reads back as %v %v, want %v", data, v, q, c.v)
			}
		})
	}
}

// Every frame that a data sheet prints or that was seen on the wire: the request is built, and the answer decoded,
// exactly so.
func TestGoldenFramesOfShippedProfiles(t *testing.T) {
	lib, err := firmwareconfig.Load(firmwareconfig.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	n, values := 0, 0
	for id, prof := range lib.Profiles {
		for _, g := range prof.Golden {
			n++
			t.Run(id+"/"+g.Name, func(t *testing.T) {
				req := g.Request
				pdu := req[1 : len(req)-2]
				if got := modbus.AppendRTU(nil, req[0], pdu); string(got) != string(req) {
					t.Errorf("request % x, want % x", got, req)
				}
				if g.Response == nil {
					return
				}
				ans, skipped, v := modbus.FindRTU(g.Response, req[0], pdu)
				if v != modbus.Found || skipped != 0 {
					t.Fatalf("response not accepted: %v", v)
				}
				start := int(pdu[1])<<8 | int(pdu[2])
				for _, gv := range g.Values {
					values++
					ch := &prof.Channels[gv.Channel]
					kind := gv.Value.Kind()
					if kind == 0 {
						kind = telemetry.Float
					}
					off := ch.Address - start
					data := ans[2:]
					if ch.Table.Bits() {
						data = []byte{data[off/8] >> uint(off%8)}
					} else {
						data = data[2*off:]
					}
					c := modbus.NewCodec(ch, firmwareconfig.Binding{Def: def("p", kind), UnitFactor: 1})
					if s := ch.ScaleFrom; s != nil { // The loader sees to it that the frame has it.
						at := 2 + 2*(s.Address-start)
						c.SetScale(uint16(ans[at])<<8 | uint16(ans[at+1]))
					}
					if s := ch.Valid; s != nil && s.Table == ch.Table && !s.Table.Bits() && s.Address >= start && 2+2*(s.Address-start) < len(ans) {
						at := 2 + 2*(s.Address-start)
						if !s.Holds(uint16(ans[at])<<8 | uint16(ans[at+1])) {
							if gv.Quality != telemetry.BadSensor {
								t.Errorf("%s does not count there, want %v", ch.Name, gv.Quality)
							}
							continue
						}
					}
					got, q := c.Decode(data)
					if gv.Quality != telemetry.Good {
						if q != gv.Quality {
							t.Errorf("%s = %v %v, want %v", ch.Name, got, q, gv.Quality)
						}
					} else if q != telemetry.Good || got.Kind() != kind || got.Text() != gv.Value.Text() || math.Abs(got.Float()-gv.Value.Float()) > 1e-9 {
						t.Errorf("%s = %v %v, want %v", ch.Name, got, q, gv.Value)
					}
				}
			})
		}
	}
	if n < 5 || values < 5 {
		t.Errorf("only %d golden frames with %d values: the loop does not see them", n, values)
	}
}
