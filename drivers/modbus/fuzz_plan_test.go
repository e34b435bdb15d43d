package modbus_test

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
)

// FuzzPlanAroundHoles makes a profile, limits and holes out of bytes. Every channel must be read exactly once in its interval's
// requests, whole, within the limits and the address space; no request reads over a hole, and none longer than what it
// is for. The same must hold for requests that blocks are read in together.
func FuzzPlanAroundHoles(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0}, []byte{3, 0, 0, 1, 0, 0, 3, 0, 8, 7, 0, 0})
	f.Add([]byte{16, 1, 3, 1, 3, 0, 4, 2}, []byte{3, 0, 0, 1, 0, 0, 3, 0, 4, 2, 0, 0, 3, 0, 8, 8, 1, 1})
	f.Add([]byte{4, 0, 0, 0, 4, 255, 250, 3}, []byte{4, 255, 252, 5, 2, 0, 4, 255, 240, 7, 2, 1, 2, 1, 0, 0, 0, 0})
	f.Add([]byte{125, 200, 100, 0, 1, 0, 50, 9}, []byte{1, 0, 0, 0, 0, 0, 1, 0, 90, 0, 1, 0, 2, 0, 90, 0, 1, 0})
	f.Fuzz(func(t *testing.T, setting, channels []byte) {
		if len(setting) < 3 || len(channels) > 6*64 {
			return
		}
		limits := firmwareconfig.Limits{MaxRegisters: 4 + int(setting[0]), MaxBits: int(setting[1]), MaxGap: int(setting[2]) - 1}
		var holes []modbus.Hole
		for s := setting[3:]; len(s) >= 4 && len(holes) < 20; s = s[4:] {
			holes = append(holes, modbus.Hole{Unit: "a", Profile: "test_a", Table: firmwareconfig.Table(s[0] % 6),
				Address: int(binary.BigEndian.Uint16(s[1:])), Count: int(s[3])})
		}
		var chs []firmwareconfig.Channel
		for c := channels; len(c) >= 6; c = c[6:] {
			ch := firmwareconfig.Channel{Name: fmt.Sprintf("c%d", len(chs)), Table: 1 + firmwareconfig.Table(c[0]%4),
				Address: int(binary.BigEndian.Uint16(c[1:])), Encoding: firmwareconfig.EncBool, Every: time.Duration(1+c[4]%3) * time.Second}
			if !ch.Table.Bits() {
				ch.Encoding = 1 + firmwareconfig.Encoding(c[3])%12
			}
			ch.Address = min(ch.Address, 0x10000-ch.Registers())
			if c[5]&1 != 0 {
				ch.Valid = &firmwareconfig.Validity{Table: 1 + firmwareconfig.Table(c[5]>>1%4), Address: min(ch.Address+int(c[5]>>3), 0xFFFF), Bit: 3}
			}
			if c[5]&2 != 0 && ch.Encoding != firmwareconfig.EncBool {
				ch.ScaleFrom = &firmwareconfig.ScaleFrom{Table: firmwareconfig.InputRegister, Address: max(ch.Address-int(c[5]>>3), 0), Decimals: true}
			}
			chs = append(chs, ch)
		}
		if len(chs) == 0 {
			return
		}
		u := unitOf("a", 1, 0, chs...)
		u.Profile.Limits = limits
		if err := modbus.CheckPlan(u, holes); err != nil {
			t.Fatalf("limits %+v, holes %+v: %v", limits, holes, err)
		}
	})
}
