package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"linli/internal/testservers"
)

// served is one read that the pymodbus server answered, as it wrote down itself.
type served struct {
	T      int64 `json:"t"` // ns since 1970
	Unit   int   `json:"unit"`
	FC     int   `json:"fx"`
	Addr   int   `json:"addr"`
	Values []int `json:"values"`
}

// thirdParty is the pymodbus server with its log.
type thirdParty struct {
	*process
	port int
	log  string
}

func startPymodbus(t *testing.T) *thirdParty {
	t.Helper()
	s := &thirdParty{port: freePort(t), log: filepath.Join(t.TempDir(), "served.jsonl")}
	s.process = startCommand(t, exec.Command("/usr/bin/python3", "testdata/pymodbus_server.py", fmt.Sprint(s.port), s.log))
	waitFor(t, 20*time.Second, "the pymodbus server", func() bool {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return s
}

// reads returns what was served, in order.
func (s *thirdParty) reads(t *testing.T) []served {
	t.Helper()
	f, err := os.Open(s.log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []served
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r served
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatalf("the server's log: %v in %q", err, lines.Text())
		}
		all = append(all, r)
	}
	return all
}

// city is a real broker, a real database and the product's ingest between them.
type city struct {
	broker *testservers.Mosquitto
	db     *testservers.InfluxDB
	token  string
	ingest *process
}

func startCity(t *testing.T) *city {
	t.Helper()
	c := &city{broker: testservers.StartMosquitto(t), db: testservers.StartInfluxDB(t)}
	c.token = writeFile(t, "token", "unused\n")
	c.startIngest(t)
	return c
}

func (c *city) startIngest(t *testing.T) {
	t.Helper()
	c.ingest = start(t, "ingest", "--broker", "tcp://"+c.broker.Address, "--influx-url", c.db.URL,
		"--bucket", c.db.Bucket, "--token-file", c.token, "--client-id", "ingest-test")
}

// row is one value of one field in the database.
type row struct {
	t int64 // ns since 1970
	v float64
}

// query returns the rows of the only series of the answer, none while the database cannot answer.
func (c *city) query(q string) [][]any {
	series, err := c.db.Query(q)
	if err != nil || len(series) == 0 {
		return nil
	}
	return series[0].Values
}

// rows returns every value of a field of a device, oldest first. Bools are 0 and 1.
func (c *city) rows(t *testing.T, measurement, device, field string) []row {
	t.Helper()
	var out []row
	for _, r := range c.query(fmt.Sprintf(`SELECT %q FROM %q WHERE "device"='%s'`, field, measurement, device)) {
		at, err := r[0].(json.Number).Int64()
		if err != nil {
			t.Fatal(err)
		}
		switch v := r[1].(type) {
		case json.Number:
			f, err := v.Float64()
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, row{at, f})
		case bool:
			out = append(out, row{at, map[bool]float64{false: 0, true: 1}[v]})
		}
	}
	return out
}

// fieldTypes returns the types of a measurement's fields as the database has them.
func (c *city) fieldTypes(t *testing.T, measurement string) map[string]string {
	t.Helper()
	types := map[string]string{}
	for _, r := range c.query(fmt.Sprintf(`SHOW FIELD KEYS FROM %q`, measurement)) {
		types[r[0].(string)] = r[1].(string)
	}
	return types
}

const thirdPartySite = yardHead + `  - {id: station_1, kind: bin_station, title: {zh: 1号投放点, en: Bin station 1}}
buses:
  - id: tcp_1
    modbus_tcp: {address: "127.0.0.1:%d"}
    units:
      - {id: pz, address: 1, profile: fast_counter}
      - {id: em, address: 2, profile: eastron_sdm120}
      - {id: th, address: 3, profile: xy_md02}
      - {id: us, address: 4, profile: dfrobot_urm15}
      - {id: io, address: 5, profile: waveshare_io_8ch}
devices:
  - {id: counter, unit: pz, zone: yard, title: {zh: 计数, en: Counter}}
  - {id: meter, unit: em, zone: yard, title: {zh: 电表, en: Meter}}
  - {id: climate, unit: th, zone: yard, title: {zh: 温湿度, en: Climate}}
  - id: bin
    class: smart_bin
    zone: station_1
    title: {zh: 厨余垃圾, en: Kitchen waste}
    points: {fill_pct: {from: us.distance, map: [[1200, 0], [300, 100]]}}
  - id: door
    class: door
    zone: yard
    title: {zh: 单元门, en: Door}
    points: {open: {from: io.di1, invert: true}}
  - id: call
    class: call_button
    zone: yard
    title: {zh: 求助按钮, en: Call button}
    points: {pressed: io.di2}
rules:
  - {pack: gateway}
uplink: {brokers: ["tcp://%s"], batch: 1s}
console: {listen: "127.0.0.1:%d"}
`

