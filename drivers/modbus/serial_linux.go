package modbus

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// serialPort is a tty through the runtime's poller: deadlines and cancel work as on a socket, a hang-up ends a
// blocked read at once, writes are complete, and descriptors above 1023 are no problem. The usual serial packages
// use select(2) on the bare descriptor and give none of this.
type serialPort struct {
	*os.File
	uart bool // not a pty: characters take their time
}

// openSerial opens device, takes it for this process alone, and sets it to raw mode at the line's settings. A device
// that somebody else holds is ErrInUse. A symbolic link (/dev/serial/by-id/...) is followed anew each time.
func openSerial(device string, baud int, format string) (port, error) {
	f, err := os.OpenFile(device, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("%s: %w", device, ErrInUse)
	}
	if err != nil {
		return nil, err
	}
	p := serialPort{File: f}
	if p.uart, err = p.lock(); err == nil {
		err = p.Set(baud, format)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s: %w", device, err)
	}
	return p, nil
}

// lock takes the device: with flock, which holds for root too and by which gateway and tools know each other, and with
// TIOCEXCL against everybody else. It reports whether the device is a real serial line.
func (p serialPort) lock() (uart bool, err error) {
	err = p.control(func(fd int) error {
		switch err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); {
		case errors.Is(err, unix.EWOULDBLOCK):
			return ErrInUse
		case err != nil:
			return fmt.Errorf("lock: %w", err)
		}
		// Ptys and some adapters refuse this; that is no reason to stop.
		_ = unix.IoctlSetInt(fd, unix.TIOCEXCL, 0)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		// Numbers 136 to 143 are the ends of pseudo-terminals (Documentation/admin-guide/devices.txt).
		major := unix.Major(uint64(st.Rdev))
		uart = major < 136 || major > 143
		return nil
	})
	return uart, err
}

// Close gives the device back.
func (p serialPort) Close() error {
	// The mark would stay as long as anybody has the device open. The lock goes with the descriptor.
	_ = p.control(func(fd int) error { return unix.IoctlSetInt(fd, unix.TIOCNXCL, 0) })
	return p.File.Close()
}

// Set sets the line's speed and format and throws away what is in the buffers.
func (p serialPort) Set(baud int, format string) error {
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
		return unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIOFLUSH)
	})
}

// Flush throws away what was received and not read.
func (p serialPort) Flush() error {
	return p.control(func(fd int) error { return unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIFLUSH) })
}

// waiting returns how many bytes were received and not read.
func (p serialPort) waiting() (n int, err error) {
	err = p.control(func(fd int) (err error) {
		n, err = unix.IoctlGetInt(fd, unix.TIOCINQ)
		return err
	})
	return n, err
}

// doze sleeps for d in the kernel. The runtime's timers come up to a millisecond late on an idle machine, which is half
// of the silence between two frames above 19200 baud.
func (p serialPort) doze(d time.Duration) {
	t := unix.NsecToTimespec(int64(d))
	_ = unix.Nanosleep(&t, nil) // A signal may end it early; the silence is measured again.
}

// paced reports whether characters take the time on the wire that the settings say.
func (p serialPort) paced() bool { return p.uart }

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
