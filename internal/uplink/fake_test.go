package uplink_test

import (
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"linli/internal/alert"
	"linli/internal/journal"
	"linli/internal/telemetry"
	"linli/internal/testservers"
	"linli/internal/wire"
)

// fakeJournal holds frames in memory. Every frame n has one record of value n at n seconds.
type fakeJournal struct {
	mu       sync.Mutex
	epoch    uint64
	later    int64 // than base the journal is, ns
	first    uint64
	frames   []journal.Frame
	changed  chan struct{}
	released uint64
	broken   map[uint64]error
	unset    bool // the clock of boot "unset" is not set
	records  int
	settled  telemetry.Mono
	stats    journal.Stats
}

func newJournal(frames int) *fakeJournal {
	j := &fakeJournal{epoch: 0xc0ffee, first: 1, changed: make(chan struct{}), broken: map[uint64]error{}, unset: true, records: 1}
	j.append(frames, "boot")
	return j
}

func (j *fakeJournal) append(n int, boot string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for range n {
		seq := j.first + uint64(len(j.frames))
		at := telemetry.Mono(seq) * telemetry.Mono(time.Second)
		f := journal.Frame{Epoch: j.epoch, Seq: seq, T0: at, T1: at, Boot: boot}
		for i := range j.records {
			f.Records = append(f.Records, journal.Record{
				Series: &telemetry.Series{Class: "counter", Device: fmt.Sprintf("c%d", i), Zone: "z", Point: "n", Kind: telemetry.Int},
				Time:   at, Value: telemetry.IntValue(int64(seq)),
			})
		}
		j.frames = append(j.frames, f)
	}
	close(j.changed)
	j.changed = make(chan struct{})
}

func (j *fakeJournal) drop(before uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.frames = j.frames[before-j.first:]
	j.first = before
}

func (j *fakeJournal) Epoch() uint64 { return j.epoch }

func (j *fakeJournal) Bounds() (first, next uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.first, j.first + uint64(len(j.frames))
}

func (j *fakeJournal) Changed() <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.changed
}

func (j *fakeJournal) Read(seq uint64, f *journal.Frame) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.broken[seq]; err != nil {
		return err
	}
	if seq < j.first || seq >= j.first+uint64(len(j.frames)) {
		return journal.ErrNotFound
	}
	*f = j.frames[seq-j.first]
	return nil
}

func (j *fakeJournal) Release(seq uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.released = seq
}

// Skip leaves a hole: frames that cannot be read, and a tombstone behind them.
func (j *fakeJournal) Skip(next uint64) (uint64, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	from := j.first + uint64(len(j.frames))
	for seq := from; seq < next; seq++ {
		j.broken[seq] = journal.ErrNotFound
		j.frames = append(j.frames, journal.Frame{})
	}
	j.bury(from, next-1)
	return from, nil
}

// TellLost appends a tombstone with these times.
func (j *fakeJournal) TellLost(from, to time.Time) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	mono := func(t time.Time) telemetry.Mono { return telemetry.Mono(t.UnixNano() - base) }
	j.frames = append(j.frames, journal.Frame{Epoch: j.epoch, Seq: j.first + uint64(len(j.frames)), T0: mono(from), T1: mono(to), Boot: "boot",
		Lost: &journal.Loss{Reason: journal.LossDamage}})
	close(j.changed)
	j.changed = make(chan struct{})
	return nil
}

// bury appends a tombstone. j.mu is held.
func (j *fakeJournal) bury(from, last uint64) {
	seq := j.first + uint64(len(j.frames))
	at := telemetry.Mono(seq) * telemetry.Mono(time.Second)
	j.frames = append(j.frames, journal.Frame{Epoch: j.epoch, Seq: seq, T0: at, T1: at, Boot: "boot",
		Lost: &journal.Loss{Count: 77, Reason: journal.LossDamage, FirstSeq: from, LastSeq: last}})
	close(j.changed)
	j.changed = make(chan struct{})
}

