package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"linli/internal/alert"
	"linli/internal/telemetry"
	"linli/rules/backtest"
)

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
	c := newCommunity(t, "{dwell: 10s, clear_after: 3s, horn_after: 5s}", "{dwell: 3m, clear_after: 30s}")
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
		stays := []time.Duration{0, 10 * time.Minute, 3*time.Minute + 30*time.Second, 2 * time.Minute, 4*time.Minute + 5*time.Second, 4*time.Minute - 20*time.Second}
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
		if r := c.backtest("1d"); r.Differs() || r.Skipped < 120 || r.Skipped > 126 || !slices.Equal(r.GoneSubjects, []string{"lane_east_2"}) {
			t.Errorf("without a device: %d differences, %d samples left out, gone %v, want none, one a minute and those that changed, and lane_east_2", len(r.Rows), r.Skipped, r.GoneSubjects)
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
		report, _, err := runBacktest(b.Context(), &backtestOptions{period: period{since: "3h"}, file: p.site.File, state: dir})
		if err != nil {
			b.Fatal(err)
		}
		n += report.Samples
	}
	perSecond := float64(n) / b.Elapsed().Seconds()
	b.ReportMetric(perSecond, "samples/s")
	b.ReportMetric(perSecond/rate/86400, "days/s")
}
