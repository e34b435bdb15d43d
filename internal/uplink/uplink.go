// Package uplink carries the journal and the alerts to the city's broker by MQTT.
//
// # Guarantees
//
//   - A frame counts as delivered only on the broker's PUBACK for every message it is in, received on the connection
//     that carried them. Whatever was not acknowledged when a connection or the process ends is sent again. The same
//     data may arrive twice; rows are identical then.
//   - A broker that was killed forgets what it acknowledged since its last save. What it acknowledged in the last minutes
//     is sent again, late: forgottenFor where our session is gone, and what went out before others had subscribed anew
//     once more; staleFor where the session is there after a loss, at most once in staleEvery. Only what the journal
//     still has; it is free to delete, for room, what was acknowledged once. Which frames those are is kept in memory;
//     a new process goes by the times of frames, and only where the session is gone. Alerts that changed in that time are
//     told again as well, closed ones too. So are those that changed when frames were measured that the city asks for
//     again (Resend), and a minute before and after: whatever lost the one may have lost the other.
//   - What is unacknowledged is remembered as a set of ranges of frames, on disk at most stateEvery old. Losing that
//     file, or finding one of another journal, means that everything readable is sent again; nothing is skipped. A
//     journal that ends before what the file knows is sent again as well, and goes on behind those numbers.
//   - A whole state directory that came back older than what the city has is noticed by the status that the broker has kept
//     of the earlier process (earlierLife): no later frame gets a number that was used, and the time between is told as lost.
//     It is not noticed where the broker has lost what it retained, where the copy is of the very process that the broker
//     knows of, or where a process came back with its memory. Frames written before the status is heard have numbers that
//     were used.
//   - Lost is told what the city does not have: frames that were acknowledged before they vanished are not.
//   - Alerts go first and have window slots that telemetry cannot take. Live frames overtake a backlog; order holds
//     within live and within late. A backlog has at most 32 KiB in flight, and all telemetry no more than the line sends in
//     about 0.1 s (pace), so that an alert never waits longer behind it.
//   - An alert is told (Book.Told) after the broker acknowledged it. While it is open its message is retained; when
//     it closes, the closed message is sent and then the retained one is cleared. The same transition is told in the
//     same words and with the same time, however often and by whichever process. Each alert goes out once more a minute
//     later (onceMore).
//   - Telemetry whose wall clock time is not known waits; alerts do not. Where the time is an estimate (Frame.Uncertain)
//     the message's header says time=uncertain.
//   - What live messages say to be settled holds (settling): TestSettledNeverLies.
//   - Frames that vanished unsent are told as lost, also where the tombstones that told of them have vanished as well.
//   - Another broker of the list takes over when one fails; new certificates are used without a restart once they are good
//     (watch); another process with our id is named, and left its turn (heardStatus).
//
// # What it does not do
//
// It keeps no samples: the journal is the queue. It never publishes from the goroutine of a caller. It carries out no
// command itself: it judges them and sends the replies (Commands).
//
// Concurrency: one goroutine (Run) owns everything. Status, StatusNow and Resend may be called by any goroutine.
package uplink

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"linli/internal/alert"
	"linli/internal/journal"
	"linli/internal/mqtt"
	"linli/internal/telemetry"
	"linli/internal/wire"
)

// Channel is the uplink's name in the alert book's outbox.
const Channel = "mqtt"

