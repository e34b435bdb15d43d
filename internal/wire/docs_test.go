package wire_test

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"linli/internal/wire"
)

// The examples of docs/wire.md are what the code reads.
func TestExamplesOfTheDocumentation(t *testing.T) {
	page, err := os.ReadFile("../../docs/wire.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := map[string]string{}
	for _, m := range regexp.MustCompile("(?s)```([a-z_]+)\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		examples[m[1]] = m[2]
	}
	text := []byte(examples["telemetry"])
	line, rest := wire.NextLine(text)
	h, err := wire.ParseHeader(line)
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for len(rest) > 0 {
		line, rest = wire.NextLine(rest)
		if wire.IsLost(line) {
			if _, err := wire.ParseLost(line); err != nil {
				t.Errorf("%s: %v", line, err)
			}
			continue
		}
		lines++
		if err := wire.CheckOwn(line, "riverside", "gw1"); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	if lines != h.Count {
		t.Errorf("%d lines, the header says %d", lines, h.Count)
	}
	if _, err := wire.ParseAlert([]byte(examples["alert"])); err != nil {
		t.Error(err)
	}
	for name, v := range map[string]any{"alerts_open": &wire.OpenList{}, "status": &wire.Status{}} {
		d := json.NewDecoder(strings.NewReader(examples[name]))
		d.DisallowUnknownFields()
		if err := d.Decode(v); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
