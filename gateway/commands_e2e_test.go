package main

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"linli/internal/alert"
	"linli/internal/mqtt"
	"linli/internal/simulate"
	"linli/internal/testservers"
	"linli/internal/wire"
)

// commander is whoever commands the gateway test.gw1 with `linli command`.
type commander struct {
	t      *testing.T
	broker string
	key    string // file
	public string // for the site file
	signer ed25519.PrivateKey
}

func newCommander(t *testing.T, broker string) *commander {
	t.Helper()
	c := &commander{t: t, broker: broker, key: filepath.Join(t.TempDir(), "city.pem")}
	code, out, errs := linli(t, "command", "keygen", "--out", c.key)
	if code != 0 {
		t.Fatalf("keygen: %d %s", code, errs)
	}
	_, after, ok := strings.Cut(out, `keys: {city: "`)
	c.public, _, _ = strings.Cut(after, `"`)
	var err error
	if c.signer, err = wire.ReadSigningKey(c.key); err != nil || !ok {
		t.Fatalf("%v in %s", err, out)
	}
	return c
}

// uplink returns the section of the site file that takes these commands.
func (c *commander) uplink(allow string) string {
	return fmt.Sprintf("uplink: {brokers: [\"tcp://%s\"], batch: 1s, commands: {keys: {city: %q}, allow: [%s]}}\n", c.broker, c.public, allow)
}

// send runs linli command send and returns its exit code and the reply.
func (c *commander) send(args ...string) (code int, r wire.Reply, errs string) {
	c.t.Helper()
	args = append([]string{"command", "send"}, args...)
	args = append(args, "--json", "--broker", "tcp://"+c.broker, "--node", "test.gw1", "--key", c.key)
	code, out, errs := linli(c.t, args...)
	if out != "" {
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			c.t.Fatalf("%v in %s", err, out)
		}
	}
	return code, r, errs
}

// want sends a command and holds its reply against the state and the first word of the reason.
func (c *commander) want(state wire.ReplyState, reason string, args ...string) wire.Reply {
	c.t.Helper()
	code, r, errs := c.send(args...)
	word, _, _ := strings.Cut(r.Reason, ":")
	if r.State != state || word != reason || (code == 0) != (state == wire.ReplyDone) || code > 1 {
		c.t.Errorf("%v: exit code %d, %+v %s %s, want %s %s", args, code, r, r.Result, errs, state, reason)
	}
	return r
}

// connect returns a connection of its own, on which heard gets what arrives.
func (c *commander) connect(id string, heard func(paho.Message)) *mqtt.Session {
	c.t.Helper()
	s, err := mqtt.Connect(c.t.Context(), mqtt.Config{ClientID: id, Clean: true}, "tcp://"+c.broker, mqtt.Options{OnMessage: func(m paho.Message) {
		heard(m)
		m.Ack()
	}})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { s.Close(50 * time.Millisecond) })
	return s
}

// ready waits until the gateway takes commands.
func (c *commander) ready() {
	c.t.Helper()
	waitFor(c.t, 30*time.Second, "a gateway that answers", func() bool {
		code, _, _ := c.send("status", "--timeout", "2s")
		return code == 0
	})
}

