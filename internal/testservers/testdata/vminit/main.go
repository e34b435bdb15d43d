// Command vminit is the first process of the machine that testservers.RunInVM boots. It mounts what programs expect to
// be mounted, loads the kernel modules, brings the loopback interface up, runs one program, prints how that ended and
// switches the machine off. All that it prints goes to the serial console.
//
// What to run stands in /vminit.json, see Job in testservers.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	code, err := run()
	if err != nil {
		fmt.Println("vminit:", err)
		code = 125
	}
	fmt.Println("vminit: exit code", code)
	_ = unix.IoctlSetInt(1, unix.TCSBRK, 1) // wait until the serial line has taken everything
	unix.Sync()
	err = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	fmt.Println("vminit: power off:", err)
	time.Sleep(time.Hour) // the first process must not end: the kernel would panic
}

// run prepares the machine, runs the program and returns its exit code.
func run() (int, error) {
	var job struct {
		Modules, Env, Args []string
	}
	b, err := os.ReadFile("/vminit.json")
	if err != nil {
		return 0, err
	}
	if err := json.Unmarshal(b, &job); err != nil {
		return 0, err
	}
	for _, m := range []struct{ kind, dir string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"devpts", "/dev/pts"},
	} {
		if err := mount(m.kind, m.dir); err != nil {
			return 0, err
		}
	}
	for _, file := range job.Modules {
		if err := insmod(file); err != nil {
			return 0, err
		}
	}
	// The mount point exists since configfs.ko is loaded.
	if err := mount("configfs", "/sys/kernel/config"); err != nil {
		return 0, err
	}
	if err := loopbackUp(); err != nil {
		return 0, err
	}

	cmd := exec.Command(job.Args[0], job.Args[1:]...)
	cmd.Env = append([]string{"PATH=/bin:/", "HOME=/", "TMPDIR=/tmp"}, job.Env...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	err = cmd.Run()
	if ended := (*exec.ExitError)(nil); errors.As(err, &ended) {
		if status, ok := ended.Sys().(interface{ Signaled() bool }); ok && status.Signaled() {
			fmt.Println("vminit:", err) // names the signal
		}
		return ended.ExitCode(), nil
	}
	return 0, err
}

func mount(kind, dir string) error {
	// Those of the kernel's own file systems are there, and Mkdir fails in them. A missing one shows in Mount.
	_ = os.Mkdir(dir, 0o755)
	if err := unix.Mount(kind, dir, kind, 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	return nil
}

func insmod(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil {
		return fmt.Errorf("load %s: %w", file, err)
	}
	return nil
}

// loopbackUp lets programs speak to each other over 127.0.0.1.
func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	return nil
}
