package rules

import "linli/internal/telemetry"

// settles returns the moment from which on an instance is unknown because it is, and not because the engine has just
// started: every input has been read, and the windows have had their length since, those of the derived points that it
// reads too. Never while an input has not.
func (e *Engine) settles(i uint32, in *instance) telemetry.Mono {
	if in.settles != 0 {
		return in.settles
	}
	if !in.hasRead {
		for _, id := range e.opsOf(i) {
			if e.isPoint(id) && !e.cells[id].Seen && !e.inv.Points[id].Def.Event {
				return telemetry.Never // of an event point nothing need ever come
			}
		}
		in.hasRead, in.readAt = true, e.at
	}
	settles := in.readAt
	for _, s := range e.statesOf(i) {
		if !in.resumed {
			settles = max(settles, in.readAt.Add(s.Length()))
		}
	}
	for _, id := range e.opsOf(i) {
		if record, ok := e.recordOf(id); ok {
			settles = max(settles, e.settles(record, &e.instances[record]))
		}
	}
	if settles != telemetry.Never {
		in.settles = settles
	}
	return settles
}

// isPoint reports whether a cell is that of a point, not a constant.
func (e *Engine) isPoint(cell uint32) bool { return cell < uint32(e.foreign+len(e.records)) }

// recordOf returns the instance that makes a cell's value, where it is that of a derived point.
func (e *Engine) recordOf(cell uint32) (i uint32, ok bool) {
	if !e.isPoint(cell) || cell < uint32(e.foreign) {
		return 0, false
	}
	return e.records[cell-uint32(e.foreign)], true
}
