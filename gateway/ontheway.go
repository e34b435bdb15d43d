package main

import (
	"slices"
	"sync"

	"linli/internal/telemetry"
)

// onTheWay knows the samples that have left their bus and are not in the journal yet, so that nobody calls a time
// settled of which something is still to come. It is safe for concurrent use.
type onTheWay struct {
	mu      sync.Mutex
	batches []telemetry.Mono // the earliest time of each batch, in the order of setting out
}

// add notes a batch that sets out and returns what remove is to be called with.
func (w *onTheWay) add(samples []telemetry.Sample) telemetry.Mono {
	first := earliest(samples)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.batches = append(w.batches, first)
	return first
}

// remove notes that a batch is in the journal, or will never get there.
func (w *onTheWay) remove(first telemetry.Mono) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if i := slices.Index(w.batches, first); i >= 0 {
		w.batches = slices.Delete(w.batches, i, i+1)
	}
}

// oldest returns the time of the oldest sample on its way, telemetry.Never where there is none.
func (w *onTheWay) oldest() telemetry.Mono {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.batches) == 0 {
		return telemetry.Never
	}
	return slices.Min(w.batches)
}

func earliest(samples []telemetry.Sample) telemetry.Mono {
	first := telemetry.Never
	for i := range samples {
		first = min(first, samples[i].Time)
	}
	return first
}
