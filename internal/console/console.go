// Package console is the gateway's web console and its HTTP API: the page "Now" for the guard room and the phone,
// and /api/v1 for programs. docs/api.md lists the API.
//
// It guarantees:
//   - Everything a page needs comes from this server: pages work with no other network, and the content security
//     policy forbids anything else.
//   - What is shown is what the owners said: alerts come from Alerts exactly as they are there, values from the
//     live table with their quality. A value that is not known is sent as not known.
//   - A client costs a bounded amount: streams are limited in number, hold no queue (a client that fell behind gets
//     a fresh snapshot, one that does not read is dropped), bodies and headers are limited in size.
//   - The gateway's own works (buses and their units, as devices) are no part of what people's pages show: neither /site
//     nor the values have them. /api/v1/buses tells of them.
//   - Without a token it serves the loopback interface only. With one, everything but /healthz and /readyz needs it.
//
// It does not decide anything: no rule, no alert state and no quality is computed here. It stores nothing.
//
// The files of the page are built from web/ into dist/, which is committed, so that building the gateway needs no
// Node. dist/sources.sha256 names the sources it was built from, and a test compares it.
//
// A Server is safe for concurrent use. It starts no goroutine of its own; Run serves until its context ends.
package console

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"linli/internal/alert"
	"linli/internal/live"
	"linli/internal/telemetry"
)

//go:embed all:dist
var dist embed.FS

// Config says where the console listens and who may look. The zero value serves 127.0.0.1:8080 without a token.
type Config struct {
	Listen string // host:port; "" means 127.0.0.1:8080
	// Token is what a person or a program must present. It is required where Listen is not a loopback address.
	Token string
	// Hosts are further host names this console is reached by. Names are checked against DNS rebinding where there
	// is no token; addresses and localhost are always accepted.
	Hosts   []string
	Version string // of the gateway, shown to people
	// BuildInfo is one line about the build: revision, Go version, platform.
	BuildInfo string
	// MaxStreams bounds the pages that are connected at one time; 0 means 64.
	MaxStreams int
	// MaxConns bounds the open connections; further ones wait to be accepted. 0 means 256.
	MaxConns int
}

// Sources is what the console reads, and what it can ask for: acknowledging and closing alerts, orders to outputs and
// the guests of buses, and starting a story of the demo. Inventory, Clock, Live and Alerts are required.
type Sources struct {
	Inventory *telemetry.Inventory
	Clock     *telemetry.Clock
	Live      *live.Table
	Alerts    Alerts
	// Status tells the health of the gateway's own parts. It is called every few seconds per open page and must
	// not wait. Nil means that nothing is known about them.
	Status func() Status
	// Control reaches the buses and the outputs; nil where there are none to reach.
	Control Control
	// Rules answers for the rules engine; nil where there is none.
	Rules Rules
	// Scenarios offers the stories of the demo; nil outside the demo.
	Scenarios Scenarios
	// Metrics writes metrics in the Prometheus text format. Nil means that only the console's own are there.
	Metrics func(io.Writer)
}

// Alerts is what the console uses of the alert book. *alert.Book is one.
type Alerts interface {
	OpenAlerts() []alert.Alert
	Recent(n int) ([]alert.Alert, error)
	Get(id string) (alert.Alert, []alert.Entry, error)
	Acknowledge(ctx context.Context, id, by, note string) (alert.Alert, error)
	CloseByHand(ctx context.Context, id, by, note string) (alert.Alert, error)
	Changed() <-chan struct{}
}

// Status is the health of the gateway's own parts.
type Status struct {
	DryRun  bool           `json:"dry_run"`           // rules command no outputs
	Outputs []OutputStatus `json:"outputs,omitempty"` // that rules want on now
	Uplink  *UplinkStatus  `json:"uplink,omitempty"`  // absent: this box works alone
	Journal *JournalStatus `json:"journal,omitempty"`
	Buses   []BusStatus    `json:"buses,omitempty"`
}

// OutputStatus is one output that a rule drives.
type OutputStatus struct {
	Point   uint32 `json:"point"` // id
	Device  string `json:"device"`
	Name    string `json:"name"` // of the point
	Value   any    `json:"value"`
	Alert   string `json:"alert"`
	Subject string `json:"subject"`
	Done    bool   `json:"done"` // false while it could not be set
	// Left says that a rule had set it before the gateway started, and that it stays so: in a dry run, or because nothing is
	// known of the alert.
	Left bool `json:"left,omitempty"`
}

// UplinkStatus is the connection to the city.
type UplinkStatus struct {
	Connected bool      `json:"connected"`
	Since     time.Time `json:"since,omitzero"`  // of the present state
	Backlog   uint64    `json:"backlog"`         // frames not yet acknowledged
	Error     string    `json:"error,omitempty"` // of the last failed attempt, empty while connected
}

// JournalStatus is the state of the store of samples.
type JournalStatus struct {
	Bytes          int64  `json:"bytes"`
	Frames         uint64 `json:"frames"`
	CommitFailures uint64 `json:"commit_failures"`
	SamplesLost    uint64 `json:"samples_lost"`
	DamagedFrames  uint64 `json:"damaged_frames"`
	LastError      string `json:"last_error,omitempty"` // empty after a good commit
}

