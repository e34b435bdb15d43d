package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
	"linli/internal/simulate"
	"linli/internal/testservers"
)

// outputsSite is a site with an output of each sort; %s are the addresses of its Modbus buses and of its console.
const outputsSite = `version: 1
site: test
title: {zh: 测试, en: Test}
zones: [{id: hall, kind: area}]
buses:
  - id: tcp_1
    modbus_tcp: {address: "%s"}
    units: [{id: io1, address: 1, profile: waveshare_relay_8ch}, {id: io2, address: 2, profile: waveshare_relay_8ch}]
  - id: tcp_2
    modbus_tcp: {address: "%s"}
    units: [{id: io3, address: 1, profile: waveshare_relay_8ch}]
devices:
  - {id: horn_1, class: siren, zone: hall, points: {on: {from: io1.relay1, on_start: off, on_stop: off, watchdog: true}}}
  - {id: horn_2, class: siren, zone: hall, points: {on: {from: io1.relay2, on_stop: on}}}
  - {id: lamp, class: relay, zone: hall, points: {on: io2.relay1}}
  - {id: horn_3, class: siren, zone: hall, points: {on: {from: io3.relay1, on_stop: off}}}
  - {id: bell, class: siren, zone: hall, points: {on: {from: io2.relay2, on_stop: hold, watchdog: true}}}
console: {listen: "%s"}
`

// relays serves a simulated bus of the site and returns it with the bus's address.
func relays(t *testing.T, busIDs ...string) (*simulate.Community, []string) {
	t.Helper()
	p, err := resolvePlan("site.yaml", []byte(fmt.Sprintf(outputsSite, "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")), nil)
	if err != nil {
		t.Fatal(err)
	}
	c := simulate.New(p.site.Inventory)
	parts := newLifecycle()
	t.Cleanup(func() { _ = parts.stop() })
	for _, b := range p.site.Buses {
		c.AddBus(b.ID, b.Units) // all of them before the first is served
	}
	var addresses []string
	for _, id := range busIDs {
		l := testservers.Listen(t)
		addresses = append(addresses, l.Addr().String())
		parts.start(id, time.Second, func(ctx context.Context) error { return c.ServeTCP(ctx, id, l) })
	}
	return c, addresses
}

// coil returns what an output of the simulation is set to.
func coil(t *testing.T, c *simulate.Community, device string) uint16 {
	t.Helper()
	raw, err := c.Raw(device, "on")
	if err != nil || len(raw) != 1 {
		t.Fatalf("%s: %v, %v", device, raw, err)
	}
	return raw[0]
}

func allOn(t *testing.T, c *simulate.Community, devices ...string) {
	t.Helper()
	for _, d := range devices {
		if err := c.Set(d, "on", 1); err != nil {
			t.Fatal(err)
		}
	}
}

func nobody(t *testing.T) string { return fmt.Sprintf("127.0.0.1:%d", freePort(t)) }

