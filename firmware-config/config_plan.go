package firmwareconfig

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// Drift is a setting that a unit has otherwise than the site file wants.
type Drift struct {
	Param string
	Want  string // as the site file writes it
	Got   string // as it would write what the unit has
}

// Verify holds a unit's settings against those wanted and returns those that differ, in the profile's order. It writes
// nothing. An error says that they could not be read: no answer, a refusal, or an *IdentityError where the unit is not
// the model that it is meant to be.
func Verify(ctx context.Context, a Asker, unit Unit, want map[string]string) ([]Drift, error) {
	if err := identifyUnit(ctx, a, &unit, unit.Address); err != nil {
		return nil, err
	}
	settings, err := readSettings(ctx, a, &unit, unit.Address, want)
	if err != nil {
		return nil, err
	}
	// An address that takes effect at once is where the unit answers, or it is another register.
	for i := range unit.Profile.Params {
		if m := &unit.Profile.Params[i]; m.Role == ParamAddress && !m.AfterPowerCycle {
			if err := presentUnit(ctx, a, &unit, Place{Address: unit.Address}, nil, true); err != nil {
				return nil, err
			}
		}
	}
	var drifts []Drift
	for _, s := range settings {
		if s.Differs() {
			drifts = append(drifts, Drift{Param: s.Param.Name, Want: s.Want, Got: s.Is})
		}
	}
	return drifts, nil
}

// Setting is one setting of a unit: what it is and what it should be.
type Setting struct {
	Param    *Param
	Want, Is string
	// Pending: the unit holds the value, and takes it over when it is switched off and on.
	Pending bool
	// Unverified: nobody has confirmed its register.
	Unverified bool

	want, is uint64
}

// Differs reports whether the unit holds another value than wanted.
func (s *Setting) Differs() bool { return s.want != s.is }

// Place is where a unit answers. The zero Line is whatever the line is set to.
type Place struct {
	Address int
	Line    Line
}

// String names the place: "address 3 at 9600 8N1".
func (p Place) String() string {
	if p.Line.Baud == 0 {
		return fmt.Sprintf("address %d", p.Address)
	}
	return fmt.Sprintf("address %d at %d %s", p.Address, p.Line.Baud, p.Line.Format)
}

// UnitPlan is what would be done to one unit.
type UnitPlan struct {
	Unit Unit
	At   Place // where it answers now
	Home Place // where the site file looks for it
	// Settings are those that the site file wants, plain ones first, in the order in which they would be written. Where
	// the unit is not at Home they include those that bring it there.
	Settings []Setting
}

// Changes returns the settings that differ.
func (p *UnitPlan) Changes() []Setting {
	var out []Setting
	for _, s := range p.Settings {
		if s.Differs() {
			out = append(out, s)
		}
	}
	return out
}

// Moves returns the changes after which the unit is reached otherwise.
func (p *UnitPlan) Moves() []Setting {
	return slices.DeleteFunc(p.Changes(), func(s Setting) bool { return s.Param.Role == ParamPlain })
}

// Waiting reports whether the unit has to be switched off and on for what it holds already.
func (p *UnitPlan) Waiting() bool {
	return slices.ContainsFunc(p.Settings, func(s Setting) bool { return s.Pending })
}

// Unverified returns the changes of which nobody has confirmed the register.
func (p *UnitPlan) Unverified() []Setting {
	return slices.DeleteFunc(p.Changes(), func(s Setting) bool { return !s.Unverified })
}

// Plan reads a unit where it answers now and says what would be written to it. It is an *IdentityError where the unit
// says of its address, rate or parity something else than how it was reached, and where it holds what a setting cannot
// be. home is where the site file looks for
// it: its address, and the line's settings where the line has some. It writes nothing.
func (c *Configurer) Plan(ctx context.Context, unit Unit, home Line, at Place, want map[string]string) (*UnitPlan, error) {
	p := &UnitPlan{Unit: unit, At: at, Home: Place{Address: unit.Address, Line: home}}
	all, err := c.wanted(p, want)
	if err != nil {
		return nil, err
	}
	if err := c.use(ctx, p.Home.Line, at.Line); err != nil {
		return nil, err
	}
	if err := identifyUnit(ctx, c.Asker, &unit, at.Address); err != nil {
		return nil, p.explain(ctx, c.Asker, err)
	}
	if p.Settings, err = readSettings(ctx, c.Asker, &unit, at.Address, all); err != nil {
		return nil, err
	}
	if err := presentUnit(ctx, c.Asker, &unit, at, p.Settings, false); err != nil {
		return nil, err
	}
	for i := range p.Settings {
		s := &p.Settings[i]
		switch s.Param.Role {
		case ParamAddress:
			s.Pending = !s.Differs() && s.Is != strconv.Itoa(at.Address)
		case ParamBaud:
			s.Pending = !s.Differs() && at.Line.Baud != 0 && s.Is != strconv.Itoa(at.Line.Baud)
		case ParamFormat:
			s.Pending = !s.Differs() && at.Line.Baud != 0 && s.Is != at.Line.Format
		}
	}
	return p, nil
}

