package firmwareconfig_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	firmwareconfig "linli/firmware-config"
	"linli/internal/simulate"
)

// Surprises in the middle: each stops everything, and the message says what is known.
func TestApplyStopsAtTheFirstSurprise(t *testing.T) {
	isWrite := func(pdu []byte, address byte) bool { return pdu[0] == 6 && pdu[1] == 0 && pdu[2] == address }
	type hooks struct {
		spoil func(f *field) func(n int, pdu []byte) (lose, deaf bool)
		after func(f *field) func(pdu []byte)
	}
	for name, test := range map[string]struct {
		hooks hooks
		want  string
		more  bool // the settings behind it are written all the same
	}{
		"the answer to the write is lost, and it was taken": {hooks{spoil: func(*field) func(int, []byte) (bool, bool) {
			return func(_ int, pdu []byte) (bool, bool) { return isWrite(pdu, 10), false }
		}}, "", true},
		"the write is not heard": {hooks{spoil: func(*field) func(int, []byte) (bool, bool) {
			return func(_ int, pdu []byte) (bool, bool) { return isWrite(pdu, 10), isWrite(pdu, 10) }
		}}, "delay was not taken: it was set to 9 and still reads 5: no answer", false},
		"it falls silent after the write": {hooks{after: func(f *field) func([]byte) {
			return func(pdu []byte) {
				if isWrite(pdu, 10) {
					_ = f.community.Misbehave("m", simulate.Fault{Silent: true})
				}
			}
		}}, "delay was written (9), and nobody knows whether it was taken: the unit does not answer any more: no answer", false},
		"it reads back another value": {hooks{after: func(f *field) func([]byte) {
			return func(pdu []byte) {
				if isWrite(pdu, 10) {
					_ = f.community.Poke("m", firmwareconfig.HoldingRegister, 10, 8)
				}
			}
		}}, "delay was set to 9 and reads 8", false},
		"it ignores the write": {hooks{after: func(f *field) func([]byte) {
			return func(pdu []byte) {
				if isWrite(pdu, 10) {
					_ = f.community.Poke("m", firmwareconfig.HoldingRegister, 10, 5)
				}
			}
		}}, "delay was not taken: it was set to 9 and still reads 5", false},
		"it refuses": {hooks{after: func(f *field) func([]byte) {
			return func(pdu []byte) {
				if pdu[0] == 3 && pdu[2] == 10 && len(f.writes) == 1 { // just before it is written
					_ = f.community.Misbehave("m", simulate.Fault{Exception: 4})
				}
			}
		}}, "delay was not taken (9 wanted): refused: device failure (exception 4)", false},
		"somebody else changes it": {hooks{after: func(f *field) func([]byte) {
			return func(pdu []byte) {
				if pdu[0] == 5 { // unlocked
					_ = f.community.Poke("m", firmwareconfig.HoldingRegister, 10, 33)
				}
			}
		}}, "delay was 5 when it was planned and is 33 now: somebody else is changing it. Nothing was written to it", false},
		"it cannot be unlocked": {hooks{spoil: func(*field) func(int, []byte) (bool, bool) {
			return func(_ int, pdu []byte) (bool, bool) { return pdu[0] == 5, pdu[0] == 5 }
		}}, "could not be unlocked (coil 1 = 1): no answer", false},
		"it does not confirm the saving": {hooks{spoil: func(*field) func(int, []byte) (bool, bool) {
			return func(_ int, pdu []byte) (bool, bool) { return isWrite(pdu, 5), false }
		}}, "did not confirm that its settings are saved; they may be lost when it is switched off. Apply again with --save (holding 5 = 1): no answer", true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				profile := moverProfile(t, "")
				unit := firmwareconfig.Unit{ID: "m", Address: 1, Profile: profile}
				f := newField(firmwareconfig.Line{}, unit)
				c, _ := f.configurer(nil, "m")
				p, err := c.Plan(t.Context(), unit, f.home, firmwareconfig.Place{Address: 1}, map[string]string{"delay": "9", "part": "1"})
				if err != nil {
					t.Fatal(err)
				}
				if test.hooks.spoil != nil {
					f.spoil = test.hooks.spoil(f)
				}
				if test.hooks.after != nil {
					f.after = test.hooks.after(f)
				}
				err = c.Apply(t.Context(), p)
				if test.want == "" {
					if err != nil {
						t.Error(err)
					}
				} else {
					var stop *firmwareconfig.StopError
					if !errors.As(err, &stop) || err.Error() != "unit m: "+test.want {
						t.Errorf("got  %v\nwant unit m: %s", err, test.want)
					}
				}
				behind := slices.ContainsFunc(f.writes, func(pdu []byte) bool { return isWrite(pdu, 11) })
				if behind != test.more {
					t.Errorf("the setting behind it was written: %v", behind)
				}
			})
		})
	}
}

