package modbus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
)

// Session is a line opened by a tool on its own, without a gateway: linli scan, read, write, config. It has the same
// line discipline as a Bus. It is not safe for concurrent use.
type Session struct {
	line    *line
	timeout time.Duration
}

// ErrInUse: another process, or another bus of this one, holds the serial device.
var ErrInUse = errors.New("device is in use by another program (a running gateway, or another tool)")

// Open opens the line of c; c.Units may be empty. A serial device that a running gateway (or another tool) holds is
// refused with ErrInUse. Where c.Timeout is 0 an answer is waited for 300 ms.
func Open(ctx context.Context, c Config) (*Session, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	s := &Session{line: &line{open: c.opener(), rtu: c.Transport != TCP, anyID: c.IgnoreTID, heard: func(byte) {}}, timeout: c.Timeout}
	if s.timeout <= 0 {
		s.timeout = defaultTimeout
	}
	if s.line.rtu {
		s.line.char, s.line.quiet = charTime(c.Line.Baud, c.Line.Format), quietTime(c.Line.Baud)
	}
	if err := s.reach(ctx); err != nil {
		return nil, fmt.Errorf("open %s: %w", c.Name, err)
	}
	return s, nil
}

// opener returns how a bus opens its line.
func (c *Config) opener() func(context.Context) (port, error) {
	switch {
	case c.Inbound != nil:
		return func(ctx context.Context) (port, error) { return c.Inbound.Accept(ctx) }
	case c.Transport == RTU:
		return func(context.Context) (port, error) { return openSerial(c.Device, c.Line.Baud, c.Line.Format) }
	}
	return func(ctx context.Context) (port, error) {
		d := net.Dialer{Timeout: connectTimeout}
		conn, err := d.DialContext(ctx, "tcp", c.Address)
		if err != nil {
			return nil, err
		}
		return newDirect(conn), nil
	}
}

// reach opens the line where it is not open, or no more.
func (s *Session) reach(ctx context.Context) error {
	s.line.check(0)
	if s.line.connected() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	return s.line.connect(ctx)
}

// Ask is drivers.Host's Ask.
func (s *Session) Ask(ctx context.Context, unit byte, pdu []byte, timeout time.Duration) (drivers.Reply, error) {
	if err := s.reach(ctx); err != nil {
		return drivers.Reply{}, fmt.Errorf("ask unit %d: %w", unit, err)
	}
	if timeout <= 0 {
		timeout = s.timeout
	}
	r, err := s.line.ask(ctx, unit, pdu, timeout)
	if err != nil {
		err = fmt.Errorf("ask unit %d: %w", unit, err)
	}
	return r, err
}

// Hear is drivers.Host's Hear.
func (s *Session) Hear(ctx context.Context, d time.Duration) ([]byte, error) {
	if err := s.reach(ctx); err != nil {
		return nil, fmt.Errorf("hear: %w", err)
	}
	heard, err := s.line.hear(ctx, d)
	if err != nil {
		err = fmt.Errorf("hear: %w", err)
	}
	return heard, err
}

// Set changes the settings of a serial line; on others it is an error. Zero values mean 9600 8N1.
func (s *Session) Set(_ context.Context, line firmwareconfig.Line) error {
	if line.Baud == 0 {
		line.Baud = 9600
	}
	if line.Format == "" {
		line.Format = "8N1"
	}
	if err := checkLine(line); err != nil {
		return fmt.Errorf("set: %w", err)
	}
	if err := s.line.setLine(line.Baud, line.Format); err != nil {
		return fmt.Errorf("set %d %s: %w", line.Baud, line.Format, err)
	}
	return nil
}

// Close closes the line.
func (s *Session) Close() error { return s.line.close() }
