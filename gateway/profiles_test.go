package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const lintGood = `version: 1
profile: mine
vendor: ours
model: M
title: {zh: 我, en: Mine}
status: partial
sources: [us]
channels:
  - {name: temperature, table: input, address: 1, type: s16, scale: 0.1, unit: °C, min: -40, max: 80, title: {zh: 温度, en: Temperature}}
signature: [{table: input, address: 1, between: [-400, 800]}]
`

func TestProfilesLint(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	mine := write("mine.yaml", lintGood)
	code, stdout, stderr := linli(t, "profiles", "lint", mine)
	if code != exitGood || stdout != "1 profile: no mistakes, 0 warnings\n" || stderr != "" {
		t.Errorf("a good file: %d %q %q", code, stdout, stderr)
	}

	warned := write("site/profiles/mine.yaml", strings.Replace(lintGood, ", min: -40, max: 80", "", 1))
	write("site/site.yaml", "no: profile\n") // Lies beside the folders and is no business of the linter's.
	code, stdout, _ = linli(t, "profiles", "lint", filepath.Join(dir, "site"))
	if want := warned + ":9:12: warning: mine: no measuring range"; code != exitGood || !strings.HasPrefix(stdout, want) {
		t.Errorf("got %d %q, want %q", code, stdout, want)
	}
	if code, _, _ = linli(t, "profiles", "lint", "--strict", filepath.Join(dir, "site")); code != exitNo {
		t.Errorf("a warning with --strict: exit code %d", code)
	}

	bad := write("bad.yaml", strings.Replace(lintGood, "type: s16", "type: s17", 1))
	code, _, stderr = linli(t, "profiles", "lint", bad)
	if code != exitNo || !strings.Contains(stderr, bad+":2:10: profile \"mine\" must stand in a file named mine.yaml") ||
		!strings.Contains(stderr, bad+":9:57: type is one of") || !strings.HasSuffix(stderr, "2 mistakes\n") {
		t.Errorf("a bad file: %d %q", code, stderr)
	}
	code, stdout, _ = linli(t, "profiles", "lint", "--json", bad)
	var result struct {
		Good     bool
		Mistakes []struct {
			File string
			Line int
		}
	}
	if err := json.Unmarshal([]byte(stdout), &result); err != nil || result.Good || len(result.Mistakes) != 2 || result.Mistakes[1].Line != 9 || code != exitNo {
		t.Errorf("JSON: %v, %d %+v", err, code, result)
	}

	golden := strings.Replace(lintGood, "signature", `golden:
  - name: 21.5 °C
    request: 01 04 00 01 00 01 60 0A
    response: 01 04 02 00 D7 F9 6E
    values: {temperature: 21.5}
signature`, 1)
	write("golden/profiles/mine.yaml", golden)
	if code, stdout, stderr = linli(t, "profiles", "lint", filepath.Join(dir, "golden")); code != exitGood {
		t.Errorf("a golden frame: %d %q %q", code, stdout, stderr)
	}
	for value, want := range map[string]string{
		"99.9":  `:14:27: golden "21.5 °C": temperature reads 21.5 in that frame, not 99.9`,
		"none":  "temperature reads 21.5 in that frame, not none (no reading)",
		"under": "temperature reads 21.5 in that frame, not under",
	} {
		otherwise := write("golden/profiles/mine.yaml", strings.Replace(golden, "temperature: 21.5}", "temperature: "+value+"}", 1))
		code, _, stderr = linli(t, "profiles", "lint", otherwise)
		if code != exitNo || !strings.Contains(stderr, want) || !strings.HasPrefix(stderr, otherwise+":") {
			t.Errorf("a golden value of %s: %d %q", value, code, stderr)
		}
	}

	class := write("pump.yaml", "version: 1\nclass: pump\ntitle: {zh: 泵, en: Pump}\npoints:\n  on: {kind: bool, title: {zh: 开, en: On}}\n")
	if code, stdout, stderr = linli(t, "profiles", "lint", class); code != exitGood {
		t.Errorf("a class: %d %q %q", code, stdout, stderr)
	}
	for _, c := range []struct{ arg, want string }{
		{filepath.Join(dir, "nothing"), "no such file"},
		{t.TempDir(), "holds no .yaml files"},
	} {
		if code, _, stderr = linli(t, "profiles", "lint", c.arg); code != exitNo || !strings.Contains(stderr, c.want) {
			t.Errorf("%s: %d %q", c.arg, code, stderr)
		}
	}
	if code, _, stderr = linli(t, "profiles", "lint", mine, filepath.Join(dir, "site")); code != exitNo || !strings.Contains(stderr, "have the same name") {
		t.Errorf("one name twice: %d %q", code, stderr)
	}
}

