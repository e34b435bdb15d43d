package firmwareconfig

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Asker carries one request to a unit and returns the answer's PDU; exceptions are answers. An error means that the
// unit gave none. It never sends anything twice.
type Asker interface {
	Ask(ctx context.Context, unit byte, pdu []byte) ([]byte, error)
}

// RefusedError is an exception that a unit answered with.
type RefusedError struct{ Code byte }

// Error names the exception.
func (e *RefusedError) Error() string {
	names := [...]string{1: "illegal function", 2: "illegal address", 3: "illegal value", 4: "device failure", 5: "accepted, not done yet",
		6: "busy", 10: "the gateway has no way there", 11: "the unit behind the gateway does not answer"}
	if int(e.Code) < len(names) && names[e.Code] != "" {
		return fmt.Sprintf("refused: %s (exception %d)", names[e.Code], e.Code)
	}
	return fmt.Sprintf("refused (exception %d)", e.Code)
}

// readTries is how often a read is asked for: a damaged answer says nothing about the unit.
const readTries = 3

// readWords reads n registers (or bits) of a unit.
func readWords(ctx context.Context, a Asker, unit int, t Table, address, n int) ([]uint16, error) {
	pdu := []byte{byte(t)}
	pdu = binary.BigEndian.AppendUint16(pdu, uint16(address))
	pdu = binary.BigEndian.AppendUint16(pdu, uint16(n))
	var err error
	for range readTries {
		var answer []byte
		answer, err = a.Ask(ctx, byte(unit), pdu)
		if err == nil {
			var words []uint16
			words, err = wordsOf(t, n, answer)
			var refused *RefusedError
			if err == nil || errors.As(err, &refused) && refused.Code != 5 && refused.Code != 6 { // Busy units are asked again.
				return words, err
			}
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return nil, err
}

// wordsOf takes the registers out of an answer.
func wordsOf(t Table, n int, answer []byte) ([]uint16, error) {
	size := 2 * n
	if t.Bits() {
		size = (n + 7) / 8
	}
	switch {
	case len(answer) == 2 && answer[0] == byte(t)|0x80:
		return nil, &RefusedError{Code: answer[1]}
	case len(answer) != 2+size || answer[0] != byte(t) || int(answer[1]) != size:
		return nil, fmt.Errorf("the answer % X does not fit the request", answer)
	}
	words := make([]uint16, n)
	for i := range words {
		if t.Bits() {
			words[i] = uint16(answer[2+i/8]>>(i%8)) & 1
		} else {
			words[i] = binary.BigEndian.Uint16(answer[2+2*i:])
		}
	}
	return words, nil
}

// writeWords writes registers or one coil with the given function code (0 for the usual one), once.
func writeWords(ctx context.Context, a Asker, unit int, t Table, address int, words []uint16, function int) error {
	if function == 0 {
		switch {
		case t == Coil:
			function = 5
		case len(words) == 1:
			function = 6
		default:
			function = 16
		}
	}
	pdu := []byte{byte(function)}
	pdu = binary.BigEndian.AppendUint16(pdu, uint16(address))
	switch function {
	case 5:
		pdu = binary.BigEndian.AppendUint16(pdu, words[0]*0xFF00)
	case 6:
		pdu = binary.BigEndian.AppendUint16(pdu, words[0])
	case 15:
		pdu = append(pdu, 0, 1, 1, byte(words[0]))
	default:
		pdu = binary.BigEndian.AppendUint16(pdu, uint16(len(words)))
		pdu = append(pdu, byte(2*len(words)))
		for _, w := range words {
			pdu = binary.BigEndian.AppendUint16(pdu, w)
		}
	}
	answer, err := a.Ask(ctx, byte(unit), pdu)
	switch {
	case err != nil:
		return err
	case len(answer) == 2 && answer[0] == byte(function)|0x80:
		return &RefusedError{Code: answer[1]}
	case string(answer) != string(pdu[:5]):
		return fmt.Errorf("the answer % X does not confirm the write", answer)
	}
	return nil
}

// raw joins the setting's words and picks its bits: the inverse of words.
func (m *Param) raw(words []uint16) uint64 {
	if m.Table.Bits() {
		return uint64(words[0] & 1)
	}
	var raw uint64
	for i := range words {
		w := words[i]
		if m.LittleWords {
			w = words[len(words)-1-i]
		}
		if m.LittleBytes {
			w = w<<8 | w>>8
		}
		raw = raw<<16 | uint64(w)
	}
	if bits := m.bits(); bits < 16*len(words) {
		raw = raw >> uint(m.Bit) & (1<<uint(bits) - 1)
	}
	return raw
}

// words lays raw out in the setting's registers. now is what they hold: of a register of which the setting is a part,
// the rest stays.
func (m *Param) words(raw uint64, now []uint16) []uint16 {
	if m.Table.Bits() {
		return []uint16{uint16(raw & 1)}
	}
	n := len(now)
	out := make([]uint16, n)
	if bits := m.bits(); bits < 16*n {
		w := now[0]
		if m.LittleBytes {
			w = w<<8 | w>>8
		}
		mask := uint16(1<<uint(bits)-1) << uint(m.Bit)
		raw = uint64(w&^mask | uint16(raw)<<uint(m.Bit)&mask)
	}
	for i := range out {
		w := uint16(raw >> (16 * uint(n-1-i)))
		if m.LittleBytes {
			w = w<<8 | w>>8
		}
		if m.LittleWords {
			out[n-1-i] = w
		} else {
			out[i] = w
		}
	}
	return out
}

// IdentityError says that a unit is not the model that it is meant to be, or that nothing tells whether it is.
// Nothing was written.
type IdentityError struct {
	Unit, Profile string
	Why           []string
}

// Error says what speaks against it.
func (e *IdentityError) Error() string {
	return fmt.Sprintf("unit %s cannot be taken for a %s: %s", e.Unit, e.Profile, strings.Join(e.Why, "; "))
}

// identify holds a unit against a profile's signature and returns what speaks against it, one text for each test that
// does not hold. The error is that the unit does not answer.
func identify(ctx context.Context, a Asker, p *Profile, address int) (against []string, err error) {
	for _, t := range p.Signature {
		why, err := t.try(ctx, a, address)
		if err != nil {
			return nil, err
		}
		if why != "" {
			against = append(against, why)
		}
	}
	if p.DeviceID == nil || len(against) > 0 {
		return against, nil
	}
	said, err := deviceIdentification(ctx, a, address)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil && len(p.Signature) > 0:
		return nil, nil // Not everything on the way knows the function; the signature has spoken.
	case err != nil:
		return []string{"it does not say what it is (function 0x2B): " + err.Error()}, nil
	}
	for _, want := range []string{p.DeviceID.Vendor, p.DeviceID.Product, p.DeviceID.Model} {
		if want != "" && !strings.Contains(strings.ToLower(strings.Join(said, "\n")), strings.ToLower(want)) {
			against = append(against, fmt.Sprintf("it says that it is %q, which does not contain %q", strings.Join(said, " "), want))
		}
	}
	return against, nil
}

// try carries out one test and returns why it does not hold, "" where it does.
func (t Test) try(ctx context.Context, a Asker, address int) (string, error) {
	words, err := readWords(ctx, a, address, t.Table, t.Address, 1)
	place := fmt.Sprintf("%s %d", t.Table, t.Address)
	var refused *RefusedError
	switch {
	case errors.As(err, &refused):
		if t.Refused && refused.Code == 2 {
			return "", nil
		}
		return place + " is " + refused.Error(), nil
	case err != nil:
		return "", err
	case t.Refused:
		return fmt.Sprintf("%s can be read (it holds %d)", place, words[0]), nil
	}
	w := words[0]
	holds := true
	switch {
	case t.EqualsAddress:
		holds = int(w) == address
	case t.Equals != nil:
		holds = w == *t.Equals
	case len(t.OneOf) > 0:
		holds = false
		for _, v := range t.OneOf {
			holds = holds || v == w
		}
	case t.Between != nil:
		v := float64(int16(w))
		holds = v >= t.Between[0] && v <= t.Between[1]
	}
	if holds {
		return "", nil
	}
	return fmt.Sprintf("%s holds %d, but the model is known by: %s", place, w, t), nil
}

// deviceIdentification asks a unit what it is ("read device identification", regular) and returns the texts it gives.
func deviceIdentification(ctx context.Context, a Asker, address int) ([]string, error) {
	var texts []string
	for next, round := byte(0), 0; round < 8; round++ {
		answer, err := a.Ask(ctx, byte(address), []byte{0x2B, 0x0E, 2, next})
		switch {
		case err != nil:
			return nil, err
		case len(answer) == 2 && answer[0] == 0x2B|0x80:
			return nil, &RefusedError{Code: answer[1]}
		case len(answer) < 7 || answer[0] != 0x2B || answer[1] != 0x0E:
			return nil, fmt.Errorf("the answer % X does not fit the request", answer)
		}
		rest := answer[7:]
		for range answer[6] {
			if len(rest) < 2 || len(rest) < 2+int(rest[1]) {
				return nil, fmt.Errorf("the answer % X ends too early", answer)
			}
			texts = append(texts, string(rest[2:2+int(rest[1])]))
			rest = rest[2+int(rest[1]):]
		}
		if answer[4] != 0xFF {
			return texts, nil
		}
		next = answer[5]
	}
	return texts, nil
}