func TestOutputsList(t *testing.T) {
	file := writeFile(t, "site.yaml", fmt.Sprintf(outputsSite, "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"))
	code, stdout, stderr := linli(t, "outputs", "list", "-c", file)
	want := `OUTPUT     BUS    CHANNEL     ON START  ON STOP  AFTER A CRASH OF THE PROGRAM
horn_1.on  tcp_1  io1.relay1  off       off      the module's watchdog makes it safe
horn_2.on  tcp_1  io1.relay2  hold      on       linli outputs safe sets it on
lamp.on    tcp_1  io2.relay1  hold      hold     stays as it is
horn_3.on  tcp_2  io3.relay1  hold      off      linli outputs safe sets it off
bell.on    tcp_1  io2.relay2  hold      hold     the module's watchdog makes it safe
outputs that are not safe whatever happens:
  horn_2.on (io1.relay2), horn_3.on (io3.relay1): stays as it is when the box itself dies (no watchdog in the module)
  lamp.on (io2.relay1): stays as it is when the gateway stops (on_stop: hold) and when the box dies (no watchdog in the module)
  bell.on (io2.relay2): stays as it is when the gateway stops (on_stop: hold), until the module's watchdog acts
`
	if code != exitGood || stdout != want {
		t.Errorf("exit code %d, %s\n%s\nwant\n%s", code, stderr, stdout, want)
	}

	code, stdout, _ = linli(t, "outputs", "list", "-c", file, "--json")
	var result struct{ Outputs []outputState }
	if err := json.Unmarshal([]byte(stdout), &result); err != nil || code != exitGood || len(result.Outputs) != 5 ||
		result.Outputs[0].Point != "horn_1.on" || result.Outputs[0].Unsafe != "" || result.Outputs[2].Unsafe == "" {
		t.Errorf("--json: exit code %d, %v, %+v", code, err, result)
	}

	empty := writeFile(t, "site.yaml", "version: 1\nsite: test\n")
	if code, stdout, _ := linli(t, "outputs", "list", "-c", empty); code != exitGood || !strings.Contains(stdout, "no outputs") {
		t.Errorf("without outputs: exit code %d, %s", code, stdout)
	}
}

func TestOutputsOfGPIOLines(t *testing.T) {
	file := writeFile(t, "site.yaml", `version: 1
site: test
zones: [{id: hall, kind: area}]
buses:
  - id: box
    gpio: {chip: no-such-chip, key_file: nowhere.key}
    lines:
      - {id: siren, output: GPIO22, on_start: off, on_stop: off}
      - {id: lamp, output: GPIO23}
      - {id: spare, output: GPIO24, on_stop: on}
      - {id: more, output: GPIO27, on_stop: off}
      - {id: reader, wiegand: {d0: GPIO25, d1: GPIO26}}
devices:
  - {id: siren_1, class: siren, zone: hall, points: {on: box.siren}}
  - {id: lamp_1, class: relay, zone: hall, points: {on: {from: box.lamp}}}
  - {id: gate_1, class: relay, zone: hall, points: {on: box.spare}}
  - {id: reader_1, class: card_reader, zone: hall, points: {card: box.reader}}
`)
	_, stdout, stderr := linli(t, "outputs", "list", "-c", file)
	for _, want := range []string{
		`siren_1.on +box +box.siren +off +off +linli outputs safe sets it off, if the chip holds that: most boards let go\n`,
		`lamp_1.on +box +box.lamp +hold +hold +depends on the chip: most boards let go\n`,
		`gate_1.on +box +box.spare +hold +on +linli outputs safe sets it on, if the chip holds that`,
		`lamp_1.on \(box.lamp\): when the gateway stops it depends on the chip \(on_stop: hold\): most boards let go, others leave it as it is\n`,
		`gate_1.on \(box.spare\): stays on only where the chip holds a line that nobody has`,
	} {
		if !regexp.MustCompile(want).MatchString(stdout) {
			t.Errorf("no line matches %s in\n%s%s", want, stdout, stderr)
		}
	}
	// The chip is not there; the secret of the card readers is not needed.
	code, stdout, stderr := linli(t, "outputs", "safe", "-c", file)
	for _, want := range []string{
		`siren_1.on \(box.siren\): NOT set off: .*no-such-chip`, `box.more: NOT set off: .*no-such-chip`, `lamp_1.on \(box.lamp\): left as it is \(on_stop: hold\)`,
	} {
		if !regexp.MustCompile(want).MatchString(stdout) {
			t.Errorf("no line matches %s in\n%s%s", want, stdout, stderr)
		}
	}
	if code != exitNo || strings.Contains(stdout+stderr, "nowhere.key") {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
}

func TestOutputsSafe(t *testing.T) {
	c, at := relays(t, "tcp_1", "tcp_2")
	file := writeFile(t, "site.yaml", fmt.Sprintf(outputsSite, at[0], at[1], nobody(t)))
	allOn(t, c, "horn_1", "lamp", "horn_3")
	code, stdout, stderr := linli(t, "outputs", "safe", "-c", file)
	if code != exitGood {
		t.Fatalf("exit code %d\n%s%s", code, stdout, stderr)
	}
	for device, want := range map[string]uint16{"horn_1": 0, "horn_2": 1, "lamp": 1, "horn_3": 0, "bell": 0} {
		if got := coil(t, c, device); got != want {
			t.Errorf("%s is %d, want %d", device, got, want)
		}
	}
	for _, want := range []string{
		"horn_1.on (io1.relay1): set off\n", "horn_2.on (io1.relay2): set on\n", "horn_3.on (io3.relay1): set off\n",
		"lamp.on (io2.relay1): left as it is (on_stop: hold)\n",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in\n%s", want, stdout)
		}
	}
	if !strings.Contains(stderr, "setting outputs on 2 buses") {
		t.Errorf("no progress in %q", stderr)
	}
	code, stdout, _ = linli(t, "outputs", "safe", "-c", file, "--json")
	var result struct {
		Good    bool
		Outputs []safeResult
	}
	if err := json.Unmarshal([]byte(stdout), &result); err != nil || code != exitGood || !result.Good || len(result.Outputs) != 5 {
		t.Errorf("--json: exit code %d, %v\n%s", code, err, stdout)
	}
}

