package modbus_test

import (
	"context"
	"fmt"
	"math"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/simulate"
	"linli/internal/telemetry"
)

// workbench is one simulated unit behind real Modbus TCP.
type workbench struct {
	community *simulate.Community
	unit      firmwareconfig.Unit
	addr      string
}

// newWorkbench simulates a unit of a profile, every channel of it bound to a point of its own: point n is channel n.
func newWorkbench(t testing.TB, p *firmwareconfig.Profile) *workbench {
	t.Helper()
	w := &workbench{community: simulate.New(&telemetry.Inventory{}), unit: firmwareconfig.Unit{ID: "u", Address: max(p.Address, 1), Profile: p}}
	for i := range p.Channels {
		ch := &p.Channels[i]
		kind := telemetry.Float
		switch ch.Encoding {
		case firmwareconfig.EncBool:
			kind = telemetry.Bool
		case firmwareconfig.EncString:
			kind = telemetry.KindText
		}
		d := def(ch.Name, kind)
		d.Writable = ch.Writable
		w.unit.Bindings = append(w.unit.Bindings, firmwareconfig.Binding{Channel: i, Point: telemetry.PointID(i), Def: d, UnitFactor: 1})
	}
	w.community.AddBus("b", []firmwareconfig.Unit{w.unit})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.addr = l.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.community.ServeTCP(ctx, "b", l) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return w
}

