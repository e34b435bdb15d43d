package ingest

import (
	"fmt"
	"testing"
	"time"

	"linli/internal/wire"
)

// What comes for an hour that was over is marked, the earliest such hour once; what is live is not.
func TestLateIsMarked(t *testing.T) {
	now := time.Date(2026, 10, 1, 8, 20, 0, 0, time.UTC)
	at := func(back time.Duration) int64 { return now.Add(-back).UnixNano() }
	in, err := New(Config{Brokers: []string{"tcp://x"}, Influx: Influx{URL: "http://x", Bucket: "b"}, Now: func() time.Time { return now }}, nil)
	if err != nil {
		t.Fatal(err)
	}
	message := func(t1, settled int64, more string) string {
		head := fmt.Sprintf("# linli epoch=00c0ffee00c0ffee seq=18-17 count=0 late=0 t0=%d t1=%d", t1, t1)
		if settled != 0 {
			head += fmt.Sprintf(" settled=%d", settled)
		}
		return head + "\n" + more
	}
	status := func(back time.Duration) string {
		return fmt.Sprintf(`{"node":"s.g","state":"online","time":%q,"version":"1","clock_set":true,"epoch":"00c0ffee00c0ffee","next_seq":3}`, now.Add(-back).Format(time.RFC3339))
	}
	for name, c := range map[string]struct {
		topic, payload string
		hour           int // -1: none
	}{
		"live":                             {"telemetry", message(at(0), at(10*time.Second), ""), -1},
		"of this hour":                     {"telemetry", message(at(15*time.Minute), 0, ""), -1},
		"of the hour before":               {"telemetry", message(at(30*time.Minute), 0, ""), 7},
		"samples may be a minute late":     {"telemetry", message(at(20*time.Minute-30*time.Second), 0, ""), 7},
		"a clock that was set back":        {"telemetry", message(at(0), at(3*time.Hour), ""), 5},
		"a loss":                           {"telemetry", message(at(0), at(10*time.Second), fmt.Sprintf("# linli lost epoch=00c0ffee00c0ffee seq=3-4 count=9 reason=space t0=%d t1=%d\n", at(2*time.Hour), at(0))), 6},
		"a status":                         {"status", status(0), -1},
		"a status that waited for an hour": {"status", status(time.Hour), 7},
		"a will":                           {"status", `{"node":"s.g","state":"offline","reason":"lost"}`, -1},
	} {
		b, err := newBatcher(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		b.message("linli/v1/s.g/"+c.topic, []byte(c.payload))
		if len(b.lines) == 0 || len(b.dead) > 0 {
			t.Fatalf("%s: not taken: %v", name, b.dead)
		}
		got := -1
		for h := range b.late {
			if got = time.Unix(0, h.start).UTC().Hour(); h.site != "s" || h.gateway != "g" {
				t.Errorf("%s: marked for %s.%s", name, h.site, h.gateway)
			}
		}
		if got != c.hour || len(b.late) > 1 {
			t.Errorf("%s: marked %v, want the hour %d", name, b.late, c.hour)
		}
		b.close()
	}
	if got := string(wire.AppendLateLine(nil, "one", "s", "g", 7, 8)); got != "linli_late,client=one,gateway=g,site=s at=8i 7\n" {
		t.Error(got)
	}
}
