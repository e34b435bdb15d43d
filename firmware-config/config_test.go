package firmwareconfig_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	firmwareconfig "linli/firmware-config"
	"linli/internal/simulate"
	"linli/internal/telemetry"
)

// field is a simulated bus as the configuration sees it. It counts and can spoil what passes.
type field struct {
	community *simulate.Community
	home      firmwareconfig.Line // the bus's own settings
	line      firmwareconfig.Line // what the line is set to now
	requests  int
	writes    [][]byte
	spoil     func(n int, pdu []byte) (lose, deaf bool) // lose: the answer is lost; deaf: the unit has not even heard it
	after     func(pdu []byte)                          // after a request was carried out
}

var errSilent = errors.New("no answer")

func newField(home firmwareconfig.Line, units ...firmwareconfig.Unit) *field {
	f := &field{community: simulate.New(&telemetry.Inventory{}), home: home, line: home}
	f.community.AddBus("b", units)
	return f
}

func (f *field) Ask(ctx context.Context, unit byte, pdu []byte) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	n := f.requests
	f.requests++
	if pdu[0] == 5 || pdu[0] == 6 || pdu[0] == 15 || pdu[0] == 16 {
		f.writes = append(f.writes, slices.Clone(pdu))
	}
	lose, deaf := false, false
	if f.spoil != nil {
		lose, deaf = f.spoil(n, pdu)
	}
	var answer []byte
	if !deaf {
		answer = f.community.Exchange("b", f.line, unit, pdu)
		if f.after != nil {
			f.after(pdu)
		}
	}
	if answer == nil || lose {
		time.Sleep(300 * time.Millisecond)
		return nil, errSilent
	}
	return answer, nil
}

func (f *field) set(_ context.Context, line firmwareconfig.Line) error {
	f.line = line
	if line == (firmwareconfig.Line{}) {
		f.line = f.home
	}
	return nil
}

// configurer returns one whose unit is switched off and on when it is waited for.
func (f *field) configurer(profiles map[string]*firmwareconfig.Profile, unit string) (*firmwareconfig.Configurer, *[]string) {
	steps := &[]string{}
	c := &firmwareconfig.Configurer{Asker: f, Profiles: profiles, Wait: time.Minute}
	if f.home.Baud != 0 {
		c.SetLine = f.set
	}
	c.Tell = func(s firmwareconfig.Step) {
		switch s.Kind {
		case firmwareconfig.StepUnlocked:
			*steps = append(*steps, "unlocked")
		case firmwareconfig.StepWritten:
			*steps = append(*steps, fmt.Sprintf("%s: %s to %s", s.Setting.Param.Name, s.Setting.Is, s.Setting.Want))
		case firmwareconfig.StepMoved:
			*steps = append(*steps, "moved to "+s.Place.String())
		case firmwareconfig.StepSaved:
			*steps = append(*steps, "saved")
		case firmwareconfig.StepWaiting:
			if s.Waited == 0 {
				*steps = append(*steps, "waits for "+s.Place.String())
			}
			if s.Waited > 5*time.Second {
				_ = f.community.PowerCycle(unit)
			}
		case firmwareconfig.StepBack:
			*steps = append(*steps, "back at "+s.Place.String())
		}
	}
	return c, steps
}

