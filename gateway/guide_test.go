package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	firmwareconfig "linli/firmware-config"
	"linli/internal/simulate"
	"linli/internal/telemetry"
)

// docs/add-a-sensor.md is true to the letter: its files are loaded and its commands are run, with a simulated sensor on
// the line.
func TestAddASensor(t *testing.T) {
	page, err := os.ReadFile("../docs/add-a-sensor.md")
	if err != nil {
		t.Fatal(err)
	}
	var blocks, commands []string
	parts := strings.Split(string(page), "```")
	for i, part := range parts {
		if i%2 == 1 {
			blocks = append(blocks, strings.TrimPrefix(part, "yaml\n"))
			continue
		}
		for line := range strings.Lines(part) {
			if command, ok := strings.CutPrefix(line, "    linli "); ok {
				commands = append(commands, strings.TrimSpace(command))
			}
		}
	}
	if len(blocks) != 3 {
		t.Fatalf("the page has %d files, want the profile, the site and the golden frame", len(blocks))
	}
	t.Chdir(t.TempDir())
	write := func(name, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(name), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("profiles/acme_th20.yaml", blocks[0])
	library, err := firmwareconfig.Load(firmwareconfig.Shipped(), os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	pty, err := simulate.OpenPty()
	if err != nil {
		t.Fatal(err)
	}
	write("site.yaml", strings.Replace(blocks[1], "/dev/ttyUSB0", pty.Path, 1)+"console: {listen: \"127.0.0.1:1\"}\n")
	sensor := simulate.New(&telemetry.Inventory{})
	sensor.AddBus("b", []firmwareconfig.Unit{{ID: "th1", Address: 1, Profile: library.Profiles["acme_th20"]}})
	for i, v := range []float64{21.5, 48} {
		if err := sensor.SetChannel("th1", i, v); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- sensor.ServeRTU(ctx, "b", pty) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("the simulated line: %v", err)
		}
	}()

	golden := func(key string) string {
		_, rest, _ := strings.Cut(blocks[2], key+": ")
		line, _, _ := strings.Cut(rest, "\n")
		return line
	}
	wants := map[string][]string{
		"scan /dev/ttyUSB0": nil, // Looks at everything for a minute; gateway/scan_test.go has it.
		"read /dev/ttyUSB0 --baud 9600 --unit 1 input 1 2": {"request:  " + golden("request") + "\n", "response: " + golden("response") + "\n", "215"},
		"profiles lint profiles/acme_th20.yaml":            {"no mistakes"},
		"profiles show acme_th20 --dir .":                  {"Acme TH-20", "temperature_c"},
		"check -c site.yaml":                               nil,
		"read -c site.yaml th_lobby.temperature_c":         {"21.5 °C", "good", "request:"},
	}
	if len(commands) != len(wants) {
		t.Errorf("the page has the commands %q", commands)
	}
	for _, command := range commands {
		want, known := wants[command]
		switch {
		case !known:
			t.Errorf("the page has linli %s", command)
		case strings.HasPrefix(command, "scan"):
		default:
			code, stdout, stderr := linli(t, strings.Fields(strings.ReplaceAll(command, "/dev/ttyUSB0", pty.Path))...)
			if code != exitGood {
				t.Errorf("linli %s: %d %s%s", command, code, stdout, stderr)
			}
			for _, w := range want {
				if !strings.Contains(stdout, w) {
					t.Errorf("linli %s: no %q in\n%s", command, w, stdout)
				}
			}
		}
	}

	write("profiles/acme_th20.yaml", blocks[0]+blocks[2])
	if code, stdout, stderr := linli(t, "profiles", "lint", "profiles/acme_th20.yaml"); code != exitGood {
		t.Errorf("with the golden frame: %d %s%s", code, stdout, stderr)
	}
	write("profiles/acme_th20.yaml", blocks[0]+strings.Replace(blocks[2], "temperature: 21.5", "temperature: 99.9", 1))
	if code, _, stderr := linli(t, "profiles", "lint", "profiles/acme_th20.yaml"); code != exitNo || !strings.Contains(stderr, "temperature reads 21.5") {
		t.Errorf("with a wrong value: %d %s", code, stderr)
	}
}
