package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"linli/internal/testservers"
)

// wholeSite has a counter that is read five times a second, so that no two readings are the same, beside some values of
// noise, and eight buttons with an alert each.
const wholeSite = yardHead + `buses:
  - id: tcp_1
    modbus_tcp: {address: "127.0.0.1:%d"}
    timeout: 5s # a value that was served and came too late was not read
    units:
      - {id: c, address: 1, profile: whole_counter}
  - id: tcp_2
    modbus_tcp: {address: "127.0.0.1:%d"}
    units:
      - {id: io1, address: 2, profile: waveshare_io_8ch}
devices:
  - {id: counter, unit: c, zone: yard, title: {zh: 计数, en: Counter}}
%srules:
  - {pack: buttons}
journal: {max_bytes: 8MiB}
uplink: {brokers: ["tcp://%s"], batch: 1s, commands: {keys: {city: %q}}}
console: {listen: "127.0.0.1:%d"}
`

const wholeCounter = "version: 1\nprofile: whole_counter" + profileHead + `  - {name: energy, table: input, address: 0, type: u32, unit: Wh, every: 200ms}
  - {name: voltage, table: input, address: 2, type: f64, unit: V, every: 200ms}
  - {name: power, table: input, address: 6, type: f64, unit: W, every: 200ms}
device:
  class: energy_meter
  points: {energy_kwh: energy, voltage_v: voltage, active_power_w: power}
`

const wholeButtons = 8

// wholeGateway is one gateway with the devices that it reads.
type wholeGateway struct {
	name    string
	bus     *countingBus // the counter
	buttons *countingBus
	site    string
	state   string
	pages   api
	process *process
	killed  kills
}

// kill ends the gateway with SIGKILL.
func (g *wholeGateway) kill() {
	g.killed.by(g.process.kill)
}

// wholeIngest is one of the city's ingests.
type wholeIngest struct {
	id, listen string
	process    *process
	seen       map[string]float64 // metrics of the process that runs
	before     map[string]float64 // of those that were killed
}

// whole is everything from the devices to the database, and what is done to it.
type whole struct {
	t        *testing.T
	r        *rand.Rand
	broker   *testservers.Mosquitto
	db       *testservers.InfluxDB
	dbProxy  *httptest.Server
	refusing atomic.Bool
	line     *slowLine
	disk     *testservers.Disk
	key      string // file; empty: nobody asks for anything
	token    string
	gateways []*wholeGateway
	ingests  []*wholeIngest
	sub      *subscriber
	begun    time.Time
	end      time.Time
	done     map[string]int // what was done
	junk     atomic.Int64   // messages
	repair   []string       // flags
}

func startWhole(t *testing.T, seed uint64, repair bool, flags ...string) *whole {
	t.Helper()
	w := &whole{t: t, r: rand.New(rand.NewPCG(seed, 1)), done: map[string]int{}, repair: flags}
	// What the broker has accepted is on its disk only every few seconds, and it has room for few messages of somebody
	// who is away.
	w.broker = testservers.StartMosquitto(t, "autosave_on_changes false", "autosave_interval 5", "max_queued_messages 20", "max_inflight_messages 20")
	w.db = testservers.StartInfluxDB(t)
	target, err := url.Parse(w.db.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorHandler = func(rw http.ResponseWriter, _ *http.Request, _ error) { rw.WriteHeader(http.StatusBadGateway) }
	w.dbProxy = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if w.refusing.Load() {
			rw.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		// Read at once: a proxy that still reads when the answer begins loses the connection now and then.
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		proxy.ServeHTTP(rw, r)
	}))
	t.Cleanup(w.dbProxy.Close)
	w.line = startLine(t, w.broker.Address)
	c := newCommander(t, w.broker.Address)
	if repair {
		w.key = c.key
	}
	w.token = writeFile(t, "token", "unused\n")
	w.disk = testservers.StartDisk(t, 48)
	for i := range 2 {
		w.gateways = append(w.gateways, w.newGateway(i, c.public))
	}
	for i := range 2 {
		w.ingests = append(w.ingests, &wholeIngest{id: fmt.Sprintf("ingest-%d", i+1), before: map[string]float64{}})
	}
	w.sub = subscribe(t, w.broker.Address, "linli/v1/+/alert/+")
	return w
}

