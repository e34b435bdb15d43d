package expr

import (
	"math"
	"time"
	"unsafe"

	"linli/internal/telemetry"
)

// Sequence tells whether some conditions became true, or some events happened, one after the other within a length of
// time. It keeps for each condition when the latest such row up to it began.
type Sequence struct {
	length telemetry.Mono
	n      int // how many conditions
	conds  [MaxSequence]func(*Frame) Tri
	events [MaxSequence]int  // operands: of those that follow an event point, else -1
	same   [MaxSequence]int8 // the last one before that asks for the same, -1 for none

	node   *Node
	device int
	id     string

	at       telemetry.Mono
	counted  [MaxSequence]uint32         // events
	last     [MaxSequence]Tri            // of conditions: the last known value
	happened [MaxSequence]bool           // at the present moment
	began    [MaxSequence]telemetry.Mono // when the latest row up to here began
	before   [MaxSequence]telemetry.Mono // the same, of rows that were complete before the present moment
	dim      bool                        // one of them is unknown
	dimAt    telemetry.Mono              // until when one was
	running  bool
}

const sequenceVersion = 1

// noRow stands for a row that there is not: before every moment, and far enough from overflow.
const noRow = telemetry.Mono(math.MinInt64 / 2)

func (b *binder) sequence(n *Node) func(*Frame) Tri {
	s := &Sequence{length: telemetry.Mono(n.Window), n: len(n.Args) - 1, node: n, device: b.member, id: b.ID(b.member)}
	for i, a := range n.Args[:s.n] {
		s.began[i], s.before[i], s.last[i], s.same[i], s.events[i] = noRow, noRow, Unknown, -1, -1
		for k := range i {
			if Same(n.Args[k], a) {
				s.same[i] = int8(k)
			}
		}
		if a.Event != nil {
			s.events[i] = b.cell(a.Event, UseValue)
		}
		if a.Event != a {
			s.conds[i] = b.tri(a)
		}
	}
	i := b.state(n, s)
	return func(f *Frame) Tri { return f.States[i].(*Sequence).Value() }
}

// Key says what is followed, and of which device.
func (s *Sequence) Key() string { return stateKey(s.node, s.id) }

// Is reports whether s is what node n asks for of device.
func (s *Sequence) Is(n *Node, device int) bool {
	return s.device == device && (s.node == n || Same(s.node, n))
}

// Update takes what is true, and what happened, now.
func (s *Sequence) Update(now telemetry.Mono, f *Frame) {
	first := !s.running
	if s.running = true; first || s.dim {
		s.dimAt = now
	}
	if now > s.at || first {
		s.before, s.happened, s.at = s.began, [MaxSequence]bool{}, now
	}
	s.dim = false
	any := false
	for i := range s.n {
		if s.look(i, first, f) {
			s.happened[i], any = true, true
		}
	}
	if !any {
		return
	}
	for i := range s.n {
		s.began[i] = s.latest(i, -1)
	}
}

// look reports whether condition i became true, or its event happened, and notes what is unknown.
func (s *Sequence) look(i int, first bool, f *Frame) bool {
	if s.events[i] < 0 {
		was, is := s.last[i], s.conds[i](f)
		if is == Unknown {
			s.dim = true
			return false
		}
		s.last[i] = is
		return was == False && is == True
	}
	c := f.cell(s.events[i])
	s.dim = s.dim || c.Seen && c.Quality.Bad()
	n := c.Events - s.counted[i]
	s.counted[i] = c.Events
	if n == 0 || first && c.Time < s.at {
		return false
	}
	is := True
	if s.conds[i] != nil {
		is = s.conds[i](f)
	}
	if is == Unknown {
		s.dimAt = s.at // perhaps it was one of them
	}
	return is == True
}

// latest returns when the latest row of the conditions 0 to i began that is complete now and whose conditions up to
// strict were met before now. The same condition cannot be met twice at one moment.
func (s *Sequence) latest(i, strict int) telemetry.Mono {
	if i < 0 {
		return s.at
	}
	v := s.before[i]
	if strict < i && s.happened[i] {
		v = max(v, s.latest(i-1, max(strict, int(s.same[i]))))
	}
	return v
}

// Value returns whether the row is there; unknown where it is not and could have been.
func (s *Sequence) Value() Tri {
	switch {
	case s.began[s.n-1]+s.length > s.at:
		return True
	case s.dim || !s.running || s.dimAt+s.length > s.at:
		return Unknown
	}
	return False
}

// Next returns when the row has become too old, or the time in which something was unknown.
func (s *Sequence) Next(now telemetry.Mono) telemetry.Mono {
	due := telemetry.Never
	if t := s.began[s.n-1] + s.length; t > now {
		due = t
	}
	if t := s.dimAt + s.length; !s.dim && t > now {
		due = min(due, t)
	}
	return due
}

// Length is the time within which the row must come.
func (s *Sequence) Length() time.Duration { return time.Duration(s.length) }

// Bytes is about how much memory it takes.
func (s *Sequence) Bytes() int { return int(unsafe.Sizeof(*s)) }

// MaxBytes is as much, with what its conditions are bound to.
func (s *Sequence) MaxBytes() int { return s.Bytes() + 256 }

// Cost is about what keeping it up takes at one evaluation.
func (s *Sequence) Cost() int { return 4 * s.n }

// AppendState appends, for each condition, its last known value and when the latest row up to it began.
//
//	version 1
//	flags   running, dim
//	dimAt
//	each    last (1 byte), began
func (s *Sequence) AppendState(b []byte) []byte {
	b = appendMono(appendFlags(append(b, sequenceVersion), s.running, s.dim), s.dimAt)
	for i := range s.n {
		b = appendFlags(append(b, byte(s.last[i])), s.began[i] != noRow)
		if s.began[i] != noRow {
			b = appendMono(b, s.began[i])
		}
	}
	return b
}

// SetState takes that over.
func (s *Sequence) SetState(b []byte, by time.Duration, at telemetry.Mono, f *Frame) ([]byte, error) {
	r := newStateReader(b, by, at)
	r.version(sequenceVersion)
	next := *s
	r.flags(&next.running, &next.dim)
	next.dimAt = r.mono()
	r.check(next.dimAt <= at, "it is of after it was written")
	for i := range s.n {
		v, there := r.byte(), false
		r.check(v <= byte(True), "a value is not known")
		r.flags(&there)
		next.last[i], next.began[i] = Tri(v), noRow
		if there {
			next.began[i] = r.mono()
			r.check(next.began[i] <= at, "it is of after it was written")
		}
		if s.events[i] >= 0 {
			next.counted[i] = f.cell(s.events[i]).Events
		}
	}
	if r.err != nil {
		return b, r.err
	}
	// Whatever happened from at on was not seen: as if one of them were unknown.
	next.at, next.before, next.happened, next.dim = at, next.began, [MaxSequence]bool{}, next.running
	*s = next
	return r.b, nil
}

// Continue takes over what another sequence knows.
func (s *Sequence) Continue(from State) bool {
	o, ok := from.(*Sequence)
	if !ok || o.n != s.n {
		return false
	}
	next := *o
	next.length, next.conds, next.events, next.same = s.length, s.conds, s.events, s.same
	next.node, next.device, next.id = s.node, s.device, s.id
	*s = next
	return true
}
