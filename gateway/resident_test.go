package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"linli/internal/journal"
	"linli/internal/simulate"
	"linli/internal/telemetry"
	"linli/internal/testservers"
	"linli/rules"
)

var (
	residentFor   = flag.Duration("resident.for", 5*time.Minute, "how long BenchmarkResidentMemory lets the gateway run")
	residentSmaps = flag.String("resident.smaps", "", "file into which BenchmarkResidentMemory copies the gateway's memory map at the end")
)

// largeSite writes the site file of the budget: 500 devices with 5,000 points on ten Modbus TCP buses, shipped profiles,
// every shipped pack, an uplink.
func largeSite(addresses []string, broker, console string) string {
	var units [10][]string
	var devices []string
	n, zones := 0, 25
	unit := func(profile string) string {
		bus := &units[n%len(units)]
		id := fmt.Sprintf("u%03d", n)
		*bus = append(*bus, fmt.Sprintf("      - {id: %s, address: %d, profile: %s}\n", id, 1+len(*bus), profile))
		n++
		return id
	}
	device := func(class, name, points string) {
		i := len(devices)
		zone := fmt.Sprintf("building_%d", 1+i%zones)
		if class == "fire_lane_sensor" {
			zone = "lane"
		}
		devices = append(devices, fmt.Sprintf("  - {id: %s_%03d, class: %s, zone: %s, title: {zh: 第%d号设备, en: Device %d}, points: {%s}}\n", name, i, class, zone, i, i, points))
	}
	all := func(u string, pairs ...string) string {
		for i, p := range pairs {
			point, channel, _ := strings.Cut(p, "=")
			pairs[i] = point + ": " + u + "." + channel
		}
		return strings.Join(pairs, ", ")
	}
	for range 247 {
		device("energy_meter", "meter", all(unit("eastron_sdm630"), "active_power_w=power_total", "energy_kwh=import_energy", "energy_export_kwh=export_energy",
			"voltage_v=voltage_l1", "current_a=current_l1", "voltage_l1_v=voltage_l1", "voltage_l2_v=voltage_l2", "voltage_l3_v=voltage_l3", "current_l1_a=current_l1", "current_l2_a=current_l2",
			"current_l3_a=current_l3", "active_power_l1_w=power_l1", "active_power_l2_w=power_l1", "active_power_l3_w=power_l1", "neutral_current_a=neutral_current",
			"frequency_hz=frequency", "power_factor=power_factor_total")+", rated_a: {value: 63}")
	}
	for range 90 {
		device("smoke_detector", "smoke", all(unit("calectro_ug3"), "alarm=smoke", "mounted=mounted", "service=service"))
	}
	for i := range 80 {
		u := unit("dfrobot_urm15")
		device("smart_bin", "bin", fmt.Sprintf("fill_pct: {from: %s.distance, map: [[1200, 0], [300, 100]]}, distance_mm: %s.distance, temperature_c: %s.temperature, stream: {value: %s}",
			u, u, u, []string{"recyclable", "kitchen", "residual", "hazardous"}[i%4]))
	}
	for range 30 {
		device("residual_current_monitor", "residual", all(unit("schneider_vigirex_rhu"), "residual_ma=leakage", "alarm=alarm", "prealarm=prealarm", "residual_max_ma=leakage_max", "threshold_ma=alarm_threshold"))
	}
	for range 20 {
		device("air_quality", "air", all(unit("wb_msw_v3"), "temperature_c=temperature", "humidity_pct=humidity", "co2_ppm=co2", "voc_ppb=voc", "illuminance_lx=illuminance", "noise_dba=sound_level"))
	}
	for i := 0; len(devices) < 500; i++ {
		u, point := "", ""
		if i%8 == 0 {
			unit("waveshare_io_8ch")
		}
		u = fmt.Sprintf("u%03d.di%d", n-1, 1+i%8)
		class := []string{"door", "fire_lane_sensor", "call_button", "manual_call_point"}[i%4]
		point = []string{"open", "occupied", "pressed", "alarm"}[i%4]
		device(class, class, point+": "+u)
	}

	var s strings.Builder
	s.WriteString("version: 1\nsite: large\ngateway: gw1\ntitle: {zh: 大社区, en: Large community}\ntimezone: Asia/Shanghai\nzones:\n  - {id: lane, kind: lane, title: {zh: 消防通道, en: Fire lane}}\n")
	for i := range zones {
		fmt.Fprintf(&s, "  - {id: building_%d, kind: building, title: {zh: %d号楼, en: Building %d}}\n", i+1, i+1, i+1)
	}
	s.WriteString("buses:\n")
	for i, list := range units {
		fmt.Fprintf(&s, "  - id: bus_%d\n    modbus_tcp: {address: %q}\n    units:\n%s", i, addresses[i], strings.Join(list, ""))
	}
	s.WriteString("devices:\n" + strings.Join(devices, "") + "rules:\n")
	packs, err := rules.Shipped()
	if err != nil {
		panic(err)
	}
	for id := range packs {
		fmt.Fprintf(&s, "  - {pack: %s}\n", id)
	}
	fmt.Fprintf(&s, "uplink: {brokers: [%q]}\nconsole: {listen: %q}\n", broker, console)
	return s.String()
}

