package ingest

import (
	"context"
	"testing"
	"time"

	"linli/internal/mqtt"
	"linli/internal/testservers"
)

// BenchmarkSource is ingest with a real broker and a database that costs nothing: what it costs to take messages of
// 1,000 points of 500 devices from MQTT and from JetStream and to acknowledge them. The brokers' time is not counted.
func BenchmarkSource(b *testing.B) {
	const messages, points = 1000, 1000
	for _, name := range []string{"none", "zstd"} {
		texts, size := payloads(b, name, 50, points), 0
		for _, p := range texts {
			size += len(p)
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
					costNothing(in)
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
						token := s.Publish("linli/v1/riverside.gw1/telemetry", false, texts[i%len(texts)])
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
				b.ReportMetric(float64(size)/float64(len(texts)*points), "wire-B/point")
			})
		}
	}
}
