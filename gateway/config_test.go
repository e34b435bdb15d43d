package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	firmwareconfig "linli/firmware-config"
	"linli/internal/simulate"
	"linli/internal/telemetry"
	"linli/internal/testservers"
)

const configSite = `version: 1
site: test
buses:
  - id: rs485_1
    modbus_rtu: {device: %s, baud: 9600, format: 8N1}
    units:
      - {id: th1, address: 3, profile: xy_md02, config: {temperature_correction: -0.5, humidity_correction: 0}}
      - {id: th2, address: 4, profile: xy_md02, config: {temperature_correction: 1}}
      - {id: bare, address: 9, profile: xy_md02}
  - id: tcp_1
    modbus_tcp: {address: %s}
    units:
      - {id: hum, address: 2, profile: renke_ws_n01_8, config: {address: 2}}
console: {listen: "127.0.0.1:%d"}
`

// configBench is a site file over a simulated serial line and a simulated converter.
type configBench struct {
	community *simulate.Community
	file      string
}

// newConfigBench serves the units given for each bus; they need not be what the site file says.
func newConfigBench(t *testing.T, serial, converter []firmwareconfig.Unit) *configBench {
	t.Helper()
	pty, err := simulate.OpenPty()
	if err != nil {
		t.Fatal(err)
	}
	l := testservers.Listen(t)
	free := testservers.Listen(t)
	port := free.Addr().(*net.TCPAddr).Port
	free.Close() // No gateway runs here.
	b := &configBench{community: simulate.New(&telemetry.Inventory{}), file: filepath.Join(t.TempDir(), "site.yaml")}
	b.community.AddBus("rs485_1", serial)
	b.community.AddBus("tcp_1", converter)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- b.community.ServeRTU(ctx, "rs485_1", pty) }()
	go func() { done <- b.community.ServeTCP(ctx, "tcp_1", l) }()
	t.Cleanup(func() {
		stop()
		for range 2 {
			if err := <-done; err != nil {
				t.Errorf("serve: %v", err)
			}
		}
	})
	if err := os.WriteFile(b.file, fmt.Appendf(nil, configSite, pty.Path, l.Addr(), port), 0o600); err != nil {
		t.Fatal(err)
	}
	return b
}

func configProfiles(t *testing.T) map[string]*firmwareconfig.Profile {
	t.Helper()
	library, err := firmwareconfig.Load(firmwareconfig.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	return library.Profiles
}

func TestConfigPlanApplyVerify(t *testing.T) {
	profiles := configProfiles(t)
	b := newConfigBench(t, []firmwareconfig.Unit{{ID: "th1", Address: 3, Profile: profiles["xy_md02"]}, {ID: "th2", Address: 4, Profile: profiles["xy_md02"]},
		{ID: "bare", Address: 9, Profile: profiles["xy_md02"]}},
		[]firmwareconfig.Unit{{ID: "hum", Address: 2, Profile: profiles["renke_ws_n01_8"]}})

	code, stdout, stderr := linli(t, "config", "plan", "-c", b.file)
	want := `UNIT  SETTING                 SITE FILE  UNIT HAS  
th1   temperature_correction  -0.5 °C    0 °C      differs
th1   humidity_correction     0 %RH      0 %RH     same
th2   temperature_correction  1 °C       0 °C      differs
hum   address                 2          2         same
4 settings of 3 units, 2 not as the site file wants.
Write them: linli config apply -c ` + b.file + "\n"
	if code != exitGood || stdout != want || stderr != "" {
		t.Errorf("plan: %d %q\n%s\nwant\n%s", code, stderr, stdout, want)
	}
	if code, _, _ := linli(t, "config", "verify", "-c", b.file); code != exitNo {
		t.Errorf("verify before: %d", code)
	}
	code, stdout, stderr = linli(t, "config", "apply", "-c", b.file, "th1")
	if code != exitGood || stderr != "" || !strings.HasSuffix(stdout, "th1: temperature_correction set from 0 to -0.5 °C\nth1: as the site file wants\n") {
		t.Errorf("apply: %d %q\n%s", code, stderr, stdout)
	}
	if words, err := b.community.Peek("th1", firmwareconfig.HoldingRegister, 0x103, 1); err != nil || words[0] != 0xFFFB {
		t.Errorf("the register holds %x, %v", words, err)
	}
	code, stdout, _ = linli(t, "config", "verify", "-c", b.file, "--json")
	var result struct {
		Good  bool
		Units []struct {
			Unit     string
			Settings []struct {
				Name, Want, Got string
				Differs         bool
			}
		}
	}
	if err := json.Unmarshal([]byte(stdout), &result); err != nil {
		t.Fatal(err)
	}
	if code != exitNo || result.Good || len(result.Units) != 4 || result.Units[0].Settings[0].Differs || !result.Units[1].Settings[0].Differs || result.Units[1].Settings[0].Got != "0" {
		t.Errorf("verify: %d %s", code, stdout)
	}
	code, stdout, _ = linli(t, "config", "apply", "-c", b.file, "--json")
	var out struct {
		Good  bool
		Units []applied
	}
	if err := json.Unmarshal([]byte(stdout), &out); err != nil || code != exitGood || !out.Good || len(out.Units) != 3 ||
		out.Units[0].Outcome != "same" || out.Units[1].Outcome != "written" || len(out.Units[1].Written) != 1 {
		t.Errorf("apply --json: %v %d %s", err, code, stdout)
	}
	if code, stdout, _ := linli(t, "config", "verify", "-c", b.file); code != exitGood || !strings.HasSuffix(stdout, "bare: answers at address 9 at 9600 8N1 as profile xy_md02 says; the site file wants no settings of it\n4 settings of 4 units as the site file wants.\n") {
		t.Errorf("verify after: %d\n%s", code, stdout)
	}
	// A unit of which nothing is wanted is still to be the one that it is said to be, where it is said to be.
	if err := b.community.Poke("bare", firmwareconfig.HoldingRegister, 0x101, 8); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"config", "verify", "-c", b.file}, {"config", "verify", "-c", b.file, "bare"}} {
		if code, stdout, _ := linli(t, args...); code != exitNo || !strings.Contains(stdout, "bare: cannot be taken for a xy_md02") {
			t.Errorf("%v: %d\n%s", args, code, stdout)
		}
	}
}

