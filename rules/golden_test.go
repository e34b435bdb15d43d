package rules_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"testing"

	"linli/rules/ruletest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestGoldenTraces holds everything that the engine says in testdata/traces.yaml against testdata/traces.golden:
// time, transition, severity, title and detail in both languages.
func TestGoldenTraces(t *testing.T) {
	src, err := os.ReadFile("testdata/traces.yaml")
	if err != nil {
		t.Fatal(err)
	}
	report, err := ruletest.Run([]ruletest.File{{Name: "testdata/traces.yaml", Src: src}},
		ruletest.Options{Classes: catalogue(), Read: os.ReadFile})
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	for _, res := range report.Results {
		fmt.Fprintf(&got, "== %s\n", res.Name)
		for _, line := range res.Trace {
			fmt.Fprintln(&got, line)
		}
	}
	const golden = "testdata/traces.golden"
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		g, w := bytes.Split(got.Bytes(), []byte("\n")), bytes.Split(want, []byte("\n"))
		for i := range max(len(g), len(w)) {
			if i >= len(g) || i >= len(w) || !bytes.Equal(g[i], w[i]) {
				t.Fatalf("differs from %s at line %d; got:\n%s", golden, i+1, got.Bytes())
			}
		}
	}
}
