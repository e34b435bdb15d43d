package journal

import (
	"encoding/binary"
	"time"

	"linli/internal/telemetry"
)

// Mark is something that happened to the rules engine between two of its steps.
type Mark struct {
	Kind MarkKind
	// Rules names the rules that run from here on, for MarkStart and MarkReload: any text of at most 64 bytes that is the
	// same for the same rules.
	Rules string
	// Resumed says that the engine of a MarkStart took over a snapshot: that of the MarkSnapshot with the moment Snapshot
	// in boot SnapshotBoot. By was added to its times, so that they lie on the present monotonic line.
	Resumed      bool
	Snapshot     telemetry.Mono
	SnapshotBoot string
	By           time.Duration
	// Closed are the alerts of a MarkClosed.
	Closed []telemetry.Identity
}

// MarkKind is what a Mark tells of.
type MarkKind uint8

// The kinds of marks. The numbers are part of the file format.
const (
	// MarkStart: the process began, with a new engine that was given the alerts that were active then.
	MarkStart MarkKind = iota + 1
	// MarkReload: another engine took over from the one that ran.
	MarkReload
	// MarkSnapshot: the engine's timers and windows were written down, as they were after the step before.
	MarkSnapshot
	// MarkClosed: the engine was told that people closed these alerts.
	MarkClosed
)

// Items of pending that are no samples. Inventories do not come near these points.
const (
	pointStep = telemetry.NoPoint
	pointMark = telemetry.NoPoint - 1
)

const (
	unitStep  = 1000    // ns: what moments are counted in where all of a frame are whole microseconds
	maxBody   = 1 << 10 // bytes of a mark's contents, about
	maxName   = 512     // bytes of the names in a mark
	maxRules  = 64
	clockTag  = 1
	clockSet  = 1 << 0
	clockDim  = 1 << 1 // uncertain
	markResum = 1 << 0
)

// stepItem returns the item that stands before the samples of a step: its value is the wall clock minus the monotonic
// time, none where the clock is not set.
func stepItem(now telemetry.Now) telemetry.Sample {
	s := telemetry.Sample{Point: pointStep, Time: now.Mono}
	if !now.Wall.IsZero() {
		s.Value = telemetry.IntValue(now.Wall.UnixNano() - int64(now.Mono))
		if now.Uncertain {
			s.Quality = telemetry.Uncertain
		}
	}
	return s
}

// markItem returns the item of a mark: its kind as quality, its contents as text.
func markItem(now telemetry.Mono, kind MarkKind, body []byte) telemetry.Sample {
	return telemetry.Sample{Point: pointMark, Quality: telemetry.Quality(kind), Time: now, Value: telemetry.TextValue(string(body))}
}

func isStart(s *telemetry.Sample) bool {
	return s.Point == pointMark && MarkKind(s.Quality) == MarkStart
}

// bodies returns the contents of the mark, in as many parts as keep each within its bound.
func (m *Mark) bodies() (bodies [][]byte) {
	switch m.Kind {
	case MarkStart, MarkReload:
		var flags byte
		if m.Resumed {
			flags |= markResum
		}
		b := appendString([]byte{flags}, m.Rules[:min(len(m.Rules), maxRules)])
		if m.Resumed {
			b = binary.AppendVarint(b, int64(m.Snapshot))
			b = binary.AppendVarint(b, int64(m.By))
			b = appendString(b, m.SnapshotBoot[:min(len(m.SnapshotBoot), maxBootID)])
		}
		return [][]byte{b}
	case MarkClosed:
		var names []byte
		n := 0
		cut := func() {
			if n > 0 {
				bodies = append(bodies, append(binary.AppendUvarint(nil, uint64(n)), names...))
			}
			names, n = nil, 0
		}
		for _, id := range m.Closed {
			if len(id.Alert) > maxName || len(id.Subject) > maxName {
				continue
			}
			if len(names)+len(id.Alert)+len(id.Subject) > maxBody {
				cut()
			}
			names = appendString(appendString(names, id.Alert), id.Subject)
			n++
		}
		cut()
		return bodies
	}
	return [][]byte{nil}
}

// mark reads what bodies wrote, and returns false where that is not what b holds.
func (m *Mark) mark(kind MarkKind, b []byte) bool {
	c := cursor{b: b}
	*m = Mark{Kind: kind}
	switch kind {
	case MarkStart, MarkReload:
		m.Resumed = c.byte()&markResum != 0
		m.Rules = c.string()
		if m.Resumed {
			m.Snapshot = telemetry.Mono(c.varint())
			m.By = time.Duration(c.varint())
			m.SnapshotBoot = c.string()
		}
	case MarkClosed:
		for range c.count() {
			m.Closed = append(m.Closed, telemetry.Identity{Alert: c.string(), Subject: c.string()})
			if c.bad {
				return false
			}
		}
	}
	return !c.bad
}