// A unit as it left the factory is brought to its address, after a question.
func TestConfigApplyMovesAUnit(t *testing.T) {
	profiles := configProfiles(t)
	b := newConfigBench(t, nil, []firmwareconfig.Unit{{ID: "hum", Address: 1, Profile: profiles["renke_ws_n01_8"]}})

	code, stdout, _ := linli(t, "config", "plan", "-c", b.file, "hum")
	if code != exitNo || !strings.Contains(stdout, "if it is as it left the factory, alone at address 1: linli config apply -c "+b.file+" hum --from 1\n") {
		t.Errorf("plan: %d\n%s", code, stdout)
	}
	code, _, stderr := linli(t, "config", "apply", "-c", b.file, "hum", "--from", "1")
	if code != exitNo || !strings.Contains(stderr, "there is no terminal to ask at: say --yes. Nothing was written") {
		t.Errorf("without a terminal: %d %q", code, stderr)
	}
	o := &configOptions{file: b.file, from: "1", units: []string{"hum"}, by: "li"}
	run := func(answer string) (string, string, error) {
		var out, errs bytes.Buffer
		err := runConfigApply(t.Context(), o, &asking{in: strings.NewReader(answer), out: &errs, terminal: true}, &out, &errs)
		return out.String(), errs.String(), err
	}
	stdout, stderr, err := run("no\n")
	if err == nil || !strings.Contains(stderr, "hum (now at address 1): change address from 1 to 2? It takes effect at once, and the unit is then looked for there. [y/N] ") ||
		!strings.HasSuffix(stdout, "hum: stays where it is\n") {
		t.Errorf("declined: %v\n%s\n%s", err, stdout, stderr)
	}
	if at, _, _ := b.community.Reached("hum"); at != 1 {
		t.Errorf("it is at %d", at)
	}
	stdout, stderr, err = run("yes\n")
	if err != nil || !strings.HasSuffix(stdout, "hum: address set from 1 to 2\nhum: answers at address 2 now\nhum: everything read once more at address 2\nhum: as the site file wants\n") {
		t.Errorf("moved: %v\n%s\n%s", err, stdout, stderr)
	}
	if at, _, _ := b.community.Reached("hum"); at != 2 {
		t.Errorf("it is at %d", at)
	}
}

// An MD02 stands where the site file says XY-MD02: nothing is written to it, and the others are looked after.
func TestConfigApplyWritesNothingToALookAlike(t *testing.T) {
	profiles := configProfiles(t)
	b := newConfigBench(t, []firmwareconfig.Unit{{ID: "th1", Address: 3, Profile: profiles["md02"]}, {ID: "th2", Address: 4, Profile: profiles["xy_md02"]}}, nil)
	before, _ := b.community.Peek("th1", firmwareconfig.HoldingRegister, 0x100, 2)
	code, stdout, stderr := linli(t, "config", "apply", "-c", b.file, "th1", "th2")
	after, _ := b.community.Peek("th1", firmwareconfig.HoldingRegister, 0x100, 2)
	if code != exitNo || !strings.Contains(stdout, "th1: cannot be taken for a xy_md02: holding 257 holds 2, but the model is known by") ||
		!strings.Contains(stdout, "th2: as the site file wants") || fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("%d %q\n%s", code, stderr, stdout)
	}
}

