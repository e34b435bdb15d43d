package modbus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

const (
	// registerWithin is how long a converter has to say who it is.
	registerWithin = 10 * time.Second
	// registerMore is how much longer it is waited for, once what came is a registration but might become a longer one.
	registerMore = 300 * time.Millisecond
	// pendingMost connections may be waiting to register. Further ones are closed at once and counted.
	pendingMost = 256
	// registrationMost bounds the bytes that are read of a converter before it has registered.
	registrationMost = 512
	relistenFirst    = time.Second
	relistenMost     = 30 * time.Second
	// rivalMost times within rivalWithin a connection that works is replaced by another one: then two converters use one
	// registration.
	rivalMost   = 3
	rivalWithin = time.Minute
)

// Listener accepts converters that dial in (cellular modems behind an address of their own provider) and hands each to
// its bus: by the registration packet that it sends first, or, where a port has a single bus without registration,
// by the port.
//
// A registration may have line ends before and after it, and may be repeated as a sign of life later; the bus leaves it
// out. The newest connection of a converter counts and the one before is closed: the converter has lost it, whatever
// our side still believes. A connection that does not register within 10 s, or with something that nobody expects, is
// closed and counted. Two converters with one registration close each other's connections; Route.Rivals tells.
//
// Routes are added before Run; everything else may be called from any goroutine.
type Listener struct {
	address string
	log     *zap.Logger
	routes  []*Route
	within  time.Duration // registerWithin

	pending   atomic.Int64
	strangers atomic.Uint64
	refused   atomic.Uint64

	mu     sync.Mutex // guards what follows
	bound  net.Addr
	logged string // the stranger that was told last
}

// NewListener returns a listener for address (host:port). Routes are added before Run.
func NewListener(address string, log *zap.Logger) *Listener {
	if log == nil {
		log = zap.NewNop()
	}
	return &Listener{address: address, within: registerWithin, log: log.With(zap.String("listen", address))}
}

// Route returns the source of connections for the bus whose converter registers with the given bytes; nil takes every
// connection of the port and must be its only route.
func (l *Listener) Route(registration []byte) *Route {
	r := &Route{reg: bytes.Clone(registration), arrived: make(chan struct{}, 1), wake: make(chan struct{}, 1)}
	l.routes = append(l.routes, r)
	return r
}

// Addr returns the address that is listened on, nil while there is none.
func (l *Listener) Addr() net.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bound
}

// Address returns the address that the listener was made for.
func (l *Listener) Address() string { return l.address }

// Strangers returns how many connections were closed because they did not register as anybody we know.
func (l *Listener) Strangers() uint64 { return l.strangers.Load() }

// Refused returns how many connections were closed at once because too many had not registered yet.
func (l *Listener) Refused() uint64 { return l.refused.Load() }

// Run listens until ctx ends. A listener that cannot be opened is tried again; it is not the end of the gateway. The
// only errors are mistakes of whoever added the routes.
func (l *Listener) Run(ctx context.Context) error {
	if err := l.validate(); err != nil {
		return err
	}
	defer func() {
		for _, r := range l.routes {
			r.abandon()
		}
	}()
	wait, down := relistenFirst, false
	for ctx.Err() == nil {
		var lc net.ListenConfig
		// A modem that lost its network says nothing; its connection shall not last for hours.
		lc.KeepAliveConfig = net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3}
		ln, err := lc.Listen(ctx, "tcp", l.address)
		if err == nil {
			if down {
				l.log.Info("listening for converters again")
			}
			wait, down = relistenFirst, false
			l.bind(ln.Addr())
			err = l.serve(ctx, ln)
			l.bind(nil)
		}
		if ctx.Err() != nil {
			break
		}
		if !down {
			l.log.Warn("cannot listen for converters", zap.Error(err))
			down = true
		}
		_ = pause(ctx, wait)
		wait = min(2*wait, relistenMost)
	}
	return nil
}