// fastCounter is a site-local profile: the PZEM-016 read ten times a second, so that there is much to lose.
const fastCounter = "version: 1\nprofile: fast_counter" + profileHead + `  - {name: voltage, table: input, address: 0, type: u16, scale: 0.1, unit: V, every: 100ms}
  - {name: power, table: input, address: 3, type: u32, words: little, scale: 0.1, unit: W, every: 100ms}
  - {name: energy, table: input, address: 5, type: u32, words: little, unit: Wh, every: 100ms}
device:
  class: energy_meter
  points: {voltage_v: voltage, active_power_w: power, energy_kwh: energy}
`

// counterBase is what the server's energy counter starts from, in Wh.
const counterBase = 70000

// siteFile writes the site file and the local profile, and returns the site file's path.
func (c *city) siteFile(t *testing.T, modbusPort, consolePort int) string {
	t.Helper()
	return writeSite(t, fmt.Sprintf(thirdPartySite, modbusPort, c.broker.Address, consolePort), map[string]string{"profiles/fast_counter.yaml": fastCounter})
}

// counters returns the readings of the energy counter that were served, in order, with their times.
func counters(reads []served) (ns []int, times []int64) {
	for _, r := range reads {
		if r.Unit != 1 || r.Addr > 5 || r.Addr+len(r.Values) < 7 {
			continue
		}
		low, high := r.Values[5-r.Addr], r.Values[6-r.Addr]
		ns = append(ns, low|high<<16)
		times = append(times, r.T)
	}
	return ns, times
}

// news returns the rows whose value is not that of the one before.
func news(rows []row) (list []row) {
	for i := range rows {
		if i == 0 || rows[i].v != rows[i-1].v {
			list = append(list, rows[i])
		}
	}
	return list
}

// unlike says where rows in the database are no faithful account of the values served: each must be one that was served, at
// its time; and each that was news must be there.
func unlike(got, served []row) string {
	next := 0 // the first served that has no row yet
	for _, g := range got {
		i := next
		for i+1 < len(served) && served[i+1].t <= g.t {
			i++
		}
		if i >= len(served) || served[i].v != g.v || g.t < served[i].t || time.Duration(g.t-served[i].t) > time.Second {
			return fmt.Sprintf("the row %v was never served", g)
		}
		for ; next < i; next++ {
			if next == 0 || served[next].v != served[next-1].v {
				return fmt.Sprintf("%v was served and was news, and is not there", served[next])
			}
		}
		next = i + 1
	}
	for ; next < len(served); next++ {
		if next == 0 || served[next].v != served[next-1].v {
			return fmt.Sprintf("%v was served and was news, and is not there", served[next])
		}
	}
	if len(served) > 20 && len(got) > len(served)/2 {
		return fmt.Sprintf("%d of %d readings are there: those that are no news are reported as well", len(got), len(served))
	}
	return ""
}

