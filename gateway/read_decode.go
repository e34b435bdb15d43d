package main

import (
	"context"
	byteorder "encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/site"
	"linli/internal/telemetry"
)

// decodeLimit bounds one reading of points over a bus, a dead unit included.
const decodeLimit = 20 * time.Second

// decodePoints reads points of a bus over conn and decodes them exactly as the gateway would: by a driver of its own,
// whose Modbus TCP connection ends in this process and is answered from conn. It puts what it read into got.
func decodePoints(ctx context.Context, conn busConn, b *site.Bus, refs []*pointRef, got map[telemetry.PointID]pointReading) error {
	ctx, cancel := context.WithTimeout(ctx, decodeLimit)
	defer cancel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("read points: %w", err)
	}
	bridge := &bridge{conn: conn, words: map[[3]int]word{}, silent: map[int]bool{}}
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer cancel() // before the wait
	wg.Go(func() { bridge.serve(ctx, l) })

	clock := telemetry.NewClock("", 0, time.Time{})
	bus, err := modbus.New(modbus.Config{Name: b.ID, Transport: modbus.TCP, Address: l.Addr().String(), Timeout: 10 * time.Second,
		Units: onlyPoints(b.Units, refs), Clock: clock})
	if err != nil {
		return fmt.Errorf("read points: %w", err)
	}
	defer bus.Close()
	missing := len(refs)
	var samples []telemetry.Sample
	for missing > 0 && ctx.Err() == nil {
		var next telemetry.Mono
		samples, next = bus.Step(ctx, clock.Mono(), samples[:0])
		for i := range samples {
			s := &samples[i]
			if _, seen := got[s.Point]; !seen {
				missing--
			}
			got[s.Point] = pointReading{value: s.Value, quality: s.Quality, known: true}
		}
		if err := bridge.failed(); err != nil {
			return err
		}
		waiting := slices.ContainsFunc(refs, func(r *pointRef) bool { return !got[r.id].known && !bridge.gone(r.unit.Address) })
		if !waiting {
			break
		}
		if err := sleep(ctx, next.Sub(clock.Mono())); err != nil {
			break // The limit: what is missing did not answer.
		}
	}
	for _, ref := range refs {
		ch := &ref.unit.Profile.Channels[ref.binding.Channel]
		g := got[ref.id]
		g.raw, g.frames = bridge.channel(ref.unit.Address, ch)
		got[ref.id] = g
	}
	return nil
}

// onlyPoints returns the units with nothing but the bindings of refs. None of them is life-safety here: that would
// shorten timeouts, and nobody's alarm waits for this reading.
func onlyPoints(units []firmwareconfig.Unit, refs []*pointRef) []firmwareconfig.Unit {
	var out []firmwareconfig.Unit
	for _, u := range units {
		var binds []firmwareconfig.Binding
		for _, b := range u.Bindings {
			if slices.ContainsFunc(refs, func(r *pointRef) bool { return r.id == b.Point }) {
				def := *b.Def
				def.LifeSafety = false
				b.Def = &def
				binds = append(binds, b)
			}
		}
		if len(binds) > 0 {
			u.Bindings = binds
			out = append(out, u)
		}
	}
	return out
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// bridge answers Modbus TCP from a busConn, one request after another.
type bridge struct {
	conn busConn

	mu     sync.Mutex // guards the rest
	words  map[[3]int]word
	silent map[int]bool // units that did not answer, by address
	err    error        // the bus is lost
}

// word is a register or bit, with the frames that it came in.
type word struct {
	value uint16
	frames
}

// serve answers until ctx ends. It is the only one that uses conn meanwhile.
func (b *bridge) serve(ctx context.Context, l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		stop := context.AfterFunc(ctx, func() { c.Close() })
		for b.one(ctx, c) {
		}
		stop()
		c.Close()
	}
}

// one answers one request and reports whether the connection goes on.
func (b *bridge) one(ctx context.Context, c net.Conn) bool {
	var head [7]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return false
	}
	n := int(byteorder.BigEndian.Uint16(head[4:]))
	if n < 2 || n > 254 {
		return false
	}
	pdu := make([]byte, n-1)
	if _, err := io.ReadFull(c, pdu); err != nil {
		return false
	}
	var away *lostError
	r, err := b.conn.Ask(ctx, head[6], pdu, 0)
	if err != nil && !errors.As(err, &away) && ctx.Err() == nil {
		r, err = b.conn.Ask(ctx, head[6], pdu, 0) // Once more: a single disturbance is no dead unit.
	}
	answer := r.PDU
	switch {
	case ctx.Err() != nil:
		return false
	case err != nil:
		answer = []byte{pdu[0] | 0x80, 11} // The unit did not answer.
		b.mu.Lock()
		b.silent[int(head[6])] = true
		if errors.As(err, &away) {
			b.err = err
		}
		b.mu.Unlock()
	default:
		b.keep(int(head[6]), pdu, answer)
	}
	byteorder.BigEndian.PutUint16(head[4:], uint16(len(answer)+1))
	_, err = c.Write(append(head[:], answer...))
	return err == nil
}

// keep remembers the words of an answer.
func (b *bridge) keep(unit int, pdu, answer []byte) {
	if len(pdu) != 5 || pdu[0] < 1 || pdu[0] > 4 || answer[0] != pdu[0] || len(answer) < 2 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	came := newFrames(unit, pdu, answer)
	first, data := int(byteorder.BigEndian.Uint16(pdu[1:])), answer[2:]
	for i := range int(byteorder.BigEndian.Uint16(pdu[3:])) {
		key := [3]int{unit, int(pdu[0]), first + i}
		switch {
		case pdu[0] <= 2 && i/8 < len(data):
			b.words[key] = word{uint16(data[i/8]>>(i%8)) & 1, came}
		case pdu[0] > 2 && 2*i+1 < len(data):
			b.words[key] = word{byteorder.BigEndian.Uint16(data[2*i:]), came}
		}
	}
}

// channel returns the raw words of a channel and the frames that they came in, nothing where they were not read.
func (b *bridge) channel(unit int, ch *firmwareconfig.Channel) (out []uint16, came frames) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range ch.Registers() {
		w, ok := b.words[[3]int{unit, int(ch.Table), ch.Address + i}]
		if !ok {
			return nil, frames{}
		}
		out, came = append(out, w.value), w.frames
	}
	return out, came
}

// gone reports whether a unit did not answer.
func (b *bridge) gone(unit int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.silent[unit]
}

// failed returns why the bus can no longer be used, nil while it can.
func (b *bridge) failed() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}
