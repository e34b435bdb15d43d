package gpio_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	periph "periph.io/x/conn/v3/gpio"

	"linli/drivers/gpio"
	"linli/internal/telemetry"
)

// fakeChip is a Host with one chip, which behaves as the kernel does: levels are physical, edges are kept for each
// request up to a bound, the oldest is thrown away, and numbered.
type fakeChip struct {
	clock *telemetry.Clock

	mu         sync.Mutex
	lines      map[string]*fakeLine
	gone       bool
	noEdges    bool
	debounces  bool
	forbidden  error
	openErrors int // Opens that failed
	requests   []gpio.Request
}

type fakeLine struct {
	level   bool // what the outside world puts there
	out     bool
	driven  bool // the level of an output
	stuck   bool // an output does not change its level
	blind   bool // an output cannot be read
	dead    bool // looks fail
	by      string
	req     *fakeLines
	index   int
	seq     uint32
	history []bool // every level an output had
}

func newFakeChip(clock *telemetry.Clock, lines ...string) *fakeChip {
	c := &fakeChip{clock: clock, lines: map[string]*fakeLine{}}
	for _, l := range lines {
		c.lines[l] = &fakeLine{}
	}
	return c
}

func (c *fakeChip) Open(name string) (gpio.Chip, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.forbidden != nil:
		return nil, c.forbidden
	case c.gone || name != "chip":
		c.openErrors++
		return nil, fmt.Errorf("no GPIO chip %q", name)
	}
	return c, nil
}

func (c *fakeChip) Close() error { return nil }

func (c *fakeChip) Request(r gpio.Request) (gpio.Lines, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		return nil, gpio.ErrGone
	}
	c.requests = append(c.requests, r)
	l := &fakeLines{chip: c, r: r, notify: make(chan struct{}, 1)}
	for _, name := range r.Lines {
		line := c.lines[name]
		if line == nil {
			return nil, fmt.Errorf("no line %s", name)
		}
		if line.by != "" {
			return nil, fmt.Errorf("line %s: in use by %q", name, line.by)
		}
		l.lines = append(l.lines, line)
	}
	if r.Debounce > 0 && !c.debounces {
		return nil, gpio.ErrNoDebounce
	}
	if r.Edge != periph.NoEdge && c.noEdges {
		return nil, gpio.ErrNoEdges
	}
	for i, line := range l.lines {
		line.by, line.req, line.index, line.seq = r.Consumer, l, i, 0
		if r.Out {
			if !r.Keep || !line.out {
				line.drive(bool(r.Initial) != r.ActiveLow)
			}
			line.out = true
		} else {
			line.out = false
		}
	}
	return l, nil
}

func (l *fakeLine) drive(level bool) {
	if !l.stuck {
		l.driven = level
	}
	l.history = append(l.history, l.driven)
}

// Set puts a level on a line from outside.
func (c *fakeChip) Set(name string, level bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lines[name]
	if l.level == level {
		return
	}
	l.level = level
	c.edge(l, level, 0)
}

// Silently changes a level without an edge, as one that was lost.
func (c *fakeChip) Silently(name string, level bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines[name].level = level
}

// Edge tells an edge at a time other than now.
func (c *fakeChip) Edge(name string, level bool, ago time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines[name].level = level
	c.edge(c.lines[name], level, ago)
}

func (c *fakeChip) edge(l *fakeLine, level bool, ago time.Duration) {
	q := l.req
	if q == nil || l.out {
		return
	}
	level = level != q.r.ActiveLow
	if q.r.Edge == periph.NoEdge || q.r.Edge == periph.RisingEdge && !level || q.r.Edge == periph.FallingEdge && level {
		return
	}
	l.seq++
	e := gpio.Edge{Line: l.index, Level: periph.Level(level), Time: c.clock.Mono().Add(-ago), Lost: l.seq}
	if len(q.fifo) == 1024 {
		q.fifo = slices.Delete(q.fifo, 0, 1)
	}
	q.fifo = append(q.fifo, e)
	select {
	case q.notify <- struct{}{}:
	default:
	}
}

// Value is the level that a line has to the outside.
func (c *fakeChip) Value(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lines[name]
	if l.out {
		return l.driven
	}
	return l.level
}

// Unplug takes the chip away; Plug brings it back, its outputs forgotten.
func (c *fakeChip) Unplug() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
	for _, l := range c.lines {
		if l.req != nil {
			l.req.fail(gpio.ErrGone)
		}
		*l = fakeLine{level: l.level}
	}
}

func (c *fakeChip) Plug() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = false
}

// with calls do while nobody else uses the chip.
func (c *fakeChip) with(do func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	do()
}

type fakeLines struct {
	chip   *fakeChip
	r      gpio.Request
	lines  []*fakeLine
	fifo   []gpio.Edge
	notify chan struct{}
	seen   [2]uint32
	err    error
	closed bool
}

func (l *fakeLines) fail(err error) {
	l.err = err
	select {
	case l.notify <- struct{}{}:
	default:
	}
}

