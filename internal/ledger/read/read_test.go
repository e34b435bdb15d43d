package read_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"linli/internal/ledger"
	"linli/internal/ledger/read"
	"linli/internal/testservers"
	"linli/internal/wire"
)

const (
	second = int64(time.Second)
	hour   = 3600 * second
	begin  = 1_790_000_000*second + 123_456_789
	end    = begin + 24*hour
	later  = end + 30*hour
)

func write(t *testing.T, db *testservers.InfluxDB, lines []byte) {
	t.Helper()
	resp, err := http.Post(db.URL+"/api/v2/write?bucket=linli/autogen&precision=ns", "text/plain", bytes.NewReader(lines))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		t.Fatal(resp.Status)
	}
}

// city is what is written of some nodes.
type city struct{ lines []byte }

func (c *city) row(node string, epoch, from, to uint64, at int64, change func(*wire.Header)) {
	h := wire.Header{Epoch: epoch, From: from, To: to, Count: 1, T0: at - second, T1: at, Settled: at}
	if change != nil {
		change(&h)
	}
	site, gateway, _ := wire.SplitNode(node)
	c.lines = wire.AppendLedgerLine(c.lines, site, gateway, &h)
}

func (c *city) status(node string, s wire.Status, at int64) {
	site, gateway, _ := wire.SplitNode(node)
	if s.Epoch != "" {
		s.Time = time.Unix(0, at)
	}
	c.lines = wire.AppendStatusLine(c.lines, site, gateway, &s, at)
}

func brief(r *ledger.Report) string {
	out := r.State()
	for _, g := range r.Gaps {
		out += fmt.Sprintf("; %x %d-%d %s %v", g.Epoch, g.From, g.To, g.Reason, g.Told)
	}
	return out
}

// Both languages read the same, from a real database.
func TestBothLanguagesReadTheSame(t *testing.T) {
	db := testservers.StartInfluxDB(t)
	c := &city{}
	uncertain := func(h *wire.Header) { h.Uncertain = true }
	late := func(h *wire.Header) { h.Late, h.Settled = true, 0 }
	want := map[string]string{}
	node := func(name, state string) string {
		name += ".gw1"
		want[name] = state
		c.row(name, 1, 1, 100, begin-20*hour, nil) // what came before
		return name
	}
	n := node("whole", "complete")
	c.row(n, 1, 101, 200, begin+hour, nil)
	c.row(n, 1, 201, 300, end, nil)
	n = node("missing", "missing; 1 201-204 missing false")
	c.row(n, 1, 101, 200, begin+hour, nil)
	c.row(n, 1, 205, 300, end+20*hour, nil) // was off, and settles late
	c.row(n, 1, 302, 400, end+20*hour+2*second, nil)
	n = node("lost", "losses; 1 101-110 space true; 1 111-120 gone true")
	c.row(n, 1, 121, 300, end, nil)
	c.lines = wire.AppendLossLine(c.lines, "lost", "gw1", &wire.Lost{Epoch: 1, From: 101, To: 110, Count: 7, Reason: "space", T0: begin, T1: begin + hour}, begin+hour)
	c.lines = wire.AppendLossLine(c.lines, "lost", "gw1", &wire.Lost{Epoch: 1, From: 111, To: 120, Reason: "gone", T0: end + 3*hour, T1: end + 3*hour}, end+3*hour)
	n = node("odd", "complete") // frames that are there under times of a wrong clock
	c.row(n, 1, 101, 150, begin+hour, nil)
	c.row(n, 1, 151, 200, begin-300*hour, uncertain)
	c.row(n, 1, 201, 220, end+9*hour, func(h *wire.Header) { uncertain(h); late(h) })
	c.row(n, 1, 221, 300, end, nil)
	n = node("doubtful", "complete") // it is certain only later
	c.row(n, 1, 101, 200, end+hour, uncertain)
	c.row(n, 1, 201, 300, end+20*hour, nil)
	n = node("parts", "missing; 1 101-101 missing false")
	for _, part := range []int{1, 3} {
		c.row(n, 1, 101, 101, begin+hour, func(h *wire.Header) { h.Part, h.Parts = part, 3 })
	}
	c.row(n, 1, 102, 300, end, nil)
	n = node("silent", "silent; 1 0-0 silent false")
	c.row(n, 1, 101, 200, begin+hour, nil)
	c.status(n, wire.Status{State: "online", ClockSet: true, Epoch: fmt.Sprintf("%016x", 1), NextSeq: 201, Version: "1.2"}, begin+hour)
	c.status(n, wire.Status{State: "offline", Reason: "lost"}, begin+hour+90*second)
	n = node("replaced", "replaced; 1 0-0 replaced false")
	c.row(n, 1, 101, 200, begin+hour, nil)
	c.row(n, 0xabcdef, 1, 7, begin+2*hour, nil)
	c.row(n, 0xabcdef, 8, 9, end, nil)
	n = node("backlog", "backlog; 1 101-199 backlog false")
	c.row(n, 1, 200, 300, end, nil)
	c.status(n, wire.Status{State: "online", ClockSet: true, Epoch: fmt.Sprintf("%016x", 1), NextSeq: 301, BacklogFrames: 99}, end+second)
	c.status("new.gw1", wire.Status{State: "online", ClockSet: true, Epoch: fmt.Sprintf("%016x", 1), NextSeq: 3}, later-second)
	want["new.gw1"] = "open; 1 0-0 open false; 1 1-2 missing false"
	write(t, db, c.lines)

	for _, language := range []string{"influxql", "flux"} {
		r, err := read.New(read.Config{URL: db.URL, Bucket: db.Bucket, Language: language})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		nodes, err := r.Nodes(t.Context(), begin-100*hour, later)
		if err != nil {
			t.Fatal(err)
		}
		if len(nodes) != len(want) {
			t.Errorf("%s: nodes %v", language, nodes)
		}
		for _, n := range nodes {
			w := ledger.NewWindow(begin, end)
			if err := r.Load(t.Context(), read.Query{Node: n.Name, From: begin, To: end, Now: later, Settle: true}, func(name string) *ledger.Window {
				if name != n.Name {
					t.Errorf("%s: asked for %s, got %s", language, n.Name, name)
				}
				return w
			}); err != nil {
				t.Fatal(err)
			}
			report := w.Report(later)
			if got := brief(&report); got != want[n.Name] && n.Name != "new.gw1" || n.Name == "new.gw1" && report.State() != "missing" {
				t.Errorf("%s: %s is %s, want %s", language, n.Name, got, want[n.Name])
			}
			if n.Name == "silent.gw1" && (report.Status.Version != "1.2" || !report.Status.Offline() || report.Heard != begin+hour+90*second) {
				t.Errorf("%s: %+v", language, report)
			}
		}
		// All nodes at once: what is missing in the window's own rows.
		all := map[string]*ledger.Window{}
		if err := r.Load(t.Context(), read.Query{From: begin, To: end, Now: later}, func(name string) *ledger.Window {
			if all[name] == nil {
				all[name] = ledger.NewWindow(begin, end)
			}
			return all[name]
		}); err != nil {
			t.Fatal(err)
		}
		for name, state := range map[string]string{"whole.gw1": "complete", "parts.gw1": want["parts.gw1"], "lost.gw1": want["lost.gw1"]} {
			report := all[name].Report(later)
			if got := brief(&report); got != state {
				t.Errorf("%s, all at once: %s is %s, want %s", language, name, got, state)
			}
		}
	}
}

