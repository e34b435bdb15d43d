package uplink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"linli/internal/mqtt"
	"linli/internal/wire"
)

// connection is one connection to a broker and what is in flight on it. It belongs to Run's goroutine; only the
// waiters beside it touch results.
type connection struct {
	u       *Uplink
	session *mqtt.Session
	live    *lane
	late    *lane
	results chan result
	leaving chan *leftError // from watch
	waiters sync.WaitGroup

	pace        *pace
	inFlight    int
	ofTelemetry int            // of inFlight
	alerts      map[string]int // messages in flight by alert id
	open        []string       // ids last published on alerts/open
	openTold    bool
	bookChanged bool // look at the book again
	lastLive    time.Time
	lastIdle    time.Time
	lastStatus  time.Time
	toldFailing bool      // what the status said last of the journal
	repeat      []string  // ids of open alerts still to be sent again
	nextRepeat  time.Time // when the next of Uplink.repeat may go
	lastWaiting time.Time

	heard       chan []byte       // our own status messages
	subscribed  chan subscription // the broker's answers
	subscribing int               // answers still to come
	holdStatus  time.Time         // no status before
	refused     bool              // a subscription was
	replies     map[string]reply  // in flight, by the command's id
	gone        bool              // a message about frames that are gone is in flight
}

type result struct {
	err  error
	sent time.Time
	// ahead is how many bytes of telemetry were in flight with a message of telemetry; 0 for others.
	ahead int
	done  func() // what an acknowledgement means
	free  func() // what the end of the message frees, acknowledged or not
}

var (
	errAckTimeout = errors.New("the broker does not acknowledge")
	errStopping   = errors.New("stopping")
)

// connection connects, calls up, and delivers until the connection is lost (the error says why) or ctx ends.
func (u *Uplink) connection(ctx context.Context, broker string, up func()) error {
	u.setStatus(func(s *Status) { s.Broker = broker })
	will, err := json.Marshal(wire.Will{Node: u.node, State: "offline", Reason: "lost", Epoch: fmt.Sprintf("%016x", u.state.epoch), Instance: u.instance})
	if err != nil {
		return err
	}
	c := &connection{
		u: u, results: make(chan result, u.cfg.Window+8), leaving: make(chan *leftError, 1), alerts: map[string]int{}, bookChanged: true, lastIdle: time.Now(),
		pace: newPace(4 * u.cfg.MaxMessage), replies: map[string]reply{}, heard: make(chan []byte, maxHeard), subscribed: make(chan subscription, 2),
	}
	session, err := mqtt.Connect(ctx, u.mqttConfig(u.keys), broker, mqtt.Options{Will: &mqtt.Will{Topic: u.topic(wire.StatusTopic, ""), Payload: will}, OnMessage: c.hear})
	if err != nil {
		return err
	}
	c.session = session
	defer c.keepReplies()
	defer c.waiters.Wait()
	defer session.Drop(errStopping)
	// A broker that reads nothing holds the writer for as long as a write may take; stopping has less time.
	c.waiters.Go(func() {
		select {
		case <-session.Lost():
			return
		case <-ctx.Done():
		}
		timeout := time.NewTimer(stopWithin)
		defer timeout.Stop()
		select {
		case <-session.Lost():
		case <-timeout.C:
			session.Drop(errStopping)
		}
	})
	if c.live, err = newLane(u, false); err != nil {
		return err
	}
	if c.late, err = newLane(u, true); err != nil {
		return err
	}
	up()
	u.keepKeys(broker)
	u.setStatus(func(s *Status) {
		s.Connected, s.Since, s.LastError = true, time.Now(), ""
		s.Connects++
	})
	if u.cfg.OnConnect != nil {
		u.cfg.OnConnect()
	}
	u.update()
	c.late.queue = slices.Clone(u.state.unacked)
	for _, set := range u.waiting {
		for _, r := range set {
			c.late.queue = c.late.queue.remove(r.from, r.end)
		}
	}
	c.takeLive(u.state.next)
	// Newer data than this was sent before: it is late, however little it is.
	again, since := u.sendAgain(session.Present)
	c.late.queue = c.late.queue.union(again)
	u.alertsSince(since)
	if asked := u.state.asked; len(asked) > 0 {
		// We may have died before the alerts that belong to these frames were told; they go before the frames.
		from, _ := u.during(asked[0])
		_, to := u.during(asked[len(asked)-1])
		u.lookups.Go(func() { u.alertsAgain(from, to) })
	}
	if !session.Present {
		// A broker that does not know our session has lost what it retained as well.
		for _, a := range u.book.OpenAlerts() {
			c.repeat = append(c.repeat, a.ID)
		}
	}
	u.asking = nil // it is among what is late
	c.subscribe(ctx)
	c.waiters.Go(func() { c.watch(ctx) })
	err = c.serve(ctx)
	if ctx.Err() == nil {
		c.unsubscribed()
	}
	return err
}

