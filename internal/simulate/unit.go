package simulate

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync"
	"time"

	firmwareconfig "linli/firmware-config"
)

// unit is the register image of one simulated unit. It is safe for concurrent use.
type unit struct {
	id      string
	address int
	profile *firmwareconfig.Profile

	mu     sync.Mutex
	words  [5]map[int]uint16 // guarded by mu; by Table and address; bits are 0 or 1
	bounds [5][2]int         // lowest and highest address that exists, by Table; written in newUnit only
	fault  Fault             // guarded by mu
	served func(table firmwareconfig.Table, first int, values []uint16, at time.Time)
}

// Fault is how a unit misbehaves. The zero Fault is a healthy unit.
type Fault struct {
	Silent    bool          // does not answer at all
	Garbage   bool          // answers with bytes that are no frame
	Exception byte          // answers every request with this exception code, where not 0
	Delay     time.Duration // answers this much later
}

func newUnit(u firmwareconfig.Unit) *unit {
	s := &unit{id: u.ID, address: u.Address, profile: u.Profile}
	for t := range s.words {
		s.words[t] = map[int]uint16{}
		s.bounds[t] = [2]int{1 << 16, -1}
	}
	exists := func(t firmwareconfig.Table, address, n int) {
		for a := address; a < address+n; a++ {
			s.words[t][a] = 0
			s.bounds[t][0] = min(s.bounds[t][0], a)
			s.bounds[t][1] = max(s.bounds[t][1], a)
		}
	}
	for i := range u.Profile.Channels {
		ch := &u.Profile.Channels[i]
		n := ch.Encoding.Registers()
		exists(ch.Table, ch.Address, n)
		if ch.Valid != nil {
			exists(ch.Valid.Table, ch.Valid.Address, 1)
			s.words[ch.Valid.Table][ch.Valid.Address] |= 1 << ch.Valid.Bit
		}
	}
	return s
}

