package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
)

// TestUnitsAreAskedWhoTheyAre: a minute after a unit begins to answer, then on the schedule; and what came of it.
func TestUnitsAreAskedWhoTheyAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newHealthRig(t) // Of its two units the first has the points.
		r.site.Verify = 24 * time.Hour
		r.site.Buses[0].Units[0].Profile = &firmwareconfig.Profile{ID: "p"}
		var mu sync.Mutex // guards online, suspended, serial, failing and asked
		online, suspended, serial := false, false, "A1"
		var failing error
		var asked []time.Duration
		began := time.Now()
		d := &identities{site: r.site, lines: []*drivers.Line{nil}, points: r.busPoints, memory: newSerials(t.TempDir(), zap.NewNop()), log: zap.NewNop(),
			health: []func() drivers.BusHealth{func() drivers.BusHealth {
				mu.Lock()
				defer mu.Unlock()
				return drivers.BusHealth{Suspended: suspended, Units: []drivers.UnitHealth{{Unit: "u1", Online: online}, {Unit: "u2", Online: true}}}
			}},
			identify: func(_ context.Context, _ firmwareconfig.Asker, unit firmwareconfig.Unit) (string, error) {
				mu.Lock()
				defer mu.Unlock()
				if unit.ID != "u1" {
					t.Errorf("asked %s, which tells nothing", unit.ID)
				}
				asked = append(asked, time.Since(began))
				return serial, failing
			}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- d.run(ctx) }()
		set := func(f func()) {
			mu.Lock()
			defer mu.Unlock()
			f()
		}
		is := func(want unitIdentity) {
			t.Helper()
			synctest.Wait()
			r.mu.Lock()
			got := r.units[unitKey{0, "u1"}].identity
			r.mu.Unlock()
			if got != want {
				t.Errorf("after %v it is %+v, want %+v", time.Since(began), got, want)
			}
		}
		good := unitIdentity{known: true, modelOK: true}
		time.Sleep(2 * time.Second) // What the test does falls between two looks, never on one.
		time.Sleep(10 * time.Minute)
		is(unitIdentity{}) // A silent unit is not asked.
		set(func() { online = true })
		time.Sleep(2 * time.Minute)
		is(good)
		set(func() { online = false })
		time.Sleep(8 * time.Minute)
		set(func() { online, serial = true, "B2" })
		time.Sleep(2 * time.Minute)
		good.swaps = 1
		is(good)
		set(func() { failing = errors.New("no answer") })
		time.Sleep(24 * time.Hour)
		is(good) // What was known stays.
		set(func() { failing = &firmwareconfig.IdentityError{Unit: "u1", Profile: "p"} })
		time.Sleep(time.Hour)
		is(unitIdentity{known: true, swaps: 1})
		set(func() { failing, suspended, online = nil, true, false })
		time.Sleep(time.Minute)
		set(func() { online = true })
		time.Sleep(10 * time.Minute)
		is(unitIdentity{known: true, swaps: 1}) // Somebody works on the line.
		set(func() { suspended = false })
		time.Sleep(2 * time.Minute)
		is(good)
		var want []time.Duration // each at a look, five seconds into the minute
		for _, d := range []time.Duration{11 * time.Minute, 21 * time.Minute, 24*time.Hour + 21*time.Minute, 25*time.Hour + 21*time.Minute, 25*time.Hour + 33*time.Minute} {
			want = append(want, d+5*time.Second)
		}
		if !slices.Equal(asked, want) {
			t.Errorf("asked after %v, want %v", asked, want)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestNumbersOfUnitsSurvive: a unit that is exchanged while the gateway is off is noticed; another model is no exchange,
// since somebody has said so in the site file; and damage costs the memory, not the gateway.
func TestNumbersOfUnitsSurvive(t *testing.T) {
	dir := t.TempDir()
	swap := func(s *serials, profile, serial string, want bool) {
		t.Helper()
		if _, got := s.swap("m1", profile, serial); got != want {
			t.Errorf("%s %q: exchanged %v, want %v", profile, serial, got, want)
		}
	}
	s := newSerials(dir, zap.NewNop())
	swap(s, "p", "", false)
	swap(s, "p", "A1", false)
	swap(s, "p", "A1", false)
	swap(s, "p", "", false) // It did not tell this time.
	s = newSerials(dir, zap.NewNop())
	swap(s, "p", "B2", true)
	swap(s, "q", "C3", false)
	path := filepath.Join(dir, "learned", serialsFile)
	for _, damage := range []string{"{", `{"version": 2}`, string(make([]byte, serialsBytes+1))} {
		if err := os.WriteFile(path, []byte(damage), 0o640); err != nil {
			t.Fatal(err)
		}
		swap(newSerials(dir, zap.NewNop()), "q", "D4", false)
		if _, err := os.Stat(path + ".damaged"); err != nil {
			t.Error(err)
		}
	}
	s = newSerials(filepath.Join(path, "no", "directory"), zap.NewNop()) // A disk that cannot be written.
	swap(s, "p", "A1", false)
	swap(s, "p", "B2", true)
}