// TestOutputsSafeGoesOnPastTheDead: a dead bus, a dead unit and a refusing one keep nothing else from being set.
func TestOutputsSafeGoesOnPastTheDead(t *testing.T) {
	c, at := relays(t, "tcp_1")
	file := writeFile(t, "site.yaml", strings.Replace(fmt.Sprintf(outputsSite, at[0], nobody(t), nobody(t)),
		"points: {on: io2.relay1}", "points: {on: {from: io2.relay1, on_stop: off}}", 1))
	allOn(t, c, "horn_1", "lamp")
	if err := c.Misbehave("io1", simulate.Fault{Silent: true}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	code, stdout, _ := linli(t, "outputs", "safe", "-c", file)
	if took := time.Since(began); code != exitNo || took > safeLimit+2*time.Second {
		t.Errorf("exit code %d after %v", code, took)
	}
	for _, want := range []string{`lamp.on .*: set off\n`, `horn_1.on .*: NOT set off: `, `horn_2.on .*: NOT set on: `, `horn_3.on .*: NOT set off: .*(refused|connect)`} {
		if !regexp.MustCompile(want).MatchString(stdout) {
			t.Errorf("no line matches %s in\n%s", want, stdout)
		}
	}
	if coil(t, c, "lamp") != 0 {
		t.Error("the lamp on the unit that answers was not set")
	}
}

// TestADeadUnitDoesNotKeepTheOthersWaiting: eight outputs of a silent unit would take all the time there is.
func TestADeadUnitDoesNotKeepTheOthersWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &safeJob{}
		for i := range 8 {
			j.list = append(j.list, safeOutput{name: fmt.Sprintf("dead.%d", i+1), state: firmwareconfig.OutputOff, unit: "dead"})
		}
		j.list = append(j.list, safeOutput{name: "odd.1", state: firmwareconfig.OutputOff, unit: "odd"},
			safeOutput{name: "odd.2", state: firmwareconfig.OutputOn, unit: "odd"}, safeOutput{name: "late.1", state: firmwareconfig.OutputOff, unit: "late"})
		tries := map[string]int{}
		set := func(_ context.Context, o safeOutput) error {
			tries[o.name]++
			switch {
			case o.unit == "dead":
				time.Sleep(2 * time.Second)
				if tries[o.name] == 1 {
					return &drivers.OutcomeUnknownError{Err: errors.New("no answer")}
				}
				return errors.New("no connection")
			case o.name == "odd.1":
				return &drivers.NotTakenError{}
			case o.name == "late.1" && tries[o.name] == 1:
				return errors.New("noise")
			}
			return nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), safeLimit)
		defer cancel()
		began := time.Now()
		var told []string
		why := map[string]string{}
		j.carryOut(ctx, set, func(r safeResult) {
			told = append(told, fmt.Sprintf("%s %s %v", r.Output, r.State, r.Set))
			why[r.Output] = r.Error
		})
		if took := time.Since(began); took > safeLimit {
			t.Errorf("took %v", took)
		}
		want := "odd.2 on true, late.1 off true, dead.1 off false, dead.2 off false, dead.3 off false, dead.4 off false, dead.5 off false, " +
			"dead.6 off false, dead.7 off false, dead.8 off false, odd.1 off false"
		if got := strings.Join(told, ", "); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if why["dead.1"] != "nobody knows whether it took effect: no answer" || why["dead.2"] != "not tried: dead gave no answer when dead.1 was to be set" {
			t.Errorf("the outcome of the first round is forgotten, or another output's is told: %q", why)
		}
		if tries["dead.1"] != safeRounds || tries["dead.2"] != 0 || tries["late.1"] != 2 {
			t.Errorf("tried %v", tries)
		}
	})
}

