package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"linli/internal/telemetry"
	"linli/rules"
	"linli/rules/expr"
	"linli/rules/response"
)

// drivenBy says how the alerts of one rule drive an output.
type drivenBy struct {
	Alert    string   `json:"alert"`
	Subjects []string `json:"subjects"`
	Value    any      `json:"value"`
	After    float64  `json:"after_s"`            // since the alert was raised
	For      float64  `json:"for_s,omitempty"`    // the longest time; absent: no limit
	Until    string   `json:"until"`              // cleared, acknowledged, closed
	Severity string   `json:"severity,omitempty"` // the least at which it is driven; absent: any
	Unless   []string `json:"unless,omitempty"`   // alerts during which it is not driven

	text string
}

// driversOf returns what drives each output, by point, in the order of the rules.
func driversOf(inv *telemetry.Inventory, engine *rules.Engine) map[telemetry.PointID][]drivenBy {
	found := map[telemetry.PointID][]drivenBy{}
	for _, name := range engine.Names() {
		for _, subject := range engine.Subjects(name) {
			plan := engine.Plan(telemetry.Identity{Alert: name, Subject: subject})
			if plan == nil {
				continue
			}
			for i := range plan.Outputs {
				o := &plan.Outputs[i]
				found[o.Point] = addDriver(found[o.Point], describeDriver(name, subject, o, inv.Points[o.Point].Def))
			}
		}
	}
	return found
}

// addDriver adds a subject to the driver that does the same, or d where there is none.
func addDriver(list []drivenBy, d drivenBy) []drivenBy {
	for i := range list {
		if list[i].Alert == d.Alert && list[i].text == d.text {
			list[i].Subjects = append(list[i].Subjects, d.Subjects...)
			return list
		}
	}
	return append(list, d)
}

func describeDriver(alert, subject string, o *response.Output, def *telemetry.PointDef) drivenBy {
	d := drivenBy{Alert: alert, Subjects: []string{subject}, Value: o.Value.JSON(), After: o.After.Seconds(), For: o.For.Seconds(), Until: o.Until.String()}
	var parts []string
	if def.Kind != telemetry.Bool {
		parts = append(parts, "to "+o.Value.String())
	}
	if o.Severity > 0 {
		d.Severity = o.Severity.String()
		parts = append(parts, "from "+d.Severity)
	}
	if o.After > 0 {
		parts = append(parts, "after "+expr.FormatDuration(o.After))
	}
	if o.For > 0 {
		parts = append(parts, "for "+expr.FormatDuration(o.For))
	}
	parts = append(parts, "until "+d.Until)
	seen := map[string]bool{}
	for _, id := range o.Unless {
		if !seen[id.Alert] {
			seen[id.Alert] = true
			d.Unless = append(d.Unless, id.Alert)
		}
	}
	if len(d.Unless) > 0 {
		parts = append(parts, "unless "+strings.Join(d.Unless, ", "))
	}
	d.text = strings.Join(parts, ", ")
	return d
}

// printDrivers lists which rules drive which outputs, and what holds outputs back.
func printDrivers(out io.Writer, list []outputState) {
	told := false
	head := func(text string) {
		if !told {
			fmt.Fprintln(out, text)
		}
		told = true
	}
	for _, o := range list {
		for _, d := range o.DrivenBy {
			head("driven by rules:")
			fmt.Fprintf(out, "  %s: %s of %s, %s\n", o.Point, d.Alert, few(d.Subjects), d.text)
		}
	}
	told = false
	for _, o := range list {
		if o.MinOff > 0 {
			head("held back by the site file:")
			fmt.Fprintf(out, "  %s: off for %s at least before it is on again\n", o.Point, expr.FormatDuration(time.Duration(o.MinOff*float64(time.Second))))
		}
		if len(o.Interlock) > 0 {
			head("held back by the site file:")
			fmt.Fprintf(out, "  %s: never on together with %s\n", o.Point, strings.Join(o.Interlock, ", "))
		}
	}
}
