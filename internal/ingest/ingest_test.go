package ingest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"go.uber.org/zap/zaptest"

	"linli/internal/alert"
	"linli/internal/ingest"
	"linli/internal/mqtt"
	"linli/internal/telemetry"
	"linli/internal/testservers"
	"linli/internal/wire"
)

const (
	node  = "riverside.gw1"
	topic = "linli/v1/riverside.gw1/telemetry"
	base  = int64(1_790_000_000_000_000_000)
)

// start runs an ingest until stop. change may change it before it runs.
func start(t *testing.T, cfg ingest.Config, change ...func(*ingest.Ingest)) (*ingest.Ingest, func()) {
	t.Helper()
	cfg.BatchAge = 10 * time.Millisecond
	cfg.MaxBackoff, cfg.SlowRetry = 50*time.Millisecond, 10*time.Millisecond
	if cfg.StopTimeout == 0 {
		cfg.StopTimeout = 200 * time.Millisecond
	}
	cfg.Now = func() time.Time { return time.Unix(0, base).Add(time.Hour) }
	in, err := ingest.New(cfg, zaptest.NewLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range change {
		c(in)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- in.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	eventually(t, "connected", func() bool { return in.Stats().Connected })
	return in, stop
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	testservers.Eventually(t, 20*time.Second, what, cond)
}

// client is a plain participant: it publishes, and collects what it subscribed to.
type client struct {
	t *testing.T
	s *mqtt.Session

	mu  sync.Mutex
	got []paho.Message
}

func connect(t *testing.T, broker, id string, filters ...string) *client {
	t.Helper()
	c := &client{t: t}
	s, err := mqtt.Connect(t.Context(), mqtt.Config{ClientID: id}, broker, mqtt.Options{OnMessage: func(m paho.Message) {
		c.mu.Lock()
		c.got = append(c.got, m)
		c.mu.Unlock()
		m.Ack()
	}})
	if err != nil {
		t.Fatal(err)
	}
	c.s = s
	t.Cleanup(func() { s.Close(50 * time.Millisecond) })
	for _, f := range filters {
		if err := s.Subscribe(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (c *client) publish(topic string, payload []byte) {
	c.t.Helper()
	token := c.s.Publish(topic, false, payload)
	select {
	case <-token.Done():
	case <-c.s.Lost():
		c.t.Fatal(c.s.Err())
	}
	if err := token.Error(); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) letters() []ingest.DeadLetter {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []ingest.DeadLetter
	for _, m := range c.got {
		var d ingest.DeadLetter
		if err := json.Unmarshal(m.Payload(), &d); err != nil {
			c.t.Fatal(err)
		}
		out = append(out, d)
	}
	return out
}

// twelve returns lines of a site, of which fakes of the database refuse the one with 666.
func twelve(site string) (lines []string) {
	for k := range 12 {
		value := k
		if k == 5 {
			value = 666
		}
		lines = append(lines, fmt.Sprintf("counter,gateway=gw1,site=%s n=%di %d", site, value, base+int64(k)))
	}
	return lines
}

// message builds a telemetry message of the given lines for frames from to to.
func message(from, to uint64, lines ...string) []byte {
	b := wire.AppendHeader(nil, &wire.Header{Epoch: 0xc0ffee, From: from, To: to, Count: len(lines), T0: base, T1: base + int64(to)*1e9})
	for _, l := range lines {
		b = append(append(b, l...), '\n')
	}
	return b
}

func line(n int, fields string) string {
	return fmt.Sprintf("counter,device=c1,gateway=gw1,site=riverside,zone=z %s %d", fields, base+int64(n)*1e9)
}

func TestRoundTripThroughRealServers(t *testing.T) {
	broker, db := testservers.StartMosquitto(t), testservers.StartInfluxDB(t)
	in, _ := start(t, ingest.Config{Brokers: []string{broker.URL}, Influx: ingest.Influx{URL: db.URL, Bucket: db.Bucket}})
	c := connect(t, broker.URL, "box", "linli/v1/dead/+")

	// Every kind, as the encoder writes it, in each packing.
	e := wire.NewEncoder("riverside", "gw1")
	text := "粤B·12345 \"引号\" \\ 逗号, 等号= 换行\n完"
	add := func(i int, point string, kind telemetry.Kind, q telemetry.Quality, v telemetry.Value) {
		e.Add(&telemetry.Series{Class: "sampler", Device: "d1", Zone: "b1", Point: point, Kind: kind}, base+123456789+int64(i), q, v)
	}
	for i, name := range []string{"none", "gzip", "zstd"} {
		add(i, "f", telemetry.Float, 0, telemetry.FloatValue(-1.25e-3))
		add(i, "i", telemetry.Int, 0, telemetry.IntValue(9007199254740993))
		add(i, "e", telemetry.Enum, 0, telemetry.EnumValue(3))
		add(i, "b", telemetry.Bool, 0, telemetry.BoolValue(true))
		add(i, "s", telemetry.KindText, telemetry.Uncertain, telemetry.TextValue(text))
		add(i, "dead", telemetry.Float, telemetry.BadComm, telemetry.Value{})
		e.Reset()
		body, n := e.Flush(nil)
		how, err := wire.ParseCompression(name)
		if err != nil {
			t.Fatal(err)
		}
		pack, err := wire.NewCompressor(how)
		if err != nil {
			t.Fatal(err)
		}
		h := wire.Header{Epoch: 0xc0ffee, From: uint64(i + 1), To: uint64(i + 1), Count: n, T0: base, T1: base + int64(i)*1e6}
		msg := append(wire.AppendHeader(nil, &h), body...)
		msg = wire.AppendLost(msg, &wire.Lost{Epoch: 0xc0ffee, Count: 5, Reason: "pending_full", T0: base, T1: base + int64(i)*1e6})
		c.publish(topic, pack.Pack(msg))
	}
	a := alert.Alert{ID: "01A", Identity: telemetry.Identity{Alert: "FireLaneBlocked", Subject: "lane1"}, Severity: telemetry.Critical,
		State: alert.ActiveUnacknowledged, Title: telemetry.Text{Zh: "消防通道被占用", En: "Fire lane blocked"}, Zone: "north", RaisedAt: time.Unix(0, base), Revision: 1, Durable: true}
	ev := wire.NewAlertEvent(node, &a, "raised", time.Unix(0, base+7))
	payload, err := ev.Encode()
	if err != nil {
		t.Fatal(err)
	}
	c.publish("linli/v1/"+node+"/alert/01A", payload)
	c.publish("linli/v1/"+node+"/alert/01A", nil)
	eventually(t, "five messages acknowledged", func() bool { return in.Stats().Acknowledged == 5 })

	rows, err := db.Query(`SELECT * FROM "sampler"`)
	if err != nil || len(rows) != 1 || len(rows[0].Values) != 3 {
		t.Fatalf("rows %+v, %v", rows, err)
	}
	for i := range 3 {
		row := rows[0].Row(i)
		for key, want := range map[string]any{
			"time": json.Number(fmt.Sprint(base + 123456789 + int64(i))), "device": "d1", "gateway": "gw1", "site": "riverside", "zone": "b1",
			"f": json.Number("-0.00125"), "i": json.Number("9007199254740993"), "e": json.Number("3"), "b": true, "s": text,
			"f_q": json.Number("0"), "s_q": json.Number("1"), "dead_q": json.Number("4"), "dead": nil,
		} {
			if row[key] != want {
				t.Errorf("row %d: %s is %v (%T), want %v", i, key, row[key], row[key], want)
			}
		}
	}
	types, err := db.Query(`SHOW FIELD KEYS FROM "sampler"`)
	if err != nil {
		t.Fatal(err)
	}
	kinds := fmt.Sprint(types[0].Values)
	for _, want := range []string{"[f float]", "[i integer]", "[e integer]", "[b boolean]", "[s string]", "[dead_q integer]"} {
		if !strings.Contains(kinds, want) {
			t.Errorf("field types %s lack %s", kinds, want)
		}
	}
	rows, err = db.Query(`SELECT * FROM "alert"`)
	if err != nil || len(rows) != 1 || len(rows[0].Values) != 1 {
		t.Fatalf("alerts %+v, %v", rows, err)
	}
	if row := rows[0].Row(0); row["title_zh"] != "消防通道被占用" || row["severity"] != "critical" || row["state"] != "active_unacknowledged" || row["time"] != json.Number(fmt.Sprint(base+7)) {
		t.Errorf("alert row %v", row)
	}
	for measurement, want := range map[string]int64{"linli_ledger": 3, "linli_loss": 3} {
		if n, err := db.Count(measurement, "count"); n != want || err != nil {
			t.Errorf("%s has %d rows (%v), want %d", measurement, n, err, want)
		}
	}
	if len(c.letters()) != 0 {
		t.Errorf("dead letters %+v", c.letters())
	}
}

// The status topic: by default it is read, and a will, which has no time, is a row of the moment in which it came.
func TestStatusBecomesRows(t *testing.T) {
	broker, db := testservers.StartMosquitto(t), testservers.StartInfluxDB(t)
	in, _ := start(t, ingest.Config{Brokers: []string{broker.URL}, Influx: ingest.Influx{URL: db.URL, Bucket: db.Bucket}})
	c := connect(t, broker.URL, "box", "linli/v1/dead/+")
	status := func(node, rest string) {
		c.publish("linli/v1/"+node+"/status", []byte(fmt.Sprintf(`{"node":"riverside.gw1",%s}`, rest)))
	}
	at := time.Unix(0, base).UTC().Format(time.RFC3339Nano)
	online := `"state":"online","clock_set":true,"next_seq":8,"backlog_frames":3,"time":"` + at + `"`
	status(node, online)
	status(node, online)                              // the same message twice
	status(node, `"state":"offline","reason":"lost"`) // the will
	status("riverside.gw2", online)                   // not his
	c.publish("linli/v1/"+node+"/status", nil)        // only clears what was retained
	status(node, `"state":"online","clock_set":true,"time":"2031-01-01T00:00:00Z"`)
	status(node, `"state":"online","clock_set":false,"time":"1970-01-01T00:01:00Z"`)
	eventually(t, "acknowledged", func() bool { return in.Stats().Acknowledged == 7 })
	all, err := db.Query(`SELECT "state","reason","next_seq","backlog_frames","clock_set" FROM "linli_status"`)
	if err != nil || len(all) != 1 {
		t.Fatalf("rows %+v, %v", all, err)
	}
	// The will and the last came at the same moment of this test's clock, and are one row here.
	arrival := time.Unix(0, base).Add(time.Hour).UnixNano()
	if got, want := fmt.Sprint(all[0].Values), fmt.Sprintf("[[%d online <nil> 8 3 true] [%d online lost 0 0 false]]", base, arrival); got != want {
		t.Errorf("rows %s, want %s", got, want)
	}
	eventually(t, "dead letters", func() bool { return len(c.letters()) == 2 })
	if s := in.Stats(); s.BadMessages != 2 || s.Foreign != 1 {
		t.Errorf("stats %+v", s)
	}
}

func TestBadLinesAreIsolated(t *testing.T) {
	broker, db := testservers.StartMosquitto(t), testservers.StartInfluxDB(t)
	in, _ := start(t, ingest.Config{Brokers: []string{broker.URL}, Influx: ingest.Influx{URL: db.URL, Bucket: db.Bucket}})
	c := connect(t, broker.URL, "box", "linli/v1/dead/+")
	c.publish(topic, message(1, 1, line(1, "n=1i")))
	eventually(t, "first message", func() bool { return in.Stats().Acknowledged == 1 })

	lines := []string{line(2, "n=2i"), line(3, `n="another type"`), line(4, "n=4i"),
		"counter,device=c1,gateway=gw1,site=hillside n=5i 5", // another site
		"alert,gateway=gw1,site=riverside x=1i 5",            // ours to write
		"nonsense", line(5, "n=5i")}
	c.publish(topic, message(2, 6, lines...))
	c.publish(topic, []byte("no header at all"))
	c.publish("linli/v1/"+node+"/alert/01A", []byte(`{"specversion":"1.0"}`))
	eventually(t, "bad messages acknowledged", func() bool { return in.Stats().Acknowledged == 4 })
	eventually(t, "dead letters", func() bool {
		n := 0
		for _, d := range c.letters() {
			n += d.Count
		}
		return n == 6
	})

	if n, err := db.Count("counter", "n"); n != 4 || err != nil {
		t.Errorf("%d rows (%v), want 4", n, err)
	}
	s := in.Stats()
	if s.BadLines != 3 || s.Foreign != 1 || s.RefusedLines != 1 || s.BadMessages != 2 || s.CountWrong != 0 || s.Holding != "" {
		t.Errorf("stats %+v", s)
	}
	var all []string
	for _, d := range c.letters() {
		if d.Node != node || d.Count != len(d.Lines) {
			t.Errorf("letter %+v", d)
		}
		for _, l := range d.Lines {
			all = append(all, l.Line)
		}
	}
	slices.Sort(all)
	want := []string{lines[1], lines[3], lines[4], lines[5], "no header at all", `{"specversion":"1.0"}`}
	slices.Sort(want)
	if !slices.Equal(all, want) {
		t.Errorf("dead lines %q, want %q", all, want)
	}
	if n, err := db.Count("linli_ledger", "count"); n != 2 || err != nil {
		t.Errorf("ledger has %d rows (%v)", n, err)
	}
}

// Killed before the acknowledgement: everything comes again, and is the same row.
func TestKilledBeforeAcknowledgement(t *testing.T) {
	broker, db := testservers.StartMosquitto(t), testservers.StartInfluxDB(t)
	var mu sync.Mutex
	swallow := true
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		resp, err := http.Post(db.URL+r.URL.String(), "text/plain", bytes.NewReader(body))
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		mu.Lock()
		defer mu.Unlock()
		if swallow {
			w.WriteHeader(http.StatusServiceUnavailable) // written, and the answer lost
			return
		}
		w.WriteHeader(resp.StatusCode)
	}))
	defer proxy.Close()
	cfg := ingest.Config{Brokers: []string{broker.URL}, Influx: ingest.Influx{URL: proxy.URL, Bucket: db.Bucket}, StopTimeout: time.Millisecond}
	first, stop := start(t, cfg)
	c := connect(t, broker.URL, "box")
	for i := range 20 {
		c.publish(topic, message(uint64(i+1), uint64(i+1), line(i, fmt.Sprintf("n=%di", i))))
	}
	eventually(t, "written and not acknowledged", func() bool { n, err := db.Count("counter", "n"); return err == nil && n > 0 })
	stop()
	if s := first.Stats(); s.Acknowledged != 0 {
		t.Fatalf("acknowledged %d messages that the database did not confirm", s.Acknowledged)
	}
	broker.Stop() // and the broker keeps its session over a restart
	broker.Start()
	mu.Lock()
	swallow = false
	mu.Unlock()
	second, _ := start(t, cfg)
	eventually(t, "all of them again", func() bool { return second.Stats().Acknowledged >= 20 })
	if n, err := db.Count("counter", "n"); n != 20 || err != nil {
		t.Errorf("%d rows (%v), want 20", n, err)
	}
}

func TestDatabaseRestart(t *testing.T) {
	broker, db := testservers.StartMosquitto(t), testservers.StartInfluxDB(t)
	in, _ := start(t, ingest.Config{Brokers: []string{broker.URL}, Influx: ingest.Influx{URL: db.URL, Bucket: db.Bucket}})
	c := connect(t, broker.URL, "box")
	db.Kill()
	for i := range 10 {
		c.publish(topic, message(uint64(i+1), uint64(i+1), line(i, "n=1i")))
	}
	eventually(t, "holding", func() bool { return in.Stats().Holding != "" })
	db.Start()
	eventually(t, "all acknowledged", func() bool { return in.Stats().Acknowledged == 10 && in.Stats().Holding == "" })
	if n, err := db.Count("counter", "n"); n != 10 || err != nil {
		t.Errorf("%d rows (%v), want 10", n, err)
	}
}

// fakeDB answers what a test wants and keeps the lines of good answers.
type fakeDB struct {
	mu     sync.Mutex
	answer func(body string) (status int, header, text string)
	lines  []string
	auth   string
	query  string
	posts  int
	other  []string // bodies of all other answers
}

func (f *fakeDB) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.posts++
	f.auth, f.query = r.Header.Get("Authorization"), r.URL.RawQuery
	status, header, text := f.answer(string(body))
	if header != "" {
		w.Header().Set("Retry-After", header)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprint(w, text)
	if status != http.StatusNoContent {
		f.other = append(f.other, string(body))
	} else {
		f.lines = append(f.lines, strings.Split(strings.TrimSuffix(string(body), "\n"), "\n")...)
	}
}

func (f *fakeDB) has(part string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.lines, func(l string) bool { return strings.Contains(l, part) })
}

// The table of answers: what is written in the end, what is dead, and that nothing is acknowledged before.
func TestAnswersOfTheDatabase(t *testing.T) {
	broker := testservers.StartMosquitto(t)
	bad := func(status int) func(int, string) (int, string, string) {
		return func(_ int, body string) (int, string, string) {
			if strings.Contains(body, "n=666i") {
				// The body claims another status: the library would believe it.
				return status, "", `{"code":"invalid","message":"no good","StatusCode":503}`
			}
			return 204, "", ""
		}
	}
	times := func(n, status int, header string) func(int, string) (int, string, string) {
		return func(post int, _ string) (int, string, string) {
			if post <= n {
				return status, header, "{}"
			}
			return 204, "", ""
		}
	}
	for i, c := range []struct {
		name   string
		answer func(post int, body string) (int, string, string)
		dead   int
		held   bool
	}{
		{"400 bad line", bad(400), 1, false},
		{"422 bad line", bad(422), 1, false},
		{"418 bad line", bad(418), 1, true},
		{"302 then good", times(2, 302, ""), 0, true},
		{"413 large", func(_ int, body string) (int, string, string) {
			if strings.Count(body, "\n") > 3 {
				return 413, "", "{}"
			}
			return 204, "", ""
		}, 0, false},
		{"413 single line", bad(413), 1, false},
		{"400 of everything", times(30, 400, ""), 0, true},
		// More often than an answer that is in no table is tried: held is never taken for bad lines.
		{"401", times(60, 401, ""), 0, true},
		{"403", times(60, 403, ""), 0, true},
		{"404", times(60, 404, ""), 0, true},
		{"200 of somebody else", times(60, 200, ""), 0, true},
		{"201 of a part", times(60, 201, ""), 0, true},
		{"408", times(3, 408, ""), 0, true},
		{"429 seconds", times(2, 429, "0.02"), 0, true},
		{"503 date", times(2, 503, time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat)), 0, true},
		{"500", times(3, 500, ""), 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := &fakeDB{}
			db.answer = func(body string) (int, string, string) { return c.answer(db.posts, body) }
			server := httptest.NewServer(db)
			defer server.Close()
			token := filepath.Join(t.TempDir(), "token")
			if err := os.WriteFile(token, []byte("user:password\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			site := fmt.Sprintf("site%d", i)
			n := site + ".gw1"
			in, stop := start(t, ingest.Config{
				Brokers: []string{broker.URL}, ClientID: "ingest-" + site, Filters: []string{"$share/g/linli/v1/" + n + "/telemetry"},
				Influx: ingest.Influx{URL: server.URL + "/prefix", Org: "city", Bucket: "b/rp", TokenFile: token},
			})
			defer stop()
			client := connect(t, broker.URL, "box-"+site, "linli/v1/dead/"+n)
			client.publish("linli/v1/"+n+"/telemetry", message(1, 1, twelve(site)...))
			held := false
			eventually(t, "acknowledged", func() bool {
				s := in.Stats()
				held = held || s.Retries > 0
				return s.Acknowledged == 1
			})
			// Held means that everything is kept as it is: nothing is searched for a bad line.
			if status, _, _ := strings.Cut(c.name, " "); slices.Contains([]string{"401", "403", "404", "200", "201"}, status) {
				for _, body := range db.other {
					if body != db.other[0] {
						t.Fatalf("%d bytes were tried instead of %d", len(body), len(db.other[0]))
					}
				}
			}
			if held != c.held {
				t.Errorf("held back %v, want %v", held, c.held)
			}
			for k := range 12 {
				if want := !(k == 5 && c.dead > 0); k != 5 && !db.has(fmt.Sprintf(" n=%di ", k)) || k == 5 && db.has("n=666i") != want {
					t.Errorf("line %d missing or there although refused", k)
				}
			}
			eventually(t, "dead letters", func() bool { return len(client.letters()) == c.dead })
			s := in.Stats()
			if s.RefusedLines != uint64(c.dead) || s.Holding != "" {
				t.Errorf("stats %+v", s)
			}
			if db.auth != "Token user:password" || db.query != "bucket=b%2Frp&org=city&precision=ns" {
				t.Errorf("request with %q, %q", db.auth, db.query)
			}
		})
	}
}

// More than the queue holds while the database is down: memory stays bounded, the broker waits, and when the database is
// back the rest comes on the same connection, each message once.
func TestFullQueueHoldsTheBrokerBack(t *testing.T) {
	broker := testservers.StartMosquitto(t)
	db := &fakeDB{answer: func(string) (int, string, string) { return 503, "", "" }}
	server := httptest.NewServer(db)
	defer server.Close()
	in, _ := start(t, ingest.Config{Brokers: []string{broker.URL}, QueueBytes: 8 << 10, Influx: ingest.Influx{URL: server.URL, Bucket: "b"}})
	client := connect(t, broker.URL, "box")
	const n = 60
	for i := range n {
		client.publish(topic, message(uint64(i+1), uint64(i+1), line(i, fmt.Sprintf("n=%di", i))))
	}
	eventually(t, "full queue", func() bool { return in.Stats().Throttled > 0 && in.Stats().Retries > 0 })
	if s := in.Stats(); s.QueueBytes > 8<<10 || s.QueueMessages < 10 || s.Messages > 40 || s.Acknowledged != 0 || !s.Connected {
		t.Errorf("stats %+v", s)
	}
	db.mu.Lock()
	db.answer = func(string) (int, string, string) { return 204, "", "" }
	db.mu.Unlock()
	eventually(t, "all acknowledged", func() bool { return in.Stats().Acknowledged >= n })
	for i := range n {
		if !db.has(fmt.Sprintf(" n=%di ", i)) {
			t.Errorf("message %d is missing", i)
		}
	}
	if s := in.Stats(); s.Messages != n || s.Acknowledged != n || !s.Connected || s.QueueBytes != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestConfigErrors(t *testing.T) {
	for name, c := range map[string]ingest.Config{
		"no broker":       {Influx: ingest.Influx{URL: "http://x", Bucket: "b"}},
		"broker":          {Brokers: []string{"http://x"}, Influx: ingest.Influx{URL: "http://x", Bucket: "b"}},
		"url":             {Brokers: []string{"tcp://x"}, Influx: ingest.Influx{URL: "://", Bucket: "b"}},
		"url without":     {Brokers: []string{"tcp://x"}, Influx: ingest.Influx{URL: "localhost:8086", Bucket: "b"}},
		"password in url": {Brokers: []string{"tcp://x"}, Influx: ingest.Influx{URL: "http://u:p@x", Bucket: "b"}},
		"no bucket":       {Brokers: []string{"tcp://x"}, Influx: ingest.Influx{URL: "http://x"}},
		"filter":          {Brokers: []string{"tcp://x"}, Filters: []string{"#"}, Influx: ingest.Influx{URL: "http://x", Bucket: "b"}},
	} {
		if _, err := ingest.New(c, nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
