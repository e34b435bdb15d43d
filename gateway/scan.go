package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"linli/drivers"
	"linli/drivers/modbus/scan"
	firmwareconfig "linli/firmware-config"
	"linli/internal/site"
)

// scanOptions is the command line of linli scan.
type scanOptions struct {
	file, bus, dir, by      string
	full, universal         bool
	units, bauds, formats   string
	who                     string
	suspend, timeout        time.Duration
	share                   float64
	asJSON, asYAML, verbose bool
}

func scanCommand() *cobra.Command {
	var o scanOptions
	cmd := &cobra.Command{
		Use:   "scan DEVICE | tcp://HOST:PORT | rtu+tcp://HOST:PORT | -c FILE --bus BUS",
		Short: "Find out what is on a Modbus line, and what is wrong with its wiring",
		Long: `Find out what is on a Modbus line: which units answer, at which settings, and who they are; and what is wrong:
two units at one address, units at another setting, units that send text by themselves, another master.

  linli scan /dev/ttyUSB0                 the common settings, units 1 to 32, within a minute; it says whom it could not ask who they are
  linli scan /dev/ttyUSB0 --who 17-32     who these are, however long it takes
  linli scan /dev/ttyUSB0 --full          every address at every usual setting; says first how long that takes
  linli scan -c site.yaml --bus rs485_1   through the running gateway, at the bus's own setting, using a fifth of its
                                          time; --suspend 60s stops its polling meanwhile and tries other settings

It only reads. Exit code 0: units were found and nothing is wrong; 1: nothing was found, something is wrong, or the
scan was interrupted.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(cmd.Flags().Changed); err != nil {
				return &usageError{err}
			}
			return runScan(cmd.Context(), o, args, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.file, "config", "c", "", "site file: scan one of its buses")
	f.StringVar(&o.bus, "bus", "", "id of the bus in the site file")
	f.BoolVar(&o.full, "full", false, "every address (1-247) at every usual baud rate and format")
	f.StringVar(&o.units, "units", "", "addresses, as 1-10,40 (default 1-32)")
	f.StringVar(&o.who, "who", "", "ask only these addresses who they are, as 17-32, without a limit of time")
	f.StringVar(&o.bauds, "baud", "", "baud rates, as 9600,4800")
	f.StringVar(&o.formats, "format", "", "formats, as 8N1,8E1")
	f.DurationVar(&o.timeout, "timeout", 0, "longest wait for an answer to begin (default: by the plan)")
	f.DurationVar(&o.suspend, "suspend", 0, "stop the running gateway's polling of the bus for so long, and try other settings")
	f.Float64Var(&o.share, "share", 0.2, "part of a running bus's time that the scan may take")
	f.BoolVar(&o.universal, "universal", false, "allow the addresses 248-255 and, over TCP, 0: with a single unit on the line")
	f.StringVar(&o.dir, "dir", "", "directory with profiles/ of the site, over the shipped ones (with -c: that of the site file)")
	f.StringVar(&o.by, "by", "", "who scans, for the gateway's record (default: the user)")
	f.BoolVar(&o.asJSON, "json", false, "print for programs")
	f.BoolVar(&o.asYAML, "yaml", false, "print what to put into the site file")
	f.BoolVar(&o.verbose, "progress", false, "tell progress also where standard error is no terminal")
	return cmd
}

// check refuses what makes no sense where it was said; changed reports whether a flag was.
func (o *scanOptions) check(changed func(flag string) bool) error {
	switch {
	case changed("suspend") && o.suspend <= 0:
		return fmt.Errorf("--suspend %s: say for how long the gateway may be kept from polling, as 60s", o.suspend)
	case o.suspend > drivers.MaxSuspend:
		return fmt.Errorf("--suspend %s: %s at most", o.suspend, drivers.MaxSuspend)
	case changed("timeout") && o.timeout <= 0:
		return fmt.Errorf("--timeout %s: say how long an answer may take to begin, as 150ms", o.timeout)
	case changed("share") && !(o.share > 0 && o.share <= 1):
		return fmt.Errorf("--share %g: it is the part of the line's time that the scan may take, above 0 and at most 1", o.share)
	case o.who != "" && (o.units != "" || o.full):
		return errors.New("--who names the addresses itself: leave out --units and --full")
	}
	return nil
}

// scanTarget is what is to be scanned.
type scanTarget struct {
	conn    busConn
	bus     site.Bus // as the site file has it, or would have it
	kind    string
	running bool
	library *firmwareconfig.Library
	known   []firmwareconfig.Unit
}

func runScan(ctx context.Context, o scanOptions, args []string, stdout, stderr io.Writer) error {
	if o.asJSON && o.asYAML {
		return &usageError{errors.New("either --json or --yaml")}
	}
	t, err := openScan(ctx, &o, args)
	if err != nil {
		return err
	}
	defer t.conn.Close()
	options, err := o.plan(t)
	if err != nil {
		return &usageError{err}
	}
	plan, err := scan.NewPlan(options)
	if err != nil {
		return &usageError{err}
	}
	head := stdout
	if o.asJSON || o.asYAML {
		head = stderr
	}
	plan.Print(head)
	show := newProgressLine(stderr, o.verbose)
	profiles := make([]*firmwareconfig.Profile, 0, len(t.library.Profiles))
	for _, id := range profileIDs(t.library) {
		profiles = append(profiles, t.library.Profiles[id])
	}
	report, err := scan.Run(ctx, scan.Config{
		Conn: t.conn, Plan: plan, Profiles: profiles, Known: t.known,
		Lost:     func(err error) bool { var l *lostError; return errors.As(err, &l) },
		Progress: show.scan,
		Searched: func(units int, takes, left time.Duration) {
			show.done()
			who := "it is"
			if units > 1 {
				who = "they are"
			}
			text := fmt.Sprintf("%s. Asking who %s takes about %s, longer for models that have no mark of their own", verbed(units, "unit", "answers", "answer"), who, seconds(takes))
			if left > 0 && takes > left {
				text += fmt.Sprintf("; there are %s left: who is not asked is named", seconds(left))
			}
			fmt.Fprintln(head, text+".")
		},
	})
	show.done()
	switch {
	case o.asJSON:
		if err := printScanJSON(stdout, t, report); err != nil {
			return err
		}
	case o.asYAML:
		printScanYAML(stdout, t, report)
	case err == nil || len(report.Asked)+len(report.Units) > 0: // Else nothing was asked: there is nothing to tell.
		printScan(stdout, report)
	}
	if ctx.Err() != nil {
		fmt.Fprintln(stderr, "Interrupted: this is what was found so far.")
		return errAnswered
	}
	if err != nil {
		return fmt.Errorf("the scan ended early: %w", err)
	}
	if len(report.Units) == 0 || len(report.Faults) > 0 {
		return errAnswered
	}
	return nil
}

// openScan connects to what the command line names.
func openScan(ctx context.Context, o *scanOptions, args []string) (*scanTarget, error) {
	if o.file != "" {
		if len(args) > 0 {
			return nil, &usageError{fmt.Errorf("either a site file with --bus, or %s", args[0])}
		}
		p, err := loadPlan(o.file)
		if err != nil {
			return nil, err
		}
		b, err := busOf(p.site, o.bus)
		if err != nil {
			return nil, err
		}
		opts := reachOptions{by: o.by, share: o.share, suspend: o.suspend}
		if o.suspend > 0 {
			opts.share = 0 // Nobody else uses the line meanwhile.
		}
		conn, err := reachBus(ctx, p.site, b, opts)
		if err != nil {
			return nil, err
		}
		t := &scanTarget{conn: conn, bus: *b, kind: kindOfLine(b.Transport), library: p.library, known: b.Units}
		_, t.running = conn.(*gatewayConn)
		return t, nil
	}
	if len(args) != 1 {
		return nil, &usageError{errors.New("say what to scan: linli scan /dev/ttyUSB0, linli scan tcp://10.0.0.2:502, or linli scan -c site.yaml --bus rs485_1")}
	}
	if o.bus != "" {
		return nil, &usageError{errors.New("--bus needs the site file: -c FILE")}
	}
	library, err := loadLibrary(o.dir)
	if err != nil {
		return nil, err
	}
	b, err := parseEndpoint(args[0])
	if err != nil {
		return nil, &usageError{err}
	}
	conn, err := openAlone(ctx, b)
	if err != nil {
		return nil, err
	}
	return &scanTarget{conn: conn, bus: *b, kind: kindOfLine(b.Transport), library: library}, nil
}

// parseEndpoint reads what people write for a line: /dev/ttyUSB0, tcp://host:port or rtu+tcp://host:port.
func parseEndpoint(s string) (*site.Bus, error) {
	b := &site.Bus{ID: "bus_1"}
	scheme, rest, ok := strings.Cut(s, "://")
	switch {
	case !ok && strings.HasPrefix(s, "/"):
		b.ID, b.Transport, b.Device, b.Line = "rs485_1", site.ModbusRTU, s, firmwareconfig.Line{Baud: 9600, Format: "8N1"}
		return b, nil
	case !ok:
		return nil, fmt.Errorf("%q is neither a device (/dev/ttyUSB0) nor tcp://HOST:PORT nor rtu+tcp://HOST:PORT", s)
	case scheme == "tcp":
		b.ID, b.Transport = "tcp_1", site.ModbusTCP
	case scheme == "rtu+tcp":
		b.ID, b.Transport = "dtu_1", site.ModbusRTUOverTCP
	default:
		return nil, fmt.Errorf("%s:// is not known: tcp:// is Modbus TCP, rtu+tcp:// a transparent serial server", scheme)
	}
	host, port, err := net.SplitHostPort(rest)
	if err != nil && b.Transport == site.ModbusTCP && rest != "" && !strings.Contains(rest, ":") {
		host, port, err = rest, "502", nil
	}
	if n, bad := strconv.Atoi(port); err != nil || host == "" || bad != nil || n < 1 || n > 65535 {
		return nil, fmt.Errorf("%q is no HOST:PORT, as 192.168.1.20:502", rest)
	}
	b.Address = net.JoinHostPort(host, port)
	return b, nil
}

// kindOfLine is a transport as the scan calls it.
func kindOfLine(transport string) string {
	switch transport {
	case site.ModbusTCP:
		return scan.TCP
	case site.ModbusRTUOverTCP:
		return scan.RTUOverTCP
	}
	return scan.Serial
}

// plan turns the command line into the scan's options.
func (o *scanOptions) plan(t *scanTarget) (scan.Options, error) {
	out := scan.Options{Kind: t.kind, Own: t.bus.Line, Full: o.full, Universal: o.universal, Running: t.running, Share: o.share, Timeout: o.timeout}
	if t.running {
		out.Suspend = o.suspend
	} else if o.suspend > 0 {
		return out, errors.New("--suspend is for a running gateway, and none answers for this line: leave it out")
	}
	if t.kind != scan.Serial {
		out.Own = firmwareconfig.Line{}
	}
	var err error
	if out.Units, err = parseNumbers(o.units); err != nil {
		return out, fmt.Errorf("--units: %w", err)
	}
	if o.who != "" {
		out.Who = true
		if out.Units, err = parseNumbers(o.who); err != nil {
			return out, fmt.Errorf("--who: %w", err)
		}
	}
	if out.Bauds, err = parseNumbers(o.bauds); err != nil {
		return out, fmt.Errorf("--baud: %w", err)
	}
	for f := range strings.SplitSeq(o.formats, ",") {
		if f = strings.ToUpper(strings.TrimSpace(f)); f != "" {
			out.Formats = append(out.Formats, f)
		}
	}
	return out, nil
}

// parseNumbers reads a list of numbers and ranges: 1-10,40.
func parseNumbers(s string) ([]int, error) {
	var out []int
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		from, to, ranged := strings.Cut(part, "-")
		a, err := strconv.Atoi(strings.TrimSpace(from))
		b := a
		if err == nil && ranged {
			b, err = strconv.Atoi(strings.TrimSpace(to))
		}
		if err != nil || a < 0 || b < a || b-a > 1000 {
			return nil, fmt.Errorf("%q is no number or range, as 9600 or 1-10", part)
		}
		for n := a; n <= b; n++ {
			out = append(out, n)
		}
	}
	return out, nil
}

// progressLine tells on standard error how far a long command is: on a terminal in one line that is written over,
// elsewhere, if asked for, a line every few seconds.
type progressLine struct {
	out      io.Writer
	terminal bool
	verbose  bool
	last     time.Time
	width    int
}

func newProgressLine(out io.Writer, verbose bool) *progressLine {
	return &progressLine{out: out, terminal: isTerminal(out), verbose: verbose}
}

// scan shows a scan's progress.
func (p *progressLine) scan(s scan.Progress) {
	text := s.Doing
	if s.Unit > 0 {
		text += fmt.Sprintf(" unit %d", s.Unit)
	}
	if s.Line.Baud != 0 {
		text += " at " + scan.Setting(s.Line)
	}
	text += fmt.Sprintf(", %d found", s.Found)
	if s.Doing == "searching" {
		text = fmt.Sprintf("%3.0f %% %s, at most %s left", 100*s.Done, text, s.Left.Round(time.Second))
	}
	p.show(text)
}

func (p *progressLine) show(text string) {
	every := 100 * time.Millisecond
	if !p.terminal {
		if every = 2 * time.Second; !p.verbose {
			return
		}
	}
	now := time.Now()
	if now.Sub(p.last) < every {
		return
	}
	p.last = now
	if !p.terminal {
		fmt.Fprintln(p.out, text)
		return
	}
	fmt.Fprintf(p.out, "\r%-*s", p.width, text)
	p.width = len(text)
}

// done takes the line away.
func (p *progressLine) done() {
	if p.terminal && p.width > 0 {
		fmt.Fprintf(p.out, "\r%*s\r", p.width, "")
		p.width = 0
	}
}

// isTerminal reports whether people see at once what is written to w.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
