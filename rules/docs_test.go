package rules_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
	"linli/rules"
	"linli/rules/ruletest"
)

// Every snippet of docs/rules.md works: packs compile, expressions check, the test passes.
func TestDocumentation(t *testing.T) {
	src, err := os.ReadFile("../docs/rules.md")
	if err != nil {
		t.Fatal(err)
	}
	lib, err := firmwareconfig.Load(firmwareconfig.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	compile := func(t *testing.T, src string) {
		t.Helper()
		p, err := rules.ParsePack("docs.yaml", []byte(src))
		if err != nil {
			t.Fatal(err)
		}
		inv := &telemetry.Inventory{Site: "s", Gateway: "g"}
		if _, err := rules.Compile(rules.Config{Packs: []*rules.Pack{p}, Inventory: inv, Classes: lib.Classes}); err != nil {
			t.Fatal(err)
		}
	}
	kinds := map[string]int{}
	for i, part := range strings.Split(string(src), "\n```") {
		head, body, ok := strings.Cut(part, "\n")
		if i == 0 || !ok || head == "" {
			continue
		}
		word, forEach, _ := strings.Cut(head, " ")
		t.Run(fmt.Sprintf("%d %s", i, head), func(t *testing.T) {
			switch {
			case head == "yaml ruletest":
				report, err := ruletest.Run([]ruletest.File{{Name: "docs.yaml", Src: []byte(body)}}, ruletest.Options{Classes: lib.Classes})
				if err != nil {
					t.Fatal(err)
				}
				if report.Failed() > 0 || len(report.Results) == 0 {
					var b strings.Builder
					report.Print(&b)
					t.Error(b.String())
				}
			case word == "yaml":
				compile(t, body)
			case word == "rules":
				compile(t, pack(body+"\n"))
			case word == "rule":
				compile(t, pack("  - alert: A\n    for_each: "+forEach+"\n    expr: >-\n      "+strings.TrimSpace(body)+
					"\n    severity: notice\n    title: {zh: a, en: a}\n"))
			}
		})
		kinds[word]++
	}
	if kinds["yaml"] != 2 || kinds["rule"] != 6 || kinds["rules"] != 1 {
		t.Errorf("found %v snippets, want 2 yaml and 6 rule", kinds)
	}
}
