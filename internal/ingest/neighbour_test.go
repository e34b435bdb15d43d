package ingest_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"linli/internal/alert"
	"linli/internal/ingest"
	"linli/internal/telemetry"
	"linli/internal/testservers"
	"linli/internal/wire"
)

// What one gateway sends must not stop or spoil the others. Hillside is the honest one.
const (
	evilTopic   = "linli/v1/evil.gw/telemetry"
	honestTopic = "linli/v1/hillside.gw/telemetry"
)

func evil(measurement, fields string, n int) string {
	return fmt.Sprintf("%s,device=d,gateway=gw,site=evil %s %d", measurement, fields, base+int64(n))
}

func honest(measurement, fields string, n int) string {
	return fmt.Sprintf("%s,device=d,gateway=gw,site=hillside %s %d", measurement, fields, base+int64(n))
}

// catalogue is what package main passes of the class catalogue.
func catalogue(measurement, field string) (wire.FieldType, bool) {
	switch measurement + "." + field {
	case "smoke_detector.alarm":
		return wire.BoolField, true
	case "smoke_detector.dust_pct":
		return wire.FloatField, true
	}
	return 0, false
}

func TestProbeCannotBeSpoilt(t *testing.T) {
	broker, db := testservers.StartMosquitto(t), testservers.StartInfluxDB(t)
	in, _ := start(t, ingest.Config{Brokers: []string{broker.URL}, Influx: ingest.Influx{URL: db.URL, Bucket: db.Bucket}})
	c := connect(t, broker.URL, "box")
	// The database files data by day: the probe is written now.
	c.publish(evilTopic, message(1, 1, fmt.Sprintf(`linli_ingest,gateway=gw,site=evil probe="x" %d`, time.Now().UnixNano())))
	c.publish(evilTopic, message(2, 3, evil("counter", "n=1i", 1), evil("counter", `n="x"`, 2)))
	c.publish(honestTopic, message(1, 1, honest("door", "open=true", 1)))
	eventually(t, "all acknowledged", func() bool { return in.Stats().Acknowledged == 3 })
	if n, err := db.Count("door", "open"); n != 1 || err != nil {
		t.Errorf("%d rows of the honest site (%v)", n, err)
	}
	if s := in.Stats(); s.BadLines != 1 || s.RefusedLines != 1 || s.Holding != "" {
		t.Errorf("stats %+v", s)
	}
}

// Should the probe be refused for a reason of its own, a line that was taken before shows that the database works.
func TestRefusedProbeDoesNotHold(t *testing.T) {
	broker := testservers.StartMosquitto(t)
	db := &fakeDB{answer: func(body string) (int, string, string) {
		if strings.HasPrefix(body, "linli_ingest") || strings.Contains(body, "n=666i") {
			return 400, "", "{}"
		}
		return 204, "", ""
	}}
	server := httptest.NewServer(db)
	defer server.Close()
	in, _ := start(t, ingest.Config{Brokers: []string{broker.URL}, Influx: ingest.Influx{URL: server.URL, Bucket: "b"}})
	c := connect(t, broker.URL, "box", "linli/v1/dead/+")
	c.publish(honestTopic, message(1, 1, honest("door", "open=true", 1)))
	c.publish(evilTopic, message(1, 1, evil("counter", "n=666i", 1)))
	c.publish(honestTopic, message(2, 2, honest("door", "open=false", 2)))
	eventually(t, "all acknowledged", func() bool { return in.Stats().Acknowledged == 3 })
	eventually(t, "dead letter", func() bool { return len(c.letters()) == 1 })
	if s := in.Stats(); s.RefusedLines != 1 || s.Holding != "" || !db.has("open=false") {
		t.Errorf("stats %+v", s)
	}
}

