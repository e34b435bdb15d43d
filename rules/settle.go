package rules

import (
	"time"

	"linli/internal/telemetry"
	"linli/rules/expr"
)

// settles returns the moment from which on an instance is unknown because it is, and not because the engine has just
// started: every input has been read, and the windows have had their length since, those of the derived points that it
// reads too. Never while an input has not.
func (e *Engine) settles(in *instance) telemetry.Mono {
	if in.settles == 0 {
		derived := telemetry.Mono(0)
		for _, id := range in.inputs {
			if int64(id) >= int64(e.foreign) {
				derived = max(derived, e.settles(&e.instances[e.records[int64(id)-int64(e.foreign)]]))
				continue
			}
			if !e.cells[id].Seen && !e.inv.Points[id].Def.Event {
				return telemetry.Never // of an event point nothing need ever come
			}
		}
		longest := time.Duration(0)
		if !in.resumed {
			longest = longestWindow(in.prog.cond)
			for _, s := range in.prog.sev {
				longest = max(longest, longestWindow(s.cond))
			}
		}
		if derived == telemetry.Never {
			return telemetry.Never
		}
		in.settles = max(e.at.Add(longest), derived)
	}
	return in.settles
}

func longestWindow(n *expr.Node) time.Duration {
	longest := n.Window
	for _, a := range n.Args {
		longest = max(longest, longestWindow(a))
	}
	return longest
}