func shippedProfiles(t testing.TB) map[string]*firmwareconfig.Profile {
	t.Helper()
	lib, err := firmwareconfig.Load(firmwareconfig.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	return lib.Profiles
}

func profileOf(t testing.TB, src string) *firmwareconfig.Profile {
	t.Helper()
	id := strings.TrimPrefix(strings.Split(src, "\n")[1], "profile: ")
	lib, err := firmwareconfig.Load(fstest.MapFS{"profiles/" + id + ".yaml": {Data: []byte(src)}})
	if err != nil {
		t.Fatal(err)
	}
	return lib.Profiles[id]
}

var line9600 = firmwareconfig.Line{Baud: 9600, Format: "8N1"}

const thermo = "th1"

func TestApplyPlainSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		profiles := shippedProfiles(t)
		unit := firmwareconfig.Unit{ID: thermo, Address: 1, Profile: profiles["xy_md02"]}
		f := newField(line9600, unit)
		c, steps := f.configurer(profiles, thermo)
		want := map[string]string{"temperature_correction": "-0.5", "humidity_correction": "0", "baud": "9600"}
		p, err := c.Plan(t.Context(), unit, f.home, firmwareconfig.Place{Address: 1, Line: line9600}, want)
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Settings) != 3 || len(p.Changes()) != 1 || p.Changes()[0].Is != "0" || p.Changes()[0].Want != "-0.5" || len(f.writes) != 0 {
			t.Fatalf("plan %+v, writes % X", p.Settings, f.writes)
		}
		drifts, err := firmwareconfig.Verify(t.Context(), f, unit, want)
		if err != nil || !slices.Equal(drifts, []firmwareconfig.Drift{{Param: "temperature_correction", Want: "-0.5", Got: "0"}}) {
			t.Errorf("drift %v, %v", drifts, err)
		}
		if err := c.Apply(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(*steps, []string{"temperature_correction: 0 to -0.5"}) || len(f.writes) != 1 {
			t.Errorf("steps %q, writes % X", *steps, f.writes)
		}
		if drifts, err := firmwareconfig.Verify(t.Context(), f, unit, want); err != nil || len(drifts) != 0 {
			t.Errorf("after it: %v, %v", drifts, err)
		}
		// Once more: everything is right, so nothing is written.
		p, err = c.Plan(t.Context(), unit, f.home, firmwareconfig.Place{Address: 1, Line: line9600}, want)
		if err == nil {
			err = c.Apply(t.Context(), p)
		}
		if err != nil || len(f.writes) != 1 {
			t.Errorf("the second time: %v, %d writes", err, len(f.writes))
		}
		// Set right by somebody else between plan and apply.
		want["humidity_correction"] = "1"
		p, err = c.Plan(t.Context(), unit, f.home, firmwareconfig.Place{Address: 1, Line: line9600}, want)
		if err == nil {
			err = f.community.Poke(thermo, firmwareconfig.HoldingRegister, 0x104, 10)
		}
		if err == nil {
			err = c.Apply(t.Context(), p)
		}
		if err != nil || len(f.writes) != 1 {
			t.Errorf("what is right already: %v, %d writes", err, len(f.writes))
		}
	})
}