// TestOutputsSafeTouchesNothingElse: units and bindings without an output to be set are left out.
func TestOutputsSafeTouchesNothingElse(t *testing.T) {
	p, err := resolvePlan("site.yaml", []byte(fmt.Sprintf(outputsSite, "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")), nil)
	if err != nil {
		t.Fatal(err)
	}
	var held []string
	jobs := safeJobs(p.site, func(r safeResult) { held = append(held, r.Output) })
	got := ""
	for _, j := range jobs {
		for _, u := range j.bus.Units {
			got += fmt.Sprintf("%s.%s %d of %d; ", j.bus.ID, u.ID, len(u.Bindings), len(j.list))
		}
	}
	if want := "tcp_1.io1 2 of 2; tcp_2.io3 1 of 1; "; got != want || strings.Join(held, ", ") != "lamp.on (io2.relay1), bell.on (io2.relay2)" {
		t.Errorf("to be set %q, want %q; held %v", got, want, held)
	}
	if len(p.site.Buses[0].Units) != 2 {
		t.Error("the site itself was changed")
	}
}

func TestOutputsSafeAfterACrashOnly(t *testing.T) {
	c, at := relays(t, "tcp_1", "tcp_2")
	file := writeFile(t, "site.yaml", fmt.Sprintf(outputsSite, at[0], at[1], nobody(t)))
	if code, _, stderr := linli(t, "outputs", "safe", "-c", file, "--if-crashed"); code != exitUsage || !strings.Contains(stderr, "SERVICE_RESULT") {
		t.Errorf("without SERVICE_RESULT: exit code %d, %s", code, stderr)
	}
	for _, x := range []struct {
		result string
		want   uint16
	}{{"success", 1}, {"signal", 0}, {"watchdog", 0}, {"oom-kill", 0}} {
		t.Setenv("SERVICE_RESULT", x.result)
		allOn(t, c, "horn_1")
		code, stdout, stderr := linli(t, "outputs", "safe", "-c", file, "--if-crashed")
		if got := coil(t, c, "horn_1"); code != exitGood || got != x.want {
			t.Errorf("%s: exit code %d, the horn is %d, want %d\n%s%s", x.result, code, got, x.want, stdout, stderr)
		}
	}
}