// The search for bad lines is bounded for each node, whatever they look like and however they lie; nobody else's
// lines go with them.
func TestSearchForBadLinesIsBounded(t *testing.T) {
	for name, measurements := range map[string]int{"one measurement": 1, "many measurements": 500} {
		t.Run(name, func(t *testing.T) {
			broker := testservers.StartMosquitto(t)
			db := &fakeDB{answer: func(body string) (int, string, string) {
				if strings.Contains(body, "n=666i") {
					return 400, "", "{}"
				}
				return 204, "", ""
			}}
			server := httptest.NewServer(db)
			defer server.Close()
			in, _ := start(t, ingest.Config{Brokers: []string{broker.URL}, Influx: ingest.Influx{URL: server.URL, Bucket: "b"}})
			c := connect(t, broker.URL, "box", "linli/v1/dead/+")
			var lines []string
			for i := range 2000 {
				value := 1
				if i%2 == 1 {
					value = 666
				}
				lines = append(lines, evil(fmt.Sprintf("m%d", i/2%measurements), fmt.Sprintf("n=%di", value), i))
			}
			c.publish(evilTopic, message(1, 1, lines...))
			for i := range 5 {
				c.publish(honestTopic, message(uint64(i+1), uint64(i+1), honest("door", fmt.Sprintf("n=%di", i), i)))
			}
			eventually(t, "all acknowledged", func() bool { return in.Stats().Acknowledged == 6 })
			for i := range 5 {
				if !db.has(honest("door", fmt.Sprintf("n=%di", i), i)) {
					t.Errorf("line %d of the honest site is missing", i)
				}
			}
			if !db.has("linli_ledger,epoch=0000000000c0ffee,gateway=gw,site=evil") {
				t.Error("the message of refused lines is not in the ledger")
			}
			dead := 0
			eventually(t, "dead letters", func() bool {
				dead = 0
				for _, d := range c.letters() {
					if d.Node != "evil.gw" {
						t.Fatalf("letter %+v", d)
					}
					dead += d.Count
				}
				return dead == int(in.Stats().RefusedLines)
			})
			written := 0
			db.mu.Lock()
			for _, l := range db.lines {
				if strings.HasPrefix(l, "m") {
					written++
				}
			}
			if dead < 1000 || dead+written < 2000 || db.posts > 1500 {
				t.Errorf("%d lines dead, %d written, %d requests", dead, written, db.posts)
			}
			db.mu.Unlock()
		})
	}
}

// InfluxDB says how many lines it dropped: where that is all of them, nothing is searched.
func TestAllDroppedIsBelieved(t *testing.T) {
	broker, db := testservers.StartMosquitto(t), testservers.StartInfluxDB(t)
	target, err := url.Parse(db.URL)
	if err != nil {
		t.Fatal(err)
	}
	var posts atomic.Int64
	forward := httputil.NewSingleHostReverseProxy(target)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		posts.Add(1)
		forward.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	in, _ := start(t, ingest.Config{Brokers: []string{broker.URL}, Influx: ingest.Influx{URL: proxy.URL, Bucket: db.Bucket}})
	c := connect(t, broker.URL, "box")
	c.publish(evilTopic, message(1, 1, evil("counter", "n=1i", 0)))
	eventually(t, "first acknowledged", func() bool { return in.Stats().Acknowledged == 1 })
	var lines []string
	for i := range 2000 {
		lines = append(lines, evil("counter", `n="x"`, i+1))
	}
	before := posts.Load()
	c.publish(evilTopic, message(2, 2, lines...))
	c.publish(honestTopic, message(1, 1, honest("door", "open=true", 1)))
	eventually(t, "all acknowledged", func() bool { return in.Stats().Acknowledged == 3 })
	s := in.Stats()
	if s.RefusedLines != 2000 || posts.Load()-before > 40 || s.Holding != "" {
		t.Errorf("%d requests, stats %+v", posts.Load()-before, s)
	}
	if n, err := db.Count("door", "open"); n != 1 || err != nil {
		t.Errorf("%d rows of the honest site (%v)", n, err)
	}
}

