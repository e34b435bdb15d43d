package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"linli/internal/alert"
)

var (
	soakCycles = flag.Int("soak", 20, "how often TestKilledAtAnyMoment kills the gateway; make soak says 500")
	soakFor    = flag.Duration("soakfor", 0, "TestKilledAtAnyMoment makes no further kill after so long, and says how many it made; 0: no limit")
)

// soakSite has a counter that is read ten times a second beside 60 values of noise, which fill the small segments, and
// eight buttons with an alert each.
const soakSite = yardHead + `buses:
  - id: tcp_1
    modbus_tcp: {address: "127.0.0.1:%d"}
    units:
      - {id: c, address: 1, profile: soak_counter}
      - {id: io1, address: 2, profile: soak_io}
%sdevices:
  - {id: counter, unit: c, zone: yard, title: {zh: 计数, en: Counter}}
  - {id: siren, class: siren, zone: yard, title: {zh: 警笛, en: Siren}, points: {on: {from: io1.do1, on_start: off, on_stop: off}}}
%srules:
  - {pack: buttons}
journal: {max_bytes: 1MiB}
uplink: {brokers: ["tcp://%s"], batch: 1s}
console: {listen: "127.0.0.1:%d"}
`

const soakCounter = "version: 1\nprofile: soak_counter" + profileHead + `  - {name: energy, table: input, address: 0, type: u32, unit: Wh, every: 100ms}
  - {name: power, table: input, address: 1, type: u16, unit: W, every: 100ms}
device:
  class: energy_meter
  points: {energy_kwh: energy, active_power_w: power}
`

const soakNoise = "version: 1\nprofile: soak_noise" + profileHead + `  - {name: voltage, table: input, address: 0, type: f64, unit: V, every: 100ms}
  - {name: current, table: input, address: 4, type: f64, unit: A, every: 100ms}
  - {name: power, table: input, address: 8, type: f64, unit: W, every: 100ms}
  - {name: energy, table: input, address: 12, type: f64, unit: kWh, every: 100ms}
device:
  class: energy_meter
  points: {voltage_v: voltage, current_a: current, active_power_w: power, energy_kwh: energy}
`

const soakIO = "version: 1\nprofile: soak_io" + profileHead + `  - {name: "di{n}", table: discrete, address: 0, repeat: 8, every: 100ms}
  - {name: do1, table: coil, address: 0, writable: true, every: 1s}
`

const soakPack = buttonsPack + `    outputs: [{device: zone.siren, point: on, until: cleared}]
`

// soak is one gateway that is killed, with everything around it that is not.
type soak struct {
	t       *testing.T
	city    *city
	bus     *countingBus
	site    string
	state   string
	pages   api
	sub     *subscriber
	gateway *process
	killed  kills
	acr     *rand.Rand // fidget's
}

func startSoak(t *testing.T, state string) *soak {
	t.Helper()
	const buttons, noisy = 8, 4
	s := &soak{t: t, city: startCity(t), state: state, acr: rand.New(rand.NewPCG(5, uint64(time.Now().UnixNano())))}
	n := uint32(0)
	r := rand.New(rand.NewPCG(7, 8))
	s.bus = serveCounting(t, func(unit, address, count int) []uint16 {
		words := make([]uint16, 16)
		switch {
		case unit == 1:
			n++
			words = []uint16{uint16(n >> 16), uint16(n)}
		default:
			for i := 0; i < len(words); i += 4 {
				copy(words[i:], floatWords(r.Float64()))
			}
		}
		if address+count > len(words) {
			return nil
		}
		return words[address : address+count]
	})
	var units, devices strings.Builder
	for i := range noisy {
		fmt.Fprintf(&units, "      - {id: n%d, address: %d, profile: soak_noise}\n", i, 10+i)
		fmt.Fprintf(&devices, "  - {id: noise_%d, unit: n%d, zone: yard, title: {zh: 噪声, en: Noise}}\n", i, i)
	}
	devices.WriteString(buttonsAt(buttons))
	console := freePort(t)
	s.pages = api{t, fmt.Sprintf("http://127.0.0.1:%d", console)}
	s.site = writeSite(t, fmt.Sprintf(soakSite, s.bus.port, units.String(), devices.String(), s.city.broker.Address, console), map[string]string{
		"profiles/soak_counter.yaml": soakCounter, "profiles/soak_noise.yaml": soakNoise, "profiles/soak_io.yaml": soakIO, "packs/buttons.yaml": soakPack})
	s.sub = subscribe(t, s.city.broker.Address, "linli/v1/#")
	return s
}

func (s *soak) start() { s.gateway = start(s.t, "run", "-c", s.site, "--state", s.state) }

// fidget presses buttons and acknowledges alerts until stop is closed, so that there is always something to commit.
func (s *soak) fidget(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(50+s.acr.IntN(200)) * time.Millisecond):
		}
		s.bus.set(2, s.acr.IntN(8), s.acr.IntN(2) == 0)
		if open := s.pages.openAlerts(); len(open) > 0 {
			a := open[s.acr.IntN(len(open))]
			s.tryPost("/api/v1/alerts/" + a.ID + "/acknowledge")
		}
	}
}

