package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	firmwareconfig "linli/firmware-config"
	"linli/internal/site"
	"linli/internal/telemetry"
)

// pointRef is a point of the site file and where it comes from.
type pointRef struct {
	name    string // device.point
	id      telemetry.PointID
	def     *telemetry.PointDef
	bus     *site.Bus
	unit    *firmwareconfig.Unit
	binding firmwareconfig.Binding
}

// findPoint finds a point by its name, device.point.
func findPoint(s *site.Site, name string) (*pointRef, error) {
	device, point, ok := strings.Cut(name, ".")
	if !ok {
		return nil, &usageError{fmt.Errorf("%q is no point: DEVICE.POINT, as air_1.temperature_c", name)}
	}
	inv := s.Inventory
	d, ok := inv.DeviceByID(device)
	if !ok {
		return nil, fmt.Errorf("there is no device %q in %s", device, s.File)
	}
	class := inv.Devices[d].Class
	k := class.Point(point)
	if k < 0 {
		var names []string
		for i := range class.Points {
			names = append(names, class.Points[i].Name)
		}
		return nil, fmt.Errorf("%s has no point %q; it has %s", device, point, strings.Join(names, ", "))
	}
	ref := &pointRef{name: name, id: inv.Devices[d].Points[k], def: &class.Points[k]}
	for i := range s.Buses {
		b := &s.Buses[i]
		for j := range b.Units {
			for _, bind := range b.Units[j].Bindings {
				if bind.Point == ref.id && ref.id != telemetry.NoPoint {
					ref.bus, ref.unit, ref.binding = b, &b.Units[j], bind
				}
			}
		}
	}
	if ref.unit == nil {
		return nil, fmt.Errorf("%s comes from no unit: it is a constant, or is computed", name)
	}
	return ref, nil
}

// pointReading is what one point reads as.
type pointReading struct {
	value   telemetry.Value
	quality telemetry.Quality
	known   bool
	raw     []uint16 // of the channel; nil where none could be read
	frames           // that its channel was read with
}

func readPoints(ctx context.Context, r *rawTarget, names []string, watch time.Duration, out io.Writer) error {
	if len(names) == 0 {
		return &usageError{errors.New("say which points, as linli read -c FILE air_1.temperature_c, or raw registers with --unit")}
	}
	p, err := loadPlan(r.file)
	if err != nil {
		return err
	}
	var refs []*pointRef
	buses := map[*site.Bus][]*pointRef{}
	var errs []error
	for _, name := range names {
		ref, err := findPoint(p.site, name)
		if err == nil && !isModbus(ref.bus) {
			err = fmt.Errorf("%s is on bus %s of kind %s: its value is on the console's page", name, ref.bus.ID, ref.bus.Transport)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		refs = append(refs, ref)
		buses[ref.bus] = append(buses[ref.bus], ref)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	conns := map[*site.Bus]busConn{}
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for b := range buses {
		if conns[b], err = reachBus(ctx, p.site, b, reachOptions{by: r.by, share: r.share}); err != nil {
			delete(conns, b)
			return err
		}
	}
	return repeat(ctx, watch, func() error {
		got := map[telemetry.PointID]pointReading{}
		for b, list := range buses {
			if err := decodePoints(ctx, conns[b], b, list, got); err != nil {
				return err
			}
		}
		bad, err := printPoints(out, refs, got, r.asJSON, watch <= 0)
		if err == nil && bad && watch <= 0 {
			err = errAnswered
		}
		return err
	})
}

// printPoints shows points, and reports whether one could not be read.
func printPoints(out io.Writer, refs []*pointRef, got map[telemetry.PointID]pointReading, asJSON, showFrames bool) (bad bool, err error) {
	type entry struct {
		Point   string `json:"point"`
		Value   any    `json:"value"`
		Unit    string `json:"unit,omitempty"`
		Quality string `json:"quality"`
		Source  string `json:"source"`
		Table   string `json:"table"`
		Address int    `json:"address"`
		Raw     string `json:"raw,omitempty"`
		frames
	}
	var entries []entry
	for _, ref := range refs {
		g := got[ref.id]
		ch := &ref.unit.Profile.Channels[ref.binding.Channel]
		e := entry{Point: ref.name, Unit: ref.def.Unit, Quality: "no answer", Source: ref.unit.ID + "." + ch.Name, Table: ch.Table.String(), Address: ch.Address, Raw: hexWords(g.raw), frames: g.frames}
		if g.known {
			e.Quality = g.quality.String()
		}
		if !g.value.IsZero() {
			e.Value = valueForJSON(ref.def, g.value)
		}
		bad = bad || !g.known || g.quality.Bad()
		entries = append(entries, e)
	}
	if asJSON {
		return bad, json.NewEncoder(out).Encode(entries)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "POINT\tVALUE\tQUALITY\tFROM\tRAW")
	for _, e := range entries {
		value := "-"
		if e.Value != nil {
			value = strings.TrimSpace(fmt.Sprint(e.Value) + " " + e.Unit)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s: %s %d\t%s\n", e.Point, value, e.Quality, e.Source, e.Table, e.Address, dash(e.Raw))
	}
	if err := w.Flush(); err != nil || !showFrames {
		return bad, err
	}
	told := map[frames]bool{{}: true}
	for _, e := range entries {
		if !told[e.frames] {
			told[e.frames] = true
			fmt.Fprintf(out, "request:  %s\nresponse: %s\n", e.Request, e.Response)
		}
	}
	return bad, nil
}

// valueForJSON is a value as programs read it; an enum is its name.
func valueForJSON(def *telemetry.PointDef, v telemetry.Value) any {
	switch v.Kind() {
	case telemetry.Bool:
		return v.Bool()
	case telemetry.Float:
		return jsonNumber(v.Float())
	case telemetry.KindText:
		return v.Text()
	case telemetry.Enum:
		for _, e := range def.Enum {
			if e.Code == v.Int() {
				return e.Name
			}
		}
	}
	return v.Int()
}
