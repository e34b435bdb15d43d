package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	periph "periph.io/x/conn/v3/gpio"

	"linli/drivers/gpio"
	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/site"
	"linli/internal/telemetry"
	"linli/rules"
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
	if key, err := cfg.Key(); err != nil || string(key) != "0123456789abcdef0123" {
		t.Errorf("key %q, %v", key, err)
	}
	for key, want := range map[string]string{
		filepath.Join(dir, "nowhere.key"): "nowhere.key",
		short:                             "short.key is shorter than 16 characters",
	} {
		b := bus(key)
		if _, _, err := newBuses(&site.Site{Buses: []site.Bus{*b}}, newClock(), zap.NewNop(), nil); err != nil {
			t.Errorf("a bad key file keeps the gateway from starting: %v", err)
		}
		cfg, err := gpioConfig(b, newClock(), zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cfg.Key(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want something about %s", err, want)
		}
	}
}

// readerSite is a site with a contact and a card reader on one chip.
const readerSite = `version: 1
site: test
zones: [{id: hall, kind: area}]
buses:
  - id: box
    gpio:
      chip: bench
      key_file: nowhere.key
    lines: [{id: door, input: 1}, {id: reader, wiegand: {d0: 2, d1: 3}}]
devices:
  - {id: door_1, class: door, zone: hall, points: {open: box.door}}
  - {id: reader_1, class: card_reader, zone: hall, points: {card: box.reader}}
rules: [{pack: gateway}]
`

// benchChip is a GPIO chip whose line 3 somebody else has, and whose others are low.
type benchChip struct{}

func (benchChip) Open(string) (gpio.Chip, error) { return benchChip{}, nil }
func (benchChip) Close() error                   { return nil }
func (benchChip) Request(r gpio.Request) (gpio.Lines, error) {
	if slices.Contains(r.Lines, "3") {
		return nil, errors.New(`line 3: in use by "bad-daemon"`)
	}
	return benchLines{}, nil
}

type benchLines struct{}

func (benchLines) Wait(ctx context.Context, _ []gpio.Edge) (int, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}
func (benchLines) Read(levels []periph.Level) error { clear(levels); return nil }
func (benchLines) Set(periph.Level) error           { return nil }
func (benchLines) Close() error                     { return nil }

// TestADeadCardReaderRaisesAnAlert: whether its secret is missing or its line is taken, and it alone.
func TestADeadCardReaderRaisesAnAlert(t *testing.T) {
	for name, key := range map[string]func() ([]byte, error){
		"no secret":   func() ([]byte, error) { return readKey("nowhere.key") },
		"line in use": func() ([]byte, error) { return []byte("0123456789abcdef"), nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, err := resolvePlan("site.yaml", []byte(readerSite), nil)
				if err != nil {
					t.Fatal(err)
				}
				clock := telemetry.NewClock("boot", 0, time.Now())
				cfg, err := gpioConfig(&p.site.Buses[0], clock, zap.NewNop())
				if err != nil {
					t.Fatal(err)
				}
				cfg.Key, cfg.Host = key, benchChip{}
				bus, err := gpio.New(cfg)
				if err != nil {
					t.Fatal(err)
				}
				defer bus.Close()
				var opened []string
				began, after := time.Now(), time.Duration(0)
				for time.Since(began) < 2*time.Minute {
					now := clock.Now()
					samples, next := bus.Step(t.Context(), now.Mono, nil)
					var out rules.Output
					p.engine.Step(now, samples, &out)
					for _, x := range out.Transitions {
						opened, after = append(opened, x.Subject+" "+x.Alert), time.Since(began)
					}
					time.Sleep(min(next.Sub(now.Mono), time.Second))
				}
				if got := strings.Join(opened, ", "); got != "reader_1 DeviceFault" || after > 61*time.Second {
					t.Errorf("alerts %q after %v, want DeviceFault of the reader after 60 s", got, after)
				}
			})
		})
	}
}

func TestTheWarningAboutAKeyStandsAtTheKey(t *testing.T) {
	file := writeFile(t, "site.yaml", readerSite)
	code, stdout, _ := linli(t, "check", "-c", file)
	if code != exitGood || !strings.Contains(stdout, "site.yaml:8:17: warning: read the key of the card readers: ") || !strings.Contains(stdout, "are not opened") {
		t.Errorf("exit code %d\n%s", code, stdout)
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