// A database that is not there is not one that has heard of nobody.
func TestNoSuchDatabase(t *testing.T) {
	db := testservers.StartInfluxDB(t)
	for _, language := range []string{"influxql", "flux"} {
		r, err := read.New(read.Config{URL: db.URL, Bucket: "other/autogen", Language: language})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if nodes, err := r.Nodes(t.Context(), begin, end); err == nil {
			t.Errorf("%s: nodes %v", language, nodes)
		}
	}
}

// What is no answer of the database is an error, and never a complete day.
func TestAnswersThatAreNone(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("user:password\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, language := range []string{"influxql", "flux"} {
		for _, c := range []struct {
			name, body string
			status     int
		}{
			{"a portal", "<html>log in</html>", 200},
			{"json", `{"results":[]}`, 200},
			{"an empty page", "", 200},
			{"no rights", `{"code":"unauthorized","message":"unauthorized access","error":"unauthorized access"}`, 401},
			{"a redirect", "", 302},
			{"an error after rows", "name,tags,time,to\nlinli_ledger,\"epoch=0000000000000001,gateway=g,site=s\",5,7\nerror\n\"timeout\"\n", 200},
			{"an answer that breaks off", "name,tags,time,to\nlinli_ledger,\"epoch=0000000000000001,gateway=g,site=s\",5,7\n", 200},
			{"a broken row", "name,tags,time,to\nlinli_ledger,\"epoch=0000000000000001,gateway=g,site=s\",x,7\n", 200},
			{"an open quote", "name,tags,time,to\nlinli_ledger,\"epoch=0000", 200},
		} {
			var asked []string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked = append(asked, r.URL.Path+" "+r.Header.Get("Authorization"))
				w.Header().Set("Location", "/elsewhere")
				kind := "text/csv; charset=utf-8"
				if !strings.HasPrefix(c.body, "name") {
					kind = "text/html"
				}
				w.Header().Set("Content-Type", kind)
				w.WriteHeader(c.status)
				fmt.Fprint(w, c.body)
			}))
			r, err := read.New(read.Config{URL: server.URL + "/prefix", Org: "city", Bucket: "b", TokenFile: token, Language: language})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.Nodes(t.Context(), 0, 1); err == nil {
				t.Errorf("%s, %s: no error", language, c.name)
			} else if strings.Contains(err.Error(), "password") {
				t.Errorf("the error tells the password: %v", err)
			}
			path := map[string]string{"influxql": "/prefix/query", "flux": "/prefix/api/v2/query"}[language]
			if !slices.Contains(asked, path+" Token user:password") {
				t.Errorf("%s: asked %q", language, asked)
			}
			r.Close()
			server.Close()
		}
	}
	for _, cfg := range []read.Config{
		{URL: "localhost", Bucket: "b"}, {URL: "http://u:p@h", Bucket: "b"}, {URL: "http://h"}, {URL: "http://h", Bucket: "b", Language: "sql"}, {URL: "://", Bucket: "b"},
	} {
		if _, err := read.New(cfg); err == nil {
			t.Errorf("%+v accepted", cfg)
		}
	}
}