// TestOutputsSafeWithMistakes: a wrong rule or device does not keep the sirens on.
func TestOutputsSafeWithMistakes(t *testing.T) {
	c, at := relays(t, "tcp_1", "tcp_2")
	file := writeFile(t, "site.yaml", fmt.Sprintf(outputsSite, at[0], at[1], nobody(t))+"rules: [{pack: fire_lame}]\n")
	allOn(t, c, "horn_1")
	code, stdout, stderr := linli(t, "outputs", "safe", "-c", file)
	if code != exitNo || coil(t, c, "horn_1") != 0 || !strings.Contains(stderr, "fire_lame") || !strings.Contains(stderr, "set all the same") {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
	if code, _, stderr := linli(t, "outputs", "safe", "-c", "/no/such/site.yaml"); code != exitNo || !strings.Contains(stderr, "/no/such/site.yaml") {
		t.Errorf("no file: exit code %d, %s", code, stderr)
	}
}

// TestOutputsSafeDuringAnEdit: a crash while the site file is half edited leaves no siren on. What is set is what the
// gateway last started from, its local profiles included.
func TestOutputsSafeDuringAnEdit(t *testing.T) {
	c, at := relays(t, "tcp_1", "tcp_2")
	file := writeFile(t, "site.yaml", strings.ReplaceAll(fmt.Sprintf(outputsSite, at[0], at[1], nobody(t)), "waveshare_relay_8ch", "my_relay"))
	profile, err := fs.ReadFile(firmwareconfig.Shipped(), "profiles/waveshare_relay_8ch.yaml")
	if err != nil {
		t.Fatal(err)
	}
	local := filepath.Join(filepath.Dir(file), "profiles", "my_relay.yaml")
	if err := os.Mkdir(filepath.Dir(local), 0o750); err != nil {
		t.Fatal(err)
	}
	rewrite := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rewrite(local, strings.ReplaceAll(string(profile), "profile: waveshare_relay_8ch", "profile: my_relay"))
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	state := t.TempDir()
	safe := func() (int, string) {
		code, stdout, stderr := linli(t, "outputs", "safe", "-c", file, "--state", state)
		return code, stdout + stderr
	}

	rewrite(file, "site: [\n")
	if code, out := safe(); code != exitNo || strings.Contains(out, "is commanded") || !strings.Contains(out, "could not be read") || !strings.Contains(out, "no site file from an earlier start") {
		t.Errorf("before any start: exit code %d\n%s", code, out)
	}

	rewrite(file, string(good))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan int)
	go func() { ended <- run(ctx, []string{"run", "-c", file, "--state", state}, io.Discard, io.Discard) }()
	waitFor(t, 10*time.Second, "the copy of the site file", func() bool {
		_, err := os.Stat(filepath.Join(state, lastGoodName))
		return err == nil
	})
	stop()
	if code := <-ended; code != exitGood {
		t.Fatalf("run: exit code %d", code)
	}

	for name, spoil := range map[string]func(){
		"a syntax error":    func() { rewrite(file, "site: [\n") },
		"a missing file":    func() { _ = os.Remove(file) },
		"a half profile":    func() { rewrite(file, string(good)); rewrite(local, "profile: my_relay\nchan") },
		"an output removed": func() { rewrite(file, strings.Replace(string(good), "  - {id: horn_1", "  - {id: horn_1, zome: x", 1)) },
	} {
		spoil()
		allOn(t, c, "horn_1")
		code, out := safe()
		if code != exitNo || coil(t, c, "horn_1") != 0 || !strings.Contains(out, "from which the gateway started at 2") {
			t.Errorf("%s: exit code %d, the horn is %d\n%s", name, code, coil(t, c, "horn_1"), out)
		}
	}

	// That a site has no outputs is said only where that is known.
	bare := writeFile(t, "site.yaml", "version: 1\nsite: test\n")
	p, err := loadPlan(bare)
	bareState := t.TempDir()
	if err := errors.Join(err, keepLastGood(bareState, p)); err != nil {
		t.Fatal(err)
	}
	rewrite(bare, "site: [\n")
	if code, stdout, _ := linli(t, "outputs", "safe", "-c", bare, "--state", bareState); code != exitNo || !strings.Contains(stdout, "nothing on this site is commanded") {
		t.Errorf("a site without outputs: exit code %d\n%s", code, stdout)
	}

	other := writeFile(t, "site.yaml", "site: [\n")
	code, stdout, stderr := linli(t, "outputs", "safe", "-c", other, "--state", state)
	if code != exitNo || !strings.Contains(stderr, "of another site file") || strings.Contains(stdout, "set off") {
		t.Errorf("another site's file: exit code %d\n%s%s", code, stdout, stderr)
	}
}

