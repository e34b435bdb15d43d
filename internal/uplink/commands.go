package uplink

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"go.uber.org/zap"

	"linli/internal/wire"
)

// Commands says whose commands are taken, and who carries them out.
type Commands struct {
	Keys  map[string]ed25519.PublicKey // by name
	Allow []string                     // verbs; others are refused
	// Do carries out a command and returns State, Reason and Result of the reply. It is called by one goroutine, for one
	// command at a time, and for no command twice. ctx ends when the gateway stops.
	Do func(ctx context.Context, c *wire.Command) wire.Reply
	// Began says whether an earlier process began to carry a command out, as far as another record than commands.state
	// knows: an older copy of that file does not. nil: there is no such record.
	Began func(c *wire.Command) bool
	// Forgotten says that the state directory is not the one of earlier processes.
	Forgotten bool
	// Refused hears of commands with a good signature that are not carried out, and why: a word of docs/wire.md, or
	// "duplicate". It must not block.
	Refused func(c *wire.Command, reason string)
}

const (
	// inboxSize bounds messages on cmd/+ that nobody has looked at. A broker sends fewer at once than that.
	inboxSize = 128
	// waitingCommands bounds those that were taken and wait to be carried out.
	waitingCommands = 16
	// maxReplies bounds the replies that wait to be sent, and repliesAtOnce those in flight.
	maxReplies, repliesAtOnce = 64, 4
	// maxHeard bounds our own status messages that nobody has looked at.
	maxHeard = 8
	// logUnprovenEvery bounds the log lines about commands that nobody signed.
	logUnprovenEvery = 10 * time.Minute
	// maxInbound is the largest message taken from the broker.
	maxInbound = 64 << 10
	// holdStatusFor bounds the wait of the first status for what the broker has kept of others.
	holdStatusFor = 3 * time.Second
	// subscribeWithin bounds the wait for the broker's answer to a subscription.
	subscribeWithin = 30 * time.Second
	// After so many connections that ended over a subscription none is tried for subscribeAgain.
	subscribeDrops, subscribeAgain = 3, time.Hour
)

// The reasons for which commands are refused here, beside those of package wire.
const (
	reasonNotAllowed    = "not_allowed"
	reasonBusy          = "busy"
	reasonNotRemembered = "not_remembered"
	reasonDuplicate     = "duplicate"
)

// commands takes commands from the broker. Three goroutines meet here: paho's, which only fills the inbox; judge, which
// decides; and work, which has them carried out. Run's goroutine sends the replies.
type commands struct {
	u     *Uplink
	cfg   Commands
	inbox chan paho.Message
	queue chan *wire.Command // only judge sends
	memo  *memo
	ready chan struct{} // there is a reply to be sent

	loggedUnproven time.Time // judge's

	mu      sync.Mutex // guards replies
	replies []reply    // oldest first
}

// reply is one to be sent.
type reply struct {
	id      string // of the command
	payload []byte
}

func newCommands(u *Uplink, cfg *Commands) *commands {
	k := &commands{
		u: u, cfg: *cfg, inbox: make(chan paho.Message, inboxSize), queue: make(chan *wire.Command, waitingCommands),
		ready: make(chan struct{}, 1),
	}
	var err error
	if k.memo, err = loadMemo(u.cfg.StateDir, u.now()); err != nil {
		u.log.Error("commands issued until now are refused: what was carried out of them is forgotten", zap.Error(err))
	}
	k.memo.began = cfg.Began
	if cfg.Forgotten {
		k.memo.distrust(u.now())
	}
	return k
}

// run has commands decided and carried out until ctx ends.
func (k *commands) run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case m := <-k.inbox:
				k.judge(m.Topic(), m.Payload())
				m.Ack() // whatever is carried out is remembered by now
			}
		}
	})
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case c := <-k.queue:
				if ctx.Err() == nil {
					k.carryOut(ctx, c)
				}
			}
		}
	})
	wg.Wait()
	// What was taken and never begun is known not to have been carried out.
	for {
		select {
		case c := <-k.queue:
			k.finish(c, wire.Reply{State: wire.ReplyRefused, Reason: "the gateway stopped before"})
		default:
			k.memo.close()
			return
		}
	}
}

// hear takes a message from the library's goroutine and never blocks. What finds no room is acknowledged all the same:
// to leave it would fill the broker's window for good, to end the connection would let anybody who may publish here stop
// telemetry. Whoever asked for something gets no reply and asks again.
func (k *commands) hear(m paho.Message) {
	select {
	case k.inbox <- m:
	default:
		k.count(func(s *CommandStats) { s.Dropped++ })
		m.Ack()
	}
}

