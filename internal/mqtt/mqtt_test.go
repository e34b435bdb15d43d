package mqtt_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
	"go.uber.org/goleak"

	"linli/internal/mqtt"
	"linli/internal/testservers"
)

// A publish that the end of its connection interrupted ends with the library's write timeout, 10 s later.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/eclipse/paho%2emqtt%2egolang.(*client).Publish"))
}

// peer is a broker of one connection at a time that does what serve says after the CONNACK.
func peer(t *testing.T, l net.Listener, serve func(c net.Conn)) string {
	t.Helper()
	testservers.Serve(t, l, func(c net.Conn) {
		if _, err := packets.ReadPacket(c); err == nil {
			serve(c)
		}
	})
	return "tcp://" + l.Addr().String()
}

func accept(c net.Conn) { _, _ = c.Write([]byte{0x20, 2, 0, 0}) }

// connect connects as the client "a".
func connect(t *testing.T, cfg mqtt.Config, url string, opts mqtt.Options) *mqtt.Session {
	t.Helper()
	cfg.ClientID = "a"
	s, err := mqtt.Connect(t.Context(), cfg, url, opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// publish returns a message with QoS 1 as a broker sends it.
func publish(topic string, id uint16, payload []byte) *packets.PublishPacket {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.Qos, p.TopicName, p.MessageID, p.Payload = 1, topic, id, payload
	return p
}

func lost(t *testing.T, s *mqtt.Session) error {
	t.Helper()
	select {
	case <-s.Lost():
		return s.Err()
	case <-time.After(10 * time.Second):
		t.Fatal("the connection is still there after 10 s")
		return nil
	}
}

// P7, P9 and their like: what a hostile broker sends ends the connection, and nothing worse.
func TestHostilePacketsEndTheConnection(t *testing.T) {
	for name, sent := range map[string][]byte{
		"large publish with QoS 2":    {0x34, 0xff, 0xff, 0xff, 0x7f},
		"length without end":          {0x32, 0xff, 0xff, 0xff, 0xff, 0xff},
		"suback with too many codes":  {0x90, 5, 0, 1, 0, 0, 0},
		"suback for nothing":          {0x90, 2, 0, 1},
		"puback too long":             {0x40, 3, 0, 1, 0},
		"packets only a client sends": {0x10, 0},
		"pubrec":                      {0x50, 2, 0, 1},
		"reserved type":               {0xf0, 0},
		"end in the middle":           {0x32, 10, 0},
	} {
		t.Run(name, func(t *testing.T) {
			url := peer(t, testservers.Listen(t), func(c net.Conn) {
				accept(c)
				_, _ = c.Write(sent)
				if name == "end in the middle" {
					return
				}
				_, _ = io.Copy(io.Discard, c)
			})
			s, err := mqtt.Connect(t.Context(), mqtt.Config{ClientID: "a"}, url, mqtt.Options{})
			if err != nil {
				return // as good: it may have been seen while connecting
			}
			defer s.Close(0)
			if err := lost(t, s); name != "end in the middle" && !errors.Is(err, mqtt.ErrPacket) {
				t.Errorf("lost because of %v, want a hostile packet", err)
			}
		})
	}
}

// P10: a peer that reads nothing is noticed by the deadline of a write, also when it is only pings that are written.
func TestStalledPeerIsNoticed(t *testing.T) {
	url := peer(t, testservers.Listen(t), func(c net.Conn) {
		accept(c)
		<-t.Context().Done()
	})
	s := connect(t, mqtt.Config{WriteTimeout: 200 * time.Millisecond}, url, mqtt.Options{})
	defer s.Close(0)
	for range 1000 {
		s.Publish("t", false, make([]byte, 64<<10))
		if s.Err() != nil {
			break
		}
	}
	var timeout net.Error
	if err := lost(t, s); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("lost because of %v, want a timeout", err)
	}
}

// A message that is too large is read past and told, in the midst of others, and only an acknowledgement of ours makes
// the broker forget it.
func TestOversizedMessageIsPassedOver(t *testing.T) {
	message := func(id uint16, size int) *packets.PublishPacket {
		return publish("linli/v1/a.b/telemetry", id, make([]byte, size))
	}
	for _, told := range []bool{true, false} {
		acked := make(chan uint16, 10)
		url := peer(t, testservers.Listen(t), func(c net.Conn) {
			accept(c)
			for i, size := range []int{10, 9 << 20, 20, 1 << 20, 30} {
				if err := message(uint16(i+1), size).Write(c); err != nil {
					return
				}
			}
			for {
				p, err := packets.ReadPacket(c)
				if err != nil {
					return
				}
				if a, ok := p.(*packets.PubackPacket); ok {
					acked <- a.MessageID
				}
			}
		})
		var mu sync.Mutex
		sizes := map[int]bool{}
		opts := mqtt.Options{OnMessage: func(m paho.Message) {
			mu.Lock()
			defer mu.Unlock()
			sizes[len(m.Payload())] = true
			m.Ack()
		}}
		if told {
			opts.OnOversized = func(m *mqtt.Oversized) {
				if m.Topic() != "linli/v1/a.b/telemetry" || m.Qos() != 1 || m.Payload() != nil || m.Duplicate() || m.Retained() {
					t.Errorf("told of %+v", m)
				}
				mu.Lock()
				sizes[m.Size] = true
				mu.Unlock()
				go m.Ack()
			}
		}
		s := connect(t, mqtt.Config{MaxPacket: 1 << 20}, url, opts)
		ids := map[uint16]bool{}
		for len(ids) < 5 {
			select {
			case id := <-acked:
				ids[id] = true
			case <-s.Lost():
				t.Fatalf("told %v: lost after %v: %v", told, ids, s.Err())
			case <-time.After(10 * time.Second):
				t.Fatalf("told %v: only %v acknowledged", told, ids)
			}
		}
		s.Close(0)
		mu.Lock()
		const more = 2 + 22 + 2 // length and text of the topic, number
		if want := map[int]bool{10: true, 20: true, 30: true}; told != sizes[9<<20+more] || told != sizes[1<<20+more] || !sizes[10] || !sizes[20] || !sizes[30] {
			t.Errorf("told %v: sizes %v, want %v and the large ones if told", told, sizes, want)
		}
		mu.Unlock()
	}
}

func TestPeerThatAnswersNoPingIsNoticed(t *testing.T) {
	url := peer(t, testservers.Listen(t), func(c net.Conn) {
		accept(c)
		_, _ = io.Copy(io.Discard, c)
	})
	s := connect(t, mqtt.Config{KeepAlive: time.Second, PingTimeout: 100 * time.Millisecond}, url, mqtt.Options{})
	defer s.Close(0)
	lost(t, s)
}

// P3: a token in flight when the connection is lost is not taken for delivered.
func TestTokenDoesNotSucceedWithoutAcknowledgement(t *testing.T) {
	url := peer(t, testservers.Listen(t), func(c net.Conn) {
		accept(c)
		_, _ = packets.ReadPacket(c)
	})
	s := connect(t, mqtt.Config{}, url, mqtt.Options{})
	token := s.Publish("t", false, []byte("x"))
	lost(t, s)
	s.Close(0)
	select {
	case <-token.Done():
		if token.Error() == nil {
			t.Error("the token succeeded")
		}
	default:
	}
}

func TestRefusals(t *testing.T) {
	url := peer(t, testservers.Listen(t), func(c net.Conn) { _, _ = c.Write([]byte{0x20, 2, 0, 5}) })
	if _, err := mqtt.Connect(t.Context(), mqtt.Config{ClientID: "a"}, url, mqtt.Options{}); err == nil || !strings.Contains(err.Error(), "uthori") {
		t.Errorf("connect: %v, want not authorised", err)
	}
	url = peer(t, testservers.Listen(t), func(c net.Conn) {
		accept(c)
		if p, err := packets.ReadPacket(c); err == nil {
			_, _ = c.Write([]byte{0x90, 3, byte(p.Details().MessageID >> 8), byte(p.Details().MessageID), 0x80})
		}
		_, _ = io.Copy(io.Discard, c)
	})
	s := connect(t, mqtt.Config{}, url, mqtt.Options{})
	defer s.Close(0)
	if err := s.Subscribe(t.Context(), "a/+"); err == nil || !strings.Contains(err.Error(), "0x80") {
		t.Errorf("subscribe: %v, want a refusal", err)
	}
}

func TestConnectEndsWithItsContext(t *testing.T) {
	url := peer(t, testservers.Listen(t), func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }) // never answers
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := mqtt.Connect(ctx, mqtt.Config{ClientID: "a"}, url, mqtt.Options{}); err == nil {
		t.Error("connected to a broker that does not answer")
	}
}