// TestOutputsSafeLeavesARunningGatewayAlone: two masters on one bus would be worse than either.
func TestOutputsSafeLeavesARunningGatewayAlone(t *testing.T) {
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"node": "test.gw1", "site": "test", "gateway": "gw1"}`)
	}))
	defer gateway.Close()
	c, at := relays(t, "tcp_1", "tcp_2")
	file := writeFile(t, "site.yaml", fmt.Sprintf(outputsSite, at[0], at[1], gateway.Listener.Addr()))
	allOn(t, c, "horn_1")
	code, _, stderr := linli(t, "outputs", "safe", "-c", file)
	if code != exitNo || !strings.Contains(stderr, "stop it first") || coil(t, c, "horn_1") != 1 {
		t.Errorf("exit code %d, the horn is %d, %s", code, coil(t, c, "horn_1"), stderr)
	}
}

// TestOutputsSafeWaitsForAConverter: the unit behind a converter that dials in is set once it has.
func TestOutputsSafeWaitsForAConverter(t *testing.T) {
	listen := nobody(t)
	file := writeFile(t, "site.yaml", fmt.Sprintf(`version: 1
site: test
zones: [{id: hall, kind: area}]
buses:
  - id: dtu_1
    modbus_rtu_over_tcp: {listen: "%s", registration: YG-0001}
    units: [{id: io1, address: 1, profile: waveshare_relay_8ch}]
devices:
  - {id: horn_1, class: siren, zone: hall, points: {on: {from: io1.relay3, on_stop: off}}}
console: {listen: "%s"}
`, listen, nobody(t)))
	set := make(chan []byte, 8)
	go func() {
		var conn net.Conn
		for conn == nil { // until the listener is there
			conn, _ = net.Dial("tcp", listen)
			if t.Context().Err() != nil {
				return
			}
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "YG-0001")
		request := make([]byte, 8)
		for {
			if _, err := io.ReadFull(conn, request); err != nil {
				return
			}
			answer := request
			if request[1] == 1 { // read coils: off
				answer = crc([]byte{1, 1, 1, 0})
			} else {
				set <- append([]byte(nil), request...)
			}
			_, _ = conn.Write(answer)
		}
	}()
	code, stdout, stderr := linli(t, "outputs", "safe", "-c", file)
	if code != exitGood || !strings.Contains(stdout, "horn_1.on (io1.relay3): set off") {
		t.Fatalf("exit code %d\n%s%s", code, stdout, stderr)
	}
	if got, want := <-set, crc([]byte{1, 5, 0, 2, 0, 0}); string(got) != string(want) {
		t.Errorf("the unit was asked % x, want % x", got, want)
	}
}

// crc appends the checksum of an RTU frame.
func crc(frame []byte) []byte {
	sum := uint16(0xFFFF)
	for _, b := range frame {
		sum ^= uint16(b)
		for range 8 {
			odd := sum&1 == 1
			if sum >>= 1; odd {
				sum ^= 0xA001
			}
		}
	}
	return append(frame, byte(sum), byte(sum>>8))
}

// TestUnitMakesOutputsSafe: what systemd calls after the gateway is understood.
func TestUnitMakesOutputsSafe(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "deploy", "systemd", "linli.service"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^ExecStopPost=-?/usr/bin/linli (.*)$`).FindSubmatch(text)
	if m == nil {
		t.Fatal("no ExecStopPost")
	}
	cmd, rest, err := rootCommand().Find(strings.Fields(string(m[1])))
	if err != nil || cmd.CommandPath() != "linli outputs safe" {
		t.Fatalf("%s is no command (%v)", m[1], err)
	}
	if err := cmd.ParseFlags(rest); err != nil || !cmd.Flags().Changed("if-crashed") || !cmd.Flags().Changed("config") {
		t.Errorf("%s: %v", m[1], err)
	}
}
