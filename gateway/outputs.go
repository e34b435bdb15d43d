package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"linli/drivers"
	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/site"
)

func outputsCommand() *cobra.Command {
	cmd := group("outputs", "List the outputs of a site, or set them to their safe state", "")
	var file, state string
	var asJSON, ifCrashed bool
	cmd.PersistentFlags().StringVarP(&file, "config", "c", "", "site file")
	cmd.PersistentFlags().BoolVar(&asJSON, "json", false, "print for programs")
	list := &cobra.Command{
		Use:   "list -c FILE",
		Short: "List every output with what it does when the gateway starts, stops and crashes, and which rules drive it",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return &usageError{errors.New("outputs list needs a site file: linli outputs list -c FILE")}
			}
			p, err := loadPlan(file)
			if err != nil {
				return err
			}
			list, driven := outputsOf(p.site), driversOf(p.site.Inventory, p.engine)
			for i, o := range p.site.Outputs {
				list[i].DrivenBy = driven[o.Point]
			}
			return listOutputs(cmd.OutOrStdout(), list, p.site.DryRun, asJSON)
		},
	}
	safe := &cobra.Command{
		Use:   "safe -c FILE",
		Short: "Set every output to its on_stop state, while no gateway runs",
		Long: "Set every output to what its on_stop says, within 10 s, all buses side by side; those that hold are left alone. It is\n" +
			"for the time when no gateway runs: systemd calls it after a crash (--if-crashed), because a gateway that was stopped\n" +
			"has done so itself. Of a site file with mistakes the one is taken from which the gateway last started, which is kept\n" +
			"in the state directory. Exit code 1: an output could not be set, or the site file has mistakes.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return &usageError{errors.New("outputs safe needs a site file: linli outputs safe -c FILE")}
			}
			if ifCrashed {
				result, known := os.LookupEnv("SERVICE_RESULT")
				if !known {
					return &usageError{errors.New("--if-crashed is for systemd's ExecStopPost, which says in SERVICE_RESULT how the gateway ended")}
				}
				if result == "success" {
					fmt.Fprintln(cmd.ErrOrStderr(), "the gateway was stopped and has set its outputs itself")
					return nil
				}
			}
			s, known, mistakes := siteForSafe(file, state, cmd.ErrOrStderr())
			if s == nil {
				return mistakes
			}
			if !ifCrashed {
				if api, err := findGateway(cmd.Context(), s); err == nil && api != nil {
					return fmt.Errorf("the gateway of this site is running and commands the outputs itself: stop it first, or use linli write")
				}
			}
			return makeSafe(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), s, asJSON, mistakes != nil, known)
		},
	}
	safe.Flags().BoolVar(&ifCrashed, "if-crashed", false, "do nothing after a clean stop, as SERVICE_RESULT tells (for systemd)")
	safe.Flags().StringVar(&state, "state", "", "state directory of the gateway (default: the site file's, or "+defaultState+")")
	cmd.AddCommand(list, safe)
	return cmd
}

// siteForSafe returns the site whose outputs are to be made safe, and the mistakes of its file: what stands in the way of
// a start must not keep a siren sounding. Where the file has mistakes it is the one from which the gateway last started,
// and only where that is not known what can be read of the file: known is false then. The Site is nil where there is
// nothing.
func siteForSafe(file, state string, stderr io.Writer) (s *site.Site, known bool, err error) {
	s = &site.Site{}
	src, err := os.ReadFile(file)
	if err != nil {
		err = fmt.Errorf("read the site file: %w", err)
	} else {
		var p *plan
		if p, err = resolveAll(file, src, os.DirFS(filepath.Dir(file))); err == nil {
			return p.site, true, nil
		}
		if p != nil {
			s = p.site
		}
	}
	fmt.Fprintf(stderr, "%v\n", err)
	dir := stateDir(state, s)
	last, when, lastErr := lastGood(dir, file)
	switch {
	case lastErr == nil:
		fmt.Fprintf(stderr, "the site file cannot be used: taking the one from which the gateway started at %s\n", when.Local().Format(time.DateTime))
		return last.site, true, err
	case errors.Is(lastErr, fs.ErrNotExist):
		fmt.Fprintf(stderr, "no site file from an earlier start of the gateway is in %s (--state names another directory)\n", dir)
	default:
		fmt.Fprintf(stderr, "the site file from an earlier start of the gateway cannot be used either: %v\n", lastErr)
	}
	if s.Inventory == nil {
		return nil, false, errAnswered
	}
	if len(s.Outputs) > 0 {
		fmt.Fprintln(stderr, "the outputs that could be read of the site file are set all the same")
	}
	return s, false, err
}

// outputState is one output as people and programs see it.
type outputState struct {
	Point    string `json:"point"` // device.point; of a GPIO line that nothing is bound to, ""
	Bus      string `json:"bus"`
	Channel  string `json:"channel"` // unit.channel
	OnStart  string `json:"on_start"`
	OnStop   string `json:"on_stop"`
	Watchdog bool   `json:"watchdog"`
	// Crash says what happens when the gateway dies, Unsafe what is not safe about it, "" where all is well.
	Crash  string `json:"crash"`
	Unsafe string `json:"unsafe,omitempty"`
	// MinOff is the shortest time off in seconds, and Interlock the outputs that it is never on together with.
	MinOff    float64    `json:"min_off_s,omitempty"`
	Interlock []string   `json:"interlock,omitempty"`
	DrivenBy  []drivenBy `json:"driven_by,omitempty"` // of outputs list alone
}

