package uplink_test

import (
	"bytes"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"linli/internal/uplink"
)

// Whatever a broker does on a connection, the next one goes on, and every frame is delivered in the end: acknowledged by a
// broker that behaves, since the hostile one may have lost what it took.
func TestHostileBroker(t *testing.T) {
	type script func(c net.Conn, publish *packets.PublishPacket)
	id := func(p *packets.PublishPacket) []byte { return []byte{byte(p.MessageID >> 8), byte(p.MessageID)} }
	send := func(parts ...[]byte) script {
		return func(c net.Conn, p *packets.PublishPacket) {
			for _, part := range parts {
				_, _ = c.Write(part)
			}
		}
	}
	for name, c := range map[string]struct {
		connack []byte // in place of a yes
		first   script // to the first publish
		every   script // to every one
		suback  []byte // after its number
	}{
		"acknowledges nothing": {every: send()},
		"acknowledges unknown numbers": {every: func(c net.Conn, p *packets.PublishPacket) {
			p.MessageID += 99
			_, _ = c.Write(append([]byte{0x40, 2}, id(p)...))
		}},
		"acknowledges twice": {every: func(c net.Conn, p *packets.PublishPacket) {
			a := append([]byte{0x40, 2}, id(p)...)
			_, _ = c.Write(append(a, a...))
		}},
		"acknowledges what is to come": {first: func(c net.Conn, p *packets.PublishPacket) {
			p.MessageID++
			_, _ = c.Write(append([]byte{0x40, 2}, id(p)...))
		}},
		"acknowledges as a subscription": {every: func(c net.Conn, p *packets.PublishPacket) {
			_, _ = c.Write(append(append([]byte{0x90, 3}, id(p)...), 1))
		}},
		"acknowledges as the end of one":              {every: func(c net.Conn, p *packets.PublishPacket) { _, _ = c.Write(append([]byte{0xb0, 2}, id(p)...)) }},
		"acknowledges as QoS 2":                       {every: func(c net.Conn, p *packets.PublishPacket) { _, _ = c.Write(append([]byte{0x50, 2}, id(p)...)) }},
		"closes in the midst of an acknowledgement":   {every: func(c net.Conn, p *packets.PublishPacket) { _, _ = c.Write([]byte{0x40, 2, 0}); c.Close() }},
		"closes in the midst of a message of its own": {first: func(c net.Conn, p *packets.PublishPacket) { _, _ = c.Write([]byte{0x32, 50, 0, 1, 'a'}); c.Close() }},
		"sends a message of 256 MiB":                  {first: send([]byte{0x32, 0xff, 0xff, 0xff, 0x7f, 0, 1, 'a', 0, 1}, make([]byte, 100_000))},
		"sends nonsense":                              {first: send([]byte{0xf7, 0x82, 0xff, 0xff, 0xff, 0xff, 1})},
		"sends what only clients send":                {first: send([]byte{0xc0, 0, 0xe0, 0})},
		"says yes twice":                              {first: send([]byte{0x20, 2, 0, 0})},
		"grants more than was asked":                  {suback: []byte{1, 1, 1, 1}},
		"grants nothing":                              {suback: []byte{}},
		"refuses the subscription":                    {suback: []byte{0x80}, every: send()},
		"refuses the protocol":                        {connack: []byte{0x20, 2, 0, 1}},
		"refuses the name":                            {connack: []byte{0x20, 2, 0, 2}},
		"is not available":                            {connack: []byte{0x20, 2, 0, 3}},
		"refuses the password":                        {connack: []byte{0x20, 2, 0, 4}},
		"does not allow it":                           {connack: []byte{0x20, 2, 0, 5}},
		"refuses for reasons unknown":                 {connack: []byte{0x20, 2, 0, 0x97}},
		"speaks another version":                      {connack: []byte{0x20, 3, 0, 0, 0}},
		"says half a yes":                             {connack: []byte{0x20, 2, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := startHostile(t, ackAll)
			h.setScript(func(conn net.Conn, n int) bool {
				if n > 2 {
					return false
				}
				yes := c.connack
				if yes == nil {
					yes = []byte{0x20, 2, 0, 0}
				}
				for first := true; ; {
					p, err := packets.ReadPacket(conn)
					if err != nil {
						return true
					}
					switch p := p.(type) {
					case *packets.ConnectPacket:
						_, _ = conn.Write(yes)
						if c.connack != nil {
							return true
						}
					case *packets.SubscribePacket:
						codes := c.suback
						if codes == nil {
							codes = []byte{1}
						}
						_, _ = conn.Write(append([]byte{0x90, byte(2 + len(codes)), byte(p.MessageID >> 8), byte(p.MessageID)}, codes...))
					case *packets.PublishPacket:
						switch {
						case c.every != nil:
							c.every(conn, p)
						case c.first != nil && first:
							c.first(conn, p)
						}
						first = false
					}
				}
			})
			j := newJournal(30)
			u := start(t, uplink.Config{Brokers: []string{h.url}, AckTimeout: 300 * time.Millisecond}, j, newBook())
			everyFrame(t, u, j, h)
			if s := u.Status(); s.Failures == 0 {
				t.Error("the hostile broker was not noticed")
			}
		})
	}
}