// TestEveryValueServedIsInTheDatabase: a Modbus server that none of us wrote, the gateway, Mosquitto, ingest, InfluxDB.
// The rows are exactly the values served, with kind, unit and quality as the profile says, at nanosecond times; of a door, that
// neither protects life nor is a number, those that were news and some of the others.
func TestEveryValueServedIsInTheDatabase(t *testing.T) {
	t.Parallel()
	c := startCity(t)
	modbus := startPymodbus(t)
	console := freePort(t)
	site := c.siteFile(t, modbus.port, console)
	gateway := start(t, "run", "-c", site, "--state", t.TempDir())
	waitFor(t, 40*time.Second, "40 rows of the slowest device", func() bool {
		return len(c.rows(t, "smart_bin", "bin", "fill_pct_q")) >= 2 && len(c.rows(t, "temp_humidity", "climate", "temperature_c")) >= 4
	})
	modbus.kill()
	reads := modbus.reads(t)

	// What each device's points should be, from what the server says it served.
	type series struct{ measurement, device, field string }
	want := map[series][]row{}
	add := func(s series, at int64, v float64) { want[s] = append(want[s], row{at, v}) }
	word := func(r served, address int) (int, bool) {
		i := address - r.Addr
		if i < 0 || i >= len(r.Values) {
			return 0, false
		}
		return r.Values[i], true
	}
	float := func(r served, address int) (float64, bool) {
		high, ok1 := word(r, address)
		low, ok2 := word(r, address+1)
		return float64(math.Float32frombits(uint32(high)<<16 | uint32(low))), ok1 && ok2
	}
	badDistance := 0
	for _, r := range reads {
		switch {
		case r.Unit == 1:
			if low, ok := word(r, 5); ok {
				high, _ := word(r, 6)
				add(series{"energy_meter", "counter", "energy_kwh"}, r.T, float64(low|high<<16)/1000)
			}
		case r.Unit == 2:
			if v, ok := float(r, 0x00); ok {
				add(series{"energy_meter", "meter", "voltage_v"}, r.T, v)
			}
			if v, ok := float(r, 0x48); ok {
				add(series{"energy_meter", "meter", "energy_kwh"}, r.T, v)
			}
		case r.Unit == 3:
			if v, ok := word(r, 1); ok {
				add(series{"temp_humidity", "climate", "temperature_c"}, r.T, float64(int16(v))/10)
			}
			if v, ok := word(r, 2); ok {
				add(series{"temp_humidity", "climate", "humidity_pct"}, r.T, float64(v)/10)
			}
		case r.Unit == 4:
			if v, ok := word(r, 4); ok {
				if v == 0xFFFF {
					badDistance++
					continue
				}
				add(series{"smart_bin", "bin", "fill_pct"}, r.T, math.Min(math.Max((1200-float64(v))/9, 0), 100))
			}
		case r.Unit == 5 && r.FC == 2:
			if v, ok := word(r, 0); ok {
				add(series{"door", "door", "open"}, r.T, float64(1-v))
			}
			if v, ok := word(r, 1); ok {
				add(series{"call_button", "call", "pressed"}, r.T, float64(v))
			}
		}
	}
	if len(want) != 8 || badDistance == 0 {
		t.Fatalf("the server served %d of 8 series and %d failed distances: the test shows too little", len(want), badDistance)
	}
	last := func(rows []row) row { return rows[len(rows)-1] }
	door := series{"door", "door", "open"}
	served := want[door]
	want[door] = news(served)
	if len(want[door]) < 2 {
		t.Fatal("the door never moved: the test shows too little")
	}
	waitFor(t, 30*time.Second, "the last value of every series in the database", func() bool {
		for s, rows := range want {
			if got := c.rows(t, s.measurement, s.device, s.field); len(got) < len(rows) {
				return false
			}
		}
		return true
	})

	subMicro := false
	if missing := unlike(c.rows(t, door.measurement, door.device, door.field), served); missing != "" {
		t.Errorf("the door: %s", missing)
	}
	delete(want, door)
	for s, rows := range want {
		got := c.rows(t, s.measurement, s.device, s.field)
		if len(got) != len(rows) {
			t.Errorf("%v: %d rows in the database, %d served; last served %v", s, len(got), len(rows), last(rows))
			continue
		}
		for i := range rows {
			if math.Abs(got[i].v-rows[i].v) > 1e-6*math.Max(1, math.Abs(rows[i].v)) {
				t.Errorf("%v row %d is %v, served %v", s, i, got[i].v, rows[i].v)
				break
			}
			if late := time.Duration(got[i].t - rows[i].t); late < 0 || late > time.Second {
				t.Errorf("%v row %d has a time %v after it was served", s, i, late)
				break
			}
			subMicro = subMicro || got[i].t%1000 != 0
		}
	}
	if !subMicro {
		t.Error("every time is a whole number of microseconds: they are not nanosecond times")
	}
	for measurement, fields := range map[string]map[string]string{
		"energy_meter":  {"energy_kwh": "float", "energy_kwh_q": "integer"},
		"temp_humidity": {"temperature_c": "float", "humidity_pct": "float"},
		"smart_bin":     {"fill_pct": "float", "fill_pct_q": "integer"},
		"door":          {"open": "boolean"},
		"call_button":   {"pressed": "boolean"},
	} {
		types := c.fieldTypes(t, measurement)
		for field, kind := range fields {
			if types[field] != kind {
				t.Errorf("field %s of %s has type %q, want %s", field, measurement, types[field], kind)
			}
		}
	}
	// A probe that answered "no reading" is quality 5 (bad, sensor) and no value.
	bad := 0
	for _, q := range c.rows(t, "smart_bin", "bin", "fill_pct_q") {
		if q.v == 5 {
			bad++
		}
	}
	if bad != badDistance {
		t.Errorf("%d rows say bad sensor, %d were served", bad, badDistance)
	}
	gateway.stop(15 * time.Second)
	c.ingest.stop(15 * time.Second)
}