// Config says where to deliver and as whom.
type Config struct {
	Site, Gateway string   // ids; Site + "." + Gateway is the node, Site + "-" + Gateway the MQTT client id
	Brokers       []string // tcp://host:port or tls://host:port, in order of preference
	Username      string
	PasswordFile  string
	CAFile        string
	CertFile      string
	KeyFile       string
	Compression   string        // "", none, gzip or zstd
	Batch         time.Duration // how long live frames are gathered for one message; 0 means 1 s, at most 10 s
	MaxMessage    int           // bytes of one message before compression; 0 means 256 KiB
	StateDir      string        // where the state file is kept
	Version       string        // of the program, for the status message
	// Clock gives the wall clock and says whether it was ever set; nil: the process's clock is right.
	Clock *telemetry.Clock
	// OnTheWay returns the time of the oldest sample that has left its bus and is not in the journal yet,
	// telemetry.Never where there is none; nil: samples are in the journal at once. Called from Run and New.
	OnTheWay func() telemetry.Mono
	// Built is when the program was built, zero where nobody knows.
	Built time.Time
	// Now is the time by which certificates are judged; nil means the latest of the clock, Built, and the newest sample
	// that the journal had at the start.
	Now func() time.Time
	// Commands of the city; nil: none are taken.
	Commands *Commands

	// OnConnect, where it is not nil, is called after each connection to a broker. It must return at once.
	OnConnect func()

	// For tests and unusual links; the zero values are right.
	Window      int           // messages in flight; 0 means 64
	AckTimeout  time.Duration // without an acknowledgement for so long the connection is dropped; 0 means 30 s
	KeepAlive   time.Duration // 0 means 30 s
	PingTimeout time.Duration // 0 means 10 s
	SendAgain   time.Duration // after a broker came back without sessions, until others have theirs; 0 means 60 s
	LivedAfter  time.Duration // a connection that lived so long was a good one; 0 means 10 s
	LookEvery   time.Duration // between looks at the certificates' files; 0 means 1 min
	ReturnAfter time.Duration // on another broker than the first until a better one is looked at; 0 means 10 min
	TwinWait    time.Duration // before connecting again where another gateway uses our id; 0 means 1 min
	DialTimeout time.Duration // until a broker has answered; 0 means 10 s
	MinBackoff  time.Duration // caps the waits between attempts to connect where not 0
}

