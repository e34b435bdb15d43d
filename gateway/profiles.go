package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	firmwareconfig "linli/firmware-config"
	"linli/internal/yamlfile"
)

func profilesCommand() *cobra.Command {
	cmd := group("profiles", "List the device models that are known, show one, or check files of your own", "")
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
	classes := &cobra.Command{
		Use:   "classes",
		Short: "List the device classes and the points that they promise",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			library, err := loadLibrary(dir)
			if err != nil {
				return err
			}
			return showClasses(cmd.OutOrStdout(), library, slices.Sorted(maps.Keys(library.Classes)), asJSON)
		},
	}
	classes.Flags().BoolVar(&asJSON, "json", false, "print for programs")
	show := &cobra.Command{
		Use:   "show PROFILE or CLASS",
		Short: "Show the channels and settings of a device model, or the points of a class",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return &usageError{fmt.Errorf("profiles show needs one profile or class: linli profiles show xy_md02")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			library, err := loadLibrary(dir)
			if err != nil {
				return err
			}
			p := library.Profiles[args[0]]
			if p == nil && library.Classes[args[0]] != nil {
				return showClasses(cmd.OutOrStdout(), library, args, asJSON)
			}
			if p == nil {
				known := append(profileIDs(library), slices.Sorted(maps.Keys(library.Classes))...)
				where := "; linli profiles list and linli profiles classes show all"
				if dir == "" {
					where += ", with --dir DIR those of a site too (DIR holds profiles/ and classes/)"
				}
				return fmt.Errorf("there is no profile or class %q%s%s", args[0], yamlfile.Suggest(args[0], known), where)
			}
			if asJSON {
				return showProfileJSON(cmd.OutOrStdout(), p)
			}
			return showProfile(cmd.OutOrStdout(), p)
		},
	}
	show.Flags().BoolVar(&asJSON, "json", false, "print for programs")
	cmd.AddCommand(list, classes, show, lintCommand(&dir))
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
		// Registers are the channels and settings, Partial and Unverified those of them that are less than confirmed.
		Registers  int `json:"registers"`
		Partial    int `json:"partial"`
		Unverified int `json:"unverified"`
	}
	entries := []entry{}
	for _, id := range profileIDs(library) {
		p := library.Profiles[id]
		e := entry{ID: id, Vendor: p.Vendor, Model: p.Model, Status: p.Status}
		if p.Device != nil {
			e.Class = p.Device.Class
		}
		e.Registers, e.Partial, e.Unverified = doubts(p)
		entries = append(entries, e)
	}
	if asJSON {
		return json.NewEncoder(out).Encode(entries)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PROFILE\tDEVICE CLASS\tSTATUS\tNOT CONFIRMED\tMAKER\tMODEL")
	for _, e := range entries {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", e.ID, profileClass(library.Profiles[e.ID]), e.Status, doubtText(e.Registers, e.Partial, e.Unverified), e.Vendor, e.Model)
	}
	return w.Flush()
}

// doubts counts a profile's channels and settings, and those of them that are known partly or not at all.
func doubts(p *firmwareconfig.Profile) (all, partial, unverified int) {
	count := func(ch *firmwareconfig.Channel) {
		all++
		switch p.StatusOf(ch) {
		case "partial":
			partial++
		case "unverified":
			unverified++
		}
	}
	for i := range p.Channels {
		count(&p.Channels[i])
	}
	for i := range p.Params {
		count(&p.Params[i].Channel)
	}
	return all, partial, unverified
}

// doubtText says how many registers are not confirmed.
func doubtText(all, partial, unverified int) string {
	var parts []string
	if partial > 0 {
		parts = append(parts, fmt.Sprintf("%d partial", partial))
	}
	if unverified > 0 {
		parts = append(parts, fmt.Sprintf("%d unverified", unverified))
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, ", ") + fmt.Sprintf(" of %d", all)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
