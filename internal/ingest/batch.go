package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"

	"linli/internal/ledger"
	"linli/internal/wire"
)

// DeadLetter is the message on linli/v1/dead/{node}: lines, or a whole message, that were not written.
type DeadLetter struct {
	Node  string    `json:"node"`
	Topic string    `json:"topic,omitempty"` // of the message refused; empty where the database refused the lines
	Time  time.Time `json:"time"`
	// Count is how many lines are meant; Lines holds the first of them.
	Count int        `json:"count"`
	Lines []DeadLine `json:"lines"`
}

// DeadLine is one line that was refused.
type DeadLine struct {
	Reason string `json:"reason"`
	Line   string `json:"line"` // cut after 1 KiB; empty where the message was too large to be read
}

const (
	deadLinesKept  = 20
	deadLineLength = 1 << 10
	deadTimeout    = 30 * time.Second
	// deadBatch bounds the dead letters of one batch, which are in memory and on their way together.
	deadBatch = 64
)

func (d *DeadLetter) add(line []byte, reason string) {
	d.Count++
	if len(d.Lines) < deadLinesKept {
		text := strings.ToValidUTF8(string(line[:min(len(line), deadLineLength)]), "\uFFFD")
		d.Lines = append(d.Lines, DeadLine{Reason: reason, Line: text})
	}
}

// batcher turns messages into lines, has them written, and acknowledges. It belongs to one connection's goroutine.
type batcher struct {
	in     *Ingest
	link   link
	unpack *wire.Decompressor
	check  checker
	lines  []byte
	dead   map[string]*DeadLetter // by topic, or by "" + node for what the database refuses
	logged map[string]bool        // nodes whose bad messages were logged on this connection
	late   map[lateHour]bool      // what of this batch says something of hours that may have been judged
}

// lateHour is an hour of a gateway.
type lateHour struct {
	site, gateway string
	start         int64
}

func newBatcher(in *Ingest, l link) (*batcher, error) {
	d, err := wire.NewDecompressor(in.cfg.MaxMessage)
	b := &batcher{in: in, link: l, unpack: d, dead: map[string]*DeadLetter{}, logged: map[string]bool{}, late: map[lateHour]bool{}}
	b.check.kinds = in.cfg.Kinds
	b.check.setNow(in.cfg.Now())
	return b, err
}

func (b *batcher) close() { b.unpack.Close() }

// process writes the messages and acknowledges them. After an error the messages that were not acknowledged come
// again. What a message unpacks to is known only afterwards: as soon as there are lines for a write they are written,
// however many messages are still to come.
func (b *batcher) process(ctx context.Context, messages []message) error {
	done := 0
	for i, m := range messages {
		if i == done {
			b.lines = b.lines[:0]
			clear(b.dead)
			clear(b.late)
			b.check.setNow(b.in.cfg.Now())
		}
		if large, ok := m.(tooLarge); ok {
			b.oversized(large)
		} else {
			b.message(m.Topic(), m.Payload())
		}
		if i+1 < len(messages) && len(b.lines) < b.in.cfg.BatchBytes && len(b.dead) < deadBatch {
			continue
		}
		if err := b.flush(ctx); err != nil {
			return err
		}
		for _, m := range messages[done : i+1] {
			m.Ack()
		}
		b.in.count(func(s *Stats) { s.Acknowledged += uint64(i + 1 - done) })
		done = i + 1
	}
	return nil
}

// flush writes the lines and buries what was refused.
func (b *batcher) flush(ctx context.Context) error {
	// Behind the rows: who sees a mark sees what it is about. Both are written again if this write is not the last try.
	now, client := b.in.cfg.Now().UnixNano(), cleanName(b.in.cfg.ClientID)
	for h := range b.late {
		b.lines = wire.AppendLateLine(b.lines, client, h.site, h.gateway, h.start, now)
	}
	clear(b.late)
	if len(b.lines) > 0 {
		refused, err := b.in.db.write(ctx, b.lines)
		if err != nil {
			return err
		}
		for _, r := range refused {
			// A reserved measurement is an error of the check and still tells whose line it was.
			l, _ := wire.CheckLine(r.line)
			node := string(l.Site) + "." + string(l.Gateway)
			b.letter("", node).add(r.line, r.reason)
		}
	}
	return b.bury(ctx)
}

// mark notes that a row says something of the time from since on.
func (b *batcher) mark(site, gateway string, since int64) {
	if start, ok := ledger.Mark(since, b.in.cfg.Now().UnixNano()); ok {
		b.late[lateHour{site, gateway, start}] = true
	}
}

func (b *batcher) letter(topic, node string) *DeadLetter {
	key := topic
	if key == "" {
		key = " " + node
	}
	d := b.dead[key]
	if d == nil {
		d = &DeadLetter{Node: node, Topic: topic, Time: time.Now().UTC()}
		b.dead[key] = d
	}
	return d
}

// bury publishes the dead letters and waits until the broker has them.
func (b *batcher) bury(ctx context.Context) error {
	receipts := map[string]receipt{}
	for key, d := range b.dead {
		if _, _, ok := wire.SplitNode(d.Node); !ok {
			continue // a message of nobody; it is counted
		}
		payload, err := json.Marshal(d)
		if err != nil {
			return err
		}
		if !b.logged[d.Node] {
			b.logged[d.Node] = true
			b.in.log.Warn("lines not written", zap.String("node", d.Node), zap.Int("count", d.Count), zap.String("reason", d.Lines[0].Reason))
		}
		receipts[key] = b.link.publish(wire.Topic{Kind: wire.Dead, Node: d.Node}.String(), payload)
	}
	timeout := time.NewTimer(deadTimeout)
	defer timeout.Stop()
	for key, r := range receipts {
		var err error
		select {
		case <-r.Done():
			err = r.Error()
		case <-b.link.lost():
			err = b.link.err()
		case <-ctx.Done():
			err = ctx.Err()
		case <-timeout.C:
			err = errors.New("the broker does not acknowledge the dead letter")
		}
		if err != nil {
			return fmt.Errorf("dead letter of %s: %w", b.dead[key].Node, err)
		}
	}
	return nil
}