// Where a unit goes after a move is never guessed.
func TestApplyFollowsOrSaysThatItIsLost(t *testing.T) {
	for name, c := range map[string]struct {
		after func(f *field, pdu []byte)
		want  string
	}{
		"gone": {func(f *field, pdu []byte) {
			_ = f.community.Misbehave("m", simulate.Fault{Silent: true})
		}, "address was set to 7, and the unit answers neither at address 7 nor at address 1. Switch it off and on, and look for it with linli scan: no answer"},
		"not taken": {func(f *field, pdu []byte) {
			_ = f.community.Poke("m", firmwareconfig.HoldingRegister, 1, 1)
			_ = f.community.PowerCycle("m")
		}, "address was not taken: it was set to 7 and still reads 1"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				profile := moverProfile(t, "")
				unit := firmwareconfig.Unit{ID: "m", Address: 7, Profile: profile}
				f := newField(firmwareconfig.Line{}, firmwareconfig.Unit{ID: "m", Address: 1, Profile: profile})
				cf, _ := f.configurer(nil, "m")
				p, err := cf.Plan(t.Context(), unit, f.home, firmwareconfig.Place{Address: 1}, nil)
				if err != nil {
					t.Fatal(err)
				}
				f.after = func(pdu []byte) {
					if pdu[0] == 6 && pdu[2] == 1 {
						c.after(f, pdu)
					}
				}
				if err := cf.Apply(t.Context(), p); err == nil || err.Error() != "unit m: "+c.want {
					t.Errorf("got  %v\nwant unit m: %s", err, c.want)
				}
			})
		})
	}
}

// Nobody switches the unit off and on: the wait is bounded, and says what to do.
func TestApplyWaitsForThePowerCycle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		profile := moverProfile(t, ", effective: power_cycle")
		unit := firmwareconfig.Unit{ID: "m", Address: 7, Profile: profile}
		f := newField(firmwareconfig.Line{}, firmwareconfig.Unit{ID: "m", Address: 1, Profile: profile})
		c, _ := f.configurer(nil, "m")
		c.Tell = nil
		at := firmwareconfig.Place{Address: 1}
		p, err := c.Plan(t.Context(), unit, f.home, at, nil)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := c.Apply(t.Context(), p); err == nil || !strings.Contains(err.Error(), "it was not switched off and on (it is looked for at address 7)") {
			t.Errorf("got %v", err)
		}
		if d := time.Since(began); d < time.Minute || d > 2*time.Minute {
			t.Errorf("waited for %v", d)
		}
		// Planned anew it is known that only the power cycle is missing, and nothing is written.
		writes := len(f.writes)
		c.Wait = 0
		p, err = c.Plan(t.Context(), unit, f.home, at, nil)
		if err != nil || !p.Waiting() || len(p.Changes()) != 0 {
			t.Fatalf("planned anew: %+v, %v", p, err)
		}
		if err := c.Apply(t.Context(), p); !errors.Is(err, firmwareconfig.ErrWaiting) || len(f.writes) != writes {
			t.Errorf("got %v, %d writes", err, len(f.writes)-writes)
		}
	})
}

// Whatever request is lost, on its way there or on its way back: planning anew and applying again brings the unit to
// where it should be, and it is never lost without being told.
func TestApplyCanBeGoneOnWith(t *testing.T) {
	for _, effective := range []string{"", ", effective: power_cycle"} {
		for _, deaf := range []bool{false, true} {
			t.Run(fmt.Sprintf("deaf %v%s", deaf, effective), func(t *testing.T) {
				lost := 1
				for n := 0; lost > 0; n++ {
					synctest.Test(t, func(t *testing.T) { lost = loseOne(t, effective, n, deaf) })
				}
			})
		}
	}
}

func loseOne(t *testing.T, effective string, n int, deaf bool) (lost int) {
	profile := moverProfile(t, effective)
	want := map[string]string{"delay": "7", "part": "4", "lamp": "false"}
	unit := firmwareconfig.Unit{ID: "m", Address: 3, Profile: profile}
	f := newField(line9600, firmwareconfig.Unit{ID: "m", Address: 1, Profile: profile})
	f.spoil = func(k int, _ []byte) (bool, bool) {
		if k == n {
			lost++
			return true, deaf
		}
		return false, false
	}
	var last error
	for range 3 {
		address, line, err := f.community.Reached("m") // the person with the scan
		if err != nil {
			t.Fatal(err)
		}
		c, _ := f.configurer(nil, "m")
		p, err := c.Plan(t.Context(), unit, f.home, firmwareconfig.Place{Address: address, Line: line}, want)
		if err == nil {
			c.Save = last != nil
			err = c.Apply(t.Context(), p)
		}
		_ = f.set(t.Context(), firmwareconfig.Line{})
		if last = err; err == nil {
			break
		}
	}
	if last != nil {
		t.Errorf("request %d lost: %v", n, last)
	}
	if err := f.community.PowerCycle("m"); err != nil {
		t.Fatal(err)
	}
	if drifts, err := firmwareconfig.Verify(t.Context(), f, unit, want); err != nil || len(drifts) != 0 {
		t.Errorf("request %d lost: %v, %v", n, drifts, err)
	}
	return lost
}