// TestNothingIsLost kills and stops everything in turn while a third party counts what it served. What was served more
// than 2 s before a kill of the gateway is in the database, once; and the database has nothing that was not served.
func TestNothingIsLost(t *testing.T) {
	t.Parallel()
	c := startCity(t)
	modbus := startPymodbus(t)
	console := freePort(t)
	site := c.siteFile(t, modbus.port, console)
	state := t.TempDir()
	gateway := start(t, "run", "-c", site, "--state", state)
	count := func() int { return len(c.rows(t, "energy_meter", "counter", "energy_kwh")) }
	waitFor(t, 40*time.Second, "the first rows", func() bool { return count() > 10 })

	var kills []int64
	killGateway := func() {
		kills = append(kills, time.Now().UnixNano())
		gateway.kill()
		gateway = start(t, "run", "-c", site, "--state", state)
	}
	// The gateway, at several phases of its commit and of its connection.
	for _, after := range []time.Duration{2500 * time.Millisecond, 2800 * time.Millisecond, 3100 * time.Millisecond, 3400 * time.Millisecond, 150 * time.Millisecond, 700 * time.Millisecond} {
		pause(after)
		killGateway()
	}
	waitFor(t, 20*time.Second, "rows after the kills", func() bool { n := count(); pause(500 * time.Millisecond); return count() > n })

	// The broker killed, with all that it had accepted for ingest and not yet passed on, and the gateway killed with a
	// backlog. Ingest comes back last: what the gateway sends before it is there, nobody takes.
	c.ingest.kill()
	pause(2 * time.Second)
	c.broker.Kill()
	pause(4 * time.Second)
	killGateway()
	pause(3 * time.Second)
	c.broker.Start()
	brokerBack := time.Now()
	pause(6 * time.Second)
	c.startIngest(t)
	waitFor(t, 90*time.Second, "rows after the broker came back", func() bool { n := count(); pause(500 * time.Millisecond); return count() > n })

	// The database away, and ingest killed meanwhile and afterwards.
	c.db.Stop()
	pause(3 * time.Second)
	c.ingest.kill()
	c.startIngest(t)
	pause(2 * time.Second)
	c.db.Start()
	waitFor(t, 60*time.Second, "rows after the database came back", func() bool { n := count(); pause(500 * time.Millisecond); return count() > n })
	for range 3 {
		pause(900 * time.Millisecond)
		c.ingest.kill()
		c.startIngest(t)
	}
	killGateway()
	pause(3 * time.Second)

	// The end: nothing more is served; everything that is on its way arrives. What the broker forgot is sent once more a
	// minute after it came back, when its other clients have come back as well (docs/wire.md).
	modbus.kill()
	pause(time.Until(brokerBack.Add(65 * time.Second)))
	ns, times := counters(modbus.reads(t))
	waitFor(t, 90*time.Second, "the last value served", func() bool {
		rows := c.rows(t, "energy_meter", "counter", "energy_kwh")
		return len(rows) > 0 && int(math.Round(rows[len(rows)-1].v*1000)) == ns[len(ns)-1]
	})
	got := map[int]int{}
	settled := func() int {
		got = map[int]int{}
		for _, r := range c.rows(t, "energy_meter", "counter", "energy_kwh") {
			got[int(math.Round(r.v*1000))]++
		}
		return len(got)
	}
	for n := -1; n != settled(); { // Late frames may still come after the last live one.
		n = len(got)
		pause(3 * time.Second)
	}

	excused := func(at int64) bool {
		for _, k := range kills {
			if at > k-int64(2*time.Second) && at <= k+int64(200*time.Millisecond) {
				return true
			}
		}
		return false
	}
	known := map[int]bool{}
	var missing []string
	lost := 0
	for i, n := range ns {
		known[n] = true
		switch {
		case got[n] == 1:
		case got[n] > 1:
			t.Errorf("counter %d is in the database %d times", n-counterBase, got[n])
		case excused(times[i]):
			lost++
		default:
			missing = append(missing, fmt.Sprintf("%d (at %s)", n-counterBase, time.Unix(0, times[i]).Format("15:04:05.000")))
		}
	}
	for n := range got {
		if !known[n] {
			t.Errorf("counter %d is in the database and was never served", n-counterBase)
		}
	}
	if len(missing) > 0 {
		var when []string
		for _, k := range kills {
			when = append(when, time.Unix(0, k).Format("15:04:05.000"))
		}
		sort.Strings(missing)
		t.Errorf("%d of %d values served are missing: %s\nkills at %s", len(missing), len(ns), strings.Join(missing, ", "), strings.Join(when, ", "))
	}
	if len(ns) < 200 {
		t.Errorf("only %d values were served: the test shows too little", len(ns))
	}
	t.Logf("%d values served; %d kills of the gateway cost %d values, each served less than 2 s before a kill", len(ns), len(kills), lost)
	gateway.stop(15 * time.Second)
	c.ingest.stop(15 * time.Second)
}
