package uplink_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"linli/internal/mqtt"
	"linli/internal/telemetry"
	"linli/internal/testservers"
	"linli/internal/uplink"
	"linli/internal/wire"
)

// town is a city's side: it signs commands and hears the replies.
type town struct {
	t   *testing.T
	key ed25519.PrivateKey
	pub ed25519.PublicKey
	s   *mqtt.Session

	mu      sync.Mutex
	replies []wire.Reply
}

func newTown(t *testing.T) *town {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &town{t: t, key: key, pub: pub}
}

func (c *town) connect(broker string) {
	c.t.Helper()
	s, err := mqtt.Connect(c.t.Context(), mqtt.Config{ClientID: "town"}, broker, mqtt.Options{OnMessage: func(m paho.Message) {
		var r wire.Reply
		if err := json.Unmarshal(m.Payload(), &r); err != nil || !strings.HasSuffix(m.Topic(), "/reply/"+r.ID) || m.Retained() {
			c.t.Errorf("%s: %s: %v", m.Topic(), m.Payload(), err)
		}
		c.mu.Lock()
		c.replies = append(c.replies, r)
		c.mu.Unlock()
		m.Ack()
	}})
	if err != nil {
		c.t.Fatal(err)
	}
	c.s = s
	c.t.Cleanup(func() { s.Close(50 * time.Millisecond) })
	if err := s.Subscribe(c.t.Context(), "linli/v1/+/reply/+"); err != nil {
		c.t.Fatal(err)
	}
}

func (c *town) sign(id, verb, args string, change ...func(*wire.Command)) []byte {
	c.t.Helper()
	cmd := wire.Command{Node: "riverside.gw1", ID: id, IssuedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour), Verb: verb, Args: json.RawMessage(args)}
	for _, f := range change {
		f(&cmd)
	}
	b, err := wire.SignCommand(c.key, "city", &cmd)
	if err != nil {
		c.t.Fatal(err)
	}
	return b
}

func (c *town) publish(verb string, payload []byte) {
	c.t.Helper()
	token := c.s.Publish("linli/v1/riverside.gw1/cmd/"+verb, false, payload)
	if !token.WaitTimeout(10*time.Second) || token.Error() != nil {
		c.t.Fatalf("publish: %v", token.Error())
	}
}

// answers returns the replies to one command so far.
func (c *town) answers(id string) (out []wire.Reply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.replies {
		if r.ID == id {
			out = append(out, r)
		}
	}
	return out
}

// answer waits for the n-th reply to a command.
func (c *town) answer(id string, n int) wire.Reply {
	c.t.Helper()
	eventually(c.t, fmt.Sprintf("reply %d to %s", n, id), func() bool { return len(c.answers(id)) >= n })
	return c.answers(id)[n-1]
}

// hand carries out what it is given.
type hand struct {
	mu      sync.Mutex
	done    []string // ids
	refused []string // id reason
	block   chan struct{}
}

func (h *hand) config(c *town, allow ...string) *uplink.Commands {
	return &uplink.Commands{
		Keys: map[string]ed25519.PublicKey{"city": c.pub}, Allow: allow,
		Do: func(ctx context.Context, cmd *wire.Command) wire.Reply {
			h.mu.Lock()
			h.done = append(h.done, cmd.ID)
			block := h.block
			h.mu.Unlock()
			if block != nil {
				select {
				case <-block:
				case <-ctx.Done():
				}
			}
			return wire.Reply{State: wire.ReplyDone, Result: json.RawMessage(fmt.Sprintf(`{"n":%d}`, len(h.done)))}
		},
		Refused: func(cmd *wire.Command, reason string) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.refused = append(h.refused, cmd.ID+" "+reason)
		},
	}
}

func (h *hand) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.done)
}

func (h *hand) heard(what string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.refused {
		if r == what {
			return true
		}
	}
	return false
}

