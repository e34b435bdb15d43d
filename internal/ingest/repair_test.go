package ingest_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"linli/internal/alert"
	"linli/internal/ingest"
	"linli/internal/ledger/read"
	"linli/internal/testservers"
	"linli/internal/wire"
)

// repairCity is a database with rows of some gateways, and a broker on which commands are heard.
type repairCity struct {
	t      *testing.T
	broker *testservers.Mosquitto
	db     *testservers.InfluxDB
	public ed25519.PublicKey
	key    string
	heard  *client
	lines  []byte

	mu  sync.Mutex // guards now
	now time.Time
}

func newRepairCity(t *testing.T) *repairCity {
	t.Helper()
	c := &repairCity{t: t, broker: testservers.StartMosquitto(t), db: testservers.StartInfluxDB(t), now: time.Date(2026, 10, 1, 8, 20, 0, 0, time.UTC)}
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	c.public, c.key = public, filepath.Join(t.TempDir(), "city.pem")
	if err := os.WriteFile(c.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	c.heard = connect(t, c.broker.URL, "listener", "linli/v1/+/cmd/resend")
	return c
}

func (c *repairCity) clock() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *repairCity) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// rows appends a row for each frame from..to that is not left out, the last at the moment at, one each second.
func (c *repairCity) rows(node string, from, to uint64, at time.Time, leftOut ...uint64) {
	site, gateway, _ := wire.SplitNode(node)
	for seq := from; seq <= to; seq++ {
		if slices.Contains(leftOut, seq) {
			continue
		}
		t := at.Add(-time.Duration(to-seq) * time.Second).UnixNano()
		c.lines = wire.AppendLedgerLine(c.lines, site, gateway, &wire.Header{Epoch: 7, From: seq, To: seq, Count: 1, T0: t, T1: t, Settled: t})
	}
}

func (c *repairCity) status(node, state, reason string, at time.Time, backlog uint64) {
	site, gateway, _ := wire.SplitNode(node)
	s := wire.Status{Node: node, State: state, Reason: reason}
	if reason != "lost" {
		s.Time, s.ClockSet, s.Epoch, s.NextSeq, s.BacklogFrames = at, true, fmt.Sprintf("%016x", 7), 1, backlog
	}
	c.lines = wire.AppendStatusLine(c.lines, site, gateway, &s, at.UnixNano())
}

func (c *repairCity) write() {
	c.t.Helper()
	resp, err := http.Post(c.db.URL+"/api/v2/write?bucket=linli/autogen&precision=ns", "text/plain", bytes.NewReader(c.lines))
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		c.t.Fatal(resp.Status)
	}
	c.lines = nil
}

// start runs a repairer until stop.
func (c *repairCity) start(id string, change func(*ingest.Config)) (*ingest.Repairer, func()) {
	c.t.Helper()
	cfg := ingest.Config{
		Brokers: []string{c.broker.URL}, ClientID: id, Influx: ingest.Influx{URL: c.db.URL, Bucket: c.db.Bucket}, Now: c.clock,
		Repair: ingest.Repair{KeyFile: c.key, KeyName: "city", Every: 100 * time.Millisecond, Grace: 2 * time.Minute},
	}
	if change != nil {
		change(&cfg)
	}
	in, err := ingest.New(cfg, zaptest.NewLogger(c.t))
	if err != nil {
		c.t.Fatal(err)
	}
	r, err := ingest.NewRepairer(in)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{in.Run, r.Run} {
		running.Go(func() {
			if err := run(ctx); err != nil {
				c.t.Error(err)
			}
		})
	}
	stop := sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	c.t.Cleanup(stop)
	eventually(c.t, "connected", func() bool { return in.Stats().Connected })
	return r, stop
}

