package main

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"linli/internal/mqtt"
)

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