// BenchmarkResidentMemory runs the gateway that the memory budget speaks of, as a process of its own: 500 devices with
// 5,000 points on ten Modbus TCP buses, every shipped pack, a journal that has hours to roll up, a real Mosquitto, the console
// open in a browser. It prints what is resident after a fifth, three fifths and all of the time, and the most that ever
// was. -resident.for shortens it.
func BenchmarkResidentMemory(b *testing.B) {
	linli := benchBinary(b)
	for b.Loop() {
		residentMemory(b, linli)
	}
}

func residentMemory(b *testing.B, linli string) {
	broker := testservers.StartMosquitto(b, quietBroker...)
	var listeners []net.Listener
	var addresses []string
	for range 10 {
		l := testservers.Listen(b)
		listeners, addresses = append(listeners, l), append(addresses, l.Addr().String())
	}
	console := fmt.Sprintf("127.0.0.1:%d", testservers.FreePort(b))
	src := largeSite(addresses, broker.URL, console)
	dir := b.TempDir()
	file := filepath.Join(dir, "site.yaml")
	if err := os.WriteFile(file, []byte(src), 0o600); err != nil {
		b.Fatal(err)
	}
	p, err := loadPlan(file)
	if err != nil {
		b.Fatal(err)
	}
	devices, points := p.site.Inventory.Installed()
	b.Logf("%d devices, %d points, with derived ones and the gateway's own works %d; %d instances of rules", devices, points, len(p.site.Inventory.Points), p.engine.Instances())

	community := simulate.New(p.site.Inventory)
	for i := range p.site.Buses {
		community.AddBus(p.site.Buses[i].ID, p.site.Buses[i].Units)
		go func() { _ = community.ServeTCP(b.Context(), p.site.Buses[i].ID, listeners[i]) }()
	}
	for _, d := range p.site.Inventory.Devices {
		for _, phase := range []string{"voltage_l1_v", "voltage_l2_v", "voltage_l3_v"} {
			_ = community.Set(d.ID, phase, 229) // The day knows meters of one phase only. Others have no such point.
		}
	}
	day := simulate.NewDay(community, 1)
	day.Step(time.Now())
	go func() { _ = day.Run(b.Context()) }()
	state := filepath.Join(dir, "state")
	pastHours(b, filepath.Join(state, "journal"), p.site.Inventory)

	cmd := exec.Command(linli, "run", "-c", file, "--state", state)
	cmd.Env = append(os.Environ(), "GODEBUG=gctrace=1")
	var log lockedBuffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	began := time.Now()
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		broker.Stop()
		if b.Failed() {
			b.Log(tail(log.String(), 3000))
		}
	}()
	testservers.Eventually(b, time.Minute, "the gateway has started", func() bool { return strings.Contains(log.String(), `"started"`) })
	openPage(b, console)
	pid, from, at := cmd.Process.Pid, 0.0, time.Duration(0)
	for _, fifths := range []time.Duration{1, 3, 5} {
		pause(time.Until(began.Add(*residentFor * fifths / 5)))
		b.Logf("after %v: resident %.1f MiB = %.1f its own + %.1f of files + %.1f shared, peak %.1f; %s", time.Since(began).Round(time.Second),
			memory(b, pid, "VmRSS"), memory(b, pid, "RssAnon"), memory(b, pid, "RssFile"), memory(b, pid, "RssShmem"), memory(b, pid, "VmHWM"), lastCollection(log.String()))
		if fifths == 1 {
			from, at = metric(b, console, "linli_samples_total"), processorTime(b, pid)
		}
	}
	samples := metric(b, console, "linli_samples_total") - from
	if want := 400 * residentFor.Seconds() * 4 / 5; samples < want {
		b.Errorf("only %.0f samples were read, at least %.0f should be", samples, want)
	}
	if up := metric(b, console, "linli_uplink_connected"); up != 1 {
		b.Error("the uplink is not connected")
	}
	if *residentSmaps != "" {
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
		if err == nil {
			err = os.WriteFile(*residentSmaps, maps, 0o600)
		}
		if err != nil {
			b.Error(err)
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(memory(b, pid, "VmRSS"), "MiB")
	b.ReportMetric(memory(b, pid, "RssAnon"), "anon-MiB")
	b.ReportMetric(memory(b, pid, "VmHWM"), "peak-MiB")
	b.ReportMetric((processorTime(b, pid)-at).Seconds()*1e6/samples, "cpu-s/Msample")
	b.ReportMetric(samples/(residentFor.Seconds()*4/5), "samples/s")
}

// pastHours writes what a gateway that ran until just now has left behind: two hours and a half, to be rolled up.
func pastHours(b *testing.B, dir string, inv *telemetry.Inventory) {
	b.Helper()
	clock := newClock()
	j, err := journal.Open(journal.Config{Dir: dir}, inv, clock)
	if err != nil {
		b.Fatal(err)
	}
	const past = 9000
	now := clock.Now()
	batch := make([]telemetry.Sample, 0, 400)
	next := telemetry.PointID(0)
	for second := -past; second < 0; second++ {
		at := now.Mono.Add(time.Duration(second) * time.Second)
		batch = batch[:0]
		for range cap(batch) {
			s := telemetry.Sample{Point: next, Time: at}
			switch inv.Points[next].Def.Kind {
			case telemetry.Bool:
				s.Value = telemetry.BoolValue(second%500 == 0)
			case telemetry.Int:
				s.Value = telemetry.IntValue(int64(second))
			case telemetry.Enum:
				s.Value = telemetry.EnumValue(1)
			case telemetry.KindText:
				s.Value = telemetry.TextValue("x")
			default:
				s.Value = telemetry.FloatValue(float64(second%100) / 10)
			}
			batch = append(batch, s)
			next = (next + 1) % telemetry.PointID(len(inv.Points))
		}
		j.Append(telemetry.Now{Mono: at, Wall: now.Wall.Add(time.Duration(second) * time.Second)}, batch)
		if second%10 == 0 {
			if err := j.Commit(); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := j.Close(); err != nil {
		b.Fatal(err)
	}
}

// openPage does as the page does: it loads the files and the inventory, and listens until the benchmark ends.
func openPage(b *testing.B, console string) {
	b.Helper()
	for _, path := range []string{"/", "/api/v1/site", "/api/v1/rules", "/api/v1/buses"} {
		resp, err := http.Get("http://" + console + path)
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	page, err := http.Get("http://" + console + "/api/v1/stream")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { page.Body.Close() })
	go func() { _, _ = io.Copy(io.Discard, page.Body) }()
}

// metric reads one of the gateway's metrics.
func metric(b *testing.B, console, name string) float64 {
	b.Helper()
	resp, err := http.Get("http://" + console + "/metrics")
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			v, err := strconv.ParseFloat(text, 64)
			if err != nil {
				b.Fatal(err)
			}
			return v
		}
	}
	b.Fatalf("there is no metric %s", name)
	return 0
}

var collection = regexp.MustCompile(`gc (\d+) @.* (\d+)->\d+->(\d+) MB, (\d+) MB goal, (\d+) MB stacks`)

// lastCollection says what the last garbage collection found, from GODEBUG=gctrace=1.
func lastCollection(log string) string {
	all := collection.FindAllStringSubmatch(log, -1)
	if len(all) == 0 {
		return "no collection"
	}
	m := all[len(all)-1]
	return fmt.Sprintf("heap %s MB when the %sth collection began, %s live, goal %s, stacks %s", m[2], m[1], m[3], m[4], m[5])
}
