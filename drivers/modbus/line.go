package modbus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	gomodbus "github.com/goburrow/modbus"
)

// Outcomes of an exchange that are no answer. An exception is an answer: *gomodbus.ModbusError.
var (
	errTimeout  = errors.New("no answer")
	errGarbled  = errors.New("garbled answer")
	errLinkDown = errors.New("link down")
	// errNotSent comes with one of the others, or with ctx's error, where the request never left.
	errNotSent = errors.New("not sent")
)

// port is an open serial device or connection. Deadlines must work, also moved while a read is blocked.
type port interface {
	io.ReadWriteCloser
	SetDeadline(t time.Time) error
}

// flusher is a port that can throw away what it received (a serial device).
type flusher interface{ Flush() error }

// babbleMax bounds the wait for silence on a line where something talks without pause.
const babbleMax = 100 * time.Millisecond

// idleLook is how long a connection is read for what should not be there. An expired deadline would read nothing.
const idleLook = 100 * time.Microsecond

// line is the half-duplex line discipline over one port: one exchange at a time, a deadline over the whole of it,
// silence kept between frames, and resynchronisation after anything odd. It is not safe for concurrent use.
type line struct {
	open  func(ctx context.Context) (port, error)
	rtu   bool          // RTU framing, else MBAP
	char  time.Duration // one character on the wire; 0 where the transport is not a serial line in the end
	quiet time.Duration // t3.5; 0 for MBAP
	hold  time.Duration // the longest that an exchange may take with the silence before it; 0 for no such bound

	p        port
	used     bool // an answer has come over p since it was opened
	id       uint16
	last     time.Time // end of the last byte sent or received
	dirty    bool      // bytes of unknown origin may still arrive
	buf      [1024]byte
	n        int // bytes in buf
	out      []byte
	late     int          // frames discarded since the caller last looked
	heard    func(b byte) // called with the unit of each late or foreign frame; never nil
	answered time.Duration
}

// connected reports whether the port is open.
func (l *line) connected() bool { return l.p != nil }

// connect opens the port.
func (l *line) connect(ctx context.Context) error {
	p, err := l.open(ctx)
	if err != nil {
		return err
	}
	l.p, l.n, l.used = p, 0, false
	// A serial line may be in the middle of somebody's frame when we come to it.
	l.dirty = l.rtu
	return nil
}

// close closes the port; the next exchange needs connect.
func (l *line) close() error {
	if l.p == nil {
		return nil
	}
	err := l.p.Close()
	l.p, l.n = nil, 0
	return err
}

// wire returns how long n characters take on the wire.
func (l *line) wire(n int) time.Duration { return time.Duration(n) * l.char }

// check closes a connection that the peer gave up while it lay idle, so that the next request does not run into it:
// for a write that would be an unknown outcome every time. It takes 100 µs, and looks only after that much silence.
func (l *line) check(silence time.Duration) {
	if _, serial := l.p.(flusher); l.p == nil || serial || time.Since(l.last) < silence {
		return
	}
	if l.drain(idleLook) != nil {
		_ = l.close()
	}
}

// exchange sends request PDU req to unit and returns the answer PDU, which is valid until the next exchange. timeout
// is the longest wait for the answer to begin; the time that both frames take on a serial line is added to it, and
// the sum bounds the whole exchange. Where the line has a hold, it bounds the sum, but leaves at least waitLeast for
// the answer to begin. The errors are ctx's, or wrap errTimeout, errGarbled or errLinkDown.
func (l *line) exchange(ctx context.Context, unit byte, req []byte, timeout time.Duration) ([]byte, error) {
	if l.p == nil {
		return nil, fmt.Errorf("%w: %w: not open", errNotSent, errLinkDown)
	}
	if l.rtu && unit == 0 {
		// Nobody answers a broadcast; waiting for it would only burn the line's time.
		return nil, errors.New("unit 0 is broadcast: it gives no answer")
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", errNotSent, err)
	}
	if err := l.ready(ctx); err != nil {
		return nil, fmt.Errorf("%w: %w", errNotSent, l.failed(ctx, err))
	}
	start := time.Now()
	sent := start.Add(l.wire(len(req) + 3))
	answer := l.wire(answerSize(req) + 3)
	if l.hold > 0 {
		timeout = min(timeout, max(waitLeast, l.hold-l.quiet-sent.Sub(start)-answer))
	}
	deadline := sent.Add(timeout + answer)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	l.id++
	if l.rtu {
		l.out = appendRTU(l.out[:0], unit, req)
	} else {
		l.out = appendTCP(l.out[:0], l.id, unit, req)
	}
	p := l.p
	if err := p.SetDeadline(deadline); err != nil {
		return nil, l.failed(ctx, err)
	}
	// On cancel the blocked read ends at once. The port is closed afterwards (failed), so that a callback that
	// runs late can hurt no later exchange.
	stop := context.AfterFunc(ctx, func() { _ = p.SetDeadline(time.Unix(1, 0)) })
	ans, err := l.talk(unit, req, sent)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, l.failed(ctx, err)
	}
	l.answered, l.used = time.Since(start), true
	return ans, nil
}

