package mqtt

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// ErrPacket is wrapped by the errors of a connection that was ended because of what the broker sent.
var ErrPacket = errors.New("hostile packet")

// aliveEvery is how often the library is told that the broker lives while messages are read, or none is because there is no
// room: the broker's answer to a ping stands in the stream behind them.
const aliveEvery = 2 * time.Second

// packetReader hands on a stream of packets from a server (MQTT 3.1.1, section 2.2), as far as they are fit for the
// library. Messages it takes out: the library would copy each twice and pass it from goroutine to goroutine. One that is
// too large is read past, never held.
type packetReader struct {
	in        *bufio.Reader
	max       int
	message   func(*message)
	oversized func(*Oversized)
	// ready returns when the next packet may be read, at the latest after aliveEvery and then false.
	ready func() (bool, error)
	// answers judges an acknowledgement of the kind puback or suback.
	answers func(kind byte, id uint16) error

	connected bool // there was a CONNACK

	room  [5]byte
	head  []byte // to be handed on before left
	left  int    // bytes of the present packet's body to be handed on
	topic string // of the last message
	past  *Oversized
	skip  int // bytes of past still to be read
	alive time.Time
}

// Read gives bytes of one packet at most.
func (r *packetReader) Read(p []byte) (int, error) {
	for {
		switch {
		case len(p) == 0:
			return 0, nil
		case len(r.head) > 0:
			n := copy(p, r.head)
			r.head = r.head[n:]
			return n, nil
		case r.left > 0:
			n, err := r.in.Read(p[:min(len(p), r.left)])
			r.left -= n
			return n, err
		case r.past != nil:
			n, err := r.in.Discard(min(r.skip, 64<<10))
			r.skip -= n
			if err != nil {
				return 0, err
			}
			if r.skip == 0 {
				m := r.past
				r.past = nil
				r.oversized(m)
			} else {
				r.lives()
			}
		default:
			if ok, err := r.ready(); err != nil {
				return 0, err
			} else if !ok {
				r.lives()
				continue
			}
			if err := r.next(); err != nil {
				return 0, err
			}
		}
	}
}

// lives tells the library now and then that the broker does.
func (r *packetReader) lives() {
	if now := time.Now(); now.Sub(r.alive) >= aliveEvery {
		r.alive = now
		r.head = []byte{pingresp << 4, 0}
	}
}

const (
	connack  = 2
	publish  = 3
	puback   = 4
	suback   = 9
	pingresp = 13
)

// next reads and judges the fixed header of a packet.
func (r *packetReader) next() error {
	first, err := r.in.ReadByte()
	if err != nil {
		return err
	}
	// We subscribe to one filter at a time, so a SUBACK has three bytes; the library would panic over one with more
	// codes than filters.
	want := -1
	switch first >> 4 {
	case connack, puback:
		want = 2
	case suback:
		want = 3
	case pingresp:
		want = 0
	case publish:
	default:
		// Also the packets of QoS 2, which we neither send nor subscribe to, and UNSUBACK, since we never unsubscribe.
		return fmt.Errorf("%w: type %d is not for a client", ErrPacket, first>>4)
	}
	head := append(r.room[:0], first)
	length := 0
	for shift := 0; ; shift += 7 {
		if shift > 21 {
			return fmt.Errorf("%w: length of more than four bytes", ErrPacket)
		}
		c, err := r.in.ReadByte()
		if err != nil {
			return err
		}
		head = append(head, c)
		length |= int(c&0x7f) << shift
		if c&0x80 == 0 {
			break
		}
	}
	if want >= 0 && length != want {
		return fmt.Errorf("%w: type %d with %d bytes instead of %d", ErrPacket, first>>4, length, want)
	}
	if first>>4 == connack {
		answer, err := r.in.Peek(2)
		switch {
		case err != nil:
			return err
		case r.connected:
			return fmt.Errorf("%w: a second CONNACK", ErrPacket)
		case answer[1] > 5: // The library would take it for a yes.
			return fmt.Errorf("%w: CONNACK with code %d", ErrPacket, answer[1])
		}
		r.connected = true
	}
	// The library completes whatever waits under the number of any acknowledgement: a SUBACK would do for a message.
	if kind := first >> 4; kind == puback || kind == suback {
		id, err := r.in.Peek(2)
		if err != nil {
			return err
		}
		if err := r.answers(kind, binary.BigEndian.Uint16(id)); err != nil {
			return err
		}
	}
	if first>>4 == publish {
		if !r.connected {
			return fmt.Errorf("%w: a message before the CONNACK", ErrPacket)
		}
		if length > r.max {
			return r.passOver(first, length)
		}
		return r.take(first, length)
	}
	if length > r.max {
		return fmt.Errorf("%w: type %d with %d bytes", ErrPacket, first>>4, length)
	}
	r.head, r.left = head, length
	return nil
}