// outputsOf lists the outputs of a site in the order of its file.
func outputsOf(s *site.Site) []outputState {
	list := []outputState{}
	for _, o := range s.Outputs {
		list = append(list, describeOutput(s, o))
	}
	return list
}

func describeOutput(s *site.Site, o site.Output) outputState {
	b := &s.Buses[o.Bus]
	u := &b.Units[o.Unit]
	series := s.Inventory.Series(o.Point)
	out := outputState{
		Point: series.Device + "." + series.Point, Bus: b.ID, Channel: u.ID + "." + u.Profile.Channels[o.Channel].Name,
		OnStart: o.OnStart.String(), OnStop: o.OnStop.String(), Watchdog: o.Watchdog, MinOff: o.MinOff.Seconds(),
	}
	for _, other := range o.Interlock {
		s := s.Inventory.Series(other)
		out.Interlock = append(out.Interlock, s.Device+"."+s.Point)
	}
	holds := o.OnStop == firmwareconfig.OutputHold
	switch {
	case o.Watchdog:
		out.Crash = "the module's watchdog makes it safe"
	case holds && b.Transport == site.GPIO:
		out.Crash = "depends on the chip: most boards let go"
	case holds:
		out.Crash = "stays as it is"
	case b.Transport == site.GPIO:
		out.Crash = "linli outputs safe sets it " + out.OnStop + ", if the chip holds that: most boards let go"
	default:
		out.Crash = "linli outputs safe sets it " + out.OnStop
	}
	switch {
	case b.Transport == site.GPIO && holds:
		out.Unsafe = "when the gateway stops it depends on the chip (on_stop: hold): most boards let go, others leave it as it is"
	case b.Transport == site.GPIO && o.OnStop == firmwareconfig.OutputOn:
		out.Unsafe = "stays on only where the chip holds a line that nobody has: most boards let go when the gateway stops or dies"
	case holds && !o.Watchdog:
		out.Unsafe = "stays as it is when the gateway stops (on_stop: hold) and when the box dies (no watchdog in the module)"
	case holds:
		out.Unsafe = "stays as it is when the gateway stops (on_stop: hold), until the module's watchdog acts"
	case b.Transport != site.GPIO && !o.Watchdog:
		out.Unsafe = "stays as it is when the box itself dies (no watchdog in the module)"
	}
	return out
}

func listOutputs(out io.Writer, list []outputState, dryRun, asJSON bool) error {
	if asJSON {
		return printJSON(out, struct {
			DryRun  bool          `json:"dry_run"`
			Outputs []outputState `json:"outputs"`
		}{dryRun, list})
	}
	if len(list) == 0 {
		fmt.Fprintln(out, "no outputs: nothing on this site is commanded")
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "OUTPUT\tBUS\tCHANNEL\tON START\tON STOP\tAFTER A CRASH OF THE PROGRAM")
	for _, o := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", o.Point, o.Bus, o.Channel, o.OnStart, o.OnStop, o.Crash)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	printUnsafe(out, list)
	printDrivers(out, list)
	if dryRun {
		fmt.Fprintln(out, "dry_run: what rules want of these outputs is recorded, and not sent")
	}
	return nil
}

// printUnsafe lists the outputs that are not safe whatever happens, those for the same reason together.
func printUnsafe(out io.Writer, list []outputState) {
	groups := map[string][]string{}
	var order []string
	for _, o := range list {
		if o.Unsafe == "" {
			continue
		}
		if groups[o.Unsafe] == nil {
			order = append(order, o.Unsafe)
		}
		groups[o.Unsafe] = append(groups[o.Unsafe], o.Point+" ("+o.Channel+")")
	}
	if len(order) == 0 {
		return
	}
	fmt.Fprintln(out, "outputs that are not safe whatever happens:")
	for _, reason := range order {
		fmt.Fprintf(out, "  %s: %s\n", few(groups[reason]), reason)
	}
}

// few joins names; of many only the first three and how many more there are.
func few(names []string) string {
	if len(names) > 4 {
		names = append(names[:3:3], fmt.Sprintf("and %d more", len(names)-3))
	}
	text := ""
	for i, n := range names {
		if i > 0 {
			text += ", "
		}
		text += n
	}
	return text
}

func printJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// errOf says in one line why an output could not be set.
func errOf(err error) string {
	var unknown *drivers.OutcomeUnknownError
	switch {
	case errors.As(err, &unknown):
		return "nobody knows whether it took effect: " + unknown.Err.Error()
	case errors.Is(err, modbus.ErrInUse):
		return "the line is in use by another program"
	case errors.Is(err, context.DeadlineExceeded):
		return "not in time: " + err.Error()
	}
	return err.Error()
}
