package ingest

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	influxdb2 "github.com/influxdata/influxdb-client-go/v2"

	"linli/internal/mqtt"
	"linli/internal/telemetry"
	"linli/internal/testservers"
	"linli/internal/wire"
)

// BenchmarkSource is ingest with a real broker and a database that costs nothing: what it costs to take messages of
// 1,000 points of 500 devices from MQTT and from JetStream and to acknowledge them. The brokers' time is not counted.
func BenchmarkSource(b *testing.B) {
	const messages, points = 1000, 1000
	for _, name := range []string{"none", "zstd"} {
		how, err := wire.ParseCompression(name)
		if err != nil {
			b.Fatal(err)
		}
		pack, err := wire.NewCompressor(how)
		if err != nil {
			b.Fatal(err)
		}
		e := wire.NewEncoder("riverside", "gw1")
		base := time.Date(2026, 9, 21, 0, 0, 0, 0, time.UTC).UnixNano()
		var payloads [][]byte
		size := 0
		for m := range 50 {
			for d := range points / 2 {
				s := telemetry.Series{Class: "environment_sensor", Device: fmt.Sprintf("env_%03d", d), Zone: fmt.Sprintf("b%d", d%20), Point: "temperature_c", Kind: telemetry.Float}
				at := base + int64(m)*1e9 + int64(d)*1e6
				e.Add(&s, at, 0, telemetry.FloatValue(float64(200+(m+d)%50)/10))
				s.Point = "humidity_pct"
				e.Add(&s, at, 0, telemetry.FloatValue(float64(400+(m*d)%300)/10))
			}
			body, n := e.Flush(nil)
			h := wire.Header{Epoch: 1, From: uint64(m + 1), To: uint64(m + 1), Count: n, T0: base, T1: base + int64(m)*1e9}
			payloads = append(payloads, pack.Pack(append(wire.AppendHeader(nil, &h), body...)))
			size += len(payloads[m])
		}
		for _, source := range []string{"mqtt", "jetstream"} {
			b.Run(source+"-"+name, func(b *testing.B) {
				cfg := Config{Influx: Influx{URL: "http://x", Bucket: "b"}}
				broker := ""
				if source == "mqtt" {
					broker = testservers.StartMosquitto(b, "autosave_on_changes false", "autosave_interval 3600").URL // saving takes its time, not ours
					cfg.Brokers = []string{broker}
				} else {
					cluster := testservers.StartNATSCluster(b)
					broker = cluster.MQTT[0]
					cfg.NATS = &NATS{Servers: cluster.URLs, MaxBytes: 1 << 30}
				}
				run := func(until func(Stats) bool) {
					in, err := New(cfg, nil)
					if err != nil {
						b.Fatal(err)
					}
					in.db.service = influxdb2.NewClientWithOptions("http://x", "", influxdb2.DefaultOptions().SetHTTPClient(&http.Client{Transport: &recorder{next: sink{}, answer: time.Minute}})).HTTPService()
					ctx, cancel := context.WithCancel(b.Context())
					done := make(chan error, 1)
					go func() { done <- in.Run(ctx) }()
					testservers.Eventually(b, 120*time.Second, "done", func() bool { return until(in.Stats()) })
					cancel()
					if err := <-done; err != nil {
						b.Error(err)
					}
				}
				var cpu time.Duration
				total := 0
				for b.Loop() {
					run(func(s Stats) bool { return s.Connected }) // a session, or a consumer, to which messages go
					s, err := mqtt.Connect(b.Context(), mqtt.Config{ClientID: "box"}, broker, mqtt.Options{})
					if err != nil {
						b.Fatal(err)
					}
					for i := range messages {
						token := s.Publish("linli/v1/riverside.gw1/telemetry", false, payloads[i%len(payloads)])
						if i%16 == 15 || i == messages-1 {
							token.Wait()
						}
					}
					s.Close(time.Second)
					began := cpuTime()
					run(func(s Stats) bool { return s.Acknowledged >= messages })
					cpu += cpuTime() - began
					total += messages * points
				}
				b.ReportMetric(cpu.Seconds()*1e6/float64(total), "cpu-s/Mpoint")
				b.ReportMetric(float64(size)/float64(len(payloads)*points), "wire-B/point")
			})
		}
	}
}
