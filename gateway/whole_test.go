package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net"
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
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"linli/internal/alert"
	"linli/internal/mqtt"
	"linli/internal/testservers"
)

// wholeSite has a counter that is read five times a second, so that no two readings are the same, beside some values of
// noise, and eight buttons with an alert each.
const wholeSite = `
version: 1
site: test
gateway: %s
title: {zh: 测试小区, en: Test community}
timezone: Asia/Shanghai
zones:
  - {id: yard, kind: area, title: {zh: 院子, en: Yard}}
buses:
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
  - {pack: whole}
journal: {max_bytes: 8MiB}
uplink: {brokers: ["tcp://%s"], batch: 1s, commands: {keys: {city: %q}}}
console: {listen: "127.0.0.1:%d"}
`

const wholeCounter = `
version: 1
profile: whole_counter
vendor: test
model: a counter
title: {zh: 计数表, en: Counter}
status: confirmed
sources: [test]
channels:
  - {name: energy, table: input, address: 0, type: u32, unit: Wh, every: 200ms}
  - {name: voltage, table: input, address: 2, type: f64, unit: V, every: 200ms}
  - {name: power, table: input, address: 6, type: f64, unit: W, every: 200ms}
device:
  class: energy_meter
  points: {energy_kwh: energy, voltage_v: voltage, active_power_w: power}
`

const wholePack = `
version: 1
pack: whole
title: {zh: 测试, en: Test}
rules:
  - alert: ButtonPressed
    for_each: call_button
    expr: pressed
    severity: warning
    life_safety: true
    title: {zh: "{{zone}}求助", en: "Call at {{zone}}"}
`

const wholeButtons = 8

// commitSlack is how long before a kill what was served may be lost: a commit interval and a second.
const commitSlack = 2 * time.Second

// slowLine is the network between the gateways and the broker.
type slowLine struct {
	address string
	target  string

	mu    sync.Mutex
	turn  *sync.Cond
	state string // "", stalled, cut
	conns map[net.Conn]bool
}

func startLine(t *testing.T, target string) *slowLine {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &slowLine{address: l.Addr().String(), target: target, conns: map[net.Conn]bool{}}
	s.turn = sync.NewCond(&s.mu)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { s.carry(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		s.set("cut")
		all.Wait()
	})
	return s
}

// set makes the line stalled (what is sent waits), cut, or good ("").
func (s *slowLine) set(state string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = state
	if state == "cut" {
		for c := range s.conns {
			c.Close()
		}
	}
	s.turn.Broadcast()
}

func (s *slowLine) carry(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", s.target)
	if err != nil {
		return
	}
	defer far.Close()
	s.mu.Lock()
	if s.state == "cut" {
		s.mu.Unlock()
		return
	}
	s.conns[near], s.conns[far] = true, true
	s.mu.Unlock()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		both.Go(func() {
			defer way[0].Close()
			defer way[1].Close()
			b := make([]byte, 32<<10)
			for {
				n, err := way[0].Read(b)
				if err != nil {
					return
				}
				s.mu.Lock()
				for s.state == "stalled" {
					s.turn.Wait()
				}
				s.mu.Unlock()
				if _, err := way[1].Write(b[:n]); err != nil {
					return
				}
			}
		})
	}
	both.Wait()
	s.mu.Lock()
	delete(s.conns, near)
	delete(s.conns, far)
	s.mu.Unlock()
}

// wholeGateway is one gateway with the devices that it reads.
type wholeGateway struct {
	name    string
	bus     *countingBus // the counter
	buttons *countingBus
	site    string
	state   string
	pages   api
	process *process
	kills   []time.Time
	downs   []time.Time // when the killed process was gone
}

// kill ends the gateway with SIGKILL.
func (g *wholeGateway) kill() {
	g.kills = append(g.kills, time.Now())
	g.process.kill()
	g.downs = append(g.downs, time.Now())
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
			bits := math.Float64bits(r.Float64())
			words = append(words, uint16(bits>>48), uint16(bits>>32), uint16(bits>>16), uint16(bits))
		}
		return words[address : address+count]
	})
	g.buttons = serveCounting(w.t, func(int, int, int) []uint16 { return nil })
	var devices strings.Builder
	for b := range wholeButtons {
		fmt.Fprintf(&devices, "  - {id: button_%d, class: call_button, zone: yard, title: {zh: 按钮, en: Button}, points: {pressed: io1.di%d}}\n", b, b+1)
	}
	console := freePort(w.t)
	g.pages = api{w.t, fmt.Sprintf("http://127.0.0.1:%d", console)}
	g.site = writeSite(w.t, fmt.Sprintf(wholeSite, g.name, g.bus.port, g.buttons.port, devices.String(), w.line.address, public, console), map[string]string{
		"profiles/whole_counter.yaml": wholeCounter, "packs/whole.yaml": wholePack})
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

