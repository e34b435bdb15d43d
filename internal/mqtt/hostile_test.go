package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"

	"linli/internal/mqtt"
	"linli/internal/testservers"
)

// What is known to go wrong with paho.mqtt.golang v1.5.1, each with what holds it off and the tests that show it. The
// numbers are those of our survey of the library.
var problems = []struct{ id, problem, held, tests string }{
	{"P1", "a publish succeeds without PUBACK when the client reconnects by itself", "a client never reconnects; an acknowledgement counts only for what waits for one of its kind on this connection",
		"TestSessionNeverReconnects TestWrongAcknowledgements TestUnacknowledgedIsSentAgain"},
	{"P2", "QoS 0, or a publish while connecting, is dropped", "everything goes with QoS 1, and nothing before the broker's yes", "TestEverythingGoesWithQoS1 TestRefusedOnce"},
	{"P3", "a token in flight never completes when the connection is lost", "who waits for a token waits for the loss as well", "TestTokenDoesNotSucceedWithoutAcknowledgement TestUnacknowledgedIsSentAgain"},
	{"P4", "Disconnect does not drain", "the uplink waits for what is in flight before it says farewell", "TestDrainsBeforeTheFarewell"},
	{"P5", "a handler that blocks hides the loss of the connection", "the loss is known from the socket, and our handlers only fill bounded queues", "TestBlockedHandlerHidesNoLoss TestTooManyCommands"},
	{"P6", "without order a goroutine for each message, unbounded", "messages do not reach it; the goroutine that reads hands them over", "TestFloodTakesNoGoroutines"},
	{"P7", "a SUBACK with too many codes ends the process", "it ends the connection", "TestHostilePacketsEndTheConnection TestHostileBroker"},
	{"P8", "the file store panics, does not sync, loses order", "it is not used: the journal is the queue", "TestNothingThatLosesIsUsed"},
	{"P9", "five bytes make it take 256 MiB", "packets are judged before the library sees them", "TestHostilePacketsEndTheConnection TestOversizedMessageIsPassedOver"},
	{"P10", "a peer that reads nothing is not noticed", "every write has a deadline", "TestEveryWriteHasADeadline TestStalledPeerIsNoticed"},
	{"P11", "a payload is not copied", "payloads are made afresh and never touched again", "TestPayloadsAreNotReused"},
	{"P12", "order is lost on resume", "nothing is resumed: a new client and an empty, ordered store for each connection", "TestLiveOvertakesBacklogAndOrderHolds TestNothingThatLosesIsUsed"},
	{"P13", "offline messages pile up in memory", "a window of 64 messages; offline there is no client", "TestAlertsGoFirstAndHaveRoom TestThreeDayOutage"},
	{"P14", "reconnecting by itself repeats messages", "it does not; what we repeat is the same rows under the same numbers", "TestSessionNeverReconnects TestUnacknowledgedIsSentAgain"},
	{"P15", "reconnects without jitter, 10 minutes apart, and tries an old protocol", "our own waits, 1 to 60 s by lot; version 4 only", "TestBackoff TestRefusedOnce"},
	{"P16", "messages without a handler are never acknowledged", "messages do not reach the library; without a handler they are acknowledged", "TestUnexpectedMessagesAreAcknowledged"},
	{"P17", "an acknowledgement after the loss is dropped: commands come again", "commands are remembered by their id", "TestACommandIsCarriedOutOnce"},
	{"P18", "MessageChannelDepth does nothing, loggers are global, a clean session wipes the store", "the first and the last are not used; the loggers stay silent, set by nobody", "TestNothingThatLosesIsUsed"},
}

