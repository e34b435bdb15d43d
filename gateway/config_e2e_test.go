package main

import (
	"context"
	byteorder "encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	firmwareconfig "linli/firmware-config"
	"linli/internal/simulate"
	"linli/internal/telemetry"
)

const moverProfile = `version: 1
profile: mover
vendor: ours
model: M
title: {zh: 动, en: Mover}
status: partial
sources: [us]
line: {baud: 4800, format: 8E1}
address: 1
channels:
  - {name: alarm, table: discrete, address: 0, every: 100ms}
config:
  - {name: delay, table: holding, address: 10, type: u16, unit: s, min: 0, max: 60, default: 5}
  - {name: address, role: address, table: holding, address: 1, type: u16, min: 1, max: 247, effective: power_cycle}
  - {name: baud, role: baud, table: holding, address: 2, type: u16, values: {1: 4800, 2: 9600}}
  - {name: format, role: format, table: holding, address: 3, type: u16, values: {0: 8N1, 1: 8E1}}
unlock: [{table: coil, address: 1, value: 1}]
save: [{table: holding, address: 5, value: 1}]
signature:
  - {table: holding, address: 100, equals: 0x4D56}
device: {class: smoke_detector, points: {alarm: alarm}}
`

// serveAtItsSetting answers on a pty as units do that hear only what is sent at their own rate and parity.
func serveAtItsSetting(t *testing.T, c *simulate.Community, busID string) (device string) {
	t.Helper()
	pty, err := simulate.OpenPty()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := pty.Port.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	setting := func() (line firmwareconfig.Line) {
		_ = raw.Control(func(fd uintptr) {
			termios, err := unix.IoctlGetTermios(int(fd), unix.TCGETS2)
			if err != nil {
				return
			}
			line = firmwareconfig.Line{Baud: int(termios.Ospeed), Format: "8N1"}
			if termios.Iflag&unix.INPCK != 0 { // A pseudo-terminal does not keep PARENB.
				line.Format = "8E1"
			}
		})
		return line
	}
	checksum := func(frame []byte) uint16 {
		crc := uint16(0xFFFF)
		for _, b := range frame {
			crc ^= uint16(b)
			for range 8 {
				carry := crc & 1
				crc >>= 1
				if carry != 0 {
					crc ^= 0xA001
				}
			}
		}
		return crc
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var frame []byte
		buf := make([]byte, 256)
		last := time.Now()
		for {
			n, err := pty.Port.Read(buf)
			if err != nil {
				return
			}
			if time.Since(last) > 50*time.Millisecond {
				frame = frame[:0]
			}
			last = time.Now()
			frame = append(frame, buf[:n]...)
			if len(frame) < 4 || checksum(frame) != 0 {
				continue
			}
			answer := c.Exchange(busID, setting(), frame[0], frame[1:len(frame)-2])
			if answer != nil {
				out := append([]byte{frame[0]}, answer...)
				if _, err := pty.Port.Write(byteorder.LittleEndian.AppendUint16(out, checksum(out))); err != nil {
					return
				}
			}
			frame = frame[:0]
		}
	}()
	t.Cleanup(func() {
		pty.Close()
		<-done
	})
	return pty.Path
}

