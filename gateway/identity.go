package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
	"linli/internal/site"
	"linli/internal/telemetry"
)

const (
	// identityLookEvery is how often it is looked whether a unit has come back.
	identityLookEvery = 5 * time.Second
	// identityAfter is when a unit that has begun to answer is asked who it is: whoever exchanges a unit switches it off.
	identityAfter = time.Minute
	// serialsFile is the name of the memory of units' numbers in STATE/learned; no bus can have it.
	serialsFile  = "unit-serials.json"
	serialsBytes = 1 << 20
)

// identities asks the units whose profiles tell it who they are: a minute after they begin to answer, and on the schedule
// of Site.Verify. What they say becomes the points model_ok and swaps of the unit. It changes nothing.
type identities struct {
	site   *site.Site
	lines  []*drivers.Line
	health []func() drivers.BusHealth // as lines, parallel to the site's buses
	points *busPoints
	memory *serials
	log    *zap.Logger
	// identify is firmwareconfig.Identify.
	identify func(context.Context, firmwareconfig.Asker, firmwareconfig.Unit) (string, error)
}

// identifiedUnit is one unit that is asked.
type identifiedUnit struct {
	bus, unit int
	online    bool
	due       time.Time
	is        unitIdentity
	told      string // in the log
}

// units returns the units that have a point about who they are.
func (d *identities) units() (list []identifiedUnit) {
	inv := d.site.Inventory
	for i := range d.site.Buses {
		for j, device := range d.site.Buses[i].UnitHealth {
			if device < 0 {
				continue
			}
			for k, id := range inv.Devices[device].Points {
				if name := inv.Devices[device].Class.Points[k].Name; id != telemetry.NoPoint && (name == "model_ok" || name == "swaps") {
					list = append(list, identifiedUnit{bus: i, unit: j})
					break
				}
			}
		}
	}
	return list
}

// run asks until ctx ends, one unit at a time.
func (d *identities) run(ctx context.Context) error {
	units := d.units()
	if len(units) == 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(identityLookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for i := range units {
			u := &units[i]
			h := d.health[u.bus]()
			now := time.Now()
			health := unitHealth(&h, d.site.Buses[u.bus].Units[u.unit].ID)
			back := health != nil && health.Online && !u.online
			u.online = health != nil && health.Online
			if back {
				u.due = now.Add(identityAfter)
			}
			if !u.online || now.Before(u.due) {
				continue
			}
			if h.Suspended { // Somebody works on it, perhaps at other settings.
				u.due = now.Add(driftWhileSuspended)
				continue
			}
			wait := d.site.Verify
			if !d.look(ctx, u) {
				wait = min(wait, driftRetry)
			}
			if ctx.Err() != nil {
				return nil
			}
			u.due = time.Now().Add(wait)
		}
	}
}

// look asks one unit, and reports whether it answered.
func (d *identities) look(ctx context.Context, u *identifiedUnit) bool {
	bus := &d.site.Buses[u.bus]
	unit, line := bus.Units[u.unit], d.lines[u.bus]
	bound, cancel := context.WithTimeout(ctx, driftLimit)
	defer cancel()
	serial, err := d.identify(bound, asker(func(ctx context.Context, address byte, pdu []byte) ([]byte, error) {
		r, err := line.Ask(ctx, address, pdu, 0, driftShare)
		return r.PDU, err
	}), unit)
	if ctx.Err() != nil {
		return false
	}
	told := ""
	where := []zap.Field{zap.String("bus", bus.ID), zap.String("unit", unit.ID)}
	var other *firmwareconfig.IdentityError
	switch {
	case errors.As(err, &other):
		u.is.known, u.is.modelOK = true, false
		if told = err.Error(); told != u.told {
			d.log.Warn("the unit is not the model that the site file names: what is read from it may mean something else", append(where, zap.Error(err))...)
		}
	case err != nil:
		return false // That it does not answer is told by others; what was known of it stays.
	default:
		u.is.known, u.is.modelOK = true, true
		if before, changed := d.memory.swap(unit.ID, unit.Profile.ID, serial); changed {
			u.is.swaps++
			d.log.Warn("another unit answers at this address", append(where, zap.String("before", before), zap.String("now", serial))...)
		}
	}
	u.told = told
	d.points.identified(u.bus, unit.ID, u.is)
	return true
}

// serials remembers the numbers of the units in a file, over restarts. Losing it costs that exchanges meanwhile are not
// noticed. It is used by one goroutine.
type serials struct {
	path  string
	log   *zap.Logger
	known map[string]knownUnit // by unit
}

// knownUnit is a unit that was seen.
type knownUnit struct {
	Profile string `json:"profile"`
	Serial  string `json:"serial"`
}

type serialsJSON struct {
	Version int                  `json:"version"`
	Units   map[string]knownUnit `json:"units"`
}

// newSerials reads the memory of the gateway with the given state directory. A file that is damaged is set aside.
func newSerials(state string, log *zap.Logger) *serials {
	s := &serials{path: filepath.Join(state, "learned", serialsFile), log: log, known: map[string]knownUnit{}}
	data, err := os.ReadFile(s.path)
	if errors.Is(err, os.ErrNotExist) {
		return s
	}
	var file serialsJSON
	switch {
	case err != nil:
	case len(data) > serialsBytes:
		err = fmt.Errorf("larger than %d bytes", serialsBytes)
	default:
		if err = json.Unmarshal(data, &file); err == nil && file.Version != 1 {
			err = fmt.Errorf("version %d", file.Version)
		}
	}
	if err != nil {
		err = errors.Join(err, os.Rename(s.path, s.path+".damaged"))
		log.Warn("the numbers of the units cannot be read; exchanges since the last start are not noticed", zap.Error(err))
		return s
	}
	for id, u := range file.Units {
		s.known[id] = u
	}
	return s
}

// swap takes the number that a unit gives and reports whether it had another one before; "" is no number.
func (s *serials) swap(unit, profile, serial string) (before string, changed bool) {
	known, was := s.known[unit]
	if serial == "" || was && known == (knownUnit{profile, serial}) {
		return "", false
	}
	s.known[unit] = knownUnit{profile, serial}
	data, err := json.Marshal(serialsJSON{Version: 1, Units: s.known})
	if err == nil {
		err = writeLearned(s.path, data)
	}
	if err != nil {
		s.log.Warn("the number of the unit cannot be written; it is kept in memory", zap.String("unit", unit), zap.Error(err))
	}
	// Of another profile it is another unit because somebody said so.
	return known.Serial, was && known.Profile == profile
}
