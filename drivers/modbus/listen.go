package modbus

import (
	"context"
	"errors"
	"net"

	"go.uber.org/zap"
)

// Listener accepts converters that dial in (cellular modems behind an address of their own provider) and hands each to
// its bus: by the registration packet that it sends first, or, where a port has a single bus without registration,
// by the port.
type Listener struct{}

// NewListener returns a listener for address (host:port). Routes are added before Run.
func NewListener(address string, log *zap.Logger) *Listener { return &Listener{} }

// Route returns the source of connections for the bus whose converter registers with the given bytes; nil takes every
// connection of the port and must be its only route.
func (l *Listener) Route(registration []byte) *Route { return &Route{} }

// Run listens until ctx ends. A listener that cannot be opened is tried again; it is not the end of the gateway.
func (l *Listener) Run(ctx context.Context) error { return errors.New("not built yet") }

// Route hands the converter's newest connection to a Bus (Config.Inbound).
type Route struct{}

// Accept waits for a connection.
func (r *Route) Accept(ctx context.Context) (net.Conn, error) {
	return nil, errors.New("not built yet")
}
