package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
	"linli/internal/alert"
	"linli/internal/audit"
	"linli/internal/console"
	"linli/internal/live"
	"linli/internal/site"
	"linli/internal/telemetry"
	"linli/internal/uplink"
)

// defaultState is where a gateway keeps what must survive, unless the command line or the site file says otherwise.
const defaultState = "/var/lib/linli"

// defaultConsole is where the console listens unless the site file says otherwise.
const defaultConsole = "127.0.0.1:8080"

func runCommand() *cobra.Command {
	var file, state string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "run -c FILE",
		Short: "Run the gateway from a site file",
		Long:  "Run the gateway from a site file until SIGINT or SIGTERM. Logs are JSON lines on standard error.\nA site file with mistakes is not started: every mistake is printed and shown on the console's page on this\nmachine, and the gateway starts once the file is repaired. To know beforehand, ask linli check.",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return &usageError{errors.New("run needs a site file: linli run -c FILE")}
			}
			level := zapcore.InfoLevel
			if verbose {
				level = zapcore.DebugLevel
			}
			log, flush := newLogger(cmd.ErrOrStderr(), level)
			defer flush()
			debug.SetGCPercent(startGrowth)
			p, err := loadPlan(file)
			if err != nil && siteFileExists(file) {
				p, err = waitForRepair(cmd.Context(), file, repairListen(file), cmd.ErrOrStderr(), log)
			}
			if p == nil || err != nil {
				return err
			}
			for _, w := range p.site.Warnings {
				log.Warn("site file", zap.String("at", w.Pos.String()), zap.String("warning", w.Msg))
			}
			for _, u := range p.unmet {
				log.Error("site file asks more than a bus can do; it is read as often as it can be", zap.String("at", u.Pos.String()), zap.String("why", u.Msg))
			}
			dir, err := filepath.Abs(stateDir(state, p.site))
			if err != nil {
				return err
			}
			return runGateway(cmd.Context(), gatewayConfig{plan: p, state: dir, log: log})
		},
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "site file")
	cmd.Flags().StringVar(&state, "state", "", "state directory (default: the site file's, or "+defaultState+")")
	cmd.Flags().BoolVar(&verbose, "debug", false, "log more")
	return cmd
}

func stateDir(flag string, s *site.Site) string {
	switch {
	case flag != "":
		return flag
	case s.State != "":
		return s.State
	}
	return defaultState
}

// gatewayConfig is what one gateway in this process is made of.
type gatewayConfig struct {
	plan      *plan
	state     string
	log       *zap.Logger
	scenarios console.Scenarios                         // of the demo, else nil
	listener  net.Listener                              // of the console; nil means that it is opened here
	ready     func(consoleURL string, live *live.Table) // called once everything has been started, may be nil
}

