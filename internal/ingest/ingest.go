// Package ingest is the city side of the wire: it takes messages from a broker and writes rows into a database with
// the InfluxDB v2 write API.
//
// # Guarantees
//
//   - A message is acknowledged to the broker only after the database has said yes to every one of its lines, or the
//     lines it refused are in the dead-letter topic and that was acknowledged. Killed at any moment, it gets the
//     messages again; the same lines are the same rows.
//   - No line is trusted: site and gateway must be those of the topic, which the broker binds to the sender's
//     certificate; the shape is checked byte by byte; the measurements that ingest itself writes, unknown tags,
//     impossible times, and values of another type than the class has are refused: no site can make the database
//     refuse another's data.
//   - A line that the database refuses is found by halving and does not hold up the others. Before anything is taken
//     for bad, a probe shows that the database takes what is good: a wrong bucket never empties into dead letters.
//     A node with many such lines in one batch is not searched to the end: the rest of that measurement, and then of
//     that node, is dead-lettered with them.
//   - While the database is down or misconfigured nothing is acknowledged and nothing dropped; the broker keeps it.
//   - Memory is bounded by QueueBytes (packed) with one message over it, and BatchBytes plus a few MaxMessage (unpacked). While
//     the queue is full nothing is read from the broker's connection, which lives on. A message that is larger than MaxMessage
//     is never in memory; it is noted as a dead letter.
//
// # Rows
//
// Data lines go in as they came. Beside them it writes, as docs/wire.md describes, the measurements alert (one row
// per transition), linli_loss (one per lost range), linli_ledger (one per message), linli_status (one per status) and linli_ingest (the probe).
// A Repairer beside it writes linli_hour (one per hour and gateway) and linli_check (one per look).
//
// # What it does not do
//
// It keeps no state: run as many as the broker's shared subscriptions feed. It orders nothing. What is missing a Repairer asks
// for, whose memory is the database.
//
// Concurrency: Run owns everything; Stats may be called from any goroutine.
package ingest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"linli/internal/mqtt"
	"linli/internal/wire"
)

// Config says where messages come from and where rows go.
type Config struct {
	Brokers      []string // tcp://host:port or tls://host:port, in order of preference
	ClientID     string   // stable and unique: the broker keeps what was not acknowledged under it; "" means linli-ingest
	Username     string
	PasswordFile string
	CAFile       string
	CertFile     string
	KeyFile      string
	// Filters are the subscriptions, "" means DefaultFilters. "$share/group/" before a filter
	// shares the work among all that name the group, where the broker can.
	Filters []string
	// NATS, if not nil, is where messages come from instead of Brokers. ClientID is then only a name, and "$share/..."
	// says nothing, since a durable consumer is shared anyway.
	NATS *NATS

	Influx Influx
	// Kinds tells the type of a field of a class, so that no site can fix it to another: a database keeps the type of
	// the first value. Where known is false (classes and points that this ingest has never heard of) any type passes.
	// It is asked once per name, from one goroutine. nil knows none.
	Kinds func(measurement, field string) (kind wire.FieldType, known bool)
	// Now is by what impossible times are told; nil means the clock.
	Now func() time.Time

	Repair Repair

	BatchBytes  int           // of lines in one write; 0 means 500 KiB
	BatchAge    time.Duration // a batch waits no longer for more; 0 means 200 ms
	QueueBytes  int           // of messages taken and not yet written; 0 means 16 MiB, with NATS 64 MiB
	MaxMessage  int           // of one message, packed and unpacked; 0 means 1 MiB (gateways keep to 256 KiB unpacked)
	SlowRetry   time.Duration // between attempts while the database refuses us; 0 means 30 s
	MaxBackoff  time.Duration // caps the waits between all other attempts; 0 means 30 s; to reach the broker 3 s at most
	StopTimeout time.Duration // to finish the batch at hand when stopping; 0 means 5 s
}

// Influx is the database.
type Influx struct {
	URL       string // http://host:8086 or https://host/prefix
	Org       string // may be empty for InfluxDB 1.8
	Bucket    string // for InfluxDB 1.8 database/retention-policy
	TokenFile string // read at each write; for InfluxDB 1.8 it holds user:password; "" means no authentication
}

// DefaultFilters returns every node's telemetry, alerts and status.
func DefaultFilters() []string {
	return []string{wire.Prefix + "+/telemetry", wire.Prefix + "+/alert/+", wire.Prefix + "+/status"}
}

