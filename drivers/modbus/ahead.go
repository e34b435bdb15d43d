package modbus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"linli/internal/telemetry"
)

// Over Modbus TCP several requests may be on their way at once (Modbus messaging on TCP/IP 1.0b, 4.4.1.4: a server says how
// many it takes, 1 to 16). Each is a unit's only one, and they are answered in order. Where that goes wrong once, in
// whatever way, requests go one by one for a while.

const (
	// aheadMost bounds Config.AtOnce.
	aheadMost = 16
	// aheadFor bounds the time that the requests on their way take by the units' usual turnarounds: orders and tools
	// wait for all of them.
	aheadFor = 20 * time.Millisecond
	// aheadAgain is how long requests go one by one after one of several was not answered well.
	aheadAgain = time.Minute
)

// flight is one of several requests on their way.
type flight struct {
	bl    *block
	party []*block
	asked span
	req   []byte
	id    uint16
}

// calm reports whether nothing is known of the unit, nor owed by it, that its next answer could be mistaken for, and
// nothing is to be found out about it.
func (b *Bus) calm(bl *block) bool {
	u := bl.unit
	m := b.line.units[byte(u.cfg.Address)]
	return u.online && !u.demoted && u.fails == 0 && u.doubts == 0 && u.check == nil && bl.sociable() && bl.answers &&
		m != nil && len(m.owed) == 0 && m.there && !m.trial && m.wary.IsZero()
}

// fly gathers what is asked together with bl, which has been chosen and gathered as asked: nothing more where b.flights is
// empty afterwards.
func (b *Bus) fly(bl *block, asked span, now telemetry.Mono) {
	b.flights = b.flights[:0]
	if b.ahead < 2 || now < b.aheadFree || !b.calm(bl) {
		return
	}
	took := bl.unit.worst()
	for len(b.flights) < b.ahead {
		b.board(bl, asked)
		next := b.next(now)
		if next == nil || !b.calm(next) {
			break
		}
		if took += next.unit.worst(); took > aheadFor {
			break
		}
		for i := range b.flights {
			if b.flights[i].bl.unit == next.unit {
				next = nil
				break
			}
		}
		if next == nil || len(b.flights) == b.ahead {
			break
		}
		b.chosen(next, now)
		bl, asked = next, b.gather(next, now)
	}
	if len(b.flights) < 2 {
		b.flights = b.flights[:0]
	}
}

// board appends a flight with the present party.
func (b *Bus) board(bl *block, asked span) {
	n := len(b.flights)
	if n < cap(b.flights) {
		b.flights = b.flights[:n+1]
	} else {
		b.flights = append(b.flights, flight{})
	}
	f := &b.flights[n]
	f.bl, f.asked, f.party, f.req = bl, asked, append(f.party[:0], b.party...), bl.reqs.pdu(asked)
}

// together sends b.flights and takes in their answers.
func (b *Bus) together(ctx context.Context, from telemetry.Mono, dst []telemetry.Sample) []telemetry.Sample {
	began, l := from, b.line
	b.line.together(ctx, b.flights, func(f *flight, ans []byte, err error) {
		var data []byte
		u := f.bl.unit
		data, err = b.taken(u, f.asked, ans, err)
		t := b.now()
		if ctx.Err() != nil {
			return
		}
		b.busyAdd(began, t)
		b.left(u, t)
		b.party = append(b.party[:0], f.party...)
		if err == nil {
			dst = b.answered(u, f.asked, data, t, dst)
		} else {
			b.round, b.aheadFree = b.round[:0], t.Add(aheadAgain)
			dst = b.failed(u, f.bl, f.asked, false, err, began, t, dst)
		}
		began = t
	})
	if l.lost {
		b.aheadFree = b.now().Add(aheadAgain)
	}
	return dst
}

// together sends requests at once and hands each answer to take, in order, until one is missing; that one's error too. The
// connection is closed then: what else was asked would still be answered over it. Each answer is waited for as long as its unit's
// timeout says, from the answer before.
func (l *line) together(ctx context.Context, flights []flight, take func(f *flight, ans []byte, err error)) {
	l.out = l.out[:0]
	for i := range flights {
		f := &flights[i]
		l.id++
		f.id = l.id
		l.out = appendTCP(l.out, f.id, byte(f.bl.unit.cfg.Address), f.req)
	}
	p := l.p
	l.moving.Add(1)
	stop := context.AfterFunc(ctx, func() {
		_ = p.SetDeadline(time.Unix(1, 0))
		l.moving.Done()
	})
	l.silent++
	last := time.Now()
	err := p.SetDeadline(last.Add(flights[0].bl.unit.timeout))
	if err == nil && ctx.Err() == nil {
		if _, err = p.Write(l.out); errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
			err = fmt.Errorf("the peer takes no more bytes: %w", io.ErrShortWrite)
		}
	}
	for i := range flights {
		f := &flights[i]
		unit, m := byte(f.bl.unit.cfg.Address), l.memory(byte(f.bl.unit.cfg.Address))
		var ans []byte
		for waited := i == 0; err == nil; waited = true {
			pdu, used, stale, odd := findTCP(l.buf[:l.n], f.id, unit, f.req, false, nil)
			l.late += stale
			if odd != nil {
				err = errors.Join(errGarbled, odd)
				break
			}
			if pdu != nil {
				ans = l.take(pdu, used)
				break
			}
			l.drop(used)
			if !waited && ctx.Err() == nil {
				err = p.SetDeadline(last.Add(f.bl.unit.timeout))
			}
			if err == nil {
				err = l.receive()
			}
		}
		if err != nil {
			if ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded) {
				err = ctx.Err()
			}
			err = l.failed(ctx, err)
			l.hangsUp = l.hangsUp || l.metIdleClose(err)
			l.lost = true
			if l.p != nil || !errors.Is(err, errLinkDown) {
				m.unanswered(f.req, time.Now(), f.bl.unit.timeout)
			}
			_ = l.close()
			take(f, nil, err)
			break
		}
		now := time.Now()
		if l.lost = gatewayAway(ans); l.lost {
			m.unanswered(f.req, now, f.bl.unit.timeout)
		} else {
			m.answered(f.req, ans, now, now.Sub(last))
		}
		l.answered, l.used = now.Sub(last), true
		last = now
		take(f, ans, nil)
	}
	if stop() {
		l.moving.Done()
	} else {
		l.moving.Wait()
	}
}