// A broker that takes and gives one byte a second is too slow to be of use and is left; the next is not.
func TestBrokerOfOneByteASecond(t *testing.T) {
	h := startHostile(t, ackAll)
	h.setScript(func(c net.Conn, n int) bool {
		if n > 1 {
			return false
		}
		if p, err := packets.ReadPacket(c); err != nil || p == nil {
			return true
		}
		_, _ = c.Write([]byte{0x20, 2, 0, 0})
		one := make([]byte, 1)
		for {
			if _, err := c.Read(one); err != nil {
				return true
			}
			select {
			case <-t.Context().Done():
				return true
			case <-time.After(time.Second):
			}
		}
	})
	j := newJournal(30)
	u := start(t, uplink.Config{Brokers: []string{h.url}, AckTimeout: time.Second}, j, newBook())
	everyFrame(t, u, j, h)
}

// The connection that breaks in the midst of a message that we send: the message goes again, whole.
func TestConnectionBreaksInTheMidstOfAMessage(t *testing.T) {
	h := startHostile(t, ackAll)
	h.setScript(func(c net.Conn, n int) bool {
		if n > 3 {
			return false
		}
		if p, err := packets.ReadPacket(c); err != nil || p == nil {
			return true
		}
		_, _ = c.Write([]byte{0x20, 2, 0, 0})
		_, _ = c.Read(make([]byte, 40*n)) // a part of what comes
		return true
	})
	j := newJournal(30)
	u := start(t, uplink.Config{Brokers: []string{h.url}, AckTimeout: time.Second}, j, newBook())
	everyFrame(t, u, j, h)
}

// P4: at the end what is in flight is waited for, and only then comes the farewell.
func TestDrainsBeforeTheFarewell(t *testing.T) {
	h := startHostile(t, func(p published) (bool, bool) {
		if strings.HasSuffix(p.topic, "/telemetry") {
			time.Sleep(150 * time.Millisecond) // a line of its own length
		}
		return true, false
	})
	j := newJournal(3)
	u := start(t, uplink.Config{Brokers: []string{h.url}}, j, newBook())
	eventually(t, "a message on its way", func() bool { return len(h.on("/telemetry")) > 0 })
	u.stop()
	if s := u.Status(); s.BacklogFrames != 0 || s.Acknowledged != s.Sent {
		t.Errorf("%d frames left, %d of %d messages acknowledged", s.BacklogFrames, s.Acknowledged, s.Sent)
	}
	if s := lastStatus(t, h); s.State != "offline" || s.Reason != "stopped" {
		t.Errorf("the last status is %s, %s", s.State, s.Reason)
	}
}

// P11: the library keeps a payload until it is acknowledged, so nothing writes to it again.
func TestPayloadsAreNotReused(t *testing.T) {
	for _, compression := range []string{"none", "gzip", "zstd"} {
		j := newJournal(40)
		u, err := uplink.New(uplink.Config{Site: "riverside", Gateway: "gw1", Brokers: []string{"tcp://127.0.0.1:1"}, StateDir: t.TempDir(), Compression: compression}, j, newBook(), nil)
		if err != nil {
			t.Fatal(err)
		}
		u.SetWall(j.wall)
		lanes, err := u.NewLanes()
		if err != nil {
			t.Fatal(err)
		}
		var made, copies [][]byte
		for {
			p := lanes.Next(true, 300)
			if len(p) == 0 {
				break
			}
			for _, b := range p {
				made, copies = append(made, b), append(copies, bytes.Clone(b))
			}
		}
		if len(made) < 5 {
			t.Fatalf("%d messages", len(made))
		}
		for i := range made {
			if !bytes.Equal(made[i], copies[i]) {
				t.Errorf("%s: message %d was written to", compression, i)
			}
		}
	}
}

// What was acknowledged is memory for the next message.
func TestAcknowledgedPayloadsAreReused(t *testing.T) {
	j := newJournal(40)
	u, err := uplink.New(uplink.Config{Site: "riverside", Gateway: "gw1", Brokers: []string{"tcp://127.0.0.1:1"}, StateDir: t.TempDir()}, j, newBook(), nil)
	if err != nil {
		t.Fatal(err)
	}
	u.SetWall(j.wall)
	lanes, err := u.NewLanes()
	if err != nil {
		t.Fatal(err)
	}
	var last []byte
	for i := range 5 {
		p := lanes.Next(true, 300)
		if len(p) != 1 {
			t.Fatalf("%d messages", len(p))
		}
		if i > 0 && &p[0][0] != &last[0] {
			t.Errorf("message %d has memory of its own", i)
		}
		last = p[0]
		lanes.Over(last)
	}
}

// Who is thrown out at once again and again is told which MQTT client id to look for.
func TestLostAtOnceNamesTheClientID(t *testing.T) {
	h := startHostile(t, func(published) (bool, bool) { return false, true })
	u := start(t, uplink.Config{Brokers: []string{h.url}}, newJournal(1), newBook())
	eventually(t, "the hint", func() bool {
		return strings.Contains(u.Status().LastError, "the MQTT client id riverside-gw1, or does the broker refuse")
	})
}
