package modbus_test

import (
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// paced is the far end of a serial line: a pty passes bytes at once, and here they take the time that they take on a
// wire of the given speed, in both directions and one after another. What has been received is known when its last
// byte has come; what is sent goes out in the small portions in which a UART hands it on.
type paced struct {
	pty  *os.File
	char time.Duration // one character
	turn time.Duration // from the end of a request to the start of the answer

	mu  sync.Mutex
	end time.Time // when the last byte in either direction has passed
}

// portion is how many characters reach the reader at once: a UART's receive trigger.
const portion = 8

func (p *paced) Read(b []byte) (int, error) {
	n, err := p.pty.Read(b)
	if n > 0 {
		p.pass(n)
	}
	return n, err
}

func (p *paced) Write(b []byte) (int, error) {
	sleepUntil(p.reserve(0).Add(p.turn))
	p.mu.Lock()
	p.end = time.Now()
	p.mu.Unlock()
	for sent := 0; sent < len(b); {
		n := min(portion, len(b)-sent)
		p.pass(n)
		m, err := p.pty.Write(b[sent : sent+n])
		sent += m
		if err != nil {
			return sent, err
		}
	}
	return len(b), nil
}

func (p *paced) Close() error { return p.pty.Close() }

// reserve lets n more characters pass and returns when the last of them has.
func (p *paced) reserve(n int) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := time.Now(); p.end.Before(now) && n > 0 {
		p.end = now
	}
	p.end = p.end.Add(time.Duration(n) * p.char)
	return p.end
}

func (p *paced) pass(n int) { sleepUntil(p.reserve(n)) }

// sleepUntil sleeps in the kernel: the runtime's timers are exact to a millisecond only while nothing else runs, which
// is more than ten characters at 115200 baud.
func sleepUntil(t time.Time) {
	for {
		d := time.Until(t)
		if d <= 0 {
			return
		}
		ts := unix.NsecToTimespec(int64(d))
		_ = unix.Nanosleep(&ts, nil)
	}
}

var _ io.ReadWriteCloser = (*paced)(nil)
