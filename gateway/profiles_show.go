package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

func showProfile(out io.Writer, p *firmwareconfig.Profile) error {
	fmt.Fprintf(out, "%s: %s %s (%s · %s)\n", p.ID, p.Vendor, p.Model, p.Title.Zh, p.Title.En)
	fmt.Fprintf(out, "register facts: %s; from %s\n", p.Status, strings.Join(p.Sources, "; "))
	if all, partial, unverified := doubts(p); partial+unverified > 0 {
		fmt.Fprintf(out, "not confirmed: %s channels and settings; see STATUS\n", doubtText(all, partial, unverified))
	}
	if p.Line.Baud != 0 {
		fmt.Fprintf(out, "factory setting: %d %s", p.Line.Baud, cmp.Or(p.Line.Format, "(parity and stop bits are not known)"))
		if p.Address != 0 {
			fmt.Fprintf(out, ", address %d", p.Address)
		}
		fmt.Fprintln(out)
	}
	if p.Timing.SwitchGap > 0 {
		fmt.Fprintf(out, "needs a pause of %v when the bus changes from or to another unit\n", p.Timing.SwitchGap)
	}
	provides := map[string][]string{}
	if p.Device != nil {
		fmt.Fprintf(out, "a unit of it is one %s\n", p.Device.Class)
		for point, b := range p.Device.Points {
			provides[b.Channel] = append(provides[b.Channel], point)
		}
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nCHANNEL\tTABLE\tADDRESS\tTYPE\tUNIT\tPROVIDES\tSTATUS\tNOTES\tTITLE")
	for i := range p.Channels {
		ch := &p.Channels[i]
		points := provides[ch.Name]
		slices.Sort(points)
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", ch.Name, ch.Table, placeOf(ch), typeOf(ch), dash(ch.Unit),
			dash(strings.Join(points, ", ")), p.StatusOf(ch), dash(strings.Join(channelNotes(ch), ", ")), bothTitles(ch.Title))
	}
	if len(p.Params) > 0 {
		fmt.Fprintln(w, "\nSETTING\tTABLE\tADDRESS\tTYPE\tUNIT\tVALUES\tDEFAULT\tSTATUS\tNOTES")
	}
	for i := range p.Params {
		m := &p.Params[i]
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", m.Name, m.Table, placeOf(&m.Channel), typeOf(&m.Channel), dash(m.Unit),
			dash(paramValues(m)), dash(m.Default), p.StatusOf(&m.Channel), dash(strings.Join(paramNotes(m), ", ")))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, r := range p.Unlock {
		fmt.Fprintf(out, "before settings are written: %s %d = %d\n", r.Table, r.Address, r.Value)
	}
	for _, r := range p.Save {
		fmt.Fprintf(out, "after settings are written: %s %d = %d\n", r.Table, r.Address, r.Value)
	}
	if len(p.Signature) > 0 || p.DeviceID != nil {
		fmt.Fprintln(out, "\ntold apart by:")
		for _, t := range p.Signature {
			fmt.Fprintf(out, "  %s\n", t)
		}
		if d := p.DeviceID; d != nil {
			fmt.Fprintf(out, "  what it says of itself: %s\n", strings.TrimSpace(strings.Join([]string{d.Vendor, d.Product, d.Model}, " ")))
		}
	}
	if len(p.LookAlikes) > 0 {
		fmt.Fprintf(out, "not to be confused with: %s\n", strings.Join(p.LookAlikes, ", "))
	}
	return nil
}

// bothTitles returns a title in both languages, once where they are the same.
func bothTitles(t telemetry.Text) string {
	if t.Zh == t.En {
		return dash(t.Zh)
	}
	return t.Zh + " · " + t.En
}

// placeOf returns a channel's address, with the bits where it is a part of a register.
func placeOf(ch *firmwareconfig.Channel) string {
	s := strconv.Itoa(ch.Address)
	switch {
	case ch.Table.Bits() || ch.Width == 0:
	case ch.Width == 1:
		s += "." + strconv.Itoa(ch.Bit)
	default:
		s += fmt.Sprintf(".%d-%d", ch.Bit, ch.Bit+ch.Width-1)
	}
	return s
}

// typeOf returns a channel's encoding with its order.
func typeOf(ch *firmwareconfig.Channel) string {
	s := ch.Encoding.String()
	if ch.Encoding == firmwareconfig.EncString {
		s += "[" + strconv.Itoa(ch.Count) + "]"
	}
	if ch.OneChar {
		s += " one_per_register"
	}
	if ch.LittleWords {
		s += " words:little"
	}
	if ch.LittleBytes {
		s += " bytes:little"
	}
	return s
}