// takeLive moves the newest frames from late to live when they are few, or the last of them when they are many.
func (c *connection) takeLive(next uint64) {
	if c.late.queue.count() <= liveFrames {
		c.live.queue, c.late.queue = c.late.queue, nil
		return
	}
	from := next - 1
	if c.late.queue[len(c.late.queue)-1].end == next {
		// The newest frame is live, what lies before it is a backlog.
		c.late.queue = c.late.queue.remove(from, next)
		c.live.queue = c.live.queue.add(from, next)
	}
}

func (c *connection) serve(ctx context.Context) error {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	known := c.u.state.next
	for {
		// The channels first: what changes after this is seen in the next round.
		journalChanged, bookChanged := c.u.journal.Changed(), c.u.book.Changed()
		c.u.update()
		if next := c.u.state.next; next > known {
			c.live.queue = c.live.queue.union(c.u.state.unacked.within(known, next))
			known = next
			if c.live.queue.count() > liveFrames {
				// Live cannot keep up: what has become old is late, the newest overtakes it.
				old := c.live.queue.remove(next-1, next)
				for _, r := range old {
					c.late.queue = c.late.queue.add(r.from, r.end)
				}
				if h := c.live.held; h != nil {
					c.late.queue = c.late.queue.add(h.seq, h.seq+1)
					c.live.held = nil
				}
				c.live.queue = spans(nil).add(next-1, next)
			}
		}
		again, since := c.u.sendOnceMore()
		c.late.queue = c.late.queue.union(again)
		c.u.alertsSince(since)
		for _, r := range c.u.asking {
			c.late.queue = c.late.queue.add(r.from, r.end)
		}
		c.u.asking = nil
		c.sendStatus("online", "", false)
		c.sendAlerts()
		c.sendChanged()
		c.sendReplies()
		c.sendTelemetry()
		c.u.save(false)
		c.u.setStatus(func(s *Status) { s.InFlight = c.inFlight })
		select {
		case <-ctx.Done():
			began := time.Now()
			c.lastFrames(known)
			c.drain("stopped", drainFor-time.Since(began))
			return errStopping
		case left := <-c.leaving:
			reason := ""
			if left.broker != c.u.brokers.at {
				reason = movedReason
			}
			c.drain(reason, drainFor)
			return left
		case <-c.session.Lost():
			c.collect()
			return c.session.Err()
		case r := <-c.results:
			c.take(r)
			c.collect()
		case <-journalChanged:
		case <-bookChanged:
			c.bookChanged = true
		case f := <-c.u.calls:
			f()
		case b := <-c.heard:
			c.u.heardStatus(b)
		case s := <-c.subscribed:
			c.answered(s)
		case <-c.replyReady():
		case <-tick.C:
			if s := c.u.early; s != nil {
				c.u.earlierLife(s)
			}
			c.bookChanged = true
			c.live.stalled, c.late.stalled = false, false
		}
	}
}

// collect takes what has been acknowledged meanwhile, without waiting.
func (c *connection) collect() {
	for {
		select {
		case r := <-c.results:
			c.take(r)
		default:
			return
		}
	}
}

func (c *connection) take(r result) {
	c.inFlight--
	if r.free != nil {
		r.free()
	}
	if r.err != nil {
		// Whatever is wrong with one message is wrong with the connection; it will be sent again on the next.
		c.session.Drop(r.err)
		return
	}
	c.pace.took(r.sent, time.Now(), r.ahead)
	c.u.setStatus(func(s *Status) { s.Acknowledged++ })
	if r.done != nil {
		r.done()
	}
}

