package ingest

import (
	"context"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"linli/internal/mqtt"
)

// message is one message, from wherever messages come.
type message interface {
	Topic() string   // as MQTT has it, linli/v1/...
	Payload() []byte // must not be changed
	// Ack says that the message is done with. What is not acknowledged comes again. It may be called from any
	// goroutine and does not wait: an acknowledgement that gets lost is one that was never given.
	Ack()
}

// tooLarge is a message that was larger than MaxMessage and is not in memory; it has no payload.
type tooLarge struct {
	message
	size int
}

// link is one connection to where messages come from, from its opening until it is lost: it never reconnects. While
// it lives it hands over every message once, in the order in which it gets them. Its methods may be called from any
// goroutine.
type link interface {
	// publish sends a message to an MQTT topic, to be acknowledged as with QoS 1, not retained. The payload must not
	// change until the receipt is done, which may never be once the link is lost.
	publish(topic string, payload []byte) receipt
	lost() <-chan struct{} // closed when the connection is gone
	err() error            // why it was lost; nil while it is not
	drop(why error)        // ends it at once
	// close lets acknowledgements go out for at most quiesce and ends the connection.
	close(quiesce time.Duration)
}

// receipt is done, without an error, when what was published is safe with the broker.
type receipt interface {
	Done() <-chan struct{}
	Error() error // once it is done
}

// mqttLink is a connection to an MQTT broker.
type mqttLink struct{ session *mqtt.Session }

// openMQTT connects to a broker and subscribes. put gets the messages and must not block; while room says that there is
// none, the broker has to wait.
func (in *Ingest) openMQTT(ctx context.Context, broker string, put func(message), room func() <-chan struct{}) (link, error) {
	session, err := mqtt.Connect(ctx, mqtt.Config{
		ClientID: in.cfg.ClientID, Username: in.cfg.Username, PasswordFile: in.cfg.PasswordFile,
		CAFile: in.cfg.CAFile, CertFile: in.cfg.CertFile, KeyFile: in.cfg.KeyFile, MaxPacket: in.cfg.MaxMessage + 1024,
		DialTimeout: in.dialTimeout,
	}, broker, mqtt.Options{
		OnMessage:   func(m paho.Message) { put(m) },
		OnOversized: func(m *mqtt.Oversized) { put(tooLarge{m, m.Size}) },
		Room:        room,
	})
	if err != nil {
		return nil, err
	}
	for _, f := range in.cfg.Filters {
		sctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := session.Subscribe(sctx, f)
		cancel()
		if err != nil {
			session.Drop(err)
			return nil, err
		}
	}
	return mqttLink{session}, nil
}

func (l mqttLink) publish(topic string, payload []byte) receipt {
	return l.session.Publish(topic, false, payload)
}
func (l mqttLink) lost() <-chan struct{}       { return l.session.Lost() }
func (l mqttLink) err() error                  { return l.session.Err() }
func (l mqttLink) drop(why error)              { l.session.Drop(why) }
func (l mqttLink) close(quiesce time.Duration) { l.session.Close(quiesce) }
