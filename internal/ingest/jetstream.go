package ingest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"linli/internal/wire"
)

// NATS says where JetStream is. A nats-server that speaks MQTT to the gateways stores each message of QoS 1 under
// $MQTT.msgs.{subject} and gives the PUBACK when the stream that captures that subject has it, which for a stream of
// three replicas means that two of the servers do. What it hands to plain subscribers, or to a stream on the plain
// subject, nobody waits for. So our guarantee rests on streams that capture $MQTT.msgs:
//
//   - Stream holds telemetry. It is a work queue: a message stays until one ingest has acknowledged it, also if no
//     ingest was ever there. When it is full it takes no more, the server gives no PUBACK, and gateways keep what they
//     have. (The stream that the server makes by itself drops at once what no consumer asks for.)
//   - $MQTT_msgs, the server's own, keeps all else for a week, and the sessions of the gateways and of other MQTT
//     clients read it. For telemetry these must subscribe with QoS 0.
//   - Stream + "_dead" keeps the dead letters.
//
// Ingest makes the streams that are not there and takes telemetry's subject from $MQTT_msgs; a Stream that exists stays
// as it is. One durable pull consumer on each is shared by all ingests that name it.
type NATS struct {
	Servers   []string // nats://host:port or tls://host:port, in order of preference
	CredsFile string   // JWT and key, as nsc writes them; "" means none
	Stream    string   // "" means linli; "$MQTT_msgs" means the server's own as it is, for telemetry too
	Durable   string   // "" means linli-ingest
	Replicas  int      // of streams made here; 0 means 3
	MaxBytes  int64    // of telemetry that wait, on each server, if the stream is made here; 0 means 64 GiB
}

const (
	mqttStored   = "$MQTT.msgs."  // what MQTT clients published with QoS 1
	mqttRetained = "$MQTT.rmsgs." // what the server retains
	mqttMessages = "$MQTT_msgs"
	mqttRetains  = "$MQTT_rmsgs"

	natsTimeout = 10 * time.Second // to connect, and to publish
	// apiTimeout is of one question to JetStream. Those that come while it has no leader get no answer.
	apiTimeout = 4 * time.Second
	ackWait    = 30 * time.Second // without a sign of life a message goes to another ingest
	// maxAckPending bounds what all ingests of a consumer have in hand together, of which each tells the server every
	// ackWait/3 that it is still at work.
	maxAckPending = 10_000
	pullBytes     = 8 << 20 // asked for and not yet taken
	pullWait      = 10 * time.Second
	pullHeartbeat = 2 * time.Second
	// pullSilence is how often a heartbeat may be missed, while a consumer has no leader, before another server is
	// tried: 12 s.
	pullSilence  = 3
	retainedPull = 500
)

func (n *NATS) validate() error {
	var errs []error
	for _, s := range n.Servers {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "nats" && u.Scheme != "tls" || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
			errs = append(errs, fmt.Errorf("server %q must be nats://host:port or tls://host:port and no more", s))
		}
	}
	if n.Stream == "" {
		n.Stream = "linli"
	}
	if n.Durable == "" {
		n.Durable = "linli-ingest"
	}
	if n.Replicas == 0 {
		n.Replicas = 3
	}
	if n.MaxBytes == 0 {
		n.MaxBytes = 64 << 30
	}
	for _, name := range []string{n.Stream, n.Durable} {
		if strings.ContainsAny(name, " .*>/\\\t\r\n") {
			errs = append(errs, fmt.Errorf("%q cannot be a stream's or consumer's name", name))
		}
	}
	if n.Replicas < 1 || n.Replicas > 5 || n.MaxBytes < 0 {
		errs = append(errs, errors.New("replicas must be 1 to 5, and bytes not negative"))
	}
	return errors.Join(errs...)
}

// deadStream returns the name of the stream of dead letters.
func (n *NATS) deadStream() string { return strings.TrimPrefix(n.Stream, "$") + "_dead" }

// natsSubject returns the subject that nats-server gives to a topic or filter without empty levels.
func natsSubject(topic string) string {
	return strings.NewReplacer("/", ".", ".", "//", "+", "*", "#", ">").Replace(topic)
}

