package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	firmwareconfig "linli/firmware-config"
	"linli/internal/yamlfile"
)

func lintCommand(dir *string) *cobra.Command {
	var asJSON, strict bool
	cmd := &cobra.Command{
		Use:   "lint [FILE or DIR]...",
		Short: "Check profiles of your own (or, without arguments, the shipped ones)",
		Long: "Check profile and class files: every mistake is printed as file:line:col: message, then what is allowed and\n" +
			"probably not meant. The driver decodes the golden frames, and their values must be as the file says. A directory may hold the files themselves, or the folders classes/ and profiles/.\n\n" +
			"Exit code 0: no mistakes (with --strict: no warnings either); 1: there are.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return lintProfiles(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), args, *dir, asJSON, strict)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print for programs")
	cmd.Flags().BoolVar(&strict, "strict", false, "warnings count as mistakes")
	return cmd
}

func lintProfiles(ctx context.Context, stdout, stderr io.Writer, args []string, dir string, asJSON, strict bool) error {
	own := &ownFiles{content: map[string][]byte{}, given: map[string]string{}}
	if dir != "" {
		args = append([]string{dir}, args...)
	}
	for _, arg := range args {
		if err := own.add(arg); err != nil {
			return err
		}
	}
	library, err := firmwareconfig.Load(firmwareconfig.Shipped(), own)
	var mistakes yamlfile.Errors
	if err != nil && !errors.As(err, &mistakes) {
		return err
	}
	ids := own.profiles()
	if len(args) == 0 {
		ids = profileIDs(library)
	}
	warnings := library.Lint(ids...)
	wrong, err := checkGoldens(ctx, library, ids)
	if err != nil {
		return err
	}
	mistakes = append(mistakes, wrong...)
	for _, list := range []yamlfile.Errors{mistakes, warnings} {
		for _, m := range list {
			if given := own.given[m.Pos.File]; given != "" {
				m.Pos.File = given
			} else {
				m.Pos.File = "shipped:" + m.Pos.File
			}
		}
	}
	good := len(mistakes) == 0 && (!strict || len(warnings) == 0)
	if asJSON {
		type finding struct {
			File    string `json:"file"`
			Line    int    `json:"line"`
			Col     int    `json:"col"`
			Message string `json:"message"`
		}
		convert := func(es yamlfile.Errors) []finding {
			out := []finding{}
			for _, e := range es {
				out = append(out, finding{e.Pos.File, e.Pos.Line, e.Pos.Col, e.Msg})
			}
			return out
		}
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		err := enc.Encode(struct {
			Good     bool      `json:"good"`
			Profiles []string  `json:"profiles"`
			Mistakes []finding `json:"mistakes"`
			Warnings []finding `json:"warnings"`
		}{good, append([]string{}, ids...), convert(mistakes), convert(warnings)})
		if err == nil && !good {
			err = errAnswered
		}
		return err
	}
	for _, m := range mistakes {
		fmt.Fprintln(stderr, m)
	}
	for _, w := range warnings {
		fmt.Fprintf(stdout, "%s: warning: %s\n", w.Pos, w.Msg)
	}
	if len(mistakes) > 0 {
		fmt.Fprintln(stderr, count(len(mistakes), "mistake"))
	} else {
		fmt.Fprintf(stdout, "%s: no mistakes, %s\n", count(len(ids), "profile"), count(len(warnings), "warning"))
	}
	if !good {
		return errAnswered
	}
	return nil
}

// ownFiles are files that people want checked, as the layer of a library: each stands in the folder where it belongs.
type ownFiles struct {
	content map[string][]byte // by path in the layer
	given   map[string]string // path in the layer -> path as given
}

// add reads a file, or every .yaml file of a directory.
func (o *ownFiles) add(arg string) error {
	info, err := os.Stat(arg)
	if err != nil {
		return fmt.Errorf("check profiles: %w", err)
	}
	if !info.IsDir() {
		return o.addFile(arg, "")
	}
	found := 0
	for _, folder := range []string{"classes", "profiles", "."} {
		names, err := filepath.Glob(filepath.Join(arg, folder, "*.y*ml"))
		if err != nil {
			return fmt.Errorf("check profiles in %s: %w", arg, err)
		}
		if folder == "." && found > 0 {
			break // Site files and the like lie beside the folders.
		}
		for _, name := range names {
			found++
			if err := o.addFile(name, folder); err != nil {
				return err
			}
		}
	}
	if found == 0 {
		return fmt.Errorf("check profiles: %s holds no .yaml files, and no folders classes and profiles with some", arg)
	}
	return nil
}

// addFile reads one file; where the folder does not say what it is, its content does.
func (o *ownFiles) addFile(name, folder string) error {
	src, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("check profiles: %w", err)
	}
	if folder != "classes" && folder != "profiles" {
		folder = "profiles"
		for line := range bytes.Lines(src) {
			if bytes.HasPrefix(line, []byte("class:")) {
				folder = "classes"
			}
		}
	}
	at := path.Join(folder, filepath.Base(name))
	if other := o.given[at]; other != "" && other != name {
		return fmt.Errorf("check profiles: %s and %s have the same name, and one would replace the other", other, name)
	}
	o.content[at], o.given[at] = src, name
	return nil
}

// profiles returns the ids that the profile files have by their names.
func (o *ownFiles) profiles() []string {
	var ids []string
	for _, at := range slices.Sorted(maps.Keys(o.content)) {
		if id, ok := strings.CutPrefix(at, "profiles/"); ok {
			ids = append(ids, strings.TrimSuffix(id, ".yaml"))
		}
	}
	return ids
}

// Open is fs.FS's; the loader uses Glob and ReadFile.
func (o *ownFiles) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// Glob returns the files whose path matches the pattern.
func (o *ownFiles) Glob(pattern string) ([]string, error) {
	var out []string
	for _, at := range slices.Sorted(maps.Keys(o.content)) {
		ok, err := path.Match(pattern, at)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, at)
		}
	}
	return out, nil
}

// ReadFile returns a file's content.
func (o *ownFiles) ReadFile(name string) ([]byte, error) {
	src, ok := o.content[name]
	if !ok {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
	}
	return src, nil
}
