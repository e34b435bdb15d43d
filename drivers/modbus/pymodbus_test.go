package modbus_test

import (
	"bufio"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"linli/drivers"
	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// startPymodbus serves the registers of testdata/server.py with pymodbus, over TCP at an address or RTU on a device.
func startPymodbus(t *testing.T, args ...string) {
	t.Helper()
	startServer(t, "server.py", args...)
}

// startServer runs a server of testdata, and returns when it is ready.
func startServer(t *testing.T, script string, args ...string) {
	t.Helper()
	cmd := exec.Command("/usr/bin/python3", append([]string{filepath.Join("testdata", script)}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("Python is needed, with pymodbus and libmodbus (Debian: python3-pymodbus, libmodbus5): %v", err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "ready") {
		t.Fatalf("%s did not start: %q %v (Debian: python3-pymodbus, libmodbus5)", script, line, err)
	}
}

// thirdPartyUnits are two units as server.py serves them: floats, long words in both orders, negative numbers,
// sentinels, bits of all tables.
func thirdPartyUnits() ([]firmwareconfig.Unit, map[telemetry.PointID]telemetry.Sample) {
	const (
		coil, di, hold, in = firmwareconfig.Coil, firmwareconfig.DiscreteInput, firmwareconfig.HoldingRegister, firmwareconfig.InputRegister
	)
	type ch = firmwareconfig.Channel
	chs := []ch{
		{Name: "volt", Table: in, Address: 0, Encoding: firmwareconfig.EncF32},
		{Name: "energy", Table: in, Address: 2, Encoding: firmwareconfig.EncU32, LittleWords: true, Scale: 0.001},
		{Name: "temp", Table: in, Address: 4, Encoding: firmwareconfig.EncS16, Scale: 0.1},
		{Name: "absent", Table: in, Address: 5, Encoding: firmwareconfig.EncS16, Invalid: []uint64{0x7FFF}},
		{Name: "big", Table: in, Address: 342, Encoding: firmwareconfig.EncF32},
		{Name: "alarm", Table: hold, Address: 1, Encoding: firmwareconfig.EncBool, Bit: 3},
		{Name: "level", Table: hold, Address: 2, Encoding: firmwareconfig.EncU16, Bit: 4, Width: 3},
		{Name: "set", Table: hold, Address: 10, Encoding: firmwareconfig.EncU16, Scale: 0.5, Writable: true},
		{Name: "wide", Table: hold, Address: 12, Encoding: firmwareconfig.EncF32, LittleWords: true, Writable: true},
		{Name: "d0", Table: di, Address: 0, Encoding: firmwareconfig.EncBool},
		{Name: "d9", Table: di, Address: 9, Encoding: firmwareconfig.EncBool, Invert: true},
		{Name: "relay", Table: coil, Address: 0, Encoding: firmwareconfig.EncBool, Writable: true},
		{Name: "relay2", Table: coil, Address: 1, Encoding: firmwareconfig.EncBool, Writable: true},
	}
	f := func(v float64) telemetry.Sample { return telemetry.Sample{Value: telemetry.FloatValue(v)} }
	b := func(v bool) telemetry.Sample { return telemetry.Sample{Value: telemetry.BoolValue(v)} }
	want := []telemetry.Sample{f(230.5), f(123.456), f(-10.1), {Quality: telemetry.BadSensor}, f(-0.25), b(true), f(5), f(20), f(1.5), b(true), b(true), b(false), b(true)}
	var units []firmwareconfig.Unit
	all := map[telemetry.PointID]telemetry.Sample{}
	for i := range 2 {
		u := unitOf("u"+string(rune('1'+i)), i+1, telemetry.PointID(100*i), chs...)
		u.Profile.Timing.Timeout = 3 * time.Second // a busy machine, not a slow device
		units = append(units, u)
		for n, s := range want {
			all[telemetry.PointID(100*i+n)] = s
		}
	}
	return units, all
}

func TestThirdPartyServer(t *testing.T) {
	for _, transport := range []string{modbus.TCP, modbus.RTU, modbus.RTUOverTCP} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			units, want := thirdPartyUnits()
			// A unit that nobody serves shares the bus.
			dead := unitOf("dead", 77, 900, u16("x", 0))
			dead.Profile.Timing.Timeout = 200 * time.Millisecond
			clock := telemetry.NewClock("test", 0, time.Time{})
			c := modbus.Config{Name: transport, Transport: transport, Line: firmwareconfig.Line{Baud: 19200, Format: "8N1"},
				Units: append(units, dead), Clock: clock}
			if transport == modbus.RTU {
				dir := t.TempDir()
				ours, theirs := filepath.Join(dir, "ours"), filepath.Join(dir, "theirs")
				pair := exec.Command("socat", "pty,raw,echo=0,link="+ours, "pty,raw,echo=0,link="+theirs)
				if err := pair.Start(); err != nil {
					t.Fatalf("socat is needed: %v", err)
				}
				t.Cleanup(func() { _ = pair.Process.Kill(); _ = pair.Wait() })
				waitFor(t, func() bool { _, a := os.Stat(ours); _, b := os.Stat(theirs); return a == nil && b == nil })
				startPymodbus(t, transport, theirs)
				c.Device = ours
			} else {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				c.Address = l.Addr().String()
				_ = l.Close()
				startPymodbus(t, transport, c.Address)
			}
			bus, err := modbus.New(c)
			if err != nil {
				t.Fatal(err)
			}
			line := drivers.NewLine(bus)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			samples := make(chan []telemetry.Sample, 1)
			ended := make(chan error, 1)
			go func() {
				ended <- drivers.Supervise(ctx, clock, line, func(s []telemetry.Sample) {
					select {
					case samples <- append([]telemetry.Sample(nil), s...):
					case <-ctx.Done():
					}
				}, nil)
			}()
			got := map[telemetry.PointID]telemetry.Sample{}
			collect := func(done func() bool) {
				t.Helper()
				for !done() {
					select {
					case s := <-samples:
						for _, x := range s {
							got[x.Point] = x
						}
					case <-ctx.Done():
						t.Fatalf("only %d points came; %+v", len(got), bus.Health())
					}
				}
			}
			collect(func() bool { return len(got) == len(want)+1 })
			for id, w := range want {
				if g := got[id]; g.Value != w.Value || g.Quality != w.Quality {
					t.Errorf("point %d = %v %v, want %v %v", id, g.Value, g.Quality, w.Value, w.Quality)
				}
			}
			if q := got[900].Quality; q != telemetry.BadComm {
				t.Errorf("the point of the dead unit is %v", q)
			}

			// Writes: a coil, a register, two registers. They are seen in the next readings.
			writes := map[telemetry.PointID]telemetry.Value{11: telemetry.BoolValue(true), 107: telemetry.FloatValue(33.5), 8: telemetry.FloatValue(-2.75)}
			errs := make(chan error, len(writes))
			for id, v := range writes {
				go func() { errs <- line.Write(ctx, id, v) }()
			}
			for range writes {
				for wait := true; wait; {
					select {
					case err := <-errs:
						if err != nil {
							t.Error(err)
						}
						wait = false
					case s := <-samples:
						for _, x := range s {
							got[x.Point] = x
						}
					}
				}
			}
			collect(func() bool {
				for id, v := range writes {
					if got[id].Value != v {
						return false
					}
				}
				return true
			})
			cancel()
			for {
				select {
				case <-samples:
					continue
				case err := <-ended:
					if err != nil {
						t.Error(err)
					}
				}
				break
			}
		})
	}
}

// waitFor polls until cond holds.
func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(10 * time.Second)
	for !cond() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("waited too long")
		}
	}
}
