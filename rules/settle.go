package rules

import "linli/internal/telemetry"

// settles returns the moment from which on an instance is unknown because it is, and not because the engine has just
// started: every input has been read, and the windows have had their length since, those of the derived points that it
// reads too. Never while an input has not.
func (e *Engine) settles(in *instance) telemetry.Mono {
	if in.settles != 0 {
		return in.settles
	}
	if !in.hasRead {
		for _, id := range in.inputs {
			if !e.cells[id].Seen && !e.inv.Points[id].Def.Event {
				return telemetry.Never // of an event point nothing need ever come
			}
		}
		in.hasRead, in.readAt = true, e.at
	}
	settles := in.readAt
	for _, s := range in.states {
		if !in.resumed {
			settles = max(settles, in.readAt.Add(s.Length()))
		}
	}
	for _, id := range in.inputs {
		if int64(id) >= int64(e.foreign) {
			settles = max(settles, e.settles(&e.instances[e.records[int64(id)-int64(e.foreign)]]))
		}
	}
	if settles != telemetry.Never {
		in.settles = settles
	}
	return settles
}
