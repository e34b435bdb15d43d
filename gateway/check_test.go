package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/site"
	"linli/internal/yamlfile"
)

// budgetSite is a site with a bus of each sort, resolved by hand.
func budgetSite() *site.Site {
	read := []firmwareconfig.Binding{{}}
	bound := func(ids ...string) (units []firmwareconfig.Unit) {
		for _, id := range ids {
			units = append(units, firmwareconfig.Unit{ID: id, Address: len(units) + 1, Bindings: read})
		}
		return units
	}
	return &site.Site{Buses: []site.Bus{
		{ID: "rs485_fire", Pos: yamlfile.Pos{File: "site.yaml", Line: 9, Col: 5}, Transport: site.ModbusRTU, Device: "/dev/ttyS1",
			Line: firmwareconfig.Line{Baud: 9600, Format: "8N1"}, Units: bound("sd1", "sd2", "sd3", "em1")},
		{ID: "dtu_1", Transport: site.ModbusRTUOverTCP, Listen: "0.0.0.0:4001", Registration: []byte("YG-1"),
			Line: firmwareconfig.Line{Baud: 4800, Format: "8E1"}, Units: bound("io1")},
		{ID: "tcp_1", Transport: site.ModbusTCP, Address: "10.0.0.1:502", Units: []firmwareconfig.Unit{{ID: "idle"}}},
		{ID: "box", Transport: site.GPIO, Chip: "gpiochip0", Lines: make([]firmwareconfig.GPIOLine, 3), Units: bound("box")},
	}}
}

func fakeBudget(c modbus.Config) (modbus.Budget, error) {
	b := modbus.Budget{Bus: c.Name, Occupancy: 0.034, DeadReturn: 15 * time.Second, Units: []modbus.UnitBudget{{Unit: "io1", Share: 0.034, Requests: 1}},
		Groups: []modbus.GroupBudget{{Every: 5 * time.Second, Cycle: 5100 * time.Millisecond, Requests: 1, Points: 1, Time: 41 * time.Millisecond}}}
	if c.Name == "rs485_fire" {
		b = modbus.Budget{Bus: c.Name, Occupancy: 0.427, DeadReturn: 2 * time.Minute,
			Groups: []modbus.GroupBudget{
				{LifeSafety: true, Every: time.Second, Cycle: 1130 * time.Millisecond, Requests: 12, Points: 24, Time: 411234 * time.Microsecond},
				{Every: 5 * time.Second, Cycle: 5400 * time.Millisecond, Requests: 0, Points: 2, Time: 48 * time.Millisecond}},
			Units: []modbus.UnitBudget{{Unit: "sd1", Share: 0.2, Requests: 2}, {Unit: "sd2", Share: 0.1, Requests: 2}, {Unit: "em1", Share: 0.0951, Requests: 1}, {Unit: "sd3", Share: 0.01, Requests: 1}},
		}
	}
	return b, nil
}

