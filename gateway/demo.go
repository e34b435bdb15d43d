package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap/zapcore"

	"linli/internal/console"
	"linli/internal/live"
	"linli/internal/simulate"
	"linli/internal/site"
	"linli/internal/telemetry"
)

func demoCommand() *cobra.Command {
	var d demo
	var names []string
	for _, s := range simulate.Stories() {
		names = append(names, s.Name)
	}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run the gateway with a simulated community, to look at and to play with",
		Long: "Run the real gateway against a simulated community: three buildings, a fire lane, four bin stations,\n" +
			"over Modbus TCP on loopback and Modbus RTU on a pseudo-terminal, with an MQTT broker of its own.\n" +
			"Nothing leaves this machine, and nothing is kept unless --state says where. Ctrl-C ends it.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if d.scenario != "" {
				known := false
				for _, name := range names {
					known = known || name == d.scenario
				}
				if !known {
					return &usageError{fmt.Errorf("there is no scenario %q; there are %s", d.scenario, strings.Join(names, ", "))}
				}
			}
			return d.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&d.scenario, "scenario", "", "play a story once everything runs: "+strings.Join(names, ", "))
	cmd.Flags().StringVar(&d.listen, "listen", "", "address of the console (default 127.0.0.1:8080, or any free port)")
	cmd.Flags().StringVar(&d.broker, "broker", "", "address of the demo's MQTT broker (default 127.0.0.1:1883, or any free port)")
	cmd.Flags().StringVar(&d.state, "state", "", "keep the state in this directory (default: a temporary one, removed at the end)")
	return cmd
}

// demo is the gateway and the community it lives in, in one process.
type demo struct {
	scenario, listen, broker, state string
}