// tryPost asks the console for something; the gateway may be dead.
func (s *soak) tryPost(path string) {
	resp, err := http.Post(s.pages.base+path, "application/json", strings.NewReader(`{"by":"soak"}`))
	if err == nil {
		resp.Body.Close()
	}
}

// kill ends the gateway with SIGKILL.
func (s *soak) kill() {
	s.killed.by(s.gateway.kill)
}

// killIn waits until the gateway is in the phase, at most for limit, kills it, and returns the phase it was in just before.
func (s *soak) killIn(want string, limit time.Duration) string {
	if want == "write" {
		if s.killWriting(limit) {
			return want
		}
		return ""
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	w := s.watch()
	defer w.close()
	seen := ""
	for deadline := time.Now().Add(limit); seen != want && time.Now().Before(deadline); {
		seen = w.phase(want)
	}
	s.kill()
	return seen
}

// TestKilledAtAnyMoment kills the gateway with SIGKILL again and again, at random moments and in each phase of its writing,
// while a Modbus server that is not ours counts what it served. In the database is everything that was served more than a
// commit interval and a second before a kill, once, and nothing else; and each alert that was announced as durable is there.
func TestKilledAtAnyMoment(t *testing.T) {
	t.Parallel()
	s := startSoak(t, filepath.Join(t.TempDir(), "state"))
	stop := make(chan struct{})
	var fidgeting sync.WaitGroup
	s.start()
	fidgeting.Go(func() { s.fidget(stop) })
	r := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	hits := map[string]int{}
	asked := map[string][2]int{}
	began := time.Now()
	cycles := 0
	for cycle := range *soakCycles {
		if *soakFor > 0 && time.Since(began) > *soakFor {
			break
		}
		if cycles++; cycles%25 == 0 {
			t.Logf("%d kills in %s: %v", cycles-1, time.Since(began).Round(time.Second), hits)
		}
		if cycle%4 == 0 {
			pause(time.Duration(r.Int64N(int64(3 * time.Second))))
			w := s.watch()
			hit := w.phase("")
			s.kill()
			w.close()
			hits[or(hit, "between")]++
		} else {
			want := phases[(cycle-cycle/4)%len(phases)]
			if want == "rollup" {
				want = "acknowledge" // Rollups are written once an hour, and met at random only; the others are waited for.
			}
			if want != "rotate" { // a start is one
				pause(time.Duration(300+r.IntN(2000)) * time.Millisecond)
			}
			hit := s.killIn(want, 6*time.Second)
			hits[or(hit, "between")]++
			a := asked[want]
			a[0]++
			if hit == want {
				a[1]++
			}
			asked[want] = a
		}
		announced := s.sub.announced()
		s.start()
		if cycle%5 == 4 || cycle == *soakCycles-1 {
			s.checkOpen(announced)
		}
	}
	took := time.Since(began)
	close(stop)
	fidgeting.Wait()
	var table strings.Builder
	for _, p := range append(append([]string(nil), phases...), "between") {
		fmt.Fprintf(&table, "\n  %-12s %4d kills", p, hits[p])
		if a := asked[p]; a[0] > 0 {
			fmt.Fprintf(&table, " (waited for %d times, met %d)", a[0], a[1])
		}
	}
	t.Logf("%d kills of %d in %s, by what the gateway was doing to its files just before:%s", cycles, *soakCycles, took.Round(time.Second), table.String())
	for _, p := range []string{"write", "sync", "rotate", "acknowledge", "alerts"} {
		// A call that has a processor is seen as nothing, and so counts as between; only one that waits is seen. In few cycles a busy machine may miss one that is short.
		if a := asked[p]; a[0] >= 10 && hits[p] == 0 {
			t.Errorf("no kill hit the phase %s in %d attempts: the test shows too little", p, a[0])
		}
	}
	if hits["between"] == cycles {
		t.Error("no kill hit any phase: the test shows too little")
	}
	s.checkAll(8 * cycles)
	s.gateway.stop(15 * time.Second)
	s.city.ingest.stop(15 * time.Second)
	s.checkBook(s.sub.announced())
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// checkOpen compares what the gateway that has just started says of alerts with what was announced before.
func (s *soak) checkOpen(announced map[string]alert.Alert) {
	s.t.Helper()
	waitFor(s.t, 30*time.Second, "the console after a kill", func() bool { var v struct{}; return s.pages.get("/api/v1/state", &v) })
	for id, want := range announced {
		if want.State == alert.Closed {
			continue // checkBook
		}
		var got struct {
			Alert alert.Alert `json:"alert"`
		}
		if !s.pages.get("/api/v1/alerts/"+id, &got) {
			s.t.Errorf("alert %s of %s was announced as durable and is gone", id, want.Subject)
		} else if got.Alert.Revision < want.Revision || got.Alert.Identity != want.Identity {
			s.t.Errorf("alert %s is %v revision %d, announced was %v revision %d", id, got.Alert.Identity, got.Alert.Revision, want.Identity, want.Revision)
		}
	}
}

// checkBook compares the alert book on the disk with all that was announced.
func (s *soak) checkBook(announced map[string]alert.Alert) {
	s.t.Helper()
	book, err := alert.OpenReader(filepath.Join(s.state, bookName))
	if err != nil {
		s.t.Fatal(err)
	}
	defer book.Close()
	all, err := book.History(s.t.Context(), time.Time{}, time.Now().Add(time.Hour))
	if err != nil {
		s.t.Fatal(err)
	}
	rows := map[string]int64{}
	for _, r := range all {
		rows[r.Alert.ID] = r.Alert.Revision
	}
	for id, want := range announced {
		if have, ok := rows[id]; !ok || have < want.Revision {
			s.t.Errorf("alert %s of %s was announced as durable with revision %d; in the book: %v, %d", id, want.Subject, want.Revision, ok, have)
		}
	}
	if len(announced) < 3 {
		s.t.Errorf("only %d alerts were announced as durable: the test shows too little", len(announced))
	}
	s.t.Logf("%d alerts were announced as durable; all are in the book", len(announced))
}

// checkAll stops serving, waits until everything that is on its way has arrived, and compares the database with what was
// served, which must be so many values at least.
func (s *soak) checkAll(least int) {
	t := s.t
	t.Helper()
	// The last value is one that no kill may have cost: what was served just before the last kill need not arrive.
	waitFor(t, 30*time.Second, "a value served after the last kill", func() bool {
		all, gone := s.bus.counted(), s.killed.gone
		return len(all) > 0 && (len(gone) == 0 || all[len(all)-1].at.After(gone[len(gone)-1]))
	})
	s.bus.mu.Lock()
	s.bus.answer = func(int, int, int) []uint16 { return nil } // "illegal address": nothing is served any more
	s.bus.mu.Unlock()
	all := s.bus.counted()
	last := all[len(all)-1].n
	got := map[int]int{}
	look := func() {
		got = map[int]int{}
		for _, r := range s.city.rows(t, "energy_meter", "counter", "energy_kwh") {
			got[int(math.Round(r.v*1000))]++
		}
	}
	waitFor(t, 90*time.Second, "the last value served", func() bool { look(); return got[last] > 0 })
	for n := -1; n != len(got); { // Late frames may still come after the last live one.
		n = len(got)
		pause(3 * time.Second)
		look()
	}

	// What a tombstone tells of, by its times.
	type span struct{ t0, t1 int64 }
	var told []span
	for _, r := range s.city.query(`SELECT "t0", "t1", "count" FROM "linli_loss"`) {
		t0, _ := r[1].(json.Number).Int64()
		t1, _ := r[2].(json.Number).Int64()
		told = append(told, span{t0, t1})
	}
	known := map[int]bool{}
	for _, o := range all {
		known[o.n] = true
	}
	_, byKill, byLoss := s.killed.compare(t, "gw1", all, known, got, func(at time.Time) bool {
		return slices.ContainsFunc(told, func(l span) bool {
			return at.UnixNano() >= l.t0-int64(time.Second) && at.UnixNano() <= l.t1+int64(time.Second)
		})
	})
	if len(all) < least {
		t.Errorf("only %d values were served, want %d: the test shows too little", len(all), least)
	}
	s.checkLines()
	t.Logf("%d values served, %d in the database; lost within %s before a kill: %d, told by a tombstone: %d (of %d)", len(all), len(got), commitSlack, byKill, byLoss, len(told))
}

var soakLine = regexp.MustCompile(`^(?:\d \S+ )?(energy_meter,\S+) (\S+) (\d+)$`)

// checkLines looks at every line that the broker was sent: the same series and time never comes with another value.
func (s *soak) checkLines() {
	s.t.Helper()
	seen := map[string]string{}
	twice := 0
	var differ []string
	for _, m := range s.sub.all() {
		match := soakLine.FindStringSubmatch(m)
		if match == nil {
			continue
		}
		for field := range strings.SplitSeq(match[2], ",") {
			name, value, _ := strings.Cut(field, "=")
			key := match[1] + " " + name + " " + match[3]
			switch old, ok := seen[key]; {
			case !ok:
				seen[key] = value
			case old == value:
				twice++
			default:
				differ = append(differ, fmt.Sprintf("%s: %s, then %s", key, old, value))
			}
		}
	}
	sort.Strings(differ)
	if len(differ) > 0 {
		s.t.Errorf("%d fields came with different values for the same time: %s", len(differ), tail(strings.Join(differ, "; "), 1000))
	}
	if len(seen) == 0 {
		s.t.Error("no line of the counter was seen on the broker")
	}
	s.t.Logf("%d fields on the broker, %d of them came again, the same", len(seen), twice)
}
