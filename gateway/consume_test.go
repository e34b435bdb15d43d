package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"linli/internal/telemetry"
	"linli/internal/testservers"
	"linli/internal/wire"
)

// The example in Python for those who write a consumer of their own: it reads through mosquitto_sub what the encoders
// make at the worst, says each value with its quality, each transition once, what was lost and what is missing.
func TestPythonExample(t *testing.T) {
	t.Parallel()
	broker := testservers.StartMosquitto(t)
	host, port, err := net.SplitHostPort(broker.Address)
	if err != nil {
		t.Fatal(err)
	}
	// Its own session is there before anything is sent.
	sub := exec.Command("mosquitto_sub", "-h", host, "-p", port, "-q", "1", "-c", "-i", "reader", "-F", "%t %x",
		"-t", "linli/v1/+/telemetry", "-t", "linli/v1/+/alert/+", "-t", "linli/v1/+/status")
	python := exec.Command("/usr/bin/python3", "../deploy/examples/consume.py")
	if python.Stdin, err = sub.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := sub.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = sub.Process.Kill()
		_ = sub.Wait()
	})
	reader := startCommand(t, python)
	publish := publisher(t, broker.URL)
	status := "linli/v1/riverside.gw1/status"
	waitFor(t, 10*time.Second, "the reader", func() bool {
		publish(status, false, encoded(t, &wire.Status{Node: "riverside.gw1", State: "online"}))
		return strings.Contains(reader.out.String(), `"online"`)
	})

	base := time.Now().UnixNano()
	e := wire.NewEncoder("riverside", "gw1")
	everyKind(e, base)
	derived := telemetry.Series{Class: telemetry.Derived, Device: "lane1", Zone: "north", Point: "busy_minutes", Kind: telemetry.Float}
	e.Add(&derived, base, telemetry.Good, telemetry.FloatValue(4.5))
	body, n := e.Flush(nil)
	frame := func(from, to uint64) {
		h := wire.Header{Epoch: 1, From: from, To: to, Count: n, T0: base, T1: base}
		m := append(wire.AppendHeader(nil, &h), body...)
		publish("linli/v1/riverside.gw1/telemetry", false, wire.AppendLost(m, &wire.Lost{Epoch: 1, From: 3, To: 4, Count: 7, Reason: "space", T0: base, T1: base}))
	}
	frame(1, 2)
	frame(5, 5)
	messages := alertMessages(t)
	topic := "linli/v1/riverside.gw1/alert/" + someULID
	publish(topic, true, messages[0])
	publish(topic, true, messages[0])
	publish(topic, true, nil)
	publish(status, true, encoded(t, &wire.Will{Node: "riverside.gw1", State: "offline", Reason: "lost"}))
	waitFor(t, 10*time.Second, "the last message", func() bool { return strings.Contains(reader.out.String(), `"offline"`) })

	var got []map[string]any
	for l := range strings.Lines(reader.out.String()) {
		d := json.NewDecoder(strings.NewReader(l))
		d.UseNumber()
		var row map[string]any
		if err := d.Decode(&row); err != nil {
			t.Fatalf("%v in %s", err, l)
		}
		got = append(got, row)
	}
	count := func(want string) int {
		n := 0
		for _, row := range got {
			if strings.Contains(fmt.Sprint(row), want) {
				n++
			}
		}
		return n
	}
	for want, times := range map[string]int{
		"point:f quality:good time:" + fmt.Sprint(base) + " value:-1.25e-07": 2, "point:i quality:good": 2, "value:9007199254740993": 2, "quality:over_range": 2, "quality:under_range": 2,
		"point:dead quality:bad_comm": 2, "point:closed quality:bad_maintenance": 2, "value:two\nlines": 2, "value:\n zone": 2, `value:quote " and \ and \" and \\ `: 2, `value:ends with \ `: 2,
		"value:🔥 emoji": 2, "value:粤B·12345 消防通道": 2, "value:m,gateway=gw9,site=other x=1 1": 2, "value:true": 4, "value:4.5": 2,
		"missing:[3 4]": 1, "lost:3-4": 2, "severity:critical": 1, "state:online": 1, "reason:lost": 1,
	} {
		if n := count(want); n != times {
			t.Errorf("%d rows with %q, want %d", n, want, times)
		}
	}
	if t.Failed() {
		slices.SortFunc(got, func(a, b map[string]any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		for _, row := range got {
			t.Log(row)
		}
	}
}

// Packed messages are unpacked; those that nothing can unpack are told of once and stop nothing.
func TestPythonExampleUnpacks(t *testing.T) {
	t.Parallel()
	base := time.Now().UnixNano()
	var in bytes.Buffer
	message := func(node string, c wire.Compression) {
		p, err := wire.NewCompressor(c)
		if err != nil {
			t.Fatal(err)
		}
		h := wire.Header{Epoch: 1, From: 1, To: 1, Count: 1, T0: base, T1: base}
		packed := p.Pack(fmt.Appendf(wire.AppendHeader(nil, &h), "room,device=d1,gateway=gw1,site=%s,zone=z temperature_c=21.5 %d\n%s", node, base, strings.Repeat("# room for packing\n", 100)))
		fmt.Fprintf(&in, "linli/v1/%s.gw1/telemetry %x\n", node, packed)
	}
	for _, c := range []string{"zstd", "gzip", "zstd", "none"} {
		compression, err := wire.ParseCompression(c)
		if err != nil {
			t.Fatal(err)
		}
		message("in"+c, compression)
	}
	can := exec.Command("/usr/bin/python3", "-c", "import compression.zstd").Run() == nil || exec.Command("/usr/bin/python3", "-c", "import zstandard").Run() == nil
	python := exec.Command("/usr/bin/python3", "../deploy/examples/consume.py")
	var out, errs bytes.Buffer
	python.Stdin, python.Stdout, python.Stderr = &in, &out, &errs
	if err := python.Run(); err != nil {
		t.Fatalf("%v: %s", err, &errs)
	}
	rows := func(node string) int { return strings.Count(out.String(), `"node": "`+node+`.gw1", "class": "room"`) }
	if rows("ingzip") != 1 || rows("innone") != 1 {
		t.Errorf("%s", &out)
	}
	if told := strings.Count(errs.String(), "needs Python 3.14"); can && (rows("inzstd") != 2 || told != 0) || !can && (rows("inzstd") != 0 || told != 1) {
		t.Errorf("zstd can be unpacked here: %v: %s%s", can, &out, &errs)
	}
}

// What comes through RabbitMQ has a slash in place of the node's dot.
func TestPythonExampleBehindRabbitMQ(t *testing.T) {
	t.Parallel()
	python := exec.Command("/usr/bin/python3", "../deploy/examples/consume.py")
	python.Stdin = strings.NewReader(fmt.Sprintf("linli/v1/riverside/gw1/status %x\n", encoded(t, &wire.Status{Node: "riverside.gw1", State: "online"})))
	if out, err := python.CombinedOutput(); err != nil || !strings.Contains(string(out), `"node": "riverside.gw1", "state": "online"`) {
		t.Errorf("%v: %s", err, out)
	}
}