// set gives channel number i the engineering value v (0 or 1 for a bool), as the real device would encode it.
func (s *unit) set(i int, v float64) error {
	ch := &s.profile.Channels[i]
	words, err := encode(ch, v)
	if err != nil {
		return fmt.Errorf("set %s of unit %s: %w", ch.Name, s.id, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, w := range words {
		if width := fieldWidth(ch); width > 0 && !ch.Table.Bits() {
			mask := uint16(1<<width-1) << ch.Bit
			w = s.words[ch.Table][ch.Address]&^mask | w<<ch.Bit&mask
		}
		s.words[ch.Table][ch.Address+k] = w
	}
	return nil
}

// setFailed makes channel number i report that its sensor has failed: its first invalid value, or its validity bit
// taken away. It reports false where the device has no way to say so.
func (s *unit) setFailed(i int, failed bool) bool {
	ch := &s.profile.Channels[i]
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case ch.Valid != nil:
		w := s.words[ch.Valid.Table][ch.Valid.Address] &^ (1 << ch.Valid.Bit)
		if !failed {
			w |= 1 << ch.Valid.Bit
		}
		s.words[ch.Valid.Table][ch.Valid.Address] = w
	case len(ch.Invalid) > 0 && failed:
		for k, w := range split(ch.Invalid[0], ch.Encoding.Registers(), ch.LittleWords) {
			s.words[ch.Table][ch.Address+k] = w
		}
	default:
		return len(ch.Invalid) > 0
	}
	return true
}

// get returns the raw words of channel number i.
func (s *unit) get(i int) []uint16 {
	ch := &s.profile.Channels[i]
	s.mu.Lock()
	defer s.mu.Unlock()
	words := make([]uint16, ch.Encoding.Registers())
	for k := range words {
		words[k] = s.words[ch.Table][ch.Address+k]
	}
	return words
}

func (s *unit) setFault(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

func (s *unit) currentFault() Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fault
}

// fieldWidth is how many bits of a register a channel takes, 0 for all of it.
func fieldWidth(ch *firmwareconfig.Channel) int {
	if ch.Encoding == firmwareconfig.EncBool && ch.Width == 0 {
		return 1
	}
	return ch.Width
}

// encode turns an engineering value into the channel's words. It is deliberately not the driver's code: two
// implementations that must agree.
func encode(ch *firmwareconfig.Channel, v float64) ([]uint16, error) {
	if ch.Encoding == firmwareconfig.EncBool {
		if (v != 0) != ch.Invert {
			return []uint16{1}, nil
		}
		return []uint16{0}, nil
	}
	raw := v
	if ch.Scale != 0 {
		raw = (v - ch.Offset) / ch.Scale
	}
	n := ch.Encoding.Registers()
	limit := func(lo, hi float64) (float64, error) {
		r := math.Round(raw)
		if r < lo || r > hi {
			return 0, fmt.Errorf("%g does not fit: raw value %g outside %g..%g", v, r, lo, hi)
		}
		return r, nil
	}
	var bits uint64
	switch ch.Encoding {
	case firmwareconfig.EncF32:
		bits = uint64(math.Float32bits(float32(raw)))
	case firmwareconfig.EncF64:
		bits = math.Float64bits(raw)
	case firmwareconfig.EncS16Offset10000:
		r, err := limit(-9999, 9999)
		if err != nil {
			return nil, err
		}
		if r < 0 {
			r = 10000 - r
		}
		bits = uint64(r)
	case firmwareconfig.EncS16, firmwareconfig.EncS32, firmwareconfig.EncS64:
		half := math.Ldexp(1, 16*n-1)
		r, err := limit(-half, half-1)
		if err != nil {
			return nil, err
		}
		bits = uint64(int64(r))
	default:
		r, err := limit(0, math.Ldexp(1, 16*n)-1)
		if err != nil {
			return nil, err
		}
		bits = uint64(r)
	}
	return split(bits, n, ch.LittleWords), nil
}

// split cuts the low 16*n bits into n words, high word first unless little.
func split(bits uint64, n int, little bool) []uint16 {
	words := make([]uint16, n)
	for k := range words {
		w := uint16(bits >> (16 * k))
		if little {
			words[k] = w
		} else {
			words[n-1-k] = w
		}
	}
	return words
}

// answer returns the response PDU for a request PDU, as a careful device would give it.
func (s *unit) answer(pdu []byte) []byte {
	if len(pdu) < 1 {
		return nil
	}
	fc := pdu[0]
	exception := func(code byte) []byte { return []byte{fc | 0x80, code} }
	s.mu.Lock()
	if code := s.fault.Exception; code != 0 {
		s.mu.Unlock()
		return exception(code)
	}
	s.mu.Unlock()
	switch fc {
	case 1, 2, 3, 4:
		if len(pdu) != 5 {
			return exception(3)
		}
		return s.read(firmwareconfig.Table(fc), int(binary.BigEndian.Uint16(pdu[1:])), int(binary.BigEndian.Uint16(pdu[3:])), exception)
	case 5, 6:
		if len(pdu) != 5 {
			return exception(3)
		}
		address, value := int(binary.BigEndian.Uint16(pdu[1:])), binary.BigEndian.Uint16(pdu[3:])
		table := firmwareconfig.HoldingRegister
		if fc == 5 {
			table = firmwareconfig.Coil
			switch value {
			case 0xFF00:
				value = 1
			case 0:
			default:
				return exception(3)
			}
		}
		if !s.write(table, address, []uint16{value}) {
			return exception(2)
		}
		return append([]byte(nil), pdu...)
	case 15, 16:
		if len(pdu) < 6 || len(pdu) != 6+int(pdu[5]) {
			return exception(3)
		}
		address, count := int(binary.BigEndian.Uint16(pdu[1:])), int(binary.BigEndian.Uint16(pdu[3:]))
		values := make([]uint16, 0, 128)
		table := firmwareconfig.HoldingRegister
		if fc == 15 {
			table = firmwareconfig.Coil
			if count < 1 || count > 1968 || int(pdu[5]) != (count+7)/8 {
				return exception(3)
			}
			for i := range count {
				values = append(values, uint16(pdu[6+i/8]>>(i%8)&1))
			}
		} else {
			if count < 1 || count > 123 || int(pdu[5]) != 2*count {
				return exception(3)
			}
			for i := range count {
				values = append(values, binary.BigEndian.Uint16(pdu[6+2*i:]))
			}
		}
		if !s.write(table, address, values) {
			return exception(2)
		}
		return append([]byte(nil), pdu[:5]...)
	}
	return exception(1)
}

// read answers a read of n values from address. Addresses between a table's lowest and highest that no channel uses
// read as 0, as on most devices; beyond them is exception 2. The profile's own limit on block size is exception 3.
func (s *unit) read(t firmwareconfig.Table, address, n int, exception func(byte) []byte) []byte {
	limit := 125
	if t.Bits() {
		limit = 2000
	} else if most := s.profile.Limits.MaxRegisters; most > 0 {
		limit = most
	}
	if n < 1 || n > limit {
		return exception(3)
	}
	if address < s.bounds[t][0] || address+n-1 > s.bounds[t][1] {
		return exception(2)
	}
	values := make([]uint16, n)
	s.mu.Lock()
	for i := range values {
		values[i] = s.words[t][address+i]
	}
	served := s.served
	s.mu.Unlock()
	if served != nil {
		served(t, address, values, time.Now())
	}
	if t.Bits() {
		out := make([]byte, 2+(n+7)/8)
		out[0], out[1] = byte(t), byte(len(out)-2)
		for i, v := range values {
			out[2+i/8] |= byte(v) << (i % 8)
		}
		return out
	}
	out := []byte{byte(t), byte(2 * n)}
	for _, v := range values {
		out = binary.BigEndian.AppendUint16(out, v)
	}
	return out
}

func (s *unit) write(t firmwareconfig.Table, address int, values []uint16) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range values {
		if _, ok := s.words[t][address+i]; !ok {
			return false
		}
	}
	for i, v := range values {
		s.words[t][address+i] = v
	}
	return true
}
