package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"linli/internal/alert"
	"linli/internal/audit"
	"linli/internal/live"
	"linli/internal/telemetry"
	"linli/rules"
	"linli/rules/backtest"
)

// community is a site in a test: its file, its state, and the gateway that runs there just now. It is made of the same
// parts as runGateway, in the same order, but for buses: the samples are made here.
type community struct {
	t    *testing.T
	file string
	dir  string

	plan  *plan
	st    *stores
	clock *telemetry.Clock
	in    *fanIn
	parts *lifecycle
	step  atomic.Int64 // by how much somebody has set the wall clock, ns
}

// newCommunity returns the community of the demo, with the given text in its site file replaced.
func newCommunity(t *testing.T, replace ...string) *community {
	t.Helper()
	src, err := os.ReadFile(filepath.Join(root, "internal", "simulate", "community.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	file := writeFile(t, "site.yaml", strings.NewReplacer(replace...).Replace(string(src)))
	return &community{t: t, file: file, dir: filepath.Join(t.TempDir(), "state")}
}

// drive takes the rules' commands, and carries none out: it does not run.
func (c *community) drive(log *zap.Logger) *drive {
	record := audit.New(audit.Config{Path: filepath.Join(c.dir, "audit.log")})
	return newDrive(c.plan.site, newOrders(c.plan.site, make([]pointWriter, len(c.plan.site.Buses)), c.clock, record, log), "", log)
}

// start starts the gateway in a boot of the box.
func (c *community) start(boot string, mono telemetry.Mono, oldest time.Time) {
	c.t.Helper()
	var err error
	if c.plan, err = loadPlan(c.file); err != nil {
		c.t.Fatal(err)
	}
	c.plan.site.Journal.CommitEvery = 10 * time.Second
	c.clock = telemetry.NewClock(boot, mono, oldest)
	log := zap.NewNop()
	if c.st, err = openStores(c.dir, c.plan.site, c.clock, log); err != nil {
		c.t.Fatal(err)
	}
	c.parts = newLifecycle()
	table := live.New(len(c.plan.site.Inventory.Points))
	c.parts.onStop("alert book", time.Minute, c.st.book.Close)
	gone := beginRules(c.st, c.plan, c.clock, log)
	c.parts.start("alert book", time.Minute, c.st.book.Run)
	c.st.book.Remove(c.clock.Now(), gone)
	c.parts.onStop("journal", time.Minute, c.st.journal.Close)
	c.parts.start("journal", time.Minute, c.st.journal.Run)
	c.in = newFanIn(c.clock, table, c.plan.engine, c.st.book, c.st.journal, c.drive(log), newReporter(c.plan.site.Inventory, c.plan.site.Report.MaxInterval), log)
	c.in.respond.restore(c.clock.Now(), c.clock.Boot, c.st.idle)
	c.in.read = func() telemetry.Now {
		n := c.clock.Now()
		if !n.Wall.IsZero() {
			n.Wall = n.Wall.Add(time.Duration(c.step.Load()))
		}
		return n
	}
	keeper := &rulesKeeper{dir: c.st.dir, in: c.in, clock: c.clock, log: log}
	c.parts.onStop("timers of the rules", time.Minute, keeper.last)
	c.parts.start("fan-in", time.Minute, c.in.run)
	c.parts.start("timers of the rules", time.Minute, keeper.run)
}

// stop stops the gateway in good order.
func (c *community) stop() {
	c.t.Helper()
	if err := c.parts.stop(); err != nil {
		c.t.Error(err)
	}
	c.st.unlock()
}

// crash leaves what the disk has at this moment as all that there is.
func (c *community) crash() {
	c.t.Helper()
	synctest.Wait()
	disk := filepath.Join(c.t.TempDir(), "state")
	if err := os.CopyFS(disk, os.DirFS(c.dir)); err != nil {
		c.t.Fatal(err)
	}
	c.stop()
	c.dir = disk
}

// reload has a new engine with the rules of the site file take over.
func (c *community) reload() {
	c.t.Helper()
	next, err := loadPlan(c.file)
	if err != nil {
		c.t.Fatal(err)
	}
	var removed []telemetry.Identity
	if err := c.in.ask(c.t.Context(), func(*rules.Engine) {
		removed, _ = c.in.replace(next.engine)
		c.st.journal.SetInventory(next.site.Inventory)
	}); err != nil {
		c.t.Fatal(err)
	}
	c.st.book.Remove(c.clock.Now(), removed)
}

// backtest replays what has been since, with packs tried.
func (c *community) backtest(since string, packs ...string) *backtest.Report {
	c.t.Helper()
	report, _, err := runBacktest(c.t.Context(), &backtestOptions{period: period{since: since}, file: c.file, state: c.dir, packs: packs})
	if err != nil {
		c.t.Fatal(err)
	}
	return report
}

// recorded counts what was recorded, by what.
func (c *community) recorded() map[string]int {
	c.t.Helper()
	r, err := alert.OpenReader(filepath.Join(c.dir, "alerts.db"))
	if err != nil {
		c.t.Fatal(err)
	}
	defer r.Close()
	records, err := r.History(c.t.Context(), time.Unix(0, 0), time.Now().Add(time.Hour))
	if err != nil {
		c.t.Fatal(err)
	}
	counts := map[string]int{}
	for _, rec := range records {
		for _, l := range rec.Lines {
			counts[l.What]++
			if l.What == alert.WhatClosed {
				counts[l.What+" "+rec.Alert.CloseReason]++
			}
		}
	}
	return counts
}

// source makes the samples of one bus: all its points every period, a few in each batch, some of them late.
type source struct {
	r      *rand.Rand
	points []telemetry.PointID
	inv    *telemetry.Inventory
	period time.Duration
	late   time.Duration // the longest that a batch takes on its way; 0: none is late
	state  map[telemetry.PointID]float64
	silent map[int]time.Duration // devices that do not answer, for how long still
}

// sources returns the sources of the plan's buses, each with its seed.
func (c *community) sources(skip func(telemetry.Series) bool) []*source {
	inv := c.plan.site.Inventory
	list := make([]*source, len(c.plan.site.Buses)+1)
	for i := range list {
		list[i] = &source{r: rand.New(rand.NewPCG(uint64(i), 9)), inv: inv, period: 20 * time.Second, state: map[telemetry.PointID]float64{}, silent: map[int]time.Duration{}}
	}
	bus := map[telemetry.PointID]int{}
	for i := range c.plan.site.Buses {
		for _, u := range c.plan.site.Buses[i].Units {
			for _, b := range u.Bindings {
				bus[b.Point] = i
			}
		}
	}
	for i := range inv.Points {
		id := telemetry.PointID(i)
		if inv.Points[i].Device < 0 || skip(inv.Series(id)) {
			continue
		}
		k, ok := bus[id]
		if !ok {
			k = len(list) - 1 // what the gateway knows of its own works
		}
		list[k].points = append(list[k].points, id)
	}
	list[1].late = 4 * time.Second
	list[len(list)-1].period = 30 * time.Second
	return list
}

// value makes the next value of a point.
func (s *source) value(id telemetry.PointID) telemetry.Value {
	def := s.inv.Points[id].Def
	x, seen := s.state[id]
	defer func() { s.state[id] = x }()
	switch def.Kind {
	case telemetry.Bool:
		usual := 0.0
		if def.Name == "up" || def.Name == "online" {
			usual = 1
		}
		if !seen {
			x = usual
		}
		if p := 1.0 / 2500; x == usual && s.r.Float64() < p || x != usual && s.r.Float64() < 40*p {
			x = 1 - x
		}
		return telemetry.BoolValue(x != 0)
	case telemetry.Enum:
		if s.r.IntN(500) == 0 && len(def.Enum) > 0 {
			x = float64(def.Enum[s.r.IntN(len(def.Enum))].Code)
		}
		return telemetry.EnumValue(int64(x))
	case telemetry.KindText:
		return telemetry.TextValue(fmt.Sprint("t", s.r.IntN(5)))
	}
	low, high := 0.0, 100.0
	for _, b := range []struct {
		part      string
		low, high float64
	}{{"temperature", 10, 90}, {"residual", 0, 600}, {"voltage", 180, 260}, {"noise", 35, 85}, {"smoke", 0, 0.3}, {"current_a", 0, 90}, {"error", 0, 1}} {
		if strings.Contains(def.Name, b.part) {
			low, high = b.low, b.high
		}
	}
	if !seen {
		x = low + (high-low)*0.3
	}
	if strings.Contains(def.Name, "kwh") || strings.HasSuffix(def.Name, "_total") {
		x += s.r.Float64()
	} else {
		x = min(max(x+(high-low)*0.02*s.r.NormFloat64(), low), high)
	}
	v := math.Round(x*100) / 100
	if def.Kind == telemetry.Int {
		return telemetry.IntValue(int64(v))
	}
	return telemetry.FloatValue(v)
}

// run reads until ctx ends.
func (s *source) run(ctx context.Context, clock *telemetry.Clock, emit func([]telemetry.Sample)) {
	var wait sync.WaitGroup
	defer wait.Wait()
	for ctx.Err() == nil {
		for i := 0; i < len(s.points); i += 6 {
			var batch []telemetry.Sample
			at := clock.Mono()
			for _, id := range s.points[i:min(i+6, len(s.points))] {
				smp := telemetry.Sample{Point: id, Time: at, Value: s.value(id)}
				device := s.inv.Points[id].Device
				if s.silent[device] > 0 {
					smp.Quality, smp.Value = telemetry.BadComm, telemetry.Value{}
				} else if s.r.IntN(3000) == 0 {
					smp.Quality, smp.Value = telemetry.BadSensor, telemetry.Value{}
				} else if s.r.IntN(2000) == 0 && smp.Value.Kind() == telemetry.Float {
					smp.Quality = telemetry.OverRange
				}
				if s.r.IntN(20_000) == 0 {
					s.silent[device] = time.Duration(s.r.IntN(900)) * time.Second
				}
				batch = append(batch, smp)
			}
			if s.late > 0 && s.r.IntN(3) == 0 { // It arrives after others that were read later.
				delay := time.Duration(s.r.Int64N(int64(s.late)))
				wait.Go(func() {
					time.Sleep(delay)
					emit(batch)
				})
			} else {
				time.Sleep(time.Duration(s.r.IntN(3000)) * time.Microsecond)
				emit(batch)
			}
			time.Sleep(time.Duration(10+s.r.IntN(60)) * time.Millisecond)
		}
		for d := range s.silent {
			s.silent[d] -= s.period
		}
		select {
		case <-ctx.Done():
		case <-time.After(s.period - time.Duration(s.r.IntN(1000))*time.Millisecond):
		}
	}
}

// pass lets the sources run for d, while people acknowledge and close.
func (c *community) pass(d time.Duration, sources []*source, r *rand.Rand) {
	ctx, cancel := context.WithTimeout(c.t.Context(), d)
	defer cancel()
	var wait sync.WaitGroup
	emit := c.in.emit(ctx)
	for _, s := range sources {
		wait.Go(func() { s.run(ctx, c.clock, emit) })
	}
	wait.Go(func() {
		for closed := 0; ctx.Err() == nil; {
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Duration(30+r.IntN(60)) * time.Second):
			}
			for _, a := range c.st.book.OpenAlerts() {
				switch {
				case a.Unknown && closed < 5 && r.IntN(2) == 0:
					closed++
					_, _ = c.st.book.CloseByHand(ctx, a.ID, "Wang", "")
				case r.IntN(4) == 0:
					_, _ = c.st.book.Acknowledge(ctx, a.ID, "Li", "")
				}
			}
		}
	})
	wait.Wait()
}