// Small messages that unpack to much: a batch ends when there is enough to write, not when enough has come in.
func TestBombs(t *testing.T) {
	broker := testservers.StartMosquitto(t)
	largest := 0
	db := &fakeDB{answer: func(body string) (int, string, string) {
		largest = max(largest, len(body))
		return 204, "", ""
	}}
	server := httptest.NewServer(db)
	defer server.Close()
	const batch = 100 << 10
	cfg := ingest.Config{Brokers: []string{broker.URL}, BatchBytes: batch, Influx: ingest.Influx{URL: server.URL, Bucket: "b"}}
	_, stop := start(t, cfg)
	stop() // the session stays, so that all of them come at once
	pack, err := wire.NewCompressor(wire.Zstd)
	if err != nil {
		t.Fatal(err)
	}
	bomb := func(size int) []byte {
		one := evil("counter", "n=1i", 1) + "\n"
		n := size / len(one)
		h := wire.AppendHeader(nil, &wire.Header{Epoch: 1, From: 1, To: 1, Count: n, T0: base, T1: base})
		return pack.Pack(append(h, bytes.Repeat([]byte(one), n)...))
	}
	c := connect(t, broker.URL, "box", "linli/v1/dead/+")
	for range 30 {
		c.publish(evilTopic, bomb(900<<10))
	}
	c.publish(evilTopic, bomb(2<<20))
	c.publish(honestTopic, message(1, 1, honest("door", "open=true", 1)))
	in, _ := start(t, cfg)
	eventually(t, "all acknowledged", func() bool { return in.Stats().Acknowledged == 32 })
	db.mu.Lock()
	defer db.mu.Unlock()
	if largest > batch+1<<20 {
		t.Errorf("one write of %d bytes", largest)
	}
	if s := in.Stats(); s.BadMessages != 1 || s.QueueBytes != 0 || s.QueueMessages != 0 {
		t.Errorf("stats %+v", s)
	}
}

// A message over the packet limit is noted and forgotten by the broker; everybody else's go on.
func TestOversizedMessage(t *testing.T) {
	broker := testservers.StartMosquitto(t)
	db := &fakeDB{answer: func(string) (int, string, string) { return 204, "", "" }}
	server := httptest.NewServer(db)
	defer server.Close()
	in, _ := start(t, ingest.Config{Brokers: []string{broker.URL}, Influx: ingest.Influx{URL: server.URL, Bucket: "b"}})
	c := connect(t, broker.URL, "box", "linli/v1/dead/+")
	c.publish(evilTopic, make([]byte, 9<<20))
	c.publish(honestTopic, message(1, 1, honest("door", "open=true", 1)))
	eventually(t, "both acknowledged", func() bool { return in.Stats().Acknowledged == 2 })
	eventually(t, "dead letter", func() bool { return len(c.letters()) == 1 })
	d := c.letters()[0]
	if d.Node != "evil.gw" || d.Topic != evilTopic || len(d.Lines) != 1 || !strings.Contains(d.Lines[0].Reason, "is too large") {
		t.Errorf("letter %+v", d)
	}
	if s := in.Stats(); !s.Connected || s.Oversized != 1 || s.BadMessages != 1 || s.LastError != "" || !db.has("open=true") {
		t.Errorf("stats %+v", s)
	}
	// An acknowledgement that the broker has not read when it stops is none. The letter of a third message comes behind them.
	c.publish(evilTopic, []byte("no header at all"))
	eventually(t, "second dead letter", func() bool { return len(c.letters()) == 2 })
	broker.Stop()
	broker.Start()
	eventually(t, "connected again", func() bool { return in.Stats().Connected && in.Stats().LastError == "" })
	connect(t, broker.URL, "box2").publish(honestTopic, message(2, 2, honest("door", "open=false", 2)))
	eventually(t, "third acknowledged", func() bool { return db.has("open=false") })
	if s := in.Stats(); s.Oversized != 1 {
		t.Errorf("the large message came again: %+v", s)
	}
}

