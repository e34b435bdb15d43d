package modbus_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
)

func TestPlan(t *testing.T) {
	at := func(table firmwareconfig.Table, enc firmwareconfig.Encoding, addr int) firmwareconfig.Channel {
		return firmwareconfig.Channel{Name: fmt.Sprintf("%d_%d", table, addr), Table: table, Address: addr, Encoding: enc}
	}
	in, hold, coil := firmwareconfig.InputRegister, firmwareconfig.HoldingRegister, firmwareconfig.Coil
	f32, u16e, bit := firmwareconfig.EncF32, firmwareconfig.EncU16, firmwareconfig.EncBool
	for _, c := range []struct {
		name   string
		limits firmwareconfig.Limits
		chs    []firmwareconfig.Channel
		want   string // table:addr+count
	}{
		{"neighbours are one read", firmwareconfig.Limits{}, []firmwareconfig.Channel{at(in, f32, 2), at(in, f32, 0)}, "4:0+4"},
		{"a small gap is read over", firmwareconfig.Limits{}, []firmwareconfig.Channel{at(in, f32, 0), at(in, u16e, 10)}, "4:0+11"},
		{"a wide gap is not", firmwareconfig.Limits{}, []firmwareconfig.Channel{at(in, f32, 0), at(in, u16e, 11)}, "4:0+2 4:11+1"},
		{"57 registers apart", firmwareconfig.Limits{}, []firmwareconfig.Channel{at(hold, u16e, 8), at(hold, u16e, 70)}, "3:8+1 3:70+1"},
		{"MaxGap", firmwareconfig.Limits{MaxGap: 60}, []firmwareconfig.Channel{at(hold, u16e, 8), at(hold, u16e, 69)}, "3:8+62"},
		{"MaxGap -1 joins neighbours only", firmwareconfig.Limits{MaxGap: -1}, []firmwareconfig.Channel{at(hold, u16e, 0), at(hold, u16e, 1), at(hold, u16e, 3)}, "3:0+2 3:3+1"},
		{"one register at a time", firmwareconfig.Limits{MaxRegisters: 1}, []firmwareconfig.Channel{at(hold, u16e, 0), at(hold, u16e, 1)}, "3:0+1 3:1+1"},
		{"tables are apart", firmwareconfig.Limits{}, []firmwareconfig.Channel{at(in, u16e, 0), at(hold, u16e, 0), at(coil, bit, 0)}, "1:0+1 3:0+1 4:0+1"},
		{"coils join over more", firmwareconfig.Limits{}, []firmwareconfig.Channel{at(coil, bit, 0), at(coil, bit, 100)}, "1:0+101"},
		{"MaxBits", firmwareconfig.Limits{MaxBits: 8}, []firmwareconfig.Channel{at(coil, bit, 0), at(coil, bit, 7), at(coil, bit, 8)}, "1:0+8 1:8+1"},
		{"a value is never cut", firmwareconfig.Limits{MaxRegisters: 3}, []firmwareconfig.Channel{at(in, f32, 0), at(in, f32, 2)}, "4:0+2 4:2+2"},
		{"two values in one register", firmwareconfig.Limits{}, []firmwareconfig.Channel{at(in, f32, 4), at(in, u16e, 5)}, "4:4+2"},
		{"the last register", firmwareconfig.Limits{}, []firmwareconfig.Channel{at(in, f32, 65534), at(in, u16e, 65530)}, "4:65530+6"},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := unitOf("a", 1, 0, c.chs...)
			u.Profile.Limits = c.limits
			blocks, err := modbus.Plan(&u)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, b := range blocks {
				got = append(got, fmt.Sprintf("%d:%d+%d", b.Table, b.Addr, b.Count))
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("got %s, want %s", s, c.want)
			}
		})
	}
}

func TestPlanGroupsByInterval(t *testing.T) {
	slow, fast, life := u16("slow", 0), u16("fast", 1), u16("life", 2)
	fast.Every = 500 * time.Millisecond
	u := unitOf("a", 1, 0, slow, fast, life)
	u.Bindings[2].Def.LifeSafety = true
	blocks, err := modbus.Plan(&u)
	if err != nil {
		t.Fatal(err)
	}
	if len(blocks) != 3 || blocks[0].Channels[0] != "life" || !blocks[0].Life || blocks[1].Channels[0] != "fast" || blocks[2].Channels[0] != "slow" {
		t.Errorf("got %+v", blocks)
	}
}

