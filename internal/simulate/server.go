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
}

// serveTCP answers Modbus TCP on l until ctx ends.
func (b *bus) serveTCP(ctx context.Context, l net.Listener) error {
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
			b.serveConn(ctx, conn)
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
		fault := u.currentFault()
		if fault.Silent || !wait(ctx, fault.Delay) {
			continue
		}
		if fault.Garbage {
			if _, err := conn.Write([]byte{0xDE, 0xAD, 0xBE, 0xEF, 0x00, 0x01, 0xFF, 0x42}); err != nil {
				return
			}
			continue
		}
		answer := u.answer(pdu)
		out := append([]byte(nil), header...)
		binary.BigEndian.PutUint16(out[4:], uint16(len(answer)+1))
		if _, err := conn.Write(append(out, answer...)); err != nil {
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
			fault := u.currentFault()
			if fault.Silent || !wait(ctx, fault.Delay) {
				continue
			}
			out := []byte{0xDE, 0xAD, 0xBE, 0xEF, 0x42}
			if !fault.Garbage {
				out = append([]byte{request[0]}, u.answer(request[1:size-2])...)
				out = binary.LittleEndian.AppendUint16(out, crc(out))
			}
			if _, err := port.Write(out); err != nil {
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
