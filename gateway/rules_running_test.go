package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"linli/internal/telemetry"
)

// ruleSite is a site whose rules need no device.
const ruleSite = `version: 1
site: s1
gateway: gw1
title: {zh: 小区, en: Community}
timezone: Asia/Shanghai
zones: [{id: z1, kind: area}]
rules: [{pack: mine%s}]
console: {listen: "127.0.0.1:%d"}
`

const rulePack = `version: 1
pack: mine
title: {zh: 我的, en: Mine}
params: {from: 0}
rules:
  - {alert: Open, for_each: site, expr: "hour() >= ${from}", severity: notice, title: {zh: 开放, en: Open}}
  - {record: open_s, for_each: site, expr: "duration_true(hour() >= 0, 1h) / 1s", unit: s}
`

// ruleGateway starts the product on ruleSite with the pack beside it.
func ruleGateway(t *testing.T) (dir, file string, port int) {
	t.Helper()
	dir, port = t.TempDir(), freePort(t)
	file = filepath.Join(dir, "site.yaml")
	put(t, file, fmt.Sprintf(ruleSite, "", port))
	put(t, filepath.Join(dir, "packs", "mine.yaml"), rulePack)
	return dir, file, port
}

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// answer is linli with both outputs in one.
func answer(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	code, stdout, stderr := linli(t, args...)
	return stdout + stderr, code
}

func TestRulesAreExplainedAndReplacedWhileTheGatewayRuns(t *testing.T) {
	dir, file, port := ruleGateway(t)
	start(t, "run", "-c", file, "--state", filepath.Join(dir, "state"))
	web := api{t, fmt.Sprintf("http://127.0.0.1:%d", port)}
	open := func() (names []string) {
		var s struct {
			Alerts struct {
				Open []struct{ Alert, Severity string } `json:"open"`
			} `json:"alerts"`
		}
		web.get("/api/v1/state", &s)
		for _, a := range s.Alerts.Open {
			names = append(names, a.Alert+" "+a.Severity)
		}
		return names
	}
	has := func(want string) func() bool {
		return func() bool { return strings.Join(open(), ",") == want }
	}
	waitFor(t, 10*time.Second, "the alert", has("Open notice"))

	out, code := answer(t, "rules", "explain", "Open", "-c", file)
	for _, want := range []string{"Open s1", "active, severity notice", "* hour() >= 0", "true"} {
		if !strings.Contains(out, want) || code != 0 {
			t.Errorf("explain lacks %q (exit %d):\n%s", want, code, out)
		}
	}
	if out, code := answer(t, "rules", "explain", "Opem", "-c", file); code != 1 || !strings.Contains(out, `did you mean "Open"?`) {
		t.Errorf("exit %d: %s", code, out)
	}
	if out, code := answer(t, "rules", "list", "-c", file); code != 0 || !strings.Contains(out, "open_s") {
		t.Errorf("exit %d: %s", code, out)
	}

	// A pack with mistakes replaces nothing and says all of them.
	put(t, filepath.Join(dir, "packs", "mine.yaml"), strings.NewReplacer("hour() >= 0,", "hour( >= 0,", "severity: notice", "severity: loud").Replace(rulePack))
	out, code = answer(t, "rules", "reload", "-c", file)
	if code != 1 || !strings.Contains(out, "mine.yaml:6:") || !strings.Contains(out, "mine.yaml:7:") {
		t.Errorf("exit %d: %s", code, out)
	}
	if got := open(); len(got) != 1 {
		t.Errorf("open after a refused reload: %v", got)
	}

	// A right one takes over: the alert with a new severity, a new alert, and the window as it was.
	put(t, filepath.Join(dir, "packs", "mine.yaml"), strings.Replace(rulePack, "severity: notice", "severity: warning", 1)+
		"  - {alert: More, for_each: site, expr: \"open_s_is_long\", severity: notice, title: {zh: 多, en: More}}\n")
	if out, code = answer(t, "rules", "reload", "-c", file); code != 1 {
		t.Errorf("an unknown name: exit %d: %s", code, out)
	}
	put(t, filepath.Join(dir, "packs", "mine.yaml"), strings.Replace(rulePack, "severity: notice", "severity: warning", 1)+
		"  - {alert: More, for_each: site, expr: \"active(Open)\", severity: notice, title: {zh: 多, en: More}}\n"+
		"  - {record: another, for_each: zone, expr: \"hour()\", unit: h}\n")
	if out, code = answer(t, "rules", "reload", "-c", file); code != 0 || !strings.Contains(out, "4 rules run now") {
		t.Errorf("exit %d: %s", code, out)
	}
	waitFor(t, 5*time.Second, "the new rules", has("Open warning,More notice"))
	var state struct {
		Values []struct{ ID uint32 } `json:"values"`
	}
	waitFor(t, 5*time.Second, "the new derived point", func() bool { return web.get("/api/v1/state", &state) && len(state.Values) >= 2 })

	// A rule that goes closes its alert; a parameter in the site file is taken over too.
	put(t, file, fmt.Sprintf(ruleSite, ", params: {from: 24}", port))
	put(t, filepath.Join(dir, "packs", "mine.yaml"), rulePack)
	if out, code = answer(t, "rules", "reload", "-c", file); code != 0 || !strings.Contains(out, "1 alerts closed") {
		t.Errorf("exit %d: %s", code, out)
	}
	waitFor(t, 5*time.Second, "one returned alert", func() bool {
		out, _ := answer(t, "rules", "explain", "Open", "-c", file)
		return strings.Contains(out, "inactive") && len(open()) == 1
	})

	// What needs a restart says so.
	put(t, file, strings.Replace(fmt.Sprintf(ruleSite, "", port), "kind: area", "kind: garage", 1))
	if out, code = answer(t, "rules", "reload", "-c", file); code != 1 || !strings.Contains(out, "zones changed too") {
		t.Errorf("exit %d: %s", code, out)
	}
}

