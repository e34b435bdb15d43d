package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	firmwareconfig "linli/firmware-config"
	"linli/internal/audit"
	"linli/internal/site"
)

// applied is what came of one unit.
type applied struct {
	Unit    string   `json:"unit"`
	Outcome string   `json:"outcome"` // same, written, waiting, declined, failed, untouched
	Written []string `json:"written"`
	Error   string   `json:"error,omitempty"`
}

// runConfigApply reads every unit, shows what differs, and writes it unit by unit.
func runConfigApply(ctx context.Context, o *configOptions, ask *asking, stdout, stderr io.Writer) error {
	p, err := loadPlan(o.file)
	if err != nil {
		return err
	}
	if o.wait < 0 || o.wait > time.Hour {
		return &usageError{fmt.Errorf("--wait %v: from 0s, which does not wait, to 1h", o.wait)}
	}
	units, err := o.choose(p.site, false)
	if err != nil {
		return err
	}
	if err := o.readAll(ctx, p, units); err != nil {
		return err
	}
	sum := summarise(units)
	if !o.asJSON {
		o.print(stdout, units, sum, true)
	}
	if err := o.mayGuess(units); err != nil {
		return err
	}
	if err := o.mayAsk(units, ask); err != nil {
		return err
	}
	a := &applyRun{options: o, plan: p, ask: ask, out: stdout, progress: newProgressLine(stderr, o.verbose), results: map[*configUnit]*applied{}}
	if o.asJSON {
		a.out = stderr
	}
	stopped := a.all(ctx, units)
	a.progress.done()
	good := stopped == nil
	list := make([]*applied, 0, len(units))
	for _, u := range units {
		r := a.results[u]
		if r == nil {
			r = &applied{Unit: u.unit.ID, Outcome: "untouched", Written: []string{}}
			if u.err != nil {
				r.Outcome, r.Error = "failed", u.err.Error()
			}
		}
		list = append(list, r)
		good = good && (r.Outcome == "same" || r.Outcome == "written")
	}
	if o.asJSON {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		if err := enc.Encode(struct {
			Good  bool       `json:"good"`
			Units []*applied `json:"units"`
		}{good, list}); err != nil {
			return err
		}
	}
	if stopped != nil {
		var untouched []string
		for _, r := range list {
			if r.Outcome == "untouched" {
				untouched = append(untouched, r.Unit)
			}
		}
		fmt.Fprintln(stderr, stopped)
		if len(untouched) > 0 {
			fmt.Fprintf(stderr, "Stopped there; nothing was written to %s.\n", strings.Join(untouched, ", "))
		}
	}
	if !good {
		return errAnswered
	}
	return nil
}