func channelNotes(ch *firmwareconfig.Channel) []string {
	var notes []string
	if v := ch.Valid; v != nil {
		what := fmt.Sprintf("bit %d is set", v.Bit)
		if v.Equals != nil {
			what = fmt.Sprintf("it is %d", *v.Equals)
		} else if v.Table.Bits() {
			what = "it is set"
		}
		notes = append(notes, fmt.Sprintf("counts while of %s %d %s", v.Table, v.Address, what))
	}
	if ch.NonZero {
		notes = append(notes, "true where not 0")
	}
	if s := ch.ScaleFrom; s != nil {
		notes = append(notes, fmt.Sprintf("scale from %s %d", s.Table, s.Address))
	}
	if ch.Counter {
		notes = append(notes, "counter")
	}
	if ch.Writable {
		notes = append(notes, "output")
	}
	if len(ch.WriteValues) > 0 {
		var values []string
		for _, v := range ch.WriteValues {
			values = append(values, fmt.Sprintf("%d by %d", v.Value, v.Raw))
		}
		notes = append(notes, "set to "+strings.Join(values, ", to "))
	}
	if ch.NoReadBack {
		notes = append(notes, "cannot be read back")
	}
	return notes
}

func paramValues(m *firmwareconfig.Param) string {
	if len(m.Values) > 0 {
		names := make([]string, len(m.Values))
		for i, v := range m.Values {
			names[i] = v.Name
		}
		return strings.Join(names, ", ")
	}
	switch {
	case m.Encoding == firmwareconfig.EncBool:
		return "true, false"
	case m.Min != nil && m.Max != nil:
		return fmt.Sprintf("%v to %v", *m.Min, *m.Max)
	case m.Min != nil:
		return fmt.Sprintf("from %v", *m.Min)
	case m.Max != nil:
		return fmt.Sprintf("to %v", *m.Max)
	}
	return ""
}

func paramNotes(m *firmwareconfig.Param) []string {
	var notes []string
	if m.Role != firmwareconfig.ParamPlain {
		notes = append(notes, "changes how the unit is reached")
	}
	if m.AfterPowerCycle {
		notes = append(notes, "after a power cycle")
	}
	if m.WriteOnly {
		notes = append(notes, "cannot be read")
	}
	return notes
}