// day lets a day pass in which everything happens that may: a clock that is unset at first and steps, late samples, alerts
// closed by hand, a clean restart, a crash, a reload, a boot.
func (c *community) day(sources func() []*source) {
	r := rand.New(rand.NewPCG(1, 1))
	begin := time.Now()
	c.start("boot1", telemetry.Mono(20*time.Second), begin.Add(10*time.Minute))
	s := sources()
	c.pass(4*time.Hour, s, r)
	c.stop() // It is restarted in good order.
	time.Sleep(40 * time.Second)
	up := func() telemetry.Mono { return telemetry.Mono(20*time.Second + time.Since(begin)) }
	c.start("boot1", up(), longAgo)
	c.pass(3*time.Hour, s, r)
	c.step.Store(int64(time.Hour)) // Somebody sets the clock, and back.
	c.pass(30*time.Minute, s, r)
	c.step.Store(0)
	c.pass(4*time.Hour+7*time.Second, s, r)
	c.crash()
	time.Sleep(90 * time.Second)
	c.start("boot1", up(), longAgo)
	c.pass(3*time.Hour, s, r)
	c.reload()
	c.pass(3*time.Hour, s, r)
	c.stop() // The box boots.
	time.Sleep(3 * time.Minute)
	c.start("boot2", telemetry.Mono(15*time.Second), longAgo)
	c.pass(6*time.Hour, s, r)
	c.stop()
}

var longAgo = time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC)
