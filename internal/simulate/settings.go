package simulate

import (
	"fmt"
	"slices"
	"strconv"

	firmwareconfig "linli/firmware-config"
)

// newSettings makes the registers of the unit's settings, of what unlocks and saves them, and of what tells the model
// apart. Settings stand at their factory values; those that say how the unit is reached, at how it is reached.
func (s *unit) newSettings() {
	p := s.profile
	for _, w := range slices.Concat(p.Unlock, p.Save) {
		s.exists(w.Table, w.Address, 1)
	}
	for i := range p.Params {
		m := &p.Params[i]
		s.exists(m.Table, m.Address, m.Registers())
		text := m.Default
		switch {
		case m.Role == firmwareconfig.ParamAddress:
			text = strconv.Itoa(s.address)
		case m.Role == firmwareconfig.ParamBaud && p.Line.Baud != 0:
			text = strconv.Itoa(p.Line.Baud)
		case m.Role == firmwareconfig.ParamFormat && p.Line.Format != "":
			text = p.Line.Format
		}
		words, err := paramWords(m, text)
		if err != nil && m.Min != nil {
			words, err = paramWords(m, strconv.FormatFloat(*m.Min, 'f', -1, 64))
		}
		if err != nil && len(m.Values) > 0 {
			words, err = paramWords(m, m.Values[0].Name)
		}
		if err == nil {
			s.put(&m.Channel, words)
		}
	}
	for _, t := range p.Signature {
		if t.Refused {
			s.refused[place{t.Table, t.Address}] = true
			continue
		}
		s.exists(t.Table, t.Address, 1)
		now := s.words[t.Table][t.Address]
		switch {
		case t.EqualsAddress:
			now = uint16(s.address)
		case t.Equals != nil:
			now = *t.Equals
		case len(t.OneOf) > 0 && !slices.Contains(t.OneOf, now):
			now = t.OneOf[0]
		case t.Between != nil && (float64(int16(now)) < t.Between[0] || float64(int16(now)) > t.Between[1]):
			now = uint16(int16((t.Between[0] + t.Between[1]) / 2))
		}
		s.words[t.Table][t.Address] = now
	}
	s.save()
}

// save keeps the settings over a power cycle. s.mu is held, or nobody else has s yet.
func (s *unit) save() {
	for i := range s.profile.Params {
		m := &s.profile.Params[i]
		for a := m.Address; a < m.Address+m.Registers(); a++ {
			s.saved[place{m.Table, a}] = s.words[m.Table][a]
		}
	}
}

// mayWrite returns 0, or the exception with which a unit refuses a write: 4 (device failure) where its settings are
// locked, 3 (illegal value) for a command that it does not know and an address or rate that it cannot have. s.mu is held.
func (s *unit) mayWrite(t firmwareconfig.Table, address int, values []uint16) byte {
	for i := range s.profile.Params {
		m := &s.profile.Params[i]
		if m.Table != t || m.Address+m.Registers() <= address || m.Address >= address+len(values) {
			continue
		}
		if len(s.profile.Unlock) > 0 && !s.unlocked {
			return 4
		}
		if m.Role == firmwareconfig.ParamPlain {
			continue
		}
		words := s.at(t, m.Address, m.Registers())
		for k := range words {
			if v := m.Address + k - address; v >= 0 && v < len(values) {
				words[k] = values[v]
			}
		}
		n := paramNumber(m, words)
		known := len(m.Values) == 0 && (m.Min == nil || n >= *m.Min) && (m.Max == nil || n <= *m.Max)
		for _, v := range m.Values {
			known = known || float64(v.Code) == n
		}
		if !known {
			return 3
		}
	}
	for i, v := range values {
		known, commands := false, false
		for k := range s.profile.Channels {
			ch := &s.profile.Channels[k]
			if ch.Table == t && ch.Address == address+i && len(ch.WriteValues) > 0 {
				commands = true
				known = known || slices.ContainsFunc(ch.WriteValues, func(w firmwareconfig.WriteValue) bool { return w.Raw == v })
			}
		}
		if commands && !known {
			return 3
		}
	}
	return 0
}