func (w *workbench) bus(t testing.TB) *modbus.Bus {
	t.Helper()
	b, err := modbus.New(modbus.Config{Name: "b", Transport: modbus.TCP, Address: w.addr, Timeout: 5 * time.Second, Units: []firmwareconfig.Unit{w.unit}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// read reads every channel once, as a gateway does after its start. The waits between requests are skipped.
func (w *workbench) read(t testing.TB) map[int]telemetry.Sample {
	t.Helper()
	b := w.bus(t)
	defer b.Close()
	got := map[int]telemetry.Sample{}
	var now telemetry.Mono
	for range 20*len(w.unit.Bindings) + 50 {
		var samples []telemetry.Sample
		samples, next := b.Step(t.Context(), now, nil)
		for _, s := range samples {
			got[int(s.Point)] = s
		}
		if len(got) == len(w.unit.Bindings) {
			return got
		}
		now = max(now.Add(time.Microsecond), next)
	}
	for i := range w.unit.Bindings {
		if _, ok := got[i]; !ok {
			t.Errorf("channel %s was never read", w.unit.Profile.Channels[i].Name)
		}
	}
	return got
}

// expectation is what a channel must read as.
type expectation struct {
	channel int
	value   telemetry.Value
	quality telemetry.Quality
	what    string
}

func (e expectation) check(t testing.TB, p *firmwareconfig.Profile, s telemetry.Sample) {
	t.Helper()
	ch := &p.Channels[e.channel]
	quality := s.Quality
	if quality == telemetry.Uncertain && p.Timing.WarmUp > 0 {
		quality = telemetry.Good
	}
	close := s.Value == e.value
	if e.value.Kind() == telemetry.Float && s.Value.Kind() == telemetry.Float {
		tolerance := 1e-9 * math.Abs(e.value.Float())
		if ch.Encoding == firmwareconfig.EncF32 {
			tolerance = 2e-7 * math.Abs(e.value.Float()-ch.Offset)
		}
		close = math.Abs(s.Value.Float()-e.value.Float()) <= tolerance+1e-9*math.Abs(ch.Offset)+1e-12
	}
	if quality != e.quality || e.quality != telemetry.BadSensor && !close {
		t.Errorf("%s (%s): got %v %v, want %v %v", ch.Name, e.what, s.Value, s.Quality, e.value, e.quality)
	}
}

// cells lists the bits that a channel stands on, and those that decide what becomes of it.
func cells(ch *firmwareconfig.Channel) (own, others map[[3]int]bool) {
	own, others = map[[3]int]bool{}, map[[3]int]bool{}
	width := ch.Width
	if ch.Encoding == firmwareconfig.EncBool && !ch.NonZero {
		width = 1
	}
	for r := range ch.Registers() {
		for bit := range 16 {
			if width == 0 || ch.Table.Bits() || bit >= ch.Bit && bit < ch.Bit+width {
				own[[3]int{int(ch.Table), ch.Address + r, bit}] = true
			}
		}
	}
	for bit := range 16 {
		if s := ch.ScaleFrom; s != nil {
			others[[3]int{int(s.Table), s.Address, bit}] = true
		}
		if v := ch.Valid; v != nil {
			others[[3]int{int(v.Table), v.Address, bit}] = true
		}
	}
	if ch.Width > 0 { // A sentinel may take the whole register.
		for bit := range 16 {
			if len(ch.Invalid) > 0 {
				others[[3]int{int(ch.Table), ch.Address, bit}] = true
			}
		}
	}
	return own, others
}

// crews splits the channels so that those of one crew do not disturb each other.
func crews(p *firmwareconfig.Profile) [][]int {
	type crew struct {
		members       []int
		own, depended map[[3]int]bool
	}
	meet := func(a, b map[[3]int]bool) bool {
		for c := range a {
			if b[c] {
				return true
			}
		}
		return false
	}
	var all []*crew
	for i := range p.Channels {
		own, others := cells(&p.Channels[i])
		k := slices.IndexFunc(all, func(c *crew) bool { return !meet(own, c.own) && !meet(own, c.depended) && !meet(others, c.own) })
		if k < 0 {
			k = len(all)
			all = append(all, &crew{own: map[[3]int]bool{}, depended: map[[3]int]bool{}})
		}
		all[k].members = append(all[k].members, i)
		for c := range own {
			all[k].own[c] = true
		}
		for c := range others {
			all[k].depended[c] = true
		}
	}
	var out [][]int
	for _, c := range all {
		out = append(out, c.members)
	}
	return out
}

// probes returns raw numbers worth trying: the ends of the range, zero, one, and what is negative.
func probes(ch *firmwareconfig.Channel) []float64 {
	bits := 16 * ch.Registers()
	if ch.Width > 0 {
		bits = ch.Width
	}
	top := math.Ldexp(1, bits)
	switch ch.Encoding {
	case firmwareconfig.EncF32, firmwareconfig.EncF64:
		return []float64{0, 1, -1, 0.5, -2.25, 1234.5, -98765.4375, 16777216}
	case firmwareconfig.EncS16, firmwareconfig.EncS32:
		return []float64{0, 1, -1, -2, top/2 - 1, -top / 2, 300, -300}
	case firmwareconfig.EncS64:
		return []float64{0, 1, -1, -2, 1 << 52, -1 << 52, 300, -300}
	case firmwareconfig.EncU64:
		return []float64{0, 1, 2, 1 << 52, 300}
	case firmwareconfig.EncS16Offset10000:
		return []float64{0, 1, -1, 9999, -9999, 251, -101}
	case firmwareconfig.EncBCD16, firmwareconfig.EncBCD32:
		return []float64{0, 1, 9, 10, math.Pow10(bits/4) - 1, math.Pow10(bits/4 - 1)}
	}
	return []float64{0, 1, 2, 3, top - 1, top / 2, top/2 - 1, top - 2}
}

// judged returns what a register that judges values holds where they count, or do not.
func judged(v *firmwareconfig.Validity, now uint16, count bool) uint16 {
	if v.Equals != nil {
		now = *v.Equals
		if !count {
			now += 2
		}
		return now
	}
	if count {
		return now | 1<<v.Bit
	}
	return now &^ (1 << v.Bit)
}

// sentinels returns what channel i must read as with each of its sentinels.
func sentinels(i int, ch *firmwareconfig.Channel) (out []expectation) {
	for _, raw := range ch.Invalid {
		out = append(out, expectation{channel: i, quality: telemetry.BadSensor, what: fmt.Sprintf("sentinel %#x", raw)})
	}
	for _, raw := range ch.Under {
		out = append(out, expectation{channel: i, value: telemetry.FloatValue(*ch.Min), quality: telemetry.UnderRange, what: fmt.Sprintf("sentinel %#x", raw)})
	}
	for _, raw := range ch.Over {
		out = append(out, expectation{channel: i, value: telemetry.FloatValue(*ch.Max), quality: telemetry.OverRange, what: fmt.Sprintf("sentinel %#x", raw)})
	}
	return out
}

// trial sets channel i for its trial number n and says what must be read; false where it has no more.
func (w *workbench) trial(t testing.TB, i, n int) (expectation, bool) {
	t.Helper()
	p := w.unit.Profile
	ch := &p.Channels[i]
	good := func(v telemetry.Value, what string) expectation {
		return expectation{channel: i, value: v, quality: telemetry.Good, what: what}
	}
	set := func(v float64) error { return w.community.SetChannel("u", i, v) }
	if n == 0 && ch.Valid != nil { // First, so that the next trial restores it.
		words, err := w.community.Peek("u", ch.Valid.Table, ch.Valid.Address, 1)
		if err == nil {
			err = w.community.Poke("u", ch.Valid.Table, ch.Valid.Address, judged(ch.Valid, words[0], false))
		}
		if err != nil {
			t.Fatal(err)
		}
		return expectation{channel: i, quality: telemetry.BadSensor, what: "validity taken away"}, true
	}
	if v := ch.Valid; v != nil {
		words, err := w.community.Peek("u", v.Table, v.Address, 1)
		if err == nil {
			err = w.community.Poke("u", v.Table, v.Address, judged(v, words[0], true))
		}
		if err != nil {
			t.Fatal(err)
		}
		n--
	}
	switch ch.Encoding {
	case firmwareconfig.EncBool:
		if n > 1 {
			return expectation{}, false
		}
		if err := set(float64(n)); err != nil {
			t.Fatal(err)
		}
		return good(telemetry.BoolValue(n == 1), fmt.Sprint(n)), true
	case firmwareconfig.EncString:
		texts := []string{"", "A", "X1 rev. 2"}
		if n >= len(texts) {
			return expectation{}, false
		}
		text := texts[n][:min(len(texts[n]), ch.Count)]
		if err := w.community.SetText("u", i, text); err != nil {
			t.Fatal(err)
		}
		return good(telemetry.TextValue(text), text), true
	}
	if e := sentinels(i, ch); n < len(e) {
		if err := w.community.SetInvalid("u", i, n); err != nil {
			t.Fatal(err)
		}
		return e[n], true
	} else {
		n -= len(e)
	}
	factor := ch.Scale
	if s := ch.ScaleFrom; s != nil {
		code, by := uint16(n%4), math.Pow10(-(n % 4))
		if !s.Decimals {
			v := s.Values[n%len(s.Values)]
			code, by = v.Code, v.Scale
		}
		if err := w.community.Poke("u", s.Table, s.Address, code); err != nil {
			t.Fatal(err)
		}
		factor *= by
	}
	values := probes(ch)
	for k := range values {
		values[k] = values[k]*factor + ch.Offset
	}
	if ch.Min != nil {
		values = append(values, *ch.Min, *ch.Min-math.Abs(factor))
	}
	if ch.Max != nil {
		values = append(values, *ch.Max, *ch.Max+math.Abs(factor))
	}
	if n >= len(values) {
		return expectation{}, false
	}
	v := values[n]
	if err := set(v); err != nil {
		v = factor + ch.Offset // Beyond what the registers hold (a range of -40 in a u16).
		if err := set(v); err != nil {
			t.Fatal(err)
		}
	}
	e := good(telemetry.FloatValue(v), fmt.Sprint(v))
	words, err := w.community.Peek("u", ch.Table, ch.Address, ch.Registers())
	if err != nil {
		t.Fatal(err)
	}
	raw := uint64(0)
	for k, word := range words {
		if ch.LittleWords {
			word = words[len(words)-1-k]
		}
		raw = raw<<16 | uint64(word)
	}
	if ch.Width == 0 && !ch.LittleBytes && slices.Contains(ch.Invalid, raw) {
		e.quality = telemetry.BadSensor
		return e, true
	}
	if ch.Width == 0 && slices.Contains(ch.Under, raw) {
		e.value, e.quality = telemetry.FloatValue(*ch.Min), telemetry.UnderRange
		return e, true
	}
	// What the registers hold is a multiple of the factor.
	if ch.Encoding != firmwareconfig.EncF32 && ch.Encoding != firmwareconfig.EncF64 {
		v = math.Round((v-ch.Offset)/factor)*factor + ch.Offset
		e.value = telemetry.FloatValue(v)
	}
	const hair = 1e-9
	switch {
	case ch.Max != nil && v > *ch.Max+hair*math.Abs(*ch.Max):
		e.value, e.quality = telemetry.FloatValue(*ch.Max), telemetry.OverRange
	case ch.Min != nil && v < *ch.Min-hair*math.Abs(*ch.Min):
		e.value, e.quality = telemetry.FloatValue(*ch.Min), telemetry.UnderRange
	}
	return e, true
}

// Every shipped profile, on the simulator and over real Modbus TCP: each channel is set to the ends of its range, to
// negative values and to every sentinel, and must be read as exactly that. The simulator encodes with its own code.
func TestEveryShippedProfileOnTheSimulator(t *testing.T) {
	lib, err := firmwareconfig.Load(firmwareconfig.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for id, p := range lib.Profiles {
		t.Run(id, func(t *testing.T) {
			w := newWorkbench(t, p)
			done := make([]bool, len(p.Channels))
			for n := 0; slices.Contains(done, false); n++ {
				for _, crew := range crews(p) {
					var wants []expectation
					for _, i := range crew {
						if done[i] {
							continue
						}
						if e, ok := w.trial(t, i, n); ok {
							wants = append(wants, e)
						} else {
							done[i] = true
						}
					}
					if len(wants) == 0 {
						continue
					}
					got := w.read(t)
					for _, e := range wants {
						total++
						e.check(t, p, got[e.channel])
					}
				}
				if t.Failed() {
					return
				}
			}
		})
	}
	if total < 2000 {
		t.Errorf("only %d values were compared: the loop does not see the profiles", total)
	}
}

// Every output of every shipped profile takes what it is told, and says no to what it cannot be.
func TestEveryShippedOutputOnTheSimulator(t *testing.T) {
	lib, err := firmwareconfig.Load(firmwareconfig.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	outputs := 0
	for id, p := range lib.Profiles {
		if !slices.ContainsFunc(p.Channels, func(ch firmwareconfig.Channel) bool { return ch.Writable }) {
			continue
		}
		t.Run(id, func(t *testing.T) {
			hasty := *p
			hasty.Timing = firmwareconfig.Timing{} // The simulator needs no pauses.
			w := newWorkbench(t, &hasty)
			b := w.bus(t)
			defer b.Close()
			for i := range p.Channels {
				ch := &p.Channels[i]
				if !ch.Writable {
					continue
				}
				outputs++
				values := []float64{1, 0, 1}
				if len(ch.WriteValues) > 0 {
					values = nil
					for _, v := range ch.WriteValues {
						values = append(values, float64(v.Value))
					}
				}
				for _, v := range values {
					value := telemetry.FloatValue(v)
					if ch.Encoding == firmwareconfig.EncBool {
						value = telemetry.BoolValue(v != 0)
					}
					if err := b.Write(t.Context(), telemetry.PointID(i), value); err != nil {
						t.Errorf("%s = %v: %v", ch.Name, v, err)
					}
				}
			}
		})
	}
	if outputs < 20 {
		t.Errorf("only %d outputs", outputs)
	}
}

// What the simulator encodes the driver decodes, whatever the encoding, the order and the scale.
func TestDriverAndSimulatorAgree(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ch := firmwareconfig.Channel{Name: "x", Table: firmwareconfig.HoldingRegister, Address: rapid.IntRange(0, 65000).Draw(rt, "address")}
		ch.Encoding = rapid.SampledFrom([]firmwareconfig.Encoding{firmwareconfig.EncU16, firmwareconfig.EncS16, firmwareconfig.EncU32, firmwareconfig.EncS32,
			firmwareconfig.EncU64, firmwareconfig.EncS64, firmwareconfig.EncF32, firmwareconfig.EncF64, firmwareconfig.EncS16Offset10000,
			firmwareconfig.EncBCD16, firmwareconfig.EncBCD32}).Draw(rt, "encoding")
		ch.LittleWords = rapid.Bool().Draw(rt, "little words")
		ch.LittleBytes = rapid.Bool().Draw(rt, "little bytes")
		ch.Scale = rapid.SampledFrom([]float64{1, 0.1, 0.01, 0.001, 10, 2, -1, 0.25, 1.0 / 3}).Draw(rt, "scale")
		ch.Offset = rapid.SampledFrom([]float64{0, -40, 0.5, 273.15}).Draw(rt, "offset")
		if ch.Encoding == firmwareconfig.EncU16 || ch.Encoding == firmwareconfig.EncS16 {
			if rapid.Bool().Draw(rt, "field") {
				ch.Width = rapid.IntRange(2, 15).Draw(rt, "width")
				ch.Bit = rapid.IntRange(0, 16-ch.Width).Draw(rt, "bit")
			}
		}
		other := uint16(0)
		if rapid.Bool().Draw(rt, "dynamic") {
			ch.ScaleFrom = &firmwareconfig.ScaleFrom{Table: firmwareconfig.InputRegister, Address: 7, Decimals: true}
			other = rapid.Uint16Range(0, 9).Draw(rt, "decimals")
		}
		bits := 16 * ch.Registers()
		if ch.Width > 0 {
			bits = ch.Width
		}
		lo, hi := int64(0), int64(1)<<min(bits, 52)-1
		switch ch.Encoding {
		case firmwareconfig.EncS16, firmwareconfig.EncS32, firmwareconfig.EncS64:
			lo, hi = -1<<(min(bits, 53)-1), 1<<(min(bits, 53)-1)-1
		case firmwareconfig.EncS16Offset10000:
			lo, hi = -9999, 9999
		case firmwareconfig.EncBCD16, firmwareconfig.EncBCD32:
			hi = int64(math.Pow10(bits/4)) - 1
		case firmwareconfig.EncF32, firmwareconfig.EncF64:
			lo, hi = -1<<24, 1<<24
		}
		raw := rapid.Int64Range(lo, hi).Draw(rt, "raw")
		want := float64(raw)*ch.Scale*math.Pow10(-int(other)) + ch.Offset

		p := &firmwareconfig.Profile{ID: "p", Channels: []firmwareconfig.Channel{ch}}
		c := simulate.New(&telemetry.Inventory{})
		c.AddBus("b", []firmwareconfig.Unit{{ID: "u", Address: 1, Profile: p}})
		if ch.ScaleFrom != nil {
			if err := c.Poke("u", firmwareconfig.InputRegister, 7, other); err != nil {
				rt.Fatal(err)
			}
		}
		if err := c.SetChannel("u", 0, want); err != nil {
			rt.Fatal(err)
		}
		words, err := c.Peek("u", ch.Table, ch.Address, ch.Registers())
		if err != nil {
			rt.Fatal(err)
		}
		var data []byte
		for _, w := range words {
			data = append(data, byte(w>>8), byte(w))
		}
		k := modbus.NewCodec(&ch, firmwareconfig.Binding{Def: def("x", telemetry.Float), UnitFactor: 1})
		k.SetScale(other)
		got, q := k.Decode(data)
		tolerance := 1e-9*math.Abs(want) + 1e-9*math.Abs(ch.Offset) + 1e-12
		if ch.Encoding == firmwareconfig.EncF32 {
			tolerance += 2e-7 * math.Abs(want-ch.Offset)
		}
		if q != telemetry.Good || math.Abs(got.Float()-want) > tolerance {
			rt.Errorf("% x reads as %v %v, set was %v", data, got, q, want)
		}
	})
}

// The same for text.
func TestDriverAndSimulatorAgreeOnText(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ch := firmwareconfig.Channel{Name: "x", Table: firmwareconfig.InputRegister, Encoding: firmwareconfig.EncString,
			Count:       rapid.IntRange(1, 125).Draw(rt, "count"),
			LittleBytes: rapid.Bool().Draw(rt, "little bytes"),
			OneChar:     rapid.Bool().Draw(rt, "one a register")}
		room := 2 * ch.Count
		if ch.OneChar {
			room = ch.Count
		}
		text := strings.Trim(rapid.StringOfN(rapid.RuneFrom([]rune("AZaz09-_. 邻é")), 0, room, room).Draw(rt, "text"), " ")
		c := simulate.New(&telemetry.Inventory{})
		c.AddBus("b", []firmwareconfig.Unit{{ID: "u", Address: 1, Profile: &firmwareconfig.Profile{ID: "p", Channels: []firmwareconfig.Channel{ch}}}})
		if err := c.SetText("u", 0, text); err != nil {
			rt.Fatal(err)
		}
		words, err := c.Peek("u", ch.Table, 0, ch.Count)
		if err != nil {
			rt.Fatal(err)
		}
		var data []byte
		for _, w := range words {
			data = append(data, byte(w>>8), byte(w))
		}
		got, q := modbus.NewCodec(&ch, firmwareconfig.Binding{Def: def("x", telemetry.KindText)}).Decode(data)
		if q != telemetry.Good || got != telemetry.TextValue(text) {
			rt.Errorf("% x reads as %v %v, set was %q", data, got, q, text)
		}
	})
}
