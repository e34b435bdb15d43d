package expr

import (
	"encoding/binary"
	"math"
	"time"

	"linli/internal/telemetry"
)

// State is what a bound expression remembers from one evaluation to the next: a window over time, for instance. It
// belongs to one place in one rule for one device.
type State interface {
	// Key says what is remembered and of which device, so that it is found again by an engine that was compiled anew.
	Key() string
	// Is reports whether it is what node n asks for of device.
	Is(n *Node, device int) bool
	// Update takes the operands as they are from now on. It is called at each evaluation, before any value is used.
	Update(now telemetry.Mono, f *Frame)
	// Next returns when the value may change although no operand does, later than now; Never where it cannot.
	Next(now telemetry.Mono) telemetry.Mono
	// Length is how far back it looks: for so long after the start it has not seen everything. 0 where that is not so.
	Length() time.Duration
	// Bytes is about how much memory it takes at present, MaxBytes the most that it can come to take.
	Bytes() int
	MaxBytes() int
	// Cost is about what keeping it up takes at one evaluation, in values read.
	Cost() int
	// AppendState appends everything that SetState needs, and nothing of the operands' present values.
	AppendState(b []byte) []byte
	// SetState takes over what AppendState wrote and returns the bytes behind it. Every time in it is moved by by. The
	// time from at on, the moment when it was written, already moved, is unknown until the next Update. Whatever the
	// bytes are, it costs no more than the state itself may take; beside an error nothing has changed. It is called
	// once the cells have their values, before the first Update.
	SetState(b []byte, by time.Duration, at telemetry.Mono, f *Frame) (rest []byte, err error)
	// Continue takes over what a state of the same key has remembered until now, in an engine that is not used any
	// more, and leaves no gap. It reports whether it could.
	Continue(from State) bool
}

// Share has s use what its expression was bound to for another subject of the same shape, of which of is the state with the
// same number: what was bound for s alone is then free.
func Share(s, of State) {
	if w, ok := s.(*Window); ok {
		if o, ok := of.(*Window); ok {
			w.target = o.target
		}
	}
}

// maxMono bounds the moments and shifts in a state, so that differences of two never overflow: 73 years.
const maxMono = 1 << 61

// errState is every mistake that SetState can find.
type errState string

func (e errState) Error() string { return "a state of a rule cannot be read: " + string(e) }

// stateKey joins what is asked and of whom. id is empty for the subject itself.
func stateKey(n *Node, id string) string {
	if id == "" {
		return n.String()
	}
	return n.String() + " @" + id
}

// The parts of a state, as AppendState writes them: numbers without a sign as varints, moments and shifts as signed
// varints of nanoseconds, floats as eight bytes, little-endian.

func appendMono(b []byte, t telemetry.Mono) []byte { return binary.AppendVarint(b, int64(t)) }

func appendFloat(b []byte, f float64) []byte {
	return binary.LittleEndian.AppendUint64(b, math.Float64bits(f))
}

func appendNum(b []byte, v Num) []byte { return appendFloat(appendFloat(b, v.Lo), v.Hi) }

func appendFlags(b []byte, flags ...bool) []byte {
	v := byte(0)
	for i, f := range flags {
		if f {
			v |= 1 << i
		}
	}
	return append(b, v)
}

// stateReader reads what the functions above wrote. After the first mistake everything reads as zero.
type stateReader struct {
	b   []byte
	by  telemetry.Mono
	err error
}

func newStateReader(b []byte, by time.Duration, at telemetry.Mono) *stateReader {
	r := &stateReader{b: b, by: telemetry.Mono(by)}
	if r.by > maxMono || r.by < -maxMono || at > maxMono || at < -maxMono {
		r.fail("its times are out of range")
	}
	return r
}

func (r *stateReader) fail(why string) {
	if r.err == nil {
		r.err = errState(why)
	}
	r.b = nil
}

// check fails unless ok.
func (r *stateReader) check(ok bool, why string) {
	if !ok {
		r.fail(why)
	}
}

func (r *stateReader) byte() byte {
	if len(r.b) < 1 {
		r.fail("it ends too early")
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

// version reads the first byte of a state, which says what follows.
func (r *stateReader) version(want byte) {
	if v := r.byte(); v != want && r.err == nil {
		r.fail("it is of another version")
	}
}

func (r *stateReader) flags(list ...*bool) {
	v := r.byte()
	for i, f := range list {
		*f = v>>i&1 != 0
	}
	r.check(v>>len(list) == 0, "a flag is not known")
}

// count reads a number of things of which there are at most limit, each of at least size bytes.
func (r *stateReader) count(limit, size int) int {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail("it ends too early")
		return 0
	}
	r.b = r.b[n:]
	if v > uint64(limit) || v*uint64(size) > uint64(len(r.b)) {
		r.fail("it says that there is more than there can be")
		return 0
	}
	return int(v)
}

// mono reads a moment and moves it.
func (r *stateReader) mono() telemetry.Mono { return r.length() + r.by }

// length reads a length of time.
func (r *stateReader) length() telemetry.Mono {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail("it ends too early")
		return 0
	}
	r.b = r.b[n:]
	if v > maxMono || v < -maxMono {
		r.fail("a time is out of range")
		return 0
	}
	return telemetry.Mono(v)
}

// float reads a number that may be infinite but is one.
func (r *stateReader) float() float64 {
	if len(r.b) < 8 {
		r.fail("it ends too early")
		return 0
	}
	f := math.Float64frombits(binary.LittleEndian.Uint64(r.b))
	r.b = r.b[8:]
	r.check(!math.IsNaN(f), "a number is none")
	return f
}

func (r *stateReader) num() Num {
	v := Num{r.float(), r.float()}
	r.check(v.Lo <= v.Hi && !math.IsInf(v.Lo, 1) && !math.IsInf(v.Hi, -1), "a value has no range")
	return v
}