// commands returns what was heard, each different payload once: node and range.
func (c *repairCity) commands() (all int, different map[string]string) {
	c.t.Helper()
	c.heard.mu.Lock()
	defer c.heard.mu.Unlock()
	different = map[string]string{}
	for _, m := range c.heard.got {
		topic, err := wire.ParseTopic(m.Topic())
		if err != nil {
			c.t.Fatal(err)
		}
		cmd, err := wire.ParseCommand(m.Payload(), topic, map[string]ed25519.PublicKey{"city": c.public}, c.clock())
		if err != nil {
			c.t.Fatalf("%s: %v", m.Payload(), err)
		}
		var args wire.ResendArgs
		if err := json.Unmarshal(cmd.Args, &args); err != nil || args.Epoch != fmt.Sprintf("%016x", 7) && args.AlertsSince.IsZero() {
			c.t.Fatalf("args %s, %v", cmd.Args, err)
		}
		if !args.AlertsSince.IsZero() {
			different[string(m.Payload())] = fmt.Sprintf("%s alerts since %s %s", cmd.Node, args.AlertsSince.Format(time.RFC3339Nano), cmd.ID)
			continue
		}
		different[string(m.Payload())] = fmt.Sprintf("%s %d-%d %s", cmd.Node, args.From, args.To, cmd.ID)
	}
	return len(c.heard.got), different
}

// ranges returns the different ranges asked for.
func (c *repairCity) ranges() []string {
	_, different := c.commands()
	var out []string
	for _, what := range different {
		out = append(out, what[:strings.LastIndex(what, " ")])
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func seqs(from, to uint64) (all []uint64) {
	for ; from <= to; from++ {
		all = append(all, from)
	}
	return all
}

// What is asked for, and what is not.
func TestWhatIsAskedFor(t *testing.T) {
	c := newRepairCity(t)
	now := c.clock()
	old := now.Add(-5 * time.Minute)
	c.rows("gap.gw1", 1, 600, now, 300, 301, 302)         // five minutes ago
	c.rows("fresh.gw1", 1, 600, now, 590)                 // may still be on its way
	c.rows("away.gw1", 1, 600, now, 300)                  // offline
	c.status("away.gw1", "offline", "lost", now, 0)       //
	c.rows("off.gw1", 1, 600, now.Add(-2*time.Hour), 300) // offline since
	c.status("off.gw1", "offline", "stopped", now.Add(-2*time.Hour), 0)
	c.rows("half.gw1", 1, 600, now, seqs(420, 560)...) // ends within the last two minutes
	c.rows("backlog.gw1", 1, 300, old, 10, 11, 12)     // says itself that it has more to send
	c.rows("backlog.gw1", 401, 600, now)               //
	c.status("backlog.gw1", "online", "", now, 500)    //
	c.rows("told.gw1", 1, 600, now, 300)               // told as lost
	c.lines = wire.AppendLossLine(c.lines, "told", "gw1", &wire.Lost{Epoch: 7, From: 300, To: 300, Count: 5, Reason: "space", T0: old.UnixNano(), T1: old.UnixNano()}, old.UnixNano())
	c.rows("whole.gw1", 1, 600, now)
	c.rows("long.gw1", 1, 10, now.Add(-4*time.Hour)) // four hours ago: in pieces
	c.rows("long.gw1", 14001, 14200, now)
	for i := range uint64(20) { // many: eight at a time
		c.rows("many.gw1", 30*i+1, 30*i+30, now.Add(-time.Duration(20-i)*30*time.Second), 30*i+15)
	}
	c.rows("many.gw1", 601, 620, now)
	c.write()
	r, _ := c.start("one", nil)
	eventually(t, "some rounds", func() bool { return r.Stats().Rounds >= 8 })
	want := []string{"gap.gw1 300-302", "long.gw1 11-3610", "long.gw1 3611-7210", "long.gw1 7211-10810", "long.gw1 10811-14000"}
	for i := range uint64(20) {
		if 30*i+15 < 500 { // the last are fresh
			want = append(want, fmt.Sprintf("many.gw1 %d-%d", 30*i+15, 30*i+15))
		}
	}
	got := c.ranges()
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("not asked: %s", w)
		}
	}
	for _, g := range got {
		if !slices.Contains(want, g) {
			t.Errorf("asked in vain: %s", g)
		}
	}
	all, different := c.commands()
	if all != len(different) {
		t.Errorf("%d commands, %d different", all, len(different))
	}
	if s := r.Stats(); s.OpenGaps < 20 || s.Asked != uint64(all) || s.Failing != "" {
		t.Errorf("stats %+v", s)
	}

	// The gateway that was away comes back; the gap is closed, by frames and by a loss.
	c.status("away.gw1", "online", "", now.Add(time.Second), 0)
	c.rows("gap.gw1", 300, 301, old)
	c.lines = wire.AppendLossLine(c.lines, "gap", "gw1", &wire.Lost{Epoch: 7, From: 302, To: 302, Reason: "gone", T0: now.UnixNano(), T1: now.UnixNano()}, now.UnixNano())
	c.write()
	closed := r.Stats().ClosedFrames
	eventually(t, "three frames are closed", func() bool { return r.Stats().ClosedFrames == closed+3 })
	eventually(t, "who is back is asked", func() bool { return slices.Contains(c.ranges(), "away.gw1 300-300") })

	// In the next slot what is still missing is asked for again, with other commands.
	c.pass(slotLength)
	for _, n := range []string{"gap.gw1", "many.gw1"} {
		c.rows(n, 621, 622, c.clock())
	}
	c.write()
	eventually(t, "asked again", func() bool {
		_, different := c.commands()
		n := 0
		for _, what := range different {
			if strings.HasPrefix(what, "many.gw1 15-15 ") {
				n++
			}
		}
		return n == 2
	})
	if slices.Contains(c.ranges(), "gap.gw1 302-302") {
		t.Error("asked for what was told as gone")
	}
}