// appendSteps appends the section of the steps and marks among items to e.raw. h is the frame's.
func (e *encoder) appendSteps(items []telemetry.Sample, h *frameHeader) {
	unit := int64(unitStep)
	for i := range items {
		if s := &items[i]; s.Point >= pointMark && int64(s.Time)%unitStep != 0 {
			unit = 1
			break
		}
	}
	at := 0
	for at < len(items) && items[at].Point < pointMark {
		at++
	}
	b := binary.AppendUvarint(e.steps[:0], uint64(unit))
	b = binary.AppendUvarint(b, uint64(at))
	last, clock, told := h.t0, telemetry.Sample{}, false
	for at < len(items) {
		s := &items[at]
		at++
		if s.Point == pointMark {
			b = binary.AppendUvarint(b, uint64(s.Quality)<<1|1)
			b = binary.AppendVarint(b, int64(s.Time)/unit-last/unit)
			b = appendString(b, s.Value.Text())
			last = int64(s.Time)
			continue
		}
		n, latest := 0, last
		for ; at < len(items) && items[at].Point < pointMark; at++ {
			if n++; n == 1 {
				latest = int64(items[at].Time)
			}
			latest = max(latest, int64(items[at].Time))
		}
		if !told || s.Value != clock.Value || s.Quality != clock.Quality {
			b = append(b, clockTag, clockFlags(s))
			b = binary.AppendVarint(b, s.Value.Int()-h.offset)
			clock, told = *s, true
		}
		b = binary.AppendUvarint(b, uint64(n)<<1)
		b = binary.AppendVarint(b, int64(s.Time)/unit-latest/unit)
		last = int64(s.Time)
	}
	e.steps = b
	e.raw = appendString(append(e.raw, sectionSteps), b)
}

func clockFlags(s *telemetry.Sample) (flags byte) {
	if !s.Value.IsZero() {
		flags |= clockSet
	}
	if s.Quality == telemetry.Uncertain {
		flags |= clockDim
	}
	return flags
}

// stepEntry is an entry of a steps section: a step with n samples, or a mark.
type stepEntry struct {
	at    telemetry.Mono
	n     int
	mark  MarkKind // 0: a step
	body  []byte
	clock byte // flags of the clock of a step
	wall  int64
	guess bool // the moment is made up of the samples' times
}

// now returns the moment of a step as the engine was given it.
func (s *stepEntry) now() telemetry.Now {
	n := telemetry.Now{Mono: s.at}
	if s.clock&clockSet != 0 {
		n.Wall = time.Unix(0, int64(s.at)+s.wall).UTC()
		n.Uncertain = s.clock&clockDim != 0
	}
	return n
}

// decodeSteps appends the entries of the steps section of raw to dst, and returns how many of records stand before the
// first one. ok is false where there is no section, or none that fits the records.
func decodeSteps(raw []byte, h *frameHeader, records []Record, dst []stepEntry) (leading int, entries []stepEntry, ok bool) {
	c, ok := section(raw, sectionSteps)
	unit, first := c.uvarint(), c.uvarint()
	if !ok || c.bad || unit == 0 || unit > 1<<30 || first > uint64(len(records)) {
		return 0, dst, false
	}
	at, last := int(first), h.t0
	var clock stepEntry
	for len(c.b) > 0 {
		u := c.uvarint()
		s := stepEntry{clock: clock.clock, wall: clock.wall}
		from := last
		switch {
		case u == clockTag:
			clock.clock = c.byte()
			clock.wall = c.varint() + h.offset
			continue
		case u&1 == 0:
			if u>>1 > uint64(len(records)-at) {
				return 0, dst, false
			}
			s.n = int(u >> 1)
			for i, r := range records[at : at+s.n] {
				if i == 0 || int64(r.Time) > from {
					from = int64(r.Time)
				}
			}
			at += s.n
		default:
			s.mark = MarkKind(min(u>>1, 255))
		}
		last = (c.varint() + from/int64(unit)) * int64(unit)
		s.at = telemetry.Mono(last)
		if s.mark != 0 {
			s.body = append([]byte(nil), c.bytes()...) // raw is used again
		}
		if c.bad {
			return 0, dst, false
		}
		dst = append(dst, s)
	}
	return int(first), dst, at == len(records)
}
