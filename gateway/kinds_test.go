package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/site"
)

// noHoles remembers nothing.
type noHoles struct{}

func (noHoles) Load() []modbus.Hole { return nil }

func (noHoles) Save([]modbus.Hole) {}

func TestNewBusesSharesListeners(t *testing.T) {
	profile := &firmwareconfig.Profile{ID: "p"}
	units := []firmwareconfig.Unit{{ID: "u", Address: 1, Profile: profile}}
	s := &site.Site{Buses: []site.Bus{
		{ID: "dtu_1", Transport: site.ModbusRTUOverTCP, Listen: "127.0.0.1:4001", Registration: []byte("YG-1"), Units: units},
		{ID: "rs485", Transport: site.ModbusRTU, Device: "/dev/ttyS1", Units: units},
		{ID: "dtu_2", Transport: site.ModbusTCP, Listen: "127.0.0.1:4001", Registration: []byte("YG-2"), Units: units},
		{ID: "dtu_3", Transport: site.ModbusRTUOverTCP, Listen: "127.0.0.1:4002", Units: units},
		{ID: "box", Transport: site.GPIO, Chip: "gpiochip0", Units: []firmwareconfig.Unit{{ID: "box", Profile: &firmwareconfig.Profile{ID: "gpio"}}}},
	}}
	var asked []string
	buses, runners, err := newBuses(s, newClock(), zap.NewNop(), func(bus string) modbus.Memory {
		asked = append(asked, bus)
		return noHoles{}
	})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, b := range buses {
		ids = append(ids, b.Health().Bus)
	}
	if got := strings.Join(ids, " "); got != "dtu_1 rs485 dtu_2 dtu_3 box" {
		t.Errorf("buses %s, want the order of the site", got)
	}
	if len(runners) != 2 || runners[0].name != "converters at 127.0.0.1:4001" || runners[1].name != "converters at 127.0.0.1:4002" {
		t.Errorf("runners %+v, want one for each address", runners)
	}
	if got := strings.Join(asked, " "); got != "dtu_1 rs485 dtu_2 dtu_3" {
		t.Errorf("memory was asked for %s", got)
	}
	// Each of them ends with its context.
	for _, r := range runners {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := r.run(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", r.name, err)
		}
	}
}

// TestAConverterDialsInToItsBus: what registers at the shared port is the line of the bus with that registration.
func TestAConverterDialsInToItsBus(t *testing.T) {
	library, err := firmwareconfig.Load(firmwareconfig.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	profile := library.Profiles["waveshare_io_8ch"]
	listen := net.JoinHostPort("127.0.0.1", strconv.Itoa(freePort(t)))
	def := &library.Classes["fire_lane_sensor"].Points[0]
	bind, err := profile.Bind(def, firmwareconfig.PointBinding{Channel: "di1"})
	if err != nil {
		t.Fatal(err)
	}
	s := &site.Site{}
	for i, id := range []string{"YG-1", "YG-2"} {
		b := bind
		b.Point = 0
		s.Buses = append(s.Buses, site.Bus{ID: "dtu_" + strconv.Itoa(i+1), Transport: site.ModbusRTUOverTCP, Listen: listen, Registration: []byte(id),
			Units: []firmwareconfig.Unit{{ID: "io", Address: 7 + i, Profile: profile, Bindings: []firmwareconfig.Binding{b}}}})
	}
	clock := newClock()
	buses, runners, err := newBuses(s, clock, zap.NewNop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	parts := newLifecycle()
	defer func() { _ = parts.stop() }()
	for _, r := range runners {
		parts.start(r.name, time.Second, r.run)
	}
	for _, bus := range buses {
		parts.start(bus.Health().Bus, time.Second, func(ctx context.Context) error {
			defer bus.Close()
			for ctx.Err() == nil {
				_, next := bus.Step(ctx, clock.Mono(), nil)
				select {
				case <-ctx.Done():
				case <-time.After(min(next.Sub(clock.Mono()), 20*time.Millisecond)):
				}
			}
			return nil
		})
	}
	var conn net.Conn
	waitFor(t, 5*time.Second, "the port", func() bool {
		var err error
		conn, err = net.Dial("tcp", listen)
		return err == nil
	})
	defer conn.Close()
	if _, err := conn.Write([]byte("YG-2")); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	request := make([]byte, 8)
	if n, err := conn.Read(request); err != nil || n < 1 || request[0] != 8 {
		t.Errorf("the converter YG-2 was asked % x (%v), want a request to unit 8 of bus dtu_2", request[:n], err)
	}
}

func TestTheKeyOfCardReaders(t *testing.T) {
	dir := t.TempDir()
	good, short := filepath.Join(dir, "site.key"), filepath.Join(dir, "short.key")
	for path, content := range map[string]string{good: "  0123456789abcdef0123\n", short: "secret\n"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bus := func(key string) *site.Bus {
		profile := &firmwareconfig.Profile{ID: "gpio", Channels: []firmwareconfig.Channel{{Name: "door"}, {Name: "reader"}}}
		return &site.Bus{ID: "box", Transport: site.GPIO, Chip: "gpiochip0", KeyFile: key,
			Units: []firmwareconfig.Unit{{ID: "box", Profile: profile}},
			Lines: []firmwareconfig.GPIOLine{
				{ID: "door", Kind: firmwareconfig.GPIOInput, Line: "1"},
				{ID: "reader", Kind: firmwareconfig.GPIOWiegand, Line: "2", Second: "3"}}}
	}
	b := bus(good)
	cfg, err := gpioConfig(b, newClock(), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	if string(cfg.Lines[1].Key) != "0123456789abcdef0123" || cfg.Lines[0].Key != nil {
		t.Errorf("keys %q and %q, want it at the reader alone", cfg.Lines[0].Key, cfg.Lines[1].Key)
	}
	if b.Lines[1].Key != nil {
		t.Error("the secret went into the site, which is shown to people")
	}
	for key, want := range map[string]string{
		filepath.Join(dir, "nowhere.key"): "nowhere.key",
		short:                             "short.key is shorter than 16 characters",
	} {
		_, _, err := newBuses(&site.Site{Buses: []site.Bus{*bus(key)}}, newClock(), zap.NewNop(), nil)
		if err == nil || !strings.Contains(err.Error(), "set up bus box: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want something about %s", err, want)
		}
	}
}

func TestNewBusesTellsEveryMistake(t *testing.T) {
	_, _, err := newBuses(&site.Site{Buses: []site.Bus{{ID: "a", Transport: "canopen"}, {ID: "b", Transport: site.ModbusRTU}}}, newClock(), zap.NewNop(), nil)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{`set up bus a: unknown transport "canopen" (modbus_tcp, modbus_rtu, modbus_rtu_over_tcp or gpio)`, "set up bus b: ", "no device"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
}
