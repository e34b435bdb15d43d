package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"linli/drivers/modbus/scan"
	firmwareconfig "linli/firmware-config"
	"linli/internal/site"
)

// scanOptions is the command line of linli scan.
type scanOptions struct {
	file, bus, dir, by      string
	full, universal         bool
	units, bauds, formats   string
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

  linli scan /dev/ttyUSB0                 the common settings, units 1 to 32, within a minute
  linli scan /dev/ttyUSB0 --full          every address at every usual setting; says first how long that takes
  linli scan -c site.yaml --bus rs485_1   through the running gateway, at the bus's own setting, using a fifth of its
                                          time; --suspend 60s stops its polling meanwhile and tries other settings

It only reads. Exit code 0: units were found and nothing is wrong; 1: nothing was found, something is wrong, or the
scan was interrupted.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runScan(cmd.Context(), o, args, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.file, "config", "c", "", "site file: scan one of its buses")
	f.StringVar(&o.bus, "bus", "", "id of the bus in the site file")
	f.BoolVar(&o.full, "full", false, "every address (1-247) at every usual baud rate and format")
	f.StringVar(&o.units, "units", "", "addresses, as 1-10,40 (default 1-32)")
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
	})
	show.done()
	switch {
	case o.asJSON:
		if err := printScanJSON(stdout, t, report); err != nil {
			return err
		}
	case o.asYAML:
		printScanYAML(stdout, t, report)
	default:
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

// printScan writes a report for people.
func printScan(out io.Writer, r *scan.Report) {
	fmt.Fprintln(out)
	if len(r.Units) == 0 {
		fmt.Fprintf(out, "No unit answers (%s).\n", seconds(r.Took))
	} else {
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "ADDRESS\tSETTING\tWHO\tSURE\tROUND TRIP\tREMARKS")
		for i := range r.Units {
			u := &r.Units[i]
			trip := "-"
			if u.RoundTrip > 0 {
				trip = fmt.Sprintf("%d ms", max(1, u.RoundTrip.Round(time.Millisecond).Milliseconds()))
			}
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", u.Address, scan.Setting(u.Line), whoIs(u), u.Sure, trip, dash(strings.Join(scanRemarks(u), "; ")))
		}
		_ = w.Flush()
		fmt.Fprintf(out, "%s found in %s.\n", count(len(r.Units), "address"), seconds(r.Took))
	}
	if len(r.Faults) > 0 {
		fmt.Fprintf(out, "\n%s:\n", count(len(r.Faults), "problem"))
	}
	for _, f := range r.Faults {
		fmt.Fprintf(out, "  - %s (%s).\n    %s.\n", sentence(f.Text), f.Sure, sentence(f.Do))
	}
}

// whoIs names a unit for people.
func whoIs(u *scan.Unit) string {
	switch {
	case u.Conflict:
		return "-"
	case len(u.Candidates) == 0 && u.Identity != nil:
		return "unknown: " + u.Identity.String()
	case len(u.Candidates) == 0:
		return "unknown"
	}
	c := &u.Candidates[0]
	return fmt.Sprintf("%s (%s)", c.Profile, c.Model)
}

// scanRemarks is what else is to be said of a unit.
func scanRemarks(u *scan.Unit) []string {
	var out []string
	if u.Known != "" {
		out = append(out, u.Known+" of the site file")
	}
	if u.Identity != nil && len(u.Candidates) > 0 {
		out = append(out, "says "+u.Identity.String())
	}
	if more := otherCandidates(u); more != "" {
		out = append(out, "also fits "+more)
	}
	return append(out, u.Remarks...)
}

// otherCandidates names the profiles that fit beside the best one.
func otherCandidates(u *scan.Unit) string {
	if len(u.Candidates) < 2 || u.Conflict {
		return ""
	}
	var ids []string
	for _, c := range u.Candidates[1:] {
		ids = append(ids, c.Profile)
	}
	const shown = 6
	if n := len(ids); n > shown {
		ids = append(ids[:shown:shown], fmt.Sprintf("%d more", n-shown))
	}
	return strings.Join(ids, ", ")
}

