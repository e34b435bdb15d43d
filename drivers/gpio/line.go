package gpio

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	periph "periph.io/x/conn/v3/gpio"

	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

const (
	// edgesAtOnce is how many edges are fetched at once.
	edgesAtOnce = 64
	// queueMax bounds the edges that wait for Step, for each line. Those that do not fit are counted; the level is read.
	queueMax = 1024
	// brake is how long a line is left alone when it has more edges than can be fetched at once, or has had some more
	// than quickMax times within a millisecond of the last. A floating input must not cost the box its processor. The
	// kernel keeps what comes meanwhile, or throws it away and says how much. Shorter than frameGrace.
	brake    = 5 * time.Millisecond
	quickMax = 32
	// pairFault is the least time for which both contacts of a pair must agree before that is a fault.
	pairFault = 50 * time.Millisecond
	// pollEvery is how often lines without edges are looked at.
	pollEvery = 20 * time.Millisecond
	// suspectFor is how long a level must differ from what the edges said before edges count as lost: one may be on its
	// way to us.
	suspectFor = 50 * time.Millisecond
	// countEvery is the least time between two samples of a counter.
	countEvery = 100 * time.Millisecond
	// retryFirst and retryMax are the pauses before a line is tried again.
	retryFirst = time.Second
	retryMax   = 5 * time.Second
	// follow is how long the feedback contact of an output may take. Contactors take 20 to 100 ms.
	follow = 500 * time.Millisecond
)

// line is one line of the site file while it is driven. Everything but its queue belongs to the goroutine of the Bus.
type line struct {
	spec   firmwareconfig.GPIOLine
	points []*point
	key    func() ([]byte, error) // of a reader whose spec has none; nil otherwise

	lines   Lines // nil while the line is not ours
	polled  bool  // the chip tells no edges
	counts  bool  // the queue counts the edges itself
	shift   time.Duration
	cancel  context.CancelFunc
	done    chan struct{} // closed when the goroutine that waits has ended
	queue   queue
	err     error // why the line is not ours
	logged  bool
	retryAt telemetry.Mono
	backoff time.Duration

	readAt  telemetry.Mono // next look at the levels
	levels  [2]periph.Level
	suspect bool // the last look differed from what the edges said
	held    held
	bucket  bucket
	spare   []Edge // to be the queue's next slice
	untold  bool   // the state that counts was not told

	count  uint64         // of a counter, since start
	edgeAt telemetry.Mono // the last edge counted
	toldAt telemetry.Mono // when a counter was told last
	told   uint64

	frame frame
	quiet telemetry.Mono // when a reader was found to have ended its frame; 0 not

	out       *output
	feedback  *line
	disagrees telemetry.Mono // since when the feedback contact does; 0 it does not
	overdue   bool           // it has for too long
	wrong     bool           // the output reads back other than it was set
}

func newLine(spec firmwareconfig.GPIOLine) *line {
	l := &line{spec: spec, backoff: retryFirst, bucket: bucket{left: changesBurst}}
	l.held = newHeld(spec.Debounce, 0)
	switch spec.Kind {
	case firmwareconfig.GPIOPair:
		l.held.fault = max(spec.Debounce, pairFault)
	case firmwareconfig.GPIOOutput:
		l.out = &output{spec: spec}
	}
	return l
}

// request is what is asked of the chip for an input.
func (l *line) request() Request {
	r := Request{
		Consumer: "linli " + l.spec.ID, Lines: []string{l.spec.Line}, ActiveLow: l.spec.ActiveLow,
		Edge: periph.BothEdges, Debounce: l.spec.Debounce,
	}
	switch l.spec.Bias {
	case firmwareconfig.GPIOPullUp:
		r.Pull = periph.PullUp
	case firmwareconfig.GPIOPullDown:
		r.Pull = periph.PullDown
	case firmwareconfig.GPIOBiasOff:
		r.Pull = periph.Float
	}
	switch l.spec.Kind {
	case firmwareconfig.GPIOPair:
		r.Lines = append(r.Lines, l.spec.Second)
		r.Debounce = 0 // What counts is how long both together have held.
	case firmwareconfig.GPIOWiegand:
		r.Lines = append(r.Lines, l.spec.Second)
		r.Debounce, r.Edge = 0, periph.FallingEdge
	case firmwareconfig.GPIOCounter:
		switch l.spec.Edge {
		case firmwareconfig.GPIORising:
			r.Edge = periph.RisingEdge
		case firmwareconfig.GPIOFalling:
			r.Edge = periph.FallingEdge
		}
	}
	return r
}

