package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"linli/internal/alert"
	"linli/internal/telemetry"
	"linli/internal/testservers"
	"linli/internal/wire"
)

// tableRows returns every row of a database as measurement, tags, fields with their types, and time, without the probes
// of ingest.
func tableRows(t *testing.T, db *testservers.InfluxDB) []string {
	t.Helper()
	types := map[string]map[string]string{}
	keys, err := db.Query("SHOW FIELD KEYS")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range keys {
		types[s.Name] = map[string]string{}
		for i := range s.Values {
			r := s.Row(i)
			types[s.Name][r["fieldKey"].(string)] = r["fieldType"].(string)
		}
	}
	all, err := db.Query("SELECT * FROM /.*/ GROUP BY *")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, s := range all {
		switch s.Name {
		case wire.MeasurementProbe, wire.MeasurementCheck, wire.MeasurementHour, wire.MeasurementLate: // ingest's own
			continue
		}
		for i := range s.Values {
			r := s.Row(i)
			at := r["time"]
			delete(r, "time")
			var fields []string
			for _, k := range slices.Sorted(maps.Keys(r)) {
				if r[k] != nil {
					fields = append(fields, fmt.Sprintf("%s=%v(%s)", k, r[k], types[s.Name][k]))
				}
			}
			var tags []string
			for _, k := range slices.Sorted(maps.Keys(s.Tags)) {
				if s.Tags[k] != "" { // the database says so of a tag that other rows have
					tags = append(tags, k+"="+s.Tags[k])
				}
			}
			raised, _ := r["raised_at"].(json.Number)
			ns, _ := raised.Int64()
			if s.Name == wire.MeasurementStatus && (r["reason"] == "lost" || r["clock_set"] == false) ||
				s.Name == wire.MeasurementAlert && r["time_uncertain"] == true && time.Unix(0, ns).Year() == 1970 {
				at = "when it came"
			}
			out = append(out, fmt.Sprintf("%s %s %s %v", s.Name, strings.Join(tags, ","), strings.Join(fields, " "), at))
		}
	}
	slices.Sort(out)
	return out
}

// startTelegraf starts Telegraf with the configuration that we ship, beside a city's ingest, with a database of its own.
func (c *city) startTelegraf(t *testing.T) (*testservers.Telegraf, *testservers.InfluxDB) {
	t.Helper()
	db := *c.db
	db.Database, db.Bucket = "telegraf", "telegraf/autogen"
	if _, err := c.db.Query("CREATE DATABASE telegraf"); err != nil {
		t.Fatal(err)
	}
	dir, err := filepath.Abs("../deploy/telegraf")
	if err != nil {
		t.Fatal(err)
	}
	// As the service of Telegraf's packages does: first its own file, which leaves the host's name in every row, then the
	// directory in the order of names.
	main := writeFile(t, "telegraf.conf", "[global_tags]\n[agent]\n  interval = \"10s\"\n  round_interval = true\n  hostname = \"\"\n  omit_hostname = false\n")
	peer := testservers.StartTelegraf(t, []string{
		"LINLI_BROKER=tcp://" + c.broker.Address, "LINLI_CLIENT_ID=telegraf-test", "LINLI_TELEGRAF_DIR=" + dir,
		"INFLUX_URL=" + db.URL, "INFLUX_BUCKET=" + db.Bucket, "INFLUX_TOKEN=unused",
	}, main, filepath.Join(dir, "linli-ledger.conf"), filepath.Join(dir, "linli.conf"))
	return peer, &db
}

