package packs_test

import (
	"runtime"
	"strconv"
	"testing"
	"time"

	"linli/internal/telemetry"
	"linli/rules"
)

// BenchmarkCommunity runs every shipped pack over a community of 500 devices with all their points for 25 hours, each
// point changing every 10 s, and prints what the engine then takes of the heap, how many points and instances there
// are, and how fast it goes.
func BenchmarkCommunity(b *testing.B) {
	lib, err := library()
	if err != nil {
		b.Fatal(err)
	}
	shipped, err := rules.Shipped()
	if err != nil {
		b.Fatal(err)
	}
	var list []*rules.Pack
	for _, p := range shipped {
		list = append(list, p)
	}
	for b.Loop() {
		b.StopTimer()
		var before, after runtime.MemStats
		inv := &telemetry.Inventory{Site: "s", Gateway: "g", Location: time.FixedZone("CST", 8*3600)}
		for i := range 25 {
			inv.AddZone(telemetry.Zone{ID: "b" + strconv.Itoa(i), Kind: "building", Parent: -1})
		}
		n := 0
		for _, x := range []struct {
			class string
			count int
		}{{"smoke_detector", 120}, {"smart_bin", 125}, {"sorting_station", 50}, {"door", 60}, {"energy_meter", 25}, {"residual_current_monitor", 50},
			{"fire_lane_sensor", 20}, {"noise_meter", 5}, {"air_quality", 5}, {"call_button", 25}, {"manual_call_point", 10}, {"water_level", 5}} {
			for range x.count {
				d := inv.AddDevice(telemetry.Device{ID: "d" + strconv.Itoa(n), Class: lib.Classes[x.class], Zone: n % 25})
				for k := range lib.Classes[x.class].Points {
					inv.ProvidePoint(d, k)
				}
				n++
			}
		}
		points := len(inv.Points)
		runtime.GC()
		runtime.ReadMemStats(&before)
		e, err := rules.Compile(rules.Config{Packs: list, Inventory: inv, Classes: lib.Classes})
		if err != nil {
			b.Fatal(err)
		}
		batch := make([]telemetry.Sample, points)
		for i := range batch {
			batch[i].Point = telemetry.PointID(i)
		}
		wall := time.Date(2026, 5, 4, 0, 0, 0, 0, time.UTC)
		var out rules.Output
		samples := 0
		b.StartTimer()
		for t := time.Duration(0); t < 25*time.Hour; t += 10 * time.Second {
			now := telemetry.Now{Mono: telemetry.Mono(t), Wall: wall.Add(t)}
			for i := range batch {
				s := &batch[i]
				s.Time = now.Mono
				v := float64((int(t/time.Second)/10*7+i*13)%40) / 2
				switch inv.Points[i].Def.Kind {
				case telemetry.Bool:
					s.Value = telemetry.BoolValue(false)
				case telemetry.KindText:
					s.Value = telemetry.TextValue("x")
				case telemetry.Int:
					s.Value = telemetry.IntValue(int64(t / time.Minute))
				case telemetry.Enum:
					s.Value = telemetry.EnumValue(1)
				default:
					s.Value = telemetry.FloatValue(v)
				}
			}
			out.Reset()
			e.Step(now, batch, &out)
			samples += len(batch)
		}
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB")
		b.ReportMetric(float64(points), "points")
		b.ReportMetric(float64(e.Instances()), "instances")
		b.ReportMetric(float64(samples)/b.Elapsed().Seconds(), "samples/s")
		b.ReportMetric(float64(len(e.Snapshot()))/(1<<20), "snapshot-MiB")
		b.StartTimer()
	}
}
