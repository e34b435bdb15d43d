package main

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"linli/internal/testservers"
)

// dotless stands before a broker and makes slashes of the dots in every topic and filter that clients send, as the MQTT
// plugin of RabbitMQ does. It returns its address as tcp://host:port.
func dotless(t *testing.T, broker string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", broker)
			if err != nil {
				client.Close()
				continue
			}
			go func() {
				defer client.Close()
				defer server.Close()
				for {
					p, err := packets.ReadPacket(client)
					if err != nil {
						return
					}
					switch p := p.(type) {
					case *packets.ConnectPacket:
						p.WillTopic = slashes(p.WillTopic)
					case *packets.PublishPacket:
						p.TopicName = slashes(p.TopicName)
					case *packets.SubscribePacket:
						for i := range p.Topics {
							p.Topics[i] = slashes(p.Topics[i])
						}
					}
					if p.Write(server) != nil {
						return
					}
				}
			}()
			go func() {
				defer client.Close()
				defer server.Close()
				_, _ = io.Copy(client, server) // the other direction ends with it
			}()
		}
	}()
	return "tcp://" + l.Addr().String()
}

func slashes(topic string) string { return strings.ReplaceAll(topic, ".", "/") }

// Behind a broker that makes slashes of dots a gateway is heard by an ingest with filters for it, hears its commands, and
// answers them.
func TestBrokerThatMakesSlashesOfDots(t *testing.T) {
	t.Parallel()
	mosquitto, db := testservers.StartMosquitto(t), testservers.StartInfluxDB(t)
	broker := dotless(t, mosquitto.Address)
	public, key := commandKey(t)
	ingest := start(t, "ingest", "--broker", broker, "--influx-url", db.URL, "--bucket", db.Bucket,
		"--filter", "linli/v1/+/+/telemetry,linli/v1/+/+/alert/+,linli/v1/+/+/status")
	waitFor(t, 20*time.Second, "ingest", func() bool { return strings.Contains(ingest.out.String(), "ingest connected") })
	b := startRealBox(t, broker, public)
	b.sample()
	waitFor(t, 20*time.Second, "rows", func() bool {
		samples, err := db.Count("counter", "n")
		ledger, err2 := db.Count("linli_ledger", "to")
		status, err3 := db.Count("linli_status", "next_seq")
		return err == nil && err2 == nil && err3 == nil && samples == 1 && ledger > 0 && status > 0
	})
	waitFor(t, 20*time.Second, "the gateway's subscriptions", func() bool { return b.up.Status().Hears })
	// Without --epoch, so that it needs the retained status too.
	code, out, errs := linli(t, "command", "send", "resend", "--from", "1", "--to", "1", "--broker", broker, "--node", "riverside.gw1", "--key", key)
	if code != exitGood || !strings.Contains(out, "resend: done") {
		t.Errorf("exit code %d: %s%s", code, out, errs)
	}
}