// A command is carried out once, however often it comes, also to another process; each time it gets the first answer.
func TestACommandIsCarriedOutOnce(t *testing.T) {
	broker := testservers.StartMosquitto(t)
	city, h, dir := newTown(t), &hand{}, t.TempDir()
	city.connect(broker.URL)
	cfg := uplink.Config{Brokers: []string{broker.URL}, StateDir: dir, Commands: h.config(city, "write")}
	u := start(t, cfg, newJournal(1), newBook())
	eventually(t, "subscribed", func() bool { return u.Status().Hears })
	payload := city.sign("w1", "write", `{"device":"siren","point":"on","value":true}`)
	city.publish("write", payload)
	first := city.answer("w1", 1)
	if first.State != wire.ReplyDone || string(first.Result) != `{"n":1}` || first.Node != "riverside.gw1" || first.Verb != "write" || first.Time.IsZero() {
		t.Errorf("reply %+v", first)
	}
	same := func(r wire.Reply) {
		t.Helper()
		if r.State != first.State || string(r.Result) != string(first.Result) || !r.Time.Equal(first.Time) {
			t.Errorf("%+v, the first reply was %+v", r, first)
		}
	}
	city.publish("write", payload)
	same(city.answer("w1", 2))
	u.stop()
	// What comes while the gateway is away waits with the broker.
	city.publish("write", payload)
	u = start(t, cfg, newJournal(1), newBook())
	same(city.answer("w1", 3))
	if n := h.count(); n != 1 || !h.heard("w1 duplicate") {
		t.Errorf("carried out %d times, refused %v", n, h.refused)
	}
	// The same words under another id are another command.
	city.publish("write", city.sign("w2", "write", `{"device":"siren","point":"on","value":true}`))
	if city.answer("w2", 1); h.count() != 2 {
		t.Error("not carried out")
	}
	if s := u.Status().Commands; s.Taken != 1 || s.Refused != 1 || s.Unproven != 0 {
		t.Errorf("%+v", s)
	}
}

