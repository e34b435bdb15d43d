package firmwareconfig

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// present holds what a unit says of itself against where it answers, and what it holds in the settings that were read
// against what they can be: registers that are one off, or another model's, show there. It returns what speaks against
// the unit being what its profile says. fresh has the settings that say how the unit is reached read again.
//
// Two things are as they should be although they differ: an address, rate or parity that takes effect when the unit is
// switched off and on may hold what is wanted already; and the number of stop bits, which hardly any receiver notices.
func present(ctx context.Context, a Asker, unit *Unit, at Place, settings []Setting, fresh bool) (against []string, err error) {
	for i := range unit.Profile.Params {
		m := &unit.Profile.Params[i]
		if m.Role == ParamPlain || m.WriteOnly {
			continue
		}
		should := ""
		switch {
		case m.Role == ParamAddress:
			should = strconv.Itoa(at.Address)
		case m.Role == ParamBaud && at.Line.Baud != 0:
			should = strconv.Itoa(at.Line.Baud)
		case m.Role == ParamFormat:
			should = at.Line.Format
		}
		if should == "" {
			continue // The converter's line, or one whose parity nobody knows.
		}
		var s *Setting
		for k := range settings {
			if settings[k].Param == m {
				s = &settings[k]
			}
		}
		var raw uint64
		if s != nil && !fresh {
			raw = s.is
		} else if raw, _, err = readParam(ctx, a, at.Address, m); err != nil {
			var refused *RefusedError
			if !errors.As(err, &refused) {
				return nil, err
			}
			against = append(against, fmt.Sprintf("%s should hold its %s %s and cannot be read: %v", m.place(), m.Role, should, refused))
			continue
		}
		reads := m.text(raw)
		switch {
		case reads == should, m.Role == ParamFormat && sameParity(reads, should), m.Role == ParamBaud && strconv.FormatUint(raw, 10) == should:
			// The last: it holds the rate itself instead of a code. The register is the right one; setting it is another
			// matter, and stops at possible.
		case s != nil && m.AfterPowerCycle && raw == s.want:
		default:
			why := fmt.Sprintf("%s should hold its %s %s and reads %s", m.place(), m.Role, should, reads)
			if s != nil && raw == s.want || m.AfterPowerCycle {
				why += "; if that was written and has not taken effect, switch it off and on, and plan again"
			}
			against = append(against, why)
		}
	}
	for i := range settings {
		s := &settings[i]
		named := slices.ContainsFunc(against, func(why string) bool { return strings.HasPrefix(why, s.Param.place()) })
		if !fresh && !named {
			if why := s.Param.impossible(s.is); why != "" {
				against = append(against, fmt.Sprintf("%s reads %s, which cannot be: %s", s.Param.place(), s.Is+unitSuffix(s.Param.Unit), why))
			}
		}
	}
	return against, nil
}

// presentUnit is present as an error.
func presentUnit(ctx context.Context, a Asker, unit *Unit, at Place, settings []Setting, fresh bool) error {
	against, err := present(ctx, a, unit, at, settings, fresh)
	if err != nil {
		return fmt.Errorf("unit %s at %s: %w", unit.ID, at, err)
	}
	if len(against) > 0 {
		return &IdentityError{Unit: unit.ID, Profile: unit.Profile.ID, Why: append(against, "its registers are not where the profile says, so nothing was written")}
	}
	return nil
}

// impossible returns what a setting can be where raw is none of it, else "".
func (m *Param) impossible(raw uint64) string {
	if m.Encoding == EncBool && len(m.Values) == 0 {
		return ""
	}
	x, ok := m.decode(raw)
	if !ok {
		return "it is no number"
	}
	if len(m.Values) > 0 {
		names := make([]string, len(m.Values))
		for i, v := range m.Values {
			names[i] = v.Name
			if x.Cmp(new(big.Rat).SetUint64(v.Code)) == 0 {
				return ""
			}
		}
		return "it is one of " + strings.Join(names, ", ")
	}
	if m.Min == nil && m.Max == nil {
		return ""
	}
	v, err := strconv.ParseFloat(m.text(raw), 64) // As a person would write it: an f32 of 0.1 is not above 0.1.
	if err == nil && (m.Min == nil || v >= *m.Min) && (m.Max == nil || v <= *m.Max) {
		return ""
	}
	return m.rangeText()
}

// place names a setting with its register: "holding 257 (address)".
func (m *Param) place() string { return fmt.Sprintf("%s %d (%s)", m.Table, m.Address, m.Name) }

// sameParity reports whether two formats differ in nothing but the stop bits.
func sameParity(a, b string) bool { return len(a) == 3 && len(b) == 3 && a[:2] == b[:2] }