// oversized notes a message that was too large to be taken.
func (b *batcher) oversized(m tooLarge) {
	b.in.count(func(s *Stats) { s.Oversized++ })
	topic, err := wire.ParseTopic(m.Topic())
	if err != nil {
		b.in.stranger(err)
		return
	}
	b.in.count(func(s *Stats) { s.BadMessages++ })
	b.letter(m.Topic(), topic.Node).add(nil, fmt.Sprintf("message of %d bytes is too large; the limit is %d", m.size, b.in.cfg.MaxMessage))
}

// message appends the lines of one message.
func (b *batcher) message(name string, payload []byte) {
	topic, err := wire.ParseTopic(name)
	if err != nil {
		b.in.stranger(err)
		return
	}
	site, gateway, _ := wire.SplitNode(topic.Node)
	switch topic.Kind {
	case wire.Telemetry:
		err = b.telemetry(name, topic.Node, site, gateway, payload)
	case wire.Alert:
		err = b.alert(topic, site, gateway, payload)
	case wire.StatusTopic:
		err = b.status(topic.Node, site, gateway, payload)
	}
	if err != nil {
		b.in.count(func(s *Stats) { s.BadMessages++ })
		b.letter(name, topic.Node).add(payload, err.Error())
	}
}

// telemetry appends the lines that are the node's own. An error is of the whole message.
func (b *batcher) telemetry(name, node, site, gateway string, payload []byte) error {
	text, err := b.unpack.Unpack(payload)
	if err != nil {
		return err
	}
	first, rest := wire.NextLine(text)
	h, err := wire.ParseHeader(first)
	if err != nil {
		return err
	}
	if !b.check.timely(h.T0) || !b.check.timely(h.T1) {
		return fmt.Errorf("header: %w", errTime)
	}
	if !b.check.timely(h.Settled) {
		h.Settled = 0 // proves nothing
	}
	lines, bad, foreign := 0, 0, 0
	for len(rest) > 0 {
		var line []byte
		line, rest = wire.NextLine(rest)
		switch {
		case len(line) == 0:
		case wire.IsLost(line):
			l, err := wire.ParseLost(line)
			if err != nil {
				bad++
				b.letter(name, node).add(line, err.Error())
				continue
			}
			at := l.T1
			if !b.check.timely(at) {
				at = h.T1 // a loss without a time is still a loss
			}
			b.lines = wire.AppendLossLine(b.lines, site, gateway, &l, at)
			b.mark(site, gateway, min(at, l.T0))
		case line[0] == '#':
		default:
			lines++
			if err := b.check.line(line, site, gateway); err != nil {
				bad++
				if errors.Is(err, wire.ErrForeign) {
					foreign++
				}
				b.letter(name, node).add(line, err.Error())
				continue
			}
			b.lines = append(append(b.lines, line...), '\n')
		}
	}
	whole := lines == h.Count
	if whole {
		// Only then does the ledger say that these frames have arrived. Refused lines have too.
		b.lines = wire.AppendLedgerLine(b.lines, site, gateway, &h)
		since := h.T1
		if h.Settled != 0 {
			since = min(since, h.Settled)
		}
		b.mark(site, gateway, since)
	}
	b.in.count(func(s *Stats) {
		s.BadLines += uint64(bad)
		s.Foreign += uint64(foreign)
		if !whole {
			s.CountWrong++
		}
	})
	return nil
}

// alert appends the row of an alert transition. An empty message only clears what was retained.
func (b *batcher) alert(topic wire.Topic, site, gateway string, payload []byte) error {
	if len(payload) == 0 {
		return nil
	}
	e, err := wire.ParseAlert(payload)
	if err != nil {
		return err
	}
	if e.Source != topic.Node || e.Data.ID != topic.ID {
		b.in.count(func(s *Stats) { s.Foreign++ })
		return wire.ErrForeign
	}
	// UnixNano is undefined far from now. A gateway whose clock is not set counts from 1970; its alerts are rows of the moment
	// in which they arrive, like its status: nobody looks for a fire in 1970, and a retention policy would refuse it.
	switch y := e.Time.UTC().Year(); {
	case y == 1970 && e.Data.TimeUncertain:
		e.Time = b.in.cfg.Now()
	case y < 2020 || y > 2200 || !b.check.timely(e.Time.UnixNano()):
		return fmt.Errorf("alert: %w", errTime)
	}
	b.lines = wire.AppendAlertLine(b.lines, site, gateway, &e)
	return nil
}

// status appends the row of a gateway's status. An empty message only clears what was retained.
func (b *batcher) status(node, site, gateway string, payload []byte) error {
	if len(payload) == 0 {
		return nil
	}
	s, err := wire.ParseStatus(payload, node)
	if err != nil {
		if errors.Is(err, wire.ErrForeign) {
			b.in.count(func(s *Stats) { s.Foreign++ })
		}
		return err
	}
	// A will has no time, and a gateway whose clock is not set does not know it: they are rows of the moment in which
	// they arrive, and another row when they arrive again.
	at := b.in.cfg.Now().UnixNano()
	if !s.Bare() && s.ClockSet {
		if at = s.Time.UnixNano(); !b.check.timely(at) {
			return fmt.Errorf("status: %w", errTime)
		}
	}
	b.lines = wire.AppendStatusLine(b.lines, site, gateway, &s, at)
	b.mark(site, gateway, at)
	return nil
}
