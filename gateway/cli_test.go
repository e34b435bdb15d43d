package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
	"linli/internal/wire"
)

// linli runs one command line in this process.
func linli(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

// badSite has one mistake of each sort that an installer makes. Every line with a mistake names it in a comment.
const badSite = `version: 1
site: test
gatway: gw1                        # an unknown key
title: {zh: 测试小区, en: Test}
timezone: Asia/Shanghai
zones:
  - {id: lane_east, kind: lane, title: {zh: 东门, en: East gate}}
buses:
  - id: rs485_1
    modbus_rtu: {device: /dev/ttyS1, baud: fast, format: 8N1}   # a wrong type
    units:
      - {id: io1, address: 1, profile: waveshare_io_8ch}
      - {id: io2, address: 1, profile: waveshare_io_8ch}        # two units on one address
      - {id: th1, address: 3, profile: xy_md20}                 # an unknown profile
devices:
  - id: lane_1
    class: fire_lane_sensor
    zone: lane_east
    points: {occupied: io1.di9}                                 # a channel that does not exist
  - id: lane_1                                                  # a duplicate id
    class: fire_lane_sensor
    zone: lane_west                                             # an unknown zone
    points: {occupied: io2.di1}
rules:
  - {pack: fire_lane, params: {dwel: 3m}}                       # an unknown parameter
  - {pack: local}                                               # its rule names an unknown point
`

const badPack = `version: 1
pack: local
title: {zh: 本地, en: Local}
rules:
  - alert: Typo
    for_each: fire_lane_sensor
    expr: ocupied and not authorised_vehicle
    severity: warning
    title: {zh: 错, en: Typo}
`

func TestCheckTellsEveryMistakeAtOnce(t *testing.T) {
	dir := t.TempDir()
	site := filepath.Join(dir, "site.yaml")
	if err := os.MkdirAll(filepath.Join(dir, "packs"), 0o750); err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string]string{site: badSite, filepath.Join(dir, "packs", "local.yaml"): badPack} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	code, stdout, stderr := linli(t, "check", "-c", site)
	if code != exitNo || stdout != "" {
		t.Errorf("exit code %d and stdout %q, want 1 and nothing", code, stdout)
	}
	for _, want := range []string{
		`site.yaml:3:1: unknown key "gatway".*did you mean "gateway"`,
		`site.yaml:10:44: expected a whole number, got fast`,
		`site.yaml:13:\d+: .*(address 1|io1)`,
		`site.yaml:14:\d+: .*xy_md20.*did you mean "xy_md02"`,
		`site.yaml:19:\d+: .*di9.*did you mean "di`,
		`site.yaml:20:\d+: .*lane_1`,
		`site.yaml:22:\d+: .*lane_west.*did you mean "lane_east"`,
		`site.yaml:25:\d+: .*dwel.*did you mean "dwell"`,
		`local.yaml:7:\d+: .*ocupied.*did you mean "occupied"`,
	} {
		if !regexp.MustCompile(`(?m)` + want).MatchString(stderr) {
			t.Errorf("no line matches %s", want)
		}
	}
	var lines []string
	carets := 0
	for _, line := range strings.Split(strings.TrimSpace(stderr), "\n") {
		switch {
		case !strings.HasPrefix(line, "    "):
			lines = append(lines, line)
		case strings.TrimSpace(line) == "^":
			carets++
		}
	}
	if carets != 9 || !strings.Contains(stderr, "\n        zone: lane_west                                             # an unknown zone\n              ^\n") {
		t.Errorf("%d mistakes are shown in their lines, want nine", carets)
	}
	position := regexp.MustCompile(`^\S+:\d+:\d+: \S`)
	for _, line := range lines[:len(lines)-1] {
		if !position.MatchString(line) {
			t.Errorf("a mistake without a position: %s", line)
		}
	}
	if len(lines) != 10 {
		t.Errorf("%d lines, want nine mistakes and their count", len(lines))
	}
	if t.Failed() {
		t.Log("\n" + stderr)
	}

	// For programs: the same, as JSON.
	code, stdout, _ = linli(t, "check", "-c", site, "--json")
	var result struct {
		Good     bool
		Mistakes []struct {
			File    string
			Line    int
			Message string
		}
	}
	if err := json.Unmarshal([]byte(stdout), &result); err != nil || code != exitNo || result.Good || len(result.Mistakes) != len(lines)-1 || result.Mistakes[0].Line == 0 {
		t.Errorf("check --json: exit code %d, %v, %+v", code, err, result)
	}
}

