package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// lifecycle starts the parts of a process in order and stops them in the opposite order, each by name and within its
// own time. Sinks are started first and sources last, so that nothing is ever sent to a part that has stopped.
//
// It is used by one goroutine.
type lifecycle struct {
	failed chan error // a part ended by itself
	parts  []part
}

type part struct {
	name   string
	limit  time.Duration
	cancel context.CancelFunc
	done   chan error
	closer func() error // instead of run: called at stop
}

func newLifecycle() *lifecycle { return &lifecycle{failed: make(chan error, 1)} }

// start runs a part in its own goroutine until stop cancels its context. A part that returns before that has failed:
// wait then returns its error.
func (l *lifecycle) start(name string, limit time.Duration, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	p := part{name: name, limit: limit, cancel: cancel, done: make(chan error, 1)}
	go func() {
		err := run(ctx)
		if ctx.Err() == nil {
			if err == nil {
				err = errors.New("ended by itself")
			}
			select {
			case l.failed <- fmt.Errorf("%s: %w", name, err):
			default: // One failure is enough to stop everything.
			}
			err = nil
		} else if errors.Is(err, context.Canceled) {
			err = nil
		}
		p.done <- err
	}()
	l.parts = append(l.parts, p)
}

// onStop runs f when everything started later has stopped.
func (l *lifecycle) onStop(name string, limit time.Duration, f func() error) {
	l.parts = append(l.parts, part{name: name, limit: limit, closer: f})
}

// wait blocks until ctx ends (nil) or a part fails (its error).
func (l *lifecycle) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-l.failed:
		return err
	}
}

// stop stops every part, last started first, and returns what went wrong, each error named.
func (l *lifecycle) stop() error {
	var errs []error
	for i := len(l.parts) - 1; i >= 0; i-- {
		p := l.parts[i]
		if p.closer != nil {
			p.done = make(chan error, 1)
			go func() { p.done <- p.closer() }() // Left behind where a disk holds it: the process is about to end.
		} else {
			p.cancel()
		}
		timer := time.NewTimer(p.limit)
		select {
		case err := <-p.done:
			if err != nil {
				errs = append(errs, fmt.Errorf("stop %s: %w", p.name, err))
			}
		case <-timer.C:
			errs = append(errs, fmt.Errorf("stop %s: not stopped after %s; going on without it", p.name, p.limit))
		}
		timer.Stop()
	}
	l.parts = nil
	return errors.Join(errs...)
}
