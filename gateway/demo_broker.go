package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"

	mqtt "github.com/wind-c/comqtt/v2/mqtt"
	"github.com/wind-c/comqtt/v2/mqtt/listeners"
	"github.com/wind-c/comqtt/v2/mqtt/packets"
)

// demoBroker is an MQTT broker inside the demo, open to everybody on this machine. It is for looking at the messages
// and nothing else: a city runs a real broker.
type demoBroker struct{ server *mqtt.Server }

func newDemoBroker(l net.Listener) (*demoBroker, error) {
	server := mqtt.New(&mqtt.Options{InlineClient: false, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err := server.AddHook(new(allowAll), nil); err != nil {
		return nil, fmt.Errorf("set up the demo's broker: %w", err)
	}
	if err := server.AddListener(listeners.NewNet("demo", l)); err != nil {
		return nil, fmt.Errorf("set up the demo's broker: %w", err)
	}
	return &demoBroker{server: server}, nil
}

func (b *demoBroker) run(ctx context.Context) error {
	if err := b.server.Serve(); err != nil {
		return fmt.Errorf("run the demo's broker: %w", err)
	}
	<-ctx.Done()
	return b.server.Close()
}

// allowAll lets every client of this machine publish and subscribe to everything.
type allowAll struct{ mqtt.HookBase }

// ID names the hook.
func (*allowAll) ID() string { return "allow-all" }

// Provides says which questions the hook answers.
func (*allowAll) Provides(question byte) bool {
	return question == mqtt.OnConnectAuthenticate || question == mqtt.OnACLCheck
}

// OnConnectAuthenticate lets every client in.
func (*allowAll) OnConnectAuthenticate(*mqtt.Client, packets.Packet) bool { return true }

// OnACLCheck lets every client do everything.
func (*allowAll) OnACLCheck(*mqtt.Client, string, bool) bool { return true }
