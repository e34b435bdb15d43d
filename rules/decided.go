package rules

import (
	"linli/internal/telemetry"
	"linli/rules/expr"
)

// Decided reports whether an alert has been decided since the start: its condition is known, and where that holds the
// alert is active, its `for` having passed. Of an alert that no rule stands for nothing is to come: it is decided. It is
// called between steps.
func (e *Engine) Decided(id telemetry.Identity) bool {
	i, ok := e.find(id)
	if !ok {
		return true
	}
	in := &e.instances[i]
	if !e.started || in.prog.Record != "" {
		return false
	}
	c := in.cond(e.frameOf(i))
	return c == expr.False && !in.active || c == expr.True && in.active
}