func (j *fakeJournal) Settled() telemetry.Mono {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.settled
}

func (j *fakeJournal) setSettled(m telemetry.Mono) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.settled = m
}

func (j *fakeJournal) Stats() journal.Stats {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.stats
}

func (j *fakeJournal) Released() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.released
}

func (j *fakeJournal) setClock() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.unset = false
}

const base = 1_790_000_000_000_000_000

func (j *fakeJournal) wall(f *journal.Frame, m telemetry.Mono) (time.Time, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return time.Unix(0, base+j.later+int64(m)).UTC(), f.Boot != "unset" || !j.unset
}

// fakeBook is an outbox in memory.
type fakeBook struct {
	mu      sync.Mutex
	pending []alert.Outgoing
	open    []alert.Alert
	lines   map[string][]alert.Entry
	told    []string
	news    map[string]alert.Outgoing // what was said last of each alert
	seq     int64
	changed chan struct{}
}

func newBook() *fakeBook {
	return &fakeBook{changed: make(chan struct{}), lines: map[string][]alert.Entry{}, news: map[string]alert.Outgoing{}}
}

func (b *fakeBook) say(id string, state alert.State, what string, revision int64) {
	b.sayAt(id, state, what, revision, time.Date(2026, 11, 21, 8, 0, int(revision), 0, time.UTC))
}

func (b *fakeBook) sayAt(id string, state alert.State, what string, revision int64, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := alert.Alert{ID: id, Identity: telemetry.Identity{Alert: "FireLaneBlocked", Subject: "lane1"}, Severity: telemetry.Warning, State: state, Revision: revision, RaisedAt: at}
	b.open = slices.DeleteFunc(b.open, func(o alert.Alert) bool { return o.ID == id })
	if a.Open() {
		b.open = append(b.open, a)
	} else {
		a.ClosedAt = at
	}
	b.seq++
	b.news[id] = alert.Outgoing{Seq: b.seq, Alert: a, What: what, At: at}
	b.pending = append(b.pending, b.news[id])
	b.lines[id] = append(b.lines[id], alert.Entry{Revision: revision, Time: at, What: what})
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *fakeBook) Pending(channel string, n int) []alert.Outgoing {
	b.mu.Lock()
	defer b.mu.Unlock()
	if channel != "mqtt" {
		return nil
	}
	return slices.Clone(b.pending[:min(n, len(b.pending))])
}

func (b *fakeBook) Told(_ string, id string, seq int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.told = append(b.told, fmt.Sprintf("%s:%d", id, seq))
	b.pending = slices.DeleteFunc(b.pending, func(o alert.Outgoing) bool { return o.Alert.ID == id && o.Seq <= seq })
}

func (b *fakeBook) Changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}

func (b *fakeBook) OpenAlerts() []alert.Alert {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.open)
}

func (b *fakeBook) Get(id string) (alert.Alert, []alert.Entry, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if o, ok := b.news[id]; ok {
		return o.Alert, slices.Clone(b.lines[id]), nil
	}
	return alert.Alert{}, nil, alert.ErrNotFound
}

func (b *fakeBook) Within(from, to time.Time) (ids []string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, o := range b.news {
		if !o.At.Before(from) && !o.At.After(to) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

func (b *fakeBook) toldCount() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.told)
}

// published is one PUBLISH packet that reached the hostile broker.
type published struct {
	conn    int
	topic   string
	retain  bool
	payload []byte
}

func (p published) frames(t testing.TB) (wire.Header, string) {
	t.Helper()
	line, _ := wire.NextLine(p.payload)
	h, err := wire.ParseHeader(line)
	if err != nil {
		t.Fatalf("%s: %v", p.topic, err)
	}
	return h, string(p.payload)
}