// The shipped profiles have no mistakes, whatever the linter would like them to have besides.
func TestProfilesLintShipped(t *testing.T) {
	code, stdout, stderr := linli(t, "profiles", "lint")
	if code != exitGood || stderr != "" || !strings.Contains(stdout, "no mistakes") {
		t.Errorf("%d %q %q", code, stdout, stderr)
	}
}

func TestProfilesShow(t *testing.T) {
	_, stdout, _ := linli(t, "profiles", "show", "xy_md02")
	for _, want := range []string{"SETTING", "changes how the unit is reached", "told apart by:", "not to be confused with: md02"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("%q is missing in\n%s", want, stdout)
		}
	}
	_, stdout, _ = linli(t, "profiles", "show", "cet_pmc_t402")
	for _, want := range []string{"not confirmed: 50 unverified of 50 channels and settings", "9600 (parity and stop bits are not known), address 100", "100      unverified  changes how"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("%q is missing in\n%s", want, stdout)
		}
	}
	if _, stdout, _ = linli(t, "profiles", "list"); !strings.Contains(stdout, "50 unverified of 50") {
		t.Errorf("list:\n%s", stdout)
	}
	for _, args := range [][]string{{"profiles", "classes"}, {"profiles", "show", "temp_humidity"}} {
		if code, stdout, _ := linli(t, args...); code != exitGood || !strings.Contains(stdout, "temperature_c  float  °C") || !strings.Contains(stdout, "xy_md02") {
			t.Errorf("%v: %d\n%s", args, code, stdout)
		}
	}
	_, stdout, _ = linli(t, "profiles", "classes", "--json")
	var classes []struct {
		ID     string
		Points []struct {
			Name, Kind, Unit string
			Optional         bool
		}
	}
	if err := json.Unmarshal([]byte(stdout), &classes); err != nil || len(classes) < 20 || len(classes[0].Points) == 0 {
		t.Errorf("classes: %v\n%s", err, stdout)
	}
	if code, _, stderr := linli(t, "profiles", "show", "xy_md2"); code != exitNo || !strings.Contains(stderr, `did you mean "xy_md02"?`) || !strings.Contains(stderr, "--dir DIR") {
		t.Errorf("unknown: %d %s", code, stderr)
	}
	_, stdout, _ = linli(t, "profiles", "show", "dfrobot_urm15", "--json")
	var p struct {
		Channels []struct {
			Name      string
			ScaleFrom *struct{ Values map[string]float64 } `json:"scale_from"`
		}
		Config []struct {
			Name, Role string
			Values     map[string]string
		}
	}
	if err := json.Unmarshal([]byte(stdout), &p); err != nil {
		t.Fatal(err)
	}
	scaled, baud := false, false
	for _, c := range p.Channels {
		scaled = scaled || c.Name == "distance" && c.ScaleFrom != nil && len(c.ScaleFrom.Values) > 0
	}
	for _, c := range p.Config {
		baud = baud || c.Role == "baud" && c.Values["3"] == "9600"
	}
	if !scaled || !baud {
		t.Errorf("got %s", stdout)
	}
}