// Each problem of the library has tests that hold it off, and these exist.
func TestEveryProblemIsHeldOff(t *testing.T) {
	exist := map[string]bool{}
	for _, dir := range []string{".", "../uplink", "../ingest"} {
		files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`).FindAllSubmatch(b, -1) {
				exist[string(m[1])] = true
			}
		}
	}
	for i, p := range problems {
		if p.id != fmt.Sprint("P", i+1) || p.problem == "" || p.held == "" || p.tests == "" {
			t.Errorf("row %d is %v", i+1, p)
		}
		for name := range strings.FieldsSeq(p.tests) {
			if !exist[name] {
				t.Errorf("%s: there is no %s", p.id, name)
			}
		}
	}
}

// P8, P12, P18: what the library offers and nobody may use here.
func TestNothingThatLosesIsUsed(t *testing.T) {
	forbidden := []string{"NewFileStore", "SetAutoReconnect(true)", "SetConnectRetry(true)", "SetResumeSubs(true)", "SetCleanSession(true)",
		"SetOrderMatters(false)", "SetMessageChannelDepth", "SetAutoAckDisabled(false)", "paho.DEBUG", "paho.ERROR", "NewMemoryStore"}
	for _, pattern := range []string{"*.go", "../uplink/*.go", "../ingest/*.go", "../../gateway/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatal(pattern, err)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, word := range forbidden {
				if !strings.HasSuffix(file, "_test.go") && strings.Contains(string(b), word) {
					t.Errorf("%s uses %s", file, word)
				}
			}
			if !strings.HasSuffix(file, "_test.go") && strings.Contains(string(b), "paho.NewClient(") && file != "mqtt.go" {
				t.Errorf("%s makes a client of its own", file)
			}
		}
	}
}

// read reads packets until one of the given type; nil at the end of the connection.
func read[P packets.ControlPacket](c net.Conn) (p P, ok bool) {
	for {
		got, err := packets.ReadPacket(c)
		if err != nil {
			return p, false
		}
		if p, ok = got.(P); ok {
			return p, true
		}
	}
}

// P1: acknowledgements of every wrong kind do not make a message count as delivered. Those of what waits for none end the
// connection: the broker cannot be believed.
func TestWrongAcknowledgements(t *testing.T) {
	two := func(id uint16) (byte, byte) { return byte(id >> 8), byte(id) }
	for name, answer := range map[string]func(c net.Conn, id uint16){
		"unknown number":                func(c net.Conn, id uint16) { hi, lo := two(id + 7); _, _ = c.Write([]byte{0x40, 2, hi, lo}) },
		"number 0":                      func(c net.Conn, id uint16) { _, _ = c.Write([]byte{0x40, 2, 0, 0}) },
		"as of a subscription":          func(c net.Conn, id uint16) { hi, lo := two(id); _, _ = c.Write([]byte{0x90, 3, hi, lo, 1}) },
		"as of the end of one":          func(c net.Conn, id uint16) { hi, lo := two(id); _, _ = c.Write([]byte{0xb0, 2, hi, lo}) },
		"as of QoS 2":                   func(c net.Conn, id uint16) { hi, lo := two(id); _, _ = c.Write([]byte{0x50, 2, hi, lo}) },
		"as of the end of QoS 2":        func(c net.Conn, id uint16) { hi, lo := two(id); _, _ = c.Write([]byte{0x70, 2, hi, lo}) },
		"half of it":                    func(c net.Conn, id uint16) { hi, _ := two(id); _, _ = c.Write([]byte{0x40, 2, hi}); c.Close() },
		"none, and the end at once":     func(c net.Conn, id uint16) { c.Close() },
		"a second CONNACK in its place": func(c net.Conn, id uint16) { accept(c) },
	} {
		t.Run(name, func(t *testing.T) {
			url := peer(t, testservers.Listen(t), func(c net.Conn) {
				accept(c)
				if p, ok := read[*packets.PublishPacket](c); ok {
					answer(c, p.MessageID)
					_, _ = io.Copy(io.Discard, c)
				}
			})
			s := connect(t, mqtt.Config{}, url, mqtt.Options{})
			defer s.Close(0)
			token := s.Publish("t", false, []byte("x"))
			lost(t, s)
			select {
			case <-token.Done():
				if token.Error() == nil {
					t.Error("it counts as delivered")
				}
			default:
			}
		})
	}
	t.Run("twice, and before the message", func(t *testing.T) {
		url := peer(t, testservers.Listen(t), func(c net.Conn) {
			accept(c)
			if p, ok := read[*packets.PublishPacket](c); ok {
				hi, lo := two(p.MessageID)
				_, _ = c.Write([]byte{0x40, 2, hi, lo, 0x40, 2, hi, lo})
				_, _ = io.Copy(io.Discard, c)
			}
		})
		s := connect(t, mqtt.Config{}, url, mqtt.Options{})
		defer s.Close(0)
		token := s.Publish("t", false, []byte("x"))
		if err := lost(t, s); !errors.Is(err, mqtt.ErrPacket) {
			t.Errorf("lost because of %v", err)
		}
		<-token.Done()
	})
	t.Run("for a subscription", func(t *testing.T) {
		url := peer(t, testservers.Listen(t), func(c net.Conn) {
			accept(c)
			if p, ok := read[*packets.SubscribePacket](c); ok {
				hi, lo := two(p.MessageID)
				_, _ = c.Write([]byte{0x40, 2, hi, lo})
				_, _ = io.Copy(io.Discard, c)
			}
		})
		s := connect(t, mqtt.Config{}, url, mqtt.Options{})
		defer s.Close(0)
		if err := s.Subscribe(t.Context(), "a/+"); err == nil {
			t.Error("a PUBACK counts as a granted subscription")
		}
	})
}

// P1, P14: a session ends with its connection.
func TestSessionNeverReconnects(t *testing.T) {
	var connections atomic.Int32
	url := peer(t, testservers.Listen(t), func(c net.Conn) {
		connections.Add(1)
		accept(c)
		_, _ = read[*packets.PublishPacket](c)
	})
	s := connect(t, mqtt.Config{}, url, mqtt.Options{})
	s.Publish("t", false, []byte("x"))
	lost(t, s)
	if token := s.Publish("t", false, []byte("y")); token.Error() == nil {
		t.Error("published on a connection that is gone")
	}
	s.Close(0)
	time.Sleep(1200 * time.Millisecond) // the library's first retry would come after a second: nothing else can show that none does
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// P2: whatever is published waits for an acknowledgement.
func TestEverythingGoesWithQoS1(t *testing.T) {
	qos := make(chan byte, 1)
	url := peer(t, testservers.Listen(t), func(c net.Conn) {
		accept(c)
		if p, ok := read[*packets.PublishPacket](c); ok {
			qos <- p.Qos
		}
		_, _ = io.Copy(io.Discard, c)
	})
	s := connect(t, mqtt.Config{}, url, mqtt.Options{})
	defer s.Close(0)
	s.Publish("t", false, []byte("x"))
	if q := <-qos; q != 1 {
		t.Errorf("QoS %d", q)
	}
}

// P15: each code of refusal is an error that says why, and is not tried again as an older protocol.
func TestRefusedOnce(t *testing.T) {
	for code, says := range map[byte]string{1: "protocol", 2: "dentifier", 3: "navailable", 4: "ser name", 5: "uthori", 6: "", 255: ""} {
		var levels []byte
		l := testservers.Listen(t)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				if p, ok := read[*packets.ConnectPacket](c); ok {
					levels = append(levels, p.ProtocolVersion)
					_, _ = c.Write([]byte{0x20, 2, 0, code})
				}
				c.Close()
			}
		}()
		_, err := mqtt.Connect(t.Context(), mqtt.Config{ClientID: "a"}, "tcp://"+l.Addr().String(), mqtt.Options{})
		l.Close()
		<-done
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("code %d: %v", code, err)
		}
		if !slices.Equal(levels, []byte{4}) {
			t.Errorf("code %d: protocol levels %v were tried", code, levels)
		}
	}
}

// P5, P6: a handler that blocks hides no loss, and however much a broker sends, it takes no goroutines.
func TestBlockedHandlerHidesNoLoss(t *testing.T) {
	flooded := make(chan struct{})
	url := peer(t, testservers.Listen(t), func(c net.Conn) {
		accept(c)
		_ = c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		for id := uint16(1); id < 20_000; id++ {
			if publish("a", id, make([]byte, 100)).Write(c) != nil {
				break
			}
		}
		close(flooded)
	})
	release := make(chan struct{})
	before := runtime.NumGoroutine()
	s := connect(t, mqtt.Config{KeepAlive: time.Second, PingTimeout: 100 * time.Millisecond}, url, mqtt.Options{OnMessage: func(paho.Message) { <-release }})
	<-flooded
	if n := runtime.NumGoroutine() - before; n > 20 {
		t.Errorf("%d goroutines", n)
	}
	lost(t, s)
	close(release)
	s.Close(0)
}

// P6: of a flood that is handled there is one goroutine as well.
func TestFloodTakesNoGoroutines(t *testing.T) {
	const n = 5000
	url := peer(t, testservers.Listen(t), func(c net.Conn) {
		accept(c)
		go func() { _, _ = io.Copy(io.Discard, c) }()
		for id := uint16(1); id <= n; id++ {
			if publish("a", id, nil).Write(c) != nil {
				return
			}
		}
		<-t.Context().Done()
	})
	before := runtime.NumGoroutine()
	most, got := 0, make(chan struct{})
	seen := 0
	s := connect(t, mqtt.Config{}, url, mqtt.Options{OnMessage: func(m paho.Message) {
		most = max(most, runtime.NumGoroutine()-before)
		m.Ack()
		if seen++; seen == n {
			close(got)
		}
	}})
	defer s.Close(0)
	select {
	case <-got:
	case <-time.After(20 * time.Second):
		t.Fatal("not all messages came")
	}
	if most > 30 {
		t.Errorf("%d goroutines", most)
	}
}

// P16: what comes of a subscription that nobody remembers is acknowledged, or it would fill the broker's window.
func TestUnexpectedMessagesAreAcknowledged(t *testing.T) {
	acked := make(chan uint16, 1)
	url := peer(t, testservers.Listen(t), func(c net.Conn) {
		accept(c)
		if publish("of/an/earlier/life", 77, nil).Write(c) != nil {
			return
		}
		if a, ok := read[*packets.PubackPacket](c); ok {
			acked <- a.MessageID
		}
		_, _ = io.Copy(io.Discard, c)
	})
	s := connect(t, mqtt.Config{}, url, mqtt.Options{})
	defer s.Close(0)
	select {
	case id := <-acked:
		if id != 77 {
			t.Errorf("acknowledged %d", id)
		}
	case <-time.After(10 * time.Second):
		t.Error("not acknowledged")
	}
}

// A name server that never answers costs the time of one attempt.
func TestNameServerThatHangs(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	resolver := net.DefaultResolver
	var mu sync.Mutex
	var open []net.Conn
	over := false
	defer func() { // what still waits for an answer must not outlive the test
		net.DefaultResolver = resolver
		mu.Lock()
		defer mu.Unlock()
		over = true
		for _, c := range open {
			c.Close()
		}
	}()
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, "udp", silent.LocalAddr().String())
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			return nil, err
		}
		if over {
			c.Close()
			return nil, net.ErrClosed
		}
		open = append(open, c)
		return c, nil
	}}
	began := time.Now()
	_, err = mqtt.Connect(t.Context(), mqtt.Config{ClientID: "a", DialTimeout: 300 * time.Millisecond}, "tcp://broker.city.example:1883", mqtt.Options{})
	if took := time.Since(began); err == nil || took > 5*time.Second {
		t.Errorf("%v after %v", err, took)
	}
}
