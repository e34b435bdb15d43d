package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"linli/internal/mqtt"
	"linli/internal/telemetry"
	"linli/internal/testservers"
	"linli/internal/wire"
)

// The comparisons with Telegraf: both programs do the same work in the same run, in turn, three rounds, each as a process
// of its own that is pinned to one processor with GOMAXPROCS=1. What is compared is the processor time of the whole
// process. `make compare` runs them; docs/benchmarks.md holds what came out.
const compareRounds = 3

// quietBroker does not save its store at every message, as the tests' broker does.
var quietBroker = []string{"autosave_on_changes false", "autosave_interval 1800", "log_type subscribe"}

// pinned returns the command, held to one processor.
func pinned(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("taskset", append([]string{"-c", strconv.Itoa(runtime.NumCPU() - 1), name}, args...)...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	return cmd
}

// processorTime is what a process has used so far, user and system.
func processorTime(tb testing.TB, pid int) time.Duration {
	tb.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		tb.Fatal(err)
	}
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+2:]))
	ticks := 0
	for _, s := range f[11:13] {
		n, err := strconv.Atoi(s)
		if err != nil {
			tb.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on
}

// memory returns VmRSS or VmHWM of a process in MiB.
func memory(tb testing.TB, pid int, key string) float64 {
	tb.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		tb.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), key+":")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		tb.Fatal(err)
	}
	return float64(kb) / 1024
}

// median of three or more.
func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// contest is two programs' costs, round by round, and of Modbus what the requests alone cost.
type contest struct{ ours, theirs, atOnce, floor, floorAtOnce []float64 }

func (c *contest) report(b *testing.B, unit string) {
	ratios := make([]float64, len(c.ours))
	for i := range c.ours {
		ratios[i] = c.ours[i] / c.theirs[i]
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(c.ours), "linli-"+unit)
	b.ReportMetric(median(c.theirs), "telegraf-"+unit)
	b.ReportMetric(median(ratios), "ratio")
	b.Logf("linli %.3f, Telegraf %.3f, ratios %.3f %s", c.ours, c.theirs, ratios, unit)
	if len(c.atOnce) > 0 {
		b.ReportMetric(median(c.atOnce), "linli-at-once-"+unit)
		b.Logf("linli with requests_at_once %.3f", c.atOnce)
		b.ReportMetric(median(c.floor), "floor-"+unit)
		b.ReportMetric(median(c.floorAtOnce), "floor-at-once-"+unit)
		b.Logf("the requests alone %.3f, with requests_at_once %.3f", c.floor, c.floorAtOnce)
	}
}

// lineSink takes every write and counts the data lines. Questions of the repair, which name measurements of ours as well,
// are no writes: counted with them the last lines would never seem to arrive.
type lineSink struct {
	*httptest.Server
	lines atomic.Int64
}

func newLineSink(tb testing.TB) *lineSink {
	s := &lineSink{}
	buf := sync.Pool{New: func() any { return new(bytes.Buffer) }}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := buf.Get().(*bytes.Buffer)
		defer buf.Put(b)
		b.Reset()
		_, _ = b.ReadFrom(r.Body)
		w.WriteHeader(http.StatusNoContent)
		if r.URL.Path != "/api/v2/write" {
			return
		}
		n := int64(bytes.Count(b.Bytes(), []byte("\n")) - bytes.Count(b.Bytes(), []byte("\nlinli_")))
		if bytes.HasPrefix(b.Bytes(), []byte("linli_")) {
			n--
		}
		s.lines.Add(max(n, 0)) // a probe has no line break
	}))
	tb.Cleanup(s.Close)
	return s
}

