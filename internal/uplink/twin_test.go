package uplink_test

import (
	"encoding/json"
	"testing"
	"time"

	"linli/internal/testservers"
	"linli/internal/uplink"
	"linli/internal/wire"
)

// Two gateways with one id throw each other out. Both name the other, tell it to the city, and leave each other time
// instead of changing places as fast as they can.
func TestTwoGatewaysWithOneID(t *testing.T) {
	broker := testservers.StartMosquitto(t)
	city := subscribe(t, broker.URL, "city", "linli/v1/+/status")
	const wait = 600 * time.Millisecond
	a := start(t, uplink.Config{Brokers: []string{broker.URL}, Version: "1.0", TwinWait: wait}, newJournal(3), newBook())
	eventually(t, "the first", func() bool { return a.Status().Connected })
	other := newJournal(3)
	other.epoch = 0xdecade
	b := start(t, uplink.Config{Brokers: []string{broker.URL}, Version: "2.0", TwinWait: wait}, other, newBook())
	eventually(t, "both know of the other", func() bool { return a.Status().Twin != nil && b.Status().Twin != nil })
	if s := a.Status().Twin; s.Version != "2.0" || s.Host == "" || s.Epoch != "0000000000decade" || s.Started.IsZero() {
		t.Errorf("the first says of the second: %v", s)
	}
	if s := b.Status().Twin; s.Version != "1.0" {
		t.Errorf("the second says of the first: %v", s)
	}
	eventually(t, "the city knows", func() bool {
		said := map[string]bool{}
		for _, m := range city.messages() {
			var s wire.Status
			if err := json.Unmarshal(m.Payload(), &s); err != nil {
				t.Fatal(err)
			}
			if s.State == "online" && s.Reason == "twin" && s.Twin != nil {
				said[s.Version+" has "+s.Twin.Version] = true
			}
		}
		return said["1.0 has 2.0"] && said["2.0 has 1.0"]
	})
	// Each waits at least half of TwinWait before it comes back.
	began, before := time.Now(), a.Status().Connects+b.Status().Connects
	eventually(t, "six more connections", func() bool { return a.Status().Connects+b.Status().Connects >= before+6 })
	if d := time.Since(began); d < 2*wait/2 {
		t.Errorf("six connections in %v", d)
	}
	b.stop()
	eventually(t, "the first, alone", func() bool { return a.Status().Connected && a.Status().BacklogFrames == 0 })
}

// What the broker kept of an earlier life of the gateway is no other gateway, also where a killed broker comes back with
// something older than what it had acknowledged.
func TestEarlierLifeIsNoTwin(t *testing.T) {
	broker := testservers.StartMosquitto(t, "autosave_on_changes false", "autosave_interval 1800")
	dir := t.TempDir()
	run := func() *running {
		u := start(t, uplink.Config{Brokers: []string{broker.URL}, StateDir: dir}, newJournal(3), newBook())
		online(t, u, 1)
		return u
	}
	u := run()
	broker.Stop() // saves that the gateway is online
	u.stop()
	broker.Start()
	u = run()
	broker.Kill()
	broker.Start() // with what was saved then
	online(t, u, 2)
	city := subscribe(t, broker.URL, "city", "linli/v1/+/status")
	eventually(t, "a status", func() bool { return len(city.messages()) > 0 })
	if s := u.Status(); s.Twin != nil {
		t.Errorf("it takes itself for %v", s.Twin)
	}
}

// online waits for a connection on which the gateway hears and everything is acknowledged.
func online(t *testing.T, u *running, connects uint64) {
	t.Helper()
	eventually(t, "a connection that hears, and every frame", func() bool {
		s := u.Status()
		return s.Connected && s.Hears && s.BacklogFrames == 0 && s.Connects >= connects
	})
}

func TestWhoIsATwin(t *testing.T) {
	started := time.Now()
	earlier, later := started.Add(-time.Minute), started.Add(time.Minute)
	for name, c := range map[string]struct {
		status wire.Status
		twin   bool
	}{
		"another":                    {wire.Status{State: "online", Instance: "b", Time: later, ClockSet: true}, true},
		"another without a clock":    {wire.Status{State: "online", Instance: "b", Time: time.Unix(300, 0)}, true},
		"an earlier life":            {wire.Status{State: "online", Instance: "b", Time: earlier, ClockSet: true}, false},
		"a will":                     {wire.Status{State: "offline", Reason: "lost"}, false},
		"another that says farewell": {wire.Status{State: "offline", Reason: "stopped", Instance: "b", Time: later, ClockSet: true}, false},
		"an older version":           {wire.Status{State: "online", Time: later, ClockSet: true}, false},
	} {
		u, err := uplink.New(uplink.Config{Site: "riverside", Gateway: "gw1", Brokers: []string{"tcp://127.0.0.1:1"}, StateDir: t.TempDir()}, newJournal(1), newBook(), nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(c.status)
		if err != nil {
			t.Fatal(err)
		}
		if got := u.Hear(started, b); (got != nil) != c.twin {
			t.Errorf("%s: twin %v", name, got)
		}
	}
}
