package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"linli/internal/testservers"
	"linli/internal/wire"
)

// dashboard is what of a Grafana dashboard talks to the database.
type dashboard struct {
	UID        string
	Templating struct {
		List []struct {
			Name, Type, Query string
			Datasource        struct{ UID string }
		}
	}
	Panels []struct {
		Title      string
		Datasource struct{ UID string }
		Targets    []struct {
			Query      string
			RawQuery   bool
			Datasource struct{ UID string }
		}
	}
}

// Grafana itself cannot be had here: what its dashboard asks is asked of the real database, with the variables filled in as
// Grafana does. Each question must have an answer with values in it.
func TestGrafanaAsksWhatThereIs(t *testing.T) {
	text, err := os.ReadFile("../deploy/grafana/dashboards/completeness.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	var sources struct {
		Datasources []struct {
			UID, Type string
			JSONData  struct {
				Version string
				DBName  string `yaml:"dbName"`
			} `yaml:"jsonData"`
		}
	}
	file, err := os.ReadFile("../deploy/grafana/provisioning/datasources/linli.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(file, &sources); err != nil || len(sources.Datasources) != 1 || sources.Datasources[0].Type != "influxdb" || sources.Datasources[0].JSONData.Version != "InfluxQL" {
		t.Fatalf("data sources %+v, %v", sources, err)
	}
	uid := sources.Datasources[0].UID
	// The other variant, which is commented out, is YAML as well, for the same dashboard.
	_, other, _ := strings.Cut(string(file), "--bucket-id ID).\n")
	if err := yaml.Unmarshal([]byte("datasources:\n"+strings.ReplaceAll(other, "  # ", "  ")), &sources); err != nil || sources.Datasources[0].UID != uid {
		t.Errorf("the second variant: %+v, %v", sources, err)
	}
	var providers struct {
		Providers []struct{ Options struct{ Path string } }
	}
	if file, err = os.ReadFile("../deploy/grafana/provisioning/dashboards/linli.yaml"); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(file, &providers); err != nil || len(providers.Providers) != 1 || providers.Providers[0].Options.Path == "" {
		t.Errorf("providers %+v, %v", providers, err)
	}

	db := testservers.StartInfluxDB(t)
	hour := time.Now().Truncate(time.Hour).Add(-2 * time.Hour)
	var lines []byte
	for _, site := range []string{"riverside", "hillside"} {
		at := hour.UnixNano()
		lines = wire.AppendHourLine(lines, site, "gw1", &wire.Hour{Start: at, State: "complete", Complete: true, Percent: 100, Frames: 3600, Heard: at, Checked: at})
		lines = wire.AppendHourLine(lines, site, "gw1", &wire.Hour{Start: at + int64(time.Hour), State: "missing", Percent: 50, Frames: 1800, Missing: 1800, Gaps: 1, Heard: at, Checked: at})
		lines = wire.AppendLossLine(lines, site, "gw1", &wire.Lost{Epoch: 1, From: 7, To: 9, Count: 5, Reason: "space", T0: at, T1: at}, at)
		lines = wire.AppendStatusLine(lines, site, "gw1", &wire.Status{State: "online", Version: "1", Time: hour, BacklogFrames: 3, ClockSet: true}, at)
		lines = wire.AppendStatusLine(lines, site, "gw1", &wire.Status{State: "offline", Reason: "lost"}, at+int64(time.Minute))
	}
	lines = wire.AppendCheckLine(lines, "ingest-1", &wire.Check{Kind: "recent", Nodes: 2, Gaps: 1, Missing: 1800, Asked: 1, Took: 5e6}, hour.UnixNano())
	lines = wire.AppendCheckLine(lines, "ingest-1", &wire.Check{Kind: "alerts", Nodes: 2, Gaps: 1, Missing: 3}, hour.UnixNano())
	resp, err := http.Post(db.URL+"/api/v2/write?bucket=linli/autogen&precision=ns", "text/plain", bytes.NewReader(lines))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		t.Fatal(resp.Status)
	}
	fill := func(q, per string) string {
		return strings.NewReplacer("$timeFilter", fmt.Sprintf("time >= %dms and time <= %dms", hour.Add(-time.Hour).UnixMilli(), time.Now().UnixMilli()),
			"$__interval", "1m", "$site", "(riverside|hillside)", "$gateway", "(.*)", "$per", per, "$zone", "Asia/Shanghai").Replace(q)
	}
	asked := 0
	ask := func(what, q, per string) {
		t.Helper()
		asked++
		q = fill(q, per)
		if strings.Contains(q, "$") && !strings.Contains(q, "$/") {
			t.Errorf("%s: a variable nobody knows in %s", what, q)
		}
		all, err := db.Query(q)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		values := map[string]bool{}
		for _, s := range all {
			for i := range s.Values {
				for name, v := range s.Row(i) {
					if v != nil {
						values[name] = true
					}
				}
			}
		}
		if len(values) < 2 {
			t.Errorf("%s: no values: %s", what, q)
		}
	}
	for _, v := range d.Templating.List {
		if v.Type == "query" {
			ask("variable "+v.Name, v.Query, "1h")
			if v.Datasource.UID != uid {
				t.Errorf("variable %s asks %q", v.Name, v.Datasource.UID)
			}
		}
	}
	for _, p := range d.Panels {
		if len(p.Targets) == 0 || p.Datasource.UID != uid {
			t.Errorf("panel %s: %d questions to %q", p.Title, len(p.Targets), p.Datasource.UID)
		}
		for _, target := range p.Targets {
			if !target.RawQuery || target.Datasource.UID != uid {
				t.Errorf("panel %s: %+v", p.Title, target)
			}
			for _, per := range []string{"1h", "1d"} {
				ask(p.Title, target.Query, per)
			}
		}
	}
	if asked < 20 {
		t.Errorf("only %d questions", asked)
	}
}
