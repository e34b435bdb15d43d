package rules

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"linli/internal/telemetry"
	"linli/rules/expr"
)

// A snapshot holds what an engine has gathered over time: how long conditions have been true or false, and the windows.
// Values are not in it (the next reading tells them), nor which alerts are active (package alert knows).
//
//	snapshot = version (1 byte, 1) | varint at | instance ...
//	instance = name | subject | cond | holds | uvarint states | state ...
//	holds    = uvarint n | n times: which (1 byte) | cond | uvarint sum | varint at - since
//	state    = key | contents
//
// at is the moment of the snapshot. name, subject, cond, key and contents are uvarint length and bytes. cond is the
// condition as text, the site's parameters put in: a watch that ran for another condition says nothing of the new one.
// An instance without anything gathered is left out. Times are monotonic nanoseconds.
const snapshotVersion = 1

// The watches of an instance. Those of severity_when count from holdSeverity, in the order of the rule.
const (
	holdPending byte = iota
	holdClearing
	holdEasing
	holdSeverity
	holdStuck byte = 255
)

// watches returns the watches of an instance with their numbers and the conditions that they follow.
func (e *Engine) watches(in *instance, f func(which byte, cond *expr.Node, h *hold)) {
	f(holdPending, in.prog.cond, &in.pending)
	f(holdClearing, in.prog.cond, &in.clearing)
	f(holdEasing, in.prog.cond, &in.easing)
	f(holdStuck, in.prog.cond, &in.stuck)
	helds := e.heldsOf(in)
	for k := range helds {
		if k < int(holdStuck-holdSeverity) {
			f(holdSeverity+byte(k), in.prog.sev[k].cond, &helds[k])
		}
	}
}