// Nothing is written to a look-alike: an MD02 where the site file says XY-MD02, the other way round, and a unit that
// passes for both.
func TestLookAlikesAreNotWrittenTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		profiles := shippedProfiles(t)
		for _, c := range []struct{ is, meant, setting, want string }{
			{"md02", "xy_md02", "temperature_correction", "1"},
			{"md02", "xy_md02", "address", "7"},
			{"xy_md02", "md02", "address", "7"},
			{"xy_md02", "md02", "baud", "4800"},
			{"md02", "sht30_asia", "address", "7"},
			{"sht30_asia", "md02", "baud", "4800"},
			{"sht30_asia", "xy_md02", "address", "7"},
			{"xy_md02", "sht30_asia", "baud", "4800"},
		} {
			f := newField(line9600, firmwareconfig.Unit{ID: thermo, Address: 3, Profile: profiles[c.is]})
			unit := firmwareconfig.Unit{ID: thermo, Address: 3, Profile: profiles[c.meant]}
			cf, _ := f.configurer(profiles, thermo)
			_, err := cf.Plan(t.Context(), unit, f.home, firmwareconfig.Place{Address: 3, Line: line9600}, map[string]string{c.setting: c.want})
			if !errors.As(err, new(*firmwareconfig.IdentityError)) || len(f.writes) != 0 {
				t.Errorf("%s taken for %s: %v, %d writes", c.is, c.meant, err, len(f.writes))
			}
			if _, err := firmwareconfig.Verify(t.Context(), f, unit, map[string]string{c.setting: c.want}); !errors.As(err, new(*firmwareconfig.IdentityError)) {
				t.Errorf("verify %s taken for %s: %v", c.is, c.meant, err)
			}
			// Planned when it was the right one, and exchanged since.
			right := newField(line9600, unit)
			cf.Asker = right
			p, err := cf.Plan(t.Context(), unit, f.home, firmwareconfig.Place{Address: 3, Line: line9600}, map[string]string{c.setting: c.want})
			if err != nil {
				t.Fatal(err)
			}
			cf.Asker = f
			if err := cf.Apply(t.Context(), p); !errors.As(err, new(*firmwareconfig.IdentityError)) || len(f.writes) != 0 {
				t.Errorf("%s exchanged for %s: %v, %d writes", c.meant, c.is, err, len(f.writes))
			}
		}

		both := *profiles["xy_md02"]
		both.Signature = append(slices.Clone(both.Signature), profiles["md02"].Signature...)
		f := newField(line9600, firmwareconfig.Unit{ID: thermo, Address: 2, Profile: &both})
		for address, v := range map[int]uint16{0x100: 2, 0x101: 2} { // address and baud code are the same number
			if err := f.community.Poke(thermo, firmwareconfig.HoldingRegister, address, v); err != nil {
				t.Fatal(err)
			}
		}
		unit := firmwareconfig.Unit{ID: thermo, Address: 2, Profile: profiles["xy_md02"]}
		cf, _ := f.configurer(profiles, thermo)
		p, err := cf.Plan(t.Context(), unit, f.home, firmwareconfig.Place{Address: 2, Line: line9600}, map[string]string{"temperature_correction": "1"})
		if err != nil {
			t.Fatal(err)
		}
		if err := cf.Apply(t.Context(), p); !errors.As(err, new(*firmwareconfig.IdentityError)) || !strings.Contains(err.Error(), "md02 as well") || len(f.writes) != 0 {
			t.Errorf("a unit that passes for both: %v, %d writes", err, len(f.writes))
		}

		blind := *profiles["xy_md02"]
		blind.Signature = nil
		unit.Profile = &blind
		p, err = cf.Plan(t.Context(), unit, f.home, firmwareconfig.Place{Address: 2, Line: line9600}, map[string]string{"temperature_correction": "1"})
		if err != nil {
			t.Fatal(err)
		}
		if err := cf.Apply(t.Context(), p); !errors.As(err, new(*firmwareconfig.IdentityError)) || len(f.writes) != 0 {
			t.Errorf("no signature beside look-alikes: %v, %d writes", err, len(f.writes))
		}
	})
}

const mover = `version: 1
profile: mover
vendor: ours
model: M
title: {zh: 动, en: Mover}
status: partial
sources: [us]
line: {baud: 4800, format: 8E1}
address: 1
channels:
  - {name: x, table: input, address: 0, type: u16}
config:
  - {name: delay, table: holding, address: 10, type: u16, unit: s, min: 0, max: 60, default: 5}
  - {name: part, table: holding, address: 11, type: u8, byte: high, min: 0, max: 9, default: 3}
  - {name: level, table: holding, address: 12, type: f32, words: little, bytes: little, min: 0, max: 1, default: 0.5}
  - {name: lamp, table: coil, address: 4, default: on}
  - {name: address, role: address, table: holding, address: 1, type: u16, min: 1, max: 247 EFFECTIVE}
  - {name: baud, role: baud, table: holding, address: 2, type: u16, values: {1: 4800, 2: 9600} EFFECTIVE}
  - {name: format, role: format, table: holding, address: 3, type: u16, values: {0: 8N1, 1: 8E1} EFFECTIVE}
unlock: [{table: coil, address: 1, value: 1}]
save: [{table: holding, address: 5, value: 1}]
signature:
  - {table: holding, address: 100, equals: 0x4D56}
`