// auditOf returns the lines of the audit record that hold all of the words.
func auditOf(t *testing.T, state string, words ...string) (lines []string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(state, "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
next:
	for line := range strings.Lines(string(data)) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue next
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// TestCommandsOfTheCity sends each verb to the real binary over a real broker: carried out, refused by what carries it
// out, and not twice.
func TestCommandsOfTheCity(t *testing.T) {
	t.Parallel()
	port, state := freePort(t), t.TempDir()
	broker := testservers.StartMosquitto(t)
	city := newCommander(t, broker.Address)
	c := newTown(t, fmt.Sprintf(linkageSite, port)+city.uplink("resend, status, acknowledge, close, write, reload"), linkagePack)
	messages := subscribe(t, broker.Address, "linli/v1/test.gw1/telemetry")
	gateway := start(t, "run", "-c", c.site, "--state", state)
	a := readyAPI(t, port)
	city.ready()

	if r := city.want(wire.ReplyDone, "", "status"); !strings.Contains(string(r.Result), `"state":"online"`) || !strings.Contains(string(r.Result), `"node":"test.gw1"`) {
		t.Errorf("status: %s", r.Result)
	}

	// resend
	waitFor(t, 20*time.Second, "some frames", func() bool {
		var s wire.Status
		_, r, _ := city.send("status")
		return json.Unmarshal(r.Result, &s) == nil && s.NextSeq > 4 && s.BacklogFrames < 3
	})
	r := city.want(wire.ReplyDone, "", "resend", "--from", "1", "--to", "3")
	var resent wire.ResendResult
	if err := json.Unmarshal(r.Result, &resent); err != nil || resent.Frames != 3 || resent.Gone != 0 {
		t.Errorf("resend: %s", r.Result)
	}
	waitFor(t, 30*time.Second, "frames 1 to 3, late", func() bool {
		late := map[uint64]bool{}
		for _, m := range messages.all() {
			if _, text, ok := strings.Cut(m, "# linli "); ok {
				if h, err := wire.ParseHeader([]byte("# linli " + text)); err == nil && h.Late {
					for seq := h.From; seq <= h.To; seq++ {
						late[seq] = true
					}
				}
			}
		}
		return late[1] && late[2] && late[3]
	})
	if r = city.want(wire.ReplyDone, "", "resend", "--alerts-since", "2026-01-01T08:00"); !strings.HasPrefix(string(r.Result), `{"alerts":`) {
		t.Errorf("resend of alerts: %s", r.Result)
	}
	city.want(wire.ReplyRefused, "not_there", "resend", "--from", "1000000", "--to", "9000000000000000000")
	city.want(wire.ReplyRefused, "wrong_epoch", "resend", "--from", "1", "--to", "3", "--epoch", "00000000000000ff")

	// write
	if r = city.want(wire.ReplyDone, "", "write", "--point", "siren_1.on", "--value", "true", "--id", "w1"); string(r.Result) != `{"outcome":"done","value":true}` {
		t.Errorf("write: %s", r.Result)
	}
	if !c.is(t, "siren_1", "on") {
		t.Error("the siren is off")
	}
	c.set(t, "siren_1", "on", 0)
	if again := city.want(wire.ReplyDone, "", "write", "--point", "siren_1.on", "--value", "true", "--id", "w1"); !again.Time.Equal(r.Time) || c.is(t, "siren_1", "on") {
		t.Errorf("the same command again: %+v, the first reply was %+v; the siren is %v", again, r, c.is(t, "siren_1", "on"))
	}
	if lines := auditOf(t, state, `"what":"write"`, `"by":"city"`, `"origin":"city"`, "command w1"); len(lines) != 2 {
		t.Errorf("the record has of the write: %v", lines)
	}
	if lines := auditOf(t, state, `"what":"command"`, `"verb":"write"`, `"command":"w1"`); len(lines) != 3 ||
		!strings.Contains(lines[0], `"outcome":"begun"`) || !strings.Contains(lines[1], `"outcome":"done"`) || !strings.Contains(lines[2], `"reason":"duplicate"`) {
		t.Errorf("the record has of the command: %v", lines)
	}
	city.want(wire.ReplyRefused, "malformed", "write", "--point", "siren_1.on", "--value", "5")
	city.want(wire.ReplyRefused, "malformed", "write", "--point", "siren_9.on", "--value", "true")
	city.want(wire.ReplyRefused, "not_done", "write", "--point", "lane_1.occupied", "--value", "true")

	// acknowledge and close
	city.want(wire.ReplyRefused, "not_found", "acknowledge", "--alert", "01K")
	c.set(t, "lane_1", "occupied", 1)
	raised := a.alertOf("LaneBlocked", "lane_1", "raised", func(alert.Alert) bool { return true })
	city.want(wire.ReplyRefused, "still_active", "close", "--alert", raised.ID)
	city.want(wire.ReplyDone, "", "acknowledge", "--alert", raised.ID, "--note", "on its\tway")
	acknowledged := a.alertOf("LaneBlocked", "lane_1", "acknowledged", func(x alert.Alert) bool { return x.State == alert.ActiveAcknowledged })
	if acknowledged.AcknowledgedBy != "city" {
		t.Errorf("acknowledged: %+v", acknowledged)
	}
	c.set(t, "lane_1", "occupied", 0)
	a.noAlertOf("LaneBlocked", "lane_1")
	city.want(wire.ReplyDone, "", "close", "--alert", raised.ID) // closed already: no error

	// reload
	pack := filepath.Join(filepath.Dir(c.site), "packs", "local0.yaml")
	if err := os.WriteFile(pack, []byte(strings.Replace(linkagePack, "for: 1s", "for: 2s", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := city.want(wire.ReplyDone, "", "reload"); !strings.Contains(string(r.Result), `"rules":`) {
		t.Errorf("reload: %s", r.Result)
	}
	if err := os.WriteFile(pack, []byte("version: 1\npack: linkage\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	city.want(wire.ReplyRefused, "not_done", "reload")
	if lines := auditOf(t, state, `"what":"reload_rules"`, `"by":"city"`, `"origin":"city"`); len(lines) != 2 {
		t.Errorf("the record has of the reload: %v", lines)
	}
	gateway.stop(10 * time.Second)
}

// TestCommandsThatNobodyMayGive: not allowed, forged, expired, replayed, to a gateway killed while it carries one out.
func TestCommandsThatNobodyMayGive(t *testing.T) {
	t.Parallel()
	port, state := freePort(t), t.TempDir()
	broker := testservers.StartMosquitto(t)
	city, stranger := newCommander(t, broker.Address), newCommander(t, broker.Address)
	c := newTown(t, fmt.Sprintf(linkageSite, port)+city.uplink("write, status"), linkagePack)
	gateway := start(t, "run", "-c", c.site, "--state", state)
	readyAPI(t, port)
	city.ready()

	city.want(wire.ReplyRefused, "not_allowed", "reload")
	city.want(wire.ReplyRefused, "not_allowed", "resend", "--from", "1", "--to", "3")
	if lines := auditOf(t, state, `"verb":"reload"`, `"reason":"not_allowed"`, `"by":"city"`); len(lines) != 1 {
		t.Errorf("the record: %v", lines)
	}
	if code, r, errs := stranger.send("write", "--point", "siren_1.on", "--value", "true", "--timeout", "1500ms", "--id", "forged"); code != 1 || r.ID != "" || !strings.Contains(errs, "no reply within") {
		t.Errorf("forged: %d %+v %s", code, r, errs)
	}
	if lines := auditOf(t, state, "forged"); len(lines) != 0 || c.is(t, "siren_1", "on") {
		t.Errorf("a forged command left %v", lines)
	}

	replies := make(chan wire.Reply, 100)
	own := city.connect("replayer", func(m paho.Message) {
		var r wire.Reply
		if json.Unmarshal(m.Payload(), &r) == nil {
			replies <- r
		}
	})
	if err := own.Subscribe(t.Context(), "linli/v1/test.gw1/reply/+"); err != nil {
		t.Fatal(err)
	}
	publish := func(payload []byte) {
		if token := own.Publish("linli/v1/test.gw1/cmd/write", false, payload); !token.WaitTimeout(5*time.Second) || token.Error() != nil {
			t.Fatal(token.Error())
		}
	}
	write := func(id string, age time.Duration) []byte {
		b, err := wire.SignCommand(city.signer, "city", &wire.Command{
			Node: "test.gw1", ID: id, Verb: "write", IssuedAt: time.Now().Add(-age), ExpiresAt: time.Now().Add(time.Hour - age),
			Args: json.RawMessage(`{"device":"siren_1","point":"on","value":true}`),
		})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	reply := func(id string) wire.Reply {
		timeout := time.After(20 * time.Second)
		for {
			select {
			case r := <-replies:
				if r.ID == id {
					return r
				}
			case <-timeout:
				t.Fatalf("no reply to %s", id)
			}
		}
	}
	publish(write("old", 2*time.Hour))
	if r := reply("old"); r.State != wire.ReplyRefused || !strings.HasPrefix(r.Reason, "expired") || c.is(t, "siren_1", "on") {
		t.Errorf("expired: %+v", r)
	}

	// Killed in the midst of a write: the unit takes its time, and the record already says that it was begun.
	if err := c.Misbehave("io1", simulate.Fault{Delay: 250 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	payload := write("cut", 0)
	publish(payload)
	waitFor(t, 10*time.Second, "the write's beginning in the record", func() bool {
		return len(auditOf(t, state, `"what":"write"`, `"outcome":"begun"`, "command cut")) == 1
	})
	gateway.kill()
	if err := c.Misbehave("io1", simulate.Fault{}); err != nil {
		t.Fatal(err)
	}
	start(t, "run", "-c", c.site, "--state", state)
	readyAPI(t, port)
	city.ready()
	waitFor(t, 15*time.Second, "the siren off, as on_start wants it", func() bool { return !c.is(t, "siren_1", "on") })
	for range 3 {
		publish(payload)
		if r := reply("cut"); r.State != wire.ReplyUnknown {
			t.Errorf("after the kill: %+v", r)
		}
	}
	if lines := auditOf(t, state, `"what":"write"`, "command cut"); len(lines) != 1 || c.is(t, "siren_1", "on") {
		t.Errorf("carried out again: %v", lines)
	}
	publish(write("new", 0))
	if r := reply("new"); r.State != wire.ReplyDone || !c.is(t, "siren_1", "on") {
		t.Errorf("the next command: %+v", r)
	}
}

// TestAFloodOfJunkCommands: 10,000 messages that nobody signed, on the topic of commands, hold up neither telemetry nor
// alerts, nor those who may command.
func TestAFloodOfJunkCommands(t *testing.T) {
	t.Parallel()
	port, state := freePort(t), t.TempDir()
	// The tests' broker saves everything at each change, which nobody's does who expects a flood.
	broker := testservers.StartMosquitto(t, "autosave_on_changes false", "autosave_interval 60")
	city := newCommander(t, broker.Address)
	c := newTown(t, fmt.Sprintf(linkageSite, port)+city.uplink("status"), linkagePack)
	gateway := start(t, "run", "-c", c.site, "--state", state)
	a := readyAPI(t, port)
	city.ready()

	type arrival struct {
		m  paho.Message
		at time.Time
	}
	heard := make(chan arrival, 20000)
	listener := city.connect("listener", func(m paho.Message) { heard <- arrival{m, time.Now()} })
	for _, filter := range []string{"linli/v1/test.gw1/telemetry", "linli/v1/test.gw1/alert/+"} {
		if err := listener.Subscribe(t.Context(), filter); err != nil {
			t.Fatal(err)
		}
	}
	good, err := wire.SignCommand(city.signer, "city", &wire.Command{
		Node: "test.gw1", ID: "x", Verb: "status", IssuedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	replayed := append([]byte(nil), good...)
	good[len(good)-3] ^= 1 // the dearest junk: everything but the signature is right
	junk := [][]byte{good, []byte("junk"), nil, make([]byte, 1000), []byte(strings.Repeat("a.", 1000)), replayed}
	flood := city.connect("flood", func(paho.Message) {})
	began := time.Now()
	last := flood.Publish("linli/v1/test.gw1/cmd/status", false, make([]byte, 100<<10))
	for i := range 10000 { // half of them at once, the others within 4 s, in which a lane is blocked
		if i == 5000 {
			c.set(t, "lane_1", "occupied", 1)
		}
		if i >= 5000 && i%125 == 0 {
			pause(100 * time.Millisecond)
		}
		last = flood.Publish("linli/v1/test.gw1/cmd/status", false, junk[i%len(junk)])
	}
	if !last.WaitTimeout(60 * time.Second) {
		t.Fatal("the broker does not take the flood")
	}
	flooded := time.Since(began)
	var worst time.Duration
	alertAfter := time.Duration(0)
	late, messages := 0, 0
	look := func(m paho.Message, at time.Time) {
		if strings.Contains(m.Topic(), "/alert/") {
			if e, err := wire.ParseAlert(m.Payload()); err == nil && e.Data.Identity.Alert == "LaneBlocked" && alertAfter == 0 {
				alertAfter = at.Sub(e.Data.RaisedAt)
			}
			return
		}
		line, _ := wire.NextLine(m.Payload())
		h, err := wire.ParseHeader(line)
		if err != nil || h.From > h.To {
			return
		}
		messages++
		if h.Late {
			late++
			return
		}
		worst = max(worst, at.Sub(time.Unix(0, h.T1)))
	}
	end := time.After(flooded/2 + 10*time.Second)
	for done := false; !done; {
		select {
		case m := <-heard:
			look(m.m, m.at)
		case <-end:
			done = true
		}
		if messages > 8 && alertAfter > 0 {
			done = true
		}
	}
	t.Logf("flood of 10,000 in %v; %d messages, newest sample at most %v old, alert %v after it was raised", flooded, messages, worst, alertAfter)
	if alertAfter == 0 || messages == 0 || late > 0 {
		t.Errorf("alert after %v, %d messages, %d late", alertAfter, messages, late)
	}
	city.want(wire.ReplyDone, "", "status")
	if strings.Contains(gateway.out.String(), "uplink down") {
		t.Error("the flood ended the connection")
	}
	if lines := auditOf(t, state, `"what":"command"`, `"verb":"status"`); len(lines) > 6 {
		t.Errorf("%d lines of the record for a flood: %s", len(lines), lines[0])
	}
	if !a.get("/api/v1/state", &struct{}{}) {
		t.Error("the console does not answer")
	}
}

// TestResendFillsTheDatabase: what the city has lost comes back as the rows that it had, when somebody asks.
func TestResendFillsTheDatabase(t *testing.T) {
	t.Parallel()
	port, state := freePort(t), t.TempDir()
	city := startCity(t)
	boss := newCommander(t, city.broker.Address)
	c := newTown(t, fmt.Sprintf(linkageSite, port)+boss.uplink("resend, status"), linkagePack)
	gateway := start(t, "run", "-c", c.site, "--state", state)
	readyAPI(t, port)
	boss.ready()
	var s wire.Status
	waitFor(t, 30*time.Second, "some frames", func() bool {
		_, r, _ := boss.send("status")
		return json.Unmarshal(r.Result, &s) == nil && s.NextSeq > 6 && s.BacklogFrames < 3
	})
	everything := func() map[string]string {
		out := map[string]string{}
		series, err := city.db.Query(`SELECT * FROM /.*/ GROUP BY *`)
		if err != nil {
			return nil
		}
		for _, one := range series {
			if strings.HasPrefix(one.Name, "linli_") {
				continue
			}
			for _, row := range one.Values {
				for i, v := range row[1:] {
					if v != nil {
						out[fmt.Sprintf("%s %v %v %s", one.Name, one.Tags, row[0], one.Columns[i+1])] = fmt.Sprint(v)
					}
				}
			}
		}
		return out
	}
	gateway.stop(10 * time.Second) // all of it is in the database then, and nothing is added
	var before map[string]string
	if !within(20*time.Second, 300*time.Millisecond, func() bool {
		rows := everything()
		same := len(rows) > 0 && len(rows) == len(before)
		before = rows
		return same
	}) {
		t.Fatal("the rows do not stay as many")
	}
	if _, err := city.db.Query(`DROP SERIES FROM /.*/`); err != nil {
		t.Fatal(err)
	}
	waitFor(t, 10*time.Second, "an empty database", func() bool { return len(everything()) == 0 })
	start(t, "run", "-c", c.site, "--state", state)
	readyAPI(t, port)
	boss.ready()
	r := boss.want(wire.ReplyDone, "", "resend", "--from", "1", "--to", fmt.Sprint(uint64(1)<<62))
	t.Logf("resend: %s", r.Result)
	missing := ""
	defer func() { t.Log(missing) }()
	waitFor(t, 30*time.Second, "every row as it was", func() bool {
		now := everything()
		for k, v := range before {
			if now[k] != v && !strings.HasPrefix(k, "alert ") { // alerts are in no frame
				missing = fmt.Sprintf("%s is %q, was %q", k, now[k], v)
				return false
			}
		}
		missing = ""
		return true
	})
	t.Logf("%d rows came back as they were", len(before))
}

// What is missing of a write is told by the names of its arguments.
func TestAWriteOfNothing(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		`{}`: "malformed: args of write: device and point must be there",
		`{"device":"siren_1","point":"on","value":null}`: "malformed: args of write: value must be there, a bool, a number or a text",
		`{"device":"siren_1","point":"on"}`:              "malformed: args of write: value must be there, a bool, a number or a text",
		`{"device":7}`:                                   "malformed: args of write: device must be a text, and is: number",
	} {
		r := (&cityCommands{}).write(t.Context(), &wire.Command{Verb: "write", Args: json.RawMessage(args)})
		if r.State != wire.ReplyRefused || r.Reason != want {
			t.Errorf("%s: %+v", args, r)
		}
	}
}