// Snapshot returns the engine's timers and windows as they are at the last Step, for Resume. It changes nothing.
func (e *Engine) Snapshot() []byte {
	size := 64
	for i := range e.instances {
		if states := e.statesOf(uint32(i)); len(states) > 0 {
			size += stateBytes(states) + len(e.instances[i].prog.text) + 256
		}
	}
	// The engine stands still meanwhile, so memory is taken once.
	b := binary.AppendVarint(append(make([]byte, 0, size), snapshotVersion), int64(e.at))
	for i := range e.instances {
		in, states := &e.instances[i], e.statesOf(uint32(i))
		n := 0
		e.watches(in, func(_ byte, _ *expr.Node, h *hold) {
			if h.on() {
				n++
			}
		})
		if n == 0 && len(states) == 0 {
			continue
		}
		b = appendText(b, in.prog.Name())
		b = appendText(b, e.subject(in))
		b = appendText(b, in.prog.text)
		b = binary.AppendUvarint(b, uint64(n))
		e.watches(in, func(which byte, cond *expr.Node, h *hold) {
			if !h.on() {
				return
			}
			since := e.at
			if !h.running() {
				since = h.since
			}
			b = appendText(append(b, which), cond.String())
			b = binary.AppendUvarint(b, uint64(h.elapsed(e.at)))
			b = binary.AppendVarint(b, int64(e.at-since))
		})
		b = binary.AppendUvarint(b, uint64(len(states)))
		for _, s := range states {
			b = appendText(b, s.Key())
			b = appendSized(b, s.AppendState)
		}
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// appendSized appends what f appends, with its length in four bytes before it.
func appendSized(b []byte, f func([]byte) []byte) []byte {
	at := len(b)
	b = f(append(b, 0, 0, 0, 0))
	binary.LittleEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}

// Resume takes over a snapshot of an engine that ran before, by rule and subject: watches where the condition is still
// the same, windows where they follow the same. by is added to its times, so that they lie on the present monotonic
// line; the time from the snapshot to the first Step counts as unknown. It is called after Restore and before the first
// Step, and returns how many instances go on with what they had. Beside an error it has taken over what stands before
// the mistake; bytes of any origin are safe.
func (e *Engine) Resume(snapshot []byte, by time.Duration) (kept int, err error) {
	r := &snapshotReader{b: snapshot}
	if v := r.byte(); v != snapshotVersion {
		return 0, fmt.Errorf("resume rules: version %d of a snapshot is not known", v)
	}
	at := telemetry.Mono(r.varint())
	if d := at.Add(by); r.bad || at > maxTime || at < -maxTime || d > maxTime || d < -maxTime {
		return 0, errorString("resume rules: the snapshot has no time")
	}
	index := e.byName()
	for len(r.b) > 0 {
		i, ok := e.named(index, r.text(), r.text())
		whole, err := r.instance(e, i, ok, at, by)
		if r.bad {
			err = errorString("it ends too early, or is damaged")
		}
		if err != nil {
			return kept, fmt.Errorf("resume rules: %w", err)
		}
		if whole {
			e.instances[i].resumed = true
		}
		if ok {
			kept++
		}
	}
	return kept, nil
}

// byName returns the rules by their names.
func (e *Engine) byName() map[string][]*program {
	index := make(map[string][]*program, len(e.programs))
	for _, p := range e.programs {
		index[p.Name()] = append(index[p.Name()], p)
	}
	return index
}

// named returns the instance of the rule of a name for a subject. Derived points of several classes may share a name; a
// subject is of one class.
func (e *Engine) named(index map[string][]*program, name, subject string) (uint32, bool) {
	for _, p := range slices.Backward(index[name]) {
		if i, ok := e.ofSubject(p, subject); ok {
			return i, true
		}
	}
	return 0, false
}

// maxTime bounds what is taken as a time or a length of time: 146 years, so that sums of two do not overflow.
const maxTime = 1 << 62

type snapshotReader struct {
	b   []byte
	bad bool
}

func (r *snapshotReader) byte() byte {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *snapshotReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *snapshotReader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *snapshotReader) bytes(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *snapshotReader) text() string { return string(r.bytes(r.uvarint())) }

// instance reads what belongs to in, which is nil where there is no such instance any more, and reports whether in has
// all that it had before.
func (r *snapshotReader) instance(e *Engine, i uint32, known bool, at telemetry.Mono, by time.Duration) (whole bool, err error) {
	text := r.text()
	in, f := (*instance)(nil), &expr.Frame{}
	if known {
		in, f = &e.instances[i], e.frameOf(i)
		whole = text == in.prog.text
	}
	for n := r.uvarint(); n > 0 && !r.bad; n-- {
		which, cond, sum, since := r.byte(), r.text(), r.uvarint(), r.varint()
		if in == nil || r.bad || sum > maxTime || since < 0 || since > maxTime {
			r.bad = r.bad || sum > maxTime || since < 0 || since > maxTime
			continue
		}
		e.watches(in, func(w byte, c *expr.Node, h *hold) {
			// What an alert that is not active any more would clear after, or one that is active was raised after, is over.
			if over := w == holdPending && in.active || (w == holdClearing || w == holdEasing) && !in.active; w != which || over || c.String() != cond {
				return
			}
			*h = newHold((at - telemetry.Mono(since)).Add(by), time.Duration(sum), false)
		})
	}
	found := 0
	for n := r.uvarint(); n > 0 && !r.bad; n-- {
		key, size := r.text(), r.bytes(4)
		if r.bad {
			break
		}
		contents := r.bytes(uint64(binary.LittleEndian.Uint32(size)))
		if in == nil || r.bad {
			continue
		}
		for _, s := range f.States {
			if s.Key() != key {
				continue
			}
			rest, err := s.SetState(contents, by, at.Add(by), f)
			if err == nil && len(rest) > 0 {
				err = errorString("more bytes than belong to it")
			}
			if err != nil {
				return false, fmt.Errorf("%s of %s: %w", in.prog.Name(), e.subject(in), err)
			}
			found++
		}
	}
	return whole && found == len(f.States), nil
}

// Adopt takes everything over from the engine that has run until now, for the same devices: values, active alerts,
// watches and windows, each by rule and subject. It is called before the first Step, with no step of the old engine
// after it: what it had gathered goes over to e. It returns the alerts that were active and that no rule or subject
// exists for any more; the caller closes them with reason removed. kept is how many instances go on with something.
func (e *Engine) Adopt(old *Engine) (removed []telemetry.Identity, kept int) {
	points := make(map[telemetry.Series]telemetry.PointID, len(e.inv.Points))
	for id := range e.inv.Points {
		points[e.inv.Series(telemetry.PointID(id))] = telemetry.PointID(id)
	}
	for id := range old.inv.Points {
		if now, ok := points[old.inv.Series(telemetry.PointID(id))]; ok {
			e.cells[now] = old.cells[id]
		}
	}
	for i := range old.instances {
		was := &old.instances[i]
		if !was.active {
			continue
		}
		id := old.identity(was)
		k, ok := e.find(id)
		if !ok {
			removed = append(removed, id)
			continue
		}
		in := &e.instances[k]
		in.active, in.restored, in.unknown, in.severity = true, was.restored, was.unknown, was.severity
		e.count(was.prog.Alert, 1)
	}
	was := old.byName()
	e.started, e.at, e.now, e.offset = old.started, old.at, old.now, old.offset
	e.stats = old.stats
	for i := range e.instances {
		in := &e.instances[i]
		if k, ok := old.named(was, in.prog.Name(), e.subject(in)); ok && e.continues(uint32(i), old, k) {
			kept++
		}
		e.dirty.set(uint32(i))
	}
	return removed, kept
}

// continues takes over the watches whose conditions are still the same, and what follows the same over time, without a
// gap: unlike at a restart, nothing went unseen. It reports whether there was anything.
func (e *Engine) continues(i uint32, from *Engine, k uint32) (kept bool) {
	in, old := &e.instances[i], &from.instances[k]
	from.watches(old, func(which byte, cond *expr.Node, had *hold) {
		text := cond.String()
		e.watches(in, func(w byte, c *expr.Node, h *hold) {
			if w == which && had.on() && c.String() == text {
				*h, kept = *had, true
			}
		})
	})
	found := 0
	states, had := e.statesOf(i), from.statesOf(k)
	for _, s := range states {
		for _, o := range had {
			if s.Key() == o.Key() && s.Continue(o) {
				found++
				break
			}
		}
	}
	if in.prog.text == old.prog.text && found == len(states) {
		in.resumed, in.settles, in.hasRead, in.readAt = old.resumed, old.settles, old.hasRead, old.readAt
	}
	return kept || found > 0
}