// BusStatus is the health of one bus.
type BusStatus struct {
	ID    string       `json:"id"`
	Error string       `json:"error,omitempty"` // why the bus cannot be used, empty while it can
	Units []UnitStatus `json:"units,omitempty"`
}

// UnitStatus is the health of one unit.
type UnitStatus struct {
	ID     string `json:"id"`
	Online bool   `json:"online"`
	Error  string `json:"error,omitempty"` // of the last failed request
}

// Scenarios are the stories of the demo.
type Scenarios interface {
	List() []Scenario
	// Start begins a story and returns at once. The error says, for people, why it cannot begin now.
	Start(name string) error
}

// Scenario is one story of the demo.
type Scenario struct {
	Name    string         `json:"name"` // as --scenario takes it: fire-lane, smoke, bins, dead-device, noise
	Title   telemetry.Text `json:"title"`
	What    telemetry.Text `json:"what"` // what will happen
	Running bool           `json:"running"`
}

// Server is the console.
type Server struct {
	cfg      Config
	src      Sources
	log      *zap.Logger
	handler  http.Handler
	assets   *assets
	view     atomic.Pointer[view]
	token    [32]byte
	counters counters
}

// counters are shown at /metrics.
type counters struct {
	streams, streamsTotal, streamsRefused, streamsDropped atomic.Int64
	denied, crossOrigin, badHost                          atomic.Int64
}

// New returns a console that reads src. The error names what is missing or unsafe in the configuration.
func New(cfg Config, src Sources, log *zap.Logger) (*Server, error) {
	if src.Inventory == nil || src.Clock == nil || src.Live == nil || src.Alerts == nil {
		return nil, errors.New("console: Inventory, Clock, Live and Alerts are required")
	}
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:8080"
	}
	host, _, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("console: listen address %q: %w", cfg.Listen, err)
	}
	if cfg.Token == "" && !loopback(host) {
		return nil, fmt.Errorf("console: listening on %s needs an access token: only loopback addresses go without", cfg.Listen)
	}
	if cfg.MaxStreams <= 0 {
		cfg.MaxStreams = 64
	}
	if cfg.MaxConns <= 0 {
		cfg.MaxConns = 256
	}
	if log == nil {
		log = zap.NewNop()
	}
	files, err := fs.Sub(dist, "dist")
	if err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	s := &Server{cfg: cfg, src: src, log: log, token: sessionOf(cfg.Token)}
	if s.assets, err = loadAssets(files); err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	v, err := newView(src.Inventory, src.Live)
	if err != nil {
		return nil, err
	}
	s.view.Store(v)
	s.handler = s.secure(s.routes())
	return s, nil
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// Run listens on Config.Listen and serves until ctx ends; then it gives requests that are being answered 1 s. Only
// a listener that cannot be opened or breaks is an error.
func (s *Server) Run(ctx context.Context) error {
	ln, err := net.Listen("tcp", s.cfg.Listen)
	if err != nil {
		return fmt.Errorf("console: listen on %s: %w", s.cfg.Listen, err)
	}
	return s.Serve(ctx, ln)
}

// Serve is Run on a listener that is already open; it closes it.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	base, cancel := context.WithCancel(ctx) // Ends the streams, which Shutdown would otherwise wait for.
	defer cancel()
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      30 * time.Second, // Streams move their own deadline.
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		BaseContext:       func(net.Listener) context.Context { return base },
		ErrorLog:          zap.NewStdLog(s.log.WithOptions(zap.IncreaseLevel(zap.ErrorLevel))),
	}
	s.log.Info("console listening", zap.String("address", ln.Addr().String()))
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(limitListener(ln, s.cfg.MaxConns)) }()
	select {
	case err := <-failed:
		return fmt.Errorf("console: serve %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	bound, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Second) // A browser's idle spare connection would hold Shutdown for 5 s.
	defer stop()
	if err := srv.Shutdown(bound); err != nil {
		srv.Close()
	}
	<-failed
	return nil
}

// loopback reports whether host of a listen address reaches this machine alone. The empty host is every address.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// limited is a listener with a bound on its open connections.
type limited struct {
	net.Listener
	slots chan struct{}
	done  chan struct{}
	once  atomic.Bool
}

// limitListener returns ln with at most n connections open at one time; the kernel's queue holds those that wait.
func limitListener(ln net.Listener, n int) net.Listener {
	return &limited{Listener: ln, slots: make(chan struct{}, n), done: make(chan struct{})}
}

func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &limitedConn{Conn: c, slots: l.slots}, nil
}

func (l *limited) Close() error {
	if l.once.CompareAndSwap(false, true) {
		close(l.done)
	}
	return l.Listener.Close()
}

type limitedConn struct {
	net.Conn
	slots  chan struct{}
	closed atomic.Bool
}

func (c *limitedConn) Close() error {
	err := c.Conn.Close()
	if c.closed.CompareAndSwap(false, true) {
		<-c.slots
	}
	return err
}
