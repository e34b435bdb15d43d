package journal_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"linli/internal/journal"
	"linli/internal/telemetry"
)

// large is a site of 200 units of 60 registers that are read unit by unit, once a second.
type large struct {
	j       *journal.Journal
	second  int
	samples [60]telemetry.Sample
}

const largeUnits = 200

func newLarge(tb testing.TB) *large {
	l := &large{}
	inv := &telemetry.Inventory{Site: "s1", Gateway: "g1", Location: time.UTC}
	class := &telemetry.Class{ID: "wide_meter"}
	for p := range l.samples {
		class.Points = append(class.Points, telemetry.PointDef{Name: fmt.Sprintf("p%02d", p), Kind: telemetry.Float})
	}
	for u := range largeUnits {
		d := inv.AddDevice(telemetry.Device{ID: fmt.Sprintf("d%d", u), Class: class, Zone: -1})
		for p := range l.samples {
			inv.ProvidePoint(d, p)
		}
	}
	var err error
	l.j, err = journal.OpenFS(journal.Config{Dir: tb.TempDir(), SegmentBytes: 64 << 20, MaxBytes: 1 << 30}, inv, newClock("boot1"), noSync{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.j.Close() })
	return l
}

// append appends the samples of the next second.
func (l *large) append() {
	for u := range largeUnits {
		at := telemetry.Mono(l.second)*1e9 + telemetry.Mono(u)*5e6 + 123457
		for p := range l.samples {
			l.samples[p] = telemetry.Sample{Point: telemetry.PointID(u*len(l.samples) + p), Time: at, Value: telemetry.FloatValue(float64((u+p+l.second)%1000) / 10)}
		}
		l.j.Append(telemetry.Now{Mono: at + 1000, Wall: time.Unix(1_800_000_000, int64(at))}, l.samples[:])
	}
	l.second++
}

// TestSamplesOfASecondUseTheSameMemory: what waits for a commit, and the commit itself, take memory once.
func TestSamplesOfASecondUseTheSameMemory(t *testing.T) {
	l := newLarge(t)
	commit := func() {
		l.append()
		if err := l.j.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		commit()
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 10 {
		commit()
	}
	runtime.ReadMemStats(&after)
	if n := (after.TotalAlloc - before.TotalAlloc) / 10; n > 200_000 {
		t.Errorf("%d bytes allocated for a commit of 12,000 samples", n)
	}
}

// BenchmarkLargeSite is a second of such a site: what processor time it costs to append, to commit and to read again.
func BenchmarkLargeSite(b *testing.B) {
	l := newLarge(b)
	var f journal.Frame
	var appending, committing, reading time.Duration
	b.ReportAllocs()
	for b.Loop() {
		began := cpu(b)
		l.append()
		appended := cpu(b)
		if err := l.j.Commit(); err != nil {
			b.Fatal(err)
		}
		committed := cpu(b)
		_, next := l.j.Bounds()
		if err := l.j.Read(next-1, &f); err != nil {
			b.Fatal(err)
		}
		if len(f.Records) == 0 {
			b.Fatal("nothing came back")
		}
		appending, committing, reading = appending+appended-began, committing+committed-appended, reading+cpu(b)-committed
	}
	per := func(d time.Duration) float64 {
		return float64(d.Nanoseconds()) / float64(l.second*largeUnits*len(l.samples))
	}
	b.ReportMetric(per(appending), "ns/append")
	b.ReportMetric(per(committing), "ns/commit")
	b.ReportMetric(per(reading), "ns/read")
}
