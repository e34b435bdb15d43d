package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	firmwareconfig "linli/firmware-config"
	"linli/internal/yamlfile"
	"linli/rules/packs"
	"linli/rules/ruletest"
)

func rulesCommand() *cobra.Command {
	cmd := group("rules", "Test rules, and look into those that run", "")
	cmd.AddCommand(rulesTestCommand(), rulesBacktestCommand(), rulesListCommand(), rulesExplainCommand(), rulesReloadCommand())
	return cmd
}

func rulesTestCommand() *cobra.Command {
	var asJSON bool
	var filter string
	cmd := &cobra.Command{
		Use:   "test [FILE...]",
		Short: "Run unit tests of rules; without files, those of the shipped packs",
		Long:  "Run unit tests of rules (docs/rules.md) against the engine that the gateway runs. Without files the tests\nof the shipped packs are run. Exit code 1: a test failed, or a file has mistakes.",
		RunE: func(cmd *cobra.Command, args []string) error {
			files, err := ruleTestFiles(args)
			if err != nil {
				return err
			}
			library, err := firmwareconfig.Load(firmwareconfig.Shipped())
			if err != nil {
				return err
			}
			report, err := ruletest.Run(files, ruletest.Options{Classes: library.Classes, Read: os.ReadFile, Filter: filter})
			var mistakes yamlfile.Errors
			if err != nil && !errors.As(err, &mistakes) {
				return err
			}
			if asJSON {
				if err := json.NewEncoder(cmd.OutOrStdout()).Encode(report); err != nil {
					return err
				}
			} else {
				report.Print(cmd.OutOrStdout())
			}
			mistakes.Print(cmd.ErrOrStderr(), func(name string) ([]byte, error) {
				for _, f := range files {
					if f.Name == name {
						return f.Src, nil
					}
				}
				return os.ReadFile(name)
			})
			if len(mistakes) > 0 || report.Failed() > 0 {
				return errAnswered
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print for programs")
	cmd.Flags().StringVar(&filter, "filter", "", "run only the tests whose name contains this")
	return cmd
}

// ruleTestFiles reads the files named, or the tests of the shipped packs.
func ruleTestFiles(names []string) ([]ruletest.File, error) {
	var files []ruletest.File
	if len(names) == 0 {
		paths, err := fs.Glob(packs.Files, "tests/*.yaml")
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			src, err := fs.ReadFile(packs.Files, path)
			if err != nil {
				return nil, err
			}
			files = append(files, ruletest.File{Name: path, Src: src})
		}
		return files, nil
	}
	for _, name := range names {
		src, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read the rule test: %w", err)
		}
		files = append(files, ruletest.File{Name: filepath.Clean(name), Src: src})
	}
	return files, nil
}
