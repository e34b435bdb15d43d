package expr

import (
	"time"
	"unsafe"

	"linli/internal/telemetry"
)

// Absence measures how long a point has had no value: since it lost it, and where it never had one, since the first
// evaluation. It is always known.
type Absence struct {
	op     int // of the point
	node   *Node
	device int
	id     string

	at     telemetry.Mono // of the last Update
	since  telemetry.Mono
	absent bool
}

const absenceVersion = 1

// Key says which point is followed, and of which device.
func (a *Absence) Key() string { return stateKey(a.node, a.id) }

// Is reports whether a is what node n asks for of device.
func (a *Absence) Is(n *Node, device int) bool {
	return a.device == device && (a.node == n || Same(a.node, n))
}

// Update looks whether the point has a value now.
func (a *Absence) Update(now telemetry.Mono, f *Frame) {
	a.at = now
	switch had := f.cell(a.op).HasValue(); {
	case had:
		a.absent = false
	case !a.absent:
		a.absent, a.since = true, now
	}
}

// Value returns the time in seconds, 0 while the point has a value.
func (a *Absence) Value() Num {
	if !a.absent {
		return Exact(0)
	}
	return Exact(max(a.at.Sub(a.since), 0).Seconds())
}

// Next returns when the time is to be looked at again while the point has no value: each second up to ten minutes,
// each ten seconds up to two hours, each minute from then on, all on whole ones.
func (a *Absence) Next(now telemetry.Mono) telemetry.Mono {
	if !a.absent {
		return telemetry.Never
	}
	step := telemetry.Mono(time.Minute)
	switch d := now.Sub(a.since); {
	case d < 10*time.Minute:
		step = telemetry.Mono(time.Second)
	case d < 2*time.Hour:
		step = telemetry.Mono(10 * time.Second)
	}
	return (now/step + 1) * step
}

// Length is none: it knows from the start what it says.
func (a *Absence) Length() time.Duration { return 0 }

// Bytes is about how much memory it takes.
func (a *Absence) Bytes() int { return int(unsafe.Sizeof(*a)) }

// MaxBytes is as much, with what it is bound to.
func (a *Absence) MaxBytes() int { return a.Bytes() + 64 }

// Cost is next to nothing.
func (a *Absence) Cost() int { return 1 }

// AppendState appends whether the point has no value, and since when.
func (a *Absence) AppendState(b []byte) []byte {
	return appendMono(appendFlags(append(b, absenceVersion), a.absent), a.since)
}

// SetState takes that over: a point that had no value and has none yet goes on without one. One that had a value and has
// not been read yet is without one from the first Update on.
func (a *Absence) SetState(b []byte, by time.Duration, at telemetry.Mono, _ *Frame) ([]byte, error) {
	r := newStateReader(b, by, at)
	r.version(absenceVersion)
	absent := false
	r.flags(&absent)
	since := r.mono()
	r.check(!absent || since <= at, "it is of after it was written")
	if r.err != nil {
		return b, r.err
	}
	a.absent, a.since = absent, since
	return r.b, nil
}

// Continue takes over since when the point has had no value.
func (a *Absence) Continue(from State) bool {
	o, ok := from.(*Absence)
	if ok {
		a.at, a.since, a.absent = o.at, o.since, o.absent
	}
	return ok
}

// Undecided asks for how long some alert of the subject has not been decidable. The alerts themselves know: it
// remembers nothing.
type Undecided struct {
	since func() telemetry.Mono
	limit telemetry.Mono
	node  *Node
	at    telemetry.Mono
}

// Key says what is asked.
func (u *Undecided) Key() string { return stateKey(u.node, "") }

// Is reports whether u is what node n asks for.
func (u *Undecided) Is(n *Node, _ int) bool { return u.node == n || Same(u.node, n) }

// Update takes the moment.
func (u *Undecided) Update(now telemetry.Mono, _ *Frame) { u.at = now }

// Value reports whether it has been so for long enough.
func (u *Undecided) Value() Tri {
	since := u.since()
	return TriOf(since != telemetry.Never && u.at-since >= u.limit)
}

// Next returns when it will have been so for long enough.
func (u *Undecided) Next(now telemetry.Mono) telemetry.Mono {
	since := u.since()
	if since == telemetry.Never || since+u.limit <= now {
		return telemetry.Never
	}
	return since + u.limit
}

// Length is none: the alerts that it asks remember for themselves.
func (u *Undecided) Length() time.Duration { return 0 }

// Bytes is about how much memory it takes.
func (u *Undecided) Bytes() int { return int(unsafe.Sizeof(*u)) }

// MaxBytes is as much, with what it is bound to.
func (u *Undecided) MaxBytes() int { return u.Bytes() + 64 }

// Cost is that of the alerts asked, which whoever binds it knows.
func (u *Undecided) Cost() int { return 1 }

// AppendState appends nothing.
func (u *Undecided) AppendState(b []byte) []byte { return b }

// SetState takes nothing over.
func (u *Undecided) SetState(b []byte, _ time.Duration, _ telemetry.Mono, _ *Frame) ([]byte, error) {
	return b, nil
}

// Continue has nothing to take over.
func (u *Undecided) Continue(from State) bool {
	_, ok := from.(*Undecided)
	return ok
}
