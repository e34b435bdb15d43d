package modbus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
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

// fenceError says that the request never left, because the one that went before it to make sure of the order of the
// answers (see owed.go) was not answered.
type fenceError struct{ err error }

func (e *fenceError) Error() string   { return e.err.Error() }
func (e *fenceError) Unwrap() []error { return []error{errNotSent, e.err} }

// port is an open serial device or connection. Deadlines must work, also moved while a read is blocked.
type port interface {
	io.ReadWriteCloser
	SetDeadline(t time.Time) error
}

// flusher is a port that can throw away what it received (a serial device).
type flusher interface{ Flush() error }

const (
	// babbleMax bounds the wait for silence on a line where something talks without pause.
	babbleMax = 100 * time.Millisecond
	// idleLook is how long a connection is read for what should not be there. An expired deadline would read nothing.
	idleLook = 100 * time.Microsecond
	// streamQuiet is the silence after which bytes on a connection are taken to be of another frame: converters and
	// networks cut frames into pieces, which no t3.5 allows for.
	streamQuiet = 10 * time.Millisecond
	// silentMost requests in a row that bring not a single byte end a connection: it may be half open.
	silentMost = 2
	// secondMost bounds the wait for a second answer where one would make the first doubtful.
	secondMost = 100 * time.Millisecond
)

// line is the half-duplex line discipline over one port: one exchange at a time, a deadline over the whole of it,
// silence kept between frames, no request whose answer could be taken for one that is still owed (owed.go), and
// resynchronisation after anything odd, without reopening where the bytes on the way can be read away. It is not safe
// for concurrent use.
type line struct {
	open     func(ctx context.Context) (port, error)
	rtu      bool          // RTU framing, else MBAP
	anyID    bool          // MBAP without looking at transaction ids; closed after every timeout, and when more comes than was asked for
	char     time.Duration // one character on the wire; 0 where the transport is not a serial line in the end
	quiet    time.Duration // t3.5; 0 for MBAP
	hold     time.Duration // the longest that an exchange may take with the silence before it; 0 for no such bound
	baud     int           // set by setLine: other settings than open's
	format   string
	register []byte // what the converter sends as a sign of life; nil for nothing

	p         port
	used      bool // an answer has come over p since it was opened
	silent    int  // requests in a row that brought not a byte
	hangsUp   bool // the peer has closed a connection that it had answered over: it may do so again
	looked    bool // check has just found nothing to read
	lost      bool // the last request of all was not answered
	id        uint16
	last      time.Time // end of the last byte sent or received
	dirty     bool      // bytes of unknown origin may still arrive
	foreigner int       // the unit that another master has asked, whose answer has not been seen; -1 for none
	buf       [1024]byte
	n         int // bytes in buf
	kept      [256]byte
	out       []byte
	moving    sync.WaitGroup // a cancel that is moving the deadline
	tap       *[]byte        // gets everything received, up to tapMost; nil for nobody
	units     [256]*memory
	heard     func(b byte)                // called with the unit of each late or foreign frame; never nil
	redo      func(unit byte, req []byte) // called when what was told as the answer to req is in doubt since; may be nil
	counted   bool                        // a damaged answer has been counted whose bytes are still to be read away
	answered  time.Duration

	// What was discarded since the caller last looked.
	late    int // frames and bursts that were not the answer
	foreign int // of late: of other units and masters, and noise
	crc     int // answers with a wrong checksum
	fences  int // requests sent only to make sure of the order of the answers
}

// memory returns what is known of a unit.
func (l *line) memory(unit byte) *memory {
	if l.units[unit] == nil {
		l.units[unit] = &memory{}
	}
	return l.units[unit]
}

// connected reports whether the port is open.
func (l *line) connected() bool { return l.p != nil }

