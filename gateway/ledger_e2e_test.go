package main

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"linli/internal/alert"
	"linli/internal/journal"
	"linli/internal/site"
	"linli/internal/telemetry"
	"linli/internal/testservers"
	"linli/internal/uplink"
	"linli/internal/wire"
)

// noAlerts is an alert book with nothing in it.
type noAlerts struct{ changed chan struct{} }

func (noAlerts) Pending(string, int) []alert.Outgoing          { return nil }
func (noAlerts) Told(string, string, int64)                    {}
func (b noAlerts) Changed() <-chan struct{}                    { return b.changed }
func (noAlerts) Within(time.Time, time.Time) ([]string, error) { return nil, nil }
func (noAlerts) OpenAlerts() []alert.Alert                     { return nil }
func (noAlerts) Get(string) (alert.Alert, []alert.Entry, error) {
	return alert.Alert{}, nil, os.ErrNotExist
}

// realBox is the product's journal and uplink: what a gateway is for the city.
type realBox struct {
	t          *testing.T
	cfg        uplink.Config
	j          *journal.Journal
	clock      *telemetry.Clock
	point      telemetry.PointID
	n          int
	disconnect func() // stops the uplink in order

	mu       sync.Mutex // guards what follows
	up       *uplink.Uplink
	commands []wire.Command
}

func startRealBox(t *testing.T, broker string, key ed25519.PublicKey) *realBox {
	t.Helper()
	inv := &telemetry.Inventory{Site: "riverside", Gateway: "gw1"}
	class := &telemetry.Class{ID: "counter", Points: []telemetry.PointDef{{Name: "n", Kind: telemetry.Int}}}
	zone := inv.AddZone(telemetry.Zone{ID: "z", Parent: -1})
	b := &realBox{t: t, clock: telemetry.NewClock("boot", 0, time.Unix(0, 0))}
	b.point = inv.ProvidePoint(inv.AddDevice(telemetry.Device{ID: "c1", Class: class, Zone: zone}), 0)
	b.cfg = uplink.Config{
		Site: "riverside", Gateway: "gw1", Brokers: []string{broker}, StateDir: t.TempDir(), Batch: 10 * time.Millisecond, MinBackoff: 10 * time.Millisecond, Clock: b.clock,
		Commands: &uplink.Commands{Keys: map[string]ed25519.PublicKey{"city": key}, Allow: []string{wire.VerbResend}, Do: b.do, Refused: func(*wire.Command, string) {}},
	}
	var err error
	if b.j, err = journal.Open(journal.Config{Dir: t.TempDir()}, inv, b.clock); err != nil {
		t.Fatal(err)
	}
	stop := b.run(b.j.Run)
	b.connect()
	t.Cleanup(func() {
		b.disconnect()
		stop()
		if err := b.j.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func (b *realBox) run(part func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := part(ctx); err != nil {
			b.t.Error(err)
		}
	}()
	return func() { cancel(); <-done }
}

// connect starts the uplink, as a new process does.
func (b *realBox) connect() {
	b.t.Helper()
	up, err := uplink.New(b.cfg, b.j, noAlerts{make(chan struct{})}, zaptest.NewLogger(b.t))
	if err != nil {
		b.t.Fatal(err)
	}
	b.mu.Lock()
	b.up = up
	b.mu.Unlock()
	b.disconnect = b.run(up.Run)
}

// do carries out a command as the gateway does.
func (b *realBox) do(ctx context.Context, c *wire.Command) wire.Reply {
	b.mu.Lock()
	b.commands = append(b.commands, *c)
	up := b.up
	b.mu.Unlock()
	return (&cityCommands{up: up}).carryOut(ctx, c)
}

// sample commits one frame with one sample and waits until the broker has it, so that each is a message of its own.
func (b *realBox) sample() {
	b.t.Helper()
	now := b.clock.Now()
	b.n++
	b.j.Append(now, []telemetry.Sample{{Point: b.point, Time: now.Mono, Value: telemetry.IntValue(int64(b.n))}})
	if err := b.j.Commit(); err != nil {
		b.t.Fatal(err)
	}
	b.delivered()
}

func (b *realBox) delivered() {
	b.t.Helper()
	waitFor(b.t, 20*time.Second, "the broker's acknowledgement", func() bool { return b.up.Status().BacklogFrames == 0 })
}

func (b *realBox) asked() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.commands)
}

// commandKey makes a key pair as cities do; the private one is in the file.
func commandKey(t *testing.T) (ed25519.PublicKey, string) {
	t.Helper()
	dir := t.TempDir()
	if code, _, stderr := linli(t, "command", "keygen", "--out", filepath.Join(dir, "city.pem")); code != exitGood {
		t.Fatal(stderr)
	}
	text, err := os.ReadFile(filepath.Join(dir, "city.pub.pem"))
	if err != nil {
		t.Fatal(err)
	}
	public, err := site.ParsePublicKeyPEM(text)
	if err != nil {
		t.Fatal(err)
	}
	return public, filepath.Join(dir, "city.pem")
}