func (d *demo) run(ctx context.Context, out io.Writer) (err error) {
	state := d.state
	if state == "" {
		if state, err = os.MkdirTemp("", "linli-demo-"); err != nil {
			return fmt.Errorf("make a temporary directory for the demo's state (--state names another place): %w", err)
		}
		defer os.RemoveAll(state)
	} else if err := os.MkdirAll(state, 0o750); err != nil {
		return err
	}
	logFile, err := os.OpenFile(filepath.Join(state, "linli.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	defer logFile.Close()
	log, flush := newLogger(logFile, zapcore.InfoLevel)
	defer flush()

	p, err := resolvePlan("demo.yaml", simulate.SiteFile(), nil)
	if err != nil {
		return fmt.Errorf("the demo's own site file is wrong: %w", err)
	}

	parts := newLifecycle()
	defer func() { err = errors.Join(err, parts.stop()) }()

	// The broker: where the city would be.
	brokerListener, err := listenPreferred(out, "The MQTT port", d.broker, "127.0.0.1:1883")
	if err != nil {
		return err
	}
	broker, err := newDemoBroker(brokerListener)
	if err != nil {
		return err
	}
	parts.start("broker", 3*time.Second, broker.run)
	p.site.Uplink = &site.Uplink{Brokers: []string{"tcp://" + brokerListener.Addr().String()}, Batch: time.Second}
	if p.site.Uplink.Commands, err = demoCommands(filepath.Join(state, demoKey)); err != nil {
		return err
	}

	// The community.
	community := simulate.New(p.site.Inventory)
	for i := range p.site.Buses {
		if err := serveBus(parts, community, &p.site.Buses[i]); err != nil {
			return err
		}
	}
	day := simulate.NewDay(community, uint64(time.Now().UnixNano()))
	teller, err := simulate.NewTeller(day, simulate.Stories())
	if err != nil {
		return err
	}
	day.Step(time.Now())
	parts.start("day", time.Second, day.Run)
	playing, endStories := context.WithCancel(ctx)
	stories := &demoStories{ctx: playing, teller: teller}
	defer stories.playing.Wait()
	defer endStories()

	// The console's port: the usual one, or any.
	web, err := listenPreferred(out, "The console's port", d.listen, "127.0.0.1:8080")
	if err != nil {
		return err
	}
	p.site.Console.Listen = web.Addr().String()

	return runGateway(ctx, gatewayConfig{
		plan: p, state: state, log: log, scenarios: stories, listener: web,
		ready: func(url string, table *live.Table) {
			d.greet(out, p, url, brokerListener.Addr().String(), state)
			stories.playing.Go(func() { d.watch(playing, out, p, table, stories) })
		},
	})
}

// serveBus puts the simulated units of b where b then says they are.
func serveBus(parts *lifecycle, community *simulate.Community, b *site.Bus) error {
	community.AddBus(b.ID, b.Units)
	if b.Transport == site.ModbusRTU {
		pty, err := simulate.OpenPty()
		if err != nil {
			return err
		}
		b.Device = pty.Path
		parts.start("simulated "+b.ID, time.Second, func(ctx context.Context) error { return community.ServeRTU(ctx, b.ID, pty) })
		return nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	b.Address = l.Addr().String()
	parts.start("simulated "+b.ID, time.Second, func(ctx context.Context) error { return community.ServeTCP(ctx, b.ID, l) })
	return nil
}

// listenPreferred listens on asked, which must work, or on usual, or on any free port where that is taken; then it says
// so.
func listenPreferred(out io.Writer, what, asked, usual string) (net.Listener, error) {
	if asked != "" {
		return net.Listen("tcp", asked)
	}
	if l, err := net.Listen("tcp", usual); err == nil {
		return l, nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err == nil {
		fmt.Fprintf(out, "%s %s is taken; using %s instead.\n", what, usual, l.Addr())
	}
	return l, err
}

// demoKey is the file of the key that commands the demo, beside its other state. It is made anew at each start.
const demoKey = "command.pem"

// demoCommands allows everything to whoever can read the key in file.
func demoCommands(file string) (*site.Commands, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return nil, err
	}
	return &site.Commands{Keys: []site.CommandKey{{Name: "city", Key: public}}, Allow: site.CommandVerbs()}, nil
}

func (d *demo) greet(out io.Writer, p *plan, url, broker, state string) {
	inv := p.site.Inventory
	devices, _ := inv.Installed()
	fmt.Fprintf(out, `
  %s · %s
  %d devices on %d buses are being read.

  Console    %s
  MQTT       mosquitto_sub -h %s -p %s -v -t 'linli/v1/#'
  Command    linli command send status --broker tcp://%s --node %s --key %s
  Log        %s

  Start a story on the page (演示 / Demo), or with --scenario. Ctrl-C ends everything.

`, inv.Title.Zh, inv.Title.En, devices, len(p.site.Buses), url,
		broker[:strings.LastIndex(broker, ":")], broker[strings.LastIndex(broker, ":")+1:],
		broker, inv.Node(), filepath.Join(state, demoKey), filepath.Join(state, "linli.log"))
}

// watch says when every point has been read once, then plays the story asked for.
func (d *demo) watch(ctx context.Context, out io.Writer, p *plan, table *live.Table, stories *demoStories) {
	started := time.Now()
	var entries []live.Entry
	for _, total := p.site.Inventory.Installed(); ; {
		entries, _ = table.Snapshot(entries[:0])
		known := 0
		for i := range entries {
			if entries[i].Known && p.site.Inventory.IsInstalled(telemetry.PointID(i)) {
				known++
			}
		}
		if known == total {
			fmt.Fprintf(out, "  All %d points have been read (%.1f s).\n", total, time.Since(started).Seconds())
			break
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
	if d.scenario == "" {
		return
	}
	for _, s := range stories.teller.Stories() {
		if s.Name == d.scenario {
			fmt.Fprintf(out, "  %s · %s\n  %s\n  %s\n", s.Title.Zh, s.Title.En, s.What.Zh, s.What.En)
		}
	}
	if err := stories.teller.Play(ctx, d.scenario); err == nil {
		fmt.Fprintf(out, "  The story %s has ended.\n", d.scenario)
	}
}

// demoStories lets the console start stories.
type demoStories struct {
	ctx     context.Context // of the demo: a story ends with it
	teller  *simulate.Teller
	playing sync.WaitGroup
}

// List returns the stories for the page.
func (s *demoStories) List() []console.Scenario {
	var list []console.Scenario
	for _, story := range s.teller.Stories() {
		list = append(list, console.Scenario{Name: story.Name, Title: story.Title, What: story.What, Running: s.teller.Playing(story.Name)})
	}
	return list
}

// Start begins a story.
func (s *demoStories) Start(name string) error {
	known := make([]string, 0, 8)
	for _, story := range s.teller.Stories() {
		known = append(known, story.Name)
		if story.Name != name {
			continue
		}
		if s.teller.Playing(name) {
			return simulate.ErrPlaying
		}
		s.playing.Go(func() { _ = s.teller.Play(s.ctx, name) }) // It ends early only with the demo itself.
		return nil
	}
	sort.Strings(known)
	return fmt.Errorf("there is no story %q; there are %s", name, strings.Join(known, ", "))
}
