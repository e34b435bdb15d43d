package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
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
	c.in = newFanIn(c.clock, table, c.plan.engine, c.st.book, c.st.journal, c.drive(log), log)
	c.in.respond.restore(c.clock.Now(), c.clock.Boot)
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
	report, _, err := runBacktest(c.t.Context(), &backtestOptions{file: c.file, state: c.dir, since: since, packs: packs})
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
		list[i] = &source{r: rand.New(rand.NewPCG(uint64(i), 9)), inv: inv, period: 10 * time.Second, state: map[telemetry.PointID]float64{}, silent: map[int]time.Duration{}}
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

// TestBacktestReproducesTheDay: the rules that ran find what was recorded, to the millisecond, and nothing else.
func TestBacktestReproducesTheDay(t *testing.T) {
	c := newCommunity(t)
	synctest.Test(t, func(t *testing.T) {
		c.t = t
		c.day(func() []*source { return c.sources(func(telemetry.Series) bool { return false }) })
		report := c.backtest("2d")
		checkSame(t, report)
		counts := c.recorded()
		t.Logf("%d samples in %d steps, recorded %v", report.Samples, report.Steps, counts)
		for _, what := range []string{alert.WhatRaised, alert.WhatRaisedAgain, alert.WhatReturned, alert.WhatUnknown, alert.WhatKnown, alert.WhatChanged,
			alert.WhatClosed + " " + alert.ReasonByHand, alert.WhatCorrected} {
			if counts[what] == 0 {
				t.Errorf("nothing was %q: the day is too quiet", what)
			}
		}
	})
}

// lane emits what a lane's sensor reads each five seconds: occupied for each of stays, a quarter of an hour apart.
func (c *community) lane(ctx context.Context, device string, stays []time.Duration) {
	inv := c.plan.site.Inventory
	d, _ := inv.DeviceByID(device)
	point := inv.Devices[d].Points[inv.Devices[d].Class.Point("occupied")]
	emit := c.in.emit(ctx)
	begin := time.Now()
	for ctx.Err() == nil {
		since := time.Since(begin)
		k := int(since / (15 * time.Minute))
		occupied := k < len(stays) && since-time.Duration(k)*15*time.Minute < stays[k]
		emit([]telemetry.Sample{{Point: point, Time: c.clock.Mono(), Value: telemetry.BoolValue(occupied)}})
		time.Sleep(5 * time.Second)
	}
}

