package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// showClasses prints classes with the points that they promise.
func showClasses(out io.Writer, library *firmwareconfig.Library, ids []string, asJSON bool) error {
	type point struct {
		Name       string   `json:"name"`
		Kind       string   `json:"kind"`
		Unit       string   `json:"unit,omitempty"`
		Optional   bool     `json:"optional"`
		LifeSafety bool     `json:"life_safety,omitempty"`
		Writable   bool     `json:"writable,omitempty"`
		Deadband   string   `json:"deadband,omitempty"` // as class files write it
		Values     []string `json:"values,omitempty"`
		TitleZh    string   `json:"title_zh"`
		TitleEn    string   `json:"title_en"`
	}
	type class struct {
		ID       string   `json:"id"`
		TitleZh  string   `json:"title_zh"`
		TitleEn  string   `json:"title_en"`
		Profiles []string `json:"profiles"`
		Points   []point  `json:"points"`
	}
	list := []class{}
	for _, id := range ids {
		c := library.Classes[id]
		e := class{ID: id, TitleZh: c.Title.Zh, TitleEn: c.Title.En, Profiles: []string{}, Points: []point{}}
		for _, p := range profileIDs(library) {
			if profileClass(library.Profiles[p]) == id {
				e.Profiles = append(e.Profiles, p)
			}
		}
		for i := range c.Points {
			d := &c.Points[i]
			o := point{Name: d.Name, Kind: d.Kind.String(), Unit: d.Unit, Optional: d.Optional, LifeSafety: d.LifeSafety, Writable: d.Writable, TitleZh: d.Title.Zh, TitleEn: d.Title.En}
			if d.Deadband.On {
				o.Deadband = d.Deadband.String()
			}
			for _, v := range d.Enum {
				o.Values = append(o.Values, strconv.FormatInt(v.Code, 10)+" "+v.Name)
			}
			e.Points = append(e.Points, o)
		}
		list = append(list, e)
	}
	if asJSON {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(list)
	}
	for n, c := range list {
		if n > 0 {
			fmt.Fprintln(out)
		}
		fmt.Fprintf(out, "%s (%s)\n", c.ID, bothTitles(telemetry.Text{Zh: c.TitleZh, En: c.TitleEn}))
		if len(c.Profiles) > 0 {
			fmt.Fprintf(out, "models: %s\n", strings.Join(c.Profiles, ", "))
		}
		w := tabwriter.NewWriter(out, 2, 0, 2, ' ', 0)
		fmt.Fprintln(w, "  POINT\tKIND\tUNIT\tNEEDED\tNOTES\tTITLE")
		for _, d := range c.Points {
			needed, notes := "yes", []string{}
			if d.Optional {
				needed = "optional"
			}
			if d.LifeSafety {
				notes = append(notes, "life safety")
			}
			if d.Writable {
				notes = append(notes, "output")
			}
			if d.Deadband != "" {
				notes = append(notes, "deadband "+d.Deadband)
			}
			if len(d.Values) > 0 {
				notes = append(notes, strings.Join(d.Values, ", "))
			}
			fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\t%s\n", d.Name, d.Kind, dash(d.Unit), needed, dash(strings.Join(notes, "; ")), bothTitles(telemetry.Text{Zh: d.TitleZh, En: d.TitleEn}))
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	return nil
}