// Validate fills in the defaults and says everything that is wrong.
func (c *Config) Validate() error {
	var errs []error
	if _, _, ok := wire.SplitNode(c.Site + "." + c.Gateway); !ok {
		errs = append(errs, fmt.Errorf("site %q and gateway %q must be ids", c.Site, c.Gateway))
	}
	if len(c.Brokers) == 0 {
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
	if _, err := wire.ParseCompression(c.Compression); err != nil {
		errs = append(errs, err)
	}
	if c.Batch == 0 {
		c.Batch = time.Second
	}
	if c.Batch < 0 || c.Batch > 10*time.Second {
		errs = append(errs, fmt.Errorf("batch %v must be at most 10s", c.Batch))
	}
	if c.MaxMessage == 0 {
		c.MaxMessage = 256 << 10
	}
	if c.Window == 0 {
		c.Window = 64
	}
	if c.Window < 8 || c.MaxMessage < 1024 {
		errs = append(errs, errors.New("window must be at least 8 and messages at least 1 KiB"))
	}
	if c.AckTimeout == 0 {
		c.AckTimeout = 30 * time.Second
	}
	for d, v := range map[*time.Duration]time.Duration{&c.SendAgain: time.Minute, &c.LookEvery: time.Minute, &c.LivedAfter: 10 * time.Second, &c.ReturnAfter: 10 * time.Minute, &c.TwinWait: time.Minute} {
		if *d == 0 {
			*d = v
		}
	}
	if c.StateDir == "" {
		errs = append(errs, errors.New("no state directory"))
	}
	return errors.Join(errs...)
}

// Journal is what the uplink needs of the journal.
type Journal interface {
	Epoch() uint64
	Bounds() (first, next uint64)
	Changed() <-chan struct{}
	Read(seq uint64, f *journal.Frame) error
	Release(seq uint64)
	Skip(next uint64) (from uint64, err error)
	TellLost(from, to time.Time) error
	Settled() telemetry.Mono
	Stats() journal.Stats
}

// Book is what the uplink needs of the alert book.
type Book interface {
	Pending(channel string, n int) []alert.Outgoing
	Told(channel string, id string, seq int64)
	Changed() <-chan struct{}
	OpenAlerts() []alert.Alert
	Get(id string) (alert.Alert, []alert.Entry, error)
	Within(from, to time.Time) ([]string, error)
}

const (
	lateBytes   = 32 << 10        // of late messages in flight
	liveFrames  = 16              // more than so many waiting live frames make a backlog
	idleEvery   = time.Minute     // between messages of an idle lane, and between status messages
	statusEvery = 5 * time.Second // between status messages because the journal's state has changed
	stateEvery  = 5 * time.Second // between writes of the state file
	waitEvery   = time.Second     // between looks for a clock that has been set
	drainFor    = 2 * time.Second // at shutdown, for what is in flight
	lastWordFor = drainFor / 4    // of drainFor, for the last word
	saveFor     = 2 * time.Second // at shutdown, for the state file
	farewellFor = 250 * time.Millisecond
	// stopWithin is how long after the end of ctx a connection lives at most, whatever the broker does.
	stopWithin = drainFor + 2*time.Second
	// skipMargin is more frames than can have been told since the state file was written.
	skipMargin = 1000
	// tombstoneLag is how many frames after a loss its tombstone comes, at most.
	tombstoneLag = 2
)

// Uplink is the gateway's connection to the city.
type Uplink struct {
	cfg         Config
	node        string
	compression wire.Compression
	journal     Journal
	book        Book
	log         *zap.Logger
	frameWall   func(*journal.Frame, telemetry.Mono) (time.Time, bool)
	started     time.Time
	instance    string // of this process, random
	host        string
	keys        *mqtt.Keys
	secure      bool            // some broker speaks TLS
	usesKept    bool            // the keys of last time, since those on the disk were of no use at the start
	kept        []byte          // the keys that were written down last
	keeping     sync.Mutex      // while that is written
	measured    time.Time       // the newest sample at the start
	saved       <-chan struct{} // closed when the state that was saved last is on the disk, or that has failed
	look        chan struct{}   // look at the certificates

	// Owned by Run.
	state    *state
	file     *stateFile
	dirty    bool   // state differs from what the file was given
	released uint64 // what the journal was told last
	savedAt  time.Time
	frame    journal.Frame
	// goneUntil is the number before which a tombstone of what vanished stands, if there is one.
	goneUntil uint64
	begin     uint64           // the number of the first frame of this process
	waiting   map[string]spans // by boot: frames whose wall clock time is not known
	settling  settling
	brokers   brokers
	// statusTold: a status of this process was acknowledged.
	statusTold bool
	expiryTold int // how near the end of the certificate was when it was told last
	recent     recent
	repeat     []string   // ids of alerts whose newest state is to be sent again; of those in flight until it is acknowledged
	due        []dueAlert // alerts that go out once more, the earliest first
	unclean    bool       // the last connection was lost, not closed
	staleAt    time.Time  // when frames were sent again to a broker that knew our session
	// againAt is when everything acknowledged from againSince on is sent again; zero: never.
	againSince, againAt time.Time
	calls               chan func() // to be called by Run's goroutine
	commands            *commands   // nil: none are taken
	// subscribeDrops counts connections that ended before the broker had answered to a subscription.
	subscribeDrops   int
	noSubscribeUntil time.Time
	early            *wire.Status // of an earlier process, heard before the clock was set
	knew             []string     // instances of the earlier processes that the state file knew of at the start
	believed         string       // instance of the earlier process that earlierLife has followed
	asking           spans        // frames that the late lane does not know of yet

	lookups sync.WaitGroup // for alerts that are to be sent again

	mu     sync.Mutex // guards status and found
	status Status
	found  []string // ids of alerts that are to join repeat
}

// Status is what a console shows and metrics count.
type Status struct {
	Connected     bool
	Broker        string    // connected to, or tried last
	Since         time.Time // of the connection, or of its loss
	BacklogFrames uint64    // frames in the journal and not acknowledged
	WaitingFrames uint64    // of these, frames that wait for the clock to be set
	OldestUnsent  uint64    // number of the first unacknowledged frame, 0 for none
	InFlight      int       // messages sent and not acknowledged
	Sent          uint64    // messages handed to a connection
	Acknowledged  uint64    // messages acknowledged
	AlertsTold    uint64    // alert transitions acknowledged
	Connects      uint64    // connections made
	Failures      uint64    // attempts that failed and connections that were lost
	LastError     string    // of the last failure; empty while connected
	SentAgain     uint64    // acknowledged frames that had to be sent again, since a broker may have forgotten them
	SentAgainWhy  string    // why, the last time
	StateError    string    // why the state file could not be read or written; empty when it can
	// CertificateUntil is the end of the own certificate in use, zero without one. CertificateError says why those on the
	// disk are not taken, empty where they are those in use.
	CertificateUntil time.Time
	CertificateError string
	Twin             *Twin // another gateway with our id, as it was noticed last; nil: none
	Hears            bool  // the broker has granted our subscriptions on this connection: commands reach us
	// SubscribeError says why the broker lets us hear nothing; empty while it does.
	SubscribeError string
	Resent         uint64 // frames that were acknowledged and are sent again since the city asked for them
	Commands       CommandStats
}

// CommandStats counts what came on cmd/+.
type CommandStats struct {
	Taken    uint64 // to be carried out
	Refused  uint64 // signed, and not carried out
	Unproven uint64 // not signed by any of the keys
	Dropped  uint64 // too many at once: nobody has looked at them
}

// New returns an uplink for the journal and the book. It validates cfg, reads the state file and tells the journal what
// is acknowledged and which numbers are used up: call it before samples come. It connects to nothing before Run.
func New(cfg Config, j Journal, book Book, log *zap.Logger) (*Uplink, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("uplink: %w", err)
	}
	compression, err := wire.ParseCompression(cfg.Compression)
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = zap.NewNop()
	}
	u := &Uplink{
		cfg: cfg, node: cfg.Site + "." + cfg.Gateway, compression: compression, journal: j, book: book, log: log,
		frameWall: (*journal.Frame).Wall, instance: rand.Text(), look: make(chan struct{}, 1),
		waiting: map[string]spans{},
		calls:   make(chan func()),
	}
	u.file = newStateFile(cfg.StateDir)
	u.host, _ = os.Hostname() // only to be shown
	u.measured = u.lastMeasured()
	u.brokers.n = len(cfg.Brokers)
	for _, b := range cfg.Brokers {
		_, secure, _ := mqtt.ParseBroker(b) // validated
		u.secure = u.secure || secure
	}
	var keysErr error
	if u.keys, keysErr = mqtt.NewKeys(cfg.CAFile, cfg.CertFile, cfg.KeyFile, u.judgedBy); keysErr != nil && u.secure {
		u.restoreKeys(keysErr)
	}
	if u.state, err = u.file.load(j.Epoch()); err != nil {
		u.stateError(err)
		log.Warn("uplink state unusable, sending everything again", zap.Error(err))
	}
	if u.state.said != 0 {
		// What was said after the file was written is not later than this.
		u.settling.said, u.settling.saidNext = u.state.said+int64(settleLag), u.state.saidNext
	}
	u.overtake()
	u.update()
	u.knew = slices.Clone(u.state.lives)
	u.state.lives = append(u.knew[max(0, len(u.knew)+1-maxLives):], u.instance)
	u.dirty = true
	u.goneUntil, u.begin = max(u.goneUntil, u.state.next+tombstoneLag), u.state.next
	if cfg.Commands != nil {
		u.commands = newCommands(u, cfg.Commands)
	}
	return u, nil
}

