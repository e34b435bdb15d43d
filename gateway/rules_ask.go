package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"linli/internal/console"
	"linli/rules"
	"linli/rules/expr"
)

// rulesAPI returns the API of the gateway that runs from a site file. One without a gateway is an error: what its rules
// think now only the gateway knows.
func rulesAPI(ctx context.Context, file string) (*gatewayAPI, error) {
	if file == "" {
		return nil, &usageError{errors.New("say which gateway: -c FILE, its site file")}
	}
	src, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the site file: %w", err)
	}
	// The file may have mistakes just now: the gateway runs from what it was, and where it listens can be told all the same.
	p, err := resolveAll(file, src, os.DirFS(filepath.Dir(file)))
	if p == nil || p.site.Inventory.Site == "" {
		return nil, err
	}
	api, err := findGateway(ctx, p.site)
	if err == nil && api == nil {
		err = fmt.Errorf("no gateway runs from %s", file)
	}
	return api, err
}

func rulesListCommand() *cobra.Command {
	var file string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list -c FILE",
		Short: "Show the rules that run, and what each costs",
		Long:  "Show the rules that run in the gateway of a site file: how many subjects each has, how often it was evaluated since\nthe start, about how much processor time that took (one evaluation in 64 is measured), and the memory of its windows.",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := rulesAPI(cmd.Context(), file)
			if err != nil {
				return err
			}
			var raw json.RawMessage
			if err := api.call(cmd.Context(), http.MethodGet, "/api/v1/rules", nil, &raw); err != nil {
				return err
			}
			if asJSON {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s\n", raw)
				return err
			}
			return printRules(cmd.OutOrStdout(), raw)
		},
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "site file of the running gateway")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print for programs")
	return cmd
}

func printRules(out io.Writer, raw []byte) error {
	var list struct {
		Rules []struct {
			Pack, Rule  string
			Subjects    int
			Evaluations uint64
			CPU         float64 `json:"cpu_s"`
			Bytes       int     `json:"window_bytes"`
		}
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return err
	}
	fmt.Fprintf(out, "%-12s %-28s %9s %13s %11s %9s %11s\n", "PACK", "RULE", "SUBJECTS", "EVALUATIONS", "CPU s", "ns EACH", "WINDOWS KiB")
	for _, r := range list.Rules {
		each := "-"
		if r.Evaluations > 0 {
			each = fmt.Sprintf("%.0f", r.CPU*1e9/float64(r.Evaluations))
		}
		fmt.Fprintf(out, "%-12s %-28s %9d %13d %11.3f %9s %11.1f\n", r.Pack, r.Rule, r.Subjects, r.Evaluations, r.CPU, each, float64(r.Bytes)/1024)
	}
	return nil
}

func rulesReloadCommand() *cobra.Command {
	var file, by string
	cmd := &cobra.Command{
		Use:   "reload -c FILE",
		Short: "Have the running gateway take over changed packs, parameters and schedules",
		Long: `Have the running gateway read its rule packs, their parameters and its schedules anew, without a restart. Rules that
stay keep their alerts, timers and windows, by name and subject. A pack with mistakes replaces nothing: every mistake is
printed, the former rules go on, and the exit code is 1. Changes of devices and buses need a restart.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := rulesAPI(cmd.Context(), file)
			if err != nil {
				return err
			}
			if by, err = whoAsks(by); err != nil {
				return err
			}
			var done console.Reloaded
			err = api.call(cmd.Context(), http.MethodPost, "/api/v1/rules/reload", map[string]string{"by": by}, &done)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			for _, w := range done.Warnings {
				fmt.Fprintln(out, "warning:", w)
			}
			fmt.Fprintf(out, "%d rules run now; %d subjects went on with their timers and windows", done.Rules, done.Kept)
			if done.Removed > 0 {
				fmt.Fprintf(out, "; %d alerts closed because their rule is gone", done.Removed)
			}
			fmt.Fprintln(out)
			return nil
		},
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "site file of the running gateway")
	cmd.Flags().StringVar(&by, "by", "", "who says so, for the gateway's record (default: the user)")
	return cmd
}

func rulesExplainCommand() *cobra.Command {
	var file string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain ALERT [SUBJECT] -c FILE",
		Short: "Say why an alert is active, or is not: every operand with its value",
		Long: `Say why an alert of the running gateway is active, or is not, or why a derived point has its value: every part of the
expression with its value, of points also quality and age. A star stands before the parts because of which the whole is what
it is. SUBJECT is the id of a device or zone, or the site's; it can be left out where the rule has only one.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return &usageError{errors.New("explain needs an alert and a subject: linli rules explain BinFull bin_1 -c FILE")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := rulesAPI(cmd.Context(), file)
			if err != nil {
				return err
			}
			path := "/api/v1/rules/" + url.PathEscape(args[0]) + "/explain"
			if len(args) > 1 {
				path += "?subject=" + url.QueryEscape(args[1])
			}
			var x rules.Explanation
			if err := api.call(cmd.Context(), http.MethodGet, path, nil, &x); err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(&x)
			}
			printExplanation(cmd.OutOrStdout(), &x)
			return nil
		},
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "site file of the running gateway")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print for programs")
	return cmd
}

