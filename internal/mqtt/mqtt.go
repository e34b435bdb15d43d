// Package mqtt is how we use the paho client: one client object per connection, nothing kept in the library, and a
// guarded network connection beneath it. The gateway's uplink and the city's ingest both stand on it.
//
// Guarantees: every write has a deadline, so a stalled peer is noticed; packets of a kind that a server never sends, or
// shaped to crash the library, end the connection before the library sees them; a message that is too large takes no
// memory, is told as Oversized and ends nothing, since the broker would only send it again; loss of the connection is
// known as soon as the socket knows it, whatever the library is doing (without Room for messages, when nothing is read, within
// seconds of it; a peer that is gone without a word after KeepAlive and PingTimeout). A Session never reconnects: a publish that
// succeeded was acknowledged on this very connection, by a packet of the right kind (the library does not look). Keys are
// certificates that are renewed from the disk. hostile_test.go names each known problem of the library and what holds it off.
// Messages do not pass through the library: they are handed over from the goroutine that reads, and their acknowledgements
// go out in order, before whatever is sent after them.
//
// Not here: queues, retries of messages, and when to reconnect (Backoff only says how long to wait).
// A Session's methods are safe for concurrent use.
package mqtt

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
)

// Config says who connects and how.
type Config struct {
	ClientID     string // stable: the broker keeps the session under it
	Username     string
	PasswordFile string // read at each connect
	CAFile       string // empty: the system's authorities
	CertFile     string // with KeyFile: the client's certificate, read at each connect
	KeyFile      string
	Keys         *Keys // in place of the three files: read once, and renewed when Renew says so

	MaxPacket    int           // largest message taken from the broker, in bytes; 0 means 256 KiB
	KeepAlive    time.Duration // 0 means 30 s
	PingTimeout  time.Duration // 0 means 10 s
	DialTimeout  time.Duration // for dialling, TLS and the broker's answer; 0 means 10 s
	WriteTimeout time.Duration // 0 means 10 s
	// Now is the time by which certificates are judged; nil means the clock.
	Now func() time.Time
	// Clean: the broker keeps no session when the connection is over.
	Clean bool
}

// Will is what the broker publishes, retained, when the connection is lost.
type Will struct {
	Topic   string
	Payload []byte
}

// Options are of one connection.
type Options struct {
	Will *Will
	// OnMessage gets every message of every subscription, in order. It must not block; each message must be
	// acknowledged by Ack, or it is delivered again. nil: messages are acknowledged and ignored.
	OnMessage func(paho.Message)
	// OnOversized gets every message that is larger than MaxPacket, in order with the others, and must not block. nil: they
	// are acknowledged and ignored.
	OnOversized func(*Oversized)
	// Room is asked before each packet is read: nil says that there is room for a message, a channel that there will be once
	// it is closed. Until then nothing is taken from the socket, so that the broker has to wait; acknowledgements and pings
	// go out, and the end of the connection is noticed (where the system tells: on Linux). nil: there is always room.
	Room func() <-chan struct{}
}

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.KeepAlive, 30*time.Second)
	def(&c.PingTimeout, 10*time.Second)
	def(&c.DialTimeout, 10*time.Second)
	def(&c.WriteTimeout, 10*time.Second)
	if c.MaxPacket == 0 {
		c.MaxPacket = 256 << 10
	}
	return c
}

// ParseBroker checks a broker's address, tcp://host:port or tls://host:port (also mqtt:// and mqtts://, ssl://; the
// ports default to 1883 and 8883), and returns host:port and whether it is TLS.
func ParseBroker(broker string) (address string, secure bool, err error) {
	u, err := url.Parse(broker)
	if err != nil {
		return "", false, fmt.Errorf("broker %q: %w", broker, err)
	}
	port := "1883"
	switch u.Scheme {
	case "tcp", "mqtt":
	case "tls", "mqtts", "ssl":
		secure, port = true, "8883"
	default:
		return "", false, fmt.Errorf("broker %q: must be tcp://host:port or tls://host:port", broker)
	}
	if u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return "", false, fmt.Errorf("broker %q: must be %s://host:port and no more", broker, u.Scheme)
	}
	if u.Port() != "" {
		port = u.Port()
	}
	return net.JoinHostPort(u.Hostname(), port), secure, nil
}