// showProfileJSON prints a profile for programs: the keys of the profile file, with repeated entries written out.
func showProfileJSON(out io.Writer, p *firmwareconfig.Profile) error {
	type layout struct {
		Name    string   `json:"name"`
		Table   string   `json:"table"`
		Address int      `json:"address"`
		Type    string   `json:"type"`
		Count   int      `json:"count,omitempty"`
		OneChar bool     `json:"one_per_register,omitempty"`
		Words   string   `json:"words,omitempty"`
		Bytes   string   `json:"bytes,omitempty"`
		Bit     int      `json:"bit,omitempty"`
		Width   int      `json:"width,omitempty"`
		Scale   float64  `json:"scale,omitempty"`
		Offset  float64  `json:"offset,omitempty"`
		Unit    string   `json:"unit,omitempty"`
		Min     *float64 `json:"min,omitempty"`
		Max     *float64 `json:"max,omitempty"`
		TitleZh string   `json:"title_zh,omitempty"`
		TitleEn string   `json:"title_en,omitempty"`
		Status  string   `json:"status,omitempty"`
		Source  string   `json:"source,omitempty"`
	}
	type scaleFrom struct {
		Table    string             `json:"table"`
		Address  int                `json:"address"`
		Decimals bool               `json:"decimals,omitempty"`
		Values   map[string]float64 `json:"values,omitempty"`
	}
	type valid struct {
		Table   string  `json:"table"`
		Address int     `json:"address"`
		Bit     *int    `json:"bit,omitempty"`
		Equals  *uint16 `json:"equals,omitempty"`
	}
	type channel struct {
		layout
		Invalid     []uint64          `json:"invalid,omitempty"`
		Under       []uint64          `json:"under,omitempty"`
		Over        []uint64          `json:"over,omitempty"`
		NonZero     bool              `json:"nonzero,omitempty"`
		Valid       *valid            `json:"valid,omitempty"`
		Invert      bool              `json:"invert,omitempty"`
		Every       string            `json:"every,omitempty"`
		ScaleFrom   *scaleFrom        `json:"scale_from,omitempty"`
		Counter     bool              `json:"counter,omitempty"`
		Writable    bool              `json:"writable,omitempty"`
		WriteValues map[string]uint16 `json:"write_values,omitempty"`
		ReadBack    *bool             `json:"read_back,omitempty"`
	}
	type param struct {
		layout
		Role      string            `json:"role,omitempty"`
		Values    map[string]string `json:"values,omitempty"`
		Effective string            `json:"effective"`
		WriteOnly bool              `json:"write_only,omitempty"`
		Default   string            `json:"default,omitempty"`
	}
	little := func(set bool) string {
		if set {
			return "little"
		}
		return ""
	}
	lay := func(ch *firmwareconfig.Channel) layout {
		l := layout{Name: ch.Name, Table: ch.Table.String(), Address: ch.Address, Type: ch.Encoding.String(), Count: ch.Count, OneChar: ch.OneChar,
			Words: little(ch.LittleWords), Bytes: little(ch.LittleBytes), Bit: ch.Bit, Width: ch.Width, Scale: ch.Scale, Offset: ch.Offset,
			Unit: ch.Unit, Min: ch.Min, Max: ch.Max, TitleZh: ch.Title.Zh, TitleEn: ch.Title.En, Status: p.StatusOf(ch), Source: ch.Source}
		if ch.Encoding == firmwareconfig.EncBool || ch.Encoding == firmwareconfig.EncString {
			l.Scale = 0
		}
		return l
	}
	result := struct {
		ID         string            `json:"id"`
		Vendor     string            `json:"vendor"`
		Model      string            `json:"model"`
		TitleZh    string            `json:"title_zh"`
		TitleEn    string            `json:"title_en"`
		Status     string            `json:"status"`
		Sources    []string          `json:"sources"`
		Baud       int               `json:"baud,omitempty"`
		Format     string            `json:"format,omitempty"`
		Address    int               `json:"address,omitempty"`
		SwitchGap  float64           `json:"switch_gap_ms,omitempty"`
		Class      string            `json:"class,omitempty"`
		Points     map[string]string `json:"points,omitempty"`
		Channels   []channel         `json:"channels"`
		Config     []param           `json:"config"`
		Unlock     []string          `json:"unlock,omitempty"`
		Save       []string          `json:"save,omitempty"`
		Signature  []string          `json:"signature"`
		DeviceID   map[string]string `json:"device_id,omitempty"`
		LookAlikes []string          `json:"look_alikes"`
	}{ID: p.ID, Vendor: p.Vendor, Model: p.Model, TitleZh: p.Title.Zh, TitleEn: p.Title.En, Status: p.Status, Sources: p.Sources,
		Baud: p.Line.Baud, Format: p.Line.Format, Address: p.Address, SwitchGap: float64(p.Timing.SwitchGap) / float64(time.Millisecond),
		Channels: []channel{}, Config: []param{}, Signature: []string{}, LookAlikes: append([]string{}, p.LookAlikes...)}
	if p.Device != nil {
		result.Class, result.Points = p.Device.Class, map[string]string{}
		for point, b := range p.Device.Points {
			result.Points[point] = b.Channel
		}
	}
	for i := range p.Channels {
		ch := &p.Channels[i]
		c := channel{layout: lay(ch), Invalid: ch.Invalid, Under: ch.Under, Over: ch.Over, NonZero: ch.NonZero, Invert: ch.Invert, Counter: ch.Counter, Writable: ch.Writable}
		if ch.Every > 0 {
			c.Every = ch.Every.String()
		}
		if v := ch.Valid; v != nil {
			c.Valid = &valid{Table: v.Table.String(), Address: v.Address, Equals: v.Equals}
			if v.Equals == nil {
				c.Valid.Bit = &v.Bit
			}
		}
		if s := ch.ScaleFrom; s != nil {
			c.ScaleFrom = &scaleFrom{Table: s.Table.String(), Address: s.Address, Decimals: s.Decimals}
			for _, v := range s.Values {
				if c.ScaleFrom.Values == nil {
					c.ScaleFrom.Values = map[string]float64{}
				}
				c.ScaleFrom.Values[strconv.Itoa(int(v.Code))] = v.Scale
			}
		}
		for _, v := range ch.WriteValues {
			if c.WriteValues == nil {
				c.WriteValues = map[string]uint16{}
			}
			c.WriteValues[strconv.FormatInt(v.Value, 10)] = v.Raw
		}
		if ch.Writable {
			back := !ch.NoReadBack
			c.ReadBack = &back
		}
		result.Channels = append(result.Channels, c)
	}
	for i := range p.Params {
		m := &p.Params[i]
		e := param{layout: lay(&m.Channel), Role: m.Role.String(), Effective: "at_once", WriteOnly: m.WriteOnly, Default: m.Default}
		if m.AfterPowerCycle {
			e.Effective = "power_cycle"
		}
		for _, v := range m.Values {
			if e.Values == nil {
				e.Values = map[string]string{}
			}
			e.Values[strconv.FormatUint(v.Code, 10)] = v.Name
		}
		result.Config = append(result.Config, e)
	}
	for _, r := range p.Unlock {
		result.Unlock = append(result.Unlock, fmt.Sprintf("%s %d = %d", r.Table, r.Address, r.Value))
	}
	for _, r := range p.Save {
		result.Save = append(result.Save, fmt.Sprintf("%s %d = %d", r.Table, r.Address, r.Value))
	}
	for _, t := range p.Signature {
		result.Signature = append(result.Signature, t.String())
	}
	if d := p.DeviceID; d != nil {
		result.DeviceID = map[string]string{"vendor": d.Vendor, "product": d.Product, "model": d.Model}
	}
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(result)
}
