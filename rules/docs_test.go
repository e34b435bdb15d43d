package rules_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
	"linli/rules"
	"linli/rules/expr"
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
	shipped, err := rules.Shipped()
	if err != nil {
		t.Fatal(err)
	}
	compile := func(t *testing.T, src string) {
		t.Helper()
		p, err := rules.ParsePack("docs.yaml", []byte(src))
		if err != nil {
			t.Fatal(err)
		}
		if shipped[p.ID] != nil {
			t.Errorf("the example has the id of the shipped pack %s", p.ID)
		}
		packs := []*rules.Pack{p} // beside the shipped ones, as whoever copies it has it
		for _, other := range shipped {
			packs = append(packs, other)
		}
		inv := &telemetry.Inventory{Site: "s", Gateway: "g"}
		if _, err := rules.Compile(rules.Config{Packs: packs, Inventory: inv, Classes: lib.Classes}); err != nil {
			t.Fatal(err)
		}
	}
	kinds := map[string]int{}
	var examples strings.Builder // every text that is tested
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
		if word == "yaml" || word == "rule" || word == "rules" {
			examples.WriteString(body + "\n")
		}
	}
	if kinds["yaml"] != 4 || kinds["rule"] != 17 || kinds["rules"] != 2 {
		t.Errorf("found %v snippets, want 4 yaml, 17 rule and 2 rules", kinds)
	}
	for _, f := range expr.Functions() {
		if !regexp.MustCompile(`\b` + f + `\(`).MatchString(examples.String()) {
			t.Errorf("no example of %s", f)
		}
		if !regexp.MustCompile("(?m)^\\|.*`" + f + `\(.*\|$`).MatchString(string(src)) {
			t.Errorf("no table has %s", f)
		}
	}
}
