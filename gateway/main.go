// Command linli is the edge gateway for smart communities: it reads devices over Modbus, decides on the box what is
// an alert, and carries every sample to the city. One file per subcommand; run.go holds the wiring.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	_ "time/tzdata" // Boxes come without a time zone database.

	"github.com/spf13/cobra"
)

func main() {
	runtime.MemProfileRate = 0 // Nobody reads the profile, and it takes a megabyte.
	// SIGHUP is the terminal that was closed: an end like any other.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// Exit codes: what a script may rely on.
const (
	exitGood  = 0
	exitNo    = 1 // the answer is no, the configuration is wrong, or something failed
	exitUsage = 2
)

// run executes one command line and returns its exit code. Nothing below it touches signals, os.Args or os.Exit, so
// that every subcommand can be tested without a process.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cmd := rootCommand()
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	switch {
	case err == nil:
		return exitGood
	case errors.Is(err, errAnswered):
		return exitNo
	}
	fmt.Fprintln(stderr, err)
	var usage *usageError
	if errors.As(err, &usage) {
		fmt.Fprintln(stderr, `"linli help" lists the commands.`)
		return exitUsage
	}
	return exitNo
}

// errAnswered ends a command with exit code 1 after it has printed why.
var errAnswered = errors.New("no")

// usageError is a command line that cannot be understood.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }

func (e *usageError) Unwrap() error { return e.err }

func rootCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "linli",
		Short:         "Edge gateway for smart communities (邻里)",
		Long:          "Linli reads the devices of a residential community over Modbus, decides on the box what is an\nalert, and carries every sample by MQTT to the city's time-series database.\n\nTry it now, with a simulated community: linli demo",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return &usageError{fmt.Errorf("there is no command %q", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	cmd.AddCommand(demoCommand(), runCommand(), checkCommand(), rulesCommand(), profilesCommand(), outputsCommand(), schemaCommand(), ingestCommand(), commandCommand(), ledgerCommand(), versionCommand())
	cmd.AddCommand(scanCommand(), readCommand(), writeCommand(), configCommand(), resumeCommand(), journalCommand())
	return cmd
}

// group returns a command that only has others below it: alone it prints its help.
func group(use, short, long string) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Long: long, Args: noArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
}

// noArgs refuses arguments as a usage error.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return &usageError{fmt.Errorf("unexpected argument %q", args[0])}
	}
	return nil
}
