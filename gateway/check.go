package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"linli/internal/site"
	"linli/internal/yamlfile"
)

func checkCommand() *cobra.Command {
	var file string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check -c FILE",
		Short: "Check a site file and all it refers to; prints every mistake at once",
		Long: "Check a site file with its profiles, rule packs and parameters, and reckon whether its buses can do what is asked of\n" +
			"them. Every mistake is printed as file:line:col: message. Of a good file it prints what each bus will be busy with,\n" +
			"and the outputs that are not safe when the gateway stops or dies; beside a bus that cannot keep up, where its time goes. Exit code 0: it can be started; 1: it cannot.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return &usageError{errors.New("check needs a site file: linli check -c FILE")}
			}
			p, err := loadPlan(file)
			if p != nil && len(p.unmet) > 0 {
				var all yamlfile.Errors
				if err == nil || errors.As(err, &all) {
					err = append(all, p.unmet...).Err()
				}
			}
			if asJSON {
				return printCheckJSON(cmd.OutOrStdout(), p, err)
			}
			return printCheck(cmd.OutOrStdout(), cmd.ErrOrStderr(), file, p, err)
		},
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "site file")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print for programs")
	return cmd
}

func printCheck(stdout, stderr io.Writer, file string, p *plan, err error) error {
	var mistakes yamlfile.Errors
	if errors.As(err, &mistakes) {
		if p != nil { // All that is wrong is what the buses cannot keep up with: where their time goes is what helps then.
			printBudgets(stdout, p.budgets)
		}
		mistakes.Print(stderr, os.ReadFile)
		fmt.Fprintln(stderr, count(len(mistakes), "mistake"))
		return errAnswered
	}
	if err != nil {
		return err
	}
	for _, w := range p.site.Warnings {
		fmt.Fprintf(stdout, "%s: warning: %s\n", w.Pos, w.Msg)
	}
	printByDevice(stdout, "points that no unit provides are taken as constants:", p.site.Constants)
	printReport(stdout, p.site)
	printBudgets(stdout, p.budgets)
	printUnsafe(stdout, outputsOf(p.site))
	printCommands(stdout, p.site.Uplink)
	inv := p.site.Inventory
	devices, points := inv.Installed()
	fmt.Fprintf(stdout, "%s: good. %s: %s\n", file, inv.Node(), strings.Join([]string{
		count(len(inv.Zones), "zone"), count(len(p.site.Buses), "bus"), count(unitCount(p.site), "unit"),
		count(devices, "device"), count(points, "point"), count(len(p.site.Packs), "rule pack"),
	}, ", "))
	return nil
}

// printByDevice lists what holds for points below a title, devices of which the same holds together. Each entry is
// "device.point what".
func printByDevice(stdout io.Writer, title string, entries []string) {
	if len(entries) == 0 {
		return
	}
	points := map[string][]string{} // device -> what holds of which point
	var devices []string
	for _, e := range entries {
		device, point, _ := strings.Cut(e, ".")
		if points[device] == nil {
			devices = append(devices, device)
		}
		points[device] = append(points[device], point)
	}
	groups := map[string][]string{} // what -> devices
	var order []string
	for _, device := range devices {
		what := strings.Join(points[device], ", ")
		if groups[what] == nil {
			order = append(order, what)
		}
		groups[what] = append(groups[what], device)
	}
	fmt.Fprintln(stdout, title)
	for _, what := range order {
		fmt.Fprintf(stdout, "  %s: %s\n", few(groups[what]), what)
	}
}

// count returns n with its noun.
func count(n int, noun string) string {
	switch {
	case n == 1:
	case strings.HasSuffix(noun, "s"):
		noun += "es"
	default:
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

func unitCount(s *site.Site) int {
	n := 0
	for _, b := range s.Buses {
		if b.Transport != site.GPIO { // whose one unit stands for the chip
			n += len(b.Units)
		}
	}
	return n
}

func printCheckJSON(stdout io.Writer, p *plan, err error) error {
	type mistake struct {
		File    string `json:"file"`
		Line    int    `json:"line"`
		Col     int    `json:"col"`
		Message string `json:"message"`
	}
	result := struct {
		Good     bool          `json:"good"`
		Mistakes []mistake     `json:"mistakes"`
		Warnings []mistake     `json:"warnings"`
		Buses    []budgetJSON  `json:"buses"`   // empty beside mistakes other than that they cannot keep up
		Outputs  []outputState `json:"outputs"` // empty beside mistakes
		Report   reportState   `json:"report"`
		Commands commandsJSON  `json:"commands"`
	}{Good: err == nil, Mistakes: []mistake{}, Warnings: []mistake{}, Buses: []budgetJSON{}, Outputs: []outputState{}, Commands: encodeCommands(nil), Report: reportState{Deadbands: []deadbandState{}}}
	convert := func(es yamlfile.Errors) []mistake {
		out := []mistake{}
		for _, e := range es {
			out = append(out, mistake{e.Pos.File, e.Pos.Line, e.Pos.Col, e.Msg})
		}
		return out
	}
	var mistakes yamlfile.Errors
	switch {
	case errors.As(err, &mistakes):
		result.Mistakes = convert(mistakes)
		if p != nil {
			result.Buses = encodeBudgets(p.budgets)
		}
	case err != nil:
		return err
	default:
		result.Warnings = convert(p.site.Warnings)
		result.Buses, result.Outputs = encodeBudgets(p.budgets), outputsOf(p.site)
		result.Report = reportState{p.site.Report.MaxInterval.Seconds(), deadbandsOf(p.site)}
		result.Commands = encodeCommands(p.site.Uplink)
	}
	if err := printJSON(stdout, result); err != nil {
		return err
	}
	if !result.Good {
		return errAnswered
	}
	return nil
}

func schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON schema of the site file, for editors",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(site.Schema())
			return err
		},
	}
}
