package firmwareconfig

import (
	"context"
	"errors"
	"testing"
)

// numbered is a unit with holding registers; those it does not have it refuses.
type numbered map[int]uint16

func (n numbered) Ask(_ context.Context, _ byte, pdu []byte) ([]byte, error) {
	if len(n) == 0 {
		return nil, errors.New("no answer")
	}
	first, count := int(pdu[1])<<8|int(pdu[2]), int(pdu[3])<<8|int(pdu[4])
	answer := []byte{pdu[0], byte(2 * count)}
	for a := first; a < first+count; a++ {
		w, ok := n[a]
		if !ok {
			return []byte{pdu[0] | 0x80, 2}, nil
		}
		answer = append(answer, byte(w>>8), byte(w))
	}
	return answer, nil
}

// TestIdentify: the model by its mark, the single unit by its number.
func TestIdentify(t *testing.T) {
	mark := uint16(7)
	plain := &Profile{ID: "p", Channels: []Channel{{Name: SerialChannel, Table: HoldingRegister, Address: 10, Encoding: EncU32}}}
	marked := &Profile{ID: "p", Channels: plain.Channels, Signature: []Test{{Table: HoldingRegister, Address: 1, Equals: &mark}}}
	for name, c := range map[string]struct {
		profile *Profile
		unit    numbered
		serial  string
		is      string // "", other, silent
	}{
		"number":            {plain, numbered{10: 0x0001, 11: 0xE240}, "0001E240", ""},
		"number and mark":   {marked, numbered{1: 7, 10: 0x0001, 11: 0xE240}, "0001E240", ""},
		"another model":     {marked, numbered{1: 8, 10: 0x0001, 11: 0xE240}, "", "other"},
		"no such register":  {marked, numbered{1: 7}, "", ""},
		"left empty":        {plain, numbered{10: 0, 11: 0}, "", ""},
		"left at all ones":  {plain, numbered{10: 0xFFFF, 11: 0xFFFF}, "", ""},
		"profile without":   {&Profile{ID: "p"}, numbered{10: 1, 11: 1}, "", ""},
		"silent":            {plain, nil, "", "silent"},
		"silent, with mark": {marked, nil, "", "silent"},
	} {
		serial, err := Identify(t.Context(), c.unit, Unit{ID: "u", Address: 1, Profile: c.profile})
		is := ""
		var other *IdentityError
		if errors.As(err, &other) {
			is = "other"
		} else if err != nil {
			is = "silent"
		}
		if serial != c.serial || is != c.is {
			t.Errorf("%s: %q, %v", name, serial, err)
		}
	}
	if plain.HasMark() || !marked.HasMark() || !(&Profile{DeviceID: &DeviceID{}}).HasMark() {
		t.Error("a profile has a mark where it has a signature or a device id")
	}
}