// printExplanation writes an explanation for people.
func printExplanation(out io.Writer, x *rules.Explanation) {
	fmt.Fprintf(out, "%s%s %s  %s · %s\n", x.Alert, x.Record, x.Subject, x.Title.Zh, x.Title.En)
	fmt.Fprintf(out, "%s\n", x.At)
	state := x.State
	switch x.State {
	case "pending":
		state = fmt.Sprintf("pending: true for %s of %s", span(x.Held), span(x.Needed))
	case "clearing":
		state = fmt.Sprintf("active, clearing: false for %s of %s", span(x.Held), span(x.Needed))
	}
	if x.Unknown {
		state += ", cannot be decided now"
	}
	if x.Severity != "" {
		word := "severity"
		if x.State == "inactive" || x.State == "pending" {
			word = "would be"
		}
		state += ", " + word + " " + x.Severity
	}
	fmt.Fprintf(out, "%s\n\n", state)
	printOperand(out, &x.Condition, 0)
	for i := range x.SeverityWhen {
		s := &x.SeverityWhen[i]
		fmt.Fprintf(out, "\n%s when", s.Severity)
		if s.Needed > 0 {
			fmt.Fprintf(out, " (true for %s of %s)", span(s.Held), span(s.Needed))
		}
		fmt.Fprintln(out)
		printOperand(out, &s.Condition, 0)
	}
}

func span(d rules.Seconds) string { return expr.FormatDuration(time.Duration(d)) }

// operandColumn is where values stand, in characters.
const operandColumn = 64

func printOperand(out io.Writer, o *rules.Operand, depth int) {
	mark := "  "
	if o.Decides {
		mark = "* "
	}
	text := strings.Repeat("  ", depth) + mark + o.Expr
	pad := max(operandColumn-utf8.RuneCountInString(text), 1)
	fmt.Fprintf(out, "%s%s %s", text, strings.Repeat(" ", pad), o.Value)
	if p := o.Point; p != nil {
		if p.Unit != "" && p.Read && o.Value != "unknown" {
			fmt.Fprintf(out, " %s", p.Unit)
		}
		fmt.Fprintf(out, "   %s.%s", p.Device, p.Point)
		switch {
		case p.Source == "constant":
			fmt.Fprint(out, ", a constant: no unit provides it")
		case p.Source == "missing":
			fmt.Fprint(out, ", no unit provides it, and it has no constant")
		case !p.Read:
			fmt.Fprint(out, ", not read yet")
		default:
			fmt.Fprintf(out, ", %s, %s ago", strings.ReplaceAll(p.Quality, "_", " "), age(p.Age))
		}
	}
	fmt.Fprintln(out)
	for i := range o.Args {
		printOperand(out, &o.Args[i], depth+1)
	}
}

// age writes how old a sample is, to the second beyond ten of them.
func age(d rules.Seconds) string {
	if v := time.Duration(d); v >= 10*time.Second {
		return expr.FormatDuration(v.Truncate(time.Second))
	}
	return fmt.Sprintf("%.1fs", time.Duration(d).Seconds())
}
