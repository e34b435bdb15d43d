package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
	"linli/internal/site"
	"linli/internal/yamlfile"
)

// configOptions is the command line of linli config.
type configOptions struct {
	file, by, from             string
	asJSON, yes, save, verbose bool
	unverified                 bool
	wait                       time.Duration
	units                      []string
}

func configCommand() *cobra.Command {
	cmd := group("config", "Compare the settings of the units with the site file, and write them",
		`Compare the settings that the site file wants its units to have (config: of a unit) with those that the units
really have, and write what differs. What a model can be set to is told by linli profiles show.

  linli config plan -c site.yaml             what differs
  linli config apply -c site.yaml            write it, unit by unit, each setting read back
  linli config apply -c site.yaml th1 --from 1@4800/8N1    bring a unit from its factory setting to where the site
                                             file looks for it
  linli config verify -c site.yaml           exit code 1 where something differs

It goes through the running gateway if there is one.`)
	add := func(use, short, long string, run func(ctx context.Context, o *configOptions, cmd *cobra.Command) error) *cobra.Command {
		var o configOptions
		sub := &cobra.Command{Use: use + " -c FILE [UNIT]...", Short: short, Long: long, RunE: func(cmd *cobra.Command, args []string) error {
			if o.file == "" {
				return &usageError{fmt.Errorf("config %s needs a site file: linli config %s -c FILE", use, use)}
			}
			o.units = args
			return run(cmd.Context(), &o, cmd)
		}}
		f := sub.Flags()
		f.StringVarP(&o.file, "config", "c", "", "site file")
		f.StringVar(&o.from, "from", "", "where the one unit named answers now: ADDRESS, or ADDRESS@BAUD/FORMAT, as 1@4800/8N1")
		f.StringVar(&o.by, "by", "", "who does it, for the gateway's record (default: the user)")
		f.BoolVar(&o.asJSON, "json", false, "print for programs")
		if use == "apply" {
			f.BoolVar(&o.yes, "yes", false, "change addresses, baud rates and parities without asking")
			f.BoolVar(&o.save, "save", false, "have the unit save its settings although none differs, where its model has to be told")
			f.BoolVar(&o.unverified, "unverified", false, "write also settings of which nobody has confirmed the register; compare them with the manual and the unit first")
			f.DurationVar(&o.wait, "wait", 5*time.Minute, "how long to wait for a unit that has to be switched off and on; 0s does not wait")
			f.BoolVar(&o.verbose, "progress", false, "tell progress also where standard error is no terminal")
		}
		return sub
	}
	cmd.AddCommand(
		add("plan", "Show which settings differ from the site file", "Show which settings of the units differ from the site file. Nothing is written. Exit code 1: a unit could not be read.",
			func(ctx context.Context, o *configOptions, cmd *cobra.Command) error {
				return runConfigPlan(ctx, o, false, cmd.OutOrStdout())
			}),
		add("apply", "Write the settings that differ", `Write the settings that differ, one unit at a time: plain ones first, then those that change how the unit is reached,
the address last. Each is read back. A unit is told from models that look alike before anything is written to it;
where its address, rate or parity changes it asks first, and follows the unit there. A unit whose registers do not say
where and how it answers, or hold what cannot be, is not written to. Settings whose register is unverified are written
only with --unverified.

It stops at the first surprise. Nothing is remembered: apply again, and it goes on from what the units have.`,
			func(ctx context.Context, o *configOptions, cmd *cobra.Command) error {
				ask := &asking{in: cmd.InOrStdin(), out: cmd.ErrOrStderr()}
				ask.terminal = isTerminal(ask.in) && isTerminal(ask.out)
				return runConfigApply(ctx, o, ask, cmd.OutOrStdout(), cmd.ErrOrStderr())
			}),
		add("verify", "Say whether the units have the settings of the site file", `Say whether the units have the settings of the site file, and whether they are the models that it says, with the
address, baud rate and parity at which they are looked for, as far as their registers tell. Without UNIT all of which
anything can be told are asked. Exit code 1: something differs, or could not be read.`,
			func(ctx context.Context, o *configOptions, cmd *cobra.Command) error {
				return runConfigPlan(ctx, o, true, cmd.OutOrStdout())
			}),
	)
	return cmd
}