func TestBudgetsArePrintedForPeople(t *testing.T) {
	list, _, err := budgetsOf(budgetSite(), fakeBudget)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	printBudgets(&out, list)
	want := `buses:
  rs485_fire: /dev/ttyS1 9600 8N1, 4 units, 43 % of the line's time in use
    life safety, every 1s: 24 points in 12 requests (411ms of line time), at the latest after 1.1s
    every 5s: 2 points read along with others, at the latest after 5.4s
    a unit that was dead is read again within 2m, with half of the units dead
    most expensive: sd1 20 %, sd2 10 %, em1 9.5 %
  dtu_1: dials in at 0.0.0.0:4001 as "YG-1", 4800 8E1 behind it, 1 unit, 3.4 % of the line's time in use
    every 5s: 1 point in 1 request (41ms of line time), at the latest after 5.1s
    its unit is read again within 15s after it was dead
  tcp_1: 10.0.0.1:502, 1 unit, nothing is read
  box: GPIO chip gpiochip0, 3 lines
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
	out.Reset()
	printBudgets(&out, nil)
	if out.Len() > 0 {
		t.Errorf("without buses: %s", out.String())
	}
}

func TestBudgetsForPrograms(t *testing.T) {
	list, _, err := budgetsOf(budgetSite(), fakeBudget)
	if err != nil {
		t.Fatal(err)
	}
	j := encodeBudgets(list)
	if len(j) != 4 || *j[0].Occupancy != 0.427 || j[0].DeadReturn != 120 || len(j[0].Expensive) != 3 || j[0].Expensive[0] != (expensJSON{"sd1", 0.2, 2}) ||
		j[0].Groups[0] != (groupJSON{true, 1, 1.13, 24, 12, 0.411234}) || j[2].Occupancy != nil || j[3].Where != "GPIO chip gpiochip0" || j[3].Lines != 3 || j[3].Units != 0 || j[0].Points != 4 {
		t.Errorf("%+v", j)
	}
}

func TestWhatABusCannotDoIsAMistakeAtItsPlace(t *testing.T) {
	_, unmet, err := budgetsOf(budgetSite(), func(c modbus.Config) (modbus.Budget, error) {
		switch c.Name {
		case "rs485_fire":
			return modbus.Budget{Problems: []string{"bus rs485_fire: life safety every 1s cannot be met: 40 requests x 61 ms = 2.4s"}}, nil
		case "dtu_1":
			if c.Inbound == nil || c.Transport != modbus.RTUOverTCP {
				t.Errorf("a converter that dials in is reckoned as %+v", c)
			}
			return modbus.Budget{}, errors.New("unit io1: no profile")
		}
		t.Errorf("bus %s has no line to share", c.Name)
		return modbus.Budget{}, nil
	})
	if want := ":0:0: unit io1: no profile"; err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	if want := "site.yaml:9:5: bus rs485_fire: life safety every 1s cannot be met: 40 requests x 61 ms = 2.4s"; unmet.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", unmet, want)
	}
}

// smokeSite has n smoke detectors on one line.
func smokeSite(n, baud int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "version: 1\nsite: test\ntitle: {zh: 测试, en: Test}\nzones: [{id: hall, kind: area}]\nbuses:\n  - id: rs485_fire\n    modbus_rtu: {device: /dev/ttyS1, baud: %d}\n    units:\n", baud)
	for i := range n {
		fmt.Fprintf(&b, "      - {id: sd%d, address: %d, profile: calectro_ug3}\n", i+1, i+1)
	}
	b.WriteString("devices:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - {id: smoke_%d, unit: sd%d, zone: hall}\n", i+1, i+1)
	}
	return b.String()
}

func TestCheckRefusesALineThatIsTooSlow(t *testing.T) {
	file := writeFile(t, "site.yaml", smokeSite(30, 1200))
	code, stdout, stderr := linli(t, "check", "-c", file)
	if code != exitNo || !regexp.MustCompile(`rs485_fire: /dev/ttyS1 1200 8N1, 30 units, .* of the line's time in use\n`).MatchString(stdout) ||
		!strings.Contains(stdout, "most expensive: ") || strings.Contains(stdout, "good") {
		t.Errorf("exit code %d, want to see where the time of the line goes\n%s", code, stdout)
	}
	code, stdout, _ = linli(t, "check", "-c", file, "--json")
	var result struct {
		Good     bool
		Mistakes []any
		Buses    []budgetJSON
	}
	if err := json.Unmarshal([]byte(stdout), &result); err != nil || code != exitNo || result.Good || len(result.Mistakes) == 0 || len(result.Buses) != 1 {
		t.Errorf("--json: exit code %d, %v\n%s", code, err, stdout)
	}
	// With the arithmetic, at the bus.
	if !regexp.MustCompile(`(?m)site.yaml:6:5: bus rs485_fire: .*\d+ requests? .*\d ?m?s.*`).MatchString(stderr) {
		t.Errorf("not refused, or without the arithmetic:\n%s", stderr)
	}
	if code, _, _ := linli(t, "run", "-c", writeFile(t, "other.yaml", "version: 2\n"), "--state", t.TempDir(), "extra"); code != exitUsage {
		t.Errorf("run with an argument: exit code %d", code)
	}
}

