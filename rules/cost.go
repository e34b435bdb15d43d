package rules

import (
	"time"

	"linli/rules/expr"
)

// Cost is what one rule has cost since the engine was compiled, over all its subjects.
type Cost struct {
	Pack, Rule  string // Rule is the alert's or the derived point's name
	Instances   int
	Evaluations uint64
	// Time is about the processor time of the evaluations: each is measured once in 64 on average. 0 without Meter.
	Time time.Duration
	// Bytes is about the memory that the rule's windows over time take now.
	Bytes int
}

// cost is what is counted of a program.
type cost struct {
	evaluations uint64
	spent       time.Duration // of the measured evaluations, each times how many it stands for
}

// measureEach is how many evaluations one measured one stands for.
const measureEach = 64

// meter measures evaluations. Which ones is drawn, so that no rhythm of the samples favours a rule; the numbers drawn
// are the same in every run and touch nothing but the figures.
type meter struct {
	clock func() int64
	skip  uint32 // evaluations until the next measured one
	seed  uint32
}

// next reports whether the present evaluation is to be measured.
func (m *meter) next() bool {
	if m.clock == nil {
		return false
	}
	if m.skip > 0 {
		m.skip--
		return false
	}
	m.seed = m.seed*1664525 + 1013904223
	m.skip = m.seed >> 25 // 0 to 127, 63.5 on average
	return true
}

// Meter has the engine measure what its rules cost: clock returns nanoseconds of any steady clock. It is called before
// the first Step. The measurements change nothing that the engine decides.
func (e *Engine) Meter(clock func() int64) { e.meter = meter{clock: clock, seed: 1} }

// Costs returns what each rule has cost, in the order of evaluation.
func (e *Engine) Costs() []Cost {
	list := make([]Cost, len(e.programs))
	for i, p := range e.programs {
		c := &e.costs[i]
		list[i] = Cost{Pack: p.pack.ID, Rule: p.Name(), Evaluations: c.evaluations, Time: c.spent}
	}
	for i := range e.instances {
		in := &e.instances[i]
		c := &list[in.prog.index]
		c.Instances++
		c.Bytes += stateBytes(e.statesOf(uint32(i)))
	}
	return list
}

// stateBytes returns about the memory of an instance's windows.
func stateBytes(states []expr.State) int {
	n := 0
	for _, w := range states {
		n += w.Bytes()
	}
	return n
}