// judge decides what becomes of a message.
func (k *commands) judge(name string, payload []byte) {
	topic, err := wire.ParseTopic(name)
	if err != nil {
		return
	}
	now := k.u.now()
	c, err := wire.ParseCommand(payload, topic, k.cfg.Keys, now)
	var refusal *wire.Refusal
	switch {
	case errors.As(err, &refusal):
		k.refuse(&c, refusal.Reason, refusal.Detail)
		return
	case err != nil:
		k.unproven(err)
		return
	}
	switch known, answer := k.memo.lookup(&c); {
	case known:
		k.count(func(s *CommandStats) { s.Refused++ })
		k.told(&c, reasonDuplicate)
		if answer != nil {
			k.send(c.ID, answer)
		}
		return
	case !slices.Contains(k.cfg.Allow, c.Verb):
		k.refuse(&c, reasonNotAllowed, "the site file does not allow "+c.Verb)
		return
	case k.memo.forgotten(&c, now):
		k.refuse(&c, reasonNotRemembered, "it may have been carried out before")
		return
	case len(k.queue) == cap(k.queue):
		k.refuse(&c, reasonBusy, fmt.Sprintf("%d commands wait", cap(k.queue)))
		return
	}
	if err := k.memo.begin(&c, now); errors.Is(err, errMemoFull) {
		k.refuse(&c, reasonBusy, err.Error())
		return
	} else if err != nil {
		k.u.log.Error("a command is refused since it cannot be remembered", zap.String("id", c.ID), zap.Error(err))
		k.refuse(&c, reasonNotRemembered, err.Error())
		return
	}
	k.count(func(s *CommandStats) { s.Taken++ })
	k.queue <- &c // has room: see above
}

// carryOut has a command carried out that was remembered.
func (k *commands) carryOut(ctx context.Context, c *wire.Command) {
	if now := k.u.now(); now.IsZero() || !now.Before(c.ExpiresAt) {
		k.told(c, wire.ReasonExpired)
		k.finish(c, wire.Reply{State: wire.ReplyRefused, Reason: wire.ReasonExpired + ": while it waited"})
		return
	}
	k.finish(c, k.cfg.Do(ctx, c))
}

// finish remembers the reply and has it sent.
func (k *commands) finish(c *wire.Command, r wire.Reply) {
	b := k.encode(c, r)
	if err := k.memo.end(c, b); err != nil {
		k.u.log.Warn("the reply to a command is not kept", zap.String("id", c.ID), zap.Error(err))
	}
	k.send(c.ID, b)
}

// refuse answers a command that is not carried out.
func (k *commands) refuse(c *wire.Command, reason, detail string) {
	k.count(func(s *CommandStats) { s.Refused++ })
	k.told(c, reason)
	if c.ID == "" {
		return
	}
	if detail != "" {
		reason += ": " + detail
	}
	k.send(c.ID, k.encode(c, wire.Reply{State: wire.ReplyRefused, Reason: reason}))
}

func (k *commands) told(c *wire.Command, reason string) {
	if k.cfg.Refused != nil {
		k.cfg.Refused(c, reason)
	}
}

// unproven counts a message that nobody has signed.
func (k *commands) unproven(err error) {
	k.count(func(s *CommandStats) { s.Unproven++ })
	if now := time.Now(); k.loggedUnproven.IsZero() || now.Sub(k.loggedUnproven) >= logUnprovenEvery {
		k.loggedUnproven = now
		k.u.log.Warn("somebody sends commands that none of the keys has signed", zap.Error(err),
			zap.Uint64("so_far", k.u.Status().Commands.Unproven))
	}
}

func (k *commands) count(change func(*CommandStats)) {
	k.u.setStatus(func(s *Status) { change(&s.Commands) })
}

// encode makes the reply to c of what became of it.
func (k *commands) encode(c *wire.Command, r wire.Reply) []byte {
	r.ID, r.Verb, r.Node = c.ID, c.Verb, k.u.node
	if k.u.clockSet() {
		r.Time = time.Now().UTC()
	}
	b, err := json.Marshal(r)
	if err != nil { // a result that is no JSON
		r.Result, r.Reason = nil, strings.TrimSpace(r.Reason+" (its result cannot be told: "+err.Error()+")")
		b, _ = json.Marshal(r)
	}
	return b
}

// send queues a reply. One that waits already is not queued twice.
func (k *commands) send(id string, payload []byte) {
	k.mu.Lock()
	if len(k.replies) < maxReplies && !slices.ContainsFunc(k.replies, func(r reply) bool { return r.id == id }) {
		k.replies = append(k.replies, reply{id, payload})
	}
	k.mu.Unlock()
	k.stir()
}

func (k *commands) stir() {
	select {
	case k.ready <- struct{}{}:
	default:
	}
}

// next takes the oldest reply.
func (k *commands) next() (reply, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.replies) == 0 {
		return reply{}, false
	}
	r := k.replies[0]
	k.replies = k.replies[1:]
	return r, true
}

