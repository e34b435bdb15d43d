package scan_test

import (
	"slices"
	"testing"
	"time"

	"linli/drivers/modbus/scan"
)

// TestAnswersAreNoRequests: what other masters ask is told from what units answer, by form or by order.
func TestAnswersAreNoRequests(t *testing.T) {
	identity := append([]byte{0x2B, 0x0E, 1, 1, 0, 0, 1, 0, 4}, "Acme"...)
	for name, c := range map[string]struct {
		heard []byte
		want  []int // addresses that a master asks
	}{
		"a read and its answer":      {slices.Concat(rtu(7, []byte{3, 0, 0, 0, 2}), rtu(7, []byte{3, 4, 0, 1, 0, 2})), []int{7}},
		"an answer alone":            {rtu(7, []byte{3, 4, 0, 1, 0, 2}), nil},
		"an exception":               {rtu(7, []byte{0x83, 2}), nil},
		"bits with a request's form": {slices.Concat(rtu(7, []byte{1, 0, 0, 0, 20}), rtu(7, []byte{1, 3, 1, 2, 3})), []int{7}},
		"an identity":                {rtu(4, identity), nil},
		"asking for an identity":     {rtu(4, []byte{0x2B, 0x0E, 1, 0}), nil}, // no register: not told as a poll
		"between noise":              {slices.Concat([]byte{0xFF, 0x80}, rtu(9, []byte{4, 0, 1, 0, 2}), []byte{0xF0}), []int{9}},
		"a write of several":         {rtu(5, []byte{16, 0, 0, 0, 1, 2, 0, 9}), []int{5}},
		"its confirmation":           {rtu(5, []byte{16, 0, 0, 0, 1}), nil},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := scanLine(t, scan.Options{Kind: scan.Serial, Units: []int{1}}, func(f *fakeLine) {
				f.add(n81, th(1))
				f.talk[n81] = map[time.Duration][]byte{time.Second: c.heard}
			}, nil)
			var got []int
			for _, f := range r.Faults {
				if f.Kind == scan.ForeignMaster {
					got = append(got, f.Addresses...)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("a master asks %v, want %v", got, c.want)
			}
		})
	}
}