func moverProfile(t testing.TB, effective string) *firmwareconfig.Profile {
	return profileOf(t, strings.ReplaceAll(mover, " EFFECTIVE", effective))
}

// A unit as it leaves the factory is brought to where the site file looks for it, at once or over a power cycle.
func TestApplyMovesTheUnit(t *testing.T) {
	factory := firmwareconfig.Place{Address: 1, Line: firmwareconfig.Line{Baud: 4800, Format: "8E1"}}
	want := map[string]string{"delay": "7", "part": "4", "level": "0.1", "lamp": "false"}
	for effective, wantSteps := range map[string][]string{
		"": {
			"unlocked", "delay: 5 to 7", "part: 3 to 4", "level: 0.5 to 0.1", "lamp: true to false", "saved",
			"format: 8E1 to 8N1", "moved to address 1 at 4800 8N1", "baud: 4800 to 9600", "moved to address 1 at 9600 8N1",
			"address: 1 to 3", "moved to address 3 at 9600 8N1", "saved", "back at address 3 at 9600 8N1",
		},
		", effective: power_cycle": {
			"unlocked", "delay: 5 to 7", "part: 3 to 4", "level: 0.5 to 0.1", "lamp: true to false", "saved",
			"format: 8E1 to 8N1", "baud: 4800 to 9600", "address: 1 to 3", "saved",
			"waits for address 3 at 9600 8N1", "back at address 3 at 9600 8N1",
		},
	} {
		t.Run("moves"+effective, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				profile := moverProfile(t, effective)
				f := newField(line9600, firmwareconfig.Unit{ID: "m", Address: 1, Profile: profile})
				if err := f.community.Poke("m", firmwareconfig.HoldingRegister, 11, 0x03AA); err != nil {
					t.Fatal(err)
				}
				unit := firmwareconfig.Unit{ID: "m", Address: 3, Profile: profile}
				c, steps := f.configurer(nil, "m")
				asked := 0
				c.Approve = func(_ context.Context, _ *firmwareconfig.UnitPlan, moves []firmwareconfig.Setting) (bool, error) {
					asked += len(moves)
					return true, nil
				}
				p, err := c.Plan(t.Context(), unit, f.home, factory, want)
				if err != nil {
					t.Fatal(err)
				}
				if err := c.Apply(t.Context(), p); err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(*steps, wantSteps) || asked != 3 {
					t.Errorf("asked about %d, steps\n%s\nwant\n%s", asked, strings.Join(*steps, "\n"), strings.Join(wantSteps, "\n"))
				}
				if address, line, err := f.community.Reached("m"); address != 3 || line != line9600 || err != nil {
					t.Errorf("it is at %d %v, %v", address, line, err)
				}
				if words, _ := f.community.Peek("m", firmwareconfig.HoldingRegister, 11, 1); words[0] != 0x04AA {
					t.Errorf("the other half of the register is %#x", words[0])
				}
				// Everything was saved: it outlives being switched off.
				if err := f.community.PowerCycle("m"); err != nil {
					t.Fatal(err)
				}
				if drifts, err := firmwareconfig.Verify(t.Context(), f, unit, want); err != nil || len(drifts) != 0 {
					t.Errorf("after it: %v, %v", drifts, err)
				}
			})
		})
	}
}

func TestApplyRefusesBeforeItWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		profile := moverProfile(t, "")
		atFactory := firmwareconfig.Place{Address: 1, Line: firmwareconfig.Line{Baud: 4800, Format: "8E1"}}
		unit := firmwareconfig.Unit{ID: "m", Address: 3, Profile: profile}

		f := newField(line9600, firmwareconfig.Unit{ID: "m", Address: 1, Profile: profile},
			firmwareconfig.Unit{ID: "other", Address: 3, Profile: &firmwareconfig.Profile{Line: line9600, Channels: profile.Channels}})
		c, _ := f.configurer(nil, "m")
		p, err := c.Plan(t.Context(), unit, f.home, atFactory, nil)
		if err != nil {
			t.Fatal(err)
		}
		var stop *firmwareconfig.StopError
		if err := c.Apply(t.Context(), p); !errors.As(err, &stop) || !strings.Contains(err.Error(), "somebody answers at address 3 at 9600 8N1 already") || len(f.writes) != 0 {
			t.Errorf("a taken address: %v, writes % X", err, f.writes)
		}

		f = newField(firmwareconfig.Line{}, firmwareconfig.Unit{ID: "m", Address: 3, Profile: profile})
		c, _ = f.configurer(nil, "m")
		p, err = c.Plan(t.Context(), unit, f.home, firmwareconfig.Place{Address: 3}, map[string]string{"baud": "9600", "delay": "9"})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Apply(t.Context(), p); !errors.As(err, &stop) || !strings.Contains(err.Error(), "those of the converter") || len(f.writes) != 0 {
			t.Errorf("a rate behind a converter: %v, writes % X", err, f.writes)
		}

		fixed := *profile
		fixed.Params = slices.DeleteFunc(slices.Clone(profile.Params), func(m firmwareconfig.Param) bool { return m.Role == firmwareconfig.ParamAddress })
		unit.Profile = &fixed
		if _, err := c.Plan(t.Context(), unit, f.home, firmwareconfig.Place{Address: 9}, nil); err == nil || !strings.Contains(err.Error(), "has no setting for the address") {
			t.Errorf("an address by switches: %v", err)
		}
		if _, err := c.Plan(t.Context(), unit, f.home, firmwareconfig.Place{Address: 3}, map[string]string{"dely": "1"}); err == nil ||
			!strings.Contains(err.Error(), `no setting "dely", did you mean "delay"?`) {
			t.Errorf("an unknown setting: %v", err)
		}
	})
}

func TestApplyAsksFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		profile := moverProfile(t, "")
		unit := firmwareconfig.Unit{ID: "m", Address: 3, Profile: profile}
		f := newField(firmwareconfig.Line{}, firmwareconfig.Unit{ID: "m", Address: 1, Profile: profile})
		c, steps := f.configurer(nil, "m")
		c.Approve = func(context.Context, *firmwareconfig.UnitPlan, []firmwareconfig.Setting) (bool, error) {
			return false, nil
		}
		p, err := c.Plan(t.Context(), unit, f.home, firmwareconfig.Place{Address: 1}, map[string]string{"delay": "9"})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Apply(t.Context(), p); !errors.Is(err, firmwareconfig.ErrDeclined) {
			t.Errorf("got %v", err)
		}
		if address, _, _ := f.community.Reached("m"); address != 1 || !slices.Equal(*steps, []string{"unlocked", "delay: 5 to 9", "saved"}) {
			t.Errorf("it is at %d; %q", address, *steps)
		}
	})
}

