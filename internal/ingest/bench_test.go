package ingest

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	influxdb2 "github.com/influxdata/influxdb-client-go/v2"

	"linli/internal/telemetry"
	"linli/internal/wire"
)

// arrived is a message as a source hands it over.
type arrived struct {
	topic   string
	payload []byte
}

func (a *arrived) Topic() string   { return a.topic }
func (a *arrived) Payload() []byte { return a.payload }
func (a *arrived) Ack()            {}

// sink is a database that takes everything and costs nothing.
type sink struct{}

func (sink) RoundTrip(r *http.Request) (*http.Response, error) {
	_, _ = io.Copy(io.Discard, r.Body)
	return &http.Response{StatusCode: http.StatusNoContent, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("")), Request: r}, nil
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// costNothing gives an ingest a database that takes everything.
func costNothing(in *Ingest) {
	in.db.service = influxdb2.NewClientWithOptions("http://x", "", influxdb2.DefaultOptions().SetHTTPClient(&http.Client{Transport: &recorder{next: sink{}, answer: time.Minute}})).HTTPService()
}

// payloads returns messages of points of half as many devices, one second each.
func payloads(b *testing.B, compression string, messages, points int) (all [][]byte) {
	b.Helper()
	how, err := wire.ParseCompression(compression)
	if err != nil {
		b.Fatal(err)
	}
	pack, err := wire.NewCompressor(how)
	if err != nil {
		b.Fatal(err)
	}
	e := wire.NewEncoder("riverside", "gw1")
	base := time.Date(2026, 9, 21, 0, 0, 0, 0, time.UTC).UnixNano()
	for m := range messages {
		for d := range points / 2 {
			s := telemetry.Series{Class: "environment_sensor", Device: fmt.Sprintf("env_%03d", d), Zone: fmt.Sprintf("b%d", d%20), Point: "temperature_c", Kind: telemetry.Float}
			at := base + int64(m)*1e9 + int64(d)*1e6
			e.Add(&s, at, 0, telemetry.FloatValue(float64(200+(m+d)%50)/10))
			s.Point = "humidity_pct"
			e.Add(&s, at, 0, telemetry.FloatValue(float64(400+(m*d)%300)/10))
		}
		body, n := e.Flush(nil)
		h := wire.Header{Epoch: 1, From: uint64(m + 1), To: uint64(m + 1), Count: n, T0: base, T1: base + int64(m)*1e9}
		all = append(all, pack.Pack(append(wire.AppendHeader(nil, &h), body...)))
	}
	return all
}

// BenchmarkBatch is ingest without broker and database: what it costs to unpack, check and copy. One operation is a
// message of 1,000 points of 500 devices.
func BenchmarkBatch(b *testing.B) {
	for _, name := range []string{"none", "gzip", "zstd"} {
		b.Run(name, func(b *testing.B) {
			const points = 1000
			var messages []message
			for _, p := range payloads(b, name, 10, points) {
				messages = append(messages, &arrived{topic: "linli/v1/riverside.gw1/telemetry", payload: p})
			}
			in, err := New(Config{Brokers: []string{"tcp://x"}, Influx: Influx{URL: "http://x", Bucket: "b"}}, nil)
			if err != nil {
				b.Fatal(err)
			}
			costNothing(in)
			batch, err := newBatcher(in, nil)
			if err != nil {
				b.Fatal(err)
			}
			defer batch.close()
			b.ReportAllocs()
			began := cpuTime()
			n := 0
			for b.Loop() {
				n++
				if n%len(messages) == 0 {
					if err := batch.process(b.Context(), messages); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric((cpuTime()-began).Seconds()*1e6/float64(max(1, n/len(messages)*len(messages)*points)), "cpu-s/Mpoint")
			if in.Stats().BadLines != 0 {
				b.Errorf("stats %+v", in.Stats())
			}
		})
	}
}