// lastFrames sends what the journal has got last, and waits for that and for the telemetry in flight to be acknowledged,
// so that the last word is true. It leaves that word, and its acknowledgement, half a second; known is the first frame
// that the lanes do not know.
func (c *connection) lastFrames(known uint64) {
	timeout := time.NewTimer(drainFor - lastWordFor)
	defer timeout.Stop()
	c.u.update()
	c.live.queue = c.live.queue.add(known, c.u.state.next)
	c.live.stalled, c.bookChanged = false, true
	for {
		c.sendAlerts()
		for !c.live.stalled && c.flush(c.live) {
		}
		if c.ofTelemetry == 0 {
			return // all is acknowledged, or what is left cannot be sent now
		}
		select {
		case r := <-c.results:
			c.take(r)
		case <-c.session.Lost():
			return
		case <-timeout.C:
			return
		}
	}
}

// drain waits for what is in flight, as long as within at most, and says farewell. Where there is a reason, the city is told that the gateway leaves.
func (c *connection) drain(reason string, within time.Duration) {
	timeout := time.NewTimer(within)
	defer timeout.Stop()
	if reason != "" {
		c.sendStatus("offline", reason, true)
	}
	for c.inFlight > 0 {
		select {
		case r := <-c.results:
			c.take(r)
		case <-c.session.Lost():
			c.collect()
			return
		case <-timeout.C:
			c.session.Close(farewellFor)
			return
		}
	}
	c.session.Close(farewellFor)
}

// send hands one message to the connection. done runs in Run's goroutine after the acknowledgement, free in any case
// when the message is over.
func (c *connection) send(topic string, retained bool, payload []byte, done, free func()) {
	c.sendAhead(topic, retained, payload, 0, done, free)
}

// sendTelemetryMessage hands one message of telemetry to the connection, which it counts in the pace.
func (c *connection) sendTelemetryMessage(payload []byte, done, free func()) {
	c.ofTelemetry++
	c.pace.inFlight += len(payload)
	c.sendAhead(c.u.topic(wire.Telemetry, ""), false, payload, c.pace.inFlight, done, func() {
		c.ofTelemetry--
		c.pace.inFlight -= len(payload)
		if free != nil {
			free()
		}
	})
}

func (c *connection) sendAhead(topic string, retained bool, payload []byte, ahead int, done, free func()) {
	sent := time.Now()
	token := c.session.Publish(topic, retained, payload)
	c.inFlight++
	c.u.setStatus(func(s *Status) { s.Sent++ })
	c.waiters.Go(func() {
		r := result{sent: sent, ahead: ahead, done: done, free: free}
		timeout := time.NewTimer(c.u.cfg.AckTimeout)
		defer timeout.Stop()
		select {
		case <-token.Done():
			r.err = token.Error()
		case <-c.session.Lost():
			// The acknowledgement may have come just before the end.
			select {
			case <-token.Done():
				r.err = token.Error()
			default:
				r.err = c.session.Err()
			}
		case <-timeout.C:
			r.err = fmt.Errorf("%w: nothing for %v", errAckTimeout, c.u.cfg.AckTimeout)
			c.session.Drop(r.err)
		}
		c.results <- r // never blocks: the channel holds the whole window
	})
}

// room says whether a message may be sent: telemetry leaves a quarter of the window to alerts.
func (c *connection) room(telemetry bool) bool {
	if telemetry {
		return c.inFlight < c.u.cfg.Window && c.ofTelemetry < c.u.cfg.Window*3/4
	}
	return c.inFlight < c.u.cfg.Window
}

// sendTelemetry sends live frames that are due, then late ones, then the sign of an idle lane.
func (c *connection) sendTelemetry() {
	u := c.u
	if now := time.Now(); len(u.waiting) > 0 && now.Sub(c.lastWaiting) >= waitEvery {
		c.lastWaiting = now
		for _, r := range u.timed() {
			c.late.queue = c.late.queue.add(r.from, r.end)
		}
	}
	// A message is sent when its time has come; a little early rather than a whole commit late.
	if time.Since(c.lastLive) >= u.cfg.Batch*9/10 || len(c.live.parts) > 0 || c.live.queue.count() >= liveFrames*3/4 {
		for !c.live.stalled {
			begun := len(c.live.parts) > 0
			if !c.flush(c.live) {
				break
			}
			if c.lastIdle = time.Now(); !begun {
				c.lastLive = c.lastIdle
			}
		}
	}
	for !c.late.stalled && c.flush(c.late) {
	}
	c.sendGone()
	if time.Since(c.lastIdle) >= idleEvery && c.room(true) && c.live.queue.count() == 0 && c.live.held == nil && u.clockSet() {
		c.lastIdle = time.Now()
		c.sendTelemetryMessage(c.live.idle(u.state.next), nil, nil)
	}
}

