package main

import (
	"context"
	byteorder "encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
	"linli/internal/site"
	"linli/internal/telemetry"
	"linli/internal/yamlfile"
)

// checkGoldens has the driver decode the golden frames of profiles and returns where it reads other values than the
// files say, at those places.
func checkGoldens(ctx context.Context, library *firmwareconfig.Library, ids []string) (yamlfile.Errors, error) {
	var wrong yamlfile.Errors
	for _, id := range ids {
		p := library.Profiles[id]
		if p == nil || library.Faulty[id] {
			continue
		}
		for i := range p.Golden {
			found, err := checkGolden(ctx, p, &p.Golden[i])
			if err != nil {
				return nil, fmt.Errorf("check the golden frames of %s: %w", id, err)
			}
			wrong = append(wrong, found...)
		}
	}
	return wrong, nil
}

// checkGolden decodes one golden frame with a driver of its own, as linli read does, and returns what is otherwise.
func checkGolden(ctx context.Context, p *firmwareconfig.Profile, g *firmwareconfig.Golden) (yamlfile.Errors, error) {
	if g.Response == nil || len(g.Values) == 0 {
		return nil, nil
	}
	hasty := *p
	hasty.Timing = firmwareconfig.Timing{} // Nobody is there who needs pauses.
	unit := firmwareconfig.Unit{ID: p.ID, Address: max(int(g.Request[0]), 1), Profile: &hasty}
	bus := &site.Bus{ID: p.ID}
	var refs []*pointRef
	for k, v := range g.Values {
		ch := &p.Channels[v.Channel]
		def := &telemetry.PointDef{Name: ch.Name, Kind: telemetry.Float}
		switch ch.Encoding {
		case firmwareconfig.EncBool:
			def.Kind = telemetry.Bool
		case firmwareconfig.EncString:
			def.Kind = telemetry.KindText
		}
		unit.Bindings = append(unit.Bindings, firmwareconfig.Binding{Channel: v.Channel, Point: telemetry.PointID(k), Def: def, UnitFactor: 1})
	}
	for k := range unit.Bindings {
		refs = append(refs, &pointRef{id: telemetry.PointID(k), def: unit.Bindings[k].Def, bus: bus, unit: &unit, binding: unit.Bindings[k]})
	}
	bus.Units = []firmwareconfig.Unit{unit}
	got := map[telemetry.PointID]pointReading{}
	if err := decodePoints(ctx, newGoldenConn(p, g), bus, refs, got); err != nil {
		return nil, err
	}
	var wrong yamlfile.Errors
	for k, v := range g.Values {
		r := got[telemetry.PointID(k)]
		same := r.quality == v.Quality && (v.Quality != telemetry.Good || r.value == v.Value)
		if a, b := r.value.Float(), v.Value.Float(); !same && r.quality == v.Quality && r.value.Kind() == telemetry.Float && v.Value.Kind() == telemetry.Float {
			same = math.Abs(a-b) <= 1e-6*math.Abs(b)+1e-9 // A frame has more digits than a person writes down.
		}
		if !r.known || !same {
			wrong.Addf(v.Pos, "golden %q: %s reads %s in that frame, not %s", g.Name, p.Channels[v.Channel].Name,
				goldenText(r.value, r.quality, r.known), goldenText(v.Value, v.Quality, true))
		}
	}
	return wrong, nil
}

// goldenText writes a reading as a golden of a profile file does.
func goldenText(v telemetry.Value, q telemetry.Quality, known bool) string {
	switch {
	case !known:
		return "nothing"
	case q == telemetry.UnderRange:
		return "under (below its range)"
	case q == telemetry.OverRange:
		return "over (above its range)"
	case q != telemetry.Good:
		return "none (no reading)"
	case v.Kind() == telemetry.Float:
		return number(v.Float())
	}
	return v.String()
}

// goldenConn answers out of one golden frame. What decides whether values count and is not in it says that they do.
type goldenConn struct {
	words map[[2]int]uint16 // by table and address
}

func newGoldenConn(p *firmwareconfig.Profile, g *firmwareconfig.Golden) *goldenConn {
	c := &goldenConn{words: map[[2]int]uint16{}}
	for i := range p.Channels {
		if v := p.Channels[i].Valid; v != nil {
			at := [2]int{int(v.Table), v.Address}
			switch {
			case v.Equals != nil:
				c.words[at] = *v.Equals
			case v.Table.Bits():
				c.words[at] = 1
			default:
				c.words[at] |= 1 << v.Bit
			}
		}
	}
	table, first, count := int(g.Request[1]), int(byteorder.BigEndian.Uint16(g.Request[2:])), int(byteorder.BigEndian.Uint16(g.Request[4:]))
	data := g.Response[3:]
	for i := range count {
		if firmwareconfig.Table(table).Bits() {
			c.words[[2]int{table, first + i}] = uint16(data[i/8]>>(i%8)) & 1
		} else {
			c.words[[2]int{table, first + i}] = byteorder.BigEndian.Uint16(data[2*i:])
		}
	}
	return c
}

// Ask answers reads; registers that the frame does not have are 0 between others, as on most devices.
func (c *goldenConn) Ask(_ context.Context, _ byte, pdu []byte, _ time.Duration) (drivers.Reply, error) {
	if len(pdu) != 5 || pdu[0] < 1 || pdu[0] > 4 {
		return drivers.Reply{PDU: []byte{pdu[0] | 0x80, 1}}, nil
	}
	first, count := int(byteorder.BigEndian.Uint16(pdu[1:])), int(byteorder.BigEndian.Uint16(pdu[3:]))
	out := []byte{pdu[0], byte(2 * count)}
	if firmwareconfig.Table(pdu[0]).Bits() {
		out = append([]byte{pdu[0], byte((count + 7) / 8)}, make([]byte, (count+7)/8)...)
	}
	for i := range count {
		word := c.words[[2]int{int(pdu[0]), first + i}]
		if firmwareconfig.Table(pdu[0]).Bits() {
			out[2+i/8] |= byte(word&1) << (i % 8)
		} else {
			out = byteorder.BigEndian.AppendUint16(out, word)
		}
	}
	return drivers.Reply{PDU: out}, nil
}

// Hear is not used.
func (c *goldenConn) Hear(context.Context, time.Duration) ([]byte, error) {
	return nil, errors.New("a golden frame cannot be listened to")
}

// Set is not used.
func (c *goldenConn) Set(context.Context, firmwareconfig.Line) error { return nil }

// Close has nothing to give back.
func (c *goldenConn) Close() error { return nil }