// connect opens the port.
func (l *line) connect(ctx context.Context) error {
	p, err := l.open(ctx)
	if err != nil {
		return err
	}
	if l.baud != 0 {
		s, ok := p.(setter)
		if !ok {
			_ = p.Close()
			return errNoSettings
		}
		if err := s.Set(l.baud, l.format); err != nil {
			_ = p.Close()
			return err
		}
	}
	l.p, l.n, l.used, l.silent = p, 0, false, 0
	l.register = nil
	if r, ok := p.(interface{ registration() []byte }); ok {
		l.register = r.registration()
	}
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
// for a write that would be an unknown outcome every time. It takes 100 µs, and looks only after that much silence; at
// a peer that has hung up before, or whose frames have no ids, every time.
func (l *line) check(silence time.Duration) {
	if l.anyID || l.hangsUp && l.used {
		silence = 0
	}
	if _, serial := l.p.(flusher); l.p == nil || serial || time.Since(l.last) < silence {
		return
	}
	err := l.drain(idleLook)
	l.hangsUp = l.hangsUp || err != nil && l.used
	if err != nil || l.anyID && l.surplus() {
		_ = l.close()
	}
	l.looked = true
}

// metIdleClose reports whether an exchange failed with err because the peer had closed a connection over which it had
// answered before: nothing came for the request, and it may go out again over a new one.
func (l *line) metIdleClose(err error) bool {
	return errors.Is(err, errLinkDown) && l.used && (l.silent > 0 || errors.Is(err, errNotSent))
}

// exchange sends request PDU req to unit and returns the answer PDU, which is valid until the next exchange. timeout
// is the longest wait for the answer to begin; the time that both frames take on a serial line is added to it, and
// the sum bounds the whole exchange. Where the line has a hold, it bounds the sum, but leaves at least waitLeast for
// the answer to begin. Where the unit still owes an answer that could be taken for this one, a fence goes first, with
// the same bounds; if that is not answered, req is not sent. The errors are ctx's, or wrap errTimeout, errGarbled or
// errLinkDown.
func (l *line) exchange(ctx context.Context, unit byte, req []byte, timeout time.Duration) ([]byte, error) {
	if answerSize(req) == 0 {
		return nil, fmt.Errorf("%w: function %#02x is not spoken", errNotSent, req[0])
	}
	return l.fenced(ctx, unit, req, timeout)
}

// fenced is exchange for any function.
func (l *line) fenced(ctx context.Context, unit byte, req []byte, timeout time.Duration) ([]byte, error) {
	if l.p == nil {
		return nil, fmt.Errorf("%w: %w: not open", errNotSent, errLinkDown)
	}
	if l.rtu && unit == 0 {
		// Nobody answers a broadcast; waiting for it would only burn the line's time.
		return nil, errors.New("unit 0 is broadcast: it gives no answer")
	}
	m, begin := l.memory(unit), time.Now()
	var fence []byte
	owes, trial := m.owes(shapeOf(req)), m.tries()
	if owes || trial {
		fence = m.fenceFor(req, begin)
	}
	if fence == nil {
		return l.once(ctx, m, unit, req, timeout, l.hold)
	}
	l.fences++
	ans, err := l.once(ctx, m, unit, fence, timeout, l.hold)
	if err != nil {
		m.fenced(!errors.Is(err, errTimeout), trial && !owes, begin)
		return nil, &fenceError{err}
	}
	if gatewayAway(ans) {
		// The gateway has nobody there; it would say the same again.
		m.owed = m.owed[:len(m.owed)-1]
		l.kept[0], l.kept[1] = req[0]|excFlag, ans[1]
		return l.kept[:2], nil
	}
	m.fenced(true, trial, begin)
	rest := time.Duration(0)
	if l.hold > 0 {
		if rest = l.hold - time.Since(begin); rest < waitLeast {
			return nil, &fenceError{errTimeout} // The next request goes out by itself.
		}
	}
	return l.once(ctx, m, unit, req, timeout, rest)
}

// gatewayAway reports whether an answer is a gateway's exception 11: the unit behind it gave none.
func gatewayAway(ans []byte) bool { return ans[0]&excFlag != 0 && len(ans) > 1 && ans[1] == 11 }

// once sends one request and waits for its answer.
func (l *line) once(ctx context.Context, m *memory, unit byte, req []byte, timeout, hold time.Duration) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", errNotSent, err)
	}
	if l.p == nil {
		return nil, fmt.Errorf("%w: %w: not open", errNotSent, errLinkDown)
	}
	begin := time.Now()
	if err := l.ready(ctx, unit); err != nil {
		err = fmt.Errorf("%w: %w", errNotSent, l.failed(ctx, err))
		l.hangsUp = l.hangsUp || l.metIdleClose(err)
		return nil, err
	}
	start := time.Now()
	sent := start.Add(l.wire(len(req) + 3))
	size := answerSize(req)
	if size == 0 {
		size = 5
	}
	inWire := l.wire(size + 3)
	if hold > 0 {
		timeout = min(timeout, max(waitLeast, hold-max(l.quiet, start.Sub(begin))-sent.Sub(start)-inWire))
	}
	deadline := sent.Add(timeout + inWire)
	l.id++
	if hi := l.id >> 8; l.register != nil && (hi == '\r' || hi == '\n') {
		l.id += 0x100 // A frame must not begin like the line end of a sign of life.
	}
	if l.rtu {
		l.out = appendRTU(l.out[:0], unit, req)
	} else {
		l.out = appendTCP(l.out[:0], l.id, unit, req)
	}
	p := l.p
	if err := p.SetDeadline(deadline); err != nil {
		return nil, l.failed(ctx, err)
	}
	// On cancel the blocked read ends at once. Who cancels may be slow: the exchange is not over before that is.
	l.moving.Add(1)
	stop := context.AfterFunc(ctx, func() {
		_ = p.SetDeadline(time.Unix(1, 0))
		l.moving.Done()
	})
	doubtful := m.doubtful(shapeOf(req))
	ans, err := l.talk(m, unit, req, start, sent)
	came := time.Now()
	turn, repeated := came.Sub(sent)-inWire, false
	if err == nil {
		repeated = (l.rtu || l.anyID) && m.repeats(req, ans, turn, came)
		if until := l.doubt(m, ans, came, turn, doubtful, repeated || m.proof); !until.IsZero() {
			if until.After(deadline) {
				until = deadline
			}
			ans, err = l.only(m, unit, req, ans, doubtful, repeated, until)
		}
	}
	if stop() {
		l.moving.Done()
	} else {
		l.moving.Wait()
		if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			err = ctx.Err()
		}
	}
	now := time.Now()
	if err != nil {
		err = l.failed(ctx, err)
		l.hangsUp = l.hangsUp || l.metIdleClose(err)
		l.lost = true
		// What was asked over a connection that is gone is gone with it where answers have ids. Else it is not: the unit
		// behind a serial device stays, and a converter sends what comes late to whoever is connected then.
		if l.rtu || l.anyID || l.p != nil || !errors.Is(err, errLinkDown) {
			m.unanswered(req, now, timeout)
		}
		return nil, err
	}
	if l.lost = gatewayAway(ans); l.lost {
		m.unanswered(req, now, timeout)
	} else {
		m.answered(req, ans, now, turn)
		if l.rtu || l.anyID {
			m.says(req, ans, turn, repeated, now)
		}
	}
	l.answered, l.used = came.Sub(start), true
	return ans, nil
}

