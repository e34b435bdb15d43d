package modbus

import (
	"slices"

	firmwareconfig "linli/firmware-config"
)

// Memory keeps what a bus has learned about its units across restarts. Load is called by New; Save by the bus's
// goroutine, with everything that is known, each time that something was learned: it must be quick or work in the
// background.
type Memory interface {
	Load() []Hole
	Save([]Hole)
}

// Hole is a range of registers that a unit refuses to read: blocks are planned around it. It counts as long as the
// unit has the same profile.
type Hole struct {
	Unit    string               `json:"unit"`
	Profile string               `json:"profile"`
	Table   firmwareconfig.Table `json:"table"`
	Address int                  `json:"address"`
	Count   int                  `json:"count"`
	// Most, where it is not 0, says something else: the unit refuses to read more than so many registers (or bits) of
	// such a table at once. Address and Count are 0 then.
	Most int `json:"most,omitempty"`
}

// holesMost bounds what is remembered of one unit.
const holesMost = 256

// recall gives the unit what is remembered of it.
func (u *unit) recall(all []Hole) {
	for _, h := range all {
		if h.Unit != u.cfg.ID || h.Profile != u.cfg.Profile.ID || h.Table < firmwareconfig.Coil || h.Table > firmwareconfig.InputRegister {
			continue
		}
		switch {
		case h.Most > 0:
			u.sizeOf(h.Table).learned = h.Most
		case h.Address >= 0 && h.Count > 0 && h.Address+h.Count <= 0x10000:
			u.learn(span{h.Table, h.Address, h.Count}, true)
		}
	}
	u.changed = false
}

// learn notes a range that cannot be read, to be kept across restarts or not.
func (u *unit) learn(s span, keep bool) {
	for _, h := range u.holes {
		if h.table == s.table && h.addr <= s.addr && s.end() <= h.end() {
			return
		}
	}
	if len(u.holes) < holesMost {
		u.holes = append(u.holes, s)
		if keep {
			u.changed = true
		} else {
			u.passing = append(u.passing, s)
		}
	}
}

// forget drops the holes in which s lies: it could be read.
func (u *unit) forget(s span) {
	n := len(u.holes)
	u.holes = slices.DeleteFunc(u.holes, s.meets)
	u.passing = slices.DeleteFunc(u.passing, s.meets)
	u.changed = u.changed || len(u.holes) != n
}

// remember saves what was learned since the last time.
func (b *Bus) remember() {
	changed := false
	var all []Hole
	for _, u := range b.units {
		changed = changed || u.changed
		u.changed = false
		for _, h := range u.holes {
			if slices.Contains(u.passing, h) {
				continue
			}
			all = append(all, Hole{Unit: u.cfg.ID, Profile: u.cfg.Profile.ID, Table: h.table, Address: h.addr, Count: h.count})
		}
		for i := range u.sizes {
			if n := u.sizes[i].learned; n > 0 {
				table := firmwareconfig.HoldingRegister
				if i == 1 {
					table = firmwareconfig.Coil
				}
				all = append(all, Hole{Unit: u.cfg.ID, Profile: u.cfg.Profile.ID, Table: table, Most: n})
			}
		}
	}
	if changed && b.memory != nil {
		b.memory.Save(all)
	}
}