// TestRepairListen: the mistakes are shown at the console's port, and never beyond this machine.
func TestRepairListen(t *testing.T) {
	for listen, want := range map[string]string{
		`console: {listen: "127.0.0.1:9001"}`:              "127.0.0.1:9001",
		`console: {listen: "0.0.0.0:9002", token_file: t}`: "127.0.0.1:9002",
		`console: {listen: nonsense}`:                      "127.0.0.1:8080",
		``:                                                 "127.0.0.1:8080",
	} {
		file := writeFile(t, "site.yaml", "version: 1\nsite: test\ntitle: 测试\ngatway: gw1\n"+listen+"\n")
		if got := repairListen(file); got != want {
			t.Errorf("%q: %s, want %s", listen, got, want)
		}
	}
	if got := repairListen("/no/such/site.yaml"); got != defaultConsole {
		t.Errorf("no file: %s", got)
	}
}

// TestWrongSiteFileIsShownUntilRepaired: a gateway with a wrong site file shows every mistake on its page and starts by
// itself once the file is right.
func TestWrongSiteFileIsShownUntilRepaired(t *testing.T) {
	site := writeFile(t, "site.yaml", "version: 1\nsite: test\ntitle: 测试\ngatway: gw1\nzonez: []\n")
	listen := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	var out lockedBuffer
	repaired := make(chan *plan, 1)
	go func() {
		p, err := waitForRepair(t.Context(), site, listen, &out, zap.NewNop())
		if err != nil {
			t.Errorf("wait: %v", err)
		}
		repaired <- p
	}()
	page := ""
	waitFor(t, 10*time.Second, "the page with both mistakes", func() bool {
		resp, err := http.Get("http://" + listen + "/")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		page = string(body)
		return resp.StatusCode == http.StatusServiceUnavailable && strings.Contains(page, "gatway") && strings.Contains(page, "zonez")
	})
	if !strings.Contains(page, "站点文件有错误") || !strings.Contains(out.String(), ":4:1: unknown key") {
		t.Errorf("the page is\n%s\nprinted was\n%s", page, out.String())
	}
	if err := os.WriteFile(site, []byte("version: 1\nsite: test\ntitle: 测试\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	select {
	case p := <-repaired:
		if p == nil || p.site.Inventory.Site != "test" {
			t.Errorf("after the repair the plan is %+v", p)
		}
	case <-time.After(10 * time.Second):
		t.Error("not started after the repair")
	}
	if code, _, stderr := linli(t, "run", "-c", "/no/such/site.yaml"); code != exitNo || !strings.Contains(stderr, "/no/such/site.yaml") {
		t.Errorf("run without its file: exit code %d, %s", code, stderr)
	}
}

func TestExitCodes(t *testing.T) {
	mistaken := filepath.Join(t.TempDir(), "mistaken.yaml")
	if err := os.WriteFile(mistaken, []byte("version: 1\npacks: [bin]\ntests: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"version":            {[]string{"version"}, exitGood, "linli "},
		"help":               {[]string{"--help"}, exitGood, "demo"},
		"schema":             {[]string{"schema"}, exitGood, `"$schema"`},
		"no command":         {nil, exitGood, "Usage"},
		"unknown command":    {[]string{"frobnicate"}, exitUsage, "frobnicate"},
		"unknown flag":       {[]string{"run", "--colour"}, exitUsage, "--colour"},
		"run without file":   {[]string{"run"}, exitUsage, "-c FILE"},
		"check without file": {[]string{"check"}, exitUsage, "-c FILE"},
		"file not there":     {[]string{"check", "-c", "/no/such/site.yaml"}, exitNo, "/no/such/site.yaml"},
		"unknown scenario":   {[]string{"demo", "--scenario", "flood"}, exitUsage, "fire-lane"},
		"ingest, no broker":  {[]string{"ingest"}, exitUsage, "--broker"},
		"ingest, bad url":    {[]string{"ingest", "--broker", "tcp://127.0.0.1:1", "--influx-url", "http://[::1", "--bucket", "b"}, exitUsage, "http://[::1"},
		"command, too long":  {[]string{"command", "send", "status", "--broker", "tcp://127.0.0.1:1", "--node", "a.b", "--key", "k", "--expires", "48h"}, exitUsage, "--expires 48h0m0s: want 1s to 24h0m0s"},
		"rules test":         {[]string{"rules", "test"}, exitGood, ", 0 failed"},
		"rules test mistake": {[]string{"rules", "test", mistaken}, exitNo, mistaken + ":2:9: unknown pack \"bin\", did you mean \"bins\"?; packs of your own"},
		"its line":           {[]string{"rules", "test", mistaken}, exitNo, "    packs: [bin]\n            ^\n"},
		"rules test no file": {[]string{"rules", "test", "/no/such/test.yaml"}, exitNo, "/no/such/test.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := linli(t, c.args...)
			if code != c.code || !strings.Contains(stdout+stderr, c.says) {
				t.Errorf("exit code %d, want %d, and %q in\n%s%s", code, c.code, c.says, stdout, stderr)
			}
			if c.code != exitGood && stderr == "" {
				t.Error("a failure says nothing on standard error")
			}
		})
	}
}

// TestEveryShippedExampleLoads: site files in deploy/, and the site files shown in the READMEs.
func TestEveryShippedExampleLoads(t *testing.T) {
	examples, err := filepath.Glob(filepath.Join(root, "deploy", "examples", "*.yaml"))
	if err != nil || len(examples) == 0 {
		t.Fatalf("no examples in deploy/examples (%v)", err)
	}
	examples = append(examples, filepath.Join(root, "internal", "simulate", "community.yaml"))
	for _, path := range examples {
		if _, err := loadPlan(path); err != nil {
			t.Errorf("%s:\n%v", path, err)
		}
	}
	block := regexp.MustCompile("(?s)```yaml\n(.*?)```")
	for _, name := range []string{"README.md", "README.zh-CN.md"} {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		snippets := block.FindAllSubmatch(text, -1)
		if len(snippets) == 0 {
			t.Errorf("%s shows no site file", name)
		}
		for _, s := range snippets {
			if _, err := resolvePlan(name, s[1], nil); err != nil {
				t.Errorf("%s:\n%v", name, err)
			}
		}
	}
}

// TestDocumentationLinksExist: a link in a document to a file of this repository leads somewhere.
func TestDocumentationLinksExist(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	docs, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"README.md", "README.zh-CN.md", "CONTRIBUTING.md"} {
		docs = append(docs, filepath.Join(root, name))
	}
	for _, path := range docs {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), string(m[1]))); err != nil {
				t.Errorf("%s links to %s, which is not there", path, m[1])
			}
		}
	}
}

