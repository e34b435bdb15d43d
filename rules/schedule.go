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

// timerHeap holds at most one timer for each instance, the earliest first; of equal ones the lower instance.
type timerHeap struct {
	instances []instance
	heap      []uint32
}

func (h *timerHeap) next() telemetry.Mono {
	if len(h.heap) == 0 {
		return telemetry.Never
	}
	return h.instances[h.heap[0]].due
}

func (h *timerHeap) first() (uint32, telemetry.Mono) {
	if len(h.heap) == 0 {
		return 0, telemetry.Never
	}
	i := h.heap[0]
	return i, h.instances[i].due
}

// set gives instance i the timer due; Never takes it away.
func (h *timerHeap) set(i uint32, due telemetry.Mono) {
	in := &h.instances[i]
	switch {
	case in.due == due:
		return
	case in.heapPos < 0:
		in.heapPos = len(h.heap)
		h.heap = append(h.heap, i)
	}
	in.due = due
	if due == telemetry.Never {
		last := len(h.heap) - 1
		at := in.heapPos
		h.swap(at, last)
		h.heap = h.heap[:last]
		in.heapPos = -1
		if at < last {
			h.fix(at)
		}
		return
	}
	h.fix(in.heapPos)
}

func (h *timerHeap) less(a, b int) bool {
	x, y := h.heap[a], h.heap[b]
	if h.instances[x].due != h.instances[y].due {
		return h.instances[x].due < h.instances[y].due
	}
	return x < y
}

func (h *timerHeap) swap(a, b int) {
	h.heap[a], h.heap[b] = h.heap[b], h.heap[a]
	h.instances[h.heap[a]].heapPos = a
	h.instances[h.heap[b]].heapPos = b
}

func (h *timerHeap) fix(at int) {
	for at > 0 && h.less(at, (at-1)/2) {
		h.swap(at, (at-1)/2)
		at = (at - 1) / 2
	}
	for {
		child := 2*at + 1
		if child >= len(h.heap) {
			return
		}
		if child+1 < len(h.heap) && h.less(child+1, child) {
			child++
		}
		if !h.less(child, at) {
			return
		}
		h.swap(at, child)
		at = child
	}
}
