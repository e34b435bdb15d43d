package response

import "linli/internal/telemetry"

// timers is a heap of the alerts that have something to come, the earliest first, of one moment those raised first.
type timers struct{ heap []*alert }

// next returns the earliest moment, or Never.
func (h *timers) next() telemetry.Mono {
	if len(h.heap) == 0 {
		return telemetry.Never
	}
	return h.heap[0].due
}

// first returns the alert that is due first. There must be one.
func (h *timers) first() *alert { return h.heap[0] }

// set moves an alert's timer; Never takes it out.
func (h *timers) set(a *alert, due telemetry.Mono) {
	switch {
	case due == telemetry.Never && a.pos < 0:
		return
	case due == telemetry.Never:
		last, at := len(h.heap)-1, a.pos
		h.swap(at, last)
		h.heap[last] = nil
		h.heap, a.pos, a.due = h.heap[:last], -1, due
		if at < last {
			h.fix(at)
		}
		return
	case a.pos < 0:
		a.pos = len(h.heap)
		h.heap = append(h.heap, a)
	}
	a.due = due
	h.fix(a.pos)
}

func (h *timers) less(i, j int) bool {
	a, b := h.heap[i], h.heap[j]
	return a.due < b.due || a.due == b.due && a.number < b.number
}

func (h *timers) swap(i, j int) {
	h.heap[i], h.heap[j] = h.heap[j], h.heap[i]
	h.heap[i].pos, h.heap[j].pos = i, j
}

// fix restores the order after the alert at i got another moment.
func (h *timers) fix(i int) {
	for i > 0 && h.less(i, (i-1)/2) {
		h.swap(i, (i-1)/2)
		i = (i - 1) / 2
	}
	for {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(h.heap); c++ {
			if h.less(c, least) {
				least = c
			}
		}
		if least == i {
			return
		}
		h.swap(i, least)
		i = least
	}
}