// talk writes the request and reads until the answer is there.
func (l *line) talk(unit byte, req []byte, sent time.Time) ([]byte, error) {
	if _, err := l.p.Write(l.out); err != nil {
		return nil, err
	}
	if l.rtu {
		l.last = sent
	}
	var odd error // what came that was no answer; more telling than "no answer"
	for {
		if err := l.receive(); err != nil {
			if odd != nil && errors.Is(err, os.ErrDeadlineExceeded) {
				return nil, odd
			}
			return nil, err
		}
		if !l.rtu {
			pdu, used, stale, err := findTCP(l.buf[:l.n], l.id, unit, req)
			l.late += stale
			if err != nil {
				return nil, fmt.Errorf("%w: %w", errGarbled, err)
			}
			if pdu != nil {
				// The answer stays in place below n; the next exchange begins behind it.
				return l.take(pdu, used), nil
			}
			l.drop(used)
			continue
		}
		pdu, skipped, v := findRTU(l.buf[:l.n], unit, req)
		switch v {
		case found:
			if skipped > 0 {
				l.late++
			}
			l.n = 0
			return pdu, nil
		case bad:
			return nil, fmt.Errorf("%w: CRC does not match", errGarbled)
		}
		for {
			u, n, ok := foreignRTU(l.buf[:l.n])
			if !ok {
				break
			}
			if u == unit {
				odd = fmt.Errorf("%w: %d bytes of function %#02x", errGarbled, n, l.buf[1])
			} else {
				odd = fmt.Errorf("%w: unit %d answered", errGarbled, u)
			}
			l.late++
			l.heard(u)
			l.drop(n)
		}
	}
}

// receive reads what is there, blocking until the deadline.
func (l *line) receive() error {
	if l.n == len(l.buf) {
		l.drop(l.n / 2) // Only noise fills the buffer; no frame is half as long.
	}
	n, err := l.p.Read(l.buf[l.n:])
	if n > 0 {
		l.n += n
		l.last = time.Now()
		return nil
	}
	if err == nil {
		// A hung-up device must not make us spin.
		return io.ErrNoProgress
	}
	return err
}

// drop forgets the first n bytes of the buffer.
func (l *line) drop(n int) { l.n = copy(l.buf[:], l.buf[n:l.n]) }

// take copies pdu out of the way of what follows it in the buffer, and drops the used bytes. The copy lies in the
// unused rear half of the buffer.
func (l *line) take(pdu []byte, used int) []byte {
	if used == l.n {
		l.n = 0
		return pdu
	}
	pdu = append([]byte(nil), pdu...) // Rare: the peer sent more than was asked.
	l.drop(used)
	return pdu
}

// ready brings the line into the state in which a request may be sent: quiet for t3.5, nothing left to read.
func (l *line) ready(ctx context.Context) error {
	if !l.rtu {
		return nil
	}
	if err := pause(ctx, time.Until(l.last.Add(l.quiet))); err != nil {
		return err
	}
	if l.dirty {
		if err := l.settle(ctx); err != nil {
			return err
		}
		l.dirty = false
	}
	if f, ok := l.p.(flusher); ok {
		l.n = 0
		return f.Flush()
	}
	// A connection cannot be flushed: what lies there is read away.
	return l.drain(idleLook)
}

// settle reads until nothing has come for t3.5, at most for babbleMax.
func (l *line) settle(ctx context.Context) error {
	end := time.Now().Add(babbleMax)
	for time.Now().Before(end) && ctx.Err() == nil {
		was := l.last
		if err := l.drain(l.quiet); err != nil {
			return err
		}
		if l.last.Equal(was) {
			return nil
		}
	}
	return ctx.Err()
}

// drain throws away what arrives until nothing has come for d, telling late frames from noise.
func (l *line) drain(d time.Duration) error {
	l.n = 0
	for range 16 {
		if err := l.p.SetDeadline(time.Now().Add(d)); err != nil {
			return err
		}
		if err := l.receive(); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			return err
		}
	}
	if l.n > 0 {
		l.late++
		if u, _, ok := foreignRTU(l.buf[:l.n]); ok {
			l.heard(u)
		}
	}
	l.n = 0
	return nil
}

// failed puts the line into a state from which the next exchange can start, and names the failure.
func (l *line) failed(ctx context.Context, err error) error {
	_, serial := l.p.(flusher)
	switch {
	case ctx.Err() != nil:
		_ = l.close()
		return ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = errTimeout
	case !errors.Is(err, errGarbled):
		// The peer hung up, or the device was pulled.
		_ = l.close()
		return fmt.Errorf("%w: %w", errLinkDown, err)
	}
	if serial {
		l.dirty = true
	} else {
		// On a connection the late answer would stay in the stream; only a new one is surely clean.
		_ = l.close()
	}
	return err
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// call is one request on its way through goburrow's client: it brings the context and the unit id, for which that
// interface has no room, without touching state that other requests see.
type call struct {
	ctx     context.Context // lives exactly as long as the call
	line    *line
	unit    byte
	timeout time.Duration
	req     [maxPDU]byte
}

// Encode returns the bare PDU: framing belongs to the line.
func (c *call) Encode(pdu *gomodbus.ProtocolDataUnit) ([]byte, error) {
	if len(pdu.Data) > maxPDU-1 {
		return nil, errors.New("request too long")
	}
	c.req[0] = pdu.FunctionCode
	return c.req[:1+copy(c.req[1:], pdu.Data)], nil
}

// Send carries out the exchange.
func (c *call) Send(req []byte) ([]byte, error) {
	return c.line.exchange(c.ctx, c.unit, req, c.timeout)
}

// Verify has nothing to add: the line returns only what checkAnswer accepted.
func (c *call) Verify(_, _ []byte) error { return nil }

// Decode splits the answer PDU.
func (c *call) Decode(ans []byte) (*gomodbus.ProtocolDataUnit, error) {
	return &gomodbus.ProtocolDataUnit{FunctionCode: ans[0], Data: ans[1:]}, nil
}

// client returns goburrow's client for requests to unit under ctx.
func (l *line) client(ctx context.Context, unit byte, timeout time.Duration) gomodbus.Client {
	return gomodbus.NewClient(&call{ctx: ctx, line: l, unit: unit, timeout: timeout})
}