// Validate fills in the defaults and says everything that is wrong.
func (c *Config) Validate() error {
	var errs []error
	if c.NATS != nil {
		if len(c.Brokers) > 0 {
			errs = append(errs, errors.New("either brokers or NATS servers"))
		}
		if err := c.NATS.validate(); err != nil {
			errs = append(errs, err)
		}
	}
	if len(c.servers()) == 0 {
		errs = append(errs, errors.New("no broker"))
	}
	for _, b := range c.Brokers {
		if _, _, err := mqtt.ParseBroker(b); err != nil {
			errs = append(errs, err)
		}
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		errs = append(errs, errors.New("a certificate needs its key and a key its certificate"))
	}
	if c.ClientID == "" {
		c.ClientID = "linli-ingest"
	}
	if len(c.Filters) == 0 {
		c.Filters = DefaultFilters()
	}
	for _, f := range c.Filters {
		if !strings.HasPrefix(plainFilter(f), wire.Prefix) {
			errs = append(errs, fmt.Errorf("filter %q must begin with %s (or $share/group/%s)", f, wire.Prefix, wire.Prefix))
		}
	}
	if _, err := c.Influx.writeURL(); err != nil {
		errs = append(errs, err)
	}
	def := func(n *int, v int) {
		if *n == 0 {
			*n = v
		}
	}
	def(&c.BatchBytes, 500<<10)
	if c.NATS != nil {
		def(&c.QueueBytes, 64<<20)
	}
	def(&c.QueueBytes, 16<<20)
	def(&c.MaxMessage, 1<<20)
	wait := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	wait(&c.BatchAge, 200*time.Millisecond)
	wait(&c.SlowRetry, 30*time.Second)
	wait(&c.MaxBackoff, 30*time.Second)
	wait(&c.StopTimeout, 5*time.Second)
	if c.Now == nil {
		c.Now = time.Now
	}
	return errors.Join(errs...)
}

// servers returns where messages come from, in order of preference.
func (c *Config) servers() []string {
	if c.NATS != nil {
		return c.NATS.Servers
	}
	return c.Brokers
}

// plainFilter returns a filter without "$share/group/".
func plainFilter(f string) string {
	if rest, ok := strings.CutPrefix(f, "$share/"); ok {
		_, f, _ = strings.Cut(rest, "/")
	}
	return f
}

// Stats are counters since the start, and what is going on now.
type Stats struct {
	Connected     bool
	Broker        string
	Messages      uint64 // taken from the broker
	Acknowledged  uint64 // messages written and acknowledged
	Lines         uint64 // written, ours included
	Bytes         uint64 // of lines written
	Writes        uint64 // accepted by the database
	Retries       uint64 // writes attempted again
	BadMessages   uint64 // that could not be read at all
	Strangers     uint64 // of these, on a topic whose node is not site.gateway, or that is none of ours otherwise
	Oversized     uint64 // of these, larger than MaxMessage before unpacking
	BadLines      uint64 // refused by us: not line protocol, foreign, reserved, or with a wrong tag, time or type
	Foreign       uint64 // of these, lines and alerts of another site or gateway
	RefusedLines  uint64 // refused by the database
	CountWrong    uint64 // messages whose lines are not as many as the header says
	Throttled     uint64 // how often nothing more was read from the broker because the queue was full
	QueueMessages int
	QueueBytes    int
	// Holding says why nothing is written although there is something to write; empty when all is well.
	Holding   string
	LastError string
}

// Ingest moves messages from a broker to a database.
type Ingest struct {
	livedAfter, quietAfter, dialTimeout time.Duration // dialTimeout 0: the default

	cfg Config
	log *zap.Logger
	db  *writer

	mu           sync.Mutex // guards stats and toldStranger
	stats        Stats
	toldStranger time.Time

	linkMu sync.Mutex // guards link, also while something is handed to it
	link   link       // the connection that is up, for who wants to send something; nil: none
}

// New returns an ingest. It validates cfg and does nothing before Run.
func New(cfg Config, log *zap.Logger) (*Ingest, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("ingest: %w", err)
	}
	if log == nil {
		log = zap.NewNop()
	}
	in := &Ingest{cfg: cfg, log: log, livedAfter: livedAfter, quietAfter: quietAfter}
	db, err := newWriter(cfg, log, in.count)
	if err != nil {
		return nil, fmt.Errorf("ingest: %w", err)
	}
	in.db = db
	return in, nil
}

// Stats returns the present figures. It may be called from any goroutine.
func (in *Ingest) Stats() Stats {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.stats
}

// strangerEvery bounds the log lines about topics that are nobody's.
const strangerEvery = time.Minute

// stranger notes a message on a topic that is no gateway's. There is no dead letter, since that needs a node; the message
// is acknowledged and gone.
func (in *Ingest) stranger(err error) {
	in.mu.Lock()
	in.stats.BadMessages++
	in.stats.Strangers++
	n, now := in.stats.Strangers, time.Now()
	tell := in.toldStranger.IsZero() || now.Sub(in.toldStranger) >= strangerEvery
	if tell {
		in.toldStranger = now
	}
	in.mu.Unlock()
	if tell {
		in.log.Warn("messages on a topic that is no gateway's are not written", zap.Error(err), zap.Uint64("so_far", n))
	}
}

func (in *Ingest) setLink(l link) {
	in.linkMu.Lock()
	defer in.linkMu.Unlock()
	in.link = l
}

var errNoLink = errors.New("not connected to a broker")