// talk writes the request and reads until the answer is there.
func (l *line) talk(m *memory, unit byte, req []byte, start, sent time.Time) ([]byte, error) {
	l.silent++
	if _, err := l.p.Write(l.out); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = fmt.Errorf("the peer takes no more bytes: %w", io.ErrShortWrite) // A part of it may be on its way.
		}
		return nil, err
	}
	if l.rtu {
		l.last = sent
	}
	if l.rtu {
		return l.talkRTU(m, unit, req, start)
	}
	for {
		pdu, used, stale, err := findTCP(l.buf[:l.n], l.id, unit, req, l.anyID, l.register)
		l.late += stale
		if err != nil {
			if l.anyID {
				l.surplus() // whose it was
			}
			return nil, fmt.Errorf("%w: %w", errGarbled, err)
		}
		if pdu != nil {
			return l.take(pdu, used), nil
		}
		l.drop(used)
		if err := l.receive(); err != nil {
			return nil, err
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
		if l.tap != nil && len(*l.tap) < tapMost {
			*l.tap = append(*l.tap, l.buf[l.n:l.n+n]...)
		}
		l.n += n
		l.last = time.Now()
		l.silent = 0
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

// take copies pdu out of the way of what follows it in the buffer, and drops the used bytes.
func (l *line) take(pdu []byte, used int) []byte {
	if used == l.n {
		l.n = 0
		return pdu
	}
	pdu = l.kept[:copy(l.kept[:], pdu)] // Rare: the peer sent more than was asked.
	l.drop(used)
	return pdu
}

// drain reads away what arrives until nothing has come for d, and counts it. Over TCP what it reads stays for the next
// exchange, which knows the frames by their ids.
func (l *line) drain(d time.Duration) error {
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
		if l.rtu {
			d = max(l.quiet, idleLook)
		}
	}
	if l.rtu {
		l.digest()
	}
	return nil
}

// failed puts the line into a state from which the next exchange can start, and names the failure.
func (l *line) failed(ctx context.Context, err error) error {
	_, serial := l.p.(flusher)
	l.dirty = l.rtu
	switch {
	case ctx.Err() != nil:
		if !errors.Is(err, ctx.Err()) && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, errGarbled) {
			_ = l.close()
		}
		return ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = errTimeout
		l.dirty = l.rtu && l.silent == 0 // Where nothing came there is nothing to wait for the end of.
	case !errors.Is(err, errGarbled):
		// The peer hung up, or the device was pulled.
		_ = l.close()
		return fmt.Errorf("%w: %w", errLinkDown, err)
	}
	// A stream without checksums cannot be entered again in the middle. And a connection that brings nothing at all may
	// be half open: only a new one tells.
	if !serial && (!l.rtu && errors.Is(err, errGarbled) || l.anyID || l.silent >= silentMost) {
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
