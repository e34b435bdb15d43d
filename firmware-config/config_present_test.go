package firmwareconfig_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	firmwareconfig "linli/firmware-config"
)

// shifted returns the profile as a unit would be that has every register n further on.
func shifted(p *firmwareconfig.Profile, n int) *firmwareconfig.Profile {
	q := *p
	q.Channels, q.Params, q.Signature = slices.Clone(p.Channels), slices.Clone(p.Params), slices.Clone(p.Signature)
	for i := range q.Channels {
		q.Channels[i].Address += n
	}
	for i := range q.Params {
		q.Params[i].Address += n
	}
	return &q
}

// The unit stands one register off from what its profile says: nothing is written, whichever setting is wanted.
func TestRegistersOneOffAreNotWritten(t *testing.T) {
	profiles := shippedProfiles(t)
	profile := profiles["cet_pmc_t402"]
	for _, off := range []int{-1, 1} {
		for _, want := range []map[string]string{
			{"ir1_limit": "300"},
			{"t1_delay": "30", "t1_limit": "60", "ir2_delay": "10"},
			{"ir1_limit": "20", "baud": "9600", "address": "7"},
		} {
			synctest.Test(t, func(t *testing.T) {
				f := newField(firmwareconfig.Line{}, firmwareconfig.Unit{ID: "rc", Address: 7, Profile: shifted(profile, off)})
				unit := firmwareconfig.Unit{ID: "rc", Address: 7, Profile: profile}
				c, _ := f.configurer(profiles, "rc")
				c.Unverified = true
				p, err := c.Plan(t.Context(), unit, f.home, firmwareconfig.Place{Address: 7}, want)
				if err == nil {
					err = c.Apply(t.Context(), p)
				}
				strange := func(err error) bool { // The simulator has no registers beside those of the profile.
					return errors.As(err, new(*firmwareconfig.IdentityError)) || errors.As(err, new(*firmwareconfig.RefusedError))
				}
				if !strange(err) || len(f.writes) != 0 {
					t.Errorf("%d off, %v: %v, writes % X", off, want, err, f.writes)
				}
				if _, err := firmwareconfig.Verify(t.Context(), f, unit, want); !strange(err) {
					t.Errorf("%d off, verify %v: %v", off, want, err)
				}
			})
		}
	}
}

// What a unit says of its own address and line must be so, and what it holds must be possible, before anything is
// written to it.
func TestPresentValuesAreChecked(t *testing.T) {
	line := firmwareconfig.Line{Baud: 4800, Format: "8E1"}
	for name, test := range map[string]struct {
		effective string
		poke      map[int]uint16
		want      string // part of the refusal, "" for none
		waiting   bool
	}{
		"as it should be":         {"", nil, "", false},
		"another address":         {"", map[int]uint16{1: 0}, "holding 1 (address) should hold its address 1 and reads 0", false},
		"the wanted address":      {"", map[int]uint16{1: 3}, "switch it off and on, and plan again", false},
		"the wanted one, waiting": {", effective: power_cycle", map[int]uint16{1: 3}, "", true},
		"another one, waiting":    {", effective: power_cycle", map[int]uint16{1: 9}, "holding 1 (address) should hold its address 1 and reads 9", false},
		"another rate":            {"", map[int]uint16{2: 2}, "holding 2 (baud) should hold its baud 4800 and reads 9600", false},
		"the wanted rate, waits":  {", effective: power_cycle", map[int]uint16{2: 2}, "", true},
		"no rate at all":          {", effective: power_cycle", map[int]uint16{2: 7}, "holding 2 (baud) should hold its baud 4800 and reads code 7", false},
		"another parity":          {"", map[int]uint16{3: 0}, "holding 3 (format) should hold its format 8E1 and reads 8N1", false},
		"no parity at all":        {"", map[int]uint16{3: 9}, "reads code 9", false},
		"beyond its range":        {"", map[int]uint16{10: 61}, "holding 10 (delay) reads 61 s, which cannot be: 0 to 60 s", false},
		"no value":                {"", map[int]uint16{12: 0, 13: 0x7FC0}, "holding 12 (level) reads", false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				profile := moverProfile(t, test.effective)
				f := newField(line9600, firmwareconfig.Unit{ID: "m", Address: 1, Profile: profile})
				for address, v := range test.poke {
					if err := f.community.Poke("m", firmwareconfig.HoldingRegister, address, v); err != nil {
						t.Fatal(err)
					}
				}
				unit := firmwareconfig.Unit{ID: "m", Address: 3, Profile: profile}
				c, _ := f.configurer(nil, "m")
				p, err := c.Plan(t.Context(), unit, f.home, firmwareconfig.Place{Address: 1, Line: line}, map[string]string{"delay": "7", "level": "0.1"})
				if test.want == "" {
					if err != nil || p.Waiting() != test.waiting {
						t.Errorf("%v, waiting %v", err, p != nil && p.Waiting())
					}
					return
				}
				if !errors.As(err, new(*firmwareconfig.IdentityError)) || !strings.Contains(err.Error(), test.want) || len(f.writes) != 0 {
					t.Errorf("got %v, want %s", err, test.want)
				}
			})
		})
	}
}

// It was right when it was planned and is another unit now.
func TestApplyLooksAgainBeforeItWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		profile := moverProfile(t, "")
		unit := firmwareconfig.Unit{ID: "m", Address: 1, Profile: profile}
		f := newField(firmwareconfig.Line{}, unit)
		c, _ := f.configurer(nil, "m")
		p, err := c.Plan(t.Context(), unit, f.home, firmwareconfig.Place{Address: 1}, map[string]string{"delay": "7"})
		if err != nil {
			t.Fatal(err)
		}
		if err := f.community.Poke("m", firmwareconfig.HoldingRegister, 1, 0); err != nil {
			t.Fatal(err)
		}
		if err := c.Apply(t.Context(), p); !errors.As(err, new(*firmwareconfig.IdentityError)) || len(f.writes) != 0 {
			t.Errorf("%v, writes % X", err, f.writes)
		}
	})
}

// A setting of which nobody has confirmed the register is written only to somebody who says so.
func TestUnverifiedSettingsAreNotWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		profile := moverProfile(t, "")
		profile.Params[0].Status = "unverified"
		unit := firmwareconfig.Unit{ID: "m", Address: 1, Profile: profile}
		f := newField(firmwareconfig.Line{}, unit)
		c, _ := f.configurer(nil, "m")
		plan := func(want map[string]string) error {
			t.Helper()
			p, err := c.Plan(t.Context(), unit, f.home, firmwareconfig.Place{Address: 1}, want)
			if err != nil {
				t.Fatal(err)
			}
			return c.Apply(t.Context(), p)
		}
		err := plan(map[string]string{"delay": "7", "part": "4"})
		if !errors.As(err, new(*firmwareconfig.StopError)) || !strings.Contains(err.Error(), "delay") || len(f.writes) != 0 {
			t.Errorf("%v, writes % X", err, f.writes)
		}
		if err := plan(map[string]string{"delay": "5", "part": "4"}); err != nil {
			t.Errorf("one that is right already: %v", err)
		}
		c.Unverified = true
		if err := plan(map[string]string{"delay": "7"}); err != nil {
			t.Errorf("wanted all the same: %v", err)
		}
	})
}