// configUnit is one unit that is looked at.
type configUnit struct {
	bus  *site.Bus
	unit *firmwareconfig.Unit
	want map[string]string
	at   firmwareconfig.Place
	plan *firmwareconfig.UnitPlan
	err  error // why there is no plan
}

// home is what the bus's line is set to, zero where that is the converter's affair.
func (u *configUnit) home() firmwareconfig.Line {
	if u.bus.Transport == site.ModbusRTU {
		return u.bus.Line
	}
	return firmwareconfig.Line{}
}

// choose returns the units that are meant: those named, or all of which the site file wants something. To verify, that
// something may be no more than that they answer where they should as what they should be.
func (o *configOptions) choose(s *site.Site, verify bool) ([]*configUnit, error) {
	var all, chosen []*configUnit
	var names []string
	for i := range s.Buses {
		b := &s.Buses[i]
		if !isModbus(b) {
			continue
		}
		for j := range b.Units {
			u := &configUnit{bus: b, unit: &b.Units[j]}
			u.at = firmwareconfig.Place{Address: u.unit.Address, Line: u.home()}
			for _, set := range s.Settings {
				if set.Bus == i && set.Unit == j {
					u.want = set.Want
				}
			}
			all, names = append(all, u), append(names, u.unit.ID)
			if len(o.units) == 0 && (len(u.want) > 0 || verify && u.comparable()) {
				chosen = append(chosen, u)
			}
		}
	}
	for _, name := range o.units {
		i := slices.Index(names, name)
		if i < 0 {
			return nil, fmt.Errorf("%s has no unit %q%s", s.File, name, yamlfile.Suggest(name, names))
		}
		switch {
		case len(all[i].want) > 0 || o.from != "" || verify && all[i].comparable():
		case verify:
			return nil, fmt.Errorf("nothing of %s can be verified: the site file wants no settings of it, and profile %s has no signature and no register for its address", name, all[i].unit.Profile.ID)
		default:
			return nil, fmt.Errorf("the site file wants no settings of %s: write config: {...} to the unit. What it can be set to: linli profiles show %s", name, all[i].unit.Profile.ID)
		}
		if !slices.Contains(chosen, all[i]) {
			chosen = append(chosen, all[i])
		}
	}
	if o.from != "" {
		if len(o.units) != 1 {
			return nil, &usageError{errors.New("--from says where one unit is now: name that unit")}
		}
		place, err := parsePlace(o.from)
		if err != nil {
			return nil, &usageError{fmt.Errorf("--from: %w", err)}
		}
		u := chosen[0]
		switch {
		case place.Line.Baud == 0:
			place.Line = u.home()
		case u.home().Baud == 0:
			return nil, fmt.Errorf("--from %s: the line of bus %s is the converter's: only an ADDRESS can be given", o.from, u.bus.ID)
		}
		for _, other := range all {
			if other != u && other.bus == u.bus && other.unit.Address == place.Address && place.Line == u.home() {
				return nil, fmt.Errorf("--from %s: the site file has %s there, which would be taken for %s and moved. Connect %s alone, with a site file that has no other unit at that address",
					o.from, other.unit.ID, u.unit.ID, u.unit.ID)
			}
		}
		u.at = place
	}
	return chosen, nil
}

// comparable reports whether it can be asked whether the unit is what it should be, where it should be.
func (u *configUnit) comparable() bool {
	p := u.unit.Profile
	return len(p.Signature) > 0 || p.DeviceID != nil || slices.ContainsFunc(p.Params, func(m firmwareconfig.Param) bool {
		return m.Role != firmwareconfig.ParamPlain && !m.WriteOnly && (m.Role == firmwareconfig.ParamAddress || u.home().Baud != 0)
	})
}