// A process that is killed while it carries a command out leaves one that is never carried out again; nobody knows what
// became of it, and that is what is said.
func TestACommandThatWasInterruptedIsUnknown(t *testing.T) {
	broker := testservers.StartMosquitto(t)
	city, h, dir := newTown(t), &hand{block: make(chan struct{})}, t.TempDir()
	city.connect(broker.URL)
	u := start(t, uplink.Config{Brokers: []string{broker.URL}, StateDir: dir, Commands: h.config(city, "write")}, newJournal(1), newBook())
	eventually(t, "subscribed", func() bool { return u.Status().Hears })
	payload := city.sign("w1", "write", `{}`)
	city.publish("write", payload)
	eventually(t, "begun", func() bool { return h.count() == 1 })
	city.publish("write", payload) // while it is carried out: no answer yet, and nothing else
	eventually(t, "refused", func() bool { return h.heard("w1 duplicate") })
	if len(city.answers("w1")) != 0 {
		t.Error("answered before it was done")
	}
	// What the disk has now is what a kill leaves.
	killed := t.TempDir()
	if err := os.CopyFS(filepath.Join(killed, "x"), os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	u.stop()
	city.mu.Lock()
	city.replies = nil
	city.mu.Unlock()
	other := &hand{}
	start(t, uplink.Config{Brokers: []string{broker.URL}, StateDir: filepath.Join(killed, "x"), Commands: other.config(city, "write")}, newJournal(1), newBook())
	city.publish("write", payload)
	if r := city.answer("w1", 1); r.State != wire.ReplyUnknown || r.ID != "w1" || r.Verb != "write" {
		t.Errorf("reply %+v", r)
	}
	if other.count() != 0 {
		t.Error("carried out again")
	}
}

func TestCommandsThatAreNotCarriedOut(t *testing.T) {
	broker := testservers.StartMosquitto(t)
	city, stranger, h := newTown(t), newTown(t), &hand{}
	city.connect(broker.URL)
	past := func(c *wire.Command) {
		c.IssuedAt, c.ExpiresAt = time.Now().Add(-time.Hour), time.Now().Add(-time.Minute)
	}
	u := start(t, uplink.Config{Brokers: []string{broker.URL}, Commands: h.config(city, "resend")}, newJournal(1), newBook())
	eventually(t, "subscribed", func() bool { return u.Status().Hears })
	for id, test := range map[string]struct {
		payload []byte
		topic   string
		reason  string
	}{
		"denied":  {city.sign("denied", "write", `{}`), "write", "not_allowed"},
		"late":    {city.sign("late", "resend", `{}`, past), "resend", "expired"},
		"verb":    {city.sign("verb", "write", `{}`), "resend", "wrong_verb"},
		"node":    {city.sign("node", "resend", `{}`, func(c *wire.Command) { c.Node = "hillside.gw1" }), "resend", "wrong_node"},
		"unknown": {city.sign("unknown", "reboot", `{}`), "reboot", "not_allowed"},
	} {
		city.publish(test.topic, test.payload)
		r := city.answer(id, 1)
		if word, _, _ := strings.Cut(r.Reason, ":"); r.State != wire.ReplyRefused || word != test.reason || !h.heard(id+" "+test.reason) {
			t.Errorf("%s: %+v, told %v", id, r, h.refused)
		}
	}
	// Nobody answers to what nobody has signed.
	city.publish("resend", stranger.sign("forged", "resend", `{}`))
	city.publish("resend", []byte("junk"))
	city.publish("resend", nil)
	city.publish("resend", make([]byte, 300<<10))
	eventually(t, "counted", func() bool { return u.Status().Commands.Unproven == 3 })
	if h.count() != 0 || len(city.answers("forged")) != 0 || h.heard("forged malformed") {
		t.Error("a forged command was believed")
	}
}

// Without a clock an old command cannot be told from a new one.
func TestCommandsWithoutAClock(t *testing.T) {
	broker := testservers.StartMosquitto(t)
	city, h := newTown(t), &hand{}
	city.connect(broker.URL)
	clock := telemetry.NewClock("boot", 0, time.Now().Add(time.Hour))
	u := start(t, uplink.Config{Brokers: []string{broker.URL}, Clock: clock, Commands: h.config(city, "resend")}, newJournal(1), newBook())
	eventually(t, "subscribed", func() bool { return u.Status().Hears })
	city.publish("resend", city.sign("a", "resend", `{}`))
	if r := city.answer("a", 1); r.State != wire.ReplyRefused || r.Reason != "clock_unset" || !r.Time.IsZero() || h.count() != 0 {
		t.Errorf("%+v", r)
	}
}

// Expiry is judged by what the gateway knows, which may be more than its clock says.
func TestExpiryIsJudgedByTheGivenTime(t *testing.T) {
	broker := testservers.StartMosquitto(t)
	city, h := newTown(t), &hand{}
	city.connect(broker.URL)
	u := start(t, uplink.Config{
		Brokers: []string{broker.URL}, Now: func() time.Time { return time.Now().Add(2 * time.Hour) }, Commands: h.config(city, "resend"),
	}, newJournal(1), newBook())
	eventually(t, "subscribed", func() bool { return u.Status().Hears })
	city.publish("resend", city.sign("a", "resend", `{}`))
	if r := city.answer("a", 1); !strings.HasPrefix(r.Reason, "expired") || h.count() != 0 {
		t.Errorf("%+v", r)
	}
}

// Beyond what may wait, commands are answered as busy, and may be sent again.
func TestTooManyCommands(t *testing.T) {
	broker := testservers.StartMosquitto(t)
	city, h := newTown(t), &hand{block: make(chan struct{})}
	city.connect(broker.URL)
	u := start(t, uplink.Config{Brokers: []string{broker.URL}, Commands: h.config(city, "write")}, newJournal(1), newBook())
	eventually(t, "subscribed", func() bool { return u.Status().Hears })
	city.publish("write", city.sign("w0", "write", `{}`))
	eventually(t, "begun", func() bool { return h.count() == 1 })
	for i := 1; i <= 17; i++ {
		city.publish("write", city.sign(fmt.Sprintf("w%d", i), "write", `{}`))
	}
	if r := city.answer("w17", 1); r.State != wire.ReplyRefused || !strings.HasPrefix(r.Reason, "busy") {
		t.Errorf("%+v", r)
	}
	close(h.block)
	for i := range 17 {
		if r := city.answer(fmt.Sprintf("w%d", i), 1); r.State != wire.ReplyDone {
			t.Errorf("%+v", r)
		}
	}
	city.publish("write", city.sign("w17", "write", `{}`))
	if r := city.answer("w17", 2); r.State != wire.ReplyDone {
		t.Errorf("%+v", r)
	}
}

// A command that expires while it waits is not carried out.
func TestACommandExpiresWhileItWaits(t *testing.T) {
	broker := testservers.StartMosquitto(t)
	city, h := newTown(t), &hand{block: make(chan struct{})}
	city.connect(broker.URL)
	var ahead atomic.Int64
	u := start(t, uplink.Config{
		Brokers: []string{broker.URL}, Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }, Commands: h.config(city, "write"),
	}, newJournal(1), newBook())
	eventually(t, "subscribed", func() bool { return u.Status().Hears })
	city.publish("write", city.sign("first", "write", `{}`))
	eventually(t, "begun", func() bool { return h.count() == 1 })
	city.publish("write", city.sign("second", "write", `{}`))
	eventually(t, "taken", func() bool { return u.Status().Commands.Taken == 2 })
	ahead.Store(int64(2 * time.Hour))
	close(h.block)
	if r := city.answer("second", 1); r.State != wire.ReplyRefused || !strings.HasPrefix(r.Reason, "expired") || h.count() != 1 {
		t.Errorf("%+v, %d carried out", r, h.count())
	}
}