// command carries out a write to a register with magic numbers: what is read back is what they stand for. It reports
// false where the register is an ordinary one. s.mu is held.
func (s *unit) command(t firmwareconfig.Table, address int, v uint16) bool {
	is := false
	for k := range s.profile.Channels {
		ch := &s.profile.Channels[k]
		if ch.Table != t || ch.Address != address || !ch.Writable || len(ch.WriteValues) == 0 && !ch.NoReadBack {
			continue
		}
		is = true
		for _, w := range ch.WriteValues {
			if w.Raw != v || ch.NoReadBack {
				continue
			}
			if words, err := encode(ch, float64(w.Value), 1); err == nil {
				s.put(ch, words)
			}
		}
	}
	return is
}

// wrote takes in what a write has changed of the unit itself. s.mu is held.
func (s *unit) wrote(t firmwareconfig.Table, address, n int) {
	holds := func(list []firmwareconfig.RawWrite) bool {
		for _, w := range list {
			if w.Table == t && w.Address >= address && w.Address < address+n && s.words[t][w.Address] == w.Value {
				return true
			}
		}
		return false
	}
	s.unlocked = s.unlocked || holds(s.profile.Unlock)
	if len(s.profile.Save) == 0 || holds(s.profile.Save) {
		s.save()
	}
	s.reach(false)
}

// reach sets how the unit is reached from its settings; after switching it on from all of them, otherwise from those
// that take effect at once. s.mu is held.
func (s *unit) reach(switchedOn bool) {
	for i := range s.profile.Params {
		m := &s.profile.Params[i]
		if m.AfterPowerCycle && !switchedOn || m.WriteOnly {
			continue
		}
		text := paramText(m, s.at(m.Table, m.Address, m.Registers()))
		n, err := strconv.Atoi(text)
		switch m.Role {
		case firmwareconfig.ParamAddress:
			if err == nil && n > 0 && n < 256 {
				s.address = n
			}
		case firmwareconfig.ParamBaud:
			if err == nil {
				s.line.Baud = n
			}
		case firmwareconfig.ParamFormat:
			s.line.Format = text
		}
	}
	for _, t := range s.profile.Signature {
		if t.EqualsAddress && !slices.ContainsFunc(s.profile.Params, func(m firmwareconfig.Param) bool { return m.Table == t.Table && m.Address == t.Address }) {
			s.words[t.Table][t.Address] = uint16(s.address)
		}
	}
}

// powerCycle switches the unit off and on: settings that were not saved are lost, the others take effect.
func (s *unit) powerCycle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for at, v := range s.saved {
		s.words[at.table][at.address] = v
	}
	s.unlocked = false
	for _, w := range s.profile.Unlock {
		s.words[w.Table][w.Address] = 0
	}
	s.reach(true)
}

// reached returns the address and the line settings at which the unit answers now.
func (s *unit) reached() (int, firmwareconfig.Line) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.address, s.line
}

// unitAt returns the unit that answers at an address now, nil for none.
func (b *bus) unitAt(address int) *unit {
	if u := b.units[address]; u != nil { // Few units ever move.
		if at, _ := u.reached(); at == address {
			return u
		}
	}
	for _, u := range b.units {
		if at, _ := u.reached(); at == address {
			return u
		}
	}
	return nil
}

// identify answers "read device identification" (function 0x2B, MEI type 0x0E), nil where the model does not know it.
func (s *unit) identify(pdu []byte) []byte {
	id := s.profile.DeviceID
	if id == nil || len(pdu) != 4 || pdu[1] != 0x0E {
		return nil
	}
	objects := []struct {
		id   byte
		text string
	}{{0, id.Vendor}, {1, id.Product}, {2, "1.0"}, {5, id.Model}}
	code, first := pdu[2], pdu[3]
	if code < 1 || code > 4 {
		return []byte{0x2B | 0x80, 3}
	}
	out := []byte{0x2B, 0x0E, code, 0x82, 0, 0, 0} // conformity: regular, as a stream and one by one
	for _, o := range objects {
		if o.id < first && code != 4 || code == 1 && o.id > 2 || code == 4 && o.id != first {
			continue
		}
		out[6]++
		out = append(append(out, o.id, byte(len(o.text))), o.text...)
	}
	if out[6] == 0 {
		return []byte{0x2B | 0x80, 2}
	}
	return out
}