// hostile is a broker that does to each packet what a test wants.
type hostile struct {
	url string
	// answer is asked for every publish: acknowledge it, or close the connection after it, or neither.
	mu       sync.Mutex
	answer   func(p published) (ack, drop bool)
	code     byte                         // of CONNACK
	deaf     bool                         // connections are closed at once
	discards bool                         // what arrives is not kept
	script   func(c net.Conn, n int) bool // serves the nth connection, or says no
	forgets  bool                         // no connection finds its session, as if the broker had lost it
	// grant answers a subscription: with a code, or by closing the connection. nil grants all.
	grant    func(filter string) (code byte, drop bool)
	got      []published
	connects int
	conns    []net.Conn
}

func startHostile(t *testing.T, answer func(p published) (ack, drop bool)) *hostile {
	t.Helper()
	l := testservers.Listen(t)
	h := &hostile{url: "tcp://" + l.Addr().String(), answer: answer}
	testservers.Serve(t, l, func(c net.Conn) {
		h.mu.Lock()
		if h.deaf {
			h.mu.Unlock()
			return
		}
		h.conns = append(h.conns, c)
		h.connects++
		n := h.connects
		h.mu.Unlock()
		h.serve(c, n)
	})
	return h
}

func (h *hostile) serve(c net.Conn, n int) {
	h.mu.Lock()
	script := h.script
	h.mu.Unlock()
	if script != nil && script(c, n) {
		return
	}
	for {
		p, err := packets.ReadPacket(c)
		if err != nil {
			return
		}
		switch p := p.(type) {
		case *packets.ConnectPacket:
			a := packets.NewControlPacket(packets.Connack).(*packets.ConnackPacket)
			h.mu.Lock()
			a.ReturnCode = h.code
			a.SessionPresent = n > 1 && !h.forgets
			h.mu.Unlock()
			_ = a.Write(c)
		case *packets.PingreqPacket:
			_ = packets.NewControlPacket(packets.Pingresp).Write(c)
		case *packets.SubscribePacket:
			h.mu.Lock()
			grant := h.grant
			h.mu.Unlock()
			code, drop := byte(1), false
			if grant != nil {
				code, drop = grant(p.Topics[0])
			}
			if drop {
				return
			}
			a := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
			a.MessageID, a.ReturnCodes = p.MessageID, []byte{code}
			_ = a.Write(c)
		case *packets.DisconnectPacket:
			return
		case *packets.PublishPacket:
			m := published{conn: n, topic: p.TopicName, retain: p.Retain, payload: p.Payload}
			h.mu.Lock()
			if !h.discards {
				h.got = append(h.got, m)
			}
			answer := h.answer
			h.mu.Unlock()
			ack, drop := answer(m)
			if ack {
				a := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
				a.MessageID = p.MessageID
				_ = a.Write(c)
			}
			if drop {
				return
			}
		}
	}
}

func (h *hostile) set(answer func(p published) (ack, drop bool)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answer = answer
}

func (h *hostile) forget(forgets bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forgets = forgets
}

// refuseConnections makes the broker close each connection at once, as long as no gateway may even look at it.
func (h *hostile) refuseConnections(refuse bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deaf = refuse
}

// deliver sends a message to the client.
func (h *hostile) deliver(topic string, payload []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Payload, p.Qos, p.MessageID = topic, payload, 1, 7
	_ = p.Write(h.conns[len(h.conns)-1])
}

func (h *hostile) discard() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.discards = true
}

func (h *hostile) setScript(script func(c net.Conn, n int) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.script = script
}

// drop ends the connection.
func (h *hostile) drop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conns[len(h.conns)-1].Close()
}

// on returns what arrived on topics that end with suffix.
func (h *hostile) on(suffix string) []published {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []published
	for _, p := range h.got {
		if len(p.topic) >= len(suffix) && p.topic[len(p.topic)-len(suffix):] == suffix {
			out = append(out, p)
		}
	}
	return out
}

func ackAll(published) (bool, bool) { return true, false }