func TestPlanRefusesWhatCannotBeRead(t *testing.T) {
	wide := firmwareconfig.Channel{Name: "w", Table: firmwareconfig.HoldingRegister, Encoding: firmwareconfig.EncF64}
	end := firmwareconfig.Channel{Name: "e", Table: firmwareconfig.HoldingRegister, Encoding: firmwareconfig.EncU32, Address: 65535}
	word := firmwareconfig.Channel{Name: "c", Table: firmwareconfig.Coil, Encoding: firmwareconfig.EncU16}
	bit := firmwareconfig.Channel{Name: "b", Table: firmwareconfig.HoldingRegister, Encoding: firmwareconfig.EncBool, Bit: 16}
	for _, ch := range []firmwareconfig.Channel{wide, end, word, bit} {
		u := unitOf("a", 1, 0, ch)
		u.Profile.Limits.MaxRegisters = 3
		if blocks, err := modbus.Plan(&u); err == nil {
			t.Errorf("%+v was planned: %+v", ch, blocks)
		}
	}
}

// checkPlan holds a plan against its rules: every channel exactly once, whole, within the limits and the address space.
func checkPlan(u *firmwareconfig.Unit, blocks []modbus.Block) error {
	regs, bits, gap := 125, 2000, 8
	l := u.Profile.Limits
	if l.MaxRegisters > 0 {
		regs = min(regs, l.MaxRegisters)
	}
	if l.MaxBits > 0 {
		bits = min(bits, l.MaxBits)
	}
	if l.MaxGap != 0 {
		gap = max(l.MaxGap, 0)
	}
	seen := map[string]int{}
	for _, b := range blocks {
		most, wide := regs, gap
		if b.Table.Bits() {
			most, wide = bits, 16*gap
		}
		if b.Count < 1 || b.Count > most || b.Addr < 0 || b.Addr+b.Count > 65536 {
			return fmt.Errorf("block %+v beyond %d", b, most)
		}
		end := b.Addr
		for _, name := range b.Channels {
			seen[name]++
			if strings.HasPrefix(name, "validity") {
				end = max(end, b.Addr) // its address is checked by the values that need it
				continue
			}
			ch := &u.Profile.Channels[u.Profile.Channel(name)]
			if ch.Table != b.Table || ch.Address < b.Addr || ch.Address+ch.Encoding.Registers() > b.Addr+b.Count {
				return fmt.Errorf("block %+v does not cover %s", b, name)
			}
			if ch.Address-end > wide {
				return fmt.Errorf("block %+v reads over a gap of %d", b, ch.Address-end)
			}
			end = max(end, ch.Address+ch.Encoding.Registers())
		}
		if end != b.Addr+b.Count {
			return fmt.Errorf("block %+v is longer than its channels", b)
		}
	}
	for _, b := range u.Bindings {
		if name := u.Profile.Channels[b.Channel].Name; seen[name] != 1 {
			return fmt.Errorf("channel %s is covered %d times", name, seen[name])
		}
	}
	return nil
}

func TestPlanCoversEveryChannelOnce(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var chs []firmwareconfig.Channel
		span := rapid.SampledFrom([]int{50, 500, 65536}).Draw(rt, "span")
		low := rapid.IntRange(0, 65536-span).Draw(rt, "low")
		for i := range rapid.IntRange(1, 60).Draw(rt, "n") {
			ch := firmwareconfig.Channel{Name: fmt.Sprintf("c%d", i), Table: firmwareconfig.Table(rapid.IntRange(1, 4).Draw(rt, "table")), Encoding: firmwareconfig.EncBool}
			if !ch.Table.Bits() {
				ch.Encoding = firmwareconfig.Encoding(rapid.IntRange(1, 10).Draw(rt, "enc"))
			}
			ch.Address = min(low+rapid.IntRange(0, span-1).Draw(rt, "addr"), 65536-ch.Encoding.Registers())
			ch.Every = time.Duration(rapid.IntRange(0, 2).Draw(rt, "every")) * time.Second
			chs = append(chs, ch)
		}
		u := unitOf("a", 1, 0, chs...)
		for i := range u.Bindings {
			u.Bindings[i].Def.LifeSafety = rapid.Bool().Draw(rt, "life")
		}
		u.Profile.Limits = firmwareconfig.Limits{
			MaxRegisters: rapid.SampledFrom([]int{0, 4, 16, 200}).Draw(rt, "registers"),
			MaxBits:      rapid.SampledFrom([]int{0, 1, 8, 5000}).Draw(rt, "bits"),
			MaxGap:       rapid.SampledFrom([]int{0, -1, 1, 100}).Draw(rt, "gap"),
		}
		blocks, err := modbus.Plan(&u)
		if err != nil {
			rt.Fatal(err)
		}
		if err := checkPlan(&u, blocks); err != nil {
			rt.Fatal(err)
		}
	})
}