// natsTopic returns the topic of a subject, as nats-server does for MQTT clients.
func natsTopic(subject string) string {
	topic := make([]byte, 0, len(subject))
	for i := 0; i < len(subject); i++ {
		switch c := subject[i]; {
		case c == '.':
			topic = append(topic, '/')
		case c == '/' && i+1 < len(subject) && subject[i+1] == '/':
			topic = append(topic, '.')
			i++
		case c == '/' && i+1 < len(subject) && subject[i+1] == '.':
			topic = append(topic, '/')
			i++
		case c == '/':
		default:
			topic = append(topic, c)
		}
	}
	return string(topic)
}

// natsLink is a connection to one server of a NATS cluster.
type natsLink struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	ctx    context.Context // of everything that works on the connection
	cancel context.CancelCauseFunc
	work   sync.WaitGroup
}

// natsMessage is a message of a stream that waits for its acknowledgement.
type natsMessage struct {
	from  *puller
	topic string
	data  []byte
	reply string
	size  int
}

func (m *natsMessage) Topic() string   { return m.topic }
func (m *natsMessage) Payload() []byte { return m.data }

// Ack removes the message from the stream. If that gets lost the message comes again, and makes the same rows.
func (m *natsMessage) Ack() {
	if m.from.done(m) {
		m.from.say(m, "+ACK")
	}
}

// retainedMessage is one of those that the server retains; nobody waits for its acknowledgement.
type retainedMessage struct {
	topic string
	data  []byte
}

func (m *retainedMessage) Topic() string   { return m.topic }
func (m *retainedMessage) Payload() []byte { return m.data }
func (m *retainedMessage) Ack()            {}

// openNATS connects to a server, sees to streams and consumers, and begins to pull. put gets the messages.
func (in *Ingest) openNATS(ctx context.Context, server string, put func(message)) (link, error) {
	cfg := in.cfg.NATS
	opts := []nats.Option{
		nats.Name(in.cfg.ClientID), nats.NoReconnect(), nats.Timeout(natsTimeout), nats.SetCustomDialer(&contextDialer{ctx}),
		nats.PingInterval(10 * time.Second), nats.MaxPingsOutstanding(2), nats.FlusherTimeout(natsTimeout),
	}
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12}
	secure := strings.HasPrefix(server, "tls:")
	if in.cfg.CAFile != "" {
		pem, err := os.ReadFile(in.cfg.CAFile)
		if err != nil {
			return nil, err
		}
		tlsConfig.RootCAs = x509.NewCertPool()
		if !tlsConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", in.cfg.CAFile)
		}
	}
	if in.cfg.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(in.cfg.CertFile, in.cfg.KeyFile)
		if err != nil {
			return nil, err
		}
		tlsConfig.Certificates = []tls.Certificate{cert}
	}
	if secure {
		opts = append(opts, nats.Secure(tlsConfig))
	}
	if cfg.CredsFile != "" {
		opts = append(opts, nats.UserCredentials(cfg.CredsFile))
	}
	if in.cfg.Username != "" {
		password, err := os.ReadFile(in.cfg.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("read password: %w", err)
		}
		opts = append(opts, nats.UserInfo(in.cfg.Username, strings.TrimRight(string(password), "\r\n")))
	}
	l := &natsLink{}
	l.ctx, l.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	opts = append(opts,
		nats.ClosedHandler(func(nc *nats.Conn) {
			err := nc.LastError()
			if err == nil {
				err = net.ErrClosed
			}
			l.cancel(err)
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			in.log.Warn("nats", zap.Error(err)) // permissions, above all
			in.count(func(s *Stats) { s.LastError = err.Error() })
		}))
	nc, err := nats.Connect(server, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", server, err)
	}
	l.nc = nc
	if err := l.open(ctx, in, put); err != nil {
		l.drop(err)
		return nil, fmt.Errorf("connect to %s: %w", server, err)
	}
	return l, nil
}

// contextDialer ends an attempt with its context.
type contextDialer struct{ ctx context.Context }

// Dial connects.
func (d *contextDialer) Dial(network, address string) (net.Conn, error) {
	return (&net.Dialer{Timeout: natsTimeout}).DialContext(d.ctx, network, address)
}