// Session is one connection to a broker, from Connect until Lost.
type Session struct {
	Present bool // the broker still had the session of this client id
	client  paho.Client
	conn    *guard
}

// Connect connects to broker and waits for its answer, until the configured timeout or the end of ctx.
func Connect(ctx context.Context, cfg Config, broker string, opts Options) (*Session, error) {
	cfg = cfg.withDefaults()
	address, secure, err := ParseBroker(broker)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.DialTimeout)
	defer cancel()
	password := ""
	if cfg.PasswordFile != "" {
		b, err := os.ReadFile(cfg.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("read password: %w", err)
		}
		password = strings.TrimRight(string(b), "\r\n")
	}
	raw, err := dial(ctx, &cfg, address, secure)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", broker, err)
	}
	if opts.Room != nil {
		// Nobody waits for the answer to a ping while nothing is read.
		setUserTimeout(raw, cfg.KeepAlive+cfg.PingTimeout)
	}
	g := newGuard(raw, &cfg, &opts)
	o := paho.NewClientOptions()
	o.AddBroker("tcp://" + address) // only for form: the connection is already open
	o.SetCustomOpenConnectionFn(func(*url.URL, paho.ClientOptions) (net.Conn, error) { return g, nil })
	o.SetClientID(cfg.ClientID).SetCleanSession(cfg.Clean).SetProtocolVersion(4)
	o.SetUsername(cfg.Username).SetPassword(password)
	o.SetAutoReconnect(false).SetConnectRetry(false).SetResumeSubs(false)
	o.SetStore(paho.NewOrderedMemoryStore())
	o.SetKeepAlive(cfg.KeepAlive).SetPingTimeout(cfg.PingTimeout)
	o.SetConnectTimeout(cfg.DialTimeout).SetWriteTimeout(cfg.WriteTimeout)
	o.SetOrderMatters(true).SetAutoAckDisabled(true)
	o.SetConnectionLostHandler(func(_ paho.Client, err error) { g.fail(err) })
	if opts.Will != nil {
		o.SetBinaryWill(opts.Will.Topic, opts.Will.Payload, 1, true)
	}

	s := &Session{client: paho.NewClient(o), conn: g}
	token := s.client.Connect()
	select {
	case <-token.Done():
	case <-ctx.Done():
		g.fail(ctx.Err()) // the library gives up when its connection fails
		<-token.Done()
	}
	if err := token.Error(); err != nil {
		if cause := g.err(); cause != nil && !errors.Is(cause, net.ErrClosed) {
			err = cause
		}
		g.fail(err)
		return nil, fmt.Errorf("connect to %s: %w", broker, err)
	}
	if t, ok := token.(*paho.ConnectToken); ok {
		s.Present = t.SessionPresent()
	}
	return s, nil
}

