package scan

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	firmwareconfig "linli/firmware-config"
)

const (
	// rounds is how often a unit is asked the same, to see whether two answer.
	rounds = 3
	// doubtRounds is how often where something was garbled before.
	doubtRounds = 6
	// secondAnswer is how long the line is listened to after an answer, for a second one: first after the first
	// request, for units with a slow processor, then shortly.
	secondAnswer = 180 * time.Millisecond
	shortAnswer  = 40 * time.Millisecond
	// disturbedMost bounds the requests to one unit that are repeated because somebody else talked.
	disturbedMost = 20
	// doubtsMost bounds the addresses that are asked again because of garbled answers: with more, the line is at fault.
	doubtsMost = 40
)

// identify looks at everything that was seen: whether one unit answers there or two, and who it is.
func (s *scanner) identify(ctx context.Context) error {
	doubts := 0
	everywhere := s.answersEverywhere()
	for _, st := range s.Plan.Stages {
		for _, f := range slices.Clone(s.found) {
			if f.line != st.Line || everywhere && f != s.found[0] {
				continue
			}
			if f.clean == 0 {
				if doubts++; doubts > doubtsMost || !s.worthDoubt(f) {
					continue
				}
			}
			if err := s.setLine(ctx, st.Line); err != nil {
				return err
			}
			s.tell("identifying", f.address)
			if err := s.doubt(ctx, f); err != nil {
				return err
			}
			if two, _, _ := s.twoUnits(f); two || f.clean == 0 {
				continue // Who answers what would not be known.
			}
			if err := s.who(ctx, f); err != nil {
				return err
			}
		}
	}
	return nil
}

// worthDoubt reports whether an address where only garbled bytes came deserves to be asked again: not on a line where
// everything is garbled; and where nobody answers cleanly, only if there is time and no talk at another setting that
// explains the bytes.
func (s *scanner) worthDoubt(f *sighting) bool {
	if s.trafficAt(f.line).noisy() {
		return false
	}
	if slices.ContainsFunc(s.found, func(o *sighting) bool { return o.line == f.line && o.clean > 0 }) || f.late > 0 {
		return true
	}
	for line, t := range s.traffic {
		if line != f.line && (len(t.text) > 0 || len(polls(t.frames)) > 0) {
			return false
		}
	}
	return s.Plan.Limit == 0 || time.Since(s.began) < s.Plan.Limit
}

// answersEverywhere reports whether all addresses asked answered, as from a TCP device that does not look at them.
func (s *scanner) answersEverywhere() bool {
	return s.Plan.Kind == TCP && len(s.Plan.Stages) > 0 && len(s.Plan.Stages[0].Units) >= 8 &&
		s.cleanUnits() == len(s.Plan.Stages[0].Units)
}

// doubt asks an address the same several times: two units that share it answer at once (garbled), one after the other
// (two frames), or differently.
func (s *scanner) doubt(ctx context.Context, f *sighting) error {
	if s.Plan.Kind == TCP {
		return nil
	}
	n := rounds
	if f.garbled > 0 || f.late > 0 {
		n = doubtRounds
	}
	first, quiet := "", 0
	for i := range n {
		owing, pdu := f.owing, readOne(firmwareconfig.HoldingRegister, 0)
		if owing {
			// Where an answer may still be on its way, one of another form cannot be taken for it.
			pdu = readSome(firmwareconfig.Table(1+i%4), 0, 1+i/4)
		}
		if i == 2 && f.clean == 0 && quiet == 2 {
			return nil // What was heard before were somebody else's bytes.
		}
		wait := patientTimeout
		if f.clean+f.late == 0 && i > 0 {
			wait = max(s.Plan.Timeout, usualTimeout)
		}
		r, o, err := s.ask(ctx, f.address, pdu, wait)
		if err != nil {
			return err
		}
		s.note(f, pdu, r, o)
		if o == silent {
			quiet++
		}
		if o != answered {
			continue
		}
		if shape := shapeOf(r.PDU); shape != "" && !owing {
			if first != "" && shape != first && f.differ == "" {
				f.differ = first + ", then " + shape
			}
			first = cmp.Or(first, shape)
		}
		d := shortAnswer
		if i == 0 || f.doubled > 0 {
			d = secondAnswer
		}
		heard, err := s.Conn.Hear(ctx, d)
		if err := s.lost(ctx, err); err != nil {
			return err
		}
		switch {
		case answersIn(heard, byte(f.address), pdu) > 0:
			if !owing {
				f.doubled++
			}
		case s.overheard(f.address, heard) == garbled:
			f.trailing++
		}
	}
	return nil
}

// shapeOf is what must not change between two answers of one unit to the same request; "" where that cannot be said.
func shapeOf(pdu []byte) string {
	if pdu[0]&0x80 == 0 {
		return "a value"
	}
	switch pdu[1] {
	case 1, 2, 3:
		return fmt.Sprintf("exception %d", pdu[1])
	}
	return "" // Busy or failing: that passes.
}