// Run delivers until ctx ends. Then it tries for two seconds to get acknowledged what is in flight, says farewell and
// saves its state. A broker that is not there is no error: Run returns nil when ctx ends.
func (u *Uplink) Run(ctx context.Context) error {
	u.started = time.Now()
	u.file.start()
	defer u.file.stop(saveFor)
	defer u.save(true)
	u.update()
	u.rememberLife(ctx)
	defer u.lookups.Wait()
	if u.commands != nil {
		var commands sync.WaitGroup
		commands.Go(func() { u.commands.run(ctx) })
		defer commands.Wait()
	}

	var backoff mqtt.Backoff
	failing, short, twins := false, 0, false
	for attempt := 1; ; attempt++ {
		wait := backoff.Next()
		if u.cfg.MinBackoff > 0 {
			wait = min(wait, u.cfg.MinBackoff)
		}
		if twins {
			wait = u.twinWait()
		}
		if !u.pause(ctx, wait) {
			return nil
		}
		broker := u.cfg.Brokers[u.brokers.at]
		u.renewKeys(ctx, broker)
		var upAt time.Time
		err := u.connection(ctx, broker, func() {
			upAt = time.Now()
			u.log.Info("uplink connected", zap.String("broker", broker), zap.Int("attempt", attempt))
			failing = false
			u.brokers.up(time.Now(), u.cfg.ReturnAfter)
		})
		u.save(true)
		if ctx.Err() != nil {
			u.update()
			u.setStatus(func(s *Status) { s.Connected, s.Hears, s.InFlight = false, false, 0 })
			return nil
		}
		wasUp := u.Status().Connected
		var left *leftError
		if errors.As(err, &left) {
			u.log.Info("uplink leaves the broker", zap.String("broker", broker), zap.String("why", left.why))
			u.setStatus(func(s *Status) {
				s.Connected, s.Hears, s.InFlight, s.Since, s.LastError = false, false, 0, time.Now(), left.why
			})
			u.brokers.at, twins, short = left.broker, false, 0
			backoff.Lived()
			continue
		}
		u.unclean = u.unclean || wasUp
		// From the broker's answer on: an attempt that ended with a timeout is no connection. Nor is one to a broker that
		// takes everything and acknowledges nothing.
		lived := !upAt.IsZero() && time.Since(upAt) >= u.cfg.LivedAfter && !errors.Is(err, errAckTimeout)
		if lived {
			backoff.Lived()
			attempt = 0
		}
		u.brokers.ended(lived)
		twin := u.twin()
		if twins = wasUp && twin != nil; twins {
			err = fmt.Errorf("%w (%v)", err, twin)
			u.brokers.at = 0
		}
		if short++; !wasUp || lived || twins {
			short = 0
		} else if short >= 3 {
			err = fmt.Errorf("%w (lost at once %d times: does another client use the MQTT client id %s, or does the broker refuse what is sent?)", err, short, u.clientID())
		}
		u.setStatus(func(s *Status) {
			if s.Connected {
				s.Since = time.Now()
			}
			s.Connected, s.Hears, s.InFlight, s.LastError = false, false, 0, err.Error()
			s.Failures++
		})
		if wasUp || !failing {
			u.log.Warn("uplink down", zap.String("broker", broker), zap.Error(err))
			failing = true
		}
	}
}

