package modbus

import (
	"context"
	"errors"
	"time"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
)

// Session is a line opened by a tool on its own, without a gateway: linli scan, read, write, config. It has the same
// line discipline as a Bus. It is not safe for concurrent use.
type Session struct{}

// Open opens the line of c; c.Units may be empty. A serial device that a running gateway (or another tool) holds is
// refused with ErrInUse.
func Open(ctx context.Context, c Config) (*Session, error) { return nil, errors.New("not built yet") }

// ErrInUse: another process holds the serial device.
var ErrInUse = errors.New("device is in use")

// Ask is drivers.Host's Ask.
func (s *Session) Ask(ctx context.Context, unit byte, pdu []byte, timeout time.Duration) (drivers.Reply, error) {
	return drivers.Reply{}, errors.New("not built yet")
}

// Hear is drivers.Host's Hear.
func (s *Session) Hear(ctx context.Context, d time.Duration) ([]byte, error) { return nil, nil }

// Set changes the settings of a serial line; on others it is an error.
func (s *Session) Set(ctx context.Context, line firmwareconfig.Line) error { return nil }

// Close closes the line.
func (s *Session) Close() error { return nil }
