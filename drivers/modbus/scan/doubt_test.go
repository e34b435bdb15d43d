package scan_test

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"linli/drivers/modbus/scan"
)

// TestTwoUnitsThatSpeakAsOne: two units of one model at one address, whose answers differ in few values and begin at
// almost the same moment: many of them, and all exceptions, come out whole.
func TestTwoUnitsThatSpeakAsOne(t *testing.T) {
	twin := func(value uint16) *fakeUnit {
		return registers(1, tables{input: image{1: value, 2: 600}, holding: image{0x0101: 1}})
	}
	for name, mix := range map[string][]int{
		"always together": {0}, "now and then a byte later": {0, 0, 1}, "half of the time": {0, 1}, "in long runs": {0, 0, 0, 0, 0, 1, 1},
	} {
		for others := range 2 {
			t.Run(fmt.Sprint(name, " beside ", others), func(t *testing.T) {
				r, _ := scanLine(t, scan.Options{Kind: scan.Serial}, func(f *fakeLine) {
					f.mix = mix
					f.add(n81, twin(251)).add(n81, twin(263))
					if others > 0 {
						f.add(n81, th(9))
					}
				}, nil)
				if !slices.Equal(kinds(r), []string{scan.TwoUnits}) || !slices.Equal(r.Faults[0].Addresses, []int{1}) {
					t.Errorf("faults\n%s", dump(r))
				}
			})
		}
	}
}

// TestTwoUnitsInTurn: one is always faster, but not always the same one; a value that changes is no second unit.
func TestTwoUnitsInTurn(t *testing.T) {
	for name, c := range map[string]struct {
		values []uint16
		want   []string
	}{
		"two rooms":      {[]uint16{251, 251, 263, 251, 263, 251, 263}, []string{scan.TwoUnits}},
		"a steady value": {[]uint16{251, 252, 251}, nil},
		"a rising value": {[]uint16{251, 300, 350, 420, 500, 600, 700}, nil},
		"a jump":         {[]uint16{251, 900, 900, 900, 900, 900, 900}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			n := 0
			r, _ := scanLine(t, scan.Options{Kind: scan.Serial}, func(f *fakeLine) {
				u := th(1)
				plain := u.answer
				u.answer = func(pdu []byte) []byte {
					a := plain(pdu)
					if pdu[0] == 4 && binary.BigEndian.Uint16(pdu[1:]) == 1 && a[0] == 4 {
						binary.BigEndian.PutUint16(a[2:], c.values[n%len(c.values)])
						n++
					}
					return a
				}
				f.add(n81, u)
			}, nil)
			if !slices.Equal(kinds(r), c.want) {
				t.Errorf("want %v, got\n%s", c.want, dump(r))
			}
		})
	}
}