// A broker with a small queue, ingest away, and then the broker is killed: what the broker had acknowledged and had no room
// for never reaches the city by itself, and the gateway has no reason to send it again. The ledger says so, names the gap, and
// ingest asks for it: all of it is there in the end, and the ledger says that as well.
func TestCompletenessReturnsUnaided(t *testing.T) {
	public, keyFile := commandKey(t)
	c := &city{broker: testservers.StartMosquitto(t, "max_queued_messages 20", "max_inflight_messages 5"), db: testservers.StartInfluxDB(t)}
	metrics := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	c.token = writeFile(t, "token", "unused\n")
	startIngest := func(more ...string) *process {
		return start(t, append([]string{
			"ingest", "--broker", c.broker.URL, "--influx-url", c.db.URL, "--bucket", c.db.Bucket, "--token-file", c.token, "--client-id", "ingest-test",
			"--command-key", keyFile, "--command-kid", "city", "--listen", metrics,
		}, more...)...)
	}
	begin := time.Now().Add(-time.Second)
	ingest := startIngest()
	have := func() int64 {
		n, err := c.db.Count("counter", "n")
		if err != nil {
			return -1
		}
		return n
	}
	waitFor(t, 20*time.Second, "ingest", func() bool { return strings.Contains(ingest.out.String(), "ingest connected") })
	b := startRealBox(t, c.broker.URL, public)
	for range 10 {
		b.sample()
	}
	waitFor(t, 20*time.Second, "ten samples", func() bool { return have() == 10 })

	ingest.stop(10 * time.Second)
	for range 60 {
		b.sample()
	}
	c.broker.Kill() // with a backlog, half of which it has no room for
	c.broker.Start()
	waitFor(t, 20*time.Second, "the gateway", func() bool { return b.up.Status().Connects == 2 })
	b.sample()
	b.delivered()
	if b.up.Status().SentAgain == 0 {
		t.Error("the gateway did not send again what a broker forgets: the test shows less than it should")
	}
	end := time.Now()
	// A restart of the gateway: its status says at once, and not only after a minute, that it has nothing to send.
	b.disconnect()
	b.connect()

	// The gateway lives on, and by and by everything until the end of the window is settled.
	var living sync.WaitGroup
	stop := make(chan struct{})
	living.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Millisecond):
				b.sample()
			}
		}
	})
	defer func() { close(stop); living.Wait() }()

	ask := func() (code int, out string) {
		args := []string{"ledger", "--influx-url", c.db.URL, "--bucket", c.db.Bucket, "--token-file", c.token,
			"--from", begin.Format(time.RFC3339Nano), "--to", end.Format(time.RFC3339Nano)}
		code, out, stderr := linli(t, args...)
		return code, out + stderr
	}
	ingest = startIngest("--repair-every", "1h") // it does not ask yet
	var out string
	waitFor(t, 60*time.Second, "the ledger to say that it is settled and something is missing", func() bool {
		var code int
		code, out = ask()
		return code == exitNo && strings.Contains(out, "missing") && !strings.Contains(out, "open") && !strings.Contains(out, "silent")
	})
	t.Logf("before:\n%s", out)
	gap := regexp.MustCompile(`(?m)^    missing +缺失  frames 帧 (\d+)-(\d+) of [0-9a-f]{16}  \d{4}-`).FindStringSubmatch(out)
	if gap == nil || !strings.Contains(out, "0 of 1 complete") {
		t.Fatalf("no gap is named:\n%s", out)
	}
	if b.asked() != 0 {
		t.Fatal("the gateway was asked although nobody should ask")
	}
	if n := have(); n >= int64(b.n) {
		t.Fatalf("%d of %d samples are there: nothing is missing", n, b.n)
	}
	ingest.stop(10 * time.Second)

	ingest = startIngest("--repair-every", "500ms", "--repair-grace", "2s")
	waitFor(t, 60*time.Second, "completeness", func() bool {
		var code int
		code, out = ask()
		return code == exitGood
	})
	t.Logf("after %d commands:\n%s", b.asked(), out)
	if !regexp.MustCompile(`riverside\.gw1 +complete`).MatchString(out) || !strings.Contains(out, "1 of 1 complete") {
		t.Errorf("the ledger says\n%s", out)
	}
	rows := c.query(`SELECT "n" FROM "counter" WHERE "n" <= 71`)
	if len(rows) != 71 {
		t.Errorf("%d of 71 samples", len(rows))
	}
	metric := func(name string) float64 {
		resp, err := http.Get("http://" + metrics + "/metrics")
		if err != nil {
			return -1
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		m := regexp.MustCompile(`(?m)^` + name + ` (.*)$`).FindSubmatch(text)
		if err != nil || m == nil {
			return -1
		}
		v, err := strconv.ParseFloat(string(m[1]), 64)
		if err != nil {
			return -1
		}
		return v
	}
	waitFor(t, 20*time.Second, "the metrics", func() bool {
		return metric("linli_repair_open_gaps") == 0 && metric("linli_repair_frames_closed_total") > 0 &&
			metric("linli_repair_resends_asked_total") == float64(b.asked()) && metric("linli_repair_failing") == 0
	})
	if rows := c.query(`SELECT "state","complete","percent" FROM "linli_hour" WHERE "missing" = 0`); len(rows) == 0 {
		t.Error("nobody wrote down that nothing is missing")
	}
	// What has come is not asked for again.
	asked, rounds := b.asked(), metric("linli_repair_rounds_total")
	waitFor(t, 20*time.Second, "three more rounds", func() bool { return metric("linli_repair_rounds_total") >= rounds+3 })
	if n := b.asked(); n != asked {
		t.Errorf("asked %d times more although all was there", n-asked)
	}
	ingest.stop(10 * time.Second)
}