func (l *natsLink) open(ctx context.Context, in *Ingest, put func(message)) error {
	cfg := in.cfg.NATS
	var err error
	if l.js, err = jetstream.New(l.nc, jetstream.WithDefaultTimeout(apiTimeout)); err != nil {
		return err
	}
	if err := l.streams(ctx, cfg, in.log); err != nil {
		return err
	}
	filters := map[string][]string{}
	for _, f := range in.cfg.Filters {
		stream := mqttMessages
		if strings.HasSuffix(f, "/telemetry") {
			stream = cfg.Stream
		}
		filters[stream] = append(filters[stream], mqttStored+natsSubject(plainFilter(f)))
	}
	// Half of the queue for each of the two streams, what is asked for included.
	ask := min(pullBytes, in.cfg.QueueBytes/4)
	if largest := int(l.nc.MaxPayload()) + 4096; ask < largest {
		return fmt.Errorf("a queue of %d bytes is too small for messages of %d bytes (max_payload)", in.cfg.QueueBytes, l.nc.MaxPayload())
	}
	var pullers []*puller
	for stream, subjects := range filters {
		consumer, created, err := l.consumer(ctx, stream, cfg.Durable, subjects)
		if err != nil {
			return fmt.Errorf("consumer %s of stream %s: %w", cfg.Durable, stream, err)
		}
		if created {
			in.log.Info("consumer made", zap.String("stream", stream), zap.String("durable", cfg.Durable), zap.Strings("filters", subjects))
			if err := l.retained(ctx, subjects, put); err != nil {
				return fmt.Errorf("retained messages: %w", err)
			}
		}
		p := &puller{link: l, consumer: consumer, put: put, max: in.cfg.MaxMessage, ask: ask, share: in.cfg.QueueBytes/2 - ask, held: map[*natsMessage]struct{}{}, freed: make(chan struct{}, 1)}
		pullers = append(pullers, p)
	}
	for _, p := range pullers {
		l.work.Go(p.run)
		l.work.Go(p.keep)
	}
	return nil
}

// streams makes the streams that are not there.
func (l *natsLink) streams(ctx context.Context, cfg *NATS, log *zap.Logger) error {
	if cfg.Stream != mqttMessages {
		// All that the wire knows but telemetry and dead letters, which would overlap with it.
		rest := []string{"alert.*", "alerts.*", "event", "status", "cmd.*", "reply.*"}
		for i, kind := range rest {
			rest[i] = mqttStored + natsSubject(wire.Prefix) + "*." + kind
		}
		want := jetstream.StreamConfig{
			Name: mqttMessages, Subjects: rest, Retention: jetstream.LimitsPolicy, MaxAge: 7 * 24 * time.Hour,
			Storage: jetstream.FileStorage, Replicas: cfg.Replicas,
		}
		s, err := l.stream(ctx, &want)
		if err != nil {
			return err
		}
		if now := s.CachedInfo().Config; slices.ContainsFunc(now.Subjects, func(s string) bool { return s == mqttStored+">" }) {
			now.Subjects, now.Retention, now.MaxAge = want.Subjects, want.Retention, want.MaxAge
			if _, err := l.js.UpdateStream(ctx, now); err != nil {
				return fmt.Errorf("stream %s: %w", mqttMessages, err)
			}
			log.Info("stream changed: it leaves telemetry to another", zap.String("stream", mqttMessages), zap.String("other", cfg.Stream))
		}
	}
	for _, want := range []jetstream.StreamConfig{
		{
			Name: cfg.Stream, Subjects: []string{mqttStored + natsSubject(wire.Prefix+"+/telemetry")}, Retention: jetstream.WorkQueuePolicy,
			Discard: jetstream.DiscardNew, MaxBytes: cfg.MaxBytes, Storage: jetstream.FileStorage, Replicas: cfg.Replicas,
		},
		{
			Name: cfg.deadStream(), Subjects: []string{natsSubject(wire.Prefix + "dead/+")}, Retention: jetstream.LimitsPolicy,
			MaxBytes: 1 << 30, MaxAge: 30 * 24 * time.Hour, Storage: jetstream.FileStorage, Replicas: cfg.Replicas,
		},
	} {
		if want.Name == mqttMessages {
			want = jetstream.StreamConfig{Name: mqttMessages, Subjects: []string{mqttStored + ">"}, Retention: jetstream.InterestPolicy, Storage: jetstream.FileStorage, Replicas: cfg.Replicas}
		}
		s, err := l.stream(ctx, &want)
		if err != nil {
			return err
		}
		if now := s.CachedInfo().Config; now.Replicas < cfg.Replicas {
			log.Warn("stream has fewer replicas than it should", zap.String("stream", now.Name), zap.Int("replicas", now.Replicas), zap.Int("want", cfg.Replicas))
		}
	}
	return nil
}