// take reads a whole message and hands it over.
func (r *packetReader) take(first byte, length int) error {
	m := &message{first: first}
	body := make([]byte, length)
	if _, err := io.ReadFull(r.in, body); err != nil {
		return err
	}
	n := 2
	if length >= n {
		n += int(binary.BigEndian.Uint16(body))
	}
	start := n + 2*int(m.Qos())
	if m.Qos() > 1 || start > length {
		return fmt.Errorf("%w: message of %d bytes with a topic of %d and QoS %d", ErrPacket, length, n-2, m.Qos())
	}
	if m.Qos() == 1 {
		m.id = binary.BigEndian.Uint16(body[n:])
	}
	if topic := body[2:n]; string(topic) == r.topic {
		m.topic = r.topic // often the same
	} else {
		m.topic = string(topic)
		r.topic = m.topic
	}
	m.payload = body[start:]
	r.message(m)
	r.lives()
	return nil
}

// passOver reads the beginning of a message that is too large. Without its topic and number it could not be
// acknowledged, and would come again with every connection.
func (r *packetReader) passOver(first byte, length int) error {
	m := &Oversized{Size: length, first: first}
	if m.Qos() > 1 {
		return fmt.Errorf("%w: message of %d bytes with QoS %d", ErrPacket, length, m.Qos())
	}
	var two [2]byte
	if _, err := io.ReadFull(r.in, two[:]); err != nil {
		return err
	}
	topic := make([]byte, binary.BigEndian.Uint16(two[:]))
	rest := length - 2 - len(topic) - 2*int(m.Qos())
	if rest < 0 {
		return fmt.Errorf("%w: message of %d bytes with a topic of %d", ErrPacket, length, len(topic))
	}
	if _, err := io.ReadFull(r.in, topic); err != nil {
		return err
	}
	if m.Qos() == 1 {
		if _, err := io.ReadFull(r.in, two[:]); err != nil {
			return err
		}
		m.id = binary.BigEndian.Uint16(two[:])
	}
	m.topic = string(topic)
	r.past, r.skip = m, rest
	return nil
}

// Oversized is a message larger than Config.MaxPacket, of which only this is known. It is a paho.Message without
// payload, and like every other must be acknowledged, or it is delivered again.
type Oversized struct {
	Size  int // of the packet, in bytes
	first byte
	acked atomic.Bool
	topic string
	id    uint16
	conn  *guard
}

// Duplicate reports whether the broker may have sent the message before.
func (m *Oversized) Duplicate() bool { return m.first&8 != 0 }

// Qos returns the message's quality of service, 0 or 1.
func (m *Oversized) Qos() byte { return m.first >> 1 & 3 }

// Retained reports whether the broker had kept the message.
func (m *Oversized) Retained() bool { return m.first&1 != 0 }

// Topic returns the topic, which may be anything that a broker lets pass.
func (m *Oversized) Topic() string { return m.topic }

// MessageID returns the message's number on this connection.
func (m *Oversized) MessageID() uint16 { return m.id }

// Payload returns nil: the payload was not kept.
func (m *Oversized) Payload() []byte { return nil }

// Ack acknowledges the message. It may be called from any goroutine and does not wait.
func (m *Oversized) Ack() {
	if m.Qos() == 1 && m.acked.CompareAndSwap(false, true) {
		m.conn.ack(m.id)
	}
}

// message is a message, a paho.Message. It owns its payload.
type message struct {
	first   byte
	acked   atomic.Bool
	id      uint16
	topic   string
	payload []byte
	conn    *guard
}

func (m *message) Duplicate() bool   { return m.first&8 != 0 }
func (m *message) Qos() byte         { return m.first >> 1 & 3 }
func (m *message) Retained() bool    { return m.first&1 != 0 }
func (m *message) Topic() string     { return m.topic }
func (m *message) MessageID() uint16 { return m.id }
func (m *message) Payload() []byte   { return m.payload }

// Ack acknowledges the message. It may be called from any goroutine and does not wait.
func (m *message) Ack() {
	if m.Qos() == 1 && m.acked.CompareAndSwap(false, true) {
		m.conn.ack(m.id)
	}
}

// outbound notes which acknowledgements the packets that we send are waiting for. The library writes whole packets.
type outbound struct {
	mu    sync.Mutex
	waits map[uint16]byte // kind of the acknowledgement, by number
}

const (
	publishQoS1 = publish<<4 | 1<<1
	subscribe   = 8
)

// sent notes a packet before it is written.
func (o *outbound) sent(p []byte) {
	if len(p) < 2 {
		return
	}
	kind := byte(0)
	switch {
	case p[0]&^(1<<3|1) == publishQoS1: // whatever dup and retain are
		kind = puback
	case p[0]>>4 == subscribe:
		kind = suback
	default:
		return
	}
	rest := p[1:]
	for len(rest) > 0 && rest[0]&0x80 != 0 {
		rest = rest[1:]
	}
	rest = rest[min(1, len(rest)):]
	if kind == puback && len(rest) >= 2 {
		rest = rest[min(2+int(binary.BigEndian.Uint16(rest)), len(rest)):]
	}
	if len(rest) < 2 {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waits[binary.BigEndian.Uint16(rest)] = kind
}

// answered judges an acknowledgement.
func (o *outbound) answered(kind byte, id uint16) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.waits[id] != kind {
		return fmt.Errorf("%w: acknowledgement of type %d for %d, which waits for none", ErrPacket, kind, id)
	}
	delete(o.waits, id)
	return nil
}