const slotLength = 10 * time.Minute

// A gateway that goes away while something is missing, and comes back within the hour, is asked as soon as it is back.
func TestWhoComesBackIsAskedAtOnce(t *testing.T) {
	c := newRepairCity(t)
	c.rows("gap.gw1", 1, 600, c.clock(), 300)
	c.write()
	r, _ := c.start("one", nil)
	eventually(t, "the first command", func() bool { n, _ := c.commands(); return n == 1 })
	c.status("gap.gw1", "offline", "lost", c.clock().Add(time.Second), 0)
	c.write()
	c.pass(slotLength)
	rounds := r.Stats().Rounds
	eventually(t, "some rounds", func() bool { return r.Stats().Rounds >= rounds+5 })
	if n, _ := c.commands(); n != 1 {
		t.Fatalf("%d commands to a gateway that is away", n-1)
	}
	c.status("gap.gw1", "online", "", c.clock(), 0)
	c.write()
	eventually(t, "the second command", func() bool { _, different := c.commands(); return len(different) == 2 })
}

// Ten ingests look in turn and ask with one command.
func TestTenAskOnce(t *testing.T) {
	c := newRepairCity(t)
	c.rows("gap.gw1", 1, 600, c.clock(), 300, 301, 302)
	c.write()
	var all []*ingest.Repairer
	for i := range 10 {
		r, _ := c.start(fmt.Sprintf("ingest-%d", i), nil)
		all = append(all, r)
	}
	eventually(t, "everybody has looked", func() bool {
		return !slices.ContainsFunc(all, func(r *ingest.Repairer) bool { return r.Stats().Rounds < 5 })
	})
	n, different := c.commands()
	if len(different) != 1 || n > 10 || n == 0 {
		t.Errorf("%d commands, different: %v", n, different)
	}
}