// stream returns a stream, made if it is not there. Others may be making it too.
func (l *natsLink) stream(ctx context.Context, want *jetstream.StreamConfig) (jetstream.Stream, error) {
	s, err := l.js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if s, err = l.js.CreateStream(ctx, *want); errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			s, err = l.js.Stream(ctx, want.Name)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", want.Name, err)
	}
	return s, nil
}

// consumer returns the durable consumer that all ingests share, made if it is not there. Filters are only ever added:
// an ingest of an older version takes nothing from a newer one.
func (l *natsLink) consumer(ctx context.Context, stream, durable string, subjects []string) (c jetstream.Consumer, created bool, err error) {
	want := jetstream.ConsumerConfig{
		Durable: durable, DeliverPolicy: jetstream.DeliverAllPolicy, AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait,
		MaxDeliver: -1, MaxAckPending: maxAckPending, FilterSubjects: subjects,
	}
	c, err = l.js.Consumer(ctx, stream, durable)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		if c, err = l.js.CreateConsumer(ctx, stream, want); !errors.Is(err, jetstream.ErrConsumerExists) {
			return c, err == nil, err
		}
		c, err = l.js.Consumer(ctx, stream, durable)
	}
	if err != nil {
		return nil, false, err
	}
	now := c.CachedInfo().Config
	if len(now.FilterSubjects) == 0 && now.FilterSubject != "" {
		now.FilterSubjects, now.FilterSubject = []string{now.FilterSubject}, ""
	}
	all := slices.Clone(now.FilterSubjects)
	for _, s := range subjects {
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	if len(all) == len(now.FilterSubjects) {
		return c, false, nil
	}
	now.FilterSubjects = all
	c, err = l.js.UpdateConsumer(ctx, stream, now)
	return c, false, err
}

// retained hands over what the server retains of the subjects: what was published before there was a consumer.
func (l *natsLink) retained(ctx context.Context, subjects []string, put func(message)) error {
	var of []string
	for _, s := range subjects {
		of = append(of, mqttRetained+strings.TrimPrefix(s, mqttStored))
	}
	c, err := l.js.OrderedConsumer(ctx, mqttRetains, jetstream.OrderedConsumerConfig{FilterSubjects: of})
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil // no MQTT client was ever there
	}
	if err != nil {
		return err
	}
	for left := c.CachedInfo().NumPending; left > 0; {
		batch, err := c.FetchNoWait(retainedPull)
		if err != nil {
			return err
		}
		got := uint64(0)
		for m := range batch.Messages() {
			got++
			put(&retainedMessage{natsTopic(strings.TrimPrefix(m.Subject(), mqttRetained)), m.Data()})
		}
		if batch.Error() != nil || got == 0 {
			return batch.Error()
		}
		left -= min(left, got)
	}
	return nil
}

func (l *natsLink) publish(topic string, payload []byte) receipt {
	r := &natsReceipt{done: make(chan struct{})}
	m := nats.NewMsg(natsSubject(topic))
	m.Data = payload
	if t, err := wire.ParseTopic(topic); err != nil || t.Kind != wire.Dead {
		// As if an MQTT client had published it with QoS 1.
		m.Subject = mqttStored + m.Subject
		m.Header.Set("Nmqtt-Pub", "1")
	}
	l.work.Go(func() {
		defer close(r.done)
		ctx, cancel := context.WithTimeout(l.ctx, natsTimeout)
		defer cancel()
		_, r.err = l.js.PublishMsg(ctx, m)
	})
	return r
}

// natsReceipt is done when the stream has the message.
type natsReceipt struct {
	done chan struct{}
	err  error // written before done is closed
}

// Done returns a channel that is closed when the stream has answered.
func (r *natsReceipt) Done() <-chan struct{} { return r.done }

