// Package rules loads rule packs, checks them against the classes of a site, and decides: samples and the present
// moment in, raise, clear, unknown, immediate actions and derived points out. No I/O, no clock, no logging.
package rules

import (
	"linli/internal/telemetry"
)

// Pack is one parsed rule file. Its expressions are checked when it is compiled against an inventory.
type Pack struct {
	ID    string
	Title telemetry.Text
	File  string
	// further fields to be written
}

// ParsePack parses a pack file strictly: structure, expressions' syntax, parameters. The error is yamlfile.Errors.
func ParsePack(file string, src []byte) (*Pack, error) { panic("to be written") }

// ParamNames returns the names of the pack's parameters with their defaults as written.
func (p *Pack) ParamNames() map[string]string { panic("to be written") }

// Shipped returns the packs embedded in the binary, by id.
func Shipped() (map[string]*Pack, error) { panic("to be written") }

// Config is what an engine is compiled from.
type Config struct {
	Packs     []*Pack
	Params    map[string]map[string]string // pack -> parameter -> value as written
	Inventory *telemetry.Inventory         // Compile adds the derived points to it
	// Classes is the whole catalogue, so that a rule over a class of which nothing is installed is still checked.
	Classes map[string]*telemetry.Class
}

// Engine decides. It is used by one goroutine; it allocates nothing per sample in the steady state.
type Engine struct{}

// Compile checks every rule against the inventory and returns the engine. The error is yamlfile.Errors with every
// mistake of every pack.
func Compile(cfg Config) (*Engine, error) { panic("to be written") }

// Restore takes over alerts that were active when the process last ran: they stay active until their condition is
// known to be gone. It returns those that no rule or subject exists for any more; the caller closes them with reason
// removed.
func (e *Engine) Restore(active []telemetry.ActiveAlert) (removed []telemetry.ActiveAlert) {
	panic("to be written")
}

// Output is what one step decided. Its slices are reused: the caller empties them (Reset) before the next step.
type Output struct {
	Transitions []telemetry.Transition
	Actions     []telemetry.Action
	Derived     []telemetry.Sample
}

// Reset empties the output, keeping its memory.
func (o *Output) Reset() {
	o.Transitions, o.Actions, o.Derived = o.Transitions[:0], o.Actions[:0], o.Derived[:0]
}

// Step takes a batch of samples and the present moment (not before the samples'), evaluates the rules whose inputs
// or timers changed, and appends what follows to out. samples may be empty: then only timers are looked at. The
// same samples and moments always give the same output.
func (e *Engine) Step(now telemetry.Now, samples []telemetry.Sample, out *Output) {
	panic("to be written")
}

// Next returns the moment of the earliest timer: Step must be called no later than that even without samples.
// telemetry.Never where no timer runs.
func (e *Engine) Next() telemetry.Mono { panic("to be written") }