// Every shipped profile with settings, on the simulator: it is known for what it is, its factory settings are read as
// the profile says them, each can be set to something else, and every move is followed.
func TestEveryShippedSettingOnTheSimulator(t *testing.T) {
	profiles := shippedProfiles(t)
	settings := 0
	for id, profile := range profiles {
		t.Run(id, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				home := profile.Line
				address := max(profile.Address, 1)
				unit := firmwareconfig.Unit{ID: "u", Address: address, Profile: profile}
				f := newField(home, unit)
				if _, err := firmwareconfig.Verify(t.Context(), f, unit, nil); err != nil {
					t.Fatalf("its own signature does not hold: %v", err)
				}
				for i := range profile.Params {
					m := &profile.Params[i]
					if m.WriteOnly {
						continue
					}
					settings++
					want, ok := anotherValue(profile, m)
					if !ok {
						continue
					}
					f := newField(home, unit)
					if m.Default != "" && m.Role == firmwareconfig.ParamPlain {
						if drifts, err := firmwareconfig.Verify(t.Context(), f, unit, map[string]string{m.Name: m.Default}); err != nil || len(drifts) > 0 {
							t.Errorf("%s: the default %s is read as %v, %v", m.Name, m.Default, drifts, err)
						}
					}
					target := unit
					if m.Role == firmwareconfig.ParamAddress {
						target.Address, _ = strconv.Atoi(want)
					}
					if m.Role != firmwareconfig.ParamPlain && m.Role != firmwareconfig.ParamAddress && home.Baud == 0 {
						continue // Nobody knows where it is, so it cannot be followed.
					}
					c, _ := f.configurer(profiles, "u")
					c.Unverified = true
					p, err := c.Plan(t.Context(), target, home, firmwareconfig.Place{Address: address, Line: home}, map[string]string{m.Name: want})
					if err == nil {
						err = c.Apply(t.Context(), p)
					}
					if err != nil {
						t.Errorf("%s = %s: %v", m.Name, want, err)
					}
				}
			})
		})
	}
	if settings < 40 {
		t.Errorf("only %d settings: the loop does not see the profiles", settings)
	}
}

// anotherValue returns a value that is not the one the unit has from the factory.
func anotherValue(p *firmwareconfig.Profile, m *firmwareconfig.Param) (string, bool) {
	now := m.Default
	switch m.Role {
	case firmwareconfig.ParamAddress:
		now = strconv.Itoa(max(p.Address, 1))
	case firmwareconfig.ParamBaud:
		now = strconv.Itoa(p.Line.Baud)
	case firmwareconfig.ParamFormat:
		now = p.Line.Format
	}
	candidates := []string{"true", "false", "7"}
	for _, v := range m.Values {
		candidates = append(candidates, v.Name)
	}
	if m.Max != nil {
		candidates = append(candidates, strconv.FormatFloat(*m.Max, 'f', -1, 64))
	}
	for _, c := range candidates {
		if _, err := p.ParamValue(m.Name, c); err == nil && c != now {
			return c, true
		}
	}
	return "", false
}

func TestDeviceIdentification(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		profile := moverProfile(t, "")
		profile.Signature = nil
		profile.DeviceID = &firmwareconfig.DeviceID{Vendor: "Acme", Model: "M-1"}
		f := newField(line9600, firmwareconfig.Unit{ID: "m", Address: 1, Profile: profile})
		f.line = firmwareconfig.Line{}
		if _, err := firmwareconfig.Verify(t.Context(), f, firmwareconfig.Unit{ID: "m", Address: 1, Profile: profile}, nil); err != nil {
			t.Error(err)
		}
		other := *profile
		other.DeviceID = &firmwareconfig.DeviceID{Vendor: "acme", Model: "M-2"}
		_, err := firmwareconfig.Verify(t.Context(), f, firmwareconfig.Unit{ID: "m", Address: 1, Profile: &other}, nil)
		if want := `unit m cannot be taken for a mover: it says that it is "Acme  1.0 M-1", which does not contain "M-2"`; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	})
}

// Answers that are no answers do no harm.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte{3, 2, 0, 1}, []byte{0x2B, 0x0E, 2, 0x82, 0xFF, 1, 1, 0, 200})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		profile := moverProfile(t, "")
		profile.DeviceID = &firmwareconfig.DeviceID{Vendor: "x"}
		n := 0
		ask := askFunc(func(context.Context, byte, []byte) ([]byte, error) {
			n++
			if n%2 == 0 {
				return b, nil
			}
			return a, nil
		})
		_, _ = firmwareconfig.Verify(t.Context(), ask, firmwareconfig.Unit{ID: "m", Address: 1, Profile: profile}, map[string]string{"level": "0.1", "lamp": "on"})
	})
}

type askFunc func(ctx context.Context, unit byte, pdu []byte) ([]byte, error)

func (f askFunc) Ask(ctx context.Context, unit byte, pdu []byte) ([]byte, error) {
	return f(ctx, unit, pdu)
}