// parsePlace reads where a unit is: 1, 1@4800 or 1@4800/8E1.
func parsePlace(s string) (firmwareconfig.Place, error) {
	var p firmwareconfig.Place
	address, line, ranged := strings.Cut(s, "@")
	n, err := strconv.Atoi(address)
	if err != nil || n < 1 || n > 255 {
		return p, fmt.Errorf("%q begins with no unit address (1 to 247)", s)
	}
	p.Address = n
	if !ranged {
		return p, nil
	}
	baud, format, formatted := strings.Cut(line, "/")
	if p.Line.Baud, err = strconv.Atoi(baud); err != nil || p.Line.Baud < 300 || p.Line.Baud > 4_000_000 {
		return p, fmt.Errorf("%q is no baud rate", baud)
	}
	if p.Line.Format = "8N1"; formatted {
		p.Line.Format = strings.ToUpper(format)
	}
	if !slices.Contains([]string{"8N1", "8E1", "8O1", "8N2", "8E2", "8O2"}, p.Line.Format) {
		return p, fmt.Errorf("%q is none of 8N1, 8E1, 8O1, 8N2, 8E2, 8O2", format)
	}
	return p, nil
}

// busAsker asks the units of one bus.
type busAsker struct {
	conn    busConn
	timeout time.Duration
	lost    error // the bus itself is gone
}

// Ask sends one request. Once the bus is lost nothing more is sent.
func (a *busAsker) Ask(ctx context.Context, unit byte, pdu []byte) ([]byte, error) {
	if a.lost != nil {
		return nil, a.lost
	}
	reply, err := a.conn.Ask(ctx, unit, pdu, a.timeout)
	if l := (*lostError)(nil); errors.As(err, &l) {
		a.lost = err
	}
	return reply.PDU, err
}

// configurer returns what plans and writes the settings of one unit.
func (u *configUnit) configurer(conn busConn, profiles map[string]*firmwareconfig.Profile) *firmwareconfig.Configurer {
	c := &firmwareconfig.Configurer{
		Asker:    &busAsker{conn: conn, timeout: max(u.bus.Timeout, u.unit.Profile.Timing.Timeout)},
		Profiles: profiles,
	}
	if u.bus.Transport == site.ModbusRTU {
		c.SetLine = conn.Set
	}
	return c
}

// eachBus calls do for the units of each bus in turn, connected to it.
func (o *configOptions) eachBus(ctx context.Context, s *site.Site, units []*configUnit, share float64, do func(conn busConn, units []*configUnit) error) error {
	by, err := whoAsks(o.by)
	if err != nil {
		return err
	}
	for i := range s.Buses {
		var mine []*configUnit
		for _, u := range units {
			if u.bus == &s.Buses[i] {
				mine = append(mine, u)
			}
		}
		if len(mine) == 0 {
			continue
		}
		conn, err := reachBus(ctx, s, &s.Buses[i], reachOptions{by: by, share: share, suspend: drivers.MaxSuspend})
		if err != nil {
			for _, u := range mine {
				u.err = err
			}
			continue
		}
		err = do(conn, mine)
		if cerr := conn.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return fmt.Errorf("bus %s: %w", s.Buses[i].ID, err)
		}
	}
	return nil
}

