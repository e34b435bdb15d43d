package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	gomodbus "github.com/goburrow/modbus"
	"go.uber.org/zap"

	"linli/drivers"
	"linli/drivers/gpio"
	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/audit"
	"linli/internal/site"
	"linli/internal/telemetry"
)

const (
	// safeLimit bounds outputs safe as a whole: systemd starts the gateway again only after it.
	safeLimit = 10 * time.Second
	// safeRounds is how often an output that could not be set is tried: setting it twice to the same state does no harm,
	// and noise must not leave a siren on. A converter that dials in is waited for until the end.
	safeRounds = 3
	safePause  = 250 * time.Millisecond
)

// safeResult is what became of one output.
type safeResult struct {
	Output string `json:"output"` // as bus unit.channel, with the points that command it
	State  string `json:"state"`  // off, on; hold: left alone
	Set    bool   `json:"set"`
	Error  string `json:"error,omitempty"`
}

// entry is what the gateway's record says of it.
func (r safeResult) entry() audit.Entry {
	by, _ := whoAsks("")
	point, _, _ := strings.Cut(r.Output, " ")
	e := audit.Entry{What: "write", By: by, Note: "outputs safe", Value: r.State, Outcome: orderDone, Error: r.Error}
	e.Device, e.Point, _ = strings.Cut(point, ".")
	if !r.Set {
		e.Outcome = orderUnknown // Some of what was not set for sure may have been sent.
	}
	return e
}

// makeSafe sets the outputs of s to their on_stop states, all buses side by side, and tells of each as it is done.
// faulty says that the file has mistakes: the answer is no then, whatever could be done. known says that s has every output.
func makeSafe(ctx context.Context, stdout, stderr io.Writer, s *site.Site, asJSON, faulty, known bool) error {
	ctx, cancel := context.WithTimeout(ctx, safeLimit)
	defer cancel()
	var mu sync.Mutex // guards results and stdout
	results := []safeResult{}
	failed := faulty
	tell := func(r safeResult) {
		mu.Lock()
		defer mu.Unlock()
		results = append(results, r)
		failed = failed || !r.Set && r.State != firmwareconfig.OutputHold.String()
		switch {
		case asJSON:
		case r.Set:
			fmt.Fprintf(stdout, "%s: set %s\n", r.Output, r.State)
		case r.Error != "":
			fmt.Fprintf(stdout, "%s: NOT set %s: %s\n", r.Output, r.State, r.Error)
		default:
			fmt.Fprintf(stdout, "%s: left as it is (on_stop: hold)\n", r.Output)
		}
	}
	jobs := safeJobs(s, tell)
	if len(jobs) > 0 && !asJSON {
		fmt.Fprintf(stderr, "setting outputs on %s, at most %v ...\n", count(len(jobs), "bus"), safeLimit)
	}
	stop := startDialIns(ctx, jobs)
	var group sync.WaitGroup
	for _, j := range jobs {
		group.Go(func() { j.run(ctx, tell) })
	}
	group.Wait()
	stop()
	for _, r := range results {
		if r.Set || r.Error != "" {
			recordAlone(stderr, s, r.entry())
		}
	}
	if asJSON {
		if err := printJSON(stdout, struct {
			Good    bool         `json:"good"`
			Outputs []safeResult `json:"outputs"`
		}{!failed, results}); err != nil {
			return err
		}
	} else if len(results) == 0 && !known {
		fmt.Fprintln(stdout, "nothing was set: which outputs this site has could not be read")
	} else if len(results) == 0 {
		fmt.Fprintln(stdout, "no outputs: nothing on this site is commanded")
	}
	if failed {
		return errAnswered
	}
	return nil
}

// safeJob is what is to be done on one bus.
type safeJob struct {
	bus     site.Bus // with the outputs' bindings alone
	inbound *modbus.Route
	dialIn  *modbus.Listener // of inbound; nil where we dial
	list    []safeOutput
}

// safeOutput is one output to be set: by its point on Modbus, by its line on GPIO.
type safeOutput struct {
	name  string
	state firmwareconfig.OutputState
	point telemetry.PointID
	value telemetry.Value
	unit  string // that has the output; of GPIO lines each its own
	line  int    // index in the bus's Lines
}

// safeJobs returns what is to be done on each bus, and tells of the outputs that are left alone.
func safeJobs(s *site.Site, tell func(safeResult)) []*safeJob {
	var jobs []*safeJob
	listeners := map[string]*modbus.Listener{}
	for i := range s.Buses {
		j := &safeJob{bus: s.Buses[i]}
		if j.bus.Transport == site.GPIO {
			j.gpioOutputs(s, i, tell)
		} else {
			j.modbusOutputs(s, i, tell)
		}
		if len(j.list) == 0 {
			continue
		}
		if at := j.bus.Listen; at != "" {
			if listeners[at] == nil {
				listeners[at] = modbus.NewListener(at, zap.NewNop())
			}
			j.dialIn = listeners[at]
			j.inbound = j.dialIn.Route(j.bus.Registration)
		}
		jobs = append(jobs, j)
	}
	return jobs
}

// gpioOutputs lists the output lines of a chip, whether a point is bound to them or not.
func (j *safeJob) gpioOutputs(s *site.Site, bus int, tell func(safeResult)) {
	names := map[int]string{}
	for _, o := range s.Outputs {
		if o.Bus == bus {
			names[o.Channel] = describeOutput(s, o).Point
		}
	}
	for k := range j.bus.Lines {
		l := &j.bus.Lines[k]
		if l.Kind != firmwareconfig.GPIOOutput {
			continue
		}
		name := j.bus.ID + "." + l.ID
		if names[k] != "" {
			name = names[k] + " (" + name + ")"
		}
		if l.OnStop == firmwareconfig.OutputHold {
			tell(safeResult{Output: name, State: l.OnStop.String()})
			continue
		}
		j.list = append(j.list, safeOutput{name: name, state: l.OnStop, unit: l.ID, line: k})
	}
}