// TestBacktestTellsWhatAnotherThresholdChanges: with another dwell, and with a pack more, exactly what follows from that.
func TestBacktestTellsWhatAnotherThresholdChanges(t *testing.T) {
	c := newCommunity(t, "{dwell: 10s, clear_after: 3s}", "{dwell: 3m, clear_after: 30s}")
	src, err := os.ReadFile(filepath.Join(root, "rules", "packs", "fire_lane.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	slower := writeFile(t, "fire_lane.yaml", strings.Replace(string(src), `for: "${dwell}"`, "for: 4m", 1))
	more := writeFile(t, "mine.yaml", `version: 1
pack: mine
title: {zh: 我的, en: Mine}
rules:
  - {alert: LaneTouched, for_each: fire_lane_sensor, expr: occupied, severity: notice, title: {zh: 有车, en: Somebody}}
`)
	synctest.Test(t, func(t *testing.T) {
		c.t = t
		begin := time.Now()
		c.start("boot1", telemetry.Mono(20*time.Second), longAgo)
		sources := c.sources(func(s telemetry.Series) bool { // No fire: it would make the lane's alert worse now and then.
			return s.Class == "fire_lane_sensor" || s.Class == "smoke_detector" || s.Class == "manual_call_point"
		})
		ctx, cancel := context.WithCancel(t.Context())
		var lanes sync.WaitGroup
		stays := []time.Duration{0, 10 * time.Minute, 3*time.Minute + 30*time.Second, 2 * time.Minute, 4*time.Minute + 5*time.Second, 4*time.Minute - 5*time.Second}
		lanes.Go(func() { c.lane(ctx, "lane_east_1", stays) })
		lanes.Go(func() { c.lane(ctx, "lane_east_2", stays[:2]) })
		c.pass(2*time.Hour, sources, rand.New(rand.NewPCG(3, 3)))
		cancel()
		lanes.Wait()
		c.stop()

		checkSame(t, c.backtest("1d"))

		got := map[string]int{}
		for _, row := range c.backtest("1d", slower).Rows {
			moved := ""
			if row.Kind == backtest.Moved {
				moved = " by " + row.Now.Sub(row.Recorded).String()
			}
			at := row.Recorded.Sub(begin).Round(time.Minute)
			got[fmt.Sprintf("%s %s %s %s%s at %v", row.Kind, row.Alert, row.Subject, row.Op, moved, at)]++
		}
		want := map[string]int{
			"moved FireLaneBlocked lane_east_1 raise by 1m0s at 18m0s":  1,
			"moved FireLaneBlocked lane_east_2 raise by 1m0s at 18m0s":  1,
			"vanishes FireLaneBlocked lane_east_1 raise at 33m0s":       1,
			"vanishes FireLaneBlocked lane_east_1 clear at 34m0s":       1,
			"moved FireLaneBlocked lane_east_1 raise by 1m0s at 1h3m0s": 1,
			"vanishes FireLaneBlocked lane_east_1 raise at 1h18m0s":     1,
			"vanishes FireLaneBlocked lane_east_1 clear at 1h19m0s":     1,
		}
		if !maps.Equal(got, want) {
			t.Errorf("with a dwell of 4 minutes\n%v, want\n%v", got, want)
		}

		// A device that has gone since: its samples are left out, and its alerts are not missed.
		site, err := os.ReadFile(c.file)
		if err != nil {
			t.Fatal(err)
		}
		without := regexp.MustCompile(`(?s)  - id: lane_east_2\n.*?io1\.di2}\n`).ReplaceAll(site, nil)
		if err := os.WriteFile(c.file, without, 0o600); err != nil {
			t.Fatal(err)
		}
		if r := c.backtest("1d"); r.Differs() || r.Skipped < 1435 || r.Skipped > 1445 || !slices.Equal(r.GoneSubjects, []string{"lane_east_2"}) {
			t.Errorf("without a device: %d differences, %d samples left out, gone %v, want none, about 1440 and lane_east_2", len(r.Rows), r.Skipped, r.GoneSubjects)
		}
		if err := os.WriteFile(c.file, site, 0o600); err != nil {
			t.Fatal(err)
		}

		report := c.backtest("1d", more)
		if len(report.Rows) != 12 || report.Differs() != true {
			t.Errorf("with one rule more %d differences, want two for each of 6 stays", len(report.Rows))
		}
		for _, row := range report.Rows {
			if row.Kind != backtest.Appears || row.Alert != "LaneTouched" || row.Title.Zh != "有车" || row.NowSeverity != map[bool]telemetry.Severity{true: telemetry.Notice}[row.Op == telemetry.Raise] {
				t.Errorf("%+v", row)
			}
		}
	})
}

// TestBacktestCLIBesideARunningGateway: the product's binary runs, and is asked what its rules would have done.
func TestBacktestCLIBesideARunningGateway(t *testing.T) {
	dir, file, port := ruleGateway(t)
	state := filepath.Join(dir, "state")
	if code, _, stderr := linli(t, "rules", "backtest", "-c", file, "--state", state); code != exitNo || !strings.Contains(stderr, "no journal") {
		t.Errorf("before the first start: exit %d, %s", code, stderr)
	}
	gateway := start(t, "run", "-c", file, "--state", state)
	web := api{t, fmt.Sprintf("http://127.0.0.1:%d", port)}
	open := func() bool {
		var s struct {
			Alerts struct{ Open []struct{ Alert string } }
		}
		return web.get("/api/v1/state", &s) && len(s.Alerts.Open) == 1
	}
	waitFor(t, 10*time.Second, "the alert", open)
	same := func() (out string, ok bool) {
		code, out, stderr := linli(t, "rules", "backtest", "-c", file, "--state", state, "--since", "1h")
		return out + stderr, code == exitGood && strings.Contains(out, "no difference: ")
	}
	waitFor(t, 15*time.Second, "a journal with the raise in it, and no difference", func() bool {
		out, ok := same()
		return ok && !strings.Contains(out, ": 0 transitions")
	})

	never := writeFile(t, "mine.yaml", strings.Replace(rulePack, "hour() >= ${from}", "hour() >= 24", 1))
	code, out, stderr := linli(t, "rules", "backtest", "-c", file, "--state", state, "--since", "1h", "--pack", never)
	if code != exitNo || !regexp.MustCompile(`(?m)^vanishes +\S+ \S+ +raise +Open s1 +开放 · Open$`).MatchString(out) {
		t.Errorf("with a rule that never holds: exit %d\n%s%s", code, out, stderr)
	}
	code, out, _ = linli(t, "rules", "backtest", "-c", file, "--state", state, "--since", "1h", "--pack", never, "--json")
	var report struct {
		Differs bool
		Rows    []struct{ Kind, Alert, Subject, What, Recorded string }
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || code != exitNo || !report.Differs || len(report.Rows) != 1 || report.Rows[0].Kind != "vanishes" || report.Rows[0].What != "raise" {
		t.Errorf("as JSON: exit %d, %v\n%s", code, err, out)
	}
	for _, c := range []struct {
		code int
		says string
		args []string
	}{
		{exitUsage, "-c FILE", nil},
		{exitUsage, "--since", []string{"-c", file, "--since", "yesterday"}},
		{exitUsage, "nothing lies between", []string{"-c", file, "--since", "1h", "--until", "2h"}},
		{exitUsage, "--warm-up", []string{"-c", file, "--warm-up", "long"}},
		{exitNo, "/no/such/pack.yaml", []string{"-c", file, "--state", state, "--pack", "/no/such/pack.yaml"}},
		{exitNo, "mine.yaml:6:", []string{"-c", file, "--state", state, "--pack", writeFile(t, "mine.yaml", strings.Replace(rulePack, "hour()", "hour(", 1))}},
		{exitNo, "has nothing from", []string{"-c", file, "--state", state, "--since", "2020-01-01", "--until", "2020-01-02 08:00"}},
	} {
		if code, out, stderr := linli(t, append([]string{"rules", "backtest"}, c.args...)...); code != c.code || !strings.Contains(stderr, c.says) {
			t.Errorf("%v: exit %d, want %d and %q:\n%s%s", c.args, code, c.code, c.says, out, stderr)
		}
	}

	// Restarted: windows and timers went on, and the replay knows.
	gateway.stop(10 * time.Second)
	if out, ok := same(); !ok {
		t.Errorf("when it has stopped:\n%s", out)
	}
	start(t, "run", "-c", file, "--state", state)
	waitFor(t, 10*time.Second, "the alert after the restart", open)
	waitFor(t, 15*time.Second, "a second start in the journal", func() bool {
		out, ok := same()
		return ok && strings.Contains(out, "starts of the gateway: 2")
	})
}

// checkSame fails where a report has a difference, or a reason to be inexact.
func checkSame(t *testing.T, r *backtest.Report) {
	t.Helper()
	for i, row := range r.Rows {
		if i < 20 {
			t.Errorf("%+v", row)
		}
	}
	// What was recorded in the last seconds before a crash is not in the journal, and is taken over from the record.
	killed := slices.ContainsFunc(r.Gaps, func(g backtest.Gap) bool { return g.Reason == backtest.Killed })
	if r.Differs() || len(r.Notes) > 0 || r.NotCompared > 0 && !killed || r.NotCompared > 10 || r.NotPlaced > 0 || r.Same == 0 || len(r.Gaps) > 1 {
		t.Errorf("%d differences, %d the same, notes %+v, gaps %+v, %d not compared, %d not placed", len(r.Rows), r.Same, r.Notes, r.Gaps, r.NotCompared, r.NotPlaced)
	}
}

// BenchmarkBacktest replays the demo's community at 440 samples a second through all of it: files, frames, engine,
// comparison.
func BenchmarkBacktest(b *testing.B) {
	const past, rate = 2 * time.Hour, 440
	p, err := loadPlan(filepath.Join(root, "internal", "simulate", "community.yaml"))
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	clock := telemetry.NewClock("boot1", telemetry.Mono(past), longAgo)
	st, err := openStores(dir, p.site, clock, zap.NewNop())
	if err != nil {
		b.Fatal(err)
	}
	wall := time.Now().Add(-past)
	s := &source{r: rand.New(rand.NewPCG(1, 1)), inv: p.site.Inventory, state: map[telemetry.PointID]float64{}}
	for i := range p.site.Inventory.Points {
		if p.site.Inventory.Points[i].Device >= 0 {
			s.points = append(s.points, telemetry.PointID(i))
		}
	}
	samples, k := 0, 0
	for at := time.Duration(0); at < past-time.Minute; at += 8 * time.Second / rate {
		var batch []telemetry.Sample
		for range 8 {
			id := s.points[k%len(s.points)]
			batch = append(batch, telemetry.Sample{Point: id, Time: telemetry.Mono(at), Value: s.value(id)})
			k++
		}
		now := at.Truncate(time.Microsecond) + time.Millisecond
		st.journal.Append(telemetry.Now{Mono: telemetry.Mono(now), Wall: wall.Add(now)}, batch)
		if samples += len(batch); samples%100_000 < 8 {
			if err := st.journal.Commit(); err != nil {
				b.Fatal(err)
			}
		}
	}
	err = errors.Join(st.journal.Commit(), st.journal.Close(), st.book.Close())
	st.unlock()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	var n uint64
	for b.Loop() {
		report, _, err := runBacktest(b.Context(), &backtestOptions{file: p.site.File, state: dir, since: "3h"})
		if err != nil {
			b.Fatal(err)
		}
		n += report.Samples
	}
	perSecond := float64(n) / b.Elapsed().Seconds()
	b.ReportMetric(perSecond, "samples/s")
	b.ReportMetric(perSecond/rate/86400, "days/s")
}