// fidget presses buttons and acknowledges alerts until stop is closed.
func (w *whole) fidget(g *wholeGateway, r *rand.Rand, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(200+r.IntN(600)) * time.Millisecond):
		}
		g.buttons.set(2, r.IntN(wholeButtons), r.IntN(2) == 0)
		if open := g.pages.openAlerts(); len(open) > 0 {
			resp, err := http.Post(g.pages.base+"/api/v1/alerts/"+open[r.IntN(len(open))].ID+"/acknowledge", "application/json", strings.NewReader(`{"by":"soak"}`))
			if err == nil {
				resp.Body.Close()
			}
		}
	}
}

// litter publishes what nobody should take, until stop is closed.
func (w *whole) litter(r *rand.Rand, stop <-chan struct{}) {
	now := func() int64 { return time.Now().UnixNano() }
	noise := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	sorts := []func() (topic string, payload []byte){
		func() (string, []byte) { return "linli/v1/test.gw1/cmd/resend", noise(200) },
		func() (string, []byte) { return "linli/v1/test.gw2/cmd/resend", []byte("e30.e30.AAAA") },
		func() (string, []byte) { return "linli/v1/test.gw1/cmd/" + strconv.Itoa(r.IntN(100)), nil },
		func() (string, []byte) { return "linli/v1/test.gw2/cmd/write", bytes.Repeat([]byte("x"), 9<<10) },
		func() (string, []byte) { return "linli/v1/test.gw1/telemetry", noise(2000) },
		func() (string, []byte) {
			return "linli/v1/test.gw1/telemetry", append([]byte{0x1f, 0x8b}, noise(100)...)
		},
		func() (string, []byte) { // another's series
			return "linli/v1/test.gw2/telemetry", fmt.Appendf(nil, "# linli epoch=00000000000000aa seq=1-1 count=1 late=0 t0=%d t1=%d\nenergy_meter,device=counter,gateway=gw1,site=test energy_kwh=9999999 %d\n", now(), now(), now())
		},
		func() (string, []byte) { // another site altogether
			return "linli/v1/else.gw1/telemetry", fmt.Appendf(nil, "# linli epoch=00000000000000aa seq=1-1 count=1 late=0 t0=%d t1=%d\nenergy_meter,device=counter,gateway=gw1,site=test,zone=yard energy_kwh=9999999 %d\n", now(), now(), now())
		},
		func() (string, []byte) { // no header
			return "linli/v1/test.gw1/telemetry", fmt.Appendf(nil, "energy_meter,device=counter,gateway=gw1,site=test,zone=yard energy_kwh=9999999 %d\n", now())
		},
		func() (string, []byte) { // wrong type
			return "linli/v1/test.gw1/telemetry", fmt.Appendf(nil, "# linli epoch=zz seq=1-1 count=1\nenergy_meter,device=counter,gateway=gw1,site=test,zone=yard energy_kwh=\"many\" %d\n", now())
		},
		func() (string, []byte) { return "linli/v1/test.gw1/alert/01K", noise(50) },
		func() (string, []byte) {
			return "linli/v1/test.gw2/status", []byte(`{"node":"test.gw1","state":"offline"}`)
		},
	}
	for {
		session, err := mqtt.Connect(w.t.Context(), mqtt.Config{ClientID: "litter", Clean: true}, w.broker.URL, mqtt.Options{})
		for err == nil && session.Err() == nil {
			select {
			case <-stop:
				session.Close(100 * time.Millisecond)
				return
			case <-time.After(time.Duration(200+r.IntN(400)) * time.Millisecond):
			}
			topic, payload := sorts[r.IntN(len(sorts))]()
			session.Publish(topic, false, payload)
			w.junk.Add(1)
		}
		select {
		case <-stop:
			return
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// overflow is what a broker forgets most by.
const overflow = "queue overflowed, broker killed"

// deeds are what may happen, each once or more in a run.
func (w *whole) deeds() map[string]func() {
	return map[string]func(){
		"gateway killed": func() {
			g := w.gateways[w.r.IntN(len(w.gateways))]
			g.kill()
			w.pauseUpTo(0, time.Second)
			w.run(g)
			waitFor(w.t, 30*time.Second, "the console after a kill", func() bool { var v struct{}; return g.pages.get("/api/v1/state", &v) })
		},
		"ingest killed": func() {
			in := w.ingests[w.r.IntN(len(w.ingests))]
			w.killIngest(in)
			w.pauseUpTo(0, 2*time.Second)
			w.ingest(in)
		},
		"broker killed": func() {
			w.broker.Kill()
			w.pauseUpTo(0, time.Second)
			w.broker.Start()
		},
		overflow: func() {
			for _, in := range w.ingests {
				w.killIngest(in)
			}
			w.pauseUpTo(12*time.Second, 15*time.Second)
			w.broker.Kill()
			w.pauseUpTo(0, time.Second)
			w.broker.Start()
			w.pauseUpTo(0, 2*time.Second)
			for _, in := range w.ingests {
				w.ingest(in)
			}
		},
		"database says 503": func() {
			w.refusing.Store(true)
			w.pauseUpTo(2*time.Second, 5*time.Second)
			w.refusing.Store(false)
		},
		"database killed": func() {
			w.db.Kill()
			w.pauseUpTo(time.Second, 3*time.Second)
			w.db.Start()
		},
		"line cut": func() {
			w.line.set("cut")
			w.pauseUpTo(time.Second, 4*time.Second)
			w.line.set("")
		},
		"line stalled": func() {
			w.line.set("stalled")
			w.pauseUpTo(time.Second, 4*time.Second)
			w.line.set("")
		},
		"disk full": func() {
			ballast := filepath.Join(w.disk.Dir, "ballast")
			f, err := os.Create(ballast)
			if err != nil {
				w.t.Fatal(err)
			}
			for b := make([]byte, 64<<10); len(b) > 0; {
				if _, err := f.Write(b); err != nil {
					b = b[:len(b)/2]
				}
			}
			w.pauseUpTo(3*time.Second, 6*time.Second)
			f.Close()
			if err := os.Remove(ballast); err != nil {
				w.t.Error(err)
			}
			// A kill in the midst of a disk that fails takes with it what had no place there.
			before := w.gateways[1].commits()
			waitFor(w.t, 30*time.Second, "two commits", func() bool { return w.gateways[1].commits() >= before+2 })
		},
	}
}

// commits says how often the gateway has committed since it started.
func (g *wholeGateway) commits() float64 {
	return metricsOf(g.pages.base)["linli_journal_commits_total"]
}

// torment does everything that may happen, or what is named, in random order and as often as there is time for; each at least once.
func (w *whole) torment(duration time.Duration, names ...string) {
	deeds := w.deeds()
	if len(names) == 0 {
		names = slices.Sorted(maps.Keys(deeds))
	}
	for first := true; first || time.Since(w.begun) < duration; first = false {
		w.r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		for _, name := range names {
			if !first && time.Since(w.begun) >= duration {
				return
			}
			w.t.Logf("%5.1f s: %s", time.Since(w.begun).Seconds(), name)
			deeds[name]()
			w.done[name]++
			w.pauseUpTo(200*time.Millisecond, 2*time.Second)
		}
	}
}

// live starts everything, lets things happen for so long, and leaves it alone. The gateways go on measuring.
func (w *whole) live(duration time.Duration, deeds ...string) {
	w.t.Helper()
	for _, in := range w.ingests {
		w.ingest(in)
	}
	for _, in := range w.ingests {
		waitFor(w.t, 30*time.Second, "ingest", func() bool { return strings.Contains(in.process.out.String(), "ingest connected") })
	}
	w.begun = time.Now()
	for _, g := range w.gateways {
		w.run(g)
	}
	for _, g := range w.gateways {
		waitFor(w.t, 30*time.Second, "rows of each gateway", func() bool { return len(w.values(g)) > 5 })
	}
	stop := make(chan struct{})
	var others sync.WaitGroup
	for i, g := range w.gateways {
		r := rand.New(rand.NewPCG(w.r.Uint64(), uint64(i)))
		others.Go(func() { w.fidget(g, r, stop) })
	}
	r := rand.New(rand.NewPCG(w.r.Uint64(), 99))
	others.Go(func() { w.litter(r, stop) })
	w.torment(duration, deeds...)
	close(stop)
	others.Wait()
	w.end = time.Now()
}

// values returns how often each value of a gateway's counter is in the database.
func (w *whole) values(g *wholeGateway) map[int]int {
	got := map[int]int{}
	series, err := w.db.Query(fmt.Sprintf(`SELECT "energy_kwh" FROM "energy_meter" WHERE "gateway"='%s' AND "device"='counter'`, g.name))
	if err != nil {
		return got
	}
	for i := range series {
		for _, r := range series[i].Values {
			if v, err := r[1].(json.Number).Float64(); err == nil {
				got[int(math.Round(v*1000))]++
			}
		}
	}
	return got
}

// ledger asks whether the run is complete.
func (w *whole) ledger() (code int, answers []ledgerAnswer) {
	w.t.Helper()
	code, out, stderr := linli(w.t, "ledger", "--influx-url", w.db.URL, "--bucket", w.db.Bucket, "--token-file", w.token, "--json",
		"--node", "test.gw1,test.gw2", "--from", w.begun.Format(time.RFC3339Nano), "--to", w.end.Format(time.RFC3339Nano))
	for line := range strings.Lines(out) {
		var a ledgerAnswer
		if err := json.Unmarshal([]byte(line), &a); err != nil {
			w.t.Fatalf("%v in %s", err, line)
		}
		answers = append(answers, a)
	}
	if stderr != "" {
		w.t.Logf("ledger: %s", stderr)
	}
	return code, answers
}

// settled waits until what the ledger says of the run is good. A gateway whose will waited in a queue counts as away until
// its next status, a minute later, and is asked for nothing until then.
func (w *whole) settled(limit time.Duration, good func(code int, answers []ledgerAnswer) bool) (answers []ledgerAnswer) {
	w.t.Helper()
	code := -1
	for deadline := time.Now().Add(limit); ; pause(500 * time.Millisecond) {
		if code, answers = w.ledger(); good(code, answers) {
			return answers
		}
		if time.Now().After(deadline) {
			w.t.Errorf("%s after the last of what was done, linli ledger says (exit code %d):\n%s", limit, code, w.show(answers))
			return answers
		}
	}
}

func (w *whole) show(answers []ledgerAnswer) string {
	var b strings.Builder
	for _, a := range answers {
		samples, _ := a.samplesLost()
		fmt.Fprintf(&b, "  %s %s: %d frames, %d missing, %d lost (%s) %s\n", a.Node, a.State, a.Frames, a.Missing, a.Lost, samples, a.Error)
		for _, g := range a.Gaps {
			fmt.Fprintf(&b, "    %s told=%v %d-%d, %d samples, %s .. %s\n", g.Reason, g.Told, g.From, g.To, g.Samples, g.Begin.Format("15:04:05.000"), g.End.Format("15:04:05.000"))
		}
	}
	return b.String()
}

// count holds the database against what a gateway's devices served: each value is there once, or was lost as is allowed.
func (w *whole) count(g *wholeGateway, a *ledgerAnswer) string {
	t := w.t
	type one struct {
		n  int
		at time.Time
	}
	var all []one
	for _, r := range g.bus.served() {
		if r.unit == 1 && r.address == 0 && r.at.Before(w.end) {
			all = append(all, one{int(r.words[0])<<16 | int(r.words[1]), r.at})
		}
	}
	got := w.values(g)
	known := map[int]bool{}
	for _, r := range g.bus.served() {
		if r.unit == 1 && r.address == 0 {
			known[int(r.words[0])<<16|int(r.words[1])] = true
		}
	}
	killed := func(at time.Time) bool {
		for i, k := range g.kills {
			if at.After(k.Add(-commitSlack)) && !at.After(g.downs[i]) {
				return true
			}
		}
		return false
	}
	told := func(at time.Time) bool {
		for _, gap := range a.Gaps {
			if gap.Told && at.After(gap.Begin.Add(-time.Second)) && at.Before(gap.End.Add(time.Second)) {
				return true
			}
		}
		return false
	}
	there, byKill, byLoss := 0, 0, 0
	var missing []string
	for _, o := range all {
		switch {
		case got[o.n] == 1:
			there++
		case got[o.n] > 1:
			t.Errorf("%s: value %d is in the database %d times", g.name, o.n, got[o.n])
		case killed(o.at):
			byKill++
		case told(o.at):
			byLoss++
		default:
			missing = append(missing, fmt.Sprintf("%d at %s", o.n, o.at.Format("15:04:05.000")))
		}
	}
	for n := range got {
		if !known[n] {
			t.Errorf("%s: value %d is in the database and was never served", g.name, n)
		}
	}
	if len(missing) > 0 {
		var when []string
		for _, k := range g.kills {
			when = append(when, k.Format("15:04:05.000"))
		}
		t.Errorf("%s: %d of %d values served are not there: %s\nkills at %s", g.name, len(missing), len(all), tail(strings.Join(missing, ", "), 2000), strings.Join(when, ", "))
	}
	if float64(len(all)) < w.end.Sub(w.begun).Seconds() {
		t.Errorf("%s: only %d values were served: the test shows too little", g.name, len(all))
	}
	return fmt.Sprintf("%s: %d values served, %d in the database once, %d lost within %s before a kill, %d in losses that were told", g.name, len(all), there, byKill, commitSlack, byLoss)
}

// wholeAlert is the newest that somebody knows of an alert.
type wholeAlert struct {
	revision int64
	state    string
}

// announced returns the newest durable announcement of each alert that a third party has seen on the broker.
func (w *whole) announced() map[string]wholeAlert {
	newest := map[string]wholeAlert{}
	for _, m := range w.sub.all() {
		parts := strings.SplitN(m, " ", 3)
		var event struct {
			Data alert.Alert `json:"data"`
		}
		if len(parts) < 3 || json.Unmarshal([]byte(parts[2]), &event) != nil || !event.Data.Durable || event.Data.ID == "" {
			continue
		}
		if old := newest[event.Data.ID]; event.Data.Revision >= old.revision {
			newest[event.Data.ID] = wholeAlert{event.Data.Revision, event.Data.State.String()}
		}
	}
	return newest
}

// alertRows returns the newest row of each alert in the database.
func (w *whole) alertRows() map[string]wholeAlert {
	newest := map[string]wholeAlert{}
	series, err := w.db.Query(`SELECT "id", "revision", "state" FROM "alert"`)
	if err != nil {
		return newest
	}
	for i := range series {
		for _, r := range series[i].Values {
			id, _ := r[1].(string)
			state, _ := r[3].(string)
			if n, ok := r[2].(json.Number); ok {
				if revision, err := n.Int64(); err == nil && revision >= newest[id].revision {
					newest[id] = wholeAlert{revision, state}
				}
			}
		}
	}
	return newest
}

// behind says of which alerts the database does not have what was announced, or the gateways' books have.
func (w *whole) behind(want map[string]wholeAlert) (list []string) {
	rows := w.alertRows()
	for id, a := range want {
		if have, ok := rows[id]; !ok || have.revision < a.revision || have.revision == a.revision && have.state != a.state {
			list = append(list, fmt.Sprintf("%s: revision %d %s, in the database %d %s", id, a.revision, a.state, have.revision, have.state))
		}
	}
	slices.Sort(list)
	return list
}

// books returns the newest of each alert in the gateways' alert books, which must have stopped.
func (w *whole) books() map[string]wholeAlert {
	w.t.Helper()
	newest := map[string]wholeAlert{}
	for _, g := range w.gateways {
		book, err := alert.OpenReader(filepath.Join(g.state, bookName))
		if err != nil {
			w.t.Fatal(err)
		}
		all, err := book.History(w.t.Context(), time.Time{}, time.Now().Add(time.Hour))
		book.Close()
		if err != nil {
			w.t.Fatal(err)
		}
		for _, r := range all {
			newest[r.Alert.ID] = wholeAlert{r.Alert.Revision, r.Alert.State.String()}
		}
	}
	return newest
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
	var behind []string
	// What a full queue of the broker dropped comes once more, a minute after it was told.
	for deadline := time.Now().Add(100 * time.Second); ; pause(500 * time.Millisecond) {
		if behind = w.behind(announced); len(behind) == 0 || time.Now().After(deadline) {
			break
		}
	}
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
	for deadline := time.Now().Add(15 * time.Second); ; pause(500 * time.Millisecond) {
		if behind = w.behind(books); len(behind) == 0 || time.Now().After(deadline) {
			break
		}
	}
	if len(behind) > 0 {
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
		for _, r := range g.bus.served() {
			if r.unit == 1 && r.address == 0 && r.at.Before(w.end) && got[int(r.words[0])<<16|int(r.words[1])] == 0 {
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

// table says what was done and what was found.
func (w *whole) table(found string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "in %s:\n", w.end.Sub(w.begun).Round(time.Second))
	for _, name := range slices.Sorted(maps.Keys(w.done)) {
		fmt.Fprintf(&b, "  %4d times  %s\n", w.done[name], name)
	}
	fmt.Fprintf(&b, "  %4d messages of junk; %v bad messages, %v bad lines, %v foreign lines\n", w.junk.Load(), w.metric("linli_ingest_bad_messages_total"), w.metric("linli_ingest_bad_lines_total"), w.metric("linli_ingest_foreign_lines_total"))
	b.WriteString(found)
	return b.String()
}
