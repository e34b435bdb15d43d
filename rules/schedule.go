package rules

import (
	"math/bits"

	"linli/internal/telemetry"
)

// bitmap is a set of instances that are taken out in ascending order. Two levels make the search for the next one
// short even with many thousand instances.
type bitmap struct {
	words, summary []uint64
}

func newBitmap(n int) bitmap {
	words := (n + 63) / 64
	return bitmap{make([]uint64, words), make([]uint64, (words+63)/64)}
}

func (b *bitmap) set(i uint32) {
	w := i / 64
	b.words[w] |= 1 << (i % 64)
	b.summary[w/64] |= 1 << (w % 64)
}

func (b *bitmap) empty() bool {
	for _, s := range b.summary {
		if s != 0 {
			return false
		}
	}
	return true
}

// take removes and returns the lowest member.
func (b *bitmap) take() (uint32, bool) {
	for k, s := range b.summary {
		if s == 0 {
			continue
		}
		w := k*64 + bits.TrailingZeros64(s)
		bit := bits.TrailingZeros64(b.words[w])
		if b.words[w] &= b.words[w] - 1; b.words[w] == 0 {
			b.summary[k] &^= 1 << (w % 64)
		}
		return uint32(w*64 + bit), true
	}
	return 0, false
}

// timerHeap holds at most one timer for each instance, the earliest first; of equal ones the lower instance. Its
// entries carry their moments, and each has four beneath it, so that a timer that moves touches few lines of memory.
type timerHeap struct {
	instances []instance
	heap      []timerEntry
}

type timerEntry struct {
	due telemetry.Mono
	i   uint32
}

func (t timerEntry) before(o timerEntry) bool { return t.due < o.due || t.due == o.due && t.i < o.i }

func (h *timerHeap) next() telemetry.Mono {
	if len(h.heap) == 0 {
		return telemetry.Never
	}
	return h.heap[0].due
}

func (h *timerHeap) first() (uint32, telemetry.Mono) {
	if len(h.heap) == 0 {
		return 0, telemetry.Never
	}
	return h.heap[0].i, h.heap[0].due
}

// set gives instance i the timer due; Never takes it away.
func (h *timerHeap) set(i uint32, due telemetry.Mono) {
	in := &h.instances[i]
	switch {
	case in.due == due:
		return
	case in.heapPos < 0:
		in.heapPos = int32(len(h.heap))
		h.heap = append(h.heap, timerEntry{due, i})
	}
	in.due = due
	at := int(in.heapPos)
	if due != telemetry.Never {
		h.place(at, timerEntry{due, i})
		return
	}
	last := h.heap[len(h.heap)-1]
	h.heap = h.heap[:len(h.heap)-1]
	in.heapPos = -1
	if at < len(h.heap) {
		h.place(at, last)
	}
}

// place puts t where it belongs, at is free.
func (h *timerHeap) place(at int, t timerEntry) {
	for at > 0 {
		parent := (at - 1) / 4
		if !t.before(h.heap[parent]) {
			break
		}
		h.put(at, h.heap[parent])
		at = parent
	}
	for {
		child := 4*at + 1
		if child >= len(h.heap) {
			break
		}
		for c := child + 1; c < min(4*at+5, len(h.heap)); c++ {
			if h.heap[c].before(h.heap[child]) {
				child = c
			}
		}
		if !h.heap[child].before(t) {
			break
		}
		h.put(at, h.heap[child])
		at = child
	}
	h.put(at, t)
}

func (h *timerHeap) put(at int, t timerEntry) {
	h.heap[at] = t
	h.instances[t.i].heapPos = int32(at)
}