// send publishes a message on the connection that is up, and waits until the broker has it.
func (in *Ingest) send(ctx context.Context, topic string, payload []byte) error {
	in.linkMu.Lock()
	l := in.link
	var r receipt
	if l != nil {
		r = l.publish(topic, payload) // within the lock: a connection that ends is taken away first
	}
	in.linkMu.Unlock()
	if l == nil {
		return errNoLink
	}
	select {
	case <-r.Done():
		return r.Error()
	case <-l.lost():
		return cmp.Or(l.err(), errNoLink)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (in *Ingest) count(change func(*Stats)) {
	in.mu.Lock()
	defer in.mu.Unlock()
	change(&in.stats)
}

const (
	// livedAfter is how long a connection must last to count as a good one.
	livedAfter = 10 * time.Second
	// quietAfter is how long a connection may bring nothing before that is told: each gateway says its status once a minute,
	// and filters that match nothing, or what access rules keep back, are granted without an error.
	quietAfter = 3 * time.Minute
	// brokerWait caps the waits between attempts to reach the broker: one that came back without its sessions keeps
	// nothing for us before we have subscribed anew.
	brokerWait = 3 * time.Second
)

// Run works until ctx ends, then finishes the batch at hand within StopTimeout; what it cannot finish stays with the
// broker. Brokers and databases that are not there are no errors: it returns nil when ctx ends.
func (in *Ingest) Run(ctx context.Context) error {
	var backoff mqtt.Backoff
	failing := false
	servers := in.cfg.servers()
	for attempt := 0; ; attempt++ {
		timer := time.NewTimer(min(backoff.Next(), in.cfg.MaxBackoff, brokerWait))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		broker := servers[attempt%len(servers)]
		var upAt time.Time
		err := in.connection(ctx, broker, func() {
			upAt, failing = time.Now(), false
			in.log.Info("ingest connected", zap.String("broker", broker))
		})
		in.count(func(s *Stats) {
			s.Connected, s.QueueMessages, s.QueueBytes = false, 0, 0
			if err != nil && ctx.Err() == nil {
				s.LastError = err.Error()
			}
		})
		if ctx.Err() != nil {
			return nil
		}
		if !upAt.IsZero() && time.Since(upAt) >= in.livedAfter {
			backoff.Lived()
			attempt = -1
		}
		if !upAt.IsZero() || !failing {
			failing = true
			in.log.Warn("ingest has no broker", zap.String("broker", broker), zap.Error(err))
		}
	}
}

// farewellFor is how long at most the broker may take to read the last acknowledgements, at an orderly stop. What it has not read
// by then comes again.
const farewellFor = 2 * time.Second

// connection works with one connection until it is lost or ctx ends.
func (in *Ingest) connection(ctx context.Context, broker string, up func()) error {
	before := in.Stats().Messages
	q := &queue{max: in.cfg.QueueBytes, ready: make(chan struct{}, 1), full: func() { in.count(func(s *Stats) { s.Throttled++ }) }}
	put := func(m message) {
		in.count(func(s *Stats) { s.Messages++; s.QueueMessages++; s.QueueBytes += len(m.Payload()) })
		q.put(m)
	}
	var l link
	var err error
	if in.cfg.NATS != nil {
		l, err = in.openNATS(ctx, broker, put) // keeps to QueueBytes by itself
	} else {
		l, err = in.openMQTT(ctx, broker, put, q.room)
	}
	if err != nil {
		return err
	}
	defer l.drop(errors.New("done"))
	up()
	quiet := time.AfterFunc(in.quietAfter, func() {
		if in.Stats().Messages == before {
			in.log.Warn("nothing was heard since the connection: are there gateways, and do filters and the broker's access rules let their messages through?",
				zap.String("broker", broker), zap.Strings("filters", in.cfg.Filters), zap.Duration("for", in.quietAfter))
		}
	})
	defer quiet.Stop()
	in.count(func(s *Stats) { s.Connected, s.Broker, s.LastError = true, broker, "" })
	in.setLink(l)
	defer in.setLink(nil) // before it is dropped

	// Work in progress may outlive ctx by the stop timeout, but not the connection: without it nothing can be
	// acknowledged, and everything comes again.
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		defer stopWork()
		stopping := ctx.Done()
		var limit <-chan time.Time
		for {
			select {
			case <-l.lost():
				return
			case <-stopping:
				timer := time.NewTimer(in.cfg.StopTimeout)
				defer timer.Stop()
				stopping, limit = nil, timer.C
			case <-limit:
				return
			case <-work.Done():
				return
			}
		}
	}()
	defer func() { stopWork(); <-watched }()

	b, err := newBatcher(in, l)
	if err != nil {
		return err
	}
	defer b.close()
	for {
		messages := q.gather(ctx, l.lost(), min(in.cfg.BatchBytes, in.cfg.QueueBytes/2), in.cfg.BatchAge)
		if len(messages) > 0 {
			if err := b.process(work, messages); err != nil {
				if lost := l.err(); lost != nil {
					return lost
				}
				return err
			}
			bytes := 0
			for _, m := range messages {
				bytes += len(m.Payload())
			}
			q.release(len(messages), bytes)
			in.count(func(s *Stats) {
				s.QueueMessages -= len(messages)
				s.QueueBytes -= bytes
			})
		}
		switch {
		case l.err() != nil:
			return l.err()
		case ctx.Err() != nil:
			in.setLink(nil)
			l.close(farewellFor)
			return nil
		}
	}
}
