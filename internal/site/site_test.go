package site_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	firmwareconfig "linli/firmware-config"
	"linli/internal/site"
	"linli/internal/telemetry"
	"linli/internal/yamlfile"
)

func load(t *testing.T, file string) *site.Site {
	t.Helper()
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s, err := site.Load(file, src, testLibrary(), testPacks(t))
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	return s
}

func TestACommunityResolves(t *testing.T) {
	s := load(t, "testdata/community.yaml")
	if len(s.Warnings) > 0 {
		t.Errorf("warnings: %v", s.Warnings)
	}
	inv := s.Inventory
	if got := inv.Node(); got != "yangguang.gw1" {
		t.Errorf("node %q", got)
	}
	if inv.Title.Zh != "阳光社区" || inv.Place != (telemetry.Place{City: "沈阳市", District: "浑南区", Street: "五三街道"}) {
		t.Errorf("title %v, place %v", inv.Title, inv.Place)
	}
	if inv.Location.String() != "Asia/Shanghai" {
		t.Errorf("location %v", inv.Location)
	}
	for i, z := range inv.Zones {
		if z.Parent >= i {
			t.Errorf("zone %s stands before its parent", z.ID)
		}
	}
	lobby, _ := inv.DeviceByID("th_lobby")
	if got := strings.Join(inv.ZonePath(inv.Devices[lobby].Zone, "zh"), " · "); got != "1号楼 · 1层" {
		t.Errorf("zone path %q", got)
	}
	var order []string
	for _, d := range inv.Devices {
		order = append(order, d.ID)
	}
	if got := strings.Join(order, " "); got != "lane_1 lane_2 lane_1_copy th_lobby th_lab bin_1_kitchen power horn" {
		t.Errorf("devices %q, want the order of the file", got)
	}
	if got := inv.Devices[lobby].Title; got != (telemetry.Text{Zh: "温湿度 th_lobby", En: "Climate th_lobby"}) {
		t.Errorf("default title %v", got)
	}
	if got := inv.Devices[1].Title; got.Zh != "西门地磁" || got.En != "西门地磁" {
		t.Errorf("a title written once is %v", got)
	}
}

// bindings renders what the channels of a site provide, one line each.
func bindings(s *site.Site) string {
	var b strings.Builder
	for _, bus := range s.Buses {
		for _, u := range bus.Units {
			for _, x := range u.Bindings {
				p := s.Inventory.Series(x.Point)
				fmt.Fprintf(&b, "%s/%s.%s -> %s.%s", bus.ID, u.ID, u.Profile.Channels[x.Channel].Name, p.Device, p.Point)
				if x.UnitFactor != 1 || x.UnitOffset != 0 {
					fmt.Fprintf(&b, " *%v+%v", x.UnitFactor, x.UnitOffset)
				}
				if x.Map != nil {
					fmt.Fprintf(&b, " map %v", *x.Map)
				}
				if x.Invert {
					b.WriteString(" inverted")
				}
				if x.Def != s.Inventory.Points[x.Point].Def {
					b.WriteString(" WITH ANOTHER DEFINITION")
				}
				b.WriteByte('\n')
			}
		}
	}
	return b.String()
}

func TestBindings(t *testing.T) {
	s := load(t, "testdata/community.yaml")
	want := `rs485_1/io1.di1 -> lane_1.occupied
rs485_1/io1.di2 -> lane_1.battery_low inverted
rs485_1/io1.di3 -> lane_2.occupied
rs485_1/io1.di1 -> lane_1_copy.occupied
rs485_1/io1.do1 -> horn.on
rs485_1/us1.distance -> th_lab.humidity_pct map {0 0 100 100}
rs485_1/us1.distance -> bin_1_kitchen.fill_pct map {1200 0 300 100}
tcp_1/th1.temperature -> th_lobby.temperature_c
tcp_1/th1.humidity -> th_lobby.humidity_pct
tcp_1/meter1.power -> power.power_w *1000+0
serial_server/th2.temperature -> th_lab.temperature_c
`
	if got := bindings(s); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	provided := 0
	for _, d := range s.Inventory.Devices {
		for _, p := range d.Points {
			if p != telemetry.NoPoint {
				provided++
			}
		}
	}
	if n := strings.Count(want, "\n"); provided != n || len(s.Inventory.Points) != n {
		t.Errorf("%d points, %d of them devices', want %d", len(s.Inventory.Points), provided, n)
	}
}

func TestConstants(t *testing.T) {
	s := load(t, "testdata/community.yaml")
	want := `lane_2.battery_low = false
lane_1_copy.battery_low = false
th_lobby.floor = 1
th_lobby.offset_c = 0 °C
th_lab.floor = 3 (set)
th_lab.offset_c = 0 °C
bin_1_kitchen.stream = kitchen (set)`
	if got := strings.Join(s.Constants, "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for device, want := range map[string]telemetry.Value{
		"th_lab.floor":         telemetry.IntValue(3),
		"th_lobby.floor":       telemetry.IntValue(1),
		"bin_1_kitchen.stream": telemetry.EnumValue(2),
	} {
		id, point, _ := strings.Cut(device, ".")
		d, _ := s.Inventory.DeviceByID(id)
		if got := s.Inventory.Constant(d, s.Inventory.Devices[d].Class.Point(point)); got != want {
			t.Errorf("Constant %s = %v, want %v", device, got, want)
		}
	}
}

