package modbus

import (
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"
)

// direct is a TCP connection that reads and writes without telling the Go scheduler. A socket of the network poller never
// blocks, so there is nothing to tell; and where a program has nothing else to do, each ordinary system call wakes
// the scheduler's monitor, which is another thread to be switched to, and back, for every request. Like any port it may be
// read and written by one goroutine at a time; its deadline may be moved by another.
type direct struct {
	*net.TCPConn
	raw syscall.RawConn

	in, out         []byte
	read, wrote     int
	inErr, outErr   error
	receive, submit func(fd uintptr) bool // once for all, so that nothing is allocated for a request
}

// newDirect returns c, or a direct connection in its place where it is a TCP connection.
func newDirect(c net.Conn) port {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return c
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return c
	}
	d := &direct{TCPConn: t, raw: raw}
	d.receive = func(fd uintptr) bool {
		for {
			n, _, e := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(d.in))), uintptr(len(d.in)))
			switch e {
			case 0:
				d.read = int(n)
			case syscall.EINTR:
				continue
			case syscall.EAGAIN:
				return false
			default:
				d.inErr = os.NewSyscallError("read", e)
			}
			return true
		}
	}
	d.submit = func(fd uintptr) bool {
		for d.wrote < len(d.out) {
			rest := d.out[d.wrote:]
			n, _, e := syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(rest))), uintptr(len(rest)))
			switch e {
			case 0:
				d.wrote += int(n)
			case syscall.EINTR:
			case syscall.EAGAIN:
				return false
			default:
				d.outErr = os.NewSyscallError("write", e)
				return true
			}
		}
		return true
	}
	return d
}

// Read is net.Conn's Read.
func (d *direct) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	d.in, d.read, d.inErr = p, 0, nil
	err := d.raw.Read(d.receive)
	d.in = nil
	switch {
	case err != nil:
		return 0, err
	case d.inErr != nil:
		return 0, d.inErr
	case d.read == 0:
		return 0, io.EOF
	}
	return d.read, nil
}

// Write is net.Conn's Write.
func (d *direct) Write(p []byte) (int, error) {
	d.out, d.wrote, d.outErr = p, 0, nil
	err := d.raw.Write(d.submit)
	d.out = nil
	if err == nil {
		err = d.outErr
	}
	return d.wrote, err
}
