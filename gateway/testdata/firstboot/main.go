// Command firstboot is what happens around the gateway in the machine of TestFirstBoot: a box that boots without a clock and
// without a network. It moves a contact on a simulated GPIO line and notes when, and after a while it brings the network up,
// asks the host for the time, and sets the clock in one step, as a time service does first. Its notes go to the console as a
// line of JSON behind "firstboot: ".
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"linli/internal/testservers"
)

// notes are times since the boot, in nanoseconds.
type notes struct {
	Before  time.Time // the wall clock before it was set
	Asked   int64     // when the host had told the time
	Network int64     // when the network came up
	Moved   []move
}

type move struct {
	At   int64
	Open bool
}

func main() {
	before := flag.Duration("before", 4*time.Second, "how long the gateway runs without a network and a clock")
	unset := flag.Duration("unset", 3*time.Second, "how long it then runs with a network and without a clock")
	after := flag.Duration("after", 3*time.Second, "how long it runs with both")
	host := flag.String("host", "", "where the host tells the time")
	flag.Parse()
	if err := run(*before, *unset, *after, *host); err != nil {
		fmt.Println("firstboot: failed:", err)
		os.Exit(1)
	}
}

func run(before, unset, after time.Duration, host string) error {
	n := notes{Before: time.Now()}
	chip, err := testservers.NewSimChip("box", "box-lines", map[int]string{0: "door"}, 4)
	if err != nil {
		return err
	}
	open := false
	// For so long the contact moves each second.
	live := func(d time.Duration) error {
		for end := sinceBoot() + int64(d); sinceBoot() < end; time.Sleep(time.Second) {
			open = !open
			at := sinceBoot()
			if err := chip.Set(0, open); err != nil {
				return err
			}
			n.Moved = append(n.Moved, move{at, open})
		}
		return nil
	}
	gateway, err := start()
	if err != nil {
		return err
	}
	if err := live(before); err != nil {
		return err
	}
	// The process ends, as it may before the clock is set; the boot goes on. What it has committed must not be lost.
	time.Sleep(3 * time.Second)
	if err := errors.Join(gateway.Process.Kill(), killed(gateway.Wait())); err != nil {
		return err
	}
	if gateway, err = start(); err != nil {
		return err
	}
	if err := live(before / 4); err != nil {
		return err
	}
	if err := networkUp("eth0", [4]byte{10, 0, 2, 15}); err != nil {
		return err
	}
	n.Network = sinceBoot()
	if err := metric("linli_uplink_connected 1"); err != nil {
		return err
	}
	if err := live(unset); err != nil {
		return err
	}
	if err := setClock(host, &n.Asked); err != nil {
		return err
	}
	if err := live(after); err != nil {
		return err
	}
	if err := errors.Join(gateway.Process.Signal(syscall.SIGTERM), gateway.Wait()); err != nil {
		return fmt.Errorf("the gateway: %w", err)
	}
	text, err := json.Marshal(n)
	fmt.Printf("firstboot: %s\n", text)
	return err
}

// start starts the gateway and returns when it reads the contact.
func start() (*exec.Cmd, error) {
	cmd := exec.Command("/bin/linli", "run", "-c", "/etc/linli/site.yaml", "--state", "/state")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return cmd, metric(`linli_samples_reported_total{reason="first"} 1`)
}

// metric waits until the gateway shows the line in its metrics.
func metric(line string) error {
	shows := func() bool {
		resp, err := http.Get("http://127.0.0.1:8080/metrics")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		return err == nil && strings.Contains(string(text), line+"\n")
	}
	for range 600 {
		if shows() {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("the gateway does not show %s within a minute", line)
}

// killed turns the end by SIGKILL into nil.
func killed(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return nil
	}
	return fmt.Errorf("the gateway ended by itself: %v", err)
}

func sinceBoot() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // there is no way to fail with a clock that every kernel has
	return ts.Nano()
}

// setClock sets the wall clock to what the host says, and asked to when it said so.
func setClock(host string, asked *int64) error {
	conn, err := net.DialTimeout("tcp", host, 10*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	text, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	*asked = sinceBoot()
	now, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil {
		return err
	}
	ts := unix.NsecToTimespec(now)
	return unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
}

// networkUp gives a network card an address in a /24 and switches it on.
func networkUp(name string, address [4]byte) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	set := func(request uint, change func(*unix.Ifreq) error) error {
		ifr, err := unix.NewIfreq(name)
		if err == nil {
			err = change(ifr)
		}
		if err == nil {
			err = unix.IoctlIfreq(s, request, ifr)
		}
		if err != nil {
			return fmt.Errorf("bring up %s: %w", name, err)
		}
		return nil
	}
	return errors.Join(
		set(unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(address[:]) }),
		set(unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr([]byte{255, 255, 255, 0}) }),
		set(unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil }))
}