// An hour that is complete is written down as such, and so is one that is not; who looks later need not look again.
func TestHoursAreWrittenDown(t *testing.T) {
	c := newRepairCity(t)
	now := c.clock() // 8:20
	begin := now.Add(-200 * time.Minute)
	minutes := func(node string, leftOut ...uint64) {
		site, gateway, _ := wire.SplitNode(node)
		for seq := uint64(1); seq <= 200; seq++ {
			t := begin.Add(time.Duration(seq) * time.Minute).UnixNano()
			if !slices.Contains(leftOut, seq) {
				c.lines = wire.AppendLedgerLine(c.lines, site, gateway, &wire.Header{Epoch: 7, From: seq, To: seq, Count: 1, T0: t, T1: t, Settled: t})
			}
		}
	}
	minutes("whole.gw1")
	minutes("gap.gw1", 100, 101) // 6:40, 6:41
	c.write()
	r, stop := c.start("one", func(cfg *ingest.Config) { cfg.Repair.KeyFile, cfg.Repair.KeyName = "", "" })
	hours := func() string {
		all, err := c.db.Query(`SELECT "complete","state","frames","missing","percent" FROM "linli_hour" WHERE time < '2026-10-01T08:00:00Z' GROUP BY "site" ORDER BY time`)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, s := range all {
			for i := range s.Values {
				row := s.Row(i)
				out = append(out, fmt.Sprintf("%s %v %v %v %v %.5v", s.Tags["site"], row["complete"], row["state"], row["frames"], row["missing"], row["percent"]))
			}
		}
		return strings.Join(out, "\n")
	}
	want := "gap true complete 59 0 100\ngap false missing 58 2 96.66\ngap true complete 60 0 100\nwhole true complete 59 0 100\nwhole true complete 60 0 100\nwhole true complete 60 0 100"
	eventually(t, "six hours", func() bool { return strings.Count(hours(), "\n") == 5 && r.Stats().Rounds > 0 })
	if got := hours(); got != want {
		t.Errorf("hours\n%s\nwant\n%s", got, want)
	}
	if n, _ := c.commands(); n != 0 {
		t.Errorf("%d commands without a key", n)
	}
	checks, err := c.db.Query(`SELECT * FROM "linli_check" WHERE "kind" = 'hours'`)
	if err != nil || len(checks) != 1 || checks[0].Row(0)["client"] != "one" {
		t.Errorf("checks %v, %v", checks, err)
	}
	stop()
	if s := r.Stats(); s.Failing != "" || s.Rounds == 0 || s.HoursLooked < 6 || s.HoursWaiting != 0 {
		t.Errorf("stats %+v", s)
	}

	// Who asks later rests on what is complete for good, in both languages, until something comes for it.
	from := now.Add(-200 * time.Minute).Truncate(time.Hour).UnixNano()
	hour := int64(time.Hour)
	judged := func() string {
		t.Helper()
		var said []string
		for _, language := range []string{"influxql", "flux"} {
			reader, err := read.New(read.Config{URL: c.db.URL, Bucket: c.db.Bucket, Language: language})
			if err != nil {
				t.Fatal(err)
			}
			defer reader.Close()
			for _, node := range []string{"", "whole.gw1"} {
				hours, err := reader.Judged(t.Context(), node, from, now.UnixNano(), now.UnixNano())
				if err != nil {
					t.Fatal(err)
				}
				text := ""
				for _, n := range []string{"gap.gw1", "whole.gw1"} {
					for _, h := range hours[n] {
						if node == "" || n == node {
							text += fmt.Sprintf(" %.1s%d/%d", n, (h.Start-from)/hour, h.Frames)
						}
					}
				}
				said = append(said, text)
			}
		}
		if said[0] != said[2] || said[1] != said[3] || !strings.HasSuffix(said[0], said[1]) {
			t.Errorf("the languages and questions differ: %q", said)
		}
		return strings.TrimSpace(said[0])
	}
	if got := judged(); got != "g0/59 g2/60 w0/59 w1/60 w2/60" {
		t.Errorf("judged %s", got)
	}
	// Something comes for the second hour and those after it; an older version writes the first one down again.
	c.lines = wire.AppendLateLine(c.lines, "two", "whole", "gw1", from+hour, now.UnixNano())
	c.lines = fmt.Appendf(c.lines, "linli_hour,gateway=gw1,site=gap complete=true,checked=%di %d\n", now.UnixNano()+1, from)
	c.write()
	if got := judged(); got != "g2/60 w0/59" {
		t.Errorf("after something came: judged %s", got)
	}
	// Another journal begins.
	c.lines = wire.AppendLossLine(c.lines, "gap", "gw1", &wire.Lost{Epoch: 8, From: 1, To: 1, Reason: "space", T0: now.UnixNano(), T1: now.UnixNano()}, now.UnixNano())
	c.write()
	if got := judged(); got != "w0/59" {
		t.Errorf("with another journal: judged %s", got)
	}
	// Who looks again finds the same, and it is sealed again.
	c.pass(time.Hour)
	again, _ := c.start("three", func(cfg *ingest.Config) { cfg.Repair.KeyFile, cfg.Repair.KeyName = "", "" })
	eventually(t, "sealed again", func() bool { return again.Stats().Rounds > 0 && judged() == "w0/59 w1/60 w2/60" })
}

