package modbus

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// serialPort is a tty through the runtime's poller: deadlines and cancel work as on a socket, a hang-up ends a
// blocked read at once, writes are complete, and descriptors above 1023 are no problem. The usual serial packages
// use select(2) on the bare descriptor and give none of this.
type serialPort struct{ *os.File }

// openSerial opens device and sets it to raw mode at the line's settings.
func openSerial(device string, baud int, format string) (port, error) {
	f, err := os.OpenFile(device, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	p := serialPort{f}
	if err := p.setup(baud, format); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("set up %s: %w", device, err)
	}
	return p, nil
}

func (p serialPort) setup(baud int, format string) error {
	return p.control(func(fd int) error {
		t, err := unix.IoctlGetTermios(fd, unix.TCGETS2)
		if err != nil {
			return err
		}
		t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
		// BOTHER takes the rate as a number, so that odd rates (56000) work like the listed ones.
		t.Cflag = unix.CREAD | unix.CLOCAL | unix.CS8 | unix.BOTHER
		t.Ispeed, t.Ospeed = uint32(baud), uint32(baud)
		switch {
		case len(format) != 3 || format[0] != '8':
			return fmt.Errorf("line format %q", format)
		case format[1] == 'E':
			t.Cflag |= unix.PARENB
			t.Iflag |= unix.INPCK
		case format[1] == 'O':
			t.Cflag |= unix.PARENB | unix.PARODD
			t.Iflag |= unix.INPCK
		}
		if strings.HasSuffix(format, "2") {
			t.Cflag |= unix.CSTOPB
		}
		// With VMIN 0 an idle line would read as end of file.
		t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
		if err := unix.IoctlSetTermios(fd, unix.TCSETS2, t); err != nil {
			return err
		}
		// Nobody else shall talk on the line. Ptys and some adapters refuse; that is no reason to stop.
		_ = unix.IoctlSetInt(fd, unix.TIOCEXCL, 0)
		return unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIOFLUSH)
	})
}

// Flush throws away what was received and not read.
func (p serialPort) Flush() error {
	return p.control(func(fd int) error { return unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIFLUSH) })
}

// control runs f on the descriptor. File.Fd would take it out of the poller.
func (p serialPort) control(f func(fd int) error) error {
	c, err := p.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := c.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}
