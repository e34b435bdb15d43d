package main

import (
	"context"

	"linli/internal/journal"
	"linli/internal/telemetry"
	"linli/rules"
)

// ask runs f with the engine in the fan-in's goroutine, between two steps, and returns when it has run. The error is
// ctx's, or says that the gateway is stopping; f has not run then and does not any more.
func (f *fanIn) ask(ctx context.Context, do func(*rules.Engine)) error {
	done := make(chan struct{})
	select {
	case f.asked <- func() { defer close(done); do(f.engine) }:
	case <-f.ended:
		return errStopping
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-done:
		return nil
	case <-f.ended:
		return errStopping
	}
}

// replace has another engine take over from the one that runs. It is called in the fan-in's goroutine.
func (f *fanIn) replace(next *rules.Engine) (removed []telemetry.Identity, kept int) {
	removed, kept = next.Adopt(f.engine)
	f.engine = next
	f.report.anew()
	f.respond.replan(f.clock.Mono(), next)
	f.journal.Mark(f.now.Mono, journal.Mark{Kind: journal.MarkReload, Rules: rulesName(next)})
	return removed, kept
}

// snapshot returns the engine's timers and windows with their moment. It is called in the fan-in's goroutine, or once that
// has ended.
func (f *fanIn) snapshot(e *rules.Engine) *ruleState {
	s := &ruleState{mono: telemetry.Mono(f.stepped.Load()), snapshot: e.Snapshot()}
	if wall, ok := f.clock.Now().WallAt(s.mono); ok {
		s.wall = wall
	}
	f.journal.Mark(s.mono, journal.Mark{Kind: journal.MarkSnapshot})
	return s
}