// TestCheckLooksForFiles: what run would stumble over is said by check already.
func TestCheckLooksForFiles(t *testing.T) {
	site := writeFile(t, "site.yaml", `version: 1
site: test
title: {zh: 测试, en: Test}
uplink: {brokers: ["tls://127.0.0.1:8883"], username: u, password_file: nowhere.txt}
console: {listen: "0.0.0.0:8080", token_file: short.token}
`)
	if err := os.WriteFile(filepath.Join(filepath.Dir(site), "short.token"), []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := linli(t, "check", "-c", site)
	if code != exitGood {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	for _, want := range []string{`site.yaml:4:\d+: warning: .*nowhere.txt`, `site.yaml:5:\d+: warning: .*short.token is shorter than 16`} {
		if !regexp.MustCompile(want).MatchString(stdout) {
			t.Errorf("no line matches %s in\n%s", want, stdout)
		}
	}
}

// TestShippedUnitsStart: the command lines in the systemd units are understood, and the ingest unit's settings are those
// of its example file.
func TestShippedUnitsStart(t *testing.T) {
	env := map[string]string{"CREDENTIALS_DIRECTORY": "/run/credentials/linli"}
	example, err := os.ReadFile(filepath.Join(root, "deploy", "systemd", "ingest.env.example"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(example), "\n") {
		if key, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			env[key] = value
		}
	}
	units, err := filepath.Glob(filepath.Join(root, "deploy", "systemd", "*.service"))
	if err != nil || len(units) != 2 {
		t.Fatalf("%d units (%v)", len(units), err)
	}
	command := regexp.MustCompile(`(?m)^Exec(?:Start|StartPre)=/usr/bin/linli (.*)$`)
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		lines := command.FindAllStringSubmatch(string(text), -1)
		if len(lines) == 0 {
			t.Errorf("%s starts nothing", unit)
		}
		for _, m := range regexp.MustCompile(`(?m)^Environment="?(\w+)=([^"\n]*)"?$`).FindAllStringSubmatch(string(text), -1) {
			env[m[1]] = m[2]
		}
		for _, m := range lines {
			args := strings.Fields(os.Expand(m[1], func(name string) string {
				value, ok := env[name]
				if !ok {
					t.Errorf("%s: %s is not in ingest.env.example", unit, name)
				}
				return value
			}))
			cmd, rest, err := rootCommand().Find(args)
			if err != nil || cmd.Name() != args[0] {
				t.Errorf("%s: %q is no command", unit, m[1])
				continue
			}
			if err := cmd.ParseFlags(rest); err != nil {
				t.Errorf("%s: %q: %v", unit, m[1], err)
			}
			if cmd.Name() == "ingest" {
				for _, required := range []string{"broker", "influx-url", "bucket"} {
					if !cmd.Flags().Changed(required) {
						t.Errorf("%s: ingest without --%s ends with a usage error", unit, required)
					}
				}
			}
		}
	}
}

// TestShippedDropInsOfIngest: the files beside linli-ingest.service give it what they say, all of them at once, from
// credentials that they load.
func TestShippedDropInsOfIngest(t *testing.T) {
	unit, err := os.ReadFile(filepath.Join(root, "deploy", "systemd", "linli-ingest.service"))
	if err != nil {
		t.Fatal(err)
	}
	dropIns, err := filepath.Glob(filepath.Join(root, "deploy", "systemd", "linli-ingest-*.conf"))
	if err != nil || len(dropIns) == 0 {
		t.Fatalf("%d files (%v)", len(dropIns), err)
	}
	text := string(unit)
	for _, file := range dropIns {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text += string(b)
	}
	credentials := t.TempDir()
	for _, m := range regexp.MustCompile(`(?m)^LoadCredential=([\w.-]+):/etc/linli/`).FindAllStringSubmatch(text, -1) {
		if err := os.WriteFile(filepath.Join(credentials, m[1]), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := map[string]string{"CREDENTIALS_DIRECTORY": credentials}
	for _, m := range regexp.MustCompile(`(?m)^Environment="?(\w+)=([^"\n]*)"?$`).FindAllStringSubmatch(text, -1) {
		env[m[1]] = strings.ReplaceAll(m[2], "%d", credentials)
	}
	line := regexp.MustCompile(`(?m)^ExecStart=/usr/bin/linli (.*)$`).FindStringSubmatch(text)
	cmd, rest, err := rootCommand().Find(strings.Fields(os.Expand(line[1], func(name string) string { return env[name] })))
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.ParseFlags(rest); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"token-file", "ca-file", "cert-file", "key-file", "command-key"} {
		if file := cmd.Flag(name).Value.String(); file == "" {
			t.Errorf("--%s is given by none of %v", name, dropIns)
		} else if _, err := os.Stat(file); err != nil {
			t.Errorf("--%s: %v", name, err)
		}
	}
}

// TestFieldKinds: what ingest refuses is what the classes say.
func TestFieldKinds(t *testing.T) {
	library, err := firmwareconfig.Load(firmwareconfig.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	kinds := fieldKinds(library)
	for field, want := range map[[2]string]wire.FieldType{
		{"smoke_detector", "alarm"}:        wire.TypeOf(telemetry.Bool),
		{"temp_humidity", "temperature_c"}: wire.TypeOf(telemetry.Float),
		{"smart_bin", "stream"}:            wire.TypeOf(telemetry.Enum),
	} {
		if got, known := kinds(field[0], field[1]); !known || got != want {
			t.Errorf("%v is %v (known %v), want %v", field, got, known, want)
		}
	}
	for _, field := range [][2]string{{"smoke_detector", "nonsense"}, {"site_local_class", "alarm"}} {
		if _, known := kinds(field[0], field[1]); known {
			t.Errorf("%v is known", field)
		}
	}
}