// asker reads registers of one unit, each only once.
type asker struct {
	s     *scanner
	f     *sighting
	words map[[2]int]Answer
	spans map[[3]int][]uint16
	err   error // of the line; nothing is asked after it

	disturbed int // requests that were repeated because somebody else talked
}

// read returns one register or bit.
func (a *asker) read(ctx context.Context, t firmwareconfig.Table, address int) Answer {
	key := [2]int{int(t), address}
	if w, ok := a.words[key]; ok {
		return w
	}
	var out Answer
	words, refused, ok := a.request(ctx, t, address, 1)
	switch {
	case refused:
		out = Answer{Refused: true, OK: true}
	case ok:
		out = Answer{Word: words[0], OK: true}
	}
	if a.err == nil {
		a.words[key] = out
	}
	return out
}

// block returns several registers or bits, nil where the unit does not have all of them.
func (a *asker) block(ctx context.Context, sp span) []uint16 {
	key := [3]int{int(sp.table), sp.address, sp.count}
	if w, ok := a.spans[key]; ok {
		return w
	}
	words, _, ok := a.request(ctx, sp.table, sp.address, sp.count)
	if !ok {
		words = nil
	}
	if a.err == nil {
		a.spans[key] = words
	}
	return words
}

// request reads; once more where no answer came.
func (a *asker) request(ctx context.Context, t firmwareconfig.Table, address, count int) (words []uint16, refused, ok bool) {
	for tries := 2; tries > 0; tries-- {
		if a.err != nil {
			return nil, false, false
		}
		r, o, err := a.s.ask(ctx, a.f.address, readSome(t, address, count), patientTimeout)
		if err != nil {
			a.err = err
			return nil, false, false
		}
		if o == disturbed && a.disturbed < disturbedMost {
			a.disturbed++
			tries++ // Another master was in the way; it is not always.
		}
		if o != answered {
			continue
		}
		if a.f.fastest == 0 || r.Took < a.f.fastest {
			a.f.fastest = r.Took
		}
		if r.PDU[0]&0x80 != 0 {
			a.f.refused++
			return nil, len(r.PDU) > 1 && r.PDU[1] >= 1 && r.PDU[1] <= 3, false
		}
		a.f.readable++
		words = wordsOf(t, r.PDU, count)
		return words, false, words != nil
	}
	return nil, false, false
}

// wordsOf takes the registers, or the bits as 0 and 1, out of an answer; nil where it has fewer than count.
func wordsOf(t firmwareconfig.Table, pdu []byte, count int) []uint16 {
	if len(pdu) < 2 {
		return nil
	}
	data := pdu[2:]
	words := make([]uint16, count)
	for i := range words {
		switch {
		case t.Bits() && i/8 < len(data):
			words[i] = uint16(data[i/8]>>(i%8)) & 1
		case !t.Bits() && 2*i+1 < len(data):
			words[i] = binary.BigEndian.Uint16(data[2*i:])
		default:
			return nil
		}
	}
	return words
}

// who asks a unit who it is.
func (s *scanner) who(ctx context.Context, f *sighting) error {
	u := &Unit{Address: f.address, Line: f.line, RoundTrip: f.fastest, Sure: Unknown}
	f.unit = u
	identity, err := s.askIdentity(ctx, f)
	if err != nil {
		return err
	}
	u.Identity = identity
	a := &asker{s: s, f: f, words: map[[2]int]Answer{}, spans: map[[3]int][]uint16{}}
	for _, p := range s.Profiles {
		if c := a.candidate(ctx, p, identity); c != nil {
			u.Candidates = append(u.Candidates, *c)
		}
		if a.err != nil {
			return a.err
		}
	}
	u.RoundTrip = f.fastest
	if len(u.Candidates) == 0 {
		there := a.look(ctx)
		if a.err != nil {
			return a.err
		}
		if len(there) > 0 {
			u.Remarks = append(u.Remarks, "readable: "+strings.Join(there, ", "))
		}
	}
	s.rank(u)
	s.alike(u)
	if len(u.Candidates) > 0 {
		u.Sure = u.Candidates[0].Sure
	}
	return nil
}

// look names what can be read of a unit that no profile fits, at the addresses where most devices have something.
func (a *asker) look(ctx context.Context) []string {
	var there []string
	for t := firmwareconfig.Coil; t <= firmwareconfig.InputRegister; t++ {
		for _, address := range [...]int{0, 1} {
			if w := a.read(ctx, t, address); w.OK && !w.Refused {
				there = append(there, fmt.Sprintf("%s %d (%d)", t, address, w.Word))
			}
		}
	}
	return there
}

