package firmwareconfig

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// SerialChannel is the channel by which a profile tells the number of the single unit.
const SerialChannel = "serial"

// HasMark reports whether anything tells the model apart from others.
func (p *Profile) HasMark() bool { return len(p.Signature) > 0 || p.DeviceID != nil }

// Identify asks a unit who it is. It writes nothing. The error is an *IdentityError where the unit is not the model that
// it is meant to be, otherwise that it gave no answer. serial is the number of the single unit, as its registers in
// hexadecimal, and "" where the profile reads none or the maker has left it empty.
func Identify(ctx context.Context, a Asker, unit Unit) (serial string, err error) {
	if err := identifyUnit(ctx, a, &unit, unit.Address); err != nil {
		return "", err
	}
	i := unit.Profile.Channel(SerialChannel)
	if i < 0 {
		return "", nil
	}
	ch := &unit.Profile.Channels[i]
	words, err := readWords(ctx, a, unit.Address, ch.Table, ch.Address, ch.Registers())
	var refused *RefusedError
	switch {
	case errors.As(err, &refused):
		return "", nil // Not every unit of a family has the register.
	case err != nil:
		return "", fmt.Errorf("unit %s at address %d: read its number: %w", unit.ID, unit.Address, err)
	}
	var b strings.Builder
	empty := true
	for _, w := range words {
		fmt.Fprintf(&b, "%04X", w)
		empty = empty && (w == 0 || w == 0xFFFF)
	}
	if empty {
		return "", nil
	}
	return b.String(), nil
}
