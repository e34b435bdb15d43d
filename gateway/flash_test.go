package main

import (
	"flag"
	"math/rand/v2"
	"path/filepath"
	"sort"
	"testing"
	"time"

	"linli/internal/testservers"
)

var flashFor = flag.Duration("flash", 40*time.Second, "how long TestFlashWrites measures")

// TestFlashWrites measures what the whole gateway writes to the block device under an ext4 of its own, with the options
// that mkfs and mount take by themselves: a site of 440 samples a second, commits each second, everything sent to a broker.
// `make soak` measures for minutes; docs/benchmarks.md has the figures.
func TestFlashWrites(t *testing.T) {
	const meters, values, perDay, budget = 63, 7, 86400, 600e6
	disk := testservers.StartDisk(t, 256)
	broker := testservers.StartMosquitto(t)
	r := rand.New(rand.NewPCG(1, 2))
	state := map[int]*[6]float64{}
	bus := serveCounting(t, func(unit, address, count int) []uint16 {
		v := state[unit]
		if v == nil {
			v = &[6]float64{2300, 300, 6000, 1e7 * r.Float64(), 5000, 98}
			state[unit] = v
		}
		for i, step := range []float64{0.3, 0.5, 3, 0, 0.3, 0.1} {
			v[i] += step * r.NormFloat64()
		}
		v[3] += float64(r.IntN(20))
		overload := uint16(0)
		if r.IntN(600) == 0 {
			overload = 1
		}
		words := []uint16{uint16(v[0]), uint16(v[1]), uint16(v[2]), uint16(uint32(v[3]) >> 16), uint16(uint32(v[3])), uint16(v[4]), uint16(v[5]), overload}
		if address+count > len(words) {
			return nil
		}
		return words[address : address+count]
	})
	console := freePort(t)
	site := writeSite(t, communitySite(meters, bus.port, broker.Address, console, ""), map[string]string{"profiles/quick_meter.yaml": quickMeter})
	gateway := start(t, "run", "-c", site, "--state", filepath.Join(disk.Dir, "state"))
	// The first files, the first round of every unit, the first messages.
	waitFor(t, 30*time.Second, "every unit read ten times", func() bool { return len(bus.served()) > 10*meters })

	disk.Sync()
	split := disk.Trace()
	reads, before, began := len(bus.served()), disk.Written(), time.Now()
	pause(*flashFor)
	disk.Sync()
	took := time.Since(began)
	written := disk.Written() - before
	samples := values * float64(len(bus.served())-reads) / took.Seconds()
	each := float64(written) / took.Seconds() * perDay
	t.Logf("%.0f samples/s, %.2f KiB/s at the device: %.0f MB a day, budget %.0f", samples, float64(written)/took.Seconds()/1024, each/1e6, budget/1e6)
	if split == nil {
		t.Log("this kernel has no tracing: not split by file")
	} else {
		files := split()
		names := make([]string, 0, len(files))
		for name := range files {
			names = append(names, name)
		}
		sort.Slice(names, func(i, k int) bool { return files[names[i]] > files[names[k]] })
		for _, name := range names {
			t.Logf("%8.1f MB a day  %s", float64(files[name])/took.Seconds()*perDay/1e6, name)
		}
	}
	if samples < 430 {
		t.Errorf("%.0f samples/s: this is not the site that was to be measured", samples)
	}
	if each > budget {
		t.Errorf("%.0f MB a day at the block device, budget %.0f", each/1e6, budget/1e6)
	}
	gateway.stop(15 * time.Second)
}