// A unit whose registers are one off from the profile's is not written to; where they are right but nobody has confirmed
// them, only with --unverified.
func TestConfigUnverifiedRegisters(t *testing.T) {
	profile := configProfiles(t)["cet_pmc_t402"]
	for _, off := range []int{0, 1} {
		moved := *profile
		moved.Channels, moved.Params = slices.Clone(profile.Channels), slices.Clone(profile.Params)
		for i := range moved.Channels {
			moved.Channels[i].Address += off
		}
		for i := range moved.Params {
			moved.Params[i].Address += off
		}
		b := newConfigBench(t, nil, []firmwareconfig.Unit{{ID: "hum", Address: 2, Profile: &moved}})
		src, err := os.ReadFile(b.file)
		if err != nil {
			t.Fatal(err)
		}
		src = bytes.Replace(src, []byte("profile: renke_ws_n01_8, config: {address: 2}"), []byte("profile: cet_pmc_t402, config: {ir2_limit: 300, ir2_delay: 9}"), 1)
		if err := os.WriteFile(b.file, src, 0o600); err != nil {
			t.Fatal(err)
		}
		before, _ := b.community.Peek("hum", firmwareconfig.HoldingRegister, 51000, 130)
		unchanged := func() bool {
			after, _ := b.community.Peek("hum", firmwareconfig.HoldingRegister, 51000, 130)
			return slices.Equal(before, after)
		}
		if off == 1 {
			code, stdout, stderr := linli(t, "config", "apply", "-c", b.file, "hum", "--yes", "--unverified")
			if code != exitNo || !strings.Contains(stdout, "holding 51120 (address) should hold its address 2 and reads 0") || !unchanged() {
				t.Errorf("one off: %d %q\n%s", code, stderr, stdout)
			}
			continue
		}
		code, stdout, stderr := linli(t, "config", "apply", "-c", b.file, "hum", "--yes")
		if code != exitNo || !strings.Contains(stderr, "hum.ir2_limit, hum.ir2_delay") || !strings.Contains(stderr, "say --unverified") || !unchanged() {
			t.Errorf("unverified: %d %q\n%s", code, stderr, stdout)
		}
		if code, stdout, stderr = linli(t, "config", "apply", "-c", b.file, "hum", "--yes", "--unverified"); code != exitGood || unchanged() {
			t.Errorf("with --unverified: %d %q\n%s", code, stderr, stdout)
		}
	}
}

func TestConfigUsage(t *testing.T) {
	b := newConfigBench(t, nil, nil)
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"plan"}, exitUsage, "config plan needs a site file"},
		{[]string{"plan", "-c", b.file, "th3"}, exitNo, `has no unit "th3", did you mean "th1"`},
		{[]string{"plan", "-c", b.file, "bare"}, exitNo, "the site file wants no settings of bare: write config: {...} to the unit. What it can be set to: linli profiles show xy_md02"},
		{[]string{"apply", "-c", b.file, "th1", "--wait", "-1s"}, exitUsage, "from 0s, which does not wait, to 1h"},
		{[]string{"apply", "-c", b.file, "--from", "1"}, exitUsage, "name that unit"},
		{[]string{"apply", "-c", b.file, "th1", "--from", "0"}, exitUsage, "begins with no unit address"},
		{[]string{"apply", "-c", b.file, "th1", "--from", "1@fast"}, exitUsage, `"fast" is no baud rate`},
		{[]string{"apply", "-c", b.file, "th1", "--from", "1@9600/9N1"}, exitUsage, `"9N1" is none of 8N1`},
		{[]string{"apply", "-c", b.file, "th1", "--from", "4"}, exitNo, "--from 4: the site file has th2 there, which would be taken for th1 and moved"},
		{[]string{"apply", "-c", b.file, "th1", "--from", "4@9600/8N1"}, exitNo, "the site file has th2 there"},
		{[]string{"apply", "-c", b.file, "hum", "--from", "1@4800"}, exitNo, "the line of bus tcp_1 is the converter's"},
	} {
		code, _, stderr := linli(t, append([]string{"config"}, c.args...)...)
		if code != c.code || !strings.Contains(stderr, c.want) {
			t.Errorf("%v: %d %q, want %d %q", c.args, code, stderr, c.code, c.want)
		}
	}
	plain := filepath.Join(t.TempDir(), "site.yaml")
	if err := os.WriteFile(plain, []byte("version: 1\nsite: test\nbuses:\n  - {id: b, modbus_tcp: {address: \"127.0.0.1:1\"}, units: [{id: th1, address: 1, profile: xy_md02}]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, stdout, _ := linli(t, "config", "plan", "-c", plain); code != exitGood || !strings.Contains(stdout, "wants no settings of its units") {
		t.Errorf("no settings: %d %q", code, stdout)
	}
}
