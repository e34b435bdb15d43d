package mqtt

import (
	"errors"
	"fmt"
)

// ErrPacket is wrapped by the errors of a connection that was ended because of what the broker sent.
var ErrPacket = errors.New("hostile packet")

// packetParser follows the fixed headers (MQTT 3.1.1, section 2.2) in a stream of packets from a server.
type packetParser struct {
	max    int
	skip   int  // bytes of the current packet's body still to come
	kind   byte // type of the packet whose length is being read, 0 between packets
	length int
	shift  uint
}

// feed takes the next bytes of the stream.
func (p *packetParser) feed(b []byte) error {
	for len(b) > 0 {
		if p.skip > 0 {
			n := min(p.skip, len(b))
			p.skip -= n
			b = b[n:]
			continue
		}
		c := b[0]
		b = b[1:]
		if p.kind == 0 {
			switch p.kind = c >> 4; p.kind {
			case connack, publish, puback, suback, unsuback, pingresp:
			default:
				// Also the packets of QoS 2, which we neither send nor subscribe to.
				return fmt.Errorf("%w: type %d is not for a client", ErrPacket, p.kind)
			}
			p.length, p.shift = 0, 0
			continue
		}
		p.length |= int(c&0x7f) << p.shift
		p.shift += 7
		if c&0x80 != 0 {
			if p.shift > 21 {
				return fmt.Errorf("%w: length of more than four bytes", ErrPacket)
			}
			continue
		}
		if err := p.check(); err != nil {
			return err
		}
		p.skip, p.kind = p.length, 0
	}
	return nil
}

const (
	connack  = 2
	publish  = 3
	puback   = 4
	suback   = 9
	unsuback = 11
	pingresp = 13
)

// check judges a packet by its type and length. We subscribe to one filter at a time, so a SUBACK has three bytes;
// the library would panic over one with more codes than filters.
func (p *packetParser) check() error {
	want := -1
	switch p.kind {
	case connack, puback, unsuback:
		want = 2
	case suback:
		want = 3
	case pingresp:
		want = 0
	}
	if want >= 0 && p.length != want {
		return fmt.Errorf("%w: type %d with %d bytes instead of %d", ErrPacket, p.kind, p.length, want)
	}
	if p.length > p.max {
		return fmt.Errorf("%w: %d bytes, the limit is %d", ErrPacket, p.length, p.max)
	}
	return nil
}