func TestTLSWithClientCertificate(t *testing.T) {
	dir := t.TempDir()
	certPEM, keyPEM := testservers.SelfSigned(t, "riverside.gw1", time.Time{}, time.Now().Add(time.Hour))
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, text := range map[string][]byte{certFile: certPEM, keyFile: keyPEM} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert.Leaf)
	names := make(chan string, 1)
	l := tls.NewListener(testservers.Listen(t), &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert})
	url := peer(t, l, func(c net.Conn) {
		names <- c.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName
		accept(c)
		_, _ = io.Copy(io.Discard, c)
	})
	url = strings.Replace(url, "tcp://", "tls://", 1)
	if _, err := mqtt.Connect(t.Context(), mqtt.Config{ClientID: "a"}, url, mqtt.Options{}); err == nil {
		t.Error("connected to a broker with an unknown authority")
	}
	s := connect(t, mqtt.Config{CAFile: certFile, CertFile: certFile, KeyFile: keyFile}, url, mqtt.Options{})
	defer s.Close(0)
	if name := <-names; name != "riverside.gw1" {
		t.Errorf("the broker sees %q", name)
	}
	late := mqtt.Config{ClientID: "a", CAFile: certFile, CertFile: certFile, KeyFile: keyFile, Now: func() time.Time { return time.Now().Add(2 * time.Hour) }}
	if _, err := mqtt.Connect(t.Context(), late, url, mqtt.Options{}); err == nil {
		t.Error("connected with an expired certificate")
	}
}