func (l *Listener) bind(a net.Addr) {
	l.mu.Lock()
	l.bound = a
	l.mu.Unlock()
}

func (l *Listener) validate() error {
	for i, r := range l.routes {
		if len(r.reg) == 0 && len(l.routes) > 1 {
			return fmt.Errorf("listen %s: several buses, and one of them without a registration", l.address)
		}
		if len(r.reg) > registrationMost/2 {
			return fmt.Errorf("listen %s: a registration of %d bytes, at most %d", l.address, len(r.reg), registrationMost/2)
		}
		for _, o := range l.routes[:i] {
			if bytes.Equal(r.reg, o.reg) {
				return fmt.Errorf("listen %s: two buses with registration %q", l.address, r.reg)
			}
		}
	}
	return nil
}

// serve accepts until ctx ends or accepting fails for good.
func (l *Listener) serve(ctx context.Context, ln net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	for {
		c, err := ln.Accept()
		if err != nil {
			var ne net.Error
			if ctx.Err() == nil && errors.As(err, &ne) && ne.Timeout() {
				continue
			}
			_ = ln.Close()
			return err
		}
		if len(l.routes) == 1 && len(l.routes[0].reg) == 0 {
			l.routes[0].offer(&inboundConn{Conn: c})
			continue
		}
		if l.pending.Add(1) > pendingMost {
			l.pending.Add(-1)
			l.refused.Add(1)
			_ = c.Close()
			continue
		}
		wg.Go(func() {
			defer l.pending.Add(-1)
			l.admit(ctx, c)
		})
	}
}

// admit reads the registration of a new connection and hands it to its bus.
func (l *Listener) admit(ctx context.Context, c net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = c.SetReadDeadline(time.Now().Add(l.within))
	buf := make([]byte, 0, registrationMost)
	for ctx.Err() == nil {
		n, err := c.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		r, rest, open := l.match(buf)
		timeout := err != nil && isTimeout(err)
		switch {
		case r != nil && (!open || timeout):
			if !stop() {
				_ = c.Close()
				return
			}
			_ = c.SetDeadline(time.Time{})
			r.offer(&inboundConn{Conn: c, reg: r.reg, rest: bytes.Clone(rest)})
			return
		case r != nil && open && err == nil:
			_ = c.SetReadDeadline(time.Now().Add(registerMore))
		case !open || err != nil || len(buf) == cap(buf):
			_ = c.Close()
			if ctx.Err() == nil {
				l.stranger(c.RemoteAddr(), buf)
			}
			return
		}
	}
	_ = c.Close()
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// match finds whose registration buf begins with, and what follows it. open tells that more bytes could make it a
// (longer) registration.
func (l *Listener) match(buf []byte) (r *Route, rest []byte, open bool) {
	for _, o := range l.routes {
		for skip := 0; ; skip++ {
			b := buf[skip:]
			switch {
			case bytes.HasPrefix(b, o.reg):
				if r == nil || len(o.reg) > len(r.reg) {
					r, rest = o, b[len(o.reg):]
				}
			case bytes.HasPrefix(o.reg, b):
				open = true
			}
			// A registration may begin with a line end of its own; so it is looked for behind each.
			if len(b) == 0 || b[0] != '\r' && b[0] != '\n' {
				break
			}
		}
	}
	return r, rest, open
}

// stranger counts a connection that nobody expects, and logs it unless it is the one that was logged last.
func (l *Listener) stranger(from net.Addr, said []byte) {
	l.strangers.Add(1)
	host := hostOf(from)
	said = said[:min(len(said), 64)]
	who := host + " " + string(said)
	l.mu.Lock()
	again := l.logged == who
	l.logged = who
	l.mu.Unlock()
	if !again {
		l.log.Warn("a converter that is not of this site was turned away", zap.String("from", host),
			zap.String("said", fmt.Sprintf("%q", said)), zap.Uint64("so_far", l.strangers.Load()))
	}
}

// hostOf returns the host of an address, or all of it where it has no port.
func hostOf(a net.Addr) string {
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return host
}

// Route hands the converter's newest connection to a Bus (Config.Inbound).
type Route struct {
	reg     []byte
	arrived chan struct{} // holds a value while next may be there
	wake    chan struct{}

	mu     sync.Mutex           // guards what follows
	next   net.Conn             // not taken by Accept yet
	handed net.Conn             // taken by Accept last
	from   [2]string            // the hosts of the last two connections
	fights [rivalMost]time.Time // when a working connection was replaced last
	fought int
}

// Wake returns a channel that holds a value after a converter has dialled in, until it is taken out. It is never closed.
func (r *Route) Wake() <-chan struct{} { return r.wake }

// Waiting reports whether Accept would return at once.
func (r *Route) Waiting() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.next != nil
}

