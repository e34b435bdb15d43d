package uplink_test

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"linli/internal/journal"
	"linli/internal/telemetry"
	"linli/internal/testservers"
	"linli/internal/uplink"
	"linli/internal/wire"
)

// The real journal over a real broker: every sample arrives, while the uplink is stopped and
// started and the broker killed.
func TestRealJournalOverRealBroker(t *testing.T) {
	inv := &telemetry.Inventory{Site: "riverside", Gateway: "gw1"}
	class := &telemetry.Class{ID: "counter", Points: []telemetry.PointDef{{Name: "n", Kind: telemetry.Int}}}
	zone := inv.AddZone(telemetry.Zone{ID: "z", Parent: -1})
	point := inv.ProvidePoint(inv.AddDevice(telemetry.Device{ID: "c1", Class: class, Zone: zone}), 0)
	clock := telemetry.NewClock("boot", 0, time.Unix(0, 0))
	j, err := journal.Open(journal.Config{Dir: t.TempDir()}, inv, clock)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := j.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer func() {
		cancel()
		running.Wait()
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	}()

	broker := testservers.StartMosquitto(t)
	city := subscribe(t, broker.URL, "city", "linli/v1/+/telemetry")
	cities := []*subscriber{city}
	dir := t.TempDir()
	run := func() func() {
		u, err := uplink.New(uplink.Config{Site: "riverside", Gateway: "gw1", Brokers: []string{broker.URL}, StateDir: dir, Compression: "gzip",
			Batch: 10 * time.Millisecond, MinBackoff: 10 * time.Millisecond, Clock: clock}, j, newBook(), zaptest.NewLogger(t))
		if err != nil {
			t.Fatal(err)
		}
		return runUntilStopped(t, u)
	}
	want := map[string]bool{}
	sample := func(i int) {
		now := clock.Now()
		j.Append(now, []telemetry.Sample{{Point: point, Time: now.Mono, Value: telemetry.IntValue(int64(i))}})
		want[fmt.Sprintf("n=%di", i)] = true
		if err := j.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	stop := run()
	for i := range 150 {
		sample(i)
		switch i {
		case 40:
			stop()
		case 60:
			stop = run()
		case 80:
			broker.Stop()
		case 110:
			broker.Start()
			cities = append(cities, subscribe(t, broker.URL, "city", "linli/v1/+/telemetry"))
		}
	}
	defer func() { stop() }()
	eventually(t, "every sample", func() bool {
		got := map[string]bool{}
		for _, c := range cities {
			for _, m := range c.messages() {
				values(t, m.Payload(), got)
			}
		}
		return len(got) == len(want)
	})
}

func values(t *testing.T, payload []byte, into map[string]bool) {
	t.Helper()
	d, err := wire.NewDecompressor(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	text, err := d.Unpack(payload)
	if err != nil {
		t.Fatal(err)
	}
	for len(text) > 0 {
		var line []byte
		line, text = wire.NextLine(text)
		if bytes.HasPrefix(line, []byte("counter,")) {
			if err := wire.CheckOwn(line, "riverside", "gw1"); err != nil {
				t.Errorf("%s: %v", line, err)
			}
			fields := bytes.Split(bytes.Split(line, []byte(" "))[1], []byte(","))
			into[string(fields[0])] = true
		}
	}
}
