package ingest_test

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"linli/internal/alert"
	"linli/internal/ingest"
	"linli/internal/telemetry"
	"linli/internal/testservers"
	"linli/internal/wire"
)

// What MQTT clients publish to a NATS cluster arrives through its streams: telemetry, alerts that were there before,
// their clearing, and what is bad.
func TestJetStreamRoundTrip(t *testing.T) {
	cluster, db := testservers.StartNATSCluster(t), testservers.StartInfluxDB(t)
	alertEvent := func(id string, at int64) []byte {
		a := alert.Alert{ID: id, Identity: telemetry.Identity{Alert: "FireLaneBlocked", Subject: "lane1"}, Severity: telemetry.Critical,
			State: alert.ActiveUnacknowledged, Title: telemetry.Text{Zh: "消防通道被占用", En: "Fire lane blocked"}, Zone: "north",
			RaisedAt: time.Unix(0, at), Revision: 1, Durable: true}
		ev := wire.NewAlertEvent(node, &a, "raised", time.Unix(0, at))
		payload, err := ev.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return payload
	}
	c := connect(t, cluster.MQTT[0], "box")
	// Before any ingest was there: only what is retained is still to be had.
	publishRetained(t, c, "linli/v1/"+node+"/alert/01OLD", alertEvent("01OLD", base))

	cfg := ingest.Config{
		NATS: &ingest.NATS{Servers: cluster.URLs, MaxBytes: 256 << 20}, MaxMessage: 64 << 10, QueueBytes: 8 << 20,
		Influx: ingest.Influx{URL: db.URL, Bucket: db.Bucket},
	}
	in, stop := start(t, cfg)
	dead := connect(t, cluster.MQTT[1], "clerk", "linli/v1/dead/+")
	for i := range 50 {
		c.publish(topic, message(uint64(i+1), uint64(i+1), line(i, fmt.Sprintf("n=%di", i))))
	}
	publishRetained(t, c, "linli/v1/"+node+"/alert/01NEW", alertEvent("01NEW", base+1))
	publishRetained(t, c, "linli/v1/"+node+"/alert/01NEW", nil)
	c.publish(topic, message(51, 51, "counter,gateway=gw1,site=hillside n=1i 5"))
	c.publish(topic, []byte(strings.Repeat("x", 65<<10)))
	eventually(t, "everything acknowledged", func() bool { return in.Stats().Acknowledged >= 55 })
	for measurement, want := range map[string]int64{"counter": 50, "alert": 2, "linli_ledger": 51} {
		field := map[string]string{"counter": "n", "alert": "title_en", "linli_ledger": "count"}[measurement]
		if n, err := db.Count(measurement, field); n != want || err != nil {
			t.Errorf("%d rows of %s (%v), want %d", n, measurement, err, want)
		}
	}
	if s := in.Stats(); s.Oversized != 1 || s.Foreign != 1 || s.QueueMessages != 0 || s.QueueBytes != 0 {
		t.Errorf("stats %+v", s)
	}
	eventually(t, "dead letters", func() bool {
		n := 0
		for _, d := range dead.letters() {
			n += d.Count
		}
		return n == 2
	})
	stop()

	// Without any ingest messages wait, and a second one goes on where the first has stopped.
	for i := range 20 {
		c.publish(topic, message(uint64(i+100), uint64(i+100), line(i+100, "n=1i")))
	}
	second, _ := start(t, cfg)
	eventually(t, "the rest", func() bool { return second.Stats().Acknowledged >= 20 })
	if n, err := db.Count("counter", "n"); n != 70 || err != nil {
		t.Errorf("%d rows (%v), want 70", n, err)
	}
	if got := second.Stats().Messages; got != 20 {
		t.Errorf("%d messages came to the second, want the 20 that were not acknowledged", got)
	}
}

func publishRetained(t *testing.T, c *client, topic string, payload []byte) {
	t.Helper()
	token := c.s.Publish(topic, true, payload)
	select {
	case <-token.Done():
	case <-c.s.Lost():
		t.Fatal(c.s.Err())
	}
	if token.Error() != nil {
		t.Fatal(token.Error())
	}
}

// A backlog comes in one go, each message once: nothing is sent by the server and then not taken.
func TestJetStreamBacklog(t *testing.T) {
	cluster := testservers.StartNATSCluster(t)
	db := &fakeDB{answer: func(string) (int, string, string) { return 204, "", "" }}
	server := httptest.NewServer(db)
	defer server.Close()
	cfg := ingest.Config{NATS: &ingest.NATS{Servers: cluster.URLs, MaxBytes: 256 << 20}, QueueBytes: 8 << 20, Influx: ingest.Influx{URL: server.URL, Bucket: "b"}}
	_, stop := start(t, cfg)
	c := connect(t, cluster.MQTT[0], "box")
	stop()
	const messages = 5000
	for first := 0; first < messages; first += 50 {
		var tokens []paho.Token
		for i := first; i < first+50; i++ {
			tokens = append(tokens, c.s.Publish(topic, false, message(uint64(i+1), uint64(i+1), line(i%3000, fmt.Sprintf("n=%di", i)))))
		}
		for _, token := range tokens {
			if token.Wait(); token.Error() != nil {
				t.Fatal(token.Error())
			}
		}
	}
	in, _ := start(t, cfg)
	eventually(t, "all acknowledged", func() bool { return in.Stats().Acknowledged >= messages })
	if s := in.Stats(); s.Messages != messages {
		t.Errorf("%d messages came for %d", s.Messages, messages)
	}
}