// TestTheRulesGoOnAfterARestart is about windows: after a clean restart they go on, the time in between unknown.
func TestTheRulesGoOnAfterARestart(t *testing.T) {
	dir, file, _ := ruleGateway(t)
	value := func() (v float64) {
		out, code := answer(t, "rules", "explain", "open_s", "-c", file)
		if code != 0 {
			return -1
		}
		for _, line := range strings.Split(out, "\n") {
			if strings.HasPrefix(line, "* duration_true") {
				text := strings.TrimPrefix(strings.TrimSpace(line[operandColumn:]), "at least ")
				text, _, _ = strings.Cut(text, " to ")
				fmt.Sscanf(text, "%g", &v)
			}
		}
		return v
	}
	p := start(t, "run", "-c", file, "--state", filepath.Join(dir, "state"))
	waitFor(t, 20*time.Second, "five seconds in the window", func() bool { return value() >= 5 })
	before := value()
	p.stop(10 * time.Second)
	start(t, "run", "-c", file, "--state", filepath.Join(dir, "state"))
	began := time.Now()
	waitFor(t, 10*time.Second, "the gateway", func() bool { return value() >= 0 })
	if got, most := value(), before+2+time.Since(began).Seconds(); got < before || got > most {
		t.Errorf("the window holds %.1f s after the restart, want %.1f to %.1f", got, before, most)
	}
}

func TestRuleStateTimes(t *testing.T) {
	wall := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	s := &ruleState{boot: "a", mono: 1000, wall: wall, snapshot: []byte("x")}
	d, err := decodeRuleState(s.encode())
	if err != nil || d.boot != "a" || d.mono != 1000 || !d.wall.Equal(wall) || string(d.snapshot) != "x" {
		t.Fatalf("%+v, %v", d, err)
	}
	for i := range s.encode() {
		b := s.encode()
		b[i] ^= 4
		if _, err := decodeRuleState(b); err == nil {
			t.Errorf("byte %d flipped, and nobody noticed", i)
		}
		if _, err := decodeRuleState(b[:i]); err == nil {
			t.Errorf("%d bytes, and nobody noticed", i)
		}
	}
	for name, x := range map[string]struct {
		boot    string
		now     telemetry.Now
		by, ago time.Duration
		ok      bool
	}{
		"the same boot":        {"a", telemetry.Now{Mono: 5000}, 0, 4000, true},
		"another boot":         {"b", telemetry.Now{Mono: 50, Wall: wall.Add(time.Hour)}, 50 - 1000 - time.Hour, time.Hour, true},
		"clock not set":        {"b", telemetry.Now{Mono: 50}, 0, 0, false},
		"a clock that is slow": {"b", telemetry.Now{Mono: 50, Wall: wall.Add(-time.Hour)}, 0, 0, false},
	} {
		if by, ago, ok := s.since(x.boot, x.now); ok != x.ok || ok && (by != x.by || ago != x.ago) {
			t.Errorf("%s: by %s, ago %s, %v", name, by, ago, ok)
		}
	}
}