// pause waits, but keeps the figures for the console right meanwhile.
func (u *Uplink) pause(ctx context.Context, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		changed := u.journal.Changed()
		u.update()
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case <-changed:
		case f := <-u.calls:
			f()
		}
	}
}

// save has the state written when it has changed and the last time is long enough ago, or now. It does not wait for the
// disk: neither alerts nor samples do.
func (u *Uplink) save(now bool) {
	if err, known := u.file.outcome(); known {
		if err != nil {
			u.dirty = true
			if u.Status().StateError == "" {
				u.log.Error("uplink state not saved", zap.Error(err))
			}
		}
		u.stateError(err)
	}
	// A process that comes after a crash takes for said what the file says and settleLag more.
	leapt := u.settling.said > u.state.said+int64(settleLag)
	if !leapt && (!u.dirty || !now && time.Since(u.savedAt) < stateEvery) {
		return
	}
	u.savedAt = time.Now()
	u.state.said, u.state.saidNext = u.settling.said, u.settling.saidNext
	st := *u.state
	st.unacked = slices.Clone(u.state.unacked).bounded(maxSpans)
	u.saved = u.file.put(st.encode())
	u.dirty = false
}

// clockSet says whether the wall clock can be believed.
func (u *Uplink) clockSet() bool {
	return u.cfg.Clock == nil || !u.cfg.Clock.Now().Wall.IsZero()
}

// Status returns the present figures. It may be called from any goroutine.
func (u *Uplink) Status() Status {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.status
}

func (u *Uplink) setStatus(change func(*Status)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	change(&u.status)
}

func (u *Uplink) setError(err error) {
	u.setStatus(func(s *Status) { s.LastError = err.Error() })
}

func (u *Uplink) stateError(err error) {
	u.setStatus(func(s *Status) {
		s.StateError = ""
		if err != nil {
			s.StateError = err.Error()
		}
	})
}
