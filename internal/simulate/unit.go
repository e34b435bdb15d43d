package simulate

import (
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	firmwareconfig "linli/firmware-config"
)

// unit is the register image of one simulated unit, with its settings (settings.go). It is safe for concurrent use.
type unit struct {
	id      string
	profile *firmwareconfig.Profile
	refused map[place]bool // addresses that the unit refuses although they lie between others; written in newUnit only
	bounds  [5][2]int      // lowest and highest address that exists, by Table; written in newUnit only

	mu       sync.Mutex
	address  int                 // guarded by mu
	line     firmwareconfig.Line // guarded by mu; zero where the profile does not say
	words    [5]map[int]uint16   // guarded by mu; by Table and address; bits are 0 or 1
	saved    map[place]uint16    // guarded by mu: settings as they were saved, where the model has to be told to
	unlocked bool                // guarded by mu
	fault    Fault               // guarded by mu
	served   func(table firmwareconfig.Table, first int, values []uint16, at time.Time)
}

// place is one register or bit.
type place struct {
	table   firmwareconfig.Table
	address int
}

func newUnit(u firmwareconfig.Unit) *unit {
	s := &unit{id: u.ID, address: u.Address, profile: u.Profile, line: u.Profile.Line, refused: map[place]bool{}, saved: map[place]uint16{}}
	for t := range s.words {
		s.words[t] = map[int]uint16{}
		s.bounds[t] = [2]int{1 << 16, -1}
	}
	for i := range u.Profile.Channels {
		ch := &u.Profile.Channels[i]
		s.exists(ch.Table, ch.Address, ch.Registers())
		if ch.Valid != nil {
			s.exists(ch.Valid.Table, ch.Valid.Address, 1)
			s.words[ch.Valid.Table][ch.Valid.Address] = valid(ch.Valid, s.words[ch.Valid.Table][ch.Valid.Address], true)
		}
		if f := ch.ScaleFrom; f != nil {
			s.exists(f.Table, f.Address, 1)
			if len(f.Values) > 0 {
				s.words[f.Table][f.Address] = f.Values[0].Code
			}
		}
	}
	s.newSettings()
	return s
}

// exists makes n registers from address readable and, where the table is, writable.
func (s *unit) exists(t firmwareconfig.Table, address, n int) {
	for a := address; a < address+n; a++ {
		if _, ok := s.words[t][a]; !ok {
			s.words[t][a] = 0
		}
		s.bounds[t][0] = min(s.bounds[t][0], a)
		s.bounds[t][1] = max(s.bounds[t][1], a)
	}
}

// set gives channel number i the engineering value v (0 or 1 for a bool), as the real device would encode it.
func (s *unit) set(i int, v float64) error {
	ch := &s.profile.Channels[i]
	s.mu.Lock()
	defer s.mu.Unlock()
	scale := 1.0
	if f := ch.ScaleFrom; f != nil {
		var ok bool
		if scale, ok = factor(f, s.words[f.Table][f.Address]); !ok {
			return fmt.Errorf("set %s of unit %s: the register that says its scale holds %d", ch.Name, s.id, s.words[f.Table][f.Address])
		}
	}
	words, err := encode(ch, v, scale)
	if err != nil {
		return fmt.Errorf("set %s of unit %s: %w", ch.Name, s.id, err)
	}
	s.put(ch, words)
	return nil
}

// setText gives channel number i a text.
func (s *unit) setText(i int, text string) error {
	ch := &s.profile.Channels[i]
	words, err := encodeText(ch, text)
	if err != nil {
		return fmt.Errorf("set %s of unit %s: %w", ch.Name, s.id, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(ch, words)
	return nil
}

// put stores a channel's words; of a bit field only its bits change. s.mu is held.
func (s *unit) put(ch *firmwareconfig.Channel, words []uint16) {
	table := s.words[ch.Table]
	width := fieldWidth(ch)
	if width == 0 || ch.Table.Bits() {
		for k, w := range words {
			table[ch.Address+k] = w
		}
		return
	}
	now := table[ch.Address]
	if ch.LittleBytes {
		now = now<<8 | now>>8
	}
	mask := uint16(1<<width-1) << ch.Bit
	now = now&^mask | words[0]<<ch.Bit&mask
	if ch.LittleBytes {
		now = now<<8 | now>>8
	}
	table[ch.Address] = now
}

// valid returns what a register that judges values, holding now, holds where they count or do not.
func valid(v *firmwareconfig.Validity, now uint16, count bool) uint16 {
	switch {
	case v.Equals != nil && count:
		return *v.Equals
	case v.Equals != nil:
		return *v.Equals ^ 1
	case count:
		return now | 1<<v.Bit
	}
	return now &^ (1 << v.Bit)
}

// setFailed makes channel number i report that its sensor has failed: its first invalid value, or its validity
// taken away. It reports false where the device has no way to say so.
func (s *unit) setFailed(i int, failed bool) bool {
	ch := &s.profile.Channels[i]
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case ch.Valid != nil:
		s.words[ch.Valid.Table][ch.Valid.Address] = valid(ch.Valid, s.words[ch.Valid.Table][ch.Valid.Address], !failed)
	case len(ch.Invalid) > 0 && failed:
		s.sentinel(ch, ch.Invalid[0])
	default:
		return len(ch.Invalid) > 0
	}
	return true
}

// sentinel gives a channel one of its invalid values: of a field the field alone where it fits, otherwise the whole
// register. s.mu is held.
func (s *unit) sentinel(ch *firmwareconfig.Channel, raw uint64) {
	if ch.Width > 0 && raw < 1<<ch.Width {
		s.put(ch, []uint16{uint16(raw)})
		return
	}
	for k, w := range split(raw, ch) {
		s.words[ch.Table][ch.Address+k] = w
	}
}

// get returns the raw words of channel number i.
func (s *unit) get(i int) []uint16 {
	ch := &s.profile.Channels[i]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at(ch.Table, ch.Address, ch.Registers())
}

// at returns n words from address. s.mu is held.
func (s *unit) at(t firmwareconfig.Table, address, n int) []uint16 {
	words := make([]uint16, n)
	for k := range words {
		words[k] = s.words[t][address+k]
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
		if code := s.write(table, address, []uint16{value}); code != 0 {
			return exception(code)
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
		if code := s.write(table, address, values); code != 0 {
			return exception(code)
		}
		return append([]byte(nil), pdu[:5]...)
	case 0x2B:
		if answer := s.identify(pdu); answer != nil {
			return answer
		}
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
	for a := range n {
		if len(s.refused) > 0 && s.refused[place{t, address + a}] {
			return exception(2)
		}
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

// write stores values and returns 0, or the code of the exception with which the unit refuses them.
func (s *unit) write(t firmwareconfig.Table, address int, values []uint16) byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range values {
		if _, ok := s.words[t][address+i]; !ok || s.refused[place{t, address + i}] {
			return 2
		}
	}
	if code := s.mayWrite(t, address, values); code != 0 {
		return code
	}
	for i, v := range values {
		if s.command(t, address+i, v) {
			continue
		}
		s.words[t][address+i] = v
	}
	s.wrote(t, address, len(values))
	return 0
}
