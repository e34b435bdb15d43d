package ingest

import (
	"errors"
	"testing"
	"time"

	"go.uber.org/zap"

	"linli/internal/wire"
)

// FuzzMessage: whatever a gateway sends, what would be written is whole lines of that gateway.
func FuzzMessage(f *testing.F) {
	head := "# linli epoch=00c0ffee00c0ffee seq=1-1 count=2 late=0 t0=1790000000000000000 t1=1790000001000000000\n"
	f.Add("linli/v1/s.g/telemetry", []byte(head+"m,gateway=g,site=s a=1 1790000000000000000\nm,gateway=h,site=s a=\"x\ny\" 1790000000000000000\n# linli lost epoch=00c0ffee00c0ffee seq=0-0 count=1 reason=age t0=1790000000000000000 t1=1790000001000000000\n"))
	f.Add("linli/v1/s.g/telemetry", []byte(head+"m,gateway=g,site=s a=\"\\\" 1790000000000000000\nm,gateway=h,site=t a=1 1790000000000000000"))
	f.Add("linli/v1/s.g/alert/01A", []byte(`{"specversion":"1.0","id":"01A/1","source":"s.g","type":"dev.linli.alert.raised","time":"2026-01-01T00:00:00Z","data":{"id":"01A","alert":"b","subject":"c d","severity":"warning","state":"closed"}}`))
	f.Add("linli/v1/s.g/status", []byte(`{"node":"s.g","state":"online","time":"2026-01-01T00:00:00Z","version":"a\"b\nc","clock_set":true,"next_seq":3}`))
	in, err := New(Config{Brokers: []string{"tcp://x"}, Influx: Influx{URL: "http://x", Bucket: "b"}}, zap.NewNop())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, topic string, payload []byte) {
		d, err := wire.NewDecompressor(64 << 10)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		b := &batcher{in: in, unpack: d, dead: map[string]*DeadLetter{}, late: map[lateHour]bool{}}
		b.check.setNow(time.Unix(1_790_000_000, 0))
		b.message(topic, payload)
		parsed, err := wire.ParseTopic(topic)
		if err != nil && len(b.lines) > 0 {
			t.Fatalf("lines from topic %q", topic)
		}
		site, gateway, _ := wire.SplitNode(parsed.Node)
		for rest := b.lines; len(rest) > 0; {
			var line []byte
			line, rest = wire.NextLine(rest)
			l, err := wire.CheckLine(line)
			if err != nil && !errors.Is(err, wire.ErrReserved) || string(l.Site) != site || string(l.Gateway) != gateway {
				t.Errorf("%q would be written: %v", line, err)
			}
		}
		for _, max := range []int{1, 40, 1000} {
			n := 0
			for _, piece := range cut(b.lines, max) {
				n += len(piece)
			}
			if n != len(b.lines) {
				t.Errorf("%d bytes of %d after cutting", n, len(b.lines))
			}
		}
		for piece := b.lines; ; {
			halves := halve(piece)
			if halves == nil {
				break
			}
			if len(halves[0])+len(halves[1]) != len(piece) || len(halves[0]) == 0 {
				t.Fatalf("halves of %d and %d bytes of %d", len(halves[0]), len(halves[1]), len(piece))
			}
			piece = halves[1]
		}
	})
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)
	for v, want := range map[string]time.Duration{
		"": 0, "3": 3 * time.Second, "0.5": 500 * time.Millisecond, "-3": 0, "nonsense": 0, "NaN": 0, "1e300": maxRetryAfter,
		"Sat, 21 Nov 2026 08:00:07 GMT": 7 * time.Second, "Fri, 20 Nov 2026 08:00:07 GMT": 0, "Sun, 22 Nov 2026 08:00:07 GMT": maxRetryAfter,
	} {
		if got := retryAfter(v, now); got != want {
			t.Errorf("retryAfter(%q) = %v, want %v", v, got, want)
		}
	}
}