// modbusOutputs lists the outputs of a Modbus bus and keeps only their bindings, so that nothing else is asked.
func (j *safeJob) modbusOutputs(s *site.Site, bus int, tell func(safeResult)) {
	wanted := map[telemetry.PointID]bool{}
	for _, o := range s.Outputs {
		if o.Bus != bus {
			continue
		}
		d := describeOutput(s, o)
		name := d.Point + " (" + d.Channel + ")"
		value, ok := stateValue(s.Inventory.Points[o.Point].Def, o.OnStop)
		if !ok {
			tell(safeResult{Output: name, State: d.OnStop})
			continue
		}
		wanted[o.Point] = true
		j.list = append(j.list, safeOutput{name: name, state: o.OnStop, unit: j.bus.Units[o.Unit].ID, point: o.Point, value: value})
	}
	var units []firmwareconfig.Unit
	for _, u := range j.bus.Units {
		var bindings []firmwareconfig.Binding
		for _, b := range u.Bindings {
			if wanted[b.Point] {
				bindings = append(bindings, b)
			}
		}
		if len(bindings) > 0 {
			u.Bindings = bindings
			units = append(units, u)
		}
	}
	j.bus.Units = units
}

// startDialIns listens for the converters that dial in, until stop.
func startDialIns(ctx context.Context, jobs []*safeJob) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	started := map[*modbus.Listener]bool{}
	for _, j := range jobs {
		if j.dialIn != nil && !started[j.dialIn] {
			started[j.dialIn] = true
			group.Go(func() { _ = j.dialIn.Run(ctx) }) // What it cannot open shows as a converter that never comes.
		}
	}
	return func() {
		cancel()
		group.Wait()
	}
}

// run sets the job's outputs and tells of each.
func (j *safeJob) run(ctx context.Context, tell func(safeResult)) {
	set := j.setLine
	if j.bus.Transport != site.GPIO {
		bus, err := newBus(&j.bus, j.inbound, nil, newClock(), zap.NewNop())
		if err != nil {
			for _, o := range j.list {
				tell(safeResult{Output: o.name, State: o.state.String(), Error: errOf(err)})
			}
			return
		}
		defer bus.Close()
		set = func(ctx context.Context, o safeOutput) error {
			return bus.(drivers.Writer).Write(ctx, o.point, o.value)
		}
	}
	j.carryOut(ctx, set, tell)
}

// carryOut sets the outputs one after the other, and those that failed again in further rounds. Of a unit that gave no
// answer nothing more is tried in the same round, so that the units that do answer are not kept waiting.
func (j *safeJob) carryOut(ctx context.Context, set func(context.Context, safeOutput) error, tell func(safeResult)) {
	unknown := map[string]*drivers.OutcomeUnknownError{} // outputs that may have been set although nothing said so
	for round, rest := 1, j.list; len(rest) > 0; round++ {
		last := round >= safeRounds && j.dialIn == nil
		var again []safeOutput
		silent := map[string]*silentError{} // units that gave no answer in this round
		for _, o := range rest {
			var err error
			if s := silent[o.unit]; s != nil {
				err = s
			} else if err = set(ctx, o); err != nil && !answered(err) {
				silent[o.unit] = &silentError{unit: o.unit, output: o.name}
			}
			var now *drivers.OutcomeUnknownError
			if errors.As(err, &now) {
				unknown[o.name] = now
			} else if before := unknown[o.name]; before != nil && err != nil {
				err = fmt.Errorf("%w; then: %w", before, err)
			}
			switch {
			case err == nil:
				tell(safeResult{Output: o.name, State: o.state.String(), Set: true})
			case last || ctx.Err() != nil:
				tell(safeResult{Output: o.name, State: o.state.String(), Error: errOf(err)})
			default:
				again = append(again, o)
			}
		}
		if rest = again; len(rest) == 0 {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(safePause):
		}
	}
}

// silentError says that an output was not tried because its unit had just been silent.
type silentError struct{ unit, output string }

func (e *silentError) Error() string {
	return fmt.Sprintf("not tried: %s gave no answer when %s was to be set", e.unit, e.output)
}

// answered reports whether a failed write failed for itself: its unit is there, or was not needed.
func answered(err error) bool {
	var refused *gomodbus.ModbusError
	var otherwise *drivers.NotTakenError
	return errors.As(err, &refused) || errors.As(err, &otherwise) || errors.Is(err, drivers.ErrRange) || errors.Is(err, drivers.ErrNotWritable)
}

// setLine sets one output line of a chip. The card readers beside it, and their secret, are left out of it.
func (j *safeJob) setLine(ctx context.Context, o safeOutput) error {
	profile := &firmwareconfig.Profile{ID: "gpio", Channels: []firmwareconfig.Channel{{Name: j.bus.Lines[o.line].ID}}}
	return gpio.Safe(ctx, gpio.Config{
		Name: j.bus.ID, Chip: j.bus.Chip, Lines: j.bus.Lines[o.line : o.line+1],
		Unit: firmwareconfig.Unit{ID: j.bus.ID, Profile: profile}, Clock: newClock(), Log: zap.NewNop(),
	})
}