func (l *fakeLines) Wait(ctx context.Context, edges []gpio.Edge) (int, error) {
	for {
		l.chip.mu.Lock()
		n := copy(edges, l.fifo)
		l.fifo = l.fifo[n:]
		err := l.err
		l.chip.mu.Unlock()
		if err != nil {
			return 0, err
		}
		for i := range n {
			e := &edges[i]
			seq := e.Lost // carries the number until here
			e.Lost = seq - l.seen[e.Line] - 1
			l.seen[e.Line] = seq
		}
		if n > 0 {
			return n, nil
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-l.notify:
		}
	}
}

func (l *fakeLines) Read(levels []periph.Level) error {
	l.chip.mu.Lock()
	defer l.chip.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	for i, line := range l.lines {
		if line.dead || line.blind {
			return errors.New("input/output error")
		}
		level := line.level
		if line.out {
			level = line.driven
		}
		levels[i] = periph.Level(level != l.r.ActiveLow)
	}
	return nil
}

func (l *fakeLines) Set(level periph.Level) error {
	l.chip.mu.Lock()
	defer l.chip.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	l.lines[0].drive(bool(level) != l.r.ActiveLow)
	return nil
}

func (l *fakeLines) Close() error {
	l.chip.mu.Lock()
	defer l.chip.mu.Unlock()
	if l.closed {
		return errors.New("closed twice")
	}
	l.closed = true
	for _, line := range l.lines {
		if line.req == l {
			line.by, line.req = "", nil
		}
	}
	return nil
}

// rig drives a Bus as the supervisor does: one goroutine, called when due, when edges wait, and for writes.
type rig struct {
	t      *testing.T
	clock  *telemetry.Clock
	bus    *gpio.Bus
	writes chan func()
	stop   context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	samples []telemetry.Sample
	steps   int
}

func newRig(t *testing.T, c gpio.Config, chip *fakeChip) *rig {
	t.Helper()
	c.Clock, c.Host = chip.clock, chip
	return startRig(t, c)
}

// startRig drives the Bus of a complete Config.
func startRig(t *testing.T, c gpio.Config) *rig {
	t.Helper()
	bus, err := gpio.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	r := &rig{t: t, clock: c.Clock, bus: bus, writes: make(chan func()), stop: stop, done: make(chan struct{})}
	go r.run(ctx)
	t.Cleanup(r.close)
	return r
}

func (r *rig) run(ctx context.Context) {
	defer close(r.done)
	var buf []telemetry.Sample
	for ctx.Err() == nil {
		var next telemetry.Mono
		now := r.clock.Mono()
		buf, next = r.bus.Step(ctx, now, buf[:0])
		r.mu.Lock()
		r.samples = append(r.samples, buf...)
		r.steps++
		if r.steps > 1_000_000 {
			panic("Step is called without end")
		}
		r.mu.Unlock()
		if ctx.Err() != nil {
			return
		}
		if next <= now {
			continue
		}
		var due <-chan time.Time
		if next != telemetry.Never {
			due = time.After(next.Sub(now))
		}
		select {
		case <-ctx.Done():
		case <-due:
		case <-r.bus.Wake():
		case do := <-r.writes:
			do()
		}
	}
}

// close ends the supervisor and closes the bus.
func (r *rig) close() {
	if r.stop == nil {
		return
	}
	r.stop()
	<-r.done
	r.stop = nil
	if err := r.bus.Close(); err != nil {
		r.t.Errorf("Close: %v", err)
	}
}

func (r *rig) write(point telemetry.PointID, v telemetry.Value) error {
	err := make(chan error)
	r.writes <- func() { err <- r.bus.Write(r.t.Context(), point, v) }
	return <-err
}

// of returns the samples of a point so far.
func (r *rig) of(point telemetry.PointID) []telemetry.Sample {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []telemetry.Sample
	for _, s := range r.samples {
		if s.Point == point {
			out = append(out, s)
		}
	}
	return out
}

// all returns all samples so far.
func (r *rig) all() []telemetry.Sample {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.samples)
}

// calls returns how often Step was called.
func (r *rig) calls() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.steps
}

// forget drops all samples so far.
func (r *rig) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.samples = nil
}

// last returns the last sample of a point.
func (r *rig) last(point telemetry.PointID) telemetry.Sample {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range slices.Backward(r.samples) {
		if s.Point == point {
			return s
		}
	}
	r.t.Fatalf("no sample of point %d", point)
	return telemetry.Sample{}
}

// changes lists what a point said one after the other, without repetitions, as "12ms true". Times count from start.
func (r *rig) changes(point telemetry.PointID, start telemetry.Mono) []string {
	var out []string
	var last telemetry.Sample
	for i, s := range r.of(point) {
		if i > 0 && s.Quality == last.Quality && s.Value == last.Value {
			continue
		}
		last = s
		text := s.Value.String()
		if s.Quality != telemetry.Good {
			text = s.Quality.String()
		}
		out = append(out, fmt.Sprintf("%v %s", s.Time.Sub(start), text))
	}
	return out
}

// expect compares what changes returned.
func expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