// everyKind appends what the encoder makes of every kind, quality and awkward text.
func everyKind(e *wire.Encoder, at int64) {
	add := func(class, device, zone, point string, kind telemetry.Kind, q telemetry.Quality, v telemetry.Value) {
		e.Add(&telemetry.Series{Class: class, Device: device, Zone: zone, Point: point, Kind: kind}, at, q, v)
	}
	add("sampler", "d1", "b1", "f", telemetry.Float, telemetry.Good, telemetry.FloatValue(-1.25e-7))
	add("sampler", "d1", "b1", "whole", telemetry.Float, telemetry.Good, telemetry.FloatValue(3))
	add("sampler", "d1", "b1", "large", telemetry.Float, telemetry.OverRange, telemetry.FloatValue(1.7976931348623157e308))
	add("sampler", "d1", "b1", "small", telemetry.Float, telemetry.UnderRange, telemetry.FloatValue(5e-324))
	add("sampler", "d1", "b1", "i", telemetry.Int, telemetry.Good, telemetry.IntValue(9007199254740993))
	add("sampler", "d1", "b1", "negative", telemetry.Int, telemetry.Good, telemetry.IntValue(-9223372036854775808))
	add("sampler", "d1", "b1", "e", telemetry.Enum, telemetry.Good, telemetry.EnumValue(3))
	add("sampler", "d1", "b1", "yes", telemetry.Bool, telemetry.Good, telemetry.BoolValue(true))
	add("sampler", "d1", "b1", "no", telemetry.Bool, telemetry.Good, telemetry.BoolValue(false))
	add("sampler", "d1", "b1", "dead", telemetry.Float, telemetry.BadComm, telemetry.Value{})
	add("sampler", "d1", "b1", "silent", telemetry.Bool, telemetry.BadSensor, telemetry.Value{})
	add("sampler", "d1", "b1", "closed", telemetry.KindText, telemetry.BadMaintenance, telemetry.Value{})
	for i, text := range []string{
		"粤B·12345 消防通道", "", "two\nlines", "\n", "# linli epoch=0\n# linli lost epoch=00c0ffee00c0ffee seq=1-1", `quote " and \ and \" and \\`, `ends with \`,
		"tab\tcarriage\rreturn", "comma, equals= space", "m,gateway=gw9,site=other x=1 1", "🔥 emoji",
	} {
		add("texts", "d2", "b1", fmt.Sprintf("t%d", i), telemetry.KindText, telemetry.Uncertain, telemetry.TextValue(text))
	}
	add("gateway", "gw1", "", "clock_set", telemetry.Bool, telemetry.Good, telemetry.BoolValue(true))
}

// Telegraf, with the configuration of deploy/telegraf, makes the same rows of the same messages as ingest: both read
// from one Mosquitto at the same time, into two databases.
func TestTelegrafMakesTheSameRows(t *testing.T) {
	t.Parallel()
	c := startCity(t)
	peer, peerDB := c.startTelegraf(t)
	waitFor(t, 20*time.Second, "Telegraf connected", func() bool { return strings.Count(peer.Log(), "Connected [tcp://") == 3 })

	// What a real gateway sends: a community of pymodbus, whose server dies, which is an alert.
	modbus := startPymodbus(t)
	site := c.siteFile(t, modbus.port, freePort(t))
	text, err := os.ReadFile(site)
	if err != nil {
		t.Fatal(err)
	}
	text = []byte(strings.ReplaceAll(string(text), "{pack: gateway}", "{pack: gateway, params: {silent_for: 2s, life_safety_silent_for: 2s}}"))
	if err := os.WriteFile(site, text, 0o600); err != nil {
		t.Fatal(err)
	}
	schemas := map[string]*schema{"alert": loadSchema(t, "alert"), "alerts_open": loadSchema(t, "alerts_open"), "status": loadSchema(t, "status"), "dead": loadSchema(t, "dead")}
	seen := subscribe(t, c.broker.Address, "linli/v1/#")
	gateway := start(t, "run", "-c", site, "--state", t.TempDir())

	// Meanwhile, what the encoders can make at the worst.
	publish := publisher(t, c.broker.URL)
	const node, topic = "riverside.gw1", "linli/v1/riverside.gw1/telemetry"
	base := time.Now().Add(-time.Hour).UnixNano()
	e := wire.NewEncoder("riverside", "gw1")
	losses := []wire.Lost{
		{Epoch: 0xc0ffee, Reason: "pending_full", Count: 5, T0: base, T1: base + 1}, {Epoch: 0xc0ffee, Reason: "disk_error", Count: 6, T0: base, T1: base + 1},
		{Epoch: 0xffffffffffffffff, Reason: "torn", Count: 1<<64 - 1, T0: -5, T1: 7}, // nobody knows when
		{Epoch: 0xc0ffee, From: 11, To: 14, Reason: "space", Count: 1760, T0: base, T1: base + 999_999_999},
	}
	for i, h := range []wire.Header{
		{From: 1, To: 1}, {From: 2, To: 9, Late: true}, {From: 10, To: 10, Part: 1, Parts: 2}, {From: 10, To: 10, Part: 2, Parts: 2}, {From: 1234567, To: 1234567, Uncertain: true},
	} {
		everyKind(e, base+int64(i))
		body, n := e.Flush(nil)
		h.Epoch, h.Count, h.T0, h.T1 = 0xc0ffee, n, base, base+int64(i)
		m := append(wire.AppendHeader(nil, &h), body...)
		for _, l := range losses[min(i, 2):] {
			m = wire.AppendLost(m, &l)
		}
		publish(topic, false, m)
		publish(topic, false, m) // twice is the same rows
	}
	idle := wire.Header{Epoch: 0xc0ffee, From: 11, To: 10, T0: base, T1: base, Settled: base + 5}
	publish(topic, false, wire.AppendHeader(nil, &idle))
	// What neither writes.
	h := wire.Header{Epoch: 0xbad, From: 1, To: 1, Count: 6, T0: base, T1: base}
	m := wire.AppendHeader(nil, &h)
	for _, l := range []string{
		"door,device=d,gateway=gw1,site=hillside open=true", "door,device=d,gateway=gw2,site=riverside open=true", "alert,gateway=gw1,site=riverside x=1i",
		"linli_ledger,gateway=gw1,site=riverside count=1i", "door,device=d,floor=3,gateway=gw1,site=riverside open=true",
	} {
		m = append(m, fmt.Sprintf("%s %d\n", l, base)...)
	}
	publish(topic, false, append(m, fmt.Sprintf("door,device=d,gateway=gw1,site=riverside open=true %d\n", time.Now().Add(26*time.Hour).UnixNano())...))
	publish(topic, false, nil)
	publish(topic, false, []byte("no header"))
	// A count that is wrong: the lines, and no row of the ledger.
	h = wire.Header{Epoch: 0xbad, From: 2, To: 2, Count: 2, T0: base, T1: base}
	publish(topic, false, append(wire.AppendHeader(nil, &h), fmt.Sprintf("door,device=d,gateway=gw1,site=riverside open=true %d\n", base)...))
	for i, payload := range alertMessages(t) {
		var a map[string]any
		if err := json.Unmarshal(payload, &a); err != nil {
			t.Fatal(err)
		}
		a["time"] = time.Unix(0, base+int64(i)).UTC()
		publish("linli/v1/"+node+"/alert/"+someULID, true, encoded(t, a))
	}
	boot := alert.Alert{ID: someULID, Identity: telemetry.Identity{Alert: "Smoke", Subject: "d"}, Severity: telemetry.Critical, State: alert.ActiveUnacknowledged,
		Title: telemetry.Text{Zh: "烟", En: "Smoke"}, Revision: 1, TimeUncertain: true, RaisedAt: time.Unix(7, 5).UTC()}
	early := wire.NewAlertEvent(node, &boot, "raised", time.Unix(9, 1))
	publish("linli/v1/"+node+"/alert/"+someULID, true, encoded(t, early))
	publish("linli/v1/"+node+"/alert/"+someULID, true, nil)
	publish("linli/v1/other.gw1/alert/"+someULID, false, encoded(t, early)) // not its own
	publish("linli/v1/"+node+"/alert/"+someULID, false, []byte(`{"specversion":"1.0"}`))
	publish("linli/v1/"+node+"/alert/"+someULID, false, []byte(`nonsense`))

	at := time.Unix(0, base).UTC()
	full := wire.Status{Node: node, State: "online", Time: at, Version: "1.0.0", StartedAt: at, ClockSet: true, Epoch: "00c0ffee00c0ffee", FirstSeq: 1, NextSeq: 2, BacklogFrames: 3,
		WaitingFrames: 4, SentAgainFrames: 5, SentAgainReason: "the session was lost", SubscribeError: "refused", OpenAlerts: 6,
		Journal: &wire.JournalStatus{Bytes: 7, CommitFailures: 8, SamplesLost: 9, DamagedFrames: 10, Error: "设备 \"sda\"\nno space"}}
	publish("linli/v1/"+node+"/status", true, encoded(t, &full))
	publish("linli/v1/other.gw1/status", false, encoded(t, &full)) // not its own
	unset := wire.Status{Node: node, State: "online", Time: time.Unix(9, 0).UTC(), Version: "1.0.0", StartedAt: time.Unix(1, 0).UTC(), Epoch: "00c0ffee00c0ffee"}
	publish("linli/v1/"+node+"/status", true, encoded(t, &unset))
	publish("linli/v1/"+node+"/status", true, encoded(t, &wire.Will{Node: node, State: "offline", Reason: "lost"}))
	publish("linli/v1/"+node+"/status", true, nil)

	waitFor(t, 40*time.Second, "rows of the real gateway", func() bool {
		return len(c.rows(t, "energy_meter", "counter", "energy_kwh")) >= 10
	})
	modbus.kill()
	waitFor(t, 40*time.Second, "alerts of the real gateway", func() bool {
		return len(c.query(`SELECT "id" FROM "alert" WHERE "site"='test'`)) >= 1
	})
	gateway.stop(15 * time.Second)

	var ours, theirs []string
	within(30*time.Second, 200*time.Millisecond, func() bool { // What differs then is named below.
		ours, theirs = tableRows(t, c.db), tableRows(t, peerDB)
		return slices.Equal(ours, theirs)
	})
	counts := map[string]int{}
	for _, r := range ours {
		name, _, _ := strings.Cut(r, " ")
		counts[name]++
		if !slices.Contains(theirs, r) {
			t.Errorf("only ingest:   %s", r)
		}
	}
	for _, r := range theirs {
		if !slices.Contains(ours, r) {
			t.Errorf("only Telegraf: %s", r)
		}
	}
	t.Logf("%d rows: %v", len(ours), counts)
	if counts["sampler"] != 5 || counts["texts"] != 5 || counts["alert"] < len(alertMessages(t))+2 || counts["linli_ledger"] < 7 || counts["linli_loss"] != len(losses) || counts["linli_status"] < 4 || counts["energy_meter"] < 10 {
		t.Errorf("the test shows too little: %v", counts)
	}

	// All JSON that went over the broker is as its schema says.
	kinds := map[string]int{}
	for _, m := range seen.all() {
		if len(m) < 2 || !strings.HasPrefix(m[1:], " "+wire.Prefix) {
			continue // a later line of telemetry
		}
		topic, payload, _ := strings.Cut(m[2:], " ")
		parsed, err := wire.ParseTopic(topic)
		name := map[wire.TopicKind]string{wire.Alert: "alert", wire.AlertsOpen: "alerts_open", wire.StatusTopic: "status", wire.Dead: "dead"}[parsed.Kind]
		if err != nil || name == "" || payload == "" || parsed.Node == node && name == "alert" || parsed.Node == "other.gw1" {
			continue
		}
		kinds[name]++
		schemas[name].accepts([]byte(payload))
	}
	if len(kinds) != 4 {
		t.Errorf("messages with schemas: %v", kinds)
	}
}
