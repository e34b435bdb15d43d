package mqtt_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"linli/internal/mqtt"
	"linli/internal/testservers"
)

// The shipped broker configuration starts, lets a gateway write under its own node, and under no other.
func TestShippedBrokerConfiguration(t *testing.T) {
	dir := t.TempDir()
	a := testservers.NewAuthority(t, dir, "linli-ca")
	a.Issue("broker", "broker", time.Hour)
	for _, who := range []string{"riverside.gw1", "hillside.gw1", "ingest", "commander"} {
		a.Issue(who, who, time.Hour)
	}
	conf, err := os.ReadFile("../../deploy/mosquitto/linli.conf")
	if err != nil {
		t.Fatal(err)
	}
	rules, err := os.ReadFile("../../deploy/mosquitto/linli.acl")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "linli.acl"), rules, 0o600); err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", testservers.FreePort(t))
	text := strings.NewReplacer("/etc/mosquitto/certs/", dir+"/", "/etc/mosquitto/", dir+"/",
		"listener 8883", "listener "+address[strings.LastIndex(address, ":")+1:]+" 127.0.0.1").Replace(string(conf))
	// As in Debian, whose own file names some things already and then includes the directory.
	if err := os.Mkdir(filepath.Join(dir, "conf.d"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "conf.d", "linli.conf"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	debian := fmt.Sprintf("pid_file %[1]s/mosquitto.pid\n\npersistence true\npersistence_location %[1]s/\n\nlog_dest file %[1]s/mosquitto.log\n\ninclude_dir %[1]s/conf.d\n", dir)
	if os.Geteuid() == 0 {
		debian += "user root\n"
	}
	file := filepath.Join(dir, "mosquitto.conf")
	if err := os.WriteFile(file, []byte(debian), 0o600); err != nil {
		t.Fatal(err)
	}
	testservers.StartMosquittoFile(t, file, address)

	connect := func(who string, onMessage func(paho.Message)) *mqtt.Session {
		s, err := mqtt.Connect(t.Context(), mqtt.Config{
			ClientID: who, CAFile: filepath.Join(dir, "linli-ca.crt"), CertFile: filepath.Join(dir, who+".crt"), KeyFile: filepath.Join(dir, who+".key"),
		}, "tls://"+address, mqtt.Options{OnMessage: onMessage})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close(50 * time.Millisecond) })
		return s
	}
	var mu sync.Mutex
	var got []string
	ingest := connect("ingest", func(m paho.Message) {
		mu.Lock()
		got = append(got, m.Topic()+" "+string(m.Payload()))
		mu.Unlock()
		m.Ack()
	})
	for _, f := range []string{"linli/v1/+/telemetry", "linli/v1/+/alert/+", "linli/v1/+/status"} {
		if err := ingest.Subscribe(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	for _, from := range []string{"riverside.gw1", "hillside.gw1"} {
		for _, topic := range []string{"riverside.gw1/telemetry", "riverside.gw1/alert/01A", "riverside.gw1/status", "dead/riverside.gw1", "riverside.gw1/cmd/resend", "hillside.gw1/telemetry"} {
			// Mosquitto acknowledges what it refuses, and may then end the connection.
			s := connect(from, nil)
			token := s.Publish("linli/v1/"+topic, false, []byte("from "+from))
			select {
			case <-token.Done():
			case <-s.Lost():
			case <-time.After(5 * time.Second):
				t.Fatalf("%s to %s: no acknowledgement", from, topic)
			}
			s.Close(50 * time.Millisecond)
		}
	}
	want := []string{"linli/v1/hillside.gw1/telemetry from hillside.gw1", "linli/v1/riverside.gw1/alert/01A from riverside.gw1", "linli/v1/riverside.gw1/status from riverside.gw1", "linli/v1/riverside.gw1/telemetry from riverside.gw1"}
	testservers.Eventually(t, 10*time.Second, "four messages", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(got) >= 4
	})
	// Ingest may ask a gateway to send again, and command nothing else; who commands may, and hears the replies.
	var commands []string
	box := connect("riverside.gw1", func(m paho.Message) {
		mu.Lock()
		commands = append(commands, m.Topic())
		mu.Unlock()
		m.Ack()
	})
	if err := box.Subscribe(t.Context(), "linli/v1/riverside.gw1/cmd/+"); err != nil {
		t.Fatal(err)
	}
	var replies []string
	commander := connect("commander", func(m paho.Message) {
		mu.Lock()
		replies = append(replies, m.Topic())
		mu.Unlock()
		m.Ack()
	})
	if err := commander.Subscribe(t.Context(), "linli/v1/riverside.gw1/reply/1"); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]string{{"ingest", "cmd/write"}, {"ingest", "cmd/resend"}, {"commander", "cmd/close"}, {"riverside.gw1", "reply/1"}} {
		s := map[string]*mqtt.Session{"riverside.gw1": box, "commander": commander}[c[0]]
		if s == nil {
			s = connect(c[0], nil)
		}
		select {
		case <-s.Publish("linli/v1/riverside.gw1/"+c[1], false, []byte("x")).Done():
		case <-s.Lost():
		case <-time.After(5 * time.Second):
			t.Fatalf("%s is not acknowledged", c)
		}
	}
	testservers.Eventually(t, 10*time.Second, "the commands and the reply", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(commands) > 1 && len(replies) > 0
	})
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("ingest got %q, want %q", got, want)
	}
	if !slices.Equal(commands, []string{"linli/v1/riverside.gw1/cmd/resend", "linli/v1/riverside.gw1/cmd/close"}) {
		t.Errorf("the gateway got %q", commands)
	}
	if !slices.Equal(replies, []string{"linli/v1/riverside.gw1/reply/1"}) {
		t.Errorf("who commands got %q", replies)
	}
	if _, err := mqtt.Connect(t.Context(), mqtt.Config{ClientID: "x", CAFile: filepath.Join(dir, "linli-ca.crt")}, "tls://"+address, mqtt.Options{}); err == nil {
		t.Error("connected without a certificate")
	}
}

// A save stops the broker for about 2 s for each GB of its queues: it must not do so for much of its time.
func TestShippedBrokerSavesSeldomEnough(t *testing.T) {
	conf, err := os.ReadFile("../../deploy/mosquitto/linli.conf")
	if err != nil {
		t.Fatal(err)
	}
	value := func(key string) float64 {
		for line := range strings.Lines(string(conf)) {
			if words := strings.Fields(line); len(words) == 2 && words[0] == key {
				v, err := strconv.ParseFloat(words[1], 64)
				if err != nil {
					t.Fatal(err)
				}
				return v
			}
		}
		t.Fatalf("no %s", key)
		return 0
	}
	save := value("max_queued_bytes") / 1e9 * 2
	if every := value("autosave_interval"); save > 3 || save > every/20 {
		t.Errorf("a save takes up to %.1f s, every %.0f s", save, every)
	}
}