func (w *whole) newGateway(i int, public string) *wholeGateway {
	w.t.Helper()
	g := &wholeGateway{name: fmt.Sprintf("gw%d", i+1), state: filepath.Join(w.t.TempDir(), "state")}
	if i == 1 {
		g.state = filepath.Join(w.disk.Dir, "state")
	}
	n, r := uint32(0), rand.New(rand.NewPCG(7, uint64(i)))
	g.bus = serveCounting(w.t, func(unit, address, count int) []uint16 {
		if unit != 1 || address+count > 10 {
			return nil
		}
		if address == 0 {
			n++
		}
		words := []uint16{uint16(n >> 16), uint16(n)}
		for range 2 {
			words = append(words, floatWords(r.Float64())...)
		}
		return words[address : address+count]
	})
	g.buttons = serveCounting(w.t, func(int, int, int) []uint16 { return nil })
	console := freePort(w.t)
	g.pages = api{w.t, fmt.Sprintf("http://127.0.0.1:%d", console)}
	g.site = writeSite(w.t, fmt.Sprintf(strings.Replace(wholeSite, "gw1", g.name, 1), g.bus.port, g.buttons.port, buttonsAt(wholeButtons), w.line.address, public, console), map[string]string{
		"profiles/whole_counter.yaml": wholeCounter, "packs/buttons.yaml": buttonsPack})
	return g
}

func (w *whole) run(g *wholeGateway) { g.process = start(w.t, "run", "-c", g.site, "--state", g.state) }

func (w *whole) ingest(in *wholeIngest) {
	in.listen = fmt.Sprintf("127.0.0.1:%d", freePort(w.t))
	args := []string{
		"ingest", "--broker", w.broker.URL, "--influx-url", w.dbProxy.URL, "--bucket", w.db.Bucket, "--token-file", w.token, "--client-id", in.id, "--listen", in.listen,
		"--filter", "$share/city/linli/v1/+/telemetry,$share/city/linli/v1/+/alert/+,$share/city/linli/v1/+/status",
	}
	if w.key != "" {
		args = append(args, "--command-key", w.key, "--command-kid", "city")
	}
	in.process = start(w.t, append(args, w.repair...)...)
	in.seen = map[string]float64{}
}

// killIngest ends an ingest with SIGKILL.
func (w *whole) killIngest(in *wholeIngest) {
	in.read()
	in.process.kill()
	for name, v := range in.seen {
		in.before[name] += v
	}
	in.seen = map[string]float64{}
}

var metricLine = regexp.MustCompile(`(?m)^(linli_\w+) (\S+)$`)

// metricsOf returns the metrics of a process that serves them, none where it does not answer.
func metricsOf(base string) map[string]float64 {
	values := map[string]float64{}
	resp, err := http.Get(base + "/metrics")
	if err != nil {
		return values
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return values
	}
	for _, m := range metricLine.FindAllSubmatch(text, -1) {
		if v, err := strconv.ParseFloat(string(m[2]), 64); err == nil {
			values[string(m[1])] = v
		}
	}
	return values
}

// read takes the metrics of the ingest that runs.
func (in *wholeIngest) read() { maps.Copy(in.seen, metricsOf("http://"+in.listen)) }

// metric adds up a counter over all ingests that ever ran.
func (w *whole) metric(name string) (sum float64) {
	for _, in := range w.ingests {
		in.read()
		sum += in.before[name] + in.seen[name]
	}
	return sum
}

// pauseUpTo waits for a random time.
func (w *whole) pauseUpTo(low, high time.Duration) {
	pause(low + time.Duration(w.r.Int64N(int64(high-low))))
}