func TestCheckSaysWhatTheBusesWillDo(t *testing.T) {
	file := writeFile(t, "site.yaml", strings.Replace(smokeSite(4, 9600), "devices:\n",
		"  - id: box\n    gpio: {chip: gpiochip0, key_file: short.key}\n    lines: [{id: r, wiegand: {d0: 1, d1: 2}}, {id: horn, output: 3}]\n"+
			"devices:\n  - {id: reader, class: card_reader, zone: hall, points: {card: box.r}}\n  - {id: horn, class: siren, zone: hall, points: {on: box.horn}}\n", 1))
	if err := os.WriteFile(filepath.Join(filepath.Dir(file), "short.key"), []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := linli(t, "check", "-c", file)
	if code != exitGood {
		t.Fatalf("exit code %d\n%s", code, stderr)
	}
	for _, want := range []string{
		`site.yaml:14:39: warning: the key of the card readers in .*short.key is shorter than 16 characters`,
		`rs485_fire: /dev/ttyS1 9600 8N1, 4 units, [\d.]+ % of the line's time in use`,
		`life safety, every \d+m?s: \d+ points in \d+ requests \(.* of line time\), at the latest after \d`,
		`a unit that was dead is read again within \d`,
		`most expensive: sd\d [\d.]+ %, sd\d [\d.]+ %, sd\d [\d.]+ %\n`,
		`box: GPIO chip gpiochip0, 2 lines`,
		`horn.on \(box.horn\): when the gateway stops it depends on the chip \(on_stop: hold\)`,
		`good. test.gw1: 1 zone, 2 buses, 4 units, 6 devices, \d+ points, 0 rule packs`,
	} {
		if !regexp.MustCompile(want).MatchString(stdout) {
			t.Errorf("no line matches %s in\n%s", want, stdout)
		}
	}
	code, stdout, _ = linli(t, "check", "-c", file, "--json")
	var result struct {
		Good    bool
		Buses   []budgetJSON
		Outputs []outputState
	}
	if err := json.Unmarshal([]byte(stdout), &result); err != nil || code != exitGood || !result.Good || len(result.Buses) != 2 || len(result.Outputs) != 1 ||
		result.Buses[0].Occupancy == nil || *result.Buses[0].Occupancy <= 0 || len(result.Buses[0].Groups) == 0 {
		t.Errorf("--json: exit code %d, %v\n%s", code, err, stdout)
	}
}

func TestTimesAreSpelt(t *testing.T) {
	for d, want := range map[time.Duration]string{
		1234567: "1.2ms", 41 * time.Millisecond: "41ms", 1130 * time.Millisecond: "1.1s", 15 * time.Second: "15s",
		12345 * time.Millisecond: "12s", 2 * time.Minute: "2m", 95 * time.Second: "1m35s", time.Hour: "1h0m", 0: "0s",
	} {
		if got := spell(d); got != want {
			t.Errorf("%d is spelt %s, want %s", d, got, want)
		}
	}
}

// A pack beside the site file that nobody uses is told: its mistakes would be found by nobody.
func TestCheckTellsOfAPackThatIsNotInUse(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "site.yaml")
	src := fmt.Sprintf(ruleSite, "", 18080)
	put(t, filepath.Join(dir, "packs", "mine.yaml"), rulePack)
	put(t, filepath.Join(dir, "packs", "other.yaml"), strings.NewReplacer("pack: mine", "pack: other", "Open", "Other", "open_s", "other_s").Replace(rulePack))
	put(t, file, src)
	code, out, errs := linli(t, "check", "-c", file)
	if want := "other.yaml:1:1: warning: pack other is not in use"; code != 0 || !strings.Contains(out+errs, want) || strings.Contains(out+errs, "pack mine is not") {
		t.Errorf("exit %d, want %q:\n%s%s", code, want, out, errs)
	}
}