// What the sink counts is what arrived, whatever else is said to the database meanwhile.
func TestLineSinkCountsWhatArrived(t *testing.T) {
	s := newLineSink(t)
	post := func(path, body string) {
		t.Helper()
		resp, err := http.Post(s.URL+path, "text/plain", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	post("/api/v2/write?bucket=x", "counter,device=c1 n=1i 1\nlinli_ledger,site=a to=1i 2\ncounter,device=linli_c n=1i 1\n")
	post("/api/v2/query?org=", `{"query":"from(bucket: \"x\") |> filter(fn: (r) => r._measurement == \"linli_check\")"}`)
	post("/query", "q=SELECT+*+FROM+linli_hour")
	post("/api/v2/write?bucket=x", "linli_ingest,client=linli-ingest probe=1i")
	post("/api/v2/write?bucket=x", "linli_check,client=a nodes=1i 1\nlinli_hour,site=a x=1i 1\n")
	if n := s.lines.Load(); n != 2 {
		t.Errorf("%d lines arrived, want 2", n)
	}
}

const compareDevices = 12_000

// loadOf makes messages of so many lines with one value each; the devices take turns. The same bytes go to both programs.
func loadOf(points, lines int) [][]byte {
	base := time.Now().Add(-time.Hour).UnixNano()
	e := wire.NewEncoder("riverside", "gw1")
	var out [][]byte
	for m := range points / lines {
		for l := range lines {
			d := (m*lines + l) % compareDevices
			s := telemetry.Series{Class: "environment_sensor", Device: fmt.Sprintf("env_%05d", d), Zone: fmt.Sprintf("b%d", d%20), Point: "temperature_c", Kind: telemetry.Float}
			e.Add(&s, base+int64(m)*1e6, telemetry.Good, telemetry.FloatValue(float64(200+(m+d)%50)/10))
		}
		body, n := e.Flush(nil)
		h := wire.Header{Epoch: 1, From: uint64(m + 1), To: uint64(m + 1), Count: n, T0: base, T1: base + int64(m)*1e6}
		out = append(out, append(wire.AppendHeader(nil, &h), body...))
	}
	return out
}

func publishAll(b *testing.B, broker string, messages [][]byte) {
	b.Helper()
	s, err := mqtt.Connect(b.Context(), mqtt.Config{ClientID: "load"}, broker, mqtt.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close(time.Second)
	var flying []paho.Token
	for _, m := range messages {
		if len(flying) == 100 {
			flying[0].Wait()
			flying = flying[1:]
		}
		flying = append(flying, s.Publish("linli/v1/riverside.gw1/telemetry", false, m))
	}
	for _, t := range flying {
		if t.Wait(); t.Error() != nil {
			b.Fatal(t.Error())
		}
	}
}

// peerIngest is the plainest Telegraf that does ingest's work: no script, no checks.
const peerIngest = `
[agent]
  interval = "1s"
  flush_interval = "1s"
  metric_batch_size = 5000
  metric_buffer_limit = 200000
  omit_hostname = true
  skip_processors_after_aggregators = true
[[inputs.mqtt_consumer]]
  servers = ["tcp://%s"]
  topics = ["linli/v1/+/telemetry"]
  qos = 1
  persistent_session = true
  client_id = "peer"
  max_undelivered_messages = 1000
  topic_tag = ""
  data_format = "influx"
[[outputs.influxdb_v2]]
  urls = ["%s"]
  token = "unused"
  organization = ""
  bucket = "%s"
  content_encoding = "identity"
`

// BenchmarkCompareIngest carries the same messages from a real Mosquitto into a database that costs nothing, and into
// InfluxDB: processor seconds for a million points.
func BenchmarkCompareIngest(b *testing.B) {
	linli, telegraf := benchBinary(b), testservers.FindTool(b, "telegraf")
	for _, to := range []struct {
		name          string
		points, lines int // lines of a message
	}{{"null/lines=100", 600_000, 100}, {"null/lines=400", 600_000, 400}, {"influxdb/lines=400", 300_000, 400}} {
		b.Run(to.name, func(b *testing.B) {
			messages := loadOf(to.points, to.lines)
			var c contest
			for b.Loop() {
				for range compareRounds {
					for _, who := range []string{"linli", "telegraf"} {
						broker := testservers.StartMosquitto(b, quietBroker...)
						var url, bucket string
						var arrived func() bool
						if strings.HasPrefix(to.name, "null") {
							sink := newLineSink(b)
							url, bucket = sink.URL, "x"
							arrived = func() bool { return sink.lines.Load() >= int64(to.points) }
						} else {
							db := testservers.StartInfluxDB(b)
							url, bucket = db.URL, db.Bucket
							arrived = func() bool {
								n, err := db.Count("environment_sensor", "temperature_c")
								return err == nil && n >= int64(to.points)
							}
							defer db.Stop()
						}
						var cmd *exec.Cmd
						if who == "linli" {
							cmd = pinned(linli, "ingest", "--broker", broker.URL, "--influx-url", url, "--bucket", bucket)
						} else {
							file := filepath.Join(b.TempDir(), "telegraf.conf")
							if err := os.WriteFile(file, fmt.Appendf(nil, peerIngest, broker.Address, url, bucket), 0o600); err != nil {
								b.Fatal(err)
							}
							cmd = pinned(telegraf, "--quiet", "--config", file)
						}
						var log lockedBuffer
						cmd.Stdout, cmd.Stderr = &log, &log
						if err := cmd.Start(); err != nil {
							b.Fatal(err)
						}
						testservers.Eventually(b, 20*time.Second, who+" subscribed", func() bool { return strings.Contains(broker.Log(), "linli/v1/+/telemetry") })
						pause(time.Second)
						before := processorTime(b, cmd.Process.Pid)
						began := time.Now()
						publishAll(b, broker.URL, messages)
						if !within(4*time.Minute, 50*time.Millisecond, arrived) {
							b.Fatalf("%s does not come to an end: %s", who, tail(log.String(), 2000))
						}
						cost := (processorTime(b, cmd.Process.Pid) - before).Seconds() * 1e6 / float64(to.points)
						b.Logf("%s: %.3f CPU s/Mpoint, %.0f points/s, peak %.0f MiB", who, cost, float64(to.points)/time.Since(began).Seconds(), memory(b, cmd.Process.Pid, "VmHWM"))
						_ = cmd.Process.Signal(syscall.SIGTERM)
						_ = cmd.Wait()
						broker.Stop()
						if who == "linli" {
							c.ours = append(c.ours, cost)
						} else {
							c.theirs = append(c.theirs, cost)
						}
					}
				}
			}
			c.report(b, "cpu-s/Mpoint")
		})
	}
}

// benchBinary returns the product as it ships: LINLI_BIN, or built here.
func benchBinary(b *testing.B) string {
	b.Helper()
	if bin := os.Getenv("LINLI_BIN"); bin != "" {
		return bin
	}
	bin := filepath.Join(b.TempDir(), "linli")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	return bin
}

// registers is a Modbus TCP server for many units whose registers are new at every read, and counts what it serves.
type registers struct {
	l      net.Listener
	served atomic.Int64
}

func startRegisters(tb testing.TB) *registers {
	tb.Helper()
	s := &registers{l: testservers.Listen(tb)}
	testservers.Serve(tb, s.l, s.serve)
	return s
}

func (s *registers) serve(c net.Conn) {
	request, out := make([]byte, 12), make([]byte, 0, 300)
	for n := uint16(0); ; n++ {
		if _, err := io.ReadFull(c, request); err != nil {
			return
		}
		address, quantity := uint16(request[8])<<8|uint16(request[9]), uint16(request[10])<<8|uint16(request[11])
		out = append(out[:0], request[0], request[1], 0, 0, byte((3+2*quantity)>>8), byte(3+2*quantity), request[6], request[7], byte(2*quantity))
		for i := range quantity {
			v := (address + i + n/16) % 1000
			out = append(out, byte(v>>8), byte(v))
		}
		if _, err := c.Write(out); err != nil {
			return
		}
		s.served.Add(int64(quantity))
	}
}

// manyUnits writes a site whose units have so many registers each, read at that interval, with rules on some of them: a
// threshold, a mean over a minute, and a derived point for each device, beside the gateway's own.
// A server takes atOnce requests at once.
func manyUnits(b *testing.B, servers []string, units, points int, every time.Duration, broker string, console, atOnce int) string {
	b.Helper()
	dir := b.TempDir()
	var class, profile, names, site strings.Builder
	for p := range points {
		fmt.Fprintf(&class, "  p%02d: {kind: float, title: {zh: 点%d, en: Point %d}}\n", p, p, p)
		fmt.Fprintf(&profile, "  - {name: r%02d, table: holding, address: %d, type: u16, scale: 0.1, every: %s}\n", p, p, every)
		fmt.Fprintf(&names, "%s p%02d: r%02d", map[bool]string{true: "", false: ","}[p == 0], p, p)
	}
	fmt.Fprintf(&site, "version: 1\nsite: many\ngateway: gw1\ntitle: {zh: 测试, en: Test}\ntimezone: Asia/Shanghai\nzones:\n  - {id: yard, kind: area, title: {zh: 院, en: Yard}}\nbuses:\n")
	each := (units + len(servers) - 1) / len(servers)
	for s, address := range servers {
		fmt.Fprintf(&site, "  - id: tcp_%d\n    modbus_tcp: {address: %q, requests_at_once: %d}\n    units:\n", s, address, atOnce)
		for u := s * each; u < min(units, (s+1)*each); u++ {
			fmt.Fprintf(&site, "      - {id: u%d, address: %d, profile: wide}\n", u, 1+u%each)
		}
	}
	site.WriteString("devices:\n")
	for u := range units {
		fmt.Fprintf(&site, "  - {id: d%d, unit: u%d, zone: yard, title: {zh: 设备%d, en: Device %d}}\n", u, u, u, u)
	}
	fmt.Fprintf(&site, "rules:\n  - {pack: gateway}\n  - {pack: wide}\nuplink: {brokers: [%q]}\nconsole: {listen: \"127.0.0.1:%d\"}\n", broker, console)
	rules := `version: 1
pack: wide
title: {zh: 测试, en: Test}
rules:
  - alert: TooHigh
    for_each: wide_meter
    expr: p00 > 200
    for: 10s
    severity: notice
    title: {zh: 过高, en: Too high}
  - alert: MeanTooHigh
    for_each: wide_meter
    expr: avg_over_time(p01, 1m) > 200
    severity: notice
    title: {zh: 均值过高, en: Mean too high}
  - record: spread
    for_each: wide_meter
    expr: p02 - p03
`
	for name, text := range map[string]string{
		"classes/wide_meter.yaml": "version: 1\nclass: wide_meter\ntitle: {zh: 宽表, en: Wide meter}\npoints:\n" + class.String(),
		"profiles/wide.yaml": "version: 1\nprofile: wide\nvendor: test\nmodel: wide\ntitle: {zh: 宽表, en: Wide}\nstatus: confirmed\nsources: [test]\nchannels:\n" + profile.String() +
			"device:\n  class: wide_meter\n  points: {" + names.String() + "}\n",
		"packs/wide.yaml": rules,
		"site.yaml":       site.String(),
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	return filepath.Join(dir, "site.yaml")
}

// peerModbus is the plainest Telegraf that reads the same registers and publishes the same lines: one request a unit, one
// message a flush.
func peerModbus(b *testing.B, server string, units, points int, every time.Duration, broker string) string {
	b.Helper()
	var t strings.Builder
	fmt.Fprintf(&t, `
[agent]
  interval = "%s"
  flush_interval = "1s"
  metric_batch_size = 1000
  metric_buffer_limit = 100000
  omit_hostname = true
  skip_processors_after_aggregators = true
[[outputs.mqtt]]
  servers = ["tcp://%s"]
  topic = "peer/telemetry"
  qos = 1
  layout = "batch"
  data_format = "influx"
[[inputs.modbus]]
  name = "b"
  controller = "tcp://%s"
  timeout = "1s"
  configuration_type = "request"
`, every, broker, server)
	for u := range units {
		fmt.Fprintf(&t, "  [[inputs.modbus.request]]\n    slave_id = %d\n    byte_order = \"ABCD\"\n    register = \"holding\"\n    measurement = \"wide_meter\"\n    fields = [\n", u+1)
		for p := range points {
			fmt.Fprintf(&t, "      {address = %d, name = \"p%02d\", type = \"UINT16\", scale = 0.1, output = \"FLOAT64\"},\n", p, p)
		}
		fmt.Fprintf(&t, "    ]\n    tags = {device = \"d%d\", gateway = \"gw1\", site = \"many\", zone = \"yard\"}\n", u)
	}
	file := filepath.Join(b.TempDir(), "telegraf.conf")
	if err := os.WriteFile(file, []byte(t.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	return file
}

// bareLoopArg makes this binary the floor of BenchmarkCompareModbus: address, number of units and of registers, interval, and how many
// requests go at once.
const bareLoopArg = "bare-loop"

// bareLoopMain makes the requests that a gateway makes, in its ten bursts an interval, reads the answers and does nothing
// with them: what a program in Go cannot do without.
func bareLoopMain(args []string) int {
	units, _ := strconv.Atoi(args[1])
	registers, _ := strconv.Atoi(args[2])
	every, _ := time.ParseDuration(args[3])
	atOnce, _ := strconv.Atoi(args[4])
	c, err := net.Dial("tcp", args[0])
	if err != nil {
		return 1
	}
	out, answers := make([]byte, 0, 12*atOnce), make([]byte, (9+2*registers)*atOnce)
	next, unit := time.Now(), 0
	for sent := 0; ; sent++ {
		if sent%(units/10) == 0 {
			next = next.Add(every / 10)
			pause(time.Until(next))
		}
		n := min(atOnce, units/10-sent%(units/10))
		sent += n - 1
		out = out[:0]
		for range n {
			unit = unit%units + 1
			out = append(out, 0, byte(unit), 0, 0, 0, 6, byte(unit), 3, 0, 0, 0, byte(registers))
		}
		err = c.SetDeadline(time.Now().Add(time.Second))
		if err == nil {
			_, err = c.Write(out)
		}
		if err == nil {
			_, err = io.ReadFull(c, answers[:n*(9+2*registers)])
		}
		if err != nil {
			return 1
		}
	}
}

// BenchmarkCompareModbus has both programs read 200 units of 60 registers once a second, and ten times, and publish every value by MQTT
// with QoS 1, ours with journal, rules and console, and once more with requests_at_once, and a bare loop make the requests alone:
// processor seconds for a million values.
func BenchmarkCompareModbus(b *testing.B) {
	const units, points = 200, 60
	linli, telegraf := benchBinary(b), testservers.FindTool(b, "telegraf")
	for _, at := range []struct{ every, window time.Duration }{{time.Second, 25 * time.Second}, {100 * time.Millisecond, 10 * time.Second}} {
		b.Run(fmt.Sprintf("every=%v", at.every), func(b *testing.B) {
			compareModbus(b, linli, telegraf, units, points, at.every, at.window)
		})
	}
}

func compareModbus(b *testing.B, linli, telegraf string, units, points int, every, window time.Duration) {
	var c contest
	for b.Loop() {
		for range compareRounds {
			for _, who := range []string{"linli", "linli at once", "telegraf", "floor", "floor at once"} {
				broker, server := testservers.StartMosquitto(b, quietBroker...), startRegisters(b)
				var cmd *exec.Cmd
				atOnce := 1
				if strings.HasSuffix(who, "at once") {
					atOnce = 16
				}
				switch {
				case who == "floor" || who == "floor at once":
					cmd = pinned(os.Args[0], bareLoopArg, server.l.Addr().String(), strconv.Itoa(units), strconv.Itoa(points), every.String(), strconv.Itoa(atOnce))
				case who != "telegraf":
					port := testservers.Listen(b)
					port.Close()
					site := manyUnits(b, []string{server.l.Addr().String()}, units, points, every, broker.URL, port.Addr().(*net.TCPAddr).Port, atOnce)
					cmd = pinned(linli, "run", "-c", site, "--state", b.TempDir())
				default:
					cmd = pinned(telegraf, "--quiet", "--config", peerModbus(b, server.l.Addr().String(), units, points, every, broker.Address))
				}
				var log lockedBuffer
				cmd.Stdout, cmd.Stderr = &log, &log
				if err := cmd.Start(); err != nil {
					b.Fatal(err)
				}
				if !within(time.Minute, 100*time.Millisecond, func() bool { return server.served.Load() >= int64(5*units*points) }) {
					b.Fatalf("%s reads too little: %s", who, tail(log.String(), 2000))
				}
				before, from := processorTime(b, cmd.Process.Pid), server.served.Load()
				pause(window)
				values := server.served.Load() - from
				cost := (processorTime(b, cmd.Process.Pid) - before).Seconds() * 1e6 / float64(values)
				b.Logf("%s: %.3f CPU s/Mvalue, %.0f values/s, %.0f MiB (peak %.0f)", who, cost, float64(values)/window.Seconds(), memory(b, cmd.Process.Pid, "VmRSS"), memory(b, cmd.Process.Pid, "VmHWM"))
				if want := float64(units*points) * window.Seconds() / every.Seconds(); float64(values) < 0.8*want {
					b.Errorf("%s read %d values of %.0f", who, values, want)
				}
				_ = cmd.Process.Signal(syscall.SIGTERM)
				_ = cmd.Wait()
				broker.Stop()
				switch who {
				case "linli":
					c.ours = append(c.ours, cost)
				case "telegraf":
					c.theirs = append(c.theirs, cost)
				case "floor":
					c.floor = append(c.floor, cost)
				case "floor at once":
					c.floorAtOnce = append(c.floorAtOnce, cost)
				default:
					c.atOnce = append(c.atOnce, cost)
				}
			}
		}
	}
	c.report(b, "cpu-s/Mvalue")
}