func sentence(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.0f s", max(1, d.Seconds())) }

// printScanJSON writes a report for programs.
func printScanJSON(out io.Writer, t *scanTarget, r *scan.Report) error {
	type candidate struct {
		Profile string   `json:"profile"`
		Model   string   `json:"model"`
		Sure    string   `json:"sure"`
		Why     string   `json:"why"`
		Alike   []string `json:"alike,omitempty"`
	}
	type identity struct {
		Vendor   string `json:"vendor,omitempty"`
		Product  string `json:"product,omitempty"`
		Revision string `json:"revision,omitempty"`
		Model    string `json:"model,omitempty"`
	}
	type unit struct {
		Address     int         `json:"address"`
		Baud        int         `json:"baud,omitempty"`
		Format      string      `json:"format,omitempty"`
		Sure        string      `json:"sure"`
		Candidates  []candidate `json:"candidates"`
		Identity    *identity   `json:"identity,omitempty"`
		RoundTripMS float64     `json:"round_trip_ms,omitempty"`
		Conflict    bool        `json:"conflict,omitempty"`
		Known       string      `json:"known,omitempty"`
		Profile     string      `json:"known_profile,omitempty"`
		Remarks     []string    `json:"remarks,omitempty"`
	}
	type fault struct {
		Kind      string `json:"kind"`
		Sure      string `json:"sure"`
		Addresses []int  `json:"addresses,omitempty"`
		Baud      int    `json:"baud,omitempty"`
		Format    string `json:"format,omitempty"`
		Text      string `json:"text"`
		Do        string `json:"do"`
	}
	type setting struct {
		Baud   int    `json:"baud"`
		Format string `json:"format"`
	}
	result := struct {
		Bus      string    `json:"bus"`
		Complete bool      `json:"complete"`
		Running  bool      `json:"through_gateway"`
		TookMS   int64     `json:"took_ms"`
		Settings []setting `json:"settings"`
		Units    []unit    `json:"units"`
		Faults   []fault   `json:"faults"`
	}{t.bus.ID, r.Complete, t.running, r.Took.Milliseconds(), []setting{}, []unit{}, []fault{}}
	for _, l := range r.Asked {
		if l.Baud != 0 {
			result.Settings = append(result.Settings, setting{l.Baud, l.Format})
		}
	}
	for i := range r.Units {
		u := &r.Units[i]
		e := unit{Address: u.Address, Baud: u.Line.Baud, Format: u.Line.Format, Sure: string(u.Sure), Candidates: []candidate{}, Conflict: u.Conflict,
			RoundTripMS: float64(u.RoundTrip.Round(100*time.Microsecond).Microseconds()) / 1000, Known: u.Known, Profile: u.Profile, Remarks: u.Remarks}
		for _, c := range u.Candidates {
			e.Candidates = append(e.Candidates, candidate{c.Profile, c.Model, string(c.Sure), c.Why, c.Alike})
		}
		if id := u.Identity; id != nil {
			e.Identity = &identity{id.Vendor, id.Product, id.Revision, id.Model}
		}
		result.Units = append(result.Units, e)
	}
	for _, f := range r.Faults {
		result.Faults = append(result.Faults, fault{f.Kind, string(f.Sure), f.Addresses, f.Line.Baud, f.Line.Format, f.Text, f.Do})
	}
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(result)
}

// printScanYAML writes the part of a site file that the report stands for. What is not sure is a comment.
func printScanYAML(out io.Writer, t *scanTarget, r *scan.Report) {
	line := mostFrequent(r.Units, t.bus.Line)
	fmt.Fprintln(out, "# Found by linli scan. Put this into the site file, name the devices, and run linli check -c FILE.")
	for _, f := range r.Faults {
		fmt.Fprintf(out, "# PROBLEM: %s (%s). %s.\n", oneLine(f.Text), f.Sure, oneLine(sentence(f.Do)))
	}
	fmt.Fprintln(out, "buses:")
	fmt.Fprintf(out, "  - id: %s\n", t.bus.ID)
	switch t.kind {
	case scan.Serial:
		fmt.Fprintf(out, "    modbus_rtu: {device: %q, baud: %d, format: %s}\n", t.bus.Device, line.Baud, line.Format)
	case scan.TCP:
		fmt.Fprintf(out, "    modbus_tcp: {address: %q}\n", t.bus.Address)
	default:
		fmt.Fprintf(out, "    modbus_rtu_over_tcp: {address: %q}\n", t.bus.Address)
	}
	var named []*scan.Unit
	fmt.Fprintln(out, "    units:")
	sure := 0
	for i := range r.Units {
		if u := &r.Units[i]; usable(u, line) {
			sure++
		}
	}
	if sure == 0 {
		fmt.Fprintln(out, "      []  # nothing that can be said for sure")
	}
	for i := range r.Units {
		u := &r.Units[i]
		id, profile, remark := u.Known, "PROFILE", ""
		if id == "" {
			id = fmt.Sprintf("unit_%d", u.Address)
		}
		comment := "# "
		switch {
		case u.Conflict:
			remark = "two units at this address"
		case u.Line != line && u.Line.Baud != 0:
			remark = "answers at " + scan.Setting(u.Line) + ": set it to " + scan.Setting(line) + " first"
		case len(u.Candidates) == 0:
			remark = "unknown model: write a profile for it"
		}
		if len(u.Candidates) > 0 && !u.Conflict {
			c := &u.Candidates[0]
			profile = c.Profile
			remark = strings.TrimPrefix(remark+"; "+string(c.Sure)+": "+c.Model+", "+c.Why, "; ")
			if more := otherCandidates(u); more != "" {
				remark += "; also fits " + more
			}
		}
		if u.Identity != nil {
			remark += "; says " + u.Identity.String()
		}
		if usable(u, line) {
			comment = ""
			named = append(named, u)
		}
		fmt.Fprintf(out, "      %s- {id: %s, address: %d, profile: %s}  # %s\n", comment, id, u.Address, profile, oneLine(remark))
	}
	if len(named) == 0 {
		return
	}
	fmt.Fprintln(out, "# devices:")
	for _, u := range named {
		id := u.Known
		if id == "" {
			id = fmt.Sprintf("unit_%d", u.Address)
		}
		p := t.library.Profiles[u.Candidates[0].Profile]
		if p != nil && p.Device != nil {
			fmt.Fprintf(out, "#   - {id: %s_%d, zone: ZONE, unit: %s}\n", shorten(p.Device.Class, 26), u.Address, id)
		} else {
			fmt.Fprintf(out, "#   - {id: DEVICE, class: CLASS, zone: ZONE, points: {POINT: %s.CHANNEL}}\n", id)
		}
	}
}

// usable reports whether a unit may stand in the site file as it was found: one model fits better than all others, at
// the line's setting.
func usable(u *scan.Unit, line firmwareconfig.Line) bool {
	return !u.Conflict && len(u.Candidates) > 0 && (u.Line == line || u.Line.Baud == 0) &&
		(u.Sure == scan.Certain || u.Sure == scan.Likely || len(u.Candidates) == 1)
}

// mostFrequent is the setting of most units, own where there are none.
func mostFrequent(units []scan.Unit, own firmwareconfig.Line) firmwareconfig.Line {
	n := map[firmwareconfig.Line]int{}
	best := own
	for i := range units {
		l := units[i].Line
		if n[l]++; n[l] > n[best] {
			best = l
		}
	}
	return best
}

// oneLine makes text fit for a comment.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

func shorten(s string, n int) string { return s[:min(len(s), n)] }

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
