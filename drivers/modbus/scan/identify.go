package scan

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	firmwareconfig "linli/firmware-config"
)

// errOverdue ends the identification of a unit when the time of the plan is up.
var errOverdue = errors.New("the time is up")

// identify looks at everything that was seen: first whether one unit answers there or two, then who it is.
func (s *scanner) identify(ctx context.Context) error {
	doubts := 0
	everywhere := s.answersEverywhere()
	for _, st := range s.Plan.Stages {
		var ask []*sighting
		for _, f := range slices.Clone(s.found) {
			if f.line != st.Line || everywhere && f != s.found[0] {
				continue
			}
			if f.clean == 0 {
				if doubts++; doubts > doubtsMost || !s.worthDoubt(f) || s.overdue() {
					continue
				}
			}
			if !s.overdue() {
				if err := s.setLine(ctx, st.Line); err != nil {
					return err
				}
				s.tell("identifying", f.address)
				if err := s.doubt(ctx, f); err != nil {
					return err
				}
			}
			if two, _, _ := s.twoUnits(f); two || f.clean == 0 {
				continue // Who answers what would not be known.
			}
			ask = append(ask, f)
		}
		for _, f := range ask {
			if s.overdue() {
				f.unasked = true
				continue
			}
			if err := s.setLine(ctx, st.Line); err != nil {
				return err
			}
			s.tell("identifying", f.address)
			err := s.who(ctx, f)
			if errors.Is(err, errOverdue) {
				f.unit, f.unasked = nil, true
				continue
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
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
	a := newAsker(s, f)
	if err := a.candidates(ctx, u); err != nil {
		return err
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
	if err := a.live(ctx, u); err != nil {
		return err
	}
	if len(u.Candidates) > 0 {
		u.Sure = u.Candidates[0].Sure
	}
	return nil
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
			f.tally(o)
			if o == disturbed || o == late || o == garbled {
				// Somebody else's talk broke it. A read that is answered shows that nothing of it is still to come.
				_, o, err := s.ask(ctx, f.address, readOne(firmwareconfig.HoldingRegister, 0), patientTimeout)
				if err != nil {
					return nil, err
				}
				f.tally(o)
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

// candidates holds the unit against the profiles that it may be, the telling and cheap ones first: those it names
// itself, those with a signature and the one of the site file. Only where none of these fits well the others are
// tried, else just the ones that look like it.
func (a *asker) candidates(ctx context.Context, u *Unit) error {
	var first, others []*firmwareconfig.Profile
	for _, p := range a.s.Profiles {
		if len(p.Signature) > 0 || u.Identity.says(p.DeviceID) || a.s.known(a.f.address, p.ID) {
			first = append(first, p)
		} else {
			others = append(others, p)
		}
	}
	try := func(list []*firmwareconfig.Profile) error {
		for _, p := range list {
			if c := a.candidate(ctx, p, u.Identity); c != nil {
				u.Candidates = append(u.Candidates, *c)
			}
			if a.err != nil {
				return a.err
			}
		}
		return nil
	}
	if err := try(first); err != nil {
		return err
	}
	if slices.ContainsFunc(u.Candidates, func(c Candidate) bool { return c.Sure != Possible }) {
		others = slices.DeleteFunc(others, func(p *firmwareconfig.Profile) bool {
			return !slices.ContainsFunc(u.Candidates, func(c Candidate) bool {
				return slices.Contains(p.LookAlikes, c.Profile) || slices.Contains(a.s.profile(c.Profile).LookAlikes, p.ID)
			})
		})
	}
	// What a small read finds missing rules out every larger one that contains it.
	slices.SortStableFunc(others, func(p, q *firmwareconfig.Profile) int { return firstSpan(p) - firstSpan(q) })
	return try(others)
}

// firstSpan is the size of the first read that a profile without a signature is tried with.
func firstSpan(p *firmwareconfig.Profile) int {
	if sps := spans(p); len(sps) > 0 {
		return sps[0].count
	}
	return 0
}

// known reports whether the site file has a unit of a profile at an address.
func (s *scanner) known(address int, profile string) bool {
	return slices.ContainsFunc(s.Known, func(k firmwareconfig.Unit) bool {
		return k.Address == address && k.Profile != nil && k.Profile.ID == profile
	})
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
