package uplink_test

import (
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"linli/internal/journal"
	"linli/internal/telemetry"
	"linli/internal/uplink"
	"linli/internal/wire"
)

// Three days without a broker, and then one: what the journal had room for arrives, the rest is told as lost, frame by
// frame and to the sample; memory stays bounded all the time, and live data is fresh while the backlog drains.
// LINLI_OUTAGE=full takes the real thing, 259,200 frames of 440 samples (minutes, and 1 GB of memory for the files);
// without it there is a frame a minute.
func TestThreeDayOutage(t *testing.T) {
	every, points := time.Minute, 44
	if os.Getenv("LINLI_OUTAGE") == "full" {
		every, points = time.Second, 440
	}
	frames := int(72 * time.Hour / every)
	t.Run("with room", func(t *testing.T) { outage(t, every, points, 1<<30) })
	// 2 to 3 bytes a sample, a hundred a frame: about a third fits.
	t.Run("without room", func(t *testing.T) { outage(t, every, points, int64(frames*(100+points*3/2)/3)) })
}

func outage(t *testing.T, every time.Duration, points int, room int64) {
	const start = telemetry.Mono(time.Hour)
	clock := telemetry.NewClock("boot", start+telemetry.Mono(72*time.Hour), time.Unix(0, 0))
	hall := newTownhall(clock)
	r := rand.New(rand.NewPCG(3, 4))
	j, err := journal.Open(journal.Config{Dir: memoryDir(t), MaxBytes: room, SegmentBytes: 1 << 20}, hall.inv, clock)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	arrived := map[uint64]bool{} // frames
	parts := map[uint64]int{}
	lostFrames := map[uint64]bool{}
	var lostSamples, bytes uint64
	var live times
	var liveSince time.Time // frames of after the outage
	h := startHostile(t, func(p published) (bool, bool) {
		if !strings.HasSuffix(p.topic, "/telemetry") {
			return true, false
		}
		now := time.Now()
		line, rest := wire.NextLine(p.payload)
		head, err := wire.ParseHeader(line)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		bytes += uint64(len(p.payload))
		for len(rest) > 0 {
			if line, rest = wire.NextLine(rest); !wire.IsLost(line) {
				continue
			}
			l, err := wire.ParseLost(line)
			if err != nil {
				t.Error(err)
			}
			if !lostFrames[l.From] {
				lostSamples += l.Count
			}
			for seq := l.From; seq <= l.To; seq++ {
				lostFrames[seq] = true
			}
		}
		if parts[head.From]++; parts[head.From] >= max(head.Parts, 1) {
			for seq := head.From; seq <= head.To; seq++ {
				arrived[seq] = true
			}
		}
		if !head.Late && head.T0 > liveSince.UnixNano() && !liveSince.IsZero() {
			live.add(now.Sub(time.Unix(0, head.T1)))
		}
		return true, false
	})
	h.discard()
	h.refuseConnections(true)
	u, err := uplink.New(uplink.Config{Site: "riverside", Gateway: "gw1", Brokers: []string{h.url}, StateDir: t.TempDir(), Clock: clock,
		MinBackoff: 200 * time.Millisecond}, j, newBook(), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	stop := runUntilStopped(t, u)
	defer func() {
		stop()
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	}()

	var samples, most uint64
	heap := func() {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		most = max(most, m.HeapAlloc)
	}
	runtime.GC()
	heap()
	before := most
	for at := start; at < start+telemetry.Mono(72*time.Hour); at = at.Add(every) {
		batch := hall.samples(r, 0, points)
		for i := range batch {
			batch[i].Time = at.Add(time.Duration(i) * time.Microsecond)
		}
		samples += uint64(len(batch))
		j.Append(clock.Now(), batch)
		if err := j.Commit(); err != nil {
			t.Fatal(err)
		}
		if int(at-start)/int(every)%1000 == 0 {
			heap()
		}
	}
	runtime.GC()
	heap()
	_, end := j.Bounds()
	t.Logf("outage: %d frames, %d samples, %.1f MB of files, heap %d MiB more at most", end-1, samples, float64(j.Stats().Bytes)/1e6, (most-before)>>20)

	// The broker is back. A frame every 100 ms goes on to come.
	h.refuseConnections(false)
	eventually(t, "the connection", func() bool { return u.Status().Connected })
	began := time.Now()
	mu.Lock()
	liveSince = began
	mu.Unlock()
	most = 0
	deadline := time.Now().Add(10 * time.Minute)
	drained := time.Duration(0)
	for n := 0; n < 20 || drained == 0; n++ {
		j.Append(clock.Now(), hall.samples(r, 0, points))
		samples += uint64(points)
		if err := j.Commit(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond) // the pace of the source
		heap()
		if s := u.Status(); drained == 0 && s.BacklogFrames < 5 {
			drained = time.Since(began)
		}
		if time.Now().After(deadline) {
			t.Fatalf("not drained: %+v", u.Status())
		}
	}
	eventually(t, "everything acknowledged", func() bool { return u.Status().BacklogFrames == 0 })
	_, next := j.Bounds()
	mu.Lock()
	defer mu.Unlock()
	for seq := uint64(1); seq < next; seq++ {
		if !arrived[seq] && !lostFrames[seq] {
			t.Fatalf("frame %d of %d has neither arrived nor been told as lost", seq, next-1)
		}
	}
	written := j.Stats().SamplesWritten
	t.Logf("drained in %.1f s: %.0f frames/s, %.1f MB/s; %d frames lost with %d samples told, live %v; heap %d MiB at most",
		drained.Seconds(), float64(len(arrived))/drained.Seconds(), float64(bytes)/1e6/drained.Seconds(), len(lostFrames), lostSamples, &live, most>>20)
	if (len(lostFrames) == 0) != (room == 1<<30) {
		t.Errorf("%d frames lost with room for %d bytes", len(lostFrames), room)
	}
	if written != samples {
		t.Errorf("%d of %d samples were written", written, samples)
	}
	if len(live.d) == 0 || live.at(1) > 5*time.Second {
		t.Errorf("live data: %v", &live)
	}
}