// askIdentity reads the device identification; nil where the unit does not know that, as most.
func (s *scanner) askIdentity(ctx context.Context, f *sighting) (*Identity, error) {
	id := &Identity{}
	got := false
	for category := byte(1); category <= 2; category++ {
		object, level := byte(0), byte(0)
		for range 6 { // More pieces than any device has, and some that somebody else's talk breaks.
			r, o, err := s.ask(ctx, f.address, []byte{0x2B, 0x0E, category, object}, patientTimeout)
			if err != nil {
				return nil, err
			}
			if o == disturbed || o == late || o == garbled {
				// Somebody else's talk broke it. A read that is answered shows that nothing of it is still to come.
				_, o, err := s.ask(ctx, f.address, readOne(firmwareconfig.HoldingRegister, 0), patientTimeout)
				if err != nil {
					return nil, err
				}
				if o == answered {
					continue
				}
			}
			if o != answered {
				break
			}
			l, next, ok := parseIdentity(r.PDU, id)
			if !ok {
				break
			}
			got, level = true, l
			if next == 0 || next <= object {
				break
			}
			object = next
		}
		if level < 2 {
			break // It has the basic objects only.
		}
	}
	if !got || id.String() == "" {
		return nil, nil
	}
	return id, nil
}

// candidate holds the unit against one profile; nil where it does not fit.
func (a *asker) candidate(ctx context.Context, p *firmwareconfig.Profile, id *Identity) *Candidate {
	c := &Candidate{Profile: p.ID, Model: model(p)}
	verdict := Match(p, a.f.address, func(t firmwareconfig.Table, address int) Answer { return a.read(ctx, t, address) })
	named := id.says(p.DeviceID)
	switch {
	case named && verdict != No:
		c.Sure, c.Why, c.score = Certain, "it says so itself", 1000+weight(p)
		return c
	case verdict == No:
		return nil
	case id != nil && p.DeviceID != nil && !named && *p.DeviceID != (firmwareconfig.DeviceID{}):
		return nil // That model says its name, and this unit says another.
	case verdict == Yes:
		n := weight(p)
		c.Sure, c.score = Possible, 100+n
		if n >= 4 {
			c.Sure = Likely
		}
		c.Why = fmt.Sprintf("all %d marks of its signature", len(p.Signature))
		if len(p.Signature) == 1 {
			c.Why = "the mark of its signature"
		}
		return c
	case len(p.Signature) > 0:
		return nil // It did not answer all of the signature: nothing is proven.
	}
	sps := spans(p)
	if len(sps) == 0 {
		return nil
	}
	registers := 0
	for _, sp := range sps {
		words := a.block(ctx, sp)
		if words == nil {
			return nil
		}
		for _, i := range sp.channels {
			ch := &p.Channels[i]
			if !sp.table.Bits() && !plausible(ch, words[ch.Address-sp.address:]) {
				return nil
			}
		}
		registers += sp.count
	}
	c.Sure, c.score = Possible, min(registers, 60)
	c.Why = "its registers are there"
	return c
}

// rank sorts the candidates, best first. Factory settings that fit decide between equals.
func (s *scanner) rank(u *Unit) {
	for i := range u.Candidates {
		c := &u.Candidates[i]
		p := s.profile(c.Profile)
		c.score *= 4
		if p.Line == u.Line && p.Line.Baud != 0 {
			c.score += 2
		}
		if p.Address == u.Address {
			c.score++
		}
	}
	slices.SortStableFunc(u.Candidates, func(a, b Candidate) int {
		return cmp.Or(cmp.Compare(b.score, a.score), strings.Compare(a.Profile, b.Profile))
	})
}

func (s *scanner) profile(id string) *firmwareconfig.Profile {
	for _, p := range s.Profiles {
		if p.ID == id {
			return p
		}
	}
	return nil
}

// alike says which candidates cannot be told apart by registers. A unit that may be either is never better than
// Possible.
func (s *scanner) alike(u *Unit) {
	before := slices.Clone(u.Candidates)
	for i := range u.Candidates {
		c := &u.Candidates[i]
		p := s.profile(c.Profile)
		for j, o := range before {
			q := s.profile(o.Profile)
			if i == j || !slices.Contains(p.LookAlikes, q.ID) && !slices.Contains(q.LookAlikes, p.ID) {
				continue
			}
			c.Alike = append(c.Alike, q.ID)
			// What the unit says itself outweighs a look-alike; a signature outweighs one that has no mark of its own.
			if c.Sure == Likely && o.Sure != Possible {
				c.Sure = Possible
			}
		}
	}
	if len(u.Candidates) == 0 {
		return
	}
	if best := &u.Candidates[0]; len(best.Alike) > 0 && best.Sure == Possible {
		u.Remarks = append(u.Remarks, fmt.Sprintf("%s and %s cannot be told apart by their registers: look at the label",
			best.Profile, strings.Join(best.Alike, ", ")))
	}
}