func dial(ctx context.Context, cfg *Config, address string, secure bool) (net.Conn, error) {
	var tlsConfig *tls.Config
	if secure {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		keys := cfg.Keys
		if keys == nil {
			if keys, err = NewKeys(cfg.CAFile, cfg.CertFile, cfg.KeyFile, cfg.Now); err != nil {
				return nil, err
			}
		}
		if tlsConfig, err = keys.config(host); err != nil {
			return nil, err
		}
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil || !secure {
		return conn, err
	}
	t := tls.Client(conn, tlsConfig)
	if err := t.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return t, nil
}

// Publish hands a message with QoS 1 to the connection. It blocks while the socket does, at most the write timeout, and
// no longer than the connection lives. The payload must not change until the token is done. The token may never be
// done once the connection is lost: wait for Lost too. A token done without error has the broker's acknowledgement.
func (s *Session) Publish(topic string, retained bool, payload []byte) paho.Token {
	// The library waits out its whole write timeout although the connection is gone; a process that stops has no such
	// time. The goroutine left behind then ends with that timeout.
	handed := make(chan paho.Token, 1)
	go func() { handed <- s.client.Publish(topic, 1, retained, payload) }()
	select {
	case token := <-handed:
		return token
	case <-s.conn.lost:
		return failedToken{s.conn.err()}
	}
}

// failedToken is the token of a message that was never handed to the connection.
type failedToken struct{ err error }

// Wait does not: the message has failed.
func (failedToken) Wait() bool { return true }

// WaitTimeout does not wait either.
func (failedToken) WaitTimeout(time.Duration) bool { return true }

// Done returns a channel that is closed.
func (failedToken) Done() <-chan struct{} {
	done := make(chan struct{})
	close(done)
	return done
}

// Error says why the connection was lost.
func (t failedToken) Error() error { return t.err }

// Subscribe subscribes to one filter with QoS 1 and checks that the broker granted it.
func (s *Session) Subscribe(ctx context.Context, filter string) error {
	token, ok := s.client.Subscribe(filter, 1, nil).(*paho.SubscribeToken)
	if !ok {
		return fmt.Errorf("subscribe to %s: unexpected token", filter)
	}
	select {
	case <-token.Done():
	case <-s.Lost():
		return fmt.Errorf("subscribe to %s: %w", filter, s.Err())
	case <-ctx.Done():
		return fmt.Errorf("subscribe to %s: %w", filter, ctx.Err())
	}
	// A refusal is reported by its code, and by some versions of the library also as an error.
	switch code, ok := token.Result()[filter]; {
	case ok && code == 0:
		return fmt.Errorf("subscribe to %s: the broker grants QoS 0 only, with which messages are lost", filter)
	case ok && code > 1:
		return fmt.Errorf("subscribe to %s: the broker refuses it (code 0x%02x): check its access rules", filter, code)
	}
	if err := token.Error(); err != nil {
		return fmt.Errorf("subscribe to %s: %w", filter, err)
	}
	return nil
}

// Lost is closed when the connection is gone, whoever ended it.
func (s *Session) Lost() <-chan struct{} { return s.conn.lost }

// Err says why the connection was lost, nil while it is not.
func (s *Session) Err() error { return s.conn.err() }

// Drop ends the connection without farewell; the broker publishes the will.
func (s *Session) Drop(why error) { s.conn.fail(why) }

// Close says farewell, waits at most quiesce until the broker has read it and all that was sent before, and ends the
// connection. The will is not published.
func (s *Session) Close(quiesce time.Duration) {
	s.conn.leave(quiesce)
	s.client.Disconnect(uint(quiesce.Milliseconds()))
	s.conn.fail(net.ErrClosed)
}

// Backoff says how long to wait before the next attempt to connect: nothing before the first, then a random share
// of a limit that doubles from 1 s to 60 s, so that a city of boxes does not come back in step. It belongs to one
// goroutine.
type Backoff struct {
	limit time.Duration
	tried bool
}

// Next returns the wait before the next attempt.
func (b *Backoff) Next() time.Duration {
	if !b.tried {
		b.tried, b.limit = true, time.Second
		return 0
	}
	wait := rand.N(b.limit) + time.Millisecond
	b.limit = min(2*b.limit, time.Minute)
	return wait
}

// Lived says that a connection worked for a while: the next waits are short again, but not nothing.
func (b *Backoff) Lived() { b.limit = time.Second }

// guard is the connection beneath the library.
type guard struct {
	net.Conn
	writeTimeout time.Duration
	room         func() <-chan struct{}
	in           *packetReader // the library has one reader

	out     outbound
	writing sync.Mutex // a packet must not get into another
	once    sync.Once
	lost    chan struct{}
	cause   error // written before lost is closed

	acks struct {
		sync.Mutex
		waiting  []byte // acknowledgements to be written, whole packets
		flushing bool   // somebody will
	}
	ackRoom []byte // of those being written; guarded by writing

	linger  atomic.Int64  // after the farewell: how long, as a Duration, the broker may take to end the connection
	leaving chan struct{} // closed with it
}

func newGuard(c net.Conn, cfg *Config, opts *Options) *guard {
	g := &guard{
		Conn: c, writeTimeout: cfg.WriteTimeout, room: opts.Room, lost: make(chan struct{}), leaving: make(chan struct{}),
		out: outbound{waits: map[uint16]byte{}},
	}
	onMessage, onOversized := opts.OnMessage, opts.OnOversized
	if onMessage == nil {
		onMessage = func(m paho.Message) { m.Ack() } // or they would fill the broker's window
	}
	if onOversized == nil {
		onOversized = func(m *Oversized) { m.Ack() }
	}
	g.in = &packetReader{
		in: bufio.NewReaderSize(c, 16<<10), max: cfg.MaxPacket, answers: g.out.answered, ready: g.ready, alive: time.Now(),
		message: func(m *message) {
			if g.linger.Load() == 0 { // after the farewell nobody can acknowledge it: it comes again
				m.conn = g
				onMessage(m)
			}
		},
		oversized: func(m *Oversized) {
			if g.linger.Load() == 0 {
				m.conn = g
				onOversized(m)
			}
		},
	}
	return g
}

// ready waits until there is room for a message, at most aliveEvery, and says whether there is.
func (g *guard) ready() (bool, error) {
	if g.room == nil {
		return true, nil
	}
	select {
	case <-g.leaving:
		return true, nil
	default:
	}
	room := g.room()
	if room == nil {
		return true, nil
	}
	timer := time.NewTimer(aliveEvery)
	defer timer.Stop()
	select {
	case <-room:
		return true, nil
	case <-g.leaving: // the end of the connection is waited for
		return true, nil
	case <-g.lost:
		return false, g.cause
	case <-timer.C:
		return false, ended(g.Conn)
	}
}

// ack has a message acknowledged soon, together with others.
func (g *guard) ack(id uint16) {
	g.acks.Lock()
	defer g.acks.Unlock()
	g.acks.waiting = append(g.acks.waiting, puback<<4, 2, byte(id>>8), byte(id))
	if !g.acks.flushing {
		g.acks.flushing = true
		go func() {
			for g.flush() {
			}
		}()
	}
}

// flush writes the acknowledgements that wait, and says whether there were any.
func (g *guard) flush() bool {
	g.writing.Lock()
	defer g.writing.Unlock()
	return g.writeAcks(true)
}

// writeAcks does that for who holds the lock. last is said by the flusher, which ends when there are none.
func (g *guard) writeAcks(last bool) bool {
	g.acks.Lock()
	acks := g.acks.waiting
	g.acks.waiting = g.ackRoom[:0]
	g.ackRoom = acks
	if last && len(acks) == 0 {
		g.acks.flushing = false
	}
	g.acks.Unlock()
	if len(acks) == 0 {
		return false
	}
	_, _ = g.write(acks) // an error ends the connection
	return true
}

func (g *guard) fail(why error) {
	g.once.Do(func() {
		g.cause = why
		close(g.lost)
		g.Conn.Close()
	})
}

// leave is said before the farewell: what comes from now on is read and forgotten.
func (g *guard) leave(quiesce time.Duration) {
	if g.linger.CompareAndSwap(0, max(1, int64(quiesce))) {
		close(g.leaving)
	}
}

func (g *guard) err() error {
	select {
	case <-g.lost:
		return g.cause
	default:
		return nil
	}
}

func (g *guard) Read(p []byte) (int, error) {
	n, err := g.in.Read(p)
	if err != nil {
		g.fail(err)
		// The library takes "use of closed network connection" for its own doing and would leave its goroutines
		// behind when it was ours.
		err = &lostError{g.cause}
	}
	return n, err
}

// lostError is what the library gets to see of a lost connection; its text does not depend on the cause.
type lostError struct{ cause error }

func (e *lostError) Error() string { return "connection lost" }
func (e *lostError) Unwrap() error { return e.cause }

func (g *guard) Write(p []byte) (int, error) {
	g.writing.Lock()
	defer g.writing.Unlock()
	g.writeAcks(false) // what is said later arrives later: above all the farewell
	g.out.sent(p)
	return g.write(p)
}

// write is for who holds the lock.
func (g *guard) write(p []byte) (int, error) {
	// Every write, also of pings and acknowledgements: a peer that reads nothing must be noticed.
	if err := g.Conn.SetWriteDeadline(time.Now().Add(g.writeTimeout)); err != nil {
		g.fail(err)
		return 0, err
	}
	n, err := g.Conn.Write(p)
	if err != nil {
		g.fail(err)
	}
	return n, err
}

// Close is called by the library, at the latest when it has said farewell. The broker ends the connection when it has read
// that. Were the socket closed before, what the broker sends meanwhile would fail, and Mosquitto then forgets what it has
// not yet read: our last acknowledgements.
func (g *guard) Close() error {
	if d := time.Duration(g.linger.Load()); d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-g.lost: // the library still reads
		case <-timer.C:
		}
	}
	g.fail(net.ErrClosed)
	return nil
}