// runGateway runs one gateway until ctx ends or a part of it that cannot be done without fails.
//
//	outputs                        8. on_start, then on_stop before anything else stops
//	  | orders: the one path of writes (also from the console), each into the audit record <--+
//	  v                                                                                       |
//	buses                          6. one supervisor a bus     7. health, settings, own state, as points
//	  | batches of samples                                              |                     |
//	  v                                                                 v                     |
//	fan-in                         5. one goroutine: what is reported to live, rules, outputs, alerts, journal, in this order
//	  |         |         |                                        |                          |
//	  v         v         v                                        +--> outputs of rules -----+
//	live     alert book  journal   1. (no goroutine)  2. commits, then announces  3. group commits
//	  |         |    \      |
//	  v         v     v     v
//	console 4b.      uplink 4a.    to people; to the city's broker, alerts first
//
// Parts are started sinks first, in the order of the numbers, and stopped in the opposite order, each within its own
// time. What the fan-in took in last is committed before the uplink stops.
func runGateway(ctx context.Context, cfg gatewayConfig) (err error) {
	debug.FreeOSMemory() // What reading all the files took is given back at once.
	s, inv, log := cfg.plan.site, cfg.plan.site.Inventory, cfg.log
	clock := newClock()
	nameWorks(s)
	devices, installed := inv.Installed()
	log.Info("starting", zap.String("version", productVersion()), zap.String("node", inv.Node()),
		zap.Int("devices", devices), zap.Int("points", installed), zap.String("state", cfg.state))
	st, err := openStores(cfg.state, s, clock, log)
	if err != nil {
		return err
	}
	defer st.unlock()
	book, j := st.book, st.journal
	if err := keepLastGood(st.dir, cfg.plan); err != nil {
		log.Warn("after a crash outputs can be made safe only while the site file is without mistakes", zap.Error(err))
	}

	cfg.plan.started()

	parts := newLifecycle()
	defer func() {
		began := time.Now()
		err = errors.Join(err, parts.stop())
		log.Info("stopped", zap.Duration("after", time.Since(began)), zap.Error(err))
	}()

	// 1. What is known now.
	table := live.New(len(inv.Points), eventPoints(inv)...)

	// 2. Alerts: what was active goes back to the engine before the first sample.
	parts.onStop("alert book", 3*time.Second, book.Close)
	gone := beginRules(st, cfg.plan, clock, log.Named("rules"))
	cfg.plan.engine.Meter(nanotime(time.Now()))
	parts.start("alert book", 5*time.Second, book.Run)
	book.Remove(clock.Now(), gone)

	// 3. The journal.
	parts.onStop("journal", 3*time.Second, j.Close)
	parts.start("journal", 5*time.Second, j.Run)
	parts.start("rollups", 3*time.Second, j.RunRollups)
	if st.trouble == nil {
		parts.start("reserved space", 2*time.Second, newReserve(st.dir, book, log).run)
	}

	record := audit.New(audit.Config{Path: filepath.Join(st.dir, "audit.log"), Log: log.Named("audit")})
	parts.start("audit record", 3*time.Second, record.Run)
	memory := newLearned(st.dir, log.Named("bus"))
	parts.start("memory of the buses", 3*time.Second, memory.run)

	// 4a. The city. Who connects is told everything once.
	report := newReporter(inv, s.Report.MaxInterval)
	way := &onTheWay{}
	city := &cityCommands{inv: inv, clock: clock, book: book, audit: record, log: log.Named("commands")}
	up, err := newUplink(cfg, st, clock, city, way, report.anew)
	if err != nil {
		return fmt.Errorf("set up the uplink: %w", err)
	}

	// 5 and 6 are built here and started below, so that the console can show them and the city can command them.
	buses, dialIns, err := newBuses(s, clock, log, memory.of)
	if err != nil {
		return err
	}
	lines := make([]*drivers.Line, len(buses))
	for i, bus := range buses {
		lines[i] = drivers.NewLine(bus)
	}
	writers := make([]pointWriter, len(lines))
	states, read := make([]func() drivers.BusHealth, len(lines)), make([]func(*drivers.BusHealth), len(lines))
	resume, endGuests := make([]func(context.Context) error, len(lines)), make([]func(), len(lines))
	for i, line := range lines {
		writers[i], states[i], read[i] = line, line.Health, line.HealthInto
		resume[i] = func(ctx context.Context) error { return line.Suspend(ctx, 0, 0, "") }
		endGuests[i] = line.EndGuests
	}
	orders := newOrders(s, writers, clock, record, log.Named("orders"))
	driven := newDrive(s, orders, st.dir, log.Named("outputs"))
	orders.reads, orders.by = table.Get, driven.manual
	for i := range states {
		orders.rules[i].health = states[i]
	}
	in := newFanIn(clock, table, cfg.plan.engine, book, j, driven, report, log.Named("rules"))
	in.way = way
	in.respond.restore(clock.Now(), clock.Boot, st.idle)
	points := newBusPoints(s, read, clock)
	own := newGatewayPoints(s, st, cfg.state, up, clock)
	outputs := &standing{site: s, orders: orders, health: states, resume: resume, endGuests: endGuests}
	who := &identities{site: s, lines: lines, health: states, points: points, memory: newSerials(st.dir, log.Named("bus")), identify: firmwareconfig.Identify, log: log.Named("bus")}
	settings := &drift{site: s, lines: lines, points: points, verify: firmwareconfig.Verify, log: log.Named("config")}

	// 4b. People.
	ruleSet := &runningRules{in: in, book: book, journal: j, table: table, clock: clock, audit: record, log: log.Named("rules"), plan: cfg.plan}
	if up != nil {
		city.up, city.orders, city.rules = up, orders, ruleSet
		parts.start("uplink", 12*time.Second, up.Run)
	}
	// When the sources have stopped: the city gets the last samples too, before it is told what is left.
	parts.onStop("last samples", 3*time.Second, j.Commit)
	health := &health{inv: inv, clock: clock, table: table, book: book, journal: j, trouble: st.trouble, uplink: up, lines: lines, dialIns: dialIns, fanIn: in, audit: record}
	token, err := readToken(s.Console.TokenFile)
	if err != nil {
		return err
	}
	set := metrics.NewSet()
	health.register(set)
	web, err := console.New(
		console.Config{Listen: s.Console.Listen, Token: token, Version: productVersion()},
		console.Sources{Inventory: inv, Clock: clock, Live: table, Alerts: book, Status: health.status, Scenarios: cfg.scenarios, Metrics: set.WritePrometheus,
			Rules:   ruleSet,
			Control: &guests{site: s, lines: lines, orders: orders, audit: record, points: points, clock: clock, log: log.Named("bus")}},
		log.Named("console"))
	if err != nil {
		return err
	}
	ruleSet.shown = web.SetInventory
	listener := cfg.listener
	if listener == nil {
		if listener, err = net.Listen("tcp", s.Console.Listen); err != nil {
			return fmt.Errorf("open the console: %w", err)
		}
	}
	parts.start("console", 3*time.Second, func(ctx context.Context) error { return web.Serve(ctx, listener) })

	keeper := &rulesKeeper{dir: st.dir, in: in, clock: clock, log: log.Named("rules")}
	parts.onStop("timers of the rules", 3*time.Second, keeper.last)
	parts.start("outputs of rules", 3*time.Second, driven.run)
	parts.start("fan-in", 5*time.Second, in.run)
	parts.start("timers of the rules", 3*time.Second, keeper.run)
	for _, d := range dialIns {
		parts.start(d.name, 2*time.Second, d.run)
	}
	for i, line := range lines {
		parts.start("bus "+s.Buses[i].ID, 3*time.Second, func(ctx context.Context) error {
			return drivers.Supervise(ctx, clock, line, in.emit(ctx), log.Named("bus"))
		})
	}
	parts.start("health of the buses", time.Second, func(ctx context.Context) error { return points.run(ctx, in.emit(ctx)) })
	parts.start("health of the gateway", time.Second, func(ctx context.Context) error { return own.run(ctx, in.emit(ctx)) })
	parts.start("settings of the units", 3*time.Second, settings.run)
	parts.start("identity of the units", 3*time.Second, who.run)
	parts.start("memory", time.Second, releaseMemory)
	parts.start("outputs", 3*time.Second, outputs.run)
	parts.onStop("outputs", 3*time.Second, outputs.stop)
	log.Info("started", zap.String("console", "http://"+listener.Addr().String()))
	if cfg.ready != nil {
		cfg.ready("http://"+listener.Addr().String(), table)
	}
	err = parts.wait(ctx)
	log.Info("stopping", zap.Error(err))
	return err
}