// Error says why the stream does not have the message.
func (r *natsReceipt) Error() error { return r.err }

func (l *natsLink) lost() <-chan struct{} { return l.ctx.Done() }
func (l *natsLink) err() error            { return context.Cause(l.ctx) }

func (l *natsLink) drop(why error) {
	l.cancel(why)
	l.nc.Close()
	l.work.Wait()
}

func (l *natsLink) close(quiesce time.Duration) {
	l.cancel(net.ErrClosed)
	l.work.Wait()                  // each gives back what it has in hand
	_ = l.nc.FlushTimeout(quiesce) // what does not get through comes again
	l.nc.Close()
}

// puller pulls the messages of one consumer as long as there is room.
type puller struct {
	link     *natsLink
	consumer jetstream.Consumer
	put      func(message)
	max      int // of one message
	ask      int // bytes asked for ahead
	share    int // of all that are in hand: while it is full nothing is taken

	mu    sync.Mutex // guards held and bytes
	held  map[*natsMessage]struct{}
	bytes int
	freed chan struct{}
}

// run takes messages until the link ends.
//
// It asks by bytes alone: a request for a number of messages is answered "batch completed" at the end, and a consumer
// with replicas says so before it sends them.
func (p *puller) run() {
	messages, err := p.consumer.Messages(jetstream.PullMaxBytes(p.ask), jetstream.PullExpiry(pullWait),
		jetstream.PullHeartbeat(pullHeartbeat), jetstream.WithMessagesErrOnMissingHeartbeat(true))
	if err != nil {
		p.link.cancel(fmt.Errorf("pull: %w", err))
		return
	}
	defer func() {
		// What was sent and not taken need not wait for ackWait.
		messages.Drain()
		for {
			m, err := messages.Next(jetstream.NextMaxWait(time.Second))
			if err != nil || m.Nak() != nil {
				messages.Stop()
				return
			}
		}
	}()
	silent := 0
	for p.link.ctx.Err() == nil {
		if p.room() <= 0 {
			select {
			case <-p.freed:
			case <-p.link.ctx.Done():
			}
			continue
		}
		m, err := messages.Next(jetstream.NextContext(p.link.ctx))
		switch {
		case err == nil:
			silent = 0
			p.take(m)
		case errors.Is(err, jetstream.ErrNoHeartbeat):
			if silent++; silent < pullSilence {
				continue
			}
			fallthrough
		default:
			p.link.cancel(fmt.Errorf("pull: %w", err))
		}
	}
}

func (p *puller) take(m jetstream.Msg) {
	n := &natsMessage{from: p, topic: natsTopic(strings.TrimPrefix(m.Subject(), mqttStored)), data: m.Data(), reply: m.Reply()}
	size := len(n.data)
	large := size > p.max
	if large {
		n.data = nil
	}
	n.size = len(n.data) + messageRoom
	p.mu.Lock()
	p.held[n] = struct{}{}
	p.bytes += n.size
	p.mu.Unlock()
	if large {
		p.put(tooLarge{n, size})
	} else {
		p.put(n)
	}
}

func (p *puller) room() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.share - p.bytes
}

// done takes a message out of hand, once.
func (p *puller) done(m *natsMessage) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.held[m]; !ok {
		return false
	}
	delete(p.held, m)
	p.bytes -= m.size
	select {
	case p.freed <- struct{}{}:
	default:
	}
	return true
}

// say answers for a message. An error means that the connection is gone.
func (p *puller) say(m *natsMessage, what string) { _ = p.link.nc.Publish(m.reply, []byte(what)) }

// inHand returns the messages in hand.
func (p *puller) inHand() []*natsMessage {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*natsMessage, 0, len(p.held))
	for m := range p.held {
		all = append(all, m)
	}
	return all
}

// keep tells the server that what is in hand is worked on, and when the link ends that another may have it.
func (p *puller) keep() {
	tick := time.NewTicker(ackWait / 3)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			for _, m := range p.inHand() {
				p.say(m, "+WPI")
			}
		case <-p.link.ctx.Done():
			for _, m := range p.inHand() {
				if p.done(m) {
					p.say(m, "-NAK")
				}
			}
			return
		}
	}
}