// sendReplies sends replies, as many as there is room for beside alerts.
func (c *connection) sendReplies() {
	k := c.u.commands
	if k == nil {
		return
	}
	for len(c.replies) < repliesAtOnce && c.inFlight < c.u.cfg.Window*7/8 {
		r, ok := k.next()
		if !ok {
			return
		}
		c.replies[r.id] = r
		c.send(c.u.topic(wire.ReplyTopic, r.id), false, r.payload, func() { delete(c.replies, r.id) }, k.stir)
	}
}

// replyReady is ready when there is a reply to be sent; nil where there never is.
func (c *connection) replyReady() <-chan struct{} {
	if c.u.commands == nil {
		return nil
	}
	return c.u.commands.ready
}

// keepReplies keeps what was not acknowledged for the next connection.
func (c *connection) keepReplies() {
	for _, r := range c.replies {
		c.u.commands.send(r.id, r.payload)
	}
}

// hear takes what the broker sends, in the library's goroutine.
func (c *connection) hear(m paho.Message) {
	topic, err := wire.ParseTopic(m.Topic())
	if err == nil && topic.Node == c.u.node {
		switch {
		case topic.Kind == wire.CommandTopic && c.u.commands != nil:
			c.u.commands.hear(m)
			return
		case topic.Kind == wire.StatusTopic:
			select {
			case c.heard <- m.Payload():
			default: // more than anybody has reason to send
			}
		}
	}
	m.Ack()
}

// subscription is the broker's answer to one.
type subscription struct {
	filter string
	err    error
}

// subscribe asks the broker for what is ours to hear. Nothing waits for the answers.
func (c *connection) subscribe(ctx context.Context) {
	u := c.u
	if time.Now().Before(u.noSubscribeUntil) {
		return
	}
	filters := []string{u.topic(wire.StatusTopic, "")}
	if u.commands != nil {
		filters = append(filters, u.topic(wire.CommandTopic, "+"))
	}
	c.subscribing = len(filters)
	// Ours takes the place of what the broker has kept of another's: that is heard first.
	c.holdStatus = time.Now().Add(holdStatusFor)
	go func() { // Not one of the waiters: the library may hold it for longer than a stop may take.
		ctx, cancel := context.WithTimeout(ctx, subscribeWithin)
		defer cancel()
		for _, filter := range filters {
			c.subscribed <- subscription{filter, c.session.Subscribe(ctx, filter)} // has room for all
		}
	}()
}

// answered takes the broker's answer to a subscription. A refusal is told, and stops nothing.
func (c *connection) answered(s subscription) {
	u := c.u
	c.subscribing--
	if topic, err := wire.ParseTopic(s.filter); err == nil && topic.Kind == wire.StatusTopic {
		c.holdStatus = time.Time{}
	}
	if s.err == nil {
		if c.subscribing == 0 {
			u.subscribeDrops = 0
			if !c.refused {
				u.setStatus(func(st *Status) { st.Hears, st.SubscribeError = true, "" })
			}
		}
		return
	}
	if c.session.Err() != nil {
		c.subscribing++ // no answer
		return
	}
	c.refused = true
	u.subscribeError(s.err)
}

// unsubscribed takes note of a connection that ended before the broker had answered. There are brokers that end it
// because of the subscription.
func (c *connection) unsubscribed() {
	u := c.u
	if c.subscribing == 0 {
		return
	}
	if u.subscribeDrops++; u.subscribeDrops >= subscribeDrops {
		u.subscribeDrops, u.noSubscribeUntil = 0, time.Now().Add(subscribeAgain)
		u.subscribeError(fmt.Errorf("%d connections ended before the broker had answered to it", subscribeDrops))
	}
}

func (u *Uplink) subscribeError(err error) {
	if u.Status().SubscribeError != err.Error() {
		u.log.Warn("the broker lets us hear nothing; telemetry and alerts go on", zap.Error(err))
	}
	u.setStatus(func(s *Status) { s.SubscribeError = err.Error() })
}

// now returns the time by which expiry is judged, zero while the clock has never been set.
func (u *Uplink) now() time.Time {
	if !u.clockSet() {
		return time.Time{}
	}
	return u.judgedBy()
}

// inRun has f called by Run's goroutine, to which everything belongs, and returns when it has been.
func (u *Uplink) inRun(ctx context.Context, f func()) error {
	done := make(chan struct{})
	select {
	case u.calls <- func() { defer close(done); f() }:
		<-done
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// StatusNow returns what the status message would say now, from any goroutine while Run runs.
func (u *Uplink) StatusNow(ctx context.Context) (s wire.Status, err error) {
	err = u.inRun(ctx, func() { s = u.statusMessage("online", "", time.Now()) })
	return s, err
}