// eventPoints returns the points whose samples are events.
func eventPoints(inv *telemetry.Inventory) (events []telemetry.PointID) {
	for i := range inv.Points {
		if inv.Points[i].Def.Event {
			events = append(events, telemetry.PointID(i))
		}
	}
	return events
}

// goneAlerts returns the alerts that nothing in the present site file stands for any more: those the engine has no rule
// or subject for, and those that wait for an acknowledgement although their subject is gone.
func goneAlerts(open []alert.Alert, removed []telemetry.ActiveAlert, inv *telemetry.Inventory) []telemetry.Identity {
	var gone []telemetry.Identity
	for _, r := range removed {
		gone = append(gone, r.Identity)
	}
	for _, a := range open {
		_, device := inv.DeviceByID(a.Subject)
		_, zone := inv.ZoneByID(a.Subject)
		if !device && !zone && a.Subject != inv.Site && !a.State.Active() {
			gone = append(gone, a.Identity)
		}
	}
	return gone
}

// newUplink returns the connection to the city, or nil for a box that works alone. connected is called after each
// connection.
func newUplink(cfg gatewayConfig, st *stores, clock *telemetry.Clock, city *cityCommands, way *onTheWay, connected func()) (*uplink.Uplink, error) {
	u, inv := cfg.plan.site.Uplink, cfg.plan.site.Inventory
	if u == nil {
		return nil, nil
	}
	return uplink.New(uplink.Config{
		Site: inv.Site, Gateway: inv.Gateway, Brokers: u.Brokers, Username: u.Username, PasswordFile: u.PasswordFile,
		CAFile: u.CAFile, CertFile: u.CertFile, KeyFile: u.KeyFile, Compression: u.Compression, Batch: u.Batch,
		StateDir: st.dir, Version: productVersion(), Clock: clock, OnTheWay: way.oldest, Built: builtAt(), OnConnect: connected,
		Commands: city.taken(u.Commands, st.trouble != nil),
	}, st.journal, st.book, cfg.log.Named("uplink"))
}

// readToken reads the console's access token from file; "" where there is none.
func readToken(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read the console's access token: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if len(token) < 16 {
		return "", fmt.Errorf("the console's access token in %s is shorter than 16 characters", file)
	}
	return token, nil
}
