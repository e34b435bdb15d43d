package uplink_test

import (
	"regexp"
	"testing"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"linli/internal/testservers"
	"linli/internal/uplink"
)

// The will says what is known when it will be read, and no more.
func TestWillSaysOnlyThatTheGatewayIsLost(t *testing.T) {
	l := testservers.Listen(t)
	defer l.Close()
	start(t, uplink.Config{Brokers: []string{"tcp://" + l.Addr().String()}}, newJournal(1), newBook())
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p, err := packets.ReadPacket(c)
	if err != nil {
		t.Fatal(err)
	}
	connect, ok := p.(*packets.ConnectPacket)
	if !ok {
		t.Fatalf("%v", p)
	}
	want := regexp.MustCompile(`^\{"node":"riverside.gw1","state":"offline","reason":"lost","epoch":"[0-9a-f]{16}","instance":"[A-Z2-7]{26}"}$`)
	if !want.Match(connect.WillMessage) || !connect.WillRetain {
		t.Errorf("will %s, retained %v, want %s", connect.WillMessage, connect.WillRetain, want)
	}
}