// The first value fixes a field's type in the database for everybody: the class decides what it may be.
func TestNobodyFixesAnothersTypes(t *testing.T) {
	broker, db := testservers.StartMosquitto(t), testservers.StartInfluxDB(t)
	in, _ := start(t, ingest.Config{Brokers: []string{broker.URL}, Kinds: catalogue, Influx: ingest.Influx{URL: db.URL, Bucket: db.Bucket}})
	c := connect(t, broker.URL, "box", "linli/v1/dead/+")
	badLines := []string{
		evil("smoke_detector", "alarm=1.5", 1),
		evil("smoke_detector", "alarm_q=true", 2),
		evil("smoke_detector", "alarm=true,dust_pct=3i", 3),
		evil("anything", "x_q=1.5", 4),
		fmt.Sprintf("derived,gateway=gw,rule=r,site=evil,subject=x value=1i %d", base),
		fmt.Sprintf("derived,gateway=gw,rule=r,site=evil,subject=x other=1 %d", base),
		fmt.Sprintf("smoke_detector,device=d,gateway=gw,note=x,site=evil alarm=true %d", base),
		fmt.Sprintf("smoke_detector,gateway=gw,rule=r,site=evil alarm=true %d", base),
		"door,device=d,gateway=gw,site=evil open=true 1500000000000000000",
		fmt.Sprintf("door,device=d,gateway=gw,site=evil open=true %d", base+int64(26*time.Hour)),
	}
	c.publish(evilTopic, message(1, 1, badLines...))
	h := wire.Header{Epoch: 1, From: 1, To: 1, T0: base, T1: base + int64(26*time.Hour)}
	c.publish(evilTopic, wire.AppendHeader(nil, &h))
	good := []string{
		honest("smoke_detector", "alarm=true,alarm_q=0i,dust_pct=3", 1), honest("smoke_detector", "new_point=1i", 2), honest("site_local", "x=1.5,x_q=0i", 3),
		fmt.Sprintf("derived,gateway=gw,rule=r,site=hillside,subject=x,zone=z value=1,value_q=0i %d", base),
		fmt.Sprintf("derived,gateway=gw,rule=s,site=hillside,subject=x,zone=z text=\"1\",text_q=0i %d", base),
	}
	c.publish(honestTopic, message(1, 1, good...))
	eventually(t, "three acknowledged", func() bool { return in.Stats().Acknowledged == 3 })
	s := in.Stats()
	if s.BadLines != uint64(len(badLines)) || s.RefusedLines != 0 || s.BadMessages != 1 {
		t.Errorf("stats %+v", s)
	}
	for measurement, field := range map[string]string{"smoke_detector": "alarm", "site_local": "x", "derived": "value"} {
		if n, err := db.Count(measurement, field); n != 1 || err != nil {
			t.Errorf("%s has %d rows (%v), want 1", measurement, n, err)
		}
	}
	eventually(t, "dead letters", func() bool {
		n := 0
		for _, d := range c.letters() {
			n += d.Count
		}
		return n == len(badLines)+1
	})
}

