package simulate

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Pty is a pseudo-terminal pair: what is written to one end is read at the other, as on a serial cable. The
// simulator holds Port; the gateway opens Path like any serial device.
type Pty struct {
	Port *os.File // the simulator's end
	Path string   // device path of the gateway's end

	hold *os.File // keeps the gateway's end open, so that Port does not report a hang-up while nobody has it
}

// OpenPty opens a pseudo-terminal pair in raw mode.
func OpenPty() (*Pty, error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open a pseudo-terminal: %w", err)
	}
	port := os.NewFile(uintptr(fd), "/dev/ptmx")
	fail := func(err error) (*Pty, error) {
		port.Close()
		return nil, fmt.Errorf("open a pseudo-terminal: %w", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return fail(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return fail(err)
	}
	path := "/dev/pts/" + strconv.Itoa(n)
	hold, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return fail(err)
	}
	termios, err := unix.IoctlGetTermios(int(hold.Fd()), unix.TCGETS)
	if err == nil {
		termios.Iflag, termios.Oflag, termios.Lflag = 0, 0, 0
		termios.Cflag = unix.CS8 | unix.CREAD | unix.CLOCAL | unix.B9600
		termios.Cc[unix.VMIN], termios.Cc[unix.VTIME] = 1, 0
		err = unix.IoctlSetTermios(int(hold.Fd()), unix.TCSETS, termios)
	}
	if err != nil {
		hold.Close()
		return fail(err)
	}
	return &Pty{Port: port, Path: path, hold: hold}, nil
}

// Close closes both ends: whoever has Path open sees the line hang up.
func (p *Pty) Close() error {
	p.hold.Close()
	return p.Port.Close()
}
