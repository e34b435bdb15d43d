package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"linli/drivers/modbus/scan"
	firmwareconfig "linli/firmware-config"
)

// printScan writes a report for people.
func printScan(out io.Writer, r *scan.Report) {
	fmt.Fprintln(out)
	if len(r.Units) == 0 {
		fmt.Fprintf(out, "No unit answers (%s).\n", seconds(r.Took))
	} else {
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "ADDRESS\tSETTING\tWHO\tSURE\tROUND TRIP\tREMARKS")
		for i := range r.Units {
			u := &r.Units[i]
			trip := "-"
			if u.RoundTrip > 0 {
				trip = fmt.Sprintf("%d ms", max(1, u.RoundTrip.Round(time.Millisecond).Milliseconds()))
			}
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", u.Address, scan.Setting(u.Line), whoIs(u), u.Sure, trip, dash(strings.Join(scanRemarks(u), "; ")))
		}
		_ = w.Flush()
		fmt.Fprintf(out, "%s found in %s.\n", count(len(r.Units), "address"), seconds(r.Took))
	}
	if len(r.NotAsked) > 0 {
		list := strings.ReplaceAll(scan.Ranges(r.NotAsked), " ", "")
		fmt.Fprintf(out, "The time was up before all could be asked who they are. To go on with those: the same with --who %s (or --full for everything).\n", list)
	}
	if len(r.Faults) > 0 {
		fmt.Fprintf(out, "\n%s:\n", count(len(r.Faults), "problem"))
	}
	for _, f := range r.Faults {
		fmt.Fprintf(out, "  - %s (%s).\n    %s.\n", sentence(f.Text), f.Sure, sentence(f.Do))
	}
}

// whoIs names a unit for people.
func whoIs(u *scan.Unit) string {
	switch {
	case u.Conflict:
		return "-"
	case len(u.Candidates) == 0 && u.Identity != nil:
		return "unknown: " + u.Identity.String()
	case len(u.Candidates) == 0:
		return "unknown"
	}
	c := &u.Candidates[0]
	return fmt.Sprintf("%s (%s)", c.Profile, c.Model)
}

// scanRemarks is what else is to be said of a unit.
func scanRemarks(u *scan.Unit) []string {
	var out []string
	if u.Known != "" {
		out = append(out, u.Known+" of the site file")
	}
	if u.Identity != nil && len(u.Candidates) > 0 {
		out = append(out, "says "+u.Identity.String())
	}
	if more := otherCandidates(u); more != "" {
		out = append(out, "also fits "+more)
	}
	return append(out, u.Remarks...)
}

// otherCandidates names the profiles that fit beside the best one.
func otherCandidates(u *scan.Unit) string {
	if len(u.Candidates) < 2 || u.Conflict {
		return ""
	}
	var ids []string
	for _, c := range u.Candidates[1:] {
		ids = append(ids, c.Profile)
	}
	const shown = 6
	if n := len(ids); n > shown {
		ids = append(ids[:shown:shown], fmt.Sprintf("%d more", n-shown))
	}
	return strings.Join(ids, ", ")
}

