package uplink_test

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"linli/internal/alert"
	"linli/internal/mqtt"
	"linli/internal/testservers"
	"linli/internal/uplink"
	"linli/internal/wire"
)

// subscriber collects what a real broker delivers.
type subscriber struct {
	s  *mqtt.Session
	mu sync.Mutex
	m  []paho.Message
}

func subscribe(t *testing.T, broker, id, filter string) *subscriber {
	t.Helper()
	c := &subscriber{}
	s, err := mqtt.Connect(t.Context(), mqtt.Config{ClientID: id}, broker, mqtt.Options{OnMessage: func(m paho.Message) {
		c.mu.Lock()
		c.m = append(c.m, m)
		c.mu.Unlock()
		m.Ack()
	}})
	if err != nil {
		t.Fatal(err)
	}
	c.s = s
	t.Cleanup(func() { s.Close(50 * time.Millisecond) })
	if err := s.Subscribe(t.Context(), filter); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *subscriber) messages() []paho.Message {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]paho.Message(nil), c.m...)
}

// frames counts how often each frame was delivered.
func (c *subscriber) frames(t *testing.T) map[uint64]int {
	t.Helper()
	d, err := wire.NewDecompressor(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	seen := map[uint64]int{}
	for _, m := range c.messages() {
		if !strings.HasSuffix(m.Topic(), "/telemetry") {
			continue
		}
		text, err := d.Unpack(m.Payload())
		if err != nil {
			t.Fatal(err)
		}
		line, _ := wire.NextLine(text)
		h, err := wire.ParseHeader(line)
		if err != nil {
			t.Fatal(err)
		}
		for seq := h.From; seq <= h.To; seq++ {
			seen[seq]++
		}
	}
	return seen
}

func TestRealBrokerStoppedAndStarted(t *testing.T) {
	broker := testservers.StartMosquitto(t)
	before := subscribe(t, broker.URL, "city", "linli/v1/+/#")
	j, b := newJournal(20), newBook()
	u := start(t, uplink.Config{Brokers: []string{broker.URL}, Compression: "zstd"}, j, b)
	eventually(t, "first frames", func() bool { return j.Released() == 21 })
	b.say("01A", alert.ActiveUnacknowledged, "raised", 1)
	eventually(t, "alert told", func() bool { return b.toldCount() == 1 })
	broker.Stop()
	eventually(t, "loss noticed", func() bool { return !u.Status().Connected })
	j.append(100, "boot")
	b.say("01B", alert.ActiveUnacknowledged, "raised", 1)
	broker.Start()
	after := subscribe(t, broker.URL, "city", "linli/v1/+/#")
	eventually(t, "everything acknowledged", func() bool { return j.Released() == 121 && b.toldCount() == 2 })
	eventually(t, "everything delivered", func() bool {
		seen := before.frames(t)
		for seq, n := range after.frames(t) {
			seen[seq] += n
		}
		return len(seen) == 120
	})

	// A newcomer finds the open alerts, their list and the gateway's status.
	newcomer := subscribe(t, broker.URL, "newcomer", "linli/v1/riverside.gw1/#")
	find := func(topic string) []byte {
		for _, m := range newcomer.messages() {
			if m.Topic() == "linli/v1/riverside.gw1/"+topic && m.Retained() {
				return m.Payload()
			}
		}
		return nil
	}
	eventually(t, "retained messages", func() bool { return find("status") != nil && find("alert/01A") != nil && find("alert/01B") != nil })
	var list wire.OpenList
	if err := json.Unmarshal(find("alerts/open"), &list); err != nil || len(list.Open) != 2 {
		t.Errorf("open alerts %s, %v", find("alerts/open"), err)
	}
	var status wire.Status
	if err := json.Unmarshal(find("status"), &status); err != nil || status.State != "online" || status.Epoch != "0000000000c0ffee" {
		t.Errorf("status %s, %v", find("status"), err)
	}
	u.stop()
	last := subscribe(t, broker.URL, "last", "linli/v1/riverside.gw1/status")
	eventually(t, "offline", func() bool {
		m := last.messages()
		return len(m) > 0 && json.Unmarshal(m[0].Payload(), &status) == nil && status.State == "offline" && status.Reason == "stopped"
	})
}

// A broker that comes back without its memory gets the open alerts again.
func TestBrokerThatForgot(t *testing.T) {
	old := testservers.StartMosquitto(t)
	b := newBook()
	u := start(t, uplink.Config{Brokers: []string{old.URL}}, newJournal(1), b)
	b.say("01A", alert.ActiveUnacknowledged, "raised", 1)
	eventually(t, "alert told", func() bool { return b.toldCount() == 1 })
	u.stop()
	fresh := testservers.StartMosquitto(t)
	start(t, uplink.Config{Brokers: []string{fresh.URL}}, newJournal(1), b)
	c := subscribe(t, fresh.URL, "city", "linli/v1/riverside.gw1/alert/+")
	eventually(t, "alert again", func() bool {
		m := c.messages()
		if len(m) == 0 {
			return false
		}
		e, err := wire.ParseAlert(m[0].Payload())
		return err == nil && e.ID == "01A/1"
	})
}