// offer makes c the converter's connection.
func (r *Route) offer(c net.Conn) {
	r.mu.Lock()
	old, handed := r.next, r.handed
	r.next, r.handed = c, nil
	r.from = [2]string{r.from[1], hostOf(c.RemoteAddr())}
	if i, ok := handed.(*inboundConn); ok && !i.closed.Load() {
		r.fights[r.fought%rivalMost] = time.Now()
		r.fought++
	}
	r.mu.Unlock()
	for _, o := range []net.Conn{old, handed} {
		if o != nil {
			_ = o.Close()
		}
	}
	for _, ch := range []chan struct{}{r.arrived, r.wake} {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

// Rivals returns an error that says that two converters use this registration, while they do: within a minute several
// connections that worked were replaced. It may be called from any goroutine.
func (r *Route) Rivals() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for _, t := range r.fights {
		if now.Sub(t) > rivalWithin {
			return nil
		}
	}
	who := "two converters dial in to one port"
	if len(r.reg) > 0 {
		who = fmt.Sprintf("two converters register as %q", r.reg)
	}
	if r.from[0] != r.from[1] {
		who += " (from " + r.from[0] + " and " + r.from[1] + ")"
	}
	return errors.New(who + ": each new connection ends the one before, which worked")
}

// abandon closes the connection that nobody took.
func (r *Route) abandon() {
	r.mu.Lock()
	c := r.next
	r.next = nil
	r.mu.Unlock()
	if c != nil {
		_ = c.Close()
	}
}

// Accept waits for a connection that it has not returned yet. Whoever gets it closes it; it is also closed when the
// converter dials in again.
func (r *Route) Accept(ctx context.Context) (net.Conn, error) {
	for {
		r.mu.Lock()
		c := r.next
		if c != nil {
			r.next, r.handed = nil, c
		}
		r.mu.Unlock()
		if c != nil {
			return c, nil
		}
		select {
		case <-r.arrived:
		case <-ctx.Done():
			if len(r.reg) > 0 {
				return nil, fmt.Errorf("converter %q has not dialled in: %w", r.reg, ctx.Err())
			}
			return nil, fmt.Errorf("no converter has dialled in: %w", ctx.Err())
		}
	}
}

// inboundConn is a registered connection. What came behind the registration is read first.
type inboundConn struct {
	net.Conn
	reg    []byte
	rest   []byte
	closed atomic.Bool
}

// Close closes the connection.
func (c *inboundConn) Close() error {
	c.closed.Store(true)
	return c.Conn.Close()
}

func (c *inboundConn) Read(p []byte) (int, error) {
	if len(c.rest) > 0 && len(p) > 0 {
		n := copy(p, c.rest)
		c.rest = c.rest[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// registration returns what the converter repeats as a sign of life.
func (c *inboundConn) registration() []byte {
	if len(c.reg) == 0 {
		return nil
	}
	return c.reg
}

var _ io.ReadWriteCloser = (*inboundConn)(nil)
