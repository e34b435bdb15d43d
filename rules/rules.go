// Package rules loads rule packs, checks them against the classes of a site, and decides: samples and the present
// moment in, raise, clear, unknown and derived points out. No I/O, no clock, no logging.
//
// Guarantees. The same samples and moments always give the same output, in the same order. A mistake in a pack is
// found by ParsePack or Compile and never later; a wrong pack gives no engine. Nothing allocates per sample in the
// steady state: only a transition does, for its texts. Conditions are three-valued (package expr): unknown never
// raises an alert and never clears one.
//
// What it does not do: what follows from an alert (`outputs`, `escalate`, `inhibited_by`) is checked here and resolved to
// points and identities, see Engine.Plan; package response decides by it. Acknowledgement belongs to internal/alert.
//
// Time. Step processes what happened since the last one in the order of time: each sample at its own moment, each
// timer at the moment for which it was set, even when Step is called late. A sample from before the last Step is
// taken at the moment of that Step; one older than the latest of its point is ignored and counted; one from the future is
// one of now. Samples come in the order of time: one that comes after a later one is taken at the moment of that one. The
// first ones may be up to an hour old. Samples of one moment are applied together before anything is decided. All timers run on the monotonic clock; the calendar
// functions use the site's local time and are unknown while the clock is not set.
//
// Events. Each sample of an event point stands for itself: it wakes the rules that follow it also where it repeats the
// last one, and several of one point at one moment are decided on one after the other, after everything else of that
// moment has been applied.
//
// Life of a condition. `for`: the time for which the condition has been known to be true since it was last false.
// While it is unknown that time stands still, and nothing is raised; if it stays unknown for longer than `for`
// itself, the time starts again. `keep_firing_for` counts the time known to be false in the same way. An active
// alert whose condition becomes unknown stays active and says Unknown, and Known when it can be decided again; an
// alert that clears says only Clear. severity_when takes the most severe of the conditions that are true; while one
// cannot be decided, it keeps the severity that stands from falling below its own. It rises when its condition has been true for
// severity_for (time counts before the alert is raised too), and falls when the lesser one has stood for
// keep_firing_for, except while the alert's own condition is false. A change of severity is said as Changed, with a new detail; a change
// of the measured values alone is not.
//
// Packs are the YAML files described in docs/rules.md. Positions in errors are those of the pack file, down to the
// column within an expression.
//
// A Pack is read-only. An Engine, with the windows and closures beneath it, belongs to one goroutine.
package rules

import (
	"linli/internal/telemetry"
)

// Config is what an engine is compiled from.
type Config struct {
	Packs     []*Pack
	Params    map[string]map[string]string // pack -> parameter -> value as written
	Inventory *telemetry.Inventory         // Compile adds the derived points to it
	// Classes is the whole catalogue, so that a rule over a class of which nothing is installed is still checked.
	Classes map[string]*telemetry.Class
	// Schedules are those of the site file, by name. They come before a pack's own of the same name.
	Schedules map[string]Schedule
	// MaxWindowBytes bounds the memory that windows over time may come to take; 0 means 64 MiB.
	MaxWindowBytes int
}

// Output is what one step decided. Its slices are reused: the caller empties them (Reset) before the next step.
type Output struct {
	Transitions []telemetry.Transition
	Derived     []telemetry.Sample
}

// Reset empties the output, keeping its memory.
func (o *Output) Reset() {
	o.Transitions, o.Derived = o.Transitions[:0], o.Derived[:0]
}

// Stats counts what an engine did.
type Stats struct {
	Samples     uint64 // samples taken
	Late        uint64 // ignored: older than the latest sample of their point
	Foreign     uint64 // ignored: of a point that does not exist, or of a derived one
	Evaluations uint64 // of one rule for one subject
}