func sentence(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.0f s", max(1, d.Seconds())) }

// printScanJSON writes a report for programs.
func printScanJSON(out io.Writer, t *scanTarget, r *scan.Report) error {
	type candidate struct {
		Profile string   `json:"profile"`
		Model   string   `json:"model"`
		Sure    string   `json:"sure"`
		Why     string   `json:"why"`
		Alike   []string `json:"alike,omitempty"`
	}
	type identity struct {
		Vendor   string `json:"vendor,omitempty"`
		Product  string `json:"product,omitempty"`
		Revision string `json:"revision,omitempty"`
		Model    string `json:"model,omitempty"`
	}
	type unit struct {
		Address     int         `json:"address"`
		Baud        int         `json:"baud,omitempty"`
		Format      string      `json:"format,omitempty"`
		Sure        string      `json:"sure"`
		Candidates  []candidate `json:"candidates"`
		Identity    *identity   `json:"identity,omitempty"`
		RoundTripMS float64     `json:"round_trip_ms,omitempty"`
		Conflict    bool        `json:"conflict,omitempty"`
		Known       string      `json:"known,omitempty"`
		Profile     string      `json:"known_profile,omitempty"`
		Remarks     []string    `json:"remarks,omitempty"`
	}
	type fault struct {
		Kind      string `json:"kind"`
		Sure      string `json:"sure"`
		Addresses []int  `json:"addresses,omitempty"`
		Baud      int    `json:"baud,omitempty"`
		Format    string `json:"format,omitempty"`
		Text      string `json:"text"`
		Do        string `json:"do"`
	}
	type setting struct {
		Baud   int    `json:"baud"`
		Format string `json:"format"`
	}
	result := struct {
		Bus      string    `json:"bus"`
		Complete bool      `json:"complete"`
		Running  bool      `json:"through_gateway"`
		TookMS   int64     `json:"took_ms"`
		Settings []setting `json:"settings"`
		Units    []unit    `json:"units"`
		NotAsked []int     `json:"not_identified,omitempty"` // the time was up
		Faults   []fault   `json:"faults"`
	}{t.bus.ID, r.Complete, t.running, r.Took.Milliseconds(), []setting{}, []unit{}, r.NotAsked, []fault{}}
	for _, l := range r.Asked {
		if l.Baud != 0 {
			result.Settings = append(result.Settings, setting{l.Baud, l.Format})
		}
	}
	for i := range r.Units {
		u := &r.Units[i]
		e := unit{Address: u.Address, Baud: u.Line.Baud, Format: u.Line.Format, Sure: string(u.Sure), Candidates: []candidate{}, Conflict: u.Conflict,
			RoundTripMS: float64(u.RoundTrip.Round(100*time.Microsecond).Microseconds()) / 1000, Known: u.Known, Profile: u.Profile, Remarks: u.Remarks}
		for _, c := range u.Candidates {
			e.Candidates = append(e.Candidates, candidate{c.Profile, c.Model, string(c.Sure), c.Why, c.Alike})
		}
		if id := u.Identity; id != nil {
			e.Identity = &identity{id.Vendor, id.Product, id.Revision, id.Model}
		}
		result.Units = append(result.Units, e)
	}
	for _, f := range r.Faults {
		result.Faults = append(result.Faults, fault{f.Kind, string(f.Sure), f.Addresses, f.Line.Baud, f.Line.Format, f.Text, f.Do})
	}
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(result)
}

// printScanYAML writes the part of a site file that the report stands for. What is not sure is a comment.
func printScanYAML(out io.Writer, t *scanTarget, r *scan.Report) {
	line := mostFrequent(r.Units, t.bus.Line)
	fmt.Fprintln(out, "# Found by linli scan. Put this into the site file, name the devices, and run linli check -c FILE.")
	for _, f := range r.Faults {
		fmt.Fprintf(out, "# PROBLEM: %s (%s). %s.\n", oneLine(f.Text), f.Sure, oneLine(sentence(f.Do)))
	}
	if len(r.NotAsked) > 0 {
		fmt.Fprintf(out, "# Not asked who they are, because the time was up: %s. Go on with --who.\n", scan.Ranges(r.NotAsked))
	}
	fmt.Fprintln(out, "buses:")
	fmt.Fprintf(out, "  - id: %s\n", t.bus.ID)
	switch t.kind {
	case scan.Serial:
		fmt.Fprintf(out, "    modbus_rtu: {device: %q, baud: %d, format: %s}\n", t.bus.Device, line.Baud, line.Format)
	case scan.TCP:
		fmt.Fprintf(out, "    modbus_tcp: {address: %q}\n", t.bus.Address)
	default:
		fmt.Fprintf(out, "    modbus_rtu_over_tcp: {address: %q}\n", t.bus.Address)
	}
	var named []*scan.Unit
	fmt.Fprintln(out, "    units:")
	sure := 0
	for i := range r.Units {
		if u := &r.Units[i]; usable(u, line) {
			sure++
		}
	}
	if sure == 0 {
		fmt.Fprintln(out, "      []  # nothing that can be said for sure")
	}
	for i := range r.Units {
		u := &r.Units[i]
		id, profile, remark := u.Known, "PROFILE", ""
		if id == "" {
			id = fmt.Sprintf("unit_%d", u.Address)
		}
		comment := "# "
		switch {
		case u.Conflict:
			remark = "two units at this address"
		case u.Line != line && u.Line.Baud != 0:
			remark = "answers at " + scan.Setting(u.Line) + ": set it to " + scan.Setting(line) + " first"
		case slices.Contains(r.NotAsked, u.Address) && len(u.Candidates) == 0:
			remark = "not asked who it is"
		case len(u.Candidates) == 0:
			remark = "unknown model: write a profile for it"
		}
		if len(u.Candidates) > 1 && u.Sure == scan.Possible && !u.Conflict {
			// None is better than the others: people choose.
			fmt.Fprintf(out, "      # Unit %d is one of these %d; its label says which.%s\n", u.Address, len(u.Candidates), capital(remark))
			for i := range u.Candidates {
				c := &u.Candidates[i]
				fmt.Fprintf(out, "      # - {id: %s, address: %d, profile: %s}  # %s\n", id, u.Address, c.Profile, oneLine(c.Model+": "+c.Why))
			}
			continue
		}
		if len(u.Candidates) > 0 && !u.Conflict {
			c := &u.Candidates[0]
			profile = c.Profile
			remark = strings.TrimPrefix(remark+"; "+string(c.Sure)+": "+c.Model+", "+c.Why, "; ")
			if more := otherCandidates(u); more != "" {
				remark += "; also fits " + more
			}
		}
		if u.Identity != nil {
			remark += "; says " + u.Identity.String()
		}
		if usable(u, line) {
			comment = ""
			named = append(named, u)
		}
		fmt.Fprintf(out, "      %s- {id: %s, address: %d, profile: %s}  # %s\n", comment, id, u.Address, profile, oneLine(remark))
	}
	if len(named) == 0 {
		return
	}
	fmt.Fprintln(out, "# devices:")
	for _, u := range named {
		id := u.Known
		if id == "" {
			id = fmt.Sprintf("unit_%d", u.Address)
		}
		p := t.library.Profiles[u.Candidates[0].Profile]
		if p != nil && p.Device != nil {
			fmt.Fprintf(out, "#   - {id: %s_%d, zone: ZONE, unit: %s}\n", shorten(p.Device.Class, 26), u.Address, id)
		} else {
			fmt.Fprintf(out, "#   - {id: DEVICE, class: CLASS, zone: ZONE, points: {POINT: %s.CHANNEL}}\n", id)
		}
	}
}

// capital makes a remark a sentence that follows another; "" stays so.
func capital(remark string) string {
	if remark == "" {
		return ""
	}
	return " It " + oneLine(remark) + "."
}

// verbed is a number of things with what they do: 1 unit answers, 2 units answer.
func verbed(n int, thing, does, do string) string {
	if n == 1 {
		return "1 " + thing + " " + does
	}
	return count(n, thing) + " " + do
}

// usable reports whether a unit may stand in the site file as it was found: one model fits better than all others, at
// the line's setting.
func usable(u *scan.Unit, line firmwareconfig.Line) bool {
	return !u.Conflict && len(u.Candidates) > 0 && (u.Line == line || u.Line.Baud == 0) &&
		(u.Sure == scan.Certain || u.Sure == scan.Likely || len(u.Candidates) == 1)
}

// mostFrequent is the setting of most units, own where there are none.
func mostFrequent(units []scan.Unit, own firmwareconfig.Line) firmwareconfig.Line {
	n := map[firmwareconfig.Line]int{}
	best := own
	for i := range units {
		l := units[i].Line
		if n[l]++; n[l] > n[best] {
			best = l
		}
	}
	return best
}

// oneLine makes text fit for a comment.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

func shorten(s string, n int) string { return s[:min(len(s), n)] }