// explain adds to an *IdentityError what is the likely reason: the new address is written already, and the unit answers
// at its old one until it is switched off and on. It is a hint and no more: a look-alike may hold that number by chance.
func (p *UnitPlan) explain(ctx context.Context, a Asker, err error) error {
	var id *IdentityError
	if !errors.As(err, &id) || p.At.Address == p.Home.Address {
		return err
	}
	for i := range p.Unit.Profile.Params {
		m := &p.Unit.Profile.Params[i]
		if m.Role != ParamAddress || m.WriteOnly {
			continue
		}
		if raw, _, rerr := readParam(ctx, a, p.At.Address, m); rerr == nil && m.text(raw) == strconv.Itoa(p.Home.Address) {
			id.Why = append(id.Why, fmt.Sprintf("if its new address %d was written already, switch it off and on and plan again without --from", p.Home.Address))
		}
	}
	return err
}

// wanted returns the settings that the site file wants, with those that bring the unit to where it looks for it.
func (c *Configurer) wanted(p *UnitPlan, want map[string]string) (map[string]string, error) {
	all := map[string]string{}
	for name, text := range want {
		all[name] = text
	}
	need := func(role ParamRole, text, what string) error {
		for i := range p.Unit.Profile.Params {
			if m := &p.Unit.Profile.Params[i]; m.Role == role && !m.WriteOnly {
				if _, asked := all[m.Name]; !asked {
					all[m.Name] = text
				}
				return nil
			}
		}
		return fmt.Errorf("unit %s is at %s, but the site file looks for it at %s, and profile %s has no setting for the %s: set it at the unit (switches, or its maker's tool)",
			p.Unit.ID, p.At, p.Home, p.Unit.Profile.ID, what)
	}
	if p.At.Address != p.Home.Address {
		if err := need(ParamAddress, strconv.Itoa(p.Home.Address), "address"); err != nil {
			return nil, err
		}
	}
	if p.At.Line.Baud == 0 || p.Home.Line.Baud == 0 {
		return all, nil
	}
	if p.At.Line.Baud != p.Home.Line.Baud {
		if err := need(ParamBaud, strconv.Itoa(p.Home.Line.Baud), "baud rate"); err != nil {
			return nil, err
		}
	}
	if p.At.Line.Format != p.Home.Line.Format {
		if err := need(ParamFormat, p.Home.Line.Format, "parity"); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// identifyUnit is identify as an error.
func identifyUnit(ctx context.Context, a Asker, unit *Unit, address int) error {
	against, err := identify(ctx, a, unit.Profile, address)
	if err != nil {
		return fmt.Errorf("unit %s at address %d: %w", unit.ID, address, err)
	}
	if len(against) > 0 {
		return &IdentityError{Unit: unit.ID, Profile: unit.Profile.ID, Why: against}
	}
	return nil
}

// readSettings reads the settings named in want, plain ones first, then those that change how the unit is reached.
func readSettings(ctx context.Context, a Asker, unit *Unit, address int, want map[string]string) ([]Setting, error) {
	var out []Setting
	for i := range unit.Profile.Params {
		m := &unit.Profile.Params[i]
		text, ok := want[m.Name]
		if !ok {
			continue
		}
		raw, err := unit.Profile.ParamValue(m.Name, text)
		if err != nil {
			return nil, fmt.Errorf("unit %s: %w", unit.ID, err)
		}
		s := Setting{Param: m, want: raw, Unverified: unit.Profile.StatusOf(&m.Channel) == "unverified"}
		if s.is, _, err = readParam(ctx, a, address, m); err != nil {
			return nil, fmt.Errorf("unit %s at address %d: read setting %s: %w", unit.ID, address, m.Name, err)
		}
		s.Want, s.Is = m.text(raw), m.text(s.is)
		out = append(out, s)
	}
	for name := range want {
		if unit.Profile.Param(name) == nil {
			_, err := unit.Profile.ParamValue(name, "")
			return nil, fmt.Errorf("unit %s: %w", unit.ID, err)
		}
	}
	// The address comes last: until then the unit stays where it is looked for. Baud is behind the format.
	order := [...]int{ParamPlain: 0, ParamFormat: 1, ParamBaud: 2, ParamAddress: 3}
	slices.SortStableFunc(out, func(a, b Setting) int { return order[a.Param.Role] - order[b.Param.Role] })
	return out, nil
}

// readParam reads a setting: its raw bits and its registers.
func readParam(ctx context.Context, a Asker, address int, m *Param) (uint64, []uint16, error) {
	words, err := readWords(ctx, a, address, m.Table, m.Address, m.Registers())
	if err != nil {
		return 0, nil, err
	}
	return m.raw(words), words, nil
}
