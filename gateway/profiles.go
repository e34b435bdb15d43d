package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	firmwareconfig "linli/firmware-config"
)

func profilesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "profiles",
		Short: "List the device models that are known, show one, or check files of your own",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var dir string
	var asJSON bool
	cmd.PersistentFlags().StringVar(&dir, "dir", "", "directory with classes/ and profiles/ of the site, over the shipped ones")
	list := &cobra.Command{
		Use:   "list",
		Short: "List the device models that are known",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			library, err := loadLibrary(dir)
			if err != nil {
				return err
			}
			return listProfiles(cmd.OutOrStdout(), library, asJSON)
		},
	}
	list.Flags().BoolVar(&asJSON, "json", false, "print for programs")
	show := &cobra.Command{
		Use:   "show PROFILE",
		Short: "Show the channels and settings of a device model",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return &usageError{fmt.Errorf("profiles show needs one profile: linli profiles show xy_md02")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			library, err := loadLibrary(dir)
			if err != nil {
				return err
			}
			p := library.Profiles[args[0]]
			if p == nil {
				return fmt.Errorf("there is no profile %q; there are %s", args[0], strings.Join(profileIDs(library), ", "))
			}
			if asJSON {
				return showProfileJSON(cmd.OutOrStdout(), p)
			}
			return showProfile(cmd.OutOrStdout(), p)
		},
	}
	show.Flags().BoolVar(&asJSON, "json", false, "print for programs")
	cmd.AddCommand(list, show, lintCommand(&dir))
	return cmd
}

func loadLibrary(dir string) (*firmwareconfig.Library, error) {
	if dir == "" {
		return firmwareconfig.Load(firmwareconfig.Shipped())
	}
	return firmwareconfig.Load(firmwareconfig.Shipped(), os.DirFS(dir))
}

func profileIDs(library *firmwareconfig.Library) []string {
	ids := make([]string, 0, len(library.Profiles))
	for id := range library.Profiles {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// profileClass returns the class that a unit of the profile is all by itself, or "-".
func profileClass(p *firmwareconfig.Profile) string {
	if p.Device == nil {
		return "-"
	}
	return p.Device.Class
}

func listProfiles(out io.Writer, library *firmwareconfig.Library, asJSON bool) error {
	type entry struct {
		ID     string `json:"id"`
		Vendor string `json:"vendor"`
		Model  string `json:"model"`
		Class  string `json:"class,omitempty"`
		Status string `json:"status"`
	}
	entries := []entry{}
	for _, id := range profileIDs(library) {
		p := library.Profiles[id]
		e := entry{ID: id, Vendor: p.Vendor, Model: p.Model, Status: p.Status}
		if p.Device != nil {
			e.Class = p.Device.Class
		}
		entries = append(entries, e)
	}
	if asJSON {
		return json.NewEncoder(out).Encode(entries)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PROFILE\tDEVICE CLASS\tSTATUS\tMAKER\tMODEL")
	for _, e := range entries {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", e.ID, profileClass(library.Profiles[e.ID]), e.Status, e.Vendor, e.Model)
	}
	return w.Flush()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