func event(t *testing.T, node, id string, at time.Time, uncertain bool) []byte {
	t.Helper()
	a := alert.Alert{ID: id, Identity: telemetry.Identity{Alert: "Smoke", Subject: "d"}, Severity: telemetry.Critical,
		State: alert.ActiveUnacknowledged, Title: telemetry.Text{Zh: "烟", En: "Smoke"}, Revision: 1, TimeUncertain: uncertain}
	e := wire.NewAlertEvent(node, &a, "raised", at)
	b, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// An alert is written only as the node's own, and at its own time: one transition is one row, however often it comes.
func TestForeignAndTimelessAlertsAreNotWritten(t *testing.T) {
	broker, db := testservers.StartMosquitto(t), testservers.StartInfluxDB(t)
	in, _ := start(t, ingest.Config{Brokers: []string{broker.URL}, Influx: ingest.Influx{URL: db.URL, Bucket: db.Bucket}})
	c := connect(t, broker.URL, "box", "linli/v1/dead/+")
	at := time.Unix(0, base)
	c.publish("linli/v1/evil.gw/alert/01A", event(t, "hillside.gw", "01A", at, false))
	c.publish("linli/v1/evil.gw/alert/01B", event(t, "evil.gw", "01A", at, false))
	c.publish("linli/v1/evil.gw/alert/01A", event(t, "evil.gw", "01A", time.Date(1970, 1, 1, 0, 1, 0, 0, time.UTC), false))
	c.publish("linli/v1/evil.gw/alert/01A", event(t, "evil.gw", "01A", at.Add(26*time.Hour), true))
	c.publish("linli/v1/evil.gw/alert/01A", event(t, "evil.gw", "01A", time.Date(9000, 1, 1, 0, 1, 0, 0, time.UTC), true))
	eventually(t, "five acknowledged", func() bool { return in.Stats().Acknowledged == 5 })
	if n, err := db.Count("alert", "id"); n != 0 || err != nil {
		t.Errorf("%d alerts written (%v)", n, err)
	}
	for range 3 {
		c.publish("linli/v1/hillside.gw/alert/01A", event(t, "hillside.gw", "01A", at, false))
		c.publish("linli/v1/hillside.gw/alert/01B", event(t, "hillside.gw", "01B", time.Date(1970, 1, 1, 0, 1, 0, 0, time.UTC), true)) // its clock is not set
	}
	eventually(t, "eleven acknowledged", func() bool { return in.Stats().Acknowledged == 11 })
	all, err := db.Query(`SELECT "id" FROM "alert"`)
	if err != nil || len(all) != 1 {
		t.Fatalf("rows %+v, %v", all, err)
	}
	if got, want := fmt.Sprint(all[0].Values), fmt.Sprintf("[[%d 01A] [%d 01B]]", base, at.Add(time.Hour).UnixNano()); got != want {
		t.Errorf("rows %s, want %s", got, want) // the second at the time of this test's clock
	}
	eventually(t, "dead letters", func() bool {
		n := 0
		for _, d := range c.letters() {
			n += d.Count
		}
		return n == 5
	})
	if s := in.Stats(); s.Foreign != 2 || s.BadMessages != 5 {
		t.Errorf("stats %+v", s)
	}
}

// The ledger says only of whole messages that they have arrived; a loss is told even where its time cannot be true.
func TestLedgerAndLosses(t *testing.T) {
	broker := testservers.StartMosquitto(t)
	db := &fakeDB{answer: func(string) (int, string, string) { return 204, "", "" }}
	server := httptest.NewServer(db)
	defer server.Close()
	in, _ := start(t, ingest.Config{Brokers: []string{broker.URL}, Influx: ingest.Influx{URL: server.URL, Bucket: "b"}})
	c := connect(t, broker.URL, "box")
	h := wire.Header{Epoch: 1, From: 1, To: 1, Count: 2, T0: base, T1: base}
	b := append(wire.AppendHeader(nil, &h), honest("door", "open=true", 1)+"\n"...)
	c.publish(honestTopic, wire.AppendLost(b, &wire.Lost{Epoch: 1, From: 3, To: 4, Reason: "torn"}))
	eventually(t, "acknowledged", func() bool { return in.Stats().Acknowledged == 1 })
	if s := in.Stats(); s.CountWrong != 1 || db.has("linli_ledger") || !db.has("open=true") {
		t.Errorf("stats %+v, ledger row %v", s, db.has("linli_ledger"))
	}
	if want := fmt.Sprintf("reason=torn,site=hillside from=3i,to=4i,t0=0i,t1=0i,count=0i %d", base+3); !db.has(want) {
		t.Errorf("no row %q among %q", want, db.lines)
	}
}

// A message is acknowledged only after the broker has acknowledged the dead letter of its lines.
func TestDeadLetterIsAwaited(t *testing.T) {
	l := testservers.Listen(t)
	defer l.Close()
	server := httptest.NewServer(&fakeDB{answer: func(string) (int, string, string) { return 204, "", "" }})
	defer server.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	told := make(chan string, 10)
	wg.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		for {
			p, err := packets.ReadPacket(c)
			if err != nil {
				return
			}
			switch p := p.(type) {
			case *packets.ConnectPacket:
				_, _ = c.Write([]byte{0x20, 2, 0, 0})
			case *packets.SubscribePacket:
				_, _ = c.Write([]byte{0x90, 3, byte(p.MessageID >> 8), byte(p.MessageID), 1})
				if strings.Contains(p.Topics[0], "alert") {
					m := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
					m.Qos, m.TopicName, m.MessageID, m.Payload = 1, evilTopic, 7, []byte("nonsense")
					_ = m.Write(c)
				}
			case *packets.PublishPacket:
				// Whoever did not wait would now be heard.
				_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
				if _, err := c.Read(make([]byte, 1)); err == nil {
					told <- "acknowledged before the dead letter was"
					return
				}
				_ = c.SetReadDeadline(time.Time{})
				told <- "dead letter"
				_, _ = c.Write([]byte{0x40, 2, byte(p.MessageID >> 8), byte(p.MessageID)})
			case *packets.PubackPacket:
				told <- fmt.Sprint("acknowledged ", p.MessageID)
			}
		}
	})
	_, stop := start(t, ingest.Config{Brokers: []string{"tcp://" + l.Addr().String()}, Influx: ingest.Influx{URL: server.URL, Bucket: "b"}})
	defer stop()
	for _, want := range []string{"dead letter", "acknowledged 7"} {
		select {
		case got := <-told:
			if got != want {
				t.Fatalf("%s, want %s", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no %s", want)
		}
	}
}