// PowerCycle switches a unit off and on again: settings that take effect then do, those that the model has to be told
// to save and was not are lost.
func (c *Community) PowerCycle(unitID string) error {
	u := c.units[unitID]
	if u == nil {
		return fmt.Errorf("there is no unit %q in the simulation", unitID)
	}
	u.powerCycle()
	return nil
}

// Reached returns the address and the settings of the line at which a unit answers now; zero settings where the
// profile does not say any.
func (c *Community) Reached(unitID string) (address int, line firmwareconfig.Line, err error) {
	u := c.units[unitID]
	if u == nil {
		return 0, firmwareconfig.Line{}, fmt.Errorf("there is no unit %q in the simulation", unitID)
	}
	address, line = u.reached()
	return address, line, nil
}

// SetChannel gives channel number i of a unit an engineering value (0 or 1 for a bool), SetText a text.
func (c *Community) SetChannel(unitID string, i int, v float64) error {
	u := c.units[unitID]
	if u == nil {
		return fmt.Errorf("there is no unit %q in the simulation", unitID)
	}
	return u.set(i, v)
}

// SetText gives channel number i of a unit a text.
func (c *Community) SetText(unitID string, i int, text string) error {
	u := c.units[unitID]
	if u == nil {
		return fmt.Errorf("there is no unit %q in the simulation", unitID)
	}
	return u.setText(i, text)
}

// SetInvalid gives channel number i of a unit its sentinel number k: the invalid values, those for under range, those
// for over range.
func (c *Community) SetInvalid(unitID string, i, k int) error {
	u := c.units[unitID]
	if u == nil {
		return fmt.Errorf("there is no unit %q in the simulation", unitID)
	}
	ch := &u.profile.Channels[i]
	u.mu.Lock()
	defer u.mu.Unlock()
	u.sentinel(ch, slices.Concat(ch.Invalid, ch.Under, ch.Over)[k])
	return nil
}

// Poke sets registers (or bits) of a unit, past all its logic.
func (c *Community) Poke(unitID string, t firmwareconfig.Table, address int, values ...uint16) error {
	u := c.units[unitID]
	if u == nil {
		return fmt.Errorf("there is no unit %q in the simulation", unitID)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for i, v := range values {
		if _, ok := u.words[t][address+i]; !ok {
			return fmt.Errorf("unit %s has no %s %d", unitID, t, address+i)
		}
		u.words[t][address+i] = v
	}
	return nil
}

// Peek returns what n registers (or bits) of a unit hold, 0 for those that are not there.
func (c *Community) Peek(unitID string, t firmwareconfig.Table, address, n int) ([]uint16, error) {
	u := c.units[unitID]
	if u == nil {
		return nil, fmt.Errorf("there is no unit %q in the simulation", unitID)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.at(t, address, n), nil
}

// Exchange carries one request to whoever answers at an address of a bus whose line is set to line (zero: a converter,
// which every unit hears) and returns the answer's PDU, nil for silence: the simulation without a wire, for tests.
func (c *Community) Exchange(busID string, line firmwareconfig.Line, address byte, pdu []byte) []byte {
	b := c.buses[busID]
	if b == nil {
		return nil
	}
	u := b.unitAt(int(address))
	if u == nil || u.currentFault().Silent {
		return nil
	}
	if _, at := u.reached(); line.Baud != 0 && at.Baud != 0 && at != line {
		return nil
	}
	return u.answer(pdu)
}