// wholeFor says how long things happen: LINLI_WHOLE, as make soak sets it, or once each.
func wholeFor(t *testing.T) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(or(os.Getenv("LINLI_WHOLE"), "1s"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func wholeSeed(t *testing.T) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("LINLI_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("LINLI_SEED=%d", seed)
	return seed
}

// TestWholeRun lives through all that happens to gateways, brokers, ingests, databases, disks and lines. Then it is all
// left alone, and by and by everything that was measured is in the database, once, or was told as lost: the ledger says so by
// query, and it is true.
func TestWholeRun(t *testing.T) {
	t.Parallel()
	w := startWhole(t, wholeSeed(t), true, "--repair-every", "1s", "--repair-grace", "10s", "--repair-again", "20s")
	w.live(wholeFor(t))
	answers := w.settled(3*time.Minute, func(code int, _ []ledgerAnswer) bool { return code == exitGood })
	took := time.Since(w.end)
	var lines []string
	for i, g := range w.gateways {
		if len(answers) != len(w.gateways) {
			t.Fatalf("the ledger knows of %d gateways", len(answers))
		}
		a := &answers[i]
		for _, gap := range a.Gaps {
			if !gap.Told || gap.Reason == "" || gap.Reason == "gone" {
				t.Errorf("%s: a gap that is no told loss: %+v", a.Node, gap)
			}
		}
		lines = append(lines, w.count(g, a))
	}
	announced := w.announced()
	// What a full queue of the broker dropped comes once more, a minute after it was told.
	behind := w.behind(100*time.Second, announced)
	if len(behind) > 0 {
		t.Errorf("of %d alerts that were announced as durable the database does not have the last state of %d:\n  %s", len(announced), len(behind), strings.Join(behind, "\n  "))
	}
	asked, closed := w.metric("linli_repair_resends_asked_total"), w.metric("linli_repair_frames_closed_total")
	if asked == 0 || closed == 0 {
		t.Errorf("%v resends were asked for and %v frames came by them: the test shows too little", asked, closed)
	}
	for _, g := range w.gateways {
		g.process.stop(20 * time.Second)
	}
	books := w.books()
	if behind = w.behind(15*time.Second, books); len(behind) > 0 {
		t.Errorf("of %d alerts in the books of the gateways the database does not have the last state of %d:\n  %s", len(books), len(behind), strings.Join(behind, "\n  "))
	}
	if len(announced) < 5 {
		t.Errorf("only %d alerts were announced: the test shows too little", len(announced))
	}
	t.Log(w.table(fmt.Sprintf("the ledger was asked until %s after the last of it; %v resends asked for, %v frames came by them\n%s%s\n%d alerts announced as durable, %d in the books: of %d the database does not have the last state",
		took.Round(time.Second), asked, closed, w.show(answers), strings.Join(lines, "\n"), len(announced), len(books), len(behind))))
	for _, in := range w.ingests {
		in.process.stop(15 * time.Second)
	}
}

// TestWithoutRepairTheLedgerSaysSo lives through the same with nobody who asks for anything: something is missing in the
// end, and the ledger finds out and names it. Were it not so, TestWholeRun would prove nothing.
func TestWithoutRepairTheLedgerSaysSo(t *testing.T) {
	t.Parallel()
	w := startWhole(t, wholeSeed(t), false, "--repair-every", "1s", "--repair-grace", "10s")
	var deeds []string
	if os.Getenv("LINLI_WHOLE") == "" {
		deeds = []string{overflow}
	}
	w.live(wholeFor(t), deeds...)
	// Until every gap that is left is one of frames that did not arrive, and that for a while.
	since := time.Now()
	before := ""
	answers := w.settled(4*time.Minute, func(code int, answers []ledgerAnswer) bool {
		now := w.show(answers)
		if now != before || slices.ContainsFunc(answers, func(a ledgerAnswer) bool { return a.State != "missing" && !a.Complete }) {
			before, since = now, time.Now()
			return false
		}
		return code == exitNo && time.Since(since) > 10*time.Second
	})
	missing, named := 0, 0
	for i, g := range w.gateways {
		got := w.values(g)
		for _, o := range g.bus.counted() {
			if o.at.Before(w.end) && got[o.n] == 0 {
				missing++
			}
		}
		for _, gap := range answers[i].Gaps {
			if gap.Reason == "missing" && !gap.Told && gap.From > 0 && gap.Epoch != "" {
				named++
			}
		}
	}
	if missing == 0 || named == 0 {
		t.Errorf("%d values are missing and %d gaps are named", missing, named)
	}
	if asked := w.metric("linli_repair_resends_asked_total"); asked != 0 {
		t.Errorf("%v resends were asked for without a key", asked)
	}
	t.Log(w.table(fmt.Sprintf("%d values are missing; the ledger says\n%s", missing, w.show(answers))))
}