func TestParseBroker(t *testing.T) {
	for url, want := range map[string]string{
		"tcp://a:1": "a:1", "mqtt://a": "a:1883", "tls://a": "a:8883", "mqtts://[::1]:5": "[::1]:5",
		"a:1": "", "http://a": "", "tcp://": "", "tcp://a/x": "", "tcp://u:p@a": "",
	} {
		got, secure, err := mqtt.ParseBroker(url)
		if (err == nil) != (want != "") || got != want || err == nil && secure != strings.ContainsRune(url[:strings.Index(url, ":")], 's') {
			t.Errorf("ParseBroker(%q) = %q, %v, %v", url, got, secure, err)
		}
	}
}

func TestBackoff(t *testing.T) {
	var b mqtt.Backoff
	if d := b.Next(); d != 0 {
		t.Errorf("first attempt after %v", d)
	}
	limit := time.Second
	for i := range 20 {
		if d := b.Next(); d <= 0 || d > limit+time.Millisecond {
			t.Errorf("wait %d is %v, limit %v", i, d, limit)
		}
		limit = min(2*limit, time.Minute)
	}
	b.Lived()
	if d := b.Next(); d <= 0 || d > time.Second+time.Millisecond {
		t.Errorf("wait after a good connection is %v", d)
	}
}

// FuzzPackets sends arbitrary bytes as a broker: no crash, and the connection ends or lives on.
func FuzzPackets(f *testing.F) {
	f.Add([]byte{0x20, 2, 0, 0, 0x32, 5, 0, 1, 't', 0, 1, 0xd0, 0})
	f.Add([]byte{0x20, 2, 0, 0, 0x40, 2, 0, 1})
	f.Add([]byte{0x20, 2, 0, 0, 0x32, 2, 0, 9})
	f.Add(append([]byte{0x20, 2, 0, 0, 0x32, 0x80, 0x80, 0x40, 0, 1, 't', 0, 7}, make([]byte, 1<<20-5)...))
	f.Add([]byte{0x20, 2, 0, 0, 0x32, 0x80, 0x80, 0x40, 0xff, 0xff, 't'})
	f.Fuzz(func(t *testing.T, b []byte) {
		l := testservers.Listen(t)
		url := peer(t, l, func(c net.Conn) {
			_, _ = io.Copy(c, bytes.NewReader(b))
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s, err := mqtt.Connect(ctx, mqtt.Config{ClientID: "a"}, url, mqtt.Options{})
		if err != nil {
			return
		}
		lost(t, s)
		s.Close(0)
	})
}