// mayGuess refuses, before anything is written, settings of which nobody has confirmed the register.
func (o *configOptions) mayGuess(units []*configUnit) error {
	if o.unverified {
		return nil
	}
	var names []string
	for _, u := range units {
		if u.plan != nil {
			for _, s := range u.plan.Unverified() {
				names = append(names, u.unit.ID+"."+s.Param.Name)
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf("nobody has confirmed the register of %s: compare them with the manual and the unit, then say --unverified. Nothing was written", strings.Join(names, ", "))
}

// mayAsk refuses, before anything is written, what would need an answer that nobody can give.
func (o *configOptions) mayAsk(units []*configUnit, ask *asking) error {
	if o.yes || ask.terminal {
		return nil
	}
	var moved []string
	for _, u := range units {
		if u.plan != nil && len(u.plan.Moves()) > 0 {
			moved = append(moved, u.unit.ID)
		}
	}
	if len(moved) == 0 {
		return nil
	}
	return fmt.Errorf("this changes how %s is reached (address, baud rate or parity), and there is no terminal to ask at: say --yes. Nothing was written", strings.Join(moved, ", "))
}

// applyRun is one run of linli config apply.
type applyRun struct {
	options  *configOptions
	plan     *plan
	ask      *asking
	out      io.Writer
	progress *progressLine
	results  map[*configUnit]*applied
	waiting  bool // it was said what is waited for
}

// all applies every plan; the error is the surprise at which it stopped.
func (a *applyRun) all(ctx context.Context, units []*configUnit) error {
	var todo []*configUnit
	for _, u := range units {
		switch {
		case u.plan == nil:
		case len(u.plan.Changes()) == 0 && !u.plan.Waiting() && !a.options.save:
			a.results[u] = &applied{Unit: u.unit.ID, Outcome: "same", Written: []string{}}
		default:
			todo = append(todo, u)
		}
	}
	return a.options.eachBus(ctx, a.plan.site, todo, 0, func(conn busConn, units []*configUnit) error {
		for _, u := range units {
			err := a.unit(ctx, conn, u)
			if u.bus.Transport == site.ModbusRTU { // Wherever the line was left.
				if lerr := conn.Set(context.WithoutCancel(ctx), firmwareconfig.Line{}); err == nil {
					err = lerr
				}
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// unit applies one plan. What only concerns this unit (it waits, it was declined) is no error.
func (a *applyRun) unit(ctx context.Context, conn busConn, u *configUnit) error {
	r := &applied{Unit: u.unit.ID, Written: []string{}}
	a.results[u] = r
	c := u.configurer(conn, a.plan.library.Profiles)
	c.Wait, c.Save, c.Unverified = a.options.wait, a.options.save, a.options.unverified
	c.Tell = func(s firmwareconfig.Step) {
		if _, alone := conn.(*aloneConn); alone && s.Kind == firmwareconfig.StepWritten {
			by, _ := whoAsks(a.options.by) // It is known since the units were reached.
			recordAlone(a.out, a.plan.site, audit.Entry{What: "config", By: by, Device: s.Unit, Bus: u.bus.ID, Value: s.Setting.Param.Name + "=" + s.Setting.Want, Outcome: orderDone})
		}
		a.tell(r, s)
	}
	c.Approve = func(ctx context.Context, p *firmwareconfig.UnitPlan, moves []firmwareconfig.Setting) (bool, error) {
		if a.options.yes {
			return true, nil
		}
		a.progress.done()
		return a.ask.yes(ctx, moveQuestion(p, moves))
	}
	a.waiting = false
	err := c.Apply(ctx, u.plan)
	a.progress.done()
	switch {
	case err == nil:
		r.Outcome = "written"
		fmt.Fprintf(a.out, "%s: as the site file wants\n", r.Unit)
	case errors.Is(err, firmwareconfig.ErrWaiting):
		r.Outcome = "waiting"
		fmt.Fprintf(a.out, "%s: written; it takes effect when the unit is switched off and on. Then: linli config verify -c %s %s\n", r.Unit, a.options.file, r.Unit)
	case errors.Is(err, firmwareconfig.ErrDeclined):
		r.Outcome = "declined"
		fmt.Fprintf(a.out, "%s: stays where it is\n", r.Unit)
	default:
		r.Outcome, r.Error = "failed", err.Error()
		return err
	}
	return nil
}

func (a *applyRun) tell(r *applied, s firmwareconfig.Step) {
	if s.Kind != firmwareconfig.StepWaiting {
		a.progress.done()
	}
	switch s.Kind {
	case firmwareconfig.StepUnlocked:
		fmt.Fprintf(a.out, "%s: accepts settings now\n", s.Unit)
	case firmwareconfig.StepWritten:
		m := s.Setting.Param
		r.Written = append(r.Written, m.Name)
		note := ""
		if m.AfterPowerCycle {
			note = " (takes effect when it is switched off and on)"
		}
		fmt.Fprintf(a.out, "%s: %s set from %s to %s%s\n", s.Unit, m.Name, s.Setting.Is, withUnit(s.Setting.Want, m), note)
	case firmwareconfig.StepMoved:
		fmt.Fprintf(a.out, "%s: answers at %s now\n", s.Unit, s.Place)
	case firmwareconfig.StepSaved:
		fmt.Fprintf(a.out, "%s: has saved its settings\n", s.Unit)
	case firmwareconfig.StepBack:
		fmt.Fprintf(a.out, "%s: everything read once more at %s\n", s.Unit, s.Place)
	case firmwareconfig.StepWaiting:
		if a.options.wait > 0 && !a.waiting {
			a.waiting = true
			fmt.Fprintf(a.out, "%s: switch it off and on now; it is looked for at %s for %s (Ctrl-C stops the waiting; nothing is lost)\n", s.Unit, s.Place, a.options.wait)
		}
		a.progress.show(fmt.Sprintf("waiting for %s at %s, %s left", s.Unit, s.Place, s.Left.Round(time.Second)))
	}
}

// moveQuestion says what will change about how a unit is reached.
func moveQuestion(p *firmwareconfig.UnitPlan, moves []firmwareconfig.Setting) string {
	var parts []string
	cycle := false
	for _, m := range moves {
		parts = append(parts, fmt.Sprintf("%s from %s to %s", m.Param.Name, m.Is, m.Want))
		cycle = cycle || m.Param.AfterPowerCycle
	}
	when := "at once"
	if cycle {
		when = "when it is switched off and on"
	}
	return fmt.Sprintf("%s (now at %s): change %s? It takes effect %s, and the unit is then looked for there.", p.Unit.ID, p.At, strings.Join(parts, ", "), when)
}
