package modbus

import (
	"fmt"
	"net"

	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// CheckPlan plans a unit around holes and returns what is wrong with its requests. It looks at what they read, without
// the planner's own ideas of joining and covering.
func CheckPlan(cfg firmwareconfig.Unit, holes []Hole) error {
	b, err := NewOver(Config{Name: "b", Transport: TCP, Units: []firmwareconfig.Unit{cfg}, Memory: fixed(holes)}, nil)
	if err != nil {
		return err
	}
	u := b.units[0]
	lim := resolve(cfg.Profile.Limits)
	check := func(what span, of []*block) error {
		most, gap := lim.most(what.table)
		if what.count < 1 || what.count > most || what.addr < 0 || what.end() > 0x10000 {
			return fmt.Errorf("reads %+v, at most %d are allowed", what, most)
		}
		wanted := make([]bool, what.count)
		for _, bl := range of {
			for _, it := range bl.items {
				if it.table != what.table || it.addr < what.addr || it.end() > what.end() {
					return fmt.Errorf("%+v does not cover %s at %+v", what, it.name, it.span)
				}
				for a := it.addr; a < it.end(); a++ {
					wanted[a-what.addr] = true
				}
			}
		}
		run := 0
		for i, w := range wanted {
			if w {
				run = 0
				continue
			}
			if run++; run > gap || i == 0 || i == len(wanted)-1 {
				return fmt.Errorf("%+v reads %d in vain at %d", what, run, what.addr+i)
			}
			for _, h := range u.holes {
				if at := (span{what.table, what.addr + i, 1}); at.meets(h) {
					return fmt.Errorf("%+v reads over the hole %+v", what, h)
				}
			}
		}
		return nil
	}
	seen := map[*item]int{}
	for _, bl := range u.blocks {
		if err := check(bl.span, []*block{bl}); err != nil {
			return err
		}
		end := 0
		for i, it := range bl.items {
			seen[it]++
			if i > 0 && it.addr < end && it.addr < bl.items[i-1].addr {
				return fmt.Errorf("%+v: items out of order", bl.span)
			}
			end = max(end, it.end())
		}
	}
	points := map[telemetry.PointID]int{}
	for _, g := range u.groups {
		for _, it := range g.items {
			if seen[it] != 1 {
				return fmt.Errorf("%s is read %d times", it.name, seen[it])
			}
			for _, p := range it.points {
				points[p.id]++
			}
		}
	}
	for _, bind := range cfg.Bindings {
		if points[bind.Point] != 1 {
			return fmt.Errorf("point %d has %d readings", bind.Point, points[bind.Point])
		}
	}
	// Together.
	b.start(0)
	for _, bl := range u.blocks {
		asked := b.gather(bl, 0)
		if err := check(asked, b.party); err != nil {
			return fmt.Errorf("%d blocks together: %w", len(b.party), err)
		}
		if pdu := bl.reqs.pdu(asked); len(pdu) != 5 || pdu[0] != byte(asked.table) ||
			int(pdu[1])<<8|int(pdu[2]) != asked.addr || int(pdu[3])<<8|int(pdu[4]) != asked.count {
			return fmt.Errorf("request % x for %+v", pdu, asked)
		}
	}
	return nil
}

// fixed is a Memory that keeps nothing.
type fixed []Hole

func (f fixed) Load() []Hole { return f }
func (fixed) Save([]Hole)    {}

// NewReader returns a function that does all that Step does for a read of the unit but the exchange itself, which is
// answered with data.
func NewReader(cfg firmwareconfig.Unit, data []byte) (func(dst []telemetry.Sample) []telemetry.Sample, error) {
	b, err := NewOver(Config{Name: "b", Transport: TCP, Units: []firmwareconfig.Unit{cfg}}, nil)
	if err != nil {
		return nil, err
	}
	var now telemetry.Mono
	b.start(now)
	return func(dst []telemetry.Sample) []telemetry.Sample {
		bl, next := b.pick(now)
		if bl == nil {
			now = next
			bl, _ = b.pick(now)
		}
		u := bl.unit
		from := b.chosen(bl, now)
		asked := b.gather(bl, now)
		_ = bl.reqs.pdu(asked)
		b.count(u, nil, asked.count, false)
		now = now.Add(20e6)
		b.busyAdd(from, now)
		b.left(u, now)
		return b.answered(u, asked, data, now, dst)
	}, nil
}

// Offer is what a Listener does when a converter dials in.
func Offer(r *Route, c net.Conn) { r.offer(c) }
