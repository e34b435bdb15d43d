package simulate_test

import (
	"context"
	"encoding/hex"
	"testing"
	"time"

	"github.com/goburrow/modbus"

	firmwareconfig "linli/firmware-config"
	"linli/internal/simulate"
	"linli/internal/telemetry"
	"linli/internal/testservers"
)

// meter is a PZEM-016 as its manual describes it: low word first.
func meter() *firmwareconfig.Profile {
	channel := func(name string, address int, e firmwareconfig.Encoding, scale float64) firmwareconfig.Channel {
		return firmwareconfig.Channel{Name: name, Table: firmwareconfig.InputRegister, Address: address, Encoding: e, LittleWords: true, Scale: scale}
	}
	return &firmwareconfig.Profile{ID: "pzem_016", Channels: []firmwareconfig.Channel{
		channel("voltage", 0, firmwareconfig.EncU16, 0.1),
		channel("current", 1, firmwareconfig.EncU32, 0.001),
		channel("power", 3, firmwareconfig.EncU32, 0.1),
		channel("energy", 5, firmwareconfig.EncU32, 1),
		channel("frequency", 7, firmwareconfig.EncU16, 0.1),
		channel("power_factor", 8, firmwareconfig.EncU16, 0.01),
		channel("alarm", 9, firmwareconfig.EncU16, 1),
	}}
}

// newMeter returns a community of one meter "m" on bus "b", with its readings set as in the manual's example.
func newMeter(t *testing.T) *simulate.Community {
	t.Helper()
	class := &telemetry.Class{ID: "energy_meter"}
	for _, name := range []string{"voltage_v", "current_a", "active_power_w", "energy_wh", "frequency_hz", "power_factor", "alarm"} {
		class.Points = append(class.Points, telemetry.PointDef{Name: name, Kind: telemetry.Float})
	}
	inv := &telemetry.Inventory{Location: time.UTC}
	zone := inv.AddZone(telemetry.Zone{ID: "z", Parent: -1})
	dev := inv.AddDevice(telemetry.Device{ID: "m", Class: class, Zone: zone})
	unit := firmwareconfig.Unit{ID: "u", Address: 1, Profile: meter()}
	for i := range class.Points {
		unit.Bindings = append(unit.Bindings, firmwareconfig.Binding{Channel: i, Point: inv.ProvidePoint(dev, i), Def: &class.Points[i], UnitFactor: 1})
	}
	c := simulate.New(inv)
	c.AddBus("b", []firmwareconfig.Unit{unit})
	for point, v := range map[string]float64{"voltage_v": 225.7, "current_a": 0.108, "active_power_w": 24.4, "energy_wh": 38, "frequency_hz": 50, "power_factor": 1} {
		if err := c.Set("m", point, v); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func wantRegisters(t *testing.T, read func(address, quantity uint16) ([]byte, error)) {
	t.Helper()
	got, err := read(0, 10)
	if err != nil {
		t.Fatal(err)
	}
	// The answer in the manual of the PZEM-016 to a read of all ten registers.
	want := "08d1006c000000f400000026000001f400640000"
	if hex.EncodeToString(got) != want {
		t.Errorf("registers 0 to 9 are %x, want %s", got, want)
	}
	if _, err := read(5, 6); err == nil {
		t.Error("a read beyond the last register was answered; want exception 2")
	} else if e, ok := err.(*modbus.ModbusError); !ok || e.ExceptionCode != 2 {
		t.Errorf("a read beyond the last register: %v, want exception 2", err)
	}
}

func TestServeTCP(t *testing.T) {
	c := newMeter(t)
	l := testservers.Listen(t)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.ServeTCP(ctx, "b", l) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	}()

	h := modbus.NewTCPClientHandler(l.Addr().String())
	h.SlaveId, h.Timeout = 1, 2*time.Second
	defer h.Close()
	wantRegisters(t, modbus.NewClient(h).ReadInputRegisters)

	if err := c.Misbehave("u", simulate.Fault{Silent: true}); err != nil {
		t.Fatal(err)
	}
	h.Close()
	h.Timeout = 100 * time.Millisecond
	if _, err := modbus.NewClient(h).ReadInputRegisters(0, 1); err == nil {
		t.Error("a silent unit answered")
	}
}

func TestServeRTU(t *testing.T) {
	c := newMeter(t)
	pty, err := simulate.OpenPty()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.ServeRTU(ctx, "b", pty) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	}()

	h := modbus.NewRTUClientHandler(pty.Path)
	h.BaudRate, h.DataBits, h.Parity, h.StopBits, h.SlaveId, h.Timeout = 9600, 8, "N", 1, 1, 2*time.Second
	defer h.Close()
	wantRegisters(t, modbus.NewClient(h).ReadInputRegisters)
}

func TestStoriesFitTheCommunity(t *testing.T) {
	for _, s := range simulate.Stories() {
		if s.Title.Zh == "" || s.Title.En == "" || s.What.Zh == "" || s.What.En == "" {
			t.Errorf("story %s has no text in one of the languages", s.Name)
		}
	}
}
