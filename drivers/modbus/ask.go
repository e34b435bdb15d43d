package modbus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"linli/drivers"
)

// tapMost bounds what is kept of what was heard.
const tapMost = 16 << 10

// broadcastPause is the time that units need to carry out a broadcast (Modbus over serial line 1.02, section 2.4.1).
const broadcastPause = 100 * time.Millisecond

// setter is a port whose settings can be changed: a serial device.
type setter interface {
	Set(baud int, format string) error
}

var errNoSettings = errors.New("only a serial line has settings")

// ask sends one request of any function on behalf of a tool and returns what came (see drivers.Host). The answer to a
// function of unknown length ends where its checksum matches and the line falls silent. Unit 0 of a serial line is
// broadcast: only writes, and nobody answers.
func (l *line) ask(ctx context.Context, unit byte, pdu []byte, timeout time.Duration) (drivers.Reply, error) {
	var heard []byte
	if len(pdu) == 0 || len(pdu) > maxPDU || pdu[0] == 0 || pdu[0]&excFlag != 0 {
		return drivers.Reply{}, fmt.Errorf("%w: not a request: % x", errNotSent, pdu)
	}
	l.tap = &heard
	defer func() { l.tap = nil }()
	start := time.Now()
	var ans []byte
	var err error
	if l.rtu && unit == 0 {
		err = l.broadcast(ctx, pdu)
	} else {
		ans, err = l.fenced(ctx, unit, pdu, timeout)
	}
	r := drivers.Reply{Heard: heard, Took: time.Since(start)}
	if err == nil && ans != nil {
		r.PDU = append([]byte(nil), ans...)
		r.Took = l.answered
	}
	return r, err
}

// broadcast sends a write to all units.
func (l *line) broadcast(ctx context.Context, pdu []byte) error {
	switch pdu[0] {
	case 5, 6, 15, 16, 22:
	default:
		return fmt.Errorf("%w: unit 0 is broadcast: only writes can be sent to all", errNotSent)
	}
	if l.p == nil {
		return fmt.Errorf("%w: %w: not open", errNotSent, errLinkDown)
	}
	if err := l.ready(ctx, 0); err != nil {
		return fmt.Errorf("%w: %w", errNotSent, l.failed(ctx, err))
	}
	l.out = appendRTU(l.out[:0], 0, pdu)
	took := l.wire(len(l.out))
	if err := l.p.SetDeadline(time.Now().Add(took + time.Second)); err != nil {
		return l.failed(ctx, err)
	}
	if _, err := l.p.Write(l.out); err != nil {
		return l.failed(ctx, err)
	}
	l.last = time.Now().Add(took)
	return pause(ctx, took+broadcastPause)
}

// hear listens for d without asking, and returns the first 16 KiB of what came.
func (l *line) hear(ctx context.Context, d time.Duration) ([]byte, error) {
	if l.p == nil {
		return nil, fmt.Errorf("%w: not open", errLinkDown)
	}
	var heard []byte
	l.tap = &heard
	defer func() { l.tap = nil }()
	p := l.p
	if err := p.SetDeadline(time.Now().Add(d)); err != nil {
		return nil, l.failed(ctx, err)
	}
	l.moving.Add(1)
	stop := context.AfterFunc(ctx, func() {
		_ = p.SetDeadline(time.Unix(1, 0))
		l.moving.Done()
	})
	var err error
	for err == nil {
		if l.rtu {
			l.n = 0
		}
		err = l.receive()
	}
	if stop() {
		l.moving.Done()
	} else {
		l.moving.Wait()
	}
	l.dirty = l.rtu
	switch {
	case ctx.Err() != nil:
		return heard, ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return heard, nil
	}
	return heard, l.failed(ctx, err)
}

// setLine changes speed and format of a serial line, also for when it is opened again. What units owed is forgotten:
// at other settings it would be noise.
func (l *line) setLine(baud int, format string) error {
	if !l.rtu {
		return errNoSettings
	}
	if l.p != nil {
		s, ok := l.p.(setter)
		if !ok {
			return errNoSettings
		}
		if err := s.Set(baud, format); err != nil {
			return err
		}
	}
	l.baud, l.format = baud, format
	l.char, l.quiet = charTime(baud, format), quietTime(baud)
	clear(l.units[:])
	l.dirty, l.n = true, 0
	return nil
}