func TestBusesAndSettings(t *testing.T) {
	s := load(t, "testdata/community.yaml")
	rtu, tcp, over := s.Buses[0], s.Buses[1], s.Buses[2]
	if rtu.Transport != site.ModbusRTU || rtu.Device != "/dev/serial/by-id/usb-1" || rtu.Timeout != 300*time.Millisecond ||
		rtu.Line != (firmwareconfig.Line{Baud: 9600, Format: "8N1"}) {
		t.Errorf("rtu: %+v", rtu)
	}
	if tcp.Transport != site.ModbusTCP || tcp.Address != "192.168.1.20:502" || tcp.Timeout != 0 {
		t.Errorf("tcp: %+v", tcp)
	}
	if over.Transport != site.ModbusRTUOverTCP || over.Address != "192.168.1.21:4001" {
		t.Errorf("rtu over tcp: %+v", over)
	}
	if got, want := fmt.Sprintf("%+v", *s.Uplink), "{Brokers:[tls://city.example:8883 tcp://127.0.0.1:1883] Username:yangguang.gw1 "+
		"PasswordFile:testdata/secrets/mqtt CAFile:/etc/linli/ca.pem CertFile: KeyFile: Compression:zstd Batch:2s Commands:<nil>}"; got != want {
		t.Errorf("uplink\n got %s\nwant %s", got, want)
	}
	if s.Console != (site.Console{Listen: "0.0.0.0:8080", TokenFile: "testdata/secrets/token"}) {
		t.Errorf("console %+v", s.Console)
	}
	if s.Journal != (site.Journal{MaxBytes: 2 << 30, MaxAge: 14 * 24 * time.Hour, CommitEvery: 2 * time.Second}) {
		t.Errorf("journal %+v", s.Journal)
	}
	if s.State != "/var/lib/linli" {
		t.Errorf("state %q", s.State)
	}
	if len(s.Packs) != 1 || s.Packs[0].ID != "fire_lane" || s.Params["fire_lane"]["dwell"] != "3m" {
		t.Errorf("packs %v, params %v", s.Packs, s.Params)
	}
}

func TestDefaults(t *testing.T) {
	s := load(t, "testdata/minimal.yaml")
	if s.Inventory.Node() != "quiet.gw1" || s.Inventory.Title.Zh != "quiet" || s.Inventory.Location.String() != "Asia/Shanghai" {
		t.Errorf("node %s, title %v, location %v", s.Inventory.Node(), s.Inventory.Title, s.Inventory.Location)
	}
	if s.Uplink != nil || s.State != "" || s.Console != (site.Console{Listen: "127.0.0.1:8080"}) ||
		s.Journal != (site.Journal{MaxBytes: 1 << 30, MaxAge: 7 * 24 * time.Hour, CommitEvery: time.Second}) {
		t.Errorf("uplink %v, state %q, console %+v, journal %+v", s.Uplink, s.State, s.Console, s.Journal)
	}
	if len(s.Warnings) != 2 {
		t.Errorf("warnings: %v", s.Warnings)
	}
}

func TestTheSameFileResolvesTheSameTwice(t *testing.T) {
	a := load(t, "testdata/community.yaml")
	b := load(t, "testdata/community.yaml")
	if bindings(a) != bindings(b) || strings.Join(a.Constants, "\n") != strings.Join(b.Constants, "\n") {
		t.Error("two loads of one file differ")
	}
}

func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"testdata/*.yaml", "testdata/bad/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatalf("no seeds in %s: %v", pattern, err)
		}
		for _, file := range files {
			src, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(src)
		}
	}
	for _, src := range []string{"", "\n", "a", "[]", "version: 1\nsite: a\nzones: [{}]\nbuses: [{}]\ndevices: [{}]\nrules: [{}]\nuplink: {}\n",
		"version: 1\nsite: a\ndevices: [{id: a, zone: b, unit: c, class: d, points: {e: f.g, h: [], i: , j: {value: []}}}]"} {
		f.Add([]byte(src))
	}
	lib, packs := testLibrary(), testPacks(f)
	f.Fuzz(func(t *testing.T, src []byte) {
		s, err := site.Load("site.yaml", src, lib, packs)
		var all yamlfile.Errors
		switch {
		case s == nil || s.Inventory == nil || s.Inventory.Location == nil:
			t.Fatal("no site")
		case err != nil && (!errors.As(err, &all) || len(all) == 0):
			t.Fatalf("the error is %T", err)
		}
		for _, e := range append(all, s.Warnings...) {
			if e.Pos.File != "site.yaml" || e.Pos.Line < 1 || e.Pos.Col < 1 || e.Msg == "" {
				t.Fatalf("a mistake without its place: %+v", e)
			}
		}
		if err != nil {
			return
		}
		for i, b := range s.Buses {
			for _, u := range b.Units {
				if u.Profile == nil {
					t.Fatalf("bus %d, unit %s without profile", i, u.ID)
				}
				for _, x := range u.Bindings {
					if x.UnitFactor == 0 || int(x.Point) >= len(s.Inventory.Points) {
						t.Fatalf("binding %+v", x)
					}
				}
			}
		}
	})
}

func TestSchedulesAreThere(t *testing.T) {
	lib, packs := shipped(t)
	s, err := site.Load("site.yaml", []byte("version: 1\nsite: a\nzones: [{id: z, kind: charging}]\nschedules:\n  night: [{from: '22:00', to: '06:00', zones: [z]}]\n  never:\n"), lib, packs)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Schedules) != 2 || s.Schedules["night"].Pos.Line != 5 {
		t.Errorf("schedules %v", s.Schedules)
	}
	var zones []string
	s.Schedules["night"].Zones(func(z yamlfile.At[string]) { zones = append(zones, z.Value) })
	if len(zones) != 1 || zones[0] != "z" {
		t.Errorf("zones %v", zones)
	}
}
