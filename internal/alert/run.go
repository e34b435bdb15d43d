package alert

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
)

// Pace of committing.
const (
	batchLimit   = 256 // alerts in one transaction
	firstRetry   = 100 * time.Millisecond
	slowestRetry = 5 * time.Second
	toldDelay    = time.Second     // what was told waits this long for company, to spare the flash
	stopLimit    = 4 * time.Second // how long Run tries to commit what is left
)

// batch is one transaction: alerts as they stand with the lines of history that the disk lacks, and outbox rows to
// delete. It shares nothing with the book.
type batch struct {
	items []item
	told  []toldRow
}

type item struct {
	record  *record // for the book, not for the disk
	alert   Alert
	lines   []Entry
	seq     int64 // of its outbox rows
	closedN int64
}

type toldRow struct {
	channel, alert string
	revision       int64
}

type outcome struct {
	batch *batch
	took  time.Duration
	err   error
	prune error // of throwing away old closed alerts, after the commit
}

// Run commits and announces until ctx ends; then it commits what is left, for at most four seconds. It returns an
// error when something could not be committed. Where a commit hangs, Run returns without waiting for it.
func (b *Book) Run(ctx context.Context) error {
	b.setRunning(true)
	work, done := make(chan *batch), make(chan outcome, 1)
	stopped := make(chan struct{})
	go func() { // Owns the writing side of the disk.
		defer close(stopped)
		for w := range work {
			start := time.Now()
			err := b.disk.commit(w)
			o := outcome{batch: w, took: time.Since(start), err: err}
			if err == nil {
				o.prune = b.disk.prune()
			}
			done <- o
		}
	}()

	var (
		writing bool
		retryAt time.Time // no commit before this, after one failed
		delay   time.Duration
		toldAt  time.Time // when rows to delete go without company; zero while there are none
		stopAt  time.Time // zero until ctx ends
		lastErr error
		ending  = ctx.Done()
		timer   = time.NewTimer(time.Hour)
	)
	defer timer.Stop()
	for {
		now := time.Now()
		var next time.Time
		if b.putRight() {
			next = now.Add(clockEvery)
		}
		next = earliest(next, earliest(b.announceDue(now), stopAt))
		stopping := !stopAt.IsZero()
		if stopping && !now.Before(stopAt) {
			close(work)
			if !writing {
				<-stopped
			}
			return fmt.Errorf("alerts: stopped with %d alerts not committed: %w", b.Stats().Waiting, cmp.Or(lastErr, errHangs))
		}
		switch {
		case writing:
			// The outcome comes by itself.
		case now.Before(retryAt):
			next = earliest(next, retryAt)
		default:
			// Asked only here: while a transaction is under way, its rows still count as told.
			if !b.anyTold() {
				toldAt = time.Time{}
			} else if toldAt.IsZero() {
				toldAt = now.Add(toldDelay)
			}
			w := b.take(stopping || !toldAt.IsZero() && !now.Before(toldAt))
			if w == nil && stopping {
				close(work)
				<-stopped
				b.setRunning(false)
				return nil
			}
			if w != nil {
				writing, toldAt = true, time.Time{}
				work <- w
			}
			next = earliest(next, toldAt)
		}
		if next.IsZero() {
			next = now.Add(time.Hour)
		}
		timer.Reset(max(next.Sub(now), 0))
		select {
		case <-b.wake:
		case <-timer.C:
		case <-ending:
			ending = nil
			stopAt = time.Now().Add(stopLimit)
			retryAt = time.Time{}
		case o := <-done:
			writing = false
			b.finish(o)
			if o.err == nil {
				if lastErr != nil {
					b.cfg.Log.Info("the alerts can be committed again")
				}
				lastErr, delay, retryAt = nil, 0, time.Time{}
				continue
			}
			if lastErr == nil {
				b.cfg.Log.Error("the alerts cannot be committed; they are announced without", zap.Error(o.err))
			}
			lastErr = o.err
			delay = min(max(2*delay, firstRetry), slowestRetry)
			retryAt = time.Now().Add(delay)
		}
	}
}

func (b *Book) setRunning(running bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.running = running
}

var errHangs = errors.New("the commit hangs")

// earliest returns the earlier of two times, where zero means never.
func earliest(x, y time.Time) time.Time {
	if x.IsZero() || !y.IsZero() && y.Before(x) {
		return y
	}
	return x
}

// announceDue announces, as not durable, what has waited for its commit too long, and returns when the next one will
// have (zero for never).
func (b *Book) announceDue(now time.Time) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	var next time.Time
	fired := false
	for _, r := range b.dirty {
		due, ok := r.due(b.cfg.CommitLimit)
		if !ok {
			continue
		}
		if now.Before(due) {
			next = earliest(next, due)
			continue
		}
		b.announce(r, r.head, r.last())
		fired = true
	}
	if fired {
		b.fire()
	}
	return next
}

// fire tells whoever waits on Changed. b.mu is held.
func (b *Book) fire() {
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *Book) anyTold() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.ContainsFunc(b.outbox, func(c *channel) bool { return len(c.told) > 0 })
}

// take returns the next transaction, nil for none. What was told goes along with anything else; alone only when
// flush says so.
func (b *Book) take(flush bool) *batch {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.dirty) == 0 && !flush {
		return nil
	}
	w := &batch{}
	for _, r := range b.dirty[:min(batchLimit, len(b.dirty))] {
		r.writing = true
		b.seq++
		it := item{record: r, alert: r.head, seq: b.seq, closedN: r.closedN}
		for i := range r.lines {
			if r.lines[i].Revision > r.committed || r.rewrite > r.committed {
				it.lines = append(it.lines, r.lines[i].Entry)
			}
		}
		w.items = append(w.items, it)
	}
	for _, c := range b.outbox {
		for id, revision := range c.told {
			w.told = append(w.told, toldRow{channel: c.name, alert: id, revision: revision})
		}
	}
	if len(w.items) == 0 && len(w.told) == 0 {
		return nil
	}
	return w
}

// finish takes down how a transaction went, and announces what was in it.
func (b *Book) finish(o outcome) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if o.took > b.cfg.CommitLimit {
		b.stats.SlowCommits++
	}
	if o.prune != nil {
		b.stats.PruneFailures++
	}
	fired := false
	show := func(it *item, durable bool) {
		a := it.alert
		a.Durable = durable
		newer := a.Revision > it.record.shown.Revision
		settled := a.Revision == it.record.shown.Revision && durable && !it.record.shown.Durable
		if newer || settled {
			b.announce(it.record, a, it.lines[len(it.lines)-1])
			fired = true
		}
	}
	if o.err != nil {
		b.stats.CommitFailures++
		for i := range o.batch.items {
			o.batch.items[i].record.writing = false
			show(&o.batch.items[i], false)
		}
	} else {
		b.stats.Commits++
		for i := range o.batch.items {
			it := &o.batch.items[i]
			r := it.record
			r.writing = false
			r.committed = it.alert.Revision
			if r.head.Revision == r.committed {
				r.head.Durable = true
				r.waiting = false
			}
			show(it, true)
			if r.head.State == Closed && !r.waiting {
				delete(b.byID, r.head.ID) // From here on the disk answers for it.
			}
		}
		b.dirty = slices.DeleteFunc(b.dirty, func(r *record) bool { return !r.waiting })
		for _, t := range o.batch.told {
			for _, c := range b.outbox {
				if c.name == t.channel && c.told[t.alert] == t.revision {
					delete(c.told, t.alert)
				}
			}
		}
	}
	if fired {
		b.fire()
	}
}
