package mqtt_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"linli/internal/ingest"
	"linli/internal/mqtt"
	"linli/internal/testservers"
	"linli/internal/wire"
)

// The shipped configuration of a NATS cluster starts, lets a gateway write under its own node, hear its own commands,
// and no more; and ingest takes from it what it needs.
func TestShippedNATSConfiguration(t *testing.T) {
	certs := t.TempDir()
	a := testservers.NewAuthority(t, certs, "linli-ca")
	for _, who := range []string{"server", "riverside.gw1", "hillside.gw1", "ingest", "stranger"} {
		a.Issue(who, who, time.Hour)
	}
	conf, err := os.ReadFile("../../deploy/nats/linli.conf")
	if err != nil {
		t.Fatal(err)
	}
	users := exec.Command("../../deploy/nats/users.sh")
	users.Stdin = strings.NewReader("# gateways\nriverside.gw1\nhillside.gw1\n")
	permissions, err := users.Output()
	if err != nil {
		t.Fatal(err)
	}
	cluster := testservers.StartNATSClusterConf(t, func(s *testservers.NATSServer) string {
		file := filepath.Join(filepath.Dir(s.Dir), "linli-users.conf")
		if s.Name == "n1" { // the others read it while it would be written again
			if err := os.WriteFile(file, permissions, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return strings.NewReplacer("nats1\n", s.Name+"\n", "0.0.0.0:4222", s.Client, "0.0.0.0:8883", s.MQTT, "0.0.0.0:6222", s.Cluster,
			"/etc/nats/certs/", certs+"/", "/var/lib/nats", s.Dir, "80GB", "4GB",
			`"nats://nats1:6222", "nats://nats2:6222", "nats://nats3:6222"`, `"`+strings.Join(s.Routes, `", "`)+`"`).Replace(string(conf))
	})
	file := func(name string) string { return filepath.Join(certs, name) }
	connect := func(who string, server int, options mqtt.Options) (*mqtt.Session, error) {
		return mqtt.Connect(t.Context(), mqtt.Config{
			ClientID: strings.Replace(who, ".", "-", 1), CAFile: file("linli-ca.crt"), CertFile: file(who + ".crt"), KeyFile: file(who + ".key"),
		}, strings.Replace(cluster.MQTT[server], "tcp", "tls", 1), options)
	}
	db := testservers.StartInfluxDB(t)
	var servers []string
	for _, u := range cluster.URLs {
		servers = append(servers, strings.Replace(u, "nats", "tls", 1))
	}
	in, err := ingest.New(ingest.Config{
		NATS: &ingest.NATS{Servers: servers, MaxBytes: 1 << 30}, CAFile: file("linli-ca.crt"), CertFile: file("ingest.crt"), KeyFile: file("ingest.key"),
		Influx: ingest.Influx{URL: db.URL, Bucket: db.Bucket}, BatchAge: 10 * time.Millisecond,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- in.Run(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	testservers.Eventually(t, 30*time.Second, "ingest connected: "+in.Stats().LastError, func() bool { return in.Stats().Connected })

	commands := make(chan string, 10)
	own, err := connect("riverside.gw1", 1, mqtt.Options{OnMessage: func(m paho.Message) { commands <- m.Topic(); m.Ack() }})
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close(50 * time.Millisecond)
	if err := own.Subscribe(t.Context(), "linli/v1/riverside.gw1/cmd/+"); err != nil {
		t.Fatal(err)
	}
	if err := own.Subscribe(t.Context(), "linli/v1/hillside.gw1/cmd/+"); err == nil {
		t.Error("a gateway hears another's commands")
	}

	publish := func(from, topic string) {
		t.Helper()
		s, err := connect(from, 2, mqtt.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(50 * time.Millisecond)
		node, _, _ := strings.Cut(strings.TrimPrefix(topic, wire.Prefix), "/")
		site, gateway, _ := wire.SplitNode(node)
		at := time.Now().UnixNano()
		text := wire.AppendHeader(nil, &wire.Header{Epoch: 1, From: 1, To: 1, Count: 1, T0: at, T1: at})
		token := s.Publish(topic, false, fmt.Appendf(text, "%s,gateway=%s,site=%s n=1i %d\n", strings.ReplaceAll(from, ".", "_"), gateway, site, at))
		// It acknowledges what it refuses, or ends the connection.
		select {
		case <-token.Done():
		case <-s.Lost():
		case <-time.After(10 * time.Second):
			t.Fatalf("%s to %s: no acknowledgement", from, topic)
		}
	}
	for _, from := range []string{"hillside.gw1", "riverside.gw1"} {
		for _, topic := range []string{"riverside.gw1/telemetry", "riverside.gw1/cmd/resend", "dead/riverside.gw1"} {
			publish(from, wire.Prefix+topic)
		}
	}
	publish("hillside.gw1", wire.Prefix+"hillside.gw1/telemetry")
	testservers.Eventually(t, 20*time.Second, "two messages written", func() bool { return in.Stats().Acknowledged >= 2 })
	for measurement, site := range map[string]string{"riverside_gw1": "riverside", "hillside_gw1": "hillside"} {
		rows, err := db.Query(fmt.Sprintf(`SELECT count("n") FROM %q GROUP BY "site"`, measurement))
		if err != nil || len(rows) != 1 || rows[0].Tags["site"] != site || fmt.Sprint(rows[0].Row(0)["count"]) != "1" {
			t.Errorf("rows of %s: %+v (%v), want one of %s", measurement, rows, err, site)
		}
	}
	if s := in.Stats(); s.Messages != 2 || s.LastError != "" {
		t.Errorf("stats %+v", s)
	}
	if len(commands) != 0 {
		t.Errorf("a gateway was sent a command by another: %s", <-commands)
	}
	if _, err := connect("stranger", 0, mqtt.Options{}); err == nil {
		t.Error("connected with a certificate of nobody")
	}
	if _, err := mqtt.Connect(t.Context(), mqtt.Config{ClientID: "x", CAFile: file("linli-ca.crt")}, strings.Replace(cluster.MQTT[0], "tcp", "tls", 1), mqtt.Options{}); err == nil {
		t.Error("connected without a certificate")
	}
	if bytes.Contains(conf, []byte("sync_interval: always")) != true {
		t.Error("what is acknowledged is not on the disk")
	}
}
