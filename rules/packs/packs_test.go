package packs_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
	"linli/rules"
	"linli/rules/ruletest"
)

func classes(t *testing.T) map[string]*telemetry.Class {
	t.Helper()
	lib, err := firmwareconfig.Load(firmwareconfig.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	return lib.Classes
}

// Every shipped pack has a test file of its name, and passes it.
func TestEveryPack(t *testing.T) {
	shipped, err := rules.Shipped()
	if err != nil {
		t.Fatal(err)
	}
	if len(shipped) < 4 {
		t.Fatalf("only %d packs are shipped", len(shipped))
	}
	opts := ruletest.Options{Classes: classes(t), Read: os.ReadFile}
	for id := range shipped {
		t.Run(id, func(t *testing.T) {
			name := filepath.Join("tests", id+".yaml")
			src, err := os.ReadFile(name)
			if err != nil {
				t.Fatalf("pack %s has no test: %v", id, err)
			}
			report, err := ruletest.Run([]ruletest.File{{Name: name, Src: src}}, opts)
			if err != nil {
				t.Fatal(err)
			}
			if report.Failed() > 0 {
				var b strings.Builder
				report.Print(&b)
				t.Error(b.String())
			}
			if testing.Verbose() {
				for _, res := range report.Results {
					t.Logf("%s:\n  %s", res.Name, strings.Join(res.Trace, "\n  "))
				}
			}
			everyAlertRaised(t, shipped[id], report)
		})
	}
}

// everyAlertRaised fails for an alert of the pack that no test of its file raises.
func everyAlertRaised(t *testing.T, p *rules.Pack, report ruletest.Report) {
	t.Helper()
	var all strings.Builder
	for _, res := range report.Results {
		all.WriteString(strings.Join(res.Trace, "\n") + "\n")
	}
	for _, r := range p.Rules {
		if r.Alert != "" && !strings.Contains(all.String(), " raise "+r.Alert+" ") {
			t.Errorf("no test raises %s", r.Alert)
		}
	}
}

// All packs together, with every class of the catalogue installed once, give an engine.
func TestAllPacksTogether(t *testing.T) {
	shipped, err := rules.Shipped()
	if err != nil {
		t.Fatal(err)
	}
	inv := &telemetry.Inventory{Site: "s", Gateway: "g"}
	zone := inv.AddZone(telemetry.Zone{ID: "b1", Parent: -1, Kind: "building"})
	catalogue := classes(t)
	for id, c := range catalogue {
		d := inv.AddDevice(telemetry.Device{ID: id + "_1", Class: c, Zone: zone})
		for k := range c.Points {
			if !c.Points[k].Optional {
				inv.ProvidePoint(d, k)
			}
		}
	}
	var list []*rules.Pack
	for _, p := range shipped {
		list = append(list, p)
	}
	if _, err := rules.Compile(rules.Config{Packs: list, Inventory: inv, Classes: catalogue}); err != nil {
		t.Fatal(err)
	}
}
