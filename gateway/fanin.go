package main

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"linli/internal/alert"
	"linli/internal/journal"
	"linli/internal/live"
	"linli/internal/telemetry"
	"linli/rules"
)

// fanInBatches bounds the batches between the buses and the engine. When it is full the buses wait: the engine does
// no I/O, so a full queue means that the processor is overloaded, and slower polling is the right answer to that.
const fanInBatches = 256

// fanIn is where the samples of every bus come together. One goroutine takes each batch to the live table, the rules
// engine, what follows from alerts (outputs first), the alert book and the journal, in this order: what its reporter passes of it.
// Who watches outputs sees every reading. It steps them also when
// a timer is due, and when people have acknowledged or closed an alert or ordered an output. None of them waits for a
// disk or a network.
type fanIn struct {
	clock   *telemetry.Clock
	live    *live.Table
	engine  *rules.Engine
	alerts  *alert.Book
	journal *journal.Journal
	respond *responder
	report  *reporter
	log     *zap.Logger

	way     *onTheWay
	batches chan []telemetry.Sample
	free    chan []telemetry.Sample // batches to be used again
	asked   chan func()             // to be done between two steps
	ended   chan struct{}           // closed when run returns

	read func() telemetry.Now // reads the clock
	now  telemetry.Now        // of the last step

	passed []telemetry.Sample // memory for what is reported of a batch

	samples atomic.Uint64 // taken in since start, reported or not
	late    atomic.Uint64 // samples that the engine ignored because they were older than what it knew
	stepped atomic.Int64  // telemetry.Mono of the last step: how long ago it was says whether decisions are made
}

func newFanIn(clock *telemetry.Clock, table *live.Table, engine *rules.Engine, alerts *alert.Book, j *journal.Journal, d *drive, report *reporter, log *zap.Logger) *fanIn {
	return &fanIn{
		clock: clock, live: table, engine: engine, alerts: alerts, journal: j, report: report, log: log,
		respond: newResponder(engine, d, alerts, log),
		way:     &onTheWay{},
		batches: make(chan []telemetry.Sample, fanInBatches),
		free:    make(chan []telemetry.Sample, fanInBatches),
		asked:   make(chan func()),
		ended:   make(chan struct{}),
		read:    clock.Now,
	}
}

// emit returns the function that a bus hands its samples to, until ctx ends. The samples are copied.
func (f *fanIn) emit(ctx context.Context) func([]telemetry.Sample) {
	return func(samples []telemetry.Sample) {
		if len(samples) == 0 {
			return
		}
		var batch []telemetry.Sample
		select {
		case batch = <-f.free:
		default:
		}
		batch = append(batch[:0], samples...)
		first := f.way.add(samples)
		select {
		case f.batches <- batch:
		case <-ctx.Done():
			f.way.remove(first)
		}
	}
}

// run takes batches in until ctx ends and the queue is empty. The buses must have stopped by then.
func (f *fanIn) run(ctx context.Context) error {
	defer close(f.ended)
	var out rules.Output
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := f.clock.Mono()
		// A step a second at least, so that its age can be watched (/metrics); questions in between do not put it off.
		next := min(f.engine.Next(), f.respond.machine.Next(), telemetry.Mono(f.stepped.Load()).Add(time.Second))
		timer.Reset(max(next.Sub(now), 0))
		select {
		case batch := <-f.batches:
			f.arrive(batch, &out)
			select {
			case f.free <- batch:
			default:
			}
		case <-timer.C:
			f.step(nil, &out)
		case <-f.alerts.Done():
			f.step(nil, &out)
		case <-f.respond.drive.handed:
			f.step(nil, &out)
		case do := <-f.asked:
			do()
		case <-ctx.Done():
			for {
				select {
				case batch := <-f.batches:
					f.arrive(batch, &out)
				default:
					return nil
				}
			}
		}
	}
}

// clockStill is how far the wall clock may have moved against monotonic time before the steps follow it.
const clockStill = time.Millisecond

// moment returns the moment of the next step, in a form that the journal keeps exactly and in few bytes, since a backtest
// decides the same only at the same moments: later than the last one, in whole microseconds, on a wall clock that stands
// still against monotonic time until it is off by more than a millisecond.
func (f *fanIn) moment() telemetry.Now {
	n := f.read()
	real := n.Mono
	n.Mono = (n.Mono + 999) / 1000 * 1000
	if n.Mono <= f.now.Mono {
		n.Mono = f.now.Mono + 1000
	}
	if !n.Wall.IsZero() {
		offset := n.Wall.Add(-time.Duration(real)).Truncate(time.Microsecond)
		if last := f.now; !last.Wall.IsZero() && last.Uncertain == n.Uncertain {
			if stood := last.Wall.Add(-time.Duration(last.Mono)); offset.Sub(stood).Abs() <= clockStill {
				offset = stood
			}
		}
		n.Wall = offset.Add(time.Duration(n.Mono))
	}
	f.now = n
	return n
}

// unknown reports whether the rules that run have no such alert: it was closed because they have not.
func (f *fanIn) unknown(id telemetry.Identity) bool { return !f.engine.Knows(id) }

// arrive takes in a batch that a bus has sent.
func (f *fanIn) arrive(batch []telemetry.Sample, out *rules.Output) {
	first := earliest(batch)
	f.step(batch, out)
	f.way.remove(first)
}

func (f *fanIn) step(batch []telemetry.Sample, out *rules.Output) {
	now := f.moment()
	passed := f.report.take(now.Mono, batch, &f.passed)
	f.live.Apply(passed)
	if f.report.held > 0 {
		f.live.Confirm(batch)
	}
	out.Reset()
	if closed := slices.DeleteFunc(f.respond.heard(now.Mono), f.unknown); len(closed) > 0 {
		f.engine.Closed(closed)
		f.journal.Mark(now.Mono, journal.Mark{Kind: journal.MarkClosed, Closed: closed})
	}
	f.engine.Step(now, passed, out)
	f.respond.decide(now, out.Transitions)
	f.respond.drive.release(now.Mono, f.engine)
	f.respond.drive.observe(batch) // every reading: an output is read back as it is, whether or not that is news
	f.respond.tell(now, out.Transitions)
	for i := range out.Transitions {
		t := &out.Transitions[i]
		f.log.Info("alert "+t.Op.String(), zap.String("alert", t.Alert), zap.String("subject", t.Subject),
			zap.Stringer("severity", t.Severity), zap.String("title", t.Title.Zh))
	}
	f.journal.Append(now, passed)
	if len(out.Derived) > 0 {
		f.live.Apply(out.Derived)
		f.journal.Append(now, out.Derived)
	}
	f.samples.Add(uint64(len(batch)))
	f.late.Store(f.engine.Stats().Late)
	f.stepped.Store(int64(now.Mono))
}
