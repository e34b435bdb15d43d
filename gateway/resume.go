package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/spf13/cobra"
)

// resumeOptions is the command line of linli resume.
type resumeOptions struct{ file, bus, by string }

func resumeCommand() *cobra.Command {
	var o resumeOptions
	cmd := &cobra.Command{
		Use:   "resume -c FILE [--bus BUS]",
		Short: "Let the running gateway poll a bus again that a tool has suspended",
		Long: `Let the running gateway poll a bus again that a tool has suspended, whoever that was: linli scan --suspend, linli
config apply. The gateway does so by itself when the tool ends, and shortly after it was killed. A tool that still works
on the line loses it.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runResume(cmd.Context(), o, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.file, "config", "c", "", "site file of the running gateway")
	f.StringVar(&o.bus, "bus", "", "id of the bus; not needed where the site has only one")
	f.StringVar(&o.by, "by", "", "who says so, for the gateway's record (default: the user)")
	return cmd
}

// runResume ends anybody's suspension of a bus.
func runResume(ctx context.Context, o resumeOptions, out io.Writer) error {
	if o.file == "" {
		return &usageError{errors.New("say which gateway: -c FILE, its site file")}
	}
	p, err := loadPlan(o.file)
	if err != nil {
		return err
	}
	b, err := busOf(p.site, o.bus)
	if err != nil {
		return err
	}
	by, err := whoAsks(o.by)
	if err != nil {
		return err
	}
	api, err := findGateway(ctx, p.site)
	if err != nil {
		return err
	}
	if api == nil {
		return fmt.Errorf("no gateway runs from %s: there is nothing to resume", o.file)
	}
	wait, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	var list struct {
		Buses []struct {
			ID        string `json:"id"`
			Suspended bool   `json:"suspended"`
		} `json:"buses"`
	}
	if err := api.call(wait, http.MethodGet, "/api/v1/buses", nil, &list); err != nil {
		return err
	}
	was := false
	for _, l := range list.Buses {
		was = was || l.ID == b.ID && l.Suspended
	}
	if err := api.call(wait, http.MethodPost, busPath(b.ID, "suspend"), suspendRequest{By: by, Force: true}, nil); err != nil {
		return err
	}
	if !was {
		fmt.Fprintf(out, "%s was not suspended: the gateway polls it.\n", b.ID)
		return nil
	}
	fmt.Fprintf(out, "%s: the gateway polls it again.\n", b.ID)
	return nil
}
