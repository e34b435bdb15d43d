package ingest_test

import (
	"fmt"
	"os"
	"regexp"
	"testing"
	"time"

	"linli/internal/ingest"
	"linli/internal/testservers"
	"linli/internal/wire"
)

// VictoriaMetrics takes what ingest writes and makes of it what docs/scale.md says; the query given there finds a frame
// that is not there.
func TestVictoriaMetrics(t *testing.T) {
	broker, db := testservers.StartMosquitto(t), testservers.StartVictoriaMetrics(t)
	in, _ := start(t, ingest.Config{Brokers: []string{broker.URL}, Influx: ingest.Influx{URL: db.URL, Bucket: "any"}})
	c := connect(t, broker.URL, "box", "linli/v1/dead/+")
	for _, frame := range []uint64{1, 2, 2, 3, 5} {
		at := base + int64(frame)*1e9 + 1_234_567
		text := wire.AppendHeader(nil, &wire.Header{Epoch: 0xc0ffee, From: frame, To: frame, Count: 1, T0: at, T1: at})
		c.publish(topic, fmt.Appendf(text, "sampler,device=d1,gateway=gw1,site=riverside,zone=b1 b=true,f=-1.5,f_q=0i,i=9007199254740993i,s=\"card \\\"7\\\"\" %d\n", at))
	}
	eventually(t, "acknowledged", func() bool { return in.Stats().Acknowledged == 5 })

	all, err := db.Export(`{__name__=~"sampler_.*"}`)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, s := range all {
		got[s.Metric["__name__"]] = fmt.Sprint(s.Values, s.Timestamps)
		if s.Metric["device"] != "d1" || s.Metric["zone"] != "b1" {
			t.Errorf("labels %v", s.Metric)
		}
	}
	times := ""
	for _, frame := range []int64{1, 2, 3, 5} {
		times += fmt.Sprint(" ", (base+frame*1e9)/1e6+1)
	}
	for name, value := range map[string]string{"sampler_b": "1", "sampler_f": "-1.5", "sampler_f_q": "0", "sampler_i": "9.007199254740992e+15", "sampler_s": "0"} {
		if want := fmt.Sprintf("[%[1]s %[1]s %[1]s %[1]s] [%s]", value, times[1:]); got[name] != want {
			t.Errorf("%s: %s, want %s", name, got[name], want)
		}
	}
	if len(c.letters()) != 0 {
		t.Errorf("dead letters %+v", c.letters())
	}

	page, err := os.ReadFile("../../docs/scale.md")
	if err != nil {
		t.Fatal(err)
	}
	query := regexp.MustCompile("(?s)```metricsql\n(.*?)```").FindSubmatch(page)
	if query == nil {
		t.Fatal("no query in docs/scale.md")
	}
	missing, err := db.Ask(string(query[1]), time.Unix(0, base).Add(time.Hour))
	if want := "map[map[epoch:0000000000c0ffee gateway:gw1 site:riverside]:1]"; err != nil || fmt.Sprint(missing) != want {
		t.Errorf("missing %v (%v), want %s", missing, err, want)
	}
}
