package rules_test

import (
	"runtime"
	"testing"
	"time"

	"linli/internal/telemetry"
)

// BenchmarkInstanceMemory prints the heap that an instance of a rule takes, its points' cells and dependencies included,
// for 2,000 meters, and how long a snapshot of all of them holds the engine up.
func BenchmarkInstanceMemory(b *testing.B) {
	for name, x := range map[string]struct {
		expr  string
		every time.Duration // between samples
		steps int
	}{
		"threshold":                      {"power_w > 1000", time.Second, 10},
		"window-10m, a reading a second": {"avg_over_time(power_w, 10m) > 1000", time.Second, 700},
		"window-24h, a reading a minute": {"avg_over_time(power_w, 24h) > 1000", time.Minute, 1500},
		"maximum-24h, falling all day":   {"max_over_time(power_w, 24h) > 1000000", time.Minute, 1500},
	} {
		b.Run(name, func(b *testing.B) {
			const meters = 2000
			for b.Loop() {
				b.StopTimer()
				var before, after runtime.MemStats
				st := newSite()
				st.zone("z", "building", "")
				for i := range meters {
					st.device("m"+itoa(i), "meter", "z", "power_w")
				}
				runtime.GC()
				runtime.ReadMemStats(&before)
				p := &play{t: b, s: st, e: st.compile(b, pack(alert("A", "meter", x.expr, ", for: 60s")))}
				batch := make([]telemetry.Sample, meters)
				for i := range batch {
					batch[i].Point = st.point(b, "m"+itoa(i), "power_w")
				}
				now := telemetry.Mono(0)
				for round := range x.steps {
					now = now.Add(x.every)
					for i := range batch {
						batch[i].Time, batch[i].Value = now, telemetry.FloatValue(float64(900-round%900)+float64(i)/1e4)
					}
					p.out.Reset()
					p.e.Step(telemetry.Now{Mono: now}, batch, &p.out)
				}
				runtime.GC()
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/meters, "B/instance")
				b.StartTimer()
				snapshot := p.e.Snapshot()
				b.ReportMetric(float64(len(snapshot))/meters, "snapshot-B/instance")
			}
		})
	}
}