// A reply that was not acknowledged is sent again on the next connection.
func TestRepliesOutliveTheConnection(t *testing.T) {
	city, h := newTown(t), &hand{}
	broker := startHostile(t, func(p published) (bool, bool) {
		reply := strings.Contains(p.topic, "/reply/")
		return !reply, reply
	})
	u := start(t, uplink.Config{Brokers: []string{broker.url}, Commands: h.config(city, "write")}, newJournal(1), newBook())
	eventually(t, "subscribed", func() bool { return u.Status().Hears })
	broker.deliver("linli/v1/riverside.gw1/cmd/write", city.sign("w", "write", `{}`))
	eventually(t, "the reply is tried on three connections", func() bool { return len(broker.on("/reply/w")) >= 3 })
	broker.set(ackAll)
	n := len(broker.on("/reply/w"))
	eventually(t, "the reply is tried again", func() bool { return len(broker.on("/reply/w")) > n })
	if all := broker.on("/reply/w"); h.count() != 1 || string(all[0].payload) != string(all[len(all)-1].payload) {
		t.Errorf("%d times carried out, first %s, last %s", h.count(), all[0].payload, all[len(all)-1].payload)
	}
}

// A broker that refuses our subscriptions, or ends the connection over them, gets telemetry all the same.
func TestRefusedSubscriptionsStopNothing(t *testing.T) {
	for name, grant := range map[string]func(string) (byte, bool){
		"refused": func(string) (byte, bool) { return 0x80, false },
		"dropped": func(string) (byte, bool) { return 0, true },
	} {
		t.Run(name, func(t *testing.T) {
			j, city := newJournal(1), newTown(t)
			broker := startHostile(t, ackAll)
			broker.grant = grant
			u := start(t, uplink.Config{Brokers: []string{broker.url}, Commands: (&hand{}).config(city, "resend")}, j, newBook())
			eventually(t, "the refusal is told", func() bool { return u.Status().SubscribeError != "" })
			if told := u.Status().SubscribeError; name == "dropped" && told != "3 connections ended before the broker had answered to it" {
				t.Errorf("told %q", told) // whoever ended them
			}
			eventually(t, "connected", func() bool { return u.Status().Connected })
			connects := u.Status().Connects
			j.append(1, "boot")
			eventually(t, "delivered", func() bool { return j.Released() == 3 })
			if now := u.Status().Connects; now != connects {
				t.Errorf("%d connections more", now-connects)
			}
		})
	}
}
