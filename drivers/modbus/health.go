package modbus

import (
	"context"
	"errors"
	"time"

	gomodbus "github.com/goburrow/modbus"

	"linli/drivers"
	"linli/internal/telemetry"
)

// Health returns the state of the bus. It may be called from any goroutine.
func (b *Bus) Health() drivers.BusHealth {
	var h drivers.BusHealth
	b.HealthInto(&h)
	return h
}

// HealthInto puts the state of the bus into h, whose memory it uses again. It may be called from any goroutine.
func (b *Bus) HealthInto(h *drivers.BusHealth) {
	b.mu.Lock()
	defer b.mu.Unlock()
	units := append(h.Units[:0], b.health.Units...)
	*h = b.health
	h.Units = units
	if b.inbound != nil {
		if err := b.inbound.Rivals(); err != nil {
			h.LastError = err.Error()
		}
	}
}

// count keeps the counters of the bus and of the unit that was asked for quantity registers, or bits.
func (b *Bus) count(u *unit, err error, quantity int, bits bool) {
	cancelled := err != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded))
	if !cancelled && !errors.Is(err, errLinkDown) {
		b.linkWorks()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	h := &b.health.Units[u.index]
	h.Late += uint64(b.line.late - b.line.foreign)
	h.CRC += uint64(b.line.crc)
	b.countStray()
	switch {
	case err == nil:
		h.Answers++
		h.RoundTrip = b.line.answered
		h.LastError = ""
		u.trips[u.tripN%len(u.trips)] = max(b.line.answered-b.line.frames(quantity, bits), time.Microsecond)
		u.tripN++
		return
	case cancelled, errors.Is(err, errLinkDown) && b.line.used:
		return // The peer may have closed a connection that lay idle: the request goes out again on a fresh one.
	case errors.As(err, new(*gomodbus.ModbusError)):
		h.Exceptions++
	case errors.Is(err, errTimeout):
		h.Timeouts++
	default:
		h.Errors++
	}
	if !u.warming(b.now()) {
		h.LastError = err.Error()
	}
}

// countStray takes over what the line discarded. b.mu is held.
func (b *Bus) countStray() {
	b.health.Late += uint64(b.line.late - b.line.foreign)
	b.health.Foreign += uint64(b.line.foreign)
	b.line.late, b.line.foreign, b.line.crc = 0, 0, 0
}

// again counts a request to a unit that counts as online, after one that failed.
func (b *Bus) again(u *unit) {
	b.mu.Lock()
	b.health.Units[u.index].Retries++
	b.mu.Unlock()
}

// frames returns how long the request for quantity registers (or bits) and its answer take on the wire.
func (l *line) frames(quantity int, bits bool) time.Duration {
	data := 2 * quantity
	if bits {
		data = (quantity + 7) / 8
	}
	return l.wire(requestSize + answerOver + data)
}

// Characters of RTU frames: unit, function, address, count and checksum of a request to read; unit, function, byte
// count and checksum of an answer, around its data.
const (
	requestSize = 8
	answerOver  = 5
)

// busyAdd notes that the line was in use from one moment to another.
func (b *Bus) busyAdd(from, to telemetry.Mono) {
	slot := int64(to) / int64(time.Second)
	n := int64(len(b.busy))
	for i := max(b.busySlot+1, slot-n+1); i <= slot; i++ {
		b.busySum -= b.busy[i%n]
		b.busy[i%n] = 0
	}
	b.busySlot = slot
	b.busy[slot%n] += to.Sub(from)
	b.busySum += to.Sub(from)
	window := min(max(to.Sub(b.busyFirst), time.Second), time.Minute)
	b.mu.Lock()
	b.health.Busy = min(1, float64(b.busySum)/float64(window))
	b.mu.Unlock()
}
