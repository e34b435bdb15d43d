package modbus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"linli/internal/telemetry"
)

// Requests over Modbus TCP that are due together go in one run, each a unit's only one, where nothing is doubtful about any of
// them: what a Step costs around its requests is paid once for all. Where the site file says nothing else each is sent when
// the one before has been answered, and what that answer says is looked at while the next one is on its way.
//
// Several may also be on their way at once (Modbus messaging on TCP/IP 1.0b, 4.4.1.4: a server says how many it takes, 1 to
// 16). They are answered in order. Where that goes wrong once, in whatever way, requests go one by one for a while.

const (
	// aheadMost bounds Config.AtOnce.
	aheadMost = 16
	// runMost bounds the requests of a run that go one by one.
	runMost = 64
	// aheadFor bounds the time that the requests of a run take by the units' usual turnarounds: orders and tools
	// wait for all of them, and so do the samples of the first.
	aheadFor = 20 * time.Millisecond
	// aheadAgain is how long requests go one by one after one of several was not answered well.
	aheadAgain = time.Minute
)

// flight is one request of a run.
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

// window returns how many requests may be on their way at once now; 0 where there are no runs.
func (b *Bus) window(now telemetry.Mono) int {
	switch l := b.line; {
	case l.rtu || l.anyID || b.life || b.inbound != nil || l.lost || l.hangsUp:
		return 0
	case b.ahead > 1 && now >= b.aheadFree:
		return b.ahead
	}
	return 1
}

// fly gathers what is asked in one run with bl, which has been chosen and gathered as asked, and returns how many of it may be
// on their way at once. Nothing more is asked where b.flights is empty afterwards.
func (b *Bus) fly(bl *block, asked span, now telemetry.Mono) (window int) {
	b.flights = b.flights[:0]
	window = b.window(now)
	if window == 0 || !b.calm(bl) {
		return window
	}
	most := window
	if window == 1 {
		most = runMost
	}
	took := bl.unit.worst()
	for {
		b.board(bl, asked)
		if len(b.flights) == most {
			break
		}
		next := b.next(now)
		if next == nil || !b.calm(next) || window == 1 && b.hushed(next.unit) > 0 {
			break
		}
		if took += next.unit.worst(); took > aheadFor || slices.ContainsFunc(b.flights, func(f flight) bool { return f.bl.unit == next.unit }) {
			break
		}
		b.chosen(next, now)
		bl, asked = next, b.gather(next, now)
	}
	if len(b.flights) < 2 {
		b.flights = b.flights[:0]
	}
	return window
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

// together sends b.flights, so many at once, and takes in their answers.
func (b *Bus) together(ctx context.Context, window int, from telemetry.Mono, dst []telemetry.Sample) []telemetry.Sample {
	began, l := from, b.line
	b.line.together(ctx, b.flights, window, func(f *flight, ans []byte, err error) {
		var data []byte
		u := f.bl.unit
		data, err = b.taken(u, f.asked, ans, err)
		t := b.now()
		if ctx.Err() != nil {
			return
		}
		b.busyAdd(began, t)
		later := b.later
		b.left(u, t)
		b.party = append(b.party[:0], f.party...)
		if err == nil {
			dst = b.answered(u, f.asked, data, t, dst)
			for _, bl := range b.party {
				later = min(later, max(bl.due, u.free()))
			}
			b.later = later
		} else {
			b.round = b.round[:0]
			if window > 1 {
				b.aheadFree = t.Add(aheadAgain)
			}
			dst = b.failed(u, f.bl, f.asked, false, err, began, t, dst)
		}
		began = t
	})
	if l.lost && window > 1 {
		b.aheadFree = b.now().Add(aheadAgain)
	}
	return dst
}

// together sends requests, at most window of them before the first of those is answered, and hands each answer to take, in
// order, until one is missing; that one's error too. With a window of 1 the next request goes out before take has the answer to the
// one before. With a larger one the connection is closed where an answer is missing: what else was asked would still be
// answered over it. Each answer is waited for as long as its unit's timeout says, from the answer before. What was not sent
// when take has an exception or an error stays unsent.
func (l *line) together(ctx context.Context, flights []flight, window int, take func(f *flight, ans []byte, err error)) {
	p := l.p
	l.moving.Add(1)
	stop := context.AfterFunc(ctx, func() {
		_ = p.SetDeadline(time.Unix(1, 0))
		l.moving.Done()
	})
	last := time.Now()
	err := l.send(ctx, flights[:min(window, len(flights))], last)
	for i := range flights {
		f := &flights[i]
		unit, m := byte(f.bl.unit.cfg.Address), l.memory(byte(f.bl.unit.cfg.Address))
		var ans []byte
		for waited := i == 0 || window == 1; err == nil; waited = true {
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
			if !waited {
				err = l.within(ctx, last.Add(f.bl.unit.timeout))
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
			if window > 1 {
				_ = l.close()
			}
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
		over := window == 1 && (ans[0]&excFlag != 0 || ctx.Err() != nil)
		if window == 1 && !over && i+1 < len(flights) {
			err = l.send(ctx, flights[i+1:i+2], now)
		}
		take(f, ans, nil)
		if over {
			break
		}
	}
	if stop() {
		l.moving.Done()
	} else {
		l.moving.Wait()
	}
}

// send writes the requests of flights at once. The first of them is to be answered within its unit's timeout.
func (l *line) send(ctx context.Context, flights []flight, now time.Time) error {
	l.out = l.out[:0]
	for i := range flights {
		f := &flights[i]
		l.id++
		f.id = l.id
		l.out = appendTCP(l.out, f.id, byte(f.bl.unit.cfg.Address), f.req)
	}
	l.silent++
	if err := l.within(ctx, now.Add(flights[0].bl.unit.timeout)); err != nil {
		return err
	}
	_, err := l.p.Write(l.out)
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
		err = fmt.Errorf("the peer takes no more bytes: %w", io.ErrShortWrite)
	}
	return err
}

// within sets the deadline where ctx may end meanwhile, which sets it too.
func (l *line) within(ctx context.Context, deadline time.Time) error {
	if err := l.p.SetDeadline(deadline); err != nil {
		return err
	}
	return ctx.Err()
}