// moverBench is a unit as it left the factory, on a line where a site file looks for it at another address, rate and
// parity, beside a unit that is where it should be.
func moverBench(t *testing.T) (c *simulate.Community, file, console string) {
	t.Helper()
	library, err := firmwareconfig.Load(os.DirFS(profileDir(t)), firmwareconfig.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	profile := library.Profiles["mover"]
	there := *profile
	there.Line = firmwareconfig.Line{Baud: 9600, Format: "8N1"}
	c = simulate.New(&telemetry.Inventory{})
	c.AddBus("rs485_1", []firmwareconfig.Unit{{ID: "new", Address: 1, Profile: profile}, {ID: "old", Address: 7, Profile: &there}})
	dir := profileDir(t)
	file = filepath.Join(dir, "site.yaml")
	console = fmt.Sprintf("127.0.0.1:%d", freePort(t))
	content := fmt.Sprintf(`version: 1
site: test
title: 测试
zones: [{id: lobby, kind: building}]
buses:
  - id: rs485_1
    modbus_rtu: {device: %s, baud: 9600, format: 8N1}
    units:
      - {id: new, address: 3, profile: mover, config: {delay: 7}}
      - {id: old, address: 7, profile: mover, config: {delay: 5}}
devices:
  - {id: smoke_new, zone: lobby, unit: new}
  - {id: smoke_old, zone: lobby, unit: old}
console: {listen: %q}
`, serveAtItsSetting(t, c, "rs485_1"), console)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return c, file, console
}

func profileDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "profiles"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "profiles", "mover.yaml"), []byte(moverProfile), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// switchOffAndOn plays the person who switches a unit off and on once it is waited for.
func switchOffAndOn(t *testing.T, c *simulate.Community, unit string) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			words, err := c.Peek(unit, firmwareconfig.HoldingRegister, 1, 1)
			if err != nil {
				t.Error(err)
				return
			}
			if at, _, _ := c.Reached(unit); int(words[0]) != at {
				pause(200 * time.Millisecond)
				if err := c.PowerCycle(unit); err != nil {
					t.Error(err)
				}
			}
			pause(20 * time.Millisecond)
		}
	}()
	return func() { cancel(); <-done }
}

// A unit is followed to another parity, another rate and, over a power cycle, another address, on a real tty: alone,
// and through a running gateway that polls the unit beside it.
func TestConfigFollowsAUnitOnARealLine(t *testing.T) {
	for _, running := range []bool{false, true} {
		t.Run(fmt.Sprintf("gateway %v", running), func(t *testing.T) {
			c, file, console := moverBench(t)
			if running {
				start(t, "run", "-c", file, "--state", t.TempDir())
				a := api{base: "http://" + console}
				waitFor(t, 20*time.Second, "the gateway to read the unit beside it", func() bool {
					var buses struct {
						Buses []struct {
							Units []struct {
								ID     string
								Online bool
							}
						}
					}
					return a.get("/api/v1/buses", &buses) && len(buses.Buses) == 1 &&
						slices.ContainsFunc(buses.Buses[0].Units, func(u struct {
							ID     string
							Online bool
						}) bool {
							return u.ID == "old" && u.Online
						})
				})
			}
			code, stdout, stderr := linli(t, "config", "plan", "-c", file)
			if code != exitNo || !strings.Contains(stdout, "old   delay") || !strings.Contains(stdout, "new: at address 3") {
				t.Errorf("plan: %d %q\n%s", code, stderr, stdout)
			}
			stop := switchOffAndOn(t, c, "new")
			code, stdout, stderr = linli(t, "config", "apply", "-c", file, "new", "--from", "1@4800/8E1", "--yes", "--by", "li")
			stop()
			want := `new: accepts settings now
new: delay set from 5 to 7 s
new: has saved its settings
new: format set from 8E1 to 8N1
new: answers at address 1 at 4800 8N1 now
new: baud set from 4800 to 9600
new: answers at address 1 at 9600 8N1 now
new: address set from 1 to 3 (takes effect when it is switched off and on)
new: has saved its settings
new: switch it off and on now; it is looked for at address 3 at 9600 8N1 for 5m0s (Ctrl-C stops the waiting; nothing is lost)
new: everything read once more at address 3 at 9600 8N1
new: as the site file wants
`
			if code != exitGood || !strings.HasSuffix(stdout, want) {
				t.Errorf("apply: %d %q\n%s\nwant\n%s", code, stderr, stdout, want)
			}
			if at, line, err := c.Reached("new"); at != 3 || line.Baud != 9600 || line.Format != "8N1" || err != nil {
				t.Errorf("it is at %d %v, %v", at, line, err)
			}
			if code, stdout, stderr := linli(t, "config", "verify", "-c", file); code != exitGood {
				t.Errorf("verify: %d %q\n%s", code, stderr, stdout)
			}
		})
	}
}
