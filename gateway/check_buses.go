package main

import (
	"fmt"
	"io"
	"time"

	"go.uber.org/zap"

	"linli/drivers/modbus"
	"linli/internal/site"
	"linli/internal/yamlfile"
)

// dearest is how many of a bus's most expensive units are named.
const dearest = 3

// busBudget is a bus with what it will cost.
type busBudget struct {
	bus    *site.Bus
	points int
	// budget is nil for a GPIO chip, and for a bus that nothing is read from: there is no line to share.
	budget *modbus.Budget
}

// budgetsOf reckons what each bus of a site will cost, before anything runs. unmet is what it cannot keep up with, and the
// error what it cannot be built from, both at the bus's place in the file.
func budgetsOf(s *site.Site, compute func(modbus.Config) (modbus.Budget, error)) (list []busBudget, unmet yamlfile.Errors, err error) {
	var problems yamlfile.Errors
	for i := range s.Buses {
		b := &s.Buses[i]
		entry := busBudget{bus: b}
		for _, u := range b.Units {
			entry.points += len(u.Bindings)
		}
		if b.Transport != site.GPIO && entry.points > 0 {
			budget, err := busBudgetOf(b, compute)
			if err != nil {
				problems.Addf(b.Pos, "%v", err)
			}
			for _, p := range budget.Problems {
				unmet.Addf(b.Pos, "%s", p)
			}
			entry.budget = &budget
		}
		list = append(list, entry)
	}
	return list, unmet, problems.Err()
}

func busBudgetOf(b *site.Bus, compute func(modbus.Config) (modbus.Budget, error)) (modbus.Budget, error) {
	cfg, err := driverConfig(b, nil, zap.NewNop())
	if err != nil {
		return modbus.Budget{}, err
	}
	if b.Listen != "" {
		cfg.Inbound = modbus.NewListener(b.Listen, zap.NewNop()).Route(b.Registration)
	}
	return compute(cfg)
}

// where says in a few words how a bus is reached.
func where(b *site.Bus) string {
	at := b.Address
	if b.Listen != "" {
		at = "dials in at " + b.Listen
		if len(b.Registration) > 0 {
			at += fmt.Sprintf(" as %q", b.Registration)
		}
	}
	switch b.Transport {
	case site.ModbusRTU:
		return fmt.Sprintf("%s %d %s", b.Device, b.Line.Baud, b.Line.Format)
	case site.ModbusRTUOverTCP:
		return fmt.Sprintf("%s, %d %s behind it", at, b.Line.Baud, b.Line.Format)
	case site.GPIO:
		return "GPIO chip " + b.Chip
	}
	return at
}

// printBudgets says of each bus what it will be busy with.
func printBudgets(out io.Writer, list []busBudget) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintln(out, "buses:")
	for _, e := range list {
		if e.bus.Transport == site.GPIO {
			fmt.Fprintf(out, "  %s: %s, %s\n", e.bus.ID, where(e.bus), count(len(e.bus.Lines), "line"))
			continue
		}
		fmt.Fprintf(out, "  %s: %s, %s", e.bus.ID, where(e.bus), count(len(e.bus.Units), "unit"))
		b := e.budget
		if b == nil {
			fmt.Fprintln(out, ", nothing is read")
			continue
		}
		fmt.Fprintf(out, ", %s of the line's time in use\n", percent(b.Occupancy))
		for _, g := range b.Groups {
			what := ""
			if g.LifeSafety {
				what = "life safety, "
			}
			fmt.Fprintf(out, "    %severy %s: %s", what, spell(g.Every), count(g.Points, "point"))
			if g.Requests > 0 {
				fmt.Fprintf(out, " in %s (%s of line time)", count(g.Requests, "request"), spell(g.Time))
			} else {
				fmt.Fprint(out, " read along with others")
			}
			fmt.Fprintf(out, ", at the latest after %s\n", spell(g.Cycle))
		}
		if len(e.bus.Units) > 1 {
			fmt.Fprintf(out, "    a unit that was dead is read again within %s, with half of the units dead\n", spell(b.DeadReturn))
		} else {
			fmt.Fprintf(out, "    its unit is read again within %s after it was dead\n", spell(b.DeadReturn))
		}
		if len(b.Units) > 1 {
			names := []string{}
			for _, u := range b.Units[:min(len(b.Units), dearest)] {
				names = append(names, fmt.Sprintf("%s %s", u.Unit, percent(u.Share)))
			}
			fmt.Fprintf(out, "    most expensive: %s\n", few(names))
		}
	}
}

// percent renders a share, small ones with a digit behind the point.
func percent(share float64) string {
	if p := 100 * share; p < 9.95 {
		return fmt.Sprintf("%.1f %%", p)
	}
	return fmt.Sprintf("%.0f %%", 100*share)
}

// spell renders a time with the digits that matter: 410ms, 5.4s, 12s, 3m.
func spell(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		d = d.Round(100 * time.Microsecond)
	case d < time.Second:
		d = d.Round(time.Millisecond)
	case d < 10*time.Second:
		d = d.Round(100 * time.Millisecond)
	default:
		d = d.Round(time.Second)
	}
	s := d.String()
	if d >= time.Minute && d%time.Minute == 0 {
		s = s[:len(s)-len("0s")]
	}
	return s
}

// budgetJSON is a bus for programs.
type budgetJSON struct {
	ID         string       `json:"id"`
	Transport  string       `json:"transport"`
	Where      string       `json:"where"`
	Units      int          `json:"units"`
	Lines      int          `json:"lines,omitempty"` // of a GPIO chip
	Points     int          `json:"points"`
	Occupancy  *float64     `json:"occupancy,omitempty"` // share of the line's time, 1 is all of it; absent where no line is shared
	DeadReturn float64      `json:"dead_return_s,omitempty"`
	Groups     []groupJSON  `json:"groups,omitempty"`
	Expensive  []expensJSON `json:"expensive,omitempty"` // most expensive first
}

type groupJSON struct {
	LifeSafety bool    `json:"life_safety"`
	Every      float64 `json:"every_s"`
	Cycle      float64 `json:"cycle_s"`
	Points     int     `json:"points"`
	Requests   int     `json:"requests"`
	Time       float64 `json:"line_time_s"`
}

type expensJSON struct {
	Unit     string  `json:"unit"`
	Share    float64 `json:"share"`
	Requests int     `json:"requests"`
}

func encodeBudgets(list []busBudget) []budgetJSON {
	out := []budgetJSON{}
	for _, e := range list {
		j := budgetJSON{ID: e.bus.ID, Transport: e.bus.Transport, Where: where(e.bus), Units: len(e.bus.Units), Points: e.points}
		if e.bus.Transport == site.GPIO {
			j.Units, j.Lines = 0, len(e.bus.Lines)
		}
		if b := e.budget; b != nil {
			j.Occupancy, j.DeadReturn = &b.Occupancy, b.DeadReturn.Seconds()
			for _, g := range b.Groups {
				j.Groups = append(j.Groups, groupJSON{g.LifeSafety, g.Every.Seconds(), g.Cycle.Seconds(), g.Points, g.Requests, g.Time.Seconds()})
			}
			for _, u := range b.Units[:min(len(b.Units), dearest)] {
				j.Expensive = append(j.Expensive, expensJSON{u.Unit, u.Share, u.Requests})
			}
		}
		out = append(out, j)
	}
	return out
}
