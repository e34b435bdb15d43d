package simulate

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// bus is one simulated line: some units behind one endpoint.
type bus struct {
	id    string
	units map[int]*unit // by the address that each had at first; read-only once built

	mu      sync.Mutex
	mishaps map[*unit]*mishaps // guarded by mu
}

// mishapsOf returns what is kept about the faults of a unit.
func (b *bus) mishapsOf(u *unit) *mishaps {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mishaps == nil {
		b.mishaps = map[*unit]*mishaps{}
	}
	if b.mishaps[u] == nil {
		b.mishaps[u] = &mishaps{}
	}
	return b.mishaps[u]
}

// ServeRTUOverTCP answers RTU frames on the connections of l until ctx ends, as a transparent converter does, and
// closes l.
func (c *Community) ServeRTUOverTCP(ctx context.Context, busID string, l net.Listener) error {
	b, err := c.bus(busID)
	if err != nil {
		return err
	}
	return serve(ctx, l, func(conn net.Conn) { _ = b.serveRTU(ctx, conn) })
}

// serveTCP answers Modbus TCP on l until ctx ends.
func (b *bus) serveTCP(ctx context.Context, l net.Listener) error {
	return serve(ctx, l, func(conn net.Conn) { b.serveConn(ctx, conn) })
}

// serve gives each connection of l to one until ctx ends.
func serve(ctx context.Context, l net.Listener, one func(net.Conn)) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		wg.Go(func() {
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			defer stop()
			one(conn)
		})
	}
}

// serveConn answers one Modbus TCP connection, one request at a time as cheap converters do.
func (b *bus) serveConn(ctx context.Context, conn net.Conn) {
	header := make([]byte, 7)
	for {
		if _, err := io.ReadFull(conn, header); err != nil {
			return
		}
		length := int(binary.BigEndian.Uint16(header[4:]))
		if binary.BigEndian.Uint16(header[2:]) != 0 || length < 2 || length > 254 {
			return
		}
		pdu := make([]byte, length-1)
		if _, err := io.ReadFull(conn, pdu); err != nil {
			return
		}
		u := b.unitAt(int(header[6]))
		if u == nil {
			continue // Nobody has that address: silence.
		}
		id := [2]byte(header[:2])
		err := u.reply(ctx, conn, b.mishapsOf(u), header[6], pdu, func(unit byte, pdu []byte) []byte {
			out := append(id[:], 0, 0)
			out = binary.BigEndian.AppendUint16(out, uint16(len(pdu)+1))
			return append(append(out, unit), pdu...)
		}, false)
		if err != nil {
			return
		}
	}
}

// serveRTU answers Modbus RTU on port until reading fails. The caller closes port when ctx ends.
func (b *bus) serveRTU(ctx context.Context, port io.ReadWriter) error {
	var frame []byte
	buf := make([]byte, 256)
	last := time.Now()
	for {
		n, err := port.Read(buf)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if now := time.Now(); now.Sub(last) > 50*time.Millisecond {
			frame = frame[:0] // A pause ends a frame, whole or not.
			last = now
		} else {
			last = now
		}
		frame = append(frame, buf[:n]...)
		for {
			size := requestSize(frame)
			if size < 0 {
				frame = frame[:0]
				break
			}
			if size == 0 || len(frame) < size {
				break
			}
			request := append([]byte(nil), frame[:size]...)
			frame = append(frame[:0], frame[size:]...)
			if crc(request) != 0 {
				frame = frame[:0]
				break
			}
			u := b.unitAt(int(request[0]))
			if u == nil {
				continue
			}
			err := u.reply(ctx, port, b.mishapsOf(u), request[0], request[1:size-2], rtuFrame, true)
			if _, line := port.(net.Conn); errors.Is(err, errHungUp) && !line {
				continue
			}
			if err != nil {
				return err
			}
		}
	}
}

// requestSize returns the length of the RTU request that starts frame, 0 while it cannot be told yet, and -1 where
// frame does not start with a request.
func requestSize(frame []byte) int {
	if len(frame) < 2 {
		return 0
	}
	switch frame[1] {
	case 1, 2, 3, 4, 5, 6:
		return 8
	case 0x2B:
		return 7
	case 15, 16:
		if len(frame) < 7 {
			return 0
		}
		return 9 + int(frame[6])
	}
	return -1
}

// crc is the CRC-16 of Modbus RTU (polynomial 0xA001 reflected, start 0xFFFF). Over a frame with its CRC it is 0.
func crc(data []byte) uint16 {
	c := uint16(0xFFFF)
	for _, b := range data {
		c ^= uint16(b)
		for range 8 {
			if c&1 != 0 {
				c = c>>1 ^ 0xA001
			} else {
				c >>= 1
			}
		}
	}
	return c
}

// wait waits for d, or less where ctx ends, and reports whether d has passed.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
