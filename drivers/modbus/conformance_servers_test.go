package modbus_test

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"

	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/simulate"
	"linli/internal/telemetry"
)

// The servers of the conformance suite. Each serves the same registers as unit 3: coils and discrete inputs 0 to 2099
// (set where the address divides by 3 and 5), holding registers and inputs 0 to 199 (0x1000 and 0x2000 plus the address).

const conformanceUnit = 3

type server struct {
	name string
	// start serves over a transport and returns the configuration of a bus that reaches it.
	start func(t *testing.T, transport string) modbus.Config
}

func servers() []server {
	return []server{
		{"simulate", func(t *testing.T, transport string) modbus.Config { c, _ := startSimulated(t, transport); return c }},
		{"pymodbus", startPymodbusUnit},
		{"libmodbus", startLibmodbus},
	}
}

func conformanceConfig(transport string) modbus.Config {
	return modbus.Config{Name: "conformance", Transport: transport, Line: firmwareconfig.Line{Baud: 19200, Format: "8N1"}}
}

// startSimulated serves our own simulated unit.
func startSimulated(t *testing.T, transport string) (modbus.Config, *simulate.Community) {
	t.Helper()
	p := &firmwareconfig.Profile{ID: "conformance"}
	add := func(table firmwareconfig.Table, n int, writable bool) {
		for a := range n {
			ch := firmwareconfig.Channel{Name: "c", Table: table, Address: a, Encoding: firmwareconfig.EncU16, Writable: writable}
			if table.Bits() {
				ch.Encoding = firmwareconfig.EncBool
			}
			p.Channels = append(p.Channels, ch)
		}
	}
	add(firmwareconfig.Coil, 2100, true)
	add(firmwareconfig.DiscreteInput, 2100, false)
	add(firmwareconfig.HoldingRegister, 200, true)
	add(firmwareconfig.InputRegister, 200, false)
	c := simulate.New(&telemetry.Inventory{})
	c.AddBus("b", []firmwareconfig.Unit{{ID: "u", Address: conformanceUnit, Profile: p}})
	for a := range 2100 {
		for table, every := range map[firmwareconfig.Table]int{firmwareconfig.Coil: 3, firmwareconfig.DiscreteInput: 5} {
			if a%every == 0 {
				if err := c.Poke("u", table, a, 1); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for a := range 200 {
		for table, base := range map[firmwareconfig.Table]int{firmwareconfig.HoldingRegister: 0x1000, firmwareconfig.InputRegister: 0x2000} {
			if err := c.Poke("u", table, a, uint16(base+a)); err != nil {
				t.Fatal(err)
			}
		}
	}
	cfg := conformanceConfig(transport)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	if transport == modbus.RTU {
		pty, err := simulate.OpenPty()
		if err != nil {
			t.Fatal(err)
		}
		cfg.Device = pty.Path
		wg.Go(func() { _ = c.ServeRTU(ctx, "b", pty) })
		return cfg, c
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Address = ln.Addr().String()
	serve := c.ServeTCP
	if transport == modbus.RTUOverTCP {
		serve = c.ServeRTUOverTCP
	}
	wg.Go(func() { _ = serve(ctx, "b", ln) })
	return cfg, c
}

// freeAddress returns an address on which nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func startPymodbusUnit(t *testing.T, transport string) modbus.Config {
	c := conformanceConfig(transport)
	if transport == modbus.RTU {
		var theirs string
		c.Device, theirs = cable(t)
		startPymodbus(t, transport, theirs)
		return c
	}
	c.Address = freeAddress(t)
	startPymodbus(t, transport, c.Address)
	return c
}

// startLibmodbus serves with libmodbus. It does not speak RTU over TCP: there a converter stands before its serial line.
func startLibmodbus(t *testing.T, transport string) modbus.Config {
	c := conformanceConfig(transport)
	switch transport {
	case modbus.TCP:
		c.Address = freeAddress(t)
		startServer(t, "libmodbus_server.py", "tcp", c.Address)
	case modbus.RTU:
		var theirs string
		c.Device, theirs = cable(t)
		startServer(t, "libmodbus_server.py", "rtu", theirs)
	default:
		master, theirs := openPty(t)
		startServer(t, "libmodbus_server.py", "rtu", theirs)
		c.Address = converter(t, master)
	}
	return c
}

// cable returns the names of two serial devices that are connected.
func cable(t *testing.T) (ours, theirs string) {
	t.Helper()
	a, ours := openPty(t)
	b, theirs := openPty(t)
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(a, b) })
	wg.Go(func() { _, _ = io.Copy(b, a) })
	t.Cleanup(func() { _ = a.Close(); _ = b.Close(); wg.Wait() })
	return ours, theirs
}

// converter makes a transparent serial server of one connection at a time, and returns its address.
func converter(t *testing.T, line io.ReadWriteCloser) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var conn net.Conn
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conn = c
			mu.Unlock()
			_, _ = io.Copy(line, c)
			_ = c.Close()
		}
	})
	wg.Go(func() {
		buf := make([]byte, 256)
		for {
			n, err := line.Read(buf)
			if err != nil {
				return
			}
			mu.Lock()
			if conn != nil {
				_, _ = conn.Write(buf[:n])
			}
			mu.Unlock()
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		_ = line.Close()
		mu.Lock()
		if conn != nil {
			_ = conn.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return ln.Addr().String()
}