// A database that answers no queries stops nothing, and is told of.
func TestRepairWithoutQueries(t *testing.T) {
	c := newRepairCity(t)
	c.db.Stop()
	r, _ := c.start("one", nil)
	eventually(t, "failing", func() bool { s := r.Stats(); return s.Failing != "" && s.Failures >= 2 && s.Rounds == 0 })
	c.db.Start()
	eventually(t, "well", func() bool { s := r.Stats(); return s.Failing == "" && s.Rounds > 0 })
	for name, change := range map[string]func(*ingest.Config){
		"a key without a name": func(cfg *ingest.Config) { cfg.Repair.KeyName = "" },
		"no such key":          func(cfg *ingest.Config) { cfg.Repair.KeyFile += "x" },
		"a language":           func(cfg *ingest.Config) { cfg.Repair.Language = "sql" },
	} {
		cfg := ingest.Config{Brokers: []string{c.broker.URL}, Influx: ingest.Influx{URL: c.db.URL, Bucket: c.db.Bucket}, Repair: ingest.Repair{KeyFile: c.key, KeyName: "city"}}
		change(&cfg)
		in, err := ingest.New(cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ingest.NewRepairer(in); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Who has counted more alerts than have arrived is asked to tell them again, by ten ingests with one command, until they have.
func TestAlertsAreAskedFor(t *testing.T) {
	c := newRepairCity(t)
	now := c.clock()
	count := func(site string, raised int, at time.Time) {
		c.lines = fmt.Appendf(c.lines, "gateway,device=gw1,gateway=gw1,site=%s alerts_raised=%di,alerts_closed=0i %d\n", site, raised, at.UnixNano())
	}
	told := func(site, id string, at time.Time) {
		c.lines = wire.AppendAlertLine(c.lines, site, "gw1", &wire.AlertEvent{Time: at, Data: alert.Alert{ID: id, Revision: 1, RaisedAt: at}})
	}
	for _, site := range []string{"whole", "short", "away"} {
		c.rows(site+".gw1", 1, 600, now)
		count(site, 1, now.Add(-25*time.Hour))
		count(site, 3, now.Add(-3*time.Minute))
		told(site, "A", now.Add(-4*time.Hour))
	}
	told("whole", "B", now.Add(-3*time.Hour))
	c.status("away.gw1", "offline", "lost", now, 0)
	count("short", 9, now.Add(-time.Minute)) // may still be on their way
	c.write()
	r, stop := c.start("one", nil)
	c.start("two", nil)
	const ask = "short.gw1 alerts since 2026-09-30T08:00:00Z"
	eventually(t, "asked", func() bool { return slices.Contains(c.ranges(), ask) })
	c.pass(slotLength)
	eventually(t, "more looks", func() bool { return r.Stats().Rounds >= 30 })
	all, different := c.commands()
	for what, text := range different {
		if !strings.HasPrefix(text, ask) {
			t.Errorf("asked in vain: %s (%s)", text, what)
		}
	}
	if len(different) != 1 || all > 8 {
		t.Errorf("%d commands, %d different", all, len(different))
	}
	stop()
	// They have come: an hour later nobody is asked.
	told("short", "B", now.Add(-2*time.Hour))
	for id := range 6 { // the same alert again and again
		told("short", fmt.Sprint(id), now.Add(-time.Minute-time.Duration(id)*time.Second))
	}
	c.write()
	c.pass(alertSlot)
	again, _ := c.start("three", nil)
	eventually(t, "more looks", func() bool { return again.Stats().Rounds >= 30 })
	c.heard.mu.Lock()
	defer c.heard.mu.Unlock()
	if len(c.heard.got) != all || again.Stats().AlertsMissing != 1 { // of the one that is away
		t.Errorf("%d commands more, stats %+v", len(c.heard.got)-all, again.Stats())
	}
}

const alertSlot = 6 * slotLength