// flush sends the next message of a lane and reports whether there was one and room for it.
func (c *connection) flush(l *lane) bool {
	if !c.room(true) {
		return false
	}
	if len(l.parts) == 0 {
		limit := min(c.u.cfg.MaxMessage, int(float64(c.pace.limit())/l.packing))
		if l.late {
			limit = min(limit, lateBytes/2)
		}
		if l.parts = l.next(limit); len(l.parts) == 0 {
			return false
		}
	}
	m := l.parts[0]
	if !c.pace.room(l.late, l.inFlight, len(m.payload)) {
		return false
	}
	l.parts = l.parts[1:]
	l.inFlight += len(m.payload)
	c.sendTelemetryMessage(m.payload, func() {
		l.over(m.payload)
		if m.of.left--; m.of.left == 0 {
			c.u.acknowledged(m.of)
		}
	}, func() { l.inFlight -= len(m.payload) })
	return true
}

// sendStatus publishes the status when it is due, or now.
func (c *connection) sendStatus(state, reason string, now bool) {
	u := c.u
	since := time.Since(c.lastStatus)
	// A journal that begins to fail, or works again, is news.
	if !now && since >= statusEvery && (u.journal.Stats().LastError != "") != c.toldFailing {
		since = idleEvery
	}
	if !now && (since < idleEvery || !c.room(false) || time.Now().Before(c.holdStatus)) {
		return
	}
	c.lastStatus = time.Now()
	c.toldFailing = u.journal.Stats().LastError != ""
	b, err := json.Marshal(u.statusMessage(state, reason, c.lastStatus))
	if err != nil {
		return
	}
	c.send(u.topic(wire.StatusTopic, ""), true, b, func() { u.statusTold = true }, nil)
}

// statusMessage returns what is to be said on status at the time t.
func (u *Uplink) statusMessage(state, reason string, t time.Time) wire.Status {
	first, next := u.journal.Bounds()
	js := u.journal.Stats()
	us := u.Status()
	var twin *wire.Twin
	if t := u.twin(); t != nil {
		twin = &wire.Twin{Instance: t.Instance, Host: t.Host, Version: t.Version, Epoch: t.Epoch, StartedAt: t.Started}
		if reason == "" {
			reason = "twin"
		}
	}
	backlog := u.state.unacked.count()
	if state == "offline" && reason == "stopped" && js.Pending > 0 {
		backlog++ // samples that the disk did not take are not on the way either: nobody may call this complete
	}
	return wire.Status{
		Instance: u.instance, Host: u.host, Twin: twin, CertificateUntil: us.CertificateUntil.UTC(), CertificateError: us.CertificateError,
		Node: u.node, State: state, Reason: reason, Time: t.UTC(), Version: u.cfg.Version, StartedAt: u.startedAt().UTC(),
		ClockSet: u.clockSet(), Epoch: fmt.Sprintf("%016x", u.state.epoch), FirstSeq: first, NextSeq: next,
		BacklogFrames: backlog, WaitingFrames: us.WaitingFrames, OpenAlerts: len(u.book.OpenAlerts()),
		SentAgainFrames: us.SentAgain, SentAgainReason: us.SentAgainWhy, SubscribeError: us.SubscribeError,
		Journal: &wire.JournalStatus{
			Bytes: js.Bytes, CommitFailures: js.CommitFailures, SamplesLost: js.SamplesLost, DamagedFrames: js.DamagedFrames, Error: js.LastError,
		},
	}
}

// startedAt returns when Run began, put right once the clock has been set.
func (u *Uplink) startedAt() time.Time {
	if at := time.Now().Add(-time.Since(u.started)); at.Round(0).Sub(u.started.Round(0)).Abs() > time.Second {
		u.started = at
	}
	return u.started
}

func (u *Uplink) topic(kind wire.TopicKind, id string) string {
	return wire.Topic{Kind: kind, Node: u.node, ID: id}.String()
}