// readAll plans every unit.
func (o *configOptions) readAll(ctx context.Context, p *plan, units []*configUnit) error {
	return o.eachBus(ctx, p.site, units, 0.2, func(conn busConn, units []*configUnit) error {
		for _, u := range units {
			u.plan, u.err = u.configurer(conn, p.library.Profiles).Plan(ctx, *u.unit, u.home(), u.at, u.want)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if u.at.Line != u.home() {
				if err := conn.Set(ctx, firmwareconfig.Line{}); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// runConfigPlan is plan and, with verify, verify.
func runConfigPlan(ctx context.Context, o *configOptions, verify bool, stdout io.Writer) error {
	p, err := loadPlan(o.file)
	if err != nil {
		return err
	}
	units, err := o.choose(p.site, verify)
	if err != nil {
		return err
	}
	if err := o.readAll(ctx, p, units); err != nil {
		return err
	}
	sum := summarise(units)
	if o.asJSON {
		if err := printConfigJSON(stdout, units, sum); err != nil {
			return err
		}
	} else {
		o.print(stdout, units, sum, verify)
	}
	if sum.failed > 0 || verify && sum.differ+sum.waiting > 0 {
		return errAnswered
	}
	return nil
}

// configSum counts what was found.
type configSum struct{ units, settings, differ, waiting, failed int }

func summarise(units []*configUnit) configSum {
	var sum configSum
	for _, u := range units {
		sum.units++
		if u.plan == nil {
			sum.failed++
			continue
		}
		sum.settings += len(u.plan.Settings)
		sum.differ += len(u.plan.Changes())
		for _, s := range u.plan.Settings {
			if s.Pending {
				sum.waiting++
			}
		}
	}
	return sum
}

func (o *configOptions) print(out io.Writer, units []*configUnit, sum configSum, verify bool) {
	if len(units) == 0 {
		fmt.Fprintf(out, "%s wants no settings of its units. config: {...} at a unit says what it should be set to; linli profiles show MODEL tells what it can be.\n", o.file)
		return
	}
	printSettings(out, units)
	for _, u := range units {
		if u.plan == nil {
			text := strings.TrimPrefix(strings.TrimPrefix(u.err.Error(), "unit "+u.unit.ID), ":")
			fmt.Fprintf(out, "%s: %s%s\n", u.unit.ID, strings.TrimSpace(text), u.hint(o.file))
		}
	}
	for _, u := range units {
		if u.plan != nil && len(u.plan.Settings) == 0 {
			fmt.Fprintf(out, "%s: answers at %s as profile %s says; the site file wants no settings of it\n", u.unit.ID, u.at, u.unit.Profile.ID)
		}
	}
	rest := ""
	if sum.failed > 0 {
		rest = fmt.Sprintf("; %s could not be read", count(sum.failed, "unit"))
	}
	switch {
	case sum.differ == 0 && sum.waiting == 0:
		fmt.Fprintf(out, "%s of %s as the site file wants%s.\n", count(sum.settings, "setting"), count(sum.units-sum.failed, "unit"), rest)
	case sum.differ == 0:
		fmt.Fprintf(out, "%s of %s: everything is written; what waits takes effect when the unit is switched off and on%s.\n",
			count(sum.settings, "setting"), count(sum.units-sum.failed, "unit"), rest)
	default:
		fmt.Fprintf(out, "%s of %s, %d not as the site file wants%s.\n", count(sum.settings, "setting"), count(sum.units-sum.failed, "unit"), sum.differ, rest)
		if !verify {
			apply := "linli config apply -c " + o.file
			for _, name := range o.units {
				apply += " " + name
			}
			if o.from != "" {
				apply += " --from " + o.from
			}
			fmt.Fprintf(out, "Write them: %s\n", apply)
		}
	}
}

// hint says what to do about a unit that does not answer where the site file looks for it.
func (u *configUnit) hint(file string) string {
	p := u.unit.Profile
	id := (*firmwareconfig.IdentityError)(nil)
	lost := (*lostError)(nil)
	if errors.As(u.err, &id) || errors.As(u.err, &lost) || p.Address == 0 {
		return ""
	}
	factory := firmwareconfig.Place{Address: p.Address, Line: p.Line}
	if u.home().Baud == 0 {
		factory.Line = firmwareconfig.Line{}
	}
	if factory == u.at {
		return ""
	}
	from := strconv.Itoa(factory.Address)
	if factory.Line.Baud != 0 {
		from = fmt.Sprintf("%d@%d/%s", factory.Address, factory.Line.Baud, factory.Line.Format)
	}
	return fmt.Sprintf("\n  if it is as it left the factory, alone at %s: linli config apply -c %s %s --from %s", factory, file, u.unit.ID, from)
}

// printSettings writes the table of every setting that was looked at.
func printSettings(out io.Writer, units []*configUnit) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	rows := 0
	for _, u := range units {
		if u.plan == nil {
			continue
		}
		for i := range u.plan.Settings {
			s := &u.plan.Settings[i]
			if rows++; rows == 1 {
				fmt.Fprintln(w, "UNIT\tSETTING\tSITE FILE\tUNIT HAS\t")
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", u.unit.ID, s.Param.Name, withUnit(s.Want, s.Param), withUnit(s.Is, s.Param), settingNote(s))
		}
	}
	_ = w.Flush()
}

func withUnit(text string, m *firmwareconfig.Param) string {
	if m.Unit == "" {
		return text
	}
	return text + " " + m.Unit
}

func settingNote(s *firmwareconfig.Setting) string {
	switch {
	case s.Pending:
		return "waits to be switched off and on"
	case s.Differs() && s.Unverified:
		return "differs; the register is unverified, written only with --unverified"
	case !s.Differs():
		return "same"
	case s.Param.Role != firmwareconfig.ParamPlain:
		return "differs; changes how the unit is reached"
	}
	return "differs"
}

func printConfigJSON(out io.Writer, units []*configUnit, sum configSum) error {
	type setting struct {
		Name    string `json:"name"`
		Want    string `json:"want"`
		Got     string `json:"got"`
		Unit    string `json:"unit,omitempty"`
		Role    string `json:"role,omitempty"`
		Differs bool   `json:"differs"`
		Waiting bool   `json:"waiting,omitempty"`
		Status  string `json:"status"`
	}
	type unit struct {
		Unit     string    `json:"unit"`
		Bus      string    `json:"bus"`
		Profile  string    `json:"profile"`
		Address  int       `json:"address"`
		At       string    `json:"at"`
		Settings []setting `json:"settings"`
		Error    string    `json:"error,omitempty"`
	}
	list := []unit{}
	for _, u := range units {
		e := unit{Unit: u.unit.ID, Bus: u.bus.ID, Profile: u.unit.Profile.ID, Address: u.unit.Address, At: u.at.String(), Settings: []setting{}}
		if u.err != nil {
			e.Error = u.err.Error()
		}
		if u.plan != nil {
			for i := range u.plan.Settings {
				s := &u.plan.Settings[i]
				e.Settings = append(e.Settings, setting{s.Param.Name, s.Want, s.Is, s.Param.Unit, s.Param.Role.String(), s.Differs(), s.Pending, u.unit.Profile.StatusOf(&s.Param.Channel)})
			}
		}
		list = append(list, e)
	}
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(struct {
		Good  bool   `json:"good"`
		Units []unit `json:"units"`
	}{sum.failed+sum.differ+sum.waiting == 0, list})
}

// asking asks the person at the terminal.
type asking struct {
	in       io.Reader
	out      io.Writer
	terminal bool
}

// yes asks a question that is answered with yes or no.
func (a *asking) yes(ctx context.Context, question string) (bool, error) {
	fmt.Fprint(a.out, question+" [y/N] ")
	answer := make(chan string, 1)
	go func() { // Ends with the answer, or with the process: a read of a terminal cannot be taken back.
		line, _ := bufio.NewReader(a.in).ReadString('\n')
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case s := <-answer:
		return s == "y" || s == "yes" || s == "是", nil
	case <-ctx.Done():
		fmt.Fprintln(a.out)
		return false, ctx.Err()
	}
}