// take takes the lines, asking for less where the chip lacks something, and starts to wait for edges.
func (l *line) take(chip Chip, wake func()) error {
	if err := l.unlock(); err != nil {
		return err
	}
	r := l.request()
	if l.out != nil {
		r = l.out.request()
	}
	counter := l.spec.Kind == firmwareconfig.GPIOCounter
	lines, err := chip.Request(r)
	if errors.Is(err, ErrNoDebounce) {
		r.Debounce = 0
		if counter {
			r.Edge = periph.BothEdges // Only both show what has held.
		}
		lines, err = chip.Request(r)
	}
	if errors.Is(err, ErrNoEdges) && !counter && l.spec.Kind != firmwareconfig.GPIOWiegand {
		r.Edge, r.Debounce = periph.NoEdge, 0
		lines, err = chip.Request(r)
	}
	if err != nil {
		return err
	}
	l.lines = lines
	l.polled = !r.Out && r.Edge == periph.NoEdge
	l.counts = counter && (l.spec.Debounce == 0 || r.Debounce > 0)
	// The kernel tells an edge when it has held: it was the debounce earlier.
	l.shift = r.Debounce
	l.held.debounce = l.spec.Debounce
	if r.Debounce > 0 {
		l.held.debounce = 0
	}
	l.queue.reset(l.counts)
	l.suspect, l.untold, l.quiet, l.disagrees, l.overdue, l.wrong = false, false, 0, 0, false, false
	l.held.raw, l.held.out, l.held.since = unknown, unknown, 0
	l.frame.reset()
	if l.out != nil {
		l.out.taken(lines)
	}
	if r.Edge != periph.NoEdge && !r.Out {
		ctx, cancel := context.WithCancel(context.Background())
		l.cancel, l.done = cancel, make(chan struct{})
		go l.wait(ctx, lines, wake)
	}
	return nil
}

// unlock sees to it that a reader has the secret with which it hashes.
func (l *line) unlock() error {
	if l.spec.Kind != firmwareconfig.GPIOWiegand || len(l.spec.Key) > 0 {
		return nil
	}
	key, err := l.key()
	if err == nil && len(key) < keyMin {
		err = fmt.Errorf("the key of the card readers is shorter than %d bytes", keyMin)
	}
	if err != nil {
		return err
	}
	l.spec.Key = key
	return nil
}

// wait fetches edges until ctx ends or the line is lost.
func (l *line) wait(ctx context.Context, lines Lines, wake func()) {
	defer close(l.done)
	edges := make([]Edge, edgesAtOnce)
	quick, last := 0, time.Now()
	for {
		n, err := lines.Wait(ctx, edges)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			l.queue.fail(err)
			wake()
			return
		}
		l.queue.put(edges[:n])
		wake()
		now := time.Now()
		if quick++; now.Sub(last) > time.Millisecond {
			quick = 0
		}
		last = now
		if n == len(edges) || quick > quickMax {
			select {
			case <-ctx.Done():
				return
			case <-time.After(brake):
			}
		}
	}
}

// release lets the lines go and waits for the goroutine that waits.
func (l *line) release() error {
	if l.cancel != nil {
		l.cancel()
		<-l.done
		l.cancel, l.done = nil, nil
	}
	if l.out != nil {
		l.out.taken(nil)
	}
	err := l.lines.Close()
	l.lines = nil
	return err
}

// state returns what the levels say.
func (l *line) state() state {
	if l.spec.Kind == firmwareconfig.GPIOPair {
		return pairOf(bool(l.levels[0]), bool(l.levels[1]))
	}
	return stateOf(bool(l.levels[0]))
}

// width is how many GPIO lines it is.
func (l *line) width() int {
	if l.spec.Second != "" {
		return 2
	}
	return 1
}

// queue is what waits for Step, filled by the goroutine that waits for edges.
type queue struct {
	mu     sync.Mutex // guards everything below
	counts bool       // edges are counted, not kept
	edges  []Edge
	told   uint64 // edges that came
	lost   uint64 // edges that were not fetched, or did not fit
	count  uint64
	last   telemetry.Mono
	err    error
}

// taken is what Step takes out of a queue.
type taken struct {
	edges []Edge
	told  uint64
	lost  uint64
	count uint64 // edges counted
	last  telemetry.Mono
	err   error
}

func (q *queue) reset(counts bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.counts, q.edges, q.err, q.lost, q.told, q.count, q.last = counts, q.edges[:0], nil, 0, 0, 0, 0
}

func (q *queue) put(edges []Edge) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.told += uint64(len(edges))
	for i := range edges {
		e := &edges[i]
		q.lost += uint64(e.Lost)
		if q.counts {
			q.count += 1 + uint64(e.Lost)
			q.last = max(q.last, e.Time)
		} else if len(q.edges) < queueMax {
			q.edges = append(q.edges, *e)
		} else {
			q.lost++
		}
	}
}

func (q *queue) fail(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.err = err
}

// take empties the queue. spare is a slice to be used next.
func (q *queue) take(spare []Edge) taken {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := taken{q.edges, q.told, q.lost, q.count, q.last, q.err}
	q.edges, q.told, q.lost, q.count, q.last = spare[:0], 0, 0, 0, 0
	return t
}

// counted says whether a counter counts the edge to this level.
func (l *line) counted(level bool) bool {
	switch l.spec.Edge {
	case firmwareconfig.GPIORising:
		return level
	case firmwareconfig.GPIOFalling:
		return !level
	}
	return true
}
