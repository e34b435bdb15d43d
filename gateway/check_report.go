package main

import (
	"fmt"
	"io"

	"linli/internal/site"
	"linli/internal/telemetry"
	"linli/rules/expr"
)

// deadbandsOf lists the deadbands of a site's points, in the order of the inventory.
func deadbandsOf(s *site.Site) []deadbandState {
	list := []deadbandState{}
	for i := range s.Inventory.Points {
		p := &s.Inventory.Points[i]
		if p.Device < 0 || !p.Deadband.On {
			continue
		}
		list = append(list, deadbandState{Device: s.Inventory.Devices[p.Device].ID, Point: p.Def.Name, Deadband: p.Deadband.String(), text: deadbandText(p)})
	}
	return list
}

// reportState is what of a site's readings is reported. Empty beside mistakes.
type reportState struct {
	MaxInterval float64         `json:"max_interval_s"`
	Deadbands   []deadbandState `json:"deadbands"`
}

// deadbandState is the deadband that holds for a point.
type deadbandState struct {
	Device   string `json:"device"`
	Point    string `json:"point"`
	Deadband string `json:"deadband"` // as the site file writes it
	text     string
}

// deadbandText writes a deadband with its unit.
func deadbandText(p *telemetry.Point) string {
	switch d := p.Deadband; {
	case d.Width == 0:
		return "any change"
	case !d.Percent && p.Def.Unit != "":
		return d.String() + " " + p.Def.Unit
	default:
		return d.String()
	}
}

// printReport says what of the site's report is set: the maximum interval, and the numbers that have a deadband, devices
// that have the same ones together.
func printReport(stdout io.Writer, s *site.Site) {
	list := deadbandsOf(s)
	if s.Report.Set || len(list) > 0 {
		fmt.Fprintf(stdout, "what does not change is reported every %s\n", expr.FormatDuration(s.Report.MaxInterval))
	}
	points := make([]string, len(list))
	for i, d := range list {
		points[i] = d.Device + "." + d.Point + " " + d.text
	}
	printByDevice(stdout, "numbers that are reported when they have moved by their deadband:", points)
}
