package modbus_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// TestShortWayDecodesTheSame: what a block reads is what codec and binder say of each item's registers.
func TestShortWayDecodesTheSame(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	least, most := -20.0, 3000.0
	encodings := []firmwareconfig.Encoding{
		firmwareconfig.EncU16, firmwareconfig.EncS16, firmwareconfig.EncU32, firmwareconfig.EncS32, firmwareconfig.EncF32, firmwareconfig.EncF64,
		firmwareconfig.EncS16Offset10000, firmwareconfig.EncBCD16,
	}
	for range 300 {
		var chs []firmwareconfig.Channel
		for a := 0; a < 40; {
			c := u16("c"+string(rune('a'+len(chs)%26))+string(rune('a'+len(chs)/26)), a)
			c.Encoding = encodings[r.IntN(len(encodings))]
			c.LittleWords, c.LittleBytes = r.IntN(3) == 0, r.IntN(8) == 0
			c.Scale = []float64{0, 0.1, 0.01, 2.5, -1}[r.IntN(5)]
			c.Offset = []float64{0, 0, -40}[r.IntN(3)]
			if r.IntN(3) == 0 {
				c.Min, c.Max = &least, &most
			}
			if r.IntN(3) == 0 {
				c.Invalid = []uint64{0x7FFF}
			}
			if r.IntN(8) == 0 {
				c.Invalid = append(c.Invalid, 0xFFFF, 3)
			}
			c.Counter = c.Encoding == firmwareconfig.EncU16 && r.IntN(8) == 0
			chs = append(chs, c)
			a += c.Encoding.Registers()
		}
		u := unitOf("a", 1, 0, chs...)
		data := make([]byte, 2*44)
		read, err := modbus.NewDecoder(&u)
		if err != nil {
			t.Fatal(err)
		}
		codecs := make([]*modbus.Codec, len(chs))
		for i := range chs {
			codecs[i] = modbus.NewCodec(&u.Profile.Channels[i], u.Bindings[i])
		}
		told := map[telemetry.PointID]telemetry.Quality{}
		for range 20 {
			for i := range data {
				switch r.IntN(4) {
				case 0:
					data[i] = byte(r.Uint32())
				case 1:
					data[i] = 0
				}
			}
			if r.IntN(3) == 0 {
				copy(data[2*r.IntN(40):], []byte{0x7F, 0xFF, 0x7F, 0xFF})
			}
			got := read(nil, data, 1e9)
			for i := range chs {
				v, q := codecs[i].Decode(data[2*chs[i].Address:])
				p := u.Bindings[i].Point
				last, known := told[p]
				told[p] = q
				if q.Bad() && known && last == q {
					continue // told already
				}
				if len(got) == 0 {
					t.Fatalf("channel %d (%v): nothing told, want %v %v", i, chs[i].Encoding, v, q)
				}
				s := got[0]
				got = got[1:]
				same := s.Value == v || math.IsNaN(v.Float()) && math.IsNaN(s.Value.Float())
				if s.Point != p || s.Quality != q || !same {
					t.Fatalf("channel %d (%+v): point %d = %v %v, want point %d = %v %v", i, chs[i], s.Point, s.Value, s.Quality, p, v, q)
				}
			}
			if len(got) > 0 {
				t.Fatalf("told as well: %v", got)
			}
		}
	}
}
